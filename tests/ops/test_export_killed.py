"""Exports killed with -9 at any moment and started again: the same bytes as of one that was left alone."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time

import pytest

import dvid_dask
from dvid_dask import ops
from tests.ops.conftest import neurites
from tests.ops.test_ingest import labelmap
from tests.ops.test_shards import info

VICTIM = """
import sys, time
import dask
import dvid_dask
from dvid_dask.ops import job
from tests.ops.test_export_killed import JOBS, small_parts

small_parts()
commit = job.ScratchLedger.commit
def slowly(self, phase, index, fn):
    time.sleep(0.05)  # killed most likely between the file and the mark
    return commit(self, phase, index, fn)
job.ScratchLedger.commit = slowly
store, uuid, name, where = sys.argv[1:]
with dask.config.set(scheduler="synchronous"):
    JOBS[name](dvid_dask.open(store, read_only=True)[uuid]["seg"], where)
"""

JOBS = {
    "precomputed": lambda seg, where: ops.export(seg, where, format="precomputed", progress=False),
    "unsharded": lambda seg, where: ops.export(seg, where, format="precomputed", sharded=False, progress=False),
    "shards": lambda seg, where: ops.export_shards(seg, info([(96, 64, 32)]), where, progress=False),
    "text": lambda seg, where: ops.dump(seg, "svcount", where, progress=False),
    "parquet": lambda seg, where: ops.dump(seg, "svcount", where, format="parquet", progress=False),
}

QUICK = ("precomputed",)  # the others by `make test-long`
SUFFIXES = {".shard", ".arrow", ".txt", ".parquet"}


def small_parts():
    """Many small tasks, so that there is something left to do."""
    precomputed, dump = (importlib.import_module(f"dvid_dask.ops.{name}") for name in ("precomputed", "dump"))
    precomputed._VOXELS_PER_SHARD = 8 * 16**3
    precomputed._UNSHARDED = (2, 2, 2)
    dump._BRICK_BITS = 1


@pytest.fixture
def _small_parts(monkeypatch):
    precomputed, dump = (importlib.import_module(f"dvid_dask.ops.{name}") for name in ("precomputed", "dump"))
    for module, name in ((precomputed, "_VOXELS_PER_SHARD"), (precomputed, "_UNSHARDED"), (dump, "_BRICK_BITS")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    small_parts()


def content(path):
    if path.is_file():
        return path.read_bytes()
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in JOBS])
def test_killed_and_started_again(tmp_path, name):
    seg = labelmap(dvid_dask.create(str(tmp_path / "store"), compact="never").new_repo("fly"), levels=0)
    ops.ingest(neurites((32, 64, 96)), seg, progress=False)
    JOBS[name](seg, str(tmp_path / "whole"))
    arguments = [str(tmp_path / "store"), seg.version.uuid, name, str(tmp_path / "killed")]
    with subprocess.Popen([sys.executable, "-c", VICTIM, *arguments]) as victim:
        try:
            deadline = time.monotonic() + 120
            while len([p for p in tmp_path.glob("killed*/**/*") if p.suffix in SUFFIXES or "-" in p.name]) < 3:
                assert victim.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            victim.kill()
    assert not (tmp_path / "killed").is_file()
    JOBS[name](seg, str(tmp_path / "killed"))
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "store", "whole"]
