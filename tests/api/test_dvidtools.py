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
