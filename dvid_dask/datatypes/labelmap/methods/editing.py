"""Edits of bodies: merge, cleave, renumber."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import edits, events, extents
from dvid_dask.datatypes.labelmap.counters import RESERVED
from dvid_dask.datatypes.labelmap.methods.bodies import Bodies
from dvid_dask.datatypes.labelmap.methods.recording import Recording
from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace

__all__ = ["Editing"]


_DRAWS = 1000  # from a range of labels of which some are in use


class Editing(Recording, Bodies):
    """Changes of the bodies of a labelmap."""

    def merge(self, target: int, others: Sequence[int], *, user: str = "", app: str = "", force: bool = False) -> int:
        """Make bodies part of another; returns the mutation id.

        Raises
        ------
        BadRequest
            If a body doesn't exist or is named wrongly; nothing is changed.
        """
        merged = list(dict.fromkeys(int(o) for o in others))

        def change(m: Mutation, space: TxSpace) -> int:
            back = edits.merge(space, target, merged, self._stamp(m))
            self._keep_undo(m, "merge", back)
            self._log(m, "merge-complete", Target=target, Labels=merged)
            m.publish(self, events.BodiesMerged(m.id, target, tuple(merged)))
            return m.id

        return self.mutate(change, user=user, app=app, force=force)

    def cleave(
        self, body: int, supervoxels: ArrayLike, *, user: str = "", app: str = "", force: bool = False
    ) -> tuple[int, int]:
        """Make supervoxels of a body a new body; returns its id and the mutation id.

        Raises
        ------
        BadRequest
            If the body doesn't exist, a supervoxel isn't part of it, or none would stay; nothing is changed.
        """
        self.resolve(body)
        self.check_open(force)
        svs = distinct(np.asarray(supervoxels, np.uint64).reshape(-1))
        if not len(svs):
            raise BadRequest("a cleave takes at least one supervoxel")
        moved: dict[str, Any] = {}
        drawn: list[int] = []

        def change(m: Mutation, space: TxSpace) -> tuple[int, int]:
            done = edits.check_cleave(space, body, svs)
            if not moved:
                moved.update(self._told(svs))
            # drawn late: a cleave that is refused takes no id, and one that is tried again keeps its own
            if not drawn or edits.used(space, drawn)[0]:
                # by a view: what it looks at must not make two cleaves run again for each other
                drawn[:] = self._unused_labels(self.view()).tolist()
            new_body = drawn[0]
            back = edits.cleave(space, body, new_body, svs, self._stamp(m))
            self._keep_undo(m, "cleave", back)
            self._log(
                m,
                "cleave-complete",
                OrigLabel=body,
                CleavedLabel=new_body,
                **moved,
                CleavedSize=done.cleaved_voxels,
                RemainSize=done.remaining_voxels,
            )
            m.publish(self, events.BodyCleaved(m.id, body, new_body, svs))
            return new_body, m.id

        return self.mutate(change, user=user, app=app, force=force)

    def _unused_labels(self, view: Space, n: int = 1) -> NDArray[np.uint64]:
        """The next labels; those in use are skipped: administrators may have chosen a range with such labels."""
        found = np.empty(0, np.uint64)
        largest = extents.max_label(view)
        for _ in range(_DRAWS):
            first, last = self.next_labels.allocate(n - len(found), above=largest)
            drawn = np.uint64(first) + np.arange(last - first + 1, dtype=np.uint64)
            found = np.concatenate([found, drawn[~edits.used(view, drawn)]])
            if len(found) == n:
                return found
        raise BadRequest(f"the labels up to {last} are in use: have an administrator set another next label")

    def renumber(
        self, pairs: Sequence[tuple[int, int]], *, user: str = "", app: str = "", force: bool = False
    ) -> list[int]:
        """Give bodies other ids: pairs (new, old), one after the other, all or none.

        Returns
        -------
        list of int
            The mutation id of each pair.

        Raises
        ------
        BadRequest
            If an old body doesn't exist, a new one does, or an id is 0; nothing is changed.
        """
        self.check_open(force)
        if not pairs:
            return []
        if any(not 0 <= i <= RESERVED for pair in pairs for i in pair):
            raise BadRequest("ids of bodies are 1 to 2**64 - 1")
        edits.check_renumber(self.view(0), pairs)
        more = [self.repo.next_mutation_id() for _ in pairs[1:]]

        def change(m: Mutation, space: TxSpace) -> list[int]:
            ids = [*more, m.id]  # in the order in which they were drawn
            for mutation, (new, old) in zip(ids, pairs, strict=True):
                back = edits.renumber(space, old, new, self._stamp(m, mutation))
                self._keep_undo(m, "renumber", back, mutation)
                self._log(m, "renumber-complete", mutation, NewLabel=new, OrigLabel=old)
                m.publish(self, events.BodyRenumbered(mutation, old, new))
            return ids

        self.next_labels.raise_to(max(new for new, _ in pairs))
        return self.mutate(change, user=user, app=app, force=force)
