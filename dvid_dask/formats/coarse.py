"""Sparse volumes at the resolution of blocks.

A coarse volume is a sparse volume (`dvid_dask.formats.rles`) whose coordinates count blocks. ``sparsevols-coarse``
sends many of them::

    repeated:  uint64 label, int32 number of runs, runs (int32 x, y, z, length)      labels ascending
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats import _rle_kernels as kernels
from dvid_dask.formats import rles
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "blocks_from_rles",
    "decode_coarse",
    "encode_coarse",
    "encode_coarse_record",
    "iter_coarse_records",
    "rles_from_block_coords",
]

_RECORD = struct.Struct("<Qi")


def rles_from_block_coords(blocks_zyx: ArrayLike) -> NDArray[np.int32]:
    """Normal runs (x, y, z, length, in blocks) of block coordinates int (n, 3) z y x, in any order.

    Examples
    --------
    >>> rles_from_block_coords([[0, 0, 2], [0, 0, 1], [5, 0, 0]])
    array([[1, 0, 0, 2],
           [0, 0, 5, 1]], dtype=int32)
    """
    blocks = np.asarray(blocks_zyx).reshape(-1, 3)
    if blocks.dtype == np.int32:
        found, ascend = kernels.runs_of_blocks(np.ascontiguousarray(blocks))
        if ascend:
            return np.asarray(found, np.int32)
    blocks = blocks.astype(np.int64)
    runs = np.ones((len(blocks), 4), np.int32)
    runs[:, :3] = blocks[:, ::-1]
    return rles.normalize(runs)


def blocks_from_rles(runs: ArrayLike, *, max_blocks: int = 1 << 26) -> NDArray[np.int32]:
    """Block coordinates, int32 (n, 3) z y x in order of the runs.

    Raises
    ------
    FormatError
        If there are more than `max_blocks`.

    Examples
    --------
    >>> blocks_from_rles([[1, 0, 0, 2]])
    array([[0, 0, 1],
           [0, 0, 2]], dtype=int32)
    """
    given = np.asarray(runs, np.int32).reshape(-1, 4)
    lengths = given[:, 3].astype(np.int64)
    total = int(lengths.sum())
    if total > max_blocks:
        raise FormatError(f"coarse volume of {total} blocks; the limit is {max_blocks}")
    out = np.repeat(given[:, 2::-1], lengths, axis=0)
    starts = np.cumsum(lengths) - lengths
    out[:, 2] += (np.arange(total) - np.repeat(starts, lengths)).astype(np.int32)
    return out


def encode_coarse(blocks_zyx: ArrayLike) -> bytes:
    """A coarse volume as bytes with the legacy header of runs.

    Parameters
    ----------
    blocks_zyx
        Block coordinates int (n, 3), any order.

    Examples
    --------
    >>> encode_coarse([[3, 2, 1]]).hex(" ", 4)
    '00030000 00000000 01000000 01000000 02000000 03000000 01000000'
    """
    return rles.encode_rles(rles_from_block_coords(blocks_zyx))


def decode_coarse(data: Buffer, *, max_blocks: int = 1 << 26) -> NDArray[np.int32]:
    """Block coordinates, int32 (n, 3) z y x, from bytes with the legacy header of runs.

    Raises
    ------
    FormatError
        If the bytes are no runs or name more than `max_blocks`.

    Examples
    --------
    >>> decode_coarse(encode_coarse([[3, 2, 1]]))
    array([[3, 2, 1]], dtype=int32)
    """
    return blocks_from_rles(rles.decode_rles(data), max_blocks=max_blocks)


def encode_coarse_record(label: int, blocks_zyx: ArrayLike) -> bytes:
    """One label of a ``sparsevols-coarse`` stream.

    Examples
    --------
    >>> encode_coarse_record(9, [[3, 2, 1]]).hex(" ", 4)
    '09000000 00000000 01000000 01000000 02000000 03000000 01000000'
    """
    runs = rles_from_block_coords(blocks_zyx)
    return _RECORD.pack(label, len(runs)) + rles.encode_srles(runs)


def iter_coarse_records(data: Buffer) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Labels and runs (x, y, z, length, in blocks) of a ``sparsevols-coarse`` stream.

    Raises
    ------
    FormatError
        If the stream ends inside a record or a run is impossible.

    Examples
    --------
    >>> list(iter_coarse_records(encode_coarse_record(9, [[3, 2, 1]])))
    [(9, array([[1, 2, 3, 1]], dtype=int32))]
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        if len(view) - at < _RECORD.size:
            raise FormatError("coarse volumes: ends inside a record's header")
        label, n = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        if n < 0 or 16 * n > len(view) - at:
            raise FormatError(f"coarse volumes: label {label} claims {n} runs, {(len(view) - at) // 16} can follow")
        yield label, rles.decode_srles(view[at : at + 16 * n])
        at += 16 * n
