"""Commands on images: tiles, regions of interest of what holds something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dvid_dask.cli.console import Selector, StoreArgument, find_version, open_store, print_json, say
from dvid_dask.cli.volumes import InstanceArgument, Scheduler, Workers, cluster
from dvid_dask.errors import UnknownInstance

app = typer.Typer(
    help="Images: tiles for viewers, regions of what holds something.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def tiles(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    planes: Annotated[str, typer.Option(help="Which, joined by commas.")] = "xy,xz,yz",
    xrange: Annotated[
        str | None, typer.Option(metavar="A,B", help="First and last x of yz tiles.", show_default=False)
    ] = None,
    yrange: Annotated[
        str | None, typer.Option(metavar="A,B", help="First and last y of xz tiles.", show_default=False)
    ] = None,
    zrange: Annotated[
        str | None, typer.Option(metavar="A,B", help="First and last z of xy tiles.", show_default=False)
    ] = None,
    levels: Annotated[
        Path | None,
        typer.Option(
            help='JSON file with the scales: {"0": {"Resolution": [8,8,8], "TileSize": [512,512,512]}, "1": ...}.  '
            "[default: those the instance has, or 512 x 512 tiles up to one that holds all]",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Make the tiles of an imagetile from its source, at all scales.

    A run that was killed goes on where it was when started again.
    """
    import msgspec

    from dvid_dask import ops
    from dvid_dask.datatypes.imagetile import parse_levels

    scales = None
    if levels is not None:
        try:
            scales = parse_levels(msgspec.json.decode(levels.read_bytes()))
        except msgspec.DecodeError as error:
            raise typer.BadParameter(f"{levels} is no JSON: {error}") from None
    ranges = {
        name: _span(text, name) for name, text in (("x", xrange), ("y", yrange), ("z", zrange)) if text is not None
    }
    target = find_version(open_store(store), version)[instance]
    with cluster(workers, scheduler):
        report = ops.generate_tiles(
            target,
            planes=[plane.strip() for plane in planes.replace(";", ",").split(",")],
            ranges=ranges or None,
            levels=scales,
            app="dvid-dask images tiles",
        )
    say(str(report))


def _span(text: str, name: str) -> tuple[int, int]:
    try:
        first, last = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--{name}range {text!r} is no A,B") from None
    if last < first:
        raise typer.BadParameter(f"--{name}range {text!r} ends before it begins")
    return first, last + 1


@app.command()
def roi(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    roi: Annotated[str, typer.Argument(metavar="ROI", help="The region's name.", show_default=False)],
    background: Annotated[str, typer.Argument(metavar="VALUES", help="Values that count as nothing.")] = "0",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Make a region of interest of the blocks of an image that hold something else than background.

    A region that isn't there yet is made, with the image's block size; one that is there is replaced.
    """
    from dvid_dask import ops
    from dvid_dask.ops.stored import block_shape

    at = find_version(open_store(store), version)
    image: Any = at[instance]
    try:
        values = [int(part) for part in background.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{background!r} is no list of integers joined by commas") from None
    try:
        region = at[roi]
    except UnknownInstance:
        size = ",".join(map(str, reversed(block_shape(image))))
        region = at.repo.new_instance("roi", roi, {"BlockSize": size}, at=at)
    with cluster(workers, scheduler):
        count = ops.foreground_roi(image, region, background=values, app="dvid-dask images roi")
    say(f"{roi} has {count:,} blocks")


@app.command("load-v3draw")
def load_v3draw(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="V3D raw file (.v3draw, .raw); path or URL.", show_default=False)
    ],
    create: Annotated[bool, typer.Option("--create", help="Make the instance where it is missing.")] = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Load a stack of several channels into a multichan16 instance."""
    from dvid_dask import ops

    at = find_version(open_store(store), version)
    if create and instance not in at:
        at.repo.new_instance("multichan16", instance, at=at)
    with cluster(workers, scheduler):
        report = ops.load_v3draw(file, at[instance], app="dvid-dask images load-v3draw")
    say(str(report))


@app.command("brainmaps-volumes")
def brainmaps_volumes(
    keyfile: Annotated[
        Path,
        typer.Argument(metavar="KEYFILE", help="A service account's key, JSON.", exists=True, dir_okay=False),
    ],
) -> None:
    """List the volumes of Google's BrainMaps service that a service account may read, for googlevoxels."""
    from dvid_dask.datatypes.googlevoxels import list_volumes

    print_json(list_volumes(str(keyfile)))
