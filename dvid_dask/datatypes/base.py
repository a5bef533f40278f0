"""Base of all datatypes: a data instance at a version, its settings, its reads and its one-commit mutations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from dvid_dask.errors import LockedVersion
from dvid_dask.versions.feed import Message
from dvid_dask.versions.mutation import Mutation, MutationRecord, mutate, read_log
from dvid_dask.versions.records import InstanceInfo
from dvid_dask.versions.registry import lookup, register
from dvid_dask.versions.space import Space, TxSpace

if TYPE_CHECKING:
    from dvid_dask.store import Amount, Transaction, View
    from dvid_dask.versions.meaning import MergeStep
    from dvid_dask.versions.repo import Repo
    from dvid_dask.versions.version import Version

__all__ = ["CONFLICT", "Datatype", "InstanceInfo", "Mutation", "Space", "TxSpace", "lookup", "register"]

T = TypeVar("T")

#: What `Datatype.merge_value` answers when it can't settle a key.
CONFLICT: Final = object()


class Datatype:
    """A data instance at a version.

    Subclasses set the class variables, add their operations and register with `register`. All state lies in the store:
    objects are cheap, live as long as a request, and pickle by name.

    Parameters
    ----------
    version : Version
        Where to look.
    info : InstanceInfo
        The instance.

    Attributes
    ----------
    typename, typeurl, typeversion : str
        As DVID's ``info`` names them.
    default_compression : str
        Value of the ``Compression`` setting where none is given.
    reads_by_post : frozenset of str
        REST keywords whose POST is not a mutation.
    sync_partners : frozenset of str or None
        Types of instances it may follow; ``"*"`` among them for any; None when it has no sync at all.
    merges_by_meaning : bool
        Whether `merge_versions` merges instances of the type, not one key after the other.
    """

    typename: ClassVar[str] = ""
    typeurl: ClassVar[str] = ""
    typeversion: ClassVar[str] = "0.1"
    default_compression: ClassVar[str] = "lz4"
    reads_by_post: ClassVar[frozenset[str]] = frozenset()
    sync_partners: ClassVar[frozenset[str] | None] = None
    merges_by_meaning: ClassVar[bool] = False

    def __init__(self, version: Version, info: InstanceInfo) -> None:
        self.version = version
        self.info = info

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.version, self.info.data_uuid)

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.info.name

    @property
    def repo(self) -> Repo:
        """The repository it belongs to."""
        return self.version.repo

    # ------------------------------------------------------------------ settings

    @classmethod
    def parse_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The type's own settings, JSON-able, from those given at creation (names in lower case).

        Raises
        ------
        BadRequest
            When a value can't be used.
        """
        return {}

    def extended(self) -> dict[str, Any]:
        """The type's part of ``info``."""
        return {}

    def describe(self) -> dict[str, Any]:
        """DVID's ``info`` of the instance: ``{"Base": ..., "Extended": ...}``."""
        return {"Base": self.base(), "Extended": self.extended()}

    def base(self) -> dict[str, Any]:
        """The part of ``info`` that all types share, in DVID's order."""
        info = self.info
        named = self.repo.state().by_data_uuid
        where = f"dvid-dask @ {self.version.datastore.url}"
        return {
            "TypeName": info.typename,
            "TypeURL": self.typeurl,
            "TypeVersion": self.typeversion,
            "DataUUID": info.data_uuid,
            "Name": info.name,
            "RepoUUID": info.created_at,
            "Compression": info.compression,
            "Checksum": info.checksum,
            "Syncs": [named[s].name if s in named else "undefined" for s in info.syncs],
            "Versioned": info.versioned,
            "KVStore": where,
            "LogStore": where,
            "Tags": info.tags,
        }

    def update_settings(self, **changes: Any) -> None:
        """Change the type's own settings. They are not versioned: all versions see the change."""
        if changes:
            self.info = self.repo.update_settings(self.info, changes)

    @property
    def tags(self) -> dict[str, str]:
        """Free texts on the instance, not versioned; see `set_tags`."""
        return dict(self.info.tags or {})

    def set_tags(self, tags: Mapping[str, str], *, replace: bool = False, force: bool = False) -> None:
        """Add tags, or replace all. Refused at a committed version unless forced, though tags aren't versioned."""
        self.check_open(force)
        self.info = self.repo.set_tags(self.info.name, tags, replace=replace)

    def set_syncs(self, partners: Sequence[str], *, replace: bool = False, force: bool = False) -> None:
        """Follow the changes of other instances; see `Repo.set_syncs`. Refused at a committed version unless forced."""
        self.check_open(force)
        self.info = self.repo.set_syncs(self.info.name, partners, replace=replace)

    @classmethod
    def refuses_sync(cls, me: InstanceInfo, partner: InstanceInfo) -> str | None:
        """Why the instance `me` of this type can't follow `partner`; None when it can."""
        allowed = cls.sync_partners
        if allowed is None or (partner.typename not in allowed and "*" not in allowed):
            return f"{me.typename} {me.name!r} can't follow {partner.typename} {partner.name!r}"
        return None

    # ------------------------------------------------------------------ data

    def view(self, max_age: float = 0.1) -> Space:
        """The instance's keys at this version, pinned to one state.

        Parameters
        ----------
        max_age : float
            Seconds for which commits of other processes may be missing; this process's are always in. 0 looks again.
        """
        return self.space_in(self.version.tree(self.info).view(max_age))

    def space_in(self, state: View) -> Space:
        """The instance's keys in a state of a tree: of its version, a draft of it, another version.

        Whoever reads an instance's keys gets them here, so a type can say how they are read.
        """
        return Space(state, self.info.prefix)

    def tx_space_in(self, tx: Transaction) -> TxSpace:
        """The instance's keys in a transaction, as `space_in`."""
        return TxSpace(tx, self.info.prefix)

    def stored(self) -> Amount:
        """How many keys the instance has at this version and how many bytes they take, compressed as they are.

        Versions share what they have in common, so the amounts of several must not be added up. It costs a few reads,
        however much there is.
        """
        return self.view().measure()

    def mutate(self, fn: Callable[[Mutation, TxSpace], T], *, user: str = "", app: str = "", force: bool = False) -> T:
        """Change the instance in one atomic commit.

        Parameters
        ----------
        fn : callable
            Gets the `Mutation` and the instance's keys inside it. Runs again, from the start, when another commit came
            in between, so it must not change anything but through its arguments.
        user, app : str
            Who asks, with which program; kept with the log's records.
        force : bool
            Also at a committed version; the change is then carried to every descendant that still has the same value.

        Returns
        -------
        object
            What `fn` returned in the attempt that was committed.

        Raises
        ------
        LockedVersion
            When the version is committed and `force` isn't set.
        """
        return mutate(self, fn, user=user, app=app, force=force)

    def check_open(self, force: bool = False) -> None:
        """Refuse a committed version, unless the instance is unversioned.

        Raises
        ------
        LockedVersion
        """
        if self.info.versioned and not force and self.version.locked:
            raise LockedVersion(
                f"version {self.version.uuid} is committed: make a new version from it to change {self.name!r}"
            )

    def tell(self, record: dict[str, Any]) -> None:
        """Tell watchers of something that is done and no mutation; see `Mutation.announce` and `Mutation.report`."""
        feed = self.version.datastore.feed
        if feed:
            feed.tell([Message(self.repo.root, self.info.data_uuid, record)])

    def disagreements(self) -> Iterator[str]:
        """What of the instance at this version contradicts something else of it, in words. The default has nothing."""
        return iter(())

    def on_event(self, m: Mutation, event: object) -> None:
        """Take part in the commit of an instance this one follows. The default does nothing."""

    def history(self) -> Iterator[MutationRecord]:
        """All that is kept of this version's mutations of the instance, in the order of their commits."""
        vid = self.version.id if self.info.versioned else self.repo.state().root.id
        return read_log(self.version.tree(self.info).view(), self.info.id, vid)

    def mutations(self) -> Iterator[dict[str, Any]]:
        """The JSON mutation log of this version, in DVID's form and the order of the commits."""
        return (kept.record for kept in self.history())

    # ------------------------------------------------------------------ versions against each other

    def describe_change(self, key: bytes) -> Any:
        """What a changed key means to a user; the default is the key itself.

        Called by `Version.diff` with keys relative to the instance. None leaves the key out of the report: it is
        bookkeeping.
        """
        return key

    def carried_together(self, key: bytes) -> bool:
        """Whether a change of this key means something only together with the other such keys of the instance.

        Asked about a write that is forced onto a committed version: its descendants get all such changes or none.
        """
        return False

    def is_derived(self, key: bytes) -> bool:
        """Whether a key holds nothing but what the events of the one instance that it follows make of it.

        Who brings two histories together leaves such keys alone and tells the events instead.
        """
        return False

    def merge_value(self, key: bytes, base: bytes | None, values: Sequence[bytes | None]) -> Any:
        """Settle a key that several parents of a merge changed to different values.

        The door for types that understand what they store. Called for a new merge version, with keys relative to the
        instance.

        Parameters
        ----------
        key : bytes
        base : bytes or None
            Value at the common ancestor, None where there is none.
        values : sequence
            The parents' different values, in the order of the parents; never None.

        Returns
        -------
        bytes, None or CONFLICT
            The value, None to have no such key, or `CONFLICT` (the default): the key is absent and gets listed.
        """
        return CONFLICT

    def merge_versions(self, step: MergeStep) -> None:
        """Bring what another parent of a merge has changed into the new version, by its meaning.

        For types whose keys depend on each other, and which say so by `merges_by_meaning`. Called on the instance at
        the new version, once for each parent after the first. The new version begins with what the first parent has.
        Nobody sees it before the merge is whole, so what has to be done is done in as many commits
        (`MergeStep.update`) as keep memory bounded; a kill leaves nothing.

        What both sides changed in ways that contradict each other stays as it is in the new version, and is listed
        (`MergeStep.conflict`). By default keys are merged one by one with `merge_value`, and ours stays in a conflict.

        **Followers.** Instances that follow others (sync) merge before those that they follow, so an instance finds
        what it follows as it is without the other parent's changes. It merges what is its own, and may read the
        followed instance at the new version (``self.version[name]``, or ``m.space(...)`` within a commit). What it
        derives from the other (lists by body, say) it leaves as it is here: that fits the state of the other. When the
        other merges, its events come to `on_event` as they would had the edits been made here, one after the other,
        and what is derived follows. A type of which all is derived merges nothing in here.

        Parameters
        ----------
        step : MergeStep
            Both sides, their common ancestor, and the way to change the new version.
        """
        step.merge_keys(settle=self.merge_value)

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is type(self)
            and isinstance(other, Datatype)
            and other.info.data_uuid == self.info.data_uuid
            and other.version == self.version
        )

    def __hash__(self) -> int:
        return hash((self.info.data_uuid, self.version))

    def __repr__(self) -> str:
        where = repr(self.version)[1:-1] if self.info.versioned else f"unversioned in {self.repo.root[:12]}"
        return f"<{self.info.typename} {self.info.name!r} @ {where}>"


def _reopen(version: Version, data_uuid: str) -> Datatype:
    from dvid_dask.errors import UnknownInstance

    for max_age in (0.1, 0.0):
        info = version.datastore.state(max_age).repo(version.repo.id).by_data_uuid.get(data_uuid)
        if info is not None:
            return version.instance(info)
    raise UnknownInstance(f"repository {version.repo.root} has no data instance with UUID {data_uuid}")
