"""Tables of integers that one phase of a job leaves for the next, cut into partitions.

A task of the first phase puts the rows of each partition under a key of its own; a task of the next one reads those of
one partition. So rows move between workers through the store, and nobody holds more than a partition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.columns import pack, unpack
from dvid_dask.ops.label_bricks import partition_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Space
    from dvid_dask.ops.job import Ledger

__all__ = ["Pile", "by_mapping_page", "by_neighbours"]

_NEIGHBOURS = np.uint64(10)


def by_mapping_page(supervoxels: NDArray[np.uint64], partitions: int) -> NDArray[np.int64]:
    """Partitions of supervoxels: those of one page of the mapping are together."""
    return partition_of(supervoxels >> np.uint64(keys.MAPPING_BITS), partitions)


def by_neighbours(bodies: NDArray[np.uint64], partitions: int) -> NDArray[np.int64]:
    """Partitions of bodies: ids near each other are together.

    Their records lie in the same nodes of the tree. Bodies dealt out one by one would have each task's commit write
    nearly all nodes anew, so that the bytes written grew with the square of the table.
    """
    return partition_of(bodies >> _NEIGHBOURS, partitions)


class Pile:
    """Rows of a few uint64 columns, by partition.

    Parameters
    ----------
    ledger
        Of the job.
    name
        Of the pile.
    columns
        Of its rows.
    """

    def __init__(self, ledger: Ledger, name: str, columns: int) -> None:
        self._ledger = ledger
        self._name = name.encode()
        self._columns = columns

    def prefix(self, partition: int) -> bytes:
        """Prefix of the keys of a partition."""
        return self._ledger.key("x", self._name, b"%08x" % partition, b"")

    def cut(
        self, task: int, part: int, where: NDArray[np.int64], rows: Sequence[NDArray[np.uint64]]
    ) -> list[tuple[bytes, bytes]]:
        """Keys and values that hold the rows, by the partition `where` says; the same for the same task and part."""
        order = np.argsort(where, kind="stable")
        if not len(order):
            return []
        table = np.vstack([np.asarray(c, np.uint64)[order] for c in rows])
        sorted_where = where[order]
        starts = np.flatnonzero(np.r_[True, sorted_where[1:] != sorted_where[:-1]]).tolist()
        name = b"%08x-%08x" % (task, part)
        return [
            (self.prefix(int(sorted_where[a])) + name, pack(list(table[:, a:b])))
            for a, b in zip(starts, [*starts[1:], len(order)], strict=True)
        ]

    def read(self, space: Space, partition: int) -> NDArray[np.uint64]:
        """The rows of a partition, uint64 (columns, n)."""
        parts = [unpack(value, self._columns) for _, value in space.scan(self.prefix(partition))]
        return np.concatenate([np.empty((self._columns, 0), np.uint64), *parts], axis=1)

    def scan(self, space: Space, partition: int, limit: int) -> Iterator[tuple[list[bytes], NDArray[np.uint64]]]:
        """The rows of a partition in batches of about `limit`, with the keys they came from."""
        held: list[bytes] = []
        parts: list[NDArray[np.uint64]] = []
        rows = 0
        for key, value in space.scan(self.prefix(partition)):
            held.append(key)
            parts.append(unpack(value, self._columns))
            rows += parts[-1].shape[1]
            if rows >= limit:
                yield held, np.concatenate(parts, axis=1)
                held, parts, rows = [], [], 0
        if held:
            yield held, np.concatenate(parts, axis=1)
