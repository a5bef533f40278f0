"""What happens around every request, as plain ASGI layers, outermost first.

=====================  ========================================================================================
:class:`Door`          request id, counters, latency of pings, the log line, the record of activity; 503 while shutting
                       down
:class:`Cors`          who may read the answer from a browser, also where it is an error
:class:`Failures`      any exception becomes an answer, or breaks the connection off where the answer has begun
:class:`CleanPath`     ``//``, ``/./`` and ``/../`` are answered 301; broken percent-encoding 400
:class:`Blocked`       429 for those on the block list
=====================  ========================================================================================
"""

from __future__ import annotations

import logging
import posixpath
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response

from dvid_dask.errors import BadRequest

from .face import first_values
from .failures import error_response, plain_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .origins import Origins
    from .state import ServerState

__all__ = ["Blocked", "CleanPath", "Cors", "Door", "Failures", "client_address", "is_plain_path"]

log = logging.getLogger(__name__)
access = logging.getLogger("dvid_dask.access")

SILENT = frozenset({"/api/heartbeat", "/api/load", "/api/user-latencies"})
ACTIVITY = ("/api/server/", "/api/repo/", "/api/node/")


class Door:
    """Request id, counters, log line, and the closed door at shutdown."""

    def __init__(self, app: ASGIApp, server: ServerState) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        server = self.server
        scope["dvid.id"] = server.next_id()
        begun = time.perf_counter()
        status = length_out = 0
        length_in = next((int(v) for k, v in scope["headers"] if k == b"content-length"), 0)
        server.load.request(scope["method"], length_in)

        async def counted(message: Message) -> None:
            nonlocal status, length_out
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                count = len(message.get("body", b""))
                length_out += count
                server.load.sent(count)
            await send(message)

        silent = scope["path"] in SILENT
        if not server.available and not silent:
            response = plain_error("the server is shutting down", 503, scope)
            response.headers["Connection"] = "close"
            await response(scope, receive, counted)
            return
        server.in_flight += 1
        try:
            await self.app(scope, receive, counted)
        finally:
            server.in_flight -= 1
            milliseconds = (time.perf_counter() - begun) * 1000
            if silent and b"u=" in scope["query_string"]:
                user = first_values(scope["query_string"]).get("u")
                if user:
                    server.latencies.ping(user, round(milliseconds))
            if server.record_activity is not None and scope["path"].startswith(ACTIVITY):
                server.record_activity(_activity(scope, status, milliseconds, length_in, length_out))
            if server.config.access_log and not silent:
                access.info(
                    "%s %s %s %d %.1f ms", scope["dvid.id"], scope["method"], scope["path"], status, milliseconds
                )


def _activity(scope: Scope, status: int, milliseconds: float, length_in: int, length_out: int) -> dict[str, object]:
    """What DVID's activity topic gets of a request."""
    query = first_values(scope["query_string"])
    uri = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    if scope["query_string"]:
        uri += "?" + _TOKEN.sub(r"\1...", scope["query_string"].decode("latin-1"))
    return {
        "time": int(time.time()),
        "duration": round(milliseconds, 3),
        "status": status,
        "user": query.get("u", "") or scope.get("dvid.user", ""),
        "client": query.get("app", ""),
        "method": scope["method"],
        "uri": uri,
        "bytes_in": length_in,
        "bytes_out": length_out,
        "remote_addr": client_address(scope),
    }


# who reads the topic must not become an administrator by it
_TOKEN = re.compile(r"(\badmintoken=)[^&;]*", re.IGNORECASE)


