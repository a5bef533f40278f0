"""Tiles: put, made on demand, stitched; scales and refusals."""

import numpy as np
import pytest

import dvid_dask
from dvid_dask import datatypes
from dvid_dask.datatypes.imagetile import Level, Levels, default_levels, parse_levels
from dvid_dask.datatypes.imagetile.keys import TileId, tile_key
from dvid_dask.errors import BadRequest, LockedVersion, NotFound
from dvid_dask.formats import downsample
from dvid_dask.formats.compression import serialize
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.images import container, decode_image, encode_image
from dvid_dask.formats.tile_payload import decode_tile, encode_tile


@pytest.fixture
def repo():
    return dvid_dask.create("memory://", compact="never").new_repo()


def levels(side=16, count=3):
    return Levels(tuple(Level((8 * 2**k,) * 3, (side,) * 3) for k in range(count)))


def noise(shape, dtype="uint8", seed=1):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.random.default_rng(seed).random(shape).astype(dtype)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.fixture
def tiles(repo):
    found = repo.new_instance("imagetile", "tiles")
    found.set_levels(levels())
    return found


# ------------------------------------------------------------------ settings and scales


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "gif"}, "none of lz4, png, jpg"),
        ({"compression": "gzip"}, "stored with 'none'"),
        ({"format": "lz4", "compression": "none"}, "stored with 'lz4'"),
        ({"placeholder": "perhaps"}, "none of true"),
        ({"ondemand": "true"}, "name it as 'Source'"),
        ({"format": 1}, "must be a string"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(BadRequest, match=words):
        datatypes.lookup("imagetile").parse_settings(settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "tile metadata"),
        ({}, "0 scales"),
        ({"Levels": {"0": {"Resolution": [8, 8], "TileSize": [1, 1, 1]}}}, "tile metadata"),
        ({"Levels": {"0": {"Resolution": [8, 8, 0], "TileSize": [1, 1, 1]}}}, "tile metadata"),
        ({"Levels": {"0": {"Resolution": [8, 8, 8], "TileSize": [1, 1, 1 << 20]}}}, "tile metadata"),
        ({str(i): {"Resolution": [8, 8, 8], "TileSize": [1, 1, 1]} for i in range(65)}, "65 scales"),
        (
            {
                "MinTileCoord": [1, 0, 0],
                "MaxTileCoord": [0, 0, 0],
                "Levels": {"0": {"Resolution": [8, 8, 8], "TileSize": [1, 1, 1]}},
            },
            "lies beyond",
        ),
    ],
)
def test_scales_that_are_refused(given, words):
    with pytest.raises(BadRequest, match=words):
        parse_levels(given)


def test_scales_say_again_what_was_given():
    given = {
        "MinTileCoord": [-1, 0, 0],
        "MaxTileCoord": [3, 3, 3],
        "Levels": {
            "0": {"Resolution": [4, 4, 40.5], "TileSize": [128, 128, 16]},
            "1": {"Resolution": [8, 12, 40.5], "TileSize": [128, 64, 16]},
            "2": {"Resolution": [16, 36, 40.5], "TileSize": [128, 64, 16]},
        },
    }
    found = parse_levels(given)
    assert found.described() == given
    assert found.voxels(2) == (4, 9, 1)


