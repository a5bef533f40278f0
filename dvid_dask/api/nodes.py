"""Requests at a version as a whole, ``/api/node/<version>/<action>``: notes, logs, commit, new versions, tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.errors import BadRequest, Forbidden, LockedVersion

from .auth import READS
from .face import VersionRequest, decode_json
from .failures import Unrouted
from .responses import empty, json
from .routes import Routes

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.versions import Version

    from .face import Request

__all__ = ["answer", "fold", "gate", "given", "routes"]

routes = Routes()

# what stays allowed on a committed version
_AT_LOCKED = frozenset({"branch", "newversion", "tag"})

# no JSON that these endpoints take comes near this
LIMIT = 1 << 26


def gate(request: Request, selector: str, *, changes: bool = False) -> Version:
    """The version that a selector names, for a request that may be refused by a read-only server, or need a user.

    Every request at a repository or a version comes through here, whichever way it takes.

    Parameters
    ----------
    request : Request
    selector : str
        The version.
    changes : bool
        Whether it would change something by any method.

    Raises
    ------
    UnknownVersion, AmbiguousVersion
        It names none, or several.
    Forbidden
        The server is read-only, the request would change something and carries no admin token.
    DvidError
        Who asks is unknown, or may not do this; see :mod:`dvid_dask.api.auth`.
    """
    server = request.server
    guard = server.guard
    version = server.datastore[selector] if guard is None else guard.select(server.datastore, selector)
    if server.read_only and (changes or request.method not in ("GET", "HEAD")) and not request.admin:
        raise Forbidden("the server is in read-only mode")
    if guard is not None:
        guard.check(request, version, write=changes or request.method not in READS)
    return version


def answer(request: VersionRequest) -> Response:
    """Find the endpoint for a request at a version, and call it."""
    _, _, _, selector, *rest = request.path.split("/")
    request.version = gate(request, selector)
    if (
        request.method not in ("GET", "HEAD")
        and not request.force
        and "/".join(rest) not in _AT_LOCKED
        and request.version.locked
    ):
        raise LockedVersion(f"version {request.version.uuid} is committed: make a new version and change that")
    found = routes.find(request.method, request.path)
    if found is None:
        raise Unrouted
    route, request.params = found
    return route.handler(request)


def fold(data: bytes, type: type[Any]) -> Any:
    """A JSON object with keys in any case as a Struct with lower-case fields; no body and null count as ``{}``."""
    raw = (decode_json(data, dict[str, Any] | None) if data else None) or {}  # type: ignore[arg-type]
    return convert({k.lower(): v for k, v in raw.items()}, type)


def given(data: bytes, type: type[Any]) -> Any:
    """As :func:`fold`, where null counts as not given: clients send their language's nothing for a note."""
    raw = {k: v for k, v in fold(data, dict[str, Any]).items() if v is not None}
    return convert(raw, type)


def convert(raw: Any, type: type[Any]) -> Any:
    """Check types of what was JSON."""
    try:
        return msgspec.convert(raw, type)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the JSON body is not what is expected: {error}") from None


@routes.get("/api/node/{uuid}/note")
def get_note(request: VersionRequest) -> Response:
    """The version's note: ``{"note": "..."}``."""
    return json({"note": request.version.note})


class _Note(msgspec.Struct):
    note: str | None


@routes.post("/api/node/{uuid}/note")
def post_note(request: VersionRequest) -> Response:
    """Replace the version's note: JSON ``{"note": "..."}``; null empties it."""
    values = request.json(dict[str, str | None], limit=LIMIT)
    request.version.set_note(convert(values, _Note).note or "", force=request.force)
    return empty()


@routes.get("/api/node/{uuid}/log")
def get_log(request: VersionRequest) -> Response:
    """The version's log: ``{"log": ["<time>  <text>", ...]}``."""
    return json({"log": request.version.log})


class Lines(msgspec.Struct):
    """Body of a POST of log lines."""

    log: list[str | None] | None


def log_lines(request: Request) -> list[str]:
    """The lines in ``{"log": [...]}``, null for none; every value in the object must be a list of strings."""
    values = request.json(dict[str, list[str | None] | None], limit=LIMIT)
    lines: list[str | None] = convert(values, Lines).log or []
    return [line or "" for line in lines]


@routes.post("/api/node/{uuid}/log")
def post_log(request: VersionRequest) -> Response:
    """Append to the version's log: JSON ``{"log": ["...", ...]}``; each line gets the time before it."""
    request.version.add_log(log_lines(request), force=request.force)
    return empty()


@routes.get("/api/node/{uuid}/status")
@routes.get("/api/node/{uuid}/commit")
def get_status(request: VersionRequest) -> Response:
    """Whether the version is committed: ``{"Locked": true}``."""
    return json({"Locked": request.version.locked})


class _Commit(msgspec.Struct):
    note: str = ""
    log: list[str] = []


@routes.post("/api/node/{uuid}/commit")
def post_commit(request: VersionRequest) -> Response:
    """Lock the version for ever. The JSON body must be there, at least ``{}``.

    ``note`` replaces the version's note, ``log`` (list of strings) is appended to its log.
    """
    raw = request.json(dict[str, Any], limit=LIMIT)
    body = convert({k.lower(): v for k, v in raw.items() if v is not None}, _Commit)
    request.version.commit(note=body.note, log=body.log)
    return json({"committed": request.version.uuid})


class _NewVersion(msgspec.Struct):
    note: str = ""
    uuid: str | None = None


@routes.post("/api/node/{uuid}/newversion")
def post_newversion(request: VersionRequest) -> Response:
    """Make a child of a committed version, on the same branch. JSON, optional: ``note``, ``uuid`` (32 hex digits)."""
    body = given(request.body.all(LIMIT), _NewVersion)
    child = request.version.newversion(note=body.note, uuid=body.uuid)
    return json({"child": child.uuid})


class _Branch(msgspec.Struct):
    branch: str
    note: str = ""
    uuid: str | None = None


@routes.post("/api/node/{uuid}/branch")
def post_branch(request: VersionRequest) -> Response:
    """Make a child of a committed version on a new branch. JSON: ``branch``, and optionally ``note``, ``uuid``."""
    body = given(request.body.all(LIMIT), _Branch)
    child = request.version.new_branch(body.branch, note=body.note, uuid=body.uuid)
    return json({"child": child.uuid})


class _Tag(msgspec.Struct):
    tag: str
    note: str = ""


@routes.post("/api/node/{uuid}/tag")
def post_tag(request: VersionRequest) -> Response:
    """Give a committed version a second name: a committed child whose UUID is the tag. JSON: ``tag``, ``note``."""
    body = given(request.body.all(LIMIT), _Tag)
    child = request.version.tag(body.tag, note=body.note)
    return json({"child": child.uuid})
