"""Streams as DVID's clients write and read them, in pieces of any size, cut anywhere."""

import gzip
import io
import struct

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import block_stream as bs
from dvid_dask.formats import label_blocks as lb
from dvid_dask.formats.errors import FormatError

from . import reference as ref

SHAPE = (16, 24, 8)
VOLUME = ref.blobs(np.random.default_rng(0), SHAPE, [0, 4, 2**60])
BLOCK = lb.encode_block(VOLUME)
RECORDS = [(1, -2, 3, b"abc"), (-(2**31), 2**31 - 1, 0, bytes(3_000_000)), (0, 0, 0, b"x")]
STREAM = b"".join(bs.write_record(*r) for r in RECORDS)


class Trickle(io.RawIOBase):
    """A reader that gives less than asked for, as sockets do."""

    def __init__(self, data, step):
        self.inner, self.step = io.BytesIO(data), step

    def read(self, n=-1):
        return self.inner.read(min(n, self.step))


def test_record_layout():
    assert STREAM[:19] == struct.pack("<4i", 1, -2, 3, 3) + b"abc"


@pytest.mark.parametrize("step", [5, 999_999, 1 << 30])
def test_streams_from_any_reader(step):
    assert list(bs.iter_records(Trickle(STREAM, step))) == RECORDS


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=20))
def test_streams_in_any_chunks(cuts):
    small = b"".join(bs.write_record(i, -i, 7, bytes(i + 1)) for i in range(5))
    edges = sorted({min(c, len(small)) for c in cuts} | {0, len(small)})
    parser = bs.RecordParser()
    got = [r for a, b in zip(edges[:-1], edges[1:], strict=True) for r in parser.feed(small[a:b])]
    parser.close()
    assert got == list(bs.iter_records(io.BytesIO(small)))
    assert [r[0] for r in got] == list(range(5))


def test_streams_that_end_early_or_lie():
    stream = bs.write_record(1, 2, 3, b"abc") * 2
    for cut in range(1, len(stream)):
        if cut != 19:
            with pytest.raises(FormatError):
                list(bs.iter_records(io.BytesIO(stream[:cut])))
            parser = bs.RecordParser()
            parser.feed(stream[:cut])
            with pytest.raises(FormatError):
                parser.close()
    for n in (0, -1, bs.MAX_PAYLOAD + 1, 2**31 - 1):
        lie = struct.pack("<4i", 0, 0, 0, n) + b"abc"
        with pytest.raises(FormatError):
            list(bs.iter_records(io.BytesIO(lie)))
        with pytest.raises(FormatError):
            bs.RecordParser().feed(lie)
    with ref.memory_within(50), pytest.raises(FormatError):
        list(bs.iter_records(io.BytesIO(struct.pack("<4i", 0, 0, 0, bs.MAX_PAYLOAD)), bs.MAX_PAYLOAD))


@pytest.mark.parametrize("compression", ["blocks", "gzip", "lz4", "uncompressed"])
def test_payloads(compression):
    payload = bs.block_to_payload(BLOCK, compression)
    assert bs.payload_to_block(payload, compression, SHAPE) == BLOCK
    dense = VOLUME.astype("<u8").tobytes()
    if compression == "blocks":
        assert gzip.decompress(payload) == BLOCK
    elif compression == "gzip":
        assert gzip.decompress(payload) == dense
    elif compression == "lz4":
        assert lz4.block.decompress(payload, uncompressed_size=len(dense)) == dense
    else:
        assert payload == dense
    bodies = lb.labels(BLOCK) + np.uint64(1)
    mapped = bs.payload_to_block(bs.block_to_payload(BLOCK, compression, table=bodies), compression, SHAPE)
    np.testing.assert_array_equal(lb.decode_block(mapped), VOLUME + np.uint64(1))
    for shape in ((16, 16, 16), (16, 24, 16), (8, 8, 8)):
        with pytest.raises(FormatError):
            bs.payload_to_block(payload, compression, shape)
    rng = np.random.default_rng(1)
    read = ref.only_format_errors(lambda b: bs.payload_to_block(b, compression, SHAPE), ref.mangled(payload, rng, 60))
    assert read > 10


def test_the_largest_honest_block_passes():
    volume = np.arange(16**3, dtype=np.uint64).reshape(16, 16, 16)
    payload = bs.block_to_payload(lb.encode_block(volume), "blocks")
    np.testing.assert_array_equal(lb.decode_block(bs.payload_to_block(payload, "blocks", (16, 16, 16))), volume)


def test_bombs_and_unknown_compressions():
    with ref.memory_within(100), pytest.raises(FormatError):
        bs.payload_to_block(gzip.compress(bytes(1 << 28)), "blocks", (64, 64, 64))
    for f in (bs.block_to_payload, lambda b, c: bs.payload_to_block(b, c, SHAPE)):
        with pytest.raises(ValueError):
            f(BLOCK, "zip")
