"""Two branches of a segmentation come together: what both edited is there, what contradicts itself is listed.

Index, mapping, voxels and scales agree after each merge.

Random programs on two sides are merged both ways. What comes out is compared with plain numpy on the dense volumes, and
with rules that hold for bodies whatever was done.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.bases.base import Base
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.errors import BadRequest, LaterMutations
from dvid_dask.formats import rles
from dvid_dask.ops.adopt_labels import adopt_labels

from .bases import save

SHAPE = (32, 32, 32)
CELLS = (4, 4, 4)


def cells(names):
    return np.asarray(names, np.uint64).reshape(CELLS).repeat(8, 0).repeat(8, 1).repeat(8, 2)


START = cells(np.arange(1, 65))


@pytest.fixture(scope="module", autouse=True, params=["written", "adopted"])
def _origin(request, tmp_path_factory):
    """Merges are the same whether voxels were written or lie in a base."""
    global fill

    def write(seg):
        seg.write(START, (0, 0, 0))

    def adopt(seg):
        adopt_labels(base, seg, progress=False)

    base = Base.find(save(tmp_path_factory.mktemp("base"), START))
    fill = write if request.param == "written" else adopt


def family(edit=lambda seg: None, levels=1, url="memory://"):
    """A committed version with 64 supervoxels, and the segmentation in two children of it."""
    repo = dvid_dask.create(url, compact="never").new_repo("fly")
    seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16", "MaxDownresLevel": str(levels)})
    fill(seg)
    edit(seg)
    root = seg.version
    root.commit()
    return seg, root.newversion()["segmentation"], root.new_branch("other")["segmentation"]


def merged(*segs, resolve=False):
    for seg in segs:
        if not seg.version.locked:
            seg.version.commit()
    repo = segs[0].repo
    parents = [seg.version for seg in segs]
    version = repo.resolve(["segmentation"], parents) if resolve else repo.merge(parents)
    out = version["segmentation"]
    assert not list(out.verify()), [p.text for p in out.verify()][:5]
    return out


def conflicts(seg):
    return [c.what for c in seg.version.conflicts]


def voxels(seg):
    return seg.read((0, 0, 0), SHAPE, supervoxels=True)


def bodies(seg, ids):
    return seg.mapping(ids).tolist()


def half(seg, sv, axis=2):
    """Runs of about half a supervoxel."""
    mask = voxels(seg) == sv
    middle = int(np.median(np.argwhere(mask)[:, axis]))
    line = [1, 1, 1]
    line[axis] = -1
    return rles.rles_from_mask(mask & (np.arange(32).reshape(line) < middle))


# ------------------------------------------------------------------ one case each


def test_merged_on_one_side_and_written_on_the_other():
    seg, a, b = family()
    a.merge(1, [2])
    painted = START[:16, :16, :16].copy()
    painted[:4] = 2
    b.write(painted, (0, 0, 0))
    for m in (merged(a, b), merged(b, a)):
        assert conflicts(m) == []
        assert bodies(m, [1, 2]) == [1, 1]
        assert (voxels(m)[:4, :16, :16] == 2).all()
        assert m.size(1) == int((painted == 1).sum() + (painted == 2).sum())


@pytest.mark.parametrize("order", [1, -1])
def test_merged_on_one_side_and_cut_on_the_other(order):
    seg, a, b = family()
    a.merge(1, [2])
    split, remain, _ = b.split_supervoxel(2, half(b, 2))
    m = merged(*[a, b][::order])
    assert conflicts(m) == []
    assert bodies(m, [1, 2, split, remain]) == [1, 0, 1, 1]
    assert (voxels(m) == voxels(b)).all()
    assert [row[1:] for _, rows in m.supervoxel_splits() for row in rows.tolist()] == [[2, remain, split]]


@pytest.mark.parametrize("order", [1, -1])
def test_disjoint_merges_in_one_page_of_the_mapping(order):
    seg, a, b = family()
    a.merge(1, [2])
    b.merge(3, [4])
    m = merged(*[a, b][::order])
    assert conflicts(m) == []
    assert bodies(m, [1, 2, 3, 4]) == [1, 1, 3, 3]


@pytest.mark.parametrize("order", [1, -1])
def test_merges_of_both_sides_make_one_body(order):
    seg, a, b = family()
    a.merge(1, [2])
    b.merge(2, [3])
    m = merged(*[a, b][::order])
    assert conflicts(m) == []
    assert bodies(m, [1, 2, 3]) == [1, 1, 1]


def test_the_same_two_bodies_merged_either_way_round():
    seg, a, b = family()
    a.merge(1, [2])
    b.merge(2, [1])
    assert bodies(merged(a, b), [1, 2]) == [1, 1]
    assert bodies(merged(b, a), [1, 2]) == [2, 2]


@pytest.mark.parametrize("order", [1, -1])
def test_a_renumbered_body_gets_what_was_merged_into_it(order):
    seg, a, b = family()
    a.renumber([(100, 1)])
    b.merge(1, [2])
    b.merge(3, [4])
    new, _ = b.cleave(1, [2])
    b.merge(1, [3])
    m = merged(*[a, b][::order])
    assert conflicts(m) == []
    assert bodies(m, [1, 2, 3, 4]) == [100, new, 100, 100]


def test_a_supervoxel_moved_to_different_bodies():
    seg, a, b = family()
    a.merge(1, [3])
    b.merge(2, [3])
    b.merge(10, [11])
    m, n = merged(a, b), merged(b, a)
    assert bodies(m, [1, 2, 3, 10, 11]) == [1, 2, 1, 10, 10]
    assert bodies(n, [1, 2, 3, 10, 11]) == [1, 2, 2, 10, 10]
    assert conflicts(m) == [{"supervoxels": [3], "body": 3, "moved to": [1, 2]}]
    assert conflicts(n) == [{"supervoxels": [3], "body": 3, "moved to": [2, 1]}]
    assert "moved to" in m.version.log[0]
    found = next(iter(m.version.conflicts))
    assert (found.instance, found.base) == ("segmentation", seg.version.uuid)
    assert found.parents == (a.version.uuid, b.version.uuid)
    resolved = merged(b, a, resolve=True)
    assert conflicts(resolved) == []
    assert bodies(resolved, [3]) == [2]


def test_merged_on_one_side_and_cleaved_apart_on_the_other():
    seg, a, b = family(lambda seg: seg.merge(2, [3]))
    a.merge(1, [2])
    new, _ = b.cleave(2, [3])
    m, n = merged(a, b), merged(b, a)
    assert bodies(m, [1, 2, 3]) == [1, 1, 1]
    assert bodies(n, [1, 2, 3]) == [1, 1, new]
    assert conflicts(m) == [{"supervoxels": [3], "body": 2, "moved to": [1, new]}]
    assert len(conflicts(n)) == 1


def test_cut_differently_on_both_sides():
    seg, a, b = family()
    one, two = a.split_supervoxel(5, half(a, 5)), b.split_supervoxel(5, half(b, 5, axis=0))
    b.merge(1, [2])
    for first, second, kept, lost in ((a, b, one, two), (b, a, two, one)):
        m = merged(first, second)
        assert (voxels(m) == voxels(first)).all()
        assert bodies(m, [5, kept.split, kept.remain, lost.split, lost.remain]) == [0, 5, 5, 0, 0]
        assert bodies(m, [1, 2]) == [1, 1]
        assert [c["supervoxel"] for c in conflicts(m)] == [5]
        assert [row[1] for _, rows in m.supervoxel_splits() for row in rows.tolist()] == [5]


def test_voxels_written_differently():
    seg, a, b = family()
    one, two = START[:16, :16, :16].copy(), START[:16, :16, :16].copy()
    one[:2], two[1:3] = 70, 71
    one[10:] = two[10:] = 72
    a.write(one, (0, 0, 0))
    b.write(two, (0, 0, 0))
    m = merged(a, b)
    expected = one.copy()
    expected[2] = 71
    assert (voxels(m)[:16, :16, :16] == expected).all()
    assert conflicts(m) == [{"block": [0, 0, 0], "voxels written differently": 256}]
    assert merged(b, a).max_label() == 72


def test_a_write_of_a_supervoxel_that_the_other_side_has_cut():
    """The voxels get to the rest: they don't lie under what was split off."""
    seg, a, b = family()
    split, remain, _ = a.split_supervoxel(5, half(a, 5))
    new = START[16:, 16:, 16:].copy()
    new[:3] = 5
    b.write(new, (16, 16, 16))
    for m in (merged(a, b), merged(b, a)):
        assert conflicts(m) == []
        assert (voxels(m)[16:19, 16:, 16:] == remain).all()
        assert m.mapping([5]).tolist() == [0]
        assert m.size(5) == 512 + 3 * 256


