"""Volumes to read from, whatever holds them: one lazy, picklable object with `read(box)` -> numpy (z, y, x).

=====================================  ======================================================================
source                                 how it is given
=====================================  ======================================================================
numpy array, `numpy.memmap`, ``.npy``  the array, or the path; files are memory-mapped wherever they are read
dask array                             the array; its chunks become tasks of the same graph
zarr 2 and 3, OME-Zarr, N5             path or URL of the array (of an OME-Zarr: of the group, its finest scale)
neuroglancer precomputed               path or URL, ``precomputed://...`` or any other spelling of tensorstore
anything tensorstore reads             its JSON spec, its URL with ``|``, or an open `tensorstore.TensorStore`
HDF5                                   path and ``dataset=``, or ``path.h5:/dataset`` (needs the extra ``hdf5``)
labelmap or image of this package      the instance at a version (supervoxels, full resolution)
stack of TIFF, PNG or JPEG             glob, list of files, or one TIFF of many pages; local, or any URL of fsspec;
                                       PNG of 16-bit RGBA holds uint64 labels, as DVID's slices of labelmaps do
=====================================  ======================================================================

Axes come out as (z, y, x): names that the data carries (OME-Zarr, zarr 3, xarray, N5 and precomputed) are obeyed,
`axes=` says what they don't. Other dimensions must have one element or an index in `select=`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask import bases
from dvid_dask.bases.volume import Volume, native, shape3
from dvid_dask.boxes import Box
from dvid_dask.datatypes.base import Datatype
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import LabelVolume
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Volume", "open_volume"]


class _Instance(Volume):
    """A labelmap's supervoxels or an image, at full resolution, in the state it has when this is made."""

    def __init__(self, instance: Datatype) -> None:
        if isinstance(instance, LabelVolume):
            array: Any = instance.array(supervoxels=True)
            self._first = array.box.start
        elif isinstance(instance, ImageBlk):
            array = instance.pin()
            self._first = (0, 0, 0)  # counts from the first voxel itself
        else:
            raise BadRequest(f"{instance.name!r} is a {instance.info.typename}: it holds no volume")
        self._array = array
        self.name = f"{instance.name!r} at version {instance.version.uuid[:12]}"
        self.shape, self.dtype = shape3(array.shape, self.name), np.dtype(array.dtype).newbyteorder("=")
        self.chunks = instance.block_shape
        self.identity = f"instance:{instance.info.data_uuid}:{instance.view().token}:{self.shape}"

    def _read(self, box: Box) -> NDArray[Any]:
        return native(np.asarray(self._array[box.shift(self._first).slices()]))


def open_volume(
    source: Any,
    *,
    axes: str | Sequence[str] | None = None,
    select: Mapping[str, int] | None = None,
    dataset: str | None = None,
    crop: Box | tuple[Sequence[int], Sequence[int]] | None = None,
    dtype: DTypeLike | None = None,
) -> Volume:
    """Open any volume for reading; no voxel is read yet.

    Parameters
    ----------
    source
        An array, a path, a URL, a list of image files, a tensorstore spec, an instance: see the table of this module.
    axes
        Names of the dimensions in their order, where the data doesn't say or says it wrongly, like ``"xyz"``.
    select
        Index for each further dimension that has more than one element, like ``{"c": 1}``.
    dataset
        Data set of an HDF5 file.
    crop
        Only the voxels [start, stop) of it (z, y, x).
    dtype
        Convert to this type; a value that doesn't fit raises `BadRequest` when it is read.

    Returns
    -------
    Volume
        With `shape`, `dtype`, `chunks` and `read`, all in (z, y, x). It can be pickled.

    Raises
    ------
    BadRequest
        If it is no volume of three dimensions or the crop lies outside.
    NotFound
        If there is nothing at that path.

    Examples
    --------
    >>> volume = open_volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), crop=((0, 1, 0), (2, 3, 4)))
    >>> volume.shape, volume.read(((1, 0, 0), (2, 1, 2))).tolist()
    ((2, 2, 4), [[[16, 17]]])
    """
    if isinstance(source, Datatype):
        source = _Instance(source)
    return bases.open_volume(source, axes=axes, select=select, dataset=dataset, crop=crop, dtype=dtype)
