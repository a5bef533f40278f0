"""Voxels into blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats import _label_encoder_kernels as kernels
from dvid_dask.formats.label_blocks.layout import grid_of
from dvid_dask.formats.label_blocks.memory import check_uint64, flat_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "count_blocks",
    "encode_and_count",
    "encode_block",
    "encode_blocks",
]


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
    >>> from dvid_dask.formats.label_blocks import labels
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
    check_uint64(volume_zyx)
    grid = grid_of(block_shape_zyx)
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
    >>> from dvid_dask.formats.label_blocks import labels
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
    >>> from dvid_dask.formats.label_blocks import count
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
