"""Publications: read back by the formats' own readers, and made incrementally the same files as made from nothing."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorstore as ts
import zarr

import dvid_dask
from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict
from tests.ops.conftest import neurites
from tests.ops.test_ingest import labelmap

publish_module, publishing = (importlib.import_module(f"dvid_dask.ops.{n}") for n in ("publish", "publishing"))
levels_module, precomputed_module = (importlib.import_module(f"dvid_dask.ops.{n}") for n in ("levels", "precomputed"))

OFFSET = (-16, 0, 64)
OPTIONS = [
    {"format": "ome-zarr"},
    {"format": "zarr"},
    {"format": "precomputed"},
    {"format": "precomputed", "supervoxels": True},
]


def small_parts():
    """Many small shards, so that few of them change."""
    precomputed_module._VOXELS_PER_SHARD = 8 * 16**3
    precomputed_module._BYTES_PER_SHARD = 8 * 16**3
    levels_module._EDGE = 32


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    names = [(precomputed_module, "_VOXELS_PER_SHARD"), (precomputed_module, "_BYTES_PER_SHARD")]
    for module, name in [*names, (levels_module, "_EDGE")]:
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    small_parts()


def files(folder, *, all_of_it=False):
    """Content by name, without the record of the publication."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if all_of_it or not name.startswith("publication")}


def voxels(folder, format):
    """Scale 0 by the format's own reader, z, y, x."""
    if format == "precomputed":
        spec = {"driver": "neuroglancer_precomputed", "kvstore": folder.as_uri() + "/"}
        found = ts.open(spec, read=True).result()[..., 0].transpose([2, 1, 0])
        return found[ts.d[:].translate_to[0]].read().result()
    node = zarr.open(folder, mode="r")
    return (node if format == "zarr" else node["s0"])[:]


