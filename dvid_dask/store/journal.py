"""A tree's journal: small commits that haven't been put into its nodes yet.

Rewriting the nodes of a path for each small commit costs several milliseconds: a new file, four fsyncs, and cold nodes
for the next reader. So in a local store a small commit is a record of its keys and values at the end of the journal, a
file of zeros made ahead, and one fdatasync that changes no metadata. Readers look at what the records say, then into
the tree. When there are many, the next commit writes all of it into nodes.

``refs/<tree>/journal``, in pages of 4,096 bytes, so that no write touches what was acknowledged before:

========  ======================================================================================================
page 0    magic, the journal's own random id, digest of the manifest that is the tree's; two slots, each: digest of a
          state, its token, CRC-32C
page 1    first record: magic, length, number, digest of the state it builds on, CRC-32C; MessagePack
...       further records, each at the beginning of a page
========  ======================================================================================================

A record counts if its checksum is right, its number is that of the records before, and its digest is that of the
tree's manifest and the journal's id. So records cease to count by themselves when the manifest is exchanged, and the
space is used again. A record cut short by a crash was not acknowledged; the next one takes its place.

The digest in page 0 spares readers a look at the manifest. Who exchanges that erases it before and sets it after, so it
may be missing and is never wrong. The slots keep a state's token when its records are put into the tree: it is still
the same state.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import google_crc32c
import msgspec

from .backend import sync_folder
from .errors import BadStore, translate

__all__ = ["Journal", "Overlay", "Record"]

#: What a commit changes: values of keys, None for those that it deletes.
Record: TypeAlias = "dict[bytes, bytes | None]"

#: Number of records; where the newest one lies; where the next one goes; how the newest one begins.
Known: TypeAlias = "tuple[int, int, int, bytes]"

NAME = "journal"
#: Records, keys and bytes in a journal, from which on a thread puts all of it into the tree.
RECORDS, KEYS, BYTES = 256, 4096, 1 << 20
#: A commit that finds so many times that doesn't wait for the thread, but does it itself.
_FULL = 2
#: Keys and bytes of a commit that is a record.
RECORD_KEYS, RECORD_BYTES = 512, 1 << 16

_PAGE = 4096
_MAGIC, _RECORD_MAGIC = b"dvid-dask journal 1\n", b"DjR1"
_HEAD = struct.Struct("<20s16s4x16s")
_BASE = 40
_SLOT = struct.Struct("<16s16sI")
_SLOTS = (64, 128)
_RECORD = struct.Struct("<4sIQ16sI")
#: Zeros are written ahead so that records change no metadata: so many bytes at first, at most so many at a time.
_FIRST, _MOST = 1 << 16, 1 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]]).decode
_sync = getattr(os, "fdatasync", os.fsync)


class Overlay:
    """The records on top of one manifest, shared by all views of it: a view sees the first so many of them.

    Grows only, and at one place at a time; readers need no lock.
    """

    def __init__(self, manifest: bytes, journal: bytes = b"", token: bytes | None = None) -> None:
        self.manifest = manifest
        #: id of the journal; empty if there is none
        self.journal = journal
        self.digest = _digest(manifest, journal)
        #: of the states of no record, of one, of two ...: copies of a tree share its manifest, not the records on it
        self._tokens = [blake2b(manifest, digest_size=16).digest() if token is None else token]
        self.records: list[tuple[bytes, ...]] = []  # the keys of each
        #: token of the state of all records, where it came from elsewhere
        self.whole = b""
        self.begin, self.end = 0, _PAGE  # where the newest record lies, and where the next one goes
        self.head = b""  # how the newest record begins
        self.nbytes = 0
        self._values: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._sorted: list[bytes] = []
        self._unsorted: list[bytes] = []
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of records."""
        return len(self.records)

    @property
    def known(self) -> Known:
        """What a reader has to know to read on."""
        return self.count, self.begin, self.end, self.head

    @property
    def ripe(self) -> bool:
        """Whether it is time to put the records into the tree."""
        return self._reaches(1)

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return self._reaches(_FULL)

    def _reaches(self, times: int) -> bool:
        return len(self.records) >= times * RECORDS or len(self._values) >= times * KEYS or self.nbytes >= times * BYTES

    def token(self, count: int) -> bytes:
        """Names the state of so many records, 16 bytes."""
        return self.whole if count and self.whole else self._tokens[count]

    def add(self, record: Record, end: int, head: bytes = b"") -> None:
        """Add the next record; it ends at this place in the journal, and begins with these bytes."""
        serial = len(self.records)
        values = self._values
        for key, value in record.items():
            held = values.get(key)
            if held is None:
                values[key] = [(serial, value)]
                self._unsorted.append(key)  # second: who sorts keys looks up their values
            else:
                held.append((serial, value))
            self.nbytes += len(key) + (0 if value is None else len(value))
        self.begin, self.end, self.head = self.end, end, head
        self._tokens.append(blake2b(self._tokens[-1] + head, digest_size=16).digest())
        self.records.append(tuple(record))  # last: a view of it is made after

    def get(self, key: bytes, count: int) -> tuple[int, bytes | None] | None:
        """What the first so many records say of a key: number of the record, value. None: nothing."""
        held = self._values.get(key)
        if held is None:
            return None
        last = held[-1]  # looked at once: more may come at any moment
        if last[0] < count:
            return last
        for entry in reversed(held):
            if entry[0] < count:
                return entry
        return None

    def keys(self, low: bytes, high: bytes, count: int) -> list[bytes]:
        """The keys from `low` to before `high` (``b""`` = no end) of the first so many records, in order."""
        if not count:
            return []
        if self._unsorted:
            self._sort()
        found = self._sorted
        begin = bisect.bisect_left(found, low)
        end = bisect.bisect_left(found, high) if high else len(found)
        values = self._values
        return [key for key in found[begin:end] if values[key][0][0] < count]

    def _sort(self) -> None:
        with self._lock:
            new = list(self._unsorted)
            count = len(new)
            merged = self._sorted[:]  # others read the old one
            if count < 64:
                for key in new:
                    bisect.insort(merged, key)
            else:
                merged = sorted(merged + new)
            # no call in between, at which an interrupt could come: keys would be listed twice
            self._sorted = merged
            del self._unsorted[:count]

    def items(self, count: int) -> Record:
        """What the first so many records say, all together."""
        found: Record = {}
        for key in list(self._values):
            held = self.get(key, count)
            if held is not None:
                found[key] = held[1]
        return found

    def changed(self, begin: int, end: int) -> set[bytes]:
        """The keys of the records from one number to before another."""
        return {key for keys in islice(self.records, begin, end) for key in keys}


