"""The half of `split_by` that reads and writes voxels: supervoxels and other labels, brick by brick."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import blocks_in_box, compress, decompress
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks, label_cuts
from dvid_dask.formats.distinct import distinct, is_among
from dvid_dask.ops.bricks import Grid
from dvid_dask.ops.label_bricks import Counts, encode_counts, partition_of, rows_key
from dvid_dask.ops.piles import Pile, by_mapping_page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.datatypes.labelmap.blocks import Layout
    from dvid_dask.ops.drafts import DraftLedger
    from dvid_dask.ops.job import Result
    from dvid_dask.ops.sources import Volume

__all__ = ["Bricks", "Relabel", "borders", "changed_blocks", "ids_pile", "pairs_pile", "split_grid"]

_BLOCKS_PER_BRICK = 4  # along each axis
_SMALL_TABLE = 1 << 22
_COORDINATE = np.int64(1 << 31)

_CHANGED = "the segmentation to cut by changed while it was read; nothing is changed"

Columns = tuple["NDArray[np.uint64]", ...]


def split_grid(blocks: NDArray[np.int32], block: Point) -> Grid:
    """Bricks over the stored blocks."""
    low, high = blocks.min(axis=0).tolist(), (blocks.max(axis=0) + 1).tolist()
    z, y, x = (b * _BLOCKS_PER_BRICK for b in block)
    return Grid(0, 0, (z, y, x), block, Box.of(low, high).scaled(block)).only(blocks.astype(np.int64))


def changed_blocks(ledger: DraftLedger) -> NDArray[np.int32]:
    """Blocks of scale 0 that changed, int32 (n, 3)."""
    table = _blocks_pile(ledger).read(ledger.view(), 0).astype(np.int64) - _COORDINATE
    return np.ascontiguousarray(table.T).astype(np.int32)


def _blocks_pile(ledger: DraftLedger) -> Pile:
    return Pile(ledger, "blocks", 3)


def pairs_pile(ledger: DraftLedger) -> Pile:
    """Supervoxel, other label, 1 if beside the other, brick, voxels; by page of the mapping."""
    return Pile(ledger, "pairs", 5)


def ids_pile(ledger: DraftLedger) -> Pile:
    """Supervoxel, other label, 1 if beside the other, voxels, new id; by brick."""
    return Pile(ledger, "ids", 5)


def borders(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where rows of sorted columns differ from the one before."""
    first = np.ones(len(columns[0]), np.bool_)
    first[1:] = np.logical_or.reduce([c[1:] != c[:-1] for c in columns])
    return first


class _Other(NamedTuple):
    """The other labels in a block: which of `label` each voxel has, or None if all have the one.

    `beside` is 1 for the one that stands for no voxel of the other segmentation.
    """

    codes: NDArray[np.int64] | None
    label: NDArray[np.uint64]
    beside: NDArray[np.uint64]


_BESIDE = _Other(None, np.zeros(1, np.uint64), np.ones(1, np.uint64))


