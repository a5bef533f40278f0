"""A lock file with content, as a killed writer leaves it, doesn't spoil what is written after.

tensorstore 0.1.86 writes over the content without cutting it: the end of the older one then follows the new manifest.
"""

from __future__ import annotations

import weakref

import pytest

from dvid_dask.store import BadStore, Store


@pytest.fixture
def tree(tmp_path):
    tree = Store.create(str(tmp_path / "store")).create_tree("a")
    tree.update(lambda tx: tx.put(b"k", b"1"))
    return tree


def manifest(tree):
    from pathlib import Path

    return Path(tree.store.url.removeprefix("file://")) / "refs" / tree.name / "manifest.ocdbt"


def leave_lock(tree, content: bytes = b"z" * 2000) -> None:
    manifest(tree).with_name("manifest.ocdbt.__lock").write_bytes(content)


def test_the_next_commit_is_read_and_followed_by_others(tree):
    leave_lock(tree)
    tree.update(lambda tx: tx.put(b"k", b"2"))
    again = Store.open(tree.store.url, read_only=True).tree("a")
    for _ in range(2):
        assert tree.view(0).get(b"k") == again.view(0).get(b"k") == b"2"
    assert not tree.store.fsck().errors
    tree.update(lambda tx: tx.put(b"k", b"3"))
    assert manifest(tree).stat().st_size == len(tree.view(0)._manifest)
    assert again.view(0).get(b"k") == b"3"


def test_seal_branch_and_gc(tree):
    for n in range(5):
        leave_lock(tree)
        tree.update(lambda tx, n=n: tx.put(b"%d" % n, b"x" * 500))
    leave_lock(tree)
    branch = tree.store.branch("a", "b")
    leave_lock(tree)
    tree.store.seal("a")
    assert tree.view(0).sealed
    tree.store.gc(grace=0)
    assert tree.view(0).get(b"4") == branch.view(0).get(b"4") == b"x" * 500
    assert not tree.store.fsck().errors


def test_a_new_tree(tree):
    folder = manifest(tree).parent.parent / "c"
    folder.mkdir()
    (folder / "manifest.ocdbt.__lock").write_bytes(b"z" * 2000)
    new = tree.store.create_tree("c")
    assert list(new.view(0).keys(b"")) == []
    new.update(lambda tx: tx.put(b"k", b"v"))
    assert new.view(0).get(b"k") == b"v"


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:20] + b"\xff" + d[21:] + b"zz", lambda d: b"zz" + d])
def test_other_damage_is_still_damage(tree, damage, monkeypatch):
    path = manifest(tree)
    path.write_bytes(damage(path.read_bytes()))
    # as another process: this one knows from the journal that nobody has changed the manifest
    monkeypatch.setattr("dvid_dask.store.backend._backends", weakref.WeakValueDictionary())
    with pytest.raises(BadStore):
        Store.open(tree.store.url).tree("a").view(0).get(b"k")
