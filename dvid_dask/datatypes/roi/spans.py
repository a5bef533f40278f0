"""Sets of blocks as spans: integer arrays (n, 4) of z, y, x0, x1 in block coordinates, x1 inside.

Spans are kept as they were given, sorted and without repetition; they may overlap. What is computed from them works on
*disjoint* spans, that neither overlap nor touch: a block is in one of them or in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["INT32_MAX", "INT32_MIN", "Lookup", "as_integers", "as_spans", "disjoint", "fill", "row_keys"]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

#: Takes int32 to 0 .. 2^32-1 in the same order.
_BIAS = 1 << 31


def as_integers(values: ArrayLike, columns: int, what: str) -> NDArray[np.int64]:
    """Rows of whole numbers.

    Raises
    ------
    BadRequest
        Another shape, or what is no signed 64-bit integer.

    Examples
    --------
    >>> as_integers([], 3, "points").shape
    (0, 3)
    >>> as_integers([[1.5, 2, 3]], 3, "points")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: points are integers of shape (n, 3), not float64 of shape (1, 3)
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise BadRequest(f"{what} are integers of shape (n, {columns}): {error}") from None
    if not array.size and array.ndim <= 2:
        return np.empty((0, columns), np.int64)
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
        raise BadRequest(f"{what} are integers of shape (n, {columns}), not {array.dtype} of shape {array.shape}")
    if array.dtype == np.uint64 and int(array.max()) > np.iinfo(np.int64).max:
        raise BadRequest(f"{what}: {int(array.max())} is no signed 64-bit integer")
    return array.astype(np.int64, copy=False)


def as_spans(values: ArrayLike) -> NDArray[np.int32]:
    """Spans in order of z, y, x0, x1, each once.

    Raises
    ------
    BadRequest
        No integers (n, 4), one outside int32, or a span that ends before it begins.

    Examples
    --------
    >>> as_spans([[1, 0, 5, 9], [0, 3, 2, 2], [1, 0, 5, 9]])
    array([[0, 3, 2, 2],
           [1, 0, 5, 9]], dtype=int32)
    >>> as_spans([[0, 0, 2, 1]])
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: span 0, [0, 0, 2, 1] (z, y, x0, x1), ends before it begins
    """
    spans = as_integers(values, 4, "spans")
    if not len(spans):
        return np.empty((0, 4), np.int32)
    if int(spans.min()) < INT32_MIN or int(spans.max()) > INT32_MAX:
        raise BadRequest(
            f"spans lie within signed 32-bit integers: {int(spans.min())} to {int(spans.max())} were given"
        )
    inverted = np.flatnonzero(spans[:, 3] < spans[:, 2])
    if len(inverted):
        n = int(inverted[0])
        raise BadRequest(f"span {n}, {spans[n].tolist()} (z, y, x0, x1), ends before it begins")
    ordered = spans[np.lexsort(spans.T[::-1])].astype(np.int32)
    again = (ordered[1:] == ordered[:-1]).all(axis=1)
    kept: NDArray[np.int32] = ordered[np.concatenate([[True], ~again])]
    return kept


def row_keys(z: NDArray[Any], y: NDArray[Any]) -> NDArray[np.uint64]:
    """One number for each pair within int32; their order is that of z, then y."""
    high = (z.astype(np.int64) + _BIAS).astype(np.uint64) << np.uint64(32)
    keys: NDArray[np.uint64] = high | (y.astype(np.int64) + _BIAS).astype(np.uint64)
    return keys


def disjoint(spans: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    """The same blocks in spans that neither overlap nor touch.

    Parameters
    ----------
    spans
        Sorted, as from `as_spans`.

    Examples
    --------
    >>> disjoint(as_spans([[0, 0, 0, 9], [0, 0, 2, 3], [0, 0, 10, 12], [0, 0, 14, 14], [0, 1, 13, 15]])).tolist()
    [[0, 0, 0, 12], [0, 0, 14, 14], [0, 1, 13, 15]]
    """
    wide = spans.astype(np.int64)
    if len(wide) < 2:
        return wide
    z, y, x0, x1 = wide.T
    new_row = np.concatenate([[True], (z[1:] != z[:-1]) | (y[1:] != y[:-1])])
    # the furthest end so far in each row: rows are numbered, so that a maximum never reaches into the next one
    row = (np.cumsum(new_row) - 1) << 33
    furthest = np.maximum.accumulate(row + x1 + _BIAS)
    first = new_row.copy()
    first[1:] |= row[1:] + x0[1:] + _BIAS > furthest[:-1] + 1
    begins = np.flatnonzero(first)
    last = np.concatenate([begins[1:], [len(wide)]]) - 1
    return np.column_stack([z[begins], y[begins], x0[begins], (furthest - row - _BIAS)[last]])


class Lookup:
    """Finds blocks in disjoint spans."""

    def __init__(self, spans: NDArray[np.int64]) -> None:
        self._rows, self._row = np.unique(row_keys(spans[:, 0], spans[:, 1]), return_inverse=True)
        self._starts = (self._row.astype(np.int64) << 33) + spans[:, 2] + _BIAS
        self._ends = spans[:, 3]

    def contains(self, blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether blocks (n, 3; z, y, x, within int32) lie in one of the spans."""
        if not len(self._starts):
            return np.zeros(len(blocks), np.bool_)
        keys = row_keys(blocks[:, 0], blocks[:, 1])
        row = np.minimum(np.searchsorted(self._rows, keys), len(self._rows) - 1)
        at = np.searchsorted(self._starts, (row << 33) + blocks[:, 2] + _BIAS, "right") - 1
        found = np.maximum(at, 0)
        inside: NDArray[np.bool_] = (
            (self._rows[row] == keys) & (at >= 0) & (self._row[found] == row) & (blocks[:, 2] <= self._ends[found])
        )
        return inside


def fill(spans: NDArray[np.int64], start: Sequence[int], out: NDArray[np.bool_]) -> None:
    """Set the blocks of disjoint spans in an array whose first element is the block `start` (z, y, x)."""
    depth, height, width = out.shape
    z, y = spans[:, 0] - start[0], spans[:, 1] - start[1]
    x0 = np.maximum(spans[:, 2] - start[2], 0)
    stop = np.minimum(spans[:, 3] - start[2] + 1, width)
    inside = (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x0 < stop)
    z, y, x0, stop = z[inside], y[inside], x0[inside], stop[inside]
    # +1 where a span begins, -1 behind its end; spans don't touch, so no place is used twice
    steps = np.zeros((depth, height, width + 1), np.int8)
    steps[z, y, x0] = 1
    steps[z, y, stop] = -1
    np.logical_or(out, np.cumsum(steps, axis=2, dtype=np.int8)[:, :, :width], out=out)
