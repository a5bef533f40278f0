"""Exports of bodies as NanoVDB files, read back."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict, NotFound, NotSupported
from dvid_dask.formats import nanovdb
from tests.formats.nanovdb.test_readers import load, ordered, warp
from tests.ops.conftest import neurites
from tests.ops.model import majority
from tests.ops.test_ingest import labelmap

OFFSET = (-32, 0, 64)
module = importlib.import_module("dvid_dask.ops.nanovdb")


@pytest.fixture
def volume():
    return neurites((64, 48, 48))


@pytest.fixture
def seg(repo, volume):
    seg = labelmap(repo, levels=1)
    ops.ingest(volume, seg, offset=OFFSET, progress=False)
    return seg


@pytest.fixture
def gray(repo, volume):
    image = repo.new_instance("uint16blk", "gray", {"BlockSize": "32,32,32"})
    values = np.random.default_rng(0).integers(0, 65535, volume.shape, dtype=np.uint16)
    ops.ingest(values, image, offset=OFFSET, scales=0, progress=False)
    return image, values


def voxels(mask, offset=OFFSET):
    return ordered((np.argwhere(mask) + offset)[:, ::-1])


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_all_bodies(seg, volume, tmp_path):
    labels = np.unique(volume)[1:].tolist()
    seg.merge(labels[0], labels[1:3])
    report = ops.export_bodies(seg, str(tmp_path / "out"), progress=False)
    bodies = [labels[0], *labels[3:]]
    assert files(tmp_path / "out") == sorted(f"{b}.nvdb" for b in bodies)
    assert (report.files, report.empty, report.voxels) == (len(bodies), 0, np.count_nonzero(volume))
    merged = np.where(np.isin(volume, labels[:3]), labels[0], volume)
    for body in bodies:
        with open(tmp_path / "out" / f"{body}.nvdb", "rb") as file:
            found = warp().Volume.load_from_nvdb(file, device="cpu")
        np.testing.assert_array_equal(found.get_voxels().numpy(), voxels(merged == body))
        assert found.get_grid_info().name == f"label_{body}"


def test_chosen_ones(seg, volume, tmp_path):
    labels, counts = np.unique(volume, return_counts=True)
    labels, counts = labels[1:], counts[1:]
    seg.merge(int(labels[0]), [int(labels[1])])
    report = ops.export_bodies(seg, str(tmp_path / "svs"), labels[:2], supervoxels=True, compress=True, progress=False)
    assert report.files == 2
    for label in labels[:2].tolist():
        (grid,) = nanovdb.read_grids((tmp_path / "svs" / f"{label}.nvdb").read_bytes())
        np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(volume == label))
    limit = int(np.median(counts[2:]))
    ops.export_bodies(seg, str(tmp_path / "large"), labels[2:], min_voxels=limit, progress=False)
    assert files(tmp_path / "large") == sorted(f"{b}.nvdb" for b in labels[2:][counts[2:] >= limit])


def test_values(seg, volume, gray, tmp_path):
    image, values = gray
    label = int(np.unique(volume)[3])
    wanted = voxels(volume == label)
    x, y, z = (wanted - OFFSET[::-1]).T
    for how in ("channel", "voxels", "apart"):
        folder = tmp_path / how
        ops.export_bodies(seg, str(folder), [label], image=image, values=how, progress=False)
        (grid,) = nanovdb.read_grids((folder / f"{label}.nvdb").read_bytes())
        np.testing.assert_array_equal(grid.leaves.coordinates(), wanted)
        if how == "channel":
            found = grid.channels["gray"][grid.indices()]
        elif how == "voxels":
            found = grid.values
        else:
            assert files(folder) == [f"{label}-gray.bin", f"{label}.nvdb"]
            found = np.fromfile(folder / f"{label}-gray.bin", "<u2")
        np.testing.assert_array_equal(found, values[z, y, x])


def test_scales(seg, volume, gray, tmp_path):
    report = ops.export_bodies(seg, str(tmp_path / "out"), scale=1, progress=False)
    coarse = majority(volume)
    there = np.unique(coarse)[1:]
    assert files(tmp_path / "out") == sorted(f"{b}.nvdb" for b in there)
    assert report.empty == len(np.unique(volume)) - 1 - len(there)
    (grid,) = nanovdb.read_grids((tmp_path / "out" / f"{there[0]}.nvdb").read_bytes())
    np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(coarse == there[0], np.array(OFFSET) // 2))
    assert grid.voxel_size_xyz == (16, 16, 16)
    with pytest.raises(BadRequest, match="no scale 1"):
        ops.export_bodies(seg, str(tmp_path / "more"), scale=1, image=gray[0], progress=False)


def test_an_interrupted_export_goes_on(seg, volume, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LABELS", 3)
    labels = np.unique(volume)[1:]
    written = []
    write = module._Write._write

    def failing(self, label, body):
        if len(written) == 7:
            raise OSError("the disk is full")
        written.append(label)
        return write(self, label, body)

    monkeypatch.setattr(module._Write, "_write", failing)
    with pytest.raises((OSError, ops.JobFailedError)):
        ops.export_bodies(seg, str(tmp_path / "out"), progress=False)
    with pytest.raises(Conflict, match="something else"):
        ops.export_bodies(seg, str(tmp_path / "out"), labels[:1], progress=False)
    again = []
    monkeypatch.setattr(module._Write, "_write", lambda s, label, body: again.append(label) or write(s, label, body))
    report = ops.export_bodies(seg, str(tmp_path / "out"), progress=False)
    assert set(again) == set(labels.tolist()) - set(written[:6])  # two tasks of three labels were done
    assert report.files == len(labels)
    assert files(tmp_path / "out") == sorted(f"{b}.nvdb" for b in labels)


def test_on_a_cluster(tmp_path, volume):
    from distributed import Client, LocalCluster

    import dvid_dask

    repo = dvid_dask.create(str(tmp_path / "store")).new_repo("fly")
    seg = labelmap(repo, levels=1)
    ops.ingest(volume, seg, offset=OFFSET, progress=False)
    image = repo.new_instance("uint8blk", "gray", {"BlockSize": "32,32,32"})
    ops.ingest(volume.astype(np.uint8), image, offset=OFFSET, scales=0, progress=False)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        report = ops.export_bodies(seg, str(tmp_path / "out"), image=image, client=client, progress=False)
    labels = np.unique(volume)[1:]
    assert report.files == len(labels)
    (grid,) = nanovdb.read_grids((tmp_path / "out" / f"{labels[0]}.nvdb").read_bytes())
    assert (grid.channels["gray"][1:] == labels[0].astype(np.uint8)).all()
    assert load(nanovdb.encode_index_grid(grid.leaves)).get_voxel_count() == np.count_nonzero(volume == labels[0])


def test_refused(seg, gray, volume, repo, tmp_path):
    out = str(tmp_path / "out")
    for message, error, args in [
        ("no body 5", NotFound, {"bodies": [5]}),
        ("no supervoxel 5", NotFound, {"bodies": [5], "supervoxels": True}),
        ("which supervoxels", BadRequest, {"supervoxels": True}),
        ("nothing to export", BadRequest, {"bodies": []}),
        ("nothing to export", BadRequest, {"min_voxels": 10**9}),
        ("uint64", BadRequest, {"bodies": [-1]}),
        ("uint64", BadRequest, {"bodies": [0.5]}),
        ("none of channel", BadRequest, {"values": "some"}),
        ("needs an image", BadRequest, {"values": "voxels"}),
        ("not an image", BadRequest, {"image": seg}),
        ("channels", NotSupported, {"image": repo.new_instance("rgba8blk", "colour")}),
    ]:
        with pytest.raises(error, match=message):
            ops.export_bodies(seg, out, progress=False, **args)
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotSupported):
        ops.export_bodies(gray[0], out, progress=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        ops.export_bodies(seg, out, progress=False)
