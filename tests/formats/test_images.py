"""Images as their readers see them, resizing against exact fractions, colours against recorded ones."""

import io
from fractions import Fraction

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import images
from dvid_dask.formats.errors import FormatError

from . import reference as ref

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), np.uint8)
GREY16 = RNG.integers(0, 2**16, (5, 7), np.uint16)
RGBA8 = RNG.integers(0, 256, (5, 7, 4), np.uint8)
VALUES32 = RNG.integers(0, 2**32, (5, 7), np.uint32)
LABELS = RNG.integers(0, 2**64, (5, 7), np.uint64)


def bytes_as_channels(values):
    """The little-endian bytes of each value, high byte of a channel first."""
    rows = [[v.tobytes() for v in row] for row in values.astype(values.dtype.newbyteorder("<"))]
    width = values.itemsize // 4
    return np.array(
        [[[int.from_bytes(b[i * width : i * width + width], "big") for i in range(4)] for b in row] for row in rows]
    )


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (GREY8, GREY8),
        (GREY8.view(np.int8), GREY8),
        (GREY16, GREY16),
        (GREY16.astype(">u2"), GREY16),
        (RGBA8, RGBA8),
        (RGBA8[..., :3], RGBA8[..., :3]),
        (VALUES32, bytes_as_channels(VALUES32)),
        (VALUES32.view(np.float32), bytes_as_channels(VALUES32)),
        (LABELS, bytes_as_channels(LABELS)),
        (LABELS.T, bytes_as_channels(LABELS.T)),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_lossless_formats_keep_the_bytes_of_values(pixels, expected):
    png, content_type = images.encode_image(pixels, "png")
    assert content_type == "image/png"
    np.testing.assert_array_equal(imagecodecs.png_decode(png), expected)
    np.testing.assert_array_equal(images.decode_image(png), expected)
    tiff, content_type = images.encode_image(pixels, "tiff")
    assert content_type == "image/tiff"
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(tiff)), expected)


def test_labels_in_a_png():
    image = images.decode_image(images.encode_image(np.array([[0x0807060504030201]], np.uint64))[0])
    assert image.dtype == np.uint16
    assert [hex(v) for v in image[0, 0]] == ["0x102", "0x304", "0x506", "0x708"]


@pytest.mark.parametrize("values", [np.full((3, 4), 2**64 - 1, np.uint64), np.full((3, 4), 0xFF000001, np.uint32)])
def test_maximal_alpha_is_dropped_from_png_only(values):
    assert images.decode_image(images.encode_image(values)[0]).shape == (3, 4, 3)
    assert tifffile.imread(io.BytesIO(images.encode_image(values, "tif")[0])).shape == (3, 4, 4)


def test_bmp():
    for pixels, expected in ((GREY8, GREY8), (RGBA8, RGBA8), (RGBA8[..., :3], RGBA8[..., :3])):
        data, content_type = images.encode_image(pixels, "bmp")
        assert content_type == "image/bmp"
        np.testing.assert_array_equal(imagecodecs.bmp_decode(data), expected)
    assert (imagecodecs.bmp_decode(images.encode_image(GREY16, "bmp")[0])[..., 0] == GREY16 >> 8).all()


def test_jpeg():
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    data, content_type = images.encode_image(smooth, "jpg")
    assert content_type == "image/jpeg"
    decoded = images.decode_image(data)
    assert decoded.shape == smooth.shape
    assert np.abs(decoded.astype(int) - smooth).mean() < 2
    assert len(images.encode_image(smooth, "jpg:20")[0]) < len(data) < len(images.encode_image(smooth, "jpeg:99")[0])
    for quality in ("jpg:-5", "jpg:1000"):
        images.encode_image(smooth, quality)
    colour = images.decode_image(images.encode_image(LABELS, "jpg")[0])
    assert colour.shape == (5, 7, 3)


def test_jpeg_colours_are_premultiplied():
    flat = np.zeros((16, 16, 4), np.uint8)
    flat[...] = 200, 100, 50, 128
    decoded = images.decode_image(images.encode_image(flat, "jpg:100")[0])
    assert np.abs(decoded[8, 8].astype(int) - [100, 50, 25]).max() <= 2


