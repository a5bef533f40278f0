"""Cutting a region into subvolumes of about equal size, for work in batches.

Both ways cut layers along z, layers into rows along y, and rows into windows along x, and adapt each to what the region
covers there:

simple
    Cubes of a fixed size. What the extent is more than a multiple of the size is spread over both ends, so cubes may
    reach beyond the region.
optimized
    Boxes that are one block longer than the size along each axis until what is over is used up. Columns of a window
    that hold no block at all are left out; what remains of the window before them is joined to its neighbour.

Every block of the region lies in exactly one subvolume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from dvid_dask.errors import BadRequest

from .spans import disjoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_BATCH", "MAX_SUBVOLUMES", "Partition", "check_batch", "optimized", "simple"]

MAX_BATCH = 1 << 20
"""Largest size of a subvolume, in blocks a side: its volume has to fit a 64-bit integer."""

MAX_SUBVOLUMES = 1 << 22
"""Most subvolumes that one partition may have."""


def check_batch(batch: int) -> None:
    """Refuse a size of subvolumes that can't be.

    Raises
    ------
    BadRequest
        It is not from 1 to 2^20.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise BadRequest(f"a batch size of {batch} blocks: expected 1 to {MAX_BATCH}")


class Layers(Protocol):
    """Gives the spans (sorted) with z in start..last."""

    def __call__(self, first: int, last: int) -> NDArray[np.signedinteger]: ...


class Partition(msgspec.Struct, frozen=True):
    """A region cut into subvolumes, in blocks; coordinates are z, y, x.

    Attributes
    ----------
    start, stop : ndarray of int64
        First and one past the last block of each subvolume, (n, 3).
    active : ndarray of int64
        Blocks of the region in each subvolume.
    bounds : tuple of tuple, or None
        First and one past the last block of the whole region; None when it is empty.
    block_shape : tuple of int
        Voxels of a block.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    active: NDArray[np.int64]
    bounds: tuple[tuple[int, int, int], tuple[int, int, int]] | None
    block_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def total(self) -> NDArray[np.int64]:
        """Blocks of each subvolume, in the region or not."""
        volumes: NDArray[np.int64] = np.prod(self.stop - self.start, axis=1)
        return volumes

    def voxels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and one past the last voxel of each subvolume, (n, 3)."""
        shape = np.array(self.block_shape, np.int64)
        return self.start * shape, self.stop * shape


class _Boxes:
    """Subvolumes, as they come."""

    def __init__(self) -> None:
        self.start: list[NDArray[np.int64]] = []
        self.stop: list[NDArray[np.int64]] = []
        self.active: list[NDArray[np.int64]] = []
        self.count = 0

    def check(self, more: int) -> None:
        if self.count + more > MAX_SUBVOLUMES:
            raise BadRequest(
                f"the region would be cut into more than {MAX_SUBVOLUMES} subvolumes: choose a larger batch size"
            )

    def add(self, start: NDArray[np.int64], stop: NDArray[np.int64], active: NDArray[np.int64]) -> None:
        self.check(len(start))
        self.count += len(start)
        self.start.append(start)
        self.stop.append(stop)
        self.active.append(active)

    def finish(self, bounds: _Bounds, block_shape: tuple[int, int, int]) -> Partition:
        if not self.count:
            none = np.empty((0, 3), np.int64)
            return Partition(none, none, np.empty(0, np.int64), None, block_shape)
        joined = np.concatenate(self.start), np.concatenate(self.stop), np.concatenate(self.active)
        return Partition(*joined, bounds.get(), block_shape)


