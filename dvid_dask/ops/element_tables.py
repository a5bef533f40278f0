"""Tables of annotation elements: Arrow columns to elements and back, without a step per element where that can be.

==================  ===================================================================================================
column              what it holds
==================  ===================================================================================================
``x``, ``y``, ``z`` integers: the position in voxels
``kind``            ``Unknown``, ``PostSyn``, ``PreSyn``, ``Gap`` or ``Note``; without the column all are ``Unknown``
``tags``            a list of strings, or its JSON text
``prop``            a map or struct of strings, or its JSON text; ``props`` is the same
``prop.NAME``       one property each: strings, numbers, booleans; none where it is missing. Not beside ``prop``
``rels``            a list of structs ``rel``, ``x``, ``y``, ``z``, or the JSON text of DVID's ``Rels``
==================  ===================================================================================================

Only the position is required. Other columns are passed over; names may be in any case. What is missing (null) in a
column of tags, properties or relationships is an empty list. Dataframes and files come as Arrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dvid_dask.datatypes.annotation.elements import NO_PROP, NO_TAGS, NULL, Elements, Texts
from dvid_dask.datatypes.annotation.kinds import KINDS, RELATION_NUMBER, RELATIONS
from dvid_dask.datatypes.annotation.parsing import MAX_TAG, Relation
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SCHEMA", "as_arrow", "from_arrow", "to_arrow"]

_POSITION = ("x", "y", "z")
_PROP = "prop."

_REL = pa.struct([("rel", pa.string()), *((axis, pa.int32()) for axis in _POSITION)])

SCHEMA = pa.schema(
    [
        *((axis, pa.int32()) for axis in _POSITION),
        ("kind", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("prop", pa.map_(pa.string(), pa.string())),
        ("rels", pa.list_(_REL)),
    ]
)
"""Columns of `to_arrow`."""

_dumps = msgspec.json.Encoder(order="sorted").encode


# ---------------------------------------------------------------------- from a table


def as_arrow(table: Any) -> pa.Table:
    """A table in memory as Arrow: a dataframe, an Arrow table or batch, or a mapping of names to columns.

    Raises
    ------
    BadRequest
        If it is none of these.
    """
    try:
        if isinstance(table, pa.Table):
            return table
        if isinstance(table, pa.RecordBatch):
            return pa.Table.from_batches([table])
        if hasattr(table, "columns") and hasattr(table, "dtypes"):
            return pa.Table.from_pandas(table, preserve_index=False)
        if isinstance(table, Mapping):
            return pa.table(dict(table))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise BadRequest(f"this can't be read as a table of elements: {error}") from None
    raise BadRequest(
        f"a {type(table).__name__} is no table of elements: expected a dataframe, an Arrow table, columns by name, or "
        "a path"
    )


def from_arrow(table: pa.Table, first: int = 0) -> Elements:
    """The elements of a table, in its order; see the module for the columns.

    Parameters
    ----------
    table
        Some rows of a table.
    first
        Number of the first of them, for messages.

    Raises
    ------
    BadRequest
        If a column is missing or holds something else, with the first such row.

    Examples
    --------
    >>> table = pa.table({"x": [1, 2], "y": [3, 4], "z": [5, 6], "kind": ["PreSyn", "PostSyn"]})
    >>> found = from_arrow(table)
    >>> found.zyx.tolist(), found.kind.tolist()
    ([[5, 3, 1], [6, 4, 2]], [2, 1])
    """
    by_name = _columns(table)
    missing = [axis for axis in _POSITION if axis not in by_name]
    if missing:
        raise BadRequest(
            f"the table has no column {', '.join(missing)}: expected x, y, z and maybe kind, tags, prop, rels; it has "
            f"{', '.join(table.column_names) or 'none'}"
        )
    zyx = np.stack([_int32(by_name[axis], axis, first) for axis in reversed(_POSITION)], axis=1)
    count, rel_kind, rel_to = _rels(by_name.get("rels"), len(zyx), first)
    return Elements.of(
        zyx,
        _kinds(by_name.get("kind"), len(zyx), first),
        _tags(by_name.get("tags"), len(zyx), first),
        _all_props(by_name, len(zyx), first),
        rel_count=count,
        rel_kind=rel_kind,
        rel_to=rel_to,
    )


def _columns(table: pa.Table) -> dict[str, pa.Array]:
    by_name: dict[str, pa.Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        head, dot, rest = name.partition(".")
        known = head.lower() + dot + rest if dot else name.lower()
        known = "prop" if known == "props" else known
        if known in by_name:
            raise BadRequest(f"the table has two columns {known!r}")
        by_name[known] = column
    wanted = {*_POSITION, "kind", "tags", "prop", "rels"}
    return {name: _one_array(column) for name, column in by_name.items() if name in wanted or name.startswith(_PROP)}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    return array


def _bad(first: int, wrong: Any, what: str) -> BadRequest:
    """An error that names the first wrong row."""
    rows = np.flatnonzero(np.asarray(wrong))
    more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
    return BadRequest(f"row {first + int(rows[0])}{more} of the table: {what}")


def _nulls(array: pa.Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return found


def _int32(array: pa.Array, name: str, first: int, what: str = "column") -> NDArray[np.int32]:
    if pa.types.is_null(array.type) and not len(array):
        return np.empty(0, np.int32)
    if array.null_count:
        raise _bad(first, _nulls(array), f"{what} {name!r} has no value")
    if not pa.types.is_integer(array.type):
        raise BadRequest(f"{what} {name!r} holds {array.type}: positions are integers, read the column as int32")
    values = array.to_numpy(zero_copy_only=False)
    wrong = values > 2**31 - 1
    if values.dtype.kind == "i":
        wrong |= values < -(2**31)
    if wrong.any():
        raise _bad(first, wrong, f"{name} {values[wrong][0]} is outside {-(2**31)}..{2**31 - 1}")
    out: NDArray[np.int32] = values.astype(np.int32)
    return out


def _kinds(array: pa.Array | None, n: int, first: int) -> NDArray[np.uint8]:
    if array is None:
        return np.zeros(n, np.uint8)
    return _numbers(array, KINDS, "kind", first)


def _numbers(array: pa.Array, names: Sequence[str], what: str, first: int) -> NDArray[np.uint8]:
    """Places of texts among names; null is the first."""
    number, distinct = _dictionary(array, what)
    codes = np.array([names.index(t) if t in names else 255 for t in distinct], np.uint8)
    out = np.where(number < 0, 0, codes[number] if len(codes) else 0).astype(np.uint8)
    if (out == 255).any():
        wrong = out == 255
        given = distinct[int(number[wrong][0])]
        raise _bad(first, wrong, f"{what} {given[:40]!r} is none of {', '.join(names)}")
    return out


def _dictionary(array: pa.Array, what: str) -> tuple[NDArray[np.int64], list[str]]:
    """The different texts of a column, and the place of each row's text among them; -1 for null."""
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, np.int64), []
    if not pa.types.is_dictionary(array.type):
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or _is_view(array.type)):
            raise BadRequest(f"column {what!r} holds {array.type}, expected texts")
        array = array.dictionary_encode()
    values = array.dictionary
    if pa.types.is_null(values.type):
        return np.full(len(array), -1, np.int64), []
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or _is_view(values.type)):
        raise BadRequest(f"column {what!r} holds {values.type}, expected texts")
    number = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return number, values.to_pylist()


