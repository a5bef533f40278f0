"""Writers at the same time, in threads and processes, on every backend: no update is lost."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dvid_dask.store import Conflict, Store, StoreError, StoreNotFound

HERE = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.workers", *map(str, arguments)]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("url", ["local", "s3", "gcs"], indirect=True)
def test_processes_lose_no_update(url):
    store = Store.create(url)
    tree = store.create_tree("a")
    times = 25 if store.url.startswith("file") else 8
    workers = [run("race", store.url, "a", times) for _ in range(2)]
    attempts = [int(worker.communicate()[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert tree.view(0).get(b"count") == b"%d" % (2 * times)
    assert sum(attempts) >= 2 * times
    assert store.fsck().clean


def test_a_deterministic_race(store):
    """Two writers that have both read before either writes: one must run again, on each backend."""
    tree = store.create_tree("a")
    both = threading.Barrier(2, timeout=30)
    runs = []

    def count(tx):
        value = int(tx.get(b"count") or b"0")
        runs.append(value)
        if len(runs) <= 2:
            both.wait()
        tx.put(b"count", b"%d" % (value + 1))

    threads = [threading.Thread(target=tree.update, args=(count,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree.view().get(b"count") == b"2"
    assert sorted(runs) == [0, 0, 1]


def test_threads_lose_no_update(store):
    tree = store.create_tree("a")
    times = 20 if store._where.remote is False else 4

    def work():
        for _ in range(times):
            tree.update(lambda tx: tx.put(b"count", b"%d" % (int(tx.get(b"count") or b"0") + 1)))
            assert int(tree.view().get(b"count")) > 0

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree.view().get(b"count") == b"%d" % (4 * times)


def test_readers_beside_a_writer_see_whole_states(local):
    tree = local.create_tree("a")
    tree.update(lambda tx: tx.put_many((b"k%d" % i, b"0") for i in range(50)))
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            view = tree.view()
            values = set(view.get_many([b"k%d" % i for i in range(50)]))
            values |= {value for _, value in view.scan()}
            if len(values) != 1:
                torn.append(values)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(150):
        tree.update(lambda tx, n=n: tx.put_many((b"k%d" % i, b"%d" % n) for i in range(50)))
    stop.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_commits_of_other_processes_are_seen_in_time(local):
    tree = local.create_tree("a")
    assert tree.view().get(b"count") is None
    worker = run("count", local.url, "a", 3)
    worker.communicate()
    assert tree.view(max_age=3600).get(b"count") is None
    time.sleep(0.1)
    assert tree.view().get(b"count") == b"3"
    assert tree.view(max_age=0).get(b"count") == b"3"


def test_one_look_a_question(local):
    tree = local.create_tree("a")
    local.max_age = 0.0
    with local.one_look():
        assert tree.view(3600).get(b"count") is None
        run("count", local.url, "a", 3).communicate()
        # what was committed after the question was asked need not be in the answer
        assert tree.view(3600).get(b"count") is None
        assert tree.view(max_age=0).get(b"count") == b"3"
        run("count", local.url, "a", 2).communicate()
        seen = []
        other = threading.Thread(target=lambda: seen.append(tree.view(3600).get(b"count")))
        other.start()
        other.join()
        assert seen == [b"5"]
        run("count", local.url, "a", 1).communicate()
        with local.one_look():
            assert tree.view(3600).get(b"count") == b"6"
    run("count", local.url, "a", 1).communicate()
    assert tree.view(3600).get(b"count") == b"7"


def test_patience_ends(local, monkeypatch):
    tree = local.create_tree("a")
    monkeypatch.setattr("dvid_dask.store.tree.PATIENCE", 0.2)

    def work(tx):
        tx.get(b"a")
        tree.update(lambda tx: tx.put(b"a", os.urandom(8)))
        tx.put(b"b", b"1")

    with pytest.raises(Conflict, match="attempts"):
        tree.update(work)
    assert tree.view().get(b"b") is None


def _read_in_child(store: Store, view, queue) -> None:
    queue.put((view.get(b"a"), store.tree("a").view().get(b"a")))


def _use_in_fork(store: Store, queue) -> None:
    errors = []
    for use in (
        lambda: store.tree("a").view(),
        lambda: store.tree("a").update(lambda tx: None),
        lambda: Store.open(store.url + "-other"),
        lambda: pickle.loads(pickle.dumps(store)),
    ):
        try:
            use()
        except StoreError as error:
            errors.append(str(error))
    queue.put(errors)


def test_spawned_processes_read_the_pinned_state(local):
    tree = local.create_tree("a")
    tree.update(lambda tx: tx.put(b"a", b"old"))
    view = tree.view()
    tree.update(lambda tx: tx.put(b"a", b"new"))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(local, view, queue))
    child.start()
    assert queue.get(timeout=60) == (b"old", b"new")
    child.join()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_so(local):
    local.create_tree("a")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_use_in_fork, args=(local, queue))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    errors = queue.get()
    assert len(errors) == 4
    assert all("fork" in error and "spawn" in error for error in errors)


def test_memory_is_not_shared(tmp_path):
    store = Store.create("memory://only-here")
    store.create_tree("a")
    code = "import sys, pickle; pickle.loads(bytes.fromhex(sys.argv[1]))"
    child = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(store).hex()], capture_output=True, text=True, cwd=HERE
    )
    assert StoreNotFound.__name__ in child.stderr
    assert "not shared between processes" in child.stderr
