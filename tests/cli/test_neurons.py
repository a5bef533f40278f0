"""`dvid-dask neurons`: annotations in and out of a store."""

import io
import json

import pytest

import dvid_dask


@pytest.fixture
def neurons(cli, store):
    cli("node", "new-instance", store, "master", "neuronjson", "neurons")
    return dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["neurons"]


@pytest.fixture
def typed(monkeypatch):
    def give(text):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))

    return give


def test_put_and_query(cli, store, neurons, typed):
    typed(b'{"bodyid": 5, "type": "KC", "size": 3}')
    assert "38 bytes for 5" in cli("neurons", "put", store, "master", "neurons", "5", "ann").out
    typed(b'{"bodyid": 5, "type": "PN"}')
    cli("neurons", "put", store, "master", "neurons", "5", "bob", "--replace")
    typed(b'{"any": 1}')
    cli("neurons", "put", store, "master", "neurons", "schema", "bob")
    out = cli("neurons", "query", store, "master", "neurons", '{"type": "re/^P"}', "--show", "user").out
    assert json.loads(out) == [{"bodyid": 5, "type": "PN", "type_user": "bob"}]
    typed(b"nonsense")
    assert "no JSON" in cli("neurons", "put", store, "master", "neurons", "6", "bob", code=1).err
    assert "no body id" in cli("neurons", "put", store, "master", "neurons", "x", "bob", code=1).err
    assert "not JSON" in cli("neurons", "query", store, "master", "neurons", "{", code=1).err


def test_ingest_import_and_changes(cli, store, neurons, tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"bodyid": 1, "a": 1}, {"bodyid": 2, "a": 2}]')
    assert "2 annotations" in cli("neurons", "ingest", store, "master", "neurons", path, "ann").out
    cli("node", "new-instance", store, "master", "keyvalue", "kv")
    kv = neurons.version["kv"]
    kv.put_many({"3": b'{"bodyid": 3, "b": 1}', "other": b"x"})
    out = cli("neurons", "import-kv", store, "master", "neurons", "kv").out
    assert "1 annotations" in out
    assert "other" in out
    assert (
        f"{neurons.version.uuid}  3"
        in cli("neurons", "version-changes", store, "master", "neurons", tmp_path / "d").out
    )
    assert [a["bodyid"] for a in json.loads((tmp_path / "d" / f"{neurons.version.uuid}.json").read_text())] == [1, 2, 3]
    assert "not a neuronjson" in cli("neurons", "ingest", store, "master", "kv", path, "ann", code=1).err
