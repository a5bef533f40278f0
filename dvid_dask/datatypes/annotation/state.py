"""What the blocks and lists of an annotation were made for, and whether they are being made anew."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.datatypes.annotation import keys
from dvid_dask.errors import Conflict

if TYPE_CHECKING:
    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace

__all__ = [
    "RELOAD",
    "Reloading",
    "State",
    "check_no_reload",
    "end_reload",
    "hold_reload",
    "read_state",
    "reloading",
    "write_state",
]

RELOAD = b"Xreload"

LEASE = 30.0
"""Seconds for which a reload that said nothing more counts as running."""


class State(msgspec.Struct, frozen=True):
    """What is stored was made for this.

    Attributes
    ----------
    source
        Data UUID of the segmentation that the lists of bodies follow; empty for none.
    shape
        Voxels of a block (z, y, x).
    """

    source: str
    shape: tuple[int, int, int]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(State).decode


def read_state(space: AnySpace) -> State | None:
    """What is stored was made for; None if there never was an element."""
    value = space.get(keys.STATE)
    return None if value is None else _decode(value)


def write_state(space: TxSpace, state: State) -> None:
    """Note what is stored now."""
    space.put(keys.STATE, _encode(state))


def reloading(space: AnySpace, owner: str = "") -> bool:
    """Whether the lists are being made anew, by others than the owner, if one is named."""
    value = space.get(RELOAD)
    if value is None:
        return False
    until, _, holder = value.partition(b" ")
    return float(until) > time.time() and not (owner and holder == owner.encode())


def check_no_reload(space: AnySpace, owner: str = "") -> None:
    """Refuse while the lists are being made anew, by others than the owner, if one is named.

    Raises
    ------
    Reloading
    """
    if reloading(space, owner):
        raise Reloading("the lists are being made anew: wait until the reload is done")


def hold_reload(space: TxSpace, owner: str = "") -> None:
    """Say that the lists are being made anew, for another while, and who does so: it may be started again meanwhile."""
    space.put(RELOAD, b"%f %s" % (time.time() + LEASE, owner.encode()))


def end_reload(space: TxSpace) -> None:
    """Say that it is over."""
    space.delete(RELOAD)


class Reloading(Conflict):
    """The lists of an annotation are being made anew."""

    status = 400  # as DVID has it
