"""Merging by meaning, as a datatype sees it: both sides, their ancestor, commits nobody sees, events to followers."""

from __future__ import annotations

import pytest

from dvid_dask import datatypes
from dvid_dask.datatypes.base import CONFLICT, Datatype
from dvid_dask.versions.meaning import three_way

from .conftest import sound

seen: list[tuple] = []


@datatypes.register
class Counted(Datatype):
    """Words, and beside them how many there are: merged key by key the number would be wrong."""

    typename = "test-counted"
    merges_by_meaning = True
    sync_partners = frozenset()

    def put(self, word, value=b"x"):
        self.mutate(lambda m, space: self._put(m, space, word, value))

    def drop(self, word):
        self.mutate(lambda m, space: self._put(m, space, word, None))

    def _put(self, m, space, word, value):
        had = space.get(b"w" + word) is not None
        if value is None:
            space.delete(b"w" + word)
        else:
            space.put(b"w" + word, value)
        space.put(b"n", b"%d" % (int(space.get(b"n") or b"0") + (value is not None) - had))
        m.publish(self, ("put", word, value))

    def words(self):
        return {k[1:]: v for k, v in self.view(0).scan(b"w")}

    def count(self):
        return int(self.view(0).get(b"n") or b"0")

    def disagreements(self):
        if self.count() != len(self.words()):
            yield f"{self.count()} words are said, {len(self.words())} are there"

    def describe_change(self, key):
        return key[1:].decode()

    def merge_versions(self, step):
        seen.append((self.name, self.version.uuid, step.untouched(step.ours), len(step.bases)))
        for key in list(step.changes(b"w")):
            ours, theirs, *bases = (s.get(key) for s in (step.ours, step.theirs, *step.bases))
            value, conflict = step.settle(ours, theirs, bases, lambda s, key=key: s.get(key))
            if conflict:
                step.conflict(key, {"word": key[1:].decode()})
            elif value != ours:
                step.update(lambda m, space, key=key, value=value: self._put(m, space, key[1:], value))


@datatypes.register
class Longest(Datatype):
    """Follows words: the longest there is, derived, and remarks of its own."""

    typename = "test-longest"
    merges_by_meaning = True
    sync_partners = frozenset({"test-counted"})

    def on_event(self, m, event):
        _, word, value = event
        space = m.space(self)
        if value is not None and len(word) > len(space.get(b"d") or b""):
            space.put(b"d", word)
        m.log(self, {"Action": "heard", "word": word.decode()})
        m.keep_undo(self, "heard", b"")

    def remark(self, key, value):
        self.mutate(lambda m, space: space.put(b"r" + key, value))

    def merge_versions(self, step):
        seen.append((self.name, self.version[self.info.name].view(0).get(b"d")))
        step.merge_keys(b"r", lambda key, base, values: max(values) if key == b"rmax" else CONFLICT)


@pytest.fixture
def family(repo):
    seen.clear()
    words = repo.new_instance("test-counted", "words")
    repo.new_instance("test-longest", "longest").set_syncs(["words"])
    root = repo["master"]
    words.put(b"one")
    words.put(b"two")
    root.commit()
    return root, root.newversion(), root.new_branch("b")


def finish(*versions):
    for version in versions:
        version.commit()


@pytest.mark.parametrize("order", [1, -1])
def test_edits_of_both_sides(ds, repo, family, order):
    root, a, b = family
    a["words"].put(b"three")
    a["longest"].remark(b"x", b"a")
    b["words"].put(b"fourth!")
    b["words"].drop(b"one")
    b["longest"].remark(b"y", b"b")
    for n, v in enumerate((a, b)):
        v["longest"].remark(b"max", b"%d" % n)
    finish(a, b)
    m = repo.merge([a, b][::order])
    assert set(m["words"].words()) == {b"two", b"three", b"fourth!"}
    assert m["words"].count() == 3
    assert dict(m["longest"].view().scan()) == {b"d": b"fourth!", b"rx": b"a", b"ry": b"b", b"rmax": b"1"}
    # the follower first: it finds what it derived as the first parent had it
    assert [s[0] for s in seen] == ["longest", "words"]
    assert seen[0][1] == (b"three" if order == 1 else b"fourth!")
    assert not m.conflicts
    assert m.log == []
    assert list(m["longest"].mutations()) == []  # the edits are told where they were made
    assert ds.check_contents().ok
    sound(ds)


def test_contradictions_are_settled_for_the_first_parent_and_listed(ds, repo, family):
    root, a, b = family
    for v, value in ((a, b"a"), (b, b"b")):
        v["words"].put(b"one", value)
        v["longest"].remark(b"k", value)
    finish(a, b)
    m = repo.merge([b, a])
    assert m["words"].words()[b"one"] == b"b"
    assert m["longest"].view().get(b"rk") == b"b"
    found = sorted((c.instance, c.key, c.parents, c.base) for c in m.conflicts)
    assert found == [("longest", b"rk", (b.uuid, a.uuid), root.uuid), ("words", b"wone", (b.uuid, a.uuid), root.uuid)]
    assert [c.what for c in m.conflicts] == [{"word": "one"}, b"rk"]
    assert "(2): " in m.log[0]
    assert "words: word one" in m.log[0]
    sound(ds)
    m.commit()
    resolved = repo.resolve(["words"], [a, b])
    assert resolved["words"].words()[b"one"] == b"a"
    assert [c.instance for c in resolved.conflicts] == ["longest"]


def test_more_parents_one_after_the_other(ds, repo, family):
    root, a, b = family
    c = root.new_branch("c")
    a["words"].put(b"aa")
    b["words"].put(b"bb")
    finish(a, b)
    below = b.new_branch("d")
    below["words"].drop(b"bb")
    c["words"].put(b"cc")
    finish(c, below)
    m = repo.merge([a, c, below, b])
    assert set(m["words"].words()) == {b"one", b"two", b"aa", b"cc"}
    assert not m.conflicts
    assert ds.check_contents().ok
    sound(ds)


def test_criss_cross(ds, repo, family):
    root, a, b = family
    a["words"].put(b"one", b"a")
    b["words"].put(b"two", b"b")
    finish(a, b)
    m1, m2 = repo.merge([a, b]), repo.merge([b, a])
    m1["words"].put(b"more")
    m2["words"].put(b"one", b"again")
    finish(m1, m2)
    for order in ([m1, m2], [m2, m1]):
        last = repo.merge(order)
        assert last["words"].words() == {b"one": b"again", b"two": b"b", b"more": b"x"}
        assert not last.conflicts
    assert seen[-1][3] == 2
    assert ds.check_contents().ok


def test_a_merge_that_fails_leaves_nothing(ds, repo, family, monkeypatch):
    root, a, b = family
    a["words"].put(b"a")
    b["words"].put(b"b")
    finish(a, b)
    trees = ds.store.trees()
    monkeypatch.setattr(Counted, "merge_versions", lambda self, step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repo.merge([a, b])
    assert ds.store.trees() == trees
    assert len(repo.versions) == 3


def test_the_rule_where_several_ancestors_differ():
    assert three_way("a", "b", ["a", "b"], lambda: "ours") == ("b", False)
    assert three_way("a", "b", ["a", "b"], lambda: "theirs") == ("a", False)
    assert three_way("a", "b", ["a", "b"], lambda: None) == ("a", True)
    assert three_way("a", "b", ["b", "r"], lambda: None) == ("a", False)
