"""Images: volumes of voxels in blocks, per version. uint8blk, uint16blk, uint32blk, uint64blk, float32blk, rgba8blk."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from dvid_dask.datatypes.base import CONFLICT, Datatype, Mutation, Space, TxSpace, register
from dvid_dask.errors import BadRequest
from dvid_dask.formats.compression import gzip_compress, lz4_compress, snappy_compress
from dvid_dask.versions.records import go_time

from .boxes import (
    Extents,
    blocks_of,
    check_aligned,
    check_blocks,
    check_box,
    check_scale,
    cuts,
    is_aligned,
    parse_index,
    points,
    slices,
    to_extents,
)
from .layout import EXTENTS_KEY, Layout
from .pinned import PinnedImage
from .planes import ArbitraryPlane, interpolate
from .settings import check_voxel_size, parse_settings

if TYPE_CHECKING:
    import dask.array
    import xarray
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BlocksWritten",
    "Extents",
    "Float32Blk",
    "ImageBlk",
    "PinnedImage",
    "Rgba8Blk",
    "Uint8Blk",
    "Uint16Blk",
    "Uint32Blk",
    "Uint64Blk",
]

URL = "github.com/janelia-flyem/dvid/datatype/imageblk/"

SLAB_BYTES = 1 << 25
"""Voxels that a streamed read holds at a time; twice as many while the next ones are being read."""

_PLANE_POINTS = 1 << 15

BlockMask = Callable[["NDArray[np.int64]"], "NDArray[np.bool_]"]
"""Which of some blocks (n, 3; z, y, x block coordinates) lie in a region."""


class BlocksWritten(msgspec.Struct, frozen=True):
    """What instances that follow an image are told: whole blocks at scale 0 have new voxels.

    Attributes
    ----------
    start, stop : tuple of int
        First and one past the last voxel, z, y, x.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]


class _StoredExtents(msgspec.Struct, frozen=True, rename="pascal"):
    """The record, in the words of the REST API: x, y, z, both ends inside."""

    min_point: tuple[int, int, int] = (0, 0, 0)
    max_point: tuple[int, int, int] = (0, 0, 0)


_extents = msgspec.json.Decoder(_StoredExtents).decode


def _to_extents(record: _StoredExtents) -> Extents:
    a, b, c = reversed(record.min_point)
    d, e, f = (v + 1 for v in reversed(record.max_point))
    return Extents((a, b, c), (d, e, f))


def _union(a: Extents | None, b: Extents) -> Extents:
    if a is None:
        return b
    z, y, x = map(min, a.start, b.start)
    r, q, p = map(max, a.stop, b.stop)
    return Extents((z, y, x), (r, q, p))


