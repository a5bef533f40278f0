"""The scaled volumes of a BrainMaps volume, and which of them answers which request. Points are x, y, z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from dvid_dask.errors import BadRequest, Unavailable

__all__ = ["SHAPES", "Geometry", "parse_geometries", "scale_map"]

SHAPES = {"XY": (0, 1), "XZ": (0, 2), "YZ": (1, 2), "XYZ": (0, 1, 2)}
"""Shapes of requests by the axes they extend along."""

_TYPES = {"UINT8": "uint8", "FLOAT": "float32", "UINT64": "uint64"}
_MAX_GEOMETRIES = 256


class Geometry(msgspec.Struct, frozen=True, rename="camel"):
    """One scaled volume.

    Attributes
    ----------
    volume_size
        Voxels in x, y, z.
    channel_count, channel_type
        Values of a voxel: how many, and UINT8, FLOAT or UINT64.
    pixel_size
        Nanometers in x, y, z.
    """

    volume_size: tuple[int, int, int]
    channel_count: int
    channel_type: str
    pixel_size: tuple[float, float, float]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a value, little-endian.

        Raises
        ------
        BadRequest
            One that isn't known.
        """
        name = _TYPES.get(self.channel_type)
        if name is None:
            raise BadRequest(f"values of type {self.channel_type} can't be shown; known: {', '.join(_TYPES)}")
        return np.dtype(name).newbyteorder("<")

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel."""
        return self.dtype.itemsize * self.channel_count


class _Texts(msgspec.Struct):
    x: str | int = 0
    y: str | int = 0
    z: str | int = 0


class _Numbers(msgspec.Struct):
    x: Annotated[float, msgspec.Meta(gt=0)]
    y: Annotated[float, msgspec.Meta(gt=0)]
    z: Annotated[float, msgspec.Meta(gt=0)]


class _Sent(msgspec.Struct, rename="camel"):
    volume_size: _Texts
    pixel_size: _Numbers
    channel_count: str | int = 1
    channel_type: str = "UINT8"


class _Volume(msgspec.Struct):
    geometry: list[_Sent]


def parse_geometries(data: bytes) -> tuple[Geometry, ...]:
    """The scaled volumes out of the service's description of a volume.

    Raises
    ------
    Unavailable
        It isn't such a description.

    Examples
    --------
    >>> sent = (
    ...     b'{"geometry": [{"volumeSize": {"x": "10", "y": "20", "z": "30"}, "channelCount": "1", '
    ...     b'"channelType": "UINT8", "pixelSize": {"x": 8, "y": 8, "z": 8.5}}]}'
    ... )
    >>> parse_geometries(sent)[0].volume_size
    (10, 20, 30)
    """
    try:
        found = tuple(map(_geometry, msgspec.json.decode(data, type=_Volume).geometry))
    except (msgspec.DecodeError, ValueError) as error:
        raise Unavailable(f"the service's description of the volume can't be read: {error}") from None
    if not 1 <= len(found) <= _MAX_GEOMETRIES:
        raise Unavailable(f"the service's description of the volume has {len(found)} geometries")
    return found


def _geometry(sent: _Sent) -> Geometry:
    size, pixel = sent.volume_size, sent.pixel_size
    x, y, z = (int(v) for v in (size.x, size.y, size.z))
    channels = int(sent.channel_count)
    if not all(0 < v < 2**31 for v in (x, y, z)) or not 1 <= channels <= 256:
        raise ValueError(f"a volume of {x} x {y} x {z} voxels with {channels} channels")
    return Geometry((x, y, z), channels, sent.channel_type, (pixel.x, pixel.y, pixel.z))


def scale_map(geometries: Sequence[Geometry]) -> tuple[dict[str, int], int]:
    """Which geometry answers a shape at a scale, as ``{"XY:0": 0, ...}``, and the one of highest resolution.

    That one is scale 0 of all shapes. A geometry that is coarser in one plane only serves that plane; its scale is how
    often its longest pixel is twice as long.

    Examples
    --------
    >>> fine, flat = (Geometry((9, 9, 9), 1, "UINT8", size) for size in ((8, 8, 8), (16, 16, 8)))
    >>> scale_map([fine, flat])
    ({'XY:0': 0, 'XZ:0': 0, 'YZ:0': 0, 'XYZ:0': 0, 'XY:1': 1}, 0)
    """
    finest, least = 0, [float("inf")] * 3
    for i, geometry in enumerate(geometries):
        if any(a < b for a, b in zip(geometry.pixel_size, least, strict=True)):
            finest = i
            least = [min(a, b) for a, b in zip(geometry.pixel_size, least, strict=True)]
    found = {f"{shape}:0": finest for shape in SHAPES}
    for i, geometry in enumerate(geometries):
        if i == finest:
            continue
        x, y, z = (a / b for a, b in zip(geometry.pixel_size, geometries[finest].pixel_size, strict=True))
        scale = 0
        while 2**scale < max(x, y, z):
            scale += 1
        if x > z and y > z:
            shape = "XY"
        elif x > y and z > y:
            shape = "XZ"
        elif y > x and z > x:
            shape = "YZ"
        else:
            shape = "XYZ"
        found[f"{shape}:{scale}"] = i
    return found, finest
