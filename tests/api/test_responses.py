"""Streams keep step with their reader, end with it, and never end an answer that broke in the middle."""

import http.client
import itertools
import socket
import threading
import time

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from dvid_dask.api import responses
from dvid_dask.api.app import Dispatch
from dvid_dask.api.middleware import Failures
from dvid_dask.errors import BadRequest

from .conftest import live

CHUNK = bytes(64 * 1024)


class Handled(Dispatch):
    """The dispatcher, with one handler for everything."""

    def __init__(self, handler):
        from types import SimpleNamespace

        from dvid_dask.api.config import ServerConfig
        from dvid_dask.api.state import ByteBudget

        super().__init__(SimpleNamespace(config=ServerConfig(workers=4), bodies=ByteBudget(1 << 26), guard=None))
        self.handler = handler

    def route(self, request):
        return self.handler(request)


def app_of(handler):
    return Failures(Starlette(routes=[Route("/{path:path}", Handled(handler))]))


def test_json_escapes_what_a_browser_could_take_for_markup():
    assert responses.encode_json({"a&b": "<x>"}) == rb'{"a\u0026b":"\u003cx\u003e"}'


def test_the_producer_stays_near_the_reader_and_is_closed_when_the_reader_leaves():
    made, closed = itertools.count(), threading.Event()
    last = [0]

    def produce():
        try:
            # 3 GiB
            for _ in range(3 * 16 * 1024):
                last[0] = next(made)
                yield CHUNK
        finally:
            closed.set()

    with live(app_of(lambda request: responses.stream(produce()))) as port:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        read = 0
        while read < 20 << 20:
            read += len(sock.recv(1 << 16))
        time.sleep(0.3)
        ahead = last[0] * len(CHUNK) - read
        assert ahead < 16 << 20, "the server holds what nobody has read"
        sock.close()
        assert closed.wait(10), "the generator was not closed"


def test_an_error_before_the_first_byte_has_its_status():
    def fail():
        raise BadRequest("nothing to send")
        yield b""

    with live(app_of(lambda request: responses.stream(fail()))) as port:
        conn = http.client.HTTPConnection("127.0.0.1", port)
        conn.request("GET", "/x")
        answer = conn.getresponse()
        assert (answer.status, answer.read()) == (400, b"nothing to send (/x).\n")
        conn.close()


def test_an_error_in_the_middle_breaks_the_connection():
    def fail():
        for _ in range(100):
            yield CHUNK
        raise BadRequest("too late")

    with live(app_of(lambda request: responses.stream(fail()))) as port:
        conn = http.client.HTTPConnection("127.0.0.1", port)
        conn.request("GET", "/x")
        answer = conn.getresponse()
        assert answer.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionError)) as caught:
            answer.read()
        if isinstance(caught.value, http.client.IncompleteRead):
            assert b"too late" not in caught.value.partial
        conn.close()


def test_the_end_is_told_before_the_last_piece_goes_out():
    said = []
    pulled = responses.stream(iter([bytes(responses.PIECE), b"last"]))
    pulled.at_end = lambda: said.append("end")
    assert len(pulled.pull()) == responses.PIECE
    assert not said
    assert pulled.pull() == b"last"
    assert said


def test_small_chunks_are_sent_together():
    pulled = responses.stream(iter([b"ab"] * 1000))
    assert pulled.pull() == b"ab" * 1000
    assert pulled.pull() == b""


def test_a_slow_producer_is_not_waited_for():
    def slow():
        yield b"first"
        time.sleep(0.06)
        yield b"second"
        yield b"third"

    pulled = responses.stream(slow())
    assert pulled.pull() == b"firstsecond"


def test_lengths_are_kept_when_known():
    assert b"content-length" not in dict(responses.stream([b"x"]).raw_headers)
    assert dict(responses.stream([b"x"], headers={"Content-Length": "1"}).raw_headers)[b"content-length"] == b"1"


def test_bodies_larger_than_memory_limits_are_read_in_pieces():
    taken = [0]
    peak = [0]

    def swallow(request):
        for piece in request.body.chunks(1 << 18):
            taken[0] += len(piece)
            peak[0] = max(peak[0], len(request.body._pending))
        return responses.text(str(taken[0]))

    size = 192 << 20
    with live(app_of(swallow)) as port:
        conn = http.client.HTTPConnection("127.0.0.1", port)
        conn.putrequest("POST", "/x")
        conn.putheader("Content-Length", str(size))
        conn.endheaders()
        for _ in range(size // len(CHUNK)):
            conn.send(CHUNK)
        assert conn.getresponse().read() == str(size).encode()
        conn.close()
    assert peak[0] < 8 << 20


def test_a_slow_upload_holds_no_thread_of_other_requests():
    def answer(request):
        return responses.text(str(len(request.body.all())))

    with live(app_of(answer)) as port:
        slow = []
        for _ in range(12):  # more than there are threads
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + bytes(100))
            slow.append(sock)
        time.sleep(0.3)
        conn = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        conn.request("GET", "/x")
        assert conn.getresponse().read() == b"0"
        conn.close()
        for sock in slow:
            sock.close()
