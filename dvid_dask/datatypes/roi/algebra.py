"""Algebra of sets of blocks, on disjoint spans: int64 (n, 4) of z, y, x0, x1, sorted, that neither overlap nor touch.

Rows are laid end to end along one line, so that a set is an ascending list of places where it begins and ends, and a
combination of two sets is a merge of two such lists. Nothing costs more than there are spans, however long they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct

from .spans import INT32_MAX, INT32_MIN, disjoint, row_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Spans = NDArray[np.int64]
    Axis = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["MAX_SPANS", "combine", "components", "dilate", "erode", "from_blocks", "rescale_any", "rescale_middle"]

MAX_SPANS = 1 << 26
"""Most spans that an intermediate result may have: 2 GiB of them."""

_BIAS = 1 << 31
_ROW_BITS = 33


def _empty() -> Spans:
    return np.empty((0, 4), np.int64)


def _check_count(n: int) -> None:
    if n > MAX_SPANS:
        raise BadRequest(
            f"the region would be made of {n:,} spans; up to {MAX_SPANS:,} are possible: use larger blocks"
        )


def _sorted_disjoint(spans: Spans) -> Spans:
    """Spans in any order, with overlaps, as disjoint ones."""
    order = np.lexsort((spans[:, 2], spans[:, 1], spans[:, 0]))
    return disjoint(spans[order])


def from_blocks(blocks: NDArray[np.integer]) -> Spans:
    """Blocks (n, 3; z, y, x, within int32), in any order and with repetitions, as disjoint spans.

    Examples
    --------
    >>> from_blocks(np.array([[0, 0, 5], [0, 0, 4], [0, 1, 4], [0, 0, 5]])).tolist()
    [[0, 0, 4, 5], [0, 1, 4, 4]]
    """
    if not len(blocks):
        return _empty()
    wide = blocks.astype(np.int64, copy=False)
    return _sorted_disjoint(np.column_stack([wide, wide[:, 2]]))


def combine(a: Spans, b: Spans, keep: Callable[[Bools, Bools], Bools]) -> Spans:
    """The blocks for which `keep(in a, in b)`; what is in neither can't be among them.

    Examples
    --------
    >>> a, b = np.array([[0, 0, 0, 9]]), np.array([[0, 0, 4, 5], [1, 0, 4, 5]])
    >>> combine(a, b, lambda in_a, in_b: in_a & ~in_b).tolist()
    [[0, 0, 0, 3], [0, 0, 6, 9]]
    """
    keys = np.concatenate([row_keys(s[:, 0], s[:, 1]) for s in (a, b)])
    rows, row = np.unique(keys, return_inverse=True)
    edges_a, edges_b = _edges(a, row[: len(a)]), _edges(b, row[len(a) :])
    # no two ends of rows coincide: places of a row are closed before those of the next one begin
    places = distinct(np.concatenate([edges_a, edges_b]))
    inside = keep(*((np.searchsorted(edges, places, "right") & 1).astype(np.bool_) for edges in (edges_a, edges_b)))
    change = np.flatnonzero(np.diff(inside, prepend=False))
    begins, ends = places[change[0::2]], places[change[1::2]]
    _check_count(len(begins))
    which = rows[begins >> _ROW_BITS]
    low = (1 << _ROW_BITS) - 1
    z = (which >> np.uint64(32)).astype(np.int64) - _BIAS
    y = (which & np.uint64(0xFFFFFFFF)).astype(np.int64) - _BIAS
    return np.column_stack([z, y, (begins & low) - _BIAS, (ends & low) - _BIAS - 1])


def _edges(spans: Spans, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where spans begin and where they have ended, in turn, all rows on one line."""
    base = (row.astype(np.int64) << _ROW_BITS) + _BIAS
    return np.column_stack([base + spans[:, 2], base + spans[:, 3] + 1]).reshape(-1)


def _union(a: Spans, b: Spans) -> Spans:
    return combine(a, b, np.logical_or)


def _intersection(a: Spans, b: Spans) -> Spans:
    return combine(a, b, np.logical_and)


# ---------------------------------------------------------------------- neighbourhoods


def dilate(spans: Spans, by: tuple[int, int, int]) -> Spans:
    """All blocks within so many (z, y, x) of one of the set, along each axis; those outside int32 are left out."""
    if not len(spans):
        return spans
    wide = spans.copy()
    wide[:, 2] = np.maximum(spans[:, 2] - by[2], INT32_MIN)
    wide[:, 3] = np.minimum(spans[:, 3] + by[2], INT32_MAX)
    return _along_rows(disjoint(wide), by, _union)


def erode(spans: Spans, by: tuple[int, int, int]) -> Spans:
    """All blocks whose neighbours within so many (z, y, x) along each axis are all in the set."""
    narrow = spans.copy()
    narrow[:, 2] += by[2]
    narrow[:, 3] -= by[2]
    return _along_rows(narrow[narrow[:, 2] <= narrow[:, 3]], by, _intersection)


