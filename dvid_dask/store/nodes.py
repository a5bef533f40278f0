"""The nodes of trees: reading them, and cutting key ranges at their borders."""

from __future__ import annotations

import re
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend
from .codec import Interior, Leaf, decode_node
from .errors import BadStore, translate

#: So many leaves, some 10^4 to 10^5 keys, are listed at once: what "bounded memory" means for a listing.
LEAVES = 32
#: Trees of fewer keys are listed at once, without a look at their nodes.
SMALL = 10_000
#: Seconds for which the cuts of one state serve its successors as well. Cuts needn't be exact, only near enough.
_FRESH = 1.0


_DATA_FILE = re.compile(r"[0-9a-f]{32}")


def is_data_file(name: str) -> bool:
    """Tell whether a name in the pool is one that tensorstore gives; others are not ours to touch."""
    return _DATA_FILE.fullmatch(name) is not None


def file_of(location: str) -> str:
    """Return the path of the data file in a location.

    Examples
    --------
    >>> file_of("btreenode::data/0f3a:12:100")
    'data/0f3a'
    """
    _, base, path, _, _ = location.split(":")
    return base + path


def read_node(where: Backend, location: str) -> ts.Future[Any]:
    """Begin to read the bytes of a node."""
    _, base, path, offset, length = location.split(":")
    at = int(offset)
    return where.root.read(base + path, byte_range=slice(at, at + int(length)))


def node_bytes(where: Backend, location: str, read: ts.Future[Any]) -> bytes:
    """Return the bytes of a node.

    Raises
    ------
    BadStore
        Its file is missing or truncated.
    """
    try:
        result = read.result()
    except ValueError as error:
        raise translate(error, f"reading the node at {location}", where.url) from error
    if result.state == "missing":
        raise BadStore(
            f"{where.url}: data file {file_of(location)} is missing; a view older than gc's grace period loses its "
            "files, else restore it from a backup (fsck names all that is missing)"
        )
    return bytes(result.value)


def load(where: Backend, location: str, prefix: bytes) -> Interior | Leaf:
    """Read one node.

    Raises
    ------
    BadStore
        It is missing or damaged.
    """
    data = node_bytes(where, location, read_node(where, location))
    try:
        return decode_node(data, prefix)
    except ValueError as error:
        raise damaged(where.url, location, error) from error


def damaged(url: str, location: str, error: ValueError) -> BadStore:
    """Say that a node can't be decoded."""
    return BadStore(f"{url}: the node at {location} is damaged ({error}); restore its file from a backup")


class Interiors:
    """The interior nodes read last, parsed. Nodes never change, so their location is all there is to know."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._nodes: OrderedDict[tuple[str, bytes], Interior] = OrderedDict()

    def get(self, where: Backend, location: str, prefix: bytes) -> Interior:
        """Return the interior node at a location."""
        key = location, prefix
        node = self._nodes.get(key)
        if node is None:
            loaded = load(where, location, prefix)
            if not isinstance(loaded, Interior):
                raise BadStore(
                    f"{where.url}: the node at {location} is a leaf where its parent says otherwise; run fsck"
                )
            node = self._nodes[key] = loaded
            while len(self._nodes) > self._size:
                self._nodes.popitem(last=False)
        return node


@dataclass
class Cuts:
    """Where to cut key ranges of a tree into pieces that fit into memory."""

    interiors: Interiors = field(default_factory=Interiors)
    _root: manifests.Root | None = None
    _until: float = 0.0

    def ranges(self, where: Backend, manifest: bytes, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Cut a range into pieces. A piece that ends at ``b""`` has no end."""
        root = self._root
        if root is None or time.monotonic() > self._until:
            root = self._refresh(manifest)
        if root.keys < SMALL or root.height == 0 or root.location is None:
            return iter(((low, high),))
        try:
            return iter(self._pieces(where, root.location, root.height, low, high))
        except BadStore:  # an earlier state's nodes may be gone; if this one's are, that is for the reader to find out
            root = self._refresh(manifest)
            if root.height == 0 or root.location is None:
                return iter(((low, high),))
            return iter(self._pieces(where, root.location, root.height, low, high))

    def _refresh(self, manifest: bytes) -> manifests.Root:
        self._root = root = manifests.decode(manifest).root
        self._until = time.monotonic() + _FRESH
        return root

    def _pieces(
        self, where: Backend, location: str, height: int, low: bytes, high: bytes
    ) -> Iterable[tuple[bytes, bytes]]:
        node = self.interiors.get(where, location, b"")
        if height == 1:
            return _group(node, low, high)
        return self._walk(where, node, low, high)

    def _walk(self, where: Backend, node: Interior, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        if node.height == 1:
            yield from _group(node, low, high)
            return
        begin, end = _span(node, low, high)
        for child in range(begin, end):
            first = low if child == begin else node.keys[child]
            last = high if child == end - 1 else node.keys[child + 1]
            try:
                below = self.interiors.get(where, node.locations[child], node.prefixes[child])
            except BadStore:
                yield first, last
                continue
            yield from self._walk(where, below, first, last)


def _span(node: Interior, low: bytes, high: bytes) -> tuple[int, int]:
    begin = max(bisect_right(node.keys, low) - 1, 0)
    end = max(bisect_left(node.keys, high), begin + 1) if high else len(node.keys)
    return begin, end


def _group(node: Interior, low: bytes, high: bytes) -> list[tuple[bytes, bytes]]:
    begin, end = _span(node, low, high)
    borders = [low, *node.keys[begin + LEAVES : end : LEAVES]]
    return list(zip(borders, [*borders[1:], high], strict=True))
