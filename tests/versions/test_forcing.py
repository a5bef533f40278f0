"""Writes forced onto a committed version show in every descendant that has not set the key itself."""

from __future__ import annotations

import pytest

from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.versions import forcing
from dvid_dask.versions.forcing import PICTURE

from .conftest import sound


@pytest.fixture
def line(repo):
    """root - a - b on master, side from root; k set in root, other in a."""
    kv = repo.new_instance("keyvalue", "kv")
    kv.put_many({"k": b"r", "gone": b"r", "kept": b"r"})
    root = repo["master"]
    root.commit()
    a, side = root.newversion(), root.new_branch("side")
    a["kv"]["kept"] = b"a"
    side["kv"]["k"] = b"side"
    a.commit()
    b = a.newversion()
    return root, a, b, side


def values(version):
    return dict(version["kv"].items())


def test_carried_to_who_still_has_the_value(ds, line):
    root, a, b, side = line
    for call in (lambda: root["kv"].put("k", b"x"), lambda: root["kv"].delete("gone")):
        with pytest.raises(LockedVersion):
            call()
    root["kv"].put_many({"k": b"forced", "kept": b"forced", "new": b"forced"}, force=True, user="admin")
    root["kv"].delete("gone", force=True)
    assert values(root) == {"k": b"forced", "kept": b"forced", "new": b"forced"}
    assert values(a) == values(b) == {"k": b"forced", "kept": b"a", "new": b"forced"}
    assert values(side) == {"k": b"side", "kept": b"forced", "new": b"forced"}
    assert root.locked
    assert root.record.forced == 2
    assert [r.user for r in root["kv"].history()][-2:] == ["admin", ""]
    assert not [t for t in ds.store.trees() if t.startswith(PICTURE)]
    b["kv"]["k"] = b"b"  # open descendants take writes as before
    sound(ds)


def test_in_the_middle_of_a_line(line):
    root, a, b, _ = line
    a["kv"].put("k", b"forced", force=True)
    assert (root["kv"]["k"], a["kv"]["k"], b["kv"]["k"]) == (b"r", b"forced", b"forced")


def test_not_past_a_version_that_changed_the_key(line):
    _root, a, b, _ = line
    b["kv"]["k"] = b"b"
    b.commit()
    c = b.newversion()
    a["kv"].put("k", b"forced", force=True)
    assert (b["kv"]["k"], c["kv"]["k"]) == (b"b", b"b")
    b["kv"].delete("k", force=True)
    assert "k" not in c["kv"]


def test_a_merge_below_gets_it_once(repo, line):
    root, a, _, side = line
    side.commit()
    m = repo.merge([a, side])
    assert m["kv"]["k"] == b"side"
    root["kv"].put("new", b"forced", force=True)
    assert m["kv"]["new"] == b"forced"
    side["kv"].put("k", b"again", force=True)
    assert m["kv"]["k"] == b"again"


def test_on_an_open_version_force_means_nothing(repo):
    kv = repo.new_instance("keyvalue", "kv")
    kv.put("k", b"v", force=True)
    assert repo["master"].record.forced == 0


def test_what_fails_changes_nothing(ds, line):
    root, a, *_ = line

    def fail(m, space):
        space.put(b"kk", b"x")
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        root["kv"].mutate(fail, force=True)
    assert values(root)["k"] == b"r"
    assert root.record.forced == 0
    assert not [t for t in ds.store.trees() if t.startswith(PICTURE)]
    root["kv"].put("k", b"x", force=True)
    assert a["kv"]["k"] == b"x"


@pytest.mark.parametrize("step", ["before", "between"])
def test_broken_off_and_repaired(ds, repo, line, monkeypatch, step):
    """A kill after the version was changed, before or while its descendants are."""
    root, a, b, _side = line
    real, calls = forcing._carry, []

    def break_off(*args):
        calls.append(1)
        if step == "before" or len(calls) > 1:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(forcing, "_carry", break_off)
    with pytest.raises(KeyboardInterrupt):
        root["kv"].put("k", b"forced", force=True)
    monkeypatch.setattr(forcing, "_carry", real)
    assert root["kv"]["k"] == b"forced"
    assert b["kv"]["k"] == b"r"
    report = ds.check()
    assert len(report.unfinished) == 1
    assert report.ok
    assert ds.repair().unfinished == []
    assert (a["kv"]["k"], b["kv"]["k"]) == (b"forced", b"forced")
    sound(ds)


def test_the_next_forced_write_finishes_the_last(ds, line, monkeypatch):
    root, a, b, _ = line
    monkeypatch.setattr(forcing, "_PATIENCE", 0.1)
    real = forcing._carry
    monkeypatch.setattr(forcing, "_carry", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        root["kv"].put("k", b"one", force=True)
    monkeypatch.setattr(forcing, "_carry", real)
    root["kv"].put("new", b"two", force=True)
    assert values(b) == {"k": b"one", "kept": b"a", "gone": b"r", "new": b"two"}
    sound(ds)


def test_a_child_branched_meanwhile_gets_it(ds, repo, line, monkeypatch):
    """The child's tree is made before the forced write, its record after: it is branched anew."""
    _, a, b, _ = line
    b.commit()
    made = []
    real = type(ds).make_tree

    def make(self, uuid, source):
        name = real(self, uuid, source)
        if not made:
            made.append(name)
            b["kv"].put("k", b"forced", force=True)
        return name

    monkeypatch.setattr(type(ds), "make_tree", make)
    child = b.newversion()
    assert child["kv"]["k"] == b"forced"
    sound(ds)


def test_arrays_are_carried_too(ds, repo, line):
    """What is written through tensorstore inside the commit is found by comparing, so it is carried as well."""
    root, _, b, _ = line

    def write(m, space):
        (space.kvstore / "v/").write(b"chunk", b"data").result()

    root["kv"].mutate(write, force=True)
    assert b["kv"].view().get(b"v/chunk") == b"data"
