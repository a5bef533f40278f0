# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.label_blocks` that read blocks; all check what they read."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_kernels import SUB_VOXELS, bits_for, get16, get32, largest, sort_order, unpack

Array = Any  # inside compiled code

# what they tell of a block
OK = 0
BAD_LENGTH = 1
BAD_COUNT = 2
BAD_INDEX = 3
BAD_VALUE = 4


@kernel
def sections(buf: Array, nsub: int, nlabels: int) -> tuple[int, int, int]:
    """(result, start of the indices, start of the values) after checking every section against the length."""
    counts = 16 + 8 * nlabels
    indices = counts + 2 * nsub
    if indices > buf.size:
        return BAD_LENGTH, 0, 0
    total = 0
    nbytes = 0
    for s in range(nsub):
        n = get16(buf, counts + 2 * s)
        if n > SUB_VOXELS:
            return BAD_COUNT, 0, 0
        total += n
        nbytes += 64 * bits_for(n)
    values = indices + 4 * total
    if values + nbytes > buf.size:
        return BAD_LENGTH, 0, 0
    return OK, indices, values


@kernel
def sub_table(buf: Array, p: int, n: int, table: Array, zero: Any, local: Array) -> bool:
    """Resolve the n indices at p through the block's table; false if one is out of range."""
    if n == 0:
        local[0] = zero
        return True
    for k in range(n):
        i = get32(buf, p + 4 * k)
        if i >= table.size:
            return False
        local[U(k)] = table[U(i)]
    return True


@kernel
def check(buf: Array, gz: int, gy: int, gx: int, nlabels: int) -> int:
    """Whether every voxel of a block with more than one table entry can be decoded."""
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, nlabels)
    if result != OK:
        return result
    index = np.empty(SUB_VOXELS, np.uint16)
    counts = 16 + 8 * nlabels
    for s in range(nsub):
        n = get16(buf, counts + 2 * s)
        for k in range(n):
            if get32(buf, at + 4 * k) >= nlabels:
                return BAD_INDEX
        at += 4 * n
        if n > 1:
            bits = bits_for(n)
            if n != 1 << bits:
                unpack(buf, vat, bits, index)
                if largest(index) >= n:
                    return BAD_VALUE
            vat += 64 * bits
    return OK


@kernel
def fill_box(out: Array, base: int, sz: int, sy: int, nz: int, ny: int, nx: int, value: Any) -> None:
    """Set a box of the flat array."""
    for z in range(nz):
        for y in range(ny):
            row = base + z * sz + y * sy
            for x in range(nx):
                out[U(row + x)] = value


