"""Data instances: creation settings in DVID's terms, names, tags, subscriptions, renaming, deleting."""

from __future__ import annotations

import pytest

from dvid_dask import datatypes
from dvid_dask.datatypes.base import Datatype
from dvid_dask.errors import BadRequest, Conflict, Forbidden, LockedVersion, UnknownInstance, UnknownVersion

from .conftest import sound


@datatypes.register
class Follower(Datatype):
    typename = "test-follower"
    sync_partners = frozenset({"keyvalue"})


@datatypes.register
class FollowsAny(Datatype):
    typename = "test-follows-any"
    sync_partners = frozenset({"*"})


@datatypes.register
class FollowsNone(Datatype):
    typename = "test-follows-none"
    sync_partners = frozenset()


def made(repo, **settings):
    name = f"i{len(repo.instances)}"
    return repo.new_instance("keyvalue", name, settings).info


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "LZ4 compression, level -1"),
        ({"Compression": "none"}, "No compression, level -1"),
        ({"COMPRESSION": "snappy"}, "Go Snappy compression, level -1"),
        ({"compression": "LZ4"}, "LZ4 compression, level -1"),
        ({"Compression": "gzip"}, "gzip compression, level -1"),
        ({"Compression": "gzip:9"}, "gzip compression, level 9"),
        ({"Compression": "gzip:10"}, "No compression, level 0"),
        ({"Compression": "gzip:0"}, "No compression, level -1"),
        ({"Compression": "jpeg", "BlockSize": "64,64,64"}, "jpeg compression, level 64"),
        ({"Compression": "jpeg"}, "jpeg compression, level 32"),
    ],
)
def test_compression_texts(repo, given, text):
    assert made(repo, **given).compression == text


@pytest.mark.parametrize(
    "bad",
    [{"Compression": v} for v in ("zstd", "", "gzip:x", "gzip:", "lz5", "jpeg:80", "lz4:1", 5, ["lz4"], True, None)]
    + [{"Checksum": v} for v in ("md5", "", 1, None)]
    + [{"Versioned": v} for v in ("yes", "", 1, 0, None, "2")]
    + [{"Tags": v} for v in (5, {"a": "b"})]
    + [{"Compression": "jpeg", "BlockSize": v} for v in ("x", "200,1,1", 5)],
)
def test_refused_settings_make_nothing(ds, repo, bad):
    with pytest.raises(BadRequest):
        repo.new_instance("keyvalue", "bad", bad)
    assert dict(repo.instances) == {}
    assert repo.log == []
    sound(ds)


def test_other_common_settings(repo):
    info = made(repo, Checksum="CRC32", VERSIONED="False", tags="a=b,junk,c=d e", colour="red", count=5)
    assert (info.checksum, info.versioned, info.tags) == ("CRC32 checksum", False, {"a": "b", "c": "d e"})
    assert made(repo).tags is None
    assert made(repo, Tags="").tags == {}
    for text, value in (("1", True), ("0", False), ("TRUE", True), (True, True), (False, False)):
        assert made(repo, Versioned=text).versioned is value


@pytest.mark.parametrize("name", ["log", "branch", "note", "commit", "newversion", "", "a/b", "a\nb", 5, None])
def test_names_that_no_instance_can_have(repo, name):
    with pytest.raises((BadRequest, Conflict)):
        repo.new_instance("keyvalue", name)
    assert dict(repo.instances) == {}


@pytest.mark.parametrize("name", ["with blank", "größe", "100%", "a~b", "k,v", "n" * 150, "status", "a:b"])
def test_names_that_an_instance_can_have(repo, name):
    kv = repo.new_instance("keyvalue", name)
    kv["k"] = b"here"
    assert repo["master"][name]["k"] == b"here"


def test_names_are_unique_in_a_repository(ds, repo):
    repo.new_instance("keyvalue", "seg")
    with pytest.raises(Conflict):
        repo.new_instance("keyvalue", "seg")
    repo.new_instance("keyvalue", "Seg")
    ds.new_repo().new_instance("keyvalue", "seg")
    assert list(repo.instances) == ["Seg", "seg"]


@pytest.mark.parametrize("typename", ["nosuch", "KeyValue", "", 5, None])
def test_unknown_types(repo, typename):
    with pytest.raises(BadRequest):
        repo.new_instance(typename, "x")


