"""Tables of a labelmap against counts made densely, in text and in Parquet."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest

from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from tests.ops.conftest import neurites
from tests.ops.model import index_rows
from tests.ops.test_ingest import labelmap

OFFSET = (-32, 0, 2064)
dump_module = importlib.import_module("dvid_dask.ops.dump")


@pytest.fixture
def volume():
    return neurites((48, 64, 200))


@pytest.fixture
def seg(repo, volume):
    """Bodies of several supervoxels; the first is its own body's, one id is retired."""
    seg = labelmap(repo, levels=0)
    ops.ingest(volume, seg, offset=OFFSET, progress=False)
    labels = np.unique(volume)[1:7].tolist()
    seg.merge(labels[0], labels[1:4])
    seg.merge(labels[4], [labels[5]])
    seg.cleave(labels[0], [labels[2]])
    return seg


def counts(volume):
    return {(sv, z, y, x, n) for (sv, z, y, x), n in index_rows(volume, OFFSET, (16, 16, 16)).items()}


def lines(path):
    rows = [tuple(map(int, line.split(" "))) for line in path.read_text().splitlines()]
    assert len(rows) == len(set(rows))
    return rows


def expected(seg, volume, what):
    if what == "svcount":
        return counts(volume)
    if what == "mappings":
        return {(int(a), int(b)) for ids, bodies in seg.mappings() for a, b in zip(ids, bodies, strict=True)}
    rows = sorted(counts(volume))
    bodies = seg.mapping([sv for sv, *_ in rows]).tolist()
    return {(body, *row) for body, row in zip(bodies, rows, strict=True)}


@pytest.mark.parametrize("what", ops.TABLES)
def test_text_and_parquet(seg, volume, tmp_path, what):
    wanted = expected(seg, volume, what)
    report = ops.dump(seg, what, str(tmp_path / "t.txt"), progress=False)
    rows = lines(tmp_path / "t.txt")
    assert set(rows) == wanted
    assert report.rows == len(wanted) > 3
    ops.dump(seg, what, str(tmp_path / "t"), format="parquet", progress=False)
    frame = pd.read_parquet(tmp_path / "t")
    assert list(map(tuple, frame.to_numpy(object).tolist())) == rows
    kinds = {"z": "int32", "y": "int32", "x": "int32", "count": "uint32"}
    assert frame.dtypes.astype(str).to_dict() == {name: kinds.get(name, "uint64") for name in frame}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "t.txt"]
    assert all(p.name.startswith("part.") for p in (tmp_path / "t").iterdir())


def test_a_retired_id_is_told(seg, tmp_path):
    ops.dump(seg, "mappings", str(tmp_path / "m.txt"), progress=False)
    assert 0 in [body for _, body in lines(tmp_path / "m.txt")]


def test_a_new_dump_replaces_the_old(seg, volume, tmp_path):
    for format, path in (("text", tmp_path / "t.txt"), ("parquet", tmp_path / "t")):
        ops.dump(seg, "indices", str(path), format=format, progress=False)
        ops.dump(seg, "mappings", str(path), format=format, progress=False)
        ops.dump(seg, "mappings", str(path), format=format, progress=False)
    assert set(lines(tmp_path / "t.txt")) == expected(seg, volume, "mappings")
    assert len(pd.read_parquet(tmp_path / "t")) == len(expected(seg, volume, "mappings"))


def test_an_empty_instance_has_empty_tables(repo, tmp_path):
    seg = labelmap(repo, name="new")
    for what in ops.TABLES:
        assert ops.dump(seg, what, str(tmp_path / what), progress=False).rows == 0
        assert (tmp_path / what).read_text() == ""


def test_large_bodies_and_many_parts(seg, volume, tmp_path, monkeypatch):
    monkeypatch.setattr(dump_module, "_FLUSH_ROWS", 7)
    monkeypatch.setattr(dump_module, "_PAGES_PER_TASK", 1)
    monkeypatch.setattr(importlib.import_module("dvid_dask.ops.index"), "_BODIES_PER_TASK", 3)
    for what in ops.TABLES:
        ops.dump(seg, what, str(tmp_path / "t.txt"), progress=False)
        assert set(lines(tmp_path / "t.txt")) == expected(seg, volume, what)


@pytest.mark.parametrize("format", ["text", "parquet"])
def test_an_interrupted_dump_goes_on(seg, volume, tmp_path, monkeypatch, format):
    monkeypatch.setattr(dump_module, "_BRICK_BITS", 1)
    done = []
    write = dump_module._WritePart.__call__

    def dies_once(self, part):
        if len(done) == 4:
            done.append("died")
            raise RuntimeError("power cut")
        done.append(part)
        return write(self, part)

    monkeypatch.setattr(dump_module._WritePart, "__call__", dies_once)
    where = tmp_path / "t"
    if format == "text":
        where.write_text("what was there before")
    with pytest.raises(RuntimeError, match="power cut"):
        ops.dump(seg, "svcount", str(where), format=format, progress=False)
    if format == "text":
        assert where.read_text() == "what was there before"
    ops.dump(seg, "svcount", str(where), format=format, progress=False)
    done.remove("died")
    assert len(done) == len(set(done)) > 5
    found = set(lines(where)) if format == "text" else set(map(tuple, pd.read_parquet(where).to_numpy(object).tolist()))
    assert found == counts(volume)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_after_an_edit_an_interrupted_dump_begins_anew(seg, volume, tmp_path, monkeypatch):
    write = dump_module._WritePart.__call__
    monkeypatch.setattr(dump_module._WritePart, "__call__", lambda self, part: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ops.dump(seg, "mappings", str(tmp_path / "t"), format="parquet", progress=False)
    labels = np.unique(volume)[10:12].tolist()
    seg.merge(labels[0], labels[1:])
    monkeypatch.setattr(dump_module._WritePart, "__call__", write)
    ops.dump(seg, "mappings", str(tmp_path / "t"), format="parquet", progress=False)
    frame = pd.read_parquet(tmp_path / "t")
    assert (labels[1], labels[0]) in set(zip(frame.supervoxel, frame.body, strict=True))


def test_what_can_not_be_dumped(repo, seg, tmp_path):
    with pytest.raises(BadRequest, match="svcounts"):
        ops.dump(seg, "svcounts", str(tmp_path / "a"), progress=False)
    with pytest.raises(BadRequest, match="csv"):
        ops.dump(seg, "svcount", str(tmp_path / "a"), format="csv", progress=False)
    with pytest.raises(NotSupported):
        ops.dump(repo.new_instance("keyvalue", "notes"), "svcount", str(tmp_path / "a"), progress=False)
    bare = labelmap(repo, name="bare", IndexedLabels="false")
    with pytest.raises(NotSupported, match="index"):
        ops.dump(bare, "indices", str(tmp_path / "a"), progress=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("precious")
    with pytest.raises(Conflict, match="mine"):
        ops.dump(seg, "svcount", str(tmp_path / "b"), format="parquet", progress=False)
    with pytest.raises(Conflict, match="folder"):
        ops.dump(seg, "svcount", str(tmp_path / "b"), progress=False)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["mine"]
