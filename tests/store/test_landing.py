"""A branch takes its tree's place: at once, with what others did, on every backend."""

from __future__ import annotations

import pytest

from dvid_dask.store import Sealed, Store, land


@pytest.fixture
def trees(url):
    store = Store.create(url)
    main = store.create_tree("main")
    main.update(lambda tx: tx.put_many([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]))
    base = main.view(0)
    draft = store.branch("main", "draft")
    draft.update(lambda tx: tx.put(b"a", b"7"))
    draft.update(lambda tx: tx.delete(b"c"))
    return store, main, draft, base


def take_over(tx, newest, changes):
    for change in changes:
        value = newest.get(change.key)
        tx.put(change.key, value)
    tx.put(b"done", b"yes")
    return "landed"


def test_all_at_once_and_others_keep_theirs(trees):
    store, main, draft, base = trees
    before = main.view(0)
    for n in range(3):  # more commits than the draft had
        main.update(lambda tx, n=n: tx.put(b"b", b"other %d" % n))
    assert land(main, draft, base, take_over) == "landed"
    after = [(b"a", b"7"), (b"b", b"other 2"), (b"done", b"yes")]
    assert list(main.view().scan()) == after
    assert list(Store.open(store.url).tree("main").view(0).scan()) == after
    assert list(before.scan())[0] == (b"a", b"1")
    main.update(lambda tx: tx.put(b"d", b"4"))
    assert main.view(0).get(b"d") == b"4"
    assert store.fsck(deep=True).errors == []
    store.drop_tree("draft")
    store.gc(0)
    assert len(list(main.view(0).scan())) == 4
    assert store.fsck(deep=True).errors == []


@pytest.mark.parametrize("losses", [2, 6])
def test_it_wins_at_last(trees, losses):
    """Others commit during the first attempts; those in this process wait once they have been let by often enough."""
    _, main, draft, base = trees
    tries = []

    def settle(tx, newest, changes):
        tries.append(1)
        result = take_over(tx, newest, changes)
        if len(tries) <= min(losses, 3):
            main.update(lambda tx: tx.put(b"b", b"%d" % len(tries)))
        return result

    land(main, draft, base, settle)
    assert len(tries) == min(losses, 3) + 1
    assert main.view(0).get(b"b") == b"%d" % min(losses, 3)
    assert main.view(0).get(b"a") == b"7"


def test_what_settle_raises_and_none_change_nothing(trees):
    _, main, draft, base = trees

    def refuse(*_):
        raise KeyError("no")

    with pytest.raises(KeyError):
        land(main, draft, base, refuse)
    assert land(main, draft, base, lambda *_: None) is None
    assert main.view(0).get(b"a") == b"1"


def test_a_sealed_tree_stays(trees):
    store, main, draft, base = trees
    store.seal("main", compact=False)
    with pytest.raises(Sealed):
        land(main, draft, base, take_over)
    assert main.view(0).get(b"a") == b"1"
