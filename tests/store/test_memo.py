"""What is kept of decoded values: never older than the state that is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dvid_dask.store.memo import Memo

HERE = Path(__file__).parents[2]
KEYS = [b"a", b"b", b"c"]


class Decoder:
    """Decodes, and tells what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, key, value):
        self.asked.append(key)
        return (key, value), len(value or b"")

    def read(self, view):
        """Values by the memo, and which of them were decoded for it."""
        self.asked.clear()
        found = view.decoded("test", KEYS, self)
        assert [k for k, _ in found] == KEYS
        assert [v for _, v in found] == view.get_many(KEYS)
        return [v for _, v in found], self.asked[:]


@pytest.fixture
def tree(local):
    made = local.create_tree("a")
    made.update(lambda tx: tx.put_many([(b"a", b"1"), (b"b", b"2")]))
    return made


def test_a_commit_of_this_process_forgets_what_it_changed_and_nothing_else(tree):
    decode = Decoder()
    first = tree.view()
    assert decode.read(first) == ([b"1", b"2", None], KEYS)
    assert decode.read(first) == ([b"1", b"2", None], [])
    tree.update(lambda tx: tx.put(b"a", b"3"))
    second = tree.view()
    assert decode.read(second) == ([b"3", b"2", None], [b"a"])
    tree.update(lambda tx: (tx.delete(b"b"), tx.append(b"c", b"x")))
    third = tree.view()
    assert decode.read(third) == ([b"3", None, b"1"], [b"b", b"c"])
    # earlier states keep their values, and don't put them in the way of later ones
    assert decode.read(first)[0] == [b"1", b"2", None]
    assert decode.read(second)[0] == [b"3", b"2", None]
    assert decode.read(third)[0] == [b"3", None, b"1"]


def test_what_this_process_changed_is_known(tree, local):
    first = tree.view()
    assert first.changed_since(first) == []
    tree.update(lambda tx: tx.put(b"a", b"3"))
    tree.update(lambda tx: (tx.put(b"c", b"3"), tx.delete(b"b")))
    second = tree.view()
    assert sorted(second.changed_since(first)) == sorted(first.changed_since(second)) == [b"a", b"b", b"c"]
    tree.update(lambda tx: tx.put(b"a", b"4"))
    assert b"a" in tree.view().changed_since(second)
    assert {c.key for c in local.diff(first, tree.view())} <= set(tree.view().changed_since(first))
    tree.update(lambda tx: tx.delete_range(b"a", b"b"))
    assert b"a" in tree.view().changed_since(second)
    tree.update(lambda tx: (tx.delete_range(b"a", b"b"), tx.to_nodes()))
    assert tree.view().changed_since(second) is None
    other = local.branch("a", "b").view()
    assert other.changed_since(tree.view()) is None


def test_deleted_ranges_are_noticed(tree):
    decode = Decoder()
    decode.read(tree.view())
    tree.update(lambda tx: tx.delete_range(b"a", b"b"))
    assert decode.read(tree.view())[0] == [None, b"2", None]
    tree.update(lambda tx: (tx.delete_range(b"b", b"c"), tx.to_nodes()))
    assert decode.read(tree.view())[0] == [None, None, None]


def test_arrays_are_noticed(tree):
    decode = Decoder()
    decode.read(tree.view())
    tree.update(lambda tx: tx.kvstore.write(b"a", b"array").result())
    assert decode.read(tree.view())[0] == [b"array", b"2", None]


def test_commits_of_other_processes_are_noticed(tree):
    decode = Decoder()
    decode.read(tree.view())
    code = (
        "import sys; from dvid_dask.store import Store\n"
        "Store.open(sys.argv[1]).tree('a').update(lambda tx: tx.put(b'b', b'other'))"
    )
    subprocess.run([sys.executable, "-c", code, tree.store.url], cwd=HERE, check=True)
    assert decode.read(tree.view(0))[0] == [b"1", b"other", None]


def test_forced_writes_to_a_sealed_tree_and_branches(tree):
    decode = Decoder()
    store = tree.store
    store.seal("a")
    decode.read(tree.view())
    branch = store.branch("a", "b")
    assert decode.read(branch.view())[0] == [b"1", b"2", None]
    tree.update(lambda tx: tx.put(b"a", b"forced"), force=True)
    branch.update(lambda tx: tx.put(b"b", b"branch"))
    assert decode.read(tree.view())[0] == [b"forced", b"2", None]
    assert decode.read(branch.view())[0] == [b"1", b"branch", None]
    # a tree that takes the name of a dropped one
    store.drop_tree("b")
    again = store.branch("a", "b")
    assert decode.read(again.view(0))[0] == [b"forced", b"2", None]


def test_transactions_see_their_own_writes(tree):
    decode = Decoder()
    decode.read(tree.view())

    def change(tx):
        tx.put(b"a", b"own")
        return tx.decoded("test", KEYS, decode)

    assert [v for _, v in tree.update(change)] == [b"own", b"2", None]
    assert decode.read(tree.view())[0] == [b"own", b"2", None]


def test_room_is_bounded_and_what_is_asked_for_stays():
    memo = Memo(room=1000)
    for i in range(100):
        memo.put("k", b"%d" % i, 0, i, 100)
        if i:
            assert memo.get("k", b"0", 0) in (None, (0,))
    assert memo.get("k", b"99", 0) == (99,)
    assert memo.get("k", b"50", 0) is None
    assert len(memo._young) + len(memo._old) <= 12


def test_a_late_reader_of_an_old_state_puts_nothing_stale():
    memo = Memo()
    before = memo.epoch
    memo.advance([b"x"])
    memo.put("k", b"x", before, "old", 1)
    assert memo.get("k", b"x", memo.epoch) is None
    memo.put("k", b"x", memo.epoch, "new", 1)
    memo.put("k", b"x", before, "old", 1)
    assert memo.get("k", b"x", memo.epoch) == ("new",)
    assert memo.get("k", b"x", before) is None
    memo.advance(None)
    assert memo.get("k", b"x", memo.epoch) is None
