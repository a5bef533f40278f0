"""Export: an instance at a version as zarr 3, OME-Zarr or neuroglancer precomputed, with all its scales.

=================  ==============================================================================================
format             what is written
=================  ==============================================================================================
``zarr``           one zarr 3 array, full resolution
``ome-zarr``       a zarr 3 group of arrays ``s0``, ``s1``, ... with OME-Zarr 0.5 ``multiscales`` metadata
``precomputed``    a neuroglancer volume in shards; labels as ``compressed_segmentation``
=================  ==============================================================================================

Zarr arrays begin at index 0, which is the first voxel of the extents: OME-Zarr says where that is by a translation,
a plain array by its attribute ``offset`` (z, y, x). Chunks are the instance's blocks and lie in shards. A precomputed
volume of labels begins at the first block, so that blocks become chunks as they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.labelmap import BodyVolume
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.ops import job
from dvid_dask.ops.folders import end_job, ledger_at
from dvid_dask.ops.job import LedgerPhase, ScratchLedger
from dvid_dask.ops.levels import Level, level_grid, level_task, plan_levels, write_metadata
from dvid_dask.ops.precomputed import write_properties
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.within import Part, within

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype

__all__ = ["ExportReport", "export"]

_LEDGER = ".dvid-dask-export"


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes
    ----------
    destination
        Where it was written.
    scales
        Number of scales.
    voxels
        Voxels of all scales.
    seconds
        Time of this run.
    """

    destination: str
    scales: int
    voxels: int
    seconds: float

    def __str__(self) -> str:
        amount = f"{self.voxels / 1e6:,.1f} Mvoxel in {self.scales} scales"
        return f"wrote {amount} to {self.destination} in {self.seconds:.1f} s"


def export(
    instance: Datatype,
    destination: str,
    *,
    format: str = "ome-zarr",
    scales: int | None = None,
    supervoxels: bool = False,
    sharded: bool = True,
    segment_properties: bool = False,
    region: Part | None = None,
    client: Any = None,
    progress: bool = True,
) -> ExportReport:
    """Write an instance at a version to another format, as a Dask graph; killed and started again it goes on.

    All is read from one state of the version, also while others edit it.

    Parameters
    ----------
    instance
        A labelmap or an image, at any version. Channels of an image are the first axis in zarr.
    destination
        Path or URL (``file://``, ``gs://``, ``s3://``) of a directory that doesn't exist or is empty.
    format
        ``"zarr"``, ``"ome-zarr"`` or ``"precomputed"``.
    scales
        Coarser scales to write: by default all that are stored; none for ``"zarr"``.
    supervoxels
        Supervoxels instead of bodies.
    sharded
        Whether a precomputed volume puts its chunks together into shards, some thousands a file.
    segment_properties
        Also write the voxels of every body as neuroglancer's ``segment_properties``, for precomputed volumes.
    region
        Only voxels in it, and 0 elsewhere; of coarser scales those whose middle is. The volume written is the box
        around them. A `Region`, a roi, or bricks of a work list from `partition`.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the format is unknown, or the instance is empty or hasn't so many scales, or has no such properties.
    Conflict
        If there is something at the destination.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import zarr
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "1"})
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 64))
    >>> folder = tempfile.mkdtemp() + "/seg.zarr"
    >>> export(seg, folder, progress=False).scales
    2
    >>> group = zarr.open_group(folder, mode="r")
    >>> group["s1"].shape, int(group["s1"][0, 0, 0])
    ((32, 32, 32), 7)
    """
    began = time.monotonic()
    part = within(region)
    if segment_properties and part is not None:
        raise BadRequest("segment properties are those of whole bodies: they don't go with a region")
    if segment_properties and (format != "precomputed" or supervoxels or not isinstance(instance, BodyVolume)):
        raise BadRequest("segment properties are those of bodies in a precomputed volume")
    client = job.find_client(client)
    job.check_reach(client, instance)
    space = instance.view(0)
    url = directory_url(destination)
    levels = plan_levels(
        *(instance, space, url), format=format, scales=scales, supervoxels=supervoxels, sharded=sharded, part=part
    )
    name = job.job_name(
        op="export",
        instance=instance.info.data_uuid,
        state=space.token,
        specs=[level.spec for level in levels],
        supervoxels=supervoxels,
        **({} if part is None else {"region": part.identity}),
    )
    ledger = _begin(instance, url, name, levels, format)
    show = Progress(progress)
    grids = [level_grid(instance, space, level, format) for level in levels]
    bricks = sum(g.count for g in grids)
    total = sum(level.box.size for level in levels)
    show.say(
        f"export {instance.name!r} at version {instance.version.uuid[:12]} to {destination} ({format}): "
        f"{len(levels)} scales, {total / 1e6:,.1f} Mvoxel in {bricks:,} bricks"
    )
    for level, grid in zip(levels, grids, strict=True):
        phase = f"scale{level.scale}"
        weights = [grid.brick(i).size for i in range(grid.count)]
        task = level_task(ledger, phase, level, grid)
        job.execute(LedgerPhase(ledger, phase, f"scale {level.scale}", weights, task), client, show)
    if segment_properties and isinstance(instance, BodyVolume):
        write_properties(instance, space, url, supervoxels=supervoxels)
    end_job(ledger, f"{url}{_LEDGER}/")
    return ExportReport(destination, len(levels), total, time.monotonic() - began)


def _begin(instance: Datatype, url: str, name: str, levels: Sequence[Level], format: str) -> ScratchLedger:
    """Make the arrays, or go on with an export of the same that was interrupted."""
    import tensorstore as ts

    def check_empty() -> None:
        if ts.KvStore.open(url).result().list().result():
            raise Conflict(f"{url} is not empty: give another destination, or remove it")

    ledger = ledger_at(f"{url}{_LEDGER}/", name, check_empty, replace=False)
    write_metadata(instance, levels, url, format=format)
    return ledger
