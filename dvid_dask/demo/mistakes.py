"""Mistakes of an automatic segmentation, put into a perfect one, for a proofreader to find.

One neuron is left in two bodies (a false split, mended by a merge) and two neurons that touch are taken for one body (a
false merger, mended by a cleave). Both are chosen so that one slice shows them well.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dvid_dask.demo.volume import Volume

__all__ = ["Mistakes", "border_of", "make_mistakes"]

U64 = npt.NDArray[np.uint64]


class Mistakes(NamedTuple):
    """An agglomeration with two mistakes, and what it takes to mend them."""

    body_of: dict[int, int]
    """Body of each supervoxel, as the automatic segmentation has it."""
    z: int
    """The slice that shows both mistakes."""
    split: tuple[int, int]
    """Two bodies that are one neuron: merge the second into the first."""
    merger: int
    """The body that holds two neurons."""
    cleave: list[int]
    """Supervoxels of that body that belong to the other neuron: cleave them off."""


def make_mistakes(volume: Volume) -> Mistakes:
    """Choose the two mistakes.

    Raises
    ------
    ValueError
        Where the volume is too small to show both in one slice.
    """
    neuron = _table(volume.body_of)
    pairs = _contacts(volume.supervoxels)
    depth = len(volume.supervoxels)
    sizes = np.bincount(volume.supervoxels.ravel(), minlength=len(neuron))
    best: tuple[float, int, tuple[int, int], tuple[int, int]] | None = None
    for z in range(depth // 6, depth - depth // 6, max(1, depth // 32)):
        chosen = _in_slice(volume.supervoxels[z], neuron, sizes, pairs)
        if chosen is not None and (best is None or chosen[0] > best[0]):
            best = (chosen[0], z, chosen[1], chosen[2])
    if best is None:
        raise ValueError(
            f"no slice of a volume of shape {volume.supervoxels.shape} shows both mistakes: make it larger"
        )
    _, z, (a, b), (p, q) = best

    body_of = dict(volume.body_of)
    stray = _side_of(b, a, neuron, pairs)
    keep = min(sv for sv, body in body_of.items() if body == neuron[a] and sv not in stray)
    for sv, body in volume.body_of.items():
        if body == neuron[a]:
            body_of[sv] = min(stray) if sv in stray else keep
    for sv, body in volume.body_of.items():
        if body in (p, q):
            body_of[sv] = min(p, q)
    return Mistakes(
        body_of=body_of,
        z=z,
        split=(keep, min(stray)),
        merger=min(p, q),
        cleave=sorted(sv for sv, body in volume.body_of.items() if body == max(p, q)),
    )


def _in_slice(
    plane: U64, neuron: U64, sizes: npt.NDArray[np.int64], pairs: dict[tuple[int, int], int]
) -> tuple[float, tuple[int, int], tuple[int, int]] | None:
    """The best false split and false merger that a slice can show, with a score."""
    area = np.bincount(plane.ravel(), minlength=len(neuron))
    body_area: dict[int, int] = defaultdict(int)
    for sv in np.flatnonzero(area):
        body_area[int(neuron[sv])] += int(area[sv])
    touching = _contacts(plane[None])

    def worth(first: int, second: int, contact: int) -> float:
        # large on both sides, with a border that can be seen; neither fills the picture
        return float(min(first, second, plane.size * 0.04) ** 0.5 * min(contact, 40))

    between: dict[tuple[int, int], int] = defaultdict(int)
    for (a, b), n in touching.items():
        if neuron[a] != neuron[b]:
            p, q = sorted((int(neuron[a]), int(neuron[b])))
            between[p, q] += n
    splits = []
    for (a, b), n in touching.items():
        if neuron[a] == neuron[b] and (a, b) in pairs:
            side = _side_of(b, a, neuron, pairs)
            stray = int(sizes[list(side)].sum())
            rest = int(sizes[neuron == neuron[a]].sum()) - stray
            if rest > 0 and a not in side:
                splits.append((worth(int(area[a]), int(area[b]), n) * min(stray, rest) ** 0.5, (a, b)))
    mergers = [(worth(body_area[p], body_area[q], n), (p, q)) for (p, q), n in between.items()]
    for split_worth, (a, b) in sorted(splits, reverse=True)[:3]:
        torn = int(neuron[a])
        for merger_worth, (p, q) in sorted(mergers, reverse=True):
            # apart from each other, so that one can tell them apart
            if torn not in (p, q) and not any((min(torn, o), max(torn, o)) in between for o in (p, q)):
                return split_worth * merger_worth, (a, b), (p, q)
    return None


def border_of(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The middle (y, x) of the border that two parts of a slice share: the point of it nearest to its centre.

    Raises
    ------
    ValueError
        Where they don't touch.
    """
    ends = []
    for axis in (0, 1):
        a, b = np.moveaxis(first, axis, 0), np.moveaxis(second, axis, 0)
        touch = np.zeros(first.shape, bool)
        np.moveaxis(touch, axis, 0)[:-1] = (a[:-1] & b[1:]) | (b[:-1] & a[1:])
        ends.append(np.argwhere(touch))
    border = np.concatenate(ends)
    if not len(border):
        raise ValueError("the two parts don't touch in this slice")
    middle = border[np.argmin(np.linalg.norm(border - border.mean(axis=0), axis=1))]
    return float(middle[0]), float(middle[1])


def _contacts(supervoxels: U64) -> dict[tuple[int, int], int]:
    """Faces that each pair of supervoxels shares."""
    found: dict[tuple[int, int], int] = defaultdict(int)
    for axis in range(3):
        low = np.moveaxis(supervoxels, axis, 0)[:-1]
        high = np.moveaxis(supervoxels, axis, 0)[1:]
        apart = low != high
        ends = np.sort(np.stack([low[apart], high[apart]], axis=1), axis=1)
        pairs, counts = np.unique(ends, axis=0, return_counts=True)
        for (a, b), n in zip(pairs.tolist(), counts.tolist(), strict=True):
            found[a, b] += n
    return found


def _side_of(start: int, other: int, neuron: U64, pairs: dict[tuple[int, int], int]) -> set[int]:
    """The supervoxels of a neuron that are nearer to `start` than to `other`, counted in steps between neighbours."""
    neighbours: dict[int, list[int]] = defaultdict(list)
    for (a, b), n in pairs.items():
        if neuron[a] == neuron[b] == neuron[start] and n > 20:
            neighbours[a].append(b)
            neighbours[b].append(a)
    side = {other: other, start: start}
    queue = deque([other, start])
    while queue:
        here = queue.popleft()
        for there in neighbours[here]:
            if there not in side:
                side[there] = side[here]
                queue.append(there)
    return {sv for sv, end in side.items() if end == start}


def _table(body_of: dict[int, int]) -> U64:
    """The mapping as an array, indexed by supervoxel."""
    table = np.zeros(max(body_of) + 1, np.uint64)
    table[list(body_of)] = list(body_of.values())
    return table
