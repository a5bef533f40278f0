"""Ingest: a volume into a data instance, with all scales, label index, extents and largest label."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import LabelVolume
from dvid_dask.datatypes.labelmap.bulk import finish as finish_labels
from dvid_dask.datatypes.labelmap.restoring import begin_kept, end_kept
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.ops import job
from dvid_dask.ops.bricks import Grid, Plan, plan_bricks
from dvid_dask.ops.image_bricks import ImageBricks
from dvid_dask.ops.job import InstanceLedger, LedgerPhase
from dvid_dask.ops.label_bricks import LabelBricks
from dvid_dask.ops.merge_counts import MergeCounts
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.sources import Volume, open_volume
from dvid_dask.ops.within import Part, Within, within
from dvid_dask.versions.records import go_time

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["IngestPlan", "Report", "ingest", "ingest_plan", "partitions_of", "weights"]

_MAX_BLOCK = 1 << 20  # magnitude of block coordinates that a label index can name
_DASK_EDGE = 256  # a brick of a dask array is in memory as a whole
_ROWS_PER_BLOCK = 48  # labels in a block of a dense segmentation, for the number of partitions only
_ROWS_PER_PARTITION = 1 << 21
_COARSEST = 128  # an image gets scales until it is about as small as this


@dataclass(frozen=True)
class IngestPlan:
    """What an ingest is going to do; `str` of it is for people."""

    volume: Volume
    origin: Point  # voxel at which the volume's first one goes
    instance: Datatype
    plan: Plan
    label_offset: int
    partitions: int
    within: Within | None = None

    @property
    def job(self) -> str:
        """Name of the job: the same for the same source, instance, version and parameters."""
        return job.job_name(
            op="ingest",
            source=self.volume.identity,
            instance=self.instance.info.data_uuid,
            version=self.instance.version.uuid,
            box=self.plan.box,
            levels=self.plan.levels,
            edges=[g.edge for g in self.plan.grids],
            label_offset=self.label_offset,
            partitions=self.partitions,
            **({} if self.within is None else {"region": self.within.identity, "origin": self.origin}),
        )

    def __str__(self) -> str:
        plan = self.plan
        bricks = " + ".join(f"{g.count:,}" for g in plan.grids)
        scales = f"scales 0 to {plan.levels}" if plan.levels else "scale 0 only"
        where = f", those in {self.within}" if self.within else ""
        index = f", label index in {self.partitions:,} partitions" if self.partitions else ""
        return (
            f"ingest {self.volume.name} ({_extent(self.volume.shape)} {self.volume.dtype}, {_size(plan.bytes)})\n"
            f"  into {self.instance.name!r} at version {self.instance.version.uuid[:12]}, "
            f"voxels {plan.box}{where}\n"
            f"  {plan.blocks:,} blocks of {_extent(plan.block)}, {scales}{index}\n"
            f"  {bricks} bricks of up to {_extent(plan.grids[0].edge)} voxels, one commit each; "
            f"about {_size(plan.memory)} a task"
        )


@dataclass(frozen=True)
class Report:
    """What an ingest did.

    Attributes
    ----------
    job
        Name of the job.
    voxels
        Voxels of scale 0 that were written, those of an earlier run of the job included.
    resumed
        Bricks that an earlier run had finished.
    bricks
        Bricks altogether.
    max_label
        Largest label, 0 for images.
    seconds
        Time of this run.
    """

    job: str
    voxels: int
    resumed: int
    bricks: int
    max_label: int
    seconds: float

    def __str__(self) -> str:
        rate = self.voxels / 1e6 / self.seconds if self.seconds and not self.resumed else 0
        speed = f", {rate:,.0f} Mvoxel/s" if rate else ""
        earlier = f" ({self.resumed:,} of {self.bricks:,} bricks by an earlier run)" if self.resumed else ""
        return f"wrote {self.voxels / 1e6:,.1f} Mvoxel in {self.seconds:.1f} s{speed}{earlier}"


def _extent(shape: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def ingest_plan(
    source: Any,
    instance: Datatype,
    *,
    offset: Sequence[int] = (0, 0, 0),
    crop: Box | tuple[Sequence[int], Sequence[int]] | None = None,
    axes: str | Sequence[str] | None = None,
    dtype: Any = None,
    scales: int | None = None,
    label_offset: int = 0,
    brick_edge: int | None = None,
    region: Part | None = None,
) -> IngestPlan:
    """What `ingest` would do with these arguments; nothing is written.

    Raises
    ------
    BadRequest
        If the source doesn't fit the instance.
    """
    volume = open_volume(source, axes=axes, crop=crop, dtype=dtype)
    if len(offset) != 3:
        raise BadRequest(f"the offset is a voxel (z, y, x), got {tuple(offset)}")
    z, y, x = (int(o) for o in offset)
    box = volume.box.shift((z, y, x))
    part = within(region)
    if part is not None:
        box = part.bounds(box)
        if not box:
            raise BadRequest(f"nothing to do: no voxel of {volume.name}, from {(z, y, x)} on, is in the region")
    if label_offset < 0:
        raise BadRequest(f"the label offset must be 0 or more, got {label_offset}")
    if brick_edge is None and volume.delayed([]) is not None:
        brick_edge = _DASK_EDGE
    if isinstance(instance, LabelVolume):
        plan, partitions = _plan_labels(volume, instance, box, scales, brick_edge)
    elif isinstance(instance, ImageBlk):
        if label_offset:
            raise BadRequest(f"{instance.name!r} is an image: it has no labels to offset")
        plan, partitions = _plan_image(volume, instance, box, scales, brick_edge), 0
    else:
        raise _no_volume(instance)
    if part is not None:
        plan = _only(plan, part)
    return IngestPlan(volume, (z, y, x), instance, plan, label_offset, partitions, part)


def _only(plan: Plan, part: Within) -> Plan:
    """The plan with the bricks that have voxels of a region under them."""
    return replace(plan, grids=tuple(part.bricks(grid) for grid in plan.grids))


def _no_volume(instance: Datatype) -> NotSupported:
    return NotSupported(f"volumes go into label volumes and images; {instance.name!r} is a {instance.info.typename}")


def _plan_labels(
    volume: Volume, instance: LabelVolume, box: Box, scales: int | None, edge: int | None
) -> tuple[Plan, int]:
    if volume.dtype.kind != "u":
        hint = "; dtype='uint64' converts it" if volume.dtype.kind == "i" else ""
        raise BadRequest(f"{volume.name} has {volume.dtype} values, but labels are unsigned integers{hint}")
    layout = instance.layout
    levels = layout.levels if scales is None else scales
    if not 0 <= levels <= layout.levels:
        raise BadRequest(
            f"{instance.name!r} keeps {layout.levels} coarser scales (MaxDownresLevel), {levels} were asked for"
        )
    plan = plan_bricks(box, layout.block_shape, levels=levels, itemsize=8, edge=edge)
    cells = box.cells(layout.block_shape)
    if min(cells.start) <= -_MAX_BLOCK or max(cells.stop) > _MAX_BLOCK:
        raise BadRequest(f"blocks {cells} are out of range: a label index names coordinates below {_MAX_BLOCK}")
    return plan, partitions_of(plan) if instance.indexed else 0


def partitions_of(plan: Plan) -> int:
    """Enough that one is a few million rows, and that there is one for every few bricks."""
    by_size = plan.blocks * _ROWS_PER_BLOCK // _ROWS_PER_PARTITION
    by_bricks = min(8, plan.grids[0].count)
    return 1 << max(by_size, by_bricks, 1).bit_length() - 1


def _plan_image(volume: Volume, instance: ImageBlk, box: Box, scales: int | None, edge: int | None) -> Plan:
    if instance.layout.channels > 1:
        raise NotSupported(f"{instance.name!r} has {instance.layout.channels} channels: volumes of one are ingested")
    if volume.dtype != np.dtype(instance.dtype).newbyteorder("="):
        raise BadRequest(
            f"{volume.name} has {volume.dtype} values, but {instance.name!r} holds {instance.dtype}: "
            f"dtype='{instance.dtype}' converts them where they fit"
        )
    held = max(instance.scales(), default=0)
    levels = (held or _natural_levels(box)) if scales is None else scales
    if not 0 <= levels < 32:
        raise BadRequest(f"{levels} coarser scales: expected 0 to 31")
    return plan_bricks(box, instance.block_shape, levels=levels, itemsize=volume.dtype.itemsize, edge=edge)


def _natural_levels(box: Box) -> int:
    return max(0, (max(box.shape) // _COARSEST).bit_length() - 1)


def ingest(
    source: Any,
    instance: Datatype,
    *,
    offset: Sequence[int] = (0, 0, 0),
    crop: Box | tuple[Sequence[int], Sequence[int]] | None = None,
    axes: str | Sequence[str] | None = None,
    dtype: Any = None,
    scales: int | None = None,
    label_offset: int = 0,
    brick_edge: int | None = None,
    region: Part | None = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> Report:
    """Write a volume into a labelmap, an older label volume or an image, as a Dask graph.

    Blocks, all coarser scales (labels by majority, images by mean), the label index, extents and largest label are as
    if the voxels had been posted; what was there before in the same voxels is replaced, and the label index stays
    exact. Killed at any point and started again with the same arguments it goes on where it was.

    Parameters
    ----------
    source
        Anything `open_volume` reads.
    instance
        At an open version.
    offset
        Voxel of the instance at which the source's first voxel goes (z, y, x); may be negative. It need not be a
        multiple of the block size: voxels beside the box keep their values.
    crop
        Only the voxels [start, stop) of the source (z, y, x); their first one goes to `offset`.
    axes, dtype
        As for `open_volume`.
    scales
        Coarser scales to write: by default those the instance keeps; for an image that has none yet, as many as make
        it small.
    label_offset
        Added to every label except 0.
    brick_edge
        Largest edge of a brick in voxels.
    region
        Only voxels in it are written: a `Region`, a roi, or bricks of a work list from `partition`. Bricks without any
        are not even read.
    client
        A `distributed.Client`; by default the current one, else Dask's own choice of scheduler.
    progress
        Print the plan, and a progress bar where there is a terminal or a notebook.
    user, app, force
        As for `Datatype.mutate`.

    Raises
    ------
    BadRequest
        If the source doesn't fit the instance, or holds the label 2**64 - 1: a brick with it is not written.
    LockedVersion
        If the version is committed.
    JobFailedError
        If a task failed; start the same ingest again to go on.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "1"})
    >>> labels = np.zeros((64, 64, 128), np.uint64)
    >>> labels[:, :32, 20:70] = 7
    >>> report = ingest(labels, seg, offset=(0, 64, 0), progress=False)
    >>> report.voxels, report.max_label, seg.size(7)
    (524288, 7, 102400)
    >>> seg.read((0, 32, 9), (1, 1, 3), scale=1)
    array([[[0, 7, 7]]], dtype=uint64)
    """
    began = time.monotonic()
    show = Progress(progress)
    instance.check_open(force)
    plan = ingest_plan(
        source,
        instance,
        offset=offset,
        crop=crop,
        axes=axes,
        dtype=dtype,
        scales=scales,
        label_offset=label_offset,
        brick_edge=brick_edge,
        region=region,
    )
    show.say(str(plan))
    client = job.find_client(client)
    job.check_reach(client, instance)
    ledger = InstanceLedger(instance, plan.job, user=user, app=app, force=force)
    with reachable(plan.volume, client) as volume:
        run = _Run(plan, volume, ledger, client, show, began)
        if isinstance(instance, LabelVolume):
            return _ingest_labels(run, instance)
        if isinstance(instance, ImageBlk):
            return _ingest_image(run, instance)
    raise _no_volume(instance)


@contextlib.contextmanager
def reachable(volume: Volume, client: Any) -> Iterator[Volume]:
    """The volume in a form that all workers can read: an array of this process goes to a file they map."""
    if not volume.in_memory or client is None or job.shares_memory(client):
        yield volume
        return
    hosts = {w["host"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
    if not hosts <= {"127.0.0.1", "localhost", "::1"} and len(hosts) > 1:
        raise BadRequest(
            f"{volume.name} lives in this process's memory, but the workers run on {len(hosts)} machines: "
            "save it where they can read it (zarr, .npy on a shared disk) and give that"
        )
    with tempfile.TemporaryDirectory(prefix="dvid-dask-") as folder:
        path = os.path.join(folder, "volume.npy")
        array = np.lib.format.open_memmap(path, "w+", volume.dtype, volume.shape)
        for z in range(0, volume.shape[0], 64):
            part = Box.of((z, 0, 0), (min(z + 64, volume.shape[0]), *volume.shape[1:]))
            array[z : z + 64] = volume.read(part)
        del array
        yield open_volume(path)


@dataclass(frozen=True)
class _Run:
    """A run of an ingest: what all its phases share."""

    plan: IngestPlan
    volume: Volume
    ledger: InstanceLedger
    client: Any
    show: Progress
    began: float

    def phase(self, name: str, title: str, weights: Sequence[int], task: Any, given: Any = None) -> None:
        """Run a phase to its end."""
        job.execute(LedgerPhase(self.ledger, name, title, weights, task, given), self.client, self.show)

    def bricks(self, task: Callable[[str, Grid, bool], Any]) -> tuple[dict[int, Any], int]:
        """Run the phases of bricks; results of the first one, and how many of those an earlier run had done."""
        resumed = len(self.ledger.done("bricks"))
        for i, grid in enumerate(self.plan.plan.grids):
            if i == 0:
                voxels = weights(grid, self.plan.plan.box)
                self.phase("bricks", "bricks", voxels, task("bricks", grid, True), self.given)
            else:
                name = f"scale{grid.scale}"
                title = f"scales {grid.scale + 1} to {grid.scale + grid.levels}"
                self.phase(name, title, weights(grid, None), task(name, grid, False))
        return self.ledger.done("bricks"), resumed

    @property
    def given(self) -> Callable[[Sequence[int]], list[Any] | None] | None:
        """For a source that Dask computes: makes the parts that bricks get, as dask objects."""
        if self.source is not None:
            return None
        box, grid, origin = self.plan.plan.box, self.plan.plan.grids[0], self.plan.origin

        def given(indices: Sequence[int]) -> list[Any] | None:
            return self.volume.delayed([grid.brick(i).intersect(box).relative(origin) for i in indices])

        return given

    @property
    def source(self) -> Volume | None:
        """What tasks read themselves."""
        return self.volume if self.volume.delayed([]) is None else None

    def report(self, results: dict[int, Any], resumed: int, max_label: int = 0) -> Report:
        """What to tell."""
        return Report(
            job=self.plan.job,
            voxels=sum(r["voxels"] for r in results.values()),
            resumed=resumed,
            bricks=self.plan.plan.grids[0].count,
            max_label=max_label,
            seconds=time.monotonic() - self.began,
        )


def weights(grid: Grid, box: Box | None) -> list[int]:
    """Voxels of each brick, within the box if there is one."""
    bricks = (grid.brick(i) for i in range(grid.count))
    return [(b if box is None else b.intersect(box)).size for b in bricks]


def _about(plan: IngestPlan) -> dict[str, Any]:
    return {"op": "ingest", "source": plan.volume.name, "box": plan.plan.box, "levels": plan.plan.levels}


def _ingest_labels(run: _Run, instance: LabelVolume) -> Report:
    plan, ledger = run.plan, run.ledger
    box = plan.plan.box
    about = _about(plan)
    cells = box.cells(instance.block_shape)

    def begin(m: Mutation, _: TxSpace) -> None:
        last = (v - 1 for v in cells.stop)
        about["undo"] = begin_kept(m, instance, "ingest", (*cells.start, *last))  # type: ignore[arg-type]

    begun = ledger.begin(about, begin).get("undo", 0)

    def task(name: str, grid: Grid, first: bool) -> LabelBricks:
        if not first:
            return LabelBricks(ledger, name, instance.layout, grid)
        return LabelBricks(
            *(ledger, name, instance.layout, grid, run.source, plan.origin, box),
            *(plan.label_offset, plan.partitions, plan.within),
        )

    results, resumed = run.bricks(task)
    if plan.partitions:
        weights = [plan.plan.voxels // plan.partitions] * plan.partitions
        run.phase("index", "label index", weights, MergeCounts(ledger, "index"))
    max_label = max((r["max_label"] for r in results.values()), default=0)

    def finish(m: Mutation, space: TxSpace) -> None:
        finish_labels(space, max_label, box)
        instance.note_largest(space, max_label)
        m.log(instance, _record(plan, m, "ingest-labels"))
        end_kept(m, instance, begun)

    ledger.finish(finish)
    return run.report(results, resumed, max_label)


def _ingest_image(run: _Run, instance: ImageBlk) -> Report:
    plan, ledger = run.plan, run.ledger
    box, held = plan.plan.box, instance.extents
    whole = box if held is None else box.union(Box.of(*held))

    def make_scales(_: Mutation, space: TxSpace) -> None:
        for scale in range(plan.plan.levels + 1):
            instance.create_scale(space, scale)

    ledger.begin(_about(plan), make_scales)

    def task(name: str, grid: Grid, first: bool) -> ImageBricks:
        if not first:
            return ImageBricks(ledger, name, grid, whole)
        return ImageBricks(ledger, name, grid, whole, run.source, plan.origin, box, plan.within)

    results, resumed = run.bricks(task)

    def finish(m: Mutation, space: TxSpace) -> None:
        instance.grow_extents(space, box.start, box.stop)
        m.log(instance, _record(plan, m, "ingest-image"))

    ledger.finish(finish)
    return run.report(results, resumed)


def _record(plan: IngestPlan, m: Mutation, action: str) -> dict[str, Any]:
    """What the mutation log says, coordinates as in DVID (x, y, z)."""
    return {
        "Action": action,
        "MutationID": m.id,
        "UUID": m.version.uuid,
        "Timestamp": go_time(m.time),
        "Source": plan.volume.name,
        "Offset": list(plan.plan.box.start[::-1]),
        "Size": list(plan.plan.box.shape[::-1]),
        "Scales": plan.plan.levels,
        **({} if plan.within is None else {"Region": str(plan.within)}),
    }
