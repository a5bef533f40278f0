"""Tables of a labelmap for other programs: as text, in DVID's lines, or as Parquet.

============  ===================================================  ===========================================
table         columns                                              what
============  ===================================================  ===========================================
``svcount``   supervoxel, z, y, x, count                           voxels of each supervoxel in each block,
                                                                   counted in the blocks themselves
``mappings``  supervoxel, body                                     ids whose body is another; 0: id is retired
``indices``   body, supervoxel, z, y, x, count                     the same counts by the label index
============  ===================================================  ===========================================

z, y, x are block coordinates of scale 0 (int32), ids uint64, counts uint32. Text has these columns with a space between
and no heading; Parquet is a folder of files that pandas, Dask, pyarrow and DuckDB read as one table.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.bases import directory_url
from dvid_dask.datatypes.labelmap import LabelMap, keys
from dvid_dask.datatypes.labelmap.blocks import Layout, read_blocks
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.errors import BadRequest, Conflict, NotSupported
from dvid_dask.formats import label_blocks
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.ops import job
from dvid_dask.ops.folders import end_job, ledger_at, plain_url, write_whole
from dvid_dask.ops.index import ranges_of_bodies
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.progress import Progress
from dvid_dask.ops.stored import block_batches

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space

__all__ = ["LEDGER", "TABLES", "DumpReport", "begin_folder", "dump", "part_url"]

TABLES = ("svcount", "mappings", "indices")
"""What can be dumped."""

_FORMATS = ("text", "parquet")
_BRICK_BITS = 3  # voxels are counted in bricks of 8^3 blocks
_PAGES_PER_TASK = 4096
_FLUSH_ROWS = 1 << 19
_COPY = 1 << 22
_TYPES = {"z": "int32", "y": "int32", "x": "int32", "count": "uint32"}
LEDGER = ".dvid-dask-ledger/"
_DRAFTS = f"{LEDGER}drafts/"
_PART = re.compile(r"part\.\d{8}\.parquet")

Columns = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class DumpReport:
    """What a dump did.

    Attributes
    ----------
    destination
        Where the table was written.
    rows
        Rows of it.
    seconds
        Time of this run.
    """

    destination: str
    rows: int
    seconds: float

    def __str__(self) -> str:
        return f"wrote {self.rows:,} rows to {self.destination} in {self.seconds:.1f} s"


# ------------------------------------------------------------------ rows


@dataclass(frozen=True, kw_only=True)
class _Table(ABC):
    """A table in parts that don't depend on each other; pickled once per worker."""

    space: Space

    names: tuple[str, ...]

    @property
    @abstractmethod
    def parts(self) -> int:
        """How many there are."""

    @abstractmethod
    def rows(self, part: int) -> Iterator[Columns]:
        """The rows of a part, a few at a time."""


@dataclass(frozen=True, kw_only=True)
class _VoxelCounts(_Table):
    layout: Layout
    bricks: NDArray[np.int64]

    @property
    def parts(self) -> int:
        return len(self.bricks)

    def rows(self, part: int) -> Iterator[Columns]:
        side = 1 << _BRICK_BITS
        wanted = self.bricks[part] * side + np.indices((side, side, side)).reshape(3, -1).T
        for coords, blocks in read_blocks(self.space, self.layout, 0, wanted):
            counted = parallel(label_blocks.count, blocks)
            label = np.concatenate([names for names, _ in counted])
            count = np.concatenate([n for _, n in counted])
            block = np.repeat(coords, [len(names) for names, _ in counted], axis=0)
            real = label != 0
            yield _with_block({"supervoxel": label[real]}, block[real], count[real])


@dataclass(frozen=True, kw_only=True)
class _Mappings(_Table):
    pages: Sequence[int]

    @property
    def parts(self) -> int:
        return max(0, len(self.pages) - 1)

    def rows(self, part: int) -> Iterator[Columns]:
        for ids, bodies in Mapping(self.space).scan(self.pages[part], self.pages[part + 1]):
            yield {"supervoxel": ids, "body": bodies}


