"""Random programs over one repository: single edits, bulk jobs, ingests, undo, branches and merges of versions, with an
annotation and its counts following the segmentation.

What each edit means is tested beside it. Here everything goes on at once, and after each step the voxels, the label
index, the elements' lists and the counts have to agree, as plain numpy and dictionaries say it and as fsck does; an
undo of what came last gives back what was before.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask import ops
from dvid_dask.datatypes.annotation import KINDS as KINDS_BY_NUMBER
from dvid_dask.errors import BadRequest, Conflict, LaterMutations

BLOCK = 16
SHAPE = (32, 32, 48)
KINDS = ("PostSyn", "PreSyn", "Note")
INDEX_TYPES = {
    "PostSyn": ("PostSyn",),
    "PreSyn": ("PreSyn",),
    "Note": ("Note",),
    "AllSyn": ("PostSyn", "PreSyn", "Gap"),
}


def cells(rng, names):
    """Random labels in cells of 8 voxels."""
    drawn = rng.choice(np.array([0, *names], np.uint64), tuple(n // 8 for n in SHAPE))
    return drawn.repeat(8, 0).repeat(8, 1).repeat(8, 2)


class World:
    """A repository and the versions that a program has open."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.ds = dvid_dask.create("memory://", compact="never")
        root = self.ds.new_repo("fly")["master"]
        settings = {"BlockSize": f"{BLOCK},{BLOCK},{BLOCK}", "MaxDownresLevel": str(self.rng.integers(0, 3))}
        root.repo.new_instance("labelmap", "seg", settings)
        root.repo.new_instance("annotation", "syn").set_syncs(["seg"])
        root.repo.new_instance("labelsz", "counts").set_syncs(["syn"])
        self.repo, self.open, self.serial, self.trail = root.repo, [root], itertools.count(), []
        self.elements = {root.uuid: {}}  # version -> {(z, y, x): kind}
        root["seg"].write(cells(self.rng, range(1, 12)), (0, 0, 0))
        self.add(root)

    # ------------------------------------------------------------------ choices

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def body(self, seg):
        return int(self.pick(list(seg.bodies()) or [0]))

    def some(self, array):
        return self.rng.choice(array, self.rng.integers(1, len(array) + 1), replace=False)

    # ------------------------------------------------------------------ elements

    def add(self, at):
        points = {tuple(int(v) for v in self.rng.integers(-3, np.array(SHAPE) + 3)) for _ in range(12)}
        made = {p: self.pick(KINDS) for p in points}
        at["syn"].add([{"Pos": list(p[::-1]), "Kind": k, "Tags": [], "Prop": {}, "Rels": []} for p, k in made.items()])
        self.elements[at.uuid] |= made

    def delete(self, at):
        held = sorted(self.elements[at.uuid])
        if held:
            gone = [held[i] for i in self.rng.choice(len(held), min(3, len(held)), replace=False)]
            at["syn"].delete(gone)
            for p in gone:
                del self.elements[at.uuid][p]

    def move(self, at):
        held = sorted(self.elements[at.uuid])
        if held:
            start, end = self.pick(held), tuple(int(v) for v in self.rng.integers(0, SHAPE))
            at["syn"].move(start, end)
            self.elements[at.uuid][end] = self.elements[at.uuid].pop(start)

    def reload(self, at):
        assert at["syn"].reload(check=bool(self.rng.integers(2))) == 0

    # ------------------------------------------------------------------ single edits

    def merge(self, at):
        target, *others = dict.fromkeys(self.body(at["seg"]) for _ in range(4))
        if others and target:
            at["seg"].merge(target, others)

    def cleave(self, at):
        body = self.body(at["seg"])
        at["seg"].cleave(body, self.some(at["seg"].supervoxels_of(body).id))

    def split(self, at):
        seg = at["seg"]
        body = self.body(seg)
        runs = seg.sparse(body).all_runs()
        seg.split(body, runs[: 1 + self.rng.integers(len(runs))])

    def split_supervoxel(self, at):
        seg = at["seg"]
        sv = int(self.pick(seg.supervoxels_of(self.body(seg)).id))
        runs = seg.sparse(sv, supervoxels=True).all_runs()
        chosen = {} if self.rng.integers(2) else {"split": int(self.rng.integers(20, 60))}
        seg.split_supervoxel(sv, runs[: 1 + self.rng.integers(len(runs))], **chosen)

    def renumber(self, at):
        new = at["seg"].allocate_labels()[0] if self.rng.integers(2) else int(self.rng.integers(1, 60))
        at["seg"].renumber([(new, self.body(at["seg"]))])

    def write(self, at):
        size = BLOCK * self.rng.integers(1, [n // BLOCK + 1 for n in SHAPE])
        labels = cells(self.rng, self.rng.integers(1, 60, 5))
        at["seg"].write(labels[tuple(slice(0, n) for n in size)], (0, 0, 0))

    # ------------------------------------------------------------------ bulk jobs

    def ingest(self, at):
        ops.ingest(
            cells(self.rng, self.rng.integers(1, 60, 4))[: 8 * self.rng.integers(1, 5)], at["seg"], progress=False
        )

    def agglomerate(self, at):
        svs = np.concatenate([at["seg"].supervoxels_of(self.body(at["seg"])).id for _ in range(3)])
        svs = np.unique(svs)
        bodies = self.rng.choice(np.array([*at["seg"].bodies(), 70, 71], np.uint64), len(svs))
        ops.agglomerate(at["seg"], np.stack([svs, bodies], axis=1), progress=False)

    def edit(self, at):
        seg = at["seg"]
        a, b, c, d = (self.body(seg) for _ in range(4))
        svs = self.some(seg.supervoxels_of(c).id)
        groups = self.rng.integers(0, 2, len(svs)).astype(np.uint64)
        ops.edit(
            seg,
            merges=np.array([[a, b]], np.uint64),
            cleaves=np.stack([np.full(len(svs), c, np.uint64), svs, groups], axis=1),
            renumber=np.array([[d, self.rng.integers(60, 90)]], np.uint64),
            progress=False,
        )

    def split_by(self, at):
        ops.split_by(
            at["seg"], (np.indices(SHAPE).sum(0) // self.rng.integers(20, 60)).astype(np.uint8), progress=False
        )

    # ------------------------------------------------------------------ undo

    def undo(self, at):
        seg = at["seg"]
        known = list(seg.undoable())[-4:]
        if known:
            record = self.pick(known)
            (seg.redo if record.undone else seg.undo)(record.id)

    # ------------------------------------------------------------------ versions

    def branch(self, at):
        at.commit()
        self.open.remove(at)
        for _ in range(2):
            child = at.new_branch(f"b{next(self.serial)}")
            self.elements[child.uuid] = dict(self.elements[at.uuid])
            self.open.append(child)

    def join(self, at):
        others = [v for v in self.open if v.uuid != at.uuid]
        if not others:
            return
        other = self.pick(others)
        common = self.repo[next(u for u in ancestry(at) if u in set(ancestry(other)))]
        for version in (at, other):
            version.commit()
            self.open.remove(version)
        merged = self.repo.merge([at, other])
        base, ours, theirs = (self.elements[v.uuid] for v in (common, at, other))
        held = {}
        for p in {*ours, *theirs}:
            mine, their = ours.get(p), theirs.get(p)
            value = their if mine == base.get(p) else mine
            if value is not None:
                held[p] = value
        # sides that contradict each other, and several common ancestors, are a matter of annotation's own tests
        self.elements[merged.uuid] = dict(read_elements(merged["syn"]))
        contradict = {p for p in {*ours, *theirs} if base.get(p) not in (ours.get(p), theirs.get(p))}
        if len(ancestry(at)) + len(ancestry(other)) < 7 and not contradict:
            assert self.elements[merged.uuid] == held
        self.open.append(merged)

    # ------------------------------------------------------------------ agreement

    def agree(self, at):
        seg, syn, counts = at["seg"], at["syn"], at["counts"]
        assert list(seg.verify()) == []
        bodies = seg.read((0, 0, 0), SHAPE)
        held = self.elements[at.uuid]
        assert dict(read_elements(syn)) == held
        lists = {}
        for p, kind in held.items():
            inside = all(0 <= v < n for v, n in zip(p, SHAPE, strict=True))
            body = int(bodies[p]) if inside else 0
            if body:
                lists.setdefault(body, Counter())[kind, p] += 1
        for body in {*seg.bodies(), *lists}:
            found = Counter()
            for part in syn.listed(body):
                found.update(zip(kinds_of(part), map(tuple, part.zyx.tolist()), strict=True))
            assert found == lists.get(body, Counter()), body
            for index_type, kinds in INDEX_TYPES.items():
                wanted = sum(n for (kind, _), n in lists.get(body, Counter()).items() if kind in kinds)
                assert counts.count(body, index_type) == wanted, (body, index_type)

    STEPS = (
        ["add", "delete", "move", "reload"]
        + 2 * ["merge", "cleave", "split", "split_supervoxel", "renumber", "write"]
        + ["ingest", "agglomerate", "edit", "split_by"]
        + 4 * ["undo"]
        + ["branch", "join"]
    )

    def step(self):
        at, name = self.pick(self.open), self.pick(self.STEPS)
        self.trail.append((name, at.uuid[:6]))
        seg = at["seg"]
        known = {r.id for r in seg.undoable()}
        before = (seg.read((0, 0, 0), SHAPE), seg.read((0, 0, 0), SHAPE, supervoxels=True))
        try:
            getattr(self, name)(at)
        except (BadRequest, Conflict, LaterMutations) as refused:
            self.trail[-1] += (str(refused)[:60],)
            for job in ops.unfinished_jobs(seg):
                ops.abandon(seg, job)
            assert (seg.read((0, 0, 0), SHAPE) == before[0]).all()
        if at in self.open:
            self.agree(at)
            made = [r.id for r in seg.undoable() if r.id not in known]
            if len(self.trail[-1]) == 2 and made and self.rng.integers(3) == 0:
                seg.undo(made[0])
                self.trail.append("undone")
                assert (seg.read((0, 0, 0), SHAPE) == before[0]).all()
                assert (seg.read((0, 0, 0), SHAPE, supervoxels=True) == before[1]).all()
                self.agree(at)
        else:
            self.agree(self.open[-1])


def ancestry(version):
    return [version.uuid, *(v.uuid for v in version.ancestors())]


def read_elements(syn):
    for _, held, _ in syn.scan():
        yield from zip(map(tuple, held.zyx.tolist()), kinds_of(held), strict=True)


def kinds_of(held):
    return [KINDS_BY_NUMBER[k] for k in held.kind.tolist()]


def check_program(seed, steps):
    world = World(seed)
    try:
        for _ in range(steps):
            world.step()
        report = world.ds.check_contents()
        assert not report.problems, str(report)
        assert not world.ds.check().problems
    except Exception as error:
        error.add_note(f"seed {seed}: {world.trail}")
        raise


@pytest.mark.parametrize("seed", range(5))
def test_programs(seed):
    check_program(seed, 25)


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_many_programs(seed):
    check_program(seed, 60)
