"""Down-sampling: of images by the mean, exactly rounded, and of labels by the commonest, background included.

A voxel of the result is the mean of the window that it covers, rounded to the nearest integer and, half way, to the
even one. Rounding halves up would brighten an 8-bit volume by 1/16 of a grey value with every scale; to the even one is
also what tensorstore's ``downsample`` driver does. Windows at the far faces of a volume of odd size hold fewer voxels:
the mean is over those there are, so no border darkens. Floats are averaged in double precision and not rounded; NaN
spreads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dvid_dask.formats._jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["commonest_label", "downsampled_shape", "mean"]


def downsampled_shape(shape: Sequence[int], factors: Sequence[int] = (2, 2, 2)) -> tuple[int, ...]:
    """The shape of the result: a window that is there in part counts.

    Examples
    --------
    >>> downsampled_shape((64, 33, 1))
    (32, 17, 1)
    """
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def mean(volume: NDArray[Any], factors: Sequence[int] = (2, 2, 2)) -> NDArray[Any]:
    """Down-sample a volume by the mean of windows that begin at its first voxel.

    Parameters
    ----------
    volume
        (z, y, x), or (z, y, x, channel) whose channels are averaged each for itself; any integer or float type. May be
        a strided view.
    factors
        Window in z, y, x; 1 leaves an axis as it is.

    Returns
    -------
    ndarray
        Of `downsampled_shape` and the same dtype.

    Raises
    ------
    ValueError
        Not 3 or 4 dimensions, a factor below 1, or more than 2^20 voxels in a window.
    TypeError
        Neither integers nor floats of up to 64 bits.

    Examples
    --------
    >>> mean(np.array([[[1, 2, 3, 4, 9]]], np.uint8))        # 1.5 and 3.5 go to the even neighbour
    array([[[2, 4, 9]]], dtype=uint8)
    >>> mean(np.full((3, 3, 3), 2**64 - 1, np.uint64)).max() == 2**64 - 1
    np.True_
    """
    if volume.ndim not in (3, 4):
        raise ValueError(f"a volume has axes z, y, x and perhaps channels; this one has {volume.ndim}")
    if len(factors) != 3 or min(factors) < 1 or np.prod([float(f) for f in factors]) > 1 << 20:
        raise ValueError(f"factors must be three integers from 1 on with a product up to 2^20, not {tuple(factors)}")
    if volume.dtype.kind not in "uif" or volume.dtype.itemsize > 8:
        raise TypeError(f"can't average {volume.dtype}: expected integers or floats of up to 64 bits")
    fz, fy, fx = (int(f) for f in factors)
    if not volume.dtype.isnative:
        volume = volume.astype(volume.dtype.newbyteorder("="))
    source = volume if volume.ndim == 4 else volume[..., np.newaxis]
    out = np.empty((*downsampled_shape(source.shape[:3], (fz, fy, fx)), source.shape[3]), source.dtype)
    if source.dtype.kind == "f":
        _mean_floats(source, out, fz, fy, fx)
    elif source.dtype.itemsize < 8:
        inner = (0, 0, 0)
        if (fz, fy, fx) == (2, 2, 2) and volume.ndim == 3:
            # whole windows without bounds: this is where the time goes
            inner = cast(tuple[int, int, int], tuple(n // 2 for n in volume.shape))
            _mean_pairs(volume, out[: inner[0], : inner[1], : inner[2], 0])
        _mean_integers(source, out, fz, fy, fx, *inner)
    elif source.dtype.kind == "u":
        _mean_uint64(source, out, fz, fy, fx)
    else:
        # two's complement, shifted into the unsigned range: means shift along, and 2^63 is even
        top = np.uint64(1 << 63)
        _mean_uint64(source.view(np.uint64) ^ top, out.view(np.uint64), fz, fy, fx)
        out.view(np.uint64)[...] ^= top
    return out if volume.ndim == 4 else out[..., 0]


def commonest_label(labels_zyx: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Half the resolution: of 2 x 2 x 2 labels the commonest, 0 as any other; of equally common ones the largest.

    That is what DVID's labelblk does. Its labelmap leaves background out, see `label_blocks.downsample_array`.

    Parameters
    ----------
    labels_zyx
        uint64 (z, y, x) of even sides.

    Examples
    --------
    >>> commonest_label(np.array([[[0, 0], [0, 0]], [[7, 7], [7, 9]]], np.uint64))
    array([[[0]]], dtype=uint64)
    >>> commonest_label(np.array([[[0, 0], [9, 9]], [[7, 7], [9, 7]]], np.uint64))
    array([[[9]]], dtype=uint64)
    """
    if labels_zyx.ndim != 3 or any(n % 2 for n in labels_zyx.shape):
        raise ValueError(f"a volume of even sides is expected, got {labels_zyx.shape}")
    out = np.empty([n // 2 for n in labels_zyx.shape], np.uint64)
    _commonest(np.ascontiguousarray(labels_zyx, np.uint64), out)
    return out


@kernel
def _commonest(a: Any, out: Any) -> None:
    cell = np.empty(8, np.uint64)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                same = True
                for i in range(8):
                    cell[i] = a[2 * z + (i >> 2), 2 * y + ((i >> 1) & 1), 2 * x + (i & 1)]
                    same = same and cell[i] == cell[0]
                best, most = cell[0], 8 if same else 0
                if not same:
                    for i in range(8):
                        n = 0
                        for j in range(8):
                            if cell[j] == cell[i]:
                                n += 1
                        if n > most or (n == most and cell[i] > best):
                            best, most = cell[i], n
                out[z, y, x] = best


@kernel
def _mean_pairs(a: Any, out: Any) -> None:
    """Windows of 2 x 2 x 2 that are wholly inside; integers of up to 32 bits."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            p, q = a[2 * z, 2 * y], a[2 * z, 2 * y + 1]
            r, s = a[2 * z + 1, 2 * y], a[2 * z + 1, 2 * y + 1]
            row = out[z, y]
            for x in range(out.shape[2]):
                i = 2 * x
                total = (
                    np.int64(p[i]) + np.int64(p[i + 1]) + np.int64(q[i]) + np.int64(q[i + 1])
                    + np.int64(r[i]) + np.int64(r[i + 1]) + np.int64(s[i]) + np.int64(s[i + 1])
                )  # fmt: skip
                # + 3, and 1 more where the lower neighbour is odd: carries over 4/8 up, and 4/8 itself to the even one
                row[x] = (total + 3 + ((total >> 3) & 1)) >> 3


@kernel
def _mean_integers(a: Any, out: Any, fz: int, fy: int, fx: int, iz: int, iy: int, ix: int) -> None:
    """Integers of up to 32 bits; skips the corner (iz, iy, ix) of `out`, which is done already."""
    for z in range(out.shape[0]):
        z1 = min((z + 1) * fz, a.shape[0])
        for y in range(out.shape[1]):
            y1 = min((y + 1) * fy, a.shape[1])
            first = ix if z < iz and y < iy else 0
            for x in range(first, out.shape[2]):
                x1 = min((x + 1) * fx, a.shape[2])
                n = np.int64((z1 - z * fz) * (y1 - y * fy) * (x1 - x * fx))
                for c in range(out.shape[3]):
                    total = np.int64(0)
                    for k in range(z * fz, z1):
                        for j in range(y * fy, y1):
                            for i in range(x * fx, x1):
                                total += np.int64(a[k, j, i, c])
                    low = total // n
                    rest = 2 * (total - low * n)
                    if rest > n or (rest == n and low & 1):
                        low += 1
                    out[z, y, x, c] = low


@kernel
def _mean_uint64(a: Any, out: Any, fz: int, fy: int, fx: int) -> None:
    """64-bit values: quotients and remainders are summed apart, since the sum itself may not fit."""
    for z in range(out.shape[0]):
        z1 = min((z + 1) * fz, a.shape[0])
        for y in range(out.shape[1]):
            y1 = min((y + 1) * fy, a.shape[1])
            for x in range(out.shape[2]):
                x1 = min((x + 1) * fx, a.shape[2])
                n = np.uint64((z1 - z * fz) * (y1 - y * fy) * (x1 - x * fx))
                for c in range(out.shape[3]):
                    low = np.uint64(0)
                    rest = np.uint64(0)
                    for k in range(z * fz, z1):
                        for j in range(y * fy, y1):
                            for i in range(x * fx, x1):
                                low += a[k, j, i, c] // n
                                rest += a[k, j, i, c] % n
                    low += rest // n
                    rest = np.uint64(2) * (rest % n)
                    if rest > n or (rest == n and low & np.uint64(1)):
                        low += np.uint64(1)
                    out[z, y, x, c] = low


@kernel
def _mean_floats(a: Any, out: Any, fz: int, fy: int, fx: int) -> None:
    for z in range(out.shape[0]):
        z1 = min((z + 1) * fz, a.shape[0])
        for y in range(out.shape[1]):
            y1 = min((y + 1) * fy, a.shape[1])
            for x in range(out.shape[2]):
                x1 = min((x + 1) * fx, a.shape[2])
                n = (z1 - z * fz) * (y1 - y * fy) * (x1 - x * fx)
                for c in range(out.shape[3]):
                    total = 0.0
                    for k in range(z * fz, z1):
                        for j in range(y * fy, y1):
                            for i in range(x * fx, x1):
                                total += a[k, j, i, c]
                    out[z, y, x, c] = total / n
