"""The labelmap: a segmentation of supervoxels, agglomerated into bodies, at one version."""

from __future__ import annotations

from typing import ClassVar

from dvid_dask.datatypes.base import register
from dvid_dask.datatypes.labelmap.methods.history import History
from dvid_dask.datatypes.labelmap.methods.index import IndexAccess
from dvid_dask.datatypes.labelmap.methods.splitting import Splitting
from dvid_dask.datatypes.labelmap.volume import BodyVolume

__all__ = ["LabelMap"]


@register
class LabelMap(BodyVolume, IndexAccess, Splitting, History):
    """A segmentation at one version. Arrays are (z, y, x) uint64, coordinates voxels, signed 32-bit.

    Voxels hold supervoxels; a mapping says which body each belongs to. Indexing reads bodies:

    Examples
    --------
    >>> import dvid_dask
    >>> import numpy as np
    >>> v = dvid_dask.create("memory://").new_repo("fly")["master"]
    >>> seg = v.repo.new_instance("labelmap", "segmentation", {"BlockSize": "16,16,16", "MaxDownresLevel": "1"})
    >>> labels = np.zeros((16, 16, 32), np.uint64)
    >>> labels[:, :, 4:10], labels[:, :, 10:20] = 7, 9
    >>> seg.write(labels, (0, 0, 0))
    >>> seg.sizes([7, 9, 1]).tolist()
    [1536, 2560, 0]
    >>> int(seg.merge(7, [9])) >= 1_000_000_000
    True
    >>> seg[0, 0, 8:12], seg.supervoxels[0, 0, 8:12]
    (array([7, 7, 7, 7], dtype=uint64), array([7, 7, 9, 9], dtype=uint64))
    >>> seg.cleave(7, [9])[0], seg.size(7)
    (10, 1536)
    """

    typename: ClassVar[str] = "labelmap"
    typeurl: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelmap"
    typeversion: ClassVar[str] = "0.1"
    default_compression: ClassVar[str] = "gzip"
    sync_partners: ClassVar[frozenset[str] | None] = frozenset()
