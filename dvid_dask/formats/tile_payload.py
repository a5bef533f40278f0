"""Uncompressed tiles as DVID's ``imagetile`` of format lz4 keeps them.

===========================  =======================================================================
uint32                       length of the value description
int16                        number of values per voxel
uint8, uint16, text          per value: type, length of its label, label
uint8                        kind of pixels: 0 grey, 1 16-bit grey, 2 RGBA, 3 16-bit RGBA
int32 x 3                    bytes of a row with its padding (stride), width, height
bytes                        rows; 16-bit pixels have their high byte first
===========================  =======================================================================

All but pixels is little-endian. The numbers of types are 0 to 9 for uint8, int8, uint16, int16, uint32, int32, uint64,
int64, float32, float64.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_tile", "encode_tile"]

_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
_KINDS: tuple[tuple[str, int], ...] = (("u1", 1), (">u2", 1), ("u1", 4), (">u2", 4))
_DESCRIPTION = 1 << 16


def encode_tile(pixels: NDArray[Any], values: Sequence[tuple[str, str]]) -> bytes:
    """A tile's bytes.

    Parameters
    ----------
    pixels
        uint8 or uint16, (y, x) or (y, x, 4).
    values
        Type and label of each value of a voxel.

    Examples
    --------
    >>> data = encode_tile(np.array([[1, 2], [3, 4]], np.uint8), [("uint8", "uint8")])
    >>> len(data), decode_tile(data).tolist()
    (31, [[1, 2], [3, 4]])
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    wanted = ("u1" if pixels.dtype.itemsize == 1 else ">u2", channels)
    if pixels.dtype.kind != "u" or wanted not in _KINDS:
        raise ValueError(f"no tile has pixels of {pixels.dtype} in shape {pixels.shape}")
    kind = _KINDS.index(wanted)
    description = struct.pack("<h", len(values))
    for name, label in values:
        text = label.encode()
        description += struct.pack("<BH", _TYPES.index(name), len(text)) + text
    height, width = pixels.shape[:2]
    stride = width * channels * pixels.dtype.itemsize
    head = struct.pack("<I", len(description)) + description + struct.pack("<Biii", kind, stride, width, height)
    return head + np.ascontiguousarray(pixels, wanted[0]).tobytes()


def decode_tile(data: Buffer, *, max_pixels: int = 1 << 26) -> NDArray[Any]:
    """The pixels of a tile.

    Parameters
    ----------
    data
        Bytes of unknown origin.
    max_pixels
        The largest tile to take.

    Returns
    -------
    NDArray
        uint8 or uint16, (y, x) or (y, x, 4).

    Raises
    ------
    FormatError
        If the data is no intact tile, or a larger one.

    Examples
    --------
    >>> decode_tile(b"no tile at all")
    Traceback (most recent call last):
    ...
    dvid_dask.formats.errors.FormatError: tile: 14 bytes hold no description of 1948282734 bytes
    """
    raw = memoryview(data).cast("B")
    length = struct.unpack_from("<I", raw)[0] if len(raw) >= 4 else 0
    if not 2 <= length <= _DESCRIPTION or len(raw) < 4 + length + 13:
        raise FormatError(f"tile: {len(raw)} bytes hold no description of {length} bytes")
    _check_description(raw[4 : 4 + length])
    kind, stride, width, height = struct.unpack_from("<Biii", raw, 4 + length)
    if kind >= len(_KINDS):
        raise FormatError(f"tile: kind of pixels {kind} is none of 0 to {len(_KINDS) - 1}")
    name, channels = _KINDS[kind]
    dtype = np.dtype(name)
    row = width * channels * dtype.itemsize
    if min(width, height) < 1 or width * height > max_pixels or stride < row:
        raise FormatError(f"tile: {width} x {height} pixels with {stride} bytes a row can't be")
    pixels = raw[4 + length + 13 :]
    if len(pixels) < stride * (height - 1) + row:
        raise FormatError(f"tile: {len(pixels)} bytes of pixels for {height} rows of {stride}")
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (stride, dtype.itemsize) if channels == 1 else (stride, channels * dtype.itemsize, dtype.itemsize)
    view: NDArray[Any] = np.ndarray(shape, dtype, pixels, strides=strides)
    return np.ascontiguousarray(view, dtype.newbyteorder("="))


def _check_description(raw: memoryview) -> None:
    (count,) = struct.unpack_from("<h", raw)
    at = 2
    for _ in range(max(count, 0)):
        if at + 3 > len(raw):
            break
        number, length = struct.unpack_from("<BH", raw, at)
        if number >= len(_TYPES):
            raise FormatError(f"tile: value type {number} is none of 0 to {len(_TYPES) - 1}")
        at += 3 + length
    if count < 1 or at != len(raw):
        raise FormatError("tile: the description of values is cut off or goes on")
