"""Contacts: which bodies touch, and across how much area, as a dask dataframe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import BodyVolume, keys
from dvid_dask.datatypes.labelmap.blocks import Layout, blocks_in_box, decompress
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.rows import distinct_blocks
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.contacts import count_contacts
from dvid_dask.formats.distinct import distinct, distinct_rows, is_among
from dvid_dask.ops.stored import stored_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["contacts"]

_EDGE = 256  # voxels of a brick's side, about
_BRICKS = 4  # in a partition
_MERGED = 1 << 7  # partitions that end in one of the result
_NUMBERS = ("faces_z", "faces_y", "faces_x")


def contacts(instance: Datatype, bodies: ArrayLike | None = None, *, scale: int = 0, supervoxels: bool = False) -> Any:
    """Contact area of all pairs of bodies that touch, as a dask dataframe: nothing is read until it is computed.

    Two voxels touch where they share a face. Voxels are read brick by brick with one layer of their neighbours; what
    each brick finds is summed by a shuffle, so that no worker holds all of it.

    Parameters
    ----------
    instance
        A labelmap; what is read is its state at the time of this call.
    bodies
        Only pairs with at least one of these; only bricks that they occur in are read. All pairs by default.
    scale
        Of the voxels that are compared: 3 reads 1/512 of them and gives areas that are rough.
    supervoxels
        Compare supervoxels instead.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns ``a`` and ``b`` (uint64, ``a < b``), each pair once; ``faces_z``, ``faces_y``, ``faces_x`` (int64):
        faces across each axis, in voxels of the scale; ``area_nm2`` (float): their area by the instance's voxel size,
        in nm^2 where that is in nanometers.

    Raises
    ------
    NotSupported
        If it is no labelmap.
    BadRequest
        If the scale doesn't exist.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"VoxelSize": "8,8,40"})
    >>> seg.write(np.arange(1, 5, dtype=np.uint64).repeat(16)[None, None].repeat(64, 0).repeat(64, 1), (0, 0, 0))
    >>> print(contacts(seg, [1]).compute().to_string(index=False))
     a  b  faces_z  faces_y  faces_x  area_nm2
     1  2        0        0     4096 1310720.0
    """
    import dask.dataframe as dd

    if not isinstance(instance, BodyVolume):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: it has no bodies that could touch")
    if not 0 <= scale <= instance.layout.levels:
        raise BadRequest(f"{instance.name!r} has scales 0 to {instance.layout.levels}, not {scale}")
    space = instance.view(0)
    chosen = None if bodies is None else distinct(np.asarray(bodies, np.uint64).reshape(-1))
    per_brick = np.array([max(1, _EDGE // b) for b in instance.block_shape])
    if chosen is None:
        blocks = stored_blocks(instance, space, scale)
        bricks = distinct_rows(blocks // per_brick)
    else:
        bricks = _bricks_of(space, chosen, scale, per_brick)
    z, y, x = (s * 2**scale for s in instance.voxel_size)
    task = _Contacts(space, instance.layout, scale, per_brick, chosen, supervoxels, (y * x, z * x, z * y))
    parts = [bricks[a : a + _BRICKS] for a in range(0, len(bricks), _BRICKS)] or [bricks]
    found = dd.from_map(task, parts, meta=_frame(*_nothing(), (1.0, 1.0, 1.0)))
    summed = found.groupby(["a", "b"], sort=False).sum(split_out=max(1, len(parts) // _MERGED))
    return summed.reset_index()


def _bricks_of(space: Space, bodies: NDArray[np.uint64], scale: int, per_brick: NDArray[Any]) -> NDArray[np.int64]:
    """Bricks with blocks of bodies, and those before them: a face is counted by the brick of its first voxel."""
    index = Index(space)
    found = [np.empty((0, 3), np.int64)]
    for body in bodies.tolist():
        for rows in index.scan_rows(body):
            blocks = distinct_rows(distinct_blocks(rows.sorted()) >> scale).astype(np.int64)
            before = [blocks - step for step in np.eye(3, dtype=np.int64)]
            found.append(distinct_rows(np.concatenate([blocks, *before]) // per_brick))
    return distinct_rows(np.concatenate(found))


def _nothing() -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty((0, 3), np.int64)


def _frame(
    a: NDArray[np.uint64], b: NDArray[np.uint64], faces: NDArray[np.int64], area: tuple[float, float, float]
) -> pd.DataFrame:
    import pandas as pd

    columns = dict(zip(_NUMBERS, faces.T, strict=True))
    return pd.DataFrame({"a": a, "b": b, **columns, "area_nm2": faces @ np.array(area, np.float64)})


@dataclass(frozen=True)
class _Contacts:
    """Counts the faces of some bricks."""

    space: Space
    layout: Layout
    scale: int
    per_brick: NDArray[Any]
    bodies: NDArray[np.uint64] | None
    supervoxels: bool
    area: tuple[float, float, float]

    def __call__(self, bricks: NDArray[np.int64]) -> pd.DataFrame:
        mapping = None if self.supervoxels else Mapping(self.space)
        found = [self._chosen(*self._brick(brick, mapping)) for brick in bricks]
        a, b, faces = (np.concatenate([f[i] for f in (_nothing(), *found)]) for i in range(3))
        return _frame(a, b, faces, self.area)

    def _chosen(
        self, a: NDArray[np.uint64], b: NDArray[np.uint64], faces: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
        if self.bodies is None:
            return a, b, faces
        keep = is_among(a, self.bodies) | is_among(b, self.bodies)
        return a[keep], b[keep], faces[keep]

    def _brick(
        self, brick: NDArray[np.int64], mapping: Mapping | None
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
        shape = np.array(self.layout.block_shape)
        first = brick * self.per_brick
        coords = blocks_in_box(first.tolist(), (first + self.per_brick + 1).tolist())
        beyond = (coords - first == self.per_brick).sum(axis=1)
        coords = coords[beyond <= 1]  # no voxel has its neighbour across an edge
        values = self.space.get_many(keys.blocks(self.scale, coords))
        held = [(c, decompress(v, self.layout)) for c, v in zip(coords, values, strict=True) if v is not None]
        if not held:
            return _nothing()
        core = self.per_brick * shape
        dense = np.zeros(core + 1, np.uint64)
        uniform = np.ones(core // 8, np.bool_)
        places = np.array([c for c, _ in held], np.int64) - first
        blocks = [block for _, block in held]
        label_blocks.decode_blocks_into(blocks, places * shape, dense, _tables(blocks, mapping))
        for place, block in zip(places, blocks, strict=True):
            if (place < self.per_brick).all():
                z, y, x = place * shape // 8
                nz, ny, nx = shape // 8
                uniform[z : z + nz, y : y + ny, x : x + nx] = label_blocks.uniform_sub_blocks(block)
        return count_contacts(dense, (int(core[0]), int(core[1]), int(core[2])), uniform)


def _tables(blocks: Iterable[bytes], mapping: Mapping | None) -> list[NDArray[np.uint64]] | None:
    """The bodies of the entries of each block's label table."""
    if mapping is None:
        return None
    tables = [label_blocks.labels(block) for block in blocks]
    ends = np.cumsum([len(t) for t in tables])[:-1]
    return np.split(mapping.bodies(np.concatenate(tables)), ends)
