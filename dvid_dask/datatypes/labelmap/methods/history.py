"""What happened to a labelmap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping
from dvid_dask.datatypes.labelmap.methods.bodies import Bodies

if TYPE_CHECKING:
    from dvid_dask.versions import Version

__all__ = ["History"]


class History(Bodies):
    """The edits that led to a version."""

    def body_history(self, body: int, begin: Version) -> Iterator[dict[str, Any]]:
        """The edits from version `begin` to this one that the supervoxels of a body went through, oldest first.

        Splits of supervoxels are told if the body holds what came of them; the other edits by the bodies that these
        supervoxels had at `begin` and since.
        """
        held = Index(self.view()).supervoxels(self.resolve(body)[0])
        path: list[Version] = []
        for version in self.version.path_to_root():
            path.append(version)
            if version == begin:
                break
        start = path[-1][self.name]
        if not isinstance(start, History) or held is None:
            return
        records = [r for version in reversed(path) for r in version[self.name].mutations()]
        mine = _with_ancestors(set(held.id.tolist()), records)
        then = LabelMapping(start.view()).bodies(np.array(sorted(mine), np.uint64))
        bodies = {*then.tolist(), body}
        for record in records:
            told = _told(record)
            if told is None:
                continue
            if told["Action"] == "split-supervoxel":
                if told["Supervoxel"] in mine:
                    yield told
            elif told.get("Target", told.get("OrigLabel")) in bodies:
                yield told
                bodies.add(told.get("CleavedLabel", told.get("Target")))


def _with_ancestors(supervoxels: set[int], records: list[dict[str, Any]]) -> set[int]:
    """The supervoxels, and those that they were cut from."""
    for record in reversed(records):
        for old, parts in record.get("SVSplits", {}).items():
            if supervoxels & set(parts.values()):
                supervoxels.add(int(old))
        if "SplitSupervoxel" in record and supervoxels & {record["SplitSupervoxel"], record["RemainSupervoxel"]}:
            supervoxels.add(record["Supervoxel"])
    return supervoxels


def _told(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record of the mutation log as `history` tells it."""
    action = str(record.get("Action", "")).removesuffix("-complete")
    told = _TOLD.get(action)
    if told is None:
        return None
    fixed = {"Coarse": False} if action == "split" else {}
    return {"Action": action, **{f: record[f] for f in told if f in record}, **fixed}


_TOLD = {
    "merge": ("Target", "Labels"),
    "cleave": ("OrigLabel", "CleavedLabel", "CleavedSupervoxels", "DataRef"),
    "split": ("Target", "NewLabel"),
    "split-supervoxel": ("Supervoxel", "SplitSupervoxel", "RemainSupervoxel"),
}
