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
sides = st.lists(units, min_size=2, max_size=3)


@given(units, sides)
def test_merges(base, sides):
    stamp = lambda d, u: {**d, **{f"{n}_user": u for n in d}}  # noqa: E731
    base_stamped = stamp(base, "base")
    # a side keeps the stamps of what it didn't change
    stamped = [
        {k: v for n in s for k, v in (stamp({n: s[n]}, "base" if base.get(n) == s[n] else f"side{i}").items())}
        for i, s in enumerate(sides)
    ]
    merged = merge_annotations(base_stamped, stamped)
    expected = {}
    for n in "abc":
        changed = {s.get(n) for s in sides if s.get(n) != base.get(n)}
        if len(changed) > 1:
            assert merged is None
            return
        value = changed.pop() if changed else base.get(n)
        if value is not None:
            expected[n] = value
    assert {n: v for n, v in merged.items() if "_" not in n} == expected
    for n in expected:
        whose = merged[f"{n}_user"]
        assert whose == "base" if expected[n] == base.get(n) else sides[int(whose[4:])].get(n) == expected[n]


def test_the_latest_stamp_of_equal_values_stays():
    sides = [
        {"a": 2, "a_user": "early", "a_time": "2020-01-01T10:00:00+02:00"},
        {"a": 2, "a_user": "late", "a_time": "2020-01-01T09:00:00Z"},
        {"a": 2, "a_user": "never", "a_time": "soon"},
    ]
    assert merge_annotations({"a": 1}, sides)["a_user"] == "late"
    assert merge_annotations(None, sides[::-1])["a_user"] == "late"


def test_a_corrected_stamp_yields_to_another_value():
    base = {"a": 1, "a_user": "u", "a_time": T0}
    assert merge_annotations(base, [{**base, "a_user": "w", "a_time": T}, {"a": 2, "a_user": "v"}]) == {
        "a": 2,
        "a_user": "v",
    }
