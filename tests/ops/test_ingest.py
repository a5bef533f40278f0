"""Ingest against a dense numpy model: voxels of all scales, every row of the label index, sizes, extents, counters."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.errors import BadRequest, LockedVersion, NotSupported
from tests.ops.conftest import neurites
from tests.ops.model import World


def labelmap(repo, block=16, levels=2, name="seg", **settings):
    return repo.new_instance(
        "labelmap", name, {"BlockSize": ",".join([str(block)] * 3), "MaxDownresLevel": str(levels), **settings}
    )


@pytest.mark.parametrize("edge", [None, 16, 32, 64])
@pytest.mark.parametrize("offset", [(0, 0, 0), (-64, 32, 4096)])
def test_all_scales_and_index_are_those_of_the_model(repo, offset, edge):
    seg = labelmap(repo, levels=3)
    volume = neurites((96, 64, 80))
    report = ops.ingest(volume, seg, offset=offset, brick_edge=edge, progress=False)
    world = World(offset, volume.shape, (16, 16, 16), 3)
    world.write(volume, offset)
    world.check(seg)
    labels, counts = np.unique(volume[volume > 0], return_counts=True)
    assert seg.sizes(labels).tolist() == counts.tolist()
    assert report.voxels == volume.size
    assert report.max_label == labels[-1]
    assert seg.next_labels.largest >= labels[-1]
    assert seg.extents.start == offset
    assert seg.extents.stop == tuple(o + n for o, n in zip(offset, volume.shape, strict=True))
    assert ops.unfinished_jobs(seg) == {}


@settings(max_examples=15, deadline=None)
@given(
    first=st.tuples(*[st.integers(-40, 40)] * 3),
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    again=st.tuples(*[st.integers(-40, 60)] * 3),
    patch=st.tuples(*[st.integers(1, 60)] * 3),
    levels=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_any_box_over_any_other(first, shape, again, patch, levels, seed):
    """Boxes that cut blocks in two, overlap, leave holes; bricks smaller than needed for all scales at once."""
    repo = dvid_dask.create("memory://").new_repo("fly")
    seg = labelmap(repo, levels=levels)
    low = np.minimum(first, again)
    high = np.maximum(np.add(first, shape), np.add(again, patch))
    world = World(low.tolist(), (high - low).tolist(), (16, 16, 16), levels)
    for offset, size, number in ((first, shape, seed), (again, patch, seed + 1)):
        volume = neurites(size, number, labels=9, zeros=0.5)
        ops.ingest(volume, seg, offset=offset, brick_edge=32, progress=False)
        world.write(volume, offset)
        world.check(seg)


def test_reingest_after_merge_and_cleave_keeps_the_index_exact(repo):
    seg = labelmap(repo)
    volume = neurites((64, 64, 64))
    ops.ingest(volume, seg, progress=False)
    labels = np.unique(volume[volume > 0]).tolist()
    seg.merge(labels[0], labels[1:10])
    seg.cleave(labels[0], labels[3:5])
    patch = neurites((40, 33, 21), seed=5)
    world = World((0, 0, 0), volume.shape, (16, 16, 16), 2)
    world.write(volume, (0, 0, 0))
    world.write(patch, (7, 0, 13))
    ops.ingest(patch, seg, offset=(7, 0, 13), progress=False)
    world.check(seg)
    merged = [v for v in labels[:10] if v not in labels[3:5]]
    assert seg.size(labels[0]) == int(np.isin(world.voxels, merged).sum())


def test_voxels_of_a_retired_supervoxel_are_refused(repo):
    seg = labelmap(repo)
    volume = np.full((32, 32, 32), 7, np.uint64)
    ops.ingest(volume, seg, progress=False)
    runs = seg.sparse(7, supervoxels=True).all_runs()
    seg.split_supervoxel(7, runs[: len(runs) // 2])
    before = seg.read((0, 0, 0), volume.shape, supervoxels=True)
    with pytest.raises((BadRequest, ops.JobFailedError), match="retired"):
        ops.ingest(volume, seg, progress=False)
    assert (seg.read((0, 0, 0), volume.shape, supervoxels=True) == before).all()
    assert not list(seg.disagreements())


def test_overwriting_with_background_removes_everything(repo):
    seg = labelmap(repo)
    ops.ingest(neurites((48, 48, 48)), seg, progress=False)
    ops.ingest(np.zeros((48, 48, 48), np.uint64), seg, progress=False)
    World((0, 0, 0), (48, 48, 48), (16, 16, 16), 2).check(seg)
    assert not list(seg.view(0).keys(b"B"))


def test_label_offset_leaves_background_alone(repo):
    seg = labelmap(repo)
    volume = neurites((32, 32, 32), labels=5).astype(np.uint64)
    ops.ingest(volume, seg, label_offset=1000, progress=False)
    np.testing.assert_array_equal(seg.read((0, 0, 0), volume.shape), np.where(volume, volume + 1000, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_narrow_labels_become_wide(repo, dtype):
    seg = labelmap(repo)
    volume = (neurites((32, 32, 32)) % 200).astype(dtype)
    ops.ingest(volume, seg, progress=False)
    np.testing.assert_array_equal(seg.read((0, 0, 0), volume.shape), volume)


def test_a_dask_array_is_computed_chunk_by_chunk_once(repo):
    seg = labelmap(repo)
    volume = neurites((70, 64, 50))
    reads = []

    def chunk(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    lazy = da.from_array(volume, chunks=(30, 64, 17)).map_blocks(chunk, dtype=np.uint64, meta=np.empty((0, 0, 0), "u8"))
    ops.ingest(lazy, seg, crop=((1, 0, 2), (70, 60, 50)), brick_edge=32, progress=False)
    np.testing.assert_array_equal(seg.read((0, 0, 0), (69, 60, 48)), volume[1:70, :60, 2:50])
    assert len(reads) == len(set(reads)) == 9


def test_an_unindexed_instance_gets_no_index(repo):
    seg = labelmap(repo, IndexedLabels="false")
    ops.ingest(neurites((32, 32, 32)), seg, progress=False)
    assert not list(seg.view(0).keys(b"I"))
    assert list(seg.view(0).keys(b"B"))


def test_a_child_version_changes_and_its_parent_does_not(repo):
    seg = labelmap(repo)
    volume = neurites((48, 48, 48))
    ops.ingest(volume, seg, progress=False)
    repo["master"].commit()
    child = repo["master"].newversion()["seg"]
    patch = np.full((16, 16, 16), 5, np.uint64)
    ops.ingest(patch, child, offset=(16, 16, 16), progress=False)
    world = World((0, 0, 0), volume.shape, (16, 16, 16), 2)
    world.write(volume, (0, 0, 0))
    world.check(seg)
    world.write(patch, (16, 16, 16))
    world.check(child)


def test_the_mutation_log_says_what_was_ingested(repo):
    seg = labelmap(repo)
    ops.ingest(neurites((32, 32, 32)), seg, offset=(0, 16, 32), progress=False, user="anna", app="test")
    (record,) = seg.history()
    assert (record.user, record.app) == ("anna", "test")
    assert record.record["Offset"] == [32, 16, 0]
    assert record.record["MutationID"] == record.id


@pytest.mark.parametrize("typename", ["labelmap", "uint8blk"])
def test_instances_that_follow_are_told_in_the_same_commit(repo, monkeypatch, typename):
    notes = repo.new_instance("keyvalue", "notes")
    monkeypatch.setattr(type(notes), "sync_partners", frozenset("*"))
    heard = []

    def on_event(self, m, event):
        m.space(self).put(b"kheard", b"")
        heard.append(event)

    monkeypatch.setattr(type(notes), "on_event", on_event)
    target = repo.new_instance(typename, "volume", {"BlockSize": "16,16,16"})
    notes.set_syncs(["volume"])
    volume = np.ones((64, 16, 16), np.uint64 if typename == "labelmap" else np.uint8)
    ops.ingest(volume, target, brick_edge=32, progress=False)
    if typename == "labelmap":
        told = [tuple(b) for e in heard for b in e.block_zyx.tolist()]
    else:
        told = [(z, 0, 0) for e in heard for z in range(e.start[0] // 16, e.stop[0] // 16)]
    assert sorted(told) == [(z, 0, 0) for z in range(4)]
    assert repo["master"]["notes"].view(0).get(b"kheard") == b""


# ------------------------------------------------------------------ images


def mean_pyramid(volume, levels):
    out = [volume]
    for _ in range(levels):
        v = out[-1].astype(np.float64)
        z, y, x = (-(-n // 2) for n in v.shape)
        total, count = np.zeros((z, y, x)), np.zeros((z, y, x))
        for i in range(8):
            part = v[i >> 2 :: 2, (i >> 1) & 1 :: 2, i & 1 :: 2]
            a, b, c = part.shape
            total[:a, :b, :c] += part
            count[:a, :b, :c] += 1
        out.append(np.rint(total / count).astype(volume.dtype))
    return out


@pytest.mark.parametrize("edge", [None, 32])
def test_image_scales_are_means_and_borders_do_not_fade(repo, edge):
    image = repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    rng = np.random.default_rng(0)
    volume = rng.integers(100, 255, (75, 64, 41), dtype=np.uint8)
    ops.ingest(volume, image, scales=3, brick_edge=edge, progress=False)
    for scale, expected in enumerate(mean_pyramid(volume, 3)):
        np.testing.assert_array_equal(image.read_box((0, 0, 0), expected.shape, scale=scale), expected)
    assert image.extents == ((0, 0, 0), volume.shape)
    assert image.scales() == [0, 1, 2, 3]


def test_image_patch_updates_all_scales_and_nothing_else(repo):
    image = repo.new_instance("uint16blk", "gray", {"BlockSize": "16,16,16"})
    rng = np.random.default_rng(1)
    volume = rng.integers(0, 60000, (64, 48, 80), dtype=np.uint16)
    ops.ingest(volume, image, scales=2, progress=False)
    patch = rng.integers(0, 60000, (9, 21, 40), dtype=np.uint16)
    ops.ingest(patch, image, offset=(11, 20, 30), brick_edge=16, progress=False)
    volume[11:20, 20:41, 30:70] = patch
    for scale, expected in enumerate(mean_pyramid(volume, 2)):
        np.testing.assert_array_equal(image.read_box((0, 0, 0), expected.shape, scale=scale), expected)


def test_image_at_an_odd_negative_offset(repo):
    image = repo.new_instance("uint8blk", "gray", {"BlockSize": "16,16,16"})
    volume = np.full((20, 20, 20), 200, np.uint8)
    ops.ingest(volume, image, offset=(-7, -7, 3), scales=1, progress=False)
    np.testing.assert_array_equal(image.read_box((-4, -4, 1), (11, 11, 11), scale=1), np.full((11, 11, 11), 200))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("volume", "options", "message"),
    [
        (np.zeros((8, 8, 8), np.float32), {}, "unsigned"),
        (np.zeros((8, 8, 8), np.int64), {}, "dtype='uint64'"),
        (np.zeros((8, 8), np.uint64), {}, "three dimensions"),
        (np.zeros((8, 0, 8), np.uint64), {}, "at least 1"),
        (np.zeros((8, 8, 8), np.uint64), {"crop": ((0, 0, 0), (9, 8, 8))}, "can't crop"),
        (np.zeros((8, 8, 8), np.uint64), {"crop": ((-1, 0, 0), (8, 8, 8))}, "can't crop"),
        (np.zeros((8, 8, 8), np.uint64), {"crop": ((4, 0, 0), (4, 8, 8))}, "can't crop"),
        (np.zeros((8, 8, 8), np.uint64), {"offset": (2**31 - 4, 0, 0)}, "range of coordinates"),
        (np.zeros((8, 8, 8), np.uint64), {"offset": (-(2**31) - 1, 0, 0)}, "range of coordinates"),
        (np.zeros((8, 8, 8), np.uint64), {"offset": (2**30, 0, 0)}, "label index"),
        (np.zeros((8, 8, 8), np.uint64), {"offset": (0, 0)}, "offset"),
        (np.zeros((8, 8, 8), np.uint64), {"scales": 3}, "MaxDownresLevel"),
        (np.zeros((8, 8, 8), np.uint64), {"scales": -1}, "MaxDownresLevel"),
        (np.zeros((8, 8, 8), np.uint64), {"label_offset": -1}, "0 or more"),
        (np.full((8, 8, 8), 2**64 - 1, np.uint64), {}, "reserved"),
        (np.full((8, 8, 8), 2**63, np.uint64), {"label_offset": 2**63 - 1}, "reserved"),
        (object(), {}, "can't read a volume"),
    ],
)
def test_bad_input_changes_nothing(repo, volume, options, message):
    seg = labelmap(repo)
    with pytest.raises(BadRequest, match=message):
        ops.ingest(volume, seg, progress=False, **options)
    assert all(key.startswith(b"J") for key, _ in seg.view(0).scan())
    assert seg.next_labels.largest == 0


def test_negative_values_are_refused_when_converted(repo):
    seg = labelmap(repo)
    with pytest.raises(BadRequest, match="don't fit"):
        ops.ingest(np.full((8, 8, 8), -1), seg, dtype="uint64", progress=False)


def test_a_committed_version_is_refused_before_anything_is_read(repo):
    seg = labelmap(repo)
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        ops.ingest("/nowhere.npy", seg, progress=False)


def test_images_take_their_own_type_only(repo):
    image = repo.new_instance("uint8blk", "gray")
    with pytest.raises(BadRequest, match="uint16"):
        ops.ingest(np.zeros((8, 8, 8), np.uint16), image, progress=False)
    with pytest.raises(BadRequest, match="don't fit"):
        ops.ingest(np.full((8, 8, 8), 256, np.uint16), image, dtype="uint8", progress=False)
    with pytest.raises(BadRequest, match="no labels"):
        ops.ingest(np.zeros((8, 8, 8), np.uint8), image, label_offset=3, progress=False)


def test_other_datatypes_take_no_volumes(repo):
    with pytest.raises(NotSupported, match="keyvalue"):
        ops.ingest(np.zeros((8, 8, 8), np.uint8), repo.new_instance("keyvalue", "notes"), progress=False)


def test_the_plan_is_for_people(repo):
    seg = labelmap(repo, block=64, levels=7)
    plan = ops.ingest_plan(np.zeros((100, 100, 100), np.uint64), seg)
    text = str(plan)
    assert "scales 0 to 7" in text
    assert "8 blocks of 64 x 64 x 64" in text
    assert next(seg.view(0).scan(), None) is None
