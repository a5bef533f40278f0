"""Annotations as neuroglancer's precomputed format, read back by neuroglancer's own reader."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dvid_dask
from dvid_dask.errors import BadRequest
from dvid_dask.formats.precomputed_annotations import Property, encode_many
from dvid_dask.views import AnnotationsView, annotations

reading = pytest.importorskip("neuroglancer.read_precomputed_annotations")

SHAPE = (64, 96, 128)


def labels():
    return np.arange(1, 13, dtype=np.uint64).reshape(2, 2, 3).repeat(32, 0).repeat(48, 1).repeat(43, 2)[:, :, :128]


@pytest.fixture
def repo():
    repo = dvid_dask.create("memory://").new_repo("fly")
    settings = {"BlockSize": "16,16,16", "VoxelSize": "8,8,40"}
    repo.new_instance("labelmap", "seg", settings).write(np.ascontiguousarray(labels()), (0, 0, -16))
    return repo


def elements(count, seed=0):
    """Pairs at different places: a presynaptic element and one or two behind it."""
    random = np.random.default_rng(seed)
    places = random.choice(int(np.prod(SHAPE)), count, replace=False)
    xyz = [(int(x) - 16, int(y), int(z)) for z, y, x in np.stack(np.unravel_index(places, SHAPE), 1)]
    made = []
    for i, at in enumerate(xyz):
        pre = i - i % 3
        kind = "PreSyn" if i == pre else "PostSyn"
        rels = [{"Rel": "PostSynTo", "To": list(xyz[pre])}]
        if i == pre:
            rels = [{"Rel": "PreSynTo", "To": list(to)} for to in xyz[i + 1 : i + 3]]
        prop = {"conf": str(i / count), "user": "me"}
        made.append({"Pos": list(at), "Kind": kind, "Prop": prop, "Rels": rels})
    return made


@pytest.fixture
def synapses(repo):
    synapses = repo.new_instance("annotation", "synapses")
    synapses.set_syncs(["seg"])
    return synapses


def read(view, tmp_path, *, lines=False):
    """neuroglancer's reader on the view, of which every box is written to files."""
    folder = tmp_path / ("lines" if lines else "points")
    top = "lines/" if lines else ""
    info = view.info(lines=lines)
    paths = ["info"]
    for level in info["spatial"]:
        paths += [f"{level['key']}/{'_'.join(map(str, at))}" for at in np.ndindex(*level["grid_shape"])]
    for path in paths:
        data = view.get(top + path)[0]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        if path != "info":
            count = int.from_bytes(data[:8], "little")
            for number in np.frombuffer(data[len(data) - 8 * count :], "<u8").tolist():
                (folder / "by_id").mkdir(exist_ok=True)
                (folder / "by_id" / str(number)).write_bytes(view.get(f"{top}by_id/{number}")[0])
    for relation in info["relationships"]:
        (folder / relation["key"]).mkdir()
        for body in range(1, 13):
            data = view.get(f"{top}{relation['key']}/{body}")[0]
            (folder / relation["key"] / str(body)).write_bytes(data)
    assert json.loads((folder / "info").read_text()) == info
    return reading.AnnotationReader(f"file://{folder}/"), info


@pytest.mark.parametrize("many", [False, True])
def test_every_element_is_in_one_box_of_one_level(synapses, tmp_path, monkeypatch, many):
    monkeypatch.setattr(annotations, "LIMIT", 20 if many else 5000)
    monkeypatch.setattr(annotations, "BLOCKS", 5)
    given = elements(300)
    synapses.add(given)
    reader, info = read(AnnotationsView(synapses), tmp_path)
    assert (len(info["spatial"]) > 2) == many
    by_place = {tuple(e["Pos"]): e for e in given}
    seen = []
    for held in reader.get_within_spatial_bounds():
        place = tuple(int(v) for v in np.floor(held.point))
        element = by_place[place]
        seen.append(place)
        confidence, kind = held.props
        assert annotations.KINDS[kind] == element["Kind"]
        assert confidence == np.float32(element["Prop"]["conf"])
        one = reader.by_id[int(held.id)]
        assert one.point.tolist() == held.point.tolist()
        x, y, z = place
        assert [list(s) for s in one.segments] == [[int(labels()[z, y, x + 16])]]
    assert sorted(seen) == sorted(by_place)


def test_elements_of_a_body(synapses, repo, tmp_path):
    given = elements(60)
    synapses.add(given)
    repo["master"]["seg"].merge(3, [4])
    reader, _ = read(AnnotationsView(synapses), tmp_path)
    found = {tuple(int(v) for v in np.floor(a.point)) for a in reader.relationships["body"][3]}
    held = labels()
    expected = {tuple(e["Pos"]) for e in given if held[e["Pos"][2], e["Pos"][1], e["Pos"][0] + 16] in (3, 4)}
    assert found == expected
    assert expected
    assert not list(reader.relationships["body"][4])


def test_lines_lead_from_presynaptic_elements_to_those_behind(synapses, tmp_path):
    given = elements(60)
    synapses.add(given)
    reader, info = read(AnnotationsView(synapses), tmp_path, lines=True)
    assert info["annotation_type"] == "LINE"
    expected = {(tuple(e["Rels"][0]["To"]), tuple(e["Pos"])) for e in given if e["Kind"] == "PostSyn"}

    def ends(line):
        return tuple(tuple(int(v) for v in np.floor(p)) for p in (line.pointA, line.pointB))

    found = [ends(line) for line in reader.get_within_spatial_bounds()]
    assert sorted(found) == sorted(expected)
    held = labels()
    for which, name in enumerate(("presynaptic body", "postsynaptic body")):
        for body in range(1, 13):
            wanted = {e for e in expected if held[e[which][2], e[which][1], e[which][0] + 16] == body}
            assert {ends(line) for line in reader.relationships[name][body]} == wanted


def test_without_a_segmentation_and_without_elements(repo, tmp_path):
    notes = repo.new_instance("annotation", "notes")
    reader, info = read(AnnotationsView(notes), tmp_path)
    assert info["relationships"] == []
    assert info["dimensions"]["z"] == [40e-9, "m"]
    assert list(reader.get_within_spatial_bounds()) == []
    view = AnnotationsView(notes)
    for path in ("body/3", "by_id/7", f"by_id/{2**64}", "by_id/x", "spatial0/0_0_1", "spatial9/0_0_0", "nothing"):
        assert view.get(path) is None
    with pytest.raises(BadRequest, match="no elements"):
        AnnotationsView(repo["master"]["seg"])


def test_far_away_and_further(repo):
    notes = repo.new_instance("annotation", "notes")
    far = 1 << 24
    notes.add([{"Pos": [far, far, far], "Kind": "Note"}, {"Pos": [far + 100, far, far], "Kind": "Note"}])
    view = AnnotationsView(notes)
    data = view.get("spatial0/0_0_0")[0]
    number = int(np.frombuffer(data[-8:], "<u8")[0])
    assert np.frombuffer(view.get(f"by_id/{number}")[0][:12], "<f4")[1] == np.float32(far + 0.5)
    notes.add([{"Pos": [0, 0, 0], "Kind": "Note"}])
    with pytest.raises(BadRequest, match="further apart"):
        AnnotationsView(notes).get("spatial0/0_0_0")


def test_properties_are_in_the_order_of_their_size():
    given = [(Property("a", "uint8"), [1]), (Property("b", "uint16"), [2]), (Property("c", "uint32"), [3])]
    record = encode_many([[0, 0, 0]], given, [9])[8 + 12 : -8]
    assert record.hex() == "03000000" + "0200" + "01" + "00"
