"""Headers of V3D raw files (``.v3draw``, ``.raw``): stacks of light microscopy in several channels.

========  =====================================================
24 bytes  ``raw_image_stack_by_hpeng``
1 byte    ``L`` little-endian, ``B`` big-endian
uint16    bytes of a value: 1, 2, or 4 (floats)
4 uint32  width, height, depth, channels
rest      values: x fastest, then y, z, channel
========  =====================================================
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from dvid_dask.formats._bytes import Buffer
from dvid_dask.formats.errors import FormatError

__all__ = ["HEADER_BYTES", "Header", "parse_header"]

_MAGIC = b"raw_image_stack_by_hpeng"
HEADER_BYTES = 43


class Header(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    dtype
        numpy's name of the type of a value, with its byte order.
    shape
        Channels, then z, y, x.
    """

    dtype: str
    shape: tuple[int, int, int, int]

    @property
    def plane_bytes(self) -> int:
        """Bytes of one slice of one channel."""
        return self.shape[2] * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.shape[3] * np.dtype(self.dtype).itemsize

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return HEADER_BYTES + self.shape[0] * self.shape[1] * self.plane_bytes


def parse_header(data: Buffer) -> Header:
    """Read a header.

    Parameters
    ----------
    data
        The first bytes of a file, at least `HEADER_BYTES`.

    Raises
    ------
    FormatError
        Not a V3D raw file, or one of values that aren't 8- or 16-bit integers, or of no values.

    Examples
    --------
    >>> import struct
    >>> parse_header(b"raw_image_stack_by_hpengL" + struct.pack("<H4I", 2, 640, 480, 10, 3))
    Header(dtype='<u2', shape=(3, 10, 480, 640))
    """
    raw = bytes(memoryview(data)[:HEADER_BYTES])
    if len(raw) < HEADER_BYTES or not raw.startswith(_MAGIC):
        raise FormatError(f"no V3D raw file: it doesn't begin with {_MAGIC.decode()!r}, or ends before its header does")
    order = {b"L": "<", b"B": ">"}.get(raw[24:25])
    if order is None:
        raise FormatError(f"V3D raw file: byte order {raw[24:25]!r} is neither L nor B")
    size, width, height, depth, channels = struct.unpack(f"{order}H4I", raw[25:])
    if size not in (1, 2):
        raise FormatError(f"V3D raw file of {size} bytes a value: 8- and 16-bit integers are known")
    if min(width, height, depth, channels) < 1:
        raise FormatError(f"V3D raw file: {width} x {height} x {depth} voxels of {channels} channels are none")
    return Header(f"{order}u{size}" if size > 1 else "u1", (channels, depth, height, width))
