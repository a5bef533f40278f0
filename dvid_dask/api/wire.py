"""A long body straight from the socket, past the event loop and the HTTP parser.

On the ordinary way each byte is copied five times between the kernel and an array of voxels (the loop's buffer, the
parser's piece, the server's queue, its message, the body), all of it in one thread. The thread that wants the body can
as well read it from the socket to where it belongs: the length is known, and nothing in it is the parser's business.

So such a thread takes the connection over: the loop stops to read it, what came already is handed out, and the rest is
read through a duplicate of the socket's descriptor, which nobody can close under the reader. At the end, or where the
handler gives up, the loop goes on with what comes behind the body. What isn't read yet is not in our memory: the kernel
tells the client to wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Any, Protocol

from .failures import BrokenBody

if TYPE_CHECKING:
    import asyncio

__all__ = ["Wire", "can_read"]

#: Seconds between looks at whether the server has closed the connection.
_LOOK = 0.5


class Connection(Protocol):
    """The server's side of a connection; see :mod:`dvid_dask.api.protocol`. For calls on the event loop."""

    loop: asyncio.AbstractEventLoop
    transport: Any

    def hand_over(self, wire: Wire) -> bytes | None:
        """Stop to read; the part of the request's body that came already. None: not now."""

    def go_on(self, left: int) -> None:
        """Read again: first so many bytes of a body that nobody wants, then the next request."""


def can_read(transport: Any) -> bool:
    """Whether bodies can be read past a transport: a plain socket, on a system that has what it takes."""
    return hasattr(os, "readv") and hasattr(select, "poll") and transport.get_extra_info("sslcontext") is None


class Wire:
    """The rest of a request's body, for a worker thread.

    Attributes
    ----------
    length : int
        Of the whole body.
    left : int
        Bytes that are still to be read here.
    taken : bool
        Whether the connection was asked for.
    """

    def __init__(self, connection: Connection, length: int) -> None:
        self.length = self.left = length
        self.taken = False
        self.lost = False
        self._connection = connection
        self._descriptor = -1
        self._timeout = 0.0

    def take(self, received: int, timeout: float) -> bytes | None:
        """Runs on the event loop: begin to read here.

        Parameters
        ----------
        received
            Bytes that were received on the ordinary way.
        timeout
            Seconds of silence after which a client is given up.

        Returns
        -------
        bytes or None
            What came already and nobody has received; None if all has to be read on the ordinary way.
        """
        self.taken = True
        came = self._connection.hand_over(self)
        if came is None:
            return None
        self._descriptor = os.dup(self._connection.transport.get_extra_info("socket").fileno())
        self._timeout = timeout
        self.left = self.length - received - len(came)
        return came

    def readinto(self, room: memoryview, least: int) -> int:
        """Receive at least so many bytes, and what else is there and fits.

        Raises
        ------
        BrokenBody
            The client left or fell silent before that.
        """
        room = room[: self.left]
        at = 0
        while at < least:
            try:
                got = os.readv(self._descriptor, [room[at:]])
            except BlockingIOError:
                self._wait()
                continue
            except OSError:
                got = 0
            if not got:
                raise BrokenBody("the client left before the end of the body")
            at += got
            self.left -= got
        return at

    def _wait(self) -> None:
        """Until there is something to read."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        deadline = time.monotonic() + self._timeout
        while (now := time.monotonic()) < deadline:
            if self.lost:
                raise BrokenBody("the connection was closed before the end of the body")
            if poll.poll(1000 * min(_LOOK, deadline - now)):
                return
        raise BrokenBody(f"no more of the body came within {self._timeout:g} seconds")

    def close(self) -> None:
        """Give the connection back, from any thread."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        with contextlib.suppress(RuntimeError):  # the loop ended, and all connections with it
            self._connection.loop.call_soon_threadsafe(self._connection.go_on, self.left)
