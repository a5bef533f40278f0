"""Bulk loads of elements against the same elements added by requests: blocks, lists, tags and counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.annotation.parsing import to_json
from dvid_dask.datatypes.events import KINDS
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotSupported
from dvid_dask.ops import element_lists, element_sources, elements
from tests.ops._elements_victim import smaller
from tests.ops.test_cluster import client, wait_for  # noqa: F401

TAGS = ([], ["auto"], ["auto", "checked"], ["é/ü", "x" * 300])
RELS = ([], [{"Rel": "PreSynTo", "To": [-5, 70000, 3]}], [{"Rel": "GroupedWith", "To": [1, 2, 3]}] * 2)


@pytest.fixture
def many_parts(monkeypatch):
    """Small partitions and pages, so that a few hundred elements go through everything."""
    smaller(monkeypatch.setattr)
    monkeypatch.setattr(element_lists, "PAGE", 16)
    monkeypatch.setattr(elements, "BLOCKS_PER_TASK", 9)
    monkeypatch.setattr(elements, "_BLOCKS_TOGETHER", 4)
    monkeypatch.setattr(elements, "_FLUSH", 50)


def setting(datastore=None, region=None):
    """A segmentation of 8 bodies in the first octant, elements that follow it, counts that follow them."""
    repo = (datastore or dvid_dask.create("memory://", compact="never")).new_repo("fly")
    seg = repo.new_instance("labelmap", "seg", {"BlockSize": "32,32,32"})
    labels = np.arange(8, dtype=np.uint64).reshape(2, 2, 2) * 1000
    seg.write(labels.repeat(32, 0).repeat(32, 1).repeat(32, 2), (0, 0, 0))
    synapses = repo.new_instance("annotation", "synapses")
    synapses.set_syncs(["seg"])
    ranks = repo.new_instance("labelsz", "ranks")
    ranks.set_syncs(["synapses"])
    zone = repo.new_instance("roi", "zone")
    zone.replace([[0, 0, 0, 0], [1, 1, 1, 1]])
    zoned = repo.new_instance("labelsz", "zoned", {"roi": f"zone,{repo.root}"})
    zoned.set_syncs(["synapses"])
    return synapses


def random_rows(n, seed=0, low=-8, high=72):
    """DVID's JSON of some elements, each position once."""
    rng = np.random.default_rng(seed)
    at = np.unique(rng.integers(low, high, (n, 3)), axis=0)
    rng.shuffle(at)
    return [
        {
            "Pos": [int(v) for v in p],
            "Kind": KINDS[rng.integers(5)],
            "Tags": TAGS[rng.integers(4)],
            "Prop": {"conf": f"{rng.integers(100)}", "user": 'q<"\\é'} if rng.random() < 0.7 else {},
            "Rels": RELS[rng.integers(3)],
        }
        for p in at
    ]


def as_table(rows, form="columns"):
    """These elements as a table, in one of the ways that a table may have them."""
    import msgspec

    text = lambda obj: msgspec.json.encode(obj).decode()  # noqa: E731
    table = {axis: np.array([r["Pos"][i] for r in rows], np.int64) for i, axis in enumerate("xyz")}
    table["kind"] = [r["Kind"] for r in rows]
    if form == "json":
        table |= {"tags": [text(r["Tags"]) for r in rows], "props": [text(r["Prop"]) for r in rows]}
        return pa.table(table | {"rels": [text(r["Rels"]) for r in rows]})
    table["tags"] = [r["Tags"] or None for r in rows]
    rels = [[{"rel": q["Rel"], **dict(zip("xyz", q["To"], strict=True))} for q in r["Rels"]] for r in rows]
    table["rels"] = pa.array(rels, ops_schema("rels"))
    if form == "map":
        return pa.table(table | {"prop": pa.array([list(r["Prop"].items()) for r in rows], ops_schema("prop"))})
    conf = [int(r["Prop"]["conf"]) if r["Prop"] else None for r in rows]
    return pa.table(table | {"prop.conf": conf, "prop.user": [r["Prop"].get("user") for r in rows]})


def ops_schema(name):
    from dvid_dask.ops.element_tables import SCHEMA

    return SCHEMA.field(name).type


