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

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.base import Datatype
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats.images import labels_of_rgba

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Volume", "directory_url", "find_images", "open_volume"]


class Volume(ABC):
    """A volume that is read box by box.

    Attributes
    ----------
    name
        What a person calls it.
    identity
        Equal for equal content as far as can be told without reading it all: names a job.
    shape
        Voxels in z, y, x.
    dtype
        Of what `read` returns.
    chunks
        Boxes of this shape, aligned to it, are cheap to read (z, y, x).
    in_memory
        Whether the voxels live in the memory of the process that made this object.
    in_place
        Whether `read` gives views of memory: there is nothing to fetch ahead.
    """

    name: str
    identity: str
    shape: Point
    dtype: np.dtype[Any]
    chunks: Point
    in_memory: bool = False
    in_place: bool = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.shape} (z, y, x) of {self.dtype}, chunks {self.chunks}>"

    @property
    def box(self) -> Box:
        """All of it."""
        return Box.of_shape(self.shape)

    def read(self, box: Box | tuple[Sequence[int], Sequence[int]]) -> NDArray[Any]:
        """The voxels of a box (start, stop) as an array (z, y, x): perhaps a view, not to be written to.

        Raises
        ------
        BadRequest
            If the box is not inside the volume.
        """
        wanted = Box.of(*box)
        if not self.box.contains(wanted) and wanted:
            raise BadRequest(f"{self.name}: the box {wanted} is not inside a volume of {self.shape} voxels (z, y, x)")
        return self._read(wanted)

    @abstractmethod
    def _read(self, box: Box) -> NDArray[Any]: ...

    def crop(self, box: Box | tuple[Sequence[int], Sequence[int]]) -> Volume:
        """The part [start, stop) of it as a volume that starts at 0.

        Raises
        ------
        BadRequest
            If the part is empty or not inside the volume.
        """
        part = Box.of(*box)
        if not part or not self.box.contains(part):
            raise BadRequest(
                f"{self.name}: can't crop a volume of {self.shape} voxels (z, y, x) to {part}: "
                "give a start of at least 0 and a larger stop within the shape"
            )
        return self if part == self.box else _Cropped(self, part)

    def astype(self, dtype: DTypeLike) -> Volume:
        """The same voxels as another integer or float type; values that don't fit raise when they are read."""
        wanted = np.dtype(dtype)
        return self if wanted == self.dtype else _Cast(self, wanted)

    def delayed(self, boxes: Sequence[Box]) -> list[Any] | None:
        """Dask objects that hold these boxes, or None when a task shall call `read` itself."""
        return None

    def read_ahead(self, boxes: Sequence[Box]) -> Iterator[NDArray[Any]]:
        """`read` of one box after the other, each fetched while the one before is worked on."""
        if self.in_place or len(boxes) < 2:
            yield from map(self.read, boxes)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as fetcher:
            coming = fetcher.submit(self.read, boxes[0])
            for box in boxes[1:]:
                here = coming.result()
                coming = fetcher.submit(self.read, box)
                yield here
                del here
            yield coming.result()


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class _Cropped(Volume):
    def __init__(self, base: Volume, part: Box) -> None:
        self._base, self._part = base, part
        self.name, self.dtype, self.chunks = base.name, base.dtype, base.chunks
        self.in_memory, self.in_place = base.in_memory, base.in_place
        self.shape = part.shape
        self.identity = f"{base.identity}[{part}]"

    def _read(self, box: Box) -> NDArray[Any]:
        return self._base._read(box.shift(self._part.start))

    def delayed(self, boxes: Sequence[Box]) -> list[Any] | None:
        return self._base.delayed([b.shift(self._part.start) for b in boxes])


