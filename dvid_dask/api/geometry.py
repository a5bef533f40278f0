"""Points, sizes and boxes as they stand in URLs: x, y, z decimals joined by ``_``, checked to int32.

Text and JSON of the REST API are in x, y, z order; arrays are z, y, x. What is parsed here stays in the order of
the text; :func:`zyx` turns it round.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "INT32_MAX",
    "INT32_MIN",
    "UINT64_MAX",
    "Bounds",
    "check_box",
    "parse_bounds",
    "parse_int",
    "parse_label",
    "parse_point",
    "parse_shape",
    "parse_size",
    "zyx",
]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
UINT64_MAX = 2**64 - 1

_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}")
_SHAPES = {
    "xy": (0, 1),
    "xz": (0, 2),
    "yz": (1, 2),
    "vol": (0, 1, 2),
    "0_1": (0, 1),
    "0_2": (0, 2),
    "1_2": (1, 2),
    "0_1_2": (0, 1, 2),
    "0,1": (0, 1),
    "0,2": (0, 2),
    "1,2": (1, 2),
    "0,1,2": (0, 1, 2),
}


def parse_int(text: str, what: str, low: int = INT32_MIN, high: int = INT32_MAX) -> int:
    """A decimal integer within bounds.

    Only ASCII digits count, with a sign before them where negative numbers are possible.

    Raises
    ------
    BadRequest
        Not such a number, or outside ``low..high``.

    Examples
    --------
    >>> parse_int("-12", "offset")
    -12
    >>> parse_int("0x10", "offset")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: offset: "0x10" is no decimal integer
    """
    if not _DECIMAL.fullmatch(text):
        raise BadRequest(f'{what}: "{text[:80]}" is no decimal integer')
    value = int(text)
    if not low <= value <= high or (low >= 0 and not text.isdigit()):
        raise BadRequest(f"{what}: {text} is outside {low}..{high}")
    return value


def parse_label(text: str, what: str = "label") -> int:
    """A label (body or supervoxel id): 0 .. 2^64-1, digits alone.

    Examples
    --------
    >>> parse_label("18446744073709551615")
    18446744073709551615
    >>> parse_label("+1")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: label: "+1" is no decimal integer without a sign
    """
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f'{what}: "{text[:80]}" is no decimal integer without a sign')
    return parse_int(text, what, 0, UINT64_MAX)


def parse_point(text: str, dims: int = 3, *, sep: str = "_", what: str = "point") -> tuple[int, ...]:
    """``"x_y_z"`` as ints in the order of the text, each within int32; blanks around them are tolerated.

    Raises
    ------
    BadRequest
        Wrong count, not a number, outside int32.

    Examples
    --------
    >>> parse_point("1_-2_3")
    (1, -2, 3)
    >>> parse_point("1,2", 2, sep=",")
    (1, 2)
    """
    parts = text.split(sep, dims)
    if len(parts) != dims:
        example = sep.join("xyzct"[:dims])
        raise BadRequest(f'{what}: "{text[:80]}" has not the form {example} ({dims} integers joined by "{sep}")')
    return tuple(parse_int(part.strip(" \t"), what) for part in parts)


def parse_size(text: str, dims: int = 3, *, sep: str = "_", what: str = "size") -> tuple[int, ...]:
    """``"sx_sy_sz"``: as :func:`parse_point`, each at least 1.

    Examples
    --------
    >>> parse_size("64_64_32")
    (64, 64, 32)
    >>> parse_size("64_0_32")
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: size: 64_0_32 has a side below 1
    """
    size = parse_point(text, dims, sep=sep, what=what)
    if min(size) < 1:
        raise BadRequest(f"{what}: {text} has a side below 1")
    return size


def parse_shape(text: str) -> tuple[int, ...]:
    """The ``dims`` part of a URL (``xy``, ``0_2``, ``vol`` ...) as axis numbers, x = 0.

    Examples
    --------
    >>> parse_shape("XZ"), parse_shape("0_1_2")
    ((0, 2), (0, 1, 2))
    """
    axes = _SHAPES.get(text.lower())
    if axes is None:
        raise BadRequest(f'dims: "{text[:80]}" is none of xy, xz, yz, vol, 0_1, 0_2, 1_2, 0_1_2')
    return axes


def check_box(offset: Sequence[int], size: Sequence[int]) -> None:
    """Refuse a box whose far corner (inclusive) leaves int32.

    Examples
    --------
    >>> check_box((2**31 - 2, 0, 0), (2, 1, 1))
    >>> check_box((2**31 - 2, 0, 0), (3, 1, 1))
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: the box at 2147483646_0_0 of size 3_1_1 ends beyond 2147483647
    """
    if any(o + s - 1 > INT32_MAX for o, s in zip(offset, size, strict=True)):
        at, of = "_".join(map(str, offset)), "_".join(map(str, size))
        raise BadRequest(f"the box at {at} of size {of} ends beyond {INT32_MAX}")


class Bounds(NamedTuple):
    """Optional inclusive limits in x, y, z; ``None`` = open on that side."""

    low: tuple[int | None, int | None, int | None]
    high: tuple[int | None, int | None, int | None]

    @property
    def any(self) -> bool:
        """Whether there is any limit at all."""
        return any(v is not None for v in self.low + self.high)


def parse_bounds(query: Mapping[str, str]) -> Bounds:
    """The query options ``minx, maxx, miny, maxy, minz, maxz``; an absent one is open.

    Examples
    --------
    >>> parse_bounds({"minx": "-3", "maxz": "10"})
    Bounds(low=(-3, None, None), high=(None, None, 10))
    """

    def one(name: str) -> int | None:
        text = query.get(name)
        return parse_int(text, name) if text else None

    return Bounds((one("minx"), one("miny"), one("minz")), (one("maxx"), one("maxy"), one("maxz")))


def zyx(xyz: Sequence[int]) -> tuple[int, ...]:
    """The same point in the other order.

    Examples
    --------
    >>> zyx((1, 2, 3))
    (3, 2, 1)
    """
    return tuple(reversed(xyz))
