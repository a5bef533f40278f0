"""Mesh files.

==========  =====================================================================================
extension   format
==========  =====================================================================================
``obj``     Wavefront OBJ, text: vertices and triangles
``ply``     PLY, binary little-endian
``drc``     Draco, positions rounded to a fraction of a voxel
``ngmesh``  neuroglancer's single-resolution mesh: what it asks of a DVID server, and a fragment
            of a precomputed ``neuroglancer_legacy_mesh``
==========  =====================================================================================

Sources: OBJ and PLY by trimesh, Draco by DracoPy; ``ngmesh``: the legacy format in
``src/datasource/precomputed/meshes.md`` of google/neuroglancer.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes._libraries import library
from dvid_dask.formats.meshes.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXTENSIONS", "decode", "decode_ngmesh", "encode", "encode_ngmesh"]

_STEPS = 16  # of a voxel, to which Draco's positions are rounded
_BITS = (8, 30)
_LEVEL = 7  # of Draco's 0 to 10


def encode(mesh: Mesh, extension: str, step: float) -> bytes:
    """A mesh as a file.

    Parameters
    ----------
    mesh
        What to write.
    extension
        ``obj``, ``ply``, ``drc`` or ``ngmesh``.
    step
        Nanometres of a voxel's shortest side: Draco rounds positions to a sixteenth of it, or less.

    Raises
    ------
    ValueError
        The extension is another one.
    ImportError
        The format's library isn't there.

    Examples
    --------
    >>> mesh = Mesh(np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0]], np.float32), np.array([[0, 1, 2]], np.uint32))
    >>> encode(mesh, "ngmesh", 8).hex()[:16], len(encode(mesh, "ngmesh", 8))
    ('0300000000000000', 52)
    """
    if extension not in _ENCODERS:
        raise ValueError(f"no format of meshes has the extension {extension!r}: there are {', '.join(EXTENSIONS)}")
    return _ENCODERS[extension](mesh, step)


def decode(data: bytes, extension: str) -> Mesh:
    """The inverse of `encode`.

    Raises
    ------
    FormatError
        The bytes are no such file.
    ValueError
        The extension is unknown.
    """
    if extension == "ngmesh":
        return decode_ngmesh(data)
    if extension == "drc":
        draco = library("DracoPy")
        try:
            held = draco.decode(data)
        except Exception as error:  # its own errors have no common base
            raise FormatError(f"this is no Draco mesh: {error}") from None
        if held.points is None or not hasattr(held, "faces"):
            raise FormatError("this Draco file has no vertices, or no triangles")
        return _mesh(held.points, held.faces)
    if extension not in EXTENSIONS:
        raise ValueError(f"no format of meshes has the extension {extension!r}: there are {', '.join(EXTENSIONS)}")
    import io

    try:
        held = library("trimesh").load(io.BytesIO(data), file_type=extension, process=False)
        return _mesh(held.vertices, held.faces)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise FormatError(f"this is no {extension} file: {error}") from None


def _mesh(vertices: object, faces: object) -> Mesh:
    return Mesh(np.asarray(vertices, np.float32).reshape(-1, 3), np.asarray(faces, np.uint32).reshape(-1, 3))


def _trimesh(mesh: Mesh) -> object:
    return library("trimesh").Trimesh(mesh.vertices, mesh.faces, process=False, validate=False)


def _encode_obj(mesh: Mesh, step: float) -> bytes:
    digits = max(0, math.ceil(math.log10(_STEPS / step)))
    text: str = library("trimesh").exchange.obj.export_obj(
        _trimesh(mesh), include_normals=False, include_color=False, include_texture=False, digits=digits, header=None
    )
    return text.encode()


def _encode_ply(mesh: Mesh, step: float) -> bytes:
    data: bytes = library("trimesh").exchange.ply.export_ply(_trimesh(mesh), vertex_normal=False)
    return data


def _encode_draco(mesh: Mesh, step: float) -> bytes:
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    extent = max(float((high - low).max()), step)
    bits = min(max(math.ceil(math.log2(extent * _STEPS / step + 1)), _BITS[0]), _BITS[1])
    data: bytes = library("DracoPy").encode(
        mesh.vertices,
        mesh.faces,
        quantization_bits=bits,
        quantization_range=extent,
        quantization_origin=low.tolist(),
        compression_level=_LEVEL,
    )
    return data


def encode_ngmesh(mesh: Mesh) -> bytes:
    """Neuroglancer's single-resolution mesh: the number of vertices, x, y, z of each, and the triangles."""
    return b"".join(
        (
            struct.pack("<I", len(mesh.vertices)),
            mesh.vertices.astype("<f4").tobytes(),
            mesh.faces.astype("<u4").tobytes(),
        )
    )


def decode_ngmesh(data: bytes) -> Mesh:
    """The inverse of `encode_ngmesh`.

    Raises
    ------
    FormatError
        The bytes are no such mesh, or name vertices that aren't there.
    """
    count = int.from_bytes(data[:4], "little")
    begin = 4 + 12 * count
    if len(data) < 4 or begin > len(data) or (len(data) - begin) % 12:
        raise FormatError(f"{len(data)} bytes are no ngmesh of {count} vertices")
    vertices = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    faces = np.frombuffer(data, "<u4", offset=begin).reshape(-1, 3)
    if len(faces) and int(faces.max()) >= count:
        raise FormatError(f"an ngmesh of {count} vertices has a triangle at vertex {int(faces.max())}")
    return Mesh(vertices.astype(np.float32), faces.astype(np.uint32))


_ENCODERS: dict[str, Callable[[Mesh, float], bytes]] = {
    "obj": _encode_obj,
    "ply": _encode_ply,
    "drc": _encode_draco,
    "ngmesh": lambda mesh, _: encode_ngmesh(mesh),
}

EXTENSIONS = tuple(_ENCODERS)
"""Of the files that can be written."""
