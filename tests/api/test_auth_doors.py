"""Every door of a server in a process of its own, with and without a token: none leads past the guard."""

import json
import os
import select
import subprocess
import sys
import time

import httpx2 as httpx
import pytest

import dvid_dask
from dvid_dask.api import instances, nodes, repos, server
from dvid_dask.api.face import ANY, METHODS
from dvid_dask.api.faces import all_faces

from .conftest import SCRIPT, TOKEN, server_process
from .gateway import INSTANCES, FakeGateway, make_world

ANN = {"Authorization": "Bearer t-ann"}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A server, its gateway, and what is in its store."""
    store = tmp_path_factory.mktemp("doors") / "store"
    with dvid_dask.create(str(store), compact="never") as datastore:
        world = make_world(datastore)
    patch = pytest.MonkeyPatch()
    for name in ("no_proxy", "NO_PROXY"):
        patch.setenv(name, "127.0.0.1")
    gateway = FakeGateway()
    auth = world.auth(enforce="dsg", dsg_address=gateway.url)
    with server_process(store, auth=auth) as process, httpx.Client(base_url=process.url, timeout=30) as client:
        process.world, process.client, process.gateway = world, client, gateway
        yield process
    gateway.close()
    patch.undo()


def filled(path, uuid):
    return path.replace("{uuid}", uuid).replace("{name}", "master")


def doors():
    """Method and path of each endpoint at repositories, versions and instances; {uuid} stands for a version."""
    found = {(r.method, r.path) for table in (repos.routes, nodes.routes) for r in table.routes}
    names = {typename: name for name, typename in INSTANCES.items()}
    for typename, face in all_faces().items():
        for door in face.all_doors():
            methods = METHODS if door.method == ANY else [door.method]
            at = f"/api/node/{{uuid}}/{names.get(typename, 'kv')}/{door.keyword}"
            for method in methods:
                found |= {(method, at), (method, f"{at}/1/y/z")}
    found |= {(method, "/api/node/{uuid}/kv/blobstore/x") for method in METHODS}
    # what is no endpoint is protected too, and what only HEAD and OPTIONS see
    found |= {(method, f"/api/{kind}/{{uuid}}") for kind in ("node", "repo") for method in METHODS}
    found |= {(method, "/api/node/{uuid}/nothing") for method in METHODS}
    found |= {(method, "/api/repo/{uuid}/nothing/more") for method in METHODS}
    found |= {("HEAD", path) for method, path in found if method in ("GET", ANY)}
    found |= {("OPTIONS", path) for _, path in found}
    return sorted(found)


def test_no_door_is_open_to_strangers(town):
    asked = doors()
    assert len(asked) > 500
    open_ = []
    for method, path in asked:
        answer = town.client.request(method, filled(path, town.world.top))
        if answer.status_code != 401 or "www-authenticate" not in answer.headers:
            open_.append((method, path, answer.status_code))
    assert open_ == []


def test_no_door_lets_strangers_write_where_they_may_read(town):
    """Nor by a method that isn't known."""
    reads = ("GET", "HEAD", "OPTIONS")
    for method, path in doors():
        keyword = path.split("/")[5:6]
        writes = method not in reads or keyword in (["resolution"], ["extents"])
        answer = town.client.request(method, filled(path, town.world.release))
        assert (answer.status_code == 401) is writes, (method, path, answer.status_code)


def test_what_sets_by_any_method_is_known():
    """A handler that answers all methods must only read, or its keyword be among those that need the right to write."""
    reading = {
        *("help", "info", "tags", "metadata", "keys", "keyrange", "keyrangevalues", "all", "fields", "fieldtimes"),
        *("size", "supervoxels", "supervoxel-sizes", "lastmod", "label", "raw", "blocks", "missing"),
        *("sparsevol-by-point", "sparsevol-coarse", "sparsevols-coarse"),
    }
    for face in all_faces().values():
        for door in face.all_doors():
            if door.method == ANY:
                assert door.keyword in reading | instances.CHANGING, (face, door.keyword)
                assert not (door.keyword in instances.CHANGING and door.keyword in reading)


