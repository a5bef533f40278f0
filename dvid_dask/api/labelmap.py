"""HTTP face of labelmap: parse, call :class:`~dvid_dask.datatypes.labelmap.LabelMap`, encode."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import numpy as np

from dvid_dask.datatypes.labelmap import Bounds, LabelMap
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.datatypes.labelmap.voxels import check_box
from dvid_dask.errors import BadRequest, Forbidden, NotFound
from dvid_dask.formats import block_stream, compressed_segmentation, dvid_pb2, images, label_index, rles
from dvid_dask.formats.compression import gzip_compress, lz4_compress, lz4_decompress

from .face import Call, Face, decode_json
from .geometry import (
    INT32_MAX,
    INT32_MIN,
    UINT64_MAX,
    parse_bounds,
    parse_int,
    parse_label,
    parse_point,
    parse_shape,
    parse_size,
    zyx,
)
from .geometry import (
    check_box as check_corner,
)
from .responses import empty, encode_json, image, json, not_found, octets, stream, text

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.formats.block_stream import PayloadCompression

__all__ = ["face"]

face = Face(
    "labelmap",
    about="A segmentation of uint64 supervoxels, agglomerated into bodies. Coordinates in paths are x_y_z.",
    common=("tags", "sync", "mutations", "metadata", "resolution", "extents"),
    planned=("split-supervoxel", "split", "fvdb", "proximity", "map-stats"),
)

_Labels: Any = list[Annotated[int, msgspec.Meta(ge=0)]] | None
_Points: Any = list[list[int]] | None
Handler = Callable[[Call], "Response"]

MAX_INDICES = 50_000
MAX_LIST_BYTES = 64 << 20  # of a JSON list of labels or points
MAX_LIST_NUMBERS = 8 << 20  # in it; each takes some 35 bytes once decoded
MAX_IMAGE = 1 << 29  # bytes of labels in one 2-d image, which is encoded whole
MAX_LISTED = 10_000_000
SMALL_READ = 16 << 20  # bytes of voxels answered in one piece
MAX_LZ4 = 1 << 30  # bytes of voxels in one raw LZ4 block: it has to be in memory whole
RECORDS = 128  # blocks encoded at a time


# ------------------------------------------------------------------ parts of requests


def needs_index(handler: Handler) -> Handler:
    """Refuse an instance without label index."""

    @functools.wraps(handler)
    def checked(call: Call) -> Response:
        if not of(call).indexed:
            raise BadRequest(f'"{call.keyword}" needs a label index, and this instance was made without one')
        return handler(call)

    return checked


def absent_is_404(handler: Handler) -> Handler:
    """Answer for a label that isn't there with an empty 404, as DVID does."""

    @functools.wraps(handler)
    def checked(call: Call) -> Response:
        try:
            return handler(call)
        except NotFound:
            return not_found()

    return checked


def of(call: Call) -> LabelMap:
    """The instance."""
    return cast(LabelMap, call.instance)


def label_arg(call: Call, index: int = 0, what: str = "a label") -> int:
    """A label in the path: not 0."""
    label = parse_label(call.arg(index, what), what)
    if not label:
        raise BadRequest("label 0 is background")
    return label


def scale_of(call: Call) -> int:
    return call.int("scale", 0, 0, 255)


def bounds_of(call: Call) -> Bounds:
    given = parse_bounds(call.query)
    (ax, ay, az), (bx, by, bz) = given
    return Bounds((az, ay, ax), (bz, by, bx))


def json_body(call: Call) -> bytes:
    """The body of a request for many labels, checked against ``hash=`` (MD5)."""
    data = call.body.all(MAX_LIST_BYTES)
    wanted = call.query.get("hash")
    if wanted and hashlib.md5(data, usedforsecurity=False).hexdigest() != wanted:
        raise BadRequest(f"the body's MD5 is not {wanted[:80]}: it was changed on the way")
    return data


