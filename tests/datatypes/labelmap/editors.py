"""Proofreaders in processes of their own, for tests of crashes and of concurrency; and what they leave, replayed.

A process is started by `Editor`, waits until it is told what to do, edits, and says each edit that was acknowledged.
The supervoxels it plays with are blocks of 8 voxels; what it writes as voxels are boxes of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np

from dvid_dask.formats import rles

from .model import Counter, Grid, Model

GRID = Grid((16, 16, 16), (2, 2, 4), (-1, 0, -2), 2)
CELLS = tuple(n // 8 for n in GRID.shape)
#: supervoxels, one for each cell of 8 x 8 x 8 voxels; the last layer of blocks in x is for those who write voxels
SUPERVOXELS = list(range(1, 1 + CELLS[0] * CELLS[1] * (CELLS[2] - 2)))
#: the first of them are those that writers of voxels write; they are never split
WRITTEN = 9


def cells_of(layer):
    """Cells (z, y, x) of a layer of blocks in x."""
    return [(z, y, x) for z in range(CELLS[0]) for y in range(CELLS[1]) for x in (2 * layer, 2 * layer + 1)]


def initial():
    """The voxels in the beginning."""
    names = np.zeros(CELLS, np.uint64)
    names[:, :, : CELLS[2] - 2] = np.array(SUPERVOXELS).reshape(CELLS[0], CELLS[1], CELLS[2] - 2)
    return names.repeat(8, 0).repeat(8, 1).repeat(8, 2)


def prepare(url):
    """A store with a segmentation for editors; the model of it."""
    import dvid_dask

    with dvid_dask.create(url, compact="never") as ds:
        version = ds.new_repo("fly")["master"]
        seg = version.repo.new_instance("labelmap", "seg", GRID.settings)
        seg.write(initial(), GRID.offset)
        annotate_first(version)
        model = Model(GRID, Counter(), uuid=version.uuid)
        model.write((0, 0, 0), initial())
        return model


def annotate_first(version):
    """Elements over all of the volume, filed under the bodies of its segmentation, and counted."""
    annotation = version.repo.new_instance("annotation", "synapses")
    annotation.set_syncs(["seg"])
    version.repo.new_instance("labelsz", "ranks").set_syncs(["synapses"])
    rng = random.Random(0)
    annotation.add([named_element(position(rng), "first") for _ in range(300)])


def position(rng):
    """A voxel (x, y, z) of the grid."""
    return [o + rng.randrange(n) for o, n in zip(GRID.offset[::-1], GRID.shape[::-1], strict=True)]


def named_element(pos, name):
    return {"Pos": pos, "Kind": "PreSyn", "Tags": ["all"], "Prop": {"name": name}}


def written(seed, n):
    """The n-th box that a writer of voxels writes: its first voxels say which it is."""
    rng = np.random.default_rng((seed, n))
    cells = rng.integers(1, 1 + WRITTEN, (2, 2, 2)).astype(np.uint64)
    box = cells.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    box[0, 0, :4] = [1 + (n >> (3 * i)) % 8 for i in range(4)]
    return box


def writer_box(place):
    """Blocks in which the writer of a place writes, from the grid's first."""
    return (place & 1, place >> 1 & 1, GRID.blocks[2] - 1)


# ------------------------------------------------------------------ what an editor does


def own_bodies(seg, svs):
    """Bodies of supervoxels that still exist, with those of their supervoxels."""
    found = {}
    for sv, body in zip(svs, seg.mapping(svs).tolist(), strict=True):
        if body:
            found.setdefault(body, []).append(sv)
    return found


def merge(seg, rng, mine):
    bodies = own_bodies(seg, mine["svs"])
    if len(bodies) < 4:
        return cleave(seg, rng, mine)
    target, *others = rng.sample(sorted(bodies), rng.choice([2, 2, 3]))
    return {"MutationID": seg.merge(target, others), "Target": target, "Labels": others}


def cleave(seg, rng, mine):
    bodies = {b: svs for b, svs in own_bodies(seg, mine["svs"]).items() if len(svs) > 1}
    if not bodies:
        return allocate(seg, rng, mine)
    body = rng.choice(sorted(bodies))
    svs = rng.sample(bodies[body], rng.randrange(1, len(bodies[body])))
    new, mutation = seg.cleave(body, svs)
    return {"MutationID": mutation, "CleavedLabel": new, "CleavedSupervoxels": sorted(svs)}


