"""Keys of tiles: ``t``, plane, scale, then z, y, x of the tile, so that neighbours on a plane lie together."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["PLANES", "TileId", "dvid_key", "tile_key", "tile_of"]

PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}
"""Planes by name, as the axes of width and height with x = 0."""

_NAMES = list(PLANES)
_KEY = struct.Struct(">cBBIII")
_SHIFT = 1 << 31


class TileId(NamedTuple):
    """Which tile.

    Attributes
    ----------
    plane
        xy, xz or yz.
    scale
        0 is full resolution.
    coord
        x, y, z: those along the plane count tiles, the other one is a voxel of scale 0 at every scale.
    """

    plane: str
    scale: int
    coord: tuple[int, int, int]


def tile_key(tile: TileId) -> bytes:
    """The key of a tile in the instance's space.

    Examples
    --------
    >>> tile_of(tile_key(TileId("xz", 2, (-1, 7, 3))))
    TileId(plane='xz', scale=2, coord=(-1, 7, 3))
    """
    x, y, z = tile.coord
    return _KEY.pack(b"t", _NAMES.index(tile.plane), tile.scale, z + _SHIFT, y + _SHIFT, x + _SHIFT)


def tile_of(key: bytes) -> TileId | None:
    """The tile of a key; None where it is no tile's."""
    if len(key) != _KEY.size or key[:1] != b"t":
        return None
    _, plane, scale, z, y, x = _KEY.unpack(key)
    return TileId(_NAMES[plane], scale, (x - _SHIFT, y - _SHIFT, z - _SHIFT))


def dvid_key(tile: TileId, instance: int, version: int) -> bytes:
    """The key that DVID would store the tile under: what ``tilekey`` answers.

    Examples
    --------
    >>> dvid_key(TileId("xy", 0, (0, 0, 5)), 1, 2).hex()
    '0100000001030200010000000003800000058000000080000000000000020000000003'
    """
    x, y, z = tile.coord
    first, second = PLANES[tile.plane]
    within = struct.pack(
        ">BBBBBBBBBIII", 3, 2, first, second, 0, 0, 0, tile.scale, 3, z + _SHIFT, y + _SHIFT, x + _SHIFT
    )
    return struct.pack(">BI", 1, instance) + within + struct.pack(">IIB", version, 0, 3)
