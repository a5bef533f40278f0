"""What a post makes of an annotation, and what a merge of branches makes of two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.datatypes.neuronjson.posting import merge_annotations, post

T0, T = "2020-01-01T00:00:00Z", "2026-03-01T12:00:00Z"
A1 = {"bodyid": 1, "a": 1, "a_user": "u1", "a_time": T0}
C5 = {"c": 5, "c_user": "u1", "c_time": T0}


@pytest.mark.parametrize(
    ("old", "posted", "more", "stored"),
    [
        (None, {"a": 1, "b_user": "x"}, {}, {"a": 1, "a_user": "u2", "a_time": T, "b_user": "x", "b_time": T}),
        (A1, {"a": 1}, {}, A1),
        (A1, {"a": 2}, {}, {"a": 2, "a_user": "u2", "a_time": T}),
        ({**A1, **C5}, {"a": 1, "d": 2}, {"replace": True}, {**A1, "d": 2, "d_user": "u2", "d_time": T}),
        (A1, {"a": None}, {}, {"a_user": "u2", "a_time": T}),
        (A1, {"a": None}, {"replace": True}, {"a_user": "u2", "a_time": T}),
        (A1, {"a": None, "a_user": None, "a_time": None}, {}, {}),
        (A1, {"a": 7, "a_user": "zz"}, {"conditional": ["a"]}, {"a": 1, "a_user": "zz", "a_time": T0}),
        (A1, {"a_user": "zz"}, {}, {"a": 1, "a_user": "zz", "a_time": T0}),
        (A1, {"a": True}, {}, {"a": True, "a_user": "u2", "a_time": T}),
        (A1, {"a": [1]}, {"conditional": ["a"], "replace": True}, {"a": [1], "a_user": "u2", "a_time": T}),
        ({"bodyid": 1, "a": [1]}, {"a": [True]}, {}, {"a": [True], "a_user": "u2", "a_time": T}),
        (
            A1,
            {"a": None, "a_user": "by", "b": 3},
            {},
            {"a_user": "by", "a_time": T, "b": 3, "b_user": "u2", "b_time": T},
        ),
        ({"bodyid": 1}, {"user": "me"}, {}, {"user": "me"}),
        ({"bodyid": 1, "a": ""}, {"a": "x"}, {"conditional": ["a", "b"]}, {"a": ""}),
    ],
)
def test_posts(old, posted, more, stored):
    found = post(old, {"bodyid": 1, **posted}, user="u2", time=T, **more)
    assert found == {"bodyid": 1, **stored}
    assert [type(v) for v in found.values()] == [type({"bodyid": 1, **stored}[n]) for n in found]


units = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2))


def stamped(side, base, who):
    """A side with stamps: its own where it differs from the base, which keeps those it had."""
    return {
        name: value
        for field, held in side.items()
        for name, value in ((field, held), (f"{field}_user", "base" if base.get(field) == held else who))
    }


@given(units, units, units)
def test_merges(base, ours, theirs):
    merged, conflicts = merge_annotations(stamped(base, base, ""), stamped(ours, base, "o"), stamped(theirs, base, "t"))
    expected, clashes = {}, []
    for name in "abc":
        old, mine, other = (each.get(name) for each in (base, ours, theirs))
        value, whose = (other, "t") if mine == old else (mine, "o")
        if mine != old and other not in (old, mine):
            clashes.append(name)
        if value is not None:
            expected |= {name: value, f"{name}_user": "base" if value == old else whose}
    assert merged == expected
    assert sorted(conflicts) == clashes


def test_the_later_stamp_of_equal_values_stays():
    early = {"a": 2, "a_user": "early", "a_time": "2020-01-01T10:00:00+02:00"}
    late = {"a": 2, "a_user": "late", "a_time": "2020-01-01T09:00:00Z"}
    never = {"a": 2, "a_user": "never", "a_time": "soon"}
    for sides in ((early, late), (late, early), (never, late), (late, never)):
        for base in ({"a": 1}, None):
            assert merge_annotations(base, *sides) == (late, [])


def test_a_corrected_stamp_yields_to_another_value():
    base = {"a": 1, "a_user": "u", "a_time": T0}
    corrected, other = {**base, "a_user": "w", "a_time": T}, {"a": 2, "a_user": "v"}
    assert merge_annotations(base, corrected, other) == merge_annotations(base, other, corrected) == (other, [])
