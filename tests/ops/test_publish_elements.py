"""Published elements: read back by neuroglancer's own reader, and made incrementally the same as made from nothing."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.formats.sharding import Sharding
from dvid_dask.views import annotations

module = importlib.import_module("dvid_dask.ops.publish_elements")
reading = pytest.importorskip("neuroglancer.read_precomputed_annotations")

SHAPE = (128, 96, 128)


def labels():
    return np.arange(1, 25, dtype=np.uint64).reshape(4, 2, 3).repeat(32, 0).repeat(48, 1).repeat(43, 2)[:, :, :128]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Many boxes and shards, so that few of them change."""
    monkeypatch.setattr(annotations, "LIMIT", 20)
    monkeypatch.setattr(annotations, "BLOCKS", 5)
    monkeypatch.setattr(module, "_BOXES", 2)
    monkeypatch.setattr(module, "_PER_SLAB", 60)
    monkeypatch.setattr(module, "_BODY_BITS", 1)


@pytest.fixture
def synapses():
    repo = dvid_dask.create("memory://").new_repo("fly")
    seg = repo.new_instance("labelmap", "seg", {"BlockSize": "16,16,16", "VoxelSize": "8,8,40"})
    seg.write(np.ascontiguousarray(labels()), (0, 0, -16))
    made = repo.new_instance("annotation", "synapses")
    made.set_syncs(["seg"])
    made.add(elements(400))
    return made


def elements(count, seed=0):
    random = np.random.default_rng(seed)
    places = random.choice(int(np.prod(SHAPE)), count, replace=False)
    xyz = [(int(x) - 16, int(y), int(z)) for z, y, x in np.stack(np.unravel_index(places, SHAPE), 1)]
    kinds = ("PreSyn", "PostSyn")
    return [{"Pos": list(at), "Kind": kinds[i % 2], "Prop": {"conf": str(i / count)}} for i, at in enumerate(xyz)]


def check(folder, synapses):
    """What neuroglancer's reader finds is what the version has."""
    reader = reading.AnnotationReader(f"file://{folder}/")
    table = synapses.elements()
    expected = {(x, y, z): (kind, prop["conf"]) for z, y, x, kind, prop in zip(
        table["z"], table["y"], table["x"], table["kind"], table["prop"], strict=True
    )}  # fmt: skip
    bodies = synapses.source.labels_in(synapses.source.view(), table[["z", "y", "x"]].to_numpy(np.int32))[0]
    where = dict(zip(zip(table["x"], table["y"], table["z"], strict=True), bodies.tolist(), strict=True))
    seen = []
    for held in reader.get_within_spatial_bounds():
        place = tuple(int(v) for v in np.floor(held.point))
        seen.append(place)
        kind, conf = expected[place]
        assert (annotations.KINDS[held.props[1]], held.props[0]) == (kind, np.float32(conf))
        one = reader.by_id[int(held.id)]
        assert one.point.tolist() == held.point.tolist()
        assert [list(s) for s in one.segments] == [[where[place]] if where[place] else []]
    assert sorted(seen) == sorted(expected)
    for body in range(1, 40):
        held = sorted(place for place, of in where.items() if of == body)
        if held:
            found = reader.relationships["body"][body]
            assert sorted(tuple(int(v) for v in np.floor(a.point)) for a in found) == held
            continue
        with pytest.raises(KeyError):
            reader.relationships["body"][body]


def files(folder):
    return {
        str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("publication")
    }


def published(synapses, where, **options):
    return ops.publish(synapses, str(where), progress=False, **options)


def test_read_by_neuroglancer(synapses, tmp_path):
    with pytest.raises(BadRequest, match="is open"):
        published(synapses, tmp_path)
    synapses.version.commit()
    report = published(synapses, tmp_path, verify=4)
    folder = tmp_path / synapses.version.uuid
    check(folder, synapses)
    assert report.written == len([n for n in files(folder) if n.endswith(".shard")]) > 30
    assert report.verified == 4 * (report.scales + 2)
    assert report.scales > 2
    assert "parts compared" in str(report)
    assert json.loads((tmp_path / "publications.json").read_text())["latest"] == f"{synapses.version.uuid}/"
    assert not list(tmp_path.rglob(".dvid-dask*"))
    assert published(synapses, tmp_path).reason == "it was published before"


