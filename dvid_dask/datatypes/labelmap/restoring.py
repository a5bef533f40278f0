"""Changes that are too large to be kept step by step: taken back by what the version was right before and after them.

Both states are trees that share what they hold with the version's own (`Mutation.keep_states`). To take a change back
is to merge: from the state after it to the one before, carried out on what the version is now
(`dvid_dask.datatypes.labelmap.merges`). What others did since stays; where it contradicts, nothing is changed.

Such an undo works on a draft that takes the version's place in one step (`dvid_dask.store.land`), as bulk jobs do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping, entries_that_differ, merged_page, restore_entries
from dvid_dask.datatypes.labelmap.merges import merge_labelmaps
from dvid_dask.datatypes.labelmap.steps import Restore, decode_steps, encode_steps
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.errors import Conflict
from dvid_dask.formats.distinct import distinct
from dvid_dask.store import TreeNotFound, land
from dvid_dask.versions.meaning import MergeStep, differing
from dvid_dask.versions.mutation import Handed, Mutation, tell_followers
from dvid_dask.versions.space import Space, TxSpace
from dvid_dask.versions.staging import stage_name
from dvid_dask.versions.undo import UndoRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.datatypes.labelmap.methods.instance import Instance
    from dvid_dask.store import Change, Transaction, View

__all__ = ["CONTRADICTION", "Contradicted", "kept_space", "restore", "restore_on_draft", "restores", "take_over"]

_PART = 1024
_ATTEMPTS = 8
_LISTED = 20

CONTRADICTION = object()
"""What `take_over` makes of a key that both sides changed."""


class Contradicted(Exception):  # noqa: N818  a finding, not a failure: it becomes `LaterMutations`
    """Later changes contradict what is to be taken back.

    Attributes
    ----------
    ids, blocks
        Supervoxels and bodies, and blocks (scale, z, y, x), about which they do.
    """

    def __init__(self, why: str, ids: NDArray[np.uint64], blocks: set[tuple[int, ...]]) -> None:
        super().__init__(why)
        self.ids = ids
        self.blocks = blocks


class _OthersChangedError(Exception):
    """Others changed the same meanwhile: do it again on the newer state."""


def kept_space(instance: Instance, name: str) -> Space:
    """The instance's keys in a tree that is kept for an undo.

    Raises
    ------
    Conflict
        If it is gone: the version was committed meanwhile.
    """
    try:
        view = instance.version.datastore.store.tree(name).view(0)
    except TreeNotFound:
        raise Conflict(f"the state {name} that was kept for the undo is gone: the version was committed") from None
    return instance.space_in(view)


# ------------------------------------------------------------------ of jobs that write voxels as they go


def begin_kept(m: Mutation, instance: Instance, action: str, box: tuple[int, int, int, int, int, int]) -> int:
    """Keep what the version is before a job writes voxels in many commits; returns what `end_kept` needs.

    Parameters
    ----------
    m
        The commit that notes the job.
    instance
        What it writes to.
    action
        What it does.
    box
        First and last block (z, y, x) that it may write.
    """
    if not m.keeps_undo(instance):
        return 0
    before, _ = m.keep_states(instance, after=False)
    m.keep_undo(instance, action, encode_steps([Restore(before, "", "voxels", box)]))
    return m.id


def end_kept(m: Mutation, instance: Instance, mutation: int) -> None:
    """Keep what the version is after the job's last commit, which this is: the job is this mutation from now on."""
    record = m.undo_record(instance, mutation) if mutation else None
    if record is None:
        return
    (step,) = decode_steps(m.undo_data(instance, mutation))
    if isinstance(step, Restore):
        _, after = m.keep_states(instance, mutation, before=False)
        done = msgspec.structs.replace(step, after=after)
        m.forget_undo(instance, mutation)
        m.keep_undo(instance, record.action, encode_steps([done]))


# ------------------------------------------------------------------ inside a transaction


