# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.nanovdb`.

A leaf is eight uint64 words: word x, bit 8 y + z. Origins are int32 (n, 3) x, y, z.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel
from dvid_dask.formats._label_block_kernels import BAD_INDEX, BAD_VALUE, OK, sections, sub_table
from dvid_dask.formats._label_kernels import SUB_VOXELS, bits_for, get16, largest, unpack

Array = Any  # inside compiled code

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_BYTE = np.uint64(0xFF)
_M7 = np.uint64(0x00AA00AA00AA00AA)
_M14 = np.uint64(0x0000CCCC0000CCCC)
_M28 = np.uint64(0x00000000F0F0F0F0)
_P1 = np.uint64(0x5555555555555555)
_P2 = np.uint64(0x3333333333333333)
_P4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_P8 = np.uint64(0x0101010101010101)


@kernel
def popcount(word: Any) -> int:
    word = word - ((word >> np.uint64(1)) & _P1)
    word = (word & _P2) + ((word >> np.uint64(2)) & _P2)
    word = (word + (word >> np.uint64(4))) & _P4
    return np.int64((word * _P8) >> np.uint64(56))


@kernel
def transposed(m: Any) -> np.uint64:
    """Bit 8 r + c of an 8 x 8 bit matrix becomes bit 8 c + r."""
    t = (m ^ (m >> np.uint64(7))) & _M7
    m = m ^ t ^ (t << np.uint64(7))
    t = (m ^ (m >> np.uint64(14))) & _M14
    m = m ^ t ^ (t << np.uint64(14))
    t = (m ^ (m >> np.uint64(28))) & _M28
    return m ^ t ^ (t << np.uint64(28))


@kernel
def turn(rows: Array, out: Array) -> None:
    """The words of a leaf from the bytes of rows along x: rows[8 z + y], the most significant bit being x = 0."""
    for x in range(8):
        out[U(x)] = np.uint64(0)
    for y in range(8):
        m = np.uint64(0)
        for z in range(8):
            m |= np.uint64(rows[U(8 * z + y)]) << np.uint64(8 * z)
        if m == np.uint64(0):
            continue
        m = transposed(m)
        for x in range(8):
            out[U(x)] |= ((m >> np.uint64(8 * (7 - x))) & _BYTE) << np.uint64(8 * y)


@kernel
def leaves_of_block(
    buf: Array,
    gz: int,
    gy: int,
    gx: int,
    hits: Array,
    zero: Any,
    oz: int,
    oy: int,
    ox: int,
    origins: Array,
    masks: Array,
) -> tuple[int, int]:
    """Leaves of a label block's sub-blocks with foreground; (oz, oy, ox) is its first voxel. Returns (result, n)."""
    nsub = gz * gy * gx
    result, at, vat = sections(buf, nsub, hits.size)
    if result != OK:
        return result, 0
    index = np.empty(SUB_VOXELS, np.uint16)
    local = np.empty(SUB_VOXELS, np.bool_)
    rows = np.empty(64, np.uint8)
    counts = 16 + 8 * hits.size
    n_leaves = 0
    s = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                n = get16(buf, counts + 2 * s)
                s += 1
                bits = bits_for(n)
                if not sub_table(buf, at, n, hits, zero, local):
                    return BAD_INDEX, 0
                some = local[0]
                every = local[0]
                for k in range(1, n):
                    some = some or local[U(k)]
                    every = every and local[U(k)]
                if n > 1 and n != 1 << bits:
                    # such a sub-block may hold what its labels don't say
                    unpack(buf, vat, bits, index)
                    if largest(index) >= n:
                        return BAD_VALUE, 0
                if some:
                    mask = masks[U(n_leaves)]
                    if every:
                        for x in range(8):
                            mask[U(x)] = _ALL
                    elif bits == 1:
                        flip = np.uint8(0xFF) if local[0] else np.uint8(0)
                        for j in range(64):
                            rows[U(j)] = buf[U(vat + j)] ^ flip
                        turn(rows, mask)
                    else:
                        if n == 1 << bits:
                            unpack(buf, vat, bits, index)
                        for j in range(64):
                            byte = np.uint8(0)
                            for k in range(8):
                                byte |= np.uint8(local[U(index[U(8 * j + k)])]) << np.uint8(7 - k)
                            rows[U(j)] = byte
                        turn(rows, mask)
                    filled = np.uint64(0)
                    for x in range(8):
                        filled |= mask[U(x)]
                    # a label may be listed and have no voxel
                    if filled != np.uint64(0):
                        origins[U(n_leaves), 0] = np.int32(ox + 8 * sx)
                        origins[U(n_leaves), 1] = np.int32(oy + 8 * sy)
                        origins[U(n_leaves), 2] = np.int32(oz + 8 * sz)
                        n_leaves += 1
                at += 4 * n
                vat += 64 * bits
    return OK, n_leaves


