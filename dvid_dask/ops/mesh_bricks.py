"""The tasks of `mesh`: surfaces of the labels of a brick, and the pieces of each label put together.

A brick looks at its voxels and one layer of its neighbours', so that each cell of eight voxels belongs to one brick. A
label that lies within the brick is finished there. Of the others the brick leaves a piece for the second phase, with
fewer triangles already but for its border, where it must fit its neighbours' pieces. So the second phase never holds
more than about the finished mesh of one label.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import keys
from dvid_dask.datatypes.labelmap.blocks import Layout, blocks_in_box, decompress
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.formats import label_blocks
from dvid_dask.formats.compression import zstd_compress, zstd_decompress
from dvid_dask.formats.distinct import distinct_rows, is_among
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.meshes.mesh import simplified
from dvid_dask.formats.meshes.surfaces import Piece, joined, surfaces
from dvid_dask.ops.job import Result, ScratchLedger
from dvid_dask.ops.mesh_files import FileWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Space, TxSpace
    from dvid_dask.ops.within import Within

__all__ = ["MergePieces", "MeshBricks", "decode_piece", "encode_piece", "merged", "neighbours_before"]

_TOGETHER = 1 << 21  # triangles of pieces that are joined and simplified before more are read
_HEAD = struct.Struct("<qqqqqqq")
_MOST = 1 << 36


def neighbours_before(blocks: NDArray[np.int64], per_brick: NDArray[Any]) -> NDArray[np.int64]:
    """Bricks that have cells with voxels of these blocks: their own, and those before them along each axis."""
    steps = np.array(list(itertools.product((0, 1), repeat=3)), np.int64)
    found = [distinct_rows((blocks - step) // per_brick) for step in steps]
    return distinct_rows(np.concatenate(found))


def encode_piece(piece: Piece) -> bytes:
    """A piece as bytes: its corner, sizes, float32 positions from the corner, triangles, its seam."""
    seam = piece.border().astype("<i4")
    corner = np.floor(piece.vertices.min(axis=0)).astype(np.int64)
    head = _HEAD.pack(*corner.tolist(), piece.made, len(piece.vertices), len(piece.faces), len(seam))
    local = (piece.vertices - corner).astype("<f4")
    # triangles name vertices made a moment before: differences are small
    steps = np.diff(piece.faces.astype("<i4").reshape(-1), prepend=np.int32(0)).astype("<i4")
    planes = np.ascontiguousarray(steps.view(np.uint8).reshape(-1, 4).T)
    return zstd_compress(head + local.tobytes() + planes.tobytes() + seam.tobytes(), 1)


def decode_piece(value: bytes) -> Piece:
    """The inverse of `encode_piece`.

    Raises
    ------
    FormatError
        The bytes are no piece.
    """
    data = zstd_decompress(value, _MOST)
    if len(data) < _HEAD.size:
        raise FormatError(f"a piece of a mesh with {len(data)} bytes")
    z, y, x, made, vertices, faces, border = _HEAD.unpack_from(data)
    if len(data) != _HEAD.size + 12 * (vertices + faces) + 4 * border:
        raise FormatError(f"{len(data)} bytes are no piece of {vertices} vertices and {faces} triangles")
    local = np.frombuffer(data, "<f4", 3 * vertices, _HEAD.size).reshape(-1, 3)
    planes = np.frombuffer(data, np.uint8, 12 * faces, _HEAD.size + 12 * vertices).reshape(4, -1)
    steps = np.ascontiguousarray(planes.T).view("<i4").reshape(-1)
    seam = np.frombuffer(data, "<i4", border, _HEAD.size + 12 * (vertices + faces)).astype(np.int64)
    corner = np.array([z, y, x], np.float64)
    return Piece(local + corner, np.cumsum(steps, dtype=np.int32).reshape(-1, 3), made, seam)


def _at_walls(
    vertices: NDArray[np.float64], walls: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.int64]:
    """Vertices at the walls of a brick: those that its neighbours may share."""
    low, high = walls
    return np.flatnonzero(((vertices == low) | (vertices == high)).any(axis=1))


def merged(pieces: Iterator[Piece], keep: float, voxel_nm: tuple[float, float, float]) -> Piece:
    """The pieces of a label as one surface, of which the fraction `keep` of the triangles stays."""
    held: list[Piece] = []
    triangles, room = 0, _TOGETHER
    for piece in pieces:
        held.append(piece)
        triangles += len(piece.faces)
        if triangles > room:
            held = [simplified(joined(held), keep, voxel_nm)]
            triangles = len(held[0].faces)
            room = max(_TOGETHER, 2 * triangles)
    return simplified(joined(held), keep, voxel_nm)


@dataclass(frozen=True)
class MeshBricks:
    """Makes the surfaces of a brick.

    Attributes
    ----------
    ledger, phase
        Where what is done is noted, and pieces are left.
    space, layout, scale
        What is read: a pinned state.
    per_brick
        int (3,): blocks of a brick.
    bricks
        int64 (n, 3): their grid positions.
    wanted
        uint64, ascending: which labels; None for all.
    supervoxels
        Supervoxels instead of bodies.
    indexed
        Whether the label index tells where bodies lie.
    keep, writer
        Fraction of triangles that stay, and where finished meshes go.
    partitions
        Of the labels whose pieces are put together.
    within
        Voxels beside this region count as background.
    """

    ledger: ScratchLedger
    phase: str
    space: Space
    layout: Layout
    scale: int
    per_brick: NDArray[Any]
    bricks: NDArray[np.int64]
    wanted: NDArray[np.uint64] | None
    supervoxels: bool
    indexed: bool
    keep: float
    writer: FileWriter
    partitions: int
    within: Within | None = None

    def __call__(self, index: int) -> Result:
        """Do one brick and note it."""
        pieces: list[tuple[bytes, bytes]] = []
        counted = {"finished": 0}

        def finished() -> Iterator[tuple[int, Piece]]:
            for label, piece, whole in self._surfaces(self.bricks[index]):
                if whole:
                    counted["finished"] += 1
                    yield label, piece
                else:
                    pieces.append((self._key(label, index), encode_piece(piece)))

        triangles, size = self.writer.write(finished())

        def leave(_: Any, space: TxSpace) -> Result:
            space.put_many(pieces)
            return {"labels": counted["finished"], "triangles": triangles, "bytes": size, "pieces": len(pieces)}

        return self.ledger.commit(self.phase, index, leave)

    def _key(self, label: int, index: int) -> bytes:
        partition = self.writer.partition(label, self.partitions)
        return self.ledger.key("x", b"%08x" % partition, b"%016x" % label, b"%08x" % index)

    def _surfaces(self, brick: NDArray[np.int64]) -> Iterator[tuple[int, Piece, bool]]:
        """Labels of a brick, each with its surface and whether that is all of it."""
        shape = np.array(self.layout.block_shape, np.int64)
        first = brick * self.per_brick
        coords = blocks_in_box(first.tolist(), (first + self.per_brick + 1).tolist())
        values = self.space.get_many(keys.blocks(self.scale, coords))
        held = [(c, decompress(v, self.layout)) for c, v in zip(coords, values, strict=True) if v is not None]
        del values
        if not held:
            return
        blocks = [block for _, block in held]
        labels, tables = self._numbered(blocks)
        if not len(labels):
            return
        places = np.array([c for c, _ in held], np.int64) - first
        # nothing is stored elsewhere in the brick, so its surfaces are within these blocks and the layer before them
        low = np.maximum(places.min(axis=0) - 1, 0)
        high = np.minimum(places.max(axis=0) + 1, self.per_brick)
        dense = np.zeros((high - low) * shape + 1, np.uint64)
        label_blocks.decode_blocks_into(blocks, (places - low) * shape, dense, tables)
        uniform = np.ones((high - low) * shape // 8, np.bool_)
        for place, block in zip(places, blocks, strict=True):
            if (place < high).all():
                z, y, x = (place - low) * shape // 8
                nz, ny, nx = shape // 8
                uniform[z : z + nz, y : y + ny, x : x + nx] = label_blocks.uniform_sub_blocks(block)
        del blocks, held
        self._cut_off(dense, uniform, (first + low) * shape)
        index = Index(self.space) if self.indexed else None
        mapping = Mapping(self.space)
        origin = ((first + low) * shape).astype(np.float64)
        walls = (first * shape).astype(np.float64), ((first + self.per_brick) * shape).astype(np.float64)
        for number, half_voxels, faces in surfaces(dense, len(labels), uniform):
            label = int(labels[number - 1])
            vertices = half_voxels / 2 + origin
            piece = Piece(vertices, faces, len(faces), _at_walls(vertices, walls))
            body = mapping.body(label) if self.supervoxels else label
            whole = (
                self.writer.finishes
                and not len(piece.border())
                and index is not None
                and self._lies_within(index, body, first)
            )
            piece = simplified(piece, self.keep, self.writer.voxel_nm)
            yield label, Piece(piece.vertices, piece.faces, piece.made, _at_walls(piece.vertices, walls)), whole

    def _cut_off(self, dense: NDArray[np.uint64], uniform: NDArray[np.bool_], start: NDArray[np.int64]) -> None:
        """Clear the voxels beside the region; cubes of 8 voxels a side that it cuts are no longer of one label."""
        box = Box.of_shape(dense.shape).shift(start.tolist())
        mask = None if self.within is None else self.within.mask(box, self.scale)
        if mask is None:
            return
        dense[~mask] = 0
        nz, ny, nx = uniform.shape
        inside = mask[:-1, :-1, :-1].reshape(nz, 8, ny, 8, nx, 8).sum(axis=(1, 3, 5), dtype=np.int32)
        uniform &= (inside == 0) | (inside == 512)

    def _numbered(self, blocks: list[bytes]) -> tuple[NDArray[np.uint64], list[NDArray[np.uint64]]]:
        """The labels that are wanted, and of each block's table their numbers, from 1 on; 0 for the others."""
        tables = [label_blocks.labels(block) for block in blocks]
        ends = np.cumsum([len(t) for t in tables])[:-1]
        every = np.concatenate(tables)
        if not self.supervoxels:
            every = Mapping(self.space).bodies(every)
        labels, where = np.unique(every, return_inverse=True)
        keep = labels != 0
        if self.wanted is not None:
            keep &= is_among(labels, self.wanted)
        numbers = np.where(keep, np.cumsum(keep), 0).astype(np.uint64)
        return labels[keep], np.split(numbers[where.reshape(-1)], ends)

    def _lies_within(self, index: Index, body: int, first: NDArray[np.int64]) -> bool:
        """Whether all blocks of a body are those of the brick that begins at a block."""
        box = index.extent(body)
        if box is None:
            return False
        low, high = (np.array(corner, np.int64) >> self.scale for corner in box)
        return bool(((low >= first) & (high < first + self.per_brick)).all())


@dataclass(frozen=True)
class MergePieces:
    """Puts the pieces of the labels of a partition together."""

    ledger: ScratchLedger
    phase: str
    keep: float
    writer: FileWriter

    def __call__(self, index: int) -> Result:
        """Do one partition and note it."""
        space = self.ledger.view()
        prefix = self.ledger.key("x", b"%08x" % index, b"")
        counted = {"labels": 0}

        def meshes() -> Iterator[tuple[int, Piece]]:
            found = space.scan(prefix)
            for label, group in itertools.groupby(found, lambda item: int(item[0][len(prefix) :][:16], 16)):
                counted["labels"] += 1
                pieces = (decode_piece(value) for _, value in group)
                yield label, merged(pieces, self.keep, self.writer.voxel_nm)

        triangles, size = self.writer.write(meshes())
        done = {"labels": counted["labels"], "triangles": triangles, "bytes": size}
        return self.ledger.commit(self.phase, index, lambda _, __: done)
