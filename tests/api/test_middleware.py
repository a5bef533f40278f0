"""What surrounds every request: clean paths, cross-origin access, the block list, the closed door, the error form."""

import logging
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask import store
from dvid_dask.api import failures, middleware
from dvid_dask.errors import DvidError, LockedVersion, NotFound, NotSupported, TooBusy
from dvid_dask.formats.errors import FormatError

from .conftest import ADMIN

ORIGIN = {"Origin": "https://lab.org"}
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


# ------------------------------------------------------------------ paths


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", ".", "..", "a", "b.c", "..x", "%2F"]), max_size=8))
def test_cleaning_is_idempotent_and_leaves_nothing_to_clean(parts):
    path = "/" + "/".join(parts)
    clean = middleware.clean(path)
    assert middleware.clean(clean) == clean
    assert not middleware._UNCLEAN.search(clean.encode())
    if not middleware._UNCLEAN.search(path.encode()):
        assert clean == path


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        (b"/api//repos/info", "/api/repos/info"),
        (b"//api/repos/info", "/api/repos/info"),
        (b"/api/./repos/info?u=x&y", "/api/repos/info?u=x&y"),
        (b"/api/x/../repos/info/", "/api/repos/info/"),
        (b"/api/repos/info/..", "/api/repos/"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
def test_roundabout_paths_are_redirected_whatever_the_method(shared_server, method, path, clean):
    answer = shared_server.raw(method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 301 ")
    assert re.search(rb"\r\nlocation: ([^\r]*)", answer)[1].decode() == clean


def test_escaped_slashes_are_not_cleaned_but_split(client, kv):
    assert client.post(f"{kv}/key/a", content=b"1").status_code == 200
    assert client.get(f"{kv}/key/a%2Fb").content == b"1"


@pytest.mark.parametrize("path", [b"/%zz", b"/api/%", b"/api/%4", b"/api/%ff%fe", b"/api/node/%c3/x/y", b"/a%00b"])
def test_broken_escapes_are_refused(shared_server, path):
    answer = shared_server.raw(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


# ------------------------------------------------------------------ cross-origin access


def test_without_domains_there_is_no_permission(client):
    assert "access-control-allow-origin" not in client.get("/api/heartbeat", headers=ORIGIN).headers


def test_any_origin_may_read_any_answer(make_client):
    client = make_client(cors_domains=("*",))
    repo = client.repo()
    for path in ("/api/heartbeat", "/api/repos/info", "/api/help", f"/api/node/{repo}/note", "/nosuch"):
        assert client.get(path, headers=ORIGIN).headers["access-control-allow-origin"] == "*"
    assert client.get("/api/node/nosuch/note").headers["access-control-allow-origin"] == "*"


def test_a_preflight_is_answered_also_on_a_committed_version(make_client):
    client = make_client(cors_domains=("*",))
    repo = client.repo()
    client.instance(repo)
    client.commit(repo)
    answer = client.options(f"/api/node/{repo}/kv/keyvalues", headers=PREFLIGHT)
    assert answer.status_code == 204
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "content-type"
    # without the browser's question it is an ordinary request, and that version is locked
    assert client.options(f"/api/node/{repo}/note").status_code == 400


def test_a_list_of_origins(make_client):
    client = make_client(cors_domains=("https://LAB.org", "https://*.fly.edu:8080"))
    for origin, allowed in (
        ("https://lab.org", True),
        ("HTTPS://lab.ORG", True),
        ("https://a.b.fly.edu:8080", True),
        ("https://lab.org.evil.com", False),
        ("http://lab.org", False),
        ("https://lab.org:99", False),
        ("https://labxorg", False),
    ):
        answer = client.get("/api/heartbeat", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert answer.headers["vary"] == "Origin"
        answer = client.options("/api/repos", headers={**PREFLIGHT, "Origin": origin})
        assert answer.status_code == 204
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert answer.headers.get("access-control-allow-methods") == ("POST" if allowed else None)


def test_a_preflight_for_a_method_that_nobody_needs(make_client):
    client = make_client(cors_domains=("*",))
    answer = client.options("/api/repos", headers={**PREFLIGHT, "Access-Control-Request-Method": "PATCH"})
    assert answer.status_code == 204
    assert "access-control-allow-methods" not in answer.headers


# ------------------------------------------------------------------ block list, closed door


def test_blocked_users_and_addresses(make_client, tmp_path):
    file = tmp_path / "block"
    file.write_text("u=mallory,gone\nip=10.1\n")
    client = make_client(block_list_file=str(file))
    assert client.get("/api/repos/info?u=mallory").status_code == 429
    assert "gone" in client.get("/api/repos/info?u=mallory").text
    assert client.get("/api/heartbeat?u=mallory").status_code == 200
    assert client.get("/api/repos/info?u=alice").status_code == 200
    for headers in ({"X-Forwarded-For": "10.1.2.3, 4.4.4.4"}, {"Forwarded": 'for="10.1.2.3:99";proto=https'}):
        assert client.get("/api/repos/info", headers=headers).status_code == 429
    assert client.get("/api/repos/info", headers={"X-Forwarded-For": "10.2.2.3, 10.1.1.1"}).status_code == 200
    file.write_text("ip=testclient\n")
    client.post("/api/server/reload-blocklist", params=ADMIN)
    # an empty header names nobody, so the peer counts
    assert client.get("/api/repos/info", headers={"X-Forwarded-For": ""}).status_code == 429
    assert client.get("/api/repos/info", headers={"X-Forwarded-For": "10.2.2.3"}).status_code == 200
    file.write_text("u=alice\n")
    client.headers["X-Forwarded-For"] = "10.2.2.3"
    assert client.post("/api/server/reload-blocklist").status_code == 400
    assert client.post("/api/server/reload-blocklist", params=ADMIN).status_code == 200
    assert client.get("/api/repos/info?u=mallory").status_code == 200
    assert client.get("/api/repos/info?u=alice").status_code == 429
    file.write_text("rubbish\n")
    assert client.post("/api/server/reload-blocklist", params=ADMIN).status_code == 400
    assert client.get("/api/repos/info?u=alice").status_code == 429, "a bad file must not unblock anybody"


def test_the_door_is_closed_at_shutdown(client):
    client.app.state.server.available = False
    answer = client.get("/api/repos/info")
    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"
    assert client.get("/api/heartbeat").text == "OK"
    assert client.get("/api/load").status_code == 200
    assert client.app.state.server.in_flight == 0


def test_access_log(make_client, caplog):
    with caplog.at_level(logging.INFO, "dvid_dask.access"):
        make_client().get("/api/repos/info?admintoken=secret")
        assert not caplog.records
        client = make_client(access_log=True)
        client.get("/api/repos/info?admintoken=secret")
        client.get("/api/heartbeat")
    assert len(caplog.records) == 1
    assert "GET /api/repos/info 200" in caplog.text
    assert "secret" not in caplog.text


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DvidError("x"), 400),
        (LockedVersion("x"), 400),
        (NotFound("x"), 404),
        (NotSupported("x"), 501),
        (TooBusy("x"), 503),
        (FormatError("x"), 400),
        (store.Sealed("x"), 400),
        (store.ReadOnly("x"), 400),
        (store.Conflict("x"), 503),
        (store.StoreFull("x"), 507),
        (store.BadStore("x"), None),
        (ValueError("x"), None),
        (KeyError("x"), None),
    ],
)
def test_statuses(error, status):
    assert failures.status_of(error) == status


def test_the_form_of_errors(client):
    answer = client.get("/api/node/nosuch/note")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text.endswith(" (/api/node/nosuch/note).\n")


def test_an_unexpected_error_tells_an_id_and_nothing_else(client, kv, monkeypatch, caplog):
    def broken(self, key):
        raise RuntimeError("the inner workings at /home/someone")

    monkeypatch.setattr("dvid_dask.datatypes.keyvalue.KeyValue.value", broken)
    answer = client.get(f"{kv}/key/a")
    assert answer.status_code == 500
    assert "inner workings" not in answer.text
    request_id = re.search(r"request id (\S+)", answer.text)[1]
    assert any(request_id in r.getMessage() and r.exc_info for r in caplog.records)
    assert client.get("/api/repos/info").status_code == 200
