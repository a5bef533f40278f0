"""What a labelmap means, in the plainest words: a dense array of supervoxels and a dictionary to bodies.

One `Model` is one version. It knows nothing of blocks in a store, pages or transactions; whatever can be told from the
voxels and the dictionary is told from them, each time anew.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np

RETIRED = 0


@dataclass(frozen=True)
class Grid:
    """The part of space that a test plays in; z, y, x throughout."""

    block: tuple[int, int, int]
    blocks: tuple[int, int, int]
    first: tuple[int, int, int]  # first block
    levels: int

    @property
    def shape(self):
        return tuple(n * b for n, b in zip(self.blocks, self.block, strict=True))

    @property
    def offset(self):
        return tuple(f * b for f, b in zip(self.first, self.block, strict=True))

    @property
    def settings(self):
        return {"BlockSize": ",".join(map(str, self.block[::-1])), "MaxDownresLevel": str(self.levels)}

    def box(self, start, blocks):
        """Slices into the dense array of a box of blocks; `start` counts from the grid's first block."""
        return tuple(slice(s * b, (s + n) * b) for s, n, b in zip(start, blocks, self.block, strict=True))

    def at(self, start):
        """Voxel where a block of the grid begins."""
        return tuple((f + s) * b for f, s, b in zip(self.first, start, self.block, strict=True))


#: blocks of either sign, cubes and not, no to several coarser scales
GRIDS = (
    Grid((16, 16, 16), (2, 2, 3), (-1, 0, -2), 1),
    Grid((16, 32, 16), (3, 1, 2), (-2, 0, 5), 3),
    Grid((32, 16, 48), (1, 2, 1), (0, -1, -1), 2),
    Grid((16, 16, 16), (2, 2, 2), (7, -3, 0), 0),
)


@dataclass
class Counter:
    """The ids of a whole repository: the one after the largest ever written or handed out."""

    next: int = 1

    def take(self, n=1):
        self.next += n
        return self.next - n

    def raise_to(self, label):
        self.next = max(self.next, label + 1)


