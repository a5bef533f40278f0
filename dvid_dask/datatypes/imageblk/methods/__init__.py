"""The methods of `ImageBlk`, a class to each subject; each builds on the one above it.

===========  ======================================================
`instance`   settings, extents, what DVID shows
`reading`    boxes, slabs, slices, planes
`blocks`     blocks, as voxels and in their stored form
`writing`    boxes, slabs, spans of blocks
`bulk`       scales, and bricks of jobs
`arrays`     dask and xarray
===========  ======================================================
"""
