"""How the voxels of an image lie in a version's tree: one array per scale, opened through tensorstore.

========================  ============================================================================================
``x``                     extents of this version, JSON
``v/s<k>/zarr.json``      scale k as a zarr v3 array: chunks are the instance's blocks; there as soon as the scale is
``v/s<k>/c/<z>/<y>/<x>``  one block (with ``/0`` behind it where voxels have channels)
``v/s<k>/info``           scale k of an instance that stores JPEG: a neuroglancer precomputed volume of one scale
``v/s<k>/j/<x>_<y>_<z>``  one block of it: the JPEG itself, x wide and y times z high, as DVID stores and sends it
========================  ============================================================================================

Coordinates are signed. A zarr array begins at 0, so its origin lies at block `ORIGIN` in each axis; with five thousand
million there, every block index within int32 has ten digits, so that the order of keys is the order of z, y, x, and a
person still reads the block off the key. A block that was written holds a key, whatever its voxels; a missing key
is a block never stored.

Codecs were chosen by measurement on electron microscopy (blocks of 32^3, two cores): zstd at level 1 takes 0.66 of the
raw size, writes 0.9 and reads 1.7 Gvoxel/s, where no compression at all writes 0.8 and reads 1.5; blosc with LZ4
doesn't shrink such data, and shuffling the bits of 8-bit values makes zstd worse. Wider values are byte-shuffled.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import imagecodecs
import msgspec
import numpy as np
import tensorstore as ts

from dvid_dask.datatypes.threads import parallel
from dvid_dask.formats.compression import zstd_compress, zstd_decompress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvid_dask.versions.space import Space, TxSpace

__all__ = [
    "CACHE_BYTES",
    "EXTENTS_KEY",
    "INT32_MAX",
    "INT32_MIN",
    "JPEG_QUALITY",
    "LOOKUPS",
    "MAX_JPEG_SIDE",
    "MAX_SCALES",
    "Layout",
    "Pending",
    "Voxels",
    "codec_name",
]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
ORIGIN = 5_000_000_000
EXTENTS_KEY = b"x"
MAX_SCALES = 32
JPEG_QUALITY = 80
MAX_JPEG_SIDE = 65500
"""What the JPEG library takes."""

CACHE_BYTES = 1 << 28
"""Decoded blocks that a process keeps for slices."""

LOOKUPS = 1 << 17
"""Up to this many blocks are looked up one by one; beyond, the keys of the box's z range are walked through."""

_BATCH = 256
_TASK_BYTES = 1 << 20
"""Voxels that a thread compresses at a time."""

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}


