"""The dispatcher: the order of its gates, blobs, and what belongs to no version."""

import pytest

from dvid_dask.api.instances import is_instance_path

from .conftest import ADMIN


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/api/node/u/d/k", True),
        ("/api/node/u/d/k/", True),
        ("/api/node/u/d/k/x/y/", True),
        ("/api/node/u/d", False),
        ("/api/node/u/d/", False),
        ("/api/node//d/k", False),
        ("/api/nodes/u/d/k", False),
        ("/x/api/node/u/d/k", False),
    ],
)
def test_paths(path, is_one):
    assert is_instance_path(path) == is_one


def test_gates_in_order(client, kv, repo):
    assert "nosuch" in client.get("/api/node/nosuch/kv/nosuch").text
    # neuclease makes the instance where it reads these words
    absent = client.get(f"/api/node/{repo}/nosuch/nosuch")
    assert (absent.status_code, "invalid data instance name" in absent.text) == (400, True)
    assert "'nosuch'" in absent.text
    answer = client.get(f"{kv}/nosuch")
    assert answer.status_code == 400
    assert "/api/help/keyvalue" in answer.text
    client.commit(repo)
    # a locked version is named before the keyword is looked at
    assert "committed" in client.post(f"{kv}/nosuch").text


def test_empty_last_parts_are_dropped(client, kv):
    client.post(f"{kv}/key/a/", content=b"1")
    assert client.get(f"{kv}/keys/").json() == ["a"]
    assert client.get(f"{kv}/key/a/more/parts").content == b"1"


def test_blobs(client, kv, repo):
    reference = client.post(f"{kv}/blobstore", content=b"hello").json()["reference"]
    assert reference == "8UtYSGSD2U9wgDh5jClpfw=="
    assert client.get(f"{kv}/blobstore/{reference}").content == b"hello"
    other = client.instance(repo, "roi", "area")
    assert client.get(f"{other}/blobstore/{reference}").content == b"hello"
    for path, status in (
        ("/blobstore", 400),
        ("/blobstore/not*base64", 400),
        ("/blobstore/ü", 400),
        (f"/blobstore/{reference}/x", 400),
        ("/blobstore/AAAAAAAAAAAAAAAAAAAAAA==", 404),
    ):
        assert client.get(f"{kv}{path}").status_code == status, path
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, f"{kv}/blobstore/{reference}").status_code == 400
    empty = client.post(f"{kv}/blobstore", content=b"").json()["reference"]
    assert client.get(f"{kv}/blobstore/{empty}").status_code == 404


def test_unversioned_instances_know_no_lock(client, repo):
    path = client.instance(repo, name="kv", Versioned="false")
    client.commit(repo)
    child = client.child(repo)
    assert client.post(f"{path}/key/a", content=b"1").status_code == 200
    assert client.get(f"/api/node/{child}/kv/key/a").content == b"1"
    assert client.delete(f"/api/node/{child}/kv/key/a").status_code == 200
    assert client.get(f"{path}/keys").json() == []
    assert len(client.get(f"{path}/mutations-range/{repo}/{child}").json()) == 2


def test_timing_header(make_client):
    client = make_client(allow_timing=True)
    path = client.instance(client.repo())
    assert client.get(f"{path}/keys").headers["timing-allow-origin"] == "*"
    assert "timing-allow-origin" not in client.get("/api/server/info").headers


def test_any_method_the_client_invents(client, kv):
    assert client.request("BREW", f"{kv}/key/a").status_code == 400
    assert client.request("BREW", "/api/repos").status_code == 404


def test_user_and_app_reach_the_log(client, kv, repo):
    client.post(f"{kv}/key/a?u=alice&app=prober", content=b"1")
    client.delete(f"{kv}/key/a", params={"u": "bob", **ADMIN})
    history = list(client.app.state.server.datastore[repo]["kv"].history())
    assert [(m.user, m.app) for m in history] == [("alice", "prober"), ("bob", "")]
