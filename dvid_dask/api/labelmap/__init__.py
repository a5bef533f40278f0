"""HTTP face of labelmap: parse, call :class:`~dvid_dask.datatypes.labelmap.LabelMap`, encode.

`request` makes the face and holds what the handlers share; the other modules add their keywords to it.
"""

from . import blocks, bodies, editing, history, index, settings, sparse, voxels  # each adds its keywords to the face
from .request import face

__all__ = ["blocks", "bodies", "editing", "face", "history", "index", "settings", "sparse", "voxels"]
