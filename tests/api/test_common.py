"""What types answer alike: info, help, tags, sync, mutations."""

import pytest

from .conftest import ADMIN


def test_tags(client, kv, repo):
    assert client.get(f"{kv}/tags").json() == {"Tags": None}
    client.post(f"{kv}/tags", content=b"")
    assert client.get(f"{kv}/tags").json() == {"Tags": {}}
    assert client.post(f"{kv}/tags", json={"a": "1"}).content == b""
    client.post(f"{kv}/tags", json={"b": "2"})
    assert client.delete(f"{kv}/tags").json() == {"Tags": {"a": "1", "b": "2"}}
    for body in (b"[]", b'{"a":1}', b'{"a":null}', b"{"):
        assert client.post(f"{kv}/tags", content=body).status_code == 400
    client.post(f"{kv}/tags?replace=true", json={"c": "3"})
    assert client.get(f"{kv}/info").json()["Base"]["Tags"] == {"c": "3"}
    client.commit(repo)
    assert client.post(f"{kv}/tags", json={"d": "4"}).status_code == 400
    assert client.post(f"{kv}/tags", params=ADMIN, json={"d": "4"}).status_code == 200
    assert client.get(f"{kv}/tags").json() == {"Tags": {"c": "3", "d": "4"}}


def test_sync(client, repo):
    path = client.instance(repo, "annotation", "ann")
    client.instance(repo, "labelvol", "vol")
    client.instance(repo, "labelblk", "blk")

    def syncs():
        return set(client.get(f"{path}/info").json()["Base"]["Syncs"])

    assert client.post(f"{path}/sync", json={"sync": "vol"}).content == b""
    assert client.post(f"{path}/sync", json={"sync": "blk"}).status_code == 200
    assert syncs() == {"vol", "blk"}
    for body in (b"", b"{}", b'{"sync":["vol"]}', b'{"sync":"nosuch"}', b'{"sync":"vol, blk"}', b'{"sync":"ann"}',
                 b'{"sync":"vol","more":1}', b'{"sync":"vol","more":{}}', b"null"):  # fmt: skip
        assert client.post(f"{path}/sync?replace=true", content=body).status_code == 400
    assert syncs() == {"vol", "blk"}
    client.post(f"{path}/sync?replace=true", json={"sync": "vol", "more": None, "text": "x"})
    assert syncs() == {"vol"}
    client.post(f"{path}/sync", json={"sync": ""})
    assert syncs() == {"vol"}
    client.post(f"{path}/sync?replace=true", json={"sync": ""})
    assert syncs() == set()
    assert client.get(f"{path}/sync").status_code == 400


def test_mutations_of_versions(client, kv, repo):
    client.post(f"{kv}/key/a", content=b"123")
    client.commit(repo)
    second = client.child(repo)
    client.post(f"/api/node/{second}/kv/key/b", content=b"1")
    client.delete(f"/api/node/{second}/kv/key/a")
    client.commit(second)
    third = client.child(second)

    def keys(path):
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        return [record["Key"] for record in answer.json()]

    assert keys(f"/api/node/{third}/kv/mutations") == []
    assert keys(f"/api/node/{second}/kv/mutations") == ["b", "a"]
    assert keys(f"{kv}/mutations-range/{repo}/{third}") == ["b", "a", "a"]
    assert keys(f"{kv}/mutations-range/{second}/{third}") == ["b", "a"]
    # a first version that is no ancestor: up to the root
    assert keys(f"{kv}/mutations-range/{third}/{second}") == ["b", "a", "a"]
    assert keys(f"{kv}/mutations-range/{repo}/{repo}:master") == ["b", "a", "a"]
    for path in ("mutations-range", f"mutations-range/{repo}", f"mutations-range/nosuch/{repo}"):
        assert client.get(f"{kv}/{path}").status_code == 400
    for method in ("POST", "HEAD", "PUT"):
        assert client.request(method, f"/api/node/{third}/kv/mutations").status_code == 400


@pytest.mark.parametrize(
    "body", [b"", b"[1,2]", b"[1,2,3,4]", b'["1","2","3"]', b"[0,1,1]", b"[1,1,1e39]", b"[1,1,-1]"]
)
def test_resolutions_that_are_refused(client, repo, body):
    path = client.instance(repo, "labelblk", "blk")
    assert client.post(f"{path}/resolution", content=body).status_code == 400
    assert client.get(f"{path}/info").json()["Extended"]["VoxelSize"] == [8, 8, 8]


@pytest.mark.parametrize("typename", ["labelmap", "uint8blk"])
def test_extents(client, repo, typename):
    path = client.instance(repo, typename, "voxels")
    assert client.post(f"{path}/extents", json={"MaxPoint": [5, 6, 7]}).status_code == 200
    assert client.get(f"{path}/info").json()["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [5, 6, 7]}
    for bad in ({"MinPoint": [1, 2, 3]}, {"MaxPoint": [1, 2]}, {"MaxPoint": [1, 2, 2**31]}, {"MaxPoint": None}, []):
        assert client.post(f"{path}/extents", json=bad).status_code == 400
    assert client.get(f"{path}/info").json()["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [5, 6, 7]}
    axes = client.get(f"{path}/metadata").json()["Axes"]
    assert [axis["Size"] for axis in axes] == [6, 7, 8]
    assert client.post(f"{path}/metadata").json()["Axes"] == axes
