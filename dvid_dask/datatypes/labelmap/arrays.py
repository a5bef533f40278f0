"""The voxels of one scale as an array-like: for numpy indexing, for dask, for xarray."""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap.blocks import Layout
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.voxels import check_box, read_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Space

__all__ = ["VoxelArray"]

Point = tuple[int, int, int]


@dataclass(frozen=True)
class VoxelArray:
    """Voxels of a pinned state. Indices are voxel coordinates (z, y, x), also negative ones.

    Attributes
    ----------
    box
        The extents at the scale: where open ends of slices lie, and what `to_dask` covers.
    """

    space: Space
    layout: Layout
    scale: int
    supervoxels: bool
    box: Box

    dtype: ClassVar[np.dtype[np.uint64]] = np.dtype(np.uint64)
    ndim: ClassVar[int] = 3

    @property
    def shape(self) -> Point:
        """Voxels of the extents."""
        return self.box.shape

    def resolve(self, box: Any) -> tuple[list[int], list[int], tuple[int, ...]]:
        """Offset and shape of an index expression, and the axes that a number takes away.

        Raises
        ------
        IndexError
            If it has more than three parts, a step, or something that is neither number nor slice.
        """
        parts = list(box) if isinstance(box, tuple) else [box]
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            parts[at : at + 1] = [slice(None)] * (4 - len(parts))
        parts += [slice(None)] * (3 - len(parts))
        if len(parts) != 3:
            raise IndexError(f"voxels have three axes (z, y, x), got {len(parts)} indices")
        offset, shape, dropped = [], [], []
        for axis, part in enumerate(parts):
            if isinstance(part, slice):
                if part.step not in (None, 1):
                    raise IndexError("voxels are read without a step; take every n-th of the array you get")
                start = self.box.start[axis] if part.start is None else operator.index(part.start)
                stop = self.box.stop[axis] if part.stop is None else operator.index(part.stop)
                offset.append(start)
                shape.append(max(0, stop - start))
            else:
                offset.append(operator.index(part))
                shape.append(1)
                dropped.append(axis)
        return offset, shape, tuple(dropped)

    def __getitem__(self, box: Any) -> NDArray[np.uint64]:
        offset, shape, dropped = self.resolve(box)
        if 0 in shape:
            return np.empty([n for axis, n in enumerate(shape) if axis not in dropped], np.uint64)
        check_box(offset, shape)
        mapping = None if self.supervoxels else Mapping(self.space)
        return read_box(self.space, self.layout, mapping, offset, shape, self.scale).squeeze(dropped)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.space.token, self.space.prefix, self.scale, self.supervoxels, self.box)

    def to_dask(self, chunks: Any = None) -> Any:
        """A lazy `dask.array` of the extents; chunks begin at block borders unless given otherwise."""
        import dask.array
        from dask.base import tokenize

        shape = self.shape
        if chunks is None:
            sides = [4 * b for b in self.layout.block_shape]
            chunks = tuple(_aligned(f, n, s) for f, n, s in zip(self.box.start, shape, sides, strict=True))
        source = _FromFirst(self)
        return dask.array.from_array(source, chunks, name=f"labelmap-{tokenize(self)}", asarray=False, meta=_META)


_META = np.empty((0, 0, 0), np.uint64)


def _aligned(first: int, size: int, side: int) -> tuple[int, ...]:
    """Chunk lengths of an axis that begins at voxel `first`, cut at multiples of `side`."""
    cuts = [first, *range((first // side + 1) * side, first + size, side), first + size]
    return tuple(b - a for a, b in itertools.pairwise(cuts)) if size else (0,)


@dataclass(frozen=True)
class _FromFirst:
    """The same voxels counted from the extents' first, as dask counts."""

    array: VoxelArray

    @property
    def shape(self) -> Point:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.uint64]:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, box: tuple[slice, slice, slice]) -> NDArray[np.uint64]:
        moved = tuple(
            slice(s.start + f, s.stop + f) if isinstance(s, slice) else s + f
            for s, f in zip(box, self.array.box.start, strict=True)
        )
        return self.array[moved]
