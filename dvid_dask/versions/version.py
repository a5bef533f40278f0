"""A version: one node of a repository's DAG, and the way to the data at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.errors import BadRequest, Conflict, LockedVersion, UnknownInstance, UnknownVersion, did_you_mean
from dvid_dask.versions import registry
from dvid_dask.versions.datastore import check_uuid_text, unversioned_tree
from dvid_dask.versions.meta import MetaChange
from dvid_dask.versions.records import InstanceInfo, NodeRecord, is_hex_uuid, new_uuid, now
from dvid_dask.versions.repo import Repo, check_lines
from dvid_dask.versions.state import MASTER, branch_key, branch_name
from dvid_dask.versions.undo import drop_undo

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Tree
    from dvid_dask.versions.datastore import Datastore
    from dvid_dask.versions.diffing import VersionDiff
    from dvid_dask.versions.merging import KeyConflict

__all__ = ["UnbornVersion", "Version"]


class Version:
    """One version of a repository: open, or committed (locked) for ever.

    Got from ``datastore[selector]`` or ``repo[selector]``. A handle: what it shows is what the store holds now.

    Attributes
    ----------
    repo : Repo
    id : int
        DVID's version id; a child's is larger than its parents'.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> v = repo["master"]
    >>> kv = repo.new_instance("keyvalue", "notes")
    >>> kv["a"] = b"1"
    >>> v.commit("first", log=["all there is"])
    >>> child = v.newversion("second")
    >>> child["notes"]["a"]
    b'1'
    >>> v["notes"]["a"] = b"2"
    Traceback (most recent call last):
        ...
    dvid_dask.errors.LockedVersion: ...
    """

    __slots__ = ("id", "repo")

    def __init__(self, repo: Repo, vid: int) -> None:
        self.repo = repo
        self.id = vid

    def __reduce__(self) -> tuple[Any, ...]:
        return Version, (self.repo, self.id)

    @property
    def datastore(self) -> Datastore:
        """The datastore of its repository."""
        return self.repo.datastore

    @property
    def record(self) -> NodeRecord:
        """The stored record."""
        found = self.repo.state().nodes.get(self.id)
        if found is None:
            # made a moment ago by another process, perhaps
            found = self.datastore.state(0).repo(self.repo.id).nodes.get(self.id)
        if found is None:
            raise UnknownVersion(f"repository {self.repo.root} has no version number {self.id}")
        return found

    @property
    def uuid(self) -> str:
        """Its UUID; for a tag, the text of the tag."""
        return self.record.uuid

    @property
    def branch(self) -> str:
        """Name of its branch; the default one is ``master``."""
        return branch_name(self.record.branch)

    @property
    def note(self) -> str:
        """Its note."""
        return self.record.note

    @property
    def log(self) -> list[str]:
        """Lines of its log, each after its time."""
        return self.datastore.meta.log(self.repo.id, self.id)

    @property
    def locked(self) -> bool:
        """True once it is committed."""
        return self.record.locked

    @property
    def created(self) -> datetime:
        """When it was made (UTC)."""
        return self.record.created

    @property
    def updated(self) -> datetime:
        """When its own record last changed (UTC)."""
        return self.record.updated

    @property
    def parents(self) -> list[Version]:
        """Versions it was made from: none for the root, several for a merge."""
        return [Version(self.repo, p) for p in self.record.parents]

    @property
    def children(self) -> list[Version]:
        """Versions made from it, oldest first."""
        return [Version(self.repo, c) for c in self.repo.state().children_of(self.id)]

    def ancestors(self) -> list[Version]:
        """All versions above it, through all parents, newest first; without itself."""
        above = self.repo.state().ancestors(self.id) - {self.id}
        return [Version(self.repo, vid) for vid in sorted(above, reverse=True)]

    def path_to_root(self) -> list[Version]:
        """Itself, its first parent, and so on up to the root."""
        return [Version(self.repo, vid) for vid in self.repo.state().first_parents(self.id)]

    @property
    def conflicts(self) -> Sequence[KeyConflict]:
        """Keys that the merge which made this version could not settle; empty for others."""
        from dvid_dask.versions.merging import Conflicts

        return Conflicts(self)

    # ------------------------------------------------------------------ data

    def __getitem__(self, name: str) -> Datatype:
        """The data instance of this name, at this version.

        Raises
        ------
        UnknownInstance
        """
        info = self.repo.state().instances.get(name)
        if info is None:
            info = self.datastore.state(0).repo(self.repo.id).instances.get(name)
        if info is None:
            known = did_you_mean(str(name), self.repo.state().instances)
            raise UnknownInstance(f"no data instance {name!r} in repository {self.repo.root}{known}")
        return self.instance(info)

    def __contains__(self, name: object) -> bool:
        return name in self.repo.state().instances

    def __iter__(self) -> Iterator[str]:
        """Names of the data instances."""
        return iter(self.repo.state().instances)

    def instance(self, info: InstanceInfo) -> Datatype:
        """The datatype object of an instance at this version."""
        return registry.lookup(info.typename)(self, info)

    def tree(self, info: InstanceInfo | None = None) -> Tree:
        """The store's tree that holds this version, or for an unversioned instance the one of its repository."""
        if info is not None and not info.versioned:
            return self.datastore.tree(unversioned_tree(self.repo.root))
        return self.datastore.tree(self.record.tree)

    def diff(self, other: Version, *, instance: str | None = None) -> VersionDiff:
        """What changes from this version to another: per instance, the keys added, removed and changed.

        Costs what differs, not what there is: parts of the trees that both share are skipped.

        Parameters
        ----------
        other : Version
            A version of the same repository.
        instance : str, optional
            Only this data instance.

        Examples
        --------
        >>> import dvid_dask
        >>> repo = dvid_dask.create("memory://").new_repo()
        >>> v1 = repo["master"]
        >>> kv = repo.new_instance("keyvalue", "notes")
        >>> kv.put_many({"a": b"1", "b": b"2"})
        >>> v1.commit()
        >>> v2 = v1.newversion()
        >>> v2["notes"]["a"] = b"one"
        >>> del v2["notes"]["b"]
        >>> [(c.kind, c.what) for c in v1.diff(v2)["notes"]]
        [('changed', 'a'), ('removed', 'b')]
        """
        from dvid_dask.versions.diffing import VersionDiff

        if other.repo != self.repo:
            raise BadRequest(f"versions {self.uuid} and {other.uuid} belong to different repositories")
        names = None if instance is None else [self.repo.instances[instance].name]
        return VersionDiff(self, other, names)

    # ------------------------------------------------------------------ changes

    def commit(self, note: str = "", log: str | Iterable[str] = ()) -> None:
        """Lock this version for ever.

        Its tree is sealed first, at one moment for all writers; then the metadata says so, with note and log. A
        process killed in between leaves an open version that refuses writes: commit it again. Files are compacted
        afterwards (see `Datastore`).

        Parameters
        ----------
        note : str
            Replaces the note, unless empty.
        log : str or iterable of str
            Lines for the log.

        Raises
        ------
        LockedVersion
            When it is committed already.
        """
        lines = check_lines(log)
        if not isinstance(note, str):
            raise BadRequest(f"a note is a string, not {note!r}")
        record = self.record
        if record.locked:
            raise LockedVersion(f"version {record.uuid} is committed already")
        kept = drop_undo(self.tree())
        self.datastore.sealer.seal(record.tree)
        for name in kept:
            self.datastore.drop_tree(name)

        def lock(change: MetaChange) -> None:
            held = self._held(change)
            if held.locked:
                raise LockedVersion(f"version {held.uuid} was committed meanwhile")
            at = now()
            change.put(msgspec.structs.replace(held, locked=True, note=note or held.note, updated=at))
            change.log(self.repo.id, self.id, lines, at)

        self.datastore.meta.update(lock)
        self.datastore.feed.operation(self.repo, "commit", UUID=record.uuid, Note=note, Log=lines or None)
        self.datastore.sealer.compact_later(record.tree)

    def newversion(self, note: str = "", uuid: str | None = None) -> Version:
        """Make the next version on this version's branch.

        Parameters
        ----------
        note : str
            Note of the new version.
        uuid : str, optional
            Its UUID, 32 hex digits; else a random one.

        Raises
        ------
        LockedVersion
            When this version isn't committed yet.
        Conflict
            When it has a child on its branch, or a version has that UUID.
        """
        child = self._child(self.record.branch, note, uuid)
        self._tell_child("newversion", child, note)
        return child

    def new_branch(self, name: str, note: str = "", uuid: str | None = None) -> Version:
        """Make the first version of a new branch; under this version's own branch name, the next version.

        Parameters
        ----------
        name : str
            Name that no branch of the repository has; ``master`` and the empty text are refused.
        note : str
            Note of the new version.
        uuid : str, optional
            Its UUID, 32 hex digits; else a random one.

        Raises
        ------
        BadRequest, LockedVersion, Conflict
        """
        if not isinstance(name, str):
            raise BadRequest(f"a branch name is a string, not {name!r}")
        if not name or name == MASTER:
            raise BadRequest(f"{name!r} can't be the name of a new branch: master exists in every repository")
        if ":" in name or "/" in name or any(ord(c) < 32 for c in name):
            raise BadRequest(
                f"branch name {name!r} can't be: no selector could hold its colon, slash or control character"
            )
        child = self._child(name, note, uuid)
        self._tell_child("branch", child, note, Branch=name)
        return child

    def tag(self, name: str, note: str = "") -> Version:
        """Name this version for ever: a committed child whose UUID is the text of the tag.

        Parameters
        ----------
        name : str
            Text that no version has as its UUID.
        note : str
            Note of the tag; by default it says what is tagged.

        Raises
        ------
        BadRequest, LockedVersion, Conflict
        """
        check_uuid_text(name, "tag")
        note = note or f"tag {name!r} of version {self.uuid}"
        child = self._child(f"tag-{name}", note, name, locked=True)
        self._tell_child("tag", child, note, Branch=f"tag-{name}", Tag=name)
        return child

    def _tell_child(self, action: str, child: Version, note: str, **fields: str) -> None:
        if self.datastore.feed:
            self.datastore.feed.operation(self.repo, action, Parent=self.uuid, Child=child.uuid, Note=note, **fields)

    def _child(self, branch: str, note: str, uuid: str | None, *, locked: bool = False) -> Version:
        if not isinstance(note, str):
            raise BadRequest(f"a note is a string, not {note!r}")
        if uuid is None:
            uuid = new_uuid()
        elif not locked and not (isinstance(uuid, str) and is_hex_uuid(uuid)):
            raise BadRequest(f"{uuid!r} can't be the UUID of a version: expected 32 hex digits")
        branch = branch_key(branch)
        while True:
            record = self.record
            self._check_child(record, branch, uuid, self.datastore.state().repo(self.repo.id))
            self.datastore.ensure_free(uuid)
            self.datastore.sealer.settle(record.tree)
            tree = self.datastore.make_tree(uuid, record.tree)
            if locked:
                self.datastore.sealer.seal(tree)
            insert = partial(
                self._insert_child, record=record, branch=branch, note=note, uuid=uuid, tree=tree, locked=locked
            )
            made = self.datastore.insert_with_tree(tree, insert)
            if made is not None:
                return Version(self.repo, made)
            # a write was forced onto this version while it was branched: branch what it has become
            self.datastore.drop_tree(tree)

    def _insert_child(
        self, change: MetaChange, *, record: NodeRecord, branch: str, note: str, uuid: str, tree: str, locked: bool
    ) -> int | None:
        held = self._held(change)
        if held.forced != record.forced:
            return None
        self._check_child(held, branch, uuid, change.state.repo(self.repo.id))
        self.datastore.ensure_free(uuid, change.state)
        at = now()
        vid = change.new_version_id()
        change.put(
            NodeRecord(
                id=vid,
                repo=self.repo.id,
                uuid=uuid,
                branch=branch,
                note=note,
                parents=(self.id,),
                locked=locked,
                tree=tree,
                created=at,
                updated=at,
            )
        )
        change.put(msgspec.structs.replace(held, updated=at))
        return vid

    def _check_child(self, record: NodeRecord, branch: str, uuid: str, state: Any) -> None:
        if not record.locked:
            raise LockedVersion(f"version {record.uuid} is open: commit it before making a version from it")
        if branch == record.branch:
            for child in state.children_of(self.id):
                if state.nodes[child].branch == branch:
                    raise Conflict(
                        f"version {record.uuid} has a child on branch {branch_name(branch)!r} already "
                        f"({state.nodes[child].uuid}); make a branch of another name"
                    )
        elif branch in state.branches:
            raise Conflict(
                f"branch {branch_name(branch)!r} exists already in repository {state.record.root}; choose another name"
            )

    def _held(self, change: MetaChange) -> NodeRecord:
        held = change.state.repo(self.repo.id).nodes.get(self.id)
        if held is None:
            raise UnknownVersion(f"version number {self.id} was removed meanwhile")
        return held

    def set_note(self, note: str, *, force: bool = False) -> None:
        """Replace the note.

        Raises
        ------
        LockedVersion
            When it is committed and `force` isn't set.
        """
        if not isinstance(note, str):
            raise BadRequest(f"a note is a string, not {note!r}")

        def change(meta: MetaChange) -> None:
            held = self._held(meta)
            self._check_open(held, force)
            meta.put(msgspec.structs.replace(held, note=note, updated=now()))

        self.datastore.meta.update(change)
        self.datastore.feed.operation(self.repo, "nodenote", UUID=self.uuid, Note=note)

    def add_log(self, lines: str | Iterable[str], *, force: bool = False) -> None:
        """Append lines to the log.

        Raises
        ------
        LockedVersion
            When it is committed and `force` isn't set.
        """
        texts = check_lines(lines)

        def change(meta: MetaChange) -> None:
            self._check_open(self._held(meta), force)
            meta.log(self.repo.id, self.id, texts, now())

        self.datastore.meta.update(change)
        self.datastore.feed.operation(self.repo, "nodelog", UUID=self.uuid, Log=texts)

    @staticmethod
    def _check_open(record: NodeRecord, force: bool) -> None:
        if record.locked and not force:
            raise LockedVersion(f"version {record.uuid} is committed: make a new version from it")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and other.id == self.id and other.repo == self.repo

    def __hash__(self) -> int:
        return hash((self.id, self.repo))

    def __repr__(self) -> str:
        record = self.record
        state = "committed" if record.locked else "open"
        note = f": {record.note}" if record.note else ""
        return f"<Version {record.uuid[:12]} {branch_name(record.branch)} {state}{note}>"

    def _repr_html_(self) -> str:
        from dvid_dask.versions.display import table

        rows = [
            (i.name, i.typename, "versioned" if i.versioned else "unversioned", i.created_at[:12])
            for i in self.repo.state().instances.values()
        ]
        return table(repr(self)[1:-1], ("instance", "type", "", "made at"), rows)


class UnbornVersion(Version):
    """A version whose tree is there already, and whose record isn't: a merge works on it. Nobody else sees it."""

    __slots__ = ("_record",)

    def __init__(self, repo: Repo, record: NodeRecord) -> None:
        super().__init__(repo, record.id)
        self._record = record

    @property
    def record(self) -> NodeRecord:
        """The record that it will have, but for its number."""
        return self._record
