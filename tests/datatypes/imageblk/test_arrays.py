"""Images as arrays of other libraries; scales and the door for bulk jobs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk.boxes import cuts
from dvid_dask.datatypes.imageblk.layout import MAX_SCALES
from dvid_dask.errors import BadRequest

from .conftest import noise


def test_scales_come_by_the_bulk_door(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    brick = noise((8, 8, 16))
    assert image.scales() == []

    def job(m, space):
        image.bulk_write(space, brick, (0, 0, -8), 0)
        image.bulk_write(space, brick[..., ::2], (0, 0, 0), 1)
        image.create_scale(space, 3)
        image.grow_extents(space, (0, 0, -8), (8, 8, 8))

    image.mutate(job)
    assert image.scales() == [0, 1, 3]
    np.testing.assert_array_equal(image[:], brick)
    np.testing.assert_array_equal(image.read_box((0, 0, 0), (8, 8, 8), 1), brick[..., ::2])
    assert not image.read_box((0, 0, 0), (8, 8, 8), 2).any()
    np.testing.assert_array_equal(image.to_dask(1).compute(), image.read_box((0, 0, -4), (4, 4, 8), 1))
    for scale in (-1, MAX_SCALES):
        with pytest.raises(BadRequest, match="scale"):
            image.read_box((0, 0, 0), (1, 1, 1), scale)
    with pytest.raises(BadRequest, match="whole blocks"):
        image.mutate(lambda m, space: image.bulk_write(space, brick[:4], (0, 0, 0), 0))


def test_dask_arrays_are_lazy_pinned_and_pickle(repo):
    import dask.array as da

    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    with pytest.raises(BadRequest, match="no extents"):
        image.to_dask()
    voxels = noise((24, 16, 40))
    image.write(voxels, (-8, 0, 3))
    lazy = image.to_dask(chunks=16)
    assert lazy.chunks == ((16, 8), (16,), (13, 16, 11))  # chunks end between blocks
    image.write(255 - voxels, (-8, 0, 3))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), voxels)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy))[5:7, 3, ::2].compute(), voxels[5:7, 3, ::2])
    np.testing.assert_array_equal(lazy[::-3, [4, 1], ::2].compute(), voxels[::-3, [4, 1], ::2])
    assert lazy.name != image.to_dask(chunks=16).name
    assert image.to_dask().name == image.to_dask().name
    part = image.to_dask(extents=Box((-10, 0, 0), (0, 4, 4)))
    assert part.shape == (10, 4, 4)
    assert int(da.asarray(part)[0].sum()) == 0
    with pytest.raises(BadRequest, match="chunks"):
        image.to_dask(chunks=(8, 8))


def test_pinned_images_are_indexed_as_numpy_indexes(repo):
    image = repo.new_instance("rgba8blk", "image", {"blocksize": "8,8,8"})
    voxels = noise((8, 16, 8, 4))
    image.write(voxels, (8, 0, -8))
    pinned = image.pin()
    for key in (..., 3, -1, (slice(2, 5), ..., 1), (0, slice(None), slice(-3, None)), (slice(4, 2),), (1, 2, 3, 0)):
        np.testing.assert_array_equal(pinned[key], voxels[key])
    np.testing.assert_array_equal(np.asarray(pinned), voxels)
    with pytest.raises(IndexError):
        pinned[8]
    for key in (
        (slice(None, None, 3),),
        (slice(6, 1, -2), slice(None, None, -1)),
        (slice(1, None, 5), 2, slice(7, 0, -3)),
    ):
        np.testing.assert_array_equal(pinned[key], voxels[key])


def test_xarray_has_physical_coordinates(repo):
    image = repo.new_instance("rgba8blk", "image", {"blocksize": "8,8,8", "voxelsize": "4,4,40"})
    image.write(noise((8, 8, 16, 4)), (0, -8, 0))
    array = image.to_xarray()
    assert array.dims == ("z", "y", "x", "channel")
    assert list(array.z.values[:2]) == [0, 40]
    assert array.y.values[0] == -32
    assert array.sel(channel="green", y=-32, z=40, x=8).compute().item() == image[1, -8, 2][1]
    assert image.to_xarray(1).x.values[0] == 2  # the centre of two voxels of 4


def test_indices_are_coordinates(gray):
    gray.write(noise((32, 16, 16)), (-16, 0, 0))
    np.testing.assert_array_equal(gray[-1], gray.read_box((-1, 0, 0), (1, 16, 16))[0])
    assert gray[-16:, ..., 3].shape == (32, 16)
    for bad in (gray.pin, "x", 1.5, True, None, (0, 0, 0, 0), (..., ...), np.array([1, 2]), slice("a", 3)):
        with pytest.raises(BadRequest):
            gray[bad]
    with pytest.raises(BadRequest, match="steps"):
        gray[::2]
    with pytest.raises(BadRequest, match="empty"):
        gray[3:3]


def test_an_empty_image_needs_both_ends_of_slices(gray):
    assert not gray[0:2, 0:2, 0:2].any()
    with pytest.raises(BadRequest, match="both ends"):
        gray[0:2]


@given(st.integers(-100, 100), st.integers(1, 200), st.integers(1, 40), st.integers(1, 300))
def test_cuts_cover_a_line_and_keep_blocks_whole(start, length, block, most):
    pieces = list(cuts(start, start + length, block, most))
    assert [a for a, _ in pieces] == [start, *(b for _, b in pieces[:-1])]
    assert pieces[-1][1] == start + length
    assert all(0 < b - a <= most for a, b in pieces)
    if most >= block:
        assert all(b % block == 0 for _, b in pieces[:-1])
