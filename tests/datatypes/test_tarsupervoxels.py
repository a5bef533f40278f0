"""tarsupervoxels: files of supervoxels that all versions share, and loads that are all or nothing."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import dvid_dask
from dvid_dask.datatypes import tarsupervoxels
from dvid_dask.errors import BadRequest, Conflict, LockedVersion, NotFound
from dvid_dask.formats.errors import FormatError

HUGE = 2**64 - 1


@pytest.fixture
def repo():
    with dvid_dask.create("memory://", compact="never") as datastore:
        yield datastore.new_repo()


@pytest.fixture
def meshes(repo):
    return repo.new_instance("tarsupervoxels", "meshes", {"Extension": "obj"})


@pytest.fixture
def synced(repo, meshes):
    """Bodies 1 of supervoxels 1 and 2, and 3; with the instance that follows them."""
    seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
    labels = np.repeat(np.arange(1, 5, dtype=np.uint64), 4)
    seg.write(np.broadcast_to(labels, (16, 16, 16)).copy(), (0, 0, 0))
    seg.merge(1, [2])
    meshes.set_syncs(["segmentation"])
    return repo["master"]["meshes"]


def tar(files, extension="obj"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name if isinstance(name, str) else f"{name}.{extension}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def contents(meshes):
    return {sv: meshes.get(sv) for sv in meshes}


def keys_of(meshes):
    return list(meshes.view(0).keys())


def test_files_one_by_one(meshes):
    assert (list(meshes), meshes.get(5), 5 in meshes) == ([], None, False)
    meshes.put(5, b"five")
    meshes.put(HUGE, bytes(range(256)) * 4000)
    meshes.put(5, b"more than five")
    assert contents(meshes) == {5: b"more than five", HUGE: bytes(range(256)) * 4000}
    assert meshes[5] == b"more than five"
    assert 5 in meshes
    assert "5" not in meshes
    meshes.delete(5)
    meshes.delete(5)
    assert list(meshes) == [HUGE]
    with pytest.raises(NotFound, match="Supervoxel 5 not found"):
        meshes[5]
    meshes.delete(HUGE)
    assert keys_of(meshes) == []


@pytest.mark.parametrize("bad", [0, -1, 2**64])
def test_ids_that_no_supervoxel_has(meshes, bad):
    for call in (meshes.get, meshes.delete, lambda sv: meshes.put(sv, b"x"), meshes.supervoxels_of):
        with pytest.raises(BadRequest):
            call(bad)
    with pytest.raises(BadRequest):
        meshes.put_many({1: b"x", bad: b"y"})
    assert list(meshes) == []
    assert bad not in meshes


def test_an_empty_file_exists_and_reads_as_absent(synced):
    synced.put_many({1: b"", 2: b"x"})
    assert (synced.get(1), synced.exists([1, 2, 3]).tolist(), synced.missing(1).tolist()) == (
        None,
        [True, True, False],
        [],
    )
    assert dict(synced.files_of(1)) == {1: None, 2: b"x"}


def test_files_are_seen_at_every_version_and_locks_hold(repo, synced):
    root = repo["master"]
    synced.put(1, b"before")
    root.commit()
    child = root.newversion()
    child["meshes"].put(2, b"in the child")
    child["segmentation"].cleave(1, [2])
    assert contents(root["meshes"]) == contents(child["meshes"]) == {1: b"before", 2: b"in the child"}
    assert root["meshes"].supervoxels_of(1).tolist() == [1, 2]
    assert child["meshes"].supervoxels_of(1).tolist() == [1]
    for write in (
        lambda m: m.put(3, b"x"),
        lambda m: m.delete(1),
        lambda m: m.load(tar([(3, b"x")])),
        lambda m: m.put_many({}),
    ):
        with pytest.raises(LockedVersion):
            write(root["meshes"])
    assert root["meshes"].load(tar([(3, b"forced")]), force=True) == 1
    assert child["meshes"][3] == b"forced"
    assert not child.diff(root, instance="meshes")


def test_files_of_a_body(synced):
    synced.put(2, b"two" * 5000)
    assert dict(synced.files_of(1)) == {1: None, 2: b"two" * 5000}
    assert synced.missing(1).tolist() == [1]
    with tarfile.open(fileobj=io.BytesIO(b"".join(synced.tar_of(1)))) as archive:
        found = {m.name: (archive.extractfile(m).read(), m.mtime > 0) for m in archive}
    assert found == {"1.missing": (b"", False), "2.obj": (b"two" * 5000, True)}
    for call in (synced.supervoxels_of, synced.missing, synced.files_of, synced.tar_of):
        with pytest.raises(BadRequest, match="no body 2"):
            call(2)  # merged away


def test_without_a_labelmap_there_are_no_bodies(repo, meshes):
    with pytest.raises(BadRequest, match="synced with no labelmap"):
        meshes.missing(1)
    repo.new_instance("keyvalue", "kv")
    meshes.set_syncs(["kv"])
    with pytest.raises(BadRequest, match="synced with no labelmap"):
        repo["master"]["meshes"].tar_of(1)


def test_files_of_a_body_come_in_batches(synced, monkeypatch):
    monkeypatch.setattr(tarsupervoxels, "_BATCH", 10)
    monkeypatch.setattr(tarsupervoxels, "_TOGETHER", 2)
    seg = synced.version["segmentation"]
    seg.merge(1, [3, 4])
    files = {1: b"a" * 8, 2: b"b" * 30, 4: b"d"}
    synced.put_many(files)
    assert list(synced.files_of(1)) == [(1, b"a" * 8), (2, b"b" * 30), (3, None), (4, b"d")]


def test_the_extension_chooses_the_files(meshes):
    meshes.put(1, b"obj")
    meshes.configure({"extension": "drc"})
    assert (list(meshes), meshes.get(1)) == ([], None)
    meshes.put(1, b"drc")
    meshes.configure({"extension": "obj"})
    assert meshes[1] == b"obj"
    for bad in ("", ".obj", "a/b", "a\n", "x" * 101, "a\0b"):
        with pytest.raises(BadRequest):
            meshes.configure({"extension": bad})
    with pytest.raises(BadRequest):
        meshes.configure({"extension": 5})
    assert meshes.describe()["Extended"] == {"Extension": "obj"}


@pytest.mark.parametrize("batch", [1 << 24, 100])
def test_load(meshes, monkeypatch, batch):
    monkeypatch.setattr(tarsupervoxels, "_BATCH", batch)
    meshes.put(4, b"old")
    files = [(1, b"a" * 60), ("0002.obj", b"b" * 60), (4, b""), (" 3.obj", b"c" * 60), (1, b"last"), (HUGE, b"e" * 200)]
    assert meshes.load(tar(files)) == 5
    assert contents(meshes) == {1: b"last", 2: b"b" * 60, 3: b"c" * 60, 4: None, HUGE: b"e" * 200}
    assert len(keys_of(meshes)) == 9  # a pointer each, and the contents that aren't empty
    assert meshes.load(tar([(4, b"d" * 150), (1, b""), (3, b"")])) == 3
    assert contents(meshes) == {1: None, 2: b"b" * 60, 3: None, 4: b"d" * 150, HUGE: b"e" * 200}
    assert len(keys_of(meshes)) == 8
    assert [r["Action"] for r in meshes.mutations()] == ["post-supervoxel", "load", "load"]


NAMES = [
    *("./1.obj", "a/1.obj", "../1.obj", "/1.obj", "1", "1.", "1.drc", "1.obj.gz", "x.obj", "-1.obj", "+1.obj"),
    *("0.obj", "1e3.obj", "18446744073709551616.obj", "1 .obj", ".obj", "\u0661.obj", "1.OBJ", "1" * 50 + ".obj"),
]


@pytest.mark.parametrize("batch", [1 << 24, 50])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_refused_change_nothing(meshes, monkeypatch, batch, name):
    monkeypatch.setattr(tarsupervoxels, "_BATCH", batch)
    meshes.put(7, b"there before")
    before = keys_of(meshes)
    with pytest.raises(BadRequest):
        meshes.load(tar([(7, b"x" * 40), (8, b"y" * 40), (9, b"z" * 40), (name, b"bad")]))
    assert (keys_of(meshes), contents(meshes)) == (before, {7: b"there before"})
    assert len(list(meshes.mutations())) == 1


@pytest.mark.parametrize("batch", [1 << 24, 50])
def test_a_tar_that_is_cut_off_changes_nothing(meshes, monkeypatch, batch):
    monkeypatch.setattr(tarsupervoxels, "_BATCH", batch)
    data = tar([(sv, b"x" * 400) for sv in range(1, 6)]).getvalue()
    for at in (0, 100, 512, 700, 1024, 3000, 5119, 5120):
        with pytest.raises(FormatError):
            meshes.load(io.BytesIO(data[:at]))
        assert keys_of(meshes) == []
    assert meshes.load(io.BytesIO(data)) == 5


def test_more_files_than_a_load_takes(meshes, monkeypatch):
    monkeypatch.setattr(tarsupervoxels, "_TOGETHER", 2)
    monkeypatch.setattr(tarsupervoxels, "MAX_FILES", 5)
    with pytest.raises(BadRequest, match="more than 5 files"):
        meshes.load(tar([(sv, b"x") for sv in range(1, 7)]))
    assert keys_of(meshes) == []


def test_what_a_killed_load_left_is_removed_by_a_later_one(meshes, monkeypatch):
    monkeypatch.setattr(tarsupervoxels, "_TOGETHER", 2)

    class KilledError(BaseException):
        pass

    def files():
        yield from ((sv, b"x") for sv in range(1, 6))
        monkeypatch.setattr(tarsupervoxels, "_forget", lambda *args, **kwargs: None)
        raise KilledError

    with pytest.raises(KilledError):
        meshes.load_files(files())
    monkeypatch.undo()
    left = keys_of(meshes)
    assert left
    assert list(meshes) == []
    monkeypatch.setattr(tarsupervoxels, "_TOGETHER", 2)
    meshes.load(tar([(sv, b"x") for sv in range(1, 4)]))
    assert set(left) <= set(keys_of(meshes))  # it may still be running
    monkeypatch.setattr(tarsupervoxels, "_PATIENCE", -1)
    meshes.load(tar([(sv, b"y") for sv in range(1, 4)]))
    assert contents(meshes) == {1: b"y", 2: b"y", 3: b"y"}
    assert len(keys_of(meshes)) == 6


def test_a_load_that_was_given_up_says_so(meshes, monkeypatch):
    monkeypatch.setattr(tarsupervoxels, "_TOGETHER", 2)
    monkeypatch.setattr(tarsupervoxels, "_PATIENCE", -1)

    def files():
        yield from ((sv, b"slow") for sv in range(1, 6))
        meshes.load_files((sv, b"fast") for sv in range(1, 6))

    with pytest.raises(Conflict, match="took more than a day"):
        meshes.load_files(files())
    assert contents(meshes) == dict.fromkeys(range(1, 6), b"fast")
    assert len(keys_of(meshes)) == 10


def test_it_pickles_and_its_keys_go_with_it(repo, meshes):
    meshes.put(1, b"x")
    assert pickle.loads(pickle.dumps(meshes))[1] == b"x"
    tree = meshes.view(0).view.name
    repo.delete_instance("meshes")
    keys = list(repo.datastore.tree(tree).view(0).keys())
    assert [key for key in keys if key.startswith((meshes.info.prefix, b"log/" + meshes.info.prefix))] == []


def test_an_instance_from_before_the_files_had_a_place(repo, meshes):
    repo.datastore.store.drop_tree(meshes.view(0).view.name)
    assert meshes.get(1) is None
    repo.datastore.store.drop_tree(meshes.view(0).view.name)
    meshes.put(1, b"x")
    assert meshes[1] == b"x"


class Files(RuleBasedStateMachine):
    """Any sequence of writes against a dictionary."""

    @initialize()
    def make(self):
        self.datastore = dvid_dask.create("memory://", compact="never")
        self.repo = self.datastore.new_repo()
        self.meshes = self.repo.new_instance("tarsupervoxels", "meshes", {"Extension": "obj"})
        self.model = {}

    ids = st.sampled_from([1, 2, 3, 256, HUGE])
    blobs = st.binary(max_size=600)

    @rule(sv=ids, content=blobs)
    def put(self, sv, content):
        self.meshes.put(sv, content)
        self.model[sv] = content

    @rule(sv=ids)
    def delete(self, sv):
        self.meshes.delete(sv)
        self.model.pop(sv, None)

    @rule(files=st.lists(st.tuples(ids, blobs), max_size=8), batch=st.sampled_from([1, 500, 1 << 24]))
    def load(self, files, batch):
        held, tarsupervoxels._BATCH = tarsupervoxels._BATCH, batch
        try:
            self.meshes.load(tar(files))
        finally:
            tarsupervoxels._BATCH = held
        self.model.update(files)

    @invariant()
    def same(self):
        if hasattr(self, "model"):
            assert contents(self.meshes) == {sv: content or None for sv, content in sorted(self.model.items())}
            assert len(keys_of(self.meshes)) == len(self.model) + sum(map(bool, self.model.values()))

    def teardown(self):
        if hasattr(self, "datastore"):
            self.datastore.close()


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
