"""Annotations of a committed version as files in neuroglancer's precomputed format, made anew only where they changed.

The files are what the view of the version would answer (`dvid_dask.views.AnnotationsView`), in shards::

    info                     bounds, properties, levels
    spatial<k>/...           elements by boxes of space; a shard is a box of boxes
    by_id/...                each element with the body that it is in; a shard is a slab along z
    body/...                 the elements of each body, where a segmentation is followed; shards by the bodies' ids

The next publication keeps the boxes and ids of the one before (`AnnotationsPlan`). Its blocks of elements that differ
tell which boxes, slabs and bodies changed, and the lists of bodies that differ which elements are in another body now.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from dvid_dask.bases.urls import directory_url
from dvid_dask.datatypes.annotation import Annotation, keys
from dvid_dask.datatypes.annotation.blocks import in_blocks
from dvid_dask.datatypes.annotation.lists import Lists
from dvid_dask.errors import Conflict
from dvid_dask.formats.compression import gzip_compress
from dvid_dask.formats.distinct import distinct, distinct_rows
from dvid_dask.formats.sharding import Sharding, choose_sharding, chunk_ids
from dvid_dask.ops import job
from dvid_dask.ops.changed import differing_keys
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.publications import Publication, fingerprint, read_record
from dvid_dask.ops.publishing import Before, PublicationRun, PublishReport
from dvid_dask.views import AnnotationsPlan, AnnotationsView

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Space

__all__ = ["publish_elements"]

_BOXES = 256  # of space, in a shard
_PER_SLAB = 1 << 17  # elements in a shard by id, about
_BODY_BITS = 10  # of the bodies in a shard
_BATCH = 1024  # blocks read together
_Z_SHIFT = 42  # bits of an id below those of z
_Z_BITS = 21
_MINISHARDS = 8  # bits
_COMPARED = 256  # entries of a shard


class _Changed(NamedTuple):
    """What differs from an earlier version: blocks of elements, bodies, and elements that are in another body."""

    blocks: NDArray[np.int32]
    bodies: NDArray[np.uint64]
    ids: NDArray[np.uint64]


class _Kind(NamedTuple):
    """Files of a kind: a folder of shards.

    Attributes
    ----------
    key
        Folder.
    sharding
        How entries are put into shards.
    gzipped
        Whether each entry is compressed.
    level
        Of boxes of space; None of other kinds.
    """

    key: str
    sharding: Sharding
    gzipped: bool
    level: int | None = None

    def number(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The shards in which ids are."""
        shift = np.uint64(self.sharding.preshift_bits + self.sharding.minishard_bits)
        mask = np.uint64((1 << self.sharding.shard_bits) - 1)
        return (ids >> shift & mask).astype(np.int64)

    def name(self, number: int) -> str:
        """Path of a shard."""
        shift = self.sharding.preshift_bits + self.sharding.minishard_bits
        return f"{self.key}/{self.sharding.shard_file(number << shift)}"

    def to_json(self) -> dict[str, Any]:
        """Its sharding, as ``info`` has it."""
        return {**self.sharding.to_json(), "data_encoding": "gzip" if self.gzipped else "raw"}

    def open(self, url: str, *, squeezed: bool = False) -> Any:
        """Its shards as a store of entries by id; `squeezed`, of entries that come compressed."""
        import tensorstore as ts

        metadata = self.to_json() | ({"data_encoding": "raw"} if squeezed else {})
        spec = {"driver": "neuroglancer_uint64_sharded", "base": f"{url}{self.key}/", "metadata": metadata}
        return ts.KvStore.open(spec).result()


