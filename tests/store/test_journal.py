"""Small commits in the journal: seen by all, durable in the order of the commits, put into nodes without a trace."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dvid_dask.store import BadStore, Store, StoreError, journal, land, lengths

HERE = Path(__file__).parents[2]
PAGE = 4096


@pytest.fixture
def tree(local):
    made = local.create_tree("a")
    made.update(lambda tx: (tx.put_many((b"k%03d" % i, b"old %d" % i) for i in range(100)), tx.to_nodes()))
    return made


def path(tree) -> Path:
    return tree.store._where.folder / "refs" / tree.name / "journal"


def pool(tree) -> set[str]:
    return set(os.listdir(tree.store._where.folder / "data"))


def put(tree, **items: str) -> None:
    tree.update(lambda tx: tx.put_many((key.encode(), value.encode()) for key, value in items.items()))


def elsewhere(tree, code: str) -> str:
    """Run code in another process, with `tree` and `store`."""
    head = "import sys; from dvid_dask.store import Store\nstore = Store.open(sys.argv[1]); tree = store.tree('a')\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, tree.store.url], cwd=HERE, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def fresh(monkeypatch):
    """Opens stores anew, as another process would."""
    import weakref

    def again(tree):
        monkeypatch.setattr("dvid_dask.store.backend._backends", weakref.WeakValueDictionary())
        return Store.open(tree.store.url).tree(tree.name)

    return again


def test_a_small_commit_makes_no_file(tree):
    before, manifest = pool(tree), tree.view(0)._manifest
    put(tree, k001="new")
    size = path(tree).stat().st_size
    for n in range(10):
        put(tree, k002=str(n))
    tree.update(lambda tx: tx.delete(b"k003"))
    assert pool(tree) == before
    assert tree.view(0)._manifest == manifest
    assert path(tree).stat().st_size == size
    assert tree.view().get_many([b"k001", b"k002", b"k003", b"k004"]) == [b"new", b"9", None, b"old 4"]


def test_large_commits_and_those_of_arrays_take_it_along(tree):
    put(tree, k001="small")
    before = tree.view()
    tree.update(lambda tx: tx.put(b"large", b"x" * 100_000))
    assert tree.view()._count == 0
    assert (tree.view().get(b"k001"), before.get(b"large"), before.get(b"k001")) == (b"small", None, b"small")
    put(tree, k001="smaller", k002="s")

    def change(tx):
        assert tx.kvstore.read(b"k001").result().value == b"smaller"
        tx.kvstore.write(b"array", b"1").result()
        tx.put(b"k002", b"t")

    tree.update(change)
    assert tree.view()._count == 0
    assert tree.view().get_many([b"k001", b"k002", b"array"]) == [b"smaller", b"t", b"1"]


def test_others_commit_small_while_an_array_is_written(tree):
    def change(tx):
        tx.kvstore.write(b"array", b"1").result()
        if not tries:
            tries.append(1)
            thread = threading.Thread(target=put, args=(tree,), kwargs={"k001": "meanwhile"})
            thread.start()
            thread.join()

    tries: list[int] = []
    tree.update(change)
    assert tree.view().get_many([b"k001", b"array"]) == [b"meanwhile", b"1"]


def test_it_is_put_into_nodes_now_and_then(tree):
    generation = tree.view().manifest.generation
    for n in range(journal.RECORDS + 10):
        tree.update(lambda tx, n=n: tx.put_many([(b"k%03d" % (n % 90), b"new %d" % n), (b"n%d" % n, b"x" * 300)]))
        assert tree.view().get(b"n%d" % n) == b"x" * 300
    with tree._state.folding:  # a thread is at it
        assert tree.view().manifest.generation > generation
    assert tree.view()._count < 12
    assert len(list(tree.view().keys(b"n", b"o"))) == journal.RECORDS + 10


def test_views_stay_what_they_are(tree, fresh):
    """Whatever becomes of the tree, and wherever they go."""
    pinned = []
    model = dict(tree.view().scan())
    rng = random.Random(4)
    for n in range(60):
        key = b"k%03d" % rng.randrange(110)
        if rng.random() < 0.3:
            tree.update(lambda tx, key=key: tx.delete(key))
            model.pop(key, None)
        else:
            tree.update(lambda tx, key=key, n=n: tx.put(key, b"%d" % n * 100))
            model[key] = b"%d" % n * 100
        if rng.random() < 0.1:
            tree.fold()
        pinned.append((tree.view(), dict(model)))
    other = fresh(tree)
    assert dict(other.view().scan()) == model
    for view, content in pinned:
        for it in (view, pickle.loads(pickle.dumps(view))):
            assert it.token == view.token
            assert dict(it.scan()) == content
            assert list(it.keys()) == sorted(content)
            assert list(it.keys(b"k010", b"k020")) == sorted(k for k in content if b"k010" <= k < b"k020")
            assert it.measure().keys == len(content)
            assert it.get_many(sorted(model)) == [content.get(key) for key in sorted(model)]
            assert [(k, n) for k, n, _ in lengths(it)] == [(k, len(v)) for k, v in sorted(content.items())]
        assert sorted(view.kvstore.list().result()) == sorted(content)
        with pytest.raises(ValueError):
            view.kvstore.write(b"a", b"b").result()
    for (one, a), (two, b) in zip(pinned, random.Random(5).sample(pinned, len(pinned)), strict=True):
        found = [(c.key, c.kind) for c in tree.store.diff(one, two)]
        assert found == sorted(
            (key, "added" if key not in a else "removed" if key not in b else "changed")
            for key in a.keys() | b.keys()
            if a.get(key) != b.get(key)
        )


def test_putting_it_into_nodes_is_no_new_state(tree, fresh):
    put(tree, k001="1")
    put(tree, k001="2")
    before = tree.view()
    memo = before.decoded("t", [b"k001", b"k050"], lambda key, value: ((value,), 1))
    folded = tree.fold()
    assert folded._count == 0
    assert folded._manifest != before._manifest
    assert folded.token == before.token == fresh(tree).view(0).token
    assert folded.changed_since(before) == []
    assert folded.decoded("t", [b"k001", b"k050"], None) == memo
    put(tree, k001="3")
    assert tree.view().token not in (before.token, folded.token)
    assert tree.fold().token == fresh(tree).view(0).token
    assert tree.store.branch(before, "b").view().get(b"k001") == b"2"


def test_copies_of_a_tree_part_with_their_first_record(tree, fresh):
    copies = [tree.store.branch(tree.view(), name) for name in "bc"]
    assert copies[0].view().token == copies[1].view().token
    for number, copy in enumerate(copies):
        put(copy, k001=f"{number}")
    tokens = {copy.view().token for copy in (tree, *copies)}
    assert len(tokens) == 3
    assert {fresh(copy).view(0).token for copy in (tree, *copies)} == tokens


def test_others_see_it_and_know_what_changed(tree):
    view = tree.view(0)
    kept = view.decoded("t", [b"k005"], lambda key, value: ((value,), 1))
    assert elsewhere(tree, "for n in range(5): tree.update(lambda tx: tx.put(b'k001', b'%d' % n))\n") == ""
    now = tree.view(0)
    assert now.get(b"k001") == b"4"
    assert now._count == 5
    again = now
    elsewhere(tree, "tree.update(lambda tx: (tx.put(b'k002', b'other'), tx.delete_range(b'k010', b'k020')))\n")
    now = tree.view(0)
    assert set(now.changed_since(again)) == {b"k002", *(b"k%03d" % i for i in range(10, 20))}
    assert now.decoded("t", [b"k005"], None) == kept
    assert len(list(now.keys())) == 90
    assert elsewhere(tree, "tree.fold(); print(tree.view().token)\n").strip() == now.token
    assert tree.view(0)._count == 0
    assert tree.view(0).token == now.token


def test_conflicts_are_noticed_by_key_and_by_range(tree):
    serial = iter(range(1000))
    for key, nodes, runs in [
        (b"k001", False, 2),
        (b"k0501", False, 2),  # into the range
        (b"k002", False, 1),
        (b"k001", True, 2),
        (b"k0501", True, 2),
        (b"k002", True, 1),
    ]:
        for small_before in (False, True):
            if small_before:
                put(tree, k001="before", k003="before")
            tries = []

            def other(tx, key=key, nodes=nodes):
                tx.put(key, b"%d" % next(serial))
                if nodes:
                    tx.to_nodes()

            def change(tx, tries=tries, other=other):
                tx.get(b"k001")
                list(tx.keys(b"k050", b"k060"))
                tries.append(1)
                if len(tries) == 1:
                    thread = threading.Thread(target=tree.update, args=(other,))
                    thread.start()
                    thread.join()
                tx.put(b"mine", b"%d" % len(tries))

            tree.update(change)
            assert len(tries) == runs


def test_a_deleted_range_takes_what_others_put_there(tree):
    def change(tx):
        tx.delete_range(b"k000", b"k050")
        tx.put(b"k007", b"kept")
        thread = threading.Thread(target=put, args=(tree,), kwargs={"k0001": "other", "k0501": "outside"})
        thread.start()
        thread.join()

    tree.update(change)
    assert list(tree.view().keys(b"k", b"k051")) == [b"k007", b"k050", b"k0501"]
    assert tree.view()._count == 2


def test_lists_go_on(tree):
    for n in range(5):
        tree.update(lambda tx, n=n: (tx.append(b"list", b"%d" % n), tx.append(b"list", b"%d!" % n)))
        if n == 2:
            tree.fold()
    assert [v for _, v in tree.view().scan(b"list/", b"list0")] == [
        b"%d%s" % (n, s) for n in range(5) for s in (b"", b"!")
    ]
    assert tree.view().get(b"list") == b"10"
    tree.update(lambda tx: (tx.append(b"list", b"x"), tx.to_nodes()))
    assert tree.view().get(b"list") == b"11"


def test_branch_seal_drop_and_a_tree_of_the_same_name(tree, fresh):
    put(tree, k001="1")
    branch = tree.store.branch("a", "b")
    put(tree, k001="2")
    put(branch, k001="3")
    assert (tree.view().get(b"k001"), branch.view().get(b"k001")) == (b"2", b"3")
    tree.store.seal("a")
    assert tree.sealed
    assert fresh(tree).view(0).get(b"k001") == b"2"
    tree.update(lambda tx: tx.put(b"k001", b"forced"), force=True)
    assert fresh(tree).view(0).get(b"k001") == b"forced"
    empty = tree.store.create_tree("c")
    put(empty, x="1")
    copy = path(empty).read_bytes()
    other = fresh(empty)
    assert other.view(0).get(b"x") == b"1"
    empty.store.drop_tree("c")
    again = empty.store.create_tree("c")  # with the same manifest
    assert list(again.view(0).keys()) == list(other.view(0).keys()) == []
    put(again, y="1")
    assert list(again.view(0).keys()) == list(other.view(0).keys()) == [b"y"]
    # a drop that was killed before it had removed the journal
    again.store.drop_tree("c")
    path(again).parent.mkdir()
    path(again).write_bytes(copy)
    assert list(again.store.create_tree("c").view(0).keys()) == []


def test_landing_beside_small_commits(tree):
    base = tree.view(0)
    draft = tree.store.branch(base, "draft")
    put(draft, k001="draft")
    tries = []

    def settle(tx, newest, changes):
        for change in changes:
            tx.put(change.key, newest.get(change.key))
        tries.append(1)
        if len(tries) < 3:
            put(tree, k002=f"other {len(tries)}")
        return True

    assert land(tree, draft, base, settle)
    assert len(tries) == 3
    assert tree.view(0).get_many([b"k001", b"k002"]) == [b"draft", b"other 2"]


@pytest.mark.parametrize("seed", range(3))
def test_power_cuts(tree, tmp_path, fresh, seed):
    """What a disk has kept of the last write: any of its pages, or none; all before is there."""
    rng = random.Random(seed)
    states = [dict(tree.view().scan())]
    ends = []
    for n in range(12):
        size = rng.choice([10, 3_000, 20_000])
        tree.update(lambda tx, n=n, size=size: tx.put(b"k%03d" % n, rng.randbytes(size)))
        states.append(dict(tree.view().scan()))
        ends.append(tree.view()._overlay.end)
    whole = path(tree).read_bytes()
    for n in range(len(ends)):
        begin, end = PAGE if not n else ends[n - 1], ends[n]
        data = bytearray(whole[:begin].ljust(len(whole), b"\0"))
        pages = [at for at in range(begin, end, PAGE) if rng.random() < 0.5]
        for at in pages:
            data[at : at + PAGE] = whole[at : at + PAGE]
        complete = bytes(data[begin:end]).rstrip(b"\0") == whole[begin:end].rstrip(b"\0")
        folder = tmp_path / f"cut-{n}"
        shutil.copytree(tree.store._where.folder, folder)
        (folder / "refs/a/journal").write_bytes(data[: rng.choice([len(data), end])])
        cut = Store.open(folder).tree("a")
        assert dict(cut.view(0).scan()) == states[n + complete]
        assert cut.store.fsck(deep=True).clean
        put(cut, after="1")
        assert dict(cut.view(0).scan()) == {**states[n + complete], b"after": b"1"}
        assert dict(fresh(cut).view(0).scan()) == {**states[n + complete], b"after": b"1"}


def test_damage(tree, fresh):
    for n in range(5):
        put(tree, k001=str(n))
    data = bytearray(path(tree).read_bytes())
    data[3 * PAGE + 40] ^= 1  # of the third record
    path(tree).write_bytes(data)
    other = fresh(tree)
    report = other.store.fsck()
    assert len(report.errors) == 1
    assert "journal" in report.errors[0]
    data[:10] = b"something "
    path(tree).write_bytes(data)
    with pytest.raises(BadStore, match="journal"):
        fresh(tree).view(0)
    with pytest.raises(BadStore, match="journal"):
        put(fresh(tree), k001="x")


def test_a_failed_write_is_not_there(tree, monkeypatch, fresh):
    put(tree, k001="1")

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal, "_sync", fail)
    with pytest.raises(StoreError, match="Input/output"):
        put(tree, k001="2")
    assert tree.view(0).get(b"k001") == b"1"
    assert fresh(tree).view(0).get(b"k001") == b"1"
    monkeypatch.undo()
    put(tree, k001="3")
    assert tree.view(0).get(b"k001") == b"3"


def test_a_record_that_others_saw_before_it_failed(tree, monkeypatch, fresh):
    """What was seen and then taken back is neither built on nor put into nodes."""
    put(tree, k001="1")
    other = fresh(tree)
    sync = journal._sync

    def seen_and_lost(file):
        assert other.view(0).get(b"k001") == b"lost"
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal, "_sync", seen_and_lost)
    with pytest.raises(StoreError, match="Input/output"):
        put(tree, k001="lost", k002="lost")
    monkeypatch.setattr(journal, "_sync", sync)
    assert other.view(0).get_many([b"k001", b"k002"]) == [b"1", b"old 2"]
    put(other, k003="other")
    assert fresh(tree).view(0).get_many([b"k001", b"k003"]) == [b"1", b"other"]

    seen = fresh(tree)
    monkeypatch.setattr(journal, "_sync", lambda file: (seen.view(0), (_ for _ in ()).throw(OSError(5, "lost"))))
    with pytest.raises(StoreError):
        put(tree, k001="lost")
    monkeypatch.setattr(journal, "_sync", sync)
    put(tree, k001="2")  # of the same number, at the same place
    seen.update(lambda tx: tx.put(b"k004", b"x" * 100_000))
    assert fresh(tree).view(0).get_many([b"k001", b"k003"]) == [b"2", b"other"]
    assert not tree.store.fsck().errors


def test_a_key_has_a_value_before_it_is_listed():
    """Who lists keys while a record comes in finds a value for each."""
    overlay = journal.Overlay(b"")

    class Watched(list):
        def append(self, key):
            assert key in overlay._values
            super().append(key)

    overlay._unsorted = Watched()
    overlay.add({b"a": b"1", b"b": None}, 8192)
    assert overlay.keys(b"", b"", 1) == [b"a", b"b"]


def test_a_reader_without_permission_to_write(tree):
    put(tree, k001="1")
    reader = Store.open(tree.store.url, read_only=True).tree("a")
    before = {p: p.stat().st_mtime_ns for p in tree.store._where.folder.rglob("*")}
    view = reader.view(0)
    assert view.get(b"k001") == view.kvstore.read(b"k001").result().value == b"1"
    assert view.kvstore_of(b"k002").read(b"k002").result().value == b"old 2"
    assert dict(pickle.loads(pickle.dumps(view)).scan())[b"k001"] == b"1"
    assert {p: p.stat().st_mtime_ns for p in tree.store._where.folder.rglob("*")} == before


def test_threads_and_processes_lose_nothing(tree):
    code = (
        "for n in range(60): tree.update(lambda tx: tx.put(b'count', b'%d' % (int(tx.get(b'count') or b'0') + 1)))\n"
        "tree.fold()\n"
    )
    head = "import sys; from dvid_dask.store import Store\nstore = Store.open(sys.argv[1]); tree = store.tree('a')\n"
    workers = [subprocess.Popen([sys.executable, "-c", head + code, tree.store.url], cwd=HERE) for _ in range(2)]

    def count():
        for _ in range(60):
            tree.update(lambda tx: tx.put(b"count", b"%d" % (int(tx.get(b"count") or b"0") + 1)))

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = [0]
    while any(w.poll() is None for w in workers) or any(t.is_alive() for t in threads):
        now = int(tree.view(0).get(b"count") or b"0")
        assert now >= seen[-1]
        seen.append(now)
    for thread in threads:
        thread.join()
    assert [w.wait() for w in workers] == [0, 0]
    assert tree.view(0).get(b"count") == b"240"
