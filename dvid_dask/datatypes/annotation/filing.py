"""Keeping the lists of bodies and tags in line, inside the commit of what changes them.

Which body an element is in is read from the segmentation in the same transaction, so of an edit of elements and one of
bodies that meet, the later one runs again on the newer state. What an edit of the segmentation moves is known from its
event, by the supervoxels that lists are ordered by, without a look at voxels; where voxels were written, labels before
and after the mutation are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from dvid_dask.datatypes import events
from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.blocks import blocks_around, in_blocks
from dvid_dask.datatypes.annotation.elements import Elements, Texts, find
from dvid_dask.datatypes.annotation.exchanging import exchange_many
from dvid_dask.datatypes.annotation.lists import Drop, Lists, PageNumbers, Record, place_of
from dvid_dask.datatypes.annotation.parsing import tag_lists
from dvid_dask.datatypes.annotation.tally import Tally
from dvid_dask.formats.distinct import distinct, is_among
from dvid_dask.versions.mutation import HasKeys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation
    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace
    Ids = NDArray[np.uint64]
    Points = NDArray[np.int32]

__all__ = ["Filing", "LabelSource", "tag_pairs"]

_BLOCKS = 4096  # blocks looked through together
_BODIES = 4096  # records of bodies looked up together
_POINTS = 1 << 18  # positions whose labels are read together


class LabelSource(HasKeys, Protocol):
    """What an annotation asks of the segmentation that it follows."""

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of a block (z, y, x)."""

    def view(self) -> Space:
        """Its keys at this version."""

    def labels_in(self, space: AnySpace, points_zyx: Points) -> tuple[Ids, Ids]:
        """Bodies and supervoxels at points, read through a space."""

    def blocks_in(self, space: AnySpace, body: int) -> Iterator[Points]:
        """Blocks of a body, read through a space."""

    def written_between(self, before: Space, after: Space) -> Iterator[Points]:
        """Blocks whose voxels differ between two states, some at a time."""

    def moved_between(self, before: Space, after: Space) -> Iterator[tuple[Ids, Ids, Ids]]:
        """Supervoxels that are in other bodies, by the mapping, and the body of each in both states."""


