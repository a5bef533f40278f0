"""Undo and redo: the state is that of before and after; what later mutations built on is refused and named."""

import numpy as np
import pytest

import dvid_dask
from dvid_dask.errors import BadRequest, LaterMutations, LockedVersion, NotFound
from dvid_dask.formats import label_index, rles

SHAPE = (32, 32, 32)


@pytest.fixture
def seg():
    repo = dvid_dask.create("memory://").new_repo("fly")
    return repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16", "MaxDownresLevel": "2"})


def labels():
    rng = np.random.default_rng(3)
    return np.kron(rng.integers(1, 9, (4, 4, 4)), np.ones((8, 8, 8), int)).astype(np.uint64)


def state(seg):
    """Everything that an edit changes, but ids that were used up."""
    entries = {i: b for ids, bodies in seg.mappings() for i, b in zip(ids.tolist(), bodies.tolist(), strict=True) if b}
    index = {}
    for body in seg.bodies():
        held = seg.index(body)
        rows = zip(held.block_zyx.tolist(), held.supervoxel.tolist(), held.count.tolist(), strict=True)
        index[body] = {(*block, sv): n for block, sv, n in rows}
    voxels = [seg.read((0, 0, 0), [n >> s for n in SHAPE], s, supervoxels=True).tobytes() for s in range(3)]
    assert list(seg.verify()) == []
    splits = [rows.tolist() for _, rows in seg.supervoxel_splits()]
    return voxels, seg.read((0, 0, 0), SHAPE).tobytes(), entries, index, splits


def without_ids(told):
    """Splits are listed under the mutation that did them last."""
    *rest, listed = told
    return [*rest, [[row[1:] for row in rows] for rows in listed]]


def last(seg):
    return list(seg.undoable())[-1].id


def part(mask):
    return rles.rles_from_mask(mask & (np.arange(32) < 13))


EDITS = {
    "merge": lambda seg: seg.merge(1, [2, 3]),
    "cleave": lambda seg: seg.cleave(1, [2])[1],
    "renumber": lambda seg: seg.renumber([(100, 5)])[0],
    "split-supervoxel": lambda seg: seg.split_supervoxel(4, part(labels() == 4)).mutation,
    "split": lambda seg: seg.split(1, part(np.isin(labels(), [1, 3]))).mutation,
    "overwrite": lambda seg: (seg.write(np.full((16, 16, 32), 6, np.uint64), (16, 0, 0)), last(seg))[1],
    "write": lambda seg: (seg.write(np.full((16, 16, 16), 300, np.uint64), (0, 0, 32)), last(seg))[1],
    "merge again": lambda seg: seg.merge(8, [7, 6]),
}


def test_all_edits_backwards_and_forwards(seg):
    seg.write(labels(), (0, 0, 0))
    states, ids = [state(seg)], []
    for edit in EDITS.values():
        ids.append(edit(seg))
        states.append(state(seg))
    for n in reversed(range(len(ids))):
        undone = seg.undo(ids[n], user="me")
        assert undone > ids[-1]
        assert without_ids(state(seg)) == without_ids(states[n])
    for n, mutation in enumerate(ids):
        seg.redo(mutation)
        assert without_ids(state(seg)) == without_ids(states[n + 1])
    for n in reversed(range(len(ids))):
        seg.undo(ids[n])
        assert without_ids(state(seg)) == without_ids(states[n])


def test_the_first_write_can_be_undone(seg):
    seg.write(labels(), (0, 0, 0))
    seg.undo(last(seg))
    assert not seg.read((0, 0, 0), SHAPE).any()
    assert list(seg.bodies()) == []
    assert list(seg.verify()) == []
    seg.redo(last(seg))
    assert (seg.read((0, 0, 0), SHAPE) == labels()).all()
    assert list(seg.verify()) == []


def test_edits_of_other_bodies_stay(seg):
    seg.write(labels(), (0, 0, 0))
    first = seg.merge(1, [2])
    seg.merge(3, [4])  # in the same page of the mapping
    seg.split_supervoxel(5, part(labels() == 5))  # in the same blocks
    seg.merge(1, [6])  # into the same body
    seg.undo(first)
    assert seg.mapping([1, 2, 3, 4, 6]).tolist() == [1, 2, 3, 3, 1]
    assert list(seg.verify()) == []


@pytest.mark.parametrize(
    ("edit", "later"),
    [
        ("merge", lambda seg: seg.merge(8, [1])),
        ("merge", lambda seg: seg.cleave(1, [2])[1]),
        ("merge", lambda seg: seg.renumber([(200, 1)])[0]),
        ("merge", lambda seg: seg.split_supervoxel(2, part(labels() == 2)).mutation),
        ("renumber", lambda seg: seg.merge(100, [4])),
        ("split-supervoxel", lambda seg: seg.merge(1, [4]) and seg.cleave(1, [9])[1]),
        ("overwrite", lambda seg: (seg.write(np.full((16, 16, 16), 7, np.uint64), (16, 0, 16)), last(seg))[1]),
        ("overwrite", lambda seg: seg.split_supervoxel(6, part(SIX)).mutation),
        ("write", lambda seg: seg.merge(300, [4])),
        ("write", lambda seg: seg.merge(4, [300])),
        ("write", lambda seg: seg.renumber([(301, 300)])[0]),
    ],
)
def test_what_later_mutations_need_is_refused_and_named(seg, edit, later):
    seg.write(labels(), (0, 0, 0))
    mutation = EDITS[edit](seg)
    other = later(seg)
    before, log = state(seg), list(seg.mutations())
    with pytest.raises(LaterMutations) as refused:
        seg.undo(mutation)
    assert other in refused.value.mutations
    assert str(other) in str(refused.value)
    assert state(seg) == before
    assert list(seg.mutations()) == log
    for earlier in reversed(refused.value.mutations):
        seg.undo(earlier)
    seg.undo(mutation)


