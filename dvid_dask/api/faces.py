"""Which face serves which datatype: every module of this package that makes a :class:`~dvid_dask.api.face.Face`."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from dvid_dask.errors import BadRequest, did_you_mean

from .common import complete
from .face import Face

__all__ = ["all_faces", "face_of"]


@functools.cache
def all_faces() -> dict[str, Face]:
    """Faces by type name, complete with their common keywords.

    Raises
    ------
    ValueError
        Two faces claim one type.
    """
    package = importlib.import_module(__package__)
    faces: dict[str, Face] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{__package__}."):
        if module.name.endswith((".common", ".faces")):
            continue
        for face in vars(importlib.import_module(module.name)).values():
            for candidate in face if isinstance(face, tuple) else (face,):
                if isinstance(candidate, Face):
                    for typename in candidate.typenames:
                        if faces.setdefault(typename, candidate) is not candidate:
                            raise ValueError(f"two faces for {typename}: {faces[typename]!r} and {candidate!r}")
    for face in set(faces.values()):
        complete(face)
    return faces


def face_of(typename: str) -> Face:
    """The face of a datatype.

    Raises
    ------
    BadRequest
        Nothing serves it.
    """
    faces = all_faces()
    if typename not in faces:
        raise BadRequest(f"no datatype {typename!r} is served{did_you_mean(typename, faces)}")
    return faces[typename]
