"""Whatever comes in: a documented status, the server alive, nothing changed."""

import contextlib
import os
import socket
import threading
import time
from urllib.parse import quote, urlencode

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import ADMIN, TOKEN, live

DOCUMENTED = {200, 204, 206, 301, 308, 400, 404, 416, 429, 501, 503}
HOST = b"Host: x\r\n"


# ------------------------------------------------------------------ any request at all

words = st.sampled_from(
    [
        *("api", "repo", "repos", "node", "server", "info", "note", "log", "commit", "branch", "newversion", "tag"),
        *("merge", "resolve", "instance", "kv", "key", "keys", "keyvalues", "keyrange", "keyrangevalues", "blobstore"),
        *("help", "tags", "sync", "mutations", "types", "settings", "config", "storage", "x", "0_1_2"),
        *("{repo}", ":", "~", ":master", "{repo}:master~1", "..", ".", "%2F", "%", "%ff", "é", "a b"),
    ]
)
letters = st.characters(codec="utf-8", exclude_categories=["Cc"])
paths = st.lists(words | st.text(letters, max_size=6), max_size=7).map(lambda p: "/" + "/".join(p))
bodies = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"{}", b"[]", b"null", b'{"note":1}', b'{"log":[]}', b'{"branch":"master"}', b'{"typename":"roi"}']
    ),
)
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])


@pytest.fixture
def locked(client, kv, repo):
    """A repo whose only version is committed: no request without a token may change anything in it."""
    client.post(f"{kv}/key/a", content=b"1")
    client.commit(repo)
    return repo


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    methods, paths, st.dictionaries(st.sampled_from(["u", "json", "tar", "throttle", "x"]), st.text(max_size=4)), bodies
)
def test_any_request(client, locked, method, path, query, body):
    # not through the client's own ideas of a URL
    raw = quote(path.replace("{repo}", locked), safe="/%~:") + ("?" + urlencode(query) if query else "")
    url = httpx.URL("http://testserver").copy_with(raw_path=raw.encode())
    answer = client.request(method, url, content=body)
    assert answer.status_code in DOCUMENTED
    assert client.get(f"/api/node/{locked}/kv/keyrangevalues/!/~?json=true").json() == {"a": 1}
    assert client.app.state.server.throttle.running == 0
    assert client.app.state.server.bodies.held == 0


# ------------------------------------------------------------------ what only sockets can say


@pytest.fixture
def path(shared_server):
    """A keyvalue instance on the shared server."""
    import json
    import urllib.request

    def post(path, body):
        request = urllib.request.Request(shared_server.url + path, json.dumps(body).encode(), method="POST")
        return json.load(urllib.request.urlopen(request))

    repo = post(f"/api/repos?admintoken={TOKEN}", {})["root"]
    post(f"/api/repo/{repo}/instance", {"typename": "keyvalue", "dataname": "kv"})
    return f"/api/node/{repo}/kv".encode()


def keys(server, path):
    answer = server.raw(b"GET " + path + b"/keys HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    ],
)
def test_what_is_no_http(shared_server, path, data):
    answer = shared_server.raw(data)
    # a server may close without a word; if it speaks, it refuses
    assert not answer or answer.split(b" ")[1] in (b"400", b"431"), answer[:200]
    assert b"[]" in keys(shared_server, path)


