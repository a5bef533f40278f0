# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""What the compiled loops over labels share: numbers in bytes, packed values, tables of labels in order.

All kernels release the GIL. Volumes come as one flat array plus strides in elements, x contiguous, so that the inner
loops over a row of eight voxels become vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel

Array = Any  # inside compiled code

SUB_VOXELS = 512
#: Spreads labels over a table of hashes.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


# ------------------------------------------------------------------ little-endian reads and writes on bytes


@kernel
def get16(buf: Array, p: int) -> int:
    return np.int64(buf[U(p)]) | (np.int64(buf[U(p + 1)]) << 8)


@kernel
def get32(buf: Array, p: int) -> int:
    return (
        np.int64(buf[U(p)])
        | (np.int64(buf[U(p + 1)]) << 8)
        | (np.int64(buf[U(p + 2)]) << 16)
        | (np.int64(buf[U(p + 3)]) << 24)
    )


@kernel
def put(buf: Array, p: int, value: np.uint64, nbytes: int) -> int:
    for k in range(nbytes):
        buf[U(p + k)] = np.uint8((value >> np.uint64(8 * k)) & np.uint64(0xFF))
    return p + nbytes


@kernel
def bits_for(n: int) -> int:
    """Bits per voxel of a sub-block with n labels: ceil(log2(n))."""
    bits = 0
    while (1 << bits) < n:
        bits += 1
    return bits


# ------------------------------------------------------------------ packed values: MSB first, 512 * bits bits


@kernel
def pack(index: Array, bits: int, out: Array, p: int) -> int:
    """Append 512 indices of `bits` bits to out at p; returns the new end."""
    if bits == 1:
        for j in range(64):
            i = 8 * j
            b = np.uint64(0)
            for k in range(8):
                b |= np.uint64(index[U(i + k)]) << np.uint64(7 - k)
            out[U(p + j)] = np.uint8(b)
    elif bits == 2:
        for j in range(128):
            i = 4 * j
            b = np.uint64(0)
            for k in range(4):
                b |= np.uint64(index[U(i + k)]) << np.uint64(6 - 2 * k)
            out[U(p + j)] = np.uint8(b)
    elif bits == 4:
        for j in range(256):
            out[U(p + j)] = np.uint8((np.uint64(index[U(2 * j)]) << np.uint64(4)) | np.uint64(index[U(2 * j + 1)]))
    elif bits <= 8:
        b = np.uint64(bits)
        q = p
        for j in range(64):
            w = np.uint64(0)
            for k in range(8):
                w = (w << b) | np.uint64(index[U(8 * j + k)])
            for m in range(bits):
                out[U(q)] = np.uint8((w >> np.uint64(8 * (bits - 1 - m))) & np.uint64(0xFF))
                q += 1
    else:
        acc = np.uint64(0)
        held = 0
        q = p
        for i in range(SUB_VOXELS):
            acc = (acc << np.uint64(bits)) | np.uint64(index[U(i)])
            held += bits
            while held >= 8:
                held -= 8
                out[U(q)] = np.uint8((acc >> np.uint64(held)) & np.uint64(0xFF))
                q += 1
    return p + 64 * bits


@kernel
def unpack(buf: Array, p: int, bits: int, index: Array) -> None:
    """The 512 values of `bits` (1 to 9) bits at p as uint16. The caller has checked the length."""
    if bits == 1:
        for j in range(64):
            b = np.uint16(buf[U(p + j)])
            for k in range(8):
                index[U(8 * j + k)] = (b >> np.uint16(7 - k)) & np.uint16(1)
    elif bits == 2:
        for j in range(128):
            b = np.uint16(buf[U(p + j)])
            for k in range(4):
                index[U(4 * j + k)] = (b >> np.uint16(6 - 2 * k)) & np.uint16(3)
    elif bits == 4:
        for j in range(256):
            b = np.uint16(buf[U(p + j)])
            index[U(2 * j)] = b >> np.uint16(4)
            index[U(2 * j + 1)] = b & np.uint16(15)
    elif bits <= 8:
        mask = np.uint64((1 << bits) - 1)
        for j in range(64):
            w = np.uint64(0)
            for m in range(bits):
                w = (w << np.uint64(8)) | np.uint64(buf[U(p + j * bits + m)])
            for k in range(8):
                index[U(8 * j + k)] = np.uint16((w >> np.uint64(bits * (7 - k))) & mask)
    else:
        mask = np.uint64((1 << bits) - 1)
        acc = np.uint64(0)
        held = 0
        q = p
        for i in range(SUB_VOXELS):
            while held < bits:
                acc = (acc << np.uint64(8)) | np.uint64(buf[U(q)])
                q += 1
                held += 8
            held -= bits
            index[U(i)] = np.uint16((acc >> np.uint64(held)) & mask)


@kernel
def largest(index: Array) -> int:
    top = np.uint16(0)
    for i in range(SUB_VOXELS):
        top = max(top, index[U(i)])
    return np.int64(top)


# ------------------------------------------------------------------ tables of labels


@kernel
def sort_order(labels: Array, n: int) -> Array:
    """Positions of the first n labels in ascending order of label."""
    if n > 64:
        return np.argsort(labels[:n])
    order = np.empty(n, np.int64)
    for i in range(n):
        j = i
        while j > 0 and labels[U(order[U(j - 1)])] > labels[U(i)]:
            order[U(j)] = order[U(j - 1)]
            j -= 1
        order[U(j)] = i
    return order


@kernel
def grown(array: Array, used: int, need: int) -> Array:
    """The array with room for `need` elements; the first `used` are kept."""
    if need <= array.size:
        return array
    bigger = np.empty(max(need, 2 * array.size), array.dtype)
    bigger[:used] = array[:used]
    return bigger
