"""Limits on what is asked of other machines: how long, how often, how many at a time; and their errors as ours."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tensorstore as ts

from dvid_dask.errors import BrokenBase, DvidError, TooBusy, Unavailable

from .urls import scheme_of, shown

__all__ = [
    "CACHE_BYTES",
    "READ_SECONDS",
    "REQUESTS",
    "context",
    "deadline",
    "in_time",
    "is_remote",
    "slot",
    "translated",
]

T = TypeVar("T")

READ_SECONDS = 30.0
"""For an answer of no bytes. What is large gets the time that it takes at `MIN_RATE`."""

MIN_RATE = 1e6
"""Bytes per second."""

REQUESTS = 16
"""Reads of remote volumes that a process has under way: a slow bucket must not hold all threads of a server."""

WAIT_SECONDS = 5.0

CACHE_BYTES = 1 << 28
"""Decoded chunks of bases that a process keeps."""

_RETRIES = {"max_retries": 4, "initial_delay": "100ms", "max_delay": "2s"}

# A connection on which nothing comes is given up, so that the request is tried again on another one: else tensorstore
# keeps all later reads of the same chunk waiting for it. Read by tensorstore when it makes its first request.
_CURL = {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "10", "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1"}

# by the first word of tensorstore's messages; the others are transient, or may be
_BROKEN = frozenset({"NOT_FOUND", "FAILED_PRECONDITION", "DATA_LOSS", "INVALID_ARGUMENT", "OUT_OF_RANGE"})
_REFUSED = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})

_slots = threading.BoundedSemaphore(REQUESTS)
_used = _forked = False


def _after_fork() -> None:
    global _forked, _slots
    _forked = _used
    _slots = threading.BoundedSemaphore(REQUESTS)
    context.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def context() -> Any:
    """What tensorstore has for bases: few retries, and one bounded cache of chunks for all of them."""
    global _used
    _used = True
    for name, value in _CURL.items():
        os.environ.setdefault(name, value)
    retries = {f"{kind}_request_retries": _RETRIES for kind in ("http", "gcs", "s3")}
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}, **retries})


def check_process() -> None:
    """Refuse to read in the fork of a process that has read: tensorstore doesn't survive it."""
    if _forked:
        raise Unavailable(
            "this process was forked from one that read through tensorstore, which does not survive a fork; "
            "start workers with multiprocessing's 'spawn' or 'forkserver' method"
        )


def is_remote(url: str) -> bool:
    """Whether reading a URL asks another machine."""
    return scheme_of(url) not in ("file", "memory")


@contextlib.contextmanager
def slot(url: str) -> Iterator[None]:
    """A place among the reads of remote volumes; local URLs need none.

    Raises
    ------
    TooBusy
        All are taken, and none came free in time.
    """
    if not is_remote(url):
        yield
        return
    slots = _slots
    if not slots.acquire(timeout=WAIT_SECONDS):
        raise TooBusy(f"{REQUESTS} reads of remote volumes are under way, as many as are allowed: try again later")
    try:
        yield
    finally:
        slots.release()


def deadline(nbytes: int = 0) -> float:
    """Seconds that reading so many bytes may take."""
    return READ_SECONDS + nbytes / MIN_RATE


def translated(error: BaseException, url: str) -> DvidError:
    """The error of a library that read a volume as one of ours; without what signs requests."""
    if isinstance(error, DvidError):
        return error
    where, said = shown(url), shown(str(error))[:500]
    word = said.partition(":")[0]
    if isinstance(error, TimeoutError) or type(error).__name__ in ("FSTimeoutError", "ReadTimeoutError"):
        return Unavailable(f"{where} doesn't answer in time: try again later")
    if isinstance(error, (FileNotFoundError, KeyError)) or word in _BROKEN:
        return BrokenBase(f"{where} is gone, or is damaged: {said}")
    if isinstance(error, OSError) and not is_remote(url) and not isinstance(error, PermissionError):
        return BrokenBase(f"{where} can't be read: {said}")
    if isinstance(error, PermissionError) or word in _REFUSED:
        return Unavailable(f"{where} may not be read: {said}")
    return Unavailable(f"{where} can't be read at the moment: {said or type(error).__name__}")


def in_time(work: Callable[[], T], seconds: float) -> T:
    """What a function gives that has no limit of time of its own.

    Raises
    ------
    TimeoutError
        It takes longer. It goes on in a thread that doesn't keep the process alive.
    """
    done = threading.Event()
    out: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            out.append(work())
        except BaseException as e:
            failed.append(e)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True, name="read-base").start()
    if not done.wait(seconds):
        raise TimeoutError
    if failed:
        raise failed[0]
    return out[0]
