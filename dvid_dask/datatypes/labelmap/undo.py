"""Carrying out steps inside a transaction: to take a mutation back, or to do it again.

Each step looks first whether the state is the one it was made for. Where it isn't, something later depends on the
mutation, and nothing is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import bulk, edits, events, keys, splits
from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress, read_blocks
from dvid_dask.datatypes.labelmap.downres import update_scales
from dvid_dask.datatypes.labelmap.index import Index, Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping, restore_entries
from dvid_dask.datatypes.labelmap.restoring import restore, restores
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.labelmap.splits import Parts
from dvid_dask.datatypes.labelmap.steps import (
    Cut,
    Join,
    Move,
    Restore,
    SetBlocks,
    SetEntries,
    SetIndices,
    Step,
    as_ids,
    ids_of,
    named,
)
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.formats import label_blocks, label_index, rles
from dvid_dask.formats.distinct import distinct, is_among

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace
    from dvid_dask.versions.space import Space

__all__ = [
    "Changed",
    "Context",
    "blocks_before",
    "carry_out",
    "entries_before",
    "indices_before",
    "labels_in",
    "names_one",
    "read_indices",
    "sv_splits",
]


MAX_KEPT = 64 << 20
"""Bytes of overwritten blocks that are kept one by one for an undo; of more the state before is kept as a whole."""


class Changed(Exception):  # noqa: N818  a finding, not a failure: it becomes `LaterMutations`
    """The state isn't the one that a step was made for.

    Attributes
    ----------
    mutations
        Those that made it another, where the step knows.
    """

    def __init__(self, why: str, mutations: Sequence[int] = ()) -> None:
        super().__init__(why)
        self.mutations = tuple(mutations)


@dataclass(frozen=True)
class Context:
    """What steps need beside themselves.

    Attributes
    ----------
    space
        Space of a transaction.
    layout
        Block shape and scales.
    indexed
        Whether the instance keeps a label index.
    stamp
        Who asks.
    version
        Id of the version, under which splits are listed.
    tell
        Takes each event and the fields of its record in the mutation log, with the action; no fields, no record.
    blob
        Reads a blob.
    later
        The mutations that followed and stand and may name one of some ids or blocks, with their steps.
    kept
        The instance's keys in a tree that is kept.
    keep
        Has a tree kept of the state before this commit, once; returns its name.
    """

    space: TxSpace
    layout: Layout
    indexed: bool
    stamp: Stamp
    version: int
    tell: Callable[[object, str, dict[str, object]], None]
    blob: Callable[[str], bytes | None]
    later: Callable[[NDArray[np.uint64], set[tuple[int, ...]]], Iterable[tuple[int, list[Step]]]]
    kept: Callable[[str], Space]
    keep: Callable[[], str]


def carry_out(steps: Sequence[Step], context: Context) -> list[Step]:
    """Do steps in their order; returns those that take them back.

    Raises
    ------
    Changed
        If the state isn't the one that a step was made for.
    """
    back: list[Step] = []
    for step in steps:
        match step:
            case Move():
                back.append(_move(step, context))
            case Join():  # before Cut, of which it is one
                back.append(_join(step, context))
            case Cut():
                back.append(_cut(step, context))
            case SetBlocks():
                back.append(_set_blocks(step, context))
            case SetIndices():
                back.append(_set_indices(step, context))
            case SetEntries():
                back.append(_set_entries(step, context))
            case Restore():
                back.append(_restore(step, context))
    return back[::-1]


# ------------------------------------------------------------------ bodies


def _move(step: Move, c: Context) -> Move:
    space, index = c.space, Index(c.space)
    source, target = index.headers([step.source, step.target])
    if source is None:
        raise Changed(f"body {step.source} is gone")
    if step.fresh and target is not None:
        raise Changed(f"body {step.target} exists again")
    if not step.fresh and target is None:
        raise Changed(f"body {step.target} is gone")
    svs = ids_of(step.supervoxels)
    found, values = Mapping(space).entries(svs)
    if (np.where(found, values, svs) != np.uint64(step.source)).any():
        raise Changed(f"supervoxels of body {step.source} were moved or split")
    voxels = index.voxels_of(step.source, svs)
    present, moved = int((voxels > 0).sum()), int(voxels.sum())
    if step.whole and source.supervoxels != present:
        raise Changed(f"body {step.source} has other supervoxels by now")
    if not step.whole and not 0 < present < source.supervoxels:
        raise Changed(f"the supervoxels that were body {step.target} are all that body {step.source} has, or gone")
    if not step.fresh:
        _check_same_body(step.target, c)
    if step.whole:
        index.move(step.source, step.target, stamp=c.stamp, surface=c.stamp.mutation)
    else:
        edits.move_rows(space, step.source, step.target, svs, c.stamp)
    restore_entries(space, svs, np.frombuffer(step.entries, np.bool_), step.target)
    if step.fresh and step.whole:
        event: object = events.BodyRenumbered(c.stamp.mutation, step.source, step.target)
        c.tell(event, "renumber", {"NewLabel": step.target, "OrigLabel": step.source})
    elif step.whole:
        event = events.BodiesMerged(c.stamp.mutation, step.target, (step.source,))
        c.tell(event, "merge", {"Target": step.target, "Labels": [step.source]})
    else:
        event = events.BodyCleaved(c.stamp.mutation, step.source, step.target, svs)
        sizes = {"CleavedSize": moved, "RemainSize": source.voxels - moved}
        c.tell(event, "cleave", {"OrigLabel": step.source, "CleavedLabel": step.target, **sizes})
    return Move(step.target, step.source, step.supervoxels, found.tobytes(), whole=step.fresh, fresh=step.whole)


def _check_same_body(body: int, c: Context) -> None:
    """Refuse a body that only has the id of the one that was meant: that one was merged or renumbered since."""
    ended = [
        mutation
        for mutation, steps in c.later(np.array([body], np.uint64), set())
        if any(_ends(step, body, c) for step in steps)
    ]
    if ended:
        raise Changed(f"body {body} is another one by now", ended)


def _ends(step: Step, body: int, c: Context) -> bool:
    """Whether the body ended with what the step takes back."""
    if isinstance(step, Restore):
        before, after = (Index(c.kept(name)).header(body) for name in (step.before, step.after or step.before))
        return before is not None and after is None
    return isinstance(step, Move) and step.fresh and step.target == body


def _parts(step: Cut) -> Parts:
    return Parts(ids_of(step.old), ids_of(step.split), ids_of(step.remain))


def _join(step: Join, c: Context) -> Cut:
    parts = _parts(step)
    voxels = ids_of(step.voxels).reshape(-1, 2)
    made = np.concatenate([parts.split[voxels[:, 0] > 0], parts.remain[voxels[:, 1] > 0]])
    body = splits.mapped_to(c.space, made)
    if not body or Mapping(c.space).bodies(parts.old).any():
        raise Changed("parts of the split supervoxels were moved to different bodies, or split again")
    index = Index(c.space)
    now = np.stack([index.voxels_of(body, parts.split), index.voxels_of(body, parts.remain)], axis=1)
    if (now != voxels).any():
        raise Changed("voxels of the parts of the split supervoxels were changed")
    entries = np.frombuffer(step.entries, np.bool_)
    splits.join(c.space, c.layout, body, parts, entries, c.stamp, downres=step.downres)
    splits.forget_splits(c.space, c.version, *_noted(c.space, c.version, parts))
    c.tell(
        events.SupervoxelsJoined(c.stamp.mutation, body, *parts),
        "join-supervoxels",
        {"Body": body, "Supervoxels": parts.old.tolist(), "Joined": np.stack(parts[1:], axis=1).tolist()},
    )
    return Cut(step.old, step.split, step.remain, step.voxels, step.entries, step.runs, step.downres)


def _noted(space: AnySpace, version: int, parts: Parts) -> list[int]:
    """The mutation under which a split is listed."""
    for rows in splits.scan_splits(space, version):
        if set(parts.split.tolist()) == set(rows[:, 3].tolist()):
            return [int(rows[0, 0])]
    raise Changed("the split is listed no more")


def _cut(step: Cut, c: Context) -> Join:
    parts = _parts(step)
    body = splits.mapped_to(c.space, parts.old)
    if not body or edits.used(c.space, np.concatenate([parts.split, parts.remain])).any():
        raise Changed("the supervoxels were moved to different bodies or split, or their parts' ids are in use")
    data = c.blob(step.runs)
    if data is None:
        raise Changed(f"the blob {step.runs} with the runs is gone")
    runs = rles.normalize(rles.decode_srles(data))
    done = splits.cut(c.space, c.layout, body, parts, runs, c.stamp, downres=step.downres, strict=False)
    voxels = np.stack([done.split_voxels, done.remain_voxels], axis=1)
    if (voxels.astype(np.uint64) != ids_of(step.voxels).reshape(-1, 2)).any():
        raise Changed("voxels of the supervoxels were changed")
    splits.note_splits(c.space, c.version, c.stamp.mutation, parts)
    tell_cut(c, body, parts, runs, step.runs, done)
    return Join(step.old, step.split, step.remain, step.voxels, done.entries.tobytes(), step.runs, step.downres)


def tell_cut(c: Context, body: int, parts: Parts, runs: NDArray[np.int32], ref: str, done: splits.Done) -> None:
    """Publish and log a cut."""
    event = events.SupervoxelsSplit(c.stamp.mutation, body, *parts, runs)
    if len(parts.old) == 1:
        fields: dict[str, object] = {
            "Supervoxel": int(parts.old[0]),
            "Body": body,
            "SplitSupervoxel": int(parts.split[0]),
            "RemainSupervoxel": int(parts.remain[0]),
            "Split": ref,
            "SplitSize": int(done.split_voxels[0]),
            "RemainSize": int(done.remain_voxels[0]),
        }
        c.tell(event, "split-supervoxel", fields)
    else:
        c.tell(event, "split-supervoxels", {"Body": body, "Split": ref, "SVSplits": sv_splits(parts)})


def sv_splits(parts: Parts) -> dict[str, dict[str, int]]:
    """Split supervoxels as the mutation log tells them."""
    return {
        str(old): {"Split": split, "Remain": remain}
        for old, split, remain in zip(*(p.tolist() for p in parts), strict=True)
    }


def names_one(
    steps: Sequence[Step],
    ids: NDArray[np.uint64],
    blocks: set[tuple[int, ...]],
    kept: Callable[[str], Space],
) -> bool:
    """Whether steps have to do with one of these supervoxels, bodies or blocks."""
    own_ids, own_blocks = named(list(steps))
    if is_among(own_ids, ids).any() or not blocks.isdisjoint(own_blocks):
        return True
    return any(isinstance(step, Restore) and restores(step, kept, ids, blocks) for step in steps)


def _restore(step: Restore, c: Context) -> Restore:
    changed = restore(step, c.space, c.kept)
    if changed:
        ids = np.array(changed, np.uint64)
        later = [mutation for mutation, steps in c.later(ids, set()) if names_one(steps, ids, set(), c.kept)]
        raise Changed(f"{step.what} of {', '.join(map(str, changed[:5]))} were changed since", later)
    return step.back


# ------------------------------------------------------------------ blocks


def _digest(value: bytes | None) -> bytes:
    return b"" if value is None else hashlib.blake2b(value, digest_size=8).digest()


def blocks_before(
    block_zyx: NDArray[np.int32],
    olds: Sequence[bytes | None],
    values: Sequence[bytes | None],
    *,
    scale: int,
    index: bool,
    downres: bool,
    keep: Callable[[], str],
) -> SetBlocks:
    """The step that takes back storing `values` where `olds` were stored; `keep` as in `Context`."""
    coords = np.asarray(block_zyx, "<i4").tobytes()
    present = [_digest(v) for v in values]
    if sum(len(v) for v in olds if v is not None) > MAX_KEPT:
        return SetBlocks(scale, index, downres, coords, [], present, keep())
    return SetBlocks(scale, index, downres, coords, list(olds), present)


def labels_in(space: AnySpace, layout: Layout, blocks: Iterable[tuple[int, ...]]) -> NDArray[np.uint64]:
    """The supervoxels in stored blocks (scale, z, y, x)."""
    found = [np.empty(0, np.uint64)]
    for scale, z, y, x in blocks:
        for _, opened in read_blocks(space, layout, scale, [(z, y, x)]):
            found += [label_blocks.labels(b) for b in opened]
    return distinct(np.concatenate(found))


def _set_blocks(step: SetBlocks, c: Context) -> SetBlocks:
    space, layout = c.space, c.layout
    coords = np.frombuffer(step.block_zyx, "<i4").reshape(-1, 3).astype(np.int32)
    block_keys = keys.blocks(step.scale, coords)
    now = space.get_many(block_keys)
    if [_digest(v) for v in now] != step.present:
        raise Changed("some of the blocks were written again")
    values = c.kept(step.kept).get_many(block_keys) if step.kept else step.values
    how = {"scale": step.scale, "index": step.index, "downres": step.downres}
    back = blocks_before(coords, now, values, **how, keep=c.keep)  # type: ignore[arg-type]
    if step.scale == 0 and step.index and c.indexed:
        after = _totals(c, values)
        _check_vanishing(c, after, now)
        _check_not_retired(c, after)
        _index_blocks(c, coords, values, now)
    for key, value in zip(block_keys, values, strict=True):
        if value is None:
            space.delete(key)
        else:
            space.put(key, value)
    if step.downres:
        nothing = compress(label_blocks.solid_block(0, layout.block_shape))
        changed = [nothing if v is None else v for v in values]
        update_scales(space, layout, dict(zip(((z, y, x) for z, y, x in coords.tolist()), changed, strict=True)))
    if step.scale == 0:
        c.tell(events.BlocksWritten(c.stamp.mutation, coords), "", {})
    return back


def _check_vanishing(c: Context, after: dict[int, int], olds: Sequence[bytes | None]) -> None:
    """Refuse to take the last voxels of bodies and supervoxels that later mutations name."""
    index, before = Index(c.space), _totals(c, olds)
    losing = np.array(sorted(before.keys() - after.keys()), np.uint64)
    gone: set[int] = set()
    bodies = Mapping(c.space).bodies(losing)
    for body in distinct(bodies).tolist():
        mine = losing[bodies == np.uint64(body)]
        left = index.voxels_of(body, mine) > np.array([before[int(sv)] for sv in mine], np.uint64)
        gone.update(mine[~left].tolist())
        header = index.header(body)
        if header is not None and header.supervoxels == int((~left).sum()):
            gone.add(body)
    if not gone:
        return
    names = np.array(sorted(gone), np.uint64)
    later = [mutation for mutation, steps in c.later(names, set()) if names_one(steps, names, set(), c.kept)]
    if later:
        raise Changed("later mutations changed bodies that would lose all their voxels", later)


def _check_not_retired(c: Context, after: dict[int, int]) -> None:
    """Refuse to give voxels back to supervoxels that were cut since, elsewhere: they would belong to no body."""
    labels = np.array(sorted(after), np.uint64)
    retired = labels[Mapping(c.space).bodies(labels) == 0]
    if not len(retired):
        return
    listed = ", ".join(map(str, retired[:10].tolist()))
    later = [mutation for mutation, steps in c.later(retired, set()) if names_one(steps, retired, set(), c.kept)]
    raise Changed(f"supervoxels {listed} of the overwritten blocks were cut since, or given up", later)


def _totals(c: Context, values: Sequence[bytes | None]) -> dict[int, int]:
    """Voxels of each label in stored blocks, 0 left out."""
    sums: dict[int, int] = {}
    counted = parallel(lambda v: label_blocks.count(decompress(v, c.layout)), [v for v in values if v is not None])
    for labels, voxels in counted:
        for label, n in zip(labels.tolist(), voxels.tolist(), strict=True):
            if label:
                sums[label] = sums.get(label, 0) + n
    return sums


def _index_blocks(
    c: Context, coords: NDArray[np.int32], values: Sequence[bytes | None], olds: Sequence[bytes | None]
) -> None:
    rows = bulk.rows_of(c.layout, coords, values, olds)
    bulk.apply_rows(c.space, bulk.IndexRows(*rows))


# ------------------------------------------------------------------ index and mapping, as they are


def read_indices(space: AnySpace, bodies: Iterable[int]) -> list[bytes | None]:
    """Label indices as protobuf, None for a body without."""
    index = Index(space)
    found: list[bytes | None] = []
    for body in bodies:
        header = index.header(body)
        if header is None:
            found.append(None)
            continue
        rows, stamp = index.rows(body), header.stamp
        held = label_index.LabelIndex(
            body, rows.block_zyx, rows.supervoxel, rows.count, rows.surface, stamp.mutation, stamp.time, stamp.user,
            stamp.app,
        )  # fmt: skip
        found.append(label_index.encode_index(held))
    return found


def indices_before(before: list[bytes | None], space: AnySpace, bodies: Sequence[int]) -> SetIndices:
    """The step that takes back replacing label indices. Called after they are replaced, with `read_indices` before."""
    return SetIndices(as_ids(bodies), before, [_digest(v) for v in read_indices(space, bodies)])


def _set_indices(step: SetIndices, c: Context) -> SetIndices:
    bodies = ids_of(step.bodies).tolist()
    now = read_indices(c.space, bodies)
    if [_digest(v) for v in now] != step.present:
        raise Changed("some of the label indices were changed since")
    index = Index(c.space)
    for body, value in zip(bodies, step.values, strict=True):
        if value is None:
            index.delete(body)
            continue
        held = label_index.decode_index(value)
        rows = Rows.of(held.block_zyx, held.supervoxel, held.count, held.surface_mutid)
        stamp = Stamp(held.last_mutid, held.last_mod_time, held.last_mod_user, held.last_mod_app)
        index.replace(body, rows, stamp)
    return indices_before(now, c.space, bodies)


def entries_before(ids: NDArray[np.uint64], had: NDArray[np.bool_], values: NDArray[np.uint64],
                   new: NDArray[np.uint64]) -> SetEntries:  # fmt: skip
    """The step that takes back giving ids new entries. Each id once."""
    return SetEntries(as_ids(ids), had.tobytes(), as_ids(values), np.ones(len(ids), np.bool_).tobytes(), as_ids(new))


def _set_entries(step: SetEntries, c: Context) -> SetEntries:
    ids = ids_of(step.ids)
    found, values = Mapping(c.space).entries(ids)
    if found.tobytes() != step.present_found or as_ids(values) != step.present:
        raise Changed("some of the entries of the mapping were changed since")
    keep, new = np.frombuffer(step.found, np.bool_), ids_of(step.values)
    restore_entries(c.space, ids, keep, new)
    moved = events.SupervoxelsMoved(c.stamp.mutation, ids, np.where(found, values, ids), np.where(keep, new, ids))
    c.tell(moved, "mappings", {})
    return SetEntries(step.ids, step.present_found, step.present, step.found, step.values)
