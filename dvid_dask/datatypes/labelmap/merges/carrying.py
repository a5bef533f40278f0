"""The edits that a merge comes down to, carried out on our side in commits of bounded size.

Order, and why: supervoxels of ours go to their new bodies first, with index and mapping; then ids that are new to us
get their bodies; then voxels are written, and their rows find the body of each label; at last the supervoxels that
theirs has cut are retired, which have no voxels any more. After each commit index, mapping and voxels of our side
agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from dvid_dask.datatypes.labelmap import bulk, events, extents, keys
from dvid_dask.datatypes.labelmap.blocks import compress
from dvid_dask.datatypes.labelmap.columns import pack, unpack
from dvid_dask.datatypes.labelmap.downres import update_scales
from dvid_dask.datatypes.labelmap.index import Index, Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping, restore_entries
from dvid_dask.datatypes.labelmap.merges.blocks import Joined, Renaming, join_blocks, renaming_of
from dvid_dask.datatypes.labelmap.merges.bodies import settle_bodies
from dvid_dask.datatypes.labelmap.merges.sides import Sides, Units, read_sides
from dvid_dask.datatypes.labelmap.moves import Taken, TakenFromSmall, give, take, taken
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among
from dvid_dask.versions.records import rfc3339

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.datatypes.labelmap.methods.instance import Instance
    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.space import Space

__all__ = ["merge_labelmaps"]

_BLOCKS = 256  # joined in one commit
_IDS = 1 << 16  # entries of the mapping set in one commit
_ROWS = 1 << 18  # rows of the index moved in one commit, about
_LARGE = 1 << 20  # rows from which on a whole body moves page by page
_BYTES = 32 << 20
_STAMPS = 1024
_NAMED = 1000  # supervoxels that a contradiction names


def merge_labelmaps(instance: Instance, step: MergeStep, *, versions: bool = True, box: BlockBox | None = None) -> None:
    """Carry out on our side what the other has changed since the common ancestor.

    Parameters
    ----------
    instance
        At the new version.
    step
        Both sides.
    versions
        Whether both are versions, of which the new one has the splits, extents and largest labels as well; else it is a
        change that is taken back or done again.
    box
        First and last block (z, y, x) of scale 0: then only voxels within are looked at.
    """
    carrying = _Carrying(instance, step, versions=versions)
    if box is None:
        carrying.run()
    else:
        carrying.run_voxels(box)


BlockBox = tuple[int, int, int, int, int, int]


class _Batch(NamedTuple):
    """Supervoxels that move, ordered by the body that they leave; whether that is all of one large body."""

    units: NDArray[np.int64]
    whole: bool


class _Carrying:
    def __init__(self, instance: Instance, step: MergeStep, *, versions: bool) -> None:
        self.instance = instance
        self.step = step
        self.layout = instance.layout
        self.indexed = instance.indexed
        self.versions = versions
        self.touched: set[int] = set()

    def run_voxels(self, box: BlockBox) -> None:
        """Voxels alone."""
        nothing = Renaming.nothing()
        self._write(nothing, set(), box)

    @property
    def _followed(self) -> bool:
        state = self.instance.repo.state()
        return any(self.instance.info.data_uuid in info.syncs for info in state.instances.values())

    def run(self) -> None:
        """All of it."""
        step = self.step
        # followers hear of each change right when it is made
        if self.versions and not self._followed and step.untouched(step.ours):
            self._take_all()
            return
        sides = read_sides(step)
        bodies, contradictions = settle_bodies(step, sides.units, indexed=self.indexed)
        for found in contradictions:
            self._list(found.what, found.supervoxels)
        for root in sorted(sides.contradictions):
            self._list({"supervoxel": root, "cut": "on both sides, or into ids that are in use"})
        for root in sorted(sides.apart):
            self._list({"supervoxel": root, "parts": "cut again, or in different bodies"})
        for sv in sides.reused.tolist():
            self._list({"supervoxel": sv, "id": "of a supervoxel on one side, of a body on the other"})
        self._move(sides.units, bodies)
        self._name(sides, bodies)
        self._write(renaming_of(step, sides), sides.contradictions)
        self._retire(sides)
        self._note_splits(sides)
        if self.versions:
            self._note_sizes()
        self._stamp_bodies()

    def _list(self, what: dict[str, Any], supervoxels: NDArray[np.uint64] | None = None) -> None:
        if supervoxels is not None and len(supervoxels):
            what = {"supervoxels": supervoxels[:_NAMED].tolist(), **what}
            if len(supervoxels) > _NAMED:
                what["and more supervoxels"] = len(supervoxels) - _NAMED
        digest = hashlib.blake2b(msgspec.json.encode(what), digest_size=12).digest()
        self.step.conflict(b"?" + digest, what)

    @staticmethod
    def _stamp(m: Mutation) -> Stamp:
        return Stamp(m.id, rfc3339(m.time), m.user, m.app)

    # -------------------------------------------------------------- supervoxels to other bodies

    def _move(self, units: Units, bodies: NDArray[np.uint64]) -> None:
        """Move supervoxels of ours, in mapping and index."""
        moving = np.flatnonzero(units.here & (bodies != units.ours))
        if not len(moving):
            return
        found = self._entries(units, bodies)
        order = moving[np.lexsort((units.id[moving], units.ours[moving]))]
        for batch in self._batches(units, bodies, order):

            def change(m: Mutation, space: TxSpace, batch: _Batch = batch) -> None:
                at = batch.units
                ids, old, new = units.id[at], units.ours[at], bodies[at]
                if self.indexed:
                    self._move_rows(space, ids, old, new, self._stamp(m), whole=batch.whole)
                restore_entries(space, ids, found[at], new)
                m.publish(self.instance, events.SupervoxelsMoved(m.id, ids, old, new))

            self.step.update(change)
        self.touched.update(distinct(np.concatenate([units.ours[moving], bodies[moving]])).tolist())

    def _batches(self, units: Units, bodies: NDArray[np.uint64], order: NDArray[np.int64]) -> Iterator[_Batch]:
        old = units.ours[order]
        labels, starts = np.unique(old, return_index=True)
        ends = [*starts[1:].tolist(), len(old)]
        index = Index(self.step.ours)
        parts: list[NDArray[np.int64]] = []
        rows = 0
        for batch in batches(zip(labels.tolist(), starts.tolist(), ends, strict=True), 4096):
            headers = index.headers([b for b, _, _ in batch])
            for (_, a, b), header in zip(batch, headers, strict=True):
                mine = order[a:b]
                size = 0 if header is None else header.rows
                if header is not None and size > _LARGE and len(distinct(bodies[mine])) == 1:
                    with_voxels = int((index.voxels_of(int(old[a]), units.id[mine]) > 0).sum())
                    if with_voxels == header.supervoxels:
                        yield _Batch(mine, whole=True)
                        continue
                parts.append(mine)
                rows += size + b - a
                if rows > _ROWS:
                    yield _Batch(np.concatenate(parts), whole=False)
                    parts, rows = [], 0
        if parts:
            yield _Batch(np.concatenate(parts), whole=False)

    @staticmethod
    def _move_rows(
        space: TxSpace,
        ids: NDArray[np.uint64],
        old: NDArray[np.uint64],
        new: NDArray[np.uint64],
        stamp: Stamp,
        *,
        whole: bool,
    ) -> None:
        index = Index(space)
        if whole:
            held = index.header(int(old[0]))
            if held is not None and int((index.voxels_of(int(old[0]), ids) > 0).sum()) == held.supervoxels:
                index.move(int(old[0]), int(new[0]), stamp=stamp, surface=stamp.mutation)
                return
        rows: list[Rows] = []
        to: list[NDArray[np.uint64]] = []
        takes: list[tuple[int, NDArray[np.uint64] | None]] = []
        for part in taken(space, old, ids, new):
            if isinstance(part, TakenFromSmall):
                rows.append(part.rows)
                to.append(part.to)
                takes += [(int(body), None) for body in part.gone.tolist()]
                takes += part.rest
                continue
            _add_taken(part, rows, to, takes)
        for body, leaving in takes:
            take(space, body, leaving, stamp)
        if rows:
            give(space, np.concatenate(to), Rows.concatenate(rows), stamp)

    def _entries(self, units: Units, bodies: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each unit gets an entry in the mapping: as on a side that says the same body, else it does."""
        found = np.ones(len(units), np.bool_)
        for a in range(0, len(units), _IDS):
            ids, body = units.id[a : a + _IDS], bodies[a : a + _IDS]
            have, value = Mapping(self.step.theirs).entries(ids)
            alike = np.where(have, value, ids) == body
            found[a : a + _IDS][alike] = have[alike]
        return found

    # -------------------------------------------------------------- ids

    def _name(self, sides: Sides, bodies: NDArray[np.uint64]) -> None:
        """Give supervoxels that are new to us their bodies, and retire ids of bodies as theirs has them."""
        units = sides.units
        new = ~units.here
        found = self._entries(units, bodies)[new]
        ids = np.concatenate([units.id[new], sides.retired])
        values = np.concatenate([bodies[new], np.zeros_like(sides.retired)])
        has = np.concatenate([found, np.ones(len(sides.retired), np.bool_)])
        self._set_entries(ids, has, values)

    def _set_entries(self, ids: NDArray[np.uint64], has: NDArray[np.bool_], values: NDArray[np.uint64]) -> None:
        for a in range(0, len(ids), _IDS):
            part = slice(a, a + _IDS)

            def change(_: Mutation, space: TxSpace, part: slice = part) -> None:
                restore_entries(space, ids[part], has[part], values[part])

            self.step.update(change)

    def _retire(self, sides: Sides) -> None:
        """Supervoxels that theirs has cut are no more."""
        cut = np.array(sorted(sides.cuts_theirs.parts), np.uint64)
        self._set_entries(cut, np.ones(len(cut), np.bool_), np.zeros_like(cut))
        parts = np.array(sorted(sides.rejoined.old), np.uint64)
        for a in range(0, len(parts), _IDS):  # of what is whole again: they have the entries that theirs has
            part = parts[a : a + _IDS]
            self._set_entries(part, *Mapping(self.step.theirs).entries(part))

    # -------------------------------------------------------------- voxels

    def _write(self, renaming: Renaming, known: set[int], box: BlockBox | None = None) -> None:
        """Write blocks of theirs; supervoxels that are known to be cut differently are listed already."""
        looked_at = [np.empty((0, 3), np.int32)]
        cut: set[int] = set()
        reused: set[int] = set()
        for block_keys in batches(self.step.changes(keys.scale_prefix(0)), _BLOCKS):
            coords = keys.blocks_of(block_keys)
            if box is not None:
                inside = np.all((coords >= np.array(box[:3])) & (coords <= np.array(box[3:])), axis=1)
                coords = coords[inside]
                block_keys = [key for key, i in zip(block_keys, inside.tolist(), strict=True) if i]

            def change(
                m: Mutation, space: TxSpace, coords: NDArray[np.int32] = coords, block_keys: list[bytes] = block_keys
            ) -> tuple[Joined, NDArray[np.uint64]]:
                joined = join_blocks(self.step, self.layout, renaming, coords, block_keys, space)
                bodies = self._store(space, joined)
                if len(joined.block_zyx):
                    m.publish(self.instance, events.BlocksWritten(m.id, joined.block_zyx))
                return joined, bodies

            joined, bodies = self.step.update(change)
            looked_at.append(coords)
            self.touched.update(bodies.tolist())
            for block, voxels in joined.written_differently.items():
                self._list({"block": list(block), "voxels written differently": voxels})
            cut |= joined.cut_differently
            reused |= joined.reused
        for sv in sorted(cut - known):
            self._list({"supervoxel": sv, "cut": "differently on both sides"})
        parts = set(renaming.our_parts.tolist())
        for sv in sorted(reused):
            used = "of a part on one side" if sv in parts else "retired on one side"
            self._list({"supervoxel": sv, "id": f"{used}, written on the other"})
        if box is None:
            self._write_coarse(np.concatenate(looked_at))

    def _store(self, space: TxSpace, joined: Joined) -> NDArray[np.uint64]:
        """Write blocks of scale 0 and what depends on them; returns the bodies that it changed."""
        if not len(joined.block_zyx):
            return np.empty(0, np.uint64)
        bodies = np.empty(0, np.uint64)
        coords, values = joined.block_zyx, joined.values
        if self.indexed:
            rows = bulk.rows_of(self.layout, coords, values, joined.olds)
            bodies = bulk.apply_rows(space, bulk.IndexRows(*rows))
        for key, value in zip(keys.blocks(0, coords), values, strict=True):
            if value is None:
                space.delete(key)
            else:
                space.put(key, value)
        nothing = compress(label_blocks.solid_block(0, self.layout.block_shape))
        there = [nothing if v is None else v for v in values]
        update_scales(space, self.layout, dict(zip(((z, y, x) for z, y, x in coords.tolist()), there, strict=True)))
        return bodies

    def _write_coarse(self, finest: NDArray[np.int32]) -> None:
        """Take coarser blocks of theirs that were written by themselves: no block of scale 0 below them differs."""
        for scale in range(1, self.layout.levels + 1):
            done = distinct_rows(finest >> scale)
            known = set(map(tuple, done.tolist()))
            for block_keys in batches(self.step.changes(keys.scale_prefix(scale)), _BLOCKS):
                coords = map(tuple, keys.blocks_of(block_keys).tolist())
                left = [key for key, at in zip(block_keys, coords, strict=True) if at not in known]
                self._take_keys(left)

    def _take_keys(self, wanted: Sequence[bytes]) -> None:
        """Take what only theirs has changed, key by key."""
        step = self.step
        columns = [side.get_many(wanted) for side in (step.ours, step.theirs, *step.bases)]
        changes: list[tuple[bytes, bytes | None]] = []
        for n, key in enumerate(wanted):
            ours, theirs, *at_bases = [column[n] for column in columns]
            settled = step.settle(ours, theirs, at_bases, partial(_get, key=key))
            if settled.value != ours:
                changes.append((key, settled.value))
        if changes:
            step.update(lambda _, space: _put_all(space, changes))

    # -------------------------------------------------------------- the rest

    def _note_splits(self, sides: Sides) -> None:
        """Add the splits that theirs has and ours has not, but those that can't stand."""
        step = self.step
        gone = np.array(sorted({*sides.refused, *sides.contradictions}), np.uint64)
        for part in batches(step.changes(keys.SPLIT), _BLOCKS):
            columns = [side.get_many(part) for side in (step.ours, step.theirs, *step.bases)]
            changes: list[tuple[bytes, bytes | None]] = []
            for n, key in enumerate(part):
                ours, theirs, *at_bases = [column[n] for column in columns]
                value = step.settle(ours, theirs, at_bases, partial(_get, key=key)).value
                if value is not None and value != ours and len(gone):
                    table = unpack(value, 4)
                    table = table[:, ~is_among(table[1], gone)]
                    value = pack(list(table)) if table.shape[1] else None
                if value != ours:
                    changes.append((key, value))
            if changes:
                step.update(lambda _, space, changes=changes: _put_all(space, changes))  # type: ignore[misc]

    def _note_sizes(self) -> None:
        """Extents hold those of both; largest labels are never below those of a parent."""
        step = self.step
        slots = [keys.max_label(slot) for slot in range(keys.MAX_LABEL_SLOTS)]
        wanted = [keys.EXTENTS, *slots]
        columns = [side.get_many(wanted) for side in (step.ours, step.theirs, *step.bases)]
        changes: list[tuple[bytes, bytes | None]] = []
        for n, key in enumerate(wanted):
            ours, theirs, *at_bases = [column[n] for column in columns]
            both = [v for v in (ours, theirs) if v is not None]
            if key == keys.EXTENTS:
                settled = step.settle(ours, theirs, at_bases, lambda side: side.get(keys.EXTENTS))
                value = extents.united(both) if settled.conflict and both else settled.value
            else:
                value = max(both, default=None)
            if value != ours:
                changes.append((key, value))
        if changes:
            step.update(lambda _, space: _put_all(space, changes))

    def _stamp_bodies(self) -> None:
        """Bodies were changed last by whoever changed them last on either side, not by the merge."""
        if not self.versions or not self.indexed:
            return
        for part in batches(sorted(self.touched), _STAMPS):
            sides = [Index(side).headers(part) for side in (self.step.ours, self.step.theirs)]
            stamps = []
            for body, ours, theirs in zip(part, *sides, strict=True):
                known = [h.stamp for h in (ours, theirs) if h is not None]
                if known:
                    stamps.append((body, max(known, key=lambda stamp: stamp.mutation)))

            def change(_: Mutation, space: TxSpace, stamps: list[tuple[int, Stamp]] = stamps) -> None:
                index = Index(space)
                for body, stamp in stamps:
                    index.stamp(body, stamp)

            self.step.update(change)

    # -------------------------------------------------------------- nothing changed on our side

    def _take_all(self) -> None:
        """Our side has changed nothing, and nobody follows: take theirs as it is."""
        step = self.step
        pending: list[tuple[bytes, bytes | None]] = []
        size = 0
        for part in batches(step.changes(), _BLOCKS):
            for key, value in zip(part, step.theirs.get_many(part), strict=True):
                pending.append((key, value))
                size += len(key) + len(value or b"")
            if size > _BYTES:
                step.update(lambda _, space, pending=pending: _put_all(space, pending))  # type: ignore[misc]
                pending, size = [], 0
        if pending:
            step.update(lambda _, space: _put_all(space, pending))


def _add_taken(
    part: Taken,
    rows: list[Rows],
    to: list[NDArray[np.uint64]],
    takes: list[tuple[int, NDArray[np.uint64] | None]],
) -> None:
    leaving = part.supervoxel[(part.new != np.uint64(part.body)) & (part.voxels > 0)]
    if not len(leaving):
        return
    for found, targets in part.rows:
        rows.append(found)
        to.append(targets)
    takes.append((part.body, None if part.whole else leaving))


def _get(space: Space, key: bytes) -> bytes | None:
    return space.get(key)


def _put_all(space: TxSpace, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            space.delete(key)
        else:
            space.put(key, value)
