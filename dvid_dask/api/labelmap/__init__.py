"""HTTP face of labelmap: parse, call :class:`~dvid_dask.datatypes.labelmap.LabelMap`, encode.

`request` makes the face and holds what the handlers share; the other modules add their keywords to it.
"""

from . import (  # each adds its keywords to the face
    blocks,
    bodies,
    editing,
    grids,
    history,
    index,
    nearness,
    settings,
    sparse,
    voxels,
)
from .request import face

__all__ = [
    "blocks",
    "bodies",
    "editing",
    "face",
    "grids",
    "history",
    "index",
    "nearness",
    "settings",
    "sparse",
    "voxels",
]
