"""Uncompressed tiles as DVID packs them: round trips, and bytes of unknown origin."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.placeholder import placeholder
from dvid_dask.formats.tile_payload import decode_tile, encode_tile


@given(
    st.sampled_from(["uint8", "uint16"]),
    st.sampled_from([(), (4,)]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(dtype, tail, height, width, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, np.iinfo(dtype).max, (height, width, *tail), dtype=dtype, endpoint=True)
    data = encode_tile(pixels, [("uint8", "red"), ("float32", "größe")])
    found = decode_tile(data)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)


def test_the_bytes_are_those_of_the_format():
    pixels = np.array([[1, 258]], np.uint16)
    assert encode_tile(pixels, [("uint16", "u")]) == (
        struct.pack("<IhBH", 6, 1, 2, 1) + b"u" + struct.pack("<Biii", 1, 4, 2, 1) + b"\0\1\1\2"
    )


def test_rows_may_be_padded():
    data = struct.pack("<IhBH", 6, 1, 0, 1) + b"u" + struct.pack("<Biii", 0, 5, 2, 2) + bytes([1, 2, 9, 9, 9, 3, 4])
    np.testing.assert_array_equal(decode_tile(data), [[1, 2], [3, 4]])


GOOD = encode_tile(np.arange(12, dtype=np.uint8).reshape(3, 4), [("uint8", "uint8")])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:3],
        GOOD[:20],
        GOOD[:-1],
        b"\xff" * 40,
        GOOD[:4] + struct.pack("<h", 0) + GOOD[6:],
        GOOD[:6] + b"\x0a" + GOOD[7:],
        GOOD[:14] + b"\x04" + GOOD[15:],
        GOOD[:15] + struct.pack("<iii", 3, 4, 3) + GOOD[27:],
        GOOD[:15] + struct.pack("<iii", 4, -4, 3) + GOOD[27:],
        GOOD[:15] + struct.pack("<iii", 2**31 - 1, 2**31 - 1, 2**31 - 1) + GOOD[27:],
    ],
)
def test_damaged_tiles_are_refused(data):
    with pytest.raises(FormatError, match="tile"):
        decode_tile(data)


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_any_bytes_give_pixels_or_a_format_error(junk, cut):
    for data in (junk, GOOD[:cut] + junk):
        with contextlib.suppress(FormatError):
            assert decode_tile(data).size


def test_no_tile_has_signed_pixels():
    with pytest.raises(ValueError, match="no tile"):
        encode_tile(np.zeros((2, 2), np.int8), [("int8", "x")])


def test_placeholders_of_any_size():
    for width, height in ((1, 1), (3, 200), (512, 512)):
        picture = placeholder(width, height, "xz", ["a", "b"])
        assert picture.shape == (height, width)
    assert 0 < np.count_nonzero(picture < 100) < picture.size // 10
    assert np.any(picture != placeholder(512, 512, "xz", ["a", "c"]))
