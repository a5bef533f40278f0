"""Counters: durable, never the same number twice."""

from __future__ import annotations

import threading

import pytest

from dvid_dask.errors import BadRequest
from dvid_dask.store import Store
from dvid_dask.versions import Datastore


def test_allocate_raise_set(repo):
    c = repo.counter("label", start=5)
    assert (c.value, c.allocate(), c.allocate(10), c.value) == (5, 5, 6, 16)
    assert c.raise_to(10) == 16
    assert c.raise_to(100) == 100
    assert repo.counter("label").allocate() == 100
    c.set(7)
    assert c.value == 7
    assert repo.counter("other").value == 0


@pytest.mark.parametrize("n", [0, -1])
def test_nothing_to_allocate(repo, n):
    with pytest.raises(BadRequest):
        repo.counter("x").allocate(n)


def test_the_end_of_the_numbers(repo):
    c = repo.counter("x")
    c.set(2**64 - 2)
    assert c.allocate() == 2**64 - 2
    with pytest.raises(BadRequest, match="pass 2"):
        c.allocate(2)
    assert c.value == 2**64 - 1
    for bad in (-1, 2**64):
        with pytest.raises(BadRequest):
            c.raise_to(bad)
        with pytest.raises(BadRequest):
            c.set(bad)


def test_repositories_have_their_own(ds, repo):
    repo.counter("x").allocate(5)
    assert ds.new_repo().counter("x").value == 0


def test_threads_share_a_counter(repo):
    taken: list[int] = []

    def draw():
        for _ in range(20):
            taken.append(repo.counter("x").allocate())

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(taken) == list(range(80))


def test_mutation_ids_go_on_after_a_restart(local):
    repo = local.new_repo()
    kv = repo.new_instance("keyvalue", "kv")
    for n in range(105):
        kv[str(n)] = b"x"
    first = [r.id for r in kv.history()]
    assert first == list(range(1_000_000_000, 1_000_000_105))
    again = Datastore(Store.open(local.url))
    kv2 = again[repo.root]["kv"]
    kv2["more"] = b"x"
    kv["and here"] = b"x"
    ids = [r.id for r in kv2.history()]
    assert len(set(ids)) == len(ids) == 107
    assert ids[105] == 1_000_000_200  # after what the first one had reserved
    again.close()


def test_mutation_ids_of_repositories_are_their_own(ds, repo):
    other = ds.new_repo()
    assert repo.next_mutation_id() == other.next_mutation_id() == 1_000_000_000
    assert repo.next_mutation_id() == 1_000_000_001
