"""The paged label index against a plain dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.datatypes.labelmap import index as index_module
from dvid_dask.datatypes.labelmap import pages as pages_module
from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.datatypes.labelmap.index import Index, Stamp, write_new_bodies
from dvid_dask.datatypes.labelmap.rows import Rows

from .conftest import DictSpace


def as_dict(rows: Rows) -> dict:
    return {
        (*block, sv): count
        for block, sv, count in zip(rows.block_zyx.tolist(), rows.supervoxel.tolist(), rows.count.tolist(), strict=True)
    }


def check(index: Index, body: int, model: dict) -> None:
    """Every read of one body says what the model says."""
    header = index.header(body)
    if not model:
        assert header is None
        assert len(index.rows(body)) == 0
        assert index.supervoxels(body) is None
        assert index.extent(body) is None
        return
    assert header is not None
    rows = index.rows(body)
    assert as_dict(rows) == model
    keys = list(zip(*rows.block_zyx.T.tolist(), rows.supervoxel.tolist(), strict=True))
    assert keys == sorted(keys)
    assert header.voxels == sum(model.values())
    assert header.rows == len(model)
    blocks = {k[:3] for k in model}
    assert header.blocks == len(blocks)
    sizes: dict = {}
    for k, n in model.items():
        sizes[k[3]] = sizes.get(k[3], 0) + n
    assert header.supervoxels == len(sizes)
    svs = index.supervoxels(body)
    assert dict(zip(svs.id.tolist(), svs.voxels.tolist(), strict=True)) == sizes
    asked = [*sorted(sizes)[:5], 10**15]
    assert index.voxels_of(body, asked).tolist() == [sizes.get(s, 0) for s in asked]
    some = sorted(sizes)[:3]
    assert as_dict(index.rows_of(body, some)) == {k: n for k, n in model.items() if k[3] in some}
    assert index.extent(body) == (
        tuple(min(b[i] for b in blocks) for i in range(3)),
        tuple(max(b[i] for b in blocks) for i in range(3)),
    )


coordinate = st.integers(-40, 40)
row = st.tuples(coordinate, coordinate, coordinate, st.integers(1, 60), st.integers(0, 500))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(row, min_size=1, max_size=60), max_size=6))
def test_updates_follow_the_model(steps):
    """Also across the borders between small and paged, and with buckets that split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "SMALL", 20)
        patch.setattr(index_module, "SHRINK", 8)
        patch.setattr(index_module, "BUCKET", 4)
        for name, rows in (("PART", 3), ("MOST", 6), ("LEAST", 2)):
            patch.setattr(pages_module, name, rows)
        space = DictSpace()
        index, model = Index(space), {}
        for step in steps:
            index.update(5, Rows.of([r[:3] for r in step], [r[3] for r in step], [r[4] for r in step]))
            for r in step:
                model[r[:4]] = r[4]
            model = {k: n for k, n in model.items() if n}
            check(index, 5, model)
        index.update(5, Rows.of([k[:3] for k in model], [k[3] for k in model], [0] * len(model)))
        assert space.data == {}


