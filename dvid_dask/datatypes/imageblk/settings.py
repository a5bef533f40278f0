"""The settings of an image at its creation, as texts in DVID's form (``"64,64,64"``)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.bases import Base
from dvid_dask.errors import BadRequest
from dvid_dask.versions.settings import parse_compression, setting_text

from .layout import INT32_MAX, INT32_MIN, MAX_JPEG_SIDE, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_BLOCK_BYTES", "check_voxel_size", "find_base", "parse_settings"]

MAX_BLOCK_BYTES = 1 << 26
"""A block is read and written as a whole, so it has to fit memory many times over."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,11}")


def parse_settings(config: Mapping[str, Any], dtype: str, channels: int) -> dict[str, Any]:
    """An image's own settings out of those given at creation; the rest is ignored.

    Parameters
    ----------
    config
        Names in lower case, values as text.
    dtype, channels
        What a voxel is.

    Raises
    ------
    BadRequest
        A value is no text, malformed, out of range, or asks for what this datatype doesn't do.

    Examples
    --------
    >>> parse_settings({"blocksize": "64,64,32", "background": "7"}, "uint8", 1)["BlockSize"]
    [64, 64, 32]
    >>> parse_settings({"background": "300"}, "uint8", 1)
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: setting Background: 300 is outside 0..255
    """
    block = _vector(config, "BlockSize", lambda text: _integer(text, "BlockSize", 1, 1 << 20)) or [32, 32, 32]
    size = Layout(dtype, channels, (block[2], block[1], block[0])).block_bytes
    if size > MAX_BLOCK_BYTES:
        raise BadRequest(f"setting BlockSize: a block of {block} holds {size} bytes; at most {MAX_BLOCK_BYTES}")
    if parse_compression(config).startswith("jpeg"):
        if (dtype, channels) != ("uint8", 1):
            raise BadRequest("setting Compression: jpeg holds single 8-bit values only (uint8blk); choose lz4 or gzip")
        if block[1] * block[2] > MAX_JPEG_SIDE:
            raise BadRequest(
                f"setting BlockSize: a JPEG block is y times z = {block[1] * block[2]} high; at most {MAX_JPEG_SIDE}"
            )
    base = find_base(config, dtype, channels)
    known = list(reversed(base.nanometres)) if base is not None and base.nanometres else [8.0, 8.0, 8.0]
    voxel_size = _vector(config, "VoxelSize", lambda text: _length(text, "VoxelSize")) or known
    check_voxel_size(voxel_size)
    units = _vector(config, "VoxelUnits", str) or ["nanometers"] * 3
    low, high = (
        _vector(config, name, lambda text, name=name: _integer(text, name, INT32_MIN, INT32_MAX))  # type: ignore[misc]
        for name in ("MinPoint", "MaxPoint")
    )
    if (low is None) != (high is None):
        raise BadRequest("settings MinPoint and MaxPoint stand for extents together: give both or neither")
    if low is not None and high is not None and any(a > b for a, b in zip(low, high, strict=True)):
        raise BadRequest(f"setting MinPoint {low} lies beyond MaxPoint {high}")
    background = setting_text(config, "background")
    if setting_text(config, "gridstore"):
        raise BadRequest(
            "setting GridStore: this server has no grid stores; name the volume itself by the setting Base, "
            "or leave the setting out"
        )
    level = setting_text(config, "scalelevel")
    if base is not None and low is None:
        box = base.extents()
        low, high = list(reversed(box.start)), [v - 1 for v in reversed(box.stop)]
    return {
        "BlockSize": block,
        "VoxelSize": voxel_size,
        "VoxelUnits": units,
        "MinPoint": low,
        "MaxPoint": high,
        "Background": 0 if background is None else _integer(background, "Background", 0, 255),
        "GridStore": "",
        "ScaleLevel": 0 if level is None else _integer(level, "ScaleLevel", 0, 255),
        # only of an instance that stands on one
        **({} if base is None else {"Base": base.to_json()}),
    }


def find_base(config: Mapping[str, Any], dtype: str, channels: int) -> Base | None:
    """The base that settings name; None where they name none.

    Parameters
    ----------
    config
        ``base``, a URL or path; ``baseaxes``, like ``xyz``; ``baseselect``, like ``c=1,t=0``; ``basedataset``, of an
        HDF5 file; ``baseoffset``, its first voxel x, y, z.
    dtype, channels
        What a voxel of the instance is.

    Raises
    ------
    BadRequest
        The volume is of another type, or the settings make no sense.
    NotFound, BrokenBase, Unavailable
        As `Base.find`.
    """
    url = setting_text(config, "base")
    given = {name: setting_text(config, name) for name in ("baseaxes", "baseselect", "basedataset", "baseoffset")}
    if not url:
        if named := [name for name, value in given.items() if value]:
            raise BadRequest(f"setting {named[0]}: there is no Base that it could be about")
        return None
    offset = _vector(config, "BaseOffset", lambda text: _integer(text, "BaseOffset", INT32_MIN, INT32_MAX))
    select = {}
    for entry in filter(None, (given["baseselect"] or "").split(",")):
        axis, _, index = entry.partition("=")
        select[axis.strip().lower()] = _integer(index, "BaseSelect", 0, INT32_MAX)
    found = Base.find(
        url,
        axes=given["baseaxes"] or None,
        select=select,
        dataset=given["basedataset"] or None,
        offset=None if offset is None else offset[::-1],
        channels=channels,
    )
    if found.dtype != np.dtype(dtype):
        raise BadRequest(
            f"setting Base: {found.shown_url} holds {found.dtype}, the instance would hold {dtype}: "
            "choose the type by the base's (uint8blk, uint16blk, uint32blk, uint64blk, float32blk, rgba8blk)"
        )
    return found


def check_voxel_size(size: list[float]) -> None:
    """Refuse what is no size of a voxel.

    Raises
    ------
    BadRequest
        Not three positive numbers.
    """
    if len(size) != 3 or not all(math.isfinite(v) and v > 0 for v in size):
        raise BadRequest(f"a voxel's size is three positive numbers for x, y, z, not {size}")


def _vector(config: Mapping[str, Any], name: str, one: Callable[[str], Any]) -> list[Any] | None:
    text = setting_text(config, name.lower())
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3:
        raise BadRequest(f'setting {name}: "{text[:80]}" has not the form x,y,z')
    return [one(part.strip()) for part in parts]


def _integer(text: str, name: str, low: int, high: int) -> int:
    if not _INTEGER.fullmatch(text.strip()):
        raise BadRequest(f'setting {name}: "{text[:80]}" is no integer')
    value = int(text)
    if not low <= value <= high:
        raise BadRequest(f"setting {name}: {value} is outside {low}..{high}")
    return value


def _length(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f'setting {name}: "{text[:80]}" is no number') from None
