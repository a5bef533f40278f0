"""Stacks of images as volumes: files of one plane each, or TIFF files of many pages."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats.images import labels_of_rgba

from .volume import Volume, shape3

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IMAGES", "find_images", "open_images"]

#: How names of files end that hold images.
IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


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
        self.shape, self.dtype = shape3((planes, *shape), self.name), np.dtype(dtype).newbyteorder("=")
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


def open_images(given: str | Sequence[str]) -> Volume:
    """A stack by a glob, a list of files, or one TIFF.

    Raises
    ------
    NotFound
        If the glob finds none.
    BadRequest
        If a file is no image by its name.
    """
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
    if odd := [p for p in paths if not p.lower().endswith(IMAGES)]:
        raise BadRequest(f"{odd[0]}: images end in {', '.join(IMAGES)}")
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if len(paths) == 1 and fnmatch.fnmatch(paths[0].lower(), "*.tif*"):
        return _Tiff(paths[0], protocol)
    return _Stack(paths, protocol)
