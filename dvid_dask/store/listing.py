"""Listing keys with the lengths of their values, from the nodes of a tree alone."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge

from .diff import Cursor, Item
from .keys import bounds
from .view import View

__all__ = ["lengths"]


def lengths(view: View, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, int, bytes | None]]:
    """Iterate over keys from `start` to before `stop` in order, with the length of each value.

    No value is read. Those that lie in the tree's leaves, as small ones do, or in its journal, come along; for others
    there is None.

    Examples
    --------
    >>> from dvid_dask.store import Store
    >>> tree = Store.create("memory://lengths").create_tree("a")
    >>> tree.update(lambda tx: tx.put_many([(b"a", b"1"), (b"b", bytes(5000))]))
    >>> list(lengths(tree.view()))
    [(b'a', 1, b'1'), (b'b', 5000, None)]
    """
    low, high = bounds(start, stop)
    if high and low >= high:
        return
    own = view._own_keys(low, high)
    below = _lengths_below(view, low, high)
    if own:
        hidden = set(own)
        held = [(key, len(value), value) for key in own if (value := view._own_value(key)) is not None]
        below = merge((entry for entry in below if entry[0] not in hidden), held)
    yield from below


def _lengths_below(view: View, low: bytes, high: bytes) -> Iterator[tuple[bytes, int, bytes | None]]:
    cursor = Cursor(view._where, view.manifest.root, low, high)
    while (head := cursor.head) is not None:
        if isinstance(head, Item):
            cursor.skip()
            if head.inline is not None:
                yield head.key, len(head.inline), head.inline
            elif head.location is not None:
                yield head.key, int(head.location.rpartition(":")[2]), None
        else:
            cursor.enter(head)
