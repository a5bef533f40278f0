"""How counts are kept: one record per label, and for each index type the labels in the order of their sizes.

Storage, below the instance's prefix:

=======================================  ======================================================================
``c`` label                              the record: elements of each kind, little-endian int32, and the rule
``r`` type, 2**32 - 1 - size, label      empty; there for every size above 0
``m``                                    the rule by which AllSyn counts from now on; absent: synapses
=======================================  ======================================================================

Integers in keys are big-endian, so the keys of a type are in the order of `top`: by descending size, then by label.
A record says by which rule its label is listed under AllSyn, so changing the rule needs no halt.

Additions commute: a record is the sum of all changes since it was made, also where that is below zero for a while, and
it stays when all its counts are 0. So two sides of a merge, or a recount and edits beside it, add up. What is shown is
never below 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dvid_dask.datatypes.events import KINDS
from dvid_dask.errors import BadRequest
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.space import Space, TxSpace

__all__ = [
    "COUNT",
    "INDEX_TYPES",
    "RANK",
    "RULE",
    "Ranked",
    "Tally",
    "add",
    "changes",
    "describe",
    "listed",
    "ranked",
    "read",
    "rule_of",
    "scan",
    "set_rule",
    "sizes",
    "tally",
    "total",
]

INDEX_TYPES: Final = ("PostSyn", "PreSyn", "Gap", "Note", "AllSyn", "Voxels")
"""What can be asked for. ``Voxels`` is always 0: DVID has the name and never counts any."""

COUNT, RANK, RULE = b"c", b"r", b"m"

SYNAPSES, EVERYTHING = 0, 1

_LISTED = INDEX_TYPES[:5]
_MAX_SIZE = 2**32 - 1
_RECORD = np.dtype([("count", "<i4", len(KINDS)), ("rule", "u1")])
_RANK_KEY = np.dtype([("class", "S1"), ("type", "u1"), ("inverse", ">u4"), ("label", ">u8")])
_SCAN = 1 << 14


class Ranked(NamedTuple):
    """Labels in order of their sizes.

    Attributes
    ----------
    label : ndarray of uint64, (n,)
    size : ndarray of int64, (n,)
    """

    label: NDArray[np.uint64]
    size: NDArray[np.int64]


class Tally(NamedTuple):
    """Counts by label.

    Attributes
    ----------
    label : ndarray of uint64, (n,)
        Ascending, each once.
    by_kind : ndarray of int64, (n, 5)
        By kind.
    """

    label: NDArray[np.uint64]
    by_kind: NDArray[np.int64]


def tally(label: NDArray[np.uint64], kind: NDArray[np.uint8], sign: NDArray[np.integer] | int = 1) -> Tally:
    """Add up rows of (label, kind, sign); label 0 is left out.

    Examples
    --------
    >>> tally(np.array([7, 7, 0, 3], np.uint64), np.array([1, 2, 1, 2], np.uint8))
    Tally(label=array([3, 7], dtype=uint64), by_kind=array([[0, 0, 1, 0, 0],
           [0, 1, 1, 0, 0]]))
    """
    names, where = np.unique(label, return_inverse=True)
    at = where.astype(np.int64) * len(KINDS) + kind
    weights = None if isinstance(sign, int) and sign == 1 else np.broadcast_to(sign, label.shape)
    flat = np.bincount(at, weights, minlength=len(names) * len(KINDS))
    count = np.rint(flat).astype(np.int64).reshape(len(names), len(KINDS))
    first = 1 if len(names) and names[0] == 0 else 0
    return Tally(names[first:], count[first:])


def total(pieces: Sequence[Tally]) -> Tally:
    """Several tallies added up."""
    label = np.concatenate([np.empty(0, np.uint64), *(p.label for p in pieces)])
    by_kind = np.concatenate([np.empty((0, len(KINDS)), np.int64), *(p.by_kind for p in pieces)])
    if not len(label):
        return Tally(label, by_kind)
    order = np.argsort(label, kind="stable")
    label = label[order]
    starts = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
    return Tally(label[starts], np.add.reduceat(by_kind[order], starts, axis=0))


def column(index_type: str) -> int:
    """The place of an index type.

    Raises
    ------
    BadRequest
        No such type; upper and lower case matter.
    """
    if index_type not in INDEX_TYPES:
        raise BadRequest(f"unknown index type {index_type[:40]!r}: expected {', '.join(INDEX_TYPES)}")
    return INDEX_TYPES.index(index_type)


# ---------------------------------------------------------------------- keys and records


def _count_keys(label: NDArray[np.uint64]) -> list[bytes]:
    data = label.astype(">u8").tobytes()
    return [COUNT + data[at : at + 8] for at in range(0, len(data), 8)]


def _rank_keys(kind: int, label: NDArray[np.uint64], size: NDArray[np.int64]) -> list[bytes]:
    rows = np.empty(len(label), _RANK_KEY)
    rows["class"], rows["type"] = RANK, kind
    rows["inverse"], rows["label"] = _MAX_SIZE - size, label
    data, step = rows.tobytes(), _RANK_KEY.itemsize
    return [data[at : at + step] for at in range(0, len(data), step)]


def _encode(count: NDArray[np.int64], rule: int) -> list[bytes]:
    if count.size and np.abs(count).max() >= 1 << 31:
        raise BadRequest("a label can't have 2**31 elements of one kind, nor can so many leave it")
    rows = np.empty(len(count), _RECORD)
    rows["count"], rows["rule"] = count, rule
    data, step = rows.tobytes(), _RECORD.itemsize
    return [data[at : at + step] for at in range(0, len(data), step)]


def _decode(values: Sequence[bytes | None]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    none = b"\0" * _RECORD.itemsize
    parts = [none if value is None else value for value in values]
    if any(len(part) != len(none) for part in parts):
        raise FormatError(f"a record of counts has {len(none)} bytes, and one found here has not")
    rows = np.frombuffer(b"".join(parts), _RECORD)
    return rows["count"].astype(np.int64), rows["rule"].copy()


def listed(count: NDArray[np.int64], rule: NDArray[np.uint8] | int) -> NDArray[np.int64]:
    """Sizes under each index type but Voxels, (n, 5), from counts by kind, (n, 5)."""
    shown = np.maximum(count, 0)
    out = np.empty_like(shown)
    out[:, :4] = shown[:, 1:]
    out[:, 4] = np.where(np.asarray(rule) == EVERYTHING, shown.sum(axis=1), shown[:, 1:4].sum(axis=1))
    return np.minimum(out, _MAX_SIZE)


def describe(key: bytes) -> dict[str, int] | None:
    """The label of a record's key; None for other keys."""
    return {"label": int.from_bytes(key[1:], "big")} if key[:1] == COUNT else None


