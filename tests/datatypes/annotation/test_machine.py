"""Random histories of elements, bodies, voxels and versions: every query after every step says what voxels and elements
say, and what was told to followers adds up."""

from __future__ import annotations

import contextlib
import copy
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import dvid_dask
from dvid_dask.datatypes.annotation import lists, staged
from dvid_dask.datatypes.annotation.parsing import parse
from dvid_dask.errors import BadRequest, LaterMutations, NotFound

from . import follower  # noqa: F401  registers its type
from .model import Model, check, element, freeze, tallied

BLOCK = 16
SHAPE = (32, 32, 48)
NAMES = list(range(1, 19))
PICK = st.integers(0, 1000)
SEED = st.integers(0, 10_000)
KINDS = ["Unknown", "PostSyn", "PreSyn", "Gap", "Note"]
POINT = st.tuples(st.integers(-4, 52), st.integers(-4, 36), st.integers(-4, 36))  # x, y, z; some beside the voxels
TAGS = st.lists(st.sampled_from(["a", "b", "ä b", "x/y"]), max_size=2, unique=True)
RELS = st.lists(st.tuples(st.sampled_from(["PreSynTo", "GroupedWith"]), POINT), max_size=2)
ELEMENT = st.builds(
    element, POINT, st.sampled_from(KINDS), TAGS, st.dictionaries(st.sampled_from("pq"), st.text(max_size=2)), RELS
)


