"""Three-way merges of trees: the rule on values, conflicts kept and named, resolve, failures that leave nothing."""

from __future__ import annotations

import pytest

from dvid_dask import datatypes
from dvid_dask.datatypes.base import CONFLICT, Datatype
from dvid_dask.errors import BadRequest, LockedVersion, UnknownInstance, UnknownVersion
from dvid_dask.versions import merging

from .conftest import sound


@datatypes.register
class Summing(Datatype):
    """Settles numbers by adding both sides' changes; leaves others in conflict."""

    typename = "test-summing"

    def merge_value(self, key, base, values):
        if key.startswith(b"n"):
            start = int(base or b"0")
            return b"%d" % (start + sum(int(v) - start for v in values))
        if key.startswith(b"d"):
            return None
        return CONFLICT

    def put(self, key, value):
        self.mutate(lambda m, space: space.put(key, value))


def fork(repo, base=None, *sides, instance="kv"):
    """Commit `base` in the root and each of `sides` (None deletes) in a branch of its own."""
    if instance not in repo.instances:
        repo.new_instance("keyvalue", instance)
    root = repo["master"]
    root[instance].put_many(base or {})
    root.commit()
    made = []
    for n, changes in enumerate(sides):
        v = root.newversion() if n == 0 else root.new_branch(f"b{n}")
        for key, value in changes.items():
            if value is None:
                v[instance].delete(key)
            else:
                v[instance].put(key, value)
        v.commit()
        made.append(v)
    return made


def read(version, instance="kv"):
    return dict(version[instance].items())


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_changes_of_both_sides(ds, repo, order):
    base = dict.fromkeys(("both", "left", "right", "gone left", "gone right"), b"r")
    sides = fork(
        repo,
        base,
        {"left": b"l", "gone left": None, "new left": b"l"},
        {"right": b"r2", "gone right": None, "new right": b"r2"},
    )
    m = repo.merge([sides[n] for n in order], "together")
    assert (m.note, m.log, m.locked, m.branch) == ("together", [], False, "master")
    assert m.parents == [sides[n] for n in order]
    assert read(m) == {"both": b"r", "left": b"l", "right": b"r2", "new left": b"l", "new right": b"r2"}
    assert len(m.conflicts) == 0
    assert list(m.conflicts) == []
    assert read(sides[0])["right"] == b"r"
    m["kv"]["more"] = b"x"
    m.commit()
    sound(ds)


def test_conflicts_are_absent_kept_and_named(ds, repo):
    a, b = fork(repo, {"x": b"r", "y": b"r"}, {"x": b"a", "n": b"a"}, {"x": b"b", "n": b"b", "y": b"b"})
    m = repo.merge([a, b])
    assert read(m) == {"y": b"b"}
    assert "x" not in m["kv"]
    found = list(m.conflicts)
    assert [(c.instance, c.what, c.key) for c in found] == [("kv", "n", b"kn"), ("kv", "x", b"kx")]
    assert found[0].parents == (a.uuid, b.uuid)
    assert found[0].base == repo.root
    assert [repo[p]["kv"]["x"] for p in found[1].parents] == [b"a", b"b"]
    assert m.conflicts[1].what == "x"
    assert "2 conflicts" in repr(m.conflicts)
    assert len(m.log) == 1
    assert "(2): " in m.log[0]
    assert "kv/n, kv/x" in m.log[0]
    m["kv"]["x"] = b"settled"
    m.commit()
    assert len(m.newversion().conflicts) == 0  # they belong to the merge, not to its children
    sound(ds)


def test_many_conflicts_are_counted_and_the_log_stays_short(ds, repo):
    keys = [f"{n:05d}" for n in range(2500)]
    root = repo["master"]
    repo.new_instance("keyvalue", "kv")
    root.commit()
    sides = [root.newversion(), root.new_branch("b")]
    for n, v in enumerate(sides):
        v["kv"].put_many(dict.fromkeys(keys, b"%d" % n))
        v.commit()
    m = repo.merge(sides)
    assert len(m.conflicts) == 2500
    assert [c.what for c in m.conflicts] == keys
    assert len(m.log[0]) < 1000
    assert "and 2480 more" in m.log[0]
    assert read(m) == {}
    sound(ds)


