"""Bulk work on the older label types: what they share with labelmap."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from dvid_dask import ops
from dvid_dask.errors import NotSupported
from tests.ops.conftest import neurites

SHAPE, OFFSET = (48, 64, 80), (-16, 32, 64)


def array_of(repo, levels=2):
    return repo.new_instance("labelarray", "array", {"BlockSize": "16,16,16", "MaxDownresLevel": str(levels)})


def test_a_volume_goes_into_a_labelarray_and_out_again(repo, tmp_path):
    seg, volume = array_of(repo), neurites(SHAPE)
    ops.ingest(volume, seg, offset=OFFSET, brick_edge=32, progress=False)
    assert np.array_equal(seg.read(OFFSET, SHAPE), volume)
    assert list(seg.verify()) == []
    assert seg.max_label() == seg.next_labels.largest == int(volume.max())
    ops.export(seg, str(tmp_path / "out"), progress=False)
    back = zarr.open_group(str(tmp_path / "out"), mode="r")
    first = next(array for _, array in back.arrays() if array.shape[-3:] == SHAPE)
    assert np.array_equal(first[:].reshape(SHAPE), volume)


def test_a_load_into_a_child_is_the_childs_own(repo):
    seg = array_of(repo)
    ops.ingest(np.full((16, 16, 16), 900, np.uint64), seg, progress=False)
    seg.version.commit("loaded")
    child = seg.version.newversion()["array"]
    assert child.max_label() == 0
    ops.ingest(np.full((16, 16, 16), 7, np.uint64), child, offset=(16, 0, 0), progress=False)
    assert (child.max_label(), child.next_labels.largest) == (7, 900)


def test_what_follows_a_labelblk_is_in_line_when_a_load_ends(repo):
    blk, vol = repo.new_instance("labelblk", "voxels"), repo.new_instance("labelvol", "volumes")
    half = repo.new_instance("labelblk", "half")
    blk.set_syncs(["volumes"])
    vol.set_syncs(["voxels"])
    half.set_syncs(["voxels"])
    volume = neurites((64, 64, 96))
    ops.ingest(volume, blk, brick_edge=32, progress=False)
    assert np.array_equal(blk.read((0, 0, 0), volume.shape), volume)
    assert list(vol.disagreements()) == []
    label = int(volume[volume > 0][0])
    assert vol.size(label) == int((volume == label).sum())
    assert np.count_nonzero(half.read((0, 0, 0), (32, 32, 48)))


def test_a_load_into_a_labelarray_can_be_undone(repo):
    seg = array_of(repo)
    before = neurites(SHAPE)
    ops.ingest(before, seg, offset=OFFSET, progress=False)
    ops.ingest(np.full(SHAPE, 5, np.uint64), seg, offset=OFFSET, progress=False)
    seg.undo(list(seg.undoable())[-1].id)
    assert np.array_equal(seg.read(OFFSET, SHAPE), before)
    assert list(seg.verify()) == []


def test_they_are_brought_into_a_labelmap(repo):
    old = array_of(repo)
    ops.ingest(neurites(SHAPE), old, offset=OFFSET, progress=False)
    old.merge(1, [2, 3])
    new = repo.new_instance("labelmap", "new", {"BlockSize": "32,32,32", "MaxDownresLevel": "1"})
    ops.ingest(old, new, offset=OFFSET, progress=False)
    assert np.array_equal(new.read(OFFSET, SHAPE), old.read(OFFSET, SHAPE))
    assert list(new.bodies()) == list(old.bodies())


def test_coarser_scales_index_statistics_and_meshes(repo, tmp_path):
    seg, volume = array_of(repo), neurites(SHAPE)
    seg.write(volume, OFFSET)
    ops.downres(seg, progress=False)
    assert list(seg.verify()) == []
    assert ops.check_index(seg, progress=False).ok
    table = ops.body_statistics(seg).compute()
    assert table.index.tolist() == list(seg.bodies())
    assert table.voxels.tolist() == seg.sizes(table.index.to_numpy()).tolist()
    report = ops.mesh(seg, str(tmp_path / "meshes"), labels=list(seg.bodies())[:2], progress=False)
    assert report.labels == 2


def test_a_publication_follows_merges(repo, tmp_path):
    seg = array_of(repo, levels=0)
    seg.write(neurites(SHAPE), OFFSET)
    seg.version.commit("first")
    ops.publish(seg, str(tmp_path / "out"), progress=False)
    second = seg.version.newversion()["array"]
    bodies = list(second.bodies())
    second.merge(bodies[0], bodies[1:3])
    second.version.commit("second")
    report = ops.publish(second, str(tmp_path / "out"), progress=False)
    found = next(array for _, array in zarr.open_group(report.destination, mode="r").arrays())
    assert np.array_equal(found[:].reshape(SHAPE), second.read(OFFSET, SHAPE))


def test_jobs_on_supervoxels_are_refused(repo):
    seg = array_of(repo)
    seg.write(np.ones((16, 16, 16), np.uint64), (0, 0, 0))
    with pytest.raises(NotSupported):
        ops.agglomerate(seg, {1: 2}, progress=False)
