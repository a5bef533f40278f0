"""Commits: a transaction's writes become data files, then a new manifest takes the place of the old one.

tensorstore can do both, on the tree's own manifest. But version 0.1.86 corrupts data that way: a key which a
transaction has read becomes empty when its commit must be repeated on a newer state, or when it had been written
before in the same transaction; a range deleted after a write within it crashes the process; a lock file that a killed
writer has left leaves its tail behind the next manifest. So tensorstore writes, and writes only, to a manifest in
memory that nobody else knows, where its commit can't fail to be the first; and the exchange of manifests, which is all
that writers contend for, is ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from io import FileIO

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend
from .errors import TreeNotFound, translate
from .journal import Journal
from .keys import FOLDED, SEALED
from .view import View, open_pinned

DATA = "data/"
REFS = "refs/"

#: Who changes a tree's manifest in a local store holds this file's lock. It goes with its holder, however that ends.
LOCK = "lock"
#: A manifest on its way.
_NEW = manifests.NAME + ".new"
#: Numbered manifests older than this many generations are deleted: readers have found a newer one by then.
_KEPT = 64


def manifest_path(name: str) -> str:
    """Return the path of a tree's manifest, or of the file that says that its manifests are numbered."""
    return f"{REFS}{name}/{manifests.NAME}"


def numbered_path(name: str, generation: int) -> str:
    """Return the path of a numbered manifest."""
    return f"{REFS}{name}/{manifests.NUMBERED}{generation:016x}"


def read_manifest(where: Backend, name: str) -> bytes | None:
    """Return a tree's newest manifest, or None if there is no such tree."""
    if not where.numbered:
        return where.read(manifest_path(name))
    folder = f"{REFS}{name}/"
    for _ in range(10):
        numbers = sorted(path for path in where.list(folder + manifests.NUMBERED) if len(path) == 16)
        if not numbers:
            return None
        data = where.read(folder + manifests.NUMBERED + numbers[-1])
        if data is not None:
            return data
    raise TreeNotFound(
        f"{where.url}: manifests of tree {name!r} vanish as soon as they are listed; it is being dropped"
    )


def exchange(where: Backend, name: str, old: bytes | None, new: bytes, *, slow: bool = False) -> bool:
    """Put a manifest in the place of another, or of none, if it is still that; tell whether it was.

    In a local store the caller holds `locked`. A slow caller has read the old one long ago.
    """
    if where.folder is not None:
        if where.read(manifest_path(name)) != old:
            return False
        with Journal(where.folder / REFS / name, where.url, name).leaving(new):
            _replace_file(where, name, new)
        return True
    if where.numbered:
        generation = 1 if old is None else manifests.decode(new).generation
        path = numbered_path(name, generation)
        # who finds its own manifest there was told by a retried request that it lost against itself
        done = where.write_new(path, new) or where.read(path) == new
        if done and slow and not _is_followed(where, name, generation, new):
            # others went on so far that the number which should have been in the way was deleted already
            where.delete(path)
            return False
        if done and generation % _KEPT == 0:
            forget_numbered(where, name, generation - _KEPT)
        return done
    if where.replace(manifest_path(name), old, new):
        return True
    if not where.remote:
        return False
    found = where.read(manifest_path(name))
    return found is not None and (found == new or manifests.decode(found).continues(manifests.decode(new)))


def _is_followed(where: Backend, name: str, generation: int, manifest: bytes) -> bool:
    """Tell whether a manifest just written is the newest, or the next one builds on it."""
    folder = f"{REFS}{name}/{manifests.NUMBERED}"
    later = [int(number, 16) for number in where.list(folder) if len(number) == 16 and int(number, 16) > generation]
    if not later:
        return True
    following = where.read(numbered_path(name, min(later)))
    return following is not None and manifests.decode(following).continues(manifests.decode(manifest))


def forget_numbered(where: Backend, name: str, before: int) -> None:
    """Delete a tree's numbered manifests of earlier generations."""
    folder = f"{REFS}{name}/{manifests.NUMBERED}"
    for number in where.list(folder):
        if len(number) == 16 and int(number, 16) < before:
            where.delete(folder + number)


