"""Volumes as other programs leave them: written with zarr-python, tensorstore and h5py, not with ours.

Each writer takes a folder and voxels (z, y, x) and gives the path of the volume, below the folder, as `Base.find` takes
it. Volumes with scales have means of 2 x 2 x 2 voxels, or every second voxel for labels.
"""

from __future__ import annotations

import h5py
import numpy as np
import tensorstore as ts
import zarr


def halves(voxels, scales=3):
    """The voxels, and coarser ones."""
    out = [voxels]
    for _ in range(scales - 1):
        out.append(np.ascontiguousarray(out[-1][::2, ::2, ::2]))
    return out


def _write(spec, array):
    ts.open({**spec, "create": True}).result().write(array).result()


def zarr2(folder, voxels, chunk=16, **more):
    array = zarr.create_array(
        str(folder / "v.zarr2"), shape=voxels.shape, chunks=(chunk,) * 3, dtype=voxels.dtype, zarr_format=2, **more
    )
    array[:] = voxels
    return "v.zarr2"


def zarr3(folder, voxels, chunk=16, **more):
    array = zarr.create_array(
        str(folder / "v.zarr"), shape=voxels.shape, chunks=(chunk,) * 3, dtype=voxels.dtype, **more
    )
    array[:] = voxels
    return "v.zarr"


def zarr3_sharded(folder, voxels):
    zarr3(folder, voxels, chunk=8, shards=(32, 32, 32))
    return "v.zarr"


def ome4(folder, voxels):
    """OME-Zarr 0.4 (zarr 2) with time and channel, micrometres, and a translation of 8 voxels in x."""
    group = zarr.create_group(str(folder / "ome4.zarr"), zarr_format=2)
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    datasets = []
    for i, level in enumerate(halves(voxels)):
        array = group.create_array(f"s{i}", shape=(1, 1, *level.shape), chunks=(1, 1, 16, 16, 16), dtype=level.dtype)
        array[0, 0] = level
        size = [1, 1, *(0.008 * 2**i,) * 3]
        moves = [{"type": "scale", "scale": size}, {"type": "translation", "translation": [0, 0, 0, 0, 0.064]}]
        datasets.append({"path": f"s{i}", "coordinateTransformations": moves})
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return "ome4.zarr"


def ome5(folder, voxels):
    """OME-Zarr 0.5 (zarr 3), whose second scale halves y and x alone, as stacks of sections do."""
    group = zarr.create_group(str(folder / "ome5.zarr"))
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    datasets = []
    for i, (level, size) in enumerate([(voxels, (16, 8, 8)), (voxels[:, ::2, ::2], (16, 16, 16))]):
        array = group.create_array(str(i), shape=level.shape, chunks=(16, 16, 16), dtype=level.dtype)
        array[:] = level
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": list(size)}]})
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return "ome5.zarr"


def n5(folder, voxels):
    _n5(folder / "v.n5", voxels)
    return "v.n5"


def n5_scales(folder, voxels):
    """As Fiji's n5-viewer writes scales."""
    import json

    for i, level in enumerate(halves(voxels)):
        _n5(folder / "m.n5" / f"s{i}", level)
        file = folder / "m.n5" / f"s{i}" / "attributes.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "downsamplingFactors": [2**i] * 3}))
    size = {"unit": "nm", "dimensions": [8, 8, 8]}
    (folder / "m.n5" / "attributes.json").write_text(json.dumps({"n5": "2.0.0", "pixelResolution": size}))
    return "m.n5"


def _n5(path, voxels):
    meta = {
        "dimensions": voxels.shape[::-1],
        "blockSize": [16, 16, 16],
        "dataType": voxels.dtype.name,
        "compression": {"type": "gzip"},
    }
    _write({"driver": "n5", "kvstore": path.as_uri() + "/", "metadata": meta}, voxels.transpose(2, 1, 0))


SHARDS = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "minishard_bits": 2,
    "shard_bits": 1,
    "hash": "identity",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


def _precomputed(path, voxels, encoding, offset=(0, 0, 0), scales=1, **more):
    """Offset in z, y, x."""
    kind = "segmentation" if encoding == "compressed_segmentation" else "image"
    for i, level in enumerate(halves(voxels, scales)):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": path.as_uri() + "/",
            "multiscale_metadata": {"type": kind, "data_type": voxels.dtype.name, "num_channels": 1},
            "scale_metadata": {
                "size": level.shape[::-1],
                "voxel_offset": [v // 2**i for v in offset[::-1]],
                "resolution": [8 * 2**i] * 3,
                "chunk_size": [16, 16, 16],
                "encoding": encoding,
                **more,
            },
        }
        _write(spec, level.transpose(2, 1, 0)[..., None])


def precomputed(folder, voxels):
    _precomputed(folder / "raw", voxels, "raw", offset=(8, -4, 16), scales=3)
    return "raw"


def precomputed_sharded(folder, voxels):
    _precomputed(folder / "shards", voxels, "raw", sharding=SHARDS)
    return "shards"


def precomputed_segmentation(folder, voxels):
    block = {"compressed_segmentation_block_size": [8, 8, 8]}
    _precomputed(folder / "seg", voxels, "compressed_segmentation", scales=2, sharding=SHARDS, **block)
    return "seg"


def precomputed_jpeg(folder, voxels):
    _precomputed(folder / "jpeg", voxels, "jpeg", jpeg_quality=95)
    return "jpeg"


def hdf5(folder, voxels):
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("em/gray", data=voxels, chunks=tuple(min(16, n) for n in voxels.shape), compression="gzip")
    return "v.h5"
