"""Elements from JSON and to JSON, in DVID's form. Coordinates there are x, y, z.

Names of fields count without regard to case, unknown ones are passed over, and a position of two numbers gets a third
one of 0, as in DVID. What clients usually send needs none of this and is decoded straight away.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from dvid_dask.datatypes.annotation.elements import NO_PROP, NO_TAGS, NULL, Elements, Texts
from dvid_dask.datatypes.annotation.kinds import KIND_NUMBER, KINDS, RELATION_NUMBER, RELATIONS
from dvid_dask.errors import BadRequest
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.json_parts import split

__all__ = [
    "MAX_NAMES",
    "Element",
    "Relation",
    "element_of",
    "elements_of",
    "listed_json",
    "parse",
    "parse_parts",
    "parse_blocks",
    "parse_label_lists",
    "to_json",
]

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Point = tuple[Int32, Int32, Int32]
Kind = Literal["Unknown", "PostSyn", "PreSyn", "Gap", "Note"]
RelationKind = Literal["UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith"]

MAX_TAG = 1 << 12
"""Bytes of a tag: it is part of a key."""

MAX_NAMES = 1 << 20
"""Blocks or bodies that one request may name."""

MAX_ELEMENT = 2 << 20
"""Bytes of one element's JSON."""

_PART = 1 << 12  # elements that are decoded together
_NAMES = 1 << 8  # blocks or bodies that are
_NULL = 64  # bytes of a body that may be nothing but null
_SMALL = 1 << 20  # bytes of some blocks that become elements at once


