"""What can be wrong with stored data of a labelmap, apart from the errors all datatypes share."""

from __future__ import annotations

__all__ = ["DamagedData"]


class DamagedData(RuntimeError):
    """A stored value doesn't decode: the store is damaged or was written by something else. Run `fsck`."""
