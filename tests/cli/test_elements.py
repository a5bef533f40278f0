"""`dvid-dask elements`: tables in and out, lists anew, everything removed, counts by body."""

import json

import numpy as np
import pandas as pd
import pytest

import dvid_dask


def open_version(store):
    return dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]


@pytest.fixture
def synapses(cli, store):
    """Three bodies, and an annotation and a labelsz that follow."""
    for name, typename, more in (("seg", "labelmap", ["BlockSize=32,32,32"]), ("syn", "annotation", []),
                                 ("ranks", "labelsz", [])):  # fmt: skip
        cli("node", "new-instance", store, "master", typename, name, *more)
    version = open_version(store)
    version["seg"].write(
        np.arange(1, 4, dtype=np.uint64).repeat(32)[:, None, None].repeat(32, 1).repeat(32, 2), (0, 0, 0)
    )
    version["syn"].set_syncs(["seg"])
    version["ranks"].set_syncs(["syn"])
    return version["syn"]


@pytest.fixture
def table(tmp_path):
    n = 60
    frame = pd.DataFrame({"x": np.arange(n) % 32, "y": 0, "z": np.arange(n), "kind": ["PreSyn", "PostSyn"] * (n // 2)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_tables_in_and_out(cli, store, synapses, table, tmp_path):
    assert "60 elements, in 2 bodies" in cli("elements", "load", store, "master", "syn", table, "--user", "ann").out
    assert len(open_version(store)["syn"].of_label(2)) == 28
    assert "wrote 60 elements" in cli("elements", "export", store, "master", "syn", tmp_path / "out", "--bodies").out
    assert (pd.read_parquet(tmp_path / "out").body == 1).sum() == 32
    found = cli("elements", "top", store, "master", "ranks", "PreSyn", "--json").out
    assert json.loads(found) == [{"Label": 1, "Size": 16}, {"Label": 2, "Size": 14}]
    assert "16" in cli("elements", "top", store, "master", "ranks", "PreSyn").out
    assert "0 bodies" in cli("elements", "recount", store, "master", "ranks").out
    assert "0 lists" in cli("elements", "reload", store, "master", "syn", "--check").out
    assert "60 elements" in cli("elements", "reload", store, "master", "syn", "--all").out
    cli("elements", "delete-all", store, "master", "syn", "--yes")
    assert len(open_version(store)["syn"].elements()) == 0
    assert json.loads(cli("elements", "top", store, "master", "ranks", "--json").out) == []


def test_elements_of_bodies_and_tags(cli, store, synapses):
    place = (store, "master", "syn")
    synapses.add([{"Pos": [1, 2, 3], "Kind": "PreSyn", "Tags": ["t"]}, {"Pos": [1, 2, 33], "Kind": "Note"}])
    assert json.loads(cli("elements", "body", *place, 1).out)["Pos"] == [1, 2, 3]
    assert json.loads(cli("elements", "tag", *place, "t").out)["Kind"] == "PreSyn"
    assert cli("elements", "body", *place, 3).out == ""
    facts = json.loads(cli("elements", "info", *place, "--json").out)
    assert facts["follows"] == "seg"
    assert facts["elements"] == facts["bodies"] == 2
    assert not facts["needs reload"]
    assert "PreSyn 1" in cli("elements", "info", *place).out
    assert "background" in cli("elements", "body", *place, 0, code=1).err


def test_refusals(cli, store, synapses, table):
    assert "twice" in cli("elements", "load", store, "master", "syn", _twice(table), code=1).err
    assert "3 elements" in cli("elements", "load", store, "master", "syn", _twice(table), "--keep-last").out
    assert "not an annotation" in cli("elements", "load", store, "master", "seg", table, code=1).err
    assert "not a labelsz" in cli("elements", "top", store, "master", "syn", code=1).err
    assert "unknown index type" in cli("elements", "top", store, "master", "ranks", "Syn", code=1).err


def _twice(table):
    path = table.with_name("twice.csv")
    path.write_text("x,y,z\n1,1,1\n2,2,2\n1,1,1\n3,3,3\n")
    return path