def voxels(seed, names):
    rng = np.random.default_rng(seed)
    cells = rng.choice(np.array([0, *names], np.uint64), tuple(n // 8 for n in SHAPE))
    return cells.repeat(8, 0).repeat(8, 1).repeat(8, 2)


class Histories(RuleBasedStateMachine):
    @initialize(seed=SEED, elements=st.lists(ELEMENT, max_size=20))
    def start(self, seed, elements):
        self.ds = dvid_dask.create("memory://", compact="never")
        version = self.ds.new_repo("fly")["master"]
        seg = version.repo.new_instance("labelmap", "seg", {"BlockSize": f"{BLOCK},{BLOCK},{BLOCK}"})
        annotation = version.repo.new_instance("annotation", "synapses")
        annotation.set_syncs(["seg"])
        version.repo.new_instance("test-tally", "counts").set_syncs(["synapses"])
        self.at, self.model = version, Model((BLOCK,) * 3)
        self.old = []
        self.serial = itertools.count()
        self.edits = []  # of elements: mutation id, elements before and after, whether it stands
        self.bodies = set(NAMES)
        self.post(elements)
        seg.write(voxels(seed, NAMES), (0, 0, 0))
        self.agree()

    @property
    def seg(self):
        return self.at["seg"]

    @property
    def annotation(self):
        return self.at["synapses"]

    def agree(self):
        self.bodies |= set(self.seg.bodies())
        check(self.annotation, self.model, self.seg, self.bodies)
        assert self.at["counts"].counts == tallied(self.annotation, self.model, self.seg)

    def body(self, pick):
        held = sorted(self.seg.bodies())
        return held[pick % len(held)] if held else 0

    # ------------------------------------------------------------------ elements

    @contextlib.contextmanager
    def edit(self):
        """An edit of elements, which may be undone later."""
        before, known = self.model.child().elements, {r.id for r in self.annotation.undoable()}
        yield
        new = {r.id for r in self.annotation.undoable()} - known
        after = self.model.child().elements
        changed = {p for p in before.keys() | after.keys() if plain_of(before, p) != plain_of(after, p)}
        assert len(new) == (1 if changed else 0)
        if new:
            self.edits.append([new.pop(), before, after, True])

    def post(self, elements):
        with self.edit():
            self.annotation.add(elements)
            self.model.post(elements)

    @rule(elements=st.lists(ELEMENT, min_size=1, max_size=12))
    def post_elements(self, elements):
        self.post(elements)
        self.agree()

    @rule(elements=st.lists(ELEMENT, min_size=1, max_size=3), bad=st.sampled_from(["kind", "tag", "pos"]))
    def post_bad(self, elements, bad):
        worst = dict(elements[-1])
        worst |= {"kind": {"Kind": "Spine"}, "tag": {"Tags": [""]}, "pos": {"Pos": [1, 2, 2**31]}}[bad]
        with pytest.raises(BadRequest):
            self.annotation.add([*elements, worst])
        self.agree()

    @rule(picks=st.lists(PICK, min_size=1, max_size=4))
    def delete(self, picks):
        there = sorted(self.model.elements)
        if there:
            gone = {there[p % len(there)] for p in picks}
            with self.edit():
                self.annotation.delete([p[::-1] for p in gone])
                self.model.delete(*gone)
            self.agree()

    @rule(pick=PICK, end=POINT)
    def move(self, pick, end):
        there = sorted(self.model.elements)
        if there:
            start = there[pick % len(there)]
            with self.edit():
                self.annotation.move(start[::-1], end[::-1])
                self.model.move(start, end)
            self.agree()

    @rule(elements=st.lists(ELEMENT, min_size=1, max_size=4))
    def put_block(self, elements):
        block = self.model.block(elements[0]["Pos"])
        inside = {tuple(e["Pos"]): e for e in elements if self.model.block(e["Pos"]) == block}
        with self.edit():
            self.annotation.put_blocks({block: parse(dvid_json(list(inside.values())))})
            self.model.put_block(block, list(inside.values()))
        self.agree()

    @rule(pick=PICK)
    def undo_elements(self, pick):
        if not self.edits:
            return
        edit = self.edits[-1 - pick % min(4, len(self.edits))]
        mutation, before, after, stands = edit
        if not stands:
            before, after = after, before
        changed = [p for p in before.keys() | after.keys() if plain_of(before, p) != plain_of(after, p)]
        now = self.model.elements
        possible = all(plain_of(now, p) in (plain_of(after, p), plain_of(before, p)) for p in changed)
        act = self.annotation.undo if stands else self.annotation.redo
        if possible:
            act(mutation)
            edit[3] = not stands
            for p in changed:
                now.pop(p, None)
                if p in before:
                    now[p] = copy.deepcopy(before[p])
        else:
            with pytest.raises(LaterMutations):
                act(mutation)
        self.agree()

    @rule(pick=PICK, elements=st.lists(ELEMENT, max_size=3, unique_by=lambda e: tuple(e["Pos"])))
    def label_lists_as_given(self, pick, elements):
        body = self.body(pick)
        if body:
            self.annotation.put_label_lists({body: parse(dvid_json(elements))})
            held = [freeze({**e, "Rels": []}) for e in elements]
            from .model import rows

            assert sorted(rows(self.annotation.listed(body))) == sorted(held)
            assert self.annotation.needs_reload
            self.annotation.reload()
            assert not self.annotation.needs_reload
            self.agree()

    @rule(check=st.booleans())
    def reload(self, check):
        assert self.annotation.reload(check=check) == 0
        self.agree()

    # ------------------------------------------------------------------ the segmentation

    @rule(picks=st.lists(PICK, min_size=2, max_size=5))
    def merge(self, picks):
        target, *others = dict.fromkeys(self.body(p) for p in picks)
        if target and others:
            self.seg.merge(target, others)
            self.agree()

    @rule(pick=PICK, seed=SEED)
    def cleave(self, pick, seed):
        body = self.body(pick)
        svs = self.seg.supervoxels_of(body).id if body else []
        if len(svs) > 1:
            rng = np.random.default_rng(seed)
            self.seg.cleave(body, rng.choice(svs, rng.integers(1, len(svs)), replace=False))
            self.agree()

    @rule(pick=PICK)
    def renumber(self, pick):
        body = self.body(pick)
        if body:
            self.seg.renumber([(self.seg.allocate_labels()[0], body)])
            self.agree()

    @rule(pick=PICK, part=st.floats(0.1, 0.9))
    def split(self, pick, part):
        body = self.body(pick)
        if body:
            runs = self.seg.sparse(body).all_runs()
            with contextlib.suppress(BadRequest):
                self.seg.split(body, runs[: int(part * len(runs))])
            self.agree()

    @rule(pick=PICK, part=st.floats(0.1, 0.9))
    def split_supervoxel(self, pick, part):
        body = self.body(pick)
        if body:
            svs = self.seg.supervoxels_of(body).id.tolist()
            sv = svs[pick % len(svs)]
            runs = self.seg.sparse(sv, supervoxels=True).all_runs()
            with contextlib.suppress(BadRequest):
                self.seg.split_supervoxel(sv, runs[: int(part * len(runs))])
            self.agree()

    @rule(seed=SEED)
    def write(self, seed):
        names = NAMES if seed % 2 else NAMES[:3]
        with contextlib.suppress(BadRequest):  # of retired supervoxels
            self.seg.write(voxels(seed, names)[:16, :32, : 16 * (1 + seed % 3)], (0, 0, 0))
        self.agree()

    @rule(pick=PICK, to=PICK)
    def map_directly(self, pick, to):
        """Without a look at the index, as bulk loaders do; and back, since a labelmap would contradict itself."""
        source, target = self.body(pick), self.body(to)
        if source and source != target:
            svs = self.seg.supervoxels_of(source).id
            before = self.seg.mapping(svs)
            self.seg.set_mappings(svs, target)
            check(self.annotation, self.model, self.seg, self.bodies)
            self.seg.set_mappings(svs, before)
            self.agree()

    @rule(pick=PICK)
    def undo(self, pick):
        known = [r for r in self.seg.undoable() if r.action != "mappings"][-3:]
        if known:
            edit = known[pick % len(known)]
            with contextlib.suppress(LaterMutations, BadRequest, NotFound):
                (self.seg.redo if edit.undone else self.seg.undo)(edit.id)
            self.agree()

    # ------------------------------------------------------------------ versions

    @rule(pick=PICK)
    def branch(self, pick):
        """Go on in a child, sometimes in one of an older version."""
        self.at.commit()
        self.old.append((self.at, self.model.child()))
        start, model = self.old[-1 if pick % 3 else pick % len(self.old)]
        self.at, self.model = start.new_branch(f"b{next(self.serial)}"), model.child()
        self.edits = []
        self.agree()

    def teardown(self):
        for version, model in getattr(self, "old", [])[-4:]:
            check(version["synapses"], model, version["seg"], self.bodies)


def plain_of(elements, position):
    return freeze(elements[position]) if position in elements else None


def dvid_json(elements):
    import msgspec

    return msgspec.json.encode(elements)


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(lists, "INLINE", 3)
    monkeypatch.setattr(lists, "PAGE", 4)


@pytest.fixture
def small_parts(monkeypatch):
    """Posts of a few elements are made in parts, on a branch."""
    monkeypatch.setattr(staged, "STAGED", 3)
    monkeypatch.setattr(staged, "_PART", 2)
    monkeypatch.setattr(staged, "_BLOCKS", 1)
    monkeypatch.setattr(staged, "_LISTS", 1)


@pytest.mark.usefixtures("small_pages", "small_parts")
def test_histories_of_large_edits():
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=6,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )


@pytest.mark.usefixtures("small_pages")
def test_histories():
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=12,
            stateful_step_count=14,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )


@pytest.mark.long
@pytest.mark.usefixtures("small_pages")
@pytest.mark.timeout(7200)
def test_long_histories():
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