class Relation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A relationship of an element: what it is to whatever is at `To` (x, y, z)."""

    Rel: RelationKind = "UnknownRelationship"
    To: Point = (0, 0, 0)


class Element(msgspec.Struct, forbid_unknown_fields=True):
    """An element as DVID writes it; positions are x, y, z."""

    Pos: Point = (0, 0, 0)
    Kind: Kind = "Unknown"
    Tags: list[str] | None = None
    Prop: dict[str, str] | None = None
    Rels: list[Relation] | None = None


_list = msgspec.json.Decoder(list[Element]).decode
_object = msgspec.json.Decoder(dict[str, list[Element]]).decode
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_texts = msgspec.json.Decoder(dict[str, str]).decode
_dumps = msgspec.json.Encoder(order="sorted").encode


def parse(data: bytes | memoryview, *, blank_tags: bool = False) -> Elements:
    """Elements of a JSON array, all or none; a few thousand are decoded at a time.

    Parameters
    ----------
    data
        ``null`` is an empty list.
    blank_tags
        Whether a tag may be the empty text.

    Raises
    ------
    BadRequest
        If it is no JSON, or no list of elements.

    Examples
    --------
    >>> parse(b'[{"Pos": [1, 2, 3], "Kind": "PreSyn"}]').zyx.tolist()
    [[3, 2, 1]]
    """
    return Elements.join(list(parse_parts(data, blank_tags=blank_tags)[1]))


def parse_parts(data: bytes | memoryview, *, blank_tags: bool = False) -> tuple[int, Iterator[Elements]]:
    """As `parse`: how many elements there are, and they some thousand at a time. A bad one is told when it comes."""
    try:
        if len(data) < _NULL and bytes(data).strip() == b"null":
            return 0, iter(())
        parts = split(data, _PART)
        if not parts.is_list:
            raise FormatError("expected a list")
    except FormatError as error:
        raise BadRequest(f"the body is no JSON list of elements: {error}") from None
    return parts.items, (
        elements_of(_decoded(piece, first), blank_tags=blank_tags)
        for at, part in enumerate(parts)
        for first, piece in _small_enough(part, at * _PART, _PART)
    )


def _small_enough(part: bytes, first: int, items: int) -> Iterator[tuple[int, bytes]]:
    """A part of so many items in parts that are decoded at once, and the place of the first item of each."""
    if len(part) <= MAX_ELEMENT:
        yield first, part
        return
    every = max(1, items // 64)
    pieces = split(part, every)
    if every == 1 and pieces.longest > MAX_ELEMENT:
        raise BadRequest(f"an element of the list has {pieces.longest:,} bytes: at most {MAX_ELEMENT:,}")
    for at, piece in enumerate(pieces):
        yield from _small_enough(piece, first + at * every, every)


def _decoded(part: bytes, first: int) -> list[Element]:
    try:
        return _list(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        loose = msgspec.json.decode(part, type=list[dict[str, Any] | None])
        return [element_of(fields, first + i) for i, fields in enumerate(loose)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no list of elements: {error}") from None


def element_of(fields: Mapping[str, Any] | None, place: int) -> Element:
    """An element from JSON that is decoded already; `place` is for what is said of a bad one."""
    known = {"pos": "Pos", "kind": "Kind", "tags": "Tags", "prop": "Prop", "rels": "Rels"}
    given = _folded(fields or {}, known)
    if "Pos" in given:
        given["Pos"] = _point(given["Pos"])
    if isinstance(given.get("Tags"), list):
        given["Tags"] = ["" if t is None else t for t in given["Tags"]]
    if isinstance(given.get("Prop"), dict):
        given["Prop"] = {k: "" if v is None else v for k, v in given["Prop"].items()}
    if isinstance(given.get("Rels"), list):
        given["Rels"] = [_relation(r) for r in given["Rels"]]
    try:
        return msgspec.convert(given, Element)
    except msgspec.ValidationError as error:
        raise BadRequest(f"element {place} of the list: {error}") from None


def _relation(given: Any) -> Any:
    if given is None:
        return {}
    if not isinstance(given, dict):
        return given
    fields = _folded(given, {"rel": "Rel", "to": "To"})
    if "To" in fields:
        fields["To"] = _point(fields["To"])
    return fields


def _folded(fields: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    return {known[low]: value for name, value in fields.items() if (low := name.lower()) in known}


def _point(given: Any) -> Any:
    if given is None:
        return (0, 0, 0)
    if isinstance(given, (list, tuple)):
        return tuple(0 if v is None else v for v in (*given, 0, 0, 0)[:3])
    return given


def elements_of(items: Sequence[Element], *, blank_tags: bool = False) -> Elements:
    """Columns of elements.

    Raises
    ------
    BadRequest
        If a tag is empty, and `blank_tags` isn't set, or longer than 4096 bytes.
    """
    n = len(items)
    xyz = np.fromiter(itertools.chain.from_iterable(e.Pos for e in items), np.int32, 3 * n).reshape(-1, 3)
    kind = np.fromiter((KIND_NUMBER[e.Kind] for e in items), np.uint8, n)
    tags: dict[bytes, int] = {NULL: 0, NO_TAGS: 1}
    props: dict[bytes, int] = {NULL: 0, NO_PROP: 1}
    tag, prop, count = [0] * n, [0] * n, [-1] * n
    rel_kind: list[int] = []
    rel_to: list[tuple[int, int, int]] = []
    for i, e in enumerate(items):
        if e.Tags is not None:
            text = _dumps(e.Tags)
            if text not in tags:
                _check_tags(e.Tags, blank_tags)
            tag[i] = tags.setdefault(text, len(tags))
        if e.Prop is not None:
            prop[i] = props.setdefault(_dumps(e.Prop), len(props))
        if e.Rels is not None:
            count[i] = len(e.Rels)
            for r in e.Rels:
                rel_kind.append(RELATION_NUMBER[r.Rel])
                rel_to.append(r.To)
    return Elements.of(
        xyz[:, ::-1],
        kind,
        Texts(np.array(tag, np.int64), list(tags)),
        Texts(np.array(prop, np.int64), list(props)),
        rel_count=np.array(count, np.int64),
        rel_kind=np.array(rel_kind, np.uint8),
        rel_to=np.array(rel_to, np.int32).reshape(-1, 3)[:, ::-1],
    )


def _check_tags(tags: Iterable[str], blank: bool) -> None:
    for tag in tags:
        if not tag and not blank:
            raise BadRequest("a tag can't be an empty text")
        if len(tag.encode()) > MAX_TAG:
            raise BadRequest(f"a tag of {len(tag.encode())} bytes; at most {MAX_TAG}: {tag[:40]}...")


def parse_blocks(data: bytes | memoryview) -> Iterator[tuple[NDArray[np.int32], Elements, NDArray[np.int64]]]:
    """The body of ``POST blocks``, some blocks at a time. A bad one is told when it comes.

    Yields
    ------
    block_zyx, elements, borders
        int32 (n, 3); elements of all, block after block; int64 (n + 1,), where those of each begin.

    Raises
    ------
    BadRequest
        If it isn't ``{"x,y,z": [elements], ...}``, or names more than `MAX_NAMES` blocks, or one twice.
    """
    seen: set[int] = set()
    for names, part in _pairs(data, "blocks"):
        coords = np.array([_block_of(name) for name in names], np.int64).reshape(-1, 3)
        for name, (z, y, x) in zip(names, (coords + (1 << 31)).tolist(), strict=True):
            place = (z << 64) | (y << 32) | x
            if place in seen:
                raise BadRequest(f"block {name} comes twice")
            seen.add(place)
        lists = _lists_of(part)
        borders = np.concatenate([[0], np.cumsum([len(held) for held in lists])]).astype(np.int64)
        yield coords.astype(np.int32), Elements.join(lists), borders


def _lists_of(part: bytes) -> list[Elements]:
    """The elements of each block of an object with some."""
    if len(part) <= _SMALL:
        try:
            return [elements_of(held, blank_tags=True) if held else Elements.none() for held in _object(part).values()]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # not as clients mostly write it
    return [parse(memoryview(value), blank_tags=True) for value in _raw_object(part).values()]


def _pairs(data: bytes | memoryview, what: str) -> Iterator[tuple[list[str], bytes]]:
    """Names in a JSON object, some at a time, and the part of it that has them."""
    try:
        parts = split(data, _NAMES)
        if parts.is_list:
            raise FormatError("expected an object")
    except FormatError as error:
        raise BadRequest(f"the body is no JSON object of {what}: {error}") from None
    if parts.items > MAX_NAMES:
        raise BadRequest(f"{parts.items:,} {what} in one request: at most {MAX_NAMES:,}")
    for at, part in enumerate(parts):
        try:
            names = list(_raw_object(part))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON object of {what}: {error}") from None
        if len(names) < min(_NAMES, parts.items - at * _NAMES):
            raise BadRequest(f"one of the {what} comes twice")
        yield names, part


def _block_of(name: str) -> tuple[int, int, int]:
    parts = name.split(",")
    try:
        if len(parts) == 3:
            x, y, z = (_int32(p) for p in parts)
            return z, y, x
    except ValueError:
        pass
    raise BadRequest(f'"{name[:60]}" is no block: expected x,y,z')


def _int32(text: str) -> int:
    value = int(text)
    if not -(2**31) <= value < 2**31:
        raise ValueError(text)
    return value


def parse_label_lists(data: bytes | memoryview) -> Iterator[tuple[int, Elements]]:
    """The body of ``POST labels``, body by body: the JSON text of the list of each. Body 0 is passed over.

    Raises
    ------
    BadRequest
        If it isn't ``{"<body>": "<JSON text of a list of elements>", ...}``, or names more than `MAX_NAMES` bodies, or
        one twice.
    """
    seen: set[int] = set()
    for _, part in _pairs(data, "bodies"):
        try:
            given = _texts(part)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON object of texts by body: {error}") from None
        for name, text in given.items():
            if not (name.isascii() and name.isdigit() and len(name) <= 20 and int(name) < 2**64):
                raise BadRequest(f'"{name[:60]}" is no body')
            if int(name) in seen:
                raise BadRequest(f"body {name} comes twice")
            seen.add(int(name))
            if int(name):
                try:
                    yield int(name), parse(text.encode(), blank_tags=True)
                except BadRequest as error:
                    raise BadRequest(f"list of body {name}: {error}") from None


# ------------------------------------------------------------------ to JSON

_KINDS = [kind.encode() for kind in KINDS]
_RELS = [rel.encode() for rel in RELATIONS]


def listed_json(elements: Elements) -> list[bytes]:
    """Each element in the form of lists of bodies and tags: without relationships."""
    columns = zip(
        elements.zyx.tolist(), elements.kind.tolist(), elements.tags.each(), elements.prop.each(), strict=True
    )
    return [
        b'{"Pos":[%d,%d,%d],"Kind":"%b","Tags":%b,"Prop":%b}' % (x, y, z, _KINDS[k], t, p)
        for (z, y, x), k, t, p in columns
    ]


def to_json(elements: Elements) -> list[bytes]:
    """Each element, whole."""
    heads = listed_json(elements)
    rels = iter(_rels_json(elements))
    counts = elements.rel_count.tolist()
    return [
        b'%b,"Rels":%b}' % (head[:-1], NULL if n < 0 else b"[%b]" % b",".join(itertools.islice(rels, n)))
        for head, n in zip(heads, counts, strict=True)
    ]


def _rels_json(elements: Elements) -> Iterator[bytes]:
    for k, (z, y, x) in zip(elements.rel_kind.tolist(), elements.rel_to.tolist(), strict=True):
        yield b'{"Rel":"%b","To":[%d,%d,%d]}' % (_RELS[k], x, y, z)


def verbose_json(listed: Elements, full: Elements, places: NDArray[np.int64], partners: Mapping[Any, int],
                 held: Elements) -> list[bytes]:  # fmt: skip
    """Elements of a list, each relationship with kind, tags and properties of what it leads to.

    Parameters
    ----------
    listed
        As the list of a body or tag has them.
    full, places
        Elements of blocks, and where each of the list is among them; -1 for one that isn't.
    partners, held
        Elements of blocks, and the place of each by position (z, y, x).
    """
    heads = listed_json(listed)
    starts = np.concatenate([[0], np.cumsum(np.maximum(full.rel_count, 0))]).tolist()
    kinds, to = full.rel_kind.tolist(), full.rel_to.tolist()
    tags, props, partner_kinds = held.tags.each(), held.prop.each(), held.kind.tolist()

    def relation(i: int) -> bytes:
        z, y, x = to[i]
        more = b""
        at = partners.get((z, y, x))
        if at is not None:
            if partner_kinds[at]:
                more += b',"Kind":"%b"' % _KINDS[partner_kinds[at]]
            if tags[at] not in (NULL, NO_TAGS):
                more += b',"Tags":' + tags[at]
            if props[at] not in (NULL, NO_PROP):
                more += b',"Prop":' + props[at]
        return b'{"Rel":"%b","To":[%d,%d,%d]%b}' % (_RELS[kinds[i]], x, y, z, more)

    out = []
    for head, place in zip(heads, places.tolist(), strict=True):
        rels = [] if place < 0 else [relation(i) for i in range(starts[place], starts[place + 1])]
        out.append(b'%b,"Rels":[%b]}' % (head[:-1], b",".join(rels)))
    return out


def tag_lists(texts: Texts) -> list[list[str]]:
    """The tags that each different text stands for."""
    return [cast("list[str]", msgspec.json.decode(t)) or [] for t in texts.text]
