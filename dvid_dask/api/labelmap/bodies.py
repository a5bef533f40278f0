"""Bodies and supervoxels: sizes, lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap.threads import batches

from ..face import Call
from ..geometry import (
    parse_label,
)
from ..responses import json, stream, text
from .request import (
    absent_is_404,
    face,
    json_body,
    label_arg,
    labels_of,
    of,
)

if TYPE_CHECKING:
    from starlette.responses import Response


MAX_LISTED = 10_000_000


@face.any("size", args="/<label>", quick=True)
@absent_is_404
def get_size(call: Call) -> Response:
    """Voxels of a body, or of a supervoxel with ``supervoxels=true``: ``{"voxels": n}``."""
    label, supervoxels = label_arg(call), call.flag("supervoxels")
    call.needs_thread(supervoxels)
    voxels = of(call).size(label, supervoxels=supervoxels)
    return text(f'{{"voxels": {voxels}}}', media_type="application/json")


@face.get("sizes", head=False)
def get_sizes(call: Call) -> Response:
    """Voxels of many labels: a JSON list in the body, a list in the answer, 0 for those that don't exist.

    Options ``supervoxels=true`` and ``hash``, the MD5 of the body.
    """
    labels = labels_of(json_body(call))
    return json(of(call).sizes(np.array(labels, np.uint64), supervoxels=call.flag("supervoxels")).tolist())


@face.any("supervoxels", args="/<body>", quick=True)
@absent_is_404
def get_supervoxels(call: Call) -> Response:
    """The supervoxels of a body, as a JSON list."""
    body = label_arg(call)
    call.needs_thread(of(call).header(body).paged)
    return json(of(call).supervoxels_of(body).id.tolist())


@face.any("supervoxel-sizes", args="/<body>", quick=True)
@absent_is_404
def get_supervoxel_sizes(call: Call) -> Response:
    """The supervoxels of a body and their voxels, as two JSON lists."""
    body = label_arg(call)
    call.needs_thread(of(call).header(body).paged)
    held = of(call).supervoxels_of(body)
    return json({"supervoxels": held.id.tolist(), "sizes": held.voxels.tolist()})


@face.any("lastmod", args="/<body>", quick=True)
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
