"""Which body a supervoxel belongs to, in pages of 1024 consecutive ids.

An id without an entry is its own body. An entry of 0 says that the id is retired: a supervoxel that was split, or
an id that a cleave or renumbering made and that never had voxels. Entries are one step: a value is never looked up
again. Pages are read when an id of theirs is asked for, so the size of the mapping costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.columns import pack_groups, unpack
from dvid_dask.formats.distinct import distinct
from dvid_dask.versions.space import Space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["Mapping", "entries_that_differ", "merged_page", "restore_entries", "set_mapping"]

_BITS = np.uint64(keys.MAPPING_BITS)
_PAGES = 1024  # pages changed at a time

_STATES = 1024
_empty: dict[tuple[str, str, bytes], bool] = {}  # whether a state has no mapping

Page = tuple["NDArray[np.uint64]", "NDArray[np.uint64]"]
Entries = tuple["NDArray[np.bool_]", "NDArray[np.uint64]"]
_FEW = 8  # ids whose pages are looked at without asking first whether there are any
_EMPTY: Page = (np.empty(0, np.uint64), np.empty(0, np.uint64))


def _decode(value: bytes | None) -> Page:
    if value is None:
        return _EMPTY
    table = unpack(value, 2)
    return table[0], table[1]


def _page(_: bytes, value: bytes | None) -> tuple[Page, int]:
    ids, bodies = _decode(value)
    return (ids, bodies), 16 * len(ids)


class Mapping:
    """The mapping in one state of the instance's key space.

    Parameters
    ----------
    space
        A pinned view, or the space of a transaction.
    """

    def __init__(self, space: AnySpace) -> None:
        self._space = space
        self._none: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no id has an entry."""
        if self._none is None:
            space = self._space
            # a state stays what it is: looked at once
            state = (space.view.name, space.token, space.prefix) if isinstance(space, Space) else None
            known = None if state is None else _empty.get(state)
            self._none = next(iter(space.keys(keys.MAPPING)), None) is None if known is None else known
            if state is not None and known is None:
                if len(_empty) >= _STATES:
                    _empty.clear()
                _empty[state] = self._none
        return self._none

    def _skip(self, ids: int) -> bool:
        """Whether no page needs to be read, worth asking for many ids.

        A transaction reads the pages all the same: a commit validates only those.
        """
        return ids > _FEW and not hasattr(self._space, "put") and self.is_empty

    def entries(self, ids: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """For each id whether it has an entry, and its value (0 if it has none)."""
        wanted = np.asarray(ids, np.uint64).reshape(-1)
        found = np.zeros(len(wanted), np.bool_)
        values = np.zeros(len(wanted), np.uint64)
        if not len(wanted) or self._skip(len(wanted)):
            return found, values
        unique, where = np.unique(wanted, return_inverse=True)
        numbers = unique >> _BITS
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1], True])
        hit, value = np.empty(len(unique), np.bool_), np.empty(len(unique), np.uint64)
        for at in range(0, len(starts) - 1, _PAGES):  # pages are decoded so many at a time
            edges = starts[at : at + _PAGES + 1]
            pages = self._pages(numbers[edges[:-1]].tolist())
            part = slice(edges[0], edges[-1])
            have, bodies = (np.concatenate([page[column] for page in pages]) for column in (0, 1))
            hit[part], value[part] = _entries_in(have, bodies, unique[part])
        found[:], values[:] = hit[where], value[where]
        return found, values

    def _pages(self, numbers: list[int]) -> list[Page]:
        return self._space.decoded("mapping", [keys.mapping(n) for n in numbers], _page)

    def bodies(self, supervoxels: ArrayLike) -> NDArray[np.uint64]:
        """Body of each supervoxel, by the mapping alone: ids without entry stay, retired ones give 0.

        Returns
        -------
        NDArray[uint64]
            A new array of the input's shape.
        """
        ids = np.asarray(supervoxels, np.uint64)
        if self._skip(ids.size):
            return ids.copy()
        found, values = self.entries(ids)
        return np.where(found, values, ids.reshape(-1)).reshape(ids.shape)

    def body(self, supervoxel: int) -> int:
        """Body of one supervoxel."""
        return int(self.bodies([supervoxel])[0])

    def scan(self, first: int = 0, stop: int | None = None) -> Iterator[Page]:
        """All entries in pages (ids ascending, bodies), identities left out; of the pages [first, stop) if given."""
        last = None if stop is None else keys.mapping(stop)
        for _, value in self._space.scan(keys.MAPPING, start=keys.mapping(first), stop=last):
            ids, bodies = _decode(value)
            told = ids != bodies
            if told.any():
                yield ids[told], bodies[told]

    def size(self) -> tuple[int, int]:
        """Number of entries, and bytes of their pages."""
        entries = stored = 0
        for _, value in self._space.scan(keys.MAPPING):
            entries += len(_decode(value)[0])
            stored += len(value)
        return entries, stored


