"""What it takes to take mutations of an open version back, kept beside the instances' keys.

=======================================  ======================================================
``undo/INSTANCE/VERSION/MUTATION``       `UndoRecord`: the datatype's own words, in msgpack
=======================================  ======================================================

It is written in the mutation's own commit. The commit of a version drops what the version has of it: a committed
version can't be changed, and its children need not carry it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.store import Sealed, prefix_end

if TYPE_CHECKING:
    from dvid_dask.store import Transaction, Tree, View

__all__ = ["UndoRecord", "drop_undo", "read_undo", "scan_undo", "undo_key"]

ROOT = b"undo/"


class UndoRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mutation that can be taken back.

    Attributes
    ----------
    id : int
        Its mutation id.
    action : str
        What it did: ``merge``, ``cleave`` ...
    user, app : str
        Who asked for it, with which program.
    time : datetime
        When.
    data : bytes
        How to take it back or, where that was done, how to do it again; in the datatype's own words.
    undone : int
        The mutation that took it back; 0 while it stands.
    latest : int
        The mutation that did, took back or did it again last.
    """

    id: int
    action: str
    user: str = ""
    app: str = ""
    time: datetime
    data: bytes
    undone: int = 0
    latest: int


encode_undo = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(UndoRecord).decode


def undo_prefix(iid: int, vid: int) -> bytes:
    """Prefix of the records of an instance at a version."""
    return b"undo/%08x/%08x/" % (iid, vid)


def undo_key(iid: int, vid: int, mid: int) -> bytes:
    """Key of the record of a mutation."""
    return undo_prefix(iid, vid) + b"%016x" % mid


def read_undo(reader: View | Transaction, iid: int, vid: int, mid: int) -> UndoRecord | None:
    """The record of a mutation, or None."""
    value = reader.get(undo_key(iid, vid, mid))
    return None if value is None else _decode(value)


def scan_undo(reader: View | Transaction, iid: int, vid: int, after: int = 0) -> Iterator[UndoRecord]:
    """The records of mutations with ids above `after`, ascending."""
    prefix = undo_prefix(iid, vid)
    for _, value in reader.scan(prefix + b"%016x" % (after + 1), prefix_end(prefix)):
        yield _decode(value)


def drop_undo(tree: Tree) -> None:
    """Forget how to take back what happened in a tree."""
    now = tree.view(0)
    if not now.sealed and next(now.keys(ROOT, prefix_end(ROOT)), None) is not None:
        with contextlib.suppress(Sealed):  # by somebody else who commits, just now
            tree.update(lambda tx: tx.delete_range(ROOT, prefix_end(ROOT)))
