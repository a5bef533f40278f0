"""Sparse volumes as blocks of bits.

Little-endian; sub-blocks and voxels in zyx order::

    header, once     uint32 gx, gy, gz (sub-blocks of 8 x 8 x 8 per block), uint64 label
    per block        int32 x, y, z of its first voxel, uint8 flag: 1 = all voxels, 2 = some
    if some, per sub-block: uint8 flag: 0 = none, 1 = all, 2 = some
    if some          64 bytes, voxel i in byte i >> 3, bit i & 7 counted from the least significant

Blocks without a voxel are left out; a volume without any is no bytes at all, without a header.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats import _binary_block_kernels as kernels
from dvid_dask.formats import label_blocks, rles
from dvid_dask.formats._bytes import Buffer, as_uint8
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["decode_header", "encode", "encode_block", "encode_header", "iter_blocks", "to_rles"]

_HEADER = struct.Struct("<3IQ")
_BLOCK = struct.Struct("<3iB")
_MAX_GRID = 128


def encode_header(block_shape_zyx: Sequence[int], label: int) -> bytes:
    """What precedes the first block.

    Examples
    --------
    >>> encode_header((64, 64, 64), 5).hex(" ", 4)
    '08000000 08000000 08000000 05000000 00000000'
    """
    nz, ny, nx = block_shape_zyx
    return _HEADER.pack(nx // 8, ny // 8, nz // 8, label)


def encode_block(block: Buffer, position_zyx: Sequence[int], labels: ArrayLike, *, ascending: bool = False) -> bytes:
    """The voxels of a block that have one of the labels; no bytes if there are none.

    Parameters
    ----------
    block
        Compressed label block. Its voxels are not expanded.
    position_zyx
        Block coordinate.
    labels
        What counts as foreground.
    ascending
        Whether they are uint64 and sorted, which saves sorting them for every block.

    Raises
    ------
    FormatError
        If the block can't be decoded.

    Examples
    --------
    >>> encode_block(label_blocks.solid_block(5, (16, 16, 16)), (3, 2, 1), [5]).hex(" ", -4)
    '10000000 20000000 30000000 01'
    """
    shape = label_blocks.block_shape(block)
    z, y, x = (int(p) * s for p, s in zip(position_zyx, shape, strict=True))
    buf, grid, hits, zero = label_blocks.table_hits(block, labels, ascending=ascending)
    if hits.size == 1:  # solid
        return _BLOCK.pack(x, y, z, 1) if hits[0] else b""
    if not hits.any() and not zero:
        return b""
    out = np.empty(grid[0] * grid[1] * grid[2] * 65, np.uint8)
    result, end, voxels = kernels.encode(buf, *grid, hits, zero, out)
    label_blocks.raise_for(result)
    if voxels == 0:
        return b""
    if voxels == shape[0] * shape[1] * shape[2]:
        return _BLOCK.pack(x, y, z, 1)
    return _BLOCK.pack(x, y, z, 2) + bytes(out[:end].data)


def encode(blocks: Iterable[Buffer], positions_zyx: ArrayLike, label: int, labels: ArrayLike | None = None) -> bytes:
    """A whole sparse volume.

    Parameters
    ----------
    blocks
        Compressed label blocks, all of one shape.
    positions_zyx
        int (n, 3): their block coordinates.
    label
        The label that the header names.
    labels
        What counts as foreground, if not `label` alone: the supervoxels of a body.

    Raises
    ------
    FormatError
        If a block can't be decoded.

    Examples
    --------
    >>> len(encode([label_blocks.solid_block(5, (16, 16, 16))], [[0, 0, 0]], 5))
    33
    """
    wanted = np.array([label], np.uint64) if labels is None else distinct(np.asarray(labels, np.uint64))
    parts: list[bytes] = []
    shape: tuple[int, int, int] | None = None
    for block, position in zip(blocks, np.asarray(positions_zyx, np.int64).reshape(-1, 3).tolist(), strict=True):
        this = label_blocks.block_shape(block)
        if shape is not None and this != shape:
            raise ValueError(f"block {position} has {this} voxels, others {shape} (z, y, x)")
        shape = this
        part = encode_block(block, position, wanted, ascending=True)
        if not part:
            continue
        if not parts:
            parts.append(encode_header(shape, label))
        parts.append(part)
    return b"".join(parts)


def decode_header(data: Buffer) -> tuple[tuple[int, int, int], int]:
    """Voxels of a block (z, y, x) and the label.

    Raises
    ------
    FormatError
        If the header is cut off or no block has that shape.

    Examples
    --------
    >>> decode_header(encode_header((64, 64, 32), 5))
    ((64, 64, 32), 5)
    """
    if len(data) < _HEADER.size:
        raise FormatError(f"binary blocks: {len(data)} bytes are less than the header's {_HEADER.size}")
    gx, gy, gz, label = _HEADER.unpack_from(data)
    if not all(1 <= g <= _MAX_GRID for g in (gx, gy, gz)):
        raise FormatError(f"binary blocks: {gx} x {gy} x {gz} sub-blocks; each must be 1 to {_MAX_GRID}")
    return (8 * gz, 8 * gy, 8 * gx), label


def iter_blocks(
    data: Buffer, *, max_voxels: int = label_blocks.MAX_VOXELS
) -> Iterator[tuple[tuple[int, int, int], NDArray[np.bool_]]]:
    """The blocks of a sparse volume, one at a time.

    Parameters
    ----------
    data
        Header and blocks, or nothing.
    max_voxels
        Largest block to expand.

    Yields
    ------
    start_zyx, mask
        The block's first voxel and which of its voxels belong to the label, bool (z, y, x). The mask is
        overwritten by the next block.

    Raises
    ------
    FormatError
        If a block is cut off or a flag unknown.

    Examples
    --------
    >>> data = encode([label_blocks.solid_block(5, (16, 16, 16))], [[0, 0, -1]], 5)
    >>> [(start, int(mask.sum())) for start, mask in iter_blocks(data)]
    [((0, 0, -16), 4096)]
    """
    if len(data) == 0:
        return
    shape, _ = decode_header(data)
    if shape[0] * shape[1] * shape[2] > max_voxels:
        raise FormatError(f"binary blocks of {shape} voxels (z, y, x): the limit is {max_voxels} voxels in all")
    buf = as_uint8(data)
    mask = np.empty(shape, np.bool_)
    at = _HEADER.size
    while at < buf.size:
        if buf.size - at < _BLOCK.size:
            raise FormatError("binary blocks: ends inside a block's header")
        x, y, z, flag = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        if flag == 2:
            at = kernels.decode(buf, at, mask)
            if at < 0:
                raise FormatError(f"binary blocks: the block at {x},{y},{z} is cut off or has an unknown flag")
        elif flag in (0, 1):
            mask[...] = bool(flag)
        else:
            raise FormatError(f"binary blocks: flag {flag} at {x},{y},{z}; 0, 1 and 2 are known")
        yield (z, y, x), mask


def to_rles(data: Buffer, *, max_voxels: int = label_blocks.MAX_VOXELS) -> NDArray[np.int32]:
    """The voxels as normal runs (x, y, z, length).

    Raises
    ------
    FormatError
        If the data is cut off, has unknown flags, or a block leaves the int32 range.

    Examples
    --------
    >>> to_rles(encode([label_blocks.solid_block(5, (8, 8, 8))], [[0, 0, 2]], 5))[:2]
    array([[16,  0,  0,  8],
           [16,  1,  0,  8]], dtype=int32)
    """
    parts = [np.empty((0, 4), np.int32)]
    for start, mask in iter_blocks(data, max_voxels=max_voxels):
        if any(o + s - 1 > 0x7FFFFFFF for o, s in zip(start, mask.shape, strict=True)):
            raise FormatError(f"binary blocks: the block at {start} (z, y, x) leaves the range of int32")
        parts.append(rles.rles_from_mask(mask, start))
    return rles.normalize(np.concatenate(parts))