@kernel
def _slot(slots: Array, keys: Array, lx: Any, ly: Any, lz: Any) -> int:
    """Where in the hash table a leaf is or would go."""
    mask = slots.size - 1
    h = (lx * 73856093) ^ (ly * 19349663) ^ (lz * 83492791)
    h ^= h >> 15
    h &= mask
    while slots[U(h)] >= 0:
        k = slots[U(h)]
        if keys[U(k), 0] == lx and keys[U(k), 1] == ly and keys[U(k), 2] == lz:
            return h
        h = (h + 1) & mask
    return h


@kernel
def leaves_of_runs(runs: Array, limit: int) -> tuple[Array, Array, int]:
    """Leaves of runs (x, y, z, length); returns (origins, masks, n), n = -1 where there are more than `limit`."""
    keys = np.empty((64, 3), np.int64)
    masks = np.empty((64, 8), np.uint64)
    slots = np.full(256, np.int32(-1))
    n = 0
    for i in range(runs.shape[0]):
        x = np.int64(runs[i, 0])
        end = x + np.int64(runs[i, 3])
        y = np.int64(runs[i, 1])
        z = np.int64(runs[i, 2])
        bit = np.uint64(1) << np.uint64(8 * (y & 7) + (z & 7))
        while x < end:
            lx = x >> 3
            h = _slot(slots, keys, lx, y >> 3, z >> 3)
            k = np.int64(slots[U(h)])
            if k < 0:
                if n == limit:
                    return np.empty((0, 3), np.int32), masks, -1
                if n == keys.shape[0]:
                    more = np.empty((2 * n, 3), np.int64)
                    more[:n] = keys
                    keys = more
                    wide = np.empty((2 * n, 8), np.uint64)
                    wide[:n] = masks
                    masks = wide
                if 2 * n >= slots.size:
                    slots = np.full(4 * slots.size, np.int32(-1))
                    for j in range(n):
                        slots[U(_slot(slots, keys, keys[j, 0], keys[j, 1], keys[j, 2]))] = j
                    h = _slot(slots, keys, lx, y >> 3, z >> 3)
                k = n
                slots[U(h)] = n
                keys[k, 0] = lx
                keys[k, 1] = y >> 3
                keys[k, 2] = z >> 3
                for w in range(8):
                    masks[k, w] = np.uint64(0)
                n += 1
            stop = min(end, (lx + 1) << 3)
            for w in range(x & 7, (stop - 1 & 7) + 1):
                masks[U(k), U(w)] |= bit
            x = stop
    origins = np.empty((n, 3), np.int32)
    for k in range(n):
        for c in range(3):
            origins[k, c] = np.int32(keys[k, c] << 3)
    return origins, masks[:n].copy(), n


@kernel
def leaves_of_mask(mask: Array, oz: int, oy: int, ox: int, origins: Array, masks: Array) -> int:
    """Leaves of a bool array (z, y, x) whose first voxel (oz, oy, ox) is a leaf's first; returns how many."""
    nz, ny, nx = mask.shape
    rows = np.empty(64, np.uint8)
    n = 0
    for z in range(0, nz, 8):
        for y in range(0, ny, 8):
            for x in range(0, nx, 8):
                some = np.uint8(0)
                for j in range(64):
                    byte = np.uint8(0)
                    dz = z + (j >> 3)
                    dy = y + (j & 7)
                    if dz < nz and dy < ny:
                        for k in range(min(8, nx - x)):
                            byte |= np.uint8(mask[dz, dy, x + k]) << np.uint8(7 - k)
                    rows[U(j)] = byte
                    some |= byte
                if some:
                    turn(rows, masks[n])
                    origins[n, 0] = np.int32(ox + x)
                    origins[n, 1] = np.int32(oy + y)
                    origins[n, 2] = np.int32(oz + z)
                    n += 1
    return n


@kernel
def united(origins: Array, masks: Array, order: Array) -> tuple[Array, Array]:
    """Leaves in the given order, equal neighbours made one."""
    out_origins = np.empty_like(origins)
    out_masks = np.empty_like(masks)
    n = 0
    for i in order:
        if (
            n > 0
            and out_origins[n - 1, 0] == origins[i, 0]
            and out_origins[n - 1, 1] == origins[i, 1]
            and out_origins[n - 1, 2] == origins[i, 2]
        ):
            for w in range(8):
                out_masks[n - 1, w] |= masks[i, w]
            continue
        for c in range(3):
            out_origins[n, c] = origins[i, c]
        for w in range(8):
            out_masks[n, w] = masks[i, w]
        n += 1
    return out_origins[:n], out_masks[:n]


@kernel
def sizes(masks: Array, out: Array) -> None:
    """Voxels of each leaf."""
    for i in range(masks.shape[0]):
        total = 0
        for w in range(8):
            total += popcount(masks[U(i), U(w)])
        out[U(i)] = total


