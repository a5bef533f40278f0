"""Distances between bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dvid_dask.errors import BadRequest

from ..face import Call
from ..geometry import parse_label
from ..responses import encode_json, json, stream
from .request import absent_is_404, face, label_arg, needs_index, of

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.datatypes.labelmap.proximity import BlockDistance

MAX_OTHERS = 10_000


@face.get("proximity", args="/<a>/<b>", head=False)
@needs_index
@absent_is_404
def get_proximity(call: Call) -> Response:
    """How near bodies come to each other.

    ``/<target>,<label>,...`` gives a JSON list with each block that the target shares with another label, and the least
    distance within it in voxels: ``{"Block", "Label", "Distance"}``, without the label if there is but one.

    ``/<a>/<b>`` gives a JSON object: ``Distance`` by voxel size, ``DistanceVoxels`` and ``Points`` of the closest
    voxels, wherever they are, ``ContactFaces`` and ``ContactArea``. With ``max-distance=`` the answer is null for
    bodies that are farther apart, and ``places=true`` adds ``Places``: the blocks of the first that the second comes so
    near to.
    """
    first = call.arg(0, "labels")
    if "," in first:
        return _within_blocks(call, [parse_label(part, "a label") for part in first.split(",", MAX_OTHERS + 1)])
    a, b = label_arg(call), label_arg(call, 1, "the other label")
    call.throttled()
    limit = call.query.get("max-distance")
    try:
        max_distance = None if limit is None else float(limit)
    except ValueError:
        raise BadRequest(f"max-distance={limit[:40] if limit else limit} is no number") from None
    near = of(call).proximity(a, b, max_distance=max_distance, places=call.flag("places"))
    if near is None:
        return json(None)
    answer: dict[str, Any] = {
        "Labels": [a, b],
        "Distance": near.distance,
        "DistanceVoxels": near.voxels,
        "Points": [near.point_a[::-1], near.point_b[::-1]],
        "ContactFaces": near.faces[::-1],
        "ContactArea": near.area,
    }
    if call.flag("places"):
        answer["Places"] = [
            {"Block": p.block[::-1], "Distance": p.distance, "Points": [p.point_a[::-1], p.point_b[::-1]]}
            for p in near.places
        ]
    return json(answer)


def _within_blocks(call: Call, labels: list[int]) -> Response:
    if len(labels) > MAX_OTHERS:
        raise BadRequest(f"more than {MAX_OTHERS:,} labels: ask in several requests")
    call.throttled()
    found = of(call).block_distances(labels[0], labels[1:])
    return stream(_listed(found, named=len(labels) > 2), "application/json")


def _listed(found: Iterator[BlockDistance], *, named: bool) -> Iterator[bytes]:
    before = b"["
    for d in found:
        label = {"Label": d.label} if named else {}
        yield before + encode_json({"Block": d.block[::-1], **label, "Distance": d.distance})
        before = b","
    yield b"[]" if before == b"[" else b"]"
