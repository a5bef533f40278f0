"""Commit answers before its files are compacted; compaction may be late, killed, or never happen."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import dvid_dask
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.store import ReadOnly, StoreError
from dvid_dask.store.walk import is_single
from dvid_dask.versions import sealing

from .conftest import sound


def edited(url, compact, edits=30):
    ds = dvid_dask.create(url, compact=compact)
    repo = ds.new_repo()
    kv = repo.new_instance("keyvalue", "kv")
    for n in range(edits):
        kv[f"{n}"] = b"x" * 1000
    return ds, repo


def compact(version) -> bool:
    return is_single(version.tree().view(0).manifest)


def test_unknown_modes():
    with pytest.raises(BadRequest, match="background"):
        dvid_dask.create("memory://", compact="later")


def test_now_and_never(tmp_path):
    ds, repo = edited(str(tmp_path / "a"), "never")
    v = repo["master"]
    v.commit()
    assert not compact(v)
    assert ds.compact() == [v.record.tree]
    assert compact(v)
    assert ds.compact() == []
    assert v["kv"]["7"] == b"x" * 1000
    ds, repo = edited(str(tmp_path / "b"), "now")
    repo["master"].commit()
    assert compact(repo["master"])
    sound(ds)


def test_in_the_background(tmp_path, monkeypatch):
    """The commit answers first; a child waits for the compaction, so that it doesn't hold on to the small files."""
    ds, repo = edited(str(tmp_path / "a"), "background")
    v = repo["master"]
    gate, began = threading.Event(), threading.Event()
    real = type(ds.store).seal

    def slow(self, name, *, compact=True):
        if compact:
            began.set()
            gate.wait(30)
        return real(self, name, compact=compact)

    monkeypatch.setattr(type(ds.store), "seal", slow)
    v.commit()
    assert began.wait(10)
    assert v.locked
    assert not compact(v)
    made = []
    child = threading.Thread(target=lambda: made.append(v.newversion()))
    child.start()
    child.join(0.2)
    assert not made
    gate.set()
    child.join(30)
    assert compact(v)
    assert made[0]["kv"]["3"] == b"x" * 1000
    ds.close()
    sound(ds)


def test_a_child_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(sealing, "CHILD_PATIENCE", 0.1)
    ds, repo = edited(str(tmp_path / "a"), "background")
    gate = threading.Event()
    real = type(ds.store).seal

    def slow(self, name, *, compact=True):
        if compact:
            gate.wait(30)
        return real(self, name, compact=compact)

    monkeypatch.setattr(type(ds.store), "seal", slow)
    v = repo["master"]
    v.commit()
    assert v.newversion()["kv"]["3"] == b"x" * 1000
    gate.set()
    ds.close()
    sound(ds)


def test_a_compaction_that_fails_fails_nobody(tmp_path, monkeypatch, caplog):
    ds, repo = edited(str(tmp_path / "a"), "background")
    v = repo["master"]
    real = type(ds.store).seal

    def broken(self, name, *, compact=True):
        if compact:
            raise StoreError("no network")
        return real(self, name, compact=compact)

    monkeypatch.setattr(type(ds.store), "seal", broken)
    v.commit()
    child = v.newversion()
    ds.close()
    assert "Datastore.compact()" in caplog.text
    monkeypatch.setattr(type(ds.store), "seal", real)
    assert ds.compact() == [v.record.tree]
    child["kv"]["more"] = b"x"
    sound(ds)


def test_after_close_commits_go_on_uncompacted(tmp_path):
    ds, repo = edited(str(tmp_path / "a"), "background")
    ds.close()
    ds.close()
    repo["master"].commit()
    assert repo["master"].locked
    with pytest.raises(LockedVersion):
        repo["master"]["kv"]["x"] = b"y"
    sound(ds)


def test_a_process_that_ends_leaves_a_sound_store(tmp_path):
    """It lets the compaction that runs finish, and drops those that wait."""
    url = str(tmp_path / "a")
    code = f"""
import dvid_dask
ds = dvid_dask.create({url!r})
repo = ds.new_repo()
kv = repo.new_instance("keyvalue", "kv")
for n in range(20):
    kv[str(n)] = b"x" * 1000
v = repo["master"]
v.commit()
for n in range(3):
    b = v.new_branch(f"b{{n}}")
    b["kv"]["k"] = b"x"
    b.commit()
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    ds = dvid_dask.open(url)
    sound(ds)
    assert len(ds[":b2"]["kv"]) == 21
    ds.compact()
    assert all(compact(v) for v in ds[":master"].repo.versions.values())
    ds.close()


def test_read_only(tmp_path):
    ds, repo = edited(str(tmp_path / "a"), "never", edits=2)
    repo["master"].commit()
    open_version = repo["master"].newversion()
    still = dvid_dask.open(str(tmp_path / "a"), read_only=True)
    v = still[open_version.uuid]
    assert v["kv"]["1"] == b"x" * 1000
    assert still[repo.root].repo.to_json()["Root"] == repo.root
    sound(still)
    for call in (
        lambda: v["kv"].put("x", b"y"),
        lambda: v.commit(),
        lambda: v.set_note("x"),
        lambda: still[repo.root].newversion(),
        lambda: still[repo.root].new_branch("b"),
        lambda: still.new_repo(),
        lambda: v.repo.new_instance("keyvalue", "x"),
        lambda: still.put_blob(b"new"),
    ):
        with pytest.raises((ReadOnly, dvid_dask.errors.DvidError)):
            call()
    assert len(ds.repos) == 1
