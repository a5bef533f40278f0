"""Leaves: which voxels of each 8 x 8 x 8 are set. Index order.

Leaves come in the order in which NanoVDB stores them: by root tile, then by the upper node's table, then by the
lower node's. Voxels of a leaf come by x, y, z, z fastest. The voxels of all leaves in this order are numbered from 1:
that is **index order**, the order of everything that belongs to an index grid's voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dvid_dask.formats import label_blocks, rles
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.nanovdb import _kernels as kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Part: TypeAlias = tuple[NDArray[np.int32], NDArray[np.uint64]]

__all__ = ["MAX_LEAVES", "Leaves", "leaves_of_block", "leaves_of_mask", "leaves_of_runs", "leaves_of_voxels"]

MAX_LEAVES = 1 << 26
"""Most leaves that are made of runs or tiles: a run of 16 bytes can claim 2^28 of them."""

MAX_RUNS = 1 << 28

_INT32 = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Leaves:
    """Voxels as leaves, sorted and each with at least one voxel; made by `Leaves.of` and the functions here.

    Attributes
    ----------
    origins
        int32 (n, 3): first voxel of each leaf, x, y, z, multiples of 8.
    masks
        uint64 (n, 8): word x of a leaf holds voxel (x, y, z) as bit 8 y + z.

    Examples
    --------
    >>> leaves = leaves_of_voxels([[0, 0, 0], [1, 2, 3], [-1, 0, 0]])
    >>> leaves.origins.tolist(), len(leaves), leaves.voxels
    ([[-8, 0, 0], [0, 0, 0]], 2, 3)
    >>> leaves.coordinates().tolist()
    [[-1, 0, 0], [0, 0, 0], [1, 2, 3]]
    """

    origins: NDArray[np.int32]
    masks: NDArray[np.uint64]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Leaves:
        """Leaves from pairs of origins and masks in any order; equal origins are united, masks must not be empty."""
        held = list(parts)
        if not held:
            return cls(np.empty((0, 3), np.int32), np.empty((0, 8), np.uint64))
        origins = held[0][0] if len(held) == 1 else np.concatenate([o for o, _ in held])
        masks = held[0][1] if len(held) == 1 else np.concatenate([m for _, m in held])
        order = _tree_order(origins)
        if order is None:
            return cls(origins, masks)
        return cls(*kernels.united(origins, masks, order))

    def __len__(self) -> int:
        return len(self.origins)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """int64 (n,): voxels of each leaf."""
        out = np.empty(len(self), np.int64)
        kernels.sizes(self.masks, out)
        return out

    @property
    def voxels(self) -> int:
        """Voxels in all."""
        return int(self.counts.sum())

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 (n,): place of each leaf's first voxel in index order, from 0 (its index is one more)."""
        return np.cumsum(self.counts) - self.counts

    def coordinates(self) -> NDArray[np.int32]:
        """int32 (voxels, 3): x, y, z of the voxels in index order."""
        out = np.empty((self.voxels, 3), np.int32)
        kernels.voxels(self.origins, self.masks, out)
        return out

    def runs(self, *, max_runs: int = MAX_RUNS) -> NDArray[np.int32]:
        """int32 (n, 4): x, y, z, length, normal runs (see `dvid_dask.formats.rles`).

        Raises
        ------
        ValueError
            If the leaves have more runs than `max_runs`, those of a leaf counted by themselves.
        """
        found, n = kernels.runs(self.origins, self.masks, np.empty((256, 4), np.int32), max_runs)
        if n < 0:
            raise ValueError(f"the voxels make more than {max_runs:,} runs along x")
        return rles.normalize(found[:n])

    def gather(
        self,
        box_zyx: NDArray[np.generic],
        start_zyx: Sequence[int],
        which: NDArray[np.int64],
        out: NDArray[np.generic],
    ) -> None:
        """Copy the values of some leaves' voxels out of an array that covers these leaves.

        Parameters
        ----------
        box_zyx
            Values (z, y, x); its first is that of voxel `start_zyx`.
        start_zyx
            z, y, x.
        which
            Positions of the leaves.
        out
            (voxels,): the values in index order, of which those of the leaves are set.

        Raises
        ------
        ValueError
            If the array doesn't cover a leaf.
        """
        if not len(which):
            return
        low = self.origins[which].astype(np.int64)[:, ::-1] - np.asarray(start_zyx, np.int64)
        if (low < 0).any() or (low + 8 > box_zyx.shape).any():
            raise ValueError(f"an array of {box_zyx.shape} values at {tuple(start_zyx)} (z, y, x) doesn't cover a leaf")
        z, y, x = (int(v) for v in start_zyx)
        kernels.gather(box_zyx, z, y, x, self.origins, self.masks, self.starts, which, out)


