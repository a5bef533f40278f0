"""What readers made of values, kept while the values stay what they are.

Decoding a value again for each request costs more than reading it. A memo belongs to a tree in this process and serves
all its states: an entry says in which state the value was read, and the memo knows which keys each of this process's
commits has changed, and those of others in the tree's journal. Whatever it doesn't know (large commits of others,
of deleted ranges, of arrays) counts as a change of everything.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any

__all__ = ["Memo"]

#: Bytes, as the makers of entries count them, that a tree's memo keeps; about.
ROOM = 64 << 20
#: Changed keys that are remembered one by one.
_CHANGES = 100_000
#: Commits whose keys are at hand for `Memo.changed_since`.
_RECENT = 256


class Memo:
    """Decoded values of a tree's keys.

    Two generations: when the young one is full it becomes the old one, and what the old one held is forgotten unless
    it was asked for meanwhile.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._lock = threading.Lock()
        self._room = room // 2
        self._young: dict[Hashable, tuple[int, Any, int]] = {}
        self._old: dict[Hashable, tuple[int, Any, int]] = {}
        self._used = 0
        self._changed: dict[bytes, int] = {}
        self._all_changed = 0
        self._recent: deque[tuple[int, tuple[bytes, ...]]] = deque(maxlen=_RECENT)
        self.epoch = 0

    def advance(self, changed: Iterable[bytes] | None) -> int:
        """The tree has a new state, which differs from the last one in these keys at most; None: nobody knows in which.

        Returns the new state's epoch.
        """
        with self._lock:
            self.epoch = epoch = self.epoch + 1
            if changed is not None:
                changed = tuple(changed)
                self._changed.update(dict.fromkeys(changed, epoch))
                self._recent.append((epoch, changed))
            if changed is None or len(self._changed) > _CHANGES:
                self._all_changed = epoch
                self._changed.clear()
                self._recent.clear()
                self._young.clear()
                self._old.clear()
                self._used = 0
            return epoch

    def get(self, kind: Hashable, key: bytes, epoch: int) -> tuple[Any] | None:
        """What was made of a key's value, if that value is still the one in the state of this epoch."""
        name = kind, key
        found = self._young.get(name) or self._old.get(name)
        if found is None or not self._same(key, found[0], epoch):
            return None
        if name not in self._young:
            self.put(kind, key, found[0], found[1], found[2])
        return (found[1],)

    def put(self, kind: Hashable, key: bytes, epoch: int, made: Any, size: int) -> None:
        """Keep what was made of a key's value, read in the state of this epoch."""
        with self._lock:
            held = self._young.get((kind, key))
            if not self._same(key, epoch, self.epoch) or (held is not None and held[0] >= epoch):
                return  # it is of the past
            self._young[kind, key] = epoch, made, size
            self._used += size
            if self._used > self._room:
                self._old, self._young, self._used = self._young, {}, 0

    def changed_since(self, epoch: int) -> list[bytes] | None:
        """Keys whose values may differ between the state of this epoch and later ones; None: nobody knows."""
        with self._lock:
            if self._all_changed > epoch:
                return None
            if epoch == self.epoch:
                return []
            if self._recent[0][0] <= epoch + 1:
                found: set[bytes] = set()
                for at, keys in reversed(self._recent):
                    if at <= epoch:
                        break
                    found.update(keys)
                return list(found)
            return [key for key, at in self._changed.items() if at > epoch]

    def _same(self, key: bytes, one: int, other: int) -> bool:
        """Whether a key has the same value in the states of two epochs."""
        earlier = min(one, other)
        return one == other or (self._changed.get(key, 0) <= earlier and self._all_changed <= earlier)
