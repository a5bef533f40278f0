"""Requests at the server itself: is it alive, what is it, what does it know; its settings; its help pages."""

from __future__ import annotations

import html
import logging
import os
import platform
import re
import resource
import socket
import threading
import time
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import tensorstore as ts

from dvid_dask import datatypes

from .common import help_text
from .face import Request
from .faces import all_faces, face_of
from .geometry import parse_int
from .kafka import activity_topic
from .nodes import LIMIT, convert, fold
from .repos import need_admin
from .responses import json, text
from .routes import Routes
from .state import BlockList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

__all__ = ["DVID_VERSION", "routes", "silent"]

log = logging.getLogger(__name__)

silent = Routes()
routes = Routes()


def _package_version() -> str:
    try:
        return version("dvid-dask")
    except PackageNotFoundError:
        return "0"


def _describe(own: str) -> str:
    """The DVID release that this server can stand in for, as `git describe` writes it: clients read the first numbers.

    Three parts, the last in hex digits, as a strict reader expects; they hold our own version.

    Examples
    --------
    >>> _describe("0.12.3")
    'v1.0.0-0-g0001203'
    """
    numbers = [int(n) % 100 for n in re.findall(r"\d+", own)[:3]]
    return "v1.0.0-0-g0" + "".join(f"{n:02d}" for n in [*numbers, 0, 0, 0][:3])


DVID_VERSION = _describe(_package_version())
# the format of DVID's own metadata that its clients know
DATASTORE_VERSION = "0.11.0"


@silent.get("/api/heartbeat")
def get_heartbeat(request: Request) -> Response:
    """``OK``, also while the server is shutting down. ``?u=<user>`` records how long the answer took."""
    return text("OK")


