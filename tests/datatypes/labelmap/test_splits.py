"""Splits of supervoxels and bodies: voxels, scales, index, mapping, lists and logs; and what is refused."""

import threading

import numpy as np
import pytest

import dvid_dask
from dvid_dask.datatypes.labelmap.mapping import restore_entries
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.formats import rles

from .model import coarser, random_labels

SHAPE = (32, 48, 32)
OFFSET = (-16, 0, -32)


@pytest.fixture
def seg():
    repo = dvid_dask.create("memory://").new_repo("fly")
    seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16", "MaxDownresLevel": "2"})
    seg.write(labels(), OFFSET)
    return seg


def labels():
    return random_labels(1, SHAPE, range(1, 7))


def runs_of(mask):
    return rles.rles_from_mask(mask, OFFSET)


def half(mask):
    return mask & (np.arange(mask.shape[2]) < 13)


def snapshot(seg):
    return (
        [seg.read([o >> s for o in OFFSET], [n >> s for n in SHAPE], s, supervoxels=True).tobytes() for s in range(3)],
        seg.read(OFFSET, SHAPE).tobytes(),
        [(a.tolist(), b.tolist()) for a, b in seg.mappings()],
        list(seg.bodies_with_sizes()),
        list(seg.mutations()),
        seg.max_label(),
    )


def check(seg, voxels):
    """All scales and the index hold these supervoxels."""
    expected = voxels
    for scale in range(3):
        offset = [o >> scale for o in OFFSET]
        assert (seg.read(offset, expected.shape, scale, supervoxels=True) == expected).all()
        expected = coarser(expected)
    assert list(seg.verify()) == []


