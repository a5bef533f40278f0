"""Rows of a label index: which supervoxel has how many voxels in which block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["COLUMNS", "Rows", "distinct_blocks", "first_of_block", "overlay"]

COLUMNS = 6
_OFFSET = np.int64(1 << 31)


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
        blocks = (table[:3].astype(np.int64) - _OFFSET).astype(np.int32)
        return cls(np.ascontiguousarray(blocks.T), table[3], table[4].astype(np.uint32), table[5])


def first_of_block(block_zyx: NDArray[np.int32]) -> NDArray[np.bool_]:
    """For sorted rows: where another block begins."""
    first = np.ones(len(block_zyx), np.bool_)
    first[1:] = (block_zyx[1:] != block_zyx[:-1]).any(axis=1)
    return first


def distinct_blocks(rows: Rows) -> NDArray[np.int32]:
    """int32 (n, 3): the blocks of the sorted rows, each once, in zyx order."""
    return rows.block_zyx[first_of_block(rows.block_zyx)]


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
    both = Rows.concatenate([old, new])
    order = np.lexsort((both.supervoxel, *both.block_zyx.T[::-1]))  # stable: new ones after old
    both = both[order]
    is_new = order >= len(old)
    first = first_of_block(both.block_zyx)
    block = np.cumsum(first) - 1
    groups = int(block[-1]) + 1 if len(block) else 0
    mark = np.zeros(groups, np.uint64)
    np.maximum.at(mark, block, both.surface)
    if mutation is not None:
        mark[np.unique(block[is_new])] = mutation
    last = np.ones(len(both), np.bool_)
    last[:-1] = first[1:] | (both.supervoxel[1:] != both.supervoxel[:-1])
    keep = last & (both.count > 0)
    return Rows(both.block_zyx[keep], both.supervoxel[keep], both.count[keep], mark[block][keep])
