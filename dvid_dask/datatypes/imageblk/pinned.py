"""An image in one state as an array: what dask reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box

from .boxes import index_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.versions.space import Space

    from .methods.bulk import Bulk

__all__ = ["PinnedImage"]


class PinnedImage:
    """An image at one scale and in one state, as an array of the shape of its extents. Pickles; reads lazily.

    Attributes
    ----------
    extents : Box
        The box in voxels of the scale; index 0 of the array is its start.
    shape, dtype, ndim
        As an array's.
    block : tuple of int
        Voxels of a stored block in z, y, x.
    voxel_bytes : int
        Bytes of a voxel.
    token : str
        Equal tokens mean equal voxels.
    """

    def __init__(self, image: Bulk, space: Space, scale: int, extents: Box) -> None:
        self._image = image
        self._space = space
        self.scale = scale
        self.extents = extents
        self.shape = (*extents.shape, *image.layout.tail)
        self.dtype = image.dtype
        self.ndim = len(self.shape)
        self.block = image.block_shape
        self.voxel_bytes = image.voxel_bytes
        box = "_".join(map(str, (*extents.start, *extents.stop)))
        self.token = f"{image.info.data_uuid}-{space.token}-{scale}-{box}"

    def __dask_tokenize__(self) -> str:
        return self.token

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Part of the array, as numpy would have it: slices, integers and an ellipsis."""
        parts = index_parts(key, self.ndim)
        low: list[int] = []
        lengths: list[int] = []
        inner: list[Any] = []
        for part, length in zip(parts[:3], self.shape, strict=False):
            if isinstance(part, slice):
                wanted = range(length)[part]
                # read what the steps step over, then step: dask fuses x[::2] into the read
                start = min(wanted[0], wanted[-1]) if wanted else 0
                stop = max(wanted[0], wanted[-1]) + 1 if wanted else 0
                inner.append(slice(None, None, wanted.step))
            else:
                start = part + length if part < 0 else part
                if not 0 <= start < length:
                    raise IndexError(f"index {part} is outside an axis of length {length}")
                stop = start + 1
                inner.append(0)
            low.append(start)
            lengths.append(stop - start)
        rest = tuple(parts[3:])
        if 0 in lengths:
            voxels: NDArray[Any] = np.empty((*lengths, *self.shape[3:]), self.dtype)
        else:
            at = [a + b for a, b in zip(self.extents.start, low, strict=True)]
            voxels = self._image.bulk_read(self._space, at, lengths, self.scale)
        out: NDArray[Any] = voxels[(*inner, *rest)]
        return out

    def read(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """A box by its first voxel and its size, z, y, x, in voxels of the scale and wherever it lies."""
        return self._image.bulk_read(self._space, offset, shape, self.scale)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it."""
        return self[...] if dtype is None else self[...].astype(dtype)