def test_a_path_in_raw_bytes(shared_server, path):
    answer = shared_server.raw(b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert not answer or answer.split(b" ")[1] in (b"400", b"404")
    assert b"[]" in keys(shared_server, path)


def test_truncated_bodies_store_nothing(shared_server, path):
    head = b"POST " + path + b"/key/%s HTTP/1.1\r\n" + HOST
    shared_server.raw(head % b"cut" + b"Content-Length: 100\r\n\r\n" + b"x" * 99, leave=True)
    shared_server.raw(head % b"big" + b"Content-Length: 9000000\r\n\r\n" + b"x" * 5_000_000, leave=True)
    shared_server.raw(head % b"chunked" + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", leave=True)
    shared_server.raw(
        b"POST " + path + b"/keyvalues HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n\x0a\x06\x0a\x01a"
    )
    assert b"[]" in keys(shared_server, path)


def test_a_client_that_falls_silent_is_let_go(shared_server, path):
    # the server was started with a patience of two seconds
    request = b"POST " + path + b"/key/slow HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\nx"
    begun = time.monotonic()
    answer = shared_server.raw(request)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in answer.lower()
    assert 1 < time.monotonic() - begun < 20
    assert b"[]" in keys(shared_server, path)


def test_chunked_bodies(shared_server, path):
    chunks = b"".join(b"%x\r\n%s\r\n" % (n, b"y" * n) for n in (1, 10, 70_000, 1)) + b"0\r\n\r\n"
    head = b"POST " + path + b"/key/c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert shared_server.raw(head + chunks).startswith(b"HTTP/1.1 200")
    answer = shared_server.raw(b"GET " + path + b"/key/c HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n" + b"y" * 70_012)


def test_pipelined_requests_are_answered_in_order(shared_server, path):
    requests = b"".join(
        b"POST "
        + path
        + b"/key/p%d HTTP/1.1\r\n" % n
        + HOST
        + b"Content-Length: 2\r\n\r\n%02d" % n
        + b"GET "
        + path
        + b"/key/p%d HTTP/1.1\r\n" % n
        + HOST
        + b"\r\n"
        for n in range(10)
    )
    end = b"GET /api/heartbeat HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    answer = shared_server.raw(requests + end)
    values = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert values == [v for n in range(10) for v in (b"", b"%02d" % n)] + [b"OK"]


def test_expect_continue(shared_server, path):
    with shared_server.connect() as sock:
        sock.sendall(
            b"POST " + path + b"/key/e HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 100")
        sock.sendall(b"abc")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(shared_server, path):
    # the server was started with a limit of 64 MiB
    with shared_server.connect() as sock:
        sock.sendall(b"POST " + path + b"/key/x HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000000\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 400")
    assert b"[]" in keys(shared_server, path)


def test_an_endless_chunked_body_is_cut_off(shared_server, path):
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with shared_server.connect() as sock:
        sock.sendall(b"POST " + path + b"/key/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = []

        def listen():
            answer.append(sock.recv(1000))

        listener = threading.Thread(target=listen)
        listener.start()
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                sock.sendall(chunk)
                if answer:
                    break
        listener.join(20)
    assert answer[0].startswith(b"HTTP/1.1 400")
    assert b"[]" in keys(shared_server, path)


@pytest.mark.parametrize("body", [b"[" * 5_000_000, b'{"a":' * 1_000_000, b'"' + b"x" * 40_000_000, b"1" * 1_000_000])
def test_huge_json_leaves_the_memory_bounded(shared_server, path, body):
    before = shared_server.memory()
    head = (
        b"POST " + path + b"/tags HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert shared_server.raw(head + body).startswith(b"HTTP/1.1 400")
    assert shared_server.memory() - before < 200 << 20
    assert b"[]" in keys(shared_server, path)


def test_readers_that_leave_early_leak_nothing(client, kv):
    from dvid_dask.formats import dvid_pb2 as pb

    message = pb.KeyValues(kvs=[pb.KeyValue(key=f"{n:03d}", value=os.urandom(100_000)) for n in range(100)])
    client.post(f"{kv}/keyvalues", content=message.SerializeToString())
    state = client.app.state.server
    with live(client.app) as port:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(b"GET " + kv.encode() + b"/keyrangevalues/0/9?throttle=on HTTP/1.1\r\n" + HOST + b"\r\n")
                assert sock.recv(100).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 10
        while state.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (state.in_flight, state.bodies.held, state.throttle.running) == (0, 0, 0)


# ------------------------------------------------------------------ static files


@pytest.fixture
def console(tmp_path):
    folder = tmp_path / "console"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>console</h1>")
    (folder / "sub/index.html").write_text("sub")
    (folder / "app.js").write_text("1")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    return str(folder)


def test_files_of_the_web_client(make_client, console):
    client = make_client(web_client=console)
    assert client.get("/").text == "<h1>console</h1>"
    answer = client.get("/app.js")
    assert "javascript" in answer.headers["content-type"]
    assert client.get("/app.js", headers={"Range": "bytes=0-0"}).status_code == 206
    assert client.get("/sub/").text == "sub"
    for path in ("/nosuch", "/api/nosuch", "/link", "/%2e%2e/secret", "/..%2fsecret", "/sub/..%2f..%2fsecret"):
        answer = client.get(path)
        assert answer.status_code in (404, 301)
        assert "secret" not in answer.text
    assert client.post("/app.js").status_code == 404
    assert client.get("/api/heartbeat").text == "OK"


def test_missing_files(make_client, console):
    client = make_client(web_client=console, web_default_file="index.html")
    assert client.get("/volume/5").text == "<h1>console</h1>"
    client = make_client(web_client=console, web_redirect_path="gone", web_default_file="index.html")
    answer = client.get("/volume/5")
    assert (answer.status_code, answer.headers["location"]) == (308, "/gone")
    assert make_client().get("/volume/5").status_code == 404


def test_the_app_over_a_callers_datastore(client, repo):
    datastore = client.app.state.server.datastore
    assert datastore.repos[repo].alias == "test"
    datastore.repos[repo].set_info(alias="changed in Python")
    assert client.get(f"/api/repo/{repo}/info", params=ADMIN).json()["Alias"] == "changed in Python"
