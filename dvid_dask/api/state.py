"""What one running server knows beside its store: settings, slots, counters, who pinged when, whom to keep out."""

from __future__ import annotations

import collections
import itertools
import logging
import os
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dvid_dask.errors import BadRequest, TooBusy

from .auth import guard_of
from .config import ServerConfig
from .origins import Origins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvid_dask.versions import Datastore

__all__ = ["BlockList", "ByteBudget", "Latencies", "LoadCounters", "ServerState", "Throttle"]

log = logging.getLogger(__name__)


class ServerState:
    """One server's state; every handler finds it as ``call.server``.

    Attributes
    ----------
    datastore : Datastore
        What is served.
    config : ServerConfig
        How it was started.
    throttle : Throttle
        Slots for operations that ask for them (``throttle=on``).
    load : LoadCounters
        Requests and bytes of the last second.
    available : bool
        False from the moment that the server is told to stop: all but heartbeat and load get 503.
    in_flight : int
        Requests being answered now. Changed on the event loop only.
    near : bool
        Whether a lookup in the store takes no longer than a disk does.
    origins : Origins
        Whose scripts may read answers.
    guard : Guard or None
        Asks who wants to read or write; None where nobody needs to say.
    record_activity : callable or None
        Gets a record of each request at the server, a repository or a version; must not wait.
    """

    def __init__(self, datastore: Datastore, config: ServerConfig | None = None) -> None:
        self.datastore = datastore
        self.config = config or ServerConfig()
        self.throttle = Throttle()
        self.load = LoadCounters()
        self.latencies = Latencies()
        self.bodies = ByteBudget(self.config.body_memory)
        self.block_list = BlockList.load(self.config.block_list_file)
        self.origins = Origins(self.config.cors_domains, with_users=self.config.auth.mode != "none")
        self.guard = guard_of(datastore, self.config, self.origins)
        self.near = datastore.store.url.startswith(("file:", "memory:"))
        self.started = time.time()
        self.available = True
        self.in_flight = 0
        self.listening = ""
        self.record_activity: Callable[[dict[str, Any]], None] | None = None
        self._ids = itertools.count(1)
        self._process = f"{os.getpid():x}"

    def next_id(self) -> str:
        """An id for a request, to be found in the log."""
        return f"{self._process}-{next(self._ids):06d}"

    @property
    def read_only(self) -> bool:
        """Whether changes are refused (but for admins)."""
        return self.config.mode == "readonly"

    @property
    def full_write(self) -> bool:
        """Whether committed versions may be changed."""
        return self.config.mode == "fullwrite"


class Throttle:
    """A number of slots; taking one never waits.

    Examples
    --------
    >>> throttle = Throttle(1)
    >>> throttle.take()
    >>> throttle.take()
    Traceback (most recent call last):
    ...
    dvid_dask.errors.TooBusy: 1 throttled operations are running and 1 are allowed: try again later
    >>> throttle.give_back()
    """

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self.running = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Take a slot.

        Raises
        ------
        TooBusy
            All are taken (HTTP 503).
        """
        with self._lock:
            if self.running >= self.limit:
                raise TooBusy(
                    f"{self.running} throttled operations are running and {self.limit} are allowed: try again later"
                )
            self.running += 1

    def give_back(self) -> None:
        """Return a slot."""
        with self._lock:
            self.running -= 1


class ByteBudget:
    """Bytes of request bodies that may be in memory at once, over all requests.

    Examples
    --------
    >>> budget = ByteBudget(100)
    >>> with budget.hold(60):
    ...     budget.take(60)
    Traceback (most recent call last):
    ...
    dvid_dask.errors.TooBusy: request bodies already hold 60 of 100 bytes of memory: send large ones one after another
    >>> budget.held
    0
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Reserve bytes, or refuse with :class:`TooBusy`."""
        with self._lock:
            if self.held + count > self.limit:
                raise TooBusy(
                    f"request bodies already hold {self.held} of {self.limit} bytes of memory: "
                    "send large ones one after another"
                )
            self.held += count

    def give_back(self, count: int) -> None:
        """Release bytes."""
        with self._lock:
            self.held -= count

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Reserve for the duration of a block."""
        self.take(count)
        try:
            yield
        finally:
            self.give_back(count)


