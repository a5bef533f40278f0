"""Mapping pages against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.labelmap.mapping import Mapping, set_mapping

from .conftest import DictSpace

ids = st.one_of(st.integers(1, 5000), st.integers(2**64 - 3000, 2**64 - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(ids, st.integers(0, 50)), max_size=40), max_size=5), st.lists(ids, max_size=20))
def test_entries_follow_the_model(steps, asked):
    space, model = DictSpace(), {}
    for step in steps:
        set_mapping(space, [s for s, _ in step], [b for _, b in step])
        model.update(step)
    mapping = Mapping(space)
    asked = asked + list(model)
    assert mapping.bodies(np.array(asked, np.uint64)).tolist() == [model.get(a, a) for a in asked]
    found, values = mapping.entries(np.array(asked, np.uint64))
    assert found.tolist() == [a in model for a in asked]
    assert values.tolist() == [model.get(a, 0) for a in asked]
    assert mapping.is_empty == (not model)
    listed = {int(a): int(b) for page in mapping.scan() for a, b in zip(*page, strict=True)}
    assert listed == {a: b for a, b in model.items() if a != b}


def test_shape_is_kept_and_the_input_is_not_changed(space):
    set_mapping(space, [3], 9)
    given_ids = np.array([[3, 4], [5, 3]], np.uint64)
    assert Mapping(space).bodies(given_ids).tolist() == [[9, 4], [5, 9]]
    assert given_ids[0, 0] == 3


def test_only_the_pages_of_the_ids_are_touched(space):
    set_mapping(space, np.arange(1, 1_000_000), 7)
    space.written = space.read = 0
    set_mapping(space, [500_000, 500_001], 8)
    assert space.read == 1
    assert space.written < 4000
    mapping = Mapping(space)
    space.read = 0
    assert mapping.body(500_001) == 8
    assert mapping.body(500_002) == 7
    assert space.read == 2  # a view keeps what was read of it; this space doesn't


@pytest.mark.parametrize("url", ["memory://", "folder"])
def test_branches_with_small_commits_are_different_states(url, tmp_path):
    """One branch gets a mapping, the other none: both after one commit on the same nodes."""
    repo = dvid_dask.create(url if url == "memory://" else str(tmp_path / url), compact="never").new_repo("fly")
    seg = repo.new_instance("labelmap", "seg", {"BlockSize": "16,16,16"})
    seg.write(np.repeat(np.array([1, 2], np.uint64), 2048).reshape(16, 16, 16), (0, 0, 0))
    root = seg.version
    root.commit()
    one, other = root.newversion()["seg"], root.new_branch("other")["seg"]
    one.raise_max_label(50)
    other.merge(1, [2])
    assert one.view(0).token != other.view(0).token
    assert [Mapping(s.view(0)).is_empty for s in (one, other, one)] == [True, False, True]
    assert one[15, 15, 15] == 2
    assert other[15, 15, 15] == 1
