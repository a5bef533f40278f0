# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.label_blocks` that make blocks out of voxels.

The central trick: instead of asking for every voxel which label it has, ask for every label which of the 512 voxels of
a sub-block have it. That is a handful of vector compares per label, and real sub-blocks have one to four labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_kernels import GOLDEN, SUB_VOXELS, bits_for, grown, pack, put, sort_order

Array = Any  # inside compiled code

FEW_LABELS = 24  # above this many labels in a sub-block, hashing beats one pass per label


@kernel
def is_uniform(mem: Array, base: int, sz: int, sy: int) -> bool:
    first = mem[U(base)]
    for z in range(8):
        differ = np.uint64(0)
        for y in range(8):
            row = base + z * sz + y * sy
            for x in range(8):
                differ |= mem[U(row + x)] ^ first
        if differ != np.uint64(0):
            return False
    return True


@kernel
def load_tile(mem: Array, base: int, sz: int, sy: int, tile: Array) -> None:
    for z in range(8):
        for y in range(8):
            row = base + z * sz + y * sy
            t = z * 64 + y * 8
            for x in range(8):
                tile[U(t + x)] = mem[U(row + x)]


@kernel
def few_labels(tile: Array, index: Array, words: Array, table: Array, counts: Array) -> int:
    """Labels of a tile in order of first appearance, one vector pass per label.

    `index` (uint8) and `words` (uint64) are two views of one buffer: a byte of 255 is a voxel without label
    yet, and eight of them are tested at once. Returns -1 when there are more than FEW_LABELS.
    """
    label = tile[0]
    c = 0
    for i in range(SUB_VOXELS):
        same = tile[i] == label
        index[i] = 0 if same else 255
        c += same
    table[0] = label
    counts[0] = c
    total = c
    n = 1
    w = 0
    while total < SUB_VOXELS:
        if n == FEW_LABELS:
            return -1
        while words[U(w)] & np.uint64(0x8080808080808080) == np.uint64(0):
            w += 1
        i = 8 * w
        while index[U(i)] != 255:
            i += 1
        label = tile[U(i)]
        k = np.uint8(n)
        c = 0
        for i in range(SUB_VOXELS):
            same = tile[i] == label
            index[i] = k if same else index[i]
            c += same
        table[n] = label
        counts[n] = c
        total += c
        n += 1
    return n


@kernel
def many_labels(tile: Array, index: Array, table: Array, counts: Array, slots: Array) -> int:
    """As `few_labels`, with a hash table of 1024 slots; index is uint16."""
    slots[:] = -1
    n = 0
    last = tile[0]
    k = -1
    for i in range(SUB_VOXELS):
        label = tile[U(i)]
        if k < 0 or label != last:
            h = np.int64((label * GOLDEN) >> np.uint64(54))
            k = np.int64(slots[U(h)])
            while k >= 0 and table[U(k)] != label:
                h = (h + 1) & 1023
                k = np.int64(slots[U(h)])
            if k < 0:
                k = n
                slots[U(h)] = np.int16(k)
                table[U(k)] = label
                counts[U(k)] = 0
                n += 1
            last = label
        index[U(i)] = np.uint16(k)
        counts[U(k)] += 1
    return n


@kernel
def _distinct(pairs: Array, npairs: int, pair_counts: Array, which: Array, distinct: Array, counts: Array) -> int:
    """Distinct labels of the block with their voxel counts; which[i] = position of pairs[i] among them."""
    bits = 6
    while (1 << bits) < 2 * npairs and bits < 40:
        bits += 1
    slots = np.full(1 << bits, np.int32(-1))
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    n = 0
    for i in range(npairs):
        label = pairs[U(i)]
        h = np.int64((label * GOLDEN) >> shift)
        k = np.int64(slots[U(h)])
        while k >= 0 and distinct[U(k)] != label:
            h = (h + 1) & mask
            k = np.int64(slots[U(h)])
        if k < 0:
            k = n
            slots[U(h)] = np.int32(k)
            distinct[U(k)] = label
            counts[U(k)] = 0
            n += 1
        counts[U(k)] += np.int64(pair_counts[U(i)])
        which[U(i)] = np.int32(k)
    return n


