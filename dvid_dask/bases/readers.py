"""Open arrays of bases: each reads boxes, notices when what it reads is no longer what was adopted, and never hangs.

=============  =========================================  =====================================================
reader         reads                                      notices a change by
=============  =========================================  =====================================================
tensorstore    zarr, N5, precomputed at file, http, gs    the metadata file: local, its size and times before
               and s3 URLs; any spec of tensorstore       every read; remote, its bytes, every `CHECK_SECONDS`
                                                          and whenever a chunk is missing
zarr-python    zarr at the other URLs of fsspec           as remote ones above, after every read
h5py           HDF5, local or through fsspec              size and time of the file
=============  =========================================  =====================================================

A missing chunk is its array's fill value only if the metadata are still there after it was missed: where a whole volume
went away, all chunks are missing.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import tensorstore as ts

from dvid_dask.boxes import Box, Point
from dvid_dask.errors import BadRequest, BrokenBase, DvidError

from . import remote
from .axes import Arrangement, arrange, names_by_custom
from .files import Files, filesystem, open_files
from .hdf5 import get_dataset, import_h5py
from .urls import join, kvstore_spec, local_path, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["CHECK_SECONDS", "Gone", "Guard", "Place", "Reader", "Shape", "forget", "reader_of"]

CHECK_SECONDS = 5.0
"""How old the last look at the metadata of a remote volume may be when it is read."""

_MAX_OPEN = 64

_DRIVERS = {"zarr2": "zarr", "zarr3": "zarr3", "n5": "n5", "precomputed": "neuroglancer_precomputed"}
_METADATA = {"zarr2": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json", "precomputed": "info"}
_BY_TENSORSTORE = frozenset({"file", "http", "https", "gs", "s3"})

_LIBRARY_ERRORS = (ValueError, OSError, RuntimeError, KeyError, ImportError, TypeError)


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an array is and how its dimensions are meant. Two equal ones are the same array.

    Attributes
    ----------
    format
        zarr2, zarr3, n5, precomputed, hdf5 or tensorstore.
    url
        Of the directory or the file; for ``tensorstore`` a JSON spec as text.
    path
        Of the array below it, or the data set in the file.
    index
        Which scale of a precomputed volume.
    axes
        Names of the array's dimensions; empty for what the data or their format say.
    select
        Index for each dimension besides z, y, x.
    channels
        More than one keeps the dimension ``c``.
    """

    format: str
    url: str
    path: str = ""
    index: int = 0
    axes: tuple[str, ...] = ()
    select: tuple[tuple[str, int], ...] = ()
    channels: int = 1


class Shape(msgspec.Struct, frozen=True):
    """What must stay the same of an array: its fingerprint.

    Attributes
    ----------
    dtype
        numpy's name of the type of a value.
    start, shape, chunk
        First index, length and chunk in z, y, x.
    stamp
        Size and time of the file that holds all of it; empty where there is no such file.
    """

    dtype: str
    start: Point
    shape: Point
    chunk: Point
    stamp: tuple[int | str, ...] = ()


class Gone(BrokenBase):
    """The metadata of an array are not there."""


