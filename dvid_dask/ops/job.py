"""Long work as small tasks, each with one commit that also notes that it is done.

A job is a few phases; a phase is tasks numbered from 0. Task *i* commits its changes together with a mark for *i*, so
whoever is killed, and whenever: a job started again does what has no mark, and a task that runs twice (a worker lost
between its commit and its answer) finds its mark and changes nothing. Keys in the instance's space:

=====================================  =====================================================
``J`` job                              JSON: what the job is; there while it is unfinished
``J`` job ``/`` phase ``/`` number     mark of a finished task, with its result as JSON
``J`` job ``/x/`` ...                  what a phase leaves for a later one
=====================================  =====================================================

The last commit removes them all. The name of a job is made from what it works on and how, so that starting the same
job again finds what is there. The tasks run wherever Dask runs them; only numbers and small results travel.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from dvid_dask.datatypes.base import Space, TxSpace
from dvid_dask.errors import BadRequest, Conflict, DvidError
from dvid_dask.ops.progress import Bar, Progress
from dvid_dask.store import TreeExists
from dvid_dask.versions.records import now

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Store, View

__all__ = [
    "JOBS",
    "SCRATCH",
    "JobFailedError",
    "InstanceLedger",
    "Ledger",
    "LedgerPhase",
    "Phase",
    "ScratchLedger",
    "execute",
    "find_client",
    "job_name",
    "jobs_in",
    "scratch_space",
    "tasks_done",
    "unfinished_jobs",
]

T = TypeVar("T")

JOBS = b"J"
"""Class letter of the keys of jobs in the space of any instance."""

_WINDOW = 1 << 14  # tasks given to the scheduler at a time
_RETRIES = 2
_SCRATCH = b"s/"

SCRATCH = "scratch-"
"""Begins the names of the trees of jobs that only read."""

Result = dict[str, Any]


class JobFailedError(RuntimeError):
    """A task failed. What was finished stays; start the same job again to go on from there."""


def job_name(**parts: Any) -> str:
    """Name of a job from what makes it this job and no other.

    Examples
    --------
    >>> job_name(op="ingest", box=(0, 1)) == job_name(box=(0, 1), op="ingest")
    True
    """
    text = msgspec.json.encode(parts, order="deterministic")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def unfinished_jobs(instance: Datatype) -> dict[str, Result]:
    """The jobs on an instance at its version that were started and have not ended, by name."""
    return jobs_in(instance.view(0))


def jobs_in(space: Space) -> dict[str, Result]:
    """The notes of the jobs in an instance's keys, or those of a scratch tree, by name."""
    found: dict[str, Result] = {}
    start = JOBS
    while (key := next(space.keys(JOBS, start=start), None)) is not None:
        name, slash, _ = key[len(JOBS) :].partition(b"/")
        if not slash:
            held = space.get(key)
            if held is not None:
                found[name.decode()] = msgspec.json.decode(held)
        start = JOBS + name + b"0"  # past all that is below the job
    return found


def tasks_done(space: Space, name: str) -> int:
    """How many tasks of a job are finished."""
    left = f"J{name}/x/".encode()
    return sum(1 for key in space.keys(f"J{name}/".encode()) if not key.startswith(left))


def scratch_space(view: View) -> Space:
    """The keys of a scratch tree."""
    return Space(view, _SCRATCH)


