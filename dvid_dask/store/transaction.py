"""A transaction: reads of one state, writes that all happen or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, TypeVar, cast

import tensorstore

from .commit import Writer
from .diff import diff
from .journal import RECORD_BYTES, RECORD_KEYS, Record
from .keys import SEALED, bounds, check
from .view import Decode, View

T = TypeVar("T")

#: Small values that a transaction keeps once read: bytes of each at most, and how many.
_SMALL, _HELD = 64 << 10, 16 << 20  # bytes of one value, and of all, that are held
#: Of what was made of values, the keys that are kept.
_MADE = 256


class NeedsNodes(BaseException):
    """A transaction wants to see the tree through tensorstore: the journal has to be put into nodes first."""


class Transaction:
    """Reads and writes of one attempt at an update. Gotten by the function that is passed to `Tree.update`.

    All reads see the one state from which the attempt began, with this transaction's own writes on top. What was read
    is checked when the transaction commits, single keys and ranges alike: if somebody changed it meanwhile, nothing is
    written and the function runs again.

    Arrays written through `kvstore` are part of the commit. They see the state from which the attempt began and their
    own writes, not `put`; and reads here don't see theirs. What is read through them is not checked at the commit, so
    read a key here that their writers change. Two transactions that write parts of one chunk are both kept.
    """

    def __init__(self, base: View) -> None:
        self._base = base
        self._pending: dict[bytes, bytes | None] = {}  # None: deleted
        self._holes: list[tuple[bytes, bytes]] = []  # ranges deleted before what is pending; end b"" for none
        self._read: dict[bytes, bytes | None] = {}  # key -> generation; None: it lies in the journal
        self._listed: list[list[bytes]] = []  # ranges [from, to before], end b"" for none
        self._held: dict[bytes, bytes | None] = {}  # small values read, since callers come back to them
        self._held_bytes = 0
        self._made: dict[bytes, dict[str, Any]] = {}  # what was made of values, by key and kind
        self._callbacks: list[Callable[[], object]] = []
        self._landed: list[bytes] = []  # keys that lists have got
        self._appended: dict[bytes, list[bytes]] = {}  # root of a list -> values for its end
        self._arrays: tuple[Writer, tensorstore.Transaction] | None = None
        self._kept: tuple[str | None, str | None] = None, None
        self._nodes = False

    @property
    def base(self) -> View:
        """The state from which the attempt began. What is read there is not checked at the commit."""
        return self._base

    @property
    def kvstore(self) -> tensorstore.KvStore:
        """The tree as a key-value store inside this transaction: arrays opened on it are written with this commit."""
        writer, transaction = self._shared()
        return writer.kvstore.with_transaction(transaction)

    def kvstore_of(self, prefix: bytes) -> tensorstore.KvStore:
        """As `kvstore`; for callers who have a view or a transaction."""
        return self.kvstore

    @property
    def ts(self) -> tensorstore.Transaction:
        """Tensorstore's transaction."""
        return self._shared()[1]

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        return self.get_many((key,))[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in their order, None for those that are missing."""
        if not self._pending and not self._holes:
            return self._get_base(keys)
        others = [key for key in keys if not self._is_own(key)]
        found = dict(zip(others, self._get_base(others), strict=True))
        return [found[key] if key in found else self._pending.get(key) for key in keys]

    def decoded(self, kind: str, keys: Sequence[bytes], decode: Decode[T]) -> list[T]:
        """Return what `decode` makes of the values of many keys, as `View.decoded`; kept within this transaction."""
        return [self._make(kind, key, value, decode) for key, value in zip(keys, self.get_many(keys), strict=True)]

    def _make(self, kind: str, key: bytes, value: bytes | None, decode: Decode[T]) -> T:
        held = self._made.get(key)
        if held is not None and kind in held and held[""] is value:
            return cast("T", held[kind])
        made, _ = decode(key, value)
        if value is None or len(value) <= _SMALL:
            if held is None or held[""] is not value:
                if len(self._made) >= _MADE:
                    self._made.clear()
                self._made[key] = held = {"": value}  # of this very value
            held[kind] = made
        return made

    def keys(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[bytes]:
        """Iterate over the keys from `start` to before `stop` in order, without writes made after the first step."""
        own = [key for key in self._own(start, stop) if self._pending[key] is not None]
        noted = self._noted(((key, key) for key in self._base.keys(start, stop)), start, stop)
        return merge(noted, own)

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys from `start` to before `stop` and their values in order."""
        own = [(key, value) for key in self._own(start, stop) if (value := self._pending[key]) is not None]
        noted = self._noted(((item[0], item) for item in self._base.scan(start, stop)), start, stop)
        return merge(noted, own)

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self.put_many(((key, value),))

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set the values of many keys; an iterable of pairs, or a mapping's ``items()``."""
        pending = self._pending
        for key, value in items:
            if type(key) is not bytes or not key or key[0] == 0:
                check(key)
            if type(value) is not bytes:
                value = _bytes(value)
            pending[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a key; none there is fine."""
        check(key)
        self._pending[key] = None

    def delete_range(self, start: bytes, stop: bytes | None) -> None:
        """Delete the keys from `start` to before `stop`; a `stop` of None or ``b""`` means to the end.

        What arrays have written through `kvstore` before is not deleted: delete first, then write the array.
        """
        low, high = bounds(start, stop)
        if high and low >= high:
            return
        for key in self._own(low, high):
            del self._pending[key]
        if self._arrays is None:
            self._holes.append((low, high))
        else:  # tensorstore crashes on a range that covers writes
            self._pending.update(dict.fromkeys(self._base.keys(low, high)))

    def append(self, root: bytes, value: bytes) -> None:
        """Add a value to the end of a list, which is decided when the commit lands.

        `root` holds the number of values in decimal, ``root/00000000`` and so on the values. Appending reads nothing,
        so transactions that append to one list don't make each other run again; the list has the order of the
        commits. Reads of this transaction don't see what it appends.
        """
        check(root)
        self._appended.setdefault(root, []).append(_bytes(value))

    @property
    def changed(self) -> set[bytes]:
        """Keys set or deleted one by one so far."""
        return set(self._pending)

    @property
    def touched(self) -> list[bytes]:
        """Keys read, set or deleted one by one so far, in order."""
        return sorted({*self._read, *self._pending})

    def keep_states(self, before: str | None, after: str | None) -> None:
        """Make trees of these names of the states right before and right after this commit, where there is a name.

        They are there before the commit is, so that whoever sees it finds them; a commit that fails may leave them.
        What is there of these names is replaced. Each costs a manifest, and keeps what it reaches from `Store.gc`.
        """
        self._kept = before, after

    def to_nodes(self) -> None:
        """Write this commit into the tree's nodes, however small: its values are read through `View.kvstore`.

        In a local store small commits lie in a journal else, which `View.kvstore` has to put into nodes first.
        """
        self._nodes = True

    def on_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` after this attempt has been committed; attempts that fail call nothing."""
        self._callbacks.append(callback)

    # ---- for Tree.update ---------------------------------------------------------------------------------------------

    @property
    def _dirty(self) -> bool:
        return bool(self._pending or self._holes or self._arrays or self._appended)

    @property
    def _changes(self) -> list[bytes] | None:
        """The keys that the commit has changed; None if they can't be told one by one."""
        return None if self._holes or self._arrays else [*self._pending, *self._landed]

    def _seal(self, name: str) -> None:
        self._pending[SEALED] = name.encode()

    def _rewrite(self, keys: Sequence[bytes]) -> int:
        """Write the values of keys as they are, which puts them into a new data file; return their size."""
        found = [(key, value) for key, value in zip(keys, self._get_base(keys), strict=True) if value is not None]
        self._pending.update(found)
        return sum(len(value) for _, value in found)

    @property
    def _small(self) -> bool:
        """Whether this may become a record of the journal."""
        return (
            self._arrays is None
            and not self._nodes
            and self._kept == (None, None)
            and len(self._pending) <= RECORD_KEYS
            and sum(len(key) + len(value or b"") for key, value in self._pending.items()) <= RECORD_BYTES
            and sum(len(value) for values in self._appended.values() for value in values) <= RECORD_BYTES
        )

    def _record(self, now: View) -> Record | None:
        """All that the commit changes in the state that it lands on; None where that is too much for a record."""
        record: Record = {}
        for low, high in _union(self._holes):
            record.update(dict.fromkeys(islice(now.keys(low, high), RECORD_KEYS + 1)))
            if len(record) > RECORD_KEYS:
                return None
        record.update(self._pending)
        record.update(self._lists(now))
        return record

    def _prepare(self, shared: Callable[[], Writer]) -> tuple[Writer, tensorstore.Transaction]:
        """Hand the writes to tensorstore. May be called again after a commit that failed, unless there are arrays."""
        writer, transaction = self._arrays or (shared(), tensorstore.Transaction(atomic=True))
        kvstore = writer.kvstore.with_transaction(transaction)
        if self._arrays is None:  # else done before the arrays' writes
            self._delete_holes(kvstore)
        write = kvstore.write
        for key, value in self._pending.items():
            write(key, value)
        return writer, transaction

    def _carry(self, prepared: tuple[Writer, tensorstore.Transaction], now: View) -> None:
        """Write what the journal says of keys that this transaction leaves as they are."""
        write = prepared[0].kvstore.with_transaction(prepared[1]).write
        for key, value in now._overlay.items(now._count).items():
            if not self._is_own(key) and key not in self._appended:
                write(key, value)

    def _finish_lists(self, prepared: tuple[Writer, tensorstore.Transaction], now: View) -> None:
        """Write what was appended behind what the lists hold in the state that the commit lands on."""
        write = prepared[0].kvstore.with_transaction(prepared[1]).write
        for key, value in self._lists(now).items():
            write(key, value)

    def _lists(self, now: View) -> dict[bytes, bytes]:
        """The keys and values that lists get in the state that the commit lands on."""
        found: dict[bytes, bytes] = {}
        roots = list(self._appended)
        for root, held in zip(roots, now.get_many(roots) if roots else (), strict=True):
            first = int(held) if held is not None else 0
            values = self._appended[root]
            found.update((root + b"/%08x" % n, value) for n, value in enumerate(values, first))
            found[root] = b"%d" % (first + len(values))
        self._landed += found
        return found

    def _holds(self, now: View) -> bool:
        """Tell whether all that was read is the same in a newer state."""
        base = self._base
        if now._overlay is base._overlay:
            changed = now._overlay.changed(base._count, now._count)
            return changed.isdisjoint(self._read) and not any(
                low <= key and (not high or key < high) for low, high in self._listed for key in changed
            )
        keys = list(self._read)
        doubtful = []
        for key, (_, generation) in zip(keys, now.found(keys, values=False), strict=True):
            if generation is None or self._read[key] is None:
                doubtful.append(key)
            elif generation != self._read[key]:
                return False
        if doubtful and base.get_many(doubtful) != now.get_many(doubtful):
            return False
        return not any(True for low, high in self._listed for _ in diff(base, now, low, high))

    # ------------------------------------------------------------------------------------------------------------------

    def _shared(self) -> tuple[Writer, tensorstore.Transaction]:
        if self._arrays is None:
            if self._base._count:
                raise NeedsNodes  # arrays see nodes alone
            self._arrays = Writer(self._base._where, self._base._manifest), tensorstore.Transaction(atomic=True)
            self._delete_holes(self._arrays[0].kvstore.with_transaction(self._arrays[1]))
        return self._arrays

    def _delete_holes(self, kvstore: tensorstore.KvStore) -> None:
        for low, high in _union(self._holes):
            kvstore.delete_range(tensorstore.KvStore.KeyRange(low, high)).result()

    def _is_own(self, key: bytes) -> bool:
        return key in self._pending or any(low <= key and (not high or key < high) for low, high in self._holes)

    def _own(self, start: bytes, stop: bytes | None) -> list[bytes]:
        low, high = bounds(start, stop)
        return sorted(key for key in self._pending if key >= low and (not high or key < high))

    def _get_base(self, keys: Sequence[bytes]) -> list[bytes | None]:
        held = self._held
        missing = [key for key in keys if key not in held] if held else keys
        found: dict[bytes, bytes | None] = {}
        for key, (value, generation) in zip(missing, self._base.found(missing) if missing else (), strict=True):
            self._read[key] = generation
            size = len(key) + 200 + (0 if value is None else len(value))
            if size <= _SMALL and self._held_bytes + size <= _HELD:
                held[key] = value
                self._held_bytes += size
            else:
                found[key] = value
        return [found[key] if key in found else held[key] for key in keys]

    def _noted(self, items: Iterable[tuple[bytes, Any]], start: bytes, stop: bytes | None) -> Iterator[Any]:
        """Note how far a listing of the base has been read, and leave out what this transaction has changed."""
        low, high = bounds(start, stop)
        if high and low >= high:
            return
        listed = [low, low + b"\0"]
        self._listed.append(listed)
        for key, item in items:
            listed[1] = key + b"\0"
            if not self._is_own(key):
                yield item
        listed[1] = high


def _union(ranges: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over the parts of the union of ranges, in order."""
    part: tuple[bytes, bytes] | None = None
    for low, high in sorted(ranges):
        if part is None:
            part = low, high
        elif not part[1] or low <= part[1]:
            part = part[0], max(part[1], high) if part[1] and high else b""
        else:
            yield part
            part = low, high
    if part is not None:
        yield part


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"a value is bytes, not {type(value).__name__}")
