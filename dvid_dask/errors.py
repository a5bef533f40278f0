# ruff: noqa: N818  (the names are the ones that the field and the builtins use: NotFound, not NotFoundError)
"""The one tree of errors, grouped by what a caller would do about them.

::

    DvidError                      everything this package raises on purpose
    ├── BadRequest                 ValueError       fix the value: the message says what was given and what is expected
    ├── UnknownVersion             KeyError         no version answers to this selector
    ├── AmbiguousVersion           LookupError      several do: give more of the UUID, or name the repository
    ├── UnknownInstance            KeyError         no data instance of that name in the repository
    ├── NotFound                   KeyError         no such key, blob, body, repository ... (HTTP 404)
    ├── LockedVersion              PermissionError  the version is committed: make a new version, or force
    ├── Forbidden                  PermissionError  the caller may not do this
    ├── Conflict                   RuntimeError     the name is taken, or somebody was first: look again, then retry
    │   └── LaterMutations                          later mutations depend on it: undo them first (HTTP 409)
    ├── NotSupported               NotImplementedError  this build or this datatype can't do it (HTTP 501)
    ├── TooBusy                    RuntimeError     try again later (HTTP 503)
    ├── Unavailable                RuntimeError     a service this one asks fails or is too slow (HTTP 503)
    └── BrokenBase                 RuntimeError     an adopted volume is gone or was changed: bring it back (HTTP 502)

Each class carries the HTTP status that DVID answers with, so the service needs one handler and no status codes of its
own. Errors of the store (`dvid_dask.store`) form their own tree below `StoreError`; those a caller of this layer can
do something about are turned into one of the above.

Examples
--------
>>> from dvid_dask import errors
>>> issubclass(errors.UnknownInstance, KeyError), errors.NotFound.status
(True, 404)
>>> str(errors.UnknownInstance("no data instance 'seg'"))
"no data instance 'seg'"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "AmbiguousVersion",
    "BadRequest",
    "BrokenBase",
    "Conflict",
    "DvidError",
    "Forbidden",
    "LaterMutations",
    "LockedVersion",
    "NotFound",
    "NotSupported",
    "TooBusy",
    "Unavailable",
    "UnknownInstance",
    "UnknownVersion",
    "did_you_mean",
]


class DvidError(Exception):
    """Base of all errors that this package raises on purpose.

    Attributes
    ----------
    status : int
        HTTP status of the answer; DVID answers practically every error with 400.
    """

    status: ClassVar[int] = 400

    def __str__(self) -> str:
        # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else type(self).__name__


class BadRequest(DvidError, ValueError):
    """A value can't be used; nothing was changed."""


class UnknownVersion(DvidError, KeyError):
    """No version answers to the selector."""


class AmbiguousVersion(DvidError, LookupError):
    """More than one version answers to the selector."""


class UnknownInstance(DvidError, KeyError):
    """The repository holds no data instance of that name."""


class NotFound(DvidError, KeyError):
    """The key, blob, body or other thing asked for is not there."""

    status = 404


class LockedVersion(DvidError, PermissionError):
    """The version is committed and takes no more changes."""


class Forbidden(DvidError, PermissionError):
    """The caller may not do this: no administrator, wrong passcode, or a store opened read-only."""


class Conflict(DvidError, RuntimeError):
    """The name is taken, or another process was first; nothing was changed."""


class LaterMutations(Conflict):
    """A mutation can't be undone or redone, since others built on it; nothing was changed.

    Attributes
    ----------
    mutations : tuple of int
        Their ids, oldest first; empty where none is known.
    """

    status = 409

    def __init__(self, message: str, mutations: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.mutations = tuple(mutations)


class NotSupported(DvidError, NotImplementedError):
    """The datatype or this build can't do what was asked."""

    status = 501


class TooBusy(DvidError, RuntimeError):
    """All slots are in use; the same request may succeed later."""

    status = 503


class Unavailable(DvidError, RuntimeError):
    """A service that has to be asked fails, breaks off or is too slow; the message says which and how."""

    status = 503


class BrokenBase(DvidError, RuntimeError):
    """The volume that an instance stands on is gone, is not what was adopted, or holds what can't be decoded."""

    status = 502


def did_you_mean(given: str, known: Iterable[str], *, show: int = 8) -> str:
    """Tail of an error message: the closest known names, or the list of what there is.

    Examples
    --------
    >>> did_you_mean("segmentaton", ["segmentation", "grayscale"])
    " (did you mean 'segmentation'?)"
    >>> did_you_mean("x", ["a", "b"])
    " (there are: 'a', 'b')"
    >>> did_you_mean("x", [])
    ' (there are none)'
    """
    names = sorted(known)
    if not names:
        return " (there are none)"
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    if not close:
        close = [n for n in names if n.lower() == given.lower()]
    if close:
        return f" (did you mean {' or '.join(map(repr, close))}?)"
    listed = ", ".join(map(repr, names[:show]))
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return f" (there are: {listed}{more})"
