"""Grids written here, read by readers that nobody here wrote, and compared with the arrays they were made of.

=====================  ==================================================================================
NVIDIA Warp            ``warp.Volume.load_from_nvdb`` on the CPU, which checks the whole tree; always
PNanoVDB               NanoVDB's one-file reader, from the wheel of Warp, compiled with the machine's C compiler
NanoVDB in C++         the reader proper, with its own validation, statistics and checksums, and its own writer, whose
                       bytes must equal ours; where headers of version 32.6 or later are found: in the folder that
                       ``NANOVDB_INCLUDE`` names (it holds ``nanovdb/NanoVDB.h``), or in the system's
NanoVDB 32.4 in C++    Debian's libnanovdb-dev: validation, iteration and look-up of value grids, all that it knows
=====================  ==================================================================================
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import label_blocks, nanovdb
from tests.formats import reference as ref

HERE = Path(__file__).parent
OLDEST = 32, 6  # of which NanoVDB knows OnIndex and the checksum written here


@functools.cache
def warp():
    import warp as wp

    wp.config.quiet = True
    wp.init()
    return wp


def load(grid):
    return warp().Volume.load_from_nvdb(io.BytesIO(nanovdb.encode_file(grid)), device="cpu")


@functools.cache
def built(source, compiler, *includes):
    """A compiled reader; kept for the session."""
    folder = Path(tempfile.mkdtemp(prefix="nanovdb-reader-"))
    program = folder / "reader"
    language = ["-std=c++17"] if source.endswith(".cpp") else []
    flags = [f"-I{i}" for i in includes]
    done = subprocess.run(
        [compiler, *language, "-O1", "-w", *flags, str(HERE / source), "-o", str(program), "-lm", "-lpthread"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def compiler(*names):
    for name in names:
        if shutil.which(name):
            return name
    pytest.skip(f"no compiler on the PATH: {', '.join(names)}")
    return ""


def c_reader():
    native = Path(importlib.util.find_spec("warp").origin).parent / "native" / "nanovdb"
    assert (native / "PNanoVDB.h").exists(), "the wheel of Warp brings PNanoVDB.h"
    return built("reader.c", compiler("cc", "gcc", "clang"), str(native))


def cpp_headers():
    """Folder and version of each set of NanoVDB's C++ headers on the machine."""
    for folder in filter(None, [os.environ.get("NANOVDB_INCLUDE"), "/usr/include", "/usr/local/include"]):
        header = Path(folder) / "nanovdb" / "NanoVDB.h"
        if header.exists():
            text = header.read_text()
            number = r"NANOVDB_{}_VERSION_NUMBER\s+(\d+)"
            yield folder, tuple(int(re.search(number.format(part), text)[1]) for part in ("MAJOR", "MINOR"))


def cpp_reader():
    for folder, version in cpp_headers():
        if version >= OLDEST:
            return built("reader.cpp", compiler("c++", "g++", "clang++"), folder)
    pytest.skip(f"no C++ headers of NanoVDB {OLDEST[0]}.{OLDEST[1]} or later: name their folder in NANOVDB_INCLUDE")
    return None


def older_cpp_reader():
    for folder, version in cpp_headers():
        if version == (32, 4):
            return built("reader_32_4.cpp", compiler("c++", "g++", "clang++"), folder)
    pytest.skip("no C++ headers of NanoVDB 32.4: apt-get install libnanovdb-dev")
    return None


def run(program, data, points):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("grid", "points", "out")]
        paths[0].write_bytes(data)
        paths[1].write_bytes(np.asarray(points, "<i4").tobytes())
        done = subprocess.run([program, *paths], capture_output=True, text=True)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout, paths[2].read_bytes()


LOOKED_UP = np.dtype([("value", "<f8"), ("on", "u1")])


def fields(text):
    return {line.split(" ", 1)[0]: (line.split(" ", 1) + [""])[1] for line in text.splitlines()}


def neighbours(voxels):
    """Voxels beside those, most of which are not set."""
    steps = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [8, 0, 0], [0, 128, 0], [0, 0, 4096]])
    near = (voxels[:, None].astype(np.int64) + steps).reshape(-1, 3)
    return near[((near >= -(2**31)) & (near < 2**31)).all(axis=1)]


def expected(voxels, values, points, background):
    table = dict(zip(map(tuple, voxels.tolist()), values.tolist(), strict=True))
    out = np.empty(len(points), LOOKED_UP)
    for i, point in enumerate(map(tuple, np.asarray(points).tolist())):
        out[i] = table.get(point, background), point in table
    return out


