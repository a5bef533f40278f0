"""Contradictions within the metadata and between it and the trees; finishing what was killed; sweeping what is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.store import TreeNotFound, View, prefix_end
from dvid_dask.versions import counters
from dvid_dask.versions.blobs import TREE as BLOBS
from dvid_dask.versions.datastore import META, unversioned_tree
from dvid_dask.versions.forcing import PICTURE, finish_forced
from dvid_dask.versions.merging import _conflict_prefix
from dvid_dask.versions.meta import MetaChange
from dvid_dask.versions.mutation import read_log
from dvid_dask.versions.records import InstanceInfo, NodeRecord, now
from dvid_dask.versions.staging import STAGED
from dvid_dask.versions.state import RepoState
from dvid_dask.versions.undo import KEPT, kept_trees

if TYPE_CHECKING:
    from dvid_dask.store import Transaction
    from dvid_dask.versions.datastore import Datastore
    from dvid_dask.versions.repo import Repo

__all__ = ["CheckReport", "check", "remove_instance_keys", "repair", "sweep"]

_ORPHAN = b"orphan/"


class CheckReport(msgspec.Struct, frozen=True):
    """What `Datastore.check` found.

    Attributes
    ----------
    problems : list of str
        Contradictions: something was damaged, or written by other means.
    unfinished : list of str
        What a killed process left in a defined state; `Datastore.repair` finishes it.
    leftovers : list of str
        Garbage that does no harm; `Datastore.gc` removes it.
    repos, versions, instances : int
        What was looked at.
    """

    problems: list[str]
    unfinished: list[str]
    leftovers: list[str]
    repos: int
    versions: int
    instances: int

    @property
    def ok(self) -> bool:
        """True when nothing contradicts."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.repos} repositories, {self.versions} versions, {self.instances} instances"]
        for kind in ("problems", "unfinished", "leftovers"):
            lines.extend(f"{kind}: {text}" for text in getattr(self, kind))
        return "\n".join(lines if len(lines) > 1 else [*lines, "no contradictions"])


def check(datastore: Datastore) -> CheckReport:
    """Look for contradictions; see `Datastore.check`."""
    problems: list[str] = []
    unfinished: list[str] = []
    leftovers: list[str] = []
    # names first: a tree made after this is in the state, or isn't looked at
    trees = datastore.store.trees()
    state = datastore.state(0)
    present = set(trees)
    expected = {META, counters.TREE, BLOBS}
    for name in expected - present:
        problems.append(f"tree {name!r} of the datastore is missing")
    owners: dict[str, str] = {}
    for rid, repo in state.repos.items():
        where = f"repository {repo.record.root}"
        if not repo.nodes:
            problems.append(f"{where} has no version")
            continue
        if repo.root.uuid != repo.record.root:
            problems.append(f"{where}: its first version is {repo.root.uuid}")
        expected.add(unversioned_tree(repo.record.root))
        problems.extend(_check_dag(where, repo))
        for vid, node in repo.nodes.items():
            label = f"version {node.uuid}"
            expected.add(node.tree)
            if node.tree in owners:
                problems.append(f"{label} shares tree {node.tree!r} with {owners[node.tree]}")
            owners[node.tree] = label
            if vid > state.header.versions:
                problems.append(f"{label}: id {vid} was never given out (the last is {state.header.versions})")
            try:
                view = datastore.tree(node.tree).view(0)
            except TreeNotFound:
                # dropped since the state was read, or lost
                if vid in (datastore.state(0).repos.get(rid) or repo).nodes:
                    problems.append(f"{label}: its tree {node.tree!r} is missing")
                continue
            if view.sealed and not node.locked:
                unfinished.append(f"{label}: its commit was interrupted after the tree was sealed")
            elif node.locked and not view.sealed:
                problems.append(f"{label} is committed, but its tree {node.tree!r} is not sealed")
            problems.extend(_check_conflicts(label, node, view))
            known = {i.prefix for i in repo.instances.values()}
            fresh = datastore.state(0).repos.get(rid)
            if fresh is not None:
                known |= {i.prefix for i in fresh.instances.values()}
            for prefix in _instance_prefixes(view):
                if prefix not in known:
                    leftovers.append(f"{label}: keys of a deleted data instance (number {int(prefix[:8], 16)})")
        problems.extend(_check_instances(datastore, where, repo, state.header.instances, present))
        problems.extend(_check_mutation_ids(datastore, where, rid, repo))
    problems.extend(_check_logs(datastore))
    for name in trees:
        if name.startswith(PICTURE):
            unfinished.append(f"a write forced onto the version of tree {name.removeprefix(PICTURE)!r} was interrupted")
        elif name not in expected and name not in _expected_now(datastore) and name not in _kept_now(datastore, name):
            leftovers.append(f"tree {name!r} belongs to no version (a version being made right now, or a crash)")
    return CheckReport(
        problems=problems,
        unfinished=unfinished,
        leftovers=leftovers,
        repos=len(state.repos),
        versions=sum(len(r.nodes) for r in state.repos.values()),
        instances=sum(len(r.instances) for r in state.repos.values()),
    )


