"""A mesh in the world, and fewer triangles for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats.meshes._libraries import library
from dvid_dask.formats.meshes.surfaces import Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Mesh", "placed", "simplified"]

_FEWEST = 64  # triangles below which a surface isn't simplified
_EXACT = 1e-6

# pyfqmr works on global variables and releases the GIL: two threads spoil each other's meshes
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes
    ----------
    vertices
        float32 (n, 3): x, y, z, in nanometres.
    faces
        uint32 (m, 3): vertices of each triangle, counter-clockwise seen from outside.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.uint32]

    @property
    def volume(self) -> float:
        """What a closed mesh encloses, in cubic nanometres; negative if it is inside out.

        Source: the sum of signed tetrahedra, by the divergence theorem.
        """
        corners = self.vertices.astype(np.float64)[self.faces]
        return float(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)

    @property
    def area(self) -> float:
        """Of its surface, in square nanometres."""
        corners = self.vertices.astype(np.float64)[self.faces]
        sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return float(np.linalg.norm(sides, axis=1).sum() / 2)


def placed(piece: Piece, voxel_zyx: Sequence[float]) -> Mesh:
    """A surface in the world, where voxel (0, 0, 0) begins at the origin.

    Parameters
    ----------
    piece
        The surface.
    voxel_zyx
        Size of a voxel in nanometres.

    Examples
    --------
    >>> mesh = placed(Piece(np.array([[-0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]), np.array([[0, 1, 2]]), 1), (40, 8, 8))
    >>> mesh.vertices.tolist()
    [[4.0, 4.0, 0.0], [4.0, 8.0, 20.0], [8.0, 4.0, 20.0]]
    """
    vertices = (piece.vertices + 0.5) * np.asarray(voxel_zyx, np.float64)
    return Mesh(vertices[:, ::-1].astype(np.float32), piece.faces.astype(np.uint32))


def simplified(piece: Piece, keep: float, voxel_zyx: Sequence[float] = (1, 1, 1)) -> Piece:
    """A surface with fewer triangles, where it isn't cut: what is left joins as before.

    Edges are collapsed that change the surface least (quadric error metrics, by pyfqmr).

    Parameters
    ----------
    piece
        The surface.
    keep
        Fraction of the triangles that it had when it was made. Surfaces of a few triangles stay as they are.
    voxel_zyx
        Size of a voxel, in any unit.

    Raises
    ------
    ImportError
        If pyfqmr isn't there.
    """
    if keep >= 1:
        return piece
    border = piece.border()
    target = max(_FEWEST, int(np.ceil(piece.made * keep))) + 2 * len(border)
    if target >= len(piece.faces):
        return piece
    size = np.asarray(voxel_zyx, np.float64) / min(voxel_zyx)
    origin = np.floor(piece.vertices.min(axis=0))
    make = library("pyfqmr").Simplify
    with _one_at_a_time:
        simplifier = make()
        simplifier.setMesh((piece.vertices - origin) * size, piece.faces)
        simplifier.simplify_mesh(target_count=target, preserve_border=True, verbose=False)
        vertices, faces, _ = simplifier.getMesh()
    vertices = vertices / size
    # what was a half-integer and has not moved is one again, so that borders stay equal
    exact = np.rint(2 * vertices) / 2
    still = (np.abs(vertices - exact) < _EXACT).all(axis=1)
    vertices[still] = exact[still]
    return Piece(vertices + origin, np.asarray(faces, np.int32), piece.made)
