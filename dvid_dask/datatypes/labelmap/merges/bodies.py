"""Which body each supervoxel belongs to when the edits of two sides come together.

Each supervoxel has a body at the common ancestor and one on each side. Whoever moved it has his way; if both did, and
to different bodies, that is a contradiction, and ours counts. But a body on one side is not just a number: if we merged
2 into 1 and they merged 3 into 2, then 3 is to be part of 1. So bodies of both sides are joined where they are the same
one: where both have it from the ancestor, and where one side moved a whole body that the other still has. What is
joined gets one name: that of the body which nobody merged into another.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.formats.distinct import distinct, numbered_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.merges.sides import Units
    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.space import Space

__all__ = ["Contradiction", "settle_bodies"]

Node = tuple[int, int]  # side, body
OURS, THEIRS = 0, 1

_BATCH = 4096


@dataclass(frozen=True)
class Contradiction:
    """What both sides say of some supervoxels, or of a body; ours counts."""

    what: dict[str, Any]
    supervoxels: NDArray[np.uint64]


def settle_bodies(step: MergeStep, units: Units, *, indexed: bool) -> tuple[NDArray[np.uint64], list[Contradiction]]:
    """The body of each unit, and what contradicts each other.

    Parameters
    ----------
    step
        Both sides.
    units
        Supervoxels to be settled.
    indexed
        Whether a label index tells which bodies exist. Else each supervoxel is settled by itself.
    """
    if not len(units):
        return units.ours.copy(), []
    rows = np.stack([units.base, units.ours, units.theirs], axis=1)
    triples, where = numbered_rows(rows)
    where = where.reshape(-1)
    settling = _Settling(step, units, triples, where, indexed=indexed)
    bodies = np.array(settling.run(), np.uint64)
    return bodies[where], settling.contradictions


class _Side:
    """What one side did to the bodies of the ancestor."""

    def __init__(self, space: Space, base: list[int], now: list[int], ids: list[list[int]], known: set[int]) -> None:
        self.now = now
        self.headers = _headers(space, known)
        self.index = Index(space)
        self.comers: dict[int, list[int]] = defaultdict(list)  # body -> triples that came to it
        targets: dict[int, set[int]] = defaultdict(set)  # body -> where those went that left it
        for t, (was, is_) in enumerate(zip(base, now, strict=True)):
            if was != is_:
                self.comers[is_].append(t)
                targets[was].add(is_)
        self._ids = ids
        self.reborn = {b for b in targets if b in self.comers and b in self.headers and self._only_comers(b)}
        gone = {b: to for b, to in targets.items() if b and (b not in self.headers or b in self.reborn)}
        #: bodies of which all went to one other, and those of which all went to several
        self.whole = {b: next(iter(to)) for b, to in gone.items() if len(to) == 1 and 0 not in to}
        self.dispersed = {b for b, to in gone.items() if len(to) > 1}
        self.names: dict[int, int] = {}

    def _only_comers(self, body: int) -> bool:
        """Whether a body has nothing but what came to it."""
        ids = distinct(np.concatenate([self._ids[t] for t in self.comers[body]]))
        return int((self.index.voxels_of(body, ids) > 0).sum()) == self.headers[body]

    def find_names(self, base: list[int], at_base: set[int]) -> None:
        """Take whole bodies that only got another id as what they were: then nothing has moved."""
        for body, new in list(self.whole.items()):
            if body in self.headers or new in at_base or new not in self.headers:
                continue
            if all(base[t] == body for t in self.comers[new]) and self._only_comers(new):
                del self.whole[body]
                self.names[body] = new
                for t in self.comers[new]:
                    self.now[t] = body

    def has(self, body: int) -> bool:
        """Whether a body exists, under this name or another."""
        return body in self.headers or body in self.names


def _headers(space: Space, bodies: Iterable[int]) -> dict[int, int]:
    """Those of the bodies that exist, and how many supervoxels each has."""
    found: dict[int, int] = {}
    index = Index(space)
    for batch in batches(sorted(b for b in bodies if b), _BATCH):
        for body, header in zip(batch, index.headers(batch), strict=True):
            if header is not None:
                found[body] = header.supervoxels
    return found


class _Settling:
    def __init__(
        self, step: MergeStep, units: Units, triples: NDArray[np.uint64], where: NDArray[np.int64], *, indexed: bool
    ) -> None:
        self.contradictions: list[Contradiction] = []
        self._units = units
        self._indexed = indexed
        order = np.argsort(where, kind="stable")
        borders = np.searchsorted(where[order], np.arange(len(triples) + 1))
        self._members = [order[a:b] for a, b in itertools.pairwise(borders.tolist())]
        self.base, ours, theirs = (triples[:, i].tolist() for i in range(3))
        self.said = list(zip(ours, theirs, strict=True))
        if not indexed:
            self.now = ours, theirs
            return
        known = {*self.base, *ours, *theirs} - {0}
        self.at_base = {b for space in step.bases for b in _headers(space, known)}
        self.sides = tuple(
            _Side(space, self.base, list(now), [ids[m] for m in self._members], known)  # type: ignore[misc]
            for space, now, ids in ((step.ours, ours, units.in_ours), (step.theirs, theirs, units.in_theirs))
        )
        for side in self.sides:
            side.find_names(self.base, self.at_base)
        self.now = self.sides[OURS].now, self.sides[THEIRS].now
        self._parent: dict[Node, Node] = {}
        self._ours: dict[int, list[int]] | None = None
        self._homes: list[Node] = []
        self._populated: set[Node] = set()  # classes of bodies that supervoxels end in

    # -------------------------------------------------------------- bodies that are the same

    def _find(self, node: Node) -> Node:
        parent = self._parent.setdefault(node, node)
        while parent != node:
            above = self._parent[parent]
            self._parent[node] = above
            node, parent = parent, above
        return node

    def _join(self, a: Node, b: Node) -> None:
        a, b = self._find(a), self._find(b)
        if a != b:
            self._parent[max(a, b)] = min(a, b)

    def _join_same(self) -> None:
        ours, theirs = self.sides
        for body in self.at_base:
            if ours.has(body) and theirs.has(body) and body not in ours.reborn and body not in theirs.reborn:
                self._join((OURS, body), (THEIRS, body))
        for base, mine, other in zip(self.base, *self.now, strict=True):
            if mine == other != base:
                self._join((OURS, mine), (THEIRS, other))
        # of a body that the ancestor had not, both sides may mean different ones
        for body, target in ours.whole.items():
            if body in self.at_base and theirs.has(body) and body not in theirs.reborn:
                self._join((THEIRS, body), (OURS, target))
        for body, target in theirs.whole.items():
            if body in self.at_base and ours.has(body) and body not in ours.reborn:
                self._join((OURS, body), (THEIRS, target))

    # -------------------------------------------------------------- run

    def run(self) -> list[int]:
        """The body of each triple."""
        homes = [self._home(t) for t in range(len(self.base))]
        if not self._indexed:
            return [body for _, body in homes]
        self._join_same()
        classes: dict[Node, list[Node]] = defaultdict(list)
        for node in list(self._parent):
            classes[self._find(node)].append(node)
        for t, home in enumerate(homes):
            root = self._find(home)
            if home not in classes[root]:
                classes[root].append(home)
            homes[t] = self._reachable(t, home, classes[root])
        classes = defaultdict(list)
        for node in list(self._parent):
            classes[self._find(node)].append(node)
        self._homes, self._populated = homes, {self._find(home) for home in homes}
        names = self._names(classes)
        result = []
        for t, home in enumerate(homes):
            name = names[self._find(home)]
            result.append(self.said[t][OURS] if name is None else name)
        return result

    def _home(self, t: int) -> Node:
        base, mine, other = self.base[t], self.now[OURS][t], self.now[THEIRS][t]
        if mine == base != other:
            return THEIRS, other
        if mine != other and other != base:
            ours, theirs = self.said[t]
            self._contradict(t, {"body": base, "moved to": [ours, theirs]})
        if mine == base and self._indexed and not self.sides[OURS].has(base):
            return THEIRS, base
        return OURS, mine

    def _reachable(self, t: int, home: Node, nodes: list[Node]) -> Node:
        """Refuse to add to a body that the other side has taken apart."""
        side, body = home
        if body == self.base[t] or body not in self.at_base:
            return home
        if side == THEIRS and body in self.sides[OURS].dispersed and not any(n[0] == OURS for n in nodes):
            self._contradict(t, {"body": body, "taken apart": "ours", "added to": "theirs"})
            node = OURS, self.now[OURS][t]
            self._find(node)
            return node
        if side == OURS and body in self.sides[THEIRS].dispersed:
            self._contradict(t, {"body": body, "taken apart": "theirs", "added to": "ours"})
        return home

    def _names(self, classes: dict[Node, list[Node]]) -> dict[Node, int | None]:
        """The name of each class of bodies; None for one whose name is taken: its members stay what they are."""
        # bodies of ours keep their names before those of theirs get theirs
        order = sorted(classes.items(), key=lambda item: not any(self._exists(n) for n in item[1]))
        wanted = {root: self._wanted(nodes) for root, nodes in order if self._stays(root, nodes)}
        names: dict[Node, int | None] = {root: choice[0] for root, choice in wanted.items()}
        refused = True
        while refused:  # who doesn't get a name may be in the way of another who did
            refused, taken = False, dict[int, Node]()
            for root, choice in wanted.items():
                name = names[root]
                if name is None or (not self._in_use(name, root, names) and taken.setdefault(name, root) == root):
                    continue
                refused, made_of = True, "different bodies" if name == choice[-1] else [self._made_of(name), choice[-1]]
                self._list({"body": name, "made of": made_of})
                names[root] = None if name == choice[-1] else choice[-1]
        return names

    def _wanted(self, nodes: list[Node]) -> list[int]:
        """The names that a class of bodies may have, best first."""
        ours, theirs = self.sides
        held = [sorted(b for side, b in nodes if side == s and self.sides[s].has(b)) for s in (OURS, THEIRS)]
        standing = [b for b in held[OURS] if b not in theirs.whole] or [b for b in held[THEIRS] if b not in ours.whole]
        body = (standing or held[OURS] or held[THEIRS] or sorted(b for _, b in nodes))[0]
        name = ours.names.get(body) if (OURS, body) in nodes else None
        other = theirs.names.get(body) if (THEIRS, body) in nodes else None
        if name and other and name != other:
            self._list({"body": body, "renumbered to": [name, other]})
        if name:
            return [name]
        return [other, body] if other and other != body else [body]

    def _exists(self, node: Node) -> bool:
        return node[0] == OURS and self.sides[OURS].has(node[1])

    def _in_use(self, name: int, root: Node, names: dict[Node, int | None]) -> bool:
        """Whether a name is that of another body of ours, which keeps it if classes get these names."""
        ours = self.sides[OURS]
        if name not in ours.headers:
            return False
        body = self._made_of(name)
        owner = self._find((OURS, body)) if (OURS, body) in self._parent else None
        if owner == root:
            return False
        if not self._all_settled(body):
            return True
        # it is free if all that the body has is called otherwise in the end
        ends = {self._find(self._homes[t]) for t in self._held_by(body)}
        return any(names[end] in (name, None) for end in ends if end != root)

    def _stays(self, root: Node, nodes: list[Node]) -> bool:
        """Whether a class of bodies has any supervoxel in the end."""
        return root in self._populated or any(self._exists(n) and not self._all_settled(n[1]) for n in nodes)

    def _all_settled(self, body: int) -> bool:
        """Whether all supervoxels of a body of ours are among those that are settled here."""
        ours = self.sides[OURS]
        ids = [self._units.in_ours[self._members[t]] for t in self._held_by(body)]
        settled = distinct(np.concatenate([np.empty(0, np.uint64), *ids]))
        name = ours.names.get(body, body)
        return int((ours.index.voxels_of(name, settled) > 0).sum()) == ours.headers[name]

    def _held_by(self, body: int) -> list[int]:
        """Triples that our side has in a body."""
        if self._ours is None:
            self._ours = defaultdict(list)
            for t, now in enumerate(self.sides[OURS].now):
                self._ours[now].append(t)
        return self._ours.get(body, [])

    def _made_of(self, name: int) -> int:
        return next((b for b, n in self.sides[OURS].names.items() if n == name), name)

    # -------------------------------------------------------------- contradictions

    def _contradict(self, t: int, what: dict[str, Any]) -> None:
        self.contradictions.append(Contradiction(what, self._units.id[self._members[t]]))

    def _list(self, what: dict[str, Any]) -> None:
        self.contradictions.append(Contradiction(what, np.empty(0, np.uint64)))
