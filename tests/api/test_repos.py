"""Repositories: making, describing, merging; what is refused changes nothing."""

import pytest

from .conftest import ADMIN


def info(client, repo):
    return client.get(f"/api/repo/{repo}/info").json()


def test_a_new_repo(client):
    repo = client.repo(alias="fly", description="<one>")
    assert info(client, repo)["Alias"] == "fly"
    assert client.get("/api/repos/info").json().keys() == {repo}
    # no markup in the bytes, though the value is whole
    assert b"<one>" not in client.get("/api/repos/info").content
    assert info(client, repo)["Description"] == "<one>"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"alias":1}',
        b'{"root":null}',
        b'{"alias":null}',
        b"\xff",
        b'{"root":""}',
        b'{"root":"a/b"}',
        b"1",
    ],
)
def test_bodies_that_make_no_repo(client, body):
    assert client.post("/api/repos", params=ADMIN, content=body).status_code == 400
    assert client.get("/api/repos/info").json() == {}


def test_a_root_is_given_once(client):
    assert client.repo(root="first") == "first"
    assert client.post("/api/repos", params=ADMIN, json={"root": "first"}).status_code == 400
    assert client.head("/api/repo/first").status_code == 200


def test_what_a_read_only_server_refuses(make_client):
    plain = make_client()
    repo = plain.repo()
    path = plain.instance(repo)
    datastore = plain.app.state.server.datastore
    client = make_client(datastore, mode="readonly")
    assert client.get("/api/server/info").json()["Mode"] == "read only"
    assert client.get(f"{path}/keys").status_code == 200
    for method, url in (
        ("POST", f"{path}/key/a"),
        ("DELETE", f"{path}/key/a"),
        ("POST", f"{path}/blobstore"),
        ("OPTIONS", f"/api/node/{repo}/note"),
        ("POST", f"/api/node/{repo}/commit"),
        ("POST", f"/api/repo/{repo}/info"),
        ("POST", f"/api/repo/{repo}/instance"),
    ):
        assert client.request(method, url, content=b"{}").status_code == 400, (method, url)
    # an admin writes, but makes no repos
    assert client.post(f"{path}/key/a", params=ADMIN, content=b"1").status_code == 200
    assert client.post("/api/repos", params=ADMIN).status_code == 400
    assert client.get(f"{path}/key/a").content == b"1"


def test_a_body_may_be_null(client, repo):
    assert client.post("/api/repos", params=ADMIN, content=b"null").status_code == 200
    assert client.post(f"/api/repo/{repo}/info", content=b"null").status_code == 200
    path = client.instance(repo)
    assert client.post(f"{path}/tags", json={"a": "1"}).status_code == 200
    assert client.post(f"{path}/tags", content=b"null").status_code == 200
    assert client.get(f"{path}/tags").json() == {"Tags": {"a": "1"}}
    assert client.post(f"{path}/tags", json={"a": None}).status_code == 400


def test_info_is_changed_in_one_go(client, repo):
    assert client.post(f"/api/repo/{repo}/info", json={"alias": "new", "description": 5}).status_code == 400
    assert info(client, repo)["Alias"] == "test"
    assert client.post(f"/api/repo/{repo}/info", json={"ALIAS": "new", "other": 5}).status_code == 200
    assert info(client, repo)["Alias"] == "new"


def test_log(client, repo):
    assert client.post(f"/api/repo/{repo}/log", json={"log": ["one", "two"]}).content == b""
    lines = client.get(f"/api/repo/{repo}/log").json()["log"]
    assert [line.partition("  ")[2] for line in lines] == ["one", "two"]
    for body in (b"", b"{}", b'{"log":"x"}', b'{"log":["x",1]}', b'{"Log":["x"]}', b'{"log":["x"],"n":5}'):
        assert client.post(f"/api/repo/{repo}/log", content=body).status_code == 400
    assert client.get(f"/api/repo/{repo}/log").json()["log"] == lines


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"typename": "keyvalue"},
        {"dataname": "x"},
        {"typename": "", "dataname": "x"},
        {"typename": "nosuch", "dataname": "x"},
        {"typename": "keyvalue", "dataname": ""},
        {"typename": "keyvalue", "dataname": "a/b"},
        {"typename": "keyvalue", "dataname": "log"},
        {"typename": "keyvalue", "dataname": 5},
        {"typename": "keyvalue", "dataname": "x", "Versioned": "maybe"},
        {"typename": "keyvalue", "dataname": "x", "Compression": 5},
    ],
)
def test_instances_that_are_not_made(client, repo, body):
    assert client.post(f"/api/repo/{repo}/instance", json=body).status_code == 400
    assert info(client, repo)["DataInstances"] == {}