@pytest.mark.parametrize(
    ("base", "sides", "expected", "conflict"),
    [
        (b"r", (b"a", None), b"a", False),  # a change beats a deletion
        (b"r", (None, None), None, False),
        (b"r", (b"a", b"a"), b"a", False),  # the same bytes on both sides are no conflict, unlike DVID
        (b"r", (b"a", b"b"), None, True),
        (None, (b"a", b"b"), None, True),
        (None, (b"a", b"a"), b"a", False),
        (b"r", (b"a", b"b", b"a"), None, True),
        (b"r", (b"a", b"r", None), b"a", False),
        (b"r", (b"r", b"r", b"c"), b"c", False),
    ],
)
def test_the_rule(repo, base, sides, expected, conflict):
    made = fork(repo, {} if base is None else {"k": base}, *({} if s == base else {"k": s} for s in sides))
    m = repo.merge(made)
    assert m["kv"].get("k") == expected
    assert bool(m.conflicts) == conflict


def test_a_parent_above_another(repo):
    a, b = fork(repo, {"k": b"r"}, {"k": b"a"}, {})
    below = a.new_branch("below")
    below["kv"]["k"] = b"below"
    below.commit()
    assert repo.merge([a, below])["kv"]["k"] == b"below"
    assert repo.merge([below, a, b])["kv"]["k"] == b"below"


def test_parents_of_unlike_depth(repo):
    """Two were branched late, one early: what the late ones share doesn't conflict with the early one's old value."""
    root = repo["master"]
    kv = repo.new_instance("keyvalue", "kv")
    kv["k"] = b"r"
    root.commit()
    early = root.new_branch("early")
    early.commit()
    mid = root.newversion()
    mid["kv"]["k"] = b"mid"
    mid.commit()
    one, two = mid.newversion(), mid.new_branch("two")
    one["kv"]["k"] = b"one"
    one.commit()
    two.commit()
    for order in ([one, two, early], [early, two, one], [two, early, one]):
        assert repo.merge(order)["kv"]["k"] == b"one"
        assert not repo.merge(order).conflicts


def test_criss_cross(ds, repo):
    a, b = fork(repo, {"x": b"r", "y": b"r"}, {"x": b"a"}, {"y": b"b"})
    m1, m2 = repo.merge([a, b]), repo.merge([b, a])
    m1["kv"]["one"] = b"1"
    m2["kv"]["x"] = b"again"
    m1.commit()
    m2.commit()
    last = repo.merge([m1, m2])
    assert read(last) == {"x": b"again", "y": b"b", "one": b"1"}
    assert not last.conflicts
    sound(ds)


def test_criss_cross_over_a_conflict(repo):
    """Both sides have the value of one of their two common ancestors: the conflict's absence is the newer one."""
    root = repo["master"]
    repo.new_instance("keyvalue", "kv")
    root.commit()
    left, right = root.newversion(), root.new_branch("right")
    for n, v in enumerate((left, right)):
        v["kv"]["k"] = b"%d" % n
        v.commit()
    plain = root.new_branch("plain")
    plain.commit()
    conflict = repo.merge([root, left, right])
    conflict.commit()
    aside = repo.merge([plain, left])
    aside.commit()
    both = repo.merge([plain, conflict])
    both.commit()
    assert (conflict["kv"].get("k"), aside["kv"].get("k")) == (None, b"0")
    assert len(repo.state().merge_bases(both.id, aside.id)) == 2
    for order in ([both, aside], [aside, both]):
        assert repo.merge(order)["kv"].get("k") is None
        assert not repo.merge(order).conflicts


def test_resolve_gives_the_first_parent_that_changed_the_key(ds, repo):
    base = {"base": b"r", "inherited": b"r", "gone": b"r"}
    repo.new_instance("keyvalue", "free")
    a, b, c = fork(
        repo,
        base,
        {"x": b"a", "only a": b"a", "gone": None},
        {"x": b"b", "y": b"b", "inherited": b"b"},
        {"x": b"c", "y": b"c", "gone": b"c"},
    )
    m = repo.resolve(["kv"], [b, a, c], "b first")
    assert read(m) == {
        "base": b"r", "x": b"b", "y": b"b", "only a": b"a", "inherited": b"b", "gone": b"c",
    }  # fmt: skip
    assert not m.conflicts
    # DVID loses a key here: the first parent merely inherits what the second one changed
    m = repo.resolve(["kv"], [a, b])
    assert read(m)["inherited"] == b"b"
    # as often as one likes
    assert read(repo.resolve(["kv"], [a, b])) == read(m)
    assert set(repo.branches) == {"master", "b1", "b2"}
    sound(ds)