@kernel
def voxels(origins: Array, masks: Array, out: Array) -> None:
    """Coordinates x, y, z of the voxels of leaves, in index order."""
    n = 0
    for i in range(masks.shape[0]):
        for w in range(8):
            word = masks[U(i), U(w)]
            if word == np.uint64(0):
                continue
            for b in range(64):
                if (word >> np.uint64(b)) & np.uint64(1):
                    out[U(n), 0] = origins[U(i), 0] + np.int32(w)
                    out[U(n), 1] = origins[U(i), 1] + np.int32(b >> 3)
                    out[U(n), 2] = origins[U(i), 2] + np.int32(b & 7)
                    n += 1


@kernel
def runs(origins: Array, masks: Array, out: Array, limit: int) -> tuple[Array, int]:
    """Runs along x of each leaf: (runs, n), n = -1 where there are more than `limit`."""
    n = 0
    for i in range(masks.shape[0]):
        if n > limit:
            return out, -1
        if n + 256 > out.shape[0]:
            more = np.empty((2 * out.shape[0] + 256, 4), np.int32)
            more[:n] = out[:n]
            out = more
        for b in range(64):
            bit = np.uint64(b)
            x = 0
            while x < 8:
                if not (masks[U(i), U(x)] >> bit) & np.uint64(1):
                    x += 1
                    continue
                first = x
                while x < 8 and (masks[U(i), U(x)] >> bit) & np.uint64(1):
                    x += 1
                out[U(n), 0] = origins[U(i), 0] + np.int32(first)
                out[U(n), 1] = origins[U(i), 1] + np.int32(b >> 3)
                out[U(n), 2] = origins[U(i), 2] + np.int32(b & 7)
                out[U(n), 3] = np.int32(x - first)
                n += 1
    return out, n if n <= limit else -1


# ------------------------------------------------------------------ writing


@kernel
def fill_leaves(origins: Array, masks: Array, words: Array, stride: int, index: bool, boxes: Array) -> None:
    """Boxes, flags and masks of leaves and, of an index grid, first index and prefix sums.

    `words` (uint64) begins at the first leaf; `stride` is a leaf's words. boxes[i] gets the first and last voxel.
    """
    offset = np.uint64(1)
    for i in range(masks.shape[0]):
        at = i * stride
        union = np.uint64(0)
        low = 8
        high = 0
        total = 0
        prefix = np.uint64(0)
        for w in range(8):
            word = masks[U(i), U(w)]
            words[U(at + 2 + w)] = word
            union |= word
            if word != np.uint64(0):
                low = min(low, w)
                high = w
            total += popcount(word)
            if w < 7:
                prefix |= np.uint64(total) << np.uint64(9 * w)
        y0 = 0
        while not (union >> np.uint64(8 * y0)) & _BYTE:
            y0 += 1
        y1 = 7
        while not (union >> np.uint64(8 * y1)) & _BYTE:
            y1 -= 1
        row = union | (union >> np.uint64(32))
        row |= row >> np.uint64(16)
        row = (row | (row >> np.uint64(8))) & _BYTE
        z0 = 0
        while not (row >> np.uint64(z0)) & np.uint64(1):
            z0 += 1
        z1 = 7
        while not (row >> np.uint64(z1)) & np.uint64(1):
            z1 -= 1
        boxes[U(i), 0] = origins[U(i), 0] + np.int32(low)
        boxes[U(i), 1] = origins[U(i), 1] + np.int32(y0)
        boxes[U(i), 2] = origins[U(i), 2] + np.int32(z0)
        boxes[U(i), 3] = origins[U(i), 0] + np.int32(high)
        boxes[U(i), 4] = origins[U(i), 1] + np.int32(y1)
        boxes[U(i), 5] = origins[U(i), 2] + np.int32(z1)
        x = np.uint64(np.uint32(boxes[U(i), 0]))
        y = np.uint64(np.uint32(boxes[U(i), 1]))
        z = np.uint64(np.uint32(boxes[U(i), 2]))
        words[U(at)] = x | (y << np.uint64(32))
        extent = np.uint64(high - low) | np.uint64(y1 - y0) << np.uint64(8) | np.uint64(z1 - z0) << np.uint64(16)
        # flag 2: has a bounding box
        words[U(at + 1)] = z | (extent << np.uint64(32)) | np.uint64(2) << np.uint64(56)
        if index:
            words[U(at + 10)] = offset
            words[U(at + 11)] = prefix
            offset += np.uint64(total)


