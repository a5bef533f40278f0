"""Durable counters: mutation ids, next labels. Several processes may draw from one; no number is given out twice.

They live in their own tree, so that drawing a number doesn't make anybody read the metadata again. A commit for each
number would be half of what a small edit takes, so who draws often reserves some ahead.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from dvid_dask.errors import BadRequest
from dvid_dask.store import StoreError

if TYPE_CHECKING:
    from dvid_dask.store import Store, Transaction, Tree

__all__ = ["Counter", "MutationIds", "NumberSource"]

TREE = "counters"

#: First mutation id of a repository, as in DVID.
FIRST_MUTATION = 1_000_000_000
#: Mutation ids a process reserves at a time; what it has not used when it ends is skipped.
STRIDE = 100
#: Numbers that a `NumberSource` reserves ahead at most.
AHEAD = 127

_LIMIT = 2**64


def counters_tree(store: Store) -> Tree:
    """The tree of counters."""
    return store.tree(TREE)


class Counter:
    """A number in the store that only this class changes, with every change durable before it returns.

    Parameters
    ----------
    tree : Tree
        The tree of counters.
    key : bytes
        Its name there.
    start : int
        Value of a counter never set.
    """

    def __init__(self, tree: Tree, key: bytes, start: int = 0) -> None:
        self._tree = tree
        self._key = key
        self._start = start

    def _read(self, data: bytes | None) -> int:
        return self._start if data is None else int(data)

    @property
    def value(self) -> int:
        """The next number to be given out."""
        return self._read(self._tree.view(0).get(self._key))

    def allocate(self, n: int = 1) -> int:
        """Take `n` numbers; returns the first. Nobody else ever gets them, whatever crashes.

        Raises
        ------
        BadRequest
            When `n` is below 1 or the numbers would pass 2**64 - 1.
        """
        if n < 1:
            raise BadRequest(f"can't allocate {n} numbers: give 1 or more")

        def take(tx: Transaction) -> int:
            first = self._read(tx.get(self._key))
            if first + n > _LIMIT:
                raise BadRequest(f"the counter stands at {first}: {n} more would pass 2**64 - 1")
            tx.put(self._key, b"%d" % (first + n))
            return first

        return self._tree.update(take)

    def raise_to(self, value: int) -> int:
        """Make the next number at least `value`; returns the next number."""
        self._check(value)
        held = self.value
        if held >= value:  # counters never fall, but for set()
            self._tree.settle()
            return held

        def lift(tx: Transaction) -> int:
            at = self._read(tx.get(self._key))
            if at < value:
                tx.put(self._key, b"%d" % value)
            return max(at, value)

        return self._tree.update(lift)

    def set(self, value: int) -> None:
        """Make `value` the next number, also a lower one: numbers may then be given out again."""
        self._check(value)
        self._tree.update(lambda tx: tx.put(self._key, b"%d" % value))

    @staticmethod
    def _check(value: int) -> None:
        if not 0 <= value < _LIMIT:
            raise BadRequest(f"{value} is no counter value: expected 0 to 2**64 - 1")


class MutationIds:
    """Mutation ids of one repository: reserved durably in strides, handed out by this process one by one."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self._lock = threading.Lock()
        self._next = 0
        self._end = 0

    def take(self) -> int:
        """An id that no other mutation of the repository has or will have."""
        with self._lock:
            if self._next >= self._end:
                self._next = self.counter.allocate(STRIDE)
                self._end = self._next + STRIDE
            self._next += 1
            return self._next - 1

    def at(self) -> tuple[int, int]:
        """The id this process hands out next (or would at least), and the first one not reserved yet."""
        saved = self.counter.value
        with self._lock:
            return (self._next if self._next < self._end else saved), saved


class _Record(NamedTuple):
    """What is kept of a source: numbers from `end` on are nobody's, those below `floor` are not given out any more."""

    end: int
    floor: int
    epoch: int  # counts the times that it was set, after which reservations are void

    @classmethod
    def decode(cls, data: bytes | None, start: int) -> _Record:
        """One number alone is a counter as `Counter` keeps it."""
        if data is None:
            return cls(start, start, 0)
        end, *rest = map(int, data.split())
        floor, epoch = rest or (end, 0)
        return cls(end, floor, epoch)

    def encode(self) -> bytes:
        return b"%d %d %d" % self


