"""Meshes of bodies and supervoxels."""

from __future__ import annotations

from typing import Annotated

import typer

from dvid_dask.cli.console import Selector, StoreArgument, find_version, open_store, say
from dvid_dask.cli.nanovdb import list_of_ids
from dvid_dask.cli.volumes import InstanceArgument, RegionOption, Scheduler, Workers, cluster, region_at

__all__ = ["mesh"]


def mesh(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="Path or URL of a folder, with a slash in it; or a tarsupervoxels or keyvalue instance.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(help="Ids: 5,7,9, or a text file with one a line.  [default: all]", metavar="IDS"),
    ] = None,
    supervoxels: Annotated[
        bool | None,
        typer.Option(
            "--supervoxels/--bodies",
            help="What the labels are.  [default: supervoxels to tarsupervoxels, else bodies]",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only labels that have other voxels than at this version.", metavar="VERSION"),
    ] = None,
    scale: Annotated[int, typer.Option(help="Of the voxels; 0 is full resolution.", min=0, max=255)] = 0,
    keep: Annotated[float, typer.Option(help="Fraction of the triangles that stay; 1 keeps all.")] = 0.1,
    format: Annotated[
        str | None,
        typer.Option(
            help="obj, ply, drc, ngmesh; in a folder also precomputed (multi-resolution), sharded or legacy.  "
            "[default: as the instance says, ngmesh to keyvalue, precomputed in a folder]",
            metavar="FORMAT",
        ),
    ] = None,
    edge: Annotated[int, typer.Option(help="Voxels along a brick: memory of a task grows with its cube.")] = 256,
    region: RegionOption = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Make meshes of bodies or supervoxels. A run that was killed goes on when started again."""
    from dvid_dask import ops

    folder = "/" in destination
    at = find_version(open_store(store, read_only=folder), version)
    with cluster(workers, scheduler):
        report = ops.mesh(
            at[instance],
            destination if folder else at[destination],
            None if labels is None else list_of_ids(labels, "--labels"),
            supervoxels=supervoxels,
            since=None if since is None else at.repo[since],
            scale=scale,
            keep=keep,
            format=format,
            edge=edge,
            region=region_at(at, region),
        )
    say(str(report))
