"""What a labelvol asks of the labelblk that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from dvid_dask.versions.mutation import HasKeys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import TxSpace
    from dvid_dask.versions.space import Space

    AnySpace = Space | TxSpace

__all__ = ["VoxelSource"]


class VoxelSource(HasKeys, Protocol):
    """What a labelvol asks of its labelblk."""

    def view(self) -> Space:
        """Its keys at this version."""

    def labels_in(
        self, space: AnySpace, points_zyx: NDArray[np.int32]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Labels at points, twice."""

    def dense_blocks(
        self, space: AnySpace, block_zyx: NDArray[np.int32]
    ) -> Iterator[tuple[tuple[int, int, int], NDArray[np.uint64]]]:
        """Coordinate (z, y, x) and voxels of each block that is stored."""

    def block_labels(
        self, space: AnySpace, block_zyx: NDArray[np.int32]
    ) -> Iterator[tuple[tuple[int, int, int], NDArray[np.uint64]]]:
        """Coordinate (z, y, x) of each block that is stored, and its labels."""

    def stored_blocks(self, space: AnySpace) -> Iterator[NDArray[np.int32]]:
        """Coordinates (z, y, x) of all stored blocks, in batches."""

    def written_between(self, before: Space, after: Space) -> Iterator[NDArray[np.int32]]:
        """Blocks whose voxels differ between two states, some at a time."""
