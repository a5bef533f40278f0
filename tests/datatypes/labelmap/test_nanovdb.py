"""Bodies as NanoVDB grids, against the arrays they were written from."""

from __future__ import annotations

import numpy as np
import pytest

import dvid_dask
from dvid_dask.errors import BadRequest, NotFound, NotSupported
from dvid_dask.formats import nanovdb
from tests.formats.nanovdb.test_readers import load, ordered
from tests.ops.conftest import neurites
from tests.ops.model import majority

START = -24, 8, -40


@pytest.fixture
def repo():
    return dvid_dask.create("memory://").new_repo("fly")


@pytest.fixture
def volume():
    return neurites((48, 40, 56))


@pytest.fixture
def seg(repo, volume):
    settings = {"BlockSize": "16,16,16", "MaxDownresLevel": "1", "VoxelSize": "4,8,40"}
    seg = repo.new_instance("labelmap", "seg", settings)
    _write(seg, volume)
    return seg


def _write(seg, volume):
    """Whole blocks around the volume."""
    start = [v // 16 * 16 for v in START]
    before = [s - a for s, a in zip(START, start, strict=True)]
    after = [-(b + n) % 16 for b, n in zip(before, volume.shape, strict=True)]
    seg.write(np.pad(volume, list(zip(before, after, strict=True))), start)


def voxels(mask, start):
    return ordered((np.argwhere(mask) + start)[:, ::-1])


def test_bodies_and_supervoxels(seg, volume):
    labels = np.unique(volume)[1:].tolist()
    target, others = labels[0], labels[1:4]
    seg.merge(target, others)
    body = seg.nanovdb(target)
    wanted = voxels(np.isin(volume, [target, *others]), START)
    np.testing.assert_array_equal(body.leaves.coordinates(), wanted)
    loaded = load(body.grid)
    np.testing.assert_array_equal(loaded.get_voxels().numpy(), wanted)
    assert loaded.get_grid_info().name == f"label_{target}"
    assert loaded.get_voxel_size() == (4, 8, 40)
    part = seg.nanovdb(others[0], supervoxels=True, name="part")
    np.testing.assert_array_equal(part.leaves.coordinates(), voxels(volume == others[0], START))
    assert nanovdb.read_grids(part.tobytes())[0].name == "part"


def test_scales(seg, volume):
    label = int(np.unique(volume)[1])
    body = seg.nanovdb(label, scale=1)
    coarse = majority(volume)
    np.testing.assert_array_equal(body.leaves.coordinates(), voxels(coarse == label, np.array(START) // 2))
    # the size of a voxel grows with the scale, so that the body keeps its place in the world
    assert load(body.grid).get_voxel_size() == (8, 16, 80)
    with pytest.raises(BadRequest, match=r"failed to build IndexGrid \(no voxels found\)"):
        seg.nanovdb(label, scale=2)
    assert len(seg.nanovdb(label, scale=2, allow_empty=True).leaves) == 0


@pytest.mark.parametrize(
    ("typename", "kept"),
    [("uint8blk", "uint8"), ("uint16blk", "float32"), ("uint32blk", "uint32"), ("float32blk", "float32")],
)
def test_values_of_an_image(repo, seg, volume, typename, kept):
    rng = np.random.default_rng(3)
    image = repo.new_instance(typename, "em", {"BlockSize": "32,32,32"})
    low = np.array([-32, 0, -64])
    gray = rng.integers(0, 60000, (96, 64, 96)).astype(image.dtype)
    image.write(gray, low.tolist())
    label = int(np.unique(volume)[2])
    body = seg.nanovdb(label, image=image)
    x, y, z = body.leaves.coordinates().T
    wanted = gray[z - low[0], y - low[1], x - low[2]]
    assert body.values.dtype == image.dtype
    np.testing.assert_array_equal(body.values, wanted)
    np.testing.assert_array_equal(load(body.grid).feature_array(0).numpy()[1:], wanted.astype(kept))
    (grid,) = nanovdb.read_grids(body.tobytes(compress=True))
    assert grid.channels["em"].dtype == kept
    np.testing.assert_array_equal(grid.channels["em"][grid.indices()], wanted)

    dense = seg.nanovdb(label, image=image, values="voxels")
    (grid,) = nanovdb.read_grids(dense.tobytes(raw=True))
    assert grid.values.dtype == kept
    np.testing.assert_array_equal(grid.values, wanted)
    np.testing.assert_array_equal(grid.leaves.coordinates(), body.leaves.coordinates())

    apart = seg.nanovdb(label, image=image, values="apart")
    np.testing.assert_array_equal(apart.values, wanted)
    assert apart.tobytes() == seg.nanovdb(label).tobytes()


def test_values_where_there_is_no_image(repo, seg, volume):
    image = repo.new_instance("uint8blk", "em", {"BlockSize": "32,32,32"})
    body = seg.nanovdb(int(np.unique(volume)[2]), image=image)
    assert not body.values.any()
    with pytest.raises(BadRequest, match="no scale 1"):
        seg.nanovdb(int(np.unique(volume)[2]), image=image, scale=1)


def test_refused(repo, seg, volume):
    label = int(np.unique(volume)[1])
    with pytest.raises(NotFound):
        seg.nanovdb(12345)
    with pytest.raises(BadRequest):
        seg.nanovdb(0)
    with pytest.raises(BadRequest, match="needs an image"):
        seg.nanovdb(label, values="voxels")
    with pytest.raises(BadRequest, match="none of channel"):
        seg.nanovdb(label, values="other")
    with pytest.raises(BadRequest, match="zero byte"):
        seg.nanovdb(label, name="a\0b")
    with pytest.raises(BadRequest, match="bytes"):
        seg.nanovdb(label, name="é" * 40000)
    with pytest.raises(BadRequest, match="coarser scale"):
        seg.nanovdb(label, max_bytes=10_000)
    with pytest.raises(BadRequest, match="coarser scale"):
        seg.nanovdb(label, max_bytes=96)
    with pytest.raises(BadRequest, match="raw"):
        seg.nanovdb(label).tobytes(raw=True, compress=True)
    for typename, message in [("rgba8blk", "channels"), ("uint64blk", "uint64")]:
        image = repo.new_instance(typename, typename)
        with pytest.raises(NotSupported, match=message):
            seg.nanovdb(label, image=image)
    # a size that no 32-bit float holds
    seg.set_resolution([1e-60, 1, 1])
    with pytest.raises(BadRequest, match="voxel's size"):
        seg.nanovdb(label)


def test_a_grid_as_a_split(seg, volume):
    """What NanoVDB holds goes back as runs: the supervoxel is cut where the grid says."""
    label = int(np.unique(volume)[1])
    x, y, z = seg.nanovdb(label).leaves.coordinates().T
    chosen = np.stack([x, y, z], axis=1)[x + y < np.median(x + y)]
    data = nanovdb.encode_file(nanovdb.encode_index_grid(nanovdb.leaves_of_voxels(chosen)))
    made = seg.split_supervoxel(label, nanovdb.runs_of_grids(data))
    np.testing.assert_array_equal(seg.nanovdb(made.split, supervoxels=True).leaves.coordinates(), ordered(chosen))
