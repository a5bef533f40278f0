"""What every store does, whatever it lies on."""

from __future__ import annotations

import gc
import pickle
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
import tensorstore as ts

from dvid_dask.store import (
    ReadOnly,
    Sealed,
    Store,
    StoreExists,
    StoreNotFound,
    TreeExists,
    TreeNotFound,
    land,
    prefix_end,
)


def put(tree, **items: str) -> None:
    tree.update(lambda tx: tx.put_many((key.encode(), value.encode()) for key, value in items.items()))


def put_nodes(tree, **items: str) -> None:
    """Past the journal."""
    put(tree, **items)
    tree.fold()


def content(view) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in view.scan()}


def test_create_open_reopen(url):
    with pytest.raises(StoreNotFound, match="no store"):
        Store.open(url)
    store = Store.create(url, node_bytes=20_000, inline_bytes=10)
    with pytest.raises(StoreExists):
        Store.create(url)
    put(store.create_tree("a"), x="1")
    again = Store.open(store.url)
    assert again.settings == store.settings
    assert again.settings.node_bytes == 20_000
    assert content(again.tree("a").view()) == {"x": "1"}
    assert pickle.loads(pickle.dumps(again)).trees() == ["a"]


def test_a_store_whose_folder_was_removed_is_not_there(tmp_path):
    url = str(tmp_path / "store")
    held = Store.create(url)
    held.create_tree("t").update(lambda tx: tx.put(b"key", b"value"))
    assert held.tree("t").view().get(b"key") == b"value"
    held.rest()
    shutil.rmtree(url)
    with pytest.raises(StoreNotFound, match="no store"):
        Store.open(url)
    new = Store.create(url)
    new.create_tree("t").update(lambda tx: tx.put(b"key", b"other"))
    assert new.tree("t").view().get(b"key") == b"other"


def test_a_view_whose_tree_was_dropped_can_be_branched(url):
    store = Store.create(url)
    tree = store.create_tree("t")
    tree.update(lambda tx: tx.put(b"key", b"value"))
    view = tree.view()
    store.drop_tree("t")
    assert content(store.branch(view, "again").view()) == {"key": "value"}


def test_what_is_known_of_a_store_goes_with_its_last_handle(tmp_path):
    gc.disable()
    try:
        store = Store.create(str(tmp_path / "store"))
        store.create_tree("t").update(lambda tx: tx.put(b"key", b"value"))
        assert store.tree("t").view().get(b"key") == b"value"
        store.drop_tree("t")
        backend = weakref.ref(store._where)
        del store
        assert backend() is None
    finally:
        gc.enable()


def test_trees(store):
    assert store.trees() == []
    assert not store.has_tree("a")
    with pytest.raises(TreeNotFound, match="no tree 'a'"):
        store.tree("a")
    store.create_tree("b")
    store.create_tree("a")
    with pytest.raises(TreeExists):
        store.create_tree("a")
    with pytest.raises(TreeExists):
        store.branch("b", "a")
    with pytest.raises(TreeNotFound):
        store.branch("missing", "c")
    assert store.trees() == ["a", "b"]
    assert content(store.tree("a").view()) == {}
    store.drop_tree("a")
    assert store.trees() == ["b"]
    with pytest.raises(TreeNotFound):
        store.drop_tree("a")
    put(store.create_tree("a"), x="1")
    assert content(store.tree("a").view()) == {"x": "1"}


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 201, "a\n", 7])
def test_names_of_trees_are_checked(local, name):
    with pytest.raises(ValueError, match="tree's name"):
        local.create_tree(name)
    assert local.trees() == []


def test_reads(store):
    tree = store.create_tree("a")
    put(tree, b="2", a="1", ab="12", c="3")
    view = tree.view()
    assert view.get(b"ab") == b"12"
    assert view.get(b"zz") is None
    assert view.get_many([b"c", b"zz", b"a"]) == [b"3", None, b"1"]
    assert view.get_many([]) == []
    assert list(view.keys()) == [b"a", b"ab", b"b", b"c"]
    assert list(view.keys(b"ab", b"c")) == [b"ab", b"b"]
    assert list(view.keys(b"a", prefix_end(b"a"))) == [b"a", b"ab"]
    assert list(view.keys(b"c", b"a")) == []
    assert list(view.scan(b"b")) == [(b"b", b"2"), (b"c", b"3")]


