"""One operation, more than one door: the same sequence of edits in Python and over REST gives the same state, which is
the model's, read through either door.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.api import ServerConfig, create_app
from dvid_dask.errors import BadRequest
from dvid_dask.formats import block_stream, dvid_pb2, label_index, rles
from dvid_dask.formats.compression import gzip_compress, lz4_compress
from dvid_dask.formats.label_blocks import encode_block
from dvid_dask.ops.edit import edit
from tests.datatypes.labelmap.model import GRIDS, Counter, Model, random_labels
from tests.datatypes.labelmap.reads import (
    check_blocks,
    check_index,
    check_lists,
    check_mapping,
    check_reads,
    check_voxels,
    plain,
)

from .conftest import TOKEN, Client
from .labelmap_reads import check_http, client_get, xyz

WHO = {"user": "kim", "app": "neu3"}


def payload(labels_zyx):
    return block_stream.block_to_payload(encode_block(np.ascontiguousarray(labels_zyx)), "blocks")


class Door:
    """A segmentation of its own in a store of its own, the model of it, and one way to edit it."""

    def __init__(self, grid):
        self.ds = dvid_dask.create("memory://", compact="never")
        self.version = self.ds.new_repo("fly")["master"]
        self.model = Model(grid, Counter(), uuid=self.version.uuid)
        self.open(grid)

    def close(self):
        self.ds.close()

    @property
    def seg(self):
        return self.version["seg"]


class Python(Door):
    def open(self, grid):
        self.version.repo.new_instance("labelmap", "seg", grid.settings)

    def write(self, labels, offset, how):
        self.seg.write(labels, offset)

    def write_blocks(self, blocks):
        self.seg.write_blocks([(*at[::-1], payload(part)) for at, part in blocks], downres=True)

    def merge(self, target, others):
        return self.seg.merge(target, others, **WHO)

    def cleave(self, body, svs):
        return self.seg.cleave(body, svs, **WHO)

    def renumber(self, pairs):
        self.seg.renumber(pairs, **WHO)

    def split_supervoxel(self, sv, runs, ids):
        return self.seg.split_supervoxel(sv, runs, split=ids[0], remain=ids[1], **WHO)

    def split(self, body, runs):
        return self.seg.split(body, runs, **WHO)

    def undo(self, mutation):
        return self.seg.undo(mutation, **WHO)

    def redo(self, mutation):
        return self.seg.redo(mutation, **WHO)

    def agglomerate(self, svs, body, index, gone):
        self.seg.set_mappings(svs, [body] * len(svs))
        self.seg.set_indices([index, label_index.LabelIndex(gone)])

    def reserve(self, n):
        return self.seg.allocate_labels(n)

    def child(self):
        self.version.commit()
        self.version = self.version.newversion()


class Rest(Door):
    def open(self, grid):
        self.client = Client(create_app(self.ds, ServerConfig(admin_token=TOKEN, allow_labelmap_split=True)))
        self.client.instance(self.version.uuid, "labelmap", "seg", **grid.settings)

    @property
    def path(self):
        return f"/api/node/{self.version.uuid}/seg"

    def post(self, keyword, body=b"", **who):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.client.post(f"{self.path}/{keyword}", content=content, params=who)
        if answer.status_code == 400:
            raise BadRequest(answer.text)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    def write(self, labels, offset, how):
        data = {"": bytes, "gzip": gzip_compress, "lz4": lz4_compress}[how](labels.tobytes())
        self.post(f"raw/0_1_2/{xyz(labels.shape)}/{xyz(offset)}", data, **({"compression": how} if how else {}))

    def write_blocks(self, blocks):
        self.post(
            "blocks",
            b"".join(block_stream.write_record(*at[::-1], payload(part)) for at, part in blocks),
            downres="true",
        )

    def merge(self, target, others):
        return self.post("merge", [target, *others], u="kim", app="neu3")["MutationID"]

    def cleave(self, body, svs):
        answer = self.post(f"cleave/{body}", svs, u="kim", app="neu3")
        return answer["CleavedLabel"], answer["MutationID"]

    def renumber(self, pairs):
        self.post("renumber", [i for pair in pairs for i in pair], u="kim", app="neu3")

    def split_supervoxel(self, sv, runs, ids):
        given = {"split": ids[0], "remain": ids[1]} if ids[0] else {}
        answer = self.post(f"split-supervoxel/{sv}", rles.encode_rles(runs), u="kim", app="neu3", **given)
        return answer["SplitSupervoxel"], answer["RemainSupervoxel"], answer["MutationID"]

    def split(self, body, runs):
        answer = self.post(f"split/{body}", rles.encode_rles(runs), u="kim", app="neu3")
        return answer["label"], answer["MutationID"]

    def undo(self, mutation):
        return self.post(f"undo/{mutation}", u="kim", app="neu3")["MutationID"]

    def redo(self, mutation):
        return self.post(f"redo/{mutation}", u="kim", app="neu3")["MutationID"]

    def agglomerate(self, svs, body, index, gone):
        ops = dvid_pb2.MappingOps(mappings=[dvid_pb2.MappingOp(mapped=body, original=svs)])
        self.post("mappings", ops.SerializeToString())
        self.post("indices", label_index.encode_indices([index, label_index.LabelIndex(gone)]))

    def reserve(self, n):
        answer = self.post(f"nextlabel/{n}")
        return answer["start"], answer["end"]

    def child(self):
        self.client.commit(self.version.uuid)
        self.version = self.ds[self.client.child(self.version.uuid)]


class Dask(Python):
    """Edits by table, as Dask graphs."""

    def merge(self, target, others):
        return edit(self.seg, merges=[[target, other] for other in others], progress=False, **WHO).mutation

    def cleave(self, body, svs):
        table = {"body": [body] * len(svs), "supervoxel": svs, "group": [0] * len(svs)}
        done = edit(self.seg, cleaves=table, progress=False, **WHO)
        return int(done.cleaved.new_body[0]), done.mutation

    def renumber(self, pairs):
        edit(self.seg, renumber=[[old, new] for new, old in pairs], progress=False, **WHO)


# ------------------------------------------------------------------ the sequence


def do_write(doors, model, a, b):
    grid = model.grid
    start = tuple(c % n for c, n in zip((a, b, a + b), grid.blocks, strict=True))
    blocks = tuple(1 + b % (n - s) for s, n in zip(start, grid.blocks, strict=True))
    shape = [n * k for n, k in zip(blocks, grid.block, strict=True)]
    names = [n for n in {1, 2, 3, 4, 5, 6, 2**40, *model.supervoxel_ids()} if model.mapping.get(n) != 0]
    labels = random_labels(a, shape, sorted(names)[:9])
    offset = grid.at(start)
    if a % 2:
        first = [f + s for f, s in zip(grid.first, start, strict=True)]
        parts = [
            (tuple(int(f + i) for f, i in zip(first, at, strict=True)), labels[grid.box(at, (1, 1, 1))])
            for at in np.ndindex(*blocks)
        ]
        answers = [door.write_blocks(parts) for door in doors]
    else:
        answers = [door.write(labels, offset, ("", "gzip", "lz4")[b % 3]) for door in doors]
    for door in doors:
        door.model.write(start, labels)
    return answers


def do_merge(doors, model, a, b):
    bodies = model.bodies()
    if len(bodies) < 2:
        return []
    target, *others = dict.fromkeys(bodies[i % len(bodies)] for i in (a, b, a + 1, b + 2))
    answers = [door.merge(target, others) for door in doors]
    for door, mutation in zip(doors, answers, strict=True):
        door.model.merge(target, others, (mutation, "kim", "neu3"))
    return answers


def do_cleave(doors, model, a, b):
    bodies = [n for n in model.bodies() if len(model.supervoxels(n)) > 1]
    if not bodies:
        return []
    body = bodies[a % len(bodies)]
    svs = model.supervoxels(body)
    svs = svs[: 1 + b % (len(svs) - 1)]
    answers = [door.cleave(body, svs) for door in doors]
    for door, (new, mutation) in zip(doors, answers, strict=True):
        assert new == door.model.ids.take()
        door.model.cleave(body, new, svs, (mutation, "kim", "neu3"))
    return answers


def do_renumber(doors, model, a, b):
    bodies = model.bodies()
    new = 100 + b
    if bodies and new not in bodies:
        old = bodies[a % len(bodies)]
        for door in doors:
            door.renumber([(new, old)])
            door.model.renumber(new, old, (door.seg.header(new).stamp.mutation, "kim", "neu3"))
    return []


def half_of(mask, a):
    """Some of a mask's voxels: those up to one of them in x, y or z; not all."""
    where = np.argwhere(mask)
    side = where[:, a % 3] <= where[a * 7 % len(where), a % 3]
    side[0], side[-1] = True, False
    out = np.zeros_like(mask)
    out[tuple(where[side].T)] = True
    return out


