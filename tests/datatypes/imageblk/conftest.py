"""Images in a datastore of memory, and voxels to put into them."""

from __future__ import annotations

import numpy as np
import pytest

import dvid_dask

LOW, HIGH = -(2**31), 2**31 - 1
TYPES = ["uint8blk", "uint16blk", "uint32blk", "uint64blk", "float32blk", "rgba8blk"]


@pytest.fixture
def repo():
    with dvid_dask.create("memory://", compact="never") as datastore:
        yield datastore.new_repo()


@pytest.fixture
def gray(repo):
    return repo.new_instance("uint8blk", "gray", {"blocksize": "16,16,16"})


def noise(shape, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def state(image):
    """Everything a refused request must leave alone."""
    space = image.view(0)
    return list(space.scan()), image.extents, list(image.mutations())
