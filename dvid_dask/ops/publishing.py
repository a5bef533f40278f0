"""What all publications have in common: what to go on from, the ledger, files that are taken over, records."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.bases.urls import directory_url
from dvid_dask.errors import BadRequest, Conflict, DvidError
from dvid_dask.ops import job
from dvid_dask.ops.folders import end_job, ledger_at, plain_url
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.objects import PutObjects
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

__all__ = ["LEDGER", "Before", "PublicationRun", "PublishReport", "check_publishable"]

LEDGER = ".dvid-dask-publish/"
_PARTS = f"{LEDGER}parts/"
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
        Number of scales; of elements, of levels.
    written
        Shards that were made, of all scales.
    kept
        Files that were taken over, or left where they are.
    verified
        Boxes, or shards of elements, that were compared with the version.
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
            text += f", {self.verified:,} parts compared"
        return f"{text} in {self.seconds:.1f} s" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Before:
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


def check_publishable(instance: Datatype, verify: int) -> None:
    """Refuse what can't be published.

    Raises
    ------
    BadRequest
        The version is open, the instance isn't versioned, or `verify` is no number of boxes.
    """
    version = instance.version
    if not instance.info.versioned:
        raise BadRequest(f"{instance.name!r} isn't versioned: it changes at committed versions too; `export` it")
    if not version.locked:
        raise BadRequest(
            f"version {version.uuid} is open: commit it before it is published; `export` writes any version"
        )
    if verify < 0:
        raise BadRequest(f"verify is a number of boxes, got {verify}")


class PublicationRun:
    """One publication: what is to be written where.

    Parameters
    ----------
    instance
        What is published, at a committed version.
    url
        Of the folder that is written.
    around
        Of the folder around the publications of several versions; empty for one in place.
    options
        What decides which files there are, beside the layouts.
    layouts
        How the files are made.
    """

    def __init__(
        self, instance: Datatype, url: str, around: str, options: dict[str, Any], layouts: Sequence[Any]
    ) -> None:
        self.instance = instance
        self.url = url
        self.around = around
        self.space = instance.view(0)
        self.options = options
        self.layouts = [msgspec.json.decode(msgspec.json.encode(layout)) for layout in layouts]
        self.fingerprint = fingerprint(instance)
        self.job = job.job_name(
            op="publish",
            data=instance.info.data_uuid,
            version=instance.version.uuid,
            fingerprint=self.fingerprint,
            options=self.options,
            layouts=self.layouts,
        )

    def misfit(self, record: Publication) -> str:
        """Why an earlier publication's files can't be kept; empty if they can."""
        if record.options != self.options:
            return "the earlier publication has other options"
        if record.layouts != self.layouts:
            return "the volume lies elsewhere than the earlier publication, or has other scales"
        return ""

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

    def _usable(self, url: str) -> Before | str:
        """The publication at a URL to go on from, or why it can't be."""
        record = read_record(url)
        if record is None:
            return f"{url} has no complete publication"
        if record.data != self.instance.info.data_uuid:
            return f"{url} is a publication of something else"
        if record.updating and self.url != url:
            return f"{url} is being updated"
        misfit = self.misfit(record)
        if misfit:
            return misfit
        try:
            version = self.instance.repo[record.version]
        except DvidError:
            return f"the repository has no version {record.version} any more"
        old = version.instance(self.instance.info)
        if fingerprint(old) != record.fingerprint:
            return f"version {record.version} was changed by force after it was published"
        return Before(url, record, old.view(0))

    def before(self, held: Publication | None, since: str | None) -> tuple[Before | None, str]:
        """The publication to go on from; or why there is none."""
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
            if isinstance(found, Before):
                return found, ""
            reason = reason or found
        return None, reason

    # ------------------------------------------------------------------ the work

    def begin(self, held: Publication | None, base: Before | None) -> ScratchLedger:
        """The ledger of the job, begun now or by an earlier run."""
        import tensorstore as ts

        def check_empty() -> None:
            if held is None and ts.KvStore.open(self.url).result().list().result():
                raise Conflict(f"{self.url} is not empty and no publication: give another destination, or remove it")

        if held is not None and not held.updating:
            self.sweep(held.job)
        about = {"op": "publish", "since": base.record.id if base else "", "url": base.url if base else ""}
        return ledger_at(f"{self.url}{LEDGER}", self.job, check_empty, replace=False, about=about)

    def noted(self, wanted: str) -> Before | None:
        """What an earlier run of the job began with."""
        if not wanted:
            return None
        about = ledger_at(f"{self.url}{LEDGER}", self.job, lambda: None, replace=False).begin({})
        found = self._usable(about["url"])
        if isinstance(found, str) or found.record.id != wanted:
            raise Conflict(
                f"{self.url} was begun on the publication at {about['url']}, which has changed: remove it, begin anew"
            )
        return found

    def sweep(self, name: str) -> None:
        """Remove the ledger of a job that was killed when all was done but that."""
        url = f"{self.url}{LEDGER}"
        try:
            trees = Store.open(plain_url(url)).trees()
        except StoreNotFound:
            return
        if any(tree == f"scratch-{name}" for tree in trees):
            end_job(ledger_at(url, name, lambda: None, replace=False), url)

    def put(
        self, ledger: ScratchLedger, source: str, names: Sequence[str], title: str, client: Any, show: Progress
    ) -> None:
        """The phase that puts files of another folder into this one."""
        put = PutObjects(source, self.url, f"{self.url}{_PARTS}")
        batches = [list(names[a : a + _BATCH]) for a in range(0, len(names), _BATCH)]

        def given(indices: Sequence[int]) -> list[Any]:
            from dask import delayed

            return [delayed(batches[i], traverse=False) for i in indices]

        task = _Put(ledger, "put", put)
        job.execute(LedgerPhase(ledger, "put", title, [len(b) for b in batches], task, given), client, show)

    @staticmethod
    def kept(before: Before, made: set[str]) -> list[str]:
        """The files of an earlier publication that are not made anew."""
        import tensorstore as ts

        there = (name.decode() for name in ts.KvStore.open(before.url).result().list().result())
        return sorted(name for name in there if _CHUNKS.fullmatch(name) and name not in made)

    def end(self, ledger: ScratchLedger, before: Before | None) -> None:
        """The last of it: the record, the list, and the ledger is gone."""
        record = self.record(before)
        write_record(self.url, record)
        self.enlist(record)
        end_job(ledger, f"{self.url}{LEDGER}")

    def record(self, base: Before | None) -> Publication:
        """What is kept beside the files."""
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
        entry = Entry(
            version=record.version,
            path=path,
            instance=record.instance,
            format=str(self.options["format"]),
            date=record.date,
        )
        enlist(self.around, entry, self.instance.version)
