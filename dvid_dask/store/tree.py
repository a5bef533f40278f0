"""A tree: named, versioned by generations, updated atomically."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend
from .commit import REFS, Writer, exchange, read_manifest, turn
from .errors import BadStore, Conflict, Sealed, StoreError, TreeNotFound, translate
from .folding import fold_behind
from .journal import Journal, Overlay, Record
from .memo import Memo
from .nodes import Cuts
from .transaction import NeedsNodes, Transaction
from .view import Rover, View

if TYPE_CHECKING:
    from .store import Store

T = TypeVar("T")

#: Seconds for which an update retries while other writers win.
PATIENCE = 60.0
#: A journal that stays ripe is put into nodes once in so many records.
_AGAIN = 64
#: A commit in a bucket that took longer, in seconds, looks whether it was overtaken by very many.
_SLOW = 5.0


class TreeState:
    """What this process knows of a tree, shared by all handles to it."""

    def __init__(self, where: Backend, name: str) -> None:
        self.where = where
        self.name = name
        self._mutex = threading.Lock()
        #: held by the thread that puts the journal into nodes
        self.folding = threading.Lock()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._rover: Rover | None = None
        self._cuts = Cuts()
        self._memo = Memo()
        self._view: View | None = None
        self._checked = float("-inf")
        self._commits = 0
        #: a record is on its way to the disk
        self._appending = False
        #: the newest state known was made by others, who may not have made it durable yet
        self._unsure = False
        self._overlay: Overlay | None = None
        self._journal = None if where.folder is None else Journal(where.folder / REFS / name, where.url, name)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Be the one committer to the tree."""
        self.where.check()  # first: in a forked child the mutex may be another thread's for ever
        with turn(self.where, self.name, self._mutex):
            try:
                yield
            except BaseException:
                with self._lock:  # the tree may have been changed all the same: look before the next view
                    self._commits += 1
                    self._checked = float("-inf")
                raise

    @property
    def journaled(self) -> bool:
        """Whether small commits are records of a journal."""
        return self._journal is not None

    @staticmethod
    def same(one: View, other: View) -> bool:
        """Whether two views of the tree are of one state."""
        return one._count == other._count and one._overlay is other._overlay

    def writer(self) -> Writer:
        """Return what all transactions of this process without arrays are written by."""
        with self._lock:
            if self._writer is None or self._writer.broken:
                self._writer = Writer(self.where, self._view._manifest if self._view else b"")
            return self._writer

    def adopt(self, manifest: bytes, before: View, changes: Iterable[bytes] | None = None) -> None:
        """Note that this process has changed the tree, to this manifest; from a state, in these keys alone.

        Without keys, nobody knows in which.
        """
        overlay = self._load(manifest)
        with self._lock:
            self._commits += 1
            self._checked = time.monotonic()
            if not self._is(before):
                # Another thread has seen it already, or in a bucket one that follows: nobody goes back to this one.
                self._checked = float("-inf")
                return
            self._move(overlay, changes)
            self._unsure = False

    def since(self, moment: float) -> View:
        """Return a state that was the newest at a moment of the monotonic clock, or later."""
        view = self._view
        return view if view is not None and self._checked >= moment else self.newest()

    def newest(self) -> View:
        """Look at the tree, and return its newest state."""
        self.where.check()
        while True:
            now = time.monotonic()
            with self._lock:
                commits = self._commits
                overlay, view = self._overlay, self._view
                known = (0, 0, 0, b"") if overlay is None else overlay.known
                if self._appending and view is not None:
                    # nobody else commits now, and this process's own record may yet fail
                    self._checked = max(self._checked, now)
                    return view
            # The journal first: if the manifest is the same after, it was the same then, and nobody used the space of
            # records that were on top of it for others. Mostly the journal says itself that it is.
            found: tuple[list[tuple[Record, int, bytes]], bool] | None = None if overlay is None else ([], False)
            if self._journal is not None and overlay is not None:
                found = self._journal.next(overlay, known)
            data = overlay.manifest if overlay is not None and found is not None and found[1] else self._manifest()
            if overlay is not None and found is not None and data == overlay.manifest:
                records = found[0]
                with self._lock:
                    if commits != self._commits or self._appending or self._overlay is not overlay:
                        continue  # another thread was faster
                    if overlay.count != known[0]:
                        continue
                    self._checked = max(self._checked, now)
                    if view is not None and not records:
                        return view
                    self._unsure = True
                    for record, after, head in records:
                        self._take(overlay, record, after, head)
                    view = self._view
            else:
                same = overlay is not None and overlay.manifest == data
                fresh = self._load(overlay.manifest if overlay is not None and same else data)
                if self._manifest() != data:
                    continue
                with self._lock:
                    if commits != self._commits or self._appending or self._overlay is not overlay:
                        continue
                    # a journal where there was none; or what was in the journal is in nodes now, and nothing else
                    alike = same and overlay is not None and not overlay.journal
                    alike = alike or (self._view is not None and self._view._token == fresh.token(0))
                    changes = fresh.changed(0, fresh.count) if alike else None
                    self._unsure = True
                    self._move(fresh, changes)
                    self._checked = max(self._checked, now)
                    view = self._view
            if view is not None:
                return view

    def record(self, now: View, record: Record) -> bool:
        """Commit a record on top of the newest state, if the journal has room. The caller has the turn."""
        overlay = now._overlay
        if self._journal is None or overlay.full:
            return False
        if not overlay.journal:
            self._journal.make()
            now = self.newest()
            overlay = now._overlay
        was_ripe = overlay.ripe
        self._appending = True
        try:
            end, head = self._journal.append(overlay, record)
            with self._lock:
                self._checked = time.monotonic()
                if self._overlay is overlay and overlay.count == now._count:
                    self._take(overlay, record, end, head)
                self._unsure = False
        finally:
            # Whoever read the journal meanwhile reads it again. In this order, and without the lock, for which an
            # interrupt would find it waiting: nobody would look at the tree any more.
            self._commits += 1
            self._appending = False
        # once; and again now and then, if whoever did it was killed or kept from it
        if overlay.ripe and (not was_ripe or overlay.count % _AGAIN == 0):
            fold_behind(self)
        return True

    def settle(self) -> None:
        """Wait until the newest state that was seen is durable; see `Tree.settle`."""
        if self._journal is None or not self._unsure:
            return
        with self.turn():  # who made it is done, or was killed
            self._journal.sync()
            self._unsure = False

    def fold(self, now: View) -> View:
        """Put what the journal says into nodes, and return that state. The caller has the turn."""
        if not now._count or self._journal is None:
            return now
        transaction = ts.Transaction(atomic=True)
        writer = self.writer()
        write = writer.kvstore.with_transaction(transaction).write
        for key, value in now._overlay.items(now._count).items():
            write(key, value)
        self.replace(now, writer.end_journal(now, writer.land(transaction, now._manifest)))
        return self.newest() if self._view is None else self._view

    def replace(self, now: View, manifest: bytes) -> None:
        """Put a manifest that says all that a state does in the place of the tree's. The caller has the turn."""
        if self._journal is not None:
            self._journal.keep_token(now._overlay, manifest)
        if not exchange(self.where, self.name, now._manifest, manifest):
            raise StoreError(f"{self.where.url}: tree {self.name!r} was changed by somebody who doesn't hold its lock")
        self.adopt(manifest, now, [])

    def _manifest(self) -> bytes:
        try:
            data = read_manifest(self.where, self.name)
        except BadStore as error:
            raise BadStore(f"tree {self.name!r}: {error}") from error
        if data is None:
            raise TreeNotFound(f"{self.where.url} has no tree {self.name!r}")
        return data

    def _load(self, manifest: bytes) -> Overlay:
        return Overlay(manifest) if self._journal is None else self._journal.load(manifest)

    def _is(self, view: View) -> bool:
        return self._view is not None and self.same(self._view, view)

    def _take(self, overlay: Overlay, record: Record, end: int, head: bytes) -> None:
        """One more record."""
        before = self._view
        try:
            overlay.add(record, end, head)
            self._memo.advance(record)
            self._view = View(
                self.where, self.name, overlay.manifest, self._rover, self._cuts, self._memo, overlay, overlay.count
            )
        except BaseException:
            self._forget()
            raise
        if before is not None and before._overlay is overlay:
            self._view._sealed = before._sealed

    def _move(self, overlay: Overlay, changes: Iterable[bytes] | None = None) -> None:
        data = overlay.manifest
        manifests.check(data, f"{self.where.url}: tree {self.name!r}")
        try:
            if self._rover is None:
                self._rover = Rover(self.where, data)
            else:
                self._rover.move(data)
        except ValueError as error:
            raise translate(error, f"opening tree {self.name!r}", self.where.url) from error
        try:
            self._memo.advance(changes)
            self._overlay = overlay
            self._view = View(self.where, self.name, data, self._rover, self._cuts, self._memo, overlay, overlay.count)
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        """Look at the disk again: an interrupt, or lack of memory, has left what is known here half changed."""
        self._overlay = self._view = None
        self._memo.advance(None)


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
        return state.since(self._store._moment(max_age))

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
            base = state.newest()
            if base.sealed and not force:
                raise Sealed(f"{state.where.url}: tree {self.name!r} is sealed; branch it and write to the branch")
            transaction = Transaction(base)
            try:
                result = fn(transaction)
            except NeedsNodes:
                self.fold()
                continue
            if not transaction._dirty:
                state.settle()
            if not transaction._dirty or self._commit(transaction, base, deadline, force):
                for callback in transaction._callbacks:
                    callback()
                return result
            _pause(attempt, deadline, state)
        raise StoreError("an endless count has ended")

    def settle(self) -> None:
        """Wait until what views have shown so far is durable.

        For who finds that what he was to do has been done, and says so. Commits of this process are; those of others
        may be seen some milliseconds before. `update` does it where there is nothing to commit.

        Raises
        ------
        ReadOnly
            The store's files refuse it.
        TreeNotFound
            The tree was dropped.
        """
        self._state.settle()

    def fold(self) -> View:
        """Put what the journal holds of small commits into the tree's nodes; return that state, which is the same.

        Nobody needs to: commits do it when there is much, and branches and seals before they begin.

        Raises
        ------
        ReadOnly
            The store was opened read-only, or its files refuse it.
        StoreFull
            No space.
        """
        state = self._state
        self._store._writable()
        view = state.newest()
        if not view._count:
            return view
        try:
            with state.turn():
                return state.fold(state.newest())
        except (ValueError, OSError) as error:
            raise translate(error, f"committing to tree {self.name!r}", state.where.url) from error

    def _commit(self, transaction: Transaction, base: View, deadline: float, force: bool) -> bool:
        """Commit; False says that somebody else changed what was read."""
        state = self._state
        where = state.where
        small = state.journaled and not force and transaction._small
        prepared: tuple[Writer, ts.Transaction] | None = None
        try:
            for attempt in count(1):
                if not small:
                    prepared = transaction._prepare(state.writer)
                with state.turn():
                    begin = time.monotonic()
                    now = state.newest()
                    if not state.same(now, base) and ((now.sealed and not force) or not transaction._holds(now)):
                        if prepared is not None:
                            prepared[1].abort()
                        return False
                    if small:
                        record = transaction._record(now)
                        if record is not None and state.record(now, record):
                            return True
                        prepared = transaction._prepare(state.writer)
                    elif prepared is not None and prepared[0].broken:
                        prepared = transaction._prepare(state.writer)
                    if prepared is None:
                        raise StoreError("a commit was not prepared")
                    if now._count and (transaction._arrays is not None or transaction._kept != (None, None)):
                        now = state.fold(now)
                    elif now._count:
                        transaction._carry(prepared, now)
                    transaction._finish_lists(prepared, now)
                    new = prepared[0].end_journal(now, prepared[0].land(prepared[1], now._manifest))
                    self._store.keep_states(transaction, now._manifest, new)
                    if exchange(where, self.name, now._manifest, new, slow=time.monotonic() - begin > _SLOW):
                        state.adopt(new, now, transaction._changes)
                        return True
                # another process was faster, as happens in buckets; what was read may be as it was all the same
                if transaction._arrays is not None:
                    return False
                _pause(attempt, deadline, state)
        except (ValueError, OSError) as error:
            raise translate(error, f"committing to tree {self.name!r}", where.url) from error
        return False


def fold_apart(view: View) -> View:
    """Put what the journal says in a superseded state into nodes that no tree names: gc leaves them for its grace."""
    try:
        writer = Writer(view._where, view._manifest)
        transaction = ts.Transaction(atomic=True)
        for key, value in view._overlay.items(view._count).items():
            writer.kvstore.with_transaction(transaction).write(key, value)
        return View(view._where, view.name, writer.land(transaction, view._manifest))
    except (ValueError, OSError) as error:
        raise translate(error, f"reading tree {view.name!r}", view._where.url) from error


def _pause(attempt: int, deadline: float, state: TreeState) -> None:
    pause = random.uniform(0, min(0.5, 0.001 * 2**attempt)) * (20 if state.where.remote else 1)
    if time.monotonic() + pause > deadline:
        raise Conflict(
            f"{state.where.url}: tree {state.name!r} was changed by others during each of {attempt} attempts in "
            f"{PATIENCE:.0f} s; let fewer writers change the same keys, or make transactions smaller"
        )
    time.sleep(pause)
