"""The scales of tiles: how large a pixel and a tile are at each. Points and sizes are x, y, z here, as in requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from dvid_dask.errors import BadRequest

__all__ = ["MAX_SIDE", "Level", "Levels", "default_levels", "parse_levels"]

MAX_LEVELS = 64
MAX_SIDE = 1 << 14
"""Pixels of a tile's side at most."""

_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
_DEFAULT_SIDE = 512

_Number = Annotated[float, msgspec.Meta(gt=0, le=3e38)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
_Index = Annotated[int, msgspec.Meta(ge=_INT32_MIN, le=_INT32_MAX)]


class Level(msgspec.Struct, frozen=True):
    """One scale.

    Attributes
    ----------
    resolution
        Lengths of a pixel in x, y, z.
    tile_size
        Pixels of a tile in x, y, z.
    """

    resolution: tuple[float, float, float]
    tile_size: tuple[int, int, int]


class Levels(msgspec.Struct, frozen=True):
    """The scales of an instance, finest first, and the tiles that its coarsest one has.

    Attributes
    ----------
    levels
        At least one.
    min_tile, max_tile
        First and last tile of the coarsest scale in x, y, z.
    """

    levels: tuple[Level, ...]
    min_tile: tuple[int, int, int] = (0, 0, 0)
    max_tile: tuple[int, int, int] = (0, 0, 0)

    def __getitem__(self, scale: int) -> Level:
        """A scale.

        Raises
        ------
        BadRequest
            There is no such scale.
        """
        if not 0 <= scale < len(self.levels):
            raise BadRequest(f"scale {scale} is not defined: there are 0 to {len(self.levels) - 1}")
        return self.levels[scale]

    def factors(self, scale: int) -> tuple[int, int, int]:
        """How many pixels of a scale make one of the next, in x, y, z.

        Examples
        --------
        >>> fine, coarse = Level((4, 4, 40), (64, 64, 64)), Level((8, 8, 40), (64, 64, 64))
        >>> Levels((fine, coarse)).factors(0)
        (2, 2, 1)
        """
        fine, coarse = self[scale].resolution, self[scale + 1].resolution
        x, y, z = (int(b / a + 0.5) for a, b in zip(fine, coarse, strict=True))
        return x, y, z

    def voxels(self, scale: int) -> tuple[int, int, int]:
        """Voxels of scale 0 along a pixel of a scale, in x, y, z."""
        x = y = z = 1
        for finer in range(scale):
            a, b, c = self.factors(finer)
            x, y, z = x * a, y * b, z * c
        return x, y, z

    def described(self) -> dict[str, Any]:
        """In DVID's words."""
        return {
            "MinTileCoord": list(self.min_tile),
            "MaxTileCoord": list(self.max_tile),
            "Levels": {
                str(i): {"Resolution": list(map(_plain, level.resolution)), "TileSize": list(level.tile_size)}
                for i, level in enumerate(self.levels)
            },
        }


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else value


class _Level(msgspec.Struct, rename="pascal"):
    resolution: tuple[_Number, _Number, _Number]
    tile_size: tuple[_Side, _Side, _Side]


class _Metadata(msgspec.Struct, rename="pascal"):
    levels: dict[str, _Level]
    min_tile_coord: tuple[_Index, _Index, _Index] = (0, 0, 0)
    max_tile_coord: tuple[_Index, _Index, _Index] = (0, 0, 0)


def parse_levels(given: Any) -> Levels:
    """Scales from JSON: DVID's metadata, or only what is in its ``Levels``.

    Parameters
    ----------
    given
        ``{"MinTileCoord": [x,y,z], "MaxTileCoord": [x,y,z], "Levels": {"0": {"Resolution": [x,y,z], "TileSize":
        [x,y,z]}, "1": ...}}``.

    Raises
    ------
    BadRequest
        Of another form; or the names of scales are not 0, 1, 2 ...; or a pixel is no whole number of those of the
        scale before.

    Examples
    --------
    >>> parse_levels({"0": {"Resolution": [8, 8, 8], "TileSize": [512, 512, 512]}}).max_tile
    (0, 0, 0)
    >>> parse_levels({"1": {"Resolution": [8, 8, 8], "TileSize": [512, 512, 512]}})
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: Levels: scales are named 0 to 0, not '1'
    """
    if isinstance(given, Mapping) and "Levels" not in given:
        given = {"Levels": given}
    try:
        read = msgspec.convert(given, _Metadata)
    except msgspec.ValidationError as error:
        raise BadRequest(f"tile metadata: {error}") from None
    count = len(read.levels)
    if not 1 <= count <= MAX_LEVELS:
        raise BadRequest(f"Levels: {count} scales were given; expected 1 to {MAX_LEVELS}")
    names = [str(i) for i in range(count)]
    for name in read.levels:
        if name not in names:
            raise BadRequest(f"Levels: scales are named 0 to {count - 1}, not {name[:20]!r}")
    ordered = [read.levels[name] for name in names]
    for i in range(1, count):
        for axis, fine, coarse in zip("xyz", ordered[i - 1].resolution, ordered[i].resolution, strict=True):
            ratio = coarse / fine
            if ratio < 0.99 or math.remainder(ratio, 1.0) > 0.001:
                raise BadRequest(
                    f"Levels: the resolution {coarse:g} of scale {i} in {axis} is no whole multiple of {fine:g}"
                )
    if any(a > b for a, b in zip(read.min_tile_coord, read.max_tile_coord, strict=True)):
        raise BadRequest(f"MinTileCoord {read.min_tile_coord} lies beyond MaxTileCoord {read.max_tile_coord}")
    levels = tuple(Level(level.resolution, level.tile_size) for level in ordered)
    return Levels(levels, read.min_tile_coord, read.max_tile_coord)


def default_levels(start: Sequence[int], stop: Sequence[int], voxel_size: Sequence[float]) -> Levels:
    """Scales for an image: tiles of 512 x 512, each scale half as fine as the one before, until one tile holds all.

    Parameters
    ----------
    start, stop
        First and one past the last voxel, x, y, z.
    voxel_size
        Lengths of a voxel in x, y, z.

    Examples
    --------
    >>> made = default_levels((0, 0, 0), (1500, 700, 90), (8, 8, 8))
    >>> len(made.levels), made[2].resolution, made.max_tile
    (3, (32, 32, 32), (0, 0, 0))
    """
    side = _DEFAULT_SIDE
    # the image widened to whole tiles
    low = [a // side * side for a in start]
    high = [-(-b // side) * side for b in stop]
    count = 1
    for a, b in zip(low, high, strict=True):
        count = max(count, ((b - a) // side - 1).bit_length() + 1)
    levels = []
    for scale in range(count):
        x, y, z = (v * 2**scale for v in voxel_size)
        levels.append(Level((x, y, z), (side, side, side)))
    coarsest = side << (count - 1)
    x, y, z = (a // coarsest for a in start)
    p, q, r = ((b - 1) // coarsest for b in stop)
    return Levels(tuple(levels), (x, y, z), (p, q, r))
