"""Annotations as Arrow tables and dataframes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dvid_dask.versions.space import Space

from .columns import Rows
from .library import Table
from .query import Query
from .record import NEURON, Selection, body_of, is_stamp, key_of, to_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["arrow_table", "column_names", "part_of_frame", "to_pandas"]

#: Marks columns of texts that are JSON, since no type holds all their values as they are.
_JSON: Final = {b"content": b"json"}


def column_names(tables: Sequence[Table], selection: Selection) -> list[str]:
    """Names of the columns beside ``bodyid``, in order: those asked for, or all there are."""
    names: set[str] = set(selection.names or ())
    if selection.names is None:
        names = {name for table in tables for name in table.field_counts()}
        names = {name for name in names if not is_stamp(name) or name.endswith(selection.endings or "\0")}
    return sorted(names - {"bodyid"})


def arrow_table(
    tables: Sequence[Table], selection: Selection, query: Query | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Annotations as an Arrow table; see `NeuronJSON.arrow`. The schema of a whole gives the types of its parts."""
    found = [None if query is None else table.find(query) for table in tables]
    bodies = [t.bodies if at is None else t.bodies[at] for t, at in zip(tables, found, strict=True)]
    names = column_names(tables, selection) if schema is None else schema.names[1:]
    of_tables = [table.columns(names) for table in tables]
    fields = [pa.field("bodyid", pa.uint64(), nullable=False)]
    columns = [pa.array(np.concatenate([np.zeros(0, np.uint64), *bodies]))]
    for name in names:
        field, column = _column(
            name, [next(each) for each in of_tables], found, None if schema is None else schema.field(name)
        )
        fields.append(field)
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))


def _column(
    name: str, of_tables: Sequence[tuple[NDArray[np.int32], list[bytes]]], found: Sequence[Any], field: Any
) -> tuple[pa.Field, pa.ChunkedArray]:
    parts, values = [], []
    for (codes, texts), at in zip(of_tables, found, strict=True):
        used, inverse = np.unique(codes if at is None else codes[at], return_inverse=True)
        parts.append(pa.array(inverse))
        values.append([msgspec.json.decode(texts[code]) if code else None for code in used.tolist()])
    if field is None:
        kind = _kind([value for part in values for value in part])
        field = pa.field(name, pa.string(), metadata=_JSON) if kind is None else pa.field(name, kind)
    if field.metadata == _JSON:
        values = [[value if value is None else to_json(value).decode() for value in part] for part in values]
    chunks = [pa.array(distinct, field.type).take(codes) for distinct, codes in zip(values, parts, strict=True)]
    return field, pa.chunked_array(chunks, field.type)


def _kind(values: Sequence[Any]) -> pa.DataType | None:
    """A type that holds all values as they are; None if there is none."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {list}:
        inner = _kind([item for value in values if value is not None for item in value])
        return None if inner is None else pa.list_(inner)
    numbers = [value for value in values if type(value) is int]
    if kinds == {int}:
        low, high = min(numbers), max(numbers)
        if low >= -(2**63) and high < 2**63:
            return pa.int64()
        return pa.uint64() if low >= 0 and high < 2**64 else None
    if kinds and kinds <= {int, float}:
        return pa.float64() if all(abs(n) <= 2**53 for n in numbers) else None
    if kinds == {bool}:
        return pa.bool_()
    return pa.string() if kinds <= {str} else None


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A table as a dataframe with Arrow's types, indexed by ``bodyid``."""
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype).set_index("bodyid")


def part_of_frame(span: tuple[int, int], space: Space, schema: pa.Schema) -> pd.DataFrame:
    """Annotations of bodies from the first to the last, both included, as a dataframe; read from the store."""
    first, last = span
    pairs = list(space.scan(NEURON, key_of(first), key_of(last) + b"\0"))
    rows = Rows()
    rows.add([value for _, value in pairs])
    bodies = np.array([body_of(key) for key, _ in pairs], np.uint64)
    return to_pandas(arrow_table([Table(bodies, rows, np.arange(len(pairs)))], Selection(), schema=schema))
