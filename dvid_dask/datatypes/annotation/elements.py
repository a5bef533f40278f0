"""Elements as columns: what a block, a body's list or a tag's list holds, and its form in the store.

Tags and properties are JSON texts, each different one once, and elements hold their numbers. So elements are chosen,
joined, stored and sent on without being taken apart, and the difference between an empty list and none (``null``),
which clients of DVID may see, needs no care.

A stored value is msgpack: ``[1, numbers, relationships, texts]``. Numbers and relationships are packed tables
(`dvid_dask.formats.columns`), texts is msgpack of the two lists, behind a byte that tells whether it is zstd.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvid_dask.datatypes.annotation.errors import DamagedListError
from dvid_dask.datatypes.annotation.kinds import KINDS
from dvid_dask.formats.columns import pack_groups, unpack_groups
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Choice = NDArray[np.bool_] | NDArray[np.int64] | slice

__all__ = ["Elements", "Texts", "decode", "decode_many", "encode", "encode_groups", "find"]

NULL, NO_TAGS, NO_PROP = b"null", b"[]", b"{}"

_FORMAT = 1
_NUMBERS = 8
_REL_NUMBERS = 4
_BIAS = 1 << 31
_ZSTD_FROM = 160
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of JSON texts: `number` int64 (n,) are places in `text`, where equal ones may come more than once."""

    number: NDArray[np.int64]
    text: list[bytes]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """From a text per element."""
        known: dict[bytes, int] = {}
        number = [known.setdefault(t, len(known)) for t in texts]
        return cls(np.array(number, np.int64), list(known))

    @classmethod
    def all_the_same(cls, text: bytes, n: int) -> Texts:
        """The same text for `n` elements."""
        return cls(np.zeros(n, np.int64), [text])

    @classmethod
    def join(cls, parts: Sequence[Texts]) -> Texts:
        """One after the other."""
        starts = itertools.accumulate((len(p.text) for p in parts), initial=0)
        numbers = [p.number + at for p, at in zip(parts, starts, strict=False)]
        return cls(np.concatenate(numbers), list(itertools.chain.from_iterable(p.text for p in parts)))

    def __getitem__(self, choice: Choice) -> Texts:
        return Texts(self.number[choice], self.text)

    def __len__(self) -> int:
        return len(self.number)

    def used(self) -> Texts:
        """Without texts that no element has, where there are many: what was chosen from others has all of theirs."""
        if len(self.text) <= max(len(self.number), 64):
            return self
        numbers, number = np.unique(self.number, return_inverse=True)
        return Texts(number.reshape(-1).astype(np.int64), [self.text[n] for n in numbers.tolist()])

    def each(self) -> list[bytes]:
        """The text of each element."""
        text = self.text
        return [text[n] for n in self.number.tolist()]

    def instead_of_null(self, text: bytes) -> Texts:
        """With this text where there is none."""
        return Texts(self.number, [text if t == NULL else t for t in self.text]) if NULL in self.text else self


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements in some order.

    Attributes
    ----------
    zyx
        int32 (n, 3): position (z, y, x) in voxels.
    kind
        uint8 (n,): places in `dvid_dask.datatypes.annotation.kinds.KINDS`.
    tags, prop
        JSON texts: a list of strings, and an object of strings; ``null`` for none.
    key
        uint64 (n,): what a list is ordered by: the supervoxel in a list of a body; 0 in blocks.
    rel_count
        int64 (n,): relationships of each, -1 for none (``null``). Lists of bodies and tags hold none.
    rel_kind, rel_to
        uint8 (m,) and int32 (m, 3) z, y, x: the relationships of all, one after the other.
    """

    zyx: NDArray[np.int32]
    kind: NDArray[np.uint8]
    tags: Texts
    prop: Texts
    key: NDArray[np.uint64]
    rel_count: NDArray[np.int64]
    rel_kind: NDArray[np.uint8]
    rel_to: NDArray[np.int32]

    @classmethod
    def of(
        cls,
        zyx: ArrayLike,
        kind: ArrayLike,
        tags: Texts | None = None,
        prop: Texts | None = None,
        *,
        key: ArrayLike | None = None,
        rel_count: ArrayLike | None = None,
        rel_kind: ArrayLike = (),
        rel_to: ArrayLike = (),
    ) -> Elements:
        """From columns; those left out are empty."""
        at = np.ascontiguousarray(zyx, np.int32).reshape(-1, 3)
        n = len(at)
        return cls(
            at,
            np.ascontiguousarray(kind, np.uint8).reshape(-1),
            Texts.all_the_same(NO_TAGS, n) if tags is None else tags,
            Texts.all_the_same(NO_PROP, n) if prop is None else prop,
            np.zeros(n, np.uint64) if key is None else np.ascontiguousarray(key, np.uint64),
            np.zeros(n, np.int64) if rel_count is None else np.ascontiguousarray(rel_count, np.int64),
            np.ascontiguousarray(rel_kind, np.uint8).reshape(-1),
            np.ascontiguousarray(rel_to, np.int32).reshape(-1, 3),
        )

    @classmethod
    def none(cls) -> Elements:
        """No elements."""
        return cls.of((), ())

    @classmethod
    def join(cls, parts: Sequence[Elements]) -> Elements:
        """One after the other."""
        parts = [p for p in parts if len(p)]
        if len(parts) < 2:
            return parts[0] if parts else cls.none()
        return cls(
            np.concatenate([p.zyx for p in parts]),
            np.concatenate([p.kind for p in parts]),
            Texts.join([p.tags for p in parts]),
            Texts.join([p.prop for p in parts]),
            np.concatenate([p.key for p in parts]),
            np.concatenate([p.rel_count for p in parts]),
            np.concatenate([p.rel_kind for p in parts]),
            np.concatenate([p.rel_to for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.zyx)

    def __getitem__(self, choice: Choice) -> Elements:
        """Some of them, by mask, places or slice."""
        rels = self._rel_rows(choice)
        return Elements(
            self.zyx[choice],
            self.kind[choice],
            self.tags[choice],
            self.prop[choice],
            self.key[choice],
            self.rel_count[choice],
            self.rel_kind[rels],
            self.rel_to[rels],
        )

    def _rel_rows(self, choice: Choice) -> NDArray[np.int64]:
        if not len(self.rel_kind):
            return np.empty(0, np.int64)
        sizes = np.maximum(self.rel_count, 0)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[choice]
        sizes = sizes[choice]
        ends = np.cumsum(sizes)
        return np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)

    @property
    def rel_owner(self) -> NDArray[np.int64]:
        """int64 (m,): the element of each relationship."""
        return np.repeat(np.arange(len(self)), np.maximum(self.rel_count, 0))

    def with_key(self, key: NDArray[np.uint64]) -> Elements:
        """The same with other keys."""
        return replace(self, key=key)

    def with_rels(self, count: NDArray[np.int64], kind: NDArray[np.uint8], to: NDArray[np.int32]) -> Elements:
        """The same with other relationships."""
        return replace(self, rel_count=count, rel_kind=kind, rel_to=to)

    def listed(self, key: NDArray[np.uint64], *, empties: bool | NDArray[np.bool_] = False) -> Elements:
        """The form of lists of bodies and tags: without relationships.

        Parameters
        ----------
        key
            What the list is ordered by.
        empties
            Where missing tags and properties become empty ones, as DVID has it.
        """
        out = Elements.of(self.zyx, self.kind, self.tags, self.prop, key=key, rel_count=np.full(len(self), -1))
        return out.filled(empties)

    def filled(self, where: bool | NDArray[np.bool_] = True) -> Elements:
        """The same with empty tags, properties and relationships in the place of none."""
        some = np.broadcast_to(np.asarray(where, np.bool_), len(self))
        if not some.any():
            return self
        if some.all():
            count = np.maximum(self.rel_count, 0)
            tags, prop = self.tags.instead_of_null(NO_TAGS), self.prop.instead_of_null(NO_PROP)
            return replace(self, tags=tags, prop=prop, rel_count=count)
        chosen, rest = np.flatnonzero(some), np.flatnonzero(~some)
        joined = Elements.join([self[chosen].filled(), self[rest]])
        return joined[np.argsort(np.concatenate([chosen, rest]), kind="stable")]

    def alone(self) -> Elements:
        """The same, without texts of the elements that they were chosen from."""
        return replace(self, tags=self.tags.used(), prop=self.prop.used())

    def counts(self) -> NDArray[np.int64]:
        """int64 (5,): elements of each kind."""
        return np.bincount(self.kind, minlength=len(KINDS))[: len(KINDS)].astype(np.int64)

    def by_key(self) -> Elements:
        """Ordered by key, then as they are."""
        return self[np.argsort(self.key, kind="stable")]


# ------------------------------------------------------------------ positions

_FEW = 1 << 14


def find(have: NDArray[np.integer], wanted: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each wanted position (n, 3) is in `have` (m, 3); -1 for those that aren't. Of equal ones the first.

    Rows of other widths, and other integers, are found likewise.

    Examples
    --------
    >>> find(np.array([[1, 2, 3], [4, 5, 6]], np.int32), np.array([[4, 5, 6], [1, 2, 2]], np.int32)).tolist()
    [1, -1]
    """
    if not len(have) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    if len(have) * len(wanted) <= _FEW:
        equal = (have[None, :, :] == wanted[:, None, :]).all(axis=2)
        at = equal.argmax(axis=1)
        return np.where(equal[np.arange(len(wanted)), at], at, -1).astype(np.int64)
    both = np.concatenate([have, wanted])
    order = np.lexsort(both.T[::-1])  # stable: what is there comes first
    ranked = both[order]
    starts = np.ones(len(both), np.bool_)
    starts[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    leader = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    found = np.empty(len(both), np.int64)
    found[order] = np.where(leader < len(have), leader, -1)
    return found[len(have) :]


# ------------------------------------------------------------------ the stored form

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, bytes, bytes, bytes]).decode
_decode_texts = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]]).decode


