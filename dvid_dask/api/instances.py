"""Requests at data instances: ``/api/node/<version>/<instance>/<keyword>[/...]``.

The order of what is checked is DVID's: version selector, read-only server, instance by name, blobs, lock, keyword.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest, LockedVersion, NotFound

from .face import ANY, Call, Door
from .faces import face_of
from .nodes import gate
from .responses import json, octets

if TYPE_CHECKING:
    from starlette.responses import Response

__all__ = ["answer", "find", "is_instance_path"]

MUTATING = frozenset({"POST", "PUT", "DELETE"})
#: Keywords that set something by every method, GET too, at some types.
CHANGING = frozenset({"resolution", "extents"})


def is_instance_path(path: str) -> bool:
    """Whether a path has at least a version, an instance and a keyword.

    Examples
    --------
    >>> is_instance_path("/api/node/u/data/keyword"), is_instance_path("/api/node/u/data/"), is_instance_path("/x")
    (True, False, False)
    """
    if not path.startswith("/api/node/"):
        return False
    parts = path.split("/", 6)
    return len(parts) > 5 and bool(parts[3] and parts[4] and parts[5])


def answer(call: Call) -> Response:
    """Find the handler for a request at an instance, and call it."""
    return find(call).handler(call)


def find(call: Call) -> Door:
    """The handler for a request at an instance; the call gets its version, instance and arguments."""
    parts = call.path.split("/")
    if not parts[-1]:
        parts.pop()
    selector, name, keyword = parts[3:6]
    call.keyword, call.args = keyword, parts[6:]
    call.version = gate(call, selector, changes=keyword in CHANGING)
    call.instance = instance = call.version[name]
    if keyword == "blobstore":
        return _BLOBS
    call.version = instance.version
    if (
        call.method in MUTATING
        and instance.info.versioned
        and not call.force
        and not (call.method == "POST" and keyword in instance.reads_by_post)
        and call.version.locked
    ):
        raise LockedVersion(
            f"version {call.version.uuid} is committed: make a new version of it and change that, or use an admin token"
        )
    return face_of(instance.typename).find(call.method, keyword)


def blobs(call: Call) -> Response:
    """POST ``blobstore`` keeps bytes and tells their reference; GET ``blobstore/<reference>`` returns them.

    Blobs are shared by all instances, and may be posted through committed versions.
    """
    if call.method == "POST":
        return json({"reference": call.server.datastore.put_blob(call.body.all())})
    if call.method != "GET":
        raise BadRequest(f"blobstore answers GET and POST only, not {call.method[:20]}")
    if len(call.args) != 1:
        raise BadRequest("blobstore needs one reference as the next part of the path")
    reference = call.args[0]
    blob = call.server.datastore.get_blob(reference)
    if not blob:
        raise NotFound(f"there is no blob {reference[:80]}")
    return octets(blob)


_BLOBS = Door("blobstore", ANY, blobs, "", True)
