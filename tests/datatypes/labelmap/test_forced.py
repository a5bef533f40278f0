"""Writes that an administrator forces onto a committed version: what descendants see agrees with itself."""

import numpy as np
import pytest

import dvid_dask
from dvid_dask.errors import Conflict


@pytest.fixture
def family():
    """A committed version and two children of it, each in a segmentation of eight supervoxels in four blocks."""
    root = dvid_dask.create("memory://").new_repo("fly")["master"]
    seg = root.repo.new_instance("labelmap", "seg", {"BlockSize": "16,16,16", "MaxDownresLevel": "1"})
    labels = np.arange(1, 9, dtype=np.uint64).repeat(8) * np.ones((16, 16, 1), np.uint64)
    seg.write(labels, (0, 0, 0))
    root.commit()
    return seg, root.new_branch("a")["seg"], root.new_branch("b")["seg"]


def full(label):
    return np.full((16, 16, 16), label, np.uint64)


def check(*segs):
    for seg in segs:
        assert list(seg.verify()) == []


def test_a_child_that_changed_nothing_gets_all(family):
    seg, a, b = family
    seg.write(full(1), (0, 0, 16), force=True)
    for other in (a, b):
        assert (other.read((0, 0, 16), (16, 16, 16)) == 1).all()
        assert other.size(1) == 2048 + 4096
    check(seg, a, b)


def test_a_write_of_which_a_child_would_get_a_part_is_refused(family):
    seg, a, b = family
    a.merge(1, [2])
    before = [s.view().token for s in (seg, a, b)]
    with pytest.raises(Conflict, match=a.version.uuid):
        seg.write(full(1), (0, 0, 0), force=True)  # would give the child voxels that its index doesn't know
    with pytest.raises(Conflict):
        seg.merge(1, [3], force=True)
    assert [s.view().token for s in (seg, a, b)] == before
    check(seg, a, b)


def test_what_is_refused_can_be_done_on_a_branch_and_merged(family):
    seg, a, b = family
    a.merge(1, [2])
    with pytest.raises(Conflict, match="branch of the ancestor, and merge both"):
        seg.merge(1, [3], force=True)
    b.merge(1, [3])
    for side in (a, b):
        side.version.commit()
    both = seg.repo.merge([a.version, b.version])["seg"]
    assert both.supervoxels_of(1).id.tolist() == [1, 2, 3]
    check(seg, a, b, both)


def test_a_child_that_changed_other_bodies_gets_all(family):
    seg, a, b = family
    a.write(full(20), (0, 0, 0))
    seg.merge(5, [6], force=True)
    assert a.size(5) == b.size(5) == 4096
    check(seg, a, b)


def test_the_largest_label_of_a_child_is_never_below_its_parent(family):
    seg, a, b = family
    for n in range(20):  # in all slots that it is kept in
        a.allocate_labels(1)
        seg.raise_max_label(100 + 10 * n, force=True)
        assert seg.max_label() <= a.max_label()
        assert seg.max_label() <= b.max_label()


def test_a_child_with_all_of_it_changed_keeps_its_own(family):
    seg, a, b = family
    a.merge(1, [2])
    seg.set_mappings([1000], [1000], force=True)  # in the page of the mapping that the child has changed
    assert a.mapping([1, 2]).tolist() == [1, 1]
    check(seg, a, b)


def test_extents_of_both_count(family):
    seg, a, b = family
    a.write(full(30), (0, 0, 96))
    seg.set_extents((-16, 0, 0), (10, 10, 10), force=True)
    assert a.extents.start == (0, 0, -16)
    assert a.extents.stop[2] == 112
    assert b.extents.stop == (11, 11, 11)
