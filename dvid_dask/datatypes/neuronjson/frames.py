"""Annotations as Arrow tables and dataframes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dvid_dask.formats.distinct import distinct
from dvid_dask.versions.space import Space

from .columns import Rows
from .library import Table
from .query import Query
from .record import NEURON, Selection, body_of, is_stamp, key_of, to_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["arrow_batches", "arrow_table", "column_names", "part_of_frame", "to_pandas"]

#: Marks columns of texts that are JSON, since no type holds all their values as they are.
_JSON: Final = {b"content": b"json"}

#: Rows of a batch.
_ROWS: Final = 1 << 13


def column_names(tables: Sequence[Table], selection: Selection) -> list[str]:
    """Names of the columns beside ``bodyid``, in order: those asked for, or all there are."""
    names: set[str] = set(selection.names or ())
    if selection.names is None:
        names = {name for table in tables for name in table.field_counts()}
        names = {name for name in names if not is_stamp(name) or name.endswith(selection.endings or "\0")}
    return sorted(names - {"bodyid"})


def arrow_batches(
    tables: Sequence[Table], selection: Selection, query: Query | None = None, schema: pa.Schema | None = None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Annotations as an Arrow schema, and batches of some thousand rows that are made one after the other.

    What is held beside a batch is the distinct values of each column. The schema of a whole gives the types of its
    parts.
    """
    found = [None if query is None else table.find(query) for table in tables]
    names = column_names(tables, selection) if schema is None else schema.names[1:]
    of_tables = [table.columns(names) for table in tables]
    fields = [pa.field("bodyid", pa.uint64(), nullable=False)]
    columns: list[list[_Part]] = [[] for _ in tables]
    for name in names:
        of_column = [next(each) for each in of_tables]
        field, parts = _column(name, of_column, found, None if schema is None else schema.field(name))
        fields.append(field)
        for mine, part in zip(columns, parts, strict=True):
            mine.append(part)
    whole = pa.schema(fields)
    return whole, _batches(whole, [t.bodies for t in tables], columns, found)


def _batches(
    schema: pa.Schema, bodies: Sequence[NDArray[np.uint64]], columns: Sequence[Sequence[_Part]], found: Sequence[Any]
) -> Iterator[pa.RecordBatch]:
    for ids, parts, at in zip(bodies, columns, found, strict=True):
        count = len(ids) if at is None else len(at)
        for first in range(0, count, _ROWS):
            rows = slice(first, first + _ROWS) if at is None else at[first : first + _ROWS]
            arrays = [pa.array(ids[rows]), *(part.rows(rows) for part in parts)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def arrow_table(
    tables: Sequence[Table], selection: Selection, query: Query | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Annotations as an Arrow table; see `NeuronJSON.arrow`."""
    whole, batches = arrow_batches(tables, selection, query, schema)
    return pa.Table.from_batches(batches, whole)


@dataclass(frozen=True)
class _Part:
    """A column of one table: its distinct values, where each code's is, and the codes of all rows."""

    distinct: pa.Array
    place: NDArray[np.int32]
    codes: NDArray[np.int32]

    def rows(self, which: Any) -> pa.Array:
        """The values of some rows."""
        return self.distinct.take(pa.array(self.place[self.codes[which]]))


def _column(
    name: str, of_tables: Sequence[tuple[NDArray[np.int32], list[bytes]]], found: Sequence[Any], field: Any
) -> tuple[pa.Field, list[_Part]]:
    used, values = [], []
    for (codes, texts), at in zip(of_tables, found, strict=True):
        used.append(distinct(codes if at is None else codes[at]))
        values.append([msgspec.json.decode(texts[code]) if code else None for code in used[-1].tolist()])
    if field is None:
        kind = _kind([value for part in values for value in part])
        field = pa.field(name, pa.string(), metadata=_JSON) if kind is None else pa.field(name, kind)
    if field.metadata == _JSON:
        values = [[value if value is None else to_json(value).decode() for value in part] for part in values]
    parts = []
    for (codes, texts), mine, each in zip(of_tables, used, values, strict=True):
        place = np.zeros(len(texts), np.int32)
        place[mine] = np.arange(len(mine))
        parts.append(_Part(pa.array(each, field.type), place, codes))
    return field, parts


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