def _is_view(kind: pa.DataType) -> bool:
    return bool(getattr(pa.types, "is_string_view", lambda _: False)(kind))


def _texts(array: pa.Array, what: str, first: int, convert: Callable[[str], bytes], empty: bytes) -> Texts:
    """A column of JSON texts, each different one checked and written in the one form."""
    number, distinct = _dictionary(array, what)
    made: list[bytes] = [empty]
    for place, text in enumerate(distinct):
        try:
            made.append(convert(text))
        except (msgspec.DecodeError, BadRequest, UnicodeError, RecursionError) as error:
            raise _bad(first, number == place, f"{what} {text[:60]!r}: {error}") from None
    return Texts(number + 1, made)


# ---------------------------------------------------------------------- tags


_tag_list = msgspec.json.Decoder(list[str] | None).decode
_prop_object = msgspec.json.Decoder(dict[str, str] | None).decode
_rel_lists = msgspec.json.Decoder(list[list[Relation] | None]).decode
_rel_list = msgspec.json.Decoder(list[Relation] | None).decode


def _tag_text(text: str) -> bytes:
    return _tags_json(_tag_list(text) or [])


def _tags_json(tags: Sequence[Any]) -> bytes:
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise BadRequest(f"{tag!r} can't be a tag: expected a text that is not empty")
        if len(tag.encode()) > MAX_TAG:
            raise BadRequest(f"a tag of {len(tag.encode())} bytes; at most {MAX_TAG}")
    return _dumps(tags)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _tags(array: pa.Array | None, n: int, first: int) -> Texts | None:
    if array is None or pa.types.is_null(array.type):
        return None
    if not _is_list(array.type):
        return _texts(array, "tags", first, _tag_text, NO_TAGS)
    if len(array) and array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).max() == 0:
        return None
    # lists as texts that tell them apart; what the texts stand for is looked up once for each
    values = array.flatten()
    number, distinct = _dictionary(values, "tags")
    sizes = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(sizes)
    if (number < 0).any():
        null = int(np.searchsorted(ends, int(np.flatnonzero(number < 0)[0]), "right"))
        raise _bad(first, np.arange(n) == null, "a tag is null")
    which, rows = _same_lists(number, sizes)
    made: list[bytes] = [NO_TAGS]
    starts = (ends - sizes).tolist()
    for place, row in enumerate(rows):
        tags = [distinct[i] for i in number[starts[row] : starts[row] + int(sizes[row])].tolist()]
        try:
            made.append(_tags_json(tags))
        except BadRequest as error:
            raise _bad(first, which == place, str(error)) from None
    return Texts(which + 1, made)


