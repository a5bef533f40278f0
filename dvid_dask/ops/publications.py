"""What is kept beside a published volume, so that the next publication knows what it may keep of it.

=====================  ===================================================================================
``publication.json``   in the volume's folder: `Publication`; written last, there when the volume is whole
``publications.json``  in the folder around the volumes of several versions: which there are, and the latest
=====================  ===================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvid_dask.errors import Conflict, DvidError
from dvid_dask.versions.mutation import log_root

if TYPE_CHECKING:
    from dvid_dask.datatypes.base import Datatype
    from dvid_dask.versions import Version

__all__ = ["Entry", "Publication", "Publications", "enlist", "fingerprint", "read_list", "read_record", "write_record"]

RECORD = "publication.json"
LIST = "publications.json"
_TRIES = 20


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A published volume.

    Attributes
    ----------
    id
        Of this publication, random.
    repo, data
        UUIDs of the repository and of the data instance.
    version
        UUID of the version.
    instance, typename
        Name and type of the instance.
    options
        Format and what else decides which files there are.
    layouts
        How the files of each scale are made.
    fingerprint
        Of the instance at the version when it was published: see `fingerprint`.
    since
        UUID of the version from whose publication unchanged files were kept; empty if none was.
    date
        When it was complete, RFC 3339.
    job
        Name of the job that wrote it.
    updating
        Of one that is changed in place at this moment: UUID of the version that it will show, and name of the job.
    """

    publication: int = 1
    id: str
    repo: str
    data: str
    version: str
    instance: str
    typename: str
    options: dict[str, Any]
    layouts: list[dict[str, Any]]
    fingerprint: list[int]
    since: str = ""
    date: str
    job: str
    updating: list[str] = []


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A publication in a list of them: where it lies, seen from the list, and of what."""

    version: str
    path: str
    instance: str
    format: str
    date: str


class Publications(msgspec.Struct, frozen=True, kw_only=True):
    """Publications of versions of an instance, in the order in which they were made, and the path of the latest."""

    latest: str = ""
    publications: list[Entry] = []


def fingerprint(instance: Datatype) -> list[int]:
    """What differs when somebody forced a change onto a committed version, but not when its files were compacted."""
    amount = instance.view(0).measure()
    view = instance.version.tree(instance.info).view()
    changes = view.get(log_root(instance.info.id, instance.version.id))
    return [amount.keys, amount.bytes, int(changes or 0)]


def _read(url: str, name: str) -> tuple[bytes | None, Any]:
    import tensorstore as ts

    read = ts.KvStore.open(url).result().read(name).result()
    return (read.value if read.state == "value" else None), read.stamp.generation


def read_record(url: str) -> Publication | None:
    """The record of the volume in a folder; None where no complete one is.

    Raises
    ------
    Conflict
        If there is something else under its name, or the record of a later version of this package.
    """
    data, _ = _read(url, RECORD)
    if data is None:
        return None
    try:
        found = msgspec.json.decode(data, type=Publication)
    except msgspec.DecodeError as e:
        raise Conflict(f"{url}{RECORD} is no record of a publication: {e}") from None
    if found.publication != 1:
        raise Conflict(f"{url}{RECORD} was written by a later version of this program")
    return found


def write_record(url: str, record: Publication) -> None:
    """Put the record into a volume's folder, in place of an older one."""
    import tensorstore as ts

    ts.KvStore.open(url).result().write(RECORD, _pretty(record)).result()


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def read_list(url: str) -> Publications:
    """The list in a folder; an empty one where there is none."""
    return _parsed(url, _read(url, LIST)[0])


def _parsed(url: str, data: bytes | None) -> Publications:
    if data is None:
        return Publications()
    try:
        return msgspec.json.decode(data, type=Publications)
    except msgspec.DecodeError as e:
        raise Conflict(f"{url}{LIST} is no list of publications: {e}") from None


def enlist(url: str, entry: Entry, version: Version) -> None:
    """Add a publication to the list. It becomes the latest, unless that shows a descendant of the version."""
    import tensorstore as ts

    place = ts.KvStore.open(url).result()
    for _ in range(_TRIES):  # others may add theirs
        data, generation = _read(url, LIST)
        held = _parsed(url, data)
        others = [e for e in held.publications if e.path != entry.path]
        shown = next((e for e in others if e.path == held.latest), None)
        older = shown is not None and _is_ancestor(version, shown.version)
        made = Publications(latest=held.latest if older else entry.path, publications=[*others, entry])
        if place.write(LIST, _pretty(made), if_equal=generation).result().generation:
            return
    raise Conflict(f"{url}{LIST} is changed all the time by others")


def _is_ancestor(version: Version, uuid: str) -> bool:
    try:
        return version in version.repo[uuid].ancestors()
    except DvidError:  # a list may hold what other repositories published
        return False
