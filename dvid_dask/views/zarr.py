"""A volume as a zarr 3 group: one array for each scale, with the metadata of OME-Zarr 0.5.

====================  =====================================================================================
``zarr.json``         the group, with the arrays' metadata beside it (consolidated)
``s0/zarr.json``      scale 0 as an array (z, y, x), of a colour image (c, z, y, x)
``s0/c/0/0/0``        its first chunk, which is one block
``supervoxels/``      of a labelmap: the same of its supervoxels
====================  =====================================================================================

An array begins at index 0, at the corner of the first block that the extents touch. Where that is, OME-Zarr says by a
translation, and the array's attribute ``offset`` in voxels (z, y, x). In a missing chunk nothing is stored.

Sources: the zarr 3 core specification, https://zarr-specs.readthedocs.io, and OME-NGFF 0.5,
https://ngff.openmicroscopy.org/0.5.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import imagecodecs
import msgspec
import numpy as np

from dvid_dask.bases import Base
from dvid_dask.formats import label_blocks, ome_zarr
from dvid_dask.formats.compression import zstd_compress

from .volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dvid_dask.datatypes.base import Datatype

    from .volume import Level

__all__ = ["SUPERVOXELS", "ZarrView"]

#: The group of supervoxels beside the arrays of bodies.
SUPERVOXELS = "supervoxels"

_CHUNK = re.compile(r"s(\d{1,2})/c((?:/\d{1,10}){3,4})")
_ARRAY = re.compile(r"s(\d{1,2})/zarr\.json")
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
#: Of voxels that are packed for an answer. On real and synthetic labels level 3 takes a fifth of the time and of the
#: bytes of level 1: 0.7 ms and 14 kB for a block of 64^3.
_LEVEL = 3
_ZSTD = {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}}


class ZarrView:
    """What lies at each path of the group; see the module.

    Parameters
    ----------
    instance : Datatype
        A labelmap or an image, at a version; one state of it is read.
    supervoxels : bool
        Supervoxels instead of bodies.

    Examples
    --------
    >>> import numpy as np
    >>> import zarr
    >>> import dvid_dask
    >>> from dvid_dask.views import ViewStore, ZarrView
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "1"})
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 64))
    >>> group = zarr.open_group(ViewStore(ZarrView(seg)), mode="r")
    >>> group["s0"].shape, int(group["s0"][0, 0, 0]), group["s0"].attrs["offset"]
    ((64, 64, 64), 7, [0, 0, 64])
    >>> group["s1"].shape, int(group["s1"][0, 0, 32]), group["s1"].attrs["offset"]  # from a block's corner on
    ((32, 32, 64), 7, [0, 0, 0])
    """

    def __init__(self, instance: Datatype, *, supervoxels: bool = False) -> None:
        self.volume = Volume(instance, supervoxels=supervoxels)
        self._nested = self.volume.has_supervoxels and not supervoxels
        self._below: ZarrView | None = None

    @property
    def token(self) -> str:
        """Equal tokens mean that nothing has changed."""
        return self.volume.token

    def get(self, path: str) -> tuple[bytes, str] | None:
        """What lies at a path, and its media type; None where nothing does."""
        if path == "zarr.json":
            return msgspec.json.encode(self.group(consolidated=True)), "application/json"
        if self._nested and path.startswith(SUPERVOXELS + "/"):
            return self._supervoxels().get(path[len(SUPERVOXELS) + 1 :])
        found = _ARRAY.fullmatch(path)
        if found:
            level = self._level(found[1])
            return None if level is None else (msgspec.json.encode(self.array(level)), "application/json")
        found = _CHUNK.fullmatch(path)
        if found:
            level = self._level(found[1])
            chunk = None if level is None else self.chunk(level, [int(part) for part in found[2][1:].split("/")])
            return None if chunk is None else (chunk, "application/octet-stream")
        return None

    def children(self, path: str) -> Iterator[str]:
        """Names right below a folder; of chunks, which may be very many, none."""
        if path == "":
            yield "zarr.json"
            yield from (f"s{level.scale}" for level in self.volume.levels)
            if self._nested:
                yield SUPERVOXELS
        elif self._nested and path.split("/")[0] == SUPERVOXELS:
            yield from self._supervoxels().children(path[len(SUPERVOXELS) + 1 :])
        elif any(path == f"s{level.scale}" for level in self.volume.levels):
            yield "zarr.json"

    def _supervoxels(self) -> ZarrView:
        if self._below is None:
            self._below = ZarrView(self.volume.instance, supervoxels=True)
        return self._below

    def _level(self, scale: str) -> Level | None:
        wanted = int(scale)
        return next((level for level in self.volume.levels if level.scale == wanted), None)

    # ------------------------------------------------------------------ metadata

    def group(self, *, consolidated: bool = False) -> dict[str, Any]:
        """The group's metadata; `consolidated`, with those of all that lies in it."""
        volume = self.volume
        base: Base | None = getattr(volume.instance, "base_volume", None)
        ome = ome_zarr.attributes(
            volume.instance.name,
            [(level.scale, level.start) for level in volume.levels],
            volume.voxel_size,
            volume.units,
            labels=volume.labels,
            ours=base is None or not base.made(level.scale for level in volume.levels),
            channels=volume.channels,
            dtype=volume.dtype.name,
        )
        made: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        if consolidated:
            below: dict[str, Any] = {f"s{level.scale}": self.array(level) for level in volume.levels}
            if self._nested:
                inner = self._supervoxels().group(consolidated=True)
                held = inner["consolidated_metadata"]["metadata"]
                below |= {SUPERVOXELS: inner} | {f"{SUPERVOXELS}/{name}": held[name] for name in held}
            made["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": below}
        return made

    def array(self, level: Level) -> dict[str, Any]:
        """The metadata of a scale's array."""
        volume = self.volume
        shape, chunk, names = list(level.shape), list(volume.block), ["z", "y", "x"]
        if volume.channels > 1:
            shape, chunk, names = [volume.channels, *shape], [volume.channels, *chunk], ["c", *names]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": volume.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": volume.fill,
            "codecs": self._codecs(level),
            "dimension_names": names,
            "attributes": {"offset": list(level.start), "scale": level.scale},
        }

    def _codecs(self, level: Level) -> list[dict[str, Any]]:
        volume = self.volume
        if volume.labels:
            return [_BYTES, _ZSTD]
        layout = volume.instance.layout  # type: ignore[attr-defined]
        if layout.jpeg:
            return [_BYTES, _ZSTD]
        stored: list[dict[str, Any]] = msgspec.json.decode(layout.metadata(volume.space, level.scale))["codecs"]
        # what is stored has the channels last
        turned = [{"name": "transpose", "configuration": {"order": [1, 2, 3, 0]}}] if volume.channels > 1 else []
        return [*turned, *stored]

    # ------------------------------------------------------------------ chunks

    def chunk(self, level: Level, index: Sequence[int]) -> bytes | None:
        """The chunk at an index of the array's grid; None where nothing is stored or the array has ended."""
        volume = self.volume
        if len(index) != 3 + (volume.channels > 1) or (volume.channels > 1 and index[0]):
            return None
        at = list(index[-3:])
        if any(i * n >= length for i, n, length in zip(at, volume.block, level.shape, strict=True)):
            return None
        block = [i + a // n for i, a, n in zip(at, level.start, volume.block, strict=True)]
        if volume.labels:
            held = volume.label_block(level.scale, block)
            if held is None:
                return None
            voxels = label_blocks.decode_block(held[0], table=held[1])
            return zstd_compress(voxels.data.cast("B"), _LEVEL)
        stored = volume.stored_block(level.scale, block)
        layout = volume.instance.layout  # type: ignore[attr-defined]
        if stored is None or not layout.jpeg:
            return stored
        gray = np.ascontiguousarray(imagecodecs.jpeg_decode(stored))
        return zstd_compress(gray.data.cast("B"), _LEVEL)
