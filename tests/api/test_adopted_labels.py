"""An adopted segmentation over HTTP answers as one that was ingested; and its troubles as clients see them."""

from __future__ import annotations

import json
import shutil

import dask
import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.formats import rles
from tests.bases.server import serving
from tests.datatypes.labelmap.bases import save
from tests.ops.conftest import neurites

SHAPE = (48, 64, 80)
SETTINGS = {"BlockSize": "16,16,16", "MaxDownresLevel": "2"}


@pytest.fixture(autouse=True)
def _no_cluster():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def voxels():
    return neurites(SHAPE) % 5000


@pytest.fixture
def twins(make_client, tmp_path, voxels):
    """Clients and addresses of the volume adopted, and ingested, each in a store of its own."""
    found = []
    for way in ("adopt", "ingest"):
        repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
        where = save(tmp_path / way, voxels, levels=2)
        if way == "adopt":
            ops.adopt(where, repo["master"], "seg", "labelmap", settings=SETTINGS, progress=False)
        else:
            ops.ingest(where, repo.new_instance("labelmap", "seg", SETTINGS), progress=False)
        found.append((make_client(repo.datastore), f"/api/node/{repo.root}/seg"))
    return found


def everything(labels, *, edited):
    points = [[5, 6, 7], [70, 60, 40], [1000, 0, 0]]
    for scale in (0, 1, 2):
        z, y, x = (n >> scale for n in SHAPE)
        yield "get", f"raw/0_1_2/{x}_{y}_{z}/0_0_0?scale={scale}", None
        yield "get", f"raw/0_1_2/{x}_{y}_{z}/0_0_0?scale={scale}&supervoxels=true&compression=lz4", None
        bz, by, bx = (-(-n // 16) * 16 for n in (z, y, x))
        yield "get", f"blocks/{bx}_{by}_{bz}/0_0_0?scale={scale}&compression=blocks", None
        yield "get", f"specificblocks?blocks=0,0,0,1,0,1&scale={scale}&compression=gzip", None
    yield "get", "raw/0_1_2/13_14_15/-5_60_33", None
    yield "get", "pseudocolor/0_1/64_48/0_0_20/png", None
    yield "get", "isotropic/0_2/64_48/0_0_20", None
    yield "get", "label/30_31_32", None
    yield "get", "labels", points
    yield "get", "listlabels?sizes=true", None
    yield "get", "zarr/s1/c/0/0/1", None
    yield "get", "precomputed/info", None
    for label in labels:
        for query in ("", "?scale=1", "?format=srles", "?format=blocks", "?minx=10&maxz=30&exact=true"):
            yield "get", f"sparsevol/{label}{query}", None
        for what in ("sparsevol-coarse", "sparsevol-size", "size", "supervoxels", "supervoxel-sizes"):
            yield "get", f"{what}/{label}", None
        if not edited:  # else with the time of the edit
            yield "get", f"index/{label}", None
        yield "get", f"fvdb/{label}", None
    yield "get", "sizes", labels
    yield "get", "mapping", labels
    yield "get", "maxlabel", None
    yield "get", "existing-labels", None
    yield "get", f"proximity/{labels[0]},{labels[1]}", None


def same(twins, labels, *, edited=False):
    for method, path, body in everything(labels, edited=edited):
        mine, other = (
            client.request(method, f"{url}/{path}", content=None if body is None else json.dumps(body))
            for client, url in twins
        )
        assert (mine.status_code, other.status_code) == (200, 200), (path, mine.text)
        assert mine.content == other.content, path


def test_the_same_as_an_ingested_volume(twins, voxels):
    labels = np.unique(voxels[voxels > 0]).tolist()
    same(twins, labels[:4])
    runs = rles.rles_from_mask(voxels == labels[7], (0, 0, 0))
    cut = rles.encode_rles(runs[: len(runs) // 2])
    patch = np.full((16, 16, 32), labels[9], np.uint64)
    edits = (
        ("merge", json.dumps(labels[:4])),
        (f"cleave/{labels[0]}", json.dumps(labels[2:3])),
        (f"split-supervoxel/{labels[7]}?split=90001&remain=90002", cut),
        ("raw/0_1_2/32_16_16/16_32_0?mutate=true", patch.tobytes()),
    )
    for path, body in edits:
        answers = [client.post(f"{url}/{path}", content=body) for client, url in twins]
        assert [a.status_code for a in answers] == [200, 200], answers[0].text
    same(twins, [labels[0], labels[7], labels[9]], edited=True)


def test_what_is_shown(twins):
    client, url = twins[0]
    told = client.get(f"{url}/info").json()["Extended"]["Base"]
    assert (told["Format"], told["DataType"], told["Scales"]) == ("precomputed", "uint64", [0, 1, 2])
    assert (told["MinPoint"], told["MaxPoint"]) == ([0, 0, 0], [79, 63, 47])
    assert "Base" not in twins[1][0].get(f"{twins[1][1]}/info").json()["Extended"]
    assert "adopted from" in client.get("/").text or "adopted from" in client.get(f"/repo/{url.split('/')[3]}").text


def test_no_client_adopts_a_segmentation(make_client, tmp_path, voxels):
    client = make_client(allow_bases=(tmp_path.as_uri(),))
    repo = client.repo()
    where = save(tmp_path, voxels, format="zarr3")
    body = {"typename": "labelmap", "dataname": "seg", "Base": where}
    answer = client.post(f"/api/repo/{repo}/instance", json=body)
    assert (answer.status_code, "dvid-dask adopt" in answer.text) == (400, True)


ASKED = (
    "raw/0_1_2/16_16_16/16_16_16",
    "raw/0_1/16_16/0_0_0/png",
    "blocks/32_32_32/0_0_0",
    "specificblocks?blocks=0,0,1,1,1,1",
    "label/5_6_33",
    "zarr/s0/c/1/1/1",
)


def test_a_volume_that_is_gone_is_a_bad_gateway(make_client, tmp_path, voxels):
    repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
    where = save(tmp_path, voxels, format="zarr3")
    ops.adopt(where, repo["master"], "seg", settings=SETTINGS, progress=False)
    client, url = make_client(repo.datastore), f"/api/node/{repo.root}/seg"
    label = int(voxels[voxels > 0][0])
    shutil.move(where, tmp_path / "elsewhere")
    for path in (*ASKED, f"sparsevol/{label}", f"sparsevol/{label}?format=srles"):
        answer = client.get(f"{url}/{path}")
        assert (answer.status_code, "gone" in answer.text) == (502, True), path
    token = repo["master"]["seg"].view(0).token
    answer = client.post(f"{url}/raw/0_1_2/16_16_16/0_0_0", content=np.ones((16, 16, 16), np.uint64).tobytes())
    assert answer.status_code == 502
    assert repo["master"]["seg"].view(0).token == token
    assert client.get(f"{url}/info").status_code == 200
    assert client.get(f"{url}/size/{label}").status_code == 200
    assert client.get(f"{url}/sparsevol-coarse/{label}").status_code == 200
    shutil.move(tmp_path / "elsewhere", where)
    assert client.get(f"{url}/raw/0_1_2/80_64_48/0_0_0").content == voxels.tobytes()


def test_a_volume_that_fails_is_503(make_client, tmp_path, voxels):
    save(tmp_path, voxels, format="zarr3")
    with serving(tmp_path) as (address, faults):
        repo = dvid_dask.create("memory://", compact="never").new_repo("fly")
        ops.adopt(f"{address}/zarr3", repo["master"], "seg", settings=SETTINGS, progress=False)
        client, url = make_client(repo.datastore), f"/api/node/{repo.root}/seg"
        faults.matching, faults.status = "/c/", 500
        from dvid_dask.bases.readers import forget

        forget()  # chunks that are kept
        for path in ASKED[:3]:
            answer = client.get(f"{url}/{path}")
            assert (answer.status_code, "500" in answer.text) == (503, True), path
            assert answer.headers["Retry-After"]
        faults.heal()
        assert client.get(f"{url}/raw/0_1_2/80_64_48/0_0_0").content == voxels.tobytes()
