"""Anything one may do with a store, in any order, against dictionaries that do the same."""

from __future__ import annotations

import pickle
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from dvid_dask.store import Sealed, Store

# few keys, so that they meet; long ones and large values, so that leaves split and values leave them
KEYS = st.one_of(
    st.integers(0, 30).map(lambda i: b"k%03d" % i),
    st.binary(min_size=1, max_size=3).filter(lambda key: key[0] != 0),
    st.integers(0, 5).map(lambda i: b"long" * 200 + bytes([i])),
)
VALUES = st.one_of(st.binary(max_size=4), st.integers(0, 255).map(lambda b: bytes([b]) * 300), st.just(b"x" * 3_000))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("delete_range"), KEYS, KEYS),
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("scan"), KEYS, KEYS),
    ),
    max_size=12,
)


class StoreMachine(RuleBasedStateMachine):
    trees = Bundle("trees")
    views = Bundle("views")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="store-machine-")
        self.serial = 0
        self.model: dict[str, dict[bytes, bytes]] = {}
        self.sealed: set[str] = set()
        self.swept = 0

    def teardown(self) -> None:
        assert self.store.fsck(deep=True).clean
        for name, content in self.model.items():
            assert dict(self.store.tree(name).view(0).scan()) == content
        shutil.rmtree(self.folder)

    @initialize(target=trees)
    def create(self) -> str:
        # tiny nodes: trees of a few levels
        self.store = Store.create(f"{self.folder}/store", node_bytes=1_000, inline_bytes=100)
        return self._tree(self.store.create_tree("first").name, {})

    def _tree(self, name: str, content: dict[bytes, bytes]) -> str:
        self.model[name] = dict(content)
        return name

    def _fresh_name(self) -> str:
        self.serial += 1
        return f"tree-{self.serial}"

    @rule(target=trees)
    def create_tree(self) -> str:
        return self._tree(self.store.create_tree(self._fresh_name()).name, {})

    @rule(name=trees, operations=OPERATIONS, fails=st.booleans())
    def transaction(self, name: str, operations: list, fails: bool) -> None:
        expected = dict(self.model[name])

        def work(tx):
            state = dict(self.model[name])
            for what, *arguments in operations:
                if what == "put":
                    tx.put(*arguments)
                    state[arguments[0]] = arguments[1]
                elif what == "delete":
                    tx.delete(*arguments)
                    state.pop(arguments[0], None)
                elif what == "delete_range":
                    tx.delete_range(*arguments)
                    state = {key: value for key, value in state.items() if not arguments[0] <= key < arguments[1]}
                elif what == "get":
                    assert tx.get(*arguments) == state.get(arguments[0])
                else:
                    part = sorted(item for item in state.items() if arguments[0] <= item[0] < arguments[1])
                    assert list(tx.scan(*arguments)) == part
                    assert list(tx.keys(*arguments)) == [key for key, _ in part]
            if fails:
                raise LookupError
            return state

        tree = self.store.tree(name)
        if name in self.sealed:
            with pytest.raises(Sealed):
                tree.update(work)
        elif fails:
            with pytest.raises(LookupError):
                tree.update(work)
        else:
            expected = tree.update(work)
        self.model[name] = expected
        assert dict(tree.view().scan()) == expected

    @rule(target=trees, name=trees)
    def branch(self, name: str) -> str:
        return self._tree(self.store.branch(name, self._fresh_name()).name, self.model[name])

    @rule(target=views, name=trees)
    def pin(self, name: str):
        return self.store.tree(name).view(), dict(self.model[name]), self.swept

    @rule(pinned=views)
    def read_pinned(self, pinned) -> None:
        view, content, swept = pinned
        if swept == self.swept:  # gc at once takes superseded states
            assert dict(view.scan()) == content
            assert dict(pickle.loads(pickle.dumps(view)).scan()) == content

    @rule(target=trees, pinned=views)
    def branch_view(self, pinned):
        view, content, swept = pinned
        if swept != self.swept:
            return multiple()
        return self._tree(self.store.branch(view, self._fresh_name()).name, content)

    @rule(name=trees)
    def seal(self, name: str) -> None:
        self.store.seal(name)
        self.sealed.add(name)

    @rule(name=trees, key=KEYS, value=VALUES)
    def force(self, name: str, key: bytes, value: bytes) -> None:
        self.store.tree(name).update(lambda tx: tx.put(key, value), force=True)
        self.model[name][key] = value

    @precondition(lambda self: len(self.model) > 1)
    @rule(name=consumes(trees))
    def drop(self, name: str) -> None:
        self.store.drop_tree(name)
        del self.model[name]
        self.sealed.discard(name)

    @rule(grace=st.sampled_from([0, 3600]))
    def gc(self, grace: int) -> None:
        self.store.gc(grace)
        self.swept += grace == 0

    @rule()
    def reopen(self) -> None:
        self.store = pickle.loads(pickle.dumps(self.store))

    @rule(a=trees, b=trees)
    def diff(self, a: str, b: str) -> None:
        one, two = self.model[a], self.model[b]
        found = [(c.key, c.kind) for c in self.store.diff(self.store.tree(a).view(), self.store.tree(b).view())]
        assert found == sorted(
            (key, "added" if key not in one else "removed" if key not in two else "changed")
            for key in one.keys() | two.keys()
            if one.get(key) != two.get(key)
        )

    @invariant()
    def trees_are_listed(self) -> None:
        if self.model:
            assert self.store.trees() == sorted(self.model)


quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}


class TestStoreMachine(StoreMachine.TestCase):
    settings = settings(max_examples=25, stateful_step_count=25, **quiet)


@pytest.mark.long
class TestStoreMachineLong(StoreMachine.TestCase):
    settings = settings(max_examples=1_000, stateful_step_count=50, **quiet)
