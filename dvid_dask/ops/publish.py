"""Publish: a committed version as plain files on a disk or bucket, made anew only as far as it changed.

The files are those of `ops.export`. The next publication compares its version with the one that was published before,
at the cost of what differs, and writes only the shards in which something may read differently; the others it takes
over. By default each version has a folder of its own below the destination, complete before its metadata appears, so
that no reader ever sees a mixture::

    <destination>/publications.json   what there is, and which is the latest
    <destination>/<version>/          a volume, with publication.json

In place, one volume at the destination itself is changed to show the next version: new shards are made aside, and
then put into their places one after the other. Each is whole at any moment, but until the last is there readers may see
some of either version.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.bases.urls import directory_url
from dvid_dask.boxes import Box
from dvid_dask.datatypes.annotation import Annotation
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import BodyVolume
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.ops import job
from dvid_dask.ops.changed import changed_blocks
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.levels import Level, level_grid, level_task, plan_levels, write_metadata
from dvid_dask.ops.precomputed import write_properties
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.publications import Publication, write_record
from dvid_dask.ops.publish_elements import publish_elements
from dvid_dask.ops.publishing import LEDGER, Before, PublicationRun, PublishReport, check_publishable

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.ops.bricks import Grid

__all__ = ["PublishReport", "publish"]

_DRAFT = f"{LEDGER}draft/"


@dataclass(frozen=True)
class _Verify:
    """Compares boxes of what was written with the version; pickled once per worker."""

    ledger: ScratchLedger
    phase: str
    levels: list[Level]
    boxes: list[tuple[int, Box]]

    def __call__(self, index: int) -> Result:
        at, box = self.boxes[index]
        level = self.levels[at]
        found = np.asarray(level.open()[box.slices()].read().result())
        if not np.array_equal(found, np.asarray(level.read(box))):
            where = box.shift(level.box.start)
            raise Conflict(
                f"what was written differs from the version in voxels {where.start} to {where.stop} (z, y, x) of scale "
                f"{level.scale}: remove it and publish again"
            )
        return self.ledger.commit(self.phase, index, lambda _, __: {})


def publish(
    instance: Datatype,
    destination: str,
    *,
    format: str | None = None,
    scales: int | None = None,
    supervoxels: bool = False,
    segment_properties: bool = False,
    in_place: bool = False,
    since: str | None = None,
    verify: int = 0,
    client: Any = None,
    progress: bool = True,
) -> PublishReport:
    """Write a volume or elements at a committed version as files that anybody reads without a server, as a Dask graph.

    A second publication writes only what changed since the first. Killed and started again it goes on.

    Parameters
    ----------
    instance
        A labelmap, an image or an annotation, versioned, at a committed version.
    destination
        Path or URL (``file://``, ``gs://``, ``s3://``) of a folder for the publications of this instance: the volume
        is written to ``<destination>/<version>``.
    format
        ``"ome-zarr"`` (the default of volumes), ``"zarr"`` or ``"precomputed"``, as for `export`; always in shards.
        Elements are neuroglancer's precomputed annotations.
    scales, supervoxels, segment_properties
        As for `export`.
    in_place
        The destination is the volume itself, and what is published there is changed to show this version.
    since
        Path or URL of an earlier publication to go on from. By default one of the same place: that of the nearest
        ancestor, else the one made last.
    verify
        Boxes of up to a block to read back from each scale and compare, half of them in what was written now; of
        elements, shards.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the version is open, the instance isn't versioned, or as for `export`.
    Conflict
        If something else is at the destination, a publication in place can't be changed to this version, or lists of
        elements have to be reloaded first.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import zarr
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.arange(1, 3, dtype=np.uint64).repeat(2**23).reshape(512, 256, 128), (0, 0, 0))
    >>> first = repo["master"]
    >>> first.commit()
    >>> folder = tempfile.mkdtemp()
    >>> publish(first["segmentation"], folder, progress=False).written
    2
    >>> second = first.newversion()
    >>> second["segmentation"].write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 0))
    >>> second.commit()
    >>> report = publish(second["segmentation"], folder, progress=False)
    >>> report.written, report.kept
    (1, 1)
    >>> int(zarr.open_group(f"{folder}/{second.uuid}", mode="r")["s0"][0, 0, 0])
    7
    """
    began = time.monotonic()
    version = instance.version
    check_publishable(instance, verify)
    if isinstance(instance, Annotation):
        if format not in (None, "precomputed"):
            raise BadRequest(f"elements are published as precomputed, not as {format}")
        if scales is not None or supervoxels or segment_properties or in_place:
            raise BadRequest("scales, supervoxels, segment properties and in place are for volumes, not for elements")
    format = format or "ome-zarr"
    if segment_properties and (format != "precomputed" or supervoxels or not isinstance(instance, BodyVolume)):
        raise BadRequest("segment properties are those of bodies in a precomputed volume")
    client = job.find_client(client)
    job.check_reach(client, instance)
    if isinstance(instance, Annotation):
        return publish_elements(instance, destination, since=since, verify=verify, client=client, progress=progress)
    around = directory_url(destination)
    url = around if in_place else f"{around}{version.uuid}/"
    run = _Run(instance, url, "" if in_place else around, format, supervoxels, segment_properties, scales)
    show = Progress(progress)
    held = run.held()
    if held is not None and held.version == version.uuid and run.same(held) and not held.updating:
        run.sweep(held.job)
        run.enlist(held)
        done = "it was published before"
        return PublishReport(url, version.uuid, held.since, len(run.levels), 0, 0, 0, time.monotonic() - began, done)
    written, kept, base, reason, verified = run.go(held, since, verify, client, show)
    return PublishReport(
        url,
        version.uuid,
        base.record.version if base else "",
        len(run.levels),
        written,
        kept,
        verified,
        time.monotonic() - began,
        reason,
    )


class _Run(PublicationRun):
    """The publication of a volume."""

    def __init__(
        self,
        instance: Datatype,
        url: str,
        around: str,
        format: str,
        supervoxels: bool,
        properties: bool,
        scales: int | None,
    ) -> None:
        self.instance, self.space = instance, instance.view(0)
        self.format, self.supervoxels, self.properties, self.scales = format, supervoxels, properties, scales
        self.levels = self._levels(url)
        options: dict[str, Any] = {"format": format, "supervoxels": supervoxels, "properties": properties}
        if isinstance(instance, ImageBlk):
            options["background"] = int(instance.background)
        super().__init__(instance, url, around, options, [level.layout for level in self.levels])

    def _levels(self, url: str) -> list[Level]:
        return plan_levels(
            self.instance, self.space, url, format=self.format, scales=self.scales, supervoxels=self.supervoxels
        )

    # ------------------------------------------------------------------ the work

    def go(
        self, held: Publication | None, since: str | None, verify: int, client: Any, show: Progress
    ) -> tuple[int, int, Before | None, str, int]:
        """Write all of it."""
        base, reason = self.before(held, since)
        ledger = self.begin(held, base)
        noted = ledger.begin({})["since"]
        if noted != (base.record.id if base else ""):
            base = self.noted(noted)
        draft = held is not None  # what others read meanwhile stays as it is
        levels = self._levels(f"{self.url}{_DRAFT}") if draft else self.levels
        grids = [level_grid(self.instance, self.space, level, self.format) for level in levels]
        if base is not None:
            scales = [level.scale for level in levels]
            blocks = changed_blocks(self.instance, base.space, self.space, scales, supervoxels=self.supervoxels)
            grids = [lv.bricks_of(grid, b) for lv, grid, b in zip(levels, grids, blocks, strict=True)]
        written = sum(grid.count for grid in grids)
        version = self.instance.version
        show.say(
            f"publish {self.instance.name!r} at version {version.uuid[:12]} to {self.url} ({self.format}): "
            f"{len(levels)} scales, {written:,} shards to write"
            + (f", the others as at version {base.record.version[:12]}" if base else "")
        )
        for level, grid in zip(levels, grids, strict=True):
            phase = f"scale{level.scale}"
            weights = [grid.brick(i).size for i in range(grid.count)]
            task = level_task(ledger, phase, level, grid)
            job.execute(LedgerPhase(ledger, phase, f"scale {level.scale}", weights, task), client, show)
        kept = self._put(ledger, base, levels, grids, draft, client, show) if base is not None else 0
        verified = self._verify(ledger, grids, verify, client, show)
        write_metadata(self.instance, self.levels, self.url, format=self.format)
        if self.properties and isinstance(self.instance, BodyVolume):
            write_properties(self.instance, self.space, self.url, supervoxels=False)
        self.end(ledger, base)
        return written, kept, base, reason, verified

    def _put(
        self,
        ledger: ScratchLedger,
        base: Before,
        levels: Sequence[Level],
        grids: Sequence[Grid],
        draft: bool,
        client: Any,
        show: Progress,
    ) -> int:
        """Take over what didn't change; or, in place, put into it what did. The files that stay as they were."""
        top = f"{self.url}{_DRAFT}" if draft else self.url
        made = {
            f"{level.folder[len(top) :]}{level.object_of(grid, i)}"
            for level, grid in zip(levels, grids, strict=True)
            for i in range(grid.count)
        }
        kept = self.kept(base, made)
        if not draft:
            self.put(ledger, base.url, kept, "take over unchanged files", client, show)
            return len(kept)
        if made:
            version = self.instance.version.uuid
            write_record(self.url, msgspec.structs.replace(base.record, updating=[version, self.job]))
        self.put(ledger, top, sorted(made), "put new shards into place", client, show)
        return len(kept)

    def _verify(self, ledger: ScratchLedger, grids: Sequence[Grid], count: int, client: Any, show: Progress) -> int:
        random = np.random.default_rng(int(self.job[:16], 16))
        boxes = []
        for at, (level, grid) in enumerate(zip(self.levels, grids, strict=True)):
            for i in range(count):
                within = Box.of_shape(level.box.shape)
                if i % 2 and grid.count:
                    within = grid.brick(int(random.integers(grid.count)))
                start = [int(random.integers(a, b)) for a, b in zip(within.start, within.stop, strict=True)]
                stop = [min(a + n, b) for a, n, b in zip(start, grid.block, within.stop, strict=True)]
                boxes.append((at, Box.of(start, stop)))
        task = _Verify(ledger, "verify", self.levels, boxes)
        weights = [box.size for _, box in boxes]
        job.execute(LedgerPhase(ledger, "verify", "compare with the version", weights, task), client, show)
        return len(boxes)
