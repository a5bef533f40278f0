"""What happened to bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dvid_dask.datatypes.labelmap import LabelMap

from ..face import Call
from ..responses import empty, encode_json, stream
from .request import (
    face,
    label_arg,
)

if TYPE_CHECKING:
    from starlette.responses import Response


@face.get("history", args="/<body>/<from>/<to>", head=False)
def get_history(call: Call) -> Response:
    """The merges and cleaves that a body went through between two versions, as JSON objects one behind the other."""
    body = label_arg(call)
    begin = call.also(call.arg(1, "a first version"))
    end = call.also(call.arg(2, "a last version"))
    told = cast(LabelMap, end[call.instance.name]).body_history(body, begin)
    first = next(told, None)
    if first is None:
        return empty()
    rest = (encode_json(record) for record in told)
    return stream((piece for part in ([encode_json(first)], rest) for piece in part), "text/plain; charset=utf-8")