@kernel
def decode_box(
    buf: Array,
    gz: int,
    gy: int,
    gx: int,
    table: Array,
    zero: Any,
    out: Array,
    base: int,
    sz: int,
    sy: int,
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
) -> int:
    """Write the voxels in [start, stop) (zyx, inside the block) to out, resolved through `table`.

    out[base] is the voxel at start. `table` has one value of any type per entry of the block's table.
    Sub-blocks outside the box are skipped over.
    """
    nlabels = table.size
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, nlabels)
    if result != OK:
        return result
    index = np.empty(SUB_VOXELS, np.uint16)
    local = np.empty(SUB_VOXELS, table.dtype)
    counts = 16 + 8 * nlabels
    for s in range(nsub):
        n = get16(buf, counts + 2 * s)
        bits = bits_for(n)
        z0 = 8 * (s // (gy * gx))
        y0 = 8 * ((s // gx) % gy)
        x0 = 8 * (s % gx)
        za, zb = max(z0, start[0]), min(z0 + 8, stop[0])
        ya, yb = max(y0, start[1]), min(y0 + 8, stop[1])
        xa, xb = max(x0, start[2]), min(x0 + 8, stop[2])
        if za < zb and ya < yb and xa < xb:
            if not sub_table(buf, at, n, table, zero, local):
                return BAD_INDEX
            whole = zb - za == 8 and yb - ya == 8 and xb - xa == 8
            corner = base + (za - start[0]) * sz + (ya - start[1]) * sy + (xa - start[2])
            if n <= 1:
                if whole:
                    fill_box(out, corner, sz, sy, 8, 8, 8, local[0])
                else:
                    fill_box(out, corner, sz, sy, zb - za, yb - ya, xb - xa, local[0])
            else:
                unpack(buf, vat, bits, index)
                if n != 1 << bits and largest(index) >= n:
                    return BAD_VALUE
                if whole:
                    for z in range(8):
                        for y in range(8):
                            row = corner + z * sz + y * sy
                            t = 64 * z + 8 * y
                            for x in range(8):
                                out[U(row + x)] = local[U(index[U(t + x)])]
                else:
                    for z in range(za, zb):
                        for y in range(ya, yb):
                            row = corner + (z - za) * sz + (y - ya) * sy
                            t = 64 * (z - z0) + 8 * (y - y0) + (xa - x0)
                            for x in range(xb - xa):
                                out[U(row + x)] = local[U(index[U(t + x)])]
        at += 4 * n
        vat += 64 * bits
    return OK


@kernel
def pick(buf: Array, gz: int, gy: int, gx: int, table: Array, points: Array, out: Array) -> int:
    """Write the label at each point (zyx, inside the block) to out; sub-blocks without a point are not looked into."""
    nlabels = table.size
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, nlabels)
    if result != OK:
        return result
    counts = 16 + 8 * nlabels
    tables = np.empty(nsub, np.int64)
    values = np.empty(nsub, np.int64)
    for s in range(nsub):
        n = get16(buf, counts + 2 * s)
        tables[s], values[s] = at, vat
        at += 4 * n
        vat += 64 * bits_for(n)
    for i in range(points.shape[0]):
        z, y, x = points[i, 0], points[i, 1], points[i, 2]
        s = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
        n = get16(buf, counts + 2 * s)
        if n == 0:
            out[i] = 0
            continue
        index = 0
        if n > 1:
            bits = bits_for(n)
            bit = (64 * (z & 7) + 8 * (y & 7) + (x & 7)) * bits  # highest bit first
            byte = values[s] + (bit >> 3)
            word = np.int64(buf[U(byte)]) << 8
            if byte + 1 < buf.size:
                word |= np.int64(buf[U(byte + 1)])
            index = (word >> (16 - (bit & 7) - bits)) & ((1 << bits) - 1)
            if index >= n:
                return BAD_VALUE
        entry = get32(buf, tables[s] + 4 * index)
        if entry >= nlabels:
            return BAD_INDEX
        out[i] = table[U(entry)]
    return OK


@kernel
def count_entries(buf: Array, gz: int, gy: int, gx: int, counts: Array) -> tuple[int, int]:
    """Add the voxels of each table entry to counts; returns (result, voxels in sub-blocks without any label)."""
    nlabels = counts.size
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, nlabels)
    if result != OK:
        return result, 0
    index = np.empty(SUB_VOXELS, np.uint16)
    histogram = np.empty(SUB_VOXELS, np.int64)
    sizes = 16 + 8 * nlabels
    empty = 0
    for s in range(nsub):
        n = get16(buf, sizes + 2 * s)
        if n == 0:
            empty += SUB_VOXELS
            continue
        for k in range(n):
            if get32(buf, at + 4 * k) >= nlabels:
                return BAD_INDEX, 0
        if n == 1:
            counts[U(get32(buf, at))] += SUB_VOXELS
        else:
            bits = bits_for(n)
            unpack(buf, vat, bits, index)
            if n != 1 << bits and largest(index) >= n:
                return BAD_VALUE, 0
            if n <= 32:
                rest = SUB_VOXELS
                for k in range(n - 1):
                    c = 0
                    key = np.uint16(k)
                    for i in range(SUB_VOXELS):
                        c += index[i] == key
                    histogram[k] = c
                    rest -= c
                histogram[n - 1] = rest
            else:
                histogram[:n] = 0
                for i in range(SUB_VOXELS):
                    histogram[U(index[U(i)])] += 1
            for k in range(n):
                counts[U(get32(buf, at + 4 * k))] += histogram[U(k)]
            vat += 64 * bits
        at += 4 * n
    return OK, empty


@kernel
def merge_counts(labels: Array, counts: Array) -> tuple[Array, Array]:
    """Ascending distinct labels with their summed counts; entries without a voxel are dropped."""
    order = sort_order(labels, labels.size)
    out_labels = np.empty(labels.size, np.uint64)
    out_counts = np.empty(labels.size, np.int64)
    n = 0
    for i in range(labels.size):
        k = order[U(i)]
        if counts[U(k)] == 0:
            continue
        if n > 0 and out_labels[U(n - 1)] == labels[U(k)]:
            out_counts[U(n - 1)] += counts[U(k)]
        else:
            out_labels[U(n)] = labels[U(k)]
            out_counts[U(n)] = counts[U(k)]
            n += 1
    return out_labels[:n], out_counts[:n]
