# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled protobuf wire format of LabelIndex.

Positions of -1 stand for bytes that are no protobuf. Groups (long deprecated) are refused, other unknown fields
skipped; a known field with another wire type is unknown, as the protobuf documentation asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_kernels import grown

Array = Any  # inside compiled code

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


# ------------------------------------------------------------------ writing


@kernel
def _varint_size(v: np.uint64) -> int:
    n = 1
    while v >= np.uint64(128):
        v >>= np.uint64(7)
        n += 1
    return n


@kernel
def _put_varint(out: Array, p: int, v: np.uint64) -> int:
    while v >= np.uint64(128):
        out[U(p)] = np.uint8((v & np.uint64(127)) | np.uint64(128))
        v >>= np.uint64(7)
        p += 1
    out[U(p)] = np.uint8(v)
    return p + 1


@kernel
def pack_keys(blocks: Array, supervoxels: Array, limit: int, keys: Array) -> int:
    """Pack block coordinates (n, 3) z, y, x as the keys of a LabelIndex: a sign bit above 20 bits for each.

    Returns -1 if the rows ascend by block and supervoxel, -2 if they don't or one repeats, or the first row of which a
    magnitude isn't below the limit.
    """
    ascend = True
    before = np.int64(-1)
    for i in range(blocks.shape[0]):
        key = np.uint64(0)
        order = np.int64(0)
        for axis in range(3):
            at = np.int64(blocks[U(i), U(axis)])
            size = -at if at < 0 else at
            if size >= limit:
                return i
            if at < 0:
                size |= np.int64(1 << 20)
            key = (key << np.uint64(21)) | np.uint64(size)
            order = (order << np.int64(21)) | (at + np.int64(1 << 20))
        keys[U(i)] = key
        if order < before or (order == before and supervoxels[U(i)] <= supervoxels[U(i - 1)]):
            ascend = False
        before = order
    return -1 if ascend else -2


@kernel
def encode_blocks(keys: Array, supervoxels: Array, counts: Array, surface: Array) -> Array:
    """The `blocks` field of a LabelIndex, one map entry per run of equal keys.

    `surface` is empty or has one mutation id per row, the same for all rows of a block.
    """
    n = keys.size
    out = np.empty(32 + 16 * n, np.uint8)
    end = 0
    start = 0
    while start < n:
        stop = start
        inner = 0
        while stop < n and keys[U(stop)] == keys[U(start)]:
            inner += 4 + _varint_size(supervoxels[U(stop)]) + _varint_size(np.uint64(counts[U(stop)]))
            stop += 1
        mutid = surface[U(start)] if surface.size > 0 else np.uint64(0)
        if mutid != np.uint64(0):
            inner += 1 + _varint_size(mutid)
        entry = 2 + _varint_size(keys[U(start)]) + _varint_size(np.uint64(inner)) + inner
        out = grown(out, end, end + entry + 11)
        p = end
        out[U(p)] = 0x0A
        p = _put_varint(out, p + 1, np.uint64(entry))
        out[U(p)] = 0x08
        p = _put_varint(out, p + 1, keys[U(start)])
        out[U(p)] = 0x12
        p = _put_varint(out, p + 1, np.uint64(inner))
        for i in range(start, stop):
            sv, count = supervoxels[U(i)], np.uint64(counts[U(i)])
            out[U(p)] = 0x0A
            # at most 2 + 10 + 5 bytes: the length is one byte
            out[U(p + 1)] = np.uint8(2 + _varint_size(sv) + _varint_size(count))
            out[U(p + 2)] = 0x08
            p = _put_varint(out, p + 3, sv)
            out[U(p)] = 0x10
            p = _put_varint(out, p + 1, count)
        if mutid != np.uint64(0):
            out[U(p)] = 0x10
            p = _put_varint(out, p + 1, mutid)
        end = p
        start = stop
    return out[:end]


# ------------------------------------------------------------------ reading


@kernel
def _varint(buf: Array, p: int, end: int) -> tuple[np.uint64, int]:
    if p < end and buf[U(p)] < 128:
        return np.uint64(buf[U(p)]), p + 1
    value = np.uint64(0)
    for k in range(10):
        if p >= end:
            return value, -1
        byte = np.uint64(buf[U(p)])
        p += 1
        if k == 9 and byte > np.uint64(1):
            return value, -1
        value |= (byte & np.uint64(127)) << np.uint64(7 * k)
        if byte < np.uint64(128):
            return value, p
    return value, -1