def everything(synapses):
    """All that can be read of an annotation and what follows it, without regard to the order in lists."""
    blocks = {
        tuple(b): sorted(to_json(held[borders[i] : borders[i + 1]]))
        for block_zyx, held, borders in synapses.scan()
        for i, b in enumerate(block_zyx.tolist())
    }
    frames = {f"body {b * 1000}": synapses.of_label(b * 1000, supervoxels=True) for b in range(1, 10)}
    frames |= {f"tag {t}": synapses.of_tag(t) for t in synapses.tag_names()}
    lists = {name: sorted(map(str, frame.itertuples(index=False))) for name, frame in frames.items()}
    sizes = {name: synapses.version[name].table().to_dict("index") for name in ("ranks", "zoned")}
    return blocks, lists, sizes


def sound(synapses):
    for data in (synapses, synapses.version["ranks"], synapses.version["zoned"]):
        assert list(data.disagreements()) == []


@pytest.mark.parametrize("form", ["columns", "json", "map"])
def test_a_load_is_what_single_requests_make(many_parts, form):
    rows = random_rows(400)
    one, two = setting(), setting()
    one.add(rows)
    report = ops.load_elements(as_table(rows, form), two, progress=False)
    assert everything(two) == everything(one)
    assert (report.elements, report.replaced, report.bodies, report.tags) == (len(rows), 0, 7, 4)
    assert ops.unfinished_jobs(two) == {}
    sound(two)
    assert [r["Action"] for r in two.mutations()][-1] == "load-elements"


@pytest.mark.parametrize("seed", range(3))
def test_a_load_over_elements_that_are_there(many_parts, seed):
    first, second = random_rows(300, seed), random_rows(300, seed + 50)
    second += [{**r, "Kind": "Gap", "Tags": ["new"], "Rels": []} for r in first[: 60 + seed]]
    one, two = setting(), setting()
    for synapses in (one, two):
        synapses.add(first)
    one.add(second)
    positions = {tuple(r["Pos"]): r for r in second}  # the last of a position counts
    table = as_table(list(positions.values()), "json")
    report = ops.load_elements(table, two, progress=False)
    assert everything(two) == everything(one)
    assert report.replaced >= 60
    sound(two)


def test_then_edits_go_on(many_parts):
    rows = random_rows(300)
    one, two = setting(), setting()
    one.add(rows)
    ops.load_elements(as_table(rows), two, progress=False)
    for synapses in (one, two):
        seg = synapses.version["seg"]
        seg.merge(1000, [2000, 3000])
        seg.renumber([(9000, seg.cleave(1000, [3000])[0])])
        x, y, z = rows[0]["Pos"]
        synapses.delete([[z, y, x]])
        synapses.add(random_rows(20, 99))
    assert everything(two) == everything(one)
    sound(two)


def test_the_last_row_of_a_position_counts_if_that_is_asked_for(many_parts):
    rows = random_rows(200)
    again = [{**r, "Kind": "Note"} for r in rows[:80]]
    one, two = setting(), setting()
    one.add(rows)
    one.add(again)
    with pytest.raises(BadRequest, match="positions twice"):
        ops.load_elements(as_table(rows + again, "json"), two, progress=False)
    assert everything(two)[0] == {}
    assert ops.unfinished_jobs(two) == {}
    ops.load_elements(as_table(rows + again, "json"), two, duplicates="last", progress=False)
    assert everything(two) == everything(one)


def test_without_a_segmentation_there_are_blocks_and_tags(repo, many_parts):
    synapses = repo.new_instance("annotation", "points")
    rows = random_rows(200)
    ops.load_elements(as_table(rows), synapses, progress=False)
    assert len(synapses.elements()) == len(rows)
    assert len(synapses.of_tag("auto")) == sum("auto" in r["Tags"] for r in rows)
    assert list(synapses.disagreements()) == []


def test_an_empty_table(repo):
    synapses = repo.new_instance("annotation", "points")
    report = ops.load_elements({"x": [], "y": [], "z": []}, synapses, progress=False)
    assert report.elements == 0


# ------------------------------------------------------------------ tables