def check_list(data: bytes) -> None:
    """Refuse a JSON list whose decoded form would take far more memory than its text."""
    numbers = data.count(b",") + 1
    if len(data) > MAX_LIST_BYTES or numbers > MAX_LIST_NUMBERS:
        raise BadRequest(
            f"a list of about {numbers:,} numbers in {len(data):,} bytes; at most {MAX_LIST_NUMBERS:,} in "
            f"{MAX_LIST_BYTES:,} bytes: ask in several requests"
        )


def labels_of(data: bytes) -> list[int]:
    """A JSON list of labels; null is an empty one."""
    check_list(data)
    labels: list[int] = decode_json(data, _Labels) or []
    if max(labels, default=0) > UINT64_MAX:
        raise BadRequest("labels must be below 2**64")
    return labels


def who(call: Call) -> dict[str, Any]:
    return {"user": call.user, "app": call.app, "force": call.force}


def compression_of(call: Call, *known: str) -> str:
    name = call.query.get("compression", "")
    if name and name not in known:
        raise BadRequest(f'compression "{name[:40]}" is none of {", ".join(known)}')
    return name


# ------------------------------------------------------------------ settings


@face.post("info")
def post_info(call: Call) -> Response:
    """Change settings: a JSON object of strings with any of BlockSize, VoxelSize, VoxelUnits, MinPoint, MaxPoint,
    Background, GridStore, ScaleLevel, MaxDownresLevel. They hold at all versions.
    """
    config = call.json(dict[str, str], limit=1 << 20)
    of(call).change_settings(config)
    shown = msgspec.json.encode(config).decode()
    return text(f"Changed '{call.instance.name}' based on received configuration:\n{shown}\n")


# ------------------------------------------------------------------ voxels


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
    slabs = seg.read_slabs(offset, shape, scale, supervoxels=call.flag("supervoxels"), roi=roi)
    if compression in ("", "gzip") and nbytes > SMALL_READ:
        pieces = (slab.data.cast("B") for slab in slabs)
        if compression:
            return stream(gzip_pieces(pieces))
        return stream(cast(Iterable[bytes], pieces), headers={"Content-Length": str(nbytes)})
    labels = np.concatenate([slab.reshape(-1) for slab in slabs]).reshape(shape)
    if compression == "google":
        return octets(compressed_segmentation.encode(labels))
    if compression == "googlegzip":
        packed = gzip_compress(compressed_segmentation.encode(labels), 1)
        return octets(packed, headers={"Content-encoding": "gzip"})
    dense = labels.data.cast("B")
    if compression == "lz4":
        return octets(lz4_compress(dense))
    return octets(gzip_compress(dense, 1) if compression else bytes(dense))


