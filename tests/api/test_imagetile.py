"""Tiles over HTTP; the recorded answers of DVID are in test_conformance."""

import numpy as np
import pytest

from dvid_dask.formats.images import decode_image, encode_image

LEVELS = {
    "MinTileCoord": [0, 0, 0],
    "MaxTileCoord": [1, 1, 1],
    "Levels": {
        "0": {"Resolution": [8, 8, 8], "TileSize": [32, 32, 32]},
        "1": {"Resolution": [16, 16, 16], "TileSize": [32, 32, 32]},
    },
}
PIXELS = np.arange(1024, dtype=np.uint8).reshape(32, 32)
PNG = encode_image(PIXELS, "png")[0]


@pytest.fixture
def tiles(client, repo):
    url = client.instance(repo, "imagetile", "tiles")
    assert client.post(f"{url}/metadata", json=LEVELS).status_code == 200
    return url


def test_requests_that_are_refused_change_nothing(client, tiles):
    assert client.post(f"{tiles}/tile/xy/0/1_2_3", content=PNG).status_code == 200
    for path in (
        "tile/xy/0/1_2",
        "tile/xy/0/1_2_x",
        "tile/xy/0/1_2_99999999999",
        "tile/xy/-1/1_2_3",
        "tile/xy/256/1_2_3",
        "tile/0_1_2/0/1_2_3",
        "tile/vol/0/1_2_3",
        "tile/xy",
    ):
        for answer in (client.get(f"{tiles}/{path}"), client.post(f"{tiles}/{path}", content=PNG)):
            assert answer.status_code == 400, path
    for content in (b"no image", PNG[:-9], encode_image(PIXELS, "jpg")[0], PNG[:16] + b"\xff\xff" * 4 + PNG[24:]):
        answer = client.post(f"{tiles}/tile/xy/0/1_2_3", content=content)
        assert answer.status_code == 400
        assert len(answer.text) > 20
    assert client.get(f"{tiles}/tile/xy/0/1_2_3").content == PNG
    assert client.get(f"{tiles}/tile/xy/0/1_2_3/gif").content == PNG
    assert client.get(f"{tiles}/tile/xy/0/1_2_4/gif").status_code == 400
    assert client.get(f"{tiles}/tile/xy/0/1_2_4/gif?noblanks=true").status_code == 404
    assert client.get(f"{tiles}/tile/xy/2/1_2_3").status_code == 400
    assert client.get(f"{tiles}/tile/xy/2/1_2_3?noblanks=true").status_code == 404
    assert client.put(f"{tiles}/tile/xy/0/1_2_3", content=PNG).status_code == 400
    assert client.post(f"{tiles}/tile/xy/0/1_2_3", content=b"\x89PNG" * (1 << 25)).status_code == 400


def test_an_empty_body_takes_a_tile_away(client, tiles):
    client.post(f"{tiles}/tile/yz/1/1_2_3", content=PNG)
    client.post(f"{tiles}/tile/yz/1/1_2_3", content=b"")
    assert client.get(f"{tiles}/tile/yz/1/1_2_3?noblanks=true").status_code == 404


def test_tilekey(client, tiles, repo):
    key = bytes.fromhex(client.get(f"{tiles}/tilekey/xz/1/1_-2_3").json()["key"])
    assert len(key) == 35
    assert key[:1] == b"\1"
    assert key[5:14] == bytes([3, 2, 0, 2, 0, 0, 0, 1, 3])
    assert [int.from_bytes(key[at : at + 4], "big") - 2**31 for at in (14, 18, 22)] == [3, -2, 1]


@pytest.mark.parametrize("format", ["png", "jpg", "lz4"])
def test_tiles_made_when_they_are_asked_for(client, repo, format):
    gray = client.instance(repo, "uint8blk", "gray")
    voxels = np.full((32, 64, 64), 77, np.uint8)
    client.post(f"{gray}/raw/0_1_2/64_64_32/0_0_0", content=voxels.tobytes())
    tiles = client.instance(repo, "imagetile", "tiles", Source="gray", OnDemand="true", Format=format)
    assert client.get(f"{tiles}/metadata").json()["Levels"]["0"]["TileSize"] == [512, 512, 512]
    answer = client.get(f"{tiles}/tile/xy/0/0_0_5")
    assert answer.headers["content-type"] == ("image/jpeg" if format == "jpg" else "image/png")
    picture = decode_image(answer.content)
    assert picture.shape == (512, 512)
    assert np.abs(picture[:60, :60].astype(int) - 77).max() <= (3 if format == "jpg" else 0)
    assert client.get(f"{tiles}/tile/xy/0/0_0_40?noblanks=true").status_code == 404
    stitched = decode_image(client.get(f"{tiles}/raw/xy/40_30/50_40_5").content)
    np.testing.assert_array_equal(stitched[:24, :14], 77)
    assert not stitched[24:].any()


def test_isotropic_is_scaled_by_the_voxels_of_the_source(client, repo):
    client.instance(repo, "uint8blk", "gray", VoxelSize="8,8,16")
    tiles = client.instance(repo, "imagetile", "tiles", Source="gray")
    client.post(f"{tiles}/metadata", json=LEVELS)
    rows = np.repeat(np.arange(32, dtype=np.uint8)[:, None], 32, axis=1)
    client.post(f"{tiles}/tile/xz/0/0_4_0", content=encode_image(rows, "png")[0])
    found = decode_image(client.get(f"{tiles}/isotropic/xz/32_32/0_4_0").content)
    np.testing.assert_array_equal(found[::2], rows[:16])
    assert client.get(f"{tiles}/isotropic/xz/60000_60000/0_4_0").status_code == 400
