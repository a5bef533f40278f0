"""What images and segmentations have alike: the size of their voxels, and the volume that an adopted one stands on."""

from __future__ import annotations

from typing import Any

from dvid_dask.bases.base import Base
from dvid_dask.datatypes.base import Datatype

__all__ = ["Volume"]


class Volume(Datatype):
    """An instance whose settings tell ``VoxelSize``, ``VoxelUnits`` and, where it was adopted, ``Base``."""

    _base: tuple[Any, Base] | None = None

    @property
    def base_volume(self) -> Base | None:
        """Where voxels lie that are not in the store; None where all are. Not versioned."""
        held = self.info.settings.get("Base")
        if held is None:
            return None
        if self._base is None or self._base[0] is not held:
            self._base = held, Base.of(held)
        return self._base[1]

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Lengths of a voxel (z, y, x), in `voxel_units`. Not versioned."""
        x, y, z = self.info.settings["VoxelSize"]
        return z, y, x

    @property
    def voxel_units(self) -> tuple[str, str, str]:
        """Units of the lengths (z, y, x)."""
        x, y, z = self.info.settings["VoxelUnits"]
        return z, y, x
