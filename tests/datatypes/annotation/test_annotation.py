"""annotation in Python: bulk jobs and forced writes that it follows, versions merged, races, scale, dataframes."""

from __future__ import annotations

import random
import threading

import numpy as np
import pandas as pd
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.annotation import KINDS, Elements, keys, lists
from dvid_dask.errors import BadRequest, LockedVersion

from . import follower  # noqa: F401  registers its type
from .model import Model, check, element, tallied

SHAPE = (32, 32, 32)


def cells(seed=0, names=64):
    """Supervoxels in cells of 8 voxels."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, names + 1, (4, 4, 4)).astype(np.uint64).repeat(8, 0).repeat(8, 1).repeat(8, 2)


def some(n, seed=0, kinds=KINDS):
    rng = random.Random(seed)
    return [
        element([rng.randrange(-4, 36) for _ in range(3)], rng.choice(kinds), rng.choice([[], ["a"], ["a", "b"]]))
        for _ in range(n)
    ]


@pytest.fixture
def world(tmp_path):
    """A version with a segmentation, an annotation that follows it, one that follows that; and the model."""
    with dvid_dask.create(str(tmp_path / "store"), compact="never") as ds:
        yield make(ds)


def make(ds, block="16,16,16"):
    version = ds.new_repo("fly")["master"]
    seg = version.repo.new_instance("labelmap", "seg", {"BlockSize": block, "MaxDownresLevel": "1"})
    seg.write(cells(), (0, 0, 0))
    annotation = version.repo.new_instance("annotation", "synapses")
    annotation.set_syncs(["seg"])
    version.repo.new_instance("test-tally", "counts").set_syncs(["synapses"])
    model = Model(tuple(int(v) for v in block.split(",")[::-1]))
    annotation.add(some(400))
    model.post(some(400))
    return version, model


def agree(version, model):
    bodies = set(version["seg"].bodies())
    check(version["synapses"], model, version["seg"], bodies)
    assert version["counts"].counts == tallied(version["synapses"], model, version["seg"])


# ------------------------------------------------------------------ bulk jobs


def test_follows_an_agglomeration(world):
    version, model = world
    table = pd.DataFrame({"supervoxel": np.arange(1, 65, dtype=np.uint64)})
    table["body"] = 1 + (table["supervoxel"] // 7) * 7
    present = version["seg"].supervoxels[:, :, :]
    table = table[table["supervoxel"].isin(np.unique(present))]
    ops.agglomerate(version["seg"], table, progress=False)
    agree(version, model)


def test_follows_edits_in_bulk(world):
    version, model = world
    seg = version["seg"]
    bodies = np.array(list(seg.bodies()), np.uint64)
    merged = pd.DataFrame({"target": np.repeat(bodies[:4], 4), "merged": bodies[4:20]})
    ops.edit(seg, merges=merged, progress=False)
    agree(version, model)
    svs = seg.supervoxels_of(int(bodies[0])).id
    cleaves = pd.DataFrame({"body": bodies[0], "supervoxel": svs[svs != bodies[0]][:2], "group": 0})
    renumbering = pd.DataFrame({"old": bodies[30:33], "new": [5000, 5001, 5002]})
    ops.edit(seg, cleaves=cleaves, renumber=renumbering, progress=False)
    agree(version, model)


def test_follows_a_split_by_another_segmentation(world):
    version, model = world
    halves = np.ones(SHAPE, np.uint64)
    halves[:, :, 13:] = 2
    ops.split_by(version["seg"], halves, progress=False)
    agree(version, model)


def test_follows_an_ingest(world):
    version, model = world
    ops.ingest(cells(5, 9), version["seg"], progress=False)
    agree(version, model)


def test_follows_the_undo_of_bulk_jobs(world):
    version, model = world
    seg = version["seg"]
    halves = np.ones(SHAPE, np.uint64)
    halves[:, :, 13:] = 2
    svs = np.unique(seg.supervoxels[:, :, :])
    jobs = (
        lambda: ops.agglomerate(seg, pd.DataFrame({"supervoxel": svs, "body": 1 + svs // 7 * 7}), progress=False),
        lambda: ops.split_by(seg, halves, progress=False),
        lambda: ops.ingest(cells(5, 9) + np.uint64(100), seg, progress=False),
    )
    for job in jobs:
        job()
        last = list(seg.undoable())[-1].id
        seg.undo(last)
        agree(version, model)
        seg.redo(last)
        agree(version, model)


# ------------------------------------------------------------------ what it follows


def test_blocks_of_the_segmentation_may_have_another_shape():
    ds = dvid_dask.create("memory://", compact="never")
    version = ds.new_repo("fly")["master"]
    annotation = version.repo.new_instance("annotation", "synapses")
    annotation.add(some(200))
    assert annotation.block_shape == (64, 64, 64)
    seg = version.repo.new_instance("labelmap", "seg", {"BlockSize": "32,16,16"})
    seg.write(cells(), (0, 0, 0))
    annotation.set_syncs(["seg"])
    version.repo.new_instance("test-tally", "counts").set_syncs(["synapses"])
    annotation = version["synapses"]
    assert annotation.needs_reload
    seg.write(cells(3)[:16, :16], (0, 0, 0))
    assert annotation.reload() == -1
    assert not annotation.needs_reload
    assert annotation.block_shape == (16, 16, 32)
    model = Model((16, 16, 32))
    model.post(some(200))
    agree(version, model)
    seg.write(cells(7)[:16, :32], (16, 0, 0))
    agree(version, model)


def test_a_segmentation_in_another_tree_is_followed_too():
    ds = dvid_dask.create("memory://", compact="never")
    version = ds.new_repo("fly")["master"]
    seg = version.repo.new_instance("labelmap", "seg", {"BlockSize": "16,16,16"})
    seg.write(cells(), (0, 0, 0))
    annotation = version.repo.new_instance("annotation", "synapses", {"Versioned": "false"})
    annotation.set_syncs(["seg"])
    annotation.add(some(100))
    model = Model((16, 16, 16))
    model.post(some(100))
    check(annotation, model, seg)
    seg.write(cells(3)[:16], (0, 0, 0))
    check(annotation, model, seg)
    bodies = list(seg.bodies())
    seg.merge(bodies[0], bodies[1:5])
    check(annotation, model, seg)


def test_only_what_it_follows_counts():
    """Of two segmentations it files under the first."""
    ds = dvid_dask.create("memory://", compact="never")
    version, model = make(ds)
    other = version.repo.new_instance("labelmap", "other", {"BlockSize": "16,16,16"})
    version["synapses"].set_syncs(["other"])
    other.write(cells(9), (0, 0, 0))
    bodies = list(other.bodies())
    other.merge(bodies[0], bodies[1:9])
    agree(version, model)


def test_forced_writes_to_a_committed_version(world):
    version, model = world
    version.commit()
    child = version.newversion()
    with pytest.raises(LockedVersion):
        version["synapses"].add(some(3, 9))
    bodies = list(version["seg"].bodies())
    version["seg"].merge(bodies[0], bodies[1:4], force=True)
    version["synapses"].add(some(3, 9), force=True)
    model.post(some(3, 9))
    agree(version, model)
    agree(child, model)


# ------------------------------------------------------------------ versions


def test_versions_that_are_merged_show_what_both_sides_changed(world, monkeypatch):
    monkeypatch.setattr(lists, "INLINE", 4)
    monkeypatch.setattr(lists, "PAGE", 8)
    version, model = world
    version["synapses"].reload(check=True)
    version.commit()
    left, right = version.new_branch("left"), version.new_branch("right")
    there = sorted(model.elements)
    left["synapses"].add(some(40, 1))
    model.post(some(40, 1))
    for at in there[:20]:
        if at not in {tuple(e["Pos"]) for e in some(40, 1)}:
            left["synapses"].delete(at[::-1])
            model.delete(at)
    new = [e for e in some(60, 2) if tuple(e["Pos"]) not in model.elements and tuple(e["Pos"]) not in there]
    right["synapses"].add(new)
    model.post(new)
    bodies = list(right["seg"].bodies())
    right["seg"].merge(bodies[0], bodies[1:9])
    left.commit()
    right.commit()
    merged = version.repo.merge([left, right])
    assert not merged.conflicts
    assert not merged["synapses"].needs_reload
    agree(merged, model)


def test_of_an_element_that_both_sides_changed_ours_stays(world):
    version, model = world
    one, two, three = sorted(model.elements)[:3]
    version.commit()
    left, right = version.new_branch("left"), version.new_branch("right")
    left["synapses"].add([element(one, "Gap", ["left"])])
    right["synapses"].add([element(one, "Note", ["right"])])
    left["synapses"].delete(two[::-1])
    right["synapses"].add([element(two, "Note", ["right"])])
    left["synapses"].add([element(three, "Note", ["same"])])
    right["synapses"].add([element(three, "Note", ["same"])])
    left.commit()
    right.commit()
    merged = version.repo.merge([left, right])
    model.post([element(one, "Gap", ["left"]), element(two, "Note", ["right"]), element(three, "Note", ["same"])])
    check(merged["synapses"], model, merged["seg"])
    listed = [c.what for c in merged.conflicts if c.instance == "synapses"]
    assert sorted(c["element"] for c in listed) == sorted([list(one[::-1]), list(two[::-1])])


def test_changes_between_versions_are_told_in_words(world):
    version, _ = world
    version.commit()
    child = version.newversion()
    child["synapses"].add([element((1, 1, 1), "Gap", ["z"])])
    found = [c.what for c in version.diff(child)["synapses"]]
    assert {"block": (0, 0, 0)} in found
    assert {"tag": "z"} in found


# ------------------------------------------------------------------ races


def test_edits_of_bodies_and_of_elements_at_the_same_time(world):
    version, model = world
    errors = []

    def bodies(seed):
        rng = random.Random(seed)
        for _ in range(12):
            try:
                held = list(version["seg"].bodies())
                target, other = rng.sample(held, 2)
                version["seg"].merge(target, [other])
                svs = version["seg"].supervoxels_of(target).id
                version["seg"].cleave(target, svs[:1])
            except BadRequest:
                pass  # the other one was faster
            except Exception as error:
                errors.append(error)

    def elements(seed):
        try:
            for e in some(15, seed):
                version["synapses"].add([e])
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=f, args=(s,)) for f, s in ((bodies, 1), (bodies, 2), (elements, 3), (elements, 4))
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    overlap = {tuple(e["Pos"]) for e in some(15, 3)} & {tuple(e["Pos"]) for e in some(15, 4)}
    assert not overlap
    model.post([*some(15, 3), *some(15, 4)])
    agree(version, model)


# ------------------------------------------------------------------ what it costs


def test_a_merge_of_large_bodies_writes_directories_only(tmp_path):
    ds = dvid_dask.create(str(tmp_path / "store"), compact="never")
    version = ds.new_repo("fly")["master"]
    seg = version.repo.new_instance("labelmap", "seg", {"BlockSize": "64,64,64"})
    labels = np.ones((64, 64, 64), np.uint64)
    labels[32:] = 2
    seg.write(labels, (0, 0, 0))
    annotation = version.repo.new_instance("annotation", "synapses")
    annotation.set_syncs(["seg"])
    grid = np.indices((64, 32, 32)).reshape(3, -1).T.astype(np.int32)
    annotation.add(Elements.of(grid, np.full(len(grid), 2)))
    written = []
    original = lists.Lists.put

    def put(self, name, record, **kw):
        written.append(len(record.encode()))
        original(self, name, record, **kw)

    view = annotation.view()
    pages = dict(view.scan(keys.PAGE))
    lists.Lists.put = put
    try:
        seg.merge(1, [2])
    finally:
        lists.Lists.put = original
    assert dict(annotation.view().scan(keys.PAGE)) == pages
    assert sum(written) < 20_000
    assert annotation.count(1)["PreSyn"] == len(grid)
    assert sum(map(len, annotation.listed(1))) == len(grid)


# ------------------------------------------------------------------ in Python


def test_dataframes_come_and_go(world):
    version, model = world
    annotation = version["synapses"]
    table = annotation.elements()
    assert len(table) == len(model.elements)
    table["kind"] = "Gap"
    table["prop"] = [{"n": str(i)} for i in range(len(table))]
    table["rels"] = [[("GroupedWith", 1, 2, 3)]] * len(table)
    assert annotation.add(table) == len(table)
    assert annotation.add(table) == 0
    again = annotation.elements()
    pd.testing.assert_frame_equal(
        again.sort_values(["z", "y", "x"], ignore_index=True).astype({"kind": str}),
        table.sort_values(["z", "y", "x"], ignore_index=True),
        check_dtype=False,
    )
    body = int(next(annotation.label_counts())[0][0])
    listed = annotation.of_label(body, supervoxels=True)
    assert (version["seg"].labels_at(listed[["z", "y", "x"]]) == body).all()
    assert (version["seg"].labels_at(listed[["z", "y", "x"]], supervoxels=True) == listed["supervoxel"]).all()
    assert len(annotation.of_tag("a")) == sum("a" in e["Tags"] for e in model.elements.values())


@pytest.mark.parametrize(
    "bad",
    [
        pd.DataFrame({"z": [1], "y": [2]}),
        pd.DataFrame({"z": [1.5], "y": [2], "x": [3]}),
        pd.DataFrame({"z": [2**31], "y": [2], "x": [3]}),
        pd.DataFrame({"z": [1], "y": [2], "x": [3], "kind": ["Spine"]}),
        pd.DataFrame({"z": [1], "y": [2], "x": [3], "tags": ["a"]}),
        pd.DataFrame({"z": [1], "y": [2], "x": [3], "tags": [[""]]}),
        pd.DataFrame({"z": [1], "y": [2], "x": [3], "prop": [{"a": 1}]}),
        pd.DataFrame({"z": [1], "y": [2], "x": [3], "rels": [[("Likes", 1, 2, 3)]]}),
        [{"Pos": [1, 2, 3], "Prop": {"a": float("nan")}}],
        [{"Pos": [1, 2, 3], "Prop": {"a": object()}}],
        "text",
        3,
    ],
)
def test_bad_elements_in_python(world, bad):
    version, model = world
    with pytest.raises(BadRequest):
        version["synapses"].add(bad)
    agree(version, model)


@pytest.mark.parametrize("bad", [[[1, 2]], [1.0, 2.0, 3.0], [2**31, 0, 0], ["a", "b", "c"], [[[1, 2, 3]]]])
def test_bad_positions(world, bad):
    version, model = world
    with pytest.raises(BadRequest):
        version["synapses"].delete(bad)
    with pytest.raises(BadRequest):
        version["synapses"].move(bad, (1, 2, 3))
    agree(version, model)


def test_everything_deleted(world):
    version, _ = world
    version["synapses"].delete_all()
    assert next(version["synapses"].view().keys(), b"X").startswith(b"X")
    agree(version, Model((16, 16, 16)))


def test_fsck_tells_lists_that_are_wrong(world):
    version, model = world
    annotation = version["synapses"]
    space_keys = list(annotation.view().keys(keys.LABEL))

    def damage(_, space):
        space.put(space_keys[0], space.get(space_keys[1]))
        space.delete(keys.tag("a"))

    annotation.mutate(damage)
    told = " ".join(annotation.disagreements())
    assert f"body {keys.label_of(space_keys[0])}" in told
    assert "tag 'a'" in told
    assert annotation.reload(check=True) == 2
    check(annotation, model, version["seg"])
