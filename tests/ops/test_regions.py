"""Regions of labels against voxels, and labels of regions."""

import itertools

import numpy as np
import pytest

from dvid_dask import ops
from dvid_dask.datatypes.roi import Region
from dvid_dask.errors import BadRequest, NotFound, NotSupported

from .conftest import neurites
from .model import majority

OFFSET = (-64, 0, 128)
SHAPE = (128, 64, 192)


@pytest.fixture
def seg(repo):
    seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "2"})
    voxels = neurites(SHAPE, labels=12, zeros=0.7)
    voxels[:64, :, :128] = 0
    seg.write(voxels, OFFSET)
    ids = [int(i) for i in np.unique(voxels) if i]
    seg.merge(ids[0], ids[1:3])
    seg.voxels, seg.ids = voxels, ids
    return seg


def expected(inside, block, least=1):
    """Blocks with at least so many voxels of a dense mask whose first voxel is at `OFFSET`."""
    found = set()
    first = [o // b for o, b in zip(OFFSET, block, strict=True)]
    last = [(o + n - 1) // b for o, n, b in zip(OFFSET, SHAPE, block, strict=True)]
    for cell in itertools.product(*(range(a, b + 1) for a, b in zip(first, last, strict=True))):
        box = tuple(
            slice(max(0, c * b - o), max(0, (c + 1) * b - o)) for c, b, o in zip(cell, block, OFFSET, strict=True)
        )
        if inside[box].sum() >= least:
            found.add(cell)
    return found


def blocks_of(region):
    return {tuple(b) for part in region.blocks() for b in part.tolist()}


BLOCKS = [(64, 64, 64), (32, 32, 32), (16, 32, 48), (128, 64, 96), (24, 24, 24)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("fraction", [0, 0.05])
@pytest.mark.parametrize("what", ["all", "body", "supervoxel", "several"])
def test_blocks_of_labels(seg, block, fraction, what):
    ids = seg.ids
    labels, held, supervoxels = {
        "all": (None, ids, False),
        "body": (ids[0], ids[:3], False),
        "supervoxel": ([ids[1], ids[2]], ids[1:3], True),
        "several": ([ids[0], ids[5]], [*ids[:3], ids[5]], False),
    }[what]
    region = ops.region_of(seg, labels, block_shape=block, min_fraction=fraction, supervoxels=supervoxels)
    least = max(1, int(np.ceil(fraction * np.prod(block))))
    assert region.block_shape == block
    assert blocks_of(region) == expected(np.isin(seg.voxels, held), block, least)


@pytest.mark.parametrize("labels", [None, 3])
def test_at_a_coarse_scale(seg, labels):
    held = None if labels is None else [seg.ids[n] for n in range(labels, labels + 2)]
    region = ops.region_of(seg, held, scale=1, block_shape=(32, 32, 32))
    coarse = majority(seg.voxels)
    inside = (coarse != 0) if held is None else np.isin(coarse, held)
    assert blocks_of(region) == expected(inside.repeat(2, 0).repeat(2, 1).repeat(2, 2), (32, 32, 32))
    assert ops.region_of(seg, scale=2, block_shape=(256, 256, 256)).block_shape == (256, 256, 256)


def test_what_can_not_be_is_refused(seg, repo):
    for arguments in (
        {"min_fraction": 1.5},
        {"min_fraction": float("nan")},
        {"scale": 3},
        {"scale": 2, "block_shape": (34, 32, 32)},
        {"block_shape": (0, 1, 1)},
        {"labels": [0, 1]},
        {"labels": [-1]},
        {"labels": [1.5]},
        {"supervoxels": True},
    ):
        with pytest.raises(BadRequest):
            ops.region_of(seg, **arguments)
    with pytest.raises(NotFound):
        ops.region_of(seg, [5])
    with pytest.raises(NotSupported):
        ops.region_of(repo.new_instance("roi", "r"))
    assert not ops.region_of(repo.new_instance("labelmap", "empty"))


def test_regions_become_labels_and_come_back(repo):
    regions = {
        3: Region([[-1, 0, 0, 3], [0, 0, 2, 2]], (32, 32, 32)),
        9: Region([[0, 0, 2, 5], [1, 2, 3, 3]], (32, 32, 32)),
    }
    voxels, offset = ops.label_array(regions, chunk=50)
    dense = voxels.compute()
    assert offset == (-32, 0, 0)
    points = np.argwhere(dense >= 0) + offset
    assert (dense.reshape(-1) == np.where(regions[9].contains(points), 9, 3 * regions[3].contains(points))).all()
    seg = repo.new_instance("labelmap", "areas")
    ops.ingest(voxels, seg, offset=offset, progress=False)
    assert ops.region_of(seg, 9, block_shape=(32, 32, 32)) == regions[9]
    assert ops.region_of(seg, 3, block_shape=(32, 32, 32)) == regions[3] - regions[9]
    cut, _ = ops.label_array(regions, box=((0, 0, 60), (2, 2, 70)))
    assert cut.compute()[0, 0].tolist() == [0, 0, 0, 0, 9, 9, 9, 9, 9, 9]
    roi = repo.new_instance("roi", "roi")
    roi.replace(regions[3])
    assert (ops.label_array({1: roi})[0].compute() != 0).sum() == regions[3].voxels
    for bad in ({0: regions[3]}, {-1: regions[3]}, {1: Region([], (1, 1, 1))}, {}):
        with pytest.raises(BadRequest):
            ops.label_array(bad)
    with pytest.raises(BadRequest):
        ops.label_array(regions, box=((0, 0, 0), (0, 1, 1)))
