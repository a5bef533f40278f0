"""Regions of interest: sets of blocks, as spans along x.

Storage, below the instance's prefix:

===============================  ==================================================
``r`` z, y >> 8                  spans of one z and 256 y: big-endian, biased so that they sort as signed numbers
``w``                            id of the mutation that wrote last
===============================  ==================================================

A change rewrites the pages that it changes. ``w`` makes two writers of one region notice each other: the second one
begins again on what the first one left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace, register
from dvid_dask.errors import BadRequest
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.formats.errors import FormatError
from dvid_dask.versions.records import go_time
from dvid_dask.versions.settings import setting_text

from . import partition as partitions
from .algebra import combine
from .partition import Partition, check_batch
from .region import HasRegion, Region, check_mask, voxel_mask
from .spans import INT32_MAX, INT32_MIN, Lookup, as_integers, as_spans, disjoint, row_keys

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["PinnedRoi", "Roi"]

PIECE = 1 << 25
"""Voxels of a mask that are made at a time, when it comes in pieces."""

_PAGE, _LAST = b"r", b"w"
_PAGE_BITS = 8
_FORMAT = 1
_SPAN_BYTES = 9
_MAX_PAGE = 1 << 32

#: Pages that are decoded together.
_TOGETHER = 512

_INTEGER = re.compile(r"[+-]?[0-9]{1,11}")


# ---------------------------------------------------------------------- pages


def _keys_of(pages: NDArray[np.uint64]) -> list[bytes]:
    """Keys of pages, from numbers made by `row_keys`."""
    data = pages.astype(">u8").tobytes()
    return [_PAGE + data[at : at + 8] for at in range(0, len(data), 8)]


def _key(z: int, page: int) -> bytes:
    return _PAGE + (z + 2**31).to_bytes(4, "big") + (page + 2**31).to_bytes(4, "big")


def _place(key: bytes) -> tuple[int, int]:
    """The z of a page and its number along y."""
    return int.from_bytes(key[1:5], "big") - 2**31, int.from_bytes(key[5:9], "big") - 2**31


def _encode(spans: NDArray[np.int32]) -> bytes:
    low = spans[:, 1].astype(np.uint8)  # within the page
    length = (spans[:, 3].astype(np.int64) - spans[:, 2]).astype("<u4")
    columns = low.tobytes() + spans[:, 2].astype("<i4").tobytes() + length.tobytes()
    return bytes([_FORMAT]) + zstd_compress(columns)


def _decode(key: bytes, value: bytes) -> NDArray[np.int32]:
    if value[:1] != bytes([_FORMAT]):
        raise FormatError(f"page {key!r} of a region has form {value[:1]!r}; this program knows {_FORMAT}")
    data = zstd_decompress(value[1:], _MAX_PAGE)
    count, rest = divmod(len(data), _SPAN_BYTES)
    if rest:
        raise FormatError(f"page {key!r} of a region holds {len(data)} bytes, no multiple of {_SPAN_BYTES}")
    z, page = _place(key)
    spans = np.empty((count, 4), np.int32)
    spans[:, 0] = z
    spans[:, 1] = (page << _PAGE_BITS) + np.frombuffer(data, np.uint8, count).astype(np.int64)
    spans[:, 2] = np.frombuffer(data, "<i4", count, count)
    spans[:, 3] = spans[:, 2] + np.frombuffer(data, "<u4", count, 5 * count).astype(np.int64)
    return spans


def _pages(spans: NDArray[np.int32]) -> dict[bytes, bytes]:
    """Sorted spans as pages."""
    if not len(spans):
        return {}
    numbers = row_keys(spans[:, 0], spans[:, 1] >> _PAGE_BITS)
    cuts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    keys = _keys_of(numbers[np.concatenate([[0], cuts])])
    return {key: _encode(part) for key, part in zip(keys, np.split(spans, cuts), strict=True)}


def _joined(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(parts) if parts else np.empty((0, 4), np.int32)


# ---------------------------------------------------------------------- reading


class PinnedRoi:
    """One state of a region, whatever is written meanwhile. It pickles, and reads the same anywhere.

    Parameters
    ----------
    space : Space
        The region's keys.
    block_shape : tuple of int
        Voxels of a block, z, y, x.
    """

    def __init__(self, space: Space, block_shape: tuple[int, int, int]) -> None:
        self._space = space
        self.block_shape = block_shape

    def __reduce__(self) -> tuple[type[PinnedRoi], tuple[Space, tuple[int, int, int]]]:
        return PinnedRoi, (self._space, self.block_shape)

    def parts(self) -> Iterator[NDArray[np.int32]]:
        """All spans in order, in arrays of bounded size."""
        for key, value in self._space.scan(_PAGE):
            yield _decode(key, value)

    @property
    def spans(self) -> NDArray[np.int32]:
        """All spans: (n, 4) of z, y, x0, x1 in blocks, x1 inside, in this order."""
        return _joined(list(self.parts()))

    @property
    def region(self) -> Region:
        """The set of blocks, in memory as a whole, for algebra: see `Region`."""
        return Region(self.spans, self.block_shape)

    def _zs(self) -> list[int]:
        """Each z of which there are spans."""
        return list(dict.fromkeys(_place(key)[0] for key in self._space.keys(_PAGE)))

    @property
    def z_bounds(self) -> tuple[int, int] | None:
        """First and last z of blocks; None when there are none."""
        zs = self._zs()
        return (zs[0], zs[-1]) if zs else None

    def _between(self, z: tuple[int, int], y: tuple[int, int]) -> Iterator[NDArray[np.int32]]:
        """Spans of the pages that a range of blocks touches (ends inside, within int32), many pages at a time."""
        first, last = y[0] >> _PAGE_BITS, y[1] >> _PAGE_BITS
        wanted: list[bytes] = []
        for key in self._space.keys(_PAGE, _key(z[0], first), _key(z[1], last) + b"\0"):
            if first <= _place(key)[1] <= last:
                wanted.append(key)
            if len(wanted) == _TOGETHER:
                yield self._fetch(wanted)
                wanted = []
        if wanted:
            yield self._fetch(wanted)

    def _fetch(self, keys: Sequence[bytes]) -> NDArray[np.int32]:
        found = zip(keys, self._space.get_many(keys), strict=True)
        return _joined([_decode(key, value) for key, value in found if value is not None])

    def contains_blocks(self, blocks: ArrayLike, block_shape: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Whether blocks are in the region.

        Parameters
        ----------
        blocks
            Integers (n, 3): z, y, x in blocks.
        block_shape
            Voxels (z, y, x) of these blocks, where that may not be the region's own. A block of another size is in the
            region if its middle voxel is.

        Returns
        -------
        ndarray of bool
            One for each block.

        Raises
        ------
        BadRequest
            No integers of that shape.
        """
        wanted = as_integers(blocks, 3, "blocks")
        if block_shape is not None and tuple(block_shape) != self.block_shape:
            theirs = np.array(block_shape, np.int64)
            wanted = (wanted * theirs + theirs // 2) // np.array(self.block_shape, np.int64)
        out = np.zeros(len(wanted), np.bool_)
        known = np.flatnonzero(((wanted >= INT32_MIN) & (wanted <= INT32_MAX)).all(axis=1))
        numbers = row_keys(wanted[known, 0], wanted[known, 1] >> _PAGE_BITS)
        order = np.argsort(numbers, kind="stable")
        known, numbers = known[order], numbers[order]
        pages, begins = np.unique(numbers, return_index=True)
        for at in range(0, len(pages), _TOGETHER):
            spans = self._fetch(_keys_of(pages[at : at + _TOGETHER]))
            stop = begins[at + _TOGETHER] if at + _TOGETHER < len(pages) else len(known)
            some = known[begins[at] : stop]
            out[some] = Lookup(disjoint(spans)).contains(wanted[some])
        return out

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether voxels are in the region.

        Parameters
        ----------
        points
            Integers (n, 3): z, y, x in voxels.

        Returns
        -------
        ndarray of bool
            One for each point.

        Raises
        ------
        BadRequest
            No integers of that shape.
        """
        return self.contains_blocks(as_integers(points, 3, "points") // np.array(self.block_shape, np.int64))

    def mask(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[np.bool_]:
        """Which voxels of a box are in the region.

        Parameters
        ----------
        offset, shape
            The box in voxels, z, y, x; any alignment.

        Raises
        ------
        BadRequest
            An empty box, one that leaves int32, or one of more than 3 Gi voxels.
        """
        return self._mask(*check_mask(offset, shape))

    def mask_parts(self, offset: Sequence[int], shape: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
        """`mask` as boxes one after the other in the order of voxels, in bounded memory. Errors as `mask`, at once."""
        at, size = check_mask(offset, shape)
        return (self._mask(*box) for box in _cut(at, size, PIECE))

    def _mask(self, offset: tuple[int, int, int], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        return voxel_mask(self._between, self.block_shape, offset, shape)

    def partition(self, batch: int, *, optimized: bool = False) -> Partition:
        """Cut the region into subvolumes of about `batch` blocks a side, in order of z, y, x.

        Parameters
        ----------
        batch
            Blocks.
        optimized
            Boxes that fit the region, instead of cubes that may reach beyond it; `dvid_dask.datatypes.roi.partition`
            tells how both go about it.

        Raises
        ------
        BadRequest
            `batch` is not from 1 to 2^20, or there would be more than 2^22 subvolumes.
        """
        check_batch(batch)
        cut = partitions.optimized if optimized else partitions.simple

        def layer(first: int, last: int) -> NDArray[np.int32]:
            whole = (INT32_MIN, INT32_MAX)
            return _joined(list(self._between((max(first, INT32_MIN), min(last, INT32_MAX)), whole)))

        return cut(layer, self._zs(), batch, self.block_shape)


def _cut(
    offset: tuple[int, int, int], shape: tuple[int, int, int], most: int
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """A box as boxes of at most `most` voxels, in the order of voxels.

    Examples
    --------
    >>> list(_cut((0, 0, 0), (2, 3, 4), 8))
    [((0, 0, 0), (1, 2, 4)), ((0, 2, 0), (1, 1, 4)), ((1, 0, 0), (1, 2, 4)), ((1, 2, 0), (1, 1, 4))]
    """
    z, y, x = offset
    d, h, w = shape
    thick, high, wide = max(1, most // (h * w)), max(1, min(h, most // w)), min(w, most)
    for a in range(0, d, thick):
        for b in range(0, h, high):
            for c in range(0, w, wide):
                yield (z + a, y + b, x + c), (min(thick, d - a), min(high, h - b), min(wide, w - c))


# ---------------------------------------------------------------------- the datatype


@register
class Roi(Datatype):
    """A region of interest at a version: a set of blocks, given and kept as spans along x.

    Blocks have a size of their own, which is not versioned. Arrays and coordinates are z, y, x; a span is z, y, x0, x1
    in blocks, x1 inside. Coordinates may be negative.

    Used as a mask of an image or a segmentation, a region says which *blocks* of that are seen. Blocks of another size
    than its own are, if their middle voxel is in the region.

    Every write is one atomic commit. All reads of one call see one state; `pin` keeps one for several calls.

    Examples
    --------
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> area = repo.new_instance("roi", "area", {"blocksize": "64,64,64"})
    >>> area.replace([[0, 0, 2, 5], [-1, 0, 3, 3]])
    >>> area.spans
    array([[-1,  0,  3,  3],
           [ 0,  0,  2,  5]], dtype=int32)
    >>> area.contains([[0, 0, 128], [-1, 63, 200], [-1, 63, 0]])
    array([ True,  True, False])
    >>> area.mask((0, 0, 126), (1, 1, 4))
    array([[[False, False,  True,  True]]])
    >>> cubes = area.partition(2)
    >>> cubes.active.tolist(), cubes.start.tolist()
    ([3, 2], [[-1, 0, 2], [-1, 0, 4]])
    """

    typename: ClassVar[str] = "roi"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/roi"
    reads_by_post: ClassVar[frozenset[str]] = frozenset({"ptquery"})
    #: a page that one side emptied and the other changed is settled too, block by block
    merges_by_meaning: ClassVar[bool] = True

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``BlockSize``: voxels of a block, ``"x,y,z"``; 32 each by default."""
        text = setting_text(config, "blocksize")
        if text is None:
            return {"BlockSize": [32, 32, 32]}
        parts = [part.strip() for part in text.split(",")]
        size = [int(part) for part in parts if _INTEGER.fullmatch(part)]
        if len(parts) != 3 or len(size) != 3 or not all(1 <= n <= INT32_MAX for n in size):
            raise BadRequest(
                f"setting BlockSize: {text[:80]!r} is not of the form x,y,z with integers from 1 to {INT32_MAX}"
            )
        return {"BlockSize": size}

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of a block, z, y, x."""
        x, y, z = self.info.settings["BlockSize"]
        return z, y, x

    def extended(self) -> dict[str, Any]:
        """Block size (x, y, z) and the first and last z of blocks at this version, swapped when it is empty."""
        low, high = self.z_bounds or (INT32_MAX, INT32_MIN)
        return {"BlockSize": self.info.settings["BlockSize"], "MinZ": low, "MaxZ": high}

    # ------------------------------------------------------------------ reading

    def pin(self) -> PinnedRoi:
        """Today's state, for several reads that belong together; it pickles."""
        return PinnedRoi(self.view(), self.block_shape)

    @property
    def spans(self) -> NDArray[np.int32]:
        """All spans as they were given: (n, 4) of z, y, x0, x1 in blocks, x1 inside, in this order, each once."""
        return self.pin().spans

    @property
    def z_bounds(self) -> tuple[int, int] | None:
        """First and last z of blocks at this version; None when it is empty."""
        return self.pin().z_bounds

    @property
    def region(self) -> Region:
        """Today's set of blocks as a value, for algebra: see `Region`."""
        return self.pin().region

    def __or__(self, other: HasRegion) -> Region:
        """The blocks that are in either, as a `Region`; their block shapes must be the same."""
        return self.region | other.region

    def __and__(self, other: HasRegion) -> Region:
        """The blocks that are in both, as a `Region`."""
        return self.region & other.region

    def __sub__(self, other: HasRegion) -> Region:
        """The blocks that are in this one only, as a `Region`."""
        return self.region - other.region

    def __xor__(self, other: HasRegion) -> Region:
        """The blocks that are in one of the two only, as a `Region`."""
        return self.region ^ other.region

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether voxels (n, 3; z, y, x) are in the region; see `PinnedRoi.contains`."""
        return self.pin().contains(points)

    def contains_blocks(self, blocks: ArrayLike, block_shape: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Whether blocks (n, 3; z, y, x) are in the region; see `PinnedRoi.contains_blocks`."""
        return self.pin().contains_blocks(blocks, block_shape)

    def mask(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[np.bool_]:
        """Which voxels of a box (z, y, x) are in the region; see `PinnedRoi.mask`."""
        return self.pin().mask(offset, shape)

    def partition(self, batch: int, *, optimized: bool = False) -> Partition:
        """Cut the region into subvolumes for work in batches; see `PinnedRoi.partition`."""
        return self.pin().partition(batch, optimized=optimized)

    # ------------------------------------------------------------------ writing

    def replace(self, spans: ArrayLike | Region | Roi, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Make these the region's spans at this version.

        Costs what it changes: spans that are there already are only compared.

        Parameters
        ----------
        spans
            Integers (n, 4) of z, y, x0, x1 in blocks, x1 inside, in any order. Repetitions count once; overlaps stay.
            Or a `Region` or another `Roi` of the same block shape.
        user, app, force
            As `Datatype.mutate`.

        Raises
        ------
        BadRequest
            Another shape, outside int32, a span that ends before it begins, or a region of another block shape; nothing
            was changed.
        LockedVersion
            The version is committed.
        """
        checked = as_spans(self._own(spans))
        self.check_open(force)
        wanted = _pages(checked)

        def change(m: Mutation, space: TxSpace) -> None:
            self._write(m, space, wanted)
            m.log(self, {"Action": "post-roi", "Spans": len(checked), **self._stamp(m)})

        self.mutate(change, user=user, app=app, force=force)

    def clear(self, *, user: str = "", app: str = "", force: bool = False) -> None:
        """Remove all spans at this version.

        Raises
        ------
        LockedVersion
            The version is committed.
        """

        def change(m: Mutation, space: TxSpace) -> None:
            self._write(m, space, {})
            m.log(self, {"Action": "delete-roi", **self._stamp(m)})

        self.mutate(change, user=user, app=app, force=force)

    def _own(self, spans: ArrayLike | Region | Roi) -> ArrayLike:
        """Spans in this region's own blocks."""
        if not isinstance(spans, (Region, Roi)):
            return spans
        given = spans.region
        if given.block_shape != self.block_shape:
            raise BadRequest(
                f"{self.name!r} has blocks of {self.block_shape} voxels (z, y, x), the region given has "
                f"{given.block_shape}: use `rescaled` on it"
            )
        return given.spans

    def _write(self, m: Mutation, space: TxSpace, wanted: Mapping[bytes, bytes]) -> None:
        space.get(_LAST)  # a write by another one, since then, has this one begin again
        held = dict(space.scan(_PAGE))
        changed = [(key, value) for key, value in wanted.items() if held.get(key) != value]
        gone = [key for key in held if key not in wanted]
        space.put_many(changed)
        for key in gone:
            space.delete(key)
        if changed or gone:
            space.put(_LAST, b"%d" % m.id)

    def _stamp(self, m: Mutation) -> dict[str, str]:
        return {"Timestamp": go_time(m.time), "UUID": self.version.uuid}

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """First and one past the last block (z, y) of the page."""
        if key[:1] != _PAGE:
            return None
        z, page = _place(key)
        return (z, page << _PAGE_BITS), (z + 1, (page + 1) << _PAGE_BITS)

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """A block that all parents kept, or that one of them added, is in the region: parents can't contradict.

        Where both changed the same page its spans are then those that neither overlap nor touch.
        """
        if key[:1] != _PAGE:
            return max((value for value in values if value is not None), key=lambda v: (len(v), v), default=None)
        old, *sides = (disjoint(_decode(key, v) if v is not None else as_spans([])) for v in (base, *values))
        kept = reduce(partial(combine, keep=np.logical_and), sides, old)
        added = reduce(partial(combine, keep=np.logical_or), (combine(s, old, np.greater) for s in sides))
        merged = combine(kept, added, np.logical_or)
        return _encode(merged.astype(np.int32)) if len(merged) else None
