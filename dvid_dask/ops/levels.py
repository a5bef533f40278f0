"""The scales of a volume as files of another format: where each is read, where it goes, and the tasks that write it.

`ops.export` and `ops.publish` write through these. Tasks need no metadata at the destination, so that whoever wants to
may write that last, when all that it describes is there.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.bases import Base
from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.imageblk import ImageBlk, PinnedImage
from dvid_dask.datatypes.labelmap import LabelVolume
from dvid_dask.datatypes.labelmap.arrays import VoxelArray
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats import ome_zarr
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.formats.sharding import Sharding, chunk_ids
from dvid_dask.ops.bricks import Grid
from dvid_dask.ops.job import Result, ScratchLedger
from dvid_dask.ops.precomputed import LabelChunks, from_first_block, shard_grid, sharding_for
from dvid_dask.ops.stored import block_shape, stored_scales
from dvid_dask.ops.within import Within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["FORMATS", "Copy", "Level", "level_grid", "level_task", "nanometres", "plan_levels", "write_metadata"]

FORMATS = ("zarr", "ome-zarr", "precomputed")
_EDGE = 256
_CORNERS = list(itertools.product((0, 1), repeat=3))
_METRES = {"nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "angstrom": 0.1, "meter": 1e9}


@dataclass(frozen=True)
class Level:
    """One scale: what is read and where it goes.

    Attributes
    ----------
    scale
        Its number.
    box
        Its voxels, in the instance's coordinates.
    source
        What is read.
    spec
        Of the tensorstore to write, JSON.
    sharding
        Of a precomputed volume in shards.
    within
        Voxels beside this region are written as 0.
    """

    scale: int
    box: Box
    source: VoxelArray | PinnedImage
    spec: str
    sharding: Sharding | None
    within: Within | None = None

    def read(self, brick: Box) -> NDArray[Any]:
        """Voxels of a box that is counted from the first voxel."""
        box = brick.shift(self.box.start)
        voxels = (
            self.source[box.slices()] if isinstance(self.source, VoxelArray) else self.source.read(box.start, box.shape)
        )
        mask = None if self.within is None else self.within.mask(box, self.scale)
        if mask is None:
            return voxels
        return np.where(mask.reshape(*mask.shape, *[1] * (voxels.ndim - 3)), voxels, voxels.dtype.type(0))

    @property
    def layout(self) -> dict[str, Any]:
        """How its files are made, wherever they lie: with equal layouts equal voxels make equal files."""
        return {name: part for name, part in json.loads(self.spec).items() if name != "kvstore"}

    @property
    def folder(self) -> str:
        """URL of the folder of its chunks."""
        spec = json.loads(self.spec)
        if spec["driver"] == "neuroglancer_precomputed":
            return f"{spec['kvstore']}{spec['scale_metadata']['key']}/"
        return str(spec["kvstore"])

    def open(self) -> Any:
        """The array to write as (z, y, x), with channels as a last axis, beginning at 0."""
        import tensorstore as ts

        spec = json.loads(self.spec)
        store = ts.open(spec, open=True, assume_metadata=True, read=True, write=True).result()
        if spec["driver"] == "neuroglancer_precomputed":
            store = store.transpose([2, 1, 0, 3])
            if store.shape[3] == 1:
                store = store[..., 0]
        elif store.rank == 4:  # channels first
            store = store.transpose([1, 2, 3, 0])
        return store[ts.d[:].translate_to[0]]

    def object_of(self, grid: Grid, index: int) -> str:
        """Name, in the level's folder, of the file that holds a brick of `level_grid`; levels in shards have one."""
        cell = grid.cell(index)
        if self.sharding is None:
            channels = json.loads(self.spec)["metadata"]["shape"][:-3]
            return "/".join(map(str, ("c", *(0 for _ in channels), *cell)))
        chunks = self.box.relative(self.box.start).cells(grid.block).stop
        first = [c * n for c, n in zip(cell, self.sharding.shard_shape(chunks), strict=True)]
        return self.sharding.shard_file(int(chunk_ids([first], chunks)[0]))

    def bricks_of(self, grid: Grid, blocks: NDArray[np.int64]) -> Grid:
        """The grid with just the bricks that have a voxel of these blocks (n, 3) of the instance."""
        shape = np.array(self.box.shape, np.int64)
        low = blocks * grid.block - self.box.start  # a brick may begin inside of a block
        inside = ((low + grid.block > 0) & (low < shape)).all(axis=1)
        first = np.maximum(low[inside], 0)
        last = np.minimum(low[inside] + grid.block, shape) - 1
        corners = [np.stack([(first, last)[k][:, axis] for axis, k in enumerate(which)], 1) for which in _CORNERS]
        return replace(grid, chosen=distinct_rows(np.asarray(np.concatenate(corners) // grid.edge, np.int64)))

    def describe(self) -> None:
        """Write its metadata."""
        import tensorstore as ts

        ts.open(json.loads(self.spec), create=True, open=True, read=True, write=True).result()


@dataclass(frozen=True)
class Copy:
    """Copies a brick; pickled once per worker."""

    ledger: ScratchLedger
    phase: str
    level: Level
    grid: Grid

    def __call__(self, index: int) -> Result:
        """Copy one brick and note it."""
        brick = self.grid.brick(index)
        voxels = np.asarray(self.level.read(brick))
        if self.level.sharding is None:
            self.level.open()[brick.slices()].write(voxels).result()
        else:
            import tensorstore as ts

            with ts.Transaction() as transaction:  # the shard is written once, whole
                self.level.open().with_transaction(transaction)[brick.slices()].write(voxels).result()
        return self.ledger.commit(self.phase, index, lambda _, __: {})


def plan_levels(
    instance: Datatype,
    space: Space,
    url: str,
    *,
    format: str,
    scales: int | None = None,
    supervoxels: bool = False,
    sharded: bool = True,
    part: Within | None = None,
) -> list[Level]:
    """The scales of an instance to write below a URL, scale 0 first; see `ops.export`.

    Raises
    ------
    BadRequest
        If the format is unknown, or the instance is empty, also within `part`, or hasn't so many scales.
    """
    if format not in FORMATS:
        raise BadRequest(f"format {format!r} is unknown: choose one of {', '.join(FORMATS)}")
    box = _extents(instance, space)
    if part is not None:
        box = part.bounds(box)
        if not box:
            raise BadRequest(f"{instance.name!r} has no voxel in the region: there is nothing to write")
    count = _count_scales(instance, space, format, scales)
    levels = [_level(instance, space, box, s, supervoxels, format, url, sharded) for s in range(count)]
    return levels if part is None else [replace(level, within=part) for level in levels]


def _extents(instance: Datatype, space: Space) -> Box:
    if not isinstance(instance, ImageBlk | LabelVolume):
        block_shape(instance)
    elif instance.extents is not None:
        return instance.extents
    raise BadRequest(f"{instance.name!r} is empty at version {instance.version.uuid}: there is nothing to write")


def _count_scales(instance: Datatype, space: Space, format: str, scales: int | None) -> int:
    stored = set(stored_scales(instance, space))
    there = 1
    while there in stored:
        there += 1
    if format == "zarr":
        if scales:
            raise BadRequest("format 'zarr' is one array; 'ome-zarr' has scales")
        return 1
    if scales is None:
        return there
    if not 0 <= scales < there:
        raise BadRequest(f"{instance.name!r} has {there - 1} coarser scales, not {scales}; `downres` makes them")
    return scales + 1


def _level(
    instance: Datatype, space: Space, box: Box, scale: int, supervoxels: bool, format: str, url: str, sharded: bool
) -> Level:
    here = box.at_scale(scale)
    source: VoxelArray | PinnedImage
    if isinstance(instance, LabelVolume):
        if format == "precomputed":
            here = from_first_block(here, instance.block_shape)
        source = VoxelArray(space, instance.layout, scale, supervoxels, here)
        itemsize = None
    elif isinstance(instance, ImageBlk):
        extents = instance.extents
        if extents is None:
            raise BadRequest(f"{instance.name!r} is empty")
        source = PinnedImage(instance, space, scale, extents.at_scale(scale))
        itemsize = instance.layout.voxel_bytes
    else:
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}")
    if format != "precomputed":
        path = url if format != "ome-zarr" else f"{url}s{scale}/"
        spec = _zarr_spec(instance, here, scale, path)
        return Level(scale, here, source, json.dumps(spec, sort_keys=True), None)
    sharding = sharding_for(here, block_shape(instance), itemsize) if sharded else None
    spec = _precomputed_spec(instance, here, scale, url, sharding)
    return Level(scale, here, source, json.dumps(spec, sort_keys=True), sharding)


def level_task(ledger: ScratchLedger, phase: str, level: Level, grid: Grid) -> Copy | LabelChunks:
    """What writes a brick of a level: labels go to a precomputed volume block by block, all else as voxels."""
    source = level.source
    if json.loads(level.spec)["driver"] != "neuroglancer_precomputed" or not isinstance(source, VoxelArray):
        return Copy(ledger, phase, level, grid)
    return LabelChunks(
        ledger,
        phase,
        source.space,
        source.layout,
        level.scale,
        source.supervoxels,
        level.box,
        grid,
        level.folder,
        level.sharding,
        level.within,
    )


def _channels(instance: Datatype) -> int:
    return instance.layout.channels if isinstance(instance, ImageBlk) else 1


def _dtype(instance: Datatype) -> str:
    return "uint64" if isinstance(instance, LabelVolume) else np.dtype(instance.dtype).name  # type: ignore[attr-defined]


def _whole(block: Point) -> Point:
    """A brick: as many blocks as fit."""
    z, y, x = (b * max(1, _EDGE // b) for b in block)
    return z, y, x


def _zarr_spec(instance: Datatype, box: Box, scale: int, url: str) -> dict[str, Any]:
    block, dtype = block_shape(instance), _dtype(instance)
    size = np.dtype(dtype).itemsize
    blosc = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle" if size > 1 else "noshuffle", "typesize": size}
    inner = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": {**blosc, "blocksize": 0}},
    ]
    channels = _channels(instance)
    first = [channels] if channels > 1 else []
    shard = {"chunk_shape": [*first, *block], "codecs": inner}
    return {
        "driver": "zarr3",
        "kvstore": url,
        "metadata": {
            "shape": [*first, *box.shape],
            "data_type": dtype,
            "fill_value": 0,
            "dimension_names": ["c"] * len(first) + ["z", "y", "x"],
            "attributes": {"offset": list(box.start)},
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*first, *_whole(block)]}},
            "codecs": [{"name": "sharding_indexed", "configuration": shard}],
        },
    }


