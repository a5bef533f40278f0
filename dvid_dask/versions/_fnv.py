"""The compiled loop of FNV-1, apart, so that only large blobs load the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np

from dvid_dask.formats._jit import kernel

__all__ = ["fnv1"]


@kernel
def fnv1(data: Any, high: Any, low: Any) -> Any:
    """FNV-1 over bytes, with the 128-bit state in two 64-bit halves.

    state * (2**88 + 0x13b) mod 2**128 = (state << 88) + state * 0x13b; the low half's product is taken in 32-bit
    pieces so that its carry into the high half is not lost.
    """
    m = np.uint64(0x13B)
    mask = np.uint64(0xFFFFFFFF)
    s24, s32 = np.uint64(24), np.uint64(32)
    for i in range(data.size):
        low0 = (low & mask) * m
        low1 = (low >> s32) * m + (low0 >> s32)
        high = high * m + (low1 >> s32) + (low << s24)
        low = ((low1 << s32) | (low0 & mask)) ^ np.uint64(data[i])
    return high, low
