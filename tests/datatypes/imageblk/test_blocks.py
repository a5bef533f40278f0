"""Blocks of images as they are sent and stored: spans, compressions, boxes too large for memory."""

from __future__ import annotations

import io
import struct
import zlib

import cramjam
import numpy as np
import pytest
from PIL import Image

from dvid_dask.datatypes.imageblk.layout import Layout
from dvid_dask.errors import BadRequest

from .conftest import HIGH, LOW, noise, state


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
