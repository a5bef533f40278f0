"""Durable counters: mutation ids, next labels. Several processes may draw from one; no number is given out twice.

They live in their own tree, so that drawing a number doesn't make anybody read the metadata again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from dvid_dask.store import Store, Transaction, Tree

__all__ = ["Counter", "MutationIds"]

TREE = "counters"

#: First mutation id of a repository, as in DVID.
FIRST_MUTATION = 1_000_000_000
#: Mutation ids a process reserves at a time; what it has not used when it ends is skipped.
STRIDE = 100

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