def leaves_of_block(block: Buffer, position_zyx: Sequence[int], labels: ArrayLike, *, ascending: bool = False) -> Part:
    """Leaves of the voxels of a label block that have one of the labels; no voxel is expanded.

    Parameters
    ----------
    block
        Compressed label block.
    position_zyx
        Block coordinate.
    labels
        What counts as foreground: the supervoxels of a body, say.
    ascending
        Whether the labels are sorted already: saves sorting many of them for every block.

    Returns
    -------
    origins, masks
        For `Leaves.of`; in no special order, none without voxel.

    Raises
    ------
    FormatError
        If the block can't be decoded.
    ValueError
        If it leaves the range of int32.

    Examples
    --------
    >>> origins, masks = leaves_of_block(label_blocks.solid_block(5, (16, 16, 16)), (0, 0, -1), [5])
    >>> len(origins), origins[0].tolist(), hex(masks[0, 0])
    (8, [-16, 0, 0], '0xffffffffffffffff')
    """
    shape = label_blocks.block_shape(block)
    origin = tuple(int(p) * s for p, s in zip(position_zyx, shape, strict=True))
    if any(not (_INT32[0] <= o and o + s - 1 <= _INT32[1]) for o, s in zip(origin, shape, strict=True)):
        raise ValueError(f"a block at voxel {origin} (z, y, x) leaves the range of signed 32-bit integers")
    buf, grid, hits, zero = label_blocks.table_hits(block, labels, ascending=ascending)
    n = grid[0] * grid[1] * grid[2]
    if hits.size == 1:  # solid
        return _full(origin, grid) if hits[0] else _none()
    if not hits.any() and not zero:
        return _none()
    origins, masks = np.empty((n, 3), np.int32), np.empty((n, 8), np.uint64)
    z, y, x = origin
    result, n = kernels.leaves_of_block(buf, *grid, hits, zero, z, y, x, origins, masks)
    label_blocks.raise_for(result)
    return (origins[:n].copy(), masks[:n].copy()) if 2 * n < len(origins) else (origins[:n], masks[:n])


def _none() -> Part:
    return np.empty((0, 3), np.int32), np.empty((0, 8), np.uint64)


def _full(origin_zyx: Sequence[int], grid_zyx: Sequence[int]) -> Part:
    """A box of leaves that are all voxels."""
    axes = [
        np.arange(o, o + 8 * g, 8, dtype=np.int32)
        for o, g in zip(reversed(origin_zyx), reversed(grid_zyx), strict=True)
    ]
    origins = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return origins, np.full((len(origins), 8), 0xFFFFFFFFFFFFFFFF, np.uint64)


def leaves_of_runs(runs: ArrayLike, *, max_leaves: int = MAX_LEAVES) -> Leaves:
    """Leaves of runs, which may overlap and come in any order.

    Parameters
    ----------
    runs
        int32 (n, 4): x, y, z, length.
    max_leaves
        Most leaves to make.

    Raises
    ------
    ValueError
        If a length isn't positive, a run leaves the range of int32, or there are more leaves.

    Examples
    --------
    >>> leaves_of_runs([[6, 0, 0, 4]]).coordinates().tolist()
    [[6, 0, 0], [7, 0, 0], [8, 0, 0], [9, 0, 0]]
    """
    given = np.asarray(runs, np.int64).reshape(-1, 4)
    if len(given):
        if given[:, 3].min() < 1:
            raise ValueError("a run has no length")
        if given[:, :3].min() < _INT32[0] or given[:, 1:3].max() > _INT32[1] or given[:, ::3].sum(1).max() > 1 << 31:
            raise ValueError("a run leaves the range of signed 32-bit integers")
    origins, masks, n = kernels.leaves_of_runs(given, max_leaves)
    if n < 0:
        raise ValueError(f"the runs touch more than {max_leaves:,} leaves of 8 x 8 x 8 voxels")
    return Leaves.of([(origins, masks)])


