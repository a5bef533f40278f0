"""Commands on a store as a whole: make it, look at it, serve it, keep it tidy."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

import dvid_dask
from dvid_dask.cli.console import JsonFlag, StoreArgument, human_bytes, open_store, print_json, print_table, say
from dvid_dask.cli.repos import summary
from dvid_dask.errors import DvidError

__all__ = ["compact", "fsck", "gc", "info", "init", "serve"]


def init(
    store: StoreArgument,
    compression: Annotated[
        int, typer.Option(help="zstd level of the pool's files; chunks are compressed already.", min=-7, max=22)
    ] = 0,
) -> None:
    """Make a new, empty store."""
    made = dvid_dask.create(store, compression_level=compression)
    say(f"made {made.url}")


def serve(
    store: StoreArgument,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [default: the configuration's, else 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port; 0 takes a free one.  [default: the configuration's, else 8000]", min=0, max=65535),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with DVID's keys.", dir_okay=False, show_default=False)
    ] = None,
    readonly: Annotated[bool, typer.Option("--readonly", help="Refuse every change.")] = False,
    fullwrite: Annotated[bool, typer.Option("--fullwrite", help="Let clients write to committed versions.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log a line for each request.")] = False,
    processes: Annotated[
        int, typer.Option(help="Processes that serve, on one port: as many as cores for many small requests.", min=1)
    ] = 1,
) -> None:
    """Serve a store over DVID's REST API until told to stop (Ctrl-C or SIGTERM).

    DVID_ADMIN_TOKEN in the environment is the token that grants admin rights.
    """
    from dvid_dask.api import ServerConfig, load_config
    from dvid_dask.api import serve as serve_store
    from dvid_dask.api.serve import start_logging

    if readonly and fullwrite:
        raise typer.BadParameter("--readonly and --fullwrite exclude each other")
    start_logging(ServerConfig())
    settings = load_config(config) if config else ServerConfig()
    mode = "readonly" if readonly else "fullwrite" if fullwrite else settings.mode
    settings = msgspec.structs.replace(settings, mode=mode, access_log=access_log or settings.access_log)
    start_logging(settings)
    serve_store(store, host, port, settings, processes=processes)


def info(store: StoreArgument, json: JsonFlag = False) -> None:
    """Show what is in a store, and how large it is."""
    datastore = open_store(store, read_only=True)
    repos = list(datastore.repos.values())
    trees = datastore.store.trees()
    size = _size_on_disk(datastore.url)
    if json:
        report: dict[str, Any] = {
            "url": datastore.url,
            "settings": msgspec.to_builtins(datastore.store.settings),
            "trees": len(trees),
            "repositories": [summary(r) for r in repos],
        }
        if size:
            report |= {"files": size[0], "bytes": size[1]}
        print_json(report)
        return
    say(f"{datastore.url}: {len(repos)} repositories, {len(trees)} trees")
    if size:
        say(f"{size[0]} files, {human_bytes(size[1])} on disk")
    if repos:
        say()
        print_table(
            ("root", "alias", "versions", "branches", "instances"),
            (
                (
                    r.root[:12],
                    r.alias,
                    len(r.versions),
                    ", ".join(r.branches),
                    ", ".join(f"{i.name} [{i.typename}]" for i in r.instances.values()),
                )
                for r in repos
            ),
            right=[2],
        )


def _size_on_disk(url: str) -> tuple[int, int] | None:
    """Files and bytes of a store in a local folder."""
    folder = Path(url.removeprefix("file://"))
    if not folder.is_dir():
        return None
    sizes = [os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


def compact(store: StoreArgument) -> None:
    """Rewrite the files of committed versions into few large ones. May be killed and run again."""
    done = open_store(store).compact()
    say(f"{len(done)} versions compacted")


def gc(
    store: StoreArgument,
    grace: Annotated[
        float, typer.Option(help="Seconds that something must have been unreferenced before it goes.", min=0)
    ] = 3600.0,
    json: JsonFlag = False,
) -> None:
    """Remove files that nothing refers to any more.

    Those are rests of crashes, of deleted repositories and instances, and what compaction has replaced.

    Keep the grace time longer than the longest job that works on the store at this moment.
    """
    _print_report(open_store(store).gc(grace), json)


def fsck(
    store: StoreArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Finish what killed processes began.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out contents, which take longest.")] = False,
    json: JsonFlag = False,
) -> None:
    """Check a store: its files, its metadata, and that the contents of each version agree; exit status 1 where not.

    Of a labelmap: the label index counts the voxels, the mapping and the index tell the same, sums are those of their
    parts, coarser scales are made of scale 0.
    """
    datastore = open_store(store, read_only=not repair)
    metadata = datastore.repair() if repair else datastore.check()
    files = datastore.store.fsck()
    reports = {"metadata": _plain(metadata), "files": _plain(files)}
    agrees = True
    if files.clean and not quick:
        contents = datastore.check_contents()
        reports["contents"] = _plain(contents)
        agrees = contents.ok
    if json:
        print_json(reports)
    else:
        for name, report in reports.items():
            say(f"{name}:")
            _print_facts(report, "  ")
    if not (metadata.ok and files.clean):
        raise DvidError(f"{datastore.url} is damaged: see what is listed above")
    if not agrees:
        raise DvidError(
            f"{datastore.url} is whole, but contents disagree: see what is listed above. Clients that load blocks, "
            "indices and scales separately may have asked for that"
        )
    if metadata.unfinished and not json:
        say("Nothing is damaged. What is unfinished, `dvid-dask fsck --repair` finishes.")


def _print_report(report: Any, json: bool) -> None:
    if json:
        print_json(_plain(report))
    else:
        _print_facts(_plain(report), "")


def _print_facts(report: dict[str, Any], indent: str) -> None:
    for key, value in report.items():
        name = key.replace("_", " ")
        if isinstance(value, (list, tuple)):
            say(f"{indent}{name}: {len(value)}" if value else f"{indent}{name}: none")
            for line in value:
                say(f"{indent}  {line}")
        elif "bytes" in key:
            say(f"{indent}{name}: {human_bytes(value)}")
        else:
            say(f"{indent}{name}: {value}")


def _plain(report: Any) -> dict[str, Any]:
    """A report as a dictionary of its fields."""
    if dataclasses.is_dataclass(report) and not isinstance(report, type):
        return {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
    if isinstance(report, msgspec.Struct):
        return {f.name: getattr(report, f.name) for f in msgspec.structs.fields(report)}
    return dict(report._asdict())
