"""labelblk over HTTP: what the recorded cases don't say."""

import gzip

import numpy as np
import pytest

from dvid_dask.formats.compression import lz4_compress

BOX = "raw/0_1_2/32_32_32/0_0_0"


@pytest.fixture
def blk(client, repo):
    path = client.instance(repo, "labelblk", "lb")
    assert client.post(f"{path}/{BOX}", content=np.full(32**3, 3, np.uint64).tobytes()).status_code == 200
    return path


def test_a_delete_with_voxels_stores_them(client, blk):
    # as in DVID: there is no way to take voxels away but to write 0
    answer = client.request("DELETE", f"{blk}/{BOX}", content=bytes(32**3 * 8))
    assert answer.status_code == 200
    assert client.get(f"{blk}/label/3_3_3").json() == {"Label": 0}
    assert client.request("DELETE", f"{blk}/{BOX}").status_code == 400


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(client, blk, method):
    assert client.request(method, f"{blk}/{BOX}").status_code == 400


def test_it_has_but_one_scale(client, blk):
    for query in ("scale=1", "scale=x", "scale=999"):
        assert client.get(f"{blk}/label/3_3_3?{query}").json() == {"Label": 3}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (BOX, b"\0" * 8),
        (f"{BOX}?compression=zip", bytes(32**3 * 8)),
        (f"{BOX}?compression=gzip", gzip.compress(bytes(32**3 * 8 - 8), mtime=0)),
        (f"{BOX}?compression=lz4", lz4_compress(bytes(32**3 * 8 + 8))),
        (f"{BOX}?roi=none", bytes(32**3 * 8)),
        ("raw/0_1_2/32_32_32/0_0_1", bytes(32**3 * 8)),
        ("raw/0_1_2/32_32_32/0_0", bytes(32**3 * 8)),
        ("raw/xy/32_32/0_0_0", bytes(32**2 * 8)),
        ("raw/0_1_2/-32_32_32/0_0_0", b""),
        ("blocks/32_32_32/0_0_0", b""),
        ("merge", b"[3, 4]"),
        ("labels", b"[[0,0,0]]"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(client, blk, path, body):
    before = client.get(f"{blk}/{BOX}").content
    assert client.post(f"{blk}/{path}", content=body).status_code == 400
    assert client.get(f"{blk}/{BOX}").content == before


@pytest.mark.parametrize(
    "settings",
    [
        {"BlockSize": "30,32,32"},
        {"BlockSize": "0,32,32"},
        {"VoxelSize": "8,8,nan"},
        {"VoxelSize": "8,8,0"},
        {"VoxelUnits": "um"},
        {"Background": "256"},
        {"GridStore": "there"},
    ],
)
def test_settings_that_are_refused(client, repo, settings):
    answer = client.post(f"/api/repo/{repo}/instance", json={"typename": "labelblk", "dataname": "bad", **settings})
    assert answer.status_code == 400
    assert "setting" in answer.text
