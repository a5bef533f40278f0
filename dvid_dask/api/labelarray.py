"""HTTP face of labelarray: labels without supervoxels, merged and split by rewriting voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dvid_dask.datatypes.labelmap import LabelArray
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats import rles

from .common import get_metadata, post_resolution, undoable
from .face import Call, Face
from .geometry import parse_label, parse_point, zyx
from .labelmap import blocks, editing, sparse, voxels
from .labelmap.request import MAX_LIST_BYTES, absent_is_404, bounds_of, label_arg, labels_of, needs_index, scale_of, who
from .responses import empty, json, not_found, octets, text

if TYPE_CHECKING:
    from starlette.responses import Response

__all__ = ["face"]

face = Face(
    "labelarray",
    about="""Labels in compressed blocks with a label index. Merges and splits rewrite voxels.

    Coordinates in paths are x_y_z. For new data take a labelmap.
    """,
    common=("sync",),
)


# of any method, as in DVID
face.any("metadata")(get_metadata)
face.any("resolution")(post_resolution)


def _of(call: Call) -> LabelArray:
    return cast(LabelArray, call.instance)


# ---------------------------------------------------------------------- voxels


@face.get("raw", "isotropic", args="/<dims>/<size>/<offset>[/<format>]")
def get_raw(call: Call) -> Response:
    """Labels of a box or slice.

    ``dims`` is ``xy``, ``xz``, ``yz`` (a 16-bit RGBA PNG that carries the uint64; format ``png``, ``jpg``, ``tif``,
    ``bmp``) or ``0_1_2`` (uint64, x fastest; compression ``lz4``, ``gzip``, ``google``, ``googlegzip``). ``scale``;
    ``roi`` names an ROI outside of which all is 0; ``throttle=true``. ``isotropic`` resizes slices to equal resolution
    in both axes.
    """
    return voxels.get_raw(call)


@face.any("raw", args="/0_1_2/<size>/<offset>")
def post_raw(call: Call) -> Response:
    """Store labels of a box of whole blocks: uint64, x fastest; ``compression`` ``lz4`` or ``gzip``.

    Coarser scales and the label index are in line when the answer comes; what the blocks held before is replaced in
    both (``mutate=true`` or not). ``roi`` names an ROI: blocks outside of it are not written. ``throttle=true``.
    """
    return voxels.post_raw(call)


@face.get("pseudocolor", args="/<dims>/<size>/<offset>[/<format>]")
def get_pseudocolor(call: Call) -> Response:
    """A slice of labels in colours, one per label: 8-bit RGB. Options ``scale`` and ``roi``."""
    return voxels.get_pseudocolor(call)


@face.any("label", args="/<x_y_z>")
def get_label(call: Call) -> Response:
    """The label at a voxel, as JSON ``{"Label": n}``. Option ``scale``."""
    return voxels.get_label(call)


@face.get("labels", head=False)
def get_labels(call: Call) -> Response:
    """The labels at many voxels: JSON ``[[x,y,z],...]`` in the body, ``[n,...]`` in the answer.

    Options ``scale`` and ``hash``, the MD5 of the body.
    """
    return voxels.get_labels(call)


@face.get("blocks", args="/<size>/<offset>", head=False)
def get_blocks(call: Call) -> Response:
    """The blocks stored in a box: a stream of int32 bx, by, bz, nbytes and so many bytes, in any order.

    Size and offset in voxels, multiples of the block size. ``compression``: ``lz4`` (the default) of the dense uint64,
    ``gzip`` of it, ``uncompressed``, or ``blocks``: gzip of DVID's compressed label block. Options ``scale``,
    ``throttle=true``.
    """
    return blocks.get_blocks(call)


@face.any("blocks")
def post_blocks(call: Call) -> Response:
    """Store label blocks: a stream of int32 bx, by, bz, nbytes and the gzip of a compressed label block.

    All or none are stored, with the label index unless ``scale`` isn't 0 and, with ``downres=true``, the coarser
    scales. ``throttle=true``. Refused where the instance was made with another ``Compression`` than gzip.
    """
    if not call.instance.info.compression.startswith("gzip"):
        raise BadRequest(f"blocks are stored in instances with gzip compression, not {call.instance.info.compression}")
    return blocks.store_blocks(call, index=True)


@face.get("specificblocks", head=False)
def get_specific_blocks(call: Call) -> Response:
    """The blocks of a list, ``blocks=x,y,z,x,y,z,...`` in block coordinates: gzip of compressed label blocks.

    Option ``scale``. Blocks that aren't stored are left out.
    """
    return blocks.get_specific_blocks(call)


# ---------------------------------------------------------------------- sparse volumes


@face.get("sparsevol", args="/<label>", head=False)
@needs_index
@absent_is_404
def get_sparsevol(call: Call) -> Response:
    """The voxels of a label.

    ``format``: ``rles`` (runs behind a header that counts them, the default; ``compression`` ``lz4`` or ``gzip``),
    ``srles`` (runs alone, streamed) or ``blocks`` (bits). ``scale``; ``minx`` ... ``maxz`` in voxels of the scale, both
    inclusive; ``exact=false`` takes blocks at the bounds whole. 404 if there is no label, or no block within the
    bounds.
    """
    return sparse.sparse_response(call, label_arg(call), scale_of(call), some=True)


@face.head("sparsevol", args="/<label>")
@needs_index
def head_sparsevol(call: Call) -> Response:
    """Whether a label has a block within the bounds: 200 or 204."""
    return sparse.head_sparsevol(call)


@face.any("sparsevol-by-point", args="/<x_y_z>")
@needs_index
@absent_is_404
def get_sparsevol_by_point(call: Call) -> Response:
    """``sparsevol`` of the label at a voxel, with the same options but for ``scale``."""
    label = int(_of(call).labels_at([zyx(parse_point(call.arg(0, "a voxel")))])[0])
    if not label:
        raise BadRequest(f"there is no label at {call.args[0]}: it is background")
    return sparse.sparse_response(call, label, 0, some=True)


@face.any("sparsevol-coarse", args="/<label>")
@needs_index
@absent_is_404
def get_sparsevol_coarse(call: Call) -> Response:
    """The blocks of a label as runs in block coordinates; bounds in voxels. 404 if there is none within."""
    runs = _of(call).sparse(label_arg(call), bounds=bounds_of(call)).coarse()
    return octets(rles.encode_rles(runs)) if len(runs) else not_found()


@face.any("sparsevols-coarse", args="/<first>/<last>")
def get_sparsevols_coarse(call: Call) -> Response:
    """``sparsevol-coarse`` of all labels from one to another, streamed: uint64 label, int32 n, n runs."""
    return sparse.get_sparsevols_coarse(call)


@face.get("sparsevol-size", args="/<label>", head=False)
def get_sparsevol_size(call: Call) -> Response:
    """Blocks and block-aligned box of a label; of one that isn't there 0 blocks."""
    label = label_arg(call)
    try:
        _, count, box = _of(call).sparse_size(label)
        low, high = list(box.start[::-1]), [v - 1 for v in box.stop[::-1]]
    except NotFound:
        count, low, high = 0, [0, 0, 0], [n - 1 for n in _of(call).block_shape[::-1]]
    return text(
        f'{{"numblocks": {count}, "minvoxel": {low}, "maxvoxel": {high}}}', media_type="application/octet-stream"
    )