def test_made_at_a_version_seen_from_all(ds, repo):
    root = repo["master"]
    root.commit()
    child, side = root.newversion(), root.new_branch("side")
    at_child = repo.new_instance("keyvalue", "at-child", at=child)
    assert at_child.info.created_at == child.uuid
    assert at_child.version == child
    assert root["at-child"].get("k") is None
    assert "at-child" in side
    with pytest.raises(LockedVersion):
        repo.new_instance("keyvalue", "late", at=root)
    assert repo.new_instance("keyvalue", "late", at=root, force=True).info.created_at == root.uuid
    other = ds.new_repo()
    with pytest.raises(BadRequest, match="another repository"):
        repo.new_instance("keyvalue", "x", at=other["master"])
    sound(ds)


def test_creation_is_logged(repo):
    repo.new_instance("keyvalue", "notes")
    assert len(repo.log) == 1
    assert "notes" in repo.log[0]


def test_unversioned_instances_have_one_state_and_no_lock(ds, repo):
    root = repo["master"]
    shared = repo.new_instance("keyvalue", "shared", {"Versioned": "false"})
    shared["a"] = b"root"
    root.commit()
    root["shared"]["b"] = b"on the locked root"
    child, side = root.newversion(), root.new_branch("side")
    child["shared"]["a"] = b"child"
    del side["shared"]["b"]
    for v in (root, child, side):
        assert dict(v["shared"].items()) == {"a": b"child"}
    root["shared"].set_tags({"k": "v"})
    assert side["shared"].info.tags == {"k": "v"}
    records = list(side["shared"].mutations())
    assert [r["Action"] for r in records] == ["postkv", "postkv", "postkv", "delete"]
    assert [r["UUID"] for r in records] == [root.uuid, root.uuid, child.uuid, side.uuid]
    sound(ds)


def test_tags_are_merged_or_replaced(repo):
    kv = repo.new_instance("keyvalue", "kv")
    kv.set_tags({"a": "1", "b": "2"})
    kv.set_tags({"b": "3", "c": "4"})
    kv.set_tags({})
    assert kv.info.tags == kv.tags == {"a": "1", "b": "3", "c": "4"}
    for bad in ({"e": 5}, {"e": None}, {5: "e"}):
        with pytest.raises(BadRequest):
            kv.set_tags(bad)
    kv.set_tags({"z": "9"}, replace=True)
    assert repo["master"]["kv"].info.tags == {"z": "9"}
    kv.set_tags({}, replace=True)
    assert kv.info.tags == {}
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        kv.set_tags({"late": "x"})
    kv.set_tags({"late": "x"}, force=True)
    assert kv.info.tags == {"late": "x"}


def test_syncs_are_added_or_replaced(ds, repo):
    for name in ("a", "b", "c"):
        repo.new_instance("keyvalue", name)
    me = repo.new_instance("test-follower", "me")

    def names():
        return repo["master"]["me"].base()["Syncs"]

    assert names() == []
    me.set_syncs(["a"])
    me.set_syncs(["b"])
    me.set_syncs(["a"])
    me.set_syncs([])
    assert sorted(names()) == ["a", "b"]
    me.set_syncs(["c"], replace=True)
    assert names() == ["c"]
    with pytest.raises(BadRequest, match="nosuch"):
        me.set_syncs(["a", "nosuch"], replace=True)
    with pytest.raises(BadRequest, match="can't follow"):
        me.set_syncs(["me"])
    assert names() == ["c"]
    me.set_syncs([], replace=True)
    assert names() == []
    assert any("sync" in line for line in repo.log)
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        me.set_syncs(["a"])
    sound(ds)


def test_who_may_follow_whom(repo):
    kv = repo.new_instance("keyvalue", "kv")
    anything = repo.new_instance("test-follows-any", "anything")
    none = repo.new_instance("test-follows-none", "none")
    anything.set_syncs(["anything", "none", "kv"])
    none.set_syncs([])
    none.set_syncs([], replace=True)
    with pytest.raises(BadRequest):
        none.set_syncs(["kv"])
    for partners in ([], ["none"]):
        with pytest.raises(BadRequest, match="can't sync"):
            kv.set_syncs(partners)


