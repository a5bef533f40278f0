"""The imagetile: pictures of an image in tiles, at one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace, register
from dvid_dask.errors import BadRequest, NotFound, UnknownInstance
from dvid_dask.formats import downsample
from dvid_dask.formats.compression import deserialize, serialize
from dvid_dask.formats.images import container, converted, decode_image, encode_image, image_type
from dvid_dask.formats.placeholder import placeholder
from dvid_dask.formats.tile_payload import decode_tile, encode_tile
from dvid_dask.versions.settings import setting_flag, setting_text

from .keys import PLANES, TileId, dvid_key, tile_key, tile_of
from .levels import Levels, default_levels, parse_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageTile"]

_FORMATS = ("lz4", "png", "jpg")
_MAX_PIXELS = 1 << 26
_MAX_STITCHED = 1 << 14
"""Tiles that one image may be put together from."""

_MAX_SOURCE = 1 << 26
"""Bytes of voxels that a tile may be made from when it is asked for."""


@register
class ImageTile(Datatype):
    """Tiles of an image at a version. Pictures are (height, width[, channels]), coordinates of tiles x, y, z.

    A tile is named by plane, scale and a coordinate of which two count tiles, while the one across the plane is a voxel
    of scale 0 at every scale. Tiles are put there one by one (`put`), made for a whole image
    (`dvid_dask.ops.generate_tiles`), or, where the instance was made with ``OnDemand=true``, cut out of the image
    when they are asked for.

    Examples
    --------
    >>> import dvid_dask, numpy as np
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> gray = repo.new_instance("uint8blk", "gray")
    >>> gray.write(np.full((32, 64, 64), 7, np.uint8), (0, 0, 0))
    >>> tiles = repo.new_instance("imagetile", "tiles", {"Source": "gray", "OnDemand": "true"})
    >>> tiles.picture("xz", 0, (0, 5, 0))[30:34, 0].tolist()
    [7, 7, 0, 0]
    """

    typename: ClassVar[str] = "imagetile"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/imagetile"
    default_compression: ClassVar[str] = "none"

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``Format`` (png, jpg, lz4), ``Source`` (an image's name), ``Placeholder`` and ``OnDemand`` (true, false)."""
        given = setting_text(config, "format")
        name = (given or "png").lower()
        if name not in _FORMATS:
            raise BadRequest(f"setting 'format': {given!r} is none of {', '.join(_FORMATS)}")
        compression = setting_text(config, "compression")
        implied = "lz4" if name == "lz4" else "none"
        if compression is not None and compression.lower() != implied:
            raise BadRequest(f"setting 'compression': tiles of this format are stored with {implied!r}")
        source = setting_text(config, "source") or ""
        on_demand = setting_flag(config, "ondemand", False)
        if on_demand and not source:
            raise BadRequest("setting 'ondemand': tiles are made from an image; name it as 'Source'")
        return {
            "Source": source,
            "Placeholder": setting_flag(config, "placeholder", False),
            "Encoding": _FORMATS.index(name),
            "OnDemand": on_demand,
        }

    @property
    def format(self) -> str:
        """How tiles are encoded: png, jpg, or lz4 (uncompressed pixels, packed)."""
        return _FORMATS[self.info.settings["Encoding"]]

    @property
    def on_demand(self) -> bool:
        """Whether tiles that aren't stored are made from the source."""
        return bool(self.info.settings.get("OnDemand", False))

    @property
    def levels(self) -> Levels | None:
        """The scales; None where none were set, unless tiles are made on demand of an image that has extents."""
        held = self.info.settings.get("Metadata")
        if held is not None:
            return parse_levels(held)
        return self.suggested_levels() if self.on_demand else None

    def suggested_levels(self) -> Levels | None:
        """Scales that suit the source; None where that has no extents."""
        source = self.source()
        if source.extents is None:
            return None
        start, stop = (tuple(reversed(corner)) for corner in source.extents)
        return default_levels(start, stop, tuple(reversed(source.voxel_size)))

    def known_levels(self) -> Levels:
        """The scales.

        Raises
        ------
        BadRequest
            None were set.
        """
        levels = self.levels
        if levels is None:
            raise BadRequest(f"{self.name!r} has no tile metadata yet: set them, or generate tiles")
        return levels

    def set_levels(self, levels: Levels, *, force: bool = False) -> None:
        """Set the scales, at all versions. Refused at a committed version unless forced, as in DVID."""
        self.check_open(force)
        self.update_settings(Metadata=levels.described())

    def extended(self) -> dict[str, Any]:
        """Source, encoding, scales."""
        held = self.info.settings
        none: dict[str, Any] = {"MinTileCoord": [0, 0, 0], "MaxTileCoord": [0, 0, 0], "Levels": {}}
        shown = held.get("Metadata") or none
        return {
            "Source": held["Source"],
            **shown,
            "Placeholder": held["Placeholder"],
            "Encoding": held["Encoding"],
            "Quality": 0,
        }

    def describe(self) -> dict[str, Any]:
        """As all types; lz4 tiles are the only ones that DVID compresses."""
        out = super().describe()
        if self.format == "lz4":
            out["Base"] = {**out["Base"], "Compression": "LZ4 compression, level -1"}
        return out

    def source(self) -> Any:
        """The image that tiles show, at the same version.

        Raises
        ------
        BadRequest
            None was named, or there is none of that name.
        """
        name = self.info.settings["Source"]
        if not name:
            raise BadRequest(f"{self.name!r} was made without a Source, an image that its tiles show")
        try:
            found: Any = self.version[name]
        except UnknownInstance as error:
            raise BadRequest(f"the source of {self.name!r}: {error}") from None
        if not hasattr(found, "read_slice"):
            raise BadRequest(f"the source of {self.name!r}: {name!r} is a {found.info.typename}, not an image")
        return found

    # ------------------------------------------------------------------ tiles

    def put(
        self,
        plane: str,
        scale: int,
        coord: Sequence[int],
        data: bytes,
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Store a tile as it is; nothing (no bytes) takes one away.

        Parameters
        ----------
        plane, scale, coord
            Which; see `TileId`.
        data
            A PNG or JPEG file, or uncompressed pixels (`dvid_dask.formats.tile_payload`), as the format is.

        Raises
        ------
        BadRequest
            No such plane, or a picture of another format; nothing was changed.
        FormatError
            The picture is damaged, or too large; nothing was changed.
        """
        self.check_open(force)
        key = tile_key(_checked(plane, scale, coord))
        value = self.checked(data) if data else b""

        def change(m: Mutation, space: TxSpace) -> None:
            if value:
                space.put(key, value)
            else:
                space.delete(key)

        self.mutate(change, user=user, app=app, force=force)

    def checked(self, data: bytes) -> bytes:
        """A tile as it is stored, once its pixels could be read."""
        if self.format == "lz4":
            decode_tile(data, max_pixels=_MAX_PIXELS)
            return serialize(data, "lz4")
        kind = image_type(data)
        if kind != self.format:
            raise BadRequest(f"tiles of {self.name!r} are {self.format}; this one is {kind or 'no image'}")
        decode_image(data, max_pixels=_MAX_PIXELS)
        return data

    def encode(self, pixels: NDArray[Any], values: Sequence[tuple[str, str]]) -> bytes:
        """A picture as it is stored.

        Parameters
        ----------
        pixels
            (height, width) or (height, width, 4), voxels of an image.
        values
            Type and label of each value of a voxel.
        """
        if self.format == "lz4":
            return serialize(encode_tile(container(pixels), values), "lz4")
        return encode_image(pixels, self.format)[0]

    def get(self, plane: str, scale: int, coord: Sequence[int]) -> tuple[bytes, str] | None:
        """A tile as a file, and its media type; None where there is none.

        What is stored as PNG or JPEG comes as it was put; uncompressed pixels come as PNG.

        Raises
        ------
        BadRequest
            No such plane, or scales were never set.
        """
        tile = _checked(plane, scale, coord)
        levels = self.known_levels().levels
        value = self.view().get(tile_key(tile))
        if value is not None:
            if self.format == "lz4":
                return encode_image(_unpacked(value), "png")
            return value, f"image/{'jpeg' if self.format == 'jpg' else 'png'}"
        pixels = self.cut(tile) if self.on_demand and scale < len(levels) else None
        return None if pixels is None else encode_image(pixels, "jpg" if self.format == "jpg" else "png")

    def picture(self, plane: str, scale: int, coord: Sequence[int]) -> NDArray[Any]:
        """The pixels of a tile.

        Raises
        ------
        NotFound
            There is none.
        """
        found = self.get(plane, scale, coord)
        if found is None:
            raise NotFound(f"{self.name!r} has no {plane} tile of scale {scale} at {tuple(coord)} (x, y, z)")
        return decode_image(found[0], max_pixels=_MAX_PIXELS)

    def blank(self, plane: str, scale: int) -> NDArray[np.uint8]:
        """What is shown for a missing tile: black, of the scale's size."""
        across, down = _axes(plane)
        size = self.known_levels()[scale].tile_size
        return np.zeros((size[down], size[across]), np.uint8)

    def dvid_key(self, plane: str, scale: int, coord: Sequence[int]) -> str:
        """In hex, the key under which DVID would store the tile."""
        return dvid_key(_checked(plane, scale, coord), self.info.id, self.version.id).hex()

    # ------------------------------------------------------------------ made from the source

    def cut(self, tile: TileId) -> NDArray[Any] | None:
        """A tile out of the source; None where it lies outside of it.

        A scale of tiles that is half, a quarter ... as fine in both directions is taken from that scale of the source,
        if it is there; otherwise full resolution is shrunk by the mean, rounded.
        """
        source, levels = self.source(), self.known_levels()
        if source.extents is None:
            return None
        axes = _axes(tile.plane)
        size = [levels[tile.scale].tile_size[axis] for axis in axes]
        voxels = levels.voxels(tile.scale)
        start = list(tile.coord)
        for axis, pixels in zip(axes, size, strict=True):
            start[axis] = tile.coord[axis] * pixels * voxels[axis]
        shape = [1, 1, 1]
        for axis, pixels in zip(axes, size, strict=True):
            shape[axis] = pixels * voxels[axis]
        low, high = (tuple(reversed(corner)) for corner in source.extents)
        if any(a >= q or a + n <= p for a, n, p, q in zip(start, shape, low, high, strict=True)):
            return None
        across, down = (voxels[axis] for axis in axes)
        coarse = across.bit_length() - 1
        if across == down == 1 << coarse and coarse and coarse in source.scales():
            at = [v >> coarse for v in reversed(start)]
            found: NDArray[Any] = source.read_slice(axes, size, at, coarse)
            return found
        wanted = [shape[axis] for axis in axes]
        nbytes = wanted[0] * wanted[1] * source.voxel_bytes
        if nbytes > _MAX_SOURCE:
            raise BadRequest(
                f"a tile of scale {tile.scale} is made from {nbytes} bytes of voxels; at most {_MAX_SOURCE} are read "
                f"for one: make coarser scales of {source.name!r} (downres), or generate tiles"
            )
        picture: NDArray[Any] = source.read_slice(axes, wanted, list(reversed(start)))
        for finer in range(tile.scale):
            step = levels.factors(finer)
            picture = shrink(picture, step[axes[1]], step[axes[0]])
        return picture

    # ------------------------------------------------------------------ images of any size

    def read_image(self, plane: str, size: Sequence[int], offset: Sequence[int]) -> NDArray[Any]:
        """An image put together from tiles of scale 0, with the pixels that the source's voxels become.

        What no tile covers is 0, or with ``Placeholder`` a picture that says which tile is missing.

        Parameters
        ----------
        plane
            xy, xz or yz.
        size
            Width and height.
        offset
            First voxel, x, y, z.

        Raises
        ------
        BadRequest
            No metadata, no source, or an image of too many tiles.
        """
        axes = _axes(plane)
        levels, source = self.known_levels(), self.source()
        like = container(np.zeros((1, 1, *source.layout.tail), source.dtype))
        out = np.zeros((size[1], size[0], *like.shape[2:]), like.dtype)
        side = [levels[0].tile_size[axis] for axis in axes]
        first = [offset[axis] // n for axis, n in zip(axes, side, strict=True)]
        last = [(offset[axis] + length - 1) // n for axis, length, n in zip(axes, size, side, strict=True)]
        count = (last[0] - first[0] + 1) * (last[1] - first[1] + 1)
        if count > _MAX_STITCHED:
            raise BadRequest(f"an image of {size[0]} x {size[1]} has {count} tiles; at most {_MAX_STITCHED}")
        tiles = []
        for down in range(first[1], last[1] + 1):
            for across in range(first[0], last[0] + 1):
                coord = list(offset)
                coord[axes[0]], coord[axes[1]] = across, down
                tiles.append(TileId(plane, 0, (coord[0], coord[1], coord[2])))
        space = self.view()
        for begin in range(0, len(tiles), 64):
            some = tiles[begin : begin + 64]
            for tile, value in zip(some, space.get_many([tile_key(t) for t in some]), strict=True):
                pixels = self._pixels(tile, value, levels)
                if pixels is not None:
                    corner = [tile.coord[axis] * n - offset[axis] for axis, n in zip(axes, side, strict=True)]
                    _paste(out, converted(pixels[: side[1], : side[0]], like), corner)
        return out

    def _pixels(self, tile: TileId, value: bytes | None, levels: Levels) -> NDArray[Any] | None:
        if value is not None:
            return _unpacked(value) if self.format == "lz4" else decode_image(value, max_pixels=_MAX_PIXELS)
        if self.on_demand:
            pixels = self.cut(tile)
            return None if pixels is None else container(pixels)
        if not self.info.settings["Placeholder"]:
            return None
        across, down = _axes(tile.plane)
        level = levels[tile.scale]
        width, height = level.tile_size[across], level.tile_size[down]
        where = ", ".join(map(str, tile.coord))
        lines = [f"tile {where} (x, y, z)", f"{tile.plane}, scale {tile.scale}", f"{width} x {height} pixels"]
        lines.append(f"of {level.resolution[across]:g} x {level.resolution[down]:g}")
        return placeholder(width, height, tile.plane, lines)

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """A tile by plane, scale and coordinate (x, y, z); None for the rest."""
        tile = tile_of(key)
        return None if tile is None else {"plane": tile.plane, "scale": tile.scale, "tile": list(tile.coord)}


def shrink(pixels: NDArray[Any], down: int, across: int) -> NDArray[Any]:
    """A picture of voxels with `down` x `across` of its pixels in one: their mean, rounded."""
    smaller: NDArray[Any] = downsample.mean(pixels[np.newaxis], (1, down, across))[0]
    return smaller


def _axes(plane: str) -> tuple[int, int]:
    axes = PLANES.get(plane)
    if axes is None:
        raise BadRequest(f"a plane is {', '.join(PLANES)}, not {plane!r}")
    return axes


def _checked(plane: str, scale: int, coord: Sequence[int]) -> TileId:
    _axes(plane)
    if not 0 <= scale < 256:
        raise BadRequest(f"scale {scale} is outside 0..255")
    if len(coord) != 3 or not all(-(2**31) <= v < 2**31 for v in coord):
        raise BadRequest(f"a tile's coordinate is three int32 (x, y, z), not {tuple(coord)}")
    x, y, z = (int(v) for v in coord)
    return TileId(plane, scale, (x, y, z))


def _unpacked(value: bytes) -> NDArray[Any]:
    return decode_tile(deserialize(value, _MAX_PIXELS * 8 + (1 << 17)), max_pixels=_MAX_PIXELS)


def _paste(out: NDArray[Any], part: NDArray[Any], corner: Sequence[int]) -> None:
    """Put a part where it belongs; what lies outside is cut off."""
    x, y = corner
    height, width = part.shape[:2]
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + height, out.shape[0]), min(x + width, out.shape[1])
    if top < bottom and left < right:
        out[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]
