# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.label_blocks` that down-sample, and those over dense volumes of labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_block_kernels import BAD_INDEX, BAD_VALUE, OK, fill_box, sections, sub_table
from dvid_dask.formats._label_kernels import GOLDEN, SUB_VOXELS, bits_for, get16, grown, largest, unpack

Array = Any  # inside compiled code


# ------------------------------------------------------------------ down-sampling


@kernel
def _vote(v: Array) -> np.uint64:
    """The most frequent non-zero of eight labels, the smallest among equals; 0 if all are zero."""
    best = np.uint64(0)
    most = 0
    for i in range(8):
        label = v[i]
        if label == np.uint64(0):
            continue
        c = 0
        for j in range(8):
            c += v[j] == label
        if c > most or (c == most and label < best):
            best = label
            most = c
    return best


@kernel
def downsample_block(
    buf: Array, gz: int, gy: int, gx: int, table: Array, out: Array, base: int, sz: int, sy: int
) -> int:
    """Write the block at half size to out, out[base] being its first voxel."""
    nlabels = table.size
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, nlabels)
    if result != OK:
        return result
    index = np.empty(SUB_VOXELS, np.uint16)
    local = np.empty(SUB_VOXELS, np.uint64)
    eight = np.empty(8, np.uint64)
    counts = 16 + 8 * nlabels
    for s in range(nsub):
        n = get16(buf, counts + 2 * s)
        bits = bits_for(n)
        corner = base + 4 * (s // (gy * gx)) * sz + 4 * ((s // gx) % gy) * sy + 4 * (s % gx)
        if not sub_table(buf, at, n, table, np.uint64(0), local):
            return BAD_INDEX
        if n <= 1:
            fill_box(out, corner, sz, sy, 4, 4, 4, local[0])
        else:
            unpack(buf, vat, bits, index)
            if n != 1 << bits and largest(index) >= n:
                return BAD_VALUE
            for z in range(4):
                for y in range(4):
                    row = corner + z * sz + y * sy
                    for x in range(4):
                        t = 128 * z + 16 * y + 2 * x
                        k = index[U(t)]
                        same = True
                        for m in range(1, 8):
                            j = t + (m & 1) + ((m >> 1) & 1) * 8 + (m >> 2) * 64
                            same &= index[U(j)] == k
                        if same:
                            out[U(row + x)] = local[U(k)]
                        else:
                            for m in range(8):
                                j = t + (m & 1) + ((m >> 1) & 1) * 8 + (m >> 2) * 64
                                eight[m] = local[U(index[U(j)])]
                            out[U(row + x)] = _vote(eight)
        at += 4 * n
        vat += 64 * bits
    return OK


@kernel
def downsample_dense(mem: Array, sz: int, sy: int, nz: int, ny: int, nx: int, out: Array) -> None:
    """Vote over 2 x 2 x 2 voxels into the contiguous array out[z, y, x]; cells at an odd end have fewer voxels."""
    eight = np.empty(8, np.uint64)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                at = 2 * z * sz + 2 * y * sy + 2 * x
                if 2 * z + 1 < nz and 2 * y + 1 < ny and 2 * x + 1 < nx:
                    first = mem[U(at)]
                    differ = (
                        (first ^ mem[U(at + 1)])
                        | (first ^ mem[U(at + sy)])
                        | (first ^ mem[U(at + sy + 1)])
                        | (first ^ mem[U(at + sz)])
                        | (first ^ mem[U(at + sz + 1)])
                        | (first ^ mem[U(at + sz + sy)])
                        | (first ^ mem[U(at + sz + sy + 1)])
                    )
                    if differ == np.uint64(0):
                        out[z, y, x] = first
                        continue
                for m in range(8):
                    dx, dy, dz = m & 1, (m >> 1) & 1, m >> 2
                    inside = 2 * z + dz < nz and 2 * y + dy < ny and 2 * x + dx < nx
                    eight[m] = mem[U(at + dz * sz + dy * sy + dx)] if inside else np.uint64(0)
                out[z, y, x] = _vote(eight)


# ------------------------------------------------------------------ dense arrays


@kernel
def remap_rows(mem: Array, sz: int, sy: int, nz: int, ny: int, nx: int, keys: Array, values: Array) -> None:
    """Replace in place every voxel found in the ascending keys; a run of equal voxels is looked up once."""
    last = np.uint64(0)
    mapped = np.uint64(0)
    known = False
    for z in range(nz):
        for y in range(ny):
            row = z * sz + y * sy
            for x in range(nx):
                v = mem[U(row + x)]
                if not known or v != last:
                    k = np.searchsorted(keys, v)
                    last = v
                    mapped = values[k] if k < keys.size and keys[k] == v else v
                    known = True
                mem[U(row + x)] = mapped


@kernel
def remap_rows_hashed(mem: Array, sz: int, sy: int, nz: int, ny: int, nx: int, keys: Array, values: Array) -> None:
    """`remap_rows` with a hash table of the keys, which pays where there are many more voxels."""
    bits = 4
    while (1 << bits) < 2 * keys.size:
        bits += 1
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    slots = np.full(1 << bits, -1, np.int32)
    for k in range(keys.size):
        h = np.int64((keys[U(k)] * GOLDEN) >> shift)
        while slots[U(h)] >= 0:
            h = (h + 1) & mask
        slots[U(h)] = np.int32(k)
    last = np.uint64(0)
    mapped = np.uint64(0)
    known = False
    for z in range(nz):
        for y in range(ny):
            row = z * sz + y * sy
            for x in range(nx):
                v = mem[U(row + x)]
                if not known or v != last:
                    last = v
                    mapped = v
                    known = True
                    h = np.int64((v * GOLDEN) >> shift)
                    while slots[U(h)] >= 0:
                        k = slots[U(h)]
                        if keys[U(k)] == v:
                            mapped = values[U(k)]
                            break
                        h = (h + 1) & mask
                mem[U(row + x)] = mapped


@kernel
def distinct_rows(mem: Array, sz: int, sy: int, nz: int, ny: int, nx: int) -> Array:
    """Every label once, in order of first appearance; a run of equal voxels is looked up once."""
    bits = 10
    slots = np.full(1 << bits, -1, np.int64)
    table = np.empty(1 << bits, np.uint64)
    n = 0
    last = np.uint64(0)
    for z in range(nz):
        for y in range(ny):
            row = z * sz + y * sy
            for x in range(nx):
                v = mem[U(row + x)]
                if n and v == last:
                    continue
                last = v
                last_slot = (1 << bits) - 1
                h = np.int64((v * GOLDEN) >> np.uint64(64 - bits))
                while slots[U(h)] >= 0 and table[U(slots[U(h)])] != v:
                    h = (h + 1) & last_slot
                if slots[U(h)] >= 0:
                    continue
                slots[U(h)] = n
                table[U(n)] = v
                n += 1
                if 2 * n > last_slot:
                    bits += 1
                    table = grown(table, n, 1 << bits)
                    slots = np.full(1 << bits, -1, np.int64)
                    for k in range(n):
                        h = np.int64((table[U(k)] * GOLDEN) >> np.uint64(64 - bits))
                        while slots[U(h)] >= 0:
                            h = (h + 1) & ((1 << bits) - 1)
                        slots[U(h)] = k
    return table[:n].copy()
