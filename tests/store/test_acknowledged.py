"""What was acknowledged stays, and views stay what they are, whatever others do at the very same moment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import tensorstore

from dvid_dask.store import (
    Store,
    StoreError,
    TreeNotFound,
    commit,
    folding,
    journal,
    land,
    landing,
    points,
    store,
    tree,
)
from dvid_dask.store import backend as backends
from dvid_dask.store.transaction import Transaction

HERE = Path(__file__).parents[2]


@pytest.fixture
def fresh(monkeypatch):
    """Opens stores anew, as another process would."""

    def again(place: Store) -> Store:
        monkeypatch.setattr("dvid_dask.store.backend._backends", weakref.WeakValueDictionary())
        return Store.open(place.url)

    return again


def put(target, **items: str) -> None:
    target.update(lambda tx: tx.put_many((key.encode(), value.encode()) for key, value in items.items()))


def aside(action) -> None:
    """Do something in another thread, to its end."""
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


class Synced(list):
    """Folders that were made durable, in order."""

    def __init__(self, monkeypatch) -> None:
        real = os.fsync

        def fsync(file):
            self.append(os.readlink(f"/proc/self/fd/{file}"))
            real(file)

        monkeypatch.setattr(os, "fsync", fsync)


# ---- views and commits -----------------------------------------------------------------------------------------------


def test_a_range_that_only_the_journal_holds_is_deleted(local, fresh):
    """tensorstore writes no new manifest for it, on which the journal would go on to count."""
    target = local.create_tree("a")
    put(target, a1="1", a2="2")
    target.update(lambda tx: tx.delete_range(b"a", b"b"), force=True)
    assert list(target.view(0).keys()) == list(fresh(local).tree("a").view(0).keys()) == []
    for n in range(6):
        target.update(lambda tx, n=n: tx.put_many((b"b%d-%d" % (n, i), b"") for i in range(100)))
    target.update(lambda tx: tx.delete_range(b"b", b"c"))  # too many for a record
    assert list(target.view(0).keys()) == list(fresh(local).tree("a").view(0).keys()) == []
    assert target.view()._count == 0


def test_a_value_is_put_back_to_what_the_nodes_hold(local, fresh):
    target = local.create_tree("a")
    target.update(lambda tx: (tx.put(b"k", b"old"), tx.to_nodes()))
    put(target, k="new")
    target.update(lambda tx: (tx.put(b"k", b"old"), tx.to_nodes()))
    assert target.view(0).get(b"k") == fresh(local).tree("a").view(0).get(b"k") == b"old"
    assert list(target.view(0).keys()) == [b"k"]
    assert local.fsck(deep=True).clean


def test_a_journal_that_changes_nothing_ends(local, monkeypatch):
    target = local.create_tree("a")
    target.update(lambda tx: (tx.put(b"k", b"old"), tx.to_nodes()))

    def nothing() -> None:
        target.update(lambda tx: tx.delete_range(b"x", b"y"))

    nothing()
    assert target.view(0)._count == 1
    token = target.view(0).token
    assert target.fold()._count == 0
    assert target.view(0).token == token
    nothing()
    aside(lambda: target.update(lambda tx: tx.kvstore.write(b"array", b"1").result()))
    monkeypatch.setattr(journal, "RECORDS", 5)
    for _ in range(5):
        nothing()
    with target._state.folding:
        pass
    view = target.view(0)
    assert (view._count, dict(view.scan()), view.measure().keys) == (0, {b"k": b"old", b"array": b"1"}, 2)


def test_a_value_that_comes_while_one_looks(local):
    """A view finds the value of its own state, also where a newer one comes at this very moment."""
    overlay = journal.Overlay(b"")
    overlay.add({b"k": b"old"}, 8192)

    class Growing(list):
        def __getitem__(self, at):
            found = super().__getitem__(at)
            if len(self) == 1:
                self.append((1, b"new"))
            return found

    overlay._values[b"k"] = Growing(overlay._values[b"k"])
    assert overlay.get(b"k", 1) == (0, b"old")


def test_a_branch_of_a_view_while_others_commit(local, monkeypatch):
    target = local.create_tree("a")
    put(target, k="1")
    view = target.view(0)
    real = tree.Tree.fold

    def fold(self):
        monkeypatch.setattr(tree.Tree, "fold", real)
        put(target, k="2", other="2")
        return real(self)

    monkeypatch.setattr(tree.Tree, "fold", fold)
    assert dict(local.branch(view, "b").view(0).scan()) == {b"k": b"1"}
    assert dict(target.view(0).scan()) == {b"k": b"2", b"other": b"2"}


def test_a_commit_right_after_a_landing_is_seen(local, monkeypatch):
    target = local.create_tree("a")
    put(target, k="1")
    base = target.view(0)
    draft = local.branch(base, "draft")
    put(draft, k="draft")
    real, committed = landing.exchange, []

    def exchange(*arguments, **more):
        done = real(*arguments, **more)
        # as soon as it may
        thread = threading.Thread(target=lambda: (put(target, other="1"), committed.append(target.view(1e9))))
        committed.append(thread)
        thread.start()
        return done

    load = tree.TreeState._load

    def slow_load(self, manifest):
        found = load(self, manifest)
        if committed and threading.current_thread() is not committed[0]:
            committed[0].join(0.3)  # it can't, or it is done
        return found

    monkeypatch.setattr(landing, "exchange", exchange)
    monkeypatch.setattr(tree.TreeState, "_load", slow_load)
    land(target, draft, base, lambda tx, newest, changes: True)
    committed[0].join()
    assert target.view(1e9).get_many([b"k", b"other"]) == [b"draft", b"1"]


def test_what_is_not_durable_yet_is_not_seen(local, monkeypatch):
    """By other threads: the commit may yet fail, and others must not build on it, or say that it is there."""
    target = local.create_tree("a")
    put(target, k="1")
    real, seen = journal._sync, []

    def sync(file):
        aside(lambda: seen.append(target.view(0).get(b"k")))
        if len(seen) == 1:
            raise OSError(5, "Input/output error")
        real(file)

    monkeypatch.setattr(journal, "_sync", sync)
    with pytest.raises(StoreError):
        put(target, k="lost")
    assert target.view(0).get(b"k") == b"1"
    put(target, k="2")
    assert seen == [b"1", b"1"]
    assert target.view(1e9).get(b"k") == b"2"


def test_who_finds_it_done_by_another_process_waits_until_it_is_durable(local, monkeypatch, fresh):
    target = local.create_tree("a")
    other = fresh(local).tree("a")
    real, done = journal._sync, []

    def there():
        assert other.view(0).get(b"k") == b"1"
        other.update(lambda tx: tx.get(b"k") or tx.put(b"k", b"1"))
        done.append("acknowledged")

    thread = threading.Thread(target=there)

    def sync(file):
        monkeypatch.setattr(journal, "_sync", real)
        thread.start()
        thread.join(0.2)
        done.append("durable")
        real(file)

    put(target, other="1")
    assert other.view(0).get(b"other") == b"1"
    other.settle()
    monkeypatch.setattr(journal, "_sync", sync)
    put(target, k="1")
    thread.join()
    assert done == ["durable", "acknowledged"]
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_sync", lambda file: done.append("again"))
        other.settle()
        target.settle()
    assert len(done) == 2


def test_who_finds_what_a_killed_process_has_done_makes_it_durable(local, monkeypatch, fresh):
    target = local.create_tree("a")
    other = fresh(local).tree("a")
    put(target, other="1")
    assert other.view(0).get(b"other") == b"1"
    other.settle()
    real, synced = journal._sync, []

    def killed(file):
        raise SystemExit

    def sync(file):
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_sync", killed)
        with pytest.raises(SystemExit):
            put(target, k="1")
    monkeypatch.setattr(journal, "_sync", sync)
    assert other.view(0).get(b"k") == b"1"
    folders = Synced(monkeypatch)
    assert other.update(lambda tx: tx.get(b"k")) == b"1"
    assert [path.rpartition("/")[2] for path in synced] == ["journal"]
    assert [path.rpartition("/")[2] for path in folders] == ["a"]
    other.update(lambda tx: tx.get(b"k"))
    assert len(synced) == len(folders) == 1


def test_a_state_that_others_follow_at_once(monkeypatch):
    """In a bucket nobody holds a lock: who has seen a later state doesn't go back when a commit of his is noted."""
    place = Store.create("memory://")
    target = place.create_tree("a")
    elsewhere = tree.Tree(place, tree.TreeState(place._where, "a"))
    put(target, k="0")
    adopt, seen = tree.TreeState.adopt, []

    def late(self, *arguments):
        monkeypatch.setattr(tree.TreeState, "adopt", adopt)
        put(elsewhere, theirs="1")
        aside(lambda: seen.append(target.view(0).get(b"theirs")))
        adopt(self, *arguments)

    monkeypatch.setattr(tree.TreeState, "adopt", late)
    put(target, k="1")
    assert seen == [b"1"]
    assert target.view(1e9).get_many([b"k", b"theirs"]) == [b"1", b"1"]
    # or one that knew nothing after an interrupt, and looked right before
    real, state = tree.exchange, target._state

    def exchange(*arguments, **more):
        with state._lock:
            state._forget()
        aside(lambda: target.view(0))
        return real(*arguments, **more)

    monkeypatch.setattr(tree, "exchange", exchange)
    put(target, k="2")
    assert target.view(1e9).get(b"k") == b"2"


