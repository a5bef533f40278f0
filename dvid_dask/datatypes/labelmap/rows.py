"""Rows of a label index: which supervoxel has how many voxels in which block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["COLUMNS", "Overlaid", "Rows", "distinct_blocks", "first_of_block", "overlay", "overlay_table"]

COLUMNS = 6
_OFFSET = np.int64(1 << 31)


@kernel
def _narrow(table: NDArray[np.uint64], blocks: NDArray[np.int32], counts: NDArray[np.uint32]) -> None:
    """Coordinates and counts of a table of rows, in their own types."""
    for i in range(table.shape[1]):
        for axis in range(3):
            blocks[i, axis] = np.int32(np.int64(table[axis, i]) - _OFFSET)
        counts[i] = np.uint32(table[4, i])


@dataclass(frozen=True)
class Rows:
    """Columns of equal length, one row per block and supervoxel.

    Attributes
    ----------
    block_zyx
        int32 (n, 3): block coordinates at scale 0.
    supervoxel
        uint64 (n,): never 0.
    count
        uint32 (n,): voxels. In an update 0 says that the supervoxel is not in the block (any more).
    surface
        uint64 (n,): mutation that last changed which supervoxels of the body are in the block, 0 if none did.

    Examples
    --------
    >>> Rows.of([[0, 0, 1], [0, 0, 2]], [7, 7], [10, 20]).voxels
    30
    """

    block_zyx: NDArray[np.int32]
    supervoxel: NDArray[np.uint64]
    count: NDArray[np.uint32]
    surface: NDArray[np.uint64]

    @classmethod
    def of(
        cls, block_zyx: ArrayLike, supervoxel: ArrayLike, count: ArrayLike, surface: ArrayLike | None = None
    ) -> Rows:
        """Rows from anything array-like."""
        svs = np.asarray(supervoxel, np.uint64).reshape(-1)
        blocks = np.asarray(block_zyx, np.int32).reshape(-1, 3)
        counts = np.asarray(count, np.uint32).reshape(-1)
        if not len(svs) == len(blocks) == len(counts):
            raise ValueError(f"columns of {len(blocks)}, {len(svs)} and {len(counts)} rows")
        marks = np.zeros(len(svs), np.uint64) if surface is None else np.asarray(surface, np.uint64).reshape(-1)
        return cls(blocks, svs, counts, marks)

    @classmethod
    def empty(cls) -> Rows:
        """No rows."""
        return cls.of([], [], [])

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, in their order."""
        if not parts:
            return cls.empty()
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.block_zyx for p in parts]),
            np.concatenate([p.supervoxel for p in parts]),
            np.concatenate([p.count for p in parts]),
            np.concatenate([p.surface for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.supervoxel)

    def __getitem__(self, choice: Any) -> Rows:
        """The rows that a mask, an array of positions or a slice chooses."""
        return Rows(self.block_zyx[choice], self.supervoxel[choice], self.count[choice], self.surface[choice])

    @property
    def voxels(self) -> int:
        """Sum of the counts."""
        return int(self.count.sum(dtype=np.uint64))

    def with_surface(self, mutation: int) -> Rows:
        """The same rows, marked by this mutation."""
        return Rows(self.block_zyx, self.supervoxel, self.count, np.full(len(self), mutation, np.uint64))

    def with_counts(self, count: int) -> Rows:
        """The same rows with one count in all of them."""
        return Rows(self.block_zyx, self.supervoxel, np.full(len(self), count, np.uint32), self.surface)

    def sorted(self) -> Rows:
        """By block (z, y, x), then supervoxel."""
        return self[np.lexsort((self.supervoxel, *self.block_zyx.T[::-1]))]

    def table(self) -> NDArray[np.uint64]:
        """The six columns z, y, x, supervoxel, count, surface as uint64; coordinates shifted to be positive."""
        table = np.empty((COLUMNS, len(self)), np.uint64)
        table[:3] = (self.block_zyx.T.astype(np.int64) + _OFFSET).astype(np.uint64)
        table[3] = self.supervoxel
        table[4] = self.count
        table[5] = self.surface
        return table

    @classmethod
    def from_table(cls, table: NDArray[np.uint64]) -> Rows:
        """The inverse of `table`."""
        rows = table.shape[1]
        blocks, counts = np.empty((rows, 3), np.int32), np.empty(rows, np.uint32)
        _narrow(table, blocks, counts)
        return cls(blocks, table[3], counts, table[5])


def first_of_block(block_zyx: NDArray[np.int32]) -> NDArray[np.bool_]:
    """For sorted rows: where another block begins."""
    first = np.ones(len(block_zyx), np.bool_)
    first[1:] = (block_zyx[1:] != block_zyx[:-1]).any(axis=1)
    return first


@kernel
def _distinct(blocks: NDArray[np.int32]) -> NDArray[np.int32]:
    out = np.empty_like(blocks)
    m = 0
    for i in range(blocks.shape[0]):
        same = m > 0
        for axis in range(3):
            same = same and blocks[i, axis] == out[m - 1, axis]
        if not same:
            for axis in range(3):
                out[m, axis] = blocks[i, axis]
            m += 1
    return out[:m]


def distinct_blocks(rows: Rows) -> NDArray[np.int32]:
    """int32 (n, 3): the blocks of the sorted rows, each once, in zyx order."""
    found: NDArray[np.int32] = _distinct(rows.block_zyx)
    return found


def overlay(old: Rows, new: Rows, mutation: int | None = None) -> Rows:
    """The sorted rows `old` where `new` has replaced equal (block, supervoxel); counts of 0 are taken out.

    Parameters
    ----------
    old
        Sorted rows.
    new
        Rows in any order; of several with equal block and supervoxel the last counts.
    mutation
        If given, all rows of the blocks named in `new` are marked with it. Otherwise a block keeps its mark.

    Examples
    --------
    >>> old = Rows.of([[0, 0, 1], [0, 0, 2]], [7, 7], [10, 20])
    >>> overlay(old, Rows.of([[0, 0, 2], [0, 0, 3]], [7, 7], [0, 5])).count.tolist()
    [10, 5]
    """
    return Rows.from_table(overlay_table(old.table(), new.sorted().table(), mutation).table)


class Overlaid(NamedTuple):
    """What `overlay_table` did."""

    table: NDArray[np.uint64]
    voxels: int
    """Voxels more than before."""
    blocks: int
    """Blocks more than before."""
    change: NDArray[np.int64]
    """Voxels more than before, for each of the new rows."""


def overlay_table(old: NDArray[np.uint64], new: NDArray[np.uint64], mutation: int | None = None) -> Overlaid:
    """`overlay` of tables (see `Rows.table`), both sorted by block and supervoxel, in one compiled pass.

    Parameters
    ----------
    old, new
        uint64 (6, n) and (6, m); of several new rows with equal block and supervoxel the last counts.
    mutation
        As for `overlay`.
    """
    n, m = old.shape[1], new.shape[1]
    out = np.empty((COLUMNS, n + m), np.uint64)
    change = np.zeros(m, np.int64)
    mark = np.uint64(0 if mutation is None else mutation)
    rows, voxels, blocks = _overlay(
        np.ascontiguousarray(old), np.ascontiguousarray(new), mark, mutation is not None, out, change
    )
    return Overlaid(out[:, :rows], voxels, blocks, change)


@kernel
def _overlay(
    old: NDArray[np.uint64],
    new: NDArray[np.uint64],
    mutation: np.uint64,
    marked: bool,
    out: NDArray[np.uint64],
    change: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Fill `out` and `change`; returns rows of `out`, and voxels and blocks more than in `old`."""
    n, m = old.shape[1], new.shape[1]
    i, j, r = 0, 0, 0
    voxels, blocks = 0, 0
    while i < n or j < m:
        # the next block is that of the lower row; where each table's rows of it end
        side = 0
        if i == n:
            side = 1
        elif j == m:
            side = -1
        else:
            for c in range(3):
                if old[c, i] != new[c, j]:
                    side = -1 if old[c, i] < new[c, j] else 1
                    break
        last_i, last_j = i, j
        mark = np.uint64(0)
        if side <= 0:
            while (
                last_i < n
                and old[2, last_i] == old[2, i]
                and old[1, last_i] == old[1, i]
                and (old[0, last_i] == old[0, i])
            ):
                mark = max(mark, old[5, last_i])
                last_i += 1
        if side >= 0:
            while (
                last_j < m
                and new[2, last_j] == new[2, j]
                and new[1, last_j] == new[1, j]
                and (new[0, last_j] == new[0, j])
            ):
                mark = max(mark, new[5, last_j])
                last_j += 1
            if marked:
                mark = mutation
        first = r
        a, b = i, j
        while a < last_i or b < last_j:
            if b + 1 < last_j and new[3, b + 1] == new[3, b]:
                b += 1  # a later row for the same
                continue
            if b >= last_j or (a < last_i and old[3, a] < new[3, b]):
                for c in range(5):
                    out[c, r] = old[c, a]
                out[5, r] = mark
                r += 1
                a += 1
                continue
            had = np.int64(0)
            if a < last_i and old[3, a] == new[3, b]:
                had = np.int64(old[4, a])
                a += 1
            now = np.int64(new[4, b])
            change[b] = now - had
            voxels += int(now - had)
            if now > 0:
                for c in range(5):
                    out[c, r] = new[c, b]
                out[5, r] = mark
                r += 1
            b += 1
        blocks += (1 if r > first else 0) - (1 if last_i > i else 0)
        i, j = last_i, last_j
    return r, voxels, blocks