class NumberSource:
    """Numbers of a repository that this process hands out from what it has reserved, durably, for itself.

    The first draw reserves nothing ahead, each further reservation about twice as much as the one before. What a
    process has not used is given back when it closes the datastore, if nobody has reserved beyond; else it is
    skipped. In one process numbers ascend; those of several processes are interleaved, unless a draw says `above` what.

    Parameters
    ----------
    tree : Tree
        The tree of counters.
    key : bytes
        Its name there. A counter that was kept by `Counter` goes on.
    start : int
        First number of a source never drawn from.
    """

    def __init__(self, tree: Tree, key: bytes, start: int = 0) -> None:
        self._tree = tree
        self._key = key
        self._start = start
        self._lock = threading.Lock()
        self._next = self._end = 0
        self._epoch = -1
        self._ahead = 0

    def _read(self) -> _Record:
        return self._tree.view(0).decoded("numbers", [self._key], self._decode)[0]

    def _decode(self, _: bytes, data: bytes | None) -> tuple[_Record, int]:
        return _Record.decode(data, self._start), 100

    def _at(self, record: _Record) -> int | None:
        """The next number of what this process has reserved, if there is one left."""
        at = max(self._next, record.floor)
        return at if self._epoch == record.epoch and at < self._end <= record.end else None

    @property
    def value(self) -> int:
        """The number that this process would give out next."""
        with self._lock:
            record = self._read()
            at = self._at(record)
            return record.end if at is None else at

    @property
    def unused(self) -> int:
        """The number from which on none was given out; too high by what other processes have reserved and not used."""
        with self._lock:
            record = self._read()
            at = self._at(record)
            return record.end if at is None or self._end != record.end else at

    def allocate(self, n: int = 1, *, above: int = -1, limit: int = _LIMIT) -> int:
        """Take `n` consecutive numbers larger than `above`; returns the first. Nobody else ever gets them.

        Parameters
        ----------
        n : int
            How many.
        above : int
            A number that those taken must exceed.
        limit : int
            Numbers from here on are not given out.

        Raises
        ------
        BadRequest
            When `n` is below 1 or the numbers would reach the limit.
        """
        if n < 1:
            raise BadRequest(f"can't allocate {n} numbers: give 1 or more")
        with self._lock:
            record = self._read()
            at = self._at(record)
            if at is None or at <= above or at + n > min(self._end, limit):
                at, record, self._ahead = self._tree.update(lambda tx: self._reserve(tx, n, above, limit))
                self._end, self._epoch = record.end, record.epoch
            self._next = at + n
            return at

    def _reserve(self, tx: Transaction, n: int, above: int, limit: int) -> tuple[int, _Record, int]:
        record = _Record.decode(tx.get(self._key), self._start)
        held = self._at(record)
        mine = held is not None and self._end == record.end
        first = max(held if held is not None and mine else record.end, above + 1)
        if first + n > limit:
            raise BadRequest(f"the counter stands at {first}: {n} more would pass {limit - 1}")
        # a source that only this process draws from: it will draw again
        ahead = min(2 * self._ahead + 1, AHEAD) if self._end == record.end and self._epoch == record.epoch else 0
        end = max(record.end, min(first + n + ahead, limit))
        record = record._replace(end=end)
        tx.put(self._key, record.encode())
        return first, record, ahead

    def raise_to(self, value: int) -> None:
        """No process gives out a number below `value` from now on."""
        Counter._check(value)
        if self._read().floor >= value:
            self._tree.settle()
            return

        def lift(tx: Transaction) -> None:
            record = _Record.decode(tx.get(self._key), self._start)
            if record.floor < value:
                tx.put(self._key, record._replace(end=max(record.end, value), floor=value).encode())

        self._tree.update(lift)

    def set(self, value: int) -> None:
        """Make `value` the next number for all processes, also a lower one: numbers may then be given out again."""
        Counter._check(value)

        def write(tx: Transaction) -> None:
            record = _Record.decode(tx.get(self._key), self._start)
            tx.put(self._key, _Record(value, value, record.epoch + 1).encode())

        self._tree.update(write)

    def give_back(self) -> None:
        """Return what this process has reserved and not used, if nobody has reserved beyond it."""
        with self._lock:
            at = self._at(self._read())
            if at is None:
                return

            def lower(tx: Transaction) -> None:
                record = _Record.decode(tx.get(self._key), self._start)
                at = self._at(record)
                if at is not None and self._end == record.end:
                    tx.put(self._key, record._replace(end=at).encode())

            try:
                self._tree.update(lower)
            except (StoreError, OSError):
                pass  # some numbers are skipped, as after a crash
            finally:
                self._epoch = -1  # also then: it may have happened, and the numbers be another's by now
