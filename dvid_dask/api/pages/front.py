"""The pages' addresses, and what fills them.

======================  =====================================================================================
``/``                   the repositories
``/repo/<uuid>``        one repository: its versions drawn, its instances at one of them (``?at=<version>``)
``/pages/<file>``       style sheet and icon
``/neuroglancer/``      the viewer, where its package is installed
======================  =====================================================================================

They show what the API tells whoever asks, and change nothing. A configured web client takes their place.
"""

from __future__ import annotations

import functools
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

import jinja2
from starlette.responses import Response

from dvid_dask.api.auth import visible_of
from dvid_dask.datatypes import LABEL_VOLUMES
from dvid_dask.errors import DvidError, UnknownVersion
from dvid_dask.store import StoreError
from dvid_dask.versions.state import branch_name

from .cards import card_of, picture_of, volume_of
from .graph import Drawing, draw
from .viewer import PREFIX, bundle, file_of, service_of, sources, state_of, viewer_link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvid_dask.api.face import Request
    from dvid_dask.versions import Repo, Version
    from dvid_dask.versions.records import NodeRecord
    from dvid_dask.versions.state import RepoState

__all__ = ["page_of"]

ASSETS = Path(__file__).parent / "assets"
#: Versions that are drawn at most, the newest.
MANY = 1000
#: Colours of lanes that the style sheet has.
COLOURS = 8
#: Pages run no script and load nothing from elsewhere.
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'self'; base-uri 'none'; form-action 'none'"


#: Said where there is nothing, or nothing for who asks: that one learns nothing by the difference.
_HIDDEN = "There is no such version, or you need to log in to see it."


class Row(NamedTuple):
    """A version in the drawing."""

    node: NodeRecord
    lane: int
    x: int
    y: int
    tips: list[str]
    here: bool


