"""Stored runs of labels by block: read, merged, split, inside a view or a transaction."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from dvid_dask.datatypes.labelvol import keys
from dvid_dask.errors import BadRequest, DvidError
from dvid_dask.formats import rles
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.versions.space import Space, TxSpace

    AnySpace: TypeAlias = Space | TxSpace

__all__ = [
    "Bounds",
    "DamagedRunsError",
    "batches",
    "decode",
    "encode",
    "give",
    "has_blocks",
    "scan",
    "scan_blocks",
    "take",
    "take_all",
    "take_blocks",
]

Bounds = rles.Bounds
"""Start and stop of a box in voxels (z, y, x), stop exclusive; None where it is open."""

T = TypeVar("T")

Taken: TypeAlias = "list[tuple[NDArray[np.int32], list[bytes]]]"
"""Blocks (z, y, x) and stored runs in each, in batches."""

OPEN: Bounds = ((None, None, None), (None, None, None))

_ZSTD_LEVEL = 1
_MAX_BYTES = 16 << 30  # a block of 1024 voxels a side may be all runs of one voxel; zstd tells the size first
_BATCH = 512
_FAR = 1 << 40


class DamagedRunsError(DvidError, RuntimeError):
    """Stored runs don't decode: the store is damaged or was written by something else. Run `fsck`."""

    status = 500


def batches(items: Iterable[T], size: int = _BATCH) -> Iterator[list[T]]:
    """Items in lists of at most `size`."""
    it = iter(items)
    while batch := list(itertools.islice(it, size)):
        yield batch


def encode(runs: NDArray[np.int32]) -> bytes:
    """The stored form of runs int32 (n, 4) x, y, z, length."""
    return zstd_compress(rles.encode_srles(runs), _ZSTD_LEVEL)


def decode(value: bytes) -> NDArray[np.int32]:
    """The runs of a stored value.

    Raises
    ------
    DamagedRunsError
        If it is none.
    """
    try:
        return rles.decode_srles(zstd_decompress(value, _MAX_BYTES))
    except FormatError as e:
        raise DamagedRunsError(f"stored runs don't decode: {e}") from e


def scan(
    space: AnySpace, label: int, block_shape: Sequence[int], bounds: Bounds = OPEN
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The runs of a label, block by block in the order of z, y, x.

    Parameters
    ----------
    space
        What to read.
    label
        Whose.
    block_shape
        Voxels of a block (z, y, x).
    bounds
        Only blocks that touch these are read; their runs come whole.

    Yields
    ------
    block, runs
        int32 (3,) and int32 (n, 4).
    """
    low, high = _block_bounds(bounds, block_shape)
    start, stop = keys.plane(label, low[0]), keys.plane(label, high[0])
    for key, value in space.scan(keys.label(label), start=start, stop=stop):
        block = keys.blocks_of([key])[0]
        if low[1] <= block[1] < high[1] and low[2] <= block[2] < high[2]:
            yield block, decode(value)


def scan_blocks(
    space: AnySpace, label: int, block_shape: Sequence[int], bounds: Bounds = OPEN
) -> Iterator[NDArray[np.int32]]:
    """The blocks of a label, int32 (n, 3) (z, y, x) in batches, in the order of z, y, x; runs aren't looked at."""
    low, high = _block_bounds(bounds, block_shape)
    start, stop = keys.plane(label, low[0]), keys.plane(label, high[0])
    for batch in batches(space.keys(keys.label(label), start=start, stop=stop)):
        blocks = keys.blocks_of(batch)
        inside = ((blocks >= np.array(low, np.int64)) & (blocks < np.array(high, np.int64))).all(axis=1)
        if inside.any():
            yield blocks[inside]


def has_blocks(space: AnySpace, label: int, block_shape: Sequence[int], bounds: Bounds = OPEN) -> bool:
    """Whether a label has a block that touches the bounds."""
    return next(scan_blocks(space, label, block_shape, bounds), None) is not None


def _block_bounds(bounds: Bounds, block_shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """First blocks within bounds and those behind the last (z, y, x)."""
    low = [-_FAR if v is None else v // b for v, b in zip(bounds[0], block_shape, strict=True)]
    high = [_FAR if v is None else -(-v // b) for v, b in zip(bounds[1], block_shape, strict=True)]
    return low, high


# ------------------------------------------------------------------ changes


def _add(space: TxSpace, label: int, blocks: NDArray[np.int32], values: Sequence[bytes]) -> None:
    """Give a label stored runs in more blocks, together with those that it has there."""
    own = keys.runs(label, blocks)
    for key, value, held in zip(own, values, space.get_many(own), strict=True):
        if held is None:
            space.put(key, value)
        else:
            space.put(key, encode(rles.normalize(np.concatenate([decode(held), decode(value)]))))


def give(space: TxSpace, label: int, taken: Taken) -> None:
    """Give a label what was taken from another."""
    for blocks, values in taken:
        _add(space, label, blocks, values)


def take(space: TxSpace, block_shape: Sequence[int], old: int, runs: NDArray[np.int32]) -> Taken:
    """Take the voxels under runs (sorted, without overlap) from a label.

    Raises
    ------
    BadRequest
        If one of them isn't the label's.
    """
    blocks, offsets, pieces = rles.split_by_block(runs, block_shape)
    ends = offsets.tolist()
    taken: Taken = []
    for at in range(0, len(blocks), _BATCH):
        part = blocks[at : at + _BATCH]
        own = keys.runs(old, part)
        moved = []
        for i, (key, value) in enumerate(zip(own, space.get_many(own), strict=True), start=at):
            block = tuple(blocks[i].tolist())
            if value is None:
                raise BadRequest(f"runs lie in block {block} (z, y, x), which label {old} doesn't have")
            start = [c * n for c, n in zip(block, block_shape, strict=True)]
            cut = pieces[ends[i] : ends[i + 1]]
            under = rles.rles_to_mask(cut, start, block_shape)
            held = rles.rles_to_mask(decode(value), start, block_shape)
            beside = int((under & ~held).sum())
            if beside:
                raise BadRequest(f"{beside} voxels of the runs in block {block} (z, y, x) aren't of label {old}")
            left = held & ~under
            if left.any():
                space.put(key, encode(rles.rles_from_mask(left, start)))
            else:
                space.delete(key)
            moved.append(encode(cut))
        taken.append((part, moved))
    return taken


def take_all(space: TxSpace, label: int) -> Taken:
    """Take all voxels from a label."""
    taken: Taken = []
    for part in batches(list(space.scan(keys.label(label)))):
        listed = [key for key, _ in part]
        space.get_many(listed)  # a scan isn't checked at the commit, these are
        for key in listed:
            space.delete(key)
        taken.append((keys.blocks_of(listed), [value for _, value in part]))
    return taken


def take_blocks(space: TxSpace, old: int, block_zyx: NDArray[np.int32]) -> Taken:
    """Take all voxels in some blocks, each named once, from a label.

    Raises
    ------
    BadRequest
        If the label doesn't have one of the blocks.
    """
    taken: Taken = []
    for at in range(0, len(block_zyx), _BATCH):
        part = block_zyx[at : at + _BATCH]
        own = keys.runs(old, part)
        moved = []
        for key, value, block in zip(own, space.get_many(own), part.tolist(), strict=True):
            if value is None:
                raise BadRequest(f"label {old} doesn't have block {tuple(block)} (z, y, x)")
            space.delete(key)
            moved.append(value)
        taken.append((part, moved))
    return taken
