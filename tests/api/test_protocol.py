"""The fast lane: the same answers as the ordinary way, and only where nothing else has a say."""

import contextlib
import re
import socket
import threading
import time

import numpy as np
import pytest
import uvicorn

import dvid_dask
from dvid_dask.api import ServerConfig, create_app
from dvid_dask.api.protocol import Lane, protocol
from dvid_dask.api.state import BlockList


@contextlib.contextmanager
def served(app, lane):
    config = uvicorn.Config(app, "127.0.0.1", 0, http=protocol(lane), log_config=None, access_log=False, lifespan="off")
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


class Noted(Lane):
    """Tells what it has answered."""

    def __init__(self, dispatch):
        super().__init__(dispatch)
        self.answered = []

    def answer(self, scope):
        response = super().answer(scope)
        self.answered.append(response is not None)
        return response


def ask(port, data, answers=1):
    """Send bytes; what comes back until there are so many answers, or the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(data)
        got = b""
        while got.count(b"HTTP/1.1 ") < answers or not complete(got):
            more = sock.recv(1 << 16)
            if not more:
                break
            got += more
        return got


def complete(got):
    head, _, body = got.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found) and len(body) >= int(found[1])


def get(path, *more, method="GET", version="1.1", body=b""):
    head = [f"{method} {path} HTTP/{version}", "Host: here", *more]
    return "\r\n".join([*head, "", ""]).encode() + body


def undated(answer):
    return re.sub(rb"(?i)date: [^\r]*\r\n", b"", answer)


@pytest.fixture
def seg():
    with dvid_dask.create("memory://", compact="never") as datastore:
        repo = datastore.new_repo("lane")
        repo.new_instance("labelmap", "seg")
        seg = repo.versions[repo.root]["seg"]
        labels = np.zeros((64, 64, 64), np.uint64)
        labels[:, :, :20], labels[:, :, 20:30] = 7, 8
        seg.write(labels, (0, 0, 0))
        yield seg


@pytest.fixture
def both(seg):
    """Ask the fast lane and the ordinary way; the answers, and whether the lane has answered."""
    app = create_app(seg.version.datastore, ServerConfig())
    lane = Noted(app.dispatch)
    base = f"/api/node/{seg.version.uuid}/seg"
    with served(app, lane) as fast, served(create_app(seg.version.datastore, ServerConfig()), None) as plain:
        for port in (fast, plain):
            for keyword in ("index/7", "size/7", "lastmod/7"):
                ask(port, get(f"{base}/{keyword}"))  # the first time is a thread's
        lane.answered.clear()

        def asked(data, answers=1):
            found = ask(fast, data, answers)
            assert undated(found) == undated(ask(plain, data, answers))
            assert found.count(b"HTTP/1.1 ") == answers
            return found, lane.answered

        asked.base, asked.app, asked.lane = base, app, lane
        yield asked


@pytest.mark.parametrize(
    "rest", ["index/7", "index/7?metadata-only=true", "size/8", "lastmod/7", "index/7?u=ann&app=x"]
)
def test_the_same_answers(both, rest):
    found, answered = both(get(f"{both.base}/{rest}"))
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answered == [True]
    assert b"content-length" in found.lower()


@pytest.mark.parametrize("rest", ["index/99", "index/0", "index/x", "size", "size/7?supervoxels=maybe"])
def test_the_same_refusals(both, rest):
    found, answered = both(get(f"{both.base}/{rest}"))
    assert answered == [True]
    assert int(found.split()[1]) in (200, 400, 404)


def test_what_goes_the_ordinary_way(both):
    base = both.base
    for data in (
        get(f"{base}/index/7", method="HEAD"),
        get(f"{base}/sizes", "Content-Length: 3", body=b"[7]"),
        get(f"{base}/index/7", "Content-Length: 1", body=b"x"),
        get(f"{base}/index/%37"),
        get(f"{base}//index/7"),
        get(f"{base}/info"),
        get("/api/heartbeat"),
        get("/api/node/nothing"),
    ):
        both(data)
    assert not any(both.lane.answered)


def test_a_connection_that_ends(both):
    for data in (get(f"{both.base}/index/7", "Connection: close"), get(f"{both.base}/index/7", version="1.0")):
        found, answered = both(data)
        assert b"connection: close" in found.lower()
        assert not any(answered)


def test_many_in_one_go_are_answered_in_order(both):
    labels = [7, 8] * 100
    found, answered = both(b"".join(get(f"{both.base}/size/{label}") for label in labels), len(labels))
    sizes = {7: 20 * 4096, 8: 10 * 4096}
    assert [int(size) for size in re.findall(rb'"voxels": ?(\d+)', found)] == [sizes[label] for label in labels]
    assert any(answered)
    assert both.app.state.server.load.last_second() is not None


def test_one_after_the_other_on_a_connection(both, seg):
    lane_app = both.app
    with served(lane_app, both.lane) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        for n in range(50):
            sock.sendall(get(f"{both.base}/" + ("size/7" if n % 3 else "info")))
            got = b""
            while not complete(got):
                got += sock.recv(1 << 16)
            assert got.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("what", ["blocked", "log", "cors", "activity", "closed"])
def test_where_others_have_a_say(seg, what):
    config = ServerConfig(access_log=what == "log", cors_domains=("*",) if what == "cors" else ())
    app = create_app(seg.version.datastore, config)
    state = app.state.server
    lane = Noted(app.dispatch)
    path = f"/api/node/{seg.version.uuid}/seg/size/7"
    seen = []
    with served(app, lane) as port:
        ask(port, get(path))
        lane.answered.clear()
        if what == "blocked":
            state.block_list = BlockList.parse("u=ann")
        elif what == "activity":
            state.record_activity = seen.append
        elif what == "closed":
            state.available = False
        found = ask(port, get(path + "?u=ann"))
    assert lane.answered == [False]
    wanted = {"blocked": b"429", "closed": b"503"}.get(what, b"200")
    assert found.split()[1] == wanted
    assert bool(seen) == (what == "activity")
    assert (b"access-control-allow-origin" in found.lower()) == (what == "cors")
