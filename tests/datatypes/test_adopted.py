"""An adopted image is read as if its base had been written into it, through every door; edits go over the base.

The yardstick is a twin: an ordinary image into which the same voxels were written.
"""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.bases import Base
from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk import ArbitraryPlane
from dvid_dask.errors import BadRequest, BrokenBase, NotFound, Unavailable
from dvid_dask.views import PrecomputedView, ViewStore, ZarrView
from tests.bases import volumes
from tests.bases.server import serving

SHAPE = (40, 50, 61)
OFFSET = (-7, 100, 5)
BLOCK = {"BlockSize": "16,16,16"}


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)


@pytest.fixture
def repo():
    with dvid_dask.create("memory://", compact="never") as datastore:
        yield datastore.new_repo("fly")


def twins(repo, folder, voxels, offset=OFFSET, writer=volumes.zarr3, name="", **more):
    """An adopted image and one that holds the same voxels."""
    source = str(folder / writer(folder, voxels))
    at = repo["master"]
    adopted = ops.adopt(source, at, f"adopted{name}", offset=offset, settings={**BLOCK, **more})
    plain = repo.new_instance(adopted.typename, f"plain{name}", {**BLOCK, **more}, at=at)
    plain.write(voxels, offset)
    return adopted, plain


def reads(image, start=(-20, 90, -3), stop=(40, 160, 80)):
    """What every door of an image shows of a box."""
    start, shape = np.array(start), np.array(stop) - np.array(start)
    block = np.array(image.block_shape)
    corner, around = start // block, -(-np.array(stop) // block) - start // block

    def mask(blocks):
        return blocks.sum(axis=1) % 2 == 0

    grid = np.indices(around).reshape(3, -1).T + corner
    box = {"offset": (corner * block).tolist(), "shape": (around * block).tolist()}
    plane = ArbitraryPlane((-2.0, 95.0, -5.0), (60.0, 120.0, 10.0), (5.0, 140.0, 30.0), 1.0, (1.0, 1.0, 1.0))
    yield "extents", image.extents
    yield "scales", image.scales()
    yield "box", image.read_box(start, shape)
    yield "masked", image.read_box(**box, mask=mask)
    yield "slabs", np.concatenate(list(image.read_slabs(start, shape, slab_bytes=2000)))
    for axes in ((0, 1), (0, 2), (1, 2)):
        yield f"slice {axes}", image.read_slice(axes, (50, 40), start)
    yield "plane", image.read_plane(plane)
    yield "span", np.stack(list(image.read_block_span(corner, int(around[2]))))
    for compression in ("", "uncompressed"):
        yield f"blocks {compression}", dict(image.read_blocks(grid, compression=compression))
        yield f"blocks in {compression}", list(image.read_blocks_in(**box, compression=compression))
    yield "index", image[-5:3, 101:120, 60:70]
    yield "all", image[...]
    yield "dask", image.to_dask().compute(scheduler="synchronous")
    yield "xarray", image.to_xarray().values
    yield "pinned", np.asarray(pickle.loads(pickle.dumps(image.pin())))
    yield "zarr", zarr.open_group(ViewStore(ZarrView(image)), mode="r")["s0"][...]
    view = PrecomputedView(image)
    yield "precomputed", {path: view.get(path) for path in chunks_of(view)}


def chunks_of(view):
    for key, level in view._levels.items():
        for piece in Box.of(level.start, level.stop).relative(level.start).split(view.chunk_shape):
            at = piece.shift(level.start)
            yield f"{key}/" + "_".join(f"{a}-{b}" for a, b in zip(at.start[::-1], at.stop[::-1], strict=True))


def same(adopted, plain, **box):
    for (door, found), (_, expected) in zip(reads(adopted, **box), reads(plain, **box), strict=True):
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found, expected, err_msg=door)
            assert found.dtype == expected.dtype
        else:
            assert found == expected, door


# ------------------------------------------------------------------ reads and writes