class LoadCounters:
    """Requests and body bytes, by second. Called on the event loop only."""

    FIELDS = ("gets", "puts", "bytes in", "bytes out")

    def __init__(self) -> None:
        self._second = 0
        self._now = [0, 0, 0, 0]
        self._last = [0, 0, 0, 0]

    def _turn(self) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._last = self._now if second == self._second + 1 else [0, 0, 0, 0]
            self._now = [0, 0, 0, 0]
            self._second = second

    def request(self, method: str, length_in: int) -> None:
        """Count a request and the body that it announced."""
        self._turn()
        self._now[0 if method in ("GET", "HEAD") else 1] += 1
        self._now[2] += length_in

    def sent(self, count: int) -> None:
        """Count bytes of an answer."""
        self._turn()
        self._now[3] += count

    def last_second(self) -> dict[str, int]:
        """The counts of the last full second."""
        self._turn()
        return dict(zip(self.FIELDS, self._last, strict=True))


class Latencies:
    """Who pinged (``u=`` on heartbeat, load, user-latencies), when, and how long the answer took. Event loop only."""

    LIMIT = 10_000  # users remembered: names come from the outside

    def __init__(self) -> None:
        self._users: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()

    def ping(self, user: str, milliseconds: int) -> None:
        """Record one ping of a user."""
        record = self._users.pop(user, None)
        if record is None:
            record = {"User": user, "LastPing": "", "LastLatency": 0, "MinLatency": milliseconds, "MaxLatency": 0}
        record["LastPing"] = datetime.now().astimezone().isoformat()
        record["LastLatency"] = milliseconds
        record["MinLatency"] = min(record["MinLatency"], milliseconds)
        record["MaxLatency"] = max(record["MaxLatency"], milliseconds)
        self._users[user] = record
        if len(self._users) > self.LIMIT:
            self._users.popitem(last=False)

    def of(self, user: str) -> dict[str, Any]:
        """The record of a user; zeros for one who never pinged."""
        return self._users.get(user) or {
            "User": "",
            "LastPing": "",
            "LastLatency": 0,
            "MinLatency": 0,
            "MaxLatency": 0,
        }

    def all(self) -> dict[str, dict[str, Any]]:
        """All records by user."""
        return dict(self._users)


class _Rule(NamedTuple):
    kind: str
    pattern: str
    note: str


class BlockList:
    r"""Users and addresses that get 429.

    One rule a line, ``u=<user>[,note]`` or ``ip=<pattern>[,note]``. Address patterns are compared part by part at the
    dots (colons for IPv6); ``*`` stands for any part; a shorter pattern matches all that begin so.

    Examples
    --------
    >>> rules = BlockList.parse("u=mallory,left the lab\nip=10.1.*.7\nip=192.168")
    >>> rules.match("mallory", "1.2.3.4")
    'user mallory is blocked: left the lab'
    >>> rules.match("alice", "10.1.99.7")
    'address 10.1.99.7 is blocked'
    >>> rules.match("alice", "192.168.4.4")
    'address 192.168.4.4 is blocked'
    >>> rules.match("alice", "10.1.99.8") is None
    True
    """

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self.users = {r.pattern: r.note for r in rules if r.kind == "u"}
        self.addresses = [(_parts(r.pattern), r.note) for r in rules if r.kind == "ip"]

    def __bool__(self) -> bool:
        return bool(self.users or self.addresses)

    @classmethod
    def parse(cls, content: str) -> BlockList:
        """The rules in a text.

        Raises
        ------
        BadRequest
            A line that is no rule; blank lines are skipped.
        """
        rules = []
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            kind, equals, rest = line.strip().partition("=")
            pattern, _, note = rest.partition(",")
            if kind not in ("u", "ip") or not equals or not pattern or "," in note:
                raise BadRequest(f'line {number} of the block list, "{line[:80]}", is neither u=user nor ip=pattern')
            rules.append(_Rule(kind, pattern.strip(), note.strip()))
        return cls(tuple(rules))

    @classmethod
    def load(cls, path: str) -> BlockList:
        """The rules in a file; none where no file is configured.

        Raises
        ------
        BadRequest
            The file can't be read or holds a bad line.
        """
        if not path:
            return cls()
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"the block list {path} can't be read: {error}") from None

    def match(self, user: str, address: str) -> str | None:
        """Why this one is kept out; ``None`` = welcome."""
        if user in self.users:
            return _because(f"user {user} is blocked", self.users[user])
        if self.addresses:
            parts = _parts(address)
            for pattern, note in self.addresses:
                if len(pattern) <= len(parts) and all(p in ("*", a) for p, a in zip(pattern, parts, strict=False)):
                    return _because(f"address {address} is blocked", note)
        return None


def _parts(address: str) -> list[str]:
    return address.split(":" if ":" in address else ".")


def _because(what: str, note: str) -> str:
    return f"{what}: {note}" if note else what
