"""Values in bulk out of a keyvalue instance: to a tree of files, a tar file or stream, a Parquet table.

All is read from one state of the version. Files and tables are written by Dask's workers, in tasks of some megabytes,
and a job that was killed goes on; a tar is written here, and is there when it is complete. Memory is bounded by a task;
a Parquet table needs each value as a whole.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import zstandard

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.keyvalue import KeyValue, Value
from dvid_dask.datatypes.keyvalue.keys import KEYS, decode_key, encode_key
from dvid_dask.datatypes.keyvalue.values import size_of
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from dvid_dask.ops import job
from dvid_dask.ops.dump import part_url
from dvid_dask.ops.folders import end_job, ledger_at, plain_url, write_whole
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.values_in import TARS
from dvid_dask.store import prefix_end

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["ValuesReport", "export_values"]

_KEYS = 4096  # in a task
_BYTES = 64 << 20  # in a task, about
_ROWS_BYTES = 16 << 20  # of a group of rows
_MOST = (1 << 31) - 1  # bytes of a value of a Parquet file
_LEDGER = ".dvid-dask-ledger/"
_DRAFTS = f"{_LEDGER}drafts/"


@dataclass(frozen=True)
class ValuesReport:
    """What an export of values did.

    Attributes
    ----------
    destination
        Where they were written.
    keys, bytes
        How many, and of what size together.
    seconds
        Time of this run.
    """

    destination: str
    keys: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return f"wrote {self.keys:,} values, {self.bytes / 1e6:,.1f} MB, to {self.destination} in {self.seconds:.1f} s"


@dataclass(frozen=True)
class _Values:
    """The values of one state whose keys begin with a prefix, cut into ranges of keys."""

    space: Space
    prefix: str
    edges: tuple[bytes, ...] = ()
    weights: tuple[int, ...] = ()

    @property
    def stop(self) -> bytes | None:
        return prefix_end(KEYS + self.prefix.encode()) or None

    def sizes(self) -> Iterator[tuple[bytes, int]]:
        start = KEYS + self.prefix.encode()
        for key, length, stored in self.space.lengths(KEYS, start, self.stop):
            yield key, size_of(length, stored, lambda key=key: self.space.get(key))  # type: ignore[misc]

    def cut(self, check: Any) -> _Values:
        """The same, cut; `check` sees each key and size."""
        edges: list[bytes] = []
        weights: list[int] = []
        keys = size = 0
        for key, length in self.sizes():
            check(decode_key(key), length)
            if not edges or keys == _KEYS or size >= _BYTES:
                edges.append(key)
                weights.append(0)
                keys = size = 0
            keys += 1
            size += length
            weights[-1] = size + 1
        return _Values(self.space, self.prefix, tuple(edges), tuple(weights))

    def part(self, index: int) -> Iterator[tuple[str, Value]]:
        last = self.edges[index + 1] if index + 1 < len(self.edges) else self.stop
        return self._scan(self.edges[index], last)

    def all(self) -> Iterator[tuple[str, Value]]:
        return self._scan(KEYS + self.prefix.encode(), self.stop)

    def _scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[str, Value]]:
        for key, stored in self.space.scan(KEYS, start, stop):
            yield decode_key(key), Value(self.space, stored)


# ---------------------------------------------------------------------- forms


@dataclass(frozen=True)
class _WriteFiles:
    """Writes the files of a part."""

    ledger: ScratchLedger
    values: _Values
    url: str

    def __call__(self, index: int) -> Result:
        keys = size = 0
        for key, value in self.values.part(index):
            with write_whole(self.url + key, self.url + _DRAFTS) as file:
                for piece in value.pieces():
                    file.write(piece)
            keys, size = keys + 1, size + value.size
        result = {"keys": keys, "bytes": size}
        return self.ledger.commit("parts", index, lambda _, __: result)


@dataclass(frozen=True)
class _WriteTable:
    """Writes a part as a Parquet file."""

    ledger: ScratchLedger
    values: _Values
    url: str

    def __call__(self, index: int) -> Result:
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema([pa.field("key", pa.string(), False), pa.field("value", pa.binary(), False)])
        keys = size = 0
        with (
            write_whole(part_url(self.url, index, "parquet"), self.url + _DRAFTS) as file,
            parquet.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for rows in _groups(self.values.part(index)):
                writer.write_table(pa.table({"key": [k for k, _ in rows], "value": [v for _, v in rows]}, schema))
                keys, size = keys + len(rows), size + sum(len(v) for _, v in rows)
        result = {"keys": keys, "bytes": size}
        return self.ledger.commit("parts", index, lambda _, __: result)


def _groups(pairs: Iterator[tuple[str, Value]]) -> Iterator[list[tuple[str, bytes]]]:
    rows: list[tuple[str, bytes]] = []
    size = 0
    for key, value in pairs:
        if rows and size + value.size > _ROWS_BYTES:
            yield rows
            rows, size = [], 0
        rows.append((key, value.read()))
        size += value.size
    if rows:
        yield rows


class _Pieces(io.RawIOBase):
    """A value as a file that is read once."""

    def __init__(self, value: Value) -> None:
        self._pieces = value.pieces()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        n = min(len(room), len(self._rest))
        room[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def _write_tar(values: _Values, out: IO[bytes], mode: str) -> tuple[int, int]:
    keys = size = 0
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for key, value in values.all():
            member = tarfile.TarInfo(key)
            member.size, member.mode = value.size, 0o644
            archive.addfile(member, io.BufferedReader(_Pieces(value), 1 << 20))
            keys, size = keys + 1, size + value.size
    return keys, size


# ---------------------------------------------------------------------- the door


def export_values(
    instance: Datatype,
    destination: str | IO[bytes],
    *,
    format: str | None = None,
    prefix: str = "",
    client: Any = None,
    progress: bool = True,
) -> ValuesReport:
    """Write many values of a keyvalue instance at a version to files, a tar, or a Parquet table.

    What is written can be read by `import_values`. All is read from one state. Values of length zero are there too.

    Parameters
    ----------
    instance
        A keyvalue, at any version.
    destination
        Path or URL: of a folder that is new or empty, for files and tables; of a tar file, which is replaced when the
        new one is complete; or a binary stream for a tar.
    format
        ``"directory"``, ``"tar"`` or ``"parquet"``; by default told from the name, and a stream gets a tar.
        ``.tar.gz``, ``.tar.bz2``, ``.tar.xz`` and ``.tar.zst`` are compressed.
    prefix
        Only keys that begin so.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        A key that can't be the name of a file (with empty parts, ``.`` or ``..``), or a value that is too large for
        Parquet, 2 GiB; nothing is written.
    Conflict
        There is something else at the destination.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import dvid_dask
    >>> kv = dvid_dask.create("memory://").new_repo().new_instance("keyvalue", "notes")
    >>> kv.put_many({"a/1": b"one", "a/2": b"two", "b": b"other"})
    >>> folder = tempfile.mkdtemp() + "/notes.parquet"
    >>> export_values(kv, folder, prefix="a/", progress=False).keys
    2
    >>> pd.read_parquet(folder).key.tolist()
    ['a/1', 'a/2']
    """
    began = time.monotonic()
    if not isinstance(instance, KeyValue):
        raise NotSupported(f"{instance.name!r} is a {instance.info.typename}: values are those of a keyvalue")
    kind = format or _guess(destination)
    if kind not in ("directory", "tar", "parquet"):
        raise BadRequest(f"format {kind!r} is unknown: choose directory, tar or parquet")
    if prefix:
        encode_key(prefix)
    values = _Values(instance.view(0), prefix)
    show = Progress(progress)
    told = destination if isinstance(destination, str) else "a stream"
    show.say(f"export {instance.name!r} at version {instance.version.uuid[:12]} to {told} ({kind})")
    if kind == "tar":
        keys, size = _export_tar(values, destination)
        return ValuesReport(told, keys, size, time.monotonic() - began)
    if not isinstance(destination, str):
        raise BadRequest(f"a stream can only be a tar, not {kind}")
    client = job.find_client(client)
    job.check_reach(client, instance)
    values = values.cut(_check_file if kind == "directory" else _check_row)
    whole = directory_url(destination)
    url = plain_url(whole)
    name = job.job_name(
        op="export-values",
        instance=instance.info.data_uuid,
        state=values.space.token,
        kind=kind,
        prefix=prefix,
    )
    ledger = ledger_at(whole + _LEDGER, name, lambda: _check_empty(url), replace=False)
    task = _WriteFiles(ledger, values, url) if kind == "directory" else _WriteTable(ledger, values, url)
    job.execute(LedgerPhase(ledger, "parts", "values", values.weights, task), client, show)
    results = ledger.done("parts").values()
    keys, size = sum(r["keys"] for r in results), sum(r["bytes"] for r in results)
    end_job(ledger, whole + _LEDGER)
    return ValuesReport(destination, keys, size, time.monotonic() - began)


def _guess(destination: str | IO[bytes]) -> str:
    if not isinstance(destination, str) or destination.lower().endswith(TARS):
        return "tar"
    return "parquet" if destination.rstrip("/").lower().endswith(".parquet") else "directory"


def _check_file(key: str, _: int) -> None:
    parts = key.split("/")
    if not all(parts) or "." in parts or ".." in parts or parts[0] == _LEDGER.rstrip("/"):
        raise BadRequest(f"key {key[:200]!r} can't be the path of a file: export to a tar or Parquet")


def _check_row(key: str, size: int) -> None:
    if size > _MOST:
        raise BadRequest(f"the value of {key[:200]!r} has {size:,} bytes, a Parquet file takes {_MOST:,}: export a tar")


def _check_empty(url: str) -> None:
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path) and fs.find(path):
        raise Conflict(f"{url} is not empty: give another destination, or remove it")


def _export_tar(values: _Values, destination: str | IO[bytes]) -> tuple[int, int]:
    if not isinstance(destination, str):
        return _write_tar(values, destination, "w|")
    mode, zstd = "w|", destination.lower().endswith(".zst")
    for ending, packed in ((".gz", "gz"), (".tgz", "gz"), (".bz2", "bz2"), (".xz", "xz")):
        if destination.lower().endswith(ending):
            mode = f"w|{packed}"
    folder, _, _ = destination.rpartition("/")
    drafts = plain_url(directory_url(f"{folder or '.'}/.dvid-dask-drafts"))
    try:
        with write_whole(destination, drafts) as out:
            if not zstd:
                return _write_tar(values, out, mode)
            with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as packed_out:
                return _write_tar(values, packed_out, mode)
    finally:
        _remove_if_empty(drafts)


def _remove_if_empty(url: str) -> None:
    import contextlib
    import os

    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    if "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
        with contextlib.suppress(OSError):
            os.rmdir(path)
