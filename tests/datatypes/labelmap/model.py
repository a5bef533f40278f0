"""What a labelmap means, in the plainest words: a dense array of supervoxels and a dictionary to bodies."""

from __future__ import annotations

import numpy as np

BLOCK = 16
SHAPE = (32, 32, 48)
OFFSET = (-16, 0, -32)  # blocks of either sign


class Model:
    def __init__(self):
        self.voxels = np.zeros(SHAPE, np.uint64)
        self.mapping = {}
        self.written = np.zeros([n // BLOCK for n in SHAPE], bool)

    def copy(self):
        new = Model()
        new.voxels, new.mapping, new.written = self.voxels.copy(), dict(self.mapping), self.written.copy()
        return new

    def body(self, sv):
        return self.mapping.get(sv, sv)

    def bodies(self):
        out = self.voxels.copy()
        for sv in np.unique(self.voxels).tolist():
            out[self.voxels == sv] = self.body(sv) if sv else 0
        return out

    def supervoxels(self, body):
        return [sv for sv in np.unique(self.voxels).tolist() if sv and self.body(sv) == body]

    def all_bodies(self):
        return sorted({self.body(sv) for sv in np.unique(self.voxels).tolist() if sv})

    def index(self, body):
        """(block z, y, x, supervoxel) to voxels."""
        rows = {}
        first = [o // BLOCK for o in OFFSET]
        for block in np.ndindex(*self.written.shape):
            part = self.voxels[tuple(slice(b * BLOCK, (b + 1) * BLOCK) for b in block)]
            for sv, n in zip(*np.unique(part, return_counts=True), strict=True):
                if sv and self.body(int(sv)) == body:
                    rows[(*(int(b) + f for b, f in zip(block, first, strict=True)), int(sv))] = int(n)
        return rows

    def write(self, start, labels):
        box = tuple(slice(s, s + n) for s, n in zip(start, labels.shape, strict=True))
        self.voxels[box] = labels
        self.written[tuple(slice(b.start // BLOCK, b.stop // BLOCK) for b in box)] = True

    def merge(self, target, others):
        for other in others:
            for sv in self.supervoxels(other):
                self.mapping[sv] = target

    def cleave(self, new, svs):
        for sv in svs:
            self.mapping[sv] = new
        self.mapping[new] = 0

    def renumber(self, new, old):
        svs = self.supervoxels(old)
        self.mapping.setdefault(new, 0)
        for sv in svs:
            self.mapping[sv] = new

    def coarse(self):
        """Scale 1 by the rule: most frequent non-zero label, the smallest among equals."""
        z, y, x = (n // 2 for n in SHAPE)
        cells = self.voxels.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(z, y, x, 8)
        out = np.zeros((z, y, x), np.uint64)
        best = np.zeros((z, y, x), int)
        for label in np.unique(self.voxels).tolist():
            if label:
                n = (cells == label).sum(-1)
                better = n > best
                out[better], best[better] = label, n[better]
        return out
