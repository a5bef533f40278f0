"""Who is told of mutations, and how: a queue and a thread for each watcher, so that no mutation waits for one.

===================  ==========================================================================================
`Message`            what a watcher gets
`Feed`               the watchers of a datastore
`Watcher`            one of them: a bounded queue, a thread that empties it
`Voice`              what one mutation says, however often it is tried
===================  ==========================================================================================

A mutation may be told of when it begins (before its commit) and is told of when it is done (its commit is durable):
the records of its log, and what else datatypes report. One that fails is never told of as done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from dvid_dask.versions.records import InstanceInfo
    from dvid_dask.versions.repo import Repo

__all__ = ["Feed", "Message", "Seldom", "Voice", "Watcher"]

log = logging.getLogger(__name__)

#: Messages that may wait for a watcher; what comes beyond them is lost to it.
WAITING = 100_000
#: Entries of a list or characters of a text that count as one message more: what waits is bounded in memory too.
_LONG = 256


class Message(NamedTuple):
    """What a watcher is told.

    Attributes
    ----------
    repo : str
        UUID of the repository's root.
    data : str
        Data UUID of the instance; empty for an operation on the repository itself.
    record : dict
        In DVID's form; ``Action`` says what happened. Not to be changed: other watchers get the same.
    """

    repo: str
    data: str
    record: dict[str, Any]


def _weight(messages: Sequence[Message]) -> int:
    """For how many short messages these count.

    Examples
    --------
    >>> _weight([Message("r", "d", {"Action": "a"}), Message("r", "d", {"Labels": [1] * 1024})])
    6
    """
    parts = (len(v) for m in messages for v in m.record.values() if isinstance(v, (list, str, dict)))
    return len(messages) + sum(n // _LONG for n in parts)


class HasInfo(Protocol):
    """What a message needs to know of an instance."""

    @property
    def info(self) -> InstanceInfo: ...


class Seldom:
    """Log lines of one kind, at most one in a while; each says how many were left out.

    Parameters
    ----------
    level : int
        As of `logging`.
    every : float
        Seconds.
    """

    def __init__(self, logger: logging.Logger, level: int = logging.WARNING, every: float = 60.0) -> None:
        self._logger = logger
        self._level = level
        self._every = every
        self._lock = threading.Lock()
        self._next = 0.0
        self._skipped = 0

    def __call__(self, text: str, *args: object) -> None:
        """Log a line, unless one was logged a short while ago."""
        with self._lock:
            moment = time.monotonic()
            if moment < self._next:
                self._skipped += 1
                return
            self._next = moment + self._every
            skipped, self._skipped = self._skipped, 0
        more = f" (and {skipped} more like this since the last line)" if skipped else ""
        self._logger.log(self._level, text + "%s", *args, more)


class Watcher:
    """Gets messages in a thread of its own, in the order in which they were told.

    Made by `Feed.watch`. A context manager: at its end everything told so far is delivered.

    Attributes
    ----------
    lost : int
        Messages that came while too many were waiting.
    """

    def __init__(self, feed: Feed, receive: Callable[[Message], None], waiting: int, name: str) -> None:
        self.lost = 0
        self._feed = feed
        self._name = name
        self._receive = receive
        self._limit = waiting
        self._queue: deque[tuple[Sequence[Message], int]] = deque()
        self._waiting = 0
        self._weight = 0
        self._closing = False
        self._broken_off = False
        self._changed = threading.Condition()
        self._say_lost = Seldom(log)
        self._say_failed = Seldom(log)
        self._thread = threading.Thread(target=self._run, name="feed-watcher", daemon=True)
        self._thread.start()

    def put(self, messages: Sequence[Message]) -> None:
        """Hand over messages that belong together. Never waits, never fails: beyond the limit they are lost.

        Those of one call are taken whole where nothing else waits, however many they are.
        """
        weight = _weight(messages)
        with self._changed:
            if self._closing:
                return
            if self._weight and self._weight + weight > self._limit:
                self.lost += len(messages)
            else:
                self._queue.append((messages, weight))
                self._waiting += len(messages)
                self._weight += weight
                self._changed.notify()
                return
        self._say_lost("%s: too many messages wait, %d are lost by now", self._name, self.lost)

    def close(self, timeout: float | None = None) -> int:
        """Deliver what waits, then stop.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which the rest is given up.

        Returns
        -------
        int
            Messages that were given up.
        """
        self._feed._leave(self)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            return 0  # called by the watcher itself: the thread ends by itself
        self._thread.join(timeout)
        with self._changed:
            self._broken_off = True
            left, self._waiting = self._waiting, 0
            self._queue.clear()
        return left

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closing:
                        return
                    self._changed.wait()
                messages, weight = self._queue.popleft()
            for message in messages:
                if self._broken_off:
                    return
                try:
                    self._receive(message)
                except Exception as error:
                    self._say_failed("%s failed: %s: %s", self._name, type(error).__name__, error)
                with self._changed:
                    self._waiting = max(0, self._waiting - 1)
            with self._changed:
                self._weight -= weight

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Feed:
    """The watchers of one datastore object. True when there is any."""

    def __init__(self) -> None:
        self._watchers: tuple[Watcher, ...] = ()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def watch(
        self, receive: Callable[[Message], None], *, waiting: int = WAITING, name: str = "a watcher of mutations"
    ) -> Watcher:
        """See `Datastore.watch`; `name` stands in the log."""
        with self._lock:
            watcher = Watcher(self, receive, waiting, name)
            self._watchers = (*self._watchers, watcher)
        return watcher

    def _leave(self, watcher: Watcher) -> None:
        with self._lock:
            self._watchers = tuple(w for w in self._watchers if w is not watcher)

    def tell(self, messages: Sequence[Message]) -> None:
        """Tell all watchers. Never waits, never fails."""
        if messages:
            for watcher in self._watchers:
                watcher.put(messages)

    def operation(self, repo: Repo, action: str, **fields: Any) -> None:
        """Tell of an operation on a repository itself: it is done."""
        if self._watchers:
            self.tell([Message(repo.root, "", {"Action": action, **fields})])

    def close(self) -> None:
        """Deliver what waits, for ten seconds at most, and stop all watchers."""
        for watcher in self._watchers:
            watcher.close(10.0)


class Voice:
    """What one mutation says to the watchers, however often it is tried.

    A later attempt repeats what the earlier ones announced: only what goes beyond that is told.
    """

    __slots__ = ("_begun", "_done", "_feed", "_root", "_told")

    def __init__(self, feed: Feed, root: str) -> None:
        self._feed = feed
        self._root = root
        self._told = 0
        self._begun: list[Message] = []
        self._done: list[Message] = []

    def attempt(self) -> None:
        """Another attempt."""
        self._begun = []
        self._done = []

    def begins(self, instance: HasInfo, record: dict[str, Any]) -> None:
        """To be told before the commit, unless an earlier attempt was about to commit and said it."""
        self._begun.append(self._message(instance, record))

    def ends(self, instance: HasInfo, record: dict[str, Any]) -> None:
        """To be told once the commit is durable."""
        self._done.append(self._message(instance, record))

    def commits(self) -> None:
        """The attempt went well and will be committed."""
        self._feed.tell(self._begun[self._told :])
        self._told = max(self._told, len(self._begun))

    def done(self) -> None:
        """The commit is durable."""
        self._feed.tell(self._done)

    def _message(self, instance: HasInfo, record: dict[str, Any]) -> Message:
        return Message(self._root, instance.info.data_uuid, record)
