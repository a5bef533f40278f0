"""What a block says of itself, without a look at its voxels: header, label table, tables of sub-blocks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dvid_dask.formats import _label_block_kernels as kernels
from dvid_dask.formats._bytes import Buffer, as_uint8
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "block_shape",
    "check_block",
    "found_in",
    "grid_of",
    "is_solid",
    "labels",
    "parse",
    "parse_block",
    "raise_for",
    "replace_labels",
    "resolve",
    "solid_block",
    "sub_tables",
    "table_hits",
    "table_of",
    "uniform_sub_blocks",
    "voxel_shape",
    "Parsed",
]

_SUB = 8
_MAX_GRID = 128
_HEADER = struct.Struct("<4I")

_REASONS = {
    kernels.BAD_LENGTH: "ends inside its sub-blocks",
    kernels.BAD_COUNT: "lists more labels in a sub-block than it has voxels",
    kernels.BAD_INDEX: "points past the end of its label table",
    kernels.BAD_VALUE: "has a voxel that points past the labels of its sub-block",
}

Parsed: TypeAlias = "tuple[NDArray[np.uint8], tuple[int, int, int], int]"


def raise_for(result: int) -> None:
    """Raise the error that a kernel's result stands for (for the other modules of this package).

    Raises
    ------
    FormatError
        Unless the result is good.
    """
    if result != kernels.OK:
        raise FormatError(f"label block {_REASONS[result]}")


def parse(block: Buffer) -> Parsed:
    """Bytes, (gz, gy, gx) and N after the checks that need no look at the sub-blocks."""
    buf = as_uint8(block)
    if buf.size < 24:
        raise FormatError(f"label block: {buf.size} bytes, but the smallest block has 24")
    gx, gy, gz, n = _HEADER.unpack_from(buf.data)
    if not (1 <= gx <= _MAX_GRID and 1 <= gy <= _MAX_GRID and 1 <= gz <= _MAX_GRID):
        raise FormatError(f"label block: {gx} x {gy} x {gz} sub-blocks; each must be 1 to {_MAX_GRID}")
    if n < 1 or 16 + 8 * n > buf.size:
        raise FormatError(f"label block: a table of {n} labels in {buf.size} bytes")
    return buf, (gz, gy, gx), n


def table_of(buf: NDArray[np.uint8], n: int) -> NDArray[np.uint64]:
    """The label table of a parsed block, a copy."""
    return np.frombuffer(buf, "<u8", n, 16).astype(np.uint64)


def resolve(buf: NDArray[np.uint8], n: int, table: ArrayLike | None) -> NDArray[np.uint64]:
    """The labels to use: those given, of which there must be `n`, or else the block's own."""
    if table is None:
        return table_of(buf, n)
    given = np.array(table, np.uint64)
    if given.shape != (n,):
        raise ValueError(f"the block has {n} table entries, got a table of shape {given.shape}")
    return given


def voxel_shape(grid: tuple[int, int, int]) -> tuple[int, int, int]:
    """Voxels (z, y, x) of a block of so many sub-blocks."""
    return grid[0] * _SUB, grid[1] * _SUB, grid[2] * _SUB


