"""Edits of bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.errors import BadRequest

from ..face import Call
from ..responses import empty, json
from .request import (
    MAX_LIST_BYTES,
    face,
    label_arg,
    labels_of,
    needs_index,
    of,
    who,
)

if TYPE_CHECKING:
    from starlette.responses import Response


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
