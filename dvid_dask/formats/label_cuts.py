"""Supervoxels cut in two inside a label block, along the runs of a sparse volume; and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats import _label_cut_kernels as kernels
from dvid_dask.formats import label_blocks
from dvid_dask.formats._bytes import Buffer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["cut_block", "labels_under", "map_labels"]


def labels_under(
    block: Buffer, runs: NDArray[np.int32], start_zyx: Sequence[int]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The labels of the voxels that lie under runs.

    Parameters
    ----------
    block
        A label block.
    runs
        int32 (n, 4) x, y, z, length, all within the block and without overlap.
    start_zyx
        The block's first voxel.

    Returns
    -------
    labels, voxels
        uint64 and int64 (m,): each label once, in the order in which the runs meet them; 0 among them.

    Examples
    --------
    >>> block = label_blocks.solid_block(7, (16, 16, 16))
    >>> labels_under(block, np.array([[3, 0, 0, 4]], np.int32), (0, 0, 0))
    (array([7], dtype=uint64), array([4]))
    """
    total = int(runs[:, 3].sum())
    found, voxels = np.empty(total, np.uint64), np.empty(total, np.int64)
    with label_blocks.scratch_for(block) as dense:
        label_blocks.decode_block(block, dense)
        z, y, x = (int(v) for v in start_zyx)
        n = kernels.segments_under(dense, runs, z, y, x, found, voxels)
    labels, first, which = np.unique(found[:n], return_index=True, return_inverse=True)
    sums = np.zeros(len(labels), np.int64)
    np.add.at(sums, which, voxels[:n])
    order = np.argsort(first)
    return labels[order], sums[order]


def cut_block(
    block: Buffer,
    runs: NDArray[np.int32],
    start_zyx: Sequence[int],
    old: NDArray[np.uint64],
    split: NDArray[np.uint64],
    remain: NDArray[np.uint64],
) -> tuple[bytes, NDArray[np.int64], int]:
    """Give the voxels of some labels new ids: those under runs one, the rest another.

    Parameters
    ----------
    block, runs, start_zyx
        As for `labels_under`.
    old
        uint64 (n,): labels to cut, ascending.
    split, remain
        uint64 (n,): the new label of each under the runs and elsewhere; none occurs in the block.

    Returns
    -------
    block, split_voxels, others
        The new block, int64 (n,) voxels that became ``split``, and the voxels under runs that have none of the labels.

    Examples
    --------
    >>> block = label_blocks.solid_block(7, (16, 16, 16))
    >>> one = [np.array([v], np.uint64) for v in (7, 20, 21)]
    >>> new, voxels, others = cut_block(block, np.array([[0, 2, 3, 16]], np.int32), (0, 0, 0), *one)
    >>> label_blocks.count(new), voxels.tolist(), others
    ((array([20, 21], dtype=uint64), array([  16, 4080])), [16], 0)
    """
    done = np.zeros(len(old), np.int64)
    with label_blocks.scratch_for(block) as dense:
        label_blocks.decode_block(block, dense)
        z, y, x = (int(v) for v in start_zyx)
        others = int(kernels.relabel_under(dense, runs, z, y, x, old, split, done))
        cut = label_blocks.encode_block(dense)
    return map_labels(cut, old, remain), done, others


def map_labels(block: Buffer, old: NDArray[np.uint64], new: ArrayLike) -> bytes:
    """The block with labels ``old`` (ascending) called ``new``; its table is changed, no voxel."""
    table = label_blocks.labels(block)
    at = np.searchsorted(old, table)
    at[at == len(old)] = 0
    return label_blocks.replace_labels(block, np.where(old[at] == table, np.asarray(new, np.uint64)[at], table))
