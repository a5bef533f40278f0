"""Steps: what mutations are made of, as values. A mutation keeps the steps that take it back.

==============  =======================================================================
`Move`          supervoxels of one body become another's: merge, cleave, renumber
`Cut`           supervoxels are cut in two
`Join`          two supervoxels become one again
`SetBlocks`     blocks of voxels get other values
`SetIndices`    label indices get other rows, whatever the voxels say
`SetEntries`    entries of the mapping change, whatever the label index says
`Restore`       what a whole state of the version says takes the place of what another says
==============  =======================================================================

`dvid_dask.datatypes.labelmap.undo` carries them out; each gives the step that takes it back. Arrays are little-endian
bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvid_dask.formats.distinct import distinct, is_among

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Cut",
    "Join",
    "Move",
    "Restore",
    "SetBlocks",
    "SetEntries",
    "SetIndices",
    "Step",
    "as_ids",
    "decode_steps",
    "encode_steps",
    "ids_of",
    "may_name",
    "named",
    "summary_of",
]


class Move(msgspec.Struct, frozen=True, tag="move"):
    """Supervoxels of `source` become part of `target`.

    Attributes
    ----------
    supervoxels
        Which.
    entries
        A byte each: whether it had an entry in the mapping when it was `target`'s. One without gets none.
    whole
        They are all that `source` has, and it ends with the step.
    fresh
        `target` begins with the step.
    """

    source: int
    target: int
    supervoxels: bytes
    entries: bytes
    whole: bool
    fresh: bool


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """Supervoxels `old` become `split` under runs and `remain` elsewhere.

    Attributes
    ----------
    old, split, remain
        uint64 each; `old` ascends.
    voxels
        uint64 (n, 2): voxels of each `split` and `remain`.
    entries
        A byte each: whether `old` had an entry in the mapping.
    runs
        Reference of the blob that holds the runs.
    downres
        Whether coarser scales follow.
    """

    old: bytes
    split: bytes
    remain: bytes
    voxels: bytes
    entries: bytes
    runs: str
    downres: bool


class Join(Cut, frozen=True, tag="join"):
    """The other way round: all voxels of `split` and `remain` become `old`."""


class SetBlocks(msgspec.Struct, frozen=True, tag="blocks"):
    """Blocks become what they were.

    Attributes
    ----------
    scale, index, downres
        As the voxels were written.
    block_zyx
        int32 (n, 3).
    values
        What to store; None: nothing.
    present
        Digest of what is stored now, empty for nothing; if it is something else, others wrote since.
    kept
        Name of a tree that has the values, if they are too many to be kept here.
    """

    scale: int
    index: bool
    downres: bool
    block_zyx: bytes
    values: list[bytes | None]
    present: list[bytes]
    kept: str = ""


class SetIndices(msgspec.Struct, frozen=True, tag="indices"):
    """Label indices become what they were: protobuf, None for none, and digests of what they are now."""

    bodies: bytes
    values: list[bytes | None]
    present: list[bytes]


class SetEntries(msgspec.Struct, frozen=True, tag="entries"):
    """Entries of the mapping become what they were. `found` and `present_found` are a byte each."""

    ids: bytes
    found: bytes
    values: bytes
    present_found: bytes
    present: bytes


class Restore(msgspec.Struct, frozen=True, tag="restore"):
    """What changed from the state `before` to the state `after` is taken back; both are names of trees.

    Attributes
    ----------
    before, after
        Trees. While a job runs there is no `after`.
    what
        ``edits``: supervoxels moved and cut, and voxels, with all that depends on them. ``voxels``: those within `box`
        alone. ``indices`` and ``mapping``: label indices, entries of the mapping, whatever the rest says.
    box
        First and last block (z, y, x) of scale 0.
    """

    before: str
    after: str
    what: str
    box: tuple[int, int, int, int, int, int] | None = None

    @property
    def back(self) -> Restore:
        """The step that takes this one back."""
        return Restore(self.after, self.before, self.what, self.box)


Step = Move | Cut | Join | SetBlocks | SetIndices | SetEntries | Restore

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Step]).decode


def encode_steps(steps: list[Step]) -> bytes:
    """Steps as bytes."""
    return _encode(steps)


def decode_steps(data: bytes) -> list[Step]:
    """The inverse of `encode_steps`."""
    return _decode(data)


def as_ids(ids: ArrayLike) -> bytes:
    """Ids as a step holds them."""
    return np.asarray(ids, "<u8").tobytes()


def ids_of(data: bytes) -> NDArray[np.uint64]:
    """The inverse of `as_ids`."""
    return np.frombuffer(data, "<u8").astype(np.uint64)


def named(steps: list[Step]) -> tuple[NDArray[np.uint64], set[tuple[int, ...]]]:
    """The bodies and supervoxels that steps name, and the blocks (z, y, x) of scale 0 that they set."""
    ids: list[NDArray[np.uint64]] = []
    blocks: set[tuple[int, ...]] = set()
    for step in steps:
        if isinstance(step, Move):
            ids += [np.array([step.source, step.target], np.uint64), ids_of(step.supervoxels)]
        elif isinstance(step, Cut):  # a Join too
            ids += [ids_of(part) for part in (step.old, step.split, step.remain)]
        elif isinstance(step, SetIndices):
            ids.append(ids_of(step.bodies))
        elif isinstance(step, SetEntries):
            ids.append(ids_of(step.ids))
        elif isinstance(step, SetBlocks):
            blocks |= {(step.scale, *b) for b in np.frombuffer(step.block_zyx, "<i4").reshape(-1, 3).tolist()}
    return distinct(np.concatenate(ids)) if ids else np.empty(0, np.uint64), blocks


# ------------------------------------------------------------------ what steps name, in few bytes

_FEW = 32
_BITS = 4096
_HASHES = 3


def summary_of(steps: list[Step]) -> bytes:
    """What steps name, for `may_name`: few ids and blocks as they are, many as a Bloom filter. Empty for anything."""
    if any(isinstance(step, Restore) for step in steps):
        return b""
    ids, blocks = named(steps)
    names = np.concatenate([ids, _hashes(blocks)])
    if len(names) <= _FEW:
        return b"=" + names.tobytes()
    bits = np.zeros(_BITS, np.bool_)
    bits[_places(names)] = True
    return b"~" + np.packbits(bits).tobytes()


def may_name(summary: bytes, ids: NDArray[np.uint64], blocks: set[tuple[int, ...]]) -> bool:
    """Whether steps of this summary may name one of these; if not, they surely don't."""
    if not summary:
        return True
    names = np.concatenate([ids, _hashes(blocks)])
    if summary[:1] == b"=":
        return bool(is_among(names, np.frombuffer(summary[1:], np.uint64)).any())
    bits = np.unpackbits(np.frombuffer(summary[1:], np.uint8)).astype(np.bool_)
    return bool(bits[_places(names)].all(axis=0).any()) if len(names) else False


def _hashes(blocks: set[tuple[int, ...]]) -> NDArray[np.uint64]:
    """Numbers that stand for blocks; ids of supervoxels are hardly ever as large."""
    if not blocks:
        return np.empty(0, np.uint64)
    table = np.array(sorted(blocks), np.int64).astype(np.uint64)
    mixed = np.zeros(len(table), np.uint64)
    with np.errstate(over="ignore"):
        for column in table.T:
            mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
    return mixed | np.uint64(1 << 63)


def _places(names: NDArray[np.uint64]) -> NDArray[np.int64]:
    """int64 (hashes, n): places of names in a Bloom filter."""
    with np.errstate(over="ignore"):
        mixed = names * np.uint64(0x9E3779B97F4A7C15)
        return np.stack(
            [((mixed >> np.uint64(12 * i + 8)) % np.uint64(_BITS)).astype(np.int64) for i in range(_HASHES)]
        )