def _replace_file(where: Backend, name: str, data: bytes) -> None:
    folder = f"{where.folder}/{REFS}{name}"
    try:
        with open(f"{folder}/{_NEW}", "wb", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError("No space left on device")
            os.fsync(file.fileno())
        os.replace(f"{folder}/{_NEW}", f"{folder}/{manifests.NAME}")
        where.sync_folder(f"{REFS}{name}")
    except OSError as error:
        raise translate(error, f"writing the manifest of tree {name!r}", where.url) from error


@contextlib.contextmanager
def locked(where: Backend, name: str, *, create: bool = False) -> Iterator[None]:
    """Keep other processes from changing a tree's manifest meanwhile; in a bucket nobody can, and `exchange` is all.

    Raises
    ------
    TreeNotFound
        The tree has no folder, and isn't to be created.
    """
    where.check()
    if where.folder is None:
        yield
        return
    folder = f"{where.folder}/{REFS}{name}"
    file = _lock(where, folder, name, create)
    try:
        yield
    finally:
        # here and not in a function, at whose beginning an interrupt could come and leave the lock with the process
        try:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone keeps it where a fork has inherited the file
        finally:
            file.close()


def _lock(where: Backend, folder: str, name: str, create: bool) -> FileIO:
    while True:
        try:
            if create:
                os.makedirs(folder, exist_ok=True)
            # an object, not a number: wherever an interrupt comes, it is closed, and the lock goes with it
            file = FileIO(f"{folder}/{LOCK}", "a+")
        except FileNotFoundError as error:
            if create:
                continue  # dropped between the two
            raise TreeNotFound(f"{where.url} has no tree {name!r}") from error
        except OSError as error:
            raise translate(error, f"locking tree {name!r}", where.url) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(f"{folder}/{LOCK}")):
                return file
        except FileNotFoundError:
            pass  # dropped while we waited, with this lock
        except BaseException as error:  # an interrupt as well: the lock would stay with who keeps the traceback
            file.close()
            if isinstance(error, OSError):
                raise translate(error, f"locking tree {name!r}", where.url) from error
            raise
        file.close()


class Writer:
    """Turns writes on top of a manifest into data files and the next manifest; changes nothing that is visible."""

    def __init__(self, where: Backend, manifest: bytes) -> None:
        self.kvstore, self._memory = open_pinned(where, manifest, prefix=DATA)
        self._held: bytes | None = manifest
        #: not to be used any more: an interrupted commit may be at it still
        self.broken = False

    def land(self, transaction: ts.Transaction, manifest: bytes) -> bytes:
        """Commit a transaction of `kvstore` on top of a manifest; return the next one. One at a time."""
        if self._held != manifest:
            self._held = None
            self._memory.write(manifests.NAME, manifest).result()
            self.kvstore.read(SEALED, staleness_bound=float("inf")).result()  # forget the manifest that was
        self._held = None
        try:
            transaction.commit_async().result()
        except BaseException:
            self.broken = True  # tensorstore goes on after an interrupt, and would add to what comes next
            raise
        held = self._memory.read(manifests.NAME).result().value
        self._held = held
        return bytes(held)

    def end_journal(self, now: View, manifest: bytes) -> bytes:
        """Return a manifest with which the journal of a state ends: this one, or another with the same content.

        tensorstore leaves the manifest as it is where nothing is written, and nothing is where ranges are deleted. As
        long as the tree has that manifest, its journal counts.
        """
        if not now._count or manifest != now._manifest:
            return manifest
        transaction = ts.Transaction(atomic=True)
        self.kvstore.with_transaction(transaction).write(FOLDED, os.urandom(16))
        return self.land(transaction, manifest)


@contextlib.contextmanager
def turn(where: Backend, name: str, mutex: threading.Lock) -> Iterator[None]:
    """Be the one committer to a tree: of this process by the mutex, of all by the tree's lock."""
    with mutex, locked(where, name):
        yield
