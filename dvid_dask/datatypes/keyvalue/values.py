"""How values lie in the store: small ones as they are, large ones in chunks, so that a part is read alone.

Storage, below the instance's prefix:

===============================  ==================================================
``k`` key                        the value; of a large one its head: `_HEAD`
``c`` id, number                 chunks of a large value: 1 MiB each, the last one shorter
``u`` id                         JSON: a large value whose chunks are being written; its head is not there yet
===============================  ==================================================

An id is random and used once. A head is written after its chunks, in one commit with what else belongs to it, so a
value is there as a whole or not at all. Chunks whose head never came are removed by a later upload, a day after.

A value that begins as a head does is stored in chunks however small it is, so the two can't be confused.
"""

from __future__ import annotations

import hashlib
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dvid_dask.errors import Conflict
from dvid_dask.store import BadStore

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Space, TxSpace

    Stage = Callable[[Callable[[Any, TxSpace], None]], None]

__all__ = [
    "CHUNK",
    "CHUNKS",
    "NOTES",
    "Upload",
    "Value",
    "drop_chunks",
    "is_large",
    "missing_chunks",
    "size_of",
]

CHUNKS, NOTES = b"c", b"u"

CHUNK = 1 << 20
"""Bytes of a chunk, and of the largest value that is stored as it is."""

_STAGED = 16 << 20  # bytes of chunks that are held until they get a commit of their own
_AHEAD = 4  # chunks read at a time
_STALE = 24 * 3600.0

#: 0xf5 is in no UTF-8 text and begins no common file format.
_MAGIC = b"\xf5dvid-dask\x00\x01"
#: After the magic: id, size, bytes of a chunk, BLAKE2b-128 of the whole value. Short enough to lie in a tree's leaf.
_HEAD = struct.Struct(">16sQI16s")
_HEAD_BYTES = len(_MAGIC) + _HEAD.size


class _Head(NamedTuple):
    id: bytes
    size: int
    chunk: int
    digest: bytes

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk)


def is_large(stored: bytes | bytearray | memoryview) -> bool:
    """Whether what is stored is the head of a value that lies in chunks."""
    return stored[: len(_MAGIC)] == _MAGIC


def _head(stored: bytes) -> _Head:
    if len(stored) != _HEAD_BYTES:
        raise BadStore(f"the head of a large value has {len(stored)} bytes, {_HEAD_BYTES} are expected")
    return _Head(*_HEAD.unpack_from(stored, len(_MAGIC)))


def _chunk_key(identity: bytes, number: int) -> bytes:
    return CHUNKS + identity + number.to_bytes(4, "big")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def size_of(length: int, stored: bytes | None, fetch: Callable[[], bytes | None]) -> int:
    """Bytes of a value, from the length of what is stored; `fetch` reads that if it could be a head."""
    if length != _HEAD_BYTES:
        return length
    held = fetch() if stored is None else stored
    return _head(held).size if held is not None and is_large(held) else length


# ---------------------------------------------------------------------- reading


class Value:
    """A value in one state of an instance: its size and content are known before, and without, reading all of it.

    Attributes
    ----------
    size : int
        Bytes.
    """

    def __init__(self, space: Space, stored: bytes) -> None:
        self._space = space
        self._stored = stored
        self._head = _head(stored) if is_large(stored) else None
        self.size = len(stored) if self._head is None else self._head.size

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return self.size > 0

    @property
    def whole(self) -> bool:
        """Whether all of it is in memory already."""
        return self._head is None

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the content, in hex."""
        return (_digest(self._stored) if self._head is None else self._head.digest).hex()

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes from `start` to before `stop`, as a slice has them; what lies before or behind them is not read."""
        if self._head is None:
            return self._stored[start:stop]
        return b"".join(self.pieces(start, stop))

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """As `read`, in pieces of up to a chunk.

        Raises
        ------
        BadStore
            A chunk is missing.
        """
        start, stop, _ = slice(start, stop).indices(self.size)
        if start >= stop:
            return
        head = self._head
        if head is None:
            yield self._stored[start:stop]
            return
        first, last = start // head.chunk, (stop - 1) // head.chunk
        for at in range(first, last + 1, _AHEAD):
            numbers = range(at, min(at + _AHEAD, last + 1))
            found = self._space.get_many([_chunk_key(head.id, n) for n in numbers])
            for n, chunk in zip(numbers, found, strict=True):
                if chunk is None:
                    raise BadStore(f"chunk {n} of {head.chunks} of a large value is missing; restore it from a backup")
                yield chunk[max(0, start - n * head.chunk) : stop - n * head.chunk]


