"""Proximity: where two bodies come near each other, how near, and across which faces they touch.

The search goes from coarse to fine: regions of 16 x 16 x 16 blocks, blocks, voxels. At each level pairs are looked at
in the order of the least distance that they can have, until that is more than what was found. So few blocks are read,
and memory holds the pages and voxels of a few pairs, however large the bodies are. Nearest neighbours are scipy's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, decompress, read_blocks
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import distinct_blocks
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import numbered_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["BlockDistance", "Place", "Proximity", "distances_in_blocks", "find_proximity"]

Point = tuple[int, int, int]
Triple = tuple[float, float, float]

_REGION = 16
_PAGES = 64  # pages kept
_MASKS = 256  # masks of blocks kept
_TREES = 64
_FAR = math.inf


@dataclass(frozen=True)
class Place:
    """A block of the first body that the second comes near to.

    Attributes
    ----------
    block
        Coordinate (z, y, x), scale 0.
    distance
        From the voxels of the first body in the block to the nearest of the second, by voxel size.
    point_a, point_b
        Voxels (z, y, x) that are so far from each other.
    """

    block: Point
    distance: float
    point_a: Point
    point_b: Point


@dataclass(frozen=True)
class Proximity:
    """How near two bodies come.

    Attributes
    ----------
    a, b
        The bodies.
    distance
        Between the centres of their nearest voxels, in the units of the instance's voxel size (nanometers by default).
    voxels
        The same pair's distance in voxels.
    point_a, point_b
        These voxels (z, y, x).
    faces
        Faces between voxels that they share, across z, y and x.
    area
        Of these faces, in square units of the voxel size.
    places
        Blocks of `a` within the limit of `b`, nearest first, if they were asked for.
    """

    a: int
    b: int
    distance: float
    voxels: float
    point_a: Point
    point_b: Point
    faces: Point
    area: float
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class BlockDistance:
    """How near a body comes to another within a block that both are in; in voxels."""

    block: Point
    label: int
    distance: float


# ------------------------------------------------------------------ bodies, level by level


class _Body:
    """Regions, blocks and voxels of a body, each read when it is asked for."""

    def __init__(self, space: AnySpace, layout: Layout, mapping: Mapping, body: int) -> None:
        self._space, self._layout, self._mapping, self.body = space, layout, mapping, body
        index = Index(space)
        header = index.header(body)
        self._small: dict[Point, NDArray[np.int64]] = {}
        if header is not None and not header.paged:
            blocks = distinct_blocks(index.rows(body)).astype(np.int64)
            regions, where = numbered_rows(blocks // _REGION)
            for i, region in enumerate(regions.tolist()):
                self._small[_point(region)] = blocks[where.reshape(-1) == i]
            self.regions = regions
        else:
            self.regions = index.regions(body).astype(np.int64)
        # caches that live as long as the search
        self.blocks: Callable[[Point], NDArray[np.int64]] = functools.lru_cache(_PAGES)(self._blocks)
        self.mask: Callable[[Point], NDArray[np.bool_]] = functools.lru_cache(_MASKS)(self._mask)
        self.surface: Callable[[Point], NDArray[np.int64]] = functools.lru_cache(_MASKS)(self._surface)

    def _blocks(self, region: Point) -> NDArray[np.int64]:
        """int64 (n, 3): its blocks in a region."""
        if self._small:
            return self._small[region]
        index = Index(self._space)
        pages = list(index._pages(self.body, np.array([region], np.int32)))
        return distinct_blocks(pages[0]).astype(np.int64) if pages else np.empty((0, 3), np.int64)

    def _mask(self, block: Point) -> NDArray[np.bool_]:
        """Its voxels in a block."""
        value = self._space.get(keys.blocks(0, [block])[0])
        if value is None:
            return np.zeros(self._layout.block_shape, np.bool_)
        return _mask_of(decompress(value, self._layout), self._mapping, self.body)

    def _surface(self, block: Point) -> NDArray[np.int64]:
        """int64 (n, 3): voxels of its surface in a block."""
        at: NDArray[np.int64] = _surface(self.mask(block)) + np.multiply(block, self._layout.block_shape)
        return at


def _mask_of(block: bytes, mapping: Mapping, body: int) -> NDArray[np.bool_]:
    table = label_blocks.labels(block)
    return label_blocks.mask(block, table[mapping.bodies(table) == np.uint64(body)])


def _point(zyx: Sequence[int]) -> Point:
    z, y, x = (int(i) for i in zyx)
    return z, y, x


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 (n, 3): voxels of which a neighbour isn't in the mask or lies outside: the nearest is one of these."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1, 1:-1] = (
        mask[:-2, 1:-1, 1:-1]
        & mask[2:, 1:-1, 1:-1]
        & mask[1:-1, :-2, 1:-1]
        & mask[1:-1, 2:, 1:-1]
        & mask[1:-1, 1:-1, :-2]
        & mask[1:-1, 1:-1, 2:]
    )
    return np.argwhere(mask & ~inner)


def _least(
    a: NDArray[np.int64], b: NDArray[np.int64], cell: NDArray[np.int64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least distance between voxels of cells (n, 3) and (n, 3) of so many voxels."""
    apart = np.abs(a - b)
    gap = np.where(apart > 0, (apart - 1) * cell + 1, 0) * size
    least: NDArray[np.float64] = np.sqrt((gap * gap).sum(axis=-1))
    return least


