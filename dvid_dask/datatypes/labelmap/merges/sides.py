"""What both sides of a merge have changed: supervoxels that were cut, and bodies of supervoxels.

A supervoxel that was cut since the common ancestor is the *root* of its parts. What one side says of the root, it says
of the parts that the other side made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.columns import unpack
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping, entries_that_differ
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.formats.distinct import distinct
from dvid_dask.versions.meaning import differing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.spaces import AnySpace
    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.space import Space

__all__ = ["Cuts", "Sides", "Units", "read_sides"]

_BATCH = 256


@dataclass
class Cuts:
    """Supervoxels that one side has cut since the common ancestor.

    Attributes
    ----------
    old
        From each part to the supervoxel that it was cut from.
    parts
        The inverse: rest and what was split off.
    """

    old: dict[int, int] = field(default_factory=dict)
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, rows: NDArray[np.uint64]) -> None:
        """Rows (mutation, old, rest, split off)."""
        for _, old, remain, split in rows.tolist():
            self.parts[old] = remain, split
            self.old[remain] = self.old[split] = old

    def root(self, part: int) -> int:
        """What a supervoxel was cut from at first; itself if it wasn't."""
        while part in self.old:
            part = self.old[part]
        return part

    def roots(self) -> set[int]:
        """Supervoxels of the ancestor that were cut."""
        return {old for old in self.parts if old not in self.old}

    def leaves(self, root: int) -> Iterator[int]:
        """The parts of a root that weren't cut again."""
        todo = [root]
        while todo:
            at = todo.pop()
            if at in self.parts:
                todo += self.parts[at]
            else:
                yield at

    def members(self, root: int) -> Iterator[int]:
        """All parts of a root, those that were cut again among them; itself first."""
        todo = [root]
        while todo:
            at = todo.pop()
            yield at
            todo += self.parts.get(at, ())

    def same_below(self, root: int, other: Cuts) -> bool:
        """Whether another side has cut a root into the same parts."""
        return all(self.parts.get(i) == other.parts.get(i) for i in {*self.members(root), *other.members(root)})

    def forget(self, root: int) -> None:
        """Leave a root uncut."""
        for member in list(self.members(root)):
            for part in self.parts.pop(member, ()):
                self.old.pop(part, None)

    def rest(self, root: int, mapping: Mapping) -> int:
        """The part of a root that gets what is cut by nobody: its rest, or the first part that exists."""
        leaves = list(self.leaves(root))
        at = root
        while at in self.parts:
            at = self.parts[at][0]
        candidates = [at, *leaves]
        found, values = mapping.entries(candidates)
        there = [c for c, f, v in zip(candidates, found.tolist(), values.tolist(), strict=True) if f and v]
        return (there or candidates)[0]


@dataclass(frozen=True)
class Units:
    """Supervoxels whose bodies are to be settled, ids ascending; uint64 (n,) each.

    Attributes
    ----------
    id
        The supervoxel as it will be.
    base, ours, theirs
        Its body at the ancestor and on both sides: of a part that a side doesn't know, that of what it was cut from.
    in_ours, in_theirs
        What stands for it on each side: itself, or what it was cut from.
    here
        Whether it is one of ours already.
    """

    id: NDArray[np.uint64]
    base: NDArray[np.uint64]
    ours: NDArray[np.uint64]
    theirs: NDArray[np.uint64]
    in_ours: NDArray[np.uint64]
    in_theirs: NDArray[np.uint64]
    here: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.id)


@dataclass
class Sides:
    """All that `read_sides` found.

    Attributes
    ----------
    cuts_ours, cuts_theirs
        Supervoxels cut; of theirs those that can stand.
    refused
        From each part of theirs that can't stand to the root that it was cut from.
    contradictions
        Roots that were cut on both sides and differently, or into parts whose ids are in use on our side.
    units
        Supervoxels whose bodies are to be settled.
    retired
        Ids that theirs has retired: ids of bodies that are no supervoxels.
    reused
        Of the ids that theirs has retired those that are supervoxels of ours.
    rejoined
        Supervoxels that were cut at the ancestor, and are whole in theirs: a change that is taken back.
    apart
        Of those the ones whose parts we have cut again, or moved to different bodies.
    """

    cuts_ours: Cuts
    cuts_theirs: Cuts
    refused: dict[int, int]
    contradictions: set[int]
    units: Units
    retired: NDArray[np.uint64]
    reused: NDArray[np.uint64]
    rejoined: Cuts
    apart: set[int]


