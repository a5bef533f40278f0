"""Tables of ids, whatever holds them: pandas, Arrow, numpy, a dask dataframe, or a file.

=================================  ==================================================================
table                              how its columns are found
=================================  ==================================================================
pandas or dask dataframe           by name
Arrow table                        by name
mapping of name to array           by name
numpy structured array             by name
numpy array (n, columns)           by position
path of ``.parquet``, ``.csv``     by name; a folder or pattern of such files is one table
path of ``.npy``                   by position, or by name if structured
=================================  ==================================================================

Names may be in any case. Ids are unsigned 64-bit: negative numbers, fractions, missing values are refused, and floats
altogether, for they can't tell large ids apart.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IdTable", "columns_of", "open_table"]


@dataclass(frozen=True)
class IdTable:
    """Columns of ids, in memory or in parts that Dask computes.

    Attributes
    ----------
    names
        Of the columns.
    identity
        Equal for equal content, as far as can be told without reading it all: names a job.
    columns
        uint64 (n,) each; None if the table is in parts.
    parts
        Dask objects that are dataframes.
    """

    names: tuple[str, ...]
    identity: str
    columns: tuple[NDArray[np.uint64], ...] | None
    parts: tuple[Any, ...] = ()

    def load(self) -> tuple[NDArray[np.uint64], ...]:
        """The columns, all in memory."""
        if self.columns is not None:
            return self.columns
        import dask

        loaded = [columns_of(part, self.names) for part in dask.compute(*self.parts)]
        empty = (np.empty(0, np.uint64),) * len(self.names)
        return tuple(np.concatenate([p[i] for p in (empty, *loaded)]) for i in range(len(self.names)))


def open_table(table: Any, names: Sequence[str]) -> IdTable:
    """A table as columns of these names.

    Raises
    ------
    BadRequest
        If it isn't such a table, or its values are no ids.

    Examples
    --------
    >>> open_table([[1, 10], [2, 10]], ("supervoxel", "body")).load()
    (array([1, 2], dtype=uint64), array([10, 10], dtype=uint64))
    """
    wanted = tuple(names)
    if isinstance(table, (str, os.PathLike)):
        table = _open_file(os.fspath(table), wanted)
    if _is_dask(table):
        chosen = table[list(_found(list(table.columns), wanted))]
        parts = tuple(chosen.to_delayed())
        return IdTable(wanted, f"dask:{chosen._name}", None, parts)
    columns = columns_of(table, wanted)
    digest = hashlib.blake2b(digest_size=16)
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return IdTable(wanted, f"memory:{digest.hexdigest()}", columns)


def _is_dask(table: Any) -> bool:
    return hasattr(table, "to_delayed") and hasattr(table, "columns")


def _open_file(path: str, names: tuple[str, ...]) -> Any:
    import dask.dataframe as dd

    if path.endswith(".npy"):
        return np.load(path, mmap_mode="r")
    try:
        if path.endswith((".csv", ".csv.gz")):
            return dd.read_csv(path, blocksize=None if path.endswith(".gz") else "64MB")
        return dd.read_parquet(path)
    except (OSError, ValueError) as e:
        raise BadRequest(f"{path} can't be read as a table of {', '.join(names)} (.parquet, .csv or .npy): {e}") from e


def _found(have: Sequence[Any], names: tuple[str, ...]) -> list[Any]:
    by_name = {str(h).lower(): h for h in have}
    missing = [n for n in names if n not in by_name]
    if missing:
        raise BadRequest(
            f"the table has no column {', '.join(missing)}: expected {', '.join(names)}, "
            f"it has {', '.join(map(str, have)) or 'none'}"
        )
    return [by_name[n] for n in names]


def columns_of(table: Any, names: Sequence[str]) -> tuple[NDArray[np.uint64], ...]:
    """The columns of a table in memory, checked, as uint64.

    Raises
    ------
    BadRequest
        As `open_table`.
    """
    wanted = tuple(names)
    if isinstance(table, Mapping):
        values = [table[n] for n in _found(list(table), wanted)]
    elif hasattr(table, "column_names"):
        values = [table.column(n) for n in _found(table.column_names, wanted)]
    elif hasattr(table, "columns"):
        values = [table[n] for n in _found(list(table.columns), wanted)]
    else:
        # of a list numpy would make floats as soon as some ids are above 2**63
        array = np.asarray(table) if hasattr(table, "dtype") else np.array(table, object)
        if array.dtype.names:
            values = [array[n] for n in _found(array.dtype.names, wanted)]
        else:
            if array.size == 0:
                array = np.empty((0, len(wanted)), np.uint64)
            if array.ndim != 2 or array.shape[1] != len(wanted):
                raise BadRequest(
                    f"an array of shape {array.shape}: expected one row for each of (n, {len(wanted)}), the columns "
                    f"{', '.join(wanted)}"
                )
            values = [array[:, i] for i in range(len(wanted))]
    columns = tuple(_ids(v, n) for v, n in zip(values, wanted, strict=True))
    if len({len(c) for c in columns}) > 1:
        raise BadRequest(f"columns {', '.join(wanted)} of {', '.join(str(len(c)) for c in columns)} rows")
    return columns


def _ids(values: Any, name: str) -> NDArray[np.uint64]:
    missing = getattr(values, "null_count", 0)
    if not missing and hasattr(values, "isna"):
        missing = int(values.isna().sum())
    if missing:
        raise BadRequest(f"column {name!r} has {missing:,} missing values")
    array = np.asarray(values) if hasattr(values, "dtype") or hasattr(values, "type") else np.array(values, object)
    if array.dtype == object and all(isinstance(v, (int, np.integer)) and 0 <= v < 1 << 64 for v in array.flat):
        array = array.astype(np.uint64)
    elif array.dtype == object:
        array = np.array(array.tolist())  # numpy says what else is in it
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind not in "iu":
        hint = ": floats can't tell ids above 2**53 apart, read the column as uint64" if array.dtype.kind == "f" else ""
        raise BadRequest(f"column {name!r} holds {array.dtype}, ids are unsigned integers{hint}")
    if array.ndim != 1:
        raise BadRequest(f"column {name!r} has {array.ndim} dimensions")
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise BadRequest(f"column {name!r} holds the negative number {int(array.min())}")
    return np.ascontiguousarray(array, np.uint64)
