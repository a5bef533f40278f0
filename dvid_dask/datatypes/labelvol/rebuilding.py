"""Runs of all labels made anew from the voxels of the labelblk, a few blocks in a commit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelvol import keys, volumes
from dvid_dask.formats import rles
from dvid_dask.formats.distinct import distinct, distinct_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.datatypes.labelvol.datatype import LabelVol
    from dvid_dask.datatypes.labelvol.source import VoxelSource
    from dvid_dask.versions.space import Space

    AnySpace = Space | TxSpace

__all__ = ["rebuild", "write_blocks"]

_BLOCKS = 512
_KEYS = 4096

Block = tuple[int, int, int]


def write_blocks(
    space: TxSpace, source: VoxelSource, voxels: AnySpace, block_zyx: NDArray[np.int32], block_shape: Sequence[int]
) -> dict[Block, NDArray[np.uint64]]:
    """Store the runs of all labels in some blocks; returns the labels of each block that is stored, ascending."""
    found: dict[Block, NDArray[np.uint64]] = {}
    for block, dense in source.dense_blocks(voxels, block_zyx):
        start = [c * n for c, n in zip(block, block_shape, strict=True)]
        labels, offsets, runs = rles.rles_by_label(dense, start)
        for label, a, b in zip(labels.tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            space.put(keys.runs(label, [block])[0], volumes.encode(runs[a:b]))
        found[block] = labels
    return found


def rebuild(
    labelvol: LabelVol, source: VoxelSource, mutate: Callable[[Callable[[Mutation, TxSpace], None]], Any]
) -> None:
    """Make all runs anew; see `LabelVol.rebuild`.

    Parameters
    ----------
    labelvol
        Whose.
    source
        Its labelblk.
    mutate
        `LabelVol.mutate`, with who asks.
    """

    def store(blocks: NDArray[np.int32], m: Mutation, space: TxSpace) -> None:
        there = m.reading(source)  # type: ignore[arg-type]
        labels = write_blocks(space, source, there, blocks, labelvol.block_shape).values()
        labelvol.note_labels(space, max((int(found[-1]) for found in labels if len(found)), default=0))

    def drop(listed: list[bytes], m: Mutation, space: TxSpace) -> None:
        blocks = keys.blocks_of(listed)
        there = m.reading(source)  # type: ignore[arg-type]
        held = {b: set(distinct(v).tolist()) for b, v in source.dense_blocks(there, distinct_rows(blocks))}
        for key, (z, y, x) in zip(listed, blocks.tolist(), strict=True):
            if keys.label_of(key) not in held.get((z, y, x), ()):
                space.delete(key)

    view = source.view()
    for coords in source.stored_blocks(view):
        for at in range(0, len(coords), _BLOCKS):
            mutate(partial(store, coords[at : at + _BLOCKS]))
    for batch in volumes.batches(labelvol.view(0).keys(keys.RUNS), _KEYS):
        mutate(partial(drop, batch))
