"""Settings, extents and versions of images."""

from __future__ import annotations

import numpy as np
import pytest

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest, LockedVersion

from .conftest import noise


@pytest.mark.parametrize(
    "config",
    [
        {"blocksize": "a,b,c"},
        {"blocksize": "32,32"},
        {"blocksize": "0,32,32"},
        {"blocksize": "-8,32,32"},
        {"blocksize": "1024,1024,1024"},
        {"blocksize": [32, 32, 32]},
        {"blocksize": "32,32,1_0"},
        {"voxelsize": "x,y,z"},
        {"voxelsize": "8,8,0"},
        {"voxelsize": "8,8,nan"},
        {"voxelsize": "8,8,inf"},
        {"voxelunits": "nm"},
        {"background": "300"},
        {"background": "-1"},
        {"background": 3},
        {"gridstore": "somewhere"},
        {"scalelevel": "x"},
        {"minpoint": "0,0,0"},
        {"minpoint": "5,0,0", "maxpoint": "4,9,9"},
        {"minpoint": "0,0,4294967296", "maxpoint": "4,9,9"},
        {"compression": "jpeg", "blocksize": "64,512,512"},
        {"compression": "brotli"},
    ],
)
def test_bad_settings_are_refused(repo, config):
    with pytest.raises(BadRequest):
        repo.new_instance("uint8blk", "bad", config)
    assert "bad" not in repo.instances


def test_jpeg_is_for_single_bytes_only(repo):
    for typename in ("uint16blk", "rgba8blk", "float32blk"):
        with pytest.raises(BadRequest, match="8-bit"):
            repo.new_instance(typename, "bad", {"compression": "jpeg"})


def test_extents_fall_back_to_the_settings_grow_and_can_be_overwritten(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8", "minpoint": "1,2,3", "maxpoint": "10,20,30"})
    assert image.extents == Box((3, 2, 1), (31, 21, 11))
    image.write(noise((8, 8, 8)), (0, 0, -8))
    assert image.extents == Box((0, 0, -8), (31, 21, 11))
    image.set_extents((0, 0, 0), (1, 1, 1))
    assert image.extents == Box((0, 0, 0), (1, 1, 1))
    root = image.version
    root.commit()
    child = root.newversion()["image"]
    child.write(noise((8, 8, 8)), (8, 8, 8))
    assert child.extents == Box((0, 0, 0), (16, 16, 16))
    assert root["image"].extents == Box((0, 0, 0), (1, 1, 1))
    for start, stop in (((0, 0, 0), (0, 1, 1)), ((0, 0, 0), (1, 1, 2**31 + 1))):
        with pytest.raises(BadRequest):
            child.set_extents(start, stop)
    with pytest.raises(LockedVersion):
        root["image"].set_extents((0, 0, 0), (1, 1, 1))


def test_resolution_holds_at_all_versions(gray):
    gray.set_resolution((1.5, 2, 30.25))
    assert gray.voxel_size == (30.25, 2, 1.5)
    gray.version.commit()
    assert gray.version.newversion()["gray"].voxel_size == (30.25, 2, 1.5)
    for bad in ((1, 2), (1, 2, 0), (1, 2, float("nan"))):
        with pytest.raises(BadRequest):
            gray.set_resolution(bad)


def test_versions_that_are_merged_unite_extents(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    image.write(noise((8, 8, 8)), (0, 0, 0))
    image.version.commit()
    left, right = image.version.new_branch("left"), image.version.new_branch("right")
    left["image"].write(np.full((8, 8, 8), 1, np.uint8), (0, 0, -16))
    right["image"].write(np.full((8, 8, 8), 2, np.uint8), (16, 0, 0))
    left.commit()
    right.commit()
    merged = repo.merge([left, right])["image"]
    assert merged.extents == Box((0, 0, -16), (24, 8, 8))
    assert (merged[0, 0, -16], merged[16, 0, 0]) == (1, 2)


def test_a_diff_names_blocks(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    image.write(noise((8, 8, 8)), (0, 0, 0))
    root = image.version
    root.commit()
    child = root.newversion()
    child["image"].write(noise((8, 8, 8)), (0, 8, -8))
    view = child["image"].view()
    named = [child["image"].describe_change(key) for key, _ in view.scan()]
    assert {"scale": 0, "block": [-1, 1, 0]} in named
    assert {"extents": True} in named
    assert None in named  # the array's metadata is bookkeeping


def test_forced_writes_reach_the_descendants_that_still_agree(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    image.write(np.full((8, 8, 16), 1, np.uint8), (0, 0, 0))
    root = image.version
    root.commit()
    child = root.newversion()
    child["image"].write(np.full((8, 8, 8), 2, np.uint8), (0, 0, 8))
    root["image"].write(np.full((8, 8, 16), 3, np.uint8), (0, 0, 0), force=True)
    assert [int(root["image"][0, 0, x]) for x in (0, 8)] == [3, 3]
    assert [int(child["image"][0, 0, x]) for x in (0, 8)] == [3, 2]
