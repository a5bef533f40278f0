"""The decoded metadata of a store at one moment: repositories, versions, instances, and how to find them.

States never change; a change of the metadata makes a new one that shares what stayed the same. All questions about the
version DAG are answered here, on plain numbers, so that they can be tested without a store.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TypeVar

import msgspec

from dvid_dask.errors import AmbiguousVersion, BadRequest, UnknownVersion, did_you_mean
from dvid_dask.versions.records import Header, InstanceInfo, NodeRecord, RepoRecord

__all__ = ["MASTER", "RepoState", "State", "branch_key", "branch_name"]

#: DVID's name for the branch whose stored name is the empty string.
MASTER = "master"

R = TypeVar("R")


def branch_key(name: str) -> str:
    """The stored name of a branch: master is the empty string."""
    return "" if name == MASTER else name


def branch_name(key: str) -> str:
    """The name of a branch that people type."""
    return key or MASTER


class RepoState:
    """One repository: its versions by id and its instances by name."""

    __slots__ = ("__dict__", "instances", "nodes", "record")

    def __init__(
        self, record: RepoRecord, nodes: Mapping[int, NodeRecord], instances: Mapping[str, InstanceInfo]
    ) -> None:
        self.record = record
        self.nodes = nodes
        self.instances = instances

    def only(self, uuids: Container[str]) -> RepoState:
        """The repository as if it had no other versions than these.

        With a version, all above it must be among them.
        """
        return RepoState(self.record, {k: v for k, v in self.nodes.items() if v.uuid in uuids}, self.instances)

    @cached_property
    def root(self) -> NodeRecord:
        """The first version."""
        return self.nodes[min(self.nodes)]

    @cached_property
    def children(self) -> dict[int, tuple[int, ...]]:
        """Ids of the children of each version that has some, in the order they were made."""
        found: dict[int, list[int]] = {}
        for vid in sorted(self.nodes):
            for parent in self.nodes[vid].parents:
                found.setdefault(parent, []).append(vid)
        return {k: tuple(v) for k, v in found.items()}

    @cached_property
    def branches(self) -> dict[str, int]:
        """Id of the first version of each branch, by stored name."""
        first: dict[str, int] = {}
        for vid in sorted(self.nodes):
            first.setdefault(self.nodes[vid].branch, vid)
        return first

    @cached_property
    def by_data_uuid(self) -> dict[str, InstanceInfo]:
        """Instances by the identity that survives renaming."""
        return {i.data_uuid: i for i in self.instances.values()}

    @cached_property
    def _leafs(self) -> dict[str, int]:
        return {}

    def children_of(self, vid: int) -> tuple[int, ...]:
        """Ids of a version's children."""
        return self.children.get(vid, ())

    def leaf(self, branch: str) -> int | None:
        """Id of the newest version of a branch, or None for a branch that isn't there.

        The walk starts at the first version of the branch and follows its children on the branch. Where there are
        two (a merge puts its child on master, beside a child that may be there already) it follows the one with a
        single parent, else the older one: a merge beside the line never moves the tip away from it.
        """
        known = self._leafs.get(branch)
        if known is not None:
            return known
        at = self.branches.get(branch)
        if at is None:
            return None
        while True:
            on = [c for c in self.children_of(at) if self.nodes[c].branch == branch]
            if not on:
                break
            at = min(on, key=lambda c: (len(self.nodes[c].parents) > 1, c))
        self._leafs[branch] = at
        return at

    def first_parents(self, vid: int) -> Iterator[int]:
        """A version, its first parent, and so on up to the root."""
        at: int | None = vid
        while at is not None:
            yield at
            parents = self.nodes[at].parents
            at = parents[0] if parents else None

    def ancestors(self, *vids: int) -> set[int]:
        """All versions above these, through all parents; themselves too."""
        seen: set[int] = set()
        todo = list(vids)
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo.extend(self.nodes[at].parents)
        return seen

    def descendants(self, vid: int) -> list[int]:
        """All versions below one, parents before children; without itself."""
        seen: set[int] = set()
        todo = list(self.children_of(vid))
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo.extend(self.children_of(at))
        return sorted(seen)  # a child's id is always larger than its parents'

    def merge_bases(self, a: int, b: int) -> list[int]:
        """The common ancestors of two versions that lie above no other common ancestor, oldest first.

        One in most histories, two or more after criss-cross merges.
        """
        common = self.ancestors(a) & self.ancestors(b)
        above: set[int] = set()
        for vid in common:
            above.update(self.nodes[vid].parents)
        return sorted(common - above)


