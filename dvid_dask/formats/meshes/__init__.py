"""Meshes: the surfaces of labels as triangles, from voxels to the files that viewers read.

===============  ==================================================================================
`surfaces`       surfaces of all labels of a brick at once, and how those of several bricks are joined
`mesh`           a mesh: vertices in nanometres, triangles; simplification
`files`          OBJ, PLY, Draco, and neuroglancer's single-resolution ``ngmesh``
`multires`       neuroglancer's multi-resolution meshes
`shard`          many of them in one file
===============  ==================================================================================

The libraries for it are an extra: ``pip install 'dvid-dask[mesh]'``. They are imported when they are needed.
"""
