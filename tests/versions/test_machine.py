"""The version API against DVID's key semantics: random histories of writes, commits, branches and merges.

Values are unique, because equal bytes written twice are one value to a tree and two entries to DVID.
"""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import dvid_dask
from dvid_dask.errors import DvidError, LockedVersion

from .conftest import sound
from .dvid_model import TOMBSTONE, Model, Node

KEYS = st.sampled_from(["a", "b", "c", "d"])


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ds = dvid_dask.create("memory://", compact="now")
        self.repo = self.ds.new_repo()
        self.repo.new_instance("keyvalue", "kv")
        root = self.repo["master"]
        self.versions = {root.id: root}
        self.model = Model()
        self.model.nodes[root.id] = Node([], "")
        self.serial = itertools.count()

    def pick(self, data, locked: bool):
        ids = [v for v, n in self.model.nodes.items() if n.locked == locked]
        return data.draw(st.sampled_from(ids)) if ids else None

    def has(self, locked: bool) -> bool:
        return any(n.locked == locked for n in self.model.nodes.values())

    @rule(data=st.data(), key=KEYS)
    def put(self, data, key):
        v = self.pick(data, locked=False)
        if v is None:
            return
        value = b"%d" % next(self.serial)
        self.versions[v]["kv"].put(key, value)
        self.model.nodes[v].entries[key] = value

    @rule(data=st.data(), keys=st.sets(KEYS, min_size=1))
    def put_many(self, data, keys):
        v = self.pick(data, locked=False)
        if v is None:
            return
        values = {k: b"%d" % next(self.serial) for k in keys}
        self.versions[v]["kv"].put_many(values)
        self.model.nodes[v].entries.update(values)

    @rule(data=st.data(), key=KEYS)
    def delete(self, data, key):
        v = self.pick(data, locked=False)
        if v is None:
            return
        self.versions[v]["kv"].delete(key)
        self.model.nodes[v].entries[key] = TOMBSTONE

    @rule(data=st.data())
    def commit(self, data):
        v = self.pick(data, locked=False)
        if v is None:
            return
        self.versions[v].commit()
        self.model.nodes[v].locked = True

    @precondition(lambda self: self.has(True))
    @rule(data=st.data(), kind=st.sampled_from(["newversion", "branch", "tag"]))
    def child(self, data, kind):
        v = self.pick(data, locked=True)
        node = self.model.nodes[v]
        parent = self.versions[v]
        name = f"b{next(self.serial)}"
        if kind == "newversion":
            taken = any(v in n.parents and n.branch == node.branch for n in self.model.nodes.values())
            try:
                made = parent.newversion()
            except DvidError:
                assert taken
                return
            assert not taken
            self.model.nodes[made.id] = Node([v], node.branch)
        elif kind == "branch":
            made = parent.new_branch(name)
            self.model.nodes[made.id] = Node([v], name)
        else:
            made = parent.tag(name)
            self.model.nodes[made.id] = Node([v], f"tag-{name}", locked=True)
        self.versions[made.id] = made

    @precondition(lambda self: sum(n.locked for n in self.model.nodes.values()) > 1)
    @rule(data=st.data())
    def merge(self, data):
        ids = [v for v, n in self.model.nodes.items() if n.locked]
        parents = data.draw(st.lists(st.sampled_from(ids), min_size=2, max_size=3, unique=True))
        made = self.repo.merge([self.versions[p] for p in parents])
        self.versions[made.id] = made
        conflicts = self.model.merge(made.id, parents)
        assert {c.what for c in made.conflicts} == conflicts
        assert len(made.conflicts) == len(conflicts)
        assert bool(made.log) == bool(conflicts)

    @precondition(lambda self: self.has(True))
    @rule(data=st.data(), key=KEYS)
    def write_to_a_committed_version(self, data, key):
        v = self.pick(data, locked=True)
        try:
            self.versions[v]["kv"].put(key, b"no")
        except LockedVersion:
            return
        raise AssertionError("a committed version took a write")

    @invariant()
    def every_version_reads_as_in_dvid(self):
        for v, version in self.versions.items():
            expected = self.model.state(v)
            assert dict(version["kv"].items()) == expected, (v, version)
            assert list(version["kv"]) == sorted(expected)

    @invariant()
    def the_dag_is_the_same(self):
        for v, node in self.model.nodes.items():
            version = self.versions[v]
            assert [p.id for p in version.parents] == node.parents
            assert version.locked == node.locked
            assert version.branch == (node.branch or "master")
            assert {p.id for p in version.ancestors()} == self.model.above(v)

    def teardown(self):
        sound(self.ds)
        # what a fresh look at the store finds is what this process believes
        from dvid_dask.store import Store
        from dvid_dask.versions import Datastore

        fresh = Datastore(Store.open(self.ds.url), compact="never")
        for v, version in self.versions.items():
            again = fresh[version.uuid]
            assert (again.id, again.note, again.locked) == (v, version.note, version.locked)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