class State:
    """All repositories of a store at one moment."""

    __slots__ = ("_names", "_selected", "header", "repos", "uuids")

    def __init__(
        self,
        header: Header,
        repos: Mapping[int, RepoState],
        uuids: dict[str, tuple[int, int]],
        names: list[str],
    ) -> None:
        self.header = header
        self.repos = repos
        self.uuids = uuids
        self._names = names
        self._selected: dict[str, tuple[int, int]] = {}

    @classmethod
    def build(cls, header: Header, records: Iterable[RepoRecord | NodeRecord | InstanceInfo]) -> State:
        """A state from all records."""
        empty = cls(header, {}, {}, [])
        return empty.changed(header, records, ())

    def changed(
        self,
        header: Header,
        put: Iterable[RepoRecord | NodeRecord | InstanceInfo],
        removed: Iterable[tuple[str, int, int]],
    ) -> State:
        """A state with records set and others removed, each named by ("r" | "n" | "i", repo id, own id)."""
        repos: dict[int, RepoRecord] = {}
        nodes: dict[int, dict[int, NodeRecord | None]] = {}
        instances: dict[int, dict[int, InstanceInfo | None]] = {}
        gone: set[int] = set()
        for record in put:
            if isinstance(record, RepoRecord):
                repos[record.id] = record
            elif isinstance(record, NodeRecord):
                nodes.setdefault(record.repo, {})[record.id] = record
            else:
                instances.setdefault(record.repo, {})[record.id] = record
        for kind, repo, own in removed:
            if kind == "r":
                gone.add(repo)
            elif kind == "n":
                nodes.setdefault(repo, {})[own] = None
            else:
                instances.setdefault(repo, {})[own] = None
        all_repos = dict(self.repos)
        uuids, names = self.uuids, self._names
        for rid in {*repos, *nodes, *instances, *gone}:
            old = self.repos.get(rid)
            if rid in gone:
                if old is not None:
                    uuids = {u: at for u, at in uuids.items() if at[0] != rid}
                    names = sorted(uuids)
                    del all_repos[rid]
                continue
            head = repos.get(rid) or (old.record if old else None)
            if head is None:  # leftovers of a repository that was deleted meanwhile
                continue
            new_nodes: Mapping[int, NodeRecord] = old.nodes if old else {}
            if rid in nodes:
                merged = dict(new_nodes)
                if uuids is self.uuids:
                    uuids, names = dict(uuids), list(names)
                for vid, node in nodes[rid].items():
                    held = merged.pop(vid, None) if node is None else merged.get(vid)
                    if node is None:
                        if held is not None:
                            del uuids[held.uuid]
                            names.remove(held.uuid)
                        continue
                    merged[vid] = node
                    if held is None:
                        uuids[node.uuid] = (rid, vid)
                        insort(names, node.uuid)
                new_nodes = merged
            new_instances: Mapping[str, InstanceInfo] = old.instances if old else {}
            if rid in instances:
                by_id = {i.id: i for i in new_instances.values()}
                for iid, info in instances[rid].items():
                    if info is None:
                        by_id.pop(iid, None)
                    else:
                        by_id[iid] = info
                new_instances = {i.name: i for i in sorted(by_id.values(), key=lambda i: i.name)}
            made = RepoState(head, new_nodes, new_instances)
            if old is not None and new_nodes is old.nodes:
                # same DAG: what was worked out about it holds
                for name in ("root", "children", "branches", "_leafs"):
                    if name in old.__dict__:
                        made.__dict__[name] = old.__dict__[name]
            elif old is not None and _same_dag(old.nodes, new_nodes, nodes[rid]):
                for name in ("children", "branches", "_leafs"):
                    if name in old.__dict__:
                        made.__dict__[name] = old.__dict__[name]
            all_repos[rid] = made
        return State(header, all_repos, uuids, names)

    def repo(self, rid: int) -> RepoState:
        """One repository.

        Raises
        ------
        UnknownVersion
            When it was deleted.
        """
        found = self.repos.get(rid)
        if found is None:
            raise UnknownVersion("the repository was deleted")
        return found

    # ------------------------------------------------------------------ selectors

    def select(self, selector: str, within: int | None = None) -> tuple[int, int]:
        """Repository id and version id of DVID's version selector.

        ``<uuid or unique prefix>``, ``<prefix>:<branch>``, ``:<branch>`` (only repository, or `within`), each branch
        with an optional ``~N``. An exact UUID wins over longer ones that begin with it.

        Raises
        ------
        UnknownVersion, AmbiguousVersion, BadRequest
        """
        found = self._selected.get(selector) if within is None else None
        if found is None:
            found = self._select(selector, within)
            if within is None and len(self._selected) < 10_000:
                self._selected[selector] = found
        return found

    def _select(self, selector: str, within: int | None) -> tuple[int, int]:
        if not isinstance(selector, str):
            raise BadRequest(f"a version selector is a text, not {type(selector).__name__}")
        head, colon, tail = selector.partition(":")
        if ":" in tail:
            raise BadRequest(f"version selector {selector!r} has more than one colon; expected uuid:branch~N")
        if not head:
            if not colon:
                raise BadRequest("a version selector is empty; give a UUID, its beginning, or uuid:branch")
            rid = self._only_repo(selector) if within is None else within
        else:
            rid, vid = self.find_uuid(head, within)
            if not tail:
                return rid, vid
        return rid, self.on_branch(rid, tail or MASTER)

    def _only_repo(self, selector: str) -> int:
        if len(self.repos) == 1:
            return next(iter(self.repos))
        if not self.repos:
            raise UnknownVersion(f"no version {selector!r}: the store holds no repository yet")
        raise AmbiguousVersion(
            f"{selector!r} names a branch without a repository and the store holds {len(self.repos)}: "
            f"put any version of the repository in front, as {next(iter(self.repos.values())).record.root[:6]}:master"
        )

    def find_uuid(self, text: str, within: int | None = None) -> tuple[int, int]:
        """Repository and version id of a UUID or of a unique beginning of one."""
        exact = self.uuids.get(text)
        if exact is not None and (within is None or exact[0] == within):
            return exact
        at = bisect_left(self._names, text)
        hits: list[str] = []
        while at < len(self._names) and self._names[at].startswith(text):
            if within is None or self.uuids[self._names[at]][0] == within:
                hits.append(self._names[at])
                if len(hits) > 3:
                    break
            at += 1
        if len(hits) == 1:
            return self.uuids[hits[0]]
        if hits:
            some = ", ".join(hits[:3]) + (", ..." if len(hits) > 3 else "")
            raise AmbiguousVersion(f"version {text!r} is not unique: it begins {some}; give more of the UUID")
        raise UnknownVersion(f"no version begins with {text!r}")

    def on_branch(self, rid: int, text: str) -> int:
        """Version id of ``branch`` or ``branch~N``: the leaf, or the N-th version above it."""
        repo = self.repo(rid)
        name, tilde, number = text.partition("~")
        leaf = repo.leaf(branch_key(name or MASTER))
        if leaf is None:
            # a branch may itself hold a tilde
            whole = repo.leaf(branch_key(text)) if tilde else None
            if whole is not None:
                return whole
            known = did_you_mean(name, map(branch_name, repo.branches))
            raise UnknownVersion(f"no branch {name!r} in repository {repo.record.root}{known}")
        if not tilde:
            return leaf
        if not (number.isascii() and number.isdigit()):
            raise BadRequest(f"{text!r}: what follows ~ must be a number of versions to go back, 0 or more")
        steps = int(number)
        for n, vid in enumerate(repo.first_parents(leaf)):
            if n == steps:
                return vid
        raise UnknownVersion(
            f"{text!r} goes back {steps} versions, but only {n} lie above the leaf of {name or MASTER!r}"
        )


def _same_dag(
    old: Mapping[int, NodeRecord], new: Mapping[int, NodeRecord], changes: Mapping[int, NodeRecord | None]
) -> bool:
    if len(old) != len(new):
        return False
    return all(
        node is not None and vid in old and old[vid].branch == node.branch and old[vid].parents == node.parents
        for vid, node in changes.items()
    )


def decode(kind: type[R], data: bytes) -> R:
    """A record from its JSON text."""
    return msgspec.json.decode(data, type=kind)
