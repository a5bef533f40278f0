"""Leaves against sets of coordinates; grids read back; what a reader must refuse."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import label_blocks, nanovdb, rles
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.nanovdb.layout import GRID, LOWER, TREE, UPPER
from tests.formats.test_label_blocks import foreign_block
from tests.formats.test_rles import bodies as run_bodies

from .test_readers import bodies, ordered

SMALL = [[0, 0, 0], [1, 2, 3], [9, 0, 0], [4100, 5, 6], [-1, -1, -1]]


def small(**kwargs):
    return nanovdb.encode_index_grid(nanovdb.leaves_of_voxels(SMALL), **kwargs)


# ------------------------------------------------------------------ leaves


@settings(max_examples=60, deadline=None)
@given(run_bodies())
def test_blocks(body):
    """The voxels of a sparse volume, from compressed blocks, as its runs say."""
    blocks, positions, _, _, _, wanted = body
    parts = [nanovdb.leaves_of_block(b, p, wanted) for b, p in zip(blocks, positions, strict=True)]
    leaves = nanovdb.Leaves.of(parts)
    runs = rles.rles_from_blocks(blocks, positions, wanted)
    np.testing.assert_array_equal(leaves.runs(), runs)
    assert leaves.masks.any(axis=1).all()
    again = nanovdb.leaves_of_runs(runs)
    np.testing.assert_array_equal(again.origins, leaves.origins)
    np.testing.assert_array_equal(again.masks, leaves.masks)


@pytest.mark.parametrize("labels", [[5], [9, 77], [0], [0, 5], [77], [], [0, 5, 9]])
def test_blocks_of_other_writers(labels):
    block, volume = foreign_block()
    mask = np.isin(volume, np.array(labels, np.uint64))
    leaves = nanovdb.Leaves.of([nanovdb.leaves_of_block(block, (1, -2, 3), labels)])
    start = np.array([1, -2, 3]) * volume.shape
    np.testing.assert_array_equal(leaves.coordinates(), ordered((np.argwhere(mask) + start)[:, ::-1]))
    assert leaves.masks.any(axis=1).all()


@settings(max_examples=60, deadline=None)
@given(bodies())
def test_voxels(voxels):
    leaves = nanovdb.leaves_of_voxels(np.concatenate([voxels, voxels[::2]]))
    np.testing.assert_array_equal(leaves.coordinates(), ordered(voxels))
    assert leaves.voxels == len(voxels) == leaves.counts.sum()
    assert len(np.unique(leaves.origins, axis=0)) == len(leaves)
    np.testing.assert_array_equal(nanovdb.leaves_of_runs(leaves.runs()).masks, leaves.masks)
    assert rles.voxel_count(leaves.runs()) == len(voxels)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(0, 20)] * 3),
    st.tuples(*[st.integers(-30, 30)] * 3),
    st.randoms(use_true_random=False),
    st.sampled_from([0.02, 0.5, 1]),
)
def test_masks(shape, start, random, density):
    mask = np.random.default_rng(random.randrange(2**32)).random(shape) < density
    leaves = nanovdb.leaves_of_mask(mask, start)
    np.testing.assert_array_equal(leaves.coordinates(), ordered((np.argwhere(mask) + start)[:, ::-1]))


def test_gather():
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 255, (24, 16, 40), np.uint8)
    leaves = nanovdb.leaves_of_mask(rng.random(volume.shape) < 0.3, (-8, 16, -24))
    out = np.zeros(leaves.voxels, np.uint8)
    some = np.arange(0, len(leaves), 2)
    leaves.gather(volume, (-8, 16, -24), some, out)
    x, y, z = (leaves.coordinates() - [-24, 16, -8]).T
    within = np.repeat(np.isin(np.arange(len(leaves)), some), leaves.counts)
    np.testing.assert_array_equal(out, np.where(within, volume[z, y, x], 0))
    with pytest.raises(ValueError, match="doesn't cover"):
        leaves.gather(volume, (0, 16, -24), some, out)
    with pytest.raises(ValueError, match="doesn't cover"):
        leaves.gather(volume[:-1], (-8, 16, -24), np.arange(len(leaves)), out)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([[0, 0, 0, 0]], "no length"),
        ([[2**31 - 1, 0, 0, 2]], "leaves the range"),
        ([[0, 2**31, 0, 2]], "leaves the range"),
        ([[-(2**31) - 1, 0, 0, 2]], "leaves the range"),
        ([[-(2**31), 0, 0, 2**31 - 1]], "more than"),
    ],
)
def test_bad_runs(runs, message):
    with pytest.raises(ValueError, match=message):
        nanovdb.leaves_of_runs(runs, max_leaves=1000)


def test_a_damaged_block():
    block = bytearray(label_blocks.encode_block(np.arange(512, dtype=np.uint64).reshape(8, 8, 8)))
    with pytest.raises(FormatError):
        nanovdb.leaves_of_block(bytes(block[:-1]), (0, 0, 0), [3])
    with pytest.raises(ValueError, match="range"):
        nanovdb.leaves_of_block(bytes(block), (2**28, 0, 0), [3])


# ------------------------------------------------------------------ the layout, byte for byte


def test_layout():
    """Offsets of the smallest grid and what stands there, as NanoVDB's structs say."""
    grid = nanovdb.encode_index_grid(
        nanovdb.leaves_of_voxels([[1, 2, 3]]), name="spine", voxel_size_xyz=(4, 5, 6), checksum="none"
    ).tobytes()
    assert len(grid) == 672 + 64 + 96 + 32 + UPPER.size + LOWER.size + 96
    at = struct.unpack_from
    assert grid[:8] == b"NanoVDB1"
    assert grid[8:16] == b"\xff" * 8
    assert at("<3I", grid, 16) == (32 << 21 | 8 << 10, 0x22, 0)
    assert grid[40:46] == b"spine\0"
    assert at("<9f", grid, 296) == (4, 0, 0, 0, 5, 0, 0, 0, 6)
    assert at("<9d", grid, 456) == (1 / 4, 0, 0, 0, 1 / 5, 0, 0, 0, 1 / 6)
    assert at("<6d", grid, 560) == (4, 10, 18, 8, 15, 24)
    assert at("<2I", grid, 632) == (8, 20)
    assert at("<Q", grid, 656) == (2,)
    assert at("<4q3I", grid, 672) == (64 + 128 + UPPER.size + LOWER.size, 64 + 128 + UPPER.size, 64 + 128, 64, 1, 1, 1)
    root, upper = 736, 736 + 128
    assert at("<6iI", grid, root) == (1, 2, 3, 1, 2, 3, 1)
    assert at("<QqI", grid, root + 96) == (0, 128, 0)
    assert at("<6iQ", grid, upper) == (1, 2, 3, 1, 2, 3, 2)
    assert not any(grid[upper + 32 : upper + 32 + 4096]), "a child is no active tile"
    assert at("<Q", grid, upper + 32 + 4096) == (1,)
    assert at("<q", grid, upper + 8256) == (UPPER.size,)
    leaf = len(grid) - 96
    assert at("<3i4B", grid, leaf) == (1, 2, 3, 0, 0, 0, 2)
    assert at("<8Q", grid, leaf + 16) == (0, 1 << 8 * 2 + 3, 0, 0, 0, 0, 0, 0)
    assert at("<2Q", grid, leaf + 80) == (1, sum(1 << 9 * w for w in range(1, 7)))


