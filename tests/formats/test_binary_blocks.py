"""Blocks of bits against runs of the same voxels."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings

from dvid_dask.formats import binary_blocks as bb
from dvid_dask.formats import label_blocks as lb
from dvid_dask.formats import rles
from dvid_dask.formats.errors import FormatError

from . import reference as ref
from .test_label_blocks import foreign_block
from .test_rles import bodies


def example():
    volume = np.zeros((16, 16, 16), np.uint64)
    volume[0, 0, :2] = volume[0, 1, 0] = 5
    volume[:8, :8, 8:] = 5
    return lb.encode_block(volume)


def test_layout():
    expected = (
        "02000000 02000000 02000000 0500000000000000 10000000 20000000 30000000 02"
        + " 02 03 01" + "00" * 62 + "01" + "00" * 6
    )  # fmt: skip
    assert bb.encode([example()], [[3, 2, 1]], 5) == bytes.fromhex(expected)
    assert bb.encode([example()], [[3, 2, 1]], 6) == b""
    assert bb.encode([], [], 6) == b""


@settings(max_examples=60, deadline=None)
@given(bodies())
def test_the_same_voxels_as_runs(body):
    blocks, positions, shape, _, _, wanted = body
    data = bb.encode(blocks, positions, 77, wanted)
    runs = rles.rles_from_blocks(blocks, positions, wanted)
    np.testing.assert_array_equal(bb.to_rles(data), runs)
    if len(runs):
        assert bb.decode_header(data) == (shape, 77)
    else:
        assert data == b""


def test_recorded():
    blocks = {v["name"]: ref.gz64(v["serialized_gz64"]) for v in ref.vectors("block")}
    for v in ref.vectors("sparse"):
        if "bounded" in v["name"]:
            continue
        given_blocks = [blocks[b["block"]] for b in v["blocks"]]
        data = bb.encode(given_blocks, [b["coord"][::-1] for b in v["blocks"]], v["labels"][0], v["labels"])
        theirs = ref.gz64(v["binary_blocks_gz64"])
        assert hashlib.sha256(theirs).hexdigest() == v["binary_blocks_sha256"]
        np.testing.assert_array_equal(bb.to_rles(data), bb.to_rles(theirs), v["name"])
        assert data == theirs, v["name"]


def test_labels_that_are_twice_in_the_table_count_twice():
    """DVID honours only one of the entries."""
    block, volume = foreign_block()
    data = bb.encode([block], [[0, 0, 0]], 5)
    assert rles.voxel_count(bb.to_rles(data)) == (volume == 5).sum()
    data = bb.encode([block], [[0, 0, 0]], 0)
    assert rles.voxel_count(bb.to_rles(data)) == (volume == 0).sum()
    every = bb.encode([block], [[0, 0, 0]], 1, [0, 5, 9])
    assert len(every) == 20 + 13  # all voxels: one flag


def test_refused():
    data = bb.encode([example()], [[3, 2, 1]], 5)
    for bad in (
        data[:19],
        data[:25],
        data[:-1],
        data[:32] + b"\3" + data[33:],
        data[:33] + b"\3" + data[34:],
        struct.pack("<3IQ", 129, 1, 1, 5) + data[20:],
        struct.pack("<3IQ", 0, 1, 1, 5) + data[20:],
        struct.pack("<3IQ", 128, 128, 128, 5) + data[20:],
        data[:20] + struct.pack("<3i", 2**31 - 8, 0, 0) + data[32:],
    ):
        with pytest.raises(FormatError), ref.memory_within(100):
            bb.to_rles(bad)
    with pytest.raises(ValueError):
        bb.encode([example(), lb.solid_block(5, (8, 8, 8))], [[0, 0, 0], [0, 0, 1]], 5)


def test_hostile_bytes():
    rng = np.random.default_rng(0)
    data = bb.encode([example(), lb.solid_block(5, (16, 16, 16))], [[3, 2, 1], [3, 2, 2]], 5)
    assert ref.only_format_errors(lambda b: bb.to_rles(b, max_voxels=1 << 20), ref.mangled(data, rng, 60)) > 10
