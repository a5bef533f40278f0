"""labelmap: supervoxels in compressed label blocks, bodies by a mapping, an index of which body is where.

========================  ==========================================================================
`datatype`, `methods`     `LabelMap`, the instance at a version: every operation begins here
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
from dvid_dask.datatypes.labelmap.sparse import Bounds

__all__ = ["Bounds", "LabelMap"]
