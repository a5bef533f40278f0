"""A volume as neuroglancer's precomputed format.

=====================================  =======================================================================
``info``                               the volume: its scales, each from the first block on
``<key>/<x0>-<x1>_<y0>-<y1>_<z0>-<z1>``  a chunk; `key` is the scale's voxel size, as ``16_16_16``
``segment_properties/info``            of bodies: not here; ``ops.export`` writes them
=====================================  =======================================================================

Segmentations are ``compressed_segmentation``, made of label blocks without expanding them; images ``raw``, those stored
as JPEG ``jpeg``. Chunks of images are cubes of several blocks, since viewers pay for each request.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.formats import compressed_segmentation

from .volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvid_dask.datatypes.base import Datatype

    from .volume import Level, Point

__all__ = ["PrecomputedView"]

_CHUNK = re.compile(r"([\w.+-]+)/(-?\d{1,10})-(-?\d{1,10})_(-?\d{1,10})-(-?\d{1,10})_(-?\d{1,10})-(-?\d{1,10})")
#: Sides of a chunk of an image, as far as blocks fit.
_SIDE = 64


class PrecomputedView:
    """What lies at each path of the volume; see the module.

    Parameters
    ----------
    instance : Datatype
        A labelmap or an image, at a version; one state of it is read.
    supervoxels : bool
        Supervoxels instead of bodies.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 64))
    >>> view = PrecomputedView(seg)
    >>> view.info()["scales"][0]["voxel_offset"]
    [64, 0, 0]
    >>> len(view.get("8_8_8/64-128_0-64_0-64")[0])
    4108
    """

    def __init__(self, instance: Datatype, *, supervoxels: bool = False) -> None:
        self.volume = Volume(instance, supervoxels=supervoxels)
        self._jpeg = not self.volume.labels and self.volume.instance.layout.jpeg  # type: ignore[attr-defined]
        self._levels = {self._key(level): level for level in self.volume.levels}

    @property
    def token(self) -> str:
        """Equal tokens mean that nothing has changed."""
        return self.volume.token

    @property
    def chunk_shape(self) -> Point:
        """Voxels of a chunk, z, y, x."""
        volume = self.volume
        if volume.labels or self._jpeg:
            return volume.block
        z, y, x = (n * max(1, _SIDE // n) for n in volume.block)
        return z, y, x

    def _key(self, level: Level) -> str:
        return "_".join(f"{v * 2**level.scale:.10g}" for v in reversed(self.volume.nanometres))

    def get(self, path: str) -> tuple[bytes, str] | None:
        """What lies at a path, and its media type; None where nothing does."""
        if path == "info":
            return msgspec.json.encode(self.info()), "application/json"
        found = _CHUNK.fullmatch(path)
        if not found:
            return None
        level = self._levels.get(found[1])
        if level is None:
            return None
        x0, x1, y0, y1, z0, z1 = (int(v) for v in found.groups()[1:])
        chunk = self.chunk(level, (z0, y0, x0), (z1, y1, x1))
        return None if chunk is None else (chunk, "image/jpeg" if self._jpeg else "application/octet-stream")

    def children(self, path: str) -> Iterator[str]:
        """Names right below a folder; of chunks, which may be very many, none."""
        if path == "":
            yield "info"
            yield from self._levels

    def info(self) -> dict[str, Any]:
        """The volume's ``info``."""
        volume = self.volume
        scales = []
        for key, level in self._levels.items():
            scale: dict[str, Any] = {
                "key": key,
                "size": list(reversed(level.shape)),
                "voxel_offset": list(reversed(level.start)),
                "chunk_sizes": [list(reversed(self.chunk_shape))],
                "resolution": [v * 2**level.scale for v in reversed(volume.nanometres)],
                "encoding": "compressed_segmentation" if volume.labels else "jpeg" if self._jpeg else "raw",
            }
            if volume.labels:
                scale["compressed_segmentation_block_size"] = [8, 8, 8]
            scales.append(scale)
        return {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation" if volume.labels else "image",
            "data_type": volume.dtype.name,
            "num_channels": volume.channels,
            "scales": scales,
        }

    def chunk(self, level: Level, start: Point, stop: Point) -> bytes | None:
        """A chunk of a scale by its first voxel and one past its last, z, y, x; None where nothing is stored.

        What isn't a chunk of the volume's grid is none.
        """
        volume, shape = self.volume, self.chunk_shape
        for a, b, first, last, n in zip(start, stop, level.start, level.stop, shape, strict=True):
            if a < first or (a - first) % n or b != min(a + n, last) or a >= b:
                return None
        blocks = [a // n for a, n in zip(start, volume.block, strict=True)]
        extent = [b - a for a, b in zip(start, stop, strict=True)]
        if volume.labels:
            held = volume.label_block(level.scale, blocks)
            return None if held is None else compressed_segmentation.from_label_block(*held, extent)
        if self._jpeg and tuple(extent) == shape:
            return volume.stored_block(level.scale, blocks)
        if not self._stored(level, start, stop):
            return None
        voxels = volume.voxels(level.scale, start, extent)
        if self._jpeg:
            return self._squeezed(voxels)
        if volume.channels > 1:
            voxels = np.moveaxis(voxels, -1, 0)  # a chunk has its channels outermost
        return np.ascontiguousarray(voxels).tobytes()

    def _stored(self, level: Level, start: Point, stop: Point) -> bool:
        volume = self.volume
        corners = [range(a // n, -(-b // n)) for a, b, n in zip(start, stop, volume.block, strict=True)]
        blocks = np.stack(np.meshgrid(*corners, indexing="ij"), -1).reshape(-1, 3)
        layout = volume.instance.layout  # type: ignore[attr-defined]
        return bool(layout.stored(volume.space, level.scale, blocks).any())

    @staticmethod
    def _squeezed(voxels: np.ndarray[Any, Any]) -> bytes:
        """A chunk at the volume's border as JPEG: x wide, y times z high."""
        from dvid_dask.formats.images import encode_image

        z, y, x = voxels.shape
        return encode_image(np.ascontiguousarray(voxels).reshape(z * y, x), "jpg:90")[0]
