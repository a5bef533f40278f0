"""kill -9 in the middle of every kind of mutation.

After each kill the store opens and checks clean, every version agrees with itself (voxels, index, mapping, sums,
scales), an edit that was acknowledged is there, one that was not is there whole or not at all: the log, replayed in its
order through the model, gives the state that is read.
"""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

import dvid_dask
from dvid_dask.datatypes.labelmap.mapping import Mapping

from .editors import GRID, KINDS, Editor, matches, prepare, replay, writer_box, written
from .reads import check_index, check_lists, check_mapping, check_voxels, plain

EDITS = ["merge", "cleave", "renumber", "split_supervoxel", "split"]


class Victims:
    """A store, the model of its present version, and processes to be killed over it."""

    def __init__(self, url):
        self.url = url
        self.model = prepare(url)
        self.root = self.model.uuid
        self.next = Editor()
        self.edits = 0
        self.elements = {}  # position -> name, as acknowledged

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.next.__exit__()

    def kill(self, kinds, seed, delay):
        """One more process edits and is killed."""
        editor, self.next = self.next, Editor()  # loads while the other one works
        with editor:
            editor.start(self.url, self.root, seed=seed, kinds=kinds)
            time.sleep(delay)
            said = editor.kill()
        self.check(said, seed)

    def check(self, said, seed):
        with dvid_dask.open(self.url, compact="never") as ds:
            report = ds.check()
            assert report.ok, str(report)
            ds.repair()
            assert not ds.store.fsck().errors
            for version in ds[self.root].repo.versions.values():
                assert list(version["seg"].verify()) == []
                assert list(version["synapses"].disagreements()) == []
                assert list(version["ranks"].disagreements()) == []
            done = [words for words in said if words[0] == "done"]
            edits = [(uuid, what) for _, _, uuid, what in done if "MutationID" in what]
            self.edits += len(done)
            path = self.path_to_tip(ds)
            known = len(self.model.log)
            retold = True
            for version in path:
                if version.uuid != self.model.uuid:
                    self.model, known = self.model.child(version.uuid), 0
                new = list(version["seg"].mutations())[known:]
                retold &= self.log(version["seg"], new, [what for uuid, what in edits if uuid == version.uuid])
                if retold:
                    replay(self.model, new, ds.get_blob)
                else:
                    self.model.log += [plain(r) for r in new]
            seg = ds[path[-1].uuid]["seg"]
            if not retold or any(words[:2] == ["begin", "undo"] for words in said):
                self.adopt(seg)
            self.settle_voxels(seg, done, said, seed)
            self.settle_elements(path[-1]["synapses"], done, said)
            self.model.ids.next = max(self.model.ids.next, seg.next_labels.next)
            handed_out = [what["last"] for _, _, _, what in done if "last" in what]
            assert seg.next_labels.next > max([*handed_out, seg.max_label()])
            self.model.max_label = max(self.model.max_label, *handed_out, seg.max_label())
            for version, older in zip(path[1:], path, strict=False):
                assert version["seg"].max_label() >= older["seg"].max_label()
            check_voxels(seg, self.model)
            check_lists(seg, self.model)
            check_mapping(seg, self.model)
            self.model.stamps = {b: self.stamp(seg, b) for b in self.model.bodies()}
            check_index(seg, self.model)
            self.root = path[-1].uuid

    def log(self, seg, new, acknowledged):
        """The log has what was acknowledged, and one edit more. Says whether it tells the state: no undo did."""
        told = {r["MutationID"]: r for r in new}
        known = {what["MutationID"]: what for what in acknowledged}
        assert len(told.keys() - known.keys()) <= 1
        undoes = {what["MutationID"] for what in acknowledged if "undo" in what}
        assert known.keys() - told.keys() <= undoes  # one that joins supervoxels again has no record in DVID's log
        kept = {r.id: r for r in seg.undoable()}
        for mutation, what in known.items():
            if "undo" in what:
                assert seg.version.locked or kept[what["undo"]].latest >= mutation
            else:
                assert matches(told[mutation], what)
        return not undoes and not any("Undoes" in r or "Redoes" in r for r in new)

    def adopt(self, seg):
        """Take over what is there, which has to agree with itself."""
        self.model.voxels = seg.read(GRID.offset, GRID.shape, supervoxels=True)
        ids = sorted({*self.model.mapping, *self.model.supervoxel_ids(), *range(seg.next_labels.next)})
        found, values = Mapping(seg.view()).entries(ids)
        self.model.mapping = {i: v for i, f, v in zip(ids, found.tolist(), values.tolist(), strict=True) if f}

    @staticmethod
    def stamp(seg, body):
        stamp = seg.header(body).stamp
        return stamp.mutation, stamp.user, stamp.app

    def path_to_tip(self, ds):
        """Versions from the one the model is at to the youngest."""
        at = ds[self.model.uuid]
        path = [at]
        while at.children:
            (at,) = at.children
            path.append(at)
        return path

    def settle_voxels(self, seg, done, said, seed):
        """Of the boxes written, the last acknowledged one is there, or the one after it that was begun."""
        if not any(words[:2] == ["begin", "write"] for words in said):
            return
        last = max([what["n"] for _, kind, _, what in done if kind == "write"], default=-1)
        start = writer_box(0)
        there = seg.read(GRID.at(start), GRID.block, supervoxels=True)
        before = self.model.voxels[GRID.box(start, (1, 1, 1))].copy()
        candidates = [before if last < 0 else written(seed, last), written(seed, last + 1)]
        (found,) = [c for c in candidates if np.array_equal(c, there)][:1]
        if found is not before:
            self.model.write(start, found)

    def settle_elements(self, annotation, done, said):
        """Elements are as the last acknowledged edit left them; one more edit may have come through, as a whole."""
        table = annotation.elements()
        there = {(x, y, z): p["name"] for z, y, x, p in zip(*(table[c] for c in ("z", "y", "x", "prop")), strict=True)}
        there = {at: name for at, name in there.items() if name != "first" or at in self.elements}
        for _, _, _, what in done:
            for at, name in what.get("elements", ()):
                self.elements[tuple(at)] = name
        expected = {at: name for at, name in self.elements.items() if name is not None}
        lost, new = expected.items() - there.items(), there.items() - expected.items()
        assert len(lost) <= 2
        assert len(new) <= 1
        if not said or said[-1][0] != "begin":  # without a word: killed before it had begun
            assert not lost
            assert not new
        self.elements = there


ROUNDS = [
    ["merge"],
    ["cleave", "merge"],
    ["renumber"],
    ["split_supervoxel"],
    ["split", "merge"],
    ["write"],
    ["branch", *EDITS],
    ["undo"],
    ["annotate"],
    ["annotate", *EDITS, "write"],
    [*KINDS],
]


def test_kill_in_the_middle(tmp_path):
    with Victims(str(tmp_path / "store")) as victims:
        for seed, kinds in enumerate(ROUNDS):
            victims.kill(kinds, seed, 0.1 + 0.03 * seed)
        assert victims.edits > len(ROUNDS)  # the kills came while something was going on


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kinds", ROUNDS, ids="-".join)
def test_many_kills(tmp_path, kinds):
    rng = random.Random(str(kinds))
    with Victims(str(tmp_path / "store")) as victims:
        for seed in range(150):
            victims.kill(kinds, seed, rng.uniform(0.001, 0.4))
