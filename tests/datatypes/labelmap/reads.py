"""Every read of a labelmap in Python, compared with the model's answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dvid_dask.datatypes.labelmap import Bounds
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats import binary_blocks, coarse, label_blocks, rles

UNKNOWN = 77_777_777  # a label that no test uses


def check_reads(seg, model, *, bodies=3, verify=True):
    """All that can be asked says what the model says; sparse volumes of so many bodies, and of fewer supervoxels."""
    check_voxels(seg, model)
    check_blocks(seg, model)
    check_lists(seg, model)
    check_index(seg, model)
    check_mapping(seg, model)
    check_what_happened(seg, model)
    for body in model.bodies()[:bodies]:
        check_sparse(seg, model, body)
    owned = [s for s in model.supervoxel_ids() if model.body(s)]
    for sv in owned[: bodies // 2]:
        check_sparse(seg, model, sv, supervoxel=True)
    if verify:
        assert list(seg.verify()) == []


# ------------------------------------------------------------------ voxels


def padded(model, scale):
    """Offset and voxels of the grid at a scale with a margin of zeros around."""
    inner = model.scale(scale)
    offset = np.array(model.grid.offset) >> scale
    return offset - 3, np.pad(inner, 3)


def check_voxels(seg, model):
    for scale in range(model.grid.levels + 1):
        offset, svs = padded(model, scale)
        bodies = model.as_bodies(svs)
        assert (seg.read(offset, svs.shape, scale, supervoxels=True) == svs).all(), scale
        assert (seg.read(offset, svs.shape, scale) == bodies).all(), scale
        rng = np.random.default_rng(scale)
        points = rng.integers(0, svs.shape, (50, 3))
        assert (seg.labels_at(points + offset, scale) == bodies[tuple(points.T)]).all()
        assert (seg.labels_at(points + offset, scale, supervoxels=True) == svs[tuple(points.T)]).all()
        if model.extents is not None:
            array = seg.array(scale)
            first = np.array(array.box.start) - offset
            inside = bodies[tuple(slice(f, f + n) for f, n in zip(first, array.shape, strict=True))]
            assert (array[...] == inside).all()
    assert (seg.read(np.array(model.grid.offset), model.grid.shape, model.grid.levels + 1) == 0).all()


def check_blocks(seg, model):
    offset = np.array(model.grid.offset)
    for supervoxels in (False, True):
        dense = model.voxels if supervoxels else model.as_bodies()
        start = np.array(model.grid.first) - 1
        stop = start + np.array(model.grid.blocks) + 2
        found = list(seg.blocks(start, stop, supervoxels=supervoxels))
        assert {c for c, _, _ in found} == model.stored
        assert len(found) == len(model.stored)
        asked = [*sorted(model.stored), (1000, 0, 0)]
        again = list(seg.specific_blocks(np.array(asked), supervoxels=supervoxels))
        assert sorted(c for c, _, _ in again) == asked[:-1]
        for at, block, table in itertools.chain(found, again):
            here = np.array(at) * model.grid.block - offset
            box = tuple(slice(h, h + b) for h, b in zip(here.tolist(), model.grid.block, strict=True))
            assert (label_blocks.decode_block(block, table=table) == dense[box]).all()


# ------------------------------------------------------------------ lists and sizes


def check_lists(seg, model):
    bodies = model.bodies()
    sizes = [model.body_size(b) for b in bodies]
    svs = model.supervoxel_ids()
    assert list(seg.bodies()) == bodies
    assert list(seg.bodies_with_sizes()) == list(zip(bodies, sizes, strict=True))
    assert list(seg.bodies(2, 8)) == [b for b in bodies if 2 <= b < 8]
    assert seg.sizes([*bodies, UNKNOWN, 0]).tolist() == [*sizes, 0, 0]
    assert [seg.size(b) for b in bodies] == sizes
    owned = [s for s in svs if model.body(s)]
    assert seg.sizes([UNKNOWN, *owned, 0], supervoxels=True).tolist() == [0, *map(model.size, owned), 0]
    assert [seg.size(s, supervoxels=True) for s in owned] == [*map(model.size, owned)]
    for body in bodies:
        held = seg.supervoxels_of(body)
        assert held.id.tolist() == model.supervoxels(body)
        assert held.voxels.tolist() == [*map(model.size, held.id.tolist())]
    gone = [UNKNOWN, *sorted((set(svs) | set(model.mapping)) - set(bodies))[:5]]
    for body in gone:
        for absent in (seg.size, seg.supervoxels_of, seg.sparse, seg.sparse_size, seg.header, seg.index):
            with pytest.raises(NotFound):
                absent(body)
        if model.mapping.get(body) == 0:
            with pytest.raises(BadRequest):
                seg.size(body, supervoxels=True)
    for wrong in (0, -1, 2**64):
        with pytest.raises(BadRequest):
            seg.size(wrong)


def check_index(seg, model):
    rows = model.rows()
    bodies = list(rows)
    for body, index in zip([*bodies, UNKNOWN], seg.indices([*bodies, UNKNOWN]), strict=True):
        if body == UNKNOWN:
            assert index is None
            continue
        held = zip(index.block_zyx.tolist(), index.supervoxel.tolist(), index.count.tolist(), strict=True)
        assert {(*b, s): n for b, s, n in held} == rows[body]
        assert len(index.supervoxel) == len(rows[body])
        mutation, user, app = model.stamps.get(body, (0, "", ""))
        assert (index.last_mutid, index.last_mod_user, index.last_mod_app) == (mutation, user, app), body
        assert bool(index.last_mod_time) == bool(mutation)
        header = seg.header(body)
        blocks = {k[:3] for k in rows[body]}
        assert (header.voxels, header.blocks) == (sum(rows[body].values()), len(blocks))
        assert (header.rows, header.supervoxels) == (len(rows[body]), len({k[3] for k in rows[body]}))
        voxels, count, box = seg.sparse_size(body)
        assert (voxels, count) == (header.voxels, len(blocks))
        low, high = np.min(list(blocks), axis=0), np.max(list(blocks), axis=0) + 1
        assert box.start == tuple((low * model.grid.block).tolist())
        assert box.stop == tuple((high * model.grid.block).tolist())


def check_mapping(seg, model):
    asked = sorted({0, 1, UNKNOWN, *model.mapping, *model.supervoxel_ids(), *model.bodies()})
    for lookup in (True, False):
        told = dict(zip(asked, seg.mapping(asked, lookup=lookup).tolist(), strict=True))
        assert told == {s: model.looked_up(s, lookup) for s in asked}
    entries = {}
    for ids, bodies in seg.mappings():
        entries |= dict(zip(ids.tolist(), bodies.tolist(), strict=True))
    assert entries == {s: b for s, b in model.mapping.items() if s != b}
    assert seg.max_label() == model.max_label
    assert seg.next_labels.next == model.ids.next
    extents = seg.extents
    assert (None if extents is None else (extents.start, tuple(v - 1 for v in extents.stop))) == model.extents


# ------------------------------------------------------------------ sparse volumes


def sparse_reference(model, label, supervoxel, scale):
    """Mask over the grid at a scale, and the blocks of scale 0 that the index names, moved to the scale."""
    svs = [label] if supervoxel else model.supervoxels(label)
    mask = np.isin(model.scale(scale), np.array(svs, np.uint64))
    rows = model.rows()[model.body(label) if supervoxel else label]
    blocks = {tuple(c >> scale for c in k[:3]) for k in rows if k[3] in svs}
    return mask, blocks


def check_sparse(seg, model, label, *, supervoxel=False):
    for scale in range(model.grid.levels + 1):
        mask, blocks = sparse_reference(model, label, supervoxel, scale)
        offset = np.array(model.grid.offset) >> scale
        block = np.array(model.grid.block)
        for bounds in all_bounds(label + scale, offset, mask.shape):
            volume = seg.sparse(label, supervoxels=supervoxel, scale=scale, bounds=bounds)
            low = [-(2**31) if v is None else v for v in bounds.low]
            high = [2**31 - 1 if v is None else v for v in bounds.high]
            here = {
                b
                for b in blocks
                if all(lo // n <= c <= hi // n for lo, hi, n, c in zip(low, high, block.tolist(), b, strict=True))
            }
            assert volume.has_blocks() == bool(here)
            clipped = mask.copy()
            for axis in range(3):
                at = np.arange(mask.shape[axis]) + offset[axis]
                clipped &= np.expand_dims((low[axis] <= at) & (at <= high[axis]), [a for a in range(3) if a != axis])
            whole = np.zeros_like(mask)
            for b in here:
                a = np.array(b) * block - offset
                box = tuple(slice(max(0, v), max(0, v + n)) for v, n in zip(a.tolist(), block.tolist(), strict=True))
                whole[box] = mask[box]
            runs = volume.all_runs()
            assert_runs(runs, offset, clipped)
            legacy = b"".join(volume.legacy())
            assert same(rles.decode_rles(legacy), runs) if len(runs) else legacy == b""
            assert same(rles.decode_srles(b"".join(volume.streaming())), runs)
            loose = seg.sparse(label, supervoxels=supervoxel, scale=scale, bounds=bounds, exact=False)
            assert_runs(loose.all_runs(), offset, whole)
            binary = b"".join(volume.binary())
            assert_runs(binary_blocks.to_rles(binary), offset, whole)
            if binary:
                assert binary_blocks.decode_header(binary) == (model.grid.block, label)
            if scale == 0:
                assert {tuple(b) for b in coarse.blocks_from_rles(volume.coarse()).tolist()} == here
                if not supervoxel:
                    ((body, found),) = seg.coarse_volumes(label, label, bounds)
                    assert body == label
                    assert {tuple(b) for b in coarse.blocks_from_rles(found).tolist()} == here


def all_bounds(seed, offset, shape):
    """No bounds; and some by chance, a few sides open."""
    yield Bounds()
    rng = np.random.default_rng(seed)
    low = [None if rng.random() < 0.4 else int(o + rng.integers(-3, n)) for o, n in zip(offset, shape, strict=True)]
    high = [
        None if rng.random() < 0.4 else int((o if a is None else a) + rng.integers(0, n))
        for o, a, n in zip(offset, low, shape, strict=True)
    ]
    yield Bounds(tuple(low), tuple(high))


def assert_runs(runs, offset, mask):
    """Runs cover the mask exactly, and none twice."""
    assert rles.voxel_count(runs) == int(mask.sum())
    if len(runs):
        ends = runs[:, :3][:, ::-1].astype(np.int64) - offset
        assert (ends >= 0).all()
        assert (ends[:, 2] + runs[:, 3] <= mask.shape[2]).all()
    assert (rles.rles_to_mask(runs, offset.tolist(), mask.shape) == mask).all()


def same(a, b):
    """Whether two lists of runs name the same voxels."""
    return rles.normalize(a).tolist() == rles.normalize(b).tolist()


# ------------------------------------------------------------------ what happened


def check_what_happened(seg, model):
    told = list(seg.mutations())
    assert [plain(r) for r in told] == model.log
    ids = [r["MutationID"] for r in told if not undone(r)]  # an undo may take several records to tell
    assert len(set(ids)) == len(ids)
    for record in told:
        assert record["UUID"] == seg.version.uuid
        if "Split" in record:  # the runs, readable for good
            assert rles.voxel_count(rles.decode_srles(seg.version.datastore.get_blob(record["Split"]))) > 0
    splits, at = [], model
    while at is not None:
        here = [row for record in at.log for row in splits_of(record)]
        splits += [(at.uuid, here)] if here else []
        at = at.parent
    if not any(undone(r) for r in model.history()):  # an undo takes rows away
        found = [(v.uuid, [tuple(r) for r in rows[:, 1:].tolist()]) for v, rows in seg.supervoxel_splits()]
        assert [(u, sorted(rows)) for u, rows in found] == [(u, sorted(rows)) for u, rows in splits]
    for body in model.bodies()[:3]:
        # not above the version where the model saw it change; below, if it was changed and changed back
        version, at, near = seg.version, model, [seg.version]
        while at.parent is not None and index_value(at, body) == index_value(at.parent, body):
            at, version = at.parent, version.parents[0]
            near.append(version)
        assert seg.index_version(body) in near, body
    begin, root = seg.version, model
    while root.parent is not None:
        root, begin = root.parent, begin.parents[0]
    for body in model.bodies()[:3]:
        history = list(seg.body_history(body, begin))
        merges = [r for r in model.history() if r["Action"] == "merge-complete" and r.get("Target") == body]
        assert [r for r in history if r["Action"] == "merge" and r["Target"] == body] == [
            {"Action": "merge", "Target": r["Target"], "Labels": r["Labels"]} for r in merges
        ]


def splits_of(record):
    """(supervoxel, rest, cut off) of each supervoxel that a record of the log splits."""
    if "SplitSupervoxel" in record:
        yield record["Supervoxel"], record["RemainSupervoxel"], record["SplitSupervoxel"]
    for old, parts in record.get("SVSplits", {}).items():
        yield int(old), parts["Remain"], parts["Split"]


def undone(record):
    return "Undoes" in record or "Redoes" in record


def index_value(model, body):
    """What the index of a body says, and who changed it last."""
    return model.rows().get(body), model.stamps.get(body, (0, "", ""))


def plain(record):
    """A record of the log without who and when."""
    hidden = {"MutationID", "UUID", "Timestamp", "User", "App", "Split"}
    return {k: v for k, v in record.items() if k not in hidden}