def _checked_cast(array: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    if np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype)
    if array.size and dtype.kind in "iu":
        low, high = array.min(), array.max()
        info = np.iinfo(dtype)
        if int(low) < info.min or int(high) > info.max:
            raise BadRequest(f"{name}: values from {low} to {high} don't fit into {dtype}")
    cast_array = array.astype(dtype)
    if dtype.kind in "iu" and array.dtype.kind == "f" and not np.array_equal(cast_array, array):
        raise BadRequest(f"{name}: has fractions, which {dtype} can't hold")
    return cast_array


class _Cast(Volume):
    def __init__(self, base: Volume, dtype: np.dtype[Any]) -> None:
        if base.dtype.kind not in "iufb" or dtype.kind not in "iuf":
            raise BadRequest(f"{base.name}: can't read {base.dtype} as {dtype}")
        self._base = base
        self.name, self.shape, self.chunks = base.name, base.shape, base.chunks
        self.in_memory = base.in_memory
        self.dtype = dtype
        self.identity = f"{base.identity}:{dtype}"

    def _read(self, box: Box) -> NDArray[Any]:
        return _checked_cast(self._base._read(box), self.dtype, self.name)

    def delayed(self, boxes: Sequence[Box]) -> list[Any] | None:
        parts = self._base.delayed(boxes)
        if parts is None:
            return None
        from dask import delayed

        return [delayed(_checked_cast, pure=True)(p, self.dtype, self.name) for p in parts]


# ------------------------------------------------------------------ arrays


class _Array(Volume):
    """An array in this process's memory."""

    in_memory = True
    in_place = True

    def __init__(self, array: NDArray[Any], name: str) -> None:
        self._array = array
        self.name = name
        self.shape, self.dtype = _shape3(array.shape, name), array.dtype.newbyteorder("=")
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
        return _native(self._array[box.slices()])


class _Mapped(Volume):
    """Part of a local file as an array: any offset and strides, mapped anew in every process."""

    in_place = True

    def __init__(
        self, path: str, offset: int, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype[Any]
    ) -> None:
        self._path, self._offset, self._strides, self._stored = os.path.abspath(path), offset, tuple(strides), dtype
        self.name = os.path.basename(path)
        self.shape, self.dtype = _shape3(shape, self.name), dtype.newbyteorder("=")
        self.chunks = (1, 1, self.shape[2])
        stat = os.stat(path)
        layout = (self._path, stat.st_size, stat.st_mtime_ns, offset, self.shape, self._strides, dtype.str)
        self.identity = f"file:{layout}"

    def _read(self, box: Box) -> NDArray[Any]:
        # mapped for this read alone: a mapping that stays counts every page ever touched as this process's memory
        memory = np.memmap(self._path, np.uint8, "r")
        whole = np.ndarray(self.shape, self._stored, memory.data, self._offset, self._strides)
        whole.flags.writeable = False
        return _native(whole[box.slices()])


def _open_npy(path: str) -> Volume:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _of_numpy(array, os.path.basename(path))


def _of_numpy(array: NDArray[Any], name: str) -> Volume:
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
    _shape3(array.shape, name)
    return array


def _shape3(shape: Sequence[int], name: str) -> Point:
    if len(shape) != 3 or any(n < 1 for n in shape):
        raise BadRequest(f"{name}: a volume has three dimensions (z, y, x) of at least 1, got shape {tuple(shape)}")
    nz, ny, nx = (int(n) for n in shape)
    return nz, ny, nx


