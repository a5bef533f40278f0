"""Every kind of source gives the same voxels in z, y, x, whatever its own axes, and survives pickling."""

from __future__ import annotations

import pickle

import dask.array as da
import h5py
import imagecodecs
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask import ops
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.ops import open_volume

SHAPE = (20, 30, 41)


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(0, 200, SHAPE, dtype=np.uint8)


def ts_write(spec, array):
    store = ts.open({**spec, "create": True, "delete_existing": True}).result()
    store.write(array).result()


def npy(path, v):
    np.save(path / "v.npy", v)
    return {"source": str(path / "v.npy")}


def fortran_npy(path, v):
    np.save(path / "v.npy", np.asfortranarray(v))
    return {"source": path / "v.npy"}


def xyz_npy(path, v):
    np.save(path / "v.npy", v.transpose(2, 1, 0))
    return {"source": str(path / "v.npy"), "axes": "xyz"}


def memmap_slice(path, v):
    np.save(path / "v.npy", np.pad(v, 3))
    return {"source": np.load(path / "v.npy", mmap_mode="r")[3:-3, 3:-3, 3:-3]}


def memmap_strided(path, v):
    np.save(path / "v.npy", v.repeat(2, 2)[::-1])
    return {"source": np.load(path / "v.npy", mmap_mode="r")[::-1, :, ::2]}


def in_memory(path, v):
    return {"source": v}


def big_endian(path, v):
    return {"source": v.astype(">u2"), "dtype": "uint8"}


def one_channel(path, v):
    return {"source": v[None]}


def dask_array(path, v):
    return {"source": da.from_array(v, chunks=(7, 30, 19))}


def zarr2(path, v):
    array = zarr.create_array(str(path / "v.zarr"), shape=v.shape, chunks=(8, 8, 8), dtype=v.dtype, zarr_format=2)
    array[:] = v
    return {"source": str(path / "v.zarr")}


def zarr3(path, v):
    array = zarr.create_array(str(path / "v.zarr"), shape=v.shape, chunks=(8, 8, 8), dtype=v.dtype, zarr_format=3)
    array[:] = v
    return {"source": str(path / "v.zarr")}


def zarr3_named_axes(path, v):
    array = zarr.create_array(
        str(path / "v.zarr"), shape=v.shape[::-1], chunks=(8, 8, 8), dtype=v.dtype, dimension_names=["x", "y", "z"]
    )
    array[:] = v.transpose(2, 1, 0)
    return {"source": (path / "v.zarr").as_uri()}


def zarr_object(path, v):
    array = zarr.create_array(str(path / "v.zarr"), shape=v.shape, chunks=(8, 8, 8), dtype=v.dtype)
    array[:] = v
    return {"source": array}


def zarr_channels(path, v):
    array = zarr.create_array(str(path / "v.zarr"), shape=(2, *v.shape), chunks=(1, 8, 8, 8), dtype=v.dtype)
    array[1] = v
    return {"source": str(path / "v.zarr"), "select": {"c": 1}}


def ome_zarr(path, v):
    """Version 0.4: zarr 2, time and channel of one element."""
    group = zarr.create_group(str(path / "v.zarr"), zarr_format=2)
    axes = [{"name": n} for n in "tczyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]
    group.create_array("0", shape=(1, 1, *v.shape), chunks=(1, 1, 8, 8, 8), dtype=v.dtype)[0, 0] = v
    return {"source": str(path / "v.zarr")}


def n5(path, v):
    spec = {"driver": "n5", "kvstore": (path / "v.n5").as_uri() + "/"}
    meta = {"dimensions": v.shape[::-1], "blockSize": [8, 8, 8], "dataType": "uint8", "compression": {"type": "gzip"}}
    ts_write({**spec, "metadata": meta}, v.transpose(2, 1, 0))
    return {"source": str(path / "v.n5")}


def precomputed(path, v):
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": (path / "v").as_uri() + "/",
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": {
            "size": v.shape[::-1],
            "voxel_offset": [5, -6, 7],
            "resolution": [8, 8, 8],
            "chunk_size": [16, 16, 16],
            "encoding": "raw",
        },
    }
    ts_write(spec, v.transpose(2, 1, 0)[..., None])
    return {"source": f"precomputed://{path}/v"}


def precomputed_found(path, v):
    precomputed(path, v)
    return {"source": str(path / "v")}


def tensorstore_spec(path, v):
    zarr3(path, v)
    return {"source": {"driver": "zarr3", "kvstore": (path / "v.zarr").as_uri() + "/"}}


def tensorstore_url(path, v):
    zarr3(path, v)
    return {"source": (path / "v.zarr").as_uri() + "/|zarr3:"}


def tensorstore_object(path, v):
    return {"source": ts.open(tensorstore_spec(path, v)["source"]).result()}