class ImageBlk(Datatype):
    """A volume of voxels at a version: read and written as boxes, slices, blocks and planes of any orientation.

    Arrays are (z, y, x), colour has a last axis of 4 channels. Coordinates are signed 32-bit integers: an index may be
    negative, and -1 is the voxel before 0, not the last one. What was never written reads 0.

    Every write is one atomic commit: voxels, extents, the mutation log and what other instances make of it.

    Examples
    --------
    >>> import dvid_dask, numpy as np
    >>> repo = dvid_dask.create("memory://").new_repo()
    >>> gray = repo.new_instance("uint8blk", "grayscale", {"blocksize": "64,64,64"})
    >>> gray.write((0, 0, -64), np.full((64, 64, 128), 7, np.uint8))
    >>> gray[0, 10:12, -2:3]
    array([[7, 7, 7, 7, 7],
           [7, 7, 7, 7, 7]], dtype=uint8)
    >>> gray.extents
    Extents(start=(0, 0, -64), stop=(64, 64, 64))
    >>> gray.to_dask().mean().compute()
    np.float64(7.0)
    """

    typeversion: ClassVar[str] = "0.1"
    value_type: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Block and voxel size, units, background and fallback extents; see `settings.parse_settings`."""
        return parse_settings(config, cls.value_type, len(cls.labels))

    @property
    def layout(self) -> Layout:
        """How voxels are stored."""
        x, y, z = self.info.settings["BlockSize"]
        return Layout(self.value_type, len(self.labels), (z, y, x), self.info.compression.startswith("jpeg"))

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of a block in z, y, x."""
        return self.layout.block

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value."""
        return np.dtype(self.value_type)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel."""
        return self.layout.voxel_bytes

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Lengths of a voxel in z, y, x, in `voxel_units`. Not versioned."""
        x, y, z = self.info.settings["VoxelSize"]
        return z, y, x

    @property
    def voxel_units(self) -> tuple[str, str, str]:
        """Units of the lengths in z, y, x."""
        x, y, z = self.info.settings["VoxelUnits"]
        return z, y, x

    @property
    def background(self) -> int:
        """What DVID shows for blocks outside a region, and in some reads for blocks never stored."""
        return int(self.info.settings["Background"])

    @property
    def _background_value(self) -> Any:
        # every byte is the background
        return np.frombuffer(bytes([self.background]) * self.dtype.itemsize, self.dtype)[0]

    def set_resolution(self, size: Sequence[float]) -> None:
        """Change the size of a voxel (x, y, z), at all versions.

        Raises
        ------
        BadRequest
            Not three positive numbers.
        """
        lengths = [float(v) for v in size]
        check_voxel_size(lengths)
        self.update_settings(VoxelSize=lengths)

    # ------------------------------------------------------------------ extents

    @property
    def extents(self) -> Extents | None:
        """The box that holds all that was written with `write` at this version or above it; None before that.

        Whoever posted extents may have set another box.
        """
        return self._read_extents(self.view())

    def _read_extents(self, space: Space | TxSpace) -> Extents | None:
        value = space.get(EXTENTS_KEY)
        if value is not None:
            return _to_extents(_extents(value))
        low, high = self.info.settings["MinPoint"], self.info.settings["MaxPoint"]
        return None if low is None or high is None else _to_extents(_StoredExtents(tuple(low), tuple(high)))

    @staticmethod
    def _write_extents(space: TxSpace, extents: Extents) -> None:
        a, b, c = reversed(extents.start)
        d, e, f = (v - 1 for v in reversed(extents.stop))
        space.put(EXTENTS_KEY, msgspec.json.encode(_StoredExtents((a, b, c), (d, e, f))))

    def grow_extents(self, space: TxSpace, start: Sequence[int], stop: Sequence[int]) -> None:
        """Make this version's extents hold a box (z, y, x, end outside), inside a mutation.

        Writes only where they grow, so that bulk jobs that set them first don't collide on them.
        """
        known = self._read_extents(space)
        z, y, x = start
        r, q, p = stop
        wider = _union(known, Extents((z, y, x), (r, q, p)))
        if wider != known or space.get(EXTENTS_KEY) is None:
            self._write_extents(space, wider)

    def set_extents(
        self,
        start: Sequence[int],
        stop: Sequence[int],
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Overwrite this version's extents; they may shrink.

        Parameters
        ----------
        start, stop
            First and one past the last voxel, z, y, x.

        Raises
        ------
        BadRequest
            An empty or inverted box, or one outside int32.
        """
        extents = to_extents(*check_box(start, [b - a for a, b in zip(start, stop, strict=True)]))

        def change(m: Mutation, space: TxSpace) -> None:
            self._write_extents(space, extents)
            m.log(self, {"Action": "post-extents", **points(extents), **self._stamp(m)})

        self.mutate(change, user=user, app=app, force=force)

    # ------------------------------------------------------------------ what DVID shows

    def extended(self) -> dict[str, Any]:
        """DVID's properties of the image, with the extents of this version."""
        return self._properties(self.extents)

    def _properties(self, extents: Extents | None) -> dict[str, Any]:
        held = self.info.settings
        ends = points(extents)
        block = held["BlockSize"]
        index = [p and [v // n for v, n in zip(p, block, strict=True)] for p in ends.values()]
        return {
            "Values": [{"DataType": self.value_type, "Label": label} for label in self.labels],
            "Interpolable": True,
            "BlockSize": block,
            "VoxelSize": held["VoxelSize"],
            "VoxelUnits": held["VoxelUnits"],
            **ends,
            "MinIndex": index[0],
            "MaxIndex": index[1],
            "Background": held["Background"],
            "GridStore": held["GridStore"],
            "ScaleLevel": held["ScaleLevel"],
        }

    def describe(self) -> dict[str, Any]:
        """As all types, and the extents of this version."""
        extents = self.extents
        return {"Base": self.base(), "Extended": self._properties(extents), "Extents": points(extents)}

    def metadata(self) -> dict[str, Any]:
        """Axes with resolution, unit and extent, in x, y, z, and the properties."""
        extents = self.extents
        size = extents.shape if extents else (0, 0, 0)
        offset = extents.start if extents else (0, 0, 0)
        held = self.info.settings
        return {
            "Axes": [
                {
                    "Label": "XYZ"[i],
                    "Resolution": held["VoxelSize"][i],
                    "Units": held["VoxelUnits"][i],
                    "Size": size[2 - i],
                    "Offset": offset[2 - i],
                }
                for i in range(3)
            ],
            "Properties": self._properties(extents),
        }

    # ------------------------------------------------------------------ reading

    def read_box(
        self,
        offset: Sequence[int],
        shape: Sequence[int],
        scale: int = 0,
        *,
        mask: BlockMask | None = None,
        space: Space | None = None,
    ) -> NDArray[Any]:
        """The voxels of a box.

        Parameters
        ----------
        offset, shape
            z, y, x, in voxels of the scale; any alignment.
        scale
            0 is full resolution; every scale halves it. A scale that isn't there reads 0.
        mask
            Voxels of stored blocks outside this region are background (where voxels have one byte, else 0).
        space
            The state to read; the newest one by default.

        Raises
        ------
        BadRequest
            An empty box, one outside int32, or no such scale.
        """
        offset, shape = check_box(offset, shape)
        return self._read(space or self.view(), offset, shape, check_scale(scale), mask)

    def _read(
        self,
        space: Space | TxSpace,
        offset: tuple[int, int, int],
        shape: tuple[int, int, int],
        scale: int,
        mask: BlockMask | None = None,
        *,
        cached: bool = False,
    ) -> NDArray[Any]:
        layout = self.layout
        array = layout.open(space, scale, cached=cached)
        if array is None:
            return np.zeros((*shape, *layout.tail), self.dtype)
        out: NDArray[Any] = array[slices(offset, shape)].read(order="C").result()
        if mask is not None:
            self._blank(out, space, offset, scale, mask)
        return out

    def _blank(
        self,
        out: NDArray[Any],
        space: Space | TxSpace,
        offset: tuple[int, int, int],
        scale: int,
        mask: BlockMask,
    ) -> None:
        """Set blocks outside a region to what DVID shows there."""
        layout = self.layout
        blocks = blocks_of(layout, offset, out.shape[:3])
        outside = blocks[~mask(blocks)]
        value = self.background if layout.voxel_bytes == 1 else 0
        if value:
            # a block never stored stays 0, whatever the background
            outside = outside[layout.stored(space, scale, outside)]
        for block in outside.tolist():
            part = tuple(
                slice(max(b * n - at, 0), b * n - at + n) for b, n, at in zip(block, layout.block, offset, strict=True)
            )
            out[part] = value

    def read_slabs(
        self,
        offset: Sequence[int],
        shape: Sequence[int],
        scale: int = 0,
        *,
        mask: BlockMask | None = None,
        slab_bytes: int = SLAB_BYTES,
    ) -> Iterator[NDArray[Any]]:
        """A box as slabs along z, from one state, each read while the one before it is being used.

        Slabs end between blocks where one row of blocks fits `slab_bytes`, so that no block is read twice; the
        memory held is twice that, or two slices where a single slice is larger.

        Raises
        ------
        BadRequest
            As `read_box`.
        """
        offset, shape = check_box(offset, shape)
        layout, space = self.layout, self.view()
        # where not even one row of blocks fits, blocks are needed again
        thin = slab_bytes < shape[1] * shape[2] * layout.block[0] * layout.voxel_bytes
        array = layout.open(space, check_scale(scale), cached=thin)
        return self._slabs(space, array, layout, offset, shape, scale, mask, slab_bytes)

    def _slabs(
        self,
        space: Space,
        array: Any,
        layout: Layout,
        offset: tuple[int, int, int],
        shape: tuple[int, int, int],
        scale: int,
        mask: BlockMask | None,
        slab_bytes: int,
    ) -> Iterator[NDArray[Any]]:
        z0, y0, x0 = offset
        plane = shape[1] * shape[2] * layout.voxel_bytes

        def start(z: int, stop: int) -> Any:
            if array is None:
                return None
            return array[slices((z, y0, x0), (stop - z, shape[1], shape[2]))].read(order="C")

        spans = list(cuts(z0, z0 + shape[0], layout.block[0], max(1, slab_bytes // plane)))
        ahead = start(*spans[0])
        for i, (z, stop) in enumerate(spans):
            now = ahead
            ahead = start(*spans[i + 1]) if i + 1 < len(spans) else None
            if now is None:
                yield np.zeros((stop - z, shape[1], shape[2], *layout.tail), self.dtype)
                continue
            out: NDArray[Any] = now.result()
            if mask is not None:
                self._blank(out, space, (z, y0, x0), scale, mask)
            yield out

    def read_slice(
        self,
        axes: tuple[int, int],
        size: Sequence[int],
        offset: Sequence[int],
        scale: int = 0,
        *,
        mask: BlockMask | None = None,
    ) -> NDArray[Any]:
        """A slice along two axes, as an image: rows of its height, columns of its width.

        Parameters
        ----------
        axes
            Of width and height, with x = 0: (0, 1), (0, 2) or (1, 2).
        size
            Width and height.
        offset
            First voxel, z, y, x.
        """
        shape = [1, 1, 1]
        for axis, length in zip(axes, size, strict=True):
            shape[2 - axis] = length
        first, lengths = check_box(offset, shape)
        # the next slice mostly goes through the same blocks
        box = self._read(self.view(), first, lengths, check_scale(scale), mask, cached=True)
        (normal,) = {0, 1, 2} - {2 - axis for axis in axes}
        return box.squeeze(axis=normal)

    def read_plane(self, plane: ArbitraryPlane) -> NDArray[Any]:
        """An image of a plane of any orientation, interpolated between the 8 voxels around each point.

        Blocks never stored count as background.
        """
        layout, space = self.layout, self.view()
        array = layout.open(space, 0, cached=True)
        out = np.empty((plane.height, plane.width, *layout.tail), self.dtype)
        row = 0
        for grid in plane.rows(_PLANE_POINTS):
            part = out[row : row + len(grid)]
            voxels, weights = plane.corners(grid.reshape(-1, 3))
            x, y, z = np.moveaxis(voxels.reshape(-1, 3), 1, 0)
            values = self._gather(space, layout, array, z, y, x)
            part[...] = interpolate(values.reshape(8, -1, *layout.tail), weights).reshape(part.shape)
            row += len(grid)
        return out

    def _gather(
        self,
        space: Space,
        layout: Layout,
        array: Any,
        z: NDArray[np.int64],
        y: NDArray[np.int64],
        x: NDArray[np.int64],
    ) -> NDArray[Any]:
        if array is None:
            return np.full((len(z), *layout.tail), self._background_value)
        values: NDArray[Any] = array.vindex[z, y, x].read().result()
        if self.background:
            of = np.stack([z, y, x], axis=1) // np.array(layout.block)
            blocks, where = np.unique(of, axis=0, return_inverse=True)
            missing = ~layout.stored(space, 0, blocks)
            values[missing[where.reshape(-1)]] = self._background_value
        return values

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Voxels of a box at scale 0: slices and integers in z, y, x; an open slice ends with the extents.

        Indices are coordinates: -1 is the voxel before 0.
        """
        space = self.view()
        box, drop = parse_index(key, self._read_extents(space))
        out: NDArray[Any] = self._read(space, box.start, box.shape, 0)[drop]
        return out

    # ------------------------------------------------------------------ blocks

    def read_block_span(self, block: Sequence[int], span: int) -> Iterator[NDArray[Any]]:
        """Consecutive blocks along x, from one state. Blocks never stored are background in every byte.

        Parameters
        ----------
        block
            First block, z, y, x block coordinates.
        span
            How many.

        Raises
        ------
        BadRequest
            A negative span, or blocks outside int32.
        """
        layout = self.layout
        z, y, x = check_blocks(layout, block, span)
        space = self.view()
        metadata = layout.metadata(space, 0)
        empty = np.full((*layout.block, *layout.tail), self._background_value)
        return self._block_span(layout, space, metadata, empty, (z, y, x), span)

    def _block_span(
        self,
        layout: Layout,
        space: Space,
        metadata: bytes | None,
        empty: NDArray[Any],
        block: tuple[int, int, int],
        span: int,
    ) -> Iterator[NDArray[Any]]:
        z, y, x = block
        # as many at a time as a slab of a streamed read
        many = max(1, min(256, SLAB_BYTES // layout.block_bytes))
        for first in range(0, span, many):
            row = np.array([(z, y, x + i) for i in range(first, min(first + many, span))], np.int64)
            found = {} if metadata is None else dict(layout.values(space, 0, row))
            for at in map(tuple, row.tolist()):
                value = found.get(at)
                yield empty if value is None or metadata is None else layout.decode(value, metadata)

    def read_blocks(
        self, blocks: ArrayLike, *, compression: str = "", scale: int = 0
    ) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """Those of a list of blocks that were ever written, in its order, with their bytes.

        Parameters
        ----------
        blocks
            (n, 3) block coordinates z, y, x.
        compression
            ``"uncompressed"`` for voxels; ``""`` for the form that the instance's Compression setting names: LZ4 as
            uint32 size and block, Snappy raw, gzip, JPEG, or voxels; ``"jpeg"`` for JPEG of instances that store it.

        Raises
        ------
        BadRequest
            Another compression, or JPEG of an instance that doesn't store it.
        """
        layout, space = self.layout, self.view()
        encode = self._payload(layout, space, check_scale(scale), compression)
        wanted = np.asarray(blocks, np.int64).reshape(-1, 3)
        return ((at, encode(value)) for at, value in layout.values(space, scale, wanted))

    def read_blocks_in(
        self, offset: Sequence[int], shape: Sequence[int], *, compression: str = "", scale: int = 0
    ) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """All blocks of a box that were ever written, in z, y, x order; otherwise as `read_blocks`.

        Raises
        ------
        BadRequest
            Also for a box that is not made of whole blocks.
        """
        offset, shape = check_box(offset, shape)
        layout, space = self.layout, self.view()
        check_aligned(layout, offset, shape)
        encode = self._payload(layout, space, check_scale(scale), compression)
        start = [at // n for at, n in zip(offset, layout.block, strict=True)]
        stop = [at + length // n for at, length, n in zip(start, shape, layout.block, strict=True)]
        return (
            (at, encode(value))
            for some in layout.stored_in(space, scale, start, stop)
            for at, value in layout.values(space, scale, some)
        )

    def _payload(self, layout: Layout, space: Space, scale: int, compression: str) -> Callable[[bytes], bytes]:
        """From a block's stored bytes to those that are asked for."""
        metadata = layout.metadata(space, scale) or b""

        def plain(value: bytes) -> bytes:
            return layout.decode(value, metadata).tobytes()

        if compression == "uncompressed":
            return plain
        if compression == "jpeg" and not layout.jpeg:
            raise BadRequest(
                f"blocks of {self.name!r} are not stored as JPEG (but with {self.info.compression}): "
                "leave compression out, or ask for compression=uncompressed"
            )
        if compression not in ("", "jpeg"):
            raise BadRequest(f'compression "{compression[:80]}" is none of jpeg, uncompressed, or nothing')
        if layout.jpeg:
            return lambda value: value
        kind, _, level = self.info.compression.partition(" compression, level ")
        if kind == "LZ4":
            return lambda value: struct.pack("<I", layout.block_bytes) + lz4_compress(plain(value))
        if kind == "Go Snappy":
            return lambda value: snappy_compress(plain(value))
        if kind == "gzip":
            strength = int(level) if 1 <= int(level) <= 9 else 6
            return lambda value: gzip_compress(plain(value), strength)
        return plain

    # ------------------------------------------------------------------ writing

    def write(
        self,
        offset: Sequence[int],
        voxels: ArrayLike,
        *,
        aligned: bool = False,
        mask: BlockMask | None = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write a box at scale 0, in one commit; the extents grow to hold it.

        Coarser scales are not touched: see `dvid_dask.ops`.

        Parameters
        ----------
        offset
            First voxel, z, y, x.
        voxels
            (z, y, x), with a last axis of channels for colour; of the instance's type, or safely castable to it.
        aligned
            Refuse a box that is not made of whole blocks, as DVID does. Otherwise the rest of a block stays as it is.
        mask
            Write blocks of this region only. Needs whole blocks.
        user, app, force
            As `Datatype.mutate`.

        Raises
        ------
        BadRequest
            Wrong type or shape, a box outside int32 or not aligned; nothing was changed.
        LockedVersion
            The version is committed.
        """
        self.check_open(force)
        given = self._check_voxels(voxels)
        layout = self.layout
        offset, shape = check_box(offset, given.shape[:3])
        if is_aligned(layout, offset, shape):
            # slab by slab, so that what is compressed of one is put together while the next one is being worked on
            slabs = (given[a - offset[0] : b - offset[0]] for a, b in self.write_cuts(offset, shape))
            self.write_slabs(offset, shape, slabs, mask=mask, user=user, app=app, force=force)
            return
        if aligned or mask is not None:
            check_aligned(layout, offset, shape)
        extents = to_extents(offset, shape)

        def change(m: Mutation, space: TxSpace) -> None:
            layout.create(space, 0)
            space.put_many(self._patched(space, offset, given))
            self.grow_extents(space, *extents)
            self._record(m, "post-raw", extents)

        self.mutate(change, user=user, app=app, force=force)

    def write_cuts(self, offset: Sequence[int], shape: Sequence[int]) -> list[tuple[int, int]]:
        """Where to cut a box of whole blocks along z for `write_slabs`."""
        layout = self.layout
        plane = shape[1] * shape[2] * layout.voxel_bytes
        thick = max(layout.block[0], SLAB_BYTES // plane)
        return list(cuts(offset[0], offset[0] + shape[0], layout.block[0], thick))

    def write_slabs(
        self,
        offset: Sequence[int],
        shape: Sequence[int],
        slabs: Iterable[NDArray[Any]],
        *,
        mask: BlockMask | None = None,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write a box of whole blocks that comes in slabs along z, in one commit; otherwise as `write`.

        A slab is compressed while the next one comes; what is held is two slabs and all that is compressed.

        Parameters
        ----------
        offset, shape
            The box, z, y, x.
        slabs
            Consecutive parts of it, each of whole blocks, as `write_cuts` has them. An error on the way changes
            nothing.
        """
        self.check_open(force)
        layout = self.layout
        offset, shape = check_box(offset, shape)
        check_aligned(layout, offset, shape)
        extents = to_extents(offset, shape)
        view = self.view()
        encoded: list[tuple[bytes, bytes]] = []
        at = offset[0]
        with ThreadPoolExecutor(1) as pool:
            behind: Future[list[tuple[bytes, bytes]]] | None = None
            for slab in slabs:
                voxels = self._check_voxels(slab)
                depth = len(voxels)
                if voxels.shape[1:3] != shape[1:] or depth % layout.block[0] or at + depth > extents.stop[0]:
                    raise BadRequest(f"a slab of {voxels.shape} voxels doesn't continue a box of {shape} at z {at}")
                if behind is not None:
                    encoded += behind.result()
                behind = pool.submit(self._encode, view, (at, offset[1], offset[2]), voxels, 0, mask)
                at += depth
            if behind is not None:
                encoded += behind.result()
        if at != extents.stop[0]:
            raise BadRequest(f"the slabs end at z {at}, the box at {extents.stop[0]}")

        def change(m: Mutation, space: TxSpace) -> None:
            layout.create(space, 0)
            space.put_many(encoded)
            self.grow_extents(space, *extents)
            self._record(m, "post-raw", extents)

        self.mutate(change, user=user, app=app, force=force)

    def check_whole_blocks(self, offset: Sequence[int], shape: Sequence[int]) -> None:
        """Refuse a box (z, y, x) that is not made of whole blocks."""
        check_aligned(self.layout, offset, shape)

    def check_block_span(self, block: Sequence[int], span: int) -> None:
        """Refuse blocks along x whose coordinates leave int32."""
        check_blocks(self.layout, block, span)

    def write_block_span(
        self,
        block: Sequence[int],
        voxels: ArrayLike,
        *,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write consecutive blocks along x, in one commit. As in DVID, the extents stay as they are.

        Parameters
        ----------
        block
            First block, z, y, x block coordinates.
        voxels
            (span, z, y, x[, channel]): block after block.

        Raises
        ------
        BadRequest
            Wrong type or shape, or blocks outside int32; nothing was changed.
        """
        self.check_open(force)
        layout = self.layout
        given = self._check_voxels(voxels, blocks=True)
        if given.shape[1:4] != layout.block:
            raise BadRequest(f"blocks of {self.name!r} are {layout.block} voxels (z, y, x), not {given.shape[1:4]}")
        start = check_blocks(layout, block, len(given))
        encoded: list[tuple[bytes, bytes]] = []
        view = self.view()
        for i, one in enumerate(given):
            corner = [b * n for b, n in zip((start[0], start[1], start[2] + i), layout.block, strict=True)]
            encoded += layout.encode(view, 0, corner, one)
        z, y, x = (b * n for b, n in zip(start, layout.block, strict=True))
        depth, height, width = layout.block
        extents = Extents((z, y, x), (z + depth, y + height, x + width * len(given)))

        def change(m: Mutation, space: TxSpace) -> None:
            layout.create(space, 0)
            space.put_many(encoded)
            self._record(m, "post-blocks", extents)

        self.mutate(change, user=user, app=app, force=force)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write a box at scale 0: slices and integers in z, y, x; a number, or what broadcasts to the box.

        Raises
        ------
        BadRequest
            Values that the instance's type doesn't hold, or an index that is no box; nothing was changed.
        """
        self.check_open()
        box, drop = parse_index(key, self.extents)
        array = np.asarray(value)
        limits = None if self.dtype.kind == "f" else np.iinfo(self.dtype)
        if array.dtype.kind not in ("ui" if limits else "uif") or (
            limits and array.size and not limits.min <= int(array.min()) <= int(array.max()) <= limits.max
        ):
            raise BadRequest(f"{self.name!r} holds {self.dtype} voxels; the {array.dtype} values given don't fit")
        shown = [n for n, part in zip(box.shape, drop, strict=True) if isinstance(part, slice)]
        try:
            filled = np.broadcast_to(array.astype(self.dtype), (*shown, *self.layout.tail))
        except ValueError:
            raise BadRequest(
                f"values of shape {array.shape} don't fill a box of {(*shown, *self.layout.tail)}"
            ) from None
        self.write(box.start, filled.reshape(*box.shape, *self.layout.tail))

    def _check_voxels(self, voxels: ArrayLike, blocks: bool = False) -> NDArray[Any]:
        array = np.asarray(voxels)
        tail = self.layout.tail
        axes = ("blocks", "z", "y", "x") if blocks else ("z", "y", "x")
        if array.ndim != len(axes) + len(tail) or array.shape[len(axes) :] != tail:
            wanted = (*axes, *(str(n) for n in tail))
            raise BadRequest(f"{self.name!r} takes arrays of shape ({', '.join(wanted)}), not {array.shape}")
        if array.dtype != self.dtype:
            if not np.can_cast(array.dtype, self.dtype, "safe"):
                raise BadRequest(f"{self.name!r} holds {self.dtype} voxels; {array.dtype} would have to be cut down")
            array = array.astype(self.dtype)
        return array

    def _encode(
        self,
        space: Space | TxSpace,
        offset: tuple[int, int, int],
        voxels: NDArray[Any],
        scale: int,
        mask: BlockMask | None = None,
    ) -> list[tuple[bytes, bytes]]:
        layout = self.layout
        encoded = layout.encode(space, scale, offset, voxels)
        if mask is not None:
            inside = mask(blocks_of(layout, offset, voxels.shape[:3]))
            encoded = [item for item, keep in zip(encoded, inside.tolist(), strict=True) if keep]
        return encoded

    def _patched(self, space: TxSpace, offset: tuple[int, int, int], voxels: NDArray[Any]) -> list[tuple[bytes, bytes]]:
        """The blocks that a box touches, with it written into them."""
        block = self.layout.block
        start = tuple(at // n * n for at, n in zip(offset, block, strict=True))
        stop = tuple(-(-(at + k) // n) * n for at, k, n in zip(offset, voxels.shape, block, strict=False))
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        whole = self._read(space, start, shape, 0)  # type: ignore[arg-type]
        inner = [at - a for at, a in zip(offset, start, strict=True)]
        whole[slices(inner, voxels.shape[:3])] = voxels
        return self._encode(space, start, whole, 0)  # type: ignore[arg-type]

    def _record(self, m: Mutation, action: str, extents: Extents) -> None:
        """Log the write, and tell who follows this instance."""
        size = list(reversed(extents.shape))
        offset = list(reversed(extents.start))
        m.log(
            self,
            {"Action": action, "Offset": offset, "Size": size, "MutationID": m.id, **self._stamp(m)},
        )
        m.publish(self, BlocksWritten(extents.start, extents.stop))

    def _stamp(self, m: Mutation) -> dict[str, str]:
        return {"Timestamp": go_time(m.time), "UUID": self.version.uuid}

    # ------------------------------------------------------------------ scales and bulk work

    def scales(self) -> list[int]:
        """The scales that are there; 0 is full resolution."""
        return self.layout.scales(self.view())

    def create_scale(self, space: TxSpace, scale: int) -> None:
        """Make a scale exist, inside a mutation.

        Bulk jobs do it before their bricks, which then don't collide on it.
        """
        self.layout.create(space, check_scale(scale))

    def bulk_write(self, space: TxSpace, brick: ArrayLike, offset: Sequence[int], scale: int = 0) -> None:
        """Write whole blocks at a scale inside a commit of the caller's, without log, event or extents.

        The door for jobs that write many bricks: one commit each, and what ties them together (`create_scale`,
        `grow_extents`, a log record) once.

        Parameters
        ----------
        space
            The instance inside a transaction.
        brick
            (z, y, x[, channel]) of the instance's type.
        offset
            First voxel, z, y, x, in voxels of the scale.
        scale
            0 is full resolution.

        Raises
        ------
        BadRequest
            Wrong type or shape, or not whole blocks.
        """
        space.put_many(self.bulk_encode(space, brick, offset, scale))
        self.create_scale(space, scale)

    def bulk_encode(
        self, space: Space | TxSpace, brick: ArrayLike, offset: Sequence[int], scale: int = 0
    ) -> list[tuple[bytes, bytes]]:
        """What `bulk_write` puts: do this before the transaction, so that running it again compresses nothing twice."""
        voxels = self._check_voxels(brick)
        corner, shape = check_box(offset, voxels.shape[:3])
        check_aligned(self.layout, corner, shape)
        return self._encode(space, corner, voxels, check_scale(scale))

    def bulk_read(
        self, space: Space | TxSpace, offset: Sequence[int], shape: Sequence[int], scale: int = 0
    ) -> NDArray[Any]:
        """The voxels of a box in a state of the caller's; otherwise as `read_box`."""
        offset, shape = check_box(offset, shape)
        return self._read(space, offset, shape, check_scale(scale))

    # ------------------------------------------------------------------ arrays of other libraries

    def pin(self, scale: int = 0, extents: Extents | None = None) -> PinnedImage:
        """An array of one scale in today's state, that pickles and reads the same voxels anywhere.

        Parameters
        ----------
        scale
            0 is full resolution.
        extents
            The box it covers, in voxels of the scale; by default the extents of the image.

        Raises
        ------
        BadRequest
            Nothing was written yet, so there are no extents.
        """
        space = self.view()
        box = extents
        if box is None:
            known = self._read_extents(space)
            if known is None:
                raise BadRequest(
                    f"{self.name!r} has no extents at version {self.version.uuid}: nothing was written yet"
                )
            box = known.at_scale(check_scale(scale))
        return PinnedImage(self, space, scale, box)

    def to_dask(
        self, scale: int = 0, chunks: int | Sequence[int] | None = None, extents: Extents | None = None
    ) -> dask.array.Array:
        """The image as a lazy dask array over its extents, pinned to today's state.

        Its first voxel is `extents.start`; chunks end between blocks wherever that is possible.

        Parameters
        ----------
        scale
            0 is full resolution.
        chunks
            Voxels in z, y, x, or one number for all; by default about 16 MB, a multiple of the block size.
        extents
            Another box than the extents of the image, in voxels of the scale.

        Raises
        ------
        BadRequest
            Nothing was written yet, so there are no extents.
        """
        return self._lazy(self.pin(scale, extents), chunks)

    def _lazy(self, pinned: PinnedImage, chunks: int | Sequence[int] | None) -> dask.array.Array:
        import dask.array

        block = self.block_shape
        if chunks is None:
            times = max(1, round((2**24 / self.layout.block_bytes) ** (1 / 3)))
            sides = [n * times for n in block]
        else:
            sides = [chunks] * 3 if isinstance(chunks, int) else list(chunks)
            if len(sides) != 3 or min(sides) < 1:
                raise BadRequest(f"chunks are three positive numbers for z, y, x, not {chunks}")
        spans = [
            tuple(b - a for a, b in cuts(start, stop, n, side))
            for start, stop, n, side in zip(*pinned.extents, block, sides, strict=True)
        ]
        return dask.array.from_array(
            pinned,
            chunks=(*spans, *self.layout.tail),
            name=f"{self.name}-{pinned.token}",
            asarray=False,
            fancy=False,
            lock=False,
            inline_array=False,
        )

    def to_xarray(
        self, scale: int = 0, chunks: int | Sequence[int] | None = None, extents: Extents | None = None
    ) -> xarray.DataArray:
        """The image as a lazy DataArray, with the physical positions of voxel centres as coordinates.

        The origin is the centre of voxel 0 at scale 0.
        """
        import xarray

        pinned = self.pin(scale, extents)
        data, box = self._lazy(pinned, chunks), pinned.extents
        coordinates: dict[str, Any] = {}
        for name, start, length, size, unit in zip(
            "zyx", box.start, data.shape, self.voxel_size, self.voxel_units, strict=False
        ):
            # a voxel of scale k stands for 2^k of scale 0
            centres = ((np.arange(length) + start) + 0.5) * 2**scale - 0.5
            coordinates[name] = (name, centres * size, {"units": unit})
        dims = ["z", "y", "x"]
        if self.layout.tail:
            dims.append("channel")
            coordinates["channel"] = list(self.labels)
        attrs = {"uuid": self.version.uuid, "scale": scale, "offset": list(box.start)}
        return xarray.DataArray(data, coordinates, dims, self.name, attrs)

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """Blocks by scale and coordinate in x, y, z; the extents."""
        if key == EXTENTS_KEY:
            return {"extents": True}
        found = self.layout.parse_block_key(key)
        if found is None:
            return None
        scale, (z, y, x) = found
        return {"scale": scale, "block": [x, y, z]}

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """Extents of several parents are united; blocks that both changed are a conflict."""
        if key == EXTENTS_KEY and all(value is not None for value in values):
            known: Extents | None = None
            for value in values:
                known = _union(known, _to_extents(_extents(value or b"")))
            if known is not None:
                a, b, c = reversed(known.start)
                d, e, f = (v - 1 for v in reversed(known.stop))
                return msgspec.json.encode(_StoredExtents((a, b, c), (d, e, f)))
        return CONFLICT


# ---------------------------------------------------------------------- the types


@register
class Uint8Blk(ImageBlk):
    """8-bit grey values: electron microscopy, mostly."""

    typename = "uint8blk"
    typeurl = URL + "uint8.go"
    typeversion = "0.2"
    value_type = "uint8"
    labels = ("uint8",)


@register
class Uint16Blk(ImageBlk):
    """16-bit values."""

    typename = "uint16blk"
    typeurl = URL + "uint16.go"
    value_type = "uint16"
    labels = ("uint16",)


@register
class Uint32Blk(ImageBlk):
    """32-bit values."""

    typename = "uint32blk"
    typeurl = URL + "uint32.go"
    value_type = "uint32"
    labels = ("uint32",)


@register
class Uint64Blk(ImageBlk):
    """64-bit values."""

    typename = "uint64blk"
    typeurl = URL + "uint64.go"
    value_type = "uint64"
    labels = ("uint64",)


@register
class Float32Blk(ImageBlk):
    """Single-precision values: probabilities, mostly."""

    typename = "float32blk"
    typeurl = URL + "float32.go"
    value_type = "float32"
    labels = ("float32",)


@register
class Rgba8Blk(ImageBlk):
    """Colour: red, green, blue and alpha of 8 bits."""

    typename = "rgba8blk"
    typeurl = URL + "rgba8.go"
    typeversion = "0.2"
    value_type = "uint8"
    labels = ("red", "green", "blue", "alpha")
