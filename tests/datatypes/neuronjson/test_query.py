"""Queries against a scan: the same bodies, whatever is asked of whatever is there, at every version."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dvid_dask
from dvid_dask.errors import BadRequest

from . import model

annotations = st.dictionaries(
    model.bodies,
    st.dictionaries(st.sampled_from(model.FIELDS), model.values, max_size=4).filter(
        lambda a: isinstance(a.get("t_time", ""), str)
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def repo():
    return dvid_dask.create("memory://", compact="never").new_repo()


@settings(deadline=None, max_examples=150)
@given(annotations, annotations, st.sets(model.bodies), st.lists(model.queries, min_size=1, max_size=4))
def test_the_same_as_a_scan(repo, first, second, gone, queries):
    n = len(repo.instances)
    neurons = repo.new_instance("neuronjson", f"n{n}")
    for step in (
        lambda: neurons.put_many(first, user="u"),
        lambda: neurons.put_many(second, user="v", replace=True),
        lambda: neurons.delete(gone),
    ):
        step()
        stored = {b: neurons.get(b, show="all") for b in neurons}
        for query in queries:
            expected = model.find(stored, query)
            assert neurons.query_bodies(query).tolist() == expected
            for show, fields in (("", None), ("user", ["type", "size"]), ("all", None), ("", ["note_user"])):
                found = neurons.query(query, show=show, fields=fields)
                assert found == [model.select(stored[b], show, fields) for b in expected]
        counts = {}
        for annotation in stored.values():
            for name in annotation:
                counts[name] = counts.get(name, 0) + 1
        assert neurons.fields() == dict(sorted(counts.items()))


@pytest.mark.parametrize(
    "query",
    [None, [], "text", 5, [{}, 5], [[]], {"a": "re/("}, {"a": ["re/[z-a]"]}, {"a": "re/" + "a" * 20_000}]
    + [{"a": "re/((a{1000}){1000}){1000}"}, {"a": float("nan")}, {"a": "re/(?=lookahead)"}],
)
def test_what_is_no_query(repo, query):
    neurons = repo.new_instance("neuronjson", f"bad{len(repo.instances)}")
    neurons.set(1, {"a": "a"}, user="u")
    with pytest.raises(BadRequest):
        neurons.query(query)


def test_what_asks_for_too_much(repo):
    neurons = repo.new_instance("neuronjson", "much")
    neurons.set(1, {"a": "a"}, user="u")
    for query in (
        {f"f{i}": 1 for i in range(10_001)},
        [{"a": i} for i in range(10_001)],
        {"a": [f"re/{i}" for i in range(1_001)]},
        [{}] * 10_001 + [{"a": 1}],
    ):
        with pytest.raises(BadRequest, match="at most"):
            neurons.query(query)
    assert neurons.query_bodies([{"bodyid": i} for i in range(20_000)]).tolist() == [1]
    assert neurons.query_bodies({"a": [*map(str, range(20_000)), "a"]}).tolist() == [1]
    assert neurons.query_bodies({f"f{i}": "exists/0" for i in range(500)}).tolist() == [1]


def test_regular_expressions_take_linear_time(repo):
    neurons = repo.new_instance("neuronjson", "regex")
    neurons.set(1, {"a": "a" * 100_000 + "!"}, user="u")
    assert neurons.query({"a": "re/^(a+)+$"}) == []  # of a backtracking engine nobody would see the answer


def test_columns_serve_wide_answers_as_annotations_do(repo):
    neurons = repo.new_instance("neuronjson", "wide")
    neurons.put_many(
        {b: {"a": b % 7, "b": f"<{b}>", **({"c": [b, "x"]} if b % 3 else {})} for b in range(1, 1500)}, user="u"
    )
    assert neurons.query({"a": "exists/1"}, fields=["c", "b"]) == [
        model.select(neurons.get(b, show="all"), fields=["c", "b"]) for b in neurons
    ]
    assert [n["bodyid"] for n in neurons.query({"b": ["<5>", "<6>", "re/^<7[0-1]>$"], "c": 70})] == [70]
