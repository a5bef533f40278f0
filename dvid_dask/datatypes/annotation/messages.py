"""What an annotation tells watchers when the segmentation moves its elements: DVID's messages with a ``Delta``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvid_dask.datatypes import events
from dvid_dask.datatypes.annotation.kinds import KINDS

if TYPE_CHECKING:
    from dvid_dask.datatypes.annotation.tally import Tally

__all__ = ["delta_message"]

_ACTIONS: dict[type, str] = {
    events.BodiesMerged: "merge",
    events.BodyCleaved: "cleave",
    events.BodyRenumbered: "merge",
    events.BlocksWritten: "mutate-block",
    events.SupervoxelsMoved: "merge",
}


def delta_message(event: object, tally: Tally) -> dict[str, Any] | None:
    """The message about an event of the segmentation; None if DVID has none. A long one becomes a blob on its way."""
    action = _ACTIONS.get(type(event))
    if action is None:
        return None
    added: list[dict[str, Any]] = []
    deleted: list[dict[str, Any]] = []
    for part in tally.parts():
        columns = zip(
            part.label.tolist(), part.kind.tolist(), part.sign.tolist(), part.position_zyx.tolist(), strict=True
        )
        for label, kind, sign, (z, y, x) in columns:
            (added if sign > 0 else deleted).append({"Label": label, "Kind": KINDS[kind], "Pos": [x, y, z]})
    mutation = getattr(event, "mutation", 0)
    return {"Action": action, "MutationID": mutation, "Delta": {"Add": added or None, "Del": deleted or None}}
