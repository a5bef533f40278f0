"""Undo and redo of a labelvol's edits: each is runs that go from labels to another, and taken back go the other way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dvid_dask.datatypes.labelvol import volumes
from dvid_dask.errors import BadRequest, LaterMutations, NotFound
from dvid_dask.formats import rles
from dvid_dask.versions.undo import UndoRecord, scan_undo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["MAX_KEPT", "Move", "keep", "take_back"]

MAX_KEPT = 64 << 20
"""Bytes of stored runs that are kept for an undo; an edit that moves more can't be undone."""


class Move(msgspec.Struct, array_like=True, frozen=True):
    """Runs that went from a label to another.

    Attributes
    ----------
    source, target
        The labels.
    block_zyx
        int32 (n, 3), little-endian.
    values
        The stored runs in each block.
    """

    source: int
    target: int
    block_zyx: bytes
    values: list[bytes]

    @classmethod
    def of(cls, source: int, target: int, taken: volumes.Taken) -> Move:
        """What was taken from a label and given to another."""
        blocks = np.concatenate([np.empty((0, 3), np.int32), *(blocks for blocks, _ in taken)])
        return cls(source, target, blocks.astype("<i4").tobytes(), [v for _, values in taken for v in values])

    @property
    def blocks(self) -> NDArray[np.int32]:
        """The blocks (z, y, x)."""
        return np.frombuffer(self.block_zyx, "<i4").reshape(-1, 3).astype(np.int32)

    @property
    def runs(self) -> NDArray[np.int32]:
        """All runs, sorted."""
        return rles.normalize(np.concatenate([np.empty((0, 4), np.int32), *map(volumes.decode, self.values)]))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Move]).decode


def keep(labelvol: Datatype, m: Mutation, action: str, moves: Sequence[Move]) -> None:
    """Keep what it takes to take an edit back, unless that is out of proportion."""
    if m.keeps_undo(labelvol) and sum(len(v) for move in moves for v in move.values) <= MAX_KEPT:
        m.keep_undo(labelvol, action, _encode(list(moves)))


def take_back(
    labelvol: Datatype, m: Mutation, space: TxSpace, block_shape: Sequence[int], mutation: int, verb: str
) -> tuple[str, list[Move]]:
    """Take an edit back (``undo``), or do it again (``redo``): in the labelvol alone.

    Returns
    -------
    action, moves
        What the edit was, and the moves that were done now.

    Raises
    ------
    NotFound
        If the version keeps nothing of it.
    BadRequest
        If it is undone already, or isn't.
    LaterMutations
        If voxels that it moved have another label by now. Nothing is changed.
    """
    kept = m.undo_record(labelvol, mutation)
    if kept is None:
        raise NotFound(f"version {labelvol.version.uuid} keeps nothing of a mutation {mutation} that could be undone")
    if bool(kept.undone) != (verb == "redo"):
        raise BadRequest(f"mutation {mutation} is {'undone already' if kept.undone else 'not undone'}")
    held = _decode(m.undo_data(labelvol, mutation))
    moves = [Move(move.target, move.source, move.block_zyx, move.values) for move in reversed(held)]
    for move in moves:
        if not move.values:
            continue
        try:
            taken = volumes.take(space, block_shape, move.source, move.runs)
        except BadRequest as why:
            later = list(_later(labelvol, m, kept, held))
            listed = f": undo {', '.join(map(str, later))} first" if later else ""
            raise LaterMutations(f"mutation {mutation} can't be {verb}ne: {why}{listed}", later) from None
        volumes.give(space, move.target, taken)
    undone = m.id if verb == "undo" else 0
    m.replace_undo(labelvol, msgspec.structs.replace(kept, undone=undone, latest=m.id), _encode(moves))
    return kept.action, moves


def _later(labelvol: Datatype, m: Mutation, kept: UndoRecord, own: Sequence[Move]) -> Iterator[int]:
    """Edits done after this one, and not undone, that took runs from or gave runs to its labels in its blocks."""
    labels = {label for move in own for label in (move.source, move.target)}
    blocks = {tuple(b) for move in own for b in move.blocks.tolist()}
    for other in scan_undo(m.tx, labelvol.info.id, labelvol.version.id):
        if other.latest > kept.latest and not other.undone:
            moves = _decode(m.undo_data(labelvol, other.id))
            if any(
                {move.source, move.target} & labels and blocks & {tuple(b) for b in move.blocks.tolist()}
                for move in moves
            ):
                yield other.id
