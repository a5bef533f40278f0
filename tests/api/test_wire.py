"""Long bodies are read past the loop and the parser: the same bytes, and the connection goes on right behind them."""

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time

import anyio
import anyio.to_thread
import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.api import ServerConfig, create_app
from dvid_dask.api.body import PREFETCH, Body
from dvid_dask.api.failures import BrokenBody
from dvid_dask.api.protocol import Lane, protocol
from dvid_dask.errors import BadRequest

LOOPS = ["asyncio"]
with contextlib.suppress(ImportError):
    import uvloop  # noqa: F401

    LOOPS.append("uvloop")

DATA = np.random.default_rng(1).integers(0, 256, 3 * PREFETCH, np.uint8).tobytes()


@contextlib.contextmanager
def served(app, lane=None, loop="auto"):
    config = uvicorn.Config(
        app, "127.0.0.1", 0, http=protocol(lane), loop=loop, log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=600)


def post(path, body, *more, method="POST"):
    head = [f"{method} {path} HTTP/1.1", "Host: here", *more]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in more):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def answers(sock, count):
    """Status and body of so many answers, in order; fewer if the server closes."""
    got, found = b"", []
    while len(found) < count:
        head, end, rest = got.partition(b"\r\n\r\n")
        if end:
            length = re.search(rb"(?i)content-length: (\d+)", head)
            size = int(length[1]) if length else 0
            if len(rest) >= size:
                found.append((int(head.split()[1]), rest[:size]))
                got = rest[size:]
                continue
        try:
            more = sock.recv(1 << 16)
        except ConnectionResetError:
            break
        if not more:
            break
        got += more
    return found


class Reader:
    """An application that reads a body as the query says, and answers what it was."""

    def __init__(self):
        self.straight = []

    async def __call__(self, scope, receive, send):
        length = next((int(v) for k, v in scope["headers"] if k == b"content-length"), None)
        if not length and scope["method"] == "GET":
            text = b"here"
        else:
            wire = scope.get("dvid.wire")
            body = Body(receive, length, wire=wire, timeout=0.5)
            try:
                text = await anyio.to_thread.run_sync(self.read, body, scope["query_string"].decode())
            except BadRequest as error:
                text = str(error).encode()
            self.straight.append(wire is not None and wire.taken)
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    @staticmethod
    def read(body, plan):
        found = hashlib.blake2b()
        try:
            for step in filter(None, plan.split(",")):
                kind, size = step[0], int(step[1:])
                if kind == "r":
                    part = body.read(size)
                elif kind == "i":
                    room = memoryview(bytearray(size))
                    part = room[: body.readinto(room)]
                else:
                    return b"enough"
                assert len(part) == size or body.small
                found.update(part)
            for part in body.chunks():
                found.update(part)
        finally:
            body.close()
        return found.hexdigest().encode()


@pytest.fixture(scope="module", params=LOOPS)
def reader(request):
    app = Reader()
    with served(app, loop=request.param) as port:
        app.port = port
        yield app


sizes = st.sampled_from([1, 16, 1000, 1 << 16, 1 << 18, (1 << 18) + 1, 1 << 20, 1 << 21])


