"""Small tables of unsigned integers as bytes: every column its smallest value and the differences to it.

Coordinates of one neighbourhood, ids that were given one after the other and counts are numbers near each other, so one
or two bytes hold most of them; what regularity is left goes to zstd.

Layout (little-endian)::

    uint8   1 if what follows is zstd, else 0
    uint32  rows
    per column:  uint8 width (0, 1, 2, 4, 8), uint64 smallest value, rows * width bytes
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["pack", "pack_groups", "unpack", "unpack_groups"]

_ZSTD_FROM = 160  # below this many bytes zstd gains nothing
_ZSTD_LEVEL = 1
_MAX_BYTES = 1 << 28


@kernel
def _pack(table: NDArray[np.uint64], starts: NDArray[np.int64], out: NDArray[np.uint8], ends: NDArray[np.int64]) -> int:
    """Pack the groups of rows [starts[i], starts[i+1]) one after the other; returns the bytes used."""
    p = 0
    for g in range(starts.size - 1):
        first, last = starts[g], starts[g + 1]
        n = last - first
        for k in range(4):
            out[U(p + k)] = np.uint8((n >> (8 * k)) & 0xFF)
        p += 4
        for c in range(table.shape[0]):
            low = np.uint64(0)
            high = np.uint64(0)
            if n > 0:
                low = table[c, first]
                high = low
                for i in range(first, last):
                    v = table[c, i]
                    low = min(low, v)
                    high = max(high, v)
            span = high - low
            width = 8
            if span == np.uint64(0):
                width = 0
            elif span < np.uint64(1 << 8):
                width = 1
            elif span < np.uint64(1 << 16):
                width = 2
            elif span < np.uint64(1 << 32):
                width = 4
            out[U(p)] = np.uint8(width)
            p += 1
            for k in range(8):
                out[U(p + k)] = np.uint8((low >> np.uint64(8 * k)) & np.uint64(0xFF))
            p += 8
            for i in range(first, last):
                v = table[c, i] - low
                for k in range(width):
                    out[U(p + k)] = np.uint8((v >> np.uint64(8 * k)) & np.uint64(0xFF))
                p += width
        ends[g] = p
    return p


@kernel
def _unpack(buf: NDArray[np.uint8], table: NDArray[np.uint64]) -> bool:
    """Fill the table from the bytes after the row count; false if they end too early or name a wrong width."""
    p = 4
    n = table.shape[1]
    for c in range(table.shape[0]):
        if p + 9 > buf.size:
            return False
        width = int(buf[U(p)])
        if width > 8:
            return False
        low = np.uint64(0)
        for k in range(8):
            low |= np.uint64(buf[U(p + 1 + k)]) << np.uint64(8 * k)
        p += 9
        if p + n * width > buf.size:
            return False
        for i in range(n):
            v = np.uint64(0)
            for k in range(width):
                v |= np.uint64(buf[U(p + k)]) << np.uint64(8 * k)
            table[c, i] = low + v
            p += width
    return True


@kernel
def _unpack_groups(
    buf: NDArray[np.uint8], edges: NDArray[np.int64], starts: NDArray[np.int64], table: NDArray[np.uint64]
) -> bool:
    """`_unpack` of tables one after the other: bytes from edges[i], rows from starts[i]."""
    good = True
    for g in range(edges.size - 1):
        good &= _unpack(buf[edges[g] : edges[g + 1]], table[:, starts[g] : starts[g + 1]])
    return good


def _finish(body: memoryview | bytes) -> bytes:
    if len(body) >= _ZSTD_FROM:
        packed = zstd_compress(body, _ZSTD_LEVEL)
        if len(packed) < len(body):
            return b"\x01" + packed
    return b"\x00" + bytes(body)


def pack_groups(table: NDArray[np.uint64], starts: NDArray[np.int64]) -> list[bytes]:
    """Pack many small tables in one compiled call.

    Parameters
    ----------
    table
        uint64 (columns, rows).
    starts
        int64 (groups + 1,): group i has the rows ``starts[i]`` to ``starts[i + 1]``.
    """
    columns, rows = table.shape
    groups = starts.size - 1
    out = np.empty(groups * (4 + 9 * columns) + rows * columns * 8, np.uint8)
    ends = np.empty(groups, np.int64)
    _pack(np.ascontiguousarray(table), starts, out, ends)
    view = out.data
    edges = [0, *ends.tolist()]
    return [_finish(view[a:b]) for a, b in itertools.pairwise(edges)]


def pack(columns: Sequence[NDArray[np.uint64]]) -> bytes:
    """Pack columns of equal length.

    Examples
    --------
    >>> data = pack([np.arange(3, dtype=np.uint64), np.full(3, 2**64 - 1, np.uint64)])
    >>> len(data), unpack(data, 2).tolist()
    (26, [[0, 1, 2], [18446744073709551615, 18446744073709551615, 18446744073709551615]])
    """
    table = np.ascontiguousarray(np.vstack([np.asarray(c, np.uint64) for c in columns]))
    return pack_groups(table, np.array([0, table.shape[1]]))[0]


def _opened(data: bytes | memoryview, columns: int) -> tuple[memoryview, int]:
    """The bytes of a table without compression, and its rows."""
    view = memoryview(data)
    if len(view) < 1 or view[0] > 1:
        raise FormatError("a packed table starts with neither 0 nor 1")
    body: memoryview = view[1:]
    if view[0]:
        try:
            body = memoryview(zstd_decompress(body, _MAX_BYTES))
        except FormatError as e:
            raise FormatError(f"a packed table is not valid zstd: {e}") from e
    if len(body) < 4:
        raise FormatError("a packed table is cut off")
    rows = int.from_bytes(body[:4], "little")
    if rows * columns * 8 > _MAX_BYTES:
        raise FormatError(f"a packed table claims {rows} rows")
    return body, rows


def unpack(data: bytes | memoryview, columns: int) -> NDArray[np.uint64]:
    """The table as uint64 (columns, rows).

    Raises
    ------
    FormatError
        If the bytes are not such a table.
    """
    body, rows = _opened(data, columns)
    table = np.empty((columns, rows), np.uint64)
    buf = np.frombuffer(body, np.uint8)
    buf.flags.writeable = False
    if not _unpack(buf, table):
        raise FormatError("a packed table is cut off")
    return table


def unpack_groups(data: Sequence[bytes | memoryview], columns: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Many tables in one compiled call; the inverse of `pack_groups`.

    Returns
    -------
    table, starts
        uint64 (columns, rows) of all, and int64 (groups + 1,): where each begins and ends.

    Raises
    ------
    FormatError
        As `unpack`.

    Examples
    --------
    >>> packed = pack_groups(np.arange(6, dtype=np.uint64).reshape(2, 3), np.array([0, 1, 3]))
    >>> table, starts = unpack_groups(packed, 2)
    >>> table.tolist(), starts.tolist()
    ([[0, 1, 2], [3, 4, 5]], [0, 1, 3])
    """
    opened = [_opened(part, columns) for part in data]
    starts = np.array([0, *itertools.accumulate(rows for _, rows in opened)], np.int64)
    edges = np.array([0, *itertools.accumulate(len(body) for body, _ in opened)], np.int64)
    table = np.empty((columns, int(starts[-1])), np.uint64)
    buf = np.frombuffer(b"".join(body for body, _ in opened), np.uint8)
    if not _unpack_groups(buf, edges, starts, table):
        raise FormatError("a packed table is cut off")
    return table, starts
