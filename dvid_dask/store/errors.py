# ruff: noqa: N818 - field's words: a store full, a tree sealed
"""Errors of the store.

Every error is a `StoreError`; each also inherits the builtin that a caller would expect::

    StoreError (RuntimeError)
    ├── the store itself
    │   ├── StoreNotFound (FileNotFoundError)   no store at this place
    │   ├── StoreExists (FileExistsError)       something is already there
    │   ├── BadStore (ValueError)               damaged, foreign or incomplete files
    │   │   └── NewerFormat                     written by a newer release
    │   ├── StoreFull (OSError)                 no space, or over quota
    │   └── ReadOnly (PermissionError)          opened read-only, or no permission
    └── one tree
        ├── TreeNotFound (KeyError)
        ├── TreeExists (FileExistsError)
        ├── Sealed (PermissionError)            the tree is immutable
        └── Conflict                            other writers kept winning until time ran out
"""

from __future__ import annotations

import re


class StoreError(RuntimeError):
    """Base of all errors of the store; raised itself where no more specific one fits (a lost network, say)."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, OSError looks for an errno: these are sentences for people.
        return str(self.args[0]) if self.args else ""


class StoreNotFound(StoreError, FileNotFoundError):
    """There is no store at the given place."""


class StoreExists(StoreError, FileExistsError):
    """There is already a store, or something else, at the given place."""


class BadStore(StoreError, ValueError):
    """The store's files are damaged, incomplete or not ours."""


class NewerFormat(BadStore):
    """The store was written by a newer release of this package."""


class StoreFull(StoreError, OSError):
    """The disk or quota is full; the transaction left no trace."""


class ReadOnly(StoreError, PermissionError):
    """The store was opened read-only, or its place refuses this user's writes or reads."""


class TreeNotFound(StoreError, KeyError):
    """No tree has this name."""


class TreeExists(StoreError, FileExistsError):
    """A tree of this name exists."""


class Sealed(StoreError, PermissionError):
    """The tree is sealed: it is read, never written."""


class Conflict(StoreError):
    """Other writers changed what this transaction read, again and again, until its time ran out."""


_CODE = re.compile(r"^([A-Z_]+): ")
_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "ENOSPC", "EDQUOT", "EFBIG")
_DENIED = ("Permission denied", "Read-only file system", "Operation not permitted", "EACCES", "EROFS", "EPERM")


def code(error: Exception) -> str:
    """Return tensorstore's status code of an error (``"ABORTED"``, ``"NOT_FOUND"`` ...), or ``""``."""
    found = _CODE.match(str(error))
    return found[1] if found else ""


def is_conflict(error: Exception) -> bool:
    """Tell whether tensorstore refused a commit because another writer was faster."""
    return code(error) == "ABORTED"


def translate(error: Exception, doing: str, where: str) -> StoreError:
    """Turn an error of tensorstore or the system into one of this module's.

    Parameters
    ----------
    error
        What was raised.
    doing
        What was being done, as a verb phrase: ``"reading tree 'meta'"``.
    where
        URL of the store.
    """
    if isinstance(error, StoreError):
        return error
    text, status = str(error), code(error)
    if any(sign in text for sign in _FULL):
        return StoreFull(
            f"{where}: no space left while {doing}; free space or raise the quota, then try again ({text})"
        )
    if (
        status in ("PERMISSION_DENIED", "UNAUTHENTICATED")
        or isinstance(error, PermissionError)
        or any(sign in text for sign in _DENIED)
    ):
        return ReadOnly(f"{where}: permission denied while {doing}; check the owner and mode of its files ({text})")
    lost = status in ("NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE") or isinstance(error, FileNotFoundError)
    if lost or "Error decoding" in text:  # bits of a compressed node have many ways to be wrong
        return BadStore(
            f"{where}: a file of the pool is missing or damaged, found while {doing}. "
            "A view older than gc's grace period loses its files; else run fsck and restore what it names from a "
            f"backup ({text})"
        )
    if status == "ABORTED":
        return Conflict(f"{where}: another writer was faster while {doing}; try again ({text})")
    return StoreError(f"{where}: failed while {doing} ({text})")
