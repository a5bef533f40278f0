"""Changes of many lists at once: most are short, and what is done to one alone costs more than its elements.

Lists that fit into their records are read, changed and written together; the rest are changed one by one
(`dvid_dask.datatypes.annotation.lists`). Memory is that of some thousand lists at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dvid_dask.datatypes.annotation.elements import Elements, decode_many, encode_groups, find
from dvid_dask.datatypes.annotation.lists import Drop, Lists

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.int64]

__all__ = ["Taken", "exchange_many"]

_LISTS = 4096  # changed together, at most
_ELEMENTS = 1 << 16


class Taken(NamedTuple):
    """What left lists: the place in the names of each element's list, and the elements."""

    place: NDArray[np.int64]
    elements: Elements


def exchange_many(
    lists: Lists,
    names: Sequence[int] | Sequence[str],
    drop: tuple[Places, Drop],
    add: tuple[Places, Elements],
    *,
    anywhere: bool = False,
) -> Iterator[Taken]:
    """Take elements out of lists and add others, as `Lists.exchange`, some thousand lists at each step.

    Parameters
    ----------
    lists
        Of one class, in a transaction.
    names
        Of the lists, each once.
    drop, add
        For each the place in `names` of its list, in any order, and what leaves that or comes to it.
    anywhere
        Whether to look for what leaves through all pages, whatever the keys.

    Yields
    ------
    Taken
        What left them.
    """
    by_drop, by_add = np.argsort(drop[0], kind="stable"), np.argsort(add[0], kind="stable")
    places = np.arange(len(names) + 1)
    drop_at, add_at = np.searchsorted(drop[0][by_drop], places), np.searchsorted(add[0][by_add], places)
    a = 0
    while a < len(names):
        b = int(np.searchsorted(drop_at + add_at, drop_at[a] + add_at[a] + _ELEMENTS, "right")) - 1
        b = min(max(a + 1, b), a + _LISTS, len(names))
        dropped, added = by_drop[drop_at[a] : drop_at[b]], by_add[add_at[a] : add_at[b]]
        taken = _some(
            lists,
            names[a:b],
            (drop[0][dropped] - a, Drop(drop[1].zyx[dropped], drop[1].key[dropped])),
            (add[0][added] - a, add[1][added].alone()),
            anywhere=anywhere,
        )
        for place, elements in taken:
            yield Taken(place + a, elements)
        a = b


def _some(
    lists: Lists,
    names: Sequence[int] | Sequence[str],
    drop: tuple[Places, Drop],
    add: tuple[Places, Elements],
    *,
    anywhere: bool,
) -> Iterator[Taken]:
    """The same for lists that are changed together; places ascend."""
    stored = lists.short(names)
    of_drop, of_add = drop[0], add[0]
    short = np.array([s.fits for s in stored], np.bool_)
    held, borders = decode_many([s.inline for s in stored if s.inline])
    has = np.array([bool(s.inline) for s in stored], np.bool_)
    owner = np.repeat(np.flatnonzero(has), np.diff(borders))
    gone = find(_rows(of_drop, drop[1].zyx), _rows(owner, held.zyx)) >= 0
    after = np.bincount(owner[~gone], minlength=len(names)) + np.bincount(of_add, minlength=len(names))
    short &= after <= lists.most_inline
    gone &= short[owner]
    changes = np.zeros(len(names), np.bool_)
    changes[owner[gone]] = True
    changes[of_add] = True
    stay, come = ~gone & short[owner] & changes[owner], short[of_add]
    place = np.concatenate([owner[stay], of_add[come]])
    order = np.argsort(place, kind="stable")
    whole = Elements.join([held[stay], add[1][come]])
    chosen = np.flatnonzero(short & changes)
    edges = np.append(0, np.cumsum(np.bincount(place, minlength=len(names))[chosen]))
    changed = [names[i] for i in chosen.tolist()]
    lists.put_short(changed, encode_groups(whole[order], edges), np.diff(edges) > 0)  # type: ignore[arg-type]
    if gone.any():
        yield Taken(owner[gone], held[gone])
    for i in np.flatnonzero(~short).tolist():
        a, b = np.searchsorted(of_drop, [i, i + 1])
        c, d = np.searchsorted(of_add, [i, i + 1])
        one = [names[i]]
        (lost,) = lists.exchange(
            one,  # type: ignore[arg-type]
            [Drop(drop[1].zyx[a:b], drop[1].key[a:b])],
            [add[1][c:d]],
            anywhere=anywhere,
        )
        if len(lost):
            yield Taken(np.full(len(lost), i), lost)


def _rows(place: Places, zyx: NDArray[np.int32]) -> Places:
    return np.concatenate([place[:, None], zyx.astype(np.int64)], axis=1)
