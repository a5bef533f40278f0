"""Keywords that many datatypes answer in the same way; a face takes them with ``common=(...)``.

``help`` and ``info`` belong to every face. A face's own handler of the same keyword and method wins.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dvid_dask.errors import BadRequest
from dvid_dask.versions.records import rfc3339

from .face import ANY, Call, Face
from .responses import empty, encode_json, json, octets, stream, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from starlette.responses import Response

    from dvid_dask.versions.undo import UndoRecord

__all__ = ["COMMON", "complete", "help_text", "undoable"]

COMMON: dict[str, Face] = {
    name: Face(f"({name})")
    for name in ("help", "info", "tags", "sync", "mutations", "metadata", "resolution", "extents")
}


def complete(face: Face) -> Face:
    """Add the common handlers that a face asked for and doesn't have itself."""
    for name in ("help", "info", *sorted(face.common)):
        if name not in COMMON:
            raise ValueError(f"{face!r}: no common keyword {name!r}; there are {', '.join(sorted(COMMON))}")
        for door in COMMON[name].all_doors():
            own = face.doors.setdefault(door.keyword, {})
            own.setdefault(door.method, door)
    return face


def help_text(face: Face, typename: str) -> str:
    """The reference of a datatype's endpoints, from the docstrings of its handlers."""
    lines = [f"{typename}", "=" * len(typename), "", *_paragraph(face.about), ""]
    for doors in face.doors.values():
        for handler, group in _grouped(doors.values()):
            methods = ", ".join("any method" if d.method == ANY else d.method for d in group)
            door = group[0]
            lines.append(f"{methods}  /api/node/<uuid>/<instance>/{door.keyword}{door.args}")
            lines += [f"    {line}".rstrip() for line in _paragraph(handler.__doc__ or "")]
            lines.append("")
    return "\n".join(lines)


def _grouped(doors: Iterable[Any]) -> list[tuple[Any, list[Any]]]:
    groups: dict[int, tuple[Any, list[Any]]] = {}
    for door in doors:
        groups.setdefault(id(door.handler), (door.handler, []))[1].append(door)
    return list(groups.values())


def _paragraph(doc: str) -> list[str]:
    """A docstring's lines without its indentation and its role marks."""
    lines = doc.strip().splitlines()
    margin = min((len(x) - len(x.lstrip()) for x in lines[1:] if x.strip()), default=0)
    plain = [lines[0].strip(), *(x[margin:].rstrip() for x in lines[1:])] if lines else []
    return [re.sub(r":\w+:`~?([^`]+)`", r"\1", x).replace("``", "") for x in plain]


@COMMON["help"].any("help")
def get_help(call: Call) -> Response:
    """The text at hand."""
    from .faces import face_of

    typename = call.datatype.typename
    return text(help_text(face_of(typename), typename) + "\n")


@COMMON["info"].any("info")
def get_info(call: Call) -> Response:
    """Type, settings, syncs and tags of the instance, as JSON: ``{"Base": ..., "Extended": ...}``."""
    return json(call.datatype.describe())


@COMMON["tags"].any("tags")
def get_tags(call: Call) -> Response:
    """The instance's tags, as JSON: ``{"Tags": {...}}``; null before any was set."""
    return json({"Tags": call.datatype.info.tags})


@COMMON["tags"].post("tags")
def post_tags(call: Call) -> Response:
    """Add tags from a JSON object of strings; with ``?replace=true`` they replace all that there are.

    Tags belong to the instance, not to a version.
    """
    data = call.body.all(limit=1 << 24)
    tags = decode_tags(data) if data else {}
    call.datatype.set_tags(tags, replace=call.flag("replace"), force=call.force)
    return empty()


def decode_tags(data: bytes) -> dict[str, str]:
    """The body of ``POST tags``."""
    from .face import decode_json

    return decode_json(data, dict[str, str] | None) or {}  # type: ignore[arg-type]


@COMMON["sync"].post("sync")
def post_sync(call: Call) -> Response:
    """Let this instance follow others: JSON ``{"sync": "name1,name2"}``.

    They are added to those it follows already, or replace them with ``?replace=true``; an empty text then ends all.
    """
    given = call.json(dict[str, str | None], limit=1 << 20)
    if "sync" not in given:
        raise BadRequest('expected JSON {"sync": "name1,name2"}')
    names = given["sync"]
    call.datatype.set_syncs(names.split(",") if names else [], replace=call.flag("replace"), force=call.force)
    return empty()


