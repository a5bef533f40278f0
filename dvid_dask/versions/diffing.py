"""What differs between two versions: per data instance, key by key, at the cost of what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dvid_dask.errors import UnknownInstance, did_you_mean
from dvid_dask.store import prefix_end
from dvid_dask.versions.records import InstanceInfo

if TYPE_CHECKING:
    from dvid_dask.versions.version import Version

__all__ = ["InstanceDiff", "KeyChange", "VersionDiff"]


class KeyChange(msgspec.Struct, frozen=True):
    """A key that differs.

    Attributes
    ----------
    key : bytes
        Relative to the instance.
    kind : {"added", "removed", "changed"}
        On the way from the first version to the second.
    what : object
        The key as its datatype shows it: a text, a body id, a block coordinate.
    """

    key: bytes
    kind: Literal["added", "removed", "changed"]
    what: Any


class InstanceDiff:
    """What differs in one data instance. Iterating walks the two trees anew, in order of the keys."""

    def __init__(self, diff: VersionDiff, info: InstanceInfo) -> None:
        self._diff = diff
        self.info = info

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.info.name

    def __iter__(self) -> Iterator[KeyChange]:
        data = self._diff.new.instance(self.info)
        prefix = self.info.prefix
        for change in self._diff.changes(prefix):
            key = change.key[len(prefix) :]
            what = data.describe_change(key)
            if what is not None:
                yield KeyChange(key, change.kind, what)

    def counts(self) -> dict[str, int]:
        """Number of keys added, removed and changed, without bookkeeping."""
        found = Counter(change.kind for change in self)
        return {kind: found.get(kind, 0) for kind in ("added", "removed", "changed")}

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts().items() if n)
        return f"<InstanceDiff {self.name!r} [{self.info.typename}]: {counts or 'nothing'}>"


class VersionDiff(Mapping[str, InstanceDiff]):
    """What differs between two versions, by name of the data instance. Holds only instances that differ.

    Both versions are pinned when it is made, so it says the same however often it is read.
    """

    def __init__(self, old: Version, new: Version, names: Sequence[str] | None = None) -> None:
        self.old = old
        self.new = new
        self._views = old.tree().view(0), new.tree().view(0)
        infos = [i for i in new.repo.state().instances.values() if i.versioned and (names is None or i.name in names)]
        self._found: dict[str, InstanceDiff] = {}
        for info in infos:
            diff = InstanceDiff(self, info)
            if diff:
                self._found[info.name] = diff

    def changes(self, prefix: bytes) -> Iterator[Any]:
        """The store's changes below a prefix."""
        return self.old.datastore.store.diff(*self._views, prefix, prefix_end(prefix))

    def __getitem__(self, name: str) -> InstanceDiff:
        if name not in self._found:
            raise UnknownInstance(f"nothing differs in a data instance {name!r}{did_you_mean(name, self._found)}")
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        lines = [f"<VersionDiff {self.old.uuid[:12]} -> {self.new.uuid[:12]}: {len(self)} instances differ>"]
        return "\n".join([*lines, *(f"  {d!r}" for d in self.values())])
