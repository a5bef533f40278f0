"""Statistics of bodies, and sparse volumes of many of them, as dask dataframes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import BodyVolume, Bounds, keys
from dvid_dask.datatypes.labelmap.blocks import Layout, decompress
from dvid_dask.datatypes.labelmap.columns import unpack
from dvid_dask.datatypes.labelmap.index import Header, Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import COLUMNS, Rows, distinct_blocks
from dvid_dask.datatypes.labelmap.sparse import SparseVolume
from dvid_dask.errors import BadRequest, NotFound, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct, distinct_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["body_statistics", "sparse_volumes"]

_BODIES = 20_000  # in a partition
_BLOCKS = 20_000  # of bodies in a partition of sparse volumes
_FACES = 256  # blocks looked into at a time
_SIDES = ("z0", "y0", "x0", "z1", "y1", "x1")


def _labelmap(instance: Datatype) -> BodyVolume:
    if not isinstance(instance, BodyVolume) or not instance.indexed:
        raise NotSupported(f"{instance.name!r} ({instance.info.typename}) has no label index")
    return instance


def body_statistics(instance: Datatype, *, exact: bool = False) -> Any:
    """Size, extent and last edit of every body, as a dask dataframe: nothing but ids is read until it is computed.

    Parameters
    ----------
    instance
        A labelmap with label index; what is read is its state at the time of this call.
    exact
        Look at the voxels of the outermost blocks of each body, so that its box is exact. Otherwise the box is made of
        whole blocks, and no voxel is read.

    Returns
    -------
    dask.dataframe.DataFrame
        Index ``body``, ascending, in partitions of known divisions; columns ``voxels``, ``blocks``, ``supervoxels``
        (int64), the box of its voxels from ``z0``, ``y0``, ``x0`` to before ``z1``, ``y1``, ``x1`` (int64), and
        ``mutation`` (uint64), the last that changed it.

    Raises
    ------
    NotSupported
        If there is no label index.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> labels = np.zeros((64, 64, 64), np.uint64)
    >>> labels[3:5, 10:30, 60:] = 7
    >>> seg.write(labels, (0, 0, 64))
    >>> body_statistics(seg, exact=True).compute().loc[7, ["voxels", "z0", "y0", "x0", "z1", "y1", "x1"]].tolist()
    [160, 3, 10, 124, 5, 30, 128]
    """
    import dask.dataframe as dd

    seg = _labelmap(instance)
    space = seg.view(0)
    edges, last = _edges(Index(space))
    ranges = [(a, b) for a, b in zip(edges, [*edges[1:], None], strict=True)]
    task = _Statistics(space, seg.layout, exact)
    return dd.from_map(task, ranges, meta=_table([], np.empty((0, 6), np.int64)), divisions=(*edges, last))


def _edges(index: Index) -> tuple[list[int], int]:
    """First bodies of ranges with about as many bodies each, and the last body of all."""
    edges: list[int] = []
    body = 0
    for n, body in enumerate(index.bodies()):
        if n % _BODIES == 0:
            edges.append(body)
    return edges or [0], body


def _table(rows: list[tuple[int, Header]], boxes: NDArray[np.int64]) -> pd.DataFrame:
    import pandas as pd

    index = pd.Index(np.array([body for body, _ in rows], np.uint64), name="body")
    numbers = {
        name: np.array([getattr(h, name) for _, h in rows], np.int64) for name in ("voxels", "blocks", "supervoxels")
    }
    mutation = np.array([h.stamp.mutation for _, h in rows], np.uint64)
    return pd.DataFrame({**numbers, **dict(zip(_SIDES, boxes.T, strict=True)), "mutation": mutation}, index=index)


@dataclass(frozen=True)
class _Statistics:
    """Statistics of the bodies with ids in a range."""

    space: Space
    layout: Layout
    exact: bool

    def __call__(self, ids: tuple[int, int | None]) -> pd.DataFrame:
        start, stop = ids
        index, mapping = Index(self.space), Mapping(self.space)
        shape = np.array(self.layout.block_shape)
        rows: list[tuple[int, Header]] = []
        boxes: list[NDArray[np.int64]] = [np.empty((0, 6), np.int64)]
        last = None if stop is None else keys.body(stop)
        for key, value in self.space.scan(keys.BODY, start=keys.body(start), stop=last):
            body = keys.body_of(key)
            header, end = Header.decode(value)
            if header.paged:
                box = index.extent(body)
                if box is None:
                    continue
                low, high = np.array(box[0], np.int64), np.array(box[1], np.int64)
                face_blocks = _paged_faces(index, body, low, high) if self.exact else iter(())
            else:
                blocks = Rows.from_table(unpack(memoryview(value)[end:], COLUMNS)).block_zyx.astype(np.int64)
                low, high = blocks.min(axis=0), blocks.max(axis=0)
                face_blocks = iter([_on_faces(blocks, low, high)])
            rows.append((body, header))
            if self.exact:
                boxes.append(self._exact(body, face_blocks, mapping)[None])
            else:
                boxes.append(np.concatenate([low * shape, (high + 1) * shape])[None])
        return _table(rows, np.concatenate(boxes))

    def _exact(self, body: int, parts: Iterator[NDArray[np.int64]], mapping: Mapping) -> NDArray[np.int64]:
        """The box of a body's voxels in blocks, among which are all at its faces."""
        shape = np.array(self.layout.block_shape, np.int64)
        low, high = np.full(3, np.iinfo(np.int64).max), np.full(3, np.iinfo(np.int64).min)
        for part in parts:
            blocks = distinct_rows(part)
            for at in range(0, len(blocks), _FACES):
                some = blocks[at : at + _FACES]
                for block, value in zip(some, self.space.get_many(keys.blocks(0, some)), strict=True):
                    if value is None:
                        continue
                    data = decompress(value, self.layout)
                    table = label_blocks.labels(data)
                    mask = label_blocks.mask(data, table[mapping.bodies(table) == np.uint64(body)])
                    for axis in range(3):
                        line = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
                        if len(line):
                            low[axis] = min(low[axis], block[axis] * shape[axis] + line[0])
                            high[axis] = max(high[axis], block[axis] * shape[axis] + line[-1] + 1)
        return np.concatenate([low, high])


