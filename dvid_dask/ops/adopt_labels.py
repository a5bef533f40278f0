"""Adopt a segmentation in place: its voxels stay where they are, its label index is made.

The index is made by the same bricks and partitions as by an ingest, but that blocks are counted instead of stored. All
of it is done on a draft, so the instance is empty until the last commit shows everything; a job that was killed goes on
where it was. Scales that the base has are taken as they are; scales that it lacks are made, and stored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.bases.base import Base
from dvid_dask.bases.volume import Volume
from dvid_dask.datatypes.labelmap import LabelMap, keys
from dvid_dask.datatypes.labelmap.adopted import Adoption, base_at, note_adoption, note_blocks
from dvid_dask.datatypes.labelmap.bulk import finish as finish_labels
from dvid_dask.datatypes.labelmap.counters import NextLabels
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct
from dvid_dask.ops import job
from dvid_dask.ops.bricks import Grid, Plan, plan_bricks
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.ingest import partitions_of, weights
from dvid_dask.ops.job import LedgerPhase, Result
from dvid_dask.ops.label_bricks import LabelBricks
from dvid_dask.ops.merge_counts import MergeCounts
from dvid_dask.ops.progress import Progress
from dvid_dask.versions.records import go_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.boxes import Box
    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace
    from dvid_dask.datatypes.labelmap.blocks import Layout

__all__ = ["AdoptReport", "adopt_labels", "check_labels"]

_MAX_BLOCK = 1 << 20  # magnitude of block coordinates that a label index can name


@dataclass(frozen=True)
class AdoptReport:
    """What an adoption did.

    Attributes
    ----------
    voxels
        Voxels of scale 0 that were counted, those of an earlier run of the job included.
    scales
        How many scales are the base's own.
    built
        How many coarser ones were made.
    max_label
        The largest label.
    resumed
        Bricks that an earlier run had finished.
    seconds
        Time of this run.
    """

    voxels: int
    scales: int
    built: int
    max_label: int
    resumed: int
    seconds: float

    def __str__(self) -> str:
        made = f", made {self.built} coarser ones" if self.built else ""
        return (
            f"adopted {self.voxels / 1e6:,.1f} Mvoxel in {self.seconds:.1f} s: scales 0 to {self.scales - 1} as the "
            f"volume has them{made}; largest label {self.max_label}"
        )


class _OfBase(Volume):
    """Scale 0 of a base."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self.name = self.identity = base.shown_url
        self.shape, self.dtype, self.chunks = base.extents().shape, base.dtype, base.chunk

    def _read(self, box: Box) -> NDArray[Any]:
        return self._base.read(0, *box.shift(self._base.extents().start))


@dataclass(frozen=True)
class _NoteBlocks:
    """Notes which blocks of a coarser scale of a base hold anything, a brick a task."""

    ledger: DraftLedger
    phase: str
    layout: Layout
    base: Base
    grid: Grid

    def __call__(self, index: int) -> Result:
        """Look at one brick."""
        block = self.layout.block_shape
        held = [np.empty((0, 3), np.int64)]
        for leaf in self.grid.leaves(self.grid.brick(index)):
            voxels = self.base.read_box(self.grid.scale, leaf.start, leaf.shape, np.uint64)
            number, label, _ = label_blocks.count_blocks(voxels, block)
            cells = leaf.cells(block)
            there = np.unravel_index(distinct(number[label != 0]), cells.shape)
            held.append(np.stack(there, axis=1) + np.array(cells.start))

        def note(_: Mutation, space: TxSpace) -> Result:
            note_blocks(space, self.grid.scale, np.concatenate(held))
            return {}

        return self.ledger.commit(self.phase, index, note)


