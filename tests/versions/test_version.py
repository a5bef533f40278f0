"""Commit, new versions, branches, tags, notes and logs: DVID's rules, without its defects."""

from __future__ import annotations

import pickle
import re

import pytest

from dvid_dask.errors import BadRequest, Conflict, LockedVersion, UnknownInstance, UnknownVersion

from .conftest import sound

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  "


def test_a_new_repository_has_one_open_version_on_master(ds, repo):
    (v,) = repo.versions.values()
    assert (v.uuid, v.branch, v.locked, v.parents, v.children, v.note, v.log) == (
        repo.root, "master", False, [], [], "", [],
    )  # fmt: skip
    assert re.fullmatch("[0-9a-f]{32}", v.uuid)
    assert ds.repos[repo.root] == repo
    sound(ds)


def test_commit_locks_replaces_the_note_and_extends_the_log(ds, repo):
    v = repo["master"]
    v.set_note("before")
    v.add_log("one")
    v.commit("after", ["two", "three"])
    assert v.locked
    assert v.note == "after"
    assert [re.sub("^" + STAMP, "", line) for line in v.log] == ["one", "two", "three"]
    for change in (
        lambda: v.commit(),
        lambda: v.set_note("late"),
        lambda: v.add_log("late"),
    ):
        with pytest.raises(LockedVersion):
            change()
    assert v.note == "after"
    assert len(v.log) == 3
    v.set_note("by force", force=True)
    v.add_log("by force", force=True)
    assert (v.note, len(v.log)) == ("by force", 4)
    sound(ds)


def test_an_empty_note_keeps_the_note(repo):
    v = repo["master"]
    v.set_note("kept")
    v.commit()
    assert v.note == "kept"


def test_newversion(repo):
    root = repo["master"]
    with pytest.raises(LockedVersion, match="commit it before"):
        root.newversion()
    root.commit()
    child = root.newversion("second")
    assert (child.note, child.log, child.locked, child.branch) == ("second", [], False, "master")
    assert child.parents == [root]
    assert root.children == [child]
    assert child.id > root.id
    with pytest.raises(Conflict, match="child on branch"):
        root.newversion()
    child.commit()
    with pytest.raises(Conflict):
        root.newversion()
    assert child.path_to_root() == [child, root]
    assert child.ancestors() == [root]


def test_branches_are_unique_in_the_repository(ds, repo):
    root = repo["master"]
    with pytest.raises(LockedVersion):
        root.new_branch("early")
    root.commit()
    side = root.new_branch("side", "a side branch")
    other = root.new_branch("other")
    other.commit()
    for at, name in ((root, "side"), (other, "side"), (other, "other2")):
        if name == "other2":
            assert at.new_branch(name).branch == name
        else:
            with pytest.raises(Conflict):
                at.new_branch(name)
    assert other.new_branch("Side").branch == "Side"
    with pytest.raises(LockedVersion):
        side.new_branch("deeper")
    for bad in ("", "master", "a:b", "a/b", "a\nb"):
        with pytest.raises(BadRequest):
            root.new_branch(bad)
    assert set(repo.branches) == {"master", "side", "other", "other2", "Side"}
    second = ds.new_repo()
    second["master"].commit()
    assert second["master"].new_branch("side").repo == second
    sound(ds)


def test_branching_under_the_own_name_continues(repo):
    root = repo["master"]
    root.commit()
    work = root.new_branch("work")
    work.commit()
    w2 = work.new_branch("work")
    with pytest.raises(Conflict):
        work.newversion()
    assert repo.branch_versions("work") == [w2, work, root]


def test_given_uuids(ds, repo):
    root = repo["master"]
    root.commit()
    for bad in ("abc", "z" * 32, "12345678-1234-1234-1234-123456789012", "0" * 33, "", 5):
        with pytest.raises(BadRequest):
            root.newversion(uuid=bad)
    mine = "AbCdEf" + "0" * 26
    child = root.newversion(uuid=mine)
    assert ds[mine] == child
    with pytest.raises(Conflict, match="exists already"):
        root.new_branch("x", uuid=mine)
    # the same digits in another case are another UUID to DVID's clients, in a tree of its own
    twin = root.new_branch("x", uuid=mine.lower())
    assert ds[mine.lower()] == twin
    assert twin.record.tree != child.record.tree
    with pytest.raises(Conflict):
        ds.new_repo(root=mine)
    sound(ds)