def _on_faces(blocks: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = blocks[((blocks == low) | (blocks == high)).any(axis=1)]
    return chosen


def _paged_faces(
    index: Index, body: int, low: NDArray[np.int64], high: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    far = [-(1 << 40), 1 << 40]
    for axis in range(3):
        for side in (int(low[axis]), int(high[axis])):
            first, last = [far[0]] * 3, [far[1]] * 3
            first[axis] = last[axis] = side
            for layer in index.layers(body, ((first[0], first[1], first[2]), (last[0], last[1], last[2]))):
                yield distinct_blocks(layer).astype(np.int64)


# ------------------------------------------------------------------ sparse volumes


def sparse_volumes(
    instance: Datatype, bodies: ArrayLike | None = None, *, scale: int = 0, supervoxels: bool = False
) -> Any:
    """The voxels of many bodies as runs along x, as a dask dataframe: nothing is read until it is computed.

    Parameters
    ----------
    instance
        A labelmap with label index; what is read is its state at the time of this call.
    bodies
        Which; all by default.
    scale
        Of the voxels; 0 is full resolution.
    supervoxels
        The ids are supervoxels instead.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns ``body`` (uint64), ``z``, ``y``, ``x`` (int32, the first voxel of a run at the scale) and ``length``
        (int32). The runs of a body follow each other; those of a large body are cut along z into several partitions, so
        that a partition is bounded. ``.to_parquet(path)`` writes them.

    Raises
    ------
    NotFound
        If one of the bodies doesn't exist.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> labels = np.zeros((64, 64, 64), np.uint64)
    >>> labels[3, 10:12, 60:] = 7
    >>> seg.write(labels, (0, 0, 0))
    >>> print(sparse_volumes(seg, [7]).compute().to_string(index=False))
     body  z  y  x  length
        7  3 10 60       4
        7  3 11 60       4
    """
    import dask.dataframe as dd

    seg = _labelmap(instance)
    if not 0 <= scale <= seg.layout.levels:
        raise BadRequest(f"{seg.name!r} has scales 0 to {seg.layout.levels}, not {scale}")
    if supervoxels and bodies is None:
        raise BadRequest("name the supervoxels whose voxels are wanted")
    space = seg.view(0)
    parts = list(_pieces(Index(space), _asked(space, bodies, supervoxels), seg.layout, scale)) or [()]
    return dd.from_map(_Sparse(space, seg.layout, scale), parts, meta=_runs([], []))


Piece = tuple[int, int | None, int | None, int | None]
"""Body, supervoxel of it or None, and first and last voxel in z, None for all."""


def _asked(space: Space, ids: ArrayLike | None, supervoxels: bool) -> Iterator[tuple[int, int | None]]:
    if ids is None:
        yield from ((body, None) for body in Index(space).bodies())
        return
    wanted = distinct(np.asarray(ids, np.uint64).reshape(-1))
    if not supervoxels:
        yield from ((int(body), None) for body in wanted)
        return
    yield from zip(Mapping(space).bodies(wanted).tolist(), wanted.tolist(), strict=True)


def _pieces(
    index: Index, asked: Iterator[tuple[int, int | None]], layout: Layout, scale: int
) -> Iterator[tuple[Piece, ...]]:
    """Partitions: many small bodies, or a part of a large one."""
    held: list[Piece] = []
    blocks = 0
    for body, supervoxel in asked:
        header = index.header(body)
        if header is None:
            raise NotFound(f"there is no {'body' if supervoxel is None else 'supervoxel'} {supervoxel or body}")
        if header.blocks > _BLOCKS:
            box = index.extent(body)
            if box is not None:
                yield from (((body, supervoxel, *span),) for span in _spans(box, header.blocks, layout, scale))
            continue
        held.append((body, supervoxel, None, None))
        blocks += header.blocks
        if blocks > _BLOCKS:
            yield tuple(held)
            held, blocks = [], 0
    if held:
        yield tuple(held)


def _spans(box: Any, blocks: int, layout: Layout, scale: int) -> Iterator[tuple[int, int]]:
    """Voxels in z (first, last) of the scale, whole layers of blocks, that cut a body into parts of bounded size."""
    first, last = box[0][0] >> scale, box[1][0] >> scale
    layers = last - first + 1
    step = max(1, layers * _BLOCKS // blocks)
    height = layout.block_shape[0]
    for z in range(first, last + 1, step):
        yield z * height, min(z + step, last + 1) * height - 1


def _runs(bodies: list[int], parts: list[NDArray[np.int32]]) -> pd.DataFrame:
    import pandas as pd

    joined = np.concatenate([np.empty((0, 4), np.int32), *parts])
    body = np.repeat(np.array(bodies, np.uint64), [len(p) for p in parts])
    x, y, z, length = joined.T
    return pd.DataFrame({"body": body, "z": z, "y": y, "x": x, "length": length})


@dataclass(frozen=True)
class _Sparse:
    """The runs of a partition."""

    space: Space
    layout: Layout
    scale: int

    def __call__(self, pieces: tuple[Piece, ...]) -> pd.DataFrame:
        bodies: list[int] = []
        parts: list[NDArray[np.int32]] = []
        for body, supervoxel, first, last in pieces:
            bounds = Bounds() if first is None else Bounds((first, None, None), (last, None, None))
            volume = SparseVolume(self.space, self.layout, body, supervoxel, scale=self.scale, bounds=bounds)
            bodies.append(body if supervoxel is None else supervoxel)
            parts.append(volume.all_runs())
        return _runs(bodies, parts)
