"""Edits of bodies inside a transaction: merge, cleave, renumber. No voxel is touched.

Each works on the pages of the index and of the mapping that it changes, checks everything against the state it
changes, and says what it did. Two edits of one body at the same time meet in that body's header: the later one is run
again on the new state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap.extents import raise_max_label
from dvid_dask.datatypes.labelmap.index import Index, Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping, set_mapping
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.labelmap.steps import Move, as_ids
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace
    from dvid_dask.datatypes.labelmap.steps import Step

__all__ = [
    "Cleaved",
    "check_cleave",
    "check_renumber",
    "cleave",
    "merge",
    "move_rows",
    "renumber",
    "used",
]

_PAGES = 64
_FEW = 1 << 16  # rows that are kept in memory while they move


@dataclass(frozen=True)
class Cleaved:
    """Voxels on both sides of a cleave."""

    cleaved_voxels: int
    remaining_voxels: int


def merge(space: TxSpace, target: int, others: Sequence[int], stamp: Stamp) -> list[Step]:
    """Make bodies part of `target`; returns the steps that take it back.

    Raises
    ------
    BadRequest
        If a body doesn't exist, one of them is 0 or the target is among the others.
    """
    merged = list(dict.fromkeys(others))
    if not merged:
        raise BadRequest("a merge takes a target body and at least one body to merge into it")
    if 0 in merged:
        raise BadRequest("body 0 is background and can't be merged")
    if target in merged:
        raise BadRequest(f"body {target} can't be merged into itself")
    index = Index(space)
    headers = index.headers([target, *merged])
    for body, header in zip([target, *merged], headers, strict=True):
        if header is None or not header.voxels:
            raise BadRequest(f"body {body} doesn't exist, so it can't be merged")
    back: list[Step] = []
    for body in merged:
        held = index.supervoxels(body)
        svs = np.empty(0, np.uint64) if held is None else held.id
        had, _ = set_mapping(space, svs, target)
        index.move(body, target, stamp=stamp, surface=stamp.mutation)
        back.append(Move(target, body, as_ids(svs), had.tobytes(), whole=False, fresh=True))
    return back[::-1]


def check_cleave(space: AnySpace, body: int, supervoxels: NDArray[np.uint64]) -> Cleaved:
    """Whether supervoxels can be cleaved off a body: voxels on both sides.

    Raises
    ------
    BadRequest
        If the body doesn't exist, a supervoxel isn't part of it, or none would stay. One without voxels is part of it
        if it is mapped to the body.
    """
    index = Index(space)
    header = index.header(body)
    if header is None:
        raise BadRequest(f"body {body} doesn't exist, so nothing can be cleaved off it")
    voxels = index.voxels_of(body, supervoxels)
    absent = supervoxels[voxels == 0]
    if len(absent):
        found, mapped = Mapping(space).entries(absent)
        foreign = absent[~(found & (mapped == np.uint64(body)))]
        if len(foreign):
            listed = ", ".join(map(str, foreign[:10].tolist()))
            raise BadRequest(f"not part of body {body}: supervoxels {listed}")
    moved = int(voxels.sum(dtype=np.uint64))
    if int((voxels > 0).sum()) >= header.supervoxels:
        raise BadRequest(f"a cleave must leave at least one supervoxel in body {body}")
    return Cleaved(moved, header.voxels - moved)


def cleave(space: TxSpace, body: int, new_body: int, supervoxels: NDArray[np.uint64], stamp: Stamp) -> list[Step]:
    """Make supervoxels of a body a body of their own; returns the steps that take it back.

    Parameters
    ----------
    new_body
        An id that isn't `used` in this space.
    supervoxels
        Some of the body's, each once, that `check_cleave` has passed in this space.
    """
    move_rows(space, body, new_body, supervoxels, stamp)
    # the new body is no supervoxel: its id is retired as one
    ids = np.append(supervoxels, np.uint64(new_body))
    bodies = np.append(np.full(len(supervoxels), new_body, np.uint64), np.uint64(0))
    had = set_mapping(space, ids, bodies)[0][:-1]
    raise_max_label(space, new_body)
    return [Move(new_body, body, as_ids(supervoxels), had.tobytes(), whole=True, fresh=False)]


def move_rows(
    space: TxSpace, body: int, target: int, supervoxels: NDArray[np.uint64], stamp: Stamp, *, mark: bool = True
) -> None:
    """Move the rows of some of a body's supervoxels, not all, to another body in the label index.

    With `mark` their blocks tell by the mutation that the body's surface may have changed there.
    """
    index = Index(space)
    surface = stamp.mutation if mark else None
    few: list[Rows] | None = []
    for parts in batches(index.scan_rows_of(body, supervoxels), _PAGES):
        rows = Rows.concatenate(parts)
        index.update(target, rows, stamp=stamp, surface=surface)
        if few is not None:
            few.append(rows)
            few = few if sum(len(r) for r in few) <= _FEW else None
    # many are read back from the target: pages of the body may go while rows are taken out of it
    many = (Rows.concatenate(p) for p in batches(index.scan_rows_of(target, supervoxels), _PAGES))
    for rows in many if few is None else few:
        index.update(body, rows.with_counts(0), stamp=stamp, surface=surface)
    index.stamp(body, stamp)


def used(space: AnySpace, labels: ArrayLike) -> NDArray[np.bool_]:
    """Whether each label is a body or supervoxel of this version, or was one and is retired."""
    asked = np.asarray(labels, np.uint64).reshape(-1)
    bodies = np.array([h is not None for h in Index(space).headers(asked.tolist())], np.bool_)
    found, _ = Mapping(space).entries(asked)
    return bodies | found


def check_renumber(space: AnySpace, pairs: Sequence[tuple[int, int]]) -> None:
    """Whether bodies can be renumbered, pair (new, old) after pair.

    Raises
    ------
    BadRequest
        If an old body doesn't exist, a new one does, or an id is 0.
    """
    ids = list(dict.fromkeys(i for pair in pairs for i in pair))
    if 0 in ids:
        raise BadRequest("body 0 is background: neither can it be renumbered nor any body to it")
    exists = {i: header is not None for i, header in zip(ids, Index(space).headers(ids), strict=True)}
    for new, old in pairs:
        if not exists[old]:
            raise BadRequest(f"body {old} doesn't exist, so it can't be renumbered")
        if exists[new]:
            raise BadRequest(f"body {new} exists: merge {old} into it instead of renumbering")
        exists[old], exists[new] = False, True


def renumber(space: TxSpace, old: int, new: int, stamp: Stamp) -> list[Step]:
    """Give a body another id; returns the steps that take it back.

    Raises
    ------
    BadRequest
        As `check_renumber`.
    """
    check_renumber(space, [(new, old)])
    index = Index(space)
    held = index.supervoxels(old)
    svs = np.empty(0, np.uint64) if held is None else held.id
    found, _ = Mapping(space).entries([new])
    if not found[0]:
        set_mapping(space, [new], 0)
    had, _ = set_mapping(space, svs, new)
    index.move(old, new, stamp=stamp, surface=stamp.mutation)
    raise_max_label(space, new)
    return [Move(new, old, as_ids(svs), had.tobytes(), whole=True, fresh=True)]