# ---------------------------------------------------------------------- ids


@face.get("maxlabel", head=False)
@needs_index
def get_maxlabel(call: Call) -> Response:
    """The largest label written at this very version: ``{"maxlabel": n}``; 400 if there is none."""
    largest = _of(call).max_label()
    if not largest:
        raise BadRequest("nothing was written at this version yet, so it has no largest label of its own")
    return json({"maxlabel": largest})


@face.get("nextlabel", head=False)
@needs_index
def get_nextlabel(call: Call) -> Response:
    """The label that a split would make, not reserved: ``{"nextlabel": n}``."""
    return json({"nextlabel": _of(call).next_labels.next})


# ---------------------------------------------------------------------- edits


@face.post("merge")
@needs_index
def post_merge(call: Call) -> Response:
    """Merge labels: JSON ``[target, label, ...]``. Labels without voxels are passed over. All is done at the answer."""
    labels = labels_of(call.body.all(MAX_LIST_BYTES))
    if len(labels) < 2:
        raise BadRequest("a merge takes a list of at least two labels, the target first")
    _of(call).merge(labels[0], labels[1:], **who(call))
    return empty()


def split_label(call: Call) -> int:
    """The option ``splitlabel``: 0 for a new label."""
    return parse_label(call.query.get("splitlabel") or "0", "splitlabel")


@face.post("split", args="/<label>")
@needs_index
def post_split(call: Call) -> Response:
    """Give the voxels of a label under the body's runs, behind the header of ``sparsevol``, another: ``{"label": n}``.

    Voxels of other labels stay as they are. ``splitlabel`` chooses the new label, which may be in use.
    """
    label, new = label_arg(call), split_label(call)
    return json({"label": _of(call).split(label, editing.runs_body(call), to=new, **who(call)).label})


@face.post("split-coarse", args="/<label>")
@needs_index
def post_split_coarse(call: Call) -> Response:
    """``split`` of all voxels of a label in blocks: the body's runs are in block coordinates."""
    label, new = label_arg(call), split_label(call)
    return json({"label": _of(call).split_coarse(label, editing.blocks_body(call), to=new, **who(call)).label})


@face.get("undo", head=False)
def get_undo(call: Call) -> Response:
    """The mutations of this version that can be undone or redone, oldest first: a JSON list of objects with
    ``MutationID``, ``Action``, ``User``, ``App``, ``Time`` and ``Undone``.
    """
    return json(undoable(_of(call).undoable()))


@face.post("undo", args="/<mutation id>")
def post_undo(call: Call) -> Response:
    """Take a mutation of this open version back, if nothing later depends on it; else 409, which says what does.

    Answers the mutation id of the undo. 404 if nothing is kept of such a mutation.
    """
    return editing.post_undo(call)


@face.post("redo", args="/<mutation id>")
def post_redo(call: Call) -> Response:
    """Do a mutation again that ``undo`` took back; the id is that of the mutation."""
    return editing.post_redo(call)
