"""Statistics, sparse volumes and contacts against dense numpy."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.datatypes.labelmap.index import SMALL, Index
from dvid_dask.errors import BadRequest, NotFound, NotSupported
from dvid_dask.formats.contacts import count_contacts
from dvid_dask.ops import statistics
from tests.ops.conftest import neurites
from tests.ops.test_agglomerate import filled, grid

contacts_module = importlib.import_module("dvid_dask.ops.contacts")

OFFSET = (-32, 64, 16)


@pytest.fixture(scope="module")
def world():
    """Many bodies, one of them of several pages, some of more than one supervoxel, away from the origin."""
    volume = neurites((144, 144, 144), zeros=0.3) % np.uint64(1 << 20)
    volume[::16, ::16] = 5000000
    seg = filled(np.zeros((16, 16, 16), np.uint64), levels=1)
    ops.ingest(volume, seg, offset=OFFSET, progress=False)
    assert Index(seg.view()).header(5000000).rows > SMALL
    svs = np.unique(volume[volume > 0]).tolist()
    seg.merge(svs[0], svs[1:6])
    seg.merge(5000000, svs[6:8])
    return seg, volume, seg.read(OFFSET, volume.shape)


@pytest.mark.parametrize("exact", [False, True])
def test_body_statistics(world, exact, monkeypatch):
    monkeypatch.setattr(statistics, "_BODIES", 7)
    seg, volume, bodies = world
    table = ops.body_statistics(seg, exact=exact)
    assert table.known_divisions
    found = table.compute()
    assert found.index.is_monotonic_increasing
    assert found.index.tolist() == np.unique(bodies[bodies > 0]).tolist()
    for body, row in found.iterrows():
        at = np.argwhere(bodies == np.uint64(body)) + OFFSET
        low, high = at.min(axis=0), at.max(axis=0) + 1
        if not exact:
            low, high = low // 16 * 16, -(-high // 16) * 16
        assert [row[s] for s in ("z0", "y0", "x0", "z1", "y1", "x1")] == [*low, *high]
        assert row.voxels == len(at)
        assert row.blocks == len(np.unique((at // 16 + 100) @ [1 << 40, 1 << 20, 1]))
        assert row.supervoxels == len(np.unique(volume[bodies == np.uint64(body)]))
        assert row.mutation == seg.header(int(body)).stamp.mutation
    assert ops.body_statistics(filled(np.zeros((16, 16, 16), np.uint64))).compute().empty


@pytest.mark.parametrize("scale", [0, 1])
def test_sparse_volumes(world, scale, monkeypatch, tmp_path):
    monkeypatch.setattr(statistics, "_BLOCKS", 100)
    seg, _, _ = world
    wanted = list(seg.bodies())[:5] + [5000000]
    runs = ops.sparse_volumes(seg, wanted, scale=scale)
    assert runs.npartitions > 3
    runs.to_parquet(tmp_path / "runs.parquet")
    found = runs.compute()
    dense = seg.read(tuple(o >> scale for o in OFFSET), tuple(72 * 2 >> scale for _ in range(3)), scale)
    for body in wanted:
        mask = np.zeros(dense.shape, bool)
        for _, z, y, x, n in found[found.body == body].itertuples(index=False):
            z, y, x = z - (OFFSET[0] >> scale), y - (OFFSET[1] >> scale), x - (OFFSET[2] >> scale)
            assert not mask[z, y, x : x + n].any()
            mask[z, y, x : x + n] = True
        np.testing.assert_array_equal(mask, dense == np.uint64(body))
    with pytest.raises(NotFound, match="77"):
        ops.sparse_volumes(seg, [77])
    assert ops.sparse_volumes(seg, []).compute().empty
    everything = ops.sparse_volumes(seg)
    assert int(everything.length.sum().compute()) == int((seg.read(OFFSET, (144,) * 3) > 0).sum())


def test_sparse_volumes_of_supervoxels(world):
    seg, volume, _ = world
    svs = np.unique(volume[volume > 0])[:3]
    found = ops.sparse_volumes(seg, svs, supervoxels=True).compute()
    sizes = found.groupby("body").length.sum()
    assert sizes.to_dict() == {int(s): int((volume == s).sum()) for s in svs}


def dense_contacts(volume):
    found = {}
    for axis in range(3):
        a, b = np.moveaxis(volume, axis, 0)[:-1].ravel(), np.moveaxis(volume, axis, 0)[1:].ravel()
        touch = (a != b) & (a != 0) & (b != 0)
        pairs = np.sort(np.stack([a[touch], b[touch]], axis=1), axis=1)
        for (p, q), n in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
            found.setdefault((int(p), int(q)), [0, 0, 0])[axis] = int(n)
    return found


def as_dict(table):
    rows = table.compute()
    assert not rows.duplicated(["a", "b"]).any()
    return {(int(r.a), int(r.b)): [r.faces_z, r.faces_y, r.faces_x] for r in rows.itertuples()}


@pytest.mark.parametrize("edge", [48, 256])
@pytest.mark.parametrize("supervoxels", [False, True])
def test_contacts(world, monkeypatch, edge, supervoxels):
    monkeypatch.setattr(contacts_module, "_EDGE", edge)
    monkeypatch.setattr(contacts_module, "_MERGED", 4)
    seg, volume, bodies = world
    assert as_dict(ops.contacts(seg, supervoxels=supervoxels)) == dense_contacts(volume if supervoxels else bodies)


def test_contacts_of_some_bodies_at_a_scale(world, monkeypatch):
    monkeypatch.setattr(contacts_module, "_EDGE", 32)
    seg, _, bodies = world
    some = np.unique(bodies[bodies > 0])[3:6]
    # a coarse voxel is a supervoxel's, by majority: compare with what is stored
    stored = seg.read(tuple(o >> 1 for o in OFFSET), (72, 72, 72), 1)
    everything = dense_contacts(stored)
    expected = {pair: n for pair, n in everything.items() if set(pair) & set(some.tolist())}
    assert as_dict(ops.contacts(seg, some, scale=1)) == expected
    assert as_dict(ops.contacts(seg, [])) == {}
    with pytest.raises(BadRequest, match="scales 0 to 1"):
        ops.contacts(seg, scale=2)


def test_areas_follow_the_voxel_size(repo):
    seg = filled(grid(), repo, levels=0, VoxelSize="4,8,40")
    for row in ops.contacts(seg).compute().itertuples():
        assert row.area_nm2 == row.faces_z * 32 + row.faces_y * 160 + row.faces_x * 320
    with pytest.raises(NotSupported):
        ops.contacts(repo.new_instance("uint8blk", "gray"))
    with pytest.raises(NotSupported):
        ops.body_statistics(repo["master"]["gray"])


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_on_any_shape(seed):
    """Odd shapes, sub-blocks known to be uniform or not, more pairs than the table begins with."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 3))
    volume = rng.integers(0, 500, shape).astype(np.uint64)
    volume[:8, :8, :8] = 3
    volume[:8, 8:16, :8] = 3
    uniform = np.zeros([-(-n // 8) for n in shape], bool)
    uniform[0, :2, 0] = True
    a, b, faces = count_contacts(volume, None, uniform)
    assert dict(zip(zip(a.tolist(), b.tolist(), strict=True), faces.tolist(), strict=True)) == dense_contacts(volume)
    with pytest.raises(ValueError, match="core"):
        count_contacts(volume, None, np.zeros((9, 9, 9), bool))
