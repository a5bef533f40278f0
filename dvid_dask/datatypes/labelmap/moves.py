"""Many supervoxels to other bodies at once: rows taken out of the label index of some bodies and given to others.

For bulk jobs, which do all takes before they give, on a state that nobody else reads. What a supervoxel's mapping says
is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.columns import unpack
from dvid_dask.datatypes.labelmap.index import Header, Index, Stamp, write_new_bodies
from dvid_dask.datatypes.labelmap.rows import COLUMNS, Rows
from dvid_dask.datatypes.labelmap.threads import batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["WHOLE", "Taken", "give", "take", "taken"]

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


def taken(
    space: AnySpace, body: NDArray[np.uint64], supervoxel: NDArray[np.uint64], new: NDArray[np.uint64]
) -> Iterator[Taken]:
    """What moves take from bodies, body after body; nothing is changed.

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
        for (label, a, b), record in zip(batch, records, strict=True):
            yield _taken(space, label, record, supervoxel[a:b], new[a:b])


def _taken(
    space: AnySpace, body: int, record: bytes | None, wanted: NDArray[np.uint64], new: NDArray[np.uint64]
) -> Taken:
    all_of_it = int(wanted[0]) == WHOLE
    if record is None:
        return Taken(body, False, all_of_it, wanted, new, np.zeros(len(wanted), np.uint64), 0, False, False, iter(()))
    header, end = Header.decode(record)
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
    if not header.paged:
        rows = Rows.from_table(unpack(memoryview(record)[end:], COLUMNS))
        at = np.minimum(np.searchsorted(wanted, rows.supervoxel), len(wanted) - 1)
        named = wanted[at] == rows.supervoxel
        voxels = np.bincount(at[named], rows.count[named], len(wanted)).astype(np.uint64)
        goes = named & leaves[at]
        everything = bool(goes.all())
        gone = [(rows, new[at])] if everything else [(rows[goes], new[at[goes]])]
        return Taken(body, True, False, wanted, new, voxels, header.voxels, everything, False, iter(gone))
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
    fresh: list[NDArray[np.int64]] = []
    for batch in batches(zip(labels.tolist(), starts.tolist(), ends.tolist(), strict=True), _BODIES):
        for (label, a, b), header in zip(batch, index.headers(label for label, _, _ in batch), strict=True):
            if header is None:
                fresh.append(np.arange(a, b))
            else:
                index.update(label, rows[a:b], stamp=stamp, surface=stamp.mutation)
    if fresh:
        chosen = np.concatenate(fresh)
        write_new_bodies(space, bodies[chosen], rows[chosen].with_surface(stamp.mutation), stamp)
