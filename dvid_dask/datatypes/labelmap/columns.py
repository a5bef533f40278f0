"""Packed tables (`dvid_dask.formats.columns`) as a labelmap stores them: pages of index, mapping and supervoxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.formats import columns
from dvid_dask.formats.columns import pack, pack_groups
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["pack", "pack_groups", "unpack", "unpack_groups"]


def unpack(data: bytes | memoryview, columns_: int) -> NDArray[np.uint64]:
    """`dvid_dask.formats.columns.unpack` of stored bytes.

    Raises
    ------
    DamagedDataError
        If the bytes are not such a table.
    """
    try:
        return columns.unpack(data, columns_)
    except FormatError as e:
        raise DamagedDataError(f"the label index: {e}") from e


def unpack_groups(data: Sequence[bytes | memoryview], columns_: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """`dvid_dask.formats.columns.unpack_groups` of stored bytes.

    Raises
    ------
    DamagedDataError
        As `unpack`.
    """
    try:
        return columns.unpack_groups(data, columns_)
    except FormatError as e:
        raise DamagedDataError(f"the label index: {e}") from e
