"""Reference pages made from the code: mkdocs calls `on_page_markdown`, the tests call the functions themselves.

A page asks for its part with a line ``<!-- generated: NAME -->``, so what surrounds it is written by hand and what can
drift is not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import typer

from dvid_dask.api import AuthConfig, ServerConfig, nodes, repos, server
from dvid_dask.api.config import _WITHOUT_EFFECT, KafkaConfig, _File
from dvid_dask.api.faces import all_faces
from dvid_dask.api.routes import Route
from dvid_dask.cli.app import app

PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts into a page."""
    return PLACE.sub(lambda place: GENERATORS[place[1]](), markdown)


# ------------------------------------------------------------------ REST


def server_routes() -> Iterator[tuple[str, list[Route]]]:
    """The endpoints that belong to no datatype, by level."""
    yield "Server", [*server.silent.routes, *server.routes.routes]
    yield "Repositories", [*repos.top.routes, *repos.routes.routes]
    yield "Versions", nodes.routes.routes


def rest() -> str:
    """All endpoints: those of the server, of repositories, of versions, and of each datatype."""
    parts = []
    for level, routes in server_routes():
        parts.append(f"## {level}\n")
        parts += [_endpoint(route.method, route.path, route.handler) for route in routes]
    parts.append("## Data instances\n")
    parts.append("Every path below follows `/api/node/{uuid}/{instance}`.\n")
    for face in dict.fromkeys(all_faces().values()):
        parts.append(f"## {', '.join(face.typenames)}\n")
        parts.append(f"{_text(face.about)}\n")
        for keyword, doors in face.doors.items():
            for method, door in doors.items():
                parts.append(_endpoint("any" if method == "*" else method, f"/{keyword}{door.args}", door.handler))
    return "\n".join(parts)


def _endpoint(method: str, path: str, handler: Callable[..., Any]) -> str:
    return f"#### `{method} {path}`\n\n{_text(inspect.getdoc(handler) or '')}\n"


def _text(docstring: str) -> str:
    """A docstring as Markdown: reST's double backticks and indented blocks are Markdown too, roles are not."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring)
    text = text.replace("::\n\n", ":\n\n")
    return re.sub(r"``([^`]*)``", r"`\1`", text)


# ------------------------------------------------------------------ configuration


def configuration() -> str:
    """The keys of the TOML file that have a meaning, and DVID's keys that have none."""
    renamed = {"rwmode": "mode", "logfile": "log_file"}
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for section, key, kind in configuration_keys():
        defaults = {"kafka": KafkaConfig(), "auth": AuthConfig()}.get(section, ServerConfig())
        described = _attributes(inspect.getdoc(type(defaults)) or "")
        attributes = {name.replace("_", ""): name for name in described} | renamed
        attribute = attributes[key.replace("_", "")]
        meaning, default = described[attribute], f"`{getattr(defaults, attribute)!r}`"
        lines.append(f"| `{section}.{key}` | {kind} | {default} | {_text(meaning)} |")
    lines += ["", "Keys of DVID that are accepted with a warning:", "", "| key | why it has no effect |", "|---|---|"]
    lines += [f"| `{key}` | {_text(why)} |" for key, why in _WITHOUT_EFFECT.items()]
    return "\n".join(lines)


def configuration_keys() -> Iterator[tuple[str, str, str]]:
    """Section, key and type of every key that the schema knows."""
    for section in msgspec.structs.fields(_File):
        for key in msgspec.structs.fields(section.type):
            yield section.name, key.name, _kind(key.type)


def _kind(kind: Any) -> str:
    schema = msgspec.json.schema(kind)
    options = next(s for s in schema.get("anyOf", [schema]) if s.get("type") != "null")
    if "enum" in options:
        return " or ".join(f"`{value!r}`" for value in options["enum"])
    if options.get("type") == "array":
        return "list of strings"
    if options.get("type") == "object":
        return "table of strings"
    return str(options.get("type", ""))


def _attributes(docstring: str) -> dict[str, str]:
    """The Attributes section of a numpydoc docstring: name -> text."""
    section = docstring.partition("Attributes\n----------\n")[2]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
        elif line.strip():
            for name in names:
                found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


# ------------------------------------------------------------------ command line


def commands() -> str:
    """The help of every command."""
    root = typer.main.get_command(app)
    return "\n".join(f"## `{name}`\n\n```text\n{text}\n```\n" for name, text in command_help(root, "dvid-dask"))


def command_help(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Name and help text of a command and all below it."""
    context = command.context_class(command, info_name=name.rpartition(" ")[2], parent=parent)
    context.terminal_width = 100
    yield name, command.get_help(context).strip()
    for below, sub in getattr(command, "commands", {}).items():
        yield from command_help(sub, f"{name} {below}", context)


GENERATORS: dict[str, Callable[[], str]] = {"rest": rest, "configuration": configuration, "commands": commands}
