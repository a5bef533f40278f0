"""Where elements come from: a table in memory or in files, in parts of bounded size that Dask computes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dvid_dask.errors import BadRequest
from dvid_dask.ops.element_tables import as_arrow

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ElementTable", "TablePart", "open_elements"]

_PART = 1 << 18
_BYTES_PER_ROW = 40  # of a CSV file whose rows nobody has counted
_CSV_PART = 16 << 20
_UNKNOWN = 1 << 22  # rows that are assumed of a part whose length only computing would tell


@dataclass(frozen=True)
class TablePart:
    """Some rows of a table.

    Attributes
    ----------
    source
        A table, or what is computed or read to get one.
    first
        Number of its first row, for messages; of a part of a dataframe 0.
    """

    source: Any
    first: int = 0

    def table(self) -> pa.Table:
        """The rows."""
        source = self.source
        return source.read() if isinstance(source, (_ParquetRows, _CsvRows)) else as_arrow(source)


@dataclass(frozen=True)
class ElementTable:
    """A table in parts.

    Attributes
    ----------
    identity
        Equal for equal content, as far as can be told without reading it all: names a job.
    parts
        Dask objects that become `TablePart`.
    weights
        About how many rows each has.
    """

    identity: str
    parts: Sequence[Any]
    weights: Sequence[int]

    @property
    def rows(self) -> int:
        """About how many rows there are."""
        return sum(self.weights)


def open_elements(table: Any) -> ElementTable:
    """A table of elements in parts; its columns are looked at when parts are read.

    Raises
    ------
    BadRequest
        If it is no table, or can't be read.

    Examples
    --------
    >>> open_elements({"x": [1], "y": [2], "z": [3]}).rows
    1
    """
    if isinstance(table, (str, os.PathLike)):
        return _open_files(os.fspath(table))
    if hasattr(table, "to_delayed") and hasattr(table, "columns"):
        parts = [_as_part(part) for part in table.to_delayed()]
        return ElementTable(f"dask:{table._name}", parts, [_UNKNOWN] * len(parts))
    whole = as_arrow(table)
    digest = hashlib.blake2b(digest_size=16)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole.combine_chunks())
    digest.update(sink.getvalue())
    starts = range(0, max(len(whole), 1), _PART)
    parts = [_as_part(whole.slice(at, _PART), at) for at in starts]
    return ElementTable(f"memory:{digest.hexdigest()}", parts, [min(_PART, len(whole) - at) for at in starts])


def _as_part(source: Any, first: int = 0) -> Any:
    from dask import delayed

    return delayed(TablePart, pure=False)(source, first)


# ---------------------------------------------------------------------- files


@dataclass(frozen=True)
class _ParquetRows:
    """Row groups of a Parquet file."""

    path: str
    groups: tuple[int, ...]

    def read(self) -> pa.Table:
        import pyarrow.parquet as pq

        fs, place = _file_system(self.path)
        try:
            with fs.open(place, "rb") as f:
                return pq.ParquetFile(f).read_row_groups(list(self.groups))
        except (pa.ArrowException, OSError) as error:
            raise BadRequest(f"{self.path} can't be read as Parquet: {error}") from None


@dataclass(frozen=True)
class _CsvRows:
    """Bytes of a CSV file, from the first line that begins in a range to the last one."""

    path: str
    start: int
    stop: int
    header: bytes

    def read(self) -> pa.Table:
        import pyarrow.csv as csv

        fs, place = _file_system(self.path)
        with fs.open(place, "rb") as f:
            data = _lines(f, self.start, self.stop)
        body = data if self.start == 0 else self.header + data
        try:
            return csv.read_csv(pa.BufferReader(body), convert_options=_csv_types(self.header))
        except pa.ArrowException as error:
            raise BadRequest(f"{self.path}, the lines from byte {self.start} on: {error}") from None


def _csv_types(header: bytes) -> Any:
    """Texts stay texts, whatever they look like; integers that are none are an error."""
    import pyarrow.csv as csv

    names = header.decode("utf-8-sig", "replace").strip().split(",")
    kinds = {}
    for name in (n.strip().strip('"') for n in names):
        if name.lower() in ("x", "y", "z"):
            kinds[name] = pa.int64()
        elif name.lower() in ("kind", "tags", "prop", "props", "rels") or name.lower().startswith("prop."):
            kinds[name] = pa.string()
    return csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])


def _lines(f: Any, start: int, stop: int) -> bytes:
    """The lines that begin in [start, stop)."""
    f.seek(max(start - 1, 0))
    if start:
        f.readline()  # the rest of a line that began before
    first = f.tell()
    if first >= stop:
        return b""
    data = f.read(stop - first)
    return bytes(data if data.endswith(b"\n") else data + f.readline())


def _file_system(path: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(path)  # type: ignore[no-any-return]


def _open_files(path: str) -> ElementTable:
    fs, place = _file_system(path)
    try:
        names = _names(fs, place)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} can't be read: {error}") from None
    if not names:
        raise BadRequest(f"{path}: there is no .parquet or .csv file")
    parts: list[Any] = []
    weights: list[int] = []
    stamp = hashlib.blake2b(digest_size=16)
    for name in names:
        whole = fs.unstrip_protocol(name)
        info = fs.info(name)
        stamp.update(repr((name, info.get("size"), str(info.get("mtime") or info.get("ETag") or ""))).encode())
        open_one = _parquet_parts if name.endswith((".parquet", ".parq", ".pq")) else _csv_parts
        for source, rows in open_one(fs, name, whole, int(info.get("size") or 0)):
            parts.append(_as_part(source, 0))
            weights.append(rows)
    return ElementTable(f"files:{stamp.hexdigest()}", parts, weights)


def _names(fs: Any, place: str) -> list[str]:
    known = (".parquet", ".parq", ".pq", ".csv", ".csv.gz")
    if fs.isdir(place):
        return sorted(name for name in fs.find(place) if name.endswith(known))
    found = sorted(fs.glob(place)) if any(c in place for c in "*?[") else [place]
    if not all(name.endswith(known) for name in found):
        raise ValueError(f"expected files that end in {', '.join(known)}")
    if not all(fs.exists(name) for name in found):
        raise FileNotFoundError("no such file")
    return found


def _parquet_parts(fs: Any, name: str, whole: str, _: int) -> list[tuple[Any, int]]:
    import pyarrow.parquet as pq

    try:
        with fs.open(name, "rb") as f:
            meta = pq.ParquetFile(f).metadata
            sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise BadRequest(f"{whole} can't be read as Parquet: {error}") from None
    parts: list[tuple[Any, int]] = []
    held: list[int] = []
    rows = 0
    for i, n in enumerate(sizes):
        if held and rows + n > _PART:
            parts.append((_ParquetRows(whole, tuple(held)), rows))
            held, rows = [], 0
        held.append(i)
        rows += n
    if held:
        parts.append((_ParquetRows(whole, tuple(held)), rows))
    return parts


def _csv_parts(fs: Any, name: str, whole: str, size: int) -> list[tuple[Any, int]]:
    if name.endswith(".gz"):
        raise BadRequest(f"{whole}: unpack it first, or write Parquet; a packed CSV can't be read in parts")
    with fs.open(name, "rb") as f:
        header = f.readline()
    if not header.endswith(b"\n"):
        header += b"\n"
    starts = np.arange(0, max(size, 1), _CSV_PART).tolist()
    return [
        (_CsvRows(whole, a, min(a + _CSV_PART, size), header), max(1, (min(a + _CSV_PART, size) - a) // _BYTES_PER_ROW))
        for a in starts
    ]
