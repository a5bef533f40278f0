"""Edits of elements that are too many for one transaction: done in parts on a branch, and seen as one.

See `dvid_dask.versions.staging`. What comes is held packed, by place, so that each block is written once and memory is
that of the request and of one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation import edits, state, undoing
from dvid_dask.datatypes.annotation.blocks import block_of, grouped
from dvid_dask.datatypes.annotation.catching_up import CatchUp
from dvid_dask.datatypes.annotation.elements import Elements, decode_many, encode_groups
from dvid_dask.versions.staging import staged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.annotation.filing import Filing
    from dvid_dask.datatypes.annotation.reads import Reads
    from dvid_dask.datatypes.base import Mutation, TxSpace

    FilingOf = Callable[[Mutation, TxSpace], Filing]

__all__ = [
    "STAGED",
    "Blocks",
    "Change",
    "blocks_together",
    "in_parts",
    "joined_blocks",
    "lists_together",
    "post_staged",
]

STAGED = 1 << 17
"""Elements of an edit that is done in parts."""

_PART = 1 << 16
_BLOCKS = 1 << 15  # blocks of a part
_LISTS = 1 << 13  # lists of bodies of a part

Blocks = tuple["NDArray[np.int32]", Elements, "NDArray[np.int64]"]
Change = Callable[["Filing", "TxSpace", "tuple[int, int, int]"], int]


def in_parts(
    annotation: Reads,
    filing_of: FilingOf,
    changes: Iterator[Change],
    report: Callable[[Mutation], None],
    *,
    kept: str,
    user: str,
    app: str,
) -> int:
    """Do changes one after the other, as one mutation; returns the sum of what they return.

    Parameters
    ----------
    annotation
        At an open version.
    filing_of
        Its lists in a transaction.
    changes
        What to do in a commit each.
    report
        Called in the last commit, to tell watchers.
    kept
        Names what is kept for an undo; empty for nothing.
    user, app
        Who asks.
    """
    shape = (0, 0, 0)
    blocks: set[bytes] = set()
    total = 0
    with staged(annotation, user=user, app=app) as stage:
        for change in changes:
            done, held, shape = stage.update(partial(_one, filing_of=filing_of, change=change))
            total += done
            if len(blocks) <= undoing.MAX_BLOCKS:
                blocks |= held

        def last(m: Mutation, space: TxSpace) -> None:
            state.check_no_reload(space)
            if kept:
                undoing.keep(annotation, m, space, kept, blocks)
            report(m)

        stage.land(CatchUp(annotation, shape, ours=True), last)
    return total


def _one(
    m: Mutation, space: TxSpace, *, filing_of: FilingOf, change: Change
) -> tuple[int, set[bytes], tuple[int, int, int]]:
    state.check_no_reload(space)
    filing = filing_of(m, space)
    done = change(filing, space, filing.shape)
    filing.tell()
    return done, undoing.changed_blocks(m, space), filing.shape


def post_staged(parts: Iterator[Elements], count: int, shape: Sequence[int]) -> Iterator[Change]:
    """The changes that add elements, about `count` of them, a slab of space at a time.

    Of those at one position the last counts.
    """
    spill = _Spill(max(1, count // _PART), shape)
    for part in _about(parts):
        spill.add(part)
    for held in spill:
        yield partial(_post, elements=held)


def _post(filing: Filing, space: TxSpace, shape: tuple[int, int, int], *, elements: Elements) -> int:
    return edits.post(space, filing, shape, edits.unique_positions(elements))


def _about(parts: Iterator[Elements]) -> Iterator[Elements]:
    """The same in parts that are worth their while."""
    held: list[Elements] = []
    for part in parts:
        for at in range(0, len(part), _PART):
            held.append(part[at : at + _PART].alone())
            if sum(map(len, held)) >= _PART:
                yield Elements.join(held)
                held = []
    if held:
        yield Elements.join(held)


def blocks_together(parts: Iterator[Blocks]) -> Iterator[Blocks]:
    """Blocks in parts that are worth their while."""
    held: list[Blocks] = []
    for part in parts:
        held.append(part)
        if sum(len(p[1]) for p in held) >= STAGED or sum(len(p[0]) for p in held) >= _BLOCKS:
            yield joined_blocks(held)
            held = []
    if held:
        yield joined_blocks(held)


def joined_blocks(parts: Sequence[Blocks]) -> Blocks:
    """Several parts as one."""
    sizes = [np.diff(part[2]) for part in parts]
    return (
        np.concatenate([np.empty((0, 3), np.int32), *(part[0] for part in parts)]),
        Elements.join([part[1] for part in parts]),
        np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *sizes]))]).astype(np.int64),
    )


def lists_together(lists: Iterator[tuple[int, Elements]]) -> Iterator[list[tuple[int, Elements]]]:
    """Lists of bodies in parts that are worth their while."""
    held: list[tuple[int, Elements]] = []
    size = 0
    for pair in lists:
        held.append(pair)
        size += len(pair[1])
        if size >= STAGED or len(held) >= _LISTS:
            yield held
            held, size = [], 0
    if held:
        yield held


class _Spill:
    """Elements in slabs of z, packed.

    Keys of blocks are in the order of z, y, x: a part that has a slab changes one stretch of the tree. If each part had
    some of everything, each would rewrite all of it.
    """

    def __init__(self, slabs: int, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._values: list[list[bytes]] = [[] for _ in range(slabs)]
        self._edges: NDArray[np.int64] | None = None

    def add(self, elements: Elements) -> None:
        """Take some more."""
        z = block_of(elements.zyx, self._shape)[:, 0].astype(np.int64)
        slabs = len(self._values)
        if self._edges is None:  # what comes first says where the rest may lie
            self._edges = np.sort(z)[np.arange(1, slabs) * len(z) // slabs]
        where = np.searchsorted(self._edges, z, "right")
        order = np.argsort(where, kind="stable")
        borders = np.searchsorted(where[order], np.arange(slabs + 1))
        filled: NDArray[np.int64] = np.flatnonzero(np.diff(borders) > 0)
        edges = np.append(borders[filled], len(order))
        for slab, value in zip(filled.tolist(), encode_groups(elements[order], edges), strict=True):
            self._values[slab].append(value)

    def __iter__(self) -> Iterator[Elements]:
        """All of them in the order of blocks, not too many at a time; what was given is gone."""
        for values in self._values:
            held, _ = decode_many(values)
            values.clear()
            _, elements, _ = grouped(held, self._shape)
            for at in range(0, len(elements), 2 * _PART):
                yield elements[at : at + 2 * _PART].alone()
