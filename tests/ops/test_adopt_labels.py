"""Segmentations adopted in place against a dense model, and against the same volume that was ingested."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.bases.base import Base
from dvid_dask.bases.readers import forget
from dvid_dask.datatypes.labelmap import adopted
from dvid_dask.errors import BadRequest, BrokenBase, Conflict, LockedVersion, NotSupported, Unavailable
from dvid_dask.formats import ome_zarr, rles
from dvid_dask.ops.adopt_labels import adopt_labels
from tests.datatypes.labelmap.bases import FORMATS, save
from tests.ops.conftest import neurites
from tests.ops.model import World, majority

WITH_SCALES = ("precomputed", "sharded", "ome")


@pytest.fixture(autouse=True)
def _no_blocks_kept(monkeypatch):
    """Every block is read from the base when it is asked for."""
    monkeypatch.setattr(adopted, "_encoded", adopted._Encoded(0))


def labelmap(repo, block=16, levels=2, name="seg", **settings):
    return repo.new_instance(
        "labelmap", name, {"BlockSize": ",".join([str(block)] * 3), "MaxDownresLevel": str(levels), **settings}
    )


def adopt(where, seg, **options):
    place = {k: options.pop(k) for k in ("offset", "axes") if k in options}
    return adopt_labels(Base.find(str(where), **place), seg, progress=False, **options)


def check(seg, volume, offset, levels=2):
    world = World(offset, volume.shape, (16, 16, 16), levels)
    world.write(volume, offset)
    world.check(seg)
    assert list(seg.verify()) == []
    assert ops.check_index(seg, progress=False).ok
    return world


# ------------------------------------------------------------------ as the volume has it


@pytest.mark.parametrize("dtype", ["uint64", "uint32", "uint16", "uint8"])
@pytest.mark.parametrize("format", FORMATS)
def test_all_formats(repo, tmp_path, format, dtype):
    if format in ("precomputed", "sharded") and dtype in ("uint8", "uint16"):
        pytest.skip("compressed_segmentation holds uint32 and uint64")
    volume = (neurites((48, 64, 80)) % 200).astype(dtype)
    levels = 2 if format in WITH_SCALES else 0
    seg = labelmap(repo)
    report = adopt(save(tmp_path, volume, format=format, levels=levels), seg)
    assert (report.scales, report.built) == (levels + 1, 2 - levels)
    assert (report.voxels, report.max_label) == (volume.size, volume.max())
    assert seg.next_labels.largest >= volume.max()
    assert seg.extents == Base.of(seg.info.settings["Base"]).extents()
    assert ops.unfinished_jobs(seg) == {}
    check(seg, volume, (0, 0, 0))
    stored = {key[1] for key in adopted.edited_keys(seg.view(0), 0)}
    assert not stored


@settings(max_examples=10, deadline=None)
@given(
    first=st.tuples(*[st.integers(-5, 5)] * 3),
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    again=st.tuples(*[st.integers(-30, 30)] * 3),
    patch=st.tuples(*[st.integers(1, 40)] * 3),
    levels=st.integers(0, 3),
    own=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_any_box_ingested_over_any_base(tmp_path_factory, first, shape, again, patch, levels, own, seed):
    """Boxes that cut blocks in two, beside and across the volume's border, with scales of the base and without."""
    repo = dvid_dask.create("memory://").new_repo("fly")
    seg = labelmap(repo, levels=levels)
    first, shape = np.multiply(first, 4 << levels).tolist(), np.multiply(shape, 1 << levels).tolist()
    low = np.minimum(first, again)
    high = np.maximum(np.add(first, shape), np.add(again, patch))
    world = World(low.tolist(), (high - low).tolist(), (16, 16, 16), levels)
    base = neurites(shape, seed, labels=9, zeros=0.5)
    adopt(save(tmp_path_factory.mktemp("base"), base, first, levels=min(own, levels)), seg, brick_edge=32)
    world.write(base, first)
    world.check(seg)
    new = neurites(patch, seed + 1, labels=9, zeros=0.5)
    ops.ingest(new, seg, offset=again, brick_edge=32, progress=False)
    world.write(new, again)
    world.check(seg)
    assert list(seg.verify()) == []
    assert ops.check_index(seg, progress=False).ok