class TestSupervoxel:
    def test_voxels_of_all_scales_index_and_mapping(self, seg):
        voxels = labels()
        seg.merge(3, [4])
        cut = half(voxels == 4)
        made = seg.split_supervoxel(4, runs_of(cut), user="me", app="knife")
        assert made[:2] == (7, 8)
        expected = np.where(cut, 7, np.where(voxels == 4, 8, voxels)).astype(np.uint64)
        check(seg, expected)
        assert (seg.read(OFFSET, SHAPE) == np.where(voxels == 4, 3, voxels)).all()
        assert seg.mapping([4, 7, 8, 3]).tolist() == [0, 3, 3, 3]
        assert seg.supervoxels_of(3).id.tolist() == [3, 7, 8]
        assert seg.max_label() == 8
        assert seg.header(3).stamp.mutation == made.mutation
        record = list(seg.mutations())[-1]
        assert {k: record[k] for k in ("Action", "Body", "SplitSize", "RemainSize", "User", "App")} == {
            "Action": "split-supervoxel-complete",
            "Body": 3,
            "SplitSize": int(cut.sum()),
            "RemainSize": int((voxels == 4).sum() - cut.sum()),
            "User": "me",
            "App": "knife",
        }
        blob = seg.version.datastore.get_blob(record["Split"])
        assert (rles.rles_to_mask(rles.decode_srles(blob), OFFSET, SHAPE) == cut).all()

    def test_chosen_ids_and_no_downres(self, seg):
        voxels = labels()
        before = seg.read([o >> 1 for o in OFFSET], [n >> 1 for n in SHAPE], 1, supervoxels=True)
        assert seg.split_supervoxel(2, runs_of(half(voxels == 2)), split=50, downres=False)[:2] == (50, 51)
        after = seg.read([o >> 1 for o in OFFSET], [n >> 1 for n in SHAPE], 1, supervoxels=True)
        assert (before == after).all()
        assert {p.kind for p in seg.verify()} == {"scale"}
        assert seg.allocate_labels() == (52, 52)

    def test_runs_in_blocks_without_the_supervoxel_do_not_count(self, seg):
        voxels = labels()
        seg.write(np.full((16, 16, 16), 90, np.uint64), (64, 0, 0))
        runs = np.concatenate([runs_of(half(voxels == 5)), [[0, 3, 70, 9], [0, 0, 2000, 5]]])
        made = seg.split_supervoxel(5, runs)
        assert seg.size(made.split, supervoxels=True) == int(half(voxels == 5).sum())

    def test_splits_are_listed_by_version(self, seg):
        voxels = labels()
        first = seg.split_supervoxel(1, runs_of(half(voxels == 1)))
        seg.version.commit()
        child = seg.version.newversion()["segmentation"]
        second = child.split_supervoxel(2, runs_of(half(voxels == 2)))
        listed = [(v.uuid, rows.tolist()) for v, rows in child.supervoxel_splits()]
        assert listed == [
            (child.version.uuid, [[second.mutation, 2, second.remain, second.split]]),
            (seg.version.uuid, [[first.mutation, 1, first.remain, first.split]]),
        ]
        assert [v.uuid for v, _ in seg.supervoxel_splits()] == [seg.version.uuid]
        told = list(child.body_history(2, seg.version))
        assert told == [
            {
                "Action": "split-supervoxel",
                "Supervoxel": 2,
                "SplitSupervoxel": second.split,
                "RemainSupervoxel": second.remain,
            }
        ]

    @pytest.mark.parametrize(
        ("supervoxel", "runs", "chosen"),
        [
            (4, np.empty((0, 4), int), {}),
            (4, [[0, 0, 0, 0]], {}),
            (4, [[0, 0, 0, -3]], {}),
            (4, [[2**31 - 2, 0, 0, 3]], {}),
            (4, [[0, 0, 2**31, 1]], {}),
            (4, [[0, 0, 0]], {}),
            (4, [[0.5, 0, 0, 1]], {}),
            (4, "all", {}),
            (4, "twice", {}),
            (4, "beside", {}),
            (4, [[1000, 1000, 1000, 3]], {}),
            (0, "half", {}),
            (77, "half", {}),
            (2**64, "half", {}),
            (4, "half", {"split": 3}),
            (4, "half", {"remain": 4}),
            (4, "half", {"split": 70, "remain": 70}),
            (4, "half", {"split": -1}),
            (4, "half", {"remain": 2**64 - 1}),
        ],
    )
    def test_what_is_refused_changes_nothing(self, seg, supervoxel, runs, chosen):
        voxels = labels()
        named = {
            "all": lambda: runs_of(voxels == 4),
            "twice": lambda: np.concatenate([runs_of(half(voxels == 4))] * 2),
            "beside": lambda: runs_of(half(voxels == 4) | (voxels == 2)),
            "half": lambda: runs_of(half(voxels == 4)),
        }
        before, ids = snapshot(seg), seg.next_labels.next
        with pytest.raises(BadRequest):
            seg.split_supervoxel(supervoxel, named[runs]() if isinstance(runs, str) else np.array(runs), **chosen)
        assert snapshot(seg) == before
        assert seg.next_labels.next == ids

    def test_a_split_supervoxel_is_gone_for_good(self, seg):
        voxels = labels()
        seg.split_supervoxel(4, runs_of(half(voxels == 4)))
        before = snapshot(seg)
        with pytest.raises(BadRequest, match="was split"):
            seg.split_supervoxel(4, runs_of(half(voxels == 4)))
        with pytest.raises(BadRequest, match="retired"):
            seg.write(np.full((16, 16, 16), 4, np.uint64), (0, 0, 0))
        assert snapshot(seg) == before

    def test_a_committed_version_takes_none_unless_forced(self, seg):
        voxels = labels()
        seg.version.commit()
        child = seg.version.newversion()["segmentation"]
        with pytest.raises(LockedVersion):
            seg.split_supervoxel(4, runs_of(half(voxels == 4)))
        made = seg.split_supervoxel(4, runs_of(half(voxels == 4)), force=True)
        for at in (seg, child):
            assert at.mapping([4, made.split]).tolist() == [0, 4]
            assert list(at.verify()) == []


