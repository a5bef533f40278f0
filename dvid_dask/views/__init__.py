"""Volumes as other formats would hold them, without writing them: each path of such a format is made when it is read.

=============  ================================================================================
`volume`       where a volume lies and its blocks, of one state of an instance
`zarr`         a zarr 3 group with an array for each scale, which is an OME-Zarr
`precomputed`  a neuroglancer precomputed volume
`annotations`  annotations as neuroglancer's precomputed format has them
`store`        a view as a zarr store, for zarr-python, xarray and dask in this process
`backend`      xarray's engine ``dvid``
=============  ================================================================================

What is stored in the same form is passed on as it is: the chunks of an image's zarr are the stored blocks, the chunks
of a precomputed segmentation are label blocks transcoded without being expanded.
"""

from .annotations import AnnotationsPlan, AnnotationsView
from .precomputed import PrecomputedView
from .store import ViewStore
from .volume import Level, Volume
from .zarr import ZarrView

__all__ = ["AnnotationsPlan", "AnnotationsView", "Level", "PrecomputedView", "ViewStore", "Volume", "ZarrView"]
