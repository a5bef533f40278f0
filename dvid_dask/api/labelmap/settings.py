"""Settings and counters of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dvid_dask.errors import BadRequest

from ..common import changed
from ..face import Call
from ..geometry import (
    parse_int,
    parse_label,
)
from ..nodes import fold
from ..responses import empty, json, text
from .request import (
    face,
    need_admin,
    needs_index,
    of,
)

if TYPE_CHECKING:
    from starlette.responses import Response


@face.post("info")
def post_info(call: Call) -> Response:
    """Change settings: a JSON object of strings with any of BlockSize, VoxelSize, VoxelUnits, MinPoint, MaxPoint,
    Background, GridStore, ScaleLevel, MaxDownresLevel. They hold at all versions. Other members are passed over.
    """
    config: dict[str, Any] = fold(call.body.all(1 << 20), dict[str, Any])
    of(call).change_settings(config)
    return text(changed(call.instance.name, config))


@face.get("maxlabel", head=False)
@needs_index
def get_maxlabel(call: Call) -> Response:
    """The largest label of this version and its ancestors: ``{"maxlabel": n}``."""
    largest = of(call).max_label()
    if not largest:
        # neuclease looks at the version's parents where it reads "No maximum label"
        raise BadRequest("No maximum label: this version has no label yet")
    return json({"maxlabel": largest})


@face.post("maxlabel", args="/<label>")
@needs_index
def post_maxlabel(call: Call) -> Response:
    """Raise the largest label of this version (administrators)."""
    need_admin(call)
    label = parse_int(call.arg(0, "a label"), "label", 1, 1 << 48)
    of(call).raise_max_label(label, force=call.force)
    return empty()


@face.get("nextlabel", head=False)
@needs_index
def get_nextlabel(call: Call) -> Response:
    """The id that would be handed out next: ``{"nextlabel": n}``."""
    return json({"nextlabel": of(call).next_labels.next})


@face.post("nextlabel", args="/<count>")
@needs_index
def post_nextlabel(call: Call) -> Response:
    """Reserve consecutive ids that nobody else gets: ``{"start": a, "end": b}``, both inclusive."""
    count = parse_label(call.arg(0, "a count"), "count")
    first, last = of(call).allocate_labels(count, force=call.force)
    return json({"start": first, "end": last})


@face.post("set-nextlabel", args="/<label>")
def post_set_nextlabel(call: Call) -> Response:
    """Hand out ids after this one from now on (administrators); ``ceiling``: up to that one, 0 clears it."""
    need_admin(call)
    label = parse_label(call.arg(0, "a label"))
    ceiling = call.query.get("ceiling")
    of(call).set_next_label(label, None if not ceiling else parse_label(ceiling, "ceiling"))
    return empty()
