"""One brick of labels: from voxels to blocks of all its scales and rows for the label index, in bounded memory.

Voxels are read and encoded piece by piece; what is kept of a piece is its blocks (a few kB each), its counts and its
half-size version. Nothing of that happens inside the transaction: it only compares the blocks that were there with
those that the brick was computed from, and writes. When somebody changed one meanwhile, the brick is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.adopted import note_blocks, remade
from dvid_dask.datatypes.labelmap.blocks import Layout, blocks_in_box, compress, decompress
from dvid_dask.datatypes.labelmap.columns import pack, unpack
from dvid_dask.datatypes.labelmap.counters import RESERVED, NextLabels
from dvid_dask.datatypes.labelmap.downres import rebuilt
from dvid_dask.datatypes.labelmap.events import BlocksWritten
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.writes import refuse_retired
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct
from dvid_dask.ops.job import InstanceLedger, Ledger, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.ops.bricks import Grid
    from dvid_dask.ops.sources import Volume
    from dvid_dask.ops.within import Within

__all__ = ["Counts", "LabelBricks", "decode_counts", "encode_counts", "partition_of", "rows_prefix", "scan_counts"]

_ATTEMPTS = 50
_COORDINATE = np.int64(1 << 31)


class _ChangedMeanwhileError(Exception):
    """A block is no longer what the brick was computed from."""


# ------------------------------------------------------------------ rows for the index


@dataclass(frozen=True)
class Counts:
    """Voxels that supervoxels have more (or fewer) in blocks than before.

    Attributes
    ----------
    block_zyx
        int32 (n, 3).
    supervoxel
        uint64 (n,), never 0.
    delta
        int64 (n,), never 0.
    """

    block_zyx: NDArray[np.int32]
    supervoxel: NDArray[np.uint64]
    delta: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.delta)

    def __getitem__(self, choice: NDArray[Any] | slice) -> Counts:
        return Counts(self.block_zyx[choice], self.supervoxel[choice], self.delta[choice])

    @classmethod
    def join(cls, parts: list[Counts]) -> Counts:
        """The rows of all parts."""
        return cls(
            np.concatenate([np.empty((0, 3), np.int32), *(p.block_zyx for p in parts)]),
            np.concatenate([np.empty(0, np.uint64), *(p.supervoxel for p in parts)]),
            np.concatenate([np.empty(0, np.int64), *(p.delta for p in parts)]),
        )

    @classmethod
    def summed(cls, number: NDArray[np.int64], label: NDArray[np.uint64], delta: NDArray[np.int64], at: Any) -> Counts:
        """One row per block number and label; label 0 and zero sums are left out. `at` gives a block's coordinates."""
        order = np.lexsort((label, number))
        number, label, delta = number[order], label[order], delta[order]
        if len(number):
            first = np.ones(len(number), np.bool_)
            first[1:] = (number[1:] != number[:-1]) | (label[1:] != label[:-1])
            starts = np.flatnonzero(first)
            number, label, delta = number[starts], label[starts], np.add.reduceat(delta, starts)
        keep = (label != 0) & (delta != 0)
        return cls(at[number[keep]], label[keep], delta[keep])


def encode_counts(rows: Counts) -> bytes:
    """Rows as compressed columns."""
    places = (rows.block_zyx.T.astype(np.int64) + _COORDINATE).astype(np.uint64)
    zigzag = ((rows.delta << 1) ^ (rows.delta >> 63)).astype(np.uint64)
    return pack([*places, rows.supervoxel, zigzag])


def decode_counts(value: bytes) -> Counts:
    """The inverse of `encode_counts`."""
    table = unpack(value, 5)
    blocks = (table[:3].astype(np.int64) - _COORDINATE).astype(np.int32)
    zigzag = table[4].astype(np.int64)
    return Counts(np.ascontiguousarray(blocks.T), table[3], (zigzag >> 1) ^ -(zigzag & 1))


