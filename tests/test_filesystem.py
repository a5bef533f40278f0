"""The filesystem view: fsspec's own suite, a dict of names as the model, and the libraries that open its URLs."""

from __future__ import annotations

import contextlib
import pickle
import random
import uuid

import fsspec
import fsspec.tests.abstract as abstract
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import dvid_dask
from dvid_dask.errors import BadRequest, LockedVersion, NotSupported, UnknownInstance
from dvid_dask.filesystem import PROTOCOLS, KeyValueFileSystem, _parse


def make():
    repo = dvid_dask.create(f"memory://{uuid.uuid4().hex}", compact="never").new_repo("fly")
    return repo.new_instance("keyvalue", "files")


# ------------------------------------------------------------------ fsspec's suite


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self):
        return KeyValueFileSystem.of(make())

    @pytest.fixture
    def fs_path(self):
        return "test"

    @pytest.fixture
    def supports_empty_directories(self):
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


# ------------------------------------------------------------------ a model

NAMES = st.lists(st.sampled_from(["a", "b", "b.txt", "b0", "ü", "~"]), min_size=1, max_size=3).map("/".join)
DATA = st.sampled_from([0, 1, 9, 70_000]).map(lambda n: b"x" * n)


def directories(files):
    return {"/".join(name.split("/")[:n]) for name in files for n in range(1, name.count("/") + 1)}


class Model(RuleBasedStateMachine):
    """Each step on the filesystem and on a dict; what both hold, and how it is listed, is the same."""

    @initialize()
    def start(self):
        self.kv = make()
        self.fs = KeyValueFileSystem.of(self.kv)
        self.files = {}

    @rule(name=NAMES, data=DATA, how=st.sampled_from(["pipe", "open", "append", "key", "discard"]))
    def write(self, name, data, how):
        if how == "pipe":
            self.fs.pipe(name, data)
        elif how == "key":
            self.kv[name] = data
        elif how == "discard":
            with contextlib.suppress(RuntimeError), self.fs.open(name, "wb") as file:
                file.write(data)
                raise RuntimeError
            return
        else:
            with self.fs.open(name, "ab" if how == "append" else "wb") as file:
                file.write(data)
        self.files[name] = self.files.get(name, b"") + data if how == "append" else data

    @rule(files=st.dictionaries(NAMES, DATA, max_size=4))
    def write_many(self, files):
        self.fs.pipe(files)
        self.files |= files

    @rule(a=NAMES, b=NAMES, move=st.booleans())
    def copy(self, a, b, move):
        if a not in self.files or a == b:
            return
        self.files[b] = self.files[a]
        self.fs.cp_file(a, b)
        if move:
            del self.files[a]
            self.fs.rm_file(a)

    @rule(name=NAMES, recursive=st.booleans())
    def remove(self, name, recursive):
        gone = [f for f in self.files if f == name or (recursive and f.startswith(name + "/"))]
        if gone:
            self.fs.rm(name, recursive=recursive)
        else:
            with pytest.raises((FileNotFoundError, IsADirectoryError)):
                self.fs.rm(name, recursive=recursive)
        for f in gone:
            del self.files[f]

    @rule(name=NAMES, start=st.integers(-5, 100_000), stop=st.integers(-5, 100_000))
    def read_a_part(self, name, start, stop):
        if name not in self.files:
            for read in (self.fs.cat_file, self.fs.open):
                with pytest.raises((FileNotFoundError, IsADirectoryError)):
                    read(name)
            return
        assert self.fs.cat_file(name, start, stop) == self.files[name][start:stop]
        with self.fs.open(name) as file:
            file.seek(max(0, start))
            assert file.read(10) == self.files[name][max(0, start) :][:10]

    @invariant()
    def same(self):
        files, fs = self.files, self.fs
        dirs = directories(files)
        assert fs.find("", detail=True) == {
            f: {"name": f, "size": len(d), "type": "file"} for f, d in sorted(files.items())
        }
        for directory in ("", *dirs):
            begin = directory + "/" if directory else ""
            inside = [("file", f) for f in files] + [("directory", d) for d in dirs]
            expected = {(kind, n) for kind, n in inside if n.startswith(begin) and "/" not in n[len(begin) :]}
            assert {(e["type"], e["name"]) for e in fs.ls(directory)} == expected
            assert fs.ls(directory, detail=False) == sorted({n for _, n in expected})
            assert fs.isdir(directory)
            assert fs.exists(directory)
        for name, data in files.items():
            assert fs.cat_file(name) == data
            assert fs.size(name) == len(data)
            assert fs.isfile(name)
            assert fs.isdir(name) == (name in dirs)
        assert not fs.exists("nothing")


