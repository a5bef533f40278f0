"""Cuts along another segmentation against a dense model, and against the same split done singly."""

from __future__ import annotations

import random
import sys

import dask.array as da
import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotSupported
from dvid_dask.formats import rles
from dvid_dask.ops import drafts, split_bricks
from dvid_dask.ops.split_by import split_by
from tests.ops.conftest import neurites
from tests.ops.model import World
from tests.ops.test_ingest import labelmap

LEVELS = 2
module = sys.modules[split_by.__module__]


def filled(repo, volume, offset=(0, 0, 0), merges=()):
    seg = labelmap(repo, levels=LEVELS)
    ops.ingest(volume, seg, offset=offset, progress=False)
    for target, merged in merges:
        seg.merge(target, merged)
    return seg


def regions(shape, step=20, kinds=5, seed=1):
    """Cells of small labels that cut through everything."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, kinds, [n // step + 1 for n in shape]).astype(np.uint8)
    big = cells.repeat(step, 0).repeat(step, 1).repeat(step, 2)
    return np.ascontiguousarray(big[: shape[0], : shape[1], : shape[2]])


def spread(volume, other, at):
    """The other labels over the volume, with -1 beside them."""
    out = np.full(volume.shape, -1, np.int64)
    out[tuple(slice(a, a + n) for a, n in zip(at, other.shape, strict=True))] = other
    return out


def parts_of(volume, under):
    """{supervoxel: its other labels, in order} of those that have several."""
    found = {}
    for sv in np.unique(volume[volume > 0]).tolist():
        labels = np.unique(under[volume == sv]).tolist()
        if len(labels) > 1:
            found[sv] = labels
    return found


def run(seg, other, **options):
    return split_by(seg, other, progress=False, **options)


def clean(seg):
    assert list(seg.verify()) == []
    assert ops.unfinished_jobs(seg) == {}
    assert not list(seg.view(0).keys(b"J"))
    assert not [t for t in seg.version.datastore.store.trees() if t.startswith("draft")]


def check(seg, volume, under, offset, report, bodies):
    """Voxels of all scales, index, bodies, mapping and the tree of splits are those of the model."""
    cut = parts_of(volume, under)
    got = seg.read(offset, volume.shape, supervoxels=True)
    want, ids = volume.copy(), {}
    for sv, labels in cut.items():
        for label in labels:
            where = (volume == sv) & (under == label)
            (new,) = np.unique(got[where]).tolist()
            ids[sv, label] = new
            want[where] = new
    assert len(set(ids.values())) == len(ids)
    assert not set(ids.values()) & set(np.unique(volume).tolist())
    world = World(offset, volume.shape, (16, 16, 16), LEVELS)
    world.write(want, offset)
    world.check(seg)
    np.testing.assert_array_equal(seg.read(offset, volume.shape), bodies)
    assert (report.supervoxels, report.parts) == (len(cut), len(ids))
    assert not seg.mapping(sorted(cut)).any()
    # a tree of splits in two from each old id to its parts
    children, split = {}, np.concatenate([r for _, r in seg.supervoxel_splits()]) if cut else np.empty((0, 4), int)
    for mutation, old, remain, cut_off in split.tolist():
        assert mutation == report.mutation
        assert old not in children
        children[old] = (cut_off, remain)
    voxels = dict(zip(*(a.tolist() for a in np.unique(want, return_counts=True)), strict=True))

    def leaves(sv):
        return [sv] if sv not in children else [leaf for c in children[sv] for leaf in leaves(c)]

    for sv, labels in cut.items():
        assert sorted(leaves(sv)) == sorted(ids[sv, label] for label in labels)
    between = sorted(set(children) - set(cut))
    assert not seg.mapping(between).any()
    log = [r for r in seg.mutations() if r["Action"] == "split-supervoxel-complete"]
    assert len(log) == len(children)
    for r in log:
        assert children[r["Supervoxel"]] == (r["SplitSupervoxel"], r["RemainSupervoxel"])
        assert r["SplitSize"] == voxels[r["SplitSupervoxel"]]
        assert r["RemainSize"] == sum(voxels[leaf] for leaf in leaves(r["RemainSupervoxel"]))
        assert r["Body"] == seg.mapping([r["SplitSupervoxel"]]).tolist()[0]
        assert r["MutationID"] == report.mutation
    for body in {r["Body"] for r in log}:
        assert seg.header(body).stamp.mutation == report.mutation
    largest = max([*ids.values(), *between, int(volume.max())])
    assert list(seg.extended()["MaxLabel"].values()) == [largest]
    assert seg.next_labels.largest >= largest
    clean(seg)


@pytest.mark.parametrize("rows_per_partition", [64, 1 << 17])
@pytest.mark.parametrize("offset", [(0, 0, 0), (-64, 32, -80)])
def test_all_is_as_in_the_model(repo, monkeypatch, offset, rows_per_partition):
    monkeypatch.setattr("dvid_dask.ops.moves._ROWS_PER_PARTITION", rows_per_partition)
    monkeypatch.setattr(split_bricks, "_BLOCKS_PER_BRICK", 2)
    monkeypatch.setattr(module, "_PARENTS", 3)
    volume = neurites((64, 48, 80))
    svs = np.unique(volume[volume > 0]).tolist()
    seg = filled(repo, volume, offset, [(svs[0], svs[1:4]), (svs[10], svs[5:8])])
    other = regions(volume.shape)
    bodies = seg.read(offset, volume.shape)
    report = run(seg, other, offset=offset)
    check(seg, volume, other.astype(np.int64), offset, report, bodies)
    before = dict(seg.view(0).scan())
    again = run(seg, other, offset=offset)  # nothing is left to cut
    assert (again.supervoxels, again.parts, again.mutation) == (0, 0, 0)
    assert dict(seg.view(0).scan()) == before
    clean(seg)


@pytest.mark.parametrize("kind", ["numpy", "dask", "labelmap"])
@pytest.mark.parametrize("small_table", [1, 1 << 22])
def test_other_covers_a_part_only(repo, monkeypatch, kind, small_table):
    monkeypatch.setattr(split_bricks, "_SMALL_TABLE", small_table)
    monkeypatch.setattr(split_bricks, "_BLOCKS_PER_BRICK", 1)
    volume = neurites((48, 48, 64), labels=12)
    seg = filled(repo, volume, (-16, 0, 16))
    bodies = seg.read((-16, 0, 16), volume.shape)
    other = regions((21, 30, 37), step=16)
    at = (5, 9, 11)
    place = tuple(a + o for a, o in zip(at, (-16, 0, 16), strict=True))
    if kind == "labelmap":
        other = other + np.uint8(1)
        given = labelmap(repo, name="other")
        ops.ingest(other.astype(np.uint64), given, offset=place, progress=False)
        report = run(seg, given)
    else:
        report = run(seg, da.from_array(other, chunks=(10, 16, 20)) if kind == "dask" else other, offset=place)
    check(seg, volume, spread(volume, other, at), (-16, 0, 16), report, bodies)


def test_negative_labels_and_booleans_are_labels(repo):
    volume = neurites((32, 32, 32), labels=5)
    seg = filled(repo, volume)
    other = regions(volume.shape, step=12).astype(np.int16) - 2
    report = run(seg, other)
    check(seg, volume, other.astype(np.int64) + 2, (0, 0, 0), report, volume)
    assert run(seg, np.zeros((64, 64, 64), np.bool_), offset=(-9, -9, -9)).parts == 0


def test_cut_in_two_is_a_split_of_a_supervoxel(repo):
    volume = np.zeros((32, 32, 48), np.uint64)
    volume[4:28, 3:30, 5:44] = 7
    volume[20:, 20:, 30:] = 9
    other = np.zeros(volume.shape, np.uint8)
    other[:, :, 21:] = 1
    other[volume != 7] = 0
    one, many = filled(repo, volume), labelmap(repo, levels=LEVELS, name="many")
    ops.ingest(volume, many, progress=False)
    made = one.split_supervoxel(7, rles.rles_from_mask((volume == 7) & (other == 0), (0, 0, 0)))
    run(many, other)
    (row,) = np.concatenate([r for _, r in many.supervoxel_splits()]).tolist()
    names = {made.split: row[3], made.remain: row[2]}
    for scale in range(LEVELS + 1):
        shape = tuple(n >> scale for n in volume.shape)
        single = one.read((0, 0, 0), shape, scale, supervoxels=True)
        renamed = np.vectorize(lambda v: names.get(v, v), otypes=[np.uint64])(single)
        np.testing.assert_array_equal(many.read((0, 0, 0), shape, scale, supervoxels=True), renamed)
    for ours, theirs in ((one, made[:2]), (many, tuple(names[v] for v in made[:2]))):
        assert ours.mapping([7, *theirs, 9]).tolist() == [0, 7, 7, 9]
        table = ours.supervoxels_of(7)
        sizes = [int(((volume == 7) & (other == label)).sum()) for label in (0, 1)]
        assert dict(zip(table.id.tolist(), table.voxels.tolist(), strict=True)) == dict(zip(theirs, sizes, strict=True))
    told = [{k: v for k, v in r.items() if k not in ("MutationID", "UUID", "Timestamp", "Split")}
            for seg in (one, many) for r in seg.mutations() if r["Action"] == "split-supervoxel-complete"]  # fmt: skip
    told[0] |= {k: names[told[0][k]] for k in ("SplitSupervoxel", "RemainSupervoxel")}
    assert told[0] == told[1]


# ------------------------------------------------------------------ others meanwhile, and kills


class PowerCutError(Exception):
    pass


def test_a_power_cut_after_any_commit(repo, monkeypatch):
    monkeypatch.setattr("dvid_dask.ops.moves._ROWS_PER_PARTITION", 400)
    monkeypatch.setattr(split_bricks, "_BLOCKS_PER_BRICK", 2)
    volume = neurites((48, 48, 48), labels=20)
    seg = filled(repo, volume)
    other = regions(volume.shape)
    before = {k: v for k, v in seg.view(0).scan() if not k.startswith(b"J")}
    rng, mutate = random.Random(5), drafts.DraftLedger.mutate

    def cut(self, fn):
        result = mutate(self, fn)
        if rng.random() < 0.1:
            raise PowerCutError  # committed, but nobody hears of it
        return result

    monkeypatch.setattr(drafts.DraftLedger, "mutate", cut)
    runs = 0
    while True:
        runs += 1
        assert runs < 200
        try:
            report = run(seg, other)
            break
        except PowerCutError:
            assert {k: v for k, v in seg.view(0).scan() if not k.startswith(b"J")} == before
            assert len(ops.unfinished_jobs(seg)) == 1
    assert runs > 3
    check(seg, volume, other.astype(np.int64), (0, 0, 0), report, volume)


def test_another_labelmap_of_the_version_is_the_same_after_a_power_cut(repo, monkeypatch):
    seg, volume, other = two(repo)
    given = labelmap(repo, name="other")
    ops.ingest(other.astype(np.uint64) + np.uint64(1), given, progress=False)

    def cut(self, partition):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(module._Parts, "retire", cut)
        for _ in range(2):
            with pytest.raises(PowerCutError):
                run(seg, given)
    assert len(ops.unfinished_jobs(seg)) == 1
    check(seg, volume, other.astype(np.int64), (0, 0, 0), run(seg, given), volume)


def meanwhile(monkeypatch, action):
    """Does something in the version while a job runs on its draft."""
    retire = module._Parts.retire

    def first(self, partition):
        if partition == 0:
            action()
        return retire(self, partition)

    monkeypatch.setattr(module._Parts, "retire", first)


def two(repo):
    """A supervoxel that will be cut, and others that won't."""
    volume = np.zeros((32, 32, 64), np.uint64)
    volume[:16, :16, :16] = 5
    volume[16:, 16:, :16] = 6
    volume[:16, :16, 48:] = 8
    volume[16:, :16, 48:] = 9
    other = np.zeros(volume.shape, np.uint8)
    other[:8] = 1
    other[:, :, 32:] = 3
    return filled(repo, volume), volume, other