def test_large_and_empty_values(store):
    tree = store.create_tree("a")
    values = {b"empty": b"", b"inline": b"i" * 200, b"outside": b"o" * 5_000, b"large": bytes(3_000_000)}
    tree.update(lambda tx: tx.put_many(values.items()))
    assert dict(tree.view().scan()) == values
    assert tree.view().get(b"empty") == b""


def test_any_bytes_are_keys(store):
    tree = store.create_tree("a")
    keys = [b"\x01", b"\x01\x00", b"/", b"a\x00b", b"\xff", b"\xff\xff\x00", bytes(range(1, 256))]
    tree.update(lambda tx: tx.put_many((key, key) for key in keys))
    assert list(tree.view().keys()) == sorted(keys)
    assert list(tree.view().keys(b"\xff", prefix_end(b"\xff"))) == [b"\xff", b"\xff\xff\x00"]
    assert tree.view().get_many(keys) == keys


@pytest.mark.parametrize(
    ("key", "error"), [(b"", ValueError), (b"\x00a", ValueError), ("a", TypeError), (None, TypeError)]
)
def test_keys_that_are_refused(local, key, error):
    tree = local.create_tree("a")
    for write in (lambda tx: tx.put(key, b"1"), lambda tx: tx.delete(key)):
        with pytest.raises(error, match="key"):
            tree.update(write)
    with pytest.raises(TypeError, match="value"):
        tree.update(lambda tx: tx.put(b"a", 7))
    assert content(tree.view()) == {}


def test_views_are_pinned(store):
    tree = store.create_tree("a")
    put(tree, x="old", y="same")
    view = tree.view()
    assert tree.view().token == view.token
    sent = pickle.dumps(view)
    assert len(sent) < 2_000
    put(tree, x="new", z="more")
    assert content(view) == {"x": "old", "y": "same"}
    assert content(pickle.loads(sent)) == {"x": "old", "y": "same"}
    assert pickle.loads(sent).token == view.token != tree.view().token
    assert content(tree.view()) == {"x": "new", "y": "same", "z": "more"}
    assert view.get(b"x") == b"old"


def test_a_view_stays_as_it_is_while_it_is_scanned(store):
    tree = store.create_tree("a")
    tree.update(lambda tx: tx.put_many((b"k%03d" % i, b"old") for i in range(300)))
    seen = []
    for i, item in enumerate(tree.view().scan()):
        if i % 100 == 0:
            tree.update(lambda tx: tx.put_many((b"k%03d" % i, b"new") for i in range(0, 400, 7)))
        seen.append(item)
    assert seen == [(b"k%03d" % i, b"old") for i in range(300)]


def test_transactions_see_their_own_writes(store):
    tree = store.create_tree("a")
    put(tree, a="1", b="2", c="3", d="4", e="5")

    def work(tx):
        tx.put(b"b", b"20")
        tx.put(b"bb", b"22")
        tx.delete(b"c")
        tx.delete(b"missing")
        assert tx.get(b"b") == b"20"
        assert tx.get(b"c") is None
        assert tx.get_many([b"a", b"bb", b"c", b"d"]) == [b"1", b"22", None, b"4"]
        assert list(tx.keys()) == [b"a", b"b", b"bb", b"d", b"e"]
        tx.delete_range(b"b", b"e")
        assert list(tx.scan()) == [(b"a", b"1"), (b"e", b"5")]
        assert tx.get(b"d") is None
        tx.put(b"d", b"40")
        assert list(tx.scan(b"b", b"e")) == [(b"d", b"40")]
        return "result"

    assert tree.update(work) == "result"
    assert content(tree.view()) == {"a": "1", "d": "40", "e": "5"}
    tree.update(lambda tx: tx.delete_range(b"", None))
    assert content(tree.view()) == {}


def test_what_fails_changes_nothing(store):
    tree = store.create_tree("a")
    put(tree, a="1")
    called = []

    def work(tx):
        tx.put(b"a", b"2")
        tx.delete_range(b"", None)
        tx.on_commit(lambda: called.append("failed"))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tree.update(work)
    assert content(tree.view()) == {"a": "1"}
    tree.update(lambda tx: tx.on_commit(lambda: called.append("committed")))
    assert called == ["committed"]


