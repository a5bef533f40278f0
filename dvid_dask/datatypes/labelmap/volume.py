"""What labelmap, labelarray and labelblk are alike: volumes of labels in blocks; with an index, of bodies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dvid_dask.datatypes.labelmap import extents, keys
from dvid_dask.datatypes.labelmap.merges import merge_labelmaps
from dvid_dask.datatypes.labelmap.methods.grids import Grids
from dvid_dask.datatypes.labelmap.methods.nearness import Nearness
from dvid_dask.datatypes.labelmap.methods.tables import Tables
from dvid_dask.datatypes.labelmap.methods.undoing import Undoing
from dvid_dask.datatypes.labelmap.methods.writing import VoxelWrites
from dvid_dask.datatypes.labelmap.verify import Problem, verify

if TYPE_CHECKING:
    from dvid_dask.versions.meaning import MergeStep

__all__ = ["BodyVolume", "LabelVolume"]


class LabelVolume(VoxelWrites, Undoing):
    """A volume of labels at one version: its voxels, what can be wrong with them, versions against each other."""

    merges_by_meaning: ClassVar[bool] = True

    def verify(self) -> Iterator[Problem]:
        """What in this version doesn't agree: index, voxels, mapping, sums, scales. Nothing, if all is well."""
        return verify(self.view(), self.layout, indexed=self.indexed, made=self._made_here())

    def _made_here(self) -> Iterator[int]:
        """Bodies that edits of this version made, by its log; an undo gives back ids that were somebody's before."""
        fields = {"cleave-complete": "CleavedLabel", "split-complete": "NewLabel", "renumber-complete": "NewLabel"}
        for record in self.mutations():
            field = fields.get(str(record.get("Action")))
            if field in record and "Undoes" not in record:
                yield int(record[field])

    def disagreements(self) -> Iterator[str]:
        """`verify`, in words."""
        return (f"{problem.kind}: {problem.text}" for problem in self.verify())

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """A changed key in words: a block of voxels, a body, a page of the mapping; None for the rest."""
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
        if present and key.startswith((keys.MAX_LABEL, keys.OWN_MAX)):
            return max(present)
        return super().merge_value(key, base, values)

    def merge_versions(self, step: MergeStep) -> None:
        """Carry out what the other parent has edited; see `dvid_dask.datatypes.labelmap.merges`."""
        merge_labelmaps(self, step)


class BodyVolume(LabelVolume, Grids, Nearness, Tables):
    """A volume of labels with an index that tells which body is where: labelmap and labelarray."""
