"""Bulk changes are taken back and done again like single ones: by what the version was before and after them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.labelmap import undo as undo_room
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.merges import carrying, sides
from dvid_dask.datatypes.labelmap.methods import index as index_room
from dvid_dask.errors import BadRequest, LaterMutations, NotFound
from dvid_dask.formats import label_index, rles
from tests.ops.test_agglomerate import bodies_of, grid
from tests.ops.test_ingest import labelmap

SHAPE = (64, 64, 64)
VOLUME = grid(60, SHAPE)


def new(url="memory://", **options):
    seg = labelmap(dvid_dask.create(url, compact="never").new_repo("fly"), levels=1, **options)
    seg.write(VOLUME, (0, 0, 0))
    return seg


def state(seg):
    """All that a change may change, but ids that were used up."""
    assert list(seg.verify()) == []
    entries = {
        i: b
        for ids, found in Mapping(seg.view(0)).scan()
        for i, b in zip(*(c.tolist() for c in (ids, found)), strict=True)
    }
    voxels = [seg.read((0, 0, 0), [n >> s for n in SHAPE], s, supervoxels=True).tobytes() for s in (0, 1)]
    splits = sorted(row[1:] for _, rows in seg.supervoxel_splits() for row in rows.tolist())
    return voxels, bodies_of(seg), {i: b for i, b in entries.items() if b}, splits


def kept(seg):
    return sorted(t for t in seg.version.datastore.store.trees() if t.startswith("undo-"))


def last(seg):
    return max(seg.undoable(), key=lambda r: r.latest).id


def agglomerate(seg):
    svs = np.array(sorted(bodies_of(seg)), np.uint64)
    return ops.agglomerate(seg, {"supervoxel": svs[:30], "body": (svs[:30] - 1) % 5 + 1}, progress=False).mutation


def edit(seg):
    report = ops.edit(
        seg,
        merges=pd.DataFrame({"target": [1, 1, 40], "merged": [2, 3, 41]}),
        renumber=pd.DataFrame({"old": [50], "new": [900]}),
        progress=False,
    )
    return report.mutation


def split_by(seg):
    other = np.indices(SHAPE)[0] // 20
    return ops.split_by(seg, other.astype(np.uint8), progress=False).mutation


def ingest(seg):
    ops.ingest(np.roll(VOLUME, 7, 0)[:40, :50] + np.uint64(1000), seg, offset=(3, 0, 10), progress=False)
    return last(seg)


def large_write(seg):
    seg.write(np.roll(VOLUME, 9, 1)[:, :32] + np.uint64(3000), (0, 32, 0))
    return last(seg)


def large_mappings(seg):
    seg.set_mappings([8000, 8001, 9999], [9, 9, 8])
    return last(seg)


def large_indices(seg):
    index = seg.index(5)
    index.label = 5
    seg.set_indices([index, label_index.LabelIndex(700)])
    return last(seg)


BULK = {f.__name__: f for f in (agglomerate, edit, split_by, ingest, large_write, large_mappings)}


@pytest.fixture(autouse=True)
def _all_is_large(monkeypatch):
    monkeypatch.setattr(undo_room, "MAX_KEPT", 0)
    monkeypatch.setattr(index_room, "MAX_KEPT_ROWS", 0)


@pytest.mark.parametrize("kind", BULK)
def test_back_and_forth(kind):
    seg = new()
    before = state(seg)
    mutation = BULK[kind](seg)
    after = state(seg)
    assert after != before
    gc(seg)
    undone = seg.undo(mutation, user="me")
    assert state(seg) == before
    assert undone > mutation
    seg.redo(mutation)
    assert state(seg) == after
    gc(seg)
    seg.undo(mutation)
    assert state(seg) == before
    with pytest.raises(BadRequest, match="undone already"):
        seg.undo(mutation)
    assert seg.version.datastore.check().ok
    assert seg.version.datastore.check().leftovers == []
    assert kept(seg)
    seg.version.commit()
    assert kept(seg) == []
    with pytest.raises(NotFound):
        seg.version.newversion()["segmentation" if "segmentation" in seg.version else seg.name].undo(mutation)


def gc(seg):
    for _ in range(2):
        seg.version.datastore.gc(grace=0)
    assert not seg.version.datastore.store.fsck().errors


def test_all_of_them_one_after_the_other():
    seg = new()
    states, ids = [state(seg)], []
    for change in BULK.values():
        ids.append(change(seg))
        states.append(state(seg))
    for n in reversed(range(len(ids))):
        seg.undo(ids[n])
        assert state(seg) == states[n]
    for n, mutation in enumerate(ids):
        seg.redo(mutation)
        assert state(seg) == states[n + 1]


@pytest.mark.parametrize(
    "table",
    [
        {10: 911, 11: 910},  # two bodies change their ids
        {10: 911, 11: 912, 12: 910},  # three in a ring
        {10: 920, 11: 920, 20: 910, 21: 911},  # what goes, and what comes in its place
    ],
)
def test_bodies_that_keep_their_id_and_nothing_else(table):
    seg = new()
    seg.renumber([(900 + sv, sv) for sv in (10, 11, 12, 20)])
    seg.merge(920, [22])
    before = state(seg)
    ops.agglomerate(seg, np.array([*table.items()], np.uint64), progress=False)
    after, made = state(seg), last(seg)
    for _ in range(2):
        seg.undo(made)
        assert state(seg) == before
        seg.redo(made)
        assert state(seg) == after


def test_posted_indices():
    seg = new()
    before = seg.index(5), seg.index(6)
    given = label_index.LabelIndex(5, np.zeros((1, 3), np.int32), np.array([5], np.uint64), np.array([9], np.uint32))
    seg.set_indices([given, label_index.LabelIndex(6)])
    mutation = last(seg)
    assert (seg.size(5), list(seg.bodies(start=6, stop=7))) == (9, [])
    seg.undo(mutation)
    for held, body in zip(before, (5, 6), strict=True):
        assert label_index.encode_index(seg.index(body)) == label_index.encode_index(held)
    seg.redo(mutation)
    assert seg.size(5) == 9
    seg.set_indices([label_index.LabelIndex(5)])
    with pytest.raises(LaterMutations) as refused:
        seg.undo(mutation)
    assert refused.value.mutations == (last(seg),)


def half(seg, sv):
    mask = seg.read((0, 0, 0), SHAPE, supervoxels=True) == sv
    return rles.rles_from_mask(mask & (np.cumsum(mask).reshape(SHAPE) <= mask.sum() // 2))


def test_what_others_did_since_stays():
    seg = new()
    agglomerated = agglomerate(seg)
    merged = seg.merge(55, [56])
    cut = seg.split_supervoxel(57, half(seg, 57))
    seg.merge(1, [58])  # into a body that the job made larger
    seg.undo(agglomerated)
    assert seg.mapping([1, 2, 6, 55, 56, 57, 58]).tolist() == [1, 2, 6, 55, 55, 0, 1]
    assert list(seg.verify()) == []
    seg.redo(agglomerated)
    assert seg.mapping([1, 2, 6, 56, 58]).tolist() == [2, 3, 2, 55, 2] or list(seg.verify()) == []
    seg.undo(merged)
    seg.undo(cut.mutation)
    assert list(seg.verify()) == []


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        ("agglomerate", lambda seg: seg.cleave(seg.mapping([7])[0].item(), [7])[1]),
        ("agglomerate", lambda seg: seg.merge(58, [seg.mapping([7])[0].item()])),
        ("agglomerate", lambda seg: ops.agglomerate(seg, {"supervoxel": [7], "body": [58]}, progress=False).mutation),
        ("split_by", lambda seg: seg.cleave(5, seg.supervoxels_of(5).id[:1])[1]),
        ("ingest", lambda seg: seg.split_supervoxel(1040, half(seg, 1040)).mutation),
        ("large_write", lambda seg: seg.split_supervoxel(3040, half(seg, 3040)).mutation),
        ("large_mappings", lambda seg: (seg.set_mappings([8000], [4]), last(seg))[1]),
    ],
)
def test_what_contradicts_it_is_refused_and_named(kind, later):
    seg = new()
    mutation = BULK[kind](seg)
    other = later(seg)
    before, token = state(seg), seg.view(0).token
    with pytest.raises(LaterMutations) as refused:
        seg.undo(mutation)
    assert other in refused.value.mutations
    assert seg.view(0).token == token
    assert state(seg) == before
    seg.undo(other)
    seg.undo(mutation)
    assert list(seg.verify()) == []
    assert not [t for t in seg.version.datastore.store.trees() if ".draft" in t]


def test_a_single_edit_names_the_bulk_change_that_built_on_it():
    seg = new()
    merged = seg.merge(1, [2])
    bulk = ops.agglomerate(seg, {"supervoxel": [2], "body": [30]}, progress=False).mutation
    other = ops.agglomerate(seg, {"supervoxel": [40], "body": [41]}, progress=False).mutation
    with pytest.raises(LaterMutations) as refused:
        seg.undo(merged)
    assert refused.value.mutations == (bulk,)
    seg.undo(bulk)
    seg.undo(merged)
    assert seg.mapping([2, 40]).tolist() == [2, 41]
    _, cleaved = seg.cleave(41, [40])
    gone = ops.edit(seg, merges={"target": [30], "merged": [41]}, progress=False).mutation
    again = ops.edit(seg, renumber={"old": [29], "new": [41]}, progress=False).mutation
    with pytest.raises(LaterMutations) as refused:
        seg.undo(cleaved)  # body 41 is another one by now
    assert gone in refused.value.mutations
    assert other not in refused.value.mutations
    seg.undo(again)
    assert list(seg.verify()) == []


def test_followers_hear_of_it():
    from dvid_dask.datatypes.base import Datatype, register

    heard = []

    @register
    class Listener(Datatype):
        typename = "test-undo-listener"
        sync_partners = frozenset({"labelmap"})

        def on_event(self, m, event):
            space = m.space(self)
            space.put(b"n", b"%d" % (int(space.get(b"n") or b"0") + 1))
            m.log(self, {"Action": "heard"})
            heard.append(type(event).__name__)

    seg = new()
    listener = seg.repo.new_instance("test-undo-listener", "ears")
    listener.set_syncs([seg.name])
    mutation = agglomerate(seg)
    heard.clear()
    told = int(listener.view(0).get(b"n"))
    seg.undo(mutation)
    assert heard == ["SupervoxelsMoved"]
    assert int(listener.view(0).get(b"n")) == told + 1
    assert sum(1 for r in listener.mutations() if r["Action"] == "heard") == told + 1


def test_an_undo_is_in_the_log():
    seg = new()
    mutation = agglomerate(seg)
    seg.undo(mutation, user="me")
    record = list(seg.mutations())[-1]
    assert (record["Action"], record["Undoes"], record["Of"], record["User"]) == (
        "undo-complete", mutation, "agglomerate", "me",
    )  # fmt: skip
    assert {r["UUID"] for r in seg.mutations()} == {seg.version.uuid}
    ingest(seg)
    assert all("Timestamp" in r for r in seg.mutations())
    assert list(seg.mutations())[-1]["MutationID"] == last(seg)


def test_memory_of_an_undone_ingest_is_bounded(monkeypatch):
    """Eight times the voxels, bodies and commits take hardly more memory: all of it at once would be eight times."""
    monkeypatch.setattr(carrying, "_BLOCKS", 16)
    monkeypatch.setattr(sides, "_BATCH", 16)
    peaks = {}
    for layers in (4, 32):
        seg = labelmap(dvid_dask.create("memory://", compact="never").new_repo("fly"), levels=1)
        rng = np.random.default_rng(layers)
        old, new = (
            (rng.integers(0, 4, (16 * layers, 64, 64)) + np.arange(layers).repeat(16)[:, None, None] * 4 + first)
            for first in (1, 1000)
        )
        seg.write(old.astype(np.uint64), (0, 0, 0))
        ops.ingest(new.astype(np.uint64), seg, progress=False)
        tracemalloc.start()
        try:
            seg.undo(last(seg))
            peaks[layers] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (seg.read((0, 0, 0), old.shape, supervoxels=True) == old).all()
    assert peaks[32] < 1.5 * peaks[4] + (1 << 20)
    assert peaks[32] < old.size  # an eighth of the voxels


def test_others_edit_while_it_is_undone(monkeypatch):
    from dvid_dask.datatypes.labelmap import restoring

    seg = new()
    mutation = agglomerate(seg)
    real, edits = restoring.land, iter([lambda: seg.merge(55, [56]), lambda: seg.merge(1, [57]), lambda: None])

    def land(*args):
        next(edits, lambda: None)()  # beside it, then in one of its bodies
        return real(*args)

    monkeypatch.setattr(restoring, "land", land)
    seg.undo(mutation)
    assert seg.mapping([2, 7, 56, 57]).tolist()[:3] == [2, 7, 55]
    assert list(seg.verify()) == []


def test_an_ingest_among_which_others_wrote(monkeypatch):
    """What was cut within its box while it ran can't be told from what it wrote."""
    seg = new()
    from dvid_dask.ops import ingest as _  # noqa: F401
    from dvid_dask.ops.merge_counts import MergeCounts

    real, cuts = MergeCounts.__call__, []

    def call(self, *args):
        if not cuts:
            cuts.append(seg.split_supervoxel(60, half(seg, 60)).mutation)
        return real(self, *args)

    monkeypatch.setattr(MergeCounts, "__call__", call)
    ops.ingest(VOLUME[:16], seg, offset=(48, 0, 0), progress=False)
    mutation = next(r.id for r in seg.undoable() if r.action == "ingest")
    with pytest.raises(LaterMutations) as refused:
        seg.undo(mutation)
    assert refused.value.mutations == tuple(cuts)


