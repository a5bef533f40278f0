"""What a version knows about its volume as a whole: where voxels were written, and the largest label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvid_dask.datatypes.labelmap import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.datatypes.labelmap.spaces import AnySpace

__all__ = ["Extents", "grow_extents", "max_label", "raise_max_label", "read_extents", "set_extents", "united"]

Point = tuple[int, int, int]


@dataclass(frozen=True)
class Extents:
    """First and last voxel (z, y, x), both inclusive.

    Examples
    --------
    >>> Extents((0, 0, 0), (9, 9, 9)).union(Extents((5, 5, 5), (19, 6, 6)))
    Extents(first=(0, 0, 0), last=(19, 9, 9))
    """

    first: Point
    last: Point

    @classmethod
    def of(cls, first: ArrayLike, last: ArrayLike) -> Extents:
        """Extents from anything array-like (z, y, x)."""
        (az, ay, ax), (bz, by, bx) = np.asarray(first).tolist(), np.asarray(last).tolist()
        return cls((az, ay, ax), (bz, by, bx))

    def union(self, other: Extents) -> Extents:
        """The smallest extents that hold both."""
        return Extents.of(np.minimum(self.first, other.first), np.maximum(self.last, other.last))


def read_extents(space: AnySpace) -> Extents | None:
    """Extents of this version, or None."""
    value = space.get(keys.EXTENTS)
    return None if value is None else msgspec.json.decode(value, type=Extents)


def set_extents(space: TxSpace, extents: Extents) -> None:
    """Replace the extents of this version."""
    space.put(keys.EXTENTS, msgspec.json.encode(extents))


def grow_extents(space: TxSpace, extents: Extents) -> None:
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
    first, *others = [msgspec.json.decode(v, type=Extents) for v in values]
    for other in others:
        first = first.union(other)
    return msgspec.json.encode(first)