def test_body_split_and_moved_whole_on_the_other_side():
    seg, a, b = family(lambda seg: seg.merge(1, [2, 3]))
    mask = np.isin(START, [2, 3]) & (np.arange(32) < 12)
    new, _ = b.split(1, rles.rles_from_mask(mask))
    a.merge(60, [1])
    m = merged(b, a)
    sizes = {body: m.size(body) for body in (60, new)}
    assert sizes == {60: 512 + b.size(1), new: b.size(new)}
    assert all(what["moved to"] == [new, 60] for what in conflicts(m))


def test_ids_in_use_on_both_sides():
    seg, a, b = family()
    a.renumber([(100, 1)])
    b.renumber([(100, 2)])
    m = merged(a, b)
    assert bodies(m, [1, 2]) == [100, 2]
    assert len(conflicts(m)) == 1
    seg, a, b = family()
    new, _ = a.cleave(a.merge(1, [2]) and 1, [2])
    written = START[:16, :16, :16].copy()
    written[:] = new  # chosen by a user, not handed out
    b.write(written, (0, 0, 0))
    m = merged(a, b)
    assert (voxels(m) == START).all()
    assert conflicts(m) == [{"supervoxel": new, "id": "retired on one side, written on the other"}]
    n = merged(b, a)
    assert len(conflicts(n)) >= 1