@pytest.mark.parametrize("compression", ["lz4", "gzip", "none", "snappy"])
@pytest.mark.parametrize("edited", [False, True], ids=["unedited", "edited"])
def test_every_door_shows_what_it_would_of_an_ordinary_image(repo, tmp_path, voxels, compression, edited):
    """With a background, which blocks outside of the base are."""
    adopted, plain = twins(repo, tmp_path, voxels, Compression=compression, Background="9")
    if edited:
        for image in (adopted, plain):
            image.write(np.full((16, 32, 16), 200, np.uint8), (16, 112, 16))
            image.write(np.full((16, 16, 16), 30, np.uint8), (-16, 80, 64))
            image.write(np.full((3, 30, 7), 31, np.uint8), (-9, 120, 1))
    same(adopted, plain)


def test_boxes_of_very_many_blocks(repo, tmp_path, voxels, monkeypatch):
    adopted, plain = twins(repo, tmp_path, voxels)
    for image in (adopted, plain):
        image.write(np.full((16, 32, 16), 200, np.uint8), (16, 112, 16))
        image.write(np.full((3, 3, 3), 31, np.uint8), (-17, 159, 79))
    monkeypatch.setattr("dvid_dask.datatypes.imageblk.layout.LOOKUPS", 0)
    same(adopted, plain)


def test_an_instance_that_stores_jpeg(repo, tmp_path):
    """Blocks of the base come as JPEG where blocks are asked for, and untouched elsewhere."""
    voxels = np.full((32, 48, 48), 120, np.uint8)  # JPEG keeps it as it is
    adopted, plain = twins(repo, tmp_path, voxels, offset=(0, 0, 0), Compression="jpeg", Background="9")
    for image in (adopted, plain):
        image.write(np.full((16, 16, 16), 200, np.uint8), (16, 16, 16))
        image.write(np.full((16, 16, 16), 30, np.uint8), (-16, 0, 0))
    same(adopted, plain, start=(-20, -16, 0), stop=(33, 60, 50))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "float32"])
def test_every_type(repo, tmp_path, dtype):
    rng = np.random.default_rng(0)
    voxels = rng.standard_normal(SHAPE).astype(dtype) if dtype == "float32" else rng.integers(0, 250, SHAPE, dtype)
    source = str(tmp_path / volumes.zarr3(tmp_path, voxels))
    adopted = ops.adopt(source, repo["master"], "adopted", f"{dtype}blk", offset=OFFSET, settings=BLOCK)
    plain = repo.new_instance(f"{dtype}blk", "plain", BLOCK)
    plain.write(voxels, OFFSET)
    same(adopted, plain)
    for image in (adopted, plain):
        image.write(np.ones((3, 20, 5), dtype), (0, 120, 60))
    same(adopted, plain)


def test_colour(repo, tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (4, *SHAPE), dtype=np.uint8)
    array = zarr.create_array(str(tmp_path / "c.zarr"), shape=colour.shape, chunks=(4, 16, 16, 16), dtype="u1")
    array[:] = colour
    adopted = ops.adopt(str(tmp_path / "c.zarr"), repo["master"], "adopted", "rgba8blk", offset=OFFSET, settings=BLOCK)
    plain = repo.new_instance("rgba8blk", "plain", BLOCK)
    plain.write(colour.transpose(1, 2, 3, 0), OFFSET)
    same(adopted, plain)
    for image in (adopted, plain):
        image.write(np.full((3, 20, 5, 4), 9, np.uint8), (0, 120, 60))
    same(adopted, plain)


@pytest.mark.parametrize(
    "writer", [volumes.zarr2, volumes.n5, volumes.precomputed_sharded, volumes.hdf5, volumes.zarr3_sharded]
)
def test_every_format(repo, tmp_path, voxels, writer):
    adopted, plain = twins(repo, tmp_path, voxels, writer=writer)
    for image in (adopted, plain):
        image.write(voxels[:10, :20, :30], (0, 100, 0))
    same(adopted, plain)


