"""Label blocks as Arrow files, one per shard of a neuroglancer volume: DVID's ``export-shards``.

For each shard with a block in it, of scale s and with its first voxel at (x, y, z)::

    s<scale>/<x>_<y>_<z>.arrow      Arrow IPC stream; a row for each block
    s<scale>/<x>_<y>_<z>.csv        where each row is: ``# schema_size=N``, then x,y,z,offset,size,batch_idx

=====================  =============  =====================================================================
field                  type           content
=====================  =============  =====================================================================
chunk_x, _y, _z        int32          block coordinates at the scale
labels                 list<uint64>   body of each entry of the block's label table
supervoxels            list<uint64>   the label table
dvid_compressed_block  binary         zstd of the label block, which holds supervoxels
uncompressed_size      uint32         bytes of the label block
=====================  =============  =====================================================================

N, offset and size are bytes: the schema is the first N of a file, a record batch is `size` bytes at `offset`, and
`batch_idx` is the row in it. Blocks without any body are left out. Rows ascend in z, y, x.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import msgspec

from dvid_dask.bases import directory_url
from dvid_dask.boxes import INT32_MAX, INT32_MIN, Box
from dvid_dask.datatypes.labelmap import LabelMap, keys
from dvid_dask.datatypes.labelmap.blocks import READ_BATCH, Layout, blocks_in_box, decompress, tables_of
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.errors import BadRequest, NotSupported
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.sharding import Sharding
from dvid_dask.ops import job
from dvid_dask.ops.folders import end_job, ledger_at, plain_url, write_whole
from dvid_dask.ops.job import LedgerPhase, Result, ScratchLedger
from dvid_dask.ops.precomputed import shard_grid
from dvid_dask.ops.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from dvid_dask.datatypes.base import Datatype, Space
    from dvid_dask.ops.bricks import Grid

__all__ = ["ShardsReport", "analyze_shards", "export_shards"]

_MAX_BATCH = 1 << 16
_LEDGER = ".dvid-dask-export/"
_DRAFTS = f"{_LEDGER}drafts/"
_FILES = re.compile(r"s\d+/-?\d+_-?\d+_-?\d+\.(arrow|csv)")
_COUNTS = ("shards", "blocks", "background", "labels", "raw_bytes", "bytes", "largest")
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class ShardsReport:
    """What was exported, or would be.

    Attributes
    ----------
    destination
        The folder.
    scales
        For each scale: ``shards`` with a block in them, ``blocks``, ``background`` blocks that are left out,
        ``labels`` in all tables, ``raw_bytes`` of label blocks, ``bytes`` of them compressed, and blocks of the
        ``largest`` shard.
    seconds
        Time of this run.
    written
        Whether files were written.
    """

    destination: str
    scales: tuple[dict[str, int], ...]
    seconds: float
    written: bool

    def table(self) -> str:
        """The statistics, a line for each scale; the same for the same state and spec."""
        heads = ("scale", *_COUNTS)
        lines = [heads, *(tuple(str(v) for v in (i, *(s[k] for k in _COUNTS))) for i, s in enumerate(self.scales))]
        return "\n".join(
            "  ".join(f"{cell:>{max(10, len(h))}}" for cell, h in zip(line, heads, strict=True)) for line in lines
        )

    def __str__(self) -> str:
        blocks, shards = (sum(s[k] for s in self.scales) for k in ("blocks", "shards"))
        what = (
            f"wrote {blocks:,} blocks in {shards:,} shards to"
            if self.written
            else f"{blocks:,} blocks in {shards:,} shards for"
        )
        return f"{what} {self.destination} in {self.seconds:.1f} s\n{self.table()}"


# ------------------------------------------------------------------ the spec


@dataclass(frozen=True)
class _Scale:
    """A scale of a spec: its voxels, which begin at a block, and its shards."""

    box: Box
    sharding: Sharding


@dataclass(frozen=True)
class _Spec:
    scales: tuple[_Scale, ...]
    batch_size: int


def _parse(given: Any, instance: LabelMap) -> _Spec:
    """A spec that was checked: all of it, whatever part is wanted."""
    if isinstance(given, (str, bytes)):
        try:
            given = msgspec.json.decode(given)
        except msgspec.DecodeError as e:
            raise BadRequest(f"the spec is no JSON: {e}") from None
    if not isinstance(given, MappingOf) or not isinstance(given.get("scales"), Sequence) or not given["scales"]:
        raise BadRequest("the spec must be an object with scales, as the info of a neuroglancer volume")
    batch = given.get("batch_size", 1)
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= _MAX_BATCH:
        raise BadRequest(f"batch_size must be 1 to {_MAX_BATCH}, got {batch!r}")
    return _Spec(tuple(_scale(s, i, instance) for i, s in enumerate(given["scales"])), batch)


def _scale(given: Any, number: int, instance: LabelMap) -> _Scale:
    where = f"scale {number} of the spec"
    if not isinstance(given, MappingOf):
        raise BadRequest(f"{where} is no object")
    block = instance.block_shape
    size, offset = _point(given, "size", where), _point(given, "voxel_offset", where, [0, 0, 0])
    chunks = given.get("chunk_sizes")
    if chunks != [list(block[::-1])]:
        raise BadRequest(
            f"{where}: chunk_sizes must be {[list(block[::-1])]}, the blocks of {instance.name!r}, got {chunks!r}"
        )
    if any(n < 1 for n in size):
        raise BadRequest(f"{where}: size must be positive, got {size}")
    if any(o % b for o, b in zip(offset, block[::-1], strict=True)):
        raise BadRequest(f"{where}: voxel_offset {offset} must lie at a corner of a block of {block[::-1]}")
    box = Box.of(offset[::-1], [o + n for o, n in zip(offset[::-1], size[::-1], strict=True)])
    if min(box.start) < INT32_MIN or max(box.stop) > INT32_MAX:
        raise BadRequest(f"{where}: {box} leaves the range of coordinates")
    try:
        sharding = Sharding.from_json(given.get("sharding"))
        sharding.shard_shape(box.relative(box.start).cells(block).stop)
    except (FormatError, ValueError) as e:
        raise BadRequest(f"{where}: {e}") from None
    return _Scale(box, sharding)


def _point(given: MappingOf[str, Any], name: str, where: str, default: Any = None) -> list[int]:
    value = given.get(name, default)
    if not isinstance(value, Sequence) or len(value) != 3 or any(type(v) is not int for v in value):
        raise BadRequest(f"{where}: {name} must be three integers (x, y, z), got {value!r}")
    return list(value)


# ------------------------------------------------------------------ one shard


@dataclass(frozen=True)
class _WriteShard:
    """Writes the two files of a shard, or only counts; pickled once per worker."""

    ledger: ScratchLedger
    phase: str
    space: Space
    layout: Layout
    scale: int
    box: Box
    grid: Grid
    url: str
    batch_size: int
    write: bool

    def __call__(self, index: int) -> Result:
        shard = self.grid.brick(index).shift(self.box.start)
        counts = dict.fromkeys(_COUNTS, 0)
        blocks = self._blocks(shard, counts)
        first = next(blocks, None)
        if first is not None:
            counts["shards"] = 1
            if self.write:
                self._write(shard, first, blocks)
            else:
                for _ in blocks:
                    pass
        counts["largest"] = counts["blocks"]
        return self.ledger.commit(self.phase, index, lambda _, __: counts)

    def _blocks(self, shard: Box, counts: dict[str, int]) -> Iterator[list[Any]]:
        """Rows of the shard's blocks, a value for each field."""
        wanted = blocks_in_box(*shard.cells(self.layout.block_shape))
        mapping = Mapping(self.space)
        for a in range(0, len(wanted), READ_BATCH):
            values = self.space.get_many(keys.blocks(self.scale, wanted[a : a + READ_BATCH]))
            there = [i for i, v in enumerate(values) if v is not None]
            stored = [v for v in values if v is not None]
            blocks = parallel(lambda v: decompress(v, self.layout), stored)
            joined, ends = tables_of(blocks)
            bodies = mapping.bodies(joined)
            for i, value, block, start, stop in zip(there, stored, blocks, ends[:-1], ends[1:], strict=True):
                if not bodies[start:stop].any():
                    counts["background"] += 1
                    continue
                counts["blocks"] += 1
                counts["labels"] += int(stop - start)
                counts["raw_bytes"] += len(block)
                counts["bytes"] += len(value)
                z, y, x = wanted[a + i].tolist()
                yield [x, y, z, bodies[start:stop], joined[start:stop], value, len(block)]

    def _write(self, shard: Box, first: list[Any], rest: Iterator[list[Any]]) -> None:
        x, y, z = shard.start[::-1]
        url = plain_url(self.url)
        name, drafts = f"{url}s{self.scale}/{x}_{y}_{z}", url + _DRAFTS
        with write_whole(f"{name}.csv", drafts) as index, write_whole(f"{name}.arrow", drafts) as file:
            stream = _Stream(file, index, self.batch_size)
            stream.add(first)
            for row in rest:
                stream.add(row)
            stream.end()


