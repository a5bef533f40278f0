"""Labels as a neuroglancer volume: each label block becomes a chunk of it without being expanded.

A task writes one shard whole, so that no two tasks write one file and nothing is written twice. What a task holds is
the compressed chunks of its shard. The chunks begin where blocks do: the volume begins at the first block.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box, Point
from dvid_dask.datatypes.labelmap import BodyVolume, LabelVolume
from dvid_dask.datatypes.labelmap.blocks import Layout, blocks_in_box, read_blocks, tables_of
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.datatypes.labelmap.threads import parallel
from dvid_dask.errors import BadRequest
from dvid_dask.formats import compressed_segmentation, label_blocks
from dvid_dask.formats.compression import gzip_compress
from dvid_dask.formats.distinct import distinct_rows
from dvid_dask.formats.sharding import Sharding, choose_sharding, chunk_ids
from dvid_dask.ops.bricks import Grid
from dvid_dask.ops.job import Result, ScratchLedger
from dvid_dask.ops.stored import block_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Datatype, Space
    from dvid_dask.ops.within import Within

__all__ = ["LabelChunks", "from_first_block", "shard_grid", "sharding_for", "write_properties"]

_VOXELS_PER_SHARD = 1 << 30  # of labels: some 100 MB of chunks before gzip
_BYTES_PER_SHARD = 1 << 27  # of images, which are held expanded
_UNSHARDED = (8, 8, 8)
_ENUMERATE = 1 << 16
_MAX_PROPERTIES = 1 << 22


def from_first_block(box: Box, block: Point) -> Box:
    """The box from the beginning of its first block on."""
    return Box(box.aligned(block).start, box.stop)


def _chunks(box: Box, block: Point) -> Point:
    return box.relative(box.start).cells(block).stop


def sharding_for(box: Box, block: Point, itemsize: int | None) -> Sharding:
    """Shards for a volume at one scale: of labels, or of an image with voxels of so many bytes."""
    voxels = _VOXELS_PER_SHARD if itemsize is None else _BYTES_PER_SHARD // itemsize
    return choose_sharding(_chunks(box, block), voxels // (block[0] * block[1] * block[2]))


def shard_grid(instance: Datatype, space: Space, scale: int, box: Box, block: Point, sharding: Sharding | None) -> Grid:
    """Bricks of one shard each (without shards, of 8^3 chunks), counted from the first voxel of the box.

    Of a volume of very many bricks only those in which something is stored.
    """
    chunks = _chunks(box, block)
    per_brick = _UNSHARDED if sharding is None else sharding.shard_shape(chunks)
    ez, ey, ex = (c * b for c, b in zip(per_brick, block, strict=True))
    grid = Grid(0, 0, (ez, ey, ex), block, Box.of_shape(box.shape))
    if grid.count <= _ENUMERATE or not isinstance(instance, LabelVolume):
        return grid
    first = np.array([a // b for a, b in zip(box.start, block, strict=True)], np.int64)
    found = np.empty((0, 3), np.int64)
    for blocks in block_batches(instance, space, scale):
        inside = blocks - first
        inside = inside[((inside >= 0) & (inside < chunks)).all(axis=1)]
        found = distinct_rows(np.concatenate([found, inside // per_brick]))
    return grid.only(found * per_brick)


@dataclass(frozen=True)
class LabelChunks:
    """Writes the chunks of a brick; pickled once per worker.

    Attributes
    ----------
    ledger, phase
        Where what is done is noted.
    space, layout, scale
        What is read: a pinned state.
    supervoxels
        Supervoxels instead of bodies.
    box
        Voxels of the scale; begins at a block.
    grid
        The bricks, from `shard_grid`.
    url
        Directory of the scale.
    sharding
        None writes a file for each chunk.
    within
        Voxels beside this region are written as background.
    """

    ledger: ScratchLedger
    phase: str
    space: Space
    layout: Layout
    scale: int
    supervoxels: bool
    box: Box
    grid: Grid
    url: str
    sharding: Sharding | None
    within: Within | None = None

    def __call__(self, index: int) -> Result:
        """Write one brick and note it."""
        import tensorstore as ts

        brick = self.grid.brick(index)
        block = self.layout.block_shape
        wanted = blocks_in_box(*brick.shift(self.box.start).cells(block))
        mapping = None if self.supervoxels else Mapping(self.space)
        place = self._open()
        transaction = None if self.sharding is None else ts.Transaction()
        if transaction is not None:
            place = place.with_transaction(transaction)
        chunks = 0
        for coords, blocks in read_blocks(self.space, self.layout, self.scale, wanted):
            if self.within is not None:
                coords, blocks = self._inside(self.within, coords, blocks)
            made = self._encode(coords, blocks, mapping)
            keys = self._keys(coords)
            writes = [place.write(k, c) for k, c in zip(keys, made, strict=True) if c is not None]
            chunks += len(writes)
            for write in writes:
                write.result()
        if transaction is not None:
            transaction.commit_async().result()
        return self.ledger.commit(self.phase, index, lambda _, __: {"chunks": chunks})

    def _inside(
        self, part: Within, coords: NDArray[np.int32], blocks: list[bytes]
    ) -> tuple[NDArray[np.int32], list[bytes]]:
        """The blocks with voxels of the region, and only these in them."""
        made = parallel(functools.partial(self._masked, part), list(zip(coords.tolist(), blocks, strict=True)))
        kept = [i for i, block in enumerate(made) if block is not None]
        return coords[kept], [block for block in made if block is not None]

    def _masked(self, part: Within, given: tuple[list[int], bytes]) -> bytes | None:
        place, block = given
        box = Box.of(place, [n + 1 for n in place]).scaled(self.layout.block_shape)
        mask = part.mask(box, self.scale)
        if mask is None:
            return block
        return label_blocks.encode_block(np.where(mask, label_blocks.decode_block(block), 0)) if mask.any() else None

    def _open(self) -> Any:
        import tensorstore as ts

        if self.sharding is None:
            return ts.KvStore.open(self.url).result()
        # chunks come gzipped already: the driver compresses at the highest level, which takes longer than all the rest
        metadata = {**self.sharding.to_json(), "data_encoding": "raw"}
        return ts.KvStore.open(
            {"driver": "neuroglancer_uint64_sharded", "base": self.url, "metadata": metadata}
        ).result()

    def _encode(self, coords: NDArray[np.int32], blocks: list[bytes], mapping: Mapping | None) -> list[bytes | None]:
        block = np.array(self.layout.block_shape)
        shapes = np.minimum(block, np.array(self.box.stop) - coords * block).tolist()
        tables: Sequence[NDArray[np.uint64] | None] = [None] * len(blocks)
        if mapping is not None:
            joined, ends = tables_of(blocks)
            tables = np.split(mapping.bodies(joined), ends[1:-1])
        return parallel(self._chunk, list(zip(blocks, tables, shapes, strict=True)))

    def _chunk(self, given: tuple[bytes, NDArray[np.uint64] | None, list[int]]) -> bytes | None:
        chunk = compressed_segmentation.from_label_block(*given)
        return chunk if chunk is None or self.sharding is None else gzip_compress(chunk)

    def _keys(self, coords: NDArray[np.int32]) -> list[Any]:
        block = np.array(self.layout.block_shape, np.int64)
        if self.sharding is not None:
            chunks = coords - np.array(self.box.start) // block
            ids = chunk_ids(chunks, _chunks(self.box, self.layout.block_shape))
            return [i.to_bytes(8, "big") for i in ids.tolist()]
        start = coords * block
        stop = np.minimum(start + block, np.array(self.box.stop))
        return [
            f"{ax}-{bx}_{ay}-{by}_{az}-{bz}"
            for (az, ay, ax), (bz, by, bx) in zip(start.tolist(), stop.tolist(), strict=True)
        ]


def write_properties(instance: BodyVolume, space: Space, url: str, *, supervoxels: bool) -> None:
    """Write neuroglancer's ``segment_properties``: the voxels of every body; and name them in ``info``.

    Raises
    ------
    BadRequest
        If there are more bodies than a browser takes, or no label index says which there are.
    """
    import tensorstore as ts

    if supervoxels or not instance.indexed:
        raise BadRequest("segment properties are those of bodies in the label index: there is none for these labels")
    ids: list[str] = []
    voxels: list[int] = []
    for body, header in Index(space).scan():
        ids.append(str(body))
        voxels.append(header.voxels)
        if len(ids) > _MAX_PROPERTIES:
            raise BadRequest(
                f"more than {_MAX_PROPERTIES} bodies: segment properties are one list that viewers load whole"
            )
    # neuroglancer's numbers go to 32 bits, floats are exact enough to sort by
    number = {"id": "voxels", "type": "number", "data_type": "float32", "values": [float(v) for v in voxels]}
    properties = {"@type": "neuroglancer_segment_properties", "inline": {"ids": ids, "properties": [number]}}
    place = ts.KvStore.open(url).result()
    place.write("segment_properties/info", json.dumps(properties)).result()
    info = json.loads(place.read("info").result().value)
    place.write("info", json.dumps({**info, "segment_properties": "segment_properties"})).result()
