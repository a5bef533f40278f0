"""Structural diff: what differs between two states, at the cost of what differs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .keys import bounds
from .nodes import Leaf, load
from .view import View

#: Keys whose values are compared by reading them, at a time.
_COMPARED = 256


@dataclass(frozen=True, slots=True)
class Change:
    """A key that differs between two states: added, removed or changed on the way from the first to the second."""

    key: bytes
    kind: Literal["added", "removed", "changed"]


@dataclass(slots=True)
class _Node:
    """A subtree not looked into yet; none of its keys comes before `key`."""

    key: bytes
    location: str
    prefix: bytes
    height: int


@dataclass(slots=True)
class _Item:
    """A key, and its value by where it lies or what it is."""

    key: bytes
    location: str | None
    inline: bytes | None


class _Cursor:
    """Walks one tree from left to right, as deep as it is asked to."""

    def __init__(self, view: View, low: bytes, high: bytes) -> None:
        self._where = view._where
        self._low, self._high = low, high
        #: What is to come; the next is the last.
        self._ahead: list[_Node | _Item] = []
        root = view.manifest.root
        if root.location is not None:
            self._ahead.append(_Node(b"", root.location, b"", root.height))

    @property
    def head(self) -> _Node | _Item | None:
        return self._ahead[-1] if self._ahead else None

    def skip(self) -> None:
        self._ahead.pop()

    def enter(self, node: _Node) -> None:
        """Replace the subtree at the head by what it holds within the range."""
        self._ahead.pop()
        loaded = load(self._where, node.location, node.prefix)
        keys = loaded.keys
        end = bisect_left(keys, self._high) if self._high else len(keys)
        if isinstance(loaded, Leaf):
            begin = bisect_left(keys, self._low)
            self._ahead.extend(_Item(keys[i], loaded.locations[i], loaded.inline[i]) for i in range(end - 1, begin - 1, -1))
            return
        for i in range(end - 1, -1, -1):
            # the first child's range begins where its parent's does, which may be before its first key
            self._ahead.append(_Node(keys[i] if i else node.key, loaded.locations[i], loaded.prefixes[i], loaded.height - 1))
            if keys[i] <= self._low:
                break


def diff(a: View, b: View, start: bytes = b"", stop: bytes | None = None) -> Iterator[Change]:
    """Iterate over the keys whose values differ between two views of one store, in order."""
    low, high = bounds(start, stop)
    if high and low >= high:
        return
    pending: list[tuple[bytes, str]] = []  # kinds of changes in order; "" is for what only reading can tell
    for change in _candidates(_Cursor(a, low, high), _Cursor(b, low, high)):
        pending.append(change)
        if len(pending) == _COMPARED:
            yield from _decided(a, b, pending)
            pending = []
    yield from _decided(a, b, pending)


def _candidates(old: _Cursor, new: _Cursor) -> Iterator[tuple[bytes, str]]:
    while True:
        left, right = old.head, new.head
        if left is None and right is None:
            return
        # what is in both trees is skipped whole; else whoever comes first is looked into, the higher one where both do
        if isinstance(left, _Node) and isinstance(right, _Node) and left.location == right.location:
            old.skip()
            new.skip()
        elif isinstance(left, _Node) and _before(left, right):
            old.enter(left)
        elif isinstance(right, _Node) and _before(right, left):
            new.enter(right)
        elif isinstance(left, _Item) and (right is None or left.key < right.key):
            old.skip()
            yield left.key, "removed"
        elif isinstance(right, _Item) and (left is None or right.key < left.key):
            new.skip()
            yield right.key, "added"
        elif isinstance(left, _Item) and isinstance(right, _Item):
            old.skip()
            new.skip()
            if left.location is not None and left.location == right.location:
                continue
            if left.inline is not None and right.inline is not None:
                if left.inline != right.inline:
                    yield left.key, "changed"
            else:
                yield left.key, ""


def _before(node: _Node, other: _Node | _Item | None) -> bool:
    if other is None or node.key < other.key:
        return True
    return node.key == other.key and (isinstance(other, _Item) or node.height >= other.height)


def _decided(a: View, b: View, pending: list[tuple[bytes, str]]) -> Iterator[Change]:
    """Turn candidates into changes. A value rewritten elsewhere (by a seal, say) may still be the same."""
    doubtful = [key for key, kind in pending if not kind]
    same = {key for key, x, y in zip(doubtful, a.get_many(doubtful), b.get_many(doubtful), strict=True) if x == y}
    for key, kind in pending:
        if kind:
            yield Change(key, kind)  # type: ignore[arg-type]
        elif key not in same:
            yield Change(key, "changed")
