"""``dvid-dask roi``: regions of interest in and out, their algebra, sizes and partitions."""

from __future__ import annotations

import csv
import json as jsonlib
import math
import sys
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import typer

from dvid_dask.cli.console import (
    JsonFlag,
    Selector,
    StoreArgument,
    find_instance,
    find_version,
    open_store,
    print_json,
    print_table,
    say,
)
from dvid_dask.cli.nanovdb import list_of_ids
from dvid_dask.cli.volumes import Scheduler, Workers, cluster, point, region_at
from dvid_dask.datatypes.labelmap import LabelMap
from dvid_dask.datatypes.roi import Region, Roi
from dvid_dask.errors import BadRequest
from dvid_dask.versions import Version

app = typer.Typer(
    help="Regions of interest: algebra, size, from and to labels, partition.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_APP = "dvid-dask roi"

Name = Annotated[str, typer.Argument(metavar="ROI", help="Name of the region.", show_default=False)]
Result = Annotated[
    str,
    typer.Argument(
        metavar="RESULT",
        help="Roi that gets the result; made if there is none, may be one of those read.",
        show_default=False,
    ),
]
Sources = Annotated[list[str], typer.Argument(metavar="ROI...", help="Regions at the same version.")]
By = Annotated[str, typer.Option("--by", help="Blocks, one number or X,Y,Z.")]


def _regions(at: Version, names: list[str]) -> list[Region]:
    found = [region_at(at, name) for name in names]
    return [region for region in found if region is not None]


def _keep(at: Version, name: str, region: Region) -> None:
    """Make a region the value of a roi, which is made if it isn't there."""
    if name not in at:
        size = ",".join(str(n) for n in region.block_shape[::-1])
        at.repo.new_instance("roi", name, {"BlockSize": size}, at=at)
        at = at.repo[at.uuid]
    roi = at[name]
    if not isinstance(roi, Roi):
        raise BadRequest(f"{name!r} is a {roi.info.typename}, not a roi")
    roi.replace(region, app=_APP)
    say(f"{name} at {at.uuid}: {_text(region)}")


def _text(region: Region) -> str:
    z, y, x = region.block_shape
    return f"{len(region):,} blocks of {x} x {y} x {z} voxels (x, y, z), {region.voxels:,} voxels"


def _combine(store: str, version: str, result: str, names: list[str], how: Callable[[Region, Region], Region]) -> None:
    if len(names) < 2:
        raise typer.BadParameter("name two regions or more")
    at = find_version(open_store(store), version)
    _keep(at, result, reduce(how, _regions(at, names)))


@app.command()
def union(store: StoreArgument, version: Selector, result: Result, rois: Sources) -> None:
    """The blocks that are in any of the regions."""
    _combine(store, version, result, rois, lambda a, b: a | b)


@app.command()
def intersect(store: StoreArgument, version: Selector, result: Result, rois: Sources) -> None:
    """The blocks that are in all of the regions."""
    _combine(store, version, result, rois, lambda a, b: a & b)


@app.command()
def subtract(store: StoreArgument, version: Selector, result: Result, rois: Sources) -> None:
    """The blocks that are in the first region and in none of the others."""
    _combine(store, version, result, rois, lambda a, b: a - b)


@app.command()
def dilate(store: StoreArgument, version: Selector, result: Result, roi: Name, by: By = "1") -> None:
    """The blocks within some blocks of the region along each axis."""
    at = find_version(open_store(store), version)
    (region,) = _regions(at, [roi])
    _keep(at, result, region.dilated(_reach(by)))


@app.command()
def erode(store: StoreArgument, version: Selector, result: Result, roi: Name, by: By = "1") -> None:
    """The blocks of the region that have no other block within some blocks along each axis."""
    at = find_version(open_store(store), version)
    (region,) = _regions(at, [roi])
    _keep(at, result, region.eroded(_reach(by)))


def _reach(by: str) -> int | tuple[int, int, int]:
    return int(by) if by.isascii() and by.isdigit() else point(by, "--by")


@app.command()
def info(
    store: StoreArgument,
    version: Selector,
    rois: Sources,
    voxel_size: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z", help="Size of a voxel, for the volume in its unit cubed.", show_default=False),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Size, volume and bounding box (x, y, z, voxels, end excluded) of regions."""
    at = find_version(open_store(store, read_only=True), version)
    size = None if voxel_size is None else _sizes(voxel_size)
    facts: list[dict[str, Any]] = []
    for name, region in zip(rois, _regions(at, rois), strict=True):
        bounds = region.voxel_bounds
        fact: dict[str, Any] = {"roi": name, "blocks": len(region), "block_size": list(region.block_shape[::-1])}
        fact |= {"voxels": region.voxels}
        if size is not None:
            fact["volume"] = region.volume(size)
        fact["start"], fact["stop"] = (None, None) if bounds is None else [list(b[::-1]) for b in bounds]
        facts.append(fact)
    if json:
        print_json(facts)
    else:
        names = [name.replace("_", " ") for name in facts[0]]
        rows = [["" if v is None else _cell(v) for v in fact.values()] for fact in facts]
        print_table(names, rows, right=range(1, len(names)))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _sizes(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--voxel-size {text!r} is no X,Y,Z") from None
    return z, y, x


@app.command("from-labels")
def from_labels(
    store: StoreArgument,
    version: Selector,
    result: Result,
    segmentation: Annotated[
        str, typer.Argument(metavar="SEGMENTATION", help="Name of a labelmap.", show_default=False)
    ],
    labels: Annotated[
        str | None, typer.Option(help="Ids: 5,7,9, or a text file with one a line.  [default: all]", metavar="IDS")
    ] = None,
    block_size: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Of the region.  [default: that of RESULT, or the labelmap's]")
    ] = None,
    scale: Annotated[int, typer.Option(help="Of the voxels that are looked at.", min=0)] = 0,
    supervoxels: Annotated[bool, typer.Option("--supervoxels", help="The ids are supervoxels.")] = False,
    fraction: Annotated[
        float, typer.Option(help="Least part of a block's voxels that the labels must have.", min=0, max=1)
    ] = 0.0,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """The blocks in which a segmentation has voxels of some labels, or of any."""
    from dvid_dask import ops

    seg = find_instance(LabelMap, store, version, segmentation, read_only=False)
    at = seg.version
    shape: tuple[int, int, int] | None = None if block_size is None else point(block_size, "--block-size")
    if shape is None and result in at and isinstance(held := at[result], Roi):
        shape = held.block_shape
    with cluster(workers, scheduler):
        region = ops.region_of(
            seg,
            None if labels is None else list_of_ids(labels, "--labels"),
            block_shape=shape,
            scale=scale,
            supervoxels=supervoxels,
            min_fraction=fraction,
        )
    _keep(at, result, region)


@app.command("to-labels")
def to_labels(
    store: StoreArgument,
    version: Selector,
    segmentation: Annotated[
        str, typer.Argument(metavar="SEGMENTATION", help="Labelmap to write to; made if there is none.")
    ],
    rois: Annotated[list[str], typer.Argument(metavar="LABEL=ROI...", help="1=lobe 2=tract; a later region wins.")],
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write regions as labels into a labelmap; voxels beside them stay as they are."""
    from dvid_dask import ops

    at = find_version(open_store(store), version)
    regions: dict[int, Region] = {}
    for text in rois:
        label, equals, name = text.partition("=")
        if not equals or not (label.isascii() and label.isdigit()):
            raise typer.BadParameter(f"{text!r} is no LABEL=ROI")
        (regions[int(label)],) = _regions(at, [name])
    voxels, offset = ops.label_array(regions)
    if segmentation not in at:
        at.repo.new_instance("labelmap", segmentation, at=at)
        at = at.repo[at.uuid]
    with cluster(workers, scheduler):
        report = ops.ingest(voxels, at[segmentation], offset=offset, region=_all_of(regions.values()), app=_APP)
    say(str(report))


def _all_of(regions: Iterable[Region]) -> Region:
    """The union of regions whose blocks differ, in blocks of which all theirs are made."""
    held = list(regions)
    shape = [math.gcd(*sizes) for sizes in zip(*(region.block_shape for region in held), strict=True)]
    return reduce(lambda a, b: a | b, (region.rescaled(shape) for region in held))


@app.command()
def partition(
    store: StoreArgument,
    version: Selector,
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE", help="A roi, or a labelmap or image: what it has stored.")
    ],
    batch: Annotated[int, typer.Option(help="Blocks along a side of a box.", min=1)] = 8,
    optimized: Annotated[bool, typer.Option("--optimized", help="Fit the boxes to the region.")] = False,
    json: JsonFlag = False,
) -> None:
    """Cut a region into boxes for work in batches: CSV of corners (voxels, end excluded) and active blocks."""
    from dvid_dask import ops

    at = find_version(open_store(store, read_only=True), version)
    work = ops.partition(at[instance], batch, optimized=optimized)
    rows = ([*brick.box.start[::-1], *brick.box.stop[::-1], brick.active] for brick in work)
    if json:
        print_json([{"start": r[:3], "stop": r[3:6], "active": r[6]} for r in rows])
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["x0", "y0", "z0", "x1", "y1", "z1", "active"])
    out.writerows(rows)


@app.command("import")
def import_spans(
    store: StoreArgument,
    version: Selector,
    roi: Name,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="JSON list of [z, y, x0, x1] in blocks.", exists=True)],
    block_size: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Of a new roi.  [default: 32,32,32]", show_default=False)
    ] = None,
) -> None:
    """Replace a region by spans, as DVID's clients write them; x1 is the last block."""
    at = find_version(open_store(store), version)
    default = (32, 32, 32)
    if roi in at and isinstance(held := at[roi], Roi):
        default = held.block_shape
    try:
        spans = jsonlib.loads(source.read_bytes())
    except ValueError as error:
        raise BadRequest(f"{source} is no JSON: {error}") from None
    _keep(at, roi, Region(spans, default if block_size is None else point(block_size, "--block-size")))


@app.command("export")
def export_spans(store: StoreArgument, version: Selector, roi: Name) -> None:
    """Print a region as a JSON list of [z, y, x0, x1] in blocks, x1 inside."""
    at = find_version(open_store(store, read_only=True), version)
    (region,) = _regions(at, [roi])
    sys.stdout.write(jsonlib.dumps(region.spans.tolist(), separators=(",", ":")) + "\n")