def restore(step: Restore, space: TxSpace, kept: Callable[[str], Space]) -> list[int] | None:
    """Take back changes of label indices or of the mapping; what else agrees with them isn't looked at.

    Returns
    -------
    list of int or None
        Ids that were changed since, if there are any: then nothing is to be committed.
    """
    before, after = kept(step.before), kept(step.after)
    return (_restore_mapping if step.what == "mapping" else _restore_indices)(space, before, after)


def _restore_mapping(space: TxSpace, before: Space, after: Space) -> list[int] | None:
    for part in batches(differing(after, before, keys.MAPPING), _PART):
        pages = zip(after.get_many(part), before.get_many(part), strict=True)
        ids = np.concatenate([entries_that_differ(one, other) for one, other in pages])
        found, values = Mapping(space).entries(ids)
        was_found, was = Mapping(after).entries(ids)
        changed = ids[(found != was_found) | (values != was)]
        if len(changed):
            return [int(i) for i in changed.tolist()]
        restore_entries(space, ids, *Mapping(before).entries(ids))
    return None


def _restore_indices(space: TxSpace, before: Space, after: Space) -> list[int] | None:
    for part in batches(differing(after, before, keys.BODY), _PART):
        now, was = space.get_many(part), after.get_many(part)
        changed = [keys.body_of(key) for key, one, other in zip(part, now, was, strict=True) if one != other]
        if changed:
            return changed
        index = Index(space)
        for key, value in zip(part, before.get_many(part), strict=True):
            body = keys.body_of(key)
            index.delete(body)
            if value is not None:
                space.put(key, value)
            for prefix in (keys.pages(body), keys.buckets(body)):
                space.put_many(before.scan(prefix))
    return None


def restores(
    step: Restore, kept: Callable[[str], Space], ids: NDArray[np.uint64], blocks: set[tuple[int, ...]]
) -> bool:
    """Whether what a step takes back (or does again) has to do with supervoxels, bodies or blocks."""
    before, after = kept(step.before), kept(step.after or step.before)
    for a in range(0, len(ids), _PART):
        part = ids[a : a + _PART]
        one, other = Mapping(before).entries(part), Mapping(after).entries(part)
        if (one[0] != other[0]).any() or (one[1] != other[1]).any():
            return True
        records = [keys.body(i) for i in part.tolist()]
        if before.get_many(records) != after.get_many(records):
            return True
    for chosen in batches(sorted(blocks), _PART):
        block_keys = [keys.blocks(scale, [at])[0] for scale, *at in chosen]
        if before.get_many(block_keys) != after.get_many(block_keys):
            return True
    return False


# ------------------------------------------------------------------ on a draft


