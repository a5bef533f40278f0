"""What a labelmap is made of: settings, extents, counters of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dvid_dask.boxes import Box
from dvid_dask.datatypes.labelmap import extents
from dvid_dask.datatypes.labelmap.adopted import AdoptedSpace, AdoptedTxSpace
from dvid_dask.datatypes.labelmap.blocks import Layout
from dvid_dask.datatypes.labelmap.counters import NextLabels
from dvid_dask.datatypes.labelmap.settings import changed_settings, new_settings
from dvid_dask.datatypes.labelmap.steps import Step, encode_steps, summary_of
from dvid_dask.datatypes.volume import Volume
from dvid_dask.errors import BadRequest
from dvid_dask.versions.records import go_time, now

if TYPE_CHECKING:
    from datetime import datetime

    from dvid_dask.datatypes.base import Mutation, Space, TxSpace
    from dvid_dask.store import Transaction, View

__all__ = ["Instance"]


Point = tuple[int, int, int]


class Instance(Volume):
    """Settings, extents and ids of a labelmap at a version."""

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `dvid_dask.datatypes.labelmap.settings`."""
        return new_settings(config)

    def space_in(self, state: View) -> Space:
        """The instance's keys in a state of a tree; see `dvid_dask.datatypes.labelmap.adopted`."""
        base = self.base_volume
        if base is None:
            return super().space_in(state)
        return AdoptedSpace(state, self.info.prefix, base, self.layout)

    def tx_space_in(self, tx: Transaction) -> TxSpace:
        """The instance's keys in a transaction; see `dvid_dask.datatypes.labelmap.adopted`."""
        base = self.base_volume
        if base is None:
            return super().tx_space_in(tx)
        return AdoptedTxSpace(tx, self.info.prefix, base, self.layout)

    @property
    def layout(self) -> Layout:
        """Block shape (z, y, x) and number of coarser scales."""
        x, y, z = self.info.settings["BlockSize"]
        return Layout((z, y, x), self.info.settings["MaxDownresLevel"])

    @property
    def block_shape(self) -> Point:
        """Voxels of a block (z, y, x)."""
        return self.layout.block_shape

    @property
    def indexed(self) -> bool:
        """Whether a label index is kept."""
        return bool(self.info.settings["IndexedLabels"])

    @property
    def next_labels(self) -> NextLabels:
        """The counters of ids, shared by all versions."""
        return NextLabels(self.repo, self.info.data_uuid)

    def change_settings(self, config: Mapping[str, Any]) -> None:
        """Change settings from a configuration of strings, names in any case. They hold at all versions.

        Raises
        ------
        BadRequest
            When a value can't be used, or the block size of an instance with voxels would change.
        """
        changes = changed_settings(config)
        if changes.get("BlockSize", self.info.settings["BlockSize"]) != self.info.settings["BlockSize"] and (
            self.next_labels.largest or self.extents is not None
        ):
            raise BadRequest("BlockSize can't be changed once voxels are stored: make another instance")
        self.update_settings(**changes)

    def set_resolution(self, size_xyz: Sequence[float]) -> None:
        """Set the size of a voxel (x, y, z), at all versions."""
        self.update_settings(VoxelSize=[float(v) for v in size_xyz])

    @property
    def extents(self) -> Box | None:
        """The box (z, y, x) of what was written at this version or its ancestors, or as set; None if there is none."""
        held = extents.read_extents(self.view())
        settings = self.info.settings
        if held is None and settings.get("MinPoint") and settings.get("MaxPoint"):
            held = Box.of(settings["MinPoint"][::-1], [v + 1 for v in settings["MaxPoint"][::-1]])
        return held

    def set_extents(
        self, min_point: Sequence[int], max_point: Sequence[int], *, user: str = "", app: str = "", force: bool = False
    ) -> None:
        """Set the extents of this version: first and last voxel (x, y, z), both inclusive."""
        new = Box.of(list(min_point)[::-1], [v + 1 for v in list(max_point)[::-1]])
        self.mutate(lambda _, space: extents.set_extents(space, new), user=user, app=app, force=force)

    def extended(self) -> dict[str, Any]:
        """The labelmap's part of ``info``."""
        largest = extents.max_label(self.view())
        labels = self.next_labels
        return {
            **self._properties(),
            "MaxLabel": {str(self.version.id): largest} if largest else {},
            "MaxRepoLabel": labels.largest,
            "NextLabel": labels.chosen,
            "IndexedLabels": self.indexed,
            "MaxDownresLevel": self.layout.levels,
        }

    def _properties(self) -> dict[str, Any]:
        settings = self.info.settings
        first, last = self._corners()
        block = settings["BlockSize"]
        return {
            "Values": [{"DataType": "uint64", "Label": self.typename}],
            "Interpolable": False,
            "BlockSize": block,
            "VoxelSize": settings["VoxelSize"],
            "VoxelUnits": settings["VoxelUnits"],
            "MinPoint": first,
            "MaxPoint": last,
            "MinIndex": None if first is None else [p // b for p, b in zip(first, block, strict=True)],
            "MaxIndex": None if last is None else [p // b for p, b in zip(last, block, strict=True)],
            "Background": settings["Background"],
            "GridStore": settings["GridStore"],
            "ScaleLevel": settings["ScaleLevel"],
            **({} if self.base_volume is None else {"Base": self.base_volume.summary()}),
        }

    def _corners(self) -> tuple[list[int] | None, list[int] | None]:
        held = self.extents
        return (None, None) if held is None else (list(held.start[::-1]), [v - 1 for v in held.stop[::-1]])

    def describe(self) -> dict[str, Any]:
        """DVID's ``info`` of the instance."""
        first, last = self._corners()
        return {**super().describe(), "Extents": {"MinPoint": first, "MaxPoint": last}}

    def metadata(self) -> dict[str, Any]:
        """Axes with resolution, units and extents, as DVID's ``metadata``."""
        settings = self.info.settings
        first, last = self._corners()
        axes = [
            {
                "Label": name,
                "Resolution": settings["VoxelSize"][i],
                "Units": settings["VoxelUnits"][i],
                "Size": 0 if first is None or last is None else last[i] - first[i] + 1,
                "Offset": 0 if first is None else first[i],
            }
            for i, name in enumerate("XYZ")
        ]
        return {"Axes": axes, "Properties": self._properties()}

    # ------------------------------------------------------------------ ids

    def max_label(self) -> int:
        """The largest label of this version and its ancestors, 0 if there is none."""
        return extents.max_label(self.view())

    def raise_max_label(self, label: int, *, force: bool = False) -> None:
        """Make the largest label of this version at least `label`."""
        self.next_labels.raise_to(label)

        def change(m: Mutation, space: TxSpace) -> None:
            if extents.max_label(space) < label:
                extents.raise_max_label(space, label)
                m.report(self, {"Action": "post-maxlabel", "MaxLabel": label, **self._when(m.time)})

        self.mutate(change, force=force)

    def allocate_labels(self, n: int = 1, *, force: bool = False) -> tuple[int, int]:
        """Reserve `n` ids that nobody else gets; first and last.

        Raises
        ------
        BadRequest
            If `n` is not positive or the ids run out.
        """
        self.check_open(force)
        first, last = self.next_labels.allocate(n, above=self.max_label())

        def change(m: Mutation, space: TxSpace) -> None:
            extents.raise_max_label(space, last)
            m.report(self, {"Action": "post-nextlabel", "Start Label": first, "End Label": last, **self._when(m.time)})

        self.mutate(change, force=force)
        return first, last

    def set_next_label(self, label: int, ceiling: int | None = None) -> None:
        """Hand out ids after `label` from now on, at all versions; nothing checks whether they are unused.

        Parameters
        ----------
        label
            1 to 2**64 - 2.
        ceiling
            Last id to hand out; 0 for none, None to keep what there is.

        Raises
        ------
        BadRequest
            If the label can't be used or lies above the ceiling.
        """
        self.next_labels.start_from(label, ceiling)
        limit = {} if ceiling is None else {"Ceiling": ceiling}
        self.tell({"Action": "setnextlabel", "Next Label": label, **limit, **self._when(now())})

    def _keep_undo(self, m: Mutation, action: str, steps: list[Step], mutation: int = 0) -> None:
        """Keep the steps that take a mutation back."""
        m.keep_undo(self, action, encode_steps(steps), mutation, summary=summary_of(steps))

    def _when(self, moment: datetime) -> dict[str, Any]:
        return {"Timestamp": go_time(moment), "UUID": self.version.uuid}

    def _vid(self) -> int:
        """Id of the version that a change is of: the root's for an unversioned instance."""
        return self.version.id if self.info.versioned else self.repo[self.repo.root].id