EDGE = 2**31 - 2  # the last voxel but one: boxes of NanoVDB in the world overflow at the last
coordinates = st.one_of(
    st.integers(-20, 20),
    st.integers(-5000, 5000),
    st.integers(-(2**31), EDGE),
    st.sampled_from([-(2**31), EDGE, -4097, -4096, 4095, 4096, -128, 127, -8, 7]),
)
clouds = st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=20).map(
    lambda points: np.array(points, np.int64)
)


@st.composite
def bodies(draw):
    """A few voxels anywhere, some of them with a ball around."""
    points = draw(clouds)
    radius = draw(st.integers(0, 6))
    ball = np.argwhere(np.sum((np.indices((2 * radius + 1,) * 3) - radius) ** 2, axis=0) <= radius**2) - radius
    filled = (points[:3, None] + ball).reshape(-1, 3)
    every = np.unique(np.concatenate([points, filled]), axis=0)
    return every[((every >= -(2**31)) & (every <= EDGE)).all(axis=1)]


def ordered(voxels):
    """Voxels in index order: by root tile, upper entry, lower entry, voxel, each x, y, z."""
    v = np.asarray(voxels, np.int64)
    keys = [v[:, c] >> shift for shift in (12, 7, 3, 0) for c in range(3)]
    return v[np.lexsort(keys[::-1])]


@settings(max_examples=25, deadline=None)
@given(bodies())
def test_warp_reads_index_grids(voxels):
    leaves = nanovdb.leaves_of_voxels(voxels)
    values = np.arange(len(voxels), dtype=np.uint32) * 7
    volume = load(nanovdb.encode_index_grid(leaves, name="body", voxel_size_xyz=(4, 8, 40), channels={"em": values}))
    assert volume.is_index
    assert volume.get_voxel_count() == len(voxels)
    np.testing.assert_array_equal(volume.get_voxels().numpy(), ordered(voxels))
    assert volume.get_grid_info().name == "body"
    assert volume.get_voxel_size() == (4, 8, 40)
    assert volume.get_feature_array_info(0).name == "em"
    np.testing.assert_array_equal(volume.feature_array(0).numpy()[1:], values)


def test_warp_looks_voxels_up():
    """In a kernel on the CPU: indices in an index grid, values in value grids."""
    wp = warp()
    rng = np.random.default_rng(1)
    voxels = ordered(np.unique(rng.integers(-40, 40, (300, 3)), axis=0))
    leaves = nanovdb.leaves_of_voxels(voxels)
    points = np.concatenate([voxels, neighbours(voxels)])

    @wp.kernel
    def indices(volume: wp.uint64, at: wp.array(dtype=wp.vec3i), out: wp.array(dtype=wp.int32)):
        i = wp.tid()
        p = at[i]
        out[i] = wp.volume_lookup_index(volume, p[0], p[1], p[2])

    @wp.kernel
    def floats(volume: wp.uint64, at: wp.array(dtype=wp.vec3i), out: wp.array(dtype=wp.float32)):
        i = wp.tid()
        p = at[i]
        out[i] = wp.volume_lookup_f(volume, p[0], p[1], p[2])

    at = wp.array(points.astype(np.int32), dtype=wp.vec3i, device="cpu")
    volume = load(nanovdb.encode_index_grid(leaves))
    found = wp.zeros(len(points), dtype=wp.int32, device="cpu")
    wp.launch(indices, len(points), [volume.id, at, found], device="cpu")
    wanted = expected(voxels, np.arange(len(voxels)), points, -1)
    np.testing.assert_array_equal(found.numpy(), wanted["value"])

    values = rng.random(len(voxels)).astype(np.float32)
    volume = load(nanovdb.encode_value_grid(leaves, values, background=-1))
    found = wp.zeros(len(points), dtype=wp.float32, device="cpu")
    wp.launch(floats, len(points), [volume.id, at, found], device="cpu")
    np.testing.assert_array_equal(found.numpy(), expected(voxels, values, points, -1)["value"])


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "float32"])
def test_warp_reads_value_grids(dtype):
    voxels = ordered(np.unique(np.random.default_rng(2).integers(-300, 300, (500, 3)), axis=0))
    values = np.arange(len(voxels)).astype(dtype)
    volume = load(nanovdb.encode_value_grid(nanovdb.leaves_of_voxels(voxels), values, name="em"))
    assert volume.dtype is getattr(warp(), dtype)
    # all voxels of a leaf count for Warp here; which are active is PNanoVDB's and NanoVDB's to say, below
    np.testing.assert_array_equal(volume.get_tiles().numpy(), ordered(np.unique(voxels & ~7, axis=0)))


