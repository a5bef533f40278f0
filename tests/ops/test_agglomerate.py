"""Agglomeration and edits by table against a dictionary, and against the same edits done one by one."""

from __future__ import annotations

import random

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.labelmap.index import SMALL, Index
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotSupported
from dvid_dask.ops import drafts, moves
from dvid_dask.ops.piles import by_neighbours
from tests.ops.conftest import neurites
from tests.ops.test_ingest import labelmap


def grid(n=60, shape=(48, 48, 48)):
    """Cells of the labels 1 to n, each at least once, with background between."""
    rng = np.random.default_rng(n)
    cells = rng.integers(0, n + 1, [-(-s // 6) for s in shape]).astype(np.uint64)
    cells.flat[rng.permutation(cells.size)[:n]] = range(1, n + 1)
    return np.ascontiguousarray(cells.repeat(6, 0).repeat(6, 1).repeat(6, 2)[: shape[0], : shape[1], : shape[2]])


def filled(volume, repo=None, **options):
    seg = labelmap(repo or dvid_dask.create("memory://").new_repo("fly"), **options)
    ops.ingest(volume, seg, progress=False)
    return seg


def bodies_of(seg):
    """{body: {supervoxel: voxels}} by the label index."""
    index = Index(seg.view(0))
    return {b: dict(zip(*(c.tolist() for c in (s.id, s.voxels)), strict=True)) for b in index.bodies()
            for s in [index.supervoxels(b)]}  # fmt: skip


def expected(volume, mapping):
    out = {}
    for sv, n in zip(*(c.tolist() for c in np.unique(volume[volume > 0], return_counts=True)), strict=True):
        out.setdefault(mapping.get(sv, sv), {})[sv] = n
    return out


def check(seg, volume, mapping):
    assert bodies_of(seg) == expected(volume, mapping)
    lookup = np.array([mapping.get(sv, sv) for sv in range(int(volume.max()) + 1)], np.uint64)
    np.testing.assert_array_equal(seg.read((0, 0, 0), volume.shape), lookup[volume.astype(int)])
    assert list(seg.verify()) == []
    assert ops.unfinished_jobs(seg) == {}
    assert not list(seg.view(0).keys(b"J"))
    assert not [t for t in seg.version.datastore.store.trees() if t.startswith("draft")]


def run(seg, table, **options):
    return ops.agglomerate(seg, table, progress=False, **options)


def svs_of(volume):
    return np.unique(volume[volume > 0])


@pytest.mark.parametrize("rows_per_partition", [4, 1 << 17])
def test_index_mapping_and_voxels_are_those_of_the_model(monkeypatch, rows_per_partition):
    monkeypatch.setattr(moves, "_ROWS_PER_PARTITION", rows_per_partition)
    monkeypatch.setattr(moves, "_FLUSH_ROWS", 32)
    monkeypatch.setattr(moves, "_BATCH_ROWS", 64)
    volume = grid()
    seg = filled(volume)
    svs = svs_of(volume)
    table = pd.DataFrame({"body": svs % 7 + 1, "supervoxel": svs})
    table.loc[table.supervoxel <= 7, "body"] = table.supervoxel
    report = run(seg, table)
    mapping = dict(zip(table.supervoxel.tolist(), table.body.tolist(), strict=True))
    check(seg, volume, mapping)
    assert (report.rows, report.unknown) == (len(svs), 0)
    assert report.moved == int((table.body != table.supervoxel).sum())
    # the other way, through bodies that exchange their supervoxels, to ids that are new
    again = {sv: 1000 + sv % 5 for sv in svs.tolist() if sv % 3}
    run(seg, np.array(list(again.items()), np.uint64))
    check(seg, volume, mapping | again)
    assert seg.next_labels.largest >= 1004
    assert seg.mapping([1000, 1004]).tolist() == [0, 0]
    log = [r for r in seg.mutations() if r["Action"] == "agglomerate-complete"]
    assert [r["Moved"] for r in log] == [report.moved, len(again)]
    assert seg.header(1001).stamp.mutation == log[-1]["MutationID"]


@pytest.mark.parametrize("kind", ["pandas", "arrow", "dask", "parquet", "csv", "npy", "dict", "signed"])
def test_tables_of_all_kinds(tmp_path, kind):
    volume = grid()
    seg = filled(volume)
    svs = svs_of(volume)
    frame = pd.DataFrame({"supervoxel": svs, "body": np.where(svs < 30, svs[0], svs[-1])})
    if kind == "pandas":
        table = frame.sample(frac=1, random_state=0)
    elif kind == "arrow":
        table = pa.Table.from_pandas(frame)
    elif kind == "dask":
        table = dd.from_pandas(frame, npartitions=5)
    elif kind == "parquet":
        dd.from_pandas(frame, npartitions=3).to_parquet(tmp_path / "t.parquet")
        table = tmp_path / "t.parquet"
    elif kind == "csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
        table = str(tmp_path / "t.csv")
    elif kind == "npy":
        np.save(tmp_path / "t.npy", frame.to_numpy())
        table = str(tmp_path / "t.npy")
    elif kind == "dict":
        table = {"Supervoxel": frame.supervoxel.tolist(), "Body": frame.body.tolist()}
    else:
        table = frame.astype(np.int64)
    run(seg, table)
    check(seg, volume, dict(zip(svs.tolist(), frame.body.tolist(), strict=True)))


def test_a_body_of_many_pages_gives_and_takes():
    volume = neurites((144, 144, 144), zeros=0.3) % np.uint64(1 << 20)
    volume[::16, ::16] = 5000000
    volume[:, ::16, ::16] = 5000001
    seg = filled(volume, levels=0)
    assert Index(seg.view()).header(5000000).rows > SMALL
    svs = svs_of(volume)
    few = svs[:10].tolist()
    table = dict.fromkeys([5000001, *few], 5000000)
    run(seg, list(table.items()))
    assert bodies_of(seg) == expected(volume, table)
    back = dict.fromkeys(few[:4], few[0]) | {5000000: 77}
    run(seg, list(back.items()))
    assert bodies_of(seg) == expected(volume, table | back)
    assert list(seg.verify()) == []
    run(seg, [(sv, sv) for sv in svs.tolist()])
    assert bodies_of(seg) == expected(volume, {})


BAD = {
    "background": ([[0, 5]], "supervoxel 0"),
    "to background": ([[5, 0]], "body 0"),
    "reserved": ([[5, 2**64 - 1]], "reserved"),
    "twice": ([[5, 6], [6, 6], [5, 7]], "different bodies: 5"),
    "unknown": ([[5, 6], [999, 6]], "don't exist.*999"),
    "supervoxel of another body": ([[5, 6], [7, 5]], "body 5: supervoxel 5 is of body 6"),
    "supervoxel of another body before": ([[7, 3]], "body 3: supervoxel 3 is of body 2"),
    "negative": (np.array([[5, -6]]), "negative"),
    "floats": (np.array([[5.0, 6.0]]), "floats"),
    "missing": (pd.DataFrame({"supervoxel": pd.array([5, None], "UInt64"), "body": [6, 6]}), "missing"),
    "no such column": (pd.DataFrame({"sv": [5], "body": [6]}), "no column supervoxel"),
    "three columns": (np.ones((2, 3), np.uint64), "shape"),
    "no table": ("nothing.parquet", "nothing.parquet"),
    "split": ([[4, 6]], "split"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_change_nothing(case):
    table, message = BAD[case]
    volume = grid()
    seg = filled(volume)
    seg.merge(2, [3])
    seg.set_mappings([4], [0])
    before = dict(seg.view(0).scan())
    with pytest.raises(BadRequest, match=message):
        run(seg, table)
    assert dict(seg.view(0).scan()) == before
    assert not [t for t in seg.version.datastore.store.trees() if t.startswith("draft")]


def test_unknown_supervoxels_may_be_left_out():
    volume = grid()
    seg = filled(volume)
    report = run(seg, [[5, 6], [999, 6], [998, 998]], unknown="skip")
    assert (report.moved, report.unknown) == (1, 2)
    check(seg, volume, {5: 6})
    seg.set_mappings([77], [0])  # as if it had been split
    assert run(seg, [[77, 6], [7, 6]], unknown="skip").unknown == 1
    check(seg, volume, {5: 6, 7: 6})
    with pytest.raises(BadRequest, match="error.*skip"):
        run(seg, [[5, 6]], unknown="whatever")


def test_committed_versions_and_other_instances_are_refused(repo):
    seg = filled(grid(), repo)
    with pytest.raises(NotSupported):
        run(repo.new_instance("uint8blk", "gray"), [[1, 2]])
    seg.version.commit("done")
    with pytest.raises(LockedVersion):
        run(seg, [[1, 2]])
    with pytest.raises(LockedVersion):
        ops.edit(seg, merges=[[1, 2]], progress=False)


def test_an_empty_table_is_no_mutation():
    seg = filled(grid())
    before = dict(seg.view(0).scan())
    assert run(seg, []).rows == 0
    assert ops.edit(seg, progress=False).moved == 0
    assert dict(seg.view(0).scan()) == before


# ------------------------------------------------------------------ others meanwhile


class Meanwhile:
    """Does something in the version while a job runs on its draft."""

    def __init__(self, monkeypatch, action):
        run = moves.Moves.run

        def interrupted(self, client, show):
            run(self, client, show)
            action()

        monkeypatch.setattr(moves.Moves, "run", interrupted)


def test_edits_of_others_meanwhile_are_kept(monkeypatch):
    volume = grid()
    seg = filled(volume)
    seen = []

    def others():
        seen.append(bodies_of(seg))
        seg.merge(40, [41, 42])
        seg.write(np.full((16, 16, 16), 7777, np.uint64), (64, 64, 64))

    Meanwhile(monkeypatch, others)
    run(seg, [[sv, 1] for sv in svs_of(volume).tolist() if sv <= 20])
    assert seen == [expected(volume, {})]  # nothing of it was to be seen
    after = bodies_of(seg)
    assert after.pop(7777) == {7777: 4096}
    mapping = dict.fromkeys(range(1, 21), 1) | {41: 40, 42: 40}
    assert after == expected(volume, mapping)
    assert list(seg.verify()) == []
    assert [r["Action"] for r in seg.mutations()][-2:] == ["merge-complete", "agglomerate-complete"]
    assert seg.mapping([41, 5]).tolist() == [40, 1]


def test_the_same_body_changed_by_others_is_a_conflict(monkeypatch):
    volume = grid()
    seg = filled(volume)
    with monkeypatch.context() as patch:
        Meanwhile(patch, lambda: seg.merge(5, [41]))
        with pytest.raises(Conflict, match="body 5"):
            run(seg, [[6, 5], [7, 8]])
    check(seg, volume, {41: 5})
    run(seg, [[6, 5], [7, 8]])
    check(seg, volume, {41: 5, 6: 5, 7: 8})


def test_a_version_committed_meanwhile_stays_as_it_was(monkeypatch):
    volume = grid()
    seg = filled(volume)
    Meanwhile(monkeypatch, lambda: seg.version.commit("too early"))
    with pytest.raises(LockedVersion):
        run(seg, [[6, 5]])
    assert bodies_of(seg) == expected(volume, {})


def test_a_power_cut_after_every_commit(monkeypatch):
    """Whatever commit was the last: until the end nothing is seen, and the same call ends as an undisturbed one."""
    monkeypatch.setattr(moves, "_ROWS_PER_PARTITION", 16)
    monkeypatch.setattr(moves, "_BATCH_ROWS", 64)
    volume = grid()
    seg = filled(volume)
    table = [[sv, sv % 4 + 1] for sv in svs_of(volume).tolist() if sv > 4]

    class PowerCutError(Exception):
        pass

    rng, mutate = random.Random(3), drafts.DraftLedger.mutate

    def cut(self, fn):
        result = mutate(self, fn)
        if rng.random() < 0.15:
            raise PowerCutError  # committed, but nobody hears of it
        return result

    monkeypatch.setattr(drafts.DraftLedger, "mutate", cut)
    runs = 0
    while True:
        runs += 1
        assert runs < 200
        try:
            run(seg, table)
            break
        except PowerCutError:
            assert bodies_of(seg) == expected(volume, {})
            assert len(ops.unfinished_jobs(seg)) == 1
    assert runs > 3
    check(seg, volume, dict(table))


# ------------------------------------------------------------------ edits by table


def state(seg):
    """What single edits and those by table must agree on: mapping, rows, sizes, largest label."""
    index = Index(seg.view(0))
    rows = {b: sorted(zip(r.block_zyx.tolist(), r.supervoxel.tolist(), r.count.tolist(), strict=True))
            for b in index.bodies() for r in [index.rows(b)]}  # fmt: skip
    entries = {}
    for ids, bodies in seg.mappings():
        entries |= dict(zip(ids.tolist(), bodies.tolist(), strict=True))
    return rows, entries, seg.extended()["MaxLabel"]


@st.composite
def tables(draw):
    """Merges as a forest, cleaves and renumberings of other bodies, rows in any order."""
    ids = draw(st.permutations(range(1, 31)))
    a, b = sorted(draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
    merging, cleaving, naming = ids[:a], ids[a:b], ids[b:]
    merges = [(merging[draw(st.integers(0, i - 1))], merging[i]) for i in range(1, len(merging))]
    merges = [m for m in merges if draw(st.booleans())]
    renumber = [(old, 1000 + i) for i, old in enumerate(naming)]
    groups = [draw(st.integers(0, 3)) for _ in cleaving]
    return draw(st.permutations(merges)), list(zip(cleaving, groups, strict=True)), draw(st.permutations(renumber))


@settings(max_examples=12, deadline=None)
@given(tables())
def test_same_end_as_single_edits(given):
    merges, cleaves, renumber = given
    with dask.config.set(scheduler="synchronous"):
        volume = grid(90)
        one, many = filled(volume, levels=0), filled(volume, levels=0)
        extra = [sv for sv in svs_of(volume).tolist() if sv > 30]
        for seg in (one, many):  # bodies to be cleaved have three supervoxels each
            for i, (body, _) in enumerate(cleaves):
                seg.merge(body, extra[2 * i : 2 * i + 2])
        table = [(body, sv, group % 2) for i, (body, group) in enumerate(cleaves) if group
                 for sv in extra[2 * i : 2 * i + (1 if group < 3 else 2)]]  # fmt: skip
        report = ops.edit(many, merges=merges, cleaves=table, renumber=renumber, progress=False)
        parent = {m: t for t, m in merges}
        for m in parent:
            root = m
            while root in parent:
                root = parent[root]
            one.merge(root, [m])
        cleaved = {}
        for body, sv, group in table:
            cleaved.setdefault((body, group), []).append(sv)
        made = [(body, group, one.cleave(body, svs)[0]) for (body, group), svs in sorted(cleaved.items())]
        for old, new in renumber:
            one.renumber([(new, old)])
        assert state(many) == state(one)
        assert [tuple(r) for r in report.cleaved.itertuples(index=False)] == made
        assert list(many.verify()) == []
        kinds = ("renumber-complete", "cleave-complete")
        both = [[{k: v for k, v in r.items() if k not in ("MutationID", "UUID", "Timestamp")} for r in seg.mutations()
                 if r["Action"] in kinds] for seg in (one, many)]  # fmt: skip
        assert sorted(both[0], key=str) == sorted(both[1], key=str)


def test_cleaved_bodies_get_none_of_the_ids_that_others_are_renumbered_to():
    seg = filled(grid(60))
    seg.merge(1, [2, 3])
    soon = seg.next_labels.next
    cleaves = [[1, 2, 0], [1, 3, 1]]
    report = ops.edit(seg, cleaves=cleaves, renumber=[[7, soon], [8, soon + 2]], progress=False)
    assert report.cleaved.new_body.tolist() == [soon + 1, soon + 3]
    assert seg.sizes([soon, soon + 2]).tolist() == seg.sizes([7, 8], supervoxels=True).tolist()
    assert list(seg.verify()) == []


def test_bodies_next_to_each_other_are_in_one_partition_and_all_partitions_get_some():
    ids = np.arange(1 << 20, dtype=np.uint64) + np.uint64(1 << 40)
    where = by_neighbours(ids, 77)
    assert (where[1:] != where[:-1]).sum() < len(ids) >> 10
    share = np.bincount(where, minlength=77) / len(ids)
    assert share.min() > 0.3 / 77
    assert share.max() < 3 / 77


def test_history_tells_edits_by_table():
    volume = grid()
    seg = filled(volume)
    begin = seg.version
    begin.commit("before")
    seg = begin.newversion()["seg"]
    ops.edit(seg, merges=[[1, 2], [2, 3]], progress=False, user="zoe")
    ops.edit(seg, cleaves=[[1, 3, 0]], progress=False)
    told = list(seg.body_history(1, begin))
    assert [t["Action"] for t in told] == ["merge", "cleave"]
    assert told[0]["Labels"] == [2, 3]
    assert (
        seg.header(1).stamp.mutation
        == next(r for r in seg.mutations() if r["Action"] == "cleave-complete")["MutationID"]
    )


BAD_EDITS = {
    "merge into itself": ({"merges": [[5, 5]]}, "into themselves: 5"),
    "merge into two": ({"merges": [[5, 7], [6, 7]]}, "more than one other: 7"),
    "ring": ({"merges": [[5, 6], [6, 7], [7, 5]]}, "ring"),
    "ring beside": ({"merges": [[5, 6], [6, 5], [8, 9]]}, "ring: 5, 6"),
    "no such target": ({"merges": [[999, 6]]}, "999"),
    "no such body": ({"merges": [[6, 999]]}, "999"),
    "background": ({"merges": [[6, 0]]}, "0"),
    "nothing left": ({"cleaves": [[2, 2, 0], [2, 3, 1]]}, "nothing would be left.*2"),
    "not of the body": ({"cleaves": [[2, 9, 0]]}, "9"),
    "no such body to cleave": ({"cleaves": [[999, 9, 0]]}, "999"),
    "two groups": ({"cleaves": [[2, 3, 0], [2, 3, 1]]}, "more than one group: 3"),
    "to an id in use": ({"renumber": [[5, 6]]}, "of these ids: 6"),
    "to two ids": ({"renumber": [[5, 1000], [5, 1001]]}, "more than one id: 5"),
    "two to an id": ({"renumber": [[5, 1000], [6, 1000]]}, "more than one body would get: 1000"),
    "no such body to renumber": ({"renumber": [[999, 1000]]}, "999"),
    "merged and cleaved": ({"merges": [[2, 5]], "cleaves": [[2, 3, 0]]}, "merged and cleaved.*2"),
    "merged and renumbered": ({"merges": [[6, 5]], "renumber": [[5, 1000]]}, "merged and renumbered.*5"),
    "cleaved and renumbered": ({"renumber": [[2, 1000]], "cleaves": [[2, 3, 0]]}, "cleaved and renumbered.*2"),
}


@pytest.mark.parametrize("case", BAD_EDITS)
def test_bad_edits_change_nothing(case):
    given, message = BAD_EDITS[case]
    seg = filled(grid(), levels=0)
    seg.merge(2, [3])
    before = dict(seg.view(0).scan())
    with pytest.raises(BadRequest, match=message):
        ops.edit(seg, progress=False, **given)
    assert dict(seg.view(0).scan()) == before
    assert not [t for t in seg.version.datastore.store.trees() if t.startswith("draft")]
