"""Volumes over HTTP as zarr and precomputed: what clients of these formats read, and what caches are told."""

import gzip

import numpy as np
import pytest
import tensorstore as ts
import zarr

import dvid_dask

from .conftest import server_process


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server, its URL of the node, and bodies and image at that version."""
    folder = tmp_path_factory.mktemp("views") / "store"
    rng = np.random.default_rng(1)
    gray = rng.integers(0, 256, (64, 96, 128), dtype=np.uint8)
    labels = rng.integers(1, 6, (4, 6, 8)).astype(np.uint64).repeat(32, 0).repeat(32, 1).repeat(32, 2)[:128, :192, :256]
    with dvid_dask.create(str(folder), compact="never") as datastore:
        repo = datastore.new_repo("views")
        repo.new_instance("uint8blk", "gray").write(gray, (32, 0, -64))
        seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "1"})
        seg.write(labels, (64, 0, -64))
        seg.merge(1, [2])
        repo["master"].commit()
        uuid = repo["master"].uuid
    with server_process(folder) as process:
        yield process.url, uuid, gray, np.where(labels == 2, 1, labels), labels


def test_zarr_reads_over_http(served):
    url, uuid, gray, bodies, labels = served
    group = zarr.open_group(f"{url}/api/node/{uuid}/gray/zarr", mode="r")
    np.testing.assert_array_equal(group["s0"][:], gray)
    assert group["s0"].attrs["offset"] == [32, 0, -64]
    group = zarr.open_group(f"{url}/api/node/{uuid}/seg/zarr", mode="r")
    np.testing.assert_array_equal(group["s0"][:], bodies)
    np.testing.assert_array_equal(group["supervoxels/s0"][64:, :64], labels[64:, :64])
    assert (group["s1"].shape, group["s1"].attrs["offset"]) == ((96, 96, 160), [0, 0, -64])  # whole blocks


def test_tensorstore_reads_over_http(served):
    url, uuid, gray, bodies, labels = served
    node = f"{url}/api/node/{uuid}"
    array = ts.open({"driver": "zarr3", "kvstore": f"{node}/gray/zarr/s0/"}, open=True, read=True).result()
    np.testing.assert_array_equal(array.read().result(), gray)
    for path, expected in (("seg/precomputed/", bodies), ("seg/precomputed/supervoxels/", labels)):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": f"{node}/{path}", "scale_index": 0}
        array = ts.open(spec, open=True, read=True).result()
        np.testing.assert_array_equal(array[..., 0].read().result().transpose(2, 1, 0), expected)
        assert array.domain.origin[:3] == (-64, 0, 64)
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"{node}/gray/precomputed/"}
    array = ts.open(spec, open=True, read=True).result()
    np.testing.assert_array_equal(array[..., 0].read().result().transpose(2, 1, 0), gray)


@pytest.fixture
def volume(client, repo):
    node = client.instance(repo, "labelmap", "seg")
    voxels = np.arange(64**3, dtype=np.uint64) // 5000 + 1
    assert client.post(f"{node}/raw/0_1_2/64_64_64/0_0_0", content=voxels.tobytes()).status_code == 200
    return node, repo


def test_what_caches_are_told(client, volume):
    node, uuid = volume
    chunk = f"{node}/zarr/s0/c/0/0/0"
    first = client.get(chunk)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(chunk, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    client.post(f"{node}/merge", json=[1, 2])
    changed = client.get(chunk, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]
    client.commit(uuid)
    assert "immutable" in client.get(chunk).headers["cache-control"]
    # a name may come to mean something else
    by_branch = client.get(chunk.replace(uuid, f"{uuid[:8]}:master"))
    assert by_branch.headers["cache-control"] == "no-cache"
    assert client.get(chunk.replace(uuid, uuid[:8])).headers["cache-control"] == "no-cache"
    assert client.head(chunk).headers["etag"] == client.get(chunk).headers["etag"]


def test_committed_versions_under_full_write_may_change(make_client):
    client = make_client(mode="fullwrite")
    root = client.repo()
    node = client.instance(root, "labelmap", "seg")
    client.commit(root)
    assert client.get(f"{node}/zarr/zarr.json").headers["cache-control"] == "no-cache"


def test_parts(client, volume):
    chunk = f"{volume[0]}/zarr/s0/c/0/0/0"
    whole = client.get(chunk).content
    part = client.get(chunk, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole)}"
    assert client.get(chunk, headers={"Range": "bytes=-3"}).content == whole[-3:]
    assert client.get(chunk, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416


def test_segmentations_shrink_on_the_way(client, volume):
    chunk = f"{volume[0]}/precomputed/8_8_8/0-64_0-64_0-64"
    packed = client.get(chunk, headers={"Accept-Encoding": "gzip"})
    plain = client.get(chunk, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert packed.content == plain.content
    assert packed.headers["etag"] != plain.headers["etag"]
    assert gzip.compress(b"")  # the client has unpacked it above


def test_what_is_not_there(client, volume):
    node, _ = volume
    for path in ("zarr/.zgroup", "zarr/s0/c/5/0/0", "zarr/s4/zarr.json", "precomputed/8_8_8/0-1_0-1_0-1",
                 "precomputed/segment_properties/info", "zarr/../../secret"):  # fmt: skip
        assert client.get(f"{node}/{path}").status_code in (301, 404), path
    assert client.get(f"{node}/zarr").status_code == 400
    assert client.get(f"{node}/precomputed/").status_code == 400
    assert client.post(f"{node}/zarr/zarr.json", content=b"{}").status_code == 400


def test_a_changed_voxel_size_is_seen_at_once(client, volume):
    node, _ = volume
    assert client.get(f"{node}/precomputed/info").json()["scales"][0]["resolution"] == [8, 8, 8]
    assert client.post(f"{node}/resolution", json=[4, 4, 40]).status_code == 200
    assert client.get(f"{node}/precomputed/info").json()["scales"][0]["resolution"] == [4, 4, 40]


def test_annotations(client):
    uuid = client.repo()
    client.instance(uuid, "labelmap", "seg", BlockSize="16,16,16")
    node = client.instance(uuid, "annotation", "synapses")
    assert client.post(f"{node}/sync", json={"sync": "seg"}).status_code == 200
    voxels = np.full((16, 16, 16), 7, np.uint64).tobytes()
    assert client.post(f"/api/node/{uuid}/seg/raw/0_1_2/16_16_16/0_0_0", content=voxels).status_code == 200
    assert client.post(f"{node}/elements", json=[{"Pos": [1, 2, 3], "Kind": "PreSyn"}]).status_code == 200
    info = client.get(f"{node}/precomputed/info")
    assert info.json()["@type"] == "neuroglancer_annotations_v1"
    assert info.json()["relationships"] == [{"id": "body", "key": "body"}]
    assert info.headers["cache-control"] == "no-cache"
    box = client.get(f"{node}/precomputed/spatial0/0_0_0")
    assert np.frombuffer(box.content[8:20], "<f4").tolist() == [1.5, 2.5, 3.5]
    assert client.get(f"{node}/precomputed/body/7").content == box.content
    assert client.get(f"{node}/precomputed/body/8").content == bytes(8)  # none, and no error in the viewer
    assert client.get(f"{node}/precomputed/spatial0/9_0_0").status_code == 404
    assert client.get(f"{node}/precomputed").status_code == 400
    again = client.get(f"{node}/precomputed/info", headers={"If-None-Match": info.headers["etag"]})
    assert again.status_code == 304
    client.commit(uuid)
    assert "immutable" in client.get(f"{node}/precomputed/info").headers["cache-control"]
