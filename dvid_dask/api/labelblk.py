"""HTTP face of labelblk: labels in blocks, without an index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common import get_metadata, post_resolution, undoable
from .face import Call, Face
from .labelmap import blocks, editing, voxels
from .labelmap.request import compression_of
from .responses import json

if TYPE_CHECKING:
    from starlette.responses import Response

__all__ = ["face"]

face = Face(
    "labelblk",
    about="""Labels in blocks, without an index. Sparse volumes, merges and splits are those of a labelvol.

    Coordinates in paths are x_y_z. For new data take a labelmap.
    """,
    common=("sync",),
    methods=("GET", "POST", "DELETE"),
)


# of any method, as in DVID
face.any("metadata")(get_metadata)
face.any("resolution")(post_resolution)


@face.get("raw", "isotropic", args="/<dims>/<size>/<offset>[/<format>]")
def get_raw(call: Call) -> Response:
    """Labels of a box or slice.

    ``dims`` is ``xy``, ``xz``, ``yz`` (a 16-bit RGBA PNG that carries the uint64; format ``png``, ``jpg``, ``tif``,
    ``bmp``) or ``0_1_2`` (uint64, x fastest; compression ``lz4``, ``gzip``, ``google``, ``googlegzip``). ``roi`` names
    an ROI outside of which all is 0; ``throttle=true``. ``isotropic`` resizes slices to equal resolution in both axes.
    """
    return voxels.get_raw(call)


@face.post("raw", args="/0_1_2/<size>/<offset>")
@face.delete("raw", args="/0_1_2/<size>/<offset>")
def store_raw(call: Call) -> Response:
    """Store labels of a box of whole blocks: uint64, x fastest; ``compression`` ``lz4`` or ``gzip``.

    What follows, a labelvol or a labelblk of half the resolution, is in line when the answer comes (``mutate=true`` or
    not). ``roi`` names an ROI: blocks outside of it are not written. ``throttle=true``.
    """
    return voxels.post_raw(call)


@face.get("pseudocolor", args="/<dims>/<size>/<offset>[/<format>]")
def get_pseudocolor(call: Call) -> Response:
    """A slice of labels in colours, one per label: 8-bit RGB. Option ``roi``."""
    return voxels.get_pseudocolor(call)


@face.any("label", args="/<x_y_z>")
def get_label(call: Call) -> Response:
    """The label at a voxel, as JSON ``{"Label": n}``."""
    return voxels.get_label(call)


@face.get("labels", head=False)
def get_labels(call: Call) -> Response:
    """The labels at many voxels: JSON ``[[x,y,z],...]`` in the body, ``[n,...]`` in the answer; option ``hash``."""
    return voxels.get_labels(call)


@face.get("undo")
def get_undo(call: Call) -> Response:
    """The writes of this version that can be undone or redone, oldest first: a JSON list of objects with
    ``MutationID``, ``Action``, ``User``, ``App``, ``Time`` and ``Undone``.
    """
    return json(undoable(call.instance.undoable()))


@face.post("undo", args="/<mutation id>")
def post_undo(call: Call) -> Response:
    """Take a write of this open version back, if its blocks weren't changed since; else 409, which says what did.

    Answers the mutation id of the undo. 404 if nothing is kept of such a mutation.
    """
    return editing.post_undo(call)


@face.post("redo", args="/<mutation id>")
def post_redo(call: Call) -> Response:
    """Do a write again that ``undo`` took back; the id is that of the write."""
    return editing.post_redo(call)


@face.get("blocks", args="/<size>/<offset>", head=False)
def get_blocks(call: Call) -> Response:
    """The blocks stored in a box: a stream of int32 bx, by, bz, nbytes and so many bytes, in any order.

    Size and offset in voxels, multiples of the block size. ``compression``: ``lz4`` (the default) of the dense uint64,
    or ``uncompressed``. ``throttle=true``.
    """
    compression_of(call, "lz4", "uncompressed")
    return blocks.get_blocks(call)
