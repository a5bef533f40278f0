"""From bytes to leaves, indices and values. Everything is checked before it is followed or allocated."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.formats import rles
from dvid_dask.formats._bytes import Buffer, as_uint8
from dvid_dask.formats.distinct import distinct
from dvid_dask.formats.errors import FormatError
from dvid_dask.formats.nanovdb import _kernels as kernels
from dvid_dask.formats.nanovdb.grids import head_sum, tail_sum
from dvid_dask.formats.nanovdb.layout import (
    BLIND,
    FILE_HEADER,
    FILE_MAGIC,
    FILE_META,
    GRID,
    GRID_MAGIC,
    LOWER,
    MAJOR,
    OLD_MAGIC,
    TILE,
    TREE,
    UPPER,
    BlindClass,
    Codec,
    GridClass,
    GridType,
    Inner,
    NodeTypes,
    node_types,
)
from dvid_dask.formats.nanovdb.leaves import MAX_LEAVES, MAX_RUNS, Leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Grid", "is_nanovdb", "read_grids", "runs_of_grids"]

MAX_BYTES = 1 << 32
_MAX_GRIDS = 1 << 16
_UNSET = 0xFFFFFFFF
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid that was read.

    Attributes
    ----------
    name
        Its name.
    grid_type, grid_class
        What voxels hold, and what it stands for; a class that is unknown here reads as ``UNKNOWN``.
    voxel_size_xyz
        Size of a voxel in world units.
    leaves
        The active voxels; tiles, which stand for whole leaves of active voxels, are leaves here.
    first
        uint64 (leaves,): of an index grid without tiles, the index of each leaf's first voxel; else None.
    values
        (voxels,): of a value grid without tiles, the value of each voxel in the order of `leaves`; else None.
    channels
        Blind data by name, by index: ``channel[grid.indices()]`` are the values of the voxels.
    """

    name: str
    grid_type: GridType
    grid_class: GridClass
    voxel_size_xyz: tuple[float, float, float]
    leaves: Leaves
    first: NDArray[np.uint64] | None = None
    values: NDArray[Any] | None = None
    channels: dict[str, NDArray[Any]] = field(default_factory=dict)

    def indices(self) -> NDArray[np.uint64]:
        """uint64 (voxels,): of an index grid, the index of each voxel in the order of `leaves`.

        Raises
        ------
        ValueError
            If it is no index grid, or one with tiles.
        """
        if self.first is None:
            raise ValueError(f"a grid of type {self.grid_type.name} or with tiles has no index for each voxel")
        within = np.arange(self.leaves.voxels, dtype=np.uint64)
        return within + np.repeat(self.first - self.leaves.starts.astype(np.uint64), self.leaves.counts)


def is_nanovdb(data: Buffer) -> bool:
    """Whether bytes begin as a NanoVDB grid or file does.

    Examples
    --------
    >>> is_nanovdb(b"NanoVDB2...."), is_nanovdb(b"")
    (True, False)
    """
    return bytes(data[:8]) in (b"NanoVDB0", b"NanoVDB1", b"NanoVDB2")


def read_grids(data: Buffer, *, max_leaves: int = MAX_LEAVES, max_bytes: int = MAX_BYTES) -> list[Grid]:
    """The grids of a file, or of a raw grid buffer.

    Parameters
    ----------
    data
        A file in segments (uncompressed, ``ZIP`` or ``BLOSC``), or one or more grids that follow each other.
    max_leaves
        Most leaves of all grids together, those of tiles included.
    max_bytes
        Most bytes of all grids together after decompression.

    Raises
    ------
    FormatError
        If it is something else, is cut off, doesn't add up, claims too much, or has a type of grid that isn't read.

    Examples
    --------
    >>> read_grids(b"nonsense")
    Traceback (most recent call last):
    ...
    dvid_dask.formats.errors.FormatError: NanoVDB: 8 bytes that begin with b'nonsense' are neither a grid nor a file
    """
    found: list[Grid] = []
    leaves = 0
    for grid in _raw_grids(data, max_bytes):
        found.append(_read_grid(grid, max_leaves - leaves))
        leaves += len(found[-1].leaves)
        if len(found) > _MAX_GRIDS:
            raise FormatError(f"NanoVDB: more than {_MAX_GRIDS} grids")
    return found


