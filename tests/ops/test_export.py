"""Exports read back by the formats' own readers: zarr-python and tensorstore."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import struct

import numpy as np
import pytest
import tensorstore as ts
import zarr

from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from tests.ops.conftest import neurites
from tests.ops.model import majority
from tests.ops.test_ingest import labelmap, mean_pyramid

OFFSET = (-32, 0, 64)
levels_module = importlib.import_module("dvid_dask.ops.levels")
precomputed_module = importlib.import_module("dvid_dask.ops.precomputed")
sharding_module = importlib.import_module("dvid_dask.formats.sharding")


@pytest.fixture
def volume():
    return neurites((64, 96, 80))


@pytest.fixture
def seg(repo, volume):
    seg = labelmap(repo, levels=2)
    ops.ingest(volume, seg, offset=OFFSET, progress=False)
    return seg


def pyramid(volume):
    return [volume, majority(volume), majority(majority(volume))]


def test_ome_zarr(seg, volume, tmp_path):
    ops.export(seg, str(tmp_path / "seg.zarr"), progress=False)
    group = zarr.open_group(tmp_path / "seg.zarr", mode="r")
    (scales,) = group.attrs["ome"]["multiscales"]
    assert group.attrs["ome"]["version"] == "0.5"
    assert [a["name"] for a in scales["axes"]] == ["z", "y", "x"]
    assert [a["unit"] for a in scales["axes"]] == ["nanometer"] * 3
    for s, (dataset, expected) in enumerate(zip(scales["datasets"], pyramid(volume), strict=True)):
        np.testing.assert_array_equal(group[dataset["path"]][:], expected)
        scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
        assert scale == [8.0 * 2**s] * 3
        # the first voxel's centre: (offset * 2**s + half of what it stands for) * 8 nm
        assert translation == [(o + 2**s / 2) * 8 for o in OFFSET]  # centres of voxels
    assert sorted(p.name for p in (tmp_path / "seg.zarr").iterdir()) == ["s0", "s1", "s2", "zarr.json"]


def precomputed(folder, scale):
    """A scale by tensorstore's driver, as (z, y, x) in its own coordinates."""
    spec = {"driver": "neuroglancer_precomputed", "kvstore": folder.as_uri() + "/", "scale_index": scale}
    return ts.open(spec, read=True).result()[..., 0].transpose([2, 1, 0])


def at(offset, volume):
    return tuple(slice(o, o + n) for o, n in zip(offset, volume.shape, strict=True))


@pytest.mark.parametrize("sharded", [True, False])
def test_precomputed(seg, volume, tmp_path, sharded):
    labels = np.unique(volume)[1:6].tolist()
    seg.merge(labels[0], labels[1:])
    ops.export(seg, str(tmp_path / "seg"), format="precomputed", sharded=sharded, progress=False)
    info = json.loads((tmp_path / "seg" / "info").read_text())
    assert info["type"] == "segmentation"
    assert [s["resolution"] for s in info["scales"]] == [[8] * 3, [16] * 3, [32] * 3]
    assert info["scales"][0]["voxel_offset"] == list(OFFSET[::-1])
    # the coarsest scale begins inside a block: its volume begins with that block
    assert info["scales"][2]["voxel_offset"] == [16, 0, -16]
    assert [s["size"] for s in info["scales"]] == [[80, 96, 64], [40, 48, 32], [20, 24, 24]]
    assert all(s["encoding"] == "compressed_segmentation" for s in info["scales"])
    assert [("sharding" in s) for s in info["scales"]] == [sharded] * 3
    for s, level in enumerate(pyramid(volume)):
        expected = np.where(np.isin(level, labels), labels[0], level)
        offset = [o >> s for o in OFFSET]
        found = precomputed(tmp_path / "seg", s)
        np.testing.assert_array_equal(found[at(offset, level)].read().result(), expected)
        assert np.count_nonzero(found.read().result()) == np.count_nonzero(expected)
        files = [p.name for p in (tmp_path / "seg" / info["scales"][s]["key"]).iterdir()]
        assert all(name.endswith(".shard") for name in files) if sharded else len(files) > 1
    again = ops.open_volume(f"precomputed://{tmp_path}/seg")
    np.testing.assert_array_equal(again.read(again.box), np.where(np.isin(volume, labels), labels[0], volume))


