"""`dvid-dask keyvalue`: values in and out of a store, in bulk and through pipes."""

import io
import subprocess
import sys
import tarfile

import pandas as pd
import pytest

import dvid_dask

LARGE = bytes(range(256)) * 10_000


def open_kv(store):
    return dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["kv"]


@pytest.fixture
def kv(cli, store):
    cli("node", "new-instance", store, "master", "keyvalue", "kv")
    return open_kv(store)


@pytest.mark.parametrize("name", ["out", "out.tar.gz", "out.parquet"])
def test_import_and_export(cli, store, kv, tmp_path, name):
    kv.put_many({"a/b": b"1", "a/c": LARGE, "d": b"3"})
    place = (store, "fly:master", "kv")
    assert "2 values" in cli("keyvalue", "export", *place, tmp_path / name, "--prefix", "a/").out
    kv.clear()
    assert "2 values" in cli("keyvalue", "import", *place, tmp_path / name, "--prefix", "x/", "--workers", "1").out
    assert dict(kv.items()) == {"x/a/b": b"1", "x/a/c": LARGE}
    assert cli("keyvalue", "keys", *place).out.split() == ["x/a/b", "x/a/c"]
    assert cli("keyvalue", "keys", *place, "--prefix", "x/a/c", "--sizes").out.split() == ["2560000", "x/a/c"]


def test_pipes(store, kv):
    def run(*arguments, data=b"", code=0):
        command = [sys.executable, "-m", "dvid_dask.cli", "keyvalue", *map(str, arguments)]
        done = subprocess.run(command, input=data, capture_output=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    place = (store, "master", "kv")
    run("put", *place, "big", data=LARGE)
    assert run("get", *place, "big").stdout == LARGE
    packed = run("export", *place, "-").stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["big"]
    assert b"read to its end" in run("import", *place, "-", "--prefix", "n/", data=packed[:100_000], code=1).stderr
    assert list(open_kv(store)) == ["big"]
    run("import", *place, "-", "--prefix", "again/", data=packed)
    assert open_kv(store)["again/big"] == LARGE


def test_mistakes_are_one_line(cli, store, kv, tmp_path):
    place = (store, "master", "kv")
    assert "no folder" in cli("keyvalue", "import", *place, tmp_path / "nothing", code=1).err
    pd.DataFrame({"key": ["a"]}).to_parquet(tmp_path / "t.parquet")
    assert "no column value" in cli("keyvalue", "import", *place, tmp_path / "t.parquet", code=1).err
    cli("node", "new-instance", store, "master", "roi", "area")
    assert "no key 'x'" in cli("keyvalue", "get", *place, "x", code=1).err
    assert "roi" in cli("keyvalue", "keys", store, "master", "area", code=1).err
    assert len(kv) == 0
