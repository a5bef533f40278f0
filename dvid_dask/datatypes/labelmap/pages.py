"""A page of a large body's index: the rows of a region of 16 x 16 x 16 blocks.

A page of few rows is one packed table. A larger one is cut into parts between blocks, each packed by itself, so that an
edit unpacks and packs the parts whose blocks it changes, some hundred rows, and copies the bytes of the others::

    uint8   2 (a packed table begins with 0 or 1)
    uint16  parts, little-endian as all that follows
    per part: uint16 first block in the region, z << 8 | y << 4 | x; uint32 bytes;
              uint64 smallest and uint64 largest supervoxel
    the packed tables

Rows are sorted by block (z, y, x) and supervoxel. Pages of earlier releases are one table however large: they are read
as they are, and cut when they are changed.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap.columns import pack_groups, rows_with, unpack, unpack_groups
from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.datatypes.labelmap.rows import COLUMNS, Rows, overlay_table
from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Change", "change_page", "page_rows", "page_rows_of", "page_table", "write_page"]

_PARTS = 2
_HEAD = struct.Struct("<BH")
_ENTRY = struct.Struct("<HIQQ")

PART = 512
"""Rows of a part, when a page is cut."""

MOST = 1024
"""Most rows of a part that consists of more than one block."""

LEAST = 64
"""A part of fewer rows joins its neighbour."""

_NO_ROWS = np.empty((COLUMNS, 0), np.uint64)

Part = tuple[int, int, int, bytes]
"""Place of the first block, smallest and largest supervoxel, packed rows."""


@dataclass
class Change:
    """What `change_page` did.

    Attributes
    ----------
    value
        The new page; None if no row is left.
    rows, voxels, blocks
        How many more than before.
    change
        int64: voxels more than before, for each of the new rows.
    """

    value: bytes | None
    rows: int
    voxels: int
    blocks: int
    change: NDArray[np.int64]


def page_table(value: bytes) -> NDArray[np.uint64]:
    """The rows of a page as `Rows.table`."""
    if value[:1] != b"\x02":
        return unpack(value, COLUMNS)
    return _unpacked(_parts(value))


def page_rows(value: bytes) -> Rows:
    """The rows of a page."""
    return Rows.from_table(page_table(value))


def page_rows_of(value: bytes, wanted: NDArray[np.uint64]) -> Rows:
    """The rows of a page whose supervoxel is one of the wanted, which ascend."""
    if value[:1] != b"\x02":
        table = unpack(value, COLUMNS)
    else:
        ends = wanted.tolist()
        parts = [p for p in _parts(value) if bisect_left(ends, p[1]) < bisect_right(ends, p[2])]
        table = _unpacked(parts) if parts else _NO_ROWS
    return Rows.from_table(np.ascontiguousarray(table[:, rows_with(table[3], wanted)]))


def write_page(table: NDArray[np.uint64]) -> bytes:
    """A page of these sorted rows, one at least."""
    parts = _cut(table)
    return parts[0][3] if len(parts) == 1 else _joined(parts)


def change_page(value: bytes | None, new: NDArray[np.uint64], surface: int | None) -> Change:
    """Set counts of (block, supervoxel) pairs of one page; see `overlay_table`.

    Parameters
    ----------
    value
        The page; None if there is none.
    new
        uint64 (6, m): sorted rows of its region; a count of 0 removes a pair.
    surface
        Mutation id to mark the blocks with.
    """
    if value is None or value[:1] != b"\x02":
        before = _NO_ROWS if value is None else unpack(value, COLUMNS)
        done = overlay_table(before, new, surface)
        rows = done.table.shape[1]
        page = write_page(done.table) if rows else None
        return Change(page, rows - before.shape[1], done.voxels, done.blocks, done.change)
    parts = _parts(value)
    firsts = [part[0] for part in parts]
    found = Change(None, 0, 0, 0, np.zeros(new.shape[1], np.int64))
    numbers = [max(bisect_right(firsts, place) - 1, 0) for place in _places(new).tolist()]
    at = 0
    replaced: dict[int, tuple[list[Part], bool]] = {}
    for number, group in groupby(numbers):
        begin, at = at, at + sum(1 for _ in group)
        before = unpack(parts[number][3], COLUMNS)
        done = overlay_table(before, new[:, begin:at], surface)
        rows = done.table.shape[1]
        found.rows += rows - before.shape[1]
        found.voxels += done.voxels
        found.blocks += done.blocks
        found.change[begin:at] = done.change
        replaced[number] = _cut(done.table) if rows else [], 0 < rows < LEAST
    after: list[Part] = []
    thin: list[int] = []
    for i, old in enumerate(parts):
        changed, is_thin = replaced.get(i, ([old], False))
        if is_thin:
            thin.append(len(after))
        after += changed
    for i in reversed(thin):  # who takes rows out again and again leaves no crumbs
        first = max(i - 1, 0)
        after[first : first + 2] = _cut(_unpacked(after[first : first + 2]))
    if after:
        found.value = after[0][3] if len(after) == 1 else _joined(after)
    return found


def _places(table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Where the blocks of rows lie in their region; coordinates of tables are shifted by a multiple of 16."""
    z, y, x = table[:3] & np.uint64(15)
    places: NDArray[np.uint64] = z << np.uint64(8) | y << np.uint64(4) | x
    return places


