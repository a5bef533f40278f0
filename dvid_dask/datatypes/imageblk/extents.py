"""The record of an image's extents at a version."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dvid_dask.boxes import Box

__all__ = ["decode", "encode", "of_points"]


class _Record(msgspec.Struct, frozen=True, rename="pascal"):
    """In the words of the REST API: x, y, z, both ends inside."""

    min_point: tuple[int, int, int] = (0, 0, 0)
    max_point: tuple[int, int, int] = (0, 0, 0)


_decode = msgspec.json.Decoder(_Record).decode


def of_points(low: Sequence[int], high: Sequence[int]) -> Box:
    """Extents by their first and last voxel, x, y, z.

    Examples
    --------
    >>> of_points((0, 0, -64), (127, 63, -1))
    Box(start=(-64, 0, 0), stop=(0, 64, 128))
    """
    a, b, c = reversed(low)
    d, e, f = (v + 1 for v in reversed(high))
    return Box((a, b, c), (d, e, f))


def decode(value: bytes) -> Box:
    """Extents from their record."""
    record = _decode(value)
    return of_points(record.min_point, record.max_point)


def encode(extents: Box) -> bytes:
    """The record of extents."""
    a, b, c = reversed(extents.start)
    d, e, f = (v - 1 for v in reversed(extents.stop))
    return msgspec.json.encode(_Record((a, b, c), (d, e, f)))
