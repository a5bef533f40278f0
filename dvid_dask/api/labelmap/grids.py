"""Bodies as NanoVDB grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from dvid_dask.datatypes.imageblk import ImageBlk
from dvid_dask.errors import BadRequest, NotFound

from ..face import Call
from ..responses import stream
from .request import absent_is_404, face, json_body, label_arg, labels_of, needs_index, of, scale_of

if TYPE_CHECKING:
    from starlette.responses import Response

MAX_GRID = 2 << 30
MAX_GRIDS = 10_000


def image_of(call: Call) -> ImageBlk | None:
    """The image whose values belong to the voxels."""
    name = call.query.get("image")
    if not name:
        return None
    try:
        image = call.version[name]
    except NotFound as e:
        raise BadRequest(str(e)) from e
    if not isinstance(image, ImageBlk):
        raise BadRequest(f"{name[:80]!r} is a {image.info.typename}, not an image")
    return image


def choices(call: Call) -> dict[str, Any]:
    """What is made of a label."""
    image, values = image_of(call), call.query.get("values") or "channel"
    if values != "channel" and image is None:
        raise BadRequest(f'values="{values[:40]}" needs image=<name of an image>')
    return {
        "supervoxels": call.flag("supervoxels"),
        "scale": scale_of(call),
        "image": image,
        "values": "apart" if values == "only" else values,
        "max_bytes": MAX_GRID,
    }


def codec(call: Call) -> bool:
    """Whether to compress."""
    asked = call.query.get("compression") or "none"
    if asked not in ("none", "zip"):
        raise BadRequest(f'compression "{asked[:40]}" is none of none, zip')
    return asked == "zip"


@face.get("fvdb", args="/<label>", head=False)
@needs_index
@absent_is_404
def get_fvdb(call: Call) -> Response:
    """A body, or a supervoxel with ``supervoxels=true``, as a NanoVDB file: an ``OnIndex`` grid of its voxels at
    ``scale``, called ``name`` (default ``label_<id>``).

    ``image=<name>`` adds the values of an image: as a channel of the index grid, with ``values=voxels`` in a grid that
    holds them instead, with ``values=only`` as nothing but the values, in index order, little-endian.
    ``compression=zip`` uses NanoVDB's codec; ``raw=true`` leaves the file's header out. 404 if there is no such label,
    400 if it has no voxels at the scale, or the grid would be larger than 2 GiB.
    """
    label = label_arg(call)
    raw, compress = call.flag("raw"), codec(call)
    if raw and compress:
        raise BadRequest("a raw grid can't be compressed: only a file says how")
    asked = choices(call)
    made = of(call).nanovdb(label, name=call.query.get("name") or "", **asked)
    if call.query.get("values") == "only" and made.values is not None:
        data = made.values.astype(made.values.dtype.newbyteorder("<"), copy=False).tobytes()
        return stream([data], headers=headers(f"{made.name}.bin", len(data)))
    if compress:
        return stream(made.pieces(compress=True), headers=headers(f"{made.name}.nvdb"))
    return stream(made.pieces(raw=raw), headers=headers(f"{made.name}.nvdb", made.nbytes(raw=raw)))


@face.get("fvdbs", head=False)
@needs_index
def get_fvdbs(call: Call) -> Response:
    """Many bodies as one NanoVDB file, streamed: a JSON list of labels in the body, a grid ``label_<id>`` for each.

    Options of ``fvdb`` but ``name``, ``raw`` and ``values=only``; at most 10,000 labels. 404 names one that doesn't
    exist. A label without voxels at the scale is an empty grid.
    """
    labels = labels_of(json_body(call))
    if not 1 <= len(labels) <= MAX_GRIDS:
        raise BadRequest(f"a file of grids takes 1 to {MAX_GRIDS:,} labels, got {len(labels):,}")
    if 0 in labels:
        raise BadRequest("label 0 is background")
    asked, compress, seg = choices(call), codec(call), of(call)
    if call.query.get("values") == "only":
        raise BadRequest("values=only is for one label")
    sizes = seg.sizes(np.array(labels, np.uint64), supervoxels=asked["supervoxels"])
    if not sizes.all():
        kind = "supervoxel" if asked["supervoxels"] else "body"
        raise NotFound(f"there is no {kind} {labels[int(np.argmin(sizes != 0))]}")

    def pieces() -> Iterator[bytes]:
        for label in labels:
            yield from seg.nanovdb(label, allow_empty=True, **asked).pieces(compress=compress)

    return stream(pieces(), headers=headers("bodies.nvdb"))


def headers(filename: str, length: int | None = None) -> dict[str, str]:
    """A file to keep; its name can be anything."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\' else "_" for c in filename)
    disposition = f'attachment; filename="{plain}"'
    if plain != filename:
        disposition += f"; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"
    return {"Content-Disposition": disposition} | ({} if length is None else {"Content-Length": str(length)})