def test_a_tag_is_a_committed_child_named_by_its_text(ds, repo):
    root = repo["master"]
    kv = repo.new_instance("keyvalue", "kv")
    kv["k"] = b"tagged"
    with pytest.raises(LockedVersion):
        root.tag("early")
    root.commit()
    tag = root.tag("v 1.0-größe")
    assert (tag.uuid, tag.locked, tag.branch, tag.log) == ("v 1.0-größe", True, "tag-v 1.0-größe", [])
    assert root.uuid in tag.note
    assert root.tag("noted", note="mine").note == "mine"
    assert ds["v 1.0"]["kv"]["k"] == b"tagged"
    with pytest.raises(LockedVersion):
        tag["kv"]["k"] = b"x"
    with pytest.raises(Conflict):
        root.tag("v 1.0-größe")
    for bad in ("", "a/b", "a:b", "a\0b", "x" * 300, 5):
        with pytest.raises(BadRequest):
            root.tag(bad)
    child = tag.new_branch("from-tag")
    child["kv"]["j"] = b"added"
    assert dict(child["kv"].items()) == {"j": b"added", "k": b"tagged"}
    assert dict(tag["kv"].items()) == {"k": b"tagged"}
    ds.compact()
    sound(ds)


@pytest.mark.parametrize("bad", [5, None, b"x", ["x"]])
def test_values_that_are_no_texts_change_nothing(ds, repo, bad):
    v = repo["master"]
    for call in (
        lambda: v.set_note(bad),
        lambda: v.commit(bad),
        lambda: v.commit("note", [bad]),
        lambda: v.add_log([bad]),
        lambda: repo.add_log([bad]),
        lambda: ds.new_repo(bad),
    ):
        with pytest.raises(BadRequest):
            call()
    assert (v.note, v.log, repo.log, v.locked, len(ds.repos)) == ("", [], [], False, 1)


def test_data_is_seen_by_children_and_not_by_siblings(repo):
    root = repo["master"]
    kv = repo.new_instance("keyvalue", "kv")
    kv.put_many({"x": b"r", "y": b"r"})
    root.commit()
    a, b = root.newversion(), root.new_branch("b")
    a["kv"]["x"] = b"a"
    del b["kv"]["y"]
    assert dict(root["kv"].items()) == {"x": b"r", "y": b"r"}
    assert dict(a["kv"].items()) == {"x": b"a", "y": b"r"}
    assert dict(b["kv"].items()) == {"x": b"r"}


def test_handles_are_values(ds, repo):
    v = repo["master"]
    assert v == ds[v.uuid]
    assert hash(v) == hash(ds[v.uuid])
    assert len({v, ds[v.uuid]}) == 1
    assert v != ds.new_repo()["master"]
    assert pickle.loads(pickle.dumps(v)) == v
    assert pickle.loads(pickle.dumps(repo)) == repo


def test_handles_show_themselves(ds, repo):
    v = repo["master"]
    repo.new_instance("keyvalue", "notes")
    v.commit("first <b>")
    for thing, word in (
        (ds, "1 repositories"),
        (repo, "fly"),
        (v, "committed: first"),
        (v["notes"], "keyvalue 'notes'"),
    ):
        assert word in repr(thing)
    assert "notes" in repr(repo.instances)
    assert "committed" in repr(repo.versions)
    assert "fly" in repr(ds.repos)
    for thing in (ds, repo, v):
        html = thing._repr_html_()
        assert html.startswith("<table>")
        assert "first <b>" not in html


def test_unknown_names_get_suggestions(repo):
    repo.new_instance("keyvalue", "segmentation")
    v = repo["master"]
    with pytest.raises(UnknownInstance, match="did you mean 'segmentation'"):
        v["segmentaton"]
    with pytest.raises(UnknownInstance, match="did you mean"):
        repo.instances["Segmentation"]
    with pytest.raises(UnknownVersion):
        repo.versions["nosuch"]
    assert "segmentation" in v
    assert list(v) == ["segmentation"]
