"""`dvid-dask labels mesh`."""

from __future__ import annotations

import numpy as np
import pytest

import dvid_dask
from dvid_dask.formats.meshes.files import decode

for _name in ("skimage.measure", "pyfqmr", "DracoPy", "trimesh"):
    pytest.importorskip(_name)

VOLUME = np.zeros((32, 32, 64), np.uint64)
VOLUME[4:28, 4:20, 4:20], VOLUME[8:12, 8:28, 40:60] = 7, 9


@pytest.fixture
def filled(store):
    with dvid_dask.open(str(store), compact="never") as ds:
        repo = ds.repos.named("fly")
        repo.new_instance("labelmap", "seg", {"BlockSize": "32,32,32"}).write(VOLUME, (0, 0, 0))
        repo.new_instance("tarsupervoxels", "meshes", {"Extension": "drc"})
    return store


def test_into_an_instance(cli, filled):
    assert "wrote 2 meshes" in cli("labels", "mesh", filled, "master", "seg", "meshes").out
    with dvid_dask.open(str(filled), read_only=True) as ds:
        meshes = ds.repos.named("fly")["master"]["meshes"]
        assert list(meshes) == [7, 9]
        assert decode(meshes[9], "drc").volume == pytest.approx((VOLUME == 9).sum() * 512, rel=0.1)


def test_into_a_folder(cli, filled, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("9\n")
    options = ("--labels", ids, "--format", "obj", "--keep", "1", "--edge", "32")
    cli("labels", "mesh", filled, "master", "seg", f"{tmp_path}/out", *options)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["9.obj"]


def test_since(cli, filled, tmp_path):
    with dvid_dask.open(str(filled), compact="never") as ds:
        root = ds.repos.named("fly")["master"]
        root.commit()
        root.newversion()["seg"].merge(7, [9])
    out = cli("labels", "mesh", filled, "master", "seg", f"{tmp_path}/out", "--since", root_of(filled)).out
    assert "wrote 1 meshes" in out
    assert "1 labels are no more" in out


def root_of(store):
    with dvid_dask.open(str(store), read_only=True) as ds:
        return ds.repos.named("fly").root


def test_what_can_t_be_says_why(cli, filled, tmp_path):
    assert "no data instance" in cli("labels", "mesh", filled, "master", "seg", "nosuch", code=1).err
    assert "no list of ids" in cli("labels", "mesh", filled, "master", "seg", "meshes", "--labels", "a,b", code=2).err
    assert "unknown" in cli("labels", "mesh", filled, "master", "seg", f"{tmp_path}/x", "--format", "stl", code=1).err
