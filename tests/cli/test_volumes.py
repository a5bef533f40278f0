"""`dvid-dask ingest`: from a file on disk to a data instance that reads the same."""

import numpy as np
import pytest
import zarr

import dvid_dask
from dvid_dask import ops


@pytest.fixture
def labels(tmp_path):
    """A label volume in a zarr array, and what is in it."""
    z, y, x = np.ogrid[0:100, 0:80, 0:96]
    volume = (1 + z // 40 + 10 * (y // 30) + 100 * (x // 50)).astype(np.uint64)
    path = tmp_path / "labels.zarr"
    array = zarr.create_array(str(path), shape=volume.shape, dtype=volume.dtype, chunks=(64, 64, 64))
    array[:] = volume
    return path, volume


def test_ingest_makes_what_is_missing(cli, labels, tmp_path):
    path, volume = labels
    store = tmp_path / "store"
    assert "no store" in cli("ingest", path, store, "-i", "seg", code=1).err
    done = cli("ingest", path, store, "-i", "seg", "--create", "--repo", "fly")
    assert "wrote 0.8 Mvoxel" in done.out
    assert "ingest" in done.err
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert seg.typename == "labelmap"
    assert np.array_equal(seg.read((0, 0, 0), volume.shape), volume)
    body = int(volume[0, 0, 0])
    assert seg.size(body) == np.count_nonzero(volume == body)


def test_ingest_at_an_offset_of_a_crop(cli, labels, store):
    path, volume = labels
    cli("node", "new-instance", store, "master", "labelmap", "seg")
    where = ("--offset", "64,0,-64", "--crop", "0,10,20:64,70,90")
    cli("ingest", path, store, "-i", "seg", *where, "--label-offset", "5000")
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert np.array_equal(seg.read((-64, 0, 64), (70, 60, 64)), volume[20:90, 10:70, 0:64] + 5000)


def test_a_plan_writes_nothing(cli, labels, store):
    path, _ = labels
    cli("node", "new-instance", store, "master", "labelmap", "seg")
    plan = cli("ingest", path, store, "-i", "seg", "--plan").out
    assert "bricks" in plan
    assert dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"].extents is None


def test_an_image_goes_into_an_image_type(cli, store, tmp_path):
    gray = np.random.default_rng(0).integers(0, 255, (40, 64, 64)).astype(np.uint8)
    np.save(tmp_path / "gray.npy", gray)
    cli("ingest", tmp_path / "gray.npy", store, "-i", "grayscale", "--create")
    image = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["grayscale"]
    assert image.typename == "uint8blk"
    assert np.array_equal(image[0:40, 0:64, 0:64], gray)


def test_ingest_through_worker_processes(cli, labels, store):
    path, volume = labels
    cli("ingest", path, store, "-i", "seg", "--create", "--workers", "1")
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert np.array_equal(seg.read((0, 0, 0), volume.shape), volume)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("-i", "nosuch"), 1, "no data instance 'nosuch'"),
        (("-i", "seg", "--create", "--offset", "1,2"), 2, "is no X,Y,Z"),
        (("-i", "seg", "--create", "--crop", "0,0,0:9999,1,1"), 1, "9999"),
        (("-i", "seg", "--create", "--dtype", "nosuch"), 2, "no type of numpy"),
        (("-i", "seg", "--create", "--workers", "1", "--scheduler", "tcp://x"), 2, "exclude each other"),
    ],
)
def test_what_can_not_be_ingested_says_why(cli, labels, store, arguments, status, words):
    failed = cli("ingest", labels[0], store, *arguments, code=status)
    assert words in " ".join(failed.err.split())


def test_a_missing_source_says_so(cli, store, tmp_path):
    assert "nothing.zarr" in cli("ingest", tmp_path / "nothing.zarr", store, "-i", "seg", "--create", code=1).err


def test_export_and_ingest_again(cli, labels, store, tmp_path):
    path, volume = labels
    cli("ingest", path, store, "-i", "seg", "--create")
    cli("export", store, "master", "seg", tmp_path / "out.zarr", "--format", "zarr")
    cli("ingest", tmp_path / "out.zarr", store, "-i", "again", "--create", "--dtype", "uint64")
    again = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["again"]
    assert np.array_equal(again.read((0, 0, 0), volume.shape), volume)
    assert "format" in cli("export", store, "master", "seg", tmp_path / "x", "--format", "nosuch", code=1).err


def test_publish_and_go_on(cli, labels, store, tmp_path):
    path, volume = labels
    cli("ingest", path, store, "-i", "seg", "--create")
    assert "is open" in cli("publish", store, "master", "seg", tmp_path / "out", code=1).err
    repo = dvid_dask.open(str(store), compact="never").repos.named("fly")
    first = repo["master"]
    first.commit()
    arguments = (tmp_path / "out", "--format", "precomputed", "--verify", "2")
    assert "parts compared" in cli("publish", store, first.uuid, "seg", *arguments).out
    child = first.newversion()
    child["seg"].merge(*(int(n) if i == 0 else [int(n)] for i, n in enumerate(np.unique(volume[volume > 0])[:2])))
    child.commit()
    assert f"kept of version {first.uuid[:12]}" in cli("publish", store, "master", "seg", *arguments).out
    again = ops.open_volume(f"precomputed://{tmp_path}/out/{child.uuid}")
    assert np.array_equal(again.read(again.box), child["seg"].read((0, 0, 0), volume.shape))