def _local(texts: Texts, group: NDArray[np.int64], groups: int) -> tuple[NDArray[np.int64], list[list[bytes]]]:
    """Numbers of texts within each group, and the texts of each group."""
    known: dict[bytes, int] = {}
    texts = texts.used()
    same = np.array([known.setdefault(t, len(known)) for t in texts.text], np.int64)
    distinct, wide = list(known), max(1, len(known))
    pairs, where = np.unique(group * wide + same[texts.number], return_inverse=True)
    borders = np.searchsorted(pairs, np.arange(groups + 1) * wide)
    chosen = (pairs % wide).tolist()
    lists = [[distinct[c] for c in chosen[a:b]] for a, b in itertools.pairwise(borders.tolist())]
    return where.reshape(-1) - borders[group], lists


def encode_groups(elements: Elements, borders: ArrayLike) -> list[bytes]:
    """Values of many groups: group i holds the elements ``borders[i]`` to ``borders[i + 1]``."""
    edges = np.asarray(borders, np.int64)
    groups = len(edges) - 1
    group = np.repeat(np.arange(groups), np.diff(edges))
    tag, tags = _local(elements.tags, group, groups)
    prop, props = _local(elements.prop, group, groups)
    table = np.empty((_NUMBERS, len(elements)), np.uint64)
    table[:3] = elements.zyx.T.astype(np.int64) + _BIAS
    table[3:] = elements.kind, tag, prop, elements.key, elements.rel_count + 1
    numbers = pack_groups(table, edges)
    rels = [b""] * groups
    if len(elements.rel_kind):
        rel_table = np.empty((_REL_NUMBERS, len(elements.rel_kind)), np.uint64)
        rel_table[0] = elements.rel_kind
        rel_table[1:] = elements.rel_to.T.astype(np.int64) + _BIAS
        ends = np.concatenate([[0], np.cumsum(np.maximum(elements.rel_count, 0))])
        rels = pack_groups(rel_table, ends[edges])
    return [
        _encode((_FORMAT, a, b, _texts(_encode((c, d))))) for a, b, c, d in zip(numbers, rels, tags, props, strict=True)
    ]


