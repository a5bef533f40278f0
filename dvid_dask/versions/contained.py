"""What a repository holds, by name: its versions by UUID, its data instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dvid_dask.errors import UnknownInstance, UnknownVersion, did_you_mean
from dvid_dask.versions.records import InstanceInfo

if TYPE_CHECKING:
    from dvid_dask.versions.repo import Repo
    from dvid_dask.versions.version import Version

__all__ = ["Instances", "Versions"]


class Versions(Mapping[str, "Version"]):
    """The versions of a repository by UUID, oldest first."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo

    def __getitem__(self, uuid: str) -> Version:
        from dvid_dask.versions.version import Version

        at = self._repo.datastore.state().uuids.get(uuid)
        if at is None or at[0] != self._repo.id:
            raise UnknownVersion(f"no version {uuid!r} in repository {self._repo.root}")
        return Version(self._repo, at[1])

    def __iter__(self) -> Iterator[str]:
        return iter([n.uuid for _, n in sorted(self._repo.state().nodes.items())])

    def __len__(self) -> int:
        return len(self._repo.state().nodes)

    def __repr__(self) -> str:
        return "\n".join([f"<Versions of {self._repo.root[:12]}: {len(self)}>", *(f"  {v!r}" for v in self.values())])


class Instances(Mapping[str, InstanceInfo]):
    """The data instances of a repository by name."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo

    def __getitem__(self, name: str) -> InstanceInfo:
        found = self._repo.state().instances.get(name)
        if found is None:
            known = did_you_mean(str(name), self._repo.state().instances)
            raise UnknownInstance(f"no data instance {name!r} in repository {self._repo.root}{known}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._repo.state().instances)

    def __len__(self) -> int:
        return len(self._repo.state().instances)

    def __repr__(self) -> str:
        lines = [f"  {i.name}  [{i.typename}]{'' if i.versioned else '  unversioned'}" for i in self.values()]
        return "\n".join([f"<Instances of {self._repo.root[:12]}: {len(self)}>", *lines])
