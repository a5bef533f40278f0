"""Datatypes that can be made, listed, configured and synced, and whose operations are still to come.

Each class knows its settings and what it shows of itself, as DVID does, so that repositories with such instances can be
set up and read about today. A class leaves this module when its operations arrive; what is stored of it stays valid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dvid_dask.datatypes.base import Datatype, InstanceInfo, register
from dvid_dask.errors import BadRequest
from dvid_dask.versions.settings import setting_flag, setting_text

__all__ = [
    "LabelArray",
    "LabelBlk",
    "LabelVol",
]

URL = "github.com/janelia-flyem/dvid/datatype"
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
_DECIMAL = re.compile(r"[+-]?[0-9]+")


def integers(config: Mapping[str, Any], name: str, low: int = INT32_MIN) -> list[int] | None:
    """A setting ``"x,y,z"`` as three ints, or None where it isn't given.

    Examples
    --------
    >>> integers({"blocksize": " 8, 8 ,16"}, "blocksize", 1)
    [8, 8, 16]
    >>> integers({"blocksize": "64"}, "blocksize", 1)
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: setting 'blocksize': '64' is not of the form x,y,z with integers from 1 to 2147483647
    """
    text = setting_text(config, name)
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 3 and all(_DECIMAL.fullmatch(p) and len(p) < 20 for p in parts):
        values = [int(p) for p in parts]
        if all(low <= v <= INT32_MAX for v in values):
            return values
    raise BadRequest(
        f"setting {name!r}: {text[:80]!r} is not of the form x,y,z with integers from {low} to {INT32_MAX}"
    )


def number(config: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A setting that is a whole number within bounds.

    Examples
    --------
    >>> number({"maxdownreslevel": "3"}, "maxdownreslevel", 0, 0, 255)
    3
    """
    text = setting_text(config, name)
    if text is None:
        return default
    if _DECIMAL.fullmatch(text.strip()) and len(text) < 20 and low <= int(text) <= high:
        return int(text)
    raise BadRequest(f"setting {name!r}: {text[:80]!r} is no integer from {low} to {high}")