@silent.get("/api/load")
def get_load(request: Request) -> Response:
    """What the server did in the last second, as JSON; ``?u=`` as for heartbeat.

    Value bytes are those of bodies, file bytes those of the local disk. What has no counterpart here is 0.
    """
    load = request.server.load.last_second()
    config = request.server.config
    return json(
        {
            "file bytes read": _metric("/tensorstore/kvstore/file/bytes_read"),
            "file bytes written": _metric("/tensorstore/kvstore/file/bytes_written"),
            "key bytes read": 0,
            "key bytes written": 0,
            "value bytes read": load["bytes out"],
            "value bytes written": load["bytes in"],
            "GET requests": load["gets"],
            "PUT requests": load["puts"],
            "handlers active": min(100, 100 * request.server.in_flight // max(1, config.workers)),
            "goroutines": threading.active_count(),
            "active CGo writes": 0,
            "pending log messages": 0,
        }
    )


class _Metrics:
    """Rates of tensorstore's own counters: difference to the last look, by the seconds between."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def rate(self, name: str) -> int:
        found = ts.experimental_collect_matching_metrics(name)
        value = int(sum(v.get("value", 0) for metric in found for v in metric.get("values", ())))
        now = time.monotonic()
        with self._lock:
            then, before = self._seen.get(name, (now - 1.0, value))
            self._seen[name] = (now, value)
        return round((value - before) / max(now - then, 1.0))


_metric = _Metrics().rate


@silent.get("/api/user-latencies")
def get_user_latencies(request: Request) -> Response:
    """When each user last pinged and how long it took, in ms, keyed by user; ``?u=<user>``: that one's record."""
    if request.user:
        return json(request.server.latencies.of(request.user))
    return json(request.server.latencies.all())


@routes.get("/interface")
def get_interface(request: Request) -> Response:
    """A RAML stub that points to the help page."""
    raml = "#%RAML 0.8\n---\ntitle: DVID API\nversion: v1\nmediaType: application/json\n/api/help:\n  get:\n"
    return text(raml, media_type="application/raml+yaml")


@routes.get("/interface/version")
def get_interface_version(request: Request) -> Response:
    """The version of the REST interface."""
    return text("v1\n")


@routes.get("/api/server/info")
def get_info(request: Request) -> Response:
    """Versions, host, store, uptime and mode of the server, as a JSON object of strings."""
    server = request.server
    config = server.config
    host = config.host or socket.gethostname()
    port = server.listening.rpartition(":")[2]
    info = {
        "Cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "Maximum Cores": str(os.cpu_count()),
        "Datastore Version": DATASTORE_VERSION,
        "DVID Version": DVID_VERSION,
        "Storage backend": f"ocdbt @ {server.datastore.store.url}",
        "Server time": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S.%f %z %Z"),
        "Server uptime": go_duration(time.time() - server.started),
        "RPC Address": "",
        "Host": f"{host}:{port}" if port else host,
        "Note": config.note,
        "TOML location": config.path,
        "Max Open Files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "Server": f"dvid-dask {_package_version()}, Python {platform.python_version()}",
    }
    if config.kafka.servers:
        info["Kafka Servers"] = config.kafka.addresses
        info["Kafka Activity Topic"] = activity_topic(config)
        info["Kafka Topic Prefix"] = config.kafka.topic_prefix
    if config.mode:
        info["Mode"] = "read only" if config.mode == "readonly" else "allow writes on committed nodes"
    return json(info)


def go_duration(seconds: float) -> str:
    """A duration as Go writes it.

    Examples
    --------
    >>> go_duration(3725.5), go_duration(0.25)
    ('1h2m5.5s', '0.25s')
    """
    whole = timedelta(seconds=seconds)
    hours, rest = divmod(whole.total_seconds(), 3600)
    minutes, rest = divmod(rest, 60)
    out = f"{int(hours)}h" if hours else ""
    out += f"{int(minutes)}m" if hours or minutes else ""
    return f"{out}{round(rest, 6):g}s"


@routes.get("/api/server/note")
def get_note(request: Request) -> Response:
    """The note from the configuration."""
    return text(request.server.config.note)


@routes.get("/api/server/types")
def get_types(request: Request) -> Response:
    """The datatypes of all data instances here, as JSON ``{name: URL}``."""
    names = {info.typename for repo in request.server.datastore.repos.values() for info in repo.instances.values()}
    return json({name: datatypes.lookup(name).typeurl for name in sorted(names)})


@routes.get("/api/server/compiled-types")
def get_compiled_types(request: Request) -> Response:
    """All datatypes that this server knows, as JSON ``{name: URL}``."""
    return json({name: datatypes.lookup(name).typeurl for name in datatypes.typenames()})


@routes.get("/api/server/groupcache")
def get_groupcache(request: Request) -> Response:
    """Statistics of DVID's group cache. There is none here: zeros, as in a DVID that was started without one."""
    names = ("Gets", "CacheHits", "PeerLoads", "PeerErrors", "Loads", "LoadsDeduped", "LocalLoads", "LocalLoadErrs")
    cache = dict.fromkeys(("Bytes", "Items", "Gets", "Hits", "Evictions"), 0)
    return json({**dict.fromkeys((*names, "ServerRequests"), 0), "MainCache": cache, "HotCache": cache})


@routes.get("/api/server/token")
def get_token(request: Request) -> Response:
    """A JSON Web Token for whoever is logged in at the proxy (``auth.proxy_address``), as text.

    The proxy is asked by the request's cookies; its certificate must be trusted. The token is good for 30 days. 400
    where no proxy or no secret is configured, where the DatasetGateway's tokens are used, or where the proxy doesn't
    know who asks.
    """
    from .auth.issuing import token_for

    response = text(token_for(request))
    response.headers["Cache-Control"] = "no-store"
    return response


@routes.get("/api/server/config")
def get_config(request: Request) -> Response:
    """The text of the TOML file; needs the admin token."""
    need_admin(request)
    return text(request.server.config.text)


@routes.get("/api/storage")
def get_storage(request: Request) -> Response:
    """Write a summary of the store to the server's log, in the background; needs the admin token."""
    need_admin(request)
    datastore = request.server.datastore

    def summarise() -> None:
        for root, repo in datastore.repos.items():
            for info in repo.instances.values():
                log.info("repo %s: instance %s [%s], id %d", root, info.name, info.typename, info.id)
            log.info("repo %s: %d versions, %d instances", root, len(repo.versions), len(repo.instances))

    threading.Thread(target=summarise, name="storage-summary", daemon=True).start()
    return text("The summary goes to the server's log.\n", media_type="text/plain; charset=utf-8")


@routes.post("/api/server/settings")
def post_settings(request: Request) -> Response:
    """Change ``throttle``, the number of slots for heavy work; needs the admin token.

    JSON; the value is a string that holds an integer. ``gc`` (Go's garbage collector) is checked and has no effect.
    """
    need_admin(request)
    given: dict[str, Any] = fold(request.body.all(LIMIT), dict[str, Any])
    values: dict[str, str] = convert({k: v for k, v in given.items() if k in ("gc", "throttle")}, dict[str, str])
    numbers = {name: parse_int(value, f"setting {name}") for name, value in values.items()}
    said = []
    if "gc" in numbers:
        said.append("gc has no effect here\n")
    if "throttle" in numbers:
        throttle = request.server.throttle
        said.append(f"throttle was {throttle.limit}, is {numbers['throttle']}\n")
        throttle.limit = numbers["throttle"]
    return text("".join(said))


@routes.post("/api/server/reload-auth")
def post_reload_auth(request: Request) -> Response:
    """Read the authorization file again, and forget what the DatasetGateway said of users; needs the admin token.

    It holds for all processes that serve. A bad file is refused (400), and the old rules stay. The public versions
    stay what they were at the start.
    """
    need_admin(request)
    guard = request.server.guard
    return text(guard.reload() if guard is not None else "no authentication is configured\n")


@routes.post("/api/server/reload-blocklist")
def post_reload_blocklist(request: Request) -> Response:
    """Read the block list again; needs the admin token. A bad file is refused (400), and the old rules stay."""
    need_admin(request)
    path = request.server.config.block_list_file
    request.server.block_list = BlockList.load(path)
    return text(f"block list read again from {path}\n" if path else "no block list is configured\n")


@routes.get("/api/help/{typename}")
def get_help_type(request: Request) -> Response:
    """The reference of one datatype, as text."""
    typename = request.params["typename"]
    return text(help_text(face_of(typename), typename) + "\n")


@routes.get("/api/help")
@routes.get("/api/help/")
def get_help(request: Request) -> Response:
    """The reference of all endpoints, as a page."""
    return text("".join(_help_page()), media_type="text/html")


def _help_page() -> Iterator[str]:
    from . import nodes, repos

    yield "<!DOCTYPE html><html><head><meta charset='utf-8'><title>DVID API</title>"
    yield "<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    yield "code{background:#f2f2f2;padding:1px 4px}dd{margin:0 0 .6em 2em;white-space:pre-line}</style></head><body>"
    yield f"<h1>REST API</h1><p>dvid-dask {html.escape(_package_version())}. {html.escape(_SELECTORS)}</p>"
    sections = (
        ("Server", (silent, routes)),
        ("Repositories", (repos.top, repos.routes)),
        ("Versions", (nodes.routes,)),
    )
    for title, tables in sections:
        yield f"<h2>{title}</h2><dl>"
        for table in tables:
            for route in table.routes:
                yield f"<dt><code>{route.method} {html.escape(route.path)}</code></dt>"
                yield f"<dd>{html.escape(_plain(route.handler.__doc__))}</dd>"
        yield "</dl>"
    yield "<h2>Data instances</h2><ul>"
    for name, face in sorted(all_faces().items()):
        about = _plain(face.about).partition("\n")[0]
        yield f"<li><a href='/api/help/{name}'>{name}</a> {html.escape(about)}</li>"
    yield "</ul></body></html>"


_SELECTORS = (
    "A version is named by its UUID or the beginning of it, by <uuid>:<branch> for the newest version of a branch of "
    "that repository, or by <uuid>:<branch>~N for the N-th before it."
)


def _plain(doc: str | None) -> str:
    from .common import _paragraph

    return "\n".join(_paragraph(doc or "")).strip()