EDITS = {
    "merge": lambda synapses, seg: seg.merge(3, [4, 9]),
    "cleave": None,
    "write": lambda synapses, seg: seg.write(np.full((32, 32, 32), 33, np.uint64), (64, 32, 32)),
    "add": lambda synapses, seg: synapses.add(elements(7, seed=1)),
    "change": lambda synapses, seg: synapses.add([{**elements(400)[17], "Prop": {"conf": "7"}}]),
    "delete": lambda synapses, seg: synapses.delete([elements(400)[29]["Pos"][::-1]]),
    "nothing": lambda synapses, seg: None,
    "move": lambda synapses, seg: synapses.move(
        elements(400)[31]["Pos"][::-1], elements(400)[31]["Pos"][::-1][:2] + [3]
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_next_publication_makes_what_changed_and_nothing_else(synapses, tmp_path, edit, monkeypatch):
    synapses.version.commit()
    first = published(synapses, tmp_path)
    child = synapses.version.newversion()
    later, seg = child["synapses"], child["seg"]
    if edit == "cleave":
        body = int(labels()[40, 60, 50])
        seg.merge(body, [body + 1])
        seg.cleave(body, [body])
    else:
        EDITS[edit](later, seg)
    child.commit()
    report = published(later, tmp_path, verify=5)
    assert report.since == synapses.version.uuid, report.reason
    assert report.written + report.kept >= first.written - 8
    assert report.kept > 10
    assert (report.written == 0) == (edit == "nothing")
    folder, old = tmp_path / child.uuid, tmp_path / synapses.version.uuid
    check(folder, later)
    check(old, synapses)
    # with the same boxes and ids, all that is kept is what it would be if it were made now
    monkeypatch.setattr(module._Run, "_changed", lambda self, before: None)
    again = ops.publish(later, str(tmp_path / "again"), since=str(old), progress=False)
    assert again.kept == 0
    made, anew = files(folder), files(tmp_path / "again" / child.uuid)
    assert sorted(made) == sorted(anew)
    for name, path in made.items():
        assert path.read_bytes() == anew[name].read_bytes(), name
    kept = [n for n in made if n in files(old) and made[n].samefile(files(old)[n])]
    assert len(kept) == report.kept


def test_what_does_not_fit_the_earlier_one_is_made_anew(synapses, tmp_path):
    synapses.version.commit()
    published(synapses, tmp_path)
    far = synapses.version.newversion()
    far["synapses"].add([{"Pos": [5000, 0, 0], "Kind": "PostSyn", "Prop": {"conf": "1"}}])
    far.commit()
    report = published(far["synapses"], tmp_path)
    assert (report.since, report.kept) == ("", 0)
    assert "outside" in report.reason
    check(tmp_path / far.uuid, far["synapses"])


def test_refused(synapses, tmp_path):
    child = synapses.version
    child.commit()
    for options in ({"format": "zarr"}, {"scales": 1}, {"in_place": True}, {"segment_properties": True}):
        with pytest.raises(BadRequest):
            published(synapses, tmp_path, **options)
    (tmp_path / child.uuid).mkdir()
    (tmp_path / child.uuid / "something").write_text("else")
    with pytest.raises(Conflict, match="not empty"):
        published(synapses, tmp_path)


def test_killed_and_started_again(synapses, tmp_path, monkeypatch):
    synapses.version.commit()
    published(synapses, tmp_path / "whole")
    execute = module.job.execute

    def stop(phase, client, progress):
        execute(phase, client, progress)
        if phase.name == "by_id":
            raise KeyboardInterrupt

    monkeypatch.setattr(module.job, "execute", stop)
    with pytest.raises(KeyboardInterrupt):
        published(synapses, tmp_path / "broken")
    folder = tmp_path / "broken" / synapses.version.uuid
    assert not (folder / "info").exists()
    monkeypatch.setattr(module.job, "execute", execute)
    published(synapses, tmp_path / "broken")
    made, whole = files(folder), files(tmp_path / "whole" / synapses.version.uuid)
    assert {n: p.read_bytes() for n, p in made.items()} == {n: p.read_bytes() for n, p in whole.items()}


def test_verification_finds_damage(synapses, tmp_path, monkeypatch):
    synapses.version.commit()
    execute = module.job.execute

    def damage(phase, client, progress):
        if phase.name == "verify":
            for kind in phase.task.shards:
                if kind.kind.key == "body":
                    for name in kind.numbers:
                        (tmp_path / synapses.version.uuid / kind.kind.name(name)).unlink()
        execute(phase, client, progress)

    monkeypatch.setattr(module.job, "execute", damage)
    with pytest.raises(Conflict, match="differs from the version"):
        published(synapses, tmp_path, verify=1)


def test_without_a_segmentation_and_without_elements(tmp_path):
    repo = dvid_dask.create("memory://").new_repo("fly")
    notes, none = repo.new_instance("annotation", "notes"), repo.new_instance("annotation", "none")
    notes.add(elements(50))
    repo["master"].commit()
    for instance in (notes, none):
        report = published(instance, tmp_path / instance.name)
        folder = tmp_path / instance.name / repo["master"].uuid
        assert json.loads((folder / "info").read_text())["relationships"] == []
        found = list(reading.AnnotationReader(f"file://{folder}/").get_within_spatial_bounds())
        assert len(found) == (50 if instance is notes else 0)
        assert bool(report.written) == bool(found)


def test_shards_of_ids_are_named_as_tensorstore_does():
    kind = module._Kind("by_id", Sharding(3, 2, 5), False)
    assert kind.name(17) == "by_id/11.shard"
    assert kind.number(np.array([17 << 5, 49 << 5], np.uint64)).tolist() == [17, 17]
