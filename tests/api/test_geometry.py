"""Coordinates in URLs: what is accepted is exactly int32 decimals; everything else is a BadRequest that quotes it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.api import geometry as g
from dvid_dask.errors import BadRequest

int32 = st.integers(g.INT32_MIN, g.INT32_MAX)


@settings(deadline=None)
@given(st.lists(int32, min_size=1, max_size=5), st.sampled_from("_,"))
def test_points_come_back_as_they_were_written(point, sep):
    assert g.parse_point(sep.join(map(str, point)), len(point), sep=sep) == tuple(point)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_point_or_a_bad_request(text):
    try:
        point = g.parse_point(text)
    except BadRequest:
        return
    assert len(point) == 3
    assert all(g.INT32_MIN <= v <= g.INT32_MAX for v in point)


@pytest.mark.parametrize(
    "text", ["", "1_2", "1_2_3_4", "1_2_x", "1__3", "1_2_3.0", "0x1_2_3", "1_2_2147483648", "1_2_-2147483649", "１_2_3"]
)
def test_bad_points(text):
    with pytest.raises(BadRequest):
        g.parse_point(text)


def test_blanks_and_signs_as_dvid_reads_them():
    assert g.parse_point(" 1 _ +2_-3") == (1, 2, -3)
    assert g.parse_int("+5", "n") == 5
    for bad in (" 5", "5 ", "1_0", "\u0661", ""):
        with pytest.raises(BadRequest):
            g.parse_int(bad, "n")


@pytest.mark.parametrize("text", ["0_1_1", "-1_1_1", "1_1"])
def test_sizes_are_positive(text):
    with pytest.raises(BadRequest):
        g.parse_size(text)


@settings(deadline=None)
@given(st.lists(int32, min_size=3, max_size=3), st.lists(st.integers(1, g.INT32_MAX), min_size=3, max_size=3))
def test_a_box_is_accepted_exactly_where_its_far_corner_is_int32(offset, size):
    fits = all(o + s - 1 <= g.INT32_MAX for o, s in zip(offset, size, strict=True))
    try:
        g.check_box(offset, size)
    except BadRequest:
        assert not fits
    else:
        assert fits


def test_labels_span_uint64():
    assert g.parse_label(str(2**64 - 1)) == 2**64 - 1
    for bad in (str(2**64), "-1", "1e3", "9" * 5000, "+1", "-0", " 1", "1 "):
        with pytest.raises(BadRequest):
            g.parse_label(bad)


def test_shapes():
    assert g.parse_shape("Vol") == g.parse_shape("0,1,2") == (0, 1, 2)
    for bad in ("1_0", "arb", "", "xyz"):
        with pytest.raises(BadRequest):
            g.parse_shape(bad)


def test_bounds():
    assert not g.parse_bounds({}).any
    bounds = g.parse_bounds({"minx": "0", "maxy": "-5"})
    assert bounds.any
    assert bounds == ((0, None, None), (None, -5, None))
    with pytest.raises(BadRequest, match="minz"):
        g.parse_bounds({"minz": "low"})
