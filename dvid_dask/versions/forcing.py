"""Writes forced onto a committed version, and carried to its descendants.

DVID's reads fall through to ancestors, so what an administrator writes into a committed version shows in every
descendant that has not set the key itself. Trees don't fall through: the change is applied to each descendant whose
value is still the one that the version had before. Where a descendant has changed it too, it gets what the datatype
makes of both (`Datatype.merge_value`), else its own stays. Keys that belong together (`Datatype.carried_together`) get
to a descendant all or none: a write of which it would see a part is refused. It isn't merged by meaning, as versions
are: that would change committed descendants in many commits, and who reads there would not be told of contradictions.
A branch that is merged says all of that, in a version of its own.

Order, and what a kill leaves at each step:

1. ``forced-TREE`` is branched from the version's tree: a durable picture of the state before.
2. The version's tree is changed, in one commit.
3. The metadata counts the forced write. A child that was branched before step 2 and isn't in the metadata yet finds the
   count changed and is branched again; every other child is known now.
4. Each descendant's tree is changed, parents first, one commit each. What differs between the picture and the version
   says what to change, so doing it again changes nothing more.
5. The picture is dropped. As long as it is there, `Datastore.repair` (or the next forced write) runs 3 to 5 again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dvid_dask.errors import Conflict
from dvid_dask.store import TreeExists, TreeNotFound
from dvid_dask.versions.meta import MetaChange

if TYPE_CHECKING:
    from dvid_dask.store import Transaction, View
    from dvid_dask.versions.datastore import Datastore
    from dvid_dask.versions.state import RepoState
    from dvid_dask.versions.version import Version

__all__ = ["PICTURE", "finish_forced", "force_update"]

T = TypeVar("T")

#: Begins the names of pictures.
PICTURE = "forced-"

#: Seconds after which another process's picture is taken for the rest of a crash.
_PATIENCE = 10.0
_PART = 256
_PREFIX = 9  # length of an instance's prefix in a tree

# forced writes are rare and their carrying must not interleave
_turn = threading.Lock()


def force_update(version: Version, attempt: Callable[[Transaction], T]) -> T:
    """Run a transaction on a committed version's tree and carry what it changed to the descendants."""
    datastore = version.datastore
    name = version.record.tree
    picture = PICTURE + name
    with _turn:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                before = datastore.store.branch(name, picture).view(0)
                break
            except TreeExists:
                if time.monotonic() > deadline:
                    finish_forced(datastore, picture)
                time.sleep(0.02)

        def checked(tx: Transaction) -> T:
            result = attempt(tx)
            _refuse_halves(version, tx, before)
            return result

        try:
            result = datastore.tree(name).update(checked, force=True)
        except BaseException:
            # a change that failed is no change; one with an unknown end keeps the picture only if it happened
            _finish(datastore, version.repo.id, version.id, name, before)
            _drop(datastore, picture)
            raise
        _finish(datastore, version.repo.id, version.id, name, before)
        _drop(datastore, picture)
    return result


def _refuse_halves(version: Version, tx: Transaction, before: View) -> None:
    """Refuse a change of which a descendant would get a part that doesn't fit the rest of what it has.

    Raises
    ------
    Conflict
        If keys that belong together were changed here, and some of what the change is made from is different there.
    """
    state = version.repo.state()
    below = state.descendants(version.id)
    if not below:
        return
    known = {i.prefix: version.instance(i) for i in state.instances.values()}
    touched = [k for k in tx.touched if k[:_PREFIX] in known and known[k[:_PREFIX]].carried_together(k[_PREFIX:])]
    changed = tx.changed
    for vid in below:
        there = version.datastore.tree(state.nodes[vid].tree).view(0)
        differs: set[bytes] = set()
        goes: set[bytes] = set()
        for at in range(0, len(touched), _PART):
            part = touched[at : at + _PART]
            for key, old, now in zip(part, before.get_many(part), there.get_many(part), strict=True):
                if old != now:
                    differs.add(key[:_PREFIX])
                elif key in changed:
                    goes.add(key[:_PREFIX])
        for prefix in differs & goes:
            raise Conflict(
                f"{known[prefix].name!r} was changed since in version {state.nodes[vid].uuid}, where this write to its "
                f"committed ancestor {version.uuid} would show in part only: write to that version instead, or to a "
                "branch of the ancestor, and merge both"
            )


def finish_forced(datastore: Datastore, picture: str) -> None:
    """Carry what a killed process left, and drop its picture."""
    try:
        before = datastore.store.tree(picture).view(0)
    except TreeNotFound:
        return
    name = picture.removeprefix(PICTURE)
    for rid, repo in datastore.state(0).repos.items():
        for vid, node in repo.nodes.items():
            if node.tree == name:
                _finish(datastore, rid, vid, name, before)
    _drop(datastore, picture)


def _drop(datastore: Datastore, picture: str) -> None:
    with contextlib.suppress(TreeNotFound):
        datastore.store.drop_tree(picture)


def _finish(datastore: Datastore, rid: int, vid: int, name: str, before: View) -> None:
    keys = [change.key for change in datastore.store.diff(before, datastore.tree(name).view(0))]
    if not keys:
        return

    def count(change: MetaChange) -> RepoState:
        held = change.node(rid, vid)
        change.put(msgspec.structs.replace(held, forced=held.forced + 1))
        return change.state.repo(rid)

    state = datastore.meta.update(count)
    after = datastore.tree(name).view(0)
    version = datastore[state.nodes[vid].uuid]
    known = {i.prefix: version.instance(i) for i in state.instances.values()}

    def settle(key: bytes, old: bytes | None, sides: list[bytes]) -> object:
        from dvid_dask.datatypes.base import CONFLICT

        data = known.get(key[:_PREFIX])
        return CONFLICT if data is None else data.merge_value(key[_PREFIX:], old, sides)

    carried: dict[int, set[bytes]] = {vid: set(keys)}
    for below in state.descendants(vid):
        node = state.nodes[below]
        wanted = [k for k in keys if any(k in carried.get(p, ()) for p in node.parents)]
        if wanted:
            carried[below] = _carry(datastore, node.tree, wanted, before, after, settle)


def _carry(
    datastore: Datastore,
    name: str,
    keys: list[bytes],
    before: View,
    after: View,
    settle: Callable[[bytes, bytes | None, list[bytes]], object],
) -> set[bytes]:
    """Change keys in a descendant's tree where it still has the old value, or where `settle` knows what both changes
    make; returns those that now have the new one.
    """

    def apply(tx: Transaction) -> set[bytes]:
        done: set[bytes] = set()
        for at in range(0, len(keys), _PART):
            part = keys[at : at + _PART]
            for key, now, old, new in zip(
                part, tx.get_many(part), before.get_many(part), after.get_many(part), strict=True
            ):
                if now == old and old != new:
                    if new is None:
                        tx.delete(key)
                    else:
                        tx.put(key, new)
                    done.add(key)
                elif now == new:
                    done.add(key)
                elif now is not None and new is not None:
                    both = settle(key, old, [now, new])
                    if isinstance(both, bytes):
                        tx.put(key, both)
                        done.add(key)
        return done

    return datastore.tree(name).update(apply, force=True)
