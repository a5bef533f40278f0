"""Requests at repositories: ``/api/repos``, ``/api/repo/<version>/<action>``.

A repository is named by any version of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.bases import is_below, named_url
from dvid_dask.errors import BadRequest, Forbidden
from dvid_dask.formats.urls import shown

from .auth import visible_of
from .failures import NotPermitted, Unrouted
from .nodes import LIMIT, convert, fold, gate, given, log_lines
from .responses import empty, json, text
from .routes import Routes

if TYPE_CHECKING:
    from starlette.responses import Response

    from dvid_dask.versions import Repo

    from .face import Request, VersionRequest

__all__ = ["answer", "need_admin", "raise_mutation_ids", "routes", "top"]

top = Routes()
routes = Routes()


def need_admin(request: Request) -> None:
    """Refuse a request without the admin token.

    Raises
    ------
    Forbidden
        There is none, or the server has none to compare with, and no administrator of the DatasetGateway asks.
    """
    if not request.admin:
        hint = "" if request.server.config.admin_token else " (this server was started without DVID_ADMIN_TOKEN)"
        raise Forbidden(f"this needs the admin token in the query option admintoken{hint}")


def answer(request: VersionRequest) -> Response:
    """Find the endpoint for a request at a repository, and call it."""
    request.version = gate(request, request.path.split("/")[3])
    found = routes.find(request.method, request.path)
    if found is None:
        raise Unrouted
    route, request.params = found
    return route.handler(request)


class _NewRepo(msgspec.Struct):
    alias: str = ""
    description: str = ""
    passcode: str = ""
    root: str | msgspec.UnsetType = msgspec.UNSET


@top.post("/api/repos")
def post_repos(request: Request) -> Response:
    """Make a repository; needs the admin token.

    JSON, all optional: ``alias``, ``description``, ``passcode``, ``root`` (the UUID it shall have).
    Answer: ``{"root": "<uuid>"}``.
    """
    need_admin(request)
    if request.server.read_only:
        raise Forbidden("the server is in read-only mode")
    body = fold(request.body.all(LIMIT), _NewRepo)
    root = None if body.root is msgspec.UNSET else body.root
    repo = request.server.datastore.new_repo(
        alias=body.alias, description=body.description, root=root, passcode=body.passcode
    )
    raise_mutation_ids(repo, request.server.config.min_mutation_id_start)
    return json({"root": repo.root})


def raise_mutation_ids(repo: Repo, least: int) -> None:
    """Let a repository's mutation ids start at least here."""
    if least:
        repo.datastore.mutation_ids(repo.id).counter.raise_to(least)


@top.get("/api/repos/info")
def get_repos(request: Request) -> Response:
    """All repositories, as a JSON object keyed by root UUID.

    Who may not read a repository sees of it what is public, without its log; or nothing, where nothing is.
    """
    shown = {}
    for root, repo in request.server.datastore.repos.items():
        visible = visible_of(request, repo)
        if visible is None or root in visible:
            shown[root] = repo.to_json(visible)
    return json(shown)


@routes.head("/api/repo/{uuid}")
def head_repo(request: VersionRequest) -> Response:
    """Whether a version selector names anything: 200 or 400."""
    return text("")


@routes.get("/api/repo/{uuid}/info")
def get_info(request: VersionRequest) -> Response:
    """The repository: alias, description, log, data instances and the DAG of versions, as JSON.

    Who may not read it sees the public versions alone, without the repository's log.
    """
    visible = visible_of(request, request.repo)
    if visible is not None and request.repo.root not in visible:
        raise BadRequest(f"nothing of repository {request.repo.root} is public")
    return json(request.repo.to_json(visible))


class _Info(msgspec.Struct):
    alias: str | None = None
    description: str | None = None


@routes.post("/api/repo/{uuid}/info")
def post_info(request: VersionRequest) -> Response:
    """Change ``alias`` and/or ``description`` (JSON strings). Allowed at committed versions."""
    data = request.body.all(LIMIT)
    known = {k: v for k, v in fold(data, dict[str, Any]).items() if k in ("alias", "description")}
    changes = convert(known, dict[str, str])
    if changes:
        request.repo.set_info(**changes)
    return empty()


@routes.get("/api/repo/{uuid}/log")
def get_log(request: VersionRequest) -> Response:
    """The repository's log: ``{"log": ["<time>  <text>", ...]}``; empty for who may read public versions alone."""
    return json({"log": request.repo.log if visible_of(request, request.repo) is None else []})