Model.TestCase.settings = settings(deadline=None, max_examples=25, stateful_step_count=15)
TestModel = Model.TestCase


# ------------------------------------------------------------------ details


@pytest.fixture
def kv():
    return make()


@pytest.fixture
def fs(kv):
    return KeyValueFileSystem.of(kv)


def test_a_large_directory_is_jumped_over(fs, kv, monkeypatch):
    kv.put_many({f"big/{n:05d}/x": b"1" for n in range(2000)} | {"big0": b"", "big.txt": b"", "z/1": b""})
    seen = []
    sizes = type(kv).sizes

    def counted(self, *args):
        for pair in sizes(self, *args):
            seen.append(pair)
            yield pair

    monkeypatch.setattr(type(kv), "sizes", counted)
    assert fs.ls("", detail=False) == ["big", "big.txt", "big0", "z"]
    assert len(seen) < 200
    assert len(fs.ls("big")) == 2000


def test_keys_that_no_path_names_are_not_shown(fs, kv):
    kv.put_many({"/a": b"1", "a//b": b"1", "c/": b"1", "d/e": b"1"})
    assert fs.find("") == ["d/e"]
    assert fs.ls("", detail=False) == ["d"]
    assert not fs.exists("a")


def test_many_files_are_one_commit(fs, kv):
    token = kv.view().token
    with pytest.raises(BadRequest):
        fs.pipe({"a": b"1", "b": b"2", "c" * 5000: b"3"})
    assert kv.view().token == token
    fs.pipe({"a": b"1", "b": b"2"})
    fs.rm(["a", "b"])
    ids = [entry.id for entry in kv.history()]
    assert len(ids) == 4
    assert len(set(ids)) == 2


def test_a_file_is_there_when_it_is_closed_or_its_transaction_ends(fs):
    data = random.Random(2).randbytes(12_000_000)
    with fs.open("f", "wb") as file:
        file.write(data)
        assert not fs.exists("f")
    assert fs.cat_file("f", 7_999_990, 8_000_010) == data[7_999_990:8_000_010]
    with fs.open("f") as file:
        fs.pipe("f", b"new")
        assert file.read() == data  # one state of it
    with fs.transaction:
        with fs.open("g", "wb") as file:
            file.write(b"1")
        assert not fs.exists("g")
    assert fs.cat_file("g") == b"1"
    with contextlib.suppress(RuntimeError), fs.transaction:
        with fs.open("g", "wb") as file:
            file.write(b"2")
        raise RuntimeError
    assert fs.cat_file("g") == b"1"
    with pytest.raises(FileExistsError):
        fs.open("g", "xb")
    with pytest.raises(FileExistsError):
        fs.pipe_file("g", b"", mode="create")


def test_committed_versions_are_read(fs, kv):
    fs.pipe("f", b"1")
    kv.version.commit()
    for write in (
        lambda: fs.pipe("f", b"2"),
        lambda: fs.open("f", "wb"),
        lambda: fs.rm("f"),
        lambda: fs.cp_file("f", "g"),
    ):
        with pytest.raises(LockedVersion):
            write()
    assert fs.cat_file("f") == b"1"
    assert fs.ukey("f") == kv.value("f").digest


def test_urls():
    assert _parse("dviddask:///data/fly@fly:master/notes/a/b@c") == ("/data/fly", "fly:master", "notes", "a/b@c")
    url = "dvid-dask://s3://bucket/x?endpoint=http://h:1@12ab/notes"
    assert _parse(url) == ("s3://bucket/x?endpoint=http://h:1", "12ab", "notes", "")
    assert _parse("dviddask://a%40b@:b~1/n%2F/k") == ("a@b", ":b~1", "n/", "k")
    for bad in ("dviddask:///data/fly", "dviddask:///data/fly@v", "dviddask:///data/fly@/n", "dviddask://x@v//k"):
        with pytest.raises(BadRequest, match="STORE@VERSION"):
            _parse(bad)


