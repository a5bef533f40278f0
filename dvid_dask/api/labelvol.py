"""HTTP face of labelvol: sparse volumes by label, and the edits of a labelblk."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dvid_dask.datatypes.labelvol import Bounds, LabelVol
from dvid_dask.datatypes.runs import counted_runs
from dvid_dask.errors import BadRequest
from dvid_dask.formats import rles

from .common import undoable
from .face import Call, Face
from .geometry import parse_bounds, parse_point, parse_size, zyx
from .labelarray import split_label
from .labelmap.editing import blocks_body, runs_body
from .labelmap.editing import post_redo as post_redo_of
from .labelmap.editing import post_undo as post_undo_of
from .labelmap.request import MAX_LIST_BYTES, compression_of, label_arg, labels_of, who
from .labelmap.sparse import counted_response
from .responses import empty, json, not_found, octets, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from starlette.responses import Response

__all__ = ["face"]

MAX_RUNS = (3 << 30) // 16
"""Runs of one answer: DVID's limit of 3 GiB."""

face = Face(
    "labelvol",
    about="""Sparse volumes by label, and merges and splits of the labelblk that it is synced with.

    Coordinates in paths are x_y_z. For new data take a labelmap.
    """,
    common=("sync",),
)


def _of(call: Call) -> LabelVol:
    return cast(LabelVol, call.instance)


def _bounds(call: Call) -> Bounds:
    low, high = parse_bounds(call.query)
    return zyx(low), tuple(None if v is None else v + 1 for v in zyx(high))  # type: ignore[arg-type]


@face.get("sparsevol", args="/<label>", head=False)
def get_sparsevol(call: Call) -> Response:
    """The voxels of a label: runs behind a header that counts them, block by block in the order of z, y, x.

    ``minx`` ... ``maxz`` in voxels, both inclusive; ``exact=false`` takes blocks at the bounds whole. ``compression``
    ``lz4`` or ``gzip``. 404 if the label has no block within the bounds of z.
    """
    return _sparse(call, label_arg(call), _bounds(call), exact=call.query.get("exact") != "false")


def _sparse(call: Call, label: int, bounds: Bounds, *, exact: bool = True, options: bool = True) -> Response:
    compression = compression_of(call, "lz4", "gzip") if options else ""
    (low_z, *_), (high_z, *_) = bounds
    if not _of(call).has_blocks(label, ((low_z, None, None), (high_z, None, None))):
        return not_found()

    def parts() -> Iterator[NDArray[np.int32]]:
        total = 0
        for part in _of(call).runs(label, bounds, exact=exact):
            total += len(part)
            if total > MAX_RUNS:
                raise BadRequest(f"label {label} has more than {MAX_RUNS} runs: ask for parts of it, by bounds")
            yield part

    pieces = counted_runs(parts(), empty=True)
    return counted_response(pieces, compression)


@face.head("sparsevol", args="/<label>")
def head_sparsevol(call: Call) -> Response:
    """Whether a label has a block within the bounds: 200 or 204."""
    found = _of(call).has_blocks(label_arg(call), _bounds(call))
    return text("", status=200 if found else 204, media_type="text/html")


@face.any("sparsevol-by-point", args="/<x_y_z>")
def get_sparsevol_by_point(call: Call) -> Response:
    """``sparsevol`` of the label at a voxel of the labelblk that it is synced with; no options."""
    label = _of(call).label_at(zyx(parse_point(call.arg(0, "a voxel"))))
    if not label:
        raise BadRequest(f"there is no label at {call.args[0]}: it is background")
    return _sparse(call, label, ((None, None, None), (None, None, None)), options=False)


@face.any("sparsevol-coarse", args="/<label>")
def get_sparsevol_coarse(call: Call) -> Response:
    """The blocks of a label as runs in block coordinates; 404 if there is none."""
    runs = _of(call).coarse(label_arg(call))
    return octets(rles.encode_rles(runs)) if len(runs) else not_found()


@face.get("maxlabel", head=False)
def get_maxlabel(call: Call) -> Response:
    """The largest label that this very version got: ``{"maxlabel": n}``; 400 if there is none."""
    largest = _of(call).max_label()
    if not largest:
        raise BadRequest("no label came to this version yet, so it has no largest one of its own")
    return json({"maxlabel": largest})


@face.get("nextlabel", head=False)
def get_nextlabel(call: Call) -> Response:
    """The label that a split would make, not reserved: ``{"nextlabel": n}``."""
    return json({"nextlabel": _of(call).next_label()})


@face.delete("area", args="/<label>/<size>/<offset>")
def delete_area(call: Call) -> Response:
    """Forget the runs of a label in a box of whole blocks; the labelblk stays as it is."""
    label = label_arg(call)
    shape = zyx(parse_size(call.arg(1, "a size")))
    offset = zyx(parse_point(call.arg(2, "an offset"), what="offset"))
    _of(call).delete_area(label, offset, shape, **who(call))
    return empty()


@face.post("merge")
def post_merge(call: Call) -> Response:
    """Merge labels: JSON ``[target, label, ...]``, here and in the labelblk. Labels without voxels are passed over."""
    labels = labels_of(call.body.all(MAX_LIST_BYTES))
    if len(labels) < 2:
        raise BadRequest("a merge takes a list of at least two labels, the target first")
    _of(call).merge(labels[0], labels[1:], **who(call))
    return empty()


@face.post("split", args="/<label>")
def post_split(call: Call) -> Response:
    """Give voxels of a label another one, here and in the labelblk: the body's runs, behind the header of
    ``sparsevol``. All must be the label's. ``splitlabel`` chooses the new label, which may be in use. Answers
    ``{"label": n}``.
    """
    label, new = label_arg(call), split_label(call)
    return json({"label": _of(call).split(label, runs_body(call), to=new, **who(call)).label})


@face.post("split-coarse", args="/<label>")
def post_split_coarse(call: Call) -> Response:
    """``split`` of all voxels of a label in blocks: the body's runs are in block coordinates."""
    label, new = label_arg(call), split_label(call)
    return json({"label": _of(call).split_coarse(label, blocks_body(call), to=new, **who(call)).label})


@face.get("undo", head=False)
def get_undo(call: Call) -> Response:
    """The edits of this version that can be undone or redone, oldest first: a JSON list of objects with
    ``MutationID``, ``Action``, ``User``, ``App``, ``Time`` and ``Undone``.
    """
    return json(undoable(_of(call).undoable()))


@face.post("undo", args="/<mutation id>")
def post_undo(call: Call) -> Response:
    """Take an edit of this open version back, here and in the labelblk, if its voxels still have the labels that it
    gave them; else 409, which says what changed them. Answers the mutation id of the undo. 404 if nothing is kept.
    """
    return post_undo_of(call)


@face.post("redo", args="/<mutation id>")
def post_redo(call: Call) -> Response:
    """Do an edit again that ``undo`` took back; the id is that of the edit."""
    return post_redo_of(call)


@face.post("resync", args="/<label>")
def post_resync(call: Call) -> Response:
    """Make the runs of a label in blocks anew from the labelblk: the body's runs are in block coordinates."""
    label = label_arg(call)
    _of(call).resync(label, blocks_body(call), **who(call))
    return empty()
