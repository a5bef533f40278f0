"""Reads of few keys without tensorstore say what tensorstore says."""

from __future__ import annotations

import random

import pytest

from dvid_dask.store import BadStore, Store, points
from dvid_dask.store.points import Points, points_of
from dvid_dask.store.view import View


@pytest.fixture
def tree(tmp_path):
    """A tree of some height, with values within leaves and in files."""
    made = Store.create(tmp_path / "store", node_bytes=1_000, inline_bytes=50).create_tree("a")
    rng = random.Random(1)
    items = [(rng.randbytes(rng.randrange(1, 20)).replace(b"\0", b"1"), rng.randbytes(rng.choice((0, 3, 49, 700))))
             for _ in range(2_000)]  # fmt: skip
    made.update(lambda tx: (tx.put_many(items), tx.to_nodes()))
    assert made.view().manifest.root.height > 1
    return made


def through_tensorstore(view, keys):
    return [None if r.state == "missing" else r.value for r in view._results(keys)]


def test_they_agree(tree):
    view = tree.view()
    rng = random.Random(2)
    there = list(view.keys())
    keys = [*there, *(rng.randbytes(rng.randrange(1, 9)).replace(b"\0", b"2") for _ in range(500))]
    keys += [key + b"\1" for key in there[:200]] + [key[:-1] for key in there if len(key) > 1][:200]
    keys += [b"\1", b"\xff" * 30]
    expected = through_tensorstore(view, keys)
    assert None in expected
    assert b"" in expected
    found = points_of(view._where).get_many(view.manifest.root, keys)
    assert found == expected
    assert [view.get(key) for key in keys[::7]] == expected[::7]
    assert view.get_many(keys[:30]) == expected[:30]


def test_states_are_told_apart(tree):
    before = tree.view()
    key, other = list(before.keys())[100:102]
    had = before.get(key)
    tree.update(lambda tx: (tx.put(key, b"new"), tx.delete(other), tx.to_nodes()))
    assert (tree.view().get(key), tree.view().get(other)) == (b"new", None)
    assert before.get(key) == had
    assert before.get(other) is not None
    empty = tree.store.create_tree("empty")
    assert empty.view().get_many([b"a", b"b"]) == [None, None]


def test_what_is_kept_is_bounded(tree):
    view = tree.view()
    keys = list(view.keys())
    some = Points(view._where, room=20_000)
    assert some.get_many(view.manifest.root, keys) == through_tensorstore(view, keys)
    assert 0 < some._used <= 20_000
    assert some._used == sum(size for _, size in some._nodes.values())


def test_who_reads_all_over_a_large_tree_is_left_to_tensorstore(tree):
    view = tree.view()
    keys = list(view.keys())
    few = Points(view._where, room=20_000)
    rng = random.Random(3)
    for _ in range(500):
        few.get_many(view.manifest.root, [rng.choice(keys)])
    assert sum(few.worth_it for _ in range(160)) == 10
    for _ in range(100):  # until reads stay in one place again
        few.get_many(view.manifest.root, keys[:10])
    assert all(few.worth_it for _ in range(10))


def test_commits_look_at_what_was_read_by_them(tree):
    """Reads without generations are compared by their values, where the state has moved on in nodes."""
    key, other, third = list(tree.view().keys())[10:13]
    runs = []

    def change(tx):
        runs.append(tx.get(key))
        if len(runs) == 1:
            tree.update(lambda t: (t.put(other, b"other"), t.to_nodes()))
            tree.update(lambda t: (t.put(key, b"mine"), t.to_nodes()))
        if len(runs) == 2:
            tree.update(lambda t: (t.put(other, b"again"), t.to_nodes()))
        tx.put(third, b"third")

    tree.update(change)
    assert len(runs) == 2
    assert runs[1] == b"mine"
    assert tree.view().get_many([key, other, third]) == [b"mine", b"again", b"third"]