def leaves_of_voxels(voxels_xyz: ArrayLike) -> Leaves:
    """Leaves of single voxels, int32 (n, 3) x, y, z, in any order and perhaps repeated.

    Examples
    --------
    >>> len(leaves_of_voxels([[1, 2, 3], [1, 2, 3], [8, 0, 0]]))
    2
    """
    given = np.asarray(voxels_xyz, np.int64).reshape(-1, 3)
    return leaves_of_runs(np.column_stack([given, np.ones(len(given), np.int64)]))


def leaves_of_mask(mask_zyx: NDArray[np.bool_], start_zyx: Sequence[int] = (0, 0, 0)) -> Leaves:
    """Leaves of a mask.

    Parameters
    ----------
    mask_zyx
        bool (z, y, x).
    start_zyx
        Its first voxel.

    Raises
    ------
    ValueError
        If it leaves the range of int32.

    Examples
    --------
    >>> leaves_of_mask(np.ones((2, 1, 1), bool), (7, 0, 0)).coordinates().tolist()
    [[0, 0, 7], [0, 0, 8]]
    """
    mask = np.asarray(mask_zyx, np.bool_)
    if mask.ndim != 3:
        raise ValueError(f"a mask has three dimensions (z, y, x), got {mask.shape}")
    start = [int(v) for v in start_zyx]
    if any(s < _INT32[0] or s + n - 1 > _INT32[1] for s, n in zip(start, mask.shape, strict=True)):
        raise ValueError(f"a mask of {mask.shape} voxels at {tuple(start)} leaves the range of signed 32-bit integers")
    before = [s % 8 for s in start]
    if any(before):
        mask = np.pad(mask, [(b, 0) for b in before])
    n = int(np.prod([-(-s // 8) for s in mask.shape]))
    origins, masks = np.empty((n, 3), np.int32), np.empty((n, 8), np.uint64)
    z, y, x = (s - b for s, b in zip(start, before, strict=True))
    n = kernels.leaves_of_mask(mask, z, y, x, origins, masks)
    return Leaves.of([(origins[:n], masks[:n])])


# ------------------------------------------------------------------ where leaves hang


def entries(origins_xyz: NDArray[np.int32], bits: int, shift: int) -> NDArray[np.int32]:
    """Entries in the tables of nodes whose side has 2**bits children of 2**shift voxels."""
    side = (1 << bits) - 1
    x, y, z = ((origins_xyz[:, c] >> shift) & side for c in range(3))
    return (x << 2 * bits) | (y << bits) | z


def tile_numbers(origins_xyz: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number per root tile, ascending as x, y, z of the tiles do."""
    x, y, z = ((origins_xyz[:, c].astype(np.int64) >> 12) for c in range(3))
    # signed: 20 bits each, moved to be positive
    half = 1 << 19
    return (x + half) << 40 | (y + half) << 20 | (z + half)


def _tree_order(origins: NDArray[np.int32]) -> NDArray[np.int64] | None:
    """The order of leaves in the tree; None if they are in it already, each once."""
    local = (entries(origins, 5, 7).astype(np.int64) << 12) | entries(origins, 4, 3)
    tiles = tile_numbers(origins)
    if len(tiles) and int(tiles.min()) == int(tiles.max()):
        if (local[1:] > local[:-1]).all():
            return None
        return np.argsort(local, kind="stable")
    if ((tiles[1:] > tiles[:-1]) | ((tiles[1:] == tiles[:-1]) & (local[1:] > local[:-1]))).all():
        return None
    return np.lexsort((local, tiles))
