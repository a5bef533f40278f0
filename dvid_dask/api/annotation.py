"""The HTTP side of annotation: elements by box, block, body, tag and region."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from dvid_dask.datatypes.annotation import Annotation, Elements
from dvid_dask.datatypes.annotation.parsing import (
    listed_json,
    parse_blocks,
    parse_label_lists,
    parse_parts,
    to_json,
    verbose_json,
)
from dvid_dask.datatypes.annotation.reload import TooManyElementsError
from dvid_dask.datatypes.annotation.state import Reloading
from dvid_dask.errors import BadRequest, Conflict

from .common import post_sync, post_tags, undoable
from .face import Call, Face
from .geometry import UINT64_MAX, parse_int, parse_label, parse_point, zyx
from .responses import Response, empty, escaped, json, stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["face"]

face = Face(
    "annotation",
    about="""Points with a kind, tags, properties and relationships.

    An element is JSON {"Pos": [x, y, z], "Kind": k, "Tags": [...], "Prop": {...}, "Rels": [...]}, a relationship
    {"Rel": r, "To": [x, y, z]}.
    Kinds: Unknown, PostSyn, PreSyn, Gap, Note. Relationships: UnknownRelationship, PostSynTo, PreSynTo, ConvergentTo,
    GroupedWith. A position has one element. Coordinates are x, y, z in signed 32 bits; in paths x_y_z.
    """,
    common=("tags", "sync"),
)

MAX_BODY = 128 << 20

_RELOADS = 5
"""How often a reload behind is begun anew when others edit meanwhile."""

log = logging.getLogger(__name__)
"""Bytes of a request with elements."""

_LISTED = 1 << 14  # elements that become JSON at a time

Handler = Callable[[Call], Response]


def of(call: Call) -> Annotation:
    """The instance."""
    return cast(Annotation, call.instance)


def who(call: Call) -> dict[str, Any]:
    return {"user": call.user, "app": call.app, "force": call.force}


def no_reload(handler: Handler) -> Handler:
    """Refuse while the lists are made anew, as DVID refuses every POST then."""

    @functools.wraps(handler)
    def checked(call: Call) -> Response:
        if of(call).reloading:
            raise BadRequest("the lists of this annotation are being made anew: wait until that is done")
        return handler(call)

    return checked


def told(call: Call, data: bytes | None = None, **fields: Any) -> dict[str, Any] | None:
    """What watchers are told, unless ``kafkalog=off``: bodies as references to blobs."""
    if call.query.get("kafkalog") == "off" or not call.server.datastore.feed:
        return None
    if data is not None:
        fields["DataRef"] = call.server.datastore.put_blob(data)
    return fields


def elements_body(call: Call) -> bytes:
    return call.body.all(MAX_BODY)


# ---------------------------------------------------------------------- all POSTs wait for a reload

face.post("sync")(no_reload(post_sync))
face.post("tags")(no_reload(post_tags))

# ---------------------------------------------------------------------- elements


@face.post("elements")
def post_elements(call: Call) -> Response:
    """Add elements: a JSON list, all or none. One at the position of another takes its place, with all that it had.

    Lists of bodies and tags are right when this returns. ``kafkalog=off`` tells Kafka nothing.
    """
    data = elements_body(call)
    count, parts = parse_parts(data)
    of(call).add_parts(parts, count, told=lambda: told(call, data), **who(call))
    return empty()


def box_of(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offset and size in z, y, x; sizes may be 0 or negative."""
    size = parse_point(call.arg(0, "a size"), what="size")
    offset = parse_point(call.arg(1, "an offset"), what="offset")
    return zyx(offset), zyx(size)


@face.get("elements", args="/<size>/<offset>", head=False)
def get_elements(call: Call) -> Response:
    """Elements in a box of voxels, by block in the order of z, y, x: a JSON list, or null where there is none."""
    offset, size = box_of(call)
    return stream(json_list(whole(of(call).in_box(offset, size)), none=b"null"), "application/json")


@face.delete("element", args="/<x_y_z>")
def delete_element(call: Call) -> Response:
    """Remove the element at a position, and relationships that lead to it from its block and its partners' blocks.

    Answered during a reload too. ``kafkalog=off`` tells Kafka nothing.
    """
    at = parse_point(call.arg(0, "a position"), what="position")
    of(call).delete([zyx(at)], told=told(call, Point=list(at)), **who(call))
    return empty()


