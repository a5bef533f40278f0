"""Arrays as volumes: numpy's in memory or mapped from a file, and dask's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest

from .axes import arrange, names_by_custom
from .volume import Volume, native, shape3

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DaskVolume", "arranged", "of_numpy", "open_npy"]


class _Array(Volume):
    """An array in this process's memory."""

    in_memory = True
    in_place = True

    def __init__(self, array: NDArray[Any], name: str) -> None:
        self._array = array
        self.name = name
        self.shape, self.dtype = shape3(array.shape, name), array.dtype.newbyteorder("=")
        self.chunks = (1, 1, self.shape[2])
        self._identity: str | None = None

    @property
    def identity(self) -> str:  # type: ignore[override]
        """Hash of the content, made when it is first asked for."""
        if self._identity is None:
            digest = hashlib.blake2b(repr((self.shape, self.dtype.str)).encode(), digest_size=16)
            for plane in self._array:
                digest.update(np.ascontiguousarray(plane).data)
            self._identity = f"array:{digest.hexdigest()}"
        return self._identity

    def _read(self, box: Box) -> NDArray[Any]:
        return native(self._array[box.slices()])


class _Mapped(Volume):
    """Part of a local file as an array: any offset and strides, mapped anew in every process."""

    in_place = True

    def __init__(
        self, path: str, offset: int, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype[Any]
    ) -> None:
        self._path, self._offset, self._strides, self._stored = os.path.abspath(path), offset, tuple(strides), dtype
        self.name = os.path.basename(path)
        self.shape, self.dtype = shape3(shape, self.name), dtype.newbyteorder("=")
        self.chunks = (1, 1, self.shape[2])
        stat = os.stat(path)
        layout = (self._path, stat.st_size, stat.st_mtime_ns, offset, self.shape, self._strides, dtype.str)
        self.identity = f"file:{layout}"

    def _read(self, box: Box) -> NDArray[Any]:
        # mapped for this read alone: a mapping that stays counts every page ever touched as this process's memory
        memory = np.memmap(self._path, np.uint8, "r")
        whole = np.ndarray(self.shape, self._stored, memory.data, self._offset, self._strides)
        whole.flags.writeable = False
        return native(whole[box.slices()])


def open_npy(path: str) -> Volume:
    """A file of numpy's, mapped."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return of_numpy(array, os.path.basename(path))


def of_numpy(array: NDArray[Any], name: str) -> Volume:
    """An array in memory, or mapped from a file."""
    if array.dtype.hasobject:
        raise BadRequest(f"{name}: an array of Python objects is no volume")
    squeezed = _squeeze_numpy(array, name)
    owner: Any = squeezed
    while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray):
        owner = owner.base
    # only a mapping of a file that still is what it was can be mapped again; copy-on-write may hold changes
    if isinstance(owner, np.memmap) and owner.filename is not None and owner.mode in ("r", "r+", "w+"):
        if owner.mode != "r":
            owner.flush()
        gap = squeezed.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        path = str(owner.filename)
        return _Mapped(path, owner.offset + gap, squeezed.shape, squeezed.strides, squeezed.dtype)
    return _Array(squeezed, name)


def _squeeze_numpy(array: NDArray[Any], name: str) -> NDArray[Any]:
    while array.ndim > 3 and 1 in array.shape:
        array = array[(slice(None),) * array.shape.index(1) + (0,)]
    shape3(array.shape, name)
    return array


class DaskVolume(Volume):
    """A dask array: bricks depend on its chunks in one graph, nothing is computed twice."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.name = f"dask array {array.name[:40]}"
        if any(np.isnan(n) for n in array.shape):
            raise BadRequest(f"{self.name}: has chunks of unknown size; call compute_chunk_sizes() first")
        self.shape = shape3(array.shape, self.name)
        self.dtype = array.dtype
        nz, ny, nx = array.chunksize
        self.chunks = (nz, ny, nx)
        self.identity = f"dask:{array.name}"

    def _read(self, box: Box) -> NDArray[Any]:
        part: NDArray[Any] = self._array[box.slices()].compute(scheduler="synchronous")
        return np.asarray(part)

    def delayed(self, boxes: Sequence[Box]) -> list[Any] | None:
        """One dask object per box; boxes are the cells of one grid."""
        if not boxes:
            return []
        edges = [sorted({b.start[i] for b in boxes} | {b.stop[i] for b in boxes}) for i in range(3)]
        whole = Box.of([e[0] for e in edges], [e[-1] for e in edges])
        grid = tuple(tuple(np.diff(e).tolist()) for e in edges)
        array = self._array[whole.slices()].rechunk(grid, method="tasks")
        parts = array.to_delayed(optimize_graph=False)
        where = [{v: k for k, v in enumerate(e)} for e in edges]
        return [parts[tuple(w[a] for w, a in zip(where, b.start, strict=True))] for b in boxes]


def arranged(array: Any, axes: list[str] | None, select: dict[str, int]) -> Any:
    """A numpy or dask array with dimensions fixed and transposed as told."""
    if axes is None and not select:
        return array
    names = names_by_custom(array.ndim) if axes is None else axes
    arrangement = arrange(names, (0,) * array.ndim, array.shape, select, "array")
    for dim, index in arrangement.fixed:
        array = array[(slice(None),) * dim + (index,)]
    return array.transpose(arrangement.order)
