"""Mesh jobs whose client and workers are killed with -9 and started again: the same bytes as of one left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.ops.job import SCRATCH, scratch_space
from dvid_dask.store import Store, StoreError
from tests.ops.conftest import neurites
from tests.ops.test_cluster import wait_for
from tests.ops.test_ingest import labelmap

for _name in ("trimesh", "skimage.measure", "pyfqmr", "DracoPy"):
    pytest.importorskip(_name)

VICTIM = """
import sys, time
from distributed import Client, LocalCluster
import dvid_dask
from tests.ops.test_mesh_killed import make

def slow():
    from dvid_dask.ops import job
    commit = job.ScratchLedger.commit
    def slowly(self, phase, index, fn):
        time.sleep(0.1)  # killed most likely between the files and the mark
        return commit(self, phase, index, fn)
    job.ScratchLedger.commit = slowly

if __name__ == "__main__":
    store, uuid, kind, where = sys.argv[1:]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.run(slow)
        make(dvid_dask.open(store, compact="never")[uuid], kind, where)
"""

KINDS = ("precomputed", "sharded", "keyvalue")
PHASES = ("bricks", "merge")
QUICK = {("precomputed", "bricks")}


def make(version, kind, where):
    """Meshes in a folder of a format, or in a keyvalue instance."""
    seg = version["seg"]
    if kind == "keyvalue":
        return ops.mesh(seg, version[where.rpartition("/")[2]], keep=0.5, edge=16, progress=False)
    return ops.mesh(seg, where, keep=0.5, edge=16, format=kind, progress=False)


def content(version, kind, where):
    """All bytes that a job has made."""
    if kind == "keyvalue":
        return dict(version[where.name].items())
    return {str(p.relative_to(where)): p.read_bytes() for p in where.rglob("*") if p.is_file()}


def marks(version, kind, where, phase):
    """Tasks of a phase that the job has noted."""
    try:
        store = version.datastore.store if kind == "keyvalue" else Store.open(f"{where}/.dvid-dask-mesh")
        spaces = [scratch_space(store.tree(t).view(0)) for t in store.trees() if t.startswith(SCRATCH)]
    except (StoreError, OSError, KeyError):
        return 0
    return sum(f"/{phase}/".encode() in key for space in spaces for key in space.keys(b"J"))


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (kind, phase) if (kind, phase) in QUICK else pytest.param(kind, phase, marks=pytest.mark.long)
        for kind in KINDS
        for phase in PHASES
        if (kind, phase) != ("sharded", "merge")  # which has one task
    ],
)
def test_killed_in_the_middle_then_started_again(tmp_path, kind, phase):
    store = tmp_path / "store"
    repo = dvid_dask.create(str(store), compact="never").new_repo("fly")
    seg = labelmap(repo, levels=0)
    ops.ingest(neurites((40, 48, 64), labels=12), seg, progress=False)
    for name in ("whole", "killed"):
        repo.new_instance("keyvalue", name)
    version = repo["master"]
    make(version, kind, str(tmp_path / "whole"))
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(store), version.uuid, kind, str(tmp_path / "killed")],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        wait_for(lambda: victim.poll() is not None or marks(version, kind, tmp_path / "killed", phase) >= 2)
        assert victim.poll() is None, "it ended before it could be killed"
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
    assert marks(version, kind, tmp_path / "killed", phase) >= 2
    make(version, kind, str(tmp_path / "killed"))
    wanted = content(version, kind, tmp_path / "whole")
    assert len(wanted) > 2 or kind == "sharded"
    assert content(version, kind, tmp_path / "killed") == wanted
    assert not [t for t in version.datastore.store.trees() if t.startswith(SCRATCH)]