@kernel
def _edges(table: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """Where to cut sorted rows into parts of about so many, between blocks; with both ends."""
    n = table.shape[1]
    edges = np.empty(n // size + 2, np.int64)
    edges[0] = 0
    count = 1
    for i in range(size, n):
        if i - edges[count - 1] >= size and (
            table[2, i] != table[2, i - 1] or table[1, i] != table[1, i - 1] or table[0, i] != table[0, i - 1]
        ):
            edges[count] = i
            count += 1
    edges[count] = n
    return edges[: count + 1]


def _cut(table: NDArray[np.uint64]) -> list[Part]:
    """Parts of sorted rows, one at least."""
    rows = table.shape[1]
    if rows <= MOST:
        return [_part(table, pack_groups(table, np.array([0, rows]))[0])]
    edges = _edges(np.ascontiguousarray(table), -(-rows // -(-rows // PART)))
    packed = pack_groups(table, edges)
    return [_part(table[:, a:b], data) for (a, b), data in zip(pairwise(edges.tolist()), packed, strict=True)]


@kernel
def _span(table: NDArray[np.uint64]) -> tuple[np.uint64, np.uint64]:
    """Smallest and largest supervoxel."""
    low = high = table[3, 0]
    for i in range(1, table.shape[1]):
        low = min(low, table[3, i])
        high = max(high, table[3, i])
    return low, high


def _part(table: NDArray[np.uint64], packed: bytes) -> Part:
    z, y, x = table[:3, 0].tolist()
    low, high = _span(table)
    return (z & 15) << 8 | (y & 15) << 4 | x & 15, int(low), int(high), packed


def _unpacked(parts: list[Part]) -> NDArray[np.uint64]:
    if len(parts) == 1:
        return unpack(parts[0][3], COLUMNS)
    return unpack_groups([part[3] for part in parts], COLUMNS)[0]


def _parts(value: bytes) -> list[Part]:
    """Parts of a page."""
    if len(value) >= _HEAD.size:
        _, count = _HEAD.unpack_from(value)
        at = _HEAD.size + count * _ENTRY.size
        if count and len(value) >= at:
            found: list[Part] = []
            for first, length, low, high in _ENTRY.iter_unpack(value[_HEAD.size : at]):
                found.append((first, low, high, value[at : at + length]))
                at += length
            if at == len(value):
                return found
    raise DamagedDataError("the label index: a page is cut off")


def _joined(parts: list[Part]) -> bytes:
    entries = [_ENTRY.pack(first, len(data), low, high) for first, low, high, data in parts]
    return b"".join([_HEAD.pack(_PARTS, len(parts)), *entries, *(data for _, _, _, data in parts)])
