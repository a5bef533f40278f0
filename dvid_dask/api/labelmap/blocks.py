"""Streams of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.errors import BadRequest
from dvid_dask.formats import block_stream

from ..face import Call
from ..geometry import (
    check_box as check_corner,
)
from ..geometry import (
    parse_int,
    parse_point,
    parse_size,
    zyx,
)
from ..responses import empty, octets, stream
from .request import (
    compression_of,
    face,
    of,
    scale_of,
    who,
)

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.formats.block_stream import PayloadCompression

RECORDS = 128  # blocks encoded at a time


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
    numbers = [parse_int(part, "blocks") for part in listed.split(",")]
    if len(numbers) % 3:
        bad_blocks()
    coords = np.array(numbers, np.int32).reshape(-1, 3)[:, ::-1]
    found = of(call).specific_blocks(coords, scale, supervoxels=call.flag("supervoxels"))
    return stream(records(found, cast("PayloadCompression", compression)))


def bad_blocks() -> int:
    raise BadRequest("blocks must be a list x,y,z,x,y,z,... of integers")


@face.post("blocks")
def post_blocks(call: Call) -> Response:
    """Store supervoxel blocks: a stream of int32 bx, by, bz, nbytes and the gzip of a compressed label block.

    All or none are stored, with the label index (unless ``noindexing=true`` or ``scale`` isn't 0) and, with
    ``downres=true``, the coarser scales. ``throttle=true``.
    """
    return store_blocks(call, index=not call.flag("noindexing"))


def store_blocks(call: Call, *, index: bool) -> Response:
    """Store the blocks of the body."""
    compression_of(call, "blocks")
    scale = scale_of(call)
    call.throttled()
    of(call).write_blocks(
        block_stream.iter_records(call.body),
        scale=scale,
        index=index,
        downres=call.flag("downres"),
        **who(call),
    )
    return empty()


@face.post("ingest-supervoxels")
def post_ingest_supervoxels(call: Call) -> Response:
    """Store supervoxel blocks of a ``scale`` and nothing else: no index, extents, coarser scales. For bulk loaders."""
    of(call).ingest_supervoxels(block_stream.iter_records(call.body), scale=scale_of(call), force=call.force)
    return empty()
