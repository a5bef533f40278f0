"""labelarray against a dense array: random histories of writes, merges, splits, undo, on several versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.labelmap import Bounds, LabelArray, LabelVolume
from dvid_dask.errors import BadRequest, LaterMutations, LockedVersion, NotFound
from dvid_dask.formats import rles

from .dense import Dense, blobs, runs_of, some_runs
from .model import GRIDS, Grid

EDITS = ("write", "merge", "split", "split into", "coarse", "undo", "child")


class History:
    """A labelarray, an annotation that follows it, and what both should hold."""

    def __init__(self, grid, rng):
        self.grid, self.rng = grid, rng
        self.ds = dvid_dask.create("memory://", compact="never")
        repo = self.ds.new_repo("fly")
        repo.new_instance("labelarray", "seg", grid.settings)
        notes = repo.new_instance("annotation", "notes")
        notes.set_syncs(["seg"])
        points = np.unique(rng.integers(0, grid.shape, (40, 3)), axis=0) + grid.offset
        notes.add([{"Pos": p[::-1], "Kind": "Note"} for p in points.tolist()])
        self.points = points
        self.versions = {repo.root: Dense(grid)}
        self.at = repo.root
        self.repo = repo
        self.back = []

    @property
    def seg(self):
        return self.repo[self.at]["seg"]

    @property
    def model(self):
        return self.versions[self.at]

    def label(self):
        present = self.model.present()
        return int(self.rng.choice(present)) if present and self.rng.random() < 0.9 else int(self.rng.integers(1, 12))

    def step(self, edit):
        rng, model, before = self.rng, self.model, self.model.labels.copy()
        if edit == "write":
            start = [int(rng.integers(0, n)) for n in self.grid.blocks]
            blocks = [int(rng.integers(1, n - s + 1)) for n, s in zip(self.grid.blocks, start, strict=True)]
            box = self.grid.box(start, blocks)
            labels = blobs(rng, model.labels[box].shape)
            self.seg.write(labels, self.grid.at(start))
            model.write(box, labels)
        elif edit == "merge":
            target, *merged = dict.fromkeys(self.label() for _ in range(3))
            if not merged:
                return
            self.seg.merge(target, merged)
            model.merge(target, merged)
        elif edit in ("split", "split into", "coarse"):
            old, to = self.label(), 0 if edit == "split" else int(rng.integers(1, 60))
            if to == old:
                return
            expected = to or max(self.seg.next_labels.largest, 0) + 1
            if edit == "coarse":
                z, y, x = (rng.integers(f, f + n, 3) for f, n in zip(self.grid.first, self.grid.blocks, strict=True))
                blocks = np.stack([z, y, x], axis=1)
                done = self.seg.split_coarse(old, blocks, to=to)
                mask = model.in_blocks(blocks.tolist())
            else:
                runs = some_runs(rng, model, old)
                done = self.seg.split(old, runs, to=to)
                mask = model.under(runs)
            assert done.label == expected
            model.split(old, done.label, mask)
        elif edit == "undo":
            self.undo()
            return
        else:
            self.repo[self.at].commit("done")
            child = self.repo[self.at].newversion().uuid
            self.versions[child] = model.child()
            self.at, self.back = child, []
            return
        self.back.append((before, model.labels.copy()))

    def undo(self):
        """The last edit is taken back, done again, and taken back."""
        known = [kept for kept in self.seg.undoable() if not kept.undone]
        if not known or not self.back:
            return
        before, after = self.back.pop()
        self.seg.undo(known[-1].id)
        self.model.labels = before
        self.check()
        self.seg.redo(known[-1].id)
        self.model.labels = after
        self.check()
        self.seg.undo(known[-1].id)
        self.model.labels = before.copy()

    def check(self):
        seg, model = self.seg, self.model
        assert np.array_equal(seg.read(self.grid.offset, self.grid.shape), model.labels)
        assert list(seg.verify()) == []
        present = model.present()
        assert list(seg.bodies()) == present
        assert seg.sizes(present).tolist() == [int((model.labels == v).sum()) for v in present]
        assert seg.max_label() == model.largest
        if present:
            label = int(self.rng.choice(present))
            assert np.array_equal(seg.sparse(label).all_runs(), runs_of(model, label))
        notes = seg.version["notes"]
        assert list(notes.disagreements()) == []
        inside = model.labels[tuple((self.points - self.grid.offset).T)]
        for label in np.unique(inside[inside != 0]).tolist():
            assert len(notes.of_label(label)) == int((inside == label).sum())

    def check_all(self):
        for uuid, model in self.versions.items():
            self.at = uuid
            assert np.array_equal(self.seg.read(self.grid.offset, self.grid.shape), model.labels)
            assert self.seg.max_label() == model.largest


@settings(max_examples=12, deadline=None)
@given(
    grid=st.sampled_from(GRIDS),
    seed=st.integers(0, 2**32 - 1),
    edits=st.lists(st.sampled_from(EDITS), min_size=3, max_size=9),
)
def test_any_history_is_that_of_a_dense_array(grid, seed, edits):
    history = History(grid, np.random.default_rng(seed))
    history.step("write")
    history.check()
    for edit in edits:
        history.step(edit)
        history.check()
    history.check_all()


@pytest.fixture
def seg():
    repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
    seg = repo.new_instance("labelarray", "seg", {"BlockSize": "16,16,16", "MaxDownresLevel": "1"})
    labels = np.zeros((16, 16, 32), np.uint64)
    labels[:, :, :8], labels[:, :, 8:16], labels[:, :, 16:24] = 1, 2, 3
    seg.write(labels, (0, 0, 0))
    return seg


def state(seg):
    return seg.read((0, 0, 0), (16, 16, 32)).tobytes(), seg.next_labels.next, len(list(seg.mutations()))


@pytest.mark.parametrize(
    "edit",
    [
        lambda seg: seg.merge(0, [1]),
        lambda seg: seg.merge(1, [0]),
        lambda seg: seg.merge(1, [2, 1]),
        lambda seg: seg.merge(1, []),
        lambda seg: seg.merge(1, [2**64]),
        lambda seg: seg.split(0, [[0, 0, 0, 1]]),
        lambda seg: seg.split(1, [[0, 0, 0, 1]], to=1),
        lambda seg: seg.split(1, [[0, 0, 0, 0]]),
        lambda seg: seg.split(1, [[2**31 - 1, 0, 0, 2]]),
        lambda seg: seg.split(1, [[-(2**31), 0, 0, 2**31 + 4]]),
        lambda seg: seg.split(1, [[0, 0, 0]]),
        lambda seg: seg.split_coarse(0, [[0, 0, 0]]),
        lambda seg: seg.write(np.zeros((16, 16, 8), np.uint64), (0, 0, 0)),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(seg, edit):
    before = state(seg)
    with pytest.raises(BadRequest):
        edit(seg)
    assert state(seg) == before
    assert list(seg.verify()) == []


def test_labels_without_voxels_are_passed_over(seg):
    seg.merge(1, [77, 2])
    assert list(seg.bodies()) == [1, 3]
    seg.merge(500, [3])  # a new target
    assert list(seg.bodies()) == [1, 500]
    assert seg.split(77, [[0, 0, 0, 5]]).label == 501
    assert seg.split(1, np.empty((0, 4), np.int32)).label == 502
    assert seg.split_coarse(1, np.empty((0, 3), np.int32)).label == 503
    assert list(seg.bodies()) == [1, 500]


def test_runs_of_absurd_length_cost_nothing(seg):
    assert seg.split(1, [[8 - 2**31, y, 0, 2**31 - 1] for y in range(4)]).label == 4
    assert seg.size(4) == 7 * 4


def test_a_written_label_that_was_merged_before_is_itself_again(seg):
    seg.merge(1, [2])
    seg.write(np.full((16, 16, 16), 2, np.uint64), (0, 0, 16))
    assert list(seg.bodies()) == [1, 2]
    assert seg[0, 0, 14:18].tolist() == [1, 1, 2, 2]


def test_an_edit_that_others_built_on_is_not_undone(seg):
    merged = seg.merge(1, [2])
    split = seg.split(1, [[0, 0, 0, 4]])
    with pytest.raises(LaterMutations) as refusal:
        seg.undo(merged)
    assert split.mutation in refusal.value.mutations
    seg.undo(split.mutation)
    seg.undo(merged)
    assert list(seg.bodies()) == [1, 2, 3]


def test_committed_versions_and_missing_indices_refuse_edits(seg):
    repo = seg.repo
    plain = repo.new_instance("labelarray", "plain", {"BlockSize": "16,16,16", "IndexedLabels": "false"})
    plain.write(np.full((16, 16, 16), 4, np.uint64), (0, 0, 0))
    for edit in (
        lambda s: s.merge(4, [5]),
        lambda s: s.split(4, [[0, 0, 0, 1]]),
        lambda s: s.split_coarse(4, [[0] * 3]),
    ):
        with pytest.raises(BadRequest, match="index"):
            edit(plain)
    seg.version.commit("done")
    for edit in (lambda s: s.merge(1, [2]), lambda s: s.split(1, [[0, 0, 0, 1]])):
        with pytest.raises(LockedVersion):
            edit(seg)


def test_versions_are_merged_voxel_by_voxel():
    grid = Grid((16, 16, 16), (1, 1, 3), (0, 0, 0), 1)
    repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
    root = repo.new_instance("labelarray", "seg", grid.settings)
    labels = np.arange(1, 7, dtype=np.uint64).repeat(8)[None, None].repeat(16, 0).repeat(16, 1)
    root.write(labels, (0, 0, 0))
    root.version.commit("as it was")
    ours, theirs = root.version.new_branch("ours"), root.version.new_branch("theirs")
    ours["seg"].merge(1, [2])
    theirs["seg"].merge(5, [6])
    theirs["seg"].split(3, [[16, 0, 0, 2]], to=30)
    for version in (ours, theirs):
        version.commit("edited")
    merged = repo.merge([ours, theirs])["seg"]
    expected = labels.copy()
    expected[expected == 2], expected[expected == 6] = 1, 5
    expected[0, 0, 16:18] = 30
    assert np.array_equal(merged.read((0, 0, 0), grid.shape), expected)
    assert list(merged.verify()) == []


def test_it_is_a_label_volume_and_tells_what_it_is(seg):
    assert isinstance(seg, LabelVolume)
    assert isinstance(seg, LabelArray)
    told = seg.describe()
    assert told["Extended"]["MaxLabel"] == {str(seg.version.id): 3}
    assert (told["Extended"]["MaxRepoLabel"], told["Extended"]["CountLabels"]) == (3, True)
    assert told["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [31, 15, 15]}
    with pytest.raises(NotFound):
        seg.size(9)
    assert rles.voxel_count(seg.sparse(1, bounds=Bounds((0, 0, 0), (3, 15, 3))).all_runs()) == 4 * 16 * 4


@pytest.mark.parametrize("size", ["60,64,64", "8,8,8", "0,16,16", "16,16", "1032,16,16", "1024,1024,1024", "x,y,z"])
def test_block_sizes_that_cannot_be_encoded_are_refused(size):
    with pytest.raises(BadRequest, match="BlockSize"):
        LabelArray.parse_settings({"blocksize": size})
