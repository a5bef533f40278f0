"""What happened to a labelmap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping as LabelMapping

if TYPE_CHECKING:
    from dvid_dask.versions import Version

from dvid_dask.datatypes.labelmap.methods.bodies import Bodies

__all__ = ["History"]


class History(Bodies):
    """The edits that led to a version."""

    def body_history(self, body: int, begin: Version) -> Iterator[dict[str, Any]]:
        """The edits from version `begin` to this one that the supervoxels of a body went through, oldest first.

        Merges and cleaves are told by the bodies that these supervoxels had at `begin` and since.
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
        bodies = {*LabelMapping(start.view()).bodies(held.id).tolist(), body}
        for version in reversed(path):
            for record in version[self.name].mutations():
                told = _told(record)
                if told is not None and told.get("Target", told.get("OrigLabel")) in bodies:
                    yield told
                    bodies.add(told.get("CleavedLabel", told.get("Target")))


def _told(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record of the mutation log as `history` tells it."""
    action = str(record.get("Action", "")).removesuffix("-complete")
    if action == "merge":
        return {"Action": action, "Target": record["Target"], "Labels": record["Labels"]}
    if action == "cleave":
        fields = ("OrigLabel", "CleavedLabel", "CleavedSupervoxels", "DataRef")
        return {"Action": action, **{f: record[f] for f in fields if f in record}}
    return None
