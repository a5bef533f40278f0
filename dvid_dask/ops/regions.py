"""Regions from labels, and labels from regions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.labelmap import LabelVolume
from dvid_dask.datatypes.labelmap.blocks import Layout, read_blocks
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping as Bodies
from dvid_dask.datatypes.labelmap.rows import distinct_blocks
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.datatypes.roi import Region
from dvid_dask.errors import BadRequest, NotFound, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct, is_among
from dvid_dask.ops import job
from dvid_dask.ops.stored import block_batches

if TYPE_CHECKING:
    import dask.array
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["label_array", "region_of"]

_BLOCKS = 2048  # in a task


# ---------------------------------------------------------------------- labels to a region


def region_of(
    instance: Datatype,
    labels: ArrayLike | None = None,
    *,
    block_shape: Sequence[int] | None = None,
    scale: int = 0,
    supervoxels: bool = False,
    min_fraction: float = 0.0,
    client: Any = None,
) -> Region:
    """The blocks in which a segmentation has voxels of some labels, or of any.

    Whole blocks of bodies come from the label index, and no voxel is read. For all else the compressed blocks in
    question are looked into, as a Dask graph.

    Parameters
    ----------
    instance
        A labelmap; its state now.
    labels
        Bodies; by default all labels but 0.
    block_shape
        Voxels (z, y, x) of the region's blocks; by default the labelmap's own.
    scale
        Of the voxels that are looked at. A coarse scale is quick, and leaves out what is thin.
    supervoxels
        `labels` are supervoxels instead.
    min_fraction
        Least part of a block's voxels that must be of the labels, 0 to 1; 0 asks for a single one.
    client
        As for `ingest`.

    Raises
    ------
    NotSupported
        The instance is no labelmap.
    NotFound
        A body that there is not.
    BadRequest
        A fraction or shape that can't be; at a coarse scale, blocks that are not made of whole voxels of it.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> voxels = np.zeros((64, 64, 192), np.uint64)
    >>> voxels[:32, :, 20:100] = 7
    >>> seg.write(voxels, (0, 0, 0))
    >>> region_of(seg, [7]).spans.tolist()
    [[0, 0, 0, 1]]
    >>> region_of(seg, [7], min_fraction=0.3).spans.tolist()
    [[0, 0, 0, 0]]
    >>> region_of(seg, block_shape=(32, 32, 32)).spans.tolist()
    [[0, 0, 0, 3], [0, 1, 0, 3]]
    """
    if not isinstance(instance, LabelVolume):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: it holds no labels to make a region of")
    shape = Region([], instance.block_shape if block_shape is None else block_shape).block_shape
    if not 0 <= min_fraction <= 1:
        raise BadRequest(f"the least fraction of a block is from 0 to 1, not {min_fraction}")
    if not 0 <= scale <= instance.layout.levels:
        raise BadRequest(f"{instance.name!r} has scales 0 to {instance.layout.levels}, not {scale}")
    if any(n % (1 << scale) for n in shape):
        raise BadRequest(f"blocks of {shape} voxels (z, y, x) are not made of whole voxels of scale {scale}")
    if supervoxels and labels is None:
        raise BadRequest("name the supervoxels of which a region is wanted")
    wanted = None if labels is None else _ids(labels)
    space = instance.view(0)
    cell = _point(n >> scale for n in shape)
    whole = not (min_fraction or (supervoxels and wanted is not None)) and cell == instance.block_shape
    if wanted is not None and instance.indexed:
        # bodies and supervoxels alike: what has to be looked at are the blocks of bodies
        bodies = distinct(Bodies(space).bodies(wanted)) if supervoxels else wanted
        held = _indexed(space, bodies, instance.block_shape)
        if whole and not scale:
            return held
        batches: Iterator[NDArray[Any]] = _coarse(held, scale).blocks(1 << 16)
    else:
        # of all blocks: one may be stored that holds nothing
        batches = block_batches(instance, space, scale)
    client = job.find_client(client)
    job.check_reach(client, instance)
    task = _Cells(space, instance.layout, scale, wanted, supervoxels, cell)
    cells, counts = _sum(_run(task, batches, client))
    enough = counts >= max(1, math.ceil(min_fraction * math.prod(cell)))
    return Region.of_blocks(cells[enough], shape)


def _ids(labels: ArrayLike) -> NDArray[np.uint64]:
    given = np.asarray(labels)
    if given.size and (given.dtype.kind not in "iu" or (given.dtype.kind == "i" and int(given.min()) < 0)):
        raise BadRequest(f"labels are unsigned integers, not {given.dtype}")
    found = distinct(given.astype(np.uint64).reshape(-1))
    if len(found) and not found[0]:
        raise BadRequest("label 0 is what has no label: name others")
    return found


def _point(numbers: Iterator[int]) -> Point:
    z, y, x = numbers
    return z, y, x


def _coarse(region: Region, scale: int) -> Region:
    return region.rescaled(_point(n << scale for n in region.block_shape))


def _indexed(space: Space, bodies: NDArray[np.uint64], block: Point) -> Region:
    """The blocks of bodies, by the label index."""
    index = Index(space)
    found = Region([], block)
    for body in bodies.tolist():
        if index.header(body) is None:
            raise NotFound(f"there is no body {body}")
        for layer in index.layers(body):
            found |= Region.of_blocks(distinct_blocks(layer), block)
    return found


def _run(task: _Cells, batches: Iterator[NDArray[Any]], client: Any) -> Sequence[Any]:
    import dask

    run = dask.delayed(task, pure=False, traverse=False)
    parts = [run(batch[at : at + _BLOCKS]) for batch in batches for at in range(0, len(batch), _BLOCKS)]
    done: Sequence[Any] = dask.compute(*parts) if client is None else client.gather(client.compute(parts))
    return done


def _sum(parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells, each once, and their counts added."""
    cells = np.concatenate([np.empty((0, 3), np.int64), *(p[0] for p in parts)])
    counts = np.concatenate([np.empty(0, np.int64), *(p[1] for p in parts)])
    if not len(cells):
        return cells, counts
    order = np.lexsort(cells.T[::-1])
    cells, counts = cells[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], (np.diff(cells, axis=0) != 0).any(axis=1)]))
    return cells[first], np.add.reduceat(counts, first)


