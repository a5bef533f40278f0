"""labelvol: the sparse volume of each label, as runs by block, and the edits of a labelblk.

============  ======================================================
`datatype`    `LabelVol`, the instance at a version
`volumes`     stored runs: read, merged, split
`rebuilding`  all runs anew from the voxels
`undoing`     edits taken back, and done again
`source`      what is asked of the labelblk
`checking`    do they agree with the voxels?
`settings`    creation settings
`keys`        keys inside the instance's key space
============  ======================================================
"""

from dvid_dask.datatypes.labelvol.datatype import LabelVol
from dvid_dask.datatypes.labelvol.volumes import Bounds

__all__ = ["Bounds", "LabelVol"]