def test_split_into_ids_that_the_other_side_uses():
    seg, a, b = family()
    a.write(np.full((16, 16, 16), 500, np.uint64), (16, 16, 16))
    b.split_supervoxel(1, half(b, 1), split=500, remain=501)
    m = merged(a, b)
    assert (voxels(m) == voxels(a)).all()
    assert [c["supervoxel"] for c in conflicts(m)] == [1]


@pytest.mark.parametrize("body", [None, 7, 901])
@pytest.mark.parametrize("cut_again", [False, True])
def test_an_id_that_one_side_splits_off_and_the_other_writes(body, cut_again):
    """What was written is another thing than the part: it gets to no body of the first parent."""
    seg, a, b = family()
    a.split_supervoxel(5, half(a, 5), split=901, remain=902)
    if cut_again:
        a.split_supervoxel(901, half(a, 901, axis=0), split=903, remain=904)
    written = START[16:, 16:, 16:].copy()
    written[:2] = 901
    written[3:5] = 900
    b.write(written, (16, 16, 16))
    if body:
        b.merge(body, [7 if body == 901 else 901])
    m = merged(a, b)
    after = voxels(a)
    after[19:21, 16:, 16:] = 900
    assert (voxels(m) == after).all()
    assert conflicts(m) == [{"supervoxel": 901, "id": "of a part on one side, written on the other"}]
    assert bodies(m, [5, 7, 901, 902]) == [0, body if body == 901 else 7, 0 if cut_again else 5, 5]
    assert m.size(5) == 512
    n = merged(b, a)
    assert (voxels(n) == voxels(b)).all()
    assert conflicts(n) == [{"supervoxel": 5, "cut": "on both sides, or into ids that are in use"}]
    assert bodies(n, [5, 7, 901]) == [5, body if body == 901 else 7, body or 901]


