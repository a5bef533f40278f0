"""Annotations as Python sees them: a mapping with stamps, documents, versions, merges, several processes."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time

import pyarrow as pa
import pytest

import dvid_dask
from dvid_dask.datatypes.neuronjson.record import key_of
from dvid_dask.errors import BadRequest, LockedVersion, NotFound

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$")


@pytest.fixture
def repo():
    return dvid_dask.create("memory://", compact="never").new_repo()


@pytest.fixture
def neurons(repo):
    return repo.new_instance("neuronjson", "neurons")


def test_a_mapping(neurons):
    assert not neurons
    neurons.set(5, {"type": "PN", "position": [1, 2, 3]}, user="ann")
    neurons.set(2**64 - 1, {"bodyid": 2**64 - 1}, user="ann")
    assert (list(neurons), len(neurons), 5 in neurons, 6 in neurons, "x" in neurons) == (
        [5, 2**64 - 1],
        2,
        True,
        False,
        False,
    )
    assert neurons[5] == {"bodyid": 5, "position": [1, 2, 3], "type": "PN"}
    assert dict(neurons.items())[2**64 - 1] == {"bodyid": 2**64 - 1}
    assert neurons.get(6) is None
    assert neurons.get(6, {}) == {}
    with pytest.raises(NotFound):
        neurons[6]
    whole = neurons.get(5, show="all")
    assert whole["type_user"] == "ann"
    assert STAMP.match(whole["position_time"])
    assert pickle.loads(pickle.dumps(neurons))[5] == neurons[5]
    assert neurons.bodies(6).tolist() == [2**64 - 1]
    assert neurons.bodies(6, 5).tolist() == []


def test_set_replaces_and_update_merges(neurons):
    neurons.set(5, {"a": 1, "b": 2}, user="ann")
    neurons.update(5, {"b": 3, "c": 4}, user="bob")
    neurons.update(5, {"b": 9, "d": 5}, user="cyd", conditional=["b"])
    assert neurons.get(5, show="user") == {
        "bodyid": 5,
        "a": 1,
        "a_user": "ann",
        "b": 3,
        "b_user": "bob",
        "c": 4,
        "c_user": "bob",
        "d": 5,
        "d_user": "cyd",
    }
    neurons.set(5, {"a": 1, "c": 0}, user="dee")
    assert neurons.get(5, show="user") == {"bodyid": 5, "a": 1, "a_user": "ann", "c": 0, "c_user": "dee"}
    neurons.update(5, {"a": None}, user="eve")
    assert neurons.get(5, show="user") == {"bodyid": 5, "a_user": "eve", "c": 0, "c_user": "dee"}
    neurons.put_many([(5, {"c": 1}), (5, {"c": 2, "e": 1}), (6, b'{"bodyid": 6}')], user="fay")
    assert neurons[5] == {"bodyid": 5, "c": 2, "e": 1}


@pytest.mark.parametrize(
    ("body", "annotation"),
    [
        (5, {"bodyid": 6}),
        (5, {"bodyid": None}),
        (5, {"bodyid": True}),
        (5, b'{"a": 1}'),
        (5, b"[5]"),
        (5, [5]),
        (5, {"a_time": 5}),
        (5, {"bodyid_user": "x"}),
        (5, {"bodyid_time": "x"}),
        (5, {"a": float("nan")}),
        (0, {"a": 1}),
        (2**64, {"a": 1}),
        ("5", {"a": 1}),
    ],
)
def test_refused_whole(neurons, body, annotation):
    neurons.set(5, {"a": 0}, user="ann")
    before = neurons.view(0).token
    with pytest.raises(BadRequest):
        neurons.put_many([(7, {"a": 1}), (body, annotation)], user="ann")
    assert neurons.view(0).token == before


@pytest.mark.parametrize("user", ["", None, 5])
def test_somebody_must_have_set_it(neurons, user):
    with pytest.raises(BadRequest, match="user"):
        neurons.set(5, {"a": 0}, user=user)


def test_lists_of_names_are_no_texts(neurons):
    with pytest.raises(BadRequest):
        neurons.update(5, {"a": 0}, user="u", conditional="ab")
    with pytest.raises(BadRequest):
        neurons.get(5, fields="ab")


def test_load_keeps_stamps(neurons):
    neurons.set(5, {"old": 1}, user="ann")
    neurons.load({5: {"a": 1, "a_user": "x", "b": None}, 6: b'{"bodyid": 6, "c": 2.0}'})
    assert neurons.get(5, show="all") == {"bodyid": 5, "a": 1, "a_user": "x"}
    assert neurons.get(6, show="all") == {"bodyid": 6, "c": 2}


@pytest.mark.parametrize(
    "annotation", [{"bodyid": 6}, b"[5]", [5], {"a_time": 5}, {"a": float("inf")}, {"bodyid_user": "u"}]
)
def test_load_takes_all_or_nothing(neurons, annotation):
    with pytest.raises(BadRequest):
        neurons.load([(7, {"a": 1}), (5, annotation)])
    assert not neurons


def test_the_log(neurons):
    neurons.set(5, {"a": 1}, user="ann", app="test")
    neurons.delete([5, 6], user="bob")
    neurons.set_document("schema", b"any bytes", user="cyd")
    found = [(m.user, m.record["Action"], m.record["Key"]) for m in neurons.history()]
    assert found == [
        ("ann", "ingestneuronjson", "5"),
        ("bob", "delete", "5"),
        ("bob", "delete", "6"),
        ("cyd", "postneuronjson", "schema"),
    ]


def test_watchers_hear_of_each(repo, neurons):
    heard = []
    with repo.datastore.watch(heard.append):
        neurons.put_many({5: {"a": 1}, 6: {"a": 2}}, user="ann", action="postneuronjson")
        with pytest.raises(BadRequest):
            neurons.put_many({5: {"a": 1}, 7: {"bodyid": 8}}, user="ann")
        neurons.delete(5, user="ann")
    assert [m.record["Action"] for m in heard] == ["postneuronjson", "postneuronjson", "delete"]
    assert [m.record["Key"] for m in heard] == ["5", "6", "5"]
    assert heard[0].record.keys() == {"Action", "Bytes", "Key", "Timestamp", "UUID"}
    assert heard[0].record["Bytes"] == len(b'{"a":1,"bodyid":5}')


# ---------------------------------------------------------------------- schemas


def test_schemas(neurons):
    neurons.set(1, {"group": "words"}, user="ann")
    neurons.set_document("json_schema", b'{"properties": {"group": {"type": "integer"}, "sub": {"required": ["x"]}}}')
    with pytest.raises(BadRequest, match="group"):
        neurons.set(2, {"group": "words"}, user="ann")
    with pytest.raises(BadRequest, match="sub"):
        neurons.put_many({2: {"group": 1}, 3: {"sub": {}}}, user="ann")
    assert 2 not in neurons
    neurons.update(2, {"group": "-7"}, user="ann")
    assert neurons[2] == {"bodyid": 2, "group": -7}
    assert neurons[1]["group"] == "words"
    neurons.delete_document("json_schema")
    neurons.set(2, {"group": "words"}, user="ann")


@pytest.mark.parametrize(
    "schema",
    [
        b"",
        b"nonsense",
        b"5",
        b'{"type": "nonsense"}',
        b'{"$ref": "http://127.0.0.1:1/x"}',
        b'{"$ref": "file:///etc/passwd"}',
    ]
    + [b'{"pattern": "(?=x)"}', b'{"$schema": "urn:nothing"}', b"\xff", b"[" * 100_000, b'{"$ref": "#/nowhere"}'],
)
def test_no_schemas(neurons, schema):
    with pytest.raises(BadRequest):
        neurons.set_document("json_schema", schema)
    assert neurons.document("json_schema") is None


def test_patterns_of_schemas_take_linear_time(neurons):
    neurons.set_document("json_schema", b'{"properties": {"a": {"pattern": "^(a+)+$"}}}')
    with pytest.raises(BadRequest):
        neurons.set(1, {"a": "a" * 100_000 + "!"}, user="u")


def test_documents_have_names(neurons):
    with pytest.raises(BadRequest, match="json_schema"):
        neurons.document("other")
    assert neurons.document("schema") is None


# ---------------------------------------------------------------------- versions


@pytest.fixture
def history(repo, neurons):
    """Two versions and what happened in them."""
    first = neurons.version
    neurons.put_many({1: {"type": "a", "n": 1}, 2: {"type": "b"}, 3: {"type": "c"}}, user="ann")
    first.commit()
    second = first.newversion()
    later = second["neurons"]
    later.update(1, {"type": "A", "n": 1}, user="bob")
    later.update(1, {"note": "x"}, user="cyd")
    later.delete(2)
    later.set(4, {"type": "d"}, user="bob")
    return neurons, later


def test_versions(history):
    first, second = history
    assert (list(first), list(second)) == ([1, 2, 3], [1, 3, 4])
    assert first[1] == {"bodyid": 1, "n": 1, "type": "a"}
    assert second.query_bodies({"type": "exists/1"}).tolist() == [1, 3, 4]
    assert first.query_bodies({"type": "re/^[a-z]$"}).tolist() == [1, 2, 3]
    with pytest.raises(LockedVersion):
        first.set(1, {}, user="u")
    with pytest.raises(LockedVersion):
        first.set_document("schema", b"x")
    with pytest.raises(LockedVersion):
        first.put_many({}, user="u")


def test_changes(history):
    first, second = history
    found = [(c.body, c.field, c.old, c.new, c.user) for c in second.changes(first.version)]
    assert found == [
        (1, "note", None, "x", "cyd"),
        (1, "type", "a", "A", "bob"),
        (2, "type", "b", None, ""),
        (4, "type", None, "d", "bob"),
    ]
    assert [c.field for c in second.changes(first.version, [4])] == ["type"]
    assert [(c.kind, c.what) for c in first.version.diff(second.version)["neurons"]] == [
        ("changed", 1),
        ("removed", 2),
        ("added", 4),
    ]
    mine = second.changes_of(1)
    assert [(c.version == first.version.uuid, c.field, c.new) for c in mine] == [
        (True, "n", 1),
        (True, "type", "a"),
        (False, "note", "x"),
        (False, "type", "A"),
    ]
    other = dvid_dask.create("memory://").new_repo()["master"]
    with pytest.raises(BadRequest):
        list(second.changes(other))


def test_a_forced_write_reaches_descendants(history):
    first, second = history
    assert second.query_bodies({"type": "c2"}).tolist() == []
    first.update(3, {"type": "c2"}, user="admin", force=True)
    assert first.query_bodies({"type": "c2"}).tolist() == second.query_bodies({"type": "c2"}).tolist() == [3]


def test_merges(repo, neurons):
    root = neurons.version
    neurons.put_many({b: {"type": "t", "side": "L"} for b in range(1, 8)}, user="ann")
    neurons.set_document("schema", b"root")
    root.commit()
    sides = [root.new_branch(name) for name in ("left", "right")]
    left, right = (side["neurons"] for side in sides)
    left.update(1, {"type": "l"}, user="l")
    right.update(1, {"side": "R", "new": 1}, user="r")
    left.update(2, {"type": "same"}, user="l")
    right.update(2, {"type": "same"}, user="r")
    left.update(3, {"type": "l", "side": "R"}, user="l")
    right.update(3, {"type": "r", "new": 2}, user="r")
    left.delete(4)
    right.update(4, {"type": "r"}, user="r")
    left.delete(5)
    left.set(8, {"type": "l"}, user="l")
    right.set(8, {"side": "r"}, user="r")
    right.delete(6)
    left.update(6, {"new": 1}, user="l")
    for side in sides:
        side.commit()
    merged = repo.merge(sides)
    found = merged["neurons"]
    assert found.get(1, show="user") == {
        "bodyid": 1,
        "type": "l",
        "type_user": "l",
        "side": "R",
        "side_user": "r",
        "new": 1,
        "new_user": "r",
    }
    assert found[2]["type"] == "same"
    assert found[3] == {"bodyid": 3, "type": "l", "side": "R", "new": 2}
    assert found[4] == {"bodyid": 4, "type": "r", "side": "L"}
    assert 5 not in found
    assert found[6] == {"bodyid": 6, "type": "t", "side": "L", "new": 1}
    assert found[7] == {"bodyid": 7, "type": "t", "side": "L"}
    assert found[8] == {"bodyid": 8, "type": "l", "side": "r"}
    conflicts = {c.key: c.what for c in merged.conflicts}
    assert conflicts == {
        key_of(3): {"body": 3, "fields": ["type"]},
        key_of(4): {"body": 4, "removed": True},
        key_of(6): {"body": 6, "removed": True},
    }
    assert found.query_bodies({"new": "exists/1"}).tolist() == [1, 3, 6]
    assert list(found.disagreements()) == []


def test_unversioned(repo):
    neurons = repo.new_instance("neuronjson", "flat", settings={"Versioned": "false"})
    neurons.set(1, {"a": 1}, user="u")
    repo["master"].commit()
    child = repo["master"].newversion()["flat"]
    child.update(1, {"b": 2}, user="u")
    assert neurons.query({"b": 2}) == [{"a": 1, "b": 2, "bodyid": 1}]
    assert [c.field for c in child.changes_of(1)] == ["a", "b"]
    with pytest.raises(BadRequest, match="unversioned"):
        list(child.changes(repo["master"]))


def test_disagreements(neurons):
    neurons.put_many({1: {"a": 1}, 2: {"a": 1}, 3: {}}, user="u")
    assert list(neurons.disagreements()) == []

    def damage(m, space):
        space.put(key_of(1), b'{"bodyid":7}')
        space.put(key_of(2), b"rubbish")
        space.put(key_of(3), b'{"bodyid": 3}')

    neurons.mutate(damage)
    found = list(neurons.disagreements())
    assert len(found) == 3
    assert "names body 7" in found[0]
    assert "can't be read" in found[1]
    assert "canonical" in found[2]


# ---------------------------------------------------------------------- tables


def test_frames(neurons):
    neurons.put_many(
        {
            1: {"type": "a", "n": 1, "big": 2**63, "pos": [1, 2], "mixed": 1, "x": 0.5, "flag": True, "obj": {"k": 1}},
            2: {"type": "b", "n": -1, "pos": [], "mixed": "1", "x": 2, "far": 2**53 + 1},
            3: {"far": 0.5},
        },
        user="u",
    )
    table = neurons.arrow()
    assert {f.name: f.type for f in table.schema} == {
        "bodyid": pa.uint64(),
        "big": pa.uint64(),
        "far": pa.string(),
        "flag": pa.bool_(),
        "mixed": pa.string(),
        "n": pa.int64(),
        "obj": pa.string(),
        "pos": pa.list_(pa.int64()),
        "type": pa.string(),
        "x": pa.float64(),
    }
    assert table["mixed"].to_pylist() == ["1", '"1"', None]
    assert table["obj"].to_pylist() == ['{"k":1}', None, None]
    assert table["far"].to_pylist() == [None, str(2**53 + 1), "0.5"]
    frame = neurons.dataframe(["type", "n", "nothing"], query={"n": "exists/1"}, show="user")
    assert list(frame.columns) == ["n", "n_user", "nothing", "nothing_user", "type", "type_user"]
    assert frame.loc[2, "n"] == -1
    assert frame["n"].sum() == 0
    assert len(neurons.dataframe(query={"bodyid": [3]})) == 1
    assert neurons.version["neurons"].dataframe(["n"]).equals(neurons.dataframe(["n"]))


def test_field_times(neurons):
    neurons.put_many(
        {
            1: {"a": 1, "a_time": "2020-01-01T09:00:00Z", "b": 1, "b_time": "some day"},
            2: {"a": 1, "a_time": "2020-01-01T10:00:00+02:00"},
        },
        user="u",
    )
    assert neurons.field_times() == {"a": "2020-01-01T09:00:00Z", "b": "some day"}
    neurons.update(1, {"b": None}, user="u")
    assert STAMP.match(neurons.field_times()["b"])
    assert neurons.fields() == dict.fromkeys(("a", "a_time", "a_user", "bodyid"), 2) | {"b_time": 1, "b_user": 1}


# ---------------------------------------------------------------------- processes

WRITER = """
import sys, dvid_dask
neurons = dvid_dask.open(sys.argv[1], compact="never").repos.named("fly")["master"]["neurons"]
for i in range(1, 31):
    neurons.put_many({b: {"round": i} for b in range(1, 21)}, user="other")
    print(i, flush=True)
"""


def test_another_process_writes(tmp_path):
    store = str(tmp_path / "store")
    neurons = dvid_dask.create(store, compact="never").new_repo(alias="fly").new_instance("neuronjson", "neurons")
    neurons.put_many({b: {"mine": 0} for b in range(1, 41)}, user="me")
    assert len(neurons.query_bodies({"mine": 0})) == 40
    with subprocess.Popen([sys.executable, "-c", WRITER, store], stdout=subprocess.PIPE, text=True) as writer:
        for line in writer.stdout:
            said, done = time.monotonic(), int(line)
            neurons.update(30, {"mine": done}, user="me")
            assert neurons.query_bodies({"mine": done}).tolist() == [30]  # one's own at once
            while True:
                rounds = {a["round"] for a in neurons.query({"round": "exists/1"})}
                assert len(rounds) == 1  # whole commits
                if rounds.pop() >= done:
                    break
                assert time.monotonic() - said < 30  # the bound is 0.1 s, on a machine that isn't busy
        assert writer.wait() == 0
    assert len(neurons.query_bodies({"round": 30})) == 20
    assert {"round", "mine"} <= neurons.fields().keys()
