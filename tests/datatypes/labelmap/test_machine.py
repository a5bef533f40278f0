"""Random histories of a labelmap, valid and invalid steps mixed, over branches, against the model: every read of every
version, and `verify` finds nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import dvid_dask
from dvid_dask.errors import BadRequest, LockedVersion, NotFound
from dvid_dask.formats.block_stream import block_to_payload
from dvid_dask.formats.label_blocks import encode_block, labels, replace_labels, solid_block
from dvid_dask.formats.label_index import LabelIndex

from .model import GRIDS, Model, random_labels
from .reads import UNKNOWN, check_reads

#: far apart in pages of the mapping, and as large as they come
NAMES = [1, 2, 3, 4, 5, 6, 7, 1023, 1024, 5000, 2**40 + 1, 2**63 + 5]
PICK = st.integers(0, 1000)
SEED = st.integers(0, 10_000)
WHO = st.sampled_from([{}, {"user": "kim"}, {"user": "lu", "app": "neu3"}])


def chosen(things, pick):
    return things[pick % len(things)]


def who(stamp):
    return stamp.get("user", ""), stamp.get("app", "")


class Histories(RuleBasedStateMachine):
    """`self.worlds` are pairs (labelmap at a version, model of it); committed ones stay in the list."""

    bodies_looked_at = 2

    @initialize(grid=st.sampled_from(GRIDS), seed=SEED)
    def start(self, grid, seed):
        self.ds = dvid_dask.create("memory://", compact="never")
        version = self.ds.new_repo("fly")["master"]
        seg = version.repo.new_instance("labelmap", "seg", grid.settings)
        self.worlds = [(seg, Model(grid, uuid=version.uuid))]
        self.serial = itertools.count()
        self.checked = -1
        self.write(0, seed, (0, 0, 0), True)

    def world(self, pick, *, open_only=True):
        found = [w for w in self.worlds if not (open_only and w[0].version.locked)]
        if not found:
            found = [self.grow(self.worlds[pick % len(self.worlds)])]
        return chosen(found, pick)

    def grow(self, world):
        seg, model = world
        if not seg.version.locked:
            seg.version.commit()
        child = seg.version.new_branch(f"b{next(self.serial)}")
        self.worlds.append((child["seg"], model.child(child.uuid)))
        return self.worlds[-1]

    # ------------------------------------------------------------------ voxels

    @rule(pick=PICK, seed=SEED, corner=st.tuples(PICK, PICK, PICK), whole=st.booleans())
    def write(self, pick, seed, corner, whole):
        seg, model = self.world(pick)
        start, blocks = self.some_box(model.grid, corner, whole)
        shape = [n * b for n, b in zip(blocks, model.grid.block, strict=True)]
        new = random_labels(seed, shape, self.names(model, seed))
        if seed % 3:
            seg.write(new, model.grid.at(start), user="kim")
        else:
            seg.write_blocks(self.records(model.grid, start, new, seed), downres=True)
        model.write(start, new)

    @staticmethod
    def some_box(grid, corner, whole):
        if whole:
            return (0, 0, 0), grid.blocks
        start = tuple(c % n for c, n in zip(corner, grid.blocks, strict=True))
        return start, tuple(1 + c // 7 % (n - s) for c, s, n in zip(corner, start, grid.blocks, strict=True))

    @staticmethod
    def names(model, seed):
        usable = [n for n in {*NAMES, *model.supervoxel_ids()} if model.mapping.get(n) != 0]
        return np.random.default_rng(seed).permutation(np.array(sorted(usable), np.uint64))[:9].tolist()

    @staticmethod
    def records(grid, start, labels_zyx, seed):
        """The blocks of an array in any order, some encoded as clients may: a label twice in the table. One block comes
        twice, of which the last counts.
        """
        rng = np.random.default_rng(seed)
        made = []
        for at in np.ndindex(*(n // b for n, b in zip(labels_zyx.shape, grid.block, strict=True))):
            part = np.ascontiguousarray(labels_zyx[grid.box(at, (1, 1, 1))])
            block = encode_block(part)
            if rng.random() < 0.3:
                # any two labels told apart in the voxels and then given the same name
                marked = part.copy()
                marked[rng.random(part.shape) < 0.5] += np.uint64(2**62)
                block = encode_block(marked)
                real = labels(block)
                block = replace_labels(block, np.where(real & np.uint64(2**62), real - np.uint64(2**62), real))
            z, y, x = (f + s + a for f, s, a in zip(grid.first, start, at, strict=True))
            made.append((x, y, z, block_to_payload(block, "blocks")))
        made = [made[i] for i in rng.permutation(len(made))]
        other = block_to_payload(solid_block(3, grid.block), "blocks")
        return [(*made[0][:3], other), *made]

    # ------------------------------------------------------------------ edits

    @rule(pick=PICK, choice=st.lists(PICK, min_size=2, max_size=4), by=WHO)
    def merge(self, pick, choice, by):
        seg, model = self.world(pick)
        bodies = model.bodies()
        merged = list(dict.fromkeys(chosen(bodies, c) for c in choice)) if bodies else []
        if len(merged) > 1:
            mutation = seg.merge(merged[0], [*merged[1:], merged[1]], **by)
            model.merge(merged[0], merged[1:], (mutation, *who(by)))

    @rule(pick=PICK, which=PICK, share=PICK, by=WHO)
    def cleave(self, pick, which, share, by):
        seg, model = self.world(pick)
        bodies = [b for b in model.bodies() if len(model.supervoxels(b)) > 1]
        if bodies:
            body = chosen(bodies, which)
            svs = model.supervoxels(body)
            svs = [svs[i] for i in np.random.default_rng(share).permutation(len(svs))[: 1 + share % (len(svs) - 1)]]
            new, mutation = seg.cleave(body, [*svs, svs[0]], **by)
            assert new == model.ids.take()
            model.cleave(body, new, svs, (mutation, *who(by)))

    @rule(pick=PICK, which=PICK, new=st.integers(90, 99), by=WHO)
    def renumber(self, pick, which, new, by):
        seg, model = self.world(pick)
        bodies = model.bodies()
        if bodies and new not in bodies:
            old = chosen(bodies, which)
            (mutation,) = seg.renumber([(new, old)], **by)
            model.renumber(new, old, (mutation, *who(by)))

    @rule(pick=PICK, which=PICK)
    def exchange(self, pick, which):
        """Two bodies exchange their ids over a third one, in one request."""
        seg, model = self.world(pick)
        bodies = model.bodies()
        if len(bodies) > 1:
            a, b = chosen(bodies, which), chosen(bodies, which + 1)
            third = model.ids.next + 3
            pairs = [(third, a), (a, b), (b, third)]
            for (new, old), mutation in zip(pairs, seg.renumber(pairs), strict=True):
                model.renumber(new, old, (mutation, "", ""))

    @rule(pick=PICK, choice=st.tuples(PICK, PICK))
    def agglomerate_as_loaders_do(self, pick, choice):
        """POST mappings and POST indices: nothing is checked, so the loader says both."""
        seg, model = self.world(pick)
        bodies = model.bodies()
        if len(bodies) < 2:
            return
        a, b = chosen(bodies, choice[0]), chosen(bodies, choice[1])
        if a == b:
            return
        moved = model.supervoxels(b)
        seg.set_mappings([*moved, *moved], [*[UNKNOWN] * len(moved), *[a] * len(moved)])
        model.mapping.update(dict.fromkeys(moved, a))
        rows = model.rows()[a]
        keys = list(rows)
        counts = np.array([rows[k] for k in keys], np.uint32)
        zyx, svs = np.array([k[:3] for k in keys], np.int32), np.array([k[3] for k in keys], np.uint64)
        index = LabelIndex(a, zyx, svs, counts, None, 17, "2026-01-02T03:04:05Z", "loader", "job")
        seg.set_indices([index, LabelIndex(b)])
        model.named(a)
        model.stamp((17, "loader", "job"), a)

    @rule(pick=PICK, n=st.integers(1, 5), raised=st.booleans())
    def reserve_ids(self, pick, n, raised):
        seg, model = self.world(pick)
        if raised:
            label = model.ids.next + n
            seg.raise_max_label(label)
            model.named(label)
        else:
            first, last = seg.allocate_labels(n)
            assert first == model.ids.take(n)
            assert last == first + n - 1
            model.max_label = max(model.max_label, last)

    # ------------------------------------------------------------------ what is refused changes nothing

    @rule(pick=PICK, which=PICK)
    def refuse(self, pick, which):
        seg, model = self.world(pick)
        token, ids = seg.view().token, model.ids.next
        bodies = [*model.bodies(), UNKNOWN]
        body, other = chosen(bodies, which), chosen(bodies, which + 1)
        svs = model.supervoxels(body)
        grid = model.grid
        ones = np.ones(grid.block, np.uint64)
        wrong_block = block_to_payload(solid_block(3, (16, 16, 80)), "blocks")
        good_block = block_to_payload(solid_block(3, grid.block), "blocks")
        for wrong in (
            lambda: seg.merge(body, [body]),
            lambda: seg.merge(body, [other, body]),
            lambda: seg.merge(body, [UNKNOWN]),
            lambda: seg.merge(UNKNOWN, [body]),
            lambda: seg.merge(body, [0]),
            lambda: seg.merge(0, [body]),
            lambda: seg.merge(body, []),
            lambda: seg.cleave(body, svs),
            lambda: seg.cleave(body, []),
            lambda: seg.cleave(body, [UNKNOWN]),
            lambda: seg.cleave(body, [*svs[:1], 0]),
            lambda: seg.cleave(0, svs),
            lambda: seg.cleave(UNKNOWN, [1]),
            lambda: seg.renumber([(0, body)]),
            lambda: seg.renumber([(body, 0)]),
            lambda: seg.renumber([(body, body)]),
            lambda: seg.renumber([(UNKNOWN + 1, UNKNOWN)]),
            lambda: seg.renumber([(UNKNOWN, bodies[0]), (UNKNOWN + 1, bodies[0])]),
            lambda: seg.renumber([(2**64, body)]),
            lambda: seg.write(ones[:, :, :-8], grid.offset),
            lambda: seg.write(ones, [o + 1 for o in grid.offset]),
            lambda: seg.write(ones[0], grid.offset),
            lambda: seg.write(ones.astype(np.float32), grid.offset),
            lambda: seg.write(-ones.astype(np.int64), grid.offset),
            lambda: seg.write(ones, [2**31 - grid.block[0], 0, 0]),
            lambda: seg.write_blocks([(0, 0, 0, good_block), (0, 0, 0, wrong_block)]),
            lambda: seg.write_blocks([(0, 0, 0, good_block), (0, 0, 1, b"rubbish")]),
            lambda: seg.write_blocks([(0, 0, 0, good_block)], scale=1, downres=True),
            lambda: seg.set_indices([seg_index(0)]),
            lambda: seg.allocate_labels(0),
            lambda: seg.allocate_labels(2**64),
        ):
            with pytest.raises((BadRequest, ValueError)):
                wrong()
        with pytest.raises(NotFound):
            seg.index(UNKNOWN)
        assert seg.view().token == token
        assert seg.next_labels.next == ids

    @rule(pick=PICK)
    def refuse_at_committed(self, pick):
        found = [w for w in self.worlds if w[0].version.locked]
        if found:
            seg, model = chosen(found, pick)
            token = seg.view().token
            bodies = [*model.bodies(), 1, 2]
            for edit in (
                lambda: seg.merge(bodies[0], bodies[1:2]),
                lambda: seg.cleave(bodies[0], [1]),
                lambda: seg.renumber([(UNKNOWN, bodies[0])]),
                lambda: seg.write(np.ones(model.grid.block, np.uint64), model.grid.offset),
                lambda: seg.set_mappings([1], [2]),
                lambda: seg.set_indices([seg_index(1)]),
                lambda: seg.allocate_labels(1),
            ):
                with pytest.raises(LockedVersion):
                    edit()
            assert seg.view().token == token
            assert seg.next_labels.next == model.ids.next

    # ------------------------------------------------------------------ versions

    @precondition(lambda self: len(self.worlds) < 5)
    @rule(pick=PICK)
    def branch(self, pick):
        self.grow(chosen(self.worlds, pick))

    @rule(pick=PICK)
    def read(self, pick):
        check_reads(*self.world(pick, open_only=False), bodies=1, verify=False)

    def teardown(self):
        if hasattr(self, "worlds"):
            for seg, model in self.worlds:
                check_reads(seg, model, bodies=self.bodies_looked_at)
                if model.parent is not None:
                    assert model.parent.max_label <= seg.max_label()
            self.ds.close()


def seg_index(label):
    zyx, one = np.zeros((1, 3), np.int32), np.ones(1, np.uint64)
    return LabelIndex(label, zyx, one, one.astype(np.uint32))


PROFILE = {"deadline": None, "suppress_health_check": list(HealthCheck)}

TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=20, **PROFILE)


class ManyHistories(Histories):
    bodies_looked_at = 100


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_histories():
    run_state_machine_as_test(ManyHistories, settings=settings(max_examples=600, stateful_step_count=60, **PROFILE))
