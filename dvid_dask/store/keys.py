"""Keys: byte strings in lexical order; those that begin with a zero byte are the store's own."""

from __future__ import annotations

#: First key that belongs to the store's users.
FIRST = b"\x01"

#: Where a sealed tree says so. The value is the tree's own name: a branch copies the key, and isn't sealed by it.
SEALED = b"\x00sealed"

#: Something random, written where what a journal held has changed nothing in the nodes: the manifest has to change.
FOLDED = b"\x00folded"


def prefix_end(prefix: bytes) -> bytes:
    r"""Return the exclusive end of the range of all keys that begin with `prefix`.

    An empty result means that the range has no end.

    Examples
    --------
    >>> prefix_end(b"ab")
    b'ac'
    >>> prefix_end(b"a\xff")
    b'b'
    >>> prefix_end(b"\xff")
    b''
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b""


def check(key: bytes) -> None:
    """Refuse what can't be a user's key.

    Raises
    ------
    TypeError
        Not bytes.
    ValueError
        Empty, or begins with a zero byte.
    """
    if not isinstance(key, bytes):
        raise TypeError(f"a key is bytes, not {type(key).__name__}: {key!r}")
    if not key or key[0] == 0:
        raise ValueError(
            f"a key is at least one byte and does not begin with a zero byte (those are the store's own): {key!r}"
        )


def bounds(start: bytes, stop: bytes | None) -> tuple[bytes, bytes]:
    """Return a range as tensorstore wants it: from the first user's key on, no end as ``b""``.

    A `stop` of ``b""`` means no end as well, so that ``prefix_end`` can be passed on.
    """
    for name, value in (("start", start), ("stop", stop)):
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"{name} is bytes, not {type(value).__name__}: {value!r}")
    return max(start, FIRST), stop or b""