@pytest.mark.parametrize("format", ["precomputed", "zarr3"])
def test_everything_that_jobs_make_is_that_of_an_ingested_volume(repo, tmp_path, format):
    volume, levels = neurites((64, 80, 96)), 2 if format == "precomputed" else 0
    where = save(tmp_path, volume, format=format, levels=levels)
    mine, other = labelmap(repo), labelmap(dvid_dask.create("memory://").new_repo("fly"))
    adopt(where, mine)
    ops.ingest(volume, other, progress=False)
    labels = np.unique(volume[volume > 0]).tolist()
    told = []
    for seg, folder in (mine, tmp_path / "adopted"), (other, tmp_path / "ingested"):
        new = seg.merge(labels[0], labels[1:9]) and seg.cleave(labels[0], labels[3:5])[0]
        runs = seg.sparse(labels[20]).all_runs()
        seg.split_supervoxel(labels[20], runs[: len(runs) // 2], split=labels[-1] + 50, remain=labels[-1] + 60)
        bodies = [labels[0], new, labels[20], labels[21]]
        told.append(
            {
                "blocks": list(seg.view().keys(b"B")),
                "coarse": [seg.sparse(b).coarse().tolist() for b in bodies],
                "binary": [b"".join(seg.sparse(b).binary()) for b in bodies],
                "legacy": [b"".join(seg.sparse(b, scale=1).legacy()) for b in bodies],
                "grids": [seg.nanovdb(b).tobytes() for b in bodies],
                "near": seg.proximity(bodies[2], bodies[3]),
                "dask": seg.to_dask(1).compute().tolist(),
                "contacts": ops.contacts(seg).compute().sort_values(["a", "b"]).to_dict("list"),
                "statistics": statistics(seg),
                "meshes": files(folder / "m", lambda to, seg=seg, of=bodies: ops.mesh(seg, to, of, progress=False)),
                "zarr": files(folder / "z", lambda to, seg=seg: ops.export(seg, to, progress=False)),
                "dump": files(folder / "d", lambda to, seg=seg: ops.dump(seg, "svcount", to, progress=False)),
            }
        )
    if levels:  # who made these scales, and how, is not known; of those made here it is
        assert b'"type": "majority"' not in told[0]["zarr"].pop("out/zarr.json")
        assert b'"type": "majority"' in told[1]["zarr"].pop("out/zarr.json")
    for what in told[0]:
        assert told[0][what] == told[1][what], what


def statistics(seg):
    table = ops.body_statistics(seg, exact=True).compute().sort_values("body")
    return table.drop(columns="mutation").to_dict("list")


def files(folder, write):
    """What a job writes into a folder, as bytes by path."""
    folder.mkdir(parents=True)
    write(str(folder / "out"))
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


# ------------------------------------------------------------------ scales by another rule


def test_scales_of_the_volume_are_taken_as_they_are(repo, tmp_path):
    """Neuroglancer's writers take every second voxel; what is edited follows our rule, with what lies around it."""
    volume = neurites((64, 64, 64), zeros=0.4)
    where = save(tmp_path, volume, levels=2)
    rng = np.random.default_rng(0)
    strange = [rng.integers(1, 5, [n >> s for n in volume.shape], np.uint64) for s in (1, 2)]
    for scale, voxels in enumerate(strange, 1):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{where}/", "scale_index": scale}
        ts.open(spec).result()[..., 0].write(voxels.transpose()).result()
    seg = labelmap(repo)
    adopt(where, seg)
    for scale, voxels in enumerate(strange, 1):
        assert (seg.read((0, 0, 0), voxels.shape, scale, supervoxels=True) == voxels).all()
    assert list(seg.verify()) == []
    patch = np.full((16, 16, 16), 7, np.uint64)
    seg.write(patch, (16, 0, 32))
    volume[16:32, :16, 32:48] = 7
    one, two = majority(volume), strange[1].copy()
    expected = strange[0].copy()
    expected[:16, :16, 16:32] = one[:16, :16, 16:32]  # the block of scale 1 that holds the patch
    two[:16, :16, :16] = majority(expected)  # and the one of scale 2 that holds that
    assert (seg.read((0, 0, 0), one.shape, 1, supervoxels=True) == expected).all()
    assert (seg.read((0, 0, 0), two.shape, 2, supervoxels=True) == two).all()
    assert list(seg.verify()) == []
    again = neurites((20, 20, 20), seed=3)
    ops.ingest(again, seg, offset=(40, 44, 3), progress=False)
    volume[40:60, 44:64, 3:23] = again
    assert (seg.read((0, 0, 0), volume.shape, supervoxels=True) == volume).all()
    assert list(seg.verify()) == []
    ops.downres(seg, progress=False)  # all of it by our rule
    check(seg, volume, (0, 0, 0))


# ------------------------------------------------------------------ where a block lies


def test_edits_copy_the_blocks_that_they_touch_and_no_others(repo, tmp_path):
    volume = neurites((64, 64, 64))
    seg = labelmap(repo)
    adopt(save(tmp_path, volume, levels=2), seg)
    labels = np.unique(volume[volume > 0]).tolist()

    def copied():
        return [len(list(adopted.edited_keys(seg.view(0), scale))) for scale in range(3)]

    seg.merge(labels[0], labels[1:9])
    seg.cleave(labels[0], labels[2:4])
    seg.renumber([(5, labels[10])])
    assert copied() == [0, 0, 0]
    sv = labels[20]
    blocks = {tuple(b) for b in (np.argwhere(volume == sv) // 16).tolist()}
    runs = rles.rles_from_mask(volume == sv, (0, 0, 0))
    seg.split_supervoxel(sv, runs[: len(runs) // 2])
    assert copied() == [
        len(blocks),
        len({tuple(np.array(b) // 2) for b in blocks}),
        len({tuple(np.array(b) // 4) for b in blocks}),
    ]


def test_a_block_without_voxels_hides_that_of_the_volume(repo, tmp_path):
    volume = neurites((32, 32, 32), zeros=0)
    seg = labelmap(repo)
    adopt(save(tmp_path, volume), seg)
    key = adopted.keys.blocks(0, [[1, 0, 1]])[0]

    def gone(_, space):
        space.delete(key)
        assert space.get(key) is None
        assert key not in list(space.keys(b"B"))

    before = list(seg.view().keys(b"B"))
    seg.mutate(gone)
    view = seg.view()
    assert view.get(key) is None
    assert list(view.keys(b"B")) == [k for k in before if k != key]
    assert dict(view.scan(b"B")).keys() == set(before) - {key}
    assert not seg.read((16, 0, 16), (16, 16, 16)).any()
    assert (seg.read((0, 0, 0), (16, 32, 32)) == volume[:16]).all()


def test_background_over_all_of_the_volume(repo, tmp_path):
    seg = labelmap(repo)
    adopt(save(tmp_path, neurites((32, 32, 32)), levels=1), seg)
    ops.ingest(np.zeros((32, 32, 32), np.uint64), seg, progress=False)
    assert not list(seg.view().keys(b"B"))
    assert not list(seg.bodies())
    assert list(seg.verify()) == []


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2),
    st.tuples(*[st.integers(-1, 4)] * 3),
    st.tuples(*[st.integers(-1, 4)] * 3),
    st.integers(0, 3),
)
def test_listings_of_tree_and_volume_together(tmp_path_factory, scale, low, high, edits):
    folder = tmp_path_factory.mktemp("base")
    volume = neurites((64, 48, 64), zeros=0.6)
    seg = labelmap(dvid_dask.create("memory://").new_repo("fly"))
    adopt(save(folder, volume), seg)
    for n in range(edits):
        seg.write(np.full((16, 16, 16), n * 9, np.uint64), (16 * n, 16, 32))
    view = seg.view()
    held = sorted(dict(view.scan(b"B")))
    prefix = adopted.keys.scale_prefix(scale)
    start, stop = adopted.keys.blocks(scale, [low, high])
    assert list(view.keys(prefix)) == [k for k in held if k.startswith(prefix)]
    assert list(view.keys(b"B", start, stop)) == [k for k in held if start <= k < stop]
    assert [k for k, _ in view.scan(prefix, start)] == [k for k in held if k >= start and k.startswith(prefix)]
    assert [k for k in view.keys(b"") if k[:1] == b"B"] == held
    assert view.get_many(held) == [view.get(k) for k in held]


def test_versions_and_branches_share_the_volume(repo, tmp_path):
    volume = neurites((48, 48, 48))
    root = repo["master"]
    root.commit()
    one, other = root.newversion(), root.new_branch("other")
    labelmap(repo)  # seen from all versions, adopted in one
    adopt(save(tmp_path, volume), one["seg"])
    assert (one["seg"].read((0, 0, 0), volume.shape) == volume).all()
    assert not other["seg"].read((0, 0, 0), volume.shape).any()
    assert not list(other["seg"].bodies())
    with pytest.raises(Conflict, match="voxels can't be written"):
        other["seg"].write(np.ones((16, 16, 16), np.uint64), (0, 0, 0))
    one.commit()
    child = one.newversion()["seg"]
    child.write(np.full((16, 16, 16), 3, np.uint64), (0, 0, 0))
    assert (one["seg"].read((0, 0, 0), volume.shape) == volume).all()
    volume[:16, :16, :16] = 3
    check(child, volume, (0, 0, 0))
    child.version.commit()
    other.commit()
    merged = repo.merge([other, child.version])["seg"]
    check(merged, volume, (0, 0, 0))


def test_an_ingest_over_the_volume_is_taken_back(repo, tmp_path):
    volume = neurites((48, 48, 48))
    seg = labelmap(repo)
    adopt(save(tmp_path, volume, levels=2), seg)
    assert not list(seg.undoable())
    ops.ingest(neurites((30, 30, 30), seed=4), seg, offset=(5, 6, 7), progress=False)
    (record,) = seg.undoable()
    seg.undo(record.id)
    check(seg, volume, (0, 0, 0))
    seg.redo(record.id)
    volume[5:35, 6:36, 7:37] = neurites((30, 30, 30), seed=4)
    check(seg, volume, (0, 0, 0))


def test_instances_that_follow(repo, tmp_path):
    volume = neurites((48, 48, 48))
    seg = labelmap(repo)
    adopt(save(tmp_path, volume), seg)
    synapses, ranks = repo.new_instance("annotation", "synapses"), repo.new_instance("labelsz", "ranks")
    synapses.set_syncs(["seg"])
    ranks.set_syncs(["synapses"])
    at = np.argwhere(volume > 0)[::997]
    synapses.add([{"Pos": p[::-1].tolist(), "Kind": "PostSyn", "Tags": [], "Prop": {}, "Rels": []} for p in at])
    a, b = np.unique(volume[tuple(at.T)])[:2].tolist()
    counted = {int(v): int(n) for v, n in zip(*np.unique(volume[tuple(at.T)], return_counts=True), strict=True)}
    assert [ranks.count(label, "PostSyn") for label in (a, b)] == [counted[a], counted[b]]
    seg.merge(a, [b])
    assert [ranks.count(label, "PostSyn") for label in (a, b)] == [counted[a] + counted[b], 0]
    seg.write(np.full((48, 48, 48), 5, np.uint64), (0, 0, 0))
    assert ranks.count(5, "PostSyn") == len(at)
    assert list(synapses.disagreements()) == list(ranks.disagreements()) == []


@pytest.mark.parametrize("first", ["elements", "syncs"])
def test_instances_that_followed_before_there_was_a_volume(repo, tmp_path, first):
    volume = neurites((48, 48, 48))
    seg = labelmap(repo)
    synapses, ranks = repo.new_instance("annotation", "synapses"), repo.new_instance("labelsz", "ranks")
    at = np.argwhere(volume >= 0)[::997]
    elements = [{"Pos": p[::-1].tolist(), "Kind": "PostSyn", "Tags": [], "Prop": {}, "Rels": []} for p in at]
    if first == "elements":
        synapses.add(elements)
    synapses.set_syncs(["seg"])
    ranks.set_syncs(["synapses"])
    if first == "syncs":
        synapses.add(elements)
    assert not ranks.count(int(volume.max()), "PostSyn")
    adopt(save(tmp_path, volume, levels=2), seg)
    counted = {int(v): int(n) for v, n in zip(*np.unique(volume[tuple(at.T)], return_counts=True), strict=True) if v}
    assert {label: ranks.count(label, "PostSyn") for label in counted} == counted
    assert {label: len(synapses.of_label(label)) for label in counted} == counted
    assert list(synapses.disagreements()) == list(ranks.disagreements()) == []


@pytest.mark.parametrize("format", ["precomputed", "ome-zarr"])
def test_what_calls_itself_a_segmentation_becomes_a_labelmap(repo, tmp_path, format):
    volume = neurites((20, 24, 28)).astype(np.uint32)
    where = save(tmp_path, volume, format="precomputed" if format == "precomputed" else "zarr3")
    if format == "ome-zarr":
        group = tmp_path / "group"
        group.mkdir()
        shutil.move(where, group / "s0")
        ome = ome_zarr.attributes("seg", [(0, (0, 0, 0))], (8, 8, 8), ["nanometer"] * 3, labels=True)
        held = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        (group / "zarr.json").write_text(json.dumps(held))
        where = str(group)
    version = repo["master"]
    seg = ops.adopt(where, version, "seg", progress=False)
    assert (seg.typename, seg.base_volume.dtype) == ("labelmap", np.uint32)
    assert (seg[...] == volume).all()
    assert ops.adopt(where, version, "image", "uint32blk").typename == "uint32blk"


def test_the_door_makes_a_labelmap_that_fits(repo, tmp_path):
    volume = neurites((40, 50, 300))
    version = repo["master"]
    seg = ops.adopt(save(tmp_path, volume, levels=1), version, "seg", progress=False)
    assert (seg.layout.levels, seg.voxel_size, seg.block_shape) == (1, (8.0, 8.0, 8.0), (64, 64, 64))
    assert (seg[...] == volume).all()
    plain = save(tmp_path, volume.astype(np.uint32), format="zarr3")
    other = ops.adopt(plain, version, "other", "labelmap", offset=(3, 4, 5), progress=False)
    assert (other.layout.levels, other.extents.start) == (1, (3, 4, 5))
    assert (other[...] == volume.astype(np.uint32)).all()
    finest = ops.adopt(plain, version, "finest", "labelmap", settings={"MaxDownresLevel": "0"}, progress=False)
    assert adopted.base_at(finest.view(0), 0) is not None
    assert not list(adopted.edited_keys(finest.view(0), 1))
    with pytest.raises(Conflict):
        ops.adopt(plain, version, "seg", "labelmap", progress=False)
    with pytest.raises(BadRequest, match="unsigned"):
        ops.adopt(save(tmp_path, volume.astype(np.float32), format="zarr2"), version, "floats", "labelmap")
    assert "floats" not in version


# ------------------------------------------------------------------ what can't be adopted


def test_refused(repo, tmp_path):
    volume = neurites((32, 32, 32))
    where = save(tmp_path, volume, format="zarr3")
    gray = repo.new_instance("uint8blk", "gray")
    with pytest.raises(NotSupported, match="adopted by a labelmap"):
        adopt(where, gray)
    signed = save(tmp_path, volume.astype(np.int64), format="zarr2")
    seg = labelmap(repo)
    with pytest.raises(BadRequest, match="unsigned"):
        adopt(signed, seg)
    with pytest.raises(BadRequest, match="out of range"):
        adopt(where, seg, offset=(0, 0, 16 << 20))
    seg.write(np.ones((16, 16, 16), np.uint64), (0, 0, 0))
    with pytest.raises(Conflict, match="isn't empty"):
        adopt(where, seg)
    assert seg.info.settings.get("Base") is None
    other = labelmap(repo, name="other")
    adopt(where, other)
    with pytest.raises(Conflict, match="already"):
        adopt(where, other)
    with pytest.raises(Conflict, match="another volume"):
        adopt(save(tmp_path, volume, format="n5"), other)
    last = labelmap(repo, name="last")
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        adopt(where, last)


def test_the_reserved_label_is_refused(repo, tmp_path):
    volume = neurites((32, 32, 32))
    volume[5, 6, 7] = 2**64 - 1
    seg = labelmap(repo)
    with pytest.raises(BadRequest, match="reserved"):
        adopt(save(tmp_path, volume), seg)
    assert not seg.read((0, 0, 0), volume.shape).any()


def test_an_unindexed_instance_gets_no_index(repo, tmp_path):
    volume = neurites((32, 32, 32))
    seg = labelmap(repo, IndexedLabels="false")
    adopt(save(tmp_path, volume), seg)
    assert not list(seg.view(0).keys(b"I"))
    assert (seg.read((0, 0, 0), volume.shape) == volume).all()


# ------------------------------------------------------------------ volumes that go or change


def test_a_volume_that_vanished(repo, tmp_path):
    volume = neurites((48, 48, 48))
    where = save(tmp_path, volume, format="zarr3")
    seg = labelmap(repo)
    adopt(where, seg)
    seg.write(np.full((16, 16, 16), 3, np.uint64), (0, 0, 0))
    label = int(volume[40, 40, 40]) or int(volume[volume > 0][-1])
    token = seg.view(0).token
    shutil.move(where, f"{where}-elsewhere")
    for asked in (
        lambda: seg.read((16, 0, 0), (16, 16, 16)),
        lambda: list(seg.blocks((0, 0, 0), (3, 3, 3))),
        lambda: list(seg.sparse(label).runs()),
        lambda: seg.write(np.ones((16, 16, 16), np.uint64), (32, 32, 32)),
        lambda: seg.split_supervoxel(label, seg.sparse(label).all_runs()[:1]),
        lambda: ops.ingest(np.ones((32, 32, 32), np.uint64), seg, offset=(5, 5, 5), progress=False),
    ):
        with pytest.raises((BrokenBase, ops.JobFailedError), match=r"zarr3"):
            asked()
    for job in ops.unfinished_jobs(seg):
        ops.abandon(seg, job)
    others = np.unique(volume[volume > 0]).tolist()[:2]
    seg.merge(others[0], [others[1]])  # bodies are edited without the volume
    assert seg.view(0).token != token
    shutil.move(f"{where}-elsewhere", where)
    volume[:16, :16, :16] = 3
    assert (seg.read((0, 0, 0), volume.shape, supervoxels=True) == volume).all()
    assert list(seg.verify()) == []


def test_a_volume_that_is_another_by_now(repo, tmp_path):
    volume = neurites((48, 48, 48))
    where = save(tmp_path, volume, format="zarr3")
    seg = labelmap(repo)
    base = Base.find(where)
    adopt(where, seg)
    shutil.rmtree(where)
    save(tmp_path, volume[:32].copy(), format="zarr3")
    with pytest.raises(BrokenBase):
        seg.read((0, 0, 0), (16, 16, 16))
    with pytest.raises(BrokenBase):
        adopt_labels(base, labelmap(repo, name="new"), progress=False)
    assert not repo["master"]["new"].read((0, 0, 0), (16, 16, 16)).any()


def test_the_index_tells_of_voxels_that_were_changed_behind_its_back(repo, tmp_path):
    volume = neurites((48, 48, 48))
    where = save(tmp_path, volume, format="zarr3")
    seg = labelmap(repo)
    adopt(where, seg)
    assert ops.check_index(seg, progress=False).ok
    array = ts.open({"driver": "zarr3", "kvstore": f"file://{where}/"}).result()
    array[:20, :20, :20].write(volume[20:40, 20:40, 20:40]).result()
    forget()
    report = ops.check_index(seg, progress=False)
    assert not report.ok
    assert report.problems


def test_an_adoption_of_a_volume_that_comes_back_goes_on(repo, tmp_path, monkeypatch):
    volume = neurites((64, 64, 64))
    base = Base.find(save(tmp_path, volume, format="zarr3"))
    seg = labelmap(repo)
    read, reads = Base.read, []

    def fail(self, *box):
        reads.append(box)
        if len(reads) > 5:
            raise Unavailable("the bucket doesn't answer")
        return read(self, *box)

    monkeypatch.setattr(Base, "read", fail)
    with pytest.raises(Unavailable):
        adopt_labels(base, seg, brick_edge=32, progress=False)
    assert not list(seg.view(0).keys(b"B"))
    assert not list(seg.bodies())
    assert len(ops.unfinished_jobs(seg)) == 1
    monkeypatch.setattr(Base, "read", read)
    report = adopt_labels(base, seg, brick_edge=32, progress=False)
    assert report.resumed == 5
    check(seg, volume, (0, 0, 0))


# ------------------------------------------------------------------ killed


def run_victim(store, where, uuid):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_adopt_victim.py")), store, where, uuid],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def kill_and_restart(tmp_path, times, seed):
    rng = random.Random(seed)
    volume = neurites((64, 96, 96), seed=2)
    where = save(tmp_path, volume, levels=1)
    ds = dvid_dask.create(str(tmp_path / "store"), compact="never")
    seg = labelmap(ds.new_repo("fly"))
    for _ in range(times):
        with run_victim(ds.url, where, seg.version.uuid) as victim:
            for _ in range(rng.randint(2, 12)):
                victim.stdout.readline()
            time.sleep(rng.random() * 0.1)
            victim.send_signal(signal.SIGKILL)
        if not ops.unfinished_jobs(seg):
            break  # it was faster
        assert not seg.read((0, 0, 0), volume.shape).any()
        assert not list(seg.bodies())
    with run_victim(ds.url, where, seg.version.uuid) as last:
        said = last.stdout.read().decode().splitlines()
    assert said[-1].startswith("resumed") or "already" in said[-1]
    check(ds[seg.version.uuid]["seg"], volume, (0, 0, 0))
    assert ops.unfinished_jobs(seg) == {}
    assert not ds.store.fsck().errors


def test_killed_and_started_again(tmp_path):
    kill_and_restart(tmp_path, times=2, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_killed_many_times(tmp_path, seed):
    kill_and_restart(tmp_path, times=4, seed=seed)


# ------------------------------------------------------------------ memory


def test_few_blocks_are_kept(repo, tmp_path, monkeypatch):
    kept = adopted._Encoded(20_000)
    monkeypatch.setattr(adopted, "_encoded", kept)
    volume = neurites((96, 96, 96))
    seg = labelmap(repo)
    adopt(save(tmp_path, volume), seg)
    reads = []
    read = Base.read_box
    monkeypatch.setattr(Base, "read_box", lambda self, scale, *box: reads.append(box) or read(self, scale, *box))
    block = next(iter(seg.blocks((0, 0, 0), (1, 1, 1))))
    assert len(reads) == 1
    assert next(iter(seg.blocks((0, 0, 0), (1, 1, 1)))) == block
    assert len(reads) == 1
    assert len(list(seg.blocks((0, 0, 0), (6, 6, 6)))) == 216
    assert sum(map(len, kept._held.values())) <= 20_000
    list(seg.blocks((0, 0, 0), (1, 1, 1)))
    assert len(reads) > 2