class Filing:
    """The lists of an annotation in one transaction.

    Parameters
    ----------
    annotation
        Whose they are.
    m
        The mutation.
    space
        The annotation's keys in it.
    source
        The segmentation that it follows, if any.
    shape
        Its block shape (z, y, x).
    before
        The segmentation's keys before what is to be followed; by default as they were before the mutation.
    """

    def __init__(
        self,
        annotation: Datatype,
        m: Mutation,
        space: TxSpace,
        source: LabelSource | None,
        shape: Sequence[int],
        *,
        before: Space | None = None,
    ) -> None:
        self._before = before
        self._annotation = annotation
        self._m = m
        self._space = space
        self._source = source
        self._shape = tuple(shape)
        self.numbers = PageNumbers(m.id)
        self.labels = Lists(space, keys.label, self.numbers)
        self.tags = Lists(space, keys.tag, self.numbers)
        self.tally = Tally()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of a block (z, y, x)."""
        z, y, x = self._shape
        return z, y, x

    def tell(self, to: Callable[[Datatype], bool] | None = None) -> None:
        """Tell those who follow the annotation, or some of them, what bodies gained and lost."""
        if self.tally:
            self._m.publish(self._annotation, self.tally.event(self._m.id), to=to)

    # -------------------------------------------------------------- where elements are

    def located(self, zyx: Points) -> tuple[Ids, Ids]:
        """Bodies and supervoxels at positions; 0 where there is none, or nothing is followed."""
        if self._source is None:
            return np.zeros(len(zyx), np.uint64), np.zeros(len(zyx), np.uint64)
        return self._located(self._m.reading(cast("Any", self._source)), zyx)

    def _located(self, space: AnySpace, zyx: Points) -> tuple[Ids, Ids]:
        source = cast("LabelSource", self._source)
        parts = [source.labels_in(space, zyx[at : at + _POINTS]) for at in range(0, len(zyx), _POINTS)]
        empty = np.empty(0, np.uint64)
        return np.concatenate([empty, *(p[0] for p in parts)]), np.concatenate([empty, *(p[1] for p in parts)])

    # -------------------------------------------------------------- elements change

    def change(self, gone: Elements, come: Elements, was: NDArray[np.int64]) -> None:
        """Bring the lists in line with elements that left their blocks and others that came.

        Parameters
        ----------
        gone, come
            As the blocks had and have them. Positions of each come once.
        was
            For each that came the place in `gone` of what it takes the place of, -1 if it is new.
        """
        self._change_tags(gone, come, was)
        self._change_labels(gone, come)

    def _change_labels(self, gone: Elements, come: Elements) -> None:
        if self._source is None:
            return
        both = np.concatenate([gone.zyx, come.zyx])
        bodies, supervoxels = self.located(both)
        n = len(gone)
        _through(
            self._exchange(
                (bodies[:n], gone.zyx, supervoxels[:n]),
                (bodies[n:], come.listed(supervoxels[n:])),
            )
        )

    def _exchange(
        self, drop: tuple[Ids, Points, Ids], add: tuple[Ids, Elements], *, anywhere: bool = False
    ) -> Iterator[Elements]:
        """Take positions out of the lists of bodies and add elements to others; gives what was taken. Body 0 is none.

        Nothing is done but as it is gone through.
        """
        left, came = np.flatnonzero(drop[0]), np.flatnonzero(add[0])
        names = distinct(np.concatenate([drop[0][left], add[0][came]]))
        taken = exchange_many(
            self.labels,
            names.tolist(),
            (np.searchsorted(names, drop[0][left]), Drop(drop[1][left], drop[2][left])),
            (np.searchsorted(names, add[0][came]), add[1][came]),
            anywhere=anywhere,
        )
        for place, elements in taken:
            self.tally.add(names[place], elements, -1)
            yield elements
        self.tally.add(add[0], add[1], 1)

    def _change_tags(self, gone: Elements, come: Elements, was: NDArray[np.int64]) -> None:
        tags: dict[str, int] = {}
        lost, lost_by = tag_pairs(gone.tags, tags)
        gained, gained_by = tag_pairs(come.tags, tags)
        if not tags:
            return
        # as DVID has it: in a tag's list an element has no nulls, unless it took another's place in it
        wide = len(gone) + 1
        replaces = (was[gained_by] >= 0) & is_among(gained * wide + was[gained_by], lost * wide + lost_by)
        zyx, chosen = gone.zyx[lost_by], come[gained_by]
        listed = chosen.listed(place_of(chosen.zyx), empties=~replaces)
        _through(exchange_many(self.tags, list(tags), (lost, Drop(zyx, place_of(zyx))), (gained, listed)))

    # -------------------------------------------------------------- the segmentation changes

    def follow(self, event: object) -> None:
        """Do what an event of a segmentation asks for; others are passed over."""
        match event:
            case events.BodiesMerged():
                for body in event.merged:
                    _, moved = self.labels.join(event.target, body)
                    self._moved(body, event.target, moved)
            case events.BodyCleaved():
                self._move(event.body, event.cleaved, distinct(event.supervoxels))
            case events.BodyRenumbered():
                self._moved(event.old, event.new, self.labels.rename(event.old, event.new))
            case events.SupervoxelsSplit():
                self._split(event)
            case events.SupervoxelsJoined():
                parts, whole = np.concatenate([event.split, event.remain]), np.concatenate([event.old, event.old])
                order = np.argsort(parts)
                parts, whole = parts[order], whole[order]
                self.labels.rekey(event.body, parts, lambda e: whole[np.searchsorted(parts, e.key)])
            case events.SupervoxelsMoved():
                self._move_many(event)
            case events.BlocksWritten():
                self.rewritten(event.block_zyx)

    def _moved(self, old: int, new: int, record: Record) -> None:
        """Note what went from a body to another."""
        self.tally.move(old, new, record.counts, lambda: self.labels.scan_record(record))

    def _move(self, old: int, new: int, supervoxels: Ids) -> None:
        """Supervoxels (ascending) of a body are another's, or nobody's (0)."""
        taken = self.labels.take_keys(old, supervoxels)
        if not len(taken):
            return
        if new:
            self._moved(old, new, taken)
            self.labels.give(new, taken)
            return
        for elements in self.labels.scan_record(taken):
            self.tally.add(old, elements, -1)
        for key in taken.directory.page_keys:
            self._space.delete(key)

    def _split(self, event: events.SupervoxelsSplit) -> None:
        order = np.argsort(event.old)
        old, split, remain = event.old[order], event.split[order], event.remain[order]

        def part(elements: Elements) -> Ids:
            at = np.searchsorted(old, elements.key)
            return np.where(under_runs(elements.zyx, event.runs), split[at], remain[at])

        self.labels.rekey(event.body, old, part)

    def _move_many(self, event: events.SupervoxelsMoved) -> None:
        supervoxels, old, new = event.supervoxels, event.old, event.new
        real = (old != new) & (supervoxels != 0)
        supervoxels, old, new = supervoxels[real], old[real], new[real]
        order = np.lexsort((supervoxels, new, old))
        supervoxels, old, new = supervoxels[order], old[order], new[order]
        bodies = distinct(old[old != 0])
        filled = []
        for at in range(0, len(bodies), _BODIES):
            some = bodies[at : at + _BODIES]
            values = self._space.get_many([keys.label(b) for b in some.tolist()])
            filled.append(some[np.array([v is not None for v in values], np.bool_)])
        chosen = is_among(old, np.concatenate([np.empty(0, np.uint64), *filled]))
        returned = distinct(new[(old == 0) & (new != 0)])
        supervoxels, old, new = supervoxels[chosen], old[chosen], new[chosen]
        if len(old):
            starts = np.flatnonzero(np.r_[True, (old[1:] != old[:-1]) | (new[1:] != new[:-1])])
            for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(old)], strict=True):
                self._move(int(old[a]), int(new[a]), supervoxels[a:b])
        if self._source is not None and len(returned):
            # supervoxels that were nobody's: what lies on them is in no list
            space = self._m.reading(cast("Any", self._source))
            for body in returned.tolist():
                for blocks in self._source.blocks_in(space, body):
                    self.rewritten(blocks)

    def rewritten(self, block_zyx: Points) -> None:
        """File the elements in blocks of the segmentation whose voxels are others than before."""
        if self._source is None or next(iter(self._space.keys(keys.BLOCK)), None) is None:
            return
        before = self._m.before(self._source) if self._before is None else self._before
        if before is None:
            raise RuntimeError(f"{self._annotation.name!r} is told of voxels, but not what they were before")
        blocks = blocks_around(block_zyx, self._source.block_shape, self._shape)
        for at in range(0, len(blocks), _BLOCKS):
            held, _ = in_blocks(self._space, blocks[at : at + _BLOCKS])
            if len(held):
                self._relabel(held, self._located(before, held.zyx), self.located(held.zyx))

    def _relabel(self, held: Elements, before: tuple[Ids, Ids], after: tuple[Ids, Ids]) -> None:
        """Move elements from the lists of the bodies they were in to those of the bodies they are in."""
        changed = (before[0] != after[0]) | (before[1] != after[1])
        if not changed.any():
            return
        held = held[changed]
        old, old_key, new, new_key = (ids[changed] for ids in (*before, *after))
        nothing = np.empty(0, np.uint64), Elements.none()
        taken = Elements.join(list(self._exchange((old, held.zyx, old_key), nothing)))
        at = find(taken.zyx, held.zyx)
        known = at >= 0
        # a list has elements in its own form, which goes along; those in no list come in theirs
        come = Elements.join([taken[at[known]], held[~known].listed(new_key[~known])])
        order = np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])
        new, new_key, lost = new[order], new_key[order], ~known[order] & (old[order] != 0)
        # what wasn't where it should have been may be in the right list already, under another supervoxel
        there = np.where(lost, new, np.uint64(0)), come.zyx, new_key
        _through(self._exchange(there, (new, come.with_key(new_key)), anywhere=bool(lost.any())))


def _through(parts: Iterator[object]) -> None:
    """Have what is done part by part be done."""
    for _ in parts:
        pass


def under_runs(zyx: Points, runs: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which positions lie under runs (n, 4) of x, y, z, length.

    Examples
    --------
    >>> runs = np.array([[2, 0, 0, 3], [0, 1, 0, 1]], np.int32)
    >>> under_runs(np.array([[0, 0, 4], [0, 0, 5], [0, 1, 0]], np.int32), runs).tolist()
    [True, False, True]
    """
    if not len(runs) or not len(zyx):
        return np.zeros(len(zyx), np.bool_)
    at = runs.astype(np.int64)
    row = _row(at[:, 2], at[:, 1])
    order = np.lexsort((at[:, 0], row))
    row, first, last = row[order], at[order, 0], at[order, 0] + at[order, 3] - 1
    # runs of a row may overlap: the furthest end so far counts
    points = zyx.astype(np.int64)
    wanted = _row(points[:, 0], points[:, 1])
    rows, starts = np.unique(row, return_index=True)
    number = np.searchsorted(rows, row)
    shift = np.int64(1) << 33
    ends = np.maximum.accumulate(last + number * shift) - number * shift
    at_row = np.searchsorted(rows, wanted)
    there = at_row < len(rows)
    there[there] = rows[at_row[there]] == wanted[there]
    begin = first + number * shift
    place = np.searchsorted(begin, points[:, 2] + at_row * shift, "right") - 1
    out = np.zeros(len(zyx), np.bool_)
    good = there & (place >= 0)
    good[good] = place[good] >= starts[at_row[good]]
    out[good] = points[good, 2] <= ends[place[good]]
    return out


def _row(z: NDArray[np.int64], y: NDArray[np.int64]) -> Ids:
    low, high = (y + (1 << 31)).astype(np.uint64), (z + (1 << 31)).astype(np.uint64)
    return (high << np.uint64(32)) | low


def tag_pairs(texts: Texts, known: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tags of elements as pairs: number of the tag in `known`, which grows, and place of the element."""
    lists = [[known.setdefault(t, len(known)) for t in dict.fromkeys(tags) if t] for tags in tag_lists(texts)]
    sizes = np.array([len(tags) for tags in lists], np.int64)
    flat = np.array([number for tags in lists for number in tags], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = sizes[texts.number] if len(lists) else np.empty(0, np.int64)
    element = np.repeat(np.arange(len(texts)), n)
    ends = np.cumsum(n)
    inside = np.arange(len(element)) - np.repeat(ends - n, n)
    return flat[np.repeat(starts[texts.number], n) + inside] if len(flat) else flat, element
