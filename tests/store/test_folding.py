"""Journals put into nodes by a thread: nobody notices, nothing is lost, whatever others do meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from dvid_dask.store import Store, folding, journal

HERE = Path(__file__).parents[2]


@pytest.fixture
def tree(local, monkeypatch):
    """A tree with 40 records in its journal; one more, and it is put into nodes."""
    monkeypatch.setattr(journal, "RECORDS", 41)
    made = local.create_tree("a")
    made.update(lambda tx: (tx.put_many((b"k%03d" % i, b"old %d" % i) for i in range(100)), tx.to_nodes()))
    commit(made, 0, 40)
    assert made.view()._count == 40
    return made


def commit(tree, first: int, last: int) -> None:
    for n in range(first, last):
        tree.update(lambda tx, n=n: (tx.put(b"n%03d" % n, b"%d" % n * 200), tx.put(b"last", b"%d" % n)))


def check(tree, count: int) -> None:
    view = tree.view(0)
    assert dict(view.scan(b"n", b"o")) == {b"n%03d" % n: b"%d" % n * 200 for n in range(count)}
    assert view.get(b"last") == b"%d" % (count - 1)
    assert view.get(b"k007") == b"old 7"
    report = tree.store.fsck(deep=True)
    assert report.clean, report.errors
    tree.store.gc(0)
    assert Store.open(tree.store.url).fsck(deep=True).clean


def wait(tree) -> None:
    with tree._state.folding:
        pass


def meanwhile(monkeypatch, *actions) -> None:
    """Do something each time after records have become nodes that nobody knows yet."""
    real, todo = folding._land, list(actions)

    def land(*arguments):
        done = real(*arguments)
        if todo:
            todo.pop(0)()
        return done

    monkeypatch.setattr(folding, "_land", land)


def test_the_state_is_the_same(tree):
    views = []
    tree.update(lambda tx: tx.on_commit(lambda: None) or tx.put(b"last", b"39"))
    views.append(tree.view())
    wait(tree)
    after = tree.view(0)
    assert after._count == 0
    assert after.token == views[0].token
    assert dict(after.scan()) == dict(views[0].scan())
    assert after.changed_since(views[0]) == []
    check(tree, 40)


def test_commits_go_on(tree, monkeypatch):
    meanwhile(monkeypatch, lambda: commit(tree, 41, 61), lambda: commit(tree, 61, 64))
    commit(tree, 40, 41)
    wait(tree)
    assert tree.view(0)._count == 0
    check(tree, 64)


def test_commits_that_never_stop_wait_in_the_end(tree, monkeypatch):
    parts = [lambda i=i: commit(tree, 41 + 9 * i, 50 + 9 * i) for i in range(2)]
    monkeypatch.setattr(folding, "_ROUNDS", 1)
    meanwhile(monkeypatch, *parts)
    commit(tree, 40, 41)
    wait(tree)
    assert tree.view(0)._count == 0
    check(tree, 59)


def test_somebody_else_was_faster(tree, monkeypatch):
    meanwhile(monkeypatch, tree.fold)
    commit(tree, 40, 41)
    wait(tree)
    commit(tree, 41, 42)
    check(tree, 42)


@pytest.mark.parametrize("what", ["seal", "drop", "branch"])
def test_the_tree_is_another_one_meanwhile(tree, monkeypatch, what):
    store = tree.store

    def drop():
        store.drop_tree("a")
        store.create_tree("a").update(lambda tx: tx.put(b"other", b"1"))

    meanwhile(
        monkeypatch, {"seal": lambda: store.seal("a"), "drop": drop, "branch": lambda: store.branch("a", "b")}[what]
    )
    commit(tree, 40, 41)
    wait(tree)
    if what == "drop":
        assert dict(store.tree("a").view(0).scan()) == {b"other": b"1"}
        assert store.fsck(deep=True).clean
        return
    check(store.tree("a"), 41)
    assert store.tree("a").sealed == (what == "seal")


def test_a_collection_without_grace_waits(tree, monkeypatch):
    deleted = []
    collector = threading.Thread(target=lambda: deleted.append(tree.store.gc(0).deleted))
    meanwhile(monkeypatch, lambda: (collector.start(), collector.join(0.2)))
    commit(tree, 40, 41)
    wait(tree)
    collector.join()
    assert len(deleted) == 1
    check(tree, 41)


def test_during_a_collection_without_grace_nobody_begins(tree):
    with folding.no_folds(tree.store._where):
        commit(tree, 40, 50)
        wait(tree)
        assert tree.view(0)._count == 50
    commit(tree, 50, 64)  # one in 64 tries again
    wait(tree)
    assert tree.view(0)._count == 0
    check(tree, 64)


def test_failures_are_left_to_the_commit_that_finds_no_room(tree, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(folding, "_land", fail)
    commit(tree, 40, 2 * journal.RECORDS)
    assert tree.view(0)._count == 2 * journal.RECORDS
    commit(tree, 2 * journal.RECORDS, 2 * journal.RECORDS + 1)
    assert tree.view(0)._count == 0
    check(tree, 2 * journal.RECORDS + 1)


def test_other_processes_keep_what_they_know(tree, monkeypatch):
    monkeypatch.setattr("dvid_dask.store.backend._backends", weakref.WeakValueDictionary())
    other = Store.open(tree.store.url).tree("a")
    decoded = []

    def decode(key, value):
        decoded.append(key)
        return value, 10

    before = other.view(0)
    assert before.decoded("test", [b"k001", b"n003"], decode) == [b"old 1", b"3" * 200]
    tree.fold()
    commit(tree, 40, 41)
    after = other.view(0)
    assert after._count == 1
    assert after.changed_since(before) is not None
    assert sorted(after.changed_since(before)) == [b"last", b"n040"]
    assert after.decoded("test", [b"k001", b"n003"], decode) == [b"old 1", b"3" * 200]
    assert len(decoded) == 2


def test_who_rests_waits_for_it(tree, monkeypatch):
    slow = threading.Event()
    meanwhile(monkeypatch, lambda: slow.wait(0.3))
    commit(tree, 40, 41)
    tree.store.rest()
    assert tree.view(0)._count == 0


def test_a_process_ends_when_it_is_done(tree):
    code = (
        "import sys; from dvid_dask.store import Store, journal\n"
        "journal.RECORDS = 3; tree = Store.open(sys.argv[1]).tree('a')\n"
        "from tests.store.test_folding import commit; commit(tree, 40, 45)"
    )
    subprocess.run([sys.executable, "-c", code, tree.store.url], cwd=HERE, check=True, timeout=60)
    assert tree.view(0).manifest.generation > 2
    check(tree, 45)
