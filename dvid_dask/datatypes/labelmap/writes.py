"""Writing voxels: blocks are prepared first, then stored with all that depends on them in one commit.

What a mutation of voxels changes: blocks, coarser scales, the label index of every body with a supervoxel in the
old or the new blocks, extents and largest label of the version.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import bulk, keys
from dvid_dask.datatypes.labelmap.blocks import Layout, compress
from dvid_dask.datatypes.labelmap.downres import update_scales
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel, stream_parallel
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks
from dvid_dask.formats.block_stream import payload_to_block
from dvid_dask.formats.distinct import distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace

__all__ = ["Prepared", "Written", "check_aligned", "prepare_array", "prepare_records", "refuse_retired", "store"]

_BLOCK_LIMIT = 1 << 20  # magnitude of block coordinates that the label index's protobuf can name
_BLOCK_INT32 = 1 << 31


@dataclass
class Prepared:
    """Blocks ready to be stored: only their compressed form is held."""

    block_zyx: NDArray[np.int32]
    values: list[bytes]
    number: NDArray[np.int64]  # columns: block, label (not 0), voxels
    label: NDArray[np.uint64]
    count: NDArray[np.uint32]
    max_label: int

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def join(cls, parts: Sequence[Prepared]) -> Prepared:
        """The blocks of all parts; no block may be in two."""
        if len(parts) == 1:
            return parts[0]
        starts = itertools.accumulate((len(p) for p in parts[:-1]), initial=0)
        return cls(
            np.concatenate([p.block_zyx for p in parts]),
            [v for p in parts for v in p.values],
            np.concatenate([p.number + start for p, start in zip(parts, starts, strict=True)]),
            np.concatenate([p.label for p in parts]),
            np.concatenate([p.count for p in parts]),
            max(p.max_label for p in parts),
        )


@dataclass(frozen=True)
class Written:
    """What `store` did."""

    block_zyx: NDArray[np.int32]
    bodies: NDArray[np.uint64]
    olds: list[bytes | None]  # what was stored there


def check_aligned(layout: Layout, offset_zyx: Sequence[int], shape_zyx: Sequence[int]) -> None:
    """Check that a box is made of whole blocks.

    Raises
    ------
    BadRequest
        If it isn't.
    """
    for name, values in (("offset", offset_zyx), ("size", shape_zyx)):
        if any(v % b for v, b in zip(values, layout.block_shape, strict=True)):
            raise BadRequest(
                f"voxels are written in whole blocks: the {name} {tuple(values)} is not a multiple of the block "
                f"shape {layout.block_shape} (z, y, x)"
            )


def prepare_array(
    layout: Layout,
    labels_zyx: NDArray[np.uint64],
    offset_zyx: Sequence[int],
    keep: NDArray[np.bool_] | None = None,
) -> Prepared:
    """Blocks of a dense array.

    Parameters
    ----------
    layout
        How the volume is cut.
    labels_zyx
        uint64 (z, y, x), whole blocks; read in place.
    offset_zyx
        Its first voxel, a multiple of the block shape.
    keep
        Per block in zyx order, whether it is to be written; all if not given.
    """
    check_aligned(layout, offset_zyx, labels_zyx.shape)
    bz, by, _ = layout.block_shape
    grid = [n // b for n, b in zip(labels_zyx.shape, layout.block_shape, strict=True)]
    first = np.array([o // b for o, b in zip(offset_zyx, layout.block_shape, strict=True)])
    rows = [(z, y) for z in range(grid[0]) for y in range(grid[1])]

    def encode(row: tuple[int, int]) -> tuple[list[bytes], NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint32]]:
        z, y = row
        part = labels_zyx[z * bz : (z + 1) * bz, y * by : (y + 1) * by]
        blocks, number, label, count = label_blocks.encode_and_count(part, layout.block_shape)
        return [compress(b) for b in blocks], number, label, count

    made = parallel(encode, rows, grain=1)
    values = [v for part, _, _, _ in made for v in part]
    number = np.concatenate([n.astype(np.int64) + i * grid[2] for i, (_, n, _, _) in enumerate(made)])
    label = np.concatenate([n for _, _, n, _ in made])
    count = np.concatenate([n for _, _, _, n in made])
    coords = (np.stack(np.unravel_index(np.arange(len(values)), grid), axis=1) + first).astype(np.int32)
    real = label != 0
    if keep is not None:
        real &= keep[number]
        renumbered = np.cumsum(keep) - 1
        number = renumbered[number]
        values = [v for v, k in zip(values, keep.tolist(), strict=True) if k]
        coords = coords[keep]
    label = label[real]
    return Prepared(coords, values, number[real], label, count[real], int(label.max(initial=0)))


def prepare_records(layout: Layout, records: Iterable[tuple[int, int, int, bytes]]) -> Prepared:
    """Blocks of a stream of records (bx, by, bz, gzip of the label block), checked as they come.

    Of a block sent twice the last counts.

    Raises
    ------
    BadRequest
        If a coordinate is out of range.
    FormatError
        If the stream or a block doesn't decode or has another shape.
    """

    def prepare(
        record: tuple[int, int, int, bytes],
    ) -> tuple[tuple[int, int, int], bytes, NDArray[np.uint64], NDArray[np.int64], int]:
        x, y, z, payload = record
        check_block_coordinate(layout, (z, y, x))
        block = payload_to_block(payload, "blocks", layout.block_shape)
        names, counts = label_blocks.count(block)
        return (z, y, x), compress(block), names, counts, int(label_blocks.labels(block).max())

    held: dict[tuple[int, int, int], tuple[bytes, NDArray[np.uint64], NDArray[np.int64]]] = {}
    largest = 0
    for coordinate, value, names, counts, top in stream_parallel(prepare, records):
        held[coordinate] = (value, names, counts)
        largest = max(largest, top)
    number = np.repeat(np.arange(len(held), dtype=np.int64), [len(n) for _, n, _ in held.values()])
    label = np.concatenate([np.empty(0, np.uint64), *(n for _, n, _ in held.values())])
    count = np.concatenate([np.empty(0, np.int64), *(n for _, _, n in held.values())]).astype(np.uint32)
    real = label != 0
    coords = np.array(list(held), np.int32).reshape(-1, 3)
    values = [v for v, _, _ in held.values()]
    return Prepared(coords, values, number[real], label[real], count[real], largest)


def check_block_coordinate(layout: Layout, block_zyx: Sequence[int]) -> None:
    """Check that all voxels of a block have int32 coordinates and that a label index can name it.

    Raises
    ------
    BadRequest
        If not.
    """
    for c, b in zip(block_zyx, layout.block_shape, strict=True):
        if not (-_BLOCK_LIMIT < c < _BLOCK_LIMIT) or c * b < -_BLOCK_INT32 or (c + 1) * b > _BLOCK_INT32:
            raise BadRequest(
                f"block {tuple(block_zyx)} (z, y, x) is out of range: voxels are signed 32-bit, block coordinates "
                f"below {_BLOCK_LIMIT}"
            )


def refuse_retired(mapping: Mapping, labels: NDArray[np.uint64]) -> None:
    """Refuse voxels with the id of a retired supervoxel: they would belong to no body.

    Raises
    ------
    BadRequest
    """
    used = distinct(labels)
    retired = used[mapping.bodies(used) == 0]
    if len(retired):
        listed = ", ".join(map(str, retired[:10].tolist()))
        raise BadRequest(f"supervoxels {listed} are retired: they were split, or are ids of bodies; write other ids")


def store(
    space: TxSpace, layout: Layout, blocks: Prepared, *, scale: int = 0, index: bool = True, downres: bool = False
) -> Written:
    """Write prepared blocks and what depends on them.

    Parameters
    ----------
    space
        Space of a transaction.
    layout
        Block shape and number of scales.
    blocks
        What to write.
    scale
        Their scale; only scale 0 is indexed and has extents and labels.
    index
        Whether to keep the label index in line: it then holds exactly what the blocks hold, whatever it held before.
    downres
        Whether to bring the coarser scales in line.

    Raises
    ------
    BadRequest
        If voxels have the id of a retired supervoxel, and the index is kept.
    """
    nothing = np.empty(0, np.uint64)
    if not len(blocks):
        return Written(blocks.block_zyx, nothing, [])
    block_keys = keys.blocks(scale, blocks.block_zyx)
    bodies = nothing
    olds = space.get_many(block_keys)
    if scale == 0 and index:
        rows = bulk.with_vanished(layout, blocks.block_zyx, (blocks.number, blocks.label, blocks.count), olds)
        mapping = Mapping(space)
        refuse_retired(mapping, blocks.label)
        bodies = bulk.apply_rows(space, bulk.IndexRows(*rows), mapping=mapping)
    space.put_many(zip(block_keys, blocks.values, strict=True))
    if scale == 0:
        shape = np.array(layout.block_shape)
        first = blocks.block_zyx.min(axis=0).astype(np.int64) * shape
        stop = (blocks.block_zyx.max(axis=0).astype(np.int64) + 1) * shape
        bulk.finish(space, blocks.max_label, Box.of(first, stop))
        if downres:
            coordinates = [(z, y, x) for z, y, x in blocks.block_zyx.tolist()]
            update_scales(space, layout, dict(zip(coordinates, blocks.values, strict=True)))
    return Written(blocks.block_zyx, bodies, olds)