@pytest.mark.parametrize("compress", [False, True])
def test_warp_reads_compressed_files_and_long_names(compress):
    # ASCII, which is all that Warp decodes
    name = "bodies" * 50
    grid = nanovdb.encode_index_grid(nanovdb.leaves_of_voxels([[1, 2, 3]]), name=name)
    data = nanovdb.encode_file(grid, compress=compress)
    volume = warp().Volume.load_from_nvdb(io.BytesIO(data), device="cpu")
    assert volume.get_voxels().numpy().tolist() == [[1, 2, 3]]
    # Warp shows what fits into the header; NanoVDB proper reads the rest (below)
    assert volume.get_grid_info().name == name[:255]
    assert volume.feature_array(0).numpy().tobytes() == name.encode() + b"\0"


def test_warp_reads_an_empty_grid():
    volume = load(nanovdb.encode_index_grid(nanovdb.Leaves.of([])))
    assert volume.get_voxel_count() == 0


@settings(max_examples=15, deadline=None)
@given(bodies(), st.sampled_from(["index", "uint8", "uint32", "float32"]))
def test_pnanovdb(voxels, kind):
    program = c_reader()
    voxels = ordered(voxels)
    leaves = nanovdb.leaves_of_voxels(voxels)
    points = np.concatenate([voxels, neighbours(voxels)])
    if kind == "index":
        values = np.arange(1, len(voxels) + 1)
        grid, background = nanovdb.encode_index_grid(leaves, voxel_size_xyz=(4, 8, 40)), 0
    else:
        values = (np.arange(len(voxels)) + 1).astype(kind)
        background = 200
        grid = nanovdb.encode_value_grid(leaves, values, voxel_size_xyz=(4, 8, 40), background=background)
    text, out = run(program, grid.tobytes(), points)
    said = fields(text)
    assert int(said["voxels"]) == len(voxels)
    assert [int(v) for v in said["box"].split()] == [*voxels.min(0), *voxels.max(0)]
    assert [float(v) for v in said["voxel_size"].split()] == [4, 8, 40]
    np.testing.assert_array_equal(np.frombuffer(out, LOOKED_UP), expected(voxels, values, points, background))


def grids_of(out, points, n):
    """Per grid: voxels by leaves, and what was looked up."""
    at = 0
    for _ in range(n):
        count = int(np.frombuffer(out, "<u8", 1, at)[0])
        voxels = np.frombuffer(out, "<i4", 3 * count, at + 8).reshape(-1, 3)
        at += 8 + 12 * count
        yield voxels, np.frombuffer(out, LOOKED_UP, len(points), at)
        at += LOOKED_UP.itemsize * len(points)
    assert at == len(out)


