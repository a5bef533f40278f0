"""The HTTP side of googlevoxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest
from dvid_dask.formats.compression import lz4_compress

from .face import Call, Face
from .geometry import check_box, parse_int, parse_point, parse_shape, parse_size
from .imageblk import MAX_VOLUME
from .pictures import check_image
from .responses import Response, image, not_found, octets, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvid_dask.datatypes.googlevoxels import GoogleVoxels

__all__ = ["face"]

_MAX_LZ4 = 1 << 29

face = Face(
    "googlevoxels",
    about="""A volume that stays with Google's BrainMaps service, seen through this server: read only, not versioned.

    When the service fails or is too slow the answer is 503 with the reason.
    """,
    methods=("GET",),
)


@face.get("tile", args="/<plane>/<scale>/<x_y_z>[/<format>]", head=False)
def get_tile(call: Call) -> Response:
    """A tile, as png (default) or jpg, with ``:level`` or ``:quality`` behind it.

    Of x_y_z two numbers count tiles along the plane; the one across it is a voxel of the scale. ``?tilesize=N`` for
    another size than the instance's. Outside of the volume a tile is black, or with ``?noblanks=true`` 404.
    """
    instance: GoogleVoxels = call.instance
    axes = _plane(parse_shape(call.arg(0, "a plane")))
    scale = parse_int(call.arg(1, "a scale"), "scale", 0, 255)
    coord = parse_point(call.arg(2, "a tile's coordinate"), what="tile")
    side = call.int("tilesize", instance.tile_size, 1, 8192)
    offset = [v * side if axis in axes else v for axis, v in enumerate(coord)]
    if any(abs(v) >= 2**31 for v in offset):
        raise BadRequest(f"tile {coord} of {side} pixels leaves the coordinates of int32")
    return _image(call, axes, scale, (side, side), offset)


@face.get("raw", args="/<dims>/<size>/<offset>[/<format>]", head=False)
def get_raw(call: Call) -> Response:
    """A slice as an image, or a box as voxels (or, with a format, as one image that the service makes).

    ``?scale=N`` chooses the scale; sizes and offsets are in its voxels. What lies outside of the volume is 0. Of boxes
    ``?compression=lz4`` sends one LZ4 block without its size. ``?throttle=on`` takes one of the server's slots for
    heavy work, or is refused with 503.
    """
    instance: GoogleVoxels = call.instance
    axes = parse_shape(call.arg(0, "dims"))
    size = parse_size(call.arg(1, "a size"), len(axes))
    offset = parse_point(call.arg(2, "an offset"), what="offset")
    scale = call.int("scale", 0, 0, 255)
    compression = call.query.get("compression", "")
    if compression not in ("", "raw", "lz4"):
        raise BadRequest(f'compression "{compression[:80]}" is none of raw, lz4')
    if len(axes) == 2:
        call.throttled()
        return _image(call, _plane(axes), scale, size, offset)
    check_box(offset, size)
    nbytes = instance.box_bytes(scale, size)
    if nbytes > (_MAX_LZ4 if compression == "lz4" else MAX_VOLUME):
        raise BadRequest(f"a box of {nbytes} bytes is more than one request may ask for: ask for it in parts")
    call.throttled()
    if len(call.args) > 3:
        return image(*instance.box_image(scale, size, offset, call.args[3]))
    pieces = instance.box(scale, size, offset)
    if compression == "lz4":
        return octets(lz4_compress(b"".join(pieces)))
    return stream(pieces, headers={"Content-Length": str(nbytes)})


def _plane(axes: tuple[int, ...]) -> tuple[int, int]:
    if len(axes) != 2:
        raise BadRequest("tiles are in xy, xz or yz")
    return axes[0], axes[1]


def _image(call: Call, axes: tuple[int, int], scale: int, size: Sequence[int], offset: Sequence[int]) -> Response:
    instance: GoogleVoxels = call.instance
    format = call.args[3] if len(call.args) > 3 else ""
    check_image(size, 8, format)
    found = instance.image(axes, scale, size, offset, format)
    if found is None and call.flag("noblanks"):
        return not_found()
    return image(*(found or instance.blank(axes, scale, size, format)))