@face.post("move", args="/<from>/<to>")
def post_move(call: Call) -> Response:
    """Move an element; one at its end is replaced, relationships that lead to it follow. ``kafkalog=off``."""
    start = parse_point(call.arg(0, "a position"), what="from")
    end = parse_point(call.arg(1, "where to"), what="to")
    of(call).move(zyx(start), zyx(end), told=told(call, From=list(start), To=list(end)), **who(call))
    return empty()


def whole(parts: Iterable[Elements]) -> Iterator[list[bytes]]:
    """Elements as JSON."""
    return (to_json(piece) for piece in pieces(parts))


def pieces(parts: Iterable[Elements]) -> Iterator[Elements]:
    """Elements, not too many at a time."""
    for part in parts:
        for at in range(0, len(part), _LISTED):
            yield part[at : at + _LISTED]


def json_list(parts: Iterable[list[bytes]], *, none: bytes = b"[]") -> Iterator[bytes]:
    lead = b"["
    for part in parts:
        if part:
            yield lead + escaped(b",".join(part))
            lead = b","
    yield none if lead == b"[" else b"]"


# ---------------------------------------------------------------------- undo


@face.get("undo", head=False)
def get_undo(call: Call) -> Response:
    """The edits of elements of this version that can be undone or redone, oldest first: as ``undo`` of a labelmap."""
    return json(undoable(of(call).undoable()))


@face.post("undo", args="/<mutation id>")
def post_undo(call: Call) -> Response:
    """Take an edit of elements back; 409 if elements that it changed were changed since. Answers the mutation id."""
    mutation = parse_label(call.arg(0, "a mutation id"), "mutation id")
    return json({"MutationID": of(call).undo(mutation, **who(call))})


@face.post("redo", args="/<mutation id>")
def post_redo(call: Call) -> Response:
    """Do an edit again that ``undo`` took back; the id is that of the edit."""
    mutation = parse_label(call.arg(0, "a mutation id"), "mutation id")
    return json({"MutationID": of(call).redo(mutation, **who(call))})


# ---------------------------------------------------------------------- lists


def _listed(call: Call, parts: Iterable[Elements]) -> Response:
    how = call.query.get("relationships")
    if how == "true":
        return stream(json_list(_related(of(call), parts)), "application/json")
    if how == "verbose":
        return stream(json_list(_verbose(of(call), parts)), "application/json")
    return stream(json_list(listed_json(piece) for piece in pieces(parts)), "application/json")


def _related(annotation: Annotation, parts: Iterable[Elements]) -> Iterator[list[bytes]]:
    for listed in pieces(parts):
        held, places = annotation.related(listed)
        yield to_json(held[places[places >= 0]])


def _verbose(annotation: Annotation, parts: Iterable[Elements]) -> Iterator[list[bytes]]:
    for listed in pieces(parts):
        held, places = annotation.related(listed)
        there = places >= 0
        full = held[places[there]]
        around = annotation.at(full.rel_to)
        partners = {tuple(at): i for i, at in enumerate(around.zyx.tolist())}
        number: NDArray[np.int64] = there.cumsum() - 1
        number[~there] = -1
        yield verbose_json(listed, full, number, partners, around)


@face.get("label", args="/<body>", head=False)
def get_label(call: Call) -> Response:
    """Elements in a body: a JSON list, without relationships.

    ``relationships=true``: with them; ``relationships=verbose``: each with kind, tags and properties of its partner.
    """
    body = parse_int(call.arg(0, "a body"), "label", 1, UINT64_MAX)
    return _listed(call, of(call).listed(body))


@face.post("labels")
def post_labels(call: Call) -> Response:
    """Store lists of bodies as given, whatever the blocks say: JSON ``{"<body>": "<JSON text of a list>", ...}``.

    Body 0 is passed over. A reload makes these lists anew.
    """
    if call.args:
        raise BadRequest('"labels" takes no more parts in its path')
    of(call).put_label_parts(parse_label_lists(elements_body(call)), **who(call))
    return empty()


@face.get("tag", args="/<tag>", head=False)
def get_tag(call: Call) -> Response:
    """Elements with a tag: as ``label``."""
    return _listed(call, of(call).tagged(call.arg(0, "a tag")))


