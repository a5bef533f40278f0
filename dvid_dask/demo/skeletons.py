"""Branching neurites grown into a box: the centre lines that the synthetic volume is built around.

A neurite is a chain of *sites*, spheres a few voxels apart. Thick trunks cross the box first, thin ones find their way
between them, branches leave their trunks, and at last short twigs are grown into every place that is still far from
all of them. So processes fill space as they do in neuropil, and none runs through another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvid_dask.formats._jit import kernel

__all__ = ["Skeletons", "grow"]

STEP = 2.5  # voxels between sites of a chain
CELL = 4  # edge in voxels of a cell of the clearance grid
MARGIN = 24  # chains go on this far outside the box, so that its faces look like cuts through something larger
WIDEST_GAP = 15.0  # no place is left further than this from the surface of a site


@dataclass(frozen=True)
class Skeletons:
    """All sites, in arrays of one row each; rows of one chain are consecutive.

    Attributes
    ----------
    position
        (n, 3) float32, z y x in voxels.
    tangent
        (n, 3) float32, unit vectors along the chain.
    radius
        (n,) float32, in voxels.
    neuron
        (n,) int32, from 0.
    chain
        (n,) int32, from 0.
    """

    position: npt.NDArray[np.float32]
    tangent: npt.NDArray[np.float32]
    radius: npt.NDArray[np.float32]
    neuron: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]

    def chains(self) -> Iterator[slice]:
        """The rows of each chain."""
        starts = np.flatnonzero(np.diff(self.chain, prepend=-1))
        for first, last in zip(starts, [*starts[1:], len(self.chain)], strict=True):
            yield slice(int(first), int(last))


@kernel
def _clearance_at(grid: npt.NDArray[np.float32], p: npt.NDArray[np.float64]) -> float:
    """Distance from a point to the nearest surface grown so far, by the cell the point lies in."""
    i = int((p[0] + MARGIN) // CELL)
    j = int((p[1] + MARGIN) // CELL)
    k = int((p[2] + MARGIN) // CELL)
    if i < 0 or j < 0 or k < 0 or i >= grid.shape[0] or j >= grid.shape[1] or k >= grid.shape[2]:
        return 40.0
    return float(grid[i, j, k])


@kernel
def _take_space(grid: npt.NDArray[np.float32], points: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> None:
    """Lower the clearance grid around new sites."""
    for s in range(points.shape[0]):
        reach = radii[s] + 44.0
        lo = np.empty(3, np.int64)
        hi = np.empty(3, np.int64)
        for a in range(3):
            lo[a] = max(0, int((points[s, a] + MARGIN - reach) // CELL))
            hi[a] = min(grid.shape[a], int((points[s, a] + MARGIN + reach) // CELL) + 1)
        for i in range(lo[0], hi[0]):
            dz = (i + 0.5) * CELL - MARGIN - points[s, 0]
            for j in range(lo[1], hi[1]):
                dy = (j + 0.5) * CELL - MARGIN - points[s, 1]
                for k in range(lo[2], hi[2]):
                    dx = (k + 0.5) * CELL - MARGIN - points[s, 2]
                    d = np.sqrt(dz * dz + dy * dy + dx * dx) - radii[s]
                    grid[i, j, k] = min(grid[i, j, k], d)


@kernel
def _walk(
    start: npt.NDArray[np.float64],
    heading: npt.NDArray[np.float64],
    longest: float,
    radius: float,
    shape: npt.NDArray[np.int64],
    grid: npt.NDArray[np.float32],
    noise: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Walk with inertia towards free space, until out of the box, out of space, or out of length.

    `noise` is (steps, 6, 3): six candidate headings a step, of which the one with most room ahead is taken.
    """
    steps = min(int(longest / STEP) + 1, noise.shape[0])
    path = np.empty((steps, 3), np.float64)
    here = start.copy()
    ahead = heading / np.sqrt(np.sum(heading * heading))
    cramped = 0
    n = 0
    for step in range(steps):
        path[n] = here
        n += 1
        best = -1e9
        best_heading = ahead
        for c in range(noise.shape[1]):
            candidate = ahead + 0.22 * noise[step, c]
            candidate = candidate / np.sqrt(np.sum(candidate * candidate))
            near = _clearance_at(grid, here + candidate * (radius + 5.0))
            far = _clearance_at(grid, here + candidate * (radius + 18.0))
            score = min(near, 2.0 * radius + 4.0) + 0.5 * min(far, 20.0) + 2.0 * np.sum(candidate * ahead)
            if score > best:
                best = score
                best_heading = candidate
        ahead = best_heading
        here = here + STEP * ahead
        outside = False
        for a in range(3):
            if here[a] < -MARGIN or here[a] > shape[a] + MARGIN:
                outside = True
        if outside:
            break
        # a site that would sit inside another's sphere would cut that other neurite in two
        if _clearance_at(grid, here) < 0.45 * radius:
            cramped += 1
            if cramped > 2:
                n = max(1, n - cramped)
                break
        else:
            cramped = 0
    return path[:n]


