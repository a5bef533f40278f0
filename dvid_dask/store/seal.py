"""Sealing: a tree becomes immutable, and its many small files few large ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from .backend import Backend
from .codec import Interior, Leaf
from .commit import exchange, forget_numbered
from .diff import Cursor, Found, Item, Node, compare
from .errors import Conflict, StoreError
from .nodes import file_of, load
from .transaction import Transaction
from .tree import Tree
from .view import View
from .walk import first_root, is_single

#: A data file of which a tree's own changes use less than this is rewritten.
SMALL_FILE = 8 << 20
#: What one transaction of the compaction holds at most.
_BATCH_BYTES = 64 << 20
_BATCH_KEYS = 50_000


@dataclass(frozen=True, slots=True)
class SealReport:
    """What sealing a tree did.

    Attributes
    ----------
    tree
        Its name.
    already
        It was sealed and compact before; nothing was done.
    keys, value_bytes
        What was written anew, into few files.
    files
        Data files that held the tree's own changes before.
    transactions
        Transactions that wrote it anew, a data file each.
    """

    tree: str
    already: bool
    keys: int = 0
    value_bytes: int = 0
    files: int = 0
    transactions: int = 0


def seal(where: Backend, tree: Tree, *, compact: bool = True) -> SealReport:
    """Seal a tree and compact its own changes; see `Store.seal`.

    Each step leaves a tree that reads the same: the mark, each transaction that rewrites values as they are, and the
    exchange of the manifest. So it can be killed anywhere and run again.
    """
    if not tree.view(0).sealed:
        # another process may seal it at this moment: that is no error here, so the mark is put by force
        tree.update(lambda tx: tx._seal(tree.name), force=True)
    if not compact:
        return SealReport(tree.name, already=False)
    view = tree.fold()
    if is_single(view.manifest):
        return SealReport(tree.name, already=True)
    used, small = _own_files(where, view)
    keys = value_bytes = transactions = 0
    for batch in _batches(_stale(where, view, small)):
        value_bytes += tree.update(partial(_rewrite, keys=batch), force=True)
        keys += len(batch)
        transactions += 1
    for _ in range(100):
        if _drop_history(where, tree):
            return SealReport(tree.name, False, keys, value_bytes, used, transactions)
    raise Conflict(f"{where.url}: tree {tree.name!r} is written to by force all the time; seal it again later")


def _rewrite(transaction: Transaction, keys: list[bytes]) -> int:
    return transaction._rewrite(keys)


def _own(where: Backend, view: View) -> Iterator[tuple[Found, Node | Item]]:
    """Walk what the tree has beyond the state from which it was branched."""
    origin, _ = first_root(where, view.manifest)
    return compare(Cursor(where, origin), Cursor(where, view.manifest.root))


def _own_files(where: Backend, view: View) -> tuple[int, set[str]]:
    """Return how many files the tree's own nodes and values lie in, and those of which they use little."""
    used: dict[str, int] = {}
    for kind, found in _own(where, view):
        if kind != "removed" and found.location is not None:
            path = file_of(found.location)
            used[path] = used.get(path, 0) + _size(found.location)
    return len(used), {path for path, nbytes in used.items() if nbytes < SMALL_FILE}


def _stale(where: Backend, view: View, small: set[str]) -> Iterator[tuple[bytes, int]]:
    """Iterate over keys, and sizes of their values, whose rewriting leaves nothing of the tree's own in small files.

    A value in one is rewritten itself; a node in one by rewriting some key below it, the smallest at hand.
    """
    for kind, found in _own(where, view):
        if kind == "removed" or found.location is None or file_of(found.location) not in small:
            continue
        if isinstance(found, Item):
            yield found.key, _size(found.location)
        elif found.content is not None:
            yield _smallest(_leftmost(where, found.content))


def _leftmost(where: Backend, content: Interior | Leaf) -> Leaf:
    while isinstance(content, Interior):
        content = load(where, content.locations[0], content.prefixes[0])
    return content


def _smallest(leaf: Leaf) -> tuple[bytes, int]:
    sizes = [_size(location) if location is not None else 0 for location in leaf.locations]
    size = min(sizes)
    return leaf.keys[sizes.index(size)], size


def _size(location: str) -> int:
    return int(location.rpartition(":")[2])


def _batches(keys: Iterable[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    batch: dict[bytes, None] = {}  # in order; a leaf's smallest key may come again as itself
    nbytes = 0
    for key, size in keys:
        batch[key] = None
        nbytes += size
        if nbytes >= _BATCH_BYTES or len(batch) >= _BATCH_KEYS:
            yield list(batch)
            batch, nbytes = {}, 0
    if batch:
        yield list(batch)


def _drop_history(where: Backend, tree: Tree) -> bool:
    """Replace the manifest by one of the newest generation alone; False says that it has just changed."""
    state = tree._state
    with state.turn():
        view = state.newest()
        if not view.sealed:
            raise StoreError(f"{where.url}: tree {tree.name!r} was dropped and made again while it was sealed")
        view = state.fold(view)
        generation = view.manifest.generation + 1
        new = view.manifest.single(generation)
        if not exchange(where, tree.name, view._manifest, new):
            return False
        state.adopt(new, view)
        if where.numbered:
            forget_numbered(where, tree.name, generation)
    return True
