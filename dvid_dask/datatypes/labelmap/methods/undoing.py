"""Undo and redo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.labelmap.events import BodyCleaved
from dvid_dask.datatypes.labelmap.methods.splitting import Splitting
from dvid_dask.datatypes.labelmap.steps import Cut, Step, decode_steps, encode_steps, named
from dvid_dask.datatypes.labelmap.undo import Changed, Context, carry_out, labels_in
from dvid_dask.errors import BadRequest, LaterMutations, NotFound
from dvid_dask.versions.undo import UndoRecord, scan_undo

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Mutation, TxSpace

__all__ = ["Undoing"]


class Undoing(Splitting):
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

        def change(m: Mutation, space: TxSpace) -> int:
            kept = m.undo_record(self, mutation)
            if kept is None:
                raise NotFound(
                    f"version {self.version.uuid} keeps nothing of a mutation {mutation} that could be undone"
                )
            if bool(kept.undone) != (verb == "redo"):
                raise BadRequest(f"mutation {mutation} is {'undone already' if kept.undone else 'not undone'}")
            steps = decode_steps(m.undo_data(self, mutation))

            def tell(event: object, action: str, fields: dict[str, Any]) -> None:
                if isinstance(event, BodyCleaved):
                    fields = {**fields, **self._told(event.supervoxels)}
                if fields:
                    self._log(m, f"{action}-complete", **fields, **{"Undoes" if verb == "undo" else "Redoes": mutation})
                m.publish(self, event)

            context = Context(
                space,
                self.layout,
                self.indexed,
                self._stamp(m),
                self.version.id,
                tell,
                self.version.datastore.get_blob,
                lambda: self._standing_after(m, kept),
            )
            try:
                back = carry_out(steps, context)
            except Changed as why:
                later = list(why.mutations) or self._later(m, kept, steps)
                listed = f": undo {', '.join(map(str, later))} first" if later else ""
                raise LaterMutations(f"mutation {mutation} can't be {verb}ne: {why}{listed}", later) from None
            undone = m.id if verb == "undo" else 0
            m.replace_undo(self, msgspec.structs.replace(kept, undone=undone, latest=m.id), encode_steps(back))
            return m.id

        return self.mutate(change, user=user, app=app, force=force)

    def _standing_after(self, m: Mutation, kept: UndoRecord) -> Iterator[tuple[int, list[Step]]]:
        """Mutations done after this one that aren't undone, and their steps."""
        for other in scan_undo(m.tx, self.info.id, self.version.id):
            if other.latest > kept.latest and not other.undone:
                yield other.id, decode_steps(m.undo_data(self, other.id))

    def _later(self, m: Mutation, kept: UndoRecord, own: list[Step]) -> list[int]:
        """Mutations done after this one that name what it names, or cut what lies in the blocks that it wrote."""
        ids, blocks = named(own)
        there = labels_in(m.space(self), self.layout, blocks)
        found = []
        for mutation, steps in self._standing_after(m, kept):
            other_ids, other_blocks = named(steps)
            cut = any(isinstance(step, Cut) for step in steps) and np.isin(other_ids, there).any()
            if cut or np.isin(other_ids, ids).any() or not blocks.isdisjoint(other_blocks):
                found.append(mutation)
        return found
