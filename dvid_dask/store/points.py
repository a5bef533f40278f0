"""Reads of few keys in a local store, without tensorstore.

tensorstore hands a read of one key to threads of its own and back: 30 to 50 microseconds for what lies in a cached
node, 100 to 200 for a value in a file. A small edit reads some five to ten keys, one after the other, so that was most
of what it took. Here a read is a search in decoded nodes and one `pread`, some 5 to 10 microseconds.

Nodes never change, so where one lies is all there is to know of it: nothing has to be forgotten when a tree moves on.
Decoding a leaf takes as long as ten reads by tensorstore, so who reads all over a large tree is better off there:
`Points` keeps account, and says so.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .codec import Interior, Values, decode_values
from .errors import BadStore, translate
from .manifest import Root
from .nodes import damaged

if TYPE_CHECKING:
    from .backend import Backend

__all__ = ["FEW", "Points", "points_of"]

#: Keys that are read one by one; for more, tensorstore reads at the same time in many threads.
FEW = 32
#: Bytes of decoded nodes that are kept, about.
ROOM = 48 << 20
#: A leaf that wasn't there costs as much as so many reads of one that was; the most that reads can earn, and owe.
_COST, _SAVED, _OWED = 8, 256, 64
#: While reads don't earn what they cost, one in so many tries whether they would.
_TRY = 16

Node = Interior | Values


class Points:
    """The nodes that reads of few keys have met last, of all trees of a local store."""

    def __init__(self, where: Backend, room: int = ROOM) -> None:
        # not the backend itself, which holds this: it has to go with the last handle
        self._url, self._folder = where.url, where.folder
        self._room = room
        self._lock = threading.Lock()
        self._nodes: OrderedDict[tuple[str, bytes], tuple[Node, int]] = OrderedDict()
        self._used = 0
        self._balance = _SAVED
        self._skipped = 0

    @property
    def worth_it(self) -> bool:
        """Whether reads here have met leaves that were there already often enough."""
        if self._balance > 0:
            return True
        self._skipped += 1
        return self._skipped % _TRY == 0

    def get_many(self, root: Root, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys below a root, None for those that are missing.

        Raises
        ------
        BadStore
            A node or a file is missing or damaged.
        """
        if root.location is None:
            return [None] * len(keys)
        return [self._get(root.location, root.height, key) for key in keys]

    def warm(self, root: Root, keys: Sequence[bytes]) -> None:
        """Decode the nodes in which keys lie, so that the next reads find them."""
        if root.location is None:
            return
        for key in keys:
            self._leaf(root.location, root.height, key)

    def _get(self, location: str, height: int, key: bytes) -> bytes | None:
        leaf = self._leaf(location, height, key)
        keys = leaf.keys
        i = bisect_left(keys, key)
        if i == len(keys) or keys[i] != key:
            return None
        place, length = leaf.places[i], leaf.lengths[i]
        if place >= 0:
            return leaf.data[place : place + length]
        i = -1 - place
        return self._read("value", leaf.paths[leaf.files[i]], leaf.offsets[i], length)

    def _leaf(self, location: str, height: int, key: bytes) -> Values:
        prefix = b""
        while True:
            node = self._node(location, prefix, height)
            if isinstance(node, Values):
                return node
            i = max(bisect_right(node.keys, key) - 1, 0)
            location, prefix, height = node.locations[i], node.prefixes[i], height - 1

    def _node(self, location: str, prefix: bytes, height: int) -> Node:
        name = location, prefix
        held = self._nodes.get(name)
        if held is not None:
            if not height and self._balance < _SAVED:
                self._balance += 1
            return held[0]
        node, size = self._load(location, prefix)
        if (node.height if isinstance(node, Interior) else 0) != height:
            raise BadStore(f"{self._url}: the node at {location} is not of height {height}; run fsck")
        with self._lock:
            if not height:
                self._balance = max(self._balance - _COST, -_OWED)
            if name not in self._nodes:
                self._nodes[name] = node, size
                self._used += size
            while self._used > self._room and len(self._nodes) > 1:
                # in the order in which they came: who is asked for often comes again
                _, (_, freed) = self._nodes.popitem(last=False)
                self._used -= freed
        return node

    def _load(self, location: str, prefix: bytes) -> tuple[Node, int]:
        kind, base, path, offset, length = location.split(":")
        data = self._read(kind, base + path, int(offset), int(length))
        try:
            node = decode_values(data, prefix)
        except ValueError as error:
            raise damaged(self._url, location, error) from error
        # a bytes object of a key takes some 33 bytes beside what is in it, its place in lists 32 and more
        size = sum(map(len, node.keys)) + 100 * len(node.keys)
        size += len(node.data) if isinstance(node, Values) else 200 * len(node.keys)
        return node, size

    def _read(self, kind: str, path: str, offset: int, length: int) -> bytes:
        try:
            file = os.open(f"{self._folder}/{path}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(file, length, offset)
                while len(data) < length and (more := os.pread(file, length - len(data), offset + len(data))):
                    data += more
            finally:
                os.close(file)
        except FileNotFoundError as error:
            raise BadStore(
                f"{self._url}: data file {path} is missing; a view older than gc's grace period loses its "
                "files, else restore it from a backup (fsck names all that is missing)"
            ) from error
        except OSError as error:
            raise translate(error, f"reading {path}", self._url) from error
        if len(data) < length:
            what = "a value" if kind == "value" else "a node"
            raise BadStore(
                f"{self._url}: data file {path} is damaged: it ends within {what} at {offset}, +{length}; "
                "restore it from a backup"
            )
        return data


def points_of(where: Backend) -> Points:
    """The nodes of a local store that this process has decoded."""
    held = where.points
    if not isinstance(held, Points):
        held = where.points = Points(where)
    return held
