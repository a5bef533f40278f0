"""`dvid-dask labels fvdb` and `export-bodies`."""

from __future__ import annotations

import numpy as np
import pytest

import dvid_dask
from dvid_dask.formats import nanovdb
from tests.formats.nanovdb.test_readers import ordered

VOLUME = np.zeros((32, 32, 64), np.uint64)
VOLUME[:, :10, 4:10], VOLUME[2:4, 10:, 10:60] = 7, 9


@pytest.fixture
def filled(store):
    with dvid_dask.open(str(store), compact="never") as ds:
        repo = ds.repos.named("fly")
        seg = repo.new_instance("labelmap", "seg", {"BlockSize": "32,32,32", "MaxDownresLevel": "1"})
        seg.write(VOLUME, (0, 0, 0))
        repo.new_instance("uint8blk", "gray").write(np.indices(VOLUME.shape).sum(0).astype(np.uint8), (0, 0, 0))
    return store


def gray_at(voxels):
    return voxels.sum(axis=1).astype(np.uint8)


def voxels(label):
    return ordered(np.argwhere(label == VOLUME)[:, ::-1])


def test_fvdb(cli, filled, tmp_path):
    said = cli("labels", "fvdb", filled, "master", "seg", 7, tmp_path / "seven.nvdb").out
    assert f"{len(voxels(7)):,} voxels of label_7" in said
    (grid,) = nanovdb.read_grids((tmp_path / "seven.nvdb").read_bytes())
    np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(7))
    assert sorted(p.name for p in tmp_path.glob("seven*")) == ["seven.nvdb"]


def test_fvdb_with_an_image(cli, filled, tmp_path):
    """As DVID: values in index order in a file beside the grid."""
    cli("labels", "fvdb", filled, "master", "seg", 9, tmp_path / "a.b.nvdb", "--image", "gray", "--name", "nine")
    (grid,) = nanovdb.read_grids((tmp_path / "a.b.nvdb").read_bytes())
    assert (grid.name, grid.channels) == ("nine", {})
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.b-gray.bin", np.uint8), gray_at(voxels(9)))
    cli(
        "labels",
        "fvdb",
        filled,
        "master",
        "seg",
        9,
        tmp_path / "c.nvdb",
        "--image",
        "gray",
        "--values",
        "voxels",
        "--compress",
    )
    (grid,) = nanovdb.read_grids((tmp_path / "c.nvdb").read_bytes())
    np.testing.assert_array_equal(grid.values, gray_at(voxels(9)))
    cli("labels", "fvdb", filled, "master", "seg", 9, tmp_path / "d.nvdb", "--raw", "--scale", 1)
    assert (tmp_path / "d.nvdb").read_bytes()[:8] == b"NanoVDB1"


@pytest.mark.parametrize(
    ("instance", "label", "more", "message", "code"),
    [
        ("seg", 8, (), "no body 8", 1),
        ("seg", 9, ("--scale", 3), "no voxels found", 1),
        ("gray", 9, (), "not a labelmap", 1),
        ("seg", 9, ("--image", "seg"), "not an image", 1),
        ("seg", 9, ("--raw", "--compress"), "exclude", 2),
    ],
)
def test_fvdb_refuses(cli, filled, tmp_path, instance, label, more, message, code):
    assert (
        message in cli("labels", "fvdb", filled, "master", instance, label, tmp_path / "x.nvdb", *more, code=code).err
    )
    assert not (tmp_path / "x.nvdb").exists()


def test_export_bodies(cli, filled, tmp_path):
    said = cli("labels", "export-bodies", filled, "master", "seg", tmp_path / "all", "--image", "gray").out
    assert "2 bodies" in said
    for label in (7, 9):
        (grid,) = nanovdb.read_grids((tmp_path / "all" / f"{label}.nvdb").read_bytes())
        np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(label))
        np.testing.assert_array_equal(grid.channels["gray"][1:], gray_at(voxels(label)))
    (tmp_path / "ids.txt").write_text("9\n7\n")
    cli(
        "labels",
        "export-bodies",
        filled,
        "master",
        "seg",
        tmp_path / "two",
        "--bodies",
        tmp_path / "ids.txt",
        "--compress",
    )
    cli("labels", "export-bodies", filled, "master", "seg", tmp_path / "one", "--bodies", "7")
    assert [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("two", "one")] == [
        ["7.nvdb", "9.nvdb"],
        ["7.nvdb"],
    ]
    assert (
        "list of ids"
        in cli("labels", "export-bodies", filled, "master", "seg", tmp_path / "x", "--bodies", "7,a", code=2).err
    )
