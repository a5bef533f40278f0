"""What an image is made of: settings, extents, and what DVID shows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.base import Mutation, Space, TxSpace
from dvid_dask.datatypes.imageblk import extents as extents_record
from dvid_dask.datatypes.imageblk.adopted import AdoptedLayout
from dvid_dask.datatypes.imageblk.boxes import check_box, points, to_extents
from dvid_dask.datatypes.imageblk.layout import EXTENTS_KEY, Layout
from dvid_dask.datatypes.imageblk.settings import check_voxel_size, parse_settings
from dvid_dask.datatypes.volume import Volume
from dvid_dask.errors import BrokenBase, Unavailable
from dvid_dask.versions.records import go_time

__all__ = ["Instance"]


class Instance(Volume):
    """Settings and extents of an image at a version."""

    _layout: tuple[Any, Layout] | None = None

    # of a type, or of an instance whose voxels are known later
    value_type: str
    labels: tuple[str, ...]

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Block and voxel size, units, background and fallback extents; see `settings.parse_settings`."""
        return parse_settings(config, cls.value_type, len(cls.labels))

    @property
    def layout(self) -> Layout:
        """How voxels are stored."""
        known = self._layout
        if known is None or known[0] is not self.info:
            self._layout = known = self.info, self._make_layout()
        return known[1]

    def _make_layout(self) -> Layout:
        x, y, z = self.info.settings["BlockSize"]
        jpeg = self.info.compression.startswith("jpeg")
        base = self.base_volume
        if base is None:
            return Layout(self.value_type, len(self.labels), (z, y, x), jpeg)
        return AdoptedLayout(self.value_type, len(self.labels), (z, y, x), jpeg, base=base)

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of a block in z, y, x."""
        return self.layout.block

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value."""
        return np.dtype(self.value_type)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel."""
        return self.layout.voxel_bytes

    @property
    def background(self) -> int:
        """What DVID shows for blocks outside a region, and in some reads for blocks never stored."""
        return int(self.info.settings["Background"])

    @property
    def _background_value(self) -> Any:
        # every byte is the background
        return np.frombuffer(bytes([self.background]) * self.dtype.itemsize, self.dtype)[0]

    def set_resolution(self, size: Sequence[float]) -> None:
        """Change the size of a voxel (x, y, z), at all versions.

        Raises
        ------
        BadRequest
            Not three positive numbers.
        """
        lengths = [float(v) for v in size]
        check_voxel_size(lengths)
        self.update_settings(VoxelSize=lengths)

    # ------------------------------------------------------------------ extents

    @property
    def extents(self) -> Box | None:
        """The box that holds all that was written with `write` at this version or above it; None before that.

        Whoever posted extents may have set another box.
        """
        return self._read_extents(self.view())

    def _read_extents(self, space: Space | TxSpace) -> Box | None:
        value = space.get(EXTENTS_KEY)
        if value is not None:
            return extents_record.decode(value)
        low, high = self.info.settings["MinPoint"], self.info.settings["MaxPoint"]
        return None if low is None or high is None else extents_record.of_points(low, high)

    @staticmethod
    def _write_extents(space: TxSpace, extents: Box) -> None:
        space.put(EXTENTS_KEY, extents_record.encode(extents))

    def grow_extents(self, space: TxSpace, start: Sequence[int], stop: Sequence[int]) -> None:
        """Make this version's extents hold a box (z, y, x, end outside), inside a mutation.

        Writes only where they grow, so that bulk jobs that set them first don't collide on them.
        """
        known = self._read_extents(space)
        given = Box.of(start, stop)
        wider = given if known is None else known.union(given)
        if wider != known or space.get(EXTENTS_KEY) is None:
            self._write_extents(space, wider)

    def set_extents(
        self,
        start: Sequence[int],
        stop: Sequence[int],
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Overwrite this version's extents; they may shrink.

        Parameters
        ----------
        start, stop
            First and one past the last voxel, z, y, x.

        Raises
        ------
        BadRequest
            An empty or inverted box, or one outside int32.
        """
        extents = to_extents(*check_box(start, [b - a for a, b in zip(start, stop, strict=True)]))

        def change(m: Mutation, space: TxSpace) -> None:
            self._write_extents(space, extents)
            m.log(self, {"Action": "post-extents", **points(extents), **self._stamp(m)})

        self.mutate(change, user=user, app=app, force=force)

    def disagreements(self) -> Iterator[str]:
        """Whether the volume that the image stands on is still there, and the same."""
        base = self.base_volume
        if base is not None:
            try:
                base.check()
            except (BrokenBase, Unavailable) as error:
                yield str(error)

    # ------------------------------------------------------------------ what DVID shows

    def extended(self) -> dict[str, Any]:
        """DVID's properties of the image, with the extents of this version."""
        return self._properties(self.extents)

    def _properties(self, extents: Box | None) -> dict[str, Any]:
        held = self.info.settings
        ends = points(extents)
        block = held["BlockSize"]
        index = [p and [v // n for v, n in zip(p, block, strict=True)] for p in ends.values()]
        return {
            "Values": [{"DataType": self.value_type, "Label": label} for label in self.labels],
            "Interpolable": True,
            "BlockSize": block,
            "VoxelSize": held["VoxelSize"],
            "VoxelUnits": held["VoxelUnits"],
            **ends,
            "MinIndex": index[0],
            "MaxIndex": index[1],
            "Background": held["Background"],
            "GridStore": held["GridStore"],
            "ScaleLevel": held["ScaleLevel"],
            **({} if self.base_volume is None else {"Base": self.base_volume.summary()}),
        }

    def describe(self) -> dict[str, Any]:
        """As all types, and the extents of this version."""
        extents = self.extents
        return {"Base": self.base(), "Extended": self._properties(extents), "Extents": points(extents)}

    def metadata(self) -> dict[str, Any]:
        """Axes with resolution, unit and extent, in x, y, z, and the properties."""
        extents = self.extents
        size = extents.shape if extents else (0, 0, 0)
        offset = extents.start if extents else (0, 0, 0)
        held = self.info.settings
        return {
            "Axes": [
                {
                    "Label": "XYZ"[i],
                    "Resolution": held["VoxelSize"][i],
                    "Units": held["VoxelUnits"][i],
                    "Size": size[2 - i],
                    "Offset": offset[2 - i],
                }
                for i in range(3)
            ],
            "Properties": self._properties(extents),
        }

    def _stamp(self, m: Mutation) -> dict[str, str]:
        return {"Timestamp": go_time(m.time), "UUID": self.version.uuid}
