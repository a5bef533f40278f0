"""Decoding B+tree nodes of OCDBT, without tensorstore.

tensorstore's own door to them, ``ts.ocdbt.dump``, never frees what it returned (0.1.86: a megabyte for each leaf), and
is ten times slower. Format: https://google.github.io/tensorstore/kvstore/ocdbt/index.html#b-tree-node-format.
"""

from __future__ import annotations

from dataclasses import dataclass

import cramjam
import google_crc32c
import numpy as np
from numpy.typing import NDArray

_MAGIC = bytes.fromhex("0cdb20de")
_ZSTD = 1


@dataclass(frozen=True, slots=True)
class Interior:
    """An interior node: what its children begin with, where they lie, how many keys each holds, and how many bytes."""

    height: int
    keys: list[bytes]
    locations: list[str]
    prefixes: list[bytes]
    counts: list[int]
    sizes: list[int]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf: its keys, and of each value either where it lies or what it is."""

    keys: list[bytes]
    locations: list[str | None]
    inline: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Values:
    """A leaf for who looks up single keys: values are found where they are, not taken out."""

    keys: list[bytes]
    #: of each key: place in `data` of its value; or -1 - its number among those that lie in files
    places: list[int]
    lengths: list[int]
    #: of each value that lies in a file: which of `paths`, and where in it
    files: list[int]
    offsets: list[int]
    paths: list[str]
    data: bytes


def decode_node(data: bytes, prefix: bytes) -> Interior | Leaf:
    """Decode a node. Keys in a node lack the prefix that is said by its parents.

    Raises
    ------
    ValueError
        The bytes are damaged, or no node.
    """
    reader, height, files, count = _begin(data)
    return _interior(reader, height, files, count, prefix) if height else _leaf(reader, files, count, prefix)


def decode_values(data: bytes, prefix: bytes) -> Interior | Values:
    """As `decode_node`, for who looks up single keys.

    Raises
    ------
    ValueError
        The bytes are damaged, or no node.
    """
    reader, height, files, count = _begin(data)
    return _interior(reader, height, files, count, prefix) if height else _values(reader, files, count, prefix)


def _begin(data: bytes) -> tuple[_Reader, int, list[str], int]:
    reader = _open(data)
    height = reader.byte()
    files = reader.file_table()
    count = reader.number()
    if not 0 < count <= len(reader.data):
        raise ValueError(f"{count} entries in {len(reader.data)} bytes")
    return reader, height, files, count


def decode_files(data: bytes) -> list[str]:
    """Decode but the table of the data files that a node's entries lie in.

    Raises
    ------
    ValueError
        The bytes are damaged, or no node.
    """
    reader = _open(data)
    reader.byte()
    return reader.file_table()


def _open(data: bytes) -> _Reader:
    if len(data) < 18 or data[:4] != _MAGIC or int.from_bytes(data[4:12], "little") != len(data):
        raise ValueError("no node of this length begins there")
    if google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("its checksum is wrong")
    header = _Reader(data[12:-4])
    version, compression = header.number(), header.number()
    if version != 0 or compression not in (0, _ZSTD):
        raise ValueError(f"node format {version} with compression {compression} is unknown")
    body = header.data[header.at :]
    if compression == _ZSTD:
        try:
            body = bytes(cramjam.zstd.decompress(body))
        except cramjam.DecompressionError as error:
            raise ValueError(f"it can't be decompressed ({error})") from error
    return _Reader(body)


def _leaf(reader: _Reader, files: list[str], count: int, prefix: bytes) -> Leaf:
    shared, suffixes = reader.numbers(count - 1), reader.numbers(count)
    keys = reader.keys(shared, suffixes, prefix)
    lengths = reader.numbers(count).tolist()
    kinds = reader.numbers(count).tolist()
    indirect = sum(kinds)
    where = zip(reader.numbers(indirect).tolist(), reader.numbers(indirect).tolist(), strict=True)
    locations: list[str | None] = []
    inline: list[bytes | None] = []
    for kind, length in zip(kinds, lengths, strict=True):
        if kind:
            file, offset = next(where)
            locations.append(_location("value", files, file, offset, length))
            inline.append(None)
        else:
            locations.append(None)
            inline.append(reader.take(length))
    return Leaf(keys, locations, inline)


def _values(reader: _Reader, files: list[str], count: int, prefix: bytes) -> Values:
    shared, suffixes = reader.numbers(count - 1), reader.numbers(count)
    keys = reader.keys(shared, suffixes, prefix)
    lengths, outside = reader.numbers(count).astype(np.int64), reader.numbers(count) != 0
    indirect = int(outside.sum())
    file, offset = reader.numbers(indirect).tolist(), reader.numbers(indirect).tolist()
    if indirect and max(file) >= len(files):
        raise ValueError(f"it names file {max(file)} of {len(files)}")
    ends = np.cumsum(np.where(outside, 0, lengths))
    if reader.at + int(ends[-1]) > len(reader.data):
        raise ValueError("it is truncated")
    places = np.where(outside, -np.cumsum(outside), reader.at + ends - lengths)
    return Values(keys, places.tolist(), lengths.tolist(), file, offset, files, reader.data)


def _interior(reader: _Reader, height: int, files: list[str], count: int, prefix: bytes) -> Interior:
    shared, suffixes, common = reader.numbers(count - 1), reader.numbers(count), reader.numbers(count).tolist()
    keys = reader.keys(shared, suffixes, prefix)
    columns = [reader.numbers(count).tolist() for _ in range(6)]
    locations = [_location("btreenode", files, *row) for row in zip(*columns[:3], strict=True)]
    skip = len(prefix)
    prefixes = [key[: skip + length] for key, length in zip(keys, common, strict=True)]
    sizes = [nodes + values for nodes, values in zip(columns[4], columns[5], strict=True)]
    return Interior(height, keys, locations, prefixes, columns[3], sizes)


def _location(kind: str, files: list[str], file: int, offset: int, length: int) -> str:
    if file >= len(files):
        raise ValueError(f"it names file {file} of {len(files)}")
    return f"{kind}::{files[file]}:{offset}:{length}"


class _Reader:
    """Reads one thing after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self._bytes = np.frombuffer(data, np.uint8)

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise ValueError("it is truncated")
        part = self.data[self.at : end]
        self.at = end
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        return int(self.numbers(1)[0])

    def numbers(self, count: int) -> NDArray[np.uint64]:
        """A column of LEB128 numbers."""
        if count == 0:
            return np.empty(0, np.uint64)
        part = self._bytes[self.at : self.at + 10 * count]
        last = np.flatnonzero(part < 0x80)[:count]
        if len(last) < count:
            raise ValueError("it is truncated")
        first = np.empty_like(last)
        first[0] = 0
        first[1:] = last[:-1] + 1
        lengths = last - first
        self.at += int(last[-1]) + 1
        values = part[last].astype(np.uint64) << (7 * lengths).astype(np.uint64)
        for i in range(int(lengths.max())):
            more = lengths > i
            values[more] |= (part[first[more] + i] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * i)
        if lengths.max() > 9:
            raise ValueError("a number has too many bytes")
        return values

    def keys(self, shared: NDArray[np.uint64], suffixes: NDArray[np.uint64], prefix: bytes) -> list[bytes]:
        """Keys, each of which leaves out what it shares with the one before."""
        keys = []
        skip, data, at = len(prefix), self.data, self.at
        key = prefix
        for begin, length in zip([0, *shared.tolist()], suffixes.tolist(), strict=True):
            if skip + begin > len(key):
                raise ValueError("a key shares more with the one before than that has")
            key = key[: skip + begin] + data[at : at + length]
            at += length
            keys.append(key)
        if at > len(data):
            raise ValueError("it is truncated")
        self.at = at
        return keys

    def file_table(self) -> list[str]:
        count = self.number()
        if count > len(self.data):
            raise ValueError(f"{count} files in {len(self.data)} bytes")
        if count == 0:
            return []
        shared, suffixes, bases = self.numbers(count - 1), self.numbers(count), self.numbers(count)
        if bases.any():
            raise ValueError("it names files of another store")
        return [path.decode() for path in self.keys(shared, suffixes, b"")]
