"""The label index against the voxels it should count: check, and repair.

Voxels and index are read into the same kind of rows (body, block, supervoxel, voxels), which are cut by body and region
into partitions; in each, rows of both sides meet and have to be equal. Everything is read from one pinned state. What
lies between goes to a scratch tree, so that memory holds a partition, and a check that was killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import BodyVolume, keys
from dvid_dask.datatypes.labelmap.blocks import Layout, read_blocks
from dvid_dask.datatypes.labelmap.columns import pack, unpack
from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.roi import Region
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct_rows, is_among
from dvid_dask.ops import job
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.label_bricks import partition_of
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.stored import stored_blocks
from dvid_dask.ops.within import Part, within
from dvid_dask.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace

__all__ = ["IndexProblem", "IndexReport", "check_index", "ranges_of_bodies"]

_PAGE_BITS = 4  # a page of the label index holds the rows of 16^3 blocks
_REGION_BITS = 3  # voxels are read in bricks of 8^3 blocks
_BODIES_PER_TASK = 20_000
_FLUSH_ROWS = 1 << 19
_ROWS_PER_BLOCK = 48
_ROWS_PER_PARTITION = 1 << 20
_SHIFT = np.int64(1 << 31)
_REPORTED = 1000
_COLUMNS = 6  # body, z, y, x, supervoxel, count


@dataclass(frozen=True)
class IndexProblem:
    """Where index and voxels differ.

    Attributes
    ----------
    body
        The body.
    what
        What is wrong, for people.
    """

    body: int
    what: str

    def __str__(self) -> str:
        return f"body {self.body}: {self.what}"


@dataclass(frozen=True)
class IndexReport:
    """What a check found.

    Attributes
    ----------
    voxels
        Voxels that aren't background.
    rows
        Pairs of block and supervoxel in the volume.
    bodies
        Bodies in the index.
    count
        Differences found.
    problems
        The first of them.
    repaired
        Whether they were put right.
    seconds
        Time of this run.
    """

    voxels: int
    rows: int
    bodies: int
    count: int
    problems: tuple[IndexProblem, ...]
    repaired: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the index was right."""
        return self.count == 0

    def __str__(self) -> str:
        head = f"{self.bodies:,} bodies, {self.rows:,} rows, {self.voxels:,} voxels in {self.seconds:.1f} s: "
        if self.ok:
            return head + "the index is exact"
        lines = [head + f"{self.count:,} differences" + (", repaired" if self.repaired else "")]
        lines += [f"  {p}" for p in self.problems[:20]]
        if self.count > 20:
            lines.append(f"  and {self.count - 20:,} more")
        return "\n".join(lines)


# ------------------------------------------------------------------ rows of both sides


@dataclass
class _Out:
    """Rows on their way into partitions; written in parts, so that none gets large."""

    ledger: ScratchLedger
    side: str
    task: int
    partitions: int
    held: int = 0
    part: int = 0

    def __post_init__(self) -> None:
        self.parts: list[tuple[NDArray[np.uint64], Rows]] = []

    def add(self, bodies: NDArray[np.uint64], rows: Rows) -> None:
        self.parts.append((bodies, rows))
        self.held += len(rows)
        if self.held >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self.held:
            return
        bodies = np.concatenate([b for b, _ in self.parts])
        rows = Rows.concatenate([r for _, r in self.parts])
        self.parts, self.held = [], 0
        where = _partition(bodies, rows.block_zyx, self.partitions)
        order = np.argsort(where, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(where[order]) != 0])
        items = []
        for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            chosen = order[a:b]
            table = [bodies[chosen], *(rows[chosen].block_zyx.T.astype(np.int64) + _SHIFT).astype(np.uint64)]
            value = pack([*table, rows.supervoxel[chosen], rows.count[chosen].astype(np.uint64)])
            name = b"%08x-%08x" % (self.task, self.part)
            items.append((_prefix(self.ledger, int(where[chosen[0]]), self.side) + name, value))
        # the same rows at every try: a task that runs again overwrites what it wrote
        self.ledger.mutate(lambda _, tx: tx.put_many(items))
        self.part += 1


def _prefix(ledger: ScratchLedger, partition: int, side: str) -> bytes:
    return ledger.key("x", b"%08x" % partition, side.encode(), b"")


def _partition(bodies: NDArray[np.uint64], block_zyx: NDArray[np.int32], partitions: int) -> NDArray[np.int64]:
    """By body and region: even a body that is everywhere is cut into pieces."""
    region = (block_zyx >> 4).astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = bodies * np.uint64(0x9E3779B97F4A7C15) + region[:, 0] * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed += region[:, 1] * np.uint64(0x165667B19E3779F9) + region[:, 2] * np.uint64(0x27D4EB2F165667C5)
    return partition_of(mixed, partitions)


