"""keyvalue: a mapping from texts to bytes, with DVID's ranges, zero-length values and log."""

from __future__ import annotations

import itertools
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.errors import BadRequest, LockedVersion, NotFound

GO_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} \+0000 UTC$")


@pytest.fixture
def repo():
    return dvid_dask.create("memory://", compact="now").new_repo()


@pytest.fixture
def kv(repo):
    return repo.new_instance("keyvalue", "kv")


def test_a_mapping(kv):
    assert not kv
    assert len(kv) == 0
    kv["b"] = b"2"
    kv.update({"a": b"1"}, c=b"3")
    assert (list(kv), list(kv.keys())) == (["a", "b", "c"], ["a", "b", "c"])
    assert (dict(kv.items()), list(kv.values())) == ({"a": b"1", "b": b"2", "c": b"3"}, [b"1", b"2", b"3"])
    assert "a" in kv
    assert "x" not in kv
    assert 5 not in kv
    assert "" not in kv
    assert kv
    assert kv.get("x") is None
    assert kv.get("x", b"y") == b"y"
    assert kv.pop("a") == b"1"
    assert kv.setdefault("a", b"new") == b"new"
    del kv["b"]
    for missing in (lambda: kv["b"], lambda: kv.pop("b"), lambda: kv.__delitem__("b")):
        with pytest.raises(KeyError):
            missing()
    kv.clear()
    assert dict(kv.items()) == {}


def test_values_come_back_as_they_were(kv):
    values = {
        "all": bytes(range(256)),
        "zero": b"\0",
        "long": bytes(500_000),
        "view": memoryview(b"abc"),
        "array": bytearray(b"abc"),
    }
    for key, value in values.items():
        kv[key] = value
        assert kv[key] == bytes(value)
    assert kv.get_many(["long", "x", "zero"]) == [bytes(500_000), None, b"\0"]


def test_a_value_of_length_zero_reads_as_absent_but_is_there(repo, kv):
    kv["a"] = b"inherited"
    repo["master"].commit()
    child = repo["master"].newversion()["kv"]
    child["a"] = b""
    assert child.get("a") is None
    with pytest.raises(NotFound):
        child["a"]
    assert child.exists("a")
    assert "a" in child
    assert list(child) == ["a"]
    assert child.keyrange("a", "b") == ["a"]
    assert list(child.get_range("a", "b")) == []
    assert child.get_many(["a"]) == [None]
    assert dict(child.items()) == {}
    assert kv["a"] == b"inherited"


KEYS = [
    "a b", "a.b.c", "p+q", "50%", "x?y", "#5", "name=1&2", "(x)[y]", "semi;colon", "it's", "~t", "größe", "神経",
    "UPPER", "upper", "with/slash", "\U0001f9e0", "\uffff", "x" * 4096,
]  # fmt: skip


def test_keys_of_any_script_in_byte_order(kv):
    kv.put_many({k: k.encode() for k in KEYS})
    assert list(kv) == sorted(KEYS, key=str.encode)
    assert all(kv[k] == k.encode() for k in KEYS)
    assert kv.keyrange("a", "q") == ["a b", "a.b.c", "größe", "it's", "name=1&2", "p+q"]


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * 4097, "\ud800", 5, None, b"x"])
def test_keys_that_can_not_be(kv, bad):
    for call in (
        lambda: kv.put(bad, b"x"),
        lambda: kv.get(bad),
        lambda: kv.delete(bad),
        lambda: kv.exists(bad),
        lambda: kv.get_many(["a", bad]),
        lambda: kv.put_many([("good", b"x"), (bad, b"x")]),
    ):
        with pytest.raises(BadRequest):
            call()
    assert list(kv) == []


@pytest.mark.parametrize("bad", ["text", 5, None, [1]])
def test_values_that_can_not_be(kv, bad):
    with pytest.raises(BadRequest, match="must be bytes"):
        kv.put_many({"good": b"x", "bad": bad})
    assert list(kv) == []


