"""The HTTP side of neuronjson: annotations one by one and in batches, queries, and the documents beside them."""

from __future__ import annotations

import io
import re
import zlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dvid_dask.datatypes.neuronjson import Selection
from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats import dvid_pb2 as pb

from .face import Call, Face, decode_json
from .keyed import json_array, json_list, json_object, parse_protobuf, protobuf, tar, wanted_form
from .responses import Response, empty, encode_json, json, not_found, octets, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["face"]

face = Face(
    "neuronjson",
    about="""JSON annotations of neurons, by body id.

    Each field that is set gets two stamps, ``<field>_user`` and ``<field>_time``. Answers hold them where asked with
    ``?show=user``, ``time`` or ``all``. ``?fields=a,b,c`` limits answers to these fields and ``bodyid``.
    """,
    common=("tags", "mutations"),
)

_MAX_QUERY = 64 << 20
_DIGITS = re.compile(r"[0-9]{1,40}", re.ASCII)
_MOST = 2**64 - 1
#: Documents that ``key`` reaches as well, since older clients ask for them there.
_AS_KEYS = ("schema", "schema_batch")


def _selection(call: Call) -> Selection:
    fields = call.query.get("fields")
    return Selection(call.query.get("show", ""), fields.split(",") if fields else None)


def _body_id(text: str) -> int:
    if _DIGITS.fullmatch(text) and int(text) <= _MOST:
        return int(text)
    raise BadRequest(f'"{text[:80]}" is no body id: expected an integer from 1 to {_MOST}')


def _key(call: Call) -> int | str:
    """The body id that a path names, or the document."""
    text = call.arg(0, "a body id")
    return text if text in _AS_KEYS else _body_id(text)


# ---------------------------------------------------------------------- one annotation


@face.get("key", args="/<body id>", head=False)
def get_key(call: Call) -> Response:
    """The annotation of a body; 404 where there is none. ``key/schema`` and ``key/schema_batch`` are the documents."""
    key = _key(call)
    if isinstance(key, str):
        return _document(call, key)
    (found,) = call.instance.texts_of([key], _selection(call))
    if found is None:
        raise NotFound(f"body {key} has no annotation")
    return octets(found, "application/json")


@face.head("key", args="/<body id>")
def head_key(call: Call) -> Response:
    """Whether the body has an annotation: 200 or 404."""
    key = _key(call)
    if isinstance(key, str):
        return _document(call, key)
    return empty() if key and call.instance.exists(key) else empty(404)


@face.post("key", args="/<body id>")
def post_key(call: Call) -> Response:
    """Set fields of the annotation of a body: a JSON object with ``bodyid``. Needs a user, ``?u=``.

    Fields that aren't posted stay; one posted as null goes. With ``?replace=true`` fields that aren't posted go too.
    ``?conditional=a,b``: these fields are set only where there is none yet. A stamp that is posted is kept. Only fields
    whose value differs get new stamps.
    """
    key = _key(call)
    _need_user(call)
    if isinstance(key, str):
        return _post_document(call, key)
    _put(call, [(key, call.body.all())], "postneuronjson")
    return empty()


def _need_user(call: Call) -> None:
    if not call.user:
        raise BadRequest("annotations need the name of the user who sets them: ?u=")


def _put(call: Call, pairs: list[tuple[int, bytes]], action: str) -> None:
    conditional = call.query.get("conditional") or call.query.get("conditionals") or ""
    call.instance.put_many(
        pairs,
        user=call.user,
        app=call.app,
        replace=call.flag("replace"),
        conditional=conditional.split(",") if conditional else (),
        force=call.force,
        action=action,
    )


@face.delete("key", args="/<body id>")
def delete_key(call: Call) -> Response:
    """Remove the annotation of a body, whether there is one or not."""
    key = _key(call)
    if isinstance(key, str):
        return _delete_document(call, key)
    if key:
        call.instance.delete(key, user=call.user, app=call.app, force=call.force)
    return empty()


# ---------------------------------------------------------------------- listings


@face.any("keys")
def get_keys(call: Call) -> Response:
    """All annotated bodies, ascending, as a JSON list of texts."""
    return stream(json_list(map(str, call.instance)), "application/json")


