"""Whether what instances store agrees with itself, version by version.

Each datatype knows what in it depends on what; see `Datatype.disagreements`. A version whose keys of an instance are
those of its parent says nothing new about it and isn't looked at again.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from dvid_dask.errors import DvidError
from dvid_dask.store import StoreError, prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.versions.datastore import Datastore
    from dvid_dask.versions.repo import Repo

__all__ = ["ContentsReport", "check_contents"]

#: Of one instance at one version so many disagreements are listed; with as many, the rest of it isn't looked at.
LISTED = 100


class ContentsReport(msgspec.Struct, frozen=True):
    """What `Datastore.check_contents` found.

    Attributes
    ----------
    problems : list of str
        What disagrees, with version and instance. Clients may have asked for it: blocks posted without an index, an
        index of their own, voxels without coarser scales.
    checked, same_as_parent : int
        Pairs of a version and an instance that were looked at, and that hold what a parent holds.
    """

    problems: list[str]
    checked: int
    same_as_parent: int

    @property
    def ok(self) -> bool:
        """True when everything agrees."""
        return not self.problems


def check_contents(datastore: Datastore, *, progress: Callable[[str], object] | None = None) -> ContentsReport:
    """Look for contents that disagree; see `Datastore.check_contents`."""
    problems: list[str] = []
    checked = same = 0
    for root in datastore.repos:
        for data in _instances(datastore.repos[root]):
            where = f"{data.name} at version {data.version.uuid}"
            if data.info.versioned and _as_parent(data):
                same += 1
                continue
            checked += 1
            if progress is not None:
                progress(where)
            found: list[str] = []
            try:
                for text in itertools.islice(data.disagreements(), LISTED):
                    found.append(text)  # one by one: what was found before an error counts
            except (DvidError, StoreError, ValueError) as error:  # stored values that don't decode
                found.append(f"can't be read: {error}")
            problems.extend(f"{where}: {text}" for text in found)
            if len(found) >= LISTED:
                problems.append(f"{where}: there may be more; the rest was not looked at")
    return ContentsReport(problems=problems, checked=checked, same_as_parent=same)


def _instances(repo: Repo) -> Iterator[Datatype]:
    """Every instance at every version where it may differ, parents first."""
    state = repo.state()
    for vid in sorted(state.nodes):
        version = repo[state.nodes[vid].uuid]
        for info in state.instances.values():
            if info.versioned or vid == state.root.id:
                yield version.instance(info)


def _as_parent(data: Datatype) -> bool:
    """Whether the instance, and all that it follows, holds what it holds at a parent."""
    version = data.version
    here = version.tree().view(0)
    store = version.datastore.store
    named = version.repo.state().by_data_uuid
    prefixes = [data.info.prefix, *(named[s].prefix for s in data.info.syncs if s in named and named[s].versioned)]
    return any(
        all(next(store.diff(parent.tree().view(0), here, p, prefix_end(p)), None) is None for p in prefixes)
        for parent in version.parents
    )