class Ledger(ABC):
    """What a job has done, kept beside what it writes.

    Parameters
    ----------
    name
        From `job_name`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def view(self) -> Space:
        """The keys as they are now."""

    @abstractmethod
    def mutate(self, fn: Callable[[Any, TxSpace], T]) -> T:
        """One commit."""

    @property
    def _record(self) -> bytes:
        return JOBS + self.name.encode()

    def key(self, phase: str, *parts: bytes) -> bytes:
        """A key below the job's own."""
        return b"/".join((self._record, phase.encode(), *parts))

    def begin(self, about: Result, fn: Callable[[Any, TxSpace], None] | None = None) -> Result:
        """Note that the job runs, and do `fn`, in one commit; of a job begun before only return what was noted.

        What is noted is `about`, and when the job began.
        """

        def note(m: Any, space: TxSpace) -> Result:
            held = space.get(self._record)
            if held is not None:
                return dict(msgspec.json.decode(held))
            if fn is not None:
                fn(m, space)
            noted = about | {"began": now().isoformat()}
            space.put(self._record, msgspec.json.encode(noted))
            return noted

        return self.mutate(note)

    def mark(self, space: Space, phase: str, index: int) -> Result | None:
        """The result of a task, if it is finished in this state."""
        held = space.get(self._mark(phase, index))
        return None if held is None else dict(msgspec.json.decode(held))

    def _mark(self, phase: str, index: int) -> bytes:
        return self.key(phase, b"%08x" % index)

    def done(self, phase: str) -> dict[int, Result]:
        """Results of the finished tasks of a phase."""
        prefix = self.key(phase, b"")
        return {int(key[len(prefix) :], 16): msgspec.json.decode(value) for key, value in self.view().scan(prefix)}

    def commit(self, phase: str, index: int, fn: Callable[[Any, TxSpace], Result]) -> Result:
        """Run `fn` and mark the task as done, in one commit; a task that is done already only returns its result."""
        mark = self._mark(phase, index)

        def step(m: Any, space: TxSpace) -> Result:
            held = space.get(mark)
            if held is not None:
                return dict(msgspec.json.decode(held))
            if space.get(self._record) is None:
                raise Conflict(f"job {self.name} is over: a task of it that was left behind changes nothing any more")
            result = fn(m, space)
            space.put(mark, msgspec.json.encode(result))
            return result

        return self.mutate(step)

    def finish(self, fn: Callable[[Any, TxSpace], None]) -> None:
        """The last commit: `fn`, and the job's keys are gone. Nothing happens if another run of the job was faster."""

        def step(m: Any, space: TxSpace) -> None:
            if space.get(self._record) is None:
                return
            fn(m, space)
            space.delete_prefix(self._record)

        self.mutate(step)


class InstanceLedger(Ledger):
    """The ledger of a job that changes a data instance, among the instance's keys.

    Parameters
    ----------
    instance
        The instance it writes to.
    name
        From `job_name`.
    user, app, force
        As for `Datatype.mutate`.
    """

    def __init__(self, instance: Datatype, name: str, *, user: str = "", app: str = "", force: bool = False) -> None:
        super().__init__(name)
        self.instance = instance
        self._who: dict[str, Any] = {"user": user, "app": app, "force": force}

    def view(self) -> Space:
        """The instance's keys as they are now."""
        return self.instance.view(0)

    def mutate(self, fn: Callable[[Any, TxSpace], T]) -> T:
        """One commit on the instance, by whoever runs the job; `fn` gets the `Mutation`."""
        return self.instance.mutate(fn, **self._who)


class ScratchLedger(Ledger):
    """The ledger of a job that only reads: a tree of its own, dropped when the job ends.

    Parameters
    ----------
    store
        Where the tree is made.
    name
        From `job_name`.
    """

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(name)
        self._store = store
        if not store.has_tree(self._tree):
            with contextlib.suppress(TreeExists):
                store.create_tree(self._tree)

    @property
    def _tree(self) -> str:
        return SCRATCH + self.name

    def view(self) -> Space:
        """The scratch keys as they are now."""
        return scratch_space(self._store.tree(self._tree).view(0))

    def mutate(self, fn: Callable[[Any, TxSpace], T]) -> T:
        """One commit on the scratch tree; `fn` gets None for the mutation."""
        return self._store.tree(self._tree).update(lambda tx: fn(None, TxSpace(tx, _SCRATCH)))

    def drop(self) -> None:
        """Remove all of it."""
        self._store.drop_tree(self._tree)


@dataclass(frozen=True)
class LedgerPhase:
    """Tasks of a job that note in its ledger what is done.

    Attributes
    ----------
    ledger, name
        Where, and under which name.
    title
        What it does, for people.
    weights
        Of each task, for the rate that progress shows.
    task
        What runs a task; see `Phase.worker`.
    given
        Makes `Phase.inputs`, if there are any.
    """

    ledger: Ledger
    name: str
    title: str
    weights: Sequence[int]
    task: Callable[..., Result]
    given: Callable[[Sequence[int]], list[Any] | None] | None = None

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self.weights)

    def weight(self, index: int) -> int:
        """Voxels (or other units) of a task."""
        return self.weights[index]

    def finished(self) -> set[int]:
        """Tasks that need not run again."""
        return set(self.ledger.done(self.name))

    def worker(self) -> Callable[..., Result]:
        """What runs a task."""
        return self.task

    def inputs(self, indices: Sequence[int]) -> list[Any] | None:
        """Dask objects to compute first, one per task."""
        return None if self.given is None else self.given(indices)


