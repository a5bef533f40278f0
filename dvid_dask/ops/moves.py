"""Supervoxels from body to body by the million: the phases that all bulk changes of bodies share.

=========  ===============  =================================================================================
phase      partitioned by   what a task does
=========  ===============  =================================================================================
``take``   old body         reads the moves, takes the rows of the label index out of the old bodies, and leaves
                            them for ``give``, and the moves that are real for ``map``
``give``   new body         adds the rows to the index of the new bodies, a million at a time
``map``    page of mapping  writes the mapping
=========  ===============  =================================================================================

No two tasks of a phase touch the same key, and none holds more than its partition. All of it happens on a draft, where
nobody reads, so it doesn't matter that index and mapping disagree between the phases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.index import Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping, set_mapping
from dvid_dask.datatypes.labelmap.moves import Taken, TakenFromSmall, give, take, taken
from dvid_dask.datatypes.labelmap.rows import COLUMNS, Rows
from dvid_dask.errors import BadRequest
from dvid_dask.ops import job
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.job import LedgerPhase, Result
from dvid_dask.ops.piles import Pile, by_mapping_page, by_neighbours
from dvid_dask.versions.records import rfc3339

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.ops.progress import Progress

__all__ = ["Moves", "examples", "partitions_for"]

_ROWS_PER_PARTITION = 1 << 17
_FLUSH_ROWS = 1 << 18
_BATCH_ROWS = 1 << 20
_EXAMPLES = 5
_NONE = np.empty(0, np.uint64)


def partitions_for(rows: int) -> int:
    """How many partitions a table of so many rows is cut into."""
    return max(1, min(4096, -(-rows // _ROWS_PER_PARTITION)))


def examples(ids: Sequence[int] | NDArray[np.uint64]) -> str:
    """The first of some ids, for a message."""
    listed = [str(int(i)) for i in ids[:_EXAMPLES]]
    more = f" and {len(ids) - _EXAMPLES:,} more" if len(ids) > _EXAMPLES else ""
    return ", ".join(listed) + more


@dataclass(frozen=True)
class Moves:
    """The moves of a job and the phases that carry them out.

    Attributes
    ----------
    ledger
        Of the job.
    partitions
        Of all its piles.
    skip_unknown
        Whether supervoxels that a body doesn't have are left out; else they are an error.
    must_remain
        Whether it is an error when single supervoxels are all that a body has.
    """

    ledger: DraftLedger
    partitions: int
    skip_unknown: bool = False
    must_remain: bool = False

    @property
    def stamp(self) -> Stamp:
        """Who changes the bodies."""
        who = self.ledger._who
        return Stamp(self.ledger.mutation, rfc3339(self.ledger.time), who["user"], who["app"])

    @property
    def _moves(self) -> Pile:
        return Pile(self.ledger, "moves", 3)

    @property
    def _rows(self) -> Pile:
        return Pile(self.ledger, "rows", 1 + COLUMNS)

    @property
    def _mapping(self) -> Pile:
        return Pile(self.ledger, "mapping", 3)

    @property
    def _retired(self) -> Pile:
        return Pile(self.ledger, "retired", 1)

    @property
    def _sizes(self) -> Pile:
        return Pile(self.ledger, "sizes", 4)

    def cut(
        self, task: int, part: int, old: NDArray[np.uint64], supervoxel: NDArray[np.uint64], new: NDArray[np.uint64]
    ) -> list[tuple[bytes, bytes]]:
        """Keys and values that hold moves, each (old body, supervoxel) once; for a whole body say `moves.WHOLE`."""
        return self._moves.cut(task, part, by_neighbours(old, self.partitions), [old, supervoxel, new])

    def cut_retired(self, task: int, ids: NDArray[np.uint64]) -> list[tuple[bytes, bytes]]:
        """Keys and values that hold ids of bodies that are no supervoxels."""
        return self._retired.cut(task, 0, by_mapping_page(ids, self.partitions), [ids])

    def run(self, client: Any, show: Progress) -> None:
        """Carry them out, on the draft."""
        for name, title, task in (
            ("take", "take from bodies", self._take),
            ("give", "give to bodies", self._give),
            ("map", "mapping", self._map),
        ):
            phase = LedgerPhase(self.ledger, name, title, [_ROWS_PER_PARTITION] * self.partitions, task)
            job.execute(phase, client, show)

    def totals(self) -> tuple[int, int]:
        """Supervoxels that moved, and those that were left out."""
        results = self.ledger.done("take").values()
        return sum(r["moved"] for r in results), sum(r["unknown"] for r in results)

    def moved(self, space: Space) -> Iterator[NDArray[np.uint64]]:
        """Parts uint64 (3, n): supervoxels that moved, their old bodies and their new ones."""
        for partition in range(self.partitions):
            part = self._mapping.read(space, partition)
            if part.shape[1]:
                yield part

    def sizes(self, space: Space) -> NDArray[np.uint64]:
        """uint64 (4, n): bodies that lost single supervoxels, to whom, how many voxels, and what they had before."""
        parts = [self._sizes.read(space, partition) for partition in range(self.partitions)]
        return np.concatenate(parts, axis=1)

    # -------------------------------------------------------------- take

    def _take(self, partition: int) -> Result:
        space = self.ledger.view()
        if (done := self.ledger.mark(space, "take", partition)) is not None:
            return done
        old, supervoxel, new = self._moves.read(space, partition)
        order = np.lexsort((supervoxel, old))
        out = _Out(self, partition)
        changes: list[tuple[Taken, NDArray[np.uint64]]] = []
        many: list[TakenFromSmall] = []
        for body in taken(space, old[order], supervoxel[order], new[order]):
            if isinstance(body, TakenFromSmall):
                out.add_small(body)
                many.append(replace(body, rows=Rows.empty(), to=_NONE))  # its rows are on their way
                continue
            out.add(body)
            leaving = body.supervoxel[(body.new != np.uint64(body.body)) & (body.voxels > 0)]
            if len(leaving):
                changes.append((body, leaving))
        unknown = out.flush(space)
        stamp = self.stamp

        def step(_: Mutation, tx: TxSpace) -> Result:
            for part in many:
                for gone in part.gone.tolist():
                    tx.delete(keys.body(gone))
                for label, leaving in part.rest:
                    take(tx, label, leaving, stamp)
            for body, leaving in changes:
                if body.whole and not body.paged:
                    tx.delete(keys.body(body.body))
                else:
                    take(tx, body.body, None if body.whole else leaving, stamp)
            return {"moved": out.moved, "unknown": unknown}

        return self.ledger.commit("take", partition, step)

    # -------------------------------------------------------------- give

    def _give(self, partition: int) -> Result:
        pile, stamp = self._rows, self.stamp
        while True:
            space = self.ledger.view()
            if (done := self.ledger.mark(space, "give", partition)) is not None:
                return done
            batch = next(pile.scan(space, partition, _BATCH_ROWS), None)
            if batch is None:
                return self.ledger.commit("give", partition, lambda _, __: {})
            held, table = batch

            def step(_: Mutation, tx: TxSpace, held: list[bytes] = held, table: NDArray[np.uint64] = table) -> None:
                if any(v is None for v in tx.get_many(held)):
                    return  # another run of this task was faster: look again what is left
                give(tx, table[0], Rows.from_table(table[1:]), stamp)
                for key in held:
                    tx.delete(key)

            self.ledger.mutate(step)

    # -------------------------------------------------------------- map

    def _map(self, partition: int) -> Result:
        space = self.ledger.view()
        (retired,) = self._retired.read(space, partition)
        supervoxel, _, new = self._mapping.read(space, partition)
        ids = np.concatenate([retired, supervoxel])
        bodies = np.concatenate([np.zeros(len(retired), np.uint64), new])

        def step(_: Mutation, tx: TxSpace) -> Result:
            set_mapping(tx, ids, bodies)
            return {}

        return self.ledger.commit("map", partition, step)


class _Out:
    """What a task takes, on its way to the partitions of the next phases; written in parts, so that none gets large."""

    def __init__(self, moves: Moves, task: int) -> None:
        self._job = moves
        self._task = task
        self._part = 0
        self._held = 0
        self._rows: list[Rows] = []
        self._to: list[NDArray[np.uint64]] = []
        self._named: list[tuple[NDArray[np.uint64], ...]] = []
        self._absent: list[tuple[NDArray[np.uint64], ...]] = []
        self._sizes: list[tuple[NDArray[np.uint64], ...]] = []
        self.moved = 0

    def add(self, body: Taken) -> None:
        """All that leaves a body."""
        self._check(body)
        for rows, to in body.rows:
            self._rows.append(rows)
            self._to.append(to)
            self._held += len(rows)
            if self._held >= _FLUSH_ROWS:
                self._flush_rows()
        leaves = body.new != np.uint64(body.body)
        has = body.voxels > 0
        real = leaves & has
        n = int(real.sum())
        if n:
            self._named.append((body.supervoxel[real], np.full(n, body.body, np.uint64), body.new[real]))
        if not has.all():
            absent = body.supervoxel[~has]
            self._absent.append((absent, np.full(len(absent), body.body, np.uint64), body.new[~has]))
        if self._job.must_remain and n and not body.asked_whole:
            new, where = np.unique(body.new[real], return_inverse=True)
            sums = np.bincount(where, body.voxels[real].astype(np.float64)).astype(np.uint64)
            self._sizes.append(
                (np.full(len(new), body.body, np.uint64), new, sums, np.full(len(new), body.voxels_before, np.uint64))
            )

    def add_small(self, part: TakenFromSmall) -> None:
        """All that leaves many small bodies."""
        self._rows.append(part.rows)
        self._to.append(part.to)
        self._held += len(part.rows)
        if self._held >= _FLUSH_ROWS:
            self._flush_rows()
        has = part.voxels > 0
        real = has & (part.new != part.body)
        self._named.append((part.supervoxel[real], part.body[real], part.new[real]))
        self._absent.append((part.supervoxel[~has], part.body[~has], part.new[~has]))
        if self._job.must_remain and real.any():
            pairs = np.stack([part.body[real], part.new[real]], axis=1)
            pairs, first, where = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
            sums = np.bincount(where.reshape(-1), part.voxels[real].astype(np.float64)).astype(np.uint64)
            self._sizes.append((pairs[:, 0], pairs[:, 1], sums, part.voxels_before[real][first]))

    def _check(self, body: Taken) -> None:
        if not body.exists and body.asked_whole:
            raise BadRequest(f"body {body.body} doesn't exist, so it can be neither merged nor renumbered")
        if not body.exists and self._job.must_remain:
            raise BadRequest(f"body {body.body} doesn't exist, so nothing can be cleaved off it")

    def flush(self, space: Space) -> int:
        """Write what is left; returns how many supervoxels were left out.

        Raises
        ------
        BadRequest
            If supervoxels are unknown and may not be.
        """
        self._flush_rows()
        named, unknown = self._known(space)
        if len(unknown) and not self._job.skip_unknown:
            raise BadRequest(
                f"supervoxels that don't exist, or not in the body that was named: {examples(unknown)}; nothing is "
                "changed"
            )
        self.moved = len(named[0])
        items = self._job._mapping.cut(self._task, 0, by_mapping_page(named[0], self._job.partitions), named)
        if self._sizes:
            sizes = [np.concatenate([s[i] for s in self._sizes]) for i in range(4)]
            items += self._job._sizes.cut(self._task, 0, np.full(len(sizes[0]), self._task, np.int64), sizes)
        # the same at every try: a task that runs again overwrites what it wrote
        self._job.ledger.mutate(lambda _, tx: tx.put_many(items))
        return len(unknown)

    def _known(self, space: Space) -> tuple[list[NDArray[np.uint64]], NDArray[np.uint64]]:
        """Moves for the mapping, and supervoxels that are unknown: without voxels, and not mapped to the body."""
        none = (np.empty(0, np.uint64),) * 3
        supervoxel, body, new = (np.concatenate([n[i] for n in (none, *self._absent)]) for i in range(3))
        found, mapped = Mapping(space).entries(supervoxel)
        ghost = found & (mapped == body)
        moves = ghost & (new != body)
        ghosts = (supervoxel[moves], body[moves].astype(np.uint64), new[moves])
        named = [np.concatenate([n[i] for n in (none, *self._named, ghosts)]) for i in range(3)]
        return named, supervoxel[~ghost]

    def _flush_rows(self) -> None:
        if not self._held:
            return
        to, rows = np.concatenate(self._to), Rows.concatenate(self._rows)
        self._rows, self._to, self._held = [], [], 0
        where = by_neighbours(to, self._job.partitions)
        items = self._job._rows.cut(self._task, self._part, where, [to, *rows.table()])
        self._job.ledger.mutate(lambda _, tx: tx.put_many(items))
        self._part += 1
