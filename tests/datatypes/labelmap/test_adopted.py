"""A labelmap whose voxels lie in a base is the same as one that was loaded: every read, after every edit."""

from __future__ import annotations

import itertools
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

import dvid_dask
from dvid_dask.bases.base import Base
from dvid_dask.ops.adopt_labels import adopt_labels

from .bases import adopted_model, save
from .model import GRIDS, Model, random_labels
from .reads import check_reads, plain
from .test_machine import NAMES, PROFILE, SEED, SHORT, Histories, World


class AdoptedHistories(Histories):
    """The histories of `test_machine`, of a labelmap that begins as an adopted volume."""

    @initialize(
        grid=st.sampled_from(GRIDS),
        seed=SEED,
        scales=st.booleans(),
        cut=st.tuples(*[st.integers(0, 1)] * 3),
    )
    def start(self, grid, seed, scales, cut):
        self.folder = tempfile.mkdtemp()
        self.ds = dvid_dask.create("memory://", compact="never")
        version = self.ds.new_repo("fly")["master"]
        seg = version.repo.new_instance("labelmap", "seg", grid.settings)
        model = Model(grid, uuid=version.uuid)
        # blocks at the volume's border are partly outside of it
        step = 1 << grid.levels
        offset = [o + c * step for o, c in zip(grid.offset, cut, strict=True)]
        voxels = random_labels(seed, grid.shape, NAMES[: 1 + seed % len(NAMES)])[
            tuple(slice(c * step, None) for c in cut)
        ]
        base = Base.find(save(self.folder, voxels, offset, levels=grid.levels if scales else 0))
        assert base.extents().start == tuple(offset)
        assert base.scales == list(range(1 + (grid.levels if scales else 0)))
        adopt_labels(base, seg, progress=False)
        adopted_model(model, voxels, offset)
        model.log.append(plain(next(iter(seg.mutations()))))
        self.worlds = [World(seg, model)]
        self.worlds[0].forget()
        self.serial = itertools.count()
        check_reads(seg, model, bodies=1)

    def teardown(self):
        try:
            super().teardown()
        finally:
            if hasattr(self, "folder"):
                shutil.rmtree(self.folder)


TestAdoptedHistories = AdoptedHistories.TestCase
TestAdoptedHistories.settings = settings(max_examples=15, stateful_step_count=20, phases=SHORT, **PROFILE)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_adopted_histories():
    run_state_machine_as_test(AdoptedHistories, settings=settings(max_examples=400, stateful_step_count=60, **PROFILE))