class Reader(ABC):
    """An open array."""

    def __init__(self, place: Place) -> None:
        self.place = place
        #: Whether another machine is asked.
        self.remote = place.format == "tensorstore" or remote.is_remote(place.url)
        self.axes: list[str] = list(place.axes)
        self.fill: Any = 0
        self._shape: Shape | None = None
        self._agreed: tuple[Shape | None, Shape | None] = None, None
        self._lock = threading.Lock()
        self._seen: Hashable = None
        self._looked = 0.0

    # ------------------------------------------------------------------ what a kind of reader does

    @abstractmethod
    def _look(self) -> Hashable:
        """Something cheap that changes whenever the metadata do; None where they are gone."""

    @abstractmethod
    def _open(self) -> Shape:
        """Open it, anew if it is open."""

    @abstractmethod
    def _get(self, box: Box) -> NDArray[Any]:
        """The voxels of a box of the array's own indices."""

    # ------------------------------------------------------------------ what they share

    def shape(self) -> Shape:
        """What the array is now.

        Raises
        ------
        BrokenBase, Unavailable
        """
        with self._guard():
            self._check(None, now=True)
            return self._known

    def verify(self, expected: Shape) -> None:
        """Look now whether the array is what is expected.

        Raises
        ------
        BrokenBase, Unavailable
        """
        with self._guard():
            self._check(expected, now=True)

    def read(self, box: Box, expected: Shape) -> NDArray[Any]:
        """The voxels of a box in the array's own indices, (z, y, x) or (z, y, x, channel).

        Raises
        ------
        BrokenBase
            The array is gone, or isn't what is expected, or a chunk can't be decoded.
        Unavailable, TooBusy
            The store fails, is slow, or refuses.
        """
        if self.remote:
            with self._guard():
                self._check(expected)
                return self._get(box)
        remote.check_process()
        try:
            self._check(expected)
            return self._get(box)
        except DvidError:
            raise
        except _LIBRARY_ERRORS as e:
            raise _told(e, self.place.url) from e

    def _guard(self) -> Guard:
        remote.check_process()
        return Guard(self.place.url, self.remote)

    @property
    def _known(self) -> Shape:
        if self._shape is None:
            raise RuntimeError("the array isn't open")
        return self._shape

    def _check(self, expected: Shape | None, *, now: bool = False) -> None:
        """Look whether the metadata changed; open anew where they did, and compare with what is expected."""
        if not self.remote and expected is not None:
            # for reads of single chunks every microsecond counts
            agreed, shape = self._agreed
            if shape is self._shape and (expected is agreed or expected is shape) and self._look() == self._seen:
                return
        old = time.monotonic() - self._looked > CHECK_SECONDS
        # what is wrong may have been put right since the last look
        if now or old or not self.remote or self._shape is None or expected not in (None, self._shape):
            # who waits for others to look doesn't wait longer than they may
            if not self._lock.acquire(timeout=remote.deadline()):
                raise TimeoutError
            try:
                self._look_anew()
            finally:
                self._lock.release()
        shape = self._shape
        if expected is not None:
            if shape != expected:
                raise BrokenBase(_difference(self.place, expected, shape))
            if expected is not shape:
                self._agreed = expected, shape

    def _look_anew(self) -> None:
        began = time.monotonic()
        seen = self._look()
        if seen is None:
            self._shape = None
            raise Gone(f"{shown(self.place.url)} is gone: {self.place.path or 'the volume'} is no longer there")
        if self._shape is None or seen != self._seen:
            self._shape = self._open()
        self._seen, self._looked = seen, began


class Guard:
    """A slot among remote reads, and errors of libraries as ours."""

    def __init__(self, url: str, other_machine: bool) -> None:
        self._url = url
        self._slot = remote.slot(url) if other_machine else None

    def __enter__(self) -> None:
        if self._slot is not None:
            self._slot.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._slot is not None:
            self._slot.__exit__(None, None, None)
        known = Exception if self._slot is not None else _LIBRARY_ERRORS
        if isinstance(error, known) and not isinstance(error, DvidError):
            raise _told(error, self._url) from error


def _told(error: Exception, url: str) -> DvidError:
    """An error of a library as ours."""
    if isinstance(error, TimeoutError):
        # who reads the same chunk next must not wait for the request that got no answer
        forget()
    return remote.translated(error, url)


def _difference(place: Place, expected: Shape, found: Shape | None) -> str:
    where = f"{shown(place.url)}{'' if not place.path else ' ' + place.path}"
    changed = [
        f"{name} is {new!r}, was {old!r}"
        for name in ("dtype", "start", "shape", "chunk")
        if (new := getattr(found, name)) != (old := getattr(expected, name))
    ]
    what = "; ".join(changed) or "its file was written since"
    return f"{where} is no longer what was adopted: {what}. Bring it back, or adopt it anew"


# ------------------------------------------------------------------ tensorstore


