"""A datastore in memory behind a client without sockets; real servers for what needs sockets and signals."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest
import uvicorn
from starlette.testclient import TestClient

import dvid_dask
from dvid_dask.api import AuthConfig, ServerConfig, create_app

from .gateway import FakeGateway, make_world

TOKEN = "let-me-in"
ADMIN = {"admintoken": TOKEN}


class Client(TestClient):
    """The test client, and the few steps that most tests begin with."""

    def repo(self, **texts):
        return self.post("/api/repos", params=ADMIN, json=texts).json()["root"]

    def instance(self, repo, typename="keyvalue", name="kv", **settings):
        answer = self.post(f"/api/repo/{repo}/instance", json={"typename": typename, "dataname": name, **settings})
        assert answer.status_code == 200, answer.text
        return f"/api/node/{repo}/{name}"

    def commit(self, version):
        assert self.post(f"/api/node/{version}/commit", json={}).status_code == 200

    def child(self, version):
        return self.post(f"/api/node/{version}/newversion").json()["child"]


@pytest.fixture
def make_client():
    """Clients of servers with a configuration of their own, each over a new datastore unless one is given."""
    with contextlib.ExitStack() as held:

        def make(datastore=None, **settings):
            if datastore is None:
                datastore = held.enter_context(dvid_dask.create("memory://", compact="never"))
            config = ServerConfig(**{"admin_token": TOKEN, **settings})
            # answers with errors are what many tests are about; a redirect is an answer
            client = Client(create_app(datastore, config), raise_server_exceptions=True, follow_redirects=False)
            client.datastore = datastore
            return client

        yield make


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def repo(client):
    return client.repo(alias="test")


@pytest.fixture
def kv(client, repo):
    return client.instance(repo)


@dataclass
class Process:
    """A server in a process of its own."""

    popen: subprocess.Popen
    port: int
    url: str

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def raw(self, data, *, leave=False):
        """Send bytes and return what comes back until the server closes; or leave at once."""
        with self.connect() as sock:
            # a server that has seen enough may answer and close before all is sent
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            out = b""
            if not leave:
                with contextlib.suppress(ConnectionError):
                    while chunk := sock.recv(65536):
                        out += chunk
            return out

    def terminate(self):
        self.popen.send_signal(signal.SIGTERM)

    def memory(self):
        """Resident bytes."""
        with open(f"/proc/{self.popen.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


SCRIPT = """
import sys, msgspec
from dvid_dask.api import ServerConfig, serve
serve(sys.argv[1], port=0, config=msgspec.json.decode(sys.argv[2], type=ServerConfig))
"""


@contextlib.contextmanager
def server_process(store, **settings):
    import msgspec

    config = msgspec.json.encode({"admin_token": TOKEN, **settings}).decode()
    popen = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(store), config], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = popen.stdout.readline()
        if " on http://" not in line:
            popen.kill()
            raise RuntimeError(f"the server said {line!r} and {popen.communicate()[1]}")
        url = line.split(" on ")[1].split()[0]
        yield Process(popen, int(url.rpartition(":")[2]), url)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.communicate()


@pytest.fixture
def gateway(monkeypatch):
    """A DatasetGateway on this machine."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    service = FakeGateway()
    yield service
    service.close()


@pytest.fixture
def guarded(make_client):
    """A client of a server with users, over a store as of `make_world`."""

    def make(datastore=None, world=None, settings=None, **auth):
        if datastore is None:
            datastore = dvid_dask.create("memory://", compact="never")
        world = world or make_world(datastore)
        client = make_client(datastore, auth=AuthConfig(**world.auth(**auth)), **(settings or {}))
        client.world, client.guard = world, client.app.state.server.guard
        return client

    return make


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """One server process for tests that leave it as it was."""
    store = tmp_path_factory.mktemp("shared-server") / "store"
    dvid_dask.create(str(store), compact="never").close()
    with server_process(store, cors_domains=["*"], body_timeout=2.0, max_body=1 << 26) as process:
        yield process


@pytest.fixture
def store_path(tmp_path):
    path = tmp_path / "store"
    dvid_dask.create(str(path), compact="never").close()
    return path


@pytest.fixture
def launch(store_path):
    """Start servers on the test's store."""
    with contextlib.ExitStack() as held:
        yield lambda **settings: held.enter_context(server_process(store_path, **settings))


@contextlib.contextmanager
def live(app):
    """An ASGI application on a socket, in a thread; yields its port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(30)
