"""Regions of interest: sets of blocks, per version. The datatype roi."""

from .datatype import PinnedRoi, Roi
from .partition import Partition
from .region import Region

__all__ = ["Partition", "PinnedRoi", "Region", "Roi"]
