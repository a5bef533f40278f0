"""One mutation, one commit: the change, what synced instances do about it, and its record in the log.

Log of an instance at a version, beside the instances' keys in the version's tree:

===============================  ==================================================
``log/INSTANCE/VERSION``         number of records
``log/INSTANCE/VERSION/N``       JSON of record N: `MutationRecord`
===============================  ==================================================

Children inherit the records of their ancestors with the tree, so a version knows its whole history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from dvid_dask.errors import BadRequest, LockedVersion
from dvid_dask.store import Sealed, prefix_end
from dvid_dask.versions.feed import Voice
from dvid_dask.versions.records import InstanceInfo, go_time, now
from dvid_dask.versions.space import Space, TxSpace
from dvid_dask.versions.undo import UndoRecord, forget_undo, kept_tree, note_tree, put_undo, read_undo, read_undo_data

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.store import Transaction, View
    from dvid_dask.versions.version import Version

__all__ = ["Handed", "HasKeys", "Mutation", "MutationRecord", "mutate", "read_log", "tell_followers"]

T = TypeVar("T")
AnySpace: TypeAlias = Space | TxSpace


class MutationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a mutation: which, who, with what, when, and the datatype's own record.

    Attributes
    ----------
    id : int
        Mutation id, unique in the repository.
    user, app : str
        Who asked for it, with which program.
    time : datetime
        When, by the clock of the process that committed.
    record : dict
        The datatype's record in DVID's form.
    """

    id: int
    user: str = ""
    app: str = ""
    time: datetime
    record: dict[str, Any]


class FollowUp(NamedTuple):
    """What can't be part of a commit and follows it.

    Attributes
    ----------
    subscriber, event
        Who is told, and of what.
    tree, before
        The tree of who tells, and what it was before the mutation.
    """

    subscriber: Datatype
    event: object
    tree: str
    before: View


@dataclass
class Handed:
    """What mutations on a draft leave to the commit that lands it: records of logs, and events that follow it."""

    records: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    followups: list[FollowUp] = field(default_factory=list)


class HasInfo(Protocol):
    """What a mutation asks of an instance."""

    @property
    def info(self) -> InstanceInfo: ...


class HasKeys(HasInfo, Protocol):
    """What a mutation asks of an instance whose keys it reads or changes."""

    def space_in(self, state: View) -> Space:
        """Its keys in a state of a tree."""
        ...

    def tx_space_in(self, tx: Transaction) -> TxSpace:
        """Its keys in a transaction."""
        ...


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(MutationRecord).decode


def log_root(iid: int, vid: int) -> bytes:
    """Key of the number of records; the records follow below it."""
    return b"log/%08x/%08x" % (iid, vid)


def read_log(view: View, iid: int, vid: int) -> Iterator[MutationRecord]:
    """The records of an instance at a version, in the order of their commits."""
    prefix = log_root(iid, vid) + b"/"
    for _, value in view.scan(prefix, prefix_end(prefix)):
        yield _decode(value)


