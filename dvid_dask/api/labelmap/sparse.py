"""Sparse volumes."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats import rles
from dvid_dask.formats.compression import lz4_compress

from ..face import Call
from ..geometry import (
    parse_point,
    zyx,
)
from ..responses import not_found, octets, stream, text
from .request import (
    absent_is_404,
    bounds_of,
    compression_of,
    face,
    gzip_pieces,
    label_arg,
    needs_index,
    of,
    scale_of,
)

if TYPE_CHECKING:
    from starlette.responses import Response


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
    return sparse_response(call, label_arg(call), scale_of(call))


def sparse_response(call: Call, label: int, scale: int, *, some: bool = False) -> Response:
    """The sparse volume of a label; with `some` 404 where ``rles`` has no run left within the bounds."""
    form = call.query.get("format", "rles")
    if form not in ("srles", "blocks"):
        form = "rles"
    compression = compression_of(call, "lz4", "gzip") if form == "rles" else ""
    volume = of(call).sparse(
        label,
        supervoxels=call.flag("supervoxels"),
        scale=scale,
        bounds=bounds_of(call),
        exact=call.query.get("exact") != "false",
    )
    if not volume.has_blocks():
        return not_found()
    if form == "srles":
        return stream(volume.streaming())
    if form == "blocks":
        return stream(volume.binary())
    pieces = volume.legacy()
    if some:
        first = next(pieces, None)
        if first is None:
            return not_found()
        pieces = itertools.chain([first], pieces)
    return counted_response(pieces, compression)


def counted_response(pieces: Iterator[bytes], compression: str) -> Response:
    """Runs behind their header."""
    if compression == "gzip":
        return stream(gzip_pieces(map(memoryview, pieces)))
    if compression == "lz4":
        return octets(lz4_compress(b"".join(pieces)))
    return stream(pieces)


@face.head("sparsevol", args="/<label>")
@needs_index
def head_sparsevol(call: Call) -> Response:
    """Whether a body has a block within the bounds: 200 or 204."""
    label = label_arg(call)
    scale_of(call)  # as for GET, a bad one is refused
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
    return sparse_response(call, label, scale_of(call))


@face.any("sparsevol-coarse", args="/<label>", quick=True)
@needs_index
@absent_is_404
def get_sparsevol_coarse(call: Call) -> Response:
    """The blocks of a body or supervoxel as runs in block coordinates; bounds in voxels."""
    call.needs_thread(call.flag("supervoxels"))
    volume = of(call).sparse(label_arg(call), supervoxels=call.flag("supervoxels"), bounds=bounds_of(call))
    call.needs_thread(volume.paged)
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
    low, high = list(box.start[::-1]), [v - 1 for v in box.stop[::-1]]
    body = f'{{"voxels": {voxels}, "numblocks": {blocks}, "minvoxel": {low}, "maxvoxel": {high}}}'
    return text(body, media_type="application/json")
