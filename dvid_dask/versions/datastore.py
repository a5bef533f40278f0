"""A datastore: the repositories in one store, found by DVID's version selectors."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dvid_dask import store as storage
from dvid_dask.errors import BadRequest, Conflict, DvidError, Forbidden, UnknownVersion, did_you_mean
from dvid_dask.versions import counters
from dvid_dask.versions.blobs import TREE as BLOBS
from dvid_dask.versions.blobs import Blobs
from dvid_dask.versions.counters import FIRST_MUTATION, Counter, MutationIds, NumberSource
from dvid_dask.versions.feed import WAITING, Feed, Message, Watcher
from dvid_dask.versions.meta import MetaChange, MetaTree
from dvid_dask.versions.records import NodeRecord, RepoRecord, is_hex_uuid, new_uuid, now
from dvid_dask.versions.state import State

if TYPE_CHECKING:
    from dvid_dask.store import Store, Tree
    from dvid_dask.versions.check import CheckReport
    from dvid_dask.versions.contents import ContentsReport
    from dvid_dask.versions.repo import Repo
    from dvid_dask.versions.version import Version

__all__ = ["Datastore", "Repos"]

META = "meta"

#: Trees whose handles a process keeps open.
_OPEN_TREES = 512

log = logging.getLogger(__name__)


class Repos(Mapping[str, "Repo"]):
    """The repositories of a datastore, by the UUID of their root version."""

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore

    def __getitem__(self, root: str) -> Repo:
        """The repository with this root UUID.

        Raises
        ------
        UnknownVersion
        """
        from dvid_dask.versions.repo import Repo

        state = self._datastore.state()
        at = state.uuids.get(root)
        if at is None or state.repos[at[0]].record.root != root:
            known = did_you_mean(str(root), (r.record.root for r in state.repos.values()), show=3)
            raise UnknownVersion(f"no repository has the root {root!r}{known}")
        return Repo(self._datastore, at[0])

    def __iter__(self) -> Iterator[str]:
        return iter([r.record.root for _, r in sorted(self._datastore.state().repos.items())])

    def __len__(self) -> int:
        return len(self._datastore.state().repos)

    def named(self, alias: str) -> Repo:
        """The repository of this alias.

        Raises
        ------
        UnknownVersion
            When none has it.
        Conflict
            When several have it.
        """
        from dvid_dask.versions.repo import Repo

        repos = self._datastore.state().repos
        hits = [rid for rid, r in repos.items() if r.record.alias == alias]
        if len(hits) == 1:
            return Repo(self._datastore, hits[0])
        if hits:
            roots = ", ".join(repos[r].record.root for r in hits)
            raise Conflict(f"{len(hits)} repositories have the alias {alias!r}: choose one of the roots {roots}")
        raise UnknownVersion(
            f"no repository has the alias {alias!r}{did_you_mean(alias, {r.record.alias for r in repos.values()})}"
        )

    def __repr__(self) -> str:
        lines = [f"<Repos: {len(self)}>"]
        for repo in self.values():
            lines.append(f"  {repo.root[:12]}  {repo.alias!r}  {len(repo.versions)} versions")
        return "\n".join(lines)


class Datastore:
    """All repositories of one store.

    Made by `dvid_dask.create` and `dvid_dask.open`. Safe to use from many threads; pickles as the store's URL, so that
    Dask workers open it for themselves. Several processes may work on one store at once.

    Parameters
    ----------
    store : Store
        The store that holds it.
    compact : {"background", "now", "never"}
        When a committed version's files are compacted: by a thread of this process, before `Version.commit` returns,
        or only by `compact`. Reads give the same in all three.

    Examples
    --------
    >>> import dvid_dask
    >>> ds = dvid_dask.create("memory://")
    >>> repo = ds.new_repo("fly")
    >>> v = repo["master"]
    >>> v.commit("as segmented")
    >>> ds[v.uuid[:8]] == v
    True
    >>> ds[v.uuid + ":master"].locked
    True
    """

    def __init__(self, store: Store, *, compact: str = "background") -> None:
        from dvid_dask.versions.sealing import Sealer

        self.store = store
        self.meta = MetaTree(store.tree(META))
        self._trees: OrderedDict[str, Tree] = OrderedDict()
        self._lock = threading.RLock()
        self._mutation_ids: dict[int, MutationIds] = {}
        self._numbers: dict[tuple[int, str], NumberSource] = {}
        self._blobs: Blobs | None = None
        self.sealer = Sealer(self, compact)
        self._ends: dict[Hashable, weakref.finalize[..., Datastore]] = {}
        #: who is told of mutations; see `watch`
        self.feed = Feed()

    @classmethod
    def create(cls, store: Store, **options: Any) -> Datastore:
        """Make the trees of an empty store and open it."""
        for name in (counters.TREE, BLOBS, META):
            if not store.has_tree(name):
                # whoever is killed here, or races with another, leaves a store that `create` finishes
                with contextlib.suppress(storage.TreeExists):
                    store.create_tree(name)
        MetaTree.initialise(store.tree(META))
        return cls(store, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.store.url, self.store.read_only, self.sealer.mode)

    def close(self) -> None:
        """Deliver what watchers wait for, and finish the compaction that runs. Those that wait are dropped: they can be
        run again by `compact`. Numbers that were reserved and not used go back. Nothing is at work on the store then.
        """
        with self._lock:
            sources = list(self._numbers.values())
        for source in sources:
            source.give_back()
        self.feed.close()
        self.sealer.close()
        self.store.rest()
        for end in list(self._ends.values()):
            end()

    def at_end(self, callback: Callable[[Hashable], object], name: Hashable) -> None:
        """Call this with a name, once, when the datastore is closed or nobody holds it any more.

        For those who keep for the whole process what they have read. The callback must not hold the datastore.
        """
        known = self._ends.get(name)
        if known is None or not known.alive:
            end = weakref.finalize(self, callback, name)
            end.atexit = False
            self._ends[name] = end

    def __enter__(self) -> Datastore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ finding

    def state(self, max_age: float = 0.1) -> State:
        """The decoded metadata: own changes at once, those of other processes within `max_age` seconds."""
        return self.meta.state(max_age)

    @property
    def url(self) -> str:
        """Where the store lies."""
        return self.store.url

    @property
    def repos(self) -> Repos:
        """The repositories by root UUID."""
        return Repos(self)

    def __getitem__(self, selector: str) -> Version:
        """The version that a DVID selector names.

        Parameters
        ----------
        selector : str
            A UUID or a unique beginning of one, over all repositories; ``uuid:branch`` for the newest version of a
            branch, ``uuid:branch~2`` for the second one above it; ``:branch`` in a store with one repository.

        Raises
        ------
        UnknownVersion, AmbiguousVersion, BadRequest
        """
        from dvid_dask.versions.repo import Repo
        from dvid_dask.versions.version import Version

        rid, vid = self._fresh_select(selector)
        return Version(Repo(self, rid), vid)

    def _fresh_select(self, selector: str, within: int | None = None) -> tuple[int, int]:
        try:
            return self.state().select(selector, within)
        except UnknownVersion:
            # another process may have made it a moment ago
            return self.state(0).select(selector, within)

    def repo(self, selector: str) -> Repo:
        """The repository of the version that a selector names."""
        return self[selector].repo

    def __contains__(self, selector: object) -> bool:
        try:
            self._fresh_select(selector)  # type: ignore[arg-type]
        except (LookupError, ValueError):
            return False
        return True

    # ------------------------------------------------------------------ repositories

    def new_repo(self, alias: str = "", description: str = "", root: str | None = None, passcode: str = "") -> Repo:
        """Make a repository with one open version on master.

        Parameters
        ----------
        alias, description : str
            Free texts.
        root : str, optional
            UUID of the root version; any text without ``/`` and ``:`` that no version has yet.
        passcode : str
            Asked for by `delete_repo`, `Repo.delete_instance` and `Repo.rename_instance`.

        Raises
        ------
        BadRequest
            When a value is no text or the root can't be a UUID.
        Conflict
            When a version of that UUID exists.
        """
        from dvid_dask.versions.repo import Repo

        for name, value in (("alias", alias), ("description", description), ("passcode", passcode)):
            if not isinstance(value, str):
                raise BadRequest(f"{name} must be a string, not {value!r}")
        uuid = new_uuid() if root is None else check_uuid_text(root, "root")
        self.ensure_free(uuid)
        tree = self.make_tree(uuid, None)
        at = now()

        def insert(change: MetaChange) -> int:
            self.ensure_free(uuid, change.state)
            rid, vid = change.new_repo_id(), change.new_version_id()
            change.put(
                RepoRecord(
                    id=rid,
                    root=uuid,
                    alias=alias,
                    description=description,
                    passcode=hash_passcode(passcode),
                    created=at,
                    updated=at,
                )
            )
            change.put(NodeRecord(id=vid, repo=rid, uuid=uuid, tree=tree, created=at, updated=at))
            return rid

        return Repo(self, self.insert_with_tree(tree, insert))

    def delete_repo(self, root: str, passcode: str = "") -> None:
        """Remove a repository with all its versions and instances. There is no way back.

        The metadata goes first, in one commit; the trees follow. What a crash leaves of them, `gc` removes.

        Raises
        ------
        UnknownVersion
            When no repository has exactly this root UUID.
        Forbidden
            When the passcode given at creation doesn't match.
        """
        repo = self.repos[root]
        rid = repo.id

        def remove(change: MetaChange) -> list[str]:
            from dvid_dask.versions.meta import instance_key, node_key, repo_key

            held = change.state.repo(rid)
            check_passcode(held.record, passcode)
            change.remove(repo_key(rid))
            for vid in held.nodes:
                change.remove(node_key(rid, vid))
            for info in held.instances.values():
                change.remove(instance_key(rid, info.id))
            change.remove_logs(rid)
            return [*(n.tree for n in held.nodes.values()), unversioned_tree(root)]

        for name in self.meta.update(remove):
            self.drop_tree(name)

    # ------------------------------------------------------------------ blobs

    @property
    def blobs(self) -> Blobs:
        """Blobs by content."""
        if self._blobs is None:
            self._blobs = Blobs(self.store.tree(BLOBS))
        return self._blobs

    def put_blob(self, data: bytes) -> str:
        """Keep a blob; returns its reference, the same for the same bytes.

        Examples
        --------
        >>> import dvid_dask
        >>> ds = dvid_dask.create("memory://")
        >>> ds.put_blob(b"hello")
        '8UtYSGSD2U9wgDh5jClpfw=='
        >>> ds.get_blob('8UtYSGSD2U9wgDh5jClpfw==')
        b'hello'
        """
        return self.blobs.put(data)

    def get_blob(self, ref: str) -> bytes | None:
        """The bytes behind a reference, or None.

        Raises
        ------
        BadRequest
            When `ref` is no URL-safe base64 text.
        """
        return self.blobs.get(ref)

    # ------------------------------------------------------------------ watching

    def watch(self, receive: Callable[[Message], None], *, waiting: int = WAITING) -> Watcher:
        """Be told of every mutation that is made through this object.

        Messages are DVID's: of a mutation that begins (``merge``), of one that is done (``merge-complete``, once its
        commit is durable), of ids handed out, of versions made. Mutations made by other processes, also by the
        workers of a Dask cluster, are not heard of.

        Parameters
        ----------
        receive : callable
            Gets each `Message`, in a thread of its own. What it raises is logged; how long it takes slows no mutation.
        waiting : int
            Messages that may wait for it, long ones counted as several; what comes beyond them is lost to it, and the
            log says so.

        Returns
        -------
        Watcher
            Stop by its ``close()`` or use it in a ``with`` block: at the end all that was told is delivered.

        Examples
        --------
        >>> import dvid_dask
        >>> ds = dvid_dask.create("memory://")
        >>> notes = ds.new_repo().new_instance("keyvalue", "notes")
        >>> heard = []
        >>> with ds.watch(heard.append):
        ...     notes["soma"] = b"left"
        >>> [(m.record["Action"], m.record["Key"], m.data == notes.info.data_uuid) for m in heard]
        [('postkv', 'soma', True)]
        """
        return self.feed.watch(receive, waiting=waiting)

    # ------------------------------------------------------------------ counters

    def counter(self, rid: int, name: str, start: int = 0) -> Counter:
        """A durable counter of a repository."""
        return Counter(self.tree(counters.TREE), f"{rid:08x}/{name}".encode(), start)

    def numbers(self, rid: int, name: str, start: int = 0) -> NumberSource:
        """A source of numbers of a repository, from which this process hands out what it has reserved."""
        with self._lock:
            found = self._numbers.get((rid, name))
            if found is None:
                key = f"{rid:08x}/{name}".encode()
                found = self._numbers[rid, name] = NumberSource(self.tree(counters.TREE), key, start)
            return found

    def mutation_ids(self, rid: int) -> MutationIds:
        """The source of mutation ids of a repository."""
        with self._lock:
            found = self._mutation_ids.get(rid)
            if found is None:
                found = MutationIds(self.counter(rid, "mutation", FIRST_MUTATION))
                self._mutation_ids[rid] = found
            return found

    # ------------------------------------------------------------------ trees

    def tree(self, name: str) -> Tree:
        """The tree of this name; handles are shared and kept open."""
        with self._lock:
            found = self._trees.get(name)
            if found is not None:
                self._trees.move_to_end(name)
                return found
        found = self.store.tree(name)
        with self._lock:
            found = self._trees.setdefault(name, found)
            while len(self._trees) > _OPEN_TREES:
                self._trees.popitem(last=False)
            return found

    def make_tree(self, uuid: str, source: str | None) -> str:
        """Make the tree of a version that is to be inserted, empty or as a branch of `source`; returns its name.

        The name is the UUID where it can be one and nobody has taken it: a tree of that name without a version is
        the rest of a crash or the work of another process at this moment, and isn't touched.
        """
        base = uuid.lower() if is_hex_uuid(uuid) else "v-" + hashlib.sha256(uuid.encode()).hexdigest()[:32]
        name = base
        while True:
            try:
                if source is None:
                    self.store.create_tree(name)
                else:
                    self.store.branch(source, name)
            except storage.TreeExists:
                name = f"{base}-{os.urandom(4).hex()}"
                continue
            return name

    def drop_tree(self, name: str) -> None:
        """Remove a tree if it is there."""
        with self._lock:
            self._trees.pop(name, None)
        with contextlib.suppress(storage.TreeNotFound):
            self.store.drop_tree(name)

    def insert_with_tree(self, tree: str, insert: Any) -> Any:
        """Insert the version of a tree that was made for it; the tree goes if the metadata refuses."""
        try:
            return self.meta.update(insert)
        except DvidError:
            # refused, so nothing names the tree. After a kill, or an error of the store that leaves the outcome open,
            # it stays, and `gc` removes it if need be
            self.drop_tree(tree)
            raise

    def ensure_free(self, uuid: str, state: State | None = None) -> None:
        """Refuse a UUID that a version already has."""
        if uuid in (state or self.state()).uuids:
            raise Conflict(f"a version {uuid!r} exists already: UUIDs are unique over all repositories")

    # ------------------------------------------------------------------ care

    def compact(self) -> list[str]:
        """Compact every committed version that isn't; returns the names of their trees. May be killed and run again."""
        return self.sealer.run_all()

    def check(self) -> CheckReport:
        """Look for contradictions within the metadata, and between it and the trees.

        Complements `Store.fsck`, which looks at the files. Changes nothing; see `repair`.
        """
        from dvid_dask.versions.check import check

        return check(self)

    def check_contents(self, *, progress: Callable[[str], object] | None = None) -> ContentsReport:
        """Look for contents of instances that disagree: a label index with its voxels, coarser scales with scale 0 ...

        Reads all that is stored, versions that share it once, in bounded memory. Changes nothing.

        Parameters
        ----------
        progress : callable, optional
            Called with the name of what is looked at next.
        """
        from dvid_dask.versions.contents import check_contents

        return check_contents(self, progress=progress)

    def repair(self, *, drop_orphans: bool = False) -> CheckReport:
        """Finish what a killed process began and report what is left.

        Half-done commits are completed and writes forced onto committed versions carried to their descendants.
        `drop_orphans` also removes trees that no version names: only while nobody else makes versions.
        """
        from dvid_dask.versions.check import repair

        return repair(self, drop_orphans=drop_orphans)

    def gc(self, grace: float = 3600.0) -> Any:
        """Remove trees without a version and keys of deleted instances, then what nothing refers to in the pool.

        Parameters
        ----------
        grace : float
            Seconds for which a tree must have been seen without a version, and a file without a reference, before
            it goes. Keep it above the longest job that works on the store.
        """
        from dvid_dask.versions.check import sweep

        sweep(self, grace)
        return self.store.gc(grace=grace)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Datastore) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __repr__(self) -> str:
        return f"<Datastore {self.url}: {len(self.repos)} repositories>"

    def _repr_html_(self) -> str:
        from dvid_dask.versions.display import table

        rows = [
            (r.root[:12], r.alias, len(r.versions), ", ".join(r.instances) or "-", r.description)
            for r in self.repos.values()
        ]
        return table(f"Datastore {self.url}", ("root", "alias", "versions", "instances", "description"), rows)