def test_files_in_parts(tmp_path, many_parts):
    rows = random_rows(400)
    one = setting()
    one.add(rows)
    expected = everything(one)
    pq.write_table(as_table(rows), tmp_path / "all.parquet", row_group_size=70)
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(3):
        pq.write_table(as_table(rows[i::3], "map"), folder / f"{i}.parquet")
    import pandas as pd

    frame = as_table(rows, "json").to_pandas()
    frame.to_csv(tmp_path / "all.csv", index=False)
    for table in (tmp_path / "all.parquet", folder, str(folder / "*.parquet"), tmp_path / "all.csv", frame):
        two = setting()
        ops.load_elements(table, two, progress=False)
        assert everything(two) == expected, table
    assert isinstance(frame, pd.DataFrame)


def test_a_csv_cut_anywhere_gives_each_row_once(tmp_path, monkeypatch):
    n = 200
    path = tmp_path / "t.csv"
    path.write_text("x,y,z,prop.note\n" + "".join(f'{i},{i * 7},0,"a,b {i}"\n' for i in range(n)))
    for size in (17, 64, 1000, 10**6):
        monkeypatch.setattr(element_sources, "_CSV_PART", size)
        parts = [part.compute().table() for part in element_sources.open_elements(path).parts]
        assert pa.concat_tables(parts)["x"].to_pylist() == list(range(n))


def test_a_dask_dataframe(many_parts):
    import dask.dataframe as dd

    rows = random_rows(200)
    one, two = setting(), setting()
    one.add(rows)
    ops.load_elements(dd.from_pandas(as_table(rows, "json").to_pandas(), npartitions=3), two, progress=False)
    assert everything(two) == everything(one)


GOOD = {"x": [1, 2], "y": [1, 2], "z": [1, 2]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1], "y": [1]}, "no column z"),
        ({**GOOD, "X": [1, 2]}, "two columns"),
        ({**GOOD, "x": [1.0, 2.0]}, "positions are integers"),
        ({**GOOD, "x": [1, None]}, "row 1 .*no value"),
        ({**GOOD, "z": [1, 2**31]}, "row 1 .*outside"),
        ({**GOOD, "z": [-(2**31) - 1, 0]}, "row 0 .*outside"),
        ({**GOOD, "z": np.array([0, 2**63], np.uint64)}, "outside"),
        ({**GOOD, "y": ["1", "2"]}, "positions are integers"),
        ({**GOOD, "kind": ["PreSyn", "Presyn"]}, "row 1 .*none of Unknown"),
        ({**GOOD, "kind": [1, 2]}, "expected texts"),
        ({**GOOD, "tags": [["a"], [""]]}, "row 1 .*can't be a tag"),
        ({**GOOD, "tags": [["a"], ["b", None]]}, "row 1 .*null"),
        ({**GOOD, "tags": [["a" * 5000], []]}, "row 0 .*5000 bytes"),
        ({**GOOD, "tags": ["[1]", "[]"]}, "row 0"),
        ({**GOOD, "tags": ["[", "[]"]}, "row 0"),
        ({**GOOD, "tags": ["[" * 10**5, "[]"]}, "row 0"),
        ({**GOOD, "prop": ["{}", '{"a": 1}']}, "row 1"),
        ({**GOOD, "prop": ["{}", "NaN"]}, "row 1"),
        ({**GOOD, "prop": ["{}", "{}"], "prop.a": ["1", "2"]}, "both prop"),
        ({**GOOD, "rels": ["[]", '[{"Rel": "Next"}]']}, "row 1"),
        ({**GOOD, "rels": ["[]", '[{"Rel": "PreSynTo", "To": [1, 2, 2147483648]}]']}, "row 1"),
        ({**GOOD, "rels": ["[]", "], ["]}, "row 1"),
        ({**GOOD, "rels": [[{"rel": "PreSynTo", "x": 1, "y": 2}], []]}, "without z"),
        ({**GOOD, "rels": [[{"rel": "Next", "x": 1, "y": 2, "z": 3}], []]}, "none of Unknown"),
    ],
)
def test_what_is_no_table_of_elements_is_refused_and_changes_nothing(repo, columns, message):
    synapses = repo.new_instance("annotation", "points")
    synapses.add([{"Pos": [0, 0, 0], "Kind": "Note"}])
    before = list(synapses.view(0).scan())
    with pytest.raises(BadRequest, match=message):
        ops.load_elements(columns, synapses, progress=False)
    assert list(synapses.view(0).scan()) == before
    assert not [t for t in synapses.version.datastore.store.trees() if t.startswith("draft-")]


