"""NanoVDB: sparse volumes as the grids that GPUs, renderers and fVDB read.

The authority is NanoVDB's own header ``nanovdb/NanoVDB.h`` (AcademySoftwareFoundation/openvdb), version 32.8. A grid is
a tree of fixed depth: a root table of upper nodes of 4096^3 voxels, lower nodes of 128^3, leaves of 8^3. A leaf
holds one bit per voxel; an **index grid** (``OnIndex``) numbers the set ones from 1, in order of leaves, and whatever
belongs to the voxels stands in arrays in that order, index 0 being the background. A **value grid** holds the values in
its leaves.

NanoVDB counts coordinates x, y, z, with z fastest: bit ``64 x + 8 y + z`` of a leaf. A sub-block of 8 x 8 x 8 voxels of
a label block is a leaf, but for the order of its bits; so leaves are made of compressed blocks without a voxel being
expanded.

=============  =====================================================================================
`leaves`       `Leaves`: bit masks of 8^3 voxels, made of label blocks, runs or masks; index order
`grids`        from leaves to the bytes of a grid
`files`        grids as a file in segments, with or without compression
`reading`      from bytes to leaves, indices and values; refuses what doesn't add up
`layout`       sizes, offsets, enumerations
=============  =====================================================================================
"""

from __future__ import annotations

from dvid_dask.formats.nanovdb.files import encode_file
from dvid_dask.formats.nanovdb.grids import encode_index_grid, encode_value_grid
from dvid_dask.formats.nanovdb.layout import GridClass, GridType
from dvid_dask.formats.nanovdb.leaves import (
    Leaves,
    leaves_of_block,
    leaves_of_mask,
    leaves_of_runs,
    leaves_of_voxels,
)
from dvid_dask.formats.nanovdb.reading import Grid, is_nanovdb, read_grids, runs_of_grids

__all__ = [
    "Grid",
    "GridClass",
    "GridType",
    "Leaves",
    "encode_file",
    "encode_index_grid",
    "encode_value_grid",
    "is_nanovdb",
    "leaves_of_block",
    "leaves_of_mask",
    "leaves_of_runs",
    "leaves_of_voxels",
    "read_grids",
    "runs_of_grids",
]
