# numba, not mypy, checks integer types inside kernels
# mypy: disable-error-code="assignment,return-value,no-any-return"
"""Compiled loops of `dvid_dask.formats.images`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import kernel

Array = Any  # inside compiled code


@kernel
def murmur3_colors(labels: Array, out: Array) -> None:
    """First three big-endian bytes of MurmurHash3_x86_32 (seed 0) of each label's eight little-endian bytes."""
    c1, c2 = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)
    last = np.uint64(0)
    h = np.uint32(0)
    for i in range(labels.size):
        label = labels[i]
        if i == 0 or label != last:
            last = label
            h = np.uint32(0)
            for half in range(2):
                k = np.uint32((label >> np.uint64(32 * half)) & np.uint64(0xFFFFFFFF))
                k = np.uint32(k * c1)
                k = np.uint32((k << np.uint32(15)) | (k >> np.uint32(17)))
                h = np.uint32(h ^ np.uint32(k * c2))
                h = np.uint32((h << np.uint32(13)) | (h >> np.uint32(19)))
                h = np.uint32(h * np.uint32(5) + np.uint32(0xE6546B64))
            h = np.uint32(h ^ np.uint32(8))
            h = np.uint32(h ^ (h >> np.uint32(16)))
            h = np.uint32(h * np.uint32(0x85EBCA6B))
            h = np.uint32(h ^ (h >> np.uint32(13)))
            h = np.uint32(h * np.uint32(0xC2B2AE35))
            h = np.uint32(h ^ (h >> np.uint32(16)))
        out[i, 0] = np.uint8(h >> np.uint32(24))
        out[i, 1] = np.uint8((h >> np.uint32(16)) & np.uint32(255))
        out[i, 2] = np.uint8((h >> np.uint32(8)) & np.uint32(255))


@kernel
def area_sums(source: Array, out: Array) -> None:
    """Sum rows of source[line, pixel] (uint64) weighted by overlap into out[line, pixel] of another length.

    A source pixel covers out-length units, a result pixel source-length units of the same axis.
    """
    w = source.shape[1]
    new = out.shape[1]
    for line in range(source.shape[0]):
        for i in range(new):
            total = np.uint64(0)
            begin, end = i * w, (i + 1) * w
            x = begin // new
            while x * new < end:
                overlap = min(end, (x + 1) * new) - max(begin, x * new)
                total += source[line, x] * np.uint64(overlap)
                x += 1
            out[line, i] = total
