"""Annotation elements by the million: bulk load from tables, and lists made anew, as Dask graphs.

=========  ===============  =================================================================================
phase      partitioned by   what a task does
=========  ===============  =================================================================================
``read``   part of a table  checks rows, and leaves them by the region of space that they lie in
``file``   region           writes whole blocks; looks up the bodies of their elements, block by block, and leaves
                            slips for the lists of bodies and tags (`dvid_dask.ops.element_lists`)
``scan``   run of blocks    when lists are made anew: the same, from the blocks that are there
``bodies`` body             writes lists of bodies, and with them what counts elements (labelsz)
``tags``   tag              writes lists of tags
=========  ===============  =================================================================================

No two tasks of a phase write the same key. All of it happens on a draft of the version (`dvid_dask.ops.drafts`), so it
is seen all at once or not at all, and a job that was killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dvid_dask.datatypes.annotation import Annotation, keys, reload, state
from dvid_dask.datatypes.annotation.blocks import block_of, in_blocks, new_blocks
from dvid_dask.datatypes.annotation.catching_up import CatchUp
from dvid_dask.datatypes.annotation.edits import unique_positions
from dvid_dask.datatypes.annotation.elements import Elements, decode_many, encode_groups, find
from dvid_dask.datatypes.annotation.filing import tag_pairs
from dvid_dask.datatypes.annotation.lists import Directory, Drop, place_of
from dvid_dask.datatypes.base import Space
from dvid_dask.datatypes.events import ListsReplaced
from dvid_dask.datatypes.labelsz import LabelSize
from dvid_dask.errors import BadRequest, DvidError, NotSupported
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.ops import job
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.element_lists import BODIES, TAGS, Slip, Slips, TaskNumbers
from dvid_dask.ops.element_sources import ElementTable, open_elements
from dvid_dask.ops.element_tables import from_arrow
from dvid_dask.ops.job import LedgerPhase, Result
from dvid_dask.ops.label_bricks import partition_of
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["BLOCKS_PER_TASK", "ElementsReport", "block_runs", "load_elements", "reload_elements"]

_PER_PARTITION = 1 << 18
_MOST_PARTITIONS = 4096
_REGION_BITS = 2
"""Regions are cubes of 4 blocks a side."""

BLOCKS_PER_TASK = 1 << 13
_BLOCKS_TOGETHER = 1024
_FLUSH = 1 << 18


@dataclass(frozen=True)
class ElementsReport:
    """What a bulk load did, or a reload.

    Attributes
    ----------
    job
        Name of the job.
    mutation
        Id of the mutation that it is.
    elements
        Elements that were loaded, or that were there.
    replaced
        Of those that were loaded, how many took the place of another.
    bodies, tags
        Lists of bodies and of tags that were written.
    seconds
        Time of this run.
    """

    job: str
    mutation: int
    elements: int
    replaced: int
    bodies: int
    tags: int
    seconds: float

    def __str__(self) -> str:
        rate = self.elements / self.seconds if self.seconds else 0.0
        old = f", {self.replaced:,} in the place of others" if self.replaced else ""
        return (
            f"{self.elements:,} elements{old}, in {self.bodies:,} bodies and with {self.tags:,} tags, "
            f"in {self.seconds:.1f} s ({rate:,.0f}/s)"
        )


def load_elements(
    table: Any,
    instance: Datatype,
    *,
    duplicates: Literal["error", "last"] = "error",
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> ElementsReport:
    """Add the elements of a table to an annotation, as a Dask graph: blocks, lists of bodies and tags, and counts.

    An element at the position of another takes its place, as with ``POST elements``. The result is seen all at once:
    until the last step the version is as it was, and a run that is killed leaves nothing of it; the same call then goes
    on where it was.

    Parameters
    ----------
    table
        Columns ``x``, ``y``, ``z`` and maybe ``kind``, ``tags``, ``prop``, ``rels``: see
        `dvid_dask.ops.element_tables`. A dask or pandas dataframe, an Arrow table, columns by name, or the path of
        ``.parquet`` or ``.csv`` files, which are read part by part.
    instance
        An annotation at an open version.
    duplicates
        What to do about positions that come twice in the table: refuse it, or take the last row.
    client, progress
        As for `ingest`.
    user, app
        Who asks, with which program; kept in the mutation log.

    Raises
    ------
    BadRequest
        If the table isn't one of elements. Nothing is changed.
    Conflict
        If others meanwhile changed the segmentation, or elements of the same blocks or bodies. Nothing is changed:
        start it again.
    LockedVersion
        If the version is committed.
    JobFailedError
        If a task failed for another reason; the same call goes on.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> synapses = repo.new_instance("annotation", "synapses")
    >>> table = {"x": [10, 80], "y": [20, 20], "z": [30, 30], "kind": ["PreSyn", "PostSyn"], "tags": [["auto"], None]}
    >>> report = load_elements(table, synapses, progress=False)
    >>> report.elements, report.tags, len(synapses.of_tag("auto"))
    (2, 1, 1)
    """
    began = time.monotonic()
    annotation = bulk_annotation(instance)
    if duplicates not in ("error", "last"):
        raise BadRequest(f"duplicates is 'error' or 'last', not {duplicates!r}")
    source = open_elements(table)
    client = job.find_client(client)
    job.check_reach(client, annotation)
    name = job.job_name(
        op="load-elements",
        table=source.identity,
        instance=annotation.info.data_uuid,
        version=annotation.version.uuid,
        duplicates=duplicates,
    )
    show = Progress(progress, unit="Melement")
    partitions = max(1, min(_MOST_PARTITIONS, -(-source.rows // _PER_PARTITION)))
    show.say(
        f"load about {source.rows:,} elements into {annotation.name!r} at version {annotation.version.uuid[:12]}: "
        f"{len(source.parts)} parts, {partitions} partitions, seen when done"
    )
    about = {"op": "load-elements", "partitions": partitions}
    ledger = DraftLedger.start(annotation, name, about, user=user, app=app)
    run = _Load(_Bulk(ledger, int(ledger.about["partitions"]), anew=False), keep_last=duplicates == "last")
    try:
        return run(source, client, show, began)
    except DvidError:
        ledger.give_up()
        raise


def reload_elements(
    instance: Datatype, *, client: Any = None, progress: bool = True, user: str = "", app: str = ""
) -> ElementsReport:
    """Make all lists of an annotation anew from the elements in its blocks and the segmentation, as a Dask graph.

    Lists follow every edit by themselves. This is for annotations that were given another segmentation to follow, for
    versions that were merged, and for lists that somebody stored as they liked; `Annotation.reload` does it in one
    commit for up to some million elements. It is seen all at once, and goes on after a kill, as `load_elements`. While
    it runs, elements can't be added or moved at this version, as during any reload.

    Parameters
    ----------
    instance
        An annotation at an open version.
    client, progress, user, app
        As for `load_elements`.

    Raises
    ------
    Conflict
        If others meanwhile changed the segmentation or the annotation, or another reload runs. Nothing is changed:
        start it again.
    LockedVersion
        If the version is committed.
    JobFailedError
        If a task failed for another reason; the same call goes on.
    """
    began = time.monotonic()
    name = job.job_name(
        op="reload-elements",
        instance=instance.info.data_uuid,
        version=instance.version.uuid,
        follows=list(instance.info.syncs),
    )
    annotation = bulk_annotation(instance, name)
    client = job.find_client(client)
    job.check_reach(client, annotation)
    with annotation.holding_reload(name, user=user, app=app):
        return _reload(annotation, name, client, Progress(progress, unit="Melement"), began, user=user, app=app)


def _reload(
    annotation: Annotation, name: str, client: Any, show: Progress, began: float, *, user: str, app: str
) -> ElementsReport:
    space = annotation.view(0)
    runs = block_runs(space)
    show.say(
        f"reload {annotation.name!r} at version {annotation.version.uuid[:12]}: about "
        f"{len(runs) * BLOCKS_PER_TASK:,} blocks in {len(runs)} parts, seen when done"
    )
    about = {
        "op": "reload-elements",
        "partitions": max(1, min(_MOST_PARTITIONS, 2 * len(runs))),
        "runs": [key.hex() for key in runs],
    }
    ledger = DraftLedger.start(annotation, name, about, user=user, app=app)
    run = _Reload(
        _Bulk(ledger, int(ledger.about["partitions"]), anew=True), [bytes.fromhex(key) for key in ledger.about["runs"]]
    )
    try:
        return run(client, show, began)
    except DvidError:
        ledger.give_up()
        raise


def bulk_annotation(instance: Datatype, reload: str = "") -> Annotation:
    """The instance, if elements can be loaded into it.

    Parameters
    ----------
    instance
        At its version.
    reload
        Name of the job that makes its lists anew, if it is one.

    Raises
    ------
    NotSupported
        If it is no annotation.
    LockedVersion
        If its version is committed.
    Conflict
        If its lists are being made anew by another one.
    """
    if not isinstance(instance, Annotation):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: elements belong to an annotation")
    instance.check_open()
    state.check_no_reload(instance.view(0), reload)
    return instance


def block_runs(space: Space) -> list[bytes]:
    """The first key of each run of some thousand blocks of an annotation."""
    return [key for i, key in enumerate(space.keys(keys.BLOCK)) if i % BLOCKS_PER_TASK == 0]


# ---------------------------------------------------------------------- what both share


@dataclass(frozen=True)
class _Bulk:
    """The lists of a job, and its last step."""

    ledger: DraftLedger
    partitions: int
    anew: bool
    annotation: Annotation = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "annotation", bulk_annotation(self.ledger.instance, self.ledger.name))

    @property
    def bodies(self) -> Slips:
        return Slips(self.ledger, BODIES, self.partitions)

    @property
    def tags(self) -> Slips:
        return Slips(self.ledger, TAGS, self.partitions)

    def made_for(self) -> state.State:
        """What blocks and lists are made for."""
        space = self.ledger.base()
        held, wanted = state.read_state(space), self.annotation._wanted_state()
        if self.anew or held is None or next(iter(space.keys(keys.BLOCK)), None) is None:
            return wanted
        return held

    def located(self, zyx: NDArray[np.int32]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Bodies and supervoxels at positions, when the job began."""
        source: Any = self.annotation.source
        if source is None:
            return np.zeros(len(zyx), np.uint64), np.zeros(len(zyx), np.uint64)
        return source.labels_in(self.space_of(source), zyx)  # type: ignore[no-any-return]

    def space_of(self, other: Datatype) -> Space:
        """The keys of another instance when the job began; as they are, if they lie in another tree."""
        mine, theirs = self.annotation, other
        if theirs.version.tree(theirs.info).name != mine.version.tree(mine.info).name:
            return other.view(0)
        return other.space_in(self.ledger.base().view)

    def slips(self, task: int, part: int, phase: int, come: Elements, gone: Elements) -> list[tuple[bytes, bytes]]:
        """What elements that came, and those whose place they take, mean for the lists: keys and values to write."""
        items: list[tuple[bytes, bytes]] = []
        if self.annotation.source is not None:
            bodies, supervoxels = self.located(np.concatenate([come.zyx, gone.zyx]))
            n = len(come)
            listed = come.listed(supervoxels[:n])
            names, place = np.unique(bodies, return_inverse=True)
            place = place.reshape(-1)
            if len(names) and names[0] == 0:  # background has no list
                names, place = names[1:], place - 1
            new, old = place[:n] >= 0, place[n:] >= 0
            drop = Drop(gone.zyx[old], supervoxels[n:][old])
            slip = _slip(names, (place[:n][new], listed[new]), (place[n:][old], drop))
            items += self._cut(self.bodies, task, part, phase, slip)
        tags: dict[str, int] = {}
        gained, gained_by = tag_pairs(come.tags, tags)
        lost, lost_by = tag_pairs(gone.tags, tags)
        if tags:
            order = sorted(tags)
            rank = np.empty(len(tags), np.int64)
            rank[[tags[name] for name in order]] = np.arange(len(order))
            texts = np.empty(len(order), object)
            texts[:] = order
            chosen, left = come[gained_by], gone[lost_by]
            listed = chosen.listed(place_of(chosen.zyx), empties=True)
            slip = _slip(texts, (rank[gained], listed), (rank[lost], Drop(left.zyx, place_of(left.zyx))))
            items += self._cut(self.tags, task, part, phase, slip)
        return items

    def _cut(self, slips: Slips, task: int, part: int, phase: int, slip: Slip) -> list[tuple[bytes, bytes]]:
        numbers = TaskNumbers(self.ledger.mutation, phase + slips.kind.number, (task << 8) | part)
        slip, pages = slip.paged(numbers)
        return [*pages, *slips.cut(task, part, slip)]

    def make_lists(self, client: Any, show: Progress) -> None:
        """The phases ``bodies`` and ``tags``."""
        weights = [_PER_PARTITION] * self.partitions
        for slips, title in ((self.bodies, "write lists of bodies"), (self.tags, "write lists of tags")):
            work = _MakeLists(self, slips)
            job.execute(LedgerPhase(self.ledger, slips.kind.name, title, weights, work), client, show)

    def finish(self, action: str, elements: int) -> None:
        """Have it seen."""
        annotation = self.annotation
        made_for = self.made_for()

        def finish(m: Mutation, space: TxSpace) -> None:
            state.write_state(space, made_for)
            m.publish(annotation, ListsReplaced(m.id), to=lambda follower: not self.told_by_task(follower))
            m.log(annotation, {"Action": action, "Elements": elements, "MutationID": m.id})

        self.ledger.finish(finish, catch_up=CatchUp(annotation, made_for.shape, to=self.told_by_task))

    def report(self, elements: int, replaced: int, began: float) -> ElementsReport:
        """What was done; the marks of tasks must still be there."""
        bodies, tags = (sum(r["lists"] for r in self.ledger.done(kind).values()) for kind in ("bodies", "tags"))
        return ElementsReport(
            self.ledger.name, self.ledger.mutation, elements, replaced, bodies, tags, time.monotonic() - began
        )

    def told_by_task(self, follower: Datatype) -> bool:
        """Whether tasks tell a follower what they do; others are told at the end that all is new.

        When lists are made anew, what was before isn't told, so who is told by tasks has to begin from nothing.
        """
        mine, theirs = self.annotation, follower
        if theirs.version.tree(theirs.info).name != mine.version.tree(mine.info).name:
            return False
        return not self.anew or (isinstance(follower, LabelSize) and follower.follows == [mine.name])

    def followers(self) -> list[Datatype]:
        """The instances that follow the annotation."""
        annotation = self.annotation
        infos = annotation.repo.state().instances.values()
        return [annotation.version.instance(info) for info in infos if annotation.info.data_uuid in info.syncs]


