"""The metadata tree: records under small keys, decoded once, and changed in transactions that name what they changed.

====================  ===========================================================
key                   value
====================  ===========================================================
``h``                 `Header`: number of the last change, last ids given out
``r/REPO``            `RepoRecord`
``n/REPO/VERSION``    `NodeRecord`
``i/REPO/INSTANCE``   `InstanceInfo`
``l/REPO/VERSION/N``  a line of a version's log; version 0: of the repository's
``j/SEQ``             keys that change number SEQ wrote, for those who follow
====================  ===========================================================

Numbers are 8 (SEQ: 16) hex digits. Every change rewrites the header, so changes are serial, ids are never given out
twice, and a change that was checked against a `State` can only commit while that state is the newest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dvid_dask.store import BadStore, NewerFormat, prefix_end
from dvid_dask.versions.records import FORMAT, Header, InstanceInfo, NodeRecord, RepoRecord, log_line
from dvid_dask.versions.state import State, decode

if TYPE_CHECKING:
    from dvid_dask.store import Transaction, Tree, View

__all__ = ["MetaChange", "MetaTree"]

T = TypeVar("T")

#: Changes that a follower may be behind without reading everything anew.
JOURNAL = 256

_HEADER = b"h"
_KINDS: dict[str, type[RepoRecord] | type[NodeRecord] | type[InstanceInfo]] = {
    "r": RepoRecord,
    "n": NodeRecord,
    "i": InstanceInfo,
}

_encode = msgspec.json.Encoder().encode
_journal = msgspec.json.Decoder(list[str]).decode


def repo_key(repo: int) -> str:
    return f"r/{repo:08x}"


def node_key(repo: int, vid: int) -> str:
    return f"n/{repo:08x}/{vid:08x}"


def instance_key(repo: int, iid: int) -> str:
    return f"i/{repo:08x}/{iid:08x}"


def log_prefix(repo: int, vid: int) -> str:
    return f"l/{repo:08x}/{vid:08x}/"


def _journal_key(seq: int) -> bytes:
    return b"j/%016x" % seq


def _identity(key: str) -> tuple[str, int, int]:
    kind, _, rest = key.partition("/")
    repo, _, own = rest.partition("/")
    return kind, int(repo, 16), int(own or repo, 16)


class MetaChange:
    """One transaction on the metadata: the state it starts from and the records it sets."""

    def __init__(self, tx: Transaction, state: State) -> None:
        self._tx = tx
        self.state = state
        self._header = state.header
        self._put: dict[str, RepoRecord | NodeRecord | InstanceInfo] = {}
        self._removed: dict[str, None] = {}
        self._other = False

    def new_repo_id(self) -> int:
        """An id that no repository ever had."""
        self._header = msgspec.structs.replace(self._header, repos=self._header.repos + 1)
        return self._header.repos

    def new_version_id(self) -> int:
        """An id that no version ever had, larger than all before."""
        self._header = msgspec.structs.replace(self._header, versions=self._header.versions + 1)
        return self._header.versions

    def new_instance_id(self) -> int:
        """An id that no instance ever had."""
        self._header = msgspec.structs.replace(self._header, instances=self._header.instances + 1)
        return self._header.instances

    def put(self, record: RepoRecord | NodeRecord | InstanceInfo) -> None:
        """Set a record."""
        if isinstance(record, RepoRecord):
            key = repo_key(record.id)
        elif isinstance(record, NodeRecord):
            key = node_key(record.repo, record.id)
        else:
            key = instance_key(record.repo, record.id)
        self._removed.pop(key, None)
        self._put[key] = record

    def remove(self, key: str) -> None:
        """Remove a record by its key."""
        self._put.pop(key, None)
        self._removed[key] = None

    def repo(self, rid: int) -> RepoRecord:
        """A repository's record as this change leaves it."""
        held = self._put.get(repo_key(rid))
        return held if isinstance(held, RepoRecord) else self.state.repo(rid).record

    def node(self, rid: int, vid: int) -> NodeRecord:
        """A version's record as this change leaves it."""
        held = self._put.get(node_key(rid, vid))
        return held if isinstance(held, NodeRecord) else self.state.repo(rid).nodes[vid]

    def log(self, rid: int, vid: int, lines: list[str], at: datetime) -> None:
        """Append lines to a version's log, or with version 0 to the repository's."""
        if not lines:
            return
        first = self.node(rid, vid).logged if vid else self.repo(rid).logged
        prefix = log_prefix(rid, vid)
        for n, line in enumerate(lines, first):
            self._tx.put(f"{prefix}{n:08x}".encode(), log_line(at, line).encode())
        if vid:
            self.put(msgspec.structs.replace(self.node(rid, vid), logged=first + len(lines), updated=at))
        else:
            self.put(msgspec.structs.replace(self.repo(rid), logged=first + len(lines), updated=at))

    def remove_logs(self, rid: int) -> None:
        """Remove all logs of a repository."""
        prefix = f"l/{rid:08x}/".encode()
        self._tx.delete_range(prefix, prefix_end(prefix))
        self._other = True

    def finish(self) -> State:
        """Write what was set; returns the state that holds once this is committed."""
        if not (self._put or self._removed or self._other or self._header != self.state.header):
            return self.state
        seq = self._header.seq + 1
        header = msgspec.structs.replace(self._header, seq=seq)
        tx = self._tx
        for key, record in self._put.items():
            tx.put(key.encode(), _encode(record))
        for key in self._removed:
            tx.delete(key.encode())
        tx.put(_journal_key(seq), _encode([*self._put, *self._removed]))
        if seq > JOURNAL:
            tx.delete(_journal_key(seq - JOURNAL))
        tx.put(_HEADER, _encode(header))
        return self.state.changed(header, self._put.values(), [_identity(k) for k in self._removed])


