"""What nodes say of their children, against counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.store import Store
from dvid_dask.store.measure import measure


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    store = Store.create(str(tmp_path_factory.mktemp("measure") / "store"), node_bytes=2000)
    tree = store.create_tree("t")
    rng = np.random.default_rng(0)

    def fill(tx):
        for n in range(3000):
            tx.put(b"k%05d" % (7 * n), rng.bytes(int(rng.integers(0, 600))))

    tree.update(fill)
    view = tree.view()
    assert view.manifest.root.height >= 2
    return view


@settings(max_examples=200, deadline=None)
@given(st.integers(-10, 21100), st.integers(-10, 21100), st.booleans())
def test_ranges(view, a, b, open_end):
    low, high = b"k%05d" % max(a, 0), None if open_end else b"k%05d" % max(b, 0)
    found = view.measure(low, high)
    values = [len(value) for _, value in view.scan(low, high)]
    assert found.keys == len(values)
    # bytes are those in the pool: values that lie in nodes are compressed with them, and nodes hold keys as well
    assert found.bytes <= sum(values) + 200 * len(values) + 100
    assert found.bytes >= 0.9 * sum(values) - 100
    most = measure(view._where, view.manifest.root, low, high or b"", view._cuts.interiors, exactly=False)
    assert most.keys >= found.keys
    assert most.bytes >= found.bytes
    assert most.keys <= found.keys + 100  # two leaves


def test_without_leaves_none_is_read(view, monkeypatch):
    monkeypatch.setattr("dvid_dask.store.measure.load", lambda *_: pytest.fail("read a leaf"))
    interiors = view._cuts.interiors
    measure(view._where, view.manifest.root, b"k00500", b"k20000", interiors, exactly=False)


def test_an_empty_tree(tmp_path):
    tree = Store.create(str(tmp_path / "store")).create_tree("t")
    assert tree.view().measure() == (0, 0)
