# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.compressed_segmentation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_block_kernels import BAD_INDEX as BLOCK_BAD_INDEX
from dvid_dask.formats._label_block_kernels import BAD_VALUE as BLOCK_BAD_VALUE
from dvid_dask.formats._label_block_kernels import sections
from dvid_dask.formats._label_encoder_kernels import few_labels, is_uniform, load_tile, many_labels
from dvid_dask.formats._label_kernels import SUB_VOXELS, bits_for, get16, get32, grown, largest, unpack

Array = Any  # inside compiled code

OK = 0
BAD_BITS = 1
BAD_OFFSET = 2
TOO_LARGE = 100  # apart from the results of the kernels of label blocks


@kernel
def _storage_bits(n: int) -> int:
    """Bits per voxel for n labels: 0, 1, 2, 4, 8 or 16."""
    need = bits_for(n)
    if need == 0:
        return 0
    bits = 1
    while bits < need:
        bits *= 2
    return bits


@kernel
def _pack(index: Array, bits: int, out: Array, p: int) -> int:
    """Append the 512 indices, least significant bits first, to the words of out at p; returns the new end."""
    per_word = 32 // bits
    b = np.uint64(bits)
    for j in range(16 * bits):
        word = np.uint64(0)
        for k in range(per_word):
            word |= np.uint64(index[U(j * per_word + k)]) << (b * np.uint64(k))
        out[U(p + j)] = np.uint32(word)
    return p + 16 * bits