def _factorized(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Number of each value among the distinct ones, and those."""
    import pandas as pd

    codes, once = pd.factorize(values.reshape(-1).astype(np.uint64))
    return codes.astype(np.int64), np.asarray(once, np.uint64)


def _combine(block: bytes, other: _Other) -> tuple[NDArray[np.uint64], NDArray[np.int64], Any, NDArray[np.int64]]:
    """Pairs of supervoxel and number of the other label in a block, the pair of each voxel, and voxels of each pair."""
    if other.codes is None:
        raise ValueError("one label only: its pairs are the block's labels")
    codes, names = _factorized(label_blocks.decode_block(block))
    n = len(other.label)
    packed = codes * n + other.codes
    if len(names) * n <= _SMALL_TABLE:
        counts = np.bincount(packed, minlength=len(names) * n)
        pairs = np.flatnonzero(counts)
        rank = np.zeros(len(counts), np.int64)
        rank[pairs] = np.arange(len(pairs))
        where, counts = rank[packed], counts[pairs]
    else:
        pairs, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
    return names[pairs // n], pairs % n, where.reshape(-1), counts.astype(np.int64)


class _Table:
    """The new ids in a brick, to look up by supervoxel and other label."""

    def __init__(self, rows: NDArray[np.uint64]) -> None:
        supervoxel, label, beside, self._voxels, self._made = rows
        self.supervoxels = distinct(supervoxel)
        self._labels = distinct(label)
        code = self._code(supervoxel, label, beside)
        order = np.argsort(code)
        self._codes, self._new = code[order], self._made[order]

    def _code(
        self, supervoxel: NDArray[np.uint64], label: NDArray[np.uint64], beside: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        n = len(self._labels)
        column = np.where(beside != 0, n, np.searchsorted(self._labels, label))
        return np.searchsorted(self.supervoxels, supervoxel) * np.int64(n + 1) + column

    def new(
        self, supervoxel: NDArray[np.uint64], label: NDArray[np.uint64], beside: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """What voxels of supervoxels become.

        Raises
        ------
        BadRequest
            If a supervoxel that is cut lies under a label that it had not when it was looked at first.
        """
        cut = is_among(supervoxel, self.supervoxels)
        known = (beside != 0) | is_among(label, self._labels)
        code = self._code(supervoxel, label, beside)
        at = np.minimum(np.searchsorted(self._codes, code), len(self._codes) - 1)
        hit = (self._codes[at] == code) & known
        if (cut & ~hit).any():
            raise BadRequest(_CHANGED)
        return np.where(cut, self._new[at], supervoxel)

    def check(self, new: NDArray[np.uint64], voxels: NDArray[np.int64]) -> None:
        """Compare what was written with what was counted at first; ids may come several times.

        Raises
        ------
        BadRequest
            If they differ: parts would be mapped that have no voxels, or not as many as the log says.
        """
        ids, where = np.unique(new, return_inverse=True)
        sums = np.bincount(where.reshape(-1), voxels, len(ids)).astype(np.uint64)
        order = np.argsort(self._made)
        if not (np.array_equal(ids, self._made[order]) and np.array_equal(sums, self._voxels[order])):
            raise BadRequest(_CHANGED)


@dataclass(frozen=True)
class Bricks:
    """The tasks on voxels. `other` is None where tasks are given what Dask computed."""

    ledger: DraftLedger
    partitions: int
    layout: Layout
    grid: Grid
    box: Box
    other: Volume | None

    def blocks(
        self, index: int, given: NDArray[Any] | None, wanted: NDArray[np.uint64] | None = None
    ) -> Iterator[tuple[NDArray[np.int32], bytes, _Other]]:
        """Stored blocks of a brick as they were at first, and the other labels in each.

        With `wanted`, those that hold one of these supervoxels (ascending) only.
        """
        brick, shape = self.grid.brick(index), self.layout.block_shape
        cells = brick.cells(shape)
        coords = blocks_in_box(cells.start, cells.stop)
        inside = brick.intersect(self.box)
        if given is None and inside:
            if self.other is None:
                raise ValueError("a brick that overlaps a dask array was not given its part")
            given = self.other.read(inside.relative(self.box.start))
        for block, value in zip(coords, self.ledger.base().get_many(keys.blocks(0, coords)), strict=True):
            if value is None:
                continue
            opened = decompress(value, self.layout)
            if wanted is not None and not is_among(label_blocks.labels(opened), wanted).any():
                continue
            start = block.tolist()
            box = Box.of(start, [v + 1 for v in start]).scaled(shape)
            yield block, opened, self._under(box, inside, given)

    @staticmethod
    def _under(box: Box, inside: Box, given: NDArray[Any] | None) -> _Other:
        covered = box.intersect(inside) if inside else inside
        if given is None or not covered:
            return _BESIDE
        part = np.asarray(given)[covered.relative(inside.start).slices()]
        if covered == box and (part == part[0, 0, 0]).all():
            return _Other(None, part[:1, 0, 0].astype(np.uint64), np.zeros(1, np.uint64))
        codes, label = _factorized(part)
        beside = np.zeros(len(label), np.uint64)
        if covered != box:
            whole = np.full(box.shape, len(label), np.int64)
            whole[covered.relative(box.start).slices()] = codes.reshape(covered.shape)
            codes = whole.reshape(-1)
            label, beside = np.append(label, np.uint64(0)), np.append(beside, np.uint64(1))
        return _Other(codes, label, beside)

    def pairs(self, index: int, given: NDArray[Any] | None = None) -> Result:
        """Count supervoxels under other labels."""
        if (done := self.ledger.mark(self.ledger.view(), "pairs", index)) is not None:
            return done
        parts: list[Columns] = [(np.empty(0, np.uint64),) * 4]
        for _, block, other in self.blocks(index, given):
            if other.codes is None:
                supervoxel, counts = label_blocks.count(block)
                which = np.zeros(len(supervoxel), np.int64)
            else:
                supervoxel, which, _, counts = _combine(block, other)
            keep = supervoxel != 0
            which = which[keep]
            parts.append((supervoxel[keep], other.label[which], other.beside[which], counts[keep].astype(np.uint64)))
        supervoxel, label, beside, voxels = (np.concatenate([p[i] for p in parts]) for i in range(4))
        order = np.lexsort((label, beside, supervoxel))
        supervoxel, label, beside, voxels = supervoxel[order], label[order], beside[order], voxels[order]
        heads = np.flatnonzero(borders(supervoxel, label, beside))
        sums = np.add.reduceat(voxels, heads) if len(heads) else voxels
        supervoxel, label, beside = supervoxel[heads], label[heads], beside[heads]
        columns = [supervoxel, label, beside, np.full(len(heads), index, np.uint64), sums]
        items = pairs_pile(self.ledger).cut(index, 0, by_mapping_page(supervoxel, self.partitions), columns)

        def step(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {}

        return self.ledger.commit("pairs", index, step)

    def relabel(self, task: int, index: int, given: NDArray[Any] | None = None) -> Result:
        """Write the parts of a brick."""
        space = self.ledger.view()
        if (done := self.ledger.mark(space, "relabel", task)) is not None:
            return done
        table = _Table(ids_pile(self.ledger).read(space, index))
        coords: list[NDArray[np.int32]] = []
        values: list[bytes] = []
        counted: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]] = []
        for block, opened, other in self.blocks(index, given, table.supervoxels):
            if other.codes is None:
                old, counts = label_blocks.count(opened)
                keep = is_among(old, table.supervoxels)
                old, counts = old[keep], counts[keep].astype(np.int64)
                order = np.argsort(old)
                old, counts = old[order], counts[order]
                new = table.new(old, other.label.repeat(len(old)), other.beside.repeat(len(old)))
                made = label_cuts.map_labels(opened, old, new) if len(old) else opened
            else:
                old, which, where, counts = _combine(opened, other)
                new = table.new(old, other.label[which], other.beside[which])
                made = label_blocks.encode_block(new[where].reshape(self.layout.block_shape))
            moved = old != new
            if not moved.any():  # the table names what no voxel has
                continue
            both = np.concatenate([old[moved], new[moved]])
            counted.append(
                (np.full(len(both), len(coords), np.int64), both, np.concatenate([-counts[moved], counts[moved]]))
            )
            coords.append(block)
            values.append(compress(made))
        if not counted:
            raise BadRequest(_CHANGED)
        number = np.concatenate([c[0] for c in counted])
        label = np.concatenate([c[1] for c in counted])
        delta = np.concatenate([c[2] for c in counted])
        table.check(label[delta > 0], delta[delta > 0])
        return self._write(space, task, coords, values, Counts.summed(number, label, delta, np.stack(coords)))

    def _write(
        self,
        space: Space,
        task: int,
        coords: list[NDArray[np.int32]],
        values: list[bytes],
        rows: Counts,
    ) -> Result:
        at = np.stack(coords)
        partition = partition_of(Mapping(space).bodies(rows.supervoxel), self.partitions)
        order = np.argsort(partition, kind="stable")
        starts = np.flatnonzero(borders(partition[order])).tolist()
        items = [
            (rows_key(self.ledger, int(partition[order[a]]), task), encode_counts(rows[order[a:b]]))
            for a, b in zip(starts, [*starts[1:], len(order)], strict=True)
        ]
        places = list((at.T.astype(np.int64) + _COORDINATE).astype(np.uint64))
        items += _blocks_pile(self.ledger).cut(task, 0, np.zeros(len(at), np.int64), places)
        items += zip(keys.blocks(0, at), values, strict=True)

        def step(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {}

        return self.ledger.commit("relabel", task, step)


@dataclass(frozen=True)
class Relabel:
    """Runs the tasks of the phase that writes, one per chosen brick."""

    bricks: Bricks
    chosen: list[int]

    def __call__(self, task: int, given: NDArray[Any] | None = None) -> Result:
        """Write the parts of the task's brick."""
        return self.bricks.relabel(task, self.chosen[task], given)
