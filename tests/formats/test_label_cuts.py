"""Cuts inside label blocks against dense arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.formats import label_blocks, rles
from dvid_dask.formats.label_cuts import cut_block, labels_under, map_labels

SHAPE = (16, 16, 24)


@st.composite
def dense_and_mask(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.choice(np.array([0, 5, 9, 2**63, 2**64 - 2], np.uint64), SHAPE)
    if draw(st.booleans()):
        labels[:8] = 5
    mask = rng.random(SHAPE) < draw(st.sampled_from([0.01, 0.5, 1.0]))
    start = tuple(draw(st.sampled_from([-1, 0, 3])) * n for n in SHAPE)
    return labels, mask, start


@settings(max_examples=40, deadline=None)
@given(dense_and_mask())
def test_cut_is_what_the_dense_arrays_say(drawn):
    labels, mask, start = drawn
    runs = rles.rles_from_mask(mask, start)
    block = label_blocks.encode_block(labels)
    old = np.array([5, 2**64 - 2], np.uint64)
    split, remain = np.array([100, 102], np.uint64), np.array([101, 103], np.uint64)
    new, done, others = cut_block(block, runs, start, old, split, remain)
    expected = labels.copy()
    for o, s, r in zip(old, split, remain, strict=True):
        expected[(labels == o) & mask], expected[(labels == o) & ~mask] = s, r
    assert (label_blocks.decode_block(new) == expected).all()
    assert done.tolist() == [int(((labels == o) & mask).sum()) for o in old]
    assert others == int((mask & ~np.isin(labels, old)).sum())
    joined = map_labels(new, np.array([100, 101, 102, 103], np.uint64), np.repeat(old, 2))
    assert (label_blocks.decode_block(joined) == labels).all()


@settings(max_examples=40, deadline=None)
@given(dense_and_mask())
def test_labels_under_runs_come_in_the_order_met(drawn):
    labels, mask, start = drawn
    runs = rles.rles_from_mask(mask, start)
    found, voxels = labels_under(label_blocks.encode_block(labels), runs, start)
    met = list(dict.fromkeys(labels[mask].tolist()))
    assert found.tolist() == met
    assert voxels.tolist() == [int((labels[mask] == np.uint64(m)).sum()) for m in met]


def test_a_damaged_block_is_refused():
    block = label_blocks.encode_block(np.arange(16**3, dtype=np.uint64).reshape(16, 16, 16))
    with pytest.raises(ValueError, match="label block"):
        labels_under(block[:-1], np.array([[0, 0, 0, 16]], np.int32), (0, 0, 0))
