"""The labelmap: a segmentation of supervoxels, agglomerated into bodies, at one version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dvid_dask.datatypes.base import register
from dvid_dask.datatypes.labelmap import extents, keys
from dvid_dask.datatypes.labelmap.merges import merge_labelmaps
from dvid_dask.datatypes.labelmap.methods.grids import Grids
from dvid_dask.datatypes.labelmap.methods.history import History
from dvid_dask.datatypes.labelmap.methods.index import IndexAccess
from dvid_dask.datatypes.labelmap.methods.nearness import Nearness
from dvid_dask.datatypes.labelmap.methods.tables import Tables
from dvid_dask.datatypes.labelmap.methods.undoing import Undoing
from dvid_dask.datatypes.labelmap.methods.writing import VoxelWrites
from dvid_dask.datatypes.labelmap.verify import Problem, verify

if TYPE_CHECKING:
    from dvid_dask.versions.meaning import MergeStep

__all__ = ["LabelMap"]


@register
class LabelMap(VoxelWrites, IndexAccess, Undoing, Grids, History, Nearness, Tables):
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
    merges_by_meaning: ClassVar[bool] = True

    def verify(self) -> Iterator[Problem]:
        """What in this version doesn't agree: index, voxels, mapping, sums, scales. Nothing, if all is well."""
        return verify(self.view(), self.layout, indexed=self.indexed)

    def disagreements(self) -> Iterator[str]:
        """`verify`, in words."""
        return (f"{problem.kind}: {problem.text}" for problem in self.verify())

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """A changed key in a labelmap's words: a block of voxels, a body, a page of the mapping; None for the rest."""
        kind = key[:1]
        if kind == keys.BLOCK:
            z, y, x = keys.blocks_of([key])[0].tolist()
            return {"block": (z, y, x), "scale": key[1]}
        if kind == keys.BODY:
            return {"body": keys.body_of(key)}
        if kind == keys.MAPPING:
            first = keys.mapping_page_of(key) << keys.MAPPING_BITS
            return {"mapping": (first, first + (1 << keys.MAPPING_BITS) - 1)}
        return None

    def carried_together(self, key: bytes) -> bool:
        """Voxels, index and mapping belong together; extents and the largest label stand for themselves."""
        return key[:1] != keys.EXTENTS[:1]

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """Extents are united, of largest labels the largest counts; all else is a conflict."""
        present = [v for v in values if v is not None]
        if present and key == keys.EXTENTS:
            return extents.united(present)
        if present and key.startswith(keys.MAX_LABEL):
            return max(present)
        return super().merge_value(key, base, values)

    def merge_versions(self, step: MergeStep) -> None:
        """Carry out what the other parent has edited; see `dvid_dask.datatypes.labelmap.merges`."""
        merge_labelmaps(self, step)