def test_names_and_sizes():
    for size in [(0, 1, 1), (1, -1, 1), (1, 1), (np.nan, 1, 1), (np.inf, 1, 1), (1e-300, 1, 1)]:
        with pytest.raises(ValueError, match="voxel's size"):
            small(voxel_size_xyz=size)
    with pytest.raises(ValueError, match="zero byte"):
        small(name="a\0b")
    with pytest.raises(ValueError, match="name"):
        small(name="a" * 70000)
    with pytest.raises(ValueError, match="channel"):
        small(channels={"c" * 256: np.zeros(5, np.uint8)})
    with pytest.raises(ValueError, match="5 voxels"):
        small(channels={"c": np.zeros(4, np.uint8)})
    with pytest.raises(ValueError, match="uint64"):
        small(channels={"c": np.zeros(5, np.uint64)})
    with pytest.raises(ValueError, match="checksum"):
        small(checksum="some")
    leaves = nanovdb.leaves_of_voxels(SMALL)
    with pytest.raises(ValueError, match="background"):
        nanovdb.encode_value_grid(leaves, np.zeros(5, np.uint8), background=256)
    with pytest.raises(ValueError, match="int64"):
        nanovdb.encode_value_grid(leaves, np.zeros(5, np.int64))


# ------------------------------------------------------------------ reading back


