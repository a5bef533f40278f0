"""``dvid-dask node`` and ``dvid-dask diff``: versions and the data instances in them."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Annotated, Any

import typer

from dvid_dask.cli.console import (
    JsonFlag,
    Selector,
    StoreArgument,
    find_version,
    open_store,
    print_json,
    print_table,
    say,
)
from dvid_dask.errors import BadRequest

app = typer.Typer(
    help="Versions: commit, branch, log; data instances in them.", no_args_is_help=True, rich_markup_mode=None
)

Note = Annotated[str, typer.Option("--note", "-m", help="Note of the version.")]
Uuid = Annotated[str | None, typer.Option("--uuid", help="UUID of the new version, 32 hex digits; random by default.")]


@app.command("new-instance")
def new_instance(
    store: StoreArgument,
    version: Selector,
    typename: Annotated[str, typer.Argument(metavar="TYPE", help="Datatype, as labelmap, uint8blk, keyvalue.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, unique in the repository.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as BlockSize=64,64,64 or Versioned=false."),
    ] = None,
) -> None:
    """Make a data instance; it is seen from all versions of the repository."""
    config = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{setting!r} is no KEY=VALUE")
        config[key] = value
    at = find_version(open_store(store), version)
    made = at.repo.new_instance(typename, name, config, at=at)
    say(f"{made.name} [{made.typename}] {made.info.data_uuid}")


@app.command()
def info(store: StoreArgument, version: Selector, json: JsonFlag = False) -> None:
    """Show a version and the data instances seen from it."""
    v = find_version(open_store(store, read_only=True), version)
    facts: dict[str, Any] = {
        "uuid": v.uuid,
        "id": v.id,
        "repo": v.repo.root,
        "branch": v.branch,
        "locked": v.locked,
        "note": v.note,
        "parents": [p.uuid for p in v.parents],
        "children": [c.uuid for c in v.children],
        "created": v.created,
        "updated": v.updated,
    }
    if json:
        print_json({**facts, "instances": {name: v[name].describe() for name in v}})
        return
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        say(f"{key:9} {shown}")
    say()
    print_table(("instance", "type", "settings"), ((name, v[name].typename, _shown(v[name].extended())) for name in v))


def _shown(extended: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in extended.items() if isinstance(v, (str, int, float, bool, list)))


@app.command()
def commit(
    store: StoreArgument,
    version: Selector,
    note: Note = "",
    log: Annotated[list[str] | None, typer.Option("--log", help="Line for its log; may be given again.")] = None,
    compact: Annotated[bool, typer.Option(help="Rewrite its files into few large ones, too.")] = True,
) -> None:
    """Lock a version for ever."""
    v = find_version(open_store(store, compact="now" if compact else "never"), version)
    v.commit(note, log or ())
    say(v.uuid)


@app.command()
def newversion(store: StoreArgument, version: Selector, note: Note = "", uuid: Uuid = None) -> None:
    """Make the next version on the branch of a committed one and print its UUID."""
    say(find_version(open_store(store), version).newversion(note, uuid).uuid)


@app.command()
def branch(
    store: StoreArgument,
    version: Selector,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new branch.")],
    note: Note = "",
    uuid: Uuid = None,
) -> None:
    """Branch off a committed version and print the UUID of the new one."""
    say(find_version(open_store(store), version).new_branch(name, note, uuid).uuid)


@app.command()
def tag(
    store: StoreArgument,
    version: Selector,
    name: Annotated[str, typer.Argument(metavar="TAG", help="Text that names the version from now on.")],
    note: Note = "",
) -> None:
    """Name a committed version for ever."""
    say(find_version(open_store(store), version).tag(name, note).uuid)


@app.command()
def note(
    store: StoreArgument,
    version: Selector,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The new note.")] = None,
) -> None:
    """Print a version's note, or replace it."""
    v = find_version(open_store(store, read_only=text is None), version)
    if text is None:
        say(v.note)
    else:
        v.set_note(text)


@app.command()
def log(
    store: StoreArgument,
    version: Selector,
    add: Annotated[list[str] | None, typer.Option(help="Append this line; may be given again.")] = None,
    json: JsonFlag = False,
) -> None:
    """Print a version's log, or append to it."""
    v = find_version(open_store(store, read_only=not add), version)
    if add:
        v.add_log(add)
    elif json:
        print_json({"log": v.log})
    else:
        for line in v.log:
            say(line)


@app.command()
def merge(
    store: StoreArgument,
    parents: Annotated[
        list[str], typer.Argument(metavar="PARENT PARENT...", help="Committed versions of one repository.")
    ],
    note: Note = "",
) -> None:
    """Join committed versions into a new open one on master; conflicts are printed, exit status 1."""
    if len(parents) < 2:
        raise typer.BadParameter("at least two versions are needed")
    datastore = open_store(store)
    versions = [find_version(datastore, p) for p in parents]
    merged = versions[0].repo.merge(versions, note)
    say(merged.uuid)
    conflicts = list(islice(iter(merged.conflicts), 11))
    if conflicts:
        for conflict in conflicts[:10]:
            typer.echo(f"conflict: {conflict}", err=True)
        raise BadRequest(
            f"contradictions between the sides: {len(merged.conflicts):,}. In {merged.uuid[:12]} types that merge by "
            "meaning keep the first parent's; other keys are absent: write them again there"
        )


def diff(
    store: StoreArgument,
    a: Annotated[str, typer.Argument(metavar="FROM", help="A version.")],
    b: Annotated[str, typer.Argument(metavar="TO", help="Another version of the same repository.")],
    instance: Annotated[str | None, typer.Option(help="Only this data instance.")] = None,
    limit: Annotated[int, typer.Option(help="Most changes to list per instance; 0 lists none.", min=0)] = 20,
    json: JsonFlag = False,
) -> None:
    """Show what differs between two versions, key by key. Costs what differs, not what there is."""
    datastore = open_store(store, read_only=True)
    found = find_version(datastore, a).diff(find_version(datastore, b), instance=instance)
    report: dict[str, Any] = {}
    for name in found:
        count: Counter[str] = Counter()
        listed: list[tuple[str, Any]] = []
        for change in found[name]:
            if len(listed) < limit:
                listed.append((change.kind, change.what))
            count[change.kind] += 1
        if count:
            report[name] = {"added": 0, "removed": 0, "changed": 0, **count, "changes": listed}
    if json:
        for entry in report.values():
            entry["changes"] = [{"kind": kind, "what": what} for kind, what in entry["changes"]]
        print_json(report)
        return
    if not report:
        say("no difference")
    for name, entry in report.items():
        say(f"{name}: {entry['added']} added, {entry['removed']} removed, {entry['changed']} changed")
        for kind, what in entry["changes"]:
            say(f"  {kind:8} {what}")
        hidden = entry["added"] + entry["removed"] + entry["changed"] - len(entry["changes"])
        if hidden and limit:
            say(f"  ... and {hidden} more")