def test_identical_edits_are_no_contradiction():
    seg, a, b = family()
    for side in (a, b):
        side.merge(1, [2, 3])
        side.split_supervoxel(9, half(seg, 9), split=200, remain=201)
        side.renumber([(300, 10)])
    m = merged(a, b)
    assert conflicts(m) == []
    assert bodies(m, [1, 2, 3, 9, 200, 201, 10]) == [1, 1, 1, 0, 9, 9, 300]


def test_three_parents_and_one_above_another():
    seg, a, b = family()
    c = seg.version.new_branch("third")["segmentation"]
    a.merge(1, [2])
    b.merge(2, [3])
    c.merge(3, [4])
    c.split_supervoxel(5, half(c, 5))
    for order in itertools.permutations((a, b, c)):
        m = merged(*order)
        assert conflicts(m) == []
        assert len(set(bodies(m, [1, 2, 3, 4]))) == 1
        assert m.size(bodies(m, [1])[0]) == 4 * 512
    below = b.version.new_branch("below")["segmentation"]
    below.cleave(2, [3])
    assert bodies(merged(b, below), [2, 3]) == bodies(below, [2, 3])
    assert bodies(merged(below, b), [2, 3]) == bodies(below, [2, 3])


def test_criss_cross_merges():
    seg, a, b = family()
    a.merge(1, [2])
    b.merge(3, [4])
    one, two = merged(a, b), merged(b, a)
    one.cleave(1, [2])
    two.merge(1, [5])
    for order in ((one, two), (two, one)):
        m = merged(*order)
        assert conflicts(m) == []
        assert bodies(m, [1, 3, 4, 5]) == [1, 3, 3, 1]
        assert bodies(m, [2]) == bodies(one, [2])


def test_what_is_kept_of_both_sides():
    seg, a, b = family()
    a.merge(1, [2], user="ann")
    first, last = b.allocate_labels(50)
    b.write(np.full((16, 16, 16), 9, np.uint64), (32, 0, 0))
    b.merge(3, [4], user="ben")
    m = merged(a, b)
    assert m.max_label() >= last
    assert m.extents.stop == (48, 32, 32)
    assert m.header(1).stamp.user == "ann"
    assert m.header(3).stamp.user == "ben"
    assert m.next_labels.next > last
    assert [r["Action"] for r in a.mutations()] == ["merge-complete"]
    # the logs of both sides are in the new version's tree
    logs = {k.split(b"/")[2] for k in m.version.tree().view().keys(b"log/", b"log0")}
    assert {b"%08x" % s.version.id for s in (a, b)} <= logs


def test_one_side_has_changed_nothing():
    seg, a, b = family()
    b.merge(1, [2])
    b.split_supervoxel(3, half(b, 3))
    for m in (merged(a, b), merged(b, a)):
        space, theirs = m.view(0), b.view(0)
        assert dict(space.scan(b"B")) == dict(theirs.scan(b"B"))
        assert dict(space.scan(b"I")) == dict(theirs.scan(b"I"))
        assert dict(space.scan(b"M")) == dict(theirs.scan(b"M"))


def test_large_bodies_move_page_by_page(monkeypatch):
    from dvid_dask.datatypes.labelmap import index
    from dvid_dask.datatypes.labelmap.merges import carrying

    monkeypatch.setattr(index, "SMALL", 4)
    monkeypatch.setattr(carrying, "_LARGE", 4)
    monkeypatch.setattr(carrying, "_ROWS", 8)
    monkeypatch.setattr(carrying, "_BLOCKS", 2)
    seg, a, b = family(lambda seg: (seg.merge(1, range(2, 20)), seg.merge(30, range(31, 60))))
    a.merge(20, [30])
    a.cleave(1, [2, 3, 4, 5])
    b.merge(1, [22, 23])
    b.split_supervoxel(40, half(b, 40))
    for m in (merged(a, b), merged(b, a)):
        assert conflicts(m) == []
        assert m.size(20) == 512 * 31
        assert m.size(1) == 512 * 17


