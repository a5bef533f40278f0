"""One state of a label volume or an image: where each of its scales lies, and its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.datatypes.labelmap import LabelMap, LabelVolume
from dvid_dask.datatypes.labelmap import keys as label_keys
from dvid_dask.datatypes.labelmap.blocks import decompress
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.errors import BadRequest
from dvid_dask.formats import label_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["Level", "Volume"]

Point = tuple[int, int, int]

#: Lengths in nanometres.
NANOMETRES = {"nanometer": 1.0, "micrometer": 1e3, "micron": 1e3, "millimeter": 1e6, "angstrom": 0.1, "meter": 1e9}


class Level(NamedTuple):
    """A scale: its voxels z, y, x from `start`, which is a block's corner, to before `stop`."""

    scale: int
    start: Point
    stop: Point

    @property
    def shape(self) -> Point:
        """Voxels in z, y, x."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x


class Volume:
    """One state of an instance, whatever is written meanwhile.

    Parameters
    ----------
    instance : Datatype
        A labelmap, labelarray or labelblk, or an image of any type.
    supervoxels : bool
        Supervoxels instead of bodies, for a labelmap.

    Attributes
    ----------
    labels : bool
        Whether the voxels are labels.
    dtype : numpy.dtype
        Of one value.
    channels : int
        Values per voxel.
    block : tuple of int
        Voxels of a block, z, y, x.
    levels : list of Level
        The scales in which something is stored, 0 first; none for an empty instance.
    token : str
        Equal tokens mean the same state of the version's tree.

    Raises
    ------
    BadRequest
        The instance holds no voxels by its type.
    """

    def __init__(self, instance: Datatype, *, supervoxels: bool = False) -> None:
        self.instance = instance
        self.space: Space = instance.view()
        self.token = self.space.token
        self.supervoxels = supervoxels
        self.labels = isinstance(instance, LabelVolume)
        if isinstance(instance, LabelVolume):
            box = instance.extents
            self.dtype = np.dtype(np.uint64)
            self.channels, self.block = 1, instance.block_shape
            scales = list(range(instance.layout.levels + 1))
            if supervoxels and not isinstance(instance, LabelMap):
                raise BadRequest(f"{instance.name!r} is a {instance.typename}: only a labelmap has supervoxels")
        elif isinstance(instance, ImageBlk):
            if supervoxels:
                raise BadRequest(f"{instance.name!r} is a {instance.typename}: only a labelmap has supervoxels")
            box = instance.extents
            layout = instance.layout
            self.dtype, self.channels, self.block = layout.numpy_dtype, layout.channels, layout.block
            scales = layout.scales(self.space)
        else:
            raise BadRequest(f"{instance.name!r} is a {instance.typename}: it holds no volume of voxels")
        self.levels = [] if box is None or 0 not in scales else [self._level(box, s) for s in scales]

    def _level(self, box: tuple[Sequence[int], Sequence[int]], scale: int) -> Level:
        start, stop = [], []
        for a, b, n in zip(*box, self.block, strict=True):
            start.append((a >> scale) // n * n)
            stop.append(-(-b >> scale))
        return Level(scale, cast("Point", tuple(start)), cast("Point", tuple(stop)))

    @property
    def has_supervoxels(self) -> bool:
        """Whether supervoxels can be seen beside the bodies."""
        return isinstance(self.instance, LabelMap)

    @property
    def units(self) -> list[str]:
        """Units of z, y, x in the singular."""
        units: Sequence[str] = self.instance.voxel_units  # type: ignore[attr-defined]
        return [unit.rstrip("s") for unit in units]

    @property
    def voxel_size(self) -> list[float]:
        """Size of a voxel of scale 0, z, y, x, in `units`."""
        sizes: Sequence[float] = self.instance.voxel_size  # type: ignore[attr-defined]
        return [float(v) for v in sizes]

    @property
    def nanometres(self) -> list[float]:
        """Size of a voxel of scale 0, z, y, x; an unknown unit counts as nanometres."""
        return [s * NANOMETRES.get(unit, 1.0) for s, unit in zip(self.voxel_size, self.units, strict=True)]

    @property
    def fill(self) -> int:
        """What voxels are where nothing was written."""
        return 0 if self.labels else int(self.instance.background)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ blocks

    def label_block(self, scale: int, block: Sequence[int]) -> tuple[bytes, NDArray[np.uint64]] | None:
        """A label block with the table to read it by; None where nothing but 0 is.

        Parameters
        ----------
        scale, block
            Block coordinates z, y, x.
        """
        seg = cast("LabelVolume", self.instance)
        value = self.space.get(label_keys.blocks(scale, [block])[0])
        if value is None:
            return None
        held = decompress(value, seg.layout)
        table = label_blocks.labels(held)
        if not self.supervoxels:
            table = Mapping(self.space).bodies(table)
        return (held, table) if table.any() else None

    def stored_block(self, scale: int, block: Sequence[int]) -> bytes | None:
        """A block of an image as it is stored, or would be; None where there is none."""
        image = cast("ImageBlk", self.instance)
        return image.layout.value(self.space, scale, block)

    def voxels(self, scale: int, start: Sequence[int], shape: Sequence[int]) -> NDArray[np.generic]:
        """The voxels of a box, z, y, x; as they are stored where something is, else `fill`."""
        if self.labels:
            seg = cast("LabelVolume", self.instance)
            from dvid_dask.datatypes.labelmap.voxels import read_box

            mapping = None if self.supervoxels else Mapping(self.space)
            return read_box(self.space, seg.layout, mapping, start, shape, scale)
        image = cast("ImageBlk", self.instance)
        return image.bulk_read(self.space, start, shape, scale)
