"""Faces of the datatypes whose operations are still to come: they answer what all types answer, and 501."""

from __future__ import annotations

from .face import Face

__all__ = ["FACES"]

_RAW = ("raw", "isotropic", "pseudocolor", "label", "labels", "blocks")
_SPARSE = ("sparsevol", "sparsevol-by-point", "sparsevol-coarse", "maxlabel", "nextlabel", "merge")
_SPLIT = ("split", "split-coarse")

FACES = (
    Face(
        "labelarray",
        about="Labels in compressed blocks with a label index.",
        common=("sync", "metadata", "resolution"),
        planned=(*_RAW, *_SPARSE, *_SPLIT, "specificblocks", "sparsevol-size", "sparsevols-coarse"),
    ),
    Face(
        "labelblk",
        about="Labels in plain blocks, without an index.",
        common=("sync", "metadata", "resolution"),
        methods=("GET", "POST", "DELETE"),
        planned=_RAW,
    ),
    Face(
        "labelvol",
        about="Sparse volumes by label, made from a labelblk.",
        common=("sync",),
        planned=(*_SPARSE, *_SPLIT, "area", "resync"),
    ),
)