def do_split_supervoxel(doors, model, a, b):
    svs = [s for s in model.supervoxel_ids() if model.body(s) and model.size(s) > 1]
    if not svs:
        return []
    sv = svs[a % len(svs)]
    mask = half_of(model.voxels == np.uint64(sv), b)
    ids = (model.ids.next + 3, model.ids.next + 1) if b % 2 else (0, 0)
    answers = [door.split_supervoxel(sv, rles.rles_from_mask(mask, model.grid.offset), ids) for door in doors]
    for door, (split, remain, mutation) in zip(doors, answers, strict=True):
        if not b % 2:
            door.model.ids.take(2)
        door.model.split_supervoxel(sv, mask, split, remain, (mutation, "kim", "neu3"))
    return answers


def do_split(doors, model, a, b):
    bodies = [n for n in model.bodies() if model.body_size(n) > 1]
    if not bodies:
        return []
    body = bodies[a % len(bodies)]
    mask = half_of(model.as_bodies() == np.uint64(body), b)
    answers = [door.split(body, rles.rles_from_mask(mask, model.grid.offset)) for door in doors]
    for door, (new, mutation) in zip(doors, answers, strict=True):
        told = list(door.seg.mutations())[-1]["SVSplits"]
        parts = {int(sv): (part["Split"], part["Remain"]) for sv, part in told.items()}
        door.model.split(body, mask, new, parts, (mutation, "kim", "neu3"))
    return answers


