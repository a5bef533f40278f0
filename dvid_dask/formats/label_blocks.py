"""DVID's compressed label block: a table of labels and, per 8 x 8 x 8 sub-block, packed positions into it.

Layout (little-endian; sub-blocks and voxels in zyx order, x fastest)::

    uint32 gx, gy, gz        sub-blocks per dimension
    uint32 N                 entries of the label table
    uint64 table[N]          for N = 1 the block ends here: it is solid
    uint16 Ns[gz*gy*gx]      labels in each sub-block
    uint32 index[sum(Ns)]    their positions in the table
    bytes  values            per sub-block with Ns > 1: 512 values of ceil(log2(Ns)) bits, most significant bit first

The layout is that of DVID's `datatype/common/labels` package and of the ``compression=blocks`` streams of its REST
API. What other writers may produce and every reader here accepts: labels twice in the table or never used,
sub-blocks with Ns = 0 (all voxels 0), bytes after the end. What can't be decoded is refused with `FormatError`.

Our encoder is canonical: the table ascends, a sub-block lists its labels in order of first appearance, so equal
voxels give equal bytes. A block whose table was patched (`replace_labels`) may hold duplicates; `normalize`
brings it back.

Work on the table wherever you can: `labels`, `replace_labels`, `count` and the octant form of `downsample` never
expand voxels to 64 bits.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dvid_dask.formats import _label_block_kernels as kernels
from dvid_dask.formats._bytes import Buffer, as_uint8
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "MAX_VOXELS",
    "block_shape",
    "check_block",
    "count",
    "count_blocks",
    "decode_block",
    "decode_blocks_into",
    "decode_box",
    "downsample",
    "downsample_array",
    "encode_and_count",
    "encode_block",
    "encode_blocks",
    "is_solid",
    "labels",
    "mask",
    "mask_sorted",
    "normalize",
    "pick",
    "remap_array",
    "replace_labels",
    "scratch_for",
    "solid_block",
    "sub_tables",
    "uniform_sub_blocks",
]

MAX_VOXELS = 1 << 24
"""Largest block that is expanded without an output array given: a 24-byte solid block may claim 1024^3 voxels."""

_SUB = 8
_MAX_GRID = 128
_HEADER = struct.Struct("<4I")

_REASONS = {
    kernels.BAD_LENGTH: "ends inside its sub-blocks",
    kernels.BAD_COUNT: "lists more labels in a sub-block than it has voxels",
    kernels.BAD_INDEX: "points past the end of its label table",
    kernels.BAD_VALUE: "has a voxel that points past the labels of its sub-block",
}

_KEEP = 1 << 21  # voxels (16 MiB) of scratch a thread keeps

_local = threading.local()

_Parsed: TypeAlias = "tuple[NDArray[np.uint8], tuple[int, int, int], int]"


def raise_for(result: int) -> None:
    """Raise the error that a kernel's result stands for (for the other modules of this package).

    Raises
    ------
    FormatError
        Unless the result is good.
    """
    if result != kernels.OK:
        raise FormatError(f"label block {_REASONS[result]}")


def _parse(block: Buffer) -> _Parsed:
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


def _table(buf: NDArray[np.uint8], n: int) -> NDArray[np.uint64]:
    return np.frombuffer(buf, "<u8", n, 16).astype(np.uint64)


def _resolve(buf: NDArray[np.uint8], n: int, table: ArrayLike | None) -> NDArray[np.uint64]:
    if table is None:
        return _table(buf, n)
    given = np.array(table, np.uint64)
    if given.shape != (n,):
        raise ValueError(f"the block has {n} table entries, got a table of shape {given.shape}")
    return given


def _voxel_shape(grid: tuple[int, int, int]) -> tuple[int, int, int]:
    return grid[0] * _SUB, grid[1] * _SUB, grid[2] * _SUB


def _allocate(shape: Sequence[int], dtype: Any, max_voxels: int) -> NDArray[Any]:
    _check_size(shape, max_voxels)
    return np.empty(shape, dtype)


def _check_size(shape: Sequence[int], max_voxels: int) -> None:
    if shape[0] * shape[1] * shape[2] > max_voxels:
        raise FormatError(f"label block of {tuple(shape)} voxels (z, y, x): the limit is {max_voxels} voxels in all")


def _check_uint64(volume: NDArray[np.uint64]) -> None:
    if not isinstance(volume, np.ndarray) or volume.ndim != 3 or volume.dtype.kind != "u" or volume.itemsize != 8:
        got = f"{volume.dtype} of {volume.ndim} dimensions" if isinstance(volume, np.ndarray) else type(volume).__name__
        raise TypeError(f"labels are a uint64 array (z, y, x), got {got}")


def _in_place(volume: NDArray[Any]) -> bool:
    """Whether kernels can work on this array itself: native, aligned, x contiguous, other strides not negative."""
    size = volume.itemsize
    return bool(
        volume.flags.aligned
        and volume.dtype.isnative
        and (volume.strides[2] == size or volume.shape[2] == 1)
        and volume.strides[0] >= 0
        and volume.strides[1] >= 0
        and volume.strides[0] % size == 0
        and volume.strides[1] % size == 0
    )


def _flat(volume: NDArray[Any], writeable: bool) -> tuple[NDArray[Any], int, int]:
    """The memory of a 3-d array that is `_in_place`, as one flat array, and its z and y strides in elements."""
    sz, sy = volume.strides[0] // volume.itemsize, volume.strides[1] // volume.itemsize
    if volume.flags.c_contiguous:
        flat = volume.reshape(-1)
    else:
        nz, ny, nx = volume.shape
        extent = (nz - 1) * sz + (ny - 1) * sy + nx
        flat = np.lib.stride_tricks.as_strided(volume, (extent,), (volume.itemsize,))
    if not writeable:
        flat = flat.view()
        flat.flags.writeable = False
    return flat, sz, sy


def flat_labels(volume: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], int, int]:
    """Labels (z, y, x) as kernels read them: flat memory and the z and y strides in elements; copied only if need be.

    Raises
    ------
    TypeError
        If it is no 3-d array of uint64.
    """
    _check_uint64(volume)
    if not _in_place(volume):
        volume = np.ascontiguousarray(volume, np.uint64)
    return _flat(volume, writeable=False)


@contextlib.contextmanager
def _scratch(shape: Sequence[int]) -> Iterator[NDArray[np.uint64]]:
    """A dense array for a moment: fresh memory costs more in page faults than the work on it, so a thread keeps one.

    Taken out while in use, so that a nested use gets its own.
    """
    size = shape[0] * shape[1] * shape[2]
    held: NDArray[np.uint64] | None = getattr(_local, "dense", None)
    _local.dense = None
    if held is None or held.size < size:
        held = np.empty(size, np.uint64)
    try:
        yield held[:size].reshape(shape)
    finally:
        if held.size <= _KEEP:
            _local.dense = held


@contextlib.contextmanager
def scratch_for(block: Buffer, *, max_voxels: int = MAX_VOXELS) -> Iterator[NDArray[np.uint64]]:
    """A uint64 array of the block's shape to decode into, lent until the end of the ``with``.

    Raises
    ------
    FormatError
        If the block claims more than `max_voxels`.

    Examples
    --------
    >>> block = solid_block(1, (16, 16, 16))
    >>> with scratch_for(block) as voxels:
    ...     int(decode_block(block, voxels).sum())
    4096
    """
    shape = block_shape(block)
    _check_size(shape, max_voxels)
    with _scratch(shape) as voxels:
        yield voxels


def _grid_of(shape_zyx: Sequence[int]) -> tuple[int, int, int]:
    """Sub-blocks (z, y, x) of a block of this many voxels."""
    if len(shape_zyx) != 3 or any(n < _SUB or n % _SUB or n > _SUB * _MAX_GRID for n in shape_zyx):
        raise ValueError(
            f"a label block has three dimensions, multiples of {_SUB} up to {_SUB * _MAX_GRID}, got {tuple(shape_zyx)}"
        )
    gz, gy, gx = (int(n) // _SUB for n in shape_zyx)
    return gz, gy, gx


# ------------------------------------------------------------------ encode


def encode_block(labels_zyx: NDArray[np.uint64]) -> bytes:
    """Encode an array of labels as one block.

    Parameters
    ----------
    labels_zyx
        uint64 (z, y, x), each dimension a multiple of 8 up to 1024. Any strides; read in place when x is contiguous.

    Returns
    -------
    bytes
        The canonical block: equal voxels give equal bytes.

    Raises
    ------
    ValueError
        If the shape can't be a block.

    Examples
    --------
    >>> import numpy as np
    >>> voxels = np.zeros((16, 16, 16), np.uint64)
    >>> voxels[0, 0, 1] = 7
    >>> block = encode_block(voxels)
    >>> len(block), labels(block)
    (148, array([0, 7], dtype=uint64))
    >>> len(encode_block(np.full((64, 64, 64), 300, np.uint64)))
    24
    """
    blocks = encode_blocks(labels_zyx, np.shape(labels_zyx))
    return blocks[0]


def _encode_brick(
    volume_zyx: NDArray[np.uint64], block_shape_zyx: Sequence[int], emit: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint32]]:
    _check_uint64(volume_zyx)
    grid = _grid_of(block_shape_zyx)
    if any(n < 1 or n % b for n, b in zip(volume_zyx.shape, block_shape_zyx, strict=True)):
        raise ValueError(
            f"a volume of {volume_zyx.shape} voxels is not made of whole blocks of {tuple(block_shape_zyx)}"
        )
    mem, sz, sy = flat_labels(volume_zyx)
    nz, ny, nx = (int(n) // int(b) for n, b in zip(volume_zyx.shape, block_shape_zyx, strict=True))
    result: tuple[Any, Any, Any, Any, Any] = kernels.encode_brick(mem, sz, sy, *grid, nz, ny, nx, emit)
    return result


def encode_blocks(volume_zyx: NDArray[np.uint64], block_shape_zyx: Sequence[int]) -> list[bytes]:
    """Encode all blocks of a volume in one call that releases the GIL.

    Parameters
    ----------
    volume_zyx
        uint64 (z, y, x), made of whole blocks.
    block_shape_zyx
        Voxels of a block (z, y, x).

    Returns
    -------
    list of bytes
        The blocks in zyx order.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.arange(2, dtype=np.uint64).repeat(16)[None, None].repeat(16, 0).repeat(16, 1)
    >>> [labels(b)[0] for b in encode_blocks(volume, (16, 16, 16))]
    [np.uint64(0), np.uint64(1)]
    """
    data, offsets, *_ = _encode_brick(volume_zyx, block_shape_zyx, True)
    return _cut(data, offsets)


def encode_and_count(
    volume_zyx: NDArray[np.uint64], block_shape_zyx: Sequence[int]
) -> tuple[list[bytes], NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint32]]:
    """`encode_blocks` and `count_blocks` from one pass over the voxels.

    Returns
    -------
    blocks, block_index, label, count
        The blocks in zyx order, then one row per block and label, sorted by both; label 0 is counted too.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((16, 16, 32), np.uint64)
    >>> volume[..., 20:] = 5
    >>> blocks, block, label, count = encode_and_count(volume, (16, 16, 16))
    >>> block, label, count
    (array([0, 1, 1], dtype=int32), array([0, 0, 5], dtype=uint64), array([4096, 1024, 3072], dtype=uint32))
    """
    data, offsets, block, label, counts = _encode_brick(volume_zyx, block_shape_zyx, True)
    return _cut(data, offsets), block, label, counts


def count_blocks(
    volume_zyx: NDArray[np.uint64], block_shape_zyx: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint32]]:
    """Count the voxels of every label in every block of a volume.

    Returns
    -------
    block_index, label, count
        One row per block (numbered in zyx order) and label, sorted by both; label 0 is counted too.
    """
    _, _, block, label, counts = _encode_brick(volume_zyx, block_shape_zyx, False)
    return block, label, counts


def _cut(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[bytes]:
    view = data.data
    edges = offsets.tolist()
    return [bytes(view[a:b]) for a, b in itertools.pairwise(edges)]


def solid_block(label: int, shape_zyx: Sequence[int]) -> bytes:
    """The 24-byte block with one label in all voxels.

    Examples
    --------
    >>> solid_block(300, (64, 64, 64)).hex(" ", 4)
    '08000000 08000000 08000000 01000000 2c010000 00000000'
    """
    gz, gy, gx = _grid_of(shape_zyx)
    return struct.pack("<4IQ", gx, gy, gz, 1, label)


# ------------------------------------------------------------------ look at the table


def block_shape(block: Buffer) -> tuple[int, int, int]:
    """Voxels of the block as (z, y, x), as its header says.

    Raises
    ------
    FormatError
        If the header can't be right.
    """
    return _voxel_shape(_parse(block)[1])


def is_solid(block: Buffer) -> bool:
    """Whether the block is the 24-byte form of one label in all voxels."""
    return _parse(block)[2] == 1


def uniform_sub_blocks(block: Buffer) -> NDArray[np.bool_]:
    """Which sub-blocks of 8 x 8 x 8 voxels hold one label only, by what the block says of them; no voxel is looked at.

    Returns
    -------
    NDArray[bool]
        (z, y, x), one for each sub-block.

    Examples
    --------
    >>> import numpy as np
    >>> voxels = np.zeros((8, 8, 16), np.uint64)
    >>> voxels[0, 0, 12] = 5
    >>> uniform_sub_blocks(encode_block(voxels)).tolist()
    [[[True, False]]]
    """
    buf, grid, n = _parse(block)
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
    buf, _, n = _parse(block)
    return _table(buf, n)


def sub_tables(block: Buffer) -> list[NDArray[np.uint64]]:
    """For each sub-block, in zyx order, the labels it lists; none stands for 0. For looking at a block.

    Raises
    ------
    FormatError
        If the block can't be decoded.

    Examples
    --------
    >>> import numpy as np
    >>> half = np.arange(1024, dtype=np.uint64).reshape(16, 8, 8) // 600
    >>> [t.tolist() for t in sub_tables(encode_block(half))]
    [[0], [0, 1]]
    """
    check_block(block)
    buf, grid, n = _parse(block)
    table = _table(buf, n)
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
    buf, _, n = _parse(block)
    table = _resolve(buf, n, new_table)
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
    buf, grid, n = _parse(block)
    shape = _voxel_shape(grid)
    if expected_shape_zyx is not None and shape != tuple(expected_shape_zyx):
        raise FormatError(f"label block of {shape} voxels (z, y, x), expected {tuple(expected_shape_zyx)}")
    if n > 1:
        raise_for(kernels.check(buf, *grid, n))


# ------------------------------------------------------------------ decode


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
    target = out if _in_place(out) else np.empty(out.shape, table.dtype)
    flat, sz, sy = _flat(target, writeable=True)
    raise_for(kernels.decode_box(buf, *grid, table, zero, flat, 0, sz, sy, start, stop))
    if target is not out:
        out[...] = target


def _check_out(out: NDArray[Any], shape: Sequence[int], dtype: type) -> None:
    if out.dtype.newbyteorder("=") != np.dtype(dtype):
        raise TypeError(f"the output must be {np.dtype(dtype)}, got {out.dtype}")
    if out.shape != tuple(shape):
        raise FormatError(f"label block: {tuple(shape)} voxels (z, y, x) for an output of {out.shape}")


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
    >>> import numpy as np
    >>> voxels = np.arange(4096, dtype=np.uint64).reshape(16, 16, 16) // 1000
    >>> bool((decode_block(encode_block(voxels)) == voxels).all())
    True
    """
    buf, grid, n = _parse(block)
    shape = _voxel_shape(grid)
    if out is None:
        out = _allocate(shape, np.uint64, max_voxels)
    else:
        _check_out(out, shape, np.uint64)
    _decode(buf, grid, _resolve(buf, n, table), (0, 0, 0), shape, out)
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
    >>> decode_box(solid_block(9, (64, 64, 64)), (1, 2, 3), (2, 3, 5))
    array([[[9, 9]]], dtype=uint64)
    """
    buf, grid, n = _parse(block)
    az, ay, ax = (int(i) for i in start_zyx)
    bz, by, bx = (int(i) for i in stop_zyx)
    shape = _voxel_shape(grid)
    if any(not 0 <= a <= b <= s for a, b, s in zip((az, ay, ax), (bz, by, bx), shape, strict=True)):
        raise ValueError(f"the box {(az, ay, ax)} to {(bz, by, bx)} is not inside a block of {shape} voxels (z, y, x)")
    box = (bz - az, by - ay, bx - ax)
    if out is None:
        out = _allocate(box, np.uint64, max_voxels)
    else:
        _check_out(out, box, np.uint64)
    _decode(buf, grid, _resolve(buf, n, table), (az, ay, ax), (bz, by, bx), out)
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
    >>> pick(solid_block(9, (64, 64, 64)), [[1, 2, 3], [63, 0, 0]])
    array([9, 9], dtype=uint64)
    """
    buf, grid, n = _parse(block)
    points = np.ascontiguousarray(points_zyx, np.int64).reshape(-1, 3)
    shape = _voxel_shape(grid)
    if len(points) and (int(points.min()) < 0 or bool((points >= np.array(shape)).any())):
        raise ValueError(f"a point is not inside a block of {shape} voxels (z, y, x)")
    names = _resolve(buf, n, table)
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
    >>> import numpy as np
    >>> out = np.zeros((1, 1, 4), np.uint64)
    >>> decode_blocks_into([solid_block(9, (8, 8, 8))], [[-1, -1, 2]], out)
    >>> out
    array([[[0, 0, 9, 9]]], dtype=uint64)
    """
    _check_uint64(out_zyx)
    positions = np.asarray(positions_zyx, np.int64).reshape(-1, 3).tolist()
    blocks = list(blocks)
    maps: list[ArrayLike | None] = [None] * len(blocks) if tables is None else list(tables)
    for block, position, table in zip(blocks, positions, maps, strict=True):
        if block is None:
            continue
        buf, grid, n = _parse(block)
        start = [max(0, -p) for p in position]
        stop = [min(s, e - p) for s, e, p in zip(_voxel_shape(grid), out_zyx.shape, position, strict=True)]
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            continue
        (az, ay, ax), (bz, by, bx), (pz, py, px) = start, stop, position
        part = out_zyx[az + pz : bz + pz, ay + py : by + py, ax + px : bx + px]
        _decode(buf, grid, _resolve(buf, n, table), (az, ay, ax), (bz, by, bx), part)


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
    >>> int(mask(solid_block(9, (16, 16, 16)), [4, 9]).sum())
    4096
    """
    buf, grid, n = _parse(block)
    shape = _voxel_shape(grid)
    if out is None:
        out = _allocate(shape, np.bool_, max_voxels)
    else:
        _check_out(out, shape, np.bool_)
    _decode_mask(buf, grid, n, np.unique(np.asarray(labels, np.uint64)), out)
    return out


