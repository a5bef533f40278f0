"""Annotations of one instance in memory, for all its versions: rows that only grow, columns made when asked for.

`Rows` holds each annotation that some version has, once: a version that differs from another in three neurons adds
three rows. A `Column` gives each row a code for its value of one field, and knows each distinct value once; so a
question is put to the distinct values, and its answer is looked up for the rows of a version. A new row costs each
column one more code, when the column is next used.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .query import Demand, Exists, elements, find_regex
from .record import is_stamp, plain_part, stamps_part

__all__ = ["Column", "Rows", "Shapes"]

ABSENT: Final = 0
#: Bytes that a distinct value takes beside its text: its place in tables, and the text's own header.
_ENTRY: Final = 250
_PART: Final = 8192


class _Codes:
    """Integers by row, growing."""

    def __init__(self) -> None:
        self.array: NDArray[np.int32] = np.zeros(0, np.int32)
        self.length = 0

    def extend(self, codes: Sequence[int] | NDArray[np.int32]) -> None:
        end = self.length + len(codes)
        if end > len(self.array):
            grown = np.zeros(max(end, len(self.array) * 5 // 4), np.int32)
            grown[: self.length] = self.array[: self.length]
            self.array = grown
        self.array[self.length : end] = codes
        self.length = end


class Column:
    """The values of one field: a code for each row, and the JSON of each code. Code 0: the field is absent."""

    def __init__(self, name: str, values: Values | None = None) -> None:
        self.name = name
        self.codes = _Codes()
        self.values = values or Values()

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return self.values.nbytes + self.codes.array.nbytes

    def kept(self, rows: NDArray[np.int64]) -> Column:
        """The column of these rows alone, in ascending order; the distinct values are shared."""
        new = Column(self.name, self.values)
        new.codes.extend(self.codes.array[rows[rows < self.codes.length]])
        return new


class _CodeOf(dict[bytes, int]):
    """Codes of texts: positions in a list that new texts are added to."""

    def __init__(self, texts: list[bytes]) -> None:
        super().__init__({text: code for code, text in enumerate(texts)})
        self._texts = texts

    def __missing__(self, text: bytes) -> int:
        self[text] = code = len(self._texts)
        self._texts.append(text)
        return code


class Values:
    """Distinct values of a field, by code."""

    def __init__(self) -> None:
        self.texts: list[bytes] = [b""]
        self.nbytes = 0
        self._code_of = _CodeOf(self.texts)
        # what the first `_indexed` texts hold
        self._indexed = 1
        self._numbers: dict[int | float, list[int]] = {}
        self._booleans: dict[bool, list[int]] = {}
        self._strings: dict[str, list[int]] = {}
        self._arrow: tuple[pa.Array, list[list[int]]] | None = None

    def codes(self, texts: Sequence[bytes]) -> list[int]:
        """Codes of values, new ones for new values."""
        known = len(self.texts)
        codes = list(map(self._code_of.__getitem__, texts))
        self.nbytes += sum(len(text) + _ENTRY for text in self.texts[known:])
        return codes

    def _index(self) -> None:
        """Look into the texts that came since the last time."""
        for code in range(self._indexed, len(self.texts)):
            for item in elements(self.texts[code]):
                if isinstance(item, bool):
                    self._booleans.setdefault(item, []).append(code)
                elif isinstance(item, str):
                    self._strings.setdefault(item, []).append(code)
                    self._arrow = None
                else:
                    self._numbers.setdefault(item, []).append(code)
        self._indexed = len(self.texts)

    def fits(self, demand: Demand) -> NDArray[np.bool_]:
        """Which codes meet a demand."""
        out = np.zeros(len(self.texts), bool)
        if isinstance(demand, Exists):
            # null is never stored: it removes a field
            out[:] = demand.there
            out[ABSENT] = not demand.there
            return out
        self._index()
        _mark(out, demand.numbers, self._numbers)
        _mark(out, demand.booleans, self._booleans)
        _mark(out, demand.texts, self._strings)
        if demand.regexes and self._strings:
            if self._arrow is None:
                self._arrow = pa.array(list(self._strings), pa.large_string()), list(self._strings.values())
            strings, codes = self._arrow
            for regex in demand.regexes:
                for at in np.flatnonzero(find_regex(strings, regex).to_numpy(zero_copy_only=False)).tolist():
                    out[codes[at]] = True
        return out


def _mark(out: NDArray[np.bool_], wanted: set[Any], known: dict[Any, list[int]]) -> None:
    few, many = (wanted, known) if len(wanted) < len(known) else (known, wanted)
    for item in few:
        if item in many:
            out[known[item]] = True


class Shapes:
    """Which members an annotation has: a code by row, and the names of each code."""

    def __init__(self) -> None:
        self.codes = _Codes()
        self.names: list[tuple[str, ...]] = []
        self._code_of: dict[tuple[str, ...], int] = {}
        self.nbytes = 0

    def add(self, values: Sequence[bytes]) -> None:
        """The next rows, as they are stored."""
        decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        codes = []
        for value in values:
            names = *decode(plain_part(value)), *decode(stamps_part(value))
            code = self._code_of.get(names)
            if code is None:
                code = self._code_of[names] = len(self.names)
                self.names.append(names)
                self.nbytes += 8 * len(names) + _ENTRY
            codes.append(code)
        self.codes.extend(codes)

    def kept(self, rows: NDArray[np.int64]) -> Shapes:
        """As `Column.kept`."""
        new = Shapes()
        new.names, new._code_of, new.nbytes = self.names, self._code_of, self.nbytes
        new.codes.extend(self.codes.array[rows[rows < self.codes.length]])
        return new


class Rows:
    """Stored annotations by row. Adding rows and looking at columns is safe from any thread."""

    #: Columns kept; those unused for longest go first.
    MOST = 400

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.values: list[bytes] = []
        self._columns: dict[str, Column] = {}
        self._shapes = Shapes()
        self._value_bytes = 0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """About how much memory all of it takes."""
        with self._lock:
            return self._value_bytes + self._shapes.nbytes + sum(c.nbytes for c in self._columns.values())

    def add(self, values: Sequence[bytes]) -> int:
        """Add rows; returns the number of the first."""
        with self._lock:
            first = len(self.values)
            self.values.extend(values)
            self._value_bytes += sum(map(len, values)) + 41 * len(values)
            return first

    def columns(self, names: Sequence[str]) -> list[tuple[NDArray[np.int32], Column]]:
        """Codes of all rows, and the columns they are codes of; what is missing is made in one pass."""
        with self._lock:
            found = []
            for name in dict.fromkeys(names):
                # asked for last, so last to go
                self._columns[name] = column = self._columns.pop(name, None) or Column(name)
                found.append(column)
            for stamps in (False, True):
                for group in _by_length([c for c in found if is_stamp(c.name) == stamps]):
                    self._fill(group, stamps)
            for name in list(self._columns)[: max(0, len(self._columns) - max(self.MOST, len(found)))]:
                del self._columns[name]
            by_name = {c.name: c for c in found}
            return [(by_name[name].codes.array, by_name[name]) for name in names]

    def fits(self, name: str, demand: Demand) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Codes of all rows in a field, and which codes meet a demand."""
        with self._lock:
            ((codes, column),) = self.columns([name])
            return codes, column.values.fits(demand)

    def shapes(self) -> tuple[NDArray[np.int32], list[tuple[str, ...]]]:
        """A code for each row, and the names of members for each code."""
        with self._lock:
            self._shapes.add(self.values[self._shapes.codes.length :])
            return self._shapes.codes.array, self._shapes.names

    def trim(self, limit: int) -> None:
        """Drop columns, those unused for longest first, until all of it takes `limit` bytes."""
        with self._lock:
            for name in list(self._columns):
                if self.nbytes <= limit:
                    break
                del self._columns[name]

    def _fill(self, columns: Sequence[Column], stamps: bool) -> None:
        begin = columns[0].codes.length
        part_of = stamps_part if stamps else plain_part
        names = {f"f{i}": column.name for i, column in enumerate(columns)}
        members = msgspec.defstruct("Members", [(f, msgspec.Raw, _NOTHING) for f in names], rename=names.get)
        decode = msgspec.json.Decoder(members).decode
        for at in range(begin, len(self.values), _PART):
            found = [msgspec.structs.astuple(decode(part_of(value))) for value in self.values[at : at + _PART]]
            for column, texts in zip(columns, zip(*found, strict=True), strict=True):
                column.codes.extend(column.values.codes(list(map(bytes, texts))))

    def compacted(self, keep: NDArray[np.int64]) -> Rows:
        """These rows alone, in this order."""
        with self._lock:
            new = Rows()
            # what is known of distinct values is shared, and who still has the old rows may add to it
            new._lock = self._lock
            new.add(list(map(self.values.__getitem__, keep.tolist())))
            new._columns = {name: column.kept(keep) for name, column in self._columns.items()}
            new._shapes = self._shapes.kept(keep)
            return new


_NOTHING = msgspec.Raw()


def _by_length(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns that know equally many rows, together."""
    groups: dict[int, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.codes.length, []).append(column)
    return list(groups.values())
