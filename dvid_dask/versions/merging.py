"""Merging versions: a three-way merge of their trees, key by key, at the cost of what differs.

For each key that the parents disagree on, a parent's value *loses* to another's when it is what both had at a common
ancestor and the other's is not: the other changed it since. Values that lose to nobody are what remains; one value is
the result, none (all deleted) is no key, several are a conflict. Deleting loses to changing.

Common ancestors are the maximal ones of each pair of parents, so diamonds, criss-cross merges and parents that were
branched at different places come out as DVID's lookup through the DAG has them: a change on one side beats the
unchanged value seen from the other, whatever the order of the parents.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
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

    def decide(self, values: Sequence[bytes | None], at_bases: Mapping[int, bytes | None]) -> _Decision:
        """Settle a key.

        Parameters
        ----------
        values
            Per parent; None for no such key.
        at_bases
            Value at each common ancestor, by version id.
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
        remaining = [n for n in range(self._parents) if n not in losers]
        first: dict[bytes, int] = {}
        for n in remaining:
            value = values[n]
            if value is not None:
                first.setdefault(value, n)
        if len(first) > 1:
            return _Decision(None, tuple(first.values()))
        return _Decision(next(iter(first), None))


class _Merger:
    def __init__(self, repo: Repo, parents: Sequence[Version], resolve: Sequence[InstanceInfo]) -> None:
        self.store: Store = repo.datastore.store
        self.parents = parents
        self.uuids = [p.uuid for p in parents]
        state = repo.state()
        ids = [p.id for p in parents]
        pairs = list(itertools.combinations(range(len(ids)), 2))
        bases = {(i, j): state.merge_bases(ids[i], ids[j]) for i, j in pairs}
        self.plan = Plan(bases, len(ids))
        self.first_base = {pair: found[0] for pair, found in bases.items() if found}
        self.base_uuids = {b: state.nodes[b].uuid for found in bases.values() for b in found}
        self.views: list[View] = [p.tree().view(0) for p in parents]
        by_id = dict(zip(ids, self.views, strict=True))
        tree = repo.datastore.tree
        self.base_views: dict[int, View] = {
            b: by_id[b] if b in by_id else tree(state.nodes[b].tree).view(0) for b in self.base_uuids
        }
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
            at_bases = {b: view.get_many(keys) for b, view in self.base_views.items()}
            for n, key in enumerate(keys):
                values = [column[n] for column in columns]
                decision = self.plan.decide(values, {b: column[n] for b, column in at_bases.items()})
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
