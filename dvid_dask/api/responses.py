"""What handlers return.

All are Starlette responses. Handlers are synchronous and run in a worker thread; a streamed body is a plain generator,
pulled in worker threads as the client takes it: nobody's slow connection holds a thread, and a body of any size passes
in pieces.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from starlette.types import Receive, Scope, Send

__all__ = [
    "Response",
    "Stream",
    "empty",
    "encode_json",
    "escaped",
    "image",
    "json",
    "not_found",
    "octets",
    "stream",
    "text",
]

# A piece sent to the socket at once: big enough that hopping to a thread for it costs nothing beside it.
PIECE = 256 * 1024


def encode_json(obj: Any) -> bytes:
    r"""JSON without blanks; ``<``, ``>`` and ``&`` escaped, so that no browser takes it for markup.

    Examples
    --------
    >>> encode_json({"a": [1, "<b>"]})
    b'{"a":[1,"\\u003cb\\u003e"]}'
    """
    return escaped(msgspec.json.encode(obj))


def escaped(out: bytes) -> bytes:
    """JSON with ``<``, ``>`` and ``&`` escaped."""
    # those three occur nowhere in JSON but inside strings
    if b"<" in out or b">" in out or b"&" in out:
        out = out.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return out


def json(obj: Any, *, status: int = 200, media_type: str = "application/json") -> Response:
    """An object as JSON."""
    return Response(encode_json(obj), status, media_type=media_type)


def text(body: str, *, status: int = 200, media_type: str = "text/plain") -> Response:
    """Text as it is (no newline added)."""
    return Response(body, status, media_type=media_type)


def octets(
    body: bytes | memoryview,
    media_type: str = "application/octet-stream",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Bytes that are in memory anyway."""
    return Response(body, status, headers, media_type)


def image(body: bytes, media_type: str) -> Response:
    """An encoded image."""
    return Response(body, media_type=media_type)


def empty(status: int = 200) -> Response:
    """Done, nothing to say: no body, no type."""
    return Response(b"", status)


def not_found() -> Response:
    """404 without a body (what some endpoints answer for "there is none")."""
    return Response(b"", 404)


def stream(
    chunks: Iterable[bytes | memoryview],
    media_type: str = "application/octet-stream",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """A body in pieces, from an iterable (usually a generator) that runs in worker threads.

    What it raises before its first piece becomes an ordinary error answer. What it raises later breaks the connection
    off, so that no client takes half a body for a whole one. Its ``close`` is called when the client goes away.
    """
    return Stream(chunks, media_type, status=status, headers=headers)


_END = b""


class Stream(Response):
    """A response whose body is pulled from a synchronous iterable.

    The server (:mod:`dvid_dask.api.app`) calls :meth:`start` in a worker thread, then the response itself on the event
    loop, then :meth:`close` in a worker thread, whatever happened between. ``at_end`` is called once the last chunk is
    made.
    """

    def __init__(
        self,
        chunks: Iterable[bytes | memoryview],
        media_type: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(b"", status, headers, media_type)
        if not any(name.lower() == "content-length" for name in headers or ()):
            # the length is unknown, not 0
            self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]
        self.chunks: Iterator[bytes | memoryview] = iter(chunks)
        self.first: bytes | memoryview = b""
        self.at_end: Callable[[], None] | None = None

    def start(self) -> None:
        """Pull the first piece, so that an error there still gets a status."""
        self.first = self.pull()

    def pull(self) -> bytes | memoryview:
        """The next piece of about ``PIECE`` bytes; empty at the end. Waits for more than one chunk at most 50 ms."""
        parts: list[bytes | memoryview] = []
        size, deadline = 0, time.monotonic() + 0.05
        for chunk in self.chunks:
            if not chunk:
                continue
            parts.append(chunk)
            size += len(chunk)
            if size >= PIECE or time.monotonic() > deadline:
                break
        else:
            if self.at_end is not None:
                self.at_end()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let the generator run its ``finally`` blocks."""
        end: Callable[[], None] | None = getattr(self.chunks, "close", None)
        if end is not None:
            end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        limiter: anyio.CapacityLimiter | None = scope.get("dvid.streams")
        failure: Exception | None = None

        async def feed() -> None:
            nonlocal failure
            try:
                piece, self.first = self.first, b""
                while piece:
                    # a transport copies what the socket doesn't take at once, so it never gets much
                    for at in range(0, len(piece), PIECE):
                        part = memoryview(piece)[at : at + PIECE] if len(piece) > PIECE else piece
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    piece = await anyio.to_thread.run_sync(self.pull, limiter=limiter)
                await send({"type": "http.response.body", "body": b""})
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed)
            # the server drops in silence what is sent to a client that left; only receive tells
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
