"""What the edits of labels share: who did it, and what the mutation log says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.datatypes.labelmap.index import Stamp
from dvid_dask.datatypes.labelmap.methods.instance import Instance
from dvid_dask.versions.records import go_time, rfc3339

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dvid_dask.datatypes.base import Mutation

__all__ = ["MAX_MESSAGE", "Recording"]

#: Fields of a mutation's record that are known only when it is done.
_AT_THE_END = frozenset({"CleavedSize", "RemainSize", "SplitSize"})

MAX_MESSAGE = 980 * 1024
"""Bytes of a mutation's record from which on its list of supervoxels is kept as a blob, as in DVID."""


class Recording(Instance):
    """Edits are stamped and logged."""

    def _told(self, supervoxels: NDArray[np.uint64]) -> dict[str, Any]:
        """Cleaved supervoxels as the log tells them: a long list is a blob."""
        fields: dict[str, Any] = {"CleavedSupervoxels": supervoxels.tolist()}
        if len(encoded := msgspec.json.encode(fields)) > MAX_MESSAGE:
            return {"DataRef": self.version.datastore.put_blob(encoded)}
        return fields

    @staticmethod
    def _stamp(m: Mutation, mutation: int | None = None) -> Stamp:
        return Stamp(m.id if mutation is None else mutation, rfc3339(m.time), m.user, m.app)

    def _log(self, m: Mutation, action: str, mutation: int | None = None, **fields: Any) -> None:
        """Add a record to the mutation log, in DVID's form."""
        record = {
            "Action": action,
            "MutationID": m.id if mutation is None else mutation,
            "UUID": self.version.uuid,
            "Timestamp": go_time(m.time),
            **({"User": m.user} if m.user else {}),
            **({"App": m.app} if m.app else {}),
            **fields,
        }
        record = dict(sorted(record.items()))
        if m.watched and action.endswith("-complete"):
            begun = {k: v for k, v in record.items() if k not in _AT_THE_END}
            m.announce(self, begun | {"Action": action.removesuffix("-complete")})
        m.log(self, record)