@settings(max_examples=30, deadline=None)
@given(bodies(), st.sampled_from(["index", "uint8", "uint32", "float32"]), st.booleans(), st.booleans())
def test_round_trip(voxels, kind, file, compress):
    leaves = nanovdb.leaves_of_voxels(voxels)
    values = np.arange(len(voxels)).astype("uint8" if kind == "index" else kind)
    if kind == "index":
        grid = nanovdb.encode_index_grid(leaves, name="é" * 200, voxel_size_xyz=(1, 2, 3), channels={"em": values})
    else:
        grid = nanovdb.encode_value_grid(leaves, values, name="é" * 200, voxel_size_xyz=(1, 2, 3), background=17)
    data = nanovdb.encode_file(grid, grid, compress=compress) if file else grid.tobytes()
    for read in nanovdb.read_grids(data):
        assert (read.name, read.voxel_size_xyz) == ("é" * 200, (1, 2, 3))
        np.testing.assert_array_equal(read.leaves.coordinates(), ordered(voxels))
        if kind == "index":
            np.testing.assert_array_equal(read.indices(), np.arange(1, len(voxels) + 1))
            np.testing.assert_array_equal(read.channels["em"][read.indices()], values)
        else:
            np.testing.assert_array_equal(read.values, values)
    np.testing.assert_array_equal(nanovdb.runs_of_grids(data), leaves.runs())


def test_many_runs():
    """A checkerboard, the most runs a leaf can have."""
    board = np.indices((8, 8, 8)).sum(axis=0) % 2 == 0
    data = nanovdb.encode_index_grid(nanovdb.leaves_of_mask(np.tile(board, (2, 2, 2)))).tobytes()
    assert len(nanovdb.runs_of_grids(data, max_runs=8 * 256)) == 8 * 256
    with pytest.raises(FormatError, match="more than 2,047 runs"):
        nanovdb.runs_of_grids(data, max_runs=8 * 256 - 1)
    two = nanovdb.encode_file(*nanovdb_pair())
    assert nanovdb.runs_of_grids(two).tolist() == [[0, 0, 0, 9]]


def nanovdb_pair():
    return [nanovdb.encode_index_grid(nanovdb.leaves_of_runs([run])) for run in ([0, 0, 0, 5], [3, 0, 0, 6])]


def test_empty():
    grid = nanovdb.encode_index_grid(nanovdb.Leaves.of([]))
    assert len(nanovdb.read_grids(grid.data)[0].leaves) == 0
    assert nanovdb.runs_of_grids(grid.data).shape == (0, 4)
    grid = nanovdb.encode_value_grid(nanovdb.Leaves.of([]), np.empty(0, np.float32), background=2.5)
    assert len(nanovdb.read_grids(grid.data)[0].values) == 0


def test_blosc():
    """A file as NanoVDB's writer compresses it: pieces of LZ4 in Blosc."""
    grid = small(name="spine")
    plain = nanovdb.encode_file(grid)
    packed = imagecodecs.blosc_encode(grid.tobytes(), level=9, compressor="lz4", typesize=4, shuffle=1)
    head = bytearray(plain[: -len(grid)])
    head[14:16] = struct.pack("<H", 2)
    head[16 + 8 : 16 + 16] = struct.pack("<Q", len(packed) + 8)
    data = bytes(head) + struct.pack("<Q", len(packed)) + packed
    assert nanovdb.read_grids(data)[0].leaves.voxels == len(SMALL)
    with pytest.raises(FormatError):
        nanovdb.read_grids(data[:-3])
    lies = bytearray(data)
    lies[len(head) + 8 + 4 : len(head) + 8 + 8] = struct.pack("<I", 1 << 30)
    with pytest.raises(FormatError):
        nanovdb.read_grids(bytes(lies))


def test_active_tiles():
    """Tiles, which other writers make, stand for whole leaves of active voxels."""
    grid = small(checksum="none")
    tree = grid[GRID.itemsize :][: TREE.itemsize].view(TREE)
    lower = GRID.itemsize + int(tree["offset"][0, 1])
    # entry 1 of the first lower node (voxels -128 to -1): its third leaf along z
    grid[lower + 32] |= 0b100
    tree["voxels"] += 512
    tree["tiles"][0, 0] = 1
    (read,) = nanovdb.read_grids(grid.data)
    extra = np.argwhere(np.ones((8, 8, 8), bool)) + [-128, -128, -128 + 16]
    np.testing.assert_array_equal(read.leaves.coordinates(), ordered(np.concatenate([SMALL, extra])))
    with pytest.raises(ValueError, match="tiles"):
        read.indices()
    # a tile of 128^3 in an upper node
    upper = GRID.itemsize + int(tree["offset"][0, 2])
    grid[upper + 32] |= 1
    tree["voxels"] += 128**3
    assert nanovdb.read_grids(grid.data)[0].leaves.voxels == len(SMALL) + 512 + 128**3
    with pytest.raises(FormatError, match="the limit is 4000"):
        nanovdb.read_grids(grid.data, max_leaves=4000)


