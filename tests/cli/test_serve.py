"""`dvid-dask serve` as a process: it says where it listens, obeys its flags and file, and ends cleanly when told to."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

import dvid_dask


@contextlib.contextmanager
def served(store, *arguments, status=0, **environment):
    command = [sys.executable, "-m", "dvid_dask.cli", "serve", str(store), "--port", "0", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "DVID_ADMIN_TOKEN"} | environment
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        try:
            line = server.stdout.readline()
            assert "http://127.0.0.1:" in line, line + server.stderr.read()
            yield next(word for word in line.split() if word.startswith("http://")), server
            server.send_signal(signal.SIGTERM)
            rest, errors = server.communicate(timeout=30)
            assert server.returncode == status, rest + errors
            assert "Traceback" not in errors
        finally:
            server.kill()


def ask(url, body=None, method=None):
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "store"
    repo = dvid_dask.create(str(path), compact="never").new_repo("fly")
    repo.new_instance("keyvalue", "notes")["a"] = b"one"
    repo["master"].commit()
    return path


def test_reads_and_writes(store):
    with served(store) as (url, _):
        status, body = ask(f"{url}/api/repos/info")
        assert status == 200
        root = next(iter(json.loads(body)))
        assert ask(f"{url}/api/node/{root}/notes/key/a") == (200, b"one")
        assert ask(f"{url}/api/node/{root}/notes/key/a", b"two")[0] == 400
        child = json.loads(ask(f"{url}/api/node/{root}/branch", json.dumps({"branch": "rw"}).encode())[1])["child"]
        assert ask(f"{url}/api/node/{child}/notes/key/a", b"two")[0] == 200
    # what was answered is in the store
    assert dvid_dask.open(str(store), compact="never")[child]["notes"]["a"] == b"two"


def test_readonly(store):
    with served(store, "--readonly") as (url, _):
        root = next(iter(json.loads(ask(f"{url}/api/repos/info")[1])))
        assert ask(f"{url}/api/node/{root}/notes/key/a")[0] == 200
        assert ask(f"{url}/api/node/{root}/branch", b'{"branch": "ro"}')[0] == 400
        assert json.loads(ask(f"{url}/api/server/info")[1])["Mode"] == "read only"


def test_fullwrite_reaches_committed_versions(store):
    with served(store, "--fullwrite") as (url, _):
        root = next(iter(json.loads(ask(f"{url}/api/repos/info")[1])))
        assert ask(f"{url}/api/node/{root}/notes/key/fw", b"x")[0] == 200
    assert dvid_dask.open(str(store), compact="never")[root]["notes"]["fw"] == b"x"


def test_the_admin_token_comes_from_the_environment(store):
    with served(store, DVID_ADMIN_TOKEN="secret") as (url, _):
        root = next(iter(json.loads(ask(f"{url}/api/repos/info")[1])))
        assert ask(f"{url}/api/node/{root}/notes/key/adm", b"x")[0] == 400
        assert ask(f"{url}/api/node/{root}/notes/key/adm?admintoken=wrong", b"x")[0] == 400
        assert ask(f"{url}/api/node/{root}/notes/key/adm?admintoken=secret", b"x")[0] == 200


def test_the_configuration_is_read_and_unknown_keys_warned_of(store, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('[server]\nnote = "hello"\ncorsDomains = ["*"]\nnonsense = 3\n')
    with served(store, "--config", str(config)) as (url, server):
        assert ask(f"{url}/api/server/note") == (200, b"hello")
        request = urllib.request.Request(f"{url}/api/heartbeat", headers={"Origin": "http://x.org"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
        server.send_signal(signal.SIGTERM)
        assert "server.nonsense is unknown" in server.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--readonly", "--fullwrite"), 2, "exclude each other"),
        (("--config", "/no/such/file"), 1, "can't read the configuration"),
        (("--host", "256.0.0.1"), 1, "can't listen on 256.0.0.1"),
        (("--port", "99999"), 2, "65535"),
    ],
)
def test_what_can_not_start_says_why(cli, store, arguments, status, words):
    failed = cli("serve", store, "--port", "0", *arguments, code=status)
    assert words in " ".join(failed.err.split())
