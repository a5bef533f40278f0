"""Sparse volumes as runs of voxels along x.

In memory runs are an int32 array (n, 4) of x, y, z, length, as on the wire. *Normal* runs are sorted by z, y, x and
maximal: none touches or overlaps another.

On the wire (little-endian)::

    legacy ("rles")     uint8 0, uint8 3 (dimensions), uint8 0 (along x), uint8 0, uint32 0, uint32 n, then n runs
    streaming ("srles") the runs alone
    run                 int32 x, y, z, length

Coordinates are voxels, or blocks in a coarse volume (`dvid_dask.formats.coarse`).
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dvid_dask.formats import _rle_kernels as kernels
from dvid_dask.formats import label_blocks
from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Bounds",
    "clip",
    "decode_rles",
    "decode_srles",
    "encode_rles",
    "encode_srles",
    "iter_rles",
    "normalize",
    "rles_by_label",
    "rles_from_blocks",
    "rles_from_mask",
    "rles_to_mask",
    "split_by_block",
    "voxel_count",
]

Bounds: TypeAlias = "tuple[Sequence[int | None], Sequence[int | None]]"
"""Start and stop of a box in voxels (z, y, x), stop exclusive; None where it is open."""

_HEADER = struct.Struct("<4B2I")
_INT32 = (-(1 << 31), (1 << 31) - 1)
_FAR = 1 << 40


def _as_runs(rles: ArrayLike) -> NDArray[np.int32]:
    runs = np.asarray(rles)
    if runs.size == 0:
        return np.empty((0, 4), np.int32)
    if runs.ndim != 2 or runs.shape[1] != 4 or runs.dtype.kind not in "iu":
        raise ValueError(f"runs are integers (n, 4): x, y, z, length; got {runs.dtype} of shape {runs.shape}")
    return np.ascontiguousarray(runs, np.int32)


# ------------------------------------------------------------------ bytes


def encode_srles(rles: ArrayLike) -> bytes:
    """Runs as bytes without a header.

    Examples
    --------
    >>> encode_srles([[10, 20, 30, 5]]).hex(" ", 4)
    '0a000000 14000000 1e000000 05000000'
    """
    return _as_runs(rles).astype("<i4", copy=False).tobytes()


def encode_rles(rles: ArrayLike) -> bytes:
    """Runs as bytes with the legacy header.

    Examples
    --------
    >>> encode_rles([[10, 20, 30, 5]]).hex(" ", 4)
    '00030000 00000000 01000000 0a000000 14000000 1e000000 05000000'
    """
    runs = _as_runs(rles)
    return _HEADER.pack(0, 3, 0, 0, 0, len(runs)) + encode_srles(runs)


def decode_srles(data: Buffer) -> NDArray[np.int32]:
    """Runs from bytes without a header, as they come.

    Raises
    ------
    FormatError
        If the bytes are not whole runs, or a run is empty or leaves the int32 range.

    Examples
    --------
    >>> decode_srles(encode_srles([[1, 2, 3, 4], [1, 2, 3, 4]]))
    array([[1, 2, 3, 4],
           [1, 2, 3, 4]], dtype=int32)
    """
    if len(data) % 16:
        raise FormatError(f"runs: {len(data)} bytes are not whole runs of 16")
    runs = np.frombuffer(data, "<i4").astype(np.int32).reshape(-1, 4)
    if len(runs):
        if int(runs[:, 3].min()) < 1:
            raise FormatError("runs: a run of no voxels or fewer")
        if int((runs[:, 0].astype(np.int64) + runs[:, 3]).max()) > 1 << 31:
            raise FormatError("runs: a run past the largest coordinate")
    return runs


def decode_rles(data: Buffer) -> NDArray[np.int32]:
    """Runs from bytes with the legacy header, as they come. Bytes after the last run are ignored, as DVID does.

    Raises
    ------
    FormatError
        If the header claims more runs than follow, or a run is empty or leaves the int32 range.

    Examples
    --------
    >>> decode_rles(encode_rles([[1, 2, 3, 4]]))
    array([[1, 2, 3, 4]], dtype=int32)
    """
    if len(data) < _HEADER.size:
        raise FormatError(f"runs: {len(data)} bytes are less than the header's {_HEADER.size}")
    kind, _, _, _, _, n = _HEADER.unpack_from(data)
    if kind != 0:
        raise FormatError(f"runs: header of kind {kind}; only 0 is known")
    end = _HEADER.size + 16 * n
    if end > len(data):
        raise FormatError(f"runs: the header says {n}, {(len(data) - _HEADER.size) // 16} follow")
    return decode_srles(memoryview(data)[_HEADER.size : end])


# ------------------------------------------------------------------ operations on runs


def voxel_count(rles: ArrayLike) -> int:
    """Voxels of runs that don't overlap.

    Examples
    --------
    >>> voxel_count([[0, 0, 0, 5], [9, 0, 0, 2]])
    7
    """
    return int(_as_runs(rles)[:, 3].sum(dtype=np.int64))


def normalize(rles: ArrayLike) -> NDArray[np.int32]:
    """The same voxels as normal runs: sorted by z, y, x, touching and overlapping ones joined.

    Examples
    --------
    >>> normalize([[5, 0, 0, 2], [0, 0, 1, 1], [0, 0, 0, 5]])
    array([[0, 0, 0, 7],
           [0, 0, 1, 1]], dtype=int32)
    """
    runs = _as_runs(rles)
    merged: NDArray[np.int32] = kernels.merge_sorted(runs, np.lexsort((runs[:, 0], runs[:, 1], runs[:, 2])))
    return merged


def rles_to_mask(rles: ArrayLike, start_zyx: Sequence[int], shape_zyx: Sequence[int]) -> NDArray[np.bool_]:
    """The voxels of a box that lie in the runs.

    Parameters
    ----------
    rles
        int32 (n, 4): x, y, z, length.
    start_zyx, shape_zyx
        The box, in voxels.

    Returns
    -------
    NDArray[bool]
        (z, y, x)

    Examples
    --------
    >>> rles_to_mask([[1, 0, 0, 2]], (0, 0, 0), (1, 1, 4))
    array([[[False,  True,  True, False]]])
    """
    out = np.zeros(tuple(shape_zyx), np.bool_)
    z0, y0, x0 = (int(v) for v in start_zyx)
    kernels.paint(_as_runs(rles), z0, y0, x0, out)
    return out


def rles_from_mask(mask_zyx: NDArray[np.bool_], start_zyx: Sequence[int] = (0, 0, 0)) -> NDArray[np.int32]:
    """Normal runs of the voxels set in a mask.

    Parameters
    ----------
    mask_zyx
        bool (z, y, x).
    start_zyx
        Where its first voxel lies.

    Examples
    --------
    >>> rles_from_mask(np.array([[[False, True, True]]]), (5, 0, -1))
    array([[0, 0, 5, 2]], dtype=int32)
    """
    if mask_zyx.ndim != 3 or mask_zyx.dtype != np.bool_:
        raise ValueError(f"a mask is bool (z, y, x), got {mask_zyx.dtype} of shape {mask_zyx.shape}")
    edges = np.zeros((*mask_zyx.shape[:2], mask_zyx.shape[2] + 2), np.int8)
    edges[:, :, 1:-1] = mask_zyx
    step = np.diff(edges, axis=2)
    z, y, first = np.nonzero(step == 1)
    runs = np.empty((len(z), 4), np.int32)
    runs[:, 3] = np.nonzero(step == -1)[2] - first
    for column, (at, start) in enumerate(zip((first, y, z), reversed(tuple(start_zyx)), strict=True)):
        runs[:, column] = at + int(start)
    return runs


def rles_by_label(
    labels_zyx: NDArray[np.uint64], start_zyx: Sequence[int] = (0, 0, 0)
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Normal runs of each label in a box of voxels.

    Parameters
    ----------
    labels_zyx
        uint64 (z, y, x).
    start_zyx
        Where its first voxel lies.

    Returns
    -------
    labels, offsets, runs
        The labels, ascending, without 0; the runs of label i are ``runs[offsets[i]:offsets[i + 1]]``.

    Examples
    --------
    >>> labels, offsets, runs = rles_by_label(np.array([[[9, 9, 0, 7], [7, 7, 7, 7]]], np.uint64))
    >>> labels.tolist(), offsets.tolist(), runs.tolist()
    ([7, 9], [0, 2, 3], [[3, 0, 0, 1], [0, 1, 0, 4], [0, 0, 0, 2]])
    """
    if labels_zyx.ndim != 3 or labels_zyx.dtype != np.uint64:
        raise ValueError(f"labels are uint64 (z, y, x), got {labels_zyx.dtype} of shape {labels_zyx.shape}")
    n = kernels.count_label_runs(labels_zyx)
    runs, owner = np.empty((n, 4), np.int32), np.empty(n, np.uint64)
    z, y, x = (int(v) for v in start_zyx)
    kernels.label_runs(labels_zyx, z, y, x, runs, owner)
    order = np.argsort(owner, kind="stable")
    labels, starts = np.unique(owner[order], return_index=True)
    return labels, np.append(starts, n).astype(np.int64), runs[order]


