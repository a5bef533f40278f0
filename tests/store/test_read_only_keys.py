"""Keys that transactions only read keep their values, however many commits meet.

tensorstore 0.1.86 leaves them empty: of an atomic repeatable-read transaction, it forgets the value of a key that was
read and not written when the commit must be repeated on a newer state.
"""

from __future__ import annotations

import subprocess
import sys
import threading

from dvid_dask.store import Store

SMALL, LARGE = b"precious", b"p" * 5000


def make(tmp_path):
    tree = Store.create(str(tmp_path / "store")).create_tree("a")
    tree.update(lambda tx: tx.put_many([(b"small", SMALL), (b"large", LARGE), (b"listed", SMALL)]))
    return tree


def work(tree, me: int, count: int, shared: bool) -> None:
    for n in range(count):

        def fn(tx, n=n):
            assert tx.get(b"small") == SMALL
            assert tx.get(b"absent") is None
            if shared:
                tx.kvstore.write(b"direct-%d-%d" % (me, n), b"x")
                assert tx.get(b"small") == SMALL  # again, after tensorstore took over
            assert tx.get(b"large") == LARGE
            assert b"listed" in list(tx.keys(b"l", b"m"))
            tx.put(b"w-%d-%d" % (me, n), b"x")

        tree.update(fn)


def check(tree, keys: int) -> None:
    view = tree.view(0)
    assert view.get_many([b"small", b"large", b"listed", b"absent"]) == [SMALL, LARGE, SMALL, None]
    assert sum(1 for _ in view.keys(b"")) == 3 + keys


def test_threads(tmp_path):
    tree = make(tmp_path)
    threads = [threading.Thread(target=work, args=(tree, me, 40, me == 2)) for me in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(tree, 160)


def test_processes(tmp_path):
    tree = make(tmp_path)
    code = (
        "import sys; from dvid_dask.store import Store; from tests.store.test_read_only_keys import work; "
        "work(Store.open(sys.argv[1]).tree('a'), int(sys.argv[2]), 40, False)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, tree.store.url, str(me)]) for me in range(3)]
    assert [p.wait(120) for p in running] == [0, 0, 0]
    check(tree, 120)


def test_a_seal_outlives_forced_writes(tmp_path):
    tree = make(tmp_path)
    tree.store.seal("a", compact=False)

    def forced(me):
        for n in range(30):
            tree.update(lambda tx, n=n: tx.put(b"w-%d-%d" % (me, n), b"x"), force=True)

    threads = [threading.Thread(target=forced, args=(me,)) for me in range(3)]
    for t in threads:
        t.start()
    tree.store.seal("a")
    for t in threads:
        t.join()
    assert tree.view(0).sealed
    check(tree, 90)


def test_a_branch_of_a_sealed_tree_is_no_meeting_point(tmp_path):
    # the seal that a branch begins with is read by every commit; kept there, it would make all of them conflict
    store = make(tmp_path).store
    store.seal("a")
    branch = store.branch("a", "b")
    branch.update(lambda tx: tx.put(b"first", b"1"))
    attempts = []

    def fn(tx):
        attempts.append(1)
        if len(attempts) == 1:  # somebody else commits to other keys in the meantime
            store.tree("b").update(lambda other: other.put(b"theirs", b"2"))
        tx.put(b"ours", b"3")

    branch.update(fn)
    assert len(attempts) == 1
    assert branch.view().get_many([b"first", b"theirs", b"ours"]) == [b"1", b"2", b"3"]
    store.seal("b")
    assert store.tree("b").sealed
    assert store.tree("a").sealed
