"""Meshes of a labelmap: the voxels' surfaces at the right place, at every destination, all or those that changed."""

from __future__ import annotations

import importlib
import itertools
import json

import numpy as np
import pytest

import dvid_dask
from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotFound, NotSupported
from dvid_dask.formats.meshes.files import decode
from dvid_dask.formats.meshes.mesh import placed
from dvid_dask.formats.meshes.multires import decode_fragments, decode_manifest
from dvid_dask.formats.meshes.shard import decode_shard
from dvid_dask.formats.meshes.surfaces import Piece, surfaces
from dvid_dask.formats.sharding import Sharding
from dvid_dask.ops import mesh_bricks
from dvid_dask.ops.mesh_bricks import decode_piece, encode_piece
from tests.formats.meshes.test_surfaces import ball, torus, triangles
from tests.ops.conftest import neurites

trimesh = pytest.importorskip("trimesh")
for _name in ("skimage.measure", "pyfqmr", "DracoPy"):
    pytest.importorskip(_name)

module = importlib.import_module("dvid_dask.ops.mesh")

OFFSET = (-32, 0, 64)
SIZE = (40.0, 8.0, 4.0)


def scene():
    """A ball of two supervoxels 7 and 8, a torus 9 at the border of the volume, single voxels 11 far apart."""
    volume = np.zeros((64, 80, 96), np.uint64)
    volume[4:54, 10:60, 40:90][ball(24, 50)] = 7
    volume[30:, :, :][volume[30:] == 7] = 8
    volume[:40, :40, :40][torus(14, 5, 40)] = 9
    volume[0, 0, 0] = volume[63, 79, 95] = volume[16, 70, 32] = 11
    return volume


@pytest.fixture
def seg(repo):
    made = repo.new_instance(
        "labelmap", "segmentation", {"BlockSize": "16,16,16", "VoxelSize": "4,8,40", "MaxDownresLevel": "1"}
    )
    made.write(scene(), OFFSET)
    made.merge(7, [8])
    return repo["master"]["segmentation"]


@pytest.fixture
def kv(repo):
    return repo.new_instance("keyvalue", "segmentation_meshes")


def run(*args, **kwargs):
    return ops.mesh(*args, **{"progress": False, **kwargs})


def expected(mask, offset=OFFSET, size=SIZE):
    """What the whole mask in one brick gives."""
    ((_, places, faces),) = surfaces(np.pad(mask.astype(np.uint64), 1), 1)
    return placed(Piece(places / 2 - 1 + offset, faces, len(faces)), size)


def same(found, wanted):
    return triangles(found.vertices, found.faces) == triangles(wanted.vertices, wanted.faces)


def ngmeshes(kv):
    return {int(name.partition(".")[0]): decode(data, "ngmesh") for name, data in kv.items()}


def check(mesh, mask, offset=OFFSET, size=SIZE):
    """Closed, outwards, and within the box of the voxels, up to one of them."""
    made = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert made.is_watertight
    assert made.is_winding_consistent
    assert made.volume > 0
    at = np.argwhere(mask) + offset
    xyz = np.array(size)[::-1]
    low, high = at.min(axis=0)[::-1] * xyz, (at.max(axis=0)[::-1] + 1) * xyz
    assert (mesh.vertices.min(axis=0) >= low - xyz).all()
    assert (mesh.vertices.max(axis=0) <= high + xyz).all()
    assert (mesh.vertices.min(axis=0) <= low + xyz).all()
    assert (mesh.vertices.max(axis=0) >= high - xyz).all()
    return made


@pytest.mark.parametrize("edge", [16, 48, 256])
def test_bricks_make_the_triangles_of_the_whole(seg, kv, edge):
    report = run(seg, kv, keep=1, edge=edge)
    found = ngmeshes(kv)
    bodies = scene()
    bodies[bodies == 8] = 7
    assert (sorted(found), report.labels, report.removed) == ([7, 9, 11], 3, 0)
    for body, mesh in found.items():
        assert same(mesh, expected(bodies == body))
        check(mesh, bodies == body)
    assert report.triangles == sum(len(m.faces) for m in found.values())
    assert report.bytes == sum(len(data) for data in kv.values())
    store = seg.version.datastore.store
    assert [name for name in store.trees() if name.startswith("scratch")] == []


