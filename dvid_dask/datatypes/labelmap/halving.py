"""A volume of labels at half the resolution of another, kept in line block by block.

As in DVID's labelblk: the commonest label of 2 x 2 x 2 voxels counts, background too; of equally common ones the
largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress
from dvid_dask.datatypes.labelmap.extents import grow_extents
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.formats.downsample import commonest_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["follow"]

_BATCH = 64

Block = tuple[int, int, int]


def follow(
    space: TxSpace, layout: Layout, source: AnySpace, source_layout: Layout, block_zyx: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Bring a volume in line with blocks of the finer one that were written.

    Parameters
    ----------
    space, layout
        Of the coarse volume, in a transaction.
    source, source_layout
        Of the fine one.
    block_zyx
        Blocks of the fine one (z, y, x).

    Returns
    -------
    NDArray[int32]
        (n, 3): the blocks of the coarse volume that were written.
    """
    half = np.array(source_layout.block_shape, np.int64) // 2
    shape = np.array(layout.block_shape, np.int64)
    under: dict[Block, list[Block]] = {}
    for block in distinct_rows(np.asarray(block_zyx, np.int64).reshape(-1, 3)):
        first, last = block * half // shape, ((block + 1) * half - 1) // shape
        fine = (int(block[0]), int(block[1]), int(block[2]))
        for z in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                for x in range(first[2], last[2] + 1):
                    under.setdefault((z, y, x), []).append(fine)

    def make(task: tuple[Block, bytes | None, list[tuple[Block, bytes | None]]]) -> bytes:
        coarse, old, fines = task
        dense = np.zeros(layout.block_shape, np.uint64)
        if old is not None:
            label_blocks.decode_block(decompress(old, layout), dense)
        begin = np.array(coarse, np.int64) * shape
        for fine, value in fines:
            at = np.array(fine, np.int64) * half
            low, high = np.maximum(at, begin), np.minimum(at + half, begin + shape)
            to = _box(low - begin, high - begin)
            if value is None:
                dense[to] = 0
                continue
            halved = commonest_label(label_blocks.decode_block(decompress(value, source_layout)))
            dense[to] = halved[_box(low - at, high - at)]
        return compress(label_blocks.encode_block(dense))

    for batch in batches(under.items(), _BATCH):
        wanted = sorted({f for _, fines in batch for f in fines})
        held = dict(zip(wanted, source.get_many(keys.blocks(0, wanted)), strict=True))
        block_keys = keys.blocks(0, [coarse for coarse, _ in batch])
        olds = space.get_many(block_keys)
        tasks = [(coarse, old, [(f, held[f]) for f in fines]) for (coarse, fines), old in zip(batch, olds, strict=True)]
        space.put_many(zip(block_keys, parallel(make, tasks, grain=2), strict=True))
    written = np.array(sorted(under), np.int32).reshape(-1, 3)
    if len(written):
        grow_extents(space, Box.of(written.min(axis=0) * shape, (written.max(axis=0) + 1) * shape))
    return written


def _box(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
