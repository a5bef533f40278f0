"""NanoVDB over HTTP."""

import numpy as np
import pytest

from dvid_dask.formats import nanovdb
from dvid_dask.formats.rles import encode_rles
from tests.formats.nanovdb.test_readers import load, ordered

LABELS = np.zeros((16, 16, 32), np.uint64)
LABELS[:, :, 4:10], LABELS[:, :, 10:20] = 7, 9


@pytest.fixture
def seg(client, repo):
    path = client.instance(repo, "labelmap", "seg", BlockSize="16,16,16", MaxDownresLevel="1", VoxelSize="4,8,40")
    assert client.post(f"{path}/raw/0_1_2/32_16_16/-32_0_0", content=LABELS.tobytes()).status_code == 200
    client.instance(repo, "uint8blk", "gray", BlockSize="16,16,16")
    gray = np.arange(LABELS.size, dtype=np.uint8)
    assert client.post(f"/api/node/{repo}/gray/raw/0_1_2/32_16_16/-32_0_0", content=gray.tobytes()).status_code == 200
    return path


def voxels(*labels):
    return ordered((np.argwhere(np.isin(LABELS, labels)) + [0, 0, -32])[:, ::-1])


def gray_of(*labels):
    x, y, z = (voxels(*labels) + [32, 0, 0]).T
    return np.arange(LABELS.size, dtype=np.uint8).reshape(LABELS.shape)[z, y, x]


def test_a_body(client, seg):
    got = client.get(f"{seg}/fvdb/7")
    assert got.status_code == 200
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == 'attachment; filename="label_7.nvdb"'
    assert int(got.headers["content-length"]) == len(got.content)
    (grid,) = nanovdb.read_grids(got.content)
    assert (grid.name, grid.voxel_size_xyz) == ("label_7", (4, 8, 40))
    np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(7))
    raw = client.get(f"{seg}/fvdb/7?raw=true")
    assert raw.content[:8] == b"NanoVDB1"
    assert int(raw.headers["content-length"]) == len(raw.content) < len(got.content)
    assert got.content.endswith(raw.content)
    packed = client.get(f"{seg}/fvdb/7?compression=zip").content
    assert len(packed) < len(raw.content) / 50
    np.testing.assert_array_equal(nanovdb.read_grids(packed)[0].leaves.coordinates(), voxels(7))


def test_supervoxels_scale_and_name(client, seg):
    assert client.post(f"{seg}/merge", content=b"[7, 9]").status_code == 200
    (grid,) = nanovdb.read_grids(client.get(f"{seg}/fvdb/7").content)
    np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(7, 9))
    got = client.get(f"{seg}/fvdb/9?supervoxels=true&name=sp%22ine%0d%0aX:%20%C3%A9")
    assert got.headers["content-disposition"] == (
        "attachment; filename=\"sp_ine__X: _.nvdb\"; filename*=UTF-8''sp%22ine%0D%0AX%3A%20%C3%A9.nvdb"
    )
    (grid,) = nanovdb.read_grids(got.content)
    assert grid.name == 'sp"ine\r\nX: é'
    np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(9))
    (grid,) = nanovdb.read_grids(client.get(f"{seg}/fvdb/7?scale=1").content)
    assert grid.voxel_size_xyz == (8, 16, 80)
    assert grid.leaves.voxels == 8 * 8 * 8


def test_values(client, seg):
    (grid,) = nanovdb.read_grids(client.get(f"{seg}/fvdb/7?image=gray").content)
    np.testing.assert_array_equal(grid.channels["gray"][1:], gray_of(7))
    (grid,) = nanovdb.read_grids(client.get(f"{seg}/fvdb/7?image=gray&values=voxels").content)
    np.testing.assert_array_equal(grid.values, gray_of(7))
    only = client.get(f"{seg}/fvdb/7?image=gray&values=only")
    assert only.content == gray_of(7).tobytes()
    assert only.headers["content-disposition"] == 'attachment; filename="label_7.bin"'


