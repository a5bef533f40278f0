"""`dvid-dask labels`: what DVID's labelmap does on its command line, on a store."""

import json

import imagecodecs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile

import dvid_dask
from dvid_dask.formats import images, label_blocks
from dvid_dask.formats.block_stream import iter_records, payload_to_block

BLOCK = 32


def open_seg(store, name="seg"):
    return dvid_dask.open(str(store), compact="never").repos.named("fly")["master"][name]


@pytest.fixture
def volume():
    z, y, x = np.ogrid[0:64, 0:64, 0:96]
    return (1 + z // 40 + 10 * (y // 30) + 100 * (x // 50)).astype(np.uint64)


@pytest.fixture
def seg(cli, store, volume):
    """A store with a labelmap of a few bodies, two of them merged."""
    cli("node", "new-instance", store, "master", "labelmap", "seg", f"BlockSize={BLOCK},{BLOCK},{BLOCK}")
    made = open_seg(store)
    made.write(volume, (0, 0, 0))
    made.merge(1, [101])
    return made


def test_dump(cli, store, seg, tmp_path):
    path = tmp_path / "m.txt"
    path.write_text("old\n")
    assert "1 rows" in cli("labels", "dump", store, "master", "seg", "mappings", path).out
    assert path.read_text() == "101 1\n"
    cli("labels", "dump", store, "master", "seg", "indices", tmp_path / "t", "--parquet", "--workers", "1")
    table = pd.read_parquet(tmp_path / "t")
    assert table["count"].sum() == 64 * 64 * 96
    assert "svcounts" in cli("labels", "dump", store, "master", "seg", "svcounts", path, code=1).err
    assert path.read_text() == "101 1\n"


def spec():
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "hash": "identity"}
    sharding |= {"preshift_bits": 3, "minishard_bits": 0, "shard_bits": 3}
    return {"scales": [{"chunk_sizes": [[BLOCK] * 3], "size": [96, 64, 64], "sharding": sharding}]}


def test_shards(cli, store, seg, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(spec()))
    told = cli("labels", "analyze-shards", store, "master", "seg", tmp_path / "spec.json", tmp_path / "out").out
    assert "12 blocks in 2 shards" in told
    cli("labels", "export-shards", store, "master", "seg", tmp_path / "spec.json", tmp_path / "out")
    files = sorted((tmp_path / "out" / "s0").glob("*.arrow"))
    assert [p.stem for p in files] == ["0_0_0", "64_0_0"]
    assert sum(pa.ipc.open_stream(p.read_bytes()).read_all().num_rows for p in files) == 12
    (tmp_path / "spec.json").write_text("{}")
    failed = cli("labels", "export-shards", store, "master", "seg", tmp_path / "spec.json", tmp_path / "x", code=1)
    assert "scales" in failed.err
    assert not (tmp_path / "x").exists()


def write_png(path, plane):
    path.write_bytes(images.encode_image(plane)[0])


def test_load_of_rgba_slices_merges_with_what_is_there(cli, store, seg, volume, tmp_path):
    """Slices as DVID's API gives them go back in at any offset; blocks they cover in part keep the rest."""
    stack = np.full((7, 30, 41), 2**40 + 3, np.uint64)
    stack[:, :10] = 0
    stack[3, 20, 20] = 2**63 + 5
    for z, plane in enumerate(stack):
        write_png(tmp_path / f"slice{z + 5}.png", plane)  # 10 comes after 9
    cli("labels", "load", store, "master", "seg", "20,11,30", f"{tmp_path}/slice?.png", f"{tmp_path}/slice??.png")
    expected = volume.copy()
    expected[30:37, 11:41, 20:61] = stack
    after = open_seg(store)
    np.testing.assert_array_equal(after.read((0, 0, 0), volume.shape, supervoxels=True), expected)
    names, counts = np.unique(expected, return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    sizes[1] += sizes.pop(101)
    sizes.pop(0)
    assert after.sizes(list(sizes)).tolist() == list(sizes.values())
    assert list(after.verify()) == []


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [
        (np.uint8, "png"),
        (np.uint16, "png"),
        (np.uint8, "tif"),
        (np.uint16, "tif"),
        (np.uint32, "tif"),
        (np.int32, "tif"),
    ],
)
def test_load_of_gray_images(cli, store, seg, volume, tmp_path, dtype, suffix):
    stack = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 20, 50)).astype(dtype)
    for z, plane in enumerate(stack):
        if suffix == "png":
            (tmp_path / f"{z}.png").write_bytes(imagecodecs.png_encode(plane))
        else:
            tifffile.imwrite(tmp_path / f"{z}.tif", plane)
    cli("labels", "load", store, "master", "seg", "32,0,64", f"{tmp_path}/*.{suffix}")
    after = open_seg(store)
    np.testing.assert_array_equal(after.read((64, 0, 32), stack.shape, supervoxels=True), stack)
    np.testing.assert_array_equal(after.read((0, 0, 0), volume.shape, supervoxels=True), volume)


