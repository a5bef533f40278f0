"""From leaves to the bytes of a grid."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dvid_dask.formats.nanovdb import _kernels as kernels
from dvid_dask.formats.nanovdb.layout import (
    ALIGN,
    BLIND,
    GRID,
    GRID_MAGIC,
    LOWER,
    NAME_BYTES,
    TILE,
    TREE,
    UPPER,
    VERSION,
    BlindClass,
    GridClass,
    GridFlags,
    GridType,
    NodeTypes,
    node_types,
)
from dvid_dask.formats.nanovdb.leaves import Leaves, entries, tile_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["VALUE_TYPES", "Checksum", "encode_index_grid", "encode_value_grid", "index_grid_bytes"]

Checksum = Literal["full", "half", "none"]

VALUE_TYPES = {"uint8": GridType.UINT8, "uint32": GridType.UINT32, "float32": GridType.FLOAT}
"""Types of values that grids and channels hold, by their numpy name."""

MAX_NAME = 1 << 16
_BLOCK = 4096  # bytes of a piece of the checksum of nodes
_NONE = 0xFFFFFFFF
_EMPTY_BOX = (0x7FFFFFFF,) * 3 + (-0x80000000,) * 3


def encode_index_grid(
    leaves: Leaves,
    *,
    name: str = "",
    voxel_size_xyz: Sequence[float] = (1.0, 1.0, 1.0),
    channels: Mapping[str, ArrayLike] | None = None,
    checksum: Checksum = "full",
) -> NDArray[np.uint8]:
    """An ``OnIndex`` grid: voxels numbered from 1 in index order.

    Parameters
    ----------
    leaves
        The voxels; none is a grid too.
    name
        Any text; more than 255 bytes of it are kept as blind data, as NanoVDB does.
    voxel_size_xyz
        Size of a voxel in world units, x, y, z. Voxel (0, 0, 0) begins at the world's origin.
    channels
        Values of the voxels by name of the channel, (voxels,) in index order, uint8, uint32 or float32: blind data of
        class ``ChannelArray``, with a value 0 for index 0 put first.
    checksum
        ``"full"`` covers all, ``"half"`` the headers, ``"none"`` says that there is none.

    Returns
    -------
    NDArray[uint8]
        The grid: what NanoVDB calls a raw grid buffer. `encode_file` makes a file of it.

    Raises
    ------
    ValueError
        If a voxel size isn't positive, a name can't be used, or a channel has another length or type.

    Examples
    --------
    >>> from dvid_dask.formats.nanovdb import leaves_of_voxels, read_grids
    >>> grid = encode_index_grid(leaves_of_voxels([[1, 2, 3]]), name="spine", channels={"em": np.array([9], np.uint8)})
    >>> len(grid), bytes(grid[:8])
    (305536, b'NanoVDB1')
    >>> (read,) = read_grids(grid.data)
    >>> read.name, read.leaves.coordinates().tolist(), read.channels["em"].tolist()
    ('spine', [[1, 2, 3]], [0, 9])
    """
    blind = []
    for channel, values in (channels or {}).items():
        given = np.asarray(values)
        if given.dtype.name not in VALUE_TYPES:
            raise ValueError(f"channel {channel!r} is {given.dtype}: {', '.join(VALUE_TYPES)} can be kept")
        if given.shape != (leaves.voxels,):
            raise ValueError(f"channel {channel!r} has shape {given.shape}, and there are {leaves.voxels} voxels")
        full = np.zeros(len(given) + 1, given.dtype.newbyteorder("<"))
        full[1:] = given
        blind.append(_Blind(_short(channel, "channel"), BlindClass.CHANNEL, VALUE_TYPES[given.dtype.name], full))
    types = node_types(GridType.ON_INDEX)
    assert types is not None
    buffer, tree = _frame(leaves, types, name, blind)
    _header(buffer, tree, GridType.ON_INDEX, GridClass.INDEX_GRID, voxel_size_xyz)
    buffer.grid["values"] = tree.voxels + 1
    kernels.fill_leaves(leaves.origins, leaves.masks, buffer.words(tree.leaf), 12, True, tree.leaf_boxes)
    _nodes(buffer, tree, types)
    return _sealed(buffer, checksum)


def index_grid_bytes(leaves: Leaves) -> int:
    """Bytes of an index grid of these voxels, without channels."""
    return _Tree.of(leaves, 96, 96).end


def encode_value_grid(
    leaves: Leaves,
    values: ArrayLike,
    *,
    name: str = "",
    voxel_size_xyz: Sequence[float] = (1.0, 1.0, 1.0),
    background: float = 0,
    checksum: Checksum = "full",
) -> NDArray[np.uint8]:
    """A grid whose leaves hold values: ``UInt8``, ``UInt32`` or ``Float``, with statistics of the set voxels.

    Parameters
    ----------
    leaves
        The voxels that are active.
    values
        uint8, uint32 or float32 (voxels,) in index order.
    name, voxel_size_xyz, checksum
        As for `encode_index_grid`.
    background
        Value of all other voxels.

    Returns
    -------
    NDArray[uint8]
        The grid. Its class is ``VoxelVolume``, of floats ``FogVolume``.

    Raises
    ------
    ValueError
        As for `encode_index_grid`; also if the background is no value of the type.

    Examples
    --------
    >>> from dvid_dask.formats.nanovdb import leaves_of_voxels, read_grids
    >>> grid = encode_value_grid(leaves_of_voxels([[1, 2, 3], [5, 0, 0]]), np.array([0.5, 2], np.float32))
    >>> (read,) = read_grids(grid.data)
    >>> read.grid_type.name, read.values.tolist()
    ('FLOAT', [0.5, 2.0])
    """
    given = np.asarray(values)
    if given.dtype.name not in VALUE_TYPES:
        raise ValueError(f"values are {given.dtype}: {', '.join(VALUE_TYPES)} can be kept")
    if given.shape != (leaves.voxels,):
        raise ValueError(f"values have shape {given.shape}, and there are {leaves.voxels} voxels")
    if given.dtype.kind != "f" and not (background == int(background) and 0 <= background <= np.iinfo(given.dtype).max):
        raise ValueError(f"background {background} is no {given.dtype}")
    grid_type = VALUE_TYPES[given.dtype.name]
    types = node_types(grid_type)
    if types is None or types.dtype is None:
        raise ValueError(f"values are {given.dtype}")
    buffer, tree = _frame(leaves, types, name, [])
    flags = GridFlags.MIN_MAX | GridFlags.AVERAGE | GridFlags.DEVIATION if tree.voxels else GridFlags(0)
    kind = GridClass.FOG_VOLUME if grid_type is GridType.FLOAT else GridClass.VOXEL_VOLUME
    _header(buffer, tree, grid_type, kind, voxel_size_xyz, flags)
    kernels.fill_leaves(
        leaves.origins, leaves.masks, buffer.words(tree.leaf), types.leaf_size // 8, False, tree.leaf_boxes
    )
    _nodes(buffer, tree, types, np.array(background, types.dtype).tobytes())
    out = buffer.column(types.dtype, tree.leaf + types.leaf_values, len(leaves), types.leaf_size, 512)
    if background:
        out[...] = background
    kernels.spread(np.ascontiguousarray(given, types.dtype), leaves.masks, out)
    _statistics(buffer, tree, types, leaves, given, background)
    return _sealed(buffer, checksum)


# ------------------------------------------------------------------ parts


@dataclass(frozen=True)
class _Blind:
    name: bytes
    kind: BlindClass
    type: GridType
    values: NDArray[Any]


@dataclass
class _Tree:
    """How many nodes, where they stand, which children they have."""

    leaf_count: int
    voxels: int
    tiles: NDArray[np.int32]  # (u, 3) first voxel of each upper node, x, y, z
    upper_first: NDArray[np.int64]  # (u + 1,) its first lower node
    lower_first: NDArray[np.int64]  # (l + 1,) first leaf
    lower_entry: NDArray[np.int32]  # (l,) entry of each lower node in its upper node
    leaf_entry: NDArray[np.int32]
    leaf_boxes: NDArray[np.int32]
    root: int
    upper: int
    lower: int
    leaf: int
    end: int
    box: Sequence[int] = _EMPTY_BOX

    @classmethod
    def of(cls, leaves: Leaves, root_size: int, leaf_size: int) -> _Tree:
        origins = leaves.origins
        tile = tile_numbers(origins)
        lower_entry = entries(origins, 5, 7)
        begins = np.ones(len(leaves), np.bool_)
        begins[1:] = (tile[1:] != tile[:-1]) | (lower_entry[1:] != lower_entry[:-1])
        lower_first = np.append(np.flatnonzero(begins), len(leaves)).astype(np.int64)
        lower_tile = tile[lower_first[:-1]]
        begins = np.ones(len(lower_tile), np.bool_)
        begins[1:] = lower_tile[1:] != lower_tile[:-1]
        upper_first = np.append(np.flatnonzero(begins), len(lower_tile)).astype(np.int64)
        tiles = origins[lower_first[upper_first[:-1]]] & ~np.int32(4095)
        root = GRID.itemsize + TREE.itemsize
        upper = root + root_size + TILE.itemsize * len(tiles)
        lower = upper + UPPER.size * len(tiles)
        leaf = lower + LOWER.size * len(lower_tile)
        return cls(
            len(leaves),
            leaves.voxels,
            tiles,
            upper_first,
            lower_first,
            lower_entry[lower_first[:-1]],
            entries(origins, 4, 3),
            np.empty((len(leaves), 6), np.int32),
            root,
            upper,
            lower,
            leaf,
            leaf + leaf_size * len(leaves),
        )

    @property
    def uppers(self) -> int:
        return len(self.tiles)

    @property
    def lowers(self) -> int:
        return len(self.lower_entry)


class _Buffer:
    """The bytes of a grid, and views of them."""

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(size, np.uint8)

    @property
    def grid(self) -> Any:
        return self.bytes[: GRID.itemsize].view(GRID)[0]

    @property
    def tree(self) -> Any:
        return self.bytes[GRID.itemsize : GRID.itemsize + TREE.itemsize].view(TREE)[0]

    def records(self, dtype: np.dtype[Any], at: int, count: int) -> Any:
        return self.bytes[at : at + count * dtype.itemsize].view(dtype)

    def words(self, at: int = 0) -> NDArray[np.uint64]:
        """As uint64 from a byte on; a grid's size is a multiple of 32."""
        return self.bytes[at:].view(np.uint64)

    def column(self, dtype: np.dtype[Any], at: int, count: int, stride: int, width: int = 0) -> NDArray[Any]:
        """A field of nodes that follow each other."""
        if not count:
            return np.empty((0, width) if width else (0,), dtype)
        shape, strides = ((count, width), (stride, dtype.itemsize)) if width else ((count,), (stride,))
        return np.ndarray(shape, dtype, self.bytes.data, at, strides)


