"""The body of a request, as handlers read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import numpy as np

from dvid_dask.errors import BadRequest

from .failures import BrokenBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope

    from .state import ByteBudget, ServerState
    from .wire import Wire

__all__ = ["PREFETCH", "Body"]

# Bodies up to this size are taken from the socket before a thread is: a slow client then occupies nothing.
PREFETCH = 1 << 20
# Of a body that is read in small pieces straight from the socket, so much is taken at a time if it is there.
_AHEAD = 1 << 18


class Body:
    """The body of a request, read in a worker thread while it comes in over the socket.

    A long one is read from the socket by that thread itself, where the server lets it; see :mod:`dvid_dask.api.wire`.

    Attributes
    ----------
    length : int or None
        What the client announced; ``None`` = chunked, length unknown.
    """

    def __init__(
        self,
        receive: Receive,
        length: int | None,
        *,
        budget: ByteBudget | None = None,
        limit: int = 1 << 30,
        timeout: float = 120.0,
        wire: Wire | None = None,
    ) -> None:
        self.length = length
        self.limit = limit
        self._wire = wire
        self._receive = receive
        self._timeout = timeout
        self._budget = budget
        self._reserved = 0
        self._pending = bytearray()
        self._ended = length == 0
        self._taken = 0

    @classmethod
    def of(cls, scope: Scope, receive: Receive, server: ServerState) -> Body:
        """The body that a request announces in its headers."""
        length: int | None = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                # the HTTP parser has refused what is no number
                length = int(value)
                break
            if name == b"transfer-encoding":
                length = None
        config = server.config
        wire: Wire | None = scope.get("dvid.wire")
        return cls(receive, length, budget=server.bodies, limit=config.max_body, timeout=config.body_timeout, wire=wire)

    @property
    def small(self) -> bool:
        """Whether all of it is in memory already."""
        return self._ended

    async def prefetch(self) -> None:
        """Take a small body whole, on the event loop; leave a big one in the socket."""
        if not self._ended and self.length is not None and self.length <= PREFETCH:
            self._reserve(self.length)
            await self._take(self.length)

    async def _take(self, want: int) -> None:
        """Receive until ``want`` bytes are pending or the body has ended."""
        while not self._ended and len(self._pending) < want:
            self._pending += await self._next()
        self._check_end(len(self._pending))

    async def _fill(self, room: memoryview) -> int:
        """Receive into ``room`` until it is full or the body has ended; returns how many bytes."""
        at = min(len(self._pending), len(room))
        room[:at] = self._pending[:at]
        del self._pending[:at]
        while not self._ended and at < len(room):
            part = await self._next()
            fits = min(len(part), len(room) - at)
            room[at : at + fits] = part[:fits]
            self._pending += part[fits:]
            at += fits
        self._check_end(at + len(self._pending))
        return at

    async def _next(self) -> bytes:
        message = None
        with anyio.move_on_after(self._timeout):
            message = await self._receive()
        if message is None:
            raise BrokenBody(f"no more of the body came within {self._timeout:g} seconds")
        if message["type"] == "http.disconnect":
            raise BrokenBody("the client left before the end of the body")
        self._ended = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    def _check_end(self, more: int) -> None:
        if self._ended and self.length is not None and self._taken + more < self.length:
            raise BrokenBody(f"the body ends after {self._taken + more} of {self.length} bytes")

    def _straight(self) -> Wire | None:
        """Runs in a worker thread: the socket, if the rest is read from there."""
        wire = self._wire
        if wire is not None and not wire.taken:
            came = anyio.from_thread.run_sync(wire.take, self._taken + len(self._pending), self._timeout)
            if came is None:
                self._wire = wire = None
            else:
                self._pending += came
        return wire

    def _more(self, room: memoryview, least: int) -> int:
        """Receive at least so many bytes straight from the socket, up to what fits and is left."""
        wire = self._wire
        if wire is None or not least:
            return 0
        got = wire.readinto(room, min(least, wire.left))
        if not wire.left:
            self._ended = True
            wire.close()
        return got

    def read(self, n: int = -1) -> bytes:
        """The next ``n`` bytes, fewer only at the end; ``-1`` = all that is left, within the server's limit.

        Raises
        ------
        BrokenBody
            The client left or fell silent before the end.
        BadRequest
            With ``n = -1``: more than the server takes into memory at once.
        TooBusy
            With ``n = -1``: other requests fill the memory set aside for bodies.
        """
        if n < 0:
            return self.all()
        if not self._ended and len(self._pending) < n:
            wire = self._straight()
            if wire is None:
                anyio.from_thread.run(self._take, n)
            elif n > _AHEAD:
                room = np.empty(min(n, wire.left + len(self._pending)), np.uint8).data
                return bytes(room[: self.readinto(room)])
            elif len(self._pending) < n:
                room = np.empty(min(_AHEAD, wire.left), np.uint8).data
                self._pending += room[: self._more(room, n - len(self._pending))]
        out = bytes(memoryview(self._pending)[:n]) if n < len(self._pending) else bytes(self._pending)
        del self._pending[: len(out)]
        self._taken += len(out)
        return out

    def readinto(self, room: memoryview) -> int:
        """Fill a buffer with the next bytes, each copied once; returns how many, fewer than fit only at the end.

        Raises
        ------
        BrokenBody
            The client left or fell silent before the end.
        """
        if self._ended or len(self._pending) >= len(room):
            n = min(len(self._pending), len(room))
            room[:n] = self._pending[:n]
            del self._pending[:n]
        elif self._straight() is None:
            n = anyio.from_thread.run(self._fill, room)
        else:
            n = min(len(self._pending), len(room))
            room[:n] = self._pending[:n]
            del self._pending[:n]
            n += self._more(room[n:], len(room) - n)
        self._taken += n
        return n

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """The rest in pieces of ``size`` bytes."""
        while chunk := self.read(size):
            yield chunk

    def check_length(self) -> None:
        """Refuse a body that is longer than the server's ``max_body``, as far as that is known by now.

        Raises
        ------
        BadRequest
            It is longer.
        """
        if max(self.length or 0, self._taken) > self.limit:
            raise BadRequest(f"the body is longer than the {self.limit} bytes that are taken here")

    def all(self, limit: int | None = None) -> bytes:
        """The rest as one bytes object, of at most ``limit`` bytes (default: the server's ``max_body``).

        The memory counts against the server's budget for bodies until the request ends.

        Raises
        ------
        BadRequest
            It is longer than the limit.
        BrokenBody
            The client left or fell silent before the end.
        TooBusy
            Other requests fill the memory set aside for bodies.
        """
        limit = self.limit if limit is None else min(limit, self.limit)
        if self.length is not None and self.length - self._taken > limit:
            raise BadRequest(f"the body of {self.length} bytes is longer than the {limit} that are taken here")
        if self._ended:
            out = bytes(self._pending)
            if len(out) > limit:
                raise BadRequest(f"the body of {len(out)} bytes is longer than the {limit} that are taken here")
            self._pending.clear()
            self._taken += len(out)
            return out
        parts, size = [], 0
        if self.length is not None:
            self._reserve(self.length - self._taken)
        for part in self.chunks():
            size += len(part)
            if size > limit:
                raise BadRequest(f"the body is longer than the {limit} bytes that are taken here")
            if self.length is None:
                self._reserve(len(part))
            parts.append(part)
        return b"".join(parts)

    def exactly(self, count: int) -> memoryview:
        """The rest, which must be just so many bytes, in one buffer and never in memory twice.

        Raises
        ------
        BadRequest
            It is shorter or longer; where the client announced the length, nothing of it was read then. Or it is longer
            than the server's ``max_body``.
        BrokenBody
            The client left or fell silent before the end.
        TooBusy
            Other requests fill the memory set aside for bodies.
        """
        (whole,) = self.parts(count, max(count, 1)) if count else (memoryview(b""),)
        return whole

    def parts(self, count: int, size: int) -> Iterator[memoryview]:
        """As :meth:`exactly`, in buffers of ``size`` bytes, the last one shorter. The length is checked at once."""
        if self.length is not None and self.length - self._taken != count:
            raise BadRequest(f"the body has {self.length - self._taken} bytes, but {count} are expected")
        if count > self.limit:
            raise BadRequest(f"the body of {count} bytes is longer than the {self.limit} that are taken here")
        if not self._ended:
            self._reserve(count)
        return self._parts(count, size)

    def _parts(self, count: int, size: int) -> Iterator[memoryview]:
        for begin in range(0, count, size):
            out = np.empty(min(size, count - begin), np.uint8).data
            got = self.readinto(out)
            if got < len(out):
                raise BadRequest(f"the body ends after {begin + got} bytes, but {count} are expected")
            if begin + size >= count and self.read(1):
                raise BadRequest(f"the body goes on after the {count} bytes that are expected")
            yield out

    def _reserve(self, count: int) -> None:
        if self._budget is not None:
            self._budget.take(count)
            self._reserved += count

    def close(self) -> None:
        """Give memory back, and the socket to the server."""
        if self._wire is not None:
            self._wire.close()
        if self._budget is not None and self._reserved:
            self._budget.give_back(self._reserved)
            self._reserved = 0
