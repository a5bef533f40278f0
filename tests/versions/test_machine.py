"""The version API against DVID's key semantics: random histories of writes, commits, branches and merges.

Values are unique, because equal bytes written twice are one value to a tree and two entries to DVID.
"""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import dvid_dask
from dvid_dask.errors import DvidError, LockedVersion

from .conftest import sound
from .dvid_model import TOMBSTONE, Model, Node

KEYS = st.sampled_from(["a", "b", "c"])


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

    def any_version(self, data) -> int:
        return data.draw(st.sampled_from(sorted(self.versions)))

    def open_version(self, data) -> int:
        found = sorted(v for v, n in self.model.nodes.items() if not n.locked)
        return data.draw(st.sampled_from(found)) if found else self.child_of(self.any_version(data), "branch")

    def committed(self, v: int) -> int:
        if not self.model.nodes[v].locked:
            self.versions[v].commit()
            self.model.nodes[v].locked = True
        return v

    def child_of(self, v: int, kind: str) -> int:
        node = self.model.nodes[self.committed(v)]
        parent = self.versions[v]
        name = f"b{next(self.serial)}"
        if kind == "newversion":
            taken = any(v in n.parents and n.branch == node.branch for n in self.model.nodes.values())
            try:
                made = parent.newversion()
            except DvidError:
                assert taken
                return v
            assert not taken
            self.model.nodes[made.id] = Node([v], node.branch)
        elif kind == "branch":
            made = parent.new_branch(name)
            self.model.nodes[made.id] = Node([v], name)
        else:
            made = parent.tag(name)
            self.model.nodes[made.id] = Node([v], f"tag-{name}", locked=True)
        self.versions[made.id] = made
        return made.id

    @rule(data=st.data(), changes=st.dictionaries(KEYS, st.booleans(), min_size=1))
    def write(self, data, changes):
        v = self.open_version(data)
        kv, entries = self.versions[v]["kv"], self.model.nodes[v].entries
        values = {k: b"%d" % next(self.serial) for k, keep in changes.items() if keep}
        kv.put_many(values)
        entries.update(values)
        for key in changes.keys() - values.keys():
            kv.delete(key)
            entries[key] = TOMBSTONE

    @rule(data=st.data(), kind=st.sampled_from(["newversion", "branch", "branch", "tag"]))
    def child(self, data, kind):
        self.child_of(self.any_version(data), kind)

    @rule(data=st.data(), count=st.sampled_from([2, 2, 3]))
    def merge(self, data, count):
        some = st.lists(st.sampled_from(sorted(self.versions)), min_size=count, max_size=count, unique=True)
        if len(self.versions) < count:
            return
        parents = [self.committed(v) for v in data.draw(some)]
        made = self.repo.merge([self.versions[p] for p in parents])
        self.versions[made.id] = made
        conflicts = self.model.merge(made.id, parents)
        assert {c.what for c in made.conflicts} == conflicts
        assert len(made.conflicts) == len(conflicts)
        assert bool(made.log) == bool(conflicts)

    @rule(data=st.data(), key=KEYS)
    def write_to_a_committed_version(self, data, key):
        v = self.committed(self.any_version(data))
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
