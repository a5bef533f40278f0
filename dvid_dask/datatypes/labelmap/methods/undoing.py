"""Undo and redo."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.labelmap.events import BodyCleaved
from dvid_dask.datatypes.labelmap.methods.recording import Recording
from dvid_dask.datatypes.labelmap.restoring import Contradicted, kept_space, restore_on_draft
from dvid_dask.datatypes.labelmap.steps import (
    Cut,
    Restore,
    SetBlocks,
    Step,
    decode_steps,
    encode_steps,
    may_name,
    named,
)
from dvid_dask.datatypes.labelmap.undo import Changed, Context, carry_out, labels_in, names_one
from dvid_dask.errors import BadRequest, LaterMutations, NotFound
from dvid_dask.formats.distinct import distinct, is_among
from dvid_dask.versions.undo import UndoRecord, read_undo, read_undo_data, scan_undo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.store import Transaction, View

__all__ = ["Undoing"]


class Undoing(Recording):
    """Mutations of an open version taken back, and done again."""

    def undoable(self) -> Iterator[UndoRecord]:
        """The mutations of this version that `undo` or `redo` know, oldest first."""
        if self.info.versioned:
            yield from scan_undo(self.view().view, self.info.id, self.version.id)

    def undo(self, mutation: int, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Take a mutation of this version back, if nothing later depends on it.

        Voxels, coarser scales, label index and mapping become what they would be without the mutation. Other
        mutations since then stay. The log tells an undo as the edit that it is: a merge that is taken back cleaves.

        Parameters
        ----------
        mutation
            Its id.

        Returns
        -------
        int
            The mutation id of the undo.

        Raises
        ------
        NotFound
            If the version keeps nothing of such a mutation.
        BadRequest
            If it is undone already.
        LaterMutations
            If later mutations built on it; the error names them. Nothing is changed.
        LockedVersion
            If the version is committed.

        Examples
        --------
        >>> import dvid_dask
        >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
        >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
        >>> seg.write(np.repeat(np.arange(1, 17, dtype=np.uint64), 256).reshape(16, 16, 16), (0, 0, 0))
        >>> merged = seg.merge(1, [2, 3])
        >>> _ = seg.undo(merged)
        >>> seg.sizes([1, 2, 3]).tolist()
        [256, 256, 256]
        >>> _ = seg.redo(merged)
        >>> seg.sizes([1, 2, 3]).tolist()
        [768, 0, 0]
        """
        return self._carry_out(mutation, "undo", user=user, app=app, force=force)

    def redo(self, mutation: int, *, user: str = "", app: str = "", force: bool = False) -> int:
        """Do a mutation again that `undo` took back; the id is that of the mutation. Errors are those of `undo`."""
        return self._carry_out(mutation, "redo", user=user, app=app, force=force)

    def _carry_out(self, mutation: int, verb: str, *, user: str, app: str, force: bool) -> int:
        self.check_open()  # nothing is kept of a committed version, so force can't help
        if not self.info.versioned:
            raise BadRequest("nothing is kept of the mutations of an unversioned instance, so none can be undone")
        view = self.view(0).view
        kept = self._checked(read_undo(view, self.info.id, self.version.id, mutation), mutation, verb)
        steps = decode_steps(read_undo_data(view, self.info.id, self.version.id, mutation))
        if len(steps) == 1 and isinstance(steps[0], Restore) and steps[0].what in ("edits", "voxels"):
            return self._carry_out_on_draft(kept, steps[0], verb, user=user, app=app)

        def change(m: Mutation, space: TxSpace) -> int:
            kept = self._checked(m.undo_record(self, mutation), mutation, verb)
            steps = decode_steps(m.undo_data(self, mutation))

            def tell(event: object, action: str, fields: dict[str, Any]) -> None:
                if isinstance(event, BodyCleaved):
                    fields = {**fields, **self._told(event.supervoxels)}
                if fields:
                    self._log(m, f"{action}-complete", **fields, **{_WORDS[verb]: mutation})
                m.publish(self, event)

            context = Context(
                space,
                self.layout,
                self.indexed,
                self._stamp(m),
                self.version.id,
                tell,
                self.version.datastore.get_blob,
                lambda ids, blocks: self._standing_after(m.tx, kept, ids, blocks),
                partial(kept_space, self),
                lambda: m.keep_states(self, after=False)[0],
            )
            try:
                back = carry_out(steps, context)
            except Changed as why:
                later = list(why.mutations) or self._later(m, kept, steps)
                raise self._refusal(mutation, verb, str(why), later) from None
            undone = m.id if verb == "undo" else 0
            m.replace_undo(self, msgspec.structs.replace(kept, undone=undone, latest=m.id), encode_steps(back))
            return m.id

        return self.mutate(change, user=user, app=app, force=force)

    def _checked(self, kept: UndoRecord | None, mutation: int, verb: str) -> UndoRecord:
        if kept is None:
            raise NotFound(f"version {self.version.uuid} keeps nothing of a mutation {mutation} that could be undone")
        if bool(kept.undone) != (verb == "redo"):
            raise BadRequest(f"mutation {mutation} is {'undone already' if kept.undone else 'not undone'}")
        return kept

    @staticmethod
    def _refusal(mutation: int, verb: str, why: str, later: list[int]) -> LaterMutations:
        listed = f": undo {', '.join(map(str, later))} first" if later else ""
        return LaterMutations(f"mutation {mutation} can't be {verb}ne: {why}{listed}", later)

    def _carry_out_on_draft(self, kept: UndoRecord, step: Restore, verb: str, *, user: str, app: str) -> int:
        """Undo and redo of what is too large to be kept step by step."""
        if not step.before or not step.after:
            raise BadRequest(f"mutation {kept.id} ({kept.action}) isn't finished: run the job to its end first")
        if step.what == "voxels" and (among := self._while_running(kept, step)):
            why = "others changed voxels or cut supervoxels there while it ran"
            raise self._refusal(kept.id, verb, why, among)

        def finish(m: Mutation) -> None:
            self._log(m, f"{verb}-complete", Of=kept.action, **{_WORDS[verb]: kept.id})

        try:
            return restore_on_draft(self, kept, step, verb, finish, user=user, app=app)
        except Contradicted as why:
            space = self.view(0)
            # cut in blocks, they name the parts
            ids = distinct(np.concatenate([why.ids, labels_in(space, self.layout, why.blocks)]))
            later = [
                mutation
                for mutation, steps in self._standing_after(space.view, kept, ids, why.blocks)
                if names_one(steps, ids, why.blocks, partial(kept_space, self))
            ]
            raise self._refusal(kept.id, verb, f"later changes contradict it ({why})", later) from None

    def _while_running(self, kept: UndoRecord, step: Restore) -> list[int]:
        """Mutations made between the begin and the end of a job that changed voxels in its box, and stand."""

        def standing(reader: View) -> dict[int, int]:
            return {r.id: r.latest for r in scan_undo(reader, self.info.id, self.version.id) if not r.undone}

        # ids don't tell the order of commits where several processes edit; what the two states list does
        one, other = (standing(kept_space(self, name).view) for name in (step.before, step.after))
        view = self.view(0).view
        found = []
        for mutation in standing(view):
            if one.get(mutation) == other.get(mutation) or mutation == kept.id:
                continue
            steps = decode_steps(read_undo_data(view, self.info.id, self.version.id, mutation))
            if any(_within(theirs, step.box) for theirs in steps):
                found.append(mutation)
        return found

    def _standing_after(
        self, reader: View | Transaction, kept: UndoRecord, ids: NDArray[np.uint64], blocks: set[tuple[int, ...]]
    ) -> Iterator[tuple[int, list[Step]]]:
        """Mutations done after this one that aren't undone and may name one of these, and their steps."""
        for other in scan_undo(reader, self.info.id, self.version.id):
            # what is done again follows those that it followed at first
            later = other.latest > kept.latest and (not kept.undone or other.id > kept.id)
            if later and not other.undone and may_name(other.summary, ids, blocks):
                data = read_undo_data(reader, self.info.id, self.version.id, other.id)
                yield other.id, decode_steps(data)

    def _later(self, m: Mutation, kept: UndoRecord, own: list[Step]) -> list[int]:
        """Mutations done after this one that name what it names, or cut what lies in the blocks that it wrote."""
        ids, blocks = named(own)
        there = labels_in(m.space(self), self.layout, blocks)
        found = []
        for mutation, steps in self._standing_after(m.tx, kept, np.concatenate([ids, there]), blocks):
            cut = any(isinstance(step, Cut) for step in steps) and is_among(named(steps)[0], there).any()
            if cut or names_one(steps, ids, blocks, partial(kept_space, self)):
                found.append(mutation)
        return found


_WORDS = {"undo": "Undoes", "redo": "Redoes"}


def _within(step: Step, box: tuple[int, ...] | None) -> bool:
    """Whether a step may change voxels in a box of blocks."""
    if isinstance(step, SetBlocks):
        coords = np.frombuffer(step.block_zyx, "<i4").reshape(-1, 3) << step.scale
        return box is None or bool(((coords >= box[:3]) & (coords <= box[3:])).all(axis=1).any())
    if isinstance(step, Restore) and step.what == "voxels":
        return box is None or step.box is None or _meet(box, step.box)
    return isinstance(step, Cut) or (isinstance(step, Restore) and step.what == "edits")


def _meet(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(a[i] <= b[i + 3] and b[i] <= a[i + 3] for i in range(3))
