"""Whole versions of an instance in memory, for questions that concern all annotations.

A `Table` is one state of an instance: its body ids, and for each the row of its annotation. The first one asked for is
read whole. Another version, or the same one after a commit of anybody, is made from one that is there and from what
differs in the trees, so it costs what differs. A `Library` keeps the tables of one instance, and the process keeps as
many libraries as the memory set aside for them allows.

A table belongs to the state of a view, which says how old a read may be; so what is answered from memory is never older
than what is read from the store, with any number of processes writing.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvid_dask.formats.distinct import distinct, is_among
from dvid_dask.store import Store, StoreError, prefix_end
from dvid_dask.versions.space import Space

from .columns import Rows
from .query import AnyOf, Demand, Exists, Query
from .record import NEURON, Selection, body_of, is_stamp, key_of, member

__all__ = ["Table", "forget", "kept", "memory", "set_memory", "tables"]

Bodies = NDArray[np.uint64]
Trees: TypeAlias = Callable[[], Iterable[str]]

#: Annotations in memory at a time where not all of them may be.
PART: Final = 4096
#: States of one instance that are kept.
_STATES: Final = 16
#: Share of the memory that annotations may take; the rest is for columns.
_VALUES: Final = 0.75
#: Fewer answers than this are cut out of the annotations one by one; columns would have to be made for all.
_FEW: Final = 500
#: More fields than this are not made into columns for an answer.
_WIDE: Final = 64


class Table:
    """Annotations at one state, in order of their body ids.

    Attributes
    ----------
    bodies : numpy.ndarray
        uint64 (n,), ascending.
    rows : Rows
        Where their annotations are.
    at : numpy.ndarray
        int64 (n,), the row of each.
    """

    def __init__(self, bodies: Bodies, rows: Rows, at: NDArray[np.int64]) -> None:
        self.bodies = bodies
        self.rows = rows
        self.at = at

    def __len__(self) -> int:
        return len(self.bodies)

    def value(self, index: int) -> bytes:
        """An annotation as it is stored."""
        value: bytes = self.rows.values[int(self.at[index])]
        return value

    def values(self, indices: NDArray[np.int64] | None = None) -> Iterator[bytes]:
        """Annotations as they are stored, of all or of some."""
        held = self.rows.values
        at = self.at if indices is None else self.at[indices]
        return map(held.__getitem__, at.tolist())

    def between(self, first: int, last: int) -> tuple[int, int]:
        """Begin and end of the annotations of bodies from `first` to `last`, both included."""
        begin = int(np.searchsorted(self.bodies, np.uint64(first), "left"))
        return begin, int(np.searchsorted(self.bodies, np.uint64(last), "right"))

    def find(self, query: Query) -> NDArray[np.int64]:
        """Indices of the annotations that a query finds, ascending."""
        found = np.zeros(len(self), bool)
        self.rows.columns([name for name in query.fields if name != "bodyid"])  # in one pass
        for demands in query.any_of:
            left: NDArray[np.bool_] | None = None
            for name, demand in demands.items():
                fits = self._fits(name, demand)
                left = fits if left is None else left & fits
                if not left.any():
                    break
            # an object without demands finds everything, as it does for DVID beside others
            found |= True if left is None else left
        return np.flatnonzero(found)

    def _fits(self, name: str, demand: Demand) -> NDArray[np.bool_]:
        if name == "bodyid":
            if isinstance(demand, Exists):
                return np.full(len(self), demand.there)
            wanted = _ids(demand)
            return is_among(self.bodies, wanted)
        codes, fits = self.rows.fits(name, demand)
        return fits[codes[self.at]]

    def texts(self, selection: Selection, indices: NDArray[np.int64] | None = None) -> Iterator[bytes]:
        """JSON of what is selected of all annotations, or of some."""
        names = selection.names
        count = len(self) if indices is None else len(indices)
        if names is None or count < _FEW or len(names) > _WIDE:
            return map(selection.apply, self.values(indices))
        order = sorted(names, key=lambda name: (is_stamp(name), name))
        return self._from_columns(order, self.at if indices is None else self.at[indices])

    def _from_columns(self, names: Sequence[str], at: NDArray[np.int64]) -> Iterator[bytes]:
        """Put objects together from the texts of members."""
        columns = self.rows.columns(names)
        for begin in range(0, len(at), PART):
            part = at[begin : begin + PART]
            pieces = []
            for name, (codes, column) in zip(names, columns, strict=True):
                lead, texts = b"," + member(name, b""), column.values.texts
                used, inverse = np.unique(codes[part], return_inverse=True)
                once = np.empty(len(used), object)
                once[:] = [lead + texts[code] if code else b"" for code in used.tolist()]
                pieces.append(once[inverse].tolist())
            for joined in map(b"".join, zip(*pieces, strict=True)):
                yield b"{" + joined[1:] + b"}"

    def field_counts(self) -> dict[str, int]:
        """How many annotations have each member."""
        codes, names = self.rows.shapes()
        counts: dict[str, int] = {}
        for code, count in enumerate(np.bincount(codes[self.at], minlength=len(names)).tolist()):
            for name in names[code] if count else ():
                counts[name] = counts.get(name, 0) + count
        return dict(sorted(counts.items()))

    def columns(self, names: Sequence[str]) -> Iterator[tuple[NDArray[np.int32], list[bytes]]]:
        """The values of members: of each a code for each annotation, and the JSON of each code; code 0 has none."""
        return ((codes[self.at], column.values.texts) for codes, column in self.rows.columns(names))


def _ids(demand: AnyOf) -> Bodies:
    return np.array([n for n in demand.numbers if isinstance(n, int) and 0 < n < 2**64], np.uint64)


# ---------------------------------------------------------------------- making tables


class _TooLarge(Exception):  # noqa: N818  an event of reading, like StopIteration
    """The annotations take more memory than there is for them."""


def _scan(space: Space) -> Iterator[tuple[int, bytes]]:
    return ((body_of(key), value) for key, value in space.scan(NEURON))


def _load(space: Space, limit: int) -> Table:
    rows, bodies, scan = Rows(), [], _scan(space)
    while part := list(islice(scan, PART)):
        bodies.append(np.array([body for body, _ in part], np.uint64))
        rows.add([value for _, value in part])
        if rows.nbytes > limit * _VALUES:
            raise _TooLarge
    return Table(np.concatenate([np.zeros(0, np.uint64), *bodies]), rows, np.arange(len(rows)))


def _derive(old: Table, after: Space, changes: Iterator[bytes]) -> Table:
    """A table from another one and the keys whose values may differ."""
    bodies, at, held = old.bodies, old.at, old.rows.values
    while part := [body_of(key) for key in islice(changes, PART)]:
        values = after.get_many([key_of(body) for body in part])
        named = np.array(part, np.uint64)
        where = np.searchsorted(bodies, named)
        known = np.zeros(len(part), bool)
        inside = where < len(bodies)
        known[inside] = bodies[where[inside]] == named[inside]
        # a value that was moved to another file, by a seal say, may still be the same
        row = np.full(len(part), -1)
        row[known] = at[where[known]]
        is_new = [v is not None and (r < 0 or held[r] != v) for v, r in zip(values, row.tolist(), strict=True)]
        row[[v is None for v in values]] = -1
        new = [v for v, fresh in zip(values, is_new, strict=True) if v is not None and fresh]
        first = old.rows.add(new)
        row[is_new] = np.arange(first, first + len(new))
        changed, gone, added = known & (row >= 0), known & (row < 0), ~known & (row >= 0)
        at = at.copy()
        at[where[changed]] = row[changed]
        if gone.any() or added.any():
            # insert first: both take positions in what there was
            positions = where[added]
            keep = np.ones(len(bodies), bool)
            keep[where[gone]] = False
            keep = np.insert(keep, positions, True)
            bodies = np.insert(bodies, positions, named[added])[keep]
            at = np.insert(at, positions, row[added])[keep]
    return Table(bodies, old.rows, at)


class Library:
    """Tables of one instance, by state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[Space, Table]] = OrderedDict()
        self._too_large = 0

    @property
    def nbytes(self) -> int:
        """About how much memory all of it takes."""
        held = [table for _, table in list(self._held.values())]
        return sum(16 * len(table) for table in held) + (held[-1].rows.nbytes if held else 0)

    def table(self, space: Space, store: Store, trees: Trees, limit: int) -> Table | None:
        """The table of a state; None if it takes more than `limit` bytes. See `tables`."""
        token = space.token
        held = self._held.get(token)  # without the lock, which somebody may hold for long
        if held is None:
            with self._lock:
                held = self._held.get(token)
                if held is None and self._too_large < limit:
                    try:
                        table = self._nearest(space, store, trees)
                        held = space, _load(space, limit) if table is None else table
                    except _TooLarge:
                        self._too_large = limit
                        self._held.clear()
                    else:
                        self._held[token] = held
                        self._tidy(limit)
        return None if held is None else held[1]

    def _nearest(self, space: Space, store: Store, trees: Trees) -> Table | None:
        """A table made from the one that is most like it."""
        by_tree = {before.view.name: (before, table) for before, table in self._held.values()}
        if not by_tree:
            return None
        name = next((tree for tree in trees() if tree in by_tree), next(reversed(by_tree)))
        before, table = by_tree[name]
        prefix = space.prefix + NEURON
        known = space.view.changed_since(before.view)
        try:
            if known is not None:
                keys = iter(sorted(key for key in known if key.startswith(prefix)))
            else:
                changes = store.diff(before.view, space.view, prefix, prefix_end(prefix), compare_values=False)
                keys = (change.key for change in changes)
            return _derive(table, space, (key[len(prefix) - 1 :] for key in keys))
        except StoreError:
            # gc has swept nodes of a state that nobody can ask for any more
            self._held.clear()
            return None

    def _tidy(self, limit: int) -> None:
        """Drop states beyond the last ones, rows that no state has once they are many, columns if memory is short."""
        while len(self._held) > _STATES:
            self._held.popitem(last=False)
        if self.nbytes > limit:
            for token in list(self._held)[:-1]:
                del self._held[token]
        everything = [table for _, table in self._held.values()]
        rows = everything[-1].rows
        if len(rows) > 2 * max(map(len, everything)) + 10_000 or self.nbytes > limit:
            keep = distinct(np.concatenate([table.at for table in everything]))
            if len(keep) <= len(rows) * 3 // 4:
                rows = rows.compacted(keep)
                for token, (space, table) in list(self._held.items()):
                    self._held[token] = space, Table(table.bodies, rows, np.searchsorted(keep, table.at))
        rows.trim(limit)


