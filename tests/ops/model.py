"""What a labelmap or image must hold, computed densely with numpy: slow, short and independent of the package."""

from __future__ import annotations

import numpy as np


def majority(volume):
    """2 x 2 x 2 to 1: the most frequent label that isn't 0, the smallest of equals, 0 only where all are 0."""
    z, y, x = (n // 2 for n in volume.shape)
    cells = volume.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    cells = np.sort(cells, axis=1)
    votes = (cells[:, :, None] == cells[:, None, :]).sum(axis=2)
    votes[cells == 0] = 0
    best = votes.argmax(axis=1)  # the first of equals is the smallest label
    out = np.take_along_axis(cells, best[:, None], axis=1)[:, 0]
    return out.reshape(z, y, x)


def index_rows(volume, start, block):
    """{(label, block z, y, x): voxels} of a dense volume whose first voxel is `start`, a multiple of the block."""
    found = {}
    for z in range(0, volume.shape[0], block[0]):
        for y in range(0, volume.shape[1], block[1]):
            for x in range(0, volume.shape[2], block[2]):
                part = volume[z : z + block[0], y : y + block[1], x : x + block[2]]
                at = tuple((s + o) // b for s, o, b in zip(start, (z, y, x), block, strict=True))
                for label, n in zip(*np.unique(part, return_counts=True), strict=True):
                    if label:
                        found[int(label), *at] = int(n)
    return found


def stored_rows(instance):
    """The same, from the instance's label index, by supervoxel."""
    from dvid_dask.datatypes.labelmap.index import Index

    index = Index(instance.view(0))
    found = {}
    for body in index.bodies():
        rows = index.rows(body)
        header = index.header(body)
        assert header.voxels == rows.voxels
        assert header.rows == len(rows)
        for block, sv, n in zip(rows.block_zyx.tolist(), rows.supervoxel.tolist(), rows.count.tolist(), strict=True):
            assert (sv, *block) not in found
            found[sv, *block] = n
    return found


class World:
    """A dense box around everything a test writes: the voxels of all scales."""

    def __init__(self, start, shape, block, levels):
        unit = [b << levels for b in block]
        self.block, self.levels = block, levels
        self.start = [s // u * u for s, u in zip(start, unit, strict=True)]
        stop = [-(-(s + n) // u) * u for s, n, u in zip(start, shape, unit, strict=True)]
        self.voxels = np.zeros([b - a for a, b in zip(self.start, stop, strict=True)], np.uint64)

    def write(self, volume, offset):
        at = tuple(slice(o - s, o - s + n) for o, s, n in zip(offset, self.start, volume.shape, strict=True))
        self.voxels[at] = volume

    def check(self, instance):
        dense = self.voxels
        for scale in range(self.levels + 1):
            if scale:
                dense = majority(dense)
            offset = [s >> scale for s in self.start]
            got = instance.read(offset, dense.shape, scale, supervoxels=True)
            np.testing.assert_array_equal(got, dense, err_msg=f"scale {scale}")
        assert stored_rows(instance) == index_rows(self.voxels, self.start, self.block)
