"""Writing voxels, with all that depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import events, keys, undo, writes
from dvid_dask.datatypes.labelmap.blocks import blocks_in_box
from dvid_dask.datatypes.labelmap.methods.voxels import VoxelReads, check_scale
from dvid_dask.datatypes.labelmap.voxels import check_box
from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dvid_dask.datatypes.base import Mutation, TxSpace

__all__ = ["VoxelWrites"]


class VoxelWrites(VoxelReads):
    """Changes of the voxels of a labelmap."""

    def __setitem__(self, box: Any, labels: ArrayLike) -> None:
        """Write supervoxels to a box of whole blocks."""
        offset, shape, _ = self.array().resolve(box)
        self.write(np.broadcast_to(np.asarray(labels, np.uint64), shape), offset)

    def write(
        self,
        labels_zyx: NDArray[np.uint64],
        offset_zyx: Sequence[int],
        *,
        roi: str = "",
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write supervoxels: whole blocks, all coarser scales and the label index, in one commit.

        Parameters
        ----------
        labels_zyx
            uint64 (z, y, x), a multiple of the block shape.
        offset_zyx
            Its first voxel, a multiple of the block shape.
        roi
            Name of an ROI instance: blocks outside of it are not written.

        Raises
        ------
        BadRequest
            If it isn't made of whole blocks or leaves signed 32-bit coordinates.
        LockedVersion
            If the version is committed.
        """
        labels = np.asarray(labels_zyx)
        if labels.dtype.kind not in "ui" or (labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0):
            raise BadRequest(f"labels are unsigned integers, got {labels.dtype}")
        if labels.ndim != 3:
            raise BadRequest(f"labels have three dimensions (z, y, x), got {labels.shape}")
        self.write_slabs(
            lambda _: labels.astype(np.uint64, copy=False),
            offset_zyx,
            labels.shape,
            thickness=labels.shape[0],
            roi=roi,
            user=user,
            app=app,
            force=force,
        )

    def write_slabs(
        self,
        next_slab: Callable[[int], NDArray[np.uint64]],
        offset_zyx: Sequence[int],
        shape_zyx: Sequence[int],
        *,
        thickness: int = 0,
        roi: str = "",
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """`write` of a box that comes slab by slab; only compressed blocks are held.

        Parameters
        ----------
        next_slab
            Called with a number of planes, returns the next ones: uint64 (planes, y, x).
        offset_zyx, shape_zyx
            The box, made of whole blocks.
        thickness
            Planes of a slab, a multiple of the block's; one layer of blocks by default.
        roi, user, app, force
            As for `write`.
        """
        self.check_open(force)
        offset, shape = [int(v) for v in offset_zyx], [int(v) for v in shape_zyx]
        check_box(offset, shape, None)
        writes.check_aligned(self.layout, offset, shape)
        self._check_blocks(offset, shape)
        seen = self.roi(roi)
        parts = []
        step = thickness or self.block_shape[0]
        for z in range(0, shape[0], step):
            planes = min(step, shape[0] - z)
            at = [offset[0] + z, offset[1], offset[2]]
            keep = None if seen is None else seen(self._blocks_of_box(at, [planes, shape[1], shape[2]]))
            parts.append(writes.prepare_array(self.layout, next_slab(planes), at, keep))
        self._store(writes.Prepared.join(parts), downres=True, user=user, app=app, force=force)

    def _blocks_of_box(self, offset_zyx: Sequence[int], shape_zyx: Sequence[int]) -> NDArray[np.int32]:
        start = [o // b for o, b in zip(offset_zyx, self.block_shape, strict=True)]
        stop = [(o + n) // b for o, n, b in zip(offset_zyx, shape_zyx, self.block_shape, strict=True)]
        return blocks_in_box(start, stop)

    def write_blocks(
        self,
        records: Iterable[tuple[int, int, int, bytes]],
        *,
        scale: int = 0,
        index: bool = True,
        downres: bool = False,
        user: str = "",
        app: str = "",
        force: bool = False,
    ) -> None:
        """Write label blocks from a stream of (bx, by, bz, gzip of the label block), in one commit.

        Parameters
        ----------
        records
            Block coordinates at the scale, x y z as on the wire; read once, only compressed blocks are held.
        scale
            Scale of the blocks. Only scale 0 is indexed and has extents.
        index
            Whether to keep the label index in line.
        downres
            Whether to bring the coarser scales in line.

        Raises
        ------
        BadRequest, FormatError
            If the stream or a block can't be used; nothing is written.
        LockedVersion
            If the version is committed.
        """
        self.check_open(force)
        if downres and scale:
            raise BadRequest(f"coarser scales are made from scale 0, not from scale {scale}")
        prepared = writes.prepare_records(self.layout, records)
        self._store(prepared, scale=scale, index=index, downres=downres, user=user, app=app, force=force)

    def ingest_supervoxels(
        self, records: Iterable[tuple[int, int, int, bytes]], *, scale: int = 0, force: bool = False
    ) -> None:
        """Write label blocks alone: no index, no coarser scales, no extents. For bulk loaders."""
        self.check_open(force)
        prepared = writes.prepare_records(self.layout, records)
        block_keys = keys.blocks(check_scale(scale), prepared.block_zyx)
        if not block_keys:
            return

        def change(m: Mutation, space: TxSpace) -> None:
            olds = space.get_many(block_keys)
            space.put_many(zip(block_keys, prepared.values, strict=True))
            self._keep_blocks(m, prepared, olds, scale=scale, index=False, downres=False)
            if scale == 0:
                m.publish(self, events.BlocksWritten(m.id, prepared.block_zyx))

        self.mutate(change, force=force)

    def _keep_blocks(
        self,
        m: Mutation,
        prepared: writes.Prepared,
        olds: list[bytes | None],
        *,
        scale: int,
        index: bool,
        downres: bool,
    ) -> None:
        """Keep what it takes to undo."""
        if m.keeps_undo(self):
            step = undo.blocks_before(
                prepared.block_zyx,
                olds,
                prepared.values,
                scale=scale,
                index=index,
                downres=downres,
                keep=lambda: m.keep_states(self, after=False)[0],
            )
            self._keep_undo(m, "write", [step])

    def note_largest(self, space: TxSpace, label: int) -> None:
        """Note the largest label of voxels that were written in a transaction, where a type keeps it by version."""

    def _check_blocks(self, offset_zyx: Sequence[int], shape_zyx: Sequence[int]) -> None:
        first = [o // b for o, b in zip(offset_zyx, self.block_shape, strict=True)]
        last = [(o + n) // b - 1 for o, n, b in zip(offset_zyx, shape_zyx, self.block_shape, strict=True)]
        for corner in (first, last):
            writes.check_block_coordinate(self.layout, corner)

    def _store(
        self,
        prepared: writes.Prepared,
        *,
        scale: int = 0,
        index: bool = True,
        downres: bool = False,
        user: str,
        app: str,
        force: bool,
    ) -> None:
        if not len(prepared):
            return
        check_scale(scale)
        layout, index = self.layout, index and self.indexed
        if scale == 0:
            self.next_labels.raise_to(prepared.max_label)

        def change(m: Mutation, space: TxSpace) -> None:
            written = writes.store(space, layout, prepared, scale=scale, index=index, downres=downres)
            self._keep_blocks(m, prepared, written.olds, scale=scale, index=index, downres=downres)
            if scale == 0:
                self.note_largest(space, prepared.max_label)
                m.publish(self, events.BlocksWritten(m.id, written.block_zyx))

        self.mutate(change, user=user, app=app, force=force)
