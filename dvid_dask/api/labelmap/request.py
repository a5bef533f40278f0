"""The face, and what its handlers share: parts of requests, checks."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec

from dvid_dask.datatypes.labelmap import Bounds, LabelMap
from dvid_dask.errors import BadRequest, Forbidden, NotFound

from ..face import Call, Face, decode_json
from ..geometry import (
    UINT64_MAX,
    parse_bounds,
    parse_label,
)
from ..responses import not_found

if TYPE_CHECKING:
    from starlette.responses import Response


face = Face(
    "labelmap",
    about="A segmentation of uint64 supervoxels, agglomerated into bodies. Coordinates in paths are x_y_z.",
    common=("tags", "sync", "mutations", "metadata", "resolution", "extents"),
)

_Labels: Any = list[Annotated[int, msgspec.Meta(ge=0)]] | None
Handler = Callable[[Call], "Response"]

MAX_LIST_BYTES = 64 << 20  # of a JSON list of labels or points
MAX_LIST_NUMBERS = 8 << 20  # in it; each takes some 35 bytes once decoded


def needs_index(handler: Handler) -> Handler:
    """Refuse an instance without label index."""

    @functools.wraps(handler)
    def checked(call: Call) -> Response:
        if not of(call).indexed:
            raise BadRequest(f'"{call.keyword}" needs a label index, and this instance was made without one')
        return handler(call)

    return checked


def absent_is_404(handler: Handler) -> Handler:
    """Answer for a label that isn't there with an empty 404, as DVID does."""

    @functools.wraps(handler)
    def checked(call: Call) -> Response:
        try:
            return handler(call)
        except NotFound:
            return not_found()

    return checked


def of(call: Call) -> LabelMap:
    """The instance."""
    return cast(LabelMap, call.instance)


def label_arg(call: Call, index: int = 0, what: str = "a label") -> int:
    """A label in the path: not 0."""
    label = parse_label(call.arg(index, what), what)
    if not label:
        raise BadRequest("label 0 is background")
    return label


def scale_of(call: Call) -> int:
    """The option ``scale``; a labelblk has but one scale, and passes it over."""
    return 0 if call.instance.typename == "labelblk" else call.int("scale", 0, 0, 255)


def bounds_of(call: Call) -> Bounds:
    given = parse_bounds(call.query)
    (ax, ay, az), (bx, by, bz) = given
    return Bounds((az, ay, ax), (bz, by, bx))


def json_body(call: Call) -> bytes:
    """The body of a request for many labels, checked against ``hash=`` (MD5)."""
    data = call.body.all(MAX_LIST_BYTES)
    wanted = call.query.get("hash")
    if wanted and hashlib.md5(data, usedforsecurity=False).hexdigest() != wanted:
        raise BadRequest(f"the body's MD5 is not {wanted[:80]}: it was changed on the way")
    return data


def check_list(data: bytes) -> None:
    """Refuse a JSON list whose decoded form would take far more memory than its text."""
    numbers = data.count(b",") + 1
    if len(data) > MAX_LIST_BYTES or numbers > MAX_LIST_NUMBERS:
        raise BadRequest(
            f"a list of about {numbers:,} numbers in {len(data):,} bytes; at most {MAX_LIST_NUMBERS:,} in "
            f"{MAX_LIST_BYTES:,} bytes: ask in several requests"
        )


def labels_of(data: bytes) -> list[int]:
    """A JSON list of labels; null is an empty one."""
    check_list(data)
    labels: list[int] = decode_json(data, _Labels) or []
    if max(labels, default=0) > UINT64_MAX:
        raise BadRequest("labels must be below 2**64")
    return labels


def who(call: Call) -> dict[str, Any]:
    return {"user": call.user, "app": call.app, "force": call.force}


def compression_of(call: Call, *known: str) -> str:
    name = call.query.get("compression", "")
    if name and name not in known:
        raise BadRequest(f'compression "{name[:40]}" is none of {", ".join(known)}')
    return name


def need_admin(call: Call) -> None:
    if not call.admin:
        raise Forbidden(f'"{call.keyword}" can be set by an administrator only')


def gzip_pieces(pieces: Iterable[Any]) -> Iterator[bytes]:
    """One gzip member from pieces of data."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for piece in pieces:
        for at in range(0, len(piece), 1 << 20):
            yield packer.compress(piece[at : at + (1 << 20)])
    yield packer.flush()