def partition_of(bodies: NDArray[np.uint64], partitions: int) -> NDArray[np.int64]:
    """Which partition the rows of each body go to; the same on every machine, forever."""
    with np.errstate(over="ignore"):
        h = (bodies ^ (bodies >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
    return ((h >> np.uint64(33)) % np.uint64(partitions)).astype(np.int64)


def rows_prefix(ledger: Ledger, partition: int) -> bytes:
    """Prefix of the rows that bricks leave for a partition."""
    return ledger.key("x", b"%08x" % partition, b"")


def rows_key(ledger: Ledger, partition: int, brick: int) -> bytes:
    """Key of the rows that a brick leaves for a partition."""
    return rows_prefix(ledger, partition) + b"%08x" % brick


# ------------------------------------------------------------------ what is stored


@dataclass
class _Slab:
    """The blocks of one scale under a brick: what was stored, and what is to be."""

    scale: int
    region: Box
    block: Point
    coords: NDArray[np.int32] = field(init=False)
    keys: list[bytes] = field(init=False)
    old: list[bytes | None] = field(init=False)
    rest: list[bytes | None] = field(init=False)  # what voxels are that the brick doesn't write
    anew: NDArray[np.int64] = field(init=False)  # numbers of blocks that are made whole or not at all
    new: dict[int, bytes | None] = field(init=False)

    def __post_init__(self) -> None:
        cells = self.region.cells(self.block)
        self.coords = blocks_in_box(cells.start, cells.stop)
        self.keys = keys.blocks(self.scale, self.coords)
        self.new = {}
        self.anew = np.empty(0, np.int64)

    def load(self, space: Space, layout: Layout, finer: Box | None = None) -> None:
        """Read what is stored, of coarse blocks that `finer` doesn't cover whole also what they are made of."""
        self.old = space.get_many(self.keys)
        self.rest = self.old
        if finer is not None:
            self.anew = np.flatnonzero(remade(space, self.scale, self.keys))
            if len(self.anew) and finer.at_scale(1) != self.region:
                self.rest = list(self.old)
                made = rebuilt(space, layout, self.scale, self.coords[self.anew])
                for n, (_, value) in zip(self.anew.tolist(), made, strict=True):
                    self.rest[n] = value
        self.fresh = all(v is None for v in self.rest)

    def numbers(self, box: Box) -> NDArray[np.int64]:
        """Numbers of the blocks in a box of whole blocks, in zyx order."""
        cells, mine = box.cells(self.block), self.region.cells(self.block)
        inside = cells.relative(mine.start)
        grid = np.arange(mine.size, dtype=np.int64).reshape(mine.shape)
        return grid[inside.slices()].reshape(-1)

    def paste(self, layout: Layout, out: NDArray[np.uint64], box: Box) -> None:
        """Decode the stored blocks in a box of whole blocks into an array of that box."""
        numbers = self.numbers(box)
        held = [(n, v) for n in numbers.tolist() if (v := self.rest[n]) is not None]
        if held:
            places = self.coords[[n for n, _ in held]] * np.array(self.block) - np.array(box.start)
            label_blocks.decode_blocks_into([decompress(v, layout) for _, v in held], places, out)

    def put(self, number: int, block: bytes) -> None:
        """Set a block; all zero is stored as nothing."""
        if len(block) == 24 and block[16:] == bytes(8):
            if self.old[number] is not None:
                self.new[number] = None
        else:
            value = compress(block)
            if value != self.old[number]:
                self.new[number] = value

    def write(self, space: TxSpace) -> None:
        """Write what is new, if what was there still is.

        Raises
        ------
        _ChangedMeanwhileError
            If it isn't.
        """
        if space.get_many(self.keys) != self.old:
            raise _ChangedMeanwhileError
        space.put_many((self.keys[n], v) for n, v in self.new.items() if v is not None)
        for n, v in self.new.items():
            if v is None:
                space.delete(self.keys[n])


# ------------------------------------------------------------------ a brick


@dataclass(frozen=True)
class LabelBricks:
    """Runs brick tasks; pickled once per worker.

    Attributes
    ----------
    ledger, phase
        Where what is done is noted.
    layout
        Of the instance.
    grid
        The bricks.
    source
        Where voxels come from; None reads what is stored at the grid's scale and writes only coarser scales.
    origin
        Voxel of the instance that the source's first voxel is (z, y, x).
    box
        Voxels to write, scale 0.
    add
        Added to every label but 0.
    partitions
        Of the rows for the index; 0 keeps no index.
    within
        Only voxels of this region are written, at the source's scale; without a source, at all coarser scales.
    adopts
        Blocks of scale 0 stay where they are: they are counted, and noted as blocks of the instance's base.
    """

    ledger: InstanceLedger
    phase: str
    layout: Layout
    grid: Grid
    source: Volume | None = None
    origin: Point = (0, 0, 0)
    box: Box | None = None
    add: int = 0
    partitions: int = 0
    within: Within | None = None
    adopts: bool = False

    def __call__(self, index: int, given: NDArray[Any] | None = None) -> Result:
        """Do one brick and commit it."""
        for _ in range(_ATTEMPTS):
            space = self.ledger.view()
            if (done := self.ledger.mark(space, self.phase, index)) is not None:
                return done
            brick = _Brick(self, index, given)
            brick.compute(space)
            try:
                return self.ledger.commit(self.phase, index, brick.write)
            except _ChangedMeanwhileError:
                continue
        raise Conflict(
            f"brick {index} ({self.grid.brick(index)}) was changed by others {_ATTEMPTS} times while it was computed"
        )


class _Brick:
    def __init__(self, task: LabelBricks, index: int, given: NDArray[Any] | None) -> None:
        self.task, self.index, self.given = task, index, given
        self.region = task.grid.brick(index)
        block = task.layout.block_shape
        self.slabs = [_Slab(task.grid.scale + i, box, block) for i, box in enumerate(task.grid.regions(index))]
        self.adopted: list[NDArray[np.int64]] = []
        self.rows: list[bytes] = []
        self.partitions: list[int] = []
        self.max_label = 0
        self.voxels = 0

    # -------------------------------------------------------------- compute

    def compute(self, space: Space) -> None:
        """Everything but the commit."""
        for n, slab in enumerate(self.slabs):
            slab.load(space, self.task.layout, self.slabs[n - 1].region if n else None)
        coarse = self._coarse(1) if len(self.slabs) > 1 else None
        counted: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]] = []
        leaves = list(self.task.grid.leaves(self.region))
        written = {leaf for leaf in leaves if self._touched(leaf)}
        raw = self._raw([leaf for leaf in leaves if leaf in written])
        for leaf in leaves:
            voxels: NDArray[np.uint64] | None = None
            if raw is not None and leaf in written:
                voxels = self._encode(leaf, next(raw), counted)
            else:
                voxels = self._stored(leaf)
            if coarse is not None:
                self._halve(voxels, leaf, coarse, self.slabs[1])
            del voxels
        for level in range(1, len(self.slabs)):
            dense, slab = coarse, self.slabs[level]
            if dense is None:
                break
            self._keep_outside(dense, slab)
            for number, made in zip(
                slab.numbers(slab.region).tolist(),
                label_blocks.encode_blocks(dense, slab.block),
                strict=True,
            ):
                slab.put(number, made)
            coarse = self._coarse(level + 1) if level + 1 < len(self.slabs) else None
            if coarse is not None:
                self._halve(dense, slab.region, coarse, self.slabs[level + 1])
        if self.task.partitions:
            self._index(space, counted)

    def _coarse(self, level: int) -> NDArray[np.uint64]:
        """The voxels of a coarser scale as they are stored."""
        slab = self.slabs[level]
        dense = np.zeros(slab.region.shape, np.uint64)
        if not slab.fresh and self.slabs[level - 1].region.at_scale(1) != slab.region:
            slab.paste(self.task.layout, dense, slab.region)
        return dense

    def _keep_outside(self, voxels: NDArray[np.uint64], slab: _Slab) -> None:
        """Where only a region of a coarser scale is to be made anew, put back what is stored beside it."""
        mask = self._mask(slab.region, slab.scale) if self.task.source is None and self.given is None else None
        if mask is not None:
            stored = np.zeros(voxels.shape, np.uint64)
            slab.paste(self.task.layout, stored, slab.region)
            for z, y, x in slab.coords[slab.anew].tolist():
                whole = mask[
                    Box((z, y, x), (z + 1, y + 1, x + 1)).scaled(slab.block).relative(slab.region.start).slices()
                ]
                whole |= whole.any()
            np.copyto(voxels, stored, where=~mask)

    def _mask(self, box: Box, scale: int) -> NDArray[np.bool_] | None:
        """Which voxels of a box are written; None for all."""
        return None if self.task.within is None else self.task.within.mask(box, scale)

    @staticmethod
    def _halve(voxels: NDArray[np.uint64] | None, box: Box, out: NDArray[np.uint64], slab: _Slab) -> None:
        target = box.at_scale(1).relative(slab.region.start)
        out[target.slices()] = 0 if voxels is None else label_blocks.downsample_array(voxels)

    def _stored(self, leaf: Box) -> NDArray[np.uint64] | None:
        """The stored voxels of a piece; None if nothing is stored there."""
        slab = self.slabs[0]
        if slab.fresh or all(slab.old[n] is None for n in slab.numbers(leaf).tolist()):
            return None
        dense = np.zeros(leaf.shape, np.uint64)
        slab.paste(self.task.layout, dense, leaf)
        return dense

    def _encode(
        self,
        leaf: Box,
        raw: NDArray[Any],
        counted: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]],
    ) -> NDArray[np.uint64]:
        """Encode the blocks of a piece; returns its voxels."""
        slab = self.slabs[0]
        inside = self._inside(leaf)
        voxels = self._labels(raw)
        mask = self._mask(inside, 0)
        if inside != leaf or mask is not None:
            whole = np.zeros(leaf.shape, np.uint64)
            if not slab.fresh:
                slab.paste(self.task.layout, whole, leaf)
            np.copyto(whole[inside.relative(leaf.start).slices()], voxels, where=True if mask is None else mask)
            voxels = whole
        blocks: list[bytes] = []
        if self.task.adopts:
            number, label, count = label_blocks.count_blocks(voxels, slab.block)
        else:
            blocks, number, label, count = label_blocks.encode_and_count(voxels, slab.block)
        numbers = slab.numbers(leaf)
        if len(label) and int(label.max()) == RESERVED:
            where = slab.coords[numbers[number[np.argmax(label)]]].tolist()
            raise BadRequest(
                f"label {RESERVED} in block {where} (z, y, x): that id is reserved; nothing of it is written"
            )
        if self.task.adopts:
            self.adopted.append(numbers[distinct(number[label != 0])])
        for n, block in zip(numbers.tolist(), blocks, strict=not self.task.adopts):
            slab.put(n, block)
        if len(label):
            self.max_label = max(self.max_label, int(label.max()))
        counted.append((numbers[number], label, count.astype(np.int64)))
        self.voxels += inside.size if mask is None else int(np.count_nonzero(mask))
        return voxels

    def _touched(self, leaf: Box) -> bool:
        """Whether a piece has voxels that are written."""
        return self.task.within is None or self.task.within.touches(self._inside(leaf))

    def _inside(self, box: Box) -> Box:
        """The part of a box that is written."""
        return box if self.task.box is None else box.intersect(self.task.box)

    def _raw(self, leaves: list[Box]) -> Iterator[NDArray[Any]] | None:
        """What the source has for each piece; None if the brick starts from what is stored."""
        insides = [self._inside(leaf) for leaf in leaves]
        if self.given is not None:
            given, start = self.given, self._inside(self.region).start
            return (given[inside.relative(start).slices()] for inside in insides)
        if self.task.source is None:
            return None
        return self.task.source.read_ahead([inside.relative(self.task.origin) for inside in insides])

    def _labels(self, raw: NDArray[Any]) -> NDArray[np.uint64]:
        """Voxels of the source as the labels they become."""
        task = self.task
        if task.add:
            labels = raw.astype(np.uint64)
            if int(labels.max(initial=0)) + task.add >= RESERVED:
                raise BadRequest(
                    f"label {int(labels.max())} + {task.add} reaches the reserved id {RESERVED}: use a smaller offset"
                )
            np.add(labels, np.uint64(task.add), out=labels, where=labels != 0)
            return labels
        return raw if raw.dtype == np.uint64 else raw.astype(np.uint64)

    # -------------------------------------------------------------- index

    def _index(
        self, space: Space, counted: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]]
    ) -> None:
        if not counted:
            return
        slab, layout = self.slabs[0], self.task.layout
        parts = list(counted)
        if not slab.fresh:
            written = {int(n) for numbers, _, _ in counted for n in distinct(numbers).tolist()}
            for n in sorted(written):
                old = slab.old[n]
                if old is not None:
                    label, count = label_blocks.count(decompress(old, layout))
                    parts.append((np.full(len(label), n, np.int64), label, -count.astype(np.int64)))
        number, label, delta = (np.concatenate([p[i] for p in parts]) for i in range(3))
        rows = Counts.summed(number, label, delta, slab.coords)
        if not len(rows):
            return
        mapping = Mapping(space)
        refuse_retired(mapping, rows.supervoxel[rows.delta > 0])
        bodies = mapping.bodies(rows.supervoxel)
        partition = partition_of(bodies, self.task.partitions)
        order = np.argsort(partition, kind="stable")
        partition = partition[order]
        starts = np.flatnonzero(np.r_[True, partition[1:] != partition[:-1]])
        for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            self.partitions.append(int(partition[a]))
            self.rows.append(encode_counts(rows[order[a:b]]))

    # -------------------------------------------------------------- commit

    def write(self, m: Mutation, space: TxSpace) -> Result:
        """The brick's part of its commit."""
        task = self.task
        if self.max_label:
            info = task.ledger.instance.info
            NextLabels(task.ledger.instance.repo, info.data_uuid).raise_to(self.max_label)
        for slab in self.slabs:
            slab.write(space)
        for partition, value in zip(self.partitions, self.rows, strict=True):
            space.put(rows_key(task.ledger, partition, self.index), value)
        if self.adopted:
            adopted = self.slabs[0].coords[np.concatenate(self.adopted)]
            note_blocks(space, 0, adopted)
            # for those that follow, voxels that are shown from now on are voxels that were written
            m.publish(task.ledger.instance, BlocksWritten(m.id, adopted))
        base = self.slabs[0]
        if base.scale == 0 and base.new:
            m.publish(task.ledger.instance, BlocksWritten(m.id, base.coords[sorted(base.new)]))
        return {"voxels": self.voxels, "max_label": self.max_label}


def scan_counts(space: Space, prefix: bytes, limit: int) -> Iterator[tuple[list[bytes], Counts]]:
    """Rows below a prefix in batches of about `limit` rows, with the keys they came from."""
    held: list[bytes] = []
    parts: list[Counts] = []
    rows = 0
    for key, value in space.scan(prefix):
        part = decode_counts(value)
        held.append(key)
        parts.append(part)
        rows += len(part)
        if rows >= limit:
            yield held, Counts.join(parts)
            held, parts, rows = [], [], 0
    if held:
        yield held, Counts.join(parts)
