"""The checker finds every kind of damage to the label index, and repairs it to the byte-for-byte right rows."""

from __future__ import annotations

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.index import SMALL, Index
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.errors import LockedVersion, NotSupported
from tests.ops.conftest import neurites
from tests.ops.model import index_rows, stored_rows
from tests.ops.test_ingest import labelmap


@pytest.fixture
def volume():
    """One body in more blocks than a record holds, many small ones."""
    made = neurites((144, 144, 144), zeros=0.3)
    made[::16, ::16] = 12345
    return made


@pytest.fixture
def seg(repo, volume):
    seg = labelmap(repo, levels=0)
    ops.ingest(volume, seg, progress=False)
    assert Index(seg.view()).header(12345).rows > SMALL
    return seg


def small_body(seg):
    return next(b for b, h in Index(seg.view()).scan() if not h.paged)


def change(seg, fn):
    seg.mutate(lambda m, space: fn(space))


def set_count(body, block, sv, count):
    return lambda space: Index(space).update(body, Rows.of([block], [sv], [count]))


def drop_record(body):
    return lambda space: space.delete(keys.body(body))


def drop_page(body):
    return lambda space: space.delete(next(iter(space.keys(keys.pages(body)))))


def spoil_page(body):
    return lambda space: space.put(next(iter(space.keys(keys.pages(body)))), b"\x00garbage")


def drop_bucket(body):
    return lambda space: space.delete(next(iter(space.keys(keys.buckets(body)))))


def move_to_other_body(space):
    body = next(b for b, h in Index(space).scan() if not h.paged)
    Index(space).move(body, 12345, stamp=None, surface=None)


DAMAGE = {
    "count of a big body": set_count(12345, (0, 0, 0), 12345, 3),
    "row too many": set_count(12345, (500, 0, 0), 12345, 3),
    "body that isn't": set_count(999, (1, 1, 1), 999, 1),
    "record of a big body gone": drop_record(12345),
    "page gone": drop_page(12345),
    "page spoilt": spoil_page(12345),
    "bucket gone": drop_bucket(12345),
    "rows under another body": move_to_other_body,
    "whole index gone": lambda space: [space.delete_prefix(p) for p in (b"I", b"P", b"S")],
}


def test_a_right_index_is_right(seg, volume):
    report = ops.check_index(seg, progress=False)
    assert report.ok
    assert report.voxels == int((volume > 0).sum())
    assert report.rows == len(index_rows(volume, (0, 0, 0), (16, 16, 16)))
    assert report.bodies == len(np.unique(volume)) - 1
    assert not [t for t in seg.version.datastore.store.trees() if t.startswith("scratch")]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_repaired(seg, volume, damage):
    change(seg, damage)
    report = ops.check_index(seg, progress=False)
    assert not report.ok
    assert report.problems
    assert str(report.count) in str(report).replace(",", "")
    ops.check_index(seg, repair=True, progress=False)
    assert ops.check_index(seg, progress=False).ok
    assert stored_rows(seg) == index_rows(volume, (0, 0, 0), (16, 16, 16))


def test_a_record_of_a_small_body_spoilt(seg, volume):
    body = small_body(seg)
    change(seg, lambda space: space.put(keys.body(body), b"no record"))
    report = ops.check_index(seg, progress=False)
    assert report.problems[0].body == body
    assert "damaged" in report.problems[0].what
    ops.check_index(seg, repair=True, progress=False)
    assert stored_rows(seg) == index_rows(volume, (0, 0, 0), (16, 16, 16))


def test_bodies_after_a_merge_are_right(seg, volume):
    labels = np.unique(volume)[1:6].tolist()
    seg.merge(labels[0], labels[1:])
    assert ops.check_index(seg, progress=False).ok


def test_a_committed_version_is_checked_but_not_repaired(repo, seg):
    change(seg, set_count(999, (1, 1, 1), 999, 1))
    repo["master"].commit()
    assert not ops.check_index(seg, progress=False).ok
    with pytest.raises(LockedVersion):
        ops.check_index(seg, repair=True, progress=False)


def test_only_labelmaps_have_an_index(repo):
    with pytest.raises(NotSupported):
        ops.check_index(repo.new_instance("uint8blk", "gray"), progress=False)
    with pytest.raises(NotSupported):
        ops.check_index(labelmap(repo, name="bare", IndexedLabels="false"), progress=False)
