# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.label_blocks`.

All kernels release the GIL. Volumes come as one flat array plus strides in elements, x contiguous, so that
the inner loops over a row of eight voxels become vector instructions.

The central trick of the encoder: instead of asking for every voxel which label it has, ask for every label
which of the 512 voxels of a sub-block have it. That is a handful of vector compares per label, and real
sub-blocks have one to four labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel

Array = Any  # inside compiled code

SUB_VOXELS = 512
FEW_LABELS = 24  # above this many labels in a sub-block, hashing beats one pass per label

# results of kernels that read untrusted blocks
OK = 0
BAD_LENGTH = 1
BAD_COUNT = 2
BAD_INDEX = 3
BAD_VALUE = 4

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


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


# ------------------------------------------------------------------ encoder


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
            h = np.int64((label * _GOLDEN) >> np.uint64(54))
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
        h = np.int64((label * _GOLDEN) >> shift)
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
def grown(array: Array, used: int, need: int) -> Array:
    """The array with room for `need` elements; the first `used` are kept."""
    if need <= array.size:
        return array
    bigger = np.empty(max(need, 2 * array.size), array.dtype)
    bigger[:used] = array[:used]
    return bigger


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


# ------------------------------------------------------------------ decoders: all check what they read


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
        h = np.int64((keys[U(k)] * _GOLDEN) >> shift)
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
                    h = np.int64((v * _GOLDEN) >> shift)
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
                h = np.int64((v * _GOLDEN) >> np.uint64(64 - bits))
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
                        h = np.int64((table[U(k)] * _GOLDEN) >> np.uint64(64 - bits))
                        while slots[U(h)] >= 0:
                            h = (h + 1) & ((1 << bits) - 1)
                        slots[U(h)] = k
    return table[:n].copy()
