"""Many proofreaders at once, as processes and as threads, on bodies of their own and on the same ones.

What comes out is what the mutation log, replayed in its order through the model, says: no update is lost. Readers see
one state of that order, never a half of a mutation. Ids are never handed out twice.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest

import dvid_dask
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.verify import verify
from dvid_dask.errors import BadRequest

from .editors import GRID, KINDS, SUPERVOXELS, Editor, matches, prepare, replay, writer_box, written
from .reads import check_index, check_lists, check_mapping, check_voxels

EDITS = ["merge", "cleave", "renumber", "split_supervoxel", "split"]


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store")


def run(tasks, url, root):
    """Editors side by side; what each said."""
    with contextlib.ExitStack() as held:
        editors = [held.enter_context(Editor()) for _ in tasks]
        for editor, task in zip(editors, tasks, strict=True):
            editor.send(url, root, **task)
        for editor in editors:
            editor.wait()
        return [editor.finish() for editor in editors]


def check_outcome(url, model, said):
    """The log says exactly what clients were told, and its replay is what is read."""
    with dvid_dask.open(url, compact="never") as ds:
        seg = ds[model.uuid]["seg"]
        records = list(seg.mutations())
        done = [what for words in said for what in words if what[0] == "done"]
        edits = {what["MutationID"]: what for _, _, _, what in done if "MutationID" in what}
        assert sorted(edits) == sorted(r["MutationID"] for r in records)
        for record in records:
            assert matches(record, edits[record["MutationID"]])
        replay(model, records, ds.get_blob)
        boxes = [what for _, kind, _, what in done if kind == "write"]
        last = {w["place"]: w for w in sorted(boxes, key=lambda w: w["n"])}
        for place, box in last.items():
            model.write(writer_box(place), written(box["seed"], box["n"]))
        model.ids.next = seg.next_labels.next
        model.max_label = seg.max_label()
        check_ids(model, done)
        check_voxels(seg, model)
        check_lists(seg, model)
        check_mapping(seg, model)
        last = {}
        for record in records:
            for body in touched(record):
                last[body] = record["MutationID"]
        model.stamps = {b: (last.get(b, 0), "", "") for b in model.bodies()}
        check_index(seg, model)
        assert list(seg.verify()) == []
        return records


def dones(said):
    return [words for words in said if words[0] == "done"]


def touched(record):
    """Bodies that an edit leaves changed."""
    renumbered = record["Action"].startswith("renumber")
    names = ("NewLabel",) if renumbered else ("Target", "OrigLabel", "CleavedLabel", "NewLabel", "Body")
    return [record[n] for n in names if n in record]


def check_ids(model, done):
    """Nobody got an id that somebody else has."""
    made = []
    for _, _, _, what in done:
        if "CleavedLabel" in what:
            made.append(what["CleavedLabel"])
        if "first" in what:
            made += range(what["first"], what["last"] + 1)
        made += [what[n] for n in ("NewLabel", "SplitSupervoxel", "RemainSupervoxel") if n in what]
    assert len(made) == len(set(made))
    assert not set(made) & set(SUPERVOXELS)
    assert max(made, default=0) < model.ids.next
    assert max(made, default=0) <= model.max_label


def test_on_bodies_of_their_own_all_succeed(store):
    model = prepare(store)
    tasks = [
        {"seed": i, "kinds": [*EDITS, "allocate"], "svs": SUPERVOXELS[i::3], "times": 40, "lenient": False}
        for i in range(3)
    ]
    said = run(tasks, store, model.uuid)
    assert [len(dones(words)) for words in said] == [40] * 3
    check_outcome(store, model, said)


def test_on_the_same_bodies_each_edit_counts_or_is_refused(store):
    model = prepare(store)
    few = SUPERVOXELS[4:14]
    tasks = [{"seed": i, "kinds": [*EDITS, "write"], "svs": few, "times": 40, "place": i} for i in range(3)]
    said = run(tasks, store, model.uuid)
    records = check_outcome(store, model, said)
    assert len(records) > 30
    for words in said:
        for refused in (w for w in words if w[0] == "refused"):
            told = ("doesn't exist", "part of", "at least one", "exists", "in use", "there is no", "hold")
            assert any(t in refused[2] for t in told), refused


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_many_edits_by_many(tmp_path, seed):
    url = str(tmp_path / "store")
    model = prepare(url)
    tasks = [
        {
            "seed": 100 * seed + i,
            "kinds": [*EDITS, "write", "allocate"],
            "svs": SUPERVOXELS[: 6 * (1 + seed)],
            "times": 600,
            "place": i,
        }
        for i in range(4)
    ]
    check_outcome(url, model, run(tasks, url, model.uuid))


# ------------------------------------------------------------------ threads and readers


def threads(*functions):
    """Run functions side by side; raises what one of them raises."""
    failed = []

    def guarded(function):
        try:
            function()
        except BaseException as e:
            failed.append(e)

    running = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for t in running:
        t.start()
    for t in running:
        t.join(300)
    if failed:
        raise failed[0]


def test_readers_see_one_state(store):
    """Each pinned state agrees with itself, and is one of those that the log goes through."""
    model = prepare(store)
    seen = []
    ready = threading.Event()
    with dvid_dask.open(store, compact="never") as ds:
        seg = ds[model.uuid]["seg"]

        def edit(seed):
            rng = random.Random(seed)
            mine = {"svs": SUPERVOXELS[:8], "seed": seed, "place": seed}
            for _ in range(25):
                with contextlib.suppress(BadRequest):
                    KINDS[rng.choice(EDITS[:3])](seg, rng, mine)
            ready.set()

        def read():
            while not ready.is_set():
                view = seg.view()
                assert list(verify(view, seg.layout)) == []
                seen.append(tuple(Mapping(view).bodies(SUPERVOXELS).tolist()))
                # one call is one state, too
                assert sum(n for _, n in seg.bodies_with_sizes()) == len(SUPERVOXELS) * 512
                seen.append(tuple(seg.mapping(SUPERVOXELS).tolist()))
                assert 0 not in seen[-1]
                box = seg.read(GRID.offset, GRID.shape)[4::8, 4::8, 4::8][:, :, :-2]
                seen.append(tuple(box.reshape(-1).tolist()))

        threads(lambda: edit(0), lambda: edit(1), read, read)
        passed = [tuple(map(model.body, SUPERVOXELS))]
        for record in seg.mutations():
            replay(model, [record], ds.get_blob)
            passed.append(tuple(map(model.body, SUPERVOXELS)))
    assert set(seen) <= set(passed)
    assert len(set(seen)) > 1


def test_a_conflict_of_two_cleaves_of_one_supervoxel_is_told(store):
    """Both can't have it. One gets it; the other hears that it isn't part of the body any more."""
    model = prepare(store)
    with dvid_dask.open(store, compact="never") as ds:
        seg = ds[model.uuid]["seg"]
        for _ in range(10):
            svs = SUPERVOXELS[:3]
            target = seg.mapping(svs).tolist()
            if len(set(target)) > 1:
                seg.merge(target[0], sorted(set(target[1:]) - {target[0]}))
            body = int(seg.mapping([1])[0])
            answers, start = [], threading.Barrier(2)

            def cleave(body=body, answers=answers, start=start):
                start.wait()
                try:
                    answers.append(seg.cleave(body, [2])[0])
                except BadRequest as e:
                    answers.append(str(e))

            threads(cleave, cleave)
            (new,) = [a for a in answers if isinstance(a, int)]
            (told,) = [a for a in answers if isinstance(a, str)]
            assert "not part of" in told
            assert int(seg.mapping([2])[0]) == new
            assert list(seg.verify()) == []


# ------------------------------------------------------------------ ids


def test_ids_over_processes_kills_and_branches(store):
    """Drawn by processes that branch and are killed: none comes twice, none is below an ancestor's."""
    model = prepare(store)
    root, said = model.uuid, []
    for turn in range(2):
        with contextlib.ExitStack() as held:
            editors = [held.enter_context(Editor()) for _ in range(2)]
            kinds = [["allocate", "cleave", "renumber"], ["allocate", "allocate", "cleave", "branch"]]
            for i, editor in enumerate(editors):
                branch = f"side{turn}-{i}"
                with dvid_dask.open(store, compact="never") as ds:
                    if not ds[root].locked:
                        ds[root].commit()
                    child = ds[root].new_branch(branch).uuid
                editor.send(store, child, seed=10 * turn + i, kinds=kinds[i])
            for editor in editors:
                editor.wait()
            time.sleep(0.4)
            said += [editor.kill() for editor in editors]
    with dvid_dask.open(store, compact="never") as ds:
        done = [words for what in said for words in dones(what)]
        made = [w["CleavedLabel"] for _, _, _, w in done if "CleavedLabel" in w]
        made += [w["NewLabel"] for _, _, _, w in done if "NewLabel" in w]
        made += [n for _, _, _, w in done if "first" in w for n in range(w["first"], w["last"] + 1)]
        assert len(made) == len(set(made)) > 10
        assert min(made) > max(SUPERVOXELS)
        seg = ds[root]["seg"]
        assert seg.next_labels.next > max(made)
        for version in ds[root].repo.versions.values():
            at = version["seg"]
            drawn = [w["last"] for _, _, uuid, w in done if "last" in w and uuid == version.uuid]
            assert at.max_label() >= max([*drawn, *(p["seg"].max_label() for p in version.parents)], default=0)
            assert list(at.verify()) == []
        mutations = [r["MutationID"] for v in ds[root].repo.versions.values() for r in v["seg"].mutations()]
        assert len(mutations) == len(set(mutations))