def runs_of_grids(
    data: Buffer, *, max_leaves: int = MAX_LEAVES, max_bytes: int = MAX_BYTES, max_runs: int = MAX_RUNS
) -> NDArray[np.int32]:
    """The active voxels of all grids as normal runs: what a split or a sparse volume takes.

    Parameters
    ----------
    data, max_leaves, max_bytes
        As for `read_grids`.
    max_runs
        Most runs of all grids together: a leaf has up to 256.

    Returns
    -------
    NDArray[int32]
        (n, 4) x, y, z, length, sorted by z, y, x.

    Raises
    ------
    FormatError
        As `read_grids`.

    Examples
    --------
    >>> from dvid_dask.formats.nanovdb import encode_index_grid, leaves_of_runs
    >>> runs_of_grids(encode_index_grid(leaves_of_runs([[-3, 5, 6, 20]])).data).tolist()
    [[-3, 5, 6, 20]]
    """
    parts = [np.empty((0, 4), np.int32)]
    found = 0
    for grid in read_grids(data, max_leaves=max_leaves, max_bytes=max_bytes):
        try:
            parts.append(grid.leaves.runs(max_runs=max_runs - found))
        except ValueError as e:
            raise FormatError(f"NanoVDB: {e}") from e
        found += len(parts[-1])
    return parts[1] if len(parts) == 2 else rles.normalize(np.concatenate(parts))


# ------------------------------------------------------------------ files and buffers


