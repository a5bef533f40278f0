"""`dvid-dask serve` as a process: it says where it listens, obeys its flags and file, and ends cleanly when told to."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
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


def children(pid):
    found = []
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # it just ended
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_processes_share_a_port_and_see_each_other_s_writes_at_once(tmp_path):
    path = tmp_path / "store"
    repo = dvid_dask.create(str(path)).new_repo("fly")
    repo.new_instance("keyvalue", "notes")
    with served(path, "--processes", "2") as (url, server):
        key = f"{url}/api/node/{repo.root}/notes/key/n"
        for i in range(60):  # every request on a connection of its own, which either may accept
            assert ask(key, b"%d" % i, "POST")[0] == 200
            assert ask(key) == (200, b"%d" % i)
        members = children(server.pid)
        assert len(members) == 2
        # one that dies is replaced, and the other serves on
        os.kill(members[0], signal.SIGKILL)
        for _ in range(200):
            now = children(server.pid)
            if len(now) == 2 and now != members:
                break
            time.sleep(0.1)
        assert len(children(server.pid)) == 2
        assert ask(key) == (200, b"59")
        members = children(server.pid)
    for pid in members:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_processes_end_with_their_parent(store):
    with served(store, "--processes", "2", status=-signal.SIGKILL) as (_, server):
        members = children(server.pid)
        server.kill()
    assert len(members) == 2
    for pid in members:
        for _ in range(300):
            if not os.path.exists(f"/proc/{pid}"):
                break
            time.sleep(0.1)
        assert not os.path.exists(f"/proc/{pid}")


def test_a_store_in_memory_is_served_by_one_process():
    done = subprocess.run(
        [sys.executable, "-m", "dvid_dask.cli", "serve", "memory://x", "--processes", "2"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "several processes can serve a store on disk" in done.stderr
