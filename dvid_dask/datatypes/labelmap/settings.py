"""Creation settings of volumes of labels, and those that can be changed later."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["changed_settings", "labelarray_settings", "labelblk_settings", "new_settings"]

_MAX_BLOCK = 1024
_UNIT = 16
_SUB_BLOCK = 8
_MAX_BLOCK_VOXELS = 1 << 24

_DEFAULTS: dict[str, Any] = {
    "BlockSize": [64, 64, 64],
    "VoxelSize": [8.0, 8.0, 8.0],
    "VoxelUnits": ["nanometers", "nanometers", "nanometers"],
    "IndexedLabels": True,
    "MaxDownresLevel": 0,
    "Background": 0,
    "GridStore": "",
    "ScaleLevel": 0,
    "MinPoint": None,
    "MaxPoint": None,
}


def _integer(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        raise ValueError("a decimal integer is expected")
    value = int(text)
    if not low <= value <= high:
        raise ValueError(f"expected {low} to {high}")
    return value


def _three(text: str) -> list[str]:
    parts = [p.strip() for p in text.split(",")]
    if len(parts) != 3:
        raise ValueError('three values joined by "," are expected (x, y, z)')
    return parts


def _block_size(text: str, unit: int = _UNIT, least: int = _UNIT) -> list[int]:
    size = [_integer(p, 1, _MAX_BLOCK) for p in _three(text)]
    if any(n % unit or n < least for n in size):
        raise ValueError(f"each side must be a multiple of {unit} from {least} to {_MAX_BLOCK}")
    if size[0] * size[1] * size[2] > _MAX_BLOCK_VOXELS:
        raise ValueError(f"a block may have at most {_MAX_BLOCK_VOXELS} voxels")
    return size


def _voxel_size(text: str) -> list[float]:
    size = []
    for part in _three(text):
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", part):
            raise ValueError("three numbers are expected (x, y, z)")
        size.append(float(part))
    if not all(math.isfinite(v) and 0 < v < 3.4e38 for v in size):
        raise ValueError("sizes must be positive and finite")
    return size


def _point(text: str) -> list[int]:
    return [_integer(p, -(1 << 31), (1 << 31) - 1) for p in _three(text)]


def _truth(text: str) -> bool:
    named = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in named:
        raise ValueError("true or false is expected")
    return named[text.lower()]


def _grid_store(text: str) -> str:
    if text:
        raise ValueError("this server has no grid stores")
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "BlockSize": _block_size,
    "VoxelSize": _voxel_size,
    "VoxelUnits": _three,
    "IndexedLabels": _truth,
    "MaxDownresLevel": lambda t: _integer(t, 0, 255),
    "Background": lambda t: _integer(t, 0, 255),
    "GridStore": _grid_store,
    "ScaleLevel": lambda t: _integer(t, 0, 255),
    "MinPoint": _point,
    "MaxPoint": _point,
}


# block sides of the older types: whole sub-blocks; coarser scales of a labelarray need two to a side
_ARRAY: dict[str, Callable[[str], Any]] = {
    **_PARSERS,
    "BlockSize": lambda t: _block_size(t, _SUB_BLOCK, 2 * _SUB_BLOCK),
    "CountLabels": _truth,
}
_BLK: dict[str, Callable[[str], Any]] = {
    **{n: p for n, p in _PARSERS.items() if n not in ("IndexedLabels", "MaxDownresLevel")},
    "BlockSize": lambda t: _block_size(t, _SUB_BLOCK, _SUB_BLOCK),
}


def _given(config: Mapping[str, Any], names: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    found = {}
    for name, parse in names.items():
        value = config.get(name.lower())
        if name.lower() not in config:
            continue
        if not isinstance(value, str):
            raise BadRequest(f"setting {name} must be a string, got {value!r}")
        try:
            found[name] = parse(value)
        except ValueError as e:
            raise BadRequest(f"setting {name}: {value[:80]!r} can't be used: {e}") from None
    return found


def new_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a new instance from what was given (names in lower case, values strings: DVID refuses numbers).

    Raises
    ------
    BadRequest
        When a value can't be used.

    Examples
    --------
    >>> new_settings({"blocksize": "32,32,16", "maxdownreslevel": "5"})["BlockSize"]
    [32, 32, 16]
    """
    if config.get("base"):
        raise BadRequest(
            "setting Base: a segmentation is adopted with its label index, by `dvid-dask adopt` or ops.adopt in Python"
        )
    return {**_DEFAULTS, **_given(config, _PARSERS)}


def labelarray_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """`new_settings` of a labelarray: block sides are multiples of 8 from 16 on, and there is ``CountLabels``."""
    return {**_DEFAULTS, "CountLabels": True, **_given(config, _ARRAY)}


def labelblk_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """`new_settings` of a labelblk: blocks of 32 voxels a side by default, multiples of 8, no index, no scales."""
    return {**_DEFAULTS, "BlockSize": [32, 32, 32], "IndexedLabels": False, **_given(config, _BLK)}


def changed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings to change from a configuration in any case; those fixed at creation can't be among them.

    Raises
    ------
    BadRequest
        When a value can't be used.
    """
    lower = {str(k).lower(): v for k, v in config.items()}
    return _given(lower, {n: p for n, p in _PARSERS.items() if n != "IndexedLabels"})
