"""Keys of a labelvol inside its instance's key space: a class letter, then what identifies the value.

=====  ===================================  =======================================================
class  key                                  value
=====  ===================================  =======================================================
``R``  label (8), block z, y, x (4 each)    zstd of the label's runs in the block
``X``  ``max``, version (4)                 the largest label of a version itself
=====  ===================================  =======================================================

Numbers are big-endian, coordinates shifted by 2**31, so keys sort by label, z, y, x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["MAX_LABEL", "RUNS", "blocks_of", "label", "label_of", "max_label", "plane", "runs", "version_of"]

RUNS = b"R"
MAX_LABEL = b"Xmax"

_SHIFT = 1 << 31


def label(number: int) -> bytes:
    """Prefix of all runs of a label."""
    return RUNS + number.to_bytes(8, "big")


def label_of(key: bytes) -> int:
    """The label of a key of runs."""
    return int.from_bytes(key[1:9], "big")


def plane(number: int, z: int) -> bytes:
    """Where the runs of a label begin in the blocks of a z; z may be out of range."""
    if z >= _SHIFT:
        return label(number) + b"\xff" * 13
    return label(number) + (max(z, -_SHIFT) + _SHIFT).to_bytes(4, "big")


def runs(number: int, block_zyx: ArrayLike) -> list[bytes]:
    """Keys of the runs of a label in blocks (z, y, x).

    Examples
    --------
    >>> runs(7, [[0, -1, 2]])[0].hex()
    '520000000000000007800000007fffffff80000002'
    """
    prefix = label(number)
    shifted = (np.asarray(block_zyx, np.int64).reshape(-1, 3) + _SHIFT).astype(">u4")
    data = shifted.tobytes()
    return [prefix + data[12 * i : 12 * i + 12] for i in range(len(shifted))]


def blocks_of(keys: Sequence[bytes]) -> NDArray[np.int32]:
    """Blocks (z, y, x) of keys of runs."""
    shifted = np.frombuffer(b"".join(k[9:21] for k in keys), ">u4").reshape(-1, 3)
    return (shifted.astype(np.int64) - _SHIFT).astype(np.int32)


def max_label(vid: int) -> bytes:
    """Key of the largest label of a version."""
    return MAX_LABEL + vid.to_bytes(4, "big")


def version_of(key: bytes) -> int:
    """The version of a key of `max_label`."""
    return int.from_bytes(key[-4:], "big")
