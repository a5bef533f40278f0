"""Edits of the older label types that end in kill -9, and edits of many threads at once: all that follows agrees.

A labelblk, its labelvol, a half resolution, a labelarray, and annotations of both are changed at random. What is
compared afterwards are they with each other: a commit is in all of them or in none.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import dvid_dask
from dvid_dask.errors import BadRequest
from dvid_dask.formats import rles
from dvid_dask.formats.downsample import commonest_label

from ..labelmap.dense import blobs

SHAPE = (32, 32, 64)
BLOCK = {"BlockSize": "16,16,16"}

VICTIM = """
import sys
import numpy as np
import dvid_dask
from tests.datatypes.labelvol.test_crash import edit
store, uuid, seed = sys.argv[1:]
version = dvid_dask.open(store, compact="never")[uuid]
rng = np.random.default_rng(int(seed))
edit(version, rng)
print("ready", flush=True)
while True:
    edit(version, rng)
"""


def prepare(url):
    """A store in which everything follows; its version."""
    ds = dvid_dask.create(url, compact="never")
    repo = ds.new_repo("fly")
    lb, lv = repo.new_instance("labelblk", "lb", BLOCK), repo.new_instance("labelvol", "lv", BLOCK)
    lb.set_syncs(["lv"])
    lv.set_syncs(["lb"])
    repo.new_instance("labelblk", "half", BLOCK).set_syncs(["lb"])
    repo.new_instance("labelarray", "array", {**BLOCK, "MaxDownresLevel": "1"})
    points = np.argwhere(np.random.default_rng(0).random(SHAPE) < 0.001)
    for name, source in (("of voxels", "lb"), ("of volumes", "lv"), ("of array", "array")):
        notes = repo.new_instance("annotation", name)
        notes.set_syncs([source])
        notes.add([{"Pos": p[::-1], "Kind": "Note"} for p in points.tolist()])
    labels = blobs(np.random.default_rng(1), SHAPE)
    repo["master"]["lb"].write(labels, (0, 0, 0))
    repo["master"]["array"].write(labels, (0, 0, 0))
    return ds, repo["master"]


def edit(version, rng):
    """One edit of either segmentation; what can't be, since others were faster, is passed over."""
    lb, lv, array = (version[name] for name in ("lb", "lv", "array"))
    a, b, c = rng.choice(np.arange(1, 14), 3, replace=False).tolist()
    runs = [[int(rng.integers(0, 60)), int(rng.integers(0, 32)), int(rng.integers(0, 32)), 4]]
    kind = rng.integers(0, 6)
    if kind == 0:
        at = [int(v) * 16 for v in rng.integers(0, [2, 2, 4])]
        labels = blobs(rng, (16, 16, 16))
        (lb if rng.random() < 0.5 else array).write(labels, at)
    elif kind == 1:
        lv.merge(a, [b, c])
    elif kind == 2:
        array.merge(a, [b, c])
    elif kind == 3:
        array.split(a, runs, to=b)
    else:
        with contextlib.suppress(BadRequest):
            blocks = np.concatenate([np.empty((0, 3), np.int32), *lv.blocks(a)])
            if kind == 4 and len(blocks):
                lv.split_coarse(a, blocks[:1], to=b)
            elif len(blocks):
                lv.split(a, lv.all_runs(a)[:3], to=b)


def check(version):
    lb, lv, array = (version[name] for name in ("lb", "lv", "array"))
    voxels = lb.read((0, 0, 0), SHAPE)
    assert list(lv.disagreements()) == []
    for label in lv.labels():
        assert rles.voxel_count(lv.all_runs(label)) == int((voxels == label).sum())
    half = version["half"].read((0, 0, 0), tuple(n // 2 for n in SHAPE))
    assert np.array_equal(half, commonest_label(voxels))
    assert list(array.verify()) == []
    for name in ("of voxels", "of volumes", "of array"):
        assert list(version[name].disagreements()) == []


@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
def test_killed_in_the_middle_of_an_edit(tmp_path, seed):
    url = str(tmp_path / "store")
    ds, version = prepare(url)
    uuid = version.uuid
    ds.close()
    rng = np.random.default_rng(seed)
    command = [sys.executable, "-c", VICTIM, url, uuid, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        try:
            assert victim.stdout.readline() == "ready\n"
            time.sleep(float(rng.uniform(0.2, 1.5)))
        finally:
            victim.kill()
    with dvid_dask.open(url, compact="never") as ds:
        report = ds.check()
        assert report.ok, str(report)
        check(ds[uuid])


def test_many_threads_at_once():
    _, version = prepare("memory://")
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(12):
                edit(version, rng)
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check(version)
