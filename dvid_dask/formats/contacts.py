"""Where labels touch: faces between voxels of different labels, counted along each axis.

>>> import numpy as np
>>> voxels = np.zeros((1, 2, 4), np.uint64)
>>> voxels[0, 0], voxels[0, 1, 2:] = 5, 7
>>> a, b, faces = count_contacts(voxels)
>>> a.tolist(), b.tolist(), faces.tolist()
([5], [7], [[0, 2, 0]])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.formats._jit import U, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["count_contacts"]

_SUB = 8
_SLOTS = 1 << 12


@kernel
def _slot(a: np.uint64, b: np.uint64, keys: NDArray[np.uint64]) -> np.int64:
    """Where the pair is in the table, or the free place for it."""
    mask = np.uint64(keys.shape[0] - 1)
    h = (a * np.uint64(0x9E3779B97F4A7C15)) ^ (b * np.uint64(0xC2B2AE3D27D4EB4F))
    h ^= h >> np.uint64(29)
    at = h & mask
    while keys[U(at), 0] != np.uint64(0) and (keys[U(at), 0] != a or keys[U(at), 1] != b):
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@kernel
def _grown(keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    more = np.zeros((2 * keys.shape[0], 2), np.uint64)
    more_counts = np.zeros((2 * keys.shape[0], 3), np.int64)
    for i in range(keys.shape[0]):
        if keys[i, 0] != np.uint64(0):
            at = _slot(keys[i, 0], keys[i, 1], more)
            more[at] = keys[i]
            more_counts[at] = counts[i]
    return more, more_counts


@kernel
def _differing(
    mem: NDArray[np.uint64], first: int, sz: int, sy: int, nz: int, ny: int, nx: int, step: int, out: NDArray[np.uint64]
) -> int:
    """Pairs of a voxel and its next one, `step` further, that differ and aren't 0; how many.

    A function of its own: beside the table, which may be exchanged, the compiler would make this loop slow.
    """
    n = 0
    for z in range(nz):
        for y in range(ny):
            row = first + z * sz + y * sy
            for i in range(row, row + nx):
                p, q = mem[U(i)], mem[U(i + step)]
                if p != q and p != np.uint64(0) and q != np.uint64(0):
                    out[U(n), 0], out[U(n), 1] = min(p, q), max(p, q)
                    n += 1
    return n


@kernel
def _add(
    pairs: NDArray[np.uint64], n: int, axis: int, keys: NDArray[np.uint64], counts: NDArray[np.int64], used: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], int]:
    """Count pairs in the table, which grows as it must."""
    at = np.int64(0)
    for i in range(n):
        a, b = pairs[i, 0], pairs[i, 1]
        if i == 0 or a != pairs[i - 1, 0] or b != pairs[i - 1, 1]:
            at = _slot(a, b, keys)
            if keys[at, 0] == np.uint64(0):
                if 2 * used >= keys.shape[0]:
                    keys, counts = _grown(keys, counts)
                    at = _slot(a, b, keys)
                keys[at, 0], keys[at, 1] = a, b
                used += 1
        counts[at, axis] += 1
    return keys, counts, used


@kernel
def _count(
    v: NDArray[np.uint64], uniform: NDArray[np.bool_], core: tuple[int, int, int], slots: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Pairs (a < b, none 0) and faces along z, y, x between the core's voxels and their next ones, halo included."""
    keys = np.zeros((slots, 2), np.uint64)
    counts = np.zeros((slots, 3), np.int64)
    used = 0
    nz, ny, nx = core
    sz, sy, sx = v.shape
    mem = v.reshape(-1)
    pairs = np.empty((_SUB**3, 2), np.uint64)
    for bz in range((nz + _SUB - 1) // _SUB):
        for by in range((ny + _SUB - 1) // _SUB):
            for bx in range((nx + _SUB - 1) // _SUB):
                z0, y0, x0 = bz * _SUB, by * _SUB, bx * _SUB
                z1, y1, x1 = min(z0 + _SUB, nz), min(y0 + _SUB, ny), min(x0 + _SUB, nx)
                even = uniform[bz, by, bx]
                for axis in range(3):
                    dz, dy, dx = (1 if axis == 0 else 0), (1 if axis == 1 else 0), (1 if axis == 2 else 0)
                    az, ay, ax = z0, y0, x0
                    if even:  # only its last layer has other neighbours
                        if axis == 0:
                            az = z1 - 1
                        elif axis == 1:
                            ay = y1 - 1
                        else:
                            ax = x1 - 1
                        cz, cy, cx = bz + dz, by + dy, bx + dx
                        if (
                            cz < uniform.shape[0]
                            and cy < uniform.shape[1]
                            and cx < uniform.shape[2]
                            and uniform[cz, cy, cx]
                            and v[z0, y0, x0] == v[cz * _SUB, cy * _SUB, cx * _SUB]
                        ):
                            continue
                    ez, ey, ex = min(z1, sz - dz), min(y1, sy - dy), min(x1, sx - dx)
                    first = (az * sy + ay) * sx + ax
                    step = dz * sy * sx + dy * sx + dx
                    n = _differing(mem, first, sy * sx, sx, ez - az, ey - ay, ex - ax, step, pairs)
                    if n:
                        keys, counts, used = _add(pairs, n, axis, keys, counts, used)
    return keys, counts


def count_contacts(
    labels_zyx: NDArray[np.uint64],
    core_zyx: tuple[int, int, int] | None = None,
    uniform: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Faces between voxels of different labels that aren't 0.

    Parameters
    ----------
    labels_zyx
        uint64 (z, y, x).
    core_zyx
        Only faces behind voxels of the first `core_zyx` are counted; what lies beyond, one voxel on each axis, are
        their neighbours in the next brick. All of the array by default.
    uniform
        bool, one for each 8 x 8 x 8 voxels of the core from its first one on: whether they are all alike. Nothing
        within such sub-blocks is looked at.

    Returns
    -------
    a, b, faces
        uint64 (n,) each, ``a < b``, each pair once; int64 (n, 3): faces that they share, across z, y and x.
    """
    nz, ny, nx = labels_zyx.shape if core_zyx is None else core_zyx
    core = (int(nz), int(ny), int(nx))
    grid = tuple(-(-n // _SUB) for n in core)
    known = np.zeros(grid, np.bool_) if uniform is None else uniform
    if known.shape != grid or any(c > n for c, n in zip(core, labels_zyx.shape, strict=True)):
        raise ValueError(f"a core of {core} voxels, sub-blocks {known.shape}, in an array of {labels_zyx.shape}")
    keys, counts = _count(np.ascontiguousarray(labels_zyx, np.uint64), known, core, _SLOTS)
    there = keys[:, 0] != 0
    return keys[there, 0], keys[there, 1], counts[there]