def _frame(leaves: Leaves, types: NodeTypes, name: str, blind: list[_Blind]) -> tuple[_Buffer, _Tree]:
    """Zeros of the grid's size with its name and blind data."""
    text = name.encode()
    if b"\0" in text or len(text) > MAX_NAME:
        raise ValueError(f"a grid's name has no zero byte and at most {MAX_NAME} bytes, got {len(text)}")
    long = len(text) >= NAME_BYTES
    if long:
        whole = np.frombuffer(text + b"\0", np.uint8)
        blind = [_Blind(b"grid name", BlindClass.GRID_NAME, GridType.UNKNOWN, whole), *blind]
    tree = _Tree.of(leaves, types.root_size, types.leaf_size)
    at = tree.end + BLIND.itemsize * len(blind)
    size = at + sum(_aligned(b.values.nbytes) for b in blind)
    buffer = _Buffer(size)
    grid = buffer.grid
    grid["size"] = size
    grid["name"] = _cut(text)
    grid["flags"] = GridFlags.LONG_NAME if long else 0
    grid["blind_offset"] = tree.end
    grid["blind_count"] = len(blind)
    for i, (entry, part) in enumerate(zip(buffer.records(BLIND, tree.end, len(blind)), blind, strict=True)):
        entry["offset"] = at - (tree.end + i * BLIND.itemsize)
        entry["count"] = len(part.values)
        entry["value_size"] = part.values.itemsize
        entry["class"] = part.kind
        entry["type"] = part.type
        entry["name"] = part.name
        buffer.bytes[at : at + part.values.nbytes] = part.values.view(np.uint8)
        at += _aligned(part.values.nbytes)
    return buffer, tree


