"""Largest labels of versions: a history with branches and a merge, records that are wrong, evidence of each kind."""

from __future__ import annotations

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.labelmap import extents, keys
from dvid_dask.errors import NotSupported
from tests.ops.test_ingest import labelmap


def block(label):
    return np.full((16, 16, 16), label, np.uint64)


@pytest.fixture
def history(repo):
    """master: root (9) - a (30 by a mapping); branch b of root (50, voxels); m joins a and b."""
    seg = labelmap(repo, levels=0)
    seg.write(block(5), (0, 0, 0))
    seg.write(block(9), (0, 0, 16))
    root = repo["master"]
    root.commit()
    a = root.newversion()
    a["seg"].set_mappings([20], [30])
    a.commit()
    b = root.new_branch("b")
    b["seg"].write(block(50), (0, 0, 64))
    b.commit()
    m = repo.merge([a, b], "")
    return {"root": root, "a": a, "b": b, "m": m}


def found(report, history):
    by_uuid = {v.uuid: v for v in report.versions}
    return {name: by_uuid[v.uuid].found for name, v in history.items()}


def wreck(version, label):
    """Make the record of a version wrong behind everybody's back."""

    def change(_, space):
        space.delete_prefix(keys.MAX_LABEL)
        extents.raise_max_label(space, label)

    version["seg"].mutate(change, force=True)


def test_evidence_of_a_history(history):
    report = ops.repair_max_labels(history["m"]["seg"])
    assert found(report, history) == {"root": 9, "a": 30, "b": 50, "m": 50}
    assert report.repository.found == 50
    assert not report.committed


def test_records_that_are_too_small_are_raised(history):
    for version in history.values():
        wreck(version, 3)
    told = ops.repair_max_labels(history["m"]["seg"])
    assert not told.ok
    assert history["b"]["seg"].max_label() == 3
    assert "would set to recomputed 50" in str(told)
    done = ops.repair_max_labels(history["m"]["seg"], commit=True)
    assert "set to recomputed 50" in str(done)
    assert {n: v["seg"].max_label() for n, v in history.items()} == {"root": 9, "a": 30, "b": 50, "m": 50}
    assert ops.repair_max_labels(history["m"]["seg"], commit=True).ok
    assert all(v.locked for n, v in history.items() if n != "m")


def test_ids_are_never_handed_out_again_unless_asked(history):
    seg = history["m"]["seg"]
    seg.next_labels.raise_to(50)
    first, last = seg.allocate_labels(10)
    ops.repair_max_labels(seg, commit=True)
    assert seg.max_label() == last
    assert seg.allocate_labels() == (last + 1, last + 1)
    report = ops.repair_max_labels(seg, commit=True, lower=True)
    assert report.repository.new == 50
    assert seg.max_label() == 50
    assert seg.allocate_labels() == (51, 51)
    assert first == 51


def test_a_counter_that_is_too_small_is_raised(history):
    seg = history["m"]["seg"]
    seg.next_labels.lower_to(7)
    report = ops.repair_max_labels(seg, commit=True)
    assert (report.repository.stored, report.repository.new) == (7, 50)
    assert seg.allocate_labels() == (51, 51)


def test_supervoxels_count_as_well(repo):
    seg = labelmap(repo, levels=0)
    seg.write(block(5), (0, 0, 0))
    seg.write(block(77), (0, 0, 16))
    seg.merge(5, [77])
    assert ops.repair_max_labels(seg).versions[0].found == 77


def test_an_empty_instance_stays_as_it_is(repo):
    seg = labelmap(repo)
    before = seg.next_labels.largest
    for lower in (False, True):
        report = ops.repair_max_labels(seg, commit=True, lower=lower)
        assert report.ok
    assert seg.next_labels.largest == before
    assert seg.max_label() == 0


def test_what_has_no_index(repo):
    with pytest.raises(NotSupported):
        ops.repair_max_labels(labelmap(repo, IndexedLabels="false"))
    with pytest.raises(NotSupported):
        ops.repair_max_labels(repo.new_instance("keyvalue", "notes"))


def test_from_a_read_only_store(tmp_path):
    made = dvid_dask.create(str(tmp_path / "store"))
    seg = labelmap(made.new_repo("fly"), levels=0)
    seg.write(block(5), (0, 0, 0))
    again = dvid_dask.open(str(tmp_path / "store"), read_only=True)[seg.version.uuid]["seg"]
    assert ops.repair_max_labels(again).ok
