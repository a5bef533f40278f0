"""Annotations in bulk: dask dataframes of one state, files in, other instances in, changes of versions out."""

import json

import pandas as pd
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.errors import BadRequest


@pytest.fixture
def repo():
    return dvid_dask.create("memory://", compact="never").new_repo()


@pytest.fixture
def neurons(repo):
    return repo.new_instance("neuronjson", "neurons")


def test_a_table_is_the_dataframe_in_parts(neurons):
    neurons.put_many(
        {
            b: {"type": f"t{b % 3}", "mixed": b if b < 50 else f"x{b}", **({"n": [b]} if b % 2 else {})}
            for b in range(1, 101)
        },
        user="u",
    )
    table = ops.neuron_table(neurons, partition=30, show="user")
    expected = neurons.dataframe(show="user")
    neurons.delete(range(20, 60))
    neurons.update(1, {"type": "later"}, user="u")
    assert table.npartitions == 4
    assert table.known_divisions
    pd.testing.assert_frame_equal(table.compute(scheduler="threads"), expected)
    assert table.dtypes.to_dict() == expected.dtypes.to_dict()
    assert table.loc[31:40].compute(scheduler="sync").index.tolist() == list(range(31, 41))
    counts = table.groupby("type").size().compute(scheduler="sync").sort_index()
    assert counts.tolist() == [33, 34, 33]


def test_a_table_of_nothing(neurons):
    assert len(ops.neuron_table(neurons, ["type"]).compute()) == 0
    with pytest.raises(BadRequest):
        ops.neuron_table(neurons, partition=0)


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "csv"])
def test_ingest(neurons, tmp_path, kind):
    rows = [{"bodyid": 5, "type": "a", "n": 1}, {"bodyid": 2**63 + 1, "type": "b", "n": None}]
    path = tmp_path / f"rows.{kind}"
    frame = pd.DataFrame(rows).astype({"bodyid": "uint64", "n": "Int64"})
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.astype({"bodyid": "int64"}).iloc[:1].to_csv(path, index=False)
    neurons.set(5, {"old": 1, "type": "kept"}, user="before")
    told = []
    count = ops.ingest_annotations(neurons, path, user="u", conditional=["type"], tell=told.append)
    assert told == [count]
    assert neurons.get(5, show="user") == {
        "bodyid": 5,
        "n": 1,
        "n_user": "u",
        "old": 1,
        "old_user": "before",
        "type": "kept",
        "type_user": "before",
    }
    if count == 2:
        assert neurons[2**63 + 1] == {"bodyid": 2**63 + 1, "type": "b"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{}"),
        ("a.json", "[1]"),
        ("a.json", '[{"bodyid": "5"}]'),
        ("a.json", '[{"bodyid": true}]'),
        ("a.json", '[{"bodyid": 0}]'),
        ("a.json", "[" * 100_000),
        ("a.jsonl", '{"bodyid": 5}\n{"bodyid"'),
        ("a.csv", "type,n\na,1\n"),
        ("a.csv", ""),
        ("a.parquet", "no parquet"),
        ("a.txt", "[]"),
    ],
)
def test_files_that_are_none(neurons, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadRequest):
        ops.ingest_annotations(neurons, tmp_path / name, user="u")
    assert not neurons


def test_import_keyvalue(repo, neurons):
    kv = repo.new_instance("keyvalue", "kv")
    kv.put_many(
        {
            "5": b'{"bodyid": 5, "a": 1, "a_user": "x", "gone": null}',
            "0007": b'{"bodyid": 7}',
            "schema": b"any",
            "json_schema": b'{"type": "object"}',
            "name": b"no JSON",
            "18446744073709551616": b"{}",
            "0": b"{}",
        }
    )
    assert ops.import_keyvalue(neurons, kv, user="u") == (2, ["0", "18446744073709551616", "name"])
    assert neurons.get(5, show="all") == {"bodyid": 5, "a": 1, "a_user": "x"}
    assert list(neurons) == [5, 7]
    assert neurons.document("schema") == b"any"
    kv["9"] = b"no JSON"
    with pytest.raises(BadRequest):
        ops.import_keyvalue(neurons, kv)
    with pytest.raises(BadRequest, match="not a keyvalue"):
        ops.import_keyvalue(neurons, neurons)


def test_version_changes(repo, neurons, tmp_path):
    first = neurons.version
    neurons.load({1: {"a": 1, "a_user": "u"}, 2: {"b": 1}})
    first.commit()
    second = first.newversion()
    second.commit()
    third = second.newversion()
    third["neurons"].delete(1)
    third["neurons"].load({2: {"b": 2}})
    folder = tmp_path / "changes"
    assert ops.version_changes(third["neurons"], folder) == {first.uuid: 2, third.uuid: 2}
    assert ops.version_changes(third["neurons"], folder) == {first.uuid: 2, third.uuid: 2}
    assert sorted(p.name for p in folder.iterdir()) == sorted([f"{first.uuid}.json", f"{third.uuid}.json"])
    read = lambda v: json.loads((folder / f"{v.uuid}.json").read_text())  # noqa: E731
    assert read(first) == [{"bodyid": 1, "a": 1, "a_user": "u"}, {"bodyid": 2, "b": 1}]
    assert read(third) == [{"bodyid": 1, "tombstone": True}, {"bodyid": 2, "b": 2}]