class Cors:
    """Cross-origin access, by the configured domains.

    Without users, ``*`` lets any origin read every answer. A preflight is answered here, whatever the path: the browser
    asks whether it may ask, and neither a committed version nor a missing token has a say in that.
    """

    METHODS = "GET, POST, DELETE, HEAD"

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self.app = app
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        if scope["method"] == "OPTIONS" and origin and "access-control-request-method" in headers:
            await self.preflight(headers, origin)(scope, receive, send)
            return
        extra: list[tuple[bytes, bytes]] = []
        if self.origins.any:
            extra.append((b"access-control-allow-origin", b"*"))
        else:
            extra.append((b"vary", b"Origin"))
            if origin and self.origins.allows(origin):
                extra.append((b"access-control-allow-origin", origin.encode("latin-1")))
                if self.origins.with_users:
                    extra.append((b"access-control-allow-credentials", b"true"))

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        await self.app(scope, receive, marked)

    def preflight(self, headers: Headers, origin: str) -> Response:
        """The answer to a browser's question: 204, with permission or without."""
        response = Response(status_code=204)
        origins = self.origins
        if not origins.any:
            response.headers["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        wanted = headers["access-control-request-method"].upper()
        if wanted in self.METHODS.split(", ") and origins.allows(origin):
            response.headers["Access-Control-Allow-Origin"] = "*" if origins.any else origin
            response.headers["Access-Control-Allow-Methods"] = self.METHODS if origins.any else wanted
            if "access-control-request-headers" in headers:
                response.headers["Access-Control-Allow-Headers"] = headers["access-control-request-headers"]
            if origins.with_users:
                response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers["Access-Control-Max-Age"] = "600"
        return response


class Failures:
    """No exception leaves the application: each becomes an answer, or ends the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http":
                raise
            if begun:
                # An error text behind half an answer would be taken for data. The server closes the connection of an
                # answer that was not completed, so the client notices.
                log.error("request %s %s broke off", scope.get("dvid.id"), scope["path"], exc_info=error)
                return
            await error_response(error, scope)(scope, receive, send)


_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNCLEAN = re.compile(rb"//|/\.\.?(?:/|$)")


class CleanPath:
    """Paths that name the same thing in a roundabout way are sent to the straight one; broken ones are refused."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw: bytes = scope.get("raw_path") or scope["path"].encode()
            if b"%" in raw:
                if _BAD_PERCENT.search(raw):
                    raise BadRequest("the path has a % without two hex digits behind it")
                if "\ufffd" in scope["path"]:
                    _check_utf8(raw)
                if "\0" in scope["path"]:
                    raise BadRequest("the path holds a NUL byte")
            if _UNCLEAN.search(raw):
                location = clean(raw.decode("latin-1"))
                if scope["query_string"]:
                    location += "?" + scope["query_string"].decode("latin-1")
                await RedirectResponse(location, 301)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_plain_path(raw: bytes) -> bool:
    """Whether a path, as it was sent, is neither escaped nor roundabout.

    Examples
    --------
    >>> is_plain_path(b"/api/repos"), is_plain_path(b"/api//repos"), is_plain_path(b"/api/%20")
    (True, False, False)
    """
    return b"%" not in raw and not _UNCLEAN.search(raw)


def clean(path: str) -> str:
    """A path without empty, ``.`` and ``..`` parts; a slash at its end stays.

    Examples
    --------
    >>> clean("//api//repos/./info/"), clean("/api/x/../repos"), clean("/../..")
    ('/api/repos/info/', '/api/repos', '/')
    """
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned + "/" if cleaned != "/" and path.endswith(("/", "/.", "/..")) else cleaned


def _check_utf8(raw: bytes) -> None:
    try:
        unquote(raw.decode("latin-1"), encoding="utf-8", errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8 after percent-decoding") from None


class Blocked:
    """429 for users and addresses on the block list; pings are always answered."""

    def __init__(self, app: ASGIApp, server: ServerState) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rules = self.server.block_list
        if rules and scope["type"] == "http" and scope["path"] not in SILENT:
            user = first_values(scope["query_string"]).get("u", "")
            reason = rules.match(user, client_address(scope))
            if reason:
                await plain_error(reason, 429, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


_FORWARDED_FOR = re.compile(r'(?:^|[;,\s])for="?(\[[^\]]+\]|[^";,\s]+)', re.IGNORECASE)


def client_address(scope: Scope) -> str:
    """Where a request came from: ``Forwarded``, else the first of ``X-Forwarded-For``, else the peer.

    Examples
    --------
    >>> client_address({"type": "http", "headers": [(b"forwarded", b"proto=https;for=10.1.2.3:99")], "client": None})
    '10.1.2.3'
    """
    headers = Headers(scope=scope)
    forwarded = _FORWARDED_FOR.search(headers.get("forwarded", ""))
    if forwarded:
        address = forwarded[1]
    elif address := headers.get("x-forwarded-for", "").partition(",")[0].strip():
        pass
    else:
        return scope["client"][0] if scope.get("client") else ""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.rpartition(":")[0] if address.count(":") == 1 else address
