"""The HTTP side of imagetile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvid_dask.datatypes.imageblk import isotropic_size
from dvid_dask.datatypes.imagetile import parse_levels
from dvid_dask.errors import BadRequest
from dvid_dask.formats.images import resize_area

from .face import Call, Face
from .geometry import check_box, parse_int, parse_point, parse_shape, parse_size
from .pictures import check_image, encoded
from .responses import Response, empty, image, json, not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvid_dask.datatypes.imagetile import ImageTile

__all__ = ["MAX_TILE", "face"]

MAX_TILE = 1 << 26
"""Bytes of a tile at most."""

_METADATA = 1 << 20
_PLANES: dict[tuple[int, ...], str] = {(0, 1): "xy", (0, 2): "xz", (1, 2): "yz"}

face = Face(
    "imagetile",
    about="""Tiles of an image: pictures of one size in xy, xz and yz at several scales.

    They are put there with POST, made for a whole image with ``dvid-dask images tiles``, or, of an instance made with
    ``OnDemand=true`` and a ``Source``, cut out of that image when they are asked for. Of a tile's coordinate x_y_z
    two numbers count tiles; the one across the plane is a voxel of full resolution at every scale.
    """,
    methods=("GET", "POST"),
)


def _plane(text: str) -> str:
    plane = _PLANES.get(parse_shape(text))
    if plane is None:
        raise BadRequest(f'"{text[:80]}" is no plane: tiles are in xy, xz or yz')
    return plane


def _tile(call: Call) -> tuple[str, int, tuple[int, ...]]:
    plane = _plane(call.arg(0, "a plane"))
    scale = parse_int(call.arg(1, "a scale"), "scale", 0, 255)
    return plane, scale, parse_point(call.arg(2, "a tile's coordinate"), what="tile")


@face.get("metadata")
def get_metadata(call: Call) -> Response:
    """The scales: JSON ``{"MinTileCoord": ..., "MaxTileCoord": ..., "Levels": {"0": ...}}``; 400 before they are set.

    Each has the ``Resolution`` of its pixels and the ``TileSize``, x, y, z. The coordinates are those of the
    coarsest scale.
    """
    instance: ImageTile = call.instance
    return json(instance.known_levels().described())


@face.post("metadata")
def post_metadata(call: Call) -> Response:
    """Set the scales, at all versions. Scales are named 0, 1, 2 ...; resolutions grow by whole factors."""
    instance: ImageTile = call.instance
    instance.set_levels(parse_levels(call.json(dict[str, Any], limit=_METADATA)), force=call.force)
    return empty()


@face.get("tile", args="/<plane>/<scale>/<x_y_z>[/<format>]")
def get_tile(call: Call) -> Response:
    """A tile, as it was put there (of instances of format lz4 as PNG).

    A missing one comes black, as png or in the format that is asked for, or with ``?noblanks=true`` as 404. Of one that
    is there the format counts for nothing.
    """
    instance: ImageTile = call.instance
    plane, scale, coord = _tile(call)
    found = instance.get(plane, scale, coord)
    if found is not None:
        return image(*found)
    if call.flag("noblanks"):
        return not_found()
    return encoded(instance.blank(plane, scale), call.args[3] if len(call.args) > 3 else "")


@face.post("tile", args="/<plane>/<scale>/<x_y_z>")
def post_tile(call: Call) -> Response:
    """Store a tile at this version: a PNG or JPEG file, as the instance's format says, unchanged.

    Of instances of format lz4 the body is pixels with a header, as DVID packs them. No body takes the tile away.
    """
    instance: ImageTile = call.instance
    plane, scale, coord = _tile(call)
    data = call.body.all(limit=MAX_TILE)
    instance.put(plane, scale, coord, data, user=call.user, app=call.app, force=call.force)
    return empty()


@face.get("tilekey", args="/<plane>/<scale>/<x_y_z>")
def get_tilekey(call: Call) -> Response:
    """The key under which DVID would store a tile, in hex: JSON ``{"key": ...}``."""
    instance: ImageTile = call.instance
    return json({"key": instance.dvid_key(*_tile(call))})


@face.get("raw", args="/<plane>/<size>/<offset>[/<format>]")
def get_raw(call: Call) -> Response:
    """An image of any size put together from the tiles of scale 0, in the pixel type of the source.

    Where there is no tile it is black, or of instances with ``Placeholder`` says which tile is missing.
    """
    return _stitched(call, isotropic=False)


@face.get("isotropic", args="/<plane>/<size>/<offset>[/<format>]")
def get_isotropic(call: Call) -> Response:
    """As raw, with square pixels: the side along the longer edge of the source's voxels is enlarged."""
    return _stitched(call, isotropic=True)


def _stitched(call: Call, *, isotropic: bool) -> Response:
    instance: ImageTile = call.instance
    plane = _plane(call.arg(0, "a plane"))
    axes = parse_shape(plane)
    size = parse_size(call.arg(1, "a size"), 2)
    offset = parse_point(call.arg(2, "an offset"), what="offset")
    format = call.args[3] if len(call.args) > 3 else ""
    source = instance.source()
    fetched: Sequence[int] = size
    if isotropic:
        lengths = tuple(reversed(source.voxel_size))
        fetched = isotropic_size(size, (lengths[axes[0]], lengths[axes[1]]))
    for wanted in (size, fetched):
        check_image(wanted, source.voxel_bytes, format)
    box = [1, 1, 1]
    for axis, length in zip(axes, fetched, strict=True):
        box[axis] = length
    check_box(offset, box)
    pixels = instance.read_image(plane, fetched, offset)
    if tuple(fetched) != tuple(size):
        pixels = resize_area(pixels, size[1], size[0])
    return encoded(pixels, format)