def _raw_grids(data: Buffer, max_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """The bytes of each grid."""
    raw = as_uint8(data)
    start = bytes(raw[:8])
    if not is_nanovdb(start):
        raise FormatError(f"NanoVDB: {len(raw)} bytes that begin with {start!r} are neither a grid nor a file")
    magic = int.from_bytes(start, "little")
    if magic == GRID_MAGIC or (magic == OLD_MAGIC and _is_old_grid(raw)):
        yield from _buffer_grids(raw, max_bytes)
    else:
        yield from _file_grids(raw, max_bytes)


def _is_old_grid(raw: NDArray[np.uint8]) -> bool:
    """Files and grids before 32.7 share their magic number: NanoVDB takes for a grid what looks like one."""
    if len(raw) < GRID.itemsize:
        return False
    head = raw[: GRID.itemsize].view(GRID)[0]
    return bool(head["version"] >> 21 == MAJOR and head["index"] < head["count"] and head["class"] < 11)


def _buffer_grids(raw: NDArray[np.uint8], max_bytes: int) -> Iterator[NDArray[np.uint8]]:
    at = 0
    if len(raw) > max_bytes:
        raise FormatError(f"NanoVDB: {len(raw)} bytes; the limit is {max_bytes}")
    while at < len(raw):
        if len(raw) - at < GRID.itemsize + TREE.itemsize:
            raise FormatError(f"NanoVDB: {len(raw) - at} bytes are less than a grid's headers")
        size = int(raw[at : at + GRID.itemsize].view(GRID)[0]["size"])
        if not GRID.itemsize + TREE.itemsize <= size <= len(raw) - at:
            raise FormatError(f"NanoVDB: a grid claims {size} bytes of the {len(raw) - at} there are")
        yield raw[at : at + size]
        at += size


def _file_grids(raw: NDArray[np.uint8], max_bytes: int) -> Iterator[NDArray[np.uint8]]:
    at, total = 0, 0
    while at < len(raw):
        header = _record(raw, at, FILE_HEADER, "a segment's header")
        if header["magic"] not in (OLD_MAGIC, FILE_MAGIC):
            raise FormatError(f"NanoVDB: no segment begins at byte {at}")
        if header["version"] >> 21 != MAJOR:
            raise FormatError(f"NanoVDB: a file of version {int(header['version']) >> 21}; {MAJOR} is read")
        at += FILE_HEADER.itemsize
        sizes = []
        for _ in range(int(header["grids"])):
            meta = _record(raw, at, FILE_META, "what a segment says of a grid")
            total += int(meta["grid_size"])
            if total > max_bytes:
                raise FormatError(f"NanoVDB: grids of {total} bytes; the limit is {max_bytes}")
            sizes.append((int(meta["grid_size"]), int(meta["file_size"])))
            at += FILE_META.itemsize + int(meta["name_size"])
        for grid_size, file_size in sizes:
            if file_size > len(raw) - at:
                raise FormatError(f"NanoVDB: a grid takes {file_size} bytes of the file, and {len(raw) - at} are left")
            yield _unpacked(raw[at : at + file_size], grid_size, int(header["codec"]))
            at += file_size


def _record(raw: NDArray[np.uint8], at: int, dtype: np.dtype[Any], what: str) -> Any:
    if not 0 <= at <= len(raw) - dtype.itemsize:
        raise FormatError(f"NanoVDB: the data end inside {what}")
    return raw[at : at + dtype.itemsize].view(dtype)[0]


def _unpacked(packed: NDArray[np.uint8], size: int, codec: int) -> NDArray[np.uint8]:
    """A grid of `size` bytes; nothing is allocated beyond that."""
    if codec == Codec.NONE:
        if len(packed) != size:
            raise FormatError(f"NanoVDB: an uncompressed grid of {size} bytes takes {len(packed)}")
        return packed
    if codec not in (Codec.ZIP, Codec.BLOSC):
        raise FormatError(f"NanoVDB: codec {codec}; none, ZIP and BLOSC are read")
    parts: list[bytes] = []
    at, left = 0, size
    while at < len(packed):
        length = int.from_bytes(packed[at : at + 8].tobytes(), "little")
        at += 8
        if not 1 <= length <= len(packed) - at:
            raise FormatError(f"NanoVDB: a compressed piece claims {length} bytes of {max(0, len(packed) - at)}")
        unpack = _unzip if codec == Codec.ZIP else _unblosc
        parts.append(unpack(packed[at : at + length].tobytes(), left))
        left -= len(parts[-1])
        at += length
    if left:
        raise FormatError(f"NanoVDB: a grid of {size} bytes unpacks to {size - left}")
    return as_uint8(parts[0] if len(parts) == 1 else b"".join(parts))


def _unzip(data: bytes, limit: int) -> bytes:
    inflate = zlib.decompressobj()
    try:
        # one byte more than may be: then there is too much
        out = inflate.decompress(data, limit + 1)
    except zlib.error as e:
        raise FormatError(f"NanoVDB: the compressed grid is damaged: {e}") from None
    if len(out) > limit or not inflate.eof:
        raise FormatError("NanoVDB: the compressed grid is cut off or longer than it says")
    return out


def _unblosc(data: bytes, limit: int) -> bytes:
    import imagecodecs

    # Blosc says in its header what comes out
    if (
        len(data) < 16
        or int.from_bytes(data[4:8], "little") > limit
        or int.from_bytes(data[12:16], "little") != len(data)
    ):
        raise FormatError("NanoVDB: the compressed grid is cut off or longer than it says")
    try:
        return bytes(imagecodecs.blosc_decode(data, numthreads=1))
    except (imagecodecs.BloscError, ValueError) as e:
        raise FormatError(f"NanoVDB: the compressed grid is damaged: {e}") from None
    except imagecodecs.DelayedImportError as e:
        raise FormatError(f"NanoVDB: codec BLOSC can't be read here: {e}") from None


# ------------------------------------------------------------------ one grid


def _read_grid(raw: NDArray[np.uint8], max_leaves: int) -> Grid:
    if raw.ctypes.data % 8:
        raw = raw.copy()
    head = _record(raw, 0, GRID, "a grid's header")
    tree = _record(raw, GRID.itemsize, TREE, "a grid's header")
    if head["magic"] not in (OLD_MAGIC, GRID_MAGIC) or head["version"] >> 21 != MAJOR:
        raise FormatError(f"NanoVDB: no grid, or one of version {int(head['version']) >> 21}; {MAJOR} is read")
    if head["size"] != len(raw) or len(raw) % 8:
        raise FormatError(f"NanoVDB: a grid of {int(head['size'])} bytes in {len(raw)}")
    types = node_types(int(head["type"]))
    if types is None:
        raise FormatError(f"NanoVDB: grids of type {int(head['type'])} are not read")
    _check_sums(raw, head)
    leaves, numbers = _Walk(raw, tree, types, max_leaves).run()
    grid_type = GridType(int(head["type"]))
    first = values = None
    if numbers is not None:
        if grid_type is GridType.ON_INDEX:
            first = _first(raw, leaves, types, numbers, int(head["values"]))
        elif types.dtype is not None:
            values = _values(raw, leaves, types, numbers)
    if leaves.voxels != tree["voxels"]:
        raise FormatError(f"NanoVDB: {leaves.voxels} voxels are active, and the grid says {int(tree['voxels'])}")
    blind = list(_blind(raw, head))
    name = next((v.tobytes().rstrip(b"\0") for k, _, v in blind if k == BlindClass.GRID_NAME), bytes(head["name"]))
    kind = int(head["class"])
    x, y, z = (float(v) for v in head["voxel_size"])
    return Grid(
        name.decode(errors="replace"),
        grid_type,
        GridClass(kind) if kind in set(GridClass) else GridClass.UNKNOWN,
        (x, y, z),
        leaves,
        first,
        values,
        {n: v for k, n, v in blind if k != BlindClass.GRID_NAME},
    )


def _check_sums(raw: NDArray[np.uint8], head: Any) -> None:
    """CRC-32 where a grid has them; before 32.6 they covered something else."""
    if head["version"] <= MAJOR << 21 | 6 << 10:
        return
    if head["head_sum"] == _UNSET and head["tail_sum"] == _UNSET:
        return
    if head["head_sum"] != head_sum(raw) or head["tail_sum"] not in (_UNSET, tail_sum(raw)):
        raise FormatError("NanoVDB: the checksum differs: the grid was damaged")


class _Walk:
    """Down the tree, level by level; every node is met at most once."""

    def __init__(self, raw: NDArray[np.uint8], tree: Any, types: NodeTypes, max_leaves: int) -> None:
        self.raw, self.types, self.max_leaves = raw, types, max_leaves
        self.words = raw.view(np.uint64)
        self.counts = [int(n) for n in tree["nodes"]]
        self.bases = [GRID.itemsize + int(o) for o in tree["offset"]]
        for base, count, size in zip(
            self.bases, [*self.counts, 1], [types.leaf_size, LOWER.size, UPPER.size, types.root_size], strict=True
        ):
            if count and (base % 8 or not GRID.itemsize + TREE.itemsize <= base <= len(raw) - count * size):
                raise FormatError(f"NanoVDB: {count} nodes of {size} bytes at byte {base} of {len(raw)}")
        if tree["voxels"] > self.max_leaves * 512:
            raise FormatError(f"NanoVDB: {int(tree['voxels'])} voxels; the limit is {self.max_leaves} leaves of 512")

    def run(self) -> tuple[Leaves, NDArray[np.int64] | None]:
        """Leaves in order, and the number of each in the grid; None instead where some are tiles."""
        uppers, origins = self._tiles()
        lowers, origins, full = self._down(UPPER, 2, uppers, origins)
        tiled = [_cube(o, 128) for o in full]
        self._limit(4096 * len(tiled))
        numbers, origins, full = self._down(LOWER, 1, lowers, origins)
        self._limit(4096 * len(tiled) + len(full) + len(numbers))
        size = self.types.leaf_size
        base = self.bases[0]
        held = _column(self.raw, np.dtype("<i4"), base, self.counts[0], size, 3)[numbers]
        if not np.array_equal(held & ~np.int32(7), origins):
            raise FormatError("NanoVDB: a leaf stands at another place than its parent says")
        masks = _column(self.raw, np.dtype("<u8"), base + 16, self.counts[0], size, 8)[numbers]
        some = masks.any(axis=1)
        numbers, origins, masks = numbers[some], origins[some], masks[some]
        parts: list[tuple[NDArray[Any], NDArray[Any]]] = [(origins, masks)]
        for cube in (*tiled, full):
            if len(cube):
                parts.append((cube, np.full((len(cube), 8), _FULL)))
        leaves = Leaves.of(parts)
        if len(parts) > 1:
            return leaves, None
        if len(leaves) != len(origins):
            raise FormatError("NanoVDB: a leaf comes twice")
        # `Leaves.of` may have sorted them
        rows = np.lexsort(origins.T)
        place = np.empty(len(rows), np.int64)
        place[np.lexsort(leaves.origins.T)] = numbers[rows]
        return leaves, place

    def _limit(self, leaves: int) -> None:
        if leaves > self.max_leaves:
            raise FormatError(f"NanoVDB: {leaves} leaves; the limit is {self.max_leaves}")

    def _tiles(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the upper nodes and their first voxels, x, y, z."""
        root = self.bases[3]
        count = int(_column(self.raw, np.dtype("<u4"), root + 24, 1, 4)[0])
        at = root + self.types.root_size
        if count * TILE.itemsize > len(self.raw) - at:
            raise FormatError(f"NanoVDB: a root of {count} tiles in {len(self.raw)} bytes")
        tiles = self.raw[at : at + count * TILE.itemsize].view(TILE)
        if (tiles["state"][tiles["child"] == 0] != 0).any():
            raise FormatError("NanoVDB: an active tile of the root stands for 4096 x 4096 x 4096 voxels")
        tiles = tiles[tiles["child"] != 0]
        # the distance of an upper node from the root
        distance = tiles["child"] - (self.bases[2] - root)
        numbers = distance // UPPER.size
        if ((distance % UPPER.size != 0) | (numbers < 0) | (numbers >= self.counts[2])).any():
            raise FormatError("NanoVDB: a tile of the root points to no upper node")
        self._once(numbers, 2)
        key = tiles["key"].astype(np.uint64)
        if len(distinct(key)) != len(key):
            raise FormatError("NanoVDB: a tile of the root comes twice")
        parts = [(key >> np.uint64(s) & np.uint64(0x1FFFFF)).astype(np.int64) << 12 for s in (42, 21, 0)]
        if any((p >= 1 << 32).any() for p in parts) or (key >> np.uint64(63)).any():
            raise FormatError("NanoVDB: a tile of the root lies outside the range of int32")
        origins = np.stack(parts, axis=1)
        return numbers, np.where(origins >= 1 << 31, origins - (1 << 32), origins)

    def _once(self, numbers: NDArray[np.int64], level: int) -> None:
        if len(numbers) != self.counts[level] or len(distinct(numbers)) != len(numbers):
            raise FormatError(f"NanoVDB: {len(numbers)} nodes of level {level} are used of {self.counts[level]}")

    def _down(
        self, node: Inner, level: int, numbers: NDArray[np.int64], origins: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
        """From nodes to their children: numbers and first voxels, and the first voxels of active tiles."""
        child_size = LOWER.size if level == 2 else self.types.leaf_size
        buffer = np.empty((node.entries, 2), np.int64)
        found: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        places: list[NDArray[np.int64]] = [np.empty((0, 3), np.int64)]
        full: list[NDArray[np.int64]] = [np.empty((0, 3), np.int64)]
        children = tiles = 0
        for number, origin in zip(numbers.tolist(), origins, strict=True):
            at = self.bases[level] + number * node.size
            n = kernels.find_children(
                self.words, at // 8, node.entries, node.table // 8,
                self.bases[level - 1] // 8, child_size // 8, self.counts[level - 1], buffer,
            )  # fmt: skip
            if n < 0:
                raise FormatError(f"NanoVDB: a node of level {level} points to no node below it")
            entry, child = buffer[:n, 0], buffer[:n, 1].copy()
            side = (1 << node.bits) - 1
            steps = np.stack([entry >> 2 * node.bits, entry >> node.bits & side, entry & side], axis=1)
            here = origin + (steps << node.child_bits)
            found.append(child[child >= 0])
            places.append(here[child >= 0])
            full.append(here[child < 0])
            children += len(found[-1])
            tiles += len(full[-1])
            self._limit(tiles * (4096 if level == 2 else 1))
            if children > self.counts[level - 1]:
                break
        joined = np.concatenate(found)
        self._once(joined, level - 1)
        return joined, np.concatenate(places).astype(np.int32), np.concatenate(full).astype(np.int32)


def _cube(origin: NDArray[Any], side: int) -> NDArray[np.int32]:
    """First voxels of the leaves of a cube."""
    steps = np.arange(0, side, 8, dtype=np.int32)
    out: NDArray[np.int32] = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    return out + origin.astype(np.int32)


def _column(
    raw: NDArray[np.uint8], dtype: np.dtype[Any], at: int, count: int, stride: int, width: int = 0
) -> NDArray[Any]:
    """A field of nodes that follow each other, whose bounds were checked."""
    if not count:
        return np.empty((0, width) if width else (0,), dtype)
    shape, strides = ((count, width), (stride, dtype.itemsize)) if width else ((count,), (stride,))
    return np.ndarray(shape, dtype, raw.data, at, strides)


def _first(
    raw: NDArray[np.uint8], leaves: Leaves, types: NodeTypes, numbers: NDArray[np.int64], limit: int
) -> NDArray[np.uint64]:
    """The index of every leaf's first voxel."""
    at, count = _leaves_at(raw)
    first = _column(raw, np.dtype("<u8"), at + 80, count, types.leaf_size)[numbers]
    last = first + leaves.counts.astype(np.uint64)
    if len(first) and ((first < 1) | (first > limit) | (last > limit)).any():
        raise FormatError(f"NanoVDB: a leaf's indices are not within 1 to {limit - 1}")
    return first


def _leaves_at(raw: NDArray[np.uint8]) -> tuple[int, int]:
    """First byte and number of the leaves."""
    tree = raw[GRID.itemsize : GRID.itemsize + TREE.itemsize].view(TREE)[0]
    return GRID.itemsize + int(tree["offset"][0]), int(tree["nodes"][0])


def _values(raw: NDArray[np.uint8], leaves: Leaves, types: NodeTypes, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """The values of the voxels."""
    if types.dtype is None:
        return np.empty(0)
    at, count = _leaves_at(raw)
    stored = _column(raw, types.dtype, at + types.leaf_values, count, types.leaf_size, 512)
    parts = [np.empty(0, types.dtype)]
    for a in range(0, len(numbers), 4096):
        bits = np.unpackbits(leaves.masks[a : a + 4096].view(np.uint8), bitorder="little").reshape(-1, 512)
        parts.append(stored[numbers[a : a + 4096]][bits.astype(np.bool_)])
    return np.concatenate(parts)


def _blind(raw: NDArray[np.uint8], head: Any) -> Iterator[tuple[int, str, NDArray[Any]]]:
    """Class, name and values of the blind data that numpy can hold."""
    start, count = int(head["blind_offset"]), int(head["blind_count"])
    if not count:
        return
    if not 0 <= start <= len(raw) - count * BLIND.itemsize:
        raise FormatError(f"NanoVDB: {count} blind data at byte {start} of {len(raw)}")
    for i in range(count):
        entry = _record(raw, start + i * BLIND.itemsize, BLIND, "blind data")
        at = start + i * BLIND.itemsize + int(entry["offset"])
        size = int(entry["count"]) * int(entry["value_size"])
        if not 0 <= at <= len(raw) - size:
            raise FormatError(f"NanoVDB: blind data of {size} bytes at byte {at} of {len(raw)}")
        types = node_types(int(entry["type"]))
        values: NDArray[Any] = raw[at : at + size]
        if types is not None and types.dtype is not None:
            if types.dtype.itemsize != entry["value_size"]:
                raise FormatError(f"NanoVDB: blind data of {types.dtype} in {int(entry['value_size'])} bytes each")
            values = np.frombuffer(values.tobytes(), types.dtype)
        yield int(entry["class"]), bytes(entry["name"]).decode(errors="replace"), values
