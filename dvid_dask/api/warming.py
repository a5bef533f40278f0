"""What a server reads before somebody asks: annotations of neurons, whose columns are in memory."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from dvid_dask.datatypes.neuronjson import NeuronJSON, library
from dvid_dask.errors import DvidError
from dvid_dask.store import StoreError

if TYPE_CHECKING:
    from dvid_dask.versions import Datastore

__all__ = ["start_warming", "warm"]

log = logging.getLogger(__name__)


def start_warming(datastore: Datastore) -> threading.Thread:
    """`warm` in a thread of its own, which ends with the process."""
    thread = threading.Thread(target=warm, args=(datastore,), name="warming", daemon=True)
    thread.start()
    return thread


def warm(datastore: Datastore) -> int:
    """Make the columns of the annotations at the newest version of each repository's master, with all their fields.

    Whoever asks meanwhile waits for that instead of reading the same again. It ends when half of the memory for
    annotations is used.

    Returns
    -------
    int
        How many instances are in memory.
    """
    made = 0
    try:
        for repo in list(datastore.repos.values()):
            head = repo["master"]
            for name in list(head):
                if library.kept() > library.memory() // 2:
                    return made
                instance = head[name]
                if isinstance(instance, NeuronJSON):
                    instance.field_times()
                    made += 1
    except (DvidError, StoreError) as error:
        log.warning("annotations are read when they are asked for: %s", error)
    return made