@functools.cache
def _templates() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("dvid_dask.api.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters["moment"] = lambda moment: moment.strftime("%Y-%m-%d %H:%M")
    env.filters["short"] = lambda uuid: uuid[:8]
    return env


def page_of(request: Request) -> Response | None:
    """The page at the path of a request; None where there is none."""
    path = request.path
    if path.startswith(PREFIX.rstrip("/")):
        found = service_of(request)
        if found is None and bundle() is None and request.method in ("GET", "HEAD"):
            return _page("no_viewer.html", status=404)
        return found
    if request.method not in ("GET", "HEAD"):
        return None
    if path == "/":
        return front(request)
    if path.startswith("/repo/"):
        selector = path[len("/repo/") :]
        return repository(request, selector) if selector and "/" not in selector else None
    if path == "/favicon.ico":
        return file_of(ASSETS, "icon.svg", "max-age=86400")
    if path.startswith("/pages/"):
        return file_of(ASSETS, path[len("/pages/") :], "max-age=3600")
    return None


def _page(name: str, *, status: int = 200, **context: Any) -> Response:
    text = _templates().get_template(name).render(context)
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(text, status, headers, "text/html; charset=utf-8")


def health(request: Request) -> dict[str, str]:
    """How the server does, in words."""
    from dvid_dask.api.server import go_duration

    server = request.server
    load = server.load.last_second()
    up = round(time.time() - server.started)
    said = {
        "up": go_duration(up),
        "store": re.sub(r"(://)[^/@]*@", r"\1", server.datastore.store.url),
        "requests": f"{load['gets']} reads, {load['puts']} writes in the last second; {server.in_flight} in flight",
        "load": " ".join(f"{n:.2f}" for n in os.getloadavg()) if hasattr(os, "getloadavg") else "",
        "mode": {"readonly": "read only", "fullwrite": "committed versions may be changed"}.get(server.config.mode, ""),
        "note": server.config.note,
    }
    return {name: value for name, value in said.items() if value}


class Entry(NamedTuple):
    """A repository on the first page."""

    root: str
    alias: str
    description: str
    versions: int
    branches: int
    instances: int
    updated: Any
    picture: str
    trouble: str


def front(request: Request) -> Response:
    """The repositories, the one changed last on top."""
    entries, hidden = [], False
    for repo in request.server.datastore.repos.values():
        visible = visible_of(request, repo)
        hidden = hidden or visible is not None
        if visible is None or repo.root in visible:
            entries.append(_entry(repo, visible))
    entries.sort(key=lambda entry: entry.updated, reverse=True)
    return _page("front.html", entries=entries, hidden=hidden, health=health(request), title="dvid-dask")


def _seen(repo: Repo, visible: frozenset[str] | None) -> RepoState:
    """The repository, as far as it may be shown."""
    return repo.state() if visible is None else repo.state().only(visible)


def _entry(repo: Repo, visible: frozenset[str] | None) -> Entry:
    state = _seen(repo, visible)
    newest = max(state.nodes.values(), key=lambda node: node.updated)
    picture = trouble = ""
    try:
        version = _head(repo, state)
        # a picture is worth a card: that of the first volume, images before labels
        for info in sorted(state.instances.values(), key=lambda i: (i.typename in LABEL_VOLUMES, i.name)):
            volume = volume_of(version, info)
            if volume is not None:
                picture = picture_of(volume, f"/api/node/{version.uuid}/{info.name}")
                break
    except (DvidError, StoreError, ValueError) as error:
        trouble = str(error)
    record = state.record
    return Entry(
        record.root,
        record.alias,
        record.description,
        len(state.nodes),
        len(state.branches),
        len(state.instances),
        max(newest.updated, record.updated),
        picture,
        trouble,
    )


def _head(repo: Repo, state: RepoState) -> Version:
    """The version that people look at first: the tip of master."""
    from dvid_dask.versions import Version

    tip = state.leaf("")
    return Version(repo, tip if tip is not None else max(state.nodes))


def repository(request: Request, selector: str) -> Response:
    """One repository, at the version that ``at`` selects."""
    datastore = request.server.datastore
    try:
        repo = datastore[selector].repo
        visible = visible_of(request, repo)
        state = _seen(repo, visible)
        if not state.nodes:
            raise UnknownVersion(_HIDDEN)
        wanted = parse_qs(request.scope["query_string"].decode("latin-1")).get("at", [""])[0]
        version = repo[wanted] if wanted else _head(repo, state)
        if version.id not in state.nodes:
            raise UnknownVersion(_HIDDEN)
    except DvidError as error:
        guarded = request.server.guard is not None
        return _page("missing.html", status=404, reason=_HIDDEN if guarded else str(error), title="not found")
    newest = sorted(state.nodes)[-MANY:]
    drawing = draw({vid: state.nodes[vid].parents for vid in newest})
    address = f"/api/node/{version.uuid}"
    cards = [card_of(version, info, address) for info in state.instances.values()]
    return _page(
        "repo.html",
        repo=state.record,
        version=version,
        rows=_rows(state.nodes, state.branches, state.leaf, drawing, version.id),
        drawing=drawing,
        hidden=len(state.nodes) - len(newest),
        cards=cards,
        viewer=viewer_link(state_of(sources(cards, _host(request), version.uuid))) if bundle() else "",
        shown=bool(sources(cards, "", version.uuid)),
        lines=version.log[-50:],
        address=address,
        colours=COLOURS,
        health=health(request),
        title=state.record.alias or state.record.root[:8],
    )


def _rows(
    nodes: Mapping[int, NodeRecord], branches: Mapping[str, int], leaf: Any, drawing: Drawing, here: int
) -> list[Row]:
    tips: dict[int, list[str]] = {}
    for key in branches:
        tip = leaf(key)
        if tip is not None:
            tips.setdefault(tip, []).append(branch_name(key))
    return [
        Row(nodes[vid], lane, *drawing.place(vid), sorted(tips.get(vid, [])), vid == here)
        for vid, lane in drawing.lanes.items()
    ]


def _host(request: Request) -> str:
    """Scheme and host by which the client reached us, also through a proxy that says so."""
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in request.scope["headers"]}

    def said(name: str, otherwise: str) -> str:
        return str(headers.get(name, otherwise)).split(",")[0].strip()

    scheme = said("x-forwarded-proto", str(request.scope.get("scheme", "http")))
    host = said("x-forwarded-host", headers.get("host", ""))
    if scheme not in ("http", "https") or not re.fullmatch(r"[\w.:\[\]-]+", host):
        scheme, host = "http", "127.0.0.1"
    return f"{scheme}://{host}"