def test_formats():
    assert images.parse_format("PNG:3") == ("png", 3)
    for bad in ("gif", "jpg:high", "png:", "jpg:80:1"):
        with pytest.raises(FormatError):
            images.encode_image(GREY8, bad)
    for shape, dtype in (((4,), np.uint8), ((0, 4), np.uint8), ((4, 4, 5), np.uint8), ((4, 4, 4), np.uint64)):
        with pytest.raises(ValueError):
            images.encode_image(np.zeros(shape, dtype))
    with pytest.raises(ValueError):
        images.encode_image(np.zeros((4, 4), np.complex128))


def test_hostile_images():
    rng = np.random.default_rng(1)
    for data in (images.encode_image(LABELS)[0], images.encode_image(GREY8, "jpg")[0]):
        read = ref.only_format_errors(lambda b: images.decode_image(b, max_pixels=1 << 20), ref.mangled(data, rng))
        assert read > 10
    bomb = bytearray(images.encode_image(GREY8)[0])
    bomb[16:24] = b"\0\1\0\0\0\1\0\0"
    with ref.memory_within(50), pytest.raises(FormatError, match="65536 x 65536"):
        images.decode_image(bytes(bomb))


# ------------------------------------------------------------------ colours and sizes


def murmur3(label):
    """MurmurHash3_x86_32 of eight little-endian bytes, after Austin Appleby's description."""
    mask, h = 0xFFFFFFFF, 0
    for k in (label & mask, label >> 32):
        k = k * 0xCC9E2D51 & mask
        k = (k << 15 | k >> 17) & mask
        h ^= k * 0x1B873593 & mask
        h = (h << 13 | h >> 19) & mask
        h = (h * 5 + 0xE6546B64) & mask
    h ^= 8
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return h ^ h >> 16


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_pseudocolor(labels):
    colours = images.pseudocolor(np.array([labels], np.uint64))
    assert colours.shape == (1, len(labels), 3)
    assert [c.tobytes() for c in colours[0]] == [murmur3(v).to_bytes(4, "big")[:3] for v in labels]


def test_known_colours():
    assert murmur3(0) == 0x63852AFC
    assert images.pseudocolor(np.array([0, 1], np.uint64)).tobytes().hex() == "63852a53075d"


def exact_area(pixels, height, width):
    """Fractions of overlap, rounded down."""
    h, w = pixels.shape
    out = np.zeros((height, width), pixels.dtype)
    for i, j in np.ndindex(height, width):
        total = Fraction(0)
        for y, x in np.ndindex(h, w):
            dy = min(Fraction((i + 1) * h, height), y + 1) - max(Fraction(i * h, height), y)
            dx = min(Fraction((j + 1) * w, width), x + 1) - max(Fraction(j * w, width), x)
            if dx > 0 and dy > 0:
                total += int(pixels[y, x]) * dx * dy
        out[i, j] = int(total * height * width / (h * w))
    return out


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]))
def test_area_weighting_is_exact(data, dtype):
    h, w, height, width = (data.draw(st.integers(1, 6)) for _ in range(4))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    pixels = rng.integers(0, np.iinfo(dtype).max, (h, w, 2), dtype, endpoint=True)
    resized = images.resize_area(pixels, height, width)
    for c in range(2):
        np.testing.assert_array_equal(resized[..., c], exact_area(pixels[..., c], height, width))
    grey = pixels[..., 0].astype(np.float32)
    np.testing.assert_allclose(images.resize_area(grey, height, width), resized[..., 0], atol=1.01, rtol=1e-4)


def test_nearest_makes_no_new_labels():
    resized = images.resize_nearest(LABELS, 13, 3)
    for i, j in np.ndindex(13, 3):
        assert resized[i, j] == LABELS[i * 5 // 13, j * 7 // 3]
    with pytest.raises(TypeError):
        images.resize_area(LABELS.astype(np.int64), 3, 3)
    for bad in ((0, 3), (3, -1), (1 << 40, 1 << 40)):
        with pytest.raises(ValueError):
            images.resize_nearest(GREY8, *bad)
