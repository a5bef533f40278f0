"""Dataframes hold what the other reads say."""

import numpy as np
import pytest

import dvid_dask
from dvid_dask.errors import NotFound

from .model import random_labels


@pytest.fixture
def seg():
    repo = dvid_dask.create("memory://").new_repo("fly")
    return repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})


def test_empty(seg):
    for table in (seg.body_table(), seg.mapping_table(), seg.mutation_table()):
        assert len(table) == 0
    assert seg.body_table().index.dtype == np.uint64
    with pytest.raises(NotFound):
        seg.index_table(1)


def test_tables(seg):
    seg.write(random_labels(1, (32, 32, 16), [1, 2, 2**64 - 2]), (-16, 0, 0))
    merged = seg.merge(1, [2**64 - 2], user="me", app="test")
    bodies = seg.body_table()
    assert bodies.index.tolist() == list(seg.bodies())
    assert bodies["voxels"].to_dict() == dict(seg.bodies_with_sizes())
    assert bodies.loc[1, ["supervoxels", "mutation", "user"]].tolist() == [2, merged, "me"]
    assert seg.body_table(2).index.tolist() == [2]
    index = seg.index_table(1)
    assert index.groupby("supervoxel")["voxels"].sum().to_dict() == seg.supervoxel_table(1)["voxels"].to_dict()
    assert set(index["z"]) == {-1, 0}
    assert set(index["surface"]) == {0, merged} or set(index["surface"]) == {merged}
    assert seg.mapping_table()["body"].to_dict() == {2**64 - 2: 1}
    log = seg.mutation_table()
    assert log.index.tolist() == [merged]
    assert log["action"].tolist() == ["merge"]
    assert log["record"].iloc[0]["Target"] == 1
