"""Keys of an annotation inside its instance's key space: a class letter, then what identifies the value.

=====  =====================================  =================================================================
class  key                                    value
=====  =====================================  =================================================================
``B``  block z, y, x (4 each)                 its elements
``L``  body (8)                               list of a body: the directory of its pages, and what is in none
``T``  tag in UTF-8                           list of a tag, likewise
``P``  mutation (8), random (4), number (4)   page of a list
``W``  body (8)                               empty: its list was stored as given, whatever the blocks say
``X``  name                                   what the lists are valid for
=====  =====================================  =================================================================

Numbers are big-endian; coordinates are biased by 2**31, so that they sort as signed numbers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BLOCK",
    "GIVEN",
    "LABEL",
    "PAGE",
    "STATE",
    "TAG",
    "blocks",
    "blocks_of",
    "given",
    "label",
    "label_of",
    "page",
    "tag",
    "tag_of",
]

BLOCK = b"B"
LABEL = b"L"
TAG = b"T"
PAGE = b"P"
GIVEN = b"W"
STATE = b"Xstate"

_BIAS = 1 << 31


def blocks(block_zyx: ArrayLike) -> list[bytes]:
    """Keys of blocks (n, 3) (z, y, x).

    Examples
    --------
    >>> [k.hex() for k in blocks([[0, -1, 1]])]
    ['42800000007fffffff80000001']
    """
    data = (np.asarray(block_zyx, np.int64).reshape(-1, 3) + _BIAS).astype(">u4").tobytes()
    return [BLOCK + data[at : at + 12] for at in range(0, len(data), 12)]


def blocks_of(keys: Sequence[bytes]) -> NDArray[np.int32]:
    """int32 (n, 3): blocks (z, y, x) of keys."""
    data = np.frombuffer(b"".join(k[1:13] for k in keys), ">u4").astype(np.int64)
    return (data - _BIAS).astype(np.int32).reshape(-1, 3)


def label(body: int) -> bytes:
    """Key of a body's list."""
    return LABEL + body.to_bytes(8, "big")


def label_of(key: bytes) -> int:
    """The body of such a key, or of one of `given`."""
    return int.from_bytes(key[1:9], "big")


def tag(text: str) -> bytes:
    """Key of a tag's list."""
    return TAG + text.encode()


def tag_of(key: bytes) -> str:
    """The tag of such a key."""
    return key[1:].decode()


def given(body: int) -> bytes:
    """Key that says that a body's list was stored as given."""
    return GIVEN + body.to_bytes(8, "big")


def page(number: tuple[int, int]) -> bytes:
    """Key of a page."""
    return PAGE + number[0].to_bytes(8, "big") + number[1].to_bytes(8, "big")
