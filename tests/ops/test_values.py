"""Bulk import and export of values: what goes in comes out, all or nothing, in bounded memory; killed, it goes on."""

from __future__ import annotations

import io
import random
import tarfile

import numpy as np
import pandas as pd
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.keyvalue import values
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotSupported
from dvid_dask.ops import values_in as importing
from dvid_dask.ops import values_out as exporting
from dvid_dask.ops.drafts import DRAFT

DATA = random.Random(5).randbytes(5_000_000)
CONTENT = {
    "a/1": b"one",
    "a/2": b"",
    "a/deep/er/3": DATA[:3_000_000],
    "b c%20?#ü": b"odd name",
    "z": DATA[:1000],
} | {f"many/{n:03d}": b"%d" % n for n in range(300)}


@pytest.fixture
def kv(repo):
    return repo.new_instance("keyvalue", "kv")


@pytest.fixture
def small(monkeypatch):
    """Many tasks of few values."""
    for module in (importing, exporting):
        monkeypatch.setattr(module, "_KEYS", 20)


def content(kv):
    return {key: kv.get(key, b"") for key in kv}


def drafts(kv):
    return [t for t in kv.version.datastore.store.trees() if t.startswith(DRAFT)]


def tar_of(members, mode="w", **about):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            for attribute, value in about.items():
                setattr(member, attribute, value)
            if data is not None:
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data or b""))
    return out.getvalue()


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize(
    "name", ["folder", "folder with %41 and space", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.zst", "x.parquet"]
)
def test_there_and_back(kv, repo, tmp_path, small, name):
    kv.put_many(CONTENT)
    path = tmp_path / name
    report = ops.export_values(kv, str(path), progress=False)
    assert (report.keys, report.bytes) == (len(CONTENT), sum(map(len, CONTENT.values())))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    other = repo.new_instance("keyvalue", "other")
    other.put_many({"kept": b"1", "a/1": DATA})
    back = ops.import_values(str(path), other, progress=False)
    assert (back.keys, back.bytes) == (report.keys, report.bytes)
    assert content(other) == CONTENT | {"kept": b"1"}
    assert list(other.disagreements()) == []
    (record,) = [r for r in other.mutations() if r["Action"] == "import"]
    assert (record["Keys"], record["Source"]) == (len(CONTENT), str(path))
    assert drafts(other) == []
    assert list(ops.unfinished_jobs(other)) == []


def test_the_files_are_the_values(kv, tmp_path):
    kv.put_many(CONTENT)
    ops.export_values(kv, str(tmp_path / "out"), progress=False)
    found = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {name: p.read_bytes() for name, p in found.items()} == CONTENT
    ops.export_values(kv, str(tmp_path / "t.parquet"), progress=False)
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert dict(zip(table.key, table.value, strict=True)) == CONTENT


def test_a_prefix_chooses_and_is_put_before(kv, repo, tmp_path):
    kv.put_many(CONTENT)
    for name in ("out", "out.tar", "out.parquet"):
        assert ops.export_values(kv, str(tmp_path / name), prefix="a/", progress=False).keys == 3
        other = repo.new_instance("keyvalue", name)
        ops.import_values(str(tmp_path / name), other, prefix="new/", progress=False)
        assert list(other) == ["new/a/1", "new/a/2", "new/a/deep/er/3"]


def test_streams(kv, repo):
    kv.put_many(CONTENT)
    out = io.BytesIO()
    ops.export_values(kv, out, progress=False)
    other = repo.new_instance("keyvalue", "other")

    class OneWay(io.RawIOBase):
        """A pipe: no seeking."""

        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, room):
            return self.data.readinto(room)

    ops.import_values(OneWay(out.getvalue()), other, progress=False)
    assert content(other) == CONTENT


def test_tables_of_others(kv, tmp_path):
    path = tmp_path / "t.parquet"
    table = pd.DataFrame({"id": [1, 2], "value": ["text", "é"], "key": ["a", "b"]})
    table.to_parquet(path, row_group_size=1)
    ops.import_values(str(path), kv, progress=False)
    assert content(kv) == {"a": b"text", "b": "é".encode()}
    for bad in (
        table.drop(columns="key"),
        table.assign(key=[1, 2]),
        table.assign(value=np.array([1.5, np.nan])),
        table.assign(key=["c", None]),
        table.assign(value=[b"1", None]),
        table.assign(key=["c", ""]),
    ):
        bad.to_parquet(path, row_group_size=1)
        with pytest.raises(BadRequest):
            ops.import_values(str(path), kv, progress=False)
    path.write_bytes(b"no table")
    with pytest.raises(BadRequest, match="no Parquet"):
        ops.import_values(str(path), kv, progress=False)
    assert content(kv) == {"a": b"text", "b": "é".encode()}
    assert drafts(kv) == []


