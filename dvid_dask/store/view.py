"""A view: one state of one tree, read-only, forever the same.

A state is a manifest, which names the root of nodes, and the first so many records of the journal on top of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from heapq import merge
from typing import Any, TypeAlias, TypeVar

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend, backend
from .errors import translate
from .journal import Overlay, Record
from .keys import SEALED, bounds, prefix_end
from .measure import Amount, measure
from .memo import Memo
from .nodes import Cuts
from .points import FEW, Points, points_of

T = TypeVar("T")
Decode: TypeAlias = "Callable[[bytes, bytes | None], tuple[T, int]]"

#: Values fetched at once by `View.scan` and `View.get_many`.
_BATCH = 4096
#: For so many keys it is worth a look whether there is anything between the first and the last of them.
_MANY = 512
_MISSING: tuple[bytes | None, bytes | None] = (None, None)
#: A staleness bound that any cached node satisfies: the manifest of a pinned state never changes.
_CACHED = 0
#: Where nodes and values lie that are made for reading alone: no file of the pool begins so.
_FOLDED = "folded/"


def open_pinned(
    where: Backend, manifest: bytes, *, generation: int | None = None, prefix: str | None = None
) -> tuple[ts.KvStore, ts.KvStore]:
    """Open the state that a manifest names, whatever becomes of the tree later.

    Returns the store, and the memory that holds its manifest, which lives as long as the store. With a generation
    number, the store refuses writes; with a prefix, writes put data files there.
    """
    context = ts.Context({"memory_key_value_store#pin": {}}, parent=where.context)
    memory_spec = {"driver": "memory", "memory_key_value_store": "memory_key_value_store#pin"}
    memory = ts.KvStore.open(memory_spec, context=context).result()
    memory.write(manifests.NAME, manifest).result()
    spec: dict[str, Any] = {"driver": "ocdbt", "base": where.spec, "manifest": memory_spec}
    if generation is not None:
        spec["version"] = generation
    if prefix is not None:
        spec |= {f"{kind}_data_prefix": prefix for kind in ("value", "btree_node", "version_tree_node")}
    return ts.KvStore.open(spec, context=context).result(), memory


def open_folded(where: Backend, manifest: bytes, record: Record) -> ts.KvStore:
    """Open the state that a manifest and what has been changed since make, read-only. Nothing is written but memory."""
    context = ts.Context({"memory_key_value_store#pin": {}}, parent=where.context)
    memory_spec = {"driver": "memory", "memory_key_value_store": "memory_key_value_store#pin"}
    memory = ts.KvStore.open(memory_spec, context=context).result()
    memory.write(manifests.NAME, manifest).result()
    layers = [{"base": where.spec}, {"base": memory_spec, "prefix": _FOLDED}]
    spec: dict[str, Any] = {"driver": "ocdbt", "base": {"driver": "kvstack", "layers": layers}, "manifest": memory_spec}
    spec |= {f"{kind}_data_prefix": _FOLDED for kind in ("value", "btree_node", "version_tree_node")}
    writer = ts.KvStore.open(spec, context=context).result()
    transaction = ts.Transaction(atomic=True)
    for key, value in record.items():
        writer.with_transaction(transaction).write(key, value)
    transaction.commit_async().result()
    generation = manifests.decode(memory.read(manifests.NAME).result().value).generation
    return ts.KvStore.open({**spec, "version": generation}, context=context).result()


class Rover:
    """A reader that moves along with a tree's newest state, and keeps its cache of nodes on the way.

    tensorstore caches nodes per opened store, so a newly pinned state would begin with a cold cache after each commit.
    A rover is opened once per tree; its manifest lies in memory and is exchanged when the tree moves on. A reader
    notes `epoch` before it reads and believes what it read if `epoch` is the same after.
    """

    def __init__(self, where: Backend, manifest: bytes) -> None:
        self._lock = threading.Lock()
        self.kvstore, self._memory = open_pinned(where, manifest)
        self.epoch = 0
        self.held: bytes | None = manifest

    def move(self, manifest: bytes) -> None:
        """Go to another state of the tree."""
        with self._lock:
            if self.held is manifest:
                return
            self.held = None
            self.epoch += 1
            self._memory.write(manifests.NAME, manifest).result()
            self.kvstore.read(SEALED, staleness_bound=float("inf")).result()
            self.held = manifest


class View:
    """One state of a tree. Gotten from `Tree.view`; reads are consistent with each other however late they come.

    A view pickles as the store's URL and its manifest (a few hundred bytes): whoever unpickles it, elsewhere, reads
    exactly the same state. On an open tree the nodes of a superseded state are kept for gc's grace period (an hour by
    default); on a sealed one for as long as the tree exists.
    """

    def __init__(
        self,
        where: Backend,
        tree: str,
        manifest: bytes,
        rover: Rover | None = None,
        cuts: Cuts | None = None,
        memo: Memo | None = None,
        overlay: Overlay | None = None,
        count: int = 0,
    ) -> None:
        self._where = where
        self._tree = tree
        self._manifest = manifest
        self._rover = rover
        self._points: Points | None = None if where.folder is None else points_of(where)
        self._cuts = cuts or Cuts()
        self._memo = Memo() if memo is None else memo
        self._epoch = self._memo.epoch
        self._overlay = Overlay(manifest) if overlay is None else overlay
        self._count = count
        self._lock = threading.Lock()
        self._own: ts.KvStore | None = None
        self._whole: ts.KvStore | None = None
        self._sealed: tuple[bool, bytes] | None = None
        #: What readers made of this state, by names of their own. Small things: it lives as long as the view.
        self.kept: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[Callable[..., View], tuple[str, str, bytes, Record, bytes]]:
        state = self._where.url, self._tree, self._manifest, self._overlay.items(self._count), self._token
        if self._where.scheme == "memory":
            # the data is in this process; a pickle that never leaves it still finds it
            return _restore_in_process, state
        return _restore, state

    def __repr__(self) -> str:
        return f"<View of tree {self._tree!r} at {self.token[:8]} in {self._where.url}>"

    @property
    def name(self) -> str:
        """Name of the tree."""
        return self._tree

    @property
    def token(self) -> str:
        """Name of this state; views of equal token hold the same."""
        return self._token.hex()

    @property
    def epoch(self) -> int:
        """Counts the states of the tree that this process has seen; of two views of one tree the later has more."""
        return self._epoch

    @property
    def _token(self) -> bytes:
        return self._overlay.token(self._count)

    @property
    def sealed(self) -> bool:
        """Whether the tree was sealed in this state."""
        return self._seal()[0]

    @property
    def kvstore(self) -> ts.KvStore:
        """The state as a read-only tensorstore key-value store, for ``tensorstore.open(spec, kvstore=...)``."""
        return self._folded() if self._count else self._pinned()

    def kvstore_of(self, prefix: bytes) -> ts.KvStore:
        """As `kvstore`, for reads of keys that begin with `prefix`: faster where no small commit has touched those."""
        own = self._own_keys(*bounds(prefix, prefix_end(prefix)))
        return self._folded() if own else self._pinned()

    @property
    def manifest(self) -> manifests.Manifest:
        """The decoded manifest of the nodes, without what the journal says."""
        return manifests.decode(self._manifest)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        held = self._overlay.get(key, self._count) if self._count else None
        if held is not None:
            return held[1]
        few = self._few((key,))
        if few is not None:
            return few[0]
        result = self._read(lambda kvstore: kvstore.read(key, staleness_bound=_CACHED).result(), "reading a key")
        return None if result.state == "missing" else result.value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in their order, None for the missing; much faster than one by one."""
        return [value for value, _ in self.found(keys)]

    def found(self, keys: Sequence[bytes], *, values: bool = True) -> list[tuple[bytes | None, bytes | None]]:
        """Return the values of many keys and, of those that tensorstore read, generations; None of others.

        Without values, there are those of the journal's records alone.
        """
        if not self._count:
            return self._found_below(keys, values)
        held = [self._overlay.get(key, self._count) for key in keys]
        rest = [key for key, own in zip(keys, held, strict=True) if own is None]
        found = iter(self._found_below(rest, values) if rest else ())
        return [next(found) if own is None else (own[1], None) for own in held]

    def decoded(self, kind: str, keys: Sequence[bytes], decode: Decode[T]) -> list[T]:
        """Return what `decode` makes of the values of many keys; it is kept as long as the values stay the same.

        Parameters
        ----------
        kind
            Names what is made: one name for one function.
        keys
            Which keys.
        decode
            Gets a key and its value, None if it is missing; returns what is made of them, which nobody may change
            then, and about how many bytes it takes.
        """
        memo = self._memo
        found = [memo.get(kind, key, self._epoch) for key in keys]
        missing = [i for i, held in enumerate(found) if held is None]
        for i, value in zip(missing, self.get_many([keys[i] for i in missing]), strict=True):
            made, size = decode(keys[i], value)
            memo.put(kind, keys[i], self._epoch, made, size + 200)
            found[i] = (made,)
        return [held[0] for held in found if held is not None]

    def changed_since(self, other: View) -> list[bytes] | None:
        """Return the keys whose values may differ from those in another state, and maybe some more, in no order.

        Known without a look at the store where all commits between both states were this process's, to this tree, or
        are in its journal.
        None: nobody knows; compare the states (`Store.diff`).
        """
        if self._memo is not other._memo or (self._tree, self._where) != (other._tree, other._where):
            return None
        return self._memo.changed_since(min(self._epoch, other._epoch))

    def keys(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[bytes]:
        """Iterate over the keys from `start` to before `stop` in order, in bounded memory."""
        low, high = bounds(start, stop)
        own = self._own_keys(low, high)
        below = self._keys_below(low, high)
        if not own:
            return below
        hidden = set(own)
        there = [key for key in own if self._own_value(key) is not None]
        return merge((key for key in below if key not in hidden), there)

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys from `start` to before `stop` and their values in order, in bounded memory."""
        low, high = bounds(start, stop)
        own = self._own_keys(low, high)
        below = self._scan_below(low, high)
        if not own:
            return below
        hidden = set(own)
        there = [(key, value) for key in own if (value := self._own_value(key)) is not None]
        return merge((item for item in below if item[0] not in hidden), there)

    def measure(self, start: bytes = b"", stop: bytes | None = None) -> Amount:
        """Tell how many keys lie from `start` to before `stop`, and how many bytes they take, in a few reads."""
        low, high = bounds(start, stop)
        keys, size = measure(self._where, self.manifest.root, low, high, self._cuts.interiors)
        own = self._own_keys(low, high)
        for key, result in zip(own, self._results(own, slice(0, 0)) if own else (), strict=True):
            value = self._own_value(key)
            keys += (value is not None) - (result.state != "missing")
            size += len(value or b"")
        return Amount(keys, size)

    # ------------------------------------------------------------------------------------------------------------------

    def _found_below(self, keys: Sequence[bytes], values: bool) -> list[tuple[bytes | None, bytes | None]]:
        few = self._few(keys) if values else None
        if few is not None:
            return [(value, None) for value in few]
        part = None if values else slice(0, 0)
        there = self._there(keys) if len(keys) >= _MANY else None
        if there is None:
            return [_entry(result, values) for result in self._results(keys, part)]
        some = [key for key in keys if key in there]
        found = dict(zip(some, (_entry(result, values) for result in self._results(some, part)), strict=True))
        return [found.get(key, _MISSING) for key in keys]

    def _there(self, keys: Sequence[bytes]) -> set[bytes] | None:
        """The keys in nodes from the first to the last of these; None if there may be about as many, or more."""
        low, high = min(keys), max(keys) + b"\0"
        held = measure(self._where, self.manifest.root, low, high, self._cuts.interiors, exactly=False).keys
        return set(self._keys_below(low, high)) if 2 * held <= len(keys) else None

    def _few(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """Values of few keys in nodes of a local store; None: tensorstore is better at it."""
        points = self._points
        if points is None or len(keys) > FEW or not points.worth_it:
            return None
        self._where.check()
        return points.get_many(self.manifest.root, keys)

    def _results(self, keys: Sequence[bytes], part: slice | None = None) -> list[Any]:
        found: list[Any] = []
        remote = self._where.remote
        for at in range(0, len(keys), _BATCH):
            some = keys[at : at + _BATCH]
            found += self._read(partial(_read_all, keys=some, part=part, batched=remote), "reading keys")
        return found

    def _own_keys(self, low: bytes, high: bytes) -> list[bytes]:
        """Keys of the journal's records in a range, in order."""
        return self._overlay.keys(low, high, self._count) if self._count else []

    def _own_value(self, key: bytes) -> bytes | None:
        held = self._overlay.get(key, self._count)
        return None if held is None else held[1]

    def _keys_below(self, low: bytes, high: bytes) -> Iterator[bytes]:
        for first, last in self._ranges(low, high):
            yield from self._list(first, last)

    def _scan_below(self, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        size = 64  # values may be large: grow from few, so that a reader who stops early has not paid for many
        for first, last in self._ranges(low, high):
            found = self._list(first, last)
            at = 0
            while at < len(found):
                part = found[at : at + size]
                values = [result.value for result in self._results(part)]
                yield from zip(part, values, strict=True)
                at += size
                nbytes = sum(map(len, values))
                size = max(16, min(_BATCH, (16 << 20) * len(part) // (nbytes + 1), size * 4))

    def _list(self, first: bytes, last: bytes) -> list[bytes]:
        span = ts.KvStore.KeyRange(first, last)
        found: list[bytes] = self._read(lambda kvstore: kvstore.list(span).result(), "listing keys")
        found.sort()
        return found

    def _ranges(self, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        if high and low >= high:
            return iter(())
        return self._cuts.ranges(self._where, self._manifest, low, high)

    def _read(self, action: Callable[[ts.KvStore], T], doing: str) -> T:
        self._where.check()
        try:
            rover = self._rover
            if rover is not None:
                epoch = rover.epoch
                if rover.held is self._manifest:
                    result = action(rover.kvstore)
                    if rover.epoch == epoch:
                        return result
            return action(self._pinned())
        except (ValueError, OSError) as error:
            raise translate(error, f"{doing} of tree {self._tree!r}", self._where.url) from error

    def _pinned(self) -> ts.KvStore:
        own = self._own
        if own is None:
            with self._lock:
                if self._own is None:
                    self._where.check()
                    self._own, _ = open_pinned(self._where, self._manifest, generation=self.manifest.generation)
                own = self._own
        return own

    def _folded(self) -> ts.KvStore:
        """As `_pinned`, with what the journal's records say put into nodes, which lie in memory."""
        with self._lock:
            if self._whole is None:
                self._where.check()
                try:
                    self._whole = open_folded(self._where, self._manifest, self._overlay.items(self._count))
                except (ValueError, OSError) as error:
                    raise translate(error, f"reading tree {self._tree!r}", self._where.url) from error
            return self._whole

    def _seal(self) -> tuple[bool, bytes]:
        if self._sealed is None:
            result = self._read(lambda kvstore: kvstore.read(SEALED, staleness_bound=_CACHED).result(), "reading")
            # its value is never in the journal: what is forced onto a sealed tree is written to nodes
            sealed = result.state == "value" and result.value == self._tree.encode()
            self._sealed = sealed, result.stamp.generation
        return self._sealed


def _read_all(kvstore: ts.KvStore, keys: Sequence[bytes], part: slice | None, batched: bool) -> list[Any]:
    read = kvstore.read
    if batched:
        with ts.Batch() as batch:
            futures = [read(key, staleness_bound=_CACHED, byte_range=part, batch=batch) for key in keys]
    else:
        futures = [read(key, staleness_bound=_CACHED, byte_range=part) for key in keys]
    return [future.result() for future in futures]


def _entry(result: Any, values: bool) -> tuple[bytes | None, bytes | None]:
    return (None if not values or result.state == "missing" else result.value), result.stamp.generation


def _restore(url: str, tree: str, manifest: bytes, record: Record, token: bytes) -> View:
    overlay = Overlay(manifest, token=token)
    if not record:
        return View(backend(url), tree, manifest, overlay=overlay)
    overlay.add(record, 0)
    overlay.whole = token
    return View(backend(url), tree, manifest, overlay=overlay, count=1)


def _restore_in_process(url: str, tree: str, manifest: bytes, record: Record, token: bytes) -> View:
    from .store import Store

    Store.open(url)  # says so if this is another process, where there is nothing
    return _restore(url, tree, manifest, record, token)
