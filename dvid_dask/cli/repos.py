"""``dvid-dask repo``: repositories."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dvid_dask.cli.console import JsonFlag, StoreArgument, find_repo, open_store, print_json, print_table, say
from dvid_dask.versions import Repo

app = typer.Typer(help="Repositories: make, list, show, log.", no_args_is_help=True, rich_markup_mode=None)

RepoArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[REPO]", help="Alias, or a unique beginning of any of its UUIDs; not needed where there is only one."
    ),
]


@app.command()
def new(
    store: StoreArgument,
    alias: Annotated[str, typer.Argument(metavar="[ALIAS]", help="Short name.")] = "",
    description: Annotated[str, typer.Option(help="What it holds.")] = "",
    root: Annotated[str | None, typer.Option(help="UUID of its root version; a random one by default.")] = None,
    passcode: Annotated[str, typer.Option(help="Asked for before anything in it may be deleted or renamed.")] = "",
) -> None:
    """Make a repository and print the UUID of its root version."""
    say(open_store(store).new_repo(alias, description, root, passcode).root)


@app.command("list")
def list_(store: StoreArgument, json: JsonFlag = False) -> None:
    """List the repositories."""
    repos = list(open_store(store, read_only=True).repos.values())
    if json:
        print_json([summary(r) for r in repos])
        return
    print_table(
        ("root", "alias", "versions", "branches", "instances", "description"),
        (
            (r.root[:12], r.alias, len(r.versions), ", ".join(r.branches), ", ".join(r.instances), r.description)
            for r in repos
        ),
        right=[2],
    )


@app.command()
def info(store: StoreArgument, repo: RepoArgument = None, json: JsonFlag = False) -> None:
    """Show a repository: its versions as a tree, its data instances. --json prints what the REST API answers."""
    found = find_repo(open_store(store, read_only=True), repo)
    if json:
        print_json(found.to_json())
        return
    say(f"repository {found.root}" + (f"  {found.alias}" if found.alias else ""))
    if found.description:
        say(found.description)
    say()
    print_table(
        ("version", "branch", "state", "parents", "made", "note"),
        (
            (
                v.uuid[:12],
                v.branch,
                "committed" if v.locked else "open",
                ", ".join(p.uuid[:12] for p in v.parents),
                v.created.strftime("%Y-%m-%d %H:%M"),
                v.note,
            )
            for v in found.versions.values()
        ),
    )
    say()
    print_table(
        ("instance", "type", "versioned", "made at", "data UUID"),
        (
            (i.name, i.typename, "yes" if i.versioned else "no", i.created_at[:12], i.data_uuid)
            for i in found.instances.values()
        ),
    )


@app.command()
def log(
    store: StoreArgument,
    repo: RepoArgument = None,
    add: Annotated[list[str] | None, typer.Option(help="Append this line; may be given again.")] = None,
    json: JsonFlag = False,
) -> None:
    """Print a repository's log, or append to it."""
    found = find_repo(open_store(store, read_only=not add), repo)
    if add:
        found.add_log(add)
    elif json:
        print_json({"log": found.log})
    else:
        for line in found.log:
            say(line)


@app.command("set")
def set_(
    store: StoreArgument,
    repo: RepoArgument = None,
    alias: Annotated[str | None, typer.Option(help="New alias.")] = None,
    description: Annotated[str | None, typer.Option(help="New description.")] = None,
) -> None:
    """Change a repository's alias or description."""
    if alias is None and description is None:
        raise typer.BadParameter("give --alias, --description, or both")
    find_repo(open_store(store), repo).set_info(alias=alias, description=description)


@app.command("rename-instance")
def rename_instance(
    store: StoreArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Alias or UUID.")],
    old: Annotated[str, typer.Argument(metavar="OLD", help="Name it has.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name it gets.")],
    passcode: Annotated[str, typer.Option(help="The repository's, where it has one.")] = "",
) -> None:
    """Rename a data instance, in all versions."""
    find_repo(open_store(store), repo).rename_instance(old, new, passcode)


@app.command("delete-instance")
def delete_instance(
    store: StoreArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Alias or UUID.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    passcode: Annotated[str, typer.Option(help="The repository's, where it has one.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete a data instance with its data in all versions. There is no way back."""
    found = find_repo(open_store(store), repo)
    if name in found.instances:
        _sure(yes, f"Delete {name} and all its data from {_called(found)}?")
    found.delete_instance(name, passcode)


@app.command()
def delete(
    store: StoreArgument,
    repo: Annotated[str, typer.Argument(metavar="ROOT", help="The whole UUID of its root version.")],
    passcode: Annotated[str, typer.Option(help="The repository's, where it has one.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete a repository with all its versions and data. There is no way back."""
    datastore = open_store(store)
    found = datastore.repos[repo]
    _sure(yes, f"Delete {_called(found)} with {len(found.versions)} versions?")
    datastore.delete_repo(repo, passcode)


def summary(repo: Repo) -> dict[str, Any]:
    """A repository in a few words, for ``--json``."""
    return {
        "root": repo.root,
        "alias": repo.alias,
        "description": repo.description,
        "created": repo.created,
        "updated": repo.updated,
        "versions": len(repo.versions),
        "branches": {name: version.uuid for name, version in repo.branches.items()},
        "instances": {i.name: i.typename for i in repo.instances.values()},
    }


def _called(repo: Repo) -> str:
    return f"repository {repo.alias or repo.root[:12]}"


def _sure(yes: bool, question: str) -> None:
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)