@functools.lru_cache(maxsize=8)
def _reopen(url: str, read_only: bool, mode: str) -> Datastore:
    # kept, so that the tasks of a worker share what one of them has read
    return Datastore(storage.Store.open(url, read_only=read_only), compact=mode)


def unversioned_tree(root: str) -> str:
    """Name of the tree that holds a repository's unversioned instances."""
    plain = root if is_hex_uuid(root) and root == root.lower() else hashlib.sha256(root.encode()).hexdigest()[:32]
    return f"unversioned-{plain}"


def check_uuid_text(text: object, what: str) -> str:
    """A UUID chosen by the caller, where DVID takes any text; refused where no URL or selector could name it."""
    if not isinstance(text, str):
        raise BadRequest(f"{what} must be a string, not {text!r}")
    if not text or "/" in text or ":" in text or any(ord(c) < 32 for c in text) or len(text) > 256:
        raise BadRequest(
            f"{what} {text!r} can't name a version: expected 1 to 256 characters, none of them a slash, a colon or a "
            "control character"
        )
    return text


def hash_passcode(passcode: str) -> str:
    """What is kept of a passcode."""
    if not passcode:
        return ""
    salt = os.urandom(8)
    return f"{salt.hex()}:{hashlib.scrypt(passcode.encode(), salt=salt, n=2**12, r=8, p=1).hex()}"


def check_passcode(record: RepoRecord, passcode: str) -> None:
    """Refuse a wrong passcode."""
    if not record.passcode:
        return
    salt, _, digest = record.passcode.partition(":")
    given = hashlib.scrypt(passcode.encode(), salt=bytes.fromhex(salt), n=2**12, r=8, p=1).hex()
    if not hmac.compare_digest(given, digest):
        raise Forbidden(f"repository {record.root} has a passcode, and the one given doesn't match")
