"""How an annotation is stored, and which parts of it a reader gets.

An annotation is a JSON object. Its members fall in two: what people say about a neuron, and the *stamps*
``<field>_user`` and ``<field>_time`` that tell who said it and when. Most readers want the first alone, and the second
are three quarters of the bytes, so they are kept apart:

===============  ===============================================================
value            JSON of the members without stamps, as it is sent to clients
newline          only if there are stamps; JSON of ours holds none
stamps           zstd of the JSON of the stamps
===============  ===============================================================

The JSON is canonical: members in order of their names, no blanks, whole numbers as integers, ``<``, ``>`` and ``&``
escaped. So equal values have equal texts, and nothing is parsed to send an annotation without stamps, or with all of
them: they follow what they are the stamps of.

========  =======================  ==================================
class     key                      value
========  =======================  ==================================
``n``     body id (8, big-endian)  an annotation
``d``     name of a document       the document, as it was posted
========  =======================  ==================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from dvid_dask.errors import BadRequest
from dvid_dask.formats.compression import zstd_compress, zstd_decompress

__all__ = [
    "DOCUMENTS",
    "NEURON",
    "Selection",
    "body_of",
    "decode",
    "document_key",
    "encode",
    "is_stamp",
    "key_of",
    "member",
    "parse",
    "plain_part",
    "stamps_part",
    "tidy",
]

NEURON: Final = b"n"
_DOCUMENT: Final = b"d"

#: Documents kept beside the annotations: a JSON Schema that posts must follow, and two that only clients understand.
DOCUMENTS: Final = ("json_schema", "schema", "schema_batch")

#: Largest annotation, stamps and all, in bytes of JSON.
MAX_SIZE: Final = 16 << 20
#: Longest name of a member, in characters.
MAX_NAME: Final = 1000
#: How deep its values may be nested.
MAX_DEPTH: Final = 100

MAX_BODY: Final = 2**64 - 1

_encode = msgspec.json.Encoder(order="sorted").encode
_encode_as_is = msgspec.json.Encoder().encode
_objects = msgspec.json.Decoder(dict[str, Any])
_raws = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_name(name: str) -> None:
    """Refuse names that no member can have.

    Raises
    ------
    BadRequest
    """
    if len(name) > MAX_NAME:
        raise BadRequest(f"the name {name[:40]!r}... has {len(name)} characters: {MAX_NAME} are possible")


def check_body(body: object) -> int:
    """A body id: an integer from 1 to 2^64 - 1.

    Raises
    ------
    BadRequest
    """
    if isinstance(body, bool) or not hasattr(body, "__index__") or not 1 <= (number := int(body)) <= MAX_BODY:
        raise BadRequest(f"{body!r} is no body id: expected an integer from 1 to {MAX_BODY}")
    return int(number)


def key_of(body: int) -> bytes:
    """The key of a body's annotation."""
    return NEURON + body.to_bytes(8, "big")


def body_of(key: bytes) -> int:
    """The body id in a key."""
    return int.from_bytes(key[1:], "big")


def document_key(name: str) -> bytes:
    """The key of a document.

    Raises
    ------
    BadRequest
        There is no such document.
    """
    if name not in DOCUMENTS:
        raise BadRequest(f"{name!r} is no document: there are {', '.join(DOCUMENTS)}")
    return _DOCUMENT + name.encode()


def document_of(key: bytes) -> str | None:
    """The name of the document with this key."""
    return key[1:].decode() if key[:1] == _DOCUMENT else None


# ------------------------------------------------------------------ values


@lru_cache(1 << 16)
def is_stamp(name: str) -> bool:
    """Whether a member tells who set another one, or when."""
    return name.endswith(("_user", "_time"))


