"""Where what stands in a grid: NanoVDB 32.8, little-endian, every node aligned to 32 bytes.

::

    grid 672 | tree 64 | root, its tiles | upper nodes | lower nodes | leaves | blind metadata 288 each | blind data

Sizes and offsets of the node types are those of ``NanoVDB.h``'s structs, which ``PNanoVDB.h`` lists as numbers in
``pnanovdb_grid_type_constants``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np

__all__ = [
    "ALIGN",
    "BLIND",
    "FILE_HEADER",
    "FILE_META",
    "GRID",
    "GRID_MAGIC",
    "FILE_MAGIC",
    "LOWER",
    "OLD_MAGIC",
    "TILE",
    "TREE",
    "UPPER",
    "VERSION",
    "BlindClass",
    "Codec",
    "GridClass",
    "GridFlags",
    "GridType",
    "Inner",
    "NodeTypes",
    "node_types",
]

OLD_MAGIC = int.from_bytes(b"NanoVDB0", "little")  # grids and files before 32.7
GRID_MAGIC = int.from_bytes(b"NanoVDB1", "little")
FILE_MAGIC = int.from_bytes(b"NanoVDB2", "little")
MAJOR = 32
VERSION = MAJOR << 21 | 8 << 10
ALIGN = 32
NAME_BYTES = 256  # with the closing zero


class GridType(IntEnum):
    """What a voxel holds."""

    UNKNOWN = 0
    FLOAT = 1
    DOUBLE = 2
    INT16 = 3
    INT32 = 4
    INT64 = 5
    MASK = 8
    HALF = 9
    UINT32 = 10
    BOOLEAN = 11
    INDEX = 19
    ON_INDEX = 20
    UINT8 = 26


class GridClass(IntEnum):
    """What a grid stands for."""

    UNKNOWN = 0
    FOG_VOLUME = 2
    TOPOLOGY = 6
    VOXEL_VOLUME = 7
    INDEX_GRID = 8
    TENSOR_GRID = 9


class GridFlags(IntFlag):
    """What a grid has."""

    LONG_NAME = 1
    BBOX = 2
    MIN_MAX = 4
    AVERAGE = 8
    DEVIATION = 16
    BREADTH_FIRST = 32


class BlindClass(IntEnum):
    """What blind data are."""

    UNKNOWN = 0
    GRID_NAME = 3
    CHANNEL = 4


class Codec(IntEnum):
    """How a file compresses its grids."""

    NONE = 0
    ZIP = 1
    BLOSC = 2


def _struct(size: int, *fields: tuple[str, object, int]) -> np.dtype[np.void]:
    names, formats, offsets = zip(*fields, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


GRID = _struct(
    672,
    ("magic", "<u8", 0),
    ("head_sum", "<u4", 8),
    ("tail_sum", "<u4", 12),
    ("version", "<u4", 16),
    ("flags", "<u4", 20),
    ("index", "<u4", 24),
    ("count", "<u4", 28),
    ("size", "<u8", 32),
    ("name", f"S{NAME_BYTES}", 40),
    ("matrix_f", ("<f4", 9), 296),
    ("inverse_f", ("<f4", 9), 332),
    ("vector_f", ("<f4", 3), 368),
    ("taper_f", "<f4", 380),
    ("matrix", ("<f8", 9), 384),
    ("inverse", ("<f8", 9), 456),
    ("vector", ("<f8", 3), 528),
    ("taper", "<f8", 552),
    ("world_bbox", ("<f8", (2, 3)), 560),
    ("voxel_size", ("<f8", 3), 608),
    ("class", "<u4", 632),
    ("type", "<u4", 636),
    ("blind_offset", "<i8", 640),
    ("blind_count", "<u4", 648),
    ("values", "<u8", 656),  # of an index grid, with the background
)
TREE = _struct(
    64,
    ("offset", ("<i8", 4), 0),  # of the first leaf, lower node, upper node and the root, from the tree's start
    ("nodes", ("<u4", 3), 32),  # leaves, lower nodes, upper nodes
    ("tiles", ("<u4", 3), 44),
    ("voxels", "<u8", 56),
)
TILE = _struct(32, ("key", "<u8", 0), ("child", "<i8", 8), ("state", "<u4", 16))
BLIND = _struct(
    288,
    ("offset", "<i8", 0),  # from the start of this entry
    ("count", "<u8", 8),
    ("value_size", "<u4", 16),
    ("semantic", "<u4", 20),
    ("class", "<u4", 24),
    ("type", "<u4", 28),
    ("name", f"S{NAME_BYTES}", 32),
)
FILE_HEADER = _struct(16, ("magic", "<u8", 0), ("version", "<u4", 8), ("grids", "<u2", 12), ("codec", "<u2", 14))
FILE_META = _struct(
    176,
    ("grid_size", "<u8", 0),
    ("file_size", "<u8", 8),
    ("name_key", "<u8", 16),
    ("voxels", "<u8", 24),
    ("type", "<u4", 32),
    ("class", "<u4", 36),
    ("world_bbox", ("<f8", (2, 3)), 40),
    ("index_bbox", ("<i4", (2, 3)), 88),
    ("voxel_size", ("<f8", 3), 112),
    ("name_size", "<u4", 136),
    ("nodes", ("<u4", 4), 140),
    ("tiles", ("<u4", 3), 156),
    ("codec", "<u2", 168),
    ("blind_count", "<u2", 170),
    ("version", "<u4", 172),
)


@dataclass(frozen=True)
class Inner:
    """An upper or lower node: bounding box, flags, value mask, child mask, statistics, table."""

    bits: int  # of the side of its table
    child_bits: int  # of the side of a child, in voxels
    size: int

    @property
    def entries(self) -> int:
        """Of its table."""
        return 1 << 3 * self.bits

    @property
    def mask(self) -> int:
        """Offset of the value mask."""
        return 32

    @property
    def child_mask(self) -> int:
        """Offset of the child mask."""
        return 32 + self.entries // 8

    @property
    def stats(self) -> int:
        """Offset of the statistics."""
        return 32 + self.entries // 4

    @property
    def table(self) -> int:
        """Offset of the table: a child's distance from this node, or a tile's value."""
        return self.size - 8 * self.entries


UPPER = Inner(5, 7, 270400)
LOWER = Inner(4, 3, 33856)


@dataclass(frozen=True)
class NodeTypes:
    """What depends on the type of a grid's values.

    Attributes
    ----------
    dtype
        Of a value; None where leaves hold none.
    root_size
        Bytes of the root without its tiles.
    leaf_size
        Bytes of a leaf.
    stats
        Offsets of least and largest value, mean and standard deviation of inner nodes and leaves, from where those
        begin: `Inner.stats`, or 80 in leaves.
    root_stats
        The background's offset in the root, and those of its statistics.
    leaf_values
        Offset of a leaf's values.
    """

    dtype: np.dtype[np.generic] | None
    root_size: int
    leaf_size: int
    leaf_values: int = 0
    stats: tuple[int, ...] = ()
    root_stats: tuple[int, ...] = ()


_INDEX = NodeTypes(None, 96, 96)
_TYPES = {
    GridType.ON_INDEX: _INDEX,
    GridType.INDEX: _INDEX,
    GridType.MASK: NodeTypes(None, 64, 96),
    GridType.BOOLEAN: NodeTypes(None, 64, 160),
    GridType.HALF: NodeTypes(None, 64, 1120),
    GridType.INT16: NodeTypes(np.dtype("<i2"), 64, 1120, 96),
    GridType.INT32: NodeTypes(np.dtype("<i4"), 64, 2144, 96),
    GridType.INT64: NodeTypes(np.dtype("<i8"), 96, 4224, 128),
    GridType.DOUBLE: NodeTypes(np.dtype("<f8"), 96, 4224, 128),
    # the three that are written
    GridType.UINT8: NodeTypes(np.dtype("u1"), 64, 608, 96, (0, 1, 4, 8), (28, 29, 30, 32, 36)),
    GridType.UINT32: NodeTypes(np.dtype("<u4"), 64, 2144, 96, (0, 4, 8, 12), (28, 32, 36, 40, 44)),
    GridType.FLOAT: NodeTypes(np.dtype("<f4"), 64, 2144, 96, (0, 4, 8, 12), (28, 32, 36, 40, 44)),
}


def node_types(grid_type: int) -> NodeTypes | None:
    """The layout of a type's nodes; None for the types that are unknown here."""
    return _TYPES.get(GridType(grid_type)) if grid_type in _TYPES else None
