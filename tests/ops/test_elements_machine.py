"""Random histories of all that follows a segmentation, in which elements also come by bulk loads: labelsz counts what a
recount counts, and tarsupervoxels has the files of every body, after each edit of bodies, voxels, elements, versions.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from dvid_dask import ops
from dvid_dask.datatypes.annotation import lists
from dvid_dask.datatypes.labelsz import INDEX_TYPES
from dvid_dask.errors import BadRequest
from dvid_dask.ops import element_lists
from tests.datatypes.annotation.model import tallied
from tests.datatypes.annotation.test_machine import ELEMENT, PICK, Histories
from tests.ops._elements_victim import smaller

ZONE = {(z, y, x) for z in (0, 1) for y in (-1, 0) for x in (0, 2)}  # blocks of 16


class Counted(Histories):
    """The histories of annotation, with counts, files of supervoxels, bulk loads and merges of versions."""

    def agree(self):
        super().agree()
        self.count_right()
        self.files_right()

    @property
    def files(self):
        """Supervoxel to file, at this version."""
        self.model.files = getattr(self.model, "files", {})
        return self.model.files

    def files_right(self):
        """Which supervoxels a body has is read off the voxels."""
        if "meshes" not in self.at:
            self.at.repo.new_instance("tarsupervoxels", "meshes", {"Extension": "obj"}).set_syncs(["seg"])
        meshes, pairs = self.at["meshes"], self.pairs()
        assert {sv: meshes[sv] for sv in meshes} == self.files
        for body in np.unique(pairs[:, 1]).tolist():
            members = np.unique(pairs[pairs[:, 1] == body, 0]).tolist()
            assert meshes.missing(body).tolist() == [sv for sv in members if sv not in self.files]
            assert list(meshes.files_of(body)) == [(sv, self.files.get(sv)) for sv in members]

    def pairs(self):
        """uint64 (n, 2): supervoxel and body of all voxels."""
        low, high = self.seg.extents
        shape = [b - a for a, b in zip(low, high, strict=True)]
        both = [self.seg.read(low, shape, supervoxels=sv).reshape(-1) for sv in (True, False)]
        found = np.unique(np.stack(both, axis=1), axis=0)
        return found[found[:, 1] != 0]

    @rule(picks=st.lists(PICK, min_size=1, max_size=4))
    def put_files(self, picks):
        """Files of supervoxels that there are, and of some that there aren't."""
        self.agree()
        known = [*np.unique(self.pairs()[:, 0]).tolist(), 10**12]
        files = {int(known[pick % len(known)]): b"v %d" % pick for pick in picks}
        self.at["meshes"].put_many(files)
        self.files.update(files)
        self.agree()

    @rule(pick=PICK)
    def delete_file(self, pick):
        if self.files:
            gone = sorted(self.files)[pick % len(self.files)]
            self.at["meshes"].delete(gone)
            del self.files[gone]
            self.agree()

    def count_right(self):
        version = self.at
        if "ranks" not in version:  # elements are there already
            version.repo.new_instance("labelsz", "ranks").set_syncs(["synapses"])
            zone = version.repo.new_instance("roi", "zone", {"blocksize": "16,16,16"})
            zone.replace([[z, y, x, x] for z, y, x in sorted(ZONE)])
            zoned = version.repo.new_instance("labelsz", "zoned", {"roi": f"zone,{version.repo.root}"})
            zoned.set_syncs(["synapses"])
        self.check_counts(version["ranks"], tallied(self.annotation, self.model, self.seg))
        self.check_counts(version["zoned"], self.tallied_in_zone())

    def check_counts(self, ranks, held):
        """`held`: (label, kind) -> number."""
        labels = sorted({label for label, _ in held} | {5, 1 << 40})
        for name in INDEX_TYPES[:5]:
            kinds = INDEX_TYPES[:3] if name == "AllSyn" else (name,)
            right = {label: sum(held.get((label, kind), 0) for kind in kinds) for label in labels}
            assert ranks.counts(labels, name).tolist() == [right[label] for label in labels]
            order = sorted((label for label in labels if right[label]), key=lambda label: (-right[label], label))
            found = ranks.top(1000, name)
            assert found.label.tolist() == order
            assert found.size.tolist() == [right[label] for label in order]
            assert ranks.threshold(3, name, offset=1).label.tolist() == [v for v in order if right[v] >= 3][1:]
        assert list(ranks.disagreements()) == []

    def tallied_in_zone(self):
        held = {}
        elements = [e for e in self.model.elements.values() if tuple(v // 16 for v in e["Pos"][::-1]) in ZONE]
        if elements:
            bodies = self.seg.labels_at([e["Pos"][::-1] for e in elements]).tolist()
            for body, e in zip(bodies, elements, strict=True):
                if body:
                    held[body, e["Kind"]] = held.get((body, e["Kind"]), 0) + 1
        return held

    @rule(elements=st.lists(ELEMENT, min_size=1, max_size=12, unique_by=lambda e: tuple(e["Pos"])))
    def load(self, elements):
        import msgspec

        text = lambda obj: msgspec.json.encode(obj).decode()  # noqa: E731
        table = {axis: np.array([e["Pos"][i] for e in elements]) for i, axis in enumerate("xyz")}
        table["kind"] = [e["Kind"] for e in elements]
        for column, field in (("tags", "Tags"), ("prop", "Prop"), ("rels", "Rels")):
            table[column] = [text(e[field]) for e in elements]
        ops.load_elements(pa.table(table), self.annotation, progress=False)
        self.model.post(elements)
        self.agree()

    @rule()
    def reload_all(self):
        ops.reload_elements(self.annotation, progress=False)
        self.agree()

    @rule()
    def recount(self):
        self.agree()
        assert self.at["ranks"].recount() == 0
        assert self.at["zoned"].recount() == 0

    @rule(sides=st.tuples(*[st.lists(ELEMENT, min_size=1, max_size=6)] * 2), pick=PICK)
    def merge_versions(self, sides, pick):
        """Two branches with changes of their own come together; what follows agrees with what it follows."""
        self.at.commit()
        self.old.append((self.at, self.model.child()))
        start = self.at
        branches = [start.new_branch(f"m{next(self.serial)}") for _ in sides]
        for side, elements in zip(branches, sides, strict=True):
            side["synapses"].add(elements)
        bodies = sorted(branches[0]["seg"].bodies())
        if len(bodies) > 1:
            branches[0]["seg"].merge(bodies[pick % len(bodies)], [bodies[pick % len(bodies) - 1]])
        gone = sorted(self.model.elements)[:2]
        with contextlib.suppress(BadRequest):
            branches[1]["synapses"].delete([p[::-1] for p in gone])
        for side in branches:
            side.commit()
        both = start.repo.merge(branches)
        for name in ("synapses", "ranks", "zoned"):
            assert list(both[name].disagreements()) == [], name
        self.at, self.model = start.new_branch(f"m{next(self.serial)}"), self.model.child()
        self.agree()


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(lists, "INLINE", 3)
    monkeypatch.setattr(lists, "PAGE", 4)
    monkeypatch.setattr(element_lists, "PAGE", 4)
    smaller(monkeypatch.setattr)


def histories(examples, steps):
    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )


@pytest.mark.usefixtures("small_pages")
def test_histories():
    histories(6, 12)


@pytest.mark.long
@pytest.mark.usefixtures("small_pages")
@pytest.mark.timeout(7200)
def test_long_histories():
    histories(150, 40)
