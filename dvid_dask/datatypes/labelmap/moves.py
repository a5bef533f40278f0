"""Many supervoxels to other bodies at once: rows taken out of the label index of some bodies and given to others.

For bulk jobs, which do all takes before they give, on a state that nobody else reads. What a supervoxel's mapping says
is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.columns import unpack_groups
from dvid_dask.datatypes.labelmap.index import SMALL, Header, Index, Stamp, write_new_bodies
from dvid_dask.datatypes.labelmap.rows import COLUMNS, Rows
from dvid_dask.datatypes.labelmap.threads import batches
from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["WHOLE", "Taken", "TakenFromSmall", "give", "take", "taken"]

WHOLE = 0
"""Instead of a supervoxel: all of a body."""

_BODIES = 2048
_PAGES = 64


@dataclass(frozen=True)
class Taken:
    """What leaves one body.

    Attributes
    ----------
    body
        Its id.
    exists
        Whether it has an index.
    asked_whole
        Whether all of it was asked for, not single supervoxels.
    supervoxel, new, voxels
        uint64 (n,): the supervoxels that were named, where they go, and their voxels in the body: 0 if it has none.
    voxels_before
        Of the body.
    whole
        Whether nothing remains of the body.
    paged
        Whether its index is more than one record.
    rows
        Rows that leave, a part at a time, each with the body that it goes to. To be read once.

    A supervoxel whose new body is the old one stays.
    """

    body: int
    exists: bool
    asked_whole: bool
    supervoxel: NDArray[np.uint64]
    new: NDArray[np.uint64]
    voxels: NDArray[np.uint64]
    voxels_before: int
    whole: bool
    paged: bool
    rows: Iterator[tuple[Rows, NDArray[np.uint64]]]


@dataclass(frozen=True)
class TakenFromSmall:
    """What leaves many bodies of which each index is one record.

    Attributes
    ----------
    body, supervoxel, new, voxels, voxels_before
        uint64 (n,): as those of `Taken`, for each supervoxel that was named.
    gone
        Bodies of which nothing remains.
    rest
        Of the others each with the supervoxels that leave it.
    rows, to
        Rows that leave, and the body that each goes to.
    """

    body: NDArray[np.uint64]
    supervoxel: NDArray[np.uint64]
    new: NDArray[np.uint64]
    voxels: NDArray[np.uint64]
    voxels_before: NDArray[np.uint64]
    gone: NDArray[np.uint64]
    rest: list[tuple[int, NDArray[np.uint64]]]
    rows: Rows
    to: NDArray[np.uint64]


def taken(
    space: AnySpace, body: NDArray[np.uint64], supervoxel: NDArray[np.uint64], new: NDArray[np.uint64]
) -> Iterator[Taken | TakenFromSmall]:
    """What moves take from bodies; nothing is changed. Small bodies come many at once.

    Parameters
    ----------
    space
        A pinned view.
    body, supervoxel, new
        uint64 (n,): a supervoxel of a body, or `WHOLE`, and the body that it goes to; sorted by body and supervoxel,
        each once.
    """
    bodies, starts = np.unique(body, return_index=True)
    ends = np.append(starts[1:], len(body)).tolist()[: len(bodies)]
    for batch in batches(zip(bodies.tolist(), starts.tolist(), ends, strict=True), _BODIES):
        records = space.get_many([keys.body(b) for b, _, _ in batch])
        small: list[tuple[int, int, int, bytes]] = []  # begin and end of what is named, voxels, rows
        for (label, a, b), record in zip(batch, records, strict=True):
            if record is not None and supervoxel[a] != WHOLE:
                voxels, paged, end = Header.peek(record)
                if not paged:
                    small.append((a, b, voxels, record[end:]))
                    continue
            yield _taken(space, label, record, supervoxel[a:b], new[a:b])
        if small:
            yield _from_small(small, body, supervoxel, new)


@kernel
def _find(
    starts: NDArray[np.int64],
    held: NDArray[np.uint64],
    first: NDArray[np.int64],
    named: NDArray[np.uint64],
    at: NDArray[np.int64],
) -> None:
    """For each id held by group g its place among the ascending ids named of the group; -1 where there is none."""
    for g in range(starts.size - 1):
        for i in range(starts[g], starts[g + 1]):
            low, high = first[g], first[g + 1]
            while low < high:
                middle = (low + high) // 2
                if named[middle] < held[i]:
                    low = middle + 1
                else:
                    high = middle
            at[i] = low if low < first[g + 1] and named[low] == held[i] else -1


def _from_small(
    small: list[tuple[int, int, int, bytes]],
    body: NDArray[np.uint64],
    supervoxel: NDArray[np.uint64],
    new: NDArray[np.uint64],
) -> TakenFromSmall:
    sizes = np.array([b - a for a, b, _, _ in small])
    first = np.append(0, np.cumsum(sizes))
    chosen = np.concatenate([np.arange(a, b) for a, b, _, _ in small])
    body, supervoxel, new = body[chosen], supervoxel[chosen], new[chosen]
    table, starts = unpack_groups([value for *_, value in small], COLUMNS)
    at = np.empty(table.shape[1], np.int64)
    _find(starts, table[3], first, supervoxel, at)
    leaves = new != body
    named = at >= 0
    goes = named & leaves[at]
    voxels = np.bincount(at[named], table[4][named].astype(np.float64), len(body)).astype(np.uint64)
    before = np.append(0, np.cumsum(goes))
    going = before[starts[1:]] - before[starts[:-1]]
    whole = going == np.diff(starts)
    bodies = body[first[:-1]]
    rest = [
        (int(bodies[g]), supervoxel[first[g] : first[g + 1]][(leaves & (voxels > 0))[first[g] : first[g + 1]]])
        for g in np.flatnonzero((going > 0) & ~whole).tolist()
    ]
    had = np.array([v for _, _, v, _ in small], np.uint64).repeat(sizes)
    rows = Rows.from_table(table[:, goes])
    return TakenFromSmall(body, supervoxel, new, voxels, had, bodies[whole & (going > 0)], rest, rows, new[at[goes]])


def _taken(
    space: AnySpace, body: int, record: bytes | None, wanted: NDArray[np.uint64], new: NDArray[np.uint64]
) -> Taken:
    all_of_it = int(wanted[0]) == WHOLE
    if record is None:
        return Taken(body, False, all_of_it, wanted, new, np.zeros(len(wanted), np.uint64), 0, False, False, iter(()))
    header, _ = Header.decode(record)
    index = Index(space)
    if all_of_it:
        held = index.supervoxels(body)
        ids, voxels = (np.empty(0, np.uint64),) * 2 if held is None else (held.id, held.voxels)
        target = new[0]
        parts = (Rows.concatenate(p) for p in batches(index.scan_rows(body), _PAGES))
        moving = ((rows, np.full(len(rows), target, np.uint64)) for rows in parts)
        to = np.full(len(ids), target, np.uint64)
        return Taken(body, True, True, ids, to, voxels, header.voxels, True, header.paged, moving)
    leaves = new != np.uint64(body)
    voxels = index.voxels_of(body, wanted)
    everything = int((leaves & (voxels > 0)).sum()) == header.supervoxels
    chosen = (Rows.concatenate(p) for p in batches(index.scan_rows_of(body, wanted[leaves & (voxels > 0)]), _PAGES))
    to_each = ((rows, new[np.searchsorted(wanted, rows.supervoxel)]) for rows in chosen)
    return Taken(body, True, False, wanted, new, voxels, header.voxels, everything, True, to_each)


def take(space: TxSpace, body: int, supervoxels: NDArray[np.uint64] | None, stamp: Stamp) -> None:
    """Take supervoxels out of a body's index; all of it, if none are named."""
    index = Index(space)
    if supervoxels is None:
        index.delete(body)
        return
    for parts in batches(list(index.scan_rows_of(body, supervoxels)), _PAGES):
        index.update(body, Rows.concatenate(parts).with_counts(0), stamp=stamp, surface=stamp.mutation)