@dataclass(frozen=True)
class _Cells:
    """Counts the voxels of labels in the cells of a grid, for some stored blocks."""

    space: Space
    layout: Layout
    scale: int
    wanted: NDArray[np.uint64] | None
    supervoxels: bool
    cell: Point

    def __call__(self, blocks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shape = self.layout.block_shape
        step = np.array([math.gcd(a, b) for a, b in zip(self.cell, shape, strict=True)])
        bodies = Bodies(self.space)
        parts = []
        for coords, found in read_blocks(self.space, self.layout, self.scale, blocks):
            counted = parallel(lambda data: self._count(data, bodies, step), found)
            for at, counts in zip(coords.astype(np.int64), counted, strict=True):
                if counts is not None:
                    inside = np.argwhere(counts)
                    cells = (at * shape + inside * step) // np.array(self.cell)
                    parts.append((cells, counts[tuple(inside.T)].astype(np.int64)))
        return _sum(parts)

    def _count(self, data: bytes, bodies: Bodies, step: NDArray[np.int64]) -> NDArray[Any] | None:
        """Voxels in each piece of a block; None if there are none at all."""
        table = label_blocks.labels(data)
        if self.wanted is None:
            hit = table != 0
        else:
            hit = is_among(table if self.supervoxels else bodies.bodies(table), self.wanted) & (table != 0)
        if not hit.any():
            return None
        mask = label_blocks.mask(data, table[hit])
        nz, ny, nx = (n // s for n, s in zip(mask.shape, step.tolist(), strict=True))
        sz, sy, sx = step.tolist()
        counts: NDArray[Any] = mask.reshape(nz, sz, ny, sy, nx, sx).sum(axis=(1, 3, 5))
        return counts


# ---------------------------------------------------------------------- regions to labels


def label_array(
    regions: Mapping[int, Any], *, box: Box | tuple[Sequence[int], Sequence[int]] | None = None, chunk: int = 256
) -> tuple[dask.array.Array, Point]:
    """Voxels that say in which region they are, as a dask array: to look at, or to ingest as a segmentation.

    Parameters
    ----------
    regions
        Label to region: a `Region`, or an roi, whose state is that of now. Where several have a voxel, the last one's
        label is there.
    box
        Voxels [start, stop) (z, y, x); by default those of all regions.
    chunk
        Edge of the array's chunks.

    Returns
    -------
    array, offset
        uint64 (z, y, x), 0 outside, and the voxel (z, y, x) that its first one is.

    Raises
    ------
    BadRequest
        A label that is no positive 64-bit integer, or no voxel at all.

    Examples
    --------
    >>> import dvid_dask
    >>> from dvid_dask import ops
    >>> neuropils = {1: Region([[0, 0, 0, 1]], (32, 32, 32)), 2: Region([[0, 0, 2, 2]], (32, 32, 32))}
    >>> voxels, offset = label_array(neuropils)
    >>> voxels.shape, offset
    ((32, 32, 96), (0, 0, 0))
    >>> seg = dvid_dask.create("memory://").new_repo("fly").new_instance("labelmap", "neuropils")
    >>> _ = ops.ingest(voxels, seg, offset=offset, progress=False)
    >>> seg.size(1), seg.size(2)
    (65536, 32768)
    """
    import dask.array as da

    if not all(isinstance(n, (int, np.integer)) and 0 < n < 1 << 64 for n in regions):
        raise BadRequest(f"labels are integers from 1 on: {list(regions)[:5]}")
    held = tuple((int(n), region.region) for n, region in regions.items())
    if box is None:
        bounds = [Box.of(*r.voxel_bounds) for _, r in held if r.voxel_bounds is not None]
        if not bounds:
            raise BadRequest("the regions are empty: there is no voxel to make")
        whole = bounds[0]
        for other in bounds[1:]:
            whole = whole.union(other)
    else:
        whole = Box.of(*box)
    if not whole:
        raise BadRequest(f"the box {whole} holds no voxel")
    array = da.from_array(_Labels(held, whole), chunks=chunk, asarray=False, fancy=False, name=False)
    return array, whole.start


@dataclass(frozen=True)
class _Labels:
    """Voxels of regions, indexed from the first voxel of a box."""

    regions: tuple[tuple[int, Region], ...]
    box: Box

    dtype: ClassVar[np.dtype[np.uint64]] = np.dtype(np.uint64)
    ndim: ClassVar[int] = 3

    @property
    def shape(self) -> Point:
        return self.box.shape

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[np.uint64]:
        spans = [part.indices(n) for part, n in zip(key, self.shape, strict=True)]
        part = Box.of([a for a, _, _ in spans], [b for _, b, _ in spans]).shift(self.box.start)
        out = np.zeros(part.shape, np.uint64)
        for label, region in self.regions if part else ():
            out[region.mask(part.start, part.shape)] = label
        return out