def _texts(data: bytes) -> bytes:
    if len(data) >= _ZSTD_FROM:
        packed = zstd_compress(data, 1)
        if len(packed) < len(data):
            return b"\x01" + packed
    return b"\x00" + data


def encode(elements: Elements) -> bytes:
    """The value of one group."""
    return encode_groups(elements, [0, len(elements)])[0]


def decode(value: bytes | None) -> Elements:
    """The elements of a stored value; none of none.

    Raises
    ------
    DamagedListError
        If the bytes are no such value.
    """
    return Elements.none() if value is None else decode_many([value])[0]


def decode_many(values: Sequence[bytes]) -> tuple[Elements, NDArray[np.int64]]:
    """The elements of many values, one after the other, and int64 (n + 1,): where those of each begin.

    Raises
    ------
    DamagedListError
        As `decode`.
    """
    if not values:
        return Elements.none(), np.zeros(1, np.int64)
    try:
        parts = [_decode(value) for value in values]
        if any(p[0] != _FORMAT for p in parts):
            raise DamagedListError(f"a list of elements has a form other than {_FORMAT}")
        table, borders = unpack_groups([p[1] for p in parts], _NUMBERS)
        with_rels = [p[2] for p in parts if p[2]]
        rel_table = unpack_groups(with_rels, _REL_NUMBERS)[0] if with_rels else np.empty((_REL_NUMBERS, 0), np.uint64)
        texts = [_decode_texts(_opened(p[3])) for p in parts]
    except (msgspec.DecodeError, FormatError) as error:
        raise DamagedListError(f"a list of elements doesn't decode: {error}") from error
    rows = np.diff(borders)
    rel_count = table[7].astype(np.int64) - 1
    if int(np.maximum(rel_count, 0).sum()) != rel_table.shape[1]:
        raise DamagedListError("a list of elements has other relationships than it says")
    return (
        Elements(
            np.ascontiguousarray((table[:3].astype(np.int64) - _BIAS).T.astype(np.int32)),
            table[3].astype(np.uint8),
            _global(table[4], [t[0] for t in texts], rows),
            _global(table[5], [t[1] for t in texts], rows),
            table[6],
            rel_count,
            rel_table[0].astype(np.uint8),
            np.ascontiguousarray((rel_table[1:].astype(np.int64) - _BIAS).T.astype(np.int32)),
        ),
        borders,
    )


def _opened(data: bytes) -> bytes:
    return zstd_decompress(data[1:], _MAX_BYTES) if data[:1] == b"\x01" else data[1:]


def _global(number: NDArray[np.uint64], texts: list[list[bytes]], rows: NDArray[np.int64]) -> Texts:
    starts = np.array([0, *itertools.accumulate(len(t) for t in texts)], np.int64)
    numbers = number.astype(np.int64)
    if len(texts) > 1:
        numbers += np.repeat(starts[:-1], rows)
    if len(numbers) and int(numbers.max()) >= starts[-1]:
        raise DamagedListError("a list of elements names texts that it doesn't have")
    return Texts(numbers, texts[0] if len(texts) == 1 else list(itertools.chain.from_iterable(texts)))
