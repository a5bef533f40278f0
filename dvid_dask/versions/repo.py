"""A repository: its versions, its data instances, and the JSON that DVID's clients read of it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.errors import BadRequest, Conflict, LockedVersion, UnknownInstance, UnknownVersion, did_you_mean
from dvid_dask.formats.urls import shown
from dvid_dask.versions import registry
from dvid_dask.versions.contained import Instances, Versions
from dvid_dask.versions.counters import Counter, NumberSource
from dvid_dask.versions.datastore import check_passcode, unversioned_tree
from dvid_dask.versions.meta import MetaChange, instance_key
from dvid_dask.versions.records import InstanceInfo, RepoRecord, new_uuid, now, rfc3339
from dvid_dask.versions.settings import (
    check_instance_name,
    parse_checksum,
    parse_compression,
    parse_tags,
    parse_versioned,
)
from dvid_dask.versions.state import MASTER, RepoState, branch_key, branch_name

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.versions.datastore import Datastore
    from dvid_dask.versions.version import Version

__all__ = ["Repo"]


class Repo:
    """One repository: a DAG of versions and the data instances seen from all of them.

    Got from `Datastore.new_repo`, `Datastore.repos` or `Datastore.repo`. A handle: what it shows is what the store
    holds now. Equal handles name the same repository.

    Attributes
    ----------
    datastore : Datastore
    id : int
        Number of the repository in the store.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly", "a small brain")
    >>> repo.alias, len(repo.versions)
    ('fly', 1)
    >>> kv = repo.new_instance("keyvalue", "notes")
    >>> sorted(repo.instances)
    ['notes']
    >>> repo["master"].commit("first")
    >>> repo["master"].new_branch("proofreading").branch
    'proofreading'
    """

    __slots__ = ("datastore", "id")

    def __init__(self, datastore: Datastore, rid: int) -> None:
        self.datastore = datastore
        self.id = rid

    def __reduce__(self) -> tuple[Any, ...]:
        return Repo, (self.datastore, self.id)

    def state(self) -> RepoState:
        """The decoded metadata of this repository."""
        return self.datastore.state().repo(self.id)

    @property
    def record(self) -> RepoRecord:
        """The stored record."""
        return self.state().record

    @property
    def root(self) -> str:
        """UUID of the first version; names the repository."""
        return self.record.root

    @property
    def alias(self) -> str:
        """Short name; need not be unique."""
        return self.record.alias

    @property
    def description(self) -> str:
        """Free text."""
        return self.record.description

    @property
    def created(self) -> Any:
        """When it was made (datetime, UTC)."""
        return self.record.created

    @property
    def updated(self) -> Any:
        """When its own record last changed (datetime, UTC)."""
        return self.record.updated

    @property
    def log(self) -> list[str]:
        """Lines of its log, each after its time."""
        return self.datastore.meta.log(self.id, 0)

    @property
    def versions(self) -> Versions:
        """Its versions by UUID, oldest first."""
        return Versions(self)

    @property
    def instances(self) -> Instances:
        """Its data instances by name."""
        return Instances(self)

    @property
    def branches(self) -> dict[str, Version]:
        """Newest version of each branch, by name; the default branch is ``master``."""
        from dvid_dask.versions.version import Version

        state = self.state()
        found = {}
        for key in state.branches:
            leaf = state.leaf(key)
            if leaf is not None:
                found[branch_name(key)] = Version(self, leaf)
        return found

    # ------------------------------------------------------------------ finding

    def __getitem__(self, selector: str) -> Version:
        """A version of this repository.

        Parameters
        ----------
        selector : str
            A UUID; a branch (``"master"``), also with ``~N`` for the N-th version above its newest one; a unique
            beginning of a UUID; or any of DVID's selectors, with this repository where none is named.

        Raises
        ------
        UnknownVersion, AmbiguousVersion, BadRequest
        """
        from dvid_dask.versions.version import Version

        if not isinstance(selector, str):
            raise BadRequest(f"a version selector is a text, not {type(selector).__name__}")
        try:
            return Version(self, self._select(selector, 0.1))
        except UnknownVersion:
            return Version(self, self._select(selector, 0))

    def _select(self, selector: str, max_age: float) -> int:
        state = self.datastore.state(max_age)
        held = state.repo(self.id)
        if ":" in selector:
            return state.select(selector, self.id)[1]
        exact = state.uuids.get(selector)
        if exact is not None and exact[0] == self.id:
            return exact[1]
        name = selector.partition("~")[0]
        if branch_key(name) in held.branches or branch_key(selector) in held.branches:
            return state.on_branch(self.id, selector)
        try:
            return state.find_uuid(selector, self.id)[1]
        except UnknownVersion:
            known = did_you_mean(selector, map(branch_name, held.branches))
            raise UnknownVersion(
                f"no branch and no version of repository {held.record.root} is called {selector!r}{known}"
            ) from None

    def branch_versions(self, branch: str) -> list[Version]:
        """Versions from the newest of a branch up to the root, along first parents; empty for an unknown branch.

        The list goes on into the branches from which this one was made, as in DVID.
        """
        from dvid_dask.versions.version import Version

        state = self.state()
        leaf = state.leaf(branch_key(branch))
        return [] if leaf is None else [Version(self, vid) for vid in state.first_parents(leaf)]

    # ------------------------------------------------------------------ its own texts

    def set_info(self, *, alias: str | None = None, description: str | None = None) -> None:
        """Change alias and description; what is not given stays."""
        for name, value in (("alias", alias), ("description", description)):
            if value is not None and not isinstance(value, str):
                raise BadRequest(f"{name} must be a string, not {value!r}")
        if alias is None and description is None:
            return

        def change(meta: MetaChange) -> None:
            record = meta.repo(self.id)
            meta.put(
                msgspec.structs.replace(
                    record,
                    alias=record.alias if alias is None else alias,
                    description=record.description if description is None else description,
                    updated=now(),
                )
            )

        self.datastore.meta.update(change)

    def add_log(self, lines: str | Iterable[str]) -> None:
        """Append lines to the repository's log."""
        texts = check_lines(lines)
        self.datastore.meta.update(lambda meta: meta.log(self.id, 0, texts, now()))

    def counter(self, name: str, start: int = 0) -> Counter:
        """A durable counter of this repository that all processes share.

        Examples
        --------
        >>> import dvid_dask
        >>> repo = dvid_dask.create("memory://").new_repo()
        >>> labels = repo.counter("label-of-something", start=1)
        >>> labels.allocate(10), labels.allocate(), labels.value
        (1, 11, 12)
        """
        return self.datastore.counter(self.id, name, start)

    def numbers(self, name: str, start: int = 0) -> NumberSource:
        """Numbers of this repository, as `counter`, for who draws often: this process reserves some ahead.

        Examples
        --------
        >>> import dvid_dask
        >>> repo = dvid_dask.create("memory://").new_repo()
        >>> labels = repo.numbers("label-of-something", start=1)
        >>> labels.allocate(10), labels.allocate(), labels.value, labels.allocate(above=20)
        (1, 11, 12, 21)
        """
        return self.datastore.numbers(self.id, name, start)

    def next_mutation_id(self) -> int:
        """An id that no other mutation of this repository has or will have."""
        return self.datastore.mutation_ids(self.id).take()

    # ------------------------------------------------------------------ instances

    def new_instance(
        self,
        typename: str,
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        at: Version | None = None,
        force: bool = False,
    ) -> Datatype:
        """Make a data instance.

        Parameters
        ----------
        typename : str
            Datatype, as ``"keyvalue"`` or ``"labelmap"``.
        name : str
            Unique in the repository; not ``log``, ``branch``, ``note``, ``commit`` or ``newversion``.
        settings : Mapping
            DVID's creation settings, names in any case: ``Versioned``, ``Compression``, ``Checksum``, ``Tags`` and
            the type's own. Values are strings; unknown names are ignored.
        at : Version, optional
            Version at which it is recorded as made; the newest of master by default. It is seen from all versions.
        force : bool
            Also at a committed version.

        Raises
        ------
        BadRequest
            When type, name or a setting can't be used.
        Conflict
            When the name is taken or reserved.
        LockedVersion
            When `at` is committed and `force` isn't set.
        """
        if not isinstance(typename, str) or not typename:
            raise BadRequest(f"typename must be a string that names a datatype, not {typename!r}")
        cls = registry.lookup(typename)
        check_instance_name(name)
        if at is None:
            at = self[MASTER]
        elif at.repo != self:
            raise BadRequest(f"version {at.uuid} belongs to another repository than {self.root}")
        config = {str(k).lower(): v for k, v in (settings or {}).items()}
        versioned = parse_versioned(config)
        compression = parse_compression(config, cls.default_compression)
        checksum = parse_checksum(config)
        tags = parse_tags(config)
        own = cls.parse_settings(config)
        if not force and at.locked:
            raise LockedVersion(
                f"version {at.uuid} is committed: make the instance at an open version (it is seen from all), or force"
            )
        if not versioned:
            self.ensure_unversioned_tree()
        data_uuid, vid = new_uuid(), at.id

        def insert(meta: MetaChange) -> None:
            held = meta.state.repo(self.id)
            if name in held.instances:
                raise Conflict(_taken(held, name))
            node = meta.node(self.id, vid)
            if node.locked and not force:
                raise LockedVersion(f"version {node.uuid} was committed meanwhile")
            meta.put(
                InstanceInfo(
                    id=meta.new_instance_id(),
                    repo=self.id,
                    name=name,
                    typename=typename,
                    data_uuid=data_uuid,
                    created_at=node.uuid,
                    versioned=versioned,
                    compression=compression,
                    checksum=checksum,
                    tags=tags,
                    settings=own,
                )
            )
            told = shown(f"New data instance {name!r} of type {typename} at {node.uuid}: {config}")
            meta.log(self.id, 0, [told], now())

        self.datastore.meta.update(insert)
        self.datastore.feed.operation(self, "newinstance", UUID=at.uuid, Typename=typename, Dataname=name)
        return at[name]

    def ensure_unversioned_tree(self) -> None:
        """Make the tree of what the repository holds without versions, unless it is there."""
        from dvid_dask.store import TreeExists

        tree = unversioned_tree(self.root)
        if not self.datastore.store.has_tree(tree):
            try:
                self.datastore.store.create_tree(tree)
            except TreeExists:
                return  # another process was faster

    def update_settings(self, info: InstanceInfo, changes: Mapping[str, Any]) -> InstanceInfo:
        """Change some of an instance's own settings; returns the new record. Not versioned."""

        def change(meta: MetaChange) -> InstanceInfo:
            held = meta.state.repo(self.id).by_data_uuid.get(info.data_uuid)
            if held is None:
                raise UnknownInstance(f"data instance {info.name!r} was deleted meanwhile")
            made = msgspec.structs.replace(held, settings={**held.settings, **changes})
            if made.settings != held.settings:
                meta.put(made)
            return made

        return self.datastore.meta.update(change)

    def set_tags(self, name: str, tags: Mapping[str, str], *, replace: bool = False) -> InstanceInfo:
        """Add tags to an instance, or replace all it has; returns its new record. Not versioned.

        Raises
        ------
        BadRequest
            When a tag is no text.
        """
        for key, value in tags.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise BadRequest(f"tags are strings, not {key!r}: {value!r}")
        info = self.instances[name]

        def change(meta: MetaChange) -> InstanceInfo:
            held = meta.state.repo(self.id).by_data_uuid.get(info.data_uuid)
            if held is None:
                raise UnknownInstance(f"data instance {name!r} was deleted meanwhile")
            made = msgspec.structs.replace(held, tags=dict(tags) if replace else {**(held.tags or {}), **tags})
            if made.tags != held.tags:
                meta.put(made)
            return made

        return self.datastore.meta.update(change)

    def set_syncs(self, name: str, partners: Sequence[str], *, replace: bool = False) -> InstanceInfo:
        """Subscribe an instance to the changes of others, which then take part in their commits. Not versioned.

        Parameters
        ----------
        name : str
            The subscriber.
        partners : sequence of str
            Names of the instances to follow. Empty: nothing changes, or with `replace` all subscriptions end.
        replace : bool
            End the subscriptions that are not named.

        Raises
        ------
        BadRequest
            When a partner doesn't exist, or a type can't follow it; names each.
        """
        info = self.instances[name]
        cls = registry.lookup(info.typename)

        def change(meta: MetaChange) -> InstanceInfo:
            held = meta.state.repo(self.id)
            me = held.by_data_uuid.get(info.data_uuid)
            if me is None:
                raise UnknownInstance(f"data instance {name!r} was deleted meanwhile")
            if cls.sync_partners is None:
                raise BadRequest(f"data instance {name!r} can't sync: type {info.typename} follows no other instance")
            problems, found = [], []
            for partner in partners:
                other = held.instances.get(partner)
                if other is None:
                    problems.append(f"no data instance {partner!r}{did_you_mean(partner, held.instances)}")
                    continue
                refusal = cls.refuses_sync(me, other)
                if refusal:
                    problems.append(refusal)
                else:
                    found.append(other.data_uuid)
            if problems:
                raise BadRequest(f"can't sync {name!r}: {'; '.join(problems)}")
            if not partners and not replace:
                return me
            syncs = tuple(dict.fromkeys(found if replace else [*me.syncs, *found]))
            if syncs == me.syncs:
                return me
            made = msgspec.structs.replace(me, syncs=syncs)
            meta.put(made)
            meta.log(self.id, 0, [f"Data instance {name!r} set to sync with: {', '.join(partners) or 'none'}"], now())
            return made

        return self.datastore.meta.update(change)

    def rename_instance(self, old: str, new: str, passcode: str = "") -> None:
        """Give an instance another name. Its data and its data UUID stay.

        Raises
        ------
        UnknownInstance, BadRequest, Conflict, Forbidden
        """
        check_instance_name(new)
        info = self.instances[old]

        def change(meta: MetaChange) -> None:
            held = meta.state.repo(self.id)
            check_passcode(held.record, passcode)
            me = held.by_data_uuid.get(info.data_uuid)
            if me is None:
                raise UnknownInstance(f"data instance {old!r} was deleted meanwhile")
            if new in held.instances:
                raise Conflict(_taken(held, new))
            meta.put(msgspec.structs.replace(me, name=new))
            meta.log(self.id, 0, [f"Renamed data instance {old!r} to {new!r}"], now())

        self.datastore.meta.update(change)

    def delete_instance(self, name: str, passcode: str = "") -> None:
        """Remove an instance and all its data at all versions. There is no way back.

        The metadata goes first, in one commit, and the name is free; the keys follow, tree by tree. What a crash
        leaves of them, `Datastore.gc` removes: the instance's number is never given out again.

        Raises
        ------
        UnknownInstance, Forbidden
        """
        info = self.instances[name]

        def remove(meta: MetaChange) -> None:
            held = meta.state.repo(self.id)
            check_passcode(held.record, passcode)
            me = held.by_data_uuid.get(info.data_uuid)
            if me is None:
                raise UnknownInstance(f"data instance {name!r} was deleted meanwhile")
            meta.remove(instance_key(self.id, me.id))
            for other in held.instances.values():
                if me.data_uuid in other.syncs:
                    meta.put(msgspec.structs.replace(other, syncs=tuple(s for s in other.syncs if s != me.data_uuid)))
            meta.log(self.id, 0, [f"Deleted data instance {name!r} of type {me.typename} ({me.data_uuid})"], now())

        self.datastore.meta.update(remove)
        from dvid_dask.versions.check import remove_instance_keys

        remove_instance_keys(self, info)

    # ------------------------------------------------------------------ merge

    def merge(self, parents: Sequence[str | Version], note: str = "", *, uuid: str | None = None) -> Version:
        """Join committed versions into a new open one on master: a three-way merge of every key.

        A key that one parent changed since the common ancestor gets that parent's value; changed by one and deleted by
        another, the change stays; changed by several to different values, it is a conflict: absent from the new version
        and listed in its `Version.conflicts` and its log. Nothing is made when a parent can't be merged.

        Parameters
        ----------
        parents : sequence of str or Version
            At least two committed versions of one repository, by selector or handle.
        note : str
            Note of the new version.

        Raises
        ------
        BadRequest
            When fewer than two are named, one twice, or one of another repository.
        LockedVersion
            When a parent is open.
        """
        from dvid_dask.versions.merging import merge

        return merge(self, parents, note=note, uuid=uuid)

    def resolve(
        self, instances: Sequence[str], parents: Sequence[str | Version], note: str = "", *, uuid: str | None = None
    ) -> Version:
        """Merge, and settle conflicts in the named instances: the first parent in the list that changed the key wins.

        Other instances merge as in `merge`.

        Raises
        ------
        BadRequest, UnknownInstance, LockedVersion
        """
        from dvid_dask.versions.merging import merge

        names = list(instances)
        if not names or not all(isinstance(n, str) for n in names):
            raise BadRequest(f"name at least one data instance whose conflicts are to be resolved, not {instances!r}")
        infos = [self.instances[n] for n in names]
        return merge(self, parents, note=note, uuid=uuid, resolve=infos)

    # ------------------------------------------------------------------ DVID's JSON

    def to_json(self, visible: Container[str] | None = None) -> dict[str, Any]:
        """The repository as DVID's ``/api/repo/{uuid}/info`` shows it; numbers of versions, not UUIDs, link the DAG.

        Parameters
        ----------
        visible : container of str, optional
            UUIDs of the only versions to show, with each all above it, one or more of them of this repository. The
            repository's own log is then left out.
        """
        from dvid_dask.versions.version import Version

        state = self.state() if visible is None else self.state().only(visible)
        record = state.record
        logs = dict(self.datastore.meta.logs(self.id))
        if visible is not None:
            logs.pop(0, None)
        leaf = state.leaf("")
        at = Version(self, state.root.id if leaf is None else leaf)
        next_id, saved = self.datastore.mutation_ids(self.id).at()
        return {
            "Root": record.root,
            "Alias": record.alias,
            "Description": record.description,
            "Log": logs.get(0, []),
            "Properties": record.properties,
            "DataInstances": {name: at.instance(info).describe() for name, info in state.instances.items()},
            "DAG": {
                "Root": record.root,
                "Nodes": {
                    node.uuid: {
                        "Branch": node.branch,
                        "Note": node.note,
                        "Log": logs.get(vid, []),
                        "UUID": node.uuid,
                        "VersionID": vid,
                        "Locked": node.locked,
                        "Parents": list(node.parents),
                        "Children": list(state.children_of(vid)),
                        "Created": rfc3339(node.created),
                        "Updated": rfc3339(node.updated),
                    }
                    for vid, node in sorted(state.nodes.items())
                },
            },
            "MutationID": next_id,
            "SavedMutationID": saved,
            "Created": rfc3339(record.created),
            "Updated": rfc3339(record.updated),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Repo) and other.id == self.id and other.datastore == self.datastore

    def __hash__(self) -> int:
        return hash((self.id, self.datastore))

    def __repr__(self) -> str:
        state = self.state()
        name = f" {state.record.alias!r}" if state.record.alias else ""
        return (
            f"<Repo {state.record.root[:12]}{name}: {len(state.nodes)} versions, "
            f"instances {', '.join(state.instances) or 'none'}>"
        )

    def _repr_html_(self) -> str:
        from dvid_dask.versions.display import table

        rows = [
            (
                v.uuid[:12],
                v.branch,
                "committed" if v.locked else "open",
                ", ".join(p.uuid[:8] for p in v.parents),
                v.note,
            )
            for v in self.versions.values()
        ]
        title = f"{self.alias or 'Repository'} ({self.root[:12]}): {', '.join(self.instances) or 'no instances'}"
        return table(title, ("version", "branch", "state", "parents", "note"), rows)


def _taken(repo: RepoState, name: str) -> str:
    return f"repository {repo.record.root} has a data instance {name!r} already; choose another name"


def check_lines(lines: str | Iterable[str]) -> list[str]:
    """Log lines as a list of texts."""
    texts = [lines] if isinstance(lines, str) else list(lines)
    for text in texts:
        if not isinstance(text, str):
            raise BadRequest(f"log lines are strings, not {text!r}")
    return texts
