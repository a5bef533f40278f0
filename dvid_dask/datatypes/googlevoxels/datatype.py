"""The googlevoxels: slices and boxes of a volume that the BrainMaps service holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from dvid_dask.datatypes.base import Datatype, register
from dvid_dask.errors import BadRequest, Unavailable
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.images import decode_image, encode_image
from dvid_dask.versions.settings import setting_text

from .geometry import SHAPES, Geometry, parse_geometries, scale_map
from .remote import MAX_ANSWER, Remote

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GoogleVoxels"]

_VOLUME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:~-]{0,255}")
_NAMES = {axes: name for name, axes in SHAPES.items()}
_MAX_PIXELS = 1 << 26


class _Cut(NamedTuple):
    """A request against a geometry: all of it, and the part that lies inside (x, y, z; end outside)."""

    number: int
    geometry: Geometry
    size: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    offset: tuple[int, ...]

    @property
    def outside(self) -> bool:
        return any(a >= b for a, b in zip(self.low, self.high, strict=True))

    @property
    def whole(self) -> bool:
        """Whether all of it lies inside."""
        ends = [a + n for a, n in zip(self.offset, self.size, strict=True)]
        return list(self.low) == list(self.offset) and list(self.high) == ends

    def spec(self) -> dict[str, Any]:
        """In the service's words."""
        size = [b - a for a, b in zip(self.low, self.high, strict=True)]
        return {"corner": ",".join(map(str, self.low)), "size": ",".join(map(str, size)), "scale": self.number}


