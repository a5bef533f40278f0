"""Images that stand on a base: blocks that were written, over the voxels of a volume that others keep.

A scale exists where blocks of it were written, or the base has it. A block is where it was written, or where it touches
the base's extents: then its voxels are the base's, and 0 outside of those. Blocks that are written hold all of their
voxels, so what a block reads is either its own or the base's, never a mixture.

A box costs one read of the base, and one look whether blocks of it were written, in memory where that is known
(`dvid_dask.datatypes.written`), else in the tree.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from dvid_dask.bases import Base
from dvid_dask.boxes import Box
from dvid_dask.datatypes.written import Written, written_blocks
from dvid_dask.formats.compression import zstd_compress
from dvid_dask.formats.distinct import distinct_rows, numbered_rows
from dvid_dask.versions.space import Space

from . import layout as layouts
from .layout import JPEG_QUALITY, MAX_SCALES, Layout, Voxels, codec_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.versions.space import TxSpace

__all__ = ["AdoptedLayout"]

# Up to this many blocks are looked up one by one: cheaper than listing.
_FEW = 4
# As many where keys are not in the order of coordinates; beyond, all keys are gone through.
_MANY = 4096
_READERS = 4
_NONE = np.empty((0, 3), np.int64)


class AdoptedLayout(Layout, frozen=True, kw_only=True):
    """As `Layout`, over a base."""

    base: Base

    def _plain(self) -> Layout:
        return Layout(self.dtype, self.channels, self.block, self.jpeg)

    # ------------------------------------------------------------------ scales

    def scales(self, space: Space | TxSpace) -> list[int]:
        """The scales of which blocks were written or that the base has, in ascending order."""
        return sorted({*super().scales(space), *(s for s in self.base.scales if s < MAX_SCALES)})

    def metadata(self, space: Space | TxSpace, scale: int) -> bytes | None:
        """What describes the array of a scale, or would if a block of it were written."""
        held = super().metadata(space, scale)
        return self.new_metadata() if held is None and self.base.level(scale) is not None else held

    def voxels(self, space: Space | TxSpace, scale: int, *, cached: bool = False) -> Voxels | None:
        """As `Layout.voxels`, over the base."""
        if self.base.level(scale) is None:
            return super().voxels(space, scale, cached=cached)
        return _AdoptedVoxels(self, space, scale, cached)

    # ------------------------------------------------------------------ blocks

    def written(self, space: Space | TxSpace, scale: int, box: Box) -> NDArray[np.int64]:
        """Blocks that were written among those in a box of blocks: (n, 3) in z, y, x order."""
        if not isinstance(space, Space):
            # in a transaction, which may have written some of them
            return self._looked_up(space, scale, box) if box and self._touched(space, scale) else _NONE
        known = self._known(space, scale)
        if known is None or not box:
            return _NONE
        found = known.inside(space.view, box)
        return self._looked_up(space, scale, box) if found is None else found

    def _looked_up(self, space: Space | TxSpace, scale: int, box: Box) -> NDArray[np.int64]:
        if box.size <= _FEW or (self.jpeg and box.size <= _MANY):
            some = [cell.start for cell in box.split((1, 1, 1))]
            held = space.get_many([self.block_key(scale, block) for block in some])
            there = [block for block, value in zip(some, held, strict=True) if value is not None]
            return np.array(there, np.int64) if there else _NONE
        if self.jpeg:
            known = [b for b in self._walk(space, scale, None) if box.contains(Box.of(b, [v + 1 for v in b]))]
            return np.array(sorted(known), np.int64).reshape(-1, 3)
        (z0, y0, x0), (z1, y1, x1) = box
        parts = []
        for z in range(z0, z1):
            low, high = self.block_key(scale, (z, y0, x0)), self.block_key(scale, (z, y1 - 1, x1))
            keys = list(space.keys(b"", low, high))
            if keys:
                parts.append(self._blocks_of(scale, keys))
        if not parts:
            return _NONE
        found = np.concatenate(parts)
        return found[(found[:, 2] >= x0) & (found[:, 2] < x1)]

    def _blocks_of(self, scale: int, keys: Sequence[bytes]) -> NDArray[np.int64]:
        cut = len(self.block_prefix(scale))
        return np.array([self._block_of(key[cut:]) for key in keys], np.int64).reshape(-1, 3)

    def _known(self, space: Space, scale: int) -> Written | None:
        """What is known of the blocks that were written; None: none was."""
        try:
            return space.view.kept[space.prefix, scale]  # type: ignore[no-any-return]
        except KeyError:
            names = functools.partial(self._blocks_of, scale)
            found = written_blocks(space, self.metadata_key(scale), self.block_prefix(scale), names)
            space.view.kept[space.prefix, scale] = found
            return found

    def _touched(self, space: Space | TxSpace, scale: int) -> bool:
        """Whether any block of a scale may have been written."""
        if isinstance(space, Space):
            return self._known(space, scale) is not None
        return space.get(self.metadata_key(scale)) is not None

    def stored(self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether each of the blocks (n, 3; z, y, x) was written or touches the base."""
        out = self._in_base(scale, blocks)
        if out.all():
            return out
        rest = np.flatnonzero(np.logical_not(out))
        if len(rest):
            out[rest] = super().stored(space, scale, blocks[rest])
        return out

    def _in_base(self, scale: int, blocks: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        level = self.base.level(scale)
        if level is None:
            return np.zeros(len(blocks), bool)
        start, stop = level.box.cells(self.block)
        return _within(blocks, start, stop)

    def value(self, space: Space | TxSpace, scale: int, block: Sequence[int]) -> bytes | None:
        """The bytes of one block as it is stored, or would be; None where it was neither written nor is of the base."""
        return next((value for _, value in self.values(space, scale, np.array([block], np.int64))), None)

    def values(
        self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]
    ) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """The bytes of blocks as they are stored, or would be, in their order."""
        metadata = self.metadata(space, scale)
        if metadata is None:
            return
        in_base = self._in_base(scale, blocks)
        for at, value in self._values(space, scale, blocks):
            z, y, x = blocks[at].tolist()
            if value is not None:
                yield (z, y, x), value
            elif in_base[at]:
                yield (z, y, x), self._squeezed(self._from_base(scale, (z, y, x)), metadata)

    def decoded(
        self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]
    ) -> Iterator[tuple[tuple[int, int, int], NDArray[Any]]]:
        """The voxels of blocks, otherwise as `values`."""
        metadata = self.metadata(space, scale)
        if metadata is None:
            return
        in_base = self._in_base(scale, blocks)
        for at, value in self._values(space, scale, blocks):
            z, y, x = blocks[at].tolist()
            if value is not None:
                yield (z, y, x), self.decode(value, metadata)
            elif in_base[at]:
                yield (z, y, x), self._from_base(scale, (z, y, x))

    def _values(
        self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]
    ) -> Iterator[tuple[int, bytes | None]]:
        if not self._touched(space, scale):
            # not a block of this scale was written
            yield from ((i, None) for i in range(len(blocks)))
            return
        yield from super()._values(space, scale, blocks)

    def _from_base(self, scale: int, block: tuple[int, int, int]) -> NDArray[Any]:
        start = [b * n for b, n in zip(block, self.block, strict=True)]
        return self.base.read_box(scale, start, self.block, self.numpy_dtype)

    def _squeezed(self, voxels: NDArray[Any], metadata: bytes) -> bytes:
        """A block as it would be stored."""
        if self.jpeg:
            z, y, x = voxels.shape
            return bytes(imagecodecs.jpeg_encode(voxels.reshape(z * y, x), level=JPEG_QUALITY))
        name = codec_name(metadata)
        data = np.ascontiguousarray(voxels, self.numpy_dtype).tobytes()
        if name == "zstd":
            return zstd_compress(data, 1)
        return bytes(
            imagecodecs.blosc_encode(data, level=1, compressor="zstd", shuffle=1, typesize=self.numpy_dtype.itemsize)
        )

    def stored_in(
        self, space: Space, scale: int, start: Sequence[int], stop: Sequence[int]
    ) -> Iterator[NDArray[np.int64]]:
        """Blocks of a box of blocks that were written or touch the base, in z, y, x order, in pieces (n, 3)."""
        box = Box.of(start, stop)
        level = self.base.level(scale)
        inside = None if level is None else level.box.cells(self.block).intersect(box)
        if not inside or box.size <= layouts.LOOKUPS:
            yield from super().stored_in(space, scale, start, stop)
            return
        written = [part[~self._in_base(scale, part)] for part in super().stored_in(space, scale, start, stop)]
        outside = np.concatenate([np.empty((0, 3), np.int64), *written])
        (z0, y0, x0), (z1, y1, x1) = inside
        y, x = np.meshgrid(np.arange(y0, y1), np.arange(x0, x1), indexing="ij")
        for z in sorted({*range(z0, z1), *outside[:, 0].tolist()}):
            more = outside[outside[:, 0] == z]
            if not z0 <= z < z1:
                yield more
                continue
            layer = np.stack([np.full(y.size, z), y.ravel(), x.ravel()], axis=1)
            yield distinct_rows(np.concatenate([layer, more])) if len(more) else layer


