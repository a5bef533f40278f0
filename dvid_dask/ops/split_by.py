"""Supervoxels cut along another segmentation: those that lie under several of its labels become one part per label.

=============  ===============  ===========================================================================
phase          partitioned by   what a task does
=============  ===============  ===========================================================================
``pairs``      brick            counts the voxels of each supervoxel under each label of the other
``cuts``       page of mapping  finds supervoxels under two labels or more, and how many new ids they need
``ids``        page of mapping  gives the parts ids and maps them, and tells the bricks that have them
``relabel``    brick            writes the blocks, and rows of how the label index changes
``index``      body             adds those rows to the index
``scale`` *s*  blocks           computes the coarser blocks over what changed
``retire``     page of mapping  retires the old ids and lists what they were split into
=============  ===============  ===========================================================================

All of it happens on a draft, where nobody reads, so it doesn't matter that voxels, index and mapping disagree between
the phases. A supervoxel cut into *k* parts is told as *k* - 1 splits in two, for which *k* - 2 ids are used up that
never have voxels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.base import Datatype
from dvid_dask.datatypes.labelmap import LabelMap, LabelVolume, keys
from dvid_dask.datatypes.labelmap.columns import pack
from dvid_dask.datatypes.labelmap.downres import build_scale
from dvid_dask.datatypes.labelmap.events import BlocksWritten
from dvid_dask.datatypes.labelmap.extents import raise_max_label
from dvid_dask.datatypes.labelmap.index import Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping, set_mapping
from dvid_dask.errors import BadRequest, DvidError
from dvid_dask.formats.distinct import distinct, distinct_rows
from dvid_dask.ops import job
from dvid_dask.ops.agglomerate import bulk_labelmap
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.ingest import reachable
from dvid_dask.ops.job import LedgerPhase, Result
from dvid_dask.ops.merge_counts import MergeCounts
from dvid_dask.ops.moves import examples, partitions_for
from dvid_dask.ops.piles import Pile
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.sources import Volume, open_volume
from dvid_dask.ops.split_bricks import Bricks, Relabel, borders, changed_blocks, ids_pile, pairs_pile, split_grid
from dvid_dask.versions.records import rfc3339

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace

__all__ = ["SplitReport", "split_by"]

_ROWS_PER_BLOCK = 48  # labels in a block of a dense segmentation, for the number of partitions only
_PARENTS = 256

Columns = tuple["NDArray[np.uint64]", ...]


@dataclass(frozen=True)
class SplitReport:
    """What cutting along another segmentation did.

    Attributes
    ----------
    job
        Name of the job.
    mutation
        Id of the mutation that it is; 0 if nothing was to be cut.
    supervoxels
        Supervoxels that were cut; their ids are retired.
    parts
        Supervoxels that they became.
    blocks
        Blocks of scale 0 that changed.
    seconds
        Time of this run.
    """

    job: str
    mutation: int
    supervoxels: int
    parts: int
    blocks: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.supervoxels:,} supervoxels were cut into {self.parts:,}, in {self.blocks:,} blocks, "
            f"in {self.seconds:.1f} s"
        )


def split_by(
    instance: Datatype,
    other: Any,
    *,
    offset: Sequence[int] | None = None,
    axes: str | Sequence[str] | None = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> SplitReport:
    """Cut every supervoxel that lies under several labels of another segmentation, as a Dask graph.

    The parts of a supervoxel are its voxels under equal labels of `other`; 0 is a label like any other, and the voxels
    beside `other` are one more part. Parts get new ids and stay in the supervoxel's body; what lies under one label
    keeps its id. Bodies look as before, so follow it with `edit` or `agglomerate` to regroup the parts. The change is
    seen all at once, as that of `agglomerate`.

    Parameters
    ----------
    instance
        A labelmap with label index, at an open version.
    other
        Integers: anything `open_volume` reads. It is read twice, and must be the same both times.
    offset
        Voxel of the instance at which the first voxel of `other` lies (z, y, x); may be negative. By default where it
        is, if `other` is a labelmap, else (0, 0, 0).
    axes
        As for `open_volume`.
    client, progress
        As for `ingest`.
    user, app
        Who asks, with which program; kept with the bodies and the mutation log.

    Raises
    ------
    BadRequest
        If `other` doesn't hold integers, or changed while it was read. Nothing is changed.
    Conflict
        If others changed the same bodies or blocks meanwhile. Nothing is changed: start it again.
    LockedVersion
        If the version is committed.
    JobFailedError
        If a task failed for another reason; the same call goes on.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "1"})
    >>> seg.write(np.arange(1, 5, dtype=np.uint64).repeat(16)[None, None].repeat(64, 0).repeat(64, 1), (0, 0, 0))
    >>> halves = np.zeros((64, 64, 64), np.uint8)
    >>> halves[:, :, 24:] = 1
    >>> report = split_by(seg, halves, progress=False)
    >>> report.supervoxels, report.parts, seg.supervoxels_of(2).id.tolist()
    (1, 2, [5, 6])
    >>> seg.read((0, 0, 20), (1, 1, 8)).tolist(), seg.mapping([2]).tolist()
    ([[[2, 2, 2, 2, 2, 2, 2, 2]]], [0])
    """
    began = time.monotonic()
    seg = bulk_labelmap(instance)
    volume = open_volume(other, axes=axes)
    if volume.dtype.kind not in "uib":
        raise BadRequest(f"{volume.name} holds {volume.dtype}: the labels to cut along must be integers")
    box = volume.box.shift(_offset(other, offset))
    client = job.find_client(client)
    job.check_reach(client, seg)
    name = job.job_name(
        op="split_by", other=_identity(other, volume), box=box, instance=seg.info.data_uuid, version=seg.version.uuid
    )
    show = Progress(progress)
    ledger = DraftLedger.start(seg, name, {"op": "split_by"}, user=user, app=app)
    try:
        with reachable(volume, client) as volume:
            return _run(ledger, volume, box, client, show, began)
    except DvidError:
        ledger.give_up()
        raise


def _identity(other: Any, volume: Volume) -> str:
    """What the job's name says of the other; an instance is the same whatever else of its version changes."""
    if isinstance(other, Datatype):
        return f"instance:{other.info.data_uuid}:{other.version.uuid}"
    return volume.identity


