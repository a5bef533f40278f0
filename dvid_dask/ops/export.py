"""Export: an instance at a version as zarr 3, OME-Zarr or neuroglancer precomputed, with all its scales.

=================  ==============================================================================================
format             what is written
=================  ==============================================================================================
``zarr``           one zarr 3 array, full resolution
``ome-zarr``       a zarr 3 group of arrays ``s0``, ``s1``, ... with OME-Zarr 0.5 ``multiscales`` metadata
``precomputed``    a neuroglancer volume in shards; labels as ``compressed_segmentation``
=================  ==============================================================================================

Zarr arrays begin at index 0, which is the first voxel of the extents: OME-Zarr says where that is by a translation,
a plain array by its attribute ``offset`` (z, y, x). Chunks are the instance's blocks and lie in shards. A precomputed
volume of labels begins at the first block, so that blocks become chunks as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.imageblk import ImageBlk, PinnedImage
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.datatypes.labelmap.arrays import VoxelArray
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from dvid_dask.formats.sharding import Sharding
from dvid_dask.ops import job
from dvid_dask.ops.bricks import Grid
from dvid_dask.ops.folders import end_job, ledger_at
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.precomputed import LabelChunks, from_first_block, shard_grid, sharding_for, write_properties
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.sources import directory_url
from dvid_dask.ops.stored import block_shape, stored_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["ExportReport", "export", "nanometres"]

_FORMATS = ("zarr", "ome-zarr", "precomputed")
_EDGE = 256
_LEDGER = ".dvid-dask-export"
_METRES = {"nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "angstrom": 0.1, "meter": 1e9}


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes
    ----------
    destination
        Where it was written.
    scales
        Number of scales.
    voxels
        Voxels of all scales.
    seconds
        Time of this run.
    """

    destination: str
    scales: int
    voxels: int
    seconds: float

    def __str__(self) -> str:
        amount = f"{self.voxels / 1e6:,.1f} Mvoxel in {self.scales} scales"
        return f"wrote {amount} to {self.destination} in {self.seconds:.1f} s"


@dataclass(frozen=True)
class _Level:
    """One scale: what is read and where it goes."""

    scale: int
    box: Box  # voxels of the scale
    source: VoxelArray | PinnedImage
    spec: str  # of the tensorstore to write, JSON
    sharding: Sharding | None  # of a precomputed volume

    def read(self, brick: Box) -> NDArray[Any]:
        """Voxels of a box that is counted from the first voxel."""
        if isinstance(self.source, PinnedImage):  # is itself an array from the first voxel on
            return self.source[brick.slices()]
        return self.source[brick.shift(self.box.start).slices()]

    def open(self, *, create: bool = False) -> Any:
        """The array to write as (z, y, x), beginning at 0."""
        import tensorstore as ts

        store = ts.open(json.loads(self.spec), create=create, open=True, read=True, write=True).result()
        if store.rank == 4:  # x, y, z, channel
            store = store[..., 0].transpose([2, 1, 0])
        return store[ts.d[:].translate_to[0]]


@dataclass(frozen=True)
class _Copy:
    """Copies a brick."""

    ledger: ScratchLedger
    phase: str
    level: _Level
    grid: Grid

    def __call__(self, index: int) -> Result:
        brick = self.grid.brick(index)
        voxels = np.asarray(self.level.read(brick))
        if self.level.sharding is None:
            self.level.open()[brick.slices()].write(voxels).result()
        else:
            import tensorstore as ts

            with ts.Transaction() as transaction:  # the shard is written once, whole
                self.level.open().with_transaction(transaction)[brick.slices()].write(voxels).result()
        return self.ledger.commit(self.phase, index, lambda _, __: {})