def grid_of(shape_zyx: Sequence[int]) -> tuple[int, int, int]:
    """Sub-blocks (z, y, x) of a block of this many voxels."""
    if len(shape_zyx) != 3 or any(n < _SUB or n % _SUB or n > _SUB * _MAX_GRID for n in shape_zyx):
        raise ValueError(
            f"a label block has three dimensions, multiples of {_SUB} up to {_SUB * _MAX_GRID}, got {tuple(shape_zyx)}"
        )
    gz, gy, gx = (int(n) // _SUB for n in shape_zyx)
    return gz, gy, gx


def solid_block(label: int, shape_zyx: Sequence[int]) -> bytes:
    """The 24-byte block with one label in all voxels.

    Examples
    --------
    >>> solid_block(300, (64, 64, 64)).hex(" ", 4)
    '08000000 08000000 08000000 01000000 2c010000 00000000'
    """
    gz, gy, gx = grid_of(shape_zyx)
    return struct.pack("<4IQ", gx, gy, gz, 1, label)


def block_shape(block: Buffer) -> tuple[int, int, int]:
    """Voxels of the block as (z, y, x), as its header says.

    Raises
    ------
    FormatError
        If the header can't be right.
    """
    return voxel_shape(parse(block)[1])


def is_solid(block: Buffer) -> bool:
    """Whether the block is the 24-byte form of one label in all voxels."""
    return parse(block)[2] == 1


def uniform_sub_blocks(block: Buffer) -> NDArray[np.bool_]:
    """Which sub-blocks of 8 x 8 x 8 voxels hold one label only, by what the block says of them; no voxel is looked at.

    Returns
    -------
    NDArray[bool]
        (z, y, x), one for each sub-block.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import encode_block
    >>> import numpy as np
    >>> voxels = np.zeros((8, 8, 16), np.uint64)
    >>> voxels[0, 0, 12] = 5
    >>> uniform_sub_blocks(encode_block(voxels)).tolist()
    [[[True, False]]]
    """
    buf, grid, n = parse(block)
    if n == 1:
        return np.ones(grid, np.bool_)
    count = grid[0] * grid[1] * grid[2]
    if 16 + 8 * n + 2 * count > buf.size:
        raise FormatError(f"label block {_REASONS[kernels.BAD_LENGTH]}")
    return (np.frombuffer(buf, "<u2", count, 16 + 8 * n) <= 1).reshape(grid)


def labels(block: Buffer) -> NDArray[np.uint64]:
    """The label table as it stands: any order, perhaps with duplicates and entries that no voxel uses.

    Raises
    ------
    FormatError
        If the table doesn't fit into the bytes.
    """
    buf, _, n = parse(block)
    return table_of(buf, n)


def sub_tables(block: Buffer) -> list[NDArray[np.uint64]]:
    """For each sub-block, in zyx order, the labels it lists; none stands for 0. For looking at a block.

    Raises
    ------
    FormatError
        If the block can't be decoded.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import encode_block
    >>> import numpy as np
    >>> half = np.arange(1024, dtype=np.uint64).reshape(16, 8, 8) // 600
    >>> [t.tolist() for t in sub_tables(encode_block(half))]
    [[0], [0, 1]]
    """
    check_block(block)
    buf, grid, n = parse(block)
    table = table_of(buf, n)
    count = grid[0] * grid[1] * grid[2]
    if n == 1:
        return [table] * count
    sizes = np.frombuffer(buf, "<u2", count, 16 + 8 * n)
    entries = np.frombuffer(buf, "<u4", int(sizes.sum(dtype=np.int64)), 16 + 8 * n + 2 * count)
    return np.split(table[entries], np.cumsum(sizes, dtype=np.int64)[:-1])


def replace_labels(block: Buffer, new_table: ArrayLike) -> bytes:
    """The block with another label table of the same length. No voxel is touched.

    This is how supervoxels become bodies: map the tens of entries of `labels`, not the voxels.

    Raises
    ------
    FormatError
        If the header can't be right.
    ValueError
        If the new table has another length.

    Examples
    --------
    >>> import numpy as np
    >>> block = solid_block(7, (16, 16, 16))
    >>> labels(replace_labels(block, labels(block) + np.uint64(1)))
    array([8], dtype=uint64)
    """
    buf, _, n = parse(block)
    table = resolve(buf, n, new_table)
    view = buf.data
    return b"".join((view[:16], table.astype("<u8").tobytes(), view[16 + 8 * n :]))


def check_block(block: Buffer, expected_shape_zyx: Sequence[int] | None = None) -> None:
    """Check that every voxel can be decoded.

    Parameters
    ----------
    block
        Bytes of unknown origin.
    expected_shape_zyx
        If given, the voxels the block must have.

    Raises
    ------
    FormatError
        If sections are cut off, positions lie out of range or the shape is another.
    """
    buf, grid, n = parse(block)
    shape = voxel_shape(grid)
    if expected_shape_zyx is not None and shape != tuple(expected_shape_zyx):
        raise FormatError(f"label block of {shape} voxels (z, y, x), expected {tuple(expected_shape_zyx)}")
    if n > 1:
        raise_for(kernels.check(buf, *grid, n))


def parse_block(
    block: Buffer, table: ArrayLike | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int, int], NDArray[np.uint64]]:
    """Bytes, sub-blocks (z, y, x) and labels, which `table` may replace (for the other modules of this package).

    Raises
    ------
    FormatError
        If the header can't be right.
    """
    buf, grid, n = parse(block)
    return buf, grid, resolve(buf, n, table)


def table_hits(
    block: Buffer, labels: ArrayLike, *, ascending: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int, int], NDArray[np.bool_], bool]:
    """Bytes, sub-blocks (z, y, x), which table entries are among the labels, and whether label 0 is.

    `ascending` says that the labels are uint64 and sorted, which saves sorting them for every block.
    """
    buf, grid, n = parse(block)
    wanted = np.asarray(labels, np.uint64) if ascending else distinct(np.asarray(labels, np.uint64))
    return buf, grid, found_in(table_of(buf, n), wanted), bool(wanted.size and wanted[0] == 0)


def found_in(table: NDArray[np.uint64], sorted_labels: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which table entries are among the ascending labels."""
    if sorted_labels.size == 0:
        return np.zeros(table.size, np.bool_)
    at = np.minimum(np.searchsorted(sorted_labels, table), sorted_labels.size - 1)
    hits: NDArray[np.bool_] = sorted_labels[at] == table
    return hits