def adopt_labels(
    base: Base,
    instance: Datatype,
    *,
    brick_edge: int | None = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> AdoptReport:
    """Let an empty labelmap stand on a volume that others keep.

    Voxels are read where they lie whenever somebody asks for them; what is edited goes to the version tree. The label
    index, which blocks hold anything, extents and the largest label are made here, in one pass over the volume as a
    Dask graph. Killed at any point and started again with the same arguments it goes on where it was; until its last
    commit the instance is empty.

    Parameters
    ----------
    base
        The volume, of unsigned integers.
    instance
        An empty labelmap at an open version. Its block size is free; scales up to its ``MaxDownresLevel`` that the base
        has are the base's own, the others are made.
    brick_edge, client, progress, user, app
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the volume is no segmentation, or its coordinates are too large for a label index.
    Conflict
        If the instance isn't empty, or stands on another volume.
    BrokenBase, Unavailable
        If the volume is gone, is another, or can't be read now; start the job again to go on.
    LockedVersion
        If the version is committed.
    """
    began = time.monotonic()
    if not isinstance(instance, LabelMap):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: labels are adopted by a labelmap")
    instance.check_open()
    _check(base, instance)
    client = job.find_client(client)
    job.check_reach(client, instance)
    if instance.info.settings.get("Base") is None:
        instance.update_settings(Base=base.to_json())
    plan, own = _plan(base, instance, brick_edge)
    name = job.job_name(
        op="adopt",
        base=base.to_json(),
        instance=instance.info.data_uuid,
        version=instance.version.uuid,
        grids=[(g.scale, g.levels, g.edge) for g in plan.grids],
    )
    ledger = DraftLedger.start(instance, name, {"op": "adopt", "source": base.shown_url}, user=user, app=app)
    ledger.mutate(lambda _, space: note_adoption(space, Adoption(own)))
    return _Run(base, instance, ledger, plan, own, client, Progress(progress)).all(began)


def check_labels(base: Base) -> None:
    """Refuse a volume that is no segmentation.

    Raises
    ------
    BadRequest
    """
    if base.dtype.kind != "u" or base.channels != 1:
        channels = f" in {base.channels} channels" if base.channels > 1 else ""
        raise BadRequest(
            f"{base.shown_url} has {base.dtype} values{channels}: labels are unsigned integers; ingest converts others"
        )


def _check(base: Base, instance: LabelMap) -> None:
    check_labels(base)
    cells = base.extents().cells(instance.block_shape)
    if min(cells.start) <= -_MAX_BLOCK or max(cells.stop) > _MAX_BLOCK:
        raise BadRequest(f"blocks {cells} are out of range: a label index names coordinates below {_MAX_BLOCK}")
    held = instance.base_volume
    if held is not None and held != base:
        raise Conflict(f"{instance.name!r} stands on another volume, or on another state of it: {held.shown_url}")
    space = instance.view(0)
    if base_at(space, 0) is not None:
        raise Conflict(f"{instance.name!r} has adopted {base.shown_url} already")
    for kind in (keys.BLOCK, keys.BODY, keys.MAPPING):
        if next(iter(space.keys(kind)), None) is not None:
            raise Conflict(f"{instance.name!r} isn't empty: make a new labelmap to adopt {base.shown_url}")


def _plan(base: Base, instance: LabelMap, edge: int | None) -> tuple[Plan, int]:
    """The bricks, and how many scales are the base's own."""
    layout = instance.layout
    own = 1
    while own <= layout.levels and base.level(own) is not None:
        own += 1
    box, block = base.extents(), layout.block_shape
    if own == 1:
        return plan_bricks(box, block, levels=layout.levels, itemsize=8, edge=edge), own
    first = plan_bricks(box, block, levels=0, itemsize=8, edge=edge)
    if own > layout.levels:
        return first, own
    more = plan_bricks(box, block, levels=layout.levels, itemsize=8, edge=edge, from_scale=own - 1)
    return Plan(box, block, layout.levels, 8, (*first.grids, *more.grids)), own


@dataclass(frozen=True)
class _Run:
    """A run of an adoption: what all its phases share."""

    base: Base
    instance: LabelMap
    ledger: DraftLedger
    plan: Plan
    own: int
    client: Any
    show: Progress

    def all(self, began: float) -> AdoptReport:
        """All phases."""
        layout, box, plan = self.instance.layout, self.plan.box, self.plan
        self.show.say(
            f"adopt {self.base.shown_url}: voxels {box} of {self.base.dtype}, {plan.blocks:,} blocks, "
            f"{sum(g.count for g in plan.grids):,} bricks"
        )
        resumed = len(self.ledger.done("bricks"))
        partitions = partitions_of(plan) if self.instance.indexed else 0
        bricks = LabelBricks(
            self.ledger,
            "bricks",
            layout,
            plan.grids[0],
            _OfBase(self.base),
            box.start,
            box,
            partitions=partitions,
            adopts=True,
        )
        self.phase("bricks", "bricks", weights(plan.grids[0], box), bricks)
        for scale in range(1, self.own):
            self.note_blocks(scale)
        for grid in plan.grids[1:]:
            name = f"scale{grid.scale}"
            title = f"scales {grid.scale + 1} to {grid.scale + grid.levels}"
            self.phase(name, title, weights(grid, None), LabelBricks(self.ledger, name, layout, grid))
        if partitions:
            each = plan.voxels // partitions
            self.phase("index", "label index", [each] * partitions, MergeCounts(self.ledger, "index"))
        results = self.ledger.done("bricks").values()
        max_label = max((r["max_label"] for r in results), default=0)
        voxels = sum(r["voxels"] for r in results)
        NextLabels(self.instance.repo, self.instance.info.data_uuid).raise_to(max_label)

        def finish(m: Mutation, space: TxSpace) -> None:
            finish_labels(space, max_label, box)
            m.log(self.instance, self.record(m))

        self.ledger.finish(finish, undo=False)
        built = max(0, layout.levels + 1 - self.own)
        return AdoptReport(voxels, self.own, built, max_label, resumed, time.monotonic() - began)

    def note_blocks(self, scale: int) -> None:
        """The phase that looks where a coarser scale holds anything."""
        layout = self.instance.layout
        extents = self.base.extents(scale)
        grid = plan_bricks(extents, layout.block_shape, levels=0, itemsize=8).grids[0]
        grid = Grid(scale, 0, grid.edge, grid.block, grid.region)
        task = _NoteBlocks(self.ledger, f"blocks{scale}", layout, self.base, grid)
        self.phase(f"blocks{scale}", f"scale {scale}", weights(grid, extents), task)

    def phase(self, name: str, title: str, amounts: list[int], task: Any) -> None:
        """Run a phase to its end."""
        job.execute(LedgerPhase(self.ledger, name, title, amounts, task), self.client, self.show)

    def record(self, m: Mutation) -> dict[str, Any]:
        """What the mutation log says, coordinates as in DVID (x, y, z)."""
        box = self.plan.box
        return {
            "Action": "adopt",
            "MutationID": m.id,
            "UUID": m.version.uuid,
            "Timestamp": go_time(m.time),
            "Source": self.base.shown_url,
            "Offset": list(box.start[::-1]),
            "Size": list(box.shape[::-1]),
            "Scales": self.own,
        }