def test_instances_are_made_at_open_versions(client, repo):
    client.commit(repo)
    body = {"typename": "keyvalue", "dataname": "kv"}
    assert client.post(f"/api/repo/{repo}/instance", json=body).status_code == 400
    child = client.child(repo)
    answer = client.post(f"/api/repo/{child}/instance", json=body)
    assert answer.json() == {"result": f"Added kv [keyvalue] to node {child}"}
    assert info(client, repo)["DataInstances"]["kv"]["Base"]["RepoUUID"] == child


def merged(client, repo, **more):
    client.instance(repo)
    client.commit(repo)
    sides = [
        client.post(f"/api/node/{repo}/branch", json={"branch": name}).json()["child"] for name in ("left", "right")
    ]
    for side in sides:
        client.post(f"/api/node/{side}/kv/key/{side[:4]}", content=b"own")
        client.post(f"/api/node/{side}/kv/key/both", content=side.encode())
        client.commit(side)
    return sides


def test_merge(client, repo):
    sides = merged(client, repo)
    body = {"mergeType": "conflict-free", "parents": sides, "note": "joined"}
    child = client.post(f"/api/repo/{repo}/merge", json=body).json()["child"]
    assert sorted(client.get(f"/api/node/{child}/kv/keys").json()) == sorted(s[:4] for s in sides)
    assert client.get(f"/api/node/{child}/note").json() == {"note": "joined"}


def test_resolve(client, repo):
    sides = merged(client, repo)
    body = {"data": ["kv"], "parents": sides[::-1], "note": ""}
    child = client.post(f"/api/repo/{repo}/resolve", json=body).json()["child"]
    assert client.get(f"/api/node/{child}/kv/key/both").text == sides[1]


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("merge", {"mergeType": "union"}),
        ("merge", {"mergeType": None}),
        ("merge", {"parents": ["left"]}),
        ("merge", {"parents": ["nosuch", "nosuch2"]}),
        ("merge", {"parents": "both"}),
        ("merge", {"parents": [1, 2]}),
        ("resolve", {"data": []}),
        ("resolve", {"data": ["nosuch"]}),
        ("resolve", {"data": "kv"}),
    ],
)
def test_merges_that_are_refused_leave_no_node(client, repo, action, change):
    sides = merged(client, repo)
    before = info(client, repo)["DAG"]
    body = {"mergeType": "conflict-free", "data": ["kv"], "parents": sides, "note": "", **change}
    assert client.post(f"/api/repo/{repo}/{action}", json=body).status_code == 400
    assert info(client, repo)["DAG"] == before


def test_merge_of_an_open_version_leaves_no_node(client, repo):
    client.commit(repo)
    child = client.child(repo)
    body = {"mergeType": "conflict-free", "parents": [repo, child]}
    assert client.post(f"/api/repo/{repo}/merge", json=body).status_code == 400
    assert len(info(client, repo)["DAG"]["Nodes"]) == 2


def test_mutation_ids_start_where_the_configuration_says(make_client):
    first = make_client(min_mutation_id_start=5_000_000_000)
    repo = first.repo()
    assert info(first, repo)["MutationID"] == 5_000_000_000
    later = make_client(first.app.state.server.datastore, min_mutation_id_start=6_000_000_000)
    assert info(later, repo)["MutationID"] == 6_000_000_000
