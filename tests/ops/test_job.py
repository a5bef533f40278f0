"""The ledger: a task counts once, whoever runs it and how often; what is left behind changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import dask
import pytest
from distributed import Client

from dvid_dask import ops
from dvid_dask.errors import BadRequest, Conflict
from dvid_dask.ops import job
from dvid_dask.ops.job import InstanceLedger, LedgerPhase, ScratchLedger
from dvid_dask.ops.progress import Progress


@pytest.fixture
def notes(repo):
    return repo.new_instance("keyvalue", "notes")


@pytest.fixture(params=["instance", "scratch"])
def ledger(request, notes):
    if request.param == "instance":
        return InstanceLedger(notes, "job")
    return ScratchLedger(notes.version.datastore.store, "job")


class Append:
    """Adds its number to a list, in its commit."""

    def __init__(self, ledger):
        self.ledger = ledger

    def __call__(self, index, given=None):
        def step(_, space):
            space.put(b"list", (space.get(b"list") or b"") + b"%d," % index)
            return {"index": index}

        return self.ledger.commit("add", index, step)


def total(ledger):
    return sorted(int(n) for n in (ledger.view().get(b"list") or b"").split(b",") if n)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_tasks_run_once_on_any_scheduler(ledger, scheduler):
    ledger.begin({"op": "test"})
    phase = LedgerPhase(ledger, "add", "adding", [1] * 20, Append(ledger))
    Append(ledger)(3)
    with dask.config.set(scheduler=scheduler):
        job.execute(phase, None, Progress(False))
        job.execute(phase, None, Progress(False))
    assert total(ledger) == list(range(20))
    assert {i: r["index"] for i, r in ledger.done("add").items()} == {i: i for i in range(20)}


def test_on_a_cluster_of_threads_the_store_may_be_memory(notes):
    ledger = InstanceLedger(notes, "job")
    ledger.begin({"op": "test"})
    with Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=":0") as client:
        assert job.shares_memory(client)
        with dask.config.set(scheduler=None):
            assert job.find_client() is client
        job.check_reach(client, notes)
        job.execute(LedgerPhase(ledger, "add", "adding", [1] * 20, Append(ledger)), client, Progress(False))
    assert total(ledger) == list(range(20))


def test_a_task_left_behind_by_a_finished_job_changes_nothing(ledger):
    ledger.begin({"op": "test"})
    ledger.finish(lambda _, space: space.put(b"end", b""))
    with pytest.raises(Conflict, match="over"):
        Append(ledger)(1)
    ledger.finish(lambda _, space: space.put(b"end", b"again"))
    assert ledger.view().get(b"end") == b""
    assert ledger.view().get(b"list") is None
    assert not list(ledger.view().keys(b"J"))


def test_begin_keeps_what_the_first_run_noted(ledger):
    noted = ledger.begin({"plan": 1})
    assert noted["plan"] == 1
    assert datetime.fromisoformat(noted["began"]) <= datetime.now(UTC)
    assert ledger.begin({"plan": 2}) == noted


def test_unfinished_jobs_are_listed(notes):
    noted = InstanceLedger(notes, "abc").begin({"op": "ingest"})
    other = InstanceLedger(notes, "abd")
    other.begin({"op": "downres"})
    for index in range(3):
        other.commit("scale0", index, lambda _, __: {})
    assert ops.unfinished_jobs(notes) == {"abc": noted, "abd": other.begin({})}
    assert noted["op"] == "ingest"


def test_a_failing_task_says_which_and_keeps_the_others(ledger):
    ledger.begin({"op": "test"})

    def fails(index):
        if index == 3:
            raise ZeroDivisionError("three")
        return Append(ledger)(index)

    phase = LedgerPhase(ledger, "add", "adding", [1] * 5, fails)
    with (
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as client,
        pytest.raises(ops.JobFailedError, match=r"adding: task 3 failed.*three.*start the same job again"),
    ):
        job.execute(phase, client, Progress(False))
    job.execute(LedgerPhase(ledger, "add", "adding", [1] * 5, Append(ledger)), None, Progress(False))
    assert total(ledger) == list(range(5))


def test_names_tell_jobs_apart():
    assert job.job_name(a=1) != job.job_name(a=2)
    assert job.job_name(a=1, b=(2, 3)) == job.job_name(b=[2, 3], a=1)


def test_a_store_in_memory_can_not_be_reached_from_elsewhere(notes):
    class Elsewhere:
        def scheduler_info(self, n_workers):
            return {"workers": {"tcp://10.0.0.1:1": {}}}

    with pytest.raises(BadRequest, match="path or URL"):
        job.check_reach(Elsewhere(), notes)
