"""Lists of elements from a shuffle: tasks over space leave slips for lists, tasks over lists make them.

A slip is what one task over space has for the lists of one partition: loose elements, positions that leave a list, and
pages. Where a list gets a page full or more from one task, that task writes the pages, and only their rows travel. So a
list, however long, is never in one place: who makes it has the rows of its pages, and less than a page from each task.

Which list goes to which partition is a hash of its name, so no two tasks write the same list.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.elements import Elements, decode_many, encode_groups
from dvid_dask.datatypes.annotation.kinds import KINDS
from dvid_dask.datatypes.annotation.lists import PAGE, Directory, Drop, Lists, PageNumbers, Record, cut_pages, new_lists
from dvid_dask.datatypes.events import ElementsFiled, FiledPart
from dvid_dask.formats.columns import pack, unpack
from dvid_dask.ops.job import Result
from dvid_dask.ops.label_bricks import partition_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.annotation import Annotation
    from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace
    from dvid_dask.ops.drafts import DraftLedger

__all__ = ["BODIES", "TAGS", "ListKind", "Slip", "Slips", "TaskNumbers"]

_BIAS = 1 << 31
_ROWS = 9


class TaskNumbers(PageNumbers):
    """Numbers for pages, the same each time a task is tried.

    Parameters
    ----------
    mutation
        That the job is.
    phase, task
        Whose pages they are.
    """

    def __init__(self, mutation: int, phase: int, task: int) -> None:
        super().__init__(mutation)
        self._low = (phase << 60) | (task << 32)


@dataclass(frozen=True)
class ListKind:
    """Lists of bodies or of tags.

    Attributes
    ----------
    name
        Names their slips.
    number
        Tells pages that the tasks of both make apart.
    key_of
        Key of a list.
    partition
        Which partition each of some names goes to.
    """

    name: str
    number: int
    key_of: Callable[[Any], bytes]
    partition: Callable[[Sequence[Any], int], NDArray[np.int64]]


def _of_bodies(names: Sequence[Any], partitions: int) -> NDArray[np.int64]:
    return partition_of(np.array(names, np.uint64), partitions)


def _of_tags(names: Sequence[Any], partitions: int) -> NDArray[np.int64]:
    # the same on every machine, forever
    return np.array([zlib.crc32(name.encode()) % partitions for name in names], np.int64)


BODIES = ListKind("bodies", 1, keys.label, _of_bodies)
TAGS = ListKind("tags", 2, keys.tag, _of_tags)


@dataclass(frozen=True)
class Slip:
    """Changes of many lists.

    Attributes
    ----------
    names
        The lists, ascending, each once: bodies or tags.
    add
        Elements in the form of lists, list after list.
    drop
        What leaves them, list after list.
    rows
        Pages that are there already, list after list.
    add_at, drop_at, rows_at
        int64 (len(names) + 1,): where those of each list begin.
    """

    names: list[Any]
    add: Elements
    drop: Drop
    rows: Directory
    add_at: NDArray[np.int64]
    drop_at: NDArray[np.int64]
    rows_at: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        names: NDArray[Any],
        add: tuple[NDArray[np.int64], Elements],
        drop: tuple[NDArray[np.int64], Drop],
        rows: tuple[NDArray[np.int64], Directory],
    ) -> Slip:
        """From parts in any order, each with the place in `names` (ascending) of the list that it belongs to."""
        by_add = np.lexsort((add[1].key, add[0]))
        by_drop, by_rows = np.argsort(drop[0], kind="stable"), np.argsort(rows[0], kind="stable")
        places = np.arange(len(names) + 1)
        return cls(
            names.tolist(),
            add[1][by_add],
            Drop(drop[1].zyx[by_drop], drop[1].key[by_drop]),
            rows[1][by_rows],
            np.searchsorted(add[0][by_add], places),
            np.searchsorted(drop[0][by_drop], places),
            np.searchsorted(rows[0][by_rows], places),
        )

    def paged(self, numbers: PageNumbers) -> tuple[Slip, list[tuple[bytes, bytes]]]:
        """With pages in the place of the elements of lists that get a page full or more, and these pages."""
        sizes = np.diff(self.add_at)
        large = np.flatnonzero(sizes >= PAGE).tolist()
        if not large:
            return self, []
        items: list[tuple[bytes, bytes]] = []
        made, owner = [self.rows], [np.repeat(np.arange(len(self.names)), np.diff(self.rows_at))]
        for i in large:
            rows, pages = cut_pages(self.add[int(self.add_at[i]) : int(self.add_at[i + 1])], numbers)
            items += pages
            made.append(rows)
            owner.append(np.full(len(rows), i))
        loose = np.repeat(sizes < PAGE, sizes)
        add = np.repeat(np.arange(len(self.names)), sizes)[loose], self.add[loose]
        drop = np.repeat(np.arange(len(self.names)), np.diff(self.drop_at)), self.drop
        names = np.empty(len(self.names), object)
        names[:] = self.names
        return Slip.of(names, add, drop, (np.concatenate(owner), Directory.join(made))), items


class Slips:
    """The slips of one kind of lists in a job.

    Parameters
    ----------
    ledger
        Of the job.
    kind
        Of lists.
    partitions
        How many tasks make the lists.
    """

    def __init__(self, ledger: DraftLedger, kind: ListKind, partitions: int) -> None:
        self.ledger = ledger
        self.kind = kind
        self.partitions = partitions

    def _prefix(self, partition: int) -> bytes:
        return self.ledger.key("x", self.kind.name.encode(), b"%08x" % partition, b"")

    def cut(self, task: int, part: int, slip: Slip) -> list[tuple[bytes, bytes]]:
        """Keys and values of a slip, by partition; the same for the same task and part."""
        if not slip.names:
            return []
        where = self.kind.partition(slip.names, self.partitions)
        order = np.argsort(where, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(where[order]) != 0])
        cuts = np.append(starts, len(order))
        add_sizes, drop_sizes, rows_sizes = (np.diff(at) for at in (slip.add_at, slip.drop_at, slip.rows_at))
        values = encode_groups(slip.add[_places(slip.add_at, order)], np.append(0, np.cumsum(add_sizes[order]))[cuts])
        items = []
        for n, value in enumerate(values):
            chosen = order[cuts[n] : cuts[n + 1]]
            dropped, rows = _places(slip.drop_at, chosen), _places(slip.rows_at, chosen)
            sizes = pack([part[chosen].astype(np.uint64) for part in (add_sizes, drop_sizes, rows_sizes)])
            gone = np.concatenate([(slip.drop.zyx[dropped].astype(np.int64) + _BIAS).T, slip.drop.key[dropped][None]])
            stored = msgspec.msgpack.encode(
                (
                    [slip.names[i] for i in chosen.tolist()],
                    sizes,
                    value,
                    pack(list(gone.astype(np.uint64))) if len(dropped) else b"",
                    pack(list(slip.rows.table[:, rows])) if len(rows) else b"",
                )
            )
            items.append((self._prefix(int(where[chosen[0]])) + b"%08x-%08x" % (task, part), stored))
        return items

    def read(self, space: Space, partition: int) -> Slip:
        """All slips of a partition, as one."""
        held = [_decode(value) for _, value in space.scan(self._prefix(partition))]
        flat = [name for part in held for name in part[0]]
        if self.kind.name == BODIES.name:
            names, place = np.unique(np.array(flat, np.uint64), return_inverse=True)
        else:
            known = {name: i for i, name in enumerate(sorted(set(flat)))}
            names = np.empty(len(known), object)
            names[:] = list(known)
            place = np.array([known[name] for name in flat], np.int64)
        sizes = np.concatenate([np.empty((3, 0), np.int64), *(unpack(p[1], 3).astype(np.int64) for p in held)], axis=1)
        elements, _ = decode_many([p[2] for p in held])
        gone = np.concatenate([np.empty((4, 0), np.uint64), *(unpack(p[3], 4) for p in held if p[3])], axis=1)
        rows = np.concatenate([np.empty((_ROWS, 0), np.uint64), *(unpack(p[4], _ROWS) for p in held if p[4])], axis=1)
        zyx = (gone[:3].astype(np.int64) - _BIAS).T.astype(np.int32).reshape(-1, 3)
        place = place.reshape(-1)
        return Slip.of(
            names,
            (np.repeat(place, sizes[0]), elements),
            (np.repeat(place, sizes[1]), Drop(zyx, gone[3])),
            (np.repeat(place, sizes[2]), Directory(rows)),
        )

    def make(self, annotation: Annotation, partition: int, phase: str, to: Callable[[Datatype], bool]) -> Result:
        """Make the lists of a partition; of bodies, tell those followers for which `to` holds."""
        space = self.ledger.view()
        if (done := self.ledger.mark(space, phase, partition)) is not None:
            return done
        slip = self.read(space, partition)

        def step(m: Mutation, tx: TxSpace) -> Result:
            numbers = TaskNumbers(self.ledger.mutation, 2 + self.kind.number, partition)
            writer = _Writer(Lists(tx, self.kind.key_of, numbers), tx, numbers, slip, self.kind)
            taken = writer.write()
            if self.kind.name == BODIES.name:  # a copy of it, in another process
                event = _event(m.id, slip, taken, writer.lists)
                if len(event.label):
                    m.publish(annotation, event, to=to)
            return {"lists": len(slip.names)}

        return self.ledger.commit(phase, partition, step)


def _decode(value: bytes) -> tuple[list[Any], bytes, bytes, bytes, bytes]:
    return msgspec.msgpack.decode(value, type=tuple[list[Any], bytes, bytes, bytes, bytes])


def _places(at: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of what belongs to chosen lists, list after list."""
    sizes = np.diff(at)[chosen]
    ends = np.cumsum(sizes)
    return np.repeat(at[chosen] - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)


