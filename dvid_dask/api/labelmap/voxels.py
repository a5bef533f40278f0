"""Voxels: boxes, slices, points."""

from __future__ import annotations

import functools
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dvid_dask.datatypes.labelmap.voxels import check_box
from dvid_dask.errors import BadRequest
from dvid_dask.formats import compressed_segmentation, images
from dvid_dask.formats.compression import gzip_compress, lz4_compress, lz4_decompress

from ..face import Call, decode_json
from ..geometry import (
    INT32_MAX,
    INT32_MIN,
    parse_point,
    parse_shape,
    parse_size,
    zyx,
)
from ..geometry import (
    check_box as check_corner,
)
from ..responses import empty, image, json, octets, stream
from .request import (
    check_list,
    compression_of,
    face,
    gzip_pieces,
    json_body,
    of,
    scale_of,
    who,
)

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.datatypes.labelmap import LabelMap


_Points: Any = list[list[int]] | None

MAX_IMAGE = 1 << 29  # bytes of labels in one 2-d image, which is encoded whole
SMALL_READ = 16 << 20  # bytes of voxels answered in one piece
MAX_LZ4 = 1 << 30  # bytes of voxels in one raw LZ4 block: it has to be in memory whole


class Box:
    """``<dims>/<size>/<offset>[/<format>]`` of a path."""

    def __init__(self, call: Call) -> None:
        self.axes = parse_shape(call.arg(0, "dimensions"))
        self.size = parse_size(call.arg(1, "a size"), len(self.axes))
        self.offset = parse_point(call.arg(2, "an offset"), what="offset")
        self.format = call.args[3] if len(call.args) > 3 else ""

    @property
    def flat(self) -> bool:
        """Whether it is a slice."""
        return len(self.axes) == 2

    def shape(self, size: tuple[int, ...] | None = None) -> tuple[int, int, int]:
        """Voxels in z, y, x."""
        sides = [1, 1, 1]
        for axis, n in zip(self.axes, size or self.size, strict=True):
            sides[axis] = n
        check_corner(self.offset, sides)
        x, y, z = sides
        return z, y, x

    def missing_axis(self) -> int:
        """Which of z, y, x (0, 1, 2) a slice doesn't have."""
        return 2 - ({0, 1, 2} - set(self.axes)).pop()


@face.get("raw", "isotropic", args="/<dims>/<size>/<offset>[/<format>]")
def get_raw(call: Call) -> Response:
    """Labels of a box or slice.

    ``dims`` is ``xy``, ``xz``, ``yz`` (a 16-bit RGBA PNG that carries the uint64; format ``png``, ``jpg``, ``tif``,
    ``bmp``) or ``0_1_2`` (uint64, x fastest; compression ``lz4``, ``gzip``, ``google``, ``googlegzip``). Bodies, or
    supervoxels with ``supervoxels=true``. ``scale``; ``roi`` names an ROI outside of which all is 0;
    ``throttle=true``. ``isotropic`` resizes slices to equal resolution in both axes.
    """
    box = Box(call)
    if box.flat:
        return slice_image(call, box)
    seg, scale, roi = of(call), scale_of(call), call.query.get("roi", "")
    compression = compression_of(call, "lz4", "gzip", "google", "googlegzip")
    call.throttled()
    shape, offset = box.shape(), zyx(box.offset)
    check_box(offset, shape)
    nbytes = 8 * math.prod(shape)
    if compression.startswith("google") and any(n % 8 for n in shape):
        raise BadRequest(f"compression {compression} needs sides that are multiples of 8, got {box.size}")
    if compression in ("lz4", "google", "googlegzip") and nbytes > MAX_LZ4:
        raise BadRequest(f"{nbytes} bytes can't be one {compression} piece of at most {MAX_LZ4}: ask for smaller boxes")
    supervoxels = call.flag("supervoxels")
    if compression.startswith("google") and not roi and is_block(seg, offset, shape):
        chunk = block_chunk(seg, offset, scale, supervoxels=supervoxels)
        return google(chunk, compression)
    if compression in ("", "gzip") and nbytes > SMALL_READ:
        slabs = seg.read_slabs(offset, shape, scale, supervoxels=supervoxels, roi=roi)
        pieces = (slab.data.cast("B") for slab in slabs)
        if compression:
            return stream(gzip_pieces(pieces))
        return stream(cast(Iterable[bytes], pieces), headers={"Content-Length": str(nbytes)})
    labels = seg.read(offset, shape, scale, supervoxels=supervoxels, roi=roi)
    if compression.startswith("google"):
        return google(compressed_segmentation.encode(labels), compression)
    dense = labels.data.cast("B")
    if compression == "lz4":
        return octets(lz4_compress(dense))
    return octets(gzip_compress(dense, 1) if compression else dense)


