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
from dvid_dask.formats._label_block_kernels import grown

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
def decode(
    buf: Array,
) -> tuple[int, Array, Array, Array, Array, Array, np.uint64, np.uint64, Array]:
    """Rows and metadata of a LabelIndex.

    Returns (0 or -1, entry number, key, supervoxel, count, surface mutid, label, last mutid, start and end of the
    three texts). Rows are in order of the bytes; an entry is one occurrence of the `blocks` field.
    """
    entries = np.empty(256, np.int64)
    keys = np.empty(256, np.uint64)
    supervoxels = np.empty(256, np.uint64)
    counts = np.empty(256, np.uint32)
    surface = np.empty(256, np.uint64)
    label = np.uint64(0)
    mutid = np.uint64(0)
    texts = np.zeros((3, 2), np.int64)
    n = 0
    entry = 0
    p = 0
    while p >= 0 and p < buf.size:
        number, wire, value, start, p = field(buf, p, buf.size)
        if p < 0:
            break
        if wire == VARINT and number == 2:
            label = value
        elif wire == VARINT and number == 3:
            mutid = value
        elif wire == BYTES and 4 <= number <= 6:
            texts[number - 4, 0] = start
            texts[number - 4, 1] = p
        elif wire == BYTES and number == 1:
            first = n
            key = np.uint64(0)
            surface_mutid = np.uint64(0)
            q = start
            while q >= 0 and q < p:
                number2, wire2, value2, start2, q = field(buf, q, p)
                if q < 0:
                    break
                if wire2 == VARINT and number2 == 1:
                    key = value2
                elif wire2 == BYTES and number2 == 2:
                    r = start2
                    while r >= 0 and r < q:
                        number3, wire3, value3, start3, r = field(buf, r, q)
                        if r < 0:
                            break
                        if wire3 == VARINT and number3 == 2:
                            surface_mutid = value3
                        elif wire3 == BYTES and number3 == 1:
                            sv, count, done = _count_entry(buf, start3, r)
                            if done < 0:
                                r = -1
                                break
                            if n == counts.size:
                                entries = grown(entries, n, n + 1)
                                keys = grown(keys, n, n + 1)
                                supervoxels = grown(supervoxels, n, n + 1)
                                counts = grown(counts, n, n + 1)
                                surface = grown(surface, n, n + 1)
                            entries[U(n)] = entry
                            supervoxels[U(n)] = sv
                            counts[U(n)] = count
                            n += 1
                    if r < 0:
                        q = -1
            if q < 0:
                p = -1
                break
            for i in range(first, n):
                keys[U(i)] = key
                surface[U(i)] = surface_mutid
            entry += 1
    result = -1 if p < 0 else 0
    return result, entries[:n], keys[:n], supervoxels[:n], counts[:n], surface[:n], label, mutid, texts