def chunk_of_shard(folder, sharding, grid_xyz, chunk_xyz):
    """One chunk by the words of neuroglancer's page on sharded volumes, one bit and one byte after the other."""
    bits = [max(0, (n - 1).bit_length()) for n in grid_xyz]
    code = at = 0
    for bit in range(max(bits)):
        for axis in range(3):
            if bit < bits[axis]:
                code |= (chunk_xyz[axis] >> bit & 1) << at
                at += 1
    hashed = code >> sharding["preshift_bits"]
    minishard = hashed & (1 << sharding["minishard_bits"]) - 1
    shard = hashed >> sharding["minishard_bits"] & (1 << sharding["shard_bits"]) - 1
    data = (folder / f"{shard:0{-(-sharding['shard_bits'] // 4) or 1}x}.shard").read_bytes()
    base = 16 << sharding["minishard_bits"]
    start, stop = struct.unpack_from("<2Q", data, 16 * minishard)
    index = np.frombuffer(gzip.decompress(data[base + start : base + stop]), "<u8").reshape(3, -1)
    offset = base
    found = 0
    for key, gap, size in index.T.tolist():
        found, offset = found + key, offset + gap
        if found == code:
            return gzip.decompress(data[offset : offset + size])
        offset += size
    return None


def test_many_shards_read_by_the_letter(repo, tmp_path, monkeypatch):
    """Shards of eight chunks in a box that is no cube: by neuroglancer's description and its published codec."""
    codec = pytest.importorskip("compressed_segmentation")
    monkeypatch.setattr(precomputed_module, "_VOXELS_PER_SHARD", 8 * 16**3)
    monkeypatch.setattr(sharding_module, "_MINISHARD_BITS", 1)
    seg = labelmap(repo, levels=0)
    volume = neurites((40, 100, 176))
    volume[:16, 16:32, 32:48] = 0
    ops.ingest(volume, seg, offset=(-16, 0, 160), progress=False)
    ops.export(seg, str(tmp_path / "seg"), format="precomputed", progress=False)
    (scale,) = json.loads((tmp_path / "seg" / "info").read_text())["scales"]
    assert scale["sharding"] == {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "minishard_bits": 2,
        "shard_bits": 6,
        "hash": "identity",
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }
    folder = tmp_path / "seg" / scale["key"]
    assert len(list(folder.iterdir())) == 2 * 4 * 6
    found = np.zeros_like(volume)
    grid = [11, 7, 3]
    for x, y, z in itertools.product(*map(range, grid)):
        corner = np.array([x, y, z]) * 16
        shape = tuple(np.minimum(16, np.array(scale["size"]) - corner).tolist())
        data = chunk_of_shard(folder, scale["sharding"], grid, (x, y, z))
        assert (data is None) == ((x, y, z) == (2, 1, 0))
        if data is not None:
            chunk = codec.decompress(data, shape, np.uint64, block_size=(8, 8, 8), order="F").reshape(shape)
            found[at(corner[::-1], chunk.T)] = chunk.T
    np.testing.assert_array_equal(found, volume)
    np.testing.assert_array_equal(precomputed(tmp_path / "seg", 0).read().result(), volume)


def test_only_shards_that_hold_something_are_looked_at(repo, tmp_path, monkeypatch):
    monkeypatch.setattr(precomputed_module, "_VOXELS_PER_SHARD", 8 * 16**3)
    monkeypatch.setattr(precomputed_module, "_ENUMERATE", 100)
    seg = labelmap(repo, levels=0)
    far = (1 << 20, -(1 << 19), 1 << 20)
    for offset, label in (((0, 0, 0), 5), (far, 6)):
        seg.write(np.full((16, 16, 16), label, np.uint64), offset)
    ops.export(seg, str(tmp_path / "seg"), format="precomputed", progress=False)
    assert len(list((tmp_path / "seg").glob("8_8_8/*.shard"))) == 2
    found = precomputed(tmp_path / "seg", 0)
    assert int(found[0, 0, 0].read().result()) == 5
    assert int(found[far].read().result()) == 6


