"""Regions of interest: sets of blocks, per version. The datatype roi."""

from .datatype import PinnedRoi, Roi
from .partition import Partition

__all__ = ["Partition", "PinnedRoi", "Roi"]
