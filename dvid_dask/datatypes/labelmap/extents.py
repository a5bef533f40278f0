"""What a version knows about its volume as a whole: where voxels were written, and the largest label."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["grow_extents", "max_label", "raise_max_label", "read_extents", "set_extents", "united"]


class _Record(msgspec.Struct, frozen=True):
    """Extents as they are stored: (z, y, x), both ends inside."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]


_decode = msgspec.json.Decoder(_Record).decode


def decode(value: bytes) -> Box:
    """Extents from their record."""
    record = _decode(value)
    return Box.of(record.first, [v + 1 for v in record.last])


def encode(extents: Box) -> bytes:
    """The record of extents.

    Examples
    --------
    >>> encode(Box.of((0, 0, -64), (64, 64, 64)))
    b'{"first":[0,0,-64],"last":[63,63,63]}'
    """
    z, y, x = (v - 1 for v in extents.stop)
    return msgspec.json.encode(_Record(extents.start, (z, y, x)))


def read_extents(space: AnySpace) -> Box | None:
    """Extents of this version, or None."""
    value = space.get(keys.EXTENTS)
    return None if value is None else decode(value)


def set_extents(space: TxSpace, extents: Box) -> None:
    """Replace the extents of this version."""
    space.put(keys.EXTENTS, encode(extents))


def grow_extents(space: TxSpace, extents: Box) -> None:
    """Make the extents of this version hold these too; nothing is written if they do."""
    old = read_extents(space)
    new = extents if old is None else old.union(extents)
    if new != old:
        set_extents(space, new)


def max_label(space: AnySpace) -> int:
    """The largest label of this version, 0 if there is none. Versions start with their parent's."""
    return max(space.decoded("number", [keys.max_label(slot) for slot in range(keys.MAX_LABEL_SLOTS)], _number))


def _number(_: bytes, value: bytes | None) -> tuple[int, int]:
    return (0 if value is None else int.from_bytes(value, "big")), 32


def raise_max_label(space: TxSpace, label: int, slot: int | None = None) -> None:
    """Make the largest label of this version at least `label`.

    It is kept in several slots, chosen by the label unless given, of which the largest counts: concurrent mutations
    rarely meet in one.
    """
    key = keys.max_label(label if slot is None else slot)
    old = space.get(key)
    if label and (old is None or int.from_bytes(old, "big") < label):
        space.put(key, label.to_bytes(8, "big"))


def united(values: Sequence[bytes]) -> bytes:
    """Stored extents that hold all of these."""
    return encode(functools.reduce(Box.union, map(decode, values)))
