"""Bulk changes of bodies on real worker processes, killed in the middle: all of it or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.ops import moves
from tests.ops._bulk_victim import ROWS_PER_PARTITION
from tests.ops.test_agglomerate import bodies_of, check, expected, filled, grid, svs_of
from tests.ops.test_cluster import client, wait_for  # noqa: F401


@pytest.fixture
def disk(tmp_path):
    return dvid_dask.create(str(tmp_path / "store"), compact="never")


def table_for(volume):
    svs = svs_of(volume)
    return np.stack([svs, np.where(svs > 5, svs % 5 + 1, svs)], axis=1)


def test_worker_processes(disk, client, monkeypatch):  # noqa: F811
    monkeypatch.setattr(moves, "_ROWS_PER_PARTITION", ROWS_PER_PARTITION)
    volume = grid()
    seg = filled(volume, disk.new_repo("fly"))
    table = table_for(volume)
    ops.agglomerate(seg, table, client=client, progress=False)
    mapping = dict(table.tolist())
    check(seg, volume, mapping)
    report = ops.edit(seg, merges=[[1, 2]], cleaves=[[3, 3, 7]], renumber=[[4, 4000]], client=client, progress=False)
    (new,) = report.cleaved.new_body
    back = {sv: {2: 1, 4: 4000}.get(b, b) for sv, b in mapping.items()} | {3: int(new)}
    assert bodies_of(seg) == expected(volume, back)
    assert list(seg.verify()) == []


def drafts_marks(seg):
    """Tasks of ``take`` that a draft has noted."""
    store = seg.version.datastore.store
    names = [t for t in store.trees() if t.startswith("draft-") and not t.endswith(".0")]
    return sum(b"/take/" in key for t in names for key, _ in store.tree(t).view(0).scan())


def test_killed_in_the_middle_then_started_again(disk, tmp_path, monkeypatch):
    volume = grid()
    seg = filled(volume, disk.new_repo("fly"))
    np.save(tmp_path / "table.npy", table_for(volume))
    args = (disk.url, str(tmp_path / "table.npy"), seg.version.uuid)
    victim = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_bulk_victim.py")), *args],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        wait_for(lambda: victim.poll() is not None or drafts_marks(seg) >= 2)
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
    before = drafts_marks(seg)
    assert before >= 2
    assert bodies_of(seg) == expected(volume, {})  # nothing is seen of what it did
    assert len(ops.unfinished_jobs(seg)) == 1
    taken, take = [], moves.Moves._take
    monkeypatch.setattr(moves, "_ROWS_PER_PARTITION", ROWS_PER_PARTITION)
    monkeypatch.setattr(moves.Moves, "_take", lambda self, p: taken.append(p) or take(self, p))
    ops.agglomerate(seg, args[1], progress=False)
    assert len(taken) + before == moves.partitions_for(len(table_for(volume)))
    check(seg, volume, dict(table_for(volume).tolist()))
