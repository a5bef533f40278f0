"""Jobs that keep to a region, against numpy: what is beside it is not written, exported, meshed or compared."""

from __future__ import annotations

import gzip

import dask.array as da
import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.roi import Region
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks
from dvid_dask.ops.bricks import Grid
from dvid_dask.ops.within import within
from tests.ops.conftest import neurites
from tests.ops.model import World, majority
from tests.ops.test_ingest import labelmap

OFFSET = (-32, 0, 64)
SHAPE = (64, 96, 80)


def region(seed=0, shape=(16, 16, 16), low=-6, high=12, part=0.4):
    """Blocks here and there, `low` to `high` along each axis; of other shapes than 16 about as far."""
    rng = np.random.default_rng(seed)
    first = [low * 16 // n for n in shape]
    count = [-(-(high - low) * 16 // n) for n in shape]
    grid = np.argwhere(rng.random(count) < part) + first
    return Region.of_blocks(grid, shape)


def mask_of(area, offset, shape, scale=0):
    """Which voxels of a box are in a region: each block as its voxels, of which every so manyth is looked at."""
    out = np.zeros(shape, np.bool_)
    if not area:
        return out
    low, high = (np.array(corner) for corner in area.bounds)
    grid = np.zeros(high - low, np.bool_)
    grid[tuple((np.concatenate(list(area.blocks())) - low).T)] = True
    for axis, n in enumerate(area.block_shape):
        grid = grid.repeat(n, axis)
    first = (np.array(offset) << scale) + (1 << scale) // 2 - low * area.block_shape
    wanted = [a + (np.arange(n) << scale) for a, n in zip(first, shape, strict=True)]
    held = [np.flatnonzero((w >= 0) & (w < n)) for w, n in zip(wanted, grid.shape, strict=True)]
    out[np.ix_(*held)] = grid[np.ix_(*(w[h] for w, h in zip(wanted, held, strict=True)))]
    return out


def roi_of(repo, area):
    made = repo.new_instance("roi", "area", {"BlockSize": ",".join(str(n) for n in area.block_shape[::-1])})
    made.replace(area)
    return made


# ---------------------------------------------------------------------- which bricks


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 50),
    edge=st.sampled_from([16, 32, 64]),
    block=st.sampled_from([8, 16, 40]),
    origin=st.tuples(*[st.integers(-50, 50)] * 3),
    scale=st.integers(0, 2),
)
def test_bricks_are_those_with_voxels_of_the_region(seed, edge, block, origin, scale):
    """Also where bricks don't begin with blocks; others may come along, but few."""
    part = within(region(seed, (block,) * 3, -3, 9, 0.02) | Region([[0, 0, 0, 0]], (block,) * 3))
    grid = Grid(0, 0, (edge,) * 3, (16, 16, 16), ops.Box.of((0, 0, 0), (128, 64, 96)))
    found = part.bricks(grid, origin, scale)
    wanted = set()
    for i in range(grid.count):
        brick = grid.brick(i).shift(origin)
        if mask_of(part.region, brick.start, brick.shape, scale).any():
            wanted.add(grid.cell(i))
    chosen = {found.cell(i) for i in range(found.count)}
    assert wanted <= chosen <= {grid.cell(i) for i in range(grid.count)}


def test_what_may_be_given(repo):
    area = region()
    roi = roi_of(repo, area)
    work = ops.partition(area, 4)
    assert [within(given).region for given in (area, roi, roi.pin(), work, list(work))] == [area] * 5
    assert within(work[2:5]).region == work[2].region | work[3].region | work[4].region
    assert within(work[0]).identity == within(work[0].region).identity != within(area).identity
    for wrong in ([], "area", 7, [area]):
        with pytest.raises(BadRequest, match="region"):
            within(wrong)
    with pytest.raises(BadRequest, match="no block"):
        within(area - area)


# ---------------------------------------------------------------------- ingest, downres


@settings(max_examples=12, deadline=None)
@given(
    first=st.tuples(*[st.integers(-30, 20)] * 3),
    shape=st.tuples(*[st.integers(1, 50)] * 3),
    block=st.sampled_from([8, 16, 24, 64]),
    levels=st.integers(0, 2),
    seed=st.integers(0, 99),
    lazy=st.booleans(),
)
def test_ingest_writes_the_voxels_of_the_region(first, shape, block, levels, seed, lazy):
    repo = dvid_dask.create("memory://").new_repo("fly")
    seg = labelmap(repo, levels=levels)
    world = World((-32, -32, -32), (112, 112, 112), (16, 16, 16), levels)
    before = neurites((70, 60, 50), seed, labels=9, zeros=0.5)
    ops.ingest(before, seg, offset=(-20, -20, -20), brick_edge=32, progress=False)
    world.write(before, (-20, -20, -20))
    area = region(seed, (block,) * 3) | Region.of_blocks([[n // block for n in first]], (block,) * 3)
    volume = neurites(shape, seed + 1, labels=9, zeros=0.5)
    source = da.from_array(volume, chunks=(33, 40, 64)) if lazy else volume
    report = ops.ingest(source, seg, offset=first, brick_edge=32, region=area, progress=False)
    mask = mask_of(area, first, shape)
    assert report.voxels == mask.sum()
    at = tuple(slice(o - s, o - s + n) for o, s, n in zip(first, world.start, shape, strict=True))
    world.voxels[at] = np.where(mask, volume, world.voxels[at])
    world.check(seg)
    assert ops.unfinished_jobs(seg) == {}


@pytest.mark.parametrize("kind", ["uint8blk", "float32blk"])
def test_ingest_of_an_image(repo, kind):
    gray = repo.new_instance(kind, "gray", {"BlockSize": "16,16,16"})
    rng = np.random.default_rng(4)
    before, volume = rng.integers(0, 200, (2, 64, 64, 64)).astype(gray.dtype)
    ops.ingest(before, gray, scales=2, progress=False)
    area = region(3, (8, 16, 16), 0, 4)
    ops.ingest(volume[:60, 3:], gray, offset=(0, 3, 0), region=area, brick_edge=32, progress=False)
    mask = mask_of(area, (0, 0, 0), (64, 64, 64))
    mask[60:] = mask[:, :3] = False
    dense = np.where(mask, volume, before)
    np.testing.assert_array_equal(gray.read_box((0, 0, 0), (64, 64, 64)), dense)
    whole = repo.new_instance(kind, "whole", {"BlockSize": "16,16,16"})
    ops.ingest(dense, whole, scales=2, progress=False)
    for scale in (1, 2):
        box = ((0, 0, 0), (64 >> scale,) * 3)
        np.testing.assert_array_equal(gray.read_box(*box, scale=scale), whole.read_box(*box, scale=scale))
    assert gray.extents == whole.extents


def test_extents_are_those_of_what_was_written(repo):
    seg = labelmap(repo)
    area = Region([[0, 1, 1, 2]], (16, 16, 16))
    ops.ingest(np.full((64, 64, 40), 7, np.uint64), seg, offset=(3, 0, 0), region=area, progress=False)
    assert seg.extents == ((3, 16, 16), (16, 32, 40))


def test_ingest_of_nothing_is_refused(repo):
    seg = labelmap(repo)
    with pytest.raises(BadRequest, match="no voxel"):
        ops.ingest(np.ones((16, 16, 16), np.uint64), seg, region=Region([[9, 9, 9, 9]], (16, 16, 16)), progress=False)
    assert ops.unfinished_jobs(seg) == {}


def test_the_plan_says_what_is_left_out(repo):
    area = Region([[0, 0, 0, 0], [7, 7, 7, 7]], (16, 16, 16))
    plan = ops.ingest_plan(np.ones((128, 128, 128), np.uint64), labelmap(repo), brick_edge=32, region=area)
    assert plan.plan.grids[0].count == 2
    assert "2 blocks of 16 x 16 x 16 voxels" in str(plan)
    whole = ops.ingest_plan(np.ones((128, 128, 128), np.uint64), labelmap(repo, name="b"), brick_edge=32)
    assert plan.job != whole.job


def test_an_ingest_in_parts_is_the_ingest_of_all(repo):
    """What a work list is for: each part a job of its own."""
    volume = neurites(SHAPE)
    seg, whole = labelmap(repo), labelmap(repo, name="whole")
    ops.ingest(volume, whole, offset=OFFSET, progress=False)
    work = ops.partition(Region.of_box((-2, 0, 4), (2, 6, 9), (16, 16, 16)), 2)
    for share in work.groups(3):
        ops.ingest(volume, seg, offset=OFFSET, region=work[share.start : share.stop], progress=False)
    world = World(OFFSET, SHAPE, (16, 16, 16), 2)
    world.write(volume, OFFSET)
    world.check(seg)
    assert seg.extents == whole.extents


@pytest.mark.parametrize("block", [16, 32])
def test_downres_makes_the_region_anew(repo, block):
    seg = labelmap(repo, levels=2)
    volume = neurites((128, 128, 128))
    ops.ingest(volume, seg, progress=False)
    wrong = neurites((128, 128, 128), 9)
    right = [volume, majority(volume), majority(majority(volume))]
    others = [volume, majority(wrong), majority(majority(wrong))]
    for scale in (1, 2):
        _store_scale(seg, others[scale], scale)
    area = region(5, (block,) * 3, 0, 8, 0.3)
    ops.downres(seg, region=area, progress=False)
    dense = right[0]
    for scale in (1, 2):
        mask = mask_of(area, (0, 0, 0), right[scale].shape, scale)
        dense = np.where(mask, majority(dense), others[scale])
        np.testing.assert_array_equal(seg.read((0, 0, 0), dense.shape, scale), dense)


def _store_scale(seg, voxels, scale):
    """Voxels of a coarse scale as a client stores them that computes its own."""
    records = []
    for z, y, x in np.ndindex(*(n // 16 for n in voxels.shape)):
        part = voxels[16 * z : 16 * z + 16, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        records.append((x, y, z, gzip.compress(label_blocks.encode_block(np.ascontiguousarray(part)))))
    seg.write_blocks(records, scale=scale)


def test_downres_of_an_image(repo):
    gray = repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    rng = np.random.default_rng(4)
    volume = rng.integers(0, 250, (64, 64, 64)).astype(np.uint8)
    ops.ingest(volume, gray, scales=1, progress=False)
    right = gray.read_box((0, 0, 0), (32, 32, 32), scale=1)
    gray.mutate(lambda _, space: gray.bulk_write(space, np.full((32, 32, 32), 3, np.uint8), (0, 0, 0), 1))
    area = region(5, (16, 16, 16), 0, 4)
    ops.downres(gray, region=area, progress=False)
    mask = mask_of(area, (0, 0, 0), (32, 32, 32), 1)
    np.testing.assert_array_equal(gray.read_box((0, 0, 0), (32, 32, 32), scale=1), np.where(mask, right, 3))
    with pytest.raises(BadRequest, match="no block in the region"):
        ops.downres(gray, region=Region([[90, 0, 0, 0]], (16, 16, 16)), progress=False)
    assert ops.unfinished_jobs(gray) == {}


# ---------------------------------------------------------------------- export


@pytest.fixture
def volume():
    return neurites(SHAPE)


@pytest.fixture
def seg(repo, volume):
    made = labelmap(repo)
    ops.ingest(volume, made, offset=OFFSET, progress=False)
    return made


def pyramid(volume):
    return [volume, majority(volume), majority(majority(volume))]


def masked(area, volume):
    """All scales, with 0 beside the region, and where each begins."""
    offsets = [[o >> s for o in OFFSET] for s in range(3)]
    return [
        (np.where(mask_of(area, at, level.shape, s), level, 0), at)
        for s, (level, at) in enumerate(zip(pyramid(volume), offsets, strict=True))
    ]


def placed(found, first, like, at):
    """An array that begins at a voxel, in the box of another."""
    out = np.zeros([n + 64 for n in like.shape], like.dtype)
    low = [a - b + 32 for a, b in zip(first, at, strict=True)]
    out[tuple(slice(a, a + n) for a, n in zip(low, found.shape, strict=True))] = found
    return out[32:-32, 32:-32, 32:-32]


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 32, 8)])
def test_ome_zarr(seg, volume, tmp_path, shape):
    area = region(7, shape, -2, 9, 0.3)
    ops.export(seg, str(tmp_path / "out.zarr"), region=area, progress=False)
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    for s, (level, at) in enumerate(masked(area, volume)):
        array = group[f"s{s}"]
        np.testing.assert_array_equal(placed(array[:], array.attrs["offset"], level, at), level)


def test_zarr_is_the_box_around_the_region(seg, volume, tmp_path):
    area = Region([[-1, 1, 5, 6], [0, 2, 6, 6]], (16, 16, 16))
    ops.export(seg, str(tmp_path / "out"), format="zarr", region=area, progress=False)
    array = zarr.open_array(tmp_path / "out", mode="r")
    assert array.attrs["offset"] == [-16, 16, 80]
    assert array.shape == (32, 32, 32)
    level, at = masked(area, volume)[0]
    np.testing.assert_array_equal(placed(array[:], (-16, 16, 80), level, at), level)


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 32, 8)])
def test_precomputed(seg, volume, tmp_path, shape, sharded):
    area = region(8, shape, -2, 9, 0.3)
    ops.export(seg, str(tmp_path / "out"), format="precomputed", sharded=sharded, region=area, progress=False)
    for s, (level, at) in enumerate(masked(area, volume)):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": (tmp_path / "out").as_uri() + "/", "scale_index": s}
        found = ts.open(spec, read=True).result()[..., 0].transpose([2, 1, 0])
        np.testing.assert_array_equal(placed(found.read().result(), found.domain.origin, level, at), level)


@pytest.mark.parametrize("format", ["zarr", "precomputed"])
def test_an_image(repo, tmp_path, format):
    gray = repo.new_instance("uint16blk", "gray", {"BlockSize": "16,16,16"})
    volume = np.random.default_rng(4).integers(1, 60000, SHAPE).astype(np.uint16)
    ops.ingest(volume, gray, offset=OFFSET, scales=0, progress=False)
    area = region(9, (16, 16, 24), -2, 9, 0.3)
    ops.export(gray, str(tmp_path / "out"), format=format, region=area, progress=False)
    level = np.where(mask_of(area, OFFSET, SHAPE), volume, 0)
    if format == "zarr":
        array = zarr.open_array(tmp_path / "out", mode="r")
        found, first = array[:], array.attrs["offset"]
    else:
        spec = {"driver": "neuroglancer_precomputed", "kvstore": (tmp_path / "out").as_uri() + "/"}
        store = ts.open(spec, read=True).result()[..., 0].transpose([2, 1, 0])
        found, first = store.read().result(), store.domain.origin
    np.testing.assert_array_equal(placed(found, first, level, OFFSET), level)


def test_exports_that_make_no_sense(seg, tmp_path):
    with pytest.raises(BadRequest, match="no voxel in the region"):
        ops.export(seg, str(tmp_path / "a"), region=Region([[90, 0, 0, 0]], (16, 16, 16)), progress=False)
    with pytest.raises(BadRequest, match="segment properties"):
        ops.export(
            *(seg, str(tmp_path / "a")), format="precomputed", segment_properties=True, region=region(), progress=False
        )
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------------- index


def test_check_index_compares_the_region(seg, volume):
    area = region(11, part=0.2)
    clean = ops.check_index(seg, region=area, progress=False)
    mask = mask_of(area, OFFSET, SHAPE)
    assert clean.ok
    assert clean.voxels == np.count_nonzero(volume[mask])
    blocks = np.argwhere(mask[::16, ::16, ::16])
    inside = blocks[0] + np.array(OFFSET) // 16
    beside = np.argwhere(~mask[::16, ::16, ::16])[0] + np.array(OFFSET) // 16
    body = int(np.unique(volume[volume > 0])[0])

    def spoil(block):
        def change(_, space):
            Index(space).update(body, Rows.of(block[None].astype(np.int32), [10**12], [5]))

        seg.mutate(change)

    spoil(beside)
    assert ops.check_index(seg, region=area, progress=False).ok
    assert ops.check_index(seg, progress=False).count == 1
    spoil(inside)
    report = ops.check_index(seg, region=area, repair=True, progress=False)
    assert (report.count, report.repaired) == (1, True)
    assert ops.check_index(seg, region=area, progress=False).ok
    assert ops.check_index(seg, progress=False).count == 1


# ---------------------------------------------------------------------- meshes


@pytest.mark.parametrize(
    ("scale", "shape", "edge"), [(0, (16, 16, 16), 64), (0, (12, 16, 20), 16), (1, (16, 16, 16), 16)]
)
def test_meshes_end_where_the_region_does(repo, shape, edge, scale):
    for name in ("trimesh", "skimage.measure", "pyfqmr", "DracoPy"):
        pytest.importorskip(name)
    from tests.ops.test_mesh import expected, ngmeshes, same

    seg = labelmap(repo, levels=1)
    volume = neurites((34, 40, 50), labels=6)
    ops.ingest(volume, seg, progress=False)
    kv = repo.new_instance("keyvalue", "meshes")
    area = region(12, shape, 0, 4, 0.5)
    ops.mesh(seg, kv, keep=1, edge=edge, scale=scale, region=area, progress=False)
    found = ngmeshes(kv)
    level = seg.read((0, 0, 0), tuple(-(-n // 2) if scale else n for n in volume.shape), scale)
    level = np.where(mask_of(area, (0, 0, 0), level.shape, scale), level, 0)
    assert sorted(found) == np.unique(level[level > 0]).tolist()
    for label, mesh in found.items():
        assert same(mesh, expected(level == np.uint64(label), (0, 0, 0), (8 << scale,) * 3))
    some = sorted(found)[:2]
    named = repo.new_instance("keyvalue", "named")
    ops.mesh(seg, named, some, keep=1, edge=edge, scale=scale, region=area, progress=False)
    assert {k: v.faces.tolist() for k, v in ngmeshes(named).items()} == {k: found[k].faces.tolist() for k in some}
    with pytest.raises(BadRequest, match="since"):
        ops.mesh(seg, kv, since=repo["master"], region=area, progress=False)