@kernel
def encode(mem: Array, sz: int, sy: int, gz: int, gy: int, gx: int) -> tuple[int, Array]:
    """The channel's words, without the leading channel offset."""
    nsub = gz * gy * gx
    tile = np.empty(SUB_VOXELS, np.uint64)
    words = np.empty(64, np.uint64)
    index8 = words.view(np.uint8)
    index16 = np.empty(SUB_VOXELS, np.uint16)
    slots = np.empty(1024, np.int16)
    table = np.empty(SUB_VOXELS, np.uint64)
    counts = np.empty(SUB_VOXELS, np.int64)
    out = np.empty(6 * nsub + 1024, np.uint32)
    end = 2 * nsub
    low = np.uint64(0xFFFFFFFF)
    for s in range(nsub):
        at = 8 * (s // (gy * gx)) * sz + 8 * ((s // gx) % gy) * sy + 8 * (s % gx)
        values = end
        bits = 0
        n = 1
        out = grown(out, end, end + 16 * 16 + 2 * SUB_VOXELS)
        if is_uniform(mem, at, sz, sy):
            table[0] = mem[U(at)]
        else:
            load_tile(mem, at, sz, sy, tile)
            n = few_labels(tile, index8, words, table, counts)
            if n > 0:
                bits = _storage_bits(n)
                end = _pack(index8, bits, out, end)
            else:
                n = many_labels(tile, index16, table, counts, slots)
                bits = _storage_bits(n)
                end = _pack(index16, bits, out, end)
        if end >= 1 << 24:
            return TOO_LARGE, out[:0]
        out[U(2 * s)] = np.uint32(end | bits << 24)
        out[U(2 * s + 1)] = np.uint32(values)
        for k in range(n):
            out[U(end)] = np.uint32(table[U(k)] & low)
            out[U(end + 1)] = np.uint32(table[U(k)] >> np.uint64(32))
            end += 2
    return OK, out[:end]


@kernel
def transcode(
    buf: Array, gz: int, gy: int, gx: int, table: Array, first: Array, cz: int, cy: int, cx: int
) -> tuple[int, Array]:
    """The channel's words of the first cz x cy x cx sub-blocks of a label block; as `encode` of its voxels.

    `table` has the label of each entry of the block's table and, last, the 0 of sub-blocks that list none; `first` is
    the first entry with the same label. A label that stands alone in a sub-block is written once for all of them.
    """
    nlabels = table.size - 1
    result, at, vat = sections(buf, gz * gy * gx, nlabels)
    if result != OK:
        return result, np.empty(0, np.uint32)
    index = np.empty(SUB_VOXELS, np.uint16)
    entries = np.empty(SUB_VOXELS, np.int64)  # of a sub-block: its distinct labels
    place = np.empty(SUB_VOXELS, np.uint16)  # where each listed label is among them
    seen_in = np.full(table.size, -1, np.int64)
    seen_at = np.zeros(table.size, np.uint16)
    where = np.full(table.size, -1, np.int64)  # words of a label that is written already
    end = 2 * cz * cy * cx
    out = np.empty(end + 4096, np.uint32)
    counts = 16 + 8 * nlabels
    low = np.uint64(0xFFFFFFFF)
    for s in range(gz * gy * gx):
        n = get16(buf, counts + 2 * s)
        bits = bits_for(n)
        z = s // (gy * gx)
        y = (s // gx) % gy
        x = s % gx
        if z < cz and y < cy and x < cx:
            distinct = 0
            if n == 0:
                entries[0] = first[U(nlabels)]
                distinct = 1
            for k in range(n):
                i = get32(buf, at + 4 * k)
                if i >= nlabels:
                    return BLOCK_BAD_INDEX, out[:0]
                label = first[U(i)]
                if seen_in[U(label)] != s:
                    seen_in[U(label)] = s
                    seen_at[U(label)] = np.uint16(distinct)
                    entries[U(distinct)] = label
                    distinct += 1
                place[U(k)] = seen_at[U(label)]
            out = grown(out, end, end + 16 * 16 + 2 * SUB_VOXELS)
            values = end
            kept = 0
            head = end
            if distinct > 1:
                unpack(buf, vat, bits, index)
                if n != 1 << bits and largest(index) >= n:
                    return BLOCK_BAD_VALUE, out[:0]
                if distinct < n:
                    for j in range(SUB_VOXELS):
                        index[U(j)] = place[U(index[U(j)])]
                kept = _storage_bits(distinct)
                end = _pack(index, kept, out, end)
                head = end
            elif where[U(entries[0])] >= 0:
                head = where[U(entries[0])]
                values = head
                distinct = 0
            if end >= 1 << 24:
                return TOO_LARGE, out[:0]
            o = (z * cy + y) * cx + x
            out[U(2 * o)] = np.uint32(head | kept << 24)
            out[U(2 * o + 1)] = np.uint32(values)
            for k in range(distinct):
                label = entries[U(k)]
                where[U(label)] = end
                out[U(end)] = np.uint32(table[U(label)] & low)
                out[U(end + 1)] = np.uint32(table[U(label)] >> np.uint64(32))
                end += 2
        at += 4 * n
        vat += 64 * bits
    return OK, out[:end]


@kernel
def decode(words: Array, bz: int, by: int, bx: int, out: Array) -> int:
    """Fill out[z, y, x] from the channel's words; blocks at the ends are cut off."""
    nz, ny, nx = out.shape
    gz = -(-nz // bz)
    gy = -(-ny // by)
    gx = -(-nx // bx)
    size = words.size
    if 2 * gz * gy * gx > size:
        return BAD_OFFSET
    for s in range(gz * gy * gx):
        z0 = s // (gy * gx) * bz
        y0 = (s // gx) % gy * by
        x0 = s % gx * bx
        head = np.int64(words[U(2 * s)])
        table = head & 0xFFFFFF
        bits = head >> 24
        values = np.int64(words[U(2 * s + 1)])
        if not (bits == 0 or bits == 1 or bits == 2 or bits == 4 or bits == 8 or bits == 16 or bits == 32):
            return BAD_BITS
        if bits > 0 and values + -(-bz * by * bx * bits // 32) > size:
            return BAD_OFFSET
        mask = (np.int64(1) << bits) - 1
        per_word = 32 // bits if bits > 0 else 1
        for z in range(z0, min(z0 + bz, nz)):
            for y in range(y0, min(y0 + by, ny)):
                row = ((z - z0) * by + (y - y0)) * bx
                for x in range(x0, min(x0 + bx, nx)):
                    index = 0
                    if bits > 0:
                        i = row + x - x0
                        word = np.int64(words[U(values + i // per_word)])
                        index = (word >> (i % per_word * bits)) & mask
                    entry = table + 2 * index
                    if entry + 1 >= size:
                        return BAD_OFFSET
                    out[z, y, x] = np.uint64(words[U(entry)]) | (np.uint64(words[U(entry + 1)]) << np.uint64(32))
    return OK