def _within(blocks: NDArray[np.integer[Any]], start: Sequence[int], stop: Sequence[int]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((blocks >= np.asarray(start)) & (blocks < np.asarray(stop)), axis=1)
    return inside


class _AdoptedVoxels:
    """A scale that the base has, with the blocks that were written over it."""

    def __init__(self, layout: AdoptedLayout, space: Space | TxSpace, scale: int, cached: bool) -> None:
        self._layout, self._space, self._scale, self._cached = layout, space, scale, cached

    def read(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        layout, space, scale = self._layout, self._space, self._scale
        if isinstance(space, Space) and layout._known(space, scale) is None:
            return layout.base.read_box(scale, offset, shape, layout.numpy_dtype)
        # for reads of few blocks every microsecond counts
        (z, y, x), (d, h, w), (bz, by, bx) = offset, shape, layout.block
        cells = Box((z // bz, y // by, x // bx), (-(-(z + d) // bz), -(-(y + h) // by), -(-(x + w) // bx)))
        written = layout.written(space, scale, cells)
        if not len(written):
            return layout.base.read_box(scale, offset, shape, layout.numpy_dtype)
        if len(written) == cells.size:
            return self._stored(Box.of_shape(shape).shift(offset))
        out = layout.base.read_box(scale, offset, shape, layout.numpy_dtype)
        box = Box.of_shape(shape).shift(offset)
        around = Box.of(written.min(axis=0).tolist(), (written.max(axis=0) + 1).tolist())
        part = around.scaled(layout.block).intersect(box)
        stored = self._stored(part)
        for block in written.tolist():
            one = Box.of(block, [v + 1 for v in block]).scaled(layout.block).intersect(box)
            out[one.relative(box.start).slices()] = stored[one.relative(part.start).slices()]
        return out

    def start(self, offset: Sequence[int], shape: Sequence[int]) -> Future[NDArray[Any]]:
        return _readers().submit(self.read, offset, shape)

    def at(self, z: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[Any]:
        layout = self._layout
        of = np.stack([z, y, x], axis=1)
        blocks, where = numbered_rows(of // np.array(layout.block))
        order = np.argsort(where.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(where.reshape(-1), minlength=len(blocks)))
        out = np.empty((len(z), *layout.tail), layout.numpy_dtype)
        for some in np.split(order, ends[:-1]):
            points = of[some]
            low, high = points.min(axis=0), points.max(axis=0) + 1
            voxels = self.read(low.tolist(), (high - low).tolist())
            out[some] = voxels[tuple((points - low).T)]
        return out

    def _stored(self, box: Box) -> NDArray[Any]:
        array = self._layout.open(self._space, self._scale, cached=self._cached)
        out: NDArray[Any] = array[box.slices()].read(order="C").result()  # type: ignore[index]
        return out


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, thread_name_prefix="read-base")
