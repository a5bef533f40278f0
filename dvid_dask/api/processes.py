"""A store served by several processes that share one port, since Python computes in one thread at a time in each.

Each process has its own caches, throttle slots and counters; what they share is the store. So that a client who writes
through one reads it through another, they look at the store before each read instead of within 0.1 s.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from .config import ConfigError, ServerConfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from multiprocessing.sharedctypes import Synchronized
    from types import FrameType

__all__ = ["serve_in_processes"]

log = logging.getLogger(__name__)

#: Seconds before a process that died is started again.
_PAUSE = 1.0
#: Seconds that processes get beyond the shutdown delay before they are killed.
_GRACE = 10.0


def serve_in_processes(
    url: str,
    config: ServerConfig,
    listener: socket.socket,
    count: int,
    announce: Callable[[], None],
) -> bool:
    """Serve until told to stop; returns whether all requests could finish.

    Parameters
    ----------
    url
        The store, which every process opens for itself.
    config
        The configuration, whole.
    listener
        Where all of them accept connections.
    count
        How many.
    announce
        Called when all of them do.

    Raises
    ------
    ConfigError
        A process couldn't start; its own words are in the log.
    """
    crowd = _Crowd(url, config, listener)
    handlers = {number: signal.signal(number, crowd.stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for _ in range(count):
            crowd.start()
        if not all(crowd.is_ready(member) for member in crowd.members) and not crowd.stopping:
            raise ConfigError("a serving process ended before it was ready; the log says why")
        if not crowd.stopping:
            announce()
        return crowd.watch()
    finally:
        crowd.end()
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Member:
    def __init__(self, process: BaseProcess, ready: Connection, lifeline: Connection) -> None:
        self.process, self.ready, self.lifeline = process, ready, lifeline


class _Crowd:
    """The processes, as their parent sees them."""

    def __init__(self, url: str, config: ServerConfig, listener: socket.socket) -> None:
        self.arguments = url, config, listener
        self.context = multiprocessing.get_context("spawn")  # tensorstore and fork don't mix
        # told to one of them, for all: who is no longer a user must not get in through another
        self.reloads: Synchronized[int] = self.context.Value("Q", 0)
        self.members: list[_Member] = []
        self.stopping = False

    def start(self) -> None:
        said, ready = self.context.Pipe(duplex=False)
        end, lifeline = self.context.Pipe(duplex=False)
        level = logging.getLogger().getEffectiveLevel()
        process = self.context.Process(target=_serve_one, args=(*self.arguments, ready, end, level, self.reloads))
        process.start()
        ready.close()
        end.close()
        self.members.append(_Member(process, said, lifeline))
        if self.stopping:  # told so meanwhile
            process.terminate()

    def is_ready(self, member: _Member) -> bool:
        """Wait until it accepts connections; False if it ended instead."""
        try:
            return bool(member.ready.recv())
        except (EOFError, OSError):
            return False

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        for member in self.members:
            member.process.terminate()

    def watch(self) -> bool:
        """Until all have ended. One that dies unasked is replaced."""
        whole, deadline = True, None
        while self.members:
            if self.stopping and deadline is None:
                deadline = time.monotonic() + self.arguments[1].shutdown_delay + _GRACE
            if deadline is not None and time.monotonic() > deadline:
                return False
            for member in self.members[:]:
                member.process.join(0.05)
                code = member.process.exitcode
                if code is None:
                    continue
                self.members.remove(member)
                member.lifeline.close()
                if self.stopping:
                    whole = whole and code in (0, -signal.SIGTERM)  # the latter had not begun to serve
                    continue
                log.error("a serving process ended with status %d; another one takes its place", code)
                time.sleep(_PAUSE)
                if not self.stopping:
                    self.start()
        return whole

    def end(self) -> None:
        """Leave nobody behind."""
        for member in self.members:
            member.process.kill()
            member.process.join()
        self.members.clear()


def _serve_one(
    url: str,
    config: ServerConfig,
    listener: socket.socket,
    ready: Connection,
    parent: Connection,
    level: int,
    reloads: Synchronized[int],
) -> None:
    """What each process does."""
    import dvid_dask

    from .kafka import publishing
    from .serve import run, start_logging

    os.setpgrp()  # Ctrl-C at a terminal is for the parent, which tells us
    start_logging(config, level)
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    with dvid_dask.open(url, read_only=config.nobody_writes) as datastore, publishing(datastore, config) as publisher:
        datastore.store.max_age = 0.0
        whole = run(datastore, config, listener, lambda: _say(ready), publisher, reloads)
    if not whole:
        logging.shutdown()
        os._exit(1)


def _say(ready: Connection) -> None:
    ready.send(True)
    ready.close()


def _follow_parent(parent: Any) -> None:
    """End as told when the parent is gone, however it went."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
