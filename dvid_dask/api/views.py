"""Volumes read as zarr and as neuroglancer precomputed, annotations as precomputed: ``zarr/...``, ``precomputed/...``.

What a committed version's full UUID names never changes, so such answers may be kept for ever; others are asked for
again, and answered 304 where nothing changed. Parts are answered for ``Range``.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from dvid_dask.datatypes import LABEL_VOLUMES
from dvid_dask.errors import BadRequest
from dvid_dask.formats.compression import gzip_compress
from dvid_dask.views import AnnotationsView, PrecomputedView, ZarrView

from . import annotation, imageblk, labelarray, labelblk, labelmap
from .ranges import conditional
from .responses import not_found

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.versions.records import InstanceInfo

    from .face import Call
    from .state import ServerState

__all__ = ["get_annotations", "get_precomputed", "get_zarr"]

V = TypeVar("V", ZarrView, PrecomputedView, AnnotationsView)

#: Views that a server keeps: each is one state of an instance at a version.
_MANY = 64
_kept: weakref.WeakKeyDictionary[ServerState, OrderedDict[Any, tuple[InstanceInfo, Any]]] = weakref.WeakKeyDictionary()


@imageblk.face.get("zarr", args="/<path>")
@labelmap.face.get("zarr", args="/<path>")
@labelarray.face.get("zarr", args="/<path>")
@labelblk.face.get("zarr", args="/<path>")
def get_zarr(call: Call) -> Response:
    """The instance at this version as a zarr 3 group, which is an OME-Zarr: arrays ``s0``, ``s1`` ... (z, y, x).

    Open ``.../<name>/zarr`` with zarr, xarray or tensorstore, or as ``zarr://`` in neuroglancer. Of a labelmap it shows
    bodies; the group ``supervoxels`` in it the supervoxels. Paths where nothing is stored are 404.
    """
    path = _path(call)
    view = _view(call, ZarrView)
    return _answer(call, view.token, view.get(path))


@imageblk.face.get("precomputed", args="/<path>")
@labelmap.face.get("precomputed", args="/<path>")
@labelarray.face.get("precomputed", args="/<path>")
@labelblk.face.get("precomputed", args="/<path>")
def get_precomputed(call: Call) -> Response:
    """The instance at this version as a neuroglancer precomputed volume: ``info`` and the chunks of each scale.

    Open ``precomputed://http://.../<name>/precomputed`` in neuroglancer, tensorstore or CloudVolume. Of a labelmap it
    shows bodies; ``.../precomputed/supervoxels`` supervoxels. Chunks in which nothing is stored are 404.
    """
    path = _path(call)
    supervoxels = call.instance.typename == "labelmap" and path.startswith("supervoxels/")
    view = _view(call, PrecomputedView, supervoxels)
    found = view.get(path.removeprefix("supervoxels/") if supervoxels else path)
    # the format's own compression leaves much to gain; JPEG and raw voxels don't shrink
    return _answer(call, view.token, found, shrinks=call.instance.typename in LABEL_VOLUMES)


@annotation.face.get("precomputed", args="/<path>")
def get_annotations(call: Call) -> Response:
    """The elements at this version as neuroglancer's precomputed annotations, found by space, id and body.

    Open ``precomputed://http://.../<name>/precomputed`` in neuroglancer: points with their kind and those of their
    properties that are numbers; ``.../precomputed/lines`` has a line from each presynaptic element to those after it.
    """
    view = _view(call, AnnotationsView)
    return _answer(call, view.token, view.get(_path(call)), shrinks=True)


def _path(call: Call) -> str:
    path = "/".join(call.args)
    if not path:
        raise BadRequest(f'"{call.keyword}" is a folder: open it with a client of that format')
    return path


def _view(call: Call, kind: type[V], supervoxels: bool = False) -> V:
    """The view of the state that the version is in now."""
    instance = call.instance
    views = _kept.setdefault(call.server, OrderedDict())
    info = instance.info
    key = kind, info.data_uuid, call.version.id, instance.view().token, supervoxels
    found = views.get(key)
    if found is None or (found[0] is not info and found[0] != info):
        more: dict[str, Any] = {"supervoxels": True} if supervoxels else {}
        views[key] = found = info, kind(instance, **more)
        while len(views) > _MANY:
            views.popitem(last=False)
    return found[1]


def _answer(call: Call, token: str, found: tuple[bytes, str] | None, *, shrinks: bool = False) -> Response:
    fixed = call.version.locked and call.path.split("/")[3] == call.version.uuid and not call.server.full_write
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if fixed else "no-cache"}
    if found is None:
        response = not_found()
        response.headers.update(headers)
        return response
    body, media_type = found
    # what never changes is named by its address; else by what it is, since a state has many chunks that others have too
    named = f"{token} {call.path}".encode() if fixed else body
    tag = blake2b(named, digest_size=12).hexdigest()
    given = call.headers
    if shrinks:
        headers["Vary"] = "Accept-Encoding"
        if "gzip" in given.get("accept-encoding", "") and "range" not in given and len(body) > 256:
            headers["Content-Encoding"], tag = "gzip", f"{tag}-gzip"
            body = gzip_compress(body, 1)
    return conditional(body, f'"{tag}"', given, headers, media_type)
