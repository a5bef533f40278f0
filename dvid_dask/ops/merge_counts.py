"""The second half of the way from blocks to the label index: rows grouped by body, one partition after the other.

Each brick left its rows cut by body into partitions. A task takes a partition, some million rows at a time, and adds
them to the bodies' records; the commit that does so removes the rows. So each row counts once, whoever dies when, and
memory holds a batch, however large volume and bodies are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvid_dask.datatypes.labelmap.bulk import add_counts
from dvid_dask.ops.job import InstanceLedger, Result
from dvid_dask.ops.label_bricks import rows_prefix, scan_counts

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.datatypes.labelmap.index import Stamp
    from dvid_dask.ops.label_bricks import Counts

__all__ = ["MergeCounts"]

_BATCH_ROWS = 1 << 20


@dataclass(frozen=True)
class MergeCounts:
    """Runs the tasks of the index phase, one per partition."""

    ledger: InstanceLedger
    phase: str
    stamp: Stamp | None = None  # who changes the bodies, where that is to be kept with them

    def __call__(self, partition: int) -> Result:
        """Merge one partition."""
        prefix = rows_prefix(self.ledger, partition)
        merged = 0
        while True:
            space = self.ledger.view()
            if (done := self.ledger.mark(space, self.phase, partition)) is not None:
                return done
            batch = next(scan_counts(space, prefix, _BATCH_ROWS), None)
            if batch is None:
                result = {"rows": merged}
                return self.ledger.commit(self.phase, partition, lambda _, __, result=result: result)  # type: ignore[misc]
            merged += self._merge(*batch)

    def _merge(self, held: list[bytes], rows: Counts) -> int:
        def step(_: Mutation, space: TxSpace) -> int:
            if any(v is None for v in space.get_many(held)):
                return 0  # another run of this task was faster: look again what is left
            add_counts(space, rows.block_zyx, rows.supervoxel, rows.delta, stamp=self.stamp)
            for key in held:
                space.delete(key)
            return len(rows)

        return self.ledger.mutate(step)