def export(
    instance: Datatype,
    destination: str,
    *,
    format: str = "ome-zarr",
    scales: int | None = None,
    supervoxels: bool = False,
    sharded: bool = True,
    segment_properties: bool = False,
    client: Any = None,
    progress: bool = True,
) -> ExportReport:
    """Write an instance at a version to another format, as a Dask graph; killed and started again it goes on.

    All is read from one state of the version, also while others edit it.

    Parameters
    ----------
    instance
        A labelmap or an image of one channel, at any version.
    destination
        Path or URL (``file://``, ``gs://``, ``s3://``) of a directory that doesn't exist or is empty.
    format
        ``"zarr"``, ``"ome-zarr"`` or ``"precomputed"``.
    scales
        Coarser scales to write: by default all that are stored; none for ``"zarr"``.
    supervoxels
        Supervoxels instead of bodies.
    sharded
        Whether a precomputed volume puts its chunks together into shards, some thousands a file.
    segment_properties
        Also write the voxels of every body as neuroglancer's ``segment_properties``, for precomputed volumes.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the format is unknown, or the instance is empty or hasn't so many scales, or has no such properties.
    Conflict
        If there is something at the destination.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import zarr
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation", {"MaxDownresLevel": "1"})
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 64))
    >>> folder = tempfile.mkdtemp() + "/seg.zarr"
    >>> export(seg, folder, progress=False).scales
    2
    >>> group = zarr.open_group(folder, mode="r")
    >>> group["s1"].shape, int(group["s1"][0, 0, 0])
    ((32, 32, 32), 7)
    """
    began = time.monotonic()
    if format not in _FORMATS:
        raise BadRequest(f"format {format!r} is unknown: choose one of {', '.join(_FORMATS)}")
    if segment_properties and (format != "precomputed" or supervoxels or not isinstance(instance, LabelMap)):
        raise BadRequest("segment properties are those of bodies in a precomputed volume")
    client = job.find_client(client)
    job.check_reach(client, instance)
    space = instance.view(0)
    box = _extents(instance, space)
    count = _count_scales(instance, space, format, scales)
    url = directory_url(destination)
    levels = [_level(instance, space, box, s, supervoxels, format, url, sharded) for s in range(count)]
    name = job.job_name(
        op="export",
        instance=instance.info.data_uuid,
        state=space.token,
        specs=[level.spec for level in levels],
        supervoxels=supervoxels,
    )
    ledger = _begin(url, name, levels, _metadata(instance, box, levels, format))
    show = Progress(progress)
    grids = [_grid(instance, space, level, format) for level in levels]
    bricks = sum(g.count for g in grids)
    total = sum(level.box.size for level in levels)
    show.say(
        f"export {instance.name!r} at version {instance.version.uuid[:12]} to {destination} ({format}): "
        f"{count} scales, {total / 1e6:,.1f} Mvoxel in {bricks:,} bricks"
    )
    for level, grid in zip(levels, grids, strict=True):
        phase = f"scale{level.scale}"
        weights = [grid.brick(i).size for i in range(grid.count)]
        task = _task(ledger, phase, level, grid)
        job.execute(LedgerPhase(ledger, phase, f"scale {level.scale}", weights, task), client, show)
    if segment_properties and isinstance(instance, LabelMap):
        write_properties(instance, space, url, supervoxels=supervoxels)
    end_job(ledger, f"{url}{_LEDGER}/")
    return ExportReport(destination, count, total, time.monotonic() - began)


def _extents(instance: Datatype, space: Space) -> Box:
    if isinstance(instance, ImageBlk):
        if instance.layout.channels > 1:
            raise NotSupported(f"{instance.name!r} has {instance.layout.channels} channels: images of one are exported")
        held = instance.extents
        if held is not None:
            return Box.of(*held)
    elif isinstance(instance, LabelMap):
        extents = instance.extents()
        if extents is not None:
            return Box.of(extents.first, [v + 1 for v in extents.last])
    else:
        block_shape(instance)
    raise BadRequest(f"{instance.name!r} is empty at version {instance.version.uuid}: there is nothing to export")


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
) -> _Level:
    here = box.at_scale(scale)
    source: VoxelArray | PinnedImage
    if isinstance(instance, LabelMap):
        if format == "precomputed":
            here = from_first_block(here, instance.block_shape)
        last = [v - 1 for v in here.stop]
        source = VoxelArray(space, instance.layout, scale, supervoxels, here.start, last)
        itemsize = None
    elif isinstance(instance, ImageBlk):
        extents = instance.extents
        if extents is None:
            raise BadRequest(f"{instance.name!r} is empty")
        source = PinnedImage(instance, space, scale, extents.at_scale(scale))
        itemsize = np.dtype(instance.dtype).itemsize
    else:
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}")
    if format != "precomputed":
        path = url if format != "ome-zarr" else f"{url}s{scale}/"
        spec = _zarr_spec(instance, here, scale, path)
        return _Level(scale, here, source, json.dumps(spec, sort_keys=True), None)
    sharding = sharding_for(here, block_shape(instance), itemsize) if sharded else None
    spec = _precomputed_spec(instance, here, scale, url, sharding)
    return _Level(scale, here, source, json.dumps(spec, sort_keys=True), sharding)


