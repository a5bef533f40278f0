"""Merging versions that both changed a list, a block or a page: position by position, over what both began with.

An element that one side added, changed or removed since is as that side has it. Where both changed it, a side that
still has it counts, of two the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.annotation.edits import _equal
from dvid_dask.datatypes.annotation.elements import Elements, decode, encode, find
from dvid_dask.datatypes.annotation.lists import _UNCERTAIN, Directory, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["merged_blocks", "merged_lists"]


def merged_elements(base: Elements, sides: Sequence[Elements]) -> Elements:
    """Elements of several sides, three-way over the base."""
    merged = base
    for side in sides:
        come = side[_changed(base, side)]
        gone = base.zyx[find(side.zyx, base.zyx) < 0]
        # what an earlier side changed too stays as that has it
        own = merged.zyx[_changed(base, merged)]
        come = come[find(own, come.zyx) < 0]
        away = (find(gone, merged.zyx) >= 0) & (find(own, merged.zyx) < 0)
        merged = Elements.join([merged[~away & (find(come.zyx, merged.zyx) < 0)], come])
    return merged


def _changed(base: Elements, side: Elements) -> NDArray[np.bool_]:
    """Which elements of a side are new or others than in the base."""
    at = find(base.zyx, side.zyx)
    changed = np.ones(len(side), np.bool_)
    there = at >= 0
    changed[there] = ~_equal(base[at[there]], side[there]) | (base.key[at[there]] != side.key[there])
    return changed


def merged_blocks(base: bytes | None, sides: Sequence[bytes | None]) -> bytes:
    """The value of a block, or of a page."""
    return encode(merged_elements(decode(base), [decode(side) for side in sides]))


def merged_lists(base: bytes | None, sides: Sequence[bytes | None]) -> bytes | None:
    """The record of a list."""
    old, new = Record.decode(base), [Record.decode(side) for side in sides]
    inline = merged_elements(old.inline, [side.inline for side in new])
    rows: dict[tuple[int, int], list[NDArray[np.uint64]]] = {}
    for side in new:
        for row in side.directory.table.T:
            rows.setdefault((int(row[0]), int(row[1])), []).append(row)
    held = {(int(row[0]), int(row[1])): row for row in old.directory.table.T}
    kept = []
    for number, found in rows.items():
        before = held.get(number)
        if before is not None and len(found) < len(new):
            continue  # a side has taken the page out of the list
        changed = [row for row in found if before is None or (row != before).any()]
        if len(changed) < 2:
            kept.append(changed[0] if changed else found[0])
            continue
        row = changed[0].copy()
        row[2] = min(int(r[2]) for r in changed)
        row[3] = max(int(r[3]) for r in changed)
        row[4:] = _UNCERTAIN
        kept.append(row)
    directory = Directory(np.stack(kept, axis=1)) if kept else Directory.empty()
    record = Record(directory, inline, any(side.given for side in new))
    return record.encode() if len(record) or record.given else None