@pytest.mark.parametrize("damage", ["missing", "short", "bits"])
def test_damage_is_told(tree, damage):
    folder = tree.store._where.folder / "data"
    view = tree.view()
    for place in folder.iterdir():
        data = place.read_bytes()
        if damage == "missing":
            place.unlink()
        else:
            place.write_bytes(data[: len(data) // 2] if damage == "short" else bytes(b ^ 1 for b in data))
    for key in (b"a", b"z", b"\xf0"):
        with pytest.raises(BadStore, match="is missing|is damaged"):
            Points(view._where).get_many(view.manifest.root, [key])


def test_many_keys_are_read_at_the_same_time(tree, monkeypatch):
    view = tree.view()
    keys = list(view.keys())[: points.FEW + 1]
    expected = [view.get(key) for key in keys]
    monkeypatch.setattr(Points, "get_many", lambda *_: pytest.fail("read one by one"))
    assert view.get_many(keys) == expected


@pytest.fixture
def looked_up(monkeypatch):
    """Many keys are looked up in a list of what is there; counts how often, and the keys that are read."""
    seen = {"listings": 0, "read": 0}
    list_, results = View._there, View._results

    def there(self, keys):
        found = list_(self, keys)
        seen["listings"] += found is not None
        return found

    def read(self, keys, part=None):
        seen["read"] += len(keys)
        return results(self, keys, part)

    monkeypatch.setattr(View, "_there", there)
    monkeypatch.setattr(View, "_results", read)
    return seen


def test_of_many_new_keys_those_that_are_there_are_read(tree, looked_up):
    held = dict(tree.view().scan())
    rng = random.Random(3)
    new = [b"new" + rng.randbytes(9).replace(b"\0", b"3") for _ in range(3_000)]
    tree.update(lambda tx: (tx.put(new[7], b"late"), tx.delete(next(iter(held)))))
    tree.update(lambda tx: tx.put(new[8], b"later"))
    view = tree.view(0)
    assert view._count == 2  # what the journal says is above nodes
    looked_up["read"] = 0
    values = dict(zip(new, view.get_many(new), strict=True))
    assert looked_up["listings"] == 1
    assert looked_up["read"] < 100
    assert {k: v for k, v in values.items() if v is not None} == {new[7]: b"late", new[8]: b"later"}
    # among those of all of the tree, in any order and twice
    among = [*sorted(held)[::-1][:50], *new, *sorted(held)[:50], *new[:10]] * 2
    expected = {**held, new[7]: b"late", new[8]: b"later", next(iter(held)): None}
    assert view.get_many(among) == [expected.get(key) for key in among]
    looked_up["listings"] = 0
    there = list(held)
    assert view.get_many(there) == [expected[key] for key in there]
    assert looked_up["listings"] == 0


def test_a_key_that_was_not_there_among_many_is_a_conflict(tree, looked_up):
    keys = [b"new%05d" % i for i in range(1_000)]
    runs = []

    def fill(tx):
        found = tx.get_many(keys)
        runs.append(found)
        if len(runs) == 1:
            tree.update(lambda other: other.put(keys[500], b"theirs"))
        tx.put_many((key, b"ours") for key, value in zip(keys, found, strict=True) if value is None)

    tree.update(fill)
    assert looked_up["listings"] >= 1
    assert [run[500] for run in runs] == [None, b"theirs"]
    assert tree.view(0).get_many(keys[499:502]) == [b"ours", b"theirs", b"ours"]
    runs.clear()
    tree.update(lambda tx: tx.delete_range(keys[0], keys[-1] + b"1"))

    def fill_from_nodes(tx):
        found = tx.get_many(keys)
        runs.append(found)
        if len(runs) == 1:
            tree.update(lambda other: (other.put(keys[500], b"theirs"), other.to_nodes()))
        tx.put_many((key, b"ours") for key, value in zip(keys, found, strict=True) if value is None)

    tree.update(fill_from_nodes)
    assert [run[500] for run in runs] == [None, b"theirs"]
