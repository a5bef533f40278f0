"""Packed tables (`dvid_dask.formats.columns`) as a labelmap stores them: pages of index, mapping and supervoxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dvid_dask.datatypes.labelmap.errors import DamagedDataError
from dvid_dask.formats import columns
from dvid_dask.formats._jit import kernel
from dvid_dask.formats.columns import pack, pack_groups
from dvid_dask.formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["pack", "pack_groups", "rows_with", "unpack", "unpack_groups"]


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


@kernel
def rows_with(ids: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Rows whose id, in a column of a table, is one of the wanted, which ascend."""
    found = np.empty(ids.size, np.int64)
    n = 0
    for i in range(ids.size):
        low, high = 0, wanted.size
        while low < high:
            middle = (low + high) // 2
            if wanted[middle] < ids[i]:
                low = middle + 1
            else:
                high = middle
        if low < wanted.size and wanted[low] == ids[i]:
            found[n] = i
            n += 1
    return found[:n]