class _Bounds:
    """Extents of what was seen."""

    def __init__(self) -> None:
        self._low = [0, 0, 0]
        self._high = [0, 0, 0]
        self._any = False

    def see(self, spans: NDArray[np.int64]) -> None:
        low = [int(v) for v in spans[:, :3].min(axis=0)]
        high = [int(v) + 1 for v in spans[:, [0, 1, 3]].max(axis=0)]
        self._low = list(map(min, self._low, low)) if self._any else low
        self._high = list(map(max, self._high, high)) if self._any else high
        self._any = True

    def get(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        (a, b, c), (d, e, f) = self._low, self._high
        return (a, b, c), (d, e, f)


def _layers(
    layers: Layers, zs: Sequence[int], first: int, size: int, extra: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Layers that hold something: first and last z, and their spans, disjoint.

    All are `size` deep; `extra` of them after the first are one deeper.
    """
    at = 0
    longer = first + size  # where the deeper ones begin
    usual = longer + extra * (size + 1)  # and where they end
    while at < len(zs):
        z = zs[at]
        if z < longer or z >= usual:
            past = extra if z >= usual else 0
            begin = first + past + (z - first - past) // size * size
            last = begin + size - 1
        else:
            begin = longer + (z - longer) // (size + 1) * (size + 1)
            last = begin + size
        while at < len(zs) and zs[at] <= last:
            at += 1
        yield begin, last, disjoint(layers(begin, last))


def simple(layers: Layers, zs: Sequence[int], batch: int, block_shape: tuple[int, int, int]) -> Partition:
    """Cut into cubes of a fixed size; see the module.

    Parameters
    ----------
    layers
        Gives the spans of some z.
    zs
        Each z of which there are spans, ascending.
    batch
        Blocks of a cube's side.
    block_shape
        Voxels of a block, z, y, x.

    Raises
    ------
    BadRequest
        There would be too many.
    """
    boxes, bounds = _Boxes(), _Bounds()
    first = zs[0] - (zs[-1] - zs[0] + 1) % batch // 2 if zs else 0
    for begin, _, spans in _layers(layers, zs, first, batch, 0):
        bounds.see(spans)
        y = spans[:, 1]
        low, high = int(y.min()), int(y.max())
        y_first = low - (high - low + 1) % batch // 2
        rows, row = np.unique((y - y_first) // batch, return_inverse=True)
        which, x_first, active = _windows(spans, row, len(rows), batch, boxes)
        start = np.column_stack([np.full(len(which), begin), y_first + rows[which] * batch, x_first])
        boxes.add(start, start + batch, active)
    return boxes.finish(bounds, block_shape)


def _windows(
    spans: NDArray[np.int64], row: NDArray[np.int64], count: int, batch: int, boxes: _Boxes
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The windows that hold blocks: in which row, where they begin, how many they hold.

    Costs what there are spans and windows, however long a span is: windows that a span covers from end to end are found
    as stretches between its first and its last window.
    """
    x0, x1 = spans[:, 2], spans[:, 3]
    low = np.full(count, np.iinfo(np.int64).max)
    high = np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(low, row, x0)
    np.maximum.at(high, row, x1)
    first = low - (high - low + 1) % batch // 2
    offset = first[row]
    head, tail = (x0 - offset) // batch, (x1 - offset) // batch
    # windows of all rows, numbered
    width = int(tail.max()) + 2
    base = row * width
    within = head == tail
    partial = np.concatenate([base + head, (base + tail)[~within]])
    blocks = np.concatenate(
        [
            np.where(within, x1 - x0 + 1, offset + (head + 1) * batch - x0),
            (x1 - offset - tail * batch + 1)[~within],
        ]
    )
    long = tail - head > 1
    places, at = np.unique(np.concatenate([(base + head + 1)[long], (base + tail)[long]]), return_inverse=True)
    change = np.zeros(len(places), np.int64)
    np.add.at(change, at, np.repeat([batch, -batch], int(long.sum())))
    level = np.cumsum(change)[:-1] if len(places) else change
    lengths = np.diff(places) * (level > 0)
    boxes.check(int(lengths.sum()))
    covered = np.repeat(places[:-1] - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
    windows, at = np.unique(np.concatenate([partial, covered]), return_inverse=True)
    active = np.zeros(len(windows), np.int64)
    np.add.at(active, at, np.concatenate([blocks, np.repeat(level, lengths)]))
    which = windows // width
    return which, first[which] + windows % width * batch, active


def optimized(layers: Layers, zs: Sequence[int], batch: int, block_shape: tuple[int, int, int]) -> Partition:
    """Cut into boxes that fit the region; see the module. Parameters and errors as `simple`."""
    boxes, bounds = _Boxes(), _Bounds()
    extra = (zs[-1] - zs[0] + 1) % batch if zs else 0
    for begin, last, spans in _layers(layers, zs, zs[0] if zs else 0, batch, extra):
        bounds.see(spans)
        y = spans[:, 1]
        low, high = int(y.min()), int(y.max())
        over = (high - low + 1) % batch
        taller = over * (batch + 1)
        far = y - low
        row = np.where(far < taller, far // (batch + 1), (far - over) // batch)
        order = np.argsort(row, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(row[order])) + 1):
            n = int(row[part[0]])
            y_first = low + n * batch + min(n, over)
            y_stop = y_first + batch + (n < over)
            x_first, x_stop, active = _fit(spans[part, 2], spans[part, 3], batch, boxes)
            size = len(x_first)
            start = np.column_stack([np.full(size, begin), np.full(size, y_first), x_first])
            stop = np.column_stack([np.full(size, last + 1), np.full(size, y_stop), x_stop])
            boxes.add(start, stop, active)
    return boxes.finish(bounds, block_shape)


def _fit(
    x0: NDArray[np.int64], x1: NDArray[np.int64], batch: int, boxes: _Boxes
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Windows of a row from its spans' ends: begin, one past the end, blocks held."""
    order = np.argsort(x0)
    furthest = np.maximum.accumulate(x1[order])
    gap = np.flatnonzero(x0[order][1:] > furthest[:-1] + 1)
    # stretches of columns that hold something, with nothing between one and the next
    begins = x0[order][np.concatenate([[0], gap + 1])].tolist()
    stops = (furthest[np.concatenate([gap, [len(x0) - 1]])] + 1).tolist()
    # at least so many will come: too many are refused before they are counted one by one
    boxes.check(sum(max(0, (stop - begin) // (batch + 1) - 1) for begin, stop in zip(begins, stops, strict=True)))
    over = (stops[-1] - begins[0]) % batch
    out: list[tuple[int, int]] = []
    at, n = begins[0], 0
    while n < len(begins):
        # windows that lie before the next stretch as a whole hold nothing
        ahead = begins[n] - at
        if ahead > 0:
            skipped = min(over, ahead // (batch + 1))
            at, over = at + skipped * (batch + 1), over - skipped
            if not over:
                at += (begins[n] - at) // batch * batch
        stop = at + batch + (over > 0)
        over -= over > 0
        hole, end = _longest_hole(begins, stops, n, at, stop)
        if hole == end:
            out.append((at, stop))
            at = stop
        else:
            if hole > at:
                if out and out[-1][1] == at:
                    out[-1] = out[-1][0], hole
                else:
                    out.append((at, hole))
            at = end
        boxes.check(len(out))
        while n < len(begins) and stops[n] <= at:
            n += 1
    first = np.array([a for a, _ in out], np.int64)
    past = np.array([b for _, b in out], np.int64)
    return first, past, _held(x0, x1, past) - _held(x0, x1, first)


def _longest_hole(begins: Sequence[int], stops: Sequence[int], n: int, at: int, stop: int) -> tuple[int, int]:
    """The first of the longest runs of empty columns in [at, stop): begin and end, equal when there is none."""
    best = (stop, stop)
    free = at
    while True:
        until = min(begins[n], stop) if n < len(begins) else stop
        if until - free > best[1] - best[0]:
            best = free, until
        if n == len(begins) or stops[n] >= stop or begins[n] >= stop:
            return best
        free = stops[n]
        n += 1


def _held(x0: NDArray[np.int64], x1: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of blocks of spans before each of some columns."""
    total = np.zeros(len(x), np.int64)
    for ends, sign in ((np.sort(x0), 1), (np.sort(x1 + 1), -1)):
        before = np.searchsorted(ends, x)
        sums = np.concatenate([[0], np.cumsum(ends)])
        total += sign * (before * x - sums[before])
    return total