class MetaTree:
    """Reads and changes of the metadata tree; one for all threads of a process."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._lock = threading.Lock()
        self._state: State | None = None
        self._token = ""
        self._seen: tuple[View | None, State | None] = None, None

    @staticmethod
    def initialise(tree: Tree) -> None:
        """Write the first header into an empty tree."""

        def write(tx: Transaction) -> None:
            if tx.get(_HEADER) is None:
                tx.put(_HEADER, _encode(Header()))

        tree.update(write)

    def state(self, max_age: float = 0.1) -> State:
        """The decoded metadata; this process's own changes are always in it, others' within `max_age` seconds."""
        view = self.tree.view(max_age)
        seen, state = self._seen
        if view is seen and state is not None and state is self._state:
            return state
        known = self._token  # before the state, which is set before it
        state = self._state
        token = view.token
        if state is None or token != known:
            state = self._remember(self._follow(view, state), token)
        self._seen = view, state
        return state

    def _remember(self, state: State, token: str | None) -> State:
        with self._lock:
            if self._state is None or state.header.seq >= self._state.header.seq:
                self._state = state
                if token is not None:
                    self._token = token
            return self._state

    def _follow(self, reader: View | Transaction, state: State | None) -> State:
        """The state that `reader` holds, from a state that may be older."""
        header = self._header(reader)
        if state is not None:
            behind = header.seq - state.header.seq
            if behind <= 0:
                # an older view than what this process knows: the newer one is right for everybody but a transaction,
                # and a transaction that read an old header can't commit
                return state
            if behind < JOURNAL:
                seqs = range(state.header.seq + 1, header.seq + 1)
                entries = reader.get_many([_journal_key(s) for s in seqs])
                if all(e is not None for e in entries):
                    keys = list(dict.fromkeys(k for e in entries if e is not None for k in _journal(e)))
                    values = reader.get_many([k.encode() for k in keys])
                    put = [decode(_KINDS[k[0]], v) for k, v in zip(keys, values, strict=True) if v is not None]
                    removed = [_identity(k) for k, v in zip(keys, values, strict=True) if v is None]
                    return state.changed(header, put, removed)
        records: list[RepoRecord | NodeRecord | InstanceInfo] = []
        for kind in ("r", "n", "i"):
            prefix = f"{kind}/".encode()
            records.extend(decode(_KINDS[kind], value) for _, value in reader.scan(prefix, prefix_end(prefix)))
        return State.build(header, records)

    @staticmethod
    def _header(reader: View | Transaction) -> Header:
        data = reader.get(_HEADER)
        if data is None:
            raise BadStore("the store has no metadata header: it was not made by dvid_dask.create, or is damaged")
        header = decode(Header, data)
        if header.format > FORMAT:
            raise NewerFormat(
                f"the store's metadata has format {header.format}, this package reads up to {FORMAT}: update it"
            )
        return header

    def update(self, fn: Callable[[MetaChange], T]) -> T:
        """Run `fn` on the newest state and commit what it sets, all or nothing.

        `fn` runs again when another process committed in between, so what it checks holds when it commits.
        """
        outcome: list[State] = []

        def run(tx: Transaction) -> T:
            outcome.clear()
            known = self._state
            header = self._header(tx)
            state = known if known is not None and known.header == header else self._follow_tx(tx, header, known)
            change = MetaChange(tx, state)
            result = fn(change)
            outcome.append(change.finish())
            return result

        result = self.tree.update(run)
        # the next view has a new token and finds by the header that nothing else changed
        self._remember(outcome[-1], None)
        return result

    def _follow_tx(self, tx: Transaction, header: Header, known: State | None) -> State:
        if known is not None and known.header.seq > header.seq:
            known = None
        return self._follow(tx, known)

    def log(self, rid: int, vid: int) -> list[str]:
        """Lines of a version's log, or with version 0 of the repository's."""
        prefix = log_prefix(rid, vid).encode()
        return [v.decode() for _, v in self.tree.view().scan(prefix, prefix_end(prefix))]

    def logs(self, rid: int) -> dict[int, list[str]]:
        """All logs of a repository, by version id; 0 is the repository's own."""
        prefix = f"l/{rid:08x}/".encode()
        found: dict[int, list[str]] = {}
        for key, value in self.tree.view().scan(prefix, prefix_end(prefix)):
            found.setdefault(int(key[11:19], 16), []).append(value.decode())
        return found

    def log_keys(self) -> Iterator[tuple[int, int, int]]:
        """(repository, version, number) of all log lines."""
        for key in self.tree.view(0).keys(b"l/", prefix_end(b"l/")):
            _, rid, vid, n = key.decode().split("/")
            yield int(rid, 16), int(vid, 16), int(n, 16)
