"""The HTTP side of roi: spans, masks, points and partitions."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.roi.partition import MAX_BATCH
from dvid_dask.errors import BadRequest
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.json_parts import split

from .face import Call, Face, decode_json
from .geometry import check_box, parse_int, parse_point, parse_shape, parse_size, zyx
from .responses import Response, empty, encode_json, json, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from dvid_dask.datatypes.roi import Partition, PinnedRoi, Roi

__all__ = ["face"]

face = Face(
    "roi",
    about="""A region of interest: a set of blocks.

    A span is [z, y, x0, x1] in block coordinates, x1 included. Points are [x, y, z] in voxels. All are signed 32-bit
    integers.
    """,
)

_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Span = tuple[_Int32, _Int32, _Int32, _Int32]
_Point = tuple[_Int32, _Int32, _Int32]

_MAX_BODY = 64 << 20
"""Bytes of a list of spans or points: about 3 million spans."""

_ROWS = 1 << 16  # spans or points that are decoded together

_TOGETHER = 4096
"""Subvolumes made into JSON at a time."""


def _rows(data: bytes, kind: Any, columns: int) -> NDArray[np.int64]:
    """A JSON list of lists of integers; as in DVID, those too short are filled up with 0, those too long are cut."""
    try:
        parts = split(data, _ROWS)
    except FormatError:  # null, or what is told of below
        return _some_rows(data, kind, columns)
    return np.concatenate([_some_rows(part, kind, columns) for part in parts])


def _some_rows(data: bytes, kind: Any, columns: int) -> NDArray[np.int64]:
    rows: Any
    try:
        rows = msgspec.json.decode(data, type=list[kind])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        loose = decode_json(data, list[list[_Int32 | None] | None] | None) or []  # type: ignore[arg-type]
        padding = [0] * columns
        rows = [[v or 0 for v in [*(row or ()), *padding][:columns]] for row in loose]
    numbers = np.fromiter(itertools.chain.from_iterable(rows), np.int64, count=columns * len(rows))
    return numbers.reshape(-1, columns)


# ---------------------------------------------------------------------- spans


@face.get("roi")
def get_roi(call: Call) -> Response:
    """All spans, as a JSON list of [z, y, x0, x1] in this order; overlapping ones as they were posted."""
    roi: Roi = call.instance
    return stream(_json_rows(roi.pin().parts()), "application/json")


def _json_rows(parts: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    lead = b"["
    for part in parts:
        yield lead + encode_json(part.tolist())[1:-1]
        lead = b","
    yield b"[]" if lead == b"[" else b"]"


@face.post("roi")
def post_roi(call: Call) -> Response:
    """Replace the region at this version, in one commit: a JSON list of [z, y, x0, x1], in any order.

    Repeated spans count once. A span that ends before it begins is refused, and nothing is changed.
    """
    roi: Roi = call.instance
    roi.replace(_rows(call.body.all(_MAX_BODY), _Span, 4), user=call.user, app=call.app, force=call.force)
    return empty()


@face.delete("roi")
def delete_roi(call: Call) -> Response:
    """Remove all spans at this version."""
    call.instance.clear(user=call.user, app=call.app, force=call.force)
    return empty()


# ---------------------------------------------------------------------- voxels


@face.get("mask", args="/0_1_2/<size>/<offset>", head=False)
def get_mask(call: Call) -> Response:
    """A box of voxels, one byte each, x fastest: 1 inside the region, 0 outside.

    Size and offset are x_y_z in voxels, with any alignment; at most 3 Gi voxels.
    """
    roi: Roi = call.instance
    if len(parse_shape(call.arg(0, "dims"))) != 3:
        raise BadRequest("a mask is a volume (0_1_2), not a slice")
    size = parse_size(call.arg(1, "a size"))
    offset = parse_point(call.arg(2, "an offset"), what="offset")
    check_box(offset, size)
    parts = roi.pin().mask_parts(zyx(offset), zyx(size))
    length = {"Content-Length": str(size[0] * size[1] * size[2])}
    return stream((part.tobytes() for part in parts), headers=length)


@face.post("ptquery")
def post_ptquery(call: Call) -> Response:
    """Which points lie in the region: a JSON list of voxels [x, y, z]; answer a JSON list of booleans in its order.

    Changes nothing, so it is answered at committed versions too.
    """
    points = _rows(call.body.all(_MAX_BODY), _Point, 3)
    return json(call.instance.contains(points[:, ::-1]).tolist())


# ---------------------------------------------------------------------- partitions


@face.get("partition")
def get_partition(call: Call) -> Response:
    """Cut the region into subvolumes for work in batches; ``?batchsize=N`` blocks a side is needed.

    By default cubes of that size, spread over the region. ``?optimized=true`` (or ``on``): boxes that fit the region,
    some of them a block longer. Every block of the region lies in exactly one subvolume; at most 2^22 subvolumes.

    Answer: JSON ``{"NumTotalBlocks", "NumActiveBlocks", "NumSubvolumes", "ROI": {"MinChunk", "MaxChunk"},
    "Subvolumes": [{"MinPoint", "MaxPoint", "MinChunk", "MaxChunk", "TotalBlocks", "ActiveBlocks"}]}``. Chunks are
    blocks, points voxels, as [x, y, z], both ends included; active blocks are those of the region.
    """
    given = call.query.get("batchsize")
    if given is None:
        raise BadRequest("partition needs ?batchsize=N, the blocks of a subvolume's side")
    batch = parse_int(given, "batchsize", 1, MAX_BATCH)
    roi: Roi = call.instance
    region: PinnedRoi = roi.pin()
    cut = region.partition(batch, optimized=call.query.get("optimized") in ("true", "on"))
    return stream(_partition_json(cut), "application/json")


def _indented(obj: Any, level: int) -> bytes:
    text = msgspec.json.format(encode_json(obj), indent=4)
    return text.replace(b"\n", b"\n" + b" " * 4 * level)


def _partition_json(cut: Partition) -> Iterator[bytes]:
    if cut.bounds is None:
        # what DVID shows for nothing
        low, high = [0, 0, 2**31 - 1], [0, 0, -(2**31)]
    else:
        low, high = list(zyx(cut.bounds[0])), [v - 1 for v in zyx(cut.bounds[1])]
    total = cut.total
    head = {
        "NumTotalBlocks": sum(total.tolist()),
        "NumActiveBlocks": sum(cut.active.tolist()),
        "NumSubvolumes": len(cut),
        "ROI": {"MinChunk": low, "MaxChunk": high},
        "Subvolumes": [],
    }
    text = _indented(head, 0)
    if not len(cut):
        yield text
        return
    yield text.removesuffix(b"]\n}")
    names = ("MinPoint", "MaxPoint", "MinChunk", "MaxChunk", "TotalBlocks", "ActiveBlocks")
    first, stop = cut.voxels()
    corners = [array[:, ::-1] for array in (first, stop - 1, cut.start, cut.stop - 1)]
    lead = b"\n        "
    for at in range(0, len(cut), _TOGETHER):
        columns = [array[at : at + _TOGETHER].tolist() for array in (*corners, total, cut.active)]
        rows = [_indented(dict(zip(names, row, strict=True)), 2) for row in zip(*columns, strict=True)]
        yield lead + b",\n        ".join(rows)
        lead = b",\n        "
    yield b"\n    ]\n}"
