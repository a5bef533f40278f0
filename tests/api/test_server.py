"""The server's own endpoints."""

import re

import pytest

from dvid_dask import datatypes
from dvid_dask.api import server

from .conftest import ADMIN


def test_info_is_an_object_of_strings_that_clients_can_parse(make_client):
    client = make_client(note="for tests", host="tea.lab.org", mode="fullwrite", path="/etc/dvid.toml")
    info = client.get("/api/server/info").json()
    assert all(isinstance(v, str) for v in info.values())
    assert (info["Note"], info["Host"], info["TOML location"]) == ("for tests", "tea.lab.org", "/etc/dvid.toml")
    assert info["Mode"] == "allow writes on committed nodes"
    # as git describe writes it; the first numbers say which DVID this can stand in for
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)-(\d+)-g[0-9a-f]{7,}$", info["DVID Version"])
    assert tuple(map(int, numbers.groups())) > (0, 8)
    assert "Mode" not in make_client().get("/api/server/info").json()


def test_note_and_config(make_client):
    client = make_client(note="hello", text="[server]\nnote = 'hello'\n")
    assert client.get("/api/server/note").text == "hello"
    assert client.get("/api/server/config").status_code == 400
    assert client.get("/api/server/config", params=ADMIN).text == "[server]\nnote = 'hello'\n"


def test_the_admin_token(make_client):
    client = make_client()
    for token in ("", "wrong", "let-me-i", "let-me-inn"):
        assert client.get("/api/server/config", params={"admintoken": token}).status_code == 400
    # the first of several counts, as for all options
    assert client.get("/api/server/config?admintoken=wrong&admintoken=let-me-in").status_code == 400
    assert client.get("/api/server/config?admintoken=let-me-in&admintoken=wrong").status_code == 200
    nobody = make_client(admin_token="")
    answer = nobody.post("/api/repos?admintoken=")
    assert answer.status_code == 400
    assert "DVID_ADMIN_TOKEN" in answer.text


def test_types(client, kv):
    assert client.get("/api/server/types").json() == {"keyvalue": "github.com/janelia-flyem/dvid/datatype/keyvalue"}
    compiled = client.get("/api/server/compiled-types").json()
    assert sorted(compiled) == datatypes.typenames()
    shipped = [name for name in compiled if not name.startswith("test-")]  # other tests register types of their own
    assert "labelmap" in shipped
    for name in shipped:
        text = client.get(f"/api/help/{name}").text
        assert name in text
        assert "/info" in text
    page = client.get("/api/help").text
    assert all(f"/api/help/{name}" in page for name in shipped)
    assert client.get("/api/help/nosuch").status_code == 400


def test_settings_change_the_slots(client, kv):
    throttle = client.app.state.server.throttle
    assert client.get(f"{kv}/mutations?throttle=on").status_code == 200
    assert throttle.running == 0
    throttle.take()
    answer = client.get(f"{kv}/mutations?throttle=on")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get(f"{kv}/mutations").status_code == 200
    assert client.get(f"{kv}/mutations?throttle=off").status_code == 200
    answer = client.post("/api/server/settings", params=ADMIN, json={"throttle": "2"})
    assert answer.text == "throttle was 1, is 2\n"
    assert client.get(f"{kv}/mutations?throttle=true").status_code == 200
    throttle.give_back()
    # one after the other, a client never stands in its own way
    for path in (f"{kv}/mutations", f"{kv}/keys") * 20:
        assert client.get(f"{path}?throttle=on").status_code == 200
    for bad in ({"throttle": 3}, {"throttle": "x"}, {"gc": "1.5"}, {"gc": "5", "throttle": []}):
        assert client.post("/api/server/settings", params=ADMIN, json=bad).status_code == 400
    assert throttle.limit == 2


def test_load_and_pings(client, kv):
    load = client.get("/api/load?u=prober").json()
    assert all(isinstance(v, int) and v >= 0 for v in load.values())
    record = client.get("/api/user-latencies?u=prober").json()
    assert record["User"] == "prober"
    assert record["MinLatency"] <= record["LastLatency"] <= record["MaxLatency"]
    assert client.get("/api/user-latencies?u=stranger").json()["User"] == ""
    assert {"prober", "stranger"} <= client.get("/api/user-latencies").json().keys()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.25, "59.25s"), (60, "1m0s"), (90061, "25h1m1s")])
def test_durations(seconds, text):
    assert server.go_duration(seconds) == text


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/api/repos", 200, "GET, HEAD, POST, OPTIONS"),
        ("/api/server/settings", 200, "POST, OPTIONS"),
        ("/api/server/info/", 200, "GET, HEAD, OPTIONS"),
        ("/api/repo/{repo}/info/", 200, "GET, HEAD, OPTIONS"),
        ("/api/node/{repo}/", 200, "GET, HEAD, OPTIONS"),
        ("/api/node/{repo}", 404, None),
        ("/api/repo/{repo}/nosuch", 404, None),
        ("/api/server/info", 200, "GET, HEAD, OPTIONS"),
        ("/api/zzz", 200, "GET, HEAD, OPTIONS"),
        ("/api/node/{repo}/note", 200, "GET, HEAD, POST, OPTIONS"),
        ("/api/node/{repo}/branch", 200, "POST, OPTIONS"),
        ("/api/repo/{repo}", 200, "HEAD, OPTIONS"),
        ("/api/repo/{repo}/branch-versions/master", 200, "GET, HEAD, OPTIONS"),
        ("/api/server/nosuch", 404, None),
        ("/api/node/{repo}/nosuch", 404, None),
        ("/api/heartbeat", 404, None),
        ("/api/node/nosuch/note", 400, None),
    ],
)
def test_options(client, repo, path, status, allow):
    answer = client.options(path.format(repo=repo))
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)


def test_storage_summary_goes_to_the_log(client, kv, caplog):
    import logging
    import threading

    with caplog.at_level(logging.INFO):
        assert client.get("/api/storage").status_code == 400
        assert client.get("/api/storage", params=ADMIN).status_code == 200
        for thread in threading.enumerate():
            if thread.name == "storage-summary":
                thread.join()
    assert "instance kv [keyvalue]" in caplog.text
