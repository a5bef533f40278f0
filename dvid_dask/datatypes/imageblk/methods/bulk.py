"""Scales, and the doors for jobs that read and write many bricks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dvid_dask.datatypes.base import Space, TxSpace
from dvid_dask.datatypes.imageblk.boxes import check_aligned, check_box, check_scale
from dvid_dask.datatypes.imageblk.methods.writing import Writes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Bulk"]


class Bulk(Writes):
    """Scales and bricks of an image at a version."""

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
