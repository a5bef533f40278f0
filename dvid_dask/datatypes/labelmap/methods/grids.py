"""Bodies as NanoVDB grids."""

from __future__ import annotations

from dvid_dask.datatypes.labelmap.methods.bodies import Bodies
from dvid_dask.datatypes.labelmap.nanovdb import BodyGrid, Image, Values, body_grid

__all__ = ["Grids"]


class Grids(Bodies):
    """NanoVDB grids of the bodies of a labelmap at a version."""

    def nanovdb(
        self,
        label: int,
        *,
        supervoxels: bool = False,
        scale: int = 0,
        name: str = "",
        image: Image | None = None,
        values: Values = "channel",
        allow_empty: bool = False,
        max_bytes: int | None = None,
    ) -> BodyGrid:
        """A body, or a supervoxel, as a NanoVDB grid.

        Its coordinates are voxels of the scale; its voxel size is the instance's times 2**scale.

        Parameters
        ----------
        label
            Body, or supervoxel.
        supervoxels
            Whether `label` is a supervoxel.
        scale
            0 is full resolution.
        name
            Of the grid; by default ``label_<id>``.
        image
            An image whose values belong to the voxels.
        values
            ``"channel"``: an index grid, with the image's values behind it as a channel (``ChannelAccessor`` in C++,
            ``feature_array`` in Warp). ``"voxels"``: a grid whose voxels hold the values; uint16 become float32.
            ``"apart"``: an index grid, and the values only in the answer.
        allow_empty
            Whether a label without voxels at this scale gives an empty grid.
        max_bytes
            Refuse a grid that would be larger.

        Returns
        -------
        BodyGrid
            Grid, leaves, values; `BodyGrid.tobytes` is the file.

        Raises
        ------
        NotFound
            If there is no such label.
        BadRequest
            If it has no voxels at this scale, or the name or a voxel's size can't be used.
        NotSupported
            If the image's values can't be kept.

        Examples
        --------
        >>> import numpy as np
        >>> import dvid_dask
        >>> from dvid_dask.formats.nanovdb import read_grids
        >>> repo = dvid_dask.create("memory://").new_repo("fly")
        >>> seg = repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16"})
        >>> seg.write(np.full((16, 16, 16), 5, np.uint64), (0, 0, -16))
        >>> body = seg.nanovdb(5)
        >>> body.leaves.voxels, body.leaves.coordinates()[0].tolist()
        (4096, [-16, 0, 0])
        >>> [grid.name for grid in read_grids(body.tobytes())]
        ['label_5']
        """
        volume = self.sparse(label, supervoxels=supervoxels, scale=scale)
        name = name or f"label_{label}"
        return body_grid(volume, name, self.voxel_size, image, values, allow_empty=allow_empty, max_bytes=max_bytes)
