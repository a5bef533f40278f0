"""Elements by block: one value per block holds the elements in it, whole and in the order of their coming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.elements import Elements, decode_many, encode_groups
from dvid_dask.formats.distinct import distinct_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace

__all__ = [
    "blocks_around",
    "elements_at",
    "in_blocks",
    "new_blocks",
    "scan_blocks",
    "store_blocks",
    "stored_blocks",
]

_BATCH = 1024  # blocks read together
ENUMERATE = 1 << 13  # blocks of a box that are asked for one by one; of larger boxes the stored keys are listed
_INT32 = 1 << 31


def block_of(zyx: ArrayLike, shape: Sequence[int]) -> NDArray[np.int32]:
    """int32 (n, 3): the block of each position (z, y, x), of blocks of a shape (z, y, x)."""
    at = np.asarray(zyx, np.int64).reshape(-1, 3)
    return (at // np.asarray(shape, np.int64)).astype(np.int32)


def in_blocks(space: AnySpace, block_zyx: NDArray[np.int32]) -> tuple[Elements, NDArray[np.int64]]:
    """The elements of blocks, block after block, and int64 (n + 1,): where those of each begin."""
    values = space.get_many(keys.blocks(block_zyx))
    there = np.array([v is not None for v in values], np.bool_)
    held, borders = decode_many([v for v in values if v is not None])
    sizes = np.zeros(len(values), np.int64)
    sizes[there] = np.diff(borders)
    return held, np.concatenate([[0], np.cumsum(sizes)])


def elements_at(space: AnySpace, zyx: NDArray[np.int32], shape: Sequence[int]) -> Elements:
    """All elements of the blocks of some positions, some thousand blocks at most being decoded at a time."""
    wanted = distinct_rows(block_of(zyx, shape))
    parts = [in_blocks(space, wanted[at : at + _BATCH])[0] for at in range(0, len(wanted), _BATCH)]
    return Elements.join(parts)


def scan_blocks(space: AnySpace) -> Iterator[tuple[NDArray[np.int32], Elements, NDArray[np.int64]]]:
    """All blocks in the order of z, y, x, some at a time: coordinates, elements, where those of each begin."""
    batch: list[tuple[bytes, bytes]] = []
    for item in space.scan(keys.BLOCK):
        batch.append(item)
        if len(batch) == _BATCH:
            yield _decoded(batch)
            batch = []
    if batch:
        yield _decoded(batch)


def _decoded(batch: list[tuple[bytes, bytes]]) -> tuple[NDArray[np.int32], Elements, NDArray[np.int64]]:
    held, borders = decode_many([value for _, value in batch])
    return keys.blocks_of([key for key, _ in batch]), held, borders


def stored_blocks(space: AnySpace, start: Sequence[int], stop: Sequence[int]) -> Iterator[NDArray[np.int32]]:
    """Coordinates of blocks in [start, stop) (z, y, x), in batches and order: all, or of a large box those stored."""
    low = np.maximum(np.asarray(start, np.int64), -_INT32)
    high = np.minimum(np.asarray(stop, np.int64), _INT32)
    if (high <= low).any():
        return
    sides = (high - low).tolist()
    if sides[0] * sides[1] * sides[2] <= ENUMERATE:
        axes = [np.arange(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        yield np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int32)
        return
    first, last = keys.blocks([low, high - 1])
    batch: list[bytes] = []
    for key in space.keys(keys.BLOCK, first, last + b"\0"):
        batch.append(key)
        if len(batch) == ENUMERATE:
            yield from _inside(batch, low, high)
            batch = []
    yield from _inside(batch, low, high)


def _inside(batch: list[bytes], low: NDArray[np.int64], high: NDArray[np.int64]) -> Iterator[NDArray[np.int32]]:
    if batch:
        found = keys.blocks_of(batch)
        chosen = found[((found >= low) & (found < high)).all(axis=1)]
        if len(chosen):
            yield chosen


def blocks_around(block_zyx: ArrayLike, theirs: Sequence[int], shape: Sequence[int]) -> NDArray[np.int32]:
    """The blocks of a shape that have voxels of blocks of another shape, each once."""
    blocks = np.asarray(block_zyx, np.int64).reshape(-1, 3)
    if tuple(theirs) == tuple(shape):
        return distinct_rows(blocks).astype(np.int32)
    size, own = np.asarray(theirs, np.int64), np.asarray(shape, np.int64)
    low, high = blocks * size // own, ((blocks + 1) * size - 1) // own
    parts = []
    for offset in np.ndindex(*((high - low).max(axis=0) + 1).tolist() if len(blocks) else (0, 0, 0)):
        at = low + np.array(offset)
        parts.append(at[(at <= high).all(axis=1)])
    return distinct_rows(np.concatenate([*parts, np.empty((0, 3), np.int64)])).astype(np.int32)


def grouped(elements: Elements, shape: Sequence[int]) -> tuple[NDArray[np.int32], Elements, NDArray[np.int64]]:
    """Elements ordered by block (z, y, x), then as they are: the blocks, the elements, where those of each begin."""
    block = block_of(elements.zyx, shape)
    order = np.lexsort((block[:, 2], block[:, 1], block[:, 0]))
    block = block[order]
    first = np.ones(len(block), np.bool_)
    first[1:] = (block[1:] != block[:-1]).any(axis=1)
    return block[first], elements[order], np.append(np.flatnonzero(first), len(block))


def new_blocks(elements: Elements, shape: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """Keys and values of whole blocks with these elements: for reloads and bulk loads. Nothing is read.

    Parameters
    ----------
    elements
        All that the blocks will hold, each position once, with relationships.
    shape
        Voxels of a block (z, y, x): `Annotation.block_shape`.
    """
    block, ordered, borders = grouped(elements, shape)
    return list(zip(keys.blocks(block), encode_groups(ordered, borders), strict=True))


def store_blocks(space: TxSpace, block_zyx: NDArray[np.int32], elements: Elements, borders: NDArray[np.int64]) -> None:
    """Make these the elements of blocks. One without elements is kept, as in DVID: versions can tell it from none."""
    space.put_many(zip(keys.blocks(block_zyx), encode_groups(elements, borders), strict=True))
