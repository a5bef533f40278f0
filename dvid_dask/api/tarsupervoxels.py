"""The HTTP side of tarsupervoxels: files of supervoxels one by one, by body as a tar, and many from a tar."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dvid_dask.datatypes.tarsupervoxels import MAX_FILE
from dvid_dask.errors import BadRequest, NotFound

from .common import changed
from .face import Call, Face, decode_json
from .geometry import parse_label
from .nodes import LIMIT, fold
from .responses import Response, empty, json, octets, stream, text

if TYPE_CHECKING:
    from dvid_dask.datatypes.tarsupervoxels import TarSupervoxels

__all__ = ["face"]

face = Face(
    "tarsupervoxels",
    about="""A file for each supervoxel, usually a mesh, fetched by body as a tar.

    Files are not versioned: a POST or DELETE at any version is seen at all. Which supervoxels make a body is read, at
    the version of the request, from the labelmap that the instance is synced with.
    """,
    common=("sync", "mutations"),
)

_BATCH = 1 << 25
"""Memory of a load beside the largest file."""

_Label = Annotated[int, msgspec.Meta(ge=0)]


def _of(call: Call) -> TarSupervoxels:
    held: TarSupervoxels = call.instance
    return held


def _id(call: Call, what: str) -> int:
    """The supervoxel or body in the path."""
    label = parse_label(call.arg(0, f"a {what}"), what)
    if not label:
        raise BadRequest(f"{what} 0 is the background: expected 1 to 2^64 - 1")
    return label


@face.post("info")
def post_info(call: Call) -> Response:
    """Change the files' extension: JSON ``{"Extension": "drc"}``.

    Files stored under another one are invisible until it is changed back.
    """
    settings: dict[str, Any] = fold(call.body.all(LIMIT), dict[str, Any])
    call.instance.configure(settings)
    return text(changed(call.instance.name, settings))


# ---------------------------------------------------------------------- one file


@face.get("supervoxel", args="/<supervoxel>", head=False)
def get_supervoxel(call: Call) -> Response:
    """The file of a supervoxel, as ``application/octet-stream``; 404 where there is none or it is empty."""
    supervoxel = _id(call, "supervoxel")
    content = _of(call).get(supervoxel)
    if content is None:
        raise NotFound(f"Supervoxel {supervoxel} not found")
    return octets(content)


@face.post("supervoxel", args="/<supervoxel>")
def post_supervoxel(call: Call) -> Response:
    """Set the file of a supervoxel to the body."""
    supervoxel = _id(call, "supervoxel")
    _of(call).put(supervoxel, call.body.all(), user=call.user, app=call.app, force=call.force)
    return empty()


@face.delete("supervoxel", args="/<supervoxel>")
def delete_supervoxel(call: Call) -> Response:
    """Remove the file of a supervoxel, whether it has one or not."""
    _of(call).delete(_id(call, "supervoxel"), user=call.user, app=call.app, force=call.force)
    return empty()


# ---------------------------------------------------------------------- by body


@face.get("tarfile", args="/<body>", head=False)
def get_tarfile(call: Call) -> Response:
    """The files of a body's supervoxels as a tar: ``<supervoxel>.<extension>``, in ascending order.

    A supervoxel without a file, or with an empty one, is there as an empty ``<supervoxel>.missing``. Times are those of
    the writes. 400 where there is no such body, or the instance is synced with no labelmap.
    """
    return stream(_of(call).tar_of(_id(call, "body")), "application/tar")


@face.head("tarfile", args="/<body>")
def head_tarfile(call: Call) -> Response:
    """Whether all supervoxels of a body have a file: 200, else 400."""
    body = _id(call, "body")
    missing = _of(call).missing(body)
    if len(missing):
        raise BadRequest(f"{len(missing)} supervoxels of body {body} have no file, such as {missing[0]}")
    response = empty()
    # nobody looked how long the tar is
    del response.headers["content-length"]
    return response


@face.any("missing", args="/<body>")
def get_missing(call: Call) -> Response:
    """The supervoxels of a body that have no file, as a JSON list, ascending."""
    return json(_of(call).missing(_id(call, "body")).tolist())


# ---------------------------------------------------------------------- many files


@face.get("exists", head=False)
def get_exists(call: Call) -> Response:
    """Which supervoxels have a file: the body is a JSON list of ids, the answer one of booleans in its order.

    ``?hash=<MD5 of the body in hex>`` refuses a body that arrived otherwise.
    """
    data = call.body.all(LIMIT)
    expected = call.query.get("hash")
    if expected:
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != expected.lower():
            raise BadRequest(f"the body has the MD5 hash {found}, not {expected[:64]}")
    ids: list[int] = decode_json(data, list[_Label] | None) or []  # type: ignore[arg-type]
    if any(sv >> 64 for sv in ids):
        raise BadRequest("a supervoxel in the list is no 64-bit number")
    return json(_of(call).exists(ids).tolist())


@face.post("load")
def post_load(call: Call) -> Response:
    """Set the files of many supervoxels from a tar with members ``<supervoxel>.<extension>``: all of them, or none.

    Folders, links, other names and extensions, supervoxel 0, members of more than 256 MiB, more than 2^20 of them,
    compressed tars and those without their end mark are refused.
    """
    _of(call).check_open(call.force)
    # the largest member is in memory, with those of one commit
    room = _BATCH + MAX_FILE if call.body.length is None else min(call.body.length, _BATCH + MAX_FILE)
    with call.server.bodies.hold(room):
        _of(call).load(call.body, user=call.user, app=call.app, force=call.force)
    return empty()
