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

import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.bases.urls import directory_url
from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import BodyVolume
from dvid_dask.errors import BadRequest, Conflict, DvidError
from dvid_dask.ops import job
from dvid_dask.ops.changed import changed_blocks
from dvid_dask.ops.folders import end_job, ledger_at, plain_url
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.levels import Level, level_grid, level_task, plan_levels, write_metadata
from dvid_dask.ops.objects import PutObjects
from dvid_dask.ops.precomputed import write_properties
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.publications import (
    Entry,
    Publication,
    enlist,
    fingerprint,
    read_list,
    read_record,
    write_record,
)
from dvid_dask.store import Store, StoreNotFound

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype, Space
    from dvid_dask.ops.bricks import Grid

__all__ = ["PublishReport", "publish"]

_LEDGER = ".dvid-dask-publish/"
_DRAFT = f"{_LEDGER}draft/"
_PARTS = f"{_LEDGER}parts/"
_BATCH = 64  # objects that a task puts in place
_CHUNKS = re.compile(r"((s\d+/)?c/\d+(/\d+)*|[\w.+-]+/[0-9a-f]+\.shard)")


@dataclass(frozen=True)
class PublishReport:
    """What a publication did.

    Attributes
    ----------
    destination
        Path or URL of the volume.
    version
        UUID of the version.
    since
        UUID of the version whose publication it goes on from; empty where everything was written.
    scales
        Number of scales.
    written
        Shards that were made, of all scales.
    kept
        Files that were taken over, or left where they are.
    verified
        Boxes that were compared with the version.
    seconds
        Time of this run.
    reason
        Why nothing was taken over, or nothing done; empty otherwise.
    """

    destination: str
    version: str
    since: str
    scales: int
    written: int
    kept: int
    verified: int
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        text = f"published version {self.version[:12]} at {self.destination}: {self.written:,} shards written"
        if self.since:
            text += f", {self.kept:,} kept of version {self.since[:12]}"
        if self.verified:
            text += f", {self.verified:,} boxes compared"
        return f"{text} in {self.seconds:.1f} s" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class _Base:
    """An earlier publication to go on from."""

    url: str
    record: Publication
    space: Space


