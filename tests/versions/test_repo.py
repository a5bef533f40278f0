"""Repositories: texts, log, DVID's JSON."""

from __future__ import annotations

import json
import re

import pytest

from dvid_dask.errors import BadRequest, Conflict, UnknownVersion

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


def test_texts(ds, repo):
    assert (repo.alias, repo.description) == ("fly", "a small brain")
    repo.set_info(alias="bee")
    assert (repo.alias, repo.description) == ("bee", "a small brain")
    repo.set_info(description="")
    repo.set_info()
    assert (repo.alias, repo.description) == ("bee", "")
    with pytest.raises(BadRequest):
        repo.set_info(alias="new", description=5)
    assert repo.alias == "bee"
    assert ds.repos.named("bee") == repo
    with pytest.raises(UnknownVersion, match="did you mean 'bee'"):
        ds.repos.named("beee")
    ds.new_repo("bee")
    with pytest.raises(Conflict, match="2 repositories"):
        ds.repos.named("bee")


def test_log(repo):
    repo.add_log(["one", "two"])
    repo.add_log("three")
    repo.add_log([])
    assert [line[20:] for line in repo.log] == ["  one", "  two", "  three"]
    repo["master"].commit()
    repo.add_log("after the commit")
    assert len(repo.log) == 4


def test_given_roots(ds):
    mine = ds.new_repo(root="mine")
    assert mine.root == "mine"
    assert ds["mine"] == mine["master"]
    for bad in ("", "a/b", "a:b", 5):
        with pytest.raises(BadRequest):
            ds.new_repo(root=bad)
    with pytest.raises(Conflict):
        ds.new_repo(root="mine")
    mine["master"].commit()
    mine["master"].tag("other")
    with pytest.raises(Conflict):
        ds.new_repo(root="other")
    assert ds.check().leftovers == []
    # names of the datastore's own trees are not taken by roots that look like them
    for name in ("meta", "counters", "blobs"):
        assert ds.new_repo(root=name)["master"].locked is False
    assert ds.check().problems == []


def test_json(ds, repo):
    repo.new_instance("keyvalue", "kv")
    root = repo["master"]
    root.commit("done", ["logged"])
    child = root.newversion("next")
    side = root.new_branch("side")
    child.commit()
    side.commit()
    merged = repo.merge([child, side], "together")
    shown = json.loads(json.dumps(repo.to_json()))
    assert list(shown) == [
        "Root", "Alias", "Description", "Log", "Properties", "DataInstances", "DAG", "MutationID", "SavedMutationID",
        "Created", "Updated",
    ]  # fmt: skip
    assert shown["Root"] == shown["DAG"]["Root"] == repo.root
    assert len(shown["Log"]) == 1
    assert TIME.match(shown["Created"])
    nodes = shown["DAG"]["Nodes"]
    assert list(nodes) == [root.uuid, child.uuid, side.uuid, merged.uuid]
    first = nodes[root.uuid]
    assert list(first) == [
        "Branch", "Note", "Log", "UUID", "VersionID", "Locked", "Parents", "Children", "Created", "Updated",
    ]  # fmt: skip
    assert (first["Branch"], first["Note"], first["Locked"], first["Parents"]) == ("", "done", True, [])
    assert first["Children"] == [child.id, side.id]
    assert first["Log"][0].endswith("Z  logged")
    assert nodes[side.uuid]["Branch"] == "side"
    last = nodes[merged.uuid]
    assert (last["Parents"], last["Children"], last["Branch"]) == ([child.id, side.id], [], "")
    assert list(shown["DataInstances"]["kv"]["Base"]) == [
        "TypeName", "TypeURL", "TypeVersion", "DataUUID", "Name", "RepoUUID", "Compression", "Checksum", "Syncs",
        "Versioned", "KVStore", "LogStore", "Tags",
    ]  # fmt: skip
    assert shown["MutationID"] == shown["SavedMutationID"] == 1_000_000_000
    merged["kv"]["k"] = b"v"
    shown = repo.to_json()
    assert (shown["MutationID"], shown["SavedMutationID"]) == (1_000_000_001, 1_000_000_100)


def test_two_datastores_follow_each_other(local):
    """Each handle has its own caches, as two processes would."""
    from dvid_dask.store import Store
    from dvid_dask.versions import Datastore

    other = Datastore(Store.open(local.url), compact="never")
    repo = local.new_repo("one")
    root = repo["master"]
    kv = repo.new_instance("keyvalue", "kv")
    seen = other[root.uuid]
    assert seen["kv"].info == kv.info
    for n in range(300):  # more than the journal keeps
        repo.set_info(description=str(n))
    assert other.state(0).repo(repo.id).record.description == "299"
    seen.repo.set_info(alias="two")
    assert local.state(0).repo(repo.id).record.alias == "two"
    repo.delete_instance("kv")
    other.delete_repo(repo.root)
    assert len(local.state(0).repos) == 0
