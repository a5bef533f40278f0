"""A tree: named, versioned by generations, updated atomically."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from . import manifest as manifests
from .backend import Backend
from .commit import Writer, exchange, read_manifest, turn
from .errors import BadStore, Conflict, Sealed, StoreError, TreeNotFound, translate
from .memo import Memo
from .nodes import Cuts
from .transaction import Transaction
from .view import Rover, View

if TYPE_CHECKING:
    from .store import Store

T = TypeVar("T")

#: Seconds for which an update retries while other writers win.
PATIENCE = 60.0
#: A commit in a bucket that took longer, in seconds, looks whether it was overtaken by very many.
_SLOW = 5.0


class TreeState:
    """What this process knows of a tree, shared by all handles to it."""

    def __init__(self, where: Backend, name: str) -> None:
        self.where = where
        self.name = name
        self._mutex = threading.Lock()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._rover: Rover | None = None
        self._cuts = Cuts()
        self._memo = Memo()
        self._view: View | None = None
        self._checked = float("-inf")
        self._commits = 0

    def turn(self) -> AbstractContextManager[None]:
        """Be the one committer to the tree."""
        return turn(self.where, self.name, self._mutex)

    def writer(self) -> Writer:
        """Return what all transactions of this process without arrays are written by."""
        with self._lock:
            if self._writer is None:
                self._writer = Writer(self.where, self._view._manifest if self._view else b"")
            return self._writer

    def adopt(self, manifest: bytes, before: bytes | None = None, changes: list[bytes] | None = None) -> None:
        """Note that this process has changed the tree, to this manifest; from the one before, in these keys alone."""
        with self._lock:
            self._commits += 1
            self._checked = time.monotonic()
            known = self._view is not None and self._view._manifest == before
            self._move(manifest, changes if known else None)

    def committed(self) -> None:
        """Note that this process has changed the tree."""
        with self._lock:
            self._commits += 1
            self._checked = float("-inf")

    def view(self, max_age: float) -> View:
        """Return a state not older than `max_age` seconds."""
        view = self._view
        if view is not None and time.monotonic() - self._checked <= max_age:
            return view
        while True:
            with self._lock:
                commits = self._commits
            now = time.monotonic()
            try:
                data = read_manifest(self.where, self.name)
            except BadStore as error:
                raise BadStore(f"tree {self.name!r}: {error}") from error
            if data is None:
                raise TreeNotFound(f"{self.where.url} has no tree {self.name!r}")
            with self._lock:
                if commits != self._commits:
                    continue
                if self._view is None or self._view._manifest != data:
                    self._move(data)
                self._checked = max(self._checked, now)
                view = self._view
            if view is not None:
                return view

    def state(self, manifest: bytes) -> View:
        """Return a view of a manifest that has just been read."""
        with self._lock:
            if self._view is None or self._view._manifest != manifest:
                self._move(manifest)
            view = self._view
        return view or View(self.where, self.name, manifest)

    def _move(self, data: bytes, changes: list[bytes] | None = None) -> None:
        manifests.check(data, f"{self.where.url}: tree {self.name!r}")
        try:
            if self._rover is None:
                self._rover = Rover(self.where, data)
            else:
                self._rover.move(data)
        except ValueError as error:
            raise translate(error, f"opening tree {self.name!r}", self.where.url) from error
        self._memo.advance(changes)
        self._view = View(self.where, self.name, data, self._rover, self._cuts, self._memo)


class Tree:
    """A named tree of keys and values. Gotten from `Store.tree`.

    Examples
    --------
    >>> from dvid_dask.store import Store
    >>> tree = Store.create("memory://tree").create_tree("a")
    >>> tree.update(lambda tx: tx.put(b"key", b"value"))
    >>> tree.view().get(b"key")
    b'value'
    """

    def __init__(self, store: Store, state: TreeState) -> None:
        self._store = store
        self._state = state

    def __repr__(self) -> str:
        return f"<Tree {self.name!r} of {self.store.url}>"

    @property
    def name(self) -> str:
        """The tree's name."""
        return self._state.name

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._store

    @property
    def sealed(self) -> bool:
        """Whether the tree is sealed: read, never written."""
        known = self._state._view
        return (known is not None and known.sealed) or self.view().sealed

    def view(self, max_age: float = 0.1) -> View:
        """Return a state of the tree, pinned.

        Parameters
        ----------
        max_age
            Seconds for which commits of other processes may go unnoticed; 0 looks now. This process's own commits are
            always seen. A sealed tree is never looked at again, whatever the age. `Store.max_age` is the most.

        Raises
        ------
        TreeNotFound
            The tree was dropped.
        """
        state = self._state
        state.where.check()
        return state.view(self._store._age(max_age))

    def update(self, fn: Callable[[Transaction], T], *, force: bool = False) -> T:
        """Run `fn` on a transaction and commit what it wrote, all or nothing; return what it returned.

        If another writer changed something that `fn` had read, nothing is written and `fn` runs again on the newer
        state, after a random pause that grows; so it must have no effect but on the transaction (see
        `Transaction.on_commit`). What `fn` itself raises is raised at once, and nothing is written. When `update`
        returns, the commit is on disk.

        Parameters
        ----------
        fn
            What to do.
        force
            Write to the tree even if it is sealed.

        Raises
        ------
        Sealed
            The tree is sealed.
        ReadOnly
            The store was opened read-only, or its files refuse it.
        Conflict
            Other writers kept winning for a minute.
        StoreFull
            No space.
        """
        state = self._state
        self._store._writable()
        deadline = time.monotonic() + PATIENCE
        for attempt in count(1):
            base = state.view(0)
            if base.sealed and not force:
                raise Sealed(f"{state.where.url}: tree {self.name!r} is sealed; branch it and write to the branch")
            transaction = Transaction(base)
            result = fn(transaction)
            if not transaction._dirty or self._commit(transaction, base, deadline, force):
                for callback in transaction._callbacks:
                    callback()
                return result
            _pause(attempt, deadline, state)
        raise StoreError("an endless count has ended")

    def _commit(self, transaction: Transaction, base: View, deadline: float, force: bool) -> bool:
        """Commit; False says that somebody else changed what was read."""
        state = self._state
        where = state.where
        try:
            for attempt in count(1):
                writer, prepared = transaction._prepare(state.writer)
                with state.turn():
                    begin = time.monotonic()
                    manifest = read_manifest(where, self.name)
                    if manifest is None:
                        raise TreeNotFound(f"{where.url} has no tree {self.name!r}: it was dropped")
                    now = base
                    if manifest != base._manifest:
                        now = state.state(manifest)
                        if (now.sealed and not force) or not transaction._holds(now):
                            prepared.abort()
                            return False
                    transaction._finish_lists((writer, prepared), now)
                    new = writer.land(prepared, manifest)
                    self._store.keep_states(transaction, manifest, new)
                    if exchange(where, self.name, manifest, new, slow=time.monotonic() - begin > _SLOW):
                        state.adopt(new, manifest, transaction._changes)
                        return True
                # another process was faster, as happens in buckets; what was read may be as it was all the same
                if transaction._arrays is not None:
                    return False
                _pause(attempt, deadline, state)
        except (ValueError, OSError) as error:
            raise translate(error, f"committing to tree {self.name!r}", where.url) from error
        return False


def _pause(attempt: int, deadline: float, state: TreeState) -> None:
    pause = random.uniform(0, min(0.5, 0.001 * 2**attempt)) * (20 if state.where.remote else 1)
    if time.monotonic() + pause > deadline:
        raise Conflict(
            f"{state.where.url}: tree {state.name!r} was changed by others during each of {attempt} attempts in "
            f"{PATIENCE:.0f} s; let fewer writers change the same keys, or make transactions smaller"
        )
    time.sleep(pause)
