"""Slots never exceed their number, counters count the last second, names from outside don't fill the memory."""

import threading

import pytest

from dvid_dask.api.state import BlockList, ByteBudget, Latencies, LoadCounters, Throttle
from dvid_dask.errors import BadRequest, TooBusy


def test_throttle_under_contention():
    throttle, most, lock = Throttle(3), [0], threading.Lock()
    taken = []

    def work():
        for _ in range(500):
            try:
                throttle.take()
            except TooBusy:
                continue
            with lock:
                most[0] = max(most[0], throttle.running)
                taken.append(1)
            throttle.give_back()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert 1 <= most[0] <= 3
    assert throttle.running == 0
    assert taken


def test_budget():
    budget = ByteBudget(10)
    with budget.hold(10), pytest.raises(TooBusy):
        budget.take(1)
    budget.take(10)


def test_load_is_that_of_the_last_full_second(monkeypatch):
    now = [100.2]
    monkeypatch.setattr("dvid_dask.api.state.time.monotonic", lambda: now[0])
    load = LoadCounters()
    load.request("GET", 0)
    load.request("POST", 70)
    load.sent(5)
    now[0] = 101.1
    assert load.last_second() == {"gets": 1, "puts": 1, "bytes in": 70, "bytes out": 5}
    load.request("HEAD", 0)
    now[0] = 102.0
    assert load.last_second() == {"gets": 1, "puts": 0, "bytes in": 0, "bytes out": 0}
    now[0] = 110.0
    assert not any(load.last_second().values())


def test_latencies():
    latencies = Latencies()
    for ms in (5, 2, 9):
        latencies.ping("alice", ms)
    record = latencies.of("alice")
    assert (record["LastLatency"], record["MinLatency"], record["MaxLatency"]) == (9, 2, 9)
    assert latencies.of("nobody") == dict.fromkeys(record, 0) | {"User": "", "LastPing": ""}
    assert list(latencies.all()) == ["alice"]


def test_latencies_forget_the_oldest(monkeypatch):
    monkeypatch.setattr(Latencies, "LIMIT", 10)
    latencies = Latencies()
    for n in range(25):
        latencies.ping(f"user{n}", 1)
    assert list(latencies.all()) == [f"user{n}" for n in range(15, 25)]


def test_block_list_patterns():
    rules = BlockList.parse("ip=10.*.3\n\nip=fe80:1:*\nu=eve\n")
    assert rules.match("", "10.9.3.77")
    assert not rules.match("", "10.9.4.77")
    assert not rules.match("", "10.9")  # fewer parts than the rule: DVID crashes here
    assert rules.match("", "fe80:1:2:3")
    assert rules.match("eve", "")
    assert not rules.match("Eve", "")
    assert not BlockList()


@pytest.mark.parametrize("line", ["eve", "x=eve", "u=", "u=eve,a,b", "ip"])
def test_bad_block_lists(line):
    with pytest.raises(BadRequest, match="line 1"):
        BlockList.parse(line)


def test_block_list_files(tmp_path):
    assert not BlockList.load("")
    with pytest.raises(BadRequest, match="can't be read"):
        BlockList.load(str(tmp_path / "nosuch"))