# ------------------------------------------------------------------ refused, and nothing changed


def hostile():
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    whole = tar_of({"ok": b"1", "big": DATA})
    packed = tar_of({"ok": b"1", "big": DATA}, "w:gz")
    return {
        "absolute": tar_of({"ok": b"1", "/etc/passwd": b"x"}),
        "up": tar_of({"ok": b"1", "a/../../b": b"x"}),
        "dots": tar_of({"ok": b"1", "a/./b": b"x"}),
        "symlink": tar_of({"ok": None}, **link),
        "hardlink": tar_of({"ok": None}, type=tarfile.LNKTYPE, linkname="x"),
        "device": tar_of({"ok": None}, type=tarfile.CHRTYPE),
        "long key": tar_of({"ok": b"1", "x" * 5000: b"x"}),
        "cut": whole[: len(whole) // 2],
        "cut gz": packed[: len(packed) // 2],
        "damaged gz": packed[:100_000] + b"\0" * 1000 + packed[101_000:],
        "no end": whole[:-10240] if not whole[-10240:].strip(b"\0") else whole[:5_001_728],
        "no tar": b"x" * 10_000,
        "empty": b"",
    }


@pytest.mark.parametrize("case", hostile())
def test_a_bad_tar_changes_nothing(kv, tmp_path, case):
    kv["before"] = b"1"
    token = kv.view(0).token
    data = hostile()[case]
    for source in (io.BytesIO(data), str(tmp_path / "x.tar")):
        if isinstance(source, str):
            (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(BadRequest):
            ops.import_values(source, kv, progress=False)
        assert content(kv) == {"before": b"1"}
        assert list(kv.mutations()) == list(kv.mutations())[:1]
        assert drafts(kv) == []
        assert list(ops.unfinished_jobs(kv)) == []
    assert len(list(kv.mutations())) == 1
    assert token


def test_a_small_tar_that_unpacks_to_much_stays_in_bounds(kv, monkeypatch):
    monkeypatch.setattr(importing, "_BYTES", 4 << 20)
    monkeypatch.setattr(values, "_STAGED", 2 << 20)
    bomb = tar_of({f"{n}": bytes(20_000_000) for n in range(4)}, "w:xz")
    assert len(bomb) < 50_000
    held = []
    send = values.Upload._send
    monkeypatch.setattr(values.Upload, "_send", lambda self: (held.append(len(self._chunks)), send(self))[1])
    ops.import_values(io.BytesIO(bomb), kv, progress=False)
    assert dict(kv.sizes()) == {f"{n}": 20_000_000 for n in range(4)}
    assert max(held) <= 2


def test_what_can_not_be_exported_or_imported_is_refused(kv, repo, tmp_path):
    for key in ("/a", "a//b", "a/", "..", "a/../b", "./a", ".dvid-dask-ledger/x"):
        kv.clear()
        kv[key] = b"1"
        with pytest.raises(BadRequest, match="path of a file"):
            ops.export_values(kv, str(tmp_path / "out"), progress=False)
        assert not (tmp_path / "out").exists()
        out = io.BytesIO()
        assert ops.export_values(kv, out, progress=False).keys == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"1")
    kv.clear()
    with pytest.raises(Conflict):
        ops.export_values(kv, str(tmp_path / "full"), progress=False)
    for call in (
        lambda: ops.import_values(str(tmp_path / "nothing"), kv, progress=False),
        lambda: ops.import_values(str(tmp_path), kv, format="zip", progress=False),
        lambda: ops.export_values(kv, str(tmp_path / "x"), format="zip", progress=False),
        lambda: ops.import_values(io.BytesIO(), kv, format="parquet", progress=False),
        lambda: ops.export_values(kv, io.BytesIO(), format="parquet", progress=False),
        lambda: ops.import_values(str(tmp_path), kv, prefix="\0", progress=False),
    ):
        with pytest.raises(BadRequest):
            call()
    roi = repo.new_instance("roi", "roi")
    for call in (ops.import_values, lambda *a, **k: ops.export_values(*a[::-1], **k)):
        with pytest.raises(NotSupported):
            call(str(tmp_path), roi, progress=False)
    kv.version.commit()
    with pytest.raises(LockedVersion):
        ops.import_values(str(tmp_path / "full"), kv, progress=False)


def test_an_empty_instance_and_an_empty_folder(kv, tmp_path):
    for name in ("out", "out.tar", "out.parquet"):
        assert ops.export_values(kv, str(tmp_path / name), progress=False).keys == 0
    (tmp_path / "empty").mkdir()
    assert ops.import_values(str(tmp_path / "empty"), kv, progress=False).keys == 0
    assert ops.import_values(str(tmp_path / "out.tar"), kv, progress=False).keys == 0


# ------------------------------------------------------------------ interrupted, and others at work


@pytest.mark.parametrize("name", ["folder", "x.tar", "x.parquet"])
def test_an_import_that_breaks_off_goes_on(kv, repo, tmp_path, small, monkeypatch, name):
    kv.put_many(CONTENT)
    ops.export_values(kv, str(tmp_path / name), progress=False)
    other = repo.new_instance("keyvalue", "other")
    commit = importing.DraftLedger.commit
    before = []

    def failing(self, *args):
        if len(before) == 3:
            raise RuntimeError("the machine stops")
        before.append(args[1])
        return commit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(importing.DraftLedger, "commit", failing)
        with pytest.raises(RuntimeError):
            ops.import_values(str(tmp_path / name), other, progress=False)
    assert content(other) == {}
    assert len(ops.unfinished_jobs(other)) == 1
    done = []
    monkeypatch.setattr(
        importing.DraftLedger, "commit", lambda self, *args: (done.append(args[1]), commit(self, *args))[1]
    )
    ops.import_values(str(tmp_path / name), other, progress=False)
    assert done
    assert not set(before) & set(done)
    assert content(other) == CONTENT


def test_an_export_that_breaks_off_goes_on(kv, tmp_path, small, monkeypatch):
    kv.put_many(CONTENT)
    count = 0

    def failing(*args):
        nonlocal count
        count += 1
        if count > 200:
            raise RuntimeError("the machine stops")
        return exporting_write(*args)

    exporting_write = exporting.write_whole
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_whole", failing)
        with pytest.raises(Exception, match="machine stops"):
            ops.export_values(kv, str(tmp_path / "out"), progress=False)
    written = []
    monkeypatch.setattr(exporting, "write_whole", lambda *a: (written.append(a[0]), exporting_write(*a))[1])
    ops.export_values(kv, str(tmp_path / "out"), progress=False)
    assert len(written) < len(CONTENT) - 100
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == set(CONTENT)


def test_others_may_write_other_keys_meanwhile(kv, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"imported")
    finish = importing.DraftLedger.finish
    for key, others in (("b", True), ("a", False)):
        monkeypatch.setattr(
            importing.DraftLedger, "finish", lambda self, fn, key=key: (kv.put(key, b"theirs"), finish(self, fn))[1]
        )
        if others:
            ops.import_values(str(tmp_path), kv, progress=False)
            assert content(kv) == {"a": b"imported", "b": b"theirs"}
        else:
            (tmp_path / "a").write_bytes(b"imported again")
            with pytest.raises(Conflict):
                ops.import_values(str(tmp_path), kv, progress=False)
            assert content(kv) == {"a": b"theirs", "b": b"theirs"}
            assert drafts(kv) == []


def test_on_workers(tmp_path):
    from distributed import Client

    repo = dvid_dask.create(str(tmp_path / "store"), compact="never").new_repo()
    kv, other = (repo.new_instance("keyvalue", name) for name in "ab")
    kv.put_many(CONTENT)
    with Client(n_workers=1, threads_per_worker=2, dashboard_address=None):
        for name in ("out", "out.parquet"):
            ops.export_values(kv, str(tmp_path / name), progress=False)
            other.clear()
            ops.import_values(str(tmp_path / name), other, progress=False)
            assert content(other) == CONTENT
