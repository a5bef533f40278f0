"""``dvid-dask jobs``: what was started and has not ended."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Annotated

import typer

from dvid_dask.cli.console import (
    JsonFlag,
    Selector,
    StoreArgument,
    find_version,
    open_store,
    print_json,
    print_table,
    say,
)
from dvid_dask.cli.volumes import InstanceArgument

app = typer.Typer(
    help="Jobs that were started and have not ended: list, abandon, tidy up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_jobs(store: StoreArgument, json: JsonFlag = False) -> None:
    """List the unfinished jobs of a store, the oldest first: those that run, and those that were killed.

    A job that was killed goes on when it is started again with the same arguments. Of a draft readers see nothing yet.
    """
    from dvid_dask import ops

    jobs = ops.list_jobs(open_store(store, read_only=True))
    if json:
        print_json([dataclasses.asdict(job) for job in jobs])
    elif not jobs:
        say("no unfinished jobs")
    else:
        print_table(
            ("job", "what", "version", "instance", "began", "tasks"),
            (
                (
                    job.name,
                    f"{job.op} (draft)" if job.draft else job.op,
                    (job.version or "")[:12],
                    job.instance or "",
                    "" if job.began is None else f"{job.began.astimezone():%Y-%m-%d %H:%M}",
                    job.tasks,
                )
                for job in jobs
            ),
            right=[5],
        )


@app.command()
def abandon(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    job: Annotated[str, typer.Argument(metavar="JOB", help="Its name, as `list` shows it.", show_default=False)],
) -> None:
    """Give up a job that nobody will start again. It must not be running.

    What a bulk change of bodies did was seen by nobody, and is dropped; what ingest and downres have written stays.
    """
    from dvid_dask import ops

    at = find_version(open_store(store), version)
    ops.abandon(at[instance], job)
    say(f"job {job} on {instance} at {at.uuid} is given up; `dvid-dask gc` frees what it took")


@app.command()
def tidy(
    store: StoreArgument,
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", help="Leave younger checks and edits alone.", min=0),
    ] = 7.0,
) -> None:
    """Drop what is left of jobs that can't go on: drafts of versions committed or deleted meanwhile, old checks, and
    old branches of edits that were killed.
    """
    from dvid_dask import ops

    dropped = ops.drop_leftovers(open_store(store), older_than=timedelta(days=older_than))
    for name in dropped:
        say(name)
    say(f"{len(dropped)} trees dropped" + ("; `dvid-dask gc` frees what they took" if dropped else ""))
