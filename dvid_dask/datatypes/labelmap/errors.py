"""What can be wrong with stored data of a labelmap, apart from the errors all datatypes share."""

from __future__ import annotations

from dvid_dask.errors import DvidError

__all__ = ["DamagedDataError"]


class DamagedDataError(DvidError, RuntimeError):
    """A stored value doesn't decode: the store is damaged or was written by something else. Run `fsck`."""

    status = 500
