"""``dvid-dask adopt``: a data instance that stands on an existing volume."""

from __future__ import annotations

from typing import Annotated

import typer

from dvid_dask.cli.console import StoreArgument, say
from dvid_dask.cli.volumes import (
    Scheduler,
    Workers,
    at_open_version,
    cluster,
    open_or_create,
    pair,
    point,
    version_or_create,
)

__all__ = ["adopt"]


def adopt(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The volume: zarr, OME-Zarr, N5, precomputed or HDF5 (file.h5:/dataset); path or URL.",
            show_default=False,
        ),
    ],
    store: StoreArgument,
    instance: Annotated[str, typer.Option("--instance", "-i", help="Name of the new instance.", show_default=False)],
    version: Annotated[
        str | None, typer.Option(help="Version to make it at.  [default: the newest of master]", show_default=False)
    ] = None,
    repo: Annotated[
        str | None, typer.Option(help="Repository; not needed where there is only one.", show_default=False)
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Make what is missing: store, repository.")] = False,
    typename: Annotated[
        str | None,
        typer.Option("--type", help="Datatype of the instance.  [default: by the values' type]", show_default=False),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the instance; may be given again.", show_default=False)
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z",
            help="Where its first voxel goes.  [default: what the volume's metadata say]",
            show_default=False,
        ),
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="Names of the volume's axes where it doesn't say, as xyz.", show_default=False)
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(metavar="AXIS=INDEX", help="Index of another axis, as c=0.", show_default=False)
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set of an HDF5 file.", show_default=False)] = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Make a data instance of an existing volume, which stays where it is: edits go to the store.

    The volume must not be changed from then on. A segmentation is read once, for its label index; a run that was killed
    goes on where it was when started again.
    """
    from dvid_dask import ops

    at = version_or_create(open_or_create(store, create), repo, version, create)
    with at_open_version(at), cluster(workers, scheduler):
        made = ops.adopt(
            source,
            at,
            instance,
            typename,
            axes=axes,
            select={k: int(v) for k, v in map(pair, select or ())},
            dataset=dataset,
            offset=None if offset is None else point(offset, "--offset"),
            settings=dict(map(pair, setting or ())),
            app="dvid-dask adopt",
        )
    base = made.base_volume  # type: ignore[attr-defined]
    scales = f"{len(base.scales)} scale{'s' if len(base.scales) > 1 else ''}"
    say(f"{instance!r} [{made.typename}] stands on {base.shown_url}: {base.extents()}, {scales}")
