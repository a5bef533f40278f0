"""A base: a volume that others keep, as an instance that stands on it remembers it.

It is a small object of plain values. What it reads through is open once per process, whatever number of bases name it.

Examples
--------
>>> import tempfile, numpy as np, zarr
>>> where = tempfile.mkdtemp() + "/em.zarr"
>>> array = zarr.create_array(where, shape=(40, 50, 60), chunks=(32, 32, 32), dtype="uint8", fill_value=7)
>>> array[:32] = np.broadcast_to(np.arange(60, dtype=np.uint8), (32, 50, 60))
>>> base = Base.find(where)
>>> base.dtype, base.extents().shape, base.scales
(dtype('uint8'), (40, 50, 60), [0])
>>> base.read(0, (31, 0, 0), (33, 1, 4)).tolist()
[[[0, 1, 2, 3]], [[7, 7, 7, 7]]]
>>> Base.of(base.to_json()) == base
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.boxes import INT32_MAX, INT32_MIN, Box, Point
from dvid_dask.errors import BadRequest, BrokenBase, NotFound

from . import remote
from .files import filesystem, open_files
from .hdf5 import import_h5py, only_dataset
from .naming import file_url, named_directory, split_hdf5
from .pyramids import Pyramid, Step, find_pyramid, scale_of
from .readers import Gone, Guard, Place, Shape, reader_of
from .urls import local_path, shown

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Base", "BaseScale", "holds_labels"]


class BaseScale(msgspec.Struct, frozen=True):
    """One scale of a base.

    Attributes
    ----------
    scale
        0 is full resolution; every scale halves it.
    offset
        Its first voxel in the instance's coordinates of that scale, z, y, x.
    place
        Where it is.
    shape
        What must stay the same of it.
    """

    scale: int
    offset: Point
    place: Place
    shape: Shape

    @property
    def box(self) -> Box:
        """Its voxels in the instance's coordinates."""
        return Box.of_shape(self.shape.shape).shift(self.offset)


