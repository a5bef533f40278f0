"""The HTTP side of keyvalue: single values with byte ranges, listings, and batches as protobuf, JSON or tar."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dvid_dask.errors import BadRequest, NotFound
from dvid_dask.formats import dvid_pb2 as pb

from .face import Call, Face, decode_json
from .failures import NOSNIFF
from .keyed import check_json, json_list, json_object, parse_protobuf, protobuf, tar, wanted_form
from .ranges import header_range, names_tag
from .responses import Response, empty, octets, stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dvid_dask.datatypes.keyvalue import Value

__all__ = ["face"]

face = Face(
    "keyvalue",
    about="""Bytes by name.

    A key is one part of the path: any text without a slash, compared byte by byte. A value of length zero reads as
    absent, though its key is listed.
    """,
    common=("tags", "mutations"),
)

# ---------------------------------------------------------------------- one key


@face.get("key", args="/<key>", head=False)
def get_key(call: Call) -> Response:
    """The value of a key, as ``application/octet-stream``; 404 where there is none.

    ``?byte_start=a&byte_end=b`` gives bytes a to b, both included, with status 200; they must lie within the value.
    The header ``Range: bytes=a-b`` (also ``a-`` and ``-n``) gives status 206, and 416 where it begins behind the end.
    ``ETag`` names the content: with ``If-None-Match`` the same content is answered 304 and not sent, with ``If-Range``
    another content than that is sent whole.
    """
    key = call.arg(0, "a key")
    value: Value | None = call.instance.value(key)
    if not value:
        raise NotFound(f'Key "{key[:200]}" not found')
    tag = f'"{value.digest}"'
    common = {"Accept-Ranges": "bytes", "ETag": tag}
    bounds = _query_range(call, value.size)
    header = call.headers.get("range")
    if bounds is not None and header is not None:
        raise BadRequest("byte_start and byte_end can't be combined with a Range header: use one of them")
    if names_tag(call.headers.get("if-none-match"), tag):
        return Response(b"", 304, common)
    if bounds is not None:
        return _bytes_of(value, *bounds, 200, common)
    span = None if header is None or call.headers.get("if-range", tag) != tag else header_range(header, value.size)
    if span is None:
        return _bytes_of(value, 0, value.size - 1, 200, common)
    first, last = span
    if first >= value.size or first > last:
        length = {"Content-Range": f"bytes */{value.size}", **NOSNIFF}
        return Response("the range begins behind the end of the value\n", 416, length, "text/plain; charset=utf-8")
    where = {"Content-Range": f"bytes {first}-{last}/{value.size}", **common}
    return _bytes_of(value, first, last, 206, where)


def _bytes_of(value: Value, first: int, last: int, status: int, headers: dict[str, str]) -> Response:
    if value.whole:
        return octets(value.read(first, last + 1), status=status, headers=headers)
    length = {"Content-Length": str(last + 1 - first)}
    return stream(value.pieces(first, last + 1), status=status, headers=headers | length)


_UNSIGNED = re.compile(r"[0-9]{1,20}")


def _query_range(call: Call, length: int) -> tuple[int, int] | None:
    start, end = call.query.get("byte_start"), call.query.get("byte_end")
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise BadRequest("byte_start and byte_end are needed together")
    if not _UNSIGNED.fullmatch(start) or not _UNSIGNED.fullmatch(end):
        raise BadRequest(f"byte_start={start[:40]}, byte_end={end[:40]}: both must be unsigned integers")
    return check_range(int(start), int(end), length)


def check_range(start: int, end: int, length: int) -> tuple[int, int]:
    """An inclusive byte range that lies within a value.

    Examples
    --------
    >>> check_range(0, 9, 10)
    (0, 9)
    >>> check_range(0, 10, 10)
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: bytes 0 to 10 are not within a value of 10 bytes
    """
    if not start <= end < length:
        raise BadRequest(f"bytes {start} to {end} are not within a value of {length} bytes")
    return start, end


@face.head("key", args="/<key>")
def head_key(call: Call) -> Response:
    """Whether the key is there: 200, with the length of its value and its ``ETag``, or 404."""
    value: Value | None = call.instance.value(call.arg(0, "a key"))
    if value is None:
        return empty(404)
    tag = f'"{value.digest}"'
    common = {"Accept-Ranges": "bytes", "ETag": tag}
    if value and names_tag(call.headers.get("if-none-match"), tag):
        return Response(b"", 304, common)
    return Response(b"", headers=common | {"Content-Length": str(value.size)})


@face.post("key", args="/<key>")
def post_key(call: Call) -> Response:
    """Set the value of a key to the body. Of a large one a few MB are in memory; it is there when all has come."""
    key, who = call.arg(0, "a key"), {"user": call.user, "app": call.app, "force": call.force}
    body = call.body
    if body.small:
        call.instance.put(key, body.all(), **who)
        return empty()
    body.check_length()
    with call.instance.writer(key, **who) as out:
        for piece in body.chunks():
            out.write(piece)
            body.check_length()
    return empty()


@face.delete("key", args="/<key>")
def delete_key(call: Call) -> Response:
    """Remove a key, whether it is there or not."""
    call.instance.delete(call.arg(0, "a key"), user=call.user, app=call.app, force=call.force)
    return empty()


# ---------------------------------------------------------------------- listings


@face.any("keys")
def get_keys(call: Call) -> Response:
    """All keys in order, as a JSON list."""
    return stream(json_list(iter(call.instance)), "application/json")


@face.any("keyrange", args="/<first>/<last>")
def get_keyrange(call: Call) -> Response:
    """The keys from first to last, both included, as a JSON list."""
    first, last = _range_of(call)
    return stream(json_list(call.instance.keyrange(first, last)), "application/json")


def _range_of(call: Call) -> tuple[str, str]:
    return call.arg(0, "the first key"), call.arg(1, "the last key")


@face.any("keyrangevalues", args="/<first>/<last>")
def get_keyrangevalues(call: Call) -> Response:
    """Keys with values from first to last, both included; values of length zero are left out.

    ``?json=true``: a JSON object, the values as they are; ``&check=true`` refuses values that are no JSON.
    ``?tar=true``: a tar file with a member for each key. Otherwise protobuf ``KeyValues``.
    """
    first, last = _range_of(call)
    as_json, as_tar = wanted_form(call)
    if as_tar:
        return stream(tar(call.instance.scan_values(first, last)), "application/tar")
    pairs = call.instance.get_range(first, last)
    if as_json:
        return stream(json_object(pairs, check=call.flag("check")), "application/json")
    return stream(protobuf(pairs))


# ---------------------------------------------------------------------- batches


class _Wanted(msgspec.Struct):
    """A key, or bytes of its value."""

    key: str = ""
    byte_start: Annotated[int, msgspec.Meta(ge=0)] | None = None
    byte_end: Annotated[int, msgspec.Meta(ge=0)] | None = None


@face.get("keyvalues", head=False)
def get_keyvalues(call: Call) -> Response:
    """Values of the keys in the body.

    ``?json=true``: the body is a JSON list of keys, or of ``{"key": k, "byte_start": a, "byte_end": b}``; answer a JSON
    object, with ``{}`` for keys that aren't there. ``&check=true`` refuses values that are no JSON. ``?tar=true``: the
    same body, answer a tar file with empty members for missing keys. Otherwise body ``Keys`` and answer ``KeyValues``
    in protobuf.
    """
    as_json, as_tar = wanted_form(call)
    data = call.body.all()
    kv = call.instance
    if as_json or as_tar:
        wanted = _wanted(data)
        pairs = _slices(kv, wanted, as_json=as_json)
        if as_tar:
            return stream(tar((key, value or b"") for key, value in pairs), "application/tar")
        check = call.flag("check")
        return stream(json_object(_filled(pairs, check), check=False), "application/json")
    keys = parse_protobuf(pb.Keys, data)
    wanted = [_Wanted(k) for k in keys.keys]
    wanted += [_Wanted(r.key, r.byte_start, r.byte_end) for r in keys.key_ranges]
    return stream(protobuf((key, value or b"") for key, value in _slices(kv, wanted, as_json=False)))


def _wanted(data: bytes) -> list[_Wanted]:
    found = decode_json(data, list[str | _Wanted] | None) or []  # type: ignore[arg-type]
    if len({type(item) for item in found}) > 1:
        raise BadRequest("the list mixes keys and objects: use one of the two")
    wanted = [_Wanted(item) if isinstance(item, str) else item for item in found]
    for item in wanted:
        if (item.byte_start is None) != (item.byte_end is None):
            raise BadRequest(f'key "{item.key[:200]}": byte_start and byte_end are needed together')
    return wanted


def _values(kv: Any, keys: Sequence[str]) -> Iterator[tuple[str, Value | None]]:
    """Keys with their values; none for the empty key, which no instance can hold, and for those of length zero."""
    found = kv.iter_values([key for key in keys if key])
    return ((key, (next(found) or None) if key else None) for key in keys)


def _slices(kv: Any, wanted: Sequence[_Wanted], *, as_json: bool) -> Iterator[tuple[str, bytes | None]]:
    """Keys with the bytes wanted of them. Ranges are checked before anything is sent, so that a bad one is a 400."""
    ranged = [item for item in wanted if item.byte_start is not None]
    cut: list[bytes | None] = []
    for item, (key, value) in zip(ranged, _values(kv, [r.key for r in ranged]), strict=True):
        part: bytes | None = None
        if value is not None and item.byte_start is not None and item.byte_end is not None:
            start, end = check_range(item.byte_start, item.byte_end, value.size)
            part = value.read(start, end + 1)
            if as_json:
                check_json(key, part)
        cut.append(part)
    slices = iter(cut)
    whole = _values(kv, [item.key for item in wanted if item.byte_start is None])
    for item in wanted:
        if item.byte_start is not None:
            yield item.key, next(slices)
        else:
            key, value = next(whole)
            yield key, None if value is None else value.read()


def _filled(pairs: Iterable[tuple[str, bytes | None]], check: bool) -> Iterator[tuple[str, bytes]]:
    for key, value in pairs:
        if value is not None and check:
            check_json(key, value)
        yield key, value or b"{}"


@face.post("keyvalues")
def post_keyvalues(call: Call) -> Response:
    """Set the values of many keys, all or none: protobuf ``KeyValues``."""
    message = parse_protobuf(pb.KeyValues, call.body.all())
    pairs = [(kv.key, kv.value) for kv in message.kvs]
    call.instance.put_many(pairs, user=call.user, app=call.app, force=call.force)
    return empty()
