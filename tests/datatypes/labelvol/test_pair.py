"""labelblk and labelvol that follow each other, against a dense array; labelblks of lower resolution behind them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelvol import keys
from dvid_dask.errors import BadRequest, LaterMutations, LockedVersion, NotFound
from dvid_dask.formats import rles
from dvid_dask.formats.downsample import commonest_label

from ..labelmap.dense import Dense, blobs, runs_of, some_runs
from ..labelmap.model import Grid

EDITS = ("write", "merge", "split", "split into", "coarse", "undo", "child", "refused")

GRID = Grid((8, 16, 24), (2, 2, 2), (-2, 0, 2), 0)


class Pair:
    """Voxels, sparse volumes, two lower resolutions, annotations of either; and what they should hold."""

    def __init__(self, rng):
        self.rng = rng
        self.repo = repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
        shape = {"BlockSize": GRID.settings["BlockSize"]}
        repo.new_instance("labelblk", "lb", shape).set_syncs([])
        repo.new_instance("labelvol", "lv", shape).set_syncs(["lb"])
        self.at = repo.root
        self["lb"].set_syncs(["lv"])
        repo.new_instance("labelblk", "half", {"BlockSize": "16,16,16"}).set_syncs(["lb"])
        repo.new_instance("labelblk", "quarter", {"BlockSize": "8,8,8"}).set_syncs(["half"])
        self.points = np.unique(rng.integers(0, GRID.shape, (40, 3)), axis=0) + GRID.offset
        for name, source in (("of voxels", "lb"), ("of volumes", "lv")):
            notes = repo.new_instance("annotation", name)
            notes.set_syncs([source])
            notes.add([{"Pos": p[::-1], "Kind": "Note"} for p in self.points.tolist()])
        self.versions = {repo.root: Dense(GRID)}
        self.back = []  # labels before and after each edit of the labelvol

    def __getitem__(self, name):
        return self.repo[self.at][name]

    @property
    def model(self):
        return self.versions[self.at]

    def label(self):
        present = self.model.present()
        return int(self.rng.choice(present)) if present and self.rng.random() < 0.9 else int(self.rng.integers(1, 12))

    def step(self, edit):
        rng, model, lv = self.rng, self.model, self["lv"]
        if edit == "write":
            start = [int(rng.integers(0, n)) for n in GRID.blocks]
            blocks = [int(rng.integers(1, n - s + 1)) for n, s in zip(GRID.blocks, start, strict=True)]
            box = GRID.box(start, blocks)
            labels = blobs(rng, model.labels[box].shape)
            self["lb"].write(labels, GRID.at(start))
            model.write(box, labels)
            self.back = []
        elif edit == "merge":
            target, *merged = dict.fromkeys(self.label() for _ in range(3))
            if merged:
                before = model.labels.copy()
                self.back.append((lv.merge(target, merged), before))
                model.merge(target, merged)
        elif edit in ("split", "split into", "coarse"):
            old, to = self.label(), 0 if edit == "split" else int(rng.integers(1, 60))
            if to == old or not (model.labels == old).any():
                return
            expected = to or lv.next_label()
            if edit == "coarse":
                blocks = np.concatenate(list(lv.blocks(old)))
                blocks = blocks[rng.random(len(blocks)) < 0.5]
                if not len(blocks):
                    return
                done, mask = lv.split_coarse(old, blocks, to=to), model.in_blocks(blocks.tolist())
            else:
                runs = some_runs(rng, model, old, stray=False)
                done, mask = lv.split(old, runs, to=to), model.under(runs)
            assert done.label == expected
            self.back.append((done.mutation, model.labels.copy()))
            model.split(old, done.label, mask)
        elif edit == "undo":
            if self.back:
                mutation, before = self.back.pop()
                after, model.labels = model.labels, before
                lv.undo(mutation)
                self.check()
                lv.redo(mutation)
                model.labels = after
                self.check()
                lv.undo(mutation)
                model.labels = before.copy()
        elif edit == "refused":
            runs = some_runs(rng, model, 0)  # begins on background
            with pytest.raises(BadRequest):
                lv.split(self.label(), runs)
            with pytest.raises(BadRequest):
                lv.split_coarse(self.label(), [[90, 90, 90]])
        else:
            self.repo[self.at].commit("done")
            child = self.repo[self.at].newversion().uuid
            self.versions[child] = model.child()
            self.at, self.back = child, []

    def check(self):
        model, lb, lv = self.model, self["lb"], self["lv"]
        assert np.array_equal(lb.read(GRID.offset, GRID.shape), model.labels)
        assert list(lv.disagreements()) == []
        present = model.present()
        assert list(lv.labels()) == present
        for label in present:
            assert np.array_equal(lv.all_runs(label), runs_of(model, label))
        assert lv.max_label() == model.largest
        half = commonest_label(model.labels)
        assert np.array_equal(self["half"].read([o // 2 for o in GRID.offset], half.shape), half)
        quarter = commonest_label(half)
        assert np.array_equal(self["quarter"].read([o // 4 for o in GRID.offset], quarter.shape), quarter)
        inside = model.labels[tuple((self.points - GRID.offset).T)]
        for name in ("of voxels", "of volumes"):
            notes = self[name]
            assert list(notes.disagreements()) == []
            for label in np.unique(inside[inside != 0]).tolist():
                assert len(notes.of_label(label)) == int((inside == label).sum())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), edits=st.lists(st.sampled_from(EDITS), min_size=3, max_size=9))
def test_any_history_is_that_of_a_dense_array(seed, edits):
    pair = Pair(np.random.default_rng(seed))
    pair.step("write")
    pair.check()
    for edit in edits:
        pair.step(edit)
        pair.check()
    for uuid in pair.versions:
        pair.at = uuid
        pair.check()


@pytest.fixture
def pair():
    repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
    lb, lv = repo.new_instance("labelblk", "lb"), repo.new_instance("labelvol", "lv")
    lb.set_syncs(["lv"])
    lv.set_syncs(["lb"])
    labels = np.zeros((32, 32, 64), np.uint64)
    labels[:, :, :8], labels[:, :, 8:40] = 1, 2
    lb.write(labels, (0, 0, 0))
    return lb, lv


def state(pair):
    lb, lv = pair
    return lb.read((0, 0, 0), (32, 32, 64)).tobytes(), [lv.all_runs(n).tobytes() for n in lv.labels()], lv.next_label()


@pytest.mark.parametrize(
    "edit",
    [
        lambda lv: lv.merge(0, [1]),
        lambda lv: lv.merge(1, [0]),
        lambda lv: lv.merge(1, [2, 1]),
        lambda lv: lv.merge(1, []),
        lambda lv: lv.split(0, [[0, 0, 0, 1]]),
        lambda lv: lv.split(1, [[0, 0, 0, 1]], to=1),
        lambda lv: lv.split(1, [[4, 0, 0, 8]]),  # four voxels of label 2
        lambda lv: lv.split(1, [[0, 0, 0, 1], [500, 0, 0, 1]]),  # a block that isn't there
        lambda lv: lv.split(1, [[-(2**31), 0, 0, 2**31]]),
        lambda lv: lv.split(2, [[8, 0, 0, 1], [63, 0, 0, 1]]),
        lambda lv: lv.split_coarse(1, [[0, 0, 0], [0, 0, 1]]),
        lambda lv: lv.split_coarse(0, [[0, 0, 0]]),
        lambda lv: lv.delete_area(1, (0, 0, 0), (32, 32, 30)),
        lambda lv: lv.delete_area(1, (0, 8, 0), (32, 32, 32)),
        lambda lv: lv.delete_area(0, (0, 0, 0), (32, 32, 32)),
        lambda lv: lv.resync(0, [[0, 0, 0]]),
        lambda lv: lv.all_runs(0),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(pair, edit):
    before = state(pair)
    with pytest.raises(BadRequest):
        edit(pair[1])
    assert state(pair) == before
    assert list(pair[1].disagreements()) == []


def test_an_area_is_forgotten_and_made_anew(pair):
    lb, lv = pair
    before = lb.read((0, 0, 0), (32, 32, 64))
    lv.delete_area(2, (0, 0, 32), (32, 32, 32))
    assert lv.size(2) == 24 * 32 * 32
    assert np.array_equal(lb.read((0, 0, 0), (32, 32, 64)), before)
    assert [text.split(":")[0] for text in lv.disagreements()] == ["runs"]
    lv.resync(2, [[0, 0, 0], [0, 0, 1]])
    assert lv.size(2) == 32 * 32 * 32
    assert list(lv.disagreements()) == []


def test_runs_that_have_no_voxels_are_found(pair):
    lb, lv = pair
    lv.set_syncs([], replace=True)
    lb.write(np.full((32, 32, 32), 5, np.uint64), (0, 0, 0))
    lv.set_syncs(["lb"])
    told = list(lv.disagreements())
    assert any("label 5 has voxels" in text for text in told)
    assert any("label 1 has runs" in text for text in told)


def test_bounds(pair):
    _, lv = pair
    bounds = ((None, 3, 30), (10, 5, 36))
    exact = np.concatenate(list(lv.runs(2, bounds)))
    assert rles.voxel_count(exact) == 10 * 2 * 6
    assert rles.voxel_count(np.concatenate(list(lv.runs(2, bounds, exact=False)))) == 32 * 32 * 32
    assert lv.has_blocks(2, ((0, None, None), (1, None, None)))
    assert not lv.has_blocks(2, ((32, None, None), (None, None, None)))
    assert not lv.has_blocks(1, ((None, None, 32), (None, None, None)))
    with pytest.raises(NotFound):
        lv.size(9)


def test_what_begins_to_follow_is_made_anew():
    repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
    lb, lv, half = (repo.new_instance(t, n) for t, n in (("labelblk", "lb"), ("labelvol", "lv"), ("labelblk", "half")))
    labels = blobs(np.random.default_rng(3), (64, 64, 64))
    lv.set_syncs(["lb"])
    lb.write(np.full((32, 32, 32), 77, np.uint64), (0, 0, 0))  # runs that will be wrong
    lv.set_syncs([], replace=True)
    lb.write(labels, (0, 0, 0))
    lv.set_syncs(["lb"])
    half.set_syncs(["lb"])
    assert list(lv.disagreements())
    lv.rebuild()
    assert list(lv.disagreements()) == []
    assert list(lv.labels()) == [v for v in np.unique(labels).tolist() if v]
    half.rebuild()
    assert np.array_equal(half.read((0, 0, 0), (32, 32, 32)), commonest_label(labels))
    with pytest.raises(BadRequest, match="no labelblk"):
        lb.rebuild()


def test_without_a_labelblk(pair):
    lv = pair[1].repo.new_instance("labelvol", "alone")
    with pytest.raises(BadRequest, match="no labelblk"):
        lv.label_at((0, 0, 0))
    with pytest.raises(BadRequest, match="no labelblk"):
        lv.resync(1, [[0, 0, 0]])
    assert list(lv.disagreements()) == []


def test_a_committed_version_refuses_edits(pair):
    lb, lv = pair
    lv.version.commit("done")
    with pytest.raises(LockedVersion):
        lv.merge(1, [2])
    with pytest.raises(LockedVersion):
        lv.split(1, [[0, 0, 0, 1]])
    with pytest.raises(LockedVersion):
        lb.write(np.zeros((32, 32, 32), np.uint64), (0, 0, 0))


def test_what_is_written_to_a_labelblk_can_be_undone_and_its_volumes_follow(pair):
    lb, lv = pair
    before = state(pair)[:2]
    lb.write(np.full((32, 32, 32), 9, np.uint64), (0, 0, 0))
    lb.undo(list(lb.undoable())[-1].id)
    assert state(pair)[:2] == before
    assert list(lv.disagreements()) == []


def test_versions_are_merged_and_volumes_follow(pair):
    lb, lv = pair
    repo, root = lb.repo, lb.version
    root.commit("as it was")
    ours, theirs = root.new_branch("ours"), root.new_branch("theirs")
    ours["lv"].merge(1, [2])
    theirs["lv"].split(2, [[32, 0, 0, 4]], to=30)
    for version in (ours, theirs):
        version.commit("edited")
    merged = repo.merge([ours, theirs])
    expected = lb.read((0, 0, 0), (32, 32, 64))
    expected[expected == 2] = 1
    expected[0, 0, 32:36] = 30
    found = merged["lb"].read((0, 0, 0), (32, 32, 64))
    contested = expected != found
    # voxels that both wrote stay the first parent's
    assert set(zip(*np.nonzero(contested), strict=True)) <= {(0, 0, x) for x in range(32, 36)}
    assert list(merged["lv"].disagreements()) == []


def test_who_can_follow_whom(pair):
    repo = pair[0].repo
    repo.new_instance("labelvol", "small", {"BlockSize": "16,16,16"})
    flat = repo.new_instance("labelblk", "flat", {"Versioned": False})
    with pytest.raises(BadRequest, match="block sizes differ"):
        repo["master"]["small"].set_syncs(["lb"])
    with pytest.raises(BadRequest, match="versioned"):
        flat.set_syncs(["lv"])
    with pytest.raises(BadRequest, match="can't follow"):
        pair[1].set_syncs(["lv"])


def test_an_edit_whose_voxels_were_changed_since_is_not_undone(pair):
    lb, lv = pair
    merged = lv.merge(1, [2])
    split = lv.split(1, [[9, 0, 0, 2]])
    other = lv.split(1, [[0, 5, 5, 2]])  # voxels that were 1 all along
    before = state(pair)
    with pytest.raises(LaterMutations) as refusal:
        lv.undo(merged)
    assert split.mutation in refusal.value.mutations
    assert state(pair) == before
    lv.undo(split.mutation)
    lv.undo(merged)
    assert lv.size(2) == 32 * 32 * 32
    assert lv.size(other.label) == 2
    assert lb[0, 0, 8:10].tolist() == [2, 2]
    with pytest.raises(BadRequest, match="undone already"):
        lv.undo(merged)
    with pytest.raises(NotFound):
        lv.undo(merged + 10_000)
    assert [kept.action for kept in lv.undoable()] == ["merge", "split", "split"]
    lv.version.commit("done")
    with pytest.raises(LockedVersion):
        lv.undo(other.mutation)


def test_splits_of_nothing(pair):
    before = state(pair)
    assert pair[1].split(1, np.empty((0, 4), np.int32)).label == 3
    assert pair[1].split_coarse(1, np.empty((0, 3), np.int32)).label == 4
    assert state(pair)[:2] == before[:2]


def test_the_log_says_what_was_done(pair):
    _, lv = pair
    lv.merge(1, [2], user="ann", app="test")
    lv.split(1, [[0, 0, 0, 2]], user="ben")
    lv.delete_area(3, (0, 0, 0), (32, 32, 32))
    merged, split, deleted = lv.mutations()
    assert (merged["Action"], merged["Target"], merged["Labels"], merged["User"]) == ("merge", 1, [2], "ann")
    assert (split["Action"], split["Target"], split["NewLabel"]) == ("split", 1, 3)
    assert lv.version.datastore.get_blob(split["Split"]) == rles.encode_srles([[0, 0, 0, 2]])
    assert (deleted["Action"], deleted["Size"]) == ("delete-area", [32, 32, 32])


def test_fsck_finds_what_disagrees(tmp_path):
    with dvid_dask.create(str(tmp_path / "store"), compact="never") as ds:
        repo = ds.new_repo("fly")
        lb, lv = repo.new_instance("labelblk", "lb"), repo.new_instance("labelvol", "lv")
        lv.set_syncs(["lb"])
        lb.write(np.full((32, 32, 32), 7, np.uint64), (0, 0, 0))
        array = repo.new_instance("labelarray", "array", {"BlockSize": "32,32,32"})
        array.write(np.full((32, 32, 32), 7, np.uint64), (0, 0, 0))
        assert ds.check().ok
        lv.mutate(lambda _, space: space.delete(keys.runs(7, [[0, 0, 0]])[0]))
        array.mutate(lambda _, space: Index(space).delete(7))
        told = [str(problem) for problem in [*lv.disagreements(), *array.disagreements()]]
        assert len(told) >= 2