@pytest.mark.parametrize("where", ["add", "advance"])
def test_an_interrupt_while_a_record_is_taken_in(local, monkeypatch, fresh, where):
    """Ctrl-C in a notebook: what the process knows is the disk's again."""
    target = local.create_tree("a")
    put(target, k="1", other="1")
    decoded = target.view(0).decoded("test", [b"k"], lambda _, value: (value, 1))
    assert decoded == [b"1"]
    elsewhere = fresh(local).tree("a")
    put(elsewhere, k="2")
    owner, real = (journal.Overlay, journal.Overlay.add) if where == "add" else (tree.Memo, tree.Memo.advance)

    def interrupted(self, *arguments):
        monkeypatch.setattr(owner, where, real)
        if where == "add":
            self.end += 4096  # half of it is done
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        target.view(0)
    target.update(lambda tx: tx.put(b"sum", tx.get(b"k") + tx.get(b"other")))
    view = target.view(0)
    assert view.get_many([b"k", b"sum"]) == [b"2", b"21"]
    assert view.decoded("test", [b"k"], lambda _, value: (value, 1)) == [b"2"]
    assert dict(fresh(local).tree("a").view(0).scan()) == dict(view.scan())


def test_an_interrupted_commit_does_not_come_back(local, monkeypatch):
    """tensorstore goes on with it. Nothing of it gets into the commits that follow."""
    target = local.create_tree("a")
    target.update(lambda tx: (tx.put(b"k", b"0"), tx.to_nodes()))
    real, late = commit.Writer.land, []

    class Interrupted:
        def __init__(self, transaction):
            self.transaction = transaction

        def commit_async(self):
            late.append(self.transaction)
            raise KeyboardInterrupt

    def land(self, transaction, manifest):
        return real(self, Interrupted(transaction), manifest)

    with monkeypatch.context() as patch:
        patch.setattr(commit.Writer, "land", land)
        with pytest.raises(KeyboardInterrupt):
            target.update(lambda tx: (tx.put(b"k", b"stale"), tx.to_nodes()))
    target.update(lambda tx: (tx.put(b"k", b"1"), tx.to_nodes()))
    late[0].commit_async().result()
    target.update(lambda tx: (tx.put(b"other", b"1"), tx.to_nodes()))
    assert target.view(0).get(b"k") == b"1"
    # another thread had prepared its commit on the same writer
    writer, prepare = target._state.writer(), Transaction._prepare

    class Late:
        def __init__(self, transaction):
            self.transaction = transaction

        def commit_async(self):
            late = tensorstore.Transaction(atomic=True)
            writer.kvstore.with_transaction(late).write(b"other", b"stale")
            late.commit_async().result()
            return self.transaction.commit_async()

    def meanwhile(self, shared):
        monkeypatch.setattr(Transaction, "_prepare", prepare)
        found = prepare(self, shared)
        writer.broken = True
        return found

    monkeypatch.setattr(Transaction, "_prepare", meanwhile)
    monkeypatch.setattr(commit.Writer, "land", lambda self, transaction, data: real(self, Late(transaction), data))
    target.update(lambda tx: (tx.put(b"k", b"2"), tx.to_nodes()))
    assert target.view(0).get_many([b"k", b"other"]) == [b"2", b"1"]
    assert target._state.writer() is not writer


