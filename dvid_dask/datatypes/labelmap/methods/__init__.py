"""The methods of `LabelMap`, a class to each subject.

====================  ==========================================================
`instance`            settings, extents, ids
`voxels`, `writing`   voxels read and written
`bodies`              bodies and supervoxels: which, how large, where
`index`               the label index and the mapping, as they are kept
`editing`             merge, cleave, renumber
`splitting`           supervoxels and bodies cut in two
`undoing`             undo and redo
`grids`               bodies as NanoVDB grids
`history`             what happened
`nearness`            distances between bodies
`tables`              index, mapping and log as dataframes
====================  ==========================================================
"""
