"""Commands on a labelmap: tables and Arrow files out, image stacks in, counters of ids, a look at blocks and bodies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from dvid_dask.cli.console import (
    JsonFlag,
    Selector,
    StoreArgument,
    find_instance,
    print_json,
    print_table,
    say,
)
from dvid_dask.cli.volumes import InstanceArgument, Scheduler, Workers, cluster, point
from dvid_dask.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvid_dask.datatypes.labelmap import LabelMap, LabelVolume

app = typer.Typer(
    help="Labelmaps: tables of edits, dump, shards, NanoVDB, meshes, image stacks, counters of ids, blocks and bodies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Scales = Annotated[int, typer.Option(help="How many scales, from scale 0 on.", min=1, max=255)]
Spec = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC", help="JSON file: the info of a sharded neuroglancer volume.", exists=True, dir_okay=False
    ),
]
Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="Path or URL of a folder.", show_default=False)]
SupervoxelsFlag = Annotated[bool, typer.Option("--supervoxels", help="Supervoxels instead of bodies.")]


def _labelmap(store: str, version: str, instance: str, *, read_only: bool) -> LabelMap:
    from dvid_dask.datatypes.labelmap import LabelMap

    return find_instance(LabelMap, store, version, instance, read_only=read_only)


def _label_volume(store: str, version: str, instance: str, *, read_only: bool) -> LabelVolume:
    """A labelmap, labelarray or labelblk."""
    from dvid_dask.datatypes.labelmap import LabelVolume

    return find_instance(LabelVolume, store, version, instance, read_only=read_only)


# ------------------------------------------------------------------ out and in


@app.command()
def dump(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="svcount, mappings or indices.", show_default=False)],
    destination: Annotated[
        str, typer.Argument(metavar="FILE", help="Path or URL; a folder for Parquet.", show_default=False)
    ],
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet instead of text.")] = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write a table: voxels of supervoxels by block, the mapping, or the label index.

    What was there before is replaced. Columns, in this order: svcount has supervoxel z y x count, mappings supervoxel
    body, indices body supervoxel z y x count; z y x are block coordinates.
    """
    from dvid_dask import ops

    source = _labelmap(store, version, instance, read_only=True)
    with cluster(workers, scheduler):
        report = ops.dump(source, table, destination, format="parquet" if parquet else "text")
    say(str(report))


@app.command("dump-volumes")
def dump_volumes(store: StoreArgument, version: Selector, instance: InstanceArgument, folder: Folder) -> None:
    """Write the runs of all labels of a labelvol, a file for each cube of 512 voxels a side.

    Files are named subvols-XXX_YYY_ZZZ.dat and replaced. Records are uint64 label, int32 number of runs, and int32 x,
    y, z, length of each.
    """
    from dvid_dask import ops
    from dvid_dask.datatypes.labelvol import LabelVol

    source = find_instance(LabelVol, store, version, instance, read_only=True)
    say(f"{ops.dump_volumes(source, folder)} files")