OPEN = {
    *("/api/heartbeat", "/api/load", "/api/user-latencies", "/interface", "/interface/version", "/api/help"),
    *("/api/help/", "/api/help/{typename}", "/api/repos/info", "/api/server/info", "/api/server/note"),
    *("/api/server/types", "/api/server/compiled-types", "/api/server/groupcache"),
}
ADMINISTRATORS = {
    *("/api/server/config", "/api/storage", "/api/server/settings", "/api/server/reload-auth"),
    *("/api/server/reload-blocklist", "/api/repos", "/api/server/token"),
}


def test_every_other_endpoint_is_open_or_for_administrators(town):
    tables = (server.silent, server.routes, repos.top)
    assert {route.path for table in tables for route in table.routes} == OPEN | ADMINISTRATORS
    for table in tables:
        for route in table.routes:
            path = route.path.replace("{typename}", "labelmap")
            answer = town.client.request(route.method, path)
            assert answer.status_code == (200 if route.path in OPEN else 400), path
            for secret in (town.world.top, town.world.mouse, "secret note", "secret of", "squeak"):
                assert secret not in answer.text, path


def test_pages_and_files(town):
    for path in ("/", "/repo/" + town.world.root, "/repo/" + town.world.top, "/favicon.ico", "/neuroglancer/", "/x"):
        for method in METHODS:
            answer = town.client.request(method, path)
            for secret in (town.world.top, town.world.mouse, "secret"):
                assert secret not in answer.text, path


@pytest.mark.parametrize("keyword", ["size/7", "supervoxels/7", "supervoxel-sizes/7", "lastmod/7", "index/7"])
def test_the_fast_lane_is_guarded(town, keyword):
    """What is answered from the parser once it is warm, on one connection, with tokens and without."""
    path = f"/api/node/{town.world.top}/seg/{keyword}"
    for _ in range(4):
        assert town.client.get(path, headers=ANN).status_code in (200, 404)
    for _ in range(4):
        assert town.client.get(path).status_code == 401
        assert town.client.get(path, headers={"Authorization": "Bearer t-bob"}).status_code == 403
        assert town.client.get(path, headers=ANN).status_code in (200, 404)
        assert town.client.get(path.replace(town.world.top, town.world.release)).status_code in (200, 404)


def test_many_at_once_on_one_connection(town):
    """Requests that came together are each looked at by themselves."""
    line = f"GET /api/node/{town.world.top}/seg/size/7 HTTP/1.1\r\nHost: x\r\n"
    token = "Authorization: Bearer t-ann\r\n"
    town.raw((line + token + "Connection: close\r\n\r\n").encode())
    data = (line + token + "\r\n") + (line + "\r\n") + (line + token + "\r\n") + (line + "Connection: close\r\n\r\n")
    answers = town.raw(data.encode()).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"404", b"401", b"404", b"401"]


@pytest.mark.parametrize("path", ["kv/key/a", "seg/blocks", "seg/raw/0_1_2/64_64_64/0_0_0", "syn/elements"])
def test_long_bodies_of_strangers_are_not_taken(town, path):
    """Those that a thread would read from the socket itself, and those without a length."""
    path = f"/api/node/{town.world.top}/{path}"
    long = "Content-Length: 3000000"
    for head in (long, f"{long}\r\nExpect: 100-continue", "Transfer-Encoding: chunked"):
        request = f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        said = town.raw(request.encode())
        assert said.startswith(b"HTTP/1.1 401 "), (head, said[:200])
    assert town.client.post(path, content=bytes(3_000_000), headers=ANN).status_code in (200, 400)


