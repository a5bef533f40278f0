"""Reading voxels: boxes, points and blocks, as supervoxels or as bodies.

Bodies are seen through the label *tables* of blocks: tens of entries are mapped, never the voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.adopted import base_at, edited, edited_in, edited_keys, shown
from dvid_dask.datatypes.labelmap.blocks import (
    ENUMERATE,
    Layout,
    blocks_in_box,
    decompress,
    existing_blocks,
    read_blocks,
    tables_of,
)
from dvid_dask.datatypes.labelmap.threads import WORKERS, batches, parallel
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.bases.base import Base
    from dvid_dask.datatypes.labelmap.mapping import Mapping
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["BlockFilter", "MAX_READ_BYTES", "check_box", "iter_blocks", "iter_box", "labels_at", "read_box"]

MAX_READ_BYTES = 3 << 30
"""Largest dense read, as in DVID."""

SLAB_BYTES = 32 << 20
"""Most bytes of voxels that a streamed read holds at once."""

_INT32 = 1 << 31
_MAP_VOXELS = 1 << 21

BlockFilter: TypeAlias = "Callable[[NDArray[np.int32]], NDArray[np.bool_]]"
"""Says which blocks (n, 3) z y x of scale 0 are seen: an ROI. The others read as 0."""


def check_box(offset_zyx: Sequence[int], shape_zyx: Sequence[int], limit: int | None = MAX_READ_BYTES) -> None:
    """Check a box of voxels.

    Raises
    ------
    BadRequest
        If a side is not positive, a coordinate leaves int32 or the voxels take more than `limit` bytes.
    """
    if len(offset_zyx) != 3 or len(shape_zyx) != 3:
        raise BadRequest(f"a box has three offsets and three sides, got {len(offset_zyx)} and {len(shape_zyx)}")
    if any(n <= 0 for n in shape_zyx):
        raise BadRequest(f"a box of {tuple(shape_zyx)} voxels (z, y, x): every side must be at least 1")
    if any(o < -_INT32 or o + n > _INT32 for o, n in zip(offset_zyx, shape_zyx, strict=True)):
        raise BadRequest(
            f"the box of {tuple(shape_zyx)} voxels at {tuple(offset_zyx)} (z, y, x) leaves signed 32-bit coordinates"
        )
    size = 8 * shape_zyx[0] * shape_zyx[1] * shape_zyx[2]
    if limit is not None and size > limit:
        raise BadRequest(f"a box of {size} bytes; at most {limit} are read at once: ask for smaller boxes")


def read_box(
    space: AnySpace,
    layout: Layout,
    mapping: Mapping | None,
    offset_zyx: Sequence[int],
    shape_zyx: Sequence[int],
    scale: int = 0,
    seen: BlockFilter | None = None,
    out: NDArray[np.uint64] | None = None,
) -> NDArray[np.uint64]:
    """The voxels of a box.

    Parameters
    ----------
    space
        A pinned view.
    layout
        How the volume is cut.
    mapping
        To see bodies; None to see supervoxels.
    offset_zyx, shape_zyx
        The box in voxels of the scale; checked by `check_box`.
    scale
        0 is full resolution. A scale that was never written reads as 0.
    seen
        Blocks to read; others are 0.
    out
        Zeros to fill.

    Returns
    -------
    NDArray[uint64]
        (z, y, x); 0 where nothing is stored.
    """
    base = base_at(space, scale)
    if base is not None:
        whole = Box.of(offset_zyx, [o + n for o, n in zip(offset_zyx, shape_zyx, strict=True)])
        return _read_through(space, layout, base, mapping, whole, scale, seen, out)
    out = np.zeros(tuple(shape_zyx), np.uint64) if out is None else out
    block = np.array(layout.block_shape, np.int64)
    offset = np.array(offset_zyx, np.int64)
    start, stop = offset // block, -((-offset - np.array(shape_zyx)) // block)
    for wanted in existing_blocks(space, scale, start.tolist(), stop.tolist()):
        chosen = wanted if seen is None else wanted[seen(wanted)]
        for coords, blocks, tables in mapped_blocks(space, layout, mapping, scale, chosen):
            positions = coords.astype(np.int64) * block - offset
            grain = max(1, min(16, len(blocks) // (2 * WORKERS)))
            tasks = list(batches(zip(blocks, positions, tables, strict=True), grain))
            parallel(lambda task: _paste(task, out), tasks, grain=1)
    return out


def _read_through(
    space: AnySpace,
    layout: Layout,
    base: Base,
    mapping: Mapping | None,
    box: Box,
    scale: int,
    seen: BlockFilter | None,
    out: NDArray[np.uint64] | None,
) -> NDArray[np.uint64]:
    """`read_box` where blocks may lie in a base: its voxels as they are, and over them the blocks of the tree."""
    voxels = _writeable(base.read_box(scale, box.start, box.shape, np.uint64))
    if mapping is not None and not mapping.is_empty:
        _map(voxels, mapping)
    for wanted in _edited_blocks(space, layout, scale, box):
        for coords, values in _edited_values(space, scale, wanted):
            for z, y, x in coords.tolist():
                voxels[_part_of(box, layout, (z, y, x)).slices()] = 0
            held = [i for i, v in enumerate(values) if shown(v)]
            blocks = parallel(lambda v: decompress(v, layout), [values[i] for i in held])
            positions = coords[held].astype(np.int64) * np.array(layout.block_shape) - np.array(box.start)
            tables = _tables(blocks, mapping)
            tasks = list(batches(zip(blocks, positions, tables, strict=True), 16))
            parallel(lambda task: _paste(task, voxels), tasks, grain=1)
    if seen is not None:
        cells = box.cells(layout.block_shape)
        blocks_zyx = blocks_in_box(cells.start, cells.stop)
        for z, y, x in blocks_zyx[~seen(blocks_zyx)].tolist():
            voxels[_part_of(box, layout, (z, y, x)).slices()] = 0
    if out is None:
        return voxels
    out[...] = voxels
    return out


def _writeable(voxels: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return voxels if voxels.flags.writeable and voxels.flags.c_contiguous else np.array(voxels, order="C")


def _part_of(box: Box, layout: Layout, block: tuple[int, int, int]) -> Box:
    """What a box has of a block, as seen from the box."""
    z, y, x = block
    return Box((z, y, x), (z + 1, y + 1, x + 1)).scaled(layout.block_shape).intersect(box).relative(box.start)


def _map(voxels: NDArray[np.uint64], mapping: Mapping) -> None:
    """Replace supervoxels by bodies, in place."""
    step = max(1, _MAP_VOXELS // max(1, voxels[0].size))

    def change(part: NDArray[np.uint64]) -> None:
        found = label_blocks.distinct(part)
        bodies = mapping.bodies(found)
        differs = found != bodies
        label_blocks.remap_array(part, found[differs], bodies[differs])

    parallel(change, [voxels[z : z + step] for z in range(0, len(voxels), step)], grain=1)


def _edited_blocks(space: AnySpace, layout: Layout, scale: int, box: Box) -> Iterator[NDArray[np.int32]]:
    """Blocks that may lie in the tree, as `existing_blocks`."""
    cells = box.cells(layout.block_shape)
    known = edited_in(space, scale, cells)
    if known is not None:
        if len(known):
            yield known.astype(np.int32)
        return
    if cells.size <= ENUMERATE:
        yield blocks_in_box(cells.start, cells.stop)
        return
    for batch in batches(edited_keys(space, scale), 1 << 14):
        found = keys.blocks_of(batch)
        yield found[((found >= np.array(cells.start)) & (found < np.array(cells.stop))).all(axis=1)]


def _edited_values(
    space: AnySpace, scale: int, block_zyx: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int32], list[bytes]]]:
    for a in range(0, len(block_zyx), 4096):
        part = block_zyx[a : a + 4096]
        values = edited(space, keys.blocks(scale, part))
        there = [i for i, v in enumerate(values) if v is not None]
        if there:
            yield part[there], [v for v in values if v is not None]


def _paste(task: list[tuple[bytes, NDArray[np.int64], NDArray[np.uint64] | None]], out: NDArray[np.uint64]) -> None:
    blocks, positions, tables = zip(*task, strict=True)
    label_blocks.decode_blocks_into(blocks, np.array(positions), out, tables)


def mapped_blocks(
    space: AnySpace, layout: Layout, mapping: Mapping | None, scale: int, block_zyx: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int32], list[bytes], list[NDArray[np.uint64] | None]]]:
    """Batches of the blocks that exist, each with the table of bodies for its supervoxels (None: its own table)."""
    for coords, blocks in read_blocks(space, layout, scale, block_zyx):
        yield coords, blocks, _tables(blocks, mapping)


def _tables(blocks: list[bytes], mapping: Mapping | None) -> list[NDArray[np.uint64] | None]:
    """The table of bodies of each block; None: its own."""
    if mapping is None or mapping.is_empty or not blocks:
        return [None] * len(blocks)
    joined, ends = tables_of(blocks)
    return list(np.split(mapping.bodies(joined), ends[1:-1]))


def iter_blocks(
    space: AnySpace, layout: Layout, mapping: Mapping | None, scale: int, block_zyx: NDArray[np.int32]
) -> Iterator[tuple[tuple[int, int, int], bytes, NDArray[np.uint64] | None]]:
    """Coordinate (z, y, x), label block and table of bodies of each block that exists."""
    for coords, blocks, tables in mapped_blocks(space, layout, mapping, scale, block_zyx):
        coordinates = ((z, y, x) for z, y, x in coords.tolist())
        yield from zip(coordinates, blocks, tables, strict=True)


def iter_box(
    space: AnySpace,
    layout: Layout,
    mapping: Mapping | None,
    offset_zyx: Sequence[int],
    shape_zyx: Sequence[int],
    scale: int = 0,
    seen: BlockFilter | None = None,
) -> Iterator[NDArray[np.uint64]]:
    """`read_box` in consecutive pieces of at most about `SLAB_BYTES`, in voxel order."""
    (oz, oy, ox), (nz, ny, nx) = offset_zyx, shape_zyx
    for z, dz in _cuts(oz, nz, layout.block_shape[0], SLAB_BYTES // (8 * ny * nx)):
        if dz > 1:
            yield read_box(space, layout, mapping, (z, oy, ox), (dz, ny, nx), scale, seen)
            continue
        for y, dy in _cuts(oy, ny, layout.block_shape[1], SLAB_BYTES // (8 * nx)):
            yield read_box(space, layout, mapping, (z, y, ox), (1, dy, nx), scale, seen)


def _cuts(offset: int, size: int, block: int, most: int) -> Iterator[tuple[int, int]]:
    """Pieces (offset, size) of an axis of at most `most` voxels, ending at block or sub-block borders if they can."""
    unit = next((u for u in (block * max(1, most // block), 8, 1) if u <= max(1, most)), 1)
    at, end = offset, offset + size
    while at < end:
        stop = min(end, (at // unit + 1) * unit)
        yield at, stop - at
        at = stop


def labels_at(
    space: AnySpace, layout: Layout, mapping: Mapping | None, points_zyx: ArrayLike, scale: int = 0
) -> NDArray[np.uint64]:
    """The label at each point.

    Parameters
    ----------
    points_zyx
        int32 (n, 3): voxels (z, y, x) of the scale.

    Returns
    -------
    NDArray[uint64]
        (n,); 0 where nothing is stored.
    """
    points = np.asarray(points_zyx, np.int64).reshape(-1, 3)
    out = np.zeros(len(points), np.uint64)
    if not len(points):
        return out
    shape = np.array(layout.block_shape)
    block = points // shape
    inside = points - block * shape
    order = np.lexsort(block.T[::-1])
    block, inside = block[order], inside[order]
    starts = np.flatnonzero(np.r_[True, (block[1:] != block[:-1]).any(axis=1)])
    ends = np.r_[starts[1:], len(block)]
    where = {tuple(block[a].tolist()): (a, b) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)}
    found = np.zeros(len(points), np.uint64)

    def look(task: tuple[tuple[int, int, int], bytes, NDArray[np.uint64] | None]) -> None:
        coordinate, data, table = task
        a, b = where[coordinate]
        found[a:b] = label_blocks.pick(data, inside[a:b], table=table)

    for batch in batches(iter_blocks(space, layout, mapping, scale, block[starts].astype(np.int32)), 512):
        parallel(look, batch)
    out[order] = found
    return out
