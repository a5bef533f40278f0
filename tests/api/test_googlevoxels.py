"""googlevoxels over HTTP, against a local server that speaks BrainMaps' protocol and misbehaves in every way."""

import contextlib
import json
import threading
import time

import imagecodecs
import numpy as np
import pytest

from dvid_dask.datatypes.googlevoxels import Geometry, list_volumes, remote, scale_map
from dvid_dask.errors import BadRequest, TooBusy, Unavailable
from dvid_dask.formats.images import decode_image
from tests.brainmaps import VOLUME, BrainMaps

FINE = np.random.default_rng(0).integers(0, 255, (20, 33, 50), dtype=np.uint8)
HALF = FINE[::2, ::2, ::2].copy()
FLAT = FINE[:, ::4, ::4].copy()


@contextlib.contextmanager
def service(scales, folder):
    found = BrainMaps(scales, folder)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def brainmaps(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(remote, "READ_SECONDS", 0.5)
    monkeypatch.setattr(remote, "_BACKOFF", 0.01)
    with service([(FINE, (8, 8, 8)), (HALF, (16, 16, 16)), (FLAT, (32, 32, 8))], tmp_path) as found:
        yield found


@pytest.fixture
def voxels(client, repo, brainmaps):
    return client.instance(repo, "googlevoxels", "g", volumeid=VOLUME, jwtfile=str(brainmaps.keyfile), tilesize="16")


def check(client, path, expected):
    np.testing.assert_array_equal(decode_image(client.get(path).content), expected)


def test_info(client, voxels, brainmaps):
    shown = client.get(f"{voxels}/info")
    held = shown.json()["Extended"]
    assert held["VolumeID"] == VOLUME
    assert held["Scales"][0] == {
        "volumeSize": [50, 33, 20],
        "channelCount": 1,
        "channelType": "UINT8",
        "pixelSize": [8, 8, 8],
    }
    assert held["GeomMap"] == {"XY:0": 0, "XZ:0": 0, "YZ:0": 0, "XYZ:0": 0, "XYZ:1": 1, "XY:2": 2}
    assert held["MaxTileCoord"] == [4, 3, 2]
    assert held["Levels"]["2"] == {"Resolution": [32, 32, 32], "TileSize": [16, 16, 16]}
    assert brainmaps.key["private_key"].splitlines()[1] not in shown.text
    assert str(brainmaps.keyfile) not in shown.text


def test_tiles(client, voxels, brainmaps):
    check(client, f"{voxels}/tile/xy/0/1_1_5", FINE[5, 16:32, 16:32])
    check(client, f"{voxels}/tile/xz/0/2_7_0", FINE[:16, 7, 32:48])
    np.testing.assert_array_equal(
        decode_image(client.get(f"{voxels}/tile/yz/1/3_0_0?tilesize=8").content), HALF[:8, :8, 3]
    )
    np.testing.assert_array_equal(
        decode_image(client.get(f"{voxels}/tile/xy/2/0_0_9?tilesize=8").content), FLAT[9, :8, :8]
    )
    answer = client.get(f"{voxels}/tile/xy/0/0_0_5/jpg:50")
    assert answer.headers["content-type"] == "image/jpeg"
    assert brainmaps.seen[-1]["imageSpec"] == {
        "geometry": {"corner": "0,0,5", "size": "16,16,1", "scale": 0},
        "imageOptions": {"imageFormat": "JPEG", "jpegQuality": 50},
    }


def test_tiles_at_the_edge_are_filled_up_and_outside_black(client, voxels):
    found = decode_image(client.get(f"{voxels}/tile/xz/0/3_7_1").content)
    assert found.shape == (16, 16)
    np.testing.assert_array_equal(found[:4, :2], FINE[16:, 7, 48:])
    assert not found[4:].any()
    assert not found[:, 2:].any()
    for coord in ("4_0_0", "0_0_20", "-1_0_0", "0_0_-1"):
        blank = client.get(f"{voxels}/tile/xy/0/{coord}/jpg")
        assert blank.headers["content-type"] == "image/jpeg"
        assert not decode_image(blank.content).any()
        assert client.get(f"{voxels}/tile/xy/0/{coord}?noblanks=true").status_code == 404


def test_boxes(client, voxels):
    whole = client.get(f"{voxels}/raw/0_1_2/50_33_20/0_0_0")
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.content == FINE.tobytes()
    half = client.get(f"{voxels}/raw/0_1_2/5_6_7/1_2_3?scale=1&compression=lz4").content
    assert imagecodecs.lz4_decode(half, out=210) == HALF[3:10, 2:8, 1:6].tobytes()
    edge = np.frombuffer(client.get(f"{voxels}/raw/vol/10_10_10/-5_28_15").content, np.uint8).reshape(10, 10, 10)
    np.testing.assert_array_equal(edge[:5, :5, 5:], FINE[15:, 28:, :5])
    assert np.count_nonzero(edge) == np.count_nonzero(FINE[15:, 28:, :5])
    assert client.get(f"{voxels}/raw/0_1_2/4_4_4/900_0_0").content == bytes(64)
    picture = client.get(f"{voxels}/raw/0_1_2/50_33_20/0_0_0/png")
    np.testing.assert_array_equal(decode_image(picture.content), FINE.reshape(-1, 50))


def test_slices_of_any_size(client, voxels):
    np.testing.assert_array_equal(
        decode_image(client.get(f"{voxels}/raw/xy/20_10/-5_1_3").content)[:, 5:], FINE[3, 1:11, :15]
    )


@pytest.mark.parametrize(
    "path",
    [
        "tile/xy/3/0_0_0",
        "tile/xz/2/0_0_0",
        "tile/xy/0/0_0",
        "tile/0_1_2/0/0_0_0",
        "tile/xy/0/0_0_0/gif",
        "tile/xy/0/0_0_0/jpg:101",
        "tile/xy/0/0_0_0/png:x",
        "tile/xy/0/0_0_0?tilesize=0",
        "tile/xy/0/2000000000_0_0",
        "raw/0_1_2/5_5/0_0_0",
        "raw/0_1_2/5_5_5/0_0_0?compression=gzip",
        "raw/0_1_2/5_5_5/0_0_0?scale=7",
        "raw/0_1_2/9999_9999_9999/0_0_0",
        "raw/0_1_2/60_5_5/0_0_0/png",
        "raw/xy/99999_99999/0_0_0",
        "nosuch",
    ],
)
def test_requests_that_are_refused(client, voxels, path):
    assert client.get(f"{voxels}/{path}").status_code == 400


def test_only_get(client, voxels):
    assert client.post(f"{voxels}/raw/0_1_2/5_5_5/0_0_0", content=bytes(125)).status_code == 400


def test_creation_that_is_refused(client, repo, brainmaps, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    good = {"volumeid": VOLUME, "jwtfile": str(brainmaps.keyfile)}
    for settings, words in (
        ({"volumeid": VOLUME}, "needs the settings"),
        ({**good, "volumeid": "../secrets"}, "no id"),
        ({**good, "volumeid": "1:nosuch"}, "refuses the request with 404"),
        ({**good, "jwtfile": "/nosuch"}, "no service account's key"),
        ({**good, "jwtfile": str(tmp_path / "other.json")}, "no service account's key"),
        ({**good, "tilesize": "0"}, "tilesize"),
    ):
        given = {"typename": "googlevoxels", "dataname": "g", **settings}
        answer = client.post(f"/api/repo/{repo}/instance", json=given)
        assert answer.status_code == 400
        assert words in answer.text
    assert "g" not in client.get(f"/api/repo/{repo}/info").json()["DataInstances"]


def test_a_key_that_the_service_doesn_t_know(client, repo, brainmaps, tmp_path):
    other = tmp_path / "b"
    other.mkdir()
    with service([], other) as stranger:
        wrong = {**brainmaps.key, "private_key": stranger.key["private_key"]}
    (other / "wrong.json").write_text(json.dumps(wrong))
    given = {"typename": "googlevoxels", "dataname": "g", "volumeid": VOLUME, "jwtfile": str(other / "wrong.json")}
    answer = client.post(f"/api/repo/{repo}/instance", json=given)
    assert answer.status_code == 400
    assert "key is refused" in answer.text


@pytest.mark.parametrize("fault", ["503", "500", "429"])
def test_faults_that_pass_are_not_seen(client, voxels, brainmaps, fault):
    brainmaps.fault, brainmaps.faults = fault, 2
    check(client, f"{voxels}/tile/xy/0/1_1_5", FINE[5, 16:32, 16:32])
    assert brainmaps.faults == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", "answers 503: because"),
        ("hang", "doesn't answer"),
        ("garbage", "can't be read"),
        ("close", "doesn't answer"),
    ],
)
def test_a_failing_service_is_503_with_the_reason(client, voxels, brainmaps, fault, words):
    brainmaps.fault, brainmaps.faults = fault, 100
    began = time.monotonic()
    answer = client.get(f"{voxels}/tile/xy/0/3_1_5")
    assert answer.status_code == 503
    assert words in answer.text
    assert answer.headers["retry-after"]
    assert time.monotonic() - began < 30
    brainmaps.go.set()
    brainmaps.faults = 0
    assert client.get(f"{voxels}/tile/xy/0/3_1_5").status_code == 200