def missing_chunks(space: Space, stored: bytes) -> list[int]:
    """Numbers of a large value's chunks that are not there as they should be."""
    head = _head(stored)
    lengths = [min(head.chunk, head.size - n * head.chunk) for n in range(head.chunks)]
    held = {key[-4:]: length for key, length, _ in space.lengths(CHUNKS + head.id)}
    return [n for n, length in enumerate(lengths) if held.get(n.to_bytes(4, "big")) != length]


# ---------------------------------------------------------------------- writing


class Upload:
    """A value on its way into an instance, of which a few chunks are in memory.

    Chunks get commits of their own while more comes in. Nobody sees the value before `finish`.

    Parameters
    ----------
    stage
        Makes a commit on the instance.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._id = uuid.uuid4().bytes
        self._hash = hashlib.blake2b(digest_size=16)
        self._part = bytearray()
        self._chunks: list[tuple[bytes, bytes]] = []
        self._count = 0
        self._noted = False
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes; returns how many."""
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            # a chunk that is full goes when more comes: a value of just one stays as it is
            if len(self._part) == CHUNK:
                self._cut()
            take = min(CHUNK - len(self._part), len(view) - at)
            self._part += view[at : at + take]
            at += take
        self.size += len(view)
        return len(view)

    def _cut(self) -> None:
        chunk = bytes(self._part)
        self._hash.update(chunk)
        self._chunks.append((_chunk_key(self._id, self._count), chunk))
        self._count += 1
        self._part.clear()
        if len(self._chunks) * CHUNK >= _STAGED:
            self._send()

    def _send(self) -> None:
        chunks, noted = self._chunks, self._noted

        def put(_: Any, space: TxSpace) -> None:
            if noted:
                self._check_note(space)
            else:
                _sweep(space)
                space.put(NOTES + self._id, msgspec.json.encode({"time": time.time()}))
            space.put_many(chunks)

        self._stage(put)
        self._chunks, self._noted = [], True

    def _check_note(self, space: TxSpace) -> None:
        if space.get(NOTES + self._id) is None:
            raise Conflict("the instance was cleared while a large value was written to it: nothing of it is kept")

    def end(self) -> bytes:
        """No more comes; returns what `finish` is to be accompanied by under the key."""
        if not self._count and not is_large(self._part):
            return bytes(self._part)
        if self._part:
            self._cut()
        return _MAGIC + _HEAD.pack(self._id, self.size, CHUNK, self._hash.digest())

    def finish(self, space: TxSpace) -> None:
        """Write what is not written yet, in the commit that writes the head.

        Raises
        ------
        Conflict
            The instance was cleared meanwhile.
        """
        if self._noted:
            self._check_note(space)
            space.delete(NOTES + self._id)
        space.put_many(self._chunks)

    def abort(self) -> None:
        """Remove what was written."""
        if self._noted:
            self._stage(lambda _, space: _drop(space, self._id))
        self._chunks, self._noted = [], False
        self._part.clear()


def _drop(space: TxSpace, identity: bytes) -> None:
    for key in list(space.keys(CHUNKS + identity)):
        space.delete(key)
    space.delete(NOTES + identity)


def _sweep(space: TxSpace) -> None:
    """Remove what uploads that were killed left long ago."""
    for key, note in list(space.scan(NOTES)):
        if time.time() - msgspec.json.decode(note)["time"] > _STALE:
            _drop(space, key[1:])


def drop_chunks(space: TxSpace, keys: Sequence[bytes] | Iterable[bytes]) -> None:
    """Remove the chunks of the values of some keys, which are about to be replaced or removed."""
    if next(space.keys(CHUNKS), None) is None:
        return  # there is no large value: nothing has to be read
    for stored in space.get_many(list(keys)):
        if stored is not None and is_large(stored):
            head = _head(stored)
            for n in range(head.chunks):
                space.delete(_chunk_key(head.id, n))