@dataclass(frozen=True)
class _FromVoxels:
    """Rows of a brick's blocks."""

    ledger: ScratchLedger
    space: Space
    layout: Layout
    bricks: NDArray[np.int64]
    partitions: int
    inside: Region | None = None

    def __call__(self, index: int) -> Result:
        side = 1 << _REGION_BITS
        offsets = np.indices((side, side, side)).reshape(3, -1).T
        wanted = self.bricks[index] * side + offsets
        if self.inside is not None:
            wanted = wanted[self.inside.contains_blocks(wanted)]
        mapping = Mapping(self.space)
        out = _Out(self.ledger, "voxels", index, self.partitions)
        voxels = rows = 0
        for coords, blocks in read_blocks(self.space, self.layout, 0, wanted):
            counted = [label_blocks.count(b) for b in blocks]
            label = np.concatenate([names for names, _ in counted])
            count = np.concatenate([n for _, n in counted])
            block = np.repeat(coords, [len(names) for names, _ in counted], axis=0)
            bodies = mapping.bodies(label)
            real = (label != 0) & (bodies != 0)
            voxels += int(count[real].sum())
            rows += int(real.sum())
            out.add(bodies[real], Rows.of(block[real], label[real], count[real]))
        out.flush()
        return self.ledger.commit("voxels", index, lambda _, __: {"voxels": voxels, "rows": rows})


@dataclass(frozen=True)
class _FromIndex:
    """Rows of the bodies in a range of ids, with what is wrong inside their records."""

    ledger: ScratchLedger
    space: Space
    edges: Sequence[int]
    partitions: int
    inside: Region | None = None

    def __call__(self, index: int) -> Result:
        start, stop = self.edges[index], self.edges[index + 1]
        reader = Index(self.space)
        out = _Out(self.ledger, "index", index, self.partitions)
        problems: list[tuple[int, str]] = []
        lost: list[int] = []
        bodies = 0
        known: set[int] = set()
        for body in reader.bodies(start, None if stop >= 1 << 64 else stop):
            bodies += 1
            try:
                if self._read(reader, body, out, problems):
                    known.add(body)
            except DamagedDataError as e:
                problems.append((body, f"damaged: {e}"))
                known.add(body)
                lost.append(body)
        for body in self._orphans(start, stop, known):
            problems.append((body, "has pages but no record"))
            lost.append(body)
        out.flush()
        result = {"bodies": bodies, "broken": problems, "lost": lost}
        return self.ledger.commit("index", index, lambda _, __: result)

    def _read(self, reader: Index, body: int, out: _Out, problems: list[tuple[int, str]]) -> bool:
        """Hand out the rows of a body; whether it has pages."""
        header = reader.header(body)
        if header is None:
            return False
        if header.paged and self.inside is not None and not self._has_pages_inside(reader, body):
            return True
        voxels = rows = 0
        sums: dict[int, int] = {}
        for page in reader.scan_rows(body):
            here = page if self.inside is None else page[self.inside.contains_blocks(page.block_zyx)]
            out.add(np.full(len(here), body, np.uint64), here)
            voxels += page.voxels
            rows += len(page)
            for sv, n in zip(page.supervoxel.tolist(), page.count.tolist(), strict=True):
                sums[sv] = sums.get(sv, 0) + n
        for name, says, has in (("voxels", header.voxels, voxels), ("rows", header.rows, rows)):
            if says != has:
                problems.append((body, f"its record says {says:,} {name}, its pages have {has:,}"))
        table = reader.supervoxels(body)
        if table is None or dict(zip(table.id.tolist(), table.voxels.tolist(), strict=True)) != sums:
            problems.append((body, "its table of supervoxels doesn't agree with its rows"))
        return header.paged

    def _has_pages_inside(self, reader: Index, body: int) -> bool:
        """Whether a body has pages with blocks that are compared."""
        if self.inside is None:
            return True
        regions = reader.regions(body)
        shape = [n << _PAGE_BITS for n in self.inside.block_shape]
        return bool(self.inside.rescaled(shape).contains_blocks(regions).any())

    def _orphans(self, start: int, stop: int, known: set[int]) -> Iterator[int]:
        for letter in (keys.pages(0)[:1], keys.buckets(0)[:1]):
            low = letter + start.to_bytes(8, "big")
            high = None if stop >= 1 << 64 else letter + stop.to_bytes(8, "big")
            last = -1
            for key in self.space.keys(letter, start=low, stop=high):
                body = keys.body_of(key)
                if body != last and body not in known:
                    yield body
                last = body


# ------------------------------------------------------------------ both sides meet