def google(chunk: bytes, compression: str) -> Response:
    """Compressed segmentation, as it is or gzipped."""
    if compression == "google":
        return octets(chunk)
    return octets(gzip_compress(chunk, 1), headers={"Content-encoding": "gzip"})


def is_block(seg: LabelMap, offset: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a box is one of the blocks that are stored, as viewers ask for them."""
    return tuple(shape) == seg.block_shape and not any(o % n for o, n in zip(offset, shape, strict=True))


def block_chunk(seg: LabelMap, offset: Sequence[int], scale: int, *, supervoxels: bool) -> bytes:
    """One stored block as compressed segmentation, without a detour by its voxels."""
    block = [o // n for o, n in zip(offset, seg.block_shape, strict=True)]
    for _, held, table in seg.specific_blocks([block], scale, supervoxels=supervoxels):
        chunk = compressed_segmentation.from_label_block(held, table)
        if chunk is not None:
            return chunk
    return _nothing(seg.block_shape)


@functools.lru_cache(maxsize=16)
def _nothing(shape: tuple[int, int, int]) -> bytes:
    """A chunk of zeros."""
    return compressed_segmentation.encode(np.zeros(shape, np.uint64))


def slice_image(call: Call, box: Box) -> Response:
    supervoxels = call.flag("supervoxels")
    if call.keyword == "isotropic":
        width, height = box.size
        labels = images.resize_nearest(
            read_slice(call, box, unscaled(call, box), supervoxels=supervoxels), height, width
        )
    else:
        labels = read_slice(call, box, box.size, supervoxels=supervoxels)
    return image(*images.encode_image(labels, box.format or "png"))


def read_slice(call: Call, box: Box, size: tuple[int, ...], *, supervoxels: bool) -> Any:
    """Labels (rows, columns) of a slice."""
    images.parse_format(box.format or "png")
    shape = box.shape(size)
    if 8 * shape[0] * shape[1] * shape[2] > MAX_IMAGE:
        raise BadRequest(
            f"a slice of {' x '.join(map(str, size))} labels has {8 * shape[0] * shape[1] * shape[2]:,} bytes; at most "
            f"{MAX_IMAGE:,}: ask for parts of it, or for raw voxels"
        )
    labels = of(call).read(
        zyx(box.offset), shape, scale_of(call), supervoxels=supervoxels, roi=call.query.get("roi", "")
    )
    return labels.squeeze(box.missing_axis())


def unscaled(call: Call, box: Box) -> tuple[int, int]:
    """Pixels to read so that the slice covers what the requested size covers at the finer of the two resolutions."""
    resolution = of(call).voxel_size[::-1]
    fine, width, height = min(resolution[a] for a in box.axes), *box.size
    a, b = (max(1, int(n * fine / resolution[axis] + 0.5)) for n, axis in zip((width, height), box.axes, strict=True))
    return a, b


@face.get("pseudocolor", args="/<dims>/<size>/<offset>[/<format>]")
def get_pseudocolor(call: Call) -> Response:
    """A slice of bodies in colours, one per body: 8-bit RGB. Options ``scale`` and ``roi``."""
    box = Box(call)
    if not box.flat:
        raise BadRequest("pseudocolor paints slices: dims must be xy, xz or yz")
    labels = read_slice(call, box, box.size, supervoxels=False)
    return image(*images.encode_image(images.pseudocolor(labels), box.format or "png"))


@face.post("raw", args="/0_1_2/<size>/<offset>")
def post_raw(call: Call) -> Response:
    """Store supervoxels of a box of whole blocks: uint64, x fastest; ``compression`` ``lz4`` or ``gzip``.

    Coarser scales and the label index are in line when the answer comes; what the blocks held before is replaced in
    both (``mutate=true`` or not). ``roi`` names an ROI: blocks outside of it are not written. ``throttle=true``.
    """
    box = Box(call)
    if box.flat:
        raise BadRequest("labels are stored in boxes: dims must be 0_1_2")
    compression = compression_of(call, "lz4", "gzip")
    scale_of(call)
    seg, shape, offset = of(call), box.shape(), zyx(box.offset)
    call.throttled()
    nbytes = 8 * math.prod(shape)
    reader = VoxelBody(call, compression, nbytes)

    def next_slab(planes: int) -> Any:
        data = reader.take(8 * planes * shape[1] * shape[2])
        labels = np.frombuffer(data, "<u8").reshape(planes, shape[1], shape[2])
        reader.end_if_complete()
        return labels

    seg.write_slabs(next_slab, offset, shape, roi=call.query.get("roi", ""), **who(call))
    return empty()


class VoxelBody:
    """The voxels in a body, of which there must be exactly so many bytes."""

    def __init__(self, call: Call, compression: str, nbytes: int) -> None:
        self.nbytes, self.taken = nbytes, 0
        body = call.body
        self._read: Callable[[int], bytes] = body.read
        self._plain = None if compression else body.readinto
        if compression == "" and body.length is not None and body.length != nbytes:
            raise BadRequest(f"the body has {body.length} bytes; a box of this size has {nbytes}")
        if compression == "gzip":
            self._read = gzip.GzipFile(fileobj=cast(Any, _File(body.read))).read
        elif compression == "lz4":
            if nbytes > MAX_LZ4:
                raise BadRequest(f"{nbytes} bytes can't come as one LZ4 block of at most {MAX_LZ4}: use gzip")
            packed = body.all(limit=nbytes + nbytes // 255 + 64)
            self._read = io.BytesIO(lz4_decompress(packed, nbytes)).read

    def take(self, n: int) -> bytes | bytearray:
        """The next n bytes."""
        if self._plain is not None:
            room = bytearray(n)
            got = self._plain(memoryview(room))
            self.taken += got
            self._check(n - got)
            return room
        parts, left = [], n
        try:
            while left and (part := self._read(min(left, 1 << 22))):
                parts.append(part)
                left -= len(part)
        except (OSError, EOFError, zlib.error) as e:
            raise BadRequest(f"the body is no intact gzip file: {e}") from None
        self.taken += n - left
        self._check(left)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check(self, missing: int) -> None:
        if missing:
            raise BadRequest(f"the body ends after {self.taken} bytes of voxels; a box of this size has {self.nbytes}")

    def end_if_complete(self) -> None:
        """After the last voxel nothing may follow."""
        if self.taken < self.nbytes:
            return
        try:
            more = self._read(1)
        except (OSError, EOFError, zlib.error) as e:
            raise BadRequest(f"the body is no intact gzip file: {e}") from None
        if more:
            raise BadRequest(f"the body goes on after the {self.nbytes} bytes that a box of this size has")


class _File(io.RawIOBase):
    """A body as a file that `gzip` can read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._take = read

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        return self._take(n if n >= 0 else 1 << 16)


@face.any("label", args="/<x_y_z>")
def get_label(call: Call) -> Response:
    """The label at a voxel, as JSON ``{"Label": n}``. Options ``scale`` and ``supervoxels=true``."""
    point = zyx(parse_point(call.arg(0, "a voxel")))
    found = of(call).labels_at([point], scale_of(call), supervoxels=call.flag("supervoxels"))
    return json({"Label": int(found[0])})


@face.get("labels", head=False)
def get_labels(call: Call) -> Response:
    """The labels at many voxels: JSON ``[[x,y,z],...]`` in the body, ``[n,...]`` in the answer.

    Options ``scale``, ``supervoxels=true`` and ``hash``, the MD5 of the body.
    """
    scale = scale_of(call)
    data = json_body(call)
    check_list(data)
    points = decode_json(data, _Points) or []
    found = of(call).labels_at(points_array(points), scale, supervoxels=call.flag("supervoxels"))
    return json(found.tolist())


def points_array(points: Any) -> Any:
    """Points (z, y, x) of lists (x, y, z); short lists end in zeros, long ones are cut, as in DVID."""
    if not points:
        return np.empty((0, 3), np.int64)
    if any(len(p) != 3 for p in points):
        points = [[*p, 0, 0, 0][:3] for p in points]
    try:
        array = np.array(points, np.int64)
    except OverflowError:
        raise BadRequest("coordinates must be signed 32-bit integers") from None
    if int(array.min()) < INT32_MIN or int(array.max()) > INT32_MAX:
        raise BadRequest("coordinates must be signed 32-bit integers")
    return array[:, ::-1]
