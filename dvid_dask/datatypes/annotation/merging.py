"""Merging versions that both changed elements: block by block, position by position, over what both began with.

An element that one side added, changed or removed since is as that side has it. Where both changed it, ours stays; if
one side removed it, the other's change does. Lists aren't merged: they follow what is done to the blocks and, when the
segmentation merges, what is done to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.edits import equal, replace_blocks
from dvid_dask.datatypes.annotation.elements import Elements, decode_many, find
from dvid_dask.formats.distinct import distinct_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.annotation.filing import Filing
    from dvid_dask.datatypes.base import Mutation, TxSpace
    from dvid_dask.versions.meaning import MergeStep

    Points = NDArray[np.int32]

__all__ = ["changed_elements", "merge_blocks", "merged_elements"]

_PART = 256  # blocks merged in one commit


def merged_elements(base: Elements, ours: Elements, theirs: Elements) -> tuple[Elements, Points]:
    """Elements of two sides, three-way over the base; and positions int32 (n, 3) where they contradict each other."""
    come = theirs[changed_elements(base, theirs)]
    gone = base.zyx[find(theirs.zyx, base.zyx) < 0]
    own = ours.zyx[changed_elements(base, ours)]
    own_gone = base.zyx[find(ours.zyx, base.zyx) < 0]
    both = find(own, come.zyx) >= 0
    at = find(ours.zyx, come.zyx[both])
    differ = ~equal(ours[at], come[both]) if len(at) else np.empty(0, np.bool_)
    conflicts = [come.zyx[both][differ]]
    come = come[~both]
    conflicts.append(come.zyx[find(own_gone, come.zyx) >= 0])
    kept = find(own, gone) >= 0
    conflicts.append(gone[kept])
    away = gone[~kept]
    stay = (find(away, ours.zyx) < 0) & (find(come.zyx, ours.zyx) < 0)
    return Elements.join([ours[stay], come]), np.concatenate(conflicts)


def changed_elements(base: Elements, side: Elements) -> NDArray[np.bool_]:
    """Which elements of a side are new or others than in the base."""
    at = find(base.zyx, side.zyx)
    changed = np.ones(len(side), np.bool_)
    there = at >= 0
    changed[there] = ~equal(base[at[there]], side[there])
    return changed


def merge_blocks(step: MergeStep, filing: Callable[[Mutation, TxSpace], Filing]) -> None:
    """Bring the blocks that the other parent changed into the new version."""
    part: list[bytes] = []
    for key in step.changes(keys.BLOCK):
        part.append(key)
        if len(part) == _PART:
            _merge_part(step, filing, part)
            part = []
    if part:
        _merge_part(step, filing, part)


def _merge_part(step: MergeStep, filing: Callable[[Mutation, TxSpace], Filing], part: Sequence[bytes]) -> None:
    columns = [side.get_many(part) for side in (step.ours, step.theirs, *step.bases)]
    coords, merged = [], []
    for n, key in enumerate(part):
        mine, other, *at_bases = [column[n] for column in columns]
        before = step.base_of(mine, other, at_bases, lambda space, key=key: space.get(key))  # type: ignore[misc]
        if other == before or other is None:
            continue
        base, ours, theirs = (decode_many([] if v is None else [v])[0] for v in (before, mine, other))
        result, conflicts = merged_elements(base, ours, theirs)
        for z, y, x in distinct_rows(conflicts).tolist():
            step.conflict(key + np.array([z, y, x], ">i4").tobytes(), {"element": [z, y, x]})
        coords.append(keys.blocks_of([key])[0])
        merged.append(result)
    if coords:

        def change(m: Mutation, space: TxSpace) -> None:
            held = filing(m, space)
            borders = np.concatenate([[0], np.cumsum([len(e) for e in merged])])
            replace_blocks(space, held, np.array(coords, np.int32), Elements.join(merged), borders)
            held.tell()

        step.update(change)
