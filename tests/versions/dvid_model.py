"""DVID's versioned key-values, as the specification words its lookup: an independent model, slow and plain.

Stored entries are (version, key) -> value or tombstone; a read walks up from a version. Nothing here knows of trees.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TOMBSTONE = object()


class ConflictFoundError(Exception):
    """Several parents hold different changes."""


@dataclass
class Node:
    parents: list[int]
    branch: str
    locked: bool = False
    entries: dict[str, object] = field(default_factory=dict)


class Model:
    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}

    def above(self, v: int) -> set[int]:
        """Ancestors of a version, without itself."""
        found: set[int] = set()
        for p in self.nodes[v].parents:
            found |= {p} | self.above(p)
        return found

    def _hits(self, v: int, key: str, invalid: set[int]) -> list[int]:
        node = self.nodes[v]
        if key in node.entries:
            if v in invalid:
                return []
            invalid |= {u for u in self.above(v) if key in self.nodes[u].entries}
            return [] if node.entries[key] is TOMBSTONE else [v]
        hits: list[int] = []
        for p in node.parents:
            hits += [h for h in self._hits(p, key, invalid) if h not in hits]
        return [h for h in hits if h not in invalid]

    def get(self, v: int, key: str) -> bytes | None:
        hits = self._hits(v, key, set())
        if len(hits) > 1:
            raise ConflictFoundError(hits)
        return self.nodes[hits[0]].entries[key] if hits else None  # type: ignore[return-value]

    def keys(self) -> set[str]:
        return {k for n in self.nodes.values() for k in n.entries}

    def state(self, v: int) -> dict[str, bytes]:
        found = {}
        for key in sorted(self.keys()):
            value = self.get(v, key)
            if value is not None:
                found[key] = value
        return found

    def merge(self, v: int, parents: list[int]) -> set[str]:
        """Insert a merge version; its conflicts become tombstones, where DVID would look again at every read."""
        self.nodes[v] = Node(list(parents), "")
        conflicts = set()
        for key in self.keys():
            try:
                self.get(v, key)
            except ConflictFoundError:
                conflicts.add(key)
        for key in conflicts:
            self.nodes[v].entries[key] = TOMBSTONE
        return conflicts
