"""The bulk door: bricks of voxels in, rows of the label index out, and the index written from them afterwards.

A bulk load is three kinds of transactions on the same version:

1. per brick, `store_brick` (or `store_blocks` for blocks already compressed): writes blocks of all scales that the
   brick covers whole and returns what the index needs to know, without touching it;
2. `downres.build_scale` for the coarser blocks that span several bricks;
3. per group of bodies, `apply_rows` with the rows of all bricks for those bodies; at the end, `finish`.

All of them set, none adds: any of them can be repeated, also after a crash between them.

Examples
--------
A brick of one block with label 7 in its lower half::

    rows = tree.update(lambda tx: store_brick(space(tx), Layout((64, 64, 64), 2), brick, (0, 0, 0)))
    bodies = rows.bodies(mapping)
    tree.update(lambda tx: apply_rows(space(tx), rows))
    tree.update(lambda tx: finish(space(tx), rows.max_label, rows.extents))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress
from dvid_dask.datatypes.labelmap.extents import grow_extents, raise_max_label
from dvid_dask.datatypes.labelmap.index import Index, Stamp, write_new_bodies
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Mapping as MappingOf

    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Space, TxSpace

__all__ = ["IndexRows", "add_counts", "apply_rows", "finish", "store_blocks", "store_brick"]


@dataclass(frozen=True)
class IndexRows:
    """What writing blocks of scale 0 means for the label index; plain arrays, made to be sent and sorted.

    Attributes
    ----------
    block_zyx
        int32 (n, 3): block coordinates.
    supervoxel
        uint64 (n,): never 0.
    count
        uint32 (n,): voxels of the supervoxel in the block *now*; 0 where it was and is no more.
    extents
        First and last voxel (z, y, x), both inclusive, of what was written; None if nothing was.
    max_label
        Largest label written, 0 if none.
    """

    block_zyx: NDArray[np.int32]
    supervoxel: NDArray[np.uint64]
    count: NDArray[np.uint32]
    extents: Box | None = None
    max_label: int = 0

    def __len__(self) -> int:
        return len(self.supervoxel)

    @classmethod
    def join(cls, parts: Iterable[IndexRows]) -> IndexRows:
        """The rows of several bricks."""
        listed = list(parts)
        extents: Box | None = None
        for p in listed:
            if p.extents is not None:
                extents = p.extents if extents is None else extents.union(p.extents)
        return cls(
            np.concatenate([np.empty((0, 3), np.int32), *(p.block_zyx for p in listed)]),
            np.concatenate([np.empty(0, np.uint64), *(p.supervoxel for p in listed)]),
            np.concatenate([np.empty(0, np.uint32), *(p.count for p in listed)]),
            extents,
            max((p.max_label for p in listed), default=0),
        )

    def select(self, choice: NDArray[np.bool_] | NDArray[np.int64] | slice) -> IndexRows:
        """Some of the rows."""
        return IndexRows(
            self.block_zyx[choice], self.supervoxel[choice], self.count[choice], self.extents, self.max_label
        )


def store_brick(
    space: TxSpace,
    layout: Layout,
    labels_zyx: NDArray[np.uint64],
    offset_zyx: Sequence[int],
    *,
    levels: int = 0,
    replace: bool = True,
) -> IndexRows:
    """Write a brick of supervoxels: its blocks of scale 0 and, if asked, of coarser scales.

    Parameters
    ----------
    space
        Space of a transaction.
    layout
        Block shape of the instance.
    labels_zyx
        uint64 (z, y, x), whole blocks.
    offset_zyx
        First voxel, a multiple of the block shape.
    levels
        Coarser scales to write from this brick alone. Offset and shape must be multiples of the block shape times
        ``2**levels``, so that no other brick has a part in these blocks.
    replace
        True: look at the blocks stored so far, so that supervoxels that are gone are reported with a count of 0.
        False only where nothing can be stored yet.

    Returns
    -------
    IndexRows
        For `apply_rows`. The label index itself is not touched.

    Raises
    ------
    BadRequest
        If shape or offset don't fit the blocks; nothing is written.

    Notes
    -----
    Blocks that are all zero aren't stored, and deleted where they were.
    """
    unit = [b << levels for b in layout.block_shape]
    if labels_zyx.ndim != 3 or any(n % u or o % u for n, o, u in zip(labels_zyx.shape, offset_zyx, unit, strict=True)):
        raise BadRequest(
            f"a brick of {labels_zyx.shape} voxels at {tuple(offset_zyx)} (z, y, x) with {levels} coarser scales "
            f"must be made of whole {tuple(unit)}"
        )
    rows = IndexRows(np.empty((0, 3), np.int32), np.empty(0, np.uint64), np.empty(0, np.uint32))
    dense = labels_zyx
    for scale in range(levels + 1):
        if scale:
            dense = label_blocks.downsample_array(dense)
        first = np.array([o // (b << scale) for o, b in zip(offset_zyx, layout.block_shape, strict=True)])
        written = _store_dense(space, layout, scale, dense, first, report=scale == 0, replace=replace)
        if written is not None:
            rows = written
    return rows


def _store_dense(
    space: TxSpace,
    layout: Layout,
    scale: int,
    dense: NDArray[np.uint64],
    first: NDArray[np.int64],
    *,
    report: bool,
    replace: bool,
) -> IndexRows | None:
    bz = layout.block_shape[0]
    slabs = [dense[z : z + bz] for z in range(0, dense.shape[0], bz)]
    encoded = parallel(lambda slab: label_blocks.encode_and_count(slab, layout.block_shape), slabs, grain=1)
    grid = [n // b for n, b in zip(dense.shape, layout.block_shape, strict=True)]
    blocks, numbers, names, counts = [], [], [], []
    per_slab = grid[1] * grid[2]
    for i, (made, number, label, count) in enumerate(encoded):
        blocks += made
        numbers.append(number.astype(np.int64) + i * per_slab)
        names.append(label)
        counts.append(count)
    number, label, count = np.concatenate(numbers), np.concatenate(names), np.concatenate(counts)
    coords = (np.stack(np.unravel_index(np.arange(len(blocks)), grid), axis=1) + first).astype(np.int32)
    zero = np.array([len(b) == 24 and b[16:] == bytes(8) for b in blocks], np.bool_)
    values: list[bytes | None] = parallel(
        lambda task: None if task[1] else compress(task[0]), list(zip(blocks, zero.tolist(), strict=True))
    )
    block_keys = keys.blocks(scale, coords)
    olds = space.get_many(block_keys) if replace else [None] * len(block_keys)
    space.put_many((k, v) for k, v in zip(block_keys, values, strict=True) if v is not None)
    for key, value, old in zip(block_keys, values, olds, strict=True):
        if value is None and old is not None:
            space.delete(key)
    if not report:
        return None
    real = label != 0
    rows = (number[real], label[real], count[real])
    extents = None
    if rows[0].size:
        shape = np.array(dense.shape)
        start = first * np.array(layout.block_shape)
        extents = Box.of(start, start + shape)
    found = with_vanished(layout, coords, rows, olds)
    return IndexRows(*found, extents, int(rows[1].max(initial=0)))


def with_vanished(
    layout: Layout,
    coords: NDArray[np.int32],
    rows: tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint32]],
    olds: Sequence[bytes | None],
) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint32]]:
    """Rows by block number, with a row of count 0 for each label that an old block names and the new one has not."""
    number, label, count = rows
    held = [(i, v) for i, v in enumerate(olds) if v is not None]
    if held:
        tables = parallel(lambda t: label_blocks.labels(decompress(t[1], layout)), held)
        old_number = np.repeat([i for i, _ in held], [len(t) for t in tables])
        old_label = np.concatenate(tables)
        real = old_label != 0
        number = np.concatenate([number, old_number[real]])
        label = np.concatenate([label, old_label[real]])
        count = np.concatenate([count, np.zeros(int(real.sum()), np.uint32)])
        order = np.lexsort((label, number))  # stable: a new row comes before the old one it replaces
        number, label, count = number[order], label[order], count[order]
        first = np.ones(len(number), np.bool_)
        first[1:] = (number[1:] != number[:-1]) | (label[1:] != label[:-1])
        number, label, count = number[first], label[first], count[first]
    return coords[number], label, count


def rows_of(
    layout: Layout, coords: NDArray[np.int32], values: Sequence[bytes | None], olds: Sequence[bytes | None]
) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint32]]:
    """What storing `values` where `olds` are means for the label index: block, supervoxel, voxels now."""
    held = [(i, v) for i, v in enumerate(values) if v is not None]
    counted = parallel(lambda pair: label_blocks.count(decompress(pair[1], layout)), held)
    number = np.repeat([i for i, _ in held], [len(names) for names, _ in counted]).astype(np.int64)
    label = np.concatenate([np.empty(0, np.uint64), *(names for names, _ in counted)])
    count = np.concatenate([np.empty(0, np.int64), *(n for _, n in counted)]).astype(np.uint32)
    real = label != 0
    return with_vanished(layout, coords, (number[real], label[real], count[real]), olds)


def store_blocks(
    space: TxSpace, layout: Layout, blocks: MappingOf[tuple[int, int, int], bytes], scale: int = 0
) -> IndexRows:
    """Write label blocks that are already compressed (not gzipped), by block coordinate (z, y, x).

    Only blocks of scale 0 give rows. Coarser scales are left to `downres.build_scale`.

    Raises
    ------
    BadRequest
        If a block doesn't decode or has another shape.
    """
    coords = np.array(list(blocks), np.int32).reshape(-1, 3)

    def prepare(block: bytes) -> tuple[bytes, NDArray[np.uint64], NDArray[np.int64]]:
        try:
            label_blocks.check_block(block, layout.block_shape)
        except ValueError as e:
            raise BadRequest(str(e)) from e
        return compress(block), *label_blocks.count(block)

    prepared = parallel(prepare, list(blocks.values()))
    block_keys = keys.blocks(scale, coords)
    olds = space.get_many(block_keys) if scale == 0 else []
    space.put_many(zip(block_keys, (v for v, _, _ in prepared), strict=True))
    if scale or not prepared:
        return IndexRows(np.empty((0, 3), np.int32), np.empty(0, np.uint64), np.empty(0, np.uint32))
    number = np.repeat(np.arange(len(prepared)), [len(names) for _, names, _ in prepared])
    label = np.concatenate([names for _, names, _ in prepared])
    count = np.concatenate([n for _, _, n in prepared]).astype(np.uint32)
    real = label != 0
    found = with_vanished(layout, coords, (number[real], label[real], count[real]), olds)
    shape = np.array(layout.block_shape)
    extents = Box.of(coords.min(axis=0) * shape, (coords.max(axis=0) + 1) * shape)
    return IndexRows(*found, extents, int(label.max(initial=0)))


def apply_rows(space: TxSpace, rows: IndexRows, *, mapping: Mapping | None = None) -> NDArray[np.uint64]:
    """Set the rows in the label index of the bodies their supervoxels belong to.

    Parameters
    ----------
    space
        Space of a transaction. Two transactions at the same time must not have rows of the same body: one of them
        would be repeated. Cut by body (`bodies_of`), not by brick.
    rows
        Rows of any bricks, each block of a supervoxel once.
    mapping
        The mapping to use, if already read in this transaction.

    Returns
    -------
    NDArray[uint64]
        Bodies that were changed, ascending. Supervoxels that are retired (mapped to 0) are not indexed.
    """
    kept = Rows.of(rows.block_zyx, rows.supervoxel, rows.count)
    return _apply(space, kept, mapping, lambda _, part: part)


def add_counts(
    space: TxSpace,
    block_zyx: ArrayLike,
    supervoxel: ArrayLike,
    delta: ArrayLike,
    *,
    mapping: Mapping | None = None,
    stamp: Stamp | None = None,
) -> NDArray[np.uint64]:
    """Add voxels to (block, supervoxel) pairs of the label index, or take them away.

    For rows that were counted in earlier commits: whatever others changed since stays counted. The caller sees to it
    that each row is added once, by removing it in the same commit.

    Parameters
    ----------
    space
        Space of a transaction, as for `apply_rows`.
    block_zyx, supervoxel, delta
        int (n, 3), uint64 (n,) and int (n,): each pair once.
    mapping
        The mapping to use, if already read in this transaction.
    stamp
        Who changed the bodies; that of bodies that exist is unchanged if not given.

    Returns
    -------
    NDArray[uint64]
        Bodies that were changed, ascending.
    """
    change = np.asarray(delta, np.int64)
    rows = Rows.of(block_zyx, supervoxel, np.maximum(change, 0), np.arange(len(change), dtype=np.uint64))
    index = Index(space)

    def total(body: int, part: Rows) -> Rows:
        counts = index.counts_of(body, part) + change[part.surface.astype(np.int64)]
        return Rows.of(part.block_zyx, part.supervoxel, np.maximum(counts, 0))

    return _apply(space, rows, mapping, total, stamp)


def _apply(
    space: TxSpace,
    rows: Rows,
    mapping: Mapping | None,
    of_existing: Callable[[int, Rows], Rows],
    stamp: Stamp | None = None,
) -> NDArray[np.uint64]:
    """Write rows to the bodies of their supervoxels; for a body that has an index, what `of_existing` makes of them."""
    body = (Mapping(space) if mapping is None else mapping).bodies(rows.supervoxel)
    order = np.argsort(body, kind="stable")
    order = order[body[order] != 0]
    body, rows = body[order], rows[order]
    bodies, starts = np.unique(body, return_index=True)
    ends = np.append(starts, len(body))[1:]  # none of none
    index = Index(space)
    fresh: list[tuple[int, int]] = []
    for batch in batches(zip(bodies.tolist(), starts.tolist(), ends.tolist(), strict=True), 4096):
        for (label, a, b), header in zip(batch, index.headers(label for label, _, _ in batch), strict=True):
            if header is None:
                fresh.append((a, b))
            else:
                index.update(label, of_existing(label, rows[a:b]), stamp=stamp)
    if fresh:
        chosen = np.concatenate([np.arange(a, b) for a, b in fresh])
        chosen = chosen[rows.count[chosen] > 0]
        new = rows[chosen]
        write_new_bodies(space, body[chosen], Rows.of(new.block_zyx, new.supervoxel, new.count), stamp)
    return bodies


def bodies_of(space: Space, rows: IndexRows) -> NDArray[np.uint64]:
    """The body of each row by the mapping of this state; 0 for retired supervoxels."""
    return Mapping(space).bodies(rows.supervoxel)


def finish(space: TxSpace, max_label: int, extents: Box | None) -> None:
    """Note the largest label and the extents of a bulk load in the version."""
    raise_max_label(space, max_label)
    if extents is not None:
        grow_extents(space, extents)
