"""Rows given to many bodies at once, against the same updates body by body."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.datatypes.labelmap.index import SMALL, Index, Stamp
from dvid_dask.datatypes.labelmap.moves import give
from dvid_dask.datatypes.labelmap.rows import Rows

from .conftest import DictSpace

FIRST, SECOND = Stamp(7, "then", "ann", "x"), Stamp(9, "now", "bob", "y")


def rows_of(rng: np.random.Generator, n: int, first: int) -> Rows:
    """Different (block, supervoxel) pairs, with supervoxels from `first` on, in any order."""
    pairs = np.unique(np.c_[rng.integers(-3, 3, (n, 3)), rng.integers(first, first + 6, n)], axis=0)
    rng.shuffle(pairs)
    return Rows.of(pairs[:, :3], pairs[:, 3].astype(np.uint64), rng.integers(1, 99, len(pairs)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_bodies_at_once(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = st.sampled_from([0, 0, 1, 5, 60, SMALL - 20, SMALL + 20])
    before = {body: data.draw(sizes) for body in range(1, 9)}
    added = {body: data.draw(sizes) for body in before}
    one, other = DictSpace(), DictSpace()
    for body, n in before.items():
        if n:
            rows = rows_of(rng, n, 1)
            for space in (one, other):
                Index(space).update(body, rows, stamp=FIRST)
    # of a pair that the body has, what is given counts
    new = {body: rows_of(rng, n, data.draw(st.sampled_from([1, 4, 100]))) for body, n in added.items() if n}
    for body, rows in new.items():
        Index(one).update(body, rows, stamp=SECOND, surface=SECOND.mutation)
    if new:
        bodies = np.concatenate([np.full(len(rows), body, np.uint64) for body, rows in new.items()])
        every = Rows.concatenate(list(new.values()))
        order = rng.permutation(len(bodies))
        give(other, bodies[order], every[order], SECOND)
    assert other.data == one.data
