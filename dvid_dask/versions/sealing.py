"""Sealing: a committed version's tree becomes immutable at once, and compact a little later.

Marking is what a commit waits for. Compaction rewrites the version's own changes into few files and can take seconds,
so a thread does it after the commit has answered; reads are right before, during and after. It may be killed and run
again: `Datastore.compact` does what was left undone.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import weakref
from typing import TYPE_CHECKING

from dvid_dask.errors import BadRequest
from dvid_dask.store import StoreError, TreeNotFound

if TYPE_CHECKING:
    from dvid_dask.store import Store
    from dvid_dask.versions.datastore import Datastore

__all__ = ["Sealer"]

log = logging.getLogger(__name__)

MODES = ("background", "now", "never")

#: Seconds that the end of the process waits for the compaction that runs.
PATIENCE = 20.0
#: Seconds that a new child waits for the compaction of its parent. A child shares what its parent's tree is at that
#: moment: branched before, it would keep the small files alive.
CHILD_PATIENCE = 2.0

_live: weakref.WeakSet[Sealer] = weakref.WeakSet()


class Sealer:
    """Seals trees of one datastore and compacts them, one at a time."""

    def __init__(self, datastore: Datastore, mode: str) -> None:
        if mode not in MODES:
            raise BadRequest(f"compact must be one of {', '.join(MODES)}, not {mode!r}")
        self.mode = mode
        self._store = datastore.store
        self._datastore = weakref.ref(datastore)
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._open: dict[str, threading.Event] = {}

    def seal(self, tree: str) -> None:
        """Make a tree immutable, at one moment for all its writers. Sealing it again changes nothing."""
        self._store.seal(tree, compact=False)

    def compact_later(self, tree: str) -> None:
        """Have a sealed tree compacted, as the mode says."""
        if self.mode == "now":
            self._store.seal(tree)
        elif self.mode == "background":
            with self._lock:
                if self._closed:
                    return
                if self._thread is None:
                    # a daemon, so that only `close` and the exit hook decide how long the process waits for it
                    self._thread = threading.Thread(
                        target=_work, args=(self._store, self._queue, self._open), name="dvid-dask-compact", daemon=True
                    )
                    self._thread.start()
                    _live.add(self)
                self._open.setdefault(tree, threading.Event())
            self._queue.put(tree)

    def settle(self, tree: str) -> None:
        """Wait a little if this process is about to compact a tree."""
        waiting = self._open.get(tree)
        if waiting is not None:
            waiting.wait(CHILD_PATIENCE)

    def close(self, patience: float | None = None) -> None:
        """Drop what waits and let the compaction that runs finish, for at most `patience` seconds."""
        with self._lock:
            thread, self._closed = self._thread, True
        if thread is None or not thread.is_alive():
            return
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            self._queue.put(None)
        thread.join(patience)

    def run_all(self) -> list[str]:
        """Compact every committed version that isn't compact; returns their trees."""
        datastore = self._datastore()
        done: list[str] = []
        if datastore is None:
            return done
        for repo in datastore.state(0).repos.values():
            for node in repo.nodes.values():
                if node.locked and not self._store.seal(node.tree).already:
                    done.append(node.tree)
        return done


def _work(store: Store, jobs: queue.SimpleQueue[str | None], waiting: dict[str, threading.Event]) -> None:
    # knows nothing of the sealer, so that a datastore nobody uses any more can go
    while True:
        name = jobs.get()
        if name is None:
            break
        try:
            store.seal(name)
        except TreeNotFound:
            pass  # its repository was deleted meanwhile
        except StoreError:
            # the version is committed and right; only its files stay many until the next run
            log.warning("compaction of tree %s failed; run Datastore.compact() later", name, exc_info=True)
        finally:
            done = waiting.pop(name, None)
            if done is not None:
                done.set()
    for event in waiting.values():
        event.set()


@atexit.register
def _close_all() -> None:
    for sealer in list(_live):
        sealer.close(PATIENCE)
