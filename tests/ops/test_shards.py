"""Arrow files of shards, read by pyarrow as a whole and row by row at the offsets that the tables give."""

from __future__ import annotations

import csv
import importlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats import label_blocks
from tests.ops.conftest import neurites
from tests.ops.model import majority
from tests.ops.test_ingest import labelmap

BLOCK = 16
shards_module = importlib.import_module("dvid_dask.ops.shards")


def info(sizes, offset=(0, 0, 0), preshift=1, minishard=1, shard=12, **more):
    """A spec with scales of these sizes (x, y, z)."""
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": preshift,
        "minishard_bits": minishard,
        "shard_bits": shard,
    }
    scales = [
        {
            "chunk_sizes": [[BLOCK] * 3],
            "size": list(size),
            "voxel_offset": [o >> s for o in offset],
            "resolution": [8 << s] * 3,
            "key": str(s),
            "sharding": sharding,
        }
        for s, size in enumerate(sizes)
    ]
    return {"type": "segmentation", "data_type": "uint64", "scales": scales, **more}


@pytest.fixture
def volume():
    volume = neurites((64, 96, 160))
    volume[16:32, 16:48, 32:64] = 0
    return volume


@pytest.fixture
def seg(repo, volume):
    seg = labelmap(repo, levels=1)
    ops.ingest(volume, seg, progress=False)
    labels = np.unique(volume)[1:6].tolist()
    seg.merge(labels[0], labels[1:])
    return seg


def rows_of(path):
    """All rows of a file; each is found again where the table says."""
    data = path.read_bytes()
    with pa.ipc.open_stream(data) as stream:
        whole = stream.read_all()
    head, *lines = path.with_suffix(".csv").read_text().splitlines()
    size = int(head.removeprefix("# schema_size="))
    schema = pa.ipc.read_schema(pa.py_buffer(data[:size]))
    assert schema.equals(whole.schema, check_metadata=True)
    found = whole.to_pylist()
    table = list(csv.DictReader(lines))
    assert len(table) == len(found)
    for row, entry in zip(found, table, strict=True):
        at, n = int(entry["offset"]), int(entry["size"])
        assert at >= size
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(pa.py_buffer(data[at : at + n])), schema)
        assert batch.slice(int(entry["batch_idx"]), 1).to_pylist() == [row]
        assert [int(entry[a]) for a in "xyz"] == [row[f"chunk_{a}"] for a in "xyz"]
    return found


