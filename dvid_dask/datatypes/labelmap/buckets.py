"""The supervoxels of a large body, in hash buckets: voxels of each, and a box of the regions it occurs in.

A bucket is a packed table of eight columns: ids, ascending; voxels; the first and the last region (z, y, x) of each, in
units of 16 blocks, shifted to be positive. A box grows by the regions in which its supervoxel gets voxels, and never
shrinks. Buckets grow by linear hashing, one split at a time: with 2^k < n <= 2^(k+1) buckets, those below n - 2^k have
been split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap.columns import pack_groups, rows_with, unpack, unpack_groups
from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Bucket",
    "bucket_changes",
    "bucket_of",
    "bucket_table",
    "change_bucket",
    "no_supervoxels",
    "split_bucket",
    "write_bucket",
]

_COLUMNS = 8
_OFFSET = np.int64(1 << 31)
_EMPTY = np.empty((_COLUMNS, 0), np.uint64)
#: A box that any other one contains, so far as the union of both goes.
_FIRST, _LAST = np.uint64((1 << 31) + (1 << 30)), np.uint64((1 << 31) - (1 << 30))


@dataclass
class Bucket:
    """Rows of the supervoxel table: ascending ids, voxels, and the region box of each as (n, 6) z, y, x, z, y, x."""

    id: NDArray[np.uint64]
    voxels: NDArray[np.int64]
    box: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id)

    @classmethod
    def from_table(cls, table: NDArray[np.uint64]) -> Bucket:
        """A table as it is stored, or of several buckets."""
        return cls(table[0], table[1].astype(np.int64), np.ascontiguousarray((table[2:].astype(np.int64) - _OFFSET).T))

    @classmethod
    def without_boxes(cls, ids: NDArray[np.uint64], voxels: NDArray[np.int64]) -> Bucket:
        """Supervoxels of which only the voxels are known."""
        box = np.array([1 << 30] * 3 + [-(1 << 30)] * 3, np.int64)
        return cls(ids, voxels, np.tile(box, (len(ids), 1)))

    @classmethod
    def read(cls, values: Sequence[bytes | None]) -> Bucket:
        """All rows of several buckets, ascending."""
        held = [value for value in values if value is not None]
        if not held:
            return no_supervoxels()
        table = unpack(held[0], _COLUMNS) if len(held) == 1 else unpack_groups(held, _COLUMNS)[0]
        if len(held) > 1:
            table = table[:, np.argsort(table[0])]
        return cls.from_table(table)

    @classmethod
    def find(cls, tables: Sequence[NDArray[np.uint64]], wanted: NDArray[np.uint64]) -> Bucket:
        """The rows of some ids, ascending, in the tables of several buckets."""
        if not tables or not len(wanted):
            return no_supervoxels()
        table = tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)
        table = table[:, rows_with(table[0], np.sort(wanted))]
        return cls.from_table(table if table.shape[1] < 2 else table[:, np.argsort(table[0])])


def bucket_table(_: bytes, value: bytes | None) -> tuple[NDArray[np.uint64], int]:
    """The table of a bucket, to be kept; and the bytes that it takes."""
    table = _EMPTY if value is None else unpack(value, _COLUMNS)
    return table, table.nbytes


def no_supervoxels() -> Bucket:
    """An empty table."""
    return Bucket.from_table(_EMPTY)


@kernel
def _number(supervoxel: np.uint64, wide: np.uint64, buckets: np.uint64) -> np.uint64:
    h = (supervoxel ^ (supervoxel >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(29)
    at = h & wide
    return at if at < buckets else h & (wide >> np.uint64(1))


@kernel
def _numbers(svs: NDArray[np.uint64], wide: np.uint64, buckets: np.uint64) -> NDArray[np.int64]:
    out = np.empty(svs.size, np.int64)
    for i in range(svs.size):
        out[i] = np.int64(_number(svs[i], wide, buckets))
    return out


def _wide(buckets: int) -> np.uint64:
    return np.uint64((1 << (buckets - 1).bit_length()) - 1)


def bucket_of(svs: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """The bucket of each supervoxel, where there are so many."""
    found: NDArray[np.int64] = _numbers(np.ascontiguousarray(svs), _wide(buckets), np.uint64(buckets))
    return found


@kernel
def _changes(
    table: NDArray[np.uint64],
    change: NDArray[np.int64],
    wide: np.uint64,
    buckets: np.uint64,
    first: np.uint64,
    last: np.uint64,
    numbers: NDArray[np.int64],
    out: NDArray[np.uint64],
) -> int:
    """Fill `out` with a row for each supervoxel of which voxels changed, by bucket and id; returns how many."""
    offset = np.int64(1 << 31)
    order = np.argsort(table[3], kind="mergesort")
    summed = np.empty((8, order.size), np.uint64)
    n = 0
    for k in range(order.size):
        i = order[k]
        if change[i] == 0:
            continue
        if n == 0 or summed[0, n - 1] != table[3, i]:
            summed[0, n] = table[3, i]
            summed[1, n] = np.uint64(0)
            for c in range(3):
                summed[2 + c, n] = first
                summed[5 + c, n] = last
            n += 1
        summed[1, n - 1] += np.uint64(change[i])  # of two's complement
        if table[4, i] > 0:
            for c in range(3):
                region = np.uint64(((np.int64(table[c, i]) - offset) >> 4) + offset)
                summed[2 + c, n - 1] = min(summed[2 + c, n - 1], region)
                summed[5 + c, n - 1] = max(summed[5 + c, n - 1], region)
    found = np.empty(n, np.int64)
    for i in range(n):
        found[i] = np.int64(_number(summed[0, i], wide, buckets))
    order = np.argsort(found, kind="mergesort")
    for k in range(n):
        i = order[k]
        numbers[k] = found[i]
        for c in range(8):
            out[c, k] = summed[c, i]
    return n


def bucket_changes(
    table: NDArray[np.uint64], change: NDArray[np.int64], buckets: int
) -> tuple[list[int], NDArray[np.uint64]]:
    """What updates of rows (see `Rows.table`), by so many voxels each, add to the table of supervoxels.

    Returns
    -------
    numbers, changes
        The bucket of each row of changes, ascending; uint64 (8, n): columns as stored, by bucket and id, each id once.
        Voxels may be negative, in two's complement.
    """
    numbers = np.empty(table.shape[1], np.int64)
    out = np.empty((_COLUMNS, table.shape[1]), np.uint64)
    n = _changes(table, change, _wide(buckets), np.uint64(buckets), _FIRST, _LAST, numbers, out)
    return numbers[:n].tolist(), out[:, :n]


@kernel
def _merge(old: NDArray[np.uint64], new: NDArray[np.uint64], out: NDArray[np.uint64]) -> int:
    """Voxels added, boxes united; ids without voxels are gone. Both ascend; returns the rows of `out`."""
    n, m = old.shape[1], new.shape[1]
    i, j, r = 0, 0, 0
    while i < n or j < m:
        if j == m or (i < n and old[0, i] < new[0, j]):
            for c in range(8):
                out[c, r] = old[c, i]
            i += 1
            r += 1
            continue
        voxels = np.int64(new[1, j])
        for c in range(8):
            out[c, r] = new[c, j]
        if i < n and old[0, i] == new[0, j]:
            voxels += np.int64(old[1, i])
            for c in range(2, 5):
                out[c, r] = min(old[c, i], new[c, j])
                out[c + 3, r] = max(old[c + 3, i], new[c + 3, j])
            i += 1
        j += 1
        if voxels > 0:
            out[1, r] = np.uint64(voxels)
            r += 1
    return r


def change_bucket(old: NDArray[np.uint64], changes: NDArray[np.uint64]) -> tuple[bytes | None, int]:
    """A bucket with changes as `bucket_changes` makes them, None if nothing is left; and how many ids it has more."""
    out = np.empty((_COLUMNS, old.shape[1] + changes.shape[1]), np.uint64)
    rows = _merge(old, np.ascontiguousarray(changes), out)
    return write_bucket(out[:, :rows]), rows - old.shape[1]


def split_bucket(value: bytes | None, number: int, buckets: int) -> tuple[bytes | None, bytes | None]:
    """Of a bucket what stays and what goes to bucket `number` where there are so many."""
    if value is None:
        return None, None
    table = unpack(value, _COLUMNS)
    moves = bucket_of(table[0], buckets) == number
    return write_bucket(table[:, ~moves]), write_bucket(table[:, moves])


def write_bucket(table: NDArray[np.uint64]) -> bytes | None:
    """A bucket of these rows; None for none."""
    rows = table.shape[1]
    return pack_groups(table, np.array([0, rows]))[0] if rows else None