def cube(n: int, svs: int = 1, first: int = 1, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    blocks = np.indices((n, n, n)).reshape(3, -1).T
    near = (blocks[:, 0] * n + blocks[:, 1]) * svs // (n * n)
    return Rows.of(blocks, near + first, rng.integers(1, 200_000, len(blocks)))


def test_repeating_an_update_changes_nothing(space):
    index = Index(space)
    index.update(1, cube(12, 300))
    before = dict(space.data)
    index.update(1, cube(12, 300))
    assert space.data == before


def test_merging_into_a_large_body_writes_little(space):
    index = Index(space)
    index.update(1, cube(48, 2000), stamp=Stamp())
    index.update(2, Rows.of([[20, 20, x] for x in range(10)], range(900_001, 900_011), [7] * 10))
    space.written = space.read = 0
    index.move(2, 1, stamp=Stamp(mutation=77), surface=77)
    assert space.written < 100_000
    assert space.read < 60
    assert index.header(2) is None
    assert index.header(1).stamp.mutation == 77
    rows = index.rows(1, box=((20, 20, 0), (20, 20, 9)))
    assert set(rows.surface.tolist()) == {77}
    assert set(index.rows(1, box=((21, 0, 0), (21, 47, 47))).surface.tolist()) == {0}


def test_rows_of_a_supervoxel_reads_only_its_regions(space):
    index = Index(space)
    index.update(1, cube(48, 2000))
    space.read = 0
    rows = index.rows_of(1, [1000])
    assert len(rows) > 0
    assert set(rows.supervoxel.tolist()) == {1000}
    assert space.read <= 8


def test_layers_are_in_order_and_bounded(space):
    index = Index(space)
    index.update(1, cube(40))
    layers = list(index.layers(1))
    assert [int(layer.block_zyx[0, 0]) for layer in layers] == [0, 16, 32]
    assert sum(len(layer) for layer in layers) == 40**3
    assert len(list(index.layers(1, thickness=32))) == 2
    assert len(index.rows(1, box=((0, 0, 0), (39, 0, 0)))) == 40


def test_new_bodies_in_bulk_equal_single_updates(space):
    rng = np.random.default_rng(1)
    n = 5000
    rows = Rows.of(rng.integers(-30, 30, (n, 3)), rng.integers(1, 300, n), rng.integers(1, 999, n))
    key = np.unique(np.column_stack([rows.block_zyx, rows.supervoxel.astype(np.int64)]), axis=0, return_index=True)[1]
    rows = rows[key]
    bodies = rows.supervoxel % np.uint64(40) + np.uint64(1)
    write_new_bodies(space, bodies, rows)
    other = DictSpace()
    for body in np.unique(bodies).tolist():
        Index(other).update(body, rows[bodies == body])
    assert space.data == other.data


def test_scan_lists_bodies_in_order(space):
    index = Index(space)
    for body in (2**64 - 1, 5, 300):
        index.update(body, Rows.of([[0, 0, 0]], [body], [3]))
    assert list(index.bodies()) == [5, 300, 2**64 - 1]
    assert [b for b, h in index.scan(6) if h.voxels == 3] == [300, 2**64 - 1]
    assert list(index.bodies(5, 300)) == [5]


def test_stamp_is_kept_by_later_updates(space):
    index = Index(space)
    index.update(1, cube(3), stamp=Stamp(9, "2026-01-01T00:00:00Z", "ann", "neu3"))
    index.update(1, Rows.of([[9, 9, 9]], [1], [1]))
    assert index.header(1).stamp == Stamp(9, "2026-01-01T00:00:00Z", "ann", "neu3")


@pytest.mark.parametrize("value", [b"", b"\x02" + bytes(80), bytes([1]) + bytes(46) + b"\x00\xff\xff\xff\x7f"])
def test_damaged_records_are_refused(space, value):
    space.data[b"I" + (1).to_bytes(8, "big")] = value
    with pytest.raises(DamagedDataError):
        Index(space).rows(1)


def test_reading_index_refuses_writes(space):
    class View:
        def get(self, key):
            return space.get(key)

    with pytest.raises(TypeError, match="transaction"):
        Index(View()).update(1, cube(2))


def test_moving_a_paged_body_to_a_new_id_keeps_all_but_the_marks(space, monkeypatch):
    monkeypatch.setattr(index_module, "SMALL", 20)
    monkeypatch.setattr(index_module, "SHRINK", 8)
    monkeypatch.setattr(index_module, "BUCKET", 4)
    index, rows = Index(space), cube(24, svs=40)
    index.update(5, rows)
    before = index.header(5)
    assert before.paged
    index.move(5, 2**63 + 9, stamp=Stamp(7, "now", "me", "test"), surface=7)
    moved = index.header(2**63 + 9)
    assert (moved.voxels, moved.blocks, moved.rows, moved.supervoxels, moved.buckets) == (
        before.voxels,
        before.blocks,
        before.rows,
        before.supervoxels,
        before.buckets,
    )
    assert moved.stamp == Stamp(7, "now", "me", "test")
    check(index, 5, {})
    check(index, 2**63 + 9, as_dict(rows))
    assert set(index.rows(2**63 + 9).surface.tolist()) == {7}
    # it goes on as any other body does, and leaves nothing behind
    gone = rows[rows.supervoxel > 3]
    index.update(2**63 + 9, gone.with_counts(0))
    check(index, 2**63 + 9, as_dict(rows[rows.supervoxel <= 3]))
    index.move(2**63 + 9, 6, stamp=Stamp(8), surface=None)
    assert set(index.rows(6).surface.tolist()) == {7}
    index.delete(6)
    assert space.data == {}