# ---------------------------------------------------------------------- what the process keeps

_lock = threading.Lock()
_libraries: OrderedDict[Hashable, Library] = OrderedDict()
_memory = int(float(os.environ.get("DVID_DASK_NEURON_MEMORY", "1024")) * 2**20)


def memory() -> int:
    """Bytes that this process sets aside for annotations; see `set_memory`."""
    return _memory


def kept() -> int:
    """Bytes of annotations that this process keeps, about."""
    with _lock:
        return sum(library.nbytes for library in _libraries.values())


def set_memory(nbytes: int) -> None:
    """Set how many bytes of annotations this process keeps, over all instances: about, and 1 GiB at first.

    An instance that takes more is read anew for each question, in parts. The environment variable
    ``DVID_DASK_NEURON_MEMORY`` sets it, in MiB, for processes that begin.
    """
    global _memory
    _memory = nbytes
    with _lock:
        _libraries.clear()


def forget(name: Hashable) -> None:
    """Free the memory of an instance that nobody reads any more; see `tables`."""
    with _lock:
        _libraries.pop(name, None)


def tables(space: Space, name: Hashable, store: Store, trees: Trees) -> Iterator[Table]:
    """The annotations of a state: one table if they may be in memory, else one after the other, in order.

    Parameters
    ----------
    space : Space
        The state of the instance.
    name : hashable
        Of the instance, in this process.
    store : Store
        Where it is.
    trees : callable
        Gives the names of trees with versions that this one may be like, most alike first.
    """
    with _lock:
        library = _libraries.setdefault(name, Library())
        _libraries.move_to_end(name)
    table = library.table(space, store, trees, _memory)
    if table is not None:
        _make_room()
        return iter((table,))
    return _parts(space)


def _parts(space: Space) -> Iterator[Table]:
    scan = _scan(space)
    while part := list(islice(scan, PART)):
        rows = Rows()
        rows.add([value for _, value in part])
        yield Table(np.array([body for body, _ in part], np.uint64), rows, np.arange(len(part)))


def _make_room() -> None:
    with _lock:
        sizes = {name: library.nbytes for name, library in _libraries.items()}
        for name in list(_libraries)[:-1]:
            if sum(sizes.values()) <= _memory:
                break
            del _libraries[name], sizes[name]