def test_what_can_not_be_loaded(cli, store, seg, volume, tmp_path):
    def fails(*words, code=1):
        return cli("labels", "load", store, "master", "seg", *words, code=code).err

    assert "no file" in fails("0,0,0", f"{tmp_path}/*.png")
    assert "X,Y,Z" in fails("0,0", f"{tmp_path}/*.png", code=2)
    (tmp_path / "1.png").write_bytes(imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint8)))
    assert "one channel" in fails("0,0,0", f"{tmp_path}/1.png")
    tifffile.imwrite(tmp_path / "1.tif", np.full((8, 8), -1, np.int32))
    assert "don't fit" in fails("0,0,0", f"{tmp_path}/1.tif")
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    assert fails("0,0,0", f"{tmp_path}/2.png")
    write_png(tmp_path / "3.png", np.zeros((8, 8), np.uint64))
    write_png(tmp_path / "4.png", np.zeros((8, 9), np.uint64))
    assert "first of the stack" in fails("0,0,0", f"{tmp_path}/[34].png")
    np.testing.assert_array_equal(open_seg(store).read((0, 0, 0), volume.shape, supervoxels=True), volume)


def test_set_nextlabel(cli, store, seg):
    def said(*words):
        return cli("labels", "set-nextlabel", store, "master", "seg", *words).out

    assert said(5000, 5001) == "Set next label ID to 5000 with next label ceiling 5001."
    assert open_seg(store).allocate_labels(1) == (5001, 5001)
    assert "ceiling" in cli("labels", "set-nextlabel", store, "master", "seg", 6000, code=1).err
    assert said(6000, 0) == "Set next label ID to 6000 and cleared next label ceiling."
    assert said(7000) == "Set next label ID to 7000."
    assert open_seg(store).allocate_labels(2) == (7001, 7002)


def test_repair_maxlabel(cli, store, seg):
    uuid = seg.version.uuid
    seg.raise_max_label(10**6)
    told = cli("labels", "repair-maxlabel", store, "master", "seg").out.splitlines()
    assert told == [
        f"version {uuid}: stored max 1000000, recomputed 122, unchanged",
        "repo-wide max: stored max 1000000, recomputed 122, unchanged",
    ]
    cli("labels", "repair-maxlabel", store, "master", "seg", "--commit")
    assert open_seg(store).max_label() == 10**6
    told = cli("labels", "repair-maxlabel", store, "master", "seg", "--lower").out.splitlines()
    assert told[0] == f"version {uuid}: stored max 1000000, would set to recomputed 122"
    assert open_seg(store).max_label() == 10**6
    told = cli("labels", "repair-maxlabel", store, "master", "seg", "--lower", "--commit").out.splitlines()
    assert told[0] == f"version {uuid}: stored max 1000000, set to recomputed 122"
    assert open_seg(store).max_label() == 122
    assert open_seg(store).allocate_labels() == (123, 123)


