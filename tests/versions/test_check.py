"""Contradictions are found, what was killed is finished, what is left over is swept."""

from __future__ import annotations

import msgspec
import pytest

from dvid_dask.errors import LockedVersion
from dvid_dask.versions.meta import instance_key, node_key

from .conftest import sound


@pytest.fixture
def history(repo):
    kv = repo.new_instance("keyvalue", "kv")
    kv["a"] = b"1"
    root = repo["master"]
    root.commit("done", ["line"])
    child, side = root.newversion(), root.new_branch("side")
    side["kv"]["a"] = b"2"
    child.commit()
    side.commit()
    repo.merge([child, side])
    return root, child, side


def overwrite(ds, key: str, **changes):
    """Change a record behind everybody's back."""
    tree = ds.store.tree("meta")

    def write(tx):
        record = msgspec.json.decode(tx.get(key.encode()))
        tx.put(key.encode(), msgspec.json.encode({**record, **changes}))

    tree.update(write)
    ds.meta._state = None
    ds.meta._token = ""


def test_a_sound_store(ds, history):
    report = ds.check()
    assert report.ok
    assert (report.repos, report.versions, report.instances) == (1, 4, 1)
    assert (report.unfinished, report.leftovers) == ([], [])
    assert "no contradictions" in str(report)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parents": [77]}, "parent number 77 is missing"),
        ({"parents": []}, "2 versions without a parent"),
        ({"locked": False}, "commit was interrupted"),
        ({"tree": "nosuch"}, "tree 'nosuch' is missing"),
        ({"logged": 5}, "counts 5 log lines, 0 are kept"),
    ],
)
def test_damaged_versions(ds, repo, history, changes, words):
    child = history[1]
    overwrite(ds, node_key(repo.id, child.id), **changes)
    assert words in str(ds.check())


def test_other_damage(ds, repo, history):
    root, child, side = history
    last = repo["master"]
    overwrite(ds, node_key(repo.id, last.id), conflicts=3)
    overwrite(ds, node_key(repo.id, child.id), tree=side.record.tree)
    overwrite(ds, instance_key(repo.id, 1), syncs=["nosuch"], versioned=False)
    overwrite(ds, "h", versions=2)
    text = str(ds.check())
    for words in (
        "3 conflicts were counted, 0 are kept",
        "shares tree",
        "syncs with nosuch",
        "is unversioned, but tree",
        "was never given out",
    ):
        assert words in text, words
    assert not ds.check().ok


def test_an_open_tree_under_a_committed_version(ds, repo):
    repo.new_instance("keyvalue", "kv")
    overwrite(ds, node_key(repo.id, repo["master"].id), locked=True)
    assert "not sealed" in str(ds.check())


def test_a_half_done_commit(ds, repo):
    """Sealed, and the metadata doesn't know: reads go on, writes are refused, committing again finishes it."""
    kv = repo.new_instance("keyvalue", "kv")
    kv["a"] = b"1"
    v = repo["master"]
    ds.sealer.seal(v.record.tree)
    assert kv["a"] == b"1"
    assert not v.locked
    for force in (False, True):
        with pytest.raises(LockedVersion, match="commit it again"):
            kv.put("a", b"2", force=force)
    with pytest.raises(LockedVersion):
        v.newversion()
    assert len(ds.check().unfinished) == 1
    v.commit("after all")
    assert (v.locked, v.note) == (True, "after all")
    sound(ds)


def test_repair_finishes_a_half_done_commit(ds, repo):
    repo.new_instance("keyvalue", "kv")
    v = repo["master"]
    ds.sealer.seal(v.record.tree)
    report = ds.repair()
    assert (report.problems, report.unfinished) == ([], [])
    assert v.locked
    assert "repair" in v.log[0]
    assert v.newversion()["kv"].get("x") is None


def test_trees_without_a_version_are_swept_after_the_grace(ds, repo, monkeypatch):
    repo["master"].commit()
    orphan = "f" * 32
    ds.store.branch(repo["master"].record.tree, orphan)
    other = ds.store.create_tree("of-another-room")
    assert [t for t in ds.check().leftovers if orphan in t]
    assert ds.check().ok
    ds.gc(grace=3600)
    ds.gc(grace=3600)
    assert ds.store.has_tree(orphan)
    # a name that is taken stands in nobody's way
    child = repo["master"].newversion(uuid=orphan)
    assert child.record.tree != orphan
    ds.gc(grace=0)  # the first sweep has seen it long ago
    assert not ds.store.has_tree(orphan)
    assert other.view(0).token
    assert child.note == ""
    sound(ds)


def test_drop_orphans(ds, repo):
    ds.store.create_tree("e" * 32)
    ds.repair()
    assert ds.store.has_tree("e" * 32)
    assert ds.repair(drop_orphans=True).leftovers == []


def test_keys_of_a_deleted_instance_are_swept(ds, repo, monkeypatch):
    """A kill between the metadata and the trees."""
    import dvid_dask.versions.check as module

    kv = repo.new_instance("keyvalue", "kv")
    kv["a"] = b"1"
    repo["master"].commit()
    child = repo["master"].newversion()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "remove_instance_keys", killed)
    with pytest.raises(KeyboardInterrupt):
        repo.delete_instance("kv")
    assert len(ds.check().leftovers) == 2
    assert ds.check().ok
    ds.gc()
    assert ds.check().leftovers == []
    assert list(child.tree().view(0).keys()) == []


def test_a_mutation_id_beyond_the_counter(ds, repo):
    kv = repo.new_instance("keyvalue", "kv")
    kv["a"] = b"1"
    repo.counter("mutation").set(5)
    assert "the counter stands at 5" in str(ds.check())


def test_stores_that_are_none_of_ours(ds):
    from dvid_dask.store import BadStore, NewerFormat, Store
    from dvid_dask.versions import Datastore

    bare = Store.create("memory://bare-store")
    with pytest.raises(KeyError):
        Datastore(bare)
    bare.create_tree("meta")
    with pytest.raises(BadStore, match="no metadata header"):
        Datastore(bare).state()
    overwrite(ds, "h", format=99)
    with pytest.raises(NewerFormat, match="format 99"):
        ds.state(0)