class _TensorstoreReader(Reader):
    _view: Any
    _filled: Any
    _voxel_bytes = 8

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        # without a driver that says which chunks are missing
        self._blind = place.format in ("precomputed", "tensorstore")
        self._file: str | None = None
        self._files: Files | None = None
        if place.format == "tensorstore":
            self._spec = msgspec.json.decode(place.url)
            return
        where = join(place.url, place.path)
        self._spec = {"driver": _DRIVERS[place.format], "kvstore": kvstore_spec(where)}
        if place.format == "precomputed":
            self._spec["scale_index"] = place.index
        folder = local_path(where)
        if folder is not None:
            self._file = str(folder / _METADATA[place.format])
        else:
            self._files = open_files(where)

    def _look(self) -> Hashable:
        if self._file is not None:
            try:
                stat = os.stat(self._file)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return stat.st_mtime_ns, stat.st_size, stat.st_ino
        if self._files is not None:
            return self._files.read(_METADATA[self.place.format])
        # of any other spec: all that can be compared is what it opens as
        return str(self._opened(fill=True).spec(retain_context=False).to_json())

    def _opened(self, *, fill: bool) -> Any:
        more = {} if fill or self._blind else {"fill_missing_data_reads": False}
        return ts.open(
            {**self._spec, **more},
            read=True,
            open=True,
            context=remote.context(),
            recheck_cached_metadata="open",
            recheck_cached_data="open",
        ).result(remote.READ_SECONDS)

    def _open(self) -> Shape:
        store = self._opened(fill=False)
        arrangement = self._arranged(store)
        self._view = _arranged_view(store, arrangement)
        self._filled = self._view if self._blind else _arranged_view(self._opened(fill=True), arrangement)
        fill = store.fill_value
        self.fill = 0 if fill is None else fill
        view = self._view
        self._voxel_bytes = store.dtype.numpy_dtype.itemsize * self.place.channels
        if self.place.channels > 1:
            view = view[..., 0]
        chunk = view.chunk_layout.read_chunk.shape or (1, 1, 1)
        return Shape(
            np.dtype(store.dtype.numpy_dtype).name,
            _point(view.domain.origin),
            _point(view.domain.shape),
            _point([c or 1 for c in chunk]),
        )

    def _arranged(self, store: Any) -> Arrangement:
        place, domain = self.place, store.domain
        if not self.axes:
            labels = ["c" if label.lower() == "channel" else label.lower() for label in domain.labels]
            if {"z", "y", "x"} <= set(labels):
                self.axes = labels
            else:
                self.axes = list("xyzct"[: store.rank]) if place.format == "n5" else names_by_custom(store.rank)
        return arrange(
            self.axes, domain.origin, domain.shape, dict(place.select), shown(place.url), channels=place.channels
        )

    def _get(self, box: Box) -> NDArray[Any]:
        (az, ay, ax), (bz, by, bx) = box
        index = slice(az, bz), slice(ay, by), slice(ax, bx)
        seconds = remote.deadline((bz - az) * (by - ay) * (bx - ax) * self._voxel_bytes)
        try:
            out: NDArray[Any] = self._view[index].read(order="C").result(seconds)
        except ValueError as e:
            if self._blind or not str(e).startswith("NOT_FOUND"):
                raise
            self._check(self._known, now=True)
            return np.asarray(self._filled[index].read(order="C").result(seconds))
        if self._blind and (not self.remote or _may_be_missing(out, box, self._known)):
            self._check(self._known, now=True)
        return out


def _arranged_view(store: Any, arrangement: Arrangement) -> Any:
    for dim, index in arrangement.fixed:
        store = store[(slice(None),) * dim + (index,)]
    return store.transpose(list(arrangement.order))


def _may_be_missing(out: NDArray[Any], box: Box, shape: Shape) -> bool:
    """Whether some chunk's part of a box is 0 throughout."""
    firsts = [
        np.concatenate([[0], np.arange(-(a - s) % c or c, b - a, c)])
        for a, b, s, c in zip(box.start, box.stop, shape.start, shape.chunk, strict=True)
    ]
    corners = out[np.ix_(*firsts)]
    empty = ~corners.reshape(*corners.shape[:3], -1).any(axis=3)
    for at in np.argwhere(empty).tolist():
        part = tuple(slice(f[i], f[i + 1] if i + 1 < len(f) else None) for f, i in zip(firsts, at, strict=True))
        if not out[part].any():
            return True
    return False


# ------------------------------------------------------------------ zarr-python


class _ZarrReader(Reader):
    _array: Any
    _arrangement: Arrangement

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._where = join(place.url, place.path)
        self._files = open_files(self._where)

    def _look(self) -> Hashable:
        return self._files.read(_METADATA[self.place.format])

    def _open(self) -> Shape:
        import zarr

        def opened() -> Any:
            store = zarr.storage.FsspecStore.from_url(self._where, read_only=True)
            return zarr.open_array(store, mode="r", zarr_format=3 if self.place.format == "zarr3" else 2)

        array = self._array = remote.in_time(opened, remote.READ_SECONDS)
        self.axes = self.axes or names_by_custom(array.ndim)
        arrangement = self._arrangement = arrange(
            self.axes,
            (0,) * array.ndim,
            array.shape,
            dict(self.place.select),
            shown(self.place.url),
            channels=self.place.channels,
        )
        self.fill = array.fill_value if array.fill_value is not None else 0
        dims = arrangement.dims[:3]
        return Shape(
            array.dtype.name,
            (0, 0, 0),
            _point([array.shape[d] for d in dims]),
            _point([array.chunks[d] for d in dims]),
        )

    def _get(self, box: Box) -> NDArray[Any]:
        array, arrangement = self._array, self._arrangement
        index = _index(box, len(self.axes), arrangement)
        nbytes = box.size * array.dtype.itemsize * self.place.channels
        out: NDArray[Any] = remote.in_time(lambda: np.asarray(array[index]), remote.deadline(nbytes))
        self._check(self._known, now=True)
        return _contiguous(out.transpose(arrangement.order))