@face.any("keyrange", args="/<first>/<last>")
def get_keyrange(call: Call) -> Response:
    """The annotated bodies from first to last, both included. ``0/a`` are all: texts count as the largest id."""
    first, last = _range_of(call)
    return stream(json_list(map(str, call.instance.bodies(first, last).tolist())), "application/json")


def _range_of(call: Call) -> tuple[int, int]:
    return _bound(call.arg(0, "the first body id")), _bound(call.arg(1, "the last body id"))


def _bound(text: str) -> int:
    """The end of a range: what sorts behind digits is the largest id, what sorts before them 0.

    Examples
    --------
    >>> _bound("17"), _bound("a") == 2**64 - 1, _bound("-5")
    (17, True, 0)
    """
    if text[:1] > "9":
        return _MOST
    return 0 if text[:1] < "0" else _body_id(text)


@face.any("keyrangevalues", args="/<first>/<last>")
def get_keyrangevalues(call: Call) -> Response:
    """The annotations of bodies from first to last, both included.

    ``?json=true``: a JSON object by body id. ``?tar=true``: a tar file. Otherwise protobuf ``KeyValues``.
    """
    first, last = _range_of(call)
    found = call.instance.texts_between(first, last, _selection(call))
    return _batch(call, ((str(body), text) for body, text in found))


def _batch(call: Call, pairs: Iterable[tuple[str, bytes]]) -> Response:
    as_json, as_tar = wanted_form(call)
    if as_json:
        return stream(json_object(pairs), "application/json")
    return stream(tar(pairs), "application/tar") if as_tar else stream(protobuf(pairs))


@face.any("all")
def get_all(call: Call) -> Response:
    """All annotations, in order of the body ids, as a JSON list; those are left out of which only ``bodyid`` remains.

    Compressed with gzip where the client accepts that.
    """
    chunks = json_array(call.instance.all_texts(_selection(call)))
    accepted = (token.strip() for token in call.headers.get("accept-encoding", "").split(","))
    if "gzip" in accepted:
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return stream(_gzipped(chunks), "application/json", headers=headers)
    return stream(chunks, "application/json")


def _gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(1, wbits=31)
    for joined in _joined(chunks, 1 << 16):
        yield compressor.compress(joined)
    yield compressor.flush()


