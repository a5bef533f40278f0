"""Values in bulk into a keyvalue instance: a tree of files, a tar file or stream, a Parquet table.

All of it or nothing: the job works on a draft (`dvid_dask.ops.drafts`) that takes the version's place at the end, in
one step. Files and tables are cut into tasks for Dask's workers; a tar can only be read from its beginning, and is read
here. Memory is bounded by a batch, and by a few chunks of a large value.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import tarfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from dvid_dask.datatypes.keyvalue import KeyValue
from dvid_dask.datatypes.keyvalue.keys import encode_key
from dvid_dask.datatypes.keyvalue.values import Upload, drop_chunks
from dvid_dask.errors import BadRequest, DvidError, NotSupported
from dvid_dask.ops import job
from dvid_dask.ops.drafts import DraftLedger
from dvid_dask.ops.job import LedgerPhase, Result
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype, Mutation, TxSpace

__all__ = ["ImportReport", "import_values"]

_KEYS = 4096  # in a commit
_BYTES = 32 << 20  # in a commit, about
_PIECE = 1 << 20
_ROWS = 256  # of a table, read at a time
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    job
        Name of the job.
    keys
        Values that were read; of a key that came twice, both.
    bytes
        Of them.
    seconds
        Time of this run.
    """

    job: str
    keys: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"imported {self.keys:,} values, {self.bytes / 1e6:,.1f} MB, in {self.seconds:.1f} s"