def read_sides(step: MergeStep) -> Sides:
    """What both sides have changed about supervoxels and bodies; nothing is changed."""
    ours, theirs = _cuts_since(step.bases, step.ours), _cuts_since(step.bases, step.theirs)
    contradictions = _contradictions(step, ours, theirs)
    all_theirs = _cuts_since(step.bases, step.theirs) if contradictions else theirs
    rejoined = _cuts_since([step.theirs], step.bases[0]) if len(step.bases) == 1 else Cuts()
    refused = {m: root for root in contradictions for m in theirs.members(root) if m != root}
    for root in contradictions:
        theirs.forget(root)
    related = {*ours.old, *ours.parts, *all_theirs.old, *all_theirs.parts, *rejoined.old, *rejoined.parts}
    ids = distinct(np.concatenate([np.array(sorted(related), np.uint64), *_differing_ids(step)]))
    held = _Entries(step, ids)
    finder = _Units(step, held, ours, theirs, all_theirs, refused, rejoined)
    units = finder.units()
    return Sides(ours, theirs, refused, contradictions, units, finder.retired, finder.reused, rejoined, finder.apart)


def _cuts_since(bases: Sequence[Space], side: Space) -> Cuts:
    """Supervoxels that a side has cut: what its list of splits has more than any ancestor's."""
    cuts = Cuts()
    if not bases:
        return cuts
    first, *others = bases
    for batch in batches(differing(first, side, keys.SPLIT), _BATCH):
        known = [space.get_many(batch) for space in (first, *others)]
        for n, value in enumerate(side.get_many(batch)):
            if value is not None and all(column[n] is None for column in known):
                cuts.add(unpack(value, 4).T)
    return cuts


def _contradictions(step: MergeStep, ours: Cuts, theirs: Cuts) -> set[int]:
    """Roots that can't be cut as theirs has it."""
    found = {root for root in ours.roots() & theirs.roots() if not ours.same_below(root, theirs)}
    parts = sorted(theirs.old)
    if parts:
        used, _ = Mapping(step.ours).entries(parts)
        own = Index(step.ours).has_own_supervoxel(parts)
        for part, is_used, is_own in zip(parts, used.tolist(), own, strict=True):
            if (is_used or is_own) and ours.old.get(part) != theirs.old[part]:
                found.add(theirs.root(part))
    return found


def _differing_ids(step: MergeStep) -> Iterable[NDArray[np.uint64]]:
    """Ids whose entries in the mapping differ between both sides."""
    for batch in batches(step.changes(keys.MAPPING), _BATCH):
        pairs = zip(step.ours.get_many(batch), step.theirs.get_many(batch), strict=True)
        for one, other in pairs:
            yield entries_that_differ(one, other)


class _Entries:
    """Entries of the mapping for some ids, on both sides and at the ancestor."""

    def __init__(self, step: MergeStep, ids: NDArray[np.uint64]) -> None:
        self.ids = ids
        self.ours = Mapping(step.ours).entries(ids)
        self.theirs = Mapping(step.theirs).entries(ids)
        at_bases = [Mapping(base).entries(ids) for base in step.bases]
        if not at_bases:
            self.base = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.uint64)
            return
        found, values = at_bases[0][0].copy(), at_bases[0][1].copy()
        if len(at_bases) > 1:  # after criss-cross merges: id by id
            unlike = np.zeros(len(ids), np.bool_)
            for other_found, other_values in at_bases[1:]:
                unlike |= (other_found != found) | (other_values != values)
            for i in np.flatnonzero(unlike).tolist():
                sides = [(bool(f[i]), int(v[i])) for f, v in (self.ours, self.theirs, *at_bases)]

                def get(space: AnySpace, sv: int = int(ids[i])) -> tuple[bool, int]:
                    has, body = Mapping(space).entries([sv])
                    return bool(has[0]), int(body[0])

                found[i], values[i] = step.base_of(sides[0], sides[1], sides[2:], get)
        self.base = found, values

    def bodies(self, side: tuple[NDArray[np.bool_], NDArray[np.uint64]]) -> NDArray[np.uint64]:
        found, values = side
        return np.where(found, values, self.ids)


def _common_body(cuts: Cuts, root: int, mapping: Mapping) -> int | None:
    """The body of all parts of a root on the side that has cut it; None where they have several."""
    found, values = mapping.entries(list(cuts.leaves(root)))
    bodies = set(values[found & (values != 0)].tolist())
    return bodies.pop() if len(bodies) == 1 else None


