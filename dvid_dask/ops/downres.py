"""Coarser scales anew from what is stored: labels by majority, images by the mean."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.imageblk.adopted import AdoptedLayout
from dvid_dask.datatypes.labelmap import LabelVolume
from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.ops import job
from dvid_dask.ops.bricks import Grid, plan_bricks
from dvid_dask.ops.image_bricks import ImageBricks
from dvid_dask.ops.job import InstanceLedger, LedgerPhase
from dvid_dask.ops.label_bricks import LabelBricks
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.stored import block_shape, box_of_blocks, stored_blocks
from dvid_dask.ops.within import Part, Within, within
from dvid_dask.versions.records import go_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace

__all__ = ["DownresReport", "downres"]


@dataclass(frozen=True)
class DownresReport:
    """What a down-sampling did.

    Attributes
    ----------
    job
        Name of the job.
    scales
        Scales that were written.
    bricks
        Bricks of all phases.
    seconds
        Time of this run.
    """

    job: str
    scales: tuple[int, ...]
    bricks: int
    seconds: float

    def __str__(self) -> str:
        return f"wrote scales {self.scales[0]} to {self.scales[-1]} in {self.bricks:,} bricks and {self.seconds:.1f} s"


def downres(
    instance: Datatype,
    *,
    from_scale: int = 0,
    scales: int | None = None,
    region: Part | None = None,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> DownresReport:
    """Compute the coarser scales of a label volume or image from a finer one; what they held is replaced.

    Edits that others make meanwhile are not lost: a brick that they touch is computed anew. Of an image that stands on
    a base with all of these scales, only the bricks in which something was written are done.

    Parameters
    ----------
    instance
        At an open version.
    from_scale
        The scale to start from; it isn't changed.
    scales
        The coarsest scale to write: by default the instance's last one.
    region
        Only voxels in it are written, of coarser scales those whose middle is: a `Region`, a roi, or bricks of a work
        list from `partition`.
    client, progress, user, app, force
        As for `ingest`.

    Raises
    ------
    BadRequest
        If there is nothing to start from or no coarser scale to write.
    LockedVersion
        If the version is committed.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> gray = repo.new_instance("uint8blk", "grayscale")
    >>> gray.write(np.full((64, 64, 64), 9, np.uint8), (0, 0, 0))
    >>> downres(gray, scales=2, progress=False).scales
    (1, 2)
    >>> gray.read_box((0, 0, 0), (1, 1, 3), scale=2)
    array([[[9, 9, 9]]], dtype=uint8)
    """
    began = time.monotonic()
    instance.check_open(force)
    block = block_shape(instance)
    levels = _coarsest(instance) if scales is None else scales
    if not 0 <= from_scale < levels:
        raise BadRequest(
            f"no scale to write: {instance.name!r} would be down-sampled from scale {from_scale} to scale {levels}; "
            "a labelmap keeps as many scales as its MaxDownresLevel says, of an image say how many with scales="
        )
    if isinstance(instance, LabelVolume) and levels > instance.layout.levels:
        raise BadRequest(f"{instance.name!r} keeps {instance.layout.levels} coarser scales, {levels} were asked for")
    part = within(region)
    client = job.find_client(client)
    job.check_reach(client, instance)
    space = instance.view(0)
    # blocks of coarser scales too: those without anything below them have to go
    scales_above = range(from_scale, levels + 1)
    found = [_changed(instance, space, s, scales_above) << (s - from_scale) for s in scales_above]
    blocks = distinct_rows(np.concatenate(found))
    if not len(blocks):
        raise BadRequest(f"{instance.name!r} has no block at scale {from_scale} at version {instance.version.uuid}")
    box = box_of_blocks(blocks << from_scale, block)
    itemsize = 8 if isinstance(instance, LabelVolume) else np.dtype(instance.dtype).itemsize  # type: ignore[attr-defined]
    plan = plan_bricks(box, block, levels=levels, itemsize=itemsize, from_scale=from_scale)
    name = job.job_name(
        op="downres",
        instance=instance.info.data_uuid,
        version=instance.version.uuid,
        scales=[from_scale, levels],
        **({} if part is None else {"region": part.identity}),
    )
    show = Progress(progress)
    grids = _grids(plan.grids, blocks, part)
    total = sum(g.count for g in grids)
    if not total:
        raise BadRequest(f"nothing to do: {instance.name!r} has no block in the region")
    ledger = InstanceLedger(instance, name, user=user, app=app, force=force)
    ledger.begin({"op": "downres", "scales": [from_scale, levels]}, _make_scales(instance, levels))
    show.say(f"scales {from_scale + 1} to {levels} of {instance.name!r}: {len(blocks):,} blocks in {total:,} bricks")
    for grid in grids:
        phase = f"scale{grid.scale}"
        title = f"scales {grid.scale + 1} to {grid.scale + grid.levels}"
        weights = [grid.brick(i).size for i in range(grid.count)]
        task = _task(instance, ledger, phase, grid, part)
        job.execute(LedgerPhase(ledger, phase, title, weights, task), client, show)

    def finish(m: Mutation, _: TxSpace) -> None:
        when = {"Timestamp": go_time(m.time), "UUID": m.version.uuid}
        m.log(instance, {"Action": "downres", "MutationID": m.id, "Scales": [from_scale, levels], **when})

    ledger.finish(finish)
    return DownresReport(name, tuple(range(from_scale + 1, levels + 1)), total, time.monotonic() - began)


def _coarsest(instance: Datatype) -> int:
    if isinstance(instance, LabelVolume):
        return instance.layout.levels
    return max(instance.scales(), default=0) if isinstance(instance, ImageBlk) else 0


def _changed(instance: Datatype, space: Space, scale: int, needed: range) -> NDArray[np.int64]:
    """The blocks of a scale from which coarser ones are to be made, or which are to be made."""
    if isinstance(instance, ImageBlk) and isinstance(layout := instance.layout, AdoptedLayout):
        box = instance.extents
        if box is not None and set(needed[1:]) <= set(layout.base.scales):
            # the base has them all: they are wrong only where something was written
            return layout.written(space, scale, box.at_scale(scale).cells(layout.block))
    return stored_blocks(instance, space, scale)


def _grids(grids: tuple[Grid, ...], blocks: NDArray[np.int64], part: Within | None) -> list[Grid]:
    """The grids with the bricks that have blocks, in the region; `blocks` are of the first grid's scale."""
    made = [grid.only(blocks >> (grid.scale - grids[0].scale)) for grid in grids]
    return made if part is None else [part.bricks(grid) for grid in made]


def _make_scales(instance: Datatype, levels: int) -> Callable[[Any, TxSpace], None]:
    def make(_: Any, space: TxSpace) -> None:
        if isinstance(instance, ImageBlk):
            for scale in range(levels + 1):
                instance.create_scale(space, scale)

    return make


def _task(
    instance: Datatype, ledger: InstanceLedger, phase: str, grid: Grid, part: Within | None
) -> Callable[..., job.Result]:
    if isinstance(instance, LabelVolume):
        return LabelBricks(ledger, phase, instance.layout, grid, within=part)
    if isinstance(instance, ImageBlk) and instance.extents is not None:
        return ImageBricks(ledger, phase, grid, instance.extents, within=part)
    raise BadRequest(f"{instance.name!r} has no extents: nothing was written yet")
