"""Cutting a long JSON list or object: the parts together say what the whole says, and what is no JSON is in no part."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.json_parts import split

TEXT = st.text(st.sampled_from('a,"\\[]{}:é \n'), max_size=5)
VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SPACE = st.sampled_from([b"", b" ", b"\n\t "])


@settings(deadline=None)  # compiles
@given(st.lists(VALUES, max_size=8), st.integers(1, 4), SPACE, SPACE, st.sampled_from([None, 1]))
def test_a_list_in_parts(values, every, before, after, indent):
    parts = split(before + json.dumps(values, indent=indent).encode() + after, every)
    assert parts.items == len(values)
    each = [json.loads(part) for part in parts]
    assert list(itertools.chain(*each)) == values
    assert all(len(part) == every for part in each[:-1])


@settings(deadline=None)  # compiles
@given(st.dictionaries(TEXT, VALUES, max_size=8), st.integers(1, 4))
def test_an_object_in_parts(values, every):
    parts = split(memoryview(json.dumps(values, ensure_ascii=False).encode()), every)
    assert parts.items == len(values)
    found = {}
    for part in parts:
        found |= json.loads(part)
    assert found == values


@settings(deadline=None)  # compiles
@given(st.text(st.sampled_from('[]{},"\\1: '), max_size=12), st.integers(1, 3))
def test_what_is_no_json_is_refused_whole_or_in_a_part(text, every):
    def decoded():
        return list(itertools.chain(*(json.loads(part) for part in split(text.encode(), every))))

    try:
        right = json.loads(text)
        if not isinstance(right, (list, dict)):
            raise ValueError  # noqa: TRY301  no list either
    except ValueError:
        with pytest.raises((FormatError, ValueError)):
            decoded()
    else:
        assert decoded() == list(right)


@pytest.mark.parametrize("data", [b"", b" ", b"1", b'"[]"', b"[", b"[1", b'["]', b"[] 1", b"[]]", b"{}{}", b"null"])
def test_other_things_are_refused(data):
    with pytest.raises(FormatError):
        list(split(data, 2))


@pytest.mark.parametrize("data", [b"[,]", b"[1,]", b"[,1]", b"[1,,2]", b"[1,2,]", b"[1,2,,]", b"{,}"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_comma_too_many_shows_in_a_part(data, every):
    with pytest.raises(ValueError, match=r"Expecting|Illegal|property"):
        [json.loads(part) for part in split(data, every)]
