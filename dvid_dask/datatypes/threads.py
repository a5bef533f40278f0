"""One pool of threads for compiled kernels and codecs, which release the GIL."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["batches", "parallel", "stream_parallel"]

A = TypeVar("A")
B = TypeVar("B")

WORKERS = min(32, os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="kernels")


def batches(items: Iterable[A], size: int) -> Iterator[list[A]]:
    """Lists of `size` items, the last perhaps shorter.

    Examples
    --------
    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    it = iter(items)
    while batch := list(itertools.islice(it, size)):
        yield batch


def parallel(function: Callable[[A], B], items: Iterable[A], grain: int = 16) -> list[B]:
    """The function of every item, in order; `grain` items to a task, few items without the pool."""
    everything = items if isinstance(items, list) else list(items)
    if len(everything) <= grain or WORKERS == 1:
        return [function(i) for i in everything]
    tasks = [_pool().submit(_all, function, part) for part in batches(everything, grain)]
    return [result for task in tasks for result in task.result()]


def _all(function: Callable[[A], B], items: list[A]) -> list[B]:
    return [function(i) for i in items]


def stream_parallel(function: Callable[[A], B], items: Iterable[A], ahead: int = 4 * WORKERS) -> Iterator[B]:
    """`parallel` for a stream: at most `ahead` items are held beyond what the caller has taken."""
    pending: list[Future[B]] = []
    try:
        for item in items:
            pending.append(_pool().submit(function, item))
            if len(pending) >= ahead:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
    finally:
        for task in pending:
            task.cancel()
