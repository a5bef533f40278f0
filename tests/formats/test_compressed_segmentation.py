"""Neuroglancer's format against its published Python codec, both ways, and DVID's recorded bytes."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import compressed_segmentation as cs
from dvid_dask.formats import label_blocks as lb
from dvid_dask.formats.errors import FormatError

from . import reference as ref
from .test_label_blocks import volumes


def published():
    return pytest.importorskip("compressed_segmentation")


@settings(max_examples=40, deadline=None)
@given(volumes())
def test_the_published_codec_reads_ours(volume):
    codec = published()
    data = cs.encode(volume)
    theirs = codec.decompress(data, volume.shape[::-1], np.uint64, block_size=(8, 8, 8), order="F")
    np.testing.assert_array_equal(theirs.reshape(volume.shape[::-1]).T, volume)
    np.testing.assert_array_equal(cs.decode(data, volume.shape), volume)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(8, 8, 8), (4, 8, 16), (3, 5, 7)]), st.sampled_from([2, 5, 30, 400]))
def test_we_read_the_published_codec(seed, block, labels):
    codec = published()
    rng = np.random.default_rng(seed)
    volume = ref.blobs(rng, tuple(rng.integers(1, 30, 3)), rng.integers(0, 2**64, labels, np.uint64), 2)
    data = codec.compress(np.asfortranarray(volume.T), block_size=block[::-1], order="F")
    np.testing.assert_array_equal(cs.decode(data, volume.shape, block), volume)


def test_recorded_bytes():
    for v in ref.vectors("block"):
        if "google_cseg_gz64" not in v:
            continue
        volume = lb.decode_block(ref.gz64(v["serialized_gz64"]))
        theirs = b"\1\0\0\0" + ref.gz64(v["google_cseg_gz64"])  # recorded without the channel's offset
        np.testing.assert_array_equal(cs.decode(theirs, volume.shape), volume)
        assert cs.encode(volume) == theirs, v["name"]


def test_worked_examples():
    volume = np.zeros((8, 8, 8), np.uint64)
    assert cs.encode(volume) == bytes.fromhex("01000000 02000000 02000000 0000000000000000")
    volume[0, 0, :2] = 5, 7
    data = cs.encode(volume)
    assert data[:16] == bytes.fromhex("01000000 22000002 02000000 a4aaaaaa")
    assert data[-24:] == struct.pack("<3Q", 5, 7, 0)


def test_strides():
    volume = ref.blobs(np.random.default_rng(0), (16, 24, 8), [0, 1, 2, 3, 4])
    for same in (np.asfortranarray(volume), np.pad(volume, 1)[1:-1, 1:-1, 1:-1], volume.astype(">u8")):
        assert cs.encode(same) == cs.encode(volume)


def test_what_does_not_fit():
    for shape in ((8, 8, 7), (8, 0, 8)):
        with pytest.raises(ValueError):
            cs.encode(np.zeros(shape, np.uint64))
    noise = np.arange(200**3, dtype=np.uint64).reshape(200, 200, 200)
    with pytest.raises(ValueError, match="64 MiB"):
        cs.encode(noise)


def test_refused_and_hostile():
    volume = ref.blobs(np.random.default_rng(1), (16, 16, 16), [0, 1, 2, 3, 4], 3)
    data = cs.encode(volume)
    for bad in (b"", data[:3], data[:40], b"\0\0\0\0" + data[4:], data[:7] + b"\3" + data[8:]):
        with pytest.raises(FormatError):
            cs.decode(bad, volume.shape)
    with pytest.raises(FormatError), ref.memory_within(50):
        cs.decode(data, (4096, 4096, 4096))
    with pytest.raises(FormatError), ref.memory_within(50):
        cs.decode(data, (1024, 1024, 1000))
    rng = np.random.default_rng(2)
    assert ref.only_format_errors(lambda b: cs.decode(b, volume.shape), ref.mangled(data, rng)) > 10


@settings(max_examples=40, deadline=None)
@given(volumes(), st.integers(1, 40), st.data())
def test_label_blocks_become_chunks_as_their_voxels_do(volume, bodies, data):
    """Straight from the block, with labels mapped and the end cut off: what the published codec reads is the voxels."""
    codec = published()
    block = lb.encode_block(volume)
    table = lb.labels(block) % np.uint64(bodies)
    shape = tuple(data.draw(st.integers(1, n)) for n in volume.shape)
    chunk = cs.from_label_block(block, table, shape)
    expected = (volume % np.uint64(bodies))[tuple(slice(0, n) for n in shape)]
    if chunk is None:
        assert not expected.any()
        return
    theirs = codec.decompress(chunk, shape[::-1], np.uint64, block_size=(8, 8, 8), order="F")
    np.testing.assert_array_equal(theirs.reshape(shape[::-1]).T, expected)
    np.testing.assert_array_equal(cs.decode(chunk, shape), expected)


def test_label_blocks_of_other_writers():
    """Duplicates in the table, sub-blocks without any label: the recorded blocks have them."""
    for v in ref.vectors("block"):
        if "serialized_gz64" not in v:
            continue
        block = ref.gz64(v["serialized_gz64"])
        volume = lb.decode_block(block)
        chunk = cs.from_label_block(block)
        if chunk is None:
            assert not volume.any()
        else:
            np.testing.assert_array_equal(cs.decode(chunk, volume.shape), volume)
            assert len(chunk) <= len(cs.encode(volume)) or len(np.unique(lb.labels(block))) > len(np.unique(volume))


def test_bad_label_blocks_are_refused():
    block = lb.encode_block(ref.blobs(np.random.default_rng(1), (16, 16, 16), [0, 1, 2, 3, 4], 3))
    with pytest.raises(ValueError, match="voxels"):
        cs.from_label_block(block, shape_zyx=(17, 8, 8))
    with pytest.raises(ValueError, match="voxels"):
        cs.from_label_block(block, shape_zyx=(0, 8, 8))
    with pytest.raises(ValueError, match="table"):
        cs.from_label_block(block, [1])
    with pytest.raises(FormatError):
        cs.from_label_block(block[:-1])
    assert ref.only_format_errors(cs.from_label_block, ref.mangled(block, np.random.default_rng(2))) > 10
