"""Neuroglancer's ``compressed_segmentation`` of uint64 labels, one channel.

Words are uint32, little-endian::

    word 0                   where the channel begins: 1
    channel, per block       24 bits table offset | 8 bits per voxel << 24, then the offset of the packed values
    values                   packed indices into the table, least significant bits first, 0/1/2/4/8/16/32 bits each
    table                    uint64 labels

Offsets count words from the channel's begin; blocks and voxels are in zyx order. Written as DVID does for
``compression=google``: blocks of 8 x 8 x 8, each with its own table in order of first appearance after its values.
Read with any block size and any sharing of tables that the format allows.

Source: ``src/sliceview/compressed_segmentation/README.md`` of google/neuroglancer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats import _segmentation_kernels as kernels
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.label_blocks import flat_labels, parse_block, raise_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["decode", "encode", "from_label_block"]


def encode(labels_zyx: NDArray[np.uint64]) -> bytes:
    """Compress a volume.

    Parameters
    ----------
    labels_zyx
        uint64 (z, y, x), each dimension a multiple of 8. Any strides.

    Raises
    ------
    ValueError
        If a dimension is no multiple of 8, or the result passes the 64 MiB that the format's offsets reach.

    Examples
    --------
    >>> encode(np.zeros((8, 8, 8), np.uint64)).hex(" ", 4)
    '01000000 02000000 02000000 00000000 00000000'
    """
    mem, sz, sy = flat_labels(labels_zyx)
    nz, ny, nx = labels_zyx.shape
    if nz % 8 or ny % 8 or nx % 8 or 0 in labels_zyx.shape:
        raise ValueError(f"compressed segmentation needs multiples of 8, got {labels_zyx.shape} voxels (z, y, x)")
    result, words = kernels.encode(mem, sz, sy, nz // 8, ny // 8, nx // 8)
    if result != kernels.OK:
        raise ValueError("compressed segmentation: the result passes 64 MiB; ask for a smaller volume")
    return b"\1\0\0\0" + bytes(words.astype("<u4", copy=False).data)


def from_label_block(
    block: Buffer, table: ArrayLike | None = None, shape_zyx: Sequence[int] | None = None
) -> bytes | None:
    """A DVID label block as compressed segmentation, without expanding its voxels.

    Parameters
    ----------
    block
        The uncompressed label block.
    table
        Labels to use instead of those in the block, one per table entry: bodies for supervoxels, say.
    shape_zyx
        Voxels wanted from the block's first voxel on, where the volume ends inside the block. By default all.

    Returns
    -------
    bytes or None
        None if all labels listed are 0: readers take a missing chunk for zeros.

    Raises
    ------
    FormatError
        If the block can't be decoded.
    ValueError
        If the shape is empty or larger than the block, or the result passes the 64 MiB that the format's offsets reach.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import encode_block
    >>> voxels = np.arange(4096, dtype=np.uint64).reshape(16, 16, 16) // 1000
    >>> chunk = from_label_block(encode_block(voxels), [10, 11, 12, 13, 14])
    >>> bool((decode(chunk, (16, 16, 16)) == voxels + 10).all())
    True
    """
    buf, grid, labels = parse_block(block, table)
    wanted = [n * 8 for n in grid] if shape_zyx is None else [int(n) for n in shape_zyx]
    if any(not 0 < n <= 8 * g for n, g in zip(wanted, grid, strict=True)):
        raise ValueError(f"{tuple(wanted)} voxels (z, y, x) of a block of {tuple(8 * g for g in grid)}")
    cz, cy, cx = (-(-n // 8) for n in wanted)
    if not labels.any():
        return None
    if labels.size == 1:
        words = np.full(2 * cz * cy * cx + 2, 2 * cz * cy * cx, np.uint32)
        words[-2:] = int(labels[0]) & 0xFFFFFFFF, int(labels[0]) >> 32
    else:
        labels = np.append(labels, np.uint64(0))
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        result, words = kernels.transcode(buf, *grid, labels, first[inverse], cz, cy, cx)
        if result == kernels.TOO_LARGE:
            raise ValueError("compressed segmentation: the result passes 64 MiB; ask for a smaller volume")
        raise_for(result)
    return b"\1\0\0\0" + bytes(words.astype("<u4", copy=False).data)


def decode(
    data: Buffer, shape_zyx: Sequence[int], block_shape_zyx: Sequence[int] = (8, 8, 8), *, max_voxels: int = 1 << 30
) -> NDArray[np.uint64]:
    """Expand the first channel.

    Parameters
    ----------
    data
        Compressed bytes.
    shape_zyx
        Voxels of the volume.
    block_shape_zyx
        Voxels of the format's blocks.
    max_voxels
        Largest volume to expand.

    Returns
    -------
    NDArray[uint64]
        (z, y, x)

    Raises
    ------
    FormatError
        If an offset points outside the data, a bit width is unknown, or the data can't hold that many blocks.

    Examples
    --------
    >>> volume = np.arange(512, dtype=np.uint64).reshape(8, 8, 8) // 100
    >>> bool((decode(encode(volume), (8, 8, 8)) == volume).all())
    True
    """
    nz, ny, nx = (int(n) for n in shape_zyx)
    bz, by, bx = (int(n) for n in block_shape_zyx)
    if min(nz, ny, nx, bz, by, bx) < 1 or bz * by * bx > 1 << 20:
        raise ValueError(f"no volume of {tuple(shape_zyx)} voxels in blocks of {tuple(block_shape_zyx)}")
    if len(data) % 4 or len(data) < 4:
        raise FormatError(f"compressed segmentation: {len(data)} bytes are not whole words")
    words = np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
    begin = int(words[0])
    channel = words[begin:]
    if nz * ny * nx > max_voxels:
        raise FormatError(f"compressed segmentation: {nz * ny * nx} voxels, more than {max_voxels}")
    if begin < 1 or 2 * -(-nz // bz) * -(-ny // by) * -(-nx // bx) > channel.size:
        raise FormatError(f"compressed segmentation: {len(data)} bytes can't hold {tuple(shape_zyx)} voxels")
    channel.flags.writeable = False
    out = np.empty((nz, ny, nx), np.uint64)
    result = kernels.decode(channel, bz, by, bx, out)
    if result == kernels.BAD_BITS:
        raise FormatError("compressed segmentation: a block has an unknown number of bits per voxel")
    if result != kernels.OK:
        raise FormatError("compressed segmentation: a block points outside the data")
    return out
