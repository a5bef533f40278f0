"""How a volume is cut into bricks so that no two tasks ever write the same chunk, at any scale.

A brick has an edge of ``block * 2**n``: under it lie whole blocks of the scales 1 to n, so a task writes those scales
from its own voxels alone. Eight bricks meet in one block of scale n + 1: coarser scales are a next phase, whose bricks
are cut the same way from what the first one stored. That bounds memory by the brick, however many scales there are.

Where the written box cuts a block in two, the block's other voxels stay as they were.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import INT32_MAX, INT32_MIN, Box, Point
from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Grid", "Plan", "halved", "plan_bricks"]

_EDGE = 512
_SMALL_EDGE = 256
_ENOUGH_BRICKS = 16
_LEAF = (128, 256, 512)


def halved(region: Box, block: Point) -> Box:
    """The whole blocks of the next coarser scale that hold a region of whole blocks.

    Examples
    --------
    >>> halved(Box.of((0, 0, 64), (64, 64, 192)), (64, 64, 64))
    Box(start=(0, 0, 0), stop=(64, 64, 128))
    """
    return region.cells((2, 2, 2)).aligned(block)


@dataclass(frozen=True)
class Grid:
    """The bricks of one phase.

    Attributes
    ----------
    scale
        Scale of the voxels that are read. Phase 0 writes it too, from the source.
    levels
        How many coarser scales each brick writes.
    edge
        Voxels of a brick at `scale` (z, y, x).
    block
        Voxels of a block (z, y, x).
    region
        Voxels at `scale` that are covered: whole blocks.
    chosen
        int (n, 3): grid positions of the bricks, where not all cells of the region are wanted.
    """

    scale: int
    levels: int
    edge: Point
    block: Point
    region: Box
    chosen: NDArray[np.int64] | None = field(default=None, compare=False)

    def only(self, blocks: NDArray[np.integer[Any]]) -> Grid:
        """The same grid, with just the bricks that have one of these blocks (n, 3) of `scale`."""
        per_brick = np.array([e // b for e, b in zip(self.edge, self.block, strict=True)], np.int64)
        return replace(self, chosen=distinct_rows(blocks.reshape(-1, 3) // per_brick))

    def among(self, bricks: NDArray[np.int64]) -> Grid:
        """The same grid, with just those of its bricks at these grid positions (n, 3), distinct and in order."""
        if self.chosen is None:
            return replace(self, chosen=bricks)
        held = {tuple(brick) for brick in self.chosen.tolist()}
        kept = [tuple(brick) in held for brick in bricks.tolist()]
        return replace(self, chosen=bricks[np.array(kept, np.bool_)])

    @functools.cached_property
    def cells(self) -> Box:
        """Bricks as cells of their grid."""
        return self.region.cells(self.edge)

    @property
    def count(self) -> int:
        """Number of bricks."""
        return self.cells.size if self.chosen is None else len(self.chosen)

    def cell(self, index: int) -> Point:
        """Grid position of a brick (z, y, x)."""
        if self.chosen is not None:
            z, y, x = self.chosen[index].tolist()
            return z, y, x
        _, ny, nx = self.cells.shape
        z, rest = divmod(index, ny * nx)
        y, x = divmod(rest, nx)
        az, ay, ax = self.cells.start
        return az + z, ay + y, ax + x

    def brick(self, index: int) -> Box:
        """Voxels of a brick at `scale`, within the region."""
        z, y, x = self.cell(index)
        return Box.of((z, y, x), (z + 1, y + 1, x + 1)).scaled(self.edge).intersect(self.region)

    def regions(self, index: int) -> list[Box]:
        """For each scale from `scale` on, the voxels of whole blocks that the brick touches."""
        boxes = [self.brick(index)]
        for _ in range(self.levels):
            boxes.append(halved(boxes[-1], self.block))
        return boxes

    def leaves(self, brick: Box) -> Iterator[Box]:
        """Pieces of whole blocks that are held in memory one at a time."""
        yield from brick.split(_leaf(self.block))

    @property
    def memory(self) -> int:
        """Voxels that a task holds at its peak: a piece, its copy, and the coarser scales of the brick."""
        leaf = _leaf(self.block)
        piece = min(leaf[0], self.edge[0]) * min(leaf[1], self.edge[1]) * min(leaf[2], self.edge[2])
        coarse = self.edge[0] * self.edge[1] * self.edge[2] // 8 if self.levels else 0
        return 2 * piece + coarse + coarse // 4


def _leaf(block: Point) -> Point:
    """A piece is long in x: rows of a file that is laid out in z, y, x are then read in few pages."""
    z, y, x = (b * max(1, n // b) for b, n in zip(block, _LEAF, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Plan:
    """What a job on a box of voxels will do.

    Attributes
    ----------
    box
        Voxels written, scale 0.
    block
        Voxels of a block (z, y, x).
    levels
        Coarser scales that are written.
    itemsize
        Bytes of a voxel.
    grids
        One per phase: the first reads the source, each further one what the one before stored.

    Examples
    --------
    >>> plan = plan_bricks(Box.of((0, 0, 0), (1024, 1024, 2048)), (64, 64, 64), levels=7, itemsize=8)
    >>> [(g.scale, g.levels, g.edge, g.count) for g in plan.grids]
    [(0, 3, (512, 512, 512), 16), (3, 3, (512, 512, 512), 1), (6, 1, (128, 128, 128), 1)]
    """

    box: Box
    block: Point
    levels: int
    itemsize: int
    grids: tuple[Grid, ...]

    @property
    def voxels(self) -> int:
        """Voxels of scale 0."""
        return self.box.size

    @property
    def bytes(self) -> int:
        """Bytes that are read."""
        return self.box.size * self.itemsize

    @property
    def blocks(self) -> int:
        """Blocks of scale 0 that are touched."""
        return self.box.cells(self.block).size

    @property
    def memory(self) -> int:
        """Bytes that one task holds at its peak, beside the process itself."""
        return max(g.memory for g in self.grids) * self.itemsize


def plan_bricks(
    box: Box, block: Point, *, levels: int, itemsize: int, edge: int | None = None, from_scale: int = 0
) -> Plan:
    """Cut a box into bricks.

    Parameters
    ----------
    box
        Voxels of scale 0.
    block
        Voxels of a block (z, y, x).
    levels
        Coarser scales to write.
    itemsize
        Bytes of a voxel.
    edge
        Largest edge of a brick in voxels; by default 512, and 256 where that would give too few bricks to share out.
    from_scale
        0 reads and writes scale 0; otherwise only the scales above `from_scale` are written, from what is stored there.

    Raises
    ------
    BadRequest
        If the box is empty or leaves the range of coordinates.
    """
    if not box:
        raise BadRequest(f"nothing to do: the box {box} holds no voxel")
    if min(box.start) < INT32_MIN or max(box.stop) - 1 > INT32_MAX:
        raise BadRequest(f"the box {box} leaves the range of coordinates, {INT32_MIN} to {INT32_MAX}")
    region = box.aligned(block)
    for _ in range(from_scale):
        region = halved(region, block)
    if edge is None:
        edge = _EDGE if region.cells(_cut(block, _EDGE)[0]).size >= _ENOUGH_BRICKS else _SMALL_EDGE
    grids: list[Grid] = []
    scale = from_scale
    while scale < levels or not grids:
        whole, depth = _cut(block, edge if not grids else _EDGE)
        steps = min(levels - scale, depth)
        if steps == 0 and scale < levels:  # blocks as large as the edge
            whole, steps = (2 * block[0], 2 * block[1], 2 * block[2]), 1
        grid = Grid(scale, steps, _no_larger(whole, block, steps, region), block, region)
        grids.append(grid)
        for _ in range(steps):
            region = halved(region, block)
        scale += steps
    return Plan(box, block, levels, itemsize, tuple(grids))


def _cut(block: Point, edge: int) -> tuple[Point, int]:
    """The largest brick of up to `edge` voxels a side, and how many halvings it allows."""
    depth = max(0, min((edge // b).bit_length() - 1 for b in block))
    z, y, x = (b << max(0, (edge // b).bit_length() - 1) for b in block)
    return (z, y, x), depth


def _no_larger(edge: Point, block: Point, levels: int, region: Box) -> Point:
    """The edge, halved while a brick of half the size would still hold the region and its coarser blocks."""
    z, y, x = (_shrunk(e, b << levels, a, c) for e, b, a, c in zip(edge, block, region.start, region.stop, strict=True))
    return z, y, x


def _shrunk(edge: int, least: int, start: int, stop: int) -> int:
    while edge // 2 >= least and edge // 2 % least == 0 and start // (edge // 2) == (stop - 1) // (edge // 2):
        edge //= 2
    return edge
