"""Steps: what mutations are made of, as values. A mutation keeps the steps that take it back.

==============  =======================================================================
`Move`          supervoxels of one body become another's: merge, cleave, renumber
`Cut`           supervoxels are cut in two
`Join`          two supervoxels become one again
`SetBlocks`     blocks of voxels get other values
`SetIndices`    label indices get other rows, whatever the voxels say
`SetEntries`    entries of the mapping change, whatever the label index says
==============  =======================================================================

`dvid_dask.datatypes.labelmap.undo` carries them out; each gives the step that takes it back. Arrays are little-endian
bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Cut",
    "Join",
    "Move",
    "SetBlocks",
    "SetEntries",
    "SetIndices",
    "Step",
    "as_ids",
    "decode_steps",
    "encode_steps",
    "ids_of",
    "named",
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
    """

    scale: int
    index: bool
    downres: bool
    block_zyx: bytes
    values: list[bytes | None]
    present: list[bytes]


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


Step = Move | Cut | Join | SetBlocks | SetIndices | SetEntries

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
        else:
            blocks |= {(step.scale, *b) for b in np.frombuffer(step.block_zyx, "<i4").reshape(-1, 3).tolist()}
    return np.unique(np.concatenate(ids)) if ids else np.empty(0, np.uint64), blocks