def gzip_pieces(pieces: Iterable[Any]) -> Iterator[bytes]:
    """One gzip member from pieces of data."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for piece in pieces:
        for at in range(0, len(piece), 1 << 20):
            yield packer.compress(piece[at : at + (1 << 20)])
    yield packer.flush()


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
        if compression == "" and body.length is not None and body.length != nbytes:
            raise BadRequest(f"the body has {body.length} bytes; a box of this size has {nbytes}")
        if compression == "gzip":
            self._read = gzip.GzipFile(fileobj=cast(Any, _File(body.read))).read
        elif compression == "lz4":
            if nbytes > MAX_LZ4:
                raise BadRequest(f"{nbytes} bytes can't come as one LZ4 block of at most {MAX_LZ4}: use gzip")
            packed = body.all(limit=nbytes + nbytes // 255 + 64)
            self._read = io.BytesIO(lz4_decompress(packed, nbytes)).read

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        parts, left = [], n
        try:
            while left and (part := self._read(min(left, 1 << 22))):
                parts.append(part)
                left -= len(part)
        except (OSError, EOFError, zlib.error) as e:
            raise BadRequest(f"the body is no intact gzip file: {e}") from None
        self.taken += n - left
        if left:
            raise BadRequest(f"the body ends after {self.taken} bytes of voxels; a box of this size has {self.nbytes}")
        return parts[0] if len(parts) == 1 else b"".join(parts)

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


# ------------------------------------------------------------------ blocks


def records(blocks: Iterable[Any], compression: PayloadCompression) -> Iterator[bytes]:
    """A block stream, encoded in threads."""

    def encode(entry: Any) -> bytes:
        (z, y, x), block, table = entry
        return block_stream.write_record(x, y, z, block_stream.block_to_payload(block, compression, table=table))

    for batch in batches(blocks, RECORDS):
        yield from parallel(encode, batch, grain=4)


@face.get("blocks", args="/<size>/<offset>", head=False)
def get_blocks(call: Call) -> Response:
    """The blocks stored in a box: a stream of int32 bx, by, bz, nbytes and so many bytes, in any order.

    Size and offset in voxels, multiples of the block size. ``compression``: ``lz4`` (the default) of the dense uint64,
    ``gzip`` of it, ``uncompressed``, or ``blocks``: gzip of DVID's compressed label block. Options ``scale``,
    ``supervoxels=true``, ``throttle=true``.
    """
    seg, scale = of(call), scale_of(call)
    size = zyx(parse_size(call.arg(0, "a size")))
    offset = zyx(parse_point(call.arg(1, "an offset"), what="offset"))
    compression = compression_of(call, "lz4", "gzip", "blocks", "uncompressed") or "lz4"
    shape = seg.block_shape
    if any(v % b for v, b in zip((*size, *offset), shape * 2, strict=True)):
        raise BadRequest(f"size and offset must be multiples of the block size {'_'.join(map(str, shape[::-1]))}")
    check_corner(offset, size)
    call.throttled()
    start = [o // b for o, b in zip(offset, shape, strict=True)]
    stop = [(o + n) // b for o, n, b in zip(offset, size, shape, strict=True)]
    found = seg.blocks(start, stop, scale, supervoxels=call.flag("supervoxels"))
    return stream(records(found, cast("PayloadCompression", compression)))


@face.get("specificblocks", head=False)
def get_specific_blocks(call: Call) -> Response:
    """The blocks of a list, ``blocks=x,y,z,x,y,z,...`` in block coordinates, as ``blocks`` sends them.

    ``compression`` is ``blocks`` unless given. Blocks that aren't stored are left out.
    """
    scale = scale_of(call)
    compression = compression_of(call, "lz4", "gzip", "blocks", "uncompressed") or "blocks"
    listed = call.query.get("blocks", "")
    if not listed:
        return octets(b"")
    numbers = [parse_int(part, "blocks") if part == part.strip() else bad_blocks() for part in listed.split(",")]
    if len(numbers) % 3:
        bad_blocks()
    coords = np.array(numbers, np.int32).reshape(-1, 3)[:, ::-1]
    found = of(call).specific_blocks(coords, scale, supervoxels=call.flag("supervoxels"))
    return stream(records(found, cast("PayloadCompression", compression)))


def bad_blocks() -> int:
    raise BadRequest("blocks must be a list x,y,z,x,y,z,... of integers without blanks")


@face.post("blocks")
def post_blocks(call: Call) -> Response:
    """Store supervoxel blocks: a stream of int32 bx, by, bz, nbytes and the gzip of a compressed label block.

    All or none are stored, with the label index (unless ``noindexing=true`` or ``scale`` isn't 0) and, with
    ``downres=true``, the coarser scales. ``throttle=true``.
    """
    compression_of(call, "blocks")
    scale = scale_of(call)
    call.throttled()
    of(call).write_blocks(
        block_stream.iter_records(call.body),
        scale=scale,
        index=not call.flag("noindexing"),
        downres=call.flag("downres"),
        **who(call),
    )
    return empty()


@face.post("ingest-supervoxels")
def post_ingest_supervoxels(call: Call) -> Response:
    """Store supervoxel blocks of a ``scale`` and nothing else: no index, extents, coarser scales. For bulk loaders."""
    of(call).ingest_supervoxels(block_stream.iter_records(call.body), scale=scale_of(call), force=call.force)
    return empty()


# ------------------------------------------------------------------ sparse volumes


@face.get("sparsevol", args="/<label>", head=False)
@needs_index
@absent_is_404
def get_sparsevol(call: Call) -> Response:
    """The voxels of a body, or of a supervoxel with ``supervoxels=true``.

    ``format``: ``rles`` (runs behind a header that counts them, the default; ``compression`` ``lz4`` or ``gzip``),
    ``srles`` (runs alone, streamed) or ``blocks`` (bits). ``scale``; ``minx`` ... ``maxz`` in voxels of the scale, both
    inclusive; ``exact=false`` takes blocks at the bounds whole. 404 if there is no label, or no block within the
    bounds.
    """
    return sparse_response(call, label_arg(call))


def sparse_response(call: Call, label: int) -> Response:
    form = call.query.get("format", "rles")
    if form not in ("srles", "blocks"):
        form = "rles"
    compression = compression_of(call, "lz4", "gzip") if form == "rles" else ""
    volume = of(call).sparse(
        label,
        supervoxels=call.flag("supervoxels"),
        scale=scale_of(call),
        bounds=bounds_of(call),
        exact=call.query.get("exact") != "false",
    )
    if not volume.has_blocks():
        return not_found()
    if form == "srles":
        return stream(volume.streaming())
    if form == "blocks":
        return stream(volume.binary())
    if compression == "gzip":
        return stream(gzip_pieces(map(memoryview, volume.legacy())))
    if compression == "lz4":
        return octets(lz4_compress(b"".join(volume.legacy())))
    return stream(volume.legacy())


@face.head("sparsevol", args="/<label>")
@needs_index
def head_sparsevol(call: Call) -> Response:
    """Whether a body has a block within the bounds: 200 or 204."""
    label = label_arg(call)
    try:
        volume = of(call).sparse(label, supervoxels=call.flag("supervoxels"), bounds=bounds_of(call))
        found = volume.has_blocks()
    except NotFound:
        found = False
    return text("", status=200 if found else 204, media_type="text/html")


@face.any("sparsevol-by-point", args="/<x_y_z>")
@needs_index
@absent_is_404
def get_sparsevol_by_point(call: Call) -> Response:
    """``sparsevol`` of the label at a voxel of the ``scale``, with the same options."""
    point = zyx(parse_point(call.arg(0, "a voxel")))
    label = int(of(call).labels_at([point], scale_of(call), supervoxels=call.flag("supervoxels"))[0])
    if not label:
        raise BadRequest(f"there is no label at {call.args[0]}: it is background")
    return sparse_response(call, label)


@face.any("sparsevol-coarse", args="/<label>")
@needs_index
@absent_is_404
def get_sparsevol_coarse(call: Call) -> Response:
    """The blocks of a body or supervoxel as runs in block coordinates; bounds in voxels."""
    volume = of(call).sparse(label_arg(call), supervoxels=call.flag("supervoxels"), bounds=bounds_of(call))
    return octets(rles.encode_rles(volume.coarse()))


@face.any("sparsevols-coarse", args="/<first>/<last>")
def get_sparsevols_coarse(call: Call) -> Response:
    """``sparsevol-coarse`` of all bodies from one id to another, streamed: uint64 label, int32 n, n runs."""
    first, last = label_arg(call), label_arg(call, 1, "a last label")
    found = of(call).coarse_volumes(first, last, bounds_of(call))
    head = struct.Struct("<Qi")
    return stream(head.pack(body, len(runs)) + rles.encode_srles(runs) for body, runs in found)


@face.get("sparsevol-size", args="/<label>", head=False)
@absent_is_404
def get_sparsevol_size(call: Call) -> Response:
    """Voxels, blocks and block-aligned box of a body, or of a supervoxel with ``supervoxels=true``."""
    voxels, blocks, box = of(call).sparse_size(label_arg(call), supervoxels=call.flag("supervoxels"))
    low, high = list(box.first[::-1]), list(box.last[::-1])
    body = f'{{"voxels": {voxels}, "numblocks": {blocks}, "minvoxel": {low}, "maxvoxel": {high}}}'
    return text(body, media_type="application/json")


# ------------------------------------------------------------------ bodies


@face.any("size", args="/<label>")
@absent_is_404
def get_size(call: Call) -> Response:
    """Voxels of a body, or of a supervoxel with ``supervoxels=true``: ``{"voxels": n}``."""
    voxels = of(call).size(label_arg(call), supervoxels=call.flag("supervoxels"))
    return text(f'{{"voxels": {voxels}}}', media_type="application/json")


@face.get("sizes", head=False)
def get_sizes(call: Call) -> Response:
    """Voxels of many labels: a JSON list in the body, a list in the answer, 0 for those that don't exist.

    Options ``supervoxels=true`` and ``hash``, the MD5 of the body.
    """
    labels = labels_of(json_body(call))
    return json(of(call).sizes(np.array(labels, np.uint64), supervoxels=call.flag("supervoxels")).tolist())


@face.any("supervoxels", args="/<body>")
@absent_is_404
def get_supervoxels(call: Call) -> Response:
    """The supervoxels of a body, as a JSON list."""
    return json(of(call).supervoxels_of(label_arg(call)).id.tolist())


@face.any("supervoxel-sizes", args="/<body>")
@absent_is_404
def get_supervoxel_sizes(call: Call) -> Response:
    """The supervoxels of a body and their voxels, as two JSON lists."""
    held = of(call).supervoxels_of(label_arg(call))
    return json({"supervoxels": held.id.tolist(), "sizes": held.voxels.tolist()})


@face.any("lastmod", args="/<body>")
@absent_is_404
def get_lastmod(call: Call) -> Response:
    """The mutation that changed a body last: its id, user, application and time."""
    stamp = of(call).header(label_arg(call)).stamp
    return json(
        {
            "mutation id": stamp.mutation,
            "last mod user": stamp.user,
            "last mod app": stamp.app,
            "last mod time": stamp.time,
        }
    )


@face.get("existing-labels", head=False)
def get_existing_labels(call: Call) -> Response:
    """All bodies with a label index, as an ascending JSON list, streamed."""

    def pieces() -> Iterator[bytes]:
        lead = b"["
        for batch in batches(of(call).bodies(), 8192):
            yield lead + ",".join(map(str, batch)).encode()
            lead = b","
        yield b"]" if lead == b"," else b"[]"

    return stream(pieces(), "application/json")


@face.get("listlabels", head=False)
def get_listlabels(call: Call) -> Response:
    """Bodies in ascending order: uint64 each, with ``sizes=true`` followed by their voxels.

    ``start`` is the first id; ``number`` how many, at most 10,000,000.
    """
    start = parse_label(call.query.get("start") or "0", "start")
    number = min(parse_label(call.query.get("number") or str(MAX_LISTED), "number"), MAX_LISTED)
    seg, sizes = of(call), call.flag("sizes")

    def pieces() -> Iterator[bytes]:
        left = number
        found: Iterator[Any] = seg.bodies_with_sizes(start) if sizes else seg.bodies(start)
        for batch in batches(found, 8192):
            yield np.array(batch[:left], np.uint64).tobytes()
            left -= len(batch)
            if left <= 0:
                return

    return stream(pieces() if number else ())


# ------------------------------------------------------------------ label index


@face.get("index", args="/<body>", head=False)
@absent_is_404
def get_index(call: Call) -> Response:
    """The label index of a body as protobuf LabelIndex; ``metadata-only=true``: sums and last change as JSON."""
    body = label_arg(call)
    if call.query.get("mutid"):
        parse_label(call.query["mutid"], "mutid")
        return not_found()  # indices before a mutation are kept by DVID's mutation cache, which is not here
    call.throttled()
    if call.flag("metadata-only"):
        header = of(call).header(body)
        return json(
            {
                "num_voxels": header.voxels,
                "last_mutid": header.stamp.mutation,
                "last_mod_time": header.stamp.time,
                "last_mod_user": header.stamp.user,
                "last_mod_app": header.stamp.app,
            }
        )
    return octets(label_index.encode_index(of(call).index(body)))


@face.post("index", args="/<body>")
def post_index(call: Call) -> Response:
    """Replace the label index of a body by a protobuf LabelIndex; one without blocks deletes it. Nothing is checked
    against the voxels.
    """
    body = label_arg(call)
    call.throttled()
    given = label_index.decode_index(call.body.all())
    if given.label != body:
        raise BadRequest(f"the index is of label {given.label}, the path says {body}")
    of(call).set_indices([given], force=call.force)
    return empty()


def listed_bodies(call: Call) -> list[int]:
    labels = labels_of(call.body.all())
    if len(labels) > MAX_INDICES:
        raise BadRequest(f"{len(labels)} indices were asked for; at most {MAX_INDICES} at once")
    call.throttled()
    return labels


@face.get("indices", head=False)
def get_indices(call: Call) -> Response:
    """The label indices of a JSON list of up to 50,000 bodies, as protobuf LabelIndices in their order."""
    labels = listed_bodies(call)
    found = zip(labels, of(call).indices(labels), strict=True)
    return stream(label_index.encode_indices([label_index.LabelIndex(label) if i is None else i]) for label, i in found)


@face.post("indices")
def post_indices(call: Call) -> Response:
    """Replace label indices by those of a protobuf LabelIndices, all or none; those without blocks are deleted."""
    call.throttled()
    of(call).set_indices(list(label_index.decode_indices(call.body.all())), force=call.force)
    return empty()


@face.get("indices-compressed", head=False)
def get_indices_compressed(call: Call) -> Response:
    """As ``indices``, each as uint64 nbytes, uint64 label, and the LZ4 LabelIndex behind DVID's 5-byte header."""
    labels = listed_bodies(call)
    found = zip(labels, of(call).indices(labels), strict=True)
    return stream(label_index.encode_record(label, index) for label, index in found)


@face.get("index-version", args="/<body>", head=False)
def get_index_version(call: Call) -> Response:
    """UUID of the version at which the index of a body was last written or deleted."""
    call.throttled()
    return text(of(call).index_version(label_arg(call)).uuid)


# ------------------------------------------------------------------ mapping


@face.get("mapping", head=False)
def get_mapping(call: Call) -> Response:
    """The bodies of a JSON list of supervoxels: a list, 0 for ids that are retired or don't exist.

    ``nolookup=true``: ids without entry in the mapping are not looked up in the label index. ``hash``: MD5 of the body.
    """
    ids = np.array(labels_of(json_body(call)), np.uint64)
    return json(of(call).mapping(ids, lookup=not call.flag("nolookup")).tolist())


@face.get("mappings", head=False)
def get_mappings(call: Call) -> Response:
    """All supervoxels that belong to a body of another id: lines ``supervoxel body``, or uint64 pairs with
    ``format=binary``. Body 0: the id is retired.
    """
    call.throttled()
    pages = of(call).mappings()
    first = next(pages, None)
    if first is None:
        return empty()

    def every() -> Iterator[Any]:
        yield first
        yield from pages

    if call.query.get("format") == "binary":
        return stream(np.stack(page, axis=1).tobytes() for page in every())
    return stream(
        ("".join(f"{a} {b}\n" for a, b in zip(*(c.tolist() for c in page), strict=True)).encode() for page in every()),
        "text/plain; charset=utf-8",
    )


@face.post("mappings")
def post_mappings(call: Call) -> Response:
    """Set the bodies of supervoxels by a protobuf MappingOps, all or none. The label index is not touched."""
    call.throttled()
    ops = dvid_pb2.MappingOps()
    try:
        ops.ParseFromString(call.body.all())
    except Exception as e:  # DecodeError, which no stub names
        raise BadRequest(f"the body is no MappingOps message: {e}") from None
    ids = [np.array(op.original, np.uint64) for op in ops.mappings]
    bodies = [np.full(len(op.original), op.mapped, np.uint64) for op in ops.mappings]
    if ids:
        of(call).set_mappings(np.concatenate(ids), np.concatenate(bodies), force=call.force)
    return empty()


@face.get("supervoxel-splits", head=False)
def get_supervoxel_splits(call: Call) -> Response:
    """Splits of supervoxels up to this version: none, since this server doesn't split yet."""
    return json([])


# ------------------------------------------------------------------ edits


def edit_body(call: Call) -> list[int]:
    return labels_of(call.body.all(MAX_LIST_BYTES))


@face.post("merge")
@needs_index
def post_merge(call: Call) -> Response:
    """Merge bodies: JSON ``[target, body, ...]``; answers ``{"MutationID": n}``."""
    labels = edit_body(call)
    if len(labels) < 2:
        raise BadRequest("a merge takes a list of at least two bodies, the target first")
    return json({"MutationID": of(call).merge(labels[0], labels[1:], **who(call))})


@face.post("cleave", args="/<body>")
@needs_index
def post_cleave(call: Call) -> Response:
    """Make supervoxels of a body a new body: JSON ``[supervoxel, ...]``; answers its id and the mutation id."""
    body = label_arg(call)
    new, mutation = of(call).cleave(body, np.array(edit_body(call), np.uint64), **who(call))
    return json({"CleavedLabel": new, "MutationID": mutation})


@face.post("renumber")
def post_renumber(call: Call) -> Response:
    """Give bodies other ids: JSON ``[new, old, new, old, ...]``, one after the other, all or none."""
    labels = edit_body(call)
    if len(labels) % 2:
        raise BadRequest(f"renumber takes pairs of new and old ids, got {len(labels)} ids")
    of(call).renumber(list(zip(labels[::2], labels[1::2], strict=True)), **who(call))
    return empty()


# ------------------------------------------------------------------ ids


def need_admin(call: Call) -> None:
    if not call.admin:
        raise Forbidden(f'"{call.keyword}" can be set by an administrator only')


@face.get("maxlabel", head=False)
@needs_index
def get_maxlabel(call: Call) -> Response:
    """The largest label of this version and its ancestors: ``{"maxlabel": n}``."""
    largest = of(call).max_label()
    if not largest:
        raise BadRequest("this version has no label yet")
    return json({"maxlabel": largest})


@face.post("maxlabel", args="/<label>")
@needs_index
def post_maxlabel(call: Call) -> Response:
    """Raise the largest label of this version (administrators)."""
    need_admin(call)
    label = parse_int(call.arg(0, "a label"), "label", 1, 1 << 48)
    of(call).raise_max_label(label, force=call.force)
    return empty()


@face.get("nextlabel", head=False)
@needs_index
def get_nextlabel(call: Call) -> Response:
    """The id that would be handed out next: ``{"nextlabel": n}``."""
    return json({"nextlabel": of(call).next_labels.next})


@face.post("nextlabel", args="/<count>")
@needs_index
def post_nextlabel(call: Call) -> Response:
    """Reserve consecutive ids that nobody else gets: ``{"start": a, "end": b}``, both inclusive."""
    count = parse_label(call.arg(0, "a count"), "count")
    first, last = of(call).allocate_labels(count, force=call.force)
    return json({"start": first, "end": last})


@face.post("set-nextlabel", args="/<label>")
def post_set_nextlabel(call: Call) -> Response:
    """Hand out ids after this one from now on (administrators); ``ceiling``: up to that one, 0 clears it."""
    need_admin(call)
    label = parse_label(call.arg(0, "a label"))
    ceiling = call.query.get("ceiling")
    of(call).next_labels.start_from(label, None if not ceiling else parse_label(ceiling, "ceiling"))
    return empty()


# ------------------------------------------------------------------ history


@face.get("history", args="/<body>/<from>/<to>", head=False)
def get_history(call: Call) -> Response:
    """The merges and cleaves that a body went through between two versions, as JSON objects one behind the other."""
    body = label_arg(call)
    begin = call.repo[call.arg(1, "a first version")]
    end = call.repo[call.arg(2, "a last version")]
    told = cast(LabelMap, end[call.instance.name]).body_history(body, begin)
    first = next(told, None)
    if first is None:
        return empty()
    rest = (encode_json(record) for record in told)
    return stream((piece for part in ([encode_json(first)], rest) for piece in part), "text/plain; charset=utf-8")
