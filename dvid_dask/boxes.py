"""Boxes of voxels or blocks: half-open, (z, y, x)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["INT32_MAX", "INT32_MIN", "Box", "Point", "ceil_div"]

Point = tuple[int, int, int]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def ceil_div(a: int, b: int) -> int:
    """The quotient rounded up.

    Examples
    --------
    >>> ceil_div(7, 4), ceil_div(-7, 4)
    (2, -1)
    """
    return -(-a // b)


class Box(NamedTuple):
    """All (z, y, x) with ``start <= (z, y, x) < stop``.

    Examples
    --------
    >>> box = Box.of((0, 0, 0), (4, 4, 6))
    >>> box.shape, box.size, box.intersect(Box.of((2, 2, 2), (9, 9, 9))).shape
    ((4, 4, 6), 96, (2, 2, 4))
    >>> box.aligned((4, 4, 4)).stop
    (4, 4, 8)
    """

    start: Point
    stop: Point

    @classmethod
    def of(cls, start: Sequence[int], stop: Sequence[int]) -> Box:
        """A box from any sequences of integers."""
        (az, ay, ax), (bz, by, bx) = (int(i) for i in start), (int(i) for i in stop)
        return cls((az, ay, ax), (bz, by, bx))

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> Box:
        """The box of an array: it starts at 0."""
        return cls.of((0, 0, 0), shape)

    @property
    def shape(self) -> Point:
        """Extent in z, y, x."""
        (az, ay, ax), (bz, by, bx) = self
        return bz - az, by - ay, bx - ax

    @property
    def size(self) -> int:
        """Cells in the box; 0 when it is empty."""
        nz, ny, nx = self.shape
        return max(0, nz) * max(0, ny) * max(0, nx)

    def __bool__(self) -> bool:
        return self.size > 0

    def shift(self, by: Sequence[int]) -> Box:
        """The box moved."""
        return Box.of(
            [a + d for a, d in zip(self.start, by, strict=True)], [b + d for b, d in zip(self.stop, by, strict=True)]
        )

    def relative(self, origin: Sequence[int]) -> Box:
        """The box as seen from `origin`."""
        return self.shift([-int(o) for o in origin])

    def intersect(self, other: Box) -> Box:
        """What both have; its `size` is 0 if that is nothing."""
        return Box.of(
            [max(a, b) for a, b in zip(self.start, other.start, strict=True)],
            [min(a, b) for a, b in zip(self.stop, other.stop, strict=True)],
        )

    def union(self, other: Box) -> Box:
        """The smallest box with both."""
        return Box.of(
            [min(a, b) for a, b in zip(self.start, other.start, strict=True)],
            [max(a, b) for a, b in zip(self.stop, other.stop, strict=True)],
        )

    def contains(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return self.intersect(other) == other

    def aligned(self, step: Sequence[int]) -> Box:
        """The smallest box around it whose faces are multiples of `step`."""
        return self.cells(step).scaled(step)

    def inner(self, step: Sequence[int]) -> Box:
        """The largest box inside whose faces are multiples of `step`; may be empty."""
        return Box.of(
            [ceil_div(a, s) * s for a, s in zip(self.start, step, strict=True)],
            [b // s * s for b, s in zip(self.stop, step, strict=True)],
        )

    def cells(self, step: Sequence[int]) -> Box:
        """The cells of a grid of this pitch that the box touches."""
        return Box.of(
            [a // s for a, s in zip(self.start, step, strict=True)],
            [ceil_div(b, s) for b, s in zip(self.stop, step, strict=True)],
        )

    def scaled(self, step: Sequence[int]) -> Box:
        """The box times `step`."""
        return Box.of(
            [a * s for a, s in zip(self.start, step, strict=True)],
            [b * s for b, s in zip(self.stop, step, strict=True)],
        )

    def at_scale(self, scale: int) -> Box:
        """The voxels of a coarser scale that it touches."""
        return self.cells((1 << scale,) * 3)

    def slices(self) -> tuple[slice, slice, slice]:
        """To index an array that starts at 0."""
        (az, ay, ax), (bz, by, bx) = self
        return slice(az, bz), slice(ay, by), slice(ax, bx)

    def split(self, step: Sequence[int]) -> Iterator[Box]:
        """The pieces a grid of this pitch cuts it into, in zyx order."""
        cells = self.cells(step)
        for z, y, x in itertools.product(*(range(a, b) for a, b in zip(*cells, strict=True))):
            yield Box.of((z, y, x), (z + 1, y + 1, x + 1)).scaled(step).intersect(self)

    def __str__(self) -> str:
        return f"{self.start} to {self.stop} (z, y, x)"