def mask_sorted(block: Buffer, sorted_labels: NDArray[np.uint64], out: NDArray[np.bool_]) -> bool:
    """`mask` for many blocks and one set of ascending labels; false, and `out` untouched, if no label is listed.

    Raises
    ------
    FormatError
        If the block can't be decoded or has another shape than `out`.

    Examples
    --------
    >>> import numpy as np
    >>> mask_sorted(solid_block(9, (8, 8, 8)), np.array([4, 7], np.uint64), np.empty((8, 8, 8), bool))
    False
    """
    buf, grid, n = _parse(block)
    _check_out(out, _voxel_shape(grid), np.bool_)
    zero = bool(sorted_labels.size) and int(sorted_labels[0]) == 0
    if not zero and not _hits(_table(buf, n), sorted_labels).any():
        return False
    _decode_mask(buf, grid, n, sorted_labels, out)
    return True


def parse_block(
    block: Buffer, table: ArrayLike | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int, int], NDArray[np.uint64]]:
    """Bytes, sub-blocks (z, y, x) and labels, which `table` may replace (for the other modules of this package).

    Raises
    ------
    FormatError
        If the header can't be right.
    """
    buf, grid, n = _parse(block)
    return buf, grid, _resolve(buf, n, table)


def table_hits(
    block: Buffer, labels: ArrayLike, *, ascending: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int, int], NDArray[np.bool_], bool]:
    """Bytes, sub-blocks (z, y, x), which table entries are among the labels, and whether label 0 is.

    `ascending` says that the labels are uint64 and sorted, which saves sorting them for every block.
    """
    buf, grid, n = _parse(block)
    wanted = np.asarray(labels, np.uint64) if ascending else np.unique(np.asarray(labels, np.uint64))
    return buf, grid, _hits(_table(buf, n), wanted), bool(wanted.size and wanted[0] == 0)