# ------------------------------------------------------------------ random programs


class Side:
    """One branch: random edits, each by chance, and what they made."""

    def __init__(self, seg, rng):
        self.seg = seg
        self.rng = rng

    def some(self, values, n=1):
        return self.rng.permutation(np.asarray(values, np.uint64))[:n].tolist()

    def run(self, times):
        for _ in range(times):
            kind = self.rng.choice(KINDS)
            if not self.voxels_left():
                return  # the first write was taken back
            try:
                getattr(self, kind)()
            except (BadRequest, LaterMutations):
                continue

    def voxels_left(self):
        return len(list(self.seg.bodies())) > 1

    def merge(self):
        target, *others = self.some(list(self.seg.bodies()), int(self.rng.integers(2, 4)))
        self.seg.merge(target, others)

    def cleave(self):
        several = [b for b in self.seg.bodies() if len(self.seg.supervoxels_of(b).id) > 1]
        if several:
            (body,) = self.some(several)
            svs = self.seg.supervoxels_of(body).id
            self.seg.cleave(body, self.some(svs, int(self.rng.integers(1, len(svs)))))

    def renumber(self):
        (old,) = self.some(list(self.seg.bodies()))
        # a few ids, so that both sides choose the same at times
        self.seg.renumber([(int(self.rng.choice([old + 1000, 5000, 5001, 3])), old)])

    def split_supervoxel(self):
        (sv,) = self.some([v for v in np.unique(voxels(self.seg)) if v])
        self.seg.split_supervoxel(sv, half(self.seg, sv, int(self.rng.integers(3))))

    def split(self):
        (body,) = self.some(list(self.seg.bodies()))
        mask = self.seg.read((0, 0, 0), SHAPE) == body
        middle = np.median(np.argwhere(mask)[:, 1])
        self.seg.split(body, rles.rles_from_mask(mask & (np.arange(32)[:, None] < middle)))

    def write(self):
        start = 16 * self.rng.integers(0, 2, 3)
        box = tuple(slice(int(s), int(s) + 16) for s in start)
        new = voxels(self.seg)[box].copy()
        part = tuple(slice(int(a), int(a) + int(n)) for a, n in zip(*self.rng.integers(1, 12, (2, 3)), strict=True))
        new[part] = self.some([*self.seg.supervoxels_of(self.some(list(self.seg.bodies()))[0]).id, 900, 901, 0])[0]
        self.seg.write(new, start.tolist())

    def undo(self):
        kept = [r for r in self.seg.undoable() if not r.undone]
        if kept:
            self.seg.undo(kept[int(self.rng.integers(len(kept)))].id)


KINDS = [
    "merge",
    "merge",
    "cleave",
    "cleave",
    "renumber",
    "split_supervoxel",
    "split_supervoxel",
    "split",
    "write",
    "undo",
]


class Told:
    """What a version says, as plain arrays and dictionaries."""

    def __init__(self, seg):
        self.voxels = voxels(seg)
        self.svs = {int(v) for v in np.unique(self.voxels)} - {0}
        known = Mapping(seg.view(0))
        self.entries = {i: b for ids, found in known.scan() for i, b in zip(ids.tolist(), found.tolist(), strict=True)}

    def body(self, sv):
        return self.entries.get(sv, sv)


def cuts_of(seg):
    """part -> (supervoxel, rest) of what a version has cut and not joined again."""
    view, version = seg.view(0), seg.version
    from dvid_dask.datatypes.labelmap.splits import scan_splits

    found = {}
    for rows in scan_splits(view, version.id):
        for _, old, remain, split in rows.tolist():
            found[remain] = found[split] = old, remain
    return found


