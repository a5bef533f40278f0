"""What volumes of labels tell those that follow them, and hear themselves; see `dvid_dask.datatypes.events`."""

from dvid_dask.datatypes.events import (
    BlocksWritten,
    BodiesMerged,
    BodyCleaved,
    BodyRenumbered,
    LabelsMerged,
    LabelSplit,
    LabelSplitCoarse,
    SupervoxelsJoined,
    SupervoxelsMoved,
    SupervoxelsSplit,
)

__all__ = [
    "BlocksWritten",
    "BodiesMerged",
    "BodyCleaved",
    "BodyRenumbered",
    "LabelSplit",
    "LabelSplitCoarse",
    "LabelsMerged",
    "SupervoxelsJoined",
    "SupervoxelsMoved",
    "SupervoxelsSplit",
]
