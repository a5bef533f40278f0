"""The server process: where it listens, how it stops, what a kill leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request

import pytest
import uvicorn

import dvid_dask
from dvid_dask.api.config import ConfigError
from dvid_dask.api.serve import Server, _trimmer, split_address

from .conftest import SCRIPT, TOKEN


def call(server, method, path, body=b""):
    request = urllib.request.Request(server.url + path, body or None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def make_kv(server):
    repo = json.loads(call(server, "POST", f"/api/repos?admintoken={TOKEN}", b"{}")[1])["root"]
    assert call(server, "POST", f"/api/repo/{repo}/instance", b'{"typename":"keyvalue","dataname":"kv"}')[0] == 200
    return repo, f"/api/node/{repo}/kv"


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "localhost:http", "x:65536", "x:-1", "x:８０"])
def test_bad_addresses(address):
    with pytest.raises(ConfigError, match="host:port"):
        split_address(address)


def test_it_listens_on_loopback_only_and_says_where(launch, tmp_path):
    server = launch(pid_file=str(tmp_path / "pid"))
    assert server.url.startswith("http://127.0.0.1:")
    assert (tmp_path / "pid").read_text().strip() == str(server.popen.pid)
    assert call(server, "GET", "/api/heartbeat") == (200, b"OK")
    info = json.loads(call(server, "GET", "/api/server/info")[1])
    assert info["Host"].endswith(f":{server.port}")
    server.terminate()
    assert server.popen.wait(30) == 0
    assert not (tmp_path / "pid").exists()


def test_a_taken_port_is_a_clear_error(store_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        script = SCRIPT.replace("port=0", f"port={port}")
        run = subprocess.run(
            [sys.executable, "-c", script, store_path, "{}"], capture_output=True, text=True, timeout=60
        )
    assert run.returncode != 0
    assert f"can't listen on 127.0.0.1:{port}" in run.stderr


def test_the_token_comes_from_the_environment(store_path):
    env = {**os.environ, "DVID_ADMIN_TOKEN": "from-outside"}
    popen = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, store_path, "{}"], stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        url = popen.stdout.readline().split(" on ")[1].split()[0]
        request = urllib.request.Request(f"{url}/api/repos?admintoken=from-outside", b"{}", method="POST")
        assert urllib.request.urlopen(request, timeout=30).status == 200
    finally:
        popen.kill()
        popen.communicate()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_write_in_flight_finishes_and_new_requests_get_503(launch, store_path, sig):
    server = launch()
    repo, kv = make_kv(server)
    value = os.urandom(3_000_000)
    with server.connect() as slow, server.connect() as idle:
        slow.sendall(b"POST %s/key/late HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (kv.encode(), len(value)))
        slow.sendall(value[:1_000_000])
        time.sleep(0.3)
        server.popen.send_signal(sig)
        deadline = time.monotonic() + 10
        while call(server, "GET", "/api/repos/info")[0] != 503:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert call(server, "GET", "/api/heartbeat") == (200, b"OK")
        # a connection that was open before
        idle.sendall(b"POST %s/key/new HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1" % kv.encode())
        assert idle.recv(1000).startswith(b"HTTP/1.1 503")
        slow.sendall(value[1_000_000:])
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.popen.wait(30) == 0
    with dvid_dask.open(str(store_path)) as datastore:
        assert dict(datastore[repo]["kv"].items()) == {"late": value}


@pytest.mark.parametrize("twice", [False, True])
def test_who_does_not_finish_is_broken_off(launch, store_path, twice):
    server = launch(shutdown_delay=60.0 if twice else 0.5)
    repo, kv = make_kv(server)
    with server.connect() as slow:
        slow.sendall(b"POST %s/key/never HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\nx" % kv.encode())
        time.sleep(0.3)
        server.terminate()
        if twice:
            time.sleep(0.5)
            assert server.popen.poll() is None
            server.terminate()
        server.popen.wait(15)
    with dvid_dask.open(str(store_path)) as datastore:
        assert list(datastore[repo]["kv"]) == []


def test_kill_loses_no_answered_write(launch, store_path):
    server = launch()
    repo, kv = make_kv(server)
    answered = []

    def write(name):
        with server.connect() as sock:
            for n in range(100_000):
                key = f"{name}-{n}"
                sock.sendall(
                    b"POST %s/key/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nvalue"
                    % (kv.encode(), key.encode())
                )
                try:
                    if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
                        return
                except ConnectionError:
                    return
                answered.append(key)

    writers = [threading.Thread(target=write, args=(w,)) for w in "ab"]
    for w in writers:
        w.start()
    time.sleep(1.5)
    server.popen.kill()
    for w in writers:
        w.join(30)
    assert len(answered) > 10
    with dvid_dask.open(str(store_path)) as datastore:
        held = dict(datastore[repo]["kv"].items())
        logged = [m["Key"] for m in datastore[repo]["kv"].mutations()]
    assert set(answered) <= held.keys()
    assert set(held.values()) == {b"value"}
    assert sorted(logged) == sorted(held), "a write and its log entry are one commit"


def test_two_servers_on_one_store(launch):
    first, second = launch(), launch()
    repo, kv = make_kv(first)
    assert call(first, "POST", f"{kv}/key/a", b"1")[0] == 200
    deadline = time.monotonic() + 10
    while call(second, "GET", f"{kv}/key/a") != (200, b"1"):
        assert time.monotonic() < deadline
    assert call(second, "POST", f"{kv}/key/b", b"2")[0] == 200
    assert call(first, "POST", f"/api/node/{repo}/commit", b"{}")[0] == 200
    # within the stated bound on what other processes may not know yet
    time.sleep(0.3)
    assert call(second, "POST", f"{kv}/key/c", b"3")[0] == 400
    assert json.loads(call(second, "GET", f"{kv}/keys")[1]) == ["a", "b"]


def test_a_read_only_server_without_a_token_opens_the_store_for_reading(store_path):
    with dvid_dask.open(str(store_path)) as datastore:
        repo = datastore.new_repo()
        repo.new_instance("keyvalue", "kv").put("a", b"1")
    config = json.dumps({"mode": "readonly"})
    env = {k: v for k, v in os.environ.items() if k != "DVID_ADMIN_TOKEN"}
    popen = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, store_path, config], stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        url = popen.stdout.readline().split(" on ")[1].split()[0]
        assert urllib.request.urlopen(f"{url}/api/node/{repo.root}/kv/key/a", timeout=30).read() == b"1"
        assert json.load(urllib.request.urlopen(f"{url}/api/repos/info", timeout=30)).keys() == {repo.root}
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/api/node/{repo.root}/kv/key/a", b"2", timeout=30)
        assert caught.value.code == 400
        caught.value.close()
    finally:
        popen.terminate()
        assert popen.wait(30) == 0
        popen.communicate()


def test_memory_goes_back_once_nobody_asks(make_client, monkeypatch):
    app = make_client().app
    server = Server(app.state.server, uvicorn.Config(app))
    now, trims = [100.0], []
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(sys.modules["dvid_dask.api.serve"], "time", clock)
    server._trim = lambda: trims.append(now[0])

    def ticks(until):
        while now[0] < until:
            now[0] += 0.5
            server._tidy()

    ticks(110)
    assert not trims  # nobody has asked for anything
    server.server_state.total_requests = 3
    ticks(112)
    server.server_state.total_requests = 4
    app.state.server.in_flight = 1
    ticks(130)
    assert not trims
    app.state.server.in_flight = 0
    ticks(134)
    assert not trims
    ticks(200)
    assert len(trims) == 1
    server.server_state.total_requests = 5
    ticks(300)
    assert len(trims) == 2


def test_the_allocator_is_asked_or_nothing_happens():
    _trimmer()()
