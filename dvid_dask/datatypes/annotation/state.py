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


def reloading(space: AnySpace) -> bool:
    """Whether the lists are being made anew."""
    value = space.get(RELOAD)
    return value is not None and float(value) > time.time()


def check_no_reload(space: AnySpace) -> None:
    """Refuse while the lists are being made anew.

    Raises
    ------
    Reloading
    """
    if reloading(space):
        raise Reloading("the lists are being made anew: wait until the reload is done")


def hold_reload(space: TxSpace) -> None:
    """Say that the lists are being made anew, for another while."""
    space.put(RELOAD, b"%f" % (time.time() + LEASE))


def end_reload(space: TxSpace) -> None:
    """Say that it is over."""
    space.delete(RELOAD)


class Reloading(Conflict):
    """The lists of an annotation are being made anew."""

    status = 400  # as DVID has it
