"""Pages that are cut into parts, against tables that aren't."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.datatypes.labelmap import pages
from dvid_dask.datatypes.labelmap.columns import pack_groups
from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.datatypes.labelmap.pages import change_page, page_rows, page_rows_of, page_table, write_page
from dvid_dask.datatypes.labelmap.rows import Rows, overlay_table

REGION = np.array([-3, 0, 7]) * 16


def table(rows) -> np.ndarray:
    rows = sorted({r[:4]: r for r in rows}.values())
    blocks = np.array([r[:3] for r in rows], np.int64).reshape(-1, 3) + REGION
    return Rows.of(blocks, [r[3] for r in rows], [r[4] for r in rows]).table()


def whole(rows: np.ndarray) -> bytes:
    """A page as earlier releases wrote it."""
    return pack_groups(rows, np.array([0, rows.shape[1]]))[0]


def dense(seed: int = 0, supervoxels: int = 3) -> np.ndarray:
    """All blocks of a region, each with several supervoxels."""
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.indices((16, 16, 16)).reshape(3, -1).T, supervoxels, axis=0) + REGION
    ids = np.tile(np.arange(supervoxels), 16**3) * 1000 + np.repeat(np.arange(16**3) // 64, supervoxels) + 1
    return Rows.of(blocks, ids, rng.integers(1, 10**5, len(ids))).sorted().table()


near = st.integers(0, 15)
row = st.tuples(near, near, near, st.integers(1, 12), st.integers(0, 3))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(row, min_size=1, max_size=40), st.none() | st.integers(1, 9)), max_size=8))
def test_changes_are_those_of_one_table(steps):
    with pytest.MonkeyPatch.context() as patch:
        for name, rows in (("PART", 5), ("MOST", 9), ("LEAST", 2)):
            patch.setattr(pages, name, rows)
        value, model = None, np.empty((6, 0), np.uint64)
        for rows, surface in steps:
            new = table(rows)
            wanted = overlay_table(model, new, surface)
            done = change_page(value, new, surface)
            assert (done.voxels, done.blocks) == (wanted.voxels, wanted.blocks)
            assert done.rows == wanted.table.shape[1] - model.shape[1]
            assert done.change.tolist() == wanted.change.tolist()
            value, model = done.value, wanted.table
            assert (value is None) == (model.shape[1] == 0)
            if value is None:
                continue
            assert page_table(value).tolist() == model.tolist()
            for ids in ([1], [3, 7, 12], [99]):
                found = page_rows_of(value, np.array(ids, np.uint64))
                assert found.table().tolist() == model[:, np.isin(model[3], ids)].tolist()


def test_pages_of_earlier_releases_are_cut_when_they_change():
    old = whole(dense())
    assert page_table(old).tolist() == dense().tolist()
    assert len(page_rows_of(old, np.array([1, 2], np.uint64))) == 128
    done = change_page(old, table([(3, 4, 5, 10**6, 77)]), 9)
    assert done.value[0] == 2
    assert (done.rows, done.blocks, done.voxels) == (1, 0, 77)
    rows = page_rows(done.value)
    assert set(rows.surface[(rows.block_zyx == REGION + [3, 4, 5]).all(axis=1)].tolist()) == {9}
    assert int((rows.surface == 9).sum()) == 4


def test_an_edit_leaves_the_bytes_of_other_parts():
    before = write_page(dense())
    after = change_page(before, table([(3, 4, 5, 10**6, 77)]), None).value
    one, other = ([part[3] for part in pages._parts(value)] for value in (before, after))
    assert len(one) == len(other) > 10
    assert sum(a is not b and a != b for a, b in zip(one, other, strict=True)) == 1


def test_parts_that_grow_are_cut_and_thin_ones_join():
    value, every = write_page(dense()), dense()
    sizes = [part.shape[1] for part in (pages._unpacked([p]) for p in pages._parts(value))]
    assert max(sizes) <= pages.MOST
    assert min(sizes) > pages.LEAST
    more = every.copy()
    more[3] += np.uint64(10**6)
    value = change_page(value, more, None).value
    sizes = [part.shape[1] for part in (pages._unpacked([p]) for p in pages._parts(value))]
    assert sum(sizes) == 2 * every.shape[1]
    assert max(sizes) <= pages.MOST
    for gone in (more, every[:, 40:]):  # first the new ones, then all but a few
        none = gone.copy()
        none[4] = 0
        for at in range(0, none.shape[1], 100):
            value = change_page(value, np.ascontiguousarray(none[:, at : at + 100]), None).value
            parts = [pages._unpacked([p]).shape[1] for p in pages._parts(value)] if value[0] == 2 else []
            assert min(parts, default=99) >= pages.LEAST
    assert page_table(value).tolist() == every[:, :40].tolist()
    assert value[0] < 2


def test_one_block_of_many_supervoxels_is_one_part():
    rows = table([(1, 1, 1, i, 5) for i in range(1, 3000)])
    assert write_page(rows)[0] < 2
    rows = np.concatenate([rows, table([(1, 1, 2, 1, 5)])], axis=1)
    assert [p[0] for p in pages._parts(write_page(rows))] == [0x111, 0x112]


@pytest.mark.parametrize("damage", [lambda v: v[:2], lambda v: v[:30], lambda v: v[:-1], lambda v: v + b"1"])
def test_damaged_pages_are_refused(damage):
    value = damage(write_page(dense()))
    for use in (page_table, lambda v: page_rows_of(v, np.array([1], np.uint64))):
        with pytest.raises(DamagedDataError, match="cut off"):
            use(value)
    with pytest.raises(DamagedDataError, match="cut off"):
        change_page(value, table([(1, 1, 1, 1, 1)]), None)
