"""Blocks into voxels, or into masks of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats import _label_block_kernels as kernels
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.label_blocks.layout import found_in, parse, raise_for, resolve, table_of, voxel_shape
from dvid_dask.formats.label_blocks.memory import MAX_VOXELS, allocate, check_out, check_uint64, flatten, in_place

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "decode_block",
    "decode_blocks_into",
    "decode_box",
    "mask",
    "mask_sorted",
    "pick",
]


def _decode(
    buf: NDArray[np.uint8],
    grid: tuple[int, int, int],
    table: NDArray[Any],
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
    out: NDArray[Any],
    zero: Any = np.uint64(0),
) -> None:
    """Write voxels [start, stop) of the block to out, an array of that shape and of the table's dtype.

    `zero` is what voxels of sub-blocks without any label become.
    """
    if table.size == 1:
        out[...] = table[0]
        return
    if out.size == 0:
        return
    target = out if in_place(out) else np.empty(out.shape, table.dtype)
    flat, sz, sy = flatten(target, writeable=True)
    raise_for(kernels.decode_box(buf, *grid, table, zero, flat, 0, sz, sy, start, stop))
    if target is not out:
        out[...] = target


def decode_block(
    block: Buffer,
    out: NDArray[np.uint64] | None = None,
    *,
    table: ArrayLike | None = None,
    max_voxels: int = MAX_VOXELS,
) -> NDArray[np.uint64]:
    """Expand a block to an array of labels.

    Parameters
    ----------
    block
        The uncompressed block.
    out
        uint64 (z, y, x) array to fill, any strides. Its shape must be the block's.
    table
        Labels to use instead of those in the block, one per table entry.
    max_voxels
        Largest array to allocate.

    Returns
    -------
    NDArray[uint64]
        The voxels (z, y, x); `out` if it was given.

    Raises
    ------
    FormatError
        If the block can't be decoded or has another shape than `out`.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import encode_block
    >>> import numpy as np
    >>> voxels = np.arange(4096, dtype=np.uint64).reshape(16, 16, 16) // 1000
    >>> bool((decode_block(encode_block(voxels)) == voxels).all())
    True
    """
    buf, grid, n = parse(block)
    shape = voxel_shape(grid)
    if out is None:
        out = allocate(shape, np.uint64, max_voxels)
    else:
        check_out(out, shape, np.uint64)
    _decode(buf, grid, resolve(buf, n, table), (0, 0, 0), shape, out)
    return out


def decode_box(
    block: Buffer,
    start_zyx: Sequence[int],
    stop_zyx: Sequence[int],
    out: NDArray[np.uint64] | None = None,
    *,
    table: ArrayLike | None = None,
    max_voxels: int = MAX_VOXELS,
) -> NDArray[np.uint64]:
    """Expand the voxels [start, stop) of a block; sub-blocks outside the box cost nothing.

    Parameters
    ----------
    block
        The uncompressed block.
    start_zyx, stop_zyx
        The box in voxels from the block's first voxel (z, y, x); it must lie inside the block.
    out, table, max_voxels
        As for `decode_block`; `out` has the shape of the box.

    Raises
    ------
    FormatError
        If the block can't be decoded.
    ValueError
        If the box is not inside the block.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> decode_box(solid_block(9, (64, 64, 64)), (1, 2, 3), (2, 3, 5))
    array([[[9, 9]]], dtype=uint64)
    """
    buf, grid, n = parse(block)
    az, ay, ax = (int(i) for i in start_zyx)
    bz, by, bx = (int(i) for i in stop_zyx)
    shape = voxel_shape(grid)
    if any(not 0 <= a <= b <= s for a, b, s in zip((az, ay, ax), (bz, by, bx), shape, strict=True)):
        raise ValueError(f"the box {(az, ay, ax)} to {(bz, by, bx)} is not inside a block of {shape} voxels (z, y, x)")
    box = (bz - az, by - ay, bx - ax)
    if out is None:
        out = allocate(box, np.uint64, max_voxels)
    else:
        check_out(out, box, np.uint64)
    _decode(buf, grid, resolve(buf, n, table), (az, ay, ax), (bz, by, bx), out)
    return out


def pick(block: Buffer, points_zyx: ArrayLike, *, table: ArrayLike | None = None) -> NDArray[np.uint64]:
    """The labels at points of a block; nothing is expanded.

    Parameters
    ----------
    block
        The uncompressed block.
    points_zyx
        int (n, 3): voxels from the block's first voxel (z, y, x); they must lie inside the block.
    table
        Labels to use instead of those in the block's table.

    Returns
    -------
    NDArray[uint64]
        (n,)

    Raises
    ------
    FormatError
        If the block can't be decoded.
    ValueError
        If a point is not inside the block.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> pick(solid_block(9, (64, 64, 64)), [[1, 2, 3], [63, 0, 0]])
    array([9, 9], dtype=uint64)
    """
    buf, grid, n = parse(block)
    points = np.ascontiguousarray(points_zyx, np.int64).reshape(-1, 3)
    shape = voxel_shape(grid)
    if len(points) and (int(points.min()) < 0 or bool((points >= np.array(shape)).any())):
        raise ValueError(f"a point is not inside a block of {shape} voxels (z, y, x)")
    names = resolve(buf, n, table)
    if n == 1:
        return np.full(len(points), names[0], np.uint64)
    out = np.empty(len(points), np.uint64)
    raise_for(kernels.pick(buf, *grid, names, points, out))
    return out


def decode_blocks_into(
    blocks: Iterable[Buffer | None],
    positions_zyx: ArrayLike,
    out_zyx: NDArray[np.uint64],
    tables: Iterable[ArrayLike | None] | None = None,
) -> None:
    """Paste blocks into a dense array, each clipped to it.

    Parameters
    ----------
    blocks
        Uncompressed blocks; None leaves its place as it is.
    positions_zyx
        int (n, 3): where each block's first voxel lies, in voxels from ``out_zyx[0, 0, 0]``. May be negative.
    out_zyx
        uint64 (z, y, x), any strides.
    tables
        Per block, labels to use instead of its own table, or None.

    Raises
    ------
    FormatError
        If a block can't be decoded; those before it are written.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> import numpy as np
    >>> out = np.zeros((1, 1, 4), np.uint64)
    >>> decode_blocks_into([solid_block(9, (8, 8, 8))], [[-1, -1, 2]], out)
    >>> out
    array([[[0, 0, 9, 9]]], dtype=uint64)
    """
    check_uint64(out_zyx)
    positions = np.asarray(positions_zyx, np.int64).reshape(-1, 3).tolist()
    blocks = list(blocks)
    maps: list[ArrayLike | None] = [None] * len(blocks) if tables is None else list(tables)
    for block, position, table in zip(blocks, positions, maps, strict=True):
        if block is None:
            continue
        buf, grid, n = parse(block)
        start = [max(0, -p) for p in position]
        stop = [min(s, e - p) for s, e, p in zip(voxel_shape(grid), out_zyx.shape, position, strict=True)]
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            continue
        (az, ay, ax), (bz, by, bx), (pz, py, px) = start, stop, position
        part = out_zyx[az + pz : bz + pz, ay + py : by + py, ax + px : bx + px]
        _decode(buf, grid, resolve(buf, n, table), (az, ay, ax), (bz, by, bx), part)


def mask(
    block: Buffer, labels: ArrayLike, out: NDArray[np.bool_] | None = None, *, max_voxels: int = MAX_VOXELS
) -> NDArray[np.bool_]:
    """Where the block has one of the labels.

    Parameters
    ----------
    block
        The uncompressed block.
    labels
        Labels to look for, any order.
    out
        bool (z, y, x) array to fill.
    max_voxels
        Largest array to allocate.

    Raises
    ------
    FormatError
        If the block can't be decoded.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> int(mask(solid_block(9, (16, 16, 16)), [4, 9]).sum())
    4096
    """
    buf, grid, n = parse(block)
    shape = voxel_shape(grid)
    if out is None:
        out = allocate(shape, np.bool_, max_voxels)
    else:
        check_out(out, shape, np.bool_)
    _decode_mask(buf, grid, n, distinct(np.asarray(labels, np.uint64)), out)
    return out


def mask_sorted(block: Buffer, sorted_labels: NDArray[np.uint64], out: NDArray[np.bool_]) -> bool:
    """`mask` for many blocks and one set of ascending labels; false, and `out` untouched, if no label is listed.

    Raises
    ------
    FormatError
        If the block can't be decoded or has another shape than `out`.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> import numpy as np
    >>> mask_sorted(solid_block(9, (8, 8, 8)), np.array([4, 7], np.uint64), np.empty((8, 8, 8), bool))
    False
    """
    buf, grid, n = parse(block)
    check_out(out, voxel_shape(grid), np.bool_)
    zero = bool(sorted_labels.size) and int(sorted_labels[0]) == 0
    if not zero and not found_in(table_of(buf, n), sorted_labels).any():
        return False
    _decode_mask(buf, grid, n, sorted_labels, out)
    return True


def _decode_mask(
    buf: NDArray[np.uint8],
    grid: tuple[int, int, int],
    n: int,
    sorted_labels: NDArray[np.uint64],
    out: NDArray[np.bool_],
) -> None:
    # sub-blocks without any label are 0, which may be what is looked for
    zero = np.bool_(sorted_labels.size and sorted_labels[0] == 0)
    _decode(buf, grid, found_in(table_of(buf, n), sorted_labels), (0, 0, 0), voxel_shape(grid), out, zero)
