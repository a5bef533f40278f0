"""Data sets of HDF5 files as volumes. Needs the extra ``hdf5``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest, NotFound

from .axes import arrange, names_by_custom
from .volume import Volume, native, shape3

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Hdf5Volume", "get_dataset", "import_h5py", "only_dataset"]


def import_h5py() -> Any:
    """The library.

    Raises
    ------
    BadRequest
        It isn't installed.
    """
    try:
        import h5py
    except ImportError as e:
        raise BadRequest("reading HDF5 needs h5py: pip install 'dvid-dask[hdf5]'") from e
    return h5py


def get_dataset(file: Any, dataset: str, name: str) -> Any:
    """A data set of an open file.

    Raises
    ------
    NotFound
        There is none of that name; the message lists those that there are.
    """
    h5py = import_h5py()
    found = file.get(dataset)
    if not isinstance(found, h5py.Dataset):
        names: list[str] = []
        file.visititems(lambda n, o: names.append("/" + n) if isinstance(o, h5py.Dataset) else None)
        raise NotFound(f"{name}: no data set {dataset!r}; it has {names[:20]}")
    return found


def only_dataset(file: Any, name: str) -> str:
    """The one data set of three or more dimensions in an open file.

    Raises
    ------
    BadRequest
        There are several, or none.
    """
    h5py = import_h5py()
    names: list[str] = []
    file.visititems(lambda n, o: names.append("/" + n) if isinstance(o, h5py.Dataset) and o.ndim >= 3 else None)
    if len(names) != 1:
        raise BadRequest(f"{name}: say which data set with dataset=; those of three or more dimensions: {names[:20]}")
    return names[0]


class Hdf5Volume(Volume):
    """A data set of a local file.

    Parameters
    ----------
    path, dataset
        Where it is; None for the only one of the file that can be a volume.
    axes
        Names of its dimensions.
    """

    def __init__(self, path: str, dataset: str | None, axes: Sequence[str] | None) -> None:
        self._path = os.path.abspath(path)
        if dataset is None:
            with import_h5py().File(path, "r") as file:
                dataset = only_dataset(file, path)
        self._dataset = dataset
        self.name = f"{os.path.basename(path)}:{dataset}"
        with self._open() as data:
            names = names_by_custom(data.ndim) if axes is None else list(axes)
            shape, chunks, dtype = data.shape, data.chunks or (1,) * data.ndim, data.dtype
        self._arrangement = arrange(names, (0,) * len(shape), shape, {}, self.name)
        self.shape = shape3([shape[d] for d in self._arrangement.dims], self.name)
        self.dtype = np.dtype(dtype).newbyteorder("=")
        nz, ny, nx = (int(chunks[d]) for d in self._arrangement.dims)
        self.chunks = (nz, ny, nx)
        stat = os.stat(path)
        self.identity = f"hdf5:{self._path}{dataset}{stat.st_size}{stat.st_mtime_ns}{names}"

    def _read(self, box: Box) -> NDArray[Any]:
        with self._open() as data:
            index: list[Any] = [slice(None)] * data.ndim
            for dim, at in self._arrangement.fixed:
                index[dim] = at
            for dim, piece in zip(self._arrangement.dims, box.slices(), strict=True):
                index[dim] = piece
            return native(np.asarray(data[tuple(index)]).transpose(self._arrangement.order))

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        """The data set, open for as long as it is read: an open file is locked against writers."""
        with import_h5py().File(self._path, "r") as file:
            yield get_dataset(file, self._dataset, self._path)