class _Growth:
    """The box while it fills up."""

    def __init__(self, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
        self.shape = np.asarray(shape, np.int64)
        self.rng = rng
        cells = tuple(-(-(n + 2 * MARGIN) // CELL) for n in shape)
        self.clearance = np.full(cells, 40.0, np.float32)
        self.paths: list[npt.NDArray[np.float64]] = []
        self.radii: list[npt.NDArray[np.float64]] = []
        self.neuron: list[int] = []
        self.neurons = 0

    def add(self, path: npt.NDArray[np.float64], radii: npt.NDArray[np.float64], neuron: int) -> None:
        self.paths.append(path)
        self.radii.append(radii)
        self.neuron.append(neuron)
        _take_space(self.clearance, path, radii)

    def new_neuron(self) -> int:
        self.neurons += 1
        return self.neurons - 1

    def walk(
        self, start: npt.NDArray[np.float64], heading: npt.NDArray[np.float64], longest: float, radius: float
    ) -> npt.NDArray[np.float64]:
        noise = self.rng.standard_normal((int(longest / STEP) + 1, 6, 3))
        return np.asarray(_walk(start, heading, longest, radius, self.shape, self.clearance, noise))

    def calibre(self, n: int, radius: float) -> npt.NDArray[np.float64]:
        """A radius that swells and narrows along the neurite (varicosities)."""
        along = np.arange(n) * STEP
        phase = self.rng.uniform(0, 2 * np.pi, 3)
        period = self.rng.uniform((60, 28, 110), (120, 50, 180))
        swell = (np.sin(2 * np.pi * along[:, None] / period + phase) * (0.16, 0.10, 0.14)).sum(axis=1)
        bouton = 0.45 * np.maximum(0, np.sin(2 * np.pi * along / period[0] + phase[1])) ** 6 * (radius < 10)
        return np.asarray(radius * np.clip(1 + swell + bouton, 0.6, 1.7))

    def point_on_surface(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """A place just outside the box with room around it, and a heading into the box."""
        tries = self.rng.uniform(-0.05, 1.05, (12, 3)) * self.shape
        for p in tries:
            axis = self.rng.integers(3)
            p[axis] = -MARGIN + 4 if self.rng.random() < 0.5 else self.shape[axis] + MARGIN - 4
        start = max(tries, key=lambda p: _clearance_at(self.clearance, p))
        target = self.rng.uniform(0.2, 0.8, 3) * self.shape
        return start, target - start

    def trunk(self, radius: float) -> None:
        start, heading = self.point_on_surface()
        if _clearance_at(self.clearance, start) < radius + 2:
            return
        path = self.walk(start, heading, 2.2 * float(self.shape.max()), radius)
        if len(path) * STEP < 60:
            return
        self.add(path, self.calibre(len(path), radius), self.new_neuron())

    def branch(self, parent: int) -> None:
        path, radii = self.paths[parent], self.radii[parent]
        if len(path) < 12:
            return
        at = int(self.rng.integers(4, len(path) - 4))
        along = path[at + 1] - path[at - 1]
        side = np.cross(along, self.rng.standard_normal(3))
        heading = side / np.linalg.norm(side) + 0.5 * along / np.linalg.norm(along)
        radius = max(3.2, 0.55 * radii[at])
        start = path[at] + heading / np.linalg.norm(heading) * (radii[at] + radius)
        if _clearance_at(self.clearance, start) < 0.5 * radius:
            return
        twig = self.walk(start, np.asarray(heading, np.float64), float(self.rng.uniform(50, 220)), float(radius))
        if len(twig) < 8:
            return
        stalk = np.linspace(path[at], start, max(2, int(radii[at] / STEP)), endpoint=False)
        calibre = self.calibre(len(twig), radius)
        path = np.concatenate([stalk, twig])
        self.add(path, np.concatenate([np.full(len(stalk), radius), calibre]), self.neuron[parent])

    def fill_emptiest(self) -> bool:
        """Grow into the emptiest place: a twig of the nearest neurite, or now and then another neurite."""
        edge = MARGIN // CELL
        inside = self.clearance[edge:-edge, edge:-edge, edge:-edge]
        cell = np.unravel_index(int(np.argmax(inside)), inside.shape)
        if inside[cell] <= WIDEST_GAP:
            return False
        there = (np.asarray(cell, np.float64) + 0.5) * CELL
        if self.rng.random() < 0.25:
            heading = self.rng.standard_normal(3)
            radius = float(self.rng.uniform(4, 7))
            halves = [self.walk(there, np.asarray(sign * heading), 300.0, radius) for sign in (1, -1)]
            path = np.concatenate([halves[0][::-1], halves[1][1:]])
            self.add(path, self.calibre(len(path), radius), self.new_neuron())
            return True
        nearest, row, gap = 0, 0, np.inf
        for number, (path, radii) in enumerate(zip(self.paths, self.radii, strict=True)):
            d = np.linalg.norm(path - there, axis=1) - radii
            at = int(np.argmin(d))
            if d[at] < gap:
                nearest, row, gap = number, at, float(d[at])
        base = self.paths[nearest][row]
        length = float(np.linalg.norm(there - base))
        t = np.linspace(0, 1, max(3, int(length / STEP)))[:, None]
        knee = (base + there) / 2 + self.rng.standard_normal(3) * 0.18 * length
        path = (1 - t) ** 2 * base + 2 * t * (1 - t) * knee + t**2 * there
        # a thin neck and a round head: a spine
        head = float(self.rng.uniform(4.5, 7.5))
        radii = 2.4 + (head - 2.4) * np.clip((t[:, 0] - 0.6) / 0.4, 0, 1) ** 0.7
        self.add(path, radii, self.neuron[nearest])
        return True

    def skeletons(self) -> Skeletons:
        tangents = []
        for path in self.paths:
            t = np.gradient(path, axis=0) if len(path) > 1 else np.ones_like(path)
            tangents.append(t / np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-6))
        lengths = [len(p) for p in self.paths]
        return Skeletons(
            position=np.concatenate(self.paths).astype(np.float32),
            tangent=np.concatenate(tangents).astype(np.float32),
            radius=np.concatenate(self.radii).astype(np.float32),
            neuron=np.repeat(np.asarray(self.neuron, np.int32), lengths),
            chain=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        )


def grow(shape: tuple[int, int, int], rng: np.random.Generator) -> Skeletons:
    """Grow neurites that fill a box of `shape` (z, y, x).

    The number of neurites goes with the box's surface area, their length with its edge: any size is equally dense.
    """
    growth = _Growth(shape, rng)
    nz, ny, nx = shape
    area = (nz * ny + ny * nx + nx * nz) / (3 * 256 * 256)
    for radius in rng.uniform(17, 25, max(1, round(5 * area))):
        growth.trunk(float(radius))
    for radius in np.sort(rng.lognormal(np.log(6.2), 0.34, max(6, round(95 * area))))[::-1]:
        growth.trunk(float(np.clip(radius, 3.6, 13)))
    trunks = len(growth.paths)
    for _ in range(2 * trunks):
        if trunks:
            growth.branch(int(rng.integers(trunks)))
    if not growth.paths:  # a box too small for any trunk still has one
        middle = np.asarray(shape, np.float64) / 2
        growth.add(middle[None] + np.zeros((1, 3)), np.full(1, 4.0), growth.new_neuron())
    while growth.fill_emptiest():
        pass
    return growth.skeletons()
