"""A volume that is read box by box, whatever holds it; parts of it, and other types of value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Volume", "native", "shape3"]


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


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in this machine's byte order."""
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


def shape3(shape: Sequence[int], name: str) -> Point:
    """The shape of a volume: three dimensions, none empty."""
    if len(shape) != 3 or any(n < 1 for n in shape):
        raise BadRequest(f"{name}: a volume has three dimensions (z, y, x) of at least 1, got shape {tuple(shape)}")
    nz, ny, nx = (int(n) for n in shape)
    return nz, ny, nx
