"""The mean of windows against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvid_dask.formats.downsample import downsampled_shape, mean

INTEGERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]


def exact_mean(volume, factors):
    """Python's own rounding of fractions: to the nearest, halves to even."""
    out = np.empty(downsampled_shape(volume.shape, factors), volume.dtype)
    for at in np.ndindex(out.shape):
        window = volume[tuple(slice(i * f, (i + 1) * f) for i, f in zip(at, factors, strict=True))]
        out[at] = round(Fraction(sum(int(v) for v in window.flat), window.size))
    return out


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_integer_means_are_exact_over_the_whole_range(data):
    dtype = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    info = np.iinfo(dtype)
    # extremes and neighbours, so that sums overflow and halves occur
    values = st.sampled_from(sorted({info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 5}))
    volume = data.draw(hnp.arrays(dtype, shape, elements=values))
    factors = data.draw(st.sampled_from([(2, 2, 2), (1, 2, 2), (3, 1, 2), (1, 1, 1)]))
    np.testing.assert_array_equal(mean(volume, factors), exact_mean(volume, factors))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
def test_agrees_with_tensorstore(dtype):
    volume = np.random.default_rng(0).integers(0, 127, (33, 17, 65)).astype(dtype)
    expected = ts.downsample(ts.array(volume), [2, 2, 2], "mean").read().result()
    np.testing.assert_array_equal(mean(volume), expected)


def test_floats_are_not_rounded_and_nan_spreads():
    volume = np.array([[[1, 2, np.nan, 4, 5]]], np.float32)
    np.testing.assert_array_equal(mean(volume), np.array([[[1.5, np.nan, 5]]], np.float32))
    # the sum of float32 in double precision
    big = np.array([[[2**24, 1]]], np.float32)
    assert mean(big)[0, 0, 0] == np.float32((2**24 + 1) / 2)


def test_channels_are_averaged_apart_and_views_and_byte_orders_are_taken():
    rng = np.random.default_rng(1)
    volume = rng.integers(0, 255, (6, 5, 4, 4), np.uint8)
    out = mean(volume)
    for c in range(4):
        np.testing.assert_array_equal(out[..., c], mean(volume[..., c]))
    wide = rng.integers(0, 60000, (4, 4, 4)).astype(">u2")
    np.testing.assert_array_equal(mean(wide), mean(wide.astype("<u2")))


@pytest.mark.parametrize("factors", [(2, 2), (0, 1, 1), (2, -2, 2), (2**20, 2, 1)])
def test_factors_that_make_no_window_are_refused(factors):
    with pytest.raises(ValueError, match="factors"):
        mean(np.zeros((2, 2, 2), np.uint8), factors)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="axes"):
        mean(np.zeros((2, 2), np.uint8))
    for bad in (np.zeros((2, 2, 2), complex), np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), np.longdouble)):
        with pytest.raises(TypeError, match="average"):
            mean(bad)
