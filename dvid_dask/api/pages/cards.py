"""What a page says of a data instance at a version: its size, its scales, a picture of its middle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvid_dask.datatypes import LABEL_VOLUMES
from dvid_dask.datatypes.events import KINDS
from dvid_dask.errors import DvidError
from dvid_dask.formats.urls import shown
from dvid_dask.store import StoreError

if TYPE_CHECKING:
    from dvid_dask.versions import Version
    from dvid_dask.versions.records import InstanceInfo

__all__ = ["Card", "Volume", "card_of", "picture_of", "volume_of"]

#: Sides of a picture in pixels at most.
PICTURE = 256
#: Keys of an instance up to which they are read for its card.
MANY = 2000

IMAGES = frozenset({"uint8blk", "uint16blk", "uint32blk", "uint64blk", "float32blk", "rgba8blk"})


class Volume(NamedTuple):
    """Where a volume lies.

    Attributes
    ----------
    start, stop : tuple of int
        First and one past the last voxel, x, y, z.
    voxel_size : tuple of float
        x, y, z, in `units`.
    units : str
    scales : tuple of int
        Coarser scales it has.
    labels : bool
        Whether its voxels are labels.
    channels : int
        Values of a voxel.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    units: str
    scales: tuple[int, ...]
    labels: bool
    channels: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


class Card(NamedTuple):
    """What a page shows of an instance."""

    name: str
    typename: str
    versioned: bool
    facts: list[str]
    picture: str
    volume: Volume | None
    syncs: list[str]
    tags: dict[str, str]
    trouble: str


def volume_of(version: Version, info: InstanceInfo) -> Volume | None:
    """Where the volume of an instance lies at a version; None for an empty one, or one that is no volume."""
    labels = info.typename in LABEL_VOLUMES
    if not labels and info.typename not in IMAGES:
        return None
    instance: Any = version.instance(info)
    extents = instance.extents
    if extents is None:
        return None
    if labels:
        scales = tuple(range(1, instance.layout.levels + 1))
    else:
        scales = tuple(sorted(s for s in instance.scales() if s))
    if not extents:
        return None
    (z, y, x), (c, b, a) = extents
    size, units = instance.voxel_size[::-1], str(instance.voxel_units[-1])
    return Volume((x, y, z), (a, b, c), size, units, scales, labels, 1 if labels else instance.layout.channels)


def card_of(version: Version, info: InstanceInfo, address: str) -> Card:
    """The card of an instance at a version; trouble with its data is told on it.

    Parameters
    ----------
    version : Version
    info : InstanceInfo
    address : str
        Of the version in the REST API, as ``/api/node/<uuid>``.
    """
    volume, facts, trouble = None, [], ""
    try:
        volume = volume_of(version, info)
        if volume is not None:
            facts.append(" × ".join(f"{n:,}" for n in volume.shape) + " voxels")
            facts.append(
                " × ".join(f"{n:g}" for n in volume.voxel_size) + " " + volume.units.replace("nanometers", "nm")
            )
            if volume.scales:
                facts.append(f"{1 + len(volume.scales)} scales")
        if base := info.settings.get("Base"):
            facts.append(f"adopted from {shown(base['url'])}")
        instance = version.instance(info)
        amount = instance.stored()
        if volume is None and amount.keys <= MANY:
            facts += facts_of(instance)
        facts.append(f"{_counted(amount.keys, 'key')}, {size_text(amount.bytes)}")
    except (DvidError, StoreError, ValueError) as error:
        trouble = str(error)
    named = version.repo.state().by_data_uuid
    syncs = [named[s].name for s in info.syncs if s in named]
    picture = picture_of(volume, f"{address}/{info.name}") if volume is not None else ""
    return Card(info.name, info.typename, info.versioned, facts, picture, volume, syncs, dict(info.tags or {}), trouble)


def facts_of(instance: Any) -> list[str]:
    """What there is to say of an instance that is no volume, in words; for those with few keys, which are all read."""
    kind = instance.typename
    if kind == "annotation":
        counts = sum((np.bincount(held.kind, minlength=len(KINDS)) for _, held, _ in instance.scan()), np.zeros(5, int))
        return [
            ", ".join(f"{n:,} {name}" for name, n in zip(KINDS, counts.tolist(), strict=True) if n) or "no elements"
        ]
    if kind == "neuronjson":
        return [_counted(len(instance), "neuron")]
    if kind == "roi":
        return [_counted(len(instance.region), "block")]
    return []


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def picture_of(volume: Volume, address: str) -> str:
    """Path and query of a picture of the middle plane: as much of it as the coarsest useful scale shows.

    Examples
    --------
    >>> volume = Volume((0, 0, 0), (1024, 1024, 64), (8.0, 8.0, 8.0), "nanometers", (1, 2, 3), True)
    >>> picture_of(volume, "/api/node/1f/seg")
    '/api/node/1f/seg/pseudocolor/0_1/256_256/0_0_8/png?scale=2'
    """
    width, height, _ = volume.shape
    wanted = max(0, math.ceil(math.log2(max(width, height) / PICTURE)))
    scale = max((s for s in volume.scales if s <= wanted), default=0)
    start = [v >> scale for v in volume.start]
    stop = [-(-v >> scale) for v in volume.stop]
    z = (start[2] + stop[2]) // 2
    sides, corner = [], []
    for a, b in zip(start[:2], stop[:2], strict=True):
        side = min(PICTURE, b - a)
        sides.append(side)
        corner.append(a + (b - a - side) // 2)
    kind, format = ("pseudocolor", "png") if volume.labels else ("raw", "jpg")
    query = f"?scale={scale}" if scale else ""
    return f"{address}/{kind}/0_1/{sides[0]}_{sides[1]}/{corner[0]}_{corner[1]}_{z}/{format}{query}"


def size_text(n: int) -> str:
    """Bytes for people.

    Examples
    --------
    >>> size_text(812), size_text(31_400_000), size_text(2_000_000_000_000)
    ('812 B', '31.4 MB', '2 TB')
    """
    value, unit = float(n), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