def _joined(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    parts: list[bytes] = []
    held = 0
    for chunk in chunks:
        parts.append(chunk)
        held += len(chunk)
        if held >= size:
            yield b"".join(parts)
            parts, held = [], 0
    yield b"".join(parts)


@face.any("fields")
def get_fields(call: Call) -> Response:
    """Names of all members, stamps too, as a JSON list; ``?counts=true``: an object with how many bodies have each."""
    counts: dict[str, int] = call.instance.fields()
    return json(counts if call.flag("counts") else list(counts))


@face.any("fieldtimes")
def get_fieldtimes(call: Call) -> Response:
    """When each field was last set: a JSON object, the latest stamp of each field. At every version."""
    return json(call.instance.field_times())


# ---------------------------------------------------------------------- queries


@face.get("query", head=False)
def get_query(call: Call) -> Response:
    """The annotations that the JSON query in the body finds, in order of their body ids; ``?onlyid=true``: the ids.

    All members of an object must fit, and one object of a list. A member fits that is equal to the value asked for, or
    to one of a list, or is a list with such an element. ``"re/REGEX"`` finds texts with a regular expression anywhere
    in them (RE2), ``"exists/1"`` and ``"exists/0"`` what is there or not. A query for ``bodyid`` alone answers in the
    order of the ids asked.
    """
    query = decode_json(call.body.all(_MAX_QUERY))
    if call.flag("onlyid"):
        return json(call.instance.query_bodies(query).tolist())
    return stream(json_array(call.instance.find_texts(query, _selection(call))), "application/json")


@face.post("query")
def post_query(call: Call) -> Response:
    """As GET; also at committed versions."""
    return get_query(call)


@face.get("arrow", head=False)
def get_arrow(call: Call) -> Response:
    """Annotations as a table: a stream of Arrow's, ``pyarrow.ipc.open_stream(answer).read_all()``.

    All of them, or those that the JSON query in the body finds. ``?fields`` are the columns beside ``bodyid``.
    """
    data = call.body.all(_MAX_QUERY)
    selection = _selection(call)
    made = call.instance.arrow_batches(call.instance.view(), selection, decode_json(data) if data else None)
    return stream(_arrow_stream(*made), "application/vnd.apache.arrow.stream")


def _arrow_stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """What Arrow's writer writes, batch by batch."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


# ---------------------------------------------------------------------- versions


@face.get("history", args="/<body id>", head=False)
def get_history(call: Call) -> Response:
    """Who changed which field of a body's annotation when: a JSON list, oldest first, along the first parents.

    Its objects are ``{"body", "field", "old", "new", "user", "time", "version"}``; a value that isn't there is null.
    """
    return json(call.instance.changes_of(_body_id(call.arg(0, "a body id"))))


@face.get("changes", args="/<version>", head=False)
def get_changes(call: Call) -> Response:
    """What changed from another version to this one, field by field, in order of the body ids; as ``history``."""
    since = call.also(call.arg(0, "a version"))
    return stream(json_array(map(encode_json, call.instance.changes(since))), "application/json")


# ---------------------------------------------------------------------- batches


@face.get("keyvalues", head=False)
def get_keyvalues(call: Call) -> Response:
    """Annotations of the bodies in the request's body.

    ``?json=true``: the body is a JSON list of ids, as numbers or texts; answer a JSON object of those that are there.
    ``?tar=true``: the same body, answer a tar file with empty members for those that aren't. Otherwise body ``Keys``
    and answer ``KeyValues`` in protobuf, with empty values for those that aren't there.
    """
    as_json, as_tar = wanted_form(call)
    data = call.body.all(_MAX_QUERY)
    if as_json or as_tar:
        keys = [str(key) for key in decode_json(data, list[int | str] | None) or []]  # type: ignore[arg-type]
    else:
        keys = list(parse_protobuf(pb.Keys, data).keys)
    found = _values(call, keys)
    if as_json:
        return _batch(call, ((key, text) for key, text in found if text is not None))
    return _batch(call, ((key, text or b"") for key, text in found))


def _values(call: Call, keys: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
    bodies = [0 if key in _AS_KEYS else _body_id(key) for key in keys]
    documents: dict[str, Any] = {name: call.instance.document(name) for name in _AS_KEYS if name in keys}
    texts = call.instance.texts_of(bodies, _selection(call))
    return ((key, documents.get(key, text)) for key, text in zip(keys, texts, strict=True))


@face.post("keyvalues")
def post_keyvalues(call: Call) -> Response:
    """Set fields of many annotations, all or none: protobuf ``KeyValues``, each as for POST ``key``, options too."""
    _need_user(call)
    message = parse_protobuf(pb.KeyValues, call.body.all())
    _put(call, [(_body_id(kv.key), kv.value) for kv in message.kvs], "ingestneuronjson")
    return empty()


# ---------------------------------------------------------------------- documents


def _document(call: Call, name: str) -> Response:
    found = call.instance.document(name)
    return not_found() if found is None else octets(found, "text/plain; charset=utf-8")


def _post_document(call: Call, name: str) -> Response:
    call.instance.set_document(name, call.body.all(), user=call.user, app=call.app, force=call.force)
    return empty()


def _delete_document(call: Call, name: str) -> Response:
    call.instance.delete_document(name, user=call.user, app=call.app, force=call.force)
    return empty()


@face.get("json_schema", "schema", "schema_batch")
def get_document(call: Call) -> Response:
    """The document as it was posted; 404 where there is none.

    ``json_schema`` is a JSON Schema that posts must follow, the others are for clients.
    """
    return _document(call, call.keyword)


@face.post("json_schema", "schema", "schema_batch")
def post_document(call: Call) -> Response:
    """Keep the document. A ``json_schema`` that is none is refused; from now on posts must follow it."""
    return _post_document(call, call.keyword)


@face.delete("json_schema", "schema", "schema_batch")
def delete_document(call: Call) -> Response:
    """Remove the document, whether there is one or not."""
    return _delete_document(call, call.keyword)
