# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.rles`. Runs are int32 (n, 4): x, y, z, length."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import U, kernel

Array = Any  # inside compiled code

_LONGEST = 0x7FFFFFFF
_ALL = np.uint64(0x0101010101010101)


@kernel
def runs_of_blocks(blocks: Array) -> tuple[Array, bool]:
    """The normal runs of block coordinates int32 (n, 3) z, y, x that ascend, repeats allowed; false if they don't."""
    n = blocks.shape[0]
    runs = np.empty((n, 4), np.int32)
    m = 0
    for i in range(n):
        z, y, x = blocks[U(i), U(0)], blocks[U(i), U(1)], blocks[U(i), U(2)]
        if m > 0:
            last = U(m - 1)
            if z == runs[last, U(2)] and y == runs[last, U(1)]:
                end = np.int64(runs[last, U(0)]) + np.int64(runs[last, U(3)])
                if x < end - 1:
                    return runs[:0], False
                if x == end - 1:
                    continue
                if x == end:
                    runs[last, U(3)] += np.int32(1)
                    continue
            elif z < runs[last, U(2)] or (z == runs[last, U(2)] and y < runs[last, U(1)]):
                return runs[:0], False
        runs[U(m), U(0)], runs[U(m), U(1)], runs[U(m), U(2)], runs[U(m), U(3)] = x, y, z, np.int32(1)
        m += 1
    return runs[:m], True


@kernel
def append_runs(
    mask: Array,
    words: Array,
    ny: int,
    nx: int,
    origin: tuple[int, int, int],
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
    runs: Array,
    n: int,
    last: Array,
) -> tuple[Array, int]:
    """Append the runs of a block's mask within [start, stop) to runs[:n]; returns (runs, n), runs perhaps larger.

    `mask` (bytes 0 and 1, z y x) and `words` (uint64) are two views of one buffer: a row is looked at eight
    voxels at a time. ``last[z * ny + y]`` is the position of the latest run of that row, -1 for none; a run that
    starts where it ends continues it, so blocks must come in order of x.
    """
    oz, oy, ox = origin
    for z in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            row = (z * ny + y) * nx
            if n + nx > runs.shape[0]:
                bigger = np.empty((2 * runs.shape[0] + nx, 4), np.int32)
                bigger[:n] = runs[:n]
                runs = bigger
            x = start[2]
            while x < stop[2]:
                # to the next voxel that is set
                while x < stop[2]:
                    if x & 7 == 0 and words[U((row + x) >> 3)] == np.uint64(0):
                        x += 8
                    elif mask[U(row + x)] == 0:
                        x += 1
                    else:
                        break
                if x >= stop[2]:
                    break
                first = x
                while x < stop[2]:
                    if x & 7 == 0 and words[U((row + x) >> 3)] == _ALL:
                        x += 8
                    elif mask[U(row + x)] != 0:
                        x += 1
                    else:
                        break
                x = min(x, stop[2])
                k = last[U(z * ny + y)]
                if (
                    k >= 0
                    and np.int64(runs[U(k), 0]) + np.int64(runs[U(k), 3]) == ox + first
                    and np.int64(runs[U(k), 3]) + (x - first) <= _LONGEST
                ):
                    runs[U(k), 3] += np.int32(x - first)
                else:
                    runs[U(n), 0] = np.int32(ox + first)
                    runs[U(n), 1] = np.int32(oy + y)
                    runs[U(n), 2] = np.int32(oz + z)
                    runs[U(n), 3] = np.int32(x - first)
                    last[U(z * ny + y)] = n
                    n += 1
    return runs, n


@kernel
def sort_rows(runs: Array, oz: int, oy: int, nz: int, ny: int) -> Array:
    """Sort the runs of one row of blocks by z, y, x; within a row (z, y) they already ascend in x."""
    ends = np.zeros(nz * ny + 1, np.int64)
    for i in range(runs.shape[0]):
        ends[U((np.int64(runs[i, 2]) - oz) * ny + (np.int64(runs[i, 1]) - oy) + 1)] += 1
    for k in range(nz * ny):
        ends[k + 1] += ends[k]
    out = np.empty_like(runs)
    for i in range(runs.shape[0]):
        k = (np.int64(runs[i, 2]) - oz) * ny + (np.int64(runs[i, 1]) - oy)
        at = ends[U(k)]
        for c in range(4):
            out[U(at), c] = runs[i, c]
        ends[U(k)] += 1
    return out


