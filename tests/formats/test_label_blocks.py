"""What the codec must keep: every voxel, one encoding per content, DVID's answers, and its nerve on hostile bytes.

Blocks of other writers are compared by voxels, never by bytes: their table order is arbitrary.
"""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import label_blocks as lb
from dvid_dask.formats.errors import FormatError

from . import reference as ref

LABELS = [0, 1, 2, 5, 7, 300, 2**32, 2**63, 2**64 - 1]


@st.composite
def volumes(draw):
    """Blocks of every texture: uniform, blobs, noise of few and of many labels, mixed."""
    shape = tuple(8 * draw(st.integers(1, 3)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 23, 24, 25, 33, 200, 256, 257, 512]))
    palette = np.unique(np.append(rng.integers(0, 2**64, n, np.uint64), np.array(LABELS[: n - 1], np.uint64)))[:n]
    if draw(st.booleans()):
        volume = ref.blobs(rng, shape, palette, draw(st.sampled_from([1, 3, 8])))
    else:
        volume = rng.choice(palette, shape)
    if draw(st.booleans()):
        volume[:8, :8, :8] = palette[0]
    return volume


# ------------------------------------------------------------------ worked examples


def test_solid_block_of_300():
    expected = bytes.fromhex("08000000 08000000 08000000 01000000 2c01000000000000")
    assert lb.encode_block(np.full((64, 64, 64), 300, np.uint64)) == expected
    assert lb.solid_block(300, (64, 64, 64)) == expected
    assert lb.is_solid(expected)
    assert (lb.decode_block(expected) == 300).all()


def test_two_labels_in_one_subblock_and_a_uniform_one():
    volume = np.zeros((16, 16, 16), np.uint64)
    volume[0, 0, :2] = 5, 7
    volume[:8, :8, 8:] = 9
    block = lb.encode_block(volume)
    assert len(block) == 232
    ours, theirs = "0000000000000000 0500000000000000 0700000000000000 0900000000000000", [5, 7, 0, 9]
    assert block[16:48] == bytes.fromhex(ours)
    assert block[48:64] == bytes.fromhex("0300 0100 0100 0100 0100 0100 0100 0100")
    assert block[64:76] == np.array([1, 2, 0], "<u4").tobytes()
    assert block[104:108] == bytes.fromhex("1aaaaaaa")
    # the same voxels with DVID's table order
    dvid = ref.write_block((2, 2, 2), theirs, [([0, 1, 2], [0, 1] + [2] * 510), ([3], None)] + [([2], None)] * 6)
    assert len(dvid) == 232
    np.testing.assert_array_equal(lb.decode_block(dvid), volume)
    assert lb.normalize(dvid) == block


def test_values_straddle_bytes_high_part_first():
    volume = np.zeros((8, 8, 8), np.uint64)
    volume[0, 0, 1:5] = 11, 12, 13, 14
    block = lb.encode_block(volume)
    values = 16 + 8 * 5 + 2 + 4 * 5
    assert block[values : values + 3] == bytes.fromhex("053800")
    np.testing.assert_array_equal(lb.decode_block(block), volume)


# ------------------------------------------------------------------ recorded answers and real data


def test_recorded_blocks():
    for v in ref.vectors("block"):
        block = ref.gz64(v["serialized_gz64"])
        lb.check_block(block, v["size"][::-1])
        volume = lb.decode_block(block)
        assert hashlib.sha256(volume.tobytes()).hexdigest() == v["volume_sha256"], v["name"]
        assert lb.is_solid(block) == v["solid"]
        encoded = lb.encode_block(volume)
        assert len(encoded) == v["serialized_len"], v["name"]
        assert lb.normalize(block) == encoded, v["name"]
        np.testing.assert_array_equal(lb.decode_block(encoded), volume)
        if "voxel_counts" in v:
            labels, counts = lb.count(block)
            found = {str(i): c for i, c in zip(labels.tolist(), counts.tolist(), strict=True) if i}
            assert found == v["voxel_counts"], v["name"]
        if "downres_labels_sha256" in v:
            halved = lb.downsample_array(volume)
            assert hashlib.sha256(halved.tobytes()).hexdigest() == v["downres_labels_sha256"], v["name"]


