"""How annotations are stored: they come back as they were, in one form, and parts of them are what was asked for."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.datatypes.neuronjson.record import (
    Selection,
    body_of,
    check_body,
    decode,
    encode,
    key_of,
    parse,
    plain_part,
    stamps_part,
    tidy,
)
from dvid_dask.errors import BadRequest

from . import model

names = st.one_of(st.text(max_size=6), st.sampled_from(["a", "a_user", "a_time", "_user", "b_time", "<&>"]))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=6))
def test_what_was_posted_comes_back(annotation):
    stored = encode(parse(json.dumps(annotation).encode()))
    assert decode(stored) == annotation
    assert b"\n" not in plain_part(stored)
    both = {**json.loads(plain_part(stored)), **json.loads(stamps_part(stored))}
    assert both == annotation
    assert list(json.loads(plain_part(stored))) == sorted(n for n in annotation if not n.endswith(("_user", "_time")))
    assert encode(decode(stored)) == stored


@given(
    st.dictionaries(names, values, max_size=6),
    st.sampled_from(["", "user", "time", "all", "both"]),
    st.one_of(st.none(), st.lists(names, max_size=3)),
)
def test_selections(annotation, show, fields):
    stored = encode(parse(json.dumps({"bodyid": 5, **annotation}).encode()))
    expected = model.select(decode(stored), show, fields)
    selection = Selection(show, fields)
    assert json.loads(selection.apply(stored)) == expected
    assert not any(mark in selection.apply(stored) for mark in b"<>&")
    assert list(selection.decode(stored)) == list(expected)


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_keys_sort_as_ids(a, b):
    assert body_of(key_of(a)) == a
    assert (key_of(a) < key_of(b)) == (a < b)


@pytest.mark.parametrize("body", [0, -1, 2**64, True, 1.0, "1", None, b"1", [1]])
def test_no_body_ids(body):
    with pytest.raises(BadRequest):
        check_body(body)


def test_numpy_values():
    given = {
        "a": np.uint64(2**64 - 1),
        "b": np.arange(3),
        "c": np.float32(2),
        "d": (1, np.bool_(True)),
        "e": np.str_("x"),
    }
    assert tidy(given) == {"a": 2**64 - 1, "b": [0, 1, 2], "c": 2, "d": [1, True], "e": "x"}
    assert type(tidy(np.str_("x"))) is str


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[1]", b"5", b"null", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e400}', b'{"a": -1e999}'),
        *(b'{"a": 01}', b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": 1}{"b": 2}', b"{a: 1}", b'{"a": 1,}', b"\x00"),
        *(b'{"a": ' + nested(101) + b"}", b'{"a": ' + nested(100_000) + b"}", b'{"a": 1' + b"0" * 10_000 + b"}"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_no_annotations(text):
    with pytest.raises(BadRequest):
        parse(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, {"a", "b"}, object(), b"bytes", [[math.nan]], 1j])
def test_no_json_values(value):
    with pytest.raises(BadRequest):
        tidy({"a": value})


def test_endless_values():
    endless = []
    endless.append(endless)
    with pytest.raises(BadRequest, match="nested"):
        tidy(endless)
    with pytest.raises(BadRequest, match="Unicode"):
        encode({"a": "\ud800"})
    with pytest.raises(BadRequest, match="possible"):
        encode({"a": "x" * (17 << 20)})
