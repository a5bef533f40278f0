"""What the label index, the mapping and the voxels are read through."""

from __future__ import annotations

from typing import TypeAlias

from dvid_dask.versions.space import Space, TxSpace

__all__ = ["AnySpace"]

AnySpace: TypeAlias = Space | TxSpace
"""A pinned view of an instance's keys, or those keys inside a transaction."""
