"""The label index and the mapping, as they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import extents, keys, undo
from dvid_dask.datatypes.labelmap.events import SupervoxelsMoved
from dvid_dask.datatypes.labelmap.index import Index, Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping
from dvid_dask.datatypes.labelmap.mapping import set_mapping
from dvid_dask.datatypes.labelmap.methods.bodies import Bodies
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.labelmap.steps import Restore
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats.distinct import distinct, is_among
from dvid_dask.formats.label_index import LabelIndex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.versions import Version

__all__ = ["IndexAccess"]

MAX_KEPT_ROWS = 1 << 16
"""Rows of label indices, or entries of the mapping, that are kept for an undo; what replaces more can't be undone."""


class IndexAccess(Bodies):
    """Label index and mapping of a labelmap at a version."""

    def index(self, body: int) -> LabelIndex:
        """The label index of a body, whole; for bodies of 10**8 rows see `Index.layers`.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        found = next(self.indices([self.resolve(body)[0]]))
        if found is None:
            raise NotFound(f"there is no body {body}")
        return found

    def indices(self, bodies: Iterable[int]) -> Iterator[LabelIndex | None]:
        """Label indices of many bodies, in their order; None for one that doesn't exist."""
        index = Index(self.view())
        for body in bodies:
            yield index.described(body)

    def index_message(self, body: int) -> bytes | None:
        """The label index of a body as a ``LabelIndex`` message; None for a large body, whose rows lie in pages.

        Raises
        ------
        NotFound
            If there is no such body.
        """
        message = Index(self.view()).message(self.resolve(body)[0])
        if message == b"":
            raise NotFound(f"there is no body {body}")
        return message

    def set_indices(self, indices: Iterable[LabelIndex], *, force: bool = False) -> None:
        """Replace label indices as they are given, unchecked against voxels and mapping; one without rows is deleted.

        Raises
        ------
        BadRequest
            If one is of label 0; nothing is changed.
        """
        self.check_open(force)
        listed = list(indices)
        if any(not i.label for i in listed):
            raise BadRequest("a label index of label 0 can't be stored: 0 is background")
        largest = max((i.label for i in listed if len(i.supervoxel)), default=0)
        self.next_labels.raise_to(largest)

        def change(m: Mutation, space: TxSpace) -> None:
            index = Index(space)
            bodies = list(dict.fromkeys(i.label for i in listed))
            rows_before = sum(h.rows for h in index.headers(bodies) if h is not None)
            small = rows_before + sum(len(i.supervoxel) for i in listed) <= MAX_KEPT_ROWS
            before = undo.read_indices(space, bodies) if small else []
            for given in listed:
                rows = Rows.of(given.block_zyx, given.supervoxel, given.count, given.surface_mutid)
                rows = rows[(rows.count > 0) & (rows.supervoxel > 0)]
                stamp = Stamp(given.last_mutid, given.last_mod_time, given.last_mod_user, given.last_mod_app)
                index.replace(given.label, rows, stamp)
            if largest:
                extents.raise_max_label(space, largest)
            if small:
                self._keep_undo(m, "indices", [undo.indices_before(before, space, bodies)])
            elif m.keeps_undo(self):
                self._keep_undo(m, "indices", [Restore(*m.keep_states(self), "indices")])

        self.mutate(change, force=force)

    def index_version(self, body: int) -> Version:
        """The version at which the index of a body was last written, or deleted.

        Raises
        ------
        BadRequest
            If no version up to this one has an index of the body.
        """
        key = keys.body(self.resolve(body)[0])
        at = self.version
        value = self.view().get(key)
        if not self.info.versioned:
            if value is None:
                raise BadRequest(f"there is no body {body}")
            return at
        known = value is not None
        while True:
            parents = at.parents
            held = [(p, p[self.name].view().get(key)) for p in parents]
            same = next((p for p, v in held if v == value), None)
            if value is None and any(v is not None for _, v in held):
                return at
            if same is None:
                break
            at = same
        if not known:
            raise BadRequest(f"there is no body {body} in this version or its ancestors")
        return at

    # ------------------------------------------------------------------ mapping

    def mapping(self, ids: ArrayLike, *, lookup: bool = True) -> NDArray[np.uint64]:
        """The body of each id.

        Parameters
        ----------
        ids
            Supervoxels.
        lookup
            Whether an id without entry in the mapping must occur in its own body's index; 0 if it doesn't.

        Returns
        -------
        NDArray[uint64]
            0 for an id that is retired, unknown or 0.
        """
        wanted = np.asarray(ids, np.uint64).reshape(-1)
        view = self.view()
        found, values = LabelMapping(view).entries(wanted)
        out = np.where(found, values, wanted)
        if lookup:
            index = Index(view)
            own = distinct(wanted[~found & (wanted != 0)])
            there = np.zeros(len(own), np.bool_)
            for a in range(0, len(own), 4096):
                part = own[a : a + 4096].tolist()
                there[a : a + 4096] = index.has_own_supervoxel(part)
            gone = own[~there]
            out[~found & is_among(wanted, gone)] = 0
        return out

    def mappings(self) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """All entries (ids, bodies) that are not identities, in pages, ids ascending."""
        return LabelMapping(self.view()).scan()

    def mapping_size(self) -> tuple[int, int]:
        """Entries of the mapping, identities among them, and the bytes that they take in the store. Reads all pages."""
        return LabelMapping(self.view()).size()

    def set_mappings(self, ids: ArrayLike, bodies: ArrayLike, *, force: bool = False) -> None:
        """Set the body of ids (0 retires an id), without a look at the label index: for bulk loaders.

        Of an id named twice the last counts.
        """
        self.check_open(force)
        wanted, values = np.asarray(ids, np.uint64).reshape(-1), np.asarray(bodies, np.uint64)
        if not len(wanted):
            return

        def change(m: Mutation, space: TxSpace) -> None:
            had, before = set_mapping(space, wanted, values)
            unique, first = np.unique(wanted, return_index=True)
            last = len(wanted) - 1 - np.unique(wanted[::-1], return_index=True)[1]
            new = np.broadcast_to(values, wanted.shape)[last]
            old = np.where(had[first], before[first], unique)
            m.publish(self, SupervoxelsMoved(m.id, unique, old, new))
            if len(wanted) <= MAX_KEPT_ROWS:
                step = undo.entries_before(unique, had[first], before[first], new)
                self._keep_undo(m, "mappings", [step])
            elif m.keeps_undo(self):
                self._keep_undo(m, "mappings", [Restore(*m.keep_states(self), "mapping")])

        self.mutate(change, force=force)