def test_a_conflict_runs_the_function_again(store):
    tree = store.create_tree("a")
    put(tree, n="0", other="0")
    seen = []

    def work(tx):
        seen.append(tx.get(b"n"))
        if len(seen) == 1:
            put(tree, n="7")
        tx.put(b"other", seen[-1])

    tree.update(work)
    assert seen == [b"0", b"7"]
    assert content(tree.view()) == {"n": "7", "other": "7"}


@pytest.mark.parametrize(
    "how",
    ["keys", "scan", "get_many", "read then delete", "read then delete range", "before arrays"],
)
def test_reads_of_all_kinds_are_checked(local, how):
    tree = local.create_tree("a")
    put(tree, a="1", b="2")
    attempts = []

    def work(tx):
        attempts.append(1)
        if how == "keys":
            list(tx.keys())
        elif how == "scan":
            list(tx.scan())
        elif how == "get_many":
            tx.get_many([b"b", b"a"])
        else:
            tx.get(b"a")
        if how == "before arrays":
            assert tx.kvstore is not None
        if len(attempts) == 1:
            put(tree, a="changed")
        if how == "read then delete":
            tx.delete(b"a")
        elif how == "read then delete range":
            tx.delete_range(b"a", b"b")
        tx.put(b"c", b"3")

    tree.update(work)
    assert len(attempts) == 2
    assert tree.view().get(b"c") == b"3"


@pytest.mark.parametrize(
    ("read", "write", "attempts"),
    [
        (lambda tx: list(tx.keys(b"p", b"q")), b"p5", 2),  # inserted into a range that was read
        (lambda tx: list(tx.scan(b"p", b"q")), b"p5", 2),
        (lambda tx: list(tx.keys(b"p", b"q")), b"q", 1),  # just beyond
        (lambda tx: list(tx.keys(b"p", b"q")), b"o", 1),
        (lambda tx: next(tx.keys(b"p", b"q")), b"p0", 2),  # before the one key that was taken
        (lambda tx: next(tx.keys(b"p", b"q")), b"p5", 1),  # after it, where nobody has looked
        (lambda tx: list(tx.keys()), b"z", 2),
        (lambda tx: tx.get(b"absent"), b"absent", 2),
        (lambda tx: tx.get(b"absent"), b"absent2", 1),
    ],
)
def test_keys_inserted_by_others_are_noticed(store, read, write, attempts):
    tree = store.create_tree("a")
    tree.update(lambda tx: tx.put_many((b"p%d" % i, b"1") for i in (1, 3, 7)))
    runs = []

    def work(tx):
        runs.append(1)
        read(tx)
        if len(runs) == 1:
            tree.update(lambda other: other.put(write, b"theirs"))
        tx.put(b"mine", b"1")

    tree.update(work)
    assert len(runs) == attempts
    assert tree.view().get(b"mine") == b"1"


def test_two_writers_of_parts_of_one_chunk_are_both_kept(store):
    tree = store.create_tree("a")
    metadata = {
        "shape": [8, 8],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 8]}},
    }

    def array(tx):
        return ts.open(
            {"driver": "zarr3", "metadata": metadata},
            kvstore=tx.kvstore / "v/",
            create=True,
            open=True,
            transaction=tx.ts,
        ).result()

    tree.update(array)
    both, runs = threading.Barrier(2, timeout=60), []

    def write(part):
        def work(tx):
            opened = array(tx)
            opened[part, :4] = part + 1
            assert opened[part, 0].read().result() == part + 1  # an array sees what it has written
            opened[part, 4:] = part + 1
            tx.put(b"key%d" % part, b"1")
            runs.append(part)
            if len(runs) <= 2:
                both.wait()

        tree.update(work)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ts.open({"driver": "zarr3"}, kvstore=tree.view().kvstore / "v/").result().read().result()
    assert found.tolist() == [[1] * 8, [2] * 8] + [[0] * 8] * 6
    assert tree.view().get_many([b"key0", b"key1"]) == [b"1", b"1"]