def test_edits_of_others_meanwhile_are_kept(repo, monkeypatch):
    seg, volume, other = two(repo)

    def others():
        assert seg.mapping([5]).tolist() == [5]  # nothing of it was to be seen
        seg.merge(9, [8])

    meanwhile(monkeypatch, others)
    report = run(seg, other)
    bodies = volume.copy()
    bodies[bodies == 8] = 9
    check(seg, volume, other.astype(np.int64), (0, 0, 0), report, bodies)
    assert report.parts == 2


@pytest.mark.parametrize("what", ["block", "body"])
def test_the_same_block_or_body_changed_by_others_is_a_conflict(repo, monkeypatch, what):
    seg, volume, other = two(repo)
    after = []

    def others():
        if what == "block":
            seg.write(np.full((16, 16, 16), 77, np.uint64), (0, 0, 0))
        else:
            seg.merge(9, [5])
        after.append(dict(seg.view(0).scan()))

    with monkeypatch.context() as patch:
        meanwhile(patch, others)
        with pytest.raises(Conflict):
            run(seg, other)
    assert {k: v for k, v in after[0].items() if not k.startswith(b"J")} == dict(seg.view(0).scan())
    clean(seg)
    assert run(seg, other).parts == 2


def test_what_can_t_be_cut_is_refused(repo, monkeypatch):
    seg, volume, other = two(repo)
    before = dict(seg.view(0).scan())
    with pytest.raises(BadRequest, match="integers"):
        run(seg, other.astype(np.float32))
    with pytest.raises(BadRequest, match="offset"):
        run(seg, other, offset=(0, 0))
    with pytest.raises(NotSupported):
        run(repo.new_instance("uint8blk", "gray"), other)
    changing = ops.open_volume(other)
    later = [other + np.uint8(7) * (other == 1), np.zeros_like(other), other.copy()]
    later[2][8, 0, 0] = 1
    for second in later:  # another label, one fewer, and one voxel of another label
        looks = iter([other, second])
        monkeypatch.setattr(type(changing), "_read", lambda self, box, looks=looks: next(looks)[box.slices()])
        with pytest.raises(BadRequest, match="changed while"):
            run(seg, changing)
    assert dict(seg.view(0).scan()) == before
    clean(seg)
    monkeypatch.undo()
    assert run(labelmap(repo, name="empty"), other).parts == 0
    seg.version.commit("done")
    with pytest.raises(LockedVersion):
        run(seg, other)
