"""What all commands share: opening stores, finding versions, printing, and turning errors into one line."""

from __future__ import annotations

import json as jsonlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

import dvid_dask
from dvid_dask.datatypes.base import Datatype
from dvid_dask.errors import BadRequest, UnknownVersion
from dvid_dask.versions import Datastore, Repo
from dvid_dask.versions.finding import find_version

__all__ = [
    "JsonFlag",
    "Selector",
    "StoreArgument",
    "find_instance",
    "find_repo",
    "find_version",
    "human_bytes",
    "open_store",
    "print_json",
    "print_table",
    "run",
    "say",
]

T = TypeVar("T")
D = TypeVar("D", bound=Datatype)

StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="Path or URL (file://, s3://, gs://) of the store.", show_default=False)
]
Selector = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        help="A UUID or a unique beginning of one, UUID:BRANCH, ALIAS:BRANCH, or in a store with one repository "
        "BRANCH; ~N after a branch counts back from its newest version.",
        show_default=False,
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]

out = Console(soft_wrap=True, highlight=False)


def run(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run a typer application; the exit status. Errors are one line on stderr, unless ``--debug`` is given.

    Status 1 is a command that failed, 2 one that was put wrongly, 130 one that was interrupted.
    """
    debug = "--debug" in arguments
    # taken wherever it stands: whoever repeats a command to see the error appends it
    arguments = [a for a in arguments if a != "--debug"]
    try:
        app(args=arguments, prog_name="dvid-dask", standalone_mode=True)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except KeyboardInterrupt:
        print("dvid-dask: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or "no message"
        kind = "" if isinstance(error, _expected()) else f"{type(error).__name__}: "
        hint = "" if isinstance(error, _expected()) else " (--debug shows where)"
        print(f"dvid-dask: {kind}{message}{hint}", file=sys.stderr)
        return 1
    return 0


def _expected() -> tuple[type[Exception], ...]:
    from dvid_dask.store import StoreError

    return dvid_dask.errors.DvidError, StoreError, OSError, ValueError, ImportError


def open_store(store: str, *, read_only: bool = False, compact: str = "never") -> Datastore:
    """The datastore at a path or URL.

    Nothing is compacted in the background: a command should end when its work is done.
    """
    return dvid_dask.open(store, read_only=read_only, compact=compact)


def find_instance(kind: type[D], store: str, version: str, name: str, *, read_only: bool) -> D:
    """An instance at a version of a store, which must be of this kind."""
    found = find_version(open_store(store, read_only=read_only), version)[name]
    if not isinstance(found, kind):
        wanted = kind.typename or "volume of labels"
        article = "an" if wanted[0] in "aeiou" else "a"
        raise BadRequest(f"{name!r} is a {found.typename}, not {article} {wanted}")
    return found


def find_repo(datastore: Datastore, selector: str | None) -> Repo:
    """The repository of an alias, a root UUID or any version; without a selector the only one."""
    if selector is None:
        repos = list(datastore.repos.values())
        if len(repos) == 1:
            return repos[0]
        if not repos:
            raise UnknownVersion(f"{datastore.url} holds no repository yet: make one with `dvid-dask repo new`")
        known = ", ".join(r.alias or r.root[:12] for r in repos)
        raise BadRequest(f"{datastore.url} holds {len(repos)} repositories: say which one of {known}")
    try:
        return datastore.repo(selector)
    except UnknownVersion:
        return datastore.repos.named(selector)


def say(text: str = "") -> None:
    """Print a line."""
    out.print(text, markup=False)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    print(jsonlib.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (set, tuple, frozenset)):
        return list(value)
    return str(value)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> None:
    """Print a table; columns named in `right` are numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    numbers = set(right)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(cell) for cell in row))
    out.print(table)


def _escaped(cell: object) -> str:
    from rich.markup import escape

    return escape(str(cell))


def human_bytes(n: float) -> str:
    """A size for people.

    Examples
    --------
    >>> human_bytes(512), human_bytes(2_500_000)
    ('512 B', '2.5 MB')
    """
    if n < 1000:
        return f"{n:.0f} B"
    units = ["kB", "MB", "GB", "TB", "PB"]
    power = min(len(units), int(math.log10(n)) // 3)
    return f"{n / 1000**power:.1f} {units[power - 1]}"
