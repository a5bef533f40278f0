"""`fsck` looks into volumes: each promise of a labelmap is broken on purpose, and must be told."""

import json

import numpy as np
import pytest

import dvid_dask
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import compress
from dvid_dask.datatypes.labelmap.extents import read_extents
from dvid_dask.datatypes.labelmap.index import Header, Index, Stamp
from dvid_dask.datatypes.labelmap.mapping import set_mapping
from dvid_dask.datatypes.labelmap.rows import Rows
from dvid_dask.formats.label_blocks import encode_block, solid_block


@pytest.fixture
def segmented(tmp_path):
    """A store with a segmentation, edited in a child of its first version and branched again."""
    url = str(tmp_path / "store")
    with dvid_dask.create(url, compact="never") as ds:
        root = ds.new_repo("fly")["master"]
        seg = root.repo.new_instance("labelmap", "seg", {"BlockSize": "16,16,16", "MaxDownresLevel": "2"})
        names = np.arange(1, 65, dtype=np.uint64).reshape(4, 4, 4)
        seg.write(names.repeat(8, 0).repeat(8, 1).repeat(8, 2), (-16, 0, 0))
        root.commit()
        child = root.new_branch("edits")
        child["seg"].merge(1, [2, 3])
        child["seg"].split_supervoxel(9, child["seg"].sparse(9).all_runs()[:10])
        child.commit()
        child.new_branch("more")
    return url


def change(url, fn):
    """Change keys of the edited version behind the back of everything."""
    with dvid_dask.open(url, compact="never") as ds:
        (version,) = [v for v in ds.repos[next(iter(ds.repos))].versions.values() if v.branch == "edits"]
        data = version["seg"]
        data.mutate(lambda _, space: fn(space, data), force=True)


def wrong_voxels(space, data):
    value = space.get(keys.blocks(0, [[0, 0, 0]])[0])
    assert value is not None
    block = data.read((0, 0, 0), (16, 16, 16), supervoxels=True)
    block[0, 0, 0] = 5
    space.put(keys.blocks(0, [[0, 0, 0]])[0], compress(encode_block(block)))


def lost_block(space, data):
    space.delete(keys.blocks(0, [[0, 0, 0]])[0])


def wrong_count(space, data):
    rows = Index(space).rows(40)
    Index(space).update(40, Rows.of(rows.block_zyx, rows.supervoxel, rows.count + 1))


def lost_index(space, data):
    Index(space).delete(40)


def index_of_nothing(space, data):
    Index(space).replace(900, Rows.of([[0, 0, 0]], [900], [7]), Stamp())


def wrong_sum(space, data):
    value = space.get(keys.body(1))
    header, end = Header.decode(value)
    told = Header(header.voxels + 1, header.blocks, header.rows, header.supervoxels, header.buckets, header.stamp)
    space.put(keys.body(1), told.encode() + value[end:])


def wrong_mapping(space, data):
    set_mapping(space, [2], 30)


def retired_with_voxels(space, data):
    set_mapping(space, [30], 0)


def wrong_scale(space, data):
    space.put(keys.blocks(2, [[-1, 0, 0]])[0], compress(solid_block(4, (16, 16, 16))))


def lost_scale(space, data):
    space.delete(keys.blocks(1, [[-1, 0, 0]])[0])


def damaged_block(space, data):
    space.put(keys.blocks(0, [[0, 0, 0]])[0], b"rubbish")


def damaged_index(space, data):
    space.put(keys.body(40), b"rubbish")


DAMAGE = {
    wrong_voxels: "index",
    lost_block: "index",
    wrong_count: "index",
    lost_index: "index",
    index_of_nothing: "index",
    wrong_sum: "sums",
    wrong_mapping: "mapping",
    retired_with_voxels: "mapping",
    wrong_scale: "scale",
    lost_scale: "scale",
    damaged_block: "can't be read",
    damaged_index: "can't be read",
}


def test_all_is_well(cli, segmented):
    told = json.loads(cli("fsck", segmented, "--json").out)["contents"]
    # of three versions one holds what its parent holds
    assert told == {"problems": [], "checked": 2, "same_as_parent": 1}
    with dvid_dask.open(segmented) as ds:
        assert read_extents(ds.repos[next(iter(ds.repos))]["edits"]["seg"].view()) is not None


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_what_disagrees_is_told(cli, segmented, damage):
    change(segmented, damage)
    failed = cli("fsck", segmented, "--json", code=1)
    assert "disagree" in failed.err
    problems = json.loads(failed.out)["contents"]["problems"]
    assert any(f": {DAMAGE[damage]}" in text for text in problems), problems
    assert all("seg at version" in text for text in problems)
    assert "contents" not in json.loads(cli("fsck", segmented, "--json", "--quick").out)
