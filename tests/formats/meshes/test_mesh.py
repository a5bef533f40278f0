"""Meshes in the world, and simplification that keeps borders."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dvid_dask.formats.meshes.mesh import placed, simplified
from dvid_dask.formats.meshes.surfaces import Piece, joined, surfaces
from tests.formats.meshes.test_surfaces import ball, check_closed, surface_of

pytest.importorskip("pyfqmr")


def test_a_voxel_lies_where_it_is_and_faces_outwards():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 2, 3] = True
    mesh = placed(surface_of(mask), (40, 8, 4))
    assert mesh.vertices.min(axis=0).tolist() == [3 * 4, 2 * 8, 40]
    assert mesh.vertices.max(axis=0).tolist() == [4 * 4, 3 * 8, 80]
    assert mesh.volume == pytest.approx(4 * 8 * 40 / 6)  # an octahedron
    centre = np.array([3.5 * 4, 2.5 * 8, 1.5 * 40])
    for a, b, c in mesh.vertices[mesh.faces].astype(float):
        assert np.dot(np.cross(b - a, c - a), a - centre) > 0


@pytest.mark.parametrize("size", [(1, 1, 1), (40, 8, 4), (0.3, 7, 1)])
@pytest.mark.parametrize("keep", [0.5, 0.05])
def test_simplified_pieces_fit(size, keep):
    whole = np.pad(ball(20, 44).astype(np.uint64), 1)
    pieces = []
    for where in itertools.product((0, 22), repeat=3):
        part = whole[tuple(slice(a, a + 25) for a in where)]
        ((_, places, faces),) = surfaces(part[:23, :23, :23] if where == (0, 0, 0) else part, 1)
        piece = Piece(places / 2 + where, faces, len(faces))
        if 0 in where:  # cells belong to one piece alone
            inside = (placed(piece, (1, 1, 1)).vertices[piece.faces][:, :, ::-1] <= 22.5).all(axis=1)
            inside = inside[:, [w == 0 for w in where]].all(axis=1)
            used, faces = np.unique(piece.faces[inside], return_inverse=True)
            piece = Piece(piece.vertices[used], faces.reshape(-1, 3).astype(np.int32), int(inside.sum()))
        fewer = simplified(piece, keep, size)
        assert len(fewer.faces) < 0.8 * len(piece.faces)
        before, after = (set(map(tuple, p.vertices[p.border()].tolist())) for p in (piece, fewer))
        assert before == after
        assert fewer.made == piece.made
        pieces.append(fewer)
    made = check_closed(joined(pieces))
    assert made.is_watertight
    assert made.volume == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.02)


def test_threads_don_t_spoil_each_other_s_meshes():
    piece = surface_of(ball(16, 40))
    expected = simplified(piece, 0.1)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: simplified(piece, 0.1), range(24)):
            np.testing.assert_array_equal(found.vertices, expected.vertices)
            np.testing.assert_array_equal(found.faces, expected.faces)


def test_small_surfaces_stay_as_they_are():
    piece = surface_of(np.ones((1, 1, 1), bool))
    assert simplified(piece, 0.01) is piece
    big = surface_of(ball(8, 20))
    assert simplified(big, 1) is big