class _Stream:
    """An Arrow IPC stream and the table that says where its rows are."""

    def __init__(self, file: IO[bytes], index: IO[bytes], batch_size: int) -> None:
        self._file, self._index, self._batch_size = file, index, batch_size
        self._schema = _schema()
        schema = self._schema.serialize()
        file.write(schema)
        self._at = schema.size
        index.write(f"# schema_size={schema.size}\nx,y,z,offset,size,batch_idx\n".encode())
        self._rows: list[list[Any]] = []

    def add(self, row: list[Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == self._batch_size:
            self._flush()

    def end(self) -> None:
        if self._rows:
            self._flush()
        self._file.write(_END_OF_STREAM)

    def _flush(self) -> None:
        import pyarrow as pa

        columns = list(zip(*self._rows, strict=True))
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, self._schema, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema).serialize()
        self._file.write(batch)
        lines = [f"{x},{y},{z},{self._at},{batch.size},{i}\n" for i, (x, y, z, *_) in enumerate(self._rows)]
        self._index.write("".join(lines).encode())
        self._at += batch.size
        self._rows = []


def _schema() -> pa.Schema:
    import pyarrow as pa

    labels = pa.list_(pa.uint64())
    fields = [
        *((f"chunk_{a}", pa.int32()) for a in "xyz"),
        ("labels", labels),
        ("supervoxels", labels),
        ("dvid_compressed_block", pa.binary()),
        ("uncompressed_size", pa.uint32()),
    ]
    told = {"dvid_compressed_block": {"compression": "true", "codec": "zstd"}}
    return pa.schema([pa.field(n, t, nullable=False, metadata=told.get(n)) for n, t in fields])


# ------------------------------------------------------------------ the door


def export_shards(
    instance: Datatype,
    spec: Any,
    destination: str,
    *,
    scales: int = 1,
    client: Any = None,
    progress: bool = True,
) -> ShardsReport:
    """Write the label blocks of a version as Arrow files by shard; killed and started again it goes on.

    All is read from one state of the version. Files of an earlier export in the folder are removed first. At the end
    the statistics are in ``export.log``.

    Parameters
    ----------
    instance
        A labelmap, at any version.
    spec
        The ``info`` of a neuroglancer volume, as JSON or decoded: every scale sharded with the hash ``identity``, with
        one chunk size, the instance's block size. ``batch_size`` in it is the number of blocks in a record batch, 1
        unless given.
    destination
        Path or URL of a folder.
    scales
        How many scales to write, from scale 0 on.
    client, progress
        As for `ingest`.

    Raises
    ------
    BadRequest
        If the spec can't be used, or has or the instance keeps fewer scales; nothing is written.
    NotSupported
        If the instance is no labelmap.
    """
    return _run(instance, spec, destination, scales, client, progress, write=True)


def analyze_shards(
    instance: Datatype,
    spec: Any,
    destination: str,
    *,
    scales: int = 1,
    client: Any = None,
    progress: bool = True,
) -> ShardsReport:
    """What `export_shards` would write: the same scan, no files but ``analyze.log`` with the statistics."""
    return _run(instance, spec, destination, scales, client, progress, write=False)


def _run(
    instance: Datatype, spec: Any, destination: str, scales: int, client: Any, progress: bool, *, write: bool
) -> ShardsReport:
    began = time.monotonic()
    if not isinstance(instance, LabelMap):
        raise NotSupported(f"label blocks are those of labelmaps; {instance.name!r} is a {instance.info.typename}")
    parsed = _parse(spec, instance)
    kept = instance.layout.levels + 1
    if not 1 <= scales <= min(len(parsed.scales), kept):
        has = f"the spec has {len(parsed.scales)}, {instance.name!r} keeps {kept}"
        raise BadRequest(f"{scales} scales: at least 1 is possible; {has}")
    client = job.find_client(client)
    job.check_reach(client, instance)
    space = instance.view(0)
    url = directory_url(destination)
    name = job.job_name(
        op="shards",
        instance=instance.info.data_uuid,
        state=space.token,
        spec=repr(parsed),
        scales=scales,
        write=write,
    )
    ledger = ledger_at(url + _LEDGER, name, lambda: _begin(url) if write else None, replace=True)
    show = Progress(progress)
    show.say(f"shards of {instance.name!r} at version {instance.version.uuid[:12]}: {scales} scales to {destination}")
    found = []
    for s, scale in enumerate(parsed.scales[:scales]):
        grid = shard_grid(instance, space, s, scale.box, instance.block_shape, scale.sharding)
        phase = f"scale{s}"
        task = _WriteShard(ledger, phase, space, instance.layout, s, scale.box, grid, url, parsed.batch_size, write)
        weights = [grid.brick(i).size for i in range(grid.count)]
        job.execute(LedgerPhase(ledger, phase, f"scale {s}", weights, task), client, show)
        found.append(_summed(list(ledger.done(phase).values())))
    report = ShardsReport(destination, tuple(found), time.monotonic() - began, write)
    with write_whole(f"{plain_url(url)}{'export' if write else 'analyze'}.log", plain_url(url) + _DRAFTS) as log:
        log.write(f"{instance.version.uuid} {instance.name}\n{report.table()}\n".encode())
    end_job(ledger, url + _LEDGER)
    return report


def _summed(results: list[Result]) -> dict[str, int]:
    sums = {k: sum(r[k] for r in results) for k in _COUNTS}
    return sums | {"largest": max((r["largest"] for r in results), default=0)}


def _begin(url: str) -> None:
    """Remove the files of an earlier export."""
    import tensorstore as ts

    place = ts.KvStore.open(url).result()
    for key in place.list().result():
        if _FILES.fullmatch(key.decode()):
            place.write(key, None).result()