@pytest.mark.parametrize("fault", ["short", "long", "403"])
def test_boxes_of_another_size_than_expected(client, voxels, brainmaps, fault):
    brainmaps.fault, brainmaps.faults = fault, 100
    edge = client.get(f"{voxels}/raw/0_1_2/10_10_10/-5_28_15")
    assert edge.status_code == (400 if fault == "403" else 503)
    assert ("because" if fault == "403" else "bytes") in edge.text


def test_a_service_that_is_gone(client, voxels, brainmaps):
    brainmaps.close()
    remote._session.cache_clear()  # with its connections
    answer = client.get(f"{voxels}/tile/xy/0/1_1_5")
    assert answer.status_code == 503
    assert "doesn't answer" in answer.text


def test_a_slow_service_does_not_hold_all_threads(voxels, brainmaps, monkeypatch):
    monkeypatch.setattr(remote, "_slots", threading.BoundedSemaphore(1))
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 0.05)
    assert list_volumes(str(brainmaps.keyfile)) == {"volumeId": [VOLUME]}
    with remote._slots, pytest.raises(TooBusy, match="under way"):
        list_volumes(str(brainmaps.keyfile))
    brainmaps.fault, brainmaps.faults = "garbage", 1
    with pytest.raises(Unavailable, match="list of volumes"):
        list_volumes(str(brainmaps.keyfile))
    with pytest.raises(BadRequest):
        list_volumes(str(brainmaps.keyfile) + "x")


