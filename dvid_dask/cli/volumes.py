"""Commands on whole volumes, as Dask graphs: ingest, export, coarser scales, check of the label index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer

import dvid_dask
from dvid_dask.cli.console import Selector, StoreArgument, find_repo, find_version, open_store, say
from dvid_dask.datatypes.roi import Region, Roi
from dvid_dask.errors import BadRequest, LockedVersion, UnknownVersion
from dvid_dask.store import StoreNotFound
from dvid_dask.versions import Datastore, Version

__all__ = [
    "InstanceArgument",
    "RegionOption",
    "Scheduler",
    "Workers",
    "at_open_version",
    "check_index",
    "cluster",
    "downres",
    "export",
    "publish",
    "ingest",
    "open_or_create",
    "pair",
    "point",
    "region_at",
    "version_or_create",
]

Workers = Annotated[
    int, typer.Option(help="Worker processes on this machine; 0 works in threads of this process.", min=0)
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a running Dask scheduler to use instead.", show_default=False)
]
RegionOption = Annotated[
    str | None,
    typer.Option("--region", metavar="ROI", help="Only voxels in this roi of the same version.", show_default=False),
]


def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="What to read: zarr, OME-Zarr, N5, precomputed, .npy, HDF5 (file.h5:/dataset), a TIFF, or a glob of "
            "TIFF, PNG or JPEG slices; path or URL.",
            show_default=False,
        ),
    ],
    store: StoreArgument,
    instance: Annotated[str, typer.Option("--instance", "-i", help="Data instance to write to.", show_default=False)],
    version: Annotated[
        str | None, typer.Option(help="Version to write to.  [default: the newest of master]", show_default=False)
    ] = None,
    repo: Annotated[
        str | None, typer.Option(help="Repository; not needed where there is only one.", show_default=False)
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make what is missing: store, repository, data instance.")
    ] = False,
    typename: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="Datatype of a new instance.  [default: labelmap for uint64, an image type for others]",
            show_default=False,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for a new instance; may be given again.", show_default=False)
    ] = None,
    offset: Annotated[str, typer.Option(metavar="X,Y,Z", help="Voxel at which the first one goes.")] = "0,0,0",
    crop: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z:X,Y,Z", help="Only these voxels of the source, end excluded.", show_default=False),
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="Names of the source's axes where it doesn't say, as xyz.", show_default=False)
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(metavar="AXIS=INDEX", help="Index of another axis, as c=0.", show_default=False)
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set of an HDF5 file.", show_default=False)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Convert to this type, as uint64; refused where values don't fit.", show_default=False),
    ] = None,
    scales: Annotated[
        int | None,
        typer.Option(help="Coarser scales to write.  [default: all the instance has]", min=0, show_default=False),
    ] = None,
    label_offset: Annotated[int, typer.Option(help="Added to every label that is not 0.", min=0)] = 0,
    region: RegionOption = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and stop.")] = False,
) -> None:
    """Write a volume into a data instance, with its coarser scales and its label index.

    Says first what it will do. A run that was killed goes on where it was when started again.
    """
    from dvid_dask import ops

    volume = ops.open_volume(
        source,
        axes=axes,
        select={k: int(v) for k, v in map(pair, select or ())},
        dataset=dataset,
        dtype=None if dtype is None else _dtype(dtype),
        crop=None if crop is None else _box(crop),
    )
    datastore = open_or_create(store, create and not plan)
    at = version_or_create(datastore, repo, version, create and not plan)
    if instance not in at and create and not plan:
        kind = typename or ops.type_for(volume.dtype)
        with at_open_version(at):
            at.repo.new_instance(kind, instance, dict(map(pair, setting or ())), at=at)
    target = at[instance]
    settings: dict[str, Any] = {"offset": point(offset, "--offset"), "scales": scales, "label_offset": label_offset}
    settings["region"] = region_at(at, region)
    if plan:
        say(str(ops.ingest_plan(volume, target, **settings)))
        return
    with at_open_version(at), cluster(workers, scheduler):
        report = ops.ingest(volume, target, app="dvid-dask ingest", **settings)
    say(str(report))


InstanceArgument = Annotated[
    str, typer.Argument(metavar="INSTANCE", help="Name of the data instance.", show_default=False)
]


def export(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    destination: Annotated[
        str,
        typer.Argument(metavar="DESTINATION", help="Path or URL of a folder that is new or empty.", show_default=False),
    ],
    format: Annotated[str, typer.Option(help="zarr, ome-zarr or precomputed.")] = "ome-zarr",
    scales: Annotated[
        int | None, typer.Option(help="Coarser scales to write.  [default: all there are]", min=0, show_default=False)
    ] = None,
    supervoxels: Annotated[bool, typer.Option("--supervoxels", help="Supervoxels instead of bodies.")] = False,
    unsharded: Annotated[
        bool, typer.Option("--unsharded", help="A file for each chunk of a precomputed volume instead of shards.")
    ] = False,
    properties: Annotated[
        bool, typer.Option("--properties", help="Also the sizes of bodies, as segment properties of neuroglancer.")
    ] = False,
    region: RegionOption = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write a volume out for other programs. A run that was killed goes on when started again."""
    from dvid_dask import ops

    at = find_version(open_store(store, read_only=True), version)
    with cluster(workers, scheduler):
        report = ops.export(
            at[instance],
            destination,
            format=format,
            scales=scales,
            supervoxels=supervoxels,
            sharded=not unsharded,
            segment_properties=properties,
            region=region_at(at, region),
        )
    say(str(report))