def test_segment_properties(seg, volume, tmp_path):
    labels, counts = np.unique(volume[volume > 0], return_counts=True)
    ops.export(seg, str(tmp_path / "seg"), format="precomputed", segment_properties=True, progress=False)
    info = json.loads((tmp_path / "seg" / "info").read_text())
    inline = json.loads((tmp_path / "seg" / info["segment_properties"] / "info").read_text())["inline"]
    assert inline["ids"] == [str(i) for i in labels]
    (sizes,) = inline["properties"]
    assert sizes["values"] == counts.tolist()
    with pytest.raises(BadRequest, match="properties"):
        ops.export(seg, str(tmp_path / "x"), format="ome-zarr", segment_properties=True, progress=False)


def test_plain_zarr(seg, volume, tmp_path):
    ops.export(seg, str(tmp_path / "seg.zarr"), format="zarr", progress=False)
    array = zarr.open_array(tmp_path / "seg.zarr", mode="r")
    np.testing.assert_array_equal(array[:], volume)
    assert array.attrs["offset"] == list(OFFSET)


def test_bodies_or_supervoxels(seg, volume, tmp_path):
    labels = np.unique(volume)[1:6].tolist()
    seg.merge(labels[0], labels[1:])
    ops.export(seg, str(tmp_path / "bodies"), format="zarr", progress=False)
    ops.export(seg, str(tmp_path / "svs"), format="zarr", supervoxels=True, progress=False)
    merged = np.where(np.isin(volume, labels), labels[0], volume)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "bodies", mode="r")[:], merged)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "svs", mode="r")[:], volume)


@pytest.mark.parametrize("format", ["ome-zarr", "precomputed"])
def test_images(repo, tmp_path, format):
    image = repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    volume = np.random.default_rng(0).integers(0, 255, (40, 50, 61), dtype=np.uint8)
    ops.ingest(volume, image, offset=(-6, 0, 100), scales=1, progress=False)
    ops.export(image, str(tmp_path / "out"), format=format, progress=False)
    for s, expected in enumerate(mean_pyramid(volume, 1)):
        if format == "ome-zarr":
            found = zarr.open_group(tmp_path / "out", mode="r")[f"s{s}"][:]
        else:
            assert list((tmp_path / "out").glob("*/*.shard"))
            url = (tmp_path / "out").as_uri() + "/"
            spec = {"driver": "neuroglancer_precomputed", "kvstore": url, "scale_index": s}
            found = ts.open(spec).result()[..., 0].transpose([2, 1, 0]).read().result()
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("format", ["zarr", "ome-zarr", "precomputed"])
def test_colour_images(repo, tmp_path, format):
    image = repo.new_instance("rgba8blk", "colours", {"BlockSize": "16,16,16"})
    volume = np.random.default_rng(0).integers(0, 255, (40, 50, 61, 4), dtype=np.uint8)
    image.write(volume, (-6, 0, 100))
    ops.export(image, str(tmp_path / "out"), format=format, progress=False)
    url = (tmp_path / "out").as_uri() + "/"
    if format == "precomputed":
        info = json.loads((tmp_path / "out" / "info").read_text())
        assert (info["num_channels"], info["data_type"]) == (4, "uint8")
        found = ts.open({"driver": "neuroglancer_precomputed", "kvstore": url}).result()
        np.testing.assert_array_equal(found.transpose([2, 1, 0, 3]).read().result(), volume)
        return
    node = zarr.open(tmp_path / "out", mode="r")
    array = node if format == "zarr" else node["s0"]
    assert array.metadata.dimension_names == ("c", "z", "y", "x")
    np.testing.assert_array_equal(np.moveaxis(array[:], 0, -1), volume)
    if format == "ome-zarr":
        ome = node.attrs["ome"]
        assert [a["name"] for a in ome["multiscales"][0]["axes"]] == ["c", "z", "y", "x"]
        channels = ome["omero"]["channels"]
        assert [(c["label"], c["color"], c["active"]) for c in channels] == [
            ("red", "FF0000", True),
            ("green", "00FF00", True),
            ("blue", "0000FF", True),
            ("alpha", "FFFFFF", False),
        ]


