"""From errors to answers: the one place where an exception becomes a status and a text.

DVID's error answer is plain text, ``<message> (<path>).`` and a newline, which no browser may take for anything else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

from dvid_dask import store
from dvid_dask.errors import BadRequest, DvidError, Forbidden, UnknownInstance
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = [
    "AuthServiceFailed",
    "BrokenBody",
    "NotPermitted",
    "Unauthenticated",
    "Unrouted",
    "error_response",
    "plain_error",
    "status_of",
]

log = logging.getLogger(__name__)

NOSNIFF = {"X-Content-Type-Options": "nosniff"}

# Statuses of errors that know nothing of HTTP, most particular first. What is in none of them is a defect of ours: 500.
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (FormatError, 400),
    (store.StoreFull, 507),
    (store.Conflict, 503),
    (store.Sealed, 400),
    (store.ReadOnly, 400),
)

# Words of DVID's by which clients tell one 400 from another: neuclease makes an instance where it reads these.
_WORDS: tuple[tuple[type[Exception], str], ...] = ((UnknownInstance, "invalid data instance name"),)


class Unrouted(Exception):  # noqa: N818  an event of routing, like StopIteration
    """No route takes this path with this method: 404, or for OPTIONS the methods that it takes."""


class BrokenBody(BadRequest):
    """The client left, or fell silent, before the end of its body."""


class Unauthenticated(DvidError, PermissionError):  # noqa: N818  named as the field does
    """Nobody knows who asks: a token is missing, or is no longer valid."""

    status = 401


class NotPermitted(Forbidden):
    """It is known who asks, and that one may not do this."""

    status = 403


class AuthServiceFailed(DvidError, RuntimeError):  # noqa: N818
    """The service that knows the users can't be reached, or answers what makes no sense."""

    status = 502


def status_of(error: Exception) -> int | None:
    """The HTTP status of an error; ``None`` for one that nobody raised on purpose."""
    if isinstance(error, DvidError):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), None)


def plain_error(message: str, status: int, scope: Scope) -> Response:
    """An error answer in DVID's form."""
    message = message.rstrip().rstrip(".") or "error"
    return Response(f"{message} ({scope['path']}).\n", status, NOSNIFF, "text/plain; charset=utf-8")


def error_response(error: Exception, scope: Scope) -> Response:
    """The answer to a request that failed with this error.

    An error that nobody raised on purpose is logged in full; the client gets its request id to quote, not its insides.
    """
    status = status_of(error)
    if status is not None:
        words = next((f"{words}: " for kind, words in _WORDS if isinstance(error, kind)), "")
        response = plain_error(f"{words}{error}", status, scope)
        if status == 503:
            response.headers["Retry-After"] = "1"
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, BrokenBody):
            # what still comes over this connection is the rest of that body
            response.headers["Connection"] = "close"
        return response
    if isinstance(error, Unrouted) or (isinstance(error, HTTPException) and error.status_code in (404, 405)):
        # DVID has no 405
        return Response("404 page not found\n", 404, NOSNIFF, "text/plain; charset=utf-8")
    if isinstance(error, HTTPException):
        return plain_error(str(error.detail), error.status_code, scope)
    request_id = scope.get("dvid.id", "?")
    log.error("request %s %s %s failed", request_id, scope["method"], scope["path"], exc_info=error)
    return plain_error(f"internal error, logged under request id {request_id}", 500, scope)