@dataclass(frozen=True, kw_only=True)
class _Indices(_Table):
    edges: Sequence[int]

    @property
    def parts(self) -> int:
        return len(self.edges) - 1

    def rows(self, part: int) -> Iterator[Columns]:
        start, stop = self.edges[part], self.edges[part + 1]
        for body, rows in Index(self.space).scan_all_rows(start, None if stop >= 1 << 64 else stop):
            named = {"body": np.full(len(rows), body, np.uint64), "supervoxel": rows.supervoxel}
            yield _with_block(named, rows.block_zyx, rows.count)


def _with_block(columns: Columns, block_zyx: NDArray[Any], count: NDArray[Any]) -> Columns:
    return columns | {a: block_zyx[:, i] for i, a in enumerate("zyx")} | {"count": count}


def _table(instance: LabelMap, space: Space, what: str) -> _Table:
    if what == "svcount":
        found = np.empty((0, 3), np.int64)
        for blocks in block_batches(instance, space, 0):
            found = distinct_rows(np.concatenate([found, blocks.astype(np.int64) >> _BRICK_BITS]))
        names = ("supervoxel", "z", "y", "x", "count")
        return _VoxelCounts(space=space, names=names, layout=instance.layout, bricks=found)
    if what == "mappings":
        firsts = [n for i, n in enumerate(_mapping_pages(space)) if i % _PAGES_PER_TASK == 0]
        pages = [*firsts, 1 << 63] if firsts else []
        return _Mappings(space=space, names=("supervoxel", "body"), pages=pages)
    if not instance.indexed:
        raise NotSupported(f"{instance.name!r} keeps no label index")
    columns = ("body", "supervoxel", "z", "y", "x", "count")
    return _Indices(space=space, names=columns, edges=ranges_of_bodies(Index(space)))


def _mapping_pages(space: Space) -> Iterator[int]:
    return (keys.mapping_page_of(k) for k in space.keys(keys.MAPPING))


# ------------------------------------------------------------------ files


@dataclass(frozen=True)
class _WritePart:
    """Writes a part of a table to a file of its own."""

    ledger: ScratchLedger
    table: _Table
    url: str
    format: str

    def __call__(self, part: int) -> Result:
        import pyarrow as pa

        names = self.table.names
        schema = pa.schema([pa.field(n, _TYPES.get(n, "uint64"), nullable=False) for n in names])
        rows = 0
        path, drafts = part_url(self.url, part, self.format), self.url + _DRAFTS
        with write_whole(plain_url(path), plain_url(drafts)) as file, _writer(file, schema, self.format) as writer:
            for columns in _batches(self.table.rows(part)):
                arrays = [pa.array(columns[f.name].astype(f.type.to_pandas_dtype(), copy=False)) for f in schema]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                rows += len(arrays[0])
        return self.ledger.commit("parts", part, lambda _, __: {"rows": rows})


def part_url(folder: str, part: int, format: str) -> str:
    """Where a part goes."""
    return f"{folder}part.{part:08d}.{'txt' if format == 'text' else format}"


def _writer(file: Any, schema: pa.Schema, format: str) -> Any:
    if format == "parquet":
        from pyarrow import parquet

        return parquet.ParquetWriter(file, schema, compression="zstd")
    from pyarrow import csv

    return csv.CSVWriter(
        file, schema, write_options=csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    )


def _batches(parts: Iterator[Columns]) -> Iterator[Columns]:
    """Rows joined to tables that are worth a call."""
    held: list[Columns] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += len(part["supervoxel"])
        if rows >= _FLUSH_ROWS:
            yield _joined(held)
            held, rows = [], 0
    if rows:
        yield _joined(held)


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


# ------------------------------------------------------------------ the door