def test_recorded_octants():
    blocks = {v["name"]: ref.gz64(v["serialized_gz64"]) for v in ref.vectors("block")}
    for v in ref.vectors("downres-octants"):
        octants = [blocks[name] if name else None for name in v["octants"]]
        old = blocks[v["previous"]] if v["previous"] else None
        volume = lb.decode_block(lb.downsample(octants, old, (64, 64, 64)))
        assert hashlib.sha256(volume.tobytes()).hexdigest() == v["volume_sha256"], v["name"]


def test_real_samples():
    for name, volume in ref.real_samples().items():
        block = lb.encode_block(volume)
        np.testing.assert_array_equal(lb.decode_block(block), volume)
        np.testing.assert_array_equal(ref.decode_block(block), volume)
        assert len(block) < volume.nbytes / 50, name
        labels, counts = lb.count(block)
        for got, expected in zip((labels, counts), np.unique(volume, return_counts=True), strict=True):
            np.testing.assert_array_equal(got, expected)


# ------------------------------------------------------------------ round trips


@settings(max_examples=60, deadline=None)
@given(volumes())
def test_round_trip_against_the_description(volume):
    block = lb.encode_block(volume)
    assert block == ref.encode_block(volume)
    np.testing.assert_array_equal(lb.decode_block(block), volume)
    lb.check_block(block, volume.shape)
    assert lb.block_shape(block) == volume.shape
    np.testing.assert_array_equal(lb.labels(block), np.unique(volume))
    assert lb.normalize(block) == block
    for got, expected in zip(lb.count(block), np.unique(volume, return_counts=True), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_equal_voxels_give_equal_bytes_whatever_the_memory():
    rng = np.random.default_rng(3)
    volume = ref.blobs(rng, (24, 16, 32), LABELS)
    expected = lb.encode_block(volume)
    big = np.zeros((48, 40, 64), np.uint64)
    big[3:27, 5:21, 7:39] = volume
    spread = np.zeros((24, 16, 64), np.uint64)
    spread[:, :, ::2] = volume
    readonly = volume.copy()
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"x" + volume.tobytes(), "<u8", volume.size, 1).reshape(volume.shape)
    for same in (
        big[3:27, 5:21, 7:39],
        np.asfortranarray(volume),
        spread[:, :, ::2],
        volume[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        volume.astype(">u8"),
        readonly,
        unaligned,
    ):
        assert lb.encode_block(same) == expected
    flat = np.broadcast_to(np.arange(8, dtype=np.uint64), (8, 8, 8))
    np.testing.assert_array_equal(lb.decode_block(lb.encode_block(flat)), flat)


def test_decodes_into_any_memory():
    volume = ref.blobs(np.random.default_rng(4), (16, 24, 8), LABELS)
    block = lb.encode_block(volume)
    big = np.full((32, 32, 32), 42, np.uint64)
    part = big[2:18, 1:25, 3:11]
    assert lb.decode_block(block, part) is part
    np.testing.assert_array_equal(part, volume)
    part[...] = 42
    assert (big == 42).all()
    for out in (
        np.empty((16, 24, 8), np.uint64, order="F"),
        np.empty((16, 24, 16), np.uint64)[:, :, ::2],
        np.empty((16, 24, 8), np.uint64)[::-1],
        np.empty((16, 24, 8), ">u8"),
    ):
        np.testing.assert_array_equal(lb.decode_block(block, out), volume)
    with pytest.raises(FormatError):
        lb.decode_block(block, np.empty((8, 24, 16), np.uint64))
    with pytest.raises(TypeError):
        lb.decode_block(block, np.empty((16, 24, 8), np.int32))


@given(volumes(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_points(volume, seed):
    rng = np.random.default_rng(seed)
    block = lb.encode_block(volume)
    points = np.stack([rng.integers(0, n, 200) for n in volume.shape], axis=1)
    points[0] = np.array(volume.shape) - 1
    found = lb.pick(block, points)
    np.testing.assert_array_equal(found, volume[tuple(points.T)])
    table = rng.permutation(len(lb.labels(block))).astype(np.uint64)
    np.testing.assert_array_equal(
        lb.pick(block, points, table=table), lb.decode_block(block, table=table)[tuple(points.T)]
    )
    assert lb.pick(block, np.empty((0, 3), int)).size == 0
    for bad in ([[-1, 0, 0]], [[0, 0, volume.shape[2]]]):
        with pytest.raises(ValueError, match="not inside"):
            lb.pick(block, bad)


def test_points_of_mangled_blocks():
    rng = np.random.default_rng(2)
    block = lb.encode_block(rng.integers(0, 30, (16, 16, 16)).astype(np.uint64))
    points = np.indices((16, 16, 16)).reshape(3, -1).T
    damaged = ref.mangled(block, rng)
    same = (b for b in damaged if len(b) < 12 or b[:12] == block[:12])  # of another size, points lie outside
    assert ref.only_format_errors(lambda b: lb.pick(b, points), same, 50) > 5


def test_boxes():
    rng = np.random.default_rng(5)
    volume = ref.blobs(rng, (24, 16, 32), LABELS, 5)
    block = lb.encode_block(volume)
    for _ in range(60):
        a = [int(rng.integers(0, n + 1)) for n in volume.shape]
        b = [int(rng.integers(lo, n + 1)) for lo, n in zip(a, volume.shape, strict=True)]
        inside = tuple(slice(i, j) for i, j in zip(a, b, strict=True))
        np.testing.assert_array_equal(lb.decode_box(block, a, b), volume[inside])
        np.testing.assert_array_equal(
            lb.decode_box(lb.solid_block(9, (24, 16, 32)), a, b), np.full_like(volume[inside], 9)
        )
    for bad in (((-1, 0, 0), (1, 1, 1)), ((0, 0, 0), (25, 1, 1)), ((2, 0, 0), (1, 1, 1))):
        with pytest.raises(ValueError):
            lb.decode_box(block, *bad)


def test_shapes_and_types_that_are_no_block():
    for shape in ((8, 8, 7), (8, 8), (0, 8, 8), (1032, 8, 8)):
        with pytest.raises((ValueError, TypeError)):
            lb.encode_block(np.zeros(shape, np.uint64))
    with pytest.raises(TypeError):
        lb.encode_block(np.zeros((8, 8, 8), np.int64))
    with pytest.raises(TypeError):
        lb.encode_block([[[1]]])
    with pytest.raises(ValueError):
        lb.encode_blocks(np.zeros((16, 16, 24), np.uint64), (16, 16, 16))


# ------------------------------------------------------------------ many blocks


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(8, 8, 8), (16, 8, 24), (32, 16, 16)]), st.integers(2, 40))
def test_bricks(seed, shape, n):
    rng = np.random.default_rng(seed)
    grid = rng.integers(1, 4, 3)
    volume = ref.blobs(rng, tuple(grid * shape), rng.integers(0, 2**40, n, np.uint64), int(rng.integers(1, 12)))
    corners = [tuple(np.array(at) * shape) for at in np.ndindex(*grid)]
    parts = [volume[z : z + shape[0], y : y + shape[1], x : x + shape[2]] for z, y, x in corners]
    blocks, block, label, count = lb.encode_and_count(volume, shape)
    assert blocks == [lb.encode_block(p) for p in parts] == lb.encode_blocks(volume, shape)
    rows = [(i, k, c) for i, p in enumerate(parts) for k, c in zip(*np.unique(p, return_counts=True), strict=True)]
    assert list(zip(block.tolist(), label.tolist(), count.tolist(), strict=True)) == rows
    for a, b in zip(lb.count_blocks(volume, shape), (block, label, count), strict=True):
        np.testing.assert_array_equal(a, b)

    out = np.full_like(volume, 7)
    lb.decode_blocks_into(blocks, corners, out)
    np.testing.assert_array_equal(out, volume)
    # a window that cuts blocks on all sides
    start = [int(rng.integers(0, s)) for s in shape]
    window = np.full([max(1, n - 2 * a) for n, a in zip(volume.shape, start, strict=True)], 7, np.uint64)
    lb.decode_blocks_into(blocks, np.array(corners) - start, window)
    stop = [a + n for a, n in zip(start, window.shape, strict=True)]
    expected = np.full_like(window, 7)
    source = volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    expected[tuple(slice(n) for n in source.shape)] = source
    np.testing.assert_array_equal(window, expected)