# ------------------------------------------------------------------ h5py


class _Hdf5Reader(Reader):
    _file: Any = None
    _data: Any = None
    _arrangement: Arrangement

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._path = local_path(place.url)

    def _look(self) -> Hashable:
        if self._path is not None:
            try:
                stat = os.stat(self._path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return stat.st_size, stat.st_mtime_ns
        fs, path = filesystem(self.place.url)

        def info() -> tuple[Any, ...] | None:
            fs.invalidate_cache()
            try:
                found = fs.info(path)
            except FileNotFoundError:
                return None
            marks = (found.get(k) for k in ("size", "ETag", "etag", "mtime", "updated", "LastModified"))
            return tuple(v if isinstance(v, (int, str)) else str(v) for v in marks if v is not None)

        return remote.in_time(info, remote.READ_SECONDS)

    def _open(self) -> Shape:
        h5py = import_h5py()
        place = self.place
        stamp = self._look()
        if self._path is not None:
            # locked as HDF5 does by itself: other flags would keep whoever else opens it in this process from doing so
            self._file = h5py.File(self._path, "r", rdcc_nbytes=1 << 24, rdcc_nslots=10007)
        else:
            fs, name = filesystem(place.url)
            raw = fs.open(name, "rb", block_size=1 << 20, cache_type="blockcache", cache_options={"maxblocks": 64})
            self._file = h5py.File(raw, "r", rdcc_nbytes=1 << 24, rdcc_nslots=10007)
        data = self._data = get_dataset(self._file, place.path, shown(place.url))
        # what lies in other files may be any file of this machine, and changes unseen
        if data.is_virtual or data.external or data.file.filename != self._file.filename:
            raise BadRequest(f"{shown(place.url)}: the data set {place.path} lies in other files: adopt those")
        self.axes = self.axes or names_by_custom(data.ndim)
        arrangement = self._arrangement = arrange(
            self.axes,
            (0,) * data.ndim,
            data.shape,
            dict(place.select),
            f"{shown(place.url)} {place.path}",
            channels=place.channels,
        )
        dims = arrangement.dims[:3]
        chunk = data.chunks or (1,) * data.ndim
        self.fill = data.fillvalue
        return Shape(
            np.dtype(data.dtype).newbyteorder("=").name,
            (0, 0, 0),
            _point([data.shape[d] for d in dims]),
            _point([chunk[d] for d in dims]),
            stamp if isinstance(stamp, tuple) else (),
        )

    def _get(self, box: Box) -> NDArray[Any]:
        data, arrangement = self._data, self._arrangement
        index = _index(box, len(self.axes), arrangement)

        def get() -> NDArray[Any]:
            return np.asarray(data[index])

        out = remote.in_time(get, remote.deadline(box.size * data.dtype.itemsize)) if self.remote else get()
        return _contiguous(out.transpose(arrangement.order))


def _index(box: Box, ndim: int, arrangement: Arrangement) -> tuple[Any, ...]:
    index: list[Any] = [slice(None)] * ndim
    for dim, at in arrangement.fixed:
        index[dim] = at
    for dim, piece in zip(arrangement.dims[:3], box.slices(), strict=True):
        index[dim] = piece
    return tuple(index)


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _point(values: Any) -> Point:
    z, y, x = (int(v) for v in values[:3])
    return z, y, x


# ------------------------------------------------------------------ those that are open


_open_readers: OrderedDict[Place, Reader] = OrderedDict()
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _open_readers.clear()


os.register_at_fork(after_in_child=_after_fork)


def forget() -> None:
    """Close all arrays and drop what is cached of them, as far as nobody reads them."""
    with _lock:
        _open_readers.clear()
    remote.context.cache_clear()


def reader_of(place: Place) -> Reader:
    """The reader of an array in this process: the same one for as long as it is among the last used."""
    with _lock:
        found = _open_readers.get(place)
        if found is not None:
            _open_readers.move_to_end(place)
            return found
    made = _reader_class(place)(place)
    with _lock:
        found = _open_readers.setdefault(place, made)
        # whoever still reads through one that is dropped keeps it open
        while len(_open_readers) > _MAX_OPEN:
            _open_readers.popitem(last=False)
    return found


def _reader_class(place: Place) -> Callable[[Place], Reader]:
    if place.format == "hdf5":
        return _Hdf5Reader
    if place.format == "tensorstore" or place.url.partition("://")[0] in _BY_TENSORSTORE:
        return _TensorstoreReader
    if place.format in ("zarr2", "zarr3"):
        return _ZarrReader
    raise BadRequest(
        f"{shown(place.url)}: {place.format} is read at file, http, https, gs and s3 URLs; at others, zarr and HDF5 are"
    )
