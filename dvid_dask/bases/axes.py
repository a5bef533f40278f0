"""Which dimension of an array is z, y and x, which are fixed at an index, which one holds channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dvid_dask.errors import BadRequest

__all__ = ["Arrangement", "arrange", "check_names", "names_by_custom"]


class Arrangement(NamedTuple):
    """How an array of any dimensions becomes (z, y, x), or (z, y, x, channel).

    Attributes
    ----------
    fixed
        Dimensions that are fixed, last first, each with its index as the array counts.
    order
        Where z, y, x and the channel are among the dimensions that are left.
    dims
        Where they are among all dimensions.
    """

    fixed: tuple[tuple[int, int], ...]
    order: tuple[int, ...]
    dims: tuple[int, ...]


def names_by_custom(ndim: int) -> list[str]:
    """The names of dimensions that carry none.

    Examples
    --------
    >>> names_by_custom(3), names_by_custom(4)
    (['z', 'y', 'x'], ['c', 'z', 'y', 'x'])
    """
    return list("tczyx"[-ndim:])


def check_names(names: Sequence[str], shape: Sequence[int], name: str) -> None:
    """Refuse names of dimensions that don't fit the array, or lack z, y or x.

    Raises
    ------
    BadRequest
    """
    if len(names) != len(shape):
        raise BadRequest(f"{name}: axes {''.join(names)!r} for an array of {len(shape)} dimensions {tuple(shape)}")
    if missing := [a for a in "zyx" if a not in names]:
        raise BadRequest(
            f"{name}: no axis {missing[0]!r} among {list(names)}: say which it is with axes=, like axes='zyx'"
        )


def arrange(
    names: Sequence[str],
    origin: Sequence[int],
    shape: Sequence[int],
    select: Mapping[str, int],
    name: str,
    *,
    channels: int = 1,
) -> Arrangement:
    """How an array becomes (z, y, x).

    Parameters
    ----------
    names, origin, shape
        Of the array's dimensions: name, first index, length.
    select
        Index for each further dimension that has more than one element.
    name
        What a person calls the array.
    channels
        More than one keeps the dimension ``c``, which must have as many elements.

    Raises
    ------
    BadRequest
        Names don't fit, or an index is missing or outside.

    Examples
    --------
    >>> arrange("xyzc", (0, 0, 0, 0), (9, 8, 7, 2), {"c": 1}, "em")
    Arrangement(fixed=((3, 1),), order=(2, 1, 0), dims=(2, 1, 0))
    >>> arrange("cxyz", (0, 0, 0, 0), (4, 9, 8, 7), {}, "em", channels=4).order
    (3, 2, 1, 0)
    """
    check_names(names, shape, name)
    others = [a for a in names if a not in "zyx"]
    if unknown := [a for a in select if a not in others]:
        raise BadRequest(f"{name}: select has {unknown[0]!r}, but the axes besides z, y, x are {others}")
    kept = "zyxc" if channels > 1 else "zyx"
    if channels > 1:
        at = names.index("c") if "c" in names else None
        if at is None or shape[at] != channels:
            held = dict(zip(names, shape, strict=True))
            raise BadRequest(f"{name}: has no axis 'c' of {channels} channels: its axes are {held}")
    fixed = []
    for dim, (axis, low, size) in enumerate(zip(names, origin, shape, strict=True)):
        if axis in kept:
            continue
        index = select.get(axis, 0)
        if axis not in select and size != 1:
            raise BadRequest(f"{name}: axis {axis!r} has {size} elements: choose one with select={{{axis!r}: 0}}")
        if not 0 <= index < size:
            raise BadRequest(f"{name}: select={{{axis!r}: {index}}}, but that axis has {size} elements")
        fixed.append((dim, int(low) + index))
    left = [a for a in names if a in kept]
    return Arrangement(
        tuple(fixed[::-1]), tuple(left.index(a) for a in kept), tuple(list(names).index(a) for a in kept)
    )