def _near_pairs(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    cell: NDArray[np.int64],
    size: NDArray[np.float64],
    limit: float,
    every: bool,
) -> Iterator[tuple[int, int, float]]:
    """Pairs of cells by their least distance: those that may hold the nearest voxels, or share a face.

    With `every` all that may hold voxels no farther apart than the limit.
    """
    pitch = cell * size
    trees = cKDTree(a * pitch), cKDTree(b * pitch)
    diagonal = float(np.sqrt((pitch * pitch).sum()))
    # the centres of cells of the nearest voxels are at most a diagonal farther apart than these
    farthest = limit if every else min(limit, float(trees[1].query(trees[0].data, k=1)[0].min()) + diagonal)
    reach = farthest + diagonal
    found = trees[0].query_ball_tree(trees[1], reach * (1 + 1e-9))
    first = np.repeat(np.arange(len(a)), [len(f) for f in found])
    second = np.fromiter((j for f in found for j in f), np.int64, len(first))
    least = _least(a[first], b[second], cell, size)
    order = np.argsort(least, kind="stable")
    yield from zip(first[order].tolist(), second[order].tolist(), least[order].tolist(), strict=True)


# ------------------------------------------------------------------ the search


@dataclass
class _Search:
    layout: Layout
    size: NDArray[np.float64]
    a: _Body
    b: _Body
    limit: float
    every: bool
    best: float = _FAR
    points: tuple[Point, Point] = ((0, 0, 0), (0, 0, 0))
    faces: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    places: dict[Point, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape = np.array(self.layout.block_shape, np.int64)
        self.tree = functools.lru_cache(_TREES)(self._tree)

    @property
    def bound(self) -> float:
        """What is farther than this can't matter."""
        return self.limit if self.every else min(self.best, self.limit)

    def run(self) -> None:
        regions_a, regions_b = self.a.regions, self.b.regions
        if not len(regions_a) or not len(regions_b):
            return
        cell = self.shape * _REGION
        for i, j, least in _near_pairs(regions_a, regions_b, cell, self.size, self.limit, self.every):
            if least > self.bound and not _share_face(regions_a[i], regions_b[j]):
                continue
            self._blocks(self.a.blocks(_point(regions_a[i])), self.b.blocks(_point(regions_b[j])))

    def _blocks(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Pairs of blocks of a pair of regions."""
        if not len(a) or not len(b):
            return
        if not self.every and self.best == _FAR:  # a first one that is near, so that there are few others
            tree = cKDTree(b * self.shape * self.size)
            apart, nearest = tree.query(a * self.shape * self.size, k=1)
            i = int(np.argmin(apart))
            self._voxels(_point(a[i]), _point(b[nearest[i]]))
        for i, j, least in _near_pairs(a, b, self.shape, self.size, self.bound, self.every):
            touching = _share_face(a[i], b[j])
            if touching:
                self._count_faces(_point(a[i]), _point(b[j]))
            if least <= self.bound:
                self._voxels(_point(a[i]), _point(b[j]))

    def _count_faces(self, a: Point, b: Point) -> None:
        here, there = self.a.mask(a), self.b.mask(b)
        if a == b:
            for axis in range(3):
                p, q = np.moveaxis(here, axis, 0), np.moveaxis(there, axis, 0)
                self.faces[axis] += np.count_nonzero(p[:-1] & q[1:]) + np.count_nonzero(q[:-1] & p[1:])
            return
        axis = next(i for i in range(3) if a[i] != b[i])
        p, q = np.moveaxis(here, axis, 0), np.moveaxis(there, axis, 0)
        ends = (p[-1], q[0]) if a[axis] < b[axis] else (p[0], q[-1])
        self.faces[axis] += np.count_nonzero(ends[0] & ends[1])

    def _tree(self, block: Point) -> cKDTree:
        """The second body's surface in a block."""
        return cKDTree(self.b.surface(block) * self.size)

    def _apart(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
        """Distance between the boxes of two sets of voxels."""
        gap = np.maximum(0, np.maximum(b.min(axis=0) - a.max(axis=0), a.min(axis=0) - b.max(axis=0))) * self.size
        return float(np.sqrt((gap * gap).sum()))

    def _voxels(self, a: Point, b: Point) -> None:
        held = self.places.get(a)
        bound = min(self.limit, held.distance) if self.every and held is not None else self.bound
        if not self.every and self.best <= self.size.min():
            return  # nothing is nearer than neighbours are
        surface, other = self.a.surface(a), self.b.surface(b)
        if not len(surface) or not len(other) or self._apart(surface, other) > bound:
            return
        # one ulp more, for scipy leaves out what is just at the bound
        apart, which = self.tree(b).query(surface * self.size, k=1, distance_upper_bound=np.nextafter(bound, _FAR))
        i = int(np.argmin(apart))
        distance = float(apart[i])
        if distance > bound:
            return
        points = _point(surface[i]), _point(other[which[i]])
        if self.every and (held is None or distance < held.distance):
            self.places[a] = Place(a, distance, *points)
        if distance < self.best:
            self.best, self.points = distance, points


def _share_face(a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
    """Whether two cells are the same or have a face in common."""
    return int(np.abs(a - b).sum()) <= 1


def find_proximity(
    space: AnySpace,
    layout: Layout,
    size_zyx: Triple,
    a: int,
    b: int,
    *,
    max_distance: float | None = None,
    places: bool = False,
) -> Proximity | None:
    """How near two bodies come; None if that is more than `max_distance`.

    Parameters
    ----------
    space
        A pinned view.
    layout
        How the volume is cut.
    size_zyx
        Of a voxel.
    a, b
        Different bodies with an index.
    max_distance
        In the units of the voxel size.
    places
        List also all blocks of `a` that `b` comes so near to.
    """
    mapping = Mapping(space)
    bodies = [_Body(space, layout, mapping, body) for body in (a, b)]
    size = np.array(size_zyx, np.float64)
    limit = _FAR if max_distance is None else float(max_distance)
    search = _Search(layout, size, bodies[0], bodies[1], limit, places)
    search.run()
    if search.best == _FAR:
        return None
    first, second = search.points
    z, y, x = size_zyx
    return Proximity(
        a,
        b,
        search.best,
        float(np.linalg.norm(np.subtract(first, second))),
        first,
        second,
        _point(search.faces.tolist()),
        float(search.faces @ np.array([y * x, z * x, z * y])),
        tuple(sorted(search.places.values(), key=lambda p: (p.distance, p.block))),
    )


# ------------------------------------------------------------------ within blocks


def distances_in_blocks(space: AnySpace, layout: Layout, target: int, others: Sequence[int]) -> Iterator[BlockDistance]:
    """For every block that a body shares with others, how near they come within it, in voxels; blocks in zyx order.

    Bodies that are apart by the border between two blocks don't meet here: see `find_proximity`.
    """
    index, mapping = Index(space), Mapping(space)
    for layer in index.layers(target):
        blocks = distinct_blocks(layer)
        if not len(blocks):
            continue
        low, high = _point(blocks.min(axis=0)), _point(blocks.max(axis=0))
        where: dict[Point, list[int]] = {}
        mine = {_point(block) for block in blocks.tolist()}
        for other in others:
            for theirs in index.layers(other, (low, high)):
                for block in distinct_blocks(theirs).tolist():
                    if (at := _point(block)) in mine:
                        where.setdefault(at, []).append(other)
        for coords, held in read_blocks(space, layout, 0, np.array(sorted(where), np.int32).reshape(-1, 3)):
            for coord, block in zip(coords.tolist(), held, strict=True):
                here = _surface(_mask_of(block, mapping, target))
                if not len(here):
                    continue
                tree = cKDTree(here)
                for other in where[_point(coord)]:
                    there = _surface(_mask_of(block, mapping, other))
                    if len(there):
                        yield BlockDistance(_point(coord), other, float(tree.query(there, k=1)[0].min()))
