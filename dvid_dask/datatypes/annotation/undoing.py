"""Undo and redo of edits of elements: of the blocks that an edit changed, what they held before and after is kept.

What was edited since stays: an undo merges, position by position, and is refused where an element that it would change
was changed since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvid_dask.datatypes.annotation import keys
from dvid_dask.datatypes.annotation.edits import replace_blocks
from dvid_dask.datatypes.annotation.elements import Elements, decode
from dvid_dask.datatypes.annotation.merging import merged_elements
from dvid_dask.errors import BadRequest, LaterMutations, NotFound
from dvid_dask.versions.undo import UndoRecord, scan_undo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvid_dask.datatypes.annotation.filing import Filing
    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["MAX_BLOCKS", "carry_out", "changed_blocks", "keep"]

MAX_KEPT, MAX_BLOCKS = 16 << 20, 1 << 14
"""Bytes of blocks that are kept for an undo, and how many; an edit that changes more can't be undone."""


class _Block(msgspec.Struct, array_like=True, frozen=True):
    key: bytes
    before: bytes | None
    after: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Block]).decode


def changed_blocks(m: Mutation, space: TxSpace) -> set[bytes]:
    """Keys of the blocks that a transaction has changed so far."""
    prefix = space.prefix + keys.BLOCK
    return {key[len(space.prefix) :] for key in m.tx.changed if key.startswith(prefix)}


def keep(annotation: Datatype, m: Mutation, space: TxSpace, action: str, blocks_changed: set[bytes]) -> None:
    """Keep what it takes to take an edit back, once it is done in the transaction, unless that is out of proportion."""
    before = m.before(annotation)
    changed = sorted(blocks_changed)
    if before is None or not 0 < len(changed) <= MAX_BLOCKS:
        return
    blocks = [
        _Block(key, old, new)
        for key, old, new in zip(changed, before.get_many(changed), space.get_many(changed), strict=True)
        if old != new
    ]
    if blocks and sum(len(v) for b in blocks for v in (b.before, b.after) if v is not None) <= MAX_KEPT:
        m.keep_undo(annotation, action, _encode(blocks))


def carry_out(annotation: Datatype, m: Mutation, space: TxSpace, filing: Filing, mutation: int, verb: str) -> None:
    """Take a mutation back (``undo``), or do it again (``redo``).

    Raises
    ------
    NotFound
        If the version keeps nothing of it.
    BadRequest
        If it is undone already, or isn't.
    LaterMutations
        If elements that it changed were changed since. Nothing is changed.
    """
    kept = m.undo_record(annotation, mutation)
    if kept is None:
        raise NotFound(f"version {annotation.version.uuid} keeps nothing of a mutation {mutation} that could be undone")
    if bool(kept.undone) != (verb == "redo"):
        raise BadRequest(f"mutation {mutation} is {'undone already' if kept.undone else 'not undone'}")
    blocks = _decode(m.undo_data(annotation, mutation))
    now = space.get_many([b.key for b in blocks])
    merged = []
    for block, value in zip(blocks, now, strict=True):
        elements, conflicts = merged_elements(decode(block.after), decode(value), decode(block.before))
        if len(conflicts):
            later = list(_later(annotation, m, kept, {b.key for b in blocks}))
            at = conflicts[0][::-1].tolist()
            listed = f": undo {', '.join(map(str, later))} first" if later else ""
            raise LaterMutations(
                f"mutation {mutation} can't be {verb}ne: the element at {at} (x, y, z) was changed since{listed}", later
            )
        merged.append(elements)
    borders = np.cumsum([0, *map(len, merged)])
    replace_blocks(space, filing, keys.blocks_of([b.key for b in blocks]), Elements.join(merged), borders)
    for block, elements in zip(blocks, merged, strict=True):
        if block.before is None and not len(elements):
            space.delete(block.key)
    back = [_Block(b.key, b.after, b.before) for b in blocks]
    undone = m.id if verb == "undo" else 0
    m.replace_undo(annotation, msgspec.structs.replace(kept, undone=undone, latest=m.id), _encode(back))


def _later(annotation: Datatype, m: Mutation, kept: UndoRecord, blocks: set[bytes]) -> Iterator[int]:
    """Mutations done after this one, and not undone, that changed one of the blocks."""
    for other in scan_undo(m.tx, annotation.info.id, annotation.version.id):
        if other.latest > kept.latest and not other.undone:
            held = _decode(m.undo_data(annotation, other.id))
            if any(b.key in blocks for b in held):
                yield other.id