def hdf5(path, v):
    with h5py.File(path / "v.h5", "w") as file:
        file["em/gray"] = v
        file["note"] = "text"
    return {"source": f"{path}/v.h5:/em/gray"}


def hdf5_only_dataset(path, v):
    hdf5(path, v)
    return {"source": str(path / "v.h5")}


def hdf5_axes(path, v):
    with h5py.File(path / "v.hdf5", "w") as file:
        file.create_dataset("gray", data=v.transpose(1, 2, 0)[None], chunks=(1, 8, 8, 8))
    return {"source": str(path / "v.hdf5"), "dataset": "gray", "axes": "cyxz"}


def tiff_pages(path, v):
    tifffile.imwrite(path / "v.tif", v, photometric="minisblack")
    return {"source": str(path / "v.tif")}


def tiff_stack(path, v):
    for z, plane in enumerate(v):
        tifffile.imwrite(path / f"s{z}.tif", plane)  # s10 comes after s9
    return {"source": str(path / "s*.tif")}


def png_stack(path, v):
    for z, plane in enumerate(v):
        (path / f"s{z}.png").write_bytes(imagecodecs.png_encode(plane))
    return {"source": [str(path / f"s{z}.png") for z in range(len(v))]}


def png_stack_by_url(path, v):
    import fsspec

    fs = fsspec.filesystem("memory")
    for z, plane in enumerate(v):
        fs.pipe(f"/{path.name}/s{z:02}.png", imagecodecs.png_encode(plane))
    return {"source": f"memory://{path.name}/*.png"}


KINDS = [
    npy, fortran_npy, xyz_npy, memmap_slice, memmap_strided, in_memory, big_endian, one_channel, dask_array, zarr2,
    zarr3, zarr3_named_axes, zarr_object, zarr_channels, ome_zarr, n5, precomputed, precomputed_found,
    tensorstore_spec, tensorstore_url, tensorstore_object, hdf5, hdf5_only_dataset, hdf5_axes, tiff_pages, tiff_stack,
    png_stack, png_stack_by_url,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_kind(tmp_path, volume, kind):
    given = kind(tmp_path, volume)
    opened = open_volume(**given)
    assert opened.shape == SHAPE
    assert opened.dtype == np.uint8
    for found in (opened, pickle.loads(pickle.dumps(opened))):
        np.testing.assert_array_equal(found.read(found.box), volume)
        np.testing.assert_array_equal(found.read(((3, 4, 5), (6, 8, 10))), volume[3:6, 4:8, 5:10])
        part = found.crop(((2, 3, 4), (12, 13, 14)))
        np.testing.assert_array_equal(part.read(((1, 1, 1), (3, 3, 3))), volume[3:5, 4:6, 5:7])
        assert part.shape == (10, 10, 10)
    assert open_volume(**given).identity == opened.identity
    assert opened.crop(((0, 0, 0), (1, 1, 1))).identity != opened.identity
    with pytest.raises(BadRequest, match="not inside"):
        opened.read(((0, 0, 0), (21, 1, 1)))


def test_jpeg_stack(tmp_path):
    smooth = np.add.outer(np.arange(4) * 9, np.add.outer(np.arange(32), np.arange(40))).astype(np.uint8)
    for z, plane in enumerate(smooth):
        (tmp_path / f"s{z}.jpg").write_bytes(imagecodecs.jpeg_encode(plane, level=95))
    found = open_volume(str(tmp_path / "*.jpg"))
    assert np.abs(found.read(found.box).astype(int) - smooth).max() <= 4


def test_an_instance_is_a_source(repo):
    from tests.ops.conftest import neurites
    from tests.ops.test_ingest import labelmap

    seg, copy = labelmap(repo), labelmap(repo, block=32, name="copy")
    labels = neurites((48, 64, 48))
    ops.ingest(labels, seg, offset=(-16, 0, 5), progress=False)
    seg.merge(*(lambda u: (u[0], u[1:4]))(np.unique(labels)[1:].tolist()))
    opened = pickle.loads(pickle.dumps(open_volume(seg)))
    seg.write(np.full((16, 16, 16), 3, np.uint64), (0, 0, 16))  # after it was opened: not seen
    ops.ingest(opened, copy, progress=False)
    np.testing.assert_array_equal(copy.read((0, 0, 0), labels.shape), labels)


def test_an_image_is_a_source_wherever_it_begins(repo):
    image = repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    volume = np.random.default_rng(0).integers(0, 256, (20, 30, 40), dtype=np.uint8)
    ops.ingest(volume, image, offset=(-7, 100, 5), progress=False)
    opened = pickle.loads(pickle.dumps(open_volume(image)))
    np.testing.assert_array_equal(opened.read(opened.box), volume)


def test_rgba_slices_are_labels(tmp_path):
    from dvid_dask.formats.images import encode_image

    labels = np.random.default_rng(0).integers(0, 2**64, (3, 5, 7), dtype=np.uint64)
    for z, plane in enumerate(labels):
        (tmp_path / f"{z}.png").write_bytes(encode_image(plane)[0])
    opened = open_volume(f"{tmp_path}/*.png")
    assert opened.dtype == np.uint64
    np.testing.assert_array_equal(opened.read(opened.box), labels)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_dask_parts_are_what_slicing_gives(data):
    """Any grid over any chunks, any of its cells."""
    shape = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    array = np.arange(np.prod(shape)).reshape(shape)
    chunks = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    edge = data.draw(st.tuples(*[st.integers(1, 20)] * 3))
    opened = open_volume(da.from_array(array, chunks=chunks))
    boxes = list(opened.box.split(edge))
    chosen = data.draw(st.lists(st.sampled_from(boxes), unique=True, max_size=5))
    for box, part in zip(chosen, opened.delayed(chosen), strict=True):
        np.testing.assert_array_equal(part.compute(scheduler="synchronous"), array[box.slices()])


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("/nowhere/v.npy", {}, NotFound, "no such file"),
        ("/nowhere/v.h5", {}, NotFound, "no such file"),
        ("/nowhere/v.zarr", {}, NotFound, "no volume found"),
        ("/nowhere/*.tif", {}, NotFound, "no file"),
        ([], {}, BadRequest, "empty list"),
        (["a.txt"], {}, BadRequest, "images end in"),
        ({"driver": "nonsense"}, {}, BadRequest, "tensorstore"),
        (np.zeros((2, 3)), {}, BadRequest, "three dimensions"),
        (np.zeros((2, 3, 4, 5)), {}, BadRequest, "three dimensions"),
        (np.zeros((2, 3, 4, 5)), {"select": {"c": 7}}, BadRequest, "2 elements"),
        (np.zeros((2, 3, 4, 5)), {"select": {"q": 0}}, BadRequest, "axes besides"),
        (np.zeros((2, 3, 4)), {"axes": "xy"}, BadRequest, "axes 'xy'"),
        (np.zeros((2, 3, 4)), {"axes": "abc"}, BadRequest, "no axis 'z'"),
        (np.array([[[object()]]]), {}, BadRequest, "Python objects"),
        (np.zeros((2, 3, 4), "U3"), {"dtype": "uint8"}, BadRequest, "can't read"),
        (3, {}, BadRequest, "can't read a volume"),
        (da.zeros((2, 3)), {}, BadRequest, "three dimensions"),
    ],
)
def test_bad_sources(source, options, error, message):
    with pytest.raises(error, match=message):
        open_volume(source, **options)


