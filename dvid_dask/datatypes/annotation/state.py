"""What the blocks and lists of an annotation were made for, and whether they are being made anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.datatypes.annotation import keys
from dvid_dask.errors import Conflict

if TYPE_CHECKING:
    from dvid_dask.versions.space import Space, TxSpace

    AnySpace = Space | TxSpace

__all__ = [
    "LAST",
    "RELOAD",
    "Reloading",
    "State",
    "check_no_reload",
    "end_reload",
    "forget_merge",
    "hold_reload",
    "merged_changes",
    "note_change",
    "read_state",
    "reloading",
    "was_merged",
    "write_state",
]

RELOAD = b"Xreload"
LAST = b"Xlast"
_MERGED = b"m"

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


def note_change(space: TxSpace, mutation: int, before: AnySpace | None) -> None:
    """Note the last mutation of blocks or lists. Two branches that are merged tell by it whether both had one."""
    # not read in the transaction: edits of different elements need not run again because of it
    held = (space if before is None else before).get(LAST)
    merged = held is not None and held.startswith(_MERGED)
    space.put(LAST, (_MERGED if merged else b"") + b"%d" % mutation)


def merged_changes(values: Sequence[bytes]) -> bytes:
    """What `note_change` noted, for a merge of versions that both had changes."""
    return _MERGED + max(value.removeprefix(_MERGED) for value in values)


def was_merged(space: AnySpace) -> bool:
    """Whether versions with changes on both sides were merged since the lists were made."""
    held = space.get(LAST)
    return held is not None and held.startswith(_MERGED)


def forget_merge(space: TxSpace) -> None:
    """The lists are made anew."""
    space.delete(LAST)


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
