# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.binary_blocks`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_block_kernels import BAD_INDEX, BAD_VALUE, OK, sections, sub_table
from dvid_dask.formats._label_kernels import SUB_VOXELS, bits_for, get16, largest, unpack

Array = Any  # inside compiled code


@kernel
def encode(buf: Array, gz: int, gy: int, gx: int, hits: Array, zero: Any, out: Array) -> tuple[int, int, int]:
    """Flags and masks of a label block's sub-blocks; returns (result, bytes written, foreground voxels)."""
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, hits.size)
    if result != OK:
        return result, 0, 0
    index = np.empty(SUB_VOXELS, np.uint16)
    local = np.empty(SUB_VOXELS, np.bool_)
    counts = 16 + 8 * hits.size
    p = 0
    voxels = 0
    for s in range(nsub):
        n = get16(buf, counts + 2 * s)
        bits = bits_for(n)
        if not sub_table(buf, at, n, hits, zero, local):
            return BAD_INDEX, 0, 0
        found = 0
        if n <= 1:
            found = SUB_VOXELS if local[0] else 0
        else:
            unpack(buf, vat, bits, index)
            if n != 1 << bits and largest(index) >= n:
                return BAD_VALUE, 0, 0
            for j in range(64):
                byte = np.uint8(0)
                for k in range(8):
                    if local[U(index[U(8 * j + k)])]:
                        byte |= np.uint8(1) << np.uint8(k)
                        found += 1
                out[U(p + 1 + j)] = byte
        voxels += found
        if found == 0:
            out[U(p)] = 0
            p += 1
        elif found == SUB_VOXELS:
            out[U(p)] = 1
            p += 1
        else:
            out[U(p)] = 2
            p += 65
        at += 4 * n
        vat += 64 * bits
    return OK, p, voxels


@kernel
def decode(buf: Array, at: int, mask: Array) -> int:
    """Read the sub-blocks of a block at `at` into the mask; returns the end, -1 if they can't be read."""
    nz, ny, nx = mask.shape
    for z in range(0, nz, 8):
        for y in range(0, ny, 8):
            for x in range(0, nx, 8):
                if at >= buf.size:
                    return -1
                flag = buf[U(at)]
                at += 1
                if flag > 2 or (flag == 2 and at + 64 > buf.size):
                    return -1
                for j in range(64):
                    byte = np.int64(buf[U(at + j)]) if flag == 2 else np.int64(255 * flag)
                    for k in range(8):
                        mask[z + (j >> 3), y + (j & 7), x + k] = (byte >> k) & 1 != 0
                if flag == 2:
                    at += 64
    return at