def set_mapping(space: TxSpace, ids: ArrayLike, bodies: ArrayLike) -> Entries:
    """Give ids a body; of an id named twice the last counts. Only the pages of these ids are touched.

    Parameters
    ----------
    space
        Space of a transaction.
    ids
        Supervoxels, any order.
    bodies
        One per id, or one for all; 0 retires an id.

    Returns
    -------
    found, values
        Of each id whether it had an entry, and which (0 if it had none), as `Mapping.entries` says before the change.
    """
    wanted = np.asarray(ids, np.uint64).reshape(-1)
    return restore_entries(space, wanted, np.ones(len(wanted), np.bool_), bodies)


def restore_entries(space: TxSpace, ids: ArrayLike, found: ArrayLike, values: ArrayLike) -> Entries:
    """Give each id the entry it had: `values` where `found`, none elsewhere. Returns what they had until now."""
    wanted = np.asarray(ids, np.uint64).reshape(-1)
    keep = np.broadcast_to(np.asarray(found, np.bool_), wanted.shape)
    bodies = np.broadcast_to(np.asarray(values, np.uint64), wanted.shape)
    had, before = np.zeros(len(wanted), np.bool_), np.zeros(len(wanted), np.uint64)
    if not len(wanted):
        return had, before
    order = np.argsort(wanted, kind="stable")
    numbers = wanted[order] >> _BITS
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1], True])
    for at in range(0, len(starts) - 1, _PAGES):
        edges = starts[at : at + _PAGES + 1]
        part = order[edges[0] : edges[-1]]
        page_keys = [keys.mapping(n) for n in numbers[edges[:-1]].tolist()]
        olds = space.get_many(page_keys)
        have, held = _joined([old for old in olds if old is not None])
        had[part], before[part] = _entries_in(have, held, wanted[part])
        both = np.concatenate([have, wanted[part]])
        by_id = np.argsort(both, kind="stable")  # what is set comes after what was
        last = by_id[np.r_[both[by_id[1:]] != both[by_id[:-1]], True]]
        last = last[np.concatenate([np.ones(len(have), np.bool_), keep[part]])[last]]
        table = np.stack([both[last], np.concatenate([held, bodies[part]])[last]])
        borders = np.searchsorted(table[0] >> _BITS, np.append(numbers[edges[:-1]], numbers[edges[-2]] + np.uint64(1)))
        for key, old, page, size in zip(page_keys, olds, pack_groups(table, borders), np.diff(borders), strict=True):
            if size:
                space.put(key, page)
            elif old is not None:
                space.delete(key)
    return had, before


def _joined(pages: list[bytes]) -> Page:
    """The entries of ascending pages."""
    tables = [_decode(page) for page in pages]
    if not tables:
        return _EMPTY
    return np.concatenate([ids for ids, _ in tables]), np.concatenate([bodies for _, bodies in tables])


def _entries_in(have: NDArray[np.uint64], bodies: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> Entries:
    """Which of the wanted are among the ascending ids, and the bodies of those."""
    if not len(have):
        return np.zeros(len(wanted), np.bool_), np.zeros(len(wanted), np.uint64)
    at = np.searchsorted(have, wanted)
    at[at == len(have)] = 0
    hit = have[at] == wanted
    return hit, np.where(hit, bodies[at], np.uint64(0))


def entries_that_differ(one: bytes | None, other: bytes | None) -> NDArray[np.uint64]:
    """Ids whose entries differ between two states of a page, ascending."""
    (a_ids, a), (b_ids, b) = _decode(one), _decode(other)
    ids = distinct(np.concatenate([a_ids, b_ids]))
    a_has, a_body = _entries_in(a_ids, a, ids)
    b_has, b_body = _entries_in(b_ids, b, ids)
    differ: NDArray[np.uint64] = ids[(a_has != b_has) | (a_body != b_body)]
    return differ


def merged_page(base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes | None:
    """A mapping page with what two sides have changed of it since `base`.

    Raises
    ------
    ValueError
        If both gave one id different bodies; its arguments are the id and what each side says.
    """
    pages = [dict(zip(*(c.tolist() for c in _decode(value)), strict=True)) for value in (base, ours, theirs)]
    old, mine, other = pages
    result = dict(mine)
    for supervoxel in other.keys() | old.keys():
        changed = other.get(supervoxel)
        if changed == old.get(supervoxel) or changed == mine.get(supervoxel):
            continue
        if mine.get(supervoxel) != old.get(supervoxel):
            raise ValueError(supervoxel, mine.get(supervoxel), changed)
        if changed is None:
            result.pop(supervoxel, None)
        else:
            result[supervoxel] = changed
    ids = sorted(result)
    if not ids:
        return None
    return pack_groups(np.array([ids, [result[i] for i in ids]], np.uint64), np.array([0, len(ids)]))[0]
