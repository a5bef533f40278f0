"""A set of blocks as a value: what is computed from regions, with the algebra as operators."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dvid_dask.errors import BadRequest
from dvid_dask.formats.distinct import distinct

from . import algebra, partition
from .partition import Partition
from .spans import INT32_MAX, INT32_MIN, Lookup, as_integers, as_spans, disjoint, fill

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MAX_MASK", "Region", "check_mask", "voxel_mask"]

MAX_MASK = 3 << 30
"""Most voxels of a mask."""

MAX_REACH = 1 << 16
"""Most blocks by which a region is dilated or eroded."""

Point = tuple[int, int, int]


class Between(Protocol):
    """Gives spans with z and y in ranges (ends inside), and maybe others."""

    def __call__(self, z: tuple[int, int], y: tuple[int, int]) -> Iterable[NDArray[np.signedinteger]]: ...


class HasRegion(Protocol):
    """A region, or what has one: an instance, or a pinned state of it."""

    @property
    def region(self) -> Region: ...


def check_mask(offset: Sequence[int], shape: Sequence[int]) -> tuple[Point, Point]:
    """A box of voxels (z, y, x) that a mask can be made of.

    Raises
    ------
    BadRequest
        It is empty, leaves int32, or has more than 3 Gi voxels.
    """
    if len(offset) != 3 or len(shape) != 3:
        raise BadRequest(f"a box has an offset and a shape of three numbers (z, y, x), not {offset} and {shape}")
    z, y, x = (int(v) for v in offset)
    d, h, w = (int(v) for v in shape)
    if min(d, h, w) < 1:
        raise BadRequest(f"a box of shape {(d, h, w)} (z, y, x) is empty")
    if min(z, y, x) < INT32_MIN or max(z + d, y + h, x + w) - 1 > INT32_MAX:
        raise BadRequest(
            f"the box at {(z, y, x)} of shape {(d, h, w)} (z, y, x) leaves the coordinates {INT32_MIN}..{INT32_MAX}"
        )
    if d * h * w > MAX_MASK:
        raise BadRequest(f"a mask of {d} x {h} x {w} voxels; at most {MAX_MASK} come at once: ask for smaller boxes")
    return (z, y, x), (d, h, w)


def voxel_mask(between: Between, block_shape: Point, offset: Point, shape: Point, scale: int = 0) -> NDArray[np.bool_]:
    """Which voxels of a box lie in blocks of spans; at a coarser scale, those whose middle does."""
    voxels = [(np.arange(a, a + n) << scale) + (1 << scale >> 1) for a, n in zip(offset, shape, strict=True)]
    blocks = [v // n for v, n in zip(voxels, block_shape, strict=True)]
    first = [int(b[0]) for b in blocks]
    last = [int(b[-1]) for b in blocks]
    grid = np.zeros([b - a + 1 for a, b in zip(first, last, strict=True)], np.bool_)
    for spans in between((first[0], last[0]), (first[1], last[1])):
        fill(disjoint(spans), first, grid)
    where = [b - a for a, b in zip(first, blocks, strict=True)]
    out: NDArray[np.bool_] = grid[np.ix_(*where)]
    return out


class Region:
    """A set of blocks. It never changes; operators make new ones.

    ``|``, ``&``, ``-`` and ``^`` are union, intersection, difference and symmetric difference, ``<=`` tells whether all
    blocks of one are in the other. Both sides must have blocks of one shape: see `rescaled`. All work on spans along x,
    so cost goes with these, not with the blocks in them.

    Parameters
    ----------
    spans
        Integers (n, 4) of z, y, x0, x1 in blocks, x1 inside, in any order; they may overlap.
    block_shape
        Voxels of a block, z, y, x.

    Attributes
    ----------
    spans : ndarray of int32
        (n, 4), in this order; they neither overlap nor touch.
    block_shape : tuple of int
        Voxels of a block, z, y, x.

    Raises
    ------
    BadRequest
        No such spans, or no such shape.

    Examples
    --------
    >>> neuropil = Region([[0, 0, 0, 9], [0, 1, 0, 9]], (32, 32, 32))
    >>> tract = Region([[0, 1, 4, 5]], (32, 32, 32))
    >>> (neuropil - tract).spans.tolist()
    [[0, 0, 0, 9], [0, 1, 0, 3], [0, 1, 6, 9]]
    >>> len(neuropil & tract), (neuropil ^ tract) == neuropil - tract, tract <= neuropil
    (2, True, True)
    >>> tract.dilated(1) & neuropil
    <Region of 8 blocks of 32 x 32 x 32 voxels, (0, 0, 3) to (1, 2, 7) (z, y, x)>
    """

    __slots__ = ("_spans", "block_shape")

    def __init__(self, spans: ArrayLike, block_shape: Sequence[int]) -> None:
        shape = tuple(int(n) for n in block_shape)
        if len(shape) != 3 or not all(1 <= n <= INT32_MAX for n in shape):
            raise BadRequest(f"a block shape is three positive integers (z, y, x), not {tuple(block_shape)}")
        self.block_shape: Point = (shape[0], shape[1], shape[2])
        self._spans = disjoint(as_spans(spans))

    def __reduce__(self) -> tuple[Any, ...]:
        return Region, (self.spans, self.block_shape)

    @classmethod
    def _of(cls, spans: NDArray[np.int64], block_shape: Point) -> Region:
        made = cls.__new__(cls)
        made._spans = spans
        made.block_shape = block_shape
        return made

    @classmethod
    def of_blocks(cls, blocks: ArrayLike, block_shape: Sequence[int]) -> Region:
        """The region of some blocks: integers (n, 3) of z, y, x, in any order.

        Raises
        ------
        BadRequest
            No integers of that shape, or outside int32.

        Examples
        --------
        >>> Region.of_blocks([[0, 0, 7], [0, 0, 6]], (64, 64, 64)).spans.tolist()
        [[0, 0, 6, 7]]
        """
        given = as_integers(blocks, 3, "blocks")
        if len(given) and (int(given.min()) < INT32_MIN or int(given.max()) > INT32_MAX):
            raise BadRequest(f"blocks lie within signed 32-bit integers: {int(given.min())} to {int(given.max())}")
        return cls([], block_shape)._with(algebra.from_blocks(given))

    @classmethod
    def of_box(cls, start: Sequence[int], stop: Sequence[int], block_shape: Sequence[int]) -> Region:
        """All blocks from `start` to before `stop` (z, y, x, in blocks).

        Examples
        --------
        >>> len(Region.of_box((0, 0, 0), (2, 3, 4), (64, 64, 64)))
        24
        """
        (az, ay, ax), (bz, by, bx) = (int(v) for v in start), (int(v) for v in stop)
        rows = max(0, bz - az) * max(0, by - ay) * (bx > ax)
        if rows > algebra.MAX_SPANS:
            raise BadRequest(f"a box of {rows:,} rows of blocks; up to {algebra.MAX_SPANS:,} are possible")
        z, y = np.divmod(np.arange(rows), max(1, by - ay))
        ends = np.full((rows, 2), (ax, bx - 1), np.int64)
        return cls(np.column_stack([z + az, y + ay, ends]), block_shape)

    def _with(self, spans: NDArray[np.int64]) -> Region:
        return Region._of(spans, self.block_shape)

    # ------------------------------------------------------------------ looking

    @property
    def region(self) -> Region:
        """Itself: so regions and instances combine with each other."""
        return self

    @property
    def spans(self) -> NDArray[np.int32]:
        """All blocks: (n, 4) of z, y, x0, x1, x1 inside, in this order."""
        return self._spans.astype(np.int32)

    def __len__(self) -> int:
        """Number of blocks."""
        return int((self._spans[:, 3] - self._spans[:, 2] + 1).sum())

    def __bool__(self) -> bool:
        return len(self._spans) > 0

    def __repr__(self) -> str:
        z, y, x = self.block_shape
        bounds = self.bounds
        where = f", {bounds[0]} to {bounds[1]} (z, y, x)" if bounds else ""
        return f"<Region of {len(self):,} blocks of {z} x {y} x {x} voxels{where}>"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Region)
            and other.block_shape == self.block_shape
            and np.array_equal(other._spans, self._spans)
        )

    def __hash__(self) -> int:
        return hash((self.block_shape, self._spans.tobytes()))

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        z, y, x = self.block_shape
        return len(self) * z * y * x

    def volume(self, voxel_size: Sequence[float]) -> float:
        """Volume in the world, in cubes of the unit of `voxel_size` (z, y, x).

        Examples
        --------
        >>> Region([[0, 0, 0, 1]], (64, 64, 64)).volume((0.008, 0.008, 0.008))  # micrometres
        0.268435456
        """
        z, y, x = (float(v) for v in voxel_size)
        if not all(0 < v < float("inf") for v in (z, y, x)):
            raise BadRequest(f"the size of a voxel is three positive numbers (z, y, x), not {tuple(voxel_size)}")
        return self.voxels * z * y * x

    @property
    def bounds(self) -> tuple[Point, Point] | None:
        """First and one past the last block (z, y, x); None when it is empty."""
        if not self:
            return None
        low = self._spans[:, :3].min(axis=0).tolist()
        high = (self._spans[:, [0, 1, 3]].max(axis=0) + 1).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    @property
    def voxel_bounds(self) -> tuple[Point, Point] | None:
        """First and one past the last voxel (z, y, x); None when it is empty."""
        bounds = self.bounds
        if bounds is None:
            return None
        (a, b, c), (d, e, f) = bounds
        z, y, x = self.block_shape
        return (a * z, b * y, c * x), (d * z, e * y, f * x)

    def blocks(self, together: int = 1 << 20) -> Iterator[NDArray[np.int64]]:
        """All blocks in order, (n, 3) of z, y, x, in arrays of at most `together` blocks."""
        lengths = self._spans[:, 3] - self._spans[:, 2] + 1
        ends = np.cumsum(lengths)
        for at in range(0, len(self), together):
            numbers = np.arange(at, min(at + together, int(ends[-1])))
            span = np.searchsorted(ends, numbers, "right")
            x = self._spans[span, 3] - (ends[span] - 1 - numbers)
            yield np.column_stack([self._spans[span, :2], x])

    def contains_blocks(self, blocks: ArrayLike) -> NDArray[np.bool_]:
        """Whether blocks are in the region: integers (n, 3) of z, y, x.

        Raises
        ------
        BadRequest
            No integers of that shape.
        """
        wanted = as_integers(blocks, 3, "blocks")
        out = np.zeros(len(wanted), np.bool_)
        known = np.flatnonzero(((wanted >= INT32_MIN) & (wanted <= INT32_MAX)).all(axis=1))
        out[known] = Lookup(self._spans).contains(wanted[known])
        return out

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether voxels are in the region: integers (n, 3) of z, y, x.

        Raises
        ------
        BadRequest
            No integers of that shape.
        """
        return self.contains_blocks(as_integers(points, 3, "points") // np.array(self.block_shape, np.int64))

    def mask(self, offset: Sequence[int], shape: Sequence[int], scale: int = 0) -> NDArray[np.bool_]:
        """Which voxels of a box (z, y, x) are in the region.

        Parameters
        ----------
        offset, shape
            The box, in voxels of `scale`.
        scale
            0 is full resolution. Of a coarser scale those voxels are in the region whose middle is.

        Raises
        ------
        BadRequest
            An empty box, one that leaves int32, or one of more than 3 Gi voxels.

        Examples
        --------
        >>> Region([[0, 0, 1, 1]], (32, 32, 32)).mask((0, 0, 14), (1, 1, 4), scale=1)
        array([[[False, False,  True,  True]]])
        """
        return voxel_mask(self._between, self.block_shape, *check_mask(offset, shape), scale)

    def _between(self, z: tuple[int, int], y: tuple[int, int]) -> Iterator[NDArray[np.int64]]:
        layers = self._layers(*z)
        yield layers[(layers[:, 1] >= y[0]) & (layers[:, 1] <= y[1])]

    def _layers(self, first: int, last: int) -> NDArray[np.int64]:
        a, b = np.searchsorted(self._spans[:, 0], (first, last + 1))
        return self._spans[a:b]

    def partition(self, batch: int, *, optimized: bool = False) -> Partition:
        """Cut the region into subvolumes of about `batch` blocks a side; see `PinnedRoi.partition`."""
        partition.check_batch(batch)
        cut = partition.optimized if optimized else partition.simple
        return cut(self._layers, distinct(self._spans[:, 0]).tolist(), batch, self.block_shape)

    # ------------------------------------------------------------------ algebra

    def _same(self, other: object) -> NDArray[np.int64]:
        other = getattr(other, "region", other)  # of an instance
        if not isinstance(other, Region):
            raise TypeError(f"a region combines with a region, not with a {type(other).__name__}")
        if other.block_shape != self.block_shape:
            raise BadRequest(
                f"regions of blocks of {self.block_shape} and {other.block_shape} voxels (z, y, x) can't be combined: "
                "use `rescaled` on one of them"
            )
        return other._spans

    def __or__(self, other: HasRegion) -> Region:
        return self._with(algebra.combine(self._spans, self._same(other), np.logical_or))

    def __and__(self, other: HasRegion) -> Region:
        return self._with(algebra.combine(self._spans, self._same(other), np.logical_and))

    def __sub__(self, other: HasRegion) -> Region:
        return self._with(algebra.combine(self._spans, self._same(other), np.greater))

    def __xor__(self, other: HasRegion) -> Region:
        return self._with(algebra.combine(self._spans, self._same(other), np.logical_xor))

    def __le__(self, other: Region) -> bool:
        return not self - other

    def __ge__(self, other: Region) -> bool:
        return not other - self

    def clipped(self, start: Sequence[int], stop: Sequence[int]) -> Region:
        """The blocks of the region from `start` to before `stop` (z, y, x, in blocks).

        Examples
        --------
        >>> Region([[0, 0, 0, 9], [5, 0, 0, 9]], (64, 64, 64)).clipped((0, 0, 7), (2, 2, 20)).spans.tolist()
        [[0, 0, 7, 9]]
        """
        part = self._layers(int(start[0]), int(stop[0]) - 1)
        part = part[(part[:, 1] >= start[1]) & (part[:, 1] < stop[1])].copy()
        part[:, 2] = np.maximum(part[:, 2], start[2])
        part[:, 3] = np.minimum(part[:, 3], stop[2] - 1)
        return self._with(part[part[:, 2] <= part[:, 3]])

    def isdisjoint(self, other: Region) -> bool:
        """Whether no block is in both."""
        return not self & other

    def dilated(self, by: int | Sequence[int]) -> Region:
        """All blocks within `by` blocks of one of the region along each axis.

        Parameters
        ----------
        by
            Blocks, one number or z, y, x; up to 65536. Blocks outside int32 are left out.

        Raises
        ------
        BadRequest
            No such numbers, or the result would have more than 2^26 spans.
        """
        return self._with(algebra.dilate(self._spans, _reach(by)))

    def eroded(self, by: int | Sequence[int]) -> Region:
        """All blocks whose neighbours within `by` blocks along each axis are all in the region.

        Parameters
        ----------
        by
            Blocks, one number or z, y, x; up to 65536. What lies outside int32 is in no region.

        Raises
        ------
        BadRequest
            No such numbers.
        """
        return self._with(algebra.erode(self._spans, _reach(by)))

    def components(self, *, corners: bool = False) -> list[Region]:
        """The connected parts, the one of most blocks first.

        Parameters
        ----------
        corners
            Blocks that share an edge or a corner are connected, not only those that share a face.

        Examples
        --------
        >>> [len(part) for part in Region([[0, 0, 0, 0], [0, 0, 5, 9], [1, 0, 9, 12]], (64, 64, 64)).components()]
        [9, 1]
        """
        count, which = algebra.components(self._spans, corners)
        if not count:
            return []
        sizes = np.bincount(which, self._spans[:, 3] - self._spans[:, 2] + 1, count)
        # the first of a part's spans decides among parts of one size
        rank = np.empty(count, np.int64)
        rank[np.lexsort((np.unique(which, return_index=True)[1], -sizes))] = np.arange(count)
        order = np.argsort(rank[which], kind="stable")
        parts = np.split(self._spans[order], np.flatnonzero(np.diff(rank[which][order])) + 1)
        return [self._with(part) for part in parts]

    def rescaled(self, block_shape: Sequence[int], rule: str = "any") -> Region:
        """The region in blocks of another size.

        Parameters
        ----------
        block_shape
            Voxels of the new blocks, z, y, x.
        rule
            Which of them are in it: those with ``"any"`` voxel in the region, with ``"all"`` of them, or with their
            ``"middle"`` one, as masks of voxel reads have it.

        Raises
        ------
        BadRequest
            No such rule or shape; the result leaves int32, or would have more than 2^26 spans.

        Examples
        --------
        >>> small = Region([[0, 0, 1, 4]], (32, 64, 32))
        >>> {rule: small.rescaled((64, 64, 64), rule).spans.tolist() for rule in ("any", "all", "middle")}
        {'any': [[0, 0, 0, 2]], 'all': [], 'middle': []}
        >>> small.rescaled((16, 64, 32), "all").spans.tolist()
        [[0, 0, 1, 4], [1, 0, 1, 4]]
        """
        out = Region([], block_shape)
        if rule == "middle":
            return out._with(algebra.rescale_middle(self._spans, self.block_shape, out.block_shape))
        covered = out._with(algebra.rescale_any(self._spans, self.block_shape, out.block_shape))
        if rule == "any" or not covered:
            return covered
        if rule != "all":
            raise BadRequest(f"rule {rule!r} is unknown: choose any, all or middle")
        # a block lies in the region as a whole if no voxel of it is outside; around these blocks, that can be looked at
        around = self._with(algebra.rescale_any(covered._spans, out.block_shape, self.block_shape))
        outside = around - self
        return covered - out._with(algebra.rescale_any(outside._spans, self.block_shape, out.block_shape))


def _reach(by: int | Sequence[int]) -> Point:
    numbers = list(by) if isinstance(by, Sequence) else [by] * 3
    if len(numbers) != 3 or not all(isinstance(n, (int, np.integer)) and 0 <= n <= MAX_REACH for n in numbers):
        raise BadRequest(f"a distance is one or three numbers (z, y, x) of blocks from 0 to {MAX_REACH}, not {by}")
    z, y, x = (int(n) for n in numbers)
    return z, y, x
