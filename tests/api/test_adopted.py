"""Adopted images over HTTP: who may name a volume, what is shown of it, and what its troubles look like to clients."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dvid_dask import ops
from tests.bases import volumes
from tests.bases.server import serving

from .conftest import ADMIN

SHAPE = (40, 50, 61)


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)


def new(client, repo, base, name="gray", params=None, **more):
    body = {"typename": "uint8blk", "dataname": name, "Base": str(base), "BlockSize": "16,16,16", **more}
    return client.post(f"/api/repo/{repo}/instance", json=body, params=params)


def get(client, repo, size, offset, name="gray"):
    x, y, z = size
    answer = client.get(f"/api/node/{repo}/{name}/raw/0_1_2/{x}_{y}_{z}/{'_'.join(map(str, offset))}")
    return answer, np.frombuffer(answer.content, np.uint8).reshape(z, y, x) if answer.status_code == 200 else None


def test_clients_may_not_open_volumes_unless_the_server_allows_it(make_client, tmp_path, voxels):
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    inside, outside = (tmp_path / d / volumes.zarr3(tmp_path / d, voxels) for d in ("open", "closed"))
    (tmp_path / "open" / "link").symlink_to(outside)
    client = make_client()
    repo = client.repo()
    refused = new(client, repo, inside)
    assert refused.status_code == 400
    assert "allowBases" in refused.text
    assert new(client, repo, inside, params=ADMIN).status_code == 200

    client = make_client(allow_bases=((tmp_path / "open").as_uri(), "https://data.lab.org/em"))
    repo = client.repo()
    assert new(client, repo, inside, "a").status_code == 200
    assert new(client, repo, f"zarr3://{inside}", "b").status_code == 200
    assert new(client, repo, inside.as_uri() + "|zarr3:", "c").status_code == 200
    for base in (
        outside,
        outside.as_uri(),
        f"zarr3://{outside}",
        f"{inside}/../../closed/v.zarr",
        f"{inside.as_uri()}/%2e%2e/%2e%2e/closed/v.zarr",
        tmp_path / "open" / "link",
        "https://data.lab.org/em2/v",
        "https://data.lab.org/em/../v",
        "https://data.lab.org.evil.org/em/v",
        "http://127.0.0.1:1/em",
        "s3://bucket/v",
        '{"driver": "zarr3", "kvstore": "file://' + str(outside) + '/"}',
        "/etc/passwd",
        "/etc/x.h5:/a",
    ):
        answer = new(client, repo, base, "d")
        assert (answer.status_code, "opens no volume" in answer.text) == (400, True), base
    for base, more in ((5, {}), ("a|zip:|zarr:", {}), (inside, {"BaseDataset": "x"})):
        body = {"typename": "uint8blk", "dataname": "d", "Base": base if base == 5 else str(base), **more}
        assert client.post(f"/api/repo/{repo}/instance", json=body).status_code == 400
    assert sorted(client.get(f"/api/repo/{repo}/info").json()["DataInstances"]) == ["a", "b", "c"]


def test_reads_writes_and_what_is_shown(make_client, tmp_path, voxels):
    client = make_client(allow_bases=(tmp_path.as_uri(),))
    repo = client.repo()
    assert new(client, repo, tmp_path / volumes.zarr3(tmp_path, voxels), BaseOffset="5,6,7").status_code == 200
    _, found = get(client, repo, (61, 50, 40), (5, 6, 7))
    np.testing.assert_array_equal(found, voxels)
    url = f"/api/node/{repo}/gray"
    info = client.get(f"{url}/info").json()
    assert info["Extents"] == {"MinPoint": [5, 6, 7], "MaxPoint": [65, 55, 46]}
    assert info["Extended"]["Base"]["Scales"] == [0]
    body = np.full((16, 16, 16), 200, np.uint8)
    assert client.post(f"{url}/raw/0_1_2/16_16_16/16_16_16", content=body.tobytes()).status_code == 200
    expected = voxels.copy()
    expected[9:25, 10:26, 11:27] = 200
    _, found = get(client, repo, (61, 50, 40), (5, 6, 7))
    np.testing.assert_array_equal(found, expected)
    jpeg = client.get(f"{url}/raw/0_1/61_50/5_6_20/jpg")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert "adopted from" in client.get("/").text or "adopted from" in client.get(f"/repo/{repo}").text


def test_secrets_of_the_base_are_not_shown(make_client, tmp_path, voxels):
    volumes.zarr3(tmp_path, voxels)
    with serving(tmp_path) as (address, _):
        client = make_client(allow_bases=(address,))
        repo = client.repo()
        assert new(client, repo, f"{address}/v.zarr?token=hush").status_code == 200
        for path in (
            f"/api/node/{repo}/gray/info",
            f"/api/repo/{repo}/info",
            f"/api/repo/{repo}/log",
            "/api/repos/info",
        ):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "hush" not in answer.text


def test_a_base_that_is_gone_is_a_bad_gateway(make_client, tmp_path, voxels):
    client = make_client()
    repo = client.repo()
    base = tmp_path / volumes.zarr3(tmp_path, voxels)
    assert new(client, repo, base, params=ADMIN).status_code == 200
    shutil.move(base, tmp_path / "elsewhere")
    url = f"/api/node/{repo}/gray"
    for path in (
        f"{url}/raw/0_1_2/16_16_16/0_0_0",
        f"{url}/raw/0_1/16_16/0_0_0/png",
        f"{url}/blocks/0_0_0/1",
        f"{url}/subvolblocks/16_16_16/0_0_0",
        f"{url}/specificblocks?blocks=0,0,0",
    ):
        answer = client.get(path)
        assert (answer.status_code, "gone" in answer.text) == (502, True), path
    assert client.get(f"{url}/info").status_code == 200
    shutil.move(tmp_path / "elsewhere", base)
    assert client.get(f"{url}/raw/0_1_2/16_16_16/0_0_0").content == voxels[:16, :16, :16].tobytes()


def test_a_base_that_fails_is_503(make_client, tmp_path, voxels):
    volumes.zarr3(tmp_path, voxels)
    with serving(tmp_path) as (address, faults):
        client = make_client()
        repo = client.repo()
        assert new(client, repo, f"{address}/v.zarr", params=ADMIN).status_code == 200
        faults.matching, faults.status = "/c/", 500
        url = f"/api/node/{repo}/gray"
        for path in (f"{url}/raw/0_1_2/16_16_16/0_0_0", f"{url}/blocks/0_0_0/1", f"{url}/zarr/s0/c/0/0/0"):
            answer = client.get(path)
            assert (answer.status_code, "500" in answer.text) == (503, True), path
            assert answer.headers["Retry-After"]
        faults.heal()
        assert client.get(f"{url}/raw/0_1_2/16_16_16/0_0_0").content == voxels[:16, :16, :16].tobytes()


def test_a_volume_is_adopted_for_clients_by_python(make_client, tmp_path, voxels):
    """Where no client may name a volume, whoever has the store may."""
    import dvid_dask

    with dvid_dask.create("memory://", compact="never") as datastore:
        repo = datastore.new_repo()
        ops.adopt(str(tmp_path / volumes.n5(tmp_path, voxels)), repo["master"], "gray")
        client = make_client(datastore)
        _, found = get(client, repo.root, (61, 50, 40), (0, 0, 0))
    np.testing.assert_array_equal(found, voxels)