def root_of(sv, cuts):
    while sv in cuts:
        sv = cuts[sv][0]
    return sv


def mapped(array, names):
    values, where = np.unique(array, return_inverse=True)
    return np.array([names(int(v)) for v in values], np.uint64)[where].reshape(array.shape)


def rests(cuts, told):
    """What is left of each supervoxel that was cut."""
    found = {}
    for root in {root_of(part, cuts) for part in cuts}:
        at = root
        while any(old == at for old, _ in cuts.values()):
            at = next(remain for old, remain in cuts.values() if old == at)
        found[root] = at
    return found


def expected_voxels(base, ours, theirs, our_cuts, their_cuts, refused):
    """The rule, voxel by voxel; and where it doesn't say since a rest was empty."""
    our_rest, their_rest = rests(our_cuts, ours), rests(their_cuts, theirs)
    twice = our_rest.keys() & their_rest.keys()

    def our_name(sv):
        return sv if sv in twice else their_rest.get(sv, sv)

    def their_name(sv):
        root = root_of(sv, their_cuts)
        return our_rest.get(root, root) if root in twice or root in refused else our_rest.get(sv, sv)

    we_wrote = mapped(ours.voxels, lambda v: root_of(v, our_cuts)) != base.voxels
    they_wrote = mapped(theirs.voxels, lambda v: root_of(v, their_cuts)) != base.voxels
    take = ~we_wrote & (they_wrote | (ours.voxels == base.voxels))
    # what they wrote under the id of a part of ours is something else
    parts = np.array(sorted(our_cuts.keys() - their_cuts.keys()), np.uint64)
    foreign = take & np.isin(theirs.voxels, parts)
    take &= ~foreign
    out = np.where(take, mapped(theirs.voxels, their_name), mapped(ours.voxels, our_name))
    differ = we_wrote & they_wrote & (mapped(ours.voxels, our_name) != mapped(theirs.voxels, their_name))
    return out, bool(differ.any()), bool(twice), {int(v) for v in np.unique(theirs.voxels[foreign])}


def check_voxels(found, base, ours, theirs, our_cuts, their_cuts, listed):
    # a cut into ids that the other side has chosen for something else does not stand
    refused = [what["supervoxel"] for what in listed if "cut" in what]
    expected, differ, twice, foreign = expected_voxels(base, ours, theirs, our_cuts, their_cuts, refused)
    same = (found.voxels == expected) | np.isin(base.voxels, np.array(refused, np.uint64))
    # an empty rest, and ids that the other side has retired, go elsewhere; both are said by the label
    rest = {*rests(our_cuts, ours).values(), *rests(their_cuts, theirs).values()}
    odd = {*rest, *(sv for sv in {*ours.svs, *theirs.svs} if ours.body(sv) == 0 or theirs.body(sv) == 0)}
    assert set(np.unique(expected[~same]).tolist()) <= odd
    assert foreign <= {what.get("supervoxel") for what in listed if "id" in what}
    assert any("voxels written differently" in what for what in listed) or not differ
    assert any("cut" in what for what in listed) or not twice


def check_bodies(found, base, ours, theirs, our_cuts, their_cuts, listed):
    """What one side did to bodies that the other left alone is there; what one side joined stays joined."""
    told = {sv for what in listed for sv in what.get("supervoxels", ())}
    whole = {what[k] for what in listed for k in ("supervoxel", "body") if k in what}
    units = []
    for sv in found.svs:
        root = root_of(sv, our_cuts) if sv in our_cuts else root_of(sv, their_cuts)
        # a side that has written the id of another's part says nothing of the part
        cuts = {}, our_cuts, their_cuts
        known = [sv == root or sv in side_cuts for side_cuts in cuts]
        sides = [side.body(sv if k else root) for side, k in zip((base, ours, theirs), known, strict=True)]
        if sv not in told and root not in whole and 0 not in sides[1:] and root in base.svs:
            units.append((sv, base.body(root), *sides[1:]))
    for mine, other in ((2, 3), (3, 2)):
        moved = [u for u in units if u[mine] != u[1]]
        touched = {b for u in units if u[other] != u[1] for b in (u[1], u[other])}
        for u in moved:
            if not {u[1], u[mine]} & (touched | whole):
                assert found.body(u[0]) == u[mine], (u, listed)
        still = [u for u in units if u[other] == u[1]]
        for u, v in itertools.combinations(still, 2):
            if u[1] != v[1] and u[mine] == v[mine] and not {u[1], v[1], u[mine]} & whole:
                assert found.body(u[0]) == found.body(v[0]), (u, v, listed)