def edited(seg, random, steps=4):
    """Edits of several kinds, at random; then a commit."""
    for kind in random.permutation(["merge", "cleave", "split", "write", "erase"])[:steps]:
        volume = seg[:, :, :]
        bodies, sizes = np.unique(volume[volume > 0], return_counts=True)
        target, other = random.choice(bodies[sizes > 1], 2, replace=False).tolist()
        held = seg.supervoxels_of(target).id.tolist()
        if kind == "merge":
            seg.merge(target, [other])
        elif kind == "cleave" and len(held) > 1:
            seg.cleave(target, held[:1])
        elif kind == "split":
            z, y, x = np.array(np.nonzero(volume == target)) + np.array(OFFSET)[:, None]
            seg.split(target, np.stack([x, y, z, np.ones_like(x)], 1)[: len(x) // 2])
        elif kind == "write":
            seg.write(neurites((16, 16, 32), seed=int(random.integers(1000))), (0, 16, 96))
        elif kind == "erase":
            seg.write(np.zeros((32, 32, 32), np.uint64), (-16, 32, 64))
    seg.version.commit()


@pytest.fixture
def seg(tmp_path):
    repo = dvid_dask.create(str(tmp_path / "store"), compact="never").new_repo("fly")
    seg = labelmap(repo, levels=2)
    ops.ingest(neurites((64, 96, 80), labels=3000), seg, offset=OFFSET, progress=False)
    return seg


def merged(seg):
    """The next version, in which the smallest body is part of the largest: nothing but the mapping changed."""
    child = seg.version.newversion()["seg"]
    bodies, sizes = np.unique(seg[:, :, :], return_counts=True)
    large, *_, small = bodies[bodies > 0][np.argsort(-sizes[bodies > 0])].tolist()
    child.merge(large, [small])
    child.version.commit()
    return child


@pytest.mark.parametrize("options", OPTIONS)
def test_a_merge_touches_the_shards_of_what_was_merged(seg, tmp_path, options):
    seg.version.commit()
    where = tmp_path / "published"
    first = ops.publish(seg, str(where), **options, verify=3, progress=False)
    assert (first.since, first.kept) == ("", 0)
    assert first.verified == 3 * first.scales
    child = merged(seg)
    second = ops.publish(child, str(where), **options, verify=3, progress=False)
    assert second.since == seg.version.uuid
    old, new = where / seg.version.uuid, where / child.version.uuid
    before, after = files(old), files(new)
    assert set(before) == set(after)
    changed = {name for name in after if before[name] != after[name]}
    linked = {name for name in after if os.path.samefile(old / name, new / name)}
    assert second.kept == len(linked)
    assert not changed & linked
    if options.get("supervoxels"):
        assert (changed, second.written) == (set(), 0)
    else:
        assert 0 < second.written < len(after) / 2
        # at full resolution exactly those that hold the body which is no more; coarser, it may have vanished before
        finest = {"zarr": "c/", "ome-zarr": "s0/c/", "precomputed": "8_8_8/"}[options["format"]]
        assert {n for n in changed if n.startswith(finest)} == {n for n in set(after) - linked if n.startswith(finest)}
    for instance, folder in ((seg, old), (child, new)):
        expected = instance.to_dask(supervoxels=options.get("supervoxels", False)).compute()
        np.testing.assert_array_equal(voxels(folder, options["format"]), expected)
    # the same files as without the earlier publication
    ops.publish(child, str(tmp_path / "anew"), **options, progress=False)
    assert files(tmp_path / "anew" / child.version.uuid) == after


@pytest.mark.parametrize(("seed", "in_place"), [(0, False), (1, True), (2, False), (2, True)])
def test_any_edits(seg, tmp_path, seed, in_place):
    random = np.random.default_rng(seed)
    options = OPTIONS[[0, 2, 3][seed]]
    where = tmp_path / "published"
    seg.version.commit()
    ops.publish(seg, str(where), **options, in_place=in_place, progress=False)
    for step in range(2):
        seg = seg.version.newversion()["seg"]
        edited(seg, random)
        report = ops.publish(seg, str(where), **options, in_place=in_place, verify=2, progress=False)
        assert report.since
        ops.publish(seg, str(tmp_path / f"anew{step}"), **options, progress=False)
        folder = where if in_place else where / seg.version.uuid
        assert files(folder) == files(tmp_path / f"anew{step}" / seg.version.uuid)


@pytest.mark.parametrize("typename", ["uint8blk", "rgba8blk"])
@pytest.mark.parametrize("format", ["ome-zarr", "precomputed"])
def test_images(tmp_path, typename, format):
    repo = dvid_dask.create("memory://").new_repo("fly")
    image = repo.new_instance(typename, "gray", {"BlockSize": "16,16,16"})
    tail = (4,) if typename == "rgba8blk" else ()
    volume = np.random.default_rng(0).integers(1, 255, (40, 50, 61, *tail), dtype=np.uint8)
    put(image, volume, (-6, 0, 100))
    image.version.commit()
    where = tmp_path / "published"
    ops.publish(image, str(where), format=format, progress=False)
    child = image.version.newversion()["gray"]
    put(child, 255 - volume[:10, :16, :16], (-6, 32, 100))
    child.version.commit()
    report = ops.publish(child, str(where), format=format, verify=4, progress=False)
    ops.publish(child, str(tmp_path / "anew"), format=format, progress=False)
    new = files(where / child.version.uuid)
    assert new == files(tmp_path / "anew" / child.version.uuid)
    old = files(where / image.version.uuid)
    changed = [name for name in new if old[name] != new[name]]
    # blocks were written again that the box only touches
    assert 1 <= len(changed) <= report.written < report.kept


def put(image, voxels, offset):
    image.write(voxels, offset)


def test_what_there_is_and_which_is_the_latest(seg, tmp_path):
    seg.version.commit()
    where = tmp_path / "published"
    child = merged(seg)
    anew = ops.publish(child, str(where), progress=False)
    assert (anew.since, anew.reason) == ("", "")
    # an older version is published later: files are kept that way as well, and the latest stays the latest
    report = ops.publish(seg, str(where), progress=False)
    assert report.since == child.version.uuid
    held = json.loads((where / "publications.json").read_text())
    assert held["latest"] == f"{child.version.uuid}/"
    assert [p["version"] for p in held["publications"]] == [child.version.uuid, seg.version.uuid]
    record = json.loads((where / seg.version.uuid / "publication.json").read_text())
    assert (record["version"], record["since"], record["instance"]) == (seg.version.uuid, child.version.uuid, "seg")
    # once more: nothing is to do
    before = files(where, all_of_it=True)
    again = ops.publish(seg, str(where), progress=False)
    assert (again.written, again.reason) == (0, "it was published before")
    assert files(where, all_of_it=True) == before
    # elsewhere, on from there
    report = ops.publish(child, str(tmp_path / "other"), since=f"{where}/{seg.version.uuid}", progress=False)
    assert report.since == seg.version.uuid
    assert files(tmp_path / "other" / child.version.uuid) == files(where / child.version.uuid)


def test_a_mapping_that_was_set_by_itself(seg, tmp_path):
    """Neither the index nor a voxel says so."""
    seg.version.commit()
    where = tmp_path / "published"
    ops.publish(seg, str(where), format="zarr", progress=False)
    child = seg.version.newversion()["seg"]
    bodies, sizes = np.unique(seg[:, :, :], return_counts=True)
    large, *_, small = bodies[bodies > 0][np.argsort(-sizes[bodies > 0])].tolist()
    child.set_mappings([small], [large])
    child.version.commit()
    assert (child[:, :, :] == small).sum() == 0
    assert ops.publish(child, str(where), format="zarr", verify=2, progress=False).written > 0
    np.testing.assert_array_equal(voxels(where / child.version.uuid, "zarr"), child[:, :, :])


def test_a_version_changed_by_force_is_no_base(seg, tmp_path):
    seg.version.commit()
    where = tmp_path / "published"
    ops.publish(seg, str(where), progress=False)
    child = merged(seg)
    seg.write(np.full((16, 16, 16), 5, np.uint64), (0, 0, 64), force=True)
    report = ops.publish(child, str(where), progress=False)
    assert report.since == ""
    assert "by force" in report.reason
    np.testing.assert_array_equal(voxels(where / child.version.uuid, "ome-zarr"), child[:, :, :])
    with pytest.raises(Conflict, match="by force"):
        ops.publish(seg, str(where), progress=False)


def test_compaction_is_no_change(seg, tmp_path):
    seg.version.commit()
    ops.publish(seg, str(tmp_path / "published"), progress=False)
    assert seg.version.datastore.compact()
    assert ops.publish(merged(seg), str(tmp_path / "published"), progress=False).since == seg.version.uuid


def test_extents_that_grew(seg, tmp_path):
    seg.version.commit()
    ops.publish(seg, str(tmp_path / "folders"), progress=False)
    ops.publish(seg, str(tmp_path / "one"), in_place=True, progress=False)
    child = seg.version.newversion()["seg"]
    child.write(np.full((16, 16, 16), 5, np.uint64), (-64, 0, 64))
    child.version.commit()
    report = ops.publish(child, str(tmp_path / "folders"), progress=False)
    assert report.since == ""
    assert "lies elsewhere" in report.reason
    before = files(tmp_path / "one", all_of_it=True)
    with pytest.raises(Conflict, match="extents"):
        ops.publish(child, str(tmp_path / "one"), in_place=True, progress=False)
    assert files(tmp_path / "one", all_of_it=True) == before


def test_refusals(seg, tmp_path):
    where = str(tmp_path / "published")
    with pytest.raises(BadRequest, match="open"):
        ops.publish(seg, where, progress=False)
    notes = seg.repo.new_instance("uint8blk", "free", {"versioned": "false"})
    seg.version.commit()
    with pytest.raises(BadRequest, match="unknown"):
        ops.publish(seg, where, format="tiff", progress=False)
    with pytest.raises(BadRequest, match="isn't versioned"):
        ops.publish(notes, where, progress=False)
    with pytest.raises(BadRequest, match="no complete"):
        ops.publish(seg, where, since=str(tmp_path), progress=False)
    assert not os.path.exists(where)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("precious")
    with pytest.raises(Conflict, match="not empty"):
        ops.publish(seg, str(tmp_path / "mine"), in_place=True, progress=False)
    ops.publish(seg, where, progress=False)
    with pytest.raises(Conflict, match="other options"):
        ops.publish(seg, where, format="precomputed", progress=False)


def test_damage_is_seen(seg, tmp_path):
    seg.version.commit()
    where = tmp_path / "published"
    ops.publish(seg, str(where), format="zarr", progress=False)
    shards = sorted((where / seg.version.uuid / "c").rglob("0"))
    shards = [p for p in shards if p.is_file()]
    held = [shard.read_bytes() for shard in shards]
    for shard, other in zip(shards, [*held[1:], held[0]], strict=True):  # any box will tell
        shard.write_bytes(other)
    child = merged(seg)
    with pytest.raises(Conflict, match="differs"):
        ops.publish(child, str(where), format="zarr", verify=100, progress=False)
    assert not (where / child.version.uuid / "zarr.json").exists()


VICTIM = """
import sys, time
import dask
import dvid_dask
from dvid_dask import ops
from dvid_dask.ops import job, objects
from tests.ops.test_publish import small_parts

small_parts()
store, uuid, where, format, in_place, phase, count = sys.argv[1:]
left = [int(count)]
commit = job.ScratchLedger.commit
def stops(self, name, index, fn):
    if name.startswith(phase):
        left[0] -= 1
        if left[0] == 0:
            print("now", flush=True)
            time.sleep(60)
    return commit(self, name, index, fn)
job.ScratchLedger.commit = stops
if phase == "end":
    end = ops.publish.__globals__["end_job"]
    ops.publish.__globals__["end_job"] = lambda *_: (print("now", flush=True), time.sleep(60))
with dask.config.set(scheduler="synchronous"):
    seg = dvid_dask.open(store, read_only=True)[uuid]["seg"]
    ops.publish(seg, where, format=format, in_place=in_place == "True", verify=2, progress=False)
"""


@pytest.mark.parametrize(
    ("in_place", "phase", "count"),
    [
        (False, "scale0", 2),
        pytest.param(False, "put", 1, marks=pytest.mark.long),
        pytest.param(False, "end", 1, marks=pytest.mark.long),
        (True, "scale1", 1),
        (True, "put", 1),
        pytest.param(True, "verify", 1, marks=pytest.mark.long),
        pytest.param(True, "end", 1, marks=pytest.mark.long),
        pytest.param(False, "verify", 1, marks=pytest.mark.long),
    ],
)
def test_killed_and_started_again(seg, tmp_path, monkeypatch, in_place, phase, count):
    monkeypatch.setattr(publishing, "_BATCH", 4)
    format = "ome-zarr" if phase == "scale0" else "precomputed"
    seg.version.commit()
    where = tmp_path / "published"
    ops.publish(seg, str(where), format=format, in_place=in_place, progress=False)
    seen = files(where, all_of_it=True)
    child = merged(seg)
    arguments = [tmp_path / "store", child.version.uuid, where, format, in_place, phase, count]
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as victim:
        try:
            assert victim.stdout.readline() == "now\n"
        finally:
            victim.send_signal(signal.SIGKILL)
    if phase != "end":
        now = files(where, all_of_it=True)
        if in_place and phase.startswith("scale"):
            assert {name: now[name] for name in seen} == seen  # readers see the old version as it was
        elif not in_place:
            assert "info" not in {name.removeprefix(f"{child.version.uuid}/") for name in set(now) - set(seen)}
        else:
            assert json.loads(now["publication.json"])["updating"][0] == child.version.uuid
            with pytest.raises(Conflict, match="on the way"):
                ops.publish(seg, str(where), format=format, in_place=True, progress=False)
    report = ops.publish(child, str(where), format=format, in_place=in_place, progress=False)
    assert report.since == seg.version.uuid
    ops.publish(child, str(tmp_path / "anew"), format=format, progress=False)
    folder = where if in_place else where / child.version.uuid
    assert files(folder) == files(tmp_path / "anew" / child.version.uuid)
    assert not list(tmp_path.rglob(".dvid-dask*"))


@pytest.mark.long
def test_a_killed_worker(seg, tmp_path):
    from distributed import Client, LocalCluster

    seg.version.commit()
    child = merged(seg)
    ops.publish(seg, str(tmp_path / "anew"), format="precomputed", progress=False)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(small_parts)
        killed = []

        def kill(phase, cluster_client, progress):
            if phase.title == "scale 1" and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)
            return execute(phase, cluster_client, progress)

        execute = publish_module.job.execute
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish_module.job, "execute", kill)
            ops.publish(seg, str(tmp_path / "published"), format="precomputed", client=client, progress=False)
        assert killed
        ops.publish(child, str(tmp_path / "published"), format="precomputed", client=client, verify=3, progress=False)
    name = seg.version.uuid
    assert files(tmp_path / "published" / name) == files(tmp_path / "anew" / name)


def test_on_a_bucket(seg, gcs_server):
    seg.version.commit()
    url = f"gs://bucket/published-{os.getpid()}"
    ops.publish(seg, url, format="precomputed", progress=False)
    child = merged(seg)
    report = ops.publish(child, url, format="precomputed", verify=2, progress=False)
    assert report.kept > report.written > 0
    kvstore = f"{url}/{child.version.uuid}/"
    found = ts.open({"driver": "neuroglancer_precomputed", "kvstore": kvstore}, read=True).result()
    np.testing.assert_array_equal(found[..., 0].transpose([2, 1, 0]).read().result(), child[:, :, :])
    names = [n.decode() for n in ts.KvStore.open(kvstore).result().list().result()]
    assert not [n for n in names if n.startswith(".dvid-dask")]