class _Dask(Volume):
    """A dask array: bricks depend on its chunks in one graph, nothing is computed twice."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.name = f"dask array {array.name[:40]}"
        if any(np.isnan(n) for n in array.shape):
            raise BadRequest(f"{self.name}: has chunks of unknown size; call compute_chunk_sizes() first")
        self.shape = _shape3(array.shape, self.name)
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


# ------------------------------------------------------------------ tensorstore


class _Tensorstore(Volume):
    """Anything tensorstore reads, by its JSON spec."""

    def __init__(
        self, spec: Mapping[str, Any], name: str, axes: Sequence[str] | None, select: Mapping[str, int]
    ) -> None:
        self._spec = json.dumps(spec, sort_keys=True)
        self.name = name
        store = _open_tensorstore.__wrapped__(self._spec, "")
        self._domain = str(store.domain)
        names = _axis_names(store, spec) if axes is None else list(axes)
        self._fixed, self._order = _arrange(names, store.domain, select, name)
        view = self._view()
        self._origin = tuple(int(i) for i in view.domain.origin)
        self.shape = _shape3(view.domain.shape, name)
        self.dtype = np.dtype(view.dtype.numpy_dtype)
        read = view.chunk_layout.read_chunk.shape or (1, 1, 1)
        nz, ny, nx = (int(c) if c else 1 for c in read)
        self.chunks = (nz, ny, nx)
        self.identity = f"tensorstore:{self._spec}{self._order}{self._fixed}{self.shape}{self.dtype}"

    def _view(self) -> Any:
        store = _open_tensorstore(self._spec, self._domain)
        for dim, index in self._fixed:
            store = store[(slice(None),) * dim + (index,)]
        return store.transpose(list(self._order))

    def _read(self, box: Box) -> NDArray[Any]:
        part = self._view()[box.shift(self._origin).slices()]
        return np.asarray(part.read(order="C").result())


@functools.lru_cache(maxsize=8)
def _open_tensorstore(spec: str, domain: str) -> Any:
    """Open handles by spec and the domain they had: an array that was written anew is opened anew."""
    import tensorstore as ts

    try:
        # bricks may cut the source's chunks: those at their edges are decoded once
        context = ts.Context({"cache_pool": {"total_bytes_limit": _CHUNK_CACHE}})
        return ts.open(json.loads(spec), read=True, open=True, context=context, recheck_cached_data="open").result()
    except ValueError as e:
        raise BadRequest(f"tensorstore can't open {spec}: {e}") from e


def _axis_names(store: Any, spec: Mapping[str, Any]) -> list[str]:
    """Names that the data carries, or what its format lists by custom."""
    labels = ["c" if label.lower() == "channel" else label.lower() for label in store.domain.labels]
    if {"z", "y", "x"} <= set(labels):
        return labels
    if spec.get("driver") == "n5":  # lists the fastest dimension first
        return list("xyzct"[: store.rank])
    return list("tczyx"[-store.rank :])


def _arrange(
    names: list[str], domain: Any, select: Mapping[str, int], name: str
) -> tuple[list[tuple[int, int]], tuple[int, int, int]]:
    """Dimensions to fix, last first, with their index; then where z, y and x are among the others."""
    if len(names) != domain.rank:
        raise BadRequest(
            f"{name}: axes {''.join(names)!r} for an array of {domain.rank} dimensions {tuple(domain.shape)}"
        )
    if missing := [a for a in "zyx" if a not in names]:
        raise BadRequest(f"{name}: no axis {missing[0]!r} among {names}: say which it is with axes=, like axes='zyx'")
    if unknown := [a for a in select if a not in names or a in "zyx"]:
        raise BadRequest(f"{name}: select has {unknown[0]!r}, but the axes besides z, y, x are {_others(names)}")
    fixed = []
    for dim, (axis, low, size) in enumerate(zip(names, domain.origin, domain.shape, strict=True)):
        if axis in "zyx":
            continue
        index = select.get(axis, 0)
        if axis not in select and size != 1:
            raise BadRequest(f"{name}: axis {axis!r} has {size} elements: choose one with select={{{axis!r}: 0}}")
        if not 0 <= index < size:
            raise BadRequest(f"{name}: select={{{axis!r}: {index}}}, but that axis has {size} elements")
        fixed.append((dim, int(low) + index))
    kept = [a for a in names if a in "zyx"]
    return fixed[::-1], (kept.index("z"), kept.index("y"), kept.index("x"))


def _others(names: Sequence[str]) -> list[str]:
    return [a for a in names if a not in "zyx"]


_CHUNK_CACHE = 128 << 20
_SCHEMES = {
    "precomputed": "neuroglancer_precomputed",
    "zarr": "zarr",
    "zarr2": "zarr",
    "zarr3": "zarr3",
    "n5": "n5",
}
_MARKS = {
    "zarr.json": "zarr3",
    ".zarray": "zarr",
    ".zgroup": "zarr",
    "attributes.json": "n5",
    "info": "neuroglancer_precomputed",
}


def _open_path(text: str, axes: Sequence[str] | None, select: Mapping[str, int]) -> Volume:
    """A directory or bucket of chunks, in whatever format it is."""
    import tensorstore as ts

    driver, _, rest = text.partition("://")
    if driver in _SCHEMES and rest:
        driver = _SCHEMES[driver]
    else:
        driver, rest = "", text
    if "|" in rest:
        return _Tensorstore(ts.Spec(rest).to_json(), text, axes, select)
    kvstore = ts.KvStore.open(directory_url(rest)).result()
    if not driver:
        driver = next((d for mark, d in _MARKS.items() if kvstore.read(mark).result().state == "value"), "")
    if not driver:
        raise NotFound(
            f"{text}: no volume found there: looked for {', '.join(_MARKS)}. Files of images need a glob like "
            "'slices/*.tif'; a format that shows in no file can be named: zarr://, zarr3://, n5://, precomputed://"
        )
    spec: dict[str, Any] = {"driver": driver, "kvstore": kvstore.spec().to_json()}
    if driver in ("zarr", "zarr3"):
        path, named = _ome_array(kvstore)
        spec["kvstore"] = (kvstore / path).spec().to_json()
        axes = axes or named
    return _Tensorstore(spec, text, axes, select)


def directory_url(path: str) -> str:
    """A path or URL as the URL of a directory, with a slash at its end.

    Examples
    --------
    >>> directory_url("/data/em"), directory_url("gs://bucket/em/")
    ('file:///data/em/', 'gs://bucket/em/')
    """
    url = path if "://" in path else Path(path).resolve().as_uri()
    return url.rstrip("/") + "/"


def _ome_array(kvstore: Any) -> tuple[str, list[str] | None]:
    """Path of the finest scale of an OME-Zarr group and the names of its axes; of an array, itself."""
    node = _read_json(kvstore, "zarr.json")
    attributes = node.get("attributes", {})
    attributes = attributes.get("ome", attributes) if node else _read_json(kvstore, ".zattrs")
    named = attributes.get("_ARRAY_DIMENSIONS") if not node else None
    scales = attributes.get("multiscales")
    if node.get("node_type") == "array" or not scales:
        return "", [str(a).lower() for a in named] if named else None
    axes = [a["name"] if isinstance(a, dict) else a for a in scales[0].get("axes", [])]
    return str(scales[0]["datasets"][0]["path"]) + "/", [str(a).lower() for a in axes] or None


def _read_json(kvstore: Any, key: str) -> dict[str, Any]:
    found = kvstore.read(key).result()
    if found.state != "value":
        return {}
    return cast("dict[str, Any]", json.loads(found.value))


# ------------------------------------------------------------------ HDF5


class _Hdf5(Volume):
    """A data set of an HDF5 file."""

    def __init__(self, path: str, dataset: str, axes: Sequence[str] | None) -> None:
        self._path, self._dataset = os.path.abspath(path), dataset
        self.name = f"{os.path.basename(path)}:{dataset}"
        with _open_hdf5(self._path, dataset) as data:
            names = list("tczyx"[-data.ndim :]) if axes is None else list(axes)
            shape, chunks, dtype = data.shape, data.chunks or (1,) * data.ndim, data.dtype
        self._fixed, self._order = _arrange(names, _Domain((0,) * len(shape), shape), {}, self.name)
        kept = [d for d in range(len(shape)) if d not in dict(self._fixed)]
        self._dims = [kept[o] for o in self._order]
        self.shape = _shape3([shape[d] for d in self._dims], self.name)
        self.dtype = np.dtype(dtype).newbyteorder("=")
        nz, ny, nx = (int(chunks[d]) for d in self._dims)
        self.chunks = (nz, ny, nx)
        stat = os.stat(path)
        self.identity = f"hdf5:{self._path}{dataset}{stat.st_size}{stat.st_mtime_ns}{names}"

    def _read(self, box: Box) -> NDArray[Any]:
        with _open_hdf5(self._path, self._dataset) as data:
            index: list[Any] = [slice(None)] * data.ndim
            for dim, at in self._fixed:
                index[dim] = at
            for dim, piece in zip(self._dims, box.slices(), strict=True):
                index[dim] = piece
            return _native(np.asarray(data[tuple(index)]).transpose(self._order))


class _Domain:
    def __init__(self, origin: Sequence[int], shape: Sequence[int]) -> None:
        self.origin, self.shape, self.rank = origin, shape, len(shape)


@contextlib.contextmanager
def _open_hdf5(path: str, dataset: str) -> Iterator[Any]:
    """A data set, open for as long as it is read: an open file is locked against writers."""
    try:
        import h5py
    except ImportError as e:
        raise BadRequest("reading HDF5 needs h5py: pip install 'dvid-dask[hdf5]'") from e
    with h5py.File(path, "r") as file:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            names: list[str] = []
            file.visititems(lambda n, o: names.append("/" + n) if isinstance(o, h5py.Dataset) else None)
            raise NotFound(f"{path}: no data set {dataset!r}; it has {names[:20]}")
        yield found


def _only_dataset(path: str) -> str:
    import h5py

    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda n, o: names.append("/" + n) if isinstance(o, h5py.Dataset) and o.ndim >= 3 else None)
    if len(names) != 1:
        raise BadRequest(f"{path}: say which data set with dataset=; those of three or more dimensions: {names[:20]}")
    return names[0]


# ------------------------------------------------------------------ stacks of images

_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


class _Stack(Volume):
    """Files of one image each, in natural order of their names: image i is plane z = i."""

    def __init__(self, paths: Sequence[str], protocol: str) -> None:
        self._paths, self._protocol = tuple(paths), protocol
        self.name = f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else paths[0]
        first = _read_image(protocol, paths[0])
        if first.ndim != 2:
            raise BadRequest(f"{paths[0]}: an image of shape {first.shape}; planes of a volume are gray, one channel")
        self.shape = (len(paths), *first.shape)
        self.dtype = first.dtype.newbyteorder("=")
        self.chunks = (1, *first.shape)
        listed = hashlib.blake2b("\n".join(paths).encode(), digest_size=16).hexdigest()
        self.identity = f"stack:{protocol}:{listed}:{self.shape}:{self.dtype}"

    def _read(self, box: Box) -> NDArray[Any]:
        out = np.empty(box.shape, self.dtype)
        sz, sy, sx = box.slices()
        for i, path in enumerate(self._paths[sz]):
            plane = _read_image(self._protocol, path)
            if plane.shape != self.shape[1:] or plane.dtype.newbyteorder("=") != self.dtype:
                raise BadRequest(
                    f"{path}: an image of {plane.shape} {plane.dtype}, but the first of the stack is "
                    f"{self.shape[1:]} {self.dtype}"
                )
            out[i] = plane[sy, sx]
        return out


class _Tiff(Volume):
    """A TIFF file of many pages."""

    def __init__(self, path: str, protocol: str) -> None:
        self._path, self._protocol = path, protocol
        self.name = os.path.basename(path)
        with _open_tiff(protocol, path) as tiff:
            page = tiff.pages[0]
            planes, shape, dtype = len(tiff.pages), page.shape, page.dtype
        if len(shape) != 2:
            raise BadRequest(f"{path}: pages of shape {shape}; planes of a volume are gray, one channel")
        self.shape, self.dtype = _shape3((planes, *shape), self.name), np.dtype(dtype).newbyteorder("=")
        self.chunks = (1, *self.shape[1:])
        self.identity = f"tiff:{protocol}:{path}:{self.shape}:{self.dtype}"

    def _read(self, box: Box) -> NDArray[Any]:
        sz, sy, sx = box.slices()
        out = np.empty(box.shape, self.dtype)
        with _open_tiff(self._protocol, self._path) as tiff:
            for i, z in enumerate(range(sz.start, sz.stop)):
                out[i] = tiff.pages[z].asarray()[sy, sx]
        return out


def _open_tiff(protocol: str, path: str) -> Any:
    import fsspec
    import tifffile

    return tifffile.TiffFile(path if protocol == "file" else fsspec.filesystem(protocol).open(path))


def _read_image(protocol: str, path: str) -> NDArray[Any]:
    import fsspec
    import imagecodecs

    data = fsspec.filesystem(protocol).cat_file(path)
    if path.lower().endswith(".png"):
        pixels = np.asarray(imagecodecs.png_decode(data))
        return labels_of_rgba(pixels) if pixels.shape[2:] == (4,) and pixels.dtype == np.uint16 else pixels
    if path.lower().endswith((".jpg", ".jpeg")):
        return np.asarray(imagecodecs.jpeg_decode(data))
    import io

    import tifffile

    return np.asarray(tifffile.imread(io.BytesIO(data)))


def find_images(patterns: Sequence[str]) -> list[str]:
    """The files of globs: in the order of the globs, those of one in natural order.

    Raises
    ------
    NotFound
        If a glob finds none.
    """
    import fsspec

    found = []
    for pattern in patterns:
        fs, path = fsspec.core.url_to_fs(pattern)
        paths = sorted((str(p) for p in fs.glob(path)), key=_natural)
        if not paths:
            raise NotFound(f"{pattern}: no file has such a name")
        found += [fs.unstrip_protocol(p) for p in paths]
    return found


def _natural(path: str) -> list[Any]:
    return [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path)]


def _open_images(given: str | Sequence[str]) -> Volume:
    import fsspec

    if isinstance(given, str):
        fs, path = fsspec.core.url_to_fs(given)
        paths = sorted((str(p) for p in fs.glob(path)), key=_natural) if "*" in path or "?" in path else [path]
        if not paths:
            raise NotFound(f"{given}: no file has such a name")
    else:
        if not given:
            raise BadRequest("an empty list of images is no volume")
        fs = fsspec.core.url_to_fs(given[0])[0]
        paths = [fsspec.core.url_to_fs(p)[1] for p in given]
    if odd := [p for p in paths if not p.lower().endswith(_IMAGES)]:
        raise BadRequest(f"{odd[0]}: images end in {', '.join(_IMAGES)}")
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if len(paths) == 1 and fnmatch.fnmatch(paths[0].lower(), "*.tif*"):
        return _Tiff(paths[0], protocol)
    return _Stack(paths, protocol)


# ------------------------------------------------------------------ instances


class _Instance(Volume):
    """A labelmap's supervoxels or an image, at full resolution, in the state it has when this is made."""

    def __init__(self, instance: Datatype) -> None:
        if isinstance(instance, LabelMap):
            array: Any = instance.array(supervoxels=True)
            self._first = array.box.start
        elif isinstance(instance, ImageBlk):
            array = instance.pin()
            self._first = (0, 0, 0)  # counts from the first voxel itself
        else:
            raise BadRequest(f"{instance.name!r} is a {instance.info.typename}: it holds no volume")
        self._array = array
        self.name = f"{instance.name!r} at version {instance.version.uuid[:12]}"
        self.shape, self.dtype = _shape3(array.shape, self.name), np.dtype(array.dtype).newbyteorder("=")
        self.chunks = instance.block_shape
        self.identity = f"instance:{instance.info.data_uuid}:{instance.view().token}:{self.shape}"

    def _read(self, box: Box) -> NDArray[Any]:
        return _native(np.asarray(self._array[box.shift(self._first).slices()]))


