"""Edits of bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.errors import BadRequest
from dvid_dask.formats import coarse, nanovdb, rles

from ..common import undoable
from ..face import Call
from ..geometry import parse_label
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

MAX_RUN_BYTES = 1 << 30  # of the runs of a split: 2**26 of them
MAX_RUNS = MAX_RUN_BYTES // 16
MAX_BLOCKS = 1 << 22  # of a coarse split


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


def runs_body(call: Call) -> Any:
    """Runs behind their header, or those of a NanoVDB file: ``format`` says what it is, or its first bytes."""
    form = call.query.get("format") or "auto"
    if form not in ("auto", "rles", "nanovdb"):
        raise BadRequest(f'format "{form[:40]}" is none of rles, nanovdb')
    data = call.body.all(MAX_RUN_BYTES)
    if form == "nanovdb" or (form == "auto" and nanovdb.is_nanovdb(data)):
        return nanovdb.runs_of_grids(data, max_leaves=MAX_RUNS // 8, max_bytes=MAX_RUN_BYTES, max_runs=MAX_RUNS)
    return rles.decode_rles(data)


def blocks_body(call: Call) -> Any:
    """Blocks (z, y, x) of runs in block coordinates, behind their header."""
    return coarse.decode_coarse(call.body.all(MAX_RUN_BYTES), max_blocks=MAX_BLOCKS)


@face.post("split-supervoxel", args="/<supervoxel>")
@needs_index
def post_split_supervoxel(call: Call) -> Response:
    """Cut a supervoxel in two: the body's runs, behind the header of ``sparsevol``, become one, the rest the other.

    Instead of runs the body can be a NanoVDB file or grid, whose active voxels count; ``format=rles`` or
    ``format=nanovdb`` says which, if its first bytes shall not. ``split`` and ``remain`` choose the parts' ids;
    ``downres=false`` leaves the coarser scales as they are. Answers both ids and the mutation id.
    """
    supervoxel = label_arg(call)
    made = of(call).split_supervoxel(
        supervoxel,
        runs_body(call),
        split=parse_label(call.query.get("split") or "0", "split"),
        remain=parse_label(call.query.get("remain") or "0", "remain"),
        downres=call.query.get("downres") != "false",
        **who(call),
    )
    return json({"SplitSupervoxel": made.split, "RemainSupervoxel": made.remain, "MutationID": made.mutation})


@face.post("split", args="/<body>")
@needs_index
def post_split(call: Call) -> Response:
    """Make the voxels of the body's runs, behind the header of ``sparsevol``, a new body; every supervoxel under them
    is cut. Answers its id and the mutation id. Only where the configuration has ``allowLabelmapSplit = true``.
    """
    body = label_arg(call)
    if not call.server.config.allow_labelmap_split:
        raise BadRequest("splits of bodies are off: the configuration has no allowLabelmapSplit = true")
    made = of(call).split(body, runs_body(call), **who(call))
    return json({"label": made.body, "MutationID": made.mutation})


@face.get("undo", head=False)
def get_undo(call: Call) -> Response:
    """The mutations of this version that can be undone or redone, oldest first: a JSON list of objects with
    ``MutationID``, ``Action``, ``User``, ``App``, ``Time`` and ``Undone``.
    """
    return json(undoable(of(call).undoable()))


@face.post("undo", args="/<mutation id>")
def post_undo(call: Call) -> Response:
    """Take a mutation of this open version back, if nothing later depends on it; else 409, which says what does.

    Answers the mutation id of the undo. 404 if nothing is kept of such a mutation.
    """
    mutation = parse_label(call.arg(0, "a mutation id"), "mutation id")
    return json({"MutationID": of(call).undo(mutation, **who(call))})


@face.post("redo", args="/<mutation id>")
def post_redo(call: Call) -> Response:
    """Do a mutation again that ``undo`` took back; the id is that of the mutation."""
    mutation = parse_label(call.arg(0, "a mutation id"), "mutation id")
    return json({"MutationID": of(call).redo(mutation, **who(call))})