def voxels_of(row, body):
    block = pa.decompress(row["dvid_compressed_block"], row["uncompressed_size"], codec="zstd", asbytes=True)
    assert label_blocks.labels(block).tolist() == row["supervoxels"]
    return label_blocks.decode_block(block, table=row["labels"] if body else None)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_every_block_is_in_its_shard(seg, volume, tmp_path, batch_size):
    labels = np.unique(volume)[1:6].tolist()
    spec = info([(160, 96, 64), (80, 48, 32)], batch_size=batch_size)
    report = ops.export_shards(seg, json.dumps(spec), str(tmp_path), scales=2, progress=False)
    for scale, level in enumerate([volume, majority(volume)]):
        found, names = np.zeros_like(level), []
        # bits of a chunk of scale 0 are x y z x ...: a shard is 2 x 2 x 1 chunks (x, y, z)
        for path in sorted((tmp_path / f"s{scale}").glob("*.arrow")):
            x, y, z = map(int, path.stem.split("_"))
            rows = rows_of(path)
            places = [(r["chunk_z"], r["chunk_y"], r["chunk_x"]) for r in rows]
            assert places == sorted(places)
            for row, place in zip(rows, places, strict=True):
                corner = np.array(place) * BLOCK
                assert (corner // (16, 32, 32) * (16, 32, 32) == (z, y, x)).all()
                at = tuple(slice(c, c + BLOCK) for c in corner)
                found[at] = voxels_of(row, body=False)[tuple(slice(0, n) for n in found[at].shape)]
                bodies = np.where(np.isin(found[at], labels), labels[0], found[at])
                np.testing.assert_array_equal(voxels_of(row, body=True)[: bodies.shape[0]], bodies)
            names.append((x, y, z))
        np.testing.assert_array_equal(found, level)
        assert len(set(names)) == len(names) == report.scales[scale]["shards"]
    assert (tmp_path / "s0" / "32_0_0.arrow").exists()
    assert not (tmp_path / "s0" / "32_0_16.csv").exists() or rows_of(tmp_path / "s0" / "32_0_16.arrow")
    assert report.table() in (tmp_path / "export.log").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export.log", "s0", "s1"]


def test_the_schema_is_as_told(seg, tmp_path):
    ops.export_shards(seg, info([(160, 96, 64)]), str(tmp_path), progress=False)
    schema = pa.ipc.open_stream((tmp_path / "s0" / "0_0_0.arrow").read_bytes()).schema
    labels = pa.list_(pa.field("item", pa.uint64(), nullable=True))
    assert [(f.name, f.type, f.nullable) for f in schema] == [
        ("chunk_x", pa.int32(), False),
        ("chunk_y", pa.int32(), False),
        ("chunk_z", pa.int32(), False),
        ("labels", labels, False),
        ("supervoxels", labels, False),
        ("dvid_compressed_block", pa.binary(), False),
        ("uncompressed_size", pa.uint32(), False),
    ]
    assert schema.field("dvid_compressed_block").metadata == {b"compression": b"true", b"codec": b"zstd"}


def test_a_second_export_is_the_same_bytes(seg, volume, tmp_path):
    def files():
        return {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("s0/*")}

    ops.export_shards(seg, info([(160, 96, 64)]), str(tmp_path), progress=False)
    first = files()
    ops.export_shards(seg, info([(160, 96, 64)]), str(tmp_path), progress=False)
    assert files() == first
    # coarser shards, of an area that is smaller: nothing of the first is left
    ops.export_shards(seg, info([(64, 64, 64)], preshift=3, minishard=0), str(tmp_path), progress=False)
    assert {p.stem for p in files()} == {f"{x}_{y}_{z}" for x in (0, 32) for y in (0, 32) for z in (0, 32)}


def test_negative_coordinates(repo, volume, tmp_path):
    seg = labelmap(repo, levels=0)
    ops.ingest(volume, seg, offset=(-32, -64, 16), progress=False)
    spec = info([(160, 96, 64)], offset=(16, -64, -32))
    ops.export_shards(seg, spec, str(tmp_path), progress=False)
    rows = [r for p in (tmp_path / "s0").glob("*.arrow") for r in rows_of(p)]
    assert (tmp_path / "s0" / "16_-64_-32.arrow").exists()
    assert min(r["chunk_y"] for r in rows) == -4
    assert sum(int(np.count_nonzero(voxels_of(r, body=False))) for r in rows) == np.count_nonzero(volume)


def test_analysis_writes_no_shard(seg, tmp_path):
    spec = info([(160, 96, 64), (80, 48, 32)])
    told = ops.analyze_shards(seg, spec, str(tmp_path), scales=2, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["analyze.log"]
    written = ops.export_shards(seg, spec, str(tmp_path), scales=2, progress=False)
    assert told.scales == written.scales
    assert told.scales[0]["blocks"] == 4 * 6 * 10 - 4
    assert told.scales[0]["largest"] == 4


def test_a_body_that_is_none_is_left_out(repo, tmp_path):
    seg = labelmap(repo, levels=0)
    seg.write(np.full((16, 16, 32), 7, np.uint64), (0, 0, 0))
    seg.write(np.full((16, 16, 16), 9, np.uint64), (0, 0, 16))
    seg.set_mappings([9], [0])
    report = ops.export_shards(seg, info([(32, 16, 16)]), str(tmp_path), progress=False)
    assert [r["supervoxels"] for r in rows_of(tmp_path / "s0" / "0_0_0.arrow")] == [[7]]
    assert report.scales[0]["background"] == 1


def test_an_interrupted_export_goes_on(seg, volume, tmp_path, monkeypatch):
    done = []
    write = shards_module._WriteShard._write

    def dies_once(self, shard, first, rest):
        if len(done) == 5:
            done.append("died")
            next(rest)
            raise RuntimeError("power cut")
        done.append(shard)
        write(self, shard, first, rest)

    monkeypatch.setattr(shards_module._WriteShard, "_write", dies_once)
    with pytest.raises(RuntimeError, match="power cut"):
        ops.export_shards(seg, info([(160, 96, 64)]), str(tmp_path), progress=False)
    report = ops.export_shards(seg, info([(160, 96, 64)]), str(tmp_path), progress=False)
    done.remove("died")
    assert len(done) == len(set(done)) == report.scales[0]["shards"]
    rows = [r for p in (tmp_path / "s0").glob("*.arrow") for r in rows_of(p)]
    assert len(rows) == report.scales[0]["blocks"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export.log", "s0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sharding": None}, "sharding"),
        ({"sharding": {"@type": "other"}}, "sharding"),
        ({"chunk_sizes": [[64, 64, 64]]}, "chunk_sizes"),
        ({"chunk_sizes": [[16, 16, 16], [8, 8, 8]]}, "chunk_sizes"),
        ({"size": [0, 96, 64]}, "size"),
        ({"size": [16, 16]}, "size"),
        ({"size": [1.0, 96, 64]}, "size"),
        ({"voxel_offset": [1, 0, 0]}, "voxel_offset"),
        ({"voxel_offset": [2**31, 0, 0]}, "coordinates"),
        ({"size": [2**70, 16, 16]}, "coordinates"),
    ],
)
def test_specs_that_can_not_be_used(seg, tmp_path, change, words):
    spec = info([(160, 96, 64)])
    spec["scales"][0].update(change)
    for run in (ops.export_shards, ops.analyze_shards):
        with pytest.raises(BadRequest, match=words):
            run(seg, spec, str(tmp_path / "out"), progress=False)
    assert not (tmp_path / "out").exists()


def test_other_refusals(repo, seg, tmp_path):
    good = info([(160, 96, 64)])
    out = str(tmp_path / "out")
    for spec in ("{", "[]", "{}", {"scales": []}, {"scales": [1]}, {**good, "batch_size": 0}, b"\xff"):
        with pytest.raises(BadRequest):
            ops.export_shards(seg, spec, out, progress=False)
    with pytest.raises(BadRequest, match="raise shard_bits"):
        ops.export_shards(seg, info([(160, 96, 64)], shard=2), out, progress=False)
    for scales in (0, 2, 256):
        with pytest.raises(BadRequest, match="scales"):
            ops.export_shards(seg, good, out, scales=scales, progress=False)
    with pytest.raises(NotSupported):
        ops.export_shards(repo.new_instance("keyvalue", "notes"), good, out, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def bare():
    return labelmap(dvid_dask.create("memory://").new_repo("fly"), levels=0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_garbage_in_a_spec_is_refused(bare, data):
    """Any value anywhere is either the same as before or an error that says so."""
    spec = info([(160, 96, 64)])
    where = data.draw(st.sampled_from([spec, spec["scales"][0], spec["scales"][0]["sharding"]]))
    key = data.draw(st.sampled_from(sorted(where)))
    where[key] = data.draw(json_values)
    try:
        parsed = shards_module._parse(spec, bare)
    except BadRequest:
        return
    assert all(s.box.size > 0 for s in parsed.scales)