class TestBody:
    def test_every_supervoxel_under_the_runs_is_cut(self, seg):
        voxels = labels()
        seg.merge(1, [2, 3])
        whole = np.isin(voxels, [1, 2, 3])
        cut = half(whole)
        made = seg.split(1, runs_of(cut), user="me")
        assert made.body == 7
        assert (seg.read(OFFSET, SHAPE) == np.where(cut, 7, np.where(whole, 1, voxels))).all()
        assert seg.sizes([1, 7]).tolist() == [int((whole & ~cut).sum()), int(cut.sum())]
        check(seg, seg.read(OFFSET, SHAPE, supervoxels=True))
        assert seg.mapping([1, 2, 3]).tolist() == [0, 0, 0]
        assert len(seg.supervoxels_of(7).id) == len(seg.supervoxels_of(1).id) == 3
        record = list(seg.mutations())[-1]
        assert record["Action"] == "split-complete"
        assert set(record["SVSplits"]) == {"1", "2", "3"}
        assert [t["Action"] for t in seg.body_history(1, seg.version)] == ["merge", "split"]

    def test_a_supervoxel_that_lies_under_the_runs_whole_leaves_no_empty_rest(self, seg):
        voxels = labels()
        seg.merge(1, [2])
        seg.split(1, runs_of(voxels == 2))
        assert list(seg.verify()) == []
        ids = [i for page, bodies in seg.mappings() for i, b in zip(page.tolist(), bodies.tolist(), strict=True) if b]
        assert (seg.sizes(ids, supervoxels=True) > 0).all()

    def test_the_new_id_is_no_supervoxel_and_stays_none(self, seg):
        made = seg.split(1, runs_of(half(labels() == 1)))
        listed = {i: b for page, bodies in seg.mappings() for i, b in zip(page.tolist(), bodies.tolist(), strict=True)}
        assert (listed[made.body], seg.mapping([made.body]).tolist()) == (0, [0])
        with pytest.raises(BadRequest, match=str(made.body)):
            seg.write(np.full((16, 16, 16), made.body, np.uint64), (64, 0, 0))
        with pytest.raises(BadRequest):
            seg.split_supervoxel(2, runs_of(half(labels() == 2)), split=made.body)
        seg.undo(made.mutation)
        assert seg.mapping([made.body, 1]).tolist() == [0, 1]
        assert list(seg.verify()) == []
        seg.redo(made.mutation)
        assert made.body in dict(seg.bodies_with_sizes())
        assert list(seg.verify()) == []

    @pytest.mark.parametrize("edit", ["cleave", "split", "renumber"])
    def test_fsck_finds_a_body_whose_id_could_be_written(self, seg, edit):
        seg.merge(1, [2])
        made = {
            "cleave": lambda: seg.cleave(1, [2])[0],
            "split": lambda: seg.split(1, runs_of(half(labels() == 1))).body,
            "renumber": lambda: seg.renumber([(90, 1)]) and 90,
        }[edit]()
        assert list(seg.verify()) == []
        seg.mutate(lambda _, space: restore_entries(space, [made], False, 0))
        (problem,) = seg.verify()
        assert (problem.kind, f"body {made} " in problem.text) == ("mapping", True)

    def test_a_body_that_an_undo_gives_back_keeps_its_own_id(self, seg):
        seg.merge(5, [6])
        seg.write(np.where(labels() == 5, 0, labels()).astype(np.uint64), OFFSET)  # 5 is a body of supervoxel 6 alone
        seg.undo(seg.merge(1, [5]))
        assert seg.supervoxels_of(5).id.tolist() == [6]
        assert list(seg.verify()) == []

    def test_background_under_the_runs_does_not_count(self, seg):
        voxels = labels()
        made = seg.split(1, runs_of(half(np.isin(voxels, [0, 1]))))
        assert seg.size(made.body) == int(half(voxels == 1).sum())

    @pytest.mark.parametrize("what", ["other", "nothing", "all", "absent", "missing body", "zero", "no voxels"])
    def test_what_is_refused_changes_nothing(self, seg, what):
        voxels = labels()
        body, runs = {
            "other": (1, runs_of(half(np.isin(voxels, [1, 2])))),
            "nothing": (1, runs_of(voxels == 0)),
            "all": (1, runs_of(voxels == 1)),
            "absent": (1, np.array([[4000, 0, 0, 5]])),
            "missing body": (99, runs_of(half(voxels == 1))),
            "zero": (0, runs_of(half(voxels == 1))),
            "no voxels": (1, np.empty((0, 4), np.int32)),
        }[what]
        before, ids = snapshot(seg), seg.next_labels.next
        with pytest.raises(BadRequest):
            seg.split(body, runs)
        assert snapshot(seg) == before
        assert seg.next_labels.next == ids


def test_splits_side_by_side_keep_all(seg):
    voxels = labels()
    failed = []

    def work(supervoxel):
        try:
            seg.split_supervoxel(supervoxel, runs_of(half(voxels == supervoxel)))
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(sv,)) for sv in range(1, 7)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    assert list(seg.verify()) == []
    assert seg.mapping(range(1, 7)).tolist() == [0] * 6
    assert len(list(seg.mutations())) == 6


def test_runs_of_absurd_length_cost_nothing(seg, monkeypatch):
    """A body of 28 bytes must not become millions of pieces."""
    cut_up = rles.split_by_block

    def few(runs, shape, **limits):
        found = cut_up(runs, shape, **limits)
        assert len(found[2]) < 1000
        return found

    monkeypatch.setattr(rles, "split_by_block", few)
    before = snapshot(seg)
    far = [[-32, y, z, (1 << 31) - 1] for y in range(16) for z in range(16)]
    with pytest.raises(BadRequest, match="where nothing is stored"):
        seg.split(1, far)
    with pytest.raises(BadRequest, match="beside the supervoxel"):
        seg.split_supervoxel(1, far)
    assert snapshot(seg) == before
    # what lies in blocks without the supervoxel still doesn't count
    seg.write(np.full((16, 16, 16), 9, np.uint64), (48, 0, 0))
    made = seg.split_supervoxel(9, [[0, 0, 48, (1 << 31) - 1]])
    assert (seg.supervoxels[48, 0, 0:16] == made.split).all()
    assert list(seg.verify()) == []
