"""Down-sampling from what is stored, against the same dense model as ingest."""

from __future__ import annotations

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.errors import BadRequest, LockedVersion
from tests.ops.conftest import neurites
from tests.ops.model import World
from tests.ops.test_ingest import labelmap, mean_pyramid


def test_labels_at_all_scales(repo):
    seg = labelmap(repo, levels=3)
    volume = neurites((100, 70, 130))
    ops.ingest(volume, seg, offset=(-40, 16, 7), scales=0, progress=False)
    assert not list(seg.view(0).keys(b"B\x01"))
    report = ops.downres(seg, progress=False)
    assert report.scales == (1, 2, 3)
    world = World((-40, 16, 7), volume.shape, (16, 16, 16), 3)
    world.write(volume, (-40, 16, 7))
    world.check(seg)


def test_coarse_blocks_with_nothing_below_vanish(repo):
    seg = labelmap(repo, levels=2)
    volume = neurites((64, 64, 64))
    ops.ingest(volume, seg, progress=False)
    empty = np.zeros((32, 64, 64), np.uint64)
    ops.ingest(empty, seg, scales=0, progress=False)  # coarser scales now say what is no more
    ops.downres(seg, progress=False)
    volume[:32] = 0
    world = World((0, 0, 0), volume.shape, (16, 16, 16), 2)
    world.write(volume, (0, 0, 0))
    world.check(seg)


def test_from_a_coarser_scale(repo):
    seg = labelmap(repo, levels=3)
    volume = neurites((64, 64, 64))
    ops.ingest(volume, seg, scales=1, progress=False)
    ops.downres(seg, from_scale=1, progress=False)
    world = World((0, 0, 0), volume.shape, (16, 16, 16), 3)
    world.write(volume, (0, 0, 0))
    world.check(seg)


def test_volumes_far_apart_cost_what_is_stored(repo):
    seg = labelmap(repo, levels=3)
    volume = neurites((32, 32, 32))
    far = (0, 0, 15_000_000)
    ops.ingest(volume, seg, scales=0, progress=False)
    ops.ingest(volume, seg, offset=far, scales=0, progress=False)
    assert ops.downres(seg, progress=False).bricks <= 4
    np.testing.assert_array_equal(seg.read((0, 0, far[2] >> 1), (16, 16, 16), 1), seg.read((0, 0, 0), (16, 16, 16), 1))


def test_image(repo):
    image = repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    volume = np.random.default_rng(3).integers(0, 255, (70, 33, 50), dtype=np.uint8)
    ops.ingest(volume, image, scales=0, progress=False)
    ops.downres(image, scales=3, progress=False)
    for scale, expected in enumerate(mean_pyramid(volume, 3)):
        np.testing.assert_array_equal(image.read_box((0, 0, 0), expected.shape, scale=scale), expected)


def test_an_edit_between_reading_and_commit_is_seen(repo, monkeypatch):
    """The brick is computed anew when somebody writes a block that it was computed from."""
    from dvid_dask.ops import label_bricks

    seg = labelmap(repo, levels=1)
    volume = neurites((32, 32, 32))
    ops.ingest(volume, seg, progress=False)
    compute = label_bricks._Brick.compute
    edits = iter([np.full((16, 16, 16), 77, np.uint64)])

    def slow(self, space):
        compute(self, space)
        for edit in edits:
            seg.write(edit, (0, 0, 0))

    monkeypatch.setattr(label_bricks._Brick, "compute", slow)
    ops.downres(seg, progress=False)
    volume[:16, :16, :16] = 77
    world = World((0, 0, 0), volume.shape, (16, 16, 16), 1)
    world.write(volume, (0, 0, 0))
    world.check(seg)


def test_errors(repo):
    seg = labelmap(repo, levels=2)
    with pytest.raises(BadRequest, match="no block"):
        ops.downres(seg, progress=False)
    with pytest.raises(BadRequest, match="coarser scales"):
        ops.downres(seg, scales=3, progress=False)
    with pytest.raises(BadRequest, match="no scale to write"):
        ops.downres(seg, from_scale=2, progress=False)
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        ops.downres(seg, progress=False)
