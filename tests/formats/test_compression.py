"""Every expansion is bounded, every corruption refused, and DVID's header is DVID's."""

import contextlib
import gzip
import struct
import zlib

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import compression as c
from dvid_dask.formats.errors import FormatError

from . import reference as ref

CODECS = {
    "gzip": (c.gzip_compress, c.gzip_decompress),
    "lz4": (c.lz4_compress, c.lz4_decompress),
    "snappy": (c.snappy_compress, c.snappy_decompress),
    "zstd": (c.zstd_compress, c.zstd_decompress),
}
DATA = [b"", b"a", bytes(100_000), np.random.default_rng(0).bytes(5000), b"supervoxel" * 1000]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("data", DATA, ids=len)
def test_round_trip_up_to_the_limit_and_not_beyond(codec, data):
    compress, decompress = CODECS[codec]
    for packed in (compress(data), compress(memoryview(data)), compress(bytearray(data))):
        assert decompress(packed, len(data)) == data
        assert decompress(memoryview(packed), len(data) + 1000) == data
        if data:
            with pytest.raises(FormatError):
                decompress(packed, len(data) - 1)


@pytest.mark.parametrize("codec", CODECS)
def test_hostile_bytes(codec):
    compress, decompress = CODECS[codec]
    rng = np.random.default_rng(1)
    packed = compress(bytes(3000) + rng.bytes(3000))
    assert ref.only_format_errors(lambda b: decompress(b, 1 << 20), ref.mangled(packed, rng), 100) > 10


@pytest.mark.parametrize("codec", CODECS)
def test_bombs(codec):
    compress, decompress = CODECS[codec]
    bomb = compress(bytes(1 << 28))
    with ref.memory_within(64), pytest.raises(FormatError):
        decompress(bomb, 1 << 20)


def test_other_writers():
    data = DATA[4]
    assert c.gzip_decompress(gzip.compress(data), len(data)) == data
    assert gzip.decompress(c.gzip_compress(data)) == data
    assert c.lz4_decompress(lz4.block.compress(data, store_size=False), len(data)) == data
    assert lz4.block.decompress(c.lz4_compress(data), uncompressed_size=len(data)) == data


def test_gzip_of_several_members_and_of_an_inner_flush():
    parts = [b"a" * 1000, b"", b"b" * 70_000, b"a" * 1000]
    packed = b"".join(gzip.compress(p) for p in parts)
    assert c.gzip_decompress(packed, 72_000) == b"".join(parts)
    with pytest.raises(FormatError):
        c.gzip_decompress(packed, 71_999)
    with pytest.raises(FormatError):
        c.gzip_decompress(packed + b"garbage", 72_000)
    # what DVID sends for mapped blocks: an empty sync-flush block before the trailer
    deflate = zlib.compressobj(wbits=31)
    flushed = deflate.compress(parts[2]) + deflate.flush(zlib.Z_SYNC_FLUSH) + deflate.flush()
    assert c.gzip_decompress(flushed, 70_000) == parts[2]


def test_zstd_frames_without_a_size():
    data = DATA[4]
    packed = bytearray(c.zstd_compress(data))
    # a frame of one raw block, without content size: magic, descriptor, window, block header, data
    raw = b"\x28\xb5\x2f\xfd" + bytes((0, 0x58)) + struct.pack("<I", len(data) << 3 | 1)[:3] + data
    assert c.zstd_decompress(raw, len(data)) == data
    with pytest.raises(FormatError):
        c.zstd_decompress(raw, len(data) - 1)
    with pytest.raises(FormatError):
        c.zstd_decompress(packed[:-1], len(data))


# ------------------------------------------------------------------ DVID's value header


@pytest.mark.parametrize(
    ("compression", "checksum", "first"),
    [
        ("none", "none", 0x00),
        ("none", "crc32", 0x08),
        ("snappy", "none", 0x20),
        ("snappy", "crc32", 0x28),
        ("gzip", "none", 0x40),
        ("gzip", "crc32", 0x40),  # gzip has a checksum of its own
        ("lz4", "none", 0x80),
        ("lz4", "crc32", 0x88),
    ],
)
def test_header_byte(compression, checksum, first):
    value = c.serialize(b"data" * 20, compression, checksum)
    assert value[0] == first
    assert c.deserialize(value, 80) == b"data" * 20
    with pytest.raises(FormatError):
        c.deserialize(value, 79)
    if first & 8:
        assert int.from_bytes(value[1:5], "little") == zlib.crc32(value[5:])
        with pytest.raises(FormatError, match="checksum"):
            c.deserialize(value[:-1] + b"\xff\xff", 80)


def test_lz4_values():
    value = c.serialize(bytes(50), "lz4")
    assert value[:5] == bytes.fromhex("8032000000")
    assert lz4.block.decompress(value[5:], uncompressed_size=50) == bytes(50)
    assert c.deserialize(b"\x80\0\0\0\0old", 10) == b"old"  # a size of 0: stored uncompressed
    with pytest.raises(FormatError):
        c.deserialize(b"\x80\x33" + value[2:], 100)


def test_empty_stays_empty_and_images_are_handed_through():
    assert c.serialize(b"", "lz4", "crc32") == b""
    assert c.deserialize(b"", 0) == b""
    value = c.serialize(b"\xff\xd8jpeg", "jpeg")
    assert value[0] == 0xA0
    assert c.unwrap(value) == ("jpeg", b"\xff\xd8jpeg")
    with pytest.raises(FormatError):
        c.deserialize(value, 100)


def test_unknown_headers_and_names():
    for first in (0x60, 0xC0, 0xE0, 0x10, 0x18, 0x01):
        with pytest.raises(FormatError):
            c.unwrap(bytes((first,)) + b"data")
    with pytest.raises(ValueError):
        c.serialize(b"x", "brotli")
    with pytest.raises(ValueError):
        c.serialize(b"x", "none", "md5")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_value(value):
    with contextlib.suppress(FormatError):
        assert len(c.deserialize(value, 1 << 16)) <= 1 << 16