def _header(
    buffer: _Buffer,
    tree: _Tree,
    grid_type: GridType,
    grid_class: GridClass,
    voxel_size_xyz: Sequence[float],
    flags: GridFlags = GridFlags(0),
) -> None:
    size = np.asarray(voxel_size_xyz, np.float64)
    with np.errstate(over="ignore", divide="ignore"):
        narrow = size.astype(np.float32)
        usable = size.shape == (3,) and (size > 0).all() and np.isfinite(1 / narrow).all() and np.isfinite(narrow).all()
    if not usable:
        raise ValueError(f"a voxel's size is three positive numbers (x, y, z), got {voxel_size_xyz}")
    grid = buffer.grid
    grid["magic"] = GRID_MAGIC
    grid["head_sum"] = grid["tail_sum"] = _NONE
    grid["version"] = VERSION
    grid["flags"] |= flags | GridFlags.BREADTH_FIRST | (GridFlags.BBOX if tree.voxels else 0)
    grid["count"] = 1
    grid["matrix"] = np.diag(size).reshape(-1)
    grid["inverse"] = np.diag(1 / size).reshape(-1)
    grid["taper"] = grid["taper_f"] = 1
    grid["matrix_f"] = grid["matrix"]
    grid["inverse_f"] = grid["inverse"]
    grid["voxel_size"] = size
    grid["class"] = grid_class
    grid["type"] = grid_type
    starts = [tree.leaf, tree.lower, tree.upper, tree.root]
    node = buffer.tree
    # no offset to nodes that aren't there
    node["offset"] = [at - GRID.itemsize if tree.voxels or at == tree.root else 0 for at in starts]
    node["nodes"] = [tree.leaf_count, tree.lowers, tree.uppers]
    node["voxels"] = tree.voxels


