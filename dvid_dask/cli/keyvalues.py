"""Commands on a keyvalue instance: values in and out, one by one and in bulk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvid_dask.cli.console import Selector, StoreArgument, find_instance, say
from dvid_dask.cli.volumes import InstanceArgument, Scheduler, Workers, cluster
from dvid_dask.errors import NotFound

if TYPE_CHECKING:
    from dvid_dask.datatypes.keyvalue import KeyValue

app = typer.Typer(
    help="Keys and values: import and export, one value in or out, list of keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="The key.", show_default=False)]
Format = Annotated[
    str | None,
    typer.Option(help="directory, tar or parquet.  [default: told from the name; - is a tar]", show_default=False),
]


def _keyvalue(store: str, version: str, instance: str, *, read_only: bool) -> KeyValue:
    from dvid_dask.datatypes.keyvalue import KeyValue

    return find_instance(KeyValue, store, version, instance, read_only=read_only)


@app.command("import")
def import_(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Path or URL of a folder, a tar file or a Parquet table with columns key and value; - for a tar on "
            "standard input.",
            show_default=False,
        ),
    ],
    format: Format = None,
    prefix: Annotated[str, typer.Option(help="Put before every key.")] = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Read many values: all of them or none. A run that was killed goes on when started again, unless from a pipe."""
    from dvid_dask import ops

    target = _keyvalue(store, version, instance, read_only=False)
    given: Any = sys.stdin.buffer if source == "-" else source
    with cluster(workers, scheduler):
        say(str(ops.import_values(given, target, format=format, prefix=prefix, app="dvid-dask keyvalue import")))


@app.command("export")
def export(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="Path or URL of a folder that is new or empty, of a tar file, or of a .parquet folder; - for a tar on "
            "standard output.",
            show_default=False,
        ),
    ],
    format: Format = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    workers: Workers = 0,
    scheduler: Scheduler = None,
) -> None:
    """Write many values to files, a tar or a Parquet table; all are of one state of the version."""
    from dvid_dask import ops

    kv = _keyvalue(store, version, instance, read_only=True)
    if destination == "-":
        ops.export_values(kv, sys.stdout.buffer, format=format, prefix=prefix, progress=False)
        sys.stdout.buffer.flush()
        return
    with cluster(workers, scheduler):
        say(str(ops.export_values(kv, destination, format=format, prefix=prefix)))


@app.command()
def put(store: StoreArgument, version: Selector, instance: InstanceArgument, key: Key) -> None:
    """Set the value of a key to standard input."""
    kv = _keyvalue(store, version, instance, read_only=False)
    with kv.writer(key, app="dvid-dask keyvalue put") as out:
        while piece := sys.stdin.buffer.read(1 << 20):
            out.write(piece)


@app.command()
def get(store: StoreArgument, version: Selector, instance: InstanceArgument, key: Key) -> None:
    """Write the value of a key to standard output."""
    value = _keyvalue(store, version, instance, read_only=True).value(key)
    if value is None:
        raise NotFound(f"no key {key!r} in {instance!r}")
    for piece in value.pieces():
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@app.command("keys")
def keys_(
    store: StoreArgument,
    version: Selector,
    instance: InstanceArgument,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    sizes: Annotated[bool, typer.Option("--sizes", help="The bytes of each value before its key.")] = False,
) -> None:
    """Print the keys, one a line, in order."""
    kv = _keyvalue(store, version, instance, read_only=True)
    for key, size in kv.sizes(prefix or None):
        if not key.startswith(prefix):
            return
        sys.stdout.write(f"{size}\t{key}\n" if sizes else f"{key}\n")