@app.command("export-shards")
def export_shards(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    spec: Spec,
    folder: Folder,
    scales: Scales = 1,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write label blocks as Arrow files, one for each shard of a neuroglancer volume.

    Files of an earlier export in the folder are removed. A run that was killed goes on when started again.
    """
    from dvid_dask import ops

    source = _labelmap(store, version, instance, read_only=True)
    with cluster(workers, scheduler):
        say(str(ops.export_shards(source, spec.read_bytes(), folder, scales=scales)))


@app.command("analyze-shards")
def analyze_shards(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    spec: Spec,
    folder: Folder,
    scales: Scales = 1,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Say what export-shards would write, and write it to analyze.log in the folder."""
    from dvid_dask import ops

    source = _labelmap(store, version, instance, read_only=True)
    with cluster(workers, scheduler):
        say(str(ops.analyze_shards(source, spec.read_bytes(), folder, scales=scales)))


@app.command()
def load(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    offset: Annotated[
        str, typer.Argument(metavar="X,Y,Z", help="Voxel at which the first one goes.", show_default=False)
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="GLOB...", help="PNG or TIFF, one for each z; quote the globs.", show_default=False),
    ],
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write a stack of label images into a labelmap, where they are supervoxels, a labelarray or a labelblk.

    Images are gray of 8, 16 or 32 bits, or 16-bit RGBA, which holds 64-bit labels as DVID's slices do. Voxels beside
    the stack keep their labels; coarser scales and the label index follow. Negative X: put -- before it.
    """
    from dvid_dask import ops
    from dvid_dask.bases import find_images

    target = _label_volume(store, version, instance, read_only=False)
    first = point(offset, "X,Y,Z")
    volume = ops.open_volume(find_images(images))
    if volume.dtype.kind != "u":
        volume = volume.astype(np.uint64)
    with cluster(workers, scheduler):
        report = ops.ingest(volume, target, offset=first, app="dvid-dask labels load")
    say(str(report))


@app.command()
def composite(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    gray: Annotated[str, typer.Argument(metavar="GRAY", help="A uint8blk.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new rgba8blk.", show_default=False)],
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Make a colour image of bodies over grayscale."""
    from dvid_dask import ops

    labels = _label_volume(store, version, instance, read_only=False)
    with cluster(workers, scheduler):
        made = ops.composite(labels, labels.version[gray], name, app="dvid-dask labels composite")
    say(f"{made.name} [{made.typename}] {made.info.data_uuid}")


# ------------------------------------------------------------------ ids


@app.command("set-nextlabel")
def set_nextlabel(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    label: Annotated[int, typer.Argument(help="New ids begin after this one.", show_default=False)],
    ceiling: Annotated[
        int | None, typer.Argument(help="Last id to hand out; 0 for none.  [default: as it is]", show_default=False)
    ] = None,
) -> None:
    """Choose the range that new ids come from. Nothing checks whether ids in it are unused."""
    _labelmap(store, version, instance, read_only=False).next_labels.start_from(label, ceiling)
    more = (
        ""
        if ceiling is None
        else f" with next label ceiling {ceiling}"
        if ceiling
        else " and cleared next label ceiling"
    )
    say(f"Set next label ID to {label}{more}.")


@app.command("repair-maxlabel")
def repair_maxlabel(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    commit: Annotated[bool, typer.Option("--commit", help="Write; otherwise only say what is wrong.")] = False,
    lower: Annotated[
        bool,
        typer.Option(
            "--lower", help="Lower what is too large as well; ids that were handed out may then be handed out again."
        ),
    ] = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Compute the largest label of every version anew, from label index and mapping."""
    from dvid_dask import ops

    target = _labelmap(store, version, instance, read_only=not commit)
    with cluster(workers, scheduler):
        say(str(ops.repair_max_labels(target, commit=commit, lower=lower)))


# ------------------------------------------------------------------ a closer look


@app.command()
def block(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    at: Annotated[str, typer.Argument(metavar="X,Y,Z", help="Block coordinate.", show_default=False)],
    scale: Annotated[int, typer.Option(help="Scale of the block.", min=0, max=255)] = 0,
    supervoxels: SupervoxelsFlag = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also the labels of each 8 x 8 x 8 sub-block.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show a label block: its table of labels, which are there twice or unused, their voxels."""
    from dvid_dask.formats import label_blocks

    source = _labelmap(store, version, instance, read_only=True)
    found = next(source.specific_blocks([point(at, "X,Y,Z")], scale, supervoxels=supervoxels), None)
    if found is None:
        raise NotFound(f"no block {at} is stored at scale {scale}: all its voxels are 0")
    _, stored, table = found
    patched = stored if table is None else label_blocks.replace_labels(stored, table)
    labels = label_blocks.labels(patched)
    names, voxels = label_blocks.count(patched)
    counted = dict(zip(names.tolist(), voxels.tolist(), strict=True))
    distinct, times = np.unique(labels, return_counts=True)
    facts: dict[str, Any] = {
        "bytes": len(stored),
        "labels": labels.tolist(),
        "voxels": {str(n): counted[n] for n in sorted(counted)},
        "twice": distinct[times > 1].tolist(),
        "unused": [n for n in distinct.tolist() if n not in counted],
    }
    if verbose:
        facts["sub_blocks"] = [t.tolist() for t in label_blocks.sub_tables(patched)]
    if json:
        print_json(facts)
        return
    say(f"block {at} of scale {scale}: {len(stored)} bytes, {len(labels)} labels in its table")
    say(f"twice: {_listed(facts['twice'])}")
    say(f"unused: {_listed(facts['unused'])}")
    print_table(("label", "voxels"), ((n, counted[n]) for n in sorted(counted)), right=[0, 1])
    for i, held in enumerate(facts.get("sub_blocks", ())):
        say(f"sub-block {i}: {_listed(held)}")


def _listed(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels)) or "none"


BodyArgument = Annotated[int, typer.Argument(metavar="BODY", help="Its id.", show_default=False)]


@app.command()
def index(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    body: BodyArgument,
    at: Annotated[
        list[str] | None,
        typer.Option("--block", metavar="X,Y,Z", help="Rows of this block; may be given again.", show_default=False),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show the label index of a body: sums, who changed it last, its supervoxels."""
    from dvid_dask.datatypes.labelmap.index import Index

    source = _labelmap(store, version, instance, read_only=True)
    held = Index(source.view())
    header = held.header(body)
    table = held.supervoxels(body)
    if header is None or table is None:
        raise NotFound(f"there is no body {body}")
    facts: dict[str, Any] = {
        "body": body,
        "voxels": header.voxels,
        "blocks": header.blocks,
        "mutation": header.stamp.mutation,
        "time": header.stamp.time,
        "user": header.stamp.user,
        "app": header.stamp.app,
    }
    supervoxels = dict(zip(table.id.tolist(), table.voxels.tolist(), strict=True))
    rows = []
    for text in at or ():
        corner = point(text, "--block")
        for layer in held.layers(body, (corner, corner)):
            counts = zip(layer.supervoxel.tolist(), layer.count.tolist(), strict=True)
            rows += [(text, sv, n) for sv, n in counts]
    if json:
        more = {"supervoxels": {str(k): v for k, v in supervoxels.items()}}
        print_json({**facts, **more, "rows": [{"block": b, "supervoxel": s, "voxels": n} for b, s, n in rows]})
        return
    for key, value in facts.items():
        say(f"{key:9} {value}")
    say()
    print_table(("supervoxel", "voxels"), supervoxels.items(), right=[0, 1])
    if at:
        say()
        print_table(("block", "supervoxel", "voxels"), rows, right=[1, 2])


@app.command()
def blocks(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    body: BodyArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File.  [default: label-BODY.dat]", show_default=False)
    ] = None,
    supervoxels: SupervoxelsFlag = False,
) -> None:
    """Save all blocks that a body is in as a stream of blocks, as the REST API sends them."""
    from dvid_dask.datatypes.labelmap.index import Index
    from dvid_dask.datatypes.labelmap.rows import distinct_blocks
    from dvid_dask.formats.block_stream import block_to_payload, write_record

    source = _labelmap(store, version, instance, read_only=True)
    held = Index(source.view())
    if held.header(body) is None:
        raise NotFound(f"there is no body {body}")
    path = output or Path(f"label-{body}.dat")
    count = 0
    with path.open("wb") as file:
        for layer in held.layers(body):
            wanted = distinct_blocks(layer)
            for (z, y, x), stored, table in source.specific_blocks(wanted, supervoxels=supervoxels):
                file.write(write_record(x, y, z, block_to_payload(stored, "blocks", table=table)))
                count += 1
    say(f"wrote {count:,} blocks to {path}")


# ------------------------------------------------------------------ many edits


TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="Path or URL: .parquet, .csv or .npy.", show_default=False)
]
TableOption = Annotated[str | None, typer.Option(metavar="TABLE", help="Path or URL: .parquet, .csv or .npy.")]
By = Annotated[str, typer.Option(help="Who asks, for the mutation log.")]


@app.command()
def agglomerate(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    table: TableArgument,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out supervoxels that don't exist, rather than refuse.")
    ] = False,
    user: By = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Give supervoxels the bodies that a table names in columns supervoxel and body; others keep theirs.

    The change is seen all at once, at the end. A run that was killed goes on when started again.
    """
    from dvid_dask import ops

    target = _labelmap(store, version, instance, read_only=False)
    with cluster(workers, scheduler):
        say(str(ops.agglomerate(target, table, unknown="skip" if skip_unknown else "error", user=user)))


@app.command("split-by")
def split_by(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Path or URL of the other volume.", show_default=False)],
    offset: Annotated[
        str, typer.Option(metavar="X,Y,Z", help="Voxel of the instance at which the other's first one lies.")
    ] = "0,0,0",
    user: By = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Cut every supervoxel that lies under several labels of another segmentation; the parts stay in their body.

    The change is seen all at once, at the end. A run that was killed goes on when started again.
    """
    from dvid_dask import ops

    first = point(offset, "--offset")
    target = _labelmap(store, version, instance, read_only=False)
    with cluster(workers, scheduler):
        say(str(ops.split_by(target, other, offset=first, user=user)))


@app.command()
def edit(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    merges: TableOption = None,
    cleaves: TableOption = None,
    renumber: TableOption = None,
    user: By = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Merge, cleave and renumber bodies by table; all of it is seen at once, at the end.

    Columns: of merges target and merged, of cleaves body, supervoxel and group, of renumber old and new. Prints the new
    bodies that were cleaved off.
    """
    from dvid_dask import ops

    if merges is None and cleaves is None and renumber is None:
        raise BadRequest("nothing to do: name a table with --merges, --cleaves or --renumber")
    target = _labelmap(store, version, instance, read_only=False)
    with cluster(workers, scheduler):
        report = ops.edit(target, merges=merges, cleaves=cleaves, renumber=renumber, user=user)
    for row in report.cleaved.itertuples(index=False):
        print(row.body, row.group, row.new_body)
    say(str(report))
