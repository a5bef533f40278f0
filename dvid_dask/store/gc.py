"""Garbage collection: delete the data files that no tree can reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import manifest as manifests
from .backend import Backend
from .commit import DATA, read_manifest
from .errors import BadStore
from .locks import lock_files, remove_stale
from .manifest import decode
from .nodes import is_data_file
from .walk import Reached, first_root

#: Files found unreferenced, and since when: lines of "<unix time> <path>".
JOURNAL = "gc/candidates"


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a garbage collection found and did.

    Attributes
    ----------
    trees, nodes, reachable
        Trees and nodes walked, data files that they reach.
    deleted, deleted_bytes
        Data files deleted, and their size where the place tells it.
    waiting
        Data files unreferenced for less than the grace period: deleted by a later run.
    locks
        Lock files of killed writers removed.
    """

    trees: int
    nodes: int
    reachable: int
    deleted: int
    deleted_bytes: int
    waiting: int
    locks: int


def collect(where: Backend, trees: Callable[[], list[str]], grace: float) -> GcReport:
    """Mark what all trees reach, sweep what was unreachable for `grace` seconds."""
    if not grace >= 0:
        raise ValueError(f"grace is seconds from 0 up, not {grace}")
    now = time.time()
    # Listed before anything is marked: what is written from now on is no candidate.
    found = {DATA + name: size for name, size in where.scan(DATA) if is_data_file(name)}
    locks = [str(path) for path in lock_files(where.folder)] if where.folder is not None else []
    reached = Reached(where)
    known: dict[str, bytes] = {}
    _mark(where, trees, reached, known)
    since = _read_journal(where)
    waiting = {path: min(since.get(path, now), now) for path in (*found, *locks) if path not in reached}
    _write_journal(where, waiting, had=bool(since))
    doomed = [path for path, first in waiting.items() if now - first >= grace]
    # Whoever branched or committed while we marked may reach what was unreachable then.
    while doomed and _mark(where, trees, reached, known):
        doomed = [path for path in doomed if path not in reached]
    held = set(locks)
    deleted = deleted_bytes = removed = 0
    for path in doomed:
        if path in held:
            removed += _remove_lock(path)
            continue
        where.delete(path)
        deleted += 1
        deleted_bytes += max(found[path], 0)
    gone = set(doomed)
    left = {path: first for path, first in waiting.items() if path not in gone and path not in reached}
    if gone:
        _write_journal(where, left, had=True)
    files = sum(1 for path in found if path in reached)
    return GcReport(
        len(known), reached.nodes, files, deleted, deleted_bytes, sum(1 for path in left if path not in held), removed
    )


def _mark(where: Backend, trees: Callable[[], list[str]], reached: Reached, known: dict[str, bytes]) -> bool:
    """Mark what trees reach whose manifests aren't as they were known; tell whether there were any."""
    changed = False
    for name in trees():
        data = read_manifest(where, name)
        if data is None or known.get(name) == data:
            continue
        changed = True
        known[name] = data
        try:
            manifests.check(data, f"{where.url}: tree {name!r}")
            manifest = decode(data)
            reached.add_tree(manifest.root)
            # Seal needs to know where an unsealed tree began. Generations between aren't kept.
            origin, files = first_root(where, manifest)
            for path in files:
                reached.add_file(path)
            reached.add_tree(origin)
        except BadStore:
            if read_manifest(where, name) == data:
                raise
            # it moved on while we walked an old state, whose files another collector may sweep
            known.pop(name)
            return True
    return changed


def _remove_lock(path: str) -> bool:
    return remove_stale(Path(path))


def _read_journal(where: Backend) -> dict[str, float]:
    data = where.read(JOURNAL)
    since: dict[str, float] = {}
    for line in (data or b"").decode(errors="replace").splitlines():
        first, _, path = line.partition(" ")
        try:
            since[path] = float(first)
        except ValueError:
            continue  # a line we didn't write costs its file another grace period
    return since


def _write_journal(where: Backend, since: dict[str, float], *, had: bool) -> None:
    if since or had:
        where.write(JOURNAL, "".join(f"{first:.3f} {path}\n" for path, first in since.items()).encode())