@settings(deadline=None, max_examples=25)
@given(
    st.integers(PREFETCH - 1, len(DATA)),
    st.lists(st.tuples(st.sampled_from("ri"), sizes), max_size=6),
    st.lists(sizes, max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_the_same_bytes_however_they_come_and_are_read(reader, length, reads, pieces, expect, again):
    reader.straight.clear()
    plan = ",".join(f"{kind}{size}" for kind, size in reads)
    more = ["Expect: 100-continue"] if expect else []
    body = DATA[:length]
    sent = post(f"/x?{plan}", body, *more) + post("/x", b"", method="GET")
    if again:
        sent += post(f"/x?{plan}", body[::-1]) + post("/x", b"", method="GET")
    with connect(reader.port) as sock:
        at = 0
        for piece in pieces:
            sock.sendall(sent[at : at + piece])
            at += piece
        sender = threading.Thread(target=sock.sendall, args=(sent[at:],))
        sender.start()
        found = answers(sock, (4 if again else 2) + expect)
        sender.join()
    if expect and found[0][0] == 100:
        found = found[1:]
    assert found[0] == (200, hashlib.blake2b(body).hexdigest().encode())
    assert found[1] == (200, b"here")
    if again:
        assert found[2] == (200, hashlib.blake2b(body[::-1]).hexdigest().encode())
        assert found[3] == (200, b"here")
    if length > PREFETCH:
        assert reader.straight[0]


def test_a_client_is_told_to_go_on(reader):
    with connect(reader.port) as sock:
        head, body = post("/x", DATA, "Expect: 100-continue").split(b"\r\n\r\n", 1)
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert answers(sock, 1) == [(200, hashlib.blake2b(DATA).hexdigest().encode())]


@pytest.mark.parametrize("plan", ["s0", "r1,s0", "r100000,s0", f"i{1 << 20},s0"])
def test_what_a_handler_leaves_is_passed_over(reader, plan):
    with connect(reader.port) as sock:
        for _ in range(3):
            sock.sendall(post(f"/x?{plan}", DATA))
            assert answers(sock, 1) == [(200, b"enough")]
            sock.sendall(post("/x", DATA))
            assert answers(sock, 1) == [(200, hashlib.blake2b(DATA).hexdigest().encode())]


def test_a_chunked_body_comes_the_ordinary_way(reader):
    reader.straight.clear()
    chunks = b"".join(b"%x\r\n" % len(p) + p + b"\r\n" for p in (DATA[: 1 << 20], DATA[1 << 20 :])) + b"0\r\n\r\n"
    with connect(reader.port) as sock:
        sock.sendall(post("/x", chunks, "Transfer-Encoding: chunked") + post("/x", b"", method="GET"))
        assert answers(sock, 2) == [(200, hashlib.blake2b(DATA).hexdigest().encode()), (200, b"here")]
    assert reader.straight == [False]


@pytest.mark.parametrize("wait", [True, False])
def test_what_is_no_request_behind_a_body_is_refused(reader, wait):
    with connect(reader.port) as sock:
        sock.sendall(post("/x", DATA))
        if wait:
            assert answers(sock, 1) == [(200, hashlib.blake2b(DATA).hexdigest().encode())]
        sock.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert answers(sock, 2)[-1][0] == 400
        assert sock.recv(100) == b""


def test_a_client_that_falls_silent_or_stops(reader):
    with connect(reader.port) as sock:
        sock.sendall(post("/x", DATA)[:-1000])
        assert answers(sock, 1) == [(200, b"no more of the body came within 0.5 seconds")]
        sock.sendall(DATA[-1000:] + post("/x", b"", method="GET"))
        assert answers(sock, 1) == [(200, b"here")]
    with connect(reader.port) as sock:
        sock.sendall(post("/x", DATA)[:-1000])
        sock.shutdown(socket.SHUT_WR)
        # who has no more to say may have left altogether, so the answer may be lost
        assert answers(sock, 1) in ([], [(200, b"the client left before the end of the body")])


@pytest.mark.parametrize("at", [200, PREFETCH + 5, len(DATA) - 1])
def test_clients_that_vanish_leave_nothing_behind(reader, at):
    for hard in (False, True):
        with connect(reader.port) as sock:
            sock.sendall(post("/x", DATA)[:at])
            if hard:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with connect(reader.port) as sock:
        sock.sendall(post("/x", DATA))
        assert answers(sock, 1)[0][0] == 200


def test_the_last_request_of_a_connection(reader):
    with connect(reader.port) as sock:
        sock.sendall(post("/x", DATA, "Connection: close"))
        assert answers(sock, 1) == [(200, hashlib.blake2b(DATA).hexdigest().encode())]
        assert sock.recv(100) == b""


def test_many_at_once(reader):
    found = []

    def one():
        with connect(reader.port) as sock:
            for _ in range(3):
                sock.sendall(post("/x?r5,i100000", DATA))
                found.extend(answers(sock, 1))

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(200, hashlib.blake2b(DATA).hexdigest().encode())] * 36


class Gone:
    """A connection that is lost while its body is being read."""

    def __init__(self, sock):
        self.transport = self
        self.sock = sock

    def get_extra_info(self, name):
        return self.sock

    def hand_over(self, wire):
        return b"abc"


def test_a_connection_that_the_server_closes():
    from dvid_dask.api.wire import Wire

    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        wire = Wire(Gone(here), 2 * PREFETCH)
        assert wire.take(10, 60.0) == b"abc"
        assert wire.left == 2 * PREFETCH - 13
        wire.lost = True
        with pytest.raises(BrokenBody, match="closed"):
            wire.readinto(memoryview(bytearray(10)), 10)
        there.sendall(b"x" * 7)
        room = bytearray(10)
        assert wire.readinto(memoryview(room), 5) == 7
        assert wire.left == 2 * PREFETCH - 20


@pytest.fixture
def node():
    with dvid_dask.create("memory://", compact="never") as datastore:
        repo = datastore.new_repo("wire")
        repo.new_instance("uint8blk", "gray", {"BlockSize": "64,64,64"})
        repo.new_instance("keyvalue", "kv")
        repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "0"})
        app = create_app(datastore, ServerConfig(body_timeout=1.0, max_body=4 * PREFETCH))
        with served(app, Lane(app.dispatch)) as port:
            node = f"/api/node/{repo.root}"

            def ask(*request, method="POST"):
                with connect(port) as sock:
                    sock.sendall(post(f"{node}/{request[0]}", *request[1:], method=method))
                    sock.sendall(post("/api/heartbeat", b"", method="GET"))
                    found, heartbeat = answers(sock, 2)
                assert heartbeat == (200, b"OK")
                return found

            ask.port, ask.node, ask.version, ask.state = port, node, repo.versions[repo.root], app.state.server
            yield ask


