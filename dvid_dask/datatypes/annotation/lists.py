"""Paged lists of elements: of a body, and of a tag.

A list is a record and pages. The record holds up to `INLINE` elements itself and a directory: for each page its number,
the smallest and largest key in it, and how many elements of each kind it has. Pages hold about `PAGE` elements, ordered
by key when they are made: the supervoxel in a list of a body, the place in a list of a tag. So

* lists are joined by joining their directories, whatever they hold: a merge of bodies,
* a list gets another name with its record: a renumbering,
* what has some keys is found in the pages whose range holds one of them: a cleave, a split, the removal of an element.

Pages know nothing of the list that they are in, and their numbers are never given twice, in whatever version.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.elements import Elements, decode, decode_many, encode, encode_groups, find
from dvid_dask.datatypes.annotation.errors import DamagedListError
from dvid_dask.datatypes.annotation.kinds import KINDS
from dvid_dask.formats.columns import pack, unpack
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace
    Ids = NDArray[np.uint64]

__all__ = ["Directory", "Drop", "Lists", "PageNumbers", "Record", "Short", "new_lists", "place_of"]

INLINE = 256
"""Most elements that a record holds itself."""

PAGE = 1024
"""Elements of a page, at most."""

_FORMAT = 1
_BATCH = 256  # pages read together
_COLUMNS = 9
_KINDS = len(KINDS)
_TOGETHER = 1024  # lists whose records are read together
_COMPACT = 4  # small pages that are made one with what is added


def place_of(zyx: NDArray[np.int32]) -> Ids:
    """What lists of tags are ordered by: uint64 (n,), cubes of 2048 voxels in the order of z, y, x."""
    cube = ((zyx.astype(np.int64) + (1 << 31)) >> 11).astype(np.uint64)
    return (cube[:, 0] << np.uint64(42)) | (cube[:, 1] << np.uint64(21)) | cube[:, 2]


class PageNumbers:
    """Numbers for new pages, unlike all others: those of a mutation lie together.

    Parameters
    ----------
    mutation
        Its id.
    """

    def __init__(self, mutation: int) -> None:
        self._high = np.uint64(mutation)
        self._low = secrets.randbits(32) << 32

    def take(self, n: int) -> NDArray[np.uint64]:
        """uint64 (2, n)."""
        low = np.uint64(self._low) + np.arange(n, dtype=np.uint64)
        self._low += n
        return np.stack([np.full(n, self._high), low])


@dataclass(frozen=True)
class Directory:
    """Pages of a list as uint64 (9, n): number of a page (2), smallest and largest key, elements of each kind (5)."""

    table: Ids

    @classmethod
    def empty(cls) -> Directory:
        """No pages."""
        return cls(np.empty((_COLUMNS, 0), np.uint64))

    @classmethod
    def join(cls, parts: Sequence[Directory]) -> Directory:
        """One after the other."""
        return cls(np.concatenate([p.table for p in parts], axis=1)) if parts else cls.empty()

    def __len__(self) -> int:
        return int(self.table.shape[1])

    def __getitem__(self, choice: NDArray[np.bool_] | NDArray[np.int64]) -> Directory:
        return Directory(self.table[:, choice])

    @property
    def page_keys(self) -> list[bytes]:
        """Keys of the pages."""
        data = np.ascontiguousarray(self.table[:2].T).astype(">u8").tobytes()
        return [keys.PAGE + data[at : at + 16] for at in range(0, len(data), 16)]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64 (n,): elements of each page."""
        total: NDArray[np.int64] = self.table[4:].astype(np.int64).sum(axis=0)
        return total

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 (5,): elements of each kind in all pages."""
        total: NDArray[np.int64] = self.table[4:].astype(np.int64).sum(axis=1)
        return total

    def may_hold(self, wanted: Ids) -> NDArray[np.bool_]:
        """Pages whose range holds one of the wanted keys, ascending."""
        if not len(wanted):
            return np.zeros(len(self), np.bool_)
        low, high = self.table[2], self.table[3]
        at = np.searchsorted(wanted, low)
        held: NDArray[np.bool_] = (at < len(wanted)) & (wanted[np.minimum(at, len(wanted) - 1)] <= high)
        return held


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    form: int
    given: bool
    directory: bytes
    inline: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


@dataclass(frozen=True)
class Record:
    """A list but for its pages.

    Attributes
    ----------
    directory
        Its pages.
    inline
        Elements that are in none.
    given
        Whether it was stored as given, whatever the blocks say: see ``POST labels``.
    """

    directory: Directory = field(default_factory=Directory.empty)
    inline: Elements = field(default_factory=Elements.none)
    given: bool = False

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 (5,): elements of each kind, without a look at the pages."""
        return self.directory.counts + self.inline.counts()

    def __len__(self) -> int:
        """Pages and elements that it has: 0 for an empty list."""
        return len(self.directory) + len(self.inline)

    def encode(self) -> bytes:
        """Its bytes."""
        directory = pack(list(self.directory.table)) if len(self.directory) else b""
        return _encode(_Stored(_FORMAT, self.given, directory, encode(self.inline) if len(self.inline) else b""))

    @classmethod
    def decode(cls, value: bytes | None) -> Record:
        """The inverse of `encode`; an empty list for None."""
        if value is None:
            return cls()
        held = _stored(value)
        try:
            directory = Directory(unpack(held.directory, _COLUMNS)) if held.directory else Directory.empty()
        except FormatError as error:
            raise DamagedListError(f"a list of elements doesn't decode: {error}") from error
        return cls(directory, decode(held.inline or None), held.given)