def clip(rles: ArrayLike, bounds: Bounds) -> NDArray[np.int32]:
    """The part of runs that lies within bounds, in the order of the runs.

    Examples
    --------
    >>> clip([[0, 0, 0, 8], [0, 1, 0, 8]], ((None, None, 2), (None, 1, 5)))
    array([[2, 0, 0, 3]], dtype=int32)
    """
    runs = _as_runs(rles)
    low, high = ([fill if v is None else v for v in side] for side, fill in zip(bounds, (-_FAR, _FAR), strict=True))
    wide = runs.astype(np.int64)
    first, last = np.maximum(wide[:, 0], low[2]), np.minimum(wide[:, 0] + wide[:, 3], high[2])
    keep = first < last
    for column, axis in ((1, 1), (2, 0)):
        keep &= (wide[:, column] >= low[axis]) & (wide[:, column] < high[axis])
    clipped: NDArray[np.int32] = np.stack([first, wide[:, 1], wide[:, 2], last - first], axis=1)[keep].astype(np.int32)
    return clipped


def split_by_block(
    rles: ArrayLike, block_shape_zyx: Sequence[int], *, max_pieces: int = 1 << 26
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Cut runs at block borders and group the pieces by block.

    Parameters
    ----------
    rles
        int32 (n, 4): x, y, z, length in voxels.
    block_shape_zyx
        Voxels of a block.
    max_pieces
        A few hostile runs can cross millions of blocks; more pieces than this are refused.

    Returns
    -------
    blocks, offsets, pieces
        Distinct block coordinates int32 (m, 3) z y x, ascending; the pieces of block i are
        ``pieces[offsets[i]:offsets[i + 1]]``, still in voxels of the volume.

    Raises
    ------
    FormatError
        If there are too many pieces.

    Examples
    --------
    >>> blocks, offsets, pieces = split_by_block([[-2, 0, 0, 4]], (64, 64, 64))
    >>> blocks.tolist(), offsets.tolist(), pieces.tolist()
    ([[0, 0, -1], [0, 0, 0]], [0, 1, 2], [[-2, 0, 0, 2], [0, 0, 0, 2]])
    """
    runs = _as_runs(rles)
    bz, by, bx = (int(v) for v in block_shape_zyx)
    n = kernels.count_pieces(runs, bx)
    if n > max_pieces:
        raise FormatError(f"runs cross {n} block borders; the limit is {max_pieces}")
    pieces, blocks = np.empty((n, 4), np.int32), np.empty((n, 3), np.int32)
    kernels.cut_pieces(runs, bz, by, bx, pieces, blocks)
    order = np.lexsort((blocks[:, 2], blocks[:, 1], blocks[:, 0]))
    pieces, blocks = pieces[order], blocks[order]
    first = np.ones(n, np.bool_)
    first[1:] = (blocks[1:] != blocks[:-1]).any(1)
    starts = np.flatnonzero(first)
    return blocks[starts], np.append(starts, n).astype(np.int64), pieces


# ------------------------------------------------------------------ from label blocks


def rles_from_blocks(
    blocks: Iterable[Buffer],
    block_positions_zyx: ArrayLike,
    labels: ArrayLike,
    bounds: Bounds | None = None,
    exact: bool = True,
) -> NDArray[np.int32]:
    """Normal runs of the voxels that have one of the labels.

    Parameters
    ----------
    blocks
        Compressed label blocks, all of one shape, in any order.
    block_positions_zyx
        int (n, 3): their block coordinates; negative ones are fine.
    labels
        What counts as foreground: the supervoxels of a body, say.
    bounds
        Start and stop (z, y, x) in voxels, stop exclusive, None where open.
    exact
        Clip runs at the bounds; else blocks that touch them are taken whole.

    Returns
    -------
    NDArray[int32]
        (n, 4) x, y, z, length, sorted by z, y, x, maximal across blocks.

    Raises
    ------
    FormatError
        If a block can't be decoded.
    ValueError
        If blocks differ in shape, repeat, or lie outside the int32 range.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> block = solid_block(7, (8, 8, 8))
    >>> runs = rles_from_blocks([block, block], [[0, 0, 0], [0, 0, 1]], [7])
    >>> len(runs), runs[0].tolist()
    (64, [0, 0, 0, 16])
    >>> rles_from_blocks([block], [[0, 0, -1]], [7], bounds=((0, 0, -3), (1, 1, None)))
    array([[-3,  0,  0,  3]], dtype=int32)
    """
    positions = np.asarray(block_positions_zyx, np.int64).reshape(-1, 3)
    listed = list(blocks)
    if len(listed) != len(positions):
        raise ValueError(f"{len(listed)} blocks at {len(positions)} positions")
    order = np.lexsort((positions[:, 2], positions[:, 1], positions[:, 0]))
    rows = list(iter_rles(((positions[i].tolist(), listed[i]) for i in order), labels, bounds, exact))
    if not rows:
        return np.empty((0, 4), np.int32)
    runs = np.concatenate(rows)
    # rows of blocks come by block z and block y, and inside by z, y, x: only z is out of order
    return runs[np.argsort(runs[:, 2], kind="stable")]


def iter_rles(
    blocks: Iterable[tuple[Sequence[int], Buffer]],
    labels: ArrayLike,
    bounds: Bounds | None = None,
    exact: bool = True,
) -> Iterator[NDArray[np.int32]]:
    """`rles_from_blocks` for bodies of any size: memory is bounded by one row of blocks along x.

    Parameters
    ----------
    blocks
        Pairs of block coordinate (z, y, x) and compressed block, ascending in z, then y, then x.
    labels, bounds, exact
        As for `rles_from_blocks`.

    Yields
    ------
    NDArray[int32]
        The runs of one row of blocks, sorted by z, y, x and maximal. Rows follow in order of block z, then block y;
        no run of one row touches one of another.

    Raises
    ------
    FormatError
        If a block can't be decoded.
    ValueError
        If blocks are out of order, differ in shape, repeat, or lie outside the int32 range.

    Examples
    --------
    >>> from dvid_dask.formats.label_blocks import solid_block
    >>> block = solid_block(7, (8, 8, 8))
    >>> for runs in iter_rles([((0, 0, 0), block), ((0, 0, 1), block), ((0, 1, 0), block)], [7]):
    ...     print(len(runs), runs[-1])
    64 [ 0  7  7 16]
    64 [ 0 15  7  8]
    """
    wanted = distinct(np.asarray(labels, np.uint64))
    shape: tuple[int, int, int] | None = None
    previous: tuple[int, int, int] | None = None
    for (bz, by), row in itertools.groupby(blocks, key=lambda pair: (int(pair[0][0]), int(pair[0][1]))):
        collected: _Row | None = None
        for position, block in row:
            here = (bz, by, int(position[2]))
            if previous is not None and here <= previous:
                raise ValueError(f"block {here} (z, y, x) comes after {previous}; blocks must ascend and not repeat")
            previous = here
            this = label_blocks.block_shape(block)
            if shape is None:
                shape = this
            elif this != shape:
                raise ValueError(f"block {here} has {this} voxels, others {shape} (z, y, x)")
            if collected is None:
                collected = _Row(bz * shape[0], by * shape[1], shape)
            collected.add(here[2] * shape[2], block, wanted, bounds, exact)
        if collected is not None and collected.n:
            yield collected.sorted_runs()


class _Row:
    """The runs of one row of blocks while it is collected."""

    def __init__(self, z0: int, y0: int, shape: tuple[int, int, int]) -> None:
        nz, ny, nx = shape
        self.z0, self.y0, self.shape = z0, y0, shape
        self.mask = np.empty(shape, np.bool_)
        flat = self.mask.reshape(-1)
        self.bytes, self.words = flat.view(np.uint8), flat.view(np.uint64)
        self.last = np.full(nz * ny, -1, np.int64)
        self.runs = np.empty((nz * ny + nx, 4), np.int32)
        self.n = 0

    def add(self, x0: int, block: Buffer, wanted: NDArray[np.uint64], bounds: Bounds | None, exact: bool) -> None:
        origin = (self.z0, self.y0, x0)
        if any(not (_INT32[0] <= o and o + s - 1 <= _INT32[1]) for o, s in zip(origin, self.shape, strict=True)):
            raise ValueError(f"a block at voxel {origin} (z, y, x) leaves the range of signed 32-bit integers")
        start, stop = _clip(origin, self.shape, bounds, exact)
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            return
        if not label_blocks.mask_sorted(block, wanted, self.mask):
            return
        _, ny, nx = self.shape
        self.runs, self.n = kernels.append_runs(
            self.bytes, self.words, ny, nx, origin, start, stop, self.runs, self.n, self.last
        )

    def sorted_runs(self) -> NDArray[np.int32]:
        nz, ny, _ = self.shape
        runs: NDArray[np.int32] = kernels.sort_rows(self.runs[: self.n], self.z0, self.y0, nz, ny)
        return runs


def _clip(
    origin: tuple[int, int, int], shape: tuple[int, int, int], bounds: Bounds | None, exact: bool
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Part of a block within the bounds, in voxels of the block; start >= stop in some axis if there is none."""
    if bounds is None:
        return (0, 0, 0), shape
    start, stop = [], []
    for o, s, a, b in zip(origin, shape, bounds[0], bounds[1], strict=True):
        first = 0 if a is None else max(0, int(a) - o)
        end = s if b is None else min(s, int(b) - o)
        if first < end and not exact:
            first, end = 0, s
        start.append(first)
        stop.append(end)
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
