"""A tree: named, versioned by generations, updated atomically."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend
from .errors import BadStore, Conflict, Sealed, StoreError, TreeNotFound, code, is_conflict, translate
from .nodes import Cuts
from .transaction import Transaction
from .view import Rover, View

if TYPE_CHECKING:
    from .store import Store

T = TypeVar("T")

#: Seconds for which an update retries while other writers win.
PATIENCE = 60.0
#: After so many lost attempts an update queues with others of this process that have lost as well.
_POLITE = 3

DATA = "data/"
REFS = "refs/"


def manifest_path(name: str) -> str:
    """Return the path of a tree's manifest, or of the file that says that its manifests are numbered."""
    return f"{REFS}{name}/{manifests.NAME}"


def read_manifest(where: Backend, name: str) -> bytes | None:
    """Return a tree's newest manifest, or None if there is no such tree."""
    if not where.numbered:
        data = where.read(manifest_path(name))
        return None if data is None else manifests.whole(data)
    folder = f"{REFS}{name}/"
    for _ in range(10):
        numbers = sorted(path for path in where.list(folder + manifests.NUMBERED) if len(path) == 16)
        if not numbers:
            return None
        data = where.read(folder + manifests.NUMBERED + numbers[-1])
        if data is not None:
            return data
    raise StoreError(
        f"{where.url}: manifests of tree {name!r} vanish as soon as they are listed; is the tree being dropped?"
    )


class TreeState:
    """What this process knows of a tree, shared by all handles to it."""

    def __init__(self, where: Backend, name: str) -> None:
        self.where = where
        self.name = name
        self.turn = threading.Lock()
        self._lock = threading.Lock()
        self._live: ts.KvStore | None = None
        self._rover: Rover | None = None
        self._cuts = Cuts()
        self._view: View | None = None
        self._checked = float("-inf")
        self._commits = 0

    @property
    def live(self) -> ts.KvStore:
        """The tree as tensorstore writes it."""
        if self._live is None:
            where = self.where
            spec = {
                "driver": "ocdbt",
                "base": where.spec,
                "manifest": {**where.spec, "path": f"{where.spec.get('path', '')}{REFS}{self.name}/"},
                "value_data_prefix": DATA,
                "btree_node_data_prefix": DATA,
                "version_tree_node_data_prefix": DATA,
            }
            self._live = ts.KvStore.open(spec, context=where.context).result()
        return self._live

    def heal(self) -> None:
        """Cut what a killed writer has left behind the manifest; tensorstore would refuse to write the tree.

        Called before each write, and costs a look at the file's size where there is one.
        """
        folder, view = self.where.folder, self._view
        if folder is None or view is None:
            return
        path = manifest_path(self.name)
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(folder / path) == len(view._manifest):
                return
        for _ in range(10):  # what cuts it may itself meet a lock file with content
            data = self.where.read(path)
            if data is None or len(manifests.whole(data)) == len(data):
                return
            self.where.replace(path, data, manifests.whole(data))
            self.committed()

    def damaged(self) -> bool:
        """Tell whether there is something behind the manifest that `heal` would cut."""
        data = self.where.read(manifest_path(self.name))
        return data is not None and len(manifests.whole(data)) < len(data)

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

    def _move(self, data: bytes) -> None:
        manifests.check(data, f"{self.where.url}: tree {self.name!r}")
        try:
            if self._rover is None:
                self._rover = Rover(self.where, data)
            else:
                self._rover.move(data)
        except ValueError as error:
            raise translate(error, f"opening tree {self.name!r}", self.where.url) from error
        self._view = View(self.where, self.name, data, self._rover, self._cuts)


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
            always seen. A sealed tree is never looked at again, whatever the age.

        Raises
        ------
        TreeNotFound
            The tree was dropped.
        """
        state = self._state
        state.where.check()
        return state.view(max_age)

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
        attempt = 0
        while True:
            attempt += 1
            if attempt > _POLITE:
                with state.turn:
                    done, result = self._attempt(fn, force)
            else:
                done, result = self._attempt(fn, force)
            if done:
                return result
            pause = random.uniform(0, min(0.5, 0.001 * 2**attempt)) * (20 if state.where.remote else 1)
            if time.monotonic() + pause > deadline:
                raise Conflict(
                    f"{state.where.url}: tree {self.name!r} was changed by others during each of {attempt} attempts in "
                    f"{PATIENCE:.0f} s; let fewer writers change the same keys, or make transactions smaller"
                )
            time.sleep(pause)

    def _attempt(self, fn: Callable[[Transaction], T], force: bool) -> tuple[bool, T]:
        state = self._state
        since = time.time()
        base = state.view(0)
        state.heal()
        if base.sealed and not force:
            raise Sealed(f"{state.where.url}: tree {self.name!r} is sealed; branch it and write to the branch")
        try:
            transaction = Transaction(base, state.live, since)
            try:
                result = fn(transaction)
            except BaseException:
                transaction._abort()
                raise
        except ValueError as error:
            if type(error) is ValueError and is_conflict(error):  # a read through the transaction's own kvstore
                return False, None  # type: ignore[return-value]
            raise
        try:
            if not transaction._commit():
                return False, result
        except (ValueError, OSError) as error:
            if code(error) == "DATA_LOSS" and state.damaged():
                return False, result  # a writer was killed since; the next attempt heals it
            raise translate(error, f"committing to tree {self.name!r}", state.where.url) from error
        finally:
            state.committed()
        for callback in transaction._callbacks:
            callback()
        return True, result