def do_undo(doors, model, a, b):
    """Merge, take it back, and do it again or not."""
    merged = do_merge(doors, model, a, b)
    if merged and b % 2:
        answers = [door.undo(mutation) for door, mutation in zip(doors, merged, strict=True)]
        answers += [door.redo(mutation) for door, mutation in zip(doors, merged, strict=True)]
        for door, mutation in zip(doors, answers[len(doors) :], strict=True):
            told = [plain(r) for r in door.seg.mutations()][len(door.model.log) :]
            half = len(told) // 2  # a record for each body that was merged, there and back
            assert [r["Action"] for r in told] == ["cleave-complete"] * half + ["merge-complete"] * half
            door.model.log += told
            door.model.stamp((mutation, "kim", "neu3"), told[-1]["Target"])
    return []


def do_agglomerate(doors, model, a, b):
    bodies = model.bodies()
    if len(bodies) > 1:
        body, gone = bodies[a % len(bodies)], bodies[(a + 1 + b % (len(bodies) - 1)) % len(bodies)]
        svs = model.supervoxels(gone)
        for door in doors:
            door.model.mapping.update(dict.fromkeys(svs, body))
        rows = doors[0].model.rows()[body]
        zyx, svs_of = np.array([k[:3] for k in rows], np.int32), np.array([k[3] for k in rows], np.uint64)
        count = np.array([*rows.values()], np.uint32)
        index = label_index.LabelIndex(body, zyx, svs_of, count, None, 9, "2026-01-02T03:04:05Z", "loader", "job")
        for door in doors:
            door.agglomerate(svs, body, index, gone)
            door.model.named(body)
            door.model.stamp((9, "loader", "job"), body)
    return []