class Drop(NamedTuple):
    """What to take out of a list: positions int32 (n, 3), each once, and the key of each."""

    zyx: NDArray[np.int32]
    key: Ids

    @classmethod
    def nothing(cls) -> Drop:
        """Nothing."""
        return cls(np.empty((0, 3), np.int32), np.empty(0, np.uint64))


class Short(NamedTuple):
    """A list as its record says, undecoded.

    Attributes
    ----------
    fits
        Whether that is all of it: it has no pages, and wasn't stored as given.
    inline
        The value of the elements that the record holds, if it fits and there are any.
    """

    fits: bool
    inline: bytes


class Lists:
    """The lists of one class in one state.

    Parameters
    ----------
    space
        A pinned view for reading, or the space of a transaction.
    key_of
        Key of a list by its name.
    numbers
        Numbers for new pages; needed for changes.
    """

    def __init__(
        self,
        space: AnySpace,
        key_of: Callable[[int], bytes] | Callable[[str], bytes],
        numbers: PageNumbers | None = None,
    ) -> None:
        self._space = space
        self._key_of = key_of
        self._numbers = numbers

    # -------------------------------------------------------------- read

    def record(self, name: int | str) -> Record:
        """A list without its pages."""
        return Record.decode(self._space.get(self._key_of(name)))  # type: ignore[arg-type]

    def records(self, names: Sequence[int] | Sequence[str]) -> list[Record | None]:
        """`record` of many; None for a list that isn't there."""
        values = self._space.get_many([self._key_of(n) for n in names])  # type: ignore[arg-type]
        return [None if v is None else Record.decode(v) for v in values]

    def short(self, names: Sequence[int] | Sequence[str]) -> list[Short]:
        """What the records of many lists say, undecoded; a list that isn't there fits."""
        return [_short(v) for v in self._space.get_many([self._key_of(n) for n in names])]  # type: ignore[arg-type]

    def scan(self, name: int | str) -> Iterator[Elements]:
        """The elements of a list, some pages at a time."""
        return self.scan_record(self.record(name))

    def scan_record(self, record: Record) -> Iterator[Elements]:
        """The elements of a list, some pages at a time."""
        if len(record.inline):
            yield record.inline
        for _, page in self.pages(record.directory):
            yield page

    def pages(self, directory: Directory, batch: int = 16) -> Iterator[tuple[NDArray[np.int64], Elements]]:
        """Pages joined, so many at a time; the row of the directory that each element is of."""
        page_keys = directory.page_keys
        for at in range(0, len(page_keys), batch):
            values = self._space.get_many(page_keys[at : at + batch])
            there = [v for v in values if v is not None]
            if len(there) < len(values):
                raise DamagedListError("pages of a list of elements are missing: reload the annotation")
            held, borders = decode_many(there)
            yield np.repeat(np.arange(at, at + len(there)), np.diff(borders)), held

    # -------------------------------------------------------------- write

    @property
    def _tx(self) -> TxSpace:
        space = self._space
        if self._numbers is None or not hasattr(space, "put"):
            raise TypeError("these lists are open for reading; changes need the space of a transaction")
        return space  # type: ignore[return-value]

    def put(self, name: int | str, record: Record, *, compact: bool = False) -> None:
        """Store a list; an empty one is removed. What it holds too many of itself goes to pages.

        With `compact` that takes small pages along, which are deleted. Where lists were joined or cut, somebody may
        still want to read them.
        """
        key = self._key_of(name)  # type: ignore[arg-type]
        tx = self._tx
        if len(record.inline) > INLINE:
            record = self._paged(record, compact)
        if len(record) or record.given:
            tx.put(key, record.encode())
        else:
            tx.delete(key)
        if isinstance(name, int):
            self._note_given(name, record)

    @property
    def most_inline(self) -> int:
        """Elements that a record holds itself, at most."""
        return INLINE

    def put_short(
        self, names: Sequence[int] | Sequence[str], inline: Sequence[bytes], filled: NDArray[np.bool_]
    ) -> None:
        """Store lists that fit into their records, each a value of its elements; those that aren't filled go.

        None of them was stored as given.
        """
        tx = self._tx
        for name, value, there in zip(names, inline, filled.tolist(), strict=True):
            key = self._key_of(name)  # type: ignore[arg-type]
            if there:
                tx.put(key, _encode(_Stored(_FORMAT, False, b"", value)))
            else:
                tx.delete(key)

    def _note_given(self, body: int, record: Record) -> None:
        tx, key = self._tx, keys.given(body)
        if record.given:
            tx.put(key, b"\1")
        elif tx.get(key) is not None:
            tx.delete(key)

    def _paged(self, record: Record, compact: bool) -> Record:
        """With its own elements in pages; with `compact` together with those of a few small pages."""
        directory, inline = record.directory, [record.inline]
        small = np.flatnonzero(directory.sizes < PAGE // 2)[: _COMPACT if compact else 0]
        if len(small):
            chosen = directory[small]
            inline += [page for _, page in self.pages(chosen)]
            for key in chosen.page_keys:
                self._tx.delete(key)
            keep = np.ones(len(directory), np.bool_)
            keep[small] = False
            directory = directory[keep]
        return Record(Directory.join([directory, self.pages_of(Elements.join(inline))]), Elements.none(), record.given)

    def pages_of(self, elements: Elements) -> Directory:
        """New pages with these elements."""
        if self._numbers is None:
            raise TypeError("these lists are open for reading")
        rows, items = cut_pages(elements.by_key(), self._numbers)
        self._tx.put_many(items)
        return rows

    def exchange(
        self,
        names: Sequence[int] | Sequence[str],
        drop: Sequence[Drop],
        add: Sequence[Elements],
        *,
        anywhere: bool = False,
    ) -> list[Elements]:
        """Take elements out of lists and add others.

        Parameters
        ----------
        names
            Of the lists, each once.
        drop
            What to take out of each; what isn't there is passed over.
        add
            What to add to each. Of a list that was stored as given, elements at the same positions go.
        anywhere
            Whether to look for what to take through all pages, whatever the keys.

        Returns
        -------
        list of Elements
            What was taken out of each.
        """
        found: list[Elements] = []
        for at in range(0, len(names), _TOGETHER):
            some = names[at : at + _TOGETHER]
            records = self.records(some)
            each: Iterator[tuple[int | str, Record | None]] = zip(some, records, strict=True)
            for i, (name, record) in enumerate(each, start=at):
                found.append(self._exchange(name, Record() if record is None else record, drop[i], add[i], anywhere))
        return found

    def _exchange(self, name: int | str, record: Record, drop: Drop, add: Elements, anywhere: bool) -> Elements:
        after, gone = self._without(record, drop.zyx, drop.key, anywhere=anywhere)
        if after.given and len(add):
            after, more = self._without(after, add.zyx, add.key, anywhere=True)
            gone = Elements.join([gone, more])
        if len(gone) or len(add):
            joined = Record(after.directory, Elements.join([after.inline, add]), after.given)
            self.put(name, joined, compact=True)
        return gone

    def _without(
        self, record: Record, zyx: NDArray[np.int32], key: Ids, *, anywhere: bool = False
    ) -> tuple[Record, Elements]:
        """A list without the elements at these positions, by their keys or `anywhere`; and those that it had."""
        if not len(zyx):
            return record, Elements.none()
        inline, directory = record.inline, record.directory
        at = find(zyx, inline.zyx)  # a list that was stored as given may name a position twice
        found = [inline[at >= 0]]
        left = np.ones(len(zyx), np.bool_)
        left[at[at >= 0]] = False
        if left.any() and len(directory):
            wanted = zyx[left]
            may = np.ones(len(directory), np.bool_) if anywhere else directory.may_hold(distinct(key[left]))
            directory, parts = self._take(directory, may, lambda page: find(wanted, page.zyx) >= 0)
            found += parts
        return Record(directory, inline[at < 0], record.given), Elements.join(found)

    def _take(
        self, directory: Directory, may: NDArray[np.bool_], chosen: Callable[[Elements], NDArray[np.bool_]]
    ) -> tuple[Directory, list[Elements]]:
        """Take elements out of pages; returns the directory then, and what was taken."""
        tx = self._tx
        table, parts = directory.table.copy(), []
        keep = np.ones(len(directory), np.bool_)
        rows = np.flatnonzero(may)
        for row_of, held in self.pages(directory[rows]):
            mask = chosen(held)
            if not mask.any():
                continue
            parts.append(held[mask])
            for local in distinct(row_of[mask]).tolist():
                row = int(rows[local])
                rest = held[(row_of == local) & ~mask]
                page_key = directory[np.array([row])].page_keys[0]
                if not len(rest):
                    tx.delete(page_key)
                    keep[row] = False
                    continue
                tx.put(page_key, encode(rest))
                table[2:4, row] = rest.key.min(), rest.key.max()
                table[4:, row] = rest.counts()
        return Directory(table[:, keep]), parts

    def join(self, target: int, source: int) -> tuple[Record, Record]:
        """Add a list to another, directory to directory, and remove it; returns both as they were."""
        mine, other = self.record(target), self.record(source)
        if len(other) or other.given:
            self.put(source, Record())
            joined = Directory.join([mine.directory, other.directory])
            self.put(target, Record(joined, Elements.join([mine.inline, other.inline]), mine.given or other.given))
        return mine, other

    def rename(self, old: int, new: int) -> Record:
        """Give a list another name, at which there is none; returns it."""
        record = self.record(old)
        if len(record) or record.given:
            self.put(old, Record())
            self.put(new, record)
        return record

    def take_keys(self, name: int, wanted: Ids) -> Record:
        """Take all that has one of the wanted keys out of a list; pages that have nothing else are handed over whole.

        Parameters
        ----------
        name
            Of the list.
        wanted
            Keys, ascending.

        Returns
        -------
        Record
            What was taken: its pages exist, no list has them.
        """
        record = self.record(name)
        mask = _among(record.inline.key, wanted)
        directory = record.directory
        rows = np.flatnonzero(directory.may_hold(wanted))
        moved: list[Directory] = []
        loose = [record.inline[mask]]
        table, keep = directory.table.copy(), np.ones(len(directory), np.bool_)
        tx = self._tx
        for row_of, held in self.pages(directory[rows]):
            hit = _among(held.key, wanted)
            if not hit.any():
                continue
            hits = np.bincount(row_of[hit], minlength=len(rows))
            sizes = np.bincount(row_of, minlength=len(rows))
            whole = np.flatnonzero((hits > 0) & (hits == sizes))
            keep[rows[whole]] = False
            moved.append(directory[rows[whole]])
            for local in np.flatnonzero((hits > 0) & (hits < sizes)).tolist():
                row, inside = int(rows[local]), row_of == local
                rest = held[inside & ~hit]
                loose.append(held[inside & hit])
                tx.put(directory[np.array([row])].page_keys[0], encode(rest))
                table[2:4, row] = rest.key.min(), rest.key.max()
                table[4:, row] = rest.counts()
            if sum(map(len, loose)) > 16 * PAGE:
                moved.append(self.pages_of(Elements.join(loose)))
                loose = []
        taken = Record(Directory.join(moved), Elements.join(loose), record.given)
        if len(taken):
            self.put(name, Record(Directory(table[:, keep]), record.inline[~mask], record.given))
        return taken

    def give(self, name: int, taken: Record) -> None:
        """Add what `take_keys` took to a list."""
        if len(taken):
            held = self.record(name)
            directory = Directory.join([held.directory, taken.directory])
            inline = Elements.join([held.inline, taken.inline])
            self.put(name, Record(directory, inline, held.given or taken.given))

    def rekey(self, name: int, wanted: Ids, new_key: Callable[[Elements], Ids]) -> None:
        """Give all that has one of the wanted keys (ascending) another key, page by page."""
        record = self.record(name)
        inline = record.inline
        mask = _among(inline.key, wanted)
        changed = bool(mask.any())
        if changed:
            inline = _with_keys(inline, mask, new_key)
        directory = record.directory
        table = directory.table.copy()
        rows = np.flatnonzero(directory.may_hold(wanted))
        for row_of, held in self.pages(directory[rows]):
            mask = _among(held.key, wanted)
            if not mask.any():
                continue
            changed = True
            after = _with_keys(held, mask, new_key)
            for local in distinct(row_of[mask]).tolist():
                row = int(rows[local])
                page = after[row_of == local]
                self._tx.put(directory[np.array([row])].page_keys[0], encode(page))
                table[2:4, row] = page.key.min(), page.key.max()
        if changed:
            self.put(name, Record(Directory(table), inline, record.given))

    def delete(self, name: int | str) -> None:
        """Remove a list with its pages."""
        record = self.record(name)
        for key in record.directory.page_keys:
            self._tx.delete(key)
        self.put(name, Record())

    def replace(self, name: int, elements: Elements, *, given: bool) -> None:
        """Make these the elements of a list."""
        self.delete(name)
        self.put(name, Record(Directory.empty(), elements, given))


def _short(value: bytes | None) -> Short:
    if value is None:
        return Short(True, b"")
    held = _stored(value)
    fits = not held.directory and not held.given
    return Short(fits, held.inline if fits else b"")


def _stored(value: bytes) -> _Stored:
    try:
        held = _decode(value)
    except msgspec.DecodeError as error:
        raise DamagedListError(f"a list of elements doesn't decode: {error}") from error
    if held.form != _FORMAT:
        raise DamagedListError(f"a list of elements has form {held.form}, expected {_FORMAT}")
    return held


def _among(have: Ids, wanted: Ids) -> NDArray[np.bool_]:
    if not len(wanted):
        return np.zeros(len(have), np.bool_)
    at = np.minimum(np.searchsorted(wanted, have), len(wanted) - 1)
    found: NDArray[np.bool_] = wanted[at] == have
    return found


def _with_keys(held: Elements, mask: NDArray[np.bool_], new_key: Callable[[Elements], Ids]) -> Elements:
    key = held.key.copy()
    key[mask] = new_key(held[mask])
    return held.with_key(key)


def cut_pages(elements: Elements, numbers: PageNumbers) -> tuple[Directory, list[tuple[bytes, bytes]]]:
    """Pages of elements that are ordered by key: their rows, and keys with values."""
    n = len(elements)
    if not n:
        return Directory.empty(), []
    pages = -(-n // PAGE)
    borders = np.linspace(0, n, pages + 1).astype(np.int64)
    starts, stops = borders[:-1], borders[1:]
    table = np.empty((_COLUMNS, pages), np.uint64)
    table[:2] = numbers.take(pages)
    table[2], table[3] = elements.key[starts], elements.key[stops - 1]
    page = np.repeat(np.arange(pages), np.diff(borders))
    counts = np.bincount(page * _KINDS + elements.kind, minlength=pages * _KINDS)
    table[4:] = counts.reshape(pages, _KINDS).T
    rows = Directory(table)
    return rows, list(zip(rows.page_keys, encode_groups(elements, borders), strict=True))


def new_lists(
    elements: Elements, borders: ArrayLike, list_keys: Sequence[bytes], numbers: PageNumbers
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of many lists that are made at once, whole: for reloads and bulk loads.

    Parameters
    ----------
    elements
        List after list, each ordered by key; in the form of lists (`Elements.listed`), with keys.
    borders
        List i has the elements ``borders[i]`` to ``borders[i + 1]``.
    list_keys
        The key of each list: `keys.label` or `keys.tag`.
    numbers
        Numbers for their pages.

    Yields
    ------
    key, value
        To be written as they are, in any order; nothing is read. What is there of these lists is overwritten, but for
        its pages.
    """
    edges = np.asarray(borders, np.int64)
    sizes = np.diff(edges)
    small = np.flatnonzero((sizes > 0) & (sizes <= INLINE))
    where = np.repeat(edges[small], sizes[small])
    ends = np.concatenate([[0], np.cumsum(sizes[small])])
    inside = where + np.arange(int(ends[-1])) - np.repeat(ends[:-1], sizes[small])
    for i, value in zip(small.tolist(), encode_groups(elements[inside], ends), strict=True):
        yield list_keys[i], _encode(_Stored(_FORMAT, False, b"", value))
    for i in np.flatnonzero(sizes > INLINE).tolist():
        rows, items = cut_pages(elements[edges[i] : edges[i + 1]], numbers)
        yield from items
        yield list_keys[i], Record(rows).encode()