class Journal:
    """The file of a tree in a local store."""

    def __init__(self, folder: Path, url: str, tree: str) -> None:
        self._path = folder / NAME
        self._url = url
        self._tree = tree

    # ---- reading -----------------------------------------------------------------------------------------------------

    def next(self, overlay: Overlay, known: Known) -> tuple[list[tuple[Record, int, bytes]], bool] | None:
        """The records of an overlay's manifest behind those known, each with where it ends and how it begins.

        And whether it is certain that the manifest is still the tree's. None: the journal is another one by now, or
        the newest of the known records isn't there any more, since its writer couldn't make it durable.
        """
        serial, begin, at, head = known
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ([], False) if not overlay.journal else None
        except OSError as error:
            raise self._failed(error, "reading") from error
        try:
            if serial and os.pread(file, _RECORD.size, begin) != head:
                return None
            found: list[tuple[Record, int, bytes]] = []
            while (record := self._record(file, at, serial + len(found), overlay.digest)) is not None:
                found.append(record)
                at = record[1]
            # Looked at after the records: what is on this manifest now was so then, and manifests don't come back.
            identity, base = self._head(os.pread(file, _HEAD.size, 0))
            return (found, base == overlay.digest) if identity == overlay.journal else None
        except OSError as error:
            raise self._failed(error, "reading") from error
        finally:
            os.close(file)

    def load(self, manifest: bytes) -> Overlay:
        """All records on top of a manifest."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                page = file.read(_PAGE)
                identity, _ = self._head(page)
                overlay = Overlay(manifest, identity, self._token(page, manifest, identity))
                while True:
                    record = self._record(file.fileno(), overlay.end, overlay.count, overlay.digest)
                    if record is None:
                        return overlay
                    overlay.add(*record)
        except FileNotFoundError:
            return Overlay(manifest)
        except OSError as error:
            raise self._failed(error, "reading") from error

    def check(self, manifest: bytes) -> None:
        """Look for records behind one that doesn't count.

        Raises
        ------
        BadStore
            There are some: a record that was acknowledged has been damaged.
        """
        while (overlay := self.load(manifest)).journal and self._goes_on(overlay):
            if self.load(manifest).count == overlay.count:  # else somebody has committed meanwhile
                raise BadStore(
                    f"{self._url}: the journal of tree {self._tree!r} is damaged at byte {overlay.end}, and "
                    "commits follow; restore it from a backup"
                )

    def _goes_on(self, overlay: Overlay) -> bool:
        """Whether there are records behind one that doesn't count."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb", buffering=0) as file:
            for at in range(overlay.end, os.fstat(file.fileno()).st_size, _PAGE):
                head = os.pread(file.fileno(), _RECORD.size, at)
                if len(head) < _RECORD.size:
                    return False
                magic, _, serial, digest, _ = _RECORD.unpack(head)
                if magic == _RECORD_MAGIC and digest == overlay.digest and serial > overlay.count:
                    return True
        return False

    def _head(self, page: bytes) -> tuple[bytes, bytes]:
        """The journal's id, and the digest of the manifest that is the tree's."""
        magic, identity, base = _HEAD.unpack_from(page) if len(page) >= _HEAD.size else (b"", b"", b"")
        if magic != _MAGIC:
            raise BadStore(
                f"{self._url}: the journal of tree {self._tree!r} is damaged, or of a newer release; restore it from "
                "a backup"
            )
        return identity, base

    def _token(self, page: bytes, manifest: bytes, identity: bytes) -> bytes | None:
        wanted = _digest(manifest, identity)
        for at in _SLOTS:
            if len(page) >= at + _SLOT.size:
                digest, token, checksum = _SLOT.unpack_from(page, at)
                if digest == wanted and checksum == google_crc32c.value(digest + token):
                    return bytes(token)
        return None

    def _record(self, file: int, at: int, serial: int, digest: bytes) -> tuple[Record, int, bytes] | None:
        page = os.pread(file, _PAGE, at)
        if len(page) < _RECORD.size:
            return None
        magic, length, number, on, checksum = _RECORD.unpack_from(page)
        if magic != _RECORD_MAGIC or number != serial or on != digest:
            return None
        size = _RECORD.size + length
        if size > len(page):
            page += os.pread(file, size - len(page), at + len(page))
        if len(page) < size or google_crc32c.value(page[: _RECORD.size - 4] + page[_RECORD.size : size]) != checksum:
            return None
        try:
            return dict(_decode(page[_RECORD.size : size])), at + -(-size // _PAGE) * _PAGE, page[: _RECORD.size]
        except msgspec.DecodeError as error:
            raise BadStore(
                f"{self._url}: a record of tree {self._tree!r} is whole and can't be read ({error}); install a newer "
                "release"
            ) from error

    # ---- writing: whoever holds the tree's lock ----------------------------------------------------------------------

    def append(self, overlay: Overlay, record: Record) -> tuple[int, bytes]:
        """Write the next record, durably; returns where it ends and how it begins."""
        payload = _encode(list(record.items()))
        head = _RECORD.pack(_RECORD_MAGIC, len(payload), overlay.count, overlay.digest, 0)[:-4]
        data = head + struct.pack("<I", google_crc32c.value(head + payload)) + payload
        end = overlay.end + -(-len(data) // _PAGE) * _PAGE
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if self._head(os.pread(file, _HEAD.size, 0))[1] != overlay.digest:
                    # who exchanged the manifest was killed, maybe before its name was durable
                    sync_folder(self._path.parent)
                    os.pwrite(file, overlay.digest, _BASE)
                self._stretch(file, end)
                try:
                    _write(file, data, overlay.end)
                    _sync(file)
                except OSError:
                    # nobody may take for done what its writer will be told has failed
                    with contextlib.suppress(OSError):
                        os.pwrite(file, bytes(_RECORD.size), overlay.end)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            raise self._failed(error, "writing") from error
        return end, data[: _RECORD.size]

    def make(self) -> None:
        """Make the file, if there is none."""
        if self._path.exists():
            return
        new = self._path.with_name(NAME + ".new")
        try:
            file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                _write(file, _HEAD.pack(_MAGIC, os.urandom(16), b"").ljust(_FIRST, b"\0"), 0)
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(new, self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise self._failed(error, "writing") from error

    def sync(self) -> None:
        """Make the tree's manifest and its records durable, if whoever wrote them was killed before he did."""
        try:
            with contextlib.suppress(FileNotFoundError), open(self._path, "rb+", buffering=0) as file:
                _sync(file.fileno())
            sync_folder(self._path.parent)
        except OSError as error:
            raise self._failed(error, "writing") from error

    @contextlib.contextmanager
    def leaving(self, manifest: bytes) -> Iterator[None]:
        """Another manifest takes the place of the tree's meanwhile."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        except OSError as error:
            raise self._failed(error, "writing") from error
        try:
            identity, _ = self._head(os.pread(file, _HEAD.size, 0))
            os.pwrite(file, bytes(16), _BASE)
            yield
            with contextlib.suppress(OSError):  # it is done, and the digest may be missing
                os.pwrite(file, _digest(manifest, identity), _BASE)
        finally:
            os.close(file)

    def leave(self) -> None:
        """The manifest that is the tree's will be gone: the journal no longer says that it is."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.pwrite(file, bytes(16), _BASE)
        finally:
            os.close(file)

    def forget(self) -> None:
        """Remove the file: a new tree takes the place of a dropped one."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error, "removing") from error

    def keep_token(self, overlay: Overlay, manifest: bytes) -> None:
        """Note that a manifest, which isn't the tree's yet, will hold all of an overlay and nothing else."""
        if not overlay.journal:
            return
        digest = _digest(manifest, overlay.journal)
        token = overlay.token(overlay.count)
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                page = os.pread(file, _PAGE, 0)
                held = [_SLOT.unpack_from(page, at)[0] for at in _SLOTS]
                slot = _SLOTS[0] if held[0] != overlay.digest else _SLOTS[1]
                _write(file, _SLOT.pack(digest, token, google_crc32c.value(digest + token)), slot)
                _sync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise self._failed(error, "writing") from error

    def _stretch(self, file: int, size: int) -> None:
        held = os.fstat(file).st_size
        if held < size:
            more = max(size - held, min(max(held, _FIRST), _MOST))
            _write(file, bytes(more), held)

    def _failed(self, error: OSError, doing: str) -> Exception:
        return translate(error, f"{doing} the journal of tree {self._tree!r}", self._url)


def _digest(manifest: bytes, journal: bytes) -> bytes:
    return blake2b(manifest + journal, digest_size=16).digest()


def _write(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        at += done
        view = view[done:]