@dataclass(frozen=True)
class _Writer:
    """Writes the lists of one slip."""

    lists: Lists
    tx: TxSpace
    numbers: PageNumbers
    slip: Slip
    kind: ListKind

    def write(self) -> list[tuple[int, Elements]]:
        """Do so; returns what was taken out of lists: the place of the list among the names, and the elements."""
        slip = self.slip
        there = np.zeros(len(slip.names), np.bool_)
        for a in range(0, len(slip.names), 4096):
            values = self.tx.get_many([self.kind.key_of(name) for name in slip.names[a : a + 4096]])
            there[a : a + 4096] = [value is not None for value in values]
        fresh = np.flatnonzero(~there & (np.diff(slip.rows_at) == 0))
        borders = np.append(0, np.cumsum(np.diff(slip.add_at)[fresh]))
        list_keys = [self.kind.key_of(slip.names[i]) for i in fresh.tolist()]
        self.tx.put_many(new_lists(slip.add[_places(slip.add_at, fresh)], borders, list_keys, self.numbers))
        taken = []
        for i in np.setdiff1d(np.arange(len(slip.names)), fresh).tolist():
            gone = self._change(i, is_new=not there[i])
            if len(gone):
                taken.append((i, gone))
        return taken

    def _change(self, i: int, *, is_new: bool) -> Elements:
        slip, name = self.slip, self.slip.names[i]
        a, b = slip.drop_at[i : i + 2].tolist()
        c, d = slip.add_at[i : i + 2].tolist()
        drop, add = Drop(slip.drop.zyx[a:b], slip.drop.key[a:b]), slip.add[c:d]
        rows = slip.rows[np.arange(slip.rows_at[i], slip.rows_at[i + 1])]
        if is_new:
            self.lists.put(name, Record(rows, add))
            return Elements.none()
        if len(rows) and self.lists.record(name).given:
            # a list that somebody gave is looked through for positions that come again
            add = Elements.join([add, *self.lists.scan_record(Record(rows))])
            for key in rows.page_keys:
                self.tx.delete(key)
            rows = Directory.empty()
        (gone,) = self.lists.exchange([name], [drop], [add])
        if len(rows):
            held = self.lists.record(name)
            self.lists.put(name, Record(Directory.join([held.directory, rows]), held.inline, held.given))
        return gone


