"""The HTTP side of images: uint8blk, uint16blk, uint32blk, uint64blk, float32blk, rgba8blk."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.imageblk import ArbitraryPlane, isotropic_size
from dvid_dask.errors import BadRequest, UnknownInstance
from dvid_dask.formats.images import resize_area

from .common import Extents
from .face import Call, Face
from .geometry import check_box, parse_int, parse_point, parse_shape, parse_size, zyx
from .pictures import check_image, encoded
from .responses import Response, empty, encode_json, json, octets, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.imageblk import ImageBlk

    from .face import Handler

__all__ = ["MAX_VOLUME", "face", "image_scale", "pieces", "volume_bytes"]

MAX_VOLUME = 3 << 30
"""Bytes of voxels that one request may ask for: DVID's limit."""

_PIECE = 1 << 23
_SMALL = 1 << 22
"""Bytes of voxels that are answered in one piece."""

_HEAD = struct.Struct("<iiii")

face = Face(
    "uint8blk",
    "uint16blk",
    "uint32blk",
    "uint64blk",
    "float32blk",
    "rgba8blk",
    about="""A volume of voxels in blocks.

    Voxels are little-endian, x fastest; colours are interleaved. Coordinates are signed 32-bit integers. Points and
    sizes are x_y_z in paths; dims is xy, xz, yz (or 0_1, 0_2, 1_2) for images, 0_1_2 or vol for volumes. Images come
    as png (default), jpg, jpg:QUALITY, tif or bmp. What was never written reads 0.
    """,
    methods=("GET", "HEAD", "POST"),
)


# ---------------------------------------------------------------------- what is asked for


def volume_bytes(instance: ImageBlk, size: Sequence[int]) -> int:
    """Bytes of a box (x, y, z); refused where they are more than one request may move."""
    x, y, z = size
    nbytes = x * y * z * instance.voxel_bytes
    if nbytes > MAX_VOLUME:
        raise BadRequest(f"{x} x {y} x {z} voxels are {nbytes} bytes; one request may move {MAX_VOLUME}")
    return nbytes


def image_scale(call: Call) -> int:
    """The ``scale`` option; a scale that isn't there is refused."""
    scale = call.int("scale", 0, 0, 31)
    if scale:
        known = call.instance.scales()
        if scale not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise BadRequest(f"{call.instance.name!r} has no scale {scale} at this version (there are: {listed})")
    return scale


def _region(call: Call) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None:
    """The ``roi`` option: the region of that name at the same version, as a test of blocks.

    Blocks of another size than the region's are in it if their middle voxel is.
    """
    name = call.query.get("roi")
    if not name:
        return None
    attenuation = call.query.get("attenuation")
    if attenuation:
        # DVID checks it and goes on to ignore it
        parse_int(attenuation, "attenuation", 1, 7)
    try:
        region: Any = call.version[name]
    except UnknownInstance as error:
        raise BadRequest(f"roi: {error}") from None
    if region.info.typename != "roi":
        raise BadRequest(f"roi: {name!r} is a {region.info.typename}, not a region of interest")
    return functools.partial(region.pin().contains_blocks, block_shape=call.instance.block_shape)


def pieces(arrays: Iterable[NDArray[Any]]) -> Iterator[memoryview]:
    """The bytes of C-ordered arrays, which nobody changes any more, in pieces that a socket likes."""
    for array in arrays:
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B")
        for at in range(0, len(data), _PIECE):
            yield data[at : at + _PIECE]


def _records(blocks: Iterator[tuple[tuple[int, int, int], bytes]]) -> Iterator[bytes]:
    for (z, y, x), payload in blocks:
        yield _HEAD.pack(x, y, z, len(payload)) + payload


# ---------------------------------------------------------------------- boxes and slices


@face.get("raw", args="/<dims>/<size>/<offset>[/<format>]", head=False)
def get_raw(call: Call) -> Response:
    """A slice as an image, or a box as bytes.

    With dims of two axes size is w_h, with three x_y_z; offset is always x_y_z. A box comes as
    ``application/octet-stream``, or with the format jpg or jpeg as one JPEG image of width x and height y times z.

    ``?roi=NAME`` sets blocks outside a region to the background. ``?scale=K`` reads a coarser scale, sizes and offsets
    in its voxels. ``?throttle=on`` (boxes) takes one of the server's slots for heavy work, or is refused with 503.
    """
    return _get_voxels(call, isotropic=False)


