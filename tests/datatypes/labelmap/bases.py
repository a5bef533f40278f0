"""Volumes for labelmaps to stand on, in every format; where a format has scales, made by our rule."""

from __future__ import annotations

import numpy as np
import tensorstore as ts

from .model import coarser

FORMATS = ("precomputed", "sharded", "zarr2", "zarr3", "n5", "ome", "hdf5")


def save(folder, voxels, offset=(0, 0, 0), format="precomputed", levels=0):
    """Write voxels (z, y, x); returns what `Base.find` takes. Only precomputed volumes know their offset."""
    where = f"{folder}/{format}"
    if format in ("precomputed", "sharded"):
        _precomputed(where, voxels, offset, levels, sharded=format == "sharded")
    elif format == "hdf5":
        import h5py

        where += ".h5"
        with h5py.File(where, "w") as file:
            file.create_dataset("seg", data=voxels, chunks=tuple(min(16, n) for n in voxels.shape))
    elif format == "ome":
        _ome(where, voxels, levels)
    else:
        _array(where, voxels, format)
    return where


def _array(where, voxels, format):
    driver = {"zarr2": "zarr", "zarr3": "zarr3", "n5": "n5"}[format]
    order = voxels.transpose() if format == "n5" else voxels  # N5 lists x first
    spec = {"driver": driver, "kvstore": f"file://{where}/"}
    layout = ts.ChunkLayout(chunk_shape=[min(20, n) for n in order.shape])
    ts.open(spec, create=True, dtype=voxels.dtype.name, shape=order.shape, chunk_layout=layout).result().write(
        order
    ).result()


def _ome(where, voxels, levels):
    import zarr

    group = zarr.open_group(where, mode="w", zarr_format=3)
    for level in range(levels + 1):
        group.create_array(f"s{level}", data=voxels, chunks=(16, 16, 16))
        voxels = coarser(voxels).astype(voxels.dtype) if level < levels else voxels
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    datasets = [
        {"path": f"s{s}", "coordinateTransformations": [{"type": "scale", "scale": [8.0 * 2**s] * 3}]}
        for s in range(levels + 1)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def _precomputed(where, voxels, offset, levels, *, sharded=False):
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "minishard_bits": 1,
        "shard_bits": 1,
        "hash": "identity",
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }
    for level in range(levels + 1):
        chunk = [16, 16, 16] if sharded else [20, 24, 16]
        metadata = {
            "size": list(voxels.shape[::-1]),
            "voxel_offset": [int(o) >> level for o in offset[::-1]],
            "resolution": [8 << level] * 3,
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
            "chunk_size": chunk,
            **({"sharding": sharding} if sharded else {}),
        }
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{where}/",
            "multiscale_metadata": {"type": "segmentation", "data_type": voxels.dtype.name, "num_channels": 1},
            "scale_metadata": metadata,
        }
        array = ts.open(spec, create=True).result()
        array[..., 0].write(voxels.transpose()).result()
        voxels = coarser(voxels).astype(voxels.dtype) if level < levels else voxels


def adopted_model(model, voxels, offset):
    """What a model says once its voxels are those of a base that stands at `offset` in its grid."""
    start = np.array(offset) - model.grid.offset
    model.voxels[tuple(slice(s, s + n) for s, n in zip(start, voxels.shape, strict=True))] = voxels
    for at in np.ndindex(*model.grid.blocks):
        if model.voxels[model.grid.box(at, (1, 1, 1))].any():
            model.stored.add(tuple(int(f + a) for f, a in zip(model.grid.first, at, strict=True)))
    model.grow(tuple(map(int, offset)), tuple(int(o + n - 1) for o, n in zip(offset, voxels.shape, strict=True)))
    model.named(int(voxels.max()))