def test_settings_of_the_type_are_not_versioned(repo):
    kv = repo.new_instance("keyvalue", "kv")
    kv.update_settings(level=3, big=2**64 - 1)
    kv.update_settings(level=4)
    repo["master"].commit()
    child = repo["master"].newversion()
    assert child["kv"].info.settings == {"level": 4, "big": 2**64 - 1}


def test_rename(ds, repo):
    kv = repo.new_instance("keyvalue", "old")
    follower = repo.new_instance("test-follower", "follower")
    follower.set_syncs(["old"])
    kv["k"] = b"v"
    repo.new_instance("keyvalue", "taken")
    for new, error in (("taken", Conflict), ("log", Conflict), ("", BadRequest), ("a/b", BadRequest)):
        with pytest.raises(error):
            repo.rename_instance("old", new)
    repo.rename_instance("old", "new")
    assert repo["master"]["new"]["k"] == b"v"
    assert repo["master"]["new"].info.data_uuid == kv.info.data_uuid
    assert repo["master"]["follower"].base()["Syncs"] == ["new"]
    with pytest.raises(UnknownInstance):
        repo["master"]["old"]
    with pytest.raises(UnknownInstance):
        repo.rename_instance("old", "other")
    sound(ds)


def test_delete_instance_removes_its_keys_everywhere(ds, repo):
    root = repo["master"]
    kv = repo.new_instance("keyvalue", "kv")
    other = repo.new_instance("keyvalue", "other")
    follower = repo.new_instance("test-follower", "follower")
    follower.set_syncs(["kv", "other"])
    kv["k"] = other["k"] = b"v"
    root.commit()
    child = root.newversion()
    child["kv"]["j"] = b"w"
    prefix = kv.info.prefix
    repo.delete_instance("kv")
    assert list(repo.instances) == ["follower", "other"]
    assert repo["master"]["follower"].base()["Syncs"] == ["other"]
    for v in (root, child):
        assert v["other"]["k"] == b"v"
        assert not [k for k in v.tree().view(0).keys(b"") if k.startswith((prefix, b"log/" + prefix))]
    again = repo.new_instance("keyvalue", "kv")
    assert again.info.id > other.info.id
    assert list(again) == []
    with pytest.raises(UnknownInstance):
        repo.delete_instance("nosuch")
    report = ds.check()
    assert (report.problems, report.unfinished, report.leftovers) == ([], [], [])


def test_passcodes_guard_what_can_not_be_undone(ds):
    repo = ds.new_repo(passcode="sesame")
    repo.new_instance("keyvalue", "kv")
    for call in (
        lambda code: repo.delete_instance("kv", code),
        lambda code: repo.rename_instance("kv", "x", code),
        lambda code: ds.delete_repo(repo.root, code),
    ):
        for code in ("", "Sesame"):
            with pytest.raises(Forbidden):
                call(code)
    assert list(repo.instances) == ["kv"]
    assert "sesame" not in str(repo.to_json())
    assert "sesame" not in repo.record.passcode
    repo.rename_instance("kv", "x", "sesame")
    repo.delete_instance("x", "sesame")
    ds.delete_repo(repo.root, "sesame")
    assert len(ds.repos) == 0


def test_delete_repo_leaves_nothing(ds, repo):
    before = set(ds.store.trees())
    gone = ds.new_repo("gone")
    kv = gone.new_instance("keyvalue", "kv")
    gone.new_instance("keyvalue", "un", {"Versioned": "0"})
    gone["master"].commit(log=["a line"])
    tagged = gone["master"].tag("v1")
    version = gone["master"]
    with pytest.raises(UnknownVersion):
        ds.delete_repo(tagged.uuid)
    ds.delete_repo(gone.root)
    assert set(ds.store.trees()) == before
    assert list(ds.repos) == [repo.root]
    for use in (lambda: ds[gone.root], lambda: kv.get("k"), lambda: version.note, lambda: gone.alias, lambda: ds["v1"]):
        with pytest.raises(UnknownVersion):
            use()
    report = ds.check()
    assert (report.problems, report.unfinished, report.leftovers) == ([], [], [])
    assert list(ds.meta.log_keys()) == []