def test_scales_are_the_bases_until_they_are_written(repo, tmp_path, voxels):
    name = volumes.precomputed(tmp_path, voxels)
    image = ops.adopt(str(tmp_path / name), repo["master"], "gray", settings=BLOCK)
    assert image.scales() == [0, 1, 2]
    assert image.extents == Box.of_shape(SHAPE).shift((8, -4, 16))
    assert image.voxel_size == (8, 8, 8)
    levels = volumes.halves(voxels)
    for scale in (1, 2):
        found = image.to_dask(scale).compute(scheduler="synchronous")
        np.testing.assert_array_equal(found, levels[scale])
    group = zarr.open_group(ViewStore(ZarrView(image)), mode="r")
    assert sorted(group) == ["s0", "s1", "s2"]
    # an edit shows in coarser scales after down-sampling, as in other images; the rest of them stays the base's
    image.write(np.full((8, 8, 8), 250, np.uint8), (16, 4, 24))
    before = image.to_dask(2).compute(scheduler="synchronous")
    ops.downres(image, scales=2, progress=False)
    assert (image.read_box((8, 2, 12), (4, 4, 4), 1) == 250).all()
    after = image.to_dask(2).compute(scheduler="synchronous")
    assert (image.read_box((4, 1, 6), (2, 2, 2), 2) == 250).all()
    assert after.shape == before.shape
    with pytest.raises(BadRequest, match="no block"):
        ops.downres(ops.adopt(str(tmp_path / name), repo["master"], "other"), scales=2, progress=False)


def test_scales_that_the_base_lacks_are_made(repo, tmp_path, voxels):
    adopted, plain = twins(repo, tmp_path, voxels)
    for image in (adopted, plain):
        image.write(np.full((8, 8, 8), 250, np.uint8), (16, 110, 24))
        ops.downres(image, scales=2, progress=False)
    for scale in (1, 2):
        np.testing.assert_array_equal(
            adopted.to_dask(scale).compute(scheduler="synchronous"),
            plain.to_dask(scale).compute(scheduler="synchronous"),
        )


def test_jobs_read_it_as_others(repo, tmp_path, voxels):
    voxels[:, :16] = 0
    adopted, plain = twins(repo, tmp_path, voxels, offset=(0, 0, 0))
    out = {}
    for image in (adopted, plain):
        image.write(np.full((16, 16, 16), 7, np.uint8), (0, 0, 0))
        folder = tmp_path / f"out-{image.name}"
        ops.export(image, str(folder), format="zarr", progress=False)
        copy = repo.new_instance("uint8blk", f"copy of {image.name}", BLOCK)
        ops.ingest(image, copy, progress=False)
        roi = repo.new_instance("roi", f"roi-{image.name}", {"BlockSize": "16,16,16"})
        ops.foreground_roi(image, roi)
        out[image.name] = (zarr.open(str(folder), mode="r"), copy[...], roi.region)
    first, second = out["adopted"], out["plain"]
    np.testing.assert_array_equal(first[1], second[1])
    assert not isinstance(first[0], zarr.Group)
    np.testing.assert_array_equal(first[0][...], second[0][...])
    assert first[2] == second[2]