def _precomputed_spec(instance: Datatype, box: Box, scale: int, url: str, sharding: Sharding | None) -> dict[str, Any]:
    labels = isinstance(instance, LabelVolume)
    size = [v * 2**scale for v in nanometres(instance)]
    meta: dict[str, Any] = {
        "size": list(box.shape[::-1]),
        "voxel_offset": list(box.start[::-1]),
        "chunk_size": list(block_shape(instance)[::-1]),
        "resolution": size[::-1],
        "key": "_".join(f"{v:g}" for v in size[::-1]),
        "encoding": "compressed_segmentation" if labels else "raw",
    }
    if labels:
        meta["compressed_segmentation_block_size"] = [8, 8, 8]
    if sharding is not None:
        meta["sharding"] = sharding.to_json()
    return {
        "driver": "neuroglancer_precomputed",
        "kvstore": url,
        "multiscale_metadata": {
            "type": "segmentation" if labels else "image",
            "data_type": _dtype(instance),
            "num_channels": _channels(instance),
        },
        "scale_metadata": meta,
    }


def _units(instance: Datatype) -> list[str]:
    """Units of z, y, x in the singular, as OME-Zarr writes them."""
    return [u.rstrip("s") for u in instance.voxel_units]  # type: ignore[attr-defined]


def nanometres(instance: Datatype) -> list[float]:
    """Size of a voxel (z, y, x) in nanometres; a unit that nobody knows counts as that."""
    sizes = instance.voxel_size  # type: ignore[attr-defined]
    return [float(s) * _METRES.get(u, 1.0) for s, u in zip(sizes, _units(instance), strict=True)]


