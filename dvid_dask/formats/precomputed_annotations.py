"""Annotations as neuroglancer's precomputed format encodes them: points or lines with properties.

=========  ==================================================================================================
many       uint64 count; for each its coordinates (float32, x y z of each end) and properties; then uint64 ids
one        coordinates and properties; for each relationship uint32 count, and uint64 ids of objects
=========  ==================================================================================================

All is little-endian. Of the properties four-byte types come first, then two-byte, then one-byte ones, each in the
order in which they are declared; zeros fill up to a multiple of four bytes. Some readers take them in the order of
declaration alone, so declare larger ones first.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/annotations.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Property", "encode_each", "encode_many", "encode_one", "property_id"]

_ALONE, _RELATED = bytes(4), (1).to_bytes(4, "little")
_NAME = re.compile(r"[a-z][a-zA-Z0-9_]*")


class Property(NamedTuple):
    """A number that annotations have.

    Attributes
    ----------
    id : str
        Its name, as `property_id` makes it.
    dtype : str
        numpy's name: ``uint8`` to ``uint32``, ``int8`` to ``int32`` or ``float32``.
    enum : tuple of str
        Words for the values 0, 1 ...; none for plain numbers.
    description : str
        What viewers say of it.
    """

    id: str
    dtype: str
    enum: tuple[str, ...] = ()
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``info`` has it."""
        made: dict[str, Any] = {"id": self.id, "type": self.dtype}
        if self.enum:
            made |= {"enum_values": list(range(len(self.enum))), "enum_labels": list(self.enum)}
        if self.description:
            made["description"] = self.description
        return made


def property_id(name: str) -> str | None:
    """A name as the format allows it; None where nothing is left of it.

    Examples
    --------
    >>> property_id("conf"), property_id("T-bar size"), property_id("_1")
    ('conf', 't_bar_size', None)
    """
    words = re.sub(r"[^a-zA-Z0-9]+", "_", name).strip("_").lstrip("0123456789_")
    made = words[:1].lower() + words[1:]
    return made if _NAME.fullmatch(made) else None


def _records(coordinates: ArrayLike, properties: Sequence[tuple[Property, ArrayLike]]) -> NDArray[np.void]:
    points = np.atleast_2d(np.asarray(coordinates, np.float32))
    ordered = sorted(properties, key=lambda p: -np.dtype(p[0].dtype).itemsize)
    fields = [("at", "<f4", (points.shape[1],))]
    fields += [(f"p{i}", np.dtype(p.dtype).newbyteorder("<").str, (1,)) for i, (p, _) in enumerate(ordered)]
    rest = -np.dtype(fields).itemsize % 4
    made = np.zeros(len(points), np.dtype([*fields, ("rest", "u1", (rest,))]))
    made["at"] = points
    for i, (_, values) in enumerate(ordered):
        made[f"p{i}"][:, 0] = values
    return made


def encode_many(coordinates: ArrayLike, properties: Sequence[tuple[Property, ArrayLike]], ids: ArrayLike) -> bytes:
    """Annotations of a chunk of space, or of an object.

    Parameters
    ----------
    coordinates
        float (n, 3) x, y, z of points, or (n, 6) of both ends of lines.
    properties
        With n values each.
    ids
        uint64 (n,).

    Examples
    --------
    >>> encode_many([[1, 2, 3]], [(Property("kind", "uint8"), [4])], [5]).hex()
    '01000000000000000000803f0000004000004040040000000500000000000000'
    """
    numbers = np.asarray(ids, "<u8").reshape(-1)
    held = _records(coordinates, properties)
    return b"".join((len(numbers).to_bytes(8, "little"), held.tobytes(), numbers.tobytes()))


def encode_one(
    coordinates: ArrayLike, properties: Sequence[tuple[Property, ArrayLike]], relations: Sequence[ArrayLike]
) -> bytes:
    """One annotation by its id.

    Parameters
    ----------
    coordinates, properties
        As for `encode_many`, of one.
    relations
        For each relationship the objects' ids.
    """
    parts = [_records(np.asarray(coordinates, np.float32).reshape(1, -1), properties).tobytes()]
    for objects in relations:
        ids = np.asarray(objects, "<u8").reshape(-1)
        parts += [len(ids).to_bytes(4, "little"), ids.tobytes()]
    return b"".join(parts)


def encode_each(
    coordinates: ArrayLike, properties: Sequence[tuple[Property, ArrayLike]], relations: Sequence[ArrayLike]
) -> Iterator[bytes]:
    """Many annotations, each by itself, of which each is related to one object at most.

    Parameters
    ----------
    coordinates, properties
        As for `encode_many`.
    relations
        For each relationship the object's id of each annotation, 0 for none: uint64 (n,).

    Examples
    --------
    >>> one, other = encode_each([[1, 2, 3], [4, 5, 6]], [], [[7, 0]])
    >>> one == encode_one([1, 2, 3], [], [[7]]), other == encode_one([4, 5, 6], [], [[]])
    (True, True)
    """
    held = _records(coordinates, properties)
    data, size = held.tobytes(), held.dtype.itemsize
    columns = [np.asarray(objects, "<u8").reshape(-1) for objects in relations]
    for i in range(len(held)):
        parts = [data[i * size : (i + 1) * size]]
        for column in columns:
            parts.append(_RELATED + column[i].tobytes() if column[i] else _ALONE)
        yield b"".join(parts)
