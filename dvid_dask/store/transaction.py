"""A transaction: reads of one state, writes that all happen or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import Any

import tensorstore as ts

from .errors import StoreError, is_conflict
from .keys import SEALED, bounds, check
from .view import View

#: Keys of a listing that are merged with pending writes at a time.
_PART = 1024


class Transaction:
    """Reads and writes of one attempt at an update. Gotten by the function that is passed to `Tree.update`.

    All reads see the one state from which the attempt began, with this transaction's own writes on top. What was read
    is checked when the transaction commits: if somebody changed it meanwhile, nothing is written and the function runs
    again. A range read checks the keys that it found; keys that others *inserted* meanwhile go unnoticed. So whoever
    inserts keys that a reader of a range must not miss also writes a key that the reader reads.

    Arrays written through `kvstore` are part of the commit. Their keys can be read in this transaction through the
    array alone: `get` refuses them, and listings don't have them.
    """

    def __init__(self, base: View, live: ts.KvStore, since: float) -> None:
        self._base = base
        self._live = live
        self._since = since
        self._ts = ts.Transaction(atomic=True, repeatable_read=True)
        self._kvstore = live.with_transaction(self._ts)
        self._pending: dict[bytes, bytes | None] = {}
        self._holes: list[tuple[bytes, bytes]] = []  # ranges deleted, end b"" for none
        self._unchecked: dict[bytes, bytes | None] = {}  # key -> generation read, None: only listed
        self._callbacks: list[Callable[[], object]] = []
        self._shared = False
        self._lost = False
        self._dirty = False
        self._unchecked[SEALED] = base._seal()[1]

    @property
    def kvstore(self) -> ts.KvStore:
        """The tree as a key-value store inside this transaction: arrays opened on it are written with this commit."""
        self._share()
        return self._kvstore

    @property
    def ts(self) -> ts.Transaction:
        """Tensorstore's transaction."""
        self._share()
        return self._ts

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        if self._is_own(key):
            return self._pending.get(key)
        if self._shared:
            return self._get_shared([key])[0]
        return self._get_base([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in their order, None for those that are missing."""
        reader = self._get_shared if self._shared else self._get_base
        if not self._pending and not self._holes:
            return reader(keys)
        others = [key for key in keys if not self._is_own(key)]
        found = dict(zip(others, reader(others), strict=True))
        return [self._pending.get(key) if self._is_own(key) else found[key] for key in keys]

    def keys(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[bytes]:
        """Iterate over the keys from `start` to before `stop` in order, without writes made after the first step."""
        own = self._own(start, stop)
        yield from merge(self._base_keys(start, stop), [key for key in own if self._pending[key] is not None])

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys from `start` to before `stop` and their values in order."""
        own = [(key, value) for key in self._own(start, stop) if (value := self._pending[key]) is not None]
        yield from merge(self._base_items(start, stop), own)

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self.put_many(((key, value),))

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set the values of many keys; an iterable of pairs, or a mapping's ``items()``."""
        write, pending, unchecked = self._kvstore.write, self._pending, self._unchecked
        for key, value in items:
            if type(key) is not bytes or not key or key[0] == 0:
                check(key)
            if type(value) is not bytes:
                value = _bytes(value)
            if key in unchecked:
                self._validate((key,), keep=False)
            write(key, value)
            pending[key] = value
        self._dirty = self._dirty or bool(pending)

    def delete(self, key: bytes) -> None:
        """Delete a key; none there is fine."""
        check(key)
        if key in self._unchecked:
            self._validate((key,), keep=False)
        self._kvstore.write(key, None)
        self._pending[key] = None
        self._dirty = True

    def delete_range(self, start: bytes, stop: bytes | None) -> None:
        """Delete the keys from `start` to before `stop`; a `stop` of None or ``b""`` means to the end."""
        low, high = bounds(start, stop)
        if high and low >= high:
            return
        self._validate([key for key in self._unchecked if key >= low and (not high or key < high)], keep=False)
        for key in [key for key in self._pending if key >= low and (not high or key < high)]:
            del self._pending[key]
        self._kvstore.delete_range(ts.KvStore.KeyRange(low, high)).result()
        self._holes.append((low, high))
        self._dirty = True

    def on_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` after this attempt has been committed; attempts that fail call nothing."""
        self._callbacks.append(callback)

    # ---- for Tree.update ---------------------------------------------------------------------------------------------

    def _seal(self, name: str) -> None:
        self._validate((SEALED,), keep=False)
        self._kvstore.write(SEALED, name.encode())
        self._dirty = True

    def _rewrite(self, keys: Sequence[bytes]) -> int:
        """Write the values of keys as they are, which puts them into a new data file; return their size."""
        nbytes = 0
        results = self._base.results(keys)
        for key, result in zip(keys, results, strict=True):
            self._unchecked[key] = result.stamp.generation
        self._validate(keys, keep=False)
        for key, result in zip(keys, results, strict=True):
            if result.state != "missing":
                self._kvstore.write(key, result.value)
                nbytes += len(result.value)
        self._dirty = True
        return nbytes

    def _commit(self) -> bool:
        """Commit; False says that another writer changed what was read."""
        if not self._dirty:
            self._ts.abort()
            return True
        self._validate(list(self._unchecked))
        if self._lost:
            self._ts.abort()
            return False
        try:
            self._ts.commit_async().result()
        except ValueError as error:
            if is_conflict(error):
                return False
            raise
        return True

    def _abort(self) -> None:
        self._ts.abort()

    # ------------------------------------------------------------------------------------------------------------------

    def _share(self) -> None:
        # From here on tensorstore may write keys that we don't know of: what was read so far is checked now, while a
        # read in its transaction still means the value below, and further reads go through it.
        if not self._shared:
            self._validate(list(self._unchecked))
            self._shared = self._dirty = True

    def _is_own(self, key: bytes) -> bool:
        return key in self._pending or any(low <= key and (not high or key < high) for low, high in self._holes)

    def _own(self, start: bytes, stop: bytes | None) -> list[bytes]:
        low, high = bounds(start, stop)
        return sorted(key for key in self._pending if key >= low and (not high or key < high))

    def _get_base(self, keys: Sequence[bytes]) -> list[bytes | None]:
        results = self._base.results(keys)
        for key, result in zip(keys, results, strict=True):
            self._unchecked[key] = result.stamp.generation
        return [None if result.state == "missing" else result.value for result in results]

    def _get_shared(self, keys: Sequence[bytes]) -> list[bytes | None]:
        futures = [self._kvstore.read(key, staleness_bound=self._since) for key in keys]
        results = [future.result() for future in futures]
        for key, result, base in zip(keys, results, self._base.results(keys, values=False), strict=True):
            if result.stamp.generation != base.stamp.generation:
                self._explain(key, base.stamp.generation)
            elif result.state != "missing":
                self._unchecked.pop(key, None)
                self._keep(key, result.value)
        return [None if result.state == "missing" else result.value for result in results]

    def _explain(self, key: bytes, generation: bytes) -> None:
        """Say what it means that the transaction sees another value than its base."""
        now = self._live.read(key, byte_range=slice(0, 0), staleness_bound=float("inf")).result()
        if now.stamp.generation == generation:
            # Nobody else did. A read of an array's own pending write makes tensorstore abort the commit, always.
            raise StoreError(
                f"key {key!r} was written through this transaction's kvstore; in it, read it through the array alone"
            )
        self._lost = True

    def _base_keys(self, start: bytes, stop: bytes | None) -> Iterator[bytes]:
        for key in self._base.keys(start, stop):
            if not self._is_own(key):
                self._unchecked.setdefault(key, None)
                yield key

    def _base_items(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        if not self._shared:
            for key, result in self._base.scan_results(start, stop):
                if not self._is_own(key):
                    self._unchecked[key] = result.stamp.generation
                    yield key, result.value
            return
        for part in _parts(key for key in self._base.keys(start, stop) if not self._is_own(key)):
            for key, value in zip(part, self._get_shared(part), strict=True):
                if value is not None:
                    yield key, value

    def _validate(self, keys: Sequence[bytes], *, keep: bool = True) -> None:
        """Make the commit depend on keys being as they were read; must precede a write of them.

        Keys that the caller is not about to write are written as they are (`keep`): tensorstore 0.1.86 forgets the
        value of a key that a repeatable-read transaction has only read when its commit meets another, and leaves it
        empty.
        """
        if not keys:
            return
        read, since, nothing = self._kvstore.read, self._since, slice(0, 0)
        futures = [read(key, byte_range=nothing, staleness_bound=since) for key in keys]
        expected = [self._unchecked.pop(key) for key in keys]
        listed = [key for key, generation in zip(keys, expected, strict=True) if generation is None]
        if listed:
            known = dict(zip(listed, self._base.results(listed, values=False), strict=True))
            expected = [known[k].stamp.generation if g is None else g for k, g in zip(keys, expected, strict=True)]
        for future, generation in zip(futures, expected, strict=True):
            try:
                if future.result().stamp.generation != generation:
                    self._lost = True
            except ValueError as error:
                if not is_conflict(error):
                    raise
                self._lost = True
        if keep and not self._lost:
            for key, value in zip(keys, self._base.get_many(keys), strict=True):
                if key == SEALED and value is not None and not self._base.sealed:
                    # A branch begins with its source's seal, which says nothing here. As a key that everybody reads it
                    # would be kept, that is written, by every commit, and make all of them conflict: drop it.
                    self._kvstore.write(key, None)
                elif value is not None:
                    self._keep(key, value)

    def _keep(self, key: bytes, value: bytes) -> None:
        """Write a key as it was read; see `_validate`."""
        self._kvstore.write(key, value)
        self._pending[key] = value


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"a value is bytes, not {type(value).__name__}")


def _parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    for key in keys:
        part.append(key)
        if len(part) == _PART:
            yield part
            part = []
    if part:
        yield part