# ------------------------------------------------------------------ the door


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
        An array, a path, a URL, a list of image files, a tensorstore spec: see the table of this module.
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
    volume = _open(source, None if axes is None else [a.lower() for a in axes], dict(select or {}), dataset)
    if crop is not None:
        volume = volume.crop(crop)
    return volume if dtype is None else volume.astype(dtype)


def _open(source: Any, axes: list[str] | None, select: dict[str, int], dataset: str | None) -> Volume:
    if isinstance(source, Volume):
        return source
    if isinstance(source, np.ndarray):
        return _of_numpy(_arranged(source, axes, select), "numpy array")
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        return _open_text(source, axes, select, dataset)
    if isinstance(source, Mapping):
        return _Tensorstore(source, str(source.get("driver", "tensorstore")), axes, select)
    if isinstance(source, (list, tuple)) and all(isinstance(p, (str, os.PathLike)) for p in source):
        return _open_images([os.fspath(p) for p in source])
    if isinstance(source, Datatype):
        return _Instance(source)
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    if kind.startswith("dask.array."):
        return _Dask(_arranged(source, axes, select))
    if kind.startswith("tensorstore.") and hasattr(source, "spec"):
        return _Tensorstore(source.spec().to_json(), "tensorstore", axes, select)
    if kind.startswith("zarr."):
        return _of_zarr(source, axes, select)
    raise BadRequest(
        f"can't read a volume from {kind}: give a numpy or dask array, a path or URL, a list of image files, "
        "or a tensorstore spec"
    )