def test_resolve_looks_at_the_named_instances_only(repo):
    for name in ("kv", "kv2"):
        repo.new_instance("keyvalue", name)
    root = repo["master"]
    root.commit()
    a, b = root.newversion(), root.new_branch("b")
    for v, value in ((a, b"a"), (b, b"b")):
        for name in ("kv", "kv2"):
            v[name]["x"] = value
        v.commit()
    m = repo.resolve(["kv"], [b, a])
    assert m["kv"]["x"] == b"b"
    assert "x" not in m["kv2"]
    assert [c.instance for c in m.conflicts] == ["kv2"]
    assert repo.resolve(["kv", "kv2"], [a, b])["kv2"]["x"] == b"a"


def test_a_datatype_may_settle_its_keys(repo):
    root = repo["master"]
    data = repo.new_instance("test-summing", "s")
    data.put(b"n", b"10")
    data.put(b"d", b"10")
    root.commit()
    a, b = root.newversion(), root.new_branch("b")
    for v, value in ((a, b"12"), (b, b"15")):
        for key in (b"n", b"d", b"x", b"n-new"):
            v["s"].put(key, value)
        v.commit()
    m = repo.merge([a, b])
    space = m["s"].view()
    assert {k: space.get(k) for k in (b"n", b"d", b"x", b"n-new")} == {
        b"n": b"17", b"d": None, b"x": None, b"n-new": b"27",
    }  # fmt: skip
    assert [c.key for c in m.conflicts] == [b"x"]


def test_the_logs_of_all_parents_are_in_the_merge(repo):
    a, b = fork(repo, {"k": b"r"}, {"x": b"a"}, {"y": b"b"})
    m = repo.merge([a, b])
    m["kv"]["z"] = b"m"
    assert [r["Key"] for r in m["kv"].mutations()] == ["z"]
    tree = m.tree().view(0)
    assert sum(1 for k in tree.keys(b"log/", b"log0") if k.count(b"/") == 3) == 4


def test_refused_merges_leave_nothing(ds, repo):
    a, b = fork(repo, {"k": b"r"}, {"k": b"a"}, {"k": b"b"})
    child = a.new_branch("open")
    other = ds.new_repo()
    other["master"].commit()
    trees, versions = ds.store.trees(), list(repo.versions)
    for parents, error in (
        ([a], BadRequest),
        ([], BadRequest),
        ("ab", BadRequest),
        ([a, a], BadRequest),
        ([a, child], LockedVersion),
        ([child, a], LockedVersion),
        ([a, "nosuch"], UnknownVersion),
        ([a, other["master"]], BadRequest),
        ([a, 5], BadRequest),
    ):
        with pytest.raises(error):
            repo.merge(parents)
        with pytest.raises(error):
            repo.resolve(["kv"], parents)
    for names, error in (([], BadRequest), (["nosuch"], UnknownInstance), ([5], BadRequest)):
        with pytest.raises(error):
            repo.resolve(names, [a, b])
    with pytest.raises(BadRequest):
        repo.merge([a, b], uuid="short")
    with pytest.raises(BadRequest):
        repo.merge([a, b], 5)
    assert ds.store.trees() == trees
    assert list(repo.versions) == versions
    assert repo.merge(["master", repo.root + ":b1"], uuid="c" * 32).uuid == "c" * 32


def test_a_merge_that_breaks_off_leaves_nothing(ds, repo, monkeypatch):
    a, b = fork(repo, {}, {"k": b"a"}, {"k": b"b"})
    trees = ds.store.trees()
    monkeypatch.setattr(merging.Plan, "decide", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repo.merge([a, b])
    assert ds.store.trees() == trees
    assert len(repo.versions) == 3


def test_unversioned_instances_take_no_part(repo):
    un = repo.new_instance("keyvalue", "un", {"Versioned": "0"})
    un["k"] = b"v"
    a, b = fork(repo, {}, {"x": b"a"}, {"y": b"b"})
    a["un"]["k"] = b"w"
    m = repo.merge([a, b])
    assert read(m, "un") == {"k": b"w"}


def test_a_merge_costs_what_differs(local):
    repo = local.new_repo()
    kv = repo.new_instance("keyvalue", "kv")
    kv.put_many({f"{n:06d}": b"%d" % n for n in range(20_000)})
    root = repo["master"]
    root.commit()
    a, b = root.newversion(), root.new_branch("b")
    a["kv"]["000007"] = b"a"
    b["kv"]["015000"] = b"b"
    a.commit()
    b.commit()
    seen = []
    original = merging.Plan.decide

    def counted(self, *args):
        seen.append(1)
        return original(self, *args)

    merging.Plan.decide = counted
    try:
        m = repo.merge([a, b])
    finally:
        merging.Plan.decide = original
    assert len(seen) < 10
    assert (m["kv"]["000007"], m["kv"]["015000"], m["kv"]["010000"]) == (b"a", b"b", b"10000")
