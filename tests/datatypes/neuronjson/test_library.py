"""Versions in memory: whatever is edited, committed, branched and asked in whatever order, and however little memory
there is, answers are those of a scan."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import dvid_dask
from dvid_dask.datatypes.neuronjson import library, memory, set_memory
from dvid_dask.store import Store

from . import model

QUERIES = [
    {"type": "a"},
    {"type": "exists/0"},
    {"size": [1, 2]},
    [{"type": "re/^b"}, {"size": 3}],
    {"bodyid": [1, 5, 9], "size": "exists/1"},
]
small = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["a", "b", "bc"]), "size": st.integers(1, 3), "gone": st.none()}
)


class Versions(RuleBasedStateMachine):
    versions = Bundle("versions")

    def __init__(self):
        super().__init__()
        self.repo = dvid_dask.create("memory://", compact="now").new_repo()
        self.repo.new_instance("neuronjson", "n")
        self.repo.new_instance("keyvalue", "kv")
        self.names = map("branch{}".format, itertools.count())
        self.held = {}  # version -> body -> annotation without stamps

    @initialize(target=versions)
    def root(self):
        self.held[self.repo["master"]] = {}
        return self.repo["master"]

    @rule(version=versions, posts=st.dictionaries(st.integers(1, 12), small, max_size=8), replace=st.booleans())
    def put(self, version, posts, replace):
        if version.locked:
            return
        version["n"].put_many(posts, user="u", replace=replace)
        held = self.held[version]
        for body, posted in posts.items():
            old = {} if replace else held.get(body, {})
            held[body] = {n: v for n, v in {"bodyid": body, **old, **posted}.items() if v is not None}

    @rule(version=versions, bodies=st.sets(st.integers(1, 12), max_size=5))
    def delete(self, version, bodies):
        if not version.locked:
            version["n"].delete(bodies)
            for body in bodies:
                self.held[version].pop(body, None)

    @rule(target=versions, version=versions)
    def child(self, version):
        if not version.locked:
            version.commit()
        child = version.new_branch(next(self.names))
        self.held[child] = dict(self.held[version])
        return child

    @rule(version=versions, value=st.binary(min_size=1, max_size=3))
    def other_data_changes_the_tree(self, version, value):
        if not version.locked:
            version["kv"]["x"] = value

    @rule()
    def start_anew(self):
        set_memory(memory())

    @rule(version=versions, query=st.sampled_from(QUERIES))
    def ask(self, version, query):
        assert version["n"].query_bodies(query).tolist() == model.find(self.held[version], query)

    @rule(version=versions)
    def read_all(self, version):
        neurons = version["n"]
        assert neurons.query({"bodyid": "exists/1"}) == [self.held[version][b] for b in sorted(self.held[version])]
        counts = neurons.fields()
        assert counts.get("type", 0) == sum("type" in a for a in self.held[version].values())

    @invariant()
    def nothing_leaks(self):
        uuid = self.repo["master"]["n"].info.data_uuid
        for lib in [lib for (_, name), lib in library._libraries.items() if name == uuid]:
            rows = {id(table.rows) for _, table in lib._held.values()}
            assert len(rows) <= 1


TestVersions = Versions.TestCase
TestVersions.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


@pytest.fixture
def neurons():
    made = dvid_dask.create("memory://", compact="never").new_repo().new_instance("neuronjson", "n")
    made.put_many({b: {"type": f"t{b % 10}", "note": "x" * 200} for b in range(1, 10_001)}, user="u")
    return made


@pytest.fixture
def short_of_memory():
    before = memory()
    yield set_memory
    set_memory(before)


@pytest.mark.parametrize("limit", [0, 1_000_000, 4_000_000, 6_000_000])
def test_short_of_memory(neurons, short_of_memory, limit):
    short_of_memory(limit)
    for _ in range(2):
        assert neurons.query_bodies({"type": "t3"}).tolist() == list(range(3, 10_001, 10))
        assert neurons.query({"type": "t7", "bodyid": [7, 17, 18]}, fields=["type"]) == [
            {"bodyid": b, "type": "t7"} for b in (7, 17)
        ]
        assert neurons.fields()["type"] == 10_000
        assert len(neurons.field_times()) == 2
        assert neurons.arrow(["type"])["type"].to_pylist()[:3] == ["t1", "t2", "t3"]
        assert sum(lib.nbytes for lib in library._libraries.values()) <= max(limit, 1)


def test_instances_share_the_memory(neurons, short_of_memory):
    repo = neurons.repo
    short_of_memory(7_000_000)
    for name in ("second", "third"):
        other = repo.new_instance("neuronjson", name)
        other.put_many({b: {"note": "y" * 300} for b in range(1, 8_001)}, user="u")
        assert len(other.query_bodies({"note": "exists/1"})) == 8_000
        assert sum(lib.nbytes for lib in library._libraries.values()) <= 7_000_000
    assert len(neurons.query_bodies({"type": "t1"})) == 1_000


def test_only_differences_are_read(neurons, monkeypatch):
    assert len(neurons.query_bodies({"type": "t1"})) == 1_000
    monkeypatch.setattr(library, "_load", lambda *_: pytest.fail("all was read again"))
    version = neurons.version
    version.commit()
    assert len(neurons.query_bodies({"type": "t1"})) == 1_000
    child = version.newversion()["n"]
    child.update(5, {"type": "t1"}, user="v")
    child.delete([1, 11])
    child.set(20_000, {"type": "t1"}, user="v")
    assert len(child.query_bodies({"type": "t1"})) == 1_000
    (lib,) = [lib for lib in library._libraries.values() if any(len(t) == 9_999 for _, t in lib._held.values())]
    rows = next(iter(lib._held.values()))[1].rows
    assert len(rows) == 10_002
    assert len(neurons.query_bodies({"type": "t1"})) == 1_000


def test_rows_that_no_state_has_go(neurons):
    bodies = list(range(1, 10_001))
    for i in range(16):
        neurons.put_many({b: {"round": i} for b in bodies[:2000]}, user="u")
        assert len(neurons.query_bodies({"round": i})) == 2000
    (lib,) = [
        lib for lib in library._libraries.values() if lib._held and len(next(reversed(lib._held.values()))[1]) == 10_000
    ]
    table = next(reversed(lib._held.values()))[1]
    assert len(table.rows) < 45_000
    assert table.rows.values[table.at[0]] == neurons.view().get(b"n" + bytes(7) + b"\x01")
    assert len(neurons.query_bodies({"type": "t1"})) == 1_000


def test_a_state_that_gc_has_swept(tmp_path, monkeypatch):
    store = tmp_path / "store"
    neurons = dvid_dask.create(str(store), compact="now").new_repo().new_instance("neuronjson", "n")
    neurons.put_many({b: {"a": b % 3} for b in range(1, 3_000)}, user="u")
    assert len(neurons.query_bodies({"a": 1})) == 1_000
    for i in range(5):
        neurons.put_many({b: {"a": 7, "i": i} for b in range(1, 3_000)}, user="u")
    neurons.version.commit()  # drops the generations in between
    Store.open(str(store)).gc(grace=0)
    loads = []
    monkeypatch.setattr(library, "_load", lambda *given, load=library._load: loads.append(given) or load(*given))
    assert len(neurons.query_bodies({"a": 7, "i": 4})) == 2_999
    assert len(loads) == 1


def test_many_threads(neurons):
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(15):
                field = f"f{rng.integers(4)}"
                if rng.random() < 0.3:
                    neurons.update(int(rng.integers(1, 100)), {field: int(rng.integers(5))}, user="u")
                found = neurons.query_bodies({field: "exists/1"})
                assert np.all(found[:-1] < found[1:])
                assert len(neurons.query_bodies({"type": f"t{rng.integers(10)}"})) == 1_000
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    held = {b: neurons[b] for b in range(1, 100)}
    for i in range(4):
        assert neurons.query_bodies({f"f{i}": "exists/1"}).tolist() == [b for b, a in held.items() if f"f{i}" in a]


def test_many_posts_to_one_body(neurons):
    """Each keeps its own field: who was overtaken runs again on the newer state."""

    def work(i):
        for n in range(10):
            neurons.update(1, {f"f{i}": n}, user=f"u{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [neurons.get(1, show="user").get(name) for i in range(5) for name in (f"f{i}", f"f{i}_user")] == [
        value for i in range(5) for value in (9, f"u{i}")
    ]


def test_a_closed_datastore_takes_no_memory():
    held = library.kept()
    for end in ("closed", "dropped"):
        datastore = dvid_dask.create("memory://", compact="never")
        neurons = datastore.new_repo().new_instance("neuronjson", "neurons")
        neurons.put_many({body: {"bodyid": body, "type": f"T{body}"} for body in range(1, 200)}, user="me")
        for _ in range(2):  # what is asked afterwards is kept again, until nobody holds it
            assert len(neurons.query({"type": "T5"})) == 1
            assert library.kept() > held
            if end == "closed":
                datastore.close()
                assert library.kept() == held
        del neurons, datastore
        gc.collect()
        assert library.kept() == held
