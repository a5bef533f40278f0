"""What it takes to take mutations of an open version back, kept beside the instances' keys.

=======================================  ==========================================================
``undo/INSTANCE/VERSION/MUTATION``       `UndoRecord` in msgpack
``undo/INSTANCE/VERSION/MUTATION/data``  how to take it back or, where that was done, how to do it again: the
                                         datatype's own words
``undo/~trees/NAME``                     empty: the tree NAME is kept for an undo
=======================================  ==========================================================

Of a change that is too large to be kept so, the trees right before and after it are: they share what they hold with the
version's own tree, so they cost a manifest each, and the space of what was replaced since. They are made with the
mutation's commit, and are roots for gc as long as the version says that it keeps them.

It is written in the mutation's own commit. The commit of a version drops what the version has of it: a committed
version can't be changed, and its children need not carry it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.store import Sealed, prefix_end

if TYPE_CHECKING:
    from dvid_dask.store import Transaction, Tree, View

__all__ = [
    "UndoRecord",
    "drop_undo",
    "forget_undo",
    "kept_tree",
    "kept_trees",
    "note_tree",
    "put_undo",
    "read_undo",
    "read_undo_data",
    "scan_undo",
]

ROOT = b"undo/"
_TREES = b"undo/~trees/"
KEPT = "undo-"
"""Begins the names of trees that are kept for an undo."""

_DATA = b"/data"
_BATCH = 256


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
    undone : int
        The mutation that took it back; 0 while it stands.
    latest : int
        The mutation that did, took back or did it again last.
    summary : bytes
        Datatypes look here first whether it has to do with something, before they read what is kept.
    """

    id: int
    action: str
    user: str = ""
    app: str = ""
    time: datetime
    undone: int = 0
    latest: int
    summary: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
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
    """The records of mutations with ids above `after`, ascending; what they keep isn't read."""
    prefix = undo_prefix(iid, vid)
    listed = reader.keys(prefix + b"%016x" % (after + 1), prefix_end(prefix))
    heads = (key for key in listed if not key.endswith(_DATA))
    while batch := list(itertools.islice(heads, _BATCH)):
        yield from (_decode(value) for value in reader.get_many(batch) if value is not None)


def read_undo_data(reader: View | Transaction, iid: int, vid: int, mid: int) -> bytes:
    """How to take a mutation back, or to do it again."""
    return reader.get(undo_key(iid, vid, mid) + _DATA) or b""


def put_undo(tx: Transaction, iid: int, vid: int, record: UndoRecord, data: bytes) -> None:
    """Keep this of a mutation, in the place of what was kept."""
    key = undo_key(iid, vid, record.id)
    tx.put_many(((key, _encode(record)), (key + _DATA, data)))


def forget_undo(tx: Transaction, iid: int, vid: int, mid: int) -> None:
    """Keep nothing of a mutation any more."""
    key = undo_key(iid, vid, mid)
    tx.delete(key)
    tx.delete(key + _DATA)


def kept_tree(iid: int, vid: int, mid: int, what: str) -> str:
    """Name of a tree that is kept for an undo of a mutation: its `what`, "before" or "after"."""
    return f"{KEPT}{iid:08x}-{vid:08x}-{mid:016x}.{what}"


def note_tree(tx: Transaction, name: str) -> None:
    """Note that a tree is kept."""
    tx.put(_TREES + name.encode(), b"")


def kept_trees(view: View) -> list[str]:
    """Names of the trees that a version keeps."""
    return [key[len(_TREES) :].decode() for key in view.keys(_TREES, prefix_end(_TREES))]


def drop_undo(tree: Tree) -> list[str]:
    """Forget how to take back what happened in a tree; returns the trees that were kept for it."""
    now = tree.view(0)
    if now.sealed or next(now.keys(ROOT, prefix_end(ROOT)), None) is None:
        return []

    def drop(tx: Transaction) -> list[str]:
        names = [key[len(_TREES) :].decode() for key in tx.keys(_TREES, prefix_end(_TREES))]
        tx.delete_range(ROOT, prefix_end(ROOT))
        return names

    with contextlib.suppress(Sealed):  # by somebody else who commits, just now
        return tree.update(drop)
    return []
