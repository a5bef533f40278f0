"""Ids of chunks against a bit-by-bit reading of neuroglancer's page, shards as boxes, and specs that can't be right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.sharding import Sharding, choose_sharding, chunk_ids, chunks_of_ids

grids = st.tuples(*[st.integers(1, 40)] * 3)


def code(chunk_xyz, bits_xyz):
    out = at = 0
    for bit in range(max(bits_xyz)):
        for axis in range(3):
            if bit < bits_xyz[axis]:
                out |= (chunk_xyz[axis] >> bit & 1) << at
                at += 1
    return out


def test_known_code():
    assert code((2, 3, 0), (4, 2, 1)) == 26
    assert chunk_ids([[0, 3, 2]], (2, 4, 16)).tolist() == [26]


@given(grids)
def test_ids_are_bits_woven_as_far_as_each_axis_needs_them(grid):
    chunks = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    chosen = chunks[:: max(1, len(chunks) // 50)]
    bits = [(n - 1).bit_length() for n in grid]
    ids = chunk_ids(chosen, grid)
    assert ids.tolist() == [code(c[::-1], bits[::-1]) for c in chosen.tolist()]
    np.testing.assert_array_equal(chunks_of_ids(ids, grid), chosen)


@given(grids, st.integers(1, 2000))
def test_a_shard_is_a_box_of_chunks(grid, chunks_per_shard):
    sharding = choose_sharding(grid, chunks_per_shard)
    shape = sharding.shard_shape(grid)
    assert np.prod(shape) <= chunks_per_shard
    chunks = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    shard = chunk_ids(chunks, grid) >> np.uint64(sharding.preshift_bits + sharding.minishard_bits)
    boxes = {}
    for number, cell in zip(shard.tolist(), (chunks // shape).tolist(), strict=True):
        assert boxes.setdefault(number, cell) == cell
    assert len({tuple(c) for c in boxes.values()}) == len(boxes)


def test_very_large_grids():
    grid = (1 << 21, 1 << 21, 1 << 22)
    last = [n - 1 for n in grid]
    assert chunk_ids([last], grid).tolist() == [2**64 - 1]
    assert chunks_of_ids([2**64 - 1], grid).tolist() == [last]
    with pytest.raises(ValueError, match="64 bits"):
        chunk_ids([last], (1 << 22, 1 << 22, 1 << 21))


def test_what_lies_outside_is_refused():
    for chunk in ([0, 0, 4], [-1, 0, 0]):
        with pytest.raises(ValueError, match="outside"):
            chunk_ids([chunk], (4, 4, 4))
    with pytest.raises(ValueError, match="grid"):
        chunk_ids([[0, 0, 0]], (4, 0, 4))
    with pytest.raises(FormatError, match="raise shard_bits"):
        Sharding(3, 0, 2).shard_shape((4, 4, 4))


@pytest.mark.parametrize(
    "changed",
    [
        {"@type": "other"},
        {"hash": "murmurhash3_x86_128"},
        {"hash": None},
        {"preshift_bits": -1},
        {"shard_bits": "9"},
        {"shard_bits": 1.5},
        {"minishard_bits": True},
        {"minishard_bits": None},
        {"shard_bits": 64},
    ],
)
def test_specs_that_can_not_be_right(changed):
    with pytest.raises(FormatError):
        Sharding.from_json({**Sharding(9, 6, 5).to_json(), **changed})
    with pytest.raises(FormatError):
        Sharding.from_json([changed])
