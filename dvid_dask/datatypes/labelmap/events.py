"""What a labelmap tells the instances that follow it; see `dvid_dask.datatypes.events`."""

from dvid_dask.datatypes.events import (
    BlocksWritten,
    BodiesMerged,
    BodyCleaved,
    BodyRenumbered,
    SupervoxelsJoined,
    SupervoxelsMoved,
    SupervoxelsSplit,
)

__all__ = [
    "BlocksWritten",
    "BodiesMerged",
    "BodyCleaved",
    "BodyRenumbered",
    "SupervoxelsJoined",
    "SupervoxelsMoved",
    "SupervoxelsSplit",
]