@face.get("roi", args="/<name>[,<uuid>]", head=False)
def get_roi(call: Call) -> Response:
    """Elements of all blocks of a region, at this version or the one given: a JSON list, or null where there is none.

    Blocks of the region must be as large as those of the annotation.
    """
    spec = call.arg(0, "an ROI")
    name, comma, uuid = spec.partition(",")
    if "," in uuid or ":" in uuid or (comma and not uuid):
        raise BadRequest(f'"{spec[:80]}" is no ROI: expected name or name,uuid')
    version = call.also(uuid) if uuid else None
    return stream(json_list(whole(of(call).in_roi(name, version)), none=b"null"), "application/json")


# ---------------------------------------------------------------------- blocks


@face.get("blocks", args="/<size>/<offset>", head=False)
def get_blocks(call: Call) -> Response:
    """All elements of every block that a box of voxels touches: JSON ``{"bx,by,bz": [elements], ...}``."""
    offset, size = box_of(call)
    return stream(json_blocks(of(call).scan_box(offset, size)), "application/json")


@face.post("blocks")
def post_blocks(call: Call) -> Response:
    """Make these the elements of blocks: JSON ``{"bx,by,bz": [elements], ...}``, all or none. ``kafkalog=off``.

    Elements must lie in the block under which they are given. Lists of bodies and tags follow at once.
    """
    data = elements_body(call)
    of(call).put_block_parts(parse_blocks(data), told=lambda: told(call, data), **who(call))
    return empty()


@face.get("all-elements", head=False)
def get_all_elements(call: Call) -> Response:
    """All elements of the version, as ``blocks``."""
    if call.args:
        raise BadRequest('"all-elements" takes no more parts in its path')
    return stream(json_blocks(of(call).scan()), "application/json")


def json_blocks(parts: Iterable[tuple[NDArray[np.int32], Elements, NDArray[np.int64]]]) -> Iterator[bytes]:
    lead = b"{"
    for blocks, held, borders in parts:
        each, edges = to_json(held), borders.tolist()
        lines = [
            b'"%d,%d,%d":[%b]' % (x, y, z, b",".join(each[a:b]))
            for (z, y, x), a, b in zip(blocks.tolist(), edges, edges[1:], strict=False)
        ]
        if lines:
            yield lead + escaped(b",".join(lines))
            lead = b","
    yield b"{}" if lead == b"{" else b"}"


@face.get("scan", head=False)
def get_scan(call: Call) -> Response:
    """How many blocks are stored: JSON ``{"num kv pairs": n, "num empty blocks": 0}``.

    ``byCoord=true`` and ``keysOnly=true`` are taken and change nothing.
    """
    if call.args:
        raise BadRequest('"scan" takes no more parts in its path')
    return json({"num kv pairs": of(call).block_count(), "num empty blocks": 0})


# ---------------------------------------------------------------------- reload


@face.post("reload")
def post_reload(call: Call) -> Response:
    """Make lists of bodies and tags anew where they may be wrong; answers when it is done.

    Lists follow every change by themselves: without need there is nothing to do. ``check=true`` compares all lists with
    elements and segmentation and writes those that differ, ``inmemory=false`` likewise. Until it is done POSTs at this
    version are refused with 400; DELETE passes.

    Where more than 4 million elements must be looked at, it is answered at once and done behind, in bounded memory: all
    new lists are seen when the last one is made. What becomes of it is in the server's log. If the server stops
    meanwhile, the same request goes on.
    """
    thorough = call.flag("check") or call.query.get("inmemory") == "false"
    try:
        of(call).reload(check=thorough, **who(call))
    except TooManyElementsError:
        of(call).check_open()  # what works behind makes a draft, which no committed version takes
        threading.Thread(
            target=_reload_behind, args=(of(call), call.user, call.app), name="reload", daemon=True
        ).start()
    return empty()


def _reload_behind(annotation: Annotation, user: str, app: str) -> None:
    """Make all lists anew; again, if somebody edited the segmentation meanwhile."""
    from dvid_dask.ops import reload_elements  # Dask: a server without such annotations needs none

    what = f"{annotation.name!r} at version {annotation.version.uuid}"
    for left in reversed(range(_RELOADS)):
        try:
            log.info("reload of %s: %s", what, reload_elements(annotation, progress=False, user=user, app=app))
            return
        except Reloading:
            log.warning("reload of %s: another one runs", what)
            return
        except Conflict as error:
            log.warning("reload of %s: %s%s", what, error, " (tries again)" if left else "")
        except Exception:
            log.exception("reload of %s failed; the same request goes on", what)
            return