@kernel
def merge_sorted(runs: Array, order: Array) -> Array:
    """Join touching and overlapping runs, taken in `order` (by z, y, x)."""
    out = np.empty_like(runs)
    n = 0
    for i in order:
        x = np.int64(runs[i, 0])
        end = x + np.int64(runs[i, 3])
        if n > 0 and out[n - 1, 2] == runs[i, 2] and out[n - 1, 1] == runs[i, 1]:
            first = np.int64(out[n - 1, 0])
            stop = first + np.int64(out[n - 1, 3])
            if end <= stop:
                continue
            if x <= stop and end - first <= _LONGEST:
                out[n - 1, 3] = np.int32(end - first)
                continue
            x = max(x, stop)
        out[n, 0] = np.int32(x)
        out[n, 1] = runs[i, 1]
        out[n, 2] = runs[i, 2]
        out[n, 3] = np.int32(end - x)
        n += 1
    return out[:n].copy()


@kernel
def paint(runs: Array, z0: int, y0: int, x0: int, out: Array) -> None:
    """Set out[z, y, x] for the voxels of the runs; out[0, 0, 0] is voxel (z0, y0, x0)."""
    nz, ny, nx = out.shape
    for i in range(runs.shape[0]):
        z = np.int64(runs[i, 2]) - z0
        y = np.int64(runs[i, 1]) - y0
        if z < 0 or z >= nz or y < 0 or y >= ny:
            continue
        a = np.int64(runs[i, 0]) - x0
        b = min(a + np.int64(runs[i, 3]), nx)
        for x in range(max(a, np.int64(0)), b):
            out[z, y, x] = True


@kernel
def count_pieces(runs: Array, bx: int) -> int:
    """How many pieces the runs make when cut at multiples of bx."""
    total = 0
    for i in range(runs.shape[0]):
        x = np.int64(runs[i, 0])
        total += (x + np.int64(runs[i, 3]) - 1) // bx - x // bx + 1
    return total


@kernel
def cut_pieces(runs: Array, bz: int, by: int, bx: int, pieces: Array, blocks: Array) -> None:
    """Cut the runs at multiples of bx; blocks[k] is the block (z, y, x) of pieces[k]."""
    k = 0
    for i in range(runs.shape[0]):
        x = np.int64(runs[i, 0])
        end = x + np.int64(runs[i, 3])
        while x < end:
            block = x // bx
            stop = min(end, (block + 1) * bx)
            pieces[k, 0] = np.int32(x)
            pieces[k, 1] = runs[i, 1]
            pieces[k, 2] = runs[i, 2]
            pieces[k, 3] = np.int32(stop - x)
            blocks[k, 0] = np.int32(np.int64(runs[i, 2]) // bz)
            blocks[k, 1] = np.int32(np.int64(runs[i, 1]) // by)
            blocks[k, 2] = np.int32(block)
            k += 1
            x = stop


@kernel
def count_label_runs(dense: Array) -> int:
    """Number of runs along x of one label that isn't 0."""
    n = 0
    for z in range(dense.shape[0]):
        for y in range(dense.shape[1]):
            last = np.uint64(0)
            for x in range(dense.shape[2]):
                label = dense[z, y, x]
                if label != last and label != np.uint64(0):
                    n += 1
                last = label
    return n


@kernel
def label_runs(dense: Array, z0: int, y0: int, x0: int, runs: Array, labels: Array) -> None:
    """Fill the runs of all labels and the label of each, in the order of voxels."""
    n = -1
    for z in range(dense.shape[0]):
        for y in range(dense.shape[1]):
            last = np.uint64(0)
            for x in range(dense.shape[2]):
                label = dense[z, y, x]
                if label != np.uint64(0):
                    if label != last:
                        n += 1
                        runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3] = x0 + x, y0 + y, z0 + z, 0
                        labels[n] = label
                    runs[n, 3] += 1
                last = label