def test_choices_that_have_to_be_made(tmp_path, volume):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["a"] = volume
        file["b"] = volume
    with pytest.raises(BadRequest, match=r"/a.*/b"):
        open_volume(str(tmp_path / "v.h5"))
    with pytest.raises(NotFound, match="/a"):
        open_volume(str(tmp_path / "v.h5"), dataset="c")
    zarr_channels(tmp_path, volume)
    with pytest.raises(BadRequest, match="select"):
        open_volume(str(tmp_path / "v.zarr"))


def test_values_that_do_not_fit_are_refused_when_read():
    fractions = open_volume(np.full((2, 2, 2), 0.5), dtype="uint8")
    with pytest.raises(BadRequest, match="fractions"):
        fractions.read(fractions.box)
    large = open_volume(np.full((2, 2, 2), 300), dtype="uint8")
    with pytest.raises(BadRequest, match="300"):
        large.read(large.box)


def test_images_of_different_size_are_refused(tmp_path):
    for z, n in enumerate((8, 8, 9)):
        tifffile.imwrite(tmp_path / f"s{z}.tif", np.zeros((8, n), np.uint8))
    found = open_volume(str(tmp_path / "*.tif"))
    with pytest.raises(BadRequest, match="s2"):
        found.read(found.box)


def test_a_mapped_array_that_was_changed_in_memory_only_is_read_from_memory(tmp_path, volume):
    np.save(tmp_path / "v.npy", volume)
    private = np.load(tmp_path / "v.npy", mmap_mode="c")
    private[0, 0, 0] = 222
    assert open_volume(private).read(((0, 0, 0), (1, 1, 1))) == 222


def test_a_file_written_again_is_another_source(tmp_path, volume):
    import os

    np.save(tmp_path / "v.npy", volume)
    first = open_volume(tmp_path / "v.npy").identity
    assert open_volume(tmp_path / "v.npy").identity == first
    os.utime(tmp_path / "v.npy", ns=(1, 1))
    assert open_volume(tmp_path / "v.npy").identity != first