@kernel
def encode_brick(
    mem: Array, sz: int, sy: int, gz: int, gy: int, gx: int, nz: int, ny: int, nx: int, emit: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """Encode nz * ny * nx blocks of gz * gy * gx sub-blocks each, in zyx order of blocks.

    Returns (bytes, offsets of the blocks in them, block number, label, count); the last three are the voxel
    counts, by block and ascending label. `emit` false leaves the bytes out.
    """
    nsub = gz * gy * gx
    voxels = nsub * SUB_VOXELS
    tile = np.empty(SUB_VOXELS, np.uint64)
    words = np.empty(64, np.uint64)
    index8 = words.view(np.uint8)
    index16 = np.empty(SUB_VOXELS, np.uint16)
    slots = np.empty(1024, np.int16)
    table = np.empty(SUB_VOXELS, np.uint64)
    table_counts = np.empty(SUB_VOXELS, np.int64)
    ns = np.empty(nsub, np.int64)
    # worst cases (a label per voxel); pages that aren't touched cost nothing
    pairs = np.empty(voxels, np.uint64)
    pair_counts = np.empty(voxels, np.int32)
    which = np.empty(voxels, np.int32)
    distinct = np.empty(voxels, np.uint64)
    counts = np.empty(voxels, np.int64)
    rank = np.empty(voxels, np.int32)
    values = np.empty(nsub * 576 if emit else 1, np.uint8)

    out = np.empty(1 << 16, np.uint8)
    end = 0
    nblocks = nz * ny * nx
    offsets = np.zeros(nblocks + 1, np.int64)
    row_block = np.empty(1024, np.int32)
    row_label = np.empty(1024, np.uint64)
    row_count = np.empty(1024, np.uint32)
    rows = 0

    for b in range(nblocks):
        bz = b // (ny * nx)
        by = (b // nx) % ny
        bx = b % nx
        origin = bz * gz * 8 * sz + by * gy * 8 * sy + bx * gx * 8
        npairs = 0
        nvalues = 0
        for s in range(nsub):
            z = s // (gy * gx)
            y = (s // gx) % gy
            x = s % gx
            at = origin + z * 8 * sz + y * 8 * sy + x * 8
            if is_uniform(mem, at, sz, sy):
                ns[s] = 1
                pairs[U(npairs)] = mem[U(at)]
                pair_counts[U(npairs)] = SUB_VOXELS
                npairs += 1
                continue
            load_tile(mem, at, sz, sy, tile)
            n = few_labels(tile, index8, words, table, table_counts)
            if n > 0:
                if emit:
                    nvalues = pack(index8, bits_for(n), values, nvalues)
            else:
                n = many_labels(tile, index16, table, table_counts, slots)
                if emit:
                    nvalues = pack(index16, bits_for(n), values, nvalues)
            ns[s] = n
            for k in range(n):
                pairs[U(npairs + k)] = table[U(k)]
                pair_counts[U(npairs + k)] = np.int32(table_counts[U(k)])
            npairs += n

        nlabels = _distinct(pairs, npairs, pair_counts, which, distinct, counts)
        order = sort_order(distinct, nlabels)
        row_block = grown(row_block, rows, rows + nlabels)
        row_label = grown(row_label, rows, rows + nlabels)
        row_count = grown(row_count, rows, rows + nlabels)
        for i in range(nlabels):
            k = order[U(i)]
            rank[U(k)] = np.int32(i)
            row_block[U(rows)] = np.int32(b)
            row_label[U(rows)] = distinct[U(k)]
            row_count[U(rows)] = np.uint32(counts[U(k)])
            rows += 1

        if emit:
            size = 24 if nlabels == 1 else 16 + 8 * nlabels + 2 * nsub + 4 * npairs + nvalues
            out = grown(out, end, end + size)
            p = put(out, end, np.uint64(gx), 4)
            p = put(out, p, np.uint64(gy), 4)
            p = put(out, p, np.uint64(gz), 4)
            p = put(out, p, np.uint64(nlabels), 4)
            for i in range(nlabels):
                p = put(out, p, distinct[U(order[U(i)])], 8)
            if nlabels > 1:
                for s in range(nsub):
                    p = put(out, p, np.uint64(ns[s]), 2)
                for i in range(npairs):
                    p = put(out, p, np.uint64(rank[U(which[U(i)])]), 4)
                out[p : p + nvalues] = values[:nvalues]
            end += size
        offsets[b + 1] = end
    return out[:end], offsets, row_block[:rows], row_label[:rows], row_count[:rows]
