"""What the metadata tree stores: small records, as JSON, and the texts of time that DVID's clients read.

Struct order is the order of the JSON text; unknown fields are ignored on reading, so that a newer writer of the same
format can add some.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = [
    "Header",
    "InstanceInfo",
    "NodeRecord",
    "RepoRecord",
    "go_time",
    "log_line",
    "new_uuid",
    "now",
    "rfc3339",
]

FORMAT = 1

_HEX_UUID = re.compile(r"[0-9a-fA-F]{32}\Z")


def new_uuid() -> str:
    """A random version-4 UUID as DVID writes it: 32 lower-case hex digits."""
    return uuid.uuid4().hex


def is_hex_uuid(text: str) -> bool:
    """True for 32 hex digits, in either case."""
    return _HEX_UUID.match(text) is not None


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """The time as DVID's JSON shows it.

    Examples
    --------
    >>> rfc3339(datetime(2026, 3, 1, 12, 0, 0, 1500, tzinfo=UTC))
    '2026-03-01T12:00:00.001500Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def go_time(moment: datetime) -> str:
    """The time in Go's default text form, which DVID's mutation records hold.

    Examples
    --------
    >>> go_time(datetime(2026, 3, 1, 12, 0, 0, 1500, tzinfo=UTC))
    '2026-03-01 12:00:00.001500 +0000 UTC'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")


def log_line(moment: datetime, text: str) -> str:
    """One line of a repo's or node's log: the second, two blanks, the text.

    Examples
    --------
    >>> log_line(datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC), "proofread")
    '2026-03-01T12:00:00Z  proofread'
    """
    return f"{moment.astimezone(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}  {text}"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First record of the metadata tree: its format, the number of its last change, and the last ids given out."""

    format: int = FORMAT
    seq: int = 0
    repos: int = 0
    versions: int = 0
    instances: int = 0


class RepoRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A repository. `logged` counts the lines of its log, which lie under their own keys."""

    id: int
    root: str
    alias: str = ""
    description: str = ""
    passcode: str = ""
    properties: dict[str, Any] = {}
    created: datetime
    updated: datetime
    logged: int = 0


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A version.

    `tree` names its tree in the store; `conflicts` counts the keys a merge could not settle, `forced` the writes that
    were forced onto it after its commit.
    """

    id: int
    repo: int
    uuid: str
    branch: str = ""
    note: str = ""
    parents: tuple[int, ...] = ()
    locked: bool = False
    tree: str
    created: datetime
    updated: datetime
    logged: int = 0
    conflicts: int = 0
    forced: int = 0


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A data instance: what every datatype has in common, and its own `settings`.

    Attributes
    ----------
    id : int
        Number of the instance in the store, never given out twice.
    name, typename : str
        Its name in the repository and its datatype.
    data_uuid : str
        Identity that survives renaming.
    created_at : str
        UUID of the version at which it was made. It is visible from every version of the repository.
    versioned : bool
        False: one state for the whole repository, whatever the version and its lock.
    compression, checksum : str
        DVID's texts of the creation settings, kept for its clients. Storage here has its own codecs.
    syncs : tuple of str
        Data UUIDs of the instances whose events this one takes part in.
    tags : dict or None
        Free texts; None until some are set.
    settings : dict
        The type's own settings, JSON-able.
    """

    id: int
    repo: int
    name: str
    typename: str
    data_uuid: str
    created_at: str
    versioned: bool = True
    compression: str = "LZ4 compression, level -1"
    checksum: str = "No checksum"
    syncs: tuple[str, ...] = ()
    tags: dict[str, str] | None = None
    settings: dict[str, Any] = {}

    @property
    def prefix(self) -> bytes:
        """First bytes of all keys of this instance in a version's tree."""
        return b"%08x/" % self.id
