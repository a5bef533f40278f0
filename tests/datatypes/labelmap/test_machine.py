"""Random histories of a labelmap, valid and invalid steps mixed, over branches, against the model: every read of every
version, and `verify` finds nothing.

What an undo has to give is told by the model without knowing how undo works: from the version's first state, all
other edits that stand are done again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import dvid_dask
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.errors import BadRequest, LaterMutations, LockedVersion, NotFound
from dvid_dask.formats import rles
from dvid_dask.formats.block_stream import block_to_payload
from dvid_dask.formats.label_blocks import encode_block, labels, replace_labels, solid_block
from dvid_dask.formats.label_index import LabelIndex

from .model import GRIDS, Model, random_labels
from .reads import UNKNOWN, check_reads, plain

#: far apart in pages of the mapping, and as large as they come
NAMES = [1, 2, 3, 4, 5, 6, 7, 1023, 1024, 5000, 2**40 + 1, 2**63 + 5]
PICK = st.integers(0, 1000)
SEED = st.integers(0, 10_000)
WHO = st.sampled_from([{}, {"user": "kim"}, {"user": "lu", "app": "neu3"}])


def chosen(things, pick):
    return things[pick % len(things)]


def who(stamp):
    return stamp.get("user", ""), stamp.get("app", "")


@dataclass
class World:
    """A labelmap at a version and its model; and the edits since `base` that can be undone."""

    seg: LabelMap
    model: Model
    base: Model = None
    edits: list[Edit] = field(default_factory=list)

    def __iter__(self):
        return iter((self.seg, self.model))

    def forget(self):
        """No edit up to now will be undone."""
        self.base, self.edits = self.model.child(), []

    def did(self, again, mutation=None, possible=lambda m: True):
        if mutation is None:
            mutation = max(r.id for r in self.seg.undoable())
        self.edits.append(Edit(mutation, again, possible))

    def without(self, *left_out):
        """The model as it would be if some edits had not been; as it is read, if others could not be done then."""
        model = self.base.child()
        for edit in self.edits:
            if not edit.undone and edit not in left_out:
                if not edit.possible(model):
                    return self.as_read()
                edit.again(model)
        return model

    def as_read(self):
        """What the store says; that it agrees with itself is checked later."""
        seg, model = self
        read = model.child()
        read.voxels = seg.read(model.grid.offset, model.grid.shape, supervoxels=True)
        ids = sorted({*model.mapping, *model.supervoxel_ids(), *read.supervoxel_ids()})
        found, values = Mapping(seg.view()).entries(ids)
        read.mapping = {i: v for i, f, v in zip(ids, found.tolist(), values.tolist(), strict=True) if f}
        first = model.grid.first
        read.stored = {at for at, _, _ in seg.blocks(first, [f + 9 for f in first])}
        return read

    def adopt(self, expected, stamp):
        """Voxels and bodies become the expected ones. Which ids keep an entry in the mapping is the store's choice."""
        seg, model = self
        before = model.rows()
        ids = sorted({*model.mapping, *expected.mapping, *model.supervoxel_ids(), *expected.supervoxel_ids()})
        there = set(expected.supervoxel_ids())
        found, values = Mapping(seg.view()).entries(ids)
        mapping = {i: v for i, f, v in zip(ids, found.tolist(), values.tolist(), strict=True) if f}
        for i in ids:
            if i in there:
                assert mapping.get(i, i) == expected.body(i), i
            elif i in mapping and i not in expected.mapping:
                assert mapping[i] in (0, model.mapping.get(i)), i
        model.voxels, model.mapping, model.stored = expected.voxels.copy(), mapping, set(expected.stored)
        after = model.rows()
        model.stamp(None)
        for body in after:
            held = seg.header(body).stamp
            if after[body] != before.get(body):
                model.stamps[body] = stamp
                if body not in before and not held.mutation:
                    del model.stamps[body]  # voxels that are written stamp nobody
                elif held.mutation != stamp[0]:
                    model.stamps[body] = (held.mutation, held.user, held.app)
            elif held.mutation == stamp[0]:
                model.stamps[body] = stamp
        records = list(seg.mutations())[len(model.log) :]
        assert all(r["MutationID"] == stamp[0] for r in records)
        model.log += [plain(r) for r in records]