@pytest.mark.parametrize("edge", [32, 256])
def test_simplified(seg, kv, edge):
    run(seg, kv, keep=0.1, edge=edge)
    bodies = scene()
    bodies[bodies == 8] = 7
    found = ngmeshes(kv)
    euler = {body: check(found[body], bodies == body).euler_number for body in (7, 9)}
    assert euler == {7: 2, 9: 0}
    for body in (7, 9):
        whole = expected(bodies == body)
        assert len(found[body].faces) <= 0.12 * len(whole.faces)
        assert found[body].volume == pytest.approx(whole.volume, rel=0.03)


def test_a_dense_volume_in_many_bricks(repo, kv, monkeypatch):
    """Everything touches something: all supervoxels, each against its own mask."""
    monkeypatch.setattr(mesh_bricks, "_TOGETHER", 50)
    volume = neurites((44, 50, 60), labels=12)
    seg = repo.new_instance("labelmap", "dense", {"BlockSize": "16,16,16"})
    ops.ingest(volume, seg, offset=(3, -20, 7), progress=False)
    run(seg, kv, keep=1, edge=32)
    found = ngmeshes(kv)
    assert sorted(found) == np.unique(volume[volume > 0]).tolist()
    for label, mesh in found.items():
        assert same(mesh, expected(volume == np.uint64(label), (3, -20, 7), (8, 8, 8)))