class _Units:
    """Finds what each side says of each supervoxel."""

    def __init__(
        self,
        step: MergeStep,
        held: _Entries,
        ours: Cuts,
        theirs: Cuts,
        all_theirs: Cuts,
        refused: dict[int, int],
        rejoined: Cuts,
    ) -> None:
        self._step = step
        self._held = held
        self._ours, self._theirs, self._all_theirs = ours, theirs, all_theirs
        self._refused = refused
        self._rejoined = rejoined
        ids = held.ids
        self._place = {sv: i for i, sv in enumerate(ids.tolist())}
        self.base, self.mine, self.other = (held.bodies(side) for side in (held.base, held.ours, held.theirs))
        self.in_ours, self.in_theirs = ids.copy(), ids.copy()
        self.here = np.ones(len(ids), np.bool_)
        self.out = np.zeros(len(ids), np.bool_)
        self.apart: set[int] = set()
        self.retired = self.reused = np.empty(0, np.uint64)

    def units(self) -> Units:
        """All of them."""
        self._follow_cuts()
        ids = self._held.ids
        given = ~self.out & (self.other == 0) & (self.mine != 0)  # retired by theirs alone
        taken = ~self.out & (self.mine == 0) & (self.base != 0) & (self.other != 0)  # retired by us, an id of theirs
        kept = ~self.out & (self.mine == 0) & (self.other == 0)
        # what theirs knows nothing of stays used up
        kept |= ~self.out & (self.mine == 0) & (self.base == 0) & ~self._held.theirs[0]
        live = np.zeros(len(ids), np.bool_)
        if given.any():
            live[given] = _live(self._step.ours, ids[given])
        self.retired, self.reused = ids[given & ~live], ids[given & live]
        self.here &= self.mine != 0
        chosen = ~(self.out | given | taken | kept)
        columns = ids, self.base, self.mine, self.other, self.in_ours, self.in_theirs, self.here
        return Units(*(column[chosen] for column in columns))

    def _follow_cuts(self) -> None:
        """What is said of a supervoxel that was cut is said of its parts."""
        ours, theirs, all_theirs = self._ours, self._theirs, self._all_theirs
        step, place = self._step, self._place
        our_map, their_map = Mapping(step.ours), Mapping(step.theirs)
        their_word = {root: _common_body(all_theirs, root, their_map) for root in all_theirs.roots()}
        our_word = {root: _common_body(ours, root, our_map) for root in ours.roots()}
        for sv in {*ours.old, *ours.parts, *all_theirs.old, *all_theirs.parts}:
            i = place[sv]
            if sv in self._refused or sv in ours.parts or sv in theirs.parts:
                # it isn't there any more, or never will be; its parts are told of
                self.out[i] = True
                continue
            root = ours.root(sv) if sv in ours.old else all_theirs.root(sv)
            at = place[root]
            before = self.base[i] = self.base[at]
            if sv in theirs.old and sv not in ours.old:
                self.in_ours[i], self.here[i] = root, False
                word = our_word.get(root, int(self.mine[at]))
                self.mine[i] = before if word is None else word
            elif sv not in theirs.old:
                # of ours, or of theirs and left uncut
                self.in_theirs[i] = root
                word = their_word.get(root, int(self.other[at]))
                self.other[i] = before if word is None else word
        self._follow_rejoined(our_map)

    def _follow_rejoined(self, our_map: Mapping) -> None:
        """What becomes whole again is where its parts are by now."""
        cuts = self._rejoined
        base_map = Mapping(self._step.bases[0]) if cuts.parts else our_map
        for root in cuts.roots():
            members = list(cuts.members(root))
            self.out[[self._place[sv] for sv in members]] = True
            i = self._place[root]
            before, now = _common_body(cuts, root, base_map), _common_body(cuts, root, our_map)
            if before is None or now is None or any(sv in self._ours.parts for sv in members):
                self.apart.add(root)
                continue
            self.out[i] = self.here[i] = False
            self.base[i], self.mine[i] = before, now


def _live(space: AnySpace, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether ids are supervoxels with voxels in the label index."""
    bodies = Mapping(space).bodies(ids)
    found = np.zeros(len(ids), np.bool_)
    index = Index(space)
    for body in distinct(bodies).tolist():
        mine = bodies == np.uint64(body)
        found[mine] = index.voxels_of(body, ids[mine]) > 0
    return found