def test_pasting_with_mapped_tables_and_gaps():
    volume = ref.blobs(np.random.default_rng(6), (8, 8, 32), [0, 3, 4])
    blocks = lb.encode_blocks(volume, (8, 8, 16))
    out = np.full((8, 8, 48), 1, np.uint64)
    tables = [lb.labels(blocks[0]) + np.uint64(100), None, None]
    lb.decode_blocks_into([*blocks, None], [[0, 0, 0], [0, 0, 16], [0, 0, 32]], out, tables)
    np.testing.assert_array_equal(out[:, :, :16], volume[:, :, :16] + np.uint64(100))
    np.testing.assert_array_equal(out[:, :, 16:32], volume[:, :, 16:])
    assert (out[:, :, 32:] == 1).all()
    lb.decode_blocks_into(blocks, [[-8, 0, 0], [0, 100, 0]], out)  # both outside


# ------------------------------------------------------------------ what other writers produce


def foreign_block():
    """Duplicates, an unused entry, a sub-block without labels, trailing bytes, and its voxels."""
    rng = np.random.default_rng(7)
    table = [5, 9, 5, 0, 77, 9]
    first = rng.integers(0, 5, 512).tolist()
    second = rng.integers(0, 2, 512).tolist()
    block = ref.write_block(
        (2, 2, 1), table, [([0, 1, 2, 3, 5], first), ([], None), ([2], None), ([0, 2], second)], b"trailing"
    )
    volume = np.zeros((8, 16, 16), np.uint64)
    volume[:, :8, :8] = np.array([5, 9, 5, 0, 9], np.uint64)[first].reshape(8, 8, 8)
    volume[:, 8:, :] = 5
    return block, volume