def test_an_interrupted_export_goes_on(seg, volume, tmp_path, monkeypatch):
    done = []
    copy = levels_module.Copy.__call__

    def dies_once(self, index):
        if len(done) == 2:
            done.append("died")
            raise RuntimeError("power cut")
        done.append((self.phase, index))
        return copy(self, index)

    monkeypatch.setattr(levels_module, "_EDGE", 32)
    monkeypatch.setattr(levels_module.Copy, "__call__", dies_once)
    where = str(tmp_path / "seg.zarr")
    with pytest.raises(RuntimeError, match="power cut"):
        ops.export(seg, where, progress=False)
    with pytest.raises(Conflict, match="something else"):
        ops.export(seg, where, supervoxels=True, progress=False)
    ops.export(seg, where, progress=False)
    for s, expected in enumerate(pyramid(volume)):
        np.testing.assert_array_equal(zarr.open_group(where, mode="r")[f"s{s}"][:], expected)
    done.remove("died")
    assert len(done) == len(set(done))  # finished bricks were not copied again


def test_an_interrupted_export_of_shards_goes_on(seg, volume, tmp_path, monkeypatch):
    monkeypatch.setattr(precomputed_module, "_VOXELS_PER_SHARD", 8 * 16**3)
    done = []
    write = precomputed_module.LabelChunks.__call__

    def dies_once(self, index):
        if len(done) == 5:
            done.append("died")
            raise RuntimeError("power cut")
        done.append((self.phase, index))
        return write(self, index)

    monkeypatch.setattr(precomputed_module.LabelChunks, "__call__", dies_once)
    where = tmp_path / "seg"
    with pytest.raises(RuntimeError, match="power cut"):
        ops.export(seg, str(where), format="precomputed", progress=False)
    with pytest.raises(Conflict, match="something else"):
        ops.export(seg, str(where), format="precomputed", sharded=False, progress=False)
    ops.export(seg, str(where), format="precomputed", progress=False)
    np.testing.assert_array_equal(precomputed(where, 0).read().result(), volume)
    done.remove("died")
    assert len(done) == len(set(done))
    assert sorted(p.name for p in where.iterdir()) == ["16_16_16", "32_32_32", "8_8_8", "info"]


def test_from_a_read_only_store(tmp_path, volume):
    import dvid_dask

    made = dvid_dask.create(str(tmp_path / "store"))
    seg = labelmap(made.new_repo("fly"))
    ops.ingest(volume, seg, progress=False)
    seg = dvid_dask.open(str(tmp_path / "store"), read_only=True)[seg.version.uuid]["seg"]
    ops.export(seg, str(tmp_path / "out"), format="zarr", progress=False)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out", mode="r")[:], volume)


def test_errors(repo, seg, tmp_path):
    with pytest.raises(BadRequest, match="unknown"):
        ops.export(seg, str(tmp_path / "a"), format="tiff", progress=False)
    with pytest.raises(BadRequest, match="2 coarser scales"):
        ops.export(seg, str(tmp_path / "a"), scales=3, progress=False)
    with pytest.raises(BadRequest, match="one array"):
        ops.export(seg, str(tmp_path / "a"), format="zarr", scales=1, progress=False)
    with pytest.raises(BadRequest, match="empty"):
        ops.export(labelmap(repo, name="new"), str(tmp_path / "a"), progress=False)
    with pytest.raises(NotSupported):
        ops.export(repo.new_instance("keyvalue", "notes"), str(tmp_path / "a"), progress=False)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("precious")
    with pytest.raises(Conflict, match="not empty"):
        ops.export(seg, str(tmp_path / "b"), progress=False)