def _event(mutation: int, slip: Slip, taken: list[tuple[int, Elements]], lists: Lists) -> ElementsFiled:
    """What bodies gained and lost."""
    n, kinds = len(slip.names), len(KINDS)
    owner = np.repeat(np.arange(n), np.diff(slip.add_at))
    total = np.bincount(owner * kinds + slip.add.kind, minlength=n * kinds).astype(np.int64).reshape(n, kinds)
    np.add.at(total, np.repeat(np.arange(n), np.diff(slip.rows_at)), slip.rows.table[4:].T.astype(np.int64))
    for i, gone in taken:
        total[i] -= gone.counts()
    labels = np.array(slip.names, np.uint64)

    def parts() -> Iterator[FiledPart]:
        yield FiledPart(labels[owner], slip.add.kind, np.ones(len(owner), np.int8), slip.add.zyx)
        for i in np.flatnonzero(np.diff(slip.rows_at)).tolist():
            rows = slip.rows[np.arange(slip.rows_at[i], slip.rows_at[i + 1])]
            for held in lists.scan_record(Record(rows)):
                yield _part(labels[i], held, 1)
        for i, gone in taken:
            yield _part(labels[i], gone, -1)

    at, kind = np.nonzero(total)
    return ElementsFiled(mutation, labels[at], kind.astype(np.uint8), total[at, kind], parts)


def _part(label: np.uint64, elements: Elements, sign: int) -> FiledPart:
    n = len(elements)
    return FiledPart(np.full(n, label), elements.kind, np.full(n, sign, np.int8), elements.zyx)
