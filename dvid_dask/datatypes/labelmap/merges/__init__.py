"""Merging versions of a labelmap: what the other side has edited is carried out on ours.

============  =============================================================================
`sides`       what both sides have changed: supervoxels cut, bodies of supervoxels
`bodies`      which body each supervoxel belongs to when both come together
`blocks`      voxels of both sides come together
`carrying`    the edits that follow: mapping, label index, voxels, coarser scales, events
============  =============================================================================

All costs what both sides have changed, and holds what they changed of the mapping, but of voxels and label index only
parts.
"""

from dvid_dask.datatypes.labelmap.merges.carrying import merge_labelmaps

__all__ = ["merge_labelmaps"]
