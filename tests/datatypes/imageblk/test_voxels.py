"""Images against a model of numpy arrays; what every write must leave and every refusal must not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dvid_dask
from dvid_dask.boxes import Box
from dvid_dask.datatypes.imageblk import BlocksWritten, ImageBlk
from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.formats.compression import zstd_compress

from .conftest import HIGH, LOW, TYPES, noise, state

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


@pytest.mark.parametrize("typename", TYPES)
def test_single_blocks_are_the_same_as_in_a_box(repo, typename):
    image = repo.new_instance(typename, "image", {"blocksize": "16,8,4"})
    tail = (4,) if typename == "rgba8blk" else ()
    voxels = noise((8, 16, 32, *tail), image.dtype)
    image.write(voxels, (-4, 8, -16))
    box = image.read_box((-8, 0, -32), (16, 32, 64))
    for z, y, x in np.ndindex(4, 4, 4):
        at = (4 * z - 8, 8 * y, 16 * x - 32)
        one = image.read_box(at, (4, 8, 16))
        assert one.tobytes() == box[4 * z :, 8 * y :, 16 * x :][:4, :8, :16].tobytes()
        (slab,) = image.read_slabs(at, (4, 8, 16))
        assert slab.tobytes() == one.tobytes()
        one[:] = 0  # ours to write to
    assert box[4:12, 8:24, 16:48].tobytes() == voxels.tobytes()


@pytest.mark.parametrize("damage", [lambda v: v[:-3], lambda v: b"nonsense", lambda v: zstd_compress(bytes(16**3 + 1))])
def test_a_damaged_block_is_an_error(gray, damage):
    gray.write(noise((16, 16, 16)), (0, 0, 0))
    key = gray.layout.block_key(0, (0, 0, 0))
    value = damage(gray.layout.value(gray.view(), 0, (0, 0, 0)))
    gray.mutate(lambda m, space: space.put(key, value))
    with pytest.raises(ValueError, match="the stored block at"):
        gray.read_box((0, 0, 0), (16, 16, 16))


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