def _check_dag(where: str, repo: RepoState) -> Iterator[str]:
    roots = [n.uuid for n in repo.nodes.values() if not n.parents]
    if len(roots) != 1:
        yield f"{where} has {len(roots)} versions without a parent: {', '.join(roots)}"
    for vid, node in repo.nodes.items():
        label = f"version {node.uuid}"
        if node.id != vid or node.repo != repo.record.id:
            yield f"{label}: its record lies under another key"
        for parent in node.parents:
            above = repo.nodes.get(parent)
            if above is None:
                yield f"{label}: its parent number {parent} is missing"
            elif parent >= vid:
                yield f"{label}: its parent {above.uuid} is younger"
            elif not above.locked:
                yield f"{label}: its parent {above.uuid} is open"
        if len(node.parents) < 2:
            for other in repo.children_of(vid):
                twin = repo.nodes[other]
                if twin.branch == node.branch and len(twin.parents) == 1:
                    same = [
                        c
                        for c in repo.children_of(vid)
                        if repo.nodes[c].branch == node.branch and len(repo.nodes[c].parents) == 1
                    ]
                    if len(same) > 1:
                        yield f"{label} has {len(same)} children on its branch"
                    break


def _check_conflicts(label: str, node: NodeRecord, view: View) -> Iterator[str]:
    prefix = _conflict_prefix(node.uuid)
    if len(node.parents) > 1:
        kept = sum(1 for _ in view.keys(prefix, prefix_end(prefix)))
        if kept != node.conflicts:
            yield f"{label}: {node.conflicts} conflicts were counted, {kept} are kept"


