"""No two bricks write the same block, together they write all, and a brick's memory does not grow with the volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.boxes import Box, ceil_div
from dvid_dask.errors import BadRequest
from dvid_dask.ops.bricks import halved, plan_bricks

points = st.tuples(*[st.integers(-5000, 5000)] * 3)
shapes = st.tuples(*[st.integers(1, 900)] * 3)
blocks = st.tuples(*[st.sampled_from([16, 32, 48, 64, 128])] * 3)


def cells(box, block):
    return {c.start for c in box.cells(block).split((1, 1, 1))}


@settings(max_examples=60, deadline=None)
@given(points, shapes, blocks, st.integers(0, 8), st.sampled_from([None, 64, 128, 256]))
def test_every_block_of_every_scale_has_one_writer(start, shape, block, levels, edge):
    box = Box.of(start, np.add(start, shape).tolist())
    plan = plan_bricks(box, block, levels=levels, itemsize=8, edge=edge)
    region = box.aligned(block)
    scale = 0
    for number, grid in enumerate(plan.grids):
        assert grid.scale == scale
        assert grid.region == region
        written = [[] for _ in range(grid.levels + 1)]
        for i in range(grid.count):
            for level, part in enumerate(grid.regions(i)):
                written[level] += [c.start for c in part.cells(block).split((1, 1, 1))]
        for level, found in enumerate(written):
            assert len(found) == len(set(found)), f"scale {scale + level}"
            if level or number == 0:
                assert set(found) == cells(region, block)
            if level < grid.levels:
                region = halved(region, block)
        scale += grid.levels
    assert scale == levels


@settings(max_examples=40, deadline=None)
@given(points, shapes, blocks)
def test_the_region_of_a_coarser_scale_holds_its_voxels(start, shape, block):
    box = Box.of(start, np.add(start, shape).tolist())
    region = box.aligned(block)
    for scale in range(1, 5):
        region = halved(region, block)
        assert region.contains(box.at_scale(scale))
        assert region == region.aligned(block)


@settings(max_examples=40, deadline=None)
@given(points, shapes, blocks, st.integers(0, 4))
def test_leaves_are_whole_blocks_that_tile_the_brick(start, shape, block, levels):
    plan = plan_bricks(Box.of(start, np.add(start, shape).tolist()), block, levels=levels, itemsize=8)
    brick = plan.grids[0].brick(plan.grids[0].count // 2)
    leaves = list(plan.grids[0].leaves(brick))
    assert sum(leaf.size for leaf in leaves) == brick.size
    assert all(leaf == leaf.aligned(block) for leaf in leaves)


def test_memory_is_bounded_whatever_the_volume_and_the_scales():
    for n in (512, 2048, 100_000):
        for levels in (0, 3, 9):
            plan = plan_bricks(Box.of_shape((n, n, n)), (64, 64, 64), levels=levels, itemsize=8)
            assert plan.memory < 1.3e9


def test_small_volumes_are_cut_for_several_workers():
    assert plan_bricks(Box.of_shape((512,) * 3), (64,) * 3, levels=3, itemsize=8).grids[0].count == 8
    assert plan_bricks(Box.of_shape((2048,) * 3), (64,) * 3, levels=3, itemsize=8).grids[0].count == 64


def test_only_chosen_bricks():
    grid = plan_bricks(Box.of_shape((2048,) * 3), (64,) * 3, levels=3, itemsize=8).grids[0]
    chosen = grid.only(np.array([[0, 0, 0], [1, 1, 1], [31, 31, 31]]))
    assert [chosen.brick(i).start for i in range(chosen.count)] == [(0, 0, 0), (1536, 1536, 1536)]


def test_errors():
    with pytest.raises(BadRequest, match="no voxel"):
        plan_bricks(Box.of((0, 0, 0), (4, 0, 4)), (64,) * 3, levels=3, itemsize=8)
    with pytest.raises(BadRequest, match="coordinates"):
        plan_bricks(Box.of((0, 0, 0), (4, 4, 2**31 + 1)), (64,) * 3, levels=3, itemsize=8)


@given(st.integers(-100, 100), st.integers(1, 10))
def test_ceil_div(a, b):
    assert (ceil_div(a, b) - 1) * b < a <= ceil_div(a, b) * b