def test_other_refusals(repo, tmp_path):
    synapses = repo.new_instance("annotation", "points")
    with pytest.raises(BadRequest):
        ops.load_elements(tmp_path / "nothing.parquet", synapses, progress=False)
    with pytest.raises(BadRequest):
        ops.load_elements(tmp_path / "nothing.txt", synapses, progress=False)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(BadRequest, match="Parquet"):
        ops.load_elements(tmp_path / "bad.parquet", synapses, progress=False)
    (tmp_path / "bad.csv").write_text("x,y,z\n1,2,3\n1,2\n")
    with pytest.raises(BadRequest):
        ops.load_elements(tmp_path / "bad.csv", synapses, progress=False)
    with pytest.raises(BadRequest):
        ops.load_elements(5, synapses, progress=False)
    with pytest.raises(NotSupported):
        ops.load_elements(GOOD, repo.new_instance("keyvalue", "kv"), progress=False)
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        ops.load_elements(GOOD, synapses, progress=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([-(2**31), -1, 0, 2**31 - 1]), st.integers(0, 4),
       st.lists(st.text(min_size=1, max_size=3), max_size=3), st.dictionaries(st.text(max_size=2), st.text(max_size=2)),
       st.lists(st.tuples(st.integers(0, 4), st.integers(-(2**31), 2**31 - 1)), max_size=2)), max_size=8))  # fmt: skip
def test_tables_hold_all_that_elements_hold(rows):
    from dvid_dask.datatypes.annotation.kinds import RELATIONS
    from dvid_dask.datatypes.annotation.parsing import parse
    from dvid_dask.ops.element_tables import _dumps, from_arrow, to_arrow

    given = [
        {"Pos": [p, i, -p - 1], "Kind": KINDS[k], "Tags": tags, "Prop": prop,
         "Rels": [{"Rel": RELATIONS[r], "To": [to, 0, 1]} for r, to in rels]}
        for i, (p, k, tags, prop, rels) in enumerate(rows)
    ]  # fmt: skip
    held = parse(_dumps(given))
    assert to_json(from_arrow(to_arrow(held))) == to_json(held)


# ------------------------------------------------------------------ beside others


def test_others_may_edit_elsewhere_meanwhile(many_parts, monkeypatch):
    rows = random_rows(200)
    one, two = setting(), setting()
    one.add(rows)
    ops.load_elements({"x": [], "y": [], "z": []}, two, progress=False)
    make, done = element_lists.Slips.make, []

    def between(self, *args):
        if not done:
            done.append(two.version.repo.new_instance("keyvalue", "kv").put("a", b"1"))
        return make(self, *args)

    monkeypatch.setattr(element_lists.Slips, "make", between)
    ops.load_elements(as_table(rows), two, progress=False)
    assert two.version["kv"]["a"] == b"1"
    assert everything(two) == everything(one)