def _task(ledger: ScratchLedger, phase: str, level: _Level, grid: Grid) -> _Copy | LabelChunks:
    """What writes a brick of a level: labels go to a precomputed volume block by block, all else as voxels."""
    spec, source = json.loads(level.spec), level.source
    if spec["driver"] != "neuroglancer_precomputed" or not isinstance(source, VoxelArray):
        return _Copy(ledger, phase, level, grid)
    url = f"{spec['kvstore']}{spec['scale_metadata']['key']}/"
    return LabelChunks(
        ledger,
        phase,
        source.space,
        source.layout,
        level.scale,
        source.supervoxels,
        level.box,
        grid,
        url,
        level.sharding,
    )


def _dtype(instance: Datatype) -> str:
    return "uint64" if isinstance(instance, LabelMap) else np.dtype(instance.dtype).name  # type: ignore[attr-defined]


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
    return {
        "driver": "zarr3",
        "kvstore": url,
        "metadata": {
            "shape": list(box.shape),
            "data_type": dtype,
            "fill_value": 0,
            "dimension_names": ["z", "y", "x"],
            "attributes": {"offset": list(box.start)},
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(_whole(block))}},
            "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": list(block), "codecs": inner}}],
        },
    }


def _precomputed_spec(instance: Datatype, box: Box, scale: int, url: str, sharding: Sharding | None) -> dict[str, Any]:
    labels = isinstance(instance, LabelMap)
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
            "num_channels": 1,
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


def _metadata(instance: Datatype, box: Box, levels: Sequence[_Level], format: str) -> bytes | None:
    """The group's ``zarr.json`` of an OME-Zarr."""
    if format != "ome-zarr":
        return None
    size = [float(v) for v in instance.voxel_size]  # type: ignore[attr-defined]
    datasets = []
    for level in levels:
        step = 2**level.scale
        # OME-Zarr places centres of voxels; the origin is the outer corner of voxel 0, as neuroglancer has it elsewhere
        first = [(a + 0.5) * step * s for a, s in zip(level.box.start, size, strict=True)]
        datasets.append(
            {
                "path": f"s{level.scale}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [s * step for s in size]},
                    {"type": "translation", "translation": first},
                ],
            }
        )
    labels = isinstance(instance, LabelMap)
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": instance.name,
                "axes": [{"name": n, "type": "space", "unit": u} for n, u in zip("zyx", _units(instance), strict=True)],
                "datasets": datasets,
                "type": "majority" if labels else "mean",
            }
        ],
    }
    if labels:
        ome["image-label"] = {}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}, indent=1).encode()


def _grid(instance: Datatype, space: Space, level: _Level, format: str) -> Grid:
    """Bricks as seen from the first voxel: that is where chunks begin."""
    block = block_shape(instance)
    if format == "precomputed" and (level.sharding is not None or isinstance(instance, LabelMap)):
        return shard_grid(instance, space, level.scale, level.box, block, level.sharding)
    return Grid(0, 0, _whole(block), block, Box.of_shape(level.box.shape))


def _begin(url: str, name: str, levels: Sequence[_Level], metadata: bytes | None) -> ScratchLedger:
    """Make the arrays, or go on with an export of the same that was interrupted."""
    import tensorstore as ts

    place = ts.KvStore.open(url).result()

    def check_empty() -> None:
        if place.list().result():
            raise Conflict(f"{url} is not empty: give another destination, or remove it")

    ledger = ledger_at(f"{url}{_LEDGER}/", name, check_empty, replace=False)
    if metadata is not None:
        place.write("zarr.json", metadata).result()
    for level in levels:
        level.open(create=True)
    return ledger