class Base(msgspec.Struct, frozen=True):
    """A volume that others keep.

    Attributes
    ----------
    url
        Of its directory or file; may hold what signs requests, so show `shown_url`.
    levels
        Its scales, in ascending order; the first is scale 0.
    fill
        What its missing chunks stand for.
    nanometres
        Size of a voxel, z, y, x; None where nobody says.
    """

    url: str
    levels: tuple[BaseScale, ...]
    fill: int | float | str = 0
    nanometres: tuple[float, float, float] | None = None

    # ------------------------------------------------------------------ made

    @classmethod
    def find(
        cls,
        url: str | Mapping[str, Any],
        *,
        axes: str | Sequence[str] | None = None,
        select: Mapping[str, int] | None = None,
        dataset: str | None = None,
        offset: Sequence[int] | None = None,
        channels: int = 1,
    ) -> Base:
        """Look at a volume and note what it is; no voxel is read.

        Parameters
        ----------
        url
            A path or a URL, also as neuroglancer writes it (``precomputed://gs://...``, ``gs://...|zarr3:``), or a JSON
            spec of tensorstore.
        axes
            Names of the dimensions in their order, where the data don't say or say it wrongly, like ``"xyz"``.
        select
            Index for each further dimension that has more than one element, like ``{"c": 1}``.
        dataset
            Data set of an HDF5 file; also ``em.h5:/em/gray``.
        offset
            First voxel in the instance's coordinates (z, y, x); by default what the volume's metadata say, or 0.
        channels
            More than one keeps the axis ``c``: colour.

        Raises
        ------
        NotFound
            There is no volume.
        BadRequest
            It is no volume of three dimensions, or doesn't fit the coordinates.
        Unavailable
            It can't be opened now.
        """
        names = tuple(a.lower() for a in axes or ())
        chosen = tuple(sorted((select or {}).items()))
        if isinstance(url, str) and url.lstrip().startswith("{"):
            url = _parsed(url)
        if isinstance(url, Mapping):
            text = msgspec.json.encode(url, order="sorted").decode()
            place = Place("tensorstore", text, axes=names, select=chosen, channels=channels)
            return cls._found(text, [(Step("", 0, {}), place)], None, offset)
        hdf5 = split_hdf5(url, dataset)
        if hdf5 is not None:
            where, inside = file_url(hdf5[0]), hdf5[1]
            place = Place("hdf5", where, inside or _only(where), axes=names, select=chosen, channels=channels)
            return cls._found(where, [(Step("", 0, {}), place)], None, offset)
        where, format = named_directory(url)
        pyramid = find_pyramid(open_files(where), format)
        if not names and pyramid.axes is not None:
            names = tuple(pyramid.axes)
        steps = [
            (step, Place(pyramid.format, where, step.path.strip("/"), step.which, names, chosen, channels))
            for step in pyramid.steps
        ]
        return cls._found(where, steps, pyramid, offset)

    @classmethod
    def _found(
        cls,
        url: str,
        steps: list[tuple[Step, Place]],
        pyramid: Pyramid | None,
        offset: Sequence[int] | None,
    ) -> Base:
        finest = reader_of(steps[0][1])
        try:
            full = finest.shape()
        except Gone as e:
            raise NotFound(f"{shown(url)}: there is no volume") from e
        except BrokenBase as e:
            raise BadRequest(str(e)) from e
        start = full.start
        if pyramid is not None and pyramid.offset:
            z, y, x = (s + pyramid.offset.get(a, 0) for s, a in zip(start, "zyx", strict=True))
            start = (z, y, x)
        if offset is not None:
            z, y, x = (int(v) for v in offset)
            start = (z, y, x)
        box = Box.of_shape(full.shape).shift(start)
        if min(box.start) < INT32_MIN or max(box.stop) - 1 > INT32_MAX:
            raise BadRequest(f"{shown(url)} would lie at {box}, outside the coordinates {INT32_MIN} to {INT32_MAX}")
        levels = [BaseScale(0, box.start, steps[0][1], full)]
        moved = [a - b for a, b in zip(start, full.start, strict=True)]
        for step, place in steps[1:]:
            scale = scale_of(step.ratio)
            if not scale or scale > 31 or any(one.scale >= scale for one in levels):
                continue
            if any(m % (1 << scale) for m in moved):
                continue
            shape = reader_of(place).shape()
            first = [a + (m >> scale) for a, m in zip(shape.start, moved, strict=True)]
            here = Box.of_shape(shape.shape).shift(first)
            if shape.dtype == full.dtype and _covers(here, box, scale):
                levels.append(BaseScale(scale, here.start, place, shape))
        fill = np.asarray(finest.fill).astype(full.dtype).item()
        size = pyramid.nanometres if pyramid is not None else None
        nanometres = None if size is None else (size["z"], size["y"], size["x"])
        # JSON has no NaN
        return cls(url, tuple(levels), fill if fill == fill else "NaN", nanometres)

    def at(self, url: str | Mapping[str, Any] | None = None, *, dataset: str | None = None) -> Base:
        """The same volume at another place, or as it is now at its own.

        Parameters
        ----------
        url, dataset
            As for `find`; where it was, by default.

        Raises
        ------
        BadRequest
            What is there has another type, other extents, or lacks a scale.
        NotFound, Unavailable
            As `find`.
        """
        first = self.levels[0]
        place = first.place
        if url is None:
            url = self.url
            if dataset is None and place.format == "hdf5":
                dataset = place.path
        found = Base.find(
            url,
            axes=place.axes or None,
            select=dict(place.select),
            dataset=dataset,
            offset=first.offset,
            channels=place.channels,
        )
        for one in self.levels:
            other = found.level(one.scale)
            if other is None or (other.box, other.shape.dtype) != (one.box, one.shape.dtype):
                is_now = "is missing" if other is None else f"holds {other.shape.dtype} at {other.box}"
                raise BadRequest(
                    f"{found.shown_url} is another volume than {self.shown_url}: scale {one.scale} {is_now}, "
                    f"was {one.shape.dtype} at {one.box}"
                )
        return found

    @classmethod
    def of(cls, held: Mapping[str, Any]) -> Base:
        """From what `to_json` gave; nothing is opened.

        Raises
        ------
        BadRequest
            It is something else.
        """
        try:
            return msgspec.convert(held, cls)
        except msgspec.ValidationError as e:
            raise BadRequest(f"no description of a base: {e}") from e

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    # ------------------------------------------------------------------ known without a look

    @property
    def shown_url(self) -> str:
        """The URL without what signs requests."""
        return shown(self.url)

    @property
    def format(self) -> str:
        """zarr2, zarr3, n5, precomputed, hdf5 or tensorstore."""
        return self.levels[0].place.format

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        return np.dtype(self.levels[0].shape.dtype)

    @property
    def channels(self) -> int:
        """Values per voxel; more than one make a last axis."""
        return self.levels[0].place.channels

    @property
    def chunk(self) -> Point:
        """Voxels of a chunk of scale 0: boxes of this shape, aligned to it from the first voxel, are cheap to read."""
        return self.levels[0].shape.chunk

    @property
    def scales(self) -> list[int]:
        """The scales it has, in ascending order."""
        return [one.scale for one in self.levels]

    @property
    def remote(self) -> bool:
        """Whether another machine is asked."""
        return reader_of(self.levels[0].place).remote

    def level(self, scale: int) -> BaseScale | None:
        """A scale; None where it has none."""
        for one in self.levels:
            if one.scale == scale:
                return one
        return None

    def made(self, scales: Iterable[int]) -> bool:
        """Whether it has one of these scales made coarser, by whatever rule."""
        return any(scale and self.level(scale) is not None for scale in scales)

    def extents(self, scale: int = 0) -> Box:
        """Its voxels in the instance's coordinates of a scale, z, y, x.

        Raises
        ------
        BadRequest
            It has no such scale.
        """
        one = self.level(scale)
        if one is None:
            raise BadRequest(f"{self.shown_url} has no scale {scale}; it has {self.scales}")
        return one.box

    def summary(self) -> dict[str, Any]:
        """What it is in the words of the REST API: x, y, z, both ends inside."""
        box = self.extents()
        return {
            "URL": self.shown_url,
            "Format": self.format,
            "DataType": self.dtype.name,
            "Scales": self.scales,
            "ChunkSize": list(reversed(self.chunk)),
            "MinPoint": list(reversed(box.start)),
            "MaxPoint": [v - 1 for v in reversed(box.stop)],
        }

    # ------------------------------------------------------------------ read

    def read(self, scale: int, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        """The voxels from `start` to before `stop` (z, y, x, in the instance's coordinates of the scale).

        Missing chunks are the volume's fill value.

        Raises
        ------
        BadRequest
            It has no such scale, or the box isn't inside its extents.
        BrokenBase
            The volume is gone, is no longer what was adopted, or holds what can't be decoded.
        Unavailable, TooBusy
            Its store fails, is slow, or has too many reads under way.
        """
        one = self.level(scale)
        if one is None or not _inside(start, stop, one):
            box = Box.of(start, stop)
            raise BadRequest(f"the box {box} isn't inside scale {scale} of {self.shown_url}: {self.extents(scale)}")
        return _read(one, start, stop)

    def read_into(self, out: NDArray[Any], scale: int, start: Sequence[int]) -> None:
        """Put voxels into an array that stands at `start`; what lies outside the extents stays as it is.

        Raises
        ------
        BrokenBase, Unavailable, TooBusy
            As `read`.
        """
        one = self.level(scale)
        if one is None:
            return
        here = Box.of_shape(out.shape[:3]).shift(start)
        inside = here.intersect(one.box)
        if inside:
            out[inside.relative(start).slices()] = self.read(scale, *inside)

    def read_box(self, scale: int, start: Sequence[int], shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """The voxels of a box wherever it lies; outside the extents they are 0. Yours to write to.

        Raises
        ------
        BrokenBase, Unavailable, TooBusy
            As `read`.
        """
        (z, y, x), (d, h, w) = start, shape
        stop = z + d, y + h, x + w
        one = self.level(scale)
        if one is not None and _inside(start, stop, one):
            found = _read(one, start, stop)
            return found if found.dtype == dtype else found.astype(dtype)
        out = np.zeros((*shape, *((self.channels,) if self.channels > 1 else ())), dtype)
        self.read_into(out, scale, start)
        return out

    def check(self) -> None:
        """Look now whether all scales are still what was adopted.

        Raises
        ------
        BrokenBase, Unavailable
        """
        for one in self.levels:
            reader_of(one.place).verify(one.shape)


def _inside(start: Sequence[int], stop: Sequence[int], one: BaseScale) -> bool:
    # for reads of single chunks every microsecond counts
    z, y, x = one.offset
    d, h, w = one.shape.shape
    return z <= start[0] <= stop[0] <= z + d and y <= start[1] <= stop[1] <= y + h and x <= start[2] <= stop[2] <= x + w


def _read(one: BaseScale, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
    """A box inside of a scale, from the array's own indices."""
    shape = one.shape
    (fz, fy, fx), (oz, oy, ox) = shape.start, one.offset
    (az, ay, ax), (bz, by, bx) = start, stop
    z, y, x = fz - oz, fy - oy, fx - ox
    return reader_of(one.place).read(Box((az + z, ay + y, ax + x), (bz + z, by + y, bx + x)), shape)


def _covers(here: Box, full: Box, scale: int) -> bool:
    """Whether a coarser scale covers what the full one does, but for a voxel of its own."""
    step = 1 << scale
    return all(abs(a * step - b) < step for a, b in zip(here.start, full.start, strict=True)) and all(
        abs(a * step - b) <= step for a, b in zip(here.stop, full.stop, strict=True)
    )


def _parsed(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise BadRequest(f"a base that begins with a brace is a JSON spec of tensorstore; this is none: {e}") from e


def _only(url: str) -> str:
    """The one data set of an HDF5 file that can be a volume."""
    h5py = import_h5py()
    path = local_path(url)
    if path is not None:
        if not path.exists():
            raise NotFound(f"{shown(url)}: no such file")
        with h5py.File(path, "r") as file:
            return only_dataset(file, shown(url))
    fs, name = filesystem(url)

    def look() -> str:
        with fs.open(name, "rb") as raw, h5py.File(raw, "r") as file:
            return only_dataset(file, shown(url))

    with Guard(url, True):
        return remote.in_time(look, remote.READ_SECONDS)


def holds_labels(url: str | Mapping[str, Any]) -> bool:
    """Whether a volume's metadata say that it is a segmentation: precomputed's ``type``, OME-Zarr's ``image-label``.

    Raises
    ------
    NotFound, BadRequest, BrokenBase, Unavailable
        As `Base.find`.
    """
    if not isinstance(url, str) or url.lstrip().startswith("{") or split_hdf5(url, None) is not None:
        return False
    where, format = named_directory(url)
    return find_pyramid(open_files(where), format).labels