def _offset(other: Any, offset: Sequence[int] | None) -> tuple[int, ...]:
    if offset is None:
        if isinstance(other, LabelVolume):
            return tuple(int(v) for v in other.array(supervoxels=True).box.start)
        return (0, 0, 0)
    if len(offset) != 3:
        raise BadRequest(f"the offset is a voxel (z, y, x), got {tuple(offset)}")
    return tuple(int(v) for v in offset)


# ------------------------------------------------------------------ the job


def _run(ledger: DraftLedger, volume: Volume, box: Box, client: Any, show: Progress, began: float) -> SplitReport:
    instance = bulk_labelmap(ledger.instance)
    levels, block = instance.layout.levels, instance.layout.block_shape
    blocks = keys.blocks_of(list(ledger.base().keys(keys.scale_prefix(0))))
    partitions = partitions_for(_ROWS_PER_BLOCK * len(blocks))
    show.say(f"split {instance.name!r} at version {instance.version.uuid[:12]} by {volume.name}, seen when done")
    if not len(blocks):
        ledger.give_up()
        return SplitReport(ledger.name, 0, 0, 0, 0, time.monotonic() - began)
    grid = split_grid(blocks, block)
    computed = volume.delayed([]) is not None
    parts = _Parts(ledger, partitions)
    bricks = Bricks(ledger, partitions, instance.layout, grid, box, None if computed else volume)
    per_brick = grid.edge[0] * grid.edge[1] * grid.edge[2]

    def phase(name: str, title: str, weights: Sequence[int], task: Callable[..., Result], given: Any = None) -> None:
        job.execute(LedgerPhase(ledger, name, title, weights, task, given), client, show)

    def given(chosen: Sequence[int]) -> Callable[[Sequence[int]], list[Any] | None] | None:
        return (lambda indices: _computed(volume, box, [grid.brick(chosen[i]) for i in indices])) if computed else None

    everywhere = range(grid.count)
    phase("pairs", "compare", [per_brick] * grid.count, bricks.pairs, given(everywhere))
    phase("cuts", "find cuts", [1] * partitions, parts.find)
    found = ledger.done("cuts")
    needed = [found[p]["parts"] + found[p]["between"] for p in range(partitions)]
    if not sum(needed):
        ledger.give_up()
        return SplitReport(ledger.name, 0, 0, 0, 0, time.monotonic() - began)
    first = _first_id(ledger, instance, sum(needed))
    offsets = np.cumsum([0, *needed])[:-1].tolist()
    phase("ids", "give ids", [1] * partitions, _GiveIds(parts, [first + n for n in offsets]))
    chosen = sorted({b for result in ledger.done("ids").values() for b in result["bricks"]})
    relabel = Relabel(bricks, chosen)
    phase("relabel", "relabel", [per_brick] * len(chosen), relabel, given(chosen))
    phase("index", "label index", [1] * partitions, MergeCounts(ledger, "index", _stamp(ledger)))
    changed = changed_blocks(ledger)
    parents = changed
    for scale in range(1, levels + 1):
        parents = distinct_rows(parents >> 1)
        chunks = [parents[a : a + _PARENTS] for a in range(0, len(parents), _PARENTS)]
        phase(f"scale{scale}", f"scale {scale}", [len(c) for c in chunks], _Scale(ledger, scale, chunks))
    phase("retire", "retire old ids", [1] * partitions, parts.retire)
    last = first + sum(needed) - 1

    def finish(m: Mutation, space: TxSpace) -> None:
        raise_max_label(space, last)
        for row in parts.splits(ledger.view()):
            old, remain, split, body, split_size, remain_size = row
            instance._log(
                m,
                "split-supervoxel-complete",
                Supervoxel=old,
                Body=body,
                SplitSupervoxel=split,
                RemainSupervoxel=remain,
                SplitSize=split_size,
                RemainSize=remain_size,
            )
        m.publish(instance, BlocksWritten(m.id, changed))

    ledger.finish(finish)
    results = found.values()
    return SplitReport(
        ledger.name,
        ledger.mutation,
        sum(r["supervoxels"] for r in results),
        sum(r["parts"] for r in results),
        len(changed),
        time.monotonic() - began,
    )