def _check_instances(datastore: Datastore, where: str, repo: RepoState, last: int, present: set[str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, info in repo.instances.items():
        if info.data_uuid in seen:
            yield f"{where}: instances {name!r} and {seen[info.data_uuid]!r} share the data UUID {info.data_uuid}"
        seen[info.data_uuid] = name
        if info.id > last:
            yield f"{where}: instance {name!r} has number {info.id}, which was never given out (the last is {last})"
        for partner in info.syncs:
            if partner not in repo.by_data_uuid:
                yield f"{where}: instance {name!r} syncs with {partner}, which is no instance"
        tree = unversioned_tree(repo.record.root)
        if not info.versioned and tree not in present and not datastore.store.has_tree(tree):
            yield f"{where}: instance {name!r} is unversioned, but tree {tree!r} is missing"


def _check_mutation_ids(datastore: Datastore, where: str, rid: int, repo: RepoState) -> Iterator[str]:
    """Ids in the logs of versions that are open, where the newest mutations are, lie below the counter."""
    highest = 0
    for node in repo.nodes.values():
        if node.locked:
            continue
        view = datastore.tree(node.tree).view(0)
        for info in repo.instances.values():
            if info.versioned:
                highest = max([highest, *(r.id for r in read_log(view, info.id, node.id))])
    saved = datastore.mutation_ids(rid).counter.value
    if highest >= saved:
        yield f"{where}: mutation id {highest} is in a log, but the counter stands at {saved}"


def _check_logs(datastore: Datastore) -> Iterator[str]:
    counted: dict[tuple[int, int], int] = {}
    for rid, vid, _ in datastore.meta.log_keys():
        counted[rid, vid] = counted.get((rid, vid), 0) + 1
    state = datastore.state(0)
    for rid, repo in state.repos.items():
        lengths = {0: repo.record.logged, **{vid: node.logged for vid, node in repo.nodes.items()}}
        for vid, logged in lengths.items():
            kept = counted.pop((rid, vid), 0)
            if kept < logged:  # more may have come meanwhile
                what = f"version {repo.nodes[vid].uuid}" if vid else f"repository {repo.record.root}"
                yield f"{what} counts {logged} log lines, {kept} are kept"
    for rid, vid in counted:
        if rid not in state.repos:
            yield f"log lines of version number {vid} belong to no repository (number {rid})"


def _expected_now(datastore: Datastore) -> set[str]:
    found: set[str] = set()
    for repo in datastore.state(0).repos.values():
        found.update(n.tree for n in repo.nodes.values())
        found.add(unversioned_tree(repo.record.root))
    return found


def _kept_now(datastore: Datastore, name: str) -> set[str]:
    """Trees that open versions keep for an undo, if this may be one."""
    found: set[str] = set()
    if name.startswith(KEPT):
        for repo in datastore.state(0).repos.values():
            for node in repo.nodes.values():
                if not node.locked:
                    with contextlib.suppress(TreeNotFound):
                        found.update(kept_trees(datastore.tree(node.tree).view(0)))
    return found


def _instance_prefixes(view: View) -> Iterator[bytes]:
    """Prefixes of the instances that have keys in a tree; one look per instance."""
    at = b"0"
    while True:
        key = next(view.keys(at, b"g"), None)  # prefixes begin with a hex digit
        if key is None:
            return
        prefix = key[:9]
        yield prefix
        at = prefix_end(prefix)


def repair(datastore: Datastore, *, drop_orphans: bool = False) -> CheckReport:
    """Finish what was killed; see `Datastore.repair`."""
    for name in datastore.store.trees():
        if name.startswith(PICTURE):
            finish_forced(datastore, name)
    for rid, repo in datastore.state(0).repos.items():
        for vid, node in repo.nodes.items():
            if node.locked:
                continue
            with contextlib.suppress(TreeNotFound):
                if datastore.tree(node.tree).view(0).sealed:
                    datastore.meta.update(partial(_finish_commit, rid=rid, vid=vid))
    if drop_orphans:
        for name in _orphans(datastore):
            datastore.drop_tree(name)
    return check(datastore)


def _finish_commit(change: MetaChange, rid: int, vid: int) -> None:
    repo = change.state.repos.get(rid)
    node = repo.nodes.get(vid) if repo is not None else None
    if node is None or node.locked:
        return
    at = now()
    change.put(msgspec.structs.replace(node, locked=True, updated=at))
    change.log(rid, vid, ["commit finished by repair; its note and log, if any, were lost"], at)


def _orphans(datastore: Datastore) -> list[str]:
    names = datastore.store.trees()
    expected = {META, counters.TREE, BLOBS} | _expected_now(datastore)
    if any(n.startswith(KEPT) for n in names):
        expected |= _kept_now(datastore, KEPT)
    return [n for n in names if n not in expected and not n.startswith(PICTURE) and _is_ours(n)]


def _is_ours(name: str) -> bool:
    """True for names that this room gives; other rooms may keep trees of their own."""
    if name.startswith(("v-", "unversioned-", KEPT, STAGED)):
        return True
    return len(name) >= 32 and all(c in "0123456789abcdef" for c in name[:32]) and (len(name) == 32 or name[32] == "-")


def sweep(datastore: Datastore, grace: float) -> list[str]:
    """Remove trees that were seen without a version `grace` seconds ago already, and keys of deleted instances."""
    tree = datastore.tree(counters.TREE)
    orphans = set(_orphans(datastore))
    moment = time.time()

    def note(tx: Transaction) -> list[str]:
        seen = {k[len(_ORPHAN) :].decode(): float(v) for k, v in tx.scan(_ORPHAN, prefix_end(_ORPHAN))}
        for name in seen.keys() - orphans:
            tx.delete(_ORPHAN + name.encode())
        for name in orphans - seen.keys():
            tx.put(_ORPHAN + name.encode(), b"%.3f" % moment)
        return [n for n in orphans if moment - seen.get(n, moment) >= grace]

    ripe = sorted(tree.update(note))
    for name in ripe:
        if name not in _expected_now(datastore) and name not in _kept_now(datastore, name):
            datastore.drop_tree(name)
    for repo in datastore.state(0).repos.values():
        for node in repo.nodes.values():
            with contextlib.suppress(TreeNotFound):
                _sweep_instances(datastore, repo, node.tree)
        with contextlib.suppress(TreeNotFound):
            _sweep_instances(datastore, repo, unversioned_tree(repo.record.root))
    return ripe


def _sweep_instances(datastore: Datastore, repo: RepoState, name: str) -> None:
    found = list(_instance_prefixes(datastore.tree(name).view(0)))
    # read after the keys: an instance is in the metadata before it has any
    held = datastore.state(0).repos.get(repo.record.id)
    if held is None:
        return
    known = {i.prefix for i in held.instances.values()}
    for prefix in found:
        if prefix not in known:
            _remove_keys(datastore, name, prefix)


def _remove_keys(datastore: Datastore, name: str, prefix: bytes) -> None:
    kept = (prefix, b"log/" + prefix, b"undo/" + prefix)

    def remove(tx: Transaction) -> None:
        for start in kept:
            tx.delete_range(start, prefix_end(start))

    datastore.tree(name).update(remove, force=True)


def remove_instance_keys(repo: Repo, info: InstanceInfo) -> None:
    """Remove all keys of a deleted instance from all trees of its repository."""
    datastore = repo.datastore
    state = repo.state()
    # a versioned instance may keep what isn't versioned beside the unversioned ones
    versions = [n.tree for n in state.nodes.values()] if info.versioned else []
    for name in [*versions, unversioned_tree(state.record.root)]:
        with contextlib.suppress(TreeNotFound):
            _remove_keys(datastore, name, info.prefix)