@face.get("isotropic", args="/<dims>/<size>/<offset>[/<format>]", head=False)
def get_isotropic(call: Call) -> Response:
    """As raw, but the pixels of a slice are square.

    The side along the longer edge of voxels is enlarged, by exact area weighting, to an image of the size that was
    asked for; the offset is in voxels. Boxes are not resampled.
    """
    return _get_voxels(call, isotropic=True)


def _get_voxels(call: Call, *, isotropic: bool) -> Response:
    instance: ImageBlk = call.instance
    axes = parse_shape(call.arg(0, "dims"))
    size = parse_size(call.arg(1, "a size"), len(axes))
    offset = parse_point(call.arg(2, "an offset"), what="offset")
    format = call.args[3] if len(call.args) > 3 else ""
    if len(axes) == 2:
        return _get_image(call, instance, (axes[0], axes[1]), size, offset, format, isotropic)

    nbytes = volume_bytes(instance, size)
    check_box(offset, size)
    mask, scale = _region(call), image_scale(call)
    call.throttled()
    if format in ("jpg", "jpeg"):
        check_image((size[0], size[1] * size[2]), instance.voxel_bytes, format)
        box = instance.read_box(zyx(offset), zyx(size), scale, mask=mask)
        return encoded(box.reshape(-1, *box.shape[2:]), format)
    if nbytes <= _SMALL:
        return octets(instance.read_box(zyx(offset), zyx(size), scale, mask=mask).data.cast("B"))
    slabs = instance.read_slabs(zyx(offset), zyx(size), scale, mask=mask)
    return stream(pieces(slabs), headers={"Content-Length": str(nbytes)})


def _get_image(
    call: Call,
    instance: ImageBlk,
    axes: tuple[int, int],
    size: Sequence[int],
    offset: Sequence[int],
    format: str,
    isotropic: bool,
) -> Response:
    check_image(size, instance.voxel_bytes, format)
    fetched: Sequence[int] = size
    if isotropic:
        lengths = instance.info.settings["VoxelSize"]
        fetched = isotropic_size(size, (lengths[axes[0]], lengths[axes[1]]))
        check_image(fetched, instance.voxel_bytes, "")
    box = [1, 1, 1]
    for axis, length in zip(axes, fetched, strict=True):
        box[axis] = length
    check_box(offset, box)
    pixels = instance.read_slice(axes, fetched, zyx(offset), image_scale(call), mask=_region(call))
    if tuple(fetched) != tuple(size):
        pixels = resize_area(pixels, size[1], size[0])
    return encoded(pixels, format)


@face.post("raw", args="/0_1_2/<size>/<offset>")
def post_raw(call: Call) -> Response:
    """Write a box of whole blocks, in one commit; the extents of this version grow to hold it.

    The body is the voxels and nothing else. ``?roi=NAME`` writes blocks of a region only. ``?throttle=on`` as for
    GET. ``?mutate=true`` is accepted: every write tells instances that follow this one.
    """
    instance: ImageBlk = call.instance
    axes = parse_shape(call.arg(0, "dims"))
    if len(axes) != 3:
        raise BadRequest("only volumes (0_1_2) can be written, not slices")
    size = parse_size(call.arg(1, "a size"))
    offset = parse_point(call.arg(2, "an offset"), what="offset")
    if call.int("scale"):
        raise BadRequest("only scale 0 can be written here; coarser ones are made from it")
    nbytes = volume_bytes(instance, size)
    check_box(offset, size)
    instance.check_whole_blocks(zyx(offset), zyx(size))
    mask = _region(call)
    call.throttled()
    slabs = _slabs(call, instance, nbytes, zyx(offset), zyx(size))
    instance.write_slabs(zyx(offset), zyx(size), slabs, mask=mask, user=call.user, app=call.app, force=call.force)
    return empty()


