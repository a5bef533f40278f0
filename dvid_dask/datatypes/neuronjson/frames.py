"""Annotations as Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .library import Table
from .query import Query
from .record import Selection, is_stamp, to_json

__all__ = ["arrow_table", "column_names"]


def column_names(tables: Sequence[Table], selection: Selection) -> list[str]:
    """Names of the columns beside ``bodyid``, in order: those asked for, or all there are."""
    names: set[str] = set(selection.names or ())
    if selection.names is None:
        names = {name for table in tables for name in table.field_counts()}
        names = {name for name in names if not is_stamp(name) or name.endswith(selection.endings or "\0")}
    return sorted(names - {"bodyid"})


def arrow_table(tables: Sequence[Table], selection: Selection, query: Query | None = None) -> pa.Table:
    """Annotations as an Arrow table; see `NeuronJSON.arrow`."""
    found = [None if query is None else table.find(query) for table in tables]
    bodies = [t.bodies if at is None else t.bodies[at] for t, at in zip(tables, found, strict=True)]
    columns: dict[str, Any] = {"bodyid": pa.array(np.concatenate([np.zeros(0, np.uint64), *bodies]))}
    names = column_names(tables, selection)
    of_tables = [table.columns(names) for table in tables]
    for name in names:
        columns[name] = _column([next(each) for each in of_tables], found)
    return pa.table(columns)


def _column(of_tables: Sequence[tuple[NDArray[np.int32], list[bytes]]], found: Sequence[Any]) -> pa.ChunkedArray:
    parts, values = [], []
    for (codes, texts), at in zip(of_tables, found, strict=True):
        used, inverse = np.unique(codes if at is None else codes[at], return_inverse=True)
        parts.append(pa.array(inverse))
        values.append([msgspec.json.decode(texts[code]) if code else None for code in used.tolist()])
    everything = [value for part in values for value in part]
    kind = _kind(everything)
    if kind is None:
        values = [[v if v is None else to_json(v).decode() for v in part] for part in values]
        kind = pa.string()
    chunks = [pa.array(distinct, kind).take(codes) for distinct, codes in zip(values, parts, strict=True)]
    return pa.chunked_array(chunks, kind)


def _kind(values: Sequence[Any]) -> pa.DataType | None:
    """A type that holds all values as they are; None if there is none."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if kinds == {list}:
        inner = _kind([item for value in values if value is not None for item in value])
        return None if inner is None else pa.list_(inner)
    numbers = [value for value in values if type(value) is int]
    if kinds == {int}:
        low, high = min(numbers), max(numbers)
        if low >= -(2**63) and high < 2**63:
            return pa.int64()
        return pa.uint64() if low >= 0 and high < 2**64 else None
    if kinds <= {int, float}:
        return pa.float64() if all(abs(n) <= 2**53 for n in numbers) else None
    return {frozenset({str}): pa.string(), frozenset({bool}): pa.bool_()}.get(frozenset(kinds))
