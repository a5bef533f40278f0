"""Formats: pure functions between bytes and arrays. No input or output, no state, nothing of the package but this room.

Arrays are indexed (z, y, x). Wire formats speak of x, y, z, little-endian; every function says which it takes.
Bytes that don't follow their format raise `errors.FormatError` and nothing else.

==========================  ====================================================================================
`label_blocks`              DVID's compressed label block: encode, decode, count, relabel, down-sample
`block_stream`              streams of blocks with coordinates (``blocks``, ``specificblocks``, ingest)
`compression`               bounded gzip, LZ4 block, Snappy, zstd; DVID's value header
`rles`                      sparse volumes as runs along x, from and to blocks, masks and bytes
`binary_blocks`             sparse volumes as blocks of bits
`coarse`                    sparse volumes at block resolution
`coordinates`               packed block coordinates, Morton keys, DVID's block keys
`label_index`               label indices: columns of (block, supervoxel, count) and their protobuf
`nanovdb`                   NanoVDB grids and files: of sparse volumes, with values of an image; reading them
`columns`                   small tables of unsigned integers
`distinct`                  distinct numbers and rows, and which are among others
`urls`                      URLs in texts that others read: without secrets
`json_parts`                long JSON lists and objects in parts
`tars`                      tar files as streams, read with suspicion
`dvid_pb2`                  all of DVID's protobuf messages, generated from ``dvid.proto``
`label_cuts`                supervoxels of a label block cut in two, and joined
`meshes`                    surfaces of labels: marching cubes, simplification, Draco, neuroglancer's meshes
`contacts`                  faces between the labels of a brick
`sharding`                  Neuroglancer's sharded files
`precomputed_annotations`   Neuroglancer's annotations: points and lines, by space, id and relation
`compressed_segmentation`   Neuroglancer's compressed_segmentation of uint64
`ome_zarr`                  the attributes of OME-Zarr's groups: scales, units, channels
`downsample`                means over windows: the coarser scales of images
`tile_payload`              image tiles as they are stored
`placeholder`               the picture of a tile that isn't there
`v3draw`                    Vaa3D's raw volumes
`images`                    2-d images: PNG, JPEG, TIFF, BMP, pseudocolour, resizing
==========================  ====================================================================================

Nothing is imported here: import the module you need (the compiled ones take a moment to load).
"""
