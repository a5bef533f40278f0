"""The store: a pool of data, and trees that share it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import msgspec
import tensorstore as ts

from . import manifest as manifests
from .backend import Backend, backend, canonical, sync_folder
from .commit import DATA, LOCK, REFS, exchange, locked, manifest_path, read_manifest
from .diff import Change, diff
from .errors import BadStore, NewerFormat, ReadOnly, StoreExists, StoreNotFound, TreeExists, TreeNotFound, translate
from .folding import no_folds
from .fsck import FsckReport, check
from .gc import GcReport, collect
from .journal import Journal
from .seal import SealReport, seal
from .transaction import Transaction
from .tree import Tree, TreeState, fold_apart
from .view import View

FORMAT = "format.json"
#: A grace of gc, in seconds, that may be shorter than what is written without a tree's lock takes to be named.
_SHORT = 600.0
#: Number of the layout that this module writes.
VERSION = 1

#: A file that makes a tree exist: its manifest, or a numbered one.
_NEWEST = {False: re.compile(r"/manifest\.ocdbt$"), True: re.compile(r"/manifest\.[0-9a-f]{16}$")}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=False, kw_only=True):
    """What was chosen when the store was created; never changed after.

    Parameters
    ----------
    node_bytes
        Largest B+tree node, decoded. Small nodes make small commits: each rewrites one from root to leaf.
    inline_bytes
        Largest value that is kept inside a leaf.
    compression_level
        Of zstd, for nodes and inline values.
    """

    node_bytes: int = 100_000
    inline_bytes: int = 256
    compression_level: int = 0


class _Head(msgspec.Struct, frozen=True):
    store: str
    format: int


class _Format(msgspec.Struct, frozen=True, kw_only=True):
    store: str
    format: int
    settings: Settings
    #: Manifest of an empty tree, and the file that says that a tree's manifests are numbered; base64 in JSON.
    empty: bytes
    numbered: bytes


class _Looks(threading.local):
    """When the reads of a thread that look at each tree only once began."""

    since: float | None = None


class Store:
    """A store of trees. Made by `Store.create`, found by `Store.open`; safe to use from many threads and processes.

    A store pickles as its URL. It does not survive `os.fork`: start workers with multiprocessing's "spawn" method.

    Examples
    --------
    >>> store = Store.create("memory://example")
    >>> main = store.create_tree("main")
    >>> main.update(lambda tx: tx.put_many([(b"a", b"1"), (b"b", b"2")]))
    >>> draft = store.branch("main", "draft")
    >>> draft.update(lambda tx: tx.put(b"a", b"7"))
    >>> list(main.view().scan()), draft.view().get(b"a")
    ([(b'a', b'1'), (b'b', b'2')], b'7')
    >>> [(change.key, change.kind) for change in store.diff(main.view(), draft.view())]
    [(b'a', 'changed')]
    """

    def __init__(self, where: Backend, *, read_only: bool) -> None:
        self._where = where
        self._read_only = read_only
        #: seconds after which views of its trees look for commits of other processes, where these are asked for less
        self.max_age = float("inf")
        self._looks = _Looks()

    @contextlib.contextmanager
    def one_look(self) -> Iterator[None]:
        """Let reads of this thread look at each tree once, however low `max_age` is.

        For a question asked from outside: what was committed before it began has to be in the answer, what was
        committed later need not. Views of age 0 look all the same.
        """
        looks = self._looks
        before = looks.since
        looks.since = time.monotonic()
        try:
            yield
        finally:
            looks.since = before

    def _moment(self, age: float) -> float:
        """By when, on the monotonic clock, a view must have been looked at that may be of this age."""
        now = time.monotonic()
        if age <= self.max_age:
            return now - age
        since = self._looks.since
        return max(now - age, now - self.max_age if since is None else min(now - self.max_age, since))

    @classmethod
    def create(
        cls,
        url: str | os.PathLike[str],
        *,
        node_bytes: int = 100_000,
        inline_bytes: int = 256,
        compression_level: int = 0,
    ) -> Self:
        """Create a store.

        Parameters
        ----------
        url
            A path, or a URL ``file://``, ``memory://name``, ``s3://bucket/path`` or ``gs://bucket/path``. S3 takes
            ``?endpoint=http://host:port``, ``&region=``, ``&profile=`` and ``&anonymous=true``. A store in memory lives
            as long as this process; one without a name, ``memory://``, as long as somebody holds it.
        node_bytes, inline_bytes, compression_level
            See `Settings`; they hold for the store's life.

        Raises
        ------
        StoreExists
            There is a store, or a folder that isn't empty.
        ReadOnly
            No permission to write there.
        """
        settings = Settings(node_bytes=node_bytes, inline_bytes=inline_bytes, compression_level=compression_level)
        if not 1_000 <= node_bytes <= 1 << 30:
            raise ValueError(f"node_bytes is from 1,000 to 2^30, not {node_bytes}")
        if not 0 <= inline_bytes <= 1 << 20:
            raise ValueError(f"inline_bytes is from 0 to 2^20, not {inline_bytes}")
        if not -7 <= compression_level <= 22:
            raise ValueError(f"compression_level is from -7 to 22, not {compression_level}")
        place = canonical(url)
        if unnamed := place == "memory://":
            place += uuid.uuid4().hex
        where = backend(place, keep=not unnamed)
        if where.read(FORMAT) is not None:
            raise StoreExists(f"{place} is a store already; open it, or choose another place")
        if where.folder is not None:
            _make_folder(where.folder, place)
        elif where.list():
            raise StoreExists(f"{place} holds something that isn't a store; choose an empty place")
        empty, numbered = _templates(settings)
        document = _Format(store="dvid-dask", format=VERSION, settings=settings, empty=empty, numbered=numbered)
        if not where.write_new(FORMAT, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"):
            raise StoreExists(f"{place} was created by somebody else just now; open it")
        if where.folder is not None:
            for name in (REFS, DATA):  # now, so that no later commit depends on a name that isn't durable yet
                (where.folder / name).mkdir(exist_ok=True)
            where.sync_folder(".")
        return cls.open(place)

    @classmethod
    def open(cls, url: str | os.PathLike[str], *, read_only: bool = False) -> Self:
        """Open a store.

        Raises
        ------
        StoreNotFound
            There is none.
        BadStore
            What is there isn't ours, or is damaged.
        NewerFormat
            It was written by a newer release.
        """
        place = canonical(url)
        where = backend(place)
        if where.format is not None and where.read(FORMAT) is None:  # it was removed behind this process's back
            where.format = None
            where.trees.clear()
        _format_of(where)
        return cls(where, read_only=read_only)

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[str, bool]]:
        return _reopen, (self.url, self._read_only)

    def __repr__(self) -> str:
        return f"<Store {self.url}{' read-only' if self._read_only else ''}>"

    @property
    def url(self) -> str:
        """Where it lies."""
        return self._where.url

    @property
    def read_only(self) -> bool:
        """Whether it was opened read-only."""
        return self._read_only

    @property
    def settings(self) -> Settings:
        """What was chosen when it was created."""
        return _format_of(self._where).settings

    # ---- trees -------------------------------------------------------------------------------------------------------

    def tree(self, name: str) -> Tree:
        """Return the tree of this name.

        Raises
        ------
        TreeNotFound
            There is none.
        """
        tree = Tree(self, _state(self._where, _checked(name)))
        tree.view()
        return tree

    def has_tree(self, name: str) -> bool:
        """Tell whether there is a tree of this name."""
        try:
            self.tree(name)
        except TreeNotFound:
            return False
        return True

    def trees(self) -> list[str]:
        """Return the names of all trees, sorted."""
        where = self._where
        if where.folder is not None:
            where.check()
            try:
                return sorted(
                    e.name for e in os.scandir(where.folder / REFS) if os.path.exists(f"{e.path}/{manifests.NAME}")
                )
            except FileNotFoundError:
                return []
            except OSError as error:
                raise translate(error, "listing its trees", self.url) from error
        names = {path.split("/")[0] for path in where.list(REFS) if _NEWEST[where.numbered].search(path)}
        return sorted(names)

    def create_tree(self, name: str) -> Tree:
        """Create an empty tree.

        Raises
        ------
        TreeExists
            There is one of this name.
        """
        self._writable()
        return self._new_tree(_checked(name), _format_of(self._where).empty)

    def branch(self, source: str | View, name: str) -> Tree:
        """Create a tree that begins as another is now, or as a view of it was, by copying a few hundred bytes.

        The source needn't be sealed. A view must be younger than gc's grace period if its tree has moved on since.

        Raises
        ------
        TreeNotFound
            There is no `source`.
        TreeExists
            There is a tree of this name.
        """
        self._writable()
        _checked(name)
        view = self.tree(source).fold() if isinstance(source, str) else self._in_nodes(source)
        if view._where.url != self.url:
            raise ValueError(
                f"a branch shares its source's data: the view is of {view._where.url}, this store is {self.url}"
            )
        return self._new_tree(name, view.manifest.single(1))

    def _in_nodes(self, view: View) -> View:
        """Return a view of the same, of which nothing lies in a journal."""
        if not view._count or view._where.url != self.url:
            return view
        state = _state(self._where, view.name)
        with contextlib.suppress(TreeNotFound):  # the view outlives its tree
            if state.same(state.newest(), view):
                folded = Tree(self, state).fold()
                if folded.token == view.token:  # else somebody has committed meanwhile
                    return folded
        return fold_apart(view)

    def _new_tree(self, name: str, manifest: bytes) -> Tree:
        where = self._where
        exists = read_manifest(where, name) is not None
        if not exists:
            if where.numbered:
                where.write(manifest_path(name), _format_of(where).numbered)
            with locked(where, name, create=True):
                if where.folder is not None:
                    if read_manifest(where, name) is None:
                        Journal(where.folder / REFS / name, where.url, name).forget()  # of a tree half dropped
                    where.sync_folder(REFS)  # first: others may commit to it as soon as there is a manifest
                exists = not exchange(where, name, None, manifest)
        if exists:
            raise TreeExists(f"{self.url} has a tree {name!r} already; choose another name")
        return Tree(self, _state(where, name))

    def keep_states(self, transaction: Transaction, before: bytes, after: bytes) -> None:
        """Make the trees that a transaction asked for, of the manifests around its commit; for `Tree.update`."""
        for name, manifest in zip(transaction._kept, (before, after), strict=True):
            if name is None:
                continue
            data = manifests.decode(manifest).single(1)
            while True:
                try:
                    self._new_tree(_checked(name), data)
                    break
                except TreeExists:  # of an attempt that failed
                    with contextlib.suppress(TreeNotFound):
                        self.drop_tree(name)

    def drop_tree(self, name: str) -> None:
        """Drop a tree. Its data goes with the next `gc` that finds nobody else using it.

        Raises
        ------
        TreeNotFound
            There is none.
        """
        self._writable()
        self.tree(name)
        where = self._where
        with locked(where, name):
            if where.folder is not None:
                _remove_folder(where, name)
            elif where.numbered:
                # oldest first: until the last is gone, the tree is what it was
                folder = f"{REFS}{name}/{manifests.NUMBERED}"
                for path in sorted(path for path in where.list(folder) if len(path) == 16):
                    where.delete(folder + path)
                where.delete(manifest_path(name))
            else:
                where.delete(manifest_path(name))
            where.trees.pop(name, None)  # before another thread may make it anew

    def seal(self, name: str, *, compact: bool = True) -> SealReport:
        """Make a tree immutable: from here on it is read and branched, never written.

        Then what the tree has beyond its origin is rewritten from many small files into few large ones, and its earlier
        generations are dropped (a view of them lasts for gc's grace period). May be killed at any point and run again.

        Parameters
        ----------
        name
            Of the tree.
        compact
            False only makes it immutable, which takes as long as a commit; a later call does the rest.

        Raises
        ------
        TreeNotFound
            There is none.
        """
        self._writable()
        return seal(self._where, self.tree(name), compact=compact)

    def gc(self, grace: float = 3600.0) -> GcReport:
        """Delete the data that no tree can reach.

        Safe while others read and write, and may be killed at any point and run again. Memory is that of the data
        files' names and a digest for each node, about a thousandth of the keys.

        Parameters
        ----------
        grace
            Seconds for which data must have been unreachable, by the record of earlier runs: so the first run that
            finds some deletes nothing. Must be longer than a commit takes, and than views of superseded states are
            read. 0 sweeps at once: only while nobody writes, and nobody reads such a view.

        Raises
        ------
        BadStore
            A tree is damaged; nothing is deleted. Run `fsck`.
        """
        self._writable()
        self._where.check()
        with no_folds(self._where) if grace < _SHORT else contextlib.nullcontext():
            return collect(self._where, self.trees, grace)

    def rest(self) -> None:
        """Wait until no thread of this process puts small commits into nodes: before its folder is removed, say.

        They are done in some tens of milliseconds, and nobody else needs to wait.
        """
        for state in list(self._where.trees.values()):
            if isinstance(state, TreeState):
                with state.folding:
                    pass

    def fsck(self, *, deep: bool = False) -> FsckReport:
        """Check that all that the trees name is there and whole. Changes nothing.

        Parameters
        ----------
        deep
            Read the values as well. Nodes, and the values within, are checked by their checksums in any case; values
            outside of nodes have none: that they can be read is all that is known of them.
        """
        self._where.check()
        return check(self._where, self.trees, deep=deep)

    def diff(
        self, a: View, b: View, start: bytes = b"", stop: bytes | None = None, *, compare_values: bool = True
    ) -> Iterator[Change]:
        """Iterate over the keys whose values differ between two states, in order.

        Nodes that both trees share are skipped, so that the cost is that of the changes, whatever the trees hold.
        Without `compare_values` no value is read: those that lie elsewhere count as changed, even if they are equal.

        Raises
        ------
        ValueError
            The views are of different stores.
        """
        for view in (a, b):
            if view._where.url != self.url:
                raise ValueError(f"the view is of {view._where.url}, this store is {self.url}")
        return diff(a, b, start, stop, compare_values=compare_values)

    def _writable(self) -> None:
        if self._read_only:
            raise ReadOnly(f"{self.url} was opened read-only; open it without read_only to write")


# ----------------------------------------------------------------------------------------------------------------------


def _state(where: Backend, name: str) -> TreeState:
    state = where.trees.get(name) or where.trees.setdefault(name, TreeState(where, name))
    if not isinstance(state, TreeState):
        raise TypeError(f"a tree's state is a TreeState, not {type(state).__name__}")
    return state


def _reopen(url: str, read_only: bool) -> Store:
    return Store.open(url, read_only=read_only)


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a tree's name is 1 to 200 letters, digits, '.', '_' or '-', and begins with a letter or digit: {name!r}"
        )
    return name


def _make_folder(folder: Path, place: str) -> None:
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreExists(f"{place} holds something that isn't a store; choose an empty folder")
        for path in new:
            with contextlib.suppress(OSError):  # a folder in which one may make another, but look at none
                sync_folder(path.parent)
    except FileExistsError as error:
        if isinstance(error, StoreExists):
            raise
        raise StoreExists(f"{place} is not a folder; choose another place") from error
    except OSError as error:
        raise translate(error, "creating it", place) from error


def _remove_folder(where: Backend, name: str) -> None:
    folder = Path(f"{where.folder}/{REFS}{name}")
    try:
        Journal(folder, where.url, name).leave()  # first: others ask it whether the tree is still what it was
        (folder / manifests.NAME).unlink(missing_ok=True)
        where.sync_folder(f"{REFS}{name}")
        for path in folder.iterdir():
            if path.is_file() and path.name != LOCK:
                path.unlink()
        (folder / LOCK).unlink(missing_ok=True)  # last: who comes now locks another one, and may make the tree anew
        folder.rmdir()
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            return
        raise translate(error, f"dropping tree {name!r}", where.url) from error


def _format_of(where: Backend) -> _Format:
    if isinstance(where.format, _Format):
        return where.format
    data = where.read(FORMAT)
    if data is None:
        if where.scheme == "memory":
            raise StoreNotFound(
                f"there is no store at {where.url} in this process; memory is not shared between processes"
            )
        raise StoreNotFound(f"there is no store at {where.url} (no {FORMAT}); create it first")
    try:
        version = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadStore(f"{where.url}/{FORMAT} is damaged or not ours ({error}); restore it from a backup") from error
    if version.store != "dvid-dask":
        raise BadStore(f"{where.url}/{FORMAT} belongs to {version.store!r}, not to us; choose another place")
    if version.format > VERSION:
        raise NewerFormat(
            f"{where.url} is of format {version.format}, this release reads up to {VERSION}; install a newer release"
        )
    try:
        where.format = msgspec.json.decode(data, type=_Format)
    except msgspec.DecodeError as error:
        raise BadStore(f"{where.url}/{FORMAT} is damaged ({error}); restore it from a backup") from error
    manifests.check(where.format.empty, f"{where.url}/{FORMAT}")
    return where.format


def _templates(settings: Settings) -> tuple[bytes, bytes]:
    """Return the manifest of an empty tree, and the file that says that a tree's manifests are numbered."""
    config = {
        "max_decoded_node_bytes": settings.node_bytes,
        "max_inline_value_bytes": settings.inline_bytes,
        "compression": {"id": "zstd", "level": settings.compression_level},
        "manifest_kind": "numbered",
    }
    context = ts.Context()
    tree = ts.KvStore.open(
        {"driver": "ocdbt", "base": {"driver": "memory"}, "config": config}, context=context
    ).result()
    tree.write(b"a", b"").result()
    memory = ts.KvStore.open({"driver": "memory"}, context=context).result()
    return memory.read(f"{manifests.NUMBERED}{1:016x}").result().value, memory.read(manifests.NAME).result().value
