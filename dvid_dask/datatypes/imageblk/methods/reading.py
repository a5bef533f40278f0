"""Voxels read: boxes, slabs, slices, planes of any orientation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.base import Space, TxSpace
from dvid_dask.datatypes.imageblk.boxes import blocks_of, check_box, check_scale, cuts, parse_index
from dvid_dask.datatypes.imageblk.layout import Layout, Pending, Voxels
from dvid_dask.datatypes.imageblk.methods.instance import Instance
from dvid_dask.datatypes.imageblk.planes import ArbitraryPlane, interpolate
from dvid_dask.formats.distinct import numbered_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SLAB_BYTES", "BlockMask", "Reads"]

SLAB_BYTES = 1 << 24
"""Bytes of voxels that a streamed read holds at a time; twice as many while the next ones are being read.

Below the 32 MiB at which malloc goes to the kernel for each array: fresh pages cost a fifth of a read.
"""

_PLANE_POINTS = 1 << 15

BlockMask = Callable[["NDArray[np.int64]"], "NDArray[np.bool_]"]
"""Which of some blocks (n, 3; z, y, x block coordinates) lie in a region."""


class Reads(Instance):
    """Voxels of an image at a version."""

    def read_box(
        self,
        offset: Sequence[int],
        shape: Sequence[int],
        scale: int = 0,
        *,
        mask: BlockMask | None = None,
        space: Space | None = None,
    ) -> NDArray[Any]:
        """The voxels of a box.

        Parameters
        ----------
        offset, shape
            z, y, x, in voxels of the scale; any alignment.
        scale
            0 is full resolution; every scale halves it. A scale that isn't there reads 0.
        mask
            Voxels of stored blocks outside this region are background (where voxels have one byte, else 0).
        space
            The state to read; the newest one by default.

        Raises
        ------
        BadRequest
            An empty box, one outside int32, or no such scale.
        """
        offset, shape = check_box(offset, shape)
        return self._read(space or self.view(), offset, shape, check_scale(scale), mask)

    def _read(
        self,
        space: Space | TxSpace,
        offset: tuple[int, int, int],
        shape: tuple[int, int, int],
        scale: int,
        mask: BlockMask | None = None,
        *,
        cached: bool = False,
    ) -> NDArray[Any]:
        layout = self.layout
        voxels = layout.voxels(space, scale, cached=cached)
        if voxels is None:
            return np.zeros((*shape, *layout.tail), self.dtype)
        out = voxels.read(offset, shape)
        if mask is not None:
            self._blank(out, space, offset, scale, mask)
        return out

    def _blank(
        self,
        out: NDArray[Any],
        space: Space | TxSpace,
        offset: tuple[int, int, int],
        scale: int,
        mask: BlockMask,
    ) -> None:
        """Set blocks outside a region to what DVID shows there."""
        layout = self.layout
        blocks = blocks_of(layout, offset, out.shape[:3])
        outside = blocks[~mask(blocks)]
        value = self.background if layout.voxel_bytes == 1 else 0
        if value:
            # a block never stored stays 0, whatever the background
            outside = outside[layout.stored(space, scale, outside)]
        for block in outside.tolist():
            part = tuple(
                slice(max(b * n - at, 0), b * n - at + n) for b, n, at in zip(block, layout.block, offset, strict=True)
            )
            out[part] = value

    def read_slabs(
        self,
        offset: Sequence[int],
        shape: Sequence[int],
        scale: int = 0,
        *,
        mask: BlockMask | None = None,
        slab_bytes: int = SLAB_BYTES,
    ) -> Iterator[NDArray[Any]]:
        """A box as slabs along z, from one state, each read while the one before it is being used.

        Slabs end between blocks where one row of blocks fits `slab_bytes`, so that no block is read twice; the
        memory held is twice that, or two slices where a single slice is larger.

        Raises
        ------
        BadRequest
            As `read_box`.
        """
        offset, shape = check_box(offset, shape)
        layout, space = self.layout, self.view()
        # where not even one row of blocks fits, blocks are needed again
        thin = slab_bytes < shape[1] * shape[2] * layout.block[0] * layout.voxel_bytes
        voxels = layout.voxels(space, check_scale(scale), cached=thin)
        return self._slabs(space, voxels, layout, offset, shape, scale, mask, slab_bytes)

    def _slabs(
        self,
        space: Space,
        voxels: Voxels | None,
        layout: Layout,
        offset: tuple[int, int, int],
        shape: tuple[int, int, int],
        scale: int,
        mask: BlockMask | None,
        slab_bytes: int,
    ) -> Iterator[NDArray[Any]]:
        z0, y0, x0 = offset
        plane = shape[1] * shape[2] * layout.voxel_bytes

        def start(z: int, stop: int) -> Pending | None:
            return None if voxels is None else voxels.start((z, y0, x0), (stop - z, shape[1], shape[2]))

        spans = list(cuts(z0, z0 + shape[0], layout.block[0], max(1, slab_bytes // plane)))
        ahead = start(*spans[0])
        for i, (z, stop) in enumerate(spans):
            now = ahead
            ahead = start(*spans[i + 1]) if i + 1 < len(spans) else None
            if now is None:
                yield np.zeros((stop - z, shape[1], shape[2], *layout.tail), self.dtype)
                continue
            out = now.result()
            if mask is not None:
                self._blank(out, space, (z, y0, x0), scale, mask)
            yield out

    def read_slice(
        self,
        axes: tuple[int, int],
        size: Sequence[int],
        offset: Sequence[int],
        scale: int = 0,
        *,
        mask: BlockMask | None = None,
    ) -> NDArray[Any]:
        """A slice along two axes, as an image: rows of its height, columns of its width.

        Parameters
        ----------
        axes
            Of width and height, with x = 0: (0, 1), (0, 2) or (1, 2).
        size
            Width and height.
        offset
            First voxel, z, y, x.
        """
        shape = [1, 1, 1]
        for axis, length in zip(axes, size, strict=True):
            shape[2 - axis] = length
        first, lengths = check_box(offset, shape)
        # the next slice mostly goes through the same blocks
        box = self._read(self.view(), first, lengths, check_scale(scale), mask, cached=True)
        (normal,) = {0, 1, 2} - {2 - axis for axis in axes}
        return box.squeeze(axis=normal)

    def read_plane(self, plane: ArbitraryPlane) -> NDArray[Any]:
        """An image of a plane of any orientation, interpolated between the 8 voxels around each point.

        Blocks never stored count as background.
        """
        layout, space = self.layout, self.view()
        held = layout.voxels(space, 0, cached=True)
        out = np.empty((plane.height, plane.width, *layout.tail), self.dtype)
        row = 0
        for grid in plane.rows(_PLANE_POINTS):
            part = out[row : row + len(grid)]
            voxels, weights = plane.corners(grid.reshape(-1, 3))
            x, y, z = np.moveaxis(voxels.reshape(-1, 3), 1, 0)
            values = self._gather(space, layout, held, z, y, x)
            part[...] = interpolate(values.reshape(8, -1, *layout.tail), weights).reshape(part.shape)
            row += len(grid)
        return out

    def _gather(
        self,
        space: Space,
        layout: Layout,
        held: Voxels | None,
        z: NDArray[np.int64],
        y: NDArray[np.int64],
        x: NDArray[np.int64],
    ) -> NDArray[Any]:
        if held is None:
            return np.full((len(z), *layout.tail), self._background_value)
        values = held.at(z, y, x)
        if self.background:
            of = np.stack([z, y, x], axis=1) // np.array(layout.block)
            blocks, where = numbered_rows(of)
            missing = ~layout.stored(space, 0, blocks)
            values[missing[where.reshape(-1)]] = self._background_value
        return values

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Voxels of a box at scale 0: slices and integers in z, y, x; an open slice ends with the extents.

        Indices are coordinates: -1 is the voxel before 0.
        """
        space = self.view()
        box, drop = parse_index(key, self._read_extents(space))
        out: NDArray[Any] = self._read(space, box.start, box.shape, 0)[drop]
        return out