class Phase(Protocol):
    """Numbered tasks that don't depend on each other."""

    @property
    def title(self) -> str:
        """What it does, for people."""
        ...

    @property
    def count(self) -> int:
        """Number of tasks."""
        ...

    def weight(self, index: int) -> int:
        """Voxels (or other units) of a task, for the rate that progress shows."""
        ...

    def finished(self) -> set[int]:
        """Tasks that need not run again."""
        ...

    def worker(self) -> Callable[..., Result]:
        """What runs a task, called with its number and, if `inputs` gives something, that. It is pickled."""
        ...

    def inputs(self, indices: Sequence[int]) -> list[Any] | None:
        """Dask objects to compute first, one per task."""
        ...


# ------------------------------------------------------------------ running


def find_client(client: Any = None) -> Any:
    """The client to use: the one given, or the one that is current, or None for Dask's local schedulers."""
    if client is not None:
        return client
    import dask

    if dask.config.get("scheduler", None) is not None:
        return None
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def shares_memory(client: Any) -> bool:
    """Whether all workers of a client are threads of this process."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return all(address.startswith("inproc://") for address in workers)


def execute(phase: Phase, client: Any, progress: Progress) -> None:
    """Run all tasks of a phase that are not finished.

    Raises
    ------
    JobFailedError
        If a task failed for a reason of the machine; a `DvidError` of a task is raised as it is.
    """
    finished = phase.finished()
    total = sum(phase.weight(i) for i in range(phase.count))
    with progress.phase(phase.title, total, sum(phase.weight(i) for i in finished)) as bar:
        todo = [i for i in range(phase.count) if i not in finished]
        for first in range(0, len(todo), _WINDOW):
            window = todo[first : first + _WINDOW]
            tasks = graph(phase, window)
            if client is None:
                _run_locally(phase, window, tasks, bar)
            else:
                _run_on_cluster(phase, window, tasks, client, bar)


def graph(phase: Phase, indices: Sequence[int]) -> list[Any]:
    """The tasks as Dask objects, in order. What they share is in the graph once."""
    from dask import delayed

    name = f"{phase.title.replace(' ', '_')}-{uuid.uuid4().hex}"
    run = delayed(phase.worker(), name=f"run_{name}", pure=False, traverse=False)
    inputs = phase.inputs(indices)
    given: Sequence[tuple[Any, ...]] = [()] * len(indices) if inputs is None else [(part,) for part in inputs]
    return [run(i, *part, dask_key_name=f"{name}-{i}") for i, part in zip(indices, given, strict=True)]


def _run_on_cluster(phase: Phase, indices: list[int], tasks: list[Any], client: Any, bar: Bar) -> None:
    from distributed import as_completed

    futures = client.compute(tasks, retries=_RETRIES, optimize_graph=False)
    number = {future.key: index for future, index in zip(futures, indices, strict=True)}
    bar.show_futures(futures)
    try:
        with client.as_current():
            for future in as_completed(futures):
                index = number[future.key]
                try:
                    future.result()
                except Exception as e:
                    raise _failure(e, phase.title, index) from e
                bar.advance(phase.weight(index))
    finally:
        client.cancel(futures)


def _run_locally(phase: Phase, indices: list[int], tasks: list[Any], bar: Bar) -> None:
    import dask
    from dask.callbacks import Callback

    number = {task.key: index for task, index in zip(tasks, indices, strict=True)}

    def posttask(key: Any, *_: Any) -> None:
        if key in number:
            bar.advance(phase.weight(number[key]))

    with Callback(posttask=posttask):
        dask.compute(*tasks, optimize_graph=False)


def _failure(error: Exception, title: str, index: int) -> Exception:
    if isinstance(error, DvidError):
        return error
    return JobFailedError(
        f"{title}: task {index} failed: {type(error).__name__}: {error}. What was finished is kept: "
        "start the same job again to go on from there"
    )


def check_reach(client: Any, instance: Datatype) -> None:
    """Refuse workers that can't open the store.

    Raises
    ------
    BadRequest
        If the store lives in this process's memory and the workers don't.
    """
    url = instance.version.datastore.url
    if client is not None and url.startswith("memory:") and not shares_memory(client):
        raise BadRequest(
            f"{url} lives in this process's memory: workers of a cluster can't reach it; use a path or URL"
        )