class Layout(msgspec.Struct, frozen=True):
    """The arrays of an instance: value type, block and codec.

    Attributes
    ----------
    dtype : str
        numpy's name of the type of one value.
    channels : int
        Values per voxel; more than one make a last axis.
    block : tuple of int
        Voxels in z, y, x.
    jpeg : bool
        Blocks are JPEG images: 8-bit grey only, and lossy.
    """

    dtype: str
    channels: int
    block: tuple[int, int, int]
    jpeg: bool = False

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of a value, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def tail(self) -> tuple[int, ...]:
        """What follows z, y, x in the shape of arrays."""
        return () if self.channels == 1 else (self.channels,)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel."""
        return np.dtype(self.dtype).itemsize * self.channels

    @property
    def block_bytes(self) -> int:
        """Bytes of a block's voxels."""
        z, y, x = self.block
        return z * y * x * self.voxel_bytes

    # ------------------------------------------------------------------ scales

    def _folder(self, scale: int) -> str:
        return f"v/s{scale}/"

    def metadata_key(self, scale: int) -> bytes:
        """The key whose presence says that the scale is there."""
        return (self._folder(scale) + ("info" if self.jpeg else "zarr.json")).encode()

    def scales(self, space: Space | TxSpace) -> list[int]:
        """The scales that exist, in ascending order."""
        found = space.get_many([self.metadata_key(scale) for scale in range(MAX_SCALES)])
        return [scale for scale, value in enumerate(found) if value is not None]

    def create(self, space: TxSpace, scale: int) -> None:
        """Make the scale exist, if it doesn't. For writers of its blocks, which are read through tensorstore."""
        space.to_nodes()
        key = self.metadata_key(scale)
        if space.get(key) is None:
            space.put(key, self.new_metadata())

    def new_metadata(self) -> bytes:
        """What describes the array of a scale that is made today."""
        return _info(self._plain()) if self.jpeg else _zarr_json(self._plain())

    def metadata(self, space: Space | TxSpace, scale: int) -> bytes | None:
        """What describes the array of a scale; None where the scale isn't there."""
        return space.get(self.metadata_key(scale))

    def voxels(self, space: Space | TxSpace, scale: int, *, cached: bool = False) -> Voxels | None:
        """A scale to be read in voxel coordinates; None where the scale isn't there. `cached` as for `open`."""
        metadata = self.metadata(space, scale)
        return None if metadata is None else _StoredVoxels(self, space, scale, metadata, cached)

    def _plain(self) -> Layout:
        """The layout by which things are cached."""
        return self

    def open(self, space: Space | TxSpace, scale: int, *, cached: bool = False) -> Any | None:
        """The array of a scale in voxel coordinates (z, y, x[, channel]); None where the scale isn't there.

        Parameters
        ----------
        space, scale
            What to open.
        cached
            Keep decoded blocks for the next array of the same pinned state: for reads that come back to the blocks they
            touched, as slices do. At most `CACHE_BYTES` in all of the process.
        """
        metadata = self.metadata(space, scale)
        if metadata is None:
            return None
        return self._open(space.kvstore_of(self.block_prefix(scale)), scale, metadata, cached)

    def _open(self, kvstore: Any, scale: int, metadata: bytes, cached: bool = False) -> Any:
        spec, steps = _spec(self._plain(), metadata, cached)
        more = {"context": _cache()} if cached else {}
        array = ts.open(spec, kvstore=kvstore / self._folder(scale), open=True, assume_metadata=True, **more).result()
        for step in steps:
            array = array[step]
        return array

    # ------------------------------------------------------------------ blocks

    def block_key(self, scale: int, block: Sequence[int]) -> bytes:
        """The key of a block, given in z, y, x block coordinates.

        Examples
        --------
        >>> Layout("uint8", 1, (32, 32, 32)).block_key(0, (0, -1, 2))
        b'v/s0/c/5000000000/4999999999/5000000002'
        >>> Layout("uint8", 1, (32, 32, 32), jpeg=True).block_key(1, (0, -1, 2))
        b'v/s1/j/64-96_-32-0_0-32'
        """
        if self.jpeg:
            spans = (f"{b * n}-{b * n + n}" for b, n in zip(reversed(block), reversed(self.block), strict=True))
            return f"v/s{scale}/j/{'_'.join(spans)}".encode()
        z, y, x = block
        channel = b"" if self.channels == 1 else b"/0"
        return b"v/s%d/c/%d/%d/%d" % (scale, ORIGIN + z, ORIGIN + y, ORIGIN + x) + channel

    def block_prefix(self, scale: int) -> bytes:
        """What the keys of all blocks of a scale begin with."""
        return f"{self._folder(scale)}{'j' if self.jpeg else 'c'}/".encode()

    def _block_of(self, key: bytes) -> tuple[int, int, int]:
        """The block of a key, without its folder."""
        if self.jpeg:
            # "-32-0_64-96_0-32": each span starts with a number that may be negative
            first = (int(span[: span.index(b"-", 1)]) for span in key.split(b"_"))
            x, y, z = (v // n for v, n in zip(first, reversed(self.block), strict=True))
            return z, y, x
        z, y, x = (int(part) - ORIGIN for part in key.split(b"/")[:3])
        return z, y, x

    def parse_block_key(self, key: bytes) -> tuple[int, tuple[int, int, int]] | None:
        """Scale and block (z, y, x) of a key; None where it is no block's.

        Examples
        --------
        >>> Layout("uint8", 1, (32, 32, 32)).parse_block_key(b"v/s0/c/5000000000/4999999999/5000000002")
        (0, (0, -1, 2))
        """
        folder, _, rest = key.removeprefix(b"v/s").partition(b"/j/" if self.jpeg else b"/c/")
        return (int(folder), self._block_of(rest)) if rest else None

    def stored(self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether each of the blocks (n, 3; z, y, x) was ever written."""
        out = np.zeros(len(blocks), bool)
        for at, value in self._values(space, scale, blocks):
            out[at] = value is not None
        return out

    def value(self, space: Space | TxSpace, scale: int, block: Sequence[int]) -> bytes | None:
        """The stored bytes of one block (z, y, x); None where it was never written."""
        return space.get(self.block_key(scale, block))

    def values(
        self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]
    ) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """The stored bytes of blocks (n, 3; z, y, x), in their order, without those never written."""
        for at, value in self._values(space, scale, blocks):
            if value is not None:
                z, y, x = blocks[at].tolist()
                yield (z, y, x), value

    def _values(
        self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]
    ) -> Iterator[tuple[int, bytes | None]]:
        if space.get(self.metadata_key(scale)) is None:
            return
        for first in range(0, len(blocks), _BATCH):
            keys = [self.block_key(scale, block) for block in blocks[first : first + _BATCH].tolist()]
            yield from enumerate(space.get_many(keys), first)

    def stored_in(
        self, space: Space, scale: int, start: Sequence[int], stop: Sequence[int]
    ) -> Iterator[NDArray[np.int64]]:
        """Candidates for stored blocks in a box of blocks, in z, y, x order, in pieces (n, 3).

        In a small box all of its blocks; in a large one those whose keys exist, so that a box around a whole
        volume costs what is stored and not what could be.
        """
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        if min(shape) <= 0:
            return
        if shape[0] * shape[1] * shape[2] <= LOOKUPS:
            grid = np.indices(shape).reshape(3, -1).T
            yield np.ascontiguousarray(grid) + np.asarray(start, np.int64)
            return
        if self.jpeg:
            # those keys are in the order of their texts
            found = [b for b in self._walk(space, scale, None) if _inside(b, start, stop)]
            yield np.array(sorted(found), np.int64).reshape(-1, 3)
            return
        batch: list[tuple[int, int, int]] = []
        for block in self._walk(space, scale, (start[0], stop[0])):
            if _inside(block, start, stop):
                batch.append(block)
                if len(batch) == _BATCH:
                    yield np.array(batch, np.int64)
                    batch = []
        if batch:
            yield np.array(batch, np.int64)

    def _walk(self, space: Space | TxSpace, scale: int, z: tuple[int, int] | None) -> Iterator[tuple[int, int, int]]:
        folder = self.block_prefix(scale)
        low = high = None
        if z is not None:
            low, high = (folder + b"%d/" % (ORIGIN + at) for at in z)
        for key in space.keys(folder, low, high):
            yield self._block_of(key[len(folder) :])

    def encode(
        self, space: Space | TxSpace, scale: int, start: Sequence[int], voxels: NDArray[Any]
    ) -> list[tuple[bytes, bytes]]:
        """Whole blocks as keys with their stored bytes, to be put in a transaction.

        The codecs run here, in several threads, so that a commit which must run again because another came first
        doesn't compress anything twice, and is short.

        Parameters
        ----------
        space
            Tells how blocks of this scale are coded; nothing is written.
        scale
            As everywhere.
        start
            First voxel, on a block's corner.
        voxels
            Whole blocks, (z, y, x[, channel]).
        """
        metadata = self.metadata(space, scale) or self.new_metadata()
        first = [at // n for at, n in zip(start, self.block, strict=True)]
        counts = [length // n for length, n in zip(voxels.shape[:3], self.block, strict=True)]
        grid = np.indices(counts).reshape(3, -1).T
        blocks = (grid + first).tolist()
        keys = [self.block_key(scale, block) for block in blocks]
        if not self.jpeg and codec_name(metadata) == "zstd":
            pack = functools.partial(self._pack, voxels, zstd_level(metadata))
            grain = max(1, _TASK_BYTES // self.block_bytes)
            return list(zip(keys, parallel(pack, grid.tolist(), grain), strict=True))
        box = tuple(slice(at, at + length) for at, length in zip(start, voxels.shape[:3], strict=True))
        memory = ts.KvStore.open({"driver": "memory"}, context=ts.Context()).result()
        array = self._open(memory, scale, metadata)
        array[box].write(voxels, can_reference_source_data_indefinitely=True).result()
        reads = [memory.read(key) for key in keys]
        return [(key, read.result().value) for key, read in zip(keys, reads, strict=True)]

    def _pack(self, voxels: NDArray[Any], level: int, at: Sequence[int]) -> bytes:
        """A block of whole blocks, by its place among them, compressed. Skips the copies that tensorstore makes."""
        part = tuple(slice(i * n, i * n + n) for i, n in zip(at, self.block, strict=True))
        return zstd_compress(np.ascontiguousarray(voxels[part], self.numpy_dtype).data.cast("B"), level)

    def decoded(
        self, space: Space | TxSpace, scale: int, blocks: NDArray[np.integer[Any]]
    ) -> Iterator[tuple[tuple[int, int, int], NDArray[Any]]]:
        """The voxels of blocks, otherwise as `values`."""
        metadata = self.metadata(space, scale)
        if metadata is not None:
            for at, value in self.values(space, scale, blocks):
                yield at, self.decode(value, metadata)

    def decode(self, value: bytes, metadata: bytes) -> NDArray[Any]:
        """The voxels of a block from its stored bytes; `metadata` is that of the scale."""
        if self.jpeg:
            return np.asarray(imagecodecs.jpeg_decode(value)).reshape(self.block)
        name = codec_name(metadata)
        data = zstd_decompress(value, self.block_bytes) if name == "zstd" else imagecodecs.blosc_decode(value)
        return np.frombuffer(data, self.numpy_dtype).reshape(*self.block, *self.tail)


class Voxels(Protocol):
    """A scale to be read in voxel coordinates, z, y, x."""

    def read(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """A box; yours to write to."""

    def start(self, offset: Sequence[int], shape: Sequence[int]) -> Pending:
        """Begin to read a box."""

    def at(self, z: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[Any]:
        """Voxels one by one."""


class Pending(Protocol):
    """A box that is being read."""

    def result(self) -> NDArray[Any]:
        """Wait for it."""


class _StoredVoxels:
    """A scale of stored blocks. tensorstore reads it, but for single blocks: those take less than to open an array."""

    def __init__(self, layout: Layout, space: Space | TxSpace, scale: int, metadata: bytes, cached: bool) -> None:
        self._layout, self._space, self._scale, self._cached = layout, space, scale, cached
        self._singly = not cached and not layout.jpeg and codec_name(metadata) == "zstd"

    @functools.cached_property
    def _array(self) -> Any:
        return self._layout.open(self._space, self._scale, cached=self._cached)

    def read(self, offset: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        out: NDArray[Any] = self.start(offset, shape).result()
        return out

    def start(self, offset: Sequence[int], shape: Sequence[int]) -> Any:
        block = self._layout.block
        if self._singly and tuple(shape) == block and not any(a % n for a, n in zip(offset, block, strict=True)):
            return _Read(self._one([a // n for a, n in zip(offset, block, strict=True)]))
        box = tuple(slice(a, a + n) for a, n in zip(offset, shape, strict=True))
        return self._array[box].read(order="C")

    def _one(self, block: Sequence[int]) -> NDArray[Any]:
        layout = self._layout
        shape = (*layout.block, *layout.tail)
        value = layout.value(self._space, self._scale, block)
        if value is None:
            return np.zeros(shape, layout.numpy_dtype)
        out = np.empty(shape, layout.numpy_dtype)
        try:
            got = len(imagecodecs.zstd_decode(value, out=out.data.cast("B")))
        except imagecodecs.ZstdError as error:
            raise ValueError(f"the stored block at {tuple(block)} (z, y, x) is damaged: {error}") from None
        if got != layout.block_bytes:
            raise ValueError(f"the stored block at {tuple(block)} (z, y, x) holds {got} of {layout.block_bytes} bytes")
        return out

    def at(self, z: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[Any]:
        out: NDArray[Any] = self._array.vindex[z, y, x].read().result()
        return out


class _Read:
    """A box that was read."""

    def __init__(self, voxels: NDArray[Any]) -> None:
        self._voxels = voxels

    def result(self) -> NDArray[Any]:
        return self._voxels


def _inside(block: tuple[int, int, int], start: Sequence[int], stop: Sequence[int]) -> bool:
    return all(a <= b < c for a, b, c in zip(start, block, stop, strict=True))


def _origin(layout: Layout) -> list[int]:
    return [ORIGIN * n for n in layout.block]


@functools.cache
def _cache() -> Any:
    """The process's cache of decoded blocks."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


@functools.cache
def _zarr_json(layout: Layout) -> bytes:
    size = np.dtype(layout.dtype).itemsize
    if size == 1:
        packed = _ZSTD
    else:
        packed = {
            "name": "blosc",
            "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": size, "blocksize": 0},
        }
    names = ["z", "y", "x"] + ["channel"] * (layout.channels > 1)
    return msgspec.json.encode(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [2 * n for n in _origin(layout)] + list(layout.tail),
            "data_type": layout.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [*layout.block, *layout.tail]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [_BYTES, packed],
            "dimension_names": names,
            "attributes": {"origin": _origin(layout)},
        }
    )


