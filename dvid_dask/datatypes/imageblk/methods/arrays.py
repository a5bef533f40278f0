"""An image as an array of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk.boxes import check_scale, cuts
from dvid_dask.datatypes.imageblk.methods.bulk import Bulk
from dvid_dask.datatypes.imageblk.pinned import PinnedImage
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    import dask.array
    import xarray

__all__ = ["Arrays"]


class Arrays(Bulk):
    """dask and xarray over an image at a version."""

    def pin(self, scale: int = 0, extents: Box | None = None) -> PinnedImage:
        """An array of one scale in today's state, that pickles and reads the same voxels anywhere.

        Parameters
        ----------
        scale
            0 is full resolution.
        extents
            The box it covers, in voxels of the scale; by default the extents of the image.

        Raises
        ------
        BadRequest
            Nothing was written yet, so there are no extents.
        """
        space = self.view()
        box = extents
        if box is None:
            known = self._read_extents(space)
            if known is None:
                raise BadRequest(
                    f"{self.name!r} has no extents at version {self.version.uuid}: nothing was written yet"
                )
            box = known.at_scale(check_scale(scale))
        return PinnedImage(self, space, scale, box)

    def to_dask(
        self, scale: int = 0, chunks: int | Sequence[int] | None = None, extents: Box | None = None
    ) -> dask.array.Array:
        """The image as a lazy dask array over its extents, pinned to today's state.

        Its first voxel is `extents.start`; chunks end between blocks wherever that is possible.

        Parameters
        ----------
        scale
            0 is full resolution.
        chunks
            Voxels in z, y, x, or one number for all; by default about 16 MB, a multiple of the block size.
        extents
            Another box than the extents of the image, in voxels of the scale.

        Raises
        ------
        BadRequest
            Nothing was written yet, so there are no extents.
        """
        return self._lazy(self.pin(scale, extents), chunks)

    def _lazy(self, pinned: PinnedImage, chunks: int | Sequence[int] | None) -> dask.array.Array:
        import dask.array

        block = self.block_shape
        if chunks is None:
            times = max(1, round((2**24 / self.layout.block_bytes) ** (1 / 3)))
            sides = [n * times for n in block]
        else:
            sides = [chunks] * 3 if isinstance(chunks, int) else list(chunks)
            if len(sides) != 3 or min(sides) < 1:
                raise BadRequest(f"chunks are three positive numbers for z, y, x, not {chunks}")
        spans = [
            tuple(b - a for a, b in cuts(start, stop, n, side))
            for start, stop, n, side in zip(*pinned.extents, block, sides, strict=True)
        ]
        return dask.array.from_array(
            pinned,
            chunks=(*spans, *self.layout.tail),
            name=f"{self.name}-{pinned.token}",
            asarray=False,
            fancy=False,
            lock=False,
            inline_array=False,
        )

    def to_xarray(
        self, scale: int = 0, chunks: int | Sequence[int] | None = None, extents: Box | None = None
    ) -> xarray.DataArray:
        """The image as a lazy DataArray, with the physical positions of voxel centres as coordinates.

        The origin is the centre of voxel 0 at scale 0.
        """
        import xarray

        pinned = self.pin(scale, extents)
        data, box = self._lazy(pinned, chunks), pinned.extents
        coordinates: dict[str, Any] = {}
        for name, start, length, size, unit in zip(
            "zyx", box.start, data.shape, self.voxel_size, self.voxel_units, strict=False
        ):
            # a voxel of scale k stands for 2^k of scale 0
            centres = ((np.arange(length) + start) + 0.5) * 2**scale - 0.5
            coordinates[name] = (name, centres * size, {"units": unit})
        dims = ["z", "y", "x"]
        if self.layout.tail:
            dims.append("channel")
            coordinates["channel"] = list(self.labels)
        attrs = {"uuid": self.version.uuid, "scale": scale, "offset": list(box.start)}
        return xarray.DataArray(data, coordinates, dims, self.name, attrs)
