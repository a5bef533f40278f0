"""Which blocks an instance has stored: what jobs over a whole instance work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import LabelVolume, keys
from dvid_dask.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["block_batches", "block_shape", "box_of_blocks", "stored_blocks", "stored_scales"]

_BATCH = 1 << 16


def block_shape(instance: Datatype) -> Point:
    """Voxels of a block (z, y, x).

    Raises
    ------
    NotSupported
        If the instance holds no volume.
    """
    if isinstance(instance, (LabelVolume, ImageBlk)):
        return instance.block_shape
    raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: it holds no volume of labels or of an image")


def stored_scales(instance: Datatype, space: Space) -> list[int]:
    """The scales of which blocks are stored."""
    if isinstance(instance, ImageBlk):
        return instance.layout.scales(space)
    return [s for s in range(256) if next(space.keys(keys.scale_prefix(s)), None) is not None]


def stored_blocks(instance: Datatype, space: Space, scale: int) -> NDArray[np.int64]:
    """int64 (n, 3): coordinates of all blocks of a scale that are stored. Costs a listing of their keys."""
    return np.concatenate([np.empty((0, 3), np.int64), *block_batches(instance, space, scale)])


def block_batches(instance: Datatype, space: Space, scale: int) -> Iterator[NDArray[Any]]:
    """`stored_blocks` in batches."""
    return _label_blocks(space, scale) if isinstance(instance, LabelVolume) else _image_blocks(instance, space, scale)


def _label_blocks(space: Space, scale: int) -> Iterator[NDArray[Any]]:
    held: list[bytes] = []
    for key in space.keys(keys.scale_prefix(scale)):
        held.append(key)
        if len(held) == _BATCH:
            yield keys.blocks_of(held)
            held = []
    if held:
        yield keys.blocks_of(held)


def _image_blocks(instance: Datatype, space: Space, scale: int) -> Iterator[NDArray[Any]]:
    if isinstance(instance, ImageBlk) and instance.extents is not None:
        box = instance.extents.at_scale(scale).cells(instance.block_shape)
        for part in instance.layout.stored_in(space, scale, box.start, box.stop):
            yield part[instance.layout.stored(space, scale, part)]


def box_of_blocks(blocks: NDArray[np.int64], block: Point) -> Box:
    """The voxels from the first to the last of some blocks."""
    return Box.of(blocks.min(axis=0).tolist(), (blocks.max(axis=0) + 1).tolist()).scaled(block)
