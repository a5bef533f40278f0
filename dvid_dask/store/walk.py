"""Walking trees for maintenance: which data files hold what a tree can reach."""

from __future__ import annotations

from collections.abc import Iterator

import tensorstore as ts

from . import manifest as manifests
from .backend import Backend
from .codec import Interior, decode_files
from .errors import BadStore, translate
from .manifest import Manifest, Root
from .nodes import damaged, file_of, load, node_bytes, read_node

#: Nodes read ahead.
_AHEAD = 64


def first_root(where: Backend, manifest: Manifest) -> tuple[Root, set[str]]:
    """Return the root of the oldest generation that a manifest knows, and the files that hold its list of generations.

    In a branch that is the root from which it was branched.
    """
    files = {file_of(location) for location in manifest.version_nodes}
    versions = manifest.document["versions"]
    ahead = manifest.version_nodes[:1]
    while ahead:
        location = ahead.pop()
        files.add(file_of(location))
        try:
            document = ts.ocdbt.dump(where.root, location, context=where.context).result()
        except ValueError as error:
            raise translate(error, f"reading the list of generations at {location}", where.url) from error
        if document["height"] == 0:
            versions = document["entries"]
        else:
            ahead.append(document["entries"][0]["location"])
    return manifests.root_of(versions[0]), files


def is_single(manifest: Manifest) -> bool:
    """Tell whether a manifest has no history: that of a branch not yet written to, or of a sealed tree."""
    return len(manifest.document["versions"]) == 1 and not manifest.document["version_tree_nodes"]


class Reached:
    """Files that trees can reach. Nodes that trees share are walked once.

    Memory is that of one digest for each node, which is less than a thousandth of the keys, and of the names of the
    files.
    """

    def __init__(self, where: Backend) -> None:
        self._where = where
        self._seen: set[bytes] = set()
        self.files: set[bytes] = set()
        self.nodes = 0

    def __contains__(self, path: str) -> bool:
        return _digest(path) in self.files

    def add_file(self, path: str) -> None:
        """Count a file as reached."""
        self.files.add(_digest(path))

    def add_tree(self, root: Root) -> None:
        """Count all files of the tree below a root as reached."""
        if root.location is None:
            return
        stack = [(root.location, b"", root.height)]
        while stack:
            leaves: list[str] = []
            while stack and len(leaves) < _AHEAD:
                location, prefix, height = stack.pop()
                if not self._first_time(location):
                    continue
                if height == 0:
                    leaves.append(location)
                    continue
                node = load(self._where, location, prefix)
                if not isinstance(node, Interior):
                    raise BadStore(
                        f"{self._where.url}: the node at {location} is a leaf where its parent says otherwise; run fsck"
                    )
                stack.extend(zip(node.locations, node.prefixes, [height - 1] * len(node.keys), strict=True))
            for path in leaf_files(self._where, leaves):
                self.add_file(path)

    def _first_time(self, location: str) -> bool:
        digest = _digest(location)
        if digest in self._seen:
            return False
        self._seen.add(digest)
        self.nodes += 1
        self.add_file(file_of(location))
        return True


def _digest(text: str) -> bytes:
    # data files are named by 32 hex digits: keep those as 16 bytes, what else there is as itself
    name = text.rpartition("/")[2]
    kind, _, tail = name.partition(":")
    try:
        return bytes.fromhex(kind) + tail.encode()
    except ValueError:
        return text.encode()


def leaf_files(where: Backend, locations: list[str]) -> Iterator[str]:
    """Iterate over the data files that the values of leaves lie in."""
    reads = [(location, read_node(where, location)) for location in locations]
    for location, read in reads:
        data = node_bytes(where, location, read)
        try:
            yield from decode_files(data)
        except ValueError as error:
            raise damaged(where.url, location, error) from error
