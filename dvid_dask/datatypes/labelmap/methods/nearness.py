"""How near bodies come to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.methods.bodies import Bodies
from dvid_dask.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Space
    from dvid_dask.datatypes.labelmap.proximity import BlockDistance, Proximity

__all__ = ["Nearness"]


class Nearness(Bodies):
    """Distances between bodies of a labelmap at a version."""

    def proximity(self, a: int, b: int, *, max_distance: float | None = None, places: bool = False) -> Proximity | None:
        """How near two bodies come to each other, where, and across which faces they touch.

        Parameters
        ----------
        a, b
            Two bodies.
        max_distance
            Look no farther than this, in the units of the voxel size (nanometers by default).
        places
            List also each block of `a` in which `b` comes within `max_distance`.

        Returns
        -------
        Proximity or None
            Minimum distance by voxel size and in voxels, the closest voxels, the faces in common and their area. None
            if the bodies are farther apart than `max_distance`.

        Raises
        ------
        NotFound
            If one of them doesn't exist.
        BadRequest
            If one is 0, both are the same, or places are asked for without a limit.

        Examples
        --------
        >>> import dvid_dask
        >>> import numpy as np
        >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
        >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16", "VoxelSize": "8,8,8"})
        >>> labels = np.zeros((16, 16, 64), np.uint64)
        >>> labels[5, 5, 2:10], labels[5, 9, 40:50] = 7, 9
        >>> seg.write(labels, (0, 0, 0))
        >>> near = seg.proximity(7, 9)
        >>> round(near.distance, 1), near.point_a, near.point_b, near.faces
        (250.1, (5, 5, 9), (5, 9, 40), (0, 0, 0))
        >>> seg.proximity(7, 9, max_distance=100) is None
        True
        """
        from dvid_dask.datatypes.labelmap.proximity import find_proximity

        if places and max_distance is None:
            raise BadRequest("places near another body: say with max_distance how near")
        if max_distance is not None and not 0 <= max_distance < float("inf"):
            raise BadRequest(f"a distance is 0 or more, not {max_distance}")
        view = self._two_or_more([a, b])
        return find_proximity(view, self.layout, self.voxel_size, a, b, max_distance=max_distance, places=places)

    def block_distances(self, target: int, others: Sequence[int]) -> Iterator[BlockDistance]:
        """For every block that a body shares with others, how near they come within it, in voxels.

        Raises
        ------
        NotFound
            If one of the bodies doesn't exist.
        BadRequest
            If one is 0, or named twice.
        """
        from dvid_dask.datatypes.labelmap.proximity import distances_in_blocks

        view = self._two_or_more([target, *others])
        return distances_in_blocks(view, self.layout, target, others)

    def _two_or_more(self, bodies: Sequence[int]) -> Space:
        """A view in which all these bodies exist."""
        if len(bodies) < 2:
            raise BadRequest("a body is near others: name two or more")
        for body in bodies:
            self.resolve(body)
        if len(set(bodies)) < len(bodies):
            raise BadRequest("the distance of a body to itself is of no use: name each body once")
        view = self.view()
        for body, header in zip(bodies, Index(view).headers(bodies), strict=True):
            if header is None:
                raise NotFound(f"there is no body {body}")
        return view