class _Layout(msgspec.Struct, frozen=True):
    """All that decides which files there are: kept with a publication, for the next one."""

    plan: AnnotationsPlan
    slab: int
    bodies: int
    nanometres: list[float]
    follows: str

    @classmethod
    def of(cls, view: AnnotationsView) -> _Layout:
        plan = view.plan
        blocks = view.blocks
        layers = max(1, -(-int(len(blocks) * view.per_block) // _PER_SLAB))
        deep = plan.extent[0] * plan.block[0] / layers
        slab = max(int(plan.block[0] - 1).bit_length(), min(_Z_BITS, int(max(1.0, deep)).bit_length() - 1))
        bodies = 0 if view.source is None else sum(1 for _ in view.space.keys(keys.LABEL))
        return cls(
            plan,
            slab,
            (max(1, bodies) - 1).bit_length(),
            list(view.nanometres),
            "" if view.source is None else view.source.info.data_uuid,
        )

    def kinds(self) -> list[_Kind]:
        made = [
            _Kind(f"spatial{k}", choose_sharding(level.grid, _BOXES), True, k)
            for k, level in enumerate(self.plan.levels)
        ]
        rest = _Z_SHIFT + self.slab - _MINISHARDS
        made.append(_Kind("by_id", Sharding(rest, _MINISHARDS, _Z_BITS - self.slab), False))
        if self.follows:
            minishards, shards = min(self.bodies, 6), max(0, self.bodies - _BODY_BITS)
            made.append(_Kind("body", Sharding(0, minishards, shards), True))
        return made

    def fits(self, other: _Layout) -> bool:
        """Whether another state can be published with this layout."""
        same = (self.nanometres, self.follows) == (other.nanometres, other.follows)
        return same and self.plan.covers(other.plan)


@functools.lru_cache(maxsize=4)
def _view(instance: Annotation, plan: bytes) -> AnnotationsView:
    """The view of a committed version, in this process."""
    return AnnotationsView(instance, msgspec.json.decode(plan, type=AnnotationsPlan))


@dataclass(frozen=True)
class _Shards:
    """Shards of a kind, and what lies in each; pickled once per worker.

    Attributes
    ----------
    numbers
        Of the shards.
    contents
        For each boxes (n, 3; z, y, x), blocks that have elements of it (n, 3), or bodies (n,).
    """

    instance: Annotation
    plan: bytes
    kind: _Kind
    numbers: list[int]
    contents: list[NDArray[Any]]

    def entries(self, index: int) -> Iterator[tuple[int, bytes]]:
        """Ids and entries of a shard."""
        view, kind, held = _view(self.instance, self.plan), self.kind, self.contents[index]
        if kind.key == "by_id":
            for at in range(0, len(held), _BATCH):
                elements = in_blocks(view.space, held[at : at + _BATCH])[0]
                ids = view.ids(elements.zyx)
                mine = kind.number(ids) == self.numbers[index]
                yield from zip(ids[mine].tolist(), view.each(elements[mine]), strict=True)
            return
        for what, number in zip(held.tolist(), self.ids(held), strict=True):
            data = view.of_body(what) if kind.level is None else view.box(kind.level, what)
            if data is not None and any(data[:8]):
                yield number, data

    def ids(self, held: NDArray[Any]) -> list[int]:
        """Of boxes, or of bodies."""
        if self.kind.level is None:
            return [int(body) for body in held.tolist()]
        grid = msgspec.json.decode(self.plan, type=AnnotationsPlan).levels[self.kind.level].grid
        return [int(number) for number in chunk_ids(held, grid).tolist()]


@dataclass(frozen=True)
class _Write:
    """Writes shards, each whole."""

    ledger: ScratchLedger
    phase: str
    shards: _Shards
    url: str

    def __call__(self, index: int) -> Result:
        import tensorstore as ts

        kind = self.shards.kind
        transaction = ts.Transaction()
        place = kind.open(self.url, squeezed=True).with_transaction(transaction)
        count = 0
        for number, data in self.shards.entries(index):
            place.write(number.to_bytes(8, "big"), gzip_compress(data) if kind.gzipped else data).result()
            count += 1
        transaction.commit_async().result()
        return self.ledger.commit(self.phase, index, lambda _, __: {"entries": count})


@dataclass(frozen=True)
class _Verify:
    """Compares entries that are read back with the version."""

    ledger: ScratchLedger
    phase: str
    shards: list[_Shards]
    chosen: list[tuple[int, int]]
    url: str

    def __call__(self, index: int) -> Result:
        at, which = self.chosen[index]
        shards = self.shards[at]
        place = shards.kind.open(self.url)
        expected = list(shards.entries(which))
        step = max(1, len(expected) // _COMPARED)
        wanted = expected[index % step :: step]
        reads = [place.read(number.to_bytes(8, "big")) for number, _ in wanted]
        for read, (number, data) in zip(reads, wanted, strict=True):
            found = read.result()
            if found.state != "value" or found.value != data:
                raise Conflict(
                    f"{self.url}{shards.kind.name(shards.numbers[which])} differs from the version at {number}: remove "
                    "the publication and publish again"
                )
        return self.ledger.commit(self.phase, index, lambda _, __: {"entries": len(wanted)})


def publish_elements(
    instance: Annotation,
    destination: str,
    *,
    since: str | None,
    verify: int,
    client: Any,
    progress: bool,
) -> PublishReport:
    """`dvid_dask.ops.publish` of an annotation, whose arguments were checked."""
    began = time.monotonic()
    if instance.reloading or instance.needs_reload:
        raise Conflict(f"the lists of {instance.name!r} may not fit its elements: reload them, then commit and publish")
    around = directory_url(destination)
    version = instance.version
    run = _Run(instance, f"{around}{version.uuid}/", around, since)
    held = run.held()
    if held is not None and run.same(held):
        run.sweep(held.job)
        run.enlist(held)
        done = "it was published before"
        took = time.monotonic() - began
        return PublishReport(run.url, version.uuid, held.since, run.levels, 0, 0, 0, took, done)
    written, kept, verified = run.go(verify, client, Progress(progress))
    before = "" if run.base is None else run.base.record.version
    took = time.monotonic() - began
    return PublishReport(run.url, version.uuid, before, run.levels, written, kept, verified, took, run.reason)


class _Run(PublicationRun):
    """The publication of an annotation."""

    def __init__(self, instance: Annotation, url: str, around: str, since: str | None) -> None:
        self.annotation = instance
        layout = self._fresh = _Layout.of(AnnotationsView(instance))
        super().__init__(instance, url, around, {"format": "precomputed", "elements": True}, [layout])
        self.base: Before | None = None
        self.reason = ""
        held = read_record(url)
        if held is None:
            self.base, self.reason = self.before(None, since)
            held = None if self.base is None else self.base.record
        if held is not None and held.options == self.options:
            # boxes and ids stay those of the publication before
            layout = msgspec.convert(held.layouts[0], _Layout)
            super().__init__(instance, url, around, self.options, [layout])
        self.kinds = layout.kinds()
        self.levels = len(layout.plan.levels)
        self.plan = msgspec.json.encode(layout.plan)
        self.view = _view(instance, self.plan)

    def misfit(self, record: Publication) -> str:
        """Whether all elements have a place in what was published."""
        if record.options != self.options:
            return "the earlier publication has other options"
        if not msgspec.convert(record.layouts[0], _Layout).fits(self._fresh):
            return "there are elements outside of the earlier publication's bounds, or with other properties"
        return ""

    # ------------------------------------------------------------------ what is to be written

    def go(self, verify: int, client: Any, show: Progress) -> tuple[int, int, int]:
        """Write all of it: numbers of shards written, of files kept, of shards compared."""
        ledger = self.begin(None, self.base)
        noted = ledger.begin({})["since"]
        if noted != (self.base.record.id if self.base else ""):
            raise Conflict(f"{self.url} was begun on another publication, which has changed: remove it, begin anew")
        changed = None if self.base is None else self._changed(self.base)
        parts = [self._shards(kind, changed) for kind in self.kinds]
        written = sum(len(part.numbers) for part in parts)
        show.say(
            f"publish {self.instance.name!r} at version {self.instance.version.uuid[:12]} to {self.url}: "
            f"{self.levels} levels, {written:,} shards to write"
            + (f", the others as at version {self.base.record.version[:12]}" if self.base else "")
        )
        for part in parts:
            key = part.kind.key
            weights = [len(c) for c in part.contents]
            task = _Write(ledger, key, part, self.url)
            job.execute(LedgerPhase(ledger, key, key.replace("_", " "), weights, task), client, show)
        kept: list[str] = []
        if self.base is not None:
            made = {part.kind.name(number) for part in parts for number in part.numbers}
            kept = self.kept(self.base, made)
            self.put(ledger, self.base.url, kept, "take over unchanged files", client, show)
        verified = self._verify(ledger, parts, verify, client, show)
        if fingerprint(self.instance) != self.fingerprint:
            raise Conflict(f"{self.instance.name!r} was changed by force: remove {self.url} and publish again")
        self._describe()
        self.end(ledger, self.base)
        return written, len(kept), verified

    def _shards(self, kind: _Kind, changed: _Changed | None) -> _Shards:
        """The shards of a kind that have to be made, with all that lies in them."""
        numbers, held = self._placed(kind, self.view.blocks, None)
        if changed is None:
            chosen = distinct(numbers)
        else:
            chosen = distinct(self._placed(kind, changed.blocks, changed)[0])
        order = np.argsort(numbers, kind="stable")
        numbers, held = numbers[order], held[order]
        first, after = numbers.searchsorted(chosen, "left").tolist(), numbers.searchsorted(chosen, "right").tolist()
        contents = [held[a:b] for a, b in zip(first, after, strict=True)]
        return _Shards(self.annotation, self.plan, kind, chosen.tolist(), contents)

    def _placed(
        self, kind: _Kind, blocks: NDArray[np.int32], changed: _Changed | None
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Shards, and what lies in them: of all that is in some blocks, or of what changed."""
        plan = self.view.plan
        if kind.level is not None:
            cells = self.view.cells(kind.level, blocks)
            return kind.number(chunk_ids(cells, plan.levels[kind.level].grid)), cells
        if kind.key == "by_id":
            first = blocks[:, 0].astype(np.int64) * plan.block[0] - plan.bias[0]
            # no slab is thinner than a block, so a block lies in two at most
            ends = [(first + z).astype(np.uint64) << np.uint64(_Z_SHIFT) for z in (0, plan.block[0] - 1)]
            numbers = [kind.number(ids) for ids in ends]
            both = distinct_rows(np.column_stack([np.concatenate(numbers), np.concatenate([blocks, blocks])]))
            if changed is not None:
                return np.concatenate([both[:, 0], kind.number(changed.ids)]), changed.ids
            return both[:, 0], both[:, 1:].astype(np.int32)
        bodies = self._listed() if changed is None else changed.bodies
        return kind.number(bodies), bodies

    def _listed(self) -> NDArray[np.uint64]:
        """Bodies that have elements."""
        parts = [bodies[counts.any(axis=1)] for bodies, counts in self.annotation.label_counts(self.space)]
        return np.concatenate([np.empty(0, np.uint64), *parts])

    def _changed(self, before: Before) -> _Changed:
        """What differs from the version that was published before, found by what the trees don't share."""
        old, new = before.space, self.space
        blocks = keys.blocks_of(list(differing_keys(self.instance, old, new, keys.BLOCK)))
        if self.view.source is None:
            return _Changed(blocks, np.empty(0, np.uint64), np.empty(0, np.uint64))
        listed = [keys.label_of(key) for key in differing_keys(self.instance, old, new, keys.LABEL)]
        # of a list whose record is as it was some page may be another: that of an element with other properties
        some = (blocks[at : at + _BATCH] for at in range(0, len(blocks), _BATCH))
        held = [self.view.bodies(in_blocks(new, part)[0].zyx) for part in some]
        bodies = distinct(np.concatenate([np.array(listed, np.uint64), *held]))
        filed = np.concatenate([self._filed(old, listed), self._filed(new, listed)])
        found, times = np.unique(filed, axis=0, return_counts=True)
        return _Changed(blocks, bodies[bodies != 0], distinct(found[times == 1, 0]))

    def _filed(self, space: Space, bodies: Sequence[int]) -> NDArray[np.uint64]:
        """Elements in the lists of bodies: ids and bodies, (n, 2)."""
        lists = Lists(space, keys.label)
        parts = [np.empty((0, 2), np.uint64)]
        for body in bodies:
            for held in lists.scan(body):
                ids = self.view.ids(held.zyx)
                parts.append(np.column_stack([ids, np.full(len(ids), body, np.uint64)]))
        return np.concatenate(parts)

    # ------------------------------------------------------------------ the end of it

    def _verify(self, ledger: ScratchLedger, written: list[_Shards], count: int, client: Any, show: Progress) -> int:
        """Compare shards of each kind, half of them among those that were written now."""
        if not count:
            return 0
        random = np.random.default_rng(int(self.job[:16], 16))
        every = [self._shards(kind, None) for kind in self.kinds]
        chosen = []
        for at, (whole, part) in enumerate(zip(every, written, strict=True)):
            for i in range(count if whole.numbers else 0):
                new = np.isin(whole.numbers, part.numbers)
                among = np.flatnonzero(new) if i % 2 and new.any() else np.arange(len(new))
                chosen.append((at, int(random.choice(among))))
        task = _Verify(ledger, "verify", every, chosen, self.url)
        phase = LedgerPhase(ledger, "verify", "compare with the version", [1] * len(chosen), task)
        job.execute(phase, client, show)
        return len(chosen)

    def _describe(self) -> None:
        """The ``info``: what the view has, and where entries lie in shards."""
        import tensorstore as ts

        info = self.view.info()
        folders = {kind.key: kind.to_json() for kind in self.kinds}
        for folder in (info["by_id"], *info["spatial"], *info["relationships"]):
            folder["sharding"] = folders[folder["key"]]
        data = msgspec.json.format(msgspec.json.encode(info), indent=1)
        ts.KvStore.open(self.url).result().write("info", data).result()
