"""What instances that follow an image are told."""

from __future__ import annotations

import msgspec

__all__ = ["BlocksWritten"]


class BlocksWritten(msgspec.Struct, frozen=True):
    """Whole blocks at scale 0 have new voxels.

    Attributes
    ----------
    start, stop : tuple of int
        First and one past the last voxel, z, y, x.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
