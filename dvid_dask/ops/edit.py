"""Tables of merges, cleaves and renumberings: what the single operations would do, many thousand in one step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import LabelMap, events, keys
from dvid_dask.datatypes.labelmap.counters import RESERVED
from dvid_dask.datatypes.labelmap.extents import raise_max_label
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.moves import WHOLE
from dvid_dask.errors import BadRequest, DvidError
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among
from dvid_dask.ops import job
from dvid_dask.ops.agglomerate import bulk_labelmap
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.moves import Moves, examples, partitions_for
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.tables import open_table

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace

    Ids = NDArray[np.uint64]

__all__ = ["EditReport", "edit"]

_HEADERS = 4096
_CHUNK = 1 << 19


@dataclass(frozen=True)
class EditReport:
    """What a table of edits did.

    Attributes
    ----------
    job
        Name of the job.
    mutation
        Id of the mutation that all of it is.
    merged
        Bodies that became part of another.
    cleaved
        A row for each new body: ``body``, ``group`` and ``new_body``.
    renumbered
        Bodies that got another id.
    moved
        Supervoxels that have another body than before.
    seconds
        Time of this run.
    """

    job: str
    mutation: int
    merged: int
    cleaved: pd.DataFrame
    renumbered: int
    moved: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.merged:,} bodies merged, {len(self.cleaved):,} cleaved off, {self.renumbered:,} renumbered "
            f"({self.moved:,} supervoxels) in {self.seconds:.1f} s"
        )


def edit(
    instance: Datatype,
    *,
    merges: Any = None,
    cleaves: Any = None,
    renumber: Any = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> EditReport:
    """Merge, cleave and renumber bodies by table, as a Dask graph.

    The end is that of the single operations, in any order of the rows. All of it is seen at once, and a run that is
    killed leaves nothing; see `agglomerate`.

    Parameters
    ----------
    instance
        A labelmap with label index, at an open version.
    merges
        Columns ``target`` and ``merged``: each row makes a body part of another. A target may be merged itself, into
        one body: all end in that which isn't merged.
    cleaves
        Columns ``body``, ``supervoxel`` and ``group``: the supervoxels of a body with one group number become a body of
        their own, with a new id.
    renumber
        Columns ``old`` and ``new``: bodies, and ids that no body has.
    client, progress, user, app
        As for `agglomerate`.

    Raises
    ------
    BadRequest
        If a body or supervoxel doesn't exist, or rows contradict each other: a body merged into two, or in a ring; a
        supervoxel in two groups; nothing left of a cleaved body; an id renumbered twice, or to one in use; a body in
        more than one of the tables. Nothing is changed.
    Conflict
        If others changed the same bodies meanwhile. Nothing is changed: start it again.
    LockedVersion
        If the version is committed.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.arange(1, 5, dtype=np.uint64).repeat(16)[None, None].repeat(64, 0).repeat(64, 1), (0, 0, 0))
    >>> report = edit(seg, merges=[[1, 2], [2, 3]], renumber=[[4, 40]], progress=False)
    >>> report.merged, list(seg.bodies()), seg.supervoxels_of(1).id.tolist()
    (2, [1, 40], [1, 2, 3])
    >>> report = edit(seg, cleaves={"body": [1, 1], "supervoxel": [2, 3], "group": [0, 0]}, progress=False)
    >>> report.cleaved.to_dict("records")
    [{'body': 1, 'group': 0, 'new_body': 41}]
    """
    began = time.monotonic()
    seg = bulk_labelmap(instance)
    tables = [
        open_table(() if table is None else table, names)
        for table, names in (
            (merges, ("target", "merged")),
            (cleaves, ("body", "supervoxel", "group")),
            (renumber, ("old", "new")),
        )
    ]
    edits = _Edits.of(_Merges.of(*tables[0].load()), _Cleaves.of(*tables[1].load()), _Renumbering.of(*tables[2].load()))
    name = job.job_name(
        op="edit", tables=[t.identity for t in tables], instance=seg.info.data_uuid, version=seg.version.uuid
    )
    if not len(edits):
        return EditReport(name, 0, 0, edits.cleaves.frame(np.empty(0, np.uint64)), 0, 0, time.monotonic() - began)
    client = job.find_client(client)
    job.check_reach(client, seg)
    show = Progress(progress)
    groups = len(edits.cleaves.first)
    labels = _draw(seg, groups, edits.renumbering.new)
    partitions = partitions_for(len(edits))
    about = {"op": "edit", "partitions": partitions, "labels": labels}
    show.say(f"{edits} of {seg.name!r} at version {seg.version.uuid[:12]}: {partitions} partitions, seen when done")
    ledger = DraftLedger.start(seg, name, about, user=user, app=app)
    try:
        return _run(seg, ledger, edits, Moves(ledger, partitions, must_remain=True), client, show, began)
    except DvidError:
        ledger.give_up()
        raise


def _draw(seg: LabelMap, n: int, named: Ids) -> list[int]:
    """New labels that are none of those that the table names for other bodies."""
    labels: list[int] = []
    while len(labels) < n:
        drawn = seg._unused_labels(seg.view(0), n - len(labels))
        labels += drawn[~is_among(drawn, named)].tolist()
    return labels


def _run(
    seg: LabelMap, ledger: DraftLedger, edits: _Edits, moves: Moves, client: Any, show: Progress, began: float
) -> EditReport:
    new = np.array(ledger.about["labels"], np.uint64)
    space = ledger.base()
    edits.check(space)
    fresh = np.concatenate([new, edits.renumbering.new])
    found, _ = Mapping(space).entries(fresh)
    parts = [edits.merges.moves(), edits.cleaves.moves(new), edits.renumbering.moves()]
    old, supervoxel, to = (np.concatenate([p[i] for p in parts]) for i in range(3))
    for i, a in enumerate(range(0, len(old), _CHUNK)):
        items = moves.cut(i, 0, old[a : a + _CHUNK], supervoxel[a : a + _CHUNK], to[a : a + _CHUNK])
        if i == 0:
            items += moves.cut_retired(0, fresh[~found])
        ledger.commit("read", i, lambda _, tx, items=items: tx.put_many(items) or {})  # type: ignore[misc]
    moves.run(client, show)
    sizes = moves.sizes(ledger.view())
    if sizes.shape[1]:
        edits.cleaves.check_remains(sizes)
    moved, _ = moves.totals()
    largest = int(fresh.max(initial=0))
    seg.next_labels.raise_to(largest)

    def finish(m: Mutation, tx: TxSpace) -> None:
        if largest:
            raise_max_label(tx, largest)
        for record, event in edits.told(seg, m, new, sizes):
            seg._log(m, **record)
            m.publish(seg, event)

    ledger.finish(finish)
    return EditReport(
        ledger.name,
        ledger.mutation,
        len(edits.merges.merged),
        edits.cleaves.frame(new),
        len(edits.renumbering.old),
        moved,
        time.monotonic() - began,
    )


def _refuse(ids: Ids, what: str) -> None:
    if len(ids):
        raise BadRequest(f"{what}: {examples(distinct(ids))}; nothing is changed")


def _repeated(ids: Ids) -> Ids:
    """Of sorted ids those that come more than once."""
    twice: Ids = ids[1:][ids[1:] == ids[:-1]]
    return twice


def _refuse_ids(*columns: Ids) -> None:
    for ids in columns:
        _refuse(ids[(ids == 0) | (ids == RESERVED)], "ids that no body can have")


@dataclass(frozen=True)
class _Merges:
    """Merged bodies, ascending, and where each ends."""

    merged: Ids
    root: Ids

    @classmethod
    def of(cls, target: Ids, merged: Ids) -> _Merges:
        _refuse_ids(target, merged)
        _refuse(target[target == merged], "bodies to be merged into themselves")
        if not len(merged):
            return cls(merged, target)
        pairs = distinct_rows(np.stack([merged, target], axis=1))
        merged, target = pairs[:, 0], pairs[:, 1]
        _refuse(_repeated(merged), "bodies to be merged into more than one other")
        ids, where = np.unique(np.concatenate([merged, target]), return_inverse=True)
        parent = np.arange(len(ids))
        parent[where[: len(merged)]] = where[len(merged) :]
        for _ in range(len(ids).bit_length() + 1):
            parent = parent[parent]
        ends = parent[where[: len(merged)]]
        _refuse(merged[is_among(ids[ends], merged)], "bodies to be merged in a ring")
        return cls(merged, ids[ends])

    def moves(self) -> tuple[Ids, Ids, Ids]:
        return self.merged, np.full(len(self.merged), WHOLE, np.uint64), self.root

    def by_root(self) -> Iterator[tuple[int, list[int]]]:
        order = np.argsort(self.root, kind="stable")
        roots, starts = np.unique(self.root[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)][: len(roots)]
        for root, a, b in zip(roots.tolist(), starts.tolist(), ends, strict=True):
            yield root, self.merged[order[a:b]].tolist()


@dataclass(frozen=True)
class _Cleaves:
    """Rows sorted by body, group and supervoxel; `first` says where a new body begins."""

    body: Ids
    supervoxel: Ids
    group: Ids
    first: NDArray[np.int64]

    @classmethod
    def of(cls, body: Ids, supervoxel: Ids, group: Ids) -> _Cleaves:
        _refuse_ids(body, supervoxel)
        order = np.lexsort((supervoxel, group, body))
        body, supervoxel, group = body[order], supervoxel[order], group[order]
        new_group = np.ones(len(body), np.bool_)
        new_group[1:] = (body[1:] != body[:-1]) | (group[1:] != group[:-1])
        new_row = new_group.copy()
        new_row[1:] |= supervoxel[1:] != supervoxel[:-1]
        body, supervoxel, group = body[new_row], supervoxel[new_row], group[new_row]
        _refuse(_repeated(np.sort(supervoxel)), "supervoxels in more than one group")
        return cls(body, supervoxel, group, np.flatnonzero(new_group[new_row]))

    def _each(self, new: Ids) -> Ids:
        """The new body of each row."""
        return np.repeat(new, np.diff(np.append(self.first, len(self.body)))[: len(new)])

    def moves(self, new: Ids) -> tuple[Ids, Ids, Ids]:
        return self.body, self.supervoxel, self._each(new)

    def groups(self, new: Ids) -> Iterator[tuple[int, int, Ids]]:
        ends = [*self.first[1:].tolist(), len(self.body)][: len(self.first)]
        bodies, starts = self.body[self.first].tolist(), self.first.tolist()
        for body, made, a, b in zip(bodies, new.tolist(), starts, ends, strict=True):
            yield body, made, self.supervoxel[a:b]

    def frame(self, new: Ids) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({"body": self.body[self.first], "group": self.group[self.first], "new_body": new})

    @staticmethod
    def check_remains(sizes: Ids) -> None:
        bodies, where = np.unique(sizes[0], return_inverse=True)
        left = np.zeros(len(bodies), np.int64)
        np.add.at(left, where, sizes[2].astype(np.int64))
        before = np.zeros(len(bodies), np.int64)
        before[where] = sizes[3].astype(np.int64)
        _refuse(bodies[left >= before], "bodies of which nothing would be left (a cleave must leave a supervoxel)")


@dataclass(frozen=True)
class _Renumbering:
    old: Ids
    new: Ids

    @classmethod
    def of(cls, old: Ids, new: Ids) -> _Renumbering:
        _refuse_ids(old, new)
        _refuse(old[old == new], "bodies to be renumbered to their own id")
        if len(old):
            pairs = distinct_rows(np.stack([old, new], axis=1))
            old, new = pairs[:, 0], pairs[:, 1]
        _refuse(_repeated(old), "bodies to be renumbered to more than one id")
        _refuse(_repeated(np.sort(new)), "ids that more than one body would get")
        return cls(old, new)

    def moves(self) -> tuple[Ids, Ids, Ids]:
        return self.old, np.full(len(self.old), WHOLE, np.uint64), self.new


@dataclass(frozen=True)
class _Edits:
    merges: _Merges
    cleaves: _Cleaves
    renumbering: _Renumbering

    @classmethod
    def of(cls, merges: _Merges, cleaves: _Cleaves, renumbering: _Renumbering) -> _Edits:
        merging = distinct(np.concatenate([merges.merged, merges.root]))
        cleaving = distinct(cleaves.body)
        naming = np.concatenate([renumbering.old, renumbering.new])
        for a, b, what in (
            (merging, cleaving, "merged and cleaved"),
            (merging, naming, "merged and renumbered"),
            (cleaving, naming, "cleaved and renumbered"),
        ):
            _refuse(a[is_among(a, b)], f"bodies both {what}, for which the order would matter (edit in two steps)")
        return cls(merges, cleaves, renumbering)

    def __len__(self) -> int:
        return len(self.merges.merged) + len(self.cleaves.body) + len(self.renumbering.old)

    def __str__(self) -> str:
        return (
            f"{len(self.merges.merged):,} merges, {len(self.cleaves.first):,} cleaves, "
            f"{len(self.renumbering.old):,} renumberings"
        )

    def check(self, space: Space) -> None:
        """What the tasks don't check: bodies that something is added to, and ids that have to be free."""
        roots = distinct(self.merges.root)
        _refuse(roots[~_exists(space, roots)], "bodies to be merged into, but they don't exist")
        target = self.renumbering.new
        _refuse(target[_exists(space, target)], "ids to renumber to, but there are bodies of these ids")

    def told(
        self, seg: LabelMap, m: Mutation, new: Ids, sizes: Ids
    ) -> Iterator[tuple[dict[str, Any], events.BodiesMerged | events.BodyCleaved | events.BodyRenumbered]]:
        """Record and event of each single edit, as the edits themselves log and publish them."""
        for root, merged in self.merges.by_root():
            yield (
                {"action": "merge-complete", "Target": root, "Labels": merged},
                events.BodiesMerged(m.id, root, tuple(merged)),
            )
        cleaved = dict(zip(sizes[1].tolist(), sizes[2].tolist(), strict=True))
        remain = dict(zip(sizes[0].tolist(), sizes[3].tolist(), strict=True))
        for body, made, svs in self.cleaves.groups(new):
            remain[body] = remain.get(body, 0) - cleaved.get(made, 0)
            record = {
                "action": "cleave-complete",
                "OrigLabel": body,
                "CleavedLabel": made,
                **seg._told(svs),
                "CleavedSize": cleaved.get(made, 0),
                "RemainSize": remain[body],
            }
            yield record, events.BodyCleaved(m.id, body, made, svs)
        for old, to in zip(self.renumbering.old.tolist(), self.renumbering.new.tolist(), strict=True):
            yield (
                {"action": "renumber-complete", "NewLabel": to, "OrigLabel": old},
                events.BodyRenumbered(m.id, old, to),
            )


def _exists(space: Space, bodies: Ids) -> NDArray[np.bool_]:
    """Which of these bodies have an index."""
    values: list[bytes | None] = []
    for a in range(0, len(bodies), _HEADERS):
        values += space.get_many([keys.body(b) for b in bodies[a : a + _HEADERS].tolist()])
    return np.array([v is not None for v in values], np.bool_)
