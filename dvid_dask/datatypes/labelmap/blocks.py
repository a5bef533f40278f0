"""Label blocks in the instance's key space: where they lie and how they are stored.

A stored value is the zstd of one label block (`dvid_dask.formats.label_blocks`). An absent block is all zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.formats import label_blocks
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["Layout", "blocks_in_box", "compress", "decompress", "existing_blocks", "read_blocks"]

_ZSTD_LEVEL = 1
ENUMERATE = 1 << 16  # blocks of a box that are asked for one by one; of larger boxes the stored keys are listed
READ_BATCH = 512


@dataclass(frozen=True)
class Layout:
    """How an instance cuts its volume.

    Attributes
    ----------
    block_shape
        Voxels of a block (z, y, x).
    levels
        Scales below full resolution that are kept up to date: 0 keeps none.
    """

    block_shape: tuple[int, int, int] = (64, 64, 64)
    levels: int = 0

    @property
    def max_bytes(self) -> int:
        """More than any label block of this shape can have that was let in."""
        z, y, x = self.block_shape
        return 1024 + 22 * z * y * x


def compress(block: bytes) -> bytes:
    """The stored form of a label block."""
    return zstd_compress(block, _ZSTD_LEVEL)


def decompress(value: bytes, layout: Layout) -> bytes:
    """The label block of a stored value.

    Raises
    ------
    DamagedDataError
        If the value is no stored block of this layout.
    """
    try:
        return zstd_decompress(value, layout.max_bytes)
    except FormatError as e:
        raise DamagedDataError(f"a stored label block doesn't decode: {e}") from e


def read_blocks(
    space: AnySpace, layout: Layout, scale: int, block_zyx: ArrayLike
) -> Iterator[tuple[NDArray[np.int32], list[bytes]]]:
    """The label blocks that exist among those asked for, in batches and in the order asked.

    Yields
    ------
    coordinates, blocks
        int32 (n, 3) block coordinates (z, y, x) and the uncompressed label blocks.
    """
    wanted = np.asarray(block_zyx, np.int32).reshape(-1, 3)
    for a in range(0, len(wanted), READ_BATCH):
        part = wanted[a : a + READ_BATCH]
        values = space.get_many(keys.blocks(scale, part))
        there = np.array([v is not None for v in values], np.bool_)
        if there.any():
            yield part[there], parallel(lambda v: decompress(v, layout), [v for v in values if v is not None])


def blocks_in_box(start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int32]:
    """Coordinates (z, y, x) of all blocks in [start, stop), in zyx order."""
    axes = [np.arange(a, b, dtype=np.int32) for a, b in zip(start, stop, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def existing_blocks(
    space: AnySpace, scale: int, start: Sequence[int], stop: Sequence[int]
) -> Iterator[NDArray[np.int32]]:
    """Coordinates of blocks in [start, stop) in batches; of a large box only those stored, in Morton order.

    A box of few blocks is returned as it is, whether its blocks are stored or not.
    """
    sides = [max(0, b - a) for a, b in zip(start, stop, strict=True)]
    if sides[0] * sides[1] * sides[2] <= ENUMERATE:
        yield blocks_in_box(start, stop)
        return
    low, high = np.array(start, np.int64), np.array(stop, np.int64)
    for batch in batches(space.keys(keys.scale_prefix(scale)), 1 << 14):
        found = keys.blocks_of(batch)
        inside = ((found >= low) & (found < high)).all(axis=1)
        if inside.any():
            yield found[inside]


def tables_of(blocks: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The label tables of blocks joined, and where each starts and ends."""
    tables = [label_blocks.labels(b) for b in blocks]
    ends = list(itertools.accumulate((len(t) for t in tables), initial=0))
    joined = np.concatenate(tables) if tables else np.empty(0, np.uint64)
    return joined, np.array(ends, np.int64)