@dataclass(frozen=True)
class _Compare:
    """Compares a partition; with an instance, puts right what differs. What the index says of `lost` bodies is void."""

    ledger: ScratchLedger
    lost: NDArray[np.uint64]
    repair: BodyVolume | None
    who: dict[str, Any]

    def __call__(self, partition: int) -> Result:
        table, is_index = self._load(partition)
        body, sv = table[0], table[4]
        order = np.lexsort((is_index, sv, table[3], table[2], table[1], body))
        table, is_index = table[:, order], is_index[order]
        same = np.ones(table.shape[1], np.bool_)
        same[0:1] = False
        same[1:] = (table[:5, 1:] == table[:5, :-1]).all(axis=0)
        starts = np.flatnonzero(~same)
        sign = np.where(is_index, 0, table[5].astype(np.int64))
        held = np.where(is_index & ~is_among(table[0], self.lost), table[5].astype(np.int64), 0)
        right = np.add.reduceat(sign, starts) if len(starts) else np.empty(0, np.int64)
        has = np.add.reduceat(held, starts) if len(starts) else np.empty(0, np.int64)
        wrong = np.flatnonzero(right != has)
        rows = table[:, starts[wrong]]
        right, has = right[wrong], has[wrong]
        first = [
            (int(rows[0, i]), _difference(rows[:, i], int(right[i]), int(has[i]))) for i in range(min(len(wrong), 50))
        ]
        if self.repair is not None and len(wrong):
            self._repair(rows, right)
        result = {"count": len(wrong), "problems": first}
        return self.ledger.commit("compare", partition, lambda _, __: result)

    def _load(self, partition: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        tables, sides = [np.empty((_COLUMNS, 0), np.uint64)], [np.empty(0, np.bool_)]
        space = self.ledger.view()
        for side in ("voxels", "index"):
            for _, value in space.scan(_prefix(self.ledger, partition, side)):
                tables.append(unpack(value, _COLUMNS))
                sides.append(np.full(tables[-1].shape[1], side == "index"))
        return np.concatenate(tables, axis=1), np.concatenate(sides)

    def _repair(self, rows: NDArray[np.uint64], right: NDArray[np.int64]) -> None:
        instance = self.repair
        if instance is None:
            return
        blocks = (rows[1:4].astype(np.int64) - _SHIFT).T.astype(np.int32)
        starts = np.flatnonzero(np.r_[True, rows[0, 1:] != rows[0, :-1]])

        def put_right(_: Mutation, space: TxSpace) -> None:
            index = Index(space)
            for a, b in zip(starts.tolist(), [*starts[1:].tolist(), rows.shape[1]], strict=True):
                index.update(int(rows[0, a]), Rows.of(blocks[a:b], rows[4, a:b], right[a:b]))

        instance.mutate(put_right, **self.who)


def _difference(row: NDArray[np.uint64], right: int, has: int) -> str:
    block = (row[1:4].astype(np.int64) - _SHIFT).tolist()
    return f"supervoxel {int(row[4])} has {right:,} voxels in block {tuple(block)} (z, y, x), the index says {has:,}"


# ------------------------------------------------------------------ the door


def check_index(
    instance: Datatype,
    *,
    repair: bool = False,
    region: Part | None = None,
    client: Any = None,
    progress: bool = True,
    scratch: str | None = None,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> IndexReport:
    """Count all voxels of a labelmap anew and compare its label index with that.

    Parameters
    ----------
    instance
        A labelmap, at any version.
    repair
        Put the index right where it differs. Nobody should write to the instance meanwhile: if somebody did before the
        repair begins, nothing is repaired.
    region
        Only blocks with voxels in it are compared: a `Region`, a roi, or bricks of a work list from `partition`. That
        the record of a body agrees with its rows is checked for every body that has blocks there.
    client, progress, user, app, force
        As for `ingest`.
    scratch
        Path or URL of a store for what lies between; by default a tree of the same store, which must then be writable.

    Raises
    ------
    BadRequest
        If the index of a body is damaged as a whole, and only a region should be repaired.
    Conflict
        If the version was changed between check and repair: check again.
    LockedVersion
        If the version is committed and should be repaired.
    NotSupported
        If the instance is no labelmap or keeps no index.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 0))
    >>> check_index(seg, progress=False).ok
    True
    """
    began = time.monotonic()
    if not isinstance(instance, BodyVolume) or not instance.indexed:
        raise NotSupported(f"{instance.name!r} ({instance.info.typename}) has no label index")
    if repair:
        instance.check_open(force)
    client = job.find_client(client)
    job.check_reach(client, instance)
    show = Progress(progress)
    part = within(region)
    inside = None if part is None else part.region.rescaled(instance.block_shape)
    space = instance.view(0)
    ledger = _begin(instance, space, scratch, None if part is None else part.identity)
    blocks = stored_blocks(instance, space, 0)
    if inside is not None:
        blocks = blocks[inside.contains_blocks(blocks)]
    partitions = max(8, 2 * _ROWS_PER_BLOCK * len(blocks) // _ROWS_PER_PARTITION)
    show.say(f"label index of {instance.name!r}: {len(blocks):,} blocks, {partitions:,} partitions")
    edges = ranges_of_bodies(Index(space))
    bricks = distinct_rows(blocks >> _REGION_BITS)
    voxels = int(np.prod(instance.block_shape)) << 3 * _REGION_BITS
    count = _FromVoxels(ledger, space, instance.layout, bricks, partitions, inside)
    _run(ledger, "voxels", [voxels] * len(bricks), count, client, show)
    read = _FromIndex(ledger, space, edges, partitions, inside)
    _run(ledger, "index", [_BODIES_PER_TASK] * (len(edges) - 1), read, client, show)
    broken = [IndexProblem(*p) for r in ledger.done("index").values() for p in r["broken"]]
    lost = [body for r in ledger.done("index").values() for body in r["lost"]]
    who = {"user": user, "app": app, "force": force}
    if repair and part is not None and lost:
        raise BadRequest(f"the index of body {lost[0]} is damaged beyond the region: repair it without one")
    if repair:
        _rebuild_broken(instance, space, broken, set(lost), who)
    compare = _Compare(ledger, np.array(lost, np.uint64), instance if repair else None, who)
    _run(ledger, "compare", [voxels * len(bricks) // partitions] * partitions, compare, client, show)
    report = _report(ledger, broken, repair, began)
    ledger.drop()
    return report


def _run(ledger: ScratchLedger, name: str, weights: list[int], task: Any, client: Any, show: Progress) -> None:
    titles = {"voxels": "count voxels", "index": "read index", "compare": "compare"}
    job.execute(LedgerPhase(ledger, name, titles[name], weights, task), client, show)


def _begin(instance: BodyVolume, space: Space, scratch: str | None, region: str | None) -> ScratchLedger:
    """The scratch tree of this check: of an earlier one only if that read the same state and had repaired nothing."""
    store = _scratch_store(instance, scratch)
    name = job.job_name(op="index", instance=instance.info.data_uuid, version=instance.version.uuid)
    about = {"op": "index", "state": space.token, "region": region}
    ledger = ScratchLedger(store, name)
    held = ledger.begin(about)
    if held | about != held:
        ledger.drop()
        ledger = ScratchLedger(store, name)
        ledger.begin(about)
    return ledger


def _scratch_store(instance: BodyVolume, scratch: str | None) -> Store:
    store = instance.version.datastore.store
    if scratch is not None:
        from dvid_dask.store import StoreNotFound

        try:
            return Store.open(scratch)
        except StoreNotFound:
            return Store.create(scratch)
    if store.read_only:
        raise BadRequest(f"{store.url} is open for reading only: say with scratch= where intermediate rows may go")
    return store


def ranges_of_bodies(index: Index) -> list[int]:
    """Ranges of body ids with about as many bodies each; together all ids."""
    edges = [0]
    for n, body in enumerate(index.bodies()):
        if n and n % _BODIES_PER_TASK == 0:
            edges.append(body)
    return [*edges, 1 << 64]


def _rebuild_broken(
    instance: BodyVolume, space: Space, broken: list[IndexProblem], lost: set[int], who: dict[str, Any]
) -> None:
    """Make broken records consistent in themselves; the comparison then brings them in line with the voxels."""
    if instance.view(0).token != space.token:
        raise Conflict(f"{instance.name!r} was changed while its index was checked: check again, then repair")
    for body in sorted({p.body for p in broken}):

        def rebuild(_: Mutation, tx: TxSpace, body: int = body) -> None:
            index = Index(tx)
            header = None if body in lost else index.header(body)
            rows = Rows.empty() if header is None else index.rows(body)
            tx.delete(keys.body(body))
            tx.delete_prefix(keys.pages(body))
            tx.delete_prefix(keys.buckets(body))
            if header is not None and len(rows):
                index.update(body, rows, stamp=header.stamp)

        instance.mutate(rebuild, **who)


def _report(ledger: ScratchLedger, broken: list[IndexProblem], repaired: bool, began: float) -> IndexReport:
    counted, read, compared = (ledger.done(name).values() for name in ("voxels", "index", "compare"))
    found = [IndexProblem(*p) for r in compared for p in r["problems"]]
    count = len(broken) + sum(r["count"] for r in compared)
    return IndexReport(
        voxels=sum(r["voxels"] for r in counted),
        rows=sum(r["rows"] for r in counted),
        bodies=sum(r["bodies"] for r in read),
        count=count,
        problems=tuple((broken + found)[:_REPORTED]),
        repaired=repaired and count > 0,
        seconds=time.monotonic() - began,
    )
