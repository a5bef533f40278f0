"""Putting a journal into nodes, behind the backs of those who commit.

It takes tens of milliseconds, mostly of data files that have to be durable before a manifest may name them. None of
that changes anything that others see, so it is done by a thread, without the tree's lock, while commits add records.
Then, holding the lock, what was added meanwhile is put on top, a few keys, and manifests are exchanged, as a commit of
the whole would do. Whoever exchanged them before has done the work, and this one's is left to gc. A kill at any
point leaves data files that nobody names, or the exchange done.

gc without a grace must not take for garbage what is about to be named: it waits until nobody is at it, and holds others
off meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from io import FileIO
from typing import TYPE_CHECKING

import tensorstore as ts

from .backend import Backend
from .commit import Writer
from .errors import StoreError, translate
from .manifest import decode

if TYPE_CHECKING:
    from .tree import TreeState
    from .view import View

__all__ = ["fold_behind", "no_folds"]

#: A file that every store has. Whoever puts a journal into nodes without the tree's lock holds its lock, shared.
LOCK = "format.json"
#: Records that are put on top while others wait.
FEW = 8
#: Times that what was added is put on top before others have to wait.
_ROUNDS = 4
#: Seconds after which what was written may be gone: gc with a grace doesn't wait for a process that was stopped.
STALE = 300.0


def fold_behind(state: TreeState) -> None:
    """Begin to put the journal of a tree into nodes, unless this process is at it."""
    # no daemon: tensorstore must not be at work while the interpreter goes
    thread = threading.Thread(target=_fold, args=(state,), name=f"fold {state.name}")
    if not state.folding.acquire(blocking=False):
        return
    try:
        thread.start()
    except RuntimeError:  # at the end of the process: the next one does it
        state.folding.release()


def _fold(state: TreeState) -> None:
    try:
        with _may_fold(state.where) as allowed:
            if allowed:
                _put_into_nodes(state)
    except (StoreError, OSError, ValueError):
        pass  # dropped, full, forbidden: the commit that finds the journal full does it itself, and says what is wrong
    finally:
        state.folding.release()


def _put_into_nodes(state: TreeState) -> None:
    where = state.where
    begun = state.newest()
    if not begun._count or begun.sealed:
        return
    began = time.time()  # as gc counts
    writer = Writer(where, begun._manifest)  # the shared one is for who has the tree's lock
    data, done = _land(writer, begun, 0, begun._manifest)
    for _ in range(_ROUNDS):
        now = state.newest()
        if now._overlay is not begun._overlay:
            return
        if now._count - done <= FEW:
            break
        data, done = _land(writer, now, done, data)
    if begun._points is not None:
        begun._points.warm(decode(data).root, sorted(begun._overlay.changed(0, done)))
    with state.turn():
        now = state.newest()
        if now._overlay is not begun._overlay or not 0 <= time.time() - began < STALE:
            return
        if now._count > done:
            data, done = _land(writer, now, done, data)
        state.replace(now, writer.end_journal(now, data))


def _land(writer: Writer, view: View, done: int, manifest: bytes) -> tuple[bytes, int]:
    """Write what the records of a view from one number on say, on top of a manifest that has those before."""
    overlay, count = view._overlay, view._count
    transaction = ts.Transaction(atomic=True)
    write = writer.kvstore.with_transaction(transaction).write
    for key in overlay.changed(done, count):
        held = overlay.get(key, count)
        if held is not None:
            write(key, held[1])
    return writer.land(transaction, manifest), count


@contextlib.contextmanager
def _may_fold(where: Backend) -> Iterator[bool]:
    """Keep gc without a grace waiting; tell whether it isn't at work."""
    file = _open(where)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            file.close()


@contextlib.contextmanager
def no_folds(where: Backend) -> Iterator[None]:
    """Wait until nobody puts a journal into nodes behind others' backs, and keep all from it meanwhile."""
    if where.folder is None:
        yield
        return
    file = _open(where)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            file.close()


def _open(where: Backend) -> FileIO:
    path = f"{where.folder}/{LOCK}"
    try:
        try:
            return FileIO(path, "r+")  # some network file systems lock nothing that is read-only
        except PermissionError:
            return FileIO(path, "r")
    except OSError as error:
        raise translate(error, "locking it", where.url) from error
