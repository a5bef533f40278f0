"""Agglomeration: a table says which body each supervoxel belongs to; mapping and label index follow, in one step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dvid_dask.datatypes.labelmap import LabelMap, keys
from dvid_dask.datatypes.labelmap.counters import RESERVED
from dvid_dask.datatypes.labelmap.events import SupervoxelsMoved
from dvid_dask.datatypes.labelmap.extents import raise_max_label
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.errors import BadRequest, DvidError, NotSupported
from dvid_dask.formats.distinct import distinct
from dvid_dask.ops import job
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.job import LedgerPhase, Result
from dvid_dask.ops.moves import Moves, examples, partitions_for
from dvid_dask.ops.piles import Pile, by_mapping_page
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.tables import IdTable, columns_of, open_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace

__all__ = ["AgglomerateReport", "agglomerate", "bulk_labelmap"]

_COLUMNS = ("supervoxel", "body")
_CHUNK = 1 << 19
_UNKNOWN_LENGTH = 1 << 23  # rows that are assumed of a table whose length only reading would tell
_HEADERS = 4096


@dataclass(frozen=True)
class AgglomerateReport:
    """What an agglomeration did.

    Attributes
    ----------
    job
        Name of the job.
    mutation
        Id of the mutation that it is.
    rows
        Rows of the table.
    moved
        Supervoxels that have another body than before.
    unknown
        Supervoxels that don't exist and were left out.
    seconds
        Time of this run.
    """

    job: str
    mutation: int
    rows: int
    moved: int
    unknown: int
    seconds: float

    def __str__(self) -> str:
        left = f", {self.unknown:,} unknown left out" if self.unknown else ""
        return f"{self.moved:,} of {self.rows:,} supervoxels got another body in {self.seconds:.1f} s{left}"


def bulk_labelmap(instance: Datatype) -> LabelMap:
    """The instance, if bodies of it can be changed in bulk.

    Raises
    ------
    NotSupported
        If it is no labelmap or keeps no label index.
    LockedVersion
        If its version is committed.
    """
    if not isinstance(instance, LabelMap) or not instance.indexed:
        raise NotSupported(f"{instance.name!r} ({instance.info.typename}) has no label index, so no bodies to change")
    instance.check_open()
    return instance


def agglomerate(
    instance: Datatype,
    table: Any,
    *,
    unknown: Literal["error", "skip"] = "error",
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> AgglomerateReport:
    """Give supervoxels the bodies that a table names, as a Dask graph: mapping and label index together.

    Supervoxels that the table doesn't name keep their body. The result is seen all at once: until the last step the
    version is as it was, and a run that is killed leaves nothing of it; the same call then goes on where it was. What
    others edit meanwhile is kept, unless they touch the same bodies.

    Parameters
    ----------
    instance
        A labelmap with label index, at an open version.
    table
        Columns ``supervoxel`` and ``body``: anything `open_table` reads (pandas, Arrow, numpy, dask dataframe, parquet,
        CSV). Up to some 10**7 rows in memory; a dask dataframe or parquet is read in parts.
    unknown
        What to do about supervoxels that don't exist: refuse the table, or leave them out.
    client, progress
        As for `ingest`.
    user, app
        Who asks, with which program; kept with the bodies and the mutation log.

    Raises
    ------
    BadRequest
        If the table names id 0 or 2**64 - 1, a supervoxel twice with different bodies, supervoxels that don't exist, or
        a new body by the id of a supervoxel that belongs to another body. Nothing is changed.
    Conflict
        If others changed the same bodies meanwhile. Nothing is changed: start it again.
    LockedVersion
        If the version is committed.
    JobFailedError
        If a task failed for another reason; the same call goes on.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.arange(1, 5, dtype=np.uint64).repeat(16)[None, None].repeat(64, 0).repeat(64, 1), (0, 0, 0))
    >>> report = agglomerate(seg, {"supervoxel": [1, 2, 4], "body": [1, 1, 1]}, progress=False)
    >>> report.moved, list(seg.bodies_with_sizes())
    (2, [(1, 196608), (3, 65536)])
    >>> seg.supervoxels_of(1).id.tolist()
    [1, 2, 4]
    """
    began = time.monotonic()
    seg = bulk_labelmap(instance)
    if unknown not in ("error", "skip"):
        raise BadRequest(f"unknown is 'error' or 'skip', not {unknown!r}")
    source = open_table(table, _COLUMNS)
    client = job.find_client(client)
    job.check_reach(client, seg)
    name = job.job_name(
        op="agglomerate",
        table=source.identity,
        instance=seg.info.data_uuid,
        version=seg.version.uuid,
        unknown=unknown,
    )
    rows = _UNKNOWN_LENGTH if source.columns is None else len(source.columns[0])
    if rows == 0:
        return AgglomerateReport(name, 0, 0, 0, 0, time.monotonic() - began)
    show = Progress(progress)
    partitions = partitions_for(rows)
    show.say(f"agglomerate {seg.name!r} at version {seg.version.uuid[:12]}: {partitions} partitions, seen when done")
    about = {"op": "agglomerate", "partitions": partitions}
    ledger = DraftLedger.start(seg, name, about, user=user, app=app)
    run = _Agglomeration(ledger, Moves(ledger, partitions, skip_unknown=unknown == "skip"))
    try:
        return run(source, client, show, began)
    except DvidError:
        ledger.give_up()
        raise


@dataclass(frozen=True)
class _Agglomeration:
    ledger: DraftLedger
    moves: Moves

    @property
    def _named(self) -> Pile:
        return Pile(self.ledger, "named", 2)

    @property
    def _targets(self) -> Pile:
        return Pile(self.ledger, "targets", 1)

    def __call__(self, source: IdTable, client: Any, show: Progress, began: float) -> AgglomerateReport:
        self._read(source, client, show)
        partitions = self.moves.partitions
        job.execute(LedgerPhase(self.ledger, "resolve", "find bodies", [1] * partitions, self._resolve), client, show)
        self.moves.run(client, show)
        read = self.ledger.done("read").values()
        rows, largest = sum(r["rows"] for r in read), max((r["largest"] for r in read), default=0)
        moved, unknown = self.moves.totals()
        unknown += sum(r["retired"] for r in self.ledger.done("resolve").values())
        instance = bulk_labelmap(self.ledger.instance)
        instance.next_labels.raise_to(largest)

        def finish(m: Mutation, space: TxSpace) -> None:
            raise_max_label(space, largest)
            instance._log(m, "agglomerate-complete", Rows=rows, Moved=moved)
            for supervoxels, old, new in self.moves.moved(self.ledger.view()):
                m.publish(instance, SupervoxelsMoved(m.id, supervoxels, old, new))

        self.ledger.finish(finish)
        return AgglomerateReport(self.ledger.name, self.ledger.mutation, rows, moved, unknown, time.monotonic() - began)

    # -------------------------------------------------------------- the table

    def _read(self, source: IdTable, client: Any, show: Progress) -> None:
        """Cut the table by page of the mapping; one in memory is cut here, parts where Dask computes them."""
        if source.columns is not None:
            supervoxel, body = source.columns
            for i, a in enumerate(range(0, len(supervoxel), _CHUNK)):
                self._spread(i, supervoxel[a : a + _CHUNK], body[a : a + _CHUNK])
            return
        parts = source.parts

        def given(indices: Any) -> list[Any]:
            return [parts[i] for i in indices]

        phase = LedgerPhase(self.ledger, "read", "read table", [1] * len(parts), self._read_part, given)
        job.execute(phase, client, show)

    def _read_part(self, index: int, part: Any) -> Result:
        supervoxel, body = columns_of(part, _COLUMNS)
        return self._spread(index, supervoxel, body)

    def _spread(self, index: int, supervoxel: NDArray[np.uint64], body: NDArray[np.uint64]) -> Result:
        for what, ids in (("supervoxel", supervoxel), ("body", body)):
            for bad in (0, RESERVED):
                n = int((ids == np.uint64(bad)).sum())
                if n:
                    raise BadRequest(f"{n:,} rows name {what} {bad}, which is {'reserved' if bad else 'background'}")
        partitions = self.moves.partitions
        items = self._named.cut(index, 0, by_mapping_page(supervoxel, partitions), [supervoxel, body])
        targets = distinct(body)
        items += self._targets.cut(index, 0, by_mapping_page(targets, partitions), [targets])
        result = {"rows": len(supervoxel), "largest": int(body.max(initial=0))}

        def step(_: Mutation, space: TxSpace) -> Result:
            space.put_many(items)
            return result

        return self.ledger.commit("read", index, step)

    # -------------------------------------------------------------- what it means

    def _resolve(self, partition: int) -> Result:
        """From (supervoxel, new body) to moves from body to body."""
        space = self.ledger.view()
        if (done := self.ledger.mark(space, "resolve", partition)) is not None:
            return done
        supervoxel, body = self._named.read(space, partition)
        order = np.lexsort((body, supervoxel))
        supervoxel, body = supervoxel[order], body[order]
        first = np.ones(len(supervoxel), np.bool_)
        first[1:] = supervoxel[1:] != supervoxel[:-1]
        other = ~first
        other[1:] &= body[1:] != body[:-1]
        if other.any():
            twice = distinct(supervoxel[other])
            raise BadRequest(f"supervoxels named with different bodies: {examples(twice)}; nothing is changed")
        supervoxel, body = supervoxel[first], body[first]
        found, mapped = Mapping(space).entries(supervoxel)
        old = np.where(found, mapped, supervoxel)
        retired = old == 0
        if retired.any() and not self.moves.skip_unknown:
            raise BadRequest(
                f"supervoxels that were split, or never had voxels: {examples(supervoxel[retired])}; nothing is changed"
            )
        fresh = self._check_targets(space, distinct(self._targets.read(space, partition)), supervoxel, body)
        live = ~retired
        items = self.moves.cut(partition, 0, old[live], supervoxel[live], body[live])
        items += self.moves.cut_retired(partition, fresh)

        def step(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {"retired": int(retired.sum())}

        return self.ledger.commit("resolve", partition, step)

    @staticmethod
    def _check_targets(
        space: Space, targets: NDArray[np.uint64], supervoxel: NDArray[np.uint64], body: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Those of the bodies to be whose ids nobody has used.

        Raises
        ------
        BadRequest
            If one is the id of a supervoxel that will belong to another body.
        """
        if not len(targets):
            return targets
        values: list[bytes | None] = []
        for a in range(0, len(targets), _HEADERS):
            values += space.get_many([keys.body(t) for t in targets[a : a + _HEADERS].tolist()])
        exists = np.array([v is not None for v in values], np.bool_)
        found, belongs = Mapping(space).entries(targets)
        at = np.minimum(np.searchsorted(supervoxel, targets), max(len(supervoxel) - 1, 0))
        named = supervoxel[at] == targets if len(supervoxel) else np.zeros(len(targets), np.bool_)
        will = np.where(named, body[at] if len(body) else 0, np.where(found, belongs, 0))
        elsewhere = (will != 0) & (will != targets) & (named | ~exists)
        if elsewhere.any():
            bad = int(np.argmax(elsewhere))
            raise BadRequest(
                f"{int(elsewhere.sum()):,} bodies have the id of a supervoxel that belongs to another body "
                f"(body {targets[bad]}: supervoxel {targets[bad]} is of body {will[bad]}): choose other ids; "
                "nothing is changed"
            )
        return targets[~exists & ~found & ~named]