@settings(max_examples=10, deadline=None)
@given(bodies(), st.booleans())
def test_nanovdb(voxels, raw):
    """NanoVDB's reader: validation, checksum, statistics, iteration, look-up; and what its own writer makes of them."""
    program = cpp_reader()
    voxels = ordered(voxels)
    leaves = nanovdb.leaves_of_voxels(voxels)
    points = np.concatenate([voxels, neighbours(voxels)])
    order = np.arange(1, len(voxels) + 1)
    small = (order % 251).astype(np.uint8)
    name = "body µ" + "x" * 300
    size = (4, 8, 40)
    channels = {"em": small, "wide": order.astype(np.uint32), "real": order.astype(np.float32)}
    made = [
        (nanovdb.encode_index_grid(leaves, name=name, voxel_size_xyz=size, channels=channels), order, 0),
        (nanovdb.encode_index_grid(leaves, name=name[:9], voxel_size_xyz=size, checksum="half"), order, 0),
        (nanovdb.encode_value_grid(leaves, small, name=name, voxel_size_xyz=size, background=9), small, 9),
        (nanovdb.encode_value_grid(leaves, channels["wide"], name="", voxel_size_xyz=size), order, 0),
        (nanovdb.encode_value_grid(leaves, channels["real"], voxel_size_xyz=size, background=-1), order, -1),
    ]
    if raw:
        made = made[:1]
    data = made[0][0].tobytes() if raw else nanovdb.encode_file(*(grid for grid, *_ in made))
    text, out = run(program, data, points)
    said = [fields(part) for part in re.split(r"^grid \d+\n", text, flags=re.M)[1:]]
    assert len(said) == len(made)
    names = [name, name[:9], name, "", ""]
    kinds = [(8, 20), (8, 20), (7, 26), (7, 10), (2, 1)]
    for i, ((_, values, background), found, (listed, looked)) in enumerate(
        zip(made, said, grids_of(out, points, len(made)), strict=True)
    ):
        assert found["name"] == names[i]
        assert (int(found["class"]), int(found["type"])) == kinds[i]
        assert int(found["voxels"]) == len(voxels)
        assert [int(v) for v in found["box"].split()] == [*voxels.min(0), *voxels.max(0)]
        assert [float(v) for v in found["voxel_size"].split()] == list(size)
        assert [float(v) for v in found["world"].split()] == [4, 16, 120]
        assert [float(v) for v in found["back"].split()] == [1, 2, 3]
        assert found["checked"] == "1"
        assert found["checksum_full"] == str(int(i != 1))
        assert float(found["stats_apart"]) < 1e-5
        np.testing.assert_array_equal(listed, voxels)
        np.testing.assert_array_equal(looked, expected(voxels, values, points, background))
    for found in said[:2]:
        assert int(found["values"]) == len(voxels) + 1
        assert found["as_built"] == "1"
    weights = np.arange(1, len(voxels) + 1) % 1009
    sums = re.findall(r"^channel (\d+)$", text, flags=re.M)
    assert [int(s) for s in sums] == [int((weights * v).sum()) for v in (small, order, order)]


@settings(max_examples=10, deadline=None)
@given(bodies(), st.sampled_from([np.float32, np.uint32]))
def test_nanovdb_as_debian_has_it(voxels, dtype):
    program = older_cpp_reader()
    voxels = ordered(voxels)
    points = np.concatenate([voxels, neighbours(voxels)])
    values = np.arange(1, len(voxels) + 1).astype(dtype)
    name = "body µ" + "x" * 300
    grid = nanovdb.encode_value_grid(
        nanovdb.leaves_of_voxels(voxels), values, name=name, voxel_size_xyz=(4, 8, 40), background=7, checksum="none"
    )
    text, out = run(program, grid.tobytes(), points)
    found = fields(text)
    assert found["name"] == name
    assert int(found["voxels"]) == len(voxels)
    assert [int(v) for v in found["box"].split()] == [*voxels.min(0), *voxels.max(0)]
    assert [float(v) for v in found["voxel_size"].split()] == [4, 8, 40]
    assert [float(v) for v in found["world"].split()] == [4, 16, 120]
    assert [float(v) for v in found["back"].split()] == [1, 2, 3]
    assert found["checked"] == "1"
    ((listed, looked),) = grids_of(out, points, 1)
    np.testing.assert_array_equal(listed, voxels)
    np.testing.assert_array_equal(looked, expected(voxels, values, points, 7))


def test_nanovdb_reads_an_empty_grid():
    text, _ = run(cpp_reader(), nanovdb.encode_file(nanovdb.encode_index_grid(nanovdb.Leaves.of([]))), [[0, 0, 0]])
    found = fields(text)
    assert (found["checked"], found["as_built"], found["voxels"]) == ("empty", "1", "0")


SAMPLES = sorted(p.name for p in (ref.SHARED / "data").glob("*-64x64x64-sample?.dat.gz"))


@pytest.mark.parametrize("name", SAMPLES or ["none"])
def test_real_segmentations(name):
    """The largest bodies of real segmentations, from compressed blocks, as Warp and the arrays see them."""
    volume = ref.real_samples()[name]
    block = label_blocks.encode_block(volume)
    labels, counts = np.unique(volume, return_counts=True)
    biggest = labels[np.argsort(counts)[-4:]]
    for wanted_labels in (biggest[-1:], biggest, labels[:1]):
        part = nanovdb.leaves_of_block(block, (-1, 0, 2), wanted_labels)
        leaves = nanovdb.Leaves.of([part])
        start = np.array([-1, 0, 2]) * volume.shape
        wanted = ordered((np.argwhere(np.isin(volume, wanted_labels)) + start)[:, ::-1])
        np.testing.assert_array_equal(leaves.coordinates(), wanted)
        np.testing.assert_array_equal(load(nanovdb.encode_index_grid(leaves)).get_voxels().numpy(), wanted)
