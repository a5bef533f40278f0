"""The largest label of every version, computed anew from what is stored: label index and mapping.

A version's tree is its parent's with changes, so only the first version is read whole; of every other one just what
differs from its first parent, at the cost of the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvid_dask.datatypes.labelmap import LabelMap, extents, keys
from dvid_dask.datatypes.labelmap.index import Index
from dvid_dask.datatypes.labelmap.mapping import Mapping
from dvid_dask.errors import Conflict, NotSupported
from dvid_dask.ops import job
from dvid_dask.ops.index import ranges_of_bodies

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype, Mutation, Space, TxSpace

__all__ = ["MaxLabelReport", "VersionMax", "repair_max_labels"]


@dataclass(frozen=True)
class VersionMax:
    """The largest label of a version, or of the whole repository.

    Attributes
    ----------
    uuid
        The version; empty for the repository.
    stored
        What is recorded.
    found
        What index and mapping of the version and its ancestors have; 0 if there is none.
    new
        What the record should be, or has become.
    """

    uuid: str
    stored: int
    found: int
    new: int


@dataclass(frozen=True)
class MaxLabelReport:
    """What `repair_max_labels` found.

    Attributes
    ----------
    versions
        Oldest first.
    repository
        The largest id ever written or handed out, from which new ids are counted on.
    committed
        Whether it was put right.
    """

    versions: tuple[VersionMax, ...]
    repository: VersionMax
    committed: bool

    @property
    def ok(self) -> bool:
        """Whether there was nothing to do."""
        return all(v.stored == v.new for v in (*self.versions, self.repository))

    def __str__(self) -> str:
        lines = [self._line(f"version {v.uuid}", v) for v in self.versions]
        return "\n".join([*lines, self._line("repo-wide max", self.repository, ":")])

    def _line(self, name: str, v: VersionMax, colon: str = ":") -> str:
        if v.stored == v.new:
            more = "" if v.found == v.stored else f", recomputed {v.found}, unchanged"
        else:
            more = f", {'set' if self.committed else 'would set'} to recomputed {v.new}"
        return f"{name}{colon} stored max {v.stored}{more}"


def repair_max_labels(
    instance: Datatype, *, commit: bool = False, lower: bool = False, client: Any = None
) -> MaxLabelReport:
    """Compare the largest label of each version with index and mapping, and put it right if asked.

    Records that are too small are raised: a new id could otherwise meet an old one. Records that are larger than
    anything found stay, because ids may have been handed out that nobody has used yet.

    Parameters
    ----------
    instance
        A labelmap, at any version: all versions of its repository are looked at.
    commit
        Write; also to committed versions. Otherwise only say what would be done.
    lower
        Also lower what is larger than anything found, after a wrong `maxlabel`, say. Ids that were handed out and not
        used yet may then be handed out again.
    client
        As for `ingest`.

    Raises
    ------
    Conflict
        If a record was changed while it was to be lowered: try again.
    NotSupported
        If the instance is no labelmap, or keeps no index.

    Examples
    --------
    >>> import numpy as np
    >>> import dvid_dask
    >>> repo = dvid_dask.create("memory://").new_repo("fly")
    >>> seg = repo.new_instance("labelmap", "segmentation")
    >>> seg.write(np.full((64, 64, 64), 7, np.uint64), (0, 0, 0))
    >>> report = repair_max_labels(seg)
    >>> report.ok, report.repository.found
    (True, 7)
    """
    if not isinstance(instance, LabelMap) or not instance.indexed:
        raise NotSupported(f"{instance.name!r} ({instance.info.typename}) has no label index to compare with")
    client = job.find_client(client)
    job.check_reach(client, instance)
    repo = instance.repo
    listed = list(repo.versions.values()) if instance.info.versioned else [instance.version]
    seen = [v[instance.name] for v in listed]
    found: dict[str, int] = {}
    lines: list[VersionMax] = []
    own = _evidence([s for s in seen if isinstance(s, LabelMap)], client)
    for at, label in zip(seen, own, strict=True):
        if not isinstance(at, LabelMap):
            raise NotSupported(f"{at.name!r} is a {at.info.typename}")
        parents = [p.uuid for p in at.version.parents] if instance.info.versioned else []
        largest = max([label, *(found[p] for p in parents)])
        found[at.version.uuid] = largest
        lines.append(_repair(at, largest, commit, lower))
    return MaxLabelReport(tuple(lines), _repair_counter(instance, max(found.values()), commit, lower), commit)


def _repair(at: LabelMap, found: int, commit: bool, lower: bool) -> VersionMax:
    stored = at.max_label()
    new = _target(stored, found, lower)

    def put_right(_: Mutation, space: TxSpace) -> None:
        if new < stored:
            if extents.max_label(space) != stored:
                raise Conflict(f"the largest label of version {at.version.uuid} was changed meanwhile: try again")
            space.delete_prefix(keys.MAX_LABEL)
        extents.raise_max_label(space, new)

    if commit and new != stored:
        at.mutate(put_right, force=True)
    return VersionMax(at.version.uuid, stored, found, new)


def _repair_counter(instance: LabelMap, found: int, commit: bool, lower: bool) -> VersionMax:
    labels = instance.next_labels
    stored = labels.largest
    new = _target(stored, found, lower)
    if commit and new > stored:
        labels.raise_to(new)
    elif commit and new < stored:
        labels.lower_to(new)
    return VersionMax("", stored, found, new)


def _target(stored: int, found: int, lower: bool) -> int:
    return found if found > stored or (lower and found) else stored


# ------------------------------------------------------------------ what there is


def _evidence(seen: list[LabelMap], client: Any) -> list[int]:
    """For each version the largest label in what it has beyond its first parent, as Dask tasks."""
    from dask import compute, delayed

    tasks: list[list[Any]] = []
    for at in seen:
        parents = at.version.parents if at.info.versioned else []
        if parents:
            tasks.append([delayed(_in_changes, pure=False)(parents[0][at.name], at)])
            continue
        space = at.view(0)
        edges = ranges_of_bodies(Index(space))
        parts = [delayed(_in_index, pure=False)(space, a, b) for a, b in itertools.pairwise(edges)]
        tasks.append([*parts, delayed(_in_mapping, pure=False)(space)])
    flat = [t for group in tasks for t in group]
    results = compute(*flat) if client is None else client.gather(client.compute(flat))
    values = iter(results)
    return [max(int(next(values)) for _ in group) for group in tasks]


def _in_index(space: Space, start: int, stop: int) -> int:
    largest = 0
    for body, rows in Index(space).scan_all_rows(start, None if stop >= 1 << 64 else stop):
        largest = max(largest, body, int(rows.supervoxel.max(initial=np.uint64(0))))
    return largest


def _in_mapping(space: Space) -> int:
    return max((_top(ids, bodies) for ids, bodies in Mapping(space).scan()), default=0)


def _top(*columns: Any) -> int:
    return max(int(c.max(initial=0)) for c in columns)


def _in_changes(parent: LabelMap, at: LabelMap) -> int:
    """The largest label in index records and mapping pages that differ between two versions."""
    space = at.view(0)
    index, mapping = Index(space), Mapping(space)
    largest = 0
    for kind, number in _changed(parent, at):
        if kind == keys.BODY:
            for rows in index.scan_rows(number):
                largest = max(largest, number, int(rows.supervoxel.max(initial=np.uint64(0))))
        else:
            largest = max([largest, *(_top(*page) for page in mapping.scan(number, number + 1))])
    return largest


def _changed(parent: LabelMap, at: LabelMap) -> Iterator[tuple[bytes, int]]:
    diff = parent.version.diff(at.version, instance=at.name)
    changes: Iterable[Any] = diff.get(at.name, ())
    for change in changes:
        kind = change.key[:1]
        if change.kind == "removed":
            continue
        if kind == keys.BODY:
            yield kind, keys.body_of(change.key)
        elif kind == keys.MAPPING:
            yield kind, keys.mapping_page_of(change.key)