# ---- names that must be durable --------------------------------------------------------------------------------------


def test_a_commit_on_a_manifest_whose_writer_was_killed(local, monkeypatch, fresh):
    """Killed between the renaming and the fsync of the folder: who commits next makes up for it."""
    target = local.create_tree("a")
    put(target, k="1")

    def killed(self, path):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(backends.Backend, "sync_folder", killed)
        with pytest.raises(SystemExit):
            target.fold()
    other = fresh(local).tree("a")
    synced = Synced(monkeypatch)
    put(other, k="2")
    assert [path for path in synced if path.endswith("refs/a")]
    synced.clear()
    put(other, k="3")
    assert not synced


def test_names_are_durable_before_anybody_can_commit(tmp_path, monkeypatch):
    synced = Synced(monkeypatch)
    place = Store.create(tmp_path / "new" / "store")
    folder = str(tmp_path / "new" / "store")
    assert {str(tmp_path), str(tmp_path / "new"), folder} <= set(synced)
    assert {"refs", "data", "format.json"} <= set(os.listdir(folder))
    assert synced[-1] == folder
    real = store.exchange

    def exchange(*arguments):
        assert synced[-1] == f"{folder}/refs"
        return real(*arguments)

    monkeypatch.setattr(store, "exchange", exchange)
    place.create_tree("a")


