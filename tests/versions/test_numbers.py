"""Numbers that processes reserve ahead: nobody gets one twice, whatever is drawn, raised, set, closed and killed."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dvid_dask
from dvid_dask.errors import BadRequest
from dvid_dask.store import Store, StoreError, Tree
from dvid_dask.versions import Datastore
from dvid_dask.versions.counters import AHEAD, Counter, NumberSource

HERE = Path(__file__).parents[2]


def test_one_process_gets_one_number_after_the_other(repo):
    source = repo.numbers("label", start=1)
    assert (source.value, source.unused) == (1, 1)
    assert [source.allocate() for _ in range(300)] == list(range(1, 301))
    assert source.allocate(1000) == 301
    assert (source.allocate(), source.value, source.unused) == (1301, 1302, 1302)
    assert repo.numbers("other").value == 0


def test_few_commits(ds, repo):
    source = repo.numbers("label")
    tree = ds.tree("counters")
    before = tree.view(0).manifest.generation
    for _ in range(1000):
        source.allocate()
    assert tree.view(0).manifest.generation - before < 8 + 1000 / AHEAD


def test_a_counter_goes_on(repo):
    repo.counter("label", start=1).allocate(41)
    assert repo.numbers("label", start=1).allocate() == 42


def test_above_and_limit(repo):
    source = repo.numbers("label")
    for _ in range(10):
        source.allocate()
    assert source.allocate(above=1000) == 1001
    assert source.allocate(above=5) == 1002
    assert source.allocate(limit=1004) == 1003
    with pytest.raises(BadRequest, match="1 more would pass 1003"):
        source.allocate(limit=1004)
    with pytest.raises(BadRequest):
        source.allocate(0)
    with pytest.raises(BadRequest):
        source.allocate(2**64)
    assert source.allocate() == 1004
    source.set(2**64 - 2)
    assert source.allocate() == 2**64 - 2
    with pytest.raises(BadRequest):
        source.allocate(2)
    for bad in (-1, 2**64):
        with pytest.raises(BadRequest):
            source.raise_to(bad)
        with pytest.raises(BadRequest):
            source.set(bad)


def test_threads(repo):
    source = repo.numbers("x")
    taken: list[int] = []

    def draw(n):
        for _ in range(100):
            first = source.allocate(n)
            taken.extend(range(first, first + n))

    threads = [threading.Thread(target=draw, args=(n,)) for n in (1, 2, 3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(taken)) == len(taken) == 600


CODE = """
import sys, dvid_dask, os
ds = dvid_dask.open(sys.argv[1])
source = next(iter(ds.repos.values())).numbers("x")
for _ in range(int(sys.argv[2])):
    print(source.allocate(), flush=True)
if sys.argv[3] == "close":
    ds.close()
os._exit(0)
"""


def elsewhere(ds, count, end):
    command = [sys.executable, "-c", CODE, ds.url, str(count), end]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE)


def test_processes_at_once_and_a_kill(local):
    repo = local.new_repo()
    running = [elsewhere(local, 150, end) for end in ("close", "die")]
    mine = [repo.numbers("x").allocate() for _ in range(150)]
    others = [[int(line) for line in process.communicate()[0].split()] for process in running]
    assert all(len(found) == 150 and found == sorted(found) for found in others)
    everything = [*mine, *itertools.chain.from_iterable(others)]
    assert len(set(everything)) == 450
    # each was durable when it was told: nobody gets it after the one who told was killed
    more = [repo.numbers("x").allocate() for _ in range(50)]
    assert not set(more) & set(everything)


def test_what_is_not_used_goes_back(local):
    repo = local.new_repo()
    found = []
    for _ in range(3):
        with dvid_dask.open(local.url) as again:
            source = again[repo.root].repo.numbers("x")
            found += [source.allocate() for _ in range(20)]
    assert found == list(range(60))
    assert repo.numbers("x").unused == 60


def test_numbers_given_back_with_an_unknown_end(local):
    """It was told that it failed, and had happened: others draw them, so they are this one's no more."""
    tree = local.tree("counters")

    class Failing:
        view = tree.view

        @staticmethod
        def update(fn):
            tree.update(fn)
            raise StoreError("the answer was lost")

    source, other = NumberSource(tree, b"n"), NumberSource(tree, b"n")
    mine = [source.allocate() for _ in range(4)]
    source._tree = Failing
    source.give_back()
    source._tree = tree
    others = [other.allocate() for _ in range(20)]
    mine += [source.allocate() for _ in range(20)]
    assert len({*mine, *others}) == 44


def test_closing_a_store_that_can_not_be_written_any_more(local):
    repo = local.new_repo()
    again = Datastore(Store.open(local.url))
    source = again[repo.root].repo.numbers("x")
    for _ in range(5):
        source.allocate()
    again.store._read_only = True
    again.close()
    assert repo.numbers("x").allocate() > 4


class Sources(RuleBasedStateMachine):
    """Several processes that draw from one source, as objects that share nothing but the store."""

    @initialize()
    def begin(self):
        self.tree = dvid_dask.create("memory://").tree("counters")
        self.sources = [self.new() for _ in range(3)]
        self.taken: set[int] = set()
        self.floor = 0

    def new(self):
        return NumberSource(self.tree, b"x", 1)

    which = st.integers(0, 2)
    numbers = st.integers(0, 400)

    @rule(who=which, n=st.integers(1, 5), above=numbers | st.just(-1), small=st.booleans())
    def draw(self, who, n, above, small):
        source = self.sources[who]
        above = -1 if small else above
        value, unused = source.value, source.unused
        assert value >= self.floor
        assert unused > max(self.taken, default=-1)
        first = source.allocate(n, above=above)
        drawn = set(range(first, first + n))
        assert not drawn & self.taken
        assert first > above
        assert first >= self.floor
        if above < value:
            assert first == value or n > 1
        self.taken |= drawn

    @rule(who=which, value=numbers)
    def raise_to(self, who, value):
        self.sources[who].raise_to(value)
        self.floor = max(self.floor, value)

    @rule(who=which, value=numbers)
    def set(self, who, value):
        self.sources[who].set(value)
        self.floor = value
        self.taken = {n for n in self.taken if n < value}
        assert self.sources[(who + 1) % 3].value == value

    @rule(who=which)
    def restart(self, who):
        self.sources[who] = self.new()

    @rule(who=which)
    def close(self, who):
        self.sources[who].give_back()
        self.sources[who] = self.new()

    @precondition(lambda self: self.taken)
    @rule(who=which, value=numbers)
    def limit(self, who, value):
        source = self.sources[who]
        try:
            first = source.allocate(limit=value)
        except BadRequest:
            return
        assert first < value
        assert first not in self.taken
        self.taken.add(first)

    @invariant()
    def nothing_is_handed_out_that_counts_as_unused(self):
        highest = max(self.taken, default=-1)
        assert all(source.unused > highest for source in self.sources)


TestSources = Sources.TestCase
TestSources.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_who_finds_his_work_done_waits_until_it_is_durable(ds, repo, monkeypatch):
    """A counter that is high enough, a blob that is there: another process may have put them there just now."""
    settled = []
    monkeypatch.setattr(Tree, "settle", lambda tree: settled.append(tree.name))
    numbers, counter = repo.numbers("x"), Counter(ds.store.tree("counters"), b"y")
    numbers.raise_to(10)
    counter.raise_to(10)
    ds.put_blob(b"here")
    assert not settled
    numbers.raise_to(9)
    counter.raise_to(9)
    ds.put_blob(b"here")
    assert settled[:2] == ["counters"] * 2
    assert len(settled) == 3
