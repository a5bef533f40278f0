"""How much lies between two keys of a tree, from what its nodes say of their children: no value is read."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from .backend import Backend
from .codec import Leaf
from .errors import BadStore
from .manifest import Root
from .nodes import Interiors, load

__all__ = ["Amount", "measure"]


class Amount(NamedTuple):
    """Number of keys, and the bytes in the pool of their values and of the nodes that hold them alone.

    Bytes are as stored, compressed; trees share them, so amounts of several versions must not be added up.
    """

    keys: int
    bytes: int


def measure(
    where: Backend, root: Root, low: bytes, high: bytes, interiors: Interiors, *, exactly: bool = True
) -> Amount:
    """Measure what lies from `low` to before `high` (``b""`` = no end), reading two paths of nodes at most.

    Else the leaves at both ends aren't read, and all of them counts: no more than that lies there.
    """
    if root.location is None:
        return Amount(0, 0)
    if not exactly and root.height == 0:
        return Amount(root.keys, root.value_bytes)
    keys = size = 0
    todo = [(root.location, b"", root.height, b"")]  # the last is where a node's keys end, as its parent knows it
    while todo:
        location, prefix, height, stop = todo.pop()
        if height == 0:
            leaf = load(where, location, prefix)
            if not isinstance(leaf, Leaf):
                raise BadStore(f"{where.url}: the node at {location} is no leaf where its parent says so; run fsck")
            begin = bisect_left(leaf.keys, low)
            end = bisect_left(leaf.keys, high) if high else len(leaf.keys)
            for at in range(begin, end):
                place, value = leaf.locations[at], leaf.inline[at]
                size += len(value) if value is not None else int(str(place).rpartition(":")[2])
            keys += max(end - begin, 0)
            continue
        node = interiors.get(where, location, prefix)
        for at, (first, last) in enumerate(zip(node.keys, [*node.keys[1:], stop], strict=True)):
            if (high and first >= high) or (last and last <= low):
                continue
            whole = first >= low and (not high or bool(last and last <= high))
            if whole or (node.height == 1 and not exactly):
                keys += node.counts[at]
                size += node.sizes[at]
            else:
                todo.append((node.locations[at], node.prefixes[at], node.height - 1, last))
    return Amount(keys, size)