def _same_lists(number: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Which lists of numbers are equal: the place of each list among the different ones, and a row of each of those.

    Examples
    --------
    >>> _same_lists(np.array([4, 4, 7, 4]), np.array([1, 2, 0, 1]))
    (array([0, 1, 2, 0]), [0, 1, 2])
    """
    which = np.zeros(len(sizes), np.int64)
    starts = np.cumsum(sizes) - sizes
    members = np.append(number, -1) + 1  # 0 stands for the end of a list
    most = int(members.max()) + 1
    alive = np.arange(len(sizes))
    before = given = 0
    # refine by one more member at a time: as many steps as the longest list has members
    for step in range(int(sizes.max(initial=0)) + 1):
        member = members[np.where(step < sizes[alive], starts[alive] + step, len(number))]
        found = _numbered((which[alive] - before) * most + member)
        which[alive] = found + given  # apart from lists that have ended
        before, given = given, given + int(found.max(initial=-1)) + 1
        alive = alive[sizes[alive] > step]
        if not len(alive):
            break
    which = _numbered(which)
    rows = np.flatnonzero(np.diff(np.maximum.accumulate(which), prepend=-1))
    return which, rows.tolist()


def _numbered(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each value among the different ones, in the order in which these come; nothing is sorted."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------- properties


def _prop_text(text: str) -> bytes:
    return _dumps(_prop_object(text) or {})


def _all_props(by_name: Mapping[str, pa.Array], n: int, first: int) -> Texts | None:
    apart = sorted(name for name in by_name if name.startswith(_PROP))
    whole = by_name.get("prop")
    if whole is not None and apart:
        raise BadRequest(f"the table has both prop and {apart[0]}: properties come in one column or in one each")
    if apart:
        return _joined_props({name[len(_PROP) :]: by_name[name] for name in apart}, n)
    if whole is None or pa.types.is_null(whole.type):
        return None
    if pa.types.is_struct(whole.type):
        names = [whole.type.field(i).name for i in range(whole.type.num_fields)]
        held = {name: _under(whole, i) for i, name in enumerate(names)}
        return _joined_props({name: held[name] for name in sorted(held)}, n)
    if pa.types.is_map(whole.type):
        return _map_props(whole, first)
    return _texts(whole, "prop", first, _prop_text, NO_PROP)


def _under(struct: pa.Array, i: int) -> pa.Array:
    """A field of a struct; null where the struct is."""
    return pc.if_else(struct.is_valid(), struct.field(i), None) if struct.null_count else struct.field(i)


def _map_props(array: pa.Array, first: int) -> Texts:
    rows = array.to_pylist()
    made: list[bytes] = []
    for i, row in enumerate(rows):
        held = dict(row or ())
        if not all(isinstance(v, str) for v in held.values()):
            raise BadRequest(f"row {first + i} of the table: properties are texts, not {held}"[:200])
        made.append(_dumps(held))
    return Texts.of(made)


def _joined_props(columns: Mapping[str, pa.Array], n: int) -> Texts:
    """JSON objects from a column for each property, made by whole columns."""
    parts = [_members(name, column) for name, column in columns.items()]
    if not parts:
        return Texts.all_the_same(NO_PROP, n)
    # the empty text at the end is never missing: of rows without any text, Arrow's join makes no row at all
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*parts, "", ",", null_handling="skip"), 0, -1)
    whole = pc.binary_join_element_wise("{", joined, "}", "")
    encoded = whole.dictionary_encode()
    number = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Texts(number, [text.encode() for text in encoded.dictionary.to_pylist()])


def _members(name: str, column: pa.Array) -> pa.Array:
    """``"name":"value"`` for each row; null where there is none."""
    kind = column.type
    if (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        head = (_dumps(name) + b':"').decode()
        return pc.binary_join_element_wise(head, column.cast(pa.string()), '"', "", null_handling="emit_null")
    number, distinct = _dictionary(column, f"{_PROP}{name}")
    head = _dumps(name).decode() + ":"
    members = pa.array([head + _dumps(text).decode() for text in distinct], pa.string())
    return members.take(pa.array(number, mask=number < 0))


# ---------------------------------------------------------------------- relationships


def _rels(array: pa.Array | None, n: int, first: int) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int32]]:
    none = np.zeros(n, np.int64), np.empty(0, np.uint8), np.empty((0, 3), np.int32)
    if array is None or pa.types.is_null(array.type):
        return none
    if not _is_list(array.type):
        return _rels_of_texts(array, first)
    sizes = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    inner = array.flatten()
    if not len(inner):
        return none
    if not pa.types.is_struct(inner.type):
        raise BadRequest(f"column 'rels' holds lists of {inner.type}: expected structs of rel, x, y, z")
    names = [inner.type.field(i).name for i in range(inner.type.num_fields)]
    missing = [name for name in ("rel", *_POSITION) if name not in names]
    if missing or inner.null_count:
        raise BadRequest(f"column 'rels' holds structs without {', '.join(missing) or 'values'}: rel, x, y, z")
    kind = _numbers(inner.field(names.index("rel")), RELATIONS, "rel", first)
    to = [_int32(inner.field(names.index(axis)), axis, first, "field") for axis in reversed(_POSITION)]
    return sizes, kind, np.stack(to, axis=1)


def _rels_of_texts(array: pa.Array, first: int) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int32]]:
    number, distinct = _dictionary(array, "rels")
    try:
        lists = _rel_lists("[" + ",".join(distinct) + "]")
        good = len(lists) == len(distinct)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        good = False
    if not good:
        lists = []
        for place, text in enumerate(distinct):
            try:
                lists.append(_rel_list(text))
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise _bad(first, number == place, f"rels {text[:60]!r}: {error}") from None
    each = [*(held or [] for held in lists), []]
    rows = [each[i] for i in number.tolist()]
    flat = list(itertools.chain.from_iterable(rows))
    to = np.array([r.To for r in flat], np.int32).reshape(-1, 3)[:, ::-1]
    kind = np.array([RELATION_NUMBER[r.Rel] for r in flat], np.uint8)
    return np.array([len(r) for r in rows], np.int64), kind, to


# ---------------------------------------------------------------------- to a table


def to_arrow(elements: Elements) -> pa.Table:
    """The elements as a table of `SCHEMA`; null where tags, properties or relationships are none."""
    x, y, z = (pa.array(elements.zyx[:, axis]) for axis in (2, 1, 0))
    kind = pa.DictionaryArray.from_arrays(pa.array(elements.kind), pa.array(KINDS)).cast(pa.string())
    tags = [msgspec.json.decode(text) for text in elements.tags.text]
    props = [None if text == NULL else list(msgspec.json.decode(text).items()) for text in elements.prop.text]
    columns = [
        *(x, y, z, kind),
        pa.array(tags, SCHEMA.field("tags").type).take(pa.array(elements.tags.number)),
        pa.array(props, SCHEMA.field("prop").type).take(pa.array(elements.prop.number)),
        _rels_column(elements),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _rels_column(elements: Elements) -> pa.Array:
    names = pa.DictionaryArray.from_arrays(pa.array(elements.rel_kind), pa.array(RELATIONS)).cast(pa.string())
    to = [pa.array(np.ascontiguousarray(elements.rel_to[:, axis])) for axis in (2, 1, 0)]
    structs = pa.StructArray.from_arrays([names, *to], fields=[_REL.field(i) for i in range(4)])
    offsets = np.concatenate([[0], np.cumsum(np.maximum(elements.rel_count, 0))]).astype(np.int32)
    missing = np.append(elements.rel_count < 0, np.bool_(False))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32(), mask=missing), structs)