# ---- trees that come and go ------------------------------------------------------------------------------------------


def test_a_tree_made_anew_while_the_old_one_is_dropped(local, monkeypatch, fresh):
    """Nothing of the new one goes with the old one."""
    target = local.create_tree("a")
    put(target, k="old")
    folder = local._where.folder / "refs" / "a"
    other = fresh(local)
    made = []

    def make():
        try:
            made.append(other.create_tree("a"))
            put(made[0], k="new")
        except BaseException as error:
            made.append(error)

    names = ["lock", "journal", "manifest.ocdbt.new"]  # the worst order
    thread = threading.Thread(target=make)
    real = Path.unlink

    def unlink(self, missing_ok=False):
        real(self, missing_ok=missing_ok)
        if self == folder / "lock":
            thread.start()
            thread.join(0.5)

    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / n for n in names if (self / n).exists()]))
    monkeypatch.setattr(Path, "unlink", unlink)
    local.drop_tree("a")
    thread.join()
    monkeypatch.undo()
    assert len(made) == 1, made
    assert dict(fresh(local).tree("a").view(0).scan()) == {b"k": b"new"}
    assert local.fsck().clean


def test_a_tree_made_anew_by_another_thread_while_the_old_one_is_dropped(local, monkeypatch):
    """All handles of the process are to the new one alike."""
    local.create_tree("a")
    real, made = store.locked, []

    @contextlib.contextmanager
    def locked(*arguments, **more):
        with real(*arguments, **more):
            yield
        monkeypatch.setattr(store, "locked", real)
        aside(lambda: made.append(local.create_tree("a")))

    monkeypatch.setattr(store, "locked", locked)
    local.drop_tree("a")
    assert local.tree("a").view(0).get(b"k") is None
    put(made[0], k="1")
    assert local.tree("a").view(1e9).get(b"k") == b"1"