EDITS = {
    "merge": lambda v: v["seg"].merge(1000, [2000]),
    "cleave": lambda v: (v["seg"].merge(1000, [2000, 3000]), v["seg"].cleave(1000, [2000])),
    "split": lambda v: v["seg"].split(7000, np.array([[32, y, z, 20] for z in range(32, 64) for y in range(32, 64)])),
    "split a supervoxel": lambda v: v["seg"].split_supervoxel(3000, np.array([[32, y, 2, 32] for y in range(32, 64)])),
    "voxels": lambda v: v["seg"].write(np.full((32, 32, 32), 9000, np.uint64), (32, 0, 0)),
    "renumber": lambda v: v["seg"].renumber([(8000, 6000)]),
    "move": lambda v: v["synapses"].move([1, 1, 1], [60, 60, 60]),
    "delete": lambda v: v["synapses"].delete([1, 1, 1]),
    "add": lambda v: v["synapses"].add([{"Pos": [2, 1, 1], "Kind": "PreSyn", "Tags": ["new"]}, {"Pos": [70, 70, 3]}]),
    "all": lambda v: [edit(v) for name, edit in EDITS.items() if name not in ("all", "merge", "delete", "voxels")],
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_others_edit_meanwhile_is_taken_up(many_parts, monkeypatch, edit):
    rows = [r for r in random_rows(300) if r["Pos"] not in ([1, 1, 1], [60, 60, 60], [2, 1, 1], [70, 70, 3])]
    one, two = setting(), setting()
    for synapses in (one, two):
        synapses.add([{"Pos": [1, 1, 1], "Kind": "Note", "Tags": ["auto"]}, {"Pos": [3, 1, 1], "Kind": "Gap"}])
    one.add(rows)
    EDITS[edit](one.version)
    make, done = element_lists.Slips.make, []

    def between(self, *args):
        if not done:
            done.append(1)
            EDITS[edit](two.version)
        return make(self, *args)

    monkeypatch.setattr(element_lists.Slips, "make", between)
    ops.load_elements(as_table(rows), two, progress=False)
    assert everything(two) == everything(one)
    assert ops.unfinished_jobs(two) == {}
    assert not [t for t in two.version.datastore.store.trees() if t.startswith("draft-")]
    sound(two)


@pytest.mark.parametrize("edit", [name for name in EDITS if name not in ("add", "move", "all")])
def test_a_reload_takes_up_what_others_edit_meanwhile(many_parts, monkeypatch, edit):
    synapses = setting()
    synapses.add([*random_rows(300, low=5), {"Pos": [1, 1, 1], "Kind": "Note", "Tags": ["auto"]}])
    repo = synapses.version.repo
    if edit in ("voxels", "delete", "merge"):  # blocks of another shape too
        other = repo.new_instance("labelmap", "other", {"BlockSize": "16,16,16"})
        labels = np.arange(8, dtype=np.uint64).reshape(2, 2, 2) * 1000
        other.write(labels.repeat(32, 0).repeat(32, 1).repeat(32, 2), (0, 0, 0))
        synapses.set_syncs(["other"], replace=True)
        synapses = synapses.version["synapses"]
    make, done = element_lists.Slips.make, []

    class Other:
        """The version, whose segmentation is the one that is followed now."""

        def __getitem__(self, name):
            return synapses.version["other" if name == "seg" and "other" in synapses.version else name]

    def between(self, *args):
        if not done:
            done.append(1)
            EDITS[edit](Other())
        return make(self, *args)

    monkeypatch.setattr(element_lists.Slips, "make", between)
    ops.reload_elements(synapses, progress=False)
    after = everything(synapses)
    sound(synapses)
    monkeypatch.undo()
    ops.reload_elements(synapses, progress=False)
    assert everything(synapses) == after


def test_who_edits_the_same_element_meanwhile_is_not_overwritten(many_parts, monkeypatch):
    rows = random_rows(200, low=4)
    synapses = setting()
    synapses.add([{"Pos": [1, 1, 1], "Kind": "Note"}])
    make, done = element_lists.Slips.make, []

    def between(self, *args):
        if not done:
            done.append(1)
            synapses.add([{**rows[0], "Kind": "Note"}])
        return make(self, *args)

    monkeypatch.setattr(element_lists.Slips, "make", between)
    with pytest.raises(Conflict, match="both sides"):
        ops.load_elements(as_table(rows), synapses, progress=False)
    monkeypatch.undo()
    assert len(synapses.elements()) == 2
    assert ops.unfinished_jobs(synapses) == {}
    sound(synapses)


def marks(synapses, phase):
    """Tasks of a phase that a draft has noted."""
    store = synapses.version.datastore.store
    names = [t for t in store.trees() if t.startswith("draft-") and not t.endswith(".0")]
    return sum(b"/%b/" % phase in key for t in names for key, _ in store.tree(t).view(0).scan())


def test_killed_in_the_middle_then_started_again(tmp_path, monkeypatch):
    rows = random_rows(500)
    one = setting()
    one.add(rows)
    synapses = setting(dvid_dask.create(str(tmp_path / "store"), compact="never"))
    table = tmp_path / "table.parquet"
    pq.write_table(as_table(rows), table, row_group_size=64)
    args = (synapses.version.datastore.url, str(table), synapses.version.uuid)
    victim = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_elements_victim.py")), *args],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        wait_for(lambda: victim.poll() is not None or marks(synapses, b"file") >= 2)
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
    before = marks(synapses, b"file")
    assert before >= 2
    assert everything(synapses)[0] == {}  # nothing is seen of what it did
    assert len(ops.unfinished_jobs(synapses)) == 1
    smaller(monkeypatch.setattr)
    filed, file = [], elements._Load._file
    monkeypatch.setattr(elements._Load, "_file", lambda self, p: filed.append(p) or file(self, p))
    report = ops.load_elements(table, synapses, progress=False)
    assert report.elements == len(rows)
    assert len(filed) + before == -(-len(rows) // 64)
    assert everything(synapses) == everything(one)
    sound(synapses)


def test_worker_processes(tmp_path, client, many_parts):  # noqa: F811
    rows = random_rows(300)
    one = setting()
    one.add(rows)
    synapses = setting(dvid_dask.create(str(tmp_path / "store"), compact="never"))
    ops.load_elements(as_table(rows), synapses, client=client, progress=False)
    assert everything(synapses) == everything(one)


# ------------------------------------------------------------------ lists anew


def test_a_reload_makes_the_same_lists(many_parts):
    synapses = setting()
    synapses.add(random_rows(400))
    before = everything(synapses)
    report = ops.reload_elements(synapses, progress=False)
    assert report.elements == sum(map(len, before[0].values()))
    assert everything(synapses) == before
    sound(synapses)


def test_a_reload_after_another_segmentation(many_parts):
    synapses = setting()
    synapses.add(random_rows(300))
    repo = synapses.version.repo
    other = repo.new_instance("labelmap", "other", {"BlockSize": "64,64,64"})
    other.write(np.full((64, 64, 64), 4000, np.uint64), (0, 0, 0))
    synapses.set_syncs(["other"], replace=True)
    synapses = synapses.version["synapses"]
    ops.reload_elements(synapses, progress=False)
    held = synapses.elements()
    inside = ((held[["z", "y", "x"]] >= 0) & (held[["z", "y", "x"]] < 64)).all(axis=1)
    assert len(synapses.of_label(4000)) == int(inside.sum())
    assert synapses.block_shape == (64, 64, 64)
    assert not synapses.needs_reload
    sound(synapses)


def test_a_reload_of_nothing(repo):
    synapses = repo.new_instance("annotation", "points")
    assert ops.reload_elements(synapses, progress=False).elements == 0


# ------------------------------------------------------------------ out again


def test_a_dataframe_of_all(many_parts):
    synapses = setting()
    rows = random_rows(200)
    synapses.add(rows)
    frame = ops.elements_dataframe(synapses, bodies=True)
    assert frame.npartitions > 1
    table = frame.compute()
    assert sorted(zip(table.x, table.y, table.z, strict=True)) == sorted(tuple(r["Pos"]) for r in rows)
    for body in range(1, 8):
        assert (table.body == body * 1000).sum() == len(synapses.of_label(body * 1000))
    assert (table.kind == "Gap").sum() == sum(r["Kind"] == "Gap" for r in rows)


def test_a_dataframe_of_nothing(repo):
    synapses = repo.new_instance("annotation", "points")
    assert len(ops.elements_dataframe(synapses).compute()) == 0
    with pytest.raises(NotSupported, match="no segmentation"):
        ops.elements_dataframe(synapses, bodies=True)


def test_out_to_parquet_and_in_again(tmp_path, many_parts):
    one, two = setting(), setting()
    one.add(random_rows(300))
    report = ops.export_elements(one, str(tmp_path / "out"), bodies=True, progress=False)
    assert report.elements == len(one.elements())
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix != ".parquet"]
    ops.load_elements(tmp_path / "out", two, progress=False)
    assert everything(two) == everything(one)
    one.add(random_rows(10, 7))
    assert ops.export_elements(one, str(tmp_path / "out"), progress=False).elements == len(one.elements())
    (tmp_path / "out" / "mine.txt").write_text("")
    with pytest.raises(Conflict, match="mine.txt"):
        ops.export_elements(one, str(tmp_path / "out"), progress=False)