# ------------------------------------------------------------------ what must be refused


def patched(at, fmt, *values, data=None):
    grid = bytearray(small(checksum="none") if data is None else data)
    struct.pack_into(fmt, grid, at, *values)
    return bytes(grid)


UPPER_AT = 672 + 64 + 96 + 3 * 32
LOWER_AT = UPPER_AT + 3 * UPPER.size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"NanoVDB",
        b"NanoVDB1",
        b"NanoVDB2",
        b"NanoVDB2" + b"\0" * 8,
        patched(16, "<I", 31 << 21),
        patched(32, "<Q", 100),
        patched(32, "<Q", 1 << 62),
        patched(636, "<I", 77),
        patched(640, "<qI", -1, 1),
        patched(640, "<qI", 0, 1 << 31),
        patched(672, "<q", -672),
        patched(672, "<q", 1 << 60),
        patched(672, "<q", 7),
        patched(672 + 32, "<I", 1 << 31),
        patched(672 + 32, "<I", 3),
        patched(672 + 36, "<I", 2),
        patched(672 + 40, "<I", 1),
        patched(672 + 56, "<Q", 6),
        patched(672 + 56, "<Q", 1 << 62),
        patched(736 + 24, "<I", 1 << 31),
        patched(736 + 24, "<I", 2),
        patched(736 + 96, "<Q", 1 << 63),
        patched(736 + 96, "<Q", 0),
        patched(736 + 96 + 8, "<q", 1),
        patched(736 + 96 + 8, "<q", -(1 << 62)),
        patched(736 + 96 + 8, "<qI", 0, 1),
        patched(UPPER_AT + 8256 + 8 * 32767, "<q", 1 << 61),
        patched(UPPER_AT + 8256 + 8 * 32767, "<q", -(1 << 61) + 8),
        patched(UPPER_AT + 8256 + 8 * 32767, "<q", 1),
        patched(UPPER_AT + 32 + 4096, "<Q", 1),
        patched(LOWER_AT + 1088 + 8 * 4095, "<q", 0),
        patched(LOWER_AT + 544, "<Q", 1 << 7),
        patched(len(small()) - 96, "<i", 4108),
        patched(len(small()) - 96 + 80, "<Q", 0),
        patched(len(small()) - 96 + 80, "<Q", 1 << 63),
        small().tobytes()[:-32],
        small().tobytes() + b"NanoVDB1",
        patched(len(small()) - 96 + 16, "<Q", 3, data=small()),  # the checksum sees it
        patched(300, "<f", 3, data=small()),
        nanovdb.encode_file(small())[:-1],
        nanovdb.encode_file(small()) + b"x" * 20,
        nanovdb.encode_file(small(), compress=True)[:-1],
        patched(12, "<H", 9, data=nanovdb.encode_file(small())),
        patched(14, "<H", 9, data=nanovdb.encode_file(small())),
        patched(16, "<Q", 1 << 60, data=nanovdb.encode_file(small())),
        patched(16 + 8, "<Q", 1 << 60, data=nanovdb.encode_file(small())),
        patched(16 + 136, "<I", 0xFFFFFFFF, data=nanovdb.encode_file(small())),
        patched(16, "<Q", 1 << 16, data=nanovdb.encode_file(small(), compress=True)),
    ],
)
def test_refused(data):
    with pytest.raises(FormatError):
        nanovdb.read_grids(data, max_bytes=1 << 22)


def test_a_zip_bomb():
    data = nanovdb.encode_file(small(), compress=True)
    bomb = zlib.compress(bytes(1 << 26), 9)
    head = bytearray(data[: 16 + 176 + 1])
    head[24:32] = struct.pack("<Q", len(bomb) + 8)
    with pytest.raises(FormatError, match="longer than it says"):
        nanovdb.read_grids(bytes(head) + struct.pack("<Q", len(bomb)) + bomb)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_damage(data):
    """Any bytes changed: either FormatError or leaves that fit into what there is."""
    grid = bytearray(small(checksum="none"))
    used = [*range(740 + 96 * 4), *range(UPPER_AT + 8100, UPPER_AT + 8300), *range(LOWER_AT, LOWER_AT + 1200)]
    used += range(len(grid) - 500, len(grid))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.sampled_from(used))
        grid[at] = data.draw(st.integers(0, 255))
    try:
        found = nanovdb.read_grids(bytes(grid), max_leaves=1 << 16)
    except FormatError:
        return
    assert sum(len(g.leaves) for g in found) <= 1 << 16