def do_reserve(doors, model, a, b):
    answers = [door.reserve(1 + a % 4) for door in doors]
    for door, (first, last) in zip(doors, answers, strict=True):
        assert first == door.model.ids.take(1 + a % 4)
        door.model.max_label = max(door.model.max_label, last)
    return answers


def do_child(doors, model, a, b):
    for door in doors:
        door.child()
        door.model = door.model.child(door.version.uuid)
    return []


def do_wrong(doors, model, a, b):
    bodies = [*model.bodies(), 77_777_777]
    body, other = bodies[a % len(bodies)], bodies[-1]
    for door in doors:
        for wrong in (
            lambda door=door: door.merge(body, [other]),
            lambda door=door: door.merge(body, [body]),
            lambda door=door: door.cleave(body, model.supervoxels(body)),
            lambda door=door: door.cleave(body, [other]),
            lambda door=door: door.renumber([(0, body)]),
            lambda door=door: door.renumber([(body, body)]),
            lambda door=door: door.reserve(0),
            lambda door=door: door.split_supervoxel(other, [[0, 0, 0, 1]], (0, 0)),
            lambda door=door: door.split(other, [[0, 0, 0, 1]]),
            lambda door=door: door.split(body, [[0, 0, 5000, 1]]),
        ):
            with pytest.raises(BadRequest):
                wrong()
    return []


STEPS = {
    f.__name__: f
    for f in (
        do_write,
        do_merge,
        do_cleave,
        do_renumber,
        do_split_supervoxel,
        do_split,
        do_undo,
        do_agglomerate,
        do_reserve,
        do_child,
        do_wrong,
    )
}


def walk_with_dask(grid, steps):
    """One edit at a time, and the same by a table of it."""
    doors = [Python(grid), Dask(grid)]
    try:
        do_write(doors, doors[0].model, 0, 2)
        for name, a, b in steps:
            STEPS[name](doors, doors[0].model, a, b)
        for door in doors:
            for check in (check_voxels, check_blocks, check_lists, check_mapping, check_index):
                check(door.seg, door.model)
            assert list(door.seg.verify()) == []
        first, second = (dict(keys_and_values(door.seg)) for door in doors)
        assert first == second
    finally:
        for door in doors:
            door.close()


def walk(grid, steps):
    doors = [Python(grid), Rest(grid)]
    try:
        do_write(doors, doors[0].model, 0, 2)
        for name, a, b in steps:
            answers = STEPS[name](doors, doors[0].model, a, b)
            assert all(answer == answers[0] for answer in answers), "the doors answer differently"
        for door in doors:
            check_reads(door.seg, door.model, bodies=1)
            if isinstance(door, Rest):
                check_http(client_get(door.client, door.path), door.model, bodies=2)
        first, second = (dict(keys_and_values(door.seg)) for door in doors)
        assert first == second
    finally:
        for door in doors:
            door.close()


def keys_and_values(seg):
    """All that is stored but the index, whose records tell the time of the last change."""
    return ((k, v) for k, v in seg.view().scan() if k[:1] != b"I")


NUMBER = st.integers(0, 50)
STEP = st.tuples(st.sampled_from([*STEPS]), NUMBER, NUMBER)


# shrinking takes minutes: the long profile does it
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(grid=st.sampled_from(GRIDS), steps=st.lists(STEP, min_size=4, max_size=12))
def test_python_and_rest_are_one(grid, steps):
    walk(grid, steps)


EDIT = st.tuples(st.sampled_from(["do_write", "do_merge", "do_cleave", "do_renumber", "do_child"]), NUMBER, NUMBER)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(grid=st.sampled_from(GRIDS), steps=st.lists(EDIT, min_size=3, max_size=8))
def test_python_and_dask_are_one(grid, steps):
    walk_with_dask(grid, steps)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(grid=st.sampled_from(GRIDS), steps=st.lists(EDIT, min_size=3, max_size=20))
def test_python_and_dask_stay_one(grid, steps):
    walk_with_dask(grid, steps)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(grid=st.sampled_from(GRIDS), steps=st.lists(STEP, min_size=4, max_size=40))
def test_python_and_rest_stay_one(grid, steps):
    walk(grid, steps)
