"""Edits of elements inside a transaction: blocks, and through `Filing` the lists of bodies and tags.

A position is an element's identity. What replaces an element replaces all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation.blocks import block_of, elements_at, grouped, in_blocks, store_blocks
from dvid_dask.datatypes.annotation.elements import Elements, find
from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct, distinct_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.annotation.filing import Filing
    from dvid_dask.versions.space import TxSpace

    Points = NDArray[np.int32]

__all__ = ["delete", "equal", "move", "post", "put_blocks", "replace_blocks", "unique_positions"]


def unique_positions(elements: Elements) -> Elements:
    """Elements without those that come again later at the same position: the last one counts."""
    if len(elements) < 2:
        return elements
    at = find(elements.zyx[::-1], elements.zyx)
    last = len(elements) - 1 - at == np.arange(len(elements))
    return elements if last.all() else elements[last]


def equal(a: Elements, b: Elements) -> NDArray[np.bool_]:
    """Which of two equally many elements are the same, relationships too."""
    same: NDArray[np.bool_] = (a.zyx == b.zyx).all(axis=1) & (a.kind == b.kind) & (a.rel_count == b.rel_count)
    for mine, other in ((a.tags, b.tags), (a.prop, b.prop)):
        known: dict[bytes, int] = {}
        left, right = (np.array([known.setdefault(t, len(known)) for t in c.text], np.int64) for c in (mine, other))
        same &= left[mine.number] == right[other.number]
    # relationships of those that have equally many can be compared one by one
    chosen = np.flatnonzero(same & (a.rel_count > 0))
    if len(chosen):
        one, two = a[chosen], b[chosen]
        differs = (one.rel_kind != two.rel_kind) | (one.rel_to != two.rel_to).any(axis=1)
        same[chosen[distinct(one.rel_owner[differs])]] = False
    return same


def post(space: TxSpace, filing: Filing, shape: Sequence[int], elements: Elements) -> int:
    """Add elements, or put them in the place of those at their positions; returns how many changed anything.

    Parameters
    ----------
    elements
        Positions come once.
    """
    blocks = distinct_rows(block_of(elements.zyx, shape))
    held, _ = in_blocks(space, blocks)
    place = find(held.zyx, elements.zyx)
    old = place >= 0
    changed = np.ones(len(elements), np.bool_)
    changed[old] = ~equal(held[place[old]], elements[old])
    if not changed.all():
        return post(space, filing, shape, elements[changed]) if changed.any() else 0
    order = np.arange(len(held))
    order[place[old]] = len(held) + np.flatnonzero(old)
    # as DVID has it: what isn't given is empty in the block of a new element, null in the list of its body
    stored = Elements.join([held, elements.filled(~old)])
    _store(space, shape, stored, np.concatenate([order, len(held) + np.flatnonzero(~old)]))
    was = np.full(len(elements), -1, np.int64)
    was[old] = np.arange(int(old.sum()))
    filing.change(held[place[old]], elements, was)
    return len(elements)


def _store(space: TxSpace, shape: Sequence[int], elements: Elements, order: NDArray[np.int64]) -> None:
    store_blocks(space, *grouped(elements[order], shape))


def put_blocks(
    space: TxSpace,
    filing: Filing,
    shape: Sequence[int],
    block_zyx: Points,
    come: Elements,
    borders: NDArray[np.int64],
) -> None:
    """Make these the elements of blocks (n, 3), which they lie in; those of each begin at ``borders``.

    Raises
    ------
    BadRequest
        If an element lies in another block, or a position comes twice.
    """
    if not len(block_zyx):
        return
    owner = np.repeat(block_zyx, np.diff(borders), axis=0)
    wrong = (block_of(come.zyx, shape) != owner).any(axis=1)
    if wrong.any():
        at = come.zyx[np.argmax(wrong)][::-1].tolist()
        block = owner[np.argmax(wrong)][::-1].tolist()
        raise BadRequest(f"the element at {at} (x, y, z) doesn't lie in block {block}, under which it is given")
    if len(unique_positions(come)) < len(come):
        raise BadRequest("a position comes twice: a block has one element at a position")
    replace_blocks(space, filing, block_zyx, come, borders)


def replace_blocks(
    space: TxSpace, filing: Filing, block_zyx: Points, come: Elements, borders: NDArray[np.int64]
) -> None:
    """Make these the elements of blocks, block after block, of which those of each begin at ``borders``."""
    gone, _ = in_blocks(space, block_zyx)
    place = find(gone.zyx, come.zyx)
    same = np.zeros(len(come), np.bool_)
    same[place >= 0] = equal(gone[place[place >= 0]], come[place >= 0])
    stay = np.ones(len(gone), np.bool_)
    stay[place[same]] = False
    number = np.cumsum(stay) - 1
    was = np.where(place >= 0, number[place] if len(number) else -1, -1)
    store_blocks(space, block_zyx, come, borders)
    filing.change(gone[stay], come[~same], was[~same])


def delete(space: TxSpace, filing: Filing, shape: Sequence[int], zyx: Points) -> None:
    """Remove elements, and relationships that lead to them from their own blocks and those of their partners.

    Raises
    ------
    BadRequest
        If there is no element at one of the positions (each once).
    """
    held = elements_at(space, zyx, shape)
    place = _places(held, zyx)
    gone = held[place]
    _without_relations(space, shape, np.concatenate([zyx, gone.rel_to]), zyx)
    filing.change(gone, Elements.none(), np.empty(0, np.int64))


def _places(held: Elements, zyx: Points) -> NDArray[np.int64]:
    place = find(held.zyx, zyx)
    if (place < 0).any():
        at = zyx[np.argmax(place < 0)][::-1].tolist()
        raise BadRequest(f"there is no element at {at} (x, y, z)")
    return place


def _without_relations(space: TxSpace, shape: Sequence[int], around: Points, gone: Points) -> None:
    """Take elements and relationships that lead to them out of the blocks of some positions."""
    blocks = distinct_rows(block_of(around, shape))
    held, borders = in_blocks(space, blocks)
    stay = find(gone, held.zyx) < 0
    leads = find(gone, held.rel_to) >= 0
    owner = held.rel_owner
    count = held.rel_count - np.bincount(owner[leads], minlength=len(held))
    block = np.repeat(np.arange(len(blocks)), np.diff(borders))
    touched = np.zeros(len(blocks), np.bool_)
    touched[block[~stay]] = True
    touched[block[owner[leads]]] = True
    after = held.with_rels(count, held.rel_kind[~leads], held.rel_to[~leads])
    keep = stay & touched[block]
    sizes = np.bincount(block[keep], minlength=len(blocks))[touched]
    store_blocks(space, blocks[touched], after[keep], np.concatenate([[0], np.cumsum(sizes)]))


def move(space: TxSpace, filing: Filing, shape: Sequence[int], start: Points, end: Points) -> None:
    """Move an element, in the place of what is there; relationships that lead to it follow, in its block and partners'.

    Parameters
    ----------
    start, end
        int32 (1, 3) each.

    Raises
    ------
    BadRequest
        If there is no element at `start`.
    """
    held = elements_at(space, start, shape)
    moved = held[_places(held, start)]
    if (start == end).all():
        return
    blocks = distinct_rows(block_of(np.concatenate([start, end, moved.rel_to]), shape))
    held, borders = in_blocks(space, blocks)
    block = np.repeat(np.arange(len(blocks)), np.diff(borders))
    at, replaced = int(_places(held, start)[0]), int(find(held.zyx, end)[0])
    gone = held[np.array([at, replaced] if replaced >= 0 else [at])]
    follow = (held.rel_to == start).all(axis=1)
    to = np.where(follow[:, None], end, held.rel_to)
    touched = np.zeros(len(blocks), np.bool_)
    touched[block[held.rel_owner[follow]]] = True
    zyx = held.zyx.copy()
    zyx[at] = end[0]
    after = Elements.of(
        zyx, held.kind, held.tags, held.prop, rel_count=held.rel_count, rel_kind=held.rel_kind, rel_to=to
    )
    new_block = block.copy()
    new_block[at] = int(find(blocks, block_of(end, shape))[0])
    touched[[block[at], new_block[at]]] = True
    keep = touched[new_block]
    if replaced >= 0:
        keep[replaced] = False
    order = np.flatnonzero(keep)
    order = order[np.argsort(new_block[order], kind="stable")]
    sizes = np.bincount(new_block[order], minlength=len(blocks))[touched]
    store_blocks(space, blocks[touched], after[order], np.concatenate([[0], np.cumsum(sizes)]))
    filing.change(gone, after[np.array([at])], np.zeros(1, np.int64))
