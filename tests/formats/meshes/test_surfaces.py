"""Surfaces: those of scikit-image, label by label; closed, outwards, and the same whole or in pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats.meshes import surfaces as module
from dvid_dask.formats.meshes.mesh import placed, simplified
from dvid_dask.formats.meshes.surfaces import LEVEL, Piece, joined, surfaces

trimesh = pytest.importorskip("trimesh")
measure = pytest.importorskip("skimage.measure")


def triangles(places, faces):
    """A surface as a set of triangles, whatever the order of vertices, each turned to begin with its least corner."""
    found = []
    for corners in np.asarray(places)[faces].tolist():
        first = corners.index(min(corners))
        found.append(tuple(map(tuple, corners[first:] + corners[:first])))
    assert len(set(found)) == len(found)
    return set(found)


def surface_of(mask):
    """The surface of a mask in voxels around which there is nothing."""
    ((_, places, faces),) = surfaces(np.pad(mask.astype(np.uint64), 1), 1)
    return Piece(places / 2 - 1, faces, len(faces))


def check_closed(piece):
    made = trimesh.Trimesh(piece.vertices[:, ::-1], piece.faces, process=False)
    assert len(piece.border()) == 0
    assert made.is_winding_consistent
    return made


def ball(radius, size):
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    return z * z + y * y + x * x < radius * radius


def torus(big, small, size):
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    return (np.hypot(y, x) - big) ** 2 + z * z < small * small


labels = st.integers(0, 3).flatmap(
    lambda n: st.builds(
        lambda seed, shape: np.random.default_rng(seed).integers(0, n + 1, shape).astype(np.uint64),
        st.integers(0, 2**32 - 1),
        st.tuples(*[st.integers(1, 9)] * 3),
    )
)


@settings(max_examples=60, deadline=None)
@given(labels)
def test_each_label_has_the_surface_that_scikit_image_gives_it(voxels):
    padded = np.pad(voxels, 1)
    found = {number: (places, faces) for number, places, faces in surfaces(padded, 3)}
    assert sorted(found) == np.unique(voxels[voxels > 0]).tolist()
    for number, (places, faces) in found.items():
        mask = (padded == number).astype(np.float32)
        expected, theirs, _, _ = measure.marching_cubes(mask, LEVEL, allow_degenerate=False)
        assert triangles(places, faces) == triangles(np.rint(2 * expected).astype(int), theirs)
        assert len(np.unique(places, axis=0)) == len(places)
        assert np.unique(faces).tolist() == list(range(len(places)))


@settings(max_examples=60, deadline=None)
@given(labels)
def test_surfaces_are_closed_and_lie_at_the_faces_of_voxels(voxels):
    padded = np.pad(voxels, 1)
    for number, places, faces in surfaces(padded, 3):
        piece = Piece(places / 2, faces, len(faces))
        made = check_closed(piece)
        assert made.volume > 0
        at = np.argwhere(padded == number)
        np.testing.assert_array_equal(piece.vertices.min(axis=0), at.min(axis=0) - 0.5)
        np.testing.assert_array_equal(piece.vertices.max(axis=0), at.max(axis=0) + 0.5)


def test_cells_that_share_a_face_agree_on_it():
    """Every two cases that can be neighbours: what they add at the shared face cancels out."""
    for axis in range(3):
        seen = {}
        for bits in itertools.product((0, 1), repeat=8):
            cell = np.array(bits, np.uint64).reshape(2, 2, 2)
            for _, places, faces in surfaces(cell, 1):
                for side in (0, 2):
                    flat = np.delete(places, axis, 1)
                    edges = [e for f in faces for e in zip(f, np.roll(f, -1), strict=True)]
                    there = [(a, b) for a, b in edges if places[a, axis] == places[b, axis] == side]
                    open_there = {(tuple(flat[a]), tuple(flat[b])) for a, b in there if (b, a) not in edges}
                    if side == 2:
                        open_there = {(b, a) for a, b in open_there}
                    key = tuple(cell.take(side // 2, axis).reshape(-1).tolist())
                    assert seen.setdefault(key, open_there) == open_there


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_pieces_are_the_triangles_of_the_whole(data):
    shape = tuple(data.draw(st.integers(8, 24)) for _ in range(3))
    cuts = [data.draw(st.integers(2, n - 1)) for n in shape]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(0, 3, [n // 3 + 1 for n in shape]).astype(np.uint64)
    voxels = np.pad(coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: shape[0], : shape[1], : shape[2]], 1)
    pieces = {1: [], 2: []}
    for where in itertools.product((0, 1), repeat=3):
        start = [c * w for c, w in zip(cuts, where, strict=True)]
        stop = [n if w else c + 1 for n, c, w in zip(voxels.shape, cuts, where, strict=True)]
        part = voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        for number, places, faces in surfaces(part, 2):
            pieces[number].append(Piece(places / 2 + start, faces, len(faces)))
    for number, places, faces in surfaces(voxels, 2):
        one = joined(pieces[number])
        assert triangles(one.vertices, one.faces) == triangles(places / 2, faces)
        assert len(one.vertices) == len(places)
        assert one.made == len(faces)
        assert len(one.border()) == 0


def test_uniform_sub_blocks_may_be_left_out():
    voxels = np.zeros((33, 33, 33), np.uint64)
    voxels[3:30, 5:28, 2:26][ball(9, 40)[:27, :23, :24]] = 1
    voxels[8:16, 8:16, 16:24] = 2
    blocks = voxels[:-1, :-1, :-1].reshape(4, 8, 4, 8, 4, 8)
    uniform = blocks.max(axis=(1, 3, 5)) == blocks.min(axis=(1, 3, 5))
    assert 0 < uniform.sum() < uniform.size
    known, plain = list(surfaces(voxels, 2, uniform)), list(surfaces(voxels, 2))
    assert [n for n, _, _ in known] == [n for n, _, _ in plain] == [1, 2]
    for (_, places, faces), (_, others, theirs) in zip(known, plain, strict=True):
        assert triangles(places, faces) == triangles(others, theirs)


def test_room_is_made_as_it_is_needed(monkeypatch):
    voxels = np.pad(np.random.default_rng(0).integers(0, 5, (20, 20, 20)).astype(np.uint64), 1)
    expected = [(n, p.tolist(), f.tolist()) for n, p, f in surfaces(voxels, 4)]
    monkeypatch.setattr(module, "_ROOM", -(22**3) // 4)
    assert [(n, p.tolist(), f.tolist()) for n, p, f in surfaces(voxels, 4)] == expected


def test_nothing_has_no_surface():
    assert list(surfaces(np.zeros((4, 4, 4), np.uint64), 3)) == []
    assert list(surfaces(np.ones((1, 4, 4), np.uint64), 1)) == []
    assert list(surfaces(np.ones((4, 4, 4), np.uint64), 1)) == []  # open on all sides, and nothing within
    with pytest.raises(ValueError, match="sub-blocks"):
        list(surfaces(np.zeros((9, 9, 9), np.uint64), 1, np.zeros((2, 1, 1), bool)))


@pytest.mark.parametrize("keep", [1, 0.1])
def test_a_ball(keep):
    radius = 25
    piece = simplified(surface_of(ball(radius, 60)), keep)
    made = check_closed(piece)
    assert made.is_watertight
    assert made.euler_number == 2
    mesh = placed(piece, (8, 8, 8))
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * (8 * radius) ** 3, rel=0.01)
    # steps of half a voxel make a surface longer, fewer triangles smooth them
    assert mesh.area == pytest.approx(4 * np.pi * (8 * radius) ** 2, rel=0.09 if keep < 1 else 0.12)


@pytest.mark.parametrize("keep", [1, 0.1])
def test_a_torus_has_one_hole(keep):
    made = check_closed(simplified(surface_of(torus(20, 8, 60)), keep))
    assert made.is_watertight
    assert made.euler_number == 0
    assert made.volume == pytest.approx(2 * np.pi**2 * 20 * 64, rel=0.02)


def test_voxels_that_touch_along_an_edge_are_one():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[1, 2, 2] = True
    assert check_closed(surface_of(mask)).body_count == 1
    mask[1, 2, 2], mask[2, 2, 2] = False, True  # a corner only
    assert check_closed(surface_of(mask)).body_count == 2
