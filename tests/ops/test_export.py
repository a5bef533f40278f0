"""Exports read back by the formats' own readers: zarr-python and tensorstore."""

from __future__ import annotations

import importlib
import json

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
export_module = importlib.import_module("dvid_dask.ops.export")


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
        assert translation == [o * 8.0 + (2**s - 1) / 2 * 8 for o in OFFSET]
    assert sorted(p.name for p in (tmp_path / "seg.zarr").iterdir()) == ["s0", "s1", "s2", "zarr.json"]


def test_precomputed(seg, volume, tmp_path):
    ops.export(seg, str(tmp_path / "seg"), format="precomputed", progress=False)
    info = json.loads((tmp_path / "seg" / "info").read_text())
    assert info["type"] == "segmentation"
    assert [s["resolution"] for s in info["scales"]] == [[8] * 3, [16] * 3, [32] * 3]
    assert info["scales"][0]["voxel_offset"] == list(OFFSET[::-1])
    for s, expected in enumerate(pyramid(volume)):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": (tmp_path / "seg").as_uri() + "/", "scale_index": s}
        found = ts.open(spec, read=True).result()
        np.testing.assert_array_equal(found[..., 0].transpose([2, 1, 0]).read().result(), expected)
    again = ops.open_volume(f"precomputed://{tmp_path}/seg")
    np.testing.assert_array_equal(again.read(again.box), volume)


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
    ops.ingest(volume, image, scales=1, progress=False)
    ops.export(image, str(tmp_path / "out"), format=format, progress=False)
    for s, expected in enumerate(mean_pyramid(volume, 1)):
        if format == "ome-zarr":
            found = zarr.open_group(tmp_path / "out", mode="r")[f"s{s}"][:]
        else:
            url = (tmp_path / "out").as_uri() + "/"
            spec = {"driver": "neuroglancer_precomputed", "kvstore": url, "scale_index": s}
            found = ts.open(spec).result()[..., 0].transpose([2, 1, 0]).read().result()
        np.testing.assert_array_equal(found, expected)


def test_an_interrupted_export_goes_on(seg, volume, tmp_path, monkeypatch):
    done = []
    copy = export_module._Copy.__call__

    def dies_once(self, index):
        if len(done) == 2:
            done.append("died")
            raise RuntimeError("power cut")
        done.append((self.phase, index))
        return copy(self, index)

    monkeypatch.setattr(export_module, "_EDGE", 32)
    monkeypatch.setattr(export_module._Copy, "__call__", dies_once)
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
