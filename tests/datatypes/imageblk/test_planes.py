"""Planes askew to the axes, and isotropic ones."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.imageblk import ArbitraryPlane, isotropic_size
from dvid_dask.datatypes.imageblk.planes import interpolate
from dvid_dask.errors import BadRequest

from .conftest import TYPES, noise


def trilinear(voxels, point, size, background=0):
    """One point in exact fractions; voxels outside the array are background."""
    total = Fraction(0)
    parts = [Fraction(p) / Fraction(s) for p, s in zip(point, size, strict=True)]
    for corner in np.ndindex(2, 2, 2):
        weight, at = Fraction(1), []
        for c, v in zip(corner, parts, strict=True):
            low = v.numerator // v.denominator
            weight *= (v - low) if c else 1 - (v - low)
            at.append(low + c)
        x, y, z = at
        inside = all(0 <= i < n for i, n in zip((z, y, x), voxels.shape[:3], strict=True))
        if weight:
            total += weight * (int(voxels[z, y, x]) if inside else background)
    return (total + Fraction(1, 2)).numerator // (total + Fraction(1, 2)).denominator


@settings(max_examples=12, deadline=None)
@given(st.data(), st.sampled_from(["uint8blk", "uint16blk", "uint32blk", "uint64blk"]))
def test_planes_are_interpolated_exactly(data, typename):
    with dvid_dask.create("memory://", compact="never") as datastore:
        image = datastore.new_repo().new_instance(
            typename, "image", {"blocksize": "8,8,8", "voxelsize": "2,4,8", "background": "3"}
        )
        voxels = noise((8, 16, 16), image.dtype)
        if typename == "uint64blk":
            voxels |= np.uint64(1 << 63)  # beyond what a float holds
        image.write(voxels, (0, 0, 0))
        # multiples of a quarter are exact in floats, so that fractions tell the one right answer
        quarter = st.integers(-16, 160).map(lambda n: n / 4)
        corners = [tuple(data.draw(quarter) for _ in range(3)) for _ in range(3)]
        plane = ArbitraryPlane(*corners, 1e6, (2, 4, 8))  # a single point: the first corner
        background = int(np.frombuffer(b"\3" * image.dtype.itemsize, image.dtype)[0])
        pixel = int(image.read_plane(plane)[0, 0])
        expected = trilinear(voxels, corners[0], (2, 4, 8), background)
        # 64-bit values are mixed by their distances, a sum of doubles of which each is off by 2048 at most
        assert abs(pixel - expected) <= (4 * 2048 if typename == "uint64blk" else 0)


def test_planes_along_axes_show_the_voxels_of_every_type(repo):
    for typename in TYPES:
        image = repo.new_instance(typename, typename, {"blocksize": "8,8,8", "voxelsize": "8,8,8"})
        voxels = noise((16, 16, 16, *image.layout.tail), image.dtype)
        image.write(voxels, (0, 0, 0))
        flat = ArbitraryPlane((0, 0, 40), (15 * 8, 0, 40), (0, 15 * 8, 40), 8, (8, 8, 8))
        assert image.read_plane(flat).tobytes() == voxels[5].tobytes()
        upright = ArbitraryPlane((24, 0, 0), (24, 15 * 8, 0), (24, 0, 15 * 8), 8, (8, 8, 8))
        assert image.read_plane(upright).tobytes() == np.ascontiguousarray(voxels[:, :, 3]).tobytes()


def test_planes_in_many_parts_and_before_the_first_write(repo, monkeypatch):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8", "background": "9"})
    plane = ArbitraryPlane((-20.0, 3, 0), (100, 77, 50), (-30, 90, 120), 3.3, (8, 8, 8))
    assert (image.read_plane(plane) == 9).all()
    image.write(noise((16, 16, 16)), (0, 0, 0))
    whole = image.read_plane(plane)
    monkeypatch.setattr("dvid_dask.datatypes.imageblk.methods.reading._PLANE_POINTS", 50)
    np.testing.assert_array_equal(image.read_plane(plane), whole)
    assert whole.shape == (plane.height, plane.width)


def test_interpolation_of_extremes_does_not_wrap():
    top = 2**64 - 1
    weights = np.full((8, 1), 1 / 8)
    for values in ([0] + [top] * 7, [top] + [0] * 7, [3000] + [top] * 7, [top] * 8, [5] * 8):
        got = int(interpolate(np.array(values, np.uint64)[:, None], weights)[0])
        mean = sum(values) // 8
        assert abs(got - mean) <= 4096, values
    inf = np.array([np.inf] + [1] * 7, np.float32)[:, None]
    assert interpolate(inf, np.array([[0.0]] + [[1 / 7]] * 7))[0] == 1


@pytest.mark.parametrize(
    ("corners", "resolution"),
    [
        ([(0, 0, 0), (float("nan"), 0, 0), (0, 8, 0)], 8),
        ([(0, 0, 0), (float("inf"), 0, 0), (0, 8, 0)], 8),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], 0),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], -1),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], float("nan")),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], 1e-300),
        ([(0, 0, 0), (1e30, 0, 0), (0, 8, 0)], 8),
        ([(-(2.0**31) * 8, 0, 0), (0, 0, 0), (0, 8, 0)], 8),
    ],
)
def test_what_is_no_plane_is_refused(corners, resolution):
    with pytest.raises(BadRequest):
        ArbitraryPlane(*corners, resolution, (8, 8, 8))


def test_isotropic_sizes():
    assert isotropic_size((50, 47), (4, 40)) == (50, 5)
    assert isotropic_size((7, 7), (3, 3)) == (7, 7)
    for lengths in ((1, 1e9), (1e-30, 1e30), (1e30, 1e-30)):
        with pytest.raises(BadRequest, match="raw instead"):
            isotropic_size((10, 10), lengths)