def restore_on_draft(
    instance: Instance,
    record: UndoRecord,
    step: Restore,
    verb: str,
    finish: Callable[[Mutation], None],
    *,
    user: str,
    app: str,
) -> int:
    """Take back edits or voxels, in one step; returns the mutation id.

    Parameters
    ----------
    instance
        At an open version.
    record
        What is kept of the mutation that is taken back, or done again.
    step
        What to take back.
    verb
        "undo" or "redo".
    finish
        Called with the mutation in the last commit, to log it.
    user, app
        Who asks.

    Raises
    ------
    Contradicted
        If later changes contradict it; nothing is changed.
    Conflict
        If others kept changing the same.
    """
    tree = instance.version.tree()
    store = instance.version.datastore.store
    mutation = instance.repo.next_mutation_id()
    for attempt in range(_ATTEMPTS):
        base = tree.view(0)
        draft = store.branch(base, stage_name(mutation))
        try:
            handed = Handed()
            landed: list[Mutation] = []

            def mutations(tx: Transaction) -> Mutation:
                return Mutation(mutation, user, app, instance.version, tx, tree.name, instance.version.id)

            def update(
                fn: Callable[[Mutation, TxSpace], Any],
                draft: Any = draft,
                handed: Handed = handed,
            ) -> Any:
                def change(tx: Transaction) -> Any:
                    m = mutations(tx)
                    result = fn(m, m.space(instance))
                    m.leave(handed)
                    return result

                return draft.update(change)

            _merge(instance, step, instance.space_in(base), update)

            def settle(
                tx: Transaction,
                newest: View,
                changes: Iterator[Change],
                base: View = base,
                handed: Handed = handed,
                landed: list[Mutation] = landed,
            ) -> bool:
                if take_over(instance, tx, base, newest, changes):
                    raise _OthersChangedError
                m = mutations(tx)
                m.take(handed)
                if m.undo_record(instance, record.id) != record:
                    raise _OthersChangedError
                finish(m)
                undone = mutation if verb == "undo" else 0
                replaced = msgspec.structs.replace(record, undone=undone, latest=mutation)
                m.replace_undo(instance, replaced, encode_steps([step.back]))
                m.finish()
                landed[:] = [m]
                return True

            land(tree, draft, base, settle)
        except _OthersChangedError:
            if attempt == _ATTEMPTS - 1:
                raise Conflict(f"others kept changing {instance.name!r} at the same places; try again") from None
            continue
        else:
            tell_followers(landed[0])
            return mutation
        finally:
            with contextlib.suppress(TreeNotFound):
                store.drop_tree(draft.name)
    raise Conflict(f"others kept changing {instance.name!r}; try again")


def _merge(instance: Instance, step: Restore, now: Space, update: Callable[[Any], Any]) -> None:
    ids: list[int] = []
    blocks: set[tuple[int, ...]] = set()
    told: list[str] = []

    def contradiction(_: bytes, what: Any) -> None:
        for name in ("supervoxels", "supervoxel", "body", "moved to"):
            found = what.get(name, ())
            ids.extend(found if isinstance(found, list) else [found] if isinstance(found, int) else [])
        if "block" in what:
            blocks.add((0, *what["block"]))
        if len(told) < _LISTED:
            told.append(", ".join(f"{k} {v}" for k, v in what.items()))

    merge = MergeStep(
        now,
        kept_space(instance, step.before),
        [kept_space(instance, step.after)],
        update=update,
        list_conflict=contradiction,
    )
    merge_labelmaps(instance, merge, versions=False, box=step.box if step.what == "voxels" else None)
    if told:
        raise Contradicted("; ".join(told), distinct(np.array(ids, np.uint64)), blocks)


def take_over(instance: Datatype, tx: Transaction, base: View, newest: View, changes: Iterator[Change]) -> list[bytes]:
    """Put what others changed in a version since a draft began on top of the draft; returns keys that both changed.

    Parameters
    ----------
    instance
        Of which the draft is.
    tx
        A transaction on the draft.
    base, newest
        The version when the draft began, and as it is now.
    changes
        What differs between the two.
    """
    unsettled: list[bytes] = []
    for part in batches((change.key for change in changes), _PART):
        columns = base.get_many(part), tx.get_many(part), newest.get_many(part)
        for key, old, ours, theirs in zip(part, *columns, strict=True):
            if ours == theirs:
                continue
            value = theirs if ours == old else _settled(instance, key, old, ours, theirs)
            if value is CONTRADICTION:
                unsettled.append(key)
            elif value is None:
                tx.delete(key)
            else:
                tx.put(key, value)
    return unsettled


def _settled(instance: Datatype, key: bytes, old: bytes | None, ours: bytes | None, theirs: bytes | None) -> Any:
    from dvid_dask.datatypes.base import CONFLICT

    prefix = instance.info.prefix
    if not key.startswith(prefix):
        return CONTRADICTION
    own = key[len(prefix) :]
    if own.startswith(keys.MAPPING):
        try:
            return merged_page(old, ours, theirs)
        except ValueError:
            return CONTRADICTION
    if ours is None or theirs is None:
        return CONTRADICTION
    found = instance.merge_value(own, old, [ours, theirs])
    return CONTRADICTION if found is CONFLICT else found
