"""Questions about version DAGs, answered on plain numbers, against brute force on random DAGs."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from dvid_dask.versions.records import Header, NodeRecord, RepoRecord
from dvid_dask.versions.state import State

AT = datetime(2026, 1, 1, tzinfo=UTC)


def repo_of(parents: list[tuple[int, ...]]):
    nodes = [
        NodeRecord(id=n, repo=1, uuid=f"u{n}", parents=above, tree=f"u{n}", created=AT, updated=AT)
        for n, above in enumerate(parents, 1)
    ]
    return State.build(Header(), [RepoRecord(id=1, root="u1", created=AT, updated=AT), *nodes]).repo(1)


@st.composite
def dags(draw) -> list[tuple[int, ...]]:
    parents: list[tuple[int, ...]] = [()]
    for n in range(2, draw(st.integers(2, 12)) + 1):
        parents.append(tuple(draw(st.lists(st.integers(1, n - 1), min_size=1, max_size=3, unique=True))))
    return parents


def above(parents, vid) -> set[int]:
    found = {vid}
    for p in parents[vid - 1]:
        found |= above(parents, p)
    return found


@given(dags(), st.data())
@settings(deadline=None)
def test_against_brute_force(parents, data):
    repo = repo_of(parents)
    ids = range(1, len(parents) + 1)
    a, b = data.draw(st.sampled_from(ids)), data.draw(st.sampled_from(ids))
    assert repo.ancestors(a) == above(parents, a)
    assert repo.descendants(a) == [v for v in ids if v != a and a in above(parents, v)]
    common = above(parents, a) & above(parents, b)
    maximal = [v for v in sorted(common) if not any(v != w and v in above(parents, w) for w in common)]
    assert repo.merge_bases(a, b) == maximal
    assert repo.merge_bases(b, a) == maximal
    path = list(repo.first_parents(a))
    assert path[-1] == 1
    assert all(parents[x - 1][0] == y for x, y in zip(path, path[1:], strict=False))
    assert {v: repo.children_of(v) for v in ids} == {v: tuple(w for w in ids if v in parents[w - 1]) for v in ids}


def test_criss_cross_has_two_bases():
    #  1 - 2, 3;  4 = 2+3;  5 = 3+2
    repo = repo_of([(), (1,), (1,), (2, 3), (3, 2)])
    assert repo.merge_bases(4, 5) == [2, 3]


@given(dags(), st.data())
@settings(deadline=None)
def test_a_state_changed_in_steps_is_the_state_built_whole(parents, data):
    records = [
        NodeRecord(id=n, repo=1, uuid=f"u{n}", parents=p, tree="t", created=AT, updated=AT)
        for n, p in enumerate(parents, 1)
    ]
    head = RepoRecord(id=1, root="u1", created=AT, updated=AT)
    whole = State.build(Header(), [head, *records])
    state = State.build(Header(), [head])
    for record in records:
        state = state.changed(Header(), [record], [])
        _ = state.repo(1).children, state.repo(1).branches, state.repo(1).leaf("")
        # a change that leaves the DAG alone keeps what was worked out about it
        state = state.changed(Header(), [record], [])
    assert state.uuids == whole.uuids
    assert state.repo(1).nodes == whole.repo(1).nodes
    assert state.repo(1).children == whole.repo(1).children
    assert state.repo(1).leaf("") == whole.repo(1).leaf("")
    gone = data.draw(st.sampled_from(records))
    less = state.changed(Header(), [], [("n", 1, gone.id)])
    assert gone.uuid not in less.uuids
    assert gone.id in state.repo(1).nodes  # states never change
    assert less.changed(Header(), [], [("r", 1, 1)]).uuids == {}
