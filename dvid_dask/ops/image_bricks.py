"""One brick of an image: from voxels to blocks of all its scales by the mean, in bounded memory.

The mean at the faces of the image is over the voxels there are: nothing fades into the background at the border. As
with labels, blocks are made before the transaction, and made anew when a block they depend on has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.imageblk import BlocksWritten, ImageBlk
from dvid_dask.errors import Conflict
from dvid_dask.formats import downsample
from dvid_dask.ops.job import InstanceLedger, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.ops.bricks import Grid
    from dvid_dask.ops.sources import Volume
    from dvid_dask.ops.within import Within

__all__ = ["ImageBricks"]

_ATTEMPTS = 50


class _ChangedMeanwhileError(Exception):
    """A block is no longer what the brick was computed from."""


@dataclass(frozen=True)
class ImageBricks:
    """Runs brick tasks; pickled once per worker.

    Attributes
    ----------
    ledger, phase
        Where what is done is noted.
    grid
        The bricks.
    extents
        All voxels of the image, scale 0, with those to be written.
    source
        Where voxels come from; None reads what is stored at the grid's scale and writes only coarser scales.
    origin
        Voxel of the instance that the source's first voxel is (z, y, x).
    box
        Voxels to write, scale 0.
    within
        Only voxels of this region are written, at the source's scale; without a source, at all coarser scales.
    """

    ledger: InstanceLedger
    phase: str
    grid: Grid
    extents: Box
    source: Volume | None = None
    origin: Point = (0, 0, 0)
    box: Box | None = None
    within: Within | None = None

    def __call__(self, index: int, given: NDArray[Any] | None = None) -> Result:
        """Do one brick and commit it."""
        for _ in range(_ATTEMPTS):
            space = self.ledger.instance.view(0)
            if (done := self.ledger.mark(space, self.phase, index)) is not None:
                return done
            brick = _Brick(self, index, given, space)
            brick.compute()
            try:
                return self.ledger.commit(self.phase, index, brick.write)
            except _ChangedMeanwhileError:
                continue
        raise Conflict(
            f"brick {index} ({self.grid.brick(index)}) was changed by others {_ATTEMPTS} times while it was computed"
        )


class _Brick:
    def __init__(self, task: ImageBricks, index: int, given: NDArray[Any] | None, space: Space) -> None:
        instance = task.ledger.instance
        if not isinstance(instance, ImageBlk):
            raise TypeError(f"{instance} is no image")
        self.task, self.image, self.given, self.space = task, instance, given, space
        self.regions = task.grid.regions(index)
        self.voxels = 0
        self.items: list[tuple[bytes, bytes]] = []
        self.used: dict[bytes, bytes | None] = {}  # stored blocks that the result depends on

    def compute(self) -> None:
        """Everything but the commit."""
        task, scale = self.task, self.task.grid.scale
        coarse = self._stored(1, self.regions[0].at_scale(1)) if len(self.regions) > 1 else None
        leaves = list(task.grid.leaves(self.regions[0]))
        written = {leaf for leaf in leaves if self._touched(leaf)}
        raw = self._raw([leaf for leaf in leaves if leaf in written])
        for leaf in leaves:
            voxels = self._new(leaf, next(raw)) if raw is not None and leaf in written else self._base(leaf)
            if coarse is not None:
                self._halve(voxels, leaf, scale, coarse, self.regions[1])
            del voxels
        for level in range(1, len(self.regions)):
            dense, region = coarse, self.regions[level]
            if dense is None:
                break
            self._keep_outside(dense, region, scale + level)
            self._encode(dense, region, scale + level)
            coarse = self._stored(level + 1, region.at_scale(1)) if level + 1 < len(self.regions) else None
            if coarse is not None:
                self._halve(dense, region, scale + level, coarse, self.regions[level + 1])

    def _encode(self, voxels: NDArray[Any], box: Box, scale: int) -> None:
        self.items += self.image.bulk_encode(self.space, voxels, box.start, scale)

    def _remember(self, box: Box, scale: int) -> None:
        """The result depends on the blocks in this box."""
        layout = self.image.layout
        cells = box.cells(layout.block)
        keys = [layout.block_key(scale, c.start) for c in cells.split((1, 1, 1))]
        self.used.update(zip(keys, self.space.get_many(keys), strict=True))

    def _stored(self, level: int, covered: Box) -> NDArray[Any]:
        """The voxels of a coarser scale before those the brick covers are put in: as stored, where it leaves any."""
        region, scale = self.regions[level], self.task.grid.scale + level
        if covered == region:
            return np.full((*region.shape, *self.image.layout.tail), self.image.background, self.image.dtype)
        self._remember(region, scale)
        return self.image.bulk_read(self.space, region.start, region.shape, scale)

    def _keep_outside(self, voxels: NDArray[Any], box: Box, scale: int) -> None:
        """Where only a region of a coarser scale is to be made anew, put back what is stored beside it."""
        mask = self._mask(box, scale) if self.task.source is None and self.given is None else None
        if mask is not None:
            self._remember(box, scale)
            stored = self.image.bulk_read(self.space, box.start, box.shape, scale)
            voxels[~mask] = stored[~mask]

    def _mask(self, box: Box, scale: int) -> NDArray[np.bool_] | None:
        """Which voxels of a box are written; None for all."""
        return None if self.task.within is None else self.task.within.mask(box, scale)

    def _touched(self, leaf: Box) -> bool:
        """Whether a piece has voxels that are written."""
        return self.task.within is None or self.task.within.touches(self._inside(leaf))

    def _inside(self, box: Box) -> Box:
        """The part of a box that is written."""
        return box if self.task.box is None else box.intersect(self.task.box)

    def _raw(self, leaves: list[Box]) -> Iterator[NDArray[Any]] | None:
        """What the source has for each piece; None if the brick starts from what is stored."""
        insides = [self._inside(leaf) for leaf in leaves]
        if self.given is not None:
            given, start = self.given, self._inside(self.regions[0]).start
            return (given[inside.relative(start).slices()] for inside in insides)
        if self.task.source is None:
            return None
        return self.task.source.read_ahead([inside.relative(self.task.origin) for inside in insides])

    def _base(self, leaf: Box) -> NDArray[Any]:
        """The stored voxels of a piece."""
        self._remember(leaf, self.task.grid.scale)
        return self.image.bulk_read(self.space, leaf.start, leaf.shape, self.task.grid.scale)

    def _new(self, leaf: Box, voxels: NDArray[Any]) -> NDArray[Any]:
        """The voxels of a piece as they will be; its blocks go to those to write."""
        inside, scale = self._inside(leaf), self.task.grid.scale
        mask = self._mask(inside, scale)
        if inside != leaf or mask is not None:
            self._remember(leaf, scale)
            whole = np.array(self.image.bulk_read(self.space, leaf.start, leaf.shape, scale))
            part = whole[inside.relative(leaf.start).slices()]
            if mask is None:
                part[...] = voxels
            else:
                part[mask] = voxels[mask]
            voxels = whole
        self._encode(voxels, leaf, scale)
        self.voxels += inside.size if mask is None else int(np.count_nonzero(mask))
        return voxels

    def _halve(self, voxels: NDArray[Any], box: Box, scale: int, out: NDArray[Any], region: Box) -> None:
        """Put the half-size version of a piece where it belongs in the next scale."""
        inside = box.intersect(self.task.extents.at_scale(scale))
        if not inside:
            return
        part = voxels[inside.relative(box.start).slices()]
        odd = [a % 2 for a in inside.start]
        if any(odd):  # a window that begins before the image: doubled voxels have the mean of those there are
            part = np.pad(part, [(o, 0) for o in odd] + [(0, 0)] * (part.ndim - 3), mode="edge")
        out[inside.at_scale(1).relative(region.start).slices()] = downsample.mean(part)

    def write(self, m: Mutation, space: TxSpace) -> Result:
        """The brick's part of its commit."""
        if self.used and space.get_many(list(self.used)) != list(self.used.values()):
            raise _ChangedMeanwhileError
        space.put_many(self.items)
        if self.voxels:
            m.publish(self.image, BlocksWritten(*self._inside(self.regions[0])))
        return {"voxels": self.voxels}
