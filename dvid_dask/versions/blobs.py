"""Blobs by content: DVID's references are the 128-bit FNV-1 hash of the bytes, in URL-safe base64.

One space for all repositories and instances of a store. A blob never changes, so it is written at most once.

Sources
-------
FNV-1: http://www.isthe.com/chongo/tech/comp/fnv/index.html (128 bits: prime 2**88 + 0x13b).
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest

if TYPE_CHECKING:
    from dvid_dask.store import Transaction, Tree

__all__ = ["Blobs", "reference", "reference_bytes"]

TREE = "blobs"

_OFFSET = 0x6C62272E07BB014262B821756295C58D
_PRIME = (1 << 88) + 0x13B
_MASK = (1 << 128) - 1
#: Below this many bytes Python's integers are faster than loading the compiled loop.
_SMALL = 4096


def fnv1_128(data: bytes) -> int:
    """128-bit FNV-1 hash.

    Examples
    --------
    >>> hex(fnv1_128(b""))
    '0x6c62272e07bb014262b821756295c58d'
    >>> fnv1_128(b"x" * 5000) == fnv1_128(b"x" * 4999) * _PRIME % 2**128 ^ ord("x")
    True
    """
    if len(data) < _SMALL:
        state = _OFFSET
        for byte in data:
            state = state * _PRIME & _MASK ^ byte
        return state
    import numpy as np

    from dvid_dask.versions._fnv import fnv1

    high, low = fnv1(np.frombuffer(data, np.uint8), np.uint64(_OFFSET >> 64), np.uint64(_OFFSET & (1 << 64) - 1))
    return int(high) << 64 | int(low)


def reference(data: bytes) -> str:
    """DVID's reference of a blob.

    Examples
    --------
    >>> reference(b"hello")
    '8UtYSGSD2U9wgDh5jClpfw=='
    """
    return base64.urlsafe_b64encode(fnv1_128(data).to_bytes(16, "big")).decode()


def reference_bytes(ref: str) -> bytes:
    """The hash in a reference.

    Raises
    ------
    BadRequest
        When it is no URL-safe base64 text.
    """
    try:
        return base64.b64decode(ref.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadRequest(f"blob reference {ref!r} is no URL-safe base64 text: {error}") from None


class Blobs:
    """The blobs of a store."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def put(self, data: bytes) -> str:
        """Keep a blob; returns its reference. Bytes that are there already are not written again."""
        ref = reference(data)
        key = b"b/" + reference_bytes(ref)
        if self._tree.view(60).get(key) is None:

            def write(tx: Transaction) -> None:
                tx.put(key, data)

            self._tree.update(write)
        else:
            self._tree.settle()
        return ref

    def get(self, ref: str) -> bytes | None:
        """The bytes behind a reference; None when it is unknown or the blob is empty, as DVID has it.

        Raises
        ------
        BadRequest
            When `ref` is no URL-safe base64 text.
        """
        key = b"b/" + reference_bytes(ref)
        data = self._tree.view(60).get(key)
        if data is None:
            data = self._tree.view(0).get(key)
        return data or None