@functools.cache
def _info(layout: Layout) -> bytes:
    size = list(reversed(layout.block))
    offset = [-n * -(INT32_MIN // n) for n in size]
    return msgspec.json.encode(
        {
            "@type": "neuroglancer_multiscale_volume",
            "type": "image",
            "data_type": layout.dtype,
            "num_channels": 1,
            "scales": [
                {
                    "key": "j",
                    "chunk_sizes": [size],
                    "encoding": "jpeg",
                    "jpeg_quality": JPEG_QUALITY,
                    # nanometres are the instance's affair: they may be changed later
                    "resolution": [1, 1, 1],
                    "size": [-2 * n for n in offset],
                    "voxel_offset": offset,
                }
            ],
        }
    )


@functools.lru_cache(maxsize=256)
def codec_name(metadata: bytes) -> str:
    """The compression of the blocks of a zarr array, by its metadata."""
    names = [codec["name"] for codec in msgspec.json.decode(metadata)["codecs"]]
    if names not in (["bytes", "zstd"], ["bytes", "blosc"]):
        raise ValueError(f"blocks coded by {' + '.join(names)} can't be read one by one; known: zstd, blosc")
    return str(names[1])


@functools.lru_cache(maxsize=256)
def zstd_level(metadata: bytes) -> int:
    """How hard the blocks of a zarr array are compressed, by its metadata."""
    return int(msgspec.json.decode(metadata)["codecs"][1]["configuration"]["level"])


@functools.lru_cache(maxsize=256)
def _spec(layout: Layout, metadata: bytes, cached: bool) -> tuple[Any, tuple[Any, ...]]:
    """What to open, and the steps that turn it into z, y, x from the signed origin."""
    known = msgspec.json.decode(metadata)
    # a pinned state doesn't change: what is cached of it needs no second look
    kept = {"recheck_cached_data": False} if cached else {}
    if layout.jpeg:
        scale = known["scales"][0]
        spec = {
            **kept,
            "driver": "neuroglancer_precomputed",
            "multiscale_metadata": {"type": "image", "data_type": layout.dtype, "num_channels": 1},
            "scale_metadata": {k: v for k, v in scale.items() if k != "chunk_sizes"}
            | {"chunk_size": scale["chunk_sizes"][0]},
            # a block of zeros is stored as any other
            "store_data_equal_to_fill_value": True,
        }
        # in two steps: an ellipsis behind a transposition crashes tensorstore 0.1.86
        return ts.Spec(spec), (ts.d["channel"][0], ts.d["z", "y", "x"].transpose[:])
    spec = {**kept, "driver": "zarr3", "metadata": known, "store_data_equal_to_fill_value": True}
    shift = [-n for n in known["attributes"]["origin"]]
    return ts.Spec(spec), (ts.d["z", "y", "x"].translate_by[shift[0], shift[1], shift[2]],)
