"""Merging by meaning: what a datatype gets to bring the changes of another version into its instance.

A key-by-key merge (`dvid_dask.versions.merging`) is right where each key stands for itself. Where values depend on each
other, as voxels and their label index do, the datatype merges (`Datatype.merge_versions`): it starts from what one side
has, looks up what the other side changed since both were one, and carries that out as edits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from dvid_dask.store import diff, prefix_end
from dvid_dask.versions.mutation import Mutation

if TYPE_CHECKING:
    from dvid_dask.versions.space import Space, TxSpace
    from dvid_dask.versions.state import RepoState

__all__ = ["MergeMutation", "MergeStep", "Origins", "Settled", "differing", "three_way"]

T = TypeVar("T")
V = TypeVar("V")

_PART = 1024
_BATCH_BYTES = 32 << 20


class Settled(NamedTuple, Generic[V]):
    """What becomes of one thing: its value; and whether both sides changed it to different ones (the value is ours)."""

    value: V
    conflict: bool


def three_way(ours: V, theirs: V, at_bases: Sequence[V], older: Callable[[], str | None]) -> Settled[V]:
    """The rule of a merge for one thing of two sides.

    Parameters
    ----------
    ours, theirs
        What each side says.
    at_bases
        What their common ancestors say: one, or several after criss-cross merges.
    older
        Asked where both sides have what some ancestor has: whose value was set first, "ours" or "theirs", or None.

    Examples
    --------
    >>> three_way("a", "r", ["r"], lambda: None), three_way("a", "b", ["r"], lambda: None)
    (Settled(value='a', conflict=False), Settled(value='a', conflict=True))
    """
    if ours == theirs:
        return Settled(ours, conflict=False)
    ours_old, theirs_old = ours in at_bases, theirs in at_bases
    if ours_old and theirs_old:
        loser = older()
        return Settled(theirs if loser == "ours" else ours, conflict=loser is None)
    if ours_old or theirs_old:
        return Settled(theirs if ours_old else ours, conflict=False)
    return Settled(ours, conflict=True)


class Origins:
    """Where a value was set: looked up through the history, for criss-cross merges.

    A version's value was set where its parent's was if it is the same; at a merge, where those parents' were that gave
    it by the rule; else at the version itself. Of a key that never was, nowhere.

    Parameters
    ----------
    state
        The repository's versions.
    get
        The value at a version, None for none.
    """

    def __init__(self, state: RepoState, get: Callable[[int], Hashable | None]) -> None:
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


class MergeMutation(Mutation):
    """What a merge does to the tree of the version that it makes. The edits are in the logs of the parents already.

    Events go to the instances that follow, in the same commit; one that is unversioned was told when the edits were
    made. Nothing is logged, announced or kept for an undo.
    """

    def log(self, instance: Any, record: dict[str, Any]) -> None:
        """See the class."""

    def announce(self, instance: Any, record: dict[str, Any]) -> None:
        """See the class."""

    def report(self, instance: Any, record: dict[str, Any]) -> None:
        """See the class."""

    def keeps_undo(self, instance: Any) -> bool:
        """See the class."""
        return False


class MergeStep:
    """One further parent of a merge, as an instance sees it; see `Datatype.merge_versions`.

    Attributes
    ----------
    ours, theirs : Space
        The instance's keys on both sides, pinned: in the new version as far as it is merged (at first the first
        parent's), and in the other parent.
    bases : sequence of Space
        Its keys at the common ancestors that lie above no other: one, or several after criss-cross merges.
    """

    def __init__(
        self,
        ours: Space,
        theirs: Space,
        bases: Sequence[Space],
        *,
        update: Callable[[Callable[[Mutation, TxSpace], Any]], Any],
        list_conflict: Callable[[bytes, Any], None],
        older: Callable[[Callable[[Space], Hashable | None]], str | None] = lambda _: None,
    ) -> None:
        self.ours = ours
        self.theirs = theirs
        self.bases = bases
        self._update = update
        self._list = list_conflict
        self._older = older

    def update(self, fn: Callable[[Mutation, TxSpace], T]) -> T:
        """Change the new version in one commit of many; nobody sees it before the merge is whole.

        `fn` gets a `Mutation` whose `publish` tells the instances that follow, and the instance's keys.
        """
        return self._update(fn)  # type: ignore[no-any-return]

    def conflict(self, key: bytes, what: Any) -> None:
        """List something that both sides changed in ways that contradict each other; ours stays.

        Parameters
        ----------
        key
            Names it among the conflicts of the instance: a key of the instance, or any bytes.
        what
            In the field's words, JSON-able: ``{"supervoxel": 7, "bodies": [1, 2]}``.
        """
        self._list(key, what)

    def changes(self, prefix: bytes = b"", *, since: Space | None = None) -> Iterator[bytes]:
        """Keys below a prefix whose values differ between both sides (or between `since` and theirs), in order."""
        return differing(self.ours if since is None else since, self.theirs, prefix)

    def untouched(self, side: Space, prefix: bytes = b"") -> bool:
        """Whether one of the sides has changed nothing below a prefix since the common ancestor."""
        return len(self.bases) == 1 and next(differing(self.bases[0], side, prefix), None) is None

    def settle(self, ours: V, theirs: V, at_bases: Sequence[V], get: Callable[[Space], Any]) -> Settled[V]:
        """The rule, for one thing; `get` reads it from a space."""
        return three_way(ours, theirs, at_bases, lambda: self._older(get))

    def base_of(self, ours: V, theirs: V, at_bases: Sequence[V], get: Callable[[Space], Any]) -> V:
        """What a thing was before the sides changed it, the one ancestor's word where there are several."""
        if len(at_bases) == 1:
            return at_bases[0]
        settled = self.settle(ours, theirs, at_bases, get)
        if settled.conflict or ours == theirs:
            return at_bases[0]
        return theirs if settled.value == ours else ours

    def merge_keys(
        self, prefix: bytes = b"", settle: Callable[[bytes, bytes | None, Sequence[bytes | None]], Any] | None = None
    ) -> None:
        """Merge keys below a prefix one by one, as instances are that don't merge by meaning.

        Parameters
        ----------
        prefix
            Which keys.
        settle
            `Datatype.merge_value` or the like, for keys that both sides changed: gets key, value at the ancestor, and
            both values, of which a deletion is None. Where it answers `CONFLICT`, and by default, the conflict is
            listed and ours stays. Without it a change beats a deletion.
        """
        from dvid_dask.datatypes.base import CONFLICT

        pending: list[tuple[bytes, bytes | None]] = []
        size = 0

        def flush(_: Mutation, space: TxSpace) -> None:
            for key, value in pending:
                if value is None:
                    space.delete(key)
                else:
                    space.put(key, value)

        for part in _parts(self.changes(prefix)):
            columns = [side.get_many(part) for side in (self.ours, self.theirs, *self.bases)]
            for n, key in enumerate(part):
                mine, other, *at_bases = [column[n] for column in columns]

                def get(space: Space, key: bytes = key) -> bytes | None:
                    return space.get(key)

                value, conflict = self.settle(mine, other, at_bases, get)
                if conflict and settle is not None:
                    found = settle(key, at_bases[0] if at_bases else None, [mine, other])
                    conflict = found is CONFLICT
                    value = mine if conflict else found
                elif conflict and (mine is None or other is None):
                    value, conflict = (other if mine is None else mine), False
                if conflict:
                    self.conflict(key, None)
                if value != mine:
                    pending.append((key, value))
                    size += len(key) + len(value or b"")
                if size > _BATCH_BYTES:
                    self.update(flush)
                    pending, size = [], 0
        if pending:
            self.update(flush)


def differing(a: Space, b: Space, prefix: bytes = b"") -> Iterator[bytes]:
    """Keys of an instance below a prefix whose values differ between two states, in order."""
    start, cut = a.prefix + prefix, len(a.prefix)
    for change in diff(a.view, b.view, start, prefix_end(start)):
        yield change.key[cut:]


def _parts(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    for key in keys:
        part.append(key)
        if len(part) == _PART:
            yield part
            part = []
    if part:
        yield part
