"""Defects that other servers of this kind had, each by its name: none of them may come back here.

Those that need several processes are in `test_concurrency` (lost updates, ids handed out twice), `test_crash`
(mutations half done) and `test_forced` (largest labels below an ancestor's).
"""

from __future__ import annotations

import numpy as np
import pytest

import dvid_dask
from dvid_dask.formats import rles
from dvid_dask.formats.block_stream import block_to_payload
from dvid_dask.formats.label_blocks import encode_block

from .editors import replay
from .model import Counter, Grid, Model

GRID = Grid((16, 16, 16), (1, 1, 4), (0, 0, 0), 1)


def labels():
    """Eight supervoxels, side by side."""
    return np.arange(1, 9, dtype=np.uint64).repeat(8) * np.ones((16, 16, 1), np.uint64)


@pytest.fixture
def seg():
    repo = dvid_dask.create("memory://").new_repo("fly")
    seg = repo.new_instance("labelmap", "seg", GRID.settings)
    seg.write(labels(), (0, 0, 0))
    return seg


def entries(seg):
    return {i: b for ids, bodies in seg.mappings() for i, b in zip(ids.tolist(), bodies.tolist(), strict=True)}


def test_the_largest_label_never_falls_from_parent_to_child(seg):
    seg.write(labels() + np.uint64(500), (0, 0, 0))
    seg.version.commit()
    a, b = (seg.version.new_branch(n)["seg"] for n in "ab")
    a.allocate_labels(70)
    b.raise_max_label(10_000)
    for child in (a, b):
        assert child.max_label() > seg.max_label() == 508
        child.version.commit()
    merged = seg.version.repo.merge([a.version, b.version])["seg"]
    assert merged.max_label() == 10_000
    grandchild = a.version.newversion()["seg"]
    assert grandchild.max_label() == a.max_label() == 578
    assert grandchild.cleave(grandchild.merge(501, [502]) and 501, [502])[0] > 10_000


def test_garbage_that_is_refused_does_not_raise_the_next_label(seg):
    huge = labels()[:, :, :16].copy()
    huge[0, 0, 0] = 53_000_000_000
    good, bad = block_to_payload(encode_block(huge), "blocks"), b"\x1f\x8b garbage"
    for records in ([(0, 0, 0, good), (1, 0, 0, bad)], [(0, 0, 0, good), (2**30, 0, 0, good)]):
        with pytest.raises(ValueError):
            seg.write_blocks(records)
    with pytest.raises(ValueError):
        seg.write(labels()[:, :, :60] + np.uint64(53_000_000_000), (0, 0, 0))
    assert seg.next_labels.next == 9
    assert seg.max_label() == 8


def test_the_last_record_of_a_version_counts_for_an_id(seg):
    """The same supervoxels again and again in one version: the mapping is that of the last edit in the log."""
    for _ in range(5):
        seg.merge(1, [2, 3])
        new, _ = seg.cleave(1, [2, 3])
        seg.merge(4, [new])
        back, _ = seg.cleave(4, [2])
        seg.renumber([(2, back)])
        other, _ = seg.cleave(4, [3])
        seg.renumber([(3, other)])
    model = Model(GRID, Counter())
    model.write((0, 0, 0), labels())
    replay(model, list(seg.mutations()))
    assert entries(seg) == {s: b for s, b in model.mapping.items() if s != b}
    assert seg.mapping(range(1, 9)).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(seg.verify()) == []


def test_renumbering_keeps_the_mapping_right(seg):
    seg.merge(1, [2, 3])
    seg.renumber([(2, 1)])  # to the id of one of its own supervoxels
    assert seg.mapping([1, 2, 3]).tolist() == [2, 2, 2]
    seg.renumber([(50, 2), (2, 5), (5, 50)])  # exchanged over a third id
    assert seg.mapping([1, 2, 3, 5]).tolist() == [5, 5, 5, 2]
    assert seg.mapping([50]).tolist() == [0]
    seg.renumber([(60, 5)])
    seg.merge(60, [2])
    assert seg.mapping([1, 2, 3, 5, 60]).tolist() == [60, 60, 60, 60, 0]
    assert dict(seg.bodies_with_sizes())[60] == 4 * 2048
    assert list(seg.verify()) == []


def test_logs_of_versions_do_not_run_into_each_other(seg):
    """Records read side by side are those that are read one after the other."""
    versions = [seg]
    for n in range(4):
        versions[-1].merge(1, [n + 2])
        versions[-1].version.commit()
        versions.append(versions[-1].version.newversion()["seg"])
    alone = [list(v.mutations()) for v in versions]
    together = list(zip(*(v.mutations() for v in versions[:-1]), strict=True))
    assert [list(records) for records in zip(*together, strict=True)] == alone[:-1]
    assert [r["Labels"] for (r,) in alone[:-1]] == [[2], [3], [4], [5]]


def test_a_split_respects_supervoxels(seg):
    """No supervoxel is in two bodies afterwards, and those beside the runs keep their ids."""
    seg.merge(1, [2, 3, 4])
    mask = np.zeros(GRID.shape, bool)
    mask[:, :4, 8:24] = True  # of supervoxels 2 and 3
    new, _ = seg.split(1, rles.rles_from_mask(mask))
    assert not set(seg.supervoxels_of(1).id.tolist()) & set(seg.supervoxels_of(new).id.tolist())
    assert {1, 4} < set(seg.supervoxels_of(1).id.tolist())
    assert (seg.read((0, 0, 0), GRID.shape)[mask] == new).all()
    assert list(seg.verify()) == []


def test_no_supervoxel_of_size_0_is_left_after_a_split(seg):
    seg.merge(1, [2])
    mask = np.zeros(GRID.shape, bool)
    mask[:, :, 8:16] = True  # the whole of supervoxel 2
    new, _ = seg.split(1, rles.rles_from_mask(mask))
    assert seg.supervoxels_of(1).id.tolist() == [1]
    held = [i for i, b in entries(seg).items() if b]
    assert seg.sizes(held, supervoxels=True).all()
    assert [seg.size(1), seg.size(new)] == [2048, 2048]
    assert seg.mapping([2]).tolist() == [0]


def test_posted_blocks_are_indexed_also_again_and_again(seg):
    seg.merge(1, [2])
    changed = labels()[:, :, :16].copy()
    changed[:8] = 3  # of 1 and 2 only half is left
    for _ in range(3):
        seg.write_blocks([(0, 0, 0, block_to_payload(encode_block(changed), "blocks"))], downres=True)
        assert seg.sizes([1, 3]).tolist() == [2048, 4096]
        assert seg.sizes([1, 2], supervoxels=True).tolist() == [1024, 1024]
        assert list(seg.verify()) == []
    changed[8:] = 3
    seg.write_blocks([(0, 0, 0, block_to_payload(encode_block(changed), "blocks"))], downres=True)
    assert list(seg.bodies()) == [3, 4, 5, 6, 7, 8]
    assert list(seg.verify()) == []


def test_mutation_ids_go_on_after_a_restart(tmp_path):
    url = str(tmp_path / "store")
    with dvid_dask.create(url) as ds:
        seg = ds.new_repo("fly").new_instance("labelmap", "seg", GRID.settings)
        seg.write(labels(), (0, 0, 0))
        root, ids = seg.version.uuid, [seg.merge(1, [2])]
    for other in (3, 4, 5):
        with dvid_dask.open(url) as ds:
            ids.append(ds[root]["seg"].merge(1, [other]))
            new, mutation = ds[root]["seg"].cleave(1, [other])
            ids.append(mutation)
            assert new == 6 + other
    assert ids == sorted(set(ids))
