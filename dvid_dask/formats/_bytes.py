"""What all modules here mean by bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Buffer", "as_uint8"]

Buffer: TypeAlias = bytes | bytearray | memoryview


def as_uint8(data: Buffer) -> NDArray[np.uint8]:
    """The bytes as a read-only array, without a copy.

    Read-only also when the memory isn't: compiled kernels then see one type and are compiled once.
    """
    array: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    array.flags.writeable = False
    return array
