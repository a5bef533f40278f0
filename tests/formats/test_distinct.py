"""Distinct numbers and rows are those that numpy finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dvid_dask.formats.distinct import distinct, distinct_rows, is_among, numbered_rows

DTYPES = [np.int32, np.int64, np.uint64, np.uint16]


def numbers(dtype):
    ends = np.iinfo(dtype)
    wide = st.integers(int(ends.min), int(ends.max))
    near = st.integers(max(int(ends.min), -3), 3)
    far = st.integers(int(ends.max) - 3, int(ends.max))
    return st.one_of(near, far, wide)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_numbers(dtype, data):
    shape = data.draw(st.one_of(st.integers(0, 20), st.tuples(st.integers(0, 5), st.integers(0, 5))))
    values = data.draw(arrays(dtype, shape, elements=numbers(dtype)))
    found = distinct(values)
    np.testing.assert_array_equal(found, np.unique(values))
    assert found.dtype == dtype
    assert not np.shares_memory(found, values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 2, 3, 6])
@given(data=st.data())
def test_rows(dtype, columns, data):
    kind = data.draw(st.sampled_from([st.integers(0, 3), st.integers(100, 103), numbers(dtype)]))
    rows = data.draw(arrays(dtype, (data.draw(st.integers(0, 20)), columns), elements=kind))
    expected, where = np.unique(rows, axis=0, return_inverse=True)
    found = distinct_rows(rows)
    np.testing.assert_array_equal(found, expected)
    again, which = numbered_rows(rows)
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(which, where.reshape(-1))
    assert found.dtype == again.dtype == dtype
    assert not np.shares_memory(found, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_members(dtype, data):
    shape = data.draw(st.one_of(st.integers(0, 20), st.tuples(st.integers(0, 5), st.integers(0, 5))))
    values = data.draw(arrays(dtype, shape, elements=numbers(dtype)))
    some = data.draw(arrays(dtype, st.integers(0, 20), elements=numbers(dtype)))
    found = is_among(values, some)
    np.testing.assert_array_equal(found, np.isin(values, some))
    assert found.shape == values.shape