def tidy(value: Any, depth: int = 0) -> Any:
    """A JSON value with one form for each number: whole ones are integers. numpy's scalars and arrays are taken too.

    Raises
    ------
    BadRequest
        Not finite, no JSON value, or nested too deeply.

    Examples
    --------
    >>> tidy({"a": [2.0, 2.5, None]})
    {'a': [2, 2.5, None]}
    >>> tidy(float("nan"))
    Traceback (most recent call last):
    ...
    dvid_dask.errors.BadRequest: nan is no number that JSON can hold
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRequest(f"{value} is no number that JSON can hold")
        # above 2^53 a float says no more which integer was meant
        return int(value) if value.is_integer() and abs(value) <= 2**53 else float(value)
    if depth >= MAX_DEPTH:
        raise BadRequest(f"the JSON is nested too deeply: {MAX_DEPTH} levels are possible")
    if isinstance(value, (list, tuple)):
        return [tidy(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if any(not isinstance(name, str) for name in value):
            raise BadRequest("names of members are strings")
        return {name: tidy(item, depth + 1) for name, item in value.items()}
    if hasattr(value, "tolist"):
        return tidy(value.tolist(), depth + 1)
    if isinstance(value, (str, int)):
        return kind.__base__(value) if kind.__base__ in (str, int) else value
    raise BadRequest(f"a {kind.__name__} is no JSON value")


def _escaped(text: bytes) -> bytes:
    # those three occur nowhere in JSON but inside strings
    if b"<" in text or b">" in text or b"&" in text:
        text = text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return text


def to_json(value: Any) -> bytes:
    """Canonical JSON of a value that was tidied.

    Raises
    ------
    BadRequest
        A string that is no valid Unicode text.
    """
    try:
        return _escaped(_encode(value))
    except UnicodeEncodeError as error:
        raise BadRequest(f"a string is no valid Unicode text: {error}") from None


def member(name: str, text: bytes) -> bytes:
    """A member of an object: name and the JSON of its value."""
    return _escaped(_encode(name)) + b":" + text


def parse(text: bytes) -> dict[str, Any]:
    """The JSON object that a client sent, tidied.

    Raises
    ------
    BadRequest
        No JSON, no object, numbers out of range, nested too deeply.
    """
    try:
        found = _objects.decode(text)
    except msgspec.ValidationError as error:
        raise BadRequest(f"an annotation is a JSON object: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the annotation is no JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    return {name: tidy(value, 1) for name, value in found.items()}


# ------------------------------------------------------------------ annotations


def encode(annotation: Mapping[str, Any]) -> bytes:
    """An annotation with its stamps, as it is stored.

    Raises
    ------
    BadRequest
        It is larger than 16 MiB.

    Examples
    --------
    >>> decode(encode({"bodyid": 5, "type": "PN", "type_user": "ann"}))
    {'bodyid': 5, 'type': 'PN', 'type_user': 'ann'}
    """
    plain: dict[str, Any] = {}
    stamps: dict[str, Any] = {}
    for name, value in annotation.items():
        (stamps if is_stamp(name) else plain)[name] = value
    text, rest = to_json(plain), to_json(stamps) if stamps else b""
    if len(text) + len(rest) > MAX_SIZE:
        raise BadRequest(f"the annotation has {len(text) + len(rest)} bytes: {MAX_SIZE} are possible")
    return text + b"\n" + zstd_compress(rest, 1) if stamps else text


def plain_part(value: bytes) -> bytes:
    """JSON of the members without stamps."""
    return value.partition(b"\n")[0]


def stamps_part(value: bytes) -> bytes:
    """JSON of the stamps; ``{}`` if there are none."""
    stamps = value.partition(b"\n")[2]
    return zstd_decompress(stamps, MAX_SIZE) if stamps else b"{}"


def decode(value: bytes) -> dict[str, Any]:
    """An annotation with its stamps, from what is stored."""
    plain, _, stamps = value.partition(b"\n")
    found = _objects.decode(plain)
    if stamps:
        found.update(_objects.decode(zstd_decompress(stamps, MAX_SIZE)))
    return found


class Selection:
    """Which members a reader wants.

    Parameters
    ----------
    show : {"", "user", "time", "all"}
        Which stamps are shown; any other text shows none.
    fields : iterable of str, optional
        Only these members, their stamps if those are shown, and ``bodyid``. A stamp that is named is shown anyway.

    Examples
    --------
    >>> stored = encode({"bodyid": 5, "type": "PN", "type_user": "ann", "size": 3})
    >>> Selection().apply(stored)
    b'{"bodyid":5,"size":3,"type":"PN"}'
    >>> Selection("user", ["type"]).apply(stored)
    b'{"bodyid":5,"type":"PN","type_user":"ann"}'
    """

    def __init__(self, show: str = "", fields: Iterable[str] | None = None) -> None:
        if isinstance(fields, str):
            raise BadRequest(f"fields are a list of names, not the text {fields!r}")
        self.endings = tuple(end for end, by in (("_user", "user"), ("_time", "time")) if show in (by, "all"))
        self.names: frozenset[str] | None = None
        #: ``bodyid`` and nothing else
        self.only_bodies = False
        if fields is not None:
            asked = list(fields)
            self.only_bodies = asked == ["bodyid"]
            names = {"bodyid", *asked}
            for name in asked:
                names.update(name + end for end in self.endings)
            self.names = frozenset(names)
        stamped = self.names is not None and any(is_stamp(name) for name in self.names)
        self.needs_stamps = stamped if self.names is not None else bool(self.endings)

    def raw(self, value: bytes) -> dict[str, msgspec.Raw]:
        """The selected members of a stored annotation, as JSON texts."""
        plain, _, stamps = value.partition(b"\n")
        found = _raws.decode(plain)
        names = self.names
        if names is not None:
            found = {name: text for name, text in found.items() if name in names}
        if stamps and self.needs_stamps:
            for name, text in _raws.decode(zstd_decompress(stamps, MAX_SIZE)).items():
                if name in names if names is not None else name.endswith(self.endings):
                    found[name] = text
        return found

    def apply(self, value: bytes) -> bytes:
        """JSON of the selected members of a stored annotation: by name, and stamps after the others."""
        if self.names is None and len(self.endings) != 1:
            plain, _, stamps = value.partition(b"\n")
            if not stamps or not self.endings:
                return plain
            return b"%b,%b" % (plain[:-1], zstd_decompress(stamps, MAX_SIZE)[1:])
        return _escaped(_encode_as_is(self.raw(value)))

    def decode(self, value: bytes) -> dict[str, Any]:
        """The selected members of a stored annotation."""
        return _objects.decode(self.apply(value))
