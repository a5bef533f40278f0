"""Coarse volumes against sets of blocks."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import coarse, rles
from dvid_dask.formats.errors import FormatError

from . import reference as ref

small = st.integers(-4, 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(small, small, small), max_size=40))
def test_round_trip(blocks):
    runs = coarse.rles_from_block_coords(blocks)
    assert ref.are_normal(runs)
    assert ref.voxels_of(runs) == set(blocks)
    back = coarse.decode_coarse(coarse.encode_coarse(blocks))
    assert back.tolist() == [list(b) for b in sorted(set(blocks))]
    ascending = np.array(sorted(blocks), np.int32).reshape(-1, 3)
    assert coarse.rles_from_block_coords(ascending).tolist() == runs.tolist()
    assert coarse.rles_from_block_coords(np.array(blocks, np.int32)).tolist() == runs.tolist()


def test_far_ends():
    far = np.array([[0, 0, -(2**31)], [0, 0, 2**31 - 2], [0, 0, 2**31 - 1]], np.int32)
    assert coarse.rles_from_block_coords(far).tolist() == [[-(2**31), 0, 0, 1], [2**31 - 2, 0, 0, 2]]


def test_streams():
    stream = coarse.encode_coarse_record(2**63, [[3, 2, 1], [3, 2, 2]]) + coarse.encode_coarse_record(9, [])
    assert stream == struct.pack("<Qi4iQi", 2**63, 1, 1, 2, 3, 2, 9, 0)
    assert [(label, runs.tolist()) for label, runs in coarse.iter_coarse_records(stream)] == [
        (2**63, [[1, 2, 3, 2]]),
        (9, []),
    ]


def test_refused_and_hostile():
    with pytest.raises(FormatError), ref.memory_within(50):
        coarse.decode_coarse(rles.encode_rles([[0, 0, 0, 2**31 - 1]]))
    rng = np.random.default_rng(0)
    stream = coarse.encode_coarse_record(4, [[3, 2, 1], [0, 0, 0]]) * 2
    assert ref.only_format_errors(lambda b: list(coarse.iter_coarse_records(b)), ref.mangled(stream, rng)) > 10
    for n in (-1, 2**31 - 1):
        with pytest.raises(FormatError):
            list(coarse.iter_coarse_records(struct.pack("<Qi", 1, n)))
