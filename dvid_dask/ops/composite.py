"""A colour image of a segmentation over grayscale: each body's colour, as bright as the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk import ImageBlk, PinnedImage
from dvid_dask.datatypes.labelmap import LabelVolume
from dvid_dask.datatypes.labelmap.arrays import VoxelArray
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from dvid_dask.formats import images
from dvid_dask.ops import job
from dvid_dask.ops.bricks import Grid
from dvid_dask.ops.job import InstanceLedger, LedgerPhase, Result
from dvid_dask.ops.progress import Progress
from dvid_dask.versions.records import go_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["composite"]

_EDGE = 256
_PIECE = (64, 128, 256)


@dataclass(frozen=True)
class _Paint:
    """Paints a brick; pickled once per worker."""

    ledger: InstanceLedger
    labels: VoxelArray
    gray: PinnedImage
    box: Box
    grid: Grid

    def __call__(self, index: int) -> Result:
        image = self.ledger.instance
        if not isinstance(image, ImageBlk):
            raise TypeError(f"{image} is no image")
        space = image.view(0)
        brick = self.grid.brick(index)
        items: list[tuple[bytes, bytes]] = []
        step = [max(b, p // b * b) for b, p in zip(self.grid.block, _PIECE, strict=True)]
        for piece in brick.split(step):
            inside = piece.intersect(self.box)
            if not inside:
                continue
            voxels = np.zeros((*piece.shape, 4), np.uint8)
            gray = self.gray[inside.relative(self.gray.extents.start).slices()]
            voxels[inside.relative(piece.start).slices()] = paint(self.labels[inside.slices()], gray)
            items += image.bulk_encode(space, voxels, piece.start, 0)

        def write(_: Mutation, tx: TxSpace) -> Result:
            tx.put_many(items)
            return {"voxels": brick.intersect(self.box).size}

        return self.ledger.commit("bricks", index, write)


def paint(labels: NDArray[np.uint64], gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours of labels times gray / 256; opaque.

    Parameters
    ----------
    labels, gray
        Of one shape.

    Returns
    -------
    NDArray[uint8]
        The shape with a last axis of R, G, B, A.

    Examples
    --------
    >>> paint(np.array([1], np.uint64), np.array([128], np.uint8)).tolist()
    [[41, 3, 46, 255]]
    """
    out = np.empty((*labels.shape, 4), np.uint8)
    out[..., :3] = images.pseudocolor(labels).astype(np.uint16) * gray[..., None] >> 8
    out[..., 3] = 255
    return out


def composite(
    labels: Datatype,
    gray: Datatype,
    name: str,
    *,
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> Datatype:
    """Make an ``rgba8blk`` of the bodies' colours over an image, where both have voxels.

    Killed and started again it goes on, with labels and image as they are then.

    Parameters
    ----------
    labels
        A labelmap at an open version.
    gray
        A ``uint8blk`` at the same version.
    name
        Of the new instance.
    client, progress, user, app
        As for `ingest`.

    Returns
    -------
    Datatype
        The new instance, with the labelmap's voxel size.

    Raises
    ------
    BadRequest
        If the two have no voxel in common, or are of different versions.
    Conflict
        If the name is taken by something else.
    NotSupported
        If they are no label volume and ``uint8blk``.
    """
    if not isinstance(labels, LabelVolume) or not isinstance(gray, ImageBlk) or gray.info.typename != "uint8blk":
        raise NotSupported(
            f"a label volume and a uint8blk make a composite, not a {labels.info.typename} and a {gray.info.typename}"
        )
    if labels.version != gray.version:
        raise BadRequest("labels and image must be of one version: the composite is made there")
    labels.check_open()
    client = job.find_client(client)
    job.check_reach(client, labels)
    extents, held = labels.extents, gray.extents
    box = Box.of((0, 0, 0), (0, 0, 0))
    if extents is not None and held is not None:
        box = extents.intersect(held)
    if not box:
        raise BadRequest(f"{labels.name!r} and {gray.name!r} have no voxel in common")
    made = job.job_name(op="composite", labels=labels.info.data_uuid, gray=gray.info.data_uuid, box=box)
    image = _new_image(labels, name, made)
    ledger = InstanceLedger(image, made, user=user, app=app)
    ledger.begin({"op": "composite"}, lambda _, space: image.create_scale(space, 0))
    block = image.block_shape
    edge = Box.of_shape((_EDGE,) * 3).aligned(block).stop
    grid = Grid(0, 0, edge, block, box.aligned(block))
    show = Progress(progress)
    show.say(f"composite of {labels.name!r} over {gray.name!r}: {grid.count:,} bricks of voxels {box}")
    weights = [grid.brick(i).size for i in range(grid.count)]
    task = _Paint(ledger, labels.array(), gray.pin(), box, grid)
    job.execute(LedgerPhase(ledger, "bricks", "composite", weights, task), client, show)

    def finish(m: Mutation, space: TxSpace) -> None:
        image.grow_extents(space, box.start, box.stop)
        when = {"Timestamp": go_time(m.time), "UUID": m.version.uuid}
        sources = {"Labels": labels.name, "Grayscale": gray.name}
        m.log(image, {"Action": "composite", "MutationID": m.id, **sources, **when})

    ledger.finish(finish)
    return image


def _new_image(labels: LabelVolume, name: str, made: str) -> ImageBlk:
    """The instance to paint: new, or that of an earlier run."""
    version = labels.version
    if name not in version:
        settings = labels.info.settings
        config = {
            "BlockSize": ",".join(map(str, settings["BlockSize"])),
            "VoxelSize": ",".join(map(str, settings["VoxelSize"])),
            "VoxelUnits": ",".join(settings["VoxelUnits"]),
        }
        version.repo.new_instance("rgba8blk", name, config, at=version)
    image = version[name]
    if not isinstance(image, ImageBlk) or image.info.typename != "rgba8blk":
        raise Conflict(f"there is a data instance {name!r} already, a {image.info.typename}")
    if image.extents is not None and made not in job.unfinished_jobs(image):
        raise Conflict(f"there is an image {name!r} already, with voxels: give another name")
    return image