def renumber(seg, rng, mine):
    bodies = own_bodies(seg, mine["svs"])
    if not bodies:
        return allocate(seg, rng, mine)
    old = rng.choice(sorted(bodies))
    new, _ = seg.allocate_labels(1)
    (mutation,) = seg.renumber([(new, old)])
    return {"MutationID": mutation, "NewLabel": new, "OrigLabel": old}


def split_supervoxel(seg, rng, mine):
    bodies = own_bodies(seg, mine["svs"])
    alive = [s for b in bodies for s in seg.supervoxels_of(b).id.tolist() if s > WRITTEN]
    if not alive:
        return allocate(seg, rng, mine)
    sv = rng.choice(alive)
    runs = seg.sparse(sv, supervoxels=True).all_runs()
    split, remain, mutation = seg.split_supervoxel(sv, runs[: max(1, len(runs) // 2)])
    mine["svs"] = [*mine["svs"], split, remain]
    return {"MutationID": mutation, "Supervoxel": sv, "SplitSupervoxel": split, "RemainSupervoxel": remain}


def split(seg, rng, mine):
    alive = [b for b in own_bodies(seg, mine["svs"]) if int(seg.supervoxels_of(b).id[0]) > WRITTEN]
    if not alive:
        return cleave(seg, rng, mine)
    body = rng.choice(sorted(alive))
    runs = seg.sparse(body).all_runs()
    if len(runs) < 2:
        return allocate(seg, rng, mine)
    new, mutation = seg.split(body, runs[rng.randrange(1, len(runs)) :])
    return {"MutationID": mutation, "Target": body, "NewLabel": new}


def undo(seg, rng, mine):
    """Take one of the last edits back, or do it again; where that can't be, make one."""
    last = [r for r in seg.undoable() if r.action != "write"][-4:]
    if len(last) < 4 or rng.random() < 0.3:
        return rng.choice([merge, cleave, split_supervoxel, split])(seg, rng, mine)
    edit = rng.choice(last)
    return {"undo": edit.id, "MutationID": (seg.redo if edit.undone else seg.undo)(edit.id)}


def write(seg, rng, mine):
    n = mine["n"] = mine.get("n", -1) + 1
    seg.write(written(mine["seed"], n), GRID.at(writer_box(mine["place"])))
    return {"n": n, "place": mine["place"], "seed": mine["seed"]}


def allocate(seg, rng, mine):
    first, last = seg.allocate_labels(rng.randrange(1, 4))
    return {"first": first, "last": last}


def annotate(seg, rng, mine):
    """Add an element, move one or delete one; says what is then at the positions that changed."""
    annotation = seg.version["synapses"]
    at, name = position(rng), f"{mine['seed']}-{mine['turn']}"
    held = mine.setdefault("elements", [])
    if len(held) < 3 or rng.random() < 0.4:
        annotation.add([named_element(at, name)])
        held.append(at)
        return {"elements": [[at, name]]}
    start = held.pop(rng.randrange(len(held)))
    if start in held:  # it was put there twice
        return allocate(seg, rng, mine)
    if rng.random() < 0.5:
        annotation.delete([start[::-1]])
        return {"elements": [[start, None]]}
    (name,) = (e["name"] for e in annotation.elements(start[::-1], (1, 1, 1))["prop"])
    annotation.move(start[::-1], at[::-1])
    held.append(at)
    return {"elements": [[start, None], [at, name]] if start != at else [[at, name]]}


def branch(seg, rng, mine):
    """Go on in a child of this version."""
    seg.version.commit()
    mine["child"] = seg.version.new_branch(f"b{mine['seed']}-{mine['turn']}")
    return {"uuid": mine["child"].uuid, "max": mine["child"]["seg"].max_label()}


KINDS = {
    f.__name__: f for f in (merge, cleave, renumber, split_supervoxel, split, undo, write, annotate, allocate, branch)
}


def work(url, root, *, seed, kinds, svs=SUPERVOXELS, place=0, times=None, name="seg", lenient=True):
    """Edit; says what was acknowledged, what was refused, and what was begun."""
    import dvid_dask
    from dvid_dask.errors import BadRequest, LaterMutations, LockedVersion, NotFound

    rng = random.Random(seed)
    ds = dvid_dask.open(url, compact="never")
    seg = ds[root][name]
    if seg.version.locked:  # the one before was killed between a commit and the next version
        seg = seg.version.new_branch(f"again-{seed}")[name]
    mine = {"svs": svs, "place": place, "seed": seed}
    say("ready")
    for turn in itertools.count() if times is None else range(times):
        mine["turn"] = turn
        kind = rng.choice(kinds)
        say("begin", kind)
        try:
            done = KINDS[kind](seg, rng, mine)
        except (BadRequest, LaterMutations, LockedVersion, NotFound) as error:
            if not lenient:
                raise
            say("refused", kind, str(error))
            continue
        say("done", kind, seg.version.uuid, done)
        if "child" in mine:
            seg = mine.pop("child")[name]


def warm_up():
    """Load and compile everything in a store of its own: that time is not the task's."""
    import dvid_dask

    seg = dvid_dask.create("memory://").new_repo("fly").new_instance("labelmap", "seg", GRID.settings)
    seg.write(initial(), GRID.offset)
    annotate_first(seg.version)
    for edit in (merge, cleave, renumber, split_supervoxel, split, undo, write, annotate):
        edit(seg, random.Random(0), {"svs": SUPERVOXELS, "seed": 0, "place": 0, "turn": 0})


def say(*words):
    os.write(1, (json.dumps(words) + "\n").encode())


class Editor:
    """A process that has everything loaded and waits for its task."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
        )

    def start(self, *args, **kwargs):
        self.send(*args, **kwargs)
        self.wait()

    def send(self, *args, **kwargs):
        """Tell it what to do (see `work`); it begins once it has loaded everything."""
        self.process.stdin.write((json.dumps([args, kwargs]) + "\n").encode())
        self.process.stdin.flush()

    def wait(self):
        """Until it begins."""
        assert json.loads(self.process.stdout.readline()) == ["ready"]

    def kill(self):
        """kill -9; what the process had said."""
        os.kill(self.process.pid, signal.SIGKILL)
        said = self.read()
        assert self.process.returncode == -signal.SIGKILL, "the editor ended by itself"
        return said

    def finish(self):
        said = self.read()
        assert self.process.returncode == 0
        return said

    def read(self):
        lines = self.process.stdout.read().decode().splitlines(keepends=True)
        self.process.wait()
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()


# ------------------------------------------------------------------ what they left


def replay(model, records, blob=None):
    """Apply the records of a mutation log in their order; each must be possible where it stands.

    `blob` gives the runs of a split by their reference.
    """
    for record in records:
        action = record["Action"].removesuffix("-complete")
        if action == "merge":
            bodies = set(model.bodies())
            assert {record["Target"], *record["Labels"]} <= bodies, record
            model.merge(record["Target"], record["Labels"])
        elif action == "cleave":
            body, svs = record["OrigLabel"], record["CleavedSupervoxels"]
            assert set(svs) < set(model.supervoxels(body)), record
            assert record["CleavedLabel"] not in {*model.bodies(), *model.mapping, *model.supervoxel_ids()}
            model.cleave(body, record["CleavedLabel"], svs)
        elif action == "renumber":
            assert record["OrigLabel"] in model.bodies(), record
            assert record["NewLabel"] not in model.bodies(), record
            model.renumber(record["NewLabel"], record["OrigLabel"])
        elif action in ("split-supervoxel", "split"):
            runs = rles.decode_srles(blob(record["Split"]))
            mask = rles.rles_to_mask(runs, GRID.offset, GRID.shape)
            if action == "split":
                parts = {int(sv): (p["Split"], p["Remain"]) for sv, p in record["SVSplits"].items()}
                assert set(np.unique(model.voxels[mask]).tolist()) == set(parts), record
                assert set(parts) <= set(model.supervoxels(record["Target"])), record
                model.split(record["Target"], mask, record["NewLabel"], parts)
            else:
                sv = record["Supervoxel"]
                assert sv in model.supervoxels(record["Body"]), record
                model.split_supervoxel(sv, mask, record["SplitSupervoxel"], record["RemainSupervoxel"])
        else:
            raise AssertionError(f"no such edit was made: {record}")
    return model


def matches(record, acknowledged):
    """Whether a record of the log is the edit that a client was told of."""
    return all(
        (sorted(record[k]) if isinstance(record[k], list) else record[k]) == (sorted(v) if isinstance(v, list) else v)
        for k, v in acknowledged.items()
    )


if __name__ == "__main__":
    warm_up()
    args, kwargs = json.loads(sys.stdin.readline())
    work(*args, **kwargs)
