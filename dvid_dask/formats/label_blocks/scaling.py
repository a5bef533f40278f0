"""Blocks counted, made canonical and brought to the next coarser scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats import _label_block_kernels as kernels
from dvid_dask.formats import _label_voxel_kernels as voxel_kernels
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats._label_kernels import SUB_VOXELS
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.label_blocks.decoding import decode_block
from dvid_dask.formats.label_blocks.encoding import encode_block
from dvid_dask.formats.label_blocks.layout import Parsed, grid_of, parse, raise_for, solid_block, table_of, voxel_shape
from dvid_dask.formats.label_blocks.memory import (
    MAX_VOXELS,
    check_uint64,
    flat_labels,
    flatten,
    in_place,
    scratch,
    scratch_for,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "count",
    "distinct",
    "downsample",
    "downsample_array",
    "normalize",
    "remap_array",
]


def count(block: Buffer) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Voxels of every label of a block, label 0 included, without expanding the voxels.

    Returns
    -------
    labels, counts
        Ascending distinct labels that have a voxel, and how many.

    Raises
    ------
    FormatError
        If the block can't be decoded.

    Examples
    --------
    >>> count(solid_block(9, (64, 64, 64)))
    (array([9], dtype=uint64), array([262144]))
    """
    buf, grid, n = parse(block)
    table = table_of(buf, n)
    if n == 1:
        return table, np.array([grid[0] * grid[1] * grid[2] * SUB_VOXELS])
    counts = np.zeros(n, np.int64)
    result, empty = kernels.count_entries(buf, *grid, counts)
    raise_for(result)
    if empty:
        table, counts = np.append(table, np.uint64(0)), np.append(counts, empty)
    merged: tuple[Any, Any] = kernels.merge_counts(table, counts)
    return merged


def normalize(block: Buffer, *, max_voxels: int = MAX_VOXELS) -> bytes:
    """The canonical block with the same voxels: duplicates merged, unused labels and trailing bytes gone.

    Raises
    ------
    FormatError
        If the block can't be decoded or is larger than `max_voxels`.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import replace_labels
    >>> import numpy as np
    >>> half = np.arange(4096, dtype=np.uint64).reshape(16, 16, 16) // 2048
    >>> merged = replace_labels(encode_block(half), [5, 5])
    >>> normalize(merged) == solid_block(5, (16, 16, 16))
    True
    """
    buf, _, n = parse(block)
    if n == 1:
        return bytes(buf[:24])
    with scratch_for(block, max_voxels=max_voxels) as voxels:
        return encode_block(decode_block(block, voxels))


def downsample(octants: Sequence[Buffer | None], old: Buffer | None, shape_zyx: Sequence[int]) -> bytes:
    """The block of the next coarser scale from the eight blocks it covers.

    A voxel is the most frequent non-zero label of its 2 x 2 x 2 voxels, the smallest among equally frequent ones,
    and 0 only if all are 0. An octant that is absent keeps what the coarse block had there: a change of some blocks
    never touches the others. (DVID wipes them when all given octants are solid 0; that is not copied.)

    Parameters
    ----------
    octants
        Eight blocks or None; the one at position ``z << 2 | y << 1 | x`` covers that corner.
    old
        The coarse block as it was, or None if there was none: absent octants are then 0.
    shape_zyx
        Voxels of every one of these blocks (z, y, x).

    Returns
    -------
    bytes
        The coarse block, canonical.

    Raises
    ------
    FormatError
        If a block can't be decoded or has another shape.
    ValueError
        If there are not eight octants.

    Examples
    --------
    >>> import numpy as np
    >>> full, shape = solid_block(3, (16, 16, 16)), (16, 16, 16)
    >>> downsample([full] * 8, None, shape) == full
    True
    >>> corner = downsample([full] + [None] * 7, None, shape)
    >>> count(corner)
    (array([0, 3], dtype=uint64), array([3584,  512]))
    """
    if len(octants) != 8:
        raise ValueError(f"a block has eight octants, got {len(octants)}")
    grid = grid_of(shape_zyx)
    shape = voxel_shape(grid)
    parsed = [None if o is None else parse(o) for o in octants]
    for given in [*parsed, None if old is None else parse(old)]:
        if given is not None and given[1] != grid:
            raise FormatError(f"label block of {voxel_shape(given[1])} voxels (z, y, x), expected {shape}")
    solid = {int(table_of(o[0], 1)[0]) if o is not None and o[2] == 1 else None for o in parsed}
    if len(solid) == 1 and None not in solid:
        return solid_block(solid.pop() or 0, shape)

    with scratch(shape) as dense:
        if None in parsed:
            if old is None:
                dense[...] = 0
            else:
                decode_block(old, dense)
        for i, given in enumerate(parsed):
            if given is not None:
                _downsample_octant(given, i, dense)
        return encode_block(dense)