def _nodes(buffer: _Buffer, tree: _Tree, types: NodeTypes, background: bytes = b"") -> None:
    """Upper and lower nodes, root and tiles, once the leaves' boxes are known."""
    if any(background):
        # entries of a table without child are tiles, which hold a value too
        tile = int.from_bytes(background, "little")
        for node, base, count in ((LOWER, tree.lower, tree.lowers), (UPPER, tree.upper, tree.uppers)):
            buffer.column(np.dtype("<u8"), base + node.table, count, node.size, node.entries)[...] = tile
    words = buffer.words()
    lower_boxes = np.empty((tree.lowers, 6), np.int32)
    upper_boxes = np.empty((tree.uppers, 6), np.int32)
    for node, base, first, child_base, child_size, entry, child_boxes, boxes in (
        (
            LOWER,
            tree.lower,
            tree.lower_first,
            tree.leaf,
            types.leaf_size,
            tree.leaf_entry,
            tree.leaf_boxes,
            lower_boxes,
        ),
        (UPPER, tree.upper, tree.upper_first, tree.lower, LOWER.size, tree.lower_entry, lower_boxes, upper_boxes),
    ):
        kernels.fill_nodes(
            words, base // 8, node.size // 8, node.child_mask // 8, node.table // 8, first,
            child_base // 8, child_size // 8, entry, child_boxes, boxes,
        )  # fmt: skip
    box = np.array(_EMPTY_BOX, np.int32)
    if tree.voxels:
        box = np.concatenate([upper_boxes[:, :3].min(0), upper_boxes[:, 3:].max(0)])
    buffer.column(np.dtype("<i4"), tree.root, 1, 1, 6)[0] = box
    buffer.column(np.dtype("<u4"), tree.root + 24, 1, 1)[0] = tree.uppers
    tiles = buffer.records(TILE, tree.root + types.root_size, tree.uppers)
    x, y, z = ((tree.tiles[:, c].astype(np.int64) >> 12 & 0xFFFFF).astype(np.uint64) for c in range(3))
    tiles["key"] = x << np.uint64(42) | y << np.uint64(21) | z
    tiles["child"] = tree.upper - tree.root + np.arange(tree.uppers) * UPPER.size
    grid = buffer.grid
    if tree.voxels:
        corners = np.stack([box[:3], box[3:].astype(np.int64) + 1])
        grid["world_bbox"] = corners * grid["voxel_size"]
    else:
        limit = np.finfo(np.float64).max
        grid["world_bbox"] = [[limit] * 3, [-limit] * 3]