def _computed(volume: Volume, box: Box, bricks: list[Box]) -> list[Any] | None:
    """What a dask array has for each brick; None for those beside it."""
    insides = [brick.intersect(box) for brick in bricks]
    held = iter(volume.delayed([i.relative(box.start) for i in insides if i]) or [])
    return [next(held) if inside else None for inside in insides]


def _first_id(ledger: DraftLedger, instance: LabelMap, n: int) -> int:
    """The first of the new ids, the same whenever the job is taken up again."""
    noted = ledger.done("allocate")
    if 0 not in noted:
        first, _ = instance.next_labels.allocate(n)
        noted = {0: ledger.commit("allocate", 0, lambda _, __: {"first": first})}
    return int(noted[0]["first"])


def _stamp(ledger: DraftLedger) -> Stamp:
    who = ledger._who
    return Stamp(ledger.mutation, rfc3339(ledger.time), who["user"], who["app"])


# ------------------------------------------------------------------ by page of the mapping


class _Found(NamedTuple):
    """The parts of supervoxels that are cut, ordered by supervoxel.

    `supervoxel`, `label`, `beside`, `voxels` have a row per part; `starts` is where each supervoxel begins; `rows` are
    all rows of those parts, as piled, and `part` is the part of each.
    """

    supervoxel: NDArray[np.uint64]
    label: NDArray[np.uint64]
    beside: NDArray[np.uint64]
    voxels: NDArray[np.uint64]
    starts: NDArray[np.int64]
    rows: NDArray[np.uint64]
    part: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Parts of each supervoxel."""
        return np.diff(np.append(self.starts, len(self.supervoxel)))


@dataclass(frozen=True)
class _Parts:
    """The tasks on supervoxels."""

    ledger: DraftLedger
    partitions: int

    @property
    def _splits(self) -> Pile:
        """Old id, rest, split off, body, and the voxels of both."""
        return Pile(self.ledger, "splits", 6)

    def _found(self, space: Space, partition: int) -> _Found:
        rows = pairs_pile(self.ledger).read(space, partition)
        rows = rows[:, np.lexsort((rows[3], rows[1], rows[2], rows[0]))]
        new = borders(rows[0], rows[2], rows[1])
        part = np.cumsum(new) - 1
        heads = np.flatnonzero(new)
        several = np.zeros(len(heads), np.bool_)  # parts of supervoxels that have more than one
        same = rows[0, heads[1:]] == rows[0, heads[:-1]]
        several[1:] |= same
        several[:-1] |= same
        rows = rows[:, several[part]] if len(heads) else rows
        new = borders(rows[0], rows[2], rows[1])
        heads = np.flatnonzero(new)
        voxels = np.add.reduceat(rows[4], heads) if len(heads) else rows[4]
        supervoxel = rows[0, heads]
        starts = np.flatnonzero(borders(supervoxel))
        return _Found(supervoxel, rows[1, heads], rows[2, heads], voxels, starts, rows, np.cumsum(new) - 1)

    def find(self, partition: int) -> Result:
        """Count what a partition needs."""
        found = self._found(self.ledger.view(), partition)
        parts, cut = len(found.supervoxel), len(found.starts)
        result = {"supervoxels": cut, "parts": parts, "between": parts - 2 * cut}
        return self.ledger.commit("cuts", partition, lambda _, __: result)

    def give_ids(self, partition: int, first: int) -> Result:
        """Name the parts from `first` on, then the ids between; map them and tell the bricks."""
        space = self.ledger.view()
        if (done := self.ledger.mark(space, "ids", partition)) is not None:
            return done
        found = self._found(space, partition)
        parts = np.arange(len(found.supervoxel), dtype=np.uint64) + np.uint64(first)
        splits = _chains(found, parts, first + len(parts))
        bodies = Mapping(space).bodies(found.supervoxel[found.starts])
        if not bodies.all():
            lost = found.supervoxel[found.starts][bodies == 0]
            raise BadRequest(f"supervoxels that are retired but have voxels: {examples(lost)}; run fsck")
        sizes = found.sizes
        of_part = np.repeat(bodies, sizes)
        between = np.arange(len(parts) - 2 * len(sizes), dtype=np.uint64) + np.uint64(first + len(parts))
        old, remain, split, split_size, remain_size = splits
        body = np.repeat(bodies, sizes - 1)
        zeros = np.full(len(old), partition, np.int64)
        items = self._splits.cut(partition, 0, zeros, [old, remain, split, body, split_size, remain_size])
        rows, brick = found.rows, found.rows[3].astype(np.int64)
        items += ids_pile(self.ledger).cut(partition, 0, brick, [*rows[:3], rows[4], parts[found.part]])
        result = {"bricks": distinct(brick).tolist()}

        def step(_: Mutation, tx: TxSpace) -> Result:
            set_mapping(tx, np.concatenate([parts, between]), np.concatenate([of_part, np.zeros_like(between)]))
            tx.put_many(items)
            return result

        return self.ledger.commit("ids", partition, step)

    def retire(self, partition: int) -> Result:
        """The old ids are no more."""
        old, remain, split, *_ = self._splits.read(self.ledger.view(), partition)
        vid, mutation = bulk_labelmap(self.ledger.instance)._vid(), self.ledger.mutation
        key = keys.split(vid, mutation) + partition.to_bytes(4, "big")

        def step(_: Mutation, tx: TxSpace) -> Result:
            if len(old):
                set_mapping(tx, old, 0)
                tx.put(key, pack([np.full(len(old), mutation, np.uint64), old, remain, split]))
            return {}

        return self.ledger.commit("retire", partition, step)

    def splits(self, space: Space) -> Iterator[list[int]]:
        """Splits in two, each before those of its rest: old, rest, split off, body, voxels of split off and rest."""
        for partition in range(self.partitions):
            table: list[list[int]] = self._splits.read(space, partition).T.tolist()
            yield from table


def _chains(found: _Found, parts: NDArray[np.uint64], first: int) -> Columns:
    """Each supervoxel's parts split off one by one; `first` is the first of the ids between. Voxels come with it."""
    sizes = found.sizes
    ends = found.starts + sizes
    last = np.zeros(len(parts), np.bool_)
    last[ends - 1] = True
    ending = np.zeros(len(parts), np.bool_)  # the split whose rest is the last part
    ending[ends - 2] = True
    split = ~last
    remain = np.zeros(len(parts), np.uint64)
    middle = split & ~ending
    remain[middle] = np.arange(middle.sum(), dtype=np.uint64) + np.uint64(first)
    remain[ends - 2] = parts[ends - 1]
    old = np.concatenate([np.zeros(1, np.uint64), remain])[: len(parts)]
    old[found.starts] = found.supervoxel[found.starts]
    up_to = np.cumsum(found.voxels)
    rest = np.repeat(up_to[ends - 1], sizes) - up_to
    return old[split], remain[split], parts[split], found.voxels[split], rest[split]


@dataclass(frozen=True)
class _GiveIds:
    parts: _Parts
    firsts: list[int]

    def __call__(self, partition: int) -> Result:
        return self.parts.give_ids(partition, self.firsts[partition])


# ------------------------------------------------------------------ coarser scales


@dataclass(frozen=True)
class _Scale:
    """Coarser blocks, some hundred per task."""

    ledger: DraftLedger
    scale: int
    chunks: list[NDArray[np.int32]]

    def __call__(self, task: int) -> Result:
        layout = bulk_labelmap(self.ledger.instance).layout

        def step(_: Mutation, tx: TxSpace) -> Result:
            build_scale(tx, layout, self.scale, self.chunks[task])
            return {}

        return self.ledger.commit(f"scale{self.scale}", task, step)
