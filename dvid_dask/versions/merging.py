"""Merging versions: a three-way merge of their trees, key by key, at the cost of what differs.

For each key that the parents disagree on, a parent's value *loses* to another's when it is what both had at a common
ancestor and the other's is not: the other changed it since. Values that lose to nobody are what remains; one value is
the result, none (all deleted) is no key, several are a conflict. Deleting loses to changing.

Common ancestors are the maximal ones of each pair of parents, so diamonds and parents that were branched at different
places come out as DVID's lookup through the DAG has them: a change on one side beats the unchanged value seen from the
other, whatever the order of the parents. After criss-cross merges two parents have several such ancestors and may each
have the value of another one; only then is it looked up where in the history the values were set (`Origins`).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import msgspec

from dvid_dask.errors import BadRequest, LockedVersion, UnknownVersion
from dvid_dask.store import prefix_end
from dvid_dask.versions.meta import MetaChange
from dvid_dask.versions.records import InstanceInfo, NodeRecord, is_hex_uuid, new_uuid, now

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Store, Transaction, View
    from dvid_dask.versions.repo import Repo
    from dvid_dask.versions.state import RepoState
    from dvid_dask.versions.version import Version

__all__ = ["Conflicts", "KeyConflict", "merge"]

#: Keys looked at together, and bytes written in one transaction of the merge.
_PART = 1024
_BATCH_BYTES = 32 << 20
#: Conflicts that the log of the new version names.
_NAMED = 20

_PREFIX = 9  # length of an instance's prefix in a tree


class _StoredConflict(msgspec.Struct, frozen=True):
    parents: tuple[str, ...]
    base: str | None


class KeyConflict(msgspec.Struct, frozen=True):
    """A key that several parents of a merge changed to different values.

    Attributes
    ----------
    instance : str
        Name of the data instance.
    key : bytes
        The key, relative to the instance.
    what : object
        The key as the datatype shows it.
    parents : tuple of str
        UUIDs of the parents whose values differ; read the values there.
    base : str or None
        UUID of a common ancestor of the first two.
    """

    instance: str
    key: bytes
    what: Any
    parents: tuple[str, ...]
    base: str | None


def _conflict_prefix(uuid: str) -> bytes:
    return b"merge/" + uuid.encode() + b"/"


class Conflicts(Sequence[KeyConflict]):
    """The conflicts of a merge version, read from its tree when asked for."""

    def __init__(self, version: Version) -> None:
        self._version = version

    def __len__(self) -> int:
        return self._version.record.conflicts

    def __iter__(self) -> Iterator[KeyConflict]:
        record = self._version.record
        if not record.conflicts:
            return
        by_prefix = {i.prefix: self._version.instance(i) for i in self._version.repo.state().instances.values()}
        prefix = _conflict_prefix(record.uuid)
        for key, value in self._version.tree().view().scan(prefix, prefix_end(prefix)):
            full = key[len(prefix) :]
            kept = msgspec.json.decode(value, type=_StoredConflict)
            data = by_prefix.get(full[:_PREFIX])
            own = full[_PREFIX:]
            if data is None:  # deleted since
                continue
            what = data.describe_change(own)
            yield KeyConflict(data.name, own, own if what is None else what, kept.parents, kept.base)

    @overload
    def __getitem__(self, index: int) -> KeyConflict: ...
    @overload
    def __getitem__(self, index: slice) -> list[KeyConflict]: ...
    def __getitem__(self, index: int | slice) -> KeyConflict | list[KeyConflict]:
        return list(self)[index]

    def __repr__(self) -> str:
        return f"<{len(self)} conflicts of version {self._version.uuid[:12]}>"


class _Decision(msgspec.Struct):
    """What becomes of one key: a value or None; or who is in conflict about it."""

    value: bytes | None
    between: tuple[int, ...] = ()


class Plan:
    """Parents and common ancestors of one merge, and the rule."""

    def __init__(self, bases: Mapping[tuple[int, int], Sequence[int]], parents: int) -> None:
        self._bases = bases
        self._parents = parents

    def decide(
        self,
        values: Sequence[bytes | None],
        at_bases: Mapping[int, bytes | None],
        older: Callable[[int, int], int | None],
    ) -> _Decision:
        """Settle a key.

        Parameters
        ----------
        values
            Per parent; None for no such key.
        at_bases
            Value at each common ancestor, by version id.
        older
            Asked for two parents that both have an ancestor's value, which takes several common ancestors: the one
            whose value is older than the other's, or None.
        """
        losers: set[int] = set()
        for (i, j), bases in self._bases.items():
            if values[i] == values[j]:
                continue
            i_old = any(values[i] == at_bases[b] for b in bases)
            j_old = any(values[j] == at_bases[b] for b in bases)
            if i_old and not j_old:
                losers.add(i)
            elif j_old and not i_old:
                losers.add(j)
            elif i_old and j_old:
                loser = older(i, j)
                if loser is not None:
                    losers.add(loser)
        remaining = [n for n in range(self._parents) if n not in losers]
        first: dict[bytes, int] = {}
        for n in remaining:
            value = values[n]
            if value is not None:
                first.setdefault(value, n)
        if len(first) > 1:
            return _Decision(None, tuple(first.values()))
        return _Decision(next(iter(first), None))


class Origins:
    """Where the value of one key was set: looked up through the history, for criss-cross merges.

    A version's value was set where its parent's was if it is the same; at a merge, where those parents' were that gave
    it by the rule; else at the version itself. Of a key that never was, nowhere.
    """

    def __init__(self, state: RepoState, get: Callable[[int], bytes | None]) -> None:
        self._state = state
        self._get = get
        self._found: dict[int, frozenset[int]] = {}
        self._above: dict[int, set[int]] = {}

    def older(self, a: int, b: int) -> int | None:
        """Which of two versions' values was set above where the other's was; None if neither."""
        for vid in sorted(self._state.ancestors(a, b)):  # parents come before children
            if vid not in self._found:
                self._found[vid] = self._origin(vid)
        if self._below(self._found[a], self._found[b]):
            return a
        return b if self._below(self._found[b], self._found[a]) else None

    def _below(self, old: frozenset[int], new: frozenset[int]) -> bool:
        """True when each of `old` lies above one of `new`."""
        return old != new and all(any(o != n and o in self._ancestors(n) for n in new) for o in old)

    def _ancestors(self, vid: int) -> set[int]:
        if vid not in self._above:
            self._above[vid] = self._state.ancestors(vid)
        return self._above[vid]

    def _origin(self, vid: int) -> frozenset[int]:
        parents = self._state.nodes[vid].parents
        value = self._get(vid)
        if not parents:
            return frozenset() if value is None else frozenset({vid})
        values = {p: self._get(p) for p in parents}
        remaining = [
            p for p in parents if not any(self._below(self._found[p], self._found[q]) for q in parents if q != p)
        ]
        given = {values[p] for p in remaining} - {None}
        natural = next(iter(given)) if len(given) == 1 else None
        if value != natural or len(given) > 1:
            return frozenset({vid})
        return frozenset().union(*(self._found[p] for p in remaining if values[p] == value))


class _Merger:
    def __init__(self, repo: Repo, parents: Sequence[Version], resolve: Sequence[InstanceInfo]) -> None:
        self.store: Store = repo.datastore.store
        self.parents = parents
        self.uuids = [p.uuid for p in parents]
        state = repo.state()
        ids = [p.id for p in parents]
        self._state, self._ids = state, ids
        pairs = list(itertools.combinations(range(len(ids)), 2))
        bases = {(i, j): state.merge_bases(ids[i], ids[j]) for i, j in pairs}
        self.plan = Plan(bases, len(ids))
        self.first_base = {pair: found[0] for pair, found in bases.items() if found}
        self.base_uuids = {b: state.nodes[b].uuid for found in bases.values() for b in found}
        self.views: list[View] = [p.tree().view(0) for p in parents]
        by_id = dict(zip(ids, self.views, strict=True))
        self._tree = repo.datastore.tree
        #: of parents and common ancestors, and of others as they are needed
        self._views = by_id
        self.instances: dict[bytes, Datatype] = {i.prefix: parents[0].instance(i) for i in state.instances.values()}
        self.resolved = {i.prefix for i in resolve}
        self.conflicts = 0
        self.named: list[str] = []

    def _differing(self) -> Iterator[list[bytes]]:
        first, *others = self.views
        streams = [(c.key for c in self.store.diff(first, other)) for other in others]
        part: list[bytes] = []
        last: bytes | None = None
        for key in heapq.merge(*streams):
            if key != last:
                part.append(key)
                last = key
                if len(part) == _PART:
                    yield part
                    part = []
        if part:
            yield part

    def run(self, name: str, uuid: str) -> None:
        """Write what the new version has beyond its first parent into its tree."""
        tree = self.store.tree(name)
        pending: dict[bytes, bytes | None] = {}
        size = 0

        def flush(tx: Transaction) -> None:
            for key, value in pending.items():
                if value is None:
                    tx.delete(key)
                else:
                    tx.put(key, value)

        for keys in self._differing():
            columns = [view.get_many(keys) for view in self.views]
            at_bases = {b: self._view(b).get_many(keys) for b in self.base_uuids}
            for n, key in enumerate(keys):
                values = [column[n] for column in columns]
                old = {b: column[n] for b, column in at_bases.items()}
                decision = self.plan.decide(values, old, partial(self._older, key))
                result = decision.value
                if decision.between:
                    result, settled = self._settle(key, decision.between, values, at_bases, n)
                    if not settled:
                        marker = _conflict_prefix(uuid) + key
                        pending[marker] = self._record(key, decision.between)
                        size += len(marker) + 100
                if result != values[0]:
                    pending[key] = result
                    size += len(key) + len(result or b"")
                if size > _BATCH_BYTES:
                    tree.update(flush)
                    pending, size = {}, 0
        if pending:
            tree.update(flush)

    def _older(self, key: bytes, i: int, j: int) -> int | None:
        origins = Origins(self._state, lambda vid: self._view(vid).get(key))
        older = origins.older(self._ids[i], self._ids[j])
        return None if older is None else self._ids.index(older)

    def _view(self, vid: int) -> View:
        if vid not in self._views:
            self._views[vid] = self._tree(self._state.nodes[vid].tree).view(0)
        return self._views[vid]

    def _settle(
        self,
        key: bytes,
        between: tuple[int, ...],
        values: Sequence[bytes | None],
        at_bases: Mapping[int, Sequence[bytes | None]],
        n: int,
    ) -> tuple[bytes | None, bool]:
        from dvid_dask.datatypes.base import CONFLICT

        prefix = key[:_PREFIX]
        data = self.instances.get(prefix)
        if data is None or prefix in self.resolved:
            # bookkeeping beside the instances, or a priority was asked for
            return values[between[0]], True
        base = self.first_base.get((between[0], between[1]))
        found = data.merge_value(
            key[_PREFIX:], None if base is None else at_bases[base][n], [values[b] for b in between]
        )
        if found is CONFLICT:
            return None, False
        return found, True

    def _record(self, key: bytes, between: tuple[int, ...]) -> bytes:
        data = self.instances[key[:_PREFIX]]
        self.conflicts += 1
        if len(self.named) < _NAMED:
            what = data.describe_change(key[_PREFIX:])
            self.named.append(f"{data.name}/{what if isinstance(what, str) else key[_PREFIX:].hex()}")
        base = self.first_base.get((between[0], between[1]))
        return msgspec.json.encode(
            _StoredConflict(tuple(self.uuids[b] for b in between), None if base is None else self.base_uuids[base])
        )

    def log_lines(self) -> list[str]:
        if not self.conflicts:
            return []
        more = f" and {self.conflicts - len(self.named)} more" if self.conflicts > len(self.named) else ""
        return [
            f"merge: {self.conflicts} keys were changed differently by several parents and read as absent here: "
            f"{', '.join(self.named)}{more}"
        ]


def _parent(repo: Repo, selector: str) -> Version:
    try:
        return repo[selector]
    except UnknownVersion:
        return repo.datastore[selector]  # found elsewhere, it is refused with better words


def merge(
    repo: Repo,
    parents: Sequence[str | Version],
    *,
    note: str = "",
    uuid: str | None = None,
    resolve: Sequence[InstanceInfo] = (),
) -> Version:
    """Make a merge version; see `Repo.merge` and `Repo.resolve`.

    The tree is finished before the metadata names it, in one commit, so a merge that fails or is killed leaves no
    version behind.
    """
    from dvid_dask.versions.version import Version

    if not isinstance(note, str):
        raise BadRequest(f"a note is a string, not {note!r}")
    if isinstance(parents, str) or len(parents) < 2:
        raise BadRequest(f"a merge needs two parents or more, not {parents!r}")
    versions = [p if isinstance(p, Version) else _parent(repo, p) for p in parents]
    for version in versions:
        if version.repo != repo:
            raise BadRequest(f"version {version.uuid} belongs to another repository than {repo.root}: can't merge it")
        if not version.locked:
            raise LockedVersion(f"version {version.uuid} is open: commit it before merging it")
    if len(set(versions)) < len(versions):
        raise BadRequest("a merge needs different parents, and one is named twice")
    if uuid is None:
        uuid = new_uuid()
    elif not (isinstance(uuid, str) and is_hex_uuid(uuid)):
        raise BadRequest(f"{uuid!r} can't be the UUID of a version: expected 32 hex digits")
    datastore = repo.datastore
    datastore.ensure_free(uuid)
    merger = _Merger(repo, versions, resolve)
    tree = datastore.make_tree(uuid, versions[0].record.tree)
    try:
        merger.run(tree, uuid)
    except BaseException:
        datastore.drop_tree(tree)
        raise

    def insert(change: MetaChange) -> int:
        held = change.state.repo(repo.id)
        for version in versions:
            if version.id not in held.nodes:
                raise UnknownVersion(f"version number {version.id} was removed meanwhile")
        datastore.ensure_free(uuid, change.state)
        at = now()
        vid = change.new_version_id()
        change.put(
            NodeRecord(
                id=vid,
                repo=repo.id,
                uuid=uuid,
                note=note,
                parents=tuple(v.id for v in versions),
                tree=tree,
                created=at,
                updated=at,
                conflicts=merger.conflicts,
            )
        )
        change.log(repo.id, vid, merger.log_lines(), at)
        for version in versions:
            change.put(msgspec.structs.replace(change.node(repo.id, version.id), updated=at))
        return vid

    return Version(repo, datastore.insert_with_tree(tree, insert))
