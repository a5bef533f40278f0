"""Views against the arrays that were stored, as zarr-python, tensorstore and xarray read them."""

import json
import pickle

import numpy as np
import pytest
import tensorstore as ts
import xarray
import zarr

import dvid_dask
from dvid_dask.errors import BadRequest
from dvid_dask.views import PrecomputedView, ViewStore, ZarrView

TYPES = {
    "uint8blk": np.uint8,
    "uint16blk": np.uint16,
    "uint32blk": np.uint32,
    "uint64blk": np.uint64,
    "float32blk": np.float32,
    "rgba8blk": np.uint8,
}


def waves(shape, dtype):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 200, shape) + np.indices(shape).sum(0)
    return (values / (2 if dtype == np.float32 else 1)).astype(dtype)


@pytest.fixture
def repo(tmp_path):
    with dvid_dask.create(str(tmp_path / "store"), compact="never") as datastore:
        yield datastore.new_repo("views")


def through_tensorstore(view, driver):
    """The view copied into memory, file by file as they are asked for, and read there."""
    memory = ts.KvStore.open({"driver": "memory"}, context=ts.Context()).result()
    for level in view.volume.levels:
        if driver == "zarr3":
            paths = [f"s{level.scale}/zarr.json"]
            grid = [-(-n // b) for n, b in zip(level.shape, view.volume.block, strict=True)]
            first = ("0/",) if view.volume.channels > 1 else ("",)
            paths += [f"s{level.scale}/c/{first[0]}{z}/{y}/{x}" for z, y, x in np.ndindex(*grid)]
        else:
            scale = next(s for s in view.info()["scales"] if view._levels[s["key"]] is level)
            offset, size, chunk = (np.array(v) for v in (scale["voxel_offset"], scale["size"], scale["chunk_sizes"][0]))
            paths = ["info"]
            for index in np.ndindex(*(-(-size // chunk))):
                start = offset + np.array(index) * chunk
                stop = np.minimum(start + chunk, offset + size)
                spans = "_".join(f"{a}-{b}" for a, b in zip(start.tolist(), stop.tolist(), strict=True))
                paths.append(f"{scale['key']}/{spans}")
        for path in paths:
            found = view.get(path)
            if found is not None:
                memory.write(path, found[0]).result()
    return memory


@pytest.mark.parametrize("typename", TYPES)
@pytest.mark.parametrize("offset", [(0, 0, 0), (-64, 32, 96)])
def test_images(repo, typename, offset):
    dtype = TYPES[typename]
    tail = (4,) if typename == "rgba8blk" else ()
    voxels = waves((64, 96, 40, *tail), dtype)
    image = repo.new_instance(typename, "image", {"Background": "7"} if typename == "uint8blk" else {})
    image.write(voxels, offset)
    view = ZarrView(image)
    array = zarr.open_group(ViewStore(view), mode="r")["s0"]
    start = array.attrs["offset"]
    assert start == [v // 32 * 32 for v in offset]
    part = tuple(slice(o - s, o - s + n) for o, s, n in zip(offset, start, voxels.shape, strict=False))
    read = np.moveaxis(array[:], 0, -1) if tail else array[:]
    np.testing.assert_array_equal(read[part], voxels)
    memory = through_tensorstore(view, "zarr3")
    stored = ts.open({"driver": "zarr3"}, kvstore=memory / "s0/", open=True).result().read().result()
    np.testing.assert_array_equal(np.moveaxis(stored, 0, -1) if tail else stored, read)
    if typename == "uint8blk":
        assert array.fill_value == 7
    # chunks are the blocks as they lie in the store
    block = [v // 32 for v in offset]
    chunk = f"s0/c/{'0/' * bool(tail)}" + "/".join(str(b - s // 32) for b, s in zip(block, start, strict=True))
    assert view.get(chunk)[0] == image.layout.value(image.view(), 0, block)
    precomputed = PrecomputedView(image)
    memory = through_tensorstore(precomputed, "neuroglancer_precomputed")
    opened = ts.open({"driver": "neuroglancer_precomputed", "scale_index": 0}, kvstore=memory, open=True).result()
    box = opened[tuple(slice(o, o + n) for o, n in zip(offset[::-1], voxels.shape[2::-1], strict=True))]
    back = box.read().result().transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(back if tail else back[..., 0], voxels)


def test_labels_of_bodies_and_of_supervoxels(repo):
    seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "2", "BlockSize": "32,32,32"})
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (4, 6, 5)).astype(np.uint64).repeat(16, 0).repeat(16, 1).repeat(16, 2)
    labels = np.pad(labels, ((0, 0), (0, 0), (0, 16)))
    labels[32:, :32] = 0
    seg.write(labels, (32, -32, 64))
    seg.merge(1, [2])
    bodies = np.where(labels == 2, 1, labels)
    group = zarr.open_group(ViewStore(ZarrView(seg)), mode="r")
    assert sorted(name for name, _ in group.arrays()) == ["s0", "s1", "s2"]
    np.testing.assert_array_equal(group["s0"][:], bodies)
    np.testing.assert_array_equal(group["supervoxels/s0"][:], labels)
    at = [v >> 1 for v in (32, -32, 64)]
    shape = [n // 2 for n in labels.shape]
    start = group["s1"].attrs["offset"]
    part = tuple(slice(a - s, a - s + n) for a, s, n in zip(at, start, shape, strict=True))
    np.testing.assert_array_equal(group["s1"][part], seg.read(at, shape, 1))
    for supervoxels, expected in ((False, bodies), (True, labels)):
        view = PrecomputedView(seg, supervoxels=supervoxels)
        memory = through_tensorstore(view, "neuroglancer_precomputed")
        spec = {"driver": "neuroglancer_precomputed", "scale_index": 0}
        opened = ts.open(spec, kvstore=memory, open=True).result()
        back = opened[..., 0].read().result().transpose(2, 1, 0)
        np.testing.assert_array_equal(back, expected)
        assert opened.domain.origin[:3] == (64, -32, 32)
    # nothing is sent for what holds nothing
    assert ZarrView(seg).get("s0/c/1/0/0") is None
    assert PrecomputedView(seg).get("8_8_8/64-96_-32-0_64-96") is None


def test_ome_zarr_says_where_voxels_are(repo):
    image = repo.new_instance("uint8blk", "gray", {"VoxelSize": "4,8,40"})
    image.write(np.ones((32, 32, 32), np.uint8), (32, 64, 96))
    group = zarr.open_group(ViewStore(ZarrView(image)), mode="r")
    (multiscale,) = group.attrs["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [40, 8, 4]
    # centres of voxels, from the outer corner of voxel 0 on
    assert translation["translation"] == [32.5 * 40, 64.5 * 8, 96.5 * 4]


def test_jpeg_blocks_are_passed_on(repo):
    image = repo.new_instance("uint8blk", "gray", {"Compression": "jpeg"})
    voxels = (128 + 100 * np.sin(np.indices((32, 32, 64)).sum(0) / 20)).astype(np.uint8)
    image.write(voxels, (0, 0, 0))
    view = PrecomputedView(image)
    data, kind = view.get("8_8_8/0-32_0-32_0-32")
    assert kind == "image/jpeg"
    assert data[:2] == b"\xff\xd8"
    array = zarr.open_group(ViewStore(ZarrView(image)), mode="r")["s0"]
    np.testing.assert_array_equal(array[:], image[0:32, 0:32, 0:64])


NOWHERE = [
    "zarr.json/",
    "s9/zarr.json",
    "s0/c/0/0",
    "s0/c/9/0/0",
    "s0/c/-1/0/0",
    "s0/c/0/0/0/0",
    "../secret",
    "s0/c/99999999999/0/0",
    ".zgroup",
    "supervoxels/supervoxels/zarr.json",
]


@pytest.mark.parametrize("path", ["", *NOWHERE])
def test_paths_where_nothing_is(repo, path):
    seg = repo.new_instance("labelmap", "seg")
    seg.write(np.full((64, 64, 64), 3, np.uint64), (0, 0, 0))
    assert ZarrView(seg).get(path) is None
    assert PrecomputedView(seg).get(path) is None


def test_chunks_off_the_grid_are_none(repo):
    seg = repo.new_instance("labelmap", "seg")
    seg.write(np.full((64, 64, 64), 3, np.uint64), (0, 0, 0))
    view = PrecomputedView(seg)
    assert view.get("8_8_8/0-64_0-64_0-64") is not None
    for path in ("8_8_8/0-63_0-64_0-64", "8_8_8/1-65_0-64_0-64", "8_8_8/64-128_0-64_0-64", "8_8_8/-64-0_0-64_0-64",
                 "8_8_8/0-4294967296_0-64_0-64", "8_8_8/64-0_0-64_0-64", "16_16_16/0-32_0-32_0-32"):  # fmt: skip
        assert view.get(path) is None, path


def test_a_view_stays_in_its_state(repo):
    seg = repo.new_instance("labelmap", "seg")
    seg.write(np.full((64, 64, 64), 3, np.uint64), (0, 0, 0))
    store = ViewStore(ZarrView(seg))
    again = pickle.loads(pickle.dumps(store))
    seg.write(np.full((64, 64, 64), 4, np.uint64), (0, 0, 0))
    for held in (store, again):
        assert int(zarr.open_group(held, mode="r")["s0"][0, 0, 0]) == 3
    assert int(zarr.open_group(ViewStore(ZarrView(seg)), mode="r")["s0"][0, 0, 0]) == 4
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(store, mode="r").create_array("x", shape=(1,), dtype="u1")


def test_an_empty_instance(repo):
    seg = repo.new_instance("labelmap", "seg")
    assert list(zarr.open_group(ViewStore(ZarrView(seg)), mode="r").arrays()) == []
    assert PrecomputedView(seg).info()["scales"] == []
    with pytest.raises(BadRequest, match="holds no volume"):
        ZarrView(repo.new_instance("keyvalue", "kv"))


def test_xarray_opens_stores(repo):
    gray = repo.new_instance("uint8blk", "gray")
    gray.write(waves((64, 64, 64), np.uint8), (0, 0, 0))
    seg = repo.new_instance("labelmap", "seg", {"MaxDownresLevel": "1"})
    seg.write(np.full((64, 64, 64), 3, np.uint64), (0, 0, 0))
    place = repo.datastore.url
    dataset = xarray.open_dataset(place, engine="dvid", version="master", instance="gray")
    np.testing.assert_array_equal(dataset["gray"].values, gray[0:64, 0:64, 0:64])
    assert float(dataset.x[1]) == 8
    tree = xarray.open_datatree(repo.datastore, engine="dvid", version=repo["master"].uuid[:9], instance="seg")
    assert sorted(tree.children) == ["s0", "s1"]
    assert int(tree["s1/seg"][0, 0, 0]) == 3
    # both scales and both instances lie in one space
    assert float(tree["s1"].x[0]) == 4
    with pytest.raises(BadRequest, match="name the instance"):
        xarray.open_dataset(place, engine="dvid")
    assert "seg" not in xarray.open_dataset(place, engine="dvid", instance="seg", drop_variables="seg")
    assert json.dumps(tree.attrs)


@pytest.mark.parametrize("typename", ["labelarray", "labelblk"])
def test_older_label_types(repo, typename):
    settings = {"MaxDownresLevel": "1"} if typename == "labelarray" else {"BlockSize": "16,8,32"}
    seg = repo.new_instance(typename, "seg", settings)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (8, 8, 16)).astype(np.uint64).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    seg.write(labels, (64, -64, 128))
    group = zarr.open_group(ViewStore(ZarrView(seg)), mode="r")
    np.testing.assert_array_equal(group["s0"][:], labels)
    assert list(group.groups()) == []  # there are no supervoxels
    view = PrecomputedView(seg)
    memory = through_tensorstore(view, "neuroglancer_precomputed")
    opened = ts.open({"driver": "neuroglancer_precomputed", "scale_index": 0}, kvstore=memory, open=True).result()
    np.testing.assert_array_equal(opened[..., 0].read().result().transpose(2, 1, 0), labels)
    with pytest.raises(BadRequest, match="only a labelmap has supervoxels"):
        ZarrView(seg, supervoxels=True)
