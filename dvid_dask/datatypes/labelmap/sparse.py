"""Sparse volumes: the voxels of one body or supervoxel, streamed in bounded memory.

The label index says which blocks to look at, a slab of blocks at a time; voxels come from the stored blocks of the
scale asked for. Blocks follow each other in zyx order whatever the size of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, decompress
from dvid_dask.datatypes.labelmap.index import Box, Index
from dvid_dask.datatypes.labelmap.rows import distinct_blocks
from dvid_dask.datatypes.labelmap.threads import batches, parallel
from dvid_dask.datatypes.runs import counted_runs
from dvid_dask.errors import BadRequest
from dvid_dask.formats import binary_blocks, coarse, rles
from dvid_dask.formats.distinct import distinct_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["Bounds", "SparseVolume", "coarse_runs"]

_BATCH = 256
_FAR = 1 << 40

Limit = "int | None"


@dataclass(frozen=True)
class Bounds:
    """Inclusive limits in voxels of the scale (z, y, x); None where open."""

    low: tuple[int | None, int | None, int | None] = (None, None, None)
    high: tuple[int | None, int | None, int | None] = (None, None, None)

    @property
    def is_open(self) -> bool:
        """Whether nothing is limited."""
        return all(v is None for v in self.low + self.high)

    def half_open(self) -> rles.Bounds:
        """Start and stop, as the run-length kernels take them."""
        return self.low, tuple(None if v is None else v + 1 for v in self.high)

    def blocks(self, layout: Layout, scale: int) -> Box | None:
        """The blocks of scale 0 that touch the limits; None for all."""
        if self.is_open:
            return None
        scale = min(scale, 31)
        low = [-_FAR if v is None else (v // b) << scale for v, b in zip(self.low, layout.block_shape, strict=True)]
        high = [
            _FAR if v is None else ((v // b + 1) << scale) - 1
            for v, b in zip(self.high, layout.block_shape, strict=True)
        ]
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


class SparseVolume:
    """The voxels of a body, or of one supervoxel of it, at a scale.

    Parameters
    ----------
    space
        A pinned view.
    layout
        How the volume is cut.
    body
        A body with an index.
    supervoxel
        Only this one of its supervoxels.
    scale
        0 is full resolution.
    bounds
        Limits in voxels of the scale.
    exact
        Whether runs end at the bounds; else blocks at the bounds are taken whole.
    """

    def __init__(
        self,
        space: AnySpace,
        layout: Layout,
        body: int,
        supervoxel: int | None = None,
        *,
        scale: int = 0,
        bounds: Bounds | None = None,
        exact: bool = True,
    ) -> None:
        self._space = space
        self._layout = layout
        self._index = Index(space)
        self.body = body
        self.supervoxel = supervoxel
        self.scale = scale
        self.bounds = Bounds() if bounds is None else bounds
        self.exact = exact

    @property
    def paged(self) -> bool:
        """Whether the body is so large that its index is in pages."""
        header = self._index.header(self.body)
        return header is not None and header.paged

    @property
    def label(self) -> int:
        """The id asked for."""
        return self.body if self.supervoxel is None else self.supervoxel

    def foreground(self) -> NDArray[np.uint64]:
        """The supervoxels whose voxels count, ascending."""
        if self.supervoxel is not None:
            return np.array([self.supervoxel], np.uint64)
        held = self._index.supervoxels(self.body)
        return np.empty(0, np.uint64) if held is None else held.id

    def block_slabs(self) -> Iterator[NDArray[np.int32]]:
        """Blocks at the scale, each once, in zyx order; in slabs."""
        box = self.bounds.blocks(self._layout, self.scale)
        shift = min(self.scale, 31)
        if self.supervoxel is not None:
            rows = self._index.rows_of(self.body, [self.supervoxel])
            layers = iter([rows if box is None else rows[_inside(rows.block_zyx, box)]])
        else:
            layers = self._index.layers(self.body, box, thickness=max(16, 1 << shift))
        for layer in layers:
            blocks = distinct_blocks(layer)
            if shift:
                blocks = distinct_rows(blocks >> shift)
            if len(blocks):
                yield blocks

    def has_blocks(self) -> bool:
        """Whether any block lies within the bounds."""
        return next(self.block_slabs(), None) is not None

    def stored_blocks(self, *, skip_missing: bool) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """Coordinate (z, y, x) and label block of each block.

        Raises
        ------
        BadRequest
            If a block isn't stored and `skip_missing` is false: the scale doesn't exist, say.
        """
        for slab in self.block_slabs():
            for batch in batches(slab, _BATCH):
                coords = np.array(batch, np.int32)
                values = self._space.get_many(keys.blocks(self.scale, coords))
                missing = [c for c, v in zip(coords.tolist(), values, strict=True) if v is None]
                if missing and not skip_missing:
                    raise BadRequest(
                        f"{len(missing)} blocks of label {self.label} are not stored at scale {self.scale}, "
                        f"{tuple(missing[0])} (z, y, x) the first: does this scale exist?"
                    )
                there = [v for v in values if v is not None]
                opened = iter(parallel(lambda v: decompress(v, self._layout), there))
                for (z, y, x), value in zip(coords.tolist(), values, strict=True):
                    if value is not None:
                        yield (z, y, x), next(opened)

    def runs(self, *, skip_missing: bool = True) -> Iterator[NDArray[np.int32]]:
        """Runs int32 (n, 4) x, y, z, length, maximal along x, a row of blocks at a time."""
        bounds = None if self.bounds.is_open else self.bounds.half_open()
        yield from rles.iter_rles(self.stored_blocks(skip_missing=skip_missing), self.foreground(), bounds, self.exact)

    def all_runs(self) -> NDArray[np.int32]:
        """`runs` as one array, sorted by z, y, x."""
        parts = list(self.runs())
        if not parts:
            return np.empty((0, 4), np.int32)
        joined = np.concatenate(parts)
        return joined[np.lexsort((joined[:, 0], joined[:, 1], joined[:, 2]))]

    # -------------------------------------------------------------- as bytes

    def legacy(self) -> Iterator[bytes]:
        """Runs behind a header that counts them; nothing at all if there are none. Large ones wait in a file."""
        return counted_runs(self.runs())

    def streaming(self) -> Iterator[bytes]:
        """Runs alone."""
        for part in self.runs(skip_missing=False):
            yield rles.encode_srles(part)

    def binary(self) -> Iterator[bytes]:
        """Blocks of bits; bounds choose whole blocks."""
        wanted = self.foreground()
        begun = False
        for batch in batches(self.stored_blocks(skip_missing=False), _BATCH):
            parts = parallel(lambda pair: binary_blocks.encode_block(pair[1], pair[0], wanted, ascending=True), batch)
            for part in parts:
                if part:
                    if not begun:
                        yield binary_blocks.encode_header(self._layout.block_shape, self.label)
                        begun = True
                    yield part

    def coarse(self) -> NDArray[np.int32]:
        """Runs of blocks at scale 0."""
        return coarse_runs(self.block_slabs())


def coarse_runs(slabs: Iterator[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Runs int32 (n, 4) x, y, z, length of blocks that come in slabs ascending in z."""
    parts = [coarse.rles_from_block_coords(slab) for slab in slabs]
    return np.concatenate(parts) if parts else np.empty((0, 4), np.int32)


def _inside(block_zyx: NDArray[np.int32], box: Box) -> NDArray[np.bool_]:
    low, high = np.array(box[0]), np.array(box[1])
    return np.asarray(((block_zyx >= low) & (block_zyx <= high)).all(axis=1), np.bool_)
