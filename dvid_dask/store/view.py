"""A view: one state of one tree, read-only, forever the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend, backend
from .errors import translate
from .keys import SEALED, bounds
from .measure import Amount, measure
from .memo import Memo
from .nodes import Cuts

T = TypeVar("T")
Decode: TypeAlias = "Callable[[bytes, bytes | None], tuple[T, int]]"

#: Values fetched at once by `View.scan` and `View.get_many`.
_BATCH = 4096
#: A staleness bound that any cached node satisfies: the manifest of a pinned state never changes.
_CACHED = 0


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
    ) -> None:
        self._where = where
        self._tree = tree
        self._manifest = manifest
        self._rover = rover
        self._cuts = cuts or Cuts()
        self._memo = Memo() if memo is None else memo
        self._epoch = self._memo.epoch
        self._lock = threading.Lock()
        self._own: ts.KvStore | None = None
        self._sealed: tuple[bool, bytes] | None = None

    def __reduce__(self) -> tuple[Callable[..., View], tuple[str, str, bytes]]:
        if self._where.scheme == "memory":
            # the data is in this process; a pickle that never leaves it still finds it
            return _restore_in_process, (self._where.url, self._tree, self._manifest)
        return _restore, (self._where.url, self._tree, self._manifest)

    def __repr__(self) -> str:
        return f"<View of tree {self._tree!r} at {self.token[:8]} in {self._where.url}>"

    @property
    def name(self) -> str:
        """Name of the tree."""
        return self._tree

    @property
    def token(self) -> str:
        """Name of this state; views of equal token hold the same."""
        return blake2b(self._manifest, digest_size=16).hexdigest()

    @property
    def sealed(self) -> bool:
        """Whether the tree was sealed in this state."""
        return self._seal()[0]

    @property
    def kvstore(self) -> ts.KvStore:
        """The state as a read-only tensorstore key-value store, for ``tensorstore.open(spec, kvstore=...)``."""
        return self._pinned()

    @property
    def manifest(self) -> manifests.Manifest:
        """The decoded manifest."""
        return manifests.decode(self._manifest)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        result = self._read(lambda kvstore: kvstore.read(key, staleness_bound=_CACHED).result(), "reading a key")
        return None if result.state == "missing" else result.value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in their order, None for the missing; much faster than one by one."""
        return [None if r.state == "missing" else r.value for r in self._results(keys)]

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

        Known without a look at the store where all commits between both states were this process's, to this tree.
        None: nobody knows; compare the states (`Store.diff`).
        """
        if self._memo is not other._memo or (self._tree, self._where) != (other._tree, other._where):
            return None
        return self._memo.changed_since(min(self._epoch, other._epoch))

    def keys(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[bytes]:
        """Iterate over the keys from `start` to before `stop` in order, in bounded memory."""
        low, high = bounds(start, stop)
        for first, last in self._ranges(low, high):
            yield from self._list(first, last)

    def scan(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys from `start` to before `stop` and their values in order, in bounded memory."""
        for key, result in self.scan_results(start, stop):
            yield key, result.value

    def scan_results(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, Any]]:
        """Scan, with tensorstore's results, which know the generation of each value."""
        low, high = bounds(start, stop)
        size = 64  # values may be large: grow from few, so that a reader who stops early has not paid for many
        for first, last in self._ranges(low, high):
            found = self._list(first, last)
            at = 0
            while at < len(found):
                part = found[at : at + size]
                results = self._results(part)
                yield from zip(part, results, strict=True)
                at += size
                nbytes = sum(len(result.value) for result in results)
                size = max(16, min(_BATCH, (16 << 20) * len(part) // (nbytes + 1), size * 4))

    def measure(self, start: bytes = b"", stop: bytes | None = None) -> Amount:
        """Tell how many keys lie from `start` to before `stop`, and how many bytes they take, in a few reads."""
        low, high = bounds(start, stop)
        return measure(self._where, self.manifest.root, low, high, self._cuts.interiors)

    def results(self, keys: Iterable[bytes], *, values: bool = True) -> list[Any]:
        """Read many keys as tensorstore's results; without values, their generations alone."""
        return self._results(list(keys), slice(None) if values else slice(0, 0))

    # ------------------------------------------------------------------------------------------------------------------

    def _results(self, keys: Sequence[bytes], part: slice | None = None) -> list[Any]:
        found: list[Any] = []
        remote = self._where.remote
        for at in range(0, len(keys), _BATCH):
            some = keys[at : at + _BATCH]
            found += self._read(partial(_read_all, keys=some, part=part, batched=remote), "reading keys")
        return found

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

    def _seal(self) -> tuple[bool, bytes]:
        if self._sealed is None:
            result = self._read(lambda kvstore: kvstore.read(SEALED, staleness_bound=_CACHED).result(), "reading")
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


def _restore(url: str, tree: str, manifest: bytes) -> View:
    return View(backend(url), tree, manifest)


def _restore_in_process(url: str, tree: str, manifest: bytes) -> View:
    from .store import Store

    Store.open(url)  # says so if this is another process, where there is nothing
    return View(backend(url), tree, manifest)
