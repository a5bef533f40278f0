"""Jobs on real worker processes: nothing is lost, doubled or different when workers or the client are killed.

After every kill -9 the same job is started again; the result must be that of the dense model to the last row of the
label index, with no trace of the job left in the instance.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import dvid_dask
from dvid_dask import ops
from dvid_dask.bases import Base
from dvid_dask.errors import BadRequest
from tests.datatypes.labelmap.bases import save
from tests.ops._victim import Slow
from tests.ops.conftest import neurites
from tests.ops.model import World
from tests.ops.test_ingest import labelmap, mean_pyramid

SHAPE = (96, 96, 96)
BRICKS = 27


@pytest.fixture
def disk(tmp_path):
    return dvid_dask.create(str(tmp_path / "store"), compact="never")


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def check(seg, volume, offset=(0, 0, 0)):
    world = World(offset, volume.shape, (16, 16, 16), 2)
    world.write(volume, offset)
    world.check(seg)
    assert ops.unfinished_jobs(seg) == {}
    assert not list(seg.view(0).keys(b"J"))


def finished_bricks(seg):
    """Bricks whose commit is in the store."""
    return sum(b"/bricks/" in key for key in seg.view(0).keys(b"J"))


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_segmentation_is_adopted_by_worker_processes(disk, client, tmp_path):
    volume = neurites(SHAPE)
    for levels in (0, 2):
        where = save(tmp_path / str(levels), volume, levels=levels)
        seg = labelmap(disk.new_repo("fly"))
        ops.adopt_labels(Base.find(where), seg, brick_edge=32, client=client, progress=False)
        check(seg, volume)
        assert not list(seg.verify())


@pytest.mark.parametrize("kind", ["file", "memory", "dask"])
def test_sources_reach_worker_processes(disk, client, tmp_path, kind):
    seg = labelmap(disk.new_repo("fly"))
    volume = neurites(SHAPE)
    np.save(tmp_path / "volume.npy", volume)
    source = {
        "file": str(tmp_path / "volume.npy"),
        "memory": volume,
        "dask": da.from_array(volume, chunks=(40, 96, 50)),
    }[kind]
    report = ops.ingest(source, seg, brick_edge=32, client=client, progress=False)
    assert report.bricks == BRICKS
    check(seg, volume)


def test_all_operations_on_processes(disk, client, tmp_path):
    repo = disk.new_repo("fly")
    seg, image = labelmap(repo), repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    volume = neurites(SHAPE)
    gray = np.random.default_rng(0).integers(0, 255, (50, 60, 70), dtype=np.uint8)
    options = {"client": client, "progress": False}
    ops.ingest(volume, seg, scales=0, brick_edge=32, **options)
    ops.downres(seg, **options)
    check(seg, volume)
    assert ops.check_index(seg, **options).ok
    ops.ingest(gray, image, scales=2, brick_edge=32, **options)
    for scale, expected in enumerate(mean_pyramid(gray, 2)):
        np.testing.assert_array_equal(image.read_box((0, 0, 0), expected.shape, scale=scale), expected)
    ops.export(seg, str(tmp_path / "out"), format="zarr", **options)
    exported = ops.open_volume(str(tmp_path / "out"))
    np.testing.assert_array_equal(exported.read(exported.box), volume)


def test_errors_of_tasks_arrive_as_they_are(disk, client):
    seg = labelmap(disk.new_repo("fly"))
    volume = neurites(SHAPE)
    volume[50, 50, 50] = 2**64 - 1
    with pytest.raises(BadRequest, match="reserved"):
        ops.ingest(volume, seg, brick_edge=32, client=client, progress=False)


def test_a_store_in_memory_is_refused(repo, client):
    with pytest.raises(BadRequest, match="memory"):
        ops.ingest(neurites(SHAPE), labelmap(repo), client=client, progress=False)


def test_a_worker_killed_in_the_middle_changes_nothing(disk, tmp_path):
    seg = labelmap(disk.new_repo("fly"))
    volume = neurites(SHAPE)
    np.save(tmp_path / "volume.npy", volume)
    killed = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(Slow(0.1).setup, None)

        def kill():
            for bricks in (3, 12):
                wait_for(lambda n=bricks: finished_bricks(seg) >= n)
                pids = client.run(os.getpid)
                victim = next(pid for pid in pids.values() if pid not in killed)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

        killer = threading.Thread(target=kill)
        killer.start()
        report = ops.ingest(str(tmp_path / "volume.npy"), seg, brick_edge=32, client=client, progress=False)
        killer.join()
    assert len(killed) == 2
    assert report.voxels == volume.size
    check(seg, volume)


def run_victim(store, volume, uuid, seconds=0.1):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_victim.py")), store, volume, uuid, str(seconds)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def kill_and_restart(disk, tmp_path, times, seed):
    """Kill client and workers `times` times at random points of one ingest over older voxels, then let it finish."""
    seg = labelmap(disk.new_repo("fly"))
    rng = random.Random(seed)
    old, volume = neurites(SHAPE, seed=1), neurites(SHAPE, seed=2)
    np.save(tmp_path / "volume.npy", volume)
    ops.ingest(old, seg, progress=False)
    where = (disk.url, str(tmp_path / "volume.npy"), seg.version.uuid)
    before = 0
    for _ in range(times):
        victim = run_victim(*where)
        try:
            wait_for(lambda n=before, v=victim: finished_bricks(seg) > n or v.poll() is not None)
            time.sleep(rng.random() * 0.3)
        finally:
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            victim.stdout.close()
        before = finished_bricks(seg)
        assert before > 0
    report = ops.ingest(where[1], seg, brick_edge=32, progress=False)
    assert report.resumed >= 1
    assert report.voxels == volume.size
    check(seg, volume)
    return report


def test_client_and_workers_killed_then_started_again(disk, tmp_path):
    kill_and_restart(disk, tmp_path, times=2, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_client_and_workers_killed_many_times(disk, tmp_path, seed):
    kill_and_restart(disk, tmp_path, times=4, seed=seed)


@pytest.mark.parametrize("point", ["bricks", "index"])
def test_same_bytes_whether_killed_or_not(tmp_path, monkeypatch, point):
    """A power cut after every single commit: the keys and values at the end are those of an undisturbed run."""
    import importlib

    merge = importlib.import_module("dvid_dask.ops.merge_counts")
    monkeypatch.setattr(merge, "_BATCH_ROWS", 40)  # several commits to a partition
    volume = neurites((64, 48, 48))
    quiet = labelmap(dvid_dask.create("memory://").new_repo("quiet"))
    ops.ingest(volume, quiet, brick_edge=32, progress=False)
    seg = labelmap(dvid_dask.create("memory://").new_repo("shaken"))

    class PowerCutError(Exception):
        pass

    commits, mutate = [0], type(seg).mutate

    def cut(self, fn, **options):
        result = mutate(self, fn, **options)
        commits[0] += 1
        if commits[0] % 2 == (point == "index"):
            raise PowerCutError  # committed, but nobody hears of it
        return result

    runs = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(type(seg), "mutate", cut)
            runs += 1
            assert runs < 100
            try:
                ops.ingest(volume, seg, brick_edge=32, progress=False)
                break
            except PowerCutError:
                if not ops.unfinished_jobs(seg):
                    break
    assert runs > 5
    assert dict(seg.view(0).scan()) == dict(quiet.view(0).scan())
