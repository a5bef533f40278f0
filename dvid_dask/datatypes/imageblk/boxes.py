"""Boxes of voxels and blocks, and what Python's indices mean on an image. All in z, y, x."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.errors import BadRequest

from .layout import INT32_MAX, INT32_MIN, MAX_SCALES, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "blocks_of",
    "check_aligned",
    "check_blocks",
    "check_box",
    "check_scale",
    "cuts",
    "index_parts",
    "is_aligned",
    "parse_index",
    "points",
    "slices",
    "to_extents",
]


def check_scale(scale: int) -> int:
    """Refuse a scale that can't be.

    Examples
    --------
    >>> check_scale(33)
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: scale 33 is outside 0..31
    """
    if not 0 <= scale < MAX_SCALES:
        raise BadRequest(f"scale {scale} is outside 0..{MAX_SCALES - 1}")
    return scale


def check_box(offset: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """A box as integers, refused where it is empty or leaves int32."""
    if len(offset) != 3 or len(shape) != 3:
        raise BadRequest(f"a box has an offset and a shape of three numbers (z, y, x), not {offset} and {shape}")
    # no loops: for reads of single chunks every microsecond counts
    z, y, x = int(offset[0]), int(offset[1]), int(offset[2])
    d, h, w = int(shape[0]), int(shape[1]), int(shape[2])
    if d < 1 or h < 1 or w < 1:
        raise BadRequest(f"a box of shape {(d, h, w)} (z, y, x) is empty")
    if min(z, y, x) < INT32_MIN or max(z + d, y + h, x + w) - 1 > INT32_MAX:
        raise BadRequest(
            f"the box at {(z, y, x)} of shape {(d, h, w)} (z, y, x) leaves the coordinates {INT32_MIN}..{INT32_MAX}"
        )
    return (z, y, x), (d, h, w)


def to_extents(offset: tuple[int, int, int], shape: Sequence[int]) -> Box:
    """A box by its two corners."""
    z, y, x = (a + n for a, n in zip(offset, shape, strict=True))
    return Box(offset, (z, y, x))


def is_aligned(layout: Layout, offset: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a box is made of whole blocks."""
    return all(a % n == 0 and s % n == 0 for a, s, n in zip(offset, shape, layout.block, strict=True))


def check_aligned(layout: Layout, offset: Sequence[int], shape: Sequence[int]) -> None:
    """Refuse a box that is not made of whole blocks."""
    if not is_aligned(layout, offset, shape):
        at, of, block = ("_".join(map(str, reversed(v))) for v in (offset, shape, layout.block))
        raise BadRequest(f"the box at {at} of size {of} (x, y, z) is not made of whole blocks of {block}")


def check_blocks(layout: Layout, block: Sequence[int], span: int) -> tuple[int, int, int]:
    """The first of some blocks along x as integers; refused where they leave int32."""
    z, y, x = (int(v) for v in block)
    if span < 0:
        raise BadRequest(f"a span of {span} blocks: expected 0 or more")
    last = (z, y, x + max(span, 1) - 1)
    for first, end, n in zip((z, y, x), last, layout.block, strict=True):
        if first * n + n - 1 < INT32_MIN or end * n > INT32_MAX:
            raise BadRequest(f"blocks {(x, y, z)} to {last[::-1]} (x, y, z) leave the coordinates of int32")
    return z, y, x


def slices(offset: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """A box as an index of an array."""
    return tuple(slice(a, a + n) for a, n in zip(offset, shape, strict=True))


def blocks_of(layout: Layout, offset: Sequence[int], shape: Sequence[int]) -> NDArray[np.int64]:
    """The blocks that a box touches, (n, 3) in z, y, x order."""
    start = [a // n for a, n in zip(offset, layout.block, strict=True)]
    stop = [-(-(a + s) // n) for a, s, n in zip(offset, shape, layout.block, strict=True)]
    grid = np.indices([b - a for a, b in zip(start, stop, strict=True)]).reshape(3, -1).T
    return np.ascontiguousarray(grid, np.int64) + np.array(start, np.int64)


def cuts(start: int, stop: int, block: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut a line into pieces of at most `most`, at multiples of `block` where it is no longer than that.

    Examples
    --------
    >>> list(cuts(-3, 70, 32, 64)), list(cuts(0, 10, 32, 4))
    ([(-3, 32), (32, 70)], [(0, 4), (4, 8), (8, 10)])
    """
    at = start
    while at < stop:
        end = at + most
        if most >= block:
            end = max(end // block * block, at + 1)
        elif at // block != (end - 1) // block:
            end = (at // block + 1) * block
        end = min(end, stop)
        yield at, end
        at = end


def points(extents: Box | None) -> dict[str, Any]:
    """Extents in the words of the REST API."""
    if extents is None:
        return {"MinPoint": None, "MaxPoint": None}
    return {"MinPoint": list(reversed(extents.start)), "MaxPoint": [v - 1 for v in reversed(extents.stop)]}


def index_parts(key: Any, ndim: int = 3) -> list[Any]:
    """The parts of an index, one for each axis: integers, and slices."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise BadRequest("an index has at most one ellipsis")
    if dots:
        parts[dots[0] : dots[0] + 1] = [slice(None)] * (ndim - len(parts) + 1)
    if len(parts) > ndim:
        raise BadRequest(f"{len(parts)} indices for {ndim} axes")
    parts += [slice(None)] * (ndim - len(parts))
    for i, part in enumerate(parts):
        if isinstance(part, slice):
            continue
        try:
            if isinstance(part, (bool, np.bool_)):
                raise TypeError("numpy takes it for a mask, Python for 1: neither is meant")
            parts[i] = operator.index(part)
        except TypeError:
            raise BadRequest(f"an image is indexed with integers and slices, not {part!r}") from None
    return parts


def parse_index(key: Any, extents: Box | None) -> tuple[Box, tuple[Any, ...]]:
    """The box that an index means, and what drops the axes it has single numbers for."""
    low: list[int] = []
    high: list[int] = []
    drop: list[Any] = []
    for axis, part in enumerate(index_parts(key)):
        if isinstance(part, slice):
            if part.step not in (None, 1):
                raise BadRequest(f"slices of an image have no steps: {part}")
            if extents is None and (part.start is None or part.stop is None):
                raise BadRequest("nothing was written yet, so an index needs both ends of every slice")
            first = extents.start[axis] if extents is not None and part.start is None else part.start
            last = extents.stop[axis] if extents is not None and part.stop is None else part.stop
            try:
                low.append(operator.index(first))
                high.append(operator.index(last))
            except TypeError:
                raise BadRequest(f"an image is indexed with slices of integers, not {part}") from None
            drop.append(slice(None))
        else:
            low.append(part)
            high.append(part + 1)
            drop.append(0)
    offset, shape = check_box(low, [b - a for a, b in zip(low, high, strict=True)])
    return to_extents(offset, shape), tuple(drop)