# ---------------------------------------------------------------------- reading


def rule_of(space: Space | TxSpace) -> int:
    """By which rule AllSyn counts."""
    held = space.get(RULE)
    return SYNAPSES if held is None else held[0]


def read(space: Space | TxSpace, label: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Counts by kind of labels, int64 (n, 5); none are 0."""
    return _decode(space.get_many(_count_keys(label)))[0]


def sizes(space: Space | TxSpace, label: ArrayLike, index_type: str) -> NDArray[np.int64]:
    """Sizes of labels under an index type, int64 (n,)."""
    at = column(index_type)
    names = np.atleast_1d(np.asarray(label, np.uint64))
    if at == len(_LISTED):
        return np.zeros(len(names), np.int64)
    distinct, where = np.unique(names, return_inverse=True)
    parts = [
        listed(*_decode(space.get_many(_count_keys(distinct[a : a + _SCAN]))))[:, at]
        for a in range(0, len(distinct), _SCAN)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])[where]


def ranked(space: Space | TxSpace, index_type: str, start: int, stop: int, *, least: int = 1) -> Iterator[Ranked]:
    """Places `start` to before `stop` in the order of an index type, of labels of size `least` or more, in pieces."""
    at = column(index_type)
    if at == len(_LISTED) or stop <= start or least > _MAX_SIZE:
        return
    prefix = RANK + bytes([at])
    end = prefix + (_MAX_SIZE + 1 - max(least, 1)).to_bytes(4, "big")
    keys = itertools.islice(space.keys(prefix, stop=end), start, stop)
    while part := list(itertools.islice(keys, _SCAN)):
        rows = np.frombuffer(b"".join(part), _RANK_KEY)
        yield Ranked(rows["label"].astype(np.uint64), _MAX_SIZE - rows["inverse"].astype(np.int64))


def scan(space: Space | TxSpace) -> Iterator[Tally]:
    """All records in order of labels, in pieces."""
    return (Tally(label, count) for label, count, _ in _records(space))


def _records(
    space: Space | TxSpace,
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint8]]]:
    items = iter(space.scan(COUNT))
    while part := list(itertools.islice(items, _SCAN)):
        label = np.frombuffer(b"".join(key[1:] for key, _ in part), ">u8").astype(np.uint64)
        yield label, *_decode([value for _, value in part])


def of_other_rule(space: Space | TxSpace, rule: int) -> NDArray[np.uint64]:
    """Labels that are listed under AllSyn by another rule, at another size."""
    found = [np.empty(0, np.uint64)]
    for label, count, by in _records(space):
        other = by != rule
        found.append(label[other][(listed(count[other], by[other]) != listed(count[other], rule)).any(axis=1)])
    return np.concatenate(found)


def disagreements(space: Space) -> Iterator[str]:
    """Labels that are not listed as their records say, in words."""
    expected = [0] * len(_LISTED)
    for _, count, rule in _records(space):
        for at, n in enumerate((listed(count, rule) > 0).sum(axis=0).tolist()):
            expected[at] += n
    for at, name in enumerate(_LISTED):
        found = 0
        for part in ranked(space, name, 0, 1 << 62):
            found += len(part.label)
            right = listed(*_decode(space.get_many(_count_keys(part.label))))[:, at]
            for i in np.flatnonzero(right != part.size).tolist():
                found -= 1
                yield f"label {part.label[i]} is listed with {part.size[i]} {name}, it has {right[i]}"
        if found != expected[at]:
            yield f"{expected[at]} labels have {name}, {found} are listed rightly"


def changes(step: MergeStep) -> Iterator[Tally]:
    """What the other side of a merge has added to the counts since both were one, in pieces."""
    keys = (key for key in step.changes(COUNT, since=step.bases[0] if step.bases else step.ours))
    while part := list(itertools.islice(keys, _SCAN)):
        label = np.frombuffer(b"".join(key[1:] for key in part), ">u8").astype(np.uint64)
        theirs = _decode(step.theirs.get_many(part))[0]
        yield Tally(label, theirs - _decode(step.bases[0].get_many(part) if step.bases else [None] * len(part))[0])


# ---------------------------------------------------------------------- writing


def set_rule(space: TxSpace, rule: int) -> None:
    """Have AllSyn count by this rule from now on; labels are listed anew when they are next written."""
    if rule != rule_of(space):
        space.put(RULE, bytes([rule]))


def add(space: TxSpace, change: Tally) -> None:
    """Add to the counts of labels, and list them under their new sizes and by the rule of now."""
    if not len(change.label):
        return
    keys = _count_keys(change.label)
    old, old_rule = _decode(space.get_many(keys))
    rule = rule_of(space)
    new = old + change.by_kind
    space.put_many(zip(keys, _encode(new, rule), strict=True))
    relist(space, change.label, listed(old, old_rule), listed(new, rule))


def relist(space: TxSpace, label: NDArray[np.uint64], old: NDArray[np.int64], new: NDArray[np.int64]) -> None:
    """Move labels from their old sizes (n, 5) to new ones in the order of each index type."""
    for at in range(len(_LISTED)):
        moved = old[:, at] != new[:, at]
        for key in _rank_keys(at, *_above_zero(label, old[:, at], moved)):
            space.delete(key)
        space.put_many((key, b"") for key in _rank_keys(at, *_above_zero(label, new[:, at], moved)))


def _above_zero(
    label: NDArray[np.uint64], size: NDArray[np.int64], among: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    chosen = among & (size > 0)
    return label[chosen], size[chosen]


def items(change: Tally, rule: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of labels that have no record yet."""
    yield from zip(_count_keys(change.label), _encode(change.by_kind, rule), strict=True)
    size = listed(change.by_kind, rule)
    for at in range(len(_LISTED)):
        for key in _rank_keys(at, *_above_zero(change.label, size[:, at], np.ones(len(size), np.bool_))):
            yield key, b""
