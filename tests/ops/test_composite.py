"""Colours over grayscale against the formula, voxel by voxel; interrupted and refused."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotSupported
from dvid_dask.formats.images import pseudocolor
from tests.ops.conftest import neurites
from tests.ops.test_ingest import labelmap

composite_module = importlib.import_module("dvid_dask.ops.composite")


@pytest.fixture
def volumes():
    return neurites((48, 64, 80)), np.random.default_rng(0).integers(0, 256, (50, 40, 70), dtype=np.uint8)


@pytest.fixture
def pair(repo, volumes):
    seg = labelmap(repo, levels=0, VoxelSize="4,4,40")
    gray = repo.new_instance("uint8blk", "gray", {"BlockSize": "32,32,32"})
    ops.ingest(volumes[0], seg, offset=(-20, 0, 3), progress=False)
    ops.ingest(volumes[1], gray, offset=(-16, 8, 0), scales=0, progress=False)
    return seg, gray


def check(image, volumes):
    labels, gray = volumes[0][4:, 8:48, :67], volumes[1][:44, :, 3:]
    found = image.read_box((-16, 8, 3), labels.shape)
    np.testing.assert_array_equal(found[..., :3], pseudocolor(labels).astype(int) * gray[..., None] // 256)
    assert (found[..., 3] == 255).all()
    assert (image.extents.start, image.extents.stop) == ((-16, 8, 3), (28, 48, 70))
    assert not image.read_box((-16, 0, 3), (44, 8, 67)).any()


def test_colours_times_gray(pair, volumes):
    image = ops.composite(*pair, "colours", progress=False)
    check(image, volumes)
    assert image.voxel_size == (40.0, 4.0, 4.0)
    assert ops.unfinished_jobs(image) == {}


def test_interrupted_it_goes_on(pair, volumes, monkeypatch):
    monkeypatch.setattr(composite_module, "_EDGE", 16)
    done = []
    paint = composite_module._Paint.__call__

    def dies_once(self, index):
        if len(done) == 3:
            done.append("died")
            raise RuntimeError("power cut")
        done.append(index)
        return paint(self, index)

    monkeypatch.setattr(composite_module._Paint, "__call__", dies_once)
    with pytest.raises(RuntimeError, match="power cut"):
        ops.composite(*pair, "colours", progress=False)
    check(ops.composite(*pair, "colours", progress=False), volumes)
    done.remove("died")
    assert len(done) == len(set(done)) > 8
    with pytest.raises(Conflict, match="already"):
        ops.composite(*pair, "colours", progress=False)


def test_what_makes_no_composite(repo, pair):
    seg, gray = pair
    with pytest.raises(NotSupported):
        ops.composite(gray, gray, "x", progress=False)
    with pytest.raises(NotSupported):
        ops.composite(seg, repo.new_instance("uint16blk", "wide"), "x", progress=False)
    with pytest.raises(BadRequest, match="common"):
        ops.composite(seg, repo.new_instance("uint8blk", "empty"), "x", progress=False)
    with pytest.raises(Conflict, match="already"):
        ops.composite(seg, gray, "gray", progress=False)
    repo["master"].commit()
    with pytest.raises(BadRequest, match="one version"):
        ops.composite(repo["master"].newversion()["seg"], gray, "x", progress=False)
    with pytest.raises(LockedVersion):
        ops.composite(seg, gray, "x", progress=False)
    assert "x" not in repo["master"]