def test_writes_that_read_nothing_of_each_other_both_succeed(store):
    tree = store.create_tree("a")
    attempts = []

    def work(tx):
        attempts.append(1)
        tx.get(b"mine")
        put(tree, theirs=str(len(attempts)))
        tx.put(b"mine", b"1")

    tree.update(work)
    assert len(attempts) == 1
    assert content(tree.view()) == {"mine": "1", "theirs": "1"}


def test_appended_values_keep_the_order_of_the_commits_and_make_nobody_run_again(store):
    tree = store.create_tree("t")
    attempts = []

    def first(tx):
        attempts.append(1)
        tx.append(b"log", b"first")
        tx.append(b"log", b"again")
        if len(attempts) == 1:
            tree.update(lambda other: other.append(b"log", b"between"))

    tree.update(first)
    assert len(attempts) == 1
    assert list(tree.view(0).scan()) == [
        (b"log", b"3"),
        (b"log/00000000", b"between"),
        (b"log/00000001", b"first"),
        (b"log/00000002", b"again"),
    ]
    with pytest.raises(TypeError):
        tree.update(lambda tx: tx.append(b"log", "text"))


def test_an_error_on_a_consistent_state_is_not_retried(local):
    tree = local.create_tree("a")
    put(tree, a="1")
    attempts = []

    def work(tx):
        attempts.append(tx.get(b"a"))
        put(tree, a="2")
        raise LookupError("from the function")

    with pytest.raises(LookupError):
        tree.update(work)
    assert attempts == [b"1"]


def test_a_transaction_reads_one_state(local):
    tree = local.create_tree("a")
    put(tree, a="1", b="1")
    seen = []

    def work(tx):
        first = tx.get(b"a")
        if not seen:
            put(tree, a="2", b="2")
        seen.append((first, tx.get(b"b")))
        tx.put(b"c", b"")

    tree.update(work)
    assert seen == [(b"1", b"1"), (b"2", b"2")]


def test_arrays_are_part_of_the_commit(store):
    tree = store.create_tree("a")
    metadata = {
        "shape": [64, 64],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [32, 32]}},
    }

    def within(kvstore):
        kvstore = kvstore.copy()
        kvstore.path = "v/array/"
        return kvstore

    def work(tx):
        array = ts.open(
            {"driver": "zarr3", "metadata": metadata}, kvstore=within(tx.kvstore), create=True, transaction=tx.ts
        ).result()
        array[:32, :32] = 7
        tx.put(b"header", b"1")
        assert tx.get(b"header") == b"1"
        assert tx.get(b"other") is None

    tree.update(work)
    view = tree.view()
    array = ts.open({"driver": "zarr3"}, kvstore=within(view.kvstore)).result()
    tree.update(lambda tx: tx.delete_range(b"v/", prefix_end(b"v/")))
    del view
    assert np.array_equal(array[30:34, 0].read().result(), [7, 7, 0, 0])
    assert list(tree.view().keys()) == [b"header"]
    with pytest.raises(ValueError, match="not supported"):
        tree.view().kvstore.write(b"a", b"b").result()


def test_branches_are_apart(store):
    main = store.create_tree("main")
    put(main, a="1", b="2")
    old = main.view()
    put(main, a="10")
    now, then = store.branch("main", "now"), store.branch(old, "then")
    put(now, c="3")
    assert content(main.view()) == {"a": "10", "b": "2"}
    assert content(now.view()) == {"a": "10", "b": "2", "c": "3"}
    assert content(then.view()) == {"a": "1", "b": "2"}
    for i in range(40):  # beyond the manifest's inline list of generations
        put(then, a=str(i))
    assert content(then.view()) == {"a": "39", "b": "2"}
    assert content(store.branch("then", "later").view()) == {"a": "39", "b": "2"}
    assert content(old) == {"a": "1", "b": "2"}


def test_a_view_of_another_store_can_not_be_branched(local, tmp_path):
    other = Store.create(tmp_path / "other").create_tree("a").view()
    with pytest.raises(ValueError, match="shares its source's data"):
        local.branch(other, "b")
    with pytest.raises(ValueError, match="is of"):
        local.diff(other, other)


