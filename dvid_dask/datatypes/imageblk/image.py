"""Images: volumes of voxels in blocks, per version. uint8blk, uint16blk, uint32blk, uint64blk, float32blk, rgba8blk."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from dvid_dask.boxes import Box
from dvid_dask.datatypes.base import CONFLICT, register

from . import extents as extents_record
from .layout import EXTENTS_KEY
from .methods.arrays import Arrays

__all__ = ["Float32Blk", "ImageBlk", "Rgba8Blk", "Uint8Blk", "Uint16Blk", "Uint32Blk", "Uint64Blk"]

URL = "github.com/janelia-flyem/dvid/datatype/imageblk/"


class ImageBlk(Arrays):
    """A volume of voxels at a version: read and written as boxes, slices, blocks and planes of any orientation.

    Arrays are (z, y, x), colour has a last axis of 4 channels. Coordinates are signed 32-bit integers: an index may be
    negative, and -1 is the voxel before 0, not the last one. What was never written reads 0.

    Every write is one atomic commit: voxels, extents, the mutation log and what other instances make of it.

    Examples
    --------
    >>> import dvid_dask, numpy as np
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> gray = repo.new_instance("uint8blk", "grayscale", {"blocksize": "64,64,64"})
    >>> gray.write(np.full((64, 64, 128), 7, np.uint8), (0, 0, -64))
    >>> gray[0, 10:12, -2:3]
    array([[7, 7, 7, 7, 7],
           [7, 7, 7, 7, 7]], dtype=uint8)
    >>> gray.extents
    Box(start=(0, 0, -64), stop=(64, 64, 64))
    >>> gray.to_dask().mean().compute()
    np.float64(7.0)
    """

    typeversion: ClassVar[str] = "0.1"

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """Blocks by scale and coordinate in x, y, z; the extents."""
        if key == EXTENTS_KEY:
            return {"extents": True}
        found = self.layout.parse_block_key(key)
        if found is None:
            return None
        scale, (z, y, x) = found
        return {"scale": scale, "block": [x, y, z]}

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """Extents of several parents are united; blocks that both changed are a conflict."""
        if key == EXTENTS_KEY and all(value is not None for value in values):
            held = [extents_record.decode(value) for value in values if value is not None]
            return extents_record.encode(functools.reduce(Box.union, held))
        return CONFLICT


# ---------------------------------------------------------------------- the types


@register
class Uint8Blk(ImageBlk):
    """8-bit grey values: electron microscopy, mostly."""

    typename = "uint8blk"
    typeurl = URL + "uint8.go"
    typeversion = "0.2"
    value_type = "uint8"
    labels = ("uint8",)


@register
class Uint16Blk(ImageBlk):
    """16-bit values."""

    typename = "uint16blk"
    typeurl = URL + "uint16.go"
    value_type = "uint16"
    labels = ("uint16",)


@register
class Uint32Blk(ImageBlk):
    """32-bit values."""

    typename = "uint32blk"
    typeurl = URL + "uint32.go"
    value_type = "uint32"
    labels = ("uint32",)


@register
class Uint64Blk(ImageBlk):
    """64-bit values."""

    typename = "uint64blk"
    typeurl = URL + "uint64.go"
    value_type = "uint64"
    labels = ("uint64",)


@register
class Float32Blk(ImageBlk):
    """Single-precision values: probabilities, mostly."""

    typename = "float32blk"
    typeurl = URL + "float32.go"
    value_type = "float32"
    labels = ("float32",)


@register
class Rgba8Blk(ImageBlk):
    """Colour: red, green, blue and alpha of 8 bits."""

    typename = "rgba8blk"
    typeurl = URL + "rgba8.go"
    typeversion = "0.2"
    value_type = "uint8"
    labels = ("red", "green", "blue", "alpha")
