"""The drawing of versions: each line ends where it should, and no two lines or dots share a place."""

import re

from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.api.pages.graph import LANE, ROW, draw


@st.composite
def dags(draw_value):
    count = draw_value(st.integers(1, 25))
    parents = {1: []}
    for vid in range(2, count + 1):
        some = draw_value(st.lists(st.integers(1, vid - 1), min_size=1, max_size=3, unique=True))
        parents[vid] = some
    return parents


def points(path):
    """Where a path begins, where it ends, and the vertical pieces between."""
    numbers = re.findall(r"([MCV])([^MCV]*)", path)
    x = y = 0
    begin, upright = None, []
    for kind, text in numbers:
        values = [float(v) for v in text.split()]
        if kind == "M":
            x, y = values
            begin = x, y
        elif kind == "C":
            x, y = values[-2:]
        else:
            upright.append((x, y, values[0]))
            y = values[0]
    return begin, (x, y), upright


@given(dags())
def test_lines(parents):
    drawing = draw(parents)
    assert list(drawing.lanes) == sorted(parents, reverse=True)
    pairs = [(vid, parent) for vid in drawing.lanes for parent in parents[vid]]
    assert len(pairs) == len(drawing.edges)
    places = {drawing.place(vid): vid for vid in parents}
    assert len(places) == len(parents)
    for (child, parent), edge in zip(pairs, drawing.edges, strict=True):
        begin, end, upright = points(edge.path)
        assert begin == drawing.place(child)
        assert end == drawing.place(parent)
        for x, top, bottom in upright:
            assert top < bottom
            # a line passes no dot but those it joins
            for (px, py), vid in places.items():
                assert vid in (child, parent) or px != x or not top < py < bottom
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in places)


def test_a_line_of_versions_is_one_lane():
    drawing = draw({vid: [vid - 1] if vid > 1 else [] for vid in range(1, 400)})
    assert set(drawing.lanes.values()) == {0}
    assert drawing.height == 399 * ROW


def test_branches_stand_side_by_side():
    drawing = draw({1: [], 2: [1], 3: [1], 4: [1]})
    assert sorted(drawing.lanes[vid] for vid in (2, 3, 4)) == [0, 1, 2]
    assert drawing.width >= 2 * LANE


def test_parents_that_are_not_drawn():
    drawing = draw({8: [7], 9: [8, 3]})
    ends = [points(edge.path)[1][1] for edge in drawing.edges]
    assert drawing.height in ends
