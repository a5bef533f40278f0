"""HTTP over a connection: uvicorn's protocol, with a limit on headers and two short ways.

What an ASGI server does for each request (a task, an event, a cycle of messages through layers) takes longer than a
lookup of what is in memory. So a plain GET whose handler is quick is answered at once, in one write, where nothing that
is configured has a say in it; see `Lane`. And a long body can be read by the thread that wants it, see
:mod:`dvid_dask.api.wire`. Everything else goes the ordinary way.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from . import instances
from .body import PREFETCH, Body
from .face import Call
from .faces import all_faces
from .middleware import is_plain_path
from .wire import Wire, can_read

if TYPE_CHECKING:
    from starlette.types import Scope

    from .app import Dispatch

__all__ = ["MAX_HEAD", "Lane", "protocol"]

#: Bytes of a request's headers.
MAX_HEAD = 1 << 16
#: Requests that one arrival of data may have answered at once: others wait for the loop meanwhile.
_IN_A_ROW = 16
#: A request with one of these isn't plain.
_SPECIAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings"})
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Lane:
    """Answers plain GETs by quick handlers.

    Not where an answer or the right to it depends on more than the request: lists of blocked users, cross-origin
    access, logs of requests, a server that shuts down. What a handler does is the same code on both ways.
    """

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._state = dispatch.state
        doors = (door for face in all_faces().values() for door in face.all_doors())
        self._quick = frozenset(door.keyword for door in doors if door.quick)

    def answer(self, scope: Scope) -> Response | None:
        """The answer; None if it has to be found the ordinary way."""
        state = self._state
        config = state.config
        if (
            scope["method"] != "GET"
            or not state.near
            or not state.available
            or state.block_list
            or state.record_activity is not None
            or config.access_log
            or config.cors_domains
        ):
            return None
        path = scope["path"]
        if not path.startswith("/api/node/") or not is_plain_path(scope["raw_path"]):
            return None
        parts = path.split("/", 6)
        if len(parts) < 6 or parts[5] not in self._quick or not instances.is_instance_path(path):
            return None
        for name, value in scope["headers"]:
            if name in _SPECIAL or (name == b"content-length" and value != b"0"):
                return None
        scope["dvid.id"] = state.next_id()
        response = self._dispatch.at_once(Call(state, scope, Body(_nothing, 0)))
        if type(response) is not Response:
            return None
        state.load.request("GET", 0)
        state.load.sent(len(response.body))
        return response


def _long(headers: list[tuple[bytes, bytes]]) -> int:
    """The announced length of a body that isn't taken whole before anybody looks at it; 0 for others."""
    length = 0
    for name, value in headers:
        if name in _SPECIAL and name != b"expect":
            return 0
        if name == b"content-length":
            length = int(value)
    return length if length > PREFETCH else 0


async def _nothing() -> Any:
    raise RuntimeError("a request without a body was read")


def protocol(lane: Lane | None) -> Any:
    """The HTTP parser for uvicorn: httptools where it is installed; else h11, which has a limit of its own."""
    try:
        import httptools
        from uvicorn.protocols.http.flow_control import FlowControl
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
    except ImportError:
        return "h11"

    class Flow(FlowControl):
        """Doesn't begin to read again while somebody else reads the connection."""

        held = False

        def resume_reading(self) -> None:
            if not self.held:
                super().resume_reading()

    class Bounded(HttpToolsProtocol):
        flow: Flow
        _head: int | None = 0
        _in_a_row = 0
        _unwanted = 0  # bytes of a body to pass over
        _wire: Wire | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.flow = Flow(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._wire is not None:
                self._wire.lost = True
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._in_a_row = 0
            if self._unwanted:
                self._unset_keepalive_if_required()
                passed = min(len(data), self._unwanted)
                self._unwanted -= passed
                data = data[passed:]
                if not data:
                    return
            if self._head is not None:
                self._head += len(data)
            super().data_received(data)
            if self._head is not None and self._head > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response(f"The request's headers are longer than {MAX_HEAD} bytes.")

        def on_message_begin(self) -> None:
            self._head = self._head or 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head = None
            super().on_headers_complete()
            length = _long(self.headers)
            if length and can_read(self.transport) and not self.parser.should_upgrade():
                self.scope["dvid.wire"] = Wire(self, length)  # type: ignore[typeddict-unknown-key]

        def hand_over(self, wire: Wire) -> bytes | None:
            cycle = self.cycle
            if cycle.scope.get("dvid.wire") is not wire or not cycle.more_body or self.transport.is_closing():
                return None
            self.flow.pause_reading()
            self.flow.held, self._wire = True, wire
            if cycle.waiting_for_100_continue:
                cycle.waiting_for_100_continue = False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            came, cycle.body = bytes(cycle.body), bytearray()
            cycle.message_event.clear()
            return came

        def go_on(self, left: int) -> None:
            self.flow.held, self._wire = False, None
            cycle = self.cycle
            cycle.more_body = False
            cycle.message_event.set()
            if self.parser is None:
                return  # the connection is lost
            # the one at hand is in the middle of the body, and stays there
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._unwanted, self._head = left, 0
            self.flow.resume_reading()

        def on_message_complete(self) -> None:
            self._head = 0
            super().on_message_complete()

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            if lane is not None and cycle.keep_alive and self._in_a_row < _IN_A_ROW and not self.flow.write_paused:
                self._in_a_row += 1
                response = lane.answer(cycle.scope)  # type: ignore[arg-type]
                if response is not None:
                    parts: list[bytes | memoryview] = [_STATUS_LINES[response.status_code]]
                    for name, value in (*self.server_state.default_headers, *response.raw_headers):
                        parts += name, b": ", value, b"\r\n"
                    parts += b"\r\n", response.body
                    self.transport.write(b"".join(parts))
                    cycle.response_started = cycle.response_complete = True
                    cycle.on_response()
                    return
            super()._start_asgi_task(cycle, app)

    return Bounded