def _slip(names: NDArray[Any], add: tuple[NDArray[np.int64], Elements], drop: tuple[NDArray[np.int64], Drop]) -> Slip:
    return Slip.of(names, add, drop, (np.empty(0, np.int64), Directory.empty()))


@dataclass(frozen=True)
class _MakeLists:
    bulk: _Bulk
    slips: Slips

    def __call__(self, partition: int) -> Result:
        bulk = self.bulk
        return self.slips.make(bulk.annotation, partition, self.slips.kind.name, bulk.told_by_task)


# ---------------------------------------------------------------------- loading


@dataclass(frozen=True)
class _Load:
    bulk: _Bulk
    keep_last: bool

    @property
    def ledger(self) -> DraftLedger:
        return self.bulk.ledger

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of a block (z, y, x)."""
        return self.bulk.made_for().shape

    def __call__(self, source: ElementTable, client: Any, show: Progress, began: float) -> ElementsReport:
        bulk, ledger = self.bulk, self.ledger

        def given(indices: Sequence[int]) -> list[Any]:
            return [source.parts[i] for i in indices]

        read = LedgerPhase(ledger, "read", "read table", source.weights, self._read, given)
        job.execute(read, client, show)
        rows = sum(r["rows"] for r in ledger.done("read").values())
        weights = [max(1, rows // bulk.partitions)] * bulk.partitions
        job.execute(LedgerPhase(ledger, "file", "write blocks", weights, self._file), client, show)
        bulk.make_lists(client, show)
        done = ledger.done("file").values()
        elements, replaced = sum(r["elements"] for r in done), sum(r["replaced"] for r in done)
        report = bulk.report(elements, replaced, began)
        bulk.finish("load-elements", elements)
        return report

    # -------------------------------------------------------------- the table

    def _prefix(self, partition: int) -> bytes:
        return self.ledger.key("x", b"rows", b"%08x" % partition, b"")

    def _read(self, index: int, part: Any) -> Result:
        """Check rows, and leave them by region."""
        if (done := self.ledger.mark(self.ledger.view(), "read", index)) is not None:
            return done
        elements = from_arrow(part.table(), part.first)
        region = block_of(elements.zyx, self.shape) >> _REGION_BITS
        where = partition_of(_mixed(region), self.bulk.partitions)
        order = np.argsort(where, kind="stable")
        borders = np.append(np.flatnonzero(np.r_[True, np.diff(where[order]) != 0]), len(order)) if len(order) else [0]
        values = encode_groups(elements[order], borders)
        names = where[order][np.asarray(borders[:-1], np.int64)].tolist()
        items = [(self._prefix(p) + b"%08x" % index, value) for p, value in zip(names, values, strict=True)]

        def step(_: Mutation, space: TxSpace) -> Result:
            space.put_many(items)
            return {"rows": len(elements)}

        return self.ledger.commit("read", index, step)

    # -------------------------------------------------------------- blocks

    def _file(self, partition: int) -> Result:
        """Write the blocks of a region, and leave slips for lists."""
        space = self.ledger.view()
        if (done := self.ledger.mark(space, "file", partition)) is not None:
            return done
        come, _ = decode_many([value for _, value in space.scan(self._prefix(partition))])
        once = unique_positions(come)
        if len(once) < len(come) and not self.keep_last:
            raise BadRequest(f"the table has positions twice: {_twice(come)}; nothing is changed")
        come, shape = once, self.shape
        blocks = distinct_rows(block_of(come.zyx, shape))
        held, _ = in_blocks(space, blocks)
        place = find(held.zyx, come.zyx)
        old = place >= 0
        gone = held[place[old]]
        # in the order of their coming, what takes the place of another at its place
        order = np.arange(len(held))
        order[place[old]] = len(held) + np.flatnonzero(old)
        whole = Elements.join([held, come]) if len(held) else come
        order = np.concatenate([order, len(held) + np.flatnonzero(~old)])
        items = new_blocks(whole[order], shape)
        items += self.bulk.slips(partition, 0, 0, come, gone)

        def step(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {"elements": len(come), "replaced": len(gone)}

        return self.ledger.commit("file", partition, step)


def _mixed(region: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A number for each region (n, 3)."""
    r = region.astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed: NDArray[np.uint64] = r[:, 0] * np.uint64(0x9E3779B97F4A7C15) + r[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed += r[:, 2] * np.uint64(0x165667B19E3779F9)
    return mixed


def _twice(elements: Elements) -> str:
    """Some positions that come again, as x, y, z."""
    first = find(elements.zyx, elements.zyx)
    again = elements.zyx[first != np.arange(len(elements))]
    more = f" and {len(again) - 3:,} more" if len(again) > 3 else ""
    return ", ".join(str(tuple(at)) for at in again[:3, ::-1].tolist()) + more + " (x, y, z)"


# ---------------------------------------------------------------------- lists anew


@dataclass(frozen=True)
class _Reload:
    bulk: _Bulk
    runs: list[bytes]

    @property
    def ledger(self) -> DraftLedger:
        return self.bulk.ledger

    def __call__(self, client: Any, show: Progress, began: float) -> ElementsReport:
        bulk, ledger = self.bulk, self.ledger
        job.execute(LedgerPhase(ledger, "clear", "remove lists", [0], self._clear), client, show)
        weights = [BLOCKS_PER_TASK] * len(self.runs)
        job.execute(LedgerPhase(ledger, "scan", "read blocks", weights, self._scan), client, show)
        if self._recut:
            weights = [BLOCKS_PER_TASK] * bulk.partitions
            job.execute(LedgerPhase(ledger, "recut", "write blocks", weights, self._put_recut), client, show)
        bulk.make_lists(client, show)
        elements = sum(r["elements"] for r in ledger.done("scan").values())
        report = bulk.report(elements, 0, began)
        bulk.finish("reload", elements)
        return report

    @property
    def _recut(self) -> bool:
        """Whether blocks get another shape."""
        annotation = self.bulk.annotation
        return annotation._state(self.ledger.base()).shape != annotation._wanted_state().shape

    def _clear(self, index: int) -> Result:
        def step(m: Mutation, space: TxSpace) -> Result:
            reload.clear_lists(space)
            if self._recut:
                space.delete_prefix(keys.BLOCK)
            for follower in self.bulk.followers():
                if isinstance(follower, LabelSize) and self.bulk.told_by_task(follower):
                    follower.forget(m)
            return {}

        return self.ledger.commit("clear", index, step)

    def _scan(self, index: int) -> Result:
        """Leave slips for the lists of the elements in a run of blocks, and the elements by region if blocks change."""
        if (done := self.ledger.mark(self.ledger.view(), "scan", index)) is not None:
            return done
        stop = self.runs[index + 1] if index + 1 < len(self.runs) else None
        items: list[tuple[bytes, bytes]] = []
        total = 0
        for part, elements in enumerate(self._batches(self.runs[index], stop)):
            items += self.bulk.slips(index, part, 0, elements, Elements.none())
            total += len(elements)
            if self._recut:
                items += self._by_region(index, part, elements)

        def step(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {"elements": total}

        return self.ledger.commit("scan", index, step)

    def _batches(self, start: bytes, stop: bytes | None) -> Iterator[Elements]:
        held: list[Elements] = []
        values: list[bytes] = []
        for _, value in self.ledger.base().scan(keys.BLOCK, start, stop):
            values.append(value)
            if len(values) == _BLOCKS_TOGETHER:
                held.append(decode_many(values)[0])
                values = []
            if sum(map(len, held)) > _FLUSH:
                yield Elements.join(held)
                held = []
        if values:
            held.append(decode_many(values)[0])
        if held:
            yield Elements.join(held)

    def _region_prefix(self, partition: int) -> bytes:
        return self.ledger.key("x", b"recut", b"%08x" % partition, b"")

    def _by_region(self, index: int, part: int, elements: Elements) -> list[tuple[bytes, bytes]]:
        region = block_of(elements.zyx, self.bulk.annotation._wanted_state().shape) >> _REGION_BITS
        where = partition_of(_mixed(region), self.bulk.partitions)
        order = np.argsort(where, kind="stable")
        borders = np.append(np.flatnonzero(np.r_[True, np.diff(where[order]) != 0]), len(order))
        values = encode_groups(elements[order], borders)
        names = where[order][borders[:-1]].tolist()
        return [(self._region_prefix(p) + b"%08x-%08x" % (index, part), v) for p, v in zip(names, values, strict=True)]

    def _put_recut(self, partition: int) -> Result:
        space = self.ledger.view()
        if (done := self.ledger.mark(space, "recut", partition)) is not None:
            return done
        held, _ = decode_many([value for _, value in space.scan(self._region_prefix(partition))])
        items = new_blocks(held, self.bulk.annotation._wanted_state().shape)

        def step(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {}

        return self.ledger.commit("recut", partition, step)