def test_composite(cli, store, seg, volume, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (64, 50, 96)).astype(np.uint8)
    np.save(tmp_path / "gray.npy", gray)
    cli("ingest", tmp_path / "gray.npy", store, "-i", "gray", "--create", "--offset", "0,0,10")
    assert "rgba8blk" in cli("labels", "composite", store, "master", "seg", "gray", "colours").out
    made = open_seg(store, "colours")
    bodies = np.where(volume == 101, 1, volume)[10:, :50]
    colours = images.pseudocolor(bodies).astype(int) * gray[:54, :, :, None] // 256
    found = made.read_box((10, 0, 0), bodies.shape)
    np.testing.assert_array_equal(found[..., :3], colours)
    assert (found[..., 3] == 255).all()
    assert made.extents.start == (10, 0, 0)
    assert "already" in cli("labels", "composite", store, "master", "seg", "gray", "colours", code=1).err
    assert "uint8blk" in cli("labels", "composite", store, "master", "seg", "colours", "x", code=1).err


def test_block(cli, store, seg, volume):
    told = json.loads(cli("labels", "block", store, "master", "seg", "1,0,0", "--json", "--verbose").out)
    held = np.where(volume == 101, 1, volume)[:32, :32, 32:64]
    assert told["voxels"] == {
        str(n): c for n, c in zip(*map(np.ndarray.tolist, np.unique(held, return_counts=True)), strict=True)
    }
    assert told["twice"] == [1]
    assert told["unused"] == []
    for i, (z, y, x) in enumerate(np.ndindex(4, 4, 4)):
        part = held[8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        assert set(told["sub_blocks"][i]) == set(part.ravel().tolist())
    told = json.loads(cli("labels", "block", store, "master", "seg", "1,0,0", "--json", "--supervoxels").out)
    assert "101" in told["voxels"]
    assert "twice: 1" in cli("labels", "block", store, "master", "seg", "1,0,0").out
    assert "no block" in cli("labels", "block", store, "master", "seg", "9,0,0", code=1).err


def test_index(cli, store, seg, volume):
    told = json.loads(cli("labels", "index", store, "master", "seg", 1, "--block", "1,0,0", "--json").out)
    assert told["voxels"] == np.count_nonzero(np.isin(volume, [1, 101]))
    assert told["supervoxels"] == {str(n): np.count_nonzero(volume == n) for n in (1, 101)}
    part = volume[:32, :32, 32:64]
    assert told["rows"] == [
        {"block": "1,0,0", "supervoxel": n, "voxels": np.count_nonzero(part == n)} for n in (1, 101)
    ]
    assert "supervoxel" in cli("labels", "index", store, "master", "seg", 1).out
    assert "no body 101" in cli("labels", "index", store, "master", "seg", 101, code=1).err


def test_blocks_of_a_body(cli, store, seg, volume, tmp_path):
    path = tmp_path / "body.dat"
    path.write_bytes(b"old")
    merged = np.where(volume == 101, 1, volume)
    for flags, truth in (((), merged), (("--supervoxels",), volume)):
        cli("labels", "blocks", store, "master", "seg", 1, "--output", path, *flags)
        found = {}
        with path.open("rb") as file:
            for x, y, z, payload in iter_records(file):
                found[z, y, x] = label_blocks.decode_block(payload_to_block(payload, "blocks", (BLOCK,) * 3))
        expected = {tuple(p // BLOCK) for p in np.argwhere(merged == 1)}
        assert set(found) == expected
        for (z, y, x), block in found.items():
            part = truth[z * BLOCK : (z + 1) * BLOCK, y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK]
            np.testing.assert_array_equal(block, part)


def test_other_datatypes_are_refused(cli, store):
    cli("node", "new-instance", store, "master", "keyvalue", "notes")
    assert "not a labelmap" in cli("labels", "index", store, "master", "notes", 1, code=1).err


def test_tables_of_edits(cli, store, seg, volume, tmp_path):
    table = tmp_path / "table.csv"
    svs = np.unique(volume[volume > 0])
    table.write_text("supervoxel,body\n" + "".join(f"{sv},{svs[0]}\n" for sv in svs) + "987654,1\n")
    assert "987654" in cli("labels", "agglomerate", store, "master", "seg", table, code=1).err
    assert "1 unknown" in cli("labels", "agglomerate", store, "master", "seg", table, "--skip-unknown").out
    assert list(seg.bodies()) == [svs[0]]
    table.write_text(f"body,supervoxel,group\n{svs[0]},{svs[1]},4\n")
    body, group, new = cli("labels", "edit", store, "master", "seg", "--cleaves", table).out.split()[:3]
    assert (int(body), group) == (svs[0], "4")
    assert list(seg.bodies()) == [svs[0], int(new)]
    assert "nothing to do" in cli("labels", "edit", store, "master", "seg", code=1).err


def test_supervoxels_are_cut_along_another_volume(cli, store, seg, volume, tmp_path):
    other = np.zeros((30, 20, 60), np.uint8)
    other[:, :, 50:] = 1
    np.save(tmp_path / "other.npy", other)
    path = tmp_path / "other.npy"
    told = cli("labels", "split-by", store, "master", "seg", path, "--offset", "10,5,3", "--user", "zoe").out
    assert "2 supervoxels were cut into 5, in 6 blocks" in told
    seg = open_seg(store)
    names = seg.read((3, 5, 9), (1, 1, 62), supervoxels=True).reshape(-1)
    runs = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    assert (runs + 9).tolist() == [9, 10, 50, 60, 70]
    assert set(seg.supervoxels_of(1).id.tolist()) == set(names.tolist())
    assert "10,5" in cli("labels", "split-by", store, "master", "seg", path, "--offset", "10,5", code=2).err


def test_the_older_types(cli, store, seg, volume, tmp_path):
    for typename, name in (("labelarray", "array"), ("labelblk", "blk"), ("labelvol", "vol")):
        cli("node", "new-instance", store, "master", typename, name, f"BlockSize={BLOCK},{BLOCK},{BLOCK}")
    open_seg(store, "blk").set_syncs(["vol"])
    open_seg(store, "vol").set_syncs(["blk"])
    for z, plane in enumerate(volume[:8]):
        tifffile.imwrite(tmp_path / f"{z:03d}.tif", plane.astype(np.uint16))
    for name in ("array", "blk"):
        cli("labels", "load", store, "master", name, "5,6,7", str(tmp_path / "*.tif"))
        assert np.array_equal(open_seg(store, name).read((7, 6, 5), (8, 64, 96)), volume[:8])
    assert "not a labelmap" in cli("labels", "set-nextlabel", store, "master", "array", 5, code=1).err
    assert "not a volume of labels" in cli("labels", "load", store, "master", "vol", "0,0,0", "x", code=1).err


def test_dump_volumes(cli, store, seg, volume, tmp_path):
    for typename, name in (("labelblk", "blk"), ("labelvol", "vol")):
        cli("node", "new-instance", store, "master", typename, name, f"BlockSize={BLOCK},{BLOCK},{BLOCK}")
    open_seg(store, "vol").set_syncs(["blk"])
    open_seg(store, "blk").write(volume, (0, -BLOCK, 512 - BLOCK))
    out = tmp_path / "out"
    out.mkdir()
    (out / "subvols-000_000_000.dat").write_bytes(b"of an earlier dump")
    assert "4 files" in cli("labels", "dump-volumes", store, "master", "vol", out).out
    assert sorted(p.name for p in out.iterdir()) == [
        f"subvols-{x:03d}_{y:03d}_000.dat" for x, y in ((0, -1), (0, 0), (1, -1), (1, 0))
    ]
    back = np.zeros((64, 64, 96), np.uint64)
    for path in out.iterdir():
        data = path.read_bytes()
        while data:
            label, n = np.frombuffer(data[:8], "<u8")[0], int(np.frombuffer(data[8:12], "<i4")[0])
            for x, y, z, length in np.frombuffer(data[12 : 12 + 16 * n], "<i4").reshape(-1, 4).tolist():
                back[z, y + BLOCK, x - 512 + BLOCK : x - 512 + BLOCK + length] = label
            data = data[12 + 16 * n :]
    assert np.array_equal(back, volume)
    assert "not a labelvol" in cli("labels", "dump-volumes", store, "master", "seg", out, code=1).err
