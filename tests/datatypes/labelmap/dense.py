"""The older label types in the plainest words: a dense array of labels, in which edits are assignments."""

from __future__ import annotations

import numpy as np

from dvid_dask.formats import rles


class Dense:
    """One version: labels (z, y, x) of a grid, and the largest label that it got itself."""

    def __init__(self, grid, labels=None):
        self.grid = grid
        self.labels = np.zeros(grid.shape, np.uint64) if labels is None else labels.copy()
        self.largest = 0

    def child(self):
        return Dense(self.grid, self.labels)

    def note(self, label):
        self.largest = max(self.largest, int(label))

    def present(self):
        return [v for v in np.unique(self.labels).tolist() if v]

    def write(self, box, labels):
        self.labels[box] = labels
        self.note(labels.max())

    def merge(self, target, merged):
        self.labels[np.isin(self.labels, np.array(merged, np.uint64))] = target

    def under(self, runs):
        """Voxels of the grid under runs."""
        return rles.rles_to_mask(runs, self.grid.offset, self.grid.shape)

    def in_blocks(self, blocks):
        """Voxels of the grid in blocks, whose coordinates are those of the volume."""
        mask = np.zeros(self.grid.shape, bool)
        for block in blocks:
            start = [b - f for b, f in zip(block, self.grid.first, strict=True)]
            mask[self.grid.box(start, (1, 1, 1))] = True
        return mask

    def split(self, old, new, mask):
        self.labels[mask & (self.labels == old)] = new
        self.note(new)


def blobs(rng, shape, most=9, pieces=6):
    """Labels in boxes, some over others, some background left."""
    labels = np.zeros(shape, np.uint64)
    for _ in range(pieces):
        low = [int(rng.integers(0, n)) for n in shape]
        high = [int(rng.integers(a, n)) + 1 for a, n in zip(low, shape, strict=True)]
        labels[tuple(map(slice, low, high))] = rng.integers(1, most)
    return labels


def some_runs(rng, model, label, n=4, stray=True):
    """Runs over voxels of a label and, if they may stray, over others."""
    z, y, x = np.nonzero(model.labels == label)
    if not len(z):
        z, y, x = (np.array([n // 2]) for n in model.grid.shape)
    picked = rng.integers(0, len(z), n)
    out = []
    for i in picked.tolist():
        row = model.labels[z[i], y[i], x[i] :]
        own = int(np.argmax(row != label)) if (row != label).any() else len(row)
        length = int(rng.integers(1, len(row) + 1)) if stray else int(rng.integers(1, max(own, 1) + 1))
        oz, oy, ox = model.grid.offset
        out.append([x[i] + ox, y[i] + oy, z[i] + oz, length])
    return rles.normalize(out)


def runs_of(model, label):
    """The runs of a label, by the dense array."""
    return rles.rles_from_mask(model.labels == label, model.grid.offset)