def test_bodies_of_the_api(node):
    voxels = np.frombuffer(DATA[: 1 << 21], np.uint8).reshape(64, 128, 256)
    assert node("gray/raw/0_1_2/256_128_64/0_0_0", voxels.tobytes())[0] == 200
    assert (node.version["gray"][:64, :128, :256] == voxels).all()
    labels = np.repeat(np.arange(1, 9, dtype=np.uint64), 64 * 64 * 8).reshape(64, 64, 64)
    assert node("seg/raw/0_1_2/64_64_64/0_0_0", labels.tobytes())[0] == 200
    assert (node.version["seg"][:64, :64, :64] == labels).all()
    assert node("kv/key/long", DATA)[0] == 200
    assert node("kv/key/long", b"", method="GET") == (200, DATA)
    assert node.state.bodies.held == 0


def test_bodies_that_the_api_refuses(node):
    size = 256 * 128 * 64
    for path, body in (
        ("gray/raw/0_1_2/256_128_64/0_0_0", DATA[: size - 1]),
        ("gray/raw/0_1_2/256_128_64/0_0_0", DATA[: size + 1]),
        ("gray/raw/0_1_2/256_128_64/1_0_0", DATA[:size]),
        ("seg/raw/0_1_2/64_64_64/0_0_0?compression=gzip", DATA),
        ("seg/blocks", DATA),
        ("kv/key/long", DATA * 2),
        ("nothing/key/long", DATA),
    ):
        status, text = node(path, body)
        assert status == 400, path
        assert text
        assert node("kv/key/long", b"", method="GET")[0] == 404
    assert node.version["gray"].extents is None
    assert node.state.bodies.held == 0


def test_a_body_cut_short_writes_nothing(node):
    with connect(node.port) as sock:
        sock.sendall(post(f"{node.node}/gray/raw/0_1_2/256_128_64/0_0_0", DATA[: 1 << 21])[: -(1 << 20)])
        sock.shutdown(socket.SHUT_WR)
        assert [status for status, _ in answers(sock, 1)] in ([], [400])
    while node.state.in_flight:
        time.sleep(0.01)
    assert node.version["gray"].extents is None
    assert node.state.bodies.held == 0