def test_suggested_scales_end_with_one_tile():
    for low, high in (((0, 0, 0), (512, 512, 512)), ((-3, 5, 9), (5000, 70, 513)), ((-9000, 0, 0), (9000, 9, 9))):
        found = default_levels(low, high, (8, 8, 40))
        side = 512 << (len(found.levels) - 1)
        spans = [(a // side, (b - 1) // side) for a, b in zip(low, high, strict=True)]
        assert found.min_tile == tuple(a for a, _ in spans)
        assert found.max_tile == tuple(b for _, b in spans)
        assert max(b - a for a, b in spans) <= 1


# ------------------------------------------------------------------ tiles that were put


@pytest.mark.parametrize("format", ["png", "jpg", "lz4"])
def test_put_and_got(repo, format):
    tiles = repo.new_instance("imagetile", "t", {"Format": format})
    tiles.set_levels(levels())
    pixels = noise((16, 16))
    data = encode_tile(pixels, [("uint8", "uint8")]) if format == "lz4" else encode_image(pixels, format)[0]
    tiles.put("xz", 1, (2, -700, 0), data)
    found, media_type = tiles.get("xz", 1, (2, -700, 0))
    if format == "lz4":
        assert media_type == "image/png"
        np.testing.assert_array_equal(decode_image(found), pixels)
    else:
        assert (found, media_type) == (data, {"png": "image/png", "jpg": "image/jpeg"}[format])
    assert tiles.get("xy", 1, (2, -700, 0)) is None
    assert tiles.get("xz", 2, (2, -700, 0)) is None
    tiles.put("xz", 1, (2, -700, 0), b"")
    assert tiles.get("xz", 1, (2, -700, 0)) is None
    with pytest.raises(NotFound, match="no xz tile"):
        tiles.picture("xz", 1, (2, -700, 0))


def test_what_is_no_tile_changes_nothing(tiles):
    good = encode_image(noise((16, 16)), "png")[0]
    tiles.put("xy", 0, (0, 0, 0), good)
    jpeg = encode_image(noise((16, 16)), "jpg")[0]
    for data, error in (
        (b"not an image", BadRequest),
        (jpeg, BadRequest),
        (good[:-20], FormatError),
        (good[:60], FormatError),
        (good[:16] + b"\xff" * 8 + good[24:], FormatError),
    ):
        with pytest.raises(error):
            tiles.put("xy", 0, (0, 0, 0), data)
    at = (0, 0, 0)
    for plane, scale, coord in (("xw", 0, at), ("xy", 256, at), ("xy", 0, (0, 0)), ("xy", 0, (0, 0, 2**31))):
        with pytest.raises(BadRequest):
            tiles.put(plane, scale, coord, good)
    assert tiles.get("xy", 0, (0, 0, 0))[0] == good


def test_a_truncated_jpeg_is_refused(repo):
    tiles = repo.new_instance("imagetile", "t", {"Format": "jpg"})
    data = encode_image(noise((64, 64)), "jpg")[0]
    for cut in (len(data) // 2, len(data) - 2):
        with pytest.raises(FormatError, match="cut off"):
            tiles.put("xy", 0, (0, 0, 0), data[:cut])


def test_versions_have_their_own_tiles(repo, tiles):
    first, second = (encode_image(noise((16, 16), seed=seed), "png")[0] for seed in (1, 2))
    tiles.put("xy", 0, (0, 0, 5), first)
    master = repo["master"]
    master.commit()
    with pytest.raises(LockedVersion):
        tiles.put("xy", 0, (0, 0, 5), second)
    with pytest.raises(LockedVersion):
        tiles.set_levels(levels(8))
    child = master.newversion()["tiles"]
    child.put("xy", 0, (0, 0, 5), second)
    assert tiles.get("xy", 0, (0, 0, 5))[0] == first
    assert child.get("xy", 0, (0, 0, 5))[0] == second
    assert child.describe_change(tile_key(TileId("xy", 0, (0, 0, 5)))) == {"plane": "xy", "scale": 0, "tile": [0, 0, 5]}
    assert child.describe_change(b"J") is None


# ------------------------------------------------------------------ on demand


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint64"])
def test_on_demand_tiles_are_means_of_voxels(repo, dtype):
    image = repo.new_instance(f"{dtype}blk", "image", {"BlockSize": "8,8,8"})
    voxels = noise((16, 48, 64), dtype)
    image.write(voxels, (0, 0, 0))
    tiles = repo.new_instance("imagetile", "t", {"Source": "image", "OnDemand": "true"})
    tiles.set_levels(levels())
    expected = downsample.mean(downsample.mean(voxels[5:6], (1, 2, 2)), (1, 2, 2))[0]
    found = tiles.picture("xy", 2, (0, 0, 5))
    np.testing.assert_array_equal(found[:12], container(expected))
    assert not found[12:, ..., :].any()
    np.testing.assert_array_equal(tiles.picture("yz", 0, (20, 1, 0)), container(voxels[:, 16:32, 20]))
    assert tiles.get("xy", 0, (4, 0, 0)) is None
    assert tiles.get("xy", 0, (0, 0, 16)) is None
    # what is written is seen at once, and a tile that was put wins
    image.write(np.zeros_like(voxels), (0, 0, 0))
    assert not tiles.picture("yz", 0, (20, 1, 0)).any()
    put = encode_image(noise((16, 16)), "png")[0]
    tiles.put("yz", 0, (20, 1, 0), put)
    assert tiles.get("yz", 0, (20, 1, 0))[0] == put


def test_on_demand_scales_come_from_the_image_itself(repo):
    from dvid_dask import ops

    image = repo.new_instance("uint8blk", "image", {"BlockSize": "16,16,16"})
    voxels = noise((64, 600, 1100))
    image.write(voxels, (0, 0, 0))
    tiles = repo.new_instance("imagetile", "t", {"Source": "image", "OnDemand": "true"})
    assert [len(tiles.levels.levels), tiles.levels.max_tile] == [3, (0, 0, 0)]
    flat = tiles.picture("xy", 1, (0, 0, 7))
    np.testing.assert_array_equal(flat[:300, :512], downsample.mean(voxels[7:8], (1, 2, 2))[0][:, :512])
    ops.downres(image, scales=2, progress=False)
    stored = image.read_box((3, 0, 0), (1, 300, 512), 1)[0]
    np.testing.assert_array_equal(tiles.picture("xy", 1, (0, 0, 7))[:300, :512], stored)


def test_a_tile_of_too_many_voxels_says_what_to_do(repo):
    image = repo.new_instance("uint8blk", "image")
    image.write(noise((32, 32, 32)), (0, 0, 0))
    tiles = repo.new_instance("imagetile", "t", {"Source": "image", "OnDemand": "true"})
    tiles.set_levels(levels(512, 6))
    with pytest.raises(BadRequest, match="downres"):
        tiles.get("xy", 5, (0, 0, 0))


def test_nothing_to_make_tiles_of(repo):
    repo.new_instance("uint8blk", "image")
    tiles = repo.new_instance("imagetile", "t", {"Source": "image", "OnDemand": "true"})
    with pytest.raises(BadRequest, match="no tile metadata"):
        tiles.get("xy", 0, (0, 0, 0))
    repo.new_instance("keyvalue", "kv")
    for name, words in (("kv", "not an image"), ("nosuch", "nosuch")):
        other = repo.new_instance("imagetile", f"of-{name}", {"Source": name})
        other.set_levels(levels())
        with pytest.raises(BadRequest, match=words):
            other.read_image("xy", (4, 4), (0, 0, 0))


# ------------------------------------------------------------------ stitched


@pytest.mark.parametrize("typename", ["uint8blk", "uint16blk", "rgba8blk", "uint64blk"])
def test_stitched_images_have_the_pixels_of_the_source(repo, typename):
    image = repo.new_instance(typename, "image")
    tiles = repo.new_instance("imagetile", "t", {"Source": "image"})
    tiles.set_levels(levels())
    like = container(np.zeros((1, 1, *image.layout.tail), image.dtype))
    whole = noise((32, 48, *like.shape[2:]), like.dtype)
    for j in range(2):
        for i in range(3):
            if (i, j) != (1, 1):
                part = whole[16 * j : 16 * j + 16, 16 * i : 16 * i + 16]
                tiles.put("xy", 0, (i, j, 9), encode_image(part, "png")[0])
    whole[16:, 16:32] = 0
    np.testing.assert_array_equal(tiles.read_image("xy", (48, 32), (0, 0, 9)), whole)
    np.testing.assert_array_equal(tiles.read_image("xy", (30, 20), (7, 5, 9)), whole[5:25, 7:37])
    shifted = tiles.read_image("xy", (20, 20), (-10, -10, 9))
    np.testing.assert_array_equal(shifted[10:, 10:], whole[:10, :10])
    assert not shifted[:10].any()


def test_missing_tiles_are_named_by_placeholders(repo):
    repo.new_instance("uint8blk", "image")
    tiles = repo.new_instance("imagetile", "t", {"Source": "image", "Placeholder": "true"})
    tiles.set_levels(levels(200))
    tiles.put("xy", 0, (0, 0, 0), encode_image(np.zeros((200, 200), np.uint8))[0])
    found = tiles.read_image("xy", (400, 200), (0, 0, 0))
    assert not found[:, :200].any()
    assert (found[:, 200:] == 255).mean() > 0.8
    assert (found[:, 200:] < 100).any()


def test_an_image_of_too_many_tiles_is_refused(repo):
    repo.new_instance("uint8blk", "image")
    tiles = repo.new_instance("imagetile", "t", {"Source": "image"})
    tiles.set_levels(levels(1, 1))
    with pytest.raises(BadRequest, match="tiles; at most"):
        tiles.read_image("xy", (1000, 1000), (0, 0, 0))


def test_uncompressed_tiles_are_kept_compressed(repo):
    tiles = repo.new_instance("imagetile", "t", {"Format": "lz4"})
    data = encode_tile(np.zeros((64, 64), np.uint8), [("uint8", "uint8")])
    stored = tiles.checked(data)
    assert len(stored) < len(data) / 10
    assert stored == serialize(data, "lz4")
    np.testing.assert_array_equal(decode_tile(data), 0)