def publish(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="Path or URL of a folder for publications of the instance.",
            show_default=False,
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="zarr, ome-zarr or precomputed.  [default: ome-zarr; of annotations precomputed]", show_default=False
        ),
    ] = None,
    scales: Annotated[
        int | None, typer.Option(help="Coarser scales to write.  [default: all there are]", min=0, show_default=False)
    ] = None,
    supervoxels: Annotated[bool, typer.Option("--supervoxels", help="Supervoxels instead of bodies.")] = False,
    properties: Annotated[
        bool, typer.Option("--properties", help="Also the sizes of bodies, as segment properties of neuroglancer.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Change the volume at DESTINATION itself to show this version.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(help="An earlier publication to go on from.  [default: the nearest there]", show_default=False),
    ] = None,
    verify: Annotated[
        int, typer.Option(help="Boxes of each scale, or shards of elements, to read back and compare.", min=0)
    ] = 0,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write a committed version as static files; the next one writes only what changed. Goes on when started again."""
    from dvid_dask import ops

    source = find_version(open_store(store, read_only=True), version)[instance]
    with cluster(workers, scheduler):
        report = ops.publish(
            source,
            destination,
            format=format,
            scales=scales,
            supervoxels=supervoxels,
            segment_properties=properties,
            in_place=in_place,
            since=since,
            verify=verify,
        )
    say(str(report))


def downres(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    from_scale: Annotated[int, typer.Option(help="Scale to start from.", min=0)] = 0,
    scales: Annotated[
        int | None,
        typer.Option(help="Coarsest scale to write.  [default: the instance's last]", min=1, show_default=False),
    ] = None,
    region: RegionOption = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Compute the coarser scales of a volume from a finer one."""
    from dvid_dask import ops

    at = find_version(open_store(store), version)
    part = region_at(at, region)
    with cluster(workers, scheduler):
        report = ops.downres(at[instance], from_scale=from_scale, scales=scales, region=part, app="dvid-dask downres")
    say(str(report))


def check_index(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what differs.")] = False,
    region: RegionOption = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Count all voxels of a labelmap and compare its label index; exit status 1 where it differs."""
    from dvid_dask import ops

    at = find_version(open_store(store), version)
    part = region_at(at, region)
    with cluster(workers, scheduler):
        report = ops.check_index(at[instance], repair=repair, region=part, app="dvid-dask check-index")
    say(str(report))
    if not (report.ok or report.repaired):
        raise typer.Exit(1)


def open_or_create(store: str, create: bool) -> Datastore:
    """The store; where it is missing, and that is asked for, a new one."""
    try:
        return open_store(store)
    except StoreNotFound:
        if not create:
            raise
        return dvid_dask.create(store, compact="never")


def version_or_create(datastore: Datastore, repo: str | None, version: str | None, create: bool) -> Version:
    """The version; where there is no repository, and that is asked for, the first of a new one."""
    if version is not None:
        return find_version(datastore, version)
    try:
        return find_repo(datastore, repo)["master"]
    except UnknownVersion:
        if not create:
            raise
        return datastore.new_repo(repo or "")["master"]


@contextlib.contextmanager
def at_open_version(version: Version) -> Iterator[None]:
    """Where this one is committed, say which are open, and how to give one of them."""
    try:
        yield
    except LockedVersion as error:
        found = [v for v in version.repo.versions.values() if not v.locked]
        named = ", ".join(f"{v.uuid[:12]} ({v.branch or 'master'})" for v in found[-5:])
        if found:
            hint = f"give an open one with --version: {named}"
        else:
            hint = f"none is open: make one with `dvid-dask node newversion STORE {version.uuid[:12]}`"
        raise LockedVersion(f"{error}\n{hint}") from None


@contextlib.contextmanager
def cluster(workers: int, scheduler: str | None) -> Iterator[None]:
    """The cluster the work runs on: the one at an address, one of processes here, or none."""
    if workers and scheduler:
        raise typer.BadParameter("--workers and --scheduler exclude each other")
    if scheduler:
        from distributed import Client

        with Client(scheduler):
            yield
    elif workers:
        from distributed import Client, LocalCluster

        threads = max(1, (os.cpu_count() or 1) // workers)
        with (
            LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=None) as cluster,
            Client(cluster),
        ):
            yield
    else:
        yield


def region_at(version: Version, name: str | None) -> Region | None:
    """The region of a roi at a version; None where none is named."""
    if name is None:
        return None
    roi = version[name]
    if not isinstance(roi, Roi):
        raise BadRequest(f"{name!r} is a {roi.info.typename}, not a roi")
    return roi.region


def pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` in two."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r} is no KEY=VALUE")
    return key, value


def point(text: str, name: str) -> tuple[int, int, int]:
    """``x,y,z`` as (z, y, x)."""
    try:
        x, y, z = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{name} {text!r} is no X,Y,Z") from None
    return z, y, x


def _box(text: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    start, _, stop = text.partition(":")
    return point(start, "--crop"), point(stop, "--crop")


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        raise typer.BadParameter(f"--dtype {name!r} is no type of numpy") from None