@dataclass
class Model:
    grid: Grid
    ids: Counter = field(default_factory=Counter)
    parent: Model | None = None
    voxels: np.ndarray = None
    mapping: dict = field(default_factory=dict)
    stored: set = field(default_factory=set)  # blocks (z, y, x)
    stamps: dict = field(default_factory=dict)  # body -> (mutation id, user, app)
    log: list = field(default_factory=list)  # of this version alone
    max_label: int = 0
    extents: tuple | None = None
    uuid: str = ""

    def __post_init__(self):
        if self.voxels is None:
            self.voxels = np.zeros(self.grid.shape, np.uint64)

    def child(self, uuid=""):
        new = copy.copy(self)
        new.voxels, new.mapping, new.stored = self.voxels.copy(), dict(self.mapping), set(self.stored)
        new.stamps, new.log, new.parent, new.uuid = dict(self.stamps), [], self, uuid
        return new

    # ------------------------------------------------------------------ reads

    def body(self, sv):
        return self.mapping.get(sv, sv)

    def supervoxel_ids(self):
        return [s for s in np.unique(self.voxels).tolist() if s]

    def as_bodies(self, voxels=None):
        voxels = self.voxels if voxels is None else voxels
        names, where = np.unique(voxels, return_inverse=True)
        bodies = np.array([self.body(n) if n else 0 for n in names.tolist()], np.uint64)
        return bodies[where].reshape(voxels.shape)

    def supervoxels(self, body):
        return [sv for sv in self.supervoxel_ids() if self.body(sv) == body]

    def bodies(self):
        return sorted({self.body(sv) for sv in self.supervoxel_ids()} - {0})

    def size(self, sv):
        return int((self.voxels == np.uint64(sv)).sum())

    def body_size(self, body):
        return sum(self.size(s) for s in self.supervoxels(body))

    def rows(self):
        """body -> {(block z, y, x, supervoxel): voxels}."""
        found = {}
        for at in np.ndindex(*self.grid.blocks):
            part = self.voxels[self.grid.box(at, (1, 1, 1))]
            block = tuple(int(f + a) for f, a in zip(self.grid.first, at, strict=True))
            for sv, n in zip(*np.unique(part, return_counts=True), strict=True):
                if sv and self.body(int(sv)):
                    found.setdefault(self.body(int(sv)), {})[(*block, int(sv))] = int(n)
        return found

    def scale(self, level):
        """Voxels of a scale: of eight the most frequent non-zero label, the smallest among equals; step by step."""
        out = self.voxels
        for _ in range(level):
            out = coarser(out)
        return out

    def looked_up(self, sv, lookup=True):
        if sv in self.mapping:
            return self.mapping[sv]
        if not lookup:
            return sv
        return sv if sv and self.size(sv) else 0

    def history(self):
        """Records of this version and all before it, oldest first."""
        return ([] if self.parent is None else self.parent.history()) + self.log

    # ------------------------------------------------------------------ changes

    def write(self, start, labels, keep=None):
        """Whole blocks; `start` in blocks from the grid's first."""
        blocks = [n // b for n, b in zip(labels.shape, self.grid.block, strict=True)]
        self.voxels[self.grid.box(start, blocks)] = labels
        for at in np.ndindex(*blocks):
            self.stored.add(tuple(int(f + s + a) for f, s, a in zip(self.grid.first, start, at, strict=True)))
        low = self.grid.at(start)
        high = tuple(a + n - 1 for a, n in zip(low, labels.shape, strict=True))
        self.grow(low, high)
        self.named(int(labels.max()))
        self.forget()

    def grow(self, low, high):
        if self.extents is not None:
            low = tuple(map(min, low, self.extents[0]))
            high = tuple(map(max, high, self.extents[1]))
        self.extents = (tuple(map(int, low)), tuple(map(int, high)))

    def named(self, label):
        if label:
            self.max_label = max(self.max_label, label)
            self.ids.raise_to(label)

    def forget(self):
        """Bodies without voxels have no index and so no stamp."""
        there = set(self.bodies())
        self.stamps = {b: s for b, s in self.stamps.items() if b in there}

    def merge(self, target, others, stamp=None, **_):
        others = list(dict.fromkeys(others))
        for other in others:
            for sv in self.supervoxels(other):
                self.mapping[sv] = target
        self.stamp(stamp, target)
        self.log.append({"Action": "merge-complete", "Target": target, "Labels": others})

    def cleave(self, body, new, svs, stamp=None):
        moved, whole = sum(map(self.size, svs)), self.body_size(body)
        for sv in svs:
            self.mapping[sv] = new
        self.mapping[new] = RETIRED
        self.named(new)
        self.stamp(stamp, body, new)
        self.log.append(
            {
                "Action": "cleave-complete",
                "OrigLabel": body,
                "CleavedLabel": new,
                "CleavedSupervoxels": sorted(svs),
                "CleavedSize": moved,
                "RemainSize": whole - moved,
            }
        )

    def renumber(self, new, old, stamp=None):
        svs = self.supervoxels(old)
        self.mapping.setdefault(new, RETIRED)
        for sv in svs:
            self.mapping[sv] = new
        self.named(new)
        self.stamp(stamp, new)
        self.log.append({"Action": "renumber-complete", "NewLabel": new, "OrigLabel": old})

    def cut(self, sv, mask, split, remain):
        """The supervoxel's voxels under a mask of the grid become `split`, the others `remain`."""
        mine = self.voxels == np.uint64(sv)
        self.voxels[mine & mask] = split
        self.voxels[mine & ~mask] = remain
        self.mapping[sv] = RETIRED

    def split_supervoxel(self, sv, mask, split, remain, stamp=None):
        body, size = self.body(sv), self.size(sv)
        self.cut(sv, mask, split, remain)
        self.mapping[split] = self.mapping[remain] = body
        self.named(max(split, remain))
        self.stamp(stamp, body)
        self.log.append(
            {
                "Action": "split-supervoxel-complete",
                "Supervoxel": sv,
                "Body": body,
                "SplitSupervoxel": split,
                "RemainSupervoxel": remain,
                "SplitSize": self.size(split),
                "RemainSize": size - self.size(split),
            }
        )

    def split(self, body, mask, new, parts, stamp=None):
        """`parts`: what each supervoxel under the mask is cut into, (split, remain)."""
        for sv, (split, remain) in parts.items():
            self.cut(sv, mask, split, remain)
            self.mapping[split] = new
            if self.size(remain):  # an id without voxels is in no mapping
                self.mapping[remain] = body
        self.mapping[new] = RETIRED
        self.named(max([new, *(i for part in parts.values() for i in part)]))
        self.stamp(stamp, body, new)
        told = {str(sv): {"Split": split, "Remain": remain} for sv, (split, remain) in parts.items()}
        self.log.append({"Action": "split-complete", "Target": body, "NewLabel": new, "SVSplits": told})

    def stamp(self, stamp, *bodies):
        self.forget()
        for body in bodies:
            self.stamps[body] = stamp or (0, "", "")


def coarser(voxels):
    z, y, x = (n // 2 for n in voxels.shape)
    cells = voxels.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(z, y, x, 8)
    out = np.zeros((z, y, x), np.uint64)
    best = np.zeros((z, y, x), int)
    for label in np.unique(voxels).tolist():
        if label:
            n = (cells == np.uint64(label)).sum(-1)
            better = n > best
            out[better], best[better] = label, n[better]
    return out


def random_labels(seed, shape, names, *, noise=0.01):
    """Something like a segmentation: boxes of 8 voxels with labels by chance, some 0, some stray voxels."""
    rng = np.random.default_rng(seed)
    names = np.array([0, *names], np.uint64)
    labels = rng.choice(names, [n // 8 for n in shape])
    for axis in range(3):
        labels = labels.repeat(8, axis)
    stray = rng.random(shape) < noise
    labels[stray] = rng.choice(names, int(stray.sum()))
    return labels
