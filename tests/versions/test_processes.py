"""Several processes on one store: one wins, the others get the right error, nothing is lost or given out twice."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

import dvid_dask

from .conftest import sound

PROLOGUE = """
import json, sys
import dvid_dask
from dvid_dask import errors
ds = dvid_dask.open(sys.argv[1], compact="never")
root, me = sys.argv[2], int(sys.argv[3])
repo = ds.repos[root]
print("ready", flush=True)
sys.stdin.readline()
done = []
def attempt(name, call):
    try:
        call()
        done.append([name, "ok"])
    except errors.DvidError as error:
        done.append([name, type(error).__name__])
"""
EPILOGUE = """
print(json.dumps(done))
"""


def race(ds, repo, code: str, processes: int = 3) -> list[list]:
    """Run `code` in several processes that begin together; returns what each noted in `done`."""
    script = PROLOGUE + textwrap.dedent(code) + EPILOGUE
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, ds.url, repo.root, str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(processes)
    ]  # fmt: skip
    results = []
    try:
        for p in running:
            assert p.stdout.readline() == "ready\n"
        for p in running:
            p.stdin.write("go\n")
            p.stdin.flush()
        for p in running:
            out, _ = p.communicate(timeout=120)
            assert p.returncode == 0
            results.append(json.loads(out))
    finally:
        for p in running:
            if p.poll() is None:
                p.kill()
                p.wait()
            p.stdin.close()
            p.stdout.close()
    return results


@pytest.fixture
def repo(local):
    repo = local.new_repo("shared")
    repo.new_instance("keyvalue", "kv")
    return repo


def test_names_and_nodes_are_won_by_one(local, repo):
    root = repo["master"]
    results = race(
        local,
        repo,
        """
        v = repo["master"]
        attempt("instance", lambda: repo.new_instance("keyvalue", "mine"))
        attempt("repo", lambda: ds.new_repo(root="a" * 32))
        attempt("commit", lambda: v.commit(f"by {me}", [f"by {me}"]))
        attempt("newversion", lambda: v.newversion(f"of {me}"))
        attempt("branch", lambda: v.new_branch("side", f"of {me}"))
        attempt("uuid", lambda: v.new_branch(f"own-{me}", uuid="b" * 32))
        attempt("tag", lambda: v.tag("v1"))
        attempt("log", lambda: repo.add_log(f"by {me}"))
        """,
    )
    for name, error in (
        ("instance", "Conflict"),
        ("repo", "Conflict"),
        ("commit", "LockedVersion"),
        ("newversion", "Conflict"),
        ("branch", "Conflict"),
        ("uuid", "Conflict"),
        ("tag", "Conflict"),
    ):
        outcomes = sorted(outcome for noted in results for n, outcome in noted if n == name)
        assert outcomes == sorted(["ok", error, error]), name
    assert all(["log", "ok"] in noted for noted in results)
    local.state(0)
    assert len(root.log) == 1
    assert root.note == root.log[0].split("  ")[1]
    assert len([line for line in repo.log if "by " in line]) == 3
    assert len(root.children) == 4
    sound(local)
    assert local.check().leftovers == []


def test_counters_and_mutations(local, repo):
    results = race(
        local,
        repo,
        """
        kv = repo["master"]["kv"]
        counter = repo.counter("label", start=1)
        for n in range(25):
            done.append(counter.allocate(3))
            kv.put(f"{me}-{n}", b"x")
            done.append(repo.next_mutation_id())
        """,
    )
    kv = repo["master"]["kv"]
    assert len(kv) == 75
    firsts = sorted(n for noted in results for n in noted[0::2])
    assert firsts == list(range(1, 1 + 225, 3))
    ids = [n for noted in results for n in noted[1::2]] + [r.id for r in kv.history()]
    assert len(set(ids)) == len(ids) == 150
    for me in range(3):
        mine = [r["Key"] for r in kv.mutations() if r["Key"].startswith(f"{me}-")]
        assert mine == [f"{me}-{n}" for n in range(25)]
    sound(local)


def test_a_writer_and_a_committer(local, repo):
    """Whatever was acknowledged is in the committed version, and nothing came in after."""
    results = race(
        local,
        repo,
        """
        v = repo["master"]
        if me == 0:
            for n in range(5):
                v["kv"].put(f"committer-{n}", b"x")
            v.commit()
        else:
            for n in range(20_000):
                try:
                    v["kv"].put(f"{me}-{n}", b"x")
                except errors.LockedVersion:
                    break
                done.append(n)
            else:
                raise SystemExit("never locked out")
        """,
    )
    kv = dvid_dask.open(local.url)[repo.root]["kv"]
    expected = {f"committer-{n}" for n in range(5)} | {f"{me}-{n}" for me in (1, 2) for n in results[me]}
    assert set(kv) == expected
    assert kv.version.locked
    sound(local)
