"""Blocks read, as voxels and in their stored form."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.base import Space
from dvid_dask.datatypes.imageblk.boxes import check_aligned, check_blocks, check_box, check_scale
from dvid_dask.datatypes.imageblk.layout import Layout
from dvid_dask.datatypes.imageblk.methods.reading import SLAB_BYTES, Reads
from dvid_dask.errors import BadRequest
from dvid_dask.formats.compression import gzip_compress, lz4_compress, snappy_compress

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["BlockReads"]


class BlockReads(Reads):
    """Blocks of an image at a version."""

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
        empty = np.full((*layout.block, *layout.tail), self._background_value)
        return self._block_span(layout, space, empty, (z, y, x), span)

    def _block_span(
        self, layout: Layout, space: Space, empty: NDArray[Any], block: tuple[int, int, int], span: int
    ) -> Iterator[NDArray[Any]]:
        z, y, x = block
        # as many at a time as a slab of a streamed read
        many = max(1, min(256, SLAB_BYTES // layout.block_bytes))
        for first in range(0, span, many):
            row = np.array([(z, y, x + i) for i in range(first, min(first + many, span))], np.int64)
            found = dict(layout.decoded(space, 0, row))
            for at in map(tuple, row.tolist()):
                yield found.get(at, empty)

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
        encode = self._payload(layout, compression)
        wanted = np.asarray(blocks, np.int64).reshape(-1, 3)
        return self._payloads(layout, space, check_scale(scale), wanted, encode)

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
        encode = self._payload(layout, compression)
        start = [at // n for at, n in zip(offset, layout.block, strict=True)]
        stop = [at + length // n for at, length, n in zip(start, shape, layout.block, strict=True)]
        return (
            block
            for some in layout.stored_in(space, check_scale(scale), start, stop)
            for block in self._payloads(layout, space, scale, some, encode)
        )

    @staticmethod
    def _payloads(
        layout: Layout,
        space: Space,
        scale: int,
        blocks: NDArray[np.int64],
        encode: Callable[[bytes], bytes] | None,
    ) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        if encode is None:
            return layout.values(space, scale, blocks)
        return ((at, encode(voxels.tobytes())) for at, voxels in layout.decoded(space, scale, blocks))

    def _payload(self, layout: Layout, compression: str) -> Callable[[bytes], bytes] | None:
        """From a block's voxels to the bytes that are asked for; None for the block as it is stored."""
        if compression == "uncompressed":
            return bytes
        if compression == "jpeg" and not layout.jpeg:
            raise BadRequest(
                f"blocks of {self.name!r} are not stored as JPEG (but with {self.info.compression}): "
                "leave compression out, or ask for compression=uncompressed"
            )
        if compression not in ("", "jpeg"):
            raise BadRequest(f'compression "{compression[:80]}" is none of jpeg, uncompressed, or nothing')
        if layout.jpeg:
            return None
        kind, _, level = self.info.compression.partition(" compression, level ")
        if kind == "LZ4":
            return lambda plain: struct.pack("<I", layout.block_bytes) + lz4_compress(plain)
        if kind == "Go Snappy":
            return snappy_compress
        if kind == "gzip":
            strength = int(level) if 1 <= int(level) <= 9 else 6
            return lambda plain: gzip_compress(plain, strength)
        return bytes
