"""The commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

import dvid_dask
from dvid_dask.cli import (
    adopt,
    bench,
    elements,
    images,
    jobs,
    keyvalues,
    labels,
    meshes,
    move_base,
    nanovdb,
    neurons,
    nodes,
    regions,
    repos,
    stores,
    volumes,
)
from dvid_dask.cli.console import say

__all__ = ["app"]

app = typer.Typer(
    name="dvid-dask",
    help="Versioned volumes: make a store, fill it, branch it, compare it, serve it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _version(asked: bool) -> None:
    if asked:
        say(f"dvid-dask {dvid_dask.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    pass


app.command("init")(stores.init)
app.command("serve")(stores.serve)
app.command("info")(stores.info)
app.command("ingest")(volumes.ingest)
app.command("adopt")(adopt.adopt)
app.command("move-base")(move_base.move_base)
app.command("export")(volumes.export)
app.command("publish")(volumes.publish)
app.command("downres")(volumes.downres)
app.command("check-index")(volumes.check_index)
app.command("diff")(nodes.diff)
app.command("compact")(stores.compact)
app.command("gc")(stores.gc)
app.command("fsck")(stores.fsck)
app.add_typer(repos.app, name="repo")
app.add_typer(nodes.app, name="node")
labels.app.command("export-bodies")(nanovdb.export_bodies)
labels.app.command("fvdb")(nanovdb.fvdb)
labels.app.command("mesh")(meshes.mesh)
app.add_typer(labels.app, name="labels")
app.add_typer(elements.app, name="elements")
app.add_typer(images.app, name="images")
app.add_typer(keyvalues.app, name="keyvalue")
app.add_typer(neurons.app, name="neurons")
app.add_typer(regions.app, name="roi")
app.add_typer(jobs.app, name="jobs")
app.add_typer(bench.app, name="bench")
