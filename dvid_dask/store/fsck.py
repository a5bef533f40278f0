"""Checking a store: whether all that its trees name is there and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from . import manifest as manifests
from .backend import Backend
from .codec import Interior, Leaf
from .commit import DATA, REFS, read_manifest
from .diff import Node
from .errors import BadStore, StoreError
from .gc import JOURNAL
from .journal import Journal
from .locks import lock_files
from .manifest import Root, decode
from .nodes import file_of, is_data_file, load, node_bytes, read_node
from .walk import Reached, first_root

#: More errors than this are counted, not listed.
_LISTED = 1000
#: Values read at a time by a deep check.
_VALUES = 256


@dataclass(slots=True)
class FsckReport:
    """What a check found.

    Attributes
    ----------
    trees, nodes, values
        How many trees, distinct nodes and values outside nodes were checked.
    errors
        What is damaged, each with what and where; empty for a sound store.
    error_count
        Their number; `errors` lists the first thousand.
    leftovers
        Files of killed writers and files that are not the store's: harmless.
    unreferenced, unreferenced_bytes
        Data files that no tree reaches, for gc to delete; harmless.
    """

    trees: int = 0
    nodes: int = 0
    values: int = 0
    errors: list[str] = field(default_factory=list)
    error_count: int = 0
    leftovers: list[str] = field(default_factory=list)
    unreferenced: int = 0
    unreferenced_bytes: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged."""
        return self.error_count == 0

    def add(self, error: str) -> None:
        """Note an error."""
        self.error_count += 1
        if len(self.errors) < _LISTED:
            self.errors.append(error)


class _Check:
    def __init__(self, where: Backend, deep: bool) -> None:
        self.where = where
        self.deep = deep
        self.report = FsckReport()
        self.reached = Reached(where)
        self.files = {DATA + name: size for name, size in where.scan(DATA)}
        self.unread: list[tuple[str, str]] = []

    def tree(self, name: str) -> None:
        self.report.trees += 1
        what = f"tree {name!r}"
        try:
            data = read_manifest(self.where, name)
            if data is None:
                return  # dropped just now
            manifests.check(data, what)
            manifest = decode(data)
            self.subtree(manifest.root, what)
            origin, files = first_root(self.where, manifest)
            for path in files:
                self.reached.add_file(path)
            self.subtree(origin, f"{what}, where it began,")
            if self.where.folder is not None:
                self.journal(Journal(self.where.folder / REFS / name, self.where.url, name), name)
        except StoreError as error:
            self.report.add(f"{what}: {error}")
        self.read_values()

    def journal(self, journal: Journal, name: str) -> None:
        while (data := read_manifest(self.where, name)) is not None:
            try:
                journal.check(data)
                break
            except BadStore:
                if read_manifest(self.where, name) == data:
                    raise
                # it was put into nodes while we looked, and its space used again

    def subtree(self, root: Root, what: str) -> None:
        if root.location is None:
            return
        stack = [Node(b"", root.location, b"", root.height)]
        while stack:
            node = stack.pop()
            if not self.reached._first_time(node.location):
                continue
            self.report.nodes += 1
            try:
                content = load(self.where, node.location, node.prefix)
            except BadStore as error:
                self.report.add(f"{what}: {error}")
                continue
            if (content.height if isinstance(content, Interior) else 0) != node.height:
                self.report.add(f"{what}: the node at {node.location} is not of height {node.height}")
                continue
            if any(a >= b for a, b in zip(content.keys, content.keys[1:], strict=False)):
                self.report.add(f"{what}: keys of the node at {node.location} are out of order")
            if isinstance(content, Leaf):
                for key, location in zip(content.keys, content.locations, strict=True):
                    if location is not None:
                        self.value(key, location, what)
            else:
                stack.extend(
                    Node(key, location, prefix, node.height - 1)
                    for key, location, prefix in zip(content.keys, content.locations, content.prefixes, strict=True)
                )

    def value(self, key: bytes, location: str, what: str) -> None:
        self.report.values += 1
        path = file_of(location)
        self.reached.add_file(path)
        offset, length = (int(part) for part in location.split(":")[-2:])
        size = self.files.get(path)
        if size is None:
            # written since we listed them, or missing
            if self.where.read(path) is None:
                self.report.add(f"{what}: the value of key {key!r} lies in {path}, which is missing")
                return
        elif 0 <= size < offset + length:
            self.report.add(
                f"{what}: the value of key {key!r} lies in {path} at {offset}, +{length}, beyond its {size} bytes"
            )
            return
        if self.deep:
            self.unread.append((location, f"{what}: the value of key {key!r} at {location}"))
            if len(self.unread) >= _VALUES:
                self.read_values()

    def read_values(self) -> None:
        reads = [(location, read_node(self.where, location), what) for location, what in self.unread]
        self.unread = []
        for location, read, what in reads:
            try:
                node_bytes(self.where, location, read)
            except BadStore as error:
                self.report.add(f"{what}: {error}")

    def leftovers(self) -> None:
        report = self.report
        for path, size in self.files.items():
            if not is_data_file(path[len(DATA) :]):
                if not path.endswith(".__lock"):
                    report.leftovers.append(path)
            elif path not in self.reached:
                report.unreferenced += 1
                report.unreferenced_bytes += max(size, 0)
        if self.where.folder is not None:
            report.leftovers += sorted(
                str(path.relative_to(self.where.folder)) for path in lock_files(self.where.folder)
            )
        report.leftovers += sorted(self.foreign())

    def foreign(self) -> Iterator[str]:
        folder = self.where.folder
        names = (
            [entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir()]
            if folder is not None
            else {path.split("/")[0] + ("/" if "/" in path else "") for path in self.where.list()}
        )
        known = {DATA, REFS, JOURNAL.split("/")[0] + "/", "format.json"}
        return (name for name in names if name not in known and not name.endswith(".__lock"))


def check(where: Backend, trees: Callable[[], list[str]], *, deep: bool) -> FsckReport:
    """Check a store; see `Store.fsck`."""
    checking = _Check(where, deep)
    for name in trees():
        checking.tree(name)
    checking.leftovers()
    return checking.report
