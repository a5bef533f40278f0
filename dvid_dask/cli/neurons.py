"""Commands on a neuronjson: annotations in from files and other instances, queries, what versions changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dvid_dask.cli.console import Selector, StoreArgument, find_instance, print_json, say
from dvid_dask.cli.volumes import InstanceArgument
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from dvid_dask.datatypes.neuronjson import NeuronJSON

app = typer.Typer(
    help="Annotations of neurons: put, ingest, import, query, what versions changed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_APP = "dvid-dask neurons"
User = Annotated[str, typer.Argument(metavar="USER", help="Who sets the fields.", show_default=False)]
Replace = Annotated[bool, typer.Option("--replace", help="Fields that aren't given go.")]


def _neurons(store: str, version: str, instance: str, *, read_only: bool) -> NeuronJSON:
    from dvid_dask.datatypes.neuronjson import NeuronJSON

    return find_instance(NeuronJSON, store, version, instance, read_only=read_only)


@app.command()
def put(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    body: Annotated[str, typer.Argument(metavar="BODY", help="Body id, or name of a document.", show_default=False)],
    user: User,
    replace: Replace = False,
) -> None:
    """Set fields of one annotation: a JSON object on standard input, with bodyid."""
    data = sys.stdin.buffer.read()
    neurons = _neurons(store, version, instance, read_only=False)
    if body in ("json_schema", "schema", "schema_batch"):
        neurons.set_document(body, data, user=user, app=_APP)
    elif not body.isascii() or not body.isdigit():
        raise BadRequest(f"{body!r} is no body id")
    else:
        neurons.put_many([(int(body), data)], user=user, app=_APP, replace=replace, action="postneuronjson")
    say(f"{len(data)} bytes for {body} in {instance} at {neurons.version.uuid}")


@app.command()
def ingest(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".json, .jsonl, .parquet or .csv.", exists=True, dir_okay=False)
    ],
    user: User,
    replace: Replace = False,
    conditional: Annotated[str, typer.Option(help="Fields, as a,b, that are set only where there is none.")] = "",
) -> None:
    """Set fields of many annotations, in commits of 5,000.

    JSON is a list of objects, or one on each line; a table has a row for each, and its empty cells are left out. All
    have bodyid. If one can't be taken, those of the commits before it stay.
    """
    from dvid_dask import ops

    neurons = _neurons(store, version, instance, read_only=False)
    fields = conditional.split(",") if conditional else ()
    count = ops.ingest_annotations(neurons, file, user=user, app=_APP, replace=replace, conditional=fields)
    say(f"{count} annotations")


@app.command("import-kv")
def import_kv(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    keyvalue: Annotated[str, typer.Argument(metavar="KEYVALUE", help="Name of a keyvalue.", show_default=False)],
) -> None:
    """Copy the annotations that a keyvalue holds at this version, with the stamps that they have."""
    from dvid_dask import ops

    neurons = _neurons(store, version, instance, read_only=False)
    count, skipped = ops.import_keyvalue(neurons, neurons.version[keyvalue], app=_APP)
    say(f"{count} annotations")
    if skipped:
        say(f"{len(skipped)} keys are no body ids: {', '.join(skipped[:10])}")


@app.command("version-changes")
def version_changes(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made if it isn't there.", show_default=False)],
) -> None:
    """Write what each version up to this one changed, as FOLDER/UUID.json."""
    from dvid_dask import ops

    for uuid, count in ops.version_changes(_neurons(store, version, instance, read_only=True), folder).items():
        say(f"{uuid}  {count}")


@app.command()
def query(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    question: Annotated[
        str, typer.Argument(metavar="JSON", help='As {"type": "re/^KC", "size": "exists/1"}.', show_default=False)
    ],
    fields: Annotated[str, typer.Option(help="Only these fields, as a,b.")] = "",
    show: Annotated[str, typer.Option(help="Stamps to show: user, time or all.")] = "",
) -> None:
    """Print the annotations that a query finds, as JSON."""
    from dvid_dask.api.face import decode_json

    neurons = _neurons(store, version, instance, read_only=True)
    wanted = fields.split(",") if fields else None
    print_json(neurons.query(decode_json(question.encode()), fields=wanted, show=show))