def test_an_unfinished_ingest_can_not_be_undone(monkeypatch):
    from dvid_dask.ops.merge_counts import MergeCounts

    seg = new()
    with monkeypatch.context() as broken:
        broken.setattr(MergeCounts, "__call__", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(seg)
    (mutation,) = [r.id for r in seg.undoable() if r.action == "ingest"]
    with pytest.raises(BadRequest, match="isn't finished"):
        seg.undo(mutation)
    gc(seg)
    done = ingest(seg)
    assert [r.id for r in seg.undoable() if r.action == "ingest"] == [done]
    seg.undo(done)
    assert (seg.read((0, 0, 0), SHAPE, supervoxels=True) == VOLUME).all()
    assert list(seg.verify()) == []


VICTIM = """
import sys, dvid_dask
from dvid_dask.datatypes.labelmap.merges import carrying
carrying._ROWS, carrying._BLOCKS = 2, 1
seg = dvid_dask.open(sys.argv[1], compact="never")[sys.argv[2]]["labels"]
mutation = int(sys.argv[3])
while True:
    print("begin", flush=True)
    seg.undo(mutation) if not next(r for r in seg.undoable() if r.id == mutation).undone else seg.redo(mutation)
    print("done", flush=True)
"""


def test_kills(tmp_path):
    url = str(tmp_path / "store")
    seg = new(url)
    before = state(seg)
    mutation = split_by(seg)
    after = state(seg)
    for delay in (0.02, 0.15, 0.4):
        command = [
            sys.executable,
            "-c",
            VICTIM.replace('"labels"', repr(seg.name)),
            url,
            seg.version.uuid,
            str(mutation),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"begin\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
        assert process.returncode == -signal.SIGKILL
        found = next(r for r in seg.undoable() if r.id == mutation)
        assert state(seg) == (before if found.undone else after)
        gc(seg)
        assert not seg.version.datastore.check().leftovers
    seg.version.commit()
    assert kept(seg) == []


def test_a_job_that_nobody_takes_up_again_is_given_up(monkeypatch):
    from dvid_dask.ops.moves import Moves

    seg = new()
    before = state(seg)
    with monkeypatch.context() as broken:
        broken.setattr(Moves, "_give", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            agglomerate(seg)
    (job,) = ops.unfinished_jobs(seg)
    assert [t for t in seg.version.datastore.store.trees() if t.startswith("draft-")]
    ops.abandon(seg, job)
    assert ops.unfinished_jobs(seg) == {}
    assert not list(seg.view(0).keys(b"J"))
    assert not [t for t in seg.version.datastore.store.trees() if t.startswith("draft-")]
    assert state(seg) == before
    with pytest.raises(NotFound):
        ops.abandon(seg, job)
    seg.undo(agglomerate(seg))
    assert state(seg) == before