def _statistics(
    buffer: _Buffer,
    tree: _Tree,
    types: NodeTypes,
    leaves: Leaves,
    values: NDArray[Any],
    background: float,
) -> None:
    """Least and largest value, mean and deviation of each node's voxels; of the root the background too."""
    dtype = types.dtype
    if dtype is None:
        return
    at, *rest = types.root_stats
    single = np.dtype("<f4")
    buffer.column(dtype, tree.root + at, 1, 1)[0] = background
    kinds = (dtype, dtype, single, single)
    if not tree.voxels:
        for kind, offset, value in zip(kinds, rest, (background, background, 0, 0), strict=True):
            buffer.column(kind, tree.root + offset, 1, 1)[0] = value
        return
    held = np.empty((len(leaves), 4), np.float64)
    kernels.sums(np.ascontiguousarray(values), leaves.counts, held)
    counts = leaves.counts.astype(np.float64)
    levels = (
        (tree.leaf, types.leaf_size, 80, tree.lower_first),
        (tree.lower, LOWER.size, LOWER.stats, tree.upper_first),
        (tree.upper, UPPER.size, UPPER.stats, np.array([0, tree.uppers])),
        (tree.root, 0, 0, None),
    )
    for base, stride, start, parents in levels:
        offsets = rest if parents is None else [start + s for s in types.stats]
        columns = (held[:, 0], held[:, 1], held[:, 2] / counts, np.sqrt(held[:, 3] / counts))
        for kind, offset, column in zip(kinds, offsets, columns, strict=True):
            buffer.column(kind, base + offset, len(held), stride)[...] = column
        if parents is not None:
            held, counts = _joined(held, counts, parents[:-1])


def _joined(held: NDArray[Any], counts: NDArray[Any], first: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Statistics of parents from those of their children."""
    n = np.add.reduceat(counts, first)
    total = np.add.reduceat(held[:, 2], first)
    # squares about the parent's mean: those about the children's, and the children's means about the parent's
    mean = np.repeat(total / n, np.diff(np.append(first, len(held))))
    squares = np.add.reduceat(held[:, 3] + counts * (held[:, 2] / counts - mean) ** 2, first)
    low, high = np.minimum.reduceat(held[:, 0], first), np.maximum.reduceat(held[:, 1], first)
    return np.stack([low, high, total, squares], axis=1), n


def _sealed(buffer: _Buffer, checksum: Checksum) -> NDArray[np.uint8]:
    """The bytes with their checksum: CRC-32 of the headers, and of all behind them by pieces of 4 KiB."""
    if checksum not in ("full", "half", "none"):
        raise ValueError(f"checksum {checksum!r} is none of full, half, none")
    grid = buffer.grid
    if checksum != "none":
        grid["head_sum"] = head_sum(buffer.bytes)
    if checksum == "full":
        grid["tail_sum"] = tail_sum(buffer.bytes)
    return buffer.bytes


def head_sum(grid: NDArray[np.uint8]) -> int:
    """CRC-32 of the headers behind magic number and checksum."""
    return zlib.crc32(grid[16 : GRID.itemsize + TREE.itemsize].data)


def tail_sum(grid: NDArray[np.uint8]) -> int:
    """CRC-32 of the CRC-32s of the pieces of all behind the headers; the last piece takes what is over."""
    nodes = grid[GRID.itemsize + TREE.itemsize :]
    pieces = len(nodes) // _BLOCK
    if not len(nodes):
        return _NONE
    data = nodes.data
    sums = [zlib.crc32(data[i * _BLOCK : (i + 1) * _BLOCK if i + 1 < pieces else None]) for i in range(pieces)]
    return zlib.crc32(np.array(sums, "<u4").tobytes())


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _cut(text: bytes) -> bytes:
    """What fits into a name's field, not ending inside a character."""
    return text[: NAME_BYTES - 1].decode(errors="ignore").encode()


def _short(name: str, what: str) -> bytes:
    text = name.encode()
    if b"\0" in text or len(text) >= NAME_BYTES:
        raise ValueError(f"the name of a {what} has no zero byte and fewer than {NAME_BYTES} bytes, got {len(text)}")
    return text