def _slabs(
    call: Call, instance: ImageBlk, nbytes: int, offset: Sequence[int], shape: Sequence[int]
) -> Iterator[NDArray[Any]]:
    """The body as slabs, read while the one before is being compressed."""
    # all but the last are equally thick
    first, stop = instance.write_cuts(offset, shape)[0]
    plane = nbytes // shape[0]
    for part in call.body.parts(nbytes, (stop - first) * plane):
        yield _array(part, instance, (len(part) // plane, *shape[1:]))


def _array(body: memoryview, instance: ImageBlk, shape: Sequence[int]) -> NDArray[Any]:
    layout = instance.layout
    return np.frombuffer(body, layout.numpy_dtype).reshape(*shape, *layout.tail)


@face.get("arb", args="/<top left>/<top right>/<bottom left>/<resolution>[/<format>]", head=False)
def get_arb(call: Call) -> Response:
    """An image of a plane of any orientation.

    Corners are x_y_z in physical units (the instance's VoxelSize); the resolution is the distance of pixels in the
    same unit. Values are interpolated between the eight voxels around each point; blocks never stored count as
    background. ``?throttle=on`` as for raw.
    """
    instance: ImageBlk = call.instance
    corners = [_floats(call.arg(i, "a corner (x_y_z)")) for i in range(3)]
    (resolution,) = _floats(call.arg(3, "a resolution"), 1)
    format = call.args[4] if len(call.args) > 4 else ""
    plane = ArbitraryPlane(corners[0], corners[1], corners[2], resolution, instance.info.settings["VoxelSize"])
    check_image((plane.width, plane.height), instance.voxel_bytes, format)
    call.throttled()
    return encoded(instance.read_plane(plane), format)


def _floats(text: str, count: int = 3) -> list[float]:
    parts = text.split("_") if count > 1 else [text]
    try:
        values = [float(part) for part in parts if part.isascii() and "_" not in part]
    except ValueError:
        values = []
    if len(values) != count:
        wanted = "a number" if count == 1 else "x_y_z, numbers joined by an underscore"
        raise BadRequest(f'"{text[:80]}" is not of the form {wanted}')
    return values


# ---------------------------------------------------------------------- blocks


def _span(call: Call) -> tuple[tuple[int, int, int], int]:
    x, y, z = parse_point(call.arg(0, "a block coordinate"), what="block")
    return (z, y, x), parse_int(call.arg(1, "a number of blocks"), "span")


@face.get("blocks", args="/<block>/<span>", head=False)
def get_blocks(call: Call) -> Response:
    """The voxels of consecutive blocks along x, block after block, from a block coordinate x_y_z.

    Every byte of a block that was never written is the instance's Background.
    """
    instance: ImageBlk = call.instance
    block, span = _span(call)
    nbytes = max(span, 0) * instance.layout.block_bytes
    if nbytes > MAX_VOLUME:
        raise BadRequest(f"{span} blocks are {nbytes} bytes; one request may move {MAX_VOLUME}")
    blocks = instance.read_block_span(block, span)
    return stream(pieces(blocks), headers={"Content-Length": str(nbytes)})


@face.post("blocks", args="/<block>/<span>")
def post_blocks(call: Call) -> Response:
    """Write consecutive blocks along x, in one commit. The extents stay as they are.

    The body is the voxels of the blocks, block after block, and nothing else. ``?mutate=true`` as for raw.
    """
    instance: ImageBlk = call.instance
    block, span = _span(call)
    if span < 1:
        raise BadRequest(f"a span of {span} blocks: expected 1 or more")
    layout = instance.layout
    instance.check_block_span(block, span)
    voxels = _array(call.body.exactly(span * layout.block_bytes), instance, (span, *layout.block))
    instance.write_block_span(block, voxels, user=call.user, app=call.app, force=call.force)
    return empty()


@face.get("subvolblocks", args="/<size>/<offset>", head=False)
def get_subvolblocks(call: Call) -> Response:
    """The blocks of a box that were ever written, in z, y, x order.

    A stream of records: block x, y, z and the number of bytes as int32, then the bytes. Size and offset are in
    voxels and must make whole blocks. ``?compression=uncompressed`` sends voxels; without it they come as the
    instance's Compression setting says: for LZ4 a uint32 with their size and an LZ4 block, Snappy raw, a gzip file, a
    JPEG image of the block's width and its height times depth, or voxels. ``jpeg`` is for instances that store it.
    ``?scale=K`` and ``?throttle=on`` as for raw.
    """
    instance: ImageBlk = call.instance
    size = parse_size(call.arg(0, "a size"))
    offset = parse_point(call.arg(1, "an offset"), what="offset")
    check_box(offset, size)
    call.throttled()
    blocks = instance.read_blocks_in(
        zyx(offset), zyx(size), compression=call.query.get("compression", ""), scale=image_scale(call)
    )
    return stream(_records(blocks))


@face.get("specificblocks", head=False)
def get_specificblocks(call: Call) -> Response:
    """Those of a list of blocks (``?blocks=x,y,z,x,y,z,...``) that were ever written.

    The stream and its compression are those of subvolblocks. ``?prefetch=on`` answers at once and sends nothing.
    """
    instance: ImageBlk = call.instance
    text = call.query.get("blocks", "")
    numbers = [parse_int(part, "blocks") for part in text.split(",")] if text else []
    if len(numbers) % 3:
        raise BadRequest(f"blocks: {len(numbers)} numbers are no list of x,y,z")
    blocks = np.array(numbers, np.int64).reshape(-1, 3)[:, ::-1]
    found = instance.read_blocks(blocks, compression=call.query.get("compression", ""), scale=image_scale(call))
    if call.query.get("prefetch") in ("on", "true"):
        # there is nothing to warm up: stored blocks are a lookup away
        return octets(b"")
    return stream(_records(found))


# ---------------------------------------------------------------------- properties


@face.get("info")
def get_info(call: Call) -> Response:
    """Type, settings and the extents of this version: JSON ``{"Base": ..., "Extended": ..., "Extents": ...}``."""
    return json(call.instance.describe())


@face.post("info")
def post_info(call: Call) -> Response:
    """Refused: properties are set at creation, by ``resolution`` and by ``extents``."""
    raise BadRequest("info can't be written; voxel size and extents can, by POST resolution and POST extents")


def get_metadata(call: Call) -> Response:
    """Axes, resolution, units and extents, as ``application/vnd.dvid-nd-data+json``."""
    return octets(encode_json(call.instance.metadata()) + b"\n", "application/vnd.dvid-nd-data+json")


@face.post("extents")
def post_extents(call: Call) -> Response:
    """Overwrite the extents of this version: JSON ``{"MinPoint": [x,y,z], "MaxPoint": [x,y,z]}``, both inside.

    They may shrink; later writes widen them again. A corner that is left out is 0, 0, 0.
    """
    given = Extents.of(call)
    stop = [v + 1 for v in reversed(given.max_point)]
    call.instance.set_extents(zyx(given.min_point), stop, user=call.user, app=call.app, force=call.force)
    return empty()


@face.post("resolution")
def post_resolution(call: Call) -> Response:
    """Set the size of a voxel, at all versions: a JSON array of three positive numbers, x, y, z."""
    call.instance.set_resolution(call.json(list[float], limit=1 << 16))
    return empty()


def get_rawkey(call: Call) -> Response:
    """The storage key of a block, in hex: JSON ``{"Key": ...}`` for ``?x=1&y=2&z=3`` (block coordinates)."""
    if call.args:
        raise BadRequest("rawkey takes a block coordinate as x=, y=, z= in the query, and nothing in the path")
    if not {"x", "y", "z"} & set(call.query):
        return empty()
    instance: ImageBlk = call.instance
    key = instance.layout.block_key(0, [call.int(axis) for axis in "zyx"])
    return json({"Key": (instance.info.prefix + key).hex()})


def _both(keyword: str, handler: Handler) -> None:
    """Answer POST as GET, which DVID does for some keywords."""
    face.get(keyword)(handler)
    face.post(keyword)(handler)


_both("metadata", get_metadata)
_both("rawkey", get_rawkey)
face.post("arb", args="/<top left>/<top right>/<bottom left>/<resolution>[/<format>]")(get_arb)
