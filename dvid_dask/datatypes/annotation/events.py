"""What an annotation tells the instances that follow it; see `dvid_dask.datatypes.events`."""

from dvid_dask.datatypes.events import (
    ElementsFiled,
    FiledPart,
    ListsReplaced,
)

__all__ = [
    "ElementsFiled",
    "FiledPart",
    "ListsReplaced",
]