@register
class GoogleVoxels(Datatype):
    """A volume that stays with Google's BrainMaps service: read only, the same at all versions.

    Coordinates are x, y, z, as the service has them. Settings at creation: ``VolumeID``, ``JWTFile`` (path of a
    service account's key on the server), ``TileSize`` (512).
    """

    typename: ClassVar[str] = "googlevoxels"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/googlevoxels"

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The volume, the key's path, and what the service says of the volume: this asks it."""
        volume, keyfile = setting_text(config, "volumeid"), setting_text(config, "jwtfile")
        if not volume or not keyfile:
            raise BadRequest("googlevoxels needs the settings 'VolumeID' and 'JWTFile', a service account's key")
        if not _VOLUME_ID.fullmatch(volume):
            raise BadRequest(f"setting 'volumeid': {volume[:80]!r} is no id of a volume")
        text = setting_text(config, "tilesize") or "512"
        if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 8192:
            raise BadRequest(f"setting 'tilesize': {text[:80]!r} is no number from 1 to 8192")
        path = os.path.abspath(keyfile)
        geometries = parse_geometries(Remote(path).get(f"volumes/{volume}"))
        return {
            "VolumeID": volume,
            "KeyFile": path,
            "TileSize": int(text),
            "Scales": [msgspec.to_builtins(g) for g in geometries],
        }

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """The scaled volumes."""
        return msgspec.convert(self.info.settings["Scales"], tuple[Geometry, ...])

    @property
    def tile_size(self) -> int:
        """Pixels of a tile's side, where nothing else is asked for."""
        return int(self.info.settings["TileSize"])

    def extended(self) -> dict[str, Any]:
        """Volume, geometries and scales, as DVID shows them; the key is withheld."""
        held, geometries = self.info.settings, self.geometries
        found, finest = scale_map(geometries)
        side = self.tile_size
        levels = {}
        for scale in range(max(int(name.partition(":")[2]) for name in found) + 1):
            resolution = [v * 2**scale for v in geometries[finest].pixel_size]
            levels[str(scale)] = {"Resolution": resolution, "TileSize": [side] * 3}
        return {
            "VolumeID": held["VolumeID"],
            "MinTileCoord": [0, 0, 0],
            "MaxTileCoord": [-(-n // side) for n in geometries[0].volume_size],
            "TileSize": side,
            "GeomMap": found,
            "Scales": held["Scales"],
            "HighResIndex": finest,
            "Levels": levels,
        }

    # ------------------------------------------------------------------ reading

    def _cut(self, axes: tuple[int, ...], scale: int, size: Sequence[int], offset: Sequence[int]) -> _Cut:
        found, _ = scale_map(self.geometries)
        # a slice of a volume that is coarser in all directions is as good as one made for slices
        index = found.get(f"{_NAMES[axes]}:{scale}", found.get(f"XYZ:{scale}"))
        if index is None:
            raise BadRequest(f"{self.name!r} has no scale {scale} for {_NAMES[axes]} (there are: {', '.join(found)})")
        geometry = self.geometries[index]
        wanted = [1, 1, 1]
        for axis, length in zip(axes, size, strict=True):
            wanted[axis] = length
        low = tuple(max(0, v) for v in offset)
        high = tuple(min(a + n, m) for a, n, m in zip(offset, wanted, geometry.volume_size, strict=True))
        return _Cut(index, geometry, tuple(wanted), low, high, tuple(offset))

    def _remote(self) -> tuple[Remote, str]:
        return Remote(self.info.settings["KeyFile"]), f"volumes/{self.info.settings['VolumeID']}"

    def image(
        self, axes: tuple[int, int], scale: int, size: Sequence[int], offset: Sequence[int], format: str = ""
    ) -> tuple[bytes, str] | None:
        """A slice as a file, and its media type; None where all of it lies outside of the volume.

        What lies inside comes as the service sends it; at the edges the rest of the image is 0.

        Parameters
        ----------
        axes
            Of width and height, x = 0.
        scale
            0 is the finest.
        size, offset
            Width and height; first voxel of that scale, x, y, z.
        format
            ``png[:level]`` or ``jpg[:quality]``.

        Raises
        ------
        BadRequest
            No such scale or format, or the service refuses the request.
        Unavailable
            The service fails or is too slow.
        """
        options, media_type = _image_options(format)
        cut = self._cut(axes, scale, size, offset)
        if cut.outside:
            return None
        remote, volume = self._remote()
        body = {"imageSpec": {"geometry": cut.spec(), "imageOptions": options}}
        data = remote.post(f"{volume}/imagetile:binary", body)
        if cut.whole:
            return data, media_type
        try:
            part = decode_image(data, max_pixels=_MAX_PIXELS)
        except FormatError as error:
            raise Unavailable(f"BrainMaps sent an image that can't be read: {error}") from None
        inside = [cut.high[axis] - cut.low[axis] for axis in axes]
        if part.shape[:2] != (inside[1], inside[0]):
            raise Unavailable(f"BrainMaps sent an image of {part.shape[:2]} pixels (y, x), not {inside[::-1]}")
        whole = np.zeros((size[1], size[0], *part.shape[2:]), part.dtype)
        left, top = (cut.low[axis] - offset[axis] for axis in axes)
        whole[top : top + inside[1], left : left + inside[0]] = part
        return encode_image(whole, format)

    def blank(self, axes: tuple[int, int], scale: int, size: Sequence[int], format: str = "") -> tuple[bytes, str]:
        """What is shown for an image outside of the volume: 0 everywhere."""
        _image_options(format)
        cut = self._cut(axes, scale, size, (0, 0, 0))
        return encode_image(np.zeros((size[1], size[0]), cut.geometry.dtype), format)

    def box_bytes(self, scale: int, size: Sequence[int]) -> int:
        """Bytes of the voxels of a box."""
        cut = self._cut((0, 1, 2), scale, size, (0, 0, 0))
        x, y, z = size
        return x * y * z * cut.geometry.voxel_bytes

    def box(self, scale: int, size: Sequence[int], offset: Sequence[int]) -> Iterator[bytes]:
        """The voxels of a box, in pieces: x fastest, then y, z, channel; outside of the volume 0.

        Raises
        ------
        BadRequest
            No such scale; a box that lies outside in part, of which too much is inside to be put together.
        Unavailable
            The service fails or is too slow.
        """
        cut = self._cut((0, 1, 2), scale, size, offset)
        remote, volume = self._remote()
        if cut.whole:
            expected = self.box_bytes(scale, size)
            return remote.stream(f"{volume}/subvolume:binary", _raw(cut), expected=expected)
        if self.box_bytes(scale, size) > MAX_ANSWER:
            raise BadRequest(f"a box that reaches out of the volume may have {MAX_ANSWER} bytes: ask for less of it")
        return iter([self._filled(cut, remote, volume)])

    def _filled(self, cut: _Cut, remote: Remote, volume: str) -> bytes:
        """A box at the edge."""
        channels = cut.geometry.channel_count
        out: NDArray[Any] = np.zeros((channels, *reversed(cut.size)), cut.geometry.dtype)
        if not cut.outside:
            shape = [b - a for a, b in zip(cut.low, cut.high, strict=True)][::-1]
            expected = int(np.prod(shape)) * cut.geometry.voxel_bytes
            data = remote.post(f"{volume}/subvolume:binary", _raw(cut), expected=expected)
            start = [a - b for a, b in zip(cut.low, cut.offset, strict=True)][::-1]
            where = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
            out[(slice(None), *where)] = np.frombuffer(data, out.dtype).reshape(channels, *shape)
        return out.tobytes()

    def box_image(self, scale: int, size: Sequence[int], offset: Sequence[int], format: str) -> tuple[bytes, str]:
        """The voxels of a box as one image, as the service makes it.

        Raises
        ------
        BadRequest
            Also where the box isn't wholly inside the volume.
        """
        options, media_type = _image_options(format)
        cut = self._cut((0, 1, 2), scale, size, offset)
        if not cut.whole:
            raise BadRequest("a box as an image must lie inside the volume; ask for voxels, or for less")
        remote, volume = self._remote()
        body = {"geometry": cut.spec(), "subvolumeFormat": "SINGLE_IMAGE", "imageOptions": options}
        return remote.post(f"{volume}/subvolume:binary", body), media_type


def _raw(cut: _Cut) -> dict[str, Any]:
    return {"geometry": cut.spec(), "subvolumeFormat": "RAW"}


def _image_options(format: str) -> tuple[dict[str, Any], str]:
    """The service's options for a format, and the media type."""
    name, colon, level = format.partition(":")
    kind = {"": "PNG", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}.get(name.lower())
    if kind is None:
        raise BadRequest(f"image format {format[:80]!r}: png[:level] and jpg[:quality] are known")
    options: dict[str, Any] = {"imageFormat": kind}
    if colon:
        top = 100 if kind == "JPEG" else 9
        if not re.fullmatch("[0-9]{1,3}", level) or int(level) > top:
            raise BadRequest(f"image format {format[:80]!r}: the number goes from 0 to {top}")
        options["jpegQuality" if kind == "JPEG" else "pngCompressionLevel"] = int(level)
    return options, "image/png" if kind == "PNG" else "image/jpeg"
