"""Images against a model of numpy arrays; what every write must leave and every refusal must not."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import cramjam
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

import dvid_dask
from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk import ArbitraryPlane, BlocksWritten, ImageBlk, isotropic_size
from dvid_dask.datatypes.imageblk.boxes import cuts
from dvid_dask.datatypes.imageblk.layout import MAX_SCALES, Layout
from dvid_dask.datatypes.imageblk.planes import interpolate
from dvid_dask.errors import BadRequest, LockedVersion

LOW, HIGH = -(2**31), 2**31 - 1
TYPES = ["uint8blk", "uint16blk", "uint32blk", "uint64blk", "float32blk", "rgba8blk"]


@pytest.fixture
def repo():
    with dvid_dask.create("memory://", compact="never") as datastore:
        yield datastore.new_repo()


@pytest.fixture
def gray(repo):
    return repo.new_instance("uint8blk", "gray", {"blocksize": "16,16,16"})


def noise(shape, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def state(image):
    """Everything a refused request must leave alone."""
    space = image.view(0)
    return list(space.scan()), image.extents, list(image.mutations())


# ------------------------------------------------------------------ boxes


@pytest.mark.parametrize("typename", TYPES)
def test_each_type_keeps_every_byte_on_both_sides_of_the_origin(repo, typename):
    image = repo.new_instance(typename, "image", {"blocksize": "8,16,32"})
    assert image.block_shape == (32, 16, 8)
    voxels = noise((64, 32, 24, *image.layout.tail), image.dtype)
    if image.dtype.kind == "f":
        voxels[0, 0, :4] = [np.nan, np.inf, -0.0, np.float32(1e-45)]
    image.write(voxels, (-32, 16, -8))
    assert image[:].tobytes() == voxels.tobytes()
    box = image.read_box((-40, 10, -10), (50, 12, 20))
    expected = np.zeros((50, 12, 20, *image.layout.tail), image.dtype)
    expected[8:, 6:, 2:] = voxels[:42, :6, :18]
    assert box.dtype == image.dtype
    assert box.tobytes() == expected.tobytes()


def test_slabs_make_up_the_box_whatever_their_thickness(gray):
    voxels = noise((48, 32, 32))
    gray.write(voxels, (16, 0, -16))
    whole = gray.read_box((3, -5, -20), (70, 30, 40))
    for slab_bytes in (1, 1300, 30 * 40 * 5, 1 << 20):
        slabs = list(gray.read_slabs((3, -5, -20), (70, 30, 40), slab_bytes=slab_bytes))
        np.testing.assert_array_equal(np.concatenate(slabs), whole)
        assert all(slab.nbytes <= max(slab_bytes, 30 * 40) for slab in slabs)
    # also before anything was written
    assert not np.concatenate(list(gray.read_slabs((1000, 0, 0), (20, 2, 2), slab_bytes=10))).any()


def test_a_stream_reads_the_state_it_began_with(gray):
    old, new = noise((64, 16, 16)), noise((64, 16, 16), seed=1)
    gray.write(old, (0, 0, 0))
    slabs = gray.read_slabs((0, 0, 0), old.shape, slab_bytes=16**3)
    first = next(slabs)
    gray.write(new, (0, 0, 0))
    np.testing.assert_array_equal(np.concatenate([first, *slabs]), old)
    np.testing.assert_array_equal(gray[:], new)


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_slices(gray, axes):
    voxels = noise((32, 48, 64))
    gray.write(voxels, (0, 0, 0))
    for _ in range(2):  # the second comes out of the cache
        image = gray.read_slice(axes, (20, 10), (7, 9, 11))
        depth, height, width = (slice(7, 17), slice(9, 19), slice(11, 31))
        expected = {
            (0, 1): voxels[7, height, width],
            (0, 2): voxels[depth, 9, width],
            (1, 2): voxels[depth, 9:29, 11],
        }[axes]
        np.testing.assert_array_equal(image, expected)
    gray.write(255 - voxels, (0, 0, 0))
    np.testing.assert_array_equal(gray.read_slice(axes, (20, 10), (7, 9, 11)), 255 - expected)


def test_the_cache_of_slices_tells_versions_instances_and_scales_apart(repo):
    a, b = (repo.new_instance("uint8blk", name, {"blocksize": "8,8,8"}) for name in "ab")
    a.write(np.full((8, 8, 8), 1, np.uint8), (0, 0, 0))
    b.write(np.full((8, 8, 8), 2, np.uint8), (0, 0, 0))
    a.mutate(lambda m, space: a.bulk_write(space, np.full((8, 8, 8), 3, np.uint8), (0, 0, 0), 1))
    root = a.version
    root.commit()
    child = root.newversion()
    child["a"].write(np.full((8, 8, 8), 4, np.uint8), (0, 0, 0))

    def corner(image, scale=0):
        return int(image.read_slice((0, 1), (1, 1), (0, 0, 0), scale)[0, 0])

    for _ in range(2):
        assert [corner(root["a"]), corner(root["b"]), corner(root["a"], 1), corner(child["a"])] == [1, 2, 3, 4]


# ------------------------------------------------------------------ the model: boxes over versions


class Model(RuleBasedStateMachine):
    """Writes, branches and reads at random, beside dictionaries of voxels."""

    SIDE = 12  # corners lie around the origin

    @initialize(
        typename=st.sampled_from(["uint8blk", "uint16blk", "rgba8blk"]), block=st.sampled_from(["4,4,4", "2,3,5"])
    )
    def begin(self, typename, block):
        self.datastore = dvid_dask.create("memory://", compact="never")
        image = self.datastore.new_repo().new_instance(typename, "image", {"blocksize": block})
        self.blank = np.zeros((2 * self.SIDE,) * 3 + image.layout.tail, image.dtype)
        # version -> (voxels, blocks stored, extents)
        self.models = {image.version: (self.blank.copy(), set(), None)}
        self.open = [image.version]

    def teardown(self):
        if hasattr(self, "datastore"):
            self.datastore.close()

    def image(self, version) -> ImageBlk:
        return version["image"]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), value=st.integers(0, 255), aligned=st.booleans())
    def write(self, data, value, aligned):
        version = data.draw(st.sampled_from(self.open))
        image = self.image(version)
        voxels, stored, extents = self.models[version]
        block = image.block_shape if aligned else (1, 1, 1)
        start, stop = [], []
        for n in block:
            a = data.draw(st.integers(-(self.SIDE // n), self.SIDE // n - 1))
            b = data.draw(st.integers(a + 1, min(a + 3, self.SIDE // n)))
            start.append(a * n)
            stop.append(b * n)
        box = tuple(slice(a + self.SIDE, b + self.SIDE) for a, b in zip(start, stop, strict=True))
        new = np.full_like(voxels[box], value)
        image.write(new, start, aligned=aligned)
        voxels = voxels.copy()
        voxels[box] = new
        touched = [range(a // n, -(-b // n)) for a, b, n in zip(start, stop, image.block_shape, strict=True)]
        stored = stored | {(z, y, x) for z in touched[0] for y in touched[1] for x in touched[2]}
        if extents is not None:
            start = list(map(min, start, extents[0]))
            stop = list(map(max, stop, extents[1]))
        self.models[version] = (voxels, stored, (tuple(start), tuple(stop)))

    @precondition(lambda self: len(self.models) < 6)
    @rule(data=st.data())
    def branch(self, data):
        parent = data.draw(st.sampled_from(list(self.models)))
        if parent in self.open:
            parent.commit()
            self.open.remove(parent)
        child = parent.new_branch(f"branch{len(self.models)}")
        self.models[child] = self.models[parent]
        self.open.append(child)

    @rule(data=st.data())
    def refuse_a_committed_version(self, data):
        locked = [v for v in self.models if v not in self.open]
        if locked:
            with pytest.raises(LockedVersion):
                self.image(data.draw(st.sampled_from(locked))).write(self.blank[:1, :1, :1], (0, 0, 0))

    @rule(data=st.data())
    def read(self, data):
        version = data.draw(st.sampled_from(list(self.models)))
        image = self.image(version)
        voxels, stored, extents = self.models[version]
        corners = [sorted(data.draw(st.lists(st.integers(-self.SIDE, self.SIDE), min_size=2, max_size=2, unique=True)))
                   for _ in range(3)]  # fmt: skip
        box = tuple(slice(a + self.SIDE, b + self.SIDE) for a, b in corners)
        index = tuple(slice(a, b) for a, b in corners)
        np.testing.assert_array_equal(image[index], voxels[box])
        assert image.extents == (None if extents is None else Box(*extents))

    @invariant()
    def stored_blocks_are_known(self):
        for version, (voxels, stored, _) in getattr(self, "models", {}).items():
            image = self.image(version)
            block = image.block_shape
            low = [-(self.SIDE // n + 1) * n for n in block]
            shape = [-2 * a for a in low]
            found = dict(image.read_blocks_in(low, shape, compression="uncompressed"))
            assert set(found) == stored
            assert list(found) == sorted(found)
            padded = np.zeros((*shape, *image.layout.tail), image.dtype)
            inner = tuple(slice(-a - self.SIDE, -a + self.SIDE) for a in low)
            padded[inner] = voxels
            for at, payload in found.items():
                part = tuple(slice(b * n - a, b * n + n - a) for b, n, a in zip(at, block, low, strict=True))
                assert payload == padded[part].tobytes()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


# ------------------------------------------------------------------ writing


def test_a_write_is_one_commit_with_extents_and_log(gray):
    before = gray.view(0).token
    gray.write(noise((16, 32, 16)), (0, 0, 0), user="mary", app="test")
    (record,) = gray.history()
    assert (record.user, record.app) == ("mary", "test")
    assert record.record["Action"] == "post-raw"
    assert (record.record["Offset"], record.record["Size"]) == ([0, 0, 0], [16, 32, 16])
    assert record.record["MutationID"] == record.id
    assert gray.view(0).token != before


def test_followers_hear_of_a_write_inside_its_commit(gray, monkeypatch):
    heard = []
    monkeypatch.setattr(
        "dvid_dask.versions.mutation.Mutation.publish", lambda m, source, event: heard.append((source.name, event))
    )
    gray.write(noise((16, 16, 32)), (0, 0, -16))
    gray.write_block_span((1, 0, 0), noise((2, 16, 16, 16)))
    assert heard == [
        ("gray", BlocksWritten((0, 0, -16), (16, 16, 16))),
        ("gray", BlocksWritten((16, 0, 0), (32, 16, 32))),
    ]


def test_blocks_of_zeros_are_stored_and_differ_from_none(gray):
    gray.write(np.zeros((16, 16, 32), np.uint8), (0, 0, 0))
    assert [at for at, _ in gray.read_blocks([(0, 0, 0), (0, 0, 1), (0, 0, 2)])] == [(0, 0, 0), (0, 0, 1)]


def test_a_part_of_a_block_leaves_the_rest(gray):
    voxels = noise((16, 16, 16))
    gray.write(voxels, (0, 0, 0))
    gray[3:5, -2:4, 15:17] = 9
    expected = np.zeros((16, 32, 32), np.uint8)
    expected[:, 16:, :16] = voxels
    expected[3:5, 14:20, 15:17] = 9
    np.testing.assert_array_equal(gray.read_box((0, -16, 0), (16, 32, 32)), expected)
    gray[0, 0, 0] = 77
    gray[1] = np.uint8(5)
    gray[2, 0:3, 0:4] = np.arange(4, dtype=np.uint8)
    before = state(gray)
    for bad in (300, -1, 1.5, True, "a", np.arange(5), np.full((16, 16), 256)):
        with pytest.raises(BadRequest):
            gray[2] = bad
    assert state(gray) == before
    assert gray[0, 0, 0] == 77
    assert (gray[1] == 5).all()
    np.testing.assert_array_equal(gray[2, 0:3, 0:4], np.tile(np.arange(4), (3, 1)))


def test_a_region_limits_writes_and_masks_reads(repo):
    image = repo.new_instance("uint8blk", "gray", {"blocksize": "4,4,4", "background": "9"})

    def inside(blocks):
        return (blocks.sum(axis=1) % 2) == 0

    ones, twos = np.full((8, 8, 8), 1, np.uint8), np.full((8, 8, 8), 2, np.uint8)
    image.write(ones, (0, 0, 0))
    image.write(twos, (0, 0, 0), mask=inside)
    blocks = np.indices((8, 8, 8)) // 4
    even = blocks.sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(image[:], np.where(even, 2, 1))
    masked = image.read_box((1, 2, 3), (10, 6, 5), mask=inside)
    expected = np.zeros((10, 6, 5), np.uint8)
    expected[:7] = np.where(even, 2, 9)[1:, 2:, 3:]  # never stored: 0, whatever the background
    np.testing.assert_array_equal(masked, expected)
    slabs = image.read_slabs((1, 2, 3), (10, 6, 5), mask=inside, slab_bytes=100)
    np.testing.assert_array_equal(np.concatenate(list(slabs)), expected)
    np.testing.assert_array_equal(image.read_slice((0, 2), (5, 10), (1, 2, 3), mask=inside), expected[:, 0])
    with pytest.raises(BadRequest, match="whole blocks"):
        image.write(ones, (1, 0, 0), mask=inside)


@pytest.mark.parametrize("typename", ["uint16blk", "rgba8blk"])
def test_outside_a_region_wide_voxels_are_zero(repo, typename):
    image = repo.new_instance(typename, "image", {"blocksize": "4,4,4", "background": "9"})
    image.write(np.ones((4, 4, 8, *image.layout.tail), image.dtype), (0, 0, 0))
    masked = image.read_box((0, 0, 0), (4, 4, 8), mask=lambda blocks: blocks[:, 2] == 0)
    assert masked[..., :4, :].all() if image.layout.tail else masked[..., :4].all()
    assert not masked[:, :, 4:].any()


@pytest.mark.parametrize(
    ("offset", "voxels", "says"),
    [
        ((0, 0, 0), np.zeros((16, 16), np.uint8), "shape"),
        ((0, 0, 0), np.zeros((16, 16, 16, 4), np.uint8), "shape"),
        ((0, 0, 0), np.zeros((0, 16, 16), np.uint8), "empty"),
        ((0, 0, 0), np.zeros((16, 16, 16), np.uint16), "uint16"),
        ((0, 0, 0), np.zeros((16, 16, 16), np.int8), "int8"),
        ((0, 0, 0), np.zeros((16, 16, 16), np.float32), "float32"),
        ((0, 0), np.zeros((16, 16, 16), np.uint8), "three numbers"),
        ((0, 0, HIGH - 14), np.zeros((16, 16, 16), np.uint8), "leaves the coordinates"),
        ((LOW - 16, 0, 0), np.zeros((16, 16, 16), np.uint8), "leaves the coordinates"),
    ],
)
def test_what_is_no_box_of_voxels_is_refused_and_changes_nothing(gray, offset, voxels, says):
    gray.write(noise((16, 16, 16)), (0, 0, 0))
    before = state(gray)
    with pytest.raises(BadRequest, match=says):
        gray.write(voxels, offset)
    assert state(gray) == before


def test_aligned_writes_refuse_parts_of_blocks(gray):
    before = state(gray)
    for offset, shape in (((8, 0, 0), (16, 16, 16)), ((0, 0, 0), (16, 16, 24)), ((0, -8, 0), (16, 16, 16))):
        with pytest.raises(BadRequest, match="whole blocks of 16_16_16"):
            gray.write(np.zeros(shape, np.uint8), offset, aligned=True)
    assert state(gray) == before


def test_slabs_that_do_not_make_the_box_are_refused_and_change_nothing(gray):
    before = state(gray)
    good = np.zeros((16, 16, 16), np.uint8)
    for slabs in ([good], [good] * 3, [good, good[:8]], [good, good[:, :8]], [good, good.astype(np.uint16)]):
        with pytest.raises(BadRequest):
            gray.write_slabs((0, 0, 0), (32, 16, 16), slabs)

    def broken():
        yield good
        raise ConnectionResetError("the client left")

    with pytest.raises(ConnectionResetError):
        gray.write_slabs((0, 0, 0), (32, 16, 16), broken())
    assert state(gray) == before
    gray.write_slabs((0, 0, 0), (32, 16, 16), [good, good + 1])
    assert gray[:].mean() == 0.5


def test_coordinates_reach_to_the_ends_of_int32(repo):
    for block in ("16,16,16", "24,17,5"):
        image = repo.new_instance("uint8blk", f"image{block}", {"blocksize": block})
        for offset in ((LOW, LOW, LOW), (HIGH - 2, HIGH - 3, HIGH - 4), (LOW, HIGH - 3, 0)):
            voxels = noise((3, 4, 5))
            image.write(voxels, offset)
            np.testing.assert_array_equal(image.read_box(offset, voxels.shape), voxels)
        assert image.extents == Box((LOW, LOW, LOW), (HIGH + 1, HIGH + 1, HIGH + 1))
        # a box around everything costs what is stored
        whole = [n * -(-(2**32) // n) for n in image.block_shape]
        start = [n * (LOW // n) for n in image.block_shape]
        aligned = [min(s, (HIGH + 1 - a) // n * n) for s, a, n in zip(whole, start, image.block_shape, strict=True)]
        if all(a == LOW for a in start):
            found = [at for at, _ in image.read_blocks_in(start, aligned)]
            assert found == sorted(found)
            assert len(found) >= 3


def test_concurrent_writers_lose_nothing(gray):
    def one(i):
        gray.write(np.full((16, 16, 16), i + 1, np.uint8), (16 * i, 0, 0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(12)))
    assert [int(gray[16 * i, 0, 0]) for i in range(12)] == list(range(1, 13))
    assert gray.extents == Box((0, 0, 0), (192, 16, 16))
    assert len(list(gray.mutations())) == 12


# ------------------------------------------------------------------ blocks


def test_block_spans(repo):
    image = repo.new_instance("uint16blk", "image", {"blocksize": "4,3,2", "background": "200"})
    blocks = noise((3, 2, 3, 4), np.uint16)
    image.write_block_span((-1, 2, -2), blocks)
    assert image.extents is None  # as in DVID
    found = np.stack(list(image.read_block_span((-1, 2, -3), 5)))
    np.testing.assert_array_equal(found[1:4], blocks)
    assert (found[[0, 4]] == 200 * 257).all()
    np.testing.assert_array_equal(image.read_box((-2, 6, -8), (2, 3, 12)), np.concatenate(list(blocks), axis=2))
    assert list(image.read_block_span((0, 0, 0), 0)) == []


def test_bad_block_spans_are_refused_and_change_nothing(gray):
    before = state(gray)
    good = np.zeros((2, 16, 16, 16), np.uint8)
    for block, blocks in (
        ((0, 0, 0), good[:, :8]),
        ((0, 0, 0), good[0]),
        ((0, 0, 0), good.astype(np.uint16)),
        ((0, 0, 2**27 - 1), good),
        ((-(2**27) - 1, 0, 0), good),
    ):
        with pytest.raises(BadRequest):
            gray.write_block_span(block, blocks)
    with pytest.raises(BadRequest, match="-1 blocks"):
        gray.read_block_span((0, 0, 0), -1)
    assert state(gray) == before


@pytest.mark.parametrize("compression", ["none", "snappy", "lz4", "gzip", "gzip:9"])
@pytest.mark.parametrize("typename", ["uint8blk", "uint32blk", "rgba8blk"])
def test_payloads_have_the_form_that_the_compression_setting_names(repo, compression, typename):
    image = repo.new_instance(typename, "image", {"compression": compression, "blocksize": "8,8,8"})
    voxels = noise((8, 8, 16, *image.layout.tail), image.dtype)
    image.write(voxels, (0, 0, 8))
    size = image.layout.block_bytes

    def unpack(payload):
        if compression == "none":
            return payload
        if compression == "snappy":
            return bytes(cramjam.snappy.decompress_raw(payload))
        if compression == "lz4":
            assert struct.unpack("<I", payload[:4]) == (size,)
            return bytes(cramjam.lz4.decompress_block(payload[4:], output_len=size))
        return zlib.decompress(payload, wbits=31)

    plain = {at: unpack(payload) for at, payload in image.read_blocks_in((0, 0, 0), (8, 8, 32))}
    assert plain == dict(image.read_blocks_in((0, 0, 0), (8, 8, 32), compression="uncompressed"))
    assert plain == {(0, 0, i + 1): voxels[:, :, 8 * i : 8 * i + 8].tobytes() for i in range(2)}
    for bad in ("jpeg", "zip", "LZ4"):
        with pytest.raises(BadRequest, match="compression|JPEG"):
            image.read_blocks([(0, 0, 1)], compression=bad)


@pytest.mark.parametrize("block", ["32,16,8", "12,20,5"])
def test_jpeg_instances_give_every_reader_the_decoded_image(repo, block):
    image = repo.new_instance("uint8blk", "image", {"compression": "jpeg", "blocksize": block})
    d, h, w = image.block_shape
    z, y, x = np.indices((2 * d, h, 2 * w))
    voxels = (100 + 40 * np.sin(z / 5) + 20 * np.cos(x / 7) + y).astype(np.uint8)
    image.write(voxels, (-d, 0, 0))
    read = image[:]
    assert np.abs(read.astype(int) - voxels).mean() < 3
    assert (read != voxels).any()
    for at, payload in image.read_blocks_in((-d, 0, 0), voxels.shape, compression="jpeg"):
        picture = Image.open(io.BytesIO(payload))
        assert picture.size == (w, h * d)
        part = tuple(slice(b * n - a, b * n - a + n) for b, n, a in zip(at, (d, h, w), (-d, 0, 0), strict=True))
        np.testing.assert_array_equal(np.asarray(picture).reshape(d, h, w), read[part])
        assert dict(image.read_blocks([at]))[at] == payload
        assert dict(image.read_blocks([at], compression="uncompressed"))[at] == read[part].tobytes()
    flat = np.repeat(np.repeat(noise((1, 1, 8)), w, 2), d * h, 0).reshape(d, h, 8 * w)
    image.write(flat, (0, 0, 0))
    np.testing.assert_allclose(image.read_box((0, 0, 0), flat.shape).astype(int), flat, atol=2)
    assert [at for at, _ in image.read_blocks_in((-2 * d, -h, -w), (4 * d, 3 * h, 12 * w))] == sorted(
        {(-1, 0, 0), (-1, 0, 1)} | {(0, 0, i) for i in range(8)}
    )


def test_a_large_box_of_blocks_is_walked_through_and_gives_the_same(repo, monkeypatch):
    rng = np.random.default_rng(3)
    for compression in ("lz4", "jpeg"):
        image = repo.new_instance("uint8blk", compression, {"blocksize": "8,8,8", "compression": compression})
        for at in rng.integers(-20, 20, (30, 3)) * 8:
            image.write(np.full((8, 8, 8), 7, np.uint8), at.tolist())
        box = ((-80, -160, -160), (200, 320, 320))
        small = list(image.read_blocks_in(*box))
        monkeypatch.setattr("dvid_dask.datatypes.imageblk.layout.LOOKUPS", 0)
        assert list(image.read_blocks_in(*box)) == small
        assert small
        monkeypatch.undo()


def test_keys_are_in_the_order_of_blocks():
    layout = Layout("uint8", 1, (1, 1, 1))
    edge = [LOW, -1, 0, 9, 10, HIGH]
    blocks = [(z, y, x) for z in edge for y in edge for x in edge]
    keys = [layout.block_key(0, block) for block in blocks]
    assert keys == sorted(keys)
    for jpeg in (False, True):
        layout = Layout("uint8", 1, (2, 3, 5), jpeg)
        for block in blocks:
            assert layout.parse_block_key(layout.block_key(4, block)) == (4, block)


# ------------------------------------------------------------------ planes


def trilinear(voxels, point, size, background=0):
    """One point in exact fractions; voxels outside the array are background."""
    total = Fraction(0)
    parts = [Fraction(p) / Fraction(s) for p, s in zip(point, size, strict=True)]
    for corner in np.ndindex(2, 2, 2):
        weight, at = Fraction(1), []
        for c, v in zip(corner, parts, strict=True):
            low = v.numerator // v.denominator
            weight *= (v - low) if c else 1 - (v - low)
            at.append(low + c)
        x, y, z = at
        inside = all(0 <= i < n for i, n in zip((z, y, x), voxels.shape[:3], strict=True))
        if weight:
            total += weight * (int(voxels[z, y, x]) if inside else background)
    return (total + Fraction(1, 2)).numerator // (total + Fraction(1, 2)).denominator


@settings(max_examples=12, deadline=None)
@given(st.data(), st.sampled_from(["uint8blk", "uint16blk", "uint32blk", "uint64blk"]))
def test_planes_are_interpolated_exactly(data, typename):
    with dvid_dask.create("memory://", compact="never") as datastore:
        image = datastore.new_repo().new_instance(
            typename, "image", {"blocksize": "8,8,8", "voxelsize": "2,4,8", "background": "3"}
        )
        voxels = noise((8, 16, 16), image.dtype)
        if typename == "uint64blk":
            voxels |= np.uint64(1 << 63)  # beyond what a float holds
        image.write(voxels, (0, 0, 0))
        # multiples of a quarter are exact in floats, so that fractions tell the one right answer
        quarter = st.integers(-16, 160).map(lambda n: n / 4)
        corners = [tuple(data.draw(quarter) for _ in range(3)) for _ in range(3)]
        plane = ArbitraryPlane(*corners, 1e6, (2, 4, 8))  # a single point: the first corner
        background = int(np.frombuffer(b"\3" * image.dtype.itemsize, image.dtype)[0])
        pixel = int(image.read_plane(plane)[0, 0])
        expected = trilinear(voxels, corners[0], (2, 4, 8), background)
        # 64-bit values are mixed by their distances, which are as good as doubles
        assert abs(pixel - expected) <= (2048 if typename == "uint64blk" else 0)


def test_planes_along_axes_show_the_voxels_of_every_type(repo):
    for typename in TYPES:
        image = repo.new_instance(typename, typename, {"blocksize": "8,8,8", "voxelsize": "8,8,8"})
        voxels = noise((16, 16, 16, *image.layout.tail), image.dtype)
        image.write(voxels, (0, 0, 0))
        flat = ArbitraryPlane((0, 0, 40), (15 * 8, 0, 40), (0, 15 * 8, 40), 8, (8, 8, 8))
        assert image.read_plane(flat).tobytes() == voxels[5].tobytes()
        upright = ArbitraryPlane((24, 0, 0), (24, 15 * 8, 0), (24, 0, 15 * 8), 8, (8, 8, 8))
        assert image.read_plane(upright).tobytes() == np.ascontiguousarray(voxels[:, :, 3]).tobytes()


def test_planes_in_many_parts_and_before_the_first_write(repo, monkeypatch):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8", "background": "9"})
    plane = ArbitraryPlane((-20.0, 3, 0), (100, 77, 50), (-30, 90, 120), 3.3, (8, 8, 8))
    assert (image.read_plane(plane) == 9).all()
    image.write(noise((16, 16, 16)), (0, 0, 0))
    whole = image.read_plane(plane)
    monkeypatch.setattr("dvid_dask.datatypes.imageblk.methods.reading._PLANE_POINTS", 50)
    np.testing.assert_array_equal(image.read_plane(plane), whole)
    assert whole.shape == (plane.height, plane.width)


def test_interpolation_of_extremes_does_not_wrap():
    top = 2**64 - 1
    weights = np.full((8, 1), 1 / 8)
    for values in ([0] + [top] * 7, [top] + [0] * 7, [3000] + [top] * 7, [top] * 8, [5] * 8):
        got = int(interpolate(np.array(values, np.uint64)[:, None], weights)[0])
        mean = sum(values) // 8
        assert abs(got - mean) <= 4096, values
    inf = np.array([np.inf] + [1] * 7, np.float32)[:, None]
    assert interpolate(inf, np.array([[0.0]] + [[1 / 7]] * 7))[0] == 1


@pytest.mark.parametrize(
    ("corners", "resolution"),
    [
        ([(0, 0, 0), (float("nan"), 0, 0), (0, 8, 0)], 8),
        ([(0, 0, 0), (float("inf"), 0, 0), (0, 8, 0)], 8),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], 0),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], -1),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], float("nan")),
        ([(0, 0, 0), (8, 0, 0), (0, 8, 0)], 1e-300),
        ([(0, 0, 0), (1e30, 0, 0), (0, 8, 0)], 8),
        ([(-(2.0**31) * 8, 0, 0), (0, 0, 0), (0, 8, 0)], 8),
    ],
)
def test_what_is_no_plane_is_refused(corners, resolution):
    with pytest.raises(BadRequest):
        ArbitraryPlane(*corners, resolution, (8, 8, 8))


def test_isotropic_sizes():
    assert isotropic_size((50, 47), (4, 40)) == (50, 5)
    assert isotropic_size((7, 7), (3, 3)) == (7, 7)
    for lengths in ((1, 1e9), (1e-30, 1e30), (1e30, 1e-30)):
        with pytest.raises(BadRequest, match="raw instead"):
            isotropic_size((10, 10), lengths)


# ------------------------------------------------------------------ settings and extents


@pytest.mark.parametrize(
    "config",
    [
        {"blocksize": "a,b,c"},
        {"blocksize": "32,32"},
        {"blocksize": "0,32,32"},
        {"blocksize": "-8,32,32"},
        {"blocksize": "1024,1024,1024"},
        {"blocksize": [32, 32, 32]},
        {"blocksize": "32,32,1_0"},
        {"voxelsize": "x,y,z"},
        {"voxelsize": "8,8,0"},
        {"voxelsize": "8,8,nan"},
        {"voxelsize": "8,8,inf"},
        {"voxelunits": "nm"},
        {"background": "300"},
        {"background": "-1"},
        {"background": 3},
        {"gridstore": "somewhere"},
        {"scalelevel": "x"},
        {"minpoint": "0,0,0"},
        {"minpoint": "5,0,0", "maxpoint": "4,9,9"},
        {"minpoint": "0,0,4294967296", "maxpoint": "4,9,9"},
        {"compression": "jpeg", "blocksize": "64,512,512"},
        {"compression": "brotli"},
    ],
)
def test_bad_settings_are_refused(repo, config):
    with pytest.raises(BadRequest):
        repo.new_instance("uint8blk", "bad", config)
    assert "bad" not in repo.instances


def test_jpeg_is_for_single_bytes_only(repo):
    for typename in ("uint16blk", "rgba8blk", "float32blk"):
        with pytest.raises(BadRequest, match="8-bit"):
            repo.new_instance(typename, "bad", {"compression": "jpeg"})


def test_extents_fall_back_to_the_settings_grow_and_can_be_overwritten(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8", "minpoint": "1,2,3", "maxpoint": "10,20,30"})
    assert image.extents == Box((3, 2, 1), (31, 21, 11))
    image.write(noise((8, 8, 8)), (0, 0, -8))
    assert image.extents == Box((0, 0, -8), (31, 21, 11))
    image.set_extents((0, 0, 0), (1, 1, 1))
    assert image.extents == Box((0, 0, 0), (1, 1, 1))
    root = image.version
    root.commit()
    child = root.newversion()["image"]
    child.write(noise((8, 8, 8)), (8, 8, 8))
    assert child.extents == Box((0, 0, 0), (16, 16, 16))
    assert root["image"].extents == Box((0, 0, 0), (1, 1, 1))
    for start, stop in (((0, 0, 0), (0, 1, 1)), ((0, 0, 0), (1, 1, 2**31 + 1))):
        with pytest.raises(BadRequest):
            child.set_extents(start, stop)
    with pytest.raises(LockedVersion):
        root["image"].set_extents((0, 0, 0), (1, 1, 1))


def test_resolution_holds_at_all_versions(gray):
    gray.set_resolution((1.5, 2, 30.25))
    assert gray.voxel_size == (30.25, 2, 1.5)
    gray.version.commit()
    assert gray.version.newversion()["gray"].voxel_size == (30.25, 2, 1.5)
    for bad in ((1, 2), (1, 2, 0), (1, 2, float("nan"))):
        with pytest.raises(BadRequest):
            gray.set_resolution(bad)


def test_versions_that_are_merged_unite_extents(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    image.write(noise((8, 8, 8)), (0, 0, 0))
    image.version.commit()
    left, right = image.version.new_branch("left"), image.version.new_branch("right")
    left["image"].write(np.full((8, 8, 8), 1, np.uint8), (0, 0, -16))
    right["image"].write(np.full((8, 8, 8), 2, np.uint8), (16, 0, 0))
    left.commit()
    right.commit()
    merged = repo.merge([left, right])["image"]
    assert merged.extents == Box((0, 0, -16), (24, 8, 8))
    assert (merged[0, 0, -16], merged[16, 0, 0]) == (1, 2)


def test_a_diff_names_blocks(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    image.write(noise((8, 8, 8)), (0, 0, 0))
    root = image.version
    root.commit()
    child = root.newversion()
    child["image"].write(noise((8, 8, 8)), (0, 8, -8))
    view = child["image"].view()
    named = [child["image"].describe_change(key) for key, _ in view.scan()]
    assert {"scale": 0, "block": [-1, 1, 0]} in named
    assert {"extents": True} in named
    assert None in named  # the array's metadata is bookkeeping


def test_forced_writes_reach_the_descendants_that_still_agree(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    image.write(np.full((8, 8, 16), 1, np.uint8), (0, 0, 0))
    root = image.version
    root.commit()
    child = root.newversion()
    child["image"].write(np.full((8, 8, 8), 2, np.uint8), (0, 0, 8))
    root["image"].write(np.full((8, 8, 16), 3, np.uint8), (0, 0, 0), force=True)
    assert [int(root["image"][0, 0, x]) for x in (0, 8)] == [3, 3]
    assert [int(child["image"][0, 0, x]) for x in (0, 8)] == [3, 2]


# ------------------------------------------------------------------ scales, bulk, arrays of other libraries


def test_scales_come_by_the_bulk_door(repo):
    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    brick = noise((8, 8, 16))
    assert image.scales() == []

    def job(m, space):
        image.bulk_write(space, brick, (0, 0, -8), 0)
        image.bulk_write(space, brick[..., ::2], (0, 0, 0), 1)
        image.create_scale(space, 3)
        image.grow_extents(space, (0, 0, -8), (8, 8, 8))

    image.mutate(job)
    assert image.scales() == [0, 1, 3]
    np.testing.assert_array_equal(image[:], brick)
    np.testing.assert_array_equal(image.read_box((0, 0, 0), (8, 8, 8), 1), brick[..., ::2])
    assert not image.read_box((0, 0, 0), (8, 8, 8), 2).any()
    np.testing.assert_array_equal(image.to_dask(1).compute(), image.read_box((0, 0, -4), (4, 4, 8), 1))
    for scale in (-1, MAX_SCALES):
        with pytest.raises(BadRequest, match="scale"):
            image.read_box((0, 0, 0), (1, 1, 1), scale)
    with pytest.raises(BadRequest, match="whole blocks"):
        image.mutate(lambda m, space: image.bulk_write(space, brick[:4], (0, 0, 0), 0))


def test_dask_arrays_are_lazy_pinned_and_pickle(repo):
    import dask.array as da

    image = repo.new_instance("uint8blk", "image", {"blocksize": "8,8,8"})
    with pytest.raises(BadRequest, match="no extents"):
        image.to_dask()
    voxels = noise((24, 16, 40))
    image.write(voxels, (-8, 0, 3))
    lazy = image.to_dask(chunks=16)
    assert lazy.chunks == ((16, 8), (16,), (13, 16, 11))  # chunks end between blocks
    image.write(255 - voxels, (-8, 0, 3))
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), voxels)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy))[5:7, 3, ::2].compute(), voxels[5:7, 3, ::2])
    np.testing.assert_array_equal(lazy[::-3, [4, 1], ::2].compute(), voxels[::-3, [4, 1], ::2])
    assert lazy.name != image.to_dask(chunks=16).name
    assert image.to_dask().name == image.to_dask().name
    part = image.to_dask(extents=Box((-10, 0, 0), (0, 4, 4)))
    assert part.shape == (10, 4, 4)
    assert int(da.asarray(part)[0].sum()) == 0
    with pytest.raises(BadRequest, match="chunks"):
        image.to_dask(chunks=(8, 8))


def test_pinned_images_are_indexed_as_numpy_indexes(repo):
    image = repo.new_instance("rgba8blk", "image", {"blocksize": "8,8,8"})
    voxels = noise((8, 16, 8, 4))
    image.write(voxels, (8, 0, -8))
    pinned = image.pin()
    for key in (..., 3, -1, (slice(2, 5), ..., 1), (0, slice(None), slice(-3, None)), (slice(4, 2),), (1, 2, 3, 0)):
        np.testing.assert_array_equal(pinned[key], voxels[key])
    np.testing.assert_array_equal(np.asarray(pinned), voxels)
    with pytest.raises(IndexError):
        pinned[8]
    for key in (
        (slice(None, None, 3),),
        (slice(6, 1, -2), slice(None, None, -1)),
        (slice(1, None, 5), 2, slice(7, 0, -3)),
    ):
        np.testing.assert_array_equal(pinned[key], voxels[key])


def test_xarray_has_physical_coordinates(repo):
    image = repo.new_instance("rgba8blk", "image", {"blocksize": "8,8,8", "voxelsize": "4,4,40"})
    image.write(noise((8, 8, 16, 4)), (0, -8, 0))
    array = image.to_xarray()
    assert array.dims == ("z", "y", "x", "channel")
    assert list(array.z.values[:2]) == [0, 40]
    assert array.y.values[0] == -32
    assert array.sel(channel="green", y=-32, z=40, x=8).compute().item() == image[1, -8, 2][1]
    assert image.to_xarray(1).x.values[0] == 2  # the centre of two voxels of 4


def test_indices_are_coordinates(gray):
    gray.write(noise((32, 16, 16)), (-16, 0, 0))
    np.testing.assert_array_equal(gray[-1], gray.read_box((-1, 0, 0), (1, 16, 16))[0])
    assert gray[-16:, ..., 3].shape == (32, 16)
    for bad in (gray.pin, "x", 1.5, True, None, (0, 0, 0, 0), (..., ...), np.array([1, 2]), slice("a", 3)):
        with pytest.raises(BadRequest):
            gray[bad]
    with pytest.raises(BadRequest, match="steps"):
        gray[::2]
    with pytest.raises(BadRequest, match="empty"):
        gray[3:3]


def test_an_empty_image_needs_both_ends_of_slices(gray):
    assert not gray[0:2, 0:2, 0:2].any()
    with pytest.raises(BadRequest, match="both ends"):
        gray[0:2]


@given(st.integers(-100, 100), st.integers(1, 200), st.integers(1, 40), st.integers(1, 300))
def test_cuts_cover_a_line_and_keep_blocks_whole(start, length, block, most):
    pieces = list(cuts(start, start + length, block, most))
    assert [a for a, _ in pieces] == [start, *(b for _, b in pieces[:-1])]
    assert pieces[-1][1] == start + length
    assert all(0 < b - a <= most for a, b in pieces)
    if most >= block:
        assert all(b % block == 0 for _, b in pieces[:-1])
