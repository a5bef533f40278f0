"""Versions: notes, logs, commits, children; what a committed version refuses, and whom it can't refuse."""

import pytest

from .conftest import ADMIN


def test_notes_and_logs(client, repo):
    node = f"/api/node/{repo}"
    assert client.post(f"{node}/note", json={"note": "n"}).content == b""
    assert client.get(f"{node}/note").json() == {"note": "n"}
    # DVID erases the note here
    for body in (b"", b"{}", b'{"note":1}', b'{"note":"x","n":1}', b'{"Note":"x"}'):
        assert client.post(f"{node}/note", content=body).status_code == 400
    assert client.get(f"{node}/note").json() == {"note": "n"}
    assert client.post(f"{node}/log", json={"log": ["a"]}).status_code == 200
    assert client.get(f"{node}/log").json()["log"][0].endswith("Z  a")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"note":3}', b'{"log":"x"}', b'{"log":[1]}', b"{"])
def test_commits_that_are_refused_lock_nothing(client, repo, body):
    assert client.post(f"/api/node/{repo}/commit", content=body).status_code == 400
    assert client.get(f"/api/node/{repo}/status").json() == {"Locked": False}


@pytest.mark.parametrize("level", ["node", "repo"])
def test_null_is_nothing_given(client, repo, level):
    before = client.get(f"/api/{level}/{repo}/log").json()["log"]
    assert client.post(f"/api/{level}/{repo}/log", json={"log": None, "other": None}).status_code == 200
    assert client.get(f"/api/{level}/{repo}/log").json()["log"] == before
    assert client.post(f"/api/{level}/{repo}/log", json={"log": ["a", None]}).status_code == 200
    assert [line.partition("  ")[2] for line in client.get(f"/api/{level}/{repo}/log").json()["log"]][-2:] == ["a", ""]


def test_notes_may_be_null(client, repo):
    client.post(f"/api/node/{repo}/note", json={"note": "old"})
    assert client.post(f"/api/node/{repo}/commit", json={"note": None, "log": None}).status_code == 200
    assert client.get(f"/api/node/{repo}/note").json() == {"note": "old"}
    child = client.post(f"/api/node/{repo}/newversion", json={"note": None, "uuid": None}).json()["child"]
    assert client.get(f"/api/node/{child}/note").json() == {"note": ""}
    client.post(f"/api/node/{child}/note", json={"note": "new"})
    assert client.post(f"/api/node/{child}/note", json={"note": None, "user": None}).status_code == 200
    assert client.get(f"/api/node/{child}/note").json() == {"note": ""}
    assert client.post(f"/api/node/{repo}/branch", json={"branch": "side", "note": None}).status_code == 200
    assert client.post(f"/api/node/{repo}/branch", json={"branch": None}).status_code == 400
    assert client.post(f"/api/node/{repo}/tag", json={"tag": "v1", "note": None}).status_code == 200


def test_commit(client, repo):
    answer = client.post(f"/api/node/{repo}/commit", json={"NOTE": "done", "Log": ["x"]})
    assert answer.json() == {"committed": repo}
    assert client.get(f"/api/node/{repo}/commit").json() == {"Locked": True}
    assert client.get(f"/api/node/{repo}/note").json() == {"note": "done"}
    assert client.post(f"/api/node/{repo}/commit", params=ADMIN, json={}).status_code == 400


def test_a_committed_version_refuses_all_but_children(client, kv, repo):
    client.commit(repo)
    node = f"/api/node/{repo}"
    for method, path in (
        *(("POST", "note"), ("POST", "log"), ("POST", "commit"), ("DELETE", "nosuch"), ("OPTIONS", "note")),
        *(("POST", "kv/key/a"), ("PUT", "kv/key/a"), ("DELETE", "kv/key/a"), ("POST", "kv/tags"), ("POST", "kv/info")),
    ):
        assert client.request(method, f"{node}/{path}", content=b"{}").status_code == 400, (method, path)
    assert client.get(f"{node}/nosuch").status_code == 404
    assert client.post(f"{node}/kv/blobstore", content=b"x").status_code == 200
    assert client.post(f"{node}/newversion").status_code == 200
    assert client.post(f"{node}/branch", json={"branch": "b"}).status_code == 200
    assert client.post(f"{node}/tag", json={"tag": "v1"}).json() == {"child": "v1"}


@pytest.mark.parametrize("who", ["admin", "fullwrite"])
def test_who_may_write_to_a_committed_version(make_client, who):
    client = make_client(mode="fullwrite" if who == "fullwrite" else "")
    params = ADMIN if who == "admin" else {}
    repo = client.repo()
    path = client.instance(repo)
    client.post(f"{path}/key/a", content=b"old")
    client.commit(repo)
    child = client.child(repo)
    assert client.post(f"{path}/key/a", params=params, content=b"new").status_code == 200
    assert client.post(f"/api/node/{repo}/note", params=params, json={"note": "late"}).status_code == 200
    late = {"typename": "roi", "dataname": "late"}
    assert client.post(f"/api/repo/{repo}/instance", params=params, json=late).status_code == 200
    # a child that has not changed the key sees it
    assert client.get(f"/api/node/{child}/kv/key/a").content == b"new"
    assert client.post(f"/api/node/{repo}/commit", params=params, json={}).status_code == 400


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("newversion", b'{"uuid":"short"}'),
        ("newversion", b'{"note":5}'),
        ("newversion", b"[]"),
        ("branch", b""),
        ("branch", b'{"branch":""}'),
        ("branch", b'{"branch":"master"}'),
        ("branch", b'{"branch":5}'),
        ("tag", b""),
        ("tag", b"{}"),
        ("tag", b'{"tag":""}'),
        ("tag", b'{"tag":"a/b"}'),
        ("tag", b'{"tag":"a:b"}'),
    ],
)
def test_children_that_are_not_made(client, repo, action, body):
    client.commit(repo)
    assert client.post(f"/api/node/{repo}/{action}", content=body).status_code == 400
    assert len(client.get(f"/api/repo/{repo}/info").json()["DAG"]["Nodes"]) == 1


def test_open_versions_have_no_children(client, repo):
    for action, body in (("newversion", {}), ("branch", {"branch": "b"}), ("tag", {"tag": "t"})):
        assert client.post(f"/api/node/{repo}/{action}", json=body).status_code == 400


def test_a_given_uuid_is_taken_once(client, repo):
    client.commit(repo)
    uuid = "0123456789abcdef" * 2
    assert client.post(f"/api/node/{repo}/newversion", json={"uuid": uuid}).json() == {"child": uuid}
    body = {"branch": "b", "uuid": uuid}
    assert client.post(f"/api/node/{repo}/branch", json=body).status_code == 400


@pytest.mark.parametrize(
    "selector",
    ["x" * 10_000, "~", ":~", "a:b:c", "{repo}:master~-1", "{repo}:master~99", "{repo}:~x", "{repo}^1", "%20"],
)
def test_absurd_selectors(client, kv, repo, selector):
    for path in ("note", "kv/keys", "nosuch/keys"):
        assert client.get(f"/api/node/{selector.format(repo=repo)}/{path}").status_code == 400