def voxel_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Size and unit of a voxel."""
    out: dict[str, Any] = {"VoxelSize": [8.0, 8.0, 8.0], "VoxelUnits": ["nanometers"] * 3}
    text = setting_text(config, "voxelsize")
    if text is not None:
        try:
            size = [float(part) for part in text.split(",")]
        except ValueError:
            size = []
        if len(size) != 3 or not all(math.isfinite(v) and v > 0 for v in size):
            raise BadRequest(f"setting 'voxelsize': {text[:80]!r} is not of the form x,y,z with positive numbers")
        out["VoxelSize"] = size
    text = setting_text(config, "voxelunits")
    if text is not None:
        units = [unit.strip() for unit in text.split(",")]
        if len(units) != 3:
            raise BadRequest(f"setting 'voxelunits': {text[:80]!r} is not of the form x,y,z")
        out["VoxelUnits"] = units
    return out


class Voxels(Datatype):
    """Settings that volumes share."""

    block: ClassVar[int] = 32
    values: ClassVar[list[dict[str, str]] | None] = None
    interpolable: ClassVar[bool] = False

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``BlockSize``, ``VoxelSize``, ``VoxelUnits``, ``MinPoint``, ``MaxPoint``, ``Background``, ``ScaleLevel``."""
        if setting_text(config, "gridstore"):
            raise BadRequest("setting 'gridstore': this server has no grid stores")
        return {
            "BlockSize": integers(config, "blocksize", 1) or [cls.block] * 3,
            **voxel_settings(config),
            "MinPoint": integers(config, "minpoint"),
            "MaxPoint": integers(config, "maxpoint"),
            "Background": number(config, "background", 0, 0, 255),
            "ScaleLevel": number(config, "scalelevel", 0, 0, 255),
        }

    def properties(self) -> dict[str, Any]:
        """What DVID calls the properties of a volume."""
        held = self.info.settings
        low, high, block = held["MinPoint"], held["MaxPoint"], held["BlockSize"]
        return {
            "Values": self.values,
            "Interpolable": self.interpolable,
            "BlockSize": block,
            "VoxelSize": held["VoxelSize"],
            "VoxelUnits": held["VoxelUnits"],
            "MinPoint": low,
            "MaxPoint": high,
            "MinIndex": low and [v // b for v, b in zip(low, block, strict=True)],
            "MaxIndex": high and [v // b for v, b in zip(high, block, strict=True)],
            "Background": held["Background"],
            "GridStore": "",
            "ScaleLevel": held["ScaleLevel"],
        }

    def extended(self) -> dict[str, Any]:
        """The properties."""
        return self.properties()

    def metadata(self) -> dict[str, Any]:
        """Axes, resolution, units and extents in x, y, z."""
        held = self.properties()
        low, high = held["MinPoint"], held["MaxPoint"]
        return {
            "Axes": [
                {
                    "Label": "XYZ"[i],
                    "Resolution": held["VoxelSize"][i],
                    "Units": held["VoxelUnits"][i],
                    "Size": high[i] - low[i] + 1 if low and high else 0,
                    "Offset": low[i] if low and high else 0,
                }
                for i in range(3)
            ],
            "Properties": held,
        }

    def set_resolution(self, size: tuple[float, ...]) -> None:
        """Change the size of a voxel, x, y, z; at all versions."""
        self.update_settings(VoxelSize=list(size))


@register
class LabelBlk(Voxels):
    """Labels in plain blocks, without an index."""

    typename = "labelblk"
    typeurl = f"{URL}/labelblk"
    values = [{"DataType": "uint64", "Label": "labelblk"}]
    sync_partners = frozenset({"labelvol", "labelblk"})


@register
class LabelArray(Voxels):
    """Labels in compressed blocks with a label index; merges rewrite voxels."""

    typename = "labelarray"
    typeurl = f"{URL}/labelarray"
    values = [{"DataType": "uint64", "Label": "labelarray"}]
    block = 64
    default_compression = "gzip"
    sync_partners = frozenset()

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """As volumes, and ``IndexedLabels``, ``CountLabels``, ``MaxDownresLevel``."""
        held = super().parse_settings(config)
        if any(side % 8 or not 16 <= side <= 1024 for side in held["BlockSize"]):
            raise BadRequest(
                f"setting 'blocksize': {held['BlockSize']}: sides of label blocks are multiples of 8 from 16 to 1024"
            )
        return {
            **held,
            "IndexedLabels": setting_flag(config, "indexedlabels", True),
            "CountLabels": setting_flag(config, "countlabels", True),
            "MaxDownresLevel": number(config, "maxdownreslevel", 0, 0, 255),
        }

    def extended(self) -> dict[str, Any]:
        """The properties and those of the label index."""
        held = self.info.settings
        return {
            **self.properties(),
            "MaxLabel": {},
            "MaxRepoLabel": 0,
            "IndexedLabels": held["IndexedLabels"],
            "CountLabels": held["CountLabels"],
            "MaxDownresLevel": held["MaxDownresLevel"],
        }

    def describe(self) -> dict[str, Any]:
        """As all types, and the extents."""
        held = self.info.settings
        return {**super().describe(), "Extents": {"MinPoint": held["MinPoint"], "MaxPoint": held["MaxPoint"]}}


@register
class LabelVol(Datatype):
    """Sparse volumes by label, made from a labelblk."""

    typename = "labelvol"
    typeurl = f"{URL}/labelvol"
    sync_partners = frozenset({"labelblk"})

    @classmethod
    def refuses_sync(cls, me: InstanceInfo, partner: InstanceInfo) -> str | None:
        """Only a labelblk of the same block size."""
        refusal = super().refuses_sync(me, partner)
        mine, theirs = me.settings["BlockSize"], partner.settings.get("BlockSize")
        if refusal is None and mine != theirs:
            return f"block sizes differ: {me.name!r} has {mine}, {partner.name!r} has {theirs}"
        return refusal

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """``BlockSize``, ``VoxelSize``, ``VoxelUnits``."""
        return {"BlockSize": integers(config, "blocksize", 1) or [32, 32, 32], **voxel_settings(config)}

    def extended(self) -> dict[str, Any]:
        """Voxel size, units, block size, and the largest label by version."""
        held = self.info.settings
        return {
            "VoxelSize": held["VoxelSize"],
            "VoxelUnits": held["VoxelUnits"],
            "BlockSize": held["BlockSize"],
            "MaxLabel": {},
        }