def give(space: TxSpace, bodies: NDArray[np.uint64], rows: Rows, stamp: Stamp) -> None:
    """Add rows to the index of bodies, which need not have one yet.

    Parameters
    ----------
    bodies
        uint64 (n,): the body of each row.
    rows
        Each (block, supervoxel) once; all blocks named are marked with the mutation.
    """
    order = np.argsort(bodies, kind="stable")
    bodies, rows = bodies[order], rows[order]
    labels, starts = np.unique(bodies, return_index=True)
    ends = np.append(starts[1:], len(bodies))
    index = Index(space)
    for batch in batches(zip(labels.tolist(), starts.tolist(), ends.tolist(), strict=True), _BODIES):
        chosen: list[NDArray[np.int64]] = []
        held: list[tuple[int, bytes]] = []
        records = space.get_many([keys.body(label) for label, _, _ in batch])
        for (label, a, b), record in zip(batch, records, strict=True):
            if record is None:
                chosen.append(np.arange(a, b))
                continue
            header, end = Header.decode(record)
            if header.paged or header.rows + b - a > SMALL:
                index.update(label, rows[a:b], stamp=stamp, surface=stamp.mutation)
                continue
            chosen.append(np.arange(a, b))
            held.append((label, record[end:]))
        if chosen:
            new = np.concatenate(chosen)
            _write_small(space, bodies[new], rows[new].with_surface(stamp.mutation), held, stamp)


def _write_small(
    space: TxSpace, bodies: NDArray[np.uint64], rows: Rows, held: list[tuple[int, bytes]], stamp: Stamp
) -> None:
    """Write bodies of few rows whole: those given, and of each body that has an index already what it holds."""
    if held:
        table, starts = unpack_groups([packed for _, packed in held], COLUMNS)
        old_bodies = np.array([label for label, _ in held], np.uint64).repeat(np.diff(starts))
        new_rows = len(rows)
        bodies = np.concatenate([bodies, old_bodies])
        rows = Rows.concatenate([rows, Rows.from_table(table)])
        # given rows before held ones: of a pair that is in both, the first counts
        given = np.arange(len(rows)) < new_rows
        order = np.lexsort((~given, rows.supervoxel, *rows.block_zyx.T[::-1], bodies))
        bodies, rows, given = bodies[order], rows[order], given[order]
        block = np.r_[True, (bodies[1:] != bodies[:-1]) | (rows.block_zyx[1:] != rows.block_zyx[:-1]).any(axis=1)]
        changed = np.logical_or.reduceat(given, np.flatnonzero(block))[np.cumsum(block) - 1]
        keep = block | np.r_[True, rows.supervoxel[1:] != rows.supervoxel[:-1]]
        surface = np.where(changed, np.uint64(stamp.mutation), rows.surface)
        bodies, rows = bodies[keep], Rows(rows.block_zyx, rows.supervoxel, rows.count, surface)[keep]
    write_new_bodies(space, bodies, rows, stamp)