def test_seal(store):
    tree = store.create_tree("a")
    for i in range(20):
        put_nodes(tree, a=str(i), **{f"k{i}": "x" * 500})
    before, view = content(tree.view()), tree.view()
    assert not tree.sealed
    report = store.seal("a")
    assert tree.sealed
    assert not report.already
    assert report.files >= 20
    assert content(tree.view()) == before == content(view)
    with pytest.raises(Sealed, match="branch it"):
        put(tree, a="no")
    with pytest.raises(Sealed):
        tree.update(lambda tx: tx.get(b"a"))
    branch = store.branch("a", "b")
    assert not branch.sealed
    put(branch, a="yes")
    assert content(tree.view()) == before
    assert store.seal("a").already
    tree.update(lambda tx: tx.put(b"a", b"forced"), force=True)
    assert tree.view().get(b"a") == b"forced"
    assert tree.sealed
    assert not store.seal("a").already
    assert content(store.tree("a").view()) == {**before, "a": "forced"}
    store.gc(0)
    assert content(store.tree("a").view()) == {**before, "a": "forced"}
    assert content(branch.view()) == {**before, "a": "yes"}
    assert store.fsck(deep=True).clean


def test_a_writer_that_began_before_the_seal_loses(store):
    tree = store.create_tree("a")
    attempts = []

    def work(tx):
        attempts.append(1)
        if len(attempts) == 1:
            store.seal("a")
        tx.put(b"late", b"1")

    with pytest.raises(Sealed):
        tree.update(work)
    assert content(tree.view()) == {}


def test_diff(store):
    tree = store.create_tree("a")
    tree.update(lambda tx: tx.put_many((b"k%05d" % i, b"v%d" % i) for i in range(3_000)))
    old = tree.view()

    def work(tx):
        tx.put(b"k00007", b"new")
        tx.put(b"k00008", b"v8")  # the same again
        tx.put(b"a", b"first")
        tx.put(b"z", b"x" * 1_000)
        tx.delete_range(b"k01000", b"k01003")

    tree.update(work)
    removed = [(b"k01000", "removed"), (b"k01001", "removed"), (b"k01002", "removed")]
    expected = [(b"a", "added"), (b"k00007", "changed"), *removed, (b"z", "added")]
    assert [(c.key, c.kind) for c in store.diff(old, tree.view())] == expected
    backwards = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(c.key, c.kind) for c in store.diff(tree.view(), old)] == [(k, backwards[kind]) for k, kind in expected]
    assert [c.key for c in store.diff(old, tree.view(), b"k", b"k01001")] == [b"k00007", b"k01000"]
    assert list(store.diff(old, old)) == []
    before = tree.view()
    store.seal("a")
    assert list(store.diff(before, tree.view())) == []


def test_gc_keeps_what_is_reachable_and_only_that(store, data_files):
    tree = store.create_tree("a")
    for i in range(10):
        put_nodes(tree, a="x" * 1_000 + str(i))
    other = store.branch("a", "b")
    put_nodes(other, b="y" * 1_000)
    files = len(data_files(store))
    first = store.gc(grace=3600)
    assert (first.deleted, first.waiting) == (0, 9)
    assert store.gc(grace=3600).deleted == 0
    assert len(data_files(store)) == files
    time.sleep(0.01)
    assert store.gc(grace=0.005).deleted == 9
    assert len(data_files(store)) == files - 9 == 2
    store.drop_tree("a")
    store.gc(grace=0)
    assert content(other.view()) == {"a": "x" * 1_000 + "9", "b": "y" * 1_000}
    store.drop_tree("b")
    assert store.gc(grace=0).deleted == 2
    assert data_files(store) == []
    with pytest.raises(ValueError, match="grace"):
        store.gc(grace=-1)


def test_gc_forgets_a_candidate_that_is_used_again(store, data_files):
    tree = store.create_tree("a")
    put_nodes(tree, a="x" * 1_000)
    old = tree.view()
    put_nodes(tree, a="y" * 1_000)
    assert store.gc(grace=0.01).waiting == 1
    store.branch(old, "b")
    time.sleep(0.02)
    assert store.gc(grace=0.01).deleted == 0
    assert content(store.tree("b").view()) == {"a": "x" * 1_000}