def test_scale(seg, kv):
    run(seg, kv, [9], scale=1, keep=1, edge=16)
    coarse = seg.read(tuple(v // 2 for v in OFFSET), (32, 40, 48), scale=1)
    found = ngmeshes(kv)
    size = tuple(2 * s for s in SIZE)
    assert same(found[9], expected(coarse == 9, tuple(v // 2 for v in OFFSET), size))
    check(found[9], scene() == 9)
    with pytest.raises(BadRequest, match="scales 0 to 1"):
        run(seg, kv, scale=2)


def test_units_of_the_voxel_size(repo, kv):
    seg = repo.new_instance(
        "labelmap", "micro", {"VoxelSize": "0.004,0.008,0.04", "VoxelUnits": "micrometers,micrometers,micrometers"}
    )
    ops.ingest(np.full((2, 2, 2), 5, np.uint64), seg, offset=(1, 2, 3), progress=False)
    run(seg, kv)
    (mesh,) = ngmeshes(kv).values()
    np.testing.assert_allclose(mesh.vertices.min(axis=0), (12, 16, 40), rtol=1e-5)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), (20, 32, 120), rtol=1e-5)


# ---------------------------------------------------------------------- destinations


@pytest.mark.parametrize("extension", ["obj", "drc", "ply", "ngmesh"])
def test_files_of_supervoxels(repo, seg, extension):
    meshes = repo.new_instance("tarsupervoxels", "meshes", {"Extension": extension})
    meshes.set_syncs(["segmentation"])
    meshes = repo["master"]["meshes"]
    report = run(seg, meshes, keep=1, user="ann")
    assert list(meshes) == [7, 8, 9, 11]
    assert report.labels == 4
    assert meshes.missing(7).tolist() == []
    for sv, data in meshes.files_of(7):
        found = decode(data, extension)
        whole = expected(scene() == sv)
        assert len(found.faces) == len(whole.faces)
        assert found.volume == pytest.approx(whole.volume, rel=1e-3)
    assert {r.user for r in meshes.history()} == {"ann"}


def test_some_supervoxels_only(repo, seg):
    meshes = repo.new_instance("tarsupervoxels", "meshes", {"Extension": "ngmesh"})
    run(seg, meshes, [8, 11, 8], keep=1, edge=16)
    assert list(meshes) == [8, 11]
    assert same(decode(meshes[8], "ngmesh"), expected(scene() == 8))


@pytest.mark.parametrize("edge", [16, 256])
def test_a_folder_of_multi_resolution_meshes(seg, tmp_path, edge):
    folder = tmp_path / "mesh"
    run(seg, str(folder), keep=0.5, edge=edge)
    assert sorted(p.name for p in folder.iterdir()) == ["11", "11.index", "7", "7.index", "9", "9.index", "info"]
    assert json.loads((folder / "info").read_text())["@type"] == "neuroglancer_multilod_draco"
    bodies = scene()
    bodies[bodies == 8] = 7
    for body in (7, 9):
        manifest = decode_manifest((folder / f"{body}.index").read_bytes())
        data = (folder / str(body)).read_bytes()
        assert sum(int(s.sum()) for s in manifest.sizes) == len(data)
        assert len(manifest.positions) > 1
        whole = expected(bodies == body)
        for level in range(len(manifest.positions)):
            found = decode_fragments(manifest, data, level)
            parts = trimesh.util.concatenate([trimesh.Trimesh(m.vertices, m.faces, process=False) for m in found])
            assert parts.volume == pytest.approx(whole.volume, rel=0.3 if level else 0.02)


def test_a_folder_of_shards(seg, tmp_path):
    run(seg, str(tmp_path), format="sharded", keep=0.5, edge=32)
    run(seg, str(tmp_path / "loose"), keep=0.5, edge=32)
    info = json.loads((tmp_path / "info").read_text())
    assert info["sharding"]["shard_bits"] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.shard", "info", "loose"]
    found = decode_shard((tmp_path / "0.shard").read_bytes(), Sharding.from_json(info["sharding"]))
    assert sorted(found) == [7, 9, 11]
    for body, (manifest, fragments) in found.items():
        assert manifest == (tmp_path / "loose" / f"{body}.index").read_bytes()
        assert fragments == (tmp_path / "loose" / str(body)).read_bytes()
    with pytest.raises(BadRequest, match="made anew"):
        run(seg, str(tmp_path), format="sharded", since=seg.version)


def test_a_folder_of_single_resolution_meshes(seg, tmp_path):
    folder = tmp_path / "mesh"
    run(seg, folder.as_uri(), [9], format="legacy", keep=1)
    assert json.loads((folder / "info").read_text()) == {"@type": "neuroglancer_legacy_mesh"}
    (fragment,) = json.loads((folder / "9:0").read_text())["fragments"]
    assert same(decode((folder / fragment).read_bytes(), "ngmesh"), expected(scene() == 9))


def test_a_volume_names_its_folder_of_meshes(seg, tmp_path):
    def named():
        return json.loads((volume / "info").read_text()).get("mesh")

    volume = tmp_path / "seg"
    ops.export(seg, str(volume), format="precomputed", progress=False)
    before = json.loads((volume / "info").read_text())
    run(seg, str(volume / "objects"), [9], format="obj")
    assert named() is None
    run(seg, str(volume / "mesh"), [9])
    assert json.loads((volume / "info").read_text()) == {**before, "mesh": "mesh"}
    run(seg, str(volume / "coarse"), [9], format="legacy")
    assert named() == "mesh"
    for held in ("[]", "{", json.dumps({"@type": "neuroglancer_multiscale_volume", "type": "image", "scales": [1]})):
        (volume / "info").write_text(held)
        run(seg, str(volume / "mesh"), [9])
        assert (volume / "info").read_text() == held


def test_a_publication_in_place_keeps_its_meshes(seg, tmp_path):
    volume = tmp_path / "seg"
    seg.version.commit()
    ops.publish(seg, str(volume), format="precomputed", in_place=True, progress=False)
    run(seg, str(volume / "mesh"), [9])
    child = seg.version.newversion()
    child["segmentation"].merge(7, [9])
    child.commit()
    ops.publish(child["segmentation"], str(volume), format="precomputed", in_place=True, progress=False)
    assert json.loads((volume / "info").read_text())["mesh"] == "mesh"


def test_a_folder_of_other_things_is_left_alone(seg, tmp_path):
    run(seg, str(tmp_path), [9], format="legacy")
    with pytest.raises(Conflict, match="info is there"):
        run(seg, str(tmp_path), [9])
    (tmp_path / "info").write_text("{")
    with pytest.raises(Conflict, match="info is there"):
        run(seg, str(tmp_path), [9], format="legacy")
    run(seg, str(tmp_path / "plain"), [9], format="obj")
    assert [p.name for p in (tmp_path / "plain").iterdir()] == ["9.obj"]


# ---------------------------------------------------------------------- what changed


def test_since_makes_what_changed_and_removes_what_is_gone(repo, seg, kv, tmp_path):
    run(seg, kv)
    run(seg, str(tmp_path), format="obj")
    root = repo["master"]
    root.commit()
    child = root.newversion()
    there, keys = child["segmentation"], child["segmentation_meshes"]
    assert run(there, keys, since=root).labels == 0
    new, _ = there.cleave(7, [8])  # 7 changes
    there.merge(11, [9])  # 11 changes, 9 is gone
    before = {name: keys[name] for name in keys}
    report = run(there, keys, since=root)
    assert (report.labels, report.removed) == (3, 1)
    assert list(keys) == sorted(["11.ngmesh", "7.ngmesh", f"{new}.ngmesh"])
    assert all(keys[name] != before.get(name) for name in keys)
    assert list(kv) == ["11.ngmesh", "7.ngmesh", "9.ngmesh"]  # at the committed version as ever
    run(there, str(tmp_path), since=root, format="obj")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["11.obj", "7.obj", f"{new}.obj"])
    assert run(there, keys, [7, 9], since=root).labels == 1


def test_since_of_supervoxels_goes_by_voxels(repo, seg):
    meshes = repo.new_instance("tarsupervoxels", "meshes", {"Extension": "ngmesh"})
    run(seg, meshes)
    root = repo["master"]
    root.commit()
    there = root.newversion()["segmentation"]
    there.merge(7, [9, 11])
    new = there.version["meshes"]
    assert run(there, new, since=root).labels == 0  # no voxel is another one
    patch = there.read((0, 30, 120), (4, 4, 4), supervoxels=True)
    assert set(np.unique(patch).tolist()) & {7, 8}
    ops.ingest(np.full((4, 4, 4), 50, np.uint64), there, offset=(0, 30, 120), progress=False)
    report = run(there, new, since=root)
    changed = {50, *np.unique(patch[patch > 0]).tolist()}
    assert report.labels == len(changed)
    assert set(new) == {7, 8, 9, 11, 50}
    assert decode(new[50], "ngmesh").volume < 64 * 4 * 8 * 40


# ---------------------------------------------------------------------- jobs


def test_a_job_that_broke_goes_on(seg, kv, monkeypatch):
    task = mesh_bricks.MeshBricks.__call__
    done = []

    def fails(self, index):
        if len(done) == 3:
            raise MemoryError("enough")
        done.append(index)
        return task(self, index)

    monkeypatch.setattr(mesh_bricks.MeshBricks, "__call__", fails)
    with pytest.raises(MemoryError):
        run(seg, kv, keep=1, edge=32)
    monkeypatch.setattr(mesh_bricks.MeshBricks, "__call__", lambda self, index: done.append(index) or task(self, index))
    first = set(done)
    report = run(seg, kv, keep=1, edge=32)
    assert len(done) == len(set(done))
    assert first < set(done)
    bodies = scene()
    bodies[bodies == 8] = 7
    assert all(same(mesh, expected(bodies == body)) for body, mesh in ngmeshes(kv).items())
    assert report.labels == 3


def test_on_a_cluster_of_processes(tmp_path):
    from distributed import Client, LocalCluster

    repo = dvid_dask.create(str(tmp_path / "store"), compact="never").new_repo()
    seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
    seg.write(scene(), (0, 0, 0))
    kv = repo.new_instance("keyvalue", "meshes")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        run(seg, kv, keep=1, edge=32)
    for label, mesh in ngmeshes(kv).items():
        assert same(mesh, expected(scene() == label, (0, 0, 0), (8, 8, 8)))


def test_pieces_survive_their_encoding():
    ((_, places, faces),) = surfaces(np.pad(ball(6, 14).astype(np.uint64), 1), 1)
    piece = Piece(places / 2 + (-1000.0, 2**20, 0), faces, 12345)
    back = decode_piece(encode_piece(piece))
    np.testing.assert_array_equal(back.vertices, piece.vertices)
    np.testing.assert_array_equal(back.faces, piece.faces)
    assert back.made == 12345


# ---------------------------------------------------------------------- bad input


def test_what_can_t_be(repo, seg, kv, monkeypatch):
    meshes = repo.new_instance("tarsupervoxels", "meshes", {"Extension": "stl"})
    obj = repo.new_instance("tarsupervoxels", "objs", {"Extension": "obj"})
    for error, call in [
        (NotFound, lambda: run(seg, kv, [7, 8])),  # 8 is a supervoxel now
        (NotFound, lambda: run(seg, kv, [12345], supervoxels=True)),
        (BadRequest, lambda: run(seg, kv, [0])),
        (BadRequest, lambda: run(seg, kv, ["seven"])),
        (BadRequest, lambda: run(seg, kv, [-1])),
        (BadRequest, lambda: run(seg, kv, keep=0)),
        (BadRequest, lambda: run(seg, kv, keep=float("nan"))),
        (BadRequest, lambda: run(seg, kv, edge=0)),
        (BadRequest, lambda: run(seg, kv, format="stl")),
        (BadRequest, lambda: run(seg, kv, format="precomputed")),
        (BadRequest, lambda: run(seg, meshes)),
        (BadRequest, lambda: run(seg, obj, format="drc")),
        (BadRequest, lambda: run(seg, obj, supervoxels=False)),
        (NotSupported, lambda: run(kv, kv)),
        (NotSupported, lambda: run(seg, seg)),
        (BadRequest, lambda: run(seg, kv, since=dvid_dask.create("memory://").new_repo()["master"])),
    ]:
        with pytest.raises(error):
            call()
    assert list(kv) == []
    assert list(obj) == []
    repo["master"].commit()
    with pytest.raises(LockedVersion):
        run(seg, kv)
    assert run(seg, kv, force=True).labels == 3


def test_no_labels_are_no_meshes(repo, seg, kv):
    assert run(seg, kv, []).labels == 0
    empty = repo.new_instance("labelmap", "empty", {})
    assert run(empty, kv).labels == 0


def test_without_the_libraries(seg, kv, monkeypatch):
    def missing(name):
        raise ImportError("pip install 'dvid-dask[mesh]'")

    monkeypatch.setattr(module, "library", missing)
    with pytest.raises(NotSupported, match="pip install"):
        run(seg, kv)


def test_labels_without_an_index_are_found_in_all_bricks(repo, kv):
    seg = repo.new_instance("labelmap", "plain", {"BlockSize": "16,16,16", "IndexedLabels": "false"})
    seg.write(scene(), (0, 0, 0))
    with pytest.raises(NotSupported, match="no label index"):
        run(seg, kv, [9])
    run(seg, kv, keep=1, edge=32)
    assert sorted(ngmeshes(kv)) == [7, 8, 9, 11]
    assert same(ngmeshes(kv)[9], expected(scene() == 9, (0, 0, 0), (8, 8, 8)))


def test_every_cell_belongs_to_one_brick():
    blocks = np.array(list(itertools.product((0, 1, 3), repeat=3)), np.int64)
    per_brick = np.array([2, 2, 2])
    bricks = mesh_bricks.neighbours_before(blocks, per_brick)
    wanted = {tuple((np.array(b) - s) // 2) for b in blocks.tolist() for s in itertools.product((0, 1), repeat=3)}
    assert set(map(tuple, bricks.tolist())) == wanted
    assert len(bricks) == len(wanted)
