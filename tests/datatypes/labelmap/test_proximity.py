"""How near bodies come, against all pairs of voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import dvid_dask
from dvid_dask.datatypes.labelmap import proximity
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.errors import BadRequest, NotFound

SIZE = np.array([40, 8, 4])


def stored(labels, offset=(0, 0, 0)):
    repo = dvid_dask.create("memory://").new_repo("fly")
    config = {"BlockSize": "16,16,16", "MaxDownresLevel": "0", "VoxelSize": "4,8,40"}
    seg = repo.new_instance("labelmap", "seg", config)
    pad = [(0, -n % 16) for n in labels.shape]
    seg.write(np.pad(labels, pad), offset)
    return seg


def model(labels, a, b):
    """Distance, and faces in common."""
    p, q = np.argwhere(labels == a), np.argwhere(labels == b)
    faces = []
    for axis in range(3):
        one, two = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        faces.append(int((((one == a) & (two == b)) | ((one == b) & (two == a))).sum()))
    return cdist(p * SIZE, q * SIZE).min(), tuple(faces)


def check(seg, labels, a, b, offset=(0, 0, 0)):
    distance, faces = model(labels, a, b)
    near = seg.proximity(a, b)
    assert near.distance == pytest.approx(distance)
    assert near.faces == faces
    assert near.area == faces[0] * 32 + faces[1] * 160 + faces[2] * 320
    for point, body in ((near.point_a, a), (near.point_b, b)):
        assert labels[tuple(np.subtract(point, offset))] == body
    apart = np.subtract(near.point_a, near.point_b)
    assert np.linalg.norm(apart * SIZE) == pytest.approx(distance)
    assert near.voxels == pytest.approx(np.linalg.norm(apart))
    assert seg.proximity(a, b, max_distance=distance * (1 + 1e-9)) == near
    assert seg.proximity(a, b, max_distance=distance * 0.99) is None


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), fill=st.sampled_from([0.001, 0.02, 0.3]), thick=st.integers(1, 6))
def test_any_bodies(seed, fill, thick):
    """Scattered blobs, from far apart to tangled, at negative coordinates too."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((48, 40, 70), np.uint64)
    for _ in range(max(2, int(fill * 300))):
        at = [int(rng.integers(0, n - thick)) for n in labels.shape]
        labels[tuple(slice(i, i + thick) for i in at)] = rng.integers(1, 3)
    labels[0, 0, 0], labels[-1, -1, -1] = 1, 2
    offset = (-32, 16, -64)
    check(stored(labels, offset), labels, 1, 2, offset)


def test_bodies_of_many_pages_far_apart_and_touching():
    labels = np.zeros((480, 32, 600), np.uint64)
    labels[:, 0:16:16, :280] = 1
    labels[:, 31, 320:] = 2
    labels[3, 8:12, 290] = 3
    seg = stored(labels)
    for body in (1, 2):
        assert Index(seg.view()).header(body).paged
    near = seg.proximity(1, 2)
    assert near.distance == pytest.approx(np.hypot(31 * 8, 41 * 4))
    assert near.faces == (0, 0, 0)
    labels[100, 0, 280:320] = 2
    labels[100:103, 0:31, 320] = 2
    seg.write(labels[96:112, :, 256:336], (96, 0, 256))
    near = seg.proximity(1, 2)
    assert (near.distance, near.faces, near.area) == (4.0, (0, 0, 1), 320.0)
    assert (near.point_a, near.point_b) == ((100, 0, 279), (100, 0, 280))


def test_only_blocks_that_can_hold_the_minimum_are_read(monkeypatch):
    labels = np.zeros((16, 16, 1600), np.uint64)
    labels[0, :4], labels[8, :4] = 1, 2
    labels[8, :4, 800] = 0
    labels[2, 0, 800] = 2
    labels[1:3, 1, 0:5] = 2
    seg = stored(labels)
    seen = []
    tree = proximity.cKDTree
    monkeypatch.setattr(proximity, "cKDTree", lambda points: seen.append(len(points)) or tree(points))
    assert seg.proximity(1, 2).distance == 40
    assert sum(n > 100 for n in seen) == 0
    assert len(seen) < 60


def test_places():
    labels = np.zeros((16, 16, 160), np.uint64)
    labels[0, 0], labels[0, 4, :80], labels[0, 9, 80:] = 1, 2, 2
    seg = stored(labels)
    near = seg.proximity(1, 2, max_distance=50, places=True)
    assert [(p.block, p.distance) for p in near.places] == [((0, 0, x), 32.0) for x in range(5)] + [
        ((0, 0, 5), pytest.approx(np.hypot(32, 4)))
    ]
    for place in near.places:
        assert labels[place.point_a] == 1
        assert labels[place.point_b] == 2
    assert len(seg.proximity(1, 2, max_distance=72, places=True).places) == 10
    with pytest.raises(BadRequest, match="max_distance"):
        seg.proximity(1, 2, places=True)


def test_distances_within_blocks():
    labels = np.zeros((16, 16, 48), np.uint64)
    labels[0, 0], labels[3, 4, :20], labels[9, 0, 40:] = 1, 2, 3
    seg = stored(labels)
    found = [(d.block, d.label, d.distance) for d in seg.block_distances(1, [2, 3])]
    assert found == [((0, 0, 0), 2, 5.0), ((0, 0, 1), 2, 5.0), ((0, 0, 2), 3, 9.0)]


def test_merged_bodies_and_what_is_refused():
    labels = np.zeros((16, 16, 48), np.uint64)
    labels[0, 0, :5], labels[0, 0, 40:], labels[0, 0, 20] = 1, 2, 3
    seg = stored(labels)
    assert seg.proximity(1, 3).distance == 64
    seg.merge(1, [2])
    assert seg.proximity(1, 3).distance == 64
    assert seg.proximity(3, 1).point_a == (0, 0, 20)
    for a, b, error in ((1, 2, NotFound), (1, 99, NotFound), (0, 1, BadRequest), (3, 3, BadRequest)):
        with pytest.raises(error):
            seg.proximity(a, b)
    with pytest.raises(BadRequest):
        seg.proximity(1, 3, max_distance=-1)
    with pytest.raises(BadRequest):
        seg.block_distances(1, [])