def test_scales_and_index(cli, labels, store):
    path, volume = labels
    cli("node", "new-instance", store, "master", "labelmap", "seg", "MaxDownresLevel=1")
    cli("ingest", path, store, "-i", "seg", "--scales", "0")
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert not seg.read((0, 0, 0), (32, 32, 32), scale=1).any()
    cli("downres", store, "master", "seg")
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert seg.read((0, 0, 0), (16, 15, 25), scale=1).all()
    assert "the index is exact" in cli("check-index", store, "master", "seg").out


def test_only_a_region(cli, labels, store, tmp_path):
    """Ingest, coarser scales, the check of the index and exports keep to a roi of the version."""
    path, volume = labels
    cli("node", "new-instance", store, "master", "labelmap", "seg", "MaxDownresLevel=1")
    cli("node", "new-instance", store, "master", "roi", "part", "BlockSize=32,32,32")
    fly = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]
    fly["part"].replace([[0, 0, 0, 1], [1, 1, 2, 9]])
    mask = fly["part"].mask((0, 0, 0), volume.shape)
    assert "10 blocks" in cli("ingest", path, store, "-i", "seg", "--region", "part", "--plan").out
    assert "no voxel" in cli("ingest", path, store, "-i", "seg", "--offset", "0,900,0", "--region", "part", code=1).err
    cli("ingest", path, store, "-i", "seg", "--region", "part")
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert np.array_equal(seg.read((0, 0, 0), volume.shape), np.where(mask, volume, 0))
    cli("downres", store, "master", "seg", "--region", "part")
    assert "exact" in cli("check-index", store, "master", "seg", "--region", "part").out
    cli("export", store, "master", "seg", tmp_path / "out", "--format", "zarr", "--region", "part")
    array = zarr.open_array(tmp_path / "out", mode="r")
    low = array.attrs["offset"]
    box = tuple(slice(a, a + n) for a, n in zip(low, array.shape, strict=True))
    assert np.array_equal(array[:], np.where(mask, volume, 0)[box])
    assert "is a labelmap, not a roi" in cli("export", store, "master", "seg", "x", "--region", "seg", code=1).err


def test_adopt_makes_an_instance_of_a_volume_in_place(cli, tmp_path):
    gray = np.random.default_rng(0).integers(0, 255, (40, 64, 64)).astype(np.uint8)
    array = zarr.create_array(str(tmp_path / "em.zarr"), shape=gray.shape, dtype=gray.dtype, chunks=(32, 32, 32))
    array[:] = gray
    store = tmp_path / "store"
    assert "no store" in cli("adopt", tmp_path / "em.zarr", store, "-i", "em", code=1).err
    done = cli("adopt", tmp_path / "em.zarr", store, "-i", "em", "--create", "--repo", "fly", "--offset", "5,0,-7")
    assert "stands on file://" in done.out
    image = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["em"]
    assert image.extents.start == (-7, 0, 5)
    assert np.array_equal(image[...], gray)
    assert image.stored().keys == 0
    assert "no volume" in cli("adopt", tmp_path / "nothing", store, "-i", "other", code=1).err


def test_adopt_makes_the_label_index_of_a_segmentation(cli, tmp_path):
    labels = np.random.default_rng(0).integers(0, 9, (4, 4, 8), np.uint32).repeat(16, 0).repeat(16, 1).repeat(16, 2)
    array = zarr.create_array(str(tmp_path / "seg.zarr"), shape=labels.shape, dtype=labels.dtype, chunks=(32, 32, 32))
    array[:] = labels
    store = tmp_path / "store"
    done = cli(
        "adopt", tmp_path / "seg.zarr", store, "-i", "seg", "--create", "--repo", "fly", "--type", "labelmap",
        "--offset", "16,0,-32",
    )  # fmt: skip
    assert "'seg' [labelmap] stands on file://" in done.out
    seg = dvid_dask.open(str(store), compact="never").repos.named("fly")["master"]["seg"]
    assert np.array_equal(seg[...], labels)
    assert seg.sizes([3]).tolist() == [int((labels == 3).sum())]
    assert seg.layout.levels == 0
    assert [(r.app, r.record["Action"]) for r in seg.history()] == [("dvid-dask adopt", "adopt")]
    again = cli(
        "adopt", tmp_path / "seg.zarr", store, "-i", "seg", "--type", "labelmap", "--offset", "16,0,-32", code=1
    )
    assert "already" in again.err


def test_a_committed_version_names_those_that_are_open(cli, labels, tmp_path):
    labels, store = labels[0], str(tmp_path / "other")
    cli("ingest", labels, store, "-i", "seg", "--create")
    root = cli("node", "commit", store, "master", "-m", "first").out
    for command in ("ingest", "adopt"):
        said = cli(command, labels, store, "-i", "new", "--create", code=1).err
        assert f"dvid-dask node newversion STORE {root[:12]}" in said
    assert "none is open" in cli("ingest", labels, store, "-i", "seg", code=1).err
    child = cli("node", "branch", store, root, "work").out
    for command in ("ingest", "adopt"):
        said = cli(command, labels, store, "-i", "new", "--create", code=1).err
        assert f"--version: {child[:12]} (work)" in said
    cli("ingest", labels, store, "-i", "new", "--create", "--version", "work")