class _Batch:
    """Values on their way into the draft, until they are worth a commit."""

    def __init__(self, ledger: DraftLedger) -> None:
        self._ledger = ledger
        self._stored: dict[bytes, bytes] = {}
        self._uploads: dict[bytes, Upload] = {}
        self._held = 0
        self.keys = 0
        self.bytes = 0

    def add(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        encoded = encode_key(key)
        upload = Upload(self._ledger.mutate)
        for piece in pieces:
            upload.write(piece)
        replaced = self._uploads.pop(encoded, None)
        if replaced is not None:
            replaced.abort()
        self._stored[encoded] = upload.end()
        self._uploads[encoded] = upload
        self._held += min(upload.size, _BYTES)
        self.keys += 1
        self.bytes += upload.size

    @property
    def full(self) -> bool:
        return len(self._stored) >= _KEYS or self._held >= _BYTES

    def put(self, space: TxSpace) -> None:
        """Into a commit."""
        drop_chunks(space, self._stored)
        for upload in self._uploads.values():
            upload.finish(space)
        space.put_many(self._stored.items())

    def flush(self) -> None:
        """In a commit of its own."""
        self._ledger.mutate(lambda _, space: self.put(space))
        self._stored, self._uploads, self._held = {}, {}, 0

    @property
    def result(self) -> Result:
        return {"keys": self.keys, "bytes": self.bytes}


@dataclass(frozen=True)
class _Part:
    """Puts a part of what is imported into the draft."""

    ledger: DraftLedger
    source: _Files | _Table

    def __call__(self, index: int) -> Result:
        batch = _Batch(self.ledger)
        for key, pieces in self.source.read(index):
            batch.add(key, pieces)
            if batch.full:
                batch.flush()

        def last(_: Mutation, space: TxSpace) -> Result:
            batch.put(space)
            return batch.result

        return self.ledger.commit("values", index, last)


# ---------------------------------------------------------------------- what is imported


@dataclass(frozen=True)
class _Files:
    """Files below a folder, by their paths in it."""

    folder: str
    prefix: str
    parts: tuple[tuple[tuple[str, int], ...], ...]

    @classmethod
    def open(cls, folder: str, prefix: str) -> _Files:
        import fsspec

        fs, root = fsspec.core.url_to_fs(folder)
        if not fs.isdir(root):
            raise BadRequest(f"{folder} is no folder, tar file or Parquet table")
        found = fs.find(root, detail=True)
        begin = len(root.rstrip("/")) + 1
        names = sorted((path[begin:], int(about["size"] or 0)) for path, about in found.items())
        return cls(folder, prefix, tuple(map(tuple, _cut(names))))

    @property
    def identity(self) -> Any:
        return self.parts

    @property
    def weights(self) -> list[int]:
        return [sum(size for _, size in part) + 1 for part in self.parts]

    def read(self, index: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        import fsspec

        fs, root = fsspec.core.url_to_fs(self.folder)
        for name, _ in self.parts[index]:
            with fs.open(f"{root.rstrip('/')}/{name}", "rb") as file:
                yield self.prefix + name, iter(lambda file=file: file.read(_PIECE), b"")  # type: ignore[misc]


def _cut(names: Sequence[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    part: list[tuple[str, int]] = []
    size = 0
    for name in names:
        part.append(name)
        size += name[1]
        if len(part) == _KEYS or size >= _BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


@dataclass(frozen=True)
class _Table:
    """Rows of Parquet files with the columns key (text) and value (bytes or text), by group of rows."""

    prefix: str
    groups: tuple[tuple[str, int, int], ...]

    @classmethod
    def open(cls, path: str, prefix: str) -> _Table:
        import fsspec
        import pyarrow as pa
        from pyarrow import parquet

        fs, root = fsspec.core.url_to_fs(path)
        paths = sorted(p for p in fs.find(root) if p.endswith(".parquet"))
        groups = []
        for name in paths:
            with fs.open(name, "rb") as file:
                try:
                    held = parquet.ParquetFile(file)
                except pa.ArrowInvalid as error:
                    raise BadRequest(f"{name} is no Parquet file: {error}") from None
                schema = held.schema_arrow
                for column, kinds in (("key", _TEXT), ("value", _BYTES_OR_TEXT)):
                    if column not in schema.names or not any(k(schema.field(column).type) for k in kinds):
                        raise BadRequest(
                            f"{name} has no column {column} of {'text' if kinds is _TEXT else 'bytes'}: "
                            f"expected key and value, it has {', '.join(schema.names)}"
                        )
                groups += [(name, g, held.metadata.row_group(g).total_byte_size) for g in range(held.num_row_groups)]
        url = path.partition("://")[0] + "://" if "://" in path else ""
        return cls(prefix, tuple((url + n if url and "://" not in n else n, g, size) for n, g, size in groups))

    @property
    def identity(self) -> Any:
        return self.groups

    @property
    def weights(self) -> list[int]:
        return [size + 1 for _, _, size in self.groups]

    def read(self, index: int) -> Iterator[tuple[str, Iterable[bytes]]]:
        import fsspec
        from pyarrow import parquet

        name, group, _ = self.groups[index]
        with fsspec.open(name, "rb") as file:
            rows = parquet.ParquetFile(file).iter_batches(_ROWS, row_groups=[group], columns=["key", "value"])
            for batch in rows:
                for key, value in zip(batch.column("key"), batch.column("value"), strict=True):
                    if not key.is_valid or not value.is_valid:
                        raise BadRequest(f"{name} has a row without key or value; nothing is imported")
                    data = value.as_py()
                    yield self.prefix + key.as_py(), [data.encode() if isinstance(data, str) else data]


def _is(*names: str) -> list[Any]:
    import pyarrow as pa

    return [getattr(pa.types, f"is_{name}") for name in names]


_TEXT = _is("string", "large_string", "string_view")
_BYTES_OR_TEXT = [*_TEXT, *_is("binary", "large_binary", "binary_view", "fixed_size_binary")]


# ---------------------------------------------------------------------- tar


class _Counted(io.RawIOBase):
    """A stream that knows how much was read of it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self.count += len(data)
        return data


def _unpacked(stream: IO[bytes]) -> Any:
    """The stream of a tar that may be compressed; checksums are looked at, unlike in tarfile's own streams."""
    import bz2
    import gzip
    import lzma

    import zstandard

    held: Any = io.BufferedReader(stream, 1 << 16) if isinstance(stream, io.RawIOBase) else _Ahead(stream)
    first = held.peek(6)[:6]
    kinds: dict[bytes, Callable[[Any], Any]] = {
        b"\x1f\x8b": partial(gzip.GzipFile, None, "rb", 9),
        b"BZh": bz2.BZ2File,
        b"\xfd7zXZ\0": lzma.LZMAFile,
        b"\x28\xb5\x2f\xfd": zstandard.ZstdDecompressor().stream_reader,
    }
    for magic, opened in kinds.items():
        if first.startswith(magic):
            return opened(held)
    return held


class _Ahead(io.RawIOBase):
    """A stream whose first bytes can be looked at."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._first = b""

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        self._first = self._stream.read(size)
        return self._first

    def read(self, size: int = -1) -> bytes:
        if not self._first:
            return self._stream.read(size)
        take = len(self._first) if size < 0 else min(size, len(self._first))
        data, self._first = self._first[:take], self._first[take:]
        return data + self._stream.read() if size < 0 else data


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What goes wrong with the bytes of a tar is a fault of the tar."""
    import lzma
    import zlib

    import zstandard

    broken = (tarfile.TarError, EOFError, OSError, UnicodeError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
    try:
        yield
    except broken as error:
        raise BadRequest(f"the tar can't be read to its end: {error}; nothing is imported") from error


def _members(stream: IO[bytes], prefix: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Keys and contents of a tar's files, one after the other.

    Raises
    ------
    BadRequest
        It is no tar, is damaged or breaks off, or has a member that is no plain file or whose name leaves the folder.
    """
    with _reading():
        source = _Counted(_unpacked(stream))
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                if member.isdir():
                    continue
                file = archive.extractfile(member) if member.isreg() and member.sparse is None else None
                if file is None:
                    raise BadRequest(f"member {member.name!r} of the tar is no plain file: nothing is imported")
                name = member.name.removeprefix("./")
                if name.startswith("/") or ".." in name.split("/") or posixpath.normpath(name) != name:
                    raise BadRequest(f"member {member.name!r} of the tar has no plain relative path")
                yield prefix + name, _contents(file)
            end = archive.offset
        while source.read(_PIECE):  # checksums of what is compressed come last
            pass
        if source.count < end + tarfile.BLOCKSIZE:
            raise EOFError("its end is missing")


def _contents(file: IO[bytes]) -> Iterator[bytes]:
    with _reading():
        while piece := file.read(_PIECE):
            yield piece


def _from_tar(ledger: DraftLedger, stream: IO[bytes], prefix: str) -> None:
    """One batch after the other; those that an earlier run put into the draft are only read past."""
    done = ledger.done("values")
    batch, index = _Batch(ledger), 0

    def commit() -> None:
        nonlocal batch, index
        if index not in done:

            def put(_: Mutation, space: TxSpace) -> Result:
                batch.put(space)
                return batch.result

            ledger.commit("values", index, put)
        batch, index = _Batch(ledger), index + 1

    for key, pieces in _members(stream, prefix):
        batch.add(key, pieces)
        if batch.full:
            commit()
    commit()


# ---------------------------------------------------------------------- the door


def import_values(
    source: str | IO[bytes],
    instance: Datatype,
    *,
    format: str | None = None,
    prefix: str = "",
    client: Any = None,
    progress: bool = True,
    user: str = "",
    app: str = "",
) -> ImportReport:
    r"""Read many values into a keyvalue instance: all of them or, whatever happens, none.

    What the instance has under other keys stays. Killed and started again with the same arguments, it goes on where it
    was; a stream that isn't a file begins anew. In the mutation log it is one record.

    Parameters
    ----------
    source
        Path or URL of a folder (keys are the paths in it, with ``/``), of a tar file, plain or compressed, or of a
        Parquet file or folder of such with columns ``key`` and ``value``; or a binary stream of a tar.
    instance
        A keyvalue at an open version.
    format
        ``"directory"``, ``"tar"`` or ``"parquet"``; by default told from the name, and a stream is a tar.
    prefix
        Put before every key.
    client, progress, user, app
        As for `ingest`.

    Raises
    ------
    BadRequest
        The source can't be read as that; a member of the tar is no plain file or leaves its folder; a key can't be.
    LockedVersion
        The version is committed.
    Conflict
        Others changed the same keys meanwhile.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import dvid_dask
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "meshes").mkdir()
    >>> for body in (1, 2):
    ...     _ = (folder / "meshes" / f"{body}.drc").write_bytes(bytes([body]))
    >>> kv = dvid_dask.create("memory://").new_repo().new_instance("keyvalue", "files")
    >>> report = import_values(str(folder), kv, progress=False)
    >>> report.keys, dict(kv.items())
    (2, {'meshes/1.drc': b'\x01', 'meshes/2.drc': b'\x02'})
    """
    began = time.monotonic()
    if not isinstance(instance, KeyValue):
        raise NotSupported(f"values go into a keyvalue; {instance.name!r} is a {instance.info.typename}")
    instance.check_open()
    kind = format or _guess(source)
    if kind not in ("directory", "tar", "parquet"):
        raise BadRequest(f"format {kind!r} is unknown: choose directory, tar or parquet")
    if prefix:
        encode_key(prefix)
    client = job.find_client(client)
    job.check_reach(client, instance)
    show = Progress(progress)
    opened: _Files | _Table | None = None
    if kind == "tar":
        identity: Any = source if isinstance(source, str) else uuid.uuid4().hex
    elif not isinstance(source, str):
        raise BadRequest(f"a stream can only be a tar, not {kind}")
    else:
        opened = _Files.open(source, prefix) if kind == "directory" else _Table.open(source, prefix)
        identity = [source, opened.identity]
    name = job.job_name(
        op="import",
        source=identity,
        kind=kind,
        prefix=prefix,
        instance=instance.info.data_uuid,
        version=instance.version.uuid,
    )
    told = source if isinstance(source, str) else "a stream"
    show.say(f"import {told} ({kind}) into {instance.name!r} at version {instance.version.uuid[:12]}, seen when done")
    ledger = DraftLedger.start(instance, name, {"op": "import", "source": told}, user=user, app=app)
    try:
        if opened is not None:
            phase = LedgerPhase(ledger, "values", "values", opened.weights, _Part(ledger, opened))
            job.execute(phase, client, show)
        elif isinstance(source, str):
            import fsspec

            with fsspec.open(source, "rb") as stream:
                _from_tar(ledger, stream, prefix)
        else:
            _from_tar(ledger, source, prefix)
    except (DvidError, FileNotFoundError, PermissionError):
        ledger.give_up()
        raise
    except BaseException:
        if not isinstance(source, str):
            ledger.give_up()  # nobody can go on with it
        raise
    results = ledger.done("values").values()
    keys, size = sum(r["keys"] for r in results), sum(r["bytes"] for r in results)

    def finish(m: Mutation, space: TxSpace) -> None:
        m.log(instance, {"Action": "import", "Source": told, "Keys": keys, "Bytes": size, **instance._stamp(m)})

    ledger.finish(finish)
    return ImportReport(name, keys, size, time.monotonic() - began)


def _guess(source: str | IO[bytes]) -> str:
    if not isinstance(source, str) or source.lower().endswith(TARS):
        return "tar"
    name = source.rstrip("/").lower()
    if name.endswith(".parquet"):
        return "parquet"
    return "directory"
