"""dvidtools, a client that others wrote for DVID: what it asks of segmentations, ROIs and versions of this server.

It is no part of the package: it runs here as any user's client does.
"""

import json

import numpy as np
import pytest

import dvid_dask
from tests.datatypes.labelmap.model import Counter, Grid, Model, random_labels

from .conftest import server_process

dvid = pytest.importorskip("dvid", reason="needs the package dvidtools")

GRID = Grid((16, 16, 16), (2, 3, 3), (0, 0, 0), 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a segmentation of two versions, the model of the later one, and an ROI; dvidtools is set to it."""
    store = str(tmp_path_factory.mktemp("dvidtools") / "store")
    with dvid_dask.create(store, compact="never") as ds:
        version = ds.new_repo("fly")["master"]
        seg = version.repo.new_instance("labelmap", "segmentation", GRID.settings)
        labels = random_labels(5, GRID.shape, range(1, 9))
        labels[:24, 8:40, 8:40] = 20
        seg.write(labels, GRID.offset)
        version.repo.new_instance("roi", "medulla", {"BlockSize": "16,16,16"})
        version.repo.new_instance("keyvalue", "rois").put("medulla", b"{}")
        version.commit()
        child = version.newversion()
        mutation = child["segmentation"].merge(1, [2, 3], user="kim", app="neu3")
        model = Model(GRID, Counter(), uuid=child.uuid)
        model.write((0, 0, 0), labels)
        model.merge(1, [2, 3], (mutation, "kim", "neu3"))
        root = version.uuid
    with server_process(store) as process:
        dvid.setup(process.url, model.uuid, "kim")
        yield process, root, model


def xyz_of(mask):
    return sorted(map(tuple, np.argwhere(mask)[:, ::-1].tolist()))


def test_where_and_how_large(server):
    _, _, model = server
    bodies = model.as_bodies()
    rng = np.random.default_rng(0)
    points = np.stack([rng.integers(0, n, 100) for n in GRID.shape[::-1]], axis=1)
    assert dvid.locs_to_ids(points, progress=False).tolist() == [int(bodies[z, y, x]) for x, y, z in points.tolist()]
    ids = [*model.bodies(), 2, 999]
    sizes = [model.body_size(b) for b in ids]
    assert dvid.get_sizes(ids, progress=False).tolist() == sizes
    assert dvid.ids_exist(ids, progress=False).tolist() == [n > 0 for n in sizes]
    mutation, user, app = model.stamps[1]
    told = dvid.get_last_mod(1)
    assert (told["mutation id"], told["last mod user"], told["last mod app"]) == (mutation, user, app)
    size = dvid.get_sparsevol_size(1)
    assert size["voxels"] == model.body_size(1)
    assert dvid.get_segmentation_info()["Extended"]["MaxDownresLevel"] == 3


def test_sparse_volumes(server):
    _, _, model = server
    for body in (1, 20):
        for scale in range(3):
            mask = np.isin(model.scale(scale), model.supervoxels(body))
            found = dvid.get_sparsevol(body, scale=scale, ret_type="INDEX")
            assert sorted(map(tuple, found.tolist())) == xyz_of(mask)
            runs = dvid.get_sparsevol(body, scale=scale, ret_type="INDEX", voxels=False)
            assert int(runs[:, 3].sum()) == int(mask.sum())
        coarse = dvid.get_sparsevol(body, scale="COARSE", ret_type="INDEX")
        assert {tuple(b) for b in coarse.tolist()} == {key[2::-1] for key in model.rows()[body]}
        box = [5, 30, 10, 20, 0, 17]  # x, y and z, both ends inclusive
        inside = np.zeros(GRID.shape, bool)
        inside[0:18, 10:21, 5:31] = True
        found = dvid.get_sparsevol(body, scale=0, ret_type="INDEX", bbox=box)
        assert sorted(map(tuple, found.tolist())) == xyz_of(inside & (model.as_bodies() == np.uint64(body)))
    with pytest.raises(ValueError, match="no sparse volume"):
        dvid.get_sparsevol(1, scale=0, bbox=[500, 600, 500, 600, 500, 600])


def test_points_are_snapped_to_bodies(server):
    _, _, model = server
    bodies = model.as_bodies()
    snapped = dvid.snap_to_body(20, np.array([[0, 0, 40], [20, 20, 5]]))
    assert all(int(bodies[z, y, x]) == 20 for x, y, z in snapped.tolist())
    assert snapped[1].tolist() == [20, 20, 5]


def test_rois_and_versions(server):
    process, root, model = server
    assert dvid.get_available_rois() == ["medulla"]
    assert dvid.get_branch_history(root) == [model.uuid, root]
    assert dvid.get_master_node(root) == model.uuid
    assert dvid.list_projects().Root.tolist() == [root]
    blocks = [[0, 0, 0, 1], [1, 2, 0, 0]]
    url = f"{process.url}/api/node/{model.uuid}/medulla/roi"
    session = dvid.fetch.dvid_session()
    assert session.post(url, data=json.dumps(blocks)).status_code == 200
    assert session.get(url).json() == blocks


def test_bodies_that_are_gone_are_found_again(server):
    _, root, model = server
    assert dvid.fetch.find_lost_ids([2], progress=False).tolist() == [root]
    found = dvid.update_ids([2, 20], scale=1, sample=None, progress=False)
    assert found.iloc[:, 1].tolist() == [1, 20]


# ------------------------------------------------------------------ what lies beside the segmentation


TBARS = {(20, 20, 5): [(40, 40, 30), (41, 10, 20), (3, 3, 3)], (10, 9, 12): [(41, 11, 20), (2, 45, 30)]}  # x, y, z
SWC = '#${"mutation id": 1000000077}\n1 0 1 2 3 1 -1\n2 0 4 5 6 1 1\n'


@pytest.fixture(scope="module")
def beside(server):
    """Instances as a project has them: synapses and their counts, notes, bookmarks, meshes and skeletons."""
    process, _, model = server
    session, node = dvid.fetch.dvid_session(), f"{process.url}/api/node/{model.uuid}"

    def instance(typename, name, sync=""):
        made = {"typename": typename, "dataname": name}
        assert session.post(f"{process.url}/api/repo/{model.uuid}/instance", json=made).status_code == 200
        if sync:
            assert session.post(f"{node}/{name}/sync", json={"sync": sync}).status_code == 200

    instance("annotation", "synapses", "segmentation")
    instance("labelsz", "synapses_labelsz", "synapses")
    instance("annotation", "bookmark_annotations")
    instance("annotation", "segmentation_todo", "segmentation")
    instance("neuronjson", "segmentation_annotations")
    for name in ("segmentation_meshes", "segmentation_meshes_mutid", "segmentation_skeletons", "bookmarks"):
        instance("keyvalue", name)
    elements = []
    for tbar, psds in TBARS.items():
        rels = [{"Rel": "PreSynTo", "To": list(psd)} for psd in psds]
        elements.append({"Pos": list(tbar), "Kind": "PreSyn", "Tags": [], "Prop": {"conf": "0.9"}, "Rels": rels})
        for psd in psds:
            back = [{"Rel": "PostSynTo", "To": list(tbar)}]
            elements.append({"Pos": list(psd), "Kind": "PostSyn", "Tags": [], "Prop": {"conf": "0.5"}, "Rels": back})
    assert session.post(f"{node}/synapses/elements", json=elements).status_code == 200
    return session, node, model


def body_at(model, point):
    x, y, z = point
    return int(model.as_bodies()[z, y, x])


def test_synapses(beside):
    _, _, model = beside
    partners = [(body_at(model, t), body_at(model, p)) for t, psds in TBARS.items() for p in psds]
    bodies = sorted({b for pair in partners for b in pair} - {0})
    assert len(bodies) > 1
    for body in bodies:
        pre = sum(body_at(model, t) == body for t in TBARS)
        post = sum(b == body for _, b in partners)
        assert dvid.get_n_synapses(body) == {"pre": pre, "post": post}
        found = dvid.get_synapses(body, with_details=True)
        assert sorted(found.Kind) == ["PostSyn"] * post + ["PreSyn"] * pre
        assert all(body_at(model, p) == body for p in found.Pos)
    source = partners[0][0]
    made = [(p, t) for t, psds in TBARS.items() for p in psds if body_at(model, t) == source]
    found = dvid.get_connections(source, bodies)
    wanted = sorted(list(psd) for psd, _ in made if body_at(model, psd))
    assert sorted(found.psd_position.tolist()) == wanted
    assert sorted(found.bodyid_post) == sorted(body_at(model, p) for p in map(tuple, wanted))
    table = dvid.get_connectivity(source, ignore_autapses=False)
    down = table[table.relation == "downstream"].set_index("bodyid").n_synapses.to_dict()
    assert down == {b: sum(body_at(model, p) == b for p, _ in made) for b in {body_at(model, p) for p, _ in made}}


def test_notes_and_bookmarks(beside):
    session, node, model = beside
    assert dvid.get_annotation(20, verbose=False) == {}
    assert session.post(f"{node}/segmentation_annotations/key/20", json={"bodyid": 20, "status": "Anchor"}).ok
    dvid.edit_annotation(20, {"comment": 'a "big" one', "class": "KC"}, verbose=False)
    told = dvid.get_annotation(20)
    assert {k: told[k] for k in ("status", "comment", "class")} == {
        "status": "Anchor",
        "comment": 'a "big" one',
        "class": "KC",
    }
    prop = {"body ID": "20", "comment": "c", "custom": "1", "status": "", "time": "", "type": "Other", "user": "kim"}
    dvid.add_bookmarks([{"Pos": [1, 2, 3], "Kind": "Note", "Tags": ["user:kim"], "Prop": prop}])
    marks = dvid.get_user_bookmarks()
    assert (marks.Pos.tolist(), marks["body ID"].tolist(), marks.user.tolist()) == ([[1, 2, 3]], ["20"], ["kim"])
    for key in ("110_20_30", "112_22_32", "900_20_30"):
        assert session.post(f"{node}/bookmarks/key/{key}", json={"checked": key}).ok
    assert dvid.get_assignment_status([110, 20, 30]) == {"checked": "110_20_30"}
    assert dvid.get_assignment_status([1, 1, 1]) is None
    inside = dvid.get_assignment_status([111, 21, 31], window=[20, 20, 20])
    assert sorted(a["checked"] for a in inside) == ["110_20_30", "112_22_32"]
    todo = [{"Pos": [5, 5, 5], "Kind": "Note", "Tags": ["todo"], "Prop": {}, "Rels": []}]
    assert session.post(f"{node}/segmentation_todo/elements", json=todo).ok
    assert dvid.get_labels_in_area([0, 0, 0], [16, 16, 16]).Pos.tolist() == [[5, 5, 5]]
    assert dvid.get_labels_in_area([20, 20, 20], [16, 16, 16]) is None
    assert model.uuid in node


def test_meshes_and_skeletons(beside):
    session, node, model = beside
    corners = np.array([[0, 0, 0], [0, 8, 0], [8, 0, 0], [0, 0, 8]], "<f4")
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], "<u4")
    ngmesh = np.uint32(len(corners)).tobytes() + corners.tobytes() + faces.tobytes()
    assert session.post(f"{node}/segmentation_meshes/key/20.ngmesh", data=ngmesh).ok
    assert session.post(f"{node}/segmentation_meshes_mutid/key/20", data="77").ok
    assert dvid.has_mesh([20, 1], progress=False).tolist() == [True, False]
    (mesh,) = dvid.get_meshes([20], output="trimesh", progress=False)
    assert (len(mesh.vertices), len(mesh.faces), mesh.mutation_id) == (4, 4, 77)
    assert session.post(f"{node}/segmentation_skeletons/key/20_swc", data=SWC).ok
    assert dvid.has_skeleton([20, 1], progress=False).tolist() == [True, False]
    (skeleton,) = dvid.get_skeletons([20], output="swc", progress=False)
    assert (len(skeleton), skeleton.mutation_id) == (2, 1000000077)
    assert dvid.get_skeleton_mutation(20) == 1000000077
    assert dvid.get_skeleton_mutation(1) is None
    mesh = dvid.mesh_neuron(20, scale=1, progress=False)
    low, high = mesh.bounds / 16  # a voxel of scale 1 is 16 units wide
    there = np.argwhere(np.isin(model.scale(1), model.supervoxels(20)))[:, ::-1]
    assert np.abs(low - there.min(axis=0)).max() <= 1
    assert np.abs(high - there.max(axis=0)).max() <= 2