def test_labels_have_eight_bytes(client, repo, tmp_path):
    labels = FINE.astype(np.uint64) << 40
    with service([(labels, (8, 8, 40))], tmp_path) as brainmaps:
        url = client.instance(repo, "googlevoxels", "labels", volumeid=VOLUME, jwtfile=str(brainmaps.keyfile))
        assert client.get(f"{url}/raw/0_1_2/50_33_20/0_0_0").content == labels.tobytes()
        assert decode_image(client.get(f"{url}/tile/xy/0/9_9_9").content).shape == (512, 512, 4)


def test_values_that_can_t_be_shown(client, repo, tmp_path):
    with service([(FINE.astype(np.int16), (8, 8, 8))], tmp_path) as brainmaps:
        url = client.instance(repo, "googlevoxels", "g", volumeid=VOLUME, jwtfile=str(brainmaps.keyfile))
        answer = client.get(f"{url}/raw/0_1_2/5_5_5/0_0_0")
        assert answer.status_code == 400
        assert "int16" in answer.text


def test_the_geometry_of_highest_resolution_is_scale_0():
    sizes = [(32, 32, 8), (16, 16, 8), (8, 8, 8), (8, 32, 32), (32, 8, 32), (40, 40, 40)]
    found, finest = scale_map([Geometry((9, 9, 9), 1, "UINT8", size) for size in sizes])
    assert finest == 2
    assert found == {
        "XY:0": 2,
        "XZ:0": 2,
        "YZ:0": 2,
        "XYZ:0": 2,
        "XY:2": 0,
        "XY:1": 1,
        "YZ:2": 3,
        "XZ:2": 4,
        "XYZ:3": 5,
    }
