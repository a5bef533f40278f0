"""`dvid-dask roi`: the algebra of regions, from and to labels, partitions."""

import json

import numpy as np
import pytest

import dvid_dask
from dvid_dask.datatypes.roi import Region

A = [[0, 0, 0, 9], [0, 1, 0, 9], [1, 1, 2, 3]]
B = [[0, 1, 4, 12], [1, 1, 3, 3]]


@pytest.fixture
def master(store):
    def newest():
        return dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]

    return newest


@pytest.fixture
def rois(cli, store, tmp_path):
    for name, spans in (("a", A), ("b", B)):
        (tmp_path / "spans.json").write_text(json.dumps(spans))
        cli("roi", "import", store, "master", name, tmp_path / "spans.json", "--block-size", "16,32,64")


def region(spans):
    return Region(spans, (64, 32, 16))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["union", "out", "a", "b"], region(A) | region(B)),
        (["intersect", "out", "a", "b"], region(A) & region(B)),
        (["subtract", "out", "a", "b"], region(A) - region(B)),
        (["subtract", "a", "a", "b", "b"], region(A) - region(B)),
        (["dilate", "out", "a", "--by", "2"], region(A).dilated(2)),
        (["dilate", "out", "a", "--by", "1,0,2"], region(A).dilated((2, 0, 1))),
        (["erode", "out", "a", "--by", "1,0,0"], region(A).eroded((0, 0, 1))),
    ],
)
def test_algebra(cli, store, rois, master, command, expected):
    verb, result, *sources = command
    said = cli("roi", verb, store, "master", result, *sources).out
    assert f"{len(expected):,} blocks of 16 x 32 x 64" in said
    assert master()[result].region == expected


def test_what_can_not_be_combined(cli, store, rois, master):
    cli("node", "new-instance", store, "master", "roi", "small", "BlockSize=16,16,16")
    assert "rescaled" in cli("roi", "union", store, "master", "out", "a", "small", code=1).err
    assert "two regions" in cli("roi", "union", store, "master", "out", "a", code=2).err
    assert "X,Y,Z" in cli("roi", "dilate", store, "master", "out", "a", "--by", "-1", code=2).err
    cli("node", "new-instance", store, "master", "labelmap", "seg")
    assert "not a roi" in cli("roi", "union", store, "master", "seg", "a", "b", code=1).err
    assert "out" not in master()


def test_info(cli, store, rois):
    facts = json.loads(cli("roi", "info", store, "master", "a", "b", "--voxel-size", "1,2,4", "--json").out)
    assert facts[0] == {
        "roi": "a",
        "blocks": 22,
        "block_size": [16, 32, 64],
        "voxels": 22 * 16 * 32 * 64,
        "volume": 22 * 16 * 32 * 64 * 8.0,
        "start": [0, 0, 0],
        "stop": [160, 64, 128],
    }
    table = cli("roi", "info", store, "master", "b").out
    assert "208,64,128" in table
    cli("roi", "subtract", store, "master", "none", "a", "a")
    assert json.loads(cli("roi", "info", store, "master", "none", "--json").out)[0]["start"] is None


def test_import_and_export(cli, store, rois, master, tmp_path):
    assert json.loads(cli("roi", "export", store, "master", "a").out) == A
    (tmp_path / "bad.json").write_text("[[0, 0, 0")
    assert "no JSON" in cli("roi", "import", store, "master", "a", tmp_path / "bad.json", code=1).err
    (tmp_path / "bad.json").write_text("[[0, 0, 5, 3]]")
    assert "ends before" in cli("roi", "import", store, "master", "a", tmp_path / "bad.json", code=1).err
    assert master()["a"].region == region(A)


def test_from_and_to_labels(cli, store, rois, master):
    cli("roi", "to-labels", store, "master", "areas", "1=a", "2=b")
    voxels = master()["areas"].read((0, 0, 0), (128, 64, 208))
    expected = np.zeros_like(voxels)
    expected[region(A).mask((0, 0, 0), voxels.shape)] = 1
    expected[region(B).mask((0, 0, 0), voxels.shape)] = 2
    np.testing.assert_array_equal(voxels, expected)
    cli("roi", "to-labels", store, "master", "areas", "3=b")  # what is beside it stays
    np.testing.assert_array_equal(master()["areas"].read((0, 0, 0), voxels.shape), np.where(expected == 2, 3, expected))
    cli("roi", "from-labels", store, "master", "again", "areas", "--labels", "3", "--block-size", "16,32,64")
    assert master()["again"].region == region(B)
    cli("roi", "from-labels", store, "master", "again", "areas", "--labels", "1", "--fraction", "1")
    assert master()["again"].region == region(A) - region(B)
    cli("roi", "from-labels", store, "master", "coarse", "areas")
    assert master()["coarse"].block_shape == (64, 64, 64)
    assert "LABEL=ROI" in cli("roi", "to-labels", store, "master", "areas", "a", code=2).err


def test_partition(cli, store, rois, master):
    boxes = json.loads(cli("roi", "partition", store, "master", "a", "--batch", "4", "--json").out)
    assert sum(box["active"] for box in boxes) == 22
    text = cli("roi", "partition", store, "master", "a", "--batch", "4", "--optimized").out.splitlines()
    assert text[0] == "x0,y0,z0,x1,y1,z1,active"
    total = 0
    for line in text[1:]:
        x0, y0, z0, x1, y1, z1, active = map(int, line.split(","))
        mask = region(A).mask((z0, y0, x0), (z1 - z0, y1 - y0, x1 - x0))
        assert mask.sum() == active * 64 * 32 * 16
        total += active
    assert total == 22
