"""Surfaces of labels: marching cubes over all labels of a brick in one pass, and pieces of a surface joined.

What a cell of eight voxels adds to the surface of a label depends on which of them have the label, and on nothing
else: 256 cases. The triangles of each case are those that scikit-image's marching cubes makes of it, so the surface of
a label is the one that scikit-image makes of its mask; a test compares them. Two choices are fixed by that:

- Vertices lie half-way between voxel centres, which is where the faces of voxels are. Positions are counted in half
  voxels, so they are integers, and equal vertices of two bricks are equal.
- Where voxels of a label touch along an edge only, they are joined (a level just below one half says so). Cells that
  share a face agree on it, so surfaces have no holes.

Source: T. Lewiner et al., Efficient implementation of marching cubes' cases with topological guarantees, 2003, as
``skimage.measure.marching_cubes``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats.distinct import distinct, numbered_rows
from dvid_dask.formats.meshes._libraries import library
from dvid_dask.formats.meshes._surface_kernels import EDGES, group, march

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEVEL", "Piece", "joined", "surfaces"]

LEVEL = 0.49
"""Of the surface of a mask: just below one half, so that voxels that touch along an edge are joined."""

_SUB = 8
_ROOM = 1 << 16  # vertices to begin with, at least


@dataclass(frozen=True)
class Piece:
    """A surface, or the part of one within a box, before it has a size in the world.

    Attributes
    ----------
    vertices
        float64 (n, 3) z, y, x in voxels, from the centre of voxel (0, 0, 0); exact where they are half-integers. They
        are exact where the piece is cut.
    faces
        int32 (m, 3): vertices of each triangle, counter-clockwise seen from outside when drawn as x, y, z.
    made
        Triangles that the surface had before it was simplified.
    seam
        int (k,): vertices among which are all that other pieces may share, where that is known.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    made: int
    seam: NDArray[np.int64] | None = None

    def border(self) -> NDArray[np.int64]:
        """The vertices where it is cut: those of edges that have a triangle on one side only, or its seam."""
        if self.seam is not None:
            return self.seam
        if not len(self.faces):
            return np.empty(0, np.int64)
        n = np.int64(len(self.vertices))
        begin = self.faces.reshape(-1).astype(np.int64)
        end = self.faces[:, [1, 2, 0]].reshape(-1).astype(np.int64)
        there, back = np.sort(begin * n + end), np.sort(end * n + begin)
        at = np.minimum(np.searchsorted(back, there), len(back) - 1)
        alone = there[back[at] != there]
        return distinct(np.concatenate([alone // n, alone % n]))


@functools.cache
def _table() -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Of each case, the number of triangles and the edges that their vertices lie on."""
    marching_cubes = library("skimage.measure").marching_cubes
    numbers = {tuple(2 * EDGES[n, :3] + np.eye(3, dtype=int)[EDGES[n, 3]]): n for n in range(12)}
    counts, triangles = np.zeros(256, np.int64), np.zeros((256, 15), np.int8)
    for case in range(1, 255):
        mask = np.array([case >> n & 1 for n in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(mask, LEVEL, allow_degenerate=False)
        places = np.rint(2 * vertices).astype(int)  # 0, 1 or 2: the level is close to one half
        edges = [numbers[tuple(place)] for place in places.tolist()]
        counts[case] = len(faces)
        triangles[case, : 3 * len(faces)] = [edges[vertex] for vertex in faces.reshape(-1).tolist()]
    return counts, triangles


def surfaces(
    numbers_zyx: NDArray[np.uint64], count: int, uniform: NDArray[np.bool_] | None = None
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.int32]]]:
    """The surfaces of all labels of a brick.

    Parameters
    ----------
    numbers_zyx
        uint64 (z, y, x): labels as numbers from 1 to `count`; 0 has no surface. Surfaces are open where they meet the
        border of the array: put a layer of zeros, or of the neighbours' voxels, around what is to be closed.
    count
        The largest number.
    uniform
        bool, one for each 8 x 8 x 8 voxels from the first one on, of all of them but the array's last layers: whether
        they are all alike. Nothing within such sub-blocks is looked at.

    Yields
    ------
    number, places, faces
        A label that has a surface; int32 (n, 3): z, y, x of its vertices in half voxels from the centre of the first
        voxel; int32 (m, 3): its triangles. Ascending.

    Raises
    ------
    ImportError
        If scikit-image isn't there.

    Examples
    --------
    >>> voxels = np.zeros((3, 3, 3), np.uint64)
    >>> voxels[1, 1, 1] = 1
    >>> [(number, len(places), len(faces)) for number, places, faces in surfaces(voxels, 1)]
    [(1, 6, 8)]
    """
    nz, ny, nx = (int(n) - 1 for n in numbers_zyx.shape)
    if min(nz, ny, nx) < 1:
        return
    grid = tuple(-(-n // _SUB) for n in (nz, ny, nx))
    known = np.zeros(grid, np.bool_) if uniform is None else uniform
    if known.shape != grid:
        raise ValueError(f"{known.shape} sub-blocks for {numbers_zyx.shape} voxels, expected {grid}")
    if count >= 1 << 31:
        raise ValueError(f"{count} labels in a brick: at most 2^31 - 1")
    counts, triangles = _table()
    held = np.empty((2, ny + 1, nx + 1, 3, 2), np.int32)
    room = max(_ROOM, nz * ny * nx // 4) + 24 * nx  # costs nothing until it is used
    places, owners = np.empty((room, 3), np.int32), np.empty(room, np.int32)
    faces = np.empty((2 * room, 3), np.int32)
    state = np.zeros(3, np.int64)
    voxels = np.ascontiguousarray(numbers_zyx, np.uint64)
    while not march(voxels, known, EDGES, counts, triangles, held, places, owners, faces, state):
        places, owners, faces = (np.concatenate([a, np.empty_like(a)]) for a in (places, owners, faces))
    places, owners, faces = places[: state[1]], owners[: state[1]], faces[: state[2]]
    sorted_places, sorted_faces = np.empty_like(places), np.empty_like(faces)
    first_vertex, first_face = np.zeros(count + 2, np.int64), np.zeros(count + 2, np.int64)
    group(places, owners, faces, count + 1, sorted_places, sorted_faces, first_vertex, first_face)
    for number in np.flatnonzero(np.diff(first_face)).tolist():
        a, b, c, d = first_vertex[number], first_vertex[number + 1], first_face[number], first_face[number + 1]
        yield number, sorted_places[a:b], sorted_faces[c:d]


def _numbered(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """A number for each place, equal for equal places."""
    doubled = np.rint(2 * places).astype(np.int64)
    doubled -= doubled.min(axis=0)
    _, y, x = (doubled.max(axis=0) + 1).tolist()
    if (2 * places == np.rint(2 * places)).all() and int(doubled[:, 0].max() + 1) * y * x < 1 << 62:
        packed: NDArray[np.int64] = (doubled[:, 0] * y + doubled[:, 1]) * x + doubled[:, 2]
        return packed
    # -0.0 and 0.0 are one place
    found: NDArray[np.int64] = numbered_rows(places + 0.0)[1].reshape(-1)
    return found


def joined(pieces: Sequence[Piece]) -> Piece:
    """Pieces of one surface as one; vertices where they were cut are shared again.

    Examples
    --------
    >>> left = Piece(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1.0]]), np.array([[0, 1, 2]], np.int32), 1)
    >>> right = Piece(np.array([[0, 0, 1], [0, 1, 0], [0, 1, 1.0]]), np.array([[0, 1, 2]], np.int32), 1)
    >>> both = joined([left, right])
    >>> len(both.vertices), both.faces.tolist()
    (4, [[0, 1, 2], [2, 1, 3]])
    """
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(len(p.vertices) for p in pieces)])
    vertices = np.concatenate([np.empty((0, 3)), *(p.vertices for p in pieces)])
    faces = np.concatenate([np.empty((0, 3), np.int64), *(p.faces + s for p, s in zip(pieces, starts, strict=False))])
    border = np.concatenate([np.empty(0, np.int64), *(p.border() + s for p, s in zip(pieces, starts, strict=False))])
    to = np.arange(len(vertices))
    if len(border):
        # the first of each place stays
        border.sort()
        _, first, which = np.unique(_numbered(vertices[border]), return_index=True, return_inverse=True)
        to[border] = border[first][which]
    kept = to == np.arange(len(vertices))
    number = np.cumsum(kept) - 1
    return Piece(vertices[kept], number[to[faces]].astype(np.int32), sum(p.made for p in pieces))
