"""Everything that writes files puts them where the path says, whatever characters it has, and leaves nothing beside."""

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from tests.ops.test_shards import info

NAME = "a b%41é#?"


@pytest.fixture
def seg():
    with dvid_dask.create("memory://", compact="never") as datastore:
        seg = datastore.new_repo("fly").new_instance("labelmap", "seg", {"BlockSize": "16,16,16"})
        seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 0))
        yield seg


WRITERS = {
    "export": lambda seg, where: ops.export(seg, where, progress=False),
    "precomputed": lambda seg, where: ops.export(seg, where, format="precomputed", progress=False),
    "shards": lambda seg, where: ops.export_shards(seg, info([(64, 64, 64)]), where, progress=False),
    "parquet": lambda seg, where: ops.dump(seg, "indices", where, format="parquet", progress=False),
    "text": lambda seg, where: ops.dump(seg, "indices", where, format="text", progress=False),
    "bodies": lambda seg, where: ops.export_bodies(seg, where, [7], progress=False),
    "mesh": lambda seg, where: ops.mesh(seg, where, format="obj", progress=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_odd_paths(seg, tmp_path, writer):
    folder = tmp_path / NAME
    folder.mkdir()
    WRITERS[writer](seg, str(folder / "out"))
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    assert [p.name for p in folder.iterdir()] == ["out"]
    if writer != "text":
        assert any((folder / "out").iterdir())
        assert not [p for p in (folder / "out").rglob("*") if "dvid-dask" in p.name]
    # and nowhere else
    assert not (tmp_path.parent / tmp_path.name.replace(" ", "%20") / "x").exists()


def test_odd_paths_of_values(tmp_path):
    with dvid_dask.create("memory://", compact="never") as datastore:
        values = datastore.new_repo("fly").new_instance("keyvalue", "kv")
        values["a%20b"] = b"1"
        folder = tmp_path / NAME
        for kind in ("directory", "parquet"):
            ops.export_values(values, str(folder / kind), format=kind, progress=False)
        assert (folder / "directory" / "a%20b").read_bytes() == b"1"
        assert [p.name for p in tmp_path.iterdir()] == [NAME]