def dump(
    instance: Datatype,
    what: str,
    destination: str,
    *,
    format: str = "text",
    client: Any = None,
    progress: bool = True,
) -> DumpReport:
    r"""Write a table of a labelmap at a version; killed and started again it goes on.

    All is read from one state of the version. What an earlier dump wrote there is replaced: text when the new file is
    complete, Parquet file by file.

    Parameters
    ----------
    instance
        A labelmap, at any version.
    what
        ``"svcount"``, ``"mappings"`` or ``"indices"``: see the table of this module.
    destination
        Path or URL: of a file for text, of a folder for Parquet.
    format
        ``"text"`` or ``"parquet"``.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the table or format is unknown; nothing is written.
    Conflict
        If the folder holds something else.
    NotSupported
        If the instance is no labelmap, or keeps no index.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 64))
    >>> path = tempfile.mkdtemp() + "/counts.txt"
    >>> dump(seg, "svcount", path, progress=False).rows
    1
    >>> open(path).read()
    '7 0 0 1 262144\n'
    """
    began = time.monotonic()
    if what not in TABLES:
        raise BadRequest(f"table {what!r} is unknown: choose one of {', '.join(TABLES)}")
    if format not in _FORMATS:
        raise BadRequest(f"format {format!r} is unknown: choose one of {', '.join(_FORMATS)}")
    if not isinstance(instance, LabelMap):
        raise NotSupported(f"tables are dumped of labelmaps; {instance.name!r} is a {instance.info.typename}")
    client = job.find_client(client)
    job.check_reach(client, instance)
    space = instance.view(0)
    table = _table(instance, space, what)
    folder = directory_url(destination)
    parts = f"{folder.rstrip('/')}.dvid-dask-dump/" if format == "text" else folder
    name = job.job_name(op="dump", what=what, instance=instance.info.data_uuid, state=space.token, format=format)
    if format == "text":
        _refuse_folder(destination, folder)
    ledger = ledger_at(parts + LEDGER, name, lambda: begin_folder(parts, format), replace=True)
    show = Progress(progress)
    show.say(f"dump {what} of {instance.name!r} at version {instance.version.uuid[:12]}: {table.parts:,} parts")
    task = _WritePart(ledger, table, parts, format)
    job.execute(LedgerPhase(ledger, "parts", what, [1_000_000] * table.parts, task), client, show)
    rows = sum(r["rows"] for r in ledger.done("parts").values())
    if format == "text":
        _join(folder.rstrip("/"), [part_url(parts, i, format) for i in range(table.parts)], parts + _DRAFTS)
        end_job(ledger, parts)
    else:
        end_job(ledger, parts + LEDGER)
    return DumpReport(destination, rows, time.monotonic() - began)


def _refuse_folder(destination: str, folder: str) -> None:
    import fsspec

    fs, path = fsspec.core.url_to_fs(plain_url(folder).rstrip("/"))
    if fs.isdir(path):
        raise Conflict(f"{destination} is a folder: text goes to one file")


def begin_folder(folder: str, format: str) -> None:
    """Remove what an earlier dump left in a folder of parts; refuse to if there is anything else."""
    import tensorstore as ts

    place = ts.KvStore.open(folder).result()
    found = [k.decode() for k in place.list().result()]
    if format == "parquet":
        others = [k for k in found if not _PART.fullmatch(k) and not k.startswith(LEDGER)]
        if others:
            raise Conflict(f"{folder} holds {others[0]!r}, which no dump wrote: give another destination, or remove it")
    for key in found:
        if not key.startswith(LEDGER):
            place.write(key, None).result()


def _join(url: str, parts: Sequence[str], drafts: str) -> None:
    """One file of all parts."""
    import shutil

    import fsspec

    with write_whole(plain_url(url), plain_url(drafts)) as out:
        for part in parts:
            with fsspec.open(plain_url(part), "rb") as file:
                shutil.copyfileobj(file, out, _COPY)