@kernel
def fill_nodes(
    words: Array,
    base: int,
    size: int,
    child_mask: int,
    table: int,
    first: Array,
    child_base: int,
    child_size: int,
    child_entry: Array,
    child_boxes: Array,
    boxes: Array,
) -> None:
    """Boxes, flags, child masks and tables of inner nodes; sizes and offsets in uint64 words.

    Node i has children first[i] to first[i + 1]; child k goes to entry child_entry[k].
    """
    for i in range(first.size - 1):
        at = base + i * size
        for c in range(6):
            boxes[U(i), c] = child_boxes[U(first[i]), c]
        for k in range(first[i], first[i + 1]):
            entry = np.int64(child_entry[U(k)])
            words[U(at + child_mask + (entry >> 6))] |= np.uint64(1) << np.uint64(entry & 63)
            words[U(at + table + entry)] = np.uint64(8 * (child_base + k * child_size - at))
            for c in range(3):
                boxes[U(i), c] = min(boxes[U(i), c], child_boxes[U(k), c])
                boxes[U(i), c + 3] = max(boxes[U(i), c + 3], child_boxes[U(k), c + 3])
        for c in range(3):
            low = np.uint64(np.uint32(boxes[U(i), U(2 * c)]))
            high = np.uint64(np.uint32(boxes[U(i), U(2 * c + 1)]))
            words[U(at + c)] = low | (high << np.uint64(32))
        # flag 2: has active values
        words[U(at + 3)] = np.uint64(2)


@kernel
def spread(values: Array, masks: Array, out: Array) -> None:
    """Values in index order to their places in out[leaf, 512]."""
    n = 0
    for i in range(masks.shape[0]):
        for w in range(8):
            word = masks[U(i), U(w)]
            if word == np.uint64(0):
                continue
            if word == _ALL:
                for b in range(64):
                    out[U(i), U(64 * w + b)] = values[U(n + b)]
                n += 64
                continue
            for b in range(64):
                if (word >> np.uint64(b)) & np.uint64(1):
                    out[U(i), U(64 * w + b)] = values[U(n)]
                    n += 1


@kernel
def sums(values: Array, counts: Array, out: Array) -> None:
    """Least, largest, sum and sum of squared distances from the mean of each leaf's values, as float64."""
    n = 0
    for i in range(counts.size):
        count = np.int64(counts[U(i)])
        low = np.float64(values[U(n)])
        high = low
        total = 0.0
        for k in range(n, n + count):
            v = np.float64(values[U(k)])
            low = v if v < low else low
            high = v if v > high else high
            total += v
        mean = total / count
        apart = 0.0
        for k in range(n, n + count):
            delta = np.float64(values[U(k)]) - mean
            apart += delta * delta
        n += count
        out[U(i), 0] = low
        out[U(i), 1] = high
        out[U(i), 2] = total
        out[U(i), 3] = apart


@kernel
def gather(
    box: Array, z0: int, y0: int, x0: int, origins: Array, masks: Array, starts: Array, which: Array, out: Array
) -> None:
    """Values of the voxels of some leaves from an array (z, y, x) that begins at voxel (z0, y0, x0) and covers them.

    Voxels of leaf i go to out[starts[i]] and on, in index order.
    """
    for i in which:
        n = np.int64(starts[U(i)])
        x = np.int64(origins[U(i), 0]) - x0
        y = np.int64(origins[U(i), 1]) - y0
        z = np.int64(origins[U(i), 2]) - z0
        for w in range(8):
            word = masks[U(i), U(w)]
            if word == np.uint64(0):
                continue
            for b in range(64):
                if (word >> np.uint64(b)) & np.uint64(1):
                    out[U(n)] = box[z + (b & 7), y + (b >> 3), x + w]
                    n += 1


# ------------------------------------------------------------------ reading


@kernel
def find_children(
    words: Array,
    at: int,
    entries: int,
    table: int,
    child_base: int,
    child_size: int,
    child_count: int,
    found: Array,
) -> int:
    """Numbers of the children and tiles of the inner node at word `at`.

    found[k] is (entry, number of the child, or -1 for a tile that is all voxels). Returns how many there are, or -1
    where a child lies outside its nodes.
    """
    n = 0
    half = entries >> 6
    for j in range(half):
        value = words[U(at + 4 + j)]
        child = words[U(at + 4 + half + j)]
        if (value | child) == np.uint64(0):
            continue
        for b in range(64):
            bit = np.uint64(b)
            is_child = (child >> bit) & np.uint64(1)
            if not is_child and not (value >> bit) & np.uint64(1):
                continue
            entry = 64 * j + b
            found[U(n), 0] = entry
            found[U(n), 1] = -1
            if is_child:
                distance = np.int64(words[U(at + table + entry)])
                # division, not multiplication: a distance of any size is harmless
                if distance & 7 != 0:
                    return -1
                word = (distance >> 3) + at - child_base
                if word < 0 or word % child_size != 0 or word // child_size >= child_count:
                    return -1
                found[U(n), 1] = word // child_size
            n += 1
    return n
