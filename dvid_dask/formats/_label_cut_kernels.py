"""Compiled loops of `dvid_dask.formats.label_cuts`, on dense blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvid_dask.formats._jit import kernel

Array = NDArray[Any]


@kernel
def segments_under(dense: Array, runs: Array, z0: int, y0: int, x0: int, out: Array, count: Array) -> int:
    """Labels under runs as segments of equal ones: out[i] count[i] times; returns how many segments."""
    n = -1
    last = np.uint64(0)
    for i in range(runs.shape[0]):
        z, y, x = np.int64(runs[i, 2]) - z0, np.int64(runs[i, 1]) - y0, np.int64(runs[i, 0]) - x0
        for k in range(x, x + np.int64(runs[i, 3])):
            label = dense[z, y, k]
            if n < 0 or label != last:
                n += 1
                out[n] = label
                count[n] = 0
                last = label
            count[n] += 1
    return n + 1


@kernel
def relabel_under(dense: Array, runs: Array, z0: int, y0: int, x0: int, old: Array, new: Array, done: Array) -> int:
    """Change labels old[i] (ascending) under runs to new[i] and count them in done[i]; returns all other voxels."""
    others = 0
    m = old.shape[0]
    at = 0
    for i in range(runs.shape[0]):
        z, y, x = np.int64(runs[i, 2]) - z0, np.int64(runs[i, 1]) - y0, np.int64(runs[i, 0]) - x0
        for k in range(x, x + np.int64(runs[i, 3])):
            label = dense[z, y, k]
            if old[at] != label:
                low, high = 0, m
                while low < high:
                    mid = (low + high) // 2
                    if old[mid] < label:
                        low = mid + 1
                    else:
                        high = mid
                if low == m or old[low] != label:
                    others += 1
                    continue
                at = low
            dense[z, y, k] = new[at]
            done[at] += 1
    return others