def _downsample_octant(octant: Parsed, i: int, dense: NDArray[np.uint64]) -> None:
    """Write an octant at half size into its corner of the coarse block."""
    buf, grid, n = octant
    table = table_of(buf, n)
    flat, sz, sy = flatten(dense, writeable=True)
    hz, hy, hx = (length // 2 for length in dense.shape)
    corner = (i >> 2) * hz * sz + ((i >> 1) & 1) * hy * sy + (i & 1) * hx
    if n == 1:
        kernels.fill_box(flat, corner, sz, sy, hz, hy, hx, table[0])
    else:
        raise_for(voxel_kernels.downsample_block(buf, *grid, table, flat, corner, sz, sy))


def downsample_array(labels_zyx: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A dense array at half size by the rule of `downsample`.

    Parameters
    ----------
    labels_zyx
        uint64 (z, y, x). Where a dimension is odd, the last cells have fewer voxels and those vote.

    Returns
    -------
    NDArray[uint64]
        Each dimension halved, rounded up.

    Examples
    --------
    >>> import numpy as np
    >>> int(downsample_array(np.array([[[0, 0], [0, 0]], [[4, 3], [0, 0]]], np.uint64))[0, 0, 0])
    3
    """
    mem, sz, sy = flat_labels(labels_zyx)
    out = np.empty([(n + 1) // 2 for n in labels_zyx.shape], np.uint64)
    if out.size:
        nz, ny, nx = labels_zyx.shape
        voxel_kernels.downsample_dense(mem, sz, sy, nz, ny, nx, out)
    return out


def distinct(labels_zyx: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The labels of a dense array (z, y, x), ascending, each once.

    Examples
    --------
    >>> import numpy as np
    >>> distinct(np.array([[[7, 7, 2, 7]]], np.uint64))
    array([2, 7], dtype=uint64)
    """
    mem, sz, sy = flat_labels(labels_zyx)
    if not labels_zyx.size:
        return np.empty(0, np.uint64)
    nz, ny, nx = labels_zyx.shape
    return np.sort(voxel_kernels.distinct_rows(mem, sz, sy, nz, ny, nx))


def remap_array(arr: NDArray[np.uint64], keys_sorted: ArrayLike, values: ArrayLike) -> None:
    """Replace labels of a dense array in place; labels that are no key stay.

    Parameters
    ----------
    arr
        uint64 (z, y, x), any strides.
    keys_sorted
        Labels to replace, ascending and distinct.
    values
        What each becomes.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([[[1, 2, 2, 3]]], np.uint64)
    >>> remap_array(a, [2, 9], [20, 90])
    >>> a
    array([[[ 1, 20, 20,  3]]], dtype=uint64)
    """
    check_uint64(arr)
    keys, new = np.array(keys_sorted, np.uint64), np.array(values, np.uint64)
    if keys.ndim != 1 or keys.shape != new.shape:
        raise ValueError(f"one value per key, got {keys.shape} keys and {new.shape} values")
    if arr.size == 0 or keys.size == 0:
        return
    target = arr if in_place(arr) else np.ascontiguousarray(arr, np.uint64)
    mem, sz, sy = flatten(target, writeable=True)
    nz, ny, nx = arr.shape
    remap = voxel_kernels.remap_rows_hashed if 16 * keys.size < arr.size else voxel_kernels.remap_rows
    remap(mem, sz, sy, nz, ny, nx, keys, new)
    if target is not arr:
        arr[...] = target
