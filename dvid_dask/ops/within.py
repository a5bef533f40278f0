"""The part of a volume that a job is told to work on: a region of interest, or bricks of a work list.

A voxel of full resolution belongs to the part if its block of the region does, whatever the blocks of the instance are.
A voxel of a coarser scale does if its middle does.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.roi import PinnedRoi, Region, Roi
from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.ops.partition import Brick, WorkList

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.ops.bricks import Grid

__all__ = ["Part", "Within", "within"]

Part = Region | Roi | PinnedRoi | WorkList | Brick | Iterable[Brick]
"""What may be given as the region of a job."""


def within(region: Part | None) -> Within | None:
    """The part of a volume that was asked for; None for all of it.

    Raises
    ------
    BadRequest
        If it holds no block, or is no region.
    """
    if region is None:
        return None
    part = Within(_region(region))
    if not part.region:
        raise BadRequest("nothing to do: the region has no block")
    return part


def _region(region: Part) -> Region:
    if isinstance(region, Region):
        return region
    if isinstance(region, (Roi, PinnedRoi, WorkList, Brick)):
        return region.region
    bricks = list(region) if isinstance(region, Iterable) else [region]
    if not bricks or not all(isinstance(brick, Brick) for brick in bricks):
        raise BadRequest(
            "a region is given as a Region, a roi, or bricks of a work list from `partition`, not as "
            f"{type(region).__name__}"
        )
    return reduce(or_, (brick.region for brick in bricks))


@dataclass(frozen=True)
class Within:
    """A region that a job keeps to.

    Attributes
    ----------
    region
        Its blocks.
    """

    region: Region

    @property
    def identity(self) -> str:
        """For the names of jobs: the same for the same blocks."""
        shape = np.array(self.region.block_shape, np.int64).tobytes()
        return hashlib.blake2b(shape + self.region.spans.tobytes(), digest_size=16).hexdigest()

    def __str__(self) -> str:
        z, y, x = self.region.block_shape
        return f"{len(self.region):,} blocks of {z} x {y} x {x} voxels"

    def bounds(self, box: Box) -> Box:
        """The smallest box (scale 0) around the voxels of the region in another; empty if there are none."""
        cells = box.cells(self.region.block_shape)
        found = self.region.clipped(*cells).voxel_bounds
        return Box.of(box.start, box.start) if found is None else Box.of(*found).intersect(box)

    def touches(self, box: Box) -> bool:
        """Whether a box (scale 0) has a voxel of the region."""
        return bool(self.bounds(box))

    def mask(self, box: Box, scale: int = 0) -> NDArray[np.bool_] | None:
        """Which voxels of a box of a scale are in the region; None if all of them are."""
        mask = self.region.mask(box.start, box.shape, scale)
        return None if mask.all() else mask

    def blocks(self, box: Box, block: Point, scale: int = 0) -> Iterator[NDArray[np.int64]]:
        """Blocks (n, 3; z, y, x) of a scale in a box of its voxels that may have a voxel of the region, in batches."""
        shape = [n << scale for n in block]
        cells = box.cells(block)
        return self.region.rescaled(shape).clipped(*cells).blocks()

    def bricks(self, grid: Grid, origin: Point = (0, 0, 0), scale: int | None = None) -> Grid:
        """A grid with just those of its bricks that may have voxels of the region.

        Parameters
        ----------
        grid
            Of the bricks.
        origin
            Voxel that its coordinates count from.
        scale
            Of these voxels, where it isn't the grid's.
        """
        edge, block = np.array(grid.edge, np.int64), np.array(grid.block, np.int64)
        cells = grid.cells
        found = [np.empty((0, 3), np.int64)]
        for blocks in self.blocks(grid.region.shift(origin), grid.block, grid.scale if scale is None else scale):
            first = blocks * block - np.array(origin, np.int64)
            # where bricks don't begin with blocks, a block lies in several
            corners = [(first + np.array(c) * (block - 1)) // edge for c in itertools.product((0, 1), repeat=3)]
            found.append(distinct_rows(np.concatenate([distinct_rows(c) for c in corners])))
        bricks = distinct_rows(np.concatenate(found))
        inside = ((bricks >= cells.start) & (bricks < cells.stop)).all(axis=1)
        return grid.among(bricks[inside])
