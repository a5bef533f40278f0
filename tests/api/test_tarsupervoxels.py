"""tarsupervoxels over HTTP: what the recorded cases don't ask, and bodies that nobody should send."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest

from dvid_dask.datatypes import tarsupervoxels

from ..datatypes.test_tarsupervoxels import tar
from .conftest import ADMIN

HUGE = 2**64 - 1


@pytest.fixture
def repo(client):
    return client.repo()


@pytest.fixture
def meshes(client, repo):
    """Bodies 1 (of 1 and 2), 3 and 4, and the path of the instance that follows them."""
    seg = client.instance(repo, "labelmap", "segmentation", BlockSize="16,16,16")
    labels = np.broadcast_to(np.repeat(np.arange(1, 5, dtype=np.uint64), 4), (16, 16, 16))
    assert client.post(f"{seg}/raw/0_1_2/16_16_16/0_0_0", content=labels.tobytes()).status_code == 200
    assert client.post(f"{seg}/merge", json=[1, 2]).status_code == 200
    path = client.instance(repo, "tarsupervoxels", "meshes", Extension="obj")
    assert client.post(f"{path}/sync", json={"sync": "segmentation"}).status_code == 200
    return path


def listed(client, meshes):
    return client.request("GET", f"{meshes}/exists", json=[1, 2, 3, 4, HUGE]).json()


def test_settings(client, repo):
    path = client.instance(repo, "tarsupervoxels", "x", extension="dat")
    assert client.post(f"{path}/info", json={"extension": "drc"}).status_code == 200
    for bad in ({"Extension": 5}, {"Extension": ""}, {"Extension": ".obj"}, {"Extension": "a/b"}, [], "x"):
        assert client.post(f"{path}/info", json=bad).status_code == 400
    assert client.post(f"{path}/info", json={}).status_code == 200
    assert client.get(f"{path}/info").json()["Extended"] == {"Extension": "drc"}


def test_a_file_and_who_wrote_it(client, meshes):
    content = bytes(range(256)) * 9000
    assert client.post(f"{meshes}/supervoxel/{HUGE}?u=ann&app=test", content=content).status_code == 200
    answer = client.get(f"{meshes}/supervoxel/{HUGE}")
    assert (answer.content, answer.headers["content-type"]) == (content, "application/octet-stream")
    assert client.head(f"{meshes}/supervoxel/{HUGE}").status_code == 400
    absent = client.get(f"{meshes}/supervoxel/9")
    assert (absent.status_code, "Supervoxel 9 not found" in absent.text) == (404, True)
    (record,) = client.get(f"{meshes}/mutations").json()
    assert (record["Action"], record["Supervoxel"], record["Bytes"]) == ("post-supervoxel", HUGE, len(content))


def test_a_body_as_a_tar(client, meshes):
    assert client.get(f"{meshes}/missing/1").json() == [1, 2]
    assert client.head(f"{meshes}/tarfile/1").status_code == 400
    client.post(f"{meshes}/supervoxel/2", content=b"two")
    answer = client.get(f"{meshes}/tarfile/1")
    assert answer.headers["content-type"] == "application/tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert [(m.name, m.size, m.mode) for m in archive] == [("1.missing", 0, 0o755), ("2.obj", 3, 0o755)]
    client.post(f"{meshes}/supervoxel/1", content=b"")  # there, though it reads as absent
    assert client.get(f"{meshes}/missing/1").json() == []
    assert client.head(f"{meshes}/tarfile/1").status_code == 200
    for label in (2, 99, 0, -1, "x", 2**64):
        for method, keyword in (("GET", "tarfile"), ("HEAD", "tarfile"), ("GET", "missing"), ("PUT", "missing")):
            assert client.request(method, f"{meshes}/{keyword}/{label}").status_code == 400
    # by these words clients tell a body that was merged away from a request that is wrong
    assert "has no supervoxels" in client.get(f"{meshes}/missing/2").text


def test_exists(client, meshes):
    client.post(f"{meshes}/supervoxel/1", content=b"x")

    def ask(body, query=""):
        return client.request("GET", f"{meshes}/exists{query}", content=body)

    assert ask(b"[1, 0, 2, 1]").json() == [True, False, False, True]
    digest = hashlib.md5(b"[1]").hexdigest()
    assert ask(b"[1]", f"?hash={digest}").json() == [True]
    assert ask(b"[1]", f"?hash={digest.upper()}").json() == ask(b"[1]", "?hash=").json() == [True]
    assert ask(b"null").json() == []
    for bad in (b"", b"{}", b"[1.5]", b'["1"]', b"[-1]", b"[18446744073709551616]", b"[null]", b"[" * 100_000):
        assert ask(bad).status_code == 400, bad[:30]
    assert ask(b"[1]", "?hash=00").status_code == 400


def test_a_body_of_a_hundred_megabytes(client, meshes, monkeypatch):
    rng = np.random.default_rng(0)
    content = rng.bytes(100 << 20)
    assert client.post(f"{meshes}/supervoxel/1", content=content).status_code == 200
    assert client.get(f"{meshes}/supervoxel/1").content == content
    files = [(sv, content[sv << 20 : (sv + 3) << 20]) for sv in (1, 2, 3, 4)] * 8
    assert client.post(f"{meshes}/load", content=tar(files).getvalue()).status_code == 200
    assert client.get(f"{meshes}/supervoxel/3").content == content[3 << 20 : 6 << 20]
    assert client.app.state.server.bodies.held == 0
    monkeypatch.setattr(client.app.state.server.bodies, "limit", 1000)
    assert client.post(f"{meshes}/load", content=tar([(1, b"x" * 5000)]).getvalue()).status_code == 503


def bad_tars():
    whole = tar([(1, b"a" * 700), (2, b"b" * 700)]).getvalue()
    bomb = tarfile.TarInfo("1.obj")
    bomb.size = 1 << 50
    link = tarfile.TarInfo("1.obj")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tarfile.TarInfo("1.obj")
    folder.type = tarfile.DIRTYPE
    yield "no tar", b"this is no tar file"
    yield "nothing", b""
    yield "cut in a file", whole[:1500]
    yield "cut behind a file", whole[:1536]
    yield "cut in a header", whole[:1800]
    yield "compressed", gzip.compress(whole)
    yield "a bomb of zeros", gzip.compress(bytes(50 << 20))
    yield "a size beyond reason", whole[:1536] + bomb.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    yield "a link", whole[:1536] + link.tobuf() + bytes(1024)
    yield "a folder", whole[:1536] + folder.tobuf() + bytes(1024)
    yield "a damaged header", whole[:1536] + b"\xff" * 512 + bytes(1024)
    for name in ("../1.obj", "/1.obj", "a/1.obj", "1.dat", "1.obj.gz", "0.obj", "-1.obj", f"{2**64}.obj", "x"):
        yield name, tar([(1, b"new"), (name, b"x")]).getvalue()


BAD = dict(bad_tars())


@pytest.mark.parametrize("small", [False, True], ids=["one commit", "many commits"])
@pytest.mark.parametrize("what", BAD)
def test_bad_tars_change_nothing(client, meshes, monkeypatch, what, small):
    if small:
        monkeypatch.setattr(tarsupervoxels, "_TOGETHER", 1)
    client.post(f"{meshes}/supervoxel/1", content=b"old")
    answer = client.post(f"{meshes}/load", content=BAD[what])
    assert answer.status_code == 400, answer.text
    assert listed(client, meshes) == [True, False, False, False, False]
    assert client.get(f"{meshes}/supervoxel/1").content == b"old"
    assert len(client.get(f"{meshes}/mutations").json()) == 1


def test_committed_versions_refuse_and_administrators_pass(client, repo, meshes):
    client.commit(repo)
    body = tar([(1, b"x")]).getvalue()
    for method, path, content in (
        ("POST", "supervoxel/1", b"x"),
        ("DELETE", "supervoxel/1", b""),
        ("POST", "load", body),
        ("POST", "info", b"{}"),
    ):
        assert client.request(method, f"{meshes}/{path}", content=content).status_code == 400
    child = client.child(repo)
    assert client.post(f"/api/node/{child}/meshes/load", content=body).status_code == 200
    assert client.get(f"{meshes}/supervoxel/1").content == b"x"
    assert client.post(f"{meshes}/supervoxel/2", params=ADMIN, content=b"y").status_code == 200
    assert client.get(f"/api/node/{child}/meshes/supervoxel/2").content == b"y"
