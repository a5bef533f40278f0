"""Splits inside a transaction: supervoxels are cut in two, in the voxels of all scales, the index and the mapping.

Only the blocks of the supervoxels are read. Where no run lies, a block's label table changes and no voxel is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, compress, decompress
from dvid_dask.datatypes.labelmap.columns import pack, unpack
from dvid_dask.datatypes.labelmap.downres import update_scales
from dvid_dask.datatypes.labelmap.extents import raise_max_label
from dvid_dask.datatypes.labelmap.index import Index, Stamp
from dvid_dask.datatypes.labelmap.mapping import Mapping, restore_entries, set_mapping
from dvid_dask.datatypes.labelmap.rows import Rows, distinct_blocks
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.datatypes.runs import prepare_runs
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks, label_cuts, rles
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = [
    "Done",
    "Parts",
    "check",
    "cut",
    "forget_splits",
    "join",
    "mapped_to",
    "note_splits",
    "prepare_runs",
    "scan_splits",
    "under",
]

_BATCH = 256


class Parts(NamedTuple):
    """Supervoxels and what they are cut into: uint64 (n,) each, `old` ascending."""

    old: NDArray[np.uint64]
    split: NDArray[np.uint64]
    remain: NDArray[np.uint64]

    @classmethod
    def of(cls, old: ArrayLike, split: ArrayLike, remain: ArrayLike) -> Parts:
        """Parts from anything array-like, in any order."""
        a, b, c = (np.asarray(v, np.uint64).reshape(-1) for v in (old, split, remain))
        order = np.argsort(a)
        return cls(a[order], b[order], c[order])


@dataclass(frozen=True)
class Done:
    """What `cut` did: voxels of the parts of each supervoxel, and whether each had an entry in the mapping."""

    split_voxels: NDArray[np.int64]
    remain_voxels: NDArray[np.int64]
    entries: NDArray[np.bool_]


class _Pieces:
    """Runs by block."""

    def __init__(self, layout: Layout, runs: NDArray[np.int32]) -> None:
        self.block_zyx, offsets, self._pieces = rles.split_by_block(runs, layout.block_shape)
        ends = offsets.tolist()
        self._at = {
            (z, y, x): (a, b) for (z, y, x), a, b in zip(self.block_zyx.tolist(), ends[:-1], ends[1:], strict=True)
        }

    def of(self, block: tuple[int, int, int]) -> NDArray[np.int32] | None:
        """The runs in a block, if any."""
        found = self._at.get(block)
        return None if found is None else self._pieces[found[0] : found[1]]


def _start(layout: Layout, block: tuple[int, int, int]) -> list[int]:
    return [c * b for c, b in zip(block, layout.block_shape, strict=True)]


def under(space: AnySpace, layout: Layout, runs: NDArray[np.int32]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Supervoxels under runs, each once in the order in which blocks (z, y, x) and runs meet them; and their voxels.

    Background is left out.

    Raises
    ------
    BadRequest
        If runs lie where no block is stored.
    """
    _check_ends(space, layout, runs)
    pieces = _Pieces(layout, runs)
    met: dict[int, int] = {}
    for batch in batches(pieces.block_zyx, _BATCH):
        coords = np.array(batch, np.int32)
        values = space.get_many(keys.blocks(0, coords))
        listed = [(z, y, x) for z, y, x in coords.tolist()]
        for block, value in zip(listed, values, strict=True):
            if value is None:
                raise BadRequest(f"runs lie in block {block} (z, y, x), where nothing is stored")

        def look(task: tuple[tuple[int, int, int], bytes | None]) -> tuple[list[int], list[int]]:
            block, value = task
            inside = pieces.of(block)
            if value is None or inside is None:
                return [], []
            labels, voxels = label_cuts.labels_under(decompress(value, layout), inside, _start(layout, block))
            return labels.tolist(), voxels.tolist()

        for labels, voxels in parallel(look, list(zip(listed, values, strict=True)), grain=4):
            for label, n in zip(labels, voxels, strict=True):
                if label:
                    met[label] = met.get(label, 0) + n
    return np.array(list(met), np.uint64), np.array(list(met.values()), np.int64)


