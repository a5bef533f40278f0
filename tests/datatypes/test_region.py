"""Regions against sets of blocks: every operation on spans gives what it gives block by block."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import dvid_dask
from dvid_dask.datatypes.roi import Region, algebra
from dvid_dask.errors import BadRequest

LOW, HIGH = -(2**31), 2**31 - 1
SHAPE = (4, 3, 2)
quick = settings(deadline=None)

blocks_st = st.frozensets(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(-6, 6)), max_size=120)


def region(blocks, shape=SHAPE):
    return Region.of_blocks(np.array(sorted(blocks)).reshape(-1, 3), shape)


def model(region):
    found = {(z, y, x) for z, y, x0, x1 in region.spans.tolist() for x in range(x0, x1 + 1)}
    for (z, y, _, end), (r, q, begin, _) in itertools.pairwise(region.spans.tolist()):
        assert (z, y) < (r, q) or ((z, y) == (r, q) and begin > end + 1)
    return found


def dense(blocks, margin=12):
    out = np.zeros((2 * margin,) * 3, bool)
    for b in blocks:
        out[tuple(np.add(b, margin))] = True
    return out


def sparse(array, margin=12):
    return {tuple(b) for b in (np.argwhere(array) - margin).tolist()}


# ------------------------------------------------------------------ algebra


@quick
@given(blocks_st, blocks_st)
def test_algebra_is_that_of_sets(a, b):
    left, right = region(a), region(b)
    assert model(left) == a
    assert model(left | right) == a | b
    assert model(left & right) == a & b
    assert model(left - right) == a - b
    assert model(left ^ right) == a ^ b
    assert (left <= right) == (a <= b)
    assert (left >= right) == (a >= b)
    assert left.isdisjoint(right) == a.isdisjoint(b)
    assert (left == right) == (a == b)
    if a == b:
        assert hash(left) == hash(right)


@quick
@given(blocks_st)
def test_what_is_told_of_a_region(a):
    r = region(a)
    assert len(r) == len(a)
    assert bool(r) == bool(a)
    assert r.voxels == 24 * len(a)
    assert r.volume((2, 0.5, 1)) == 24 * len(a)
    assert pickle.loads(pickle.dumps(r)) == r
    listed = [tuple(b) for part in r.blocks(7) for b in part.tolist()]
    assert listed == sorted(a)
    if not a:
        assert (r.bounds, r.voxel_bounds) == (None, None)
        return
    low, high = np.min(sorted(a), axis=0), np.max(sorted(a), axis=0) + 1
    assert r.bounds == (tuple(low), tuple(high))
    assert r.voxel_bounds == (tuple(low * SHAPE), tuple(high * SHAPE))


@quick
@given(blocks_st, st.tuples(*[st.integers(0, 3)] * 3))
def test_dilation_and_erosion_are_those_of_a_box(a, by):
    box = np.ones([2 * n + 1 for n in by], bool)
    grown = dense(a)
    assert model(region(a).dilated(by)) == sparse(ndimage.binary_dilation(grown, box))
    assert model(region(a).eroded(by)) == sparse(ndimage.binary_erosion(grown, box))


def test_the_ends_of_the_coordinates_bound_neighbourhoods():
    corner = Region([[LOW, HIGH, LOW, LOW]], SHAPE)
    assert corner.dilated(2).spans.tolist() == [
        [z, y, LOW, LOW + 2] for z in range(LOW, LOW + 3) for y in range(HIGH - 2, HIGH + 1)
    ]
    slab = Region([[z, y, LOW, HIGH] for z in range(3) for y in range(3)], SHAPE)
    assert slab.eroded(1).spans.tolist() == [[1, 1, LOW + 1, HIGH - 1]]
    assert slab.eroded((1, 1, 0)).spans.tolist() == [[1, 1, LOW, HIGH]]
    assert (slab - slab.eroded(1)).spans.tolist()[4:6] == [[1, 1, LOW, LOW], [1, 1, HIGH, HIGH]]
    edge = Region([[LOW, 0, 0, 0], [HIGH, 0, 0, 0], [0, LOW, 5, 5], [0, HIGH, 5, 5]], SHAPE)
    assert len(edge.components()) == len(edge.components(corners=True)) == 4


@quick
@given(blocks_st, st.booleans())
def test_components(a, corners):
    structure = np.ones((3, 3, 3)) if corners else ndimage.generate_binary_structure(3, 1)
    labels, count = ndimage.label(dense(a), structure)
    expected = {frozenset(sparse(labels == n + 1)) for n in range(count)}
    parts = region(a).components(corners=corners)
    assert {frozenset(model(part)) for part in parts} == expected
    assert len(parts) == count
    assert [len(p) for p in parts] == sorted((len(p) for p in parts), reverse=True)


# ------------------------------------------------------------------ other block sizes

sizes = st.tuples(*[st.integers(1, 4)] * 3)


@quick
@given(st.frozensets(st.tuples(*[st.integers(-1, 1)] * 3), max_size=8), sizes, sizes)
def test_other_block_sizes_against_voxels(a, old, new):
    held = dense(a, 40)
    voxels = held[np.ix_(*(np.arange(-9 * n, 9 * n) // o + 40 for n, o in zip(new, old, strict=True)))]
    nz, ny, nx = new
    cells = voxels.reshape(18, nz, 18, ny, 18, nx)
    expected = {
        "any": cells.any(axis=(1, 3, 5)),
        "all": cells.all(axis=(1, 3, 5)),
        "middle": cells[:, nz // 2, :, ny // 2, :, nx // 2],
    }
    for rule, blocks in expected.items():
        made = region(a, old).rescaled(new, rule)
        assert made.block_shape == new
        assert model(made) == sparse(blocks, 9), rule


def test_a_region_that_leaves_the_coordinates_in_smaller_blocks_is_refused():
    with pytest.raises(BadRequest, match="32-bit"):
        Region([[0, 0, HIGH, HIGH]], (64, 64, 64)).rescaled((32, 32, 32))
    assert Region([[0, 0, HIGH, HIGH]], (32, 32, 32)).rescaled((64, 64, 64)).spans.tolist() == [
        [0, 0, 2**30 - 1, 2**30 - 1]
    ]


def test_bad_values_are_refused(monkeypatch):
    for bad in (
        [[0, 0, 1, 0]],
        [[0, 0, 0]],
        [[0, 0, 0, 2**31]],
        [[0.5, 0, 0, 0]],
        [["a", 0, 0, 0]],
        [[0, 0, 0, float("nan")]],
    ):
        with pytest.raises(BadRequest):
            Region(bad, SHAPE)
    for shape in ((0, 1, 1), (1, 1), (2**31, 1, 1)):
        with pytest.raises(BadRequest):
            Region([], shape)
    r = Region([[0, 0, 0, 5], [3, 0, 0, 5]], SHAPE)
    for by in (-1, 1.5, (1, 2), 1 << 17):
        with pytest.raises(BadRequest):
            r.dilated(by)
    with pytest.raises(BadRequest, match="rescaled"):
        r | Region([], (1, 1, 1))
    with pytest.raises(TypeError):
        r & {1}
    with pytest.raises(BadRequest, match="choose"):
        r.rescaled((1, 1, 1), "most")
    with pytest.raises(BadRequest):
        r.volume((1, 1, float("inf")))
    with pytest.raises(BadRequest):
        Region.of_blocks([[2**31, 0, 0]], SHAPE)
    monkeypatch.setattr(algebra, "MAX_SPANS", 100)
    with pytest.raises(BadRequest, match="larger blocks"):
        r.dilated(30)
    with pytest.raises(BadRequest, match="larger blocks"):
        r.dilated(3).rescaled((1, 1, 2))


def test_masks_points_and_partitions_are_those_of_the_instance():
    repo = dvid_dask.create("memory://", compact="never").new_repo()
    roi = repo.new_instance("roi", "area", {"blocksize": "2,3,4"})
    roi.replace([[0, 0, 0, 3], [0, 0, 2, 9], [-1, 300, -5, -5], [2, 0, 1, 1]])
    r = roi.region
    assert r.spans.tolist() == [[-1, 300, -5, -5], [0, 0, 0, 9], [2, 0, 1, 1]]
    assert (r.mask((-5, -2, -11), (20, 9, 40)) == roi.mask((-5, -2, -11), (20, 9, 40))).all()
    points = [[-1, 901, -10], [0, 0, 0], [8, 2, 3], [9, 5, 3]]
    assert r.contains(points).tolist() == roi.contains(points).tolist() == [True, True, True, False]
    for optimized in (False, True):
        ours, theirs = (p.partition(2, optimized=optimized) for p in (r, roi))
        assert (ours.start == theirs.start).all()
        assert (ours.active == theirs.active).all()
        assert ours.bounds == theirs.bounds == r.bounds


# ------------------------------------------------------------------ instances


def test_instances_combine_and_take_regions():
    repo = dvid_dask.create("memory://", compact="never").new_repo()
    a, b = (repo.new_instance("roi", name) for name in "ab")
    a.replace([[0, 0, 0, 9]])
    b.replace([[0, 0, 5, 12]])
    assert (a | b).spans.tolist() == [[0, 0, 0, 12]]
    assert (a & b).spans.tolist() == [[0, 0, 5, 9]]
    assert (a - b).spans.tolist() == [[0, 0, 0, 4]]
    assert (a ^ b).spans.tolist() == [[0, 0, 0, 4], [0, 0, 10, 12]]
    assert (a.region | b) == (a | b.region) == (a | b.pin())
    a.replace(a - b)
    assert a.spans.tolist() == [[0, 0, 0, 4]]
    a.replace(b)
    assert a.spans.tolist() == b.spans.tolist()
    with pytest.raises(BadRequest, match="rescaled"):
        a.replace(Region([[0, 0, 0, 1]], (64, 64, 64)))
    assert a.spans.tolist() == b.spans.tolist()