def test_foreign_blocks_are_understood():
    block, volume = foreign_block()
    lb.check_block(block, (8, 16, 16))
    np.testing.assert_array_equal(lb.decode_block(block), volume)
    np.testing.assert_array_equal(lb.decode_box(block, (1, 2, 3), (7, 15, 14)), volume[1:7, 2:15, 3:14])
    assert lb.normalize(block) == lb.encode_block(volume)
    for got, expected in zip(lb.count(block), np.unique(volume, return_counts=True), strict=True):
        np.testing.assert_array_equal(got, expected)
    for labels in ([5], [9, 77], [0], [0, 5], [77], []):
        np.testing.assert_array_equal(lb.mask(block, labels), np.isin(volume, np.array(labels, np.uint64)))
    octants = [block] + [None] * 7
    expected = np.zeros_like(volume)
    expected[:4, :8, :8] = ref.downsample(volume)
    np.testing.assert_array_equal(lb.decode_block(lb.downsample(octants, None, (8, 16, 16))), expected)


def test_replacing_the_table_touches_no_voxel():
    volume = ref.blobs(np.random.default_rng(8), (16, 16, 16), [0, 3, 4, 8])
    block = lb.encode_block(volume)
    bodies = np.array([0, 3, 3, 0], np.uint64)
    mapped = lb.replace_labels(block, bodies)
    assert len(mapped) == len(block)
    assert mapped[48:] == block[48:]
    expected = bodies[np.searchsorted(lb.labels(block), volume)]
    np.testing.assert_array_equal(lb.decode_block(mapped), expected)
    np.testing.assert_array_equal(lb.decode_block(block, table=bodies), expected)
    assert lb.normalize(mapped) == lb.encode_block(expected)
    for wrong in ([1, 2, 3], [[1, 2], [3, 4]]):
        with pytest.raises(ValueError):
            lb.replace_labels(block, wrong)


