"""Commands on annotations: elements in and out by table, lists made anew, everything removed, counts by body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
from dvid_dask.cli.labels import By, Folder
from dvid_dask.cli.volumes import InstanceArgument, Scheduler, Workers, cluster

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvid_dask.datatypes.annotation import Annotation, Elements
    from dvid_dask.datatypes.labelsz import LabelSize

app = typer.Typer(
    help="Annotations: elements from tables and to tables, by body and tag; lists made anew; counts by body.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TableOfElements = Annotated[
    str,
    typer.Argument(
        metavar="TABLE", help="Path or URL of .parquet or .csv: a file, a folder, a pattern.", show_default=False
    ),
]


def _annotation(store: str, version: str, instance: str, *, read_only: bool) -> Annotation:
    from dvid_dask.datatypes.annotation import Annotation

    return find_instance(Annotation, store, version, instance, read_only=read_only)


def _labelsz(store: str, version: str, instance: str, *, read_only: bool) -> LabelSize:
    from dvid_dask.datatypes.labelsz import LabelSize

    return find_instance(LabelSize, store, version, instance, read_only=read_only)


@app.command()
def load(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    table: TableOfElements,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Of rows at one position take the last, rather than refuse the table.")
    ] = False,
    user: By = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Add the elements of a table: columns x, y, z and maybe kind, tags, prop, prop.NAME, rels.

    They are seen all at once, at the end. A run that was killed goes on when started again.
    """
    from dvid_dask import ops

    target = _annotation(store, version, instance, read_only=False)
    with cluster(workers, scheduler):
        say(str(ops.load_elements(table, target, duplicates="last" if keep_last else "error", user=user)))


@app.command()
def export(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    folder: Folder,
    bodies: Annotated[bool, typer.Option("--bodies", help="Add the body and supervoxel of each element.")] = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write all elements to a folder of Parquet files, which ``load`` takes."""
    from dvid_dask import ops

    source = _annotation(store, version, instance, read_only=True)
    with cluster(workers, scheduler):
        say(str(ops.export_elements(source, folder, bodies=bodies)))


@app.command()
def body(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    label: Annotated[int, typer.Argument(metavar="BODY", help="Id of a body.", show_default=False)],
) -> None:
    """Print the elements in a body, one JSON object a line."""
    _print(_annotation(store, version, instance, read_only=True).listed(label))


@app.command()
def tag(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    text: Annotated[str, typer.Argument(metavar="TAG", help="The tag.", show_default=False)],
) -> None:
    """Print the elements with a tag, one JSON object a line."""
    _print(_annotation(store, version, instance, read_only=True).tagged(text))


def _print(parts: Iterable[Elements]) -> None:
    from dvid_dask.datatypes.annotation.parsing import listed_json

    for part in parts:
        for line in listed_json(part):
            say(line.decode())


@app.command()
def info(store: StoreArgument, version: Selector, instance: InstanceArgument, json: JsonFlag = False) -> None:
    """Say how many elements there are, of which kinds and in how many bodies, and whether lists need a reload."""
    from dvid_dask.datatypes.annotation import KINDS

    annotation = _annotation(store, version, instance, read_only=True)
    source = annotation.source
    bodies, filed = 0, [0] * len(KINDS)
    for labels, counts in annotation.label_counts():
        bodies += len(labels)
        filed = [a + b for a, b in zip(filed, counts.sum(axis=0).tolist(), strict=True)]
    facts = {
        "follows": source.info.name if source is not None else None,
        "block": list(annotation.block_shape[::-1]),
        "blocks": annotation.block_count(),
        "elements": sum(len(held) for _, held, _ in annotation.scan()),
        "bodies": bodies,
        "in bodies": dict(zip(KINDS, filed, strict=True)),
        "tags": sum(1 for _ in annotation.tag_names()),
        "needs reload": annotation.needs_reload,
    }
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        say(f"{name:13} {shown}")


@app.command()
def reload(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    check: Annotated[bool, typer.Option("--check", help="Compare all lists, and write those that differ.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="Make all lists anew, with Dask: for any size.")] = False,
    user: By = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Make the lists of bodies and tags anew where they aren't what elements and segmentation say.

    Lists follow every edit by themselves; this is for an annotation that follows another segmentation than before, and
    for merged versions.
    """
    from dvid_dask import ops

    target = _annotation(store, version, instance, read_only=False)
    if whole:
        with cluster(workers, scheduler):
            say(str(ops.reload_elements(target, user=user)))
        return
    made = target.reload(check=check, user=user)
    say("all lists made anew" if made < 0 else f"{made:,} lists made anew")


@app.command("delete-all")
def delete_all(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    user: By = "",
) -> None:
    """Remove all elements at a version."""
    target = _annotation(store, version, instance, read_only=False)
    if not yes:
        typer.confirm(f"Remove all elements of {instance!r} at version {target.version.uuid}?", abort=True)
    target.delete_all(user=user)
    say("removed")


@app.command()
def top(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    index_type: Annotated[str, typer.Argument(metavar="TYPE", help="PostSyn, PreSyn, Gap, Note or AllSyn.")] = "AllSyn",
    number: Annotated[int, typer.Option("-n", help="How many bodies.", min=0)] = 20,
    json: JsonFlag = False,
) -> None:
    """The bodies with most elements of a type, counted by a labelsz."""
    found = _labelsz(store, version, instance, read_only=True).top(number, index_type)
    rows = list(zip(found.label.tolist(), found.size.tolist(), strict=True))
    if json:
        print_json([{"Label": label, "Size": size} for label, size in rows])
    else:
        print_table(["body", index_type], [[str(label), f"{size:,}"] for label, size in rows])


@app.command()
def recount(store: StoreArgument, version: Selector, instance: InstanceArgument, user: By = "") -> None:
    """Count anew what the annotations hold that a labelsz follows, and put right what differs."""
    say(f"{_labelsz(store, version, instance, read_only=False).recount(user=user):,} bodies put right")