@kernel
def field(buf: Array, p: int, end: int) -> tuple[int, int, np.uint64, int, int]:
    """The field at p: (number, wire type, value of a varint, start of its bytes, end); the end is -1 if bad."""
    zero = np.uint64(0)
    tag, p = _varint(buf, p, end)
    if p < 0 or tag > np.uint64(0xFFFFFFFF) or tag < np.uint64(8):
        return 0, 0, zero, 0, -1
    number = np.int64(tag >> np.uint64(3))
    wire = np.int64(tag & np.uint64(7))
    if wire == VARINT:
        value, after = _varint(buf, p, end)
        return number, wire, value, p, after
    length = np.int64(0)
    if wire == BYTES:
        size, p = _varint(buf, p, end)
        if p < 0 or size > np.uint64(end - p):
            return 0, 0, zero, 0, -1
        length = np.int64(size)
    elif wire == FIXED64:
        length = np.int64(8)
    elif wire == FIXED32:
        length = np.int64(4)
    else:
        return 0, 0, zero, 0, -1
    if p + length > end:
        return 0, 0, zero, 0, -1
    return number, wire, zero, p, p + length


@kernel
def _count_entry(buf: Array, p: int, end: int) -> tuple[np.uint64, np.uint32, int]:
    """Key and value of one entry of SVCount.counts."""
    sv = np.uint64(0)
    count = np.uint32(0)
    while p < end:
        number, wire, value, _, p = field(buf, p, end)
        if p < 0:
            return sv, count, -1
        if wire == VARINT and number == 1:
            sv = value
        elif wire == VARINT and number == 2:
            count = np.uint32(value & np.uint64(0xFFFFFFFF))
    return sv, count, p


@kernel
def count_rows(buf: Array) -> int:
    """Entries of SVCount.counts in a LabelIndex, -1 if it is none."""
    rows = 0
    p = 0
    while p < buf.size:
        number, wire, _, start, p = field(buf, p, buf.size)
        if p < 0:
            return -1
        if wire == BYTES and number == 1:
            q = start
            while q < p:
                number, wire, _, start, q = field(buf, q, p)
                if q < 0:
                    return -1
                if wire == BYTES and number == 2:
                    r = start
                    while r < q:
                        number, wire, _, start, r = field(buf, r, q)
                        if r < 0:
                            return -1
                        rows += wire == BYTES and number == 1
    return rows


@kernel
def _read_sv_count(
    buf: Array, p: int, end: int, supervoxels: Array, counts: Array, n: int, mutid: np.uint64
) -> tuple[int, np.uint64]:
    """Rows of an SVCount from row n on; returns the next row, -1 if bad, and the surface mutation id."""
    while p < end:
        number, wire, value, start, p = field(buf, p, end)
        if wire == VARINT and number == 2:
            mutid = value
        elif wire == BYTES and number == 1:
            sv, count, done = _count_entry(buf, start, p)
            if done < 0:
                return -1, mutid
            supervoxels[U(n)] = sv
            counts[U(n)] = count
            n += 1
    return n, mutid


@kernel
def decode(
    buf: Array, entries: Array, keys: Array, supervoxels: Array, counts: Array, surface: Array, texts: Array
) -> tuple[bool, np.uint64, np.uint64]:
    """Rows and metadata of a LabelIndex that `count_rows` has walked through, into arrays of that many rows.

    Rows are in order of the bytes; an entry is one occurrence of the `blocks` field; `texts` (3, 2) takes start and
    end of the three texts. Returns (whether all was read, label, last mutid).
    """
    label = np.uint64(0)
    last_mutid = np.uint64(0)
    n = 0
    entry = 0
    p = 0
    while p < buf.size:
        number, wire, value, start, p = field(buf, p, buf.size)
        if wire == VARINT and number == 2:
            label = value
        elif wire == VARINT and number == 3:
            last_mutid = value
        elif wire == BYTES and 4 <= number <= 6:
            texts[number - 4, 0] = start
            texts[number - 4, 1] = p
        elif wire == BYTES and number == 1:
            first = n
            key = np.uint64(0)
            mutid = np.uint64(0)
            q = start
            while q < p:
                number, wire, value, start, q = field(buf, q, p)
                if wire == VARINT and number == 1:
                    key = value
                elif wire == BYTES and number == 2:
                    n, mutid = _read_sv_count(buf, start, q, supervoxels, counts, n, mutid)
                    if n < 0:
                        return False, label, last_mutid
            for i in range(first, n):
                entries[U(i)] = entry
                keys[U(i)] = key
                surface[U(i)] = mutid
            entry += 1
    return True, label, last_mutid
