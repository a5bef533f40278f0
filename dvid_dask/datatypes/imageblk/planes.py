"""Geometry of 2-d views: how much of a slice to fetch for square pixels, and planes of any orientation.

Points are x, y, z here, as in requests and in DVID's arithmetic, which these functions repeat operation by operation
(single precision for the sizes of slices, repeated addition for the points of planes), so that the same voxels are hit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.errors import BadRequest

from .layout import INT32_MAX, INT32_MIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ArbitraryPlane", "interpolate", "isotropic_size"]


def isotropic_size(size: Sequence[int], lengths: Sequence[float]) -> tuple[int, int]:
    """The slice to fetch so that, scaled to `size`, its pixels are square.

    Parameters
    ----------
    size
        Width and height of the picture.
    lengths
        Of a voxel along the picture's width and height.

    Raises
    ------
    BadRequest
        Voxels are so long beside their width that nothing, or more than fits, would be fetched.

    Examples
    --------
    >>> isotropic_size((64, 60), (4, 40))
    (64, 6)
    >>> isotropic_size((60, 30), (8, 4))
    (30, 30)
    """
    width, height = size
    across, down = np.float32(lengths[0]), np.float32(lengths[1])
    with np.errstate(over="ignore"):
        if across < down:
            out = (float(width), float(np.float32(height) * across / down) + 0.5)
        elif across > down:
            out = (float(np.float32(width) * down / across) + 0.5, float(height))
        else:
            return width, height
    if not all(1 <= side <= INT32_MAX for side in out):
        raise BadRequest(
            f"a picture of {width}x{height} from voxels of {across:g} by {down:g} would need a slice "
            f"of {out[0]:g} x {out[1]:g}: ask for another size, or for raw instead of isotropic"
        )
    return int(out[0]), int(out[1])


class ArbitraryPlane:
    """A grid of points spanned by three corners, in physical units.

    Parameters
    ----------
    top_left, top_right, bottom_left
        x, y, z.
    resolution
        Distance of neighbouring points.
    voxel_size
        x, y, z, in the same unit.

    Raises
    ------
    BadRequest
        Numbers that are not finite, a resolution that is not positive, a plane that leaves the coordinate range.

    Examples
    --------
    >>> plane = ArbitraryPlane((0, 0, 80), (496, 0, 80), (0, 80, 80), 8, (8, 8, 8))
    >>> plane.width, plane.height
    (63, 11)
    """

    def __init__(
        self,
        top_left: Sequence[float],
        top_right: Sequence[float],
        bottom_left: Sequence[float],
        resolution: float,
        voxel_size: Sequence[float],
    ) -> None:
        corners = np.array([top_left, top_right, bottom_left], float)
        if not np.isfinite(corners).all():
            raise BadRequest("the corners of a plane must be finite numbers")
        if not (math.isfinite(resolution) and resolution > 0):
            raise BadRequest(f"the resolution of a plane must be a positive number, not {resolution:g}")
        self._voxel_size = np.asarray(voxel_size, float)
        fourth = corners[1] + corners[2] - corners[0]
        voxels = np.vstack([corners, fourth]) / self._voxel_size
        # a margin of a voxel for what repeated addition adds
        if voxels.min() < INT32_MIN + 1 or voxels.max() > INT32_MAX - 1:
            raise BadRequest(f"the plane leaves the voxel coordinates {INT32_MIN}..{INT32_MAX}")
        self._start = corners[0]
        spans = [corners[1] - corners[0], corners[2] - corners[0]]
        sides = [float(np.sqrt((span * span).sum())) for span in spans]
        if max(sides) / resolution > INT32_MAX:
            raise BadRequest(f"a plane of {sides[0]:g} by {sides[1]:g} at the resolution {resolution:g} is too large")
        steps = [math.floor(side / resolution) for side in sides]
        self.width, self.height = (n + 1 for n in steps)
        self._right, self._down = (span / n if n else np.zeros(3) for span, n in zip(spans, steps, strict=True))

    def rows(self, points: int) -> Iterator[NDArray[np.float64]]:
        """The points of some rows at a time, (rows, width, 3), about `points` of them."""
        many = max(1, points // self.width)
        at = self._start
        for first in range(0, self.height, many):
            count = min(many, self.height - first)
            starts = np.add.accumulate(np.vstack([at, np.tile(self._down, (count, 1))]), axis=0)
            at = starts[-1]
            line = np.empty((count, self.width, 3))
            line[:, 0] = starts[:-1]
            line[:, 1:] = self._right
            yield np.add.accumulate(line, axis=1)

    def corners(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The 8 voxels around each of (n, 3) points, and their weights.

        Returns
        -------
        voxels
            (8, n, 3) in x, y, z.
        weights
            (8, n).
        """
        size = self._voxel_size
        low = np.floor(points / size)
        high = np.ceil(points / size)
        part = np.where(low == high, 0.0, (points - low * size) / size)
        voxels = np.empty((8, len(points), 3), np.int64)
        weights = np.ones((8, len(points)))
        for corner in range(8):
            for axis in range(3):
                upper = corner >> axis & 1
                voxels[corner, :, axis] = (high if upper else low)[:, axis]
                weights[corner] *= part[:, axis] if upper else 1 - part[:, axis]
        return voxels, weights


def interpolate(values: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[Any]:
    """The weighted mean of 8 values each; integers are rounded, halves up.

    Parameters
    ----------
    values
        (8, n) or (8, n, channels).
    weights
        (8, n), with a sum of 1 over the first axis.

    Examples
    --------
    >>> interpolate(np.array([[1], [2]] + [[0]] * 6, np.uint8), np.array([[0.5], [0.5]] + [[0.0]] * 6))
    array([2], dtype=uint8)
    """
    dtype = values.dtype
    if values.ndim == 3:
        weights = weights[..., np.newaxis]
    if dtype.kind == "f":
        # a voxel without weight has no say, be it infinite
        with np.errstate(invalid="ignore", over="ignore"):
            sums: NDArray[Any] = np.where(weights == 0, 0, values * weights).sum(axis=0)
            return sums.astype(dtype)
    if dtype.itemsize < 8:
        mixed: NDArray[Any] = np.floor((values * weights).sum(axis=0) + 0.5)
        np.clip(mixed, 0, np.iinfo(dtype).max, out=mixed)
        return mixed.astype(dtype)
    # uint64 does not fit a float: mix the distances from the first value instead
    first = values[0]
    above = np.where(values >= first, values - first, 0).astype(float)
    below = np.where(values < first, first - values, 0).astype(float)
    shift = np.floor(((above - below) * weights).sum(axis=0) + 0.5)
    limit = np.nextafter(2.0**64, 0)
    up = first + np.clip(shift, 0, limit).astype(dtype)
    down = first - np.clip(-shift, 0, limit).astype(dtype)
    # a distance that was rounded up may lead past the end of the range
    up = np.where(up < first, np.iinfo(dtype).max, up)
    down = np.where(down > first, 0, down)
    out: NDArray[Any] = np.where(shift >= 0, up, down)
    return out.astype(dtype)