def test_urls_find_the_instance(tmp_path):
    store = tmp_path / "fly store@home"
    repo = dvid_dask.create(str(store), compact="never").new_repo("fly")
    kv = repo.new_instance("keyvalue", "notes")
    repo.new_instance("labelmap", "segmentation")
    kv["a/b.txt"] = b"1"
    place = str(store).replace("@", "%40")
    for version in ("master", ":master", "fly:master", repo.root, repo.root[:9]):
        url = f"dviddask://{place}@{version}/notes/a/b.txt"
        with fsspec.open(url) as file:
            assert file.read() == b"1"
        fs, path = fsspec.url_to_fs(url)
        assert (path, fs.kv) == ("a/b.txt", kv)
    whole = fs.unstrip_protocol("a/b.txt")
    assert fsspec.url_to_fs(whole) == (fs, "a/b.txt")
    assert whole.startswith("dviddask:///")
    copy = pickle.loads(pickle.dumps(fs))
    assert copy == fs
    assert copy is pickle.loads(pickle.dumps(fs))  # opened once in a process
    assert hash(copy) == hash(fs)
    assert copy.cat_file(path) == b"1"
    with pytest.raises(NotSupported, match="labelmap"):
        fsspec.url_to_fs(f"dviddask://{place}@master/segmentation/x")
    with pytest.raises(UnknownInstance):
        fsspec.url_to_fs(f"dviddask://{place}@master/nothing/x")


def test_the_entry_points_are_these():
    import tomllib
    from pathlib import Path

    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared["fsspec.specs"] == dict.fromkeys(PROTOCOLS, "dvid_dask.filesystem:KeyValueFileSystem")


# ------------------------------------------------------------------ what opens files


@pytest.fixture
def url(tmp_path):
    """Of a keyvalue instance on disk."""
    repo = dvid_dask.create(str(tmp_path / "store"), compact="never").new_repo()
    repo.new_instance("keyvalue", "files")
    return f"dviddask://{tmp_path}/store@master/files"


def test_pandas_and_dask_read_and_write_tables(url):
    import dask
    import dask.dataframe as dd
    import pandas as pd

    table = pd.DataFrame({"body": np.arange(1000, dtype=np.uint64), "size": np.arange(1000) / 7})
    table.to_parquet(f"{url}/one.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(f"{url}/one.parquet", columns=["size"]), table[["size"]])
    table.to_csv(f"{url}/one.csv", index=False)
    assert len(pd.read_csv(f"{url}/one.csv")) == 1000
    with dask.config.set(scheduler="synchronous"):
        dd.from_pandas(table, npartitions=3).to_parquet(f"{url}/many")
        assert dd.read_parquet(f"{url}/many").body.sum().compute() == table.body.sum()


def test_zarr_and_xarray(url):
    import xarray as xr
    import zarr

    fs, path = fsspec.url_to_fs(f"{url}/volume.zarr")
    array = zarr.create_array(fs.get_mapper(path), shape=(50, 60), chunks=(20, 30), dtype="i4")
    array[:] = np.arange(3000).reshape(50, 60)
    again = zarr.open_array(fs.get_mapper(path), mode="r")
    assert (again[:] == np.arange(3000).reshape(50, 60)).all()
    assert "volume.zarr/c/0/0" in fs.kv
    data = xr.Dataset({"density": (("y", "x"), np.ones((4, 5)))})
    data.to_zarr(f"{url}/set.zarr")
    xr.testing.assert_identical(xr.open_zarr(f"{url}/set.zarr").load(), data)
    assert "set.zarr/density/c/0/0" in fs.kv


def test_workers_of_a_cluster_read_and_write(url):
    import dask.bag as db
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        fs, _ = fsspec.url_to_fs(url)
        names = [f"n/{i}" for i in range(8)]
        written = client.map(lambda fs, name: fs.pipe(name, name.encode()), [fs] * 8, names)
        client.gather(written)
        assert fs.find("n") == names
        assert db.read_text(f"{url}/n/*").map(len).sum().compute() == 24
