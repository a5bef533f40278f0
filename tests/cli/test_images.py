"""`dvid-dask images`: tiles, regions, stacks of channels."""

import json
import struct

import numpy as np
import pytest

import dvid_dask
from tests.brainmaps import VOLUME, BrainMaps


@pytest.fixture
def gray(cli, store, tmp_path):
    voxels = np.random.default_rng(0).integers(1, 255, (32, 64, 96), dtype=np.uint8)
    np.save(tmp_path / "gray.npy", voxels)
    cli("ingest", tmp_path / "gray.npy", store, "-i", "gray", "--create")
    return voxels


def master(store):
    return dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]


def test_tiles(cli, store, gray, tmp_path):
    cli("node", "new-instance", store, "master", "imagetile", "tiles", "Source=gray")
    spec = tmp_path / "levels.json"
    levels = {"0": {"Resolution": [8, 8, 8], "TileSize": [32, 32, 32]}}
    spec.write_text(json.dumps({**levels, "1": {"Resolution": [16, 16, 16], "TileSize": [32, 32, 32]}}))
    done = cli("images", "tiles", store, "master", "tiles", "--planes", "xy;xz", "--zrange", "3,4", "--levels", spec)
    # two xy slices, and all 64 xz slices
    assert f"wrote {2 * (6 + 2) + 64 * (3 + 2):,} tiles of 2 scales" in done.out
    tiles = master(store)["tiles"]
    np.testing.assert_array_equal(tiles.picture("xy", 0, (2, 1, 4)), gray[4, 32:, 64:])
    assert tiles.get("xy", 0, (0, 0, 5)) is None
    assert "wrote" in cli("images", "tiles", store, "master", "tiles", "--planes", "yz", "--xrange", "0,0").out
    spec.write_text("{")
    assert "no JSON" in cli("images", "tiles", store, "master", "tiles", "--levels", spec, code=2).err
    assert "no A,B" in cli("images", "tiles", store, "master", "tiles", "--xrange", "5", code=2).err
    assert "before it begins" in cli("images", "tiles", store, "master", "tiles", "--xrange", "5,4", code=2).err


def test_roi(cli, store, gray):
    assert "tissue has 6 blocks" in cli("images", "roi", store, "master", "gray", "tissue").out
    assert master(store)["tissue"].spans.tolist() == [[0, 0, 0, 2], [0, 1, 0, 2]]
    cli("images", "roi", store, "master", "gray", "tissue", ",".join(map(str, range(256))))
    assert not len(master(store)["tissue"].spans)
    assert "no list of integers" in cli("images", "roi", store, "master", "gray", "tissue", "a", code=2).err


def test_load_v3draw(cli, store, tmp_path):
    voxels = np.arange(2 * 4 * 5 * 6, dtype="<u2").reshape(2, 4, 5, 6)
    head = b"raw_image_stack_by_hpengL" + struct.pack("<H4I", 2, 6, 5, 4, 2)
    (tmp_path / "a.v3draw").write_bytes(head + voxels.tobytes())
    done = cli("images", "load-v3draw", store, "master", "stack", tmp_path / "a.v3draw", "--create")
    assert "loaded 6 x 5 x 4 voxels of 2 channels" in done.out
    np.testing.assert_array_equal(master(store)["stack"][:, :, :], np.moveaxis(voxels, 0, -1))
    assert "no V3D raw file" in cli("images", "load-v3draw", store, "master", "stack", __file__, code=1).err


def test_brainmaps_volumes(cli, tmp_path):
    service = BrainMaps([], tmp_path)
    try:
        assert json.loads(cli("images", "brainmaps-volumes", service.keyfile).out) == {"volumeId": [VOLUME]}
    finally:
        service.close()