def test_exports_and_publications_hold_all_of_it(repo, tmp_path, voxels):
    """The base's own scales too, and of the next publication only what changed."""
    name = volumes.precomputed(tmp_path, voxels)
    image = ops.adopt(str(tmp_path / name), repo["master"], "gray", settings=BLOCK, offset=(0, 0, 0))
    levels = volumes.halves(voxels)
    ops.export(image, str(tmp_path / "ome"), format="ome-zarr", progress=False)
    group = zarr.open_group(str(tmp_path / "ome"), mode="r")
    for scale, level in enumerate(levels):
        np.testing.assert_array_equal(group[f"s{scale}"][...], level)
    # how the volume's makers made them nobody knows; of full resolution alone there is nothing to know
    assert "type" not in group.attrs["ome"]["multiscales"][0]
    assert "type" not in ZarrView(image).group()["attributes"]["ome"]["multiscales"][0]
    ops.export(image, str(tmp_path / "full"), format="ome-zarr", scales=0, progress=False)
    assert zarr.open_group(str(tmp_path / "full"), mode="r").attrs["ome"]["multiscales"][0]["type"] == "mean"
    ops.export(image, str(tmp_path / "pre"), format="precomputed", progress=False)
    exported = Base.find(str(tmp_path / "pre"))
    np.testing.assert_array_equal(exported.read(0, *exported.extents()), voxels)
    image.version.commit()
    ops.publish(image, str(tmp_path / "published"), format="zarr", progress=False)
    later = image.version.new_branch("later")["gray"]
    later.write(np.full((16, 16, 16), 3, np.uint8), (0, 0, 0))
    later.version.commit()
    report = ops.publish(later, str(tmp_path / "published"), format="zarr", progress=False)
    expected = voxels.copy()
    expected[:16, :16, :16] = 3
    published = Base.find(report.destination)
    np.testing.assert_array_equal(published.read(0, *published.extents()), expected)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_edits_on_branches(tmp_path_factory, data):
    """Boxes and blocks written on a tree of versions, against arrays."""
    folder = tmp_path_factory.getbasetemp() / "branches"
    voxels = np.random.default_rng(0).integers(1, 255, SHAPE, dtype=np.uint8)
    if not folder.exists():
        folder.mkdir()
        volumes.zarr3(folder, voxels)
    low, high = (-24, 90, -10), (48, 168, 80)
    whole = Box.of(low, high)
    model = np.zeros(whole.shape, np.uint8)
    model[Box.of_shape(SHAPE).shift(OFFSET).relative(low).slices()] = voxels
    with dvid_dask.create("memory://", compact="never") as datastore:
        repo = datastore.new_repo("fly")
        root = repo["master"]
        ops.adopt(str(folder / "v.zarr"), root, "gray", offset=OFFSET, settings=BLOCK)
        versions = {root.uuid: model}
        for step in range(data.draw(st.integers(1, 8), label="steps")):
            uuid = data.draw(st.sampled_from(sorted(versions)), label="version")
            version = repo[uuid]
            action = data.draw(st.sampled_from(["box", "blocks", "branch", "read"]), label="action")
            start = [data.draw(st.integers(a, b - 1)) for a, b in zip(low, high, strict=True)]
            stop = [data.draw(st.integers(a + 1, min(b, a + 30))) for a, b in zip(start, high, strict=True)]
            box = Box.of(start, stop)
            if action == "branch":
                if not version.locked:
                    version.commit()
                versions[version.new_branch(f"b{step}").uuid] = versions[uuid].copy()
            elif action == "read" or version.locked:
                found = version["gray"].read_box(start, box.shape)
                np.testing.assert_array_equal(found, versions[uuid][box.relative(low).slices()])
            elif action == "box":
                values = np.full(box.shape, step + 1, np.uint8)
                version["gray"].write(values, start)
                versions[uuid][box.relative(low).slices()] = values
            else:
                block = [a // 16 for a in start]
                version["gray"].write_block_span(block, np.full((1, 16, 16, 16), step + 100, np.uint8))
                one = Box.of(block, [b + 1 for b in block]).scaled((16, 16, 16))
                part = one.intersect(whole)
                versions[uuid][part.relative(low).slices()] = step + 100
        for uuid, expected in versions.items():
            found = repo[uuid]["gray"].read_box(low, whole.shape)
            np.testing.assert_array_equal(found, expected)


def test_merge_diff_and_check(repo, tmp_path, voxels):
    name = volumes.zarr3(tmp_path, voxels)
    root = repo["master"]
    ops.adopt(str(tmp_path / name), root, "gray", settings=BLOCK)
    root.commit()
    left, right = root.new_branch("left"), root.new_branch("right")
    left["gray"].write(np.full((16, 16, 16), 1, np.uint8), (0, 0, 0))
    right["gray"].write(np.full((4, 4, 4), 2, np.uint8), (20, 20, 20))
    assert list(left.diff(right))
    left.commit()
    right.commit()
    merged = repo.merge([left.uuid, right.uuid])
    expected = voxels.copy()
    expected[:16, :16, :16] = 1
    expected[20:24, 20:24, 20:24] = 2
    np.testing.assert_array_equal(merged["gray"][...], expected)
    np.testing.assert_array_equal(root["gray"][...], voxels)
    assert list(merged["gray"].disagreements()) == []
    assert merged["gray"].stored().keys < 10


def test_nothing_of_the_base_is_copied(repo, tmp_path, voxels):
    image = ops.adopt(str(tmp_path / volumes.zarr3(tmp_path, voxels)), repo["master"], "gray", settings=BLOCK)
    assert image.stored().keys == 0
    image.write(np.ones((2, 2, 2), np.uint8), (15, 15, 15))
    assert image.stored().keys == 8 + 2  # blocks, extents, the scale's description


# ------------------------------------------------------------------ settings


def test_the_settings_name_a_base(repo, tmp_path, voxels):
    name = volumes.hdf5(tmp_path, np.ascontiguousarray(voxels.transpose(2, 1, 0))[None])
    made = repo.new_instance(
        "uint8blk",
        "gray",
        {
            **BLOCK, "Base": str(tmp_path / name), "BaseDataset": "em/gray", "BaseAxes": "cxyz", "BaseSelect": "c=0",
            "BaseOffset": "5,100,-7", "VoxelSize": "4,4,40",
        },
    )  # fmt: skip
    assert made.extents == Box.of_shape(SHAPE).shift(OFFSET)
    assert made.voxel_size == (40, 4, 4)
    np.testing.assert_array_equal(made[...], voxels)
    shown = made.describe()["Extended"]["Base"]
    assert shown["Format"] == "hdf5"
    assert shown["MinPoint"] == [5, 100, -7]


@pytest.mark.parametrize(
    ("typename", "more", "error", "message"),
    [
        ("uint16blk", {}, BadRequest, "holds uint8, the instance would hold uint16"),
        ("rgba8blk", {}, BadRequest, "channels"),
        ("multichan16", {}, BadRequest, "multichan16"),
        ("uint8blk", {"BaseOffset": "1,2"}, BadRequest, "x,y,z"),
        ("uint8blk", {"BaseSelect": "c=x"}, BadRequest, "no integer"),
        ("uint8blk", {"BaseSelect": "q=1"}, BadRequest, "axes besides"),
        ("uint8blk", {"BaseAxes": "zyq"}, BadRequest, "no axis 'x'"),
        ("uint8blk", {"Base": "/nowhere"}, NotFound, "no volume"),
        ("uint8blk", {"Base": "{"}, BadRequest, "JSON"),
        ("uint8blk", {"Base": "", "BaseAxes": "xyz"}, BadRequest, "no Base"),
    ],
)
def test_bad_settings_make_nothing(repo, tmp_path, voxels, typename, more, error, message):
    name = volumes.zarr3(tmp_path, voxels)
    with pytest.raises(error, match=message):
        repo.new_instance(typename, "gray", {"Base": str(tmp_path / name), **more})
    assert not repo.instances


def test_types_that_nothing_holds(repo, tmp_path, voxels):
    name = volumes.zarr3(tmp_path, voxels.astype(np.int16))
    with pytest.raises(BadRequest, match="int16"):
        ops.adopt(str(tmp_path / name), repo["master"], "gray")


# ------------------------------------------------------------------ a base that is gone, slow or failing


def test_a_base_that_went_away(repo, tmp_path, voxels):
    adopted, plain = twins(repo, tmp_path, voxels)
    adopted.write(np.full((16, 16, 16), 3, np.uint8), (0, 112, 16))
    before = list(adopted.view(0).scan())
    (tmp_path / "v.zarr").rename(tmp_path / "w.zarr")
    # what was edited is read without it
    assert (adopted.read_box((0, 112, 16), (16, 16, 16)) == 3).all()
    doors = [
        lambda: adopted.read_box((0, 100, 5), (2, 2, 2)),
        lambda: list(adopted.read_slabs((0, 100, 5), (2, 2, 2))),
        lambda: list(adopted.read_blocks(np.array([(0, 6, 0)]))),
        lambda: list(adopted.read_block_span((0, 6, 0), 2)),
        lambda: adopted.to_dask().compute(scheduler="synchronous"),
        lambda: ZarrView(adopted).get("s0/c/0/0/0"),
        lambda: adopted.write(np.ones((2, 2, 2), np.uint8), (0, 100, 5)),
        lambda: adopted.base_volume.check(),
    ]
    for door in doors:
        with pytest.raises(BrokenBase, match="gone"):
            door()
    assert list(adopted.view(0).scan()) == before
    # whole blocks need nothing of it
    adopted.write(np.full((16, 16, 16), 4, np.uint8), (16, 112, 16))
    (tmp_path / "w.zarr").rename(tmp_path / "v.zarr")
    plain.write(np.full((16, 16, 16), 3, np.uint8), (0, 112, 16))
    plain.write(np.full((16, 16, 16), 4, np.uint8), (16, 112, 16))
    same(adopted, plain)


def test_a_base_that_became_another_one(repo, tmp_path, voxels):
    adopted, _ = twins(repo, tmp_path, voxels)
    shutil.rmtree(tmp_path / "v.zarr")
    volumes.zarr3(tmp_path, voxels[:30])
    with pytest.raises(BrokenBase, match="no longer what was adopted"):
        adopted.read_box((0, 100, 5), (2, 2, 2))


def test_a_base_that_fails_in_the_middle_of_a_write(repo, tmp_path, voxels):
    volumes.zarr3(tmp_path, voxels)
    with serving(tmp_path) as (url, faults):
        image = ops.adopt(f"{url}/v.zarr", repo["master"], "gray", settings=BLOCK)
        faults.matching, faults.status = "/c/", 500
        with pytest.raises(Unavailable, match="500"):
            image.write(np.ones((2, 2, 2), np.uint8), (0, 0, 0))
        assert image.stored().keys == 0
        faults.heal()
        image.write(np.zeros((2, 2, 2), np.uint8), (0, 0, 0))
    expected = voxels[:16, :16, :16].copy()
    expected[:2, :2, :2] = 0
    np.testing.assert_array_equal(image.read_box((0, 0, 0), (16, 16, 16)), expected)


def test_a_volume_that_was_moved_or_written_anew(repo, tmp_path, voxels):
    adopted, plain = twins(repo, tmp_path, voxels)
    (tmp_path / "elsewhere").mkdir()
    assert list(adopted.disagreements()) == []
    (tmp_path / "v.zarr").rename(tmp_path / "gone")
    assert [text for text in adopted.disagreements() if "gone" in text]
    with pytest.raises(NotFound):
        ops.move_base(adopted)
    # elsewhere, in another format
    n5 = str(tmp_path / "elsewhere" / volumes.n5(tmp_path / "elsewhere", voxels))
    assert ops.move_base(adopted, n5).format == "n5"
    same(repo["master"]["adopted"], plain)
    # in its place, with other chunks
    shutil.rmtree(n5)
    volumes.hdf5(tmp_path, voxels)
    ops.move_base(adopted, str(tmp_path / "v.h5"))
    same(repo["master"]["adopted"], plain)
    (tmp_path / "v.h5").unlink()
    volumes.hdf5(tmp_path, voxels)
    with pytest.raises(BrokenBase, match="written since"):
        adopted.read_box((0, 100, 5), (2, 2, 2))
    ops.move_base(adopted)
    same(repo["master"]["adopted"], plain)
    for other in (voxels[:30], voxels.astype(np.uint16)):
        volumes.zarr2(tmp_path, other)
        with pytest.raises(BadRequest, match="another volume"):
            ops.move_base(adopted, str(tmp_path / "v.zarr2"))
        shutil.rmtree(tmp_path / "v.zarr2")
    with pytest.raises(BadRequest, match="not adopted"):
        ops.move_base(plain)


def test_the_command_line_moves_a_base(tmp_path, voxels):
    from dvid_dask.cli.app import app
    from dvid_dask.cli.console import run

    volumes.zarr3(tmp_path, voxels)
    store = str(tmp_path / "store")
    assert run(app, ["adopt", str(tmp_path / "v.zarr"), store, "-i", "em", "--create", "--repo", "fly"]) == 0
    (tmp_path / "v.zarr").rename(tmp_path / "w.zarr")
    assert run(app, ["move-base", store, ":master", "em", str(tmp_path / "w.zarr")]) == 0
    image = dvid_dask.open(store, compact="never").repos.named("fly")["master"]["em"]
    np.testing.assert_array_equal(image[...], voxels)
    assert run(app, ["fsck", store]) == 0
    shutil.rmtree(tmp_path / "w.zarr")
    assert run(app, ["fsck", store]) != 0
