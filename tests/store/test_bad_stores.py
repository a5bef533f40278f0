"""Stores that are missing, damaged, foreign, too new, forbidden or full: a clear error, and nothing made worse."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from dvid_dask.store import BadStore, NewerFormat, Store, StoreError, StoreExists, StoreNotFound

HERE = Path(__file__).parents[2]


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "tests.store.workers", *map(str, arguments)]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120).stdout


def files(store: Store) -> dict[str, bytes]:
    folder = store._where.folder
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def filled(local) -> Store:
    tree = local.create_tree("a")
    tree.update(lambda tx: tx.put_many((b"k%04d" % i, b"v%d" % i * 20) for i in range(3_000)))
    tree.update(lambda tx: tx.put(b"large", b"x" * 50_000))
    local.branch("a", "b").update(lambda tx: tx.put(b"only b", b"y" * 5_000))
    for name in ("a", "b"):
        local.tree(name).fold()
    return local


@pytest.fixture
def fresh(monkeypatch) -> None:
    """Opens stores anew, as another process would, with nothing cached."""
    monkeypatch.setattr("dvid_dask.store.backend._backends", weakref.WeakValueDictionary())


def test_missing(tmp_path):
    for place in (tmp_path / "nothing", tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(FileNotFoundError, match="no store"):
            Store.open(place)
    assert not (tmp_path / "nothing").exists()


def test_create_where_something_is(tmp_path):
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(StoreExists, match="isn't a store"):
        Store.create(tmp_path)
    with pytest.raises(StoreExists, match="not a folder"):
        Store.create(tmp_path / "other.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize(
    "url", ["", "ftp://host/path", "s3://", "s3://bucket/x?port=1", "gs:///x", "gs://b/x?endpoint=y", b"x"]
)
def test_urls(url):
    with pytest.raises(ValueError, match="URL|scheme|bucket|unknown"):
        Store.open(url)


@pytest.mark.parametrize("settings", [{"node_bytes": 10}, {"inline_bytes": -1}, {"compression_level": 99}])
def test_settings(tmp_path, settings):
    with pytest.raises(ValueError, match="from"):
        Store.create(tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", BadStore, "damaged"),
        ("{", BadStore, "damaged"),
        ("\x00\xff", BadStore, "damaged"),
        ("[]", BadStore, "damaged"),
        ('{"store": "dvid-dask", "format": 1}', BadStore, "damaged"),
        ('{"store": "other", "format": 1}', BadStore, "other"),
        ('{"zarr_format": 3}', BadStore, "not ours"),
        ('{"store": "dvid-dask", "format": 2, "new": 1}', NewerFormat, "newer"),
    ],
)
def test_format_files(filled, fresh, text, error, words):
    place = filled._where.folder / "format.json"
    place.write_bytes(text.encode("latin-1"))
    before = files(filled)
    with pytest.raises(error, match=words):
        Store.open(filled.url)
    assert files(filled) == before


def test_unknown_members_of_the_format_are_fine(filled, fresh):
    place = filled._where.folder / "format.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "comment": "by hand"}))
    assert Store.open(filled.url).trees() == ["a", "b"]


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "newer", "bit"])
def test_damaged_manifests(filled, fresh, damage):
    place = filled._where.folder / "refs/a/manifest.ocdbt"
    data = bytearray(place.read_bytes())
    if damage == "newer":
        data[12] = 1
    elif damage == "bit":
        data[len(data) // 2] ^= 4
    else:
        data = {"empty": b"", "half": data[: len(data) // 2], "garbage": random.Random(1).randbytes(len(data))}[damage]
    place.write_bytes(data)
    before = files(filled)
    store = Store.open(filled.url)
    error = NewerFormat if damage == "newer" else BadStore
    for use in (
        lambda: list(store.tree("a").view().scan()),
        lambda: store.tree("a").update(lambda tx: tx.put(b"a", b"1")),
        lambda: store.branch("a", "c"),
        lambda: store.seal("a"),
        lambda: store.gc(0),
    ):
        with pytest.raises(error, match="manifest|'a'"):
            use()
    assert store.tree("b").view().get(b"only b") == b"y" * 5_000
    report = store.fsck()
    assert report.error_count == 1
    assert "tree 'a'" in report.errors[0]
    assert files(filled) == before


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "bits"])
def test_damaged_data_files(filled, fresh, damage):
    folder = filled._where.folder / "data"
    for place in folder.iterdir():
        data = place.read_bytes()
        if damage == "missing":
            place.unlink()
        elif damage == "bits":
            rng = random.Random(3)
            place.write_bytes(bytes(byte ^ (rng.random() < 0.1) for byte in data))
        else:
            place.write_bytes(data[: len(data) // 2 if damage == "half" else 0])
    before = files(filled)
    store = Store.open(filled.url)
    for use in (
        lambda: list(store.tree("a").view().scan()),
        lambda: store.tree("a").view().get(b"k0007"),
        lambda: store.tree("a").update(lambda tx: tx.put(b"a", b"1")),
        lambda: store.gc(0),
        lambda: list(store.diff(store.tree("a").view(), store.tree("b").view())),
    ):
        with pytest.raises(BadStore, match="missing or damaged|is missing|is damaged"):
            use()
    report = store.fsck(deep=True)
    assert not report.clean
    assert any("tree 'a'" in error for error in report.errors)
    assert files(filled) == before


def test_any_damage_at_the_beginning_of_a_node_is_called_so(filled, monkeypatch):
    _, base, path, offset, _ = filled.tree("a").view().manifest.root.location.split(":")
    place, at = filled._where.folder / f"{base}{path}", int(offset)
    data = place.read_bytes()
    for i in range(at, at + 40):
        for flipped in (0x01, 0x80, 0xFF):
            place.write_bytes(data[:i] + bytes([data[i] ^ flipped]) + data[i + 1 :])
            monkeypatch.setattr("dvid_dask.store.backend._backends", weakref.WeakValueDictionary())
            view = Store.open(filled.url).tree("a").view()
            for use in (lambda v: list(v.keys()), lambda v: v._results([b"k0007"]), lambda v: v.get(b"k0007")):
                with pytest.raises(BadStore, match="missing or damaged|is missing|is damaged"):
                    use(view)


def test_one_missing_file_is_named(filled, fresh):
    view = filled.tree("b").view()
    own = {change.key for change in filled.diff(filled.tree("a").view(), view)}
    assert own == {b"only b"}
    folder = filled._where.folder / "data"
    newest = max(folder.iterdir(), key=lambda place: place.stat().st_mtime_ns)
    newest.unlink()
    store = Store.open(filled.url)
    report = store.fsck()
    assert [newest.name in error and "tree 'b'" in error for error in report.errors] == [True]
    assert sum(1 for _ in store.tree("a").view().scan()) == 3_001


def test_foreign_files_are_reported_and_left_alone(filled):
    folder = filled._where.folder
    (folder / "notes.txt").write_text("mine")
    (folder / "data" / "notes.txt").write_text("mine")
    (folder / "refs" / "notes.txt").write_text("mine")
    (folder / "refs" / "empty").mkdir()
    assert filled.trees() == ["a", "b"]
    report = filled.fsck()
    assert report.clean
    assert report.leftovers == ["data/notes.txt", "notes.txt"]
    filled.gc(0)
    assert (folder / "notes.txt").exists()
    assert (folder / "data" / "notes.txt").exists()


def test_locks_of_killed_writers_are_swept_those_of_living_kept(filled):
    import fcntl

    folder = filled._where.folder
    dead, living = folder / "refs/a/manifest.ocdbt.__lock", folder / "data/0123.__lock"
    dead.write_bytes(b"half a manifest")
    living.write_bytes(b"")
    assert filled.fsck().leftovers == ["data/0123.__lock", "refs/a/manifest.ocdbt.__lock"]
    from dvid_dask.store.locks import _LINUX_SETLK, _WHOLE

    with living.open("r+b") as file:
        fcntl.fcntl(file.fileno(), getattr(fcntl, "F_OFD_SETLK", _LINUX_SETLK), _WHOLE)
        assert filled.gc(3600).locks == 0
        assert filled.gc(0).locks == 1
        assert living.exists()
    assert not dead.exists()
    assert filled.gc(0).locks == 1
    assert filled.fsck().leftovers == []


def test_full_disk(local):
    local.create_tree("a").update(lambda tx: tx.put(b"before", b"1"))
    output = run("fill_disk", local.url, 100_000)
    assert output.startswith("StoreFull ")
    assert "no space left" in output
    assert "small b'1' None" in output
    assert dict(local.tree("a").view(0).scan()) == {b"before": b"1", b"small": b"1"}
    assert local.fsck(deep=True).clean
    local.gc(0)
    assert local.fsck().leftovers == []
    assert dict(local.tree("a").view(0).scan()) == {b"before": b"1", b"small": b"1"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files that somebody else may not write")
def test_no_permission(tmp_path_factory):
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="store-permission-"))
    try:
        folder.chmod(0o755)
        store = Store.create(folder / "store")
        store.create_tree("a").update(lambda tx: tx.put(b"a", b"1"))
        before = files(store)
        lines = run("as_nobody", store.url, "write").splitlines()
        assert lines[0] == "read b'1'"
        assert lines[1].startswith("ReadOnly ")
        assert "permission denied" in lines[1]
        assert run("as_nobody", folder / "other", "create").startswith("ReadOnly ")
        (folder / "store/format.json").chmod(0)
        assert run("as_nobody", store.url, "open").startswith("ReadOnly ")
        assert files(store) == before
    finally:
        shutil.rmtree(folder)


def test_a_view_whose_files_were_swept_says_so(filled, fresh):
    tree = filled.tree("a")
    old = tree.view()
    filled.drop_tree("b")
    tree.update(lambda tx: tx.put_many((b"k%04d" % i, b"") for i in range(3_000)))
    filled.gc(0)
    import pickle

    with pytest.raises(BadStore, match="grace period"):
        list(pickle.loads(pickle.dumps(old)).scan())


def test_errors_are_one_tree():
    import dvid_dask.store as store

    errors = [e for e in vars(store).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) == 11
    assert all(issubclass(error, StoreError) for error in errors)
    assert str(StoreNotFound("a sentence")) == "a sentence"
    assert str(store.TreeNotFound("a sentence")) == "a sentence"
