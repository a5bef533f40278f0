"""Creation settings of a labelvol."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dvid_dask.errors import BadRequest
from dvid_dask.versions.settings import setting_text

__all__ = ["new_settings"]

_INT32_MAX = 2**31 - 1
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def new_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a new instance from what was given (names in lower case, values strings).

    Raises
    ------
    BadRequest
        When a value can't be used.

    Examples
    --------
    >>> new_settings({"blocksize": "16,16,32"})["BlockSize"]
    [16, 16, 32]
    """
    return {
        "BlockSize": _block_size(config),
        "VoxelSize": _voxel_size(config),
        "VoxelUnits": _three(config, "voxelunits") or ["nanometers"] * 3,
    }


def _three(config: Mapping[str, Any], name: str) -> list[str] | None:
    text = setting_text(config, name)
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3:
        raise BadRequest(f'setting {name!r}: {text[:80]!r}: three values joined by "," are expected (x, y, z)')
    return parts


def _block_size(config: Mapping[str, Any]) -> list[int]:
    parts = _three(config, "blocksize")
    if parts is None:
        return [32, 32, 32]
    if not all(re.fullmatch(r"\+?[0-9]{1,10}", p) and 1 <= int(p) <= 1024 for p in parts):
        raise BadRequest(f"setting 'blocksize': {','.join(parts)[:80]!r}: sides are integers from 1 to 1024")
    return [int(p) for p in parts]


def _voxel_size(config: Mapping[str, Any]) -> list[float]:
    parts = _three(config, "voxelsize")
    if parts is None:
        return [8.0, 8.0, 8.0]
    size = [float(p) if _NUMBER.fullmatch(p) else math.nan for p in parts]
    if not all(0 < v < 3.4e38 for v in size):
        raise BadRequest(f"setting 'voxelsize': {','.join(parts)[:80]!r}: sizes are positive numbers")
    return size