def _check_ends(space: AnySpace, layout: Layout, runs: NDArray[np.int32]) -> None:
    """Refuse long runs that end where no block is stored, before they are cut into a piece for each block of a row."""
    long = runs[runs[:, 3] > layout.block_shape[2]]
    if not len(long):
        return
    last = long[:, [2, 1, 0]].astype(np.int64)
    last[:, 2] += long[:, 3].astype(np.int64) - 1
    blocks = distinct_rows(last // np.array(layout.block_shape)).astype(np.int32)
    for batch in batches(blocks, _BATCH):
        for block, value in zip(batch, space.get_many(keys.blocks(0, np.array(batch, np.int32))), strict=True):
            if value is None:
                z, y, x = (int(c) for c in block)
                raise BadRequest(f"runs lie in block {(z, y, x)} (z, y, x), where nothing is stored")


def _within(layout: Layout, rows: Rows, runs: NDArray[np.int32]) -> NDArray[np.int32]:
    """The part of runs in the box of the blocks of rows: a few long runs may cross millions of other blocks."""
    if not len(rows):
        return runs[:0]
    low = rows.block_zyx.min(axis=0).astype(np.int64) * layout.block_shape
    high = (rows.block_zyx.max(axis=0).astype(np.int64) + 1) * layout.block_shape
    return rles.clip(runs, (low.tolist(), high.tolist()))


def check(space: AnySpace, layout: Layout, body: int, supervoxel: int, runs: NDArray[np.int32]) -> None:
    """Whether runs can cut a supervoxel: some of it, not all, and nothing else in its blocks.

    Raises
    ------
    BadRequest
        If they can't.
    """
    rows = Index(space).rows_of(body, [supervoxel])
    pieces = _Pieces(layout, _within(layout, rows, runs))
    touched = rows[np.array([pieces.of((z, y, x)) is not None for z, y, x in rows.block_zyx.tolist()], np.bool_)]
    inside = beside = 0
    for blocks, values in _stored(space, touched):

        def look(task: tuple[tuple[int, int, int], bytes]) -> tuple[int, int]:
            block, value = task
            here = pieces.of(block)
            if here is None:
                return 0, 0
            labels, voxels = label_cuts.labels_under(decompress(value, layout), here, _start(layout, block))
            mine = labels == np.uint64(supervoxel)
            return int(voxels[mine].sum()), int(voxels[~mine].sum())

        for mine, others in parallel(look, list(zip(blocks, values, strict=True)), grain=4):
            inside += mine
            beside += others
    if beside:
        raise BadRequest(_beside(beside))
    if not 0 < inside < rows.voxels:
        raise BadRequest(f"the runs hold {'all' if inside else 'none'} of supervoxel {supervoxel}")


def _beside(voxels: int) -> str:
    return f"{voxels} voxels of the runs lie beside the supervoxel in its own blocks"


def cut(
    space: TxSpace,
    layout: Layout,
    body: int,
    parts: Parts,
    runs: NDArray[np.int32],
    stamp: Stamp,
    *,
    downres: bool = True,
    strict: bool = True,
) -> Done:
    """Cut supervoxels of a body: what lies under runs becomes `split`, the rest `remain`, both of the same body.

    Parameters
    ----------
    space
        Space of a transaction.
    layout
        Block shape and scales.
    body
        The body of all of them.
    parts
        Supervoxels and their new ids, which nothing has.
    runs
        As `prepare_runs` makes them.
    stamp
        Who splits.
    downres
        Whether coarser scales follow.
    strict
        Refuse runs over other labels in the blocks of the supervoxels. Runs in other blocks don't count.

    Raises
    ------
    BadRequest
        If the body has none of a supervoxel's voxels, or runs lie beside the supervoxels.
    """
    index = Index(space)
    rows = index.rows_of(body, parts.old)
    pieces = _Pieces(layout, _within(layout, rows, runs))
    split_voxels, counts = np.zeros(len(parts.old), np.int64), []
    beside = 0

    def change(task: tuple[tuple[int, int, int], bytes]) -> tuple[bytes, NDArray[np.int64], int, Counted]:
        block, value = task
        inside = pieces.of(block)
        opened = decompress(value, layout)
        if inside is None:
            new, done, others = label_cuts.map_labels(opened, parts.old, parts.remain), np.zeros(0, np.int64), 0
        else:
            new, done, others = label_cuts.cut_block(opened, inside, _start(layout, block), *parts)
        return compress(new), done, others, label_blocks.count(new)

    changed: dict[tuple[int, int, int], bytes] = {}
    for blocks, values in _stored(space, rows):
        for block, (value, done, others, counted) in zip(
            blocks, parallel(change, list(zip(blocks, values, strict=True)), grain=4), strict=True
        ):
            changed[block] = value
            counts.append((block, counted))
            beside += others
            if len(done):
                split_voxels += done
    if strict and beside:
        raise BadRequest(_beside(beside))
    new_rows = _rows_of(counts, np.sort(np.concatenate([parts.split, parts.remain])))
    _store(space, layout, changed, downres)
    index.update(body, Rows.concatenate([rows.with_counts(0), new_rows]), stamp=stamp)
    had, _ = set_mapping(space, parts.old, 0)
    remain_voxels = _sums(new_rows, parts.remain)
    made = np.concatenate([parts.split[split_voxels > 0], parts.remain[remain_voxels > 0]])
    set_mapping(space, made, body)
    raise_max_label(space, int(max(parts.split.max(), parts.remain.max())))
    return Done(split_voxels, remain_voxels, had)


Counted = tuple["NDArray[np.uint64]", "NDArray[np.int64]"]


def join(
    space: TxSpace,
    layout: Layout,
    body: int,
    parts: Parts,
    entries: NDArray[np.bool_],
    stamp: Stamp,
    *,
    downres: bool = True,
) -> None:
    """Make one supervoxel of both parts of each again: the inverse of `cut`.

    Parameters
    ----------
    entries
        Whether each old supervoxel had an entry in the mapping.
    space, layout, body, parts, stamp, downres
        As for `cut`.
    """
    index = Index(space)
    gone = np.concatenate([parts.split, parts.remain])
    order = np.argsort(gone)
    sources, targets = gone[order], np.concatenate([parts.old, parts.old])[order]
    rows = index.rows_of(body, sources)

    def change(value: bytes) -> tuple[bytes, Counted]:
        new = label_blocks.normalize(label_cuts.map_labels(decompress(value, layout), sources, targets))
        return compress(new), label_blocks.count(new)

    changed: dict[tuple[int, int, int], bytes] = {}
    counts = []
    for blocks, values in _stored(space, rows):
        for block, (value, counted) in zip(blocks, parallel(change, values, grain=4), strict=True):
            changed[block] = value
            counts.append((block, counted))
    _store(space, layout, changed, downres)
    index.update(body, Rows.concatenate([rows.with_counts(0), _rows_of(counts, parts.old)]), stamp=stamp)
    restore_entries(space, sources, False, 0)
    # their body may have been merged into another since
    restore_entries(space, parts.old, entries | (parts.old != np.uint64(body)), body)


def _stored(space: AnySpace, rows: Rows) -> Iterator[tuple[list[tuple[int, int, int]], list[bytes]]]:
    """The blocks of rows and their stored values, in batches."""
    for batch in batches(distinct_blocks(rows), _BATCH):
        coords = np.array(batch, np.int32)
        values = space.get_many(keys.blocks(0, coords))
        there = [v is not None for v in values]
        if not all(there):
            missing = coords[there.index(False)].tolist()
            raise BadRequest(f"the label index names block {tuple(missing)} (z, y, x), which is not stored: run fsck")
        yield [(z, y, x) for z, y, x in coords.tolist()], [v for v in values if v is not None]


def _rows_of(counts: list[tuple[tuple[int, int, int], Counted]], wanted: NDArray[np.uint64]) -> Rows:
    """Rows of the wanted labels (ascending) from counts of blocks."""
    number = np.repeat(np.arange(len(counts)), [len(names) for _, (names, _) in counts])
    label = np.concatenate([np.empty(0, np.uint64), *(names for _, (names, _) in counts)])
    count = np.concatenate([np.empty(0, np.int64), *(n for _, (_, n) in counts)])
    keep = is_among(label, wanted)
    coords = np.array([block for block, _ in counts], np.int32).reshape(-1, 3)
    return Rows.of(coords[number[keep]], label[keep], count[keep])


def _sums(rows: Rows, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Voxels of each wanted label."""
    order = np.argsort(wanted)
    at = np.searchsorted(wanted[order], rows.supervoxel)
    at[at == len(wanted)] = 0
    hit = wanted[order][at] == rows.supervoxel
    sums = np.zeros(len(wanted), np.int64)
    np.add.at(sums, order[at[hit]], rows.count[hit].astype(np.int64))
    return sums


def _store(space: TxSpace, layout: Layout, changed: dict[tuple[int, int, int], bytes], downres: bool) -> None:
    space.put_many(zip(keys.blocks(0, list(changed)), changed.values(), strict=True))
    if downres:
        update_scales(space, layout, changed)


# ------------------------------------------------------------------ which supervoxels were split


def note_splits(space: TxSpace, vid: int, mutation: int, parts: Parts) -> None:
    """Keep for `scan_splits` that a mutation split supervoxels."""
    ids = np.full(len(parts.old), mutation, np.uint64)
    space.put(keys.split(vid, mutation), pack([ids, parts.old, parts.remain, parts.split]))


def forget_splits(space: TxSpace, vid: int, mutation: int) -> None:
    """The mutation was taken back."""
    space.delete(keys.split(vid, mutation))


def scan_splits(space: AnySpace, vid: int) -> Iterator[NDArray[np.uint64]]:
    """uint64 (n, 4) of each mutation of a version that split supervoxels: its id, old, remain, split."""
    for _, value in space.scan(keys.splits(vid)):
        yield unpack(value, 4).T


def mapped_to(space: AnySpace, supervoxels: NDArray[np.uint64]) -> int | None:
    """The body that all these supervoxels are mapped to; None if they differ."""
    bodies = distinct(Mapping(space).bodies(supervoxels))
    return int(bodies[0]) if len(bodies) == 1 else None
