"""Keys of values in the store: a class letter, then the key in UTF-8."""

from __future__ import annotations

from dvid_dask.errors import BadRequest

__all__ = ["KEYS", "MAX_KEY", "decode_key", "encode_key"]

KEYS = b"k"

MAX_KEY = 4096
"""Longest key, in bytes of UTF-8. Keys share the nodes of the tree, so a longer one would slow down its neighbours."""


def encode_key(key: str) -> bytes:
    """The stored form of a key.

    Raises
    ------
    BadRequest
        It is empty, holds NUL, is no Unicode text, or is longer than 4096 bytes.
    """
    if not isinstance(key, str):
        raise BadRequest(f"a key is a string, not {type(key).__name__}")
    if not key or "\0" in key:
        raise BadRequest(f"key {key!r} can't be used: expected at least one character and no NUL")
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"key {key!r} is no valid Unicode text: {error}") from None
    if len(data) > MAX_KEY:
        raise BadRequest(f"key {key[:40]!r}... has {len(data)} bytes: {MAX_KEY} are possible")
    return KEYS + data


def decode_key(key: bytes) -> str:
    """The inverse of `encode_key`."""
    return key[1:].decode()