def _along_rows(spans: Spans, by: tuple[int, int, int], join: Callable[[Spans, Spans], Spans]) -> Spans:
    for axis in (1, 0):
        if by[axis]:
            spans = join(_window(spans, axis, by[axis], join), _window(spans, axis, -by[axis], join))
    return spans


def _window(spans: Spans, axis: int, reach: int, join: Callable[[Spans, Spans], Spans]) -> Spans:
    """The set joined with itself moved by 1, 2, ... `reach`, in as many steps as `reach` has bits."""
    sign, width, target = (1 if reach > 0 else -1), 1, abs(reach) + 1
    while width < target:
        step = min(width, target - width)
        # all steps go one way, so what has left the coordinates is not needed again
        spans = join(spans, _moved(spans, axis, sign * step))
        width += step
    return spans


def _moved(spans: Spans, axis: int, by: int) -> Spans:
    moved = spans.copy()
    moved[:, axis] += by
    inside: Spans = moved[(moved[:, axis] >= INT32_MIN) & (moved[:, axis] <= INT32_MAX)]
    return inside


# ---------------------------------------------------------------------- other block sizes


def _stretch(spans: Spans, axis: int, first: NDArray[np.int64], last: NDArray[np.int64]) -> Spans:
    """Each span once for every row first..last along an axis."""
    count = np.maximum(last - first + 1, 0)
    total = int(count.sum())
    _check_count(total)
    out = np.repeat(spans, count, axis=0)
    out[:, axis] = np.repeat(first - np.cumsum(count) + count, count) + np.arange(total)
    return out


def rescale_any(spans: Spans, old: tuple[int, int, int], new: tuple[int, int, int]) -> Spans:
    """Blocks of the shape `new` that have a voxel in blocks of the shape `old` (voxels, z, y, x)."""

    def between(first: Axis, last: Axis, axis: int) -> tuple[Axis, Axis]:
        return first * old[axis] // new[axis], ((last + 1) * old[axis] - 1) // new[axis]

    return _rescaled(spans, between)


def rescale_middle(spans: Spans, old: tuple[int, int, int], new: tuple[int, int, int]) -> Spans:
    """Blocks of the shape `new` whose middle voxel is in blocks of the shape `old` (voxels, z, y, x)."""

    def between(first: Axis, last: Axis, axis: int) -> tuple[Axis, Axis]:
        half = new[axis] // 2
        return -((half - first * old[axis]) // new[axis]), ((last + 1) * old[axis] - 1 - half) // new[axis]

    return _rescaled(spans, between)


def _rescaled(spans: Spans, between: Callable[[Axis, Axis, int], tuple[Axis, Axis]]) -> Spans:
    x0, x1 = between(spans[:, 2], spans[:, 3], 2)
    made = np.column_stack([spans[:, :2], x0, x1])
    made = made[made[:, 2] <= made[:, 3]]
    for axis in (1, 0):
        made = _stretch(made, axis, *between(made[:, axis], made[:, axis], axis))
    if len(made) and (int(made.min()) < INT32_MIN or int(made.max()) > INT32_MAX):
        raise BadRequest("in blocks of that size the region leaves signed 32-bit block coordinates")
    return _sorted_disjoint(made) if len(made) else _empty()


# ---------------------------------------------------------------------- components


def components(spans: Spans, corners: bool) -> tuple[int, NDArray[np.int64]]:
    """Number of connected parts, and which one each span is in.

    Parameters
    ----------
    spans
        Disjoint.
    corners
        Blocks that share an edge or a corner are connected, not only those that share a face.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(spans)
    if not n:
        return 0, np.empty(0, np.int64)
    pairs = [np.empty((2, 0), np.int64), *_contacts(spans, corners)]
    a, b = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(n, n))
    count, which = connected_components(graph, directed=False)
    return int(count), which.astype(np.int64)


def _contacts(spans: Spans, corners: bool) -> Iterator[NDArray[np.int64]]:
    """Pairs of numbers of spans that touch, from each row to those that follow it."""
    rows, row = np.unique(row_keys(spans[:, 0], spans[:, 1]), return_inverse=True)
    base = (row.astype(np.int64) << _ROW_BITS) + _BIAS
    starts, ends = base + spans[:, 2], base + spans[:, 3]
    reach = int(corners)
    for dz, dy in ((0, 1), (1, -1), (1, 0), (1, 1)) if corners else ((0, 1), (1, 0)):
        z, y = spans[:, 0] + dz, spans[:, 1] + dy
        here = np.flatnonzero((z <= INT32_MAX) & (y <= INT32_MAX) & (y >= INT32_MIN))
        wanted = row_keys(z[here], y[here])
        at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
        known = rows[at] == wanted
        here, at = here[known], at[known].astype(np.int64)
        there = (at << _ROW_BITS) + _BIAS
        # reach stays in the row: one place before the first and behind the last block belongs to no span
        first = np.searchsorted(ends, there + spans[here, 2] - reach, "left")
        stop = np.searchsorted(starts, there + spans[here, 3] + reach, "right")
        count = np.maximum(stop - first, 0)
        other = np.repeat(first - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        yield np.stack([np.repeat(here, count), other])
