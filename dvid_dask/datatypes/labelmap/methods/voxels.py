"""Reading voxels: boxes, points, blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.adopted import ADOPTED
from dvid_dask.datatypes.labelmap.arrays import VoxelArray
from dvid_dask.datatypes.labelmap.blocks import existing_blocks
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping
from dvid_dask.datatypes.labelmap.mapping import entries_that_differ
from dvid_dask.datatypes.labelmap.methods.instance import Instance
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.datatypes.labelmap.voxels import check_box, iter_blocks, iter_box, labels_at, read_box
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.versions.meaning import differing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Space
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["VoxelReads", "check_scale"]


_BETWEEN = 1024  # keys that differ between two states, looked at together
_EDITED = 3  # bytes of a key that says that a scale of an adopted volume was edited

BlockFilter = Callable[["NDArray[np.int32]"], "NDArray[np.bool_]"]
Point = tuple[int, int, int]


class VoxelReads(Instance):
    """Voxels of a labelmap at a version."""

    def read(
        self,
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        scale: int = 0,
        *,
        supervoxels: bool = False,
        roi: str = "",
    ) -> NDArray[np.uint64]:
        """The voxels of a box.

        Parameters
        ----------
        offset_zyx, shape_zyx
            The box in voxels of the scale.
        scale
            0 is full resolution; each step halves it.
        supervoxels
            Supervoxels instead of bodies.
        roi
            Name of an ROI instance: blocks outside of it read as 0. Only at scale 0.

        Returns
        -------
        NDArray[uint64]
            (z, y, x); 0 where nothing is stored.

        Raises
        ------
        BadRequest
            If the box can't be read: empty, over 3 GiB, or beyond signed 32-bit coordinates.
        """
        offset, shape = [int(v) for v in offset_zyx], [int(v) for v in shape_zyx]
        check_box(offset, shape)
        view = self.view()
        return read_box(
            view, self.layout, _mapping(view, supervoxels), offset, shape, check_scale(scale), self.roi(roi, scale)
        )

    def read_slabs(
        self,
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        scale: int = 0,
        *,
        supervoxels: bool = False,
        roi: str = "",
    ) -> Iterator[NDArray[np.uint64]]:
        """`read` as consecutive arrays in voxel order, in bounded memory."""
        check_box(offset_zyx, shape_zyx)
        view = self.view()
        seen = self.roi(roi, scale)
        return iter_box(view, self.layout, _mapping(view, supervoxels), offset_zyx, shape_zyx, scale, seen)

    def __getitem__(self, box: Any) -> NDArray[np.uint64]:
        """Bodies of ``[z, y, x]``: numbers and slices. An open end of a slice is that of the extents."""
        return self.array()[box]

    @property
    def supervoxels(self) -> VoxelArray:
        """Indexing it reads supervoxels instead of bodies."""
        return self.array(supervoxels=True)

    def array(self, scale: int = 0, *, supervoxels: bool = False) -> VoxelArray:
        """The voxels of a scale as an array-like pinned to the present state; it pickles, with the state."""
        view = self.view()
        box = (self.extents or Box.of_shape((0, 0, 0))).at_scale(check_scale(scale))
        return VoxelArray(view, self.layout, scale, supervoxels, box)

    def to_dask(self, scale: int = 0, *, supervoxels: bool = False, chunks: Any = None) -> Any:
        """A lazy `dask.array` over the extents of this version, pinned to the present state.

        Parameters
        ----------
        scale
            0 is full resolution.
        supervoxels
            Supervoxels instead of bodies.
        chunks
            As dask takes them (z, y, x); four blocks a side by default.

        Returns
        -------
        dask.array.Array
            uint64; its first voxel is the extents' first voxel.
        """
        return self.array(scale, supervoxels=supervoxels).to_dask(chunks)

    def to_xarray(self, scale: int = 0, *, supervoxels: bool = False, chunks: Any = None) -> Any:
        """`to_dask` as an `xarray.DataArray`, with the physical positions of voxel centres as coordinates.

        They are in `voxel_units`; the origin is the centre of voxel 0 at scale 0, as for images.
        """
        import xarray

        array = self.array(scale, supervoxels=supervoxels)
        step = 2**scale
        coords = {
            axis: (((first + np.arange(n)) * step + (step - 1) / 2) * size, {"units": unit})
            for axis, first, n, size, unit in zip(
                "zyx", array.box.start, array.shape, self.voxel_size, self.voxel_units, strict=True
            )
        }
        return xarray.DataArray(
            array.to_dask(chunks),
            dims=("z", "y", "x"),
            coords={axis: (axis, values, attrs) for axis, (values, attrs) in coords.items()},
            name=self.name,
            attrs={"version": self.version.uuid, "scale": scale},
        )

    def labels_at(self, points_zyx: ArrayLike, scale: int = 0, *, supervoxels: bool = False) -> NDArray[np.uint64]:
        """Labels at points int (n, 3) (z, y, x) of the scale; 0 where nothing is stored."""
        view = self.view()
        return labels_at(view, self.layout, _mapping(view, supervoxels), points_zyx, check_scale(scale))

    def labels_in(self, space: AnySpace, points_zyx: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Bodies and supervoxels at points int (n, 3) (z, y, x) of full resolution, read through a space.

        For instances that follow this one: what is read through the space of a transaction (`Mutation.reading`) is
        checked at its commit.

        Returns
        -------
        bodies, supervoxels
            uint64 (n,) each; 0 where nothing is stored.
        """
        supervoxels = labels_at(space, self.layout, None, points_zyx)
        return LabelMapping(space).bodies(supervoxels), supervoxels

    def written_between(self, before: Space, after: Space) -> Iterator[NDArray[np.int32]]:
        """Blocks whose voxels differ between two states of one history, int32 (n, 3) (z, y, x), some at a time.

        Raises
        ------
        Conflict
            If it was adopted between them, or its base moved: then it may be any block.
        """
        if any(len(key) != _EDITED for key in differing(before, after, ADOPTED)):
            raise Conflict(f"{self.name!r} was adopted anew meanwhile: what changed in it isn't known")
        for part in batches(differing(before, after, keys.scale_prefix(0)), _BETWEEN):
            yield keys.blocks_of(part)

    def moved_between(
        self, before: Space, after: Space
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]]:
        """Supervoxels whose body differs between two states, by the mapping alone, and both bodies, some at a time."""
        for part in batches(differing(before, after, keys.MAPPING), _BETWEEN):
            pages = zip(before.get_many(part), after.get_many(part), strict=True)
            ids = np.concatenate([entries_that_differ(one, other) for one, other in pages])
            old, new = LabelMapping(before).bodies(ids), LabelMapping(after).bodies(ids)
            moved = old != new
            if moved.any():
                yield ids[moved], old[moved], new[moved]

    def blocks(
        self,
        start_zyx: Sequence[int],
        stop_zyx: Sequence[int],
        scale: int = 0,
        *,
        supervoxels: bool = False,
    ) -> Iterator[tuple[Point, bytes, NDArray[np.uint64] | None]]:
        """Blocks stored in a box of block coordinates [start, stop), z y x.

        Yields
        ------
        coordinate, block, table
            The label block with supervoxels, and its label table as bodies; None where that is the block's own.
        """
        view = self.view()
        mapping = _mapping(view, supervoxels)
        for coords in existing_blocks(view, check_scale(scale), start_zyx, stop_zyx):
            yield from iter_blocks(view, self.layout, mapping, scale, coords)

    def specific_blocks(
        self, block_zyx: ArrayLike, scale: int = 0, *, supervoxels: bool = False
    ) -> Iterator[tuple[Point, bytes, NDArray[np.uint64] | None]]:
        """`blocks` of a list of coordinates."""
        view = self.view()
        coords = np.asarray(block_zyx, np.int32).reshape(-1, 3)
        return iter_blocks(view, self.layout, _mapping(view, supervoxels), check_scale(scale), coords)

    def roi(self, name: str, scale: int = 0) -> BlockFilter | None:
        """The blocks that an ROI instance of this version lets be seen; None for an empty name.

        Where the ROI's blocks have another size than this instance's, a block is seen if its middle voxel is in it.

        Raises
        ------
        BadRequest
            If there is no such ROI, or the scale is not 0.
        """
        if not name:
            return None
        if scale:
            raise BadRequest(f"an ROI is known in blocks of scale 0; it can't mask scale {scale}")
        if name not in self.version or self.version[name].typename != "roi":
            raise BadRequest(f"there is no ROI named {name!r}")
        region: Any = self.version[name]
        seen: BlockFilter = functools.partial(region.pin().contains_blocks, block_shape=self.block_shape)
        return seen


def _mapping(view: Space, supervoxels: bool) -> LabelMapping | None:
    return None if supervoxels else LabelMapping(view)


def check_scale(scale: int) -> int:
    """A scale that keys can name.

    Raises
    ------
    BadRequest
        If it is not 0 to 255.
    """
    if not 0 <= scale <= 255:
        raise BadRequest(f"scale {scale} is out of range: expected 0 to 255")
    return scale