@routes.post("/api/repo/{uuid}/log")
def post_log(request: VersionRequest) -> Response:
    """Append to the repository's log: JSON ``{"log": ["...", ...]}``; each line gets the time before it."""
    request.repo.add_log(log_lines(request))
    return empty()


def _check_base(request: VersionRequest, settings: dict[str, Any]) -> None:
    """Refuse to open for a client what only the server can reach, unless whoever runs it said so."""
    base = settings.get("base")
    if not base or request.admin:
        return
    if not isinstance(base, str):
        raise BadRequest(f"setting 'base' must be a string, not {base!r}")
    dataset = settings.get("basedataset")
    allowed = request.server.config.allow_bases
    if not is_below(named_url(base, dataset if isinstance(dataset, str) else None), allowed):
        below = f"; it opens what lies below {', '.join(map(shown, allowed))}" if allowed else ""
        raise Forbidden(f"this server opens no volume at {shown(base)} for clients{below}: see allowBases")


def _check_region(request: VersionRequest, settings: dict[str, Any]) -> None:
    """Refuse to count for a user what lies in a region that this one may not read: labelsz names any version."""
    region = settings.get("roi")
    guard = request.server.guard
    if guard is None or not isinstance(region, str) or "," not in region:
        return
    named = guard.select(request.server.datastore, region.partition(",")[2])
    if named.repo != request.repo and guard.visible(request, named.repo) is not None:
        raise NotPermitted(f"setting 'roi': you may not read version {named.uuid}")


class _NewInstance(msgspec.Struct):
    typename: str
    dataname: str


@routes.post("/api/repo/{uuid}/instance")
def post_instance(request: VersionRequest) -> Response:
    """Make a data instance.

    JSON: ``typename``, ``dataname``, and settings: ``Versioned``, ``Compression``, ``Checksum``, ``Tags`` and those of
    the type. Keys in any case, values strings. ``Base`` (images: the volume that the instance shall stand on, a URL)
    is taken where the server's configuration allows that URL (``allowBases``), or from who has the admin token.
    """
    settings: dict[str, Any] = fold(request.body.all(LIMIT), dict[str, Any])
    names = convert({k: settings.pop(k) for k in ("typename", "dataname") if k in settings}, _NewInstance)
    if not names.typename:
        raise BadRequest("typename is empty: say which datatype")
    _check_base(request, settings)
    _check_region(request, settings)
    instance = request.repo.new_instance(
        names.typename, names.dataname, settings, at=request.version, force=request.force
    )
    return json({"result": f"Added {instance.name} [{instance.typename}] to node {request.version.uuid}"})


@routes.get("/api/repo/{uuid}/branch-versions/{name}")
def get_branch_versions(request: VersionRequest) -> Response:
    """UUIDs from the leaf of a branch up to the root of the repository; ``[]`` for an unknown branch.

    Who may not read the repository gets those of public versions.
    """
    visible = visible_of(request, request.repo)
    uuids = [version.uuid for version in request.repo.branch_versions(request.params["name"])]
    return json(uuids if visible is None else [uuid for uuid in uuids if uuid in visible])


class _Merge(msgspec.Struct):
    parents: list[str]
    mergetype: str = ""
    note: str = ""


@routes.post("/api/repo/{uuid}/merge")
def post_merge(request: VersionRequest) -> Response:
    """Make a child of several committed versions.

    JSON: ``mergeType`` (``conflict-free``), ``parents`` (two or more version selectors), ``note``.
    Answer: ``{"child": "<uuid>"}``.
    """
    body = given(request.body.all(LIMIT), _Merge)
    if body.mergetype != "conflict-free":
        raise BadRequest(f'mergeType is "{body.mergetype[:80]}"; there is "conflict-free"')
    child = request.repo.merge(body.parents, note=body.note)
    return json({"child": child.uuid})


class _Resolve(msgspec.Struct):
    data: list[str]
    parents: list[str]
    note: str = ""


@routes.post("/api/repo/{uuid}/resolve")
def post_resolve(request: VersionRequest) -> Response:
    """Merge versions whose changes conflict: in the named instances the first parent that has a key wins.

    JSON: ``data`` (instance names), ``parents`` (version selectors in order of priority), ``note``.
    Answer: ``{"child": "<uuid>"}``.
    """
    body = given(request.body.all(LIMIT), _Resolve)
    child = request.repo.resolve(body.data, body.parents, note=body.note)
    return json({"child": child.uuid})
