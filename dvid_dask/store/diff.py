"""Structural diff: what differs between two states, at the cost of what differs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Literal

from .backend import Backend
from .codec import Interior, Leaf
from .keys import bounds
from .manifest import Root
from .nodes import load
from .view import View

#: Keys whose values are compared by reading them, at a time.
_COMPARED = 256


@dataclass(frozen=True, slots=True)
class Change:
    """A key that differs between two states: added, removed or changed on the way from the first to the second."""

    key: bytes
    kind: Literal["added", "removed", "changed"]


@dataclass(slots=True)
class Node:
    """A subtree; none of its keys comes before `key`. Its content is there once it has been looked into."""

    key: bytes
    location: str
    prefix: bytes
    height: int
    content: Interior | Leaf | None = None


@dataclass(slots=True)
class Item:
    """A key, and its value by where it lies or what it is."""

    key: bytes
    location: str | None
    inline: bytes | None


class Cursor:
    """Walks one tree from left to right, as deep as it is asked to."""

    def __init__(self, where: Backend, root: Root, low: bytes = b"", high: bytes = b"") -> None:
        self._where = where
        self._low, self._high = low, high
        #: What is to come; the next is the last.
        self._ahead: list[Node | Item] = []
        if root.location is not None:
            self._ahead.append(Node(b"", root.location, b"", root.height))

    @property
    def head(self) -> Node | Item | None:
        """What comes next."""
        return self._ahead[-1] if self._ahead else None

    def skip(self) -> None:
        """Go past the head."""
        self._ahead.pop()

    def enter(self, node: Node) -> None:
        """Replace the subtree at the head by what it holds within the range."""
        self._ahead.pop()
        node.content = loaded = load(self._where, node.location, node.prefix)
        keys = loaded.keys
        end = bisect_left(keys, self._high) if self._high else len(keys)
        if isinstance(loaded, Leaf):
            begin = bisect_left(keys, self._low)
            self._ahead.extend(
                Item(keys[i], loaded.locations[i], loaded.inline[i]) for i in range(end - 1, begin - 1, -1)
            )
            return
        # the first child's range begins where its parent's does, which may be before its first key
        borders = [min(node.key, keys[0]), *keys[1:]]
        for i in range(max(end, 1) - 1, -1, -1):
            self._ahead.append(Node(borders[i], loaded.locations[i], loaded.prefixes[i], loaded.height - 1))
            if borders[i] <= self._low:
                break


#: What `compare` finds: a node of the new tree that it looked into, or a key. Values that "moved" lie elsewhere and
#: may be equal.
Found = Literal["entered", "added", "removed", "changed", "moved"]


def compare(old: Cursor, new: Cursor) -> Iterator[tuple[Found, Node | Item]]:
    """Walk two trees side by side, past all that they share."""
    while True:
        left, right = old.head, new.head
        if left is None and right is None:
            return
        # what is in both trees is skipped whole; else whoever comes first is looked into, the higher one where both do
        if isinstance(left, Node) and isinstance(right, Node) and left.location == right.location:
            old.skip()
            new.skip()
        elif isinstance(left, Node) and _before(left, right):
            old.enter(left)
        elif isinstance(right, Node) and _before(right, left):
            new.enter(right)
            yield "entered", right
        elif isinstance(left, Item) and (right is None or left.key < right.key):
            old.skip()
            yield "removed", left
        elif isinstance(right, Item) and (left is None or right.key < left.key):
            new.skip()
            yield "added", right
        elif isinstance(left, Item) and isinstance(right, Item):
            old.skip()
            new.skip()
            if left.location is not None and left.location == right.location:
                continue
            if left.inline is None or right.inline is None:
                yield "moved", right
            elif left.inline != right.inline:
                yield "changed", right


def _before(node: Node, other: Node | Item | None) -> bool:
    if other is None or node.key < other.key:
        return True
    return node.key == other.key and (isinstance(other, Item) or node.height >= other.height)


def diff(
    a: View, b: View, start: bytes = b"", stop: bytes | None = None, *, compare_values: bool = True
) -> Iterator[Change]:
    """Iterate over the keys whose values differ between two views of one store, in order; see `Store.diff`."""
    low, high = bounds(start, stop)
    if high and low >= high:
        return
    own = _own_keys(a, b, low, high)
    below = _diff_below(a, b, low, high, compare_values)
    if not own:
        yield from below
        return
    hidden = set(own)
    mine = (change for at in range(0, len(own), _COMPARED) for change in _changes(a, b, own[at : at + _COMPARED]))
    yield from merge((change for change in below if change.key not in hidden), mine, key=lambda change: change.key)


def _own_keys(a: View, b: View, low: bytes, high: bytes) -> list[bytes]:
    """Keys in a range that records of the journal have changed in one of two states, in order."""
    if a._overlay is not b._overlay:
        return sorted({*a._own_keys(low, high), *b._own_keys(low, high)})
    changed = a._overlay.changed(*sorted((a._count, b._count)))
    return sorted(key for key in changed if low <= key and (not high or key < high))


def _changes(a: View, b: View, keys: list[bytes]) -> Iterator[Change]:
    for key, old, new in zip(keys, a.get_many(keys), b.get_many(keys), strict=True):
        if old != new:
            yield Change(key, "added" if old is None else "removed" if new is None else "changed")


def _diff_below(a: View, b: View, low: bytes, high: bytes, compare_values: bool) -> Iterator[Change]:
    """What differs between the nodes of two states. Of keys in the journal that may be wrong."""
    if a._manifest == b._manifest:
        return
    where = a._where
    pending: list[tuple[Found, bytes]] = []
    for kind, found in compare(Cursor(where, a.manifest.root, low, high), Cursor(where, b.manifest.root, low, high)):
        if isinstance(found, Item):
            pending.append((kind, found.key))
            if len(pending) == _COMPARED:
                yield from _decided(a, b, pending, compare_values)
                pending = []
    yield from _decided(a, b, pending, compare_values)


def _decided(a: View, b: View, pending: list[tuple[Found, bytes]], compare_values: bool) -> Iterator[Change]:
    """Turn what was found into changes. A value rewritten elsewhere (by a seal, say) may still be the same."""
    moved = [key for kind, key in pending if kind == "moved" and compare_values]
    same = {key for key, x, y in zip(moved, a.get_many(moved), b.get_many(moved), strict=True) if x == y}
    for kind, key in pending:
        if kind == "added" or kind == "removed":
            yield Change(key, kind)
        elif key not in same:
            yield Change(key, "changed")
