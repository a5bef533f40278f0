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
from dvid_dask.versions.meaning import MergeMutation, MergeStep, Origins
from dvid_dask.versions.meta import MetaChange
from dvid_dask.versions.records import InstanceInfo, NodeRecord, is_hex_uuid, new_uuid, now

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Store, Transaction, Tree, View
    from dvid_dask.versions.mutation import Mutation
    from dvid_dask.versions.repo import Repo
    from dvid_dask.versions.space import Space, TxSpace
    from dvid_dask.versions.version import Version

__all__ = ["Conflicts", "KeyConflict", "merge"]

#: Keys looked at together, and bytes written in one transaction of the merge.
_PART = 1024
_BATCH_BYTES = 32 << 20
#: Conflicts that the log of the new version names.
_NAMED = 20

_NAMED_LENGTH = 200

_PREFIX = 9  # length of an instance's prefix in a tree
_UUID = 32


class _StoredConflict(msgspec.Struct, frozen=True, omit_defaults=True):
    parents: tuple[str, ...]
    base: str | None
    what: Any = None


class KeyConflict(msgspec.Struct, frozen=True):
    """Something that several parents of a merge changed differently.

    Attributes
    ----------
    instance : str
        Name of the data instance.
    key : bytes
        The key, relative to the instance. It is absent from the new version, unless the type of the instance merges by
        meaning: then the first parent's change is there, and the key only names the conflict.
    what : object
        The key as the datatype shows it, or what contradicts each other in the field's words.
    parents : tuple of str
        UUIDs of the parents that differ; read what they have there.
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
            what = data.describe_change(own) if kept.what is None else kept.what
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
        self.by_meaning = [p for p, data in self.instances.items() if data.merges_by_meaning and data.info.versioned]
        self.resolved = {i.prefix for i in resolve}
        self.conflicts = 0  # keys that are absent
        self.settled = 0  # what was settled for the first parent
        self.named: list[str] = []
        self.named_settled: list[str] = []
        self._listed: dict[bytes, bytes] = {}
        self._new_tree: Tree | None = None

    def _differing(self) -> Iterator[list[bytes]]:
        first, *others = self.views
        streams = [self._differing_by_key(first, other) for other in others]
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

    def _differing_by_key(self, first: View, other: View) -> Iterator[bytes]:
        """Keys that differ, but those of instances that merge by meaning."""
        at = b""
        for prefix in [*sorted(self.by_meaning), None]:
            for change in self.store.diff(first, other, at, prefix):
                yield change.key
            at = prefix_end(prefix or b"")

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

    # -------------------------------------------------------------- by meaning

    def run_by_meaning(self, new: Version) -> None:
        """Have the instances that merge by meaning do so: of a parent all, those that follow before those followed."""
        if not self.by_meaning:
            return
        tree = self._new_tree = self.store.tree(new.record.tree)
        mutation = new.repo.next_mutation_id()
        moment = now()

        def update(fn: Callable[[Mutation, TxSpace], Any], data: Datatype) -> Any:
            def attempt(tx: Transaction) -> Any:
                m = MergeMutation(mutation, "", "", new, tx, tree.name, new.id)
                m.time = moment
                return fn(m, m.space(data))

            return tree.update(attempt)

        for n in range(1, len(self.parents)):
            bases = self._bases_of_step(n)
            for info in self._followers_first():
                data = new.instance(info)
                step = MergeStep(
                    data.space_in(tree.view(0)),
                    data.space_in(self.views[n]),
                    [data.space_in(self._view(b)) for b in bases],
                    update=partial(update, data=data),
                    list_conflict=partial(self._list, new.uuid, info.prefix, n, bases),
                    older=partial(self._older_side, data, n),
                )
                if not step.untouched(step.theirs):
                    data.merge_versions(step)
                self._flush_listed()

    def _bases_of_step(self, n: int) -> list[int]:
        """The newest common ancestors of what is merged so far and of parent `n`."""
        state = self._state
        common = state.ancestors(*self._ids[:n]) & state.ancestors(self._ids[n])
        above = {p for vid in common for p in state.nodes[vid].parents}
        return sorted(common - above)

    def _followers_first(self) -> list[InstanceInfo]:
        infos = {i.data_uuid: i for i in self._state.instances.values() if i.prefix in self.by_meaning}
        ordered: dict[str, InstanceInfo] = {}

        def visit(info: InstanceInfo, above: frozenset[str]) -> None:
            if info.data_uuid in ordered or info.data_uuid in above:
                return  # done, or a ring
            for other in infos.values():
                if info.data_uuid in other.syncs:
                    visit(other, above | {info.data_uuid})
            ordered[info.data_uuid] = info

        for info in infos.values():
            visit(info, frozenset())
        return list(ordered.values())

    def _older_side(self, data: Datatype, n: int, get: Callable[[Space], Any]) -> str | None:
        def at(vid: int) -> Any:
            return get(data.space_in(self._view(vid)))

        theirs = self._ids[n]
        origins = Origins(self._state, at)
        for ours in self._ids[:n]:
            if at(ours) != at(theirs):
                older = origins.older(ours, theirs)
                if older is not None:
                    return "theirs" if older == theirs else "ours"
        return None

    def _list(self, uuid: str, prefix: bytes, n: int, bases: Sequence[int], key: bytes, what: Any) -> None:
        if prefix in self.resolved:
            return
        base = self._state.nodes[bases[0]].uuid if bases else None
        stored = _StoredConflict((self.uuids[0], self.uuids[n]), base, what)
        self._listed[_conflict_prefix(uuid) + prefix + key] = msgspec.json.encode(stored)
        if len(self._listed) >= _PART:
            self._flush_listed()

    def _flush_listed(self) -> None:
        listed, self._listed = self._listed, {}

        def write(tx: Transaction) -> list[bytes]:
            new = [key for key, held in zip(listed, tx.get_many(list(listed)), strict=True) if held is None]
            tx.put_many((key, listed[key]) for key in new)
            return new

        for marker in self._new_tree.update(write) if listed and self._new_tree is not None else ():
            self.settled += 1
            if len(self.named_settled) < _NAMED:
                stored = msgspec.json.decode(listed[marker], type=_StoredConflict)
                full = marker[len(_conflict_prefix("")) + _UUID :]
                data = self.instances[full[:_PREFIX]]
                what = data.describe_change(full[_PREFIX:]) if stored.what is None else stored.what
                text = ", ".join(f"{k} {v}" for k, v in what.items()) if isinstance(what, dict) else str(what)
                self.named_settled.append(f"{data.name}: {text}"[:_NAMED_LENGTH])

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
        lines = []
        if self.conflicts:
            lines.append(
                f"merge: changed differently by several parents, so absent here ({self.conflicts}): "
                f"{', '.join(self.named)}{_more(self.conflicts, self.named)}"
            )
        if self.settled:
            lines.append(
                f"merge: changes that contradict each other, so the first parent's are here ({self.settled}): "
                f"{'; '.join(self.named_settled)}{_more(self.settled, self.named_settled)}"
            )
        return lines


def _more(count: int, named: list[str]) -> str:
    return f" and {count - len(named)} more" if count > len(named) else ""


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
    from dvid_dask.versions.version import UnbornVersion, Version

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
    at = now()
    record = NodeRecord(
        id=0,  # until the metadata gives one
        repo=repo.id,
        uuid=uuid,
        note=note,
        parents=tuple(v.id for v in versions),
        tree=tree,
        created=at,
        updated=at,
    )
    try:
        merger.run(tree, uuid)
        merger.run_by_meaning(UnbornVersion(repo, record))
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
        conflicts = merger.conflicts + merger.settled
        change.put(msgspec.structs.replace(record, id=vid, created=at, updated=at, conflicts=conflicts))
        change.log(repo.id, vid, merger.log_lines(), at)
        for version in versions:
            change.put(msgspec.structs.replace(change.node(repo.id, version.id), updated=at))
        return vid

    return Version(repo, datastore.insert_with_tree(tree, insert))
