"""What can be wrong with stored lists of elements, apart from the errors all datatypes share."""

from __future__ import annotations

from dvid_dask.errors import DvidError

__all__ = ["DamagedListError"]


class DamagedListError(DvidError, RuntimeError):
    """A stored list doesn't decode: the store is damaged or was written by something else. Run `fsck`."""

    status = 500
