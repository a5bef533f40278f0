"""Bodies that the typed data refuse, one class after the other for all types: too long, or naming one thing twice.

What is malformed, of a wrong type, not finite or out of range is in the tests of each type.
"""

from __future__ import annotations

import pytest

from dvid_dask.formats import dvid_pb2 as pb
from tests.datatypes.test_tarsupervoxels import tar

LIMIT = 100_000

LONG = {
    "annotation": ("elements", "blocks", "labels", "sync", "tags"),
    "labelsz": ("sync", "tags"),
    "roi": ("roi", "ptquery"),
    "neuronjson": ("key/1?u=ann", "keyvalues?u=ann", "schema", "query", "tags"),
    "tarsupervoxels": ("supervoxel/1", "load", "sync", "tags"),
    "keyvalue": ("key/a", "keyvalues", "tags"),
}


def state(client, repo, name):
    instance = client.datastore[repo][name]
    return list(instance.view(0).scan()), instance.info


@pytest.mark.parametrize("typename", LONG)
@pytest.mark.parametrize("blank", [b" ", b"["])
def test_a_body_that_is_too_long_changes_nothing(make_client, typename, blank):
    """Also one that says nothing about its length: it is broken off when it gets too long."""
    client = make_client(max_body=LIMIT)
    repo = client.repo()
    url = client.instance(repo, typename, "data", **({"Extension": "obj"} if typename == "tarsupervoxels" else {}))
    before = state(client, repo, "data")

    def pieces():
        for _ in range(LIMIT // 1000 + 2):
            yield blank * 1000

    for path in LONG[typename]:
        for content in (blank * (LIMIT + 1), pieces()):
            answer = client.post(f"{url}/{path}", content=content)
            assert answer.status_code in (400, 413), (path, answer.text)
    assert state(client, repo, "data") == before


def test_one_thing_twice_has_the_last_value(client, repo):
    kv = client.instance(repo, "keyvalue", "kv")
    twice = pb.KeyValues(kvs=[pb.KeyValue(key="a", value=b"1"), pb.KeyValue(key="a", value=b"2")])
    assert client.post(f"{kv}/keyvalues", content=twice.SerializeToString()).status_code == 200
    assert client.get(f"{kv}/key/a").content == b"2"
    assert client.get(f"{kv}/keys").json() == ["a"]
    neurons = client.instance(repo, "neuronjson", "neurons")
    twice = pb.KeyValues(kvs=[pb.KeyValue(key="5", value=b'{"bodyid": 5, "a": %d}' % n) for n in (1, 2)])
    assert client.post(f"{neurons}/keyvalues?u=ann", content=twice.SerializeToString()).status_code == 200
    assert client.get(f"{neurons}/key/5").json() == {"bodyid": 5, "a": 2}
    assert client.get(f"{neurons}/keys").json() == ["5"]


def test_a_file_that_comes_twice_in_a_tar(client, repo):
    meshes = client.instance(repo, "tarsupervoxels", "meshes", Extension="obj")
    assert (
        client.post(f"{meshes}/load", content=tar([(1, b"old"), (2, b"x"), (1, b"new")]).getvalue()).status_code == 200
    )
    assert client.get(f"{meshes}/supervoxel/1").content == b"new"


def test_a_region_that_is_given_twice(client, repo):
    area = client.instance(repo, "roi", "area")
    assert client.post(f"{area}/roi", content=b"[[0, 0, 1, 4], [0, 0, 1, 4], [0, 0, 3, 9]]").status_code == 200
    assert client.get(f"{area}/roi").json() == [[0, 0, 1, 4], [0, 0, 3, 9]]
    points = client.post(f"{area}/ptquery", content=b"[[40, 0, 0], [40, 0, 0]]")
    assert points.json() == [True, True]


def test_a_label_that_is_asked_for_twice(client, repo):
    ranks = client.instance(repo, "labelsz", "ranks")
    found = client.request("GET", f"{ranks}/counts/PreSyn", content=b"[7, 7]").json()
    assert [row["Label"] for row in found] == [7, 7]
