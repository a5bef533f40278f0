"""Work lists: every active block is in one brick and one share, and shares are even."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.boxes import Box
from dvid_dask.datatypes.roi import Region
from dvid_dask.errors import BadRequest, NotSupported

BLOCK = (4, 3, 2)
blocks_st = st.frozensets(st.tuples(*[st.integers(-9, 9)] * 3), max_size=60)


def blocks_of(region):
    return [tuple(b) for part in region.blocks() for b in part.tolist()]


@settings(deadline=None)
@given(blocks_st, st.integers(1, 7), st.booleans(), st.integers(1, 9))
def test_each_active_block_is_in_one_brick_and_one_share(blocks, batch, optimized, shares):
    region = Region.of_blocks(np.array(sorted(blocks)).reshape(-1, 3), BLOCK)
    work = ops.partition(region, batch, optimized=optimized)
    seen = []
    for number, brick in enumerate(work):
        inside = blocks_of(brick.region)
        assert brick.number == number
        assert brick.active == len(inside) == work.active[number] > 0
        cells = brick.box.cells(BLOCK)
        assert cells.scaled(BLOCK) == brick.box
        assert brick.total == cells.size
        assert all(cells.contains(Box.of(b, [v + 1 for v in b])) for b in inside)
        assert brick.mask().sum() == brick.active * 24
        seen += inside
    assert sorted(seen) == sorted(blocks)
    groups = work.groups(shares)
    assert [n for group in groups for n in group] == list(range(len(work)))
    assert len(groups) <= shares
    for group in groups:
        share = work.active[group.start : group.stop].sum()
        assert share <= len(blocks) / shares + work.active.max()
    assert ops.map_partition(lambda brick: (brick.number, brick.active), work, tasks=shares) == list(
        enumerate(work.active.tolist())
    )
    assert work[:2] == list(work)[:2]


def test_what_is_stored_is_a_work_list_too(repo):
    seg = repo.new_instance("labelmap", "seg")
    gray = repo.new_instance("uint8blk", "gray")
    for label, x in ((1, -64), (2, 64)):
        seg.write(np.full((64, 64, 64), label, np.uint64), (64, 0, x))
    gray.write(np.ones((32, 32, 64), np.uint8), (0, 0, 0))
    assert ops.partition(seg, 1).region.spans.tolist() == [[1, 0, -1, -1], [1, 0, 1, 1]]
    assert ops.partition(gray, 4).active.tolist() == [2]
    sums = ops.map_partition(lambda brick: int(seg[brick.box.slices()].max()), ops.partition(seg, 1))
    assert sums == [1, 2]
    with pytest.raises(NotSupported):
        ops.partition(repo.new_instance("keyvalue", "kv"))


def test_nothing_is_no_work(repo):
    work = ops.partition(repo.new_instance("roi", "empty"))
    assert (len(work), list(work), work.groups(3), ops.map_partition(str, work)) == (0, [], [], [])
    with pytest.raises(IndexError):
        work[0]
    with pytest.raises(BadRequest):
        work.groups(0)
    with pytest.raises(BadRequest):
        ops.partition(Region([], BLOCK), 0)


def test_on_workers(tmp_path):
    from distributed import Client

    repo = dvid_dask.create(str(tmp_path / "store"), compact="never").new_repo()
    roi = repo.new_instance("roi", "area")
    roi.replace([[z, y, 0, 9] for z in range(4) for y in range(4)])
    work = ops.partition(roi, 2)
    with Client(n_workers=1, threads_per_worker=2, dashboard_address=None):
        counts = ops.map_partition(lambda brick: int(roi.contains_blocks(next(brick.region.blocks())).sum()), work)
    assert counts == work.active.tolist()