def test_a_drop_that_was_killed(local, monkeypatch, fresh):
    """Nobody commits to what is left of the tree."""
    target = local.create_tree("a")
    put(target, k="1")
    other = fresh(local).tree("a")
    assert other.view(0).get(b"k") == b"1"

    def killed(self):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", killed)
        with pytest.raises(SystemExit):
            local.drop_tree("a")
    with pytest.raises(TreeNotFound):
        put(other, k="2")
    with pytest.raises(TreeNotFound):
        other.view(0)
    assert dict(local.create_tree("a").view(0).scan()) == {}


# ---- locks -----------------------------------------------------------------------------------------------------------


def test_a_fork_does_not_keep_a_lock(local):
    """A child inherits the lock's file; it must not hold it for as long as it lives."""
    local.create_tree("a")
    code = (
        "import os, sys, time\n"
        "from dvid_dask.store import Store, commit, folding\n"
        "store = Store.open(sys.argv[1]); tree = store.tree('a')\n"
        "with commit.locked(store._where, 'a'), folding._may_fold(store._where):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        time.sleep(60); os._exit(0)\n"
        "tree.update(lambda tx: tx.put(b'k', b'1')); store.gc(0)\n"
        "os.kill(child, 9); os.waitpid(child, 0)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, local.url], cwd=HERE, check=True, timeout=30)


def test_an_interrupt_while_one_waits_for_a_lock(local, monkeypatch):
    """It must not leave the lock with the process."""
    target = local.create_tree("a")
    real = commit.fcntl.flock

    def flock(file, how):
        real(file, how)
        if how == commit.fcntl.LOCK_EX:
            monkeypatch.setattr(commit.fcntl, "flock", real)
            raise KeyboardInterrupt

    monkeypatch.setattr(commit.fcntl, "flock", flock)
    with pytest.raises(KeyboardInterrupt):
        put(target, k="1")
    aside(lambda: put(target, k="2"))
    assert target.view(0).get(b"k") == b"2"


# ---- maintenance -----------------------------------------------------------------------------------------------------


def test_fsck_beside_commits(local, monkeypatch):
    """Records that come while it looks, and space of the journal that is used again, are no damage."""
    target = local.create_tree("a")
    for n in range(5):
        put(target, k=str(n))
    real = journal.Journal.load

    def load(self, manifest):
        found = real(self, manifest)
        if actions:
            actions.pop(0)()
        return found

    monkeypatch.setattr(journal.Journal, "load", load)

    def commits():
        for n in range(3):
            put(target, k=f"later {n}")

    actions = [commits]
    assert local.fsck().errors == []
    assert not actions
    check = journal.Journal.check

    def folded_before(self, manifest):
        monkeypatch.setattr(journal.Journal, "check", check)
        target.fold()
        put(target, k="on top")
        check(self, manifest)

    monkeypatch.setattr(journal.Journal, "check", folded_before)
    assert local.fsck().errors == []


def test_a_process_that_was_stopped_while_it_put_a_journal_into_nodes(local, monkeypatch):
    """What it had written may be gone, as garbage: it names nothing of it."""
    monkeypatch.setattr(journal, "RECORDS", 5)
    target = local.create_tree("a")
    real = points.Points.warm

    def stopped(self, root, keys):
        real(self, root, keys)
        monkeypatch.setattr(points.Points, "warm", real)
        now = time.time()
        monkeypatch.setattr(folding.time, "time", lambda: now + 2 * folding.STALE)
        for path in (local._where.folder / "data").iterdir():  # as gc with a grace would have done
            path.unlink()

    monkeypatch.setattr(points.Points, "warm", stopped)
    for n in range(5):
        put(target, **{f"k{n}": str(n)})
    with target._state.folding:
        pass
    assert local.fsck(deep=True).clean
    assert len(list(target.view(0).keys())) == 5