@COMMON["mutations"].get("mutations", head=False)
def get_mutations(call: Call) -> Response:
    """The mutations logged at this very version, oldest first: a JSON array of records.

    ``?throttle=on`` takes one of the server's slots for heavy work, or is refused with 503.
    """
    call.throttled()
    return stream(_json_array(call.datatype.mutations()), "text/plain; charset=utf-8")


@COMMON["mutations"].get("mutations-range", args="/<begin>/<end>", head=False)
def get_mutations_range(call: Call) -> Response:
    """The mutations of versions ``end`` back to ``begin``, newest version first, as one JSON array.

    Both are version selectors of this repository. Versions are followed by first parents, to the root where ``begin``
    is no ancestor of ``end``. ``?throttle=on`` as for ``mutations``.
    """
    begin = call.also(call.arg(0, "the first version"))
    end = call.also(call.arg(1, "the last version"))
    call.throttled()
    name = call.datatype.name

    def records() -> Iterator[dict[str, Any]]:
        if not call.datatype.info.versioned:
            # one log for all versions
            yield from call.datatype.mutations()
            return
        for version in end.path_to_root():
            yield from version[name].mutations()
            if version.uuid == begin.uuid:
                return

    return stream(_json_array(records()), "text/plain; charset=utf-8")


def changed(name: str, config: Mapping[str, Any]) -> str:
    """What `POST info` answers: which settings it was given."""
    return f"Changed '{name}' based on received configuration:\n{encode_json(config).decode()}\n"


def undoable(records: Iterable[UndoRecord]) -> list[dict[str, Any]]:
    """Mutations that can be undone or redone, as JSON."""
    return [
        {
            "MutationID": kept.id,
            "Action": kept.action,
            "User": kept.user,
            "App": kept.app,
            "Time": rfc3339(kept.time),
            "Undone": bool(kept.undone),
        }
        for kept in records
    ]


def _json_array(items: Iterable[Any]) -> Iterator[bytes]:
    lead = b"["
    for item in items:
        yield lead + encode_json(item)
        lead = b","
    yield b"[]" if lead == b"[" else b"]"


@COMMON["metadata"].any("metadata")
def get_metadata(call: Call) -> Response:
    """Axes, resolution, units and extents, as ``application/vnd.dvid-nd-data+json``."""
    return octets(encode_json(call.instance.metadata()), "application/vnd.dvid-nd-data+json")


_Resolution = Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]


@COMMON["resolution"].post("resolution")
def post_resolution(call: Call) -> Response:
    """Set the size of a voxel: a JSON array of three numbers, x, y, z. It holds at all versions."""
    size = call.json(_Resolution, limit=1 << 16)
    if not all(0 < v < 3.4e38 for v in size):
        raise BadRequest(f"resolution: {size} must be three positive numbers")
    call.instance.set_resolution(tuple(size))
    return empty()


_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Corner = Annotated[list[_Int32], msgspec.Meta(min_length=3, max_length=3)]


class Extents(msgspec.Struct, rename="pascal"):
    """Body of a POST of extents: first and last voxel, x, y, z; one that isn't given is 0, 0, 0."""

    min_point: _Corner = msgspec.field(default_factory=lambda: [0, 0, 0])
    max_point: _Corner = msgspec.field(default_factory=lambda: [0, 0, 0])

    @classmethod
    def of(cls, call: Call) -> Extents:
        """Those of a request.

        Raises
        ------
        BadRequest
            They are none, or the first lies beyond the last.
        """
        given = call.json(cls, limit=1 << 16)
        if any(low > high for low, high in zip(given.min_point, given.max_point, strict=True)):
            raise BadRequest(f"extents: MinPoint {given.min_point} lies beyond MaxPoint {given.max_point}")
        return given


@COMMON["extents"].post("extents")
def post_extents(call: Call) -> Response:
    """Set the extents of this version: JSON ``{"MinPoint": [x, y, z], "MaxPoint": [x, y, z]}``, both inclusive.

    A corner that isn't given is the voxel at 0.
    """
    extents = Extents.of(call)
    call.instance.set_extents(tuple(extents.min_point), tuple(extents.max_point), force=call.force)
    return empty()