def test_many(client, seg):
    got = client.request("GET", f"{seg}/fvdbs?image=gray", content=b"[9, 7]")
    grids = nanovdb.read_grids(got.content)
    assert [g.name for g in grids] == ["label_9", "label_7"]
    for grid, label in zip(grids, (9, 7), strict=True):
        np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(label))
        np.testing.assert_array_equal(grid.channels["gray"][grid.indices()], gray_of(label))
    empty = client.request("GET", f"{seg}/fvdbs?scale=2&compression=zip", content=b"[9, 7]")
    assert [len(g.leaves) for g in nanovdb.read_grids(empty.content)] == [0, 0]
    gone = client.request("GET", f"{seg}/fvdbs", content=b"[9, 12]")
    assert (gone.status_code, "12" in gone.text) == (404, True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("fvdb", 400),
        ("fvdb/0", 400),
        ("fvdb/x", 400),
        ("fvdb/12", 404),
        ("fvdb/12?supervoxels=true", 404),
        ("fvdb/7?scale=2", 400),
        ("fvdb/7?scale=256", 400),
        ("fvdb/7?scale=255", 400),
        ("fvdb/7?name=%00", 400),
        ("fvdb/7?compression=gzip", 400),
        ("fvdb/7?compression=zip&raw=true", 400),
        ("fvdb/7?values=voxels", 400),
        ("fvdb/7?values=some&image=gray", 400),
        ("fvdb/7?image=seg", 400),
        ("fvdb/7?image=nothing", 400),
        ("fvdb/7?image=gray&scale=1", 400),
        ("fvdbs", 400),
    ],
)
def test_refused(client, seg, path, status):
    got = client.get(f"{seg}/{path}")
    assert got.status_code == status, got.text


@pytest.mark.parametrize("body", [b"", b"[]", b"[0]", b"7", b"{}", b"[-1]", b"[1" + b",1" * 10_001 + b"]"])
def test_refused_lists(client, seg, body):
    assert client.request("GET", f"{seg}/fvdbs", content=body).status_code == 400


def test_only_reads(client, seg):
    assert client.post(f"{seg}/fvdb/7").status_code == 400


# ------------------------------------------------------------------ splits


def half(label, **kwargs):
    """A grid of the upper half of a body."""
    return nanovdb.encode_index_grid(nanovdb.leaves_of_voxels(voxels(label)[: len(voxels(label)) // 2]), **kwargs)


@pytest.mark.parametrize("form", ["file", "raw", "zip", "values"])
def test_split_by_a_grid(client, seg, form):
    grid = half(7)
    data = grid.tobytes() if form == "raw" else nanovdb.encode_file(grid, compress=form == "zip")
    if form == "values":
        leaves = nanovdb.leaves_of_voxels(voxels(7)[: len(voxels(7)) // 2])
        data = nanovdb.encode_file(nanovdb.encode_value_grid(leaves, np.ones(leaves.voxels, np.float32)))
    query = "?format=nanovdb" if form == "file" else ""
    got = client.post(f"{seg}/split-supervoxel/7{query}", content=data)
    assert got.status_code == 200, got.text
    split = got.json()["SplitSupervoxel"]
    (grid,) = nanovdb.read_grids(client.get(f"{seg}/fvdb/{split}?supervoxels=true").content)
    np.testing.assert_array_equal(grid.leaves.coordinates(), voxels(7)[: len(voxels(7)) // 2])
    assert load(grid_again(grid)).get_voxel_count() == len(voxels(7)) // 2


def grid_again(grid):
    return nanovdb.encode_index_grid(grid.leaves)


@pytest.mark.parametrize(
    ("query", "data"),
    [
        ("", nanovdb.encode_file(half(7))[:-5]),
        ("", b"NanoVDB1" + bytes(1000)),
        ("?format=nanovdb", encode_rles([[-28, 0, 0, 2]])),
        ("?format=rles", half(7).tobytes()),
        ("?format=other", encode_rles([[-28, 0, 0, 2]])),
        ("", half(9).tobytes()),
        ("", nanovdb.encode_index_grid(nanovdb.Leaves.of([])).tobytes()),
    ],
)
def test_refused_splits(client, seg, query, data):
    before = client.get(f"{seg}/listlabels?sizes=true").content
    assert client.post(f"{seg}/split-supervoxel/7{query}", content=data).status_code == 400
    assert client.get(f"{seg}/listlabels?sizes=true").content == before