class Mutation:
    """A change in progress, inside its transaction.

    Attributes
    ----------
    id : int
        Mutation id; no other mutation of the repository has or will have it.
    user, app : str
        Who asks, with which program.
    time : datetime
        Start of this attempt (UTC).
    version : Version
        Where it happens.
    tx : Transaction
        The one commit.
    """

    def __init__(
        self,
        mid: int,
        user: str,
        app: str,
        version: Version,
        tx: Transaction,
        tree: str,
        vid: int,
        voice: Voice | None = None,
        before: View | None = None,
    ) -> None:
        self.id = mid
        self.user = user
        self.app = app
        self.time = now()
        self.version = version
        self.tx = tx
        self._tree = tree
        self._vid = vid
        self._voice = voice
        self._before = tx.base if before is None else before
        self._serial = 0
        self._records: dict[int, list[dict[str, Any]]] = {}
        self._published: list[str] = []
        #: whose event is being told; None in a commit that follows another
        self.teller: Datatype | None = None
        #: what can't be part of this commit and follows it
        self.followups: list[FollowUp] = []
        #: the one that this commit follows, if it does
        self.follows: FollowUp | None = None

    def space(self, instance: HasKeys) -> TxSpace:
        """The keys of an instance in this transaction.

        Raises
        ------
        BadRequest
            When the instance's keys lie in another tree: a versioned and an unversioned instance can't be changed
            in one commit.
        """
        if not self._shares_tree(instance.info):
            raise BadRequest(
                f"data instance {instance.info.name!r} can't be changed in this commit: versioned and unversioned "
                "instances lie in different trees"
            )
        return instance.tx_space_in(self.tx)

    def reading(self, instance: Datatype) -> AnySpace:
        """The keys of an instance to read from: in this transaction, or as they are where they lie in another tree."""
        return self.space(instance) if self._shares_tree(instance.info) else instance.view(0)

    def before(self, instance: HasKeys) -> Space | None:
        """The keys of an instance as they were before this mutation, or before the one that it follows.

        None where they lie in another tree than either.
        """
        if self._shares_tree(instance.info):
            return instance.space_in(self._before)
        if self.follows is not None and self.version.tree(instance.info).name == self.follows.tree:
            return instance.space_in(self.follows.before)
        return None

    def serial(self) -> int:
        """A number that this attempt hasn't given yet: 0, 1, ..."""
        self._serial += 1
        return self._serial - 1

    def _shares_tree(self, info: InstanceInfo) -> bool:
        return self.version.tree(info).name == self._tree

    def log(self, instance: HasInfo, record: dict[str, Any]) -> None:
        """Add a record to the instance's JSON mutation log; it is part of the commit. Watchers get it afterwards."""
        self._records.setdefault(instance.info.id, []).append(record)
        self.report(instance, record)

    @property
    def watched(self) -> bool:
        """Whether anybody is told of this mutation."""
        return self._voice is not None

    def announce(self, instance: HasInfo, record: dict[str, Any]) -> None:
        """Tell watchers what begins: right before the commit, when all that can be refused has been done.

        It is said once, however often the mutation is tried; attempts announce the same in the same order.
        """
        if self._voice is not None:
            self._voice.begins(instance, self._whole(record))

    def report(self, instance: HasInfo, record: dict[str, Any]) -> None:
        """Tell watchers something once the commit is durable. It isn't kept in the log."""
        if self._voice is not None:
            self._voice.ends(instance, self._whole(record))

    def _whole(self, record: dict[str, Any]) -> dict[str, Any]:
        # readers of the topics sort messages by version and time, so each has both
        if "UUID" in record and "Timestamp" in record:
            return record
        return {"Timestamp": go_time(self.time), "UUID": self.version.uuid, **record}

    def keep_undo(
        self, instance: HasInfo, action: str, data: bytes, mutation: int = 0, *, summary: bytes = b""
    ) -> None:
        """Keep how to take this mutation back; it is part of the commit. At a committed version nothing is kept.

        Parameters
        ----------
        instance : Datatype
        action : str
            What the mutation did.
        data : bytes
            The datatype's own words.
        mutation : int
            Its id, if it isn't this one's: a request may stand for several mutations.
        summary : bytes
            What the mutation has to do with, for the datatype to look at first.
        """
        mid = mutation or self.id
        if self.keeps_undo(instance):
            kept = UndoRecord(
                id=mid, action=action, user=self.user, app=self.app, time=self.time, latest=mid, summary=summary
            )
            self.replace_undo(instance, kept, data)

    def forget_undo(self, instance: HasInfo, mutation: int) -> None:
        """Keep nothing of a mutation any more: it goes on under another id."""
        forget_undo(self.tx, instance.info.id, self._vid, mutation)

    def keeps_undo(self, instance: HasInfo) -> bool:
        """Whether mutations of the instance can be taken back: those of a versioned one at an open version."""
        return instance.info.versioned and not self.version.record.locked

    def keep_states(
        self, instance: HasInfo, mutation: int = 0, *, before: bool = True, after: bool = True
    ) -> tuple[str, str]:
        """Keep the version's tree as it is right before and right after this commit, for an undo.

        For changes that are too large to be kept by `keep_undo`. The trees go with the commit of the version.

        Returns
        -------
        before, after : str
            Names of the trees, of which those are made that are asked for.
        """
        names = [kept_tree(instance.info.id, self._vid, mutation or self.id, what) for what in ("before", "after")]
        wanted = [name if asked else None for name, asked in zip(names, (before, after), strict=True)]
        for name in wanted:
            if name is not None:
                note_tree(self.tx, name)
        self.tx.keep_states(*wanted)
        return names[0], names[1]

    def undo_record(self, instance: HasInfo, mutation: int) -> UndoRecord | None:
        """What is kept of a mutation of an instance at this version."""
        return read_undo(self.tx, instance.info.id, self._vid, mutation)

    def undo_data(self, instance: HasInfo, mutation: int) -> bytes:
        """How to take a mutation of an instance at this version back or, where that was done, to do it again."""
        return read_undo_data(self.tx, instance.info.id, self._vid, mutation)

    def replace_undo(self, instance: HasInfo, record: UndoRecord, data: bytes) -> None:
        """Keep this of a mutation instead."""
        put_undo(self.tx, instance.info.id, self._vid, record, data)

    def publish(self, source: Datatype, event: object, *, to: Callable[[Datatype], bool] | None = None) -> None:
        """Tell the instances that sync with `source`; what they do about it is part of this commit.

        A subscriber whose keys lie in another tree (one of the two is unversioned) gets a commit of its own, right
        after this one.

        Parameters
        ----------
        source : Datatype
            Who tells.
        event : object
            One of `dvid_dask.datatypes.events`.
        to : callable, optional
            Which subscribers; all by default.
        """
        state = self.version.repo.state()
        me = source.info.data_uuid
        if me in self._published:
            return  # a ring of subscriptions: each instance speaks once
        self._published.append(me)
        before, self.teller = self.teller, source
        try:
            for info in state.instances.values():
                if me in info.syncs:
                    subscriber = self.version.instance(info)
                    if to is not None and not to(subscriber):
                        continue
                    if self._shares_tree(info):
                        subscriber.on_event(self, event)
                    else:
                        self.followups.append(FollowUp(subscriber, event, self._tree, self._before))
        finally:
            self.teller = before
            self._published.pop()

    def leave(self, handed: Handed) -> None:
        """Leave what is to be logged, and who is to be told, to another mutation; see `Handed`."""
        for iid, records in self._records.items():
            handed.records.setdefault(iid, []).extend(records)
        handed.followups += self.followups
        self._records = {}

    def take(self, handed: Handed) -> None:
        """Log what others left, and tell whom they left."""
        for iid, records in handed.records.items():
            self._records.setdefault(iid, []).extend(records)
        self.followups += handed.followups

    def finish(self) -> None:
        """Write the log's records, in the order of the commits."""
        for iid, records in self._records.items():
            root = log_root(iid, self._vid)
            for record in records:
                kept = MutationRecord(id=self.id, user=self.user, app=self.app, time=self.time, record=record)
                self.tx.append(root, _encode(kept))


