"""Whether the runs of a labelvol agree with the voxels of its labelblk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelvol import keys, volumes
from dvid_dask.formats import rles
from dvid_dask.formats.distinct import distinct, distinct_rows

if TYPE_CHECKING:
    from dvid_dask.datatypes.labelvol.source import VoxelSource
    from dvid_dask.versions.space import Space

__all__ = ["disagreements"]

_BATCH = 4096


def disagreements(space: Space, source: VoxelSource, block_shape: Sequence[int]) -> Iterator[str]:
    """What of the runs isn't what the voxels say, in words.

    Parameters
    ----------
    space
        The labelvol's keys.
    source
        The labelblk at the same version.
    block_shape
        Voxels of a block (z, y, x).
    """
    voxels = space.beside(source)
    matched = 0
    for coords in source.stored_blocks(voxels):
        for block, dense in source.dense_blocks(voxels, coords):
            start = [c * n for c, n in zip(block, block_shape, strict=True)]
            labels, offsets, runs = rles.rles_by_label(dense, start)
            own = [keys.runs(label, [block])[0] for label in labels.tolist()]
            ends = offsets.tolist()
            for i, (label, value) in enumerate(zip(labels.tolist(), space.get_many(own), strict=True)):
                if value is None:
                    yield f"runs: label {label} has voxels in block {block} (z, y, x), and no runs"
                    continue
                matched += 1
                if not np.array_equal(rles.normalize(volumes.decode(value)), runs[ends[i] : ends[i + 1]]):
                    yield f"runs: those of label {label} in block {block} (z, y, x) aren't its voxels"
    if space.measure(keys.RUNS).keys == matched:
        return
    for batch in volumes.batches(space.keys(keys.RUNS), _BATCH):
        yield from _surplus(batch, source, voxels)


def _surplus(batch: list[bytes], source: VoxelSource, voxels: Space) -> Iterator[str]:
    """Runs of labels that have no voxel in their blocks."""
    blocks = keys.blocks_of(batch)
    there = {
        block: set(distinct(dense).tolist()) for block, dense in source.dense_blocks(voxels, distinct_rows(blocks))
    }
    for key, (z, y, x) in zip(batch, blocks.tolist(), strict=True):
        if keys.label_of(key) not in there.get((z, y, x), ()):
            yield f"runs: label {keys.label_of(key)} has runs in block {(z, y, x)} (z, y, x), and no voxels"