@dataclass(eq=False)
class Edit:
    mutation: int
    again: Callable
    possible: Callable
    undone: bool = False


class Histories(RuleBasedStateMachine):
    """`self.worlds` are versions; committed ones stay in the list."""

    bodies_looked_at = 2

    @initialize(grid=st.sampled_from(GRIDS), seed=SEED)
    def start(self, grid, seed):
        self.ds = dvid_dask.create("memory://", compact="never")
        version = self.ds.new_repo("fly")["master"]
        seg = version.repo.new_instance("labelmap", "seg", grid.settings)
        self.worlds = [World(seg, Model(grid, uuid=version.uuid))]
        self.worlds[0].forget()
        self.serial = itertools.count()
        self.write(0, seed, (0, 0, 0), True)

    def world(self, pick, *, open_only=True):
        found = [w for w in self.worlds if not (open_only and w.seg.version.locked)]
        if not found:
            found = [self.grow(self.worlds[pick % len(self.worlds)])]
        return chosen(found, pick)

    def grow(self, world):
        seg, model = world
        if not seg.version.locked:
            seg.version.commit()
        child = seg.version.new_branch(f"b{next(self.serial)}")
        self.worlds.append(World(child["seg"], model.child(child.uuid)))
        self.worlds[-1].forget()
        return self.worlds[-1]

    # ------------------------------------------------------------------ voxels

    @rule(pick=PICK, seed=SEED, corner=st.tuples(PICK, PICK, PICK), whole=st.booleans())
    def write(self, pick, seed, corner, whole):
        seg, model = world = self.world(pick)
        start, blocks = self.some_box(model.grid, corner, whole)
        shape = [n * b for n, b in zip(blocks, model.grid.block, strict=True)]
        new = random_labels(seed, shape, self.names(model, seed))
        if seed % 3:
            seg.write(new, model.grid.at(start), user="kim")
        else:
            seg.write_blocks(self.records(model.grid, start, new, seed), downres=True)
        model.write(start, new)
        world.did(lambda m: m.write(start, new))

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
        seg, model = world = self.world(pick)
        bodies = model.bodies()
        merged = list(dict.fromkeys(chosen(bodies, c) for c in choice)) if bodies else []
        if len(merged) > 1:
            mutation = seg.merge(merged[0], [*merged[1:], merged[1]], **by)
            model.merge(merged[0], merged[1:], (mutation, *who(by)))
            world.did(lambda m: m.merge(merged[0], merged[1:]), mutation, lambda m: {*merged} <= {*m.bodies()})

    @rule(pick=PICK, which=PICK, share=PICK, by=WHO)
    def cleave(self, pick, which, share, by):
        seg, model = world = self.world(pick)
        bodies = [b for b in model.bodies() if len(model.supervoxels(b)) > 1]
        if bodies:
            body = chosen(bodies, which)
            svs = model.supervoxels(body)
            svs = [svs[i] for i in np.random.default_rng(share).permutation(len(svs))[: 1 + share % (len(svs) - 1)]]
            new, mutation = seg.cleave(body, [*svs, svs[0]], **by)
            assert new == model.ids.take()
            model.cleave(body, new, svs, (mutation, *who(by)))
            world.did(lambda m: m.cleave(body, new, svs), mutation, lambda m: {*svs} < {*m.supervoxels(body)})

    @rule(pick=PICK, which=PICK, new=st.integers(90, 99), by=WHO)
    def renumber(self, pick, which, new, by):
        seg, model = world = self.world(pick)
        bodies = model.bodies()
        if bodies and new not in bodies:
            old = chosen(bodies, which)
            (mutation,) = seg.renumber([(new, old)], **by)
            model.renumber(new, old, (mutation, *who(by)))
            world.did(lambda m: m.renumber(new, old), mutation, lambda m: old in m.bodies() and new not in m.bodies())

    @rule(pick=PICK, which=PICK)
    def exchange(self, pick, which):
        """Two bodies exchange their ids over a third one, in one request."""
        seg, model = world = self.world(pick)
        bodies = model.bodies()
        if len(bodies) > 1:
            a, b = chosen(bodies, which), chosen(bodies, which + 1)
            third = model.ids.next + 3
            pairs = [(third, a), (a, b), (b, third)]
            for (new, old), mutation in zip(pairs, seg.renumber(pairs), strict=True):
                model.renumber(new, old, (mutation, "", ""))
                world.did(
                    lambda m, new=new, old=old: m.renumber(new, old),
                    mutation,
                    lambda m, new=new, old=old: old in m.bodies() and new not in m.bodies(),
                )

    @rule(pick=PICK, which=PICK, seed=SEED, given=st.booleans(), by=WHO)
    def split_supervoxel(self, pick, which, seed, given, by):
        seg, model = world = self.world(pick)
        svs = [s for s in model.supervoxel_ids() if model.body(s) and model.size(s) > 1]
        if svs:
            sv = chosen(svs, which)
            mask = some_of(model.voxels == np.uint64(sv), seed)
            runs = rles.rles_from_mask(mask, model.grid.offset)[::-1]
            ids = (model.ids.next + 7, model.ids.next + 2) if given else (0, 0)
            if given:
                model.ids.raise_to(ids[0])
            done = seg.split_supervoxel(sv, runs, split=ids[0], remain=ids[1], **by)
            if given:
                assert done[:2] == ids
            else:
                assert done[:2] == (model.ids.take(), model.ids.take())
            model.split_supervoxel(sv, mask, done.split, done.remain, (done.mutation, *who(by)))
            again = lambda m: m.split_supervoxel(sv, mask, done.split, done.remain)  # noqa: E731
            world.did(again, done.mutation, lambda m: m.size(sv))

    @rule(pick=PICK, which=PICK, seed=SEED, by=WHO)
    def split(self, pick, which, seed, by):
        seg, model = world = self.world(pick)
        bodies = [b for b in model.bodies() if model.body_size(b) > 1]
        if bodies:
            body = chosen(bodies, which)
            mask = some_of(model.as_bodies() == np.uint64(body), seed)
            stored = np.zeros(model.grid.shape, bool)
            for block in model.stored:
                at = [b - f for b, f in zip(block, model.grid.first, strict=True)]
                stored[model.grid.box(at, (1, 1, 1))] = True
            # background under the runs doesn't count
            runs = rles.rles_from_mask((mask | (model.voxels == 0)) & stored, model.grid.offset)
            done = seg.split(body, runs, **by)
            told = list(seg.mutations())[-1]["SVSplits"]
            parts = {int(sv): (part["Split"], part["Remain"]) for sv, part in told.items()}
            assert sorted(parts) == [s for s in np.unique(model.voxels[mask]).tolist() if s]
            drawn = range(model.ids.take(1 + 2 * len(parts)), model.ids.next)
            assert sorted([done.body, *(i for part in parts.values() for i in part)]) == [*drawn]
            model.split(body, mask, done.body, parts, (done.mutation, *who(by)))
            again = lambda m: m.split(body, mask, done.body, parts)  # noqa: E731
            world.did(again, done.mutation, lambda m: {*parts} <= {*m.supervoxels(body)})

    @rule(pick=PICK, which=PICK)
    def undo(self, pick, which):
        seg, model = world = self.world(pick)
        standing = [e for e in world.edits if not e.undone]
        if not standing:
            return
        edit = standing[-1] if which % 2 else chosen(standing, which)
        # the last edit can be undone, unless what it built on was undone before
        self.back_or_forth(world, edit, edit is world.edits[-1] and len(standing) == len(world.edits))

    @rule(pick=PICK, which=PICK)
    def redo(self, pick, which):
        world = self.world(pick)
        undone = [e for e in world.edits if e.undone]
        if undone:
            self.back_or_forth(world, chosen(undone, which), False)

    def back_or_forth(self, world, edit, must):
        """Undo an edit, or do it again; either as it has to be or refused, and then nothing is changed."""
        seg, model = world
        token = seg.view().token
        try:
            mutation = (seg.redo if edit.undone else seg.undo)(edit.mutation, user="lu")
        except LaterMutations:
            assert not must
            assert seg.view().token == token
            return
        if edit.undone:
            world.edits.remove(edit)
            world.edits.append(edit)  # it now comes after those that were done meanwhile
        edit.undone = not edit.undone
        world.adopt(world.without(), (mutation, "lu", ""))

    @rule(pick=PICK, choice=st.tuples(PICK, PICK))
    def agglomerate_as_loaders_do(self, pick, choice):
        """POST mappings and POST indices: nothing is checked, so the loader says both."""
        seg, model = world = self.world(pick)
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
        world.forget()

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
        here = [[*grid.offset[::-1], 1]]
        sv = svs[0] if svs else UNKNOWN
        whole = rles.rles_from_mask(model.voxels == np.uint64(sv), grid.offset)
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
            lambda: seg.split_supervoxel(UNKNOWN, here),
            lambda: seg.split_supervoxel(0, here),
            lambda: seg.split_supervoxel(sv, np.empty((0, 4), int)),
            lambda: seg.split_supervoxel(sv, whole),
            lambda: seg.split_supervoxel(sv, np.concatenate([whole[:1], whole[:1]])),
            lambda: seg.split_supervoxel(sv, whole[:1], split=sv, remain=UNKNOWN),
            lambda: seg.split_supervoxel(sv, whole[:1], split=bodies[0], remain=UNKNOWN),
            lambda: seg.split_supervoxel(sv, whole[:1], split=UNKNOWN, remain=UNKNOWN),
            lambda: seg.split_supervoxel(sv, [[2**31 - 2, 0, 0, 5]]),
            lambda: seg.split_supervoxel(sv, [[0, 0, 0, -1]]),
            lambda: seg.split(UNKNOWN, here),
            lambda: seg.split(body, [[0, 0, 10_000, 5]]),
            lambda: seg.split(body, rles.rles_from_mask(model.as_bodies() == np.uint64(body), grid.offset)),
            lambda: seg.undo(2),
            lambda: seg.redo(2),
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
            with pytest.raises((BadRequest, NotFound, ValueError)):
                wrong()
        with pytest.raises(NotFound):
            seg.index(UNKNOWN)
        assert seg.view().token == token
        assert seg.next_labels.next == ids

    @rule(pick=PICK)
    def refuse_at_committed(self, pick):
        found = [w for w in self.worlds if w.seg.version.locked]
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


def some_of(mask, seed):
    """Some of the voxels of a mask, not all: a half-space and a few at random."""
    rng = np.random.default_rng(seed)
    where = np.argwhere(mask)
    axis, cut = rng.integers(0, 3), chosen(where, seed)
    side = where[:, axis] <= cut[axis]
    side ^= rng.random(len(side)) < 0.05
    side[0], side[-1] = True, False
    out = np.zeros_like(mask)
    out[tuple(where[side].T)] = True
    return out


def seg_index(label):
    zyx, one = np.zeros((1, 3), np.int32), np.ones(1, np.uint64)
    return LabelIndex(label, zyx, one, one.astype(np.uint32))


PROFILE = {"deadline": None, "suppress_health_check": list(HealthCheck)}
# shrinking takes minutes: the long profile does it
SHORT = [Phase.explicit, Phase.reuse, Phase.generate]

TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=20, phases=SHORT, **PROFILE)


class ManyHistories(Histories):
    bodies_looked_at = 100


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_histories():
    run_state_machine_as_test(ManyHistories, settings=settings(max_examples=600, stateful_step_count=60, **PROFILE))