OVERWRITTEN = (np.arange(32)[:, None, None] >= 16) & (np.arange(32)[:, None] < 16) & np.ones(32, bool)
SIX = (labels() == 6) | OVERWRITTEN


def test_a_body_that_has_only_the_id_is_not_the_body(seg):
    """Two bodies exchange their ids between an edit and its undo: supervoxels must not get to the wrong one."""
    seg.write(labels(), (0, 0, 0))
    seg.merge(1, [2])
    _, mutation = seg.cleave(1, [2])
    exchanged = seg.renumber([(100, 1), (1, 7), (7, 100)])
    before = state(seg)
    with pytest.raises(LaterMutations, match="another one by now") as refused:
        seg.undo(mutation)
    assert exchanged[0] in refused.value.mutations
    assert state(seg) == before
    for renumbered in reversed(exchanged):
        seg.undo(renumbered)
    seg.undo(mutation)
    assert seg.mapping([1, 2, 7]).tolist() == [1, 1, 7]


@pytest.mark.parametrize("edit", ["split-supervoxel", "split"])
def test_voxels_are_not_given_back_to_a_supervoxel_that_was_cut_since(seg, edit):
    """A write takes some of 4's blocks; what is left of it elsewhere is cut, so 4 itself is no supervoxel any more."""
    seg.write(labels(), (0, 0, 0))
    seg.write(np.full((16, 16, 16), 300, np.uint64), (0, 0, 0))
    written, rest = last(seg), seg.sparse(4, supervoxels=True).all_runs()
    cut = {
        "split-supervoxel": lambda: seg.split_supervoxel(4, rest[:5]).mutation,
        "split": lambda: seg.split(4, rest[:5]).mutation,
    }[edit]()
    before = state(seg)
    with pytest.raises(LaterMutations, match="4 of the overwritten blocks were cut") as refused:
        seg.undo(written)
    assert refused.value.mutations == (cut,)
    assert state(seg) == before
    seg.undo(cut)
    seg.undo(written)
    assert (seg.read((0, 0, 0), SHAPE) == labels()).all()


def test_parts_are_joined_in_the_body_that_they_were_merged_into(seg):
    seg.write(labels(), (0, 0, 0))
    cut = seg.split_supervoxel(4, part(labels() == 4)).mutation
    seg.merge(1, [4])
    seg.undo(cut)
    assert seg.mapping([4]).tolist() == [1]
    assert list(seg.verify()) == []


def test_bulk_doors_can_be_undone(seg):
    seg.write(labels(), (0, 0, 0))
    before = state(seg)
    seg.set_mappings([70, 71, 70], [6, 6, 5])
    assert seg.mapping([70, 71], lookup=False).tolist() == [5, 6]
    mappings = last(seg)
    changed = label_index.LabelIndex(2, np.zeros((1, 3), np.int32), np.array([2], np.uint64), np.array([5], np.uint32))
    seg.set_indices([changed, label_index.LabelIndex(3)])
    assert seg.size(2) == 5
    indices = last(seg)
    seg.undo(indices)
    seg.undo(mappings)
    assert state(seg) == before
    seg.redo(indices)
    seg.set_indices([label_index.LabelIndex(2)])
    with pytest.raises(LaterMutations):
        seg.undo(indices)


def test_an_undo_is_told_as_the_edit_that_it_is(seg):
    seg.write(labels(), (0, 0, 0))
    merged = seg.merge(1, [2])
    cleaved, mutation = seg.cleave(1, [2])
    seg.undo(mutation, user="me", app="test")
    seg.undo(merged)
    seg.redo(merged)
    keep = ("Action", "Target", "Labels", "OrigLabel", "CleavedLabel", "Undoes", "Redoes", "User")
    told = [{k: r[k] for k in keep if k in r} for r in seg.mutations()]
    assert told[2:] == [
        {"Action": "merge-complete", "Target": 1, "Labels": [cleaved], "Undoes": mutation, "User": "me"},
        {"Action": "cleave-complete", "OrigLabel": 1, "CleavedLabel": 2, "Undoes": merged},
        {"Action": "merge-complete", "Target": 1, "Labels": [2], "Redoes": merged},
    ]


def test_what_can_be_undone_is_listed_until_the_commit(seg):
    seg.write(labels(), (0, 0, 0))
    merged = seg.merge(1, [2], user="me", app="test")
    seg.undo(merged)
    listed = [(r.id, r.action, r.user, bool(r.undone)) for r in seg.undoable()]
    assert listed[1:] == [(merged, "merge", "me", True)]
    assert listed[0][1] == "write"
    seg.version.commit()
    assert list(seg.undoable()) == []
    with pytest.raises(LockedVersion):
        seg.redo(merged)
    child = seg.version.newversion()["segmentation"]
    assert list(child.undoable()) == []
    with pytest.raises(NotFound):
        child.redo(merged)


def test_wrong_calls(seg):
    seg.write(labels(), (0, 0, 0))
    merged = seg.merge(1, [2])
    with pytest.raises(NotFound):
        seg.undo(merged + 1000)
    with pytest.raises(BadRequest, match="not undone"):
        seg.redo(merged)
    seg.undo(merged)
    with pytest.raises(BadRequest, match="undone already"):
        seg.undo(merged)
    plain = seg.repo.new_instance("labelmap", "plain", {"BlockSize": "16,16,16", "versioned": "false"})
    plain.write(labels(), (0, 0, 0))
    with pytest.raises(BadRequest, match="unversioned"):
        plain.undo(merged)
