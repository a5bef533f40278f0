"""labelmap: supervoxels in compressed label blocks, bodies by a mapping, an index of which body is where.

Its older siblings are made of the same rooms: labelarray, whose voxels hold the bodies, and labelblk, without an index.

========================  ==========================================================================
`datatype`, `methods`     `LabelMap`, the instance at a version: every operation begins here
`volume`                  `LabelVolume`: what all three are alike; `BodyVolume`: what the two with an index are
`labelarray`              `LabelArray`
`relabelling`             labels written over by others: what merges and splits of a labelarray do
`labelblk`, `halving`     `LabelBlk`; one that follows another at half the resolution
`blocks`, `voxels`        stored label blocks; reading boxes, points and blocks
`writes`, `downres`       writing voxels with all that depends on them; coarser scales
`index`, `rows`           the label index in pages
`mapping`                 supervoxel to body in pages
`edits`                   merge, cleave, renumber
`sparse`                  sparse volumes
`nanovdb`                 bodies as NanoVDB grids, with values of an image
`bulk`                    the door for bulk loads
`verify`                  does all this agree?
`counters`, `extents`     ids and extents
========================  ==========================================================================
"""

from dvid_dask.datatypes.labelmap.datatype import LabelMap
from dvid_dask.datatypes.labelmap.labelarray import LabelArray
from dvid_dask.datatypes.labelmap.labelblk import LabelBlk
from dvid_dask.datatypes.labelmap.sparse import Bounds
from dvid_dask.datatypes.labelmap.volume import BodyVolume, LabelVolume

__all__ = ["BodyVolume", "Bounds", "LabelArray", "LabelBlk", "LabelMap", "LabelVolume"]
