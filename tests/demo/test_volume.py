"""The synthetic volume has the properties that tests and the tour build on."""

import numpy as np
import pytest

from dvid_dask.demo import SYNAPSE, make_volume

SHAPE = (96, 104, 88)


@pytest.fixture(scope="module")
def volume():
    return make_volume(SHAPE, seed=3)


def bodies(volume):
    table = np.zeros(int(volume.supervoxels.max()) + 1, np.uint64)
    for sv, body in volume.body_of.items():
        table[sv] = body
    return table[volume.supervoxels]


def test_same_seed_same_bytes(volume):
    again = make_volume(SHAPE, seed=3)
    assert np.array_equal(again.gray, volume.gray)
    assert np.array_equal(again.supervoxels, volume.supervoxels)
    assert again.body_of == volume.body_of
    assert np.array_equal(again.synapses, volume.synapses)
    assert not np.array_equal(make_volume(SHAPE, seed=4).supervoxels, volume.supervoxels)


def test_neurites_tile_the_volume_and_are_cut_into_supervoxels(volume):
    assert volume.gray.shape == volume.supervoxels.shape == SHAPE
    assert volume.gray.dtype == np.uint8
    assert volume.supervoxels.dtype == np.uint64
    present = np.unique(volume.supervoxels)
    assert present[0] == 1
    assert set(present.tolist()) == set(volume.body_of)
    assert 10 < len(set(volume.body_of.values())) < len(volume.body_of)
    for sv, body in volume.body_of.items():
        assert body <= sv
        assert volume.body_of[body] == body


def test_a_neurite_is_mostly_one_piece(volume):
    from scipy.ndimage import label

    seg = bodies(volume)
    ids, sizes = np.unique(seg, return_counts=True)
    for body in ids[np.argsort(sizes)[-5:]]:
        pieces, _ = label(np.pad(seg == body, 1))
        # where a neurite leaves the volume and comes back it is in two; splinters there are not
        counts = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
        assert counts[:4].sum() > 0.99 * counts.sum()


def test_membranes_are_dark_and_insides_are_not(volume):
    seg = bodies(volume)
    edge = np.zeros(SHAPE, bool)
    for axis in range(3):
        edge |= seg != np.roll(seg, 1, axis)
    assert volume.gray[edge].mean() < volume.gray[~edge].mean() - 40


def test_synapses_connect_two_neurons(volume):
    assert volume.synapses.dtype == SYNAPSE
    assert len(volume.synapses) > 0
    seg = bodies(volume)
    for row in volume.synapses:
        assert seg[tuple(row["pre"])] == row["pre_body"]
        assert seg[tuple(row["post"])] == row["post_body"]
        assert row["pre_body"] != row["post_body"]


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 40, 300)])
def test_odd_shapes(shape):
    assert make_volume(shape, seed=1).gray.shape == shape


@pytest.mark.parametrize("shape", [(15, 64, 64), (64, 64)])
def test_a_shape_too_small_is_refused(shape):
    with pytest.raises(ValueError, match="three sizes of at least 16"):
        make_volume(shape)
