"""Datatypes: what a data instance can do. One module or package each; numpy in and out (z, y, x), no HTTP, no Dask."""

from dvid_dask.versions import registry
from dvid_dask.versions.registry import lookup, register, typenames

__all__ = ["LABEL_VOLUMES", "lookup", "register", "typenames"]

_IMAGES = ("uint8blk", "uint16blk", "uint32blk", "uint64blk", "float32blk", "rgba8blk", "multichan16")

#: Types of volumes whose voxels are labels.
LABEL_VOLUMES = ("labelmap", "labelarray", "labelblk")

registry.declare(
    {
        "annotation": "dvid_dask.datatypes.annotation",
        "googlevoxels": "dvid_dask.datatypes.googlevoxels",
        "imagetile": "dvid_dask.datatypes.imagetile",
        "keyvalue": "dvid_dask.datatypes.keyvalue",
        "labelsz": "dvid_dask.datatypes.labelsz",
        "labelvol": "dvid_dask.datatypes.labelvol",
        "neuronjson": "dvid_dask.datatypes.neuronjson",
        "roi": "dvid_dask.datatypes.roi",
        "tarsupervoxels": "dvid_dask.datatypes.tarsupervoxels",
        **dict.fromkeys(_IMAGES, "dvid_dask.datatypes.imageblk"),
        **dict.fromkeys(LABEL_VOLUMES, "dvid_dask.datatypes.labelmap"),
    }
)