def _hits(table: NDArray[np.uint64], sorted_labels: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which table entries are among the ascending labels."""
    if sorted_labels.size == 0:
        return np.zeros(table.size, np.bool_)
    at = np.minimum(np.searchsorted(sorted_labels, table), sorted_labels.size - 1)
    hits: NDArray[np.bool_] = sorted_labels[at] == table
    return hits


def _decode_mask(
    buf: NDArray[np.uint8],
    grid: tuple[int, int, int],
    n: int,
    sorted_labels: NDArray[np.uint64],
    out: NDArray[np.bool_],
) -> None:
    # sub-blocks without any label are 0, which may be what is looked for
    zero = np.bool_(sorted_labels.size and sorted_labels[0] == 0)
    _decode(buf, grid, _hits(_table(buf, n), sorted_labels), (0, 0, 0), _voxel_shape(grid), out, zero)


# ------------------------------------------------------------------ count, normalise, down-sample


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
    buf, grid, n = _parse(block)
    table = _table(buf, n)
    if n == 1:
        return table, np.array([grid[0] * grid[1] * grid[2] * kernels.SUB_VOXELS])
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
    >>> import numpy as np
    >>> half = np.arange(4096, dtype=np.uint64).reshape(16, 16, 16) // 2048
    >>> merged = replace_labels(encode_block(half), [5, 5])
    >>> normalize(merged) == solid_block(5, (16, 16, 16))
    True
    """
    buf, _, n = _parse(block)
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
    grid = _grid_of(shape_zyx)
    shape = _voxel_shape(grid)
    parsed = [None if o is None else _parse(o) for o in octants]
    for given in [*parsed, None if old is None else _parse(old)]:
        if given is not None and given[1] != grid:
            raise FormatError(f"label block of {_voxel_shape(given[1])} voxels (z, y, x), expected {shape}")
    solid = {int(_table(o[0], 1)[0]) if o is not None and o[2] == 1 else None for o in parsed}
    if len(solid) == 1 and None not in solid:
        return solid_block(solid.pop() or 0, shape)

    with _scratch(shape) as dense:
        if None in parsed:
            if old is None:
                dense[...] = 0
            else:
                decode_block(old, dense)
        for i, given in enumerate(parsed):
            if given is not None:
                _downsample_octant(given, i, dense)
        return encode_block(dense)


def _downsample_octant(octant: _Parsed, i: int, dense: NDArray[np.uint64]) -> None:
    """Write an octant at half size into its corner of the coarse block."""
    buf, grid, n = octant
    table = _table(buf, n)
    flat, sz, sy = _flat(dense, writeable=True)
    hz, hy, hx = (length // 2 for length in dense.shape)
    corner = (i >> 2) * hz * sz + ((i >> 1) & 1) * hy * sy + (i & 1) * hx
    if n == 1:
        kernels.fill_box(flat, corner, sz, sy, hz, hy, hx, table[0])
    else:
        raise_for(kernels.downsample_block(buf, *grid, table, flat, corner, sz, sy))


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
        kernels.downsample_dense(mem, sz, sy, nz, ny, nx, out)
    return out


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
    _check_uint64(arr)
    keys, new = np.array(keys_sorted, np.uint64), np.array(values, np.uint64)
    if keys.ndim != 1 or keys.shape != new.shape:
        raise ValueError(f"one value per key, got {keys.shape} keys and {new.shape} values")
    if arr.size == 0 or keys.size == 0:
        return
    target = arr if _in_place(arr) else np.ascontiguousarray(arr, np.uint64)
    mem, sz, sy = _flat(target, writeable=True)
    nz, ny, nx = arr.shape
    kernels.remap_rows(mem, sz, sy, nz, ny, nx, keys, new)
    if target is not arr:
        arr[...] = target
