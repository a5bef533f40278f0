"""Datastores to try things on."""

from __future__ import annotations

import pytest

import dvid_dask
from dvid_dask.versions import Datastore, Repo


@pytest.fixture
def ds() -> Datastore:
    """A datastore in memory; compaction happens at once, so that nothing runs beside a test."""
    return dvid_dask.create("memory://", compact="now")


@pytest.fixture
def repo(ds) -> Repo:
    return ds.new_repo("fly", "a small brain")


@pytest.fixture
def local(tmp_path) -> Datastore:
    """A datastore on disk."""
    with dvid_dask.create(str(tmp_path / "store"), compact="now") as ds:
        yield ds


def sound(ds: Datastore) -> None:
    """Nothing contradicts, nothing is unfinished."""
    report = ds.check()
    assert not report.problems, str(report)
    assert not report.unfinished, str(report)