def test_masks():
    volume = ref.blobs(np.random.default_rng(9), (16, 24, 16), LABELS)
    block = lb.encode_block(volume)
    for labels in ([5], [2**64 - 1, 1], [12345], [0, 7]):
        expected = np.isin(volume, np.array(labels, np.uint64))
        np.testing.assert_array_equal(lb.mask(block, labels), expected)
        out = np.ones(volume.shape, np.bool_)
        found = lb.mask_sorted(block, np.unique(np.array(labels, np.uint64)), out)
        np.testing.assert_array_equal(out if found else np.zeros_like(out), expected)


# ------------------------------------------------------------------ down-sampling


@settings(max_examples=30, deadline=None)
@given(volumes())
def test_downsampling_votes(volume):
    np.testing.assert_array_equal(lb.downsample_array(volume), ref.downsample(volume))
    odd = volume[1:, : volume.shape[1] - 3, 2:-1]
    np.testing.assert_array_equal(lb.downsample_array(odd), ref.downsample(odd))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 255), st.booleans())
def test_octants(seed, present, has_old):
    rng = np.random.default_rng(seed)
    shape = tuple((8 * rng.integers(1, 4, 3)).tolist())
    palette = np.array([0, 0, 1, 2, 3, 900], np.uint64)
    old = ref.blobs(rng, shape, palette, 3) if has_old else None
    volumes = [
        (np.full(shape, rng.choice(palette)) if rng.random() < 0.4 else ref.blobs(rng, shape, palette, 3))
        if present >> i & 1
        else None
        for i in range(8)
    ]
    expected = np.zeros(shape, np.uint64) if old is None else old.copy()
    hz, hy, hx = (n // 2 for n in shape)
    for i, v in enumerate(volumes):
        if v is not None:
            z, y, x = (i >> 2) * hz, (i >> 1 & 1) * hy, (i & 1) * hx
            expected[z : z + hz, y : y + hy, x : x + hx] = ref.downsample(v)
    octants = [None if v is None else lb.encode_block(v) for v in volumes]
    result = lb.downsample(octants, None if old is None else lb.encode_block(old), shape)
    assert result == lb.encode_block(expected)


def test_erasing_one_octant_leaves_the_others():
    """DVID wipes the whole coarse block when all given octants are solid 0 (its Q-03)."""
    shape = (16, 16, 16)
    old = lb.solid_block(3, shape)
    result = lb.downsample([lb.solid_block(0, shape)] + [None] * 7, old, shape)
    assert lb.count(result)[1].tolist() == [512, 4096 - 512]


def test_octants_must_fit():
    with pytest.raises(FormatError):
        lb.downsample([lb.solid_block(1, (16, 16, 16))] * 7 + [lb.solid_block(1, (16, 16, 8))], None, (16, 16, 16))
    with pytest.raises(FormatError):
        lb.downsample([None] * 8, lb.solid_block(1, (8, 16, 16)), (16, 16, 16))
    with pytest.raises(ValueError):
        lb.downsample([None] * 7, None, (16, 16, 16))


@pytest.mark.parametrize("names", [1, 20, 45])
def test_remapping_dense_arrays(names):
    """With a few keys and with many for the number of voxels."""
    rng = np.random.default_rng(10)
    keys = np.unique(rng.choice(np.arange(50, dtype=np.uint64), names, replace=False))
    values = rng.integers(0, 2**60, keys.size, np.uint64)
    lookup = dict(zip(keys.tolist(), values.tolist(), strict=True))
    volume = rng.integers(0, 60, (9, 7, 11), np.uint64)
    expected = np.vectorize(lambda v: lookup.get(v, v), otypes=[np.uint64])(volume)
    for order in ("C", "F"):
        work = np.array(volume, order=order)
        lb.remap_array(work, keys, values)
        np.testing.assert_array_equal(work, expected)
    lb.remap_array(volume, [], [])
    with pytest.raises(ValueError):
        lb.remap_array(volume, keys, values[1:])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 1, 1), (9, 7, 11), (8, 16, 24)])