def test_read_only(store):
    put(store.create_tree("a"), a="1")
    reader = Store.open(store.url, read_only=True)
    assert content(reader.tree("a").view()) == {"a": "1"}
    for write in (
        lambda: put(reader.tree("a"), a="2"),
        lambda: reader.create_tree("b"),
        lambda: reader.branch("a", "b"),
        lambda: reader.drop_tree("a"),
        lambda: reader.seal("a"),
        lambda: reader.gc(0),
    ):
        with pytest.raises(ReadOnly, match="read-only"):
            write()
    assert pickle.loads(pickle.dumps(reader)).read_only
    assert reader.fsck().clean
    assert store.trees() == ["a"]


def test_other_handles_of_this_process_see_commits_at_once(store):
    mine, other = store.create_tree("a"), Store.open(store.url).tree("a")
    assert other.view().get(b"a") is None
    for i in range(5):
        put(mine, a=str(i))
        assert other.view(max_age=3600).get(b"a") == str(i).encode()


def test_fsck_finds_what_is_missing(store, data_files):
    tree = store.create_tree("a")
    put_nodes(tree, a="x" * 5_000)
    assert store.fsck(deep=True).clean
    store._where.delete("data/" + data_files(store)[0])
    report = Store.open(store.url).fsck()
    assert not report.clean
    assert "tree 'a'" in report.errors[0]


def test_states_around_a_commit_are_kept(store):
    tree = store.create_tree("kept")
    tree.update(lambda tx: tx.put(b"a", b"1"))

    def change(tx):
        tx.put(b"a", tx.get(b"a") + b"2")
        tx.keep_states("kept.before", "kept.after")

    tree.update(change)
    tree.update(lambda tx: tx.put(b"a", b"3"))
    assert [store.tree(n).view().get(b"a") for n in ("kept", "kept.before", "kept.after")] == [b"3", b"1", b"12"]
    store.gc(grace=0)
    store.gc(grace=0)
    tree.update(change)  # in the place of what was kept
    assert [store.tree(n).view(0).get(b"a") for n in ("kept", "kept.before", "kept.after")] == [b"32", b"3", b"32"]
    for name in ("kept.before", "kept.after"):
        store.drop_tree(name)
    assert not store.fsck().errors


def test_a_commit_that_was_overtaken_keeps_what_it_is_made_on(store):
    tree = store.create_tree("kept")
    tries = []

    def change(tx):
        tx.get(b"a")
        if not tries:
            tree.update(lambda other: other.put(b"a", b"other"))
        tries.append(1)
        tx.put(b"b", b"b")
        tx.keep_states("kept.before", "kept.after")

    tree.update(change)
    assert len(tries) == 2
    assert dict(store.tree("kept.before").view().scan()) == {b"a": b"other"}
    assert dict(store.tree("kept.after").view().scan()) == {b"a": b"other", b"b": b"b"}


def test_states_around_a_landing_are_kept(store):
    tree = store.create_tree("kept")
    tree.update(lambda tx: tx.put(b"a", b"1"))
    base = tree.view(0)
    branch = store.branch(base, "kept.branch")
    branch.update(lambda tx: tx.put(b"b", b"2"))
    tree.update(lambda tx: tx.put(b"c", b"3"))

    def settle(tx, newest, changes):
        for change in changes:
            tx.put(change.key, newest.get(change.key))
        tx.keep_states("kept.before", "kept.after")
        return True

    land(tree, branch, base, settle)
    assert dict(store.tree("kept.before").view().scan()) == {b"a": b"1", b"c": b"3"}
    assert dict(store.tree("kept.after").view().scan()) == {b"a": b"1", b"b": b"2", b"c": b"3"}


def test_memory_without_a_name_is_freed_when_nobody_holds_it():
    named, first, second = Store.create("memory://kept"), Store.create("memory://"), Store.create("memory://")
    urls = [store.url for store in (named, first, second)]
    assert len(set(urls)) == 3
    view = first.create_tree("t").view()
    del named, first, second
    gc.collect()
    assert Store.open("memory://kept").url == urls[0]
    # a view is enough: it holds what it reads, also when it comes out of a pickle
    assert list(pickle.loads(pickle.dumps(view)).keys()) == []
    with pytest.raises(StoreNotFound):
        Store.open(urls[2])
    del view
    gc.collect()
    with pytest.raises(StoreNotFound):
        Store.open(urls[1])