@pytest.mark.parametrize(
    "path",
    [
        "/api//node/{top}/kv/key/new",
        "/api/./node/{top}/kv/key/new",
        "/api/x/../node/{top}/kv/key/new",
        "/%61pi/node/{top}/kv/key/new",
        "/api/node/{top}%2Fkv/key/new",
        "/api/node/{top}/kv%2Fkey/new",
        "/api/node/{release}/../{top}/kv/key/new",
        "/api/node/{release}%2F..%2F{top}/kv/key/new",
        "/api/node/{top}/kv/key/new?x=/api/node/{release}",
        "/API/node/{top}/kv/key/new",
        "/api/node/{top}/kv/key/new/",
        "/api/node/{upper}/kv/key/new",
        "http://x/api/node/{top}/kv/key/new",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_roundabout_paths(town, path, method):
    names = {"top": town.world.top, "release": town.world.release, "upper": town.world.top.upper()}
    head = "Host: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    said = town.raw(f"{method} {path.format(**names)} HTTP/1.1\r\n{head}".encode())
    assert said[9:12] in (b"301", b"400", b"401", b"404")
    assert b"secret" not in said


@pytest.mark.parametrize(
    "head",
    [
        "Authorization: Bearer t-bob\r\nAuthorization: Bearer t-root",
        "Authorization: Bearer t-bob, Bearer t-root",
        "Authorization:Bearer",
        "Authorization: Bearer " + "x" * 9000,
        "Cookie: dsg_token=",
        "Cookie: " + "; ".join(f"a{n}=1" for n in range(3000)),
        "X-DVID-Internal: true",
        "X-Forwarded-For: 127.0.0.1",
        "X-HTTP-Method-Override: OPTIONS",
        "Authorization: Bearer t-\xff",
    ],
)
def test_odd_headers(town, head):
    request = f"GET /api/node/{town.world.top}/kv/key/new HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n"
    said = town.raw(request.encode("latin-1"))
    assert said[9:12] in (b"401", b"403")


def test_giant_headers(town):
    request = f"GET /api/node/{town.world.top}/kv/key/new HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
    said = town.raw(request.encode() + b"x" * 300_000 + b"\r\n\r\n")
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
    assert town.client.get("/api/heartbeat").text == "OK"


def test_a_slow_gateway_holds_up_those_alone_who_wait_for_it(town):
    """More strangers than there are threads, while users that are known go on."""
    assert town.client.get(f"/api/node/{town.world.top}/kv/key/a", headers=ANN).status_code == 200
    town.gateway.fault = "hang"
    waiting = []
    try:
        for n in range(60):
            sock = town.connect()
            line = f"GET /api/node/{town.world.top}/kv/key/a HTTP/1.1\r\nHost: x\r\n"
            sock.sendall(f"{line}Authorization: Bearer slow{n}\r\n\r\n".encode())
            waiting.append(sock)
        time.sleep(0.5)
        for _ in range(5):
            assert town.client.get(f"/api/node/{town.world.top}/kv/key/one", headers=ANN, timeout=20).content == b"1"
            assert town.client.get(f"/api/node/{town.world.release}/kv/key/one", timeout=20).content == b"1"
            assert town.client.get(f"/api/node/{town.world.top}/kv/key/one", timeout=20).status_code == 401
        assert not any(select.select([sock], [], [], 0)[0] for sock in waiting)
    finally:
        town.gateway.fault = ""
        town.gateway.go.set()
        for sock in waiting:
            assert sock.recv(12) == b"HTTP/1.1 401"
            sock.close()


# ------------------------------------------------------------------ several processes


def test_a_reload_reaches_all_processes(tmp_path, store_path):
    """Who is no longer a user must not get in through a process that wasn't asked."""
    import jwt

    secret = "s" * 64
    with dvid_dask.open(str(store_path)) as datastore:
        world = make_world(datastore)
    users = tmp_path / "users.json"
    users.write_text('{"ann": "read"}')
    auth = {"enforce": "authfile", "auth_file": str(users)}
    config = json.dumps({"admin_token": TOKEN, "auth": auth})
    popen = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("port=0", "port=0, processes=2"), str(store_path), config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DVID_JWT_SECRET_KEY": secret},
    )
    try:
        url = popen.stdout.readline().split(" on ")[1].split()[0]
        token = {"Authorization": f"Bearer {jwt.encode({'user': 'ann'}, secret, 'HS256')}", "Connection": "close"}

        def statuses(**more):
            return {
                httpx.get(f"{url}/api/node/{world.top}/seg/size/7", timeout=30, **more).status_code for _ in range(30)
            }

        assert statuses(headers=token) == {404}
        assert statuses() == {400}
        users.write_text('{"bob": "read"}')
        reload = f"{url}/api/server/reload-auth?admintoken={TOKEN}"
        assert httpx.post(reload, timeout=30).status_code == 200
        assert statuses(headers=token) == {400}
        users.write_text('{"ann": "nonsense"}')
        assert httpx.post(reload, timeout=30).status_code == 400
        users.write_text('{"ann": "readwrite"}')
        assert httpx.post(reload, timeout=30).status_code == 200
        assert statuses(headers=token) == {404}
    finally:
        popen.terminate()
        popen.communicate(timeout=60)
