"""The jobs of a whole store: which were started and not ended, and what is left of those that nobody takes up again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dvid_dask.ops.drafts import DRAFT
from dvid_dask.ops.job import SCRATCH, jobs_in, scratch_space, tasks_done
from dvid_dask.store import TreeNotFound
from dvid_dask.versions.records import now
from dvid_dask.versions.staging import made_at

if TYPE_CHECKING:
    from dvid_dask.versions import Datastore

__all__ = ["Job", "drop_leftovers", "list_jobs"]


@dataclass(frozen=True)
class Job:
    """A job that was started and has not ended.

    Attributes
    ----------
    name
        What `abandon` takes.
    op
        What it does.
    repo, version, instance
        Where: the root of the repository, the version's UUID, the instance's name. None of a job that only reads, such
        as a check. (Exports note what they have done beside what they write, not in the store.)
    began
        When it was started; None if that wasn't noted.
    tasks
        Tasks that are finished.
    draft
        Whether it works on a draft, so that nobody has seen anything of it.
    about
        All that was noted when it began.
    """

    name: str
    op: str
    repo: str | None
    version: str | None
    instance: str | None
    began: datetime | None
    tasks: int
    draft: bool
    about: dict[str, Any]


def list_jobs(datastore: Datastore) -> list[Job]:
    """All unfinished jobs of a store, the oldest first: those that run now, and those that were killed.

    Jobs at versions that were committed meanwhile can't go on, and are not listed.

    Examples
    --------
    >>> import dvid_dask
    >>> list_jobs(dvid_dask.create("memory://"))
    []
    """
    trees = set(datastore.store.trees())
    found = [*_at_versions(datastore, trees), *_that_read(datastore, trees)]
    return sorted(found, key=lambda j: (j.began is not None, j.began.timestamp() if j.began else 0, j.name))


def _at_versions(datastore: Datastore, trees: set[str]) -> Iterator[Job]:
    seen: set[tuple[str, str]] = set()
    for repo in list(datastore.repos.values()):
        for version in list(repo.versions.values()):
            if version.locked:
                continue
            for name in list(version):
                instance = version[name]
                space = instance.view(0)
                for job, about in jobs_in(space).items():
                    if (where := (version.tree(instance.info).name, job)) in seen:
                        continue  # what has no versions is the same at all of them
                    seen.add(where)
                    draft = DRAFT + job in trees
                    place = space
                    if draft:
                        with contextlib.suppress(TreeNotFound):
                            place = instance.space_in(datastore.store.tree(DRAFT + job).view(0))
                    yield _job(job, about, tasks_done(place, job), draft, repo.root, version.uuid, name)


def _that_read(datastore: Datastore, trees: set[str]) -> Iterator[Job]:
    for tree in trees:
        if tree.startswith(SCRATCH):
            with contextlib.suppress(TreeNotFound):  # it ended meanwhile
                space = scratch_space(datastore.store.tree(tree).view(0))
                name = tree.removeprefix(SCRATCH)
                yield _job(name, jobs_in(space).get(name, {}), tasks_done(space, name), False, None, None, None)


def _job(
    name: str,
    about: dict[str, Any],
    tasks: int,
    draft: bool,
    repo: str | None,
    version: str | None,
    instance: str | None,
) -> Job:
    began = about.get("began")
    when = None if began is None else datetime.fromisoformat(began)
    return Job(name, str(about.get("op", "?")), repo, version, instance, when, tasks, draft, about)


def drop_leftovers(datastore: Datastore, *, older_than: timedelta = timedelta(days=7)) -> list[str]:
    """Drop trees of jobs that nobody takes up again; the space comes free with the next `gc`.

    Those are drafts whose job no open version knows any more, since the version was committed, or it or the instance
    was deleted; notes of jobs that only read and began long ago; and, if they are that old, the branches on which large
    edits and undos are made, which a killed process left. Jobs that an open version knows are left: see `abandon`.

    Parameters
    ----------
    datastore
        The store.
    older_than
        Jobs that only read, and branches of edits, are left alone for so long: they may be running. One that is taken
        away from a running job or edit makes it fail, with nothing changed.

    Returns
    -------
    list of str
        Names of the trees that were dropped.

    Examples
    --------
    >>> import dvid_dask
    >>> drop_leftovers(dvid_dask.create("memory://"))
    []
    """
    trees = datastore.store.trees()  # before the jobs: a job is noted before its trees are made
    jobs = list_jobs(datastore)
    known = {job.name for job in jobs if job.version is not None}
    limit = now() - older_than
    old = {job.name for job in jobs if job.version is None and (job.began is None or job.began < limit)}
    doomed = [t for t in trees if t.startswith(DRAFT) and t.removeprefix(DRAFT).partition(".")[0] not in known]
    doomed += [t for t in trees if t.startswith(SCRATCH) and t.removeprefix(SCRATCH) in old]
    doomed += [t for t in trees if (made := made_at(t)) is not None and made < limit]
    dropped = []
    for tree in doomed:
        with contextlib.suppress(TreeNotFound):
            datastore.store.drop_tree(tree)
            dropped.append(tree)
    return dropped