def check_program(seed):
    rng = np.random.default_rng(seed)
    seg, a, b = family(lambda seg: Side(seg, rng).run(int(rng.integers(0, 10))), levels=int(rng.integers(0, 3)))
    for side in (a, b):
        Side(side, rng).run(int(rng.integers(1, 9)))
    told = {side: Told(side) for side in (seg, a, b)}
    cuts = {side: cuts_of(side) for side in (a, b)}
    results = []
    for ours, theirs in ((a, b), (b, a)):
        m = merged(ours, theirs)
        listed = conflicts(m)
        found = Told(m)
        sides = told[seg], told[ours], told[theirs], cuts[ours], cuts[theirs]
        check_voxels(found, *sides, listed)
        check_bodies(found, *sides, listed)
        assert m.max_label() >= max(s.max_label() for s in (ours, theirs))
        results.append((found, listed))
    (one, first), (two, second) = results
    if not first and not second:
        assert (one.voxels == two.voxels).all()
        assert classes(one) == classes(two)


def classes(told):
    groups = {}
    for sv in told.svs:
        groups.setdefault(told.body(sv), set()).add(sv)
    return {frozenset(g) for g in groups.values()}


PROFILE = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@example(4011)  # an id that one side splits off and the other writes
@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate], **PROFILE)
@given(st.integers(0, 2**32))
def test_random_programs(seed):
    check_program(seed)


@pytest.mark.long
@pytest.mark.timeout(7200)
@settings(max_examples=1500, **PROFILE)
@given(st.integers(0, 2**32))
def test_many_random_programs(seed):
    check_program(seed)


# ------------------------------------------------------------------ kills


def check_kills(url, delays):
    seg, a, b = family(url=url)
    a.merge(1, [2, 3, 4])
    a.split_supervoxel(30, half(a, 30))
    b.merge(2, [20])
    b.split_supervoxel(3, half(b, 3))
    b.write(np.full((16, 16, 16), 50, np.uint64), (16, 16, 16))
    expected = merged(a, b)
    told, ds = Told(expected), seg.repo.datastore
    acknowledged = set(seg.repo.versions)
    for delay in delays:
        command = [sys.executable, "-m", "tests.datatypes.labelmap.merger", url, a.version.uuid, b.version.uuid]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"merging\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().decode().splitlines()
        acknowledged |= {line.split()[1] for line in said if line.startswith("merged ") and len(line) == 39}
        report = ds.check()
        assert not report.problems, str(report)
        assert not report.unfinished, str(report)
    ds.state(0)
    versions = set(seg.repo.versions)
    assert acknowledged <= versions
    for uuid in versions - {seg.version.uuid, a.version.uuid, b.version.uuid}:
        found = seg.repo[uuid]["segmentation"]
        assert list(found.verify()) == []
        assert (voxels(found) == told.voxels).all()
        assert Told(found).entries == told.entries
    ds.gc(grace=0)
    ds.gc(grace=0)
    assert not ds.check().leftovers
    assert not ds.store.fsck().errors


def test_kills_in_the_middle_of_a_merge(tmp_path):
    check_kills(str(tmp_path / "store"), [0.02, 0.05])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_kills(tmp_path):
    rng = np.random.default_rng(1)
    check_kills(str(tmp_path / "store"), rng.uniform(0.001, 0.2, 100))
