"""kill -9 at random moments of commits, branches, merges, mutations and forced writes.

After each kill: what was acknowledged is there and whole, what was not is there whole or not at all, the metadata
contradicts nothing, and what is unfinished `repair` finishes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import dvid_dask

from .conftest import sound

WRITER = """
import itertools, json, random, sys
import dvid_dask
from dvid_dask import errors
ds = dvid_dask.open(sys.argv[1], compact=sys.argv[4])
repo, rng = ds.repos[sys.argv[2]], random.Random(int(sys.argv[3]))
def say(*words):
    sys.stdout.write(json.dumps(words) + "\\n")
    sys.stdout.flush()
say("ready")
for n in itertools.count():
    versions = list(repo.versions.values())
    v = rng.choice(versions[-6:])
    what = rng.choice(["put", "put", "put", "pair", "commit", "child", "merge", "force", "instance"])
    name = f"{sys.argv[3]}-{n}"
    if what == "put" and not v.locked:
        v["kv"].put(name, b"x" * rng.randrange(600))
        say("put", v.uuid, name)
    elif what == "pair" and not v.locked:
        # both or none, wherever it is read
        v["kv"].put_many({"left": name.encode(), "right": name.encode()})
        say("put", v.uuid, "left")
    elif what == "commit" and not v.locked:
        say("committing", v.uuid)
        v.commit("note", ["line"])
        say("commit", v.uuid)
    elif what == "child" and v.locked:
        child = v.new_branch(name)
        say("version", child.uuid, [v.uuid])
    elif what == "merge":
        some = [w for w in versions if w.locked]
        if len(some) > 1:
            parents = rng.sample(some, 2)
            child = repo.resolve(["kv"], parents)
            say("version", child.uuid, [p.uuid for p in parents])
    elif what == "force" and v.locked:
        v["kv"].put(name, b"forced", force=True)
        say("put", v.uuid, name)
    elif what == "instance":
        repo.new_instance("keyvalue", name, at=v, force=True)
        say("instance", name)
"""


def check_after(url: str, root: str, said: list) -> None:
    ds = dvid_dask.open(url, compact="never")
    report = ds.check()
    assert report.ok, str(report)
    ds.repair()
    sound(ds)
    repo = ds.repos[root]
    for what, *rest in said:
        if what == "put":
            uuid, key = rest
            assert ds[uuid]["kv"].exists(key), rest
        elif what == "commit":
            v = ds[rest[0]]
            assert v.locked
            assert len(v.log) == 1
            assert v.note == "note"
        elif what == "version":
            assert [p.uuid for p in ds[rest[0]].parents] == rest[1]
        elif what == "instance":
            assert rest[0] in repo.instances
    for v in repo.versions.values():
        kv = v["kv"]
        assert kv.get("left") == kv.get("right")
        records = list(kv.history())
        ids = [r.id for r in records]
        singles = [r for r in records if r.record["Key"] not in ("left", "right")]
        assert len({r.id for r in singles}) == len(singles)
        assert all(i >= 1_000_000_000 for i in ids)
        # the log and the data are one commit
        for r in singles:
            assert kv.exists(r.record["Key"]), (v, r)
    every = [r.id for v in repo.versions.values() for r in v["kv"].history() if r.record["Key"] != "right"]
    assert len(set(every)) == len(every)
    ds.gc(grace=0)
    ds.gc(grace=0)
    assert ds.check().leftovers == []
    assert not ds.store.fsck().errors
    ds.close()


def kill_many(tmp_path, kills: int, seed: int) -> None:
    url = str(tmp_path / "store")
    with dvid_dask.create(url, compact="never") as ds:
        repo = ds.new_repo()
        repo.new_instance("keyvalue", "kv")
        root = repo.root
    rng = random.Random(seed)
    total = 0
    for n in range(kills):
        said: list = []
        compact = rng.choice(["never", "now", "background"])
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, root, str(seed * 1000 + n), compact], stdout=subprocess.PIPE
        )
        try:
            assert json.loads(process.stdout.readline()) == ["ready"]
            time.sleep(rng.uniform(0.02, 0.9))
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().decode()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        assert process.returncode == -signal.SIGKILL, "the writer ended by itself"
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                said.append(json.loads(line))
        total += len(said)
        check_after(url, root, said)
    assert total > kills  # the kills came while something was going on


def test_kills(tmp_path):
    kill_many(tmp_path, 8, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 32))
@pytest.mark.timeout(900)
def test_many_kills(tmp_path, seed):
    kill_many(tmp_path, 15, seed)