def _follow(m: Mutation, _: TxSpace, *, told: FollowUp) -> None:
    m.follows = told
    told.subscriber.on_event(m, told.event)


def mutate(
    instance: Datatype,
    fn: Callable[[Mutation, TxSpace], T],
    *,
    user: str = "",
    app: str = "",
    force: bool = False,
) -> T:
    """Run `fn` as one atomic commit on the tree of an instance; see `Datatype.mutate`."""
    version, info = instance.version, instance.info
    record = version.record
    if info.versioned and record.locked and not force:
        raise LockedVersion(f"version {record.uuid} is committed: make a new version from it to change {info.name!r}")
    tree = version.tree(info)
    vid = record.id if info.versioned else version.repo.state().root.id
    mid = version.repo.next_mutation_id()
    last: list[Mutation] = []
    feed = version.datastore.feed
    voice = Voice(feed, version.repo.root) if feed else None

    def attempt(tx: Transaction) -> T:
        if voice is not None:
            voice.attempt()
        m = Mutation(mid, user, app, version, tx, tree.name, vid, voice)
        result = fn(m, m.space(instance))
        m.finish()
        if voice is not None:
            voice.commits()
        last[:] = [m]
        return result

    if info.versioned and record.locked:
        from dvid_dask.versions.forcing import force_update

        result = force_update(version, attempt)
    else:
        try:
            result = tree.update(attempt)
        except Sealed:
            if version.datastore.state(0).repo(version.repo.id).nodes[version.id].locked:
                if force:
                    return mutate(instance, fn, user=user, app=app, force=True)
                raise LockedVersion(f"version {record.uuid} was committed meanwhile") from None
            raise LockedVersion(
                f"version {record.uuid} is being committed right now; if it stays open, its commit was interrupted: "
                "commit it again"
            ) from None
    if voice is not None:
        voice.done()
    tell_followers(last[0], force=force)
    return result


def tell_followers(m: Mutation, *, force: bool = False) -> None:
    """Tell those that could not be part of a mutation's commit, now that it is done."""
    for told in m.followups:
        mutate(told.subscriber, partial(_follow, told=told), user=m.user, app=m.app, force=force)