@given(
    st.sets(st.text(alphabet="abc", min_size=1, max_size=3), max_size=12),
    st.text(alphabet="abcd", max_size=3),
    st.text(alphabet="abcd", max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_ranges_include_both_ends(keys, first, last):
    kv = dvid_dask.create("memory://", compact="now").new_repo().new_instance("keyvalue", "kv")
    kv.put_many({k: k.encode() for k in keys})
    expected = sorted(k for k in keys if first <= k <= last)
    assert kv.keyrange(first, last) == expected
    assert list(kv.get_range(first, last)) == [(k, k.encode()) for k in expected]
    assert [k for k, _ in kv.get_range(first)] == sorted(k for k in keys if k >= first)
    assert [k for k, _ in kv.get_range(None, last)] == sorted(k for k in keys if k <= last)


def test_a_batch_is_one_commit(repo, kv):
    tree = repo["master"].tree()
    generation = tree.view(0).manifest.generation
    kv.put_many({f"{n}": b"x" for n in range(100)})
    assert tree.view(0).manifest.generation == generation + 1
    kv.put_many({})
    assert tree.view(0).manifest.generation == generation + 1
    kv.put_many([("k", b"first"), ("k", b"last")])
    assert kv["k"] == b"last"


def test_the_log_is_dvids(repo, kv):
    kv.put("a", b"12345", user="ann", app="tool")
    kv.delete("a")
    kv.delete("never there")
    kv.put_many([("c", b"ccc"), ("d", b"dddd")])
    records = list(kv.mutations())
    assert [list(r) for r in records[:2]] == [
        ["Action", "Bytes", "Key", "Timestamp", "UUID"],
        ["Action", "Key", "Timestamp", "UUID"],
    ]
    assert [(r["Action"], r["Key"], r.get("Bytes")) for r in records] == [
        ("postkv", "a", 5),
        ("delete", "a", None),
        ("delete", "never there", None),
        ("postkv", "c", 3),
        ("postkv", "d", 4),
    ]
    assert all(GO_TIME.match(r["Timestamp"]) and r["UUID"] == repo.root for r in records)
    kept = list(kv.history())
    assert (kept[0].user, kept[0].app) == ("ann", "tool")
    assert kept[3].id == kept[4].id > kept[2].id
    repo["master"].commit()
    child = repo["master"].newversion()["kv"]
    child["e"] = b"x"
    assert [r["Key"] for r in child.mutations()] == ["e"]
    assert len(list(kv.mutations())) == 5


def test_a_committed_version_takes_nothing(repo, kv):
    kv["a"] = b"1"
    repo["master"].commit()
    for call in (
        lambda: kv.put("a", b"2"),
        lambda: kv.delete("a"),
        lambda: kv.put_many({}),
        lambda: kv.put_many({"b": b"2"}),
        lambda: kv.clear(),
        lambda: kv.__delitem__("a"),
        lambda: kv.set_tags({"a": "b"}),
    ):
        with pytest.raises(LockedVersion):
            call()
    assert dict(kv.items()) == {"a": b"1"}
    kv.put("a", b"2", force=True)
    kv.delete("b", force=True)
    assert dict(kv.items()) == {"a": b"2"}


def test_one_call_reads_one_state(kv):
    kv.put_many({f"{n:04d}": b"old" for n in range(3000)})
    pairs = kv.get_range()
    seen = [next(pairs)]
    kv.put_many({f"{n:04d}": b"new" for n in range(3000)})
    seen += pairs
    assert {v for _, v in seen} == {b"old"}
    assert kv["2999"] == b"new"


def test_missing_keys_get_suggestions(kv):
    kv["segmentation"] = b"x"
    with pytest.raises(NotFound, match="did you mean 'segmentation'") as caught:
        kv["segmentaton"]
    assert caught.value.status == 404
    with pytest.raises(NotFound):
        kv["zzz"]


def test_pickles_and_shows_itself(tmp_path):
    with dvid_dask.create(str(tmp_path / "store"), compact="never") as ds:
        kv = ds.new_repo().new_instance("keyvalue", "notes")
        kv["a"] = b"1"
        again = pickle.loads(pickle.dumps(kv))
        assert again == kv
        assert hash(again) == hash(kv)
        assert again["a"] == b"1"
        assert "keyvalue 'notes'" in repr(kv)
        assert kv != kv.repo.new_instance("keyvalue", "others")


def test_info(repo):
    kv = repo.new_instance("keyvalue", "kv", {"Compression": "gzip:5", "Checksum": "crc32", "Tags": "x=1"})
    shown = kv.describe()
    assert shown["Extended"] == {}
    base = shown["Base"]
    assert (base["TypeName"], base["TypeURL"], base["TypeVersion"]) == (
        "keyvalue",
        "github.com/janelia-flyem/dvid/datatype/keyvalue",
        "0.2",
    )
    assert (base["Compression"], base["Checksum"], base["Tags"]) == (
        "gzip compression, level 5", "CRC32 checksum", {"x": "1"},
    )  # fmt: skip
    assert (base["Syncs"], base["Versioned"], base["RepoUUID"]) == ([], True, repo.root)


def test_diff_names_keys(repo, kv):
    kv.put_many(dict.fromkeys("abc", b"1"))
    v1 = repo["master"]
    v1.commit()
    v2 = v1.newversion()
    assert len(v1.diff(v2)) == 0
    v2["kv"].put_many({"a": b"2", "d": b"4"})
    del v2["kv"]["b"]
    diff = v1.diff(v2)
    assert [(c.what, c.kind) for c in diff["kv"]] == [("a", "changed"), ("b", "removed"), ("d", "added")]
    assert diff["kv"].counts() == {"added": 1, "removed": 1, "changed": 1}
    assert [(c.what, c.kind) for c in v2.diff(v1)["kv"]] == [("a", "changed"), ("b", "added"), ("d", "removed")]
    assert "1 added" in repr(diff)
    assert list(v1.diff(v2, instance="kv")) == ["kv"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([b"1", b"2", b"", None])), max_size=25))
@settings(max_examples=40, deadline=None)
def test_against_a_dictionary(steps):
    kv = dvid_dask.create("memory://", compact="now").new_repo().new_instance("keyvalue", "kv")
    model: dict[str, bytes] = {}
    for (key, value), batch in zip(steps, itertools.cycle([False, True]), strict=False):
        if value is None:
            kv.delete(key)
            model.pop(key, None)
        elif batch:
            kv.put_many({key: value})
            model[key] = value
        else:
            kv[key] = value
            model[key] = value
        assert list(kv) == sorted(model)
        assert dict(kv.items()) == {k: v for k, v in model.items() if v}
        assert [kv.exists(k) for k in "abcd"] == [k in model for k in "abcd"]
    assert len(list(kv.mutations())) == len(steps)
