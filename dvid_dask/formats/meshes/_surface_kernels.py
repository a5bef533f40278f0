"""Compiled loops of `surfaces`: the triangles of all labels of a brick in one pass, with shared vertices.

A cell has a voxel at each of its eight corners. For each label at its corners, the table says which triangles the cell
adds, with vertices in the middle of the cell's edges. Where an edge joins two labels, it has a vertex for each of them;
which one is found by a look into two layers of edges that move along with the cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUB = 8

# where the twelve edges of a cell begin (z, y, x), and their axis; corner n of a cell is at n >> 2, n >> 1 & 1, n & 1
EDGES = np.array(
    [(z, y, x, axis) for axis in range(3) for z in (0, 1) for y in (0, 1) for x in (0, 1) if (z, y, x)[axis] == 0],
    np.int64,
)


@kernel
def march(
    v: NDArray[np.uint64],
    uniform: NDArray[np.bool_],
    edges: NDArray[np.int64],
    counts: NDArray[np.int64],
    triangles: NDArray[np.int8],
    held: NDArray[np.int32],
    places: NDArray[np.int32],
    owners: NDArray[np.int32],
    faces: NDArray[np.int32],
    state: NDArray[np.int64],
) -> bool:
    """Go on with the rows of cells from where `state` (row, vertices, faces) says; False: more room is needed.

    `held` holds the vertices of the edges that begin in two layers, -1 for none: (layer & 1, y, x, axis, which end of
    the edge has the label).
    """
    nz, ny, nx = v.shape[0] - 1, v.shape[1] - 1, v.shape[2] - 1
    row, nv, nf = state[0], state[1], state[2]
    # most that one row of cells can add
    spare_v, spare_f = 24 * nx, 40 * nx
    corner = np.empty(8, np.uint64)
    while row < nz * ny:
        if nv + spare_v > places.shape[0] or nf + spare_f > faces.shape[0]:
            state[0], state[1], state[2] = row, nv, nf
            return False
        z, y = row // ny, row % ny
        if y == 0:
            if z == 0:
                held[:] = -1
            else:
                held[(z + 1) & 1] = -1
        within = (z & (_SUB - 1)) != _SUB - 1 and (y & (_SUB - 1)) != _SUB - 1
        x = 0
        while x < nx:
            if within and (x & (_SUB - 1)) == 0 and uniform[z // _SUB, y // _SUB, x // _SUB]:
                x += _SUB - 1
                continue
            a, b, c, d = v[z, y, x], v[z, y + 1, x], v[z + 1, y, x], v[z + 1, y + 1, x]
            e, f, g, h = v[z, y, x + 1], v[z, y + 1, x + 1], v[z + 1, y, x + 1], v[z + 1, y + 1, x + 1]
            if a == b and a == c and a == d and a == e and a == f and a == g and a == h:
                x += 1
                continue
            corner[0], corner[1], corner[2], corner[3] = a, e, b, f
            corner[4], corner[5], corner[6], corner[7] = c, g, d, h
            for i in range(8):
                label = corner[i]
                if label == np.uint64(0):
                    continue
                seen = False
                for j in range(i):
                    if corner[j] == label:
                        seen = True
                        break
                if seen:
                    continue
                case = 0
                for j in range(i, 8):
                    if corner[j] == label:
                        case |= 1 << j
                for t in range(counts[case]):
                    for k in range(3):
                        n = triangles[case, 3 * t + k]
                        ez, ey, ex, axis = z + edges[n, 0], y + edges[n, 1], x + edges[n, 2], edges[n, 3]
                        side = 0 if v[ez, ey, ex] == label else 1
                        vertex = held[ez & 1, ey, ex, axis, side]
                        if vertex < 0:
                            vertex = nv
                            held[ez & 1, ey, ex, axis, side] = vertex
                            places[nv, 0] = 2 * ez + (1 if axis == 0 else 0)
                            places[nv, 1] = 2 * ey + (1 if axis == 1 else 0)
                            places[nv, 2] = 2 * ex + (1 if axis == 2 else 0)
                            owners[nv] = np.int32(label)
                            nv += 1
                        faces[nf, k] = vertex
                    nf += 1
            x += 1
        row += 1
    state[0], state[1], state[2] = row, nv, nf
    return True


@kernel
def group(
    places: NDArray[np.int32],
    owners: NDArray[np.int32],
    faces: NDArray[np.int32],
    labels: int,
    out_places: NDArray[np.int32],
    out_faces: NDArray[np.int32],
    vertex_starts: NDArray[np.int64],
    face_starts: NDArray[np.int64],
) -> None:
    """Sort vertices and triangles by label; triangles then count the vertices of their label from 0."""
    for i in range(places.shape[0]):
        vertex_starts[owners[i] + 1] += 1
    for i in range(faces.shape[0]):
        face_starts[owners[faces[i, 0]] + 1] += 1
    for label in range(labels):
        vertex_starts[label + 1] += vertex_starts[label]
        face_starts[label + 1] += face_starts[label]
    at_vertex, at_face = vertex_starts[:-1].copy(), face_starts[:-1].copy()
    moved = np.empty(places.shape[0], np.int32)
    for i in range(places.shape[0]):
        label = owners[i]
        to = at_vertex[label]
        at_vertex[label] += 1
        out_places[to] = places[i]
        moved[i] = to - vertex_starts[label]
    for i in range(faces.shape[0]):
        label = owners[faces[i, 0]]
        to = at_face[label]
        at_face[label] += 1
        for k in range(3):
            out_faces[to, k] = moved[faces[i, k]]
