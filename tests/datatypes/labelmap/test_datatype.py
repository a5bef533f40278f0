"""LabelMap over a real store: its single promises. Random histories of all of them are in `test_machine`."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

import dvid_dask
from dvid_dask.datatypes.labelmap import Bounds
from dvid_dask.errors import BadRequest, LockedVersion, NotFound
from dvid_dask.formats.block_stream import block_to_payload
from dvid_dask.formats.label_blocks import encode_block, solid_block
from dvid_dask.formats.rles import rles_to_mask


@pytest.fixture
def seg():
    version = dvid_dask.create("memory://").new_repo("fly")["master"]
    return version.repo.new_instance("labelmap", "seg", {"BlockSize": "16,16,16", "MaxDownresLevel": "1"})


def blob(shape=(32, 32, 32)):
    labels = np.zeros(shape, np.uint64)
    labels[4:28, 4:28, 4:28] = 5
    labels[10:14, 4:28, 4:28] = 6
    return labels


# ------------------------------------------------------------------ voxels


def test_indexing_is_numpy(seg):
    seg[0:32, 0:32, 0:32] = blob()
    assert (seg[3:9, 10, 0:32] == blob()[3:9, 10, 0:32]).all()
    assert (seg[...] == blob()).all()
    assert (seg.supervoxels[12, :, :] == blob()[12]).all()
    assert seg[100:104, 0:2, -8:0].tolist() == np.zeros((4, 2, 8)).tolist()
    with pytest.raises(IndexError):
        seg[0:32:2]
    with pytest.raises(IndexError):
        seg[0, 0, 0, 0]


def test_dask_and_xarray_see_one_state(seg):
    seg.write(blob(), (0, 16, 32))
    lazy, array = seg.to_dask(), seg.to_xarray()
    again = pickle.loads(pickle.dumps(seg.array()))
    seg.write(np.full((16, 16, 16), 9, np.uint64), (0, 16, 32))
    assert lazy.shape == (32, 32, 32)
    assert (lazy.compute() == blob()).all()
    assert (again[:, :, :] == blob()).all()
    assert int(array.sel(z=8 * 12, y=8 * 26, x=8 * 42)) == 6
    assert float(seg.to_xarray(1).z[0]) == 4  # the centre of two voxels of 8
    assert seg.to_dask(1).compute().shape == (16, 16, 16)
    assert seg.to_dask().name != lazy.name


def test_points(seg):
    seg.write(blob(), (-32, -16, 0))
    rng = np.random.default_rng(0)
    points = rng.integers(-40, 40, (5000, 3))
    whole = seg.read((-40, -40, -40), (80, 80, 80))
    assert (seg.labels_at(points) == whole[tuple((points + 40).T)]).all()
    assert seg.labels_at(np.empty((0, 3))).tolist() == []
    assert seg.labels_at([[2**31 - 1] * 3, [-(2**31)] * 3]).tolist() == [0, 0]


def test_a_slab_read_is_the_same_read(seg, monkeypatch):
    from dvid_dask.datatypes.labelmap import voxels

    seg.write(blob(), (0, 0, 0))
    for limit in (1 << 30, 8 * 32 * 20, 8 * 40, 8):
        monkeypatch.setattr(voxels, "SLAB_BYTES", limit)
        slabs = list(seg.read_slabs((1, 2, 3), (29, 9, 11)))
        assert (np.concatenate([s.reshape(-1) for s in slabs]) == blob()[1:30, 2:11, 3:14].reshape(-1)).all()


@pytest.mark.parametrize(
    ("offset", "shape"),
    [((0, 0, 0), (0, 1, 1)), ((0, 0, 0), (1 << 20, 1 << 10, 1)), ((2**31 - 2, 0, 0), (4, 1, 1)), ((0, 0), (1, 1))],
)
def test_impossible_boxes_are_refused(seg, offset, shape):
    with pytest.raises(BadRequest):
        seg.read(offset, shape)


# ------------------------------------------------------------------ writes


def test_writing_the_same_again_changes_no_count(seg):
    seg.write(blob(), (0, 0, 0))
    before = seg.sizes([5, 6]).tolist()
    seg.write(blob(), (0, 0, 0))
    assert seg.sizes([5, 6]).tolist() == before
    assert list(seg.verify()) == []


def test_solid_zero_blocks_leave_the_rest_of_the_coarse_block(seg):
    seg.write(blob(), (0, 0, 0))
    zero = block_to_payload(solid_block(0, (16, 16, 16)), "blocks")
    seg.write_blocks([(1, 1, 1, zero)], downres=True)
    expected = blob()
    expected[16:, 16:, 16:] = 0
    assert (seg[0:32, 0:32, 0:32] == expected).all()
    assert list(seg.verify()) == []


def test_a_stream_that_breaks_off_changes_nothing(seg):
    seg.write(blob(), (0, 0, 0))
    token = seg.view().token

    def broken():
        yield 0, 0, 0, block_to_payload(solid_block(3, (16, 16, 16)), "blocks")
        raise BadRequest("the client left")

    with pytest.raises(BadRequest):
        seg.write_blocks(broken())
    wrong_shape = block_to_payload(solid_block(3, (32, 16, 16)), "blocks")
    for records in ([(0, 0, 0, wrong_shape)], [(0, 0, 0, b"nonsense")], [(2**30, 0, 0, wrong_shape)]):
        with pytest.raises(ValueError):
            seg.write_blocks(records)
    assert seg.view().token == token


def test_of_a_block_sent_twice_the_last_counts(seg):
    one, two = (block_to_payload(solid_block(n, (16, 16, 16)), "blocks") for n in (1, 2))
    seg.write_blocks([(0, 0, 0, one), (0, 0, 0, two)], downres=True)
    assert list(seg.bodies_with_sizes()) == [(2, 4096)]
    assert list(seg.verify()) == []


def test_label_tables_with_unused_entries_count_as_used(seg):
    from dvid_dask.formats.label_blocks import replace_labels

    half = np.zeros((16, 16, 16), np.uint64)
    half[8:] = 4
    block = replace_labels(encode_block(half), [0, 4])
    seg.write_blocks([(0, 0, 0, block_to_payload(block, "blocks"))])
    assert seg.max_label() == 4


def test_huge_labels_and_negative_blocks(seg):
    top = 2**64 - 1
    labels = np.full((16, 16, 16), top, np.uint64)
    seg.write(labels, (-16, -16, -16))
    assert seg.sizes([top]).tolist() == [4096]
    assert seg[-1, -1, -1] == top
    assert seg.sparse(top, scale=1).all_runs()[:, 3].sum() == 512
    with pytest.raises(BadRequest, match="reserved"):
        seg.allocate_labels()


def test_a_locked_version_takes_nothing(seg):
    seg.write(blob(), (0, 0, 0))
    seg.merge(5, [6])
    seg.version.commit()
    for change in (
        lambda: seg.write(blob(), (0, 0, 0)),
        lambda: seg.merge(5, [6]),
        lambda: seg.cleave(5, [6]),
        lambda: seg.set_mappings([6], [6]),
        lambda: seg.allocate_labels(),
        lambda: seg.set_extents((0, 0, 0), (1, 1, 1)),
    ):
        with pytest.raises(LockedVersion):
            change()


# ------------------------------------------------------------------ bodies


def test_absent_labels(seg):
    seg.write(blob(), (0, 0, 0))
    for read in (seg.size, seg.sparse, seg.sparse_size, seg.supervoxels_of, seg.index, seg.header):
        with pytest.raises(NotFound):
            read(77)
        with pytest.raises(BadRequest):
            read(0)


def test_bounds(seg):
    seg.write(blob(), (0, 0, 0))
    view = blob()
    exact = seg.sparse(6, bounds=Bounds((11, None, 6), (12, 20, 9)))
    mask = rles_to_mask(exact.all_runs(), (0, 0, 0), (32, 32, 32))
    expected = np.zeros_like(mask)
    expected[11:13, :21, 6:10] = view[11:13, :21, 6:10] == 6
    assert (mask == expected).all()
    whole = seg.sparse(6, bounds=Bounds((11, None, 6), (12, 12, 9)), exact=False)
    mask = rles_to_mask(whole.all_runs(), (0, 0, 0), (32, 32, 32))
    assert (mask[:16, :16, :16] == (view[:16, :16, :16] == 6)).all()
    assert not mask[:, 16:].any()
    assert not seg.sparse(6, bounds=Bounds((40, None, None), (None, None, None))).has_blocks()


def test_history_and_versions(seg):
    seg.write(blob(), (0, 0, 0))
    root = seg.version
    root.commit()
    child = root.newversion()["seg"]
    assert child.index_version(5) == root
    child.merge(5, [6], user="ann")
    new, _ = child.cleave(5, [6])
    assert child.index_version(5) == child.version
    assert child.index_version(6) == child.version
    with pytest.raises(BadRequest):
        child.index_version(12345)
    told = list(child.body_history(5, root))
    assert [t["Action"] for t in told] == ["merge", "cleave"]
    assert told[1]["CleavedLabel"] == new
    assert child.header(5).stamp.user == ""
    assert [m["Action"] for m in child.mutations()] == ["merge-complete", "cleave-complete"]


def test_ids_are_new_across_branches_and_concurrent_cleaves(seg):
    labels = np.arange(1, 9, dtype=np.uint64).reshape(2, 2, 2).repeat(16, 0).repeat(16, 1).repeat(16, 2)
    seg.write(labels, (0, 0, 0))
    for a in (1, 3, 5, 7):
        seg.merge(a, [a + 1])
    seg.version.commit()
    one, two = seg.version.new_branch("one")["seg"], seg.version.new_branch("two")["seg"]
    made, errors = [], []

    def cleave(where, body):
        try:
            made.append(where.cleave(body, [body + 1])[0])
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=cleave, args=(w, b)) for w in (one, two) for b in (1, 3, 5, 7)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert len(set(made)) == 8
    assert min(made) > 8
    for branch in (one, two):
        assert list(branch.verify()) == []
        assert branch.max_label() == max(b for b in branch.bodies())


def test_concurrent_merges_of_one_body_lose_nothing(seg):
    labels = np.arange(1, 9, dtype=np.uint64).reshape(2, 2, 2).repeat(16, 0).repeat(16, 1).repeat(16, 2)
    seg.write(labels, (0, 0, 0))
    threads = [threading.Thread(target=seg.merge, args=(1, [n])) for n in range(2, 9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert list(seg.bodies_with_sizes()) == [(1, 32**3)]
    assert list(seg.verify()) == []


def test_verify_finds_what_is_wrong(seg):
    seg.write(blob(), (0, 0, 0))
    index = seg.index(5)
    index.count = index.count + np.uint32(1)
    seg.set_indices([index])
    assert {p.kind for p in seg.verify()} == {"index"}
    seg.write(blob(), (0, 0, 0))
    seg.set_mappings([6], [5])
    assert "mapping" in {p.kind for p in seg.verify()}
    seg.set_mappings([6], [6])
    assert list(seg.verify()) == []
    other = np.full((16, 16, 16), 5, np.uint64)
    seg.write_blocks([(0, 0, 0, block_to_payload(encode_block(other), "blocks"))])
    assert {p.kind for p in seg.verify()} == {"scale"}


# ------------------------------------------------------------------ regions of interest


def test_only_blocks_of_the_region_are_seen_and_written(seg):
    seg.repo.new_instance("roi", "zone").replace([[0, 0, 1, 1]])
    labels = np.full((32, 32, 64), 3, np.uint64)
    seg.write(labels, (0, 0, 0), roi="zone")
    expected = labels.copy()
    expected[..., :32] = 0
    assert (seg.read((0, 0, 0), labels.shape) == expected).all()
    seg.write(labels, (0, 0, 0))
    assert (seg.read((0, 0, 0), labels.shape, roi="zone") == expected).all()
    assert seg.size(3) == labels.size
    with pytest.raises(BadRequest, match="named"):
        seg.read((0, 0, 0), labels.shape, roi="other")
    with pytest.raises(BadRequest, match="scale"):
        seg.read((0, 0, 0), (8, 8, 8), 1, roi="zone")


# ------------------------------------------------------------------ what an edit costs


def test_labels_in_use_are_never_given_to_a_new_body(seg):
    seg.write(blob(), (0, 0, 0))
    seg.merge(5, [6])
    seg.next_labels.start_from(4)
    new, _ = seg.cleave(5, [6])
    assert new == 7
    assert list(seg.verify()) == []


def test_a_merge_into_a_large_body_costs_what_it_changes(seg):
    from dvid_dask.datatypes.labelmap.index import Index
    from dvid_dask.datatypes.labelmap.rows import Rows

    blocks = np.indices((40, 40, 40)).reshape(3, -1).T
    svs = np.arange(len(blocks)) // 8 + 1000
    large = Rows.of(blocks, svs, np.full(len(blocks), 9))
    small = Rows.of(blocks[:10], np.arange(10) + 50_000, np.full(10, 3))

    def load(_, space):
        Index(space).update(1, large)
        for body in range(50_000, 50_010):
            Index(space).update(body, small[[body - 50_000]])

    seg.mutate(load)
    before = dict(seg.view().scan())
    seg.merge(1, list(range(50_000, 50_010)))
    after = dict(seg.view().scan())
    written = {k: v for k, v in after.items() if before.get(k) != v}
    assert len(written) < 20  # one page, a bucket per supervoxel, the header, mapping pages
    assert sum(map(len, written.values())) < 60_000
    assert seg.size(1) == 9 * 40**3 + 30


def test_nothing_written_over_nothing(seg):
    """No body is in the block before or after."""
    for _ in range(2):
        seg.write(np.zeros(seg.block_shape, np.uint64), (0, 0, 0))
    assert not seg.read((0, 0, 0), seg.block_shape).any()
    assert list(seg.bodies()) == []
