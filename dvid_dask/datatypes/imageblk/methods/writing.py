"""Voxels written: boxes, slabs, spans of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.boxes import Box
from dvid_dask.datatypes.base import Mutation, Space, TxSpace
from dvid_dask.datatypes.imageblk.boxes import (
    blocks_of,
    check_aligned,
    check_blocks,
    check_box,
    cuts,
    is_aligned,
    parse_index,
    slices,
    to_extents,
)
from dvid_dask.datatypes.imageblk.events import BlocksWritten
from dvid_dask.datatypes.imageblk.methods.blocks import BlockReads
from dvid_dask.datatypes.imageblk.methods.reading import SLAB_BYTES, BlockMask
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Writes"]


class Writes(BlockReads):
    """Writes to an image at a version, one commit each."""

    def write(
        self,
        voxels_zyx: ArrayLike,
        offset_zyx: Sequence[int],
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
        voxels_zyx
            (z, y, x), with a last axis of channels for colour; of the instance's type, or safely castable to it.
        offset_zyx
            Its first voxel, z, y, x.
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
        given = self._check_voxels(voxels_zyx)
        layout = self.layout
        offset, shape = check_box(offset_zyx, given.shape[:3])
        if is_aligned(layout, offset, shape):
            # slab by slab, so that what is compressed of one is put together while the next one is being worked on
            slabs = (given[a - offset[0] : b - offset[0]] for a, b in self.write_cuts(offset, shape))
            self.write_slabs(offset, shape, slabs, mask=mask, user=user, app=app, force=force)
            return
        if aligned or mask is not None:
            check_aligned(layout, offset, shape)
        extents = to_extents(offset, shape)
        if self.base_volume is not None:
            # what is needed of it is fetched before the commit, which must not wait for other machines
            around = extents.aligned(layout.block)
            self._read(self.view(), around.start, around.shape, 0)

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
        extents = Box((z, y, x), (z + depth, y + height, x + width * len(given)))

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
        self.write(filled.reshape(*box.shape, *self.layout.tail), box.start)

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

    def _record(self, m: Mutation, action: str, extents: Box) -> None:
        """Log the write, and tell who follows this instance."""
        size = list(reversed(extents.shape))
        offset = list(reversed(extents.start))
        m.log(
            self,
            {"Action": action, "Offset": offset, "Size": size, "MutationID": m.id, **self._stamp(m)},
        )
        m.publish(self, BlocksWritten(extents.start, extents.stop))
