from __future__ import annotations

import dask
import numpy as np
import pytest

import dvid_dask


@pytest.fixture(autouse=True)
def _no_cluster():
    """Jobs of a test run in its own thread unless it asks for more: errors keep their traceback."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def repo():
    return dvid_dask.create("memory://").new_repo("fly")


def neurites(shape, seed=0, labels=40, zeros=0.2):
    """Blobs of labels, some of them large numbers, with background between."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, labels, [n // 7 + 2 for n in shape]).astype(np.uint64)
    small[rng.random(small.shape) < zeros] = 0
    names = np.concatenate([[0], np.sort(rng.integers(1, 2**40, labels - 1, dtype=np.uint64))]).astype(np.uint64)
    big = names[small].repeat(7, 0).repeat(7, 1).repeat(7, 2)
    return np.ascontiguousarray(big[: shape[0], : shape[1], : shape[2]])
