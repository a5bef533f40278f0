"""Values in chunks: the same as bytes in every read, whole or not there, and gone without rest."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.datatypes.keyvalue import values
from dvid_dask.errors import BadRequest, Conflict, LockedVersion
from dvid_dask.store import BadStore

CHUNK = 64
DATA = random.Random(1).randbytes(10_000)
HEAD_LIKE = values._MAGIC + b"no head at all"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(values, "CHUNK", CHUNK)
    monkeypatch.setattr("dvid_dask.datatypes.keyvalue.datatype.CHUNK", CHUNK)
    monkeypatch.setattr(values, "_STAGED", 5 * CHUNK)


@pytest.fixture
def repo():
    return dvid_dask.create("memory://", compact="never").new_repo()


@pytest.fixture
def kv(repo):
    return repo.new_instance("keyvalue", "kv")


def rest(kv):
    """Chunks and notes that are stored."""
    space = kv.view(0)
    return [key for kind in (values.CHUNKS, values.NOTES) for key in space.keys(kind)]


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK, 6 * CHUNK + 1, 2000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["put", "pieces", "bytes"])
def test_every_size_comes_back(kv, size, how):
    data = DATA[:size]
    if how == "put":
        kv["k"] = data
    else:
        with kv.writer("k") as out:
            step = 1 if how == "bytes" else 100
            for at in range(0, size, step):
                out.write(data[at : at + step])
    value = kv.value("k")
    assert (value.size, len(value), bool(value)) == (size, size, size > 0)
    assert value.read() == b"".join(value.pieces()) == data
    assert value.digest == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert value.whole == (size <= CHUNK)
    assert kv.get("k", b"") == data
    assert list(kv.sizes()) == [("k", size)]
    assert len(rest(kv)) == (-(-size // CHUNK) if size > CHUNK else 0)
    assert [r["Bytes"] for r in kv.mutations()] == [size]
    assert list(kv.disagreements()) == []


def test_reads_of_many_keys(kv):
    pairs = {"a": b"1", "b": DATA[:500], "c": b"", "d": DATA[:100], "e": HEAD_LIKE}
    kv.put_many(pairs)
    there = {k: v for k, v in pairs.items() if v}
    assert dict(kv.items()) == there
    assert kv.get_many([*pairs, "x"]) == [*(v or None for v in pairs.values()), None]
    assert dict(kv.get_range("b", "d")) == {k: there[k] for k in "bd"}
    assert [(k, v.size) for k, v in kv.scan_values()] == [(k, len(v)) for k, v in there.items()]
    assert dict(kv.sizes("b", "d")) == {k: len(pairs[k]) for k in "bcd"}
    assert list(kv) == list(pairs)
    assert all(kv.exists(k) for k in pairs)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([0, 10, CHUNK, 3 * CHUNK, 500]), *[st.one_of(st.none(), st.integers(-600, 600))] * 2)
def test_parts_are_slices(size, start, stop):
    repo = dvid_dask.create("memory://", compact="never").new_repo()
    kv = repo.new_instance("keyvalue", "kv")
    kv["k"] = DATA[:size]
    start = start or 0
    assert kv.value("k").read(start, stop) == b"".join(kv.value("k").pieces(start, stop)) == DATA[:size][start:stop]


def test_what_is_replaced_or_removed_leaves_nothing(kv):
    def fill():
        kv.put_many({"a": DATA[:500], "b": DATA[:700], "c": b"small"})

    for change in (
        lambda: kv.put_many({"a": b"x", "b": b"y"}),
        lambda: kv.delete_many(["a", "b"]),
        lambda: (kv.delete("a"), kv.__delitem__("b")),
        kv.clear,
    ):
        fill()
        assert len(rest(kv)) == 8 + 11
        change()
        assert rest(kv) == []
    fill()
    fill()
    assert len(rest(kv)) == 8 + 11


def test_a_writer_that_is_discarded_or_fails_leaves_nothing(kv):
    kv["k"] = b"before"
    with contextlib.suppress(RuntimeError), kv.writer("k") as out:
        out.write(DATA)
        assert len(rest(kv)) > 5
        assert list(kv) == ["k"]
        raise RuntimeError
    assert rest(kv) == []
    out = kv.writer("k")
    out.write(DATA)
    out.discard()
    out.discard()
    for late in (lambda: out.write(b"x"), out.commit):
        with pytest.raises(ValueError, match="already"):
            late()
    assert rest(kv) == []
    assert kv["k"] == b"before"
    assert len(list(kv.mutations())) == 1


def test_a_batch_that_fails_leaves_nothing(kv, monkeypatch):
    with pytest.raises(BadRequest):
        kv.put_many([("a", DATA), ("b", "text")])
    monkeypatch.setattr(values.Upload, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kv.put_many([("a", DATA), ("b", DATA)])
    assert rest(kv) == []
    assert list(kv) == []


def test_clearing_ends_what_is_being_written(kv):
    out = kv.writer("k")
    out.write(DATA)
    kv.clear()
    with pytest.raises(Conflict):
        out.commit()
    out.discard()
    assert rest(kv) == []
    assert list(kv) == []


def test_a_commit_of_the_version_ends_it_too(kv):
    out = kv.writer("k")
    out.write(DATA)
    kv.version.commit()
    with pytest.raises(LockedVersion):
        out.commit()
    with pytest.raises(LockedVersion):
        kv.writer("k")
    assert list(kv) == []


def test_what_a_kill_left_is_removed_by_a_later_upload(kv):
    kv.writer("k").write(DATA)  # never ends
    left = rest(kv)
    assert left
    with kv.writer("b") as out:
        out.write(DATA)
    assert set(left) <= set(rest(kv))  # it may be going on elsewhere
    ((note, _),) = kv.view(0).scan(values.NOTES)
    kv.mutate(lambda _, space: space.put(note, msgspec.json.encode({"time": time.time() - 1e6})))
    with kv.writer("c") as out:
        out.write(DATA)
    assert not set(left) & set(rest(kv))
    assert kv["b"] == kv["c"] == DATA


def test_versions_keep_their_own(kv, repo):
    kv["k"] = DATA[:500]
    root = kv.version
    root.commit()
    left, right = (root.new_branch(n)["kv"] for n in "ab")
    left["k"] = DATA[500:1000]
    right["l"] = DATA[:300]
    assert [(c.kind, c.what) for c in root.diff(left.version)["kv"]] == [("changed", "k")]
    for side in (left, right):
        side.version.commit()
    merged = repo.merge([left.version, right.version])["kv"]
    assert (kv["k"], merged["k"], merged["l"]) == (DATA[:500], DATA[500:1000], DATA[:300])
    assert list(merged.disagreements()) == []
    assert len(rest(merged)) == 8 + 5


def test_a_forced_write_reaches_descendants(kv):
    kv["k"] = DATA[:500]
    kv.version.commit()
    child, other = kv.version.newversion()["kv"], kv.version.new_branch("b")["kv"]
    other["k"] = b"own"
    kv.put("k", DATA, force=True)
    assert (kv["k"], child["k"], other["k"]) == (DATA, DATA, b"own")
    assert list(child.disagreements()) == []


def test_a_missing_chunk_is_found(kv):
    kv["k"] = DATA[:500]
    kv.mutate(lambda _, space: space.delete(rest(kv)[3]))
    with pytest.raises(BadStore, match="chunk 3 of 8"):
        kv["k"]
    assert kv.value("k").read(0, CHUNK) == DATA[:CHUNK]
    (told,) = kv.disagreements()
    assert "'k'" in told