@dataclass(frozen=True)
class _Put:
    """Puts objects, and notes how many there were; pickled once per worker."""

    ledger: ScratchLedger
    phase: str
    put: PutObjects

    def __call__(self, index: int, names: list[str]) -> Result:
        count = self.put(names)
        return self.ledger.commit(self.phase, index, lambda _, __: {"objects": count})


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
    format: str = "ome-zarr",
    scales: int | None = None,
    supervoxels: bool = False,
    segment_properties: bool = False,
    in_place: bool = False,
    since: str | None = None,
    verify: int = 0,
    client: Any = None,
    progress: bool = True,
) -> PublishReport:
    """Write a volume at a committed version as files that anybody reads without a server, as a Dask graph.

    A second publication writes only what changed since the first. Killed and started again it goes on.

    Parameters
    ----------
    instance
        A labelmap or an image, versioned, at a committed version.
    destination
        Path or URL (``file://``, ``gs://``, ``s3://``) of a folder for the publications of this instance: the volume
        is written to ``<destination>/<version>``.
    format
        ``"ome-zarr"``, ``"zarr"`` or ``"precomputed"``, as for `export`; always in shards.
    scales, supervoxels, segment_properties
        As for `export`.
    in_place
        The destination is the volume itself, and what is published there is changed to show this version.
    since
        Path or URL of an earlier publication to go on from. By default one of the same place: that of the nearest
        ancestor, else the one made last.
    verify
        Boxes of up to a block to read back from each scale and compare, half of them in what was written now.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the version is open, the instance isn't versioned, or as for `export`.
    Conflict
        If something else is at the destination, or a publication in place can't be changed to this version.

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
    if not instance.info.versioned:
        raise BadRequest(f"{instance.name!r} isn't versioned: it changes at committed versions too; `export` it")
    if not version.locked:
        raise BadRequest(
            f"version {version.uuid} is open: commit it before it is published; `export` writes any version"
        )
    if segment_properties and (format != "precomputed" or supervoxels or not isinstance(instance, BodyVolume)):
        raise BadRequest("segment properties are those of bodies in a precomputed volume")
    if verify < 0:
        raise BadRequest(f"verify is a number of boxes, got {verify}")
    client = job.find_client(client)
    job.check_reach(client, instance)
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


class _Run:
    """One publication: what is to be written where."""

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
        self.instance = instance
        self.url = url
        self.around = around
        self.space = instance.view(0)
        self.format, self.supervoxels, self.properties, self.scales = format, supervoxels, properties, scales
        self.levels = self._levels(url)
        self.options: dict[str, Any] = {"format": format, "supervoxels": supervoxels, "properties": properties}
        if isinstance(instance, ImageBlk):
            self.options["background"] = int(instance.background)
        self.layouts = [msgspec.json.decode(msgspec.json.encode(level.layout)) for level in self.levels]
        self.fingerprint = fingerprint(instance)
        self.job = job.job_name(
            op="publish",
            data=instance.info.data_uuid,
            version=instance.version.uuid,
            fingerprint=self.fingerprint,
            options=self.options,
            layouts=self.layouts,
        )

    def _levels(self, url: str) -> list[Level]:
        return plan_levels(
            self.instance, self.space, url, format=self.format, scales=self.scales, supervoxels=self.supervoxels
        )

    # ------------------------------------------------------------------ what is there

    def held(self) -> Publication | None:
        """What is published at the very place."""
        held = read_record(self.url)
        if held is None:
            return None
        if held.data != self.instance.info.data_uuid:
            raise Conflict(f"{self.url} is a publication of {held.instance!r} in repository {held.repo}")
        if held.updating and held.updating[1] != self.job:
            raise Conflict(
                f"{self.url} is on the way from version {held.version} to {held.updating[0]}: publish that first"
            )
        if not self.same(held) and (not self.around or held.version == self.instance.version.uuid):
            raise Conflict(
                f"{self.url} was published with other options, scales or extents, or the version was changed by force "
                "afterwards: give another destination, or remove what is there"
            )
        return held

    def same(self, held: Publication) -> bool:
        """Whether the files of a publication are made as those of this one."""
        unchanged = held.version != self.instance.version.uuid or held.fingerprint == self.fingerprint
        return held.options == self.options and held.layouts == self.layouts and unchanged

    def _usable(self, url: str) -> _Base | str:
        """The publication at a URL to go on from, or why it can't be."""
        record = read_record(url)
        if record is None:
            return f"{url} has no complete publication"
        if record.data != self.instance.info.data_uuid:
            return f"{url} is a publication of something else"
        if record.updating and self.url != url:
            return f"{url} is being updated"
        if record.options != self.options:
            return "the earlier publication has other options"
        if record.layouts != self.layouts:
            return "the volume lies elsewhere than the earlier publication, or has other scales"
        try:
            version = self.instance.repo[record.version]
        except DvidError:
            return f"the repository has no version {record.version} any more"
        old = version.instance(self.instance.info)
        if fingerprint(old) != record.fingerprint:
            return f"version {record.version} was changed by force after it was published"
        return _Base(url, record, old.view(0))

    def _base(self, held: Publication | None, since: str | None) -> tuple[_Base | None, str]:
        if held is not None:
            found = self._usable(self.url)
            if isinstance(found, str):  # nobody reads a volume of which half the files mean something else
                raise Conflict(f"{self.url} can't be changed in place: {found}; give another destination")
            return found, ""
        if since is not None:
            found = self._usable(directory_url(since))
            if isinstance(found, str):
                raise BadRequest(f"can't go on from {since}: {found}")
            return found, ""
        if not self.around:
            return None, ""
        entries = read_list(self.around).publications
        above = {v.uuid: v.id for v in self.instance.version.ancestors()}
        entries.sort(key=lambda e: (e.version in above, above.get(e.version, 0), e.date), reverse=True)
        reason = ""
        for entry in entries:
            found = self._usable(f"{self.around}{entry.path}")
            if isinstance(found, _Base):
                return found, ""
            reason = reason or found
        return None, reason

    # ------------------------------------------------------------------ the work

    def go(
        self, held: Publication | None, since: str | None, verify: int, client: Any, show: Progress
    ) -> tuple[int, int, _Base | None, str, int]:
        """Write all of it."""
        base, reason = self._base(held, since)
        ledger = self._begin(held, base)
        noted = ledger.begin({})["since"]
        if noted != (base.record.id if base else ""):
            base = self._noted(noted)
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
        record = self._record(base)
        write_record(self.url, record)
        self.enlist(record)
        end_job(ledger, f"{self.url}{_LEDGER}")
        return written, kept, base, reason, verified

    def _begin(self, held: Publication | None, base: _Base | None) -> ScratchLedger:
        import tensorstore as ts

        def check_empty() -> None:
            if held is None and ts.KvStore.open(self.url).result().list().result():
                raise Conflict(f"{self.url} is not empty and no publication: give another destination, or remove it")

        if held is not None and not held.updating:
            self.sweep(held.job)
        about = {"op": "publish", "since": base.record.id if base else "", "url": base.url if base else ""}
        return ledger_at(f"{self.url}{_LEDGER}", self.job, check_empty, replace=False, about=about)

    def _noted(self, wanted: str) -> _Base | None:
        """What an earlier run of the job began with."""
        if not wanted:
            return None
        about = ledger_at(f"{self.url}{_LEDGER}", self.job, lambda: None, replace=False).begin({})
        found = self._usable(about["url"])
        if isinstance(found, str) or found.record.id != wanted:
            raise Conflict(
                f"{self.url} was begun on the publication at {about['url']}, which has changed: remove it, begin anew"
            )
        return found

    def sweep(self, name: str) -> None:
        """Remove the ledger of a job that was killed when all was done but that."""
        url = f"{self.url}{_LEDGER}"
        try:
            trees = Store.open(plain_url(url)).trees()
        except StoreNotFound:
            return
        if any(tree == f"scratch-{name}" for tree in trees):
            end_job(ledger_at(url, name, lambda: None, replace=False), url)

    def _put(
        self,
        ledger: ScratchLedger,
        base: _Base,
        levels: Sequence[Level],
        grids: Sequence[Grid],
        draft: bool,
        client: Any,
        show: Progress,
    ) -> int:
        """Take over what didn't change; or, in place, put into it what did. The files that stay as they were."""
        import tensorstore as ts

        top = f"{self.url}{_DRAFT}" if draft else self.url
        made = {
            f"{level.folder[len(top) :]}{level.object_of(grid, i)}"
            for level, grid in zip(levels, grids, strict=True)
            for i in range(grid.count)
        }
        there = (name.decode() for name in ts.KvStore.open(base.url).result().list().result())
        kept = sorted(name for name in there if _CHUNKS.fullmatch(name) and name not in made)
        names = sorted(made) if draft else kept
        put = PutObjects(top if draft else base.url, self.url, f"{self.url}{_PARTS}")
        if draft and names:
            version = self.instance.version.uuid
            write_record(self.url, msgspec.structs.replace(base.record, updating=[version, self.job]))
        batches = [names[a : a + _BATCH] for a in range(0, len(names), _BATCH)]
        title = "put new shards into place" if draft else "take over unchanged files"

        def given(indices: Sequence[int]) -> list[Any]:
            from dask import delayed

            return [delayed(batches[i], traverse=False) for i in indices]

        task = _Put(ledger, "put", put)
        job.execute(LedgerPhase(ledger, "put", title, [len(b) for b in batches], task, given), client, show)
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

    def _record(self, base: _Base | None) -> Publication:
        instance = self.instance
        return Publication(
            id=uuid.uuid4().hex,
            repo=instance.repo.root,
            data=instance.info.data_uuid,
            version=instance.version.uuid,
            instance=instance.name,
            typename=instance.info.typename,
            options=self.options,
            layouts=self.layouts,
            fingerprint=self.fingerprint,
            since=base.record.version if base else "",
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            job=self.job,
        )

    def enlist(self, record: Publication) -> None:
        """Put a publication on the list of those beside it."""
        if not self.around:
            return
        held = read_list(self.around)
        path = f"{record.version}/"
        if any(e.path == path and e.date == record.date for e in held.publications):
            return
        entry = Entry(version=record.version, path=path, instance=record.instance, format=self.format, date=record.date)
        enlist(self.around, entry, self.instance.version)