def write_metadata(instance: Datatype, levels: Sequence[Level], url: str, *, format: str) -> None:
    """Write what describes the volume below a URL, outermost last; repeating it changes nothing."""
    import tensorstore as ts

    for level in levels:
        level.describe()
    if format == "ome-zarr":
        base: Base | None = getattr(instance, "base_volume", None)
        ome = ome_zarr.attributes(
            instance.name,
            [(level.scale, level.box.start) for level in levels],
            instance.voxel_size,  # type: ignore[attr-defined]
            _units(instance),
            labels=isinstance(instance, LabelVolume),
            ours=base is None or not base.made(level.scale for level in levels),
            channels=_channels(instance),
            dtype=_dtype(instance),
        )
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        ts.KvStore.open(url).result().write("zarr.json", json.dumps(group, indent=1)).result()


def level_grid(instance: Datatype, space: Space, level: Level, format: str) -> Grid:
    """Bricks as seen from the first voxel, where chunks begin; of a region those that have voxels of it."""
    block = block_shape(instance)
    if format == "precomputed" and (level.sharding is not None or isinstance(instance, LabelVolume)):
        grid = shard_grid(instance, space, level.scale, level.box, block, level.sharding)
    else:
        grid = Grid(0, 0, _whole(block), block, Box.of_shape(level.box.shape))
    return grid if level.within is None else level.within.bricks(grid, level.box.start, level.scale)