@pytest.mark.parametrize("labels", [1, 3, 700])
def test_labels_of_dense_arrays(shape, labels, order):
    rng = np.random.default_rng(labels)
    palette = np.r_[np.array([0, 2**64 - 1], np.uint64), rng.integers(0, 2**64, labels, np.uint64)]
    volume = np.array(rng.choice(palette, shape), order=order)
    np.testing.assert_array_equal(lb.distinct(volume), np.unique(volume))


def test_thousands_of_labels_of_a_dense_array():
    volume = np.random.default_rng(3).integers(0, 2**64 - 1, (16, 32, 64), np.uint64)
    np.testing.assert_array_equal(lb.distinct(volume), np.unique(volume))


# ------------------------------------------------------------------ hostile bytes


def every_reader(block):
    shape = lb.block_shape(block)
    if shape[0] * shape[1] * shape[2] > 1 << 21:
        limit = {"max_voxels": 1 << 21}
        for read in (lb.decode_block, lb.normalize):
            with pytest.raises(FormatError):
                read(block, **limit)
        lb.count(block)
        return
    try:
        lb.check_block(block)
    except FormatError:
        for read in (lb.decode_block, lb.count, lb.normalize):
            with pytest.raises(FormatError):
                read(block)
        with pytest.raises(FormatError):
            lb.mask(block, lb.labels(block)[:1])
        raise
    volume = lb.decode_block(block)
    np.testing.assert_array_equal(lb.decode_block(lb.normalize(block)), volume)
    assert int(lb.count(block)[1].sum()) == volume.size
    lb.downsample([block] + [None] * 7, block, shape)


@pytest.mark.parametrize("texture", ["foreign", "few", "many", "solid"])
def test_hostile_blocks(texture):
    rng = np.random.default_rng(11)
    block = {
        "foreign": lambda: foreign_block()[0],
        "few": lambda: lb.encode_block(ref.blobs(rng, (16, 16, 16), [1, 2, 3], 3)),
        "many": lambda: lb.encode_block(rng.integers(0, 300, (8, 16, 8), np.uint64)),
        "solid": lambda: lb.solid_block(4, (16, 16, 16)),
    }[texture]()
    assert ref.only_format_errors(every_reader, ref.mangled(block, rng)) > 10


def test_a_tiny_block_that_claims_gigabytes():
    block = bytes.fromhex("80000000 80000000 80000000 01000000 0900000000000000")
    assert lb.block_shape(block) == (1024, 1024, 1024)
    assert lb.count(block)[1].tolist() == [2**30]
    with ref.memory_within(100):
        for read in (lb.decode_block, lambda b: lb.mask(b, [9])):
            with pytest.raises(FormatError):
                read(block)
        assert lb.normalize(block) == block
        assert lb.decode_box(block, (1000, 1000, 1000), (1024, 1001, 1001)).size == 24


def test_a_subblock_with_more_labels_than_voxels():
    block = ref.write_block((1, 1, 1), [1, 2], [([0, 1] * 300, [0] * 512)])
    with pytest.raises(FormatError, match="more labels"):
        lb.check_block(block)


def test_threads_do_not_share_scratch():
    rng = np.random.default_rng(12)
    blocks = [lb.encode_block(ref.blobs(rng, (32, 32, 32), [i, i + 1, 0])) for i in range(1, 40)]
    expected = [lb.downsample([b] * 8, None, (32, 32, 32)) for b in blocks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda b: lb.downsample([b] * 8, None, (32, 32, 32)), blocks * 5)) == expected * 5


@pytest.mark.long
def test_kernels_stay_inside_their_arrays(tmp_path):
    """The hostile bytes of all formats again, with numba's bounds checks compiled in."""
    env = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    here = os.path.dirname(__file__)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not long", "-p", "no:cacheprovider", here],
        env=env, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:]
