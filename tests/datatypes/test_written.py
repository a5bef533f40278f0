"""Which blocks lie in a tree, from memory: never another answer than the tree's own, however states come and go."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.boxes import Box
from dvid_dask.datatypes import written
from dvid_dask.datatypes.written import written_blocks
from dvid_dask.store import Store
from dvid_dask.versions.space import Space

MARK, PREFIX, INSTANCE = b"mark", b"c/", b"i/"
FAR = 1 << 28


def key_of(block):
    return INSTANCE + PREFIX + b"%d/%d/%d" % tuple(block)


def names(keys):
    return np.array([[int(v) for v in key[len(PREFIX) :].split(b"/")] for key in keys], np.int64).reshape(-1, 3)


def known(view):
    return written_blocks(Space(view, INSTANCE), MARK, PREFIX, names)


def truth(view, box):
    keys = [key[len(INSTANCE) :] for key in view.keys(INSTANCE + PREFIX, INSTANCE + PREFIX + b"\xff")]
    blocks = [tuple(b) for b in names(keys).tolist()] if keys else []
    return sorted(b for b in blocks if box.contains(Box.of(b, [v + 1 for v in b])))


def ask(view, box):
    found = known(view)
    if found is None:
        return []
    blocks = found.inside(view, box)
    return None if blocks is None else [tuple(b) for b in blocks.tolist()]


def fresh():
    return Store.create(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def tree():
    made = fresh().create_tree("a")
    made.update(lambda tx: tx.put(b"i/x", b""))
    return made


def listed(tree, view=None):
    """Ask so often that the list is made."""
    view = view or tree.view()
    for _ in range(1000):
        if (found := ask(view, Box((0, 0, 0), (9, 9, 9)))) is not None:
            return found
    raise AssertionError("it was never listed")


def write(*blocks):
    return lambda tx: [tx.put(INSTANCE + MARK, b""), *(tx.put(key_of(b), b"v") for b in blocks)]


def test_it_is_known_at_once_that_nothing_was_written(tree):
    assert known(tree.view()) is None
    tree.update(write((0, 0, 0)))
    assert listed(tree) == [(0, 0, 0)]


def test_looking_comes_first_and_pays_for_the_list(tree):
    blocks = [(0, y, x) for y in range(20) for x in range(20)]
    tree.update(write(*blocks))
    view = tree.view()
    asked = 0
    while ask(view, Box((0, 0, 0), (1, 1, 1))) is None:
        asked += 1
    assert asked == len(blocks) // written._LOOK - 1
    assert listed(tree) == [(0, y, x) for y in range(9) for x in range(9)]


def test_the_list_follows_commits_and_keeps_to_the_state_that_is_asked(tree):
    tree.update(write((0, 0, 0), (1, 1, 1)))
    first = tree.view()
    assert listed(tree) == [(0, 0, 0), (1, 1, 1)]
    tree.update(lambda tx: tx.put(b"other", b"1"))
    box = Box((0, 0, 0), (9, 9, 9))
    assert ask(tree.view(), box) == [(0, 0, 0), (1, 1, 1)]
    tree.update(lambda tx: [tx.put(key_of((2, 2, 2)), b""), tx.delete(key_of((0, 0, 0)))])
    assert ask(tree.view(), box) == [(1, 1, 1), (2, 2, 2)]
    # of a state that is past nobody knows any more
    assert ask(first, box) in (None, truth(first, box))
    # after a commit that can't say what it changed the list is made anew
    tree.update(lambda tx: [tx.put(key_of((3, 3, 3)), b""), tx.to_nodes(), tx.delete_range(b"zz", b"zzz")])
    assert ask(tree.view(), box) in (None, truth(tree.view(), box))
    assert listed(tree) == truth(tree.view(), box)


def test_very_many_are_not_remembered(tree, monkeypatch):
    monkeypatch.setattr(written, "LIMIT", 3)
    tree.update(write(*[(0, 0, x) for x in range(5)]))
    assert all(ask(tree.view(), Box((0, 0, 0), (9, 9, 9))) is None for _ in range(50))


def test_blocks_too_far_apart_for_one_number_are_looked_up(tree):
    tree.update(write((-FAR, -FAR, -FAR), (FAR, FAR, FAR)))
    assert all(ask(tree.view(), Box((0, 0, 0), (9, 9, 9))) is None for _ in range(50))


block = st.tuples(*[st.integers(-4, 6)] * 3)
step = st.tuples(st.lists(block, max_size=4), st.lists(block, max_size=4), block, block)


@settings(max_examples=40, deadline=None)
@given(st.lists(step, min_size=1, max_size=8))
def test_any_history(steps):
    tree = fresh().create_tree("a")
    tree.update(write((0, 0, 0)))
    listed(tree)
    for added, removed, one, other in steps:

        def change(tx, added=added, removed=removed):
            for b in removed:
                tx.delete(key_of(b))
            for b in added:
                tx.put(key_of(b), b"v")

        tree.update(change)
        box = Box(tuple(map(min, one, other)), tuple(max(a, b) + 1 for a, b in zip(one, other, strict=True)))
        view = tree.view()
        listed(tree)
        assert ask(view, box) == truth(view, box)