def _open_text(text: str, axes: list[str] | None, select: dict[str, int], dataset: str | None) -> Volume:
    lower = text.lower()
    if match := re.fullmatch(r"(.+\.(?:h5|hdf5|hdf|n?cdf?)):(/.*)", text, re.IGNORECASE):
        text, dataset = match.groups()
        lower = text.lower()
    if dataset is not None or lower.endswith((".h5", ".hdf5", ".hdf")):
        _must_exist(text)
        return _Hdf5(text, dataset or _only_dataset(text), axes)
    if lower.endswith(".npy"):
        _must_exist(text)
        return _open_npy(text) if axes is None else _open(np.load(text, mmap_mode="r"), axes, select, None)
    if lower.endswith(_IMAGES):
        return _open_images(text)
    try:
        return _open_path(text, axes, select)
    except ValueError as e:
        if isinstance(e, BadRequest):
            raise
        raise BadRequest(f"{text}: tensorstore can't open it: {e}") from e


def _must_exist(path: str) -> None:
    if not os.path.exists(path):
        raise NotFound(f"{path}: no such file")


def _arranged(array: Any, axes: list[str] | None, select: dict[str, int]) -> Any:
    """A numpy or dask array with dimensions fixed and transposed as told."""
    if axes is None and not select:
        return array
    names = list("tczyx"[-array.ndim :]) if axes is None else axes
    fixed, order = _arrange(names, _Domain((0,) * array.ndim, array.shape), select, "array")
    for dim, index in fixed:
        array = array[(slice(None),) * dim + (index,)]
    return array.transpose(order)


def _of_zarr(array: Any, axes: list[str] | None, select: dict[str, int]) -> Volume:
    """An array opened by zarr-python: read through tensorstore where its store is a directory."""
    root = getattr(array.store, "root", None)
    if root is None or not hasattr(array, "metadata"):
        raise BadRequest("of zarr-python, arrays in local directories can be read; for others give their URL")
    driver = "zarr3" if array.metadata.zarr_format == 3 else "zarr"
    path = Path(root) / array.path
    return _open_path(f"{driver}://{path}", axes, select)
