"""What a labelmap tells the instances that follow it, inside the commit of the change.

Subscribers tell the events apart by their class; coordinates are blocks (z, y, x) of scale 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BlocksWritten",
    "BodiesMerged",
    "BodyCleaved",
    "BodyRenumbered",
    "SupervoxelsJoined",
    "SupervoxelsMoved",
    "SupervoxelsSplit",
]


@dataclass(frozen=True)
class BlocksWritten:
    """Voxels of these blocks were replaced."""

    mutation: int
    block_zyx: NDArray[np.int32]


@dataclass(frozen=True)
class BodiesMerged:
    """Bodies became part of another."""

    mutation: int
    target: int
    merged: tuple[int, ...]


@dataclass(frozen=True)
class BodyCleaved:
    """Supervoxels of a body became a body of their own."""

    mutation: int
    body: int
    cleaved: int
    supervoxels: NDArray[np.uint64]


@dataclass(frozen=True)
class BodyRenumbered:
    """A body got another id."""

    mutation: int
    old: int
    new: int


@dataclass(frozen=True)
class SupervoxelsSplit:
    """Supervoxels of a body were cut in two; both parts are the body's. uint64 (n,) each, runs as x, y, z, length.

    A split of a body comes as this, followed by a `BodyCleaved` of the parts under the runs.
    """

    mutation: int
    body: int
    old: NDArray[np.uint64]
    split: NDArray[np.uint64]
    remain: NDArray[np.uint64]
    runs: NDArray[np.int32]


@dataclass(frozen=True)
class SupervoxelsJoined:
    """The parts of split supervoxels of a body became one again."""

    mutation: int
    body: int
    old: NDArray[np.uint64]
    split: NDArray[np.uint64]
    remain: NDArray[np.uint64]


@dataclass(frozen=True)
class SupervoxelsMoved:
    """Supervoxels went from bodies to others, of which some may be new: part of a bulk change."""

    mutation: int
    supervoxels: NDArray[np.uint64]
    old: NDArray[np.uint64]
    new: NDArray[np.uint64]
